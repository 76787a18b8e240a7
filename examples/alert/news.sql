-- What the changelog has since the last time.  A minute that was given is an
-- alert; one that was taken back and not given again is none any more.
SELECT last FROM reader \gset
SELECT coalesce(max(weir_seq), :last) AS upto FROM error_rate_changes WHERE weir_seq > :last \gset

SELECT CASE sum(weir_diff) WHEN 1 THEN 'ALERT' ELSE 'CLEAR' END, service, lower(win)::time, upper(win)::time,
	CASE sum(weir_diff) WHEN 1 THEN (array_agg(percent || ' % of ' || requests || ' requests have failed' ORDER BY weir_seq DESC))[1] END
FROM error_rate_changes
WHERE weir_seq > :last AND weir_seq <= :upto
GROUP BY service, win HAVING sum(weir_diff) <> 0
ORDER BY max(weir_seq);

-- Said is said: after a crash between the two it is said again.
UPDATE reader SET last = :upto;
