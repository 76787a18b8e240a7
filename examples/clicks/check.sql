-- What is wrong, if anything: PostgreSQL's own computation over the topic, with
-- none of our functions, against the views and their changelogs.
CREATE TEMP TABLE topic AS SELECT * FROM clicks;

SELECT 'the topic has not all of the script' WHERE (SELECT count(*) FROM topic) <> (SELECT count(*) FROM script);

CREATE TEMP VIEW true_tumbling AS
SELECT user_id, tstzrange(start, start + interval '5 minutes') AS win,
	count(*) AS clicks, count(*) FILTER (WHERE page = '/buy') AS purchases
FROM topic, date_bin('5 minutes', ts, '2000-01-01Z') AS start
GROUP BY user_id, start;

CREATE TEMP VIEW true_sliding AS
SELECT user_id, tstzrange(start, start + interval '5 minutes') AS win,
	count(*) AS clicks, count(*) FILTER (WHERE page = '/buy') AS purchases
FROM topic, date_bin('1 minute', ts, '2000-01-01Z') AS last,
	generate_series(last - interval '4 minutes', last, '1 minute') AS start
GROUP BY user_id, start;

(TABLE true_tumbling EXCEPT ALL TABLE clicks_tumbling) UNION ALL (TABLE clicks_tumbling EXCEPT ALL TABLE true_tumbling);
(TABLE true_sliding EXCEPT ALL TABLE clicks_sliding) UNION ALL (TABLE clicks_sliding EXCEPT ALL TABLE true_sliding);

-- A changelog, added up, is the windows that have closed.
SELECT user_id, win, clicks, purchases, sum(times) FROM (
	SELECT user_id, win, clicks, purchases, weir_diff AS times FROM clicks_sliding_changes
	UNION ALL
	SELECT *, -1 FROM true_sliding WHERE upper(win) <= weir.watermark('clicks_sliding')
) AS both_sides
GROUP BY user_id, win, clicks, purchases HAVING sum(times) <> 0;
