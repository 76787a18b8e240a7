-- What is wrong, if anything: PostgreSQL's own computation over the topic, with
-- none of our functions.
CREATE TEMP TABLE topic AS SELECT * FROM item_views;

SELECT 'the topic has not all of the script' WHERE (SELECT count(*) FROM topic) <> (SELECT count(*) FROM script);

CREATE TEMP TABLE truth AS
SELECT item, tstzrange(start, start + interval '5 minutes') AS win, count(*) AS views
FROM topic, date_bin('30 seconds', ts, '2000-01-01Z') AS last,
	generate_series(last - interval '270 seconds', last, '30 seconds') AS start
GROUP BY item, start;

(TABLE truth EXCEPT ALL TABLE item_popularity) UNION ALL (TABLE item_popularity EXCEPT ALL TABLE truth);

-- The ten, now.
(SELECT item, views, win FROM truth
 WHERE win = (SELECT win FROM truth WHERE upper(win) <= weir.watermark('item_popularity') ORDER BY upper(win) DESC LIMIT 1)
 ORDER BY views DESC, item LIMIT 10)
EXCEPT SELECT item, views, win FROM trending;

-- The ten as they were shown, each time: no late view has changed them since.
SELECT s.* FROM shown AS s LEFT JOIN truth AS t USING (item, win, views) WHERE t.item IS NULL;

-- And item 77 led while the world spoke of it.
SELECT 'item 77 never came first' WHERE NOT EXISTS (SELECT FROM shown WHERE item = 77 AND place = 1);
