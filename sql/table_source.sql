-- Tables of this database as sources: which of them may be, what their replica
-- identity must carry, what options mean, and what happens to the parts of a view
-- when its source changes or goes.  Definitions only: what the rows become is in
-- test/t.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pg_weir;
SET timezone = 'UTC';
CREATE ROLE regress_weir_owner;
CREATE ROLE regress_weir_guest;
CREATE SCHEMA tables AUTHORIZATION regress_weir_owner;
GRANT CREATE ON SCHEMA tables TO regress_weir_guest;
GRANT USAGE ON SCHEMA tables TO regress_weir_guest;
SET search_path = tables, public;

-- Tries a query, perhaps with options, and prints what the user would read.  Views
-- are created paused: nobody reads anything here.
CREATE PROCEDURE public.try(query text, options text DEFAULT '') LANGUAGE plpgsql AS $$
DECLARE
	detail text;
	hint text;
BEGIN
	EXECUTE 'CREATE TABLE v WITH (weir.continuous' || options || ') AS ' || query || ' WITH NO DATA';
	RAISE INFO '% ACCEPTED', query;
	EXECUTE 'DROP TABLE v';
EXCEPTION WHEN others THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RAISE INFO E'% %\n    %', sqlstate,
		sqlerrm || CASE WHEN detail <> '' THEN E'\n    detail: ' || detail ELSE '' END,
		CASE WHEN hint <> '' THEN 'hint: ' || hint ELSE 'NO HINT' END;
END
$$;

-- What there is of views, without what is random.
CREATE FUNCTION public.inventory() RETURNS TABLE (what text, n bigint)
LANGUAGE sql SECURITY DEFINER AS $$
	SELECT 'views', count(*) FROM weir_data.views
	UNION ALL SELECT 'status', count(*) FROM weir_data.status
	UNION ALL SELECT 'positions', count(*) FROM weir_data.positions
	UNION ALL SELECT 'dead_letters', count(*) FROM weir_data.dead_letters
	UNION ALL SELECT 'parts', count(*)
		FROM pg_class WHERE relnamespace = 'weir_data'::regnamespace
			AND relname ~ '^(query|state)_[0-9a-f]{16}$' $$;
SET ROLE regress_weir_owner;

-- A view over a table is recorded without positions: the worker finds the place in
-- the WAL.  All else is as for a topic.
CREATE TABLE orders (id int PRIMARY KEY, customer int, amount numeric, at timestamptz, unread text);
ALTER TABLE orders REPLICA IDENTITY FULL;
CREATE TABLE per_customer WITH (weir.continuous) AS
	SELECT customer, weir.tumble(at, '1 day') AS day, count(*), sum(amount) FROM orders
	WHERE amount > 0 GROUP BY customer, day WITH NO DATA;
SELECT * FROM inventory();
SELECT indexdef FROM pg_indexes WHERE tablename = 'per_customer' ORDER BY 1;
SELECT regexp_replace(weir.definition('per_customer'), '(orders|purchases)\.', '', 'g') AS definition;
SELECT state, message, hint FROM weir.views WHERE view = 'per_customer'::regclass;
SELECT * FROM weir.partitions WHERE view = 'per_customer'::regclass;
SELECT source, views, partitions, rows_in, lag FROM weir.stat_sources WHERE source = 'orders'::regclass;
INSERT INTO per_customer VALUES (1);
SELECT weir.wait_for('per_customer');
-- CREATE locks the source no more than a SELECT does
BEGIN;
CREATE TABLE locks WITH (weir.continuous) AS SELECT count(*) FROM orders;
SELECT mode FROM pg_locks WHERE pid = pg_backend_pid() AND relation = 'orders'::regclass;
ROLLBACK;
SELECT * FROM inventory();

-- Partitioned tables, by their root or by a part.
CREATE TABLE parted (id int, region text, amount int) PARTITION BY LIST (region);
CREATE TABLE parted_eu PARTITION OF parted FOR VALUES IN ('de', 'fr') PARTITION BY LIST (region);
CREATE TABLE parted_de PARTITION OF parted_eu FOR VALUES IN ('de');
CREATE TABLE parted_us PARTITION OF parted FOR VALUES IN ('us');
CALL try('SELECT count(*) FROM parted');
CALL try('SELECT count(*) FROM parted_eu');
CALL try('SELECT count(*) FROM parted_us');
CALL try('SELECT count(*) FROM ONLY parted');

-- Inheritance: a child by itself, a parent only with ONLY.
CREATE TABLE parent (a int);
CREATE TABLE child () INHERITS (parent);
CALL try('SELECT count(*) FROM parent');
CALL try('SELECT count(*) FROM ONLY parent');
CALL try('SELECT count(*) FROM child');

