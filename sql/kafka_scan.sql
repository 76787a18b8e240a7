--
-- SELECT on a Kafka foreign table: the topic as it is now.
--
-- The oracle is an ordinary table with the rows that were produced (by a
-- program that shares no code with the extension).
--
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pg_weir;
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';
\getenv bootstrap WEIR_BOOTSTRAP
CREATE SERVER scan_kafka FOREIGN DATA WRAPPER weir_kafka
	OPTIONS (bootstrap_servers :'bootstrap', timeout '20s');
CREATE FOREIGN TABLE scan_clicks (
	user_id	bigint,
	gone	text,
	url		text,
	amount	numeric,
	country	text OPTIONS (path 'geo.country'),
	part	int OPTIONS (metadata 'partition'),
	off		bigint OPTIONS (metadata 'offset'),
	at		timestamptz OPTIONS (metadata 'timestamp'),
	k		text OPTIONS (metadata 'key'),
	h		jsonb OPTIONS (metadata 'headers')
) SERVER scan_kafka OPTIONS (topic 'scan_clicks');
ALTER FOREIGN TABLE scan_clicks DROP COLUMN gone;

CREATE TABLE scan_sent AS
SELECT i AS user_id, '/' || i % 7 AS url, i / 4.0 AS amount,
	CASE WHEN i % 5 > 0 THEN 'c' || i % 5 END AS country,
	i % 4 AS part, (i / 4)::bigint AS off,
	'2024-01-01 00:00:00+00'::timestamptz + i * interval '1 s' AS at,
	'k' || i AS k, jsonb_build_array(jsonb_build_array('h', 'v' || i)) AS h
FROM generate_series(0::bigint, 3999) AS i;
\copy (SELECT part, k, json_build_object('url', url, 'user_id', user_id, 'amount', amount::text, 'geo', json_build_object('country', country), 'other', '[1]'::json), extract(epoch FROM at)::bigint * 1000, 'h=v' || user_id FROM scan_sent ORDER BY user_id) TO PROGRAM '"$WEIR_TOOLS/weir_produce" --bootstrap="$WEIR_BOOTSTRAP" --topic=scan_clicks'

CREATE VIEW scan_difference AS
(TABLE scan_clicks EXCEPT ALL TABLE scan_sent)
UNION ALL (TABLE scan_sent EXCEPT ALL TABLE scan_clicks);
SELECT count(*) FROM scan_clicks;
SELECT * FROM scan_difference;

-- Conditions on partition, offset and time narrow what is read; whatever they
-- are, the answer is that of the ordinary table.
CREATE FUNCTION scan_check(condition text, OUT pushed text, OUT offsets text, OUT same boolean)
LANGUAGE plpgsql AS $$
DECLARE
	line text;
	a text; b text;
BEGIN
	FOR line IN EXECUTE 'EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) SELECT * FROM scan_clicks WHERE ' || condition LOOP
		pushed := coalesce(pushed, substring(line FROM 'Pushed Conditions: (.*)'));
		offsets := coalesce(offsets, substring(line FROM 'Offsets Read: (.*)'));
	END LOOP;
	EXECUTE 'SELECT md5(string_agg(t::text, '';'' ORDER BY user_id)) FROM scan_clicks t WHERE ' || condition INTO a;
	EXECUTE 'SELECT md5(string_agg(t::text, '';'' ORDER BY user_id)) FROM scan_sent t WHERE ' || condition INTO b;
	same := a IS NOT DISTINCT FROM b;
	-- 17 has a name for it
	pushed := replace(pushed, '(InitPlan 1).col1', '$0');
