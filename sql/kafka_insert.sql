--
-- INSERT into a Kafka foreign table produces; what is read back is what was
-- inserted.
--
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pg_weir;
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';
\getenv bootstrap WEIR_BOOTSTRAP
CREATE SERVER insert_kafka FOREIGN DATA WRAPPER weir_kafka
	OPTIONS (bootstrap_servers :'bootstrap', timeout '20s');

-- Every kind of type, and NULL, through JSON, whatever the session's settings.
CREATE TYPE insert_pair AS (x int, y text);
CREATE TABLE insert_rows (
	id int, b boolean, i2 smallint, i8 bigint, f4 real, f8 double precision,
	n numeric, t text, c "char", u uuid, d date, ts timestamp, tz timestamptz,
	iv interval, j json, jb jsonb, a int[], at text[], p insert_pair, by bytea,
	r int4range, nested text);
INSERT INTO insert_rows VALUES
	(1, true, -1, 9223372036854775807, 1.1, 0.1::float8 + 0.2, 1.10, E'"q" \\ \t\n é 漢 \u0001', 'x',
	 '01234567-89ab-cdef-0123-456789abcdef', '2024-02-29', '2024-02-29 12:34:56.789', '2024-02-29 12:34:56.789012+00',
	 '1 mon 2 days 03:04:05.678', '{"a": [1, 2.50]}', '{"a": [1, 2.50]}', '{1,NULL,3}', '{a,"b c",NULL}', '(1,"a b")', '\xdeadbeef',
	 '[1,5)', 'deep'),
	(2, false, 0, 0, 'NaN', '-Infinity', 'NaN', '', '', NULL, '0001-01-01 BC', '-infinity', 'infinity',
	 '0', 'null', '"s"', '{}', '{}', '(,)', '', 'empty', ''),
	(3, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
	(4, true, 1, 1, 1e30, 1e-300, 1e40, repeat('long', 10000), 'y', NULL, '9999-12-31', '9999-12-31 23:59:59', '2000-01-01 00:00+14',
	 '-1 year', '[]', '{}', '{{1,2},{3,4}}', '{"\""}', '(2,)', '\x00', '(,)', 'null');
CREATE FOREIGN TABLE insert_json (
	id int, b boolean, i2 smallint, i8 bigint, f4 real, f8 double precision,
	n numeric, t text, c "char", u uuid, d date, ts timestamp, tz timestamptz,
	iv interval, j json, jb jsonb, a int[], at text[], p insert_pair, by bytea,
	r int4range, nested text OPTIONS (path 'one.two.three'))
	SERVER insert_kafka OPTIONS (topic 'insert_json');
SET datestyle = 'German, DMY'; SET intervalstyle = 'sql_standard'; SET extra_float_digits = -3;
INSERT INTO insert_json SELECT * FROM insert_rows;
RESET extra_float_digits; SET datestyle = 'ISO, YMD'; RESET intervalstyle;
SELECT count(*) FROM insert_json;
SELECT id, k.key, k.value AS sent, g.value AS got
FROM insert_rows AS sent_row JOIN insert_json AS got_row USING (id),
	LATERAL jsonb_each(to_jsonb(sent_row)) AS k JOIN LATERAL jsonb_each(to_jsonb(got_row)) AS g USING (key)
WHERE k.value IS DISTINCT FROM g.value ORDER BY 1, 2;
CREATE FOREIGN TABLE insert_raw (line text) SERVER insert_kafka OPTIONS (topic 'insert_json', format 'text');
SELECT v->'one' AS nested, v->'b' AS b, v->'n' AS n, v->'tz' AS tz
FROM insert_raw, LATERAL (SELECT line::json AS v) AS j
WHERE v->>'id' IN ('1', '2', '3') ORDER BY v->>'id';

-- CSV.
CREATE FOREIGN TABLE insert_csv (a int, b text, c numeric, k text OPTIONS (metadata 'key'))
	SERVER insert_kafka OPTIONS (topic 'insert_csv', format 'csv', "null" 'N');
CREATE TABLE insert_csv_rows (a int, b text, c numeric, k text);
INSERT INTO insert_csv_rows VALUES (1, 'plain', 1.5, NULL), (2, 'a,"b"' || E'\n' || 'c', NULL, 'key'),
	(NULL, 'N', NULL, ''), (4, '', 0, NULL), (5, NULL, 1, 'k'), (6, ' sp ', 2, 'k');
INSERT INTO insert_csv TABLE insert_csv_rows;
(TABLE insert_csv EXCEPT ALL TABLE insert_csv_rows) UNION ALL (TABLE insert_csv_rows EXCEPT ALL TABLE insert_csv);

-- Text and bytes: one value column; NULL is a tombstone, which no scan shows.
CREATE FOREIGN TABLE insert_text (v text, k bytea OPTIONS (metadata 'key'))
	SERVER insert_kafka OPTIONS (topic 'insert_text', format 'text');
CREATE FOREIGN TABLE insert_bytes (v bytea, k bytea OPTIONS (metadata 'key'))
	SERVER insert_kafka OPTIONS (topic 'insert_text', format 'bytes');
INSERT INTO insert_text VALUES ('one', '\x00ff'), (NULL, 'gone'), ('', NULL);
INSERT INTO insert_bytes VALUES ('\x74776f', NULL);
SELECT * FROM insert_bytes ORDER BY v;
CREATE FOREIGN TABLE insert_two (a text, b text) SERVER insert_kafka OPTIONS (topic 'insert_text', format 'text');
INSERT INTO insert_two VALUES ('a', 'b');

-- What surrounds the value.
CREATE FOREIGN TABLE insert_meta (
	n int, part int OPTIONS (metadata 'partition'), off bigint OPTIONS (metadata 'offset'),
	at timestamptz OPTIONS (metadata 'timestamp'), k text OPTIONS (metadata 'key'), h jsonb OPTIONS (metadata 'headers')
) SERVER insert_kafka OPTIONS (topic 'insert_meta');
INSERT INTO insert_meta (n, part, at, k, h) VALUES
	(1, 2, '2024-05-05 05:05:05.123456', 'one', '[["a", "x"], ["a", null], ["ü", "\"漢\""]]') RETURNING *;
INSERT INTO insert_meta (n, k) SELECT i, 'same' FROM generate_series(2, 21) AS i;
INSERT INTO insert_meta (n) VALUES (22);
SELECT * FROM insert_meta WHERE n = 1;
SELECT count(*), count(DISTINCT part) AS partitions, min(off) AS first,
	array_agg(n ORDER BY off) = array_agg(n ORDER BY n) AS in_order FROM insert_meta WHERE k = 'same';
-- where Java's default partitioner puts this key among four
SELECT DISTINCT part FROM insert_meta WHERE k = 'same';
SELECT now() - at < interval '1 hour' AS recent, h FROM insert_meta WHERE n = 22;
INSERT INTO insert_meta (n, part) VALUES (0, 4);
INSERT INTO insert_meta (n, part) VALUES (0, -1);
INSERT INTO insert_meta (n, off) VALUES (0, 0);
INSERT INTO insert_meta (n, at) VALUES (0, '1969-12-31');
INSERT INTO insert_meta (n, at) VALUES (0, 'infinity');
INSERT INTO insert_meta (n, h) VALUES (0, '{"a": "b"}');
INSERT INTO insert_meta (n, h) VALUES (0, '[["a", 1]]');
INSERT INTO insert_meta (n, h) VALUES (0, '[["a"]]');
SELECT count(*) FROM insert_meta WHERE n = 0;

-- ROLLBACK cannot undo it, so a block is refused, and all that is like one.
BEGIN;
INSERT INTO insert_meta (n) VALUES (100);
ROLLBACK;
CREATE FUNCTION insert_it(n int) RETURNS void LANGUAGE plpgsql AS $$ BEGIN INSERT INTO insert_meta (n) VALUES ($1); END $$;
CREATE FUNCTION insert_sql(n int) RETURNS void LANGUAGE sql AS $$ INSERT INTO insert_meta (n) VALUES ($1) $$;
SELECT insert_it(100);
SELECT insert_sql(100);
DO $$ BEGIN INSERT INTO insert_meta (n) VALUES (100); END $$;
BEGIN;
COPY insert_meta (n) FROM STDIN;
100
\.
ROLLBACK;
SELECT count(*) FROM insert_meta WHERE n = 100;
BEGIN;
SET LOCAL weir.produce_in_transaction = on;
INSERT INTO insert_meta (n) VALUES (101);
SELECT insert_it(102), insert_sql(103);
ROLLBACK;
SELECT n FROM insert_meta WHERE n > 100 ORDER BY 1;

-- All that is one statement is accepted.
EXPLAIN (COSTS OFF) INSERT INTO insert_meta (n) VALUES (200);
PREPARE ins AS INSERT INTO insert_meta (n) VALUES ($1);
EXECUTE ins(201);
COPY insert_meta (n, k) FROM STDIN;
202	copied
203	\N
\.
WITH i AS (INSERT INTO insert_meta (n) VALUES (204) RETURNING n) SELECT n + 1 AS next FROM i;
CREATE TABLE insert_parted (n int, k text) PARTITION BY RANGE (n);
CREATE TABLE insert_here PARTITION OF insert_parted FOR VALUES FROM (0) TO (205);
CREATE FOREIGN TABLE insert_there (n int, k text OPTIONS (metadata 'key'))
	SERVER insert_kafka OPTIONS (topic 'insert_meta');
ALTER TABLE insert_parted ATTACH PARTITION insert_there FOR VALUES FROM (205) TO (300);
INSERT INTO insert_parted VALUES (204, 'here'), (205, 'there'), (206, NULL);
SELECT tableoid::regclass, * FROM insert_parted WHERE n BETWEEN 204 AND 206 ORDER BY 1::text, 2;
SELECT n, k FROM insert_meta WHERE n >= 200 ORDER BY n;

-- A row that fails ends the statement; what was sent before it stays.
INSERT INTO insert_meta (n, k) SELECT 300 + i, repeat('x', CASE i WHEN 3 THEN 2000000 ELSE 1 END) FROM generate_series(1, 5) AS i;
SELECT count(*) FROM insert_meta WHERE n > 302;
SELECT count(*) AS threads FROM pg_ls_dir('/proc/' || pg_backend_pid() || '/task');

-- Many rows.
INSERT INTO insert_csv (a, b) SELECT i, 'row ' || i FROM generate_series(10, 20009) AS i;
SELECT count(*), count(DISTINCT a), sum(a) FROM insert_csv WHERE a >= 10;

-- Columns that have no place in an object.
CREATE FOREIGN TABLE insert_clash (a int OPTIONS (path 'x'), b int OPTIONS (path 'x.y'))
	SERVER insert_kafka OPTIONS (topic 'insert_clash');
INSERT INTO insert_clash VALUES (1, 2);

DROP TABLE insert_parted;
DROP SERVER insert_kafka CASCADE;
DROP TABLE insert_rows, insert_csv_rows;
DROP TYPE insert_pair;
DROP FUNCTION insert_it(int), insert_sql(int);
