CREATE SERVER kafka FOREIGN DATA WRAPPER weir_kafka
	OPTIONS (bootstrap_servers :'bootstrap');

-- Each region writes into a partition of its own.
CREATE FOREIGN TABLE requests (
	service text,
	status  int,
	ts      timestamptz,
	region  int OPTIONS (metadata 'partition')
) SERVER kafka OPTIONS (topic 'requests', format 'json');

-- More than one request in twenty has failed within a minute: such minutes are the
-- rows of this view, and no other.  All that becomes of them is in its changelog,
-- also while the minute is not over.
CREATE TABLE error_rate
WITH (weir.continuous, weir.changelog = 'all', weir.publish_interval = '200 ms')
AS SELECT service, weir.hop(ts, '20 seconds', '1 minute') AS win,
          count(*) AS requests, count(*) FILTER (WHERE status >= 500) AS errors,
          round(100.0 * count(*) FILTER (WHERE status >= 500) / count(*), 1) AS percent
   FROM requests GROUP BY service, win
   HAVING count(*) >= 100 AND count(*) FILTER (WHERE status >= 500) > 0.05 * count(*);

-- How far the listener has read.
CREATE TABLE reader (last bigint NOT NULL);
INSERT INTO reader VALUES (0);
