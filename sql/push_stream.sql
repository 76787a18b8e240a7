--
-- Push streams: foreign tables without a store.  What is inserted goes to the
-- WAL, and from there to the continuous views over the stream.
--
-- Runs in WEIR_TEST builds only, which can show what a message holds.
--
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pg_weir;
CREATE ROLE regress_weir_pusher;
GRANT CREATE ON SCHEMA public TO regress_weir_pusher;
RESET client_min_messages;
SET timezone = 'UTC';

-- The server comes with the extension, and everybody may make streams.
SET ROLE regress_weir_pusher;
CREATE FOREIGN TABLE pushed (
	id int NOT NULL,
	kind text DEFAULT 'plain',
	amount numeric CHECK (amount > 0),
	twice int GENERATED ALWAYS AS (id * 2) STORED
) SERVER weir_stream;

-- It has one option.
CREATE FOREIGN TABLE bad (id int) SERVER weir_stream OPTIONS (topic 'x');
CREATE FOREIGN TABLE bad (id int) SERVER weir_stream OPTIONS (unconsumed 'maybe');
CREATE FOREIGN TABLE bad (id int OPTIONS (unconsumed 'discard')) SERVER weir_stream;
CREATE USER MAPPING FOR regress_weir_pusher SERVER weir_stream OPTIONS (password 'x');

-- Nothing is stored, so there is nothing to read or to change.
SELECT * FROM pushed;
SELECT * FROM pushed LIMIT 0;
UPDATE pushed SET id = 1;
DELETE FROM pushed;
TRUNCATE pushed;
COPY pushed TO stdout;
EXPLAIN (COSTS OFF) SELECT id FROM pushed WHERE kind = 'plain';
EXPLAIN (COSTS OFF) INSERT INTO pushed VALUES (1);

-- Rows that nobody would ever read are refused, unless they may be dropped.
INSERT INTO pushed VALUES (1);
COPY pushed (id) FROM stdin;
1
\.
ALTER FOREIGN TABLE pushed OPTIONS (ADD unconsumed 'discard');
INSERT INTO pushed VALUES (1), (2);
INSERT INTO pushed VALUES (NULL);
ALTER FOREIGN TABLE pushed OPTIONS (SET unconsumed 'error');
INSERT INTO pushed VALUES (1);
RESET ROLE;

-- The key of the messages is for C code alone.
SET ROLE regress_weir_pusher;
SELECT * FROM weir_data.secret;
RESET ROLE;
GRANT pg_read_all_data TO regress_weir_pusher;
SET ROLE regress_weir_pusher;
SELECT * FROM weir_data.secret;
RESET ROLE;
REVOKE pg_read_all_data FROM regress_weir_pusher;
SELECT count(*), min(length(key)) FROM weir_data.secret;

-- With a view there is somebody to read.  A transaction that has written must
-- not wait for its slot, which would wait for the transaction; others wait.
SET ROLE regress_weir_pusher;
BEGIN;
CREATE TABLE pushed_kinds WITH (weir.continuous) AS
	SELECT kind, count(*) AS n, sum(amount) AS amount FROM pushed GROUP BY kind;
INSERT INTO pushed VALUES (1);
ROLLBACK;
CREATE TABLE pushed_kinds WITH (weir.continuous) AS
	SELECT kind, count(*) AS n, sum(amount) AS amount FROM pushed GROUP BY kind;
INSERT INTO pushed VALUES (1);
SELECT weir.wait_for('pushed_kinds');
TABLE pushed_kinds;
RESET ROLE;

-- A second reader, to look at what is written: all messages since the last look.
SELECT 1 AS made FROM pg_create_logical_replication_slot('weir_push_stream', 'test_decoding');
CREATE FUNCTION weir_test_stream_rows(message bytea, xid xid, stream regclass)
RETURNS SETOF text
AS '$libdir/pg_weir', 'weir_test_stream_rows' LANGUAGE C STRICT;
CREATE TEMP TABLE messages (n serial, xid xid, message bytea);
CREATE PROCEDURE look() LANGUAGE plpgsql AS $$
BEGIN
	DELETE FROM messages;
	INSERT INTO messages (xid, message)
		SELECT d.xid, substring(d.data FROM position('content:'::bytea IN d.data) + 8)
		FROM pg_logical_slot_get_binary_changes('weir_push_stream', NULL, NULL,
												'skip-empty-xacts', '1') d
		WHERE substring(d.data FOR 41) = 'message: transactional: 1 prefix: pg_weir'::bytea;