END $$;
SELECT condition, pushed, offsets, same
FROM unnest(ARRAY[
	'part = 1', '2 <= part', 'part < 1', 'part > 2', 'part = 7', 'part = -1',
	'part IN (0, 3, 9)', 'part = ANY (''{1,NULL}''::bigint[])', 'part IN (1, 2) AND part <> 1', 'part IN (0, 1) AND part IN (2, 3)',
	'part = 2::bigint AND off = 10', 'part = 3 AND off BETWEEN 5 AND 7', 'off < 3', '998 <= off', 'off > 998::int2',
	'off > 9223372036854775806', 'off > 5 AND off < 5', 'off = 3 OR part = 1', 'off = NULL', 'part = 1 AND off >= 990 AND url = ''/1''',
	'part = 1 AND off = (SELECT 5)', 'part = 1 AND off < length(''four'')', 'part = 1 AND off < random() * 0 + 2',
	'at >= ''2024-01-01 01:00''', 'part = 0 AND at > ''2024-01-01 01:00''', 'part = 1 AND at = ''2024-01-01 00:00:05''',
	'part = 1 AND at < ''2024-01-01 00:00:09''', 'part = 1 AND at >= ''-infinity''', 'part = 1 AND at >= ''infinity''',
	'part + 0 = 1 AND off < 2', 'k = ''k7''', 'user_id = 7 AND h @> ''[["h", "v7"]]'''
]) AS condition, scan_check(condition);

-- A column that rounds shows 01:00:00 for a message of 00:59:59.7, which the
-- broker does not find from there on: such a condition stays here.
CREATE FOREIGN TABLE scan_seconds (at timestamptz(0) OPTIONS (metadata 'timestamp'))
	SERVER scan_kafka OPTIONS (topic 'scan_clicks');
EXPLAIN (COSTS OFF) SELECT * FROM scan_seconds WHERE at >= '2024-01-01 01:00';
ALTER FOREIGN TABLE scan_seconds ALTER at TYPE timestamptz(3);
EXPLAIN (COSTS OFF) SELECT * FROM scan_seconds WHERE at >= '2024-01-01 01:00';
DROP FOREIGN TABLE scan_seconds;

-- Values that come at run time: parameters, and a join's other side.
SET plan_cache_mode = force_generic_plan;
PREPARE at_offset(int, bigint) AS SELECT user_id FROM scan_clicks WHERE part = $1 AND off = $2;
EXPLAIN (COSTS OFF) EXECUTE at_offset(1, 2);
EXECUTE at_offset(1, 2);
EXECUTE at_offset(3, 999);
EXECUTE at_offset(3, NULL);
RESET plan_cache_mode;
SELECT x, n FROM (VALUES (0), (2), (NULL), (3)) AS v(x),
	LATERAL (SELECT count(*) AS n FROM scan_clicks WHERE part = x AND off < x + 1) AS c;

-- Whole rows, row marks, system columns, joins, limits, cursors.
SELECT t FROM scan_clicks AS t WHERE part = 0 AND off = 1;
SELECT tableoid::regclass, count(*) FROM scan_clicks GROUP BY 1;
SELECT user_id FROM scan_clicks WHERE part = 0 AND off = 1 FOR UPDATE;
SELECT count(*) FROM scan_clicks AS a JOIN scan_clicks AS b USING (user_id, url);
SELECT count(*) FROM (SELECT * FROM scan_clicks LIMIT 10) AS ten;
CREATE FUNCTION threads() RETURNS int LANGUAGE sql AS
	$$ SELECT count(*)::int FROM pg_ls_dir('/proc/' || pg_backend_pid() || '/task') $$;
-- a thread that has ended its work may take a moment to leave
CREATE FUNCTION threads_left() RETURNS int LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1..100 LOOP
		EXIT WHEN threads() = 1;
		PERFORM pg_sleep(0.05);
	END LOOP;
	RETURN threads();
END$$;
BEGIN;
DECLARE c CURSOR FOR SELECT user_id FROM scan_clicks WHERE part = 1;
FETCH 2 FROM c;
SELECT threads() > 1 AS reading;
SAVEPOINT s;
FETCH 1 FROM c;
SELECT 1 / 0;
ROLLBACK TO s;
FETCH 1 FROM c;
CLOSE c;
SELECT threads_left();
ROLLBACK;

-- However a statement ends, librdkafka's threads end with it.
SELECT 1 / (user_id - 100) FROM scan_clicks ORDER BY 1 LIMIT 1;
SELECT threads_left();
DO $$
BEGIN
	FOR i IN 1..5 LOOP
		BEGIN
			PERFORM 1 / (user_id - 100) FROM scan_clicks;
		EXCEPTION WHEN division_by_zero THEN NULL;
		END;
	END LOOP;
