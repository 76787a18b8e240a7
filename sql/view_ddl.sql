-- Continuous views as tables: create, rename, hand over, drop, refuse.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pg_weir;
\getenv bootstrap WEIR_BOOTSTRAP
CREATE ROLE regress_weir_app;
CREATE ROLE regress_weir_reader;
CREATE SCHEMA app AUTHORIZATION regress_weir_app;
CREATE SERVER ddl_kafka FOREIGN DATA WRAPPER weir_kafka
	OPTIONS (bootstrap_servers :'bootstrap');
GRANT USAGE ON FOREIGN SERVER ddl_kafka TO regress_weir_app;
SET ROLE regress_weir_app;
SET search_path = app, public;
CREATE FOREIGN TABLE clicks (user_id bigint, url text, amount numeric, ts timestamptz)
	SERVER ddl_kafka OPTIONS (topic 'view_ddl');
RESET ROLE;
RESET client_min_messages;

-- What there is of views in this database, without what is random: rows of each
-- catalog table, relations of weir_data, dependencies between them.
CREATE FUNCTION public.inventory() RETURNS TABLE (what text, owner text, n bigint)
LANGUAGE sql AS $$
	SELECT 'views', '', count(*) FROM weir_data.views
	UNION ALL SELECT 'status', '', count(*) FROM weir_data.status
	UNION ALL SELECT 'positions', '', count(*) FROM weir_data.positions
	UNION ALL SELECT 'dead_letters', '', count(*) FROM weir_data.dead_letters
	UNION ALL SELECT substring(relname, '^query|^state'),
			CASE WHEN relowner::regrole::text ~ '^regress' THEN relowner::regrole::text
				ELSE 'extension' END, count(*)
		FROM pg_class WHERE relnamespace = 'weir_data'::regnamespace
			AND relname ~ '^(query|state)_[0-9a-f]{16}$' GROUP BY 1, 2
	ORDER BY 1, 2 $$;
SELECT * FROM inventory();

-- A view is a table of its creator, with Q's columns and nothing in it yet.
SET ROLE regress_weir_app;
CREATE TABLE per_url WITH (weir.continuous) AS
	SELECT url, count(*) AS n, sum(amount) AS revenue FROM clicks
	WHERE amount > 0 GROUP BY url WITH NO DATA;
SELECT relkind, relowner::regrole, relpersistence, reloptions, relhastriggers
	FROM pg_class WHERE oid = 'per_url'::regclass;
SELECT attname, atttypid::regtype FROM pg_attribute
	WHERE attrelid = 'per_url'::regclass AND attnum > 0 ORDER BY attnum;
SELECT indexdef FROM pg_indexes WHERE tablename = 'per_url' ORDER BY 1;
SELECT tgname, regexp_replace(pg_get_triggerdef(oid), '[0-9a-f]{16}', 'id') FROM pg_trigger
	WHERE tgrelid = 'per_url'::regclass;
TABLE per_url;
RESET ROLE;
SELECT * FROM inventory();
SELECT v.relid::regclass, v.options, v.paused, v.epoch, s.phase FROM weir_data.views v
	JOIN weir_data.status s ON s.view_id = v.id;
SELECT partition, position, start, target, source_end FROM weir_data.positions ORDER BY 1;
SELECT objoid = (SELECT oid FROM pg_database WHERE datname = current_database()) AS here, label
	FROM pg_shseclabel WHERE provider = 'weir' AND classoid = 'pg_database'::regclass
	AND objoid = (SELECT oid FROM pg_database WHERE datname = current_database());

-- Only pg_weir writes into it.
SET ROLE regress_weir_app;
INSERT INTO per_url VALUES ('/', 1, 1);
INSERT INTO per_url SELECT * FROM per_url;
UPDATE per_url SET n = 0;
DELETE FROM per_url;
TRUNCATE per_url;
COPY per_url FROM stdin;
\.
MERGE INTO per_url v USING per_url u ON v.url = u.url WHEN MATCHED THEN DELETE;
DROP TRIGGER weir_read_only ON per_url;