END $$;
CREATE FUNCTION looked(stream regclass) RETURNS SETOF text LANGUAGE sql AS $$
	SELECT weir_test_stream_rows(message, xid, stream) FROM messages ORDER BY n
$$;

-- Defaults, generated columns and constraints are those of a table.
INSERT INTO pushed (id, amount) VALUES (1, 1.50), (2, NULL) RETURNING *;
INSERT INTO pushed VALUES (NULL, 'no id');
INSERT INTO pushed VALUES (3, 'negative', -1);
INSERT INTO pushed VALUES (4, 'given', 1, 9);
COPY pushed (id, kind, amount) FROM stdin;
5	copied	0
\.
COPY pushed (id, kind, amount) FROM stdin;
5	copied	5
6	copied	\N
\.
INSERT INTO pushed VALUES (7) ON CONFLICT (id) DO NOTHING;
INSERT INTO pushed VALUES (7) ON CONFLICT DO NOTHING;
WITH i AS (INSERT INTO pushed SELECT g, 'cte' FROM generate_series(8, 9) g RETURNING id)
SELECT sum(id) FROM i;
PREPARE push(int) AS INSERT INTO pushed VALUES ($1, 'prepared');
EXECUTE push(10);
EXECUTE push(11);
DEALLOCATE push;
CREATE VIEW pushed_through AS SELECT id, kind FROM pushed;
INSERT INTO pushed_through VALUES (12, 'through a view');
INSERT INTO pushed SELECT 13 WHERE false;
CALL look();
SELECT * FROM looked('pushed');

-- Rows share the fate of their transaction and of its savepoints.
BEGIN;
INSERT INTO pushed VALUES (20, 'rolled back');
ROLLBACK;
BEGIN;
INSERT INTO pushed VALUES (21, 'kept');
SAVEPOINT a;
INSERT INTO pushed VALUES (22, 'rolled back');
SAVEPOINT b;
INSERT INTO pushed VALUES (23, 'rolled back');
RELEASE b;
ROLLBACK TO a;
INSERT INTO pushed VALUES (24, 'kept');
SAVEPOINT c;
INSERT INTO pushed VALUES (25, 'kept');
RELEASE c;
COMMIT;

-- The same within one statement: a function that inserts by itself, and whose
-- rows are undone, while the statement around it goes on.
CREATE FUNCTION push_inside(i int) RETURNS int LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO pushed VALUES (i + 100, 'inner');
	IF i % 2 = 0 THEN
		RAISE division_by_zero;
	END IF;
	RETURN i;
EXCEPTION WHEN division_by_zero THEN
	RETURN -i;
END $$;
INSERT INTO pushed SELECT push_inside(g), 'outer' FROM generate_series(26, 29) g;

-- A statement that fails leaves nothing, however much it had written.
INSERT INTO pushed SELECT g, repeat('x', 1000), 1000 - g FROM generate_series(1, 2000) g;
CALL look();
SELECT * FROM looked('pushed');

-- Triggers see the rows; one that inserts into another stream works, too.
CREATE FOREIGN TABLE pushed_log (what text) SERVER weir_stream OPTIONS (unconsumed 'discard');
CREATE FUNCTION on_push() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF TG_WHEN = 'BEFORE' THEN
		IF NEW.id = 31 THEN
			RETURN NULL;
		END IF;
		NEW.kind := NEW.kind || ' by trigger';
	ELSE
		INSERT INTO pushed_log VALUES (NEW.kind);
		IF NEW.id < 1000 THEN
			INSERT INTO pushed VALUES (NEW.id + 1000, 'after');
		END IF;
	END IF;
	RETURN NEW;