END $$;
SELECT threads_left();

-- A message that cannot be decoded.
CREATE FOREIGN TABLE scan_bad (n int, off bigint OPTIONS (metadata 'offset'))
	SERVER scan_kafka OPTIONS (topic 'scan_bad');
\copy (SELECT 0, NULL, v FROM unnest(ARRAY['{"n": 1}', '{"n": "x"}', '[]', NULL, '{"n": 99999999999}', '{', '{"n": null}', '{"n": 2}']) AS v) TO PROGRAM '"$WEIR_TOOLS/weir_produce" --bootstrap="$WEIR_BOOTSTRAP" --topic=scan_bad'
SELECT * FROM scan_bad WHERE off < 1;
SELECT * FROM scan_bad;
\set VERBOSITY sqlstate
SELECT * FROM scan_bad WHERE off = 2;
SELECT * FROM scan_bad WHERE off = 4;
\set VERBOSITY default
ALTER FOREIGN TABLE scan_bad OPTIONS (scan_errors 'skip');
SELECT * FROM scan_bad;
-- also when it is an input function that refuses
CREATE DOMAIN odd AS int CHECK (VALUE % 2 = 1);
ALTER FOREIGN TABLE scan_bad ALTER COLUMN n TYPE odd;
SELECT * FROM scan_bad;
ALTER FOREIGN TABLE scan_bad OPTIONS (DROP scan_errors);
SELECT * FROM scan_bad WHERE off = 7;

-- Other formats.
CREATE FOREIGN TABLE scan_csv (a int, b text, c date) SERVER scan_kafka
	OPTIONS (topic 'scan_csv', format 'csv', delimiter ';');
CREATE FOREIGN TABLE scan_text (line text) SERVER scan_kafka
	OPTIONS (topic 'scan_csv', format 'text');
CREATE FOREIGN TABLE scan_bytes (line bytea) SERVER scan_kafka
	OPTIONS (topic 'scan_csv', format 'bytes');
\copy (SELECT 0, NULL, v FROM unnest(ARRAY['1;one;2024-01-01', '2;"a;b""";', '3;"";2024-12-31']) AS v) TO PROGRAM '"$WEIR_TOOLS/weir_produce" --bootstrap="$WEIR_BOOTSTRAP" --topic=scan_csv'
SELECT *, b IS NULL AS null FROM scan_csv;
SELECT * FROM scan_text;
SELECT length(line), line = convert_to('2;"a;b""";', 'UTF8') AS second FROM scan_bytes;

-- A topic is a log.
UPDATE scan_clicks SET url = 'x';
DELETE FROM scan_clicks;
TRUNCATE scan_clicks;

-- Nobody there.
CREATE SERVER scan_nobody FOREIGN DATA WRAPPER weir_kafka
	OPTIONS (bootstrap_servers '127.0.0.1:1', timeout '500ms');
CREATE FOREIGN TABLE scan_nothing (a int) SERVER scan_nobody OPTIONS (topic 't');
EXPLAIN (COSTS OFF) SELECT * FROM scan_nothing;
\set VERBOSITY terse
SELECT * FROM scan_nothing;
\set VERBOSITY sqlstate
SELECT * FROM scan_nothing;
INSERT INTO scan_nothing VALUES (1);
\set VERBOSITY default
SELECT threads_left();

-- Privileges are Postgres' own.
CREATE ROLE scan_user;
SET ROLE scan_user;
SELECT count(*) FROM scan_clicks;
RESET ROLE;
GRANT SELECT ON scan_clicks TO scan_user;
SET ROLE scan_user;
SELECT count(*) FROM scan_clicks;
CREATE SERVER mine FOREIGN DATA WRAPPER weir_kafka OPTIONS (bootstrap_servers 'h');
RESET ROLE;
DROP OWNED BY scan_user;
DROP ROLE scan_user;

DROP SERVER scan_kafka CASCADE;
DROP SERVER scan_nobody CASCADE;
DROP TABLE scan_sent;
DROP DOMAIN odd;
DROP FUNCTION threads_left(), threads(), scan_check(text);