-- Q, with names as they are now.
SELECT regexp_replace(weir.definition('per_url'), '(clicks|visits)\.', '', 'g') AS definition;
ALTER FOREIGN TABLE clicks RENAME TO visits;
ALTER FOREIGN TABLE visits RENAME amount TO price;
SELECT regexp_replace(weir.definition('per_url'), '(clicks|visits)\.', '', 'g') AS definition;
ALTER FOREIGN TABLE visits RENAME price TO amount;
ALTER FOREIGN TABLE visits RENAME TO clicks;
SELECT weir.definition('clicks');
SELECT weir.definition(0);

-- Columns can be named in the statement, as for any table.
CREATE TABLE renamed (page, hits) WITH (weir.continuous, fillfactor = 80) TABLESPACE pg_default AS
	SELECT url, count(*) FROM clicks GROUP BY url WITH NO DATA;
SELECT regexp_replace(weir.definition('renamed'), '(clicks|visits)\.', '', 'g') AS definition;
SELECT reloptions FROM pg_class WHERE oid = 'renamed'::regclass;
CREATE TABLE too_many (a, b, c) WITH (weir.continuous) AS
	SELECT url, count(*) FROM clicks GROUP BY url;
CREATE TABLE twice (a, a) WITH (weir.continuous) AS
	SELECT url, count(*) FROM clicks GROUP BY url;

-- Windows get a BRIN index; a key that is not shown, no unique one; a grand
-- total, none.
CREATE TABLE per_minute WITH (weir.continuous) AS
	SELECT url, weir.tumble(ts, '1 minute') AS win, count(*) AS n FROM clicks GROUP BY url, win WITH NO DATA;
CREATE TABLE hidden_key WITH (weir.continuous) AS
	SELECT weir.tumble(ts, '1 minute') AS win, count(*) AS n FROM clicks GROUP BY url, win WITH NO DATA;
CREATE TABLE total WITH (weir.continuous) AS SELECT count(*) AS n FROM clicks WITH NO DATA;
SELECT tablename, indexdef FROM pg_indexes
	WHERE tablename IN ('per_minute', 'hidden_key', 'total') ORDER BY 1, 2;

-- IF NOT EXISTS, and names that are taken.
CREATE TABLE IF NOT EXISTS per_url WITH (weir.continuous) AS SELECT count(*) FROM clicks;
CREATE TABLE per_url WITH (weir.continuous) AS SELECT count(*) FROM clicks;
CREATE TABLE weir.v WITH (weir.continuous) AS SELECT count(*) FROM clicks;
CREATE TABLE missing.v WITH (weir.continuous) AS SELECT count(*) FROM clicks;
RESET ROLE;
SELECT * FROM inventory();

-- Everything of a creation that is rolled back is gone, by savepoint too.
SET ROLE regress_weir_app;
BEGIN;
CREATE TABLE gone WITH (weir.continuous) AS SELECT count(*) FROM clicks;
SELECT view FROM weir.views WHERE view = 'gone'::regclass;
ROLLBACK;
BEGIN;
SAVEPOINT s;
CREATE TABLE gone WITH (weir.continuous) AS SELECT count(*) FROM clicks;
ROLLBACK TO s;
CREATE TABLE kept WITH (weir.continuous) AS SELECT count(*) FROM clicks WITH NO DATA;
DROP TABLE kept;
SAVEPOINT s;
DROP TABLE total;
ROLLBACK TO s;
COMMIT;
-- also in a function, where it cannot depend on variables
DO $$
DECLARE least numeric := 5;
BEGIN
	CREATE TABLE gone WITH (weir.continuous) AS
		SELECT count(*) FROM clicks WHERE amount > least;
END $$;
DO $$
BEGIN
	CREATE TABLE from_function WITH (weir.continuous) AS
		SELECT count(*) FROM clicks WHERE amount > 5 WITH NO DATA;
	DROP TABLE from_function;
END $$;
RESET ROLE;
SELECT * FROM inventory();

-- Forms of CREATE TABLE AS that cannot be continuous.
SET ROLE regress_weir_app;
CREATE TEMP TABLE v WITH (weir.continuous) AS SELECT count(*) FROM clicks;
CREATE TABLE pg_temp.v WITH (weir.continuous) AS SELECT count(*) FROM clicks;
CREATE UNLOGGED TABLE v WITH (weir.continuous) AS SELECT count(*) FROM clicks;
CREATE TABLE v WITH (weir.continuous) ON COMMIT DROP AS SELECT count(*) FROM clicks;
CREATE MATERIALIZED VIEW v WITH (weir.continuous) AS SELECT count(*) FROM clicks;
PREPARE q AS SELECT count(*) FROM clicks;
CREATE TABLE v WITH (weir.continuous) AS EXECUTE q;
DEALLOCATE q;
CREATE TABLE v (a int) WITH (weir.continuous);
EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF)
	CREATE TABLE v WITH (weir.continuous) AS SELECT 1;

