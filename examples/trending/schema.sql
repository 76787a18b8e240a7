CREATE SERVER kafka FOREIGN DATA WRAPPER weir_kafka
	OPTIONS (bootstrap_servers :'bootstrap');

CREATE FOREIGN TABLE item_views (
	item    int,
	user_id int,
	ts      timestamptz,
	key     text OPTIONS (metadata 'key')
) SERVER kafka OPTIONS (topic 'item_views', format 'json');

-- A window of five minutes every thirty seconds.
CREATE TABLE item_popularity
WITH (weir.continuous, weir.watermark = '15 seconds')
AS SELECT item, weir.hop(ts, '30 seconds', '5 minutes') AS win, count(*) AS views
   FROM item_views GROUP BY item, win;

CREATE INDEX ON item_popularity (upper(win), views DESC);

-- The ranking is SQL over the view: the ten first of the window that closed last.
CREATE VIEW trending AS
SELECT row_number() OVER (ORDER BY views DESC, item) AS place, item, views, win
FROM item_popularity
WHERE upper(win) = date_bin('30 seconds', weir.watermark('item_popularity'), '2000-01-01Z')
ORDER BY views DESC, item
LIMIT 10;