-- What is not in the WAL of this database.
CREATE TEMP TABLE fleeting (a int);
CREATE UNLOGGED TABLE unlogged (a int);
CALL try('SELECT count(*) FROM fleeting');
CALL try('SELECT count(*) FROM unlogged');
CALL try('SELECT count(*) FROM pg_class');
CALL try('SELECT count(*) FROM information_schema.sql_features');
RESET ROLE;
CALL try('SELECT count(*) FROM weir_data.status');
CREATE FOREIGN DATA WRAPPER tables_wrapper;
CREATE SERVER tables_server FOREIGN DATA WRAPPER tables_wrapper;
GRANT USAGE ON FOREIGN SERVER tables_server TO regress_weir_owner;
SET ROLE regress_weir_owner;
CREATE FOREIGN TABLE elsewhere (a int) SERVER tables_server;
CALL try('SELECT count(*) FROM elsewhere');
CREATE FOREIGN TABLE parted_jp PARTITION OF parted FOR VALUES IN ('jp') SERVER tables_server;
CALL try('SELECT count(*) FROM parted');
DROP FOREIGN TABLE parted_jp;
CREATE UNLOGGED TABLE parted_uk PARTITION OF parted FOR VALUES IN ('uk');
CALL try('SELECT count(*) FROM parted');
DROP TABLE parted_uk;

-- What has no rows of its own, and views.
CREATE VIEW orders_view AS SELECT customer FROM orders;
CREATE MATERIALIZED VIEW orders_matview AS SELECT customer FROM orders;
CREATE SEQUENCE numbers;
CALL try('SELECT count(*) FROM orders_view');
CALL try('SELECT count(*) FROM orders_matview');
CALL try('SELECT count(*) FROM numbers');
CALL try('SELECT count(*) FROM per_customer');
CALL try('SELECT count(*) FROM orders JOIN parent ON id = a');
CALL try('SELECT xmin, count(*) FROM orders GROUP BY 1');
CALL try('SELECT count(orders) FROM orders');

-- The replica identity must carry the columns that the query reads, so that an
-- update or delete says from where to take the row.
CREATE TABLE keyed (id int PRIMARY KEY, kind text NOT NULL, amount int);
CALL try('SELECT count(*) FROM keyed');
CALL try('SELECT count(*) FROM keyed WHERE id > 10');
CALL try('SELECT id % 10, count(*) FROM keyed GROUP BY 1');
CALL try('SELECT kind, count(*) FROM keyed GROUP BY kind');
CALL try('SELECT sum(amount) FROM keyed WHERE kind > ''a''');
CREATE UNIQUE INDEX keyed_kind ON keyed (kind, id);
ALTER TABLE keyed REPLICA IDENTITY USING INDEX keyed_kind;
CALL try('SELECT kind, count(*) FROM keyed GROUP BY kind');
CALL try('SELECT kind, sum(amount) FROM keyed GROUP BY kind');
ALTER TABLE keyed REPLICA IDENTITY NOTHING;
CALL try('SELECT count(*) FROM keyed');
CALL try('SELECT id % 10, count(*) FROM keyed GROUP BY 1');
ALTER TABLE keyed REPLICA IDENTITY FULL;
CALL try('SELECT kind, sum(amount) FROM keyed GROUP BY kind');
-- a column whose name needs quotes, a table without a key, a key that can be
-- deferred and so identifies nothing
CREATE TABLE "Odd Name" ("Key" int, "a""b" int);
CALL try('SELECT "Key", sum("a""b") FROM "Odd Name" GROUP BY 1');
CREATE TABLE deferred (id int PRIMARY KEY DEFERRABLE);
CALL try('SELECT id, count(*) FROM deferred GROUP BY id');
-- each partition has an identity of its own, whatever the root's is
ALTER TABLE parted REPLICA IDENTITY FULL;
CALL try('SELECT region, count(*) FROM parted GROUP BY region');
ALTER TABLE parted_us REPLICA IDENTITY FULL;
CALL try('SELECT region, count(*) FROM parted GROUP BY region');
CALL try('SELECT region, count(*) FROM parted_us GROUP BY region');
-- columns are found by name: this one has them in another order
CREATE TABLE parted_pl (amount int, dropped int, region text NOT NULL, id int, PRIMARY KEY (region, amount));
ALTER TABLE parted_pl DROP COLUMN dropped;
ALTER TABLE parted ATTACH PARTITION parted_pl FOR VALUES IN ('pl');
ALTER TABLE parted_de REPLICA IDENTITY FULL;
CALL try('SELECT region, sum(amount) FROM parted GROUP BY region');
CALL try('SELECT region, sum(id) FROM parted GROUP BY region');
-- of many, some are named
CREATE TABLE many (a int, b int) PARTITION BY HASH (a);
SELECT format('CREATE TABLE many_%s PARTITION OF many FOR VALUES WITH (MODULUS 8, REMAINDER %s)', i, i)
	FROM generate_series(0, 7) i \gexec