END $$;
CREATE TRIGGER before_push BEFORE INSERT ON pushed FOR EACH ROW EXECUTE FUNCTION on_push();
CREATE TRIGGER after_push AFTER INSERT ON pushed FOR EACH ROW EXECUTE FUNCTION on_push();
INSERT INTO pushed VALUES (30, 'changed'), (31, 'left out');
COPY pushed (id) FROM stdin;
32
\.
DROP TRIGGER before_push ON pushed;
DROP TRIGGER after_push ON pushed;
CALL look();
SELECT * FROM looked('pushed') ORDER BY 1;
DROP FOREIGN TABLE pushed_log;

-- Many rows travel in few messages, and none is forgotten.
INSERT INTO pushed SELECT g, 'many' FROM generate_series(1, 20000) g;
CALL look();
SELECT count(*) BETWEEN 5 AND 20 AS few, max(length(message)) < 70000 AS small FROM messages;
SELECT count(*), count(DISTINCT r), sum((r::pushed).id) FROM looked('pushed') r;

-- As a partition.  Rows come by routing, by COPY and by an UPDATE elsewhere.
CREATE TABLE routed (id int, region text NOT NULL) PARTITION BY LIST (region);
CREATE TABLE routed_eu PARTITION OF routed FOR VALUES IN ('eu');
CREATE FOREIGN TABLE routed_us PARTITION OF routed FOR VALUES IN ('us') SERVER weir_stream;
INSERT INTO routed VALUES (1, 'eu');
INSERT INTO routed VALUES (1, 'us');
CREATE TABLE routed_count WITH (weir.continuous) AS SELECT count(*) AS n FROM routed_us;
SELECT weir.wait_for('routed_count');
INSERT INTO routed VALUES (2, 'us'), (3, 'eu'), (4, 'us');
COPY routed FROM stdin;
5	us
6	eu
7	us
\.
UPDATE routed SET region = 'us' WHERE region = 'eu' AND id = 3;
INSERT INTO routed_us VALUES (8, 'eu');
INSERT INTO routed_us VALUES (9, 'us');
SELECT * FROM routed WHERE region = 'eu';
CALL look();
SELECT * FROM looked('routed_us');
SELECT weir.wait_for('routed_count');
TABLE routed_count;
DROP TABLE routed_count, routed;

-- Values of every shape come back as they were: by value and by reference, NULLs,
-- out of line, compressed, in arrays and composites, behind a dropped column.
CREATE TYPE push_pair AS (word text, number numeric);
CREATE DOMAIN push_name AS text CHECK (length(VALUE) < 1000000);
\set columns 'b bool, c "char", s smallint, i int, l bigint, f real, d float8, n numeric, t text, v varchar(40), bp char(5), nm name, u uuid, ts timestamptz, day date, iv interval, ia int[], ta text[], p push_pair, pa push_pair[], j jsonb, r tstzrange, dom push_name, bits varbit, mac macaddr, net inet, pt point, raw bytea'
CREATE TABLE samples (:columns);
ALTER TABLE samples ALTER t SET STORAGE EXTERNAL;
SELECT setseed(0.25);
INSERT INTO samples
SELECT random() < 0.5, chr(65 + g % 26)::"char",
	g, g * 1000, g * 10000000000, random(), random() * 1e10,
	round((random() * 1e6)::numeric, g % 10),
	repeat(md5(g::text), g % 50), left(md5(g::text), g % 40), left(md5(g::text), 5),
	md5(g::text), md5(g::text)::uuid,
	timestamptz '2020-01-01' + g * interval '1 hour', date '2020-01-01' + g,
	g * interval '1 day 1 second', ARRAY[g, NULL, g + 1],
	ARRAY(SELECT repeat('é', k) FROM generate_series(0, g % 7) k),
	ROW(md5(g::text), g)::push_pair, ARRAY[ROW('x', NULL)::push_pair, NULL],
	jsonb_build_object('g', g, 'a', ARRAY[1, g]),
	tstzrange(timestamptz '2020-01-01', timestamptz '2020-01-01' + g * interval '1 s'),
	'name ' || g, (g::bit(20))::varbit, '08:00:2b:01:02:03', '10.0.0.1/24',
	point(g, -g), decode(md5(g::text), 'hex')
FROM generate_series(1, 200) g;
INSERT INTO samples (t) VALUES
	((SELECT string_agg(md5(k::text), '') FROM generate_series(1, 33000) k)),
	(repeat('compressible', 90000)), (NULL), ('');
