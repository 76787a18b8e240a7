-- The busiest user around the watermark: what has closed, what is still counting.
\pset footer off
SELECT weir.watermark('clicks_sliding')::time(0) AS watermark, user_id,
	lower(win)::time AS from, upper(win)::time AS to, clicks, purchases,
	CASE WHEN weir.is_closed('clicks_sliding', win) THEN 'closed' ELSE 'counting' END AS "window"
FROM clicks_sliding
WHERE user_id = 1 AND win && tstzrange(weir.watermark('clicks_sliding') - '90 seconds'::interval, weir.watermark('clicks_sliding'))
	AND upper(win) <= weir.watermark('clicks_sliding') + '90 seconds'::interval
ORDER BY win;