CALL try('SELECT sum(b) FROM many');

-- A view over what was ever inserted needs no identity.
CALL try('SELECT sum(b) FROM many', ', weir.append_only');
CALL try('SELECT sum(b) FROM many', ', weir.append_only = ''error''');
CALL try('SELECT sum(b) FROM many', ', weir.append_only = ''ignore''');
CALL try('SELECT sum(b) FROM many', ', weir.append_only = ''off''');
CALL try('SELECT sum(b) FROM many', ', weir.append_only = ''yes''');
CREATE TABLE append WITH (weir.continuous, weir.append_only, weir.on_error = 'stop') AS
	SELECT sum(b) FROM many WITH NO DATA;
ALTER TABLE append SET (weir.append_only = 'ignore');
ALTER TABLE append RESET (weir.append_only);
ALTER TABLE append RESET (weir.on_error);
RESET ROLE;
SELECT options FROM weir_data.views WHERE relid = 'append'::regclass;
SET ROLE regress_weir_owner;

-- It begins with the rows that are there.
CALL try('SELECT count(*) FROM orders', ', weir.start = ''earliest''');
CALL try('SELECT count(*) FROM orders', ', weir.start = ''latest''');
CALL try('SELECT count(*) FROM orders', ', weir.start = ''2026-01-01 00:00+00''');
CALL try('SELECT count(*) FROM orders', ', weir.start = ''{"0": 1}''');
CALL try('SELECT count(*) FROM orders', ', weir.watermark = ''1 s''');

-- A push stream begins with what is inserted from now on, and is append-only.
CREATE FOREIGN TABLE pushed (a int, b text) SERVER weir_stream;
CALL try('SELECT b, sum(a) FROM pushed GROUP BY b');
CALL try('SELECT b, sum(a) FROM pushed GROUP BY b', ', weir.start = ''latest''');
CALL try('SELECT b, sum(a) FROM pushed GROUP BY b', ', weir.start = ''earliest''');
CALL try('SELECT b, sum(a) FROM pushed GROUP BY b', ', weir.start = ''2026-01-01 00:00+00''');
CALL try('SELECT b, sum(a) FROM pushed GROUP BY b', ', weir.append_only = ''off''');
CALL try('SELECT b, sum(a) FROM pushed GROUP BY b', ', weir.append_only');
CREATE TABLE per_b WITH (weir.continuous) AS SELECT b, sum(a) FROM pushed GROUP BY b WITH NO DATA;
SELECT * FROM inventory();

-- Privileges: SELECT on the columns that are read, and no policy in the way.
GRANT SELECT (id, amount) ON orders TO regress_weir_guest;
SET ROLE regress_weir_guest;
CALL try('SELECT sum(amount) FROM orders');
CALL try('SELECT customer, sum(amount) FROM orders GROUP BY customer');
SET ROLE regress_weir_owner;
ALTER TABLE orders ENABLE ROW LEVEL SECURITY;
CALL try('SELECT sum(amount) FROM orders');
ALTER TABLE orders FORCE ROW LEVEL SECURITY;
CALL try('SELECT sum(amount) FROM orders');
ALTER TABLE orders NO FORCE ROW LEVEL SECURITY;
SET ROLE regress_weir_guest;
CALL try('SELECT sum(amount) FROM orders');
RESET ROLE;
CALL try('SELECT sum(amount) FROM orders');
ALTER ROLE regress_weir_guest BYPASSRLS;
SET ROLE regress_weir_guest;
CALL try('SELECT sum(amount) FROM orders');
SET ROLE regress_weir_owner;
ALTER TABLE orders DISABLE ROW LEVEL SECURITY;

-- Rebuild: from the rows of the table; what is no longer there must be accepted.
RESET ROLE;
CREATE FUNCTION public.pretend(v regclass) RETURNS void LANGUAGE sql AS $$
	UPDATE weir_data.status SET phase = 'running', sqlstate = '55000', message = 'for a test'
		WHERE view_id = (SELECT id FROM weir_data.views WHERE relid = v);
	INSERT INTO weir_data.positions (view_id, partition, position, start, target, source_end)
		SELECT id, 0, 42, 42, 42, 42 FROM weir_data.views WHERE relid = v
		ON CONFLICT DO NOTHING;
	INSERT INTO weir_data.dead_letters (view_id, source, lsn, sqlstate, message, at)
		SELECT id, 0, '0/2A', '22012', 'for a test', now() FROM weir_data.views WHERE relid = v $$;