INSERT INTO samples (p, ta, raw, j, dom) SELECT
	ROW(repeat(md5('a'), 4000), 1)::push_pair,
	ARRAY(SELECT repeat(md5(k::text), 20) FROM generate_series(1, 100) k),
	(SELECT decode(string_agg(md5(k::text), ''), 'hex') FROM generate_series(1, 1000) k),
	jsonb_build_object('x', repeat('y', 100000)), repeat('z', 50000);
DO $$
DECLARE
	name text;
BEGIN
	FOR name IN SELECT attname FROM pg_attribute
		WHERE attrelid = 'samples'::regclass AND attnum > 0
	LOOP
		EXECUTE format('UPDATE samples SET %I = NULL WHERE random() < 0.1', name);
	END LOOP;
END $$;
CREATE FOREIGN TABLE sampled (gone int, :columns) SERVER weir_stream;
ALTER FOREIGN TABLE sampled DROP COLUMN gone;
CREATE TABLE sampled_count WITH (weir.continuous) AS SELECT count(*) AS n FROM sampled;
SELECT weir.wait_for('sampled_count');
INSERT INTO sampled SELECT * FROM samples;
CREATE FUNCTION push_samples() RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	one samples;
	n bigint = 0;
BEGIN
	FOR one IN SELECT * FROM samples LOOP
		one.ta := one.ta || 'expanded'::text;	-- an expanded array
		INSERT INTO sampled VALUES (one.*);
		n := n + 1;
	END LOOP;
	RETURN n;
END $$;
CALL look();
SELECT count(*), max(length(r)) > 1000000 AS large FROM looked('sampled') r;
SELECT left(r, 100) FROM looked('sampled') r EXCEPT ALL SELECT left(samples::text, 100) FROM samples;
SELECT count(*) AS differ FROM (
	(SELECT r FROM looked('sampled') r EXCEPT ALL SELECT samples::text FROM samples) UNION ALL
	(SELECT samples::text FROM samples EXCEPT ALL SELECT r FROM looked('sampled') r)) d;
SELECT push_samples() = count(*) AS as_many FROM samples;
UPDATE samples SET ta = ta || 'expanded'::text;
CALL look();
SELECT left(r, 100) FROM looked('sampled') r EXCEPT ALL SELECT left(samples::text, 100) FROM samples;
SELECT count(*) AS differ FROM (
	(SELECT r FROM looked('sampled') r EXCEPT ALL SELECT samples::text FROM samples) UNION ALL
	(SELECT samples::text FROM samples EXCEPT ALL SELECT r FROM looked('sampled') r)) d;

-- A message is read in the shape that the stream has by then: a column that went
-- is left out, one that came or has another type is NULL, the others are right.
ALTER FOREIGN TABLE sampled DROP COLUMN t, DROP COLUMN pt, ADD COLUMN came int DEFAULT 1,
	ALTER COLUMN i TYPE text, ALTER COLUMN ia TYPE bigint;
ALTER TABLE samples DROP COLUMN t, DROP COLUMN pt, ADD COLUMN came int,
	ALTER COLUMN i TYPE text USING NULL, ALTER COLUMN ia TYPE bigint USING NULL;
SELECT count(*) FROM looked('sampled');
SELECT left(r, 100) FROM looked('sampled') r EXCEPT ALL SELECT left(samples::text, 100) FROM samples;
SELECT count(*) AS differ FROM (
	(SELECT r FROM looked('sampled') r EXCEPT ALL SELECT samples::text FROM samples) UNION ALL
	(SELECT samples::text FROM samples EXCEPT ALL SELECT r FROM looked('sampled') r)) d;

-- A column that a view reads keeps its type.
\set VERBOSITY terse
ALTER FOREIGN TABLE pushed ALTER COLUMN kind TYPE varchar(5);
ALTER FOREIGN TABLE pushed DROP COLUMN kind;
\set VERBOSITY default

-- A row has a limit.
INSERT INTO pushed VALUES (40, repeat('x', 17 * 1024 * 1024));
INSERT INTO pushed VALUES (40, repeat('x', 15 * 1024 * 1024));
CALL look();
SELECT count(*) AS messages, max(length(message)) FROM messages;
SELECT length(r) FROM looked('pushed') r;