-- Sources: a topic, one may read it, and it exists.
SET ROLE regress_weir_reader;
CREATE TABLE v WITH (weir.continuous) AS SELECT count(*) FROM app.clicks;
RESET ROLE;
GRANT USAGE, CREATE ON SCHEMA app TO regress_weir_reader;
SET ROLE regress_weir_reader;
CREATE TABLE v WITH (weir.continuous) AS SELECT count(*) FROM app.clicks;
RESET ROLE;
GRANT SELECT (url) ON clicks TO regress_weir_reader;
SET ROLE regress_weir_reader;
CREATE TABLE v WITH (weir.continuous) AS SELECT sum(amount) FROM app.clicks;
CREATE TABLE v WITH (weir.continuous) AS SELECT url, count(*) FROM app.clicks GROUP BY url;
RESET ROLE;
GRANT USAGE ON FOREIGN SERVER ddl_kafka TO regress_weir_reader;
SET ROLE regress_weir_reader;
CREATE TABLE v WITH (weir.continuous) AS SELECT url, count(*) FROM app.clicks GROUP BY url WITH NO DATA;
DROP TABLE v;
RESET ROLE;
REVOKE CREATE ON SCHEMA app FROM regress_weir_reader;
REVOKE ALL ON FOREIGN SERVER ddl_kafka FROM regress_weir_reader;
REVOKE SELECT (url) ON clicks FROM regress_weir_reader;

-- Nobody looks into weir_data, not even at his own view's query.
SET ROLE regress_weir_app;
SELECT count(*) FROM weir_data.views;
SELECT weir_data.now();

-- GRANT, COMMENT, RENAME, SET SCHEMA, indexes, statistics: core's.
GRANT SELECT ON per_url TO regress_weir_reader;
COMMENT ON TABLE per_url IS 'clicks by page';
CREATE INDEX ON per_url (revenue);
ANALYZE per_url;
ALTER TABLE per_url RENAME TO by_url;
RESET ROLE;
CREATE SCHEMA elsewhere AUTHORIZATION regress_weir_app;
ALTER TABLE by_url SET SCHEMA elsewhere;
SELECT relid::regclass, obj_description(relid) FROM weir_data.views
	WHERE relid = 'elsewhere.by_url'::regclass;
ALTER TABLE elsewhere.by_url SET SCHEMA app;
ALTER TABLE by_url RENAME TO per_url;

-- The owner of Q follows the owner of v, however it changes.
CREATE ROLE regress_weir_heir;
CREATE FUNCTION public.owners() RETURNS TABLE (v regrole, q regrole) LANGUAGE sql AS $$
	SELECT v.relowner::regrole, q.relowner::regrole FROM weir_data.views w
	JOIN pg_class v ON v.oid = w.relid JOIN pg_class q ON q.relname = 'query_' || w.id
	WHERE v.relname = 'per_url' $$;
ALTER TABLE per_url OWNER TO regress_weir_heir;
SELECT * FROM owners();
BEGIN;
ALTER TABLE per_url OWNER TO regress_weir_app;
SAVEPOINT s;
ALTER TABLE per_url OWNER TO regress_weir_reader;
ROLLBACK TO s;
COMMIT;
SELECT * FROM owners();
ALTER TABLE per_url OWNER TO regress_weir_heir;
REASSIGN OWNED BY regress_weir_heir TO regress_weir_app;
SELECT * FROM owners();
DROP ROLE regress_weir_heir;

-- pause, resume, rebuild: the owner's.
SET ROLE regress_weir_reader;
SELECT weir.pause('app.per_url');
SELECT weir.resume('app.per_url');
SELECT weir.rebuild('app.per_url');
RESET ROLE;
UPDATE weir_data.status s SET sqlstate = '42501', message = 'permission denied for foreign table clicks'
	FROM weir_data.views v WHERE v.id = s.view_id AND v.relid = 'per_url'::regclass;
