CREATE SERVER kafka FOREIGN DATA WRAPPER weir_kafka
	OPTIONS (bootstrap_servers :'bootstrap');

CREATE FOREIGN TABLE app_events (
	user_id int,
	screen  text,
	ts      timestamptz,
	key     text OPTIONS (metadata 'key')
) SERVER kafka OPTIONS (topic 'app_events', format 'json');

-- A visit is over when nothing has happened for half an hour.  A phone without
-- reception keeps its events for up to a day; what they change is corrected.
CREATE TABLE sessions
WITH (weir.continuous, weir.watermark = '5 minutes', weir.allowed_lateness = '24 hours')
AS SELECT user_id, weir.session(ts, '30 minutes') AS visit,
          count(*) AS events, count(*) FILTER (WHERE screen = 'pay') AS payments
   FROM app_events GROUP BY user_id, visit;

-- A copy of the visits that are over, as another service would keep it, and how
-- far it has read.
CREATE TABLE visits (
	user_id  int NOT NULL,
	visit    tstzrange NOT NULL,
	events   bigint NOT NULL,
	payments bigint NOT NULL,
	PRIMARY KEY (user_id, visit)
);
CREATE TABLE reader (last bigint NOT NULL);
INSERT INTO reader VALUES (0);
