CREATE SERVER kafka FOREIGN DATA WRAPPER weir_kafka
	OPTIONS (bootstrap_servers :'bootstrap');

CREATE FOREIGN TABLE clicks (
	user_id int,
	page    text,
	ts      timestamptz,
	key     text OPTIONS (metadata 'key')
) SERVER kafka OPTIONS (topic 'clicks', format 'json');

-- Tumbling: each click is in one window.
CREATE TABLE clicks_tumbling
WITH (weir.continuous, weir.watermark = '30 seconds')
AS SELECT user_id, weir.tumble(ts, '5 minutes') AS win,
          count(*) AS clicks, count(*) FILTER (WHERE page = '/buy') AS purchases
   FROM clicks GROUP BY user_id, win;

-- Sliding: a window of five minutes begins every minute, so each click is in five.
CREATE TABLE clicks_sliding
WITH (weir.continuous, weir.watermark = '30 seconds')
AS SELECT user_id, weir.hop(ts, '1 minute', '5 minutes') AS win,
          count(*) AS clicks, count(*) FILTER (WHERE page = '/buy') AS purchases
   FROM clicks GROUP BY user_id, win;