-- What somebody else has written is not believed.  A row of a few columns, of
-- which every bit is turned over once, every end cut off, and which is put into
-- another transaction or for another stream.
CREATE FOREIGN TABLE forged (id int, word text, number numeric) SERVER weir_stream;
CREATE FOREIGN TABLE forged_too (id int, word text, number numeric) SERVER weir_stream;
CREATE TABLE forged_count WITH (weir.continuous) AS SELECT count(*) AS n FROM forged;
SELECT weir.wait_for('forged_count');
INSERT INTO forged VALUES (1, 'right', 1.5), (2, NULL, NULL);
CALL look();
SELECT * FROM looked('forged');
SELECT count(*) > 500 AS tries, count(r) AS believed
FROM messages, generate_series(0, length(message) * 8 - 1) bit
	LEFT JOIN LATERAL weir_test_stream_rows(set_bit(message, bit, 1 - get_bit(message, bit)),
		xid, 'forged') r ON true;
SELECT count(*) > 100 AS tries, count(r) AS believed
FROM messages, generate_series(0, length(message) - 1) len
	LEFT JOIN LATERAL weir_test_stream_rows(substring(message FOR len), xid, 'forged') r ON true;
SELECT count(*) > 100 AS tries, count(r) AS believed
FROM messages, generate_series(1, 200) len
	LEFT JOIN LATERAL weir_test_stream_rows(message || substring(message FOR len), xid, 'forged') r ON true;
SELECT count(r) AS believed
FROM messages LEFT JOIN LATERAL weir_test_stream_rows(message, (xid::text::bigint + 1)::text::xid, 'forged') r ON true;
SELECT count(r) AS believed
FROM messages LEFT JOIN LATERAL weir_test_stream_rows(message, xid, 'forged_too') r ON true;
SELECT count(r) AS believed
FROM messages LEFT JOIN LATERAL weir_test_stream_rows(
	set_byte(set_byte(message, 8, get_byte(int4send('forged_too'::regclass::oid::int), 3)),
			 9, get_byte(int4send('forged_too'::regclass::oid::int), 2)),
	xid, 'forged_too') r ON true;
-- any transaction can write any message: the view counts none of them
DO $$
DECLARE
	m bytea;
BEGIN
	FOR m IN SELECT message FROM messages LOOP
		PERFORM pg_logical_emit_message(true, 'pg_weir', m);
		PERFORM pg_logical_emit_message(true, 'pg_weir', substring(m FOR 40));
		PERFORM pg_logical_emit_message(true, 'pg_weir', set_byte(m, 40, 77));
		PERFORM pg_logical_emit_message(false, 'pg_weir', m);
	END LOOP;
	PERFORM pg_logical_emit_message(true, 'pg_weir', ''::bytea);
	PERFORM pg_logical_emit_message(true, 'pg_weir', 'text');
END $$;
INSERT INTO forged VALUES (3, 'right', 2.5);
SELECT weir.wait_for('forged_count');
TABLE forged_count;

-- All of the above reached the views.
SELECT weir.wait_for('sampled_count'), weir.wait_for('pushed_kinds');
SELECT n = 2 * (SELECT count(*) FROM samples) AS all_of_them FROM sampled_count;
SELECT left(kind, 20) AS kind, n, amount FROM pushed_kinds ORDER BY 1;
-- but for the row of 15 MB, whose key is too long for a group
SELECT source, sqlstate, message, partition, "offset", lsn IS NOT NULL AS has_lsn FROM weir.dead_letters WHERE view = 'pushed_kinds'::regclass;

-- Without its last view, a stream refuses again.
DROP TABLE forged_count;
INSERT INTO forged VALUES (4, 'nobody reads', 1);
SELECT pg_drop_replication_slot('weir_push_stream');
SET client_min_messages = warning;
DROP FOREIGN TABLE pushed, sampled, forged, forged_too CASCADE;
DROP TABLE samples, messages;
DROP TYPE push_pair;
DROP DOMAIN push_name;
DROP FUNCTION weir_test_stream_rows, push_inside, on_push, push_samples;
DROP PROCEDURE look;
DROP FUNCTION looked;
REVOKE CREATE ON SCHEMA public FROM regress_weir_pusher;
DROP ROLE regress_weir_pusher;