SET ROLE regress_weir_app;
SELECT weir.pause('clicks');
SELECT weir.pause(0);
SELECT view, state, sqlstate, message, hint FROM weir.views WHERE view = 'per_url'::regclass;
SELECT weir.resume('per_url');
SELECT weir.pause('per_url'), weir.pause('per_url');
SELECT view, state, sqlstate, message, hint FROM weir.views WHERE view = 'per_url'::regclass;
BEGIN READ ONLY;
SELECT weir.resume('per_url');
ROLLBACK;

-- Rebuild starts over: epoch, positions, states, books, dead letters.
RESET ROLE;
CREATE FUNCTION public.books() RETURNS TABLE (partition int, "position" bigint, start bigint, target bigint, rows_in bigint, last_offset bigint, epoch bigint)
LANGUAGE sql AS $$
	SELECT p.partition, p.position, p.start, p.target, p.rows_in, p.last_offset, v.epoch
	FROM weir_data.positions p JOIN weir_data.views v ON v.id = p.view_id
	WHERE v.relid = 'app.per_url'::regclass ORDER BY 1 $$;
CREATE FUNCTION public.feign("position" bigint, start bigint) RETURNS void LANGUAGE sql AS $$
	UPDATE weir_data.positions p SET position = feign.position, start = feign.start,
		rows_in = 5, last_offset = feign.position - 1
	FROM weir_data.views v WHERE v.id = p.view_id AND v.relid = 'app.per_url'::regclass
		AND p.partition = 1;
	INSERT INTO weir_data.dead_letters (view_id, source, partition, "offset", sqlstate, message, payload, at)
	SELECT id, 0, 1, 3, '22P02', 'bad row', '\x7b', '2026-01-01 00:00+00' FROM weir_data.views
	WHERE relid = 'app.per_url'::regclass $$;
SELECT feign(0, 0);
-- (dead letters: all may see that there are some, the owner sees them whole)
SELECT source, view, partition, "offset", sqlstate, message, payload FROM weir.dead_letters;
SET ROLE regress_weir_reader;
SELECT source, view, partition, "offset", sqlstate, message, payload FROM weir.dead_letters;
SET ROLE regress_weir_app;
SELECT source, view, partition, "offset", sqlstate, message, payload FROM weir.dead_letters;
SELECT weir.rebuild('per_url');
SELECT count(*) FROM weir.dead_letters;
RESET ROLE;
SELECT * FROM books();
-- the head of a partition is gone
SELECT feign(0, -1);
SELECT weir.rebuild('per_url');
-- the topic was made anew: it ends before the position
SELECT feign(7, 0);
SELECT weir.rebuild('per_url');
SELECT weir.rebuild('per_url', accept_loss => true);
SELECT * FROM books();
BEGIN;
SELECT weir.rebuild('per_url');
ROLLBACK;
SELECT DISTINCT epoch FROM books();
-- the caller's isolation level does not matter
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT count(*) FROM per_url;
SELECT weir.rebuild('per_url');
COMMIT;
SELECT DISTINCT epoch FROM books();

-- Everybody sees his part of the monitoring views.
SELECT view, state FROM weir.views ORDER BY view::text;
SELECT view, source, partition, position, source_end, lag FROM weir.partitions
	WHERE view = 'per_url'::regclass ORDER BY partition;
SELECT view, rows_in, rows_filtered, dead_letters, late_applied FROM weir.stat_views
	WHERE view = 'per_url'::regclass;
SELECT source, views, partitions, rows_in, lag FROM weir.stat_sources;
SET ROLE regress_weir_reader;
SELECT view, state FROM weir.views;
SELECT count(*) FROM weir.partitions;
SELECT view FROM weir.stat_views;
SELECT source, views FROM weir.stat_sources;
-- a function in WHERE, however cheap, sees no other rows
CREATE FUNCTION pg_temp.peep(regclass) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS
	$$ BEGIN RAISE NOTICE 'saw %', $1; RETURN true; END $$;
SELECT view FROM weir.views WHERE pg_temp.peep(view);
SELECT DISTINCT view FROM weir.partitions WHERE pg_temp.peep(view);
SELECT view FROM weir.stat_views WHERE pg_temp.peep(view);
SELECT source FROM weir.stat_sources WHERE pg_temp.peep(source);
SELECT view FROM weir.dead_letters WHERE pg_temp.peep(view);
RESET ROLE;