CREATE FUNCTION public.state(v regclass) RETURNS TABLE (epoch bigint, phase text, sqlstate text, positions bigint, dead_letters bigint)
LANGUAGE sql AS $$
	SELECT epoch, phase, sqlstate,
		(SELECT count(*) FROM weir_data.positions WHERE view_id = id),
		(SELECT count(*) FROM weir_data.dead_letters WHERE view_id = id)
	FROM weir_data.views JOIN weir_data.status ON view_id = id WHERE relid = v $$;
SELECT pretend('per_customer'), pretend('append'), pretend('per_b');
SELECT * FROM state('per_customer');
SELECT partition, position, source_end IS NOT NULL AS has_end, lag, lag_seconds
	FROM weir.partitions WHERE view = 'per_customer'::regclass;
SELECT weir.rebuild('per_customer');
SELECT * FROM state('per_customer');
-- the rows of an append-only view are all there, or it would have stalled before
SELECT weir.rebuild('append');
SELECT * FROM state('append');
SELECT weir.rebuild('per_b');
SELECT * FROM state('per_b');
SELECT weir.rebuild('per_b', accept_loss => true);
SELECT * FROM state('per_b');
CREATE TABLE ever WITH (weir.continuous, weir.append_only = 'ignore') AS
	SELECT sum(b) FROM many WITH NO DATA;
SELECT weir.rebuild('ever');
SELECT weir.rebuild('ever', accept_loss => true);
SELECT * FROM state('ever');
-- and the identity must still do: a partition may be new
CREATE TABLE per_region WITH (weir.continuous) AS
	SELECT region, sum(amount) FROM parted GROUP BY region WITH NO DATA;
CREATE TABLE parted_jp PARTITION OF parted FOR VALUES IN ('jp');
SELECT weir.rebuild('per_region');
ALTER TABLE parted_jp REPLICA IDENTITY FULL;
SELECT weir.rebuild('per_region');
SELECT * FROM state('per_region');
SELECT weir.pause('per_region'), weir.resume('per_region'), weir.pause('per_region');

-- The source may be renamed; what a view reads may not go.
SET ROLE regress_weir_owner;
ALTER TABLE orders RENAME TO purchases;
ALTER TABLE purchases RENAME amount TO price;
ALTER TABLE purchases ADD COLUMN extra int;
ALTER TABLE purchases DROP COLUMN unread;
SELECT regexp_replace(weir.definition('per_customer'), '(orders|purchases)\.', '', 'g') AS definition;
\set VERBOSITY terse
ALTER TABLE purchases ALTER COLUMN price TYPE bigint;
ALTER TABLE purchases DROP COLUMN price;
DROP TABLE purchases;
\set VERBOSITY default
SELECT * FROM inventory();
DROP VIEW orders_view;
DROP MATERIALIZED VIEW orders_matview;
DROP TABLE purchases CASCADE;
SELECT to_regclass('per_customer');
SELECT * FROM inventory();
-- a partition is nobody's source but its root's
DROP TABLE parted_de;
-- with the schema, with the owner, with the extension
RESET ROLE;
CREATE SCHEMA pair
	CREATE TABLE source (a int)
	CREATE TABLE other (a int);
CREATE TABLE pair.v WITH (weir.continuous) AS SELECT count(*) FROM pair.source WITH NO DATA;
CREATE TABLE pair.w WITH (weir.continuous) AS SELECT count(*) FROM pair.other WITH NO DATA;
SELECT * FROM inventory();
DROP SCHEMA pair CASCADE;
SELECT * FROM inventory();
DROP OWNED BY regress_weir_owner CASCADE;
SELECT * FROM inventory();
CREATE TABLE public.source (a int);
CREATE TABLE public.v WITH (weir.continuous) AS SELECT count(*) FROM source WITH NO DATA;
\set VERBOSITY terse
DROP EXTENSION pg_weir;
\set VERBOSITY default
BEGIN;
DROP EXTENSION pg_weir CASCADE;
SELECT to_regclass('public.source'), to_regclass('public.v');
ROLLBACK;
DROP TABLE public.v, public.source;

DROP FUNCTION public.pretend, public.state, public.inventory;
DROP PROCEDURE public.try;
DROP SERVER tables_server CASCADE;
DROP FOREIGN DATA WRAPPER tables_wrapper;
DROP OWNED BY regress_weir_guest;
DROP ROLE regress_weir_owner, regress_weir_guest;