-- The source is not dropped under a view.
SET ROLE regress_weir_app;
DROP FOREIGN TABLE clicks;
ALTER FOREIGN TABLE clicks DROP COLUMN amount;
\set VERBOSITY terse
ALTER FOREIGN TABLE clicks ALTER COLUMN amount TYPE float8;
\set VERBOSITY default
ALTER FOREIGN TABLE clicks DROP COLUMN user_id;
RESET ROLE;
\set VERBOSITY terse
DROP EXTENSION pg_weir;
\set VERBOSITY default

-- With CASCADE it is, and nothing stays behind, whatever the way.
SET client_min_messages = warning;
BEGIN; DROP FOREIGN TABLE clicks CASCADE; SELECT * FROM inventory(); ROLLBACK;
BEGIN; DROP SERVER ddl_kafka CASCADE; SELECT * FROM inventory(); ROLLBACK;
BEGIN; DROP SCHEMA app CASCADE; SELECT * FROM inventory(); ROLLBACK;
BEGIN; DROP OWNED BY regress_weir_app; SELECT * FROM inventory(); ROLLBACK;
BEGIN; ALTER FOREIGN TABLE clicks DROP COLUMN amount CASCADE; SELECT to_regclass('per_url'), to_regclass('total'); ROLLBACK;
BEGIN; DROP TABLE per_url, per_minute; SELECT * FROM inventory(); ROLLBACK;
SELECT * FROM inventory();
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT count(*) FROM per_url;
DROP TABLE per_url;
COMMIT;
SELECT * FROM inventory();
RESET client_min_messages;
DROP FOREIGN TABLE clicks CASCADE;
SELECT * FROM inventory();

-- The mark of the database is no user's.
SECURITY LABEL FOR weir ON TABLE pg_class IS 'views';
SECURITY LABEL FOR weir ON ROLE regress_weir_app IS 'views';

-- A name that nobody has on the broker is an error of CREATE, and so is a
-- broker that does not answer.
CREATE SERVER ddl_nobody FOREIGN DATA WRAPPER weir_kafka
	OPTIONS (bootstrap_servers '127.0.0.1:1', timeout '500 ms');
CREATE FOREIGN TABLE nobody (url text) SERVER ddl_nobody OPTIONS (topic 'view_ddl');
\set VERBOSITY sqlstate
CREATE TABLE v WITH (weir.continuous) AS SELECT count(*) FROM nobody;
\set VERBOSITY default
SELECT * FROM inventory();

SET client_min_messages = warning;
DROP SERVER ddl_nobody CASCADE;
DROP SERVER ddl_kafka CASCADE;
DROP SCHEMA app, elsewhere CASCADE;
DROP FUNCTION public.inventory, public.owners, public.books, public.feign;

-- Without the extension the statement says what is missing, and with it gone
-- nothing is left of it.
CREATE DATABASE regress_weir_bare;
\c regress_weir_bare
CREATE TABLE v WITH (weir.continuous) AS SELECT 1 AS a;
CREATE SCHEMA weir_data CREATE TABLE views (id int, relid oid);
CREATE TABLE v (a int);
ALTER TABLE v SET (weir.commit_interval = '1 s');
ALTER TABLE v RENAME TO w;
DROP TABLE w;
DROP SCHEMA weir_data CASCADE;
CREATE EXTENSION pg_weir;
CREATE SERVER k FOREIGN DATA WRAPPER weir_kafka OPTIONS (bootstrap_servers :'bootstrap');
CREATE FOREIGN TABLE s (url text) SERVER k OPTIONS (topic 'view_ddl');
CREATE TABLE v WITH (weir.continuous) AS SELECT url, count(*) FROM s GROUP BY url WITH NO DATA;
CREATE TABLE other_table (a int);
SET client_min_messages = warning;
DROP EXTENSION pg_weir CASCADE;
SELECT nspname FROM pg_namespace WHERE nspname ~ '^weir';
SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace;
SELECT count(*) FROM pg_shseclabel
	WHERE objoid = (SELECT oid FROM pg_database WHERE datname = current_database());
\c contrib_regression
DROP DATABASE regress_weir_bare;
DROP ROLE regress_weir_app, regress_weir_reader;
