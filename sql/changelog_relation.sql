-- The changelog of a view: an ordinary table beside it, which goes where it goes.
-- What is written into it is in the TAP tests.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pg_weir;
CREATE SCHEMA changes_a;
CREATE SCHEMA changes_b;
CREATE ROLE changes_owner;
CREATE ROLE changes_other;
CREATE ROLE changes_reader;
GRANT ALL ON SCHEMA changes_a, changes_b TO changes_owner, changes_other;
GRANT USAGE ON SCHEMA changes_a, changes_b TO changes_reader;
SET search_path = changes_a, public;
CREATE TYPE changes_a.mood AS ENUM ('sad', 'happy');
CREATE DOMAIN changes_a.name AS varchar(40) NOT NULL;
CREATE FOREIGN TABLE changes_clicks (url text COLLATE "C", who changes_a.name,
	feeling changes_a.mood, amount numeric(10,2), code char(3), span interval second(2),
	ts timestamptz(3)) SERVER weir_stream;
GRANT SELECT ON changes_clicks TO changes_owner, changes_other;

-- Where everything is: the relations of a view with their owner, and whether they
-- are its internal parts.
CREATE FUNCTION places(pattern text) RETURNS TABLE (relation text, owner name, part text)
LANGUAGE sql SET search_path = pg_catalog AS $$
	SELECT n.nspname || '.' || regexp_replace(c.relname, '_[0-9a-f]{16}$', '_<id>'), pg_get_userbyid(c.relowner),
		(SELECT d.deptype::text || ' of ' || d.refobjid::regclass FROM pg_depend d
		 WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
			AND d.refclassid = 'pg_class'::regclass AND d.deptype = 'i')
	FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
	WHERE n.nspname IN ('changes_a', 'changes_b', 'weir_data') AND c.relkind IN ('r', 'v')
		AND (c.relname LIKE pattern OR c.relname ~ '^query_[0-9a-f]{16}$')
	ORDER BY 1 $$;

-- Its columns: ours, then v's with names, types, lengths and collations, none of
-- them NOT NULL.  A column of v may have any name but ours.
SET ROLE changes_owner;
CREATE TABLE changes_a.per_minute (url, who, feeling, "Amount, total", code, span, avg, win, since) WITH (weir.continuous) AS
	SELECT url, who, feeling, max(amount)::numeric(10,2), code, span, avg(amount), weir.tumble(ts, '1 minute'),
		lower(weir.tumble(ts, '1 minute'))::timestamptz(3)
	FROM changes_clicks GROUP BY url, who, feeling, code, span, weir.tumble(ts, '1 minute') WITH NO DATA;
RESET ROLE;
SELECT a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
	CASE WHEN a.attcollation <> t.typcollation THEN a.attcollation::regcollation END AS collation
FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
WHERE a.attrelid = 'per_minute_changes'::regclass AND a.attnum > 0 ORDER BY a.attnum;
SELECT 'v' AS of, attname, atttypid, atttypmod, attcollation FROM pg_attribute
	WHERE attrelid = 'per_minute'::regclass AND attnum > 0
EXCEPT ALL SELECT 'v', attname, atttypid, atttypmod, attcollation FROM pg_attribute
	WHERE attrelid = 'per_minute_changes'::regclass AND attnum > 0;
SELECT pg_get_indexdef(indexrelid), indisprimary FROM pg_index WHERE indrelid = 'per_minute_changes'::regclass;
SELECT replace(pg_get_triggerdef(oid), (SELECT id FROM weir_data.views WHERE relid = 'per_minute'::regclass), '<id>')
	FROM pg_trigger WHERE tgrelid IN ('per_minute'::regclass, 'per_minute_changes'::regclass) ORDER BY 1;
SELECT obj_description('per_minute_changes'::regclass);
SELECT * FROM places('per_minute%');
-- the channel on which its changes are told
SELECT view, channel = 'weir_' || (SELECT id FROM weir_data.views WHERE relid = 'per_minute'::regclass) AS channel,
	watermark, held_by FROM weir.views;

-- Nobody writes into it, nobody empties it, nobody drops it alone.
INSERT INTO per_minute_changes VALUES (1, 1, 'final', NULL, now());
UPDATE per_minute_changes SET weir_diff = 0;
DELETE FROM per_minute_changes;
TRUNCATE per_minute_changes;
DROP TABLE per_minute_changes;
DROP TRIGGER weir_read_only ON per_minute_changes;
INSERT INTO per_minute SELECT * FROM per_minute;
-- it is neither a view nor the source of one
SELECT weir.pause('per_minute_changes');
ALTER TABLE per_minute_changes SET (weir.watermark = '1 s');
CREATE TABLE again WITH (weir.continuous) AS SELECT count(*) FROM per_minute_changes;

-- Who may read v may not yet read its changelog: that is for the owner to grant.
GRANT SELECT ON per_minute TO changes_reader;
SET ROLE changes_reader;
SELECT count(*) FROM changes_a.per_minute;
SELECT count(*) FROM changes_a.per_minute_changes;
RESET ROLE;
SET ROLE changes_owner;
GRANT SELECT ON changes_a.per_minute_changes TO changes_reader;
SET ROLE changes_reader;
SELECT count(*) FROM changes_a.per_minute_changes;
RESET ROLE;

-- It can be published, indexed, described.
CREATE PUBLICATION changes_pub FOR TABLE per_minute_changes;
SELECT * FROM pg_publication_tables WHERE pubname = 'changes_pub' AND attnames[1] <> 'weir_seq';
DROP PUBLICATION changes_pub;
SET ROLE changes_owner;
CREATE INDEX ON changes_a.per_minute_changes (weir_at);
COMMENT ON TABLE changes_a.per_minute_changes IS 'what the warehouse reads';
RESET ROLE;

-- A new name, owner or schema of v is its own, too, by whatever statement and at
-- once, and a rolled back one is not.
ALTER TABLE per_minute RENAME TO per_min;
SELECT * FROM places('per_m%');
BEGIN;
ALTER TABLE per_min RENAME TO other;
SELECT 'other_changes'::regclass;
SAVEPOINT s;
ALTER TABLE other RENAME TO another;
SELECT 'another_changes'::regclass;
ROLLBACK TO s;
ALTER TABLE other RENAME TO others;
SELECT 'others_changes'::regclass;
ROLLBACK;
SELECT * FROM places('per_m%');
ALTER TABLE per_min OWNER TO changes_other;
SELECT * FROM places('per_m%');
REASSIGN OWNED BY changes_other TO changes_owner;
SELECT * FROM places('per_m%');
SET ROLE changes_owner;
ALTER TABLE per_min SET SCHEMA changes_b;
RESET ROLE;
SELECT * FROM places('per_m%');
DO $$ BEGIN
	ALTER TABLE changes_b.per_min RENAME TO per_minute;
	ALTER TABLE changes_b.per_minute SET SCHEMA changes_a;
END $$;
SELECT * FROM places('per_m%');

-- It does not leave v alone.
ALTER TABLE per_minute_changes OWNER TO changes_other;
ALTER TABLE per_minute_changes SET SCHEMA changes_b;
SELECT * FROM places('per_m%');
-- but a name of its own it may have, and keeps it
ALTER TABLE per_minute_changes RENAME TO my_feed;
ALTER TABLE per_minute RENAME TO per_min;
SELECT * FROM places('%feed');
ALTER TABLE per_min RENAME TO per_minute;
ALTER TABLE my_feed RENAME TO per_minute_changes;

-- A relation of its name is in the way, of CREATE and later.
CREATE TABLE taken_changes (a int);
CREATE TABLE taken WITH (weir.continuous) AS
	SELECT weir.tumble(ts, '1 minute') AS win, count(*) FROM changes_clicks GROUP BY win WITH NO DATA;
CREATE TABLE taken WITH (weir.continuous, weir.changelog = off) AS
	SELECT weir.tumble(ts, '1 minute') AS win, count(*) FROM changes_clicks GROUP BY win WITH NO DATA;
DROP TABLE taken;
ALTER TABLE per_minute RENAME TO taken;
CREATE TABLE changes_b.per_minute_changes (a int);
ALTER TABLE per_minute SET SCHEMA changes_b;
DROP TABLE taken_changes, changes_b.per_minute_changes;
SELECT * FROM places('per_m%');
-- so are names of our columns
CREATE TABLE taken WITH (weir.continuous) AS
	SELECT weir.tumble(ts, '1 minute') AS win, count(*) AS weir_seq FROM changes_clicks GROUP BY win WITH NO DATA;
CREATE TABLE taken (win, weir_at) WITH (weir.continuous) AS
	SELECT weir.tumble(ts, '1 minute') AS win, count(*) FROM changes_clicks GROUP BY win WITH NO DATA;
CREATE TABLE taken (win, n) WITH (weir.continuous) AS
	SELECT weir.tumble(ts, '1 minute') AS win, count(*) AS weir_seq FROM changes_clicks GROUP BY win WITH NO DATA;
DROP TABLE taken;

-- A long name is cut as that of an index is, between characters.
CREATE TABLE "a name of a view may be as long as this which is cut béhind" WITH (weir.continuous) AS
	SELECT weir.tumble(ts, '1 minute') AS win, count(*) FROM changes_clicks GROUP BY win WITH NO DATA;
SELECT changelog::regclass FROM weir_data.views WHERE relid = 'changes_a."a name of a view may be as long as this which is cut béhind"'::regclass;
ALTER TABLE "a name of a view may be as long as this which is cut béhind" RENAME TO "a name of a view may be as long as this which is cut bèhind";
SELECT changelog::regclass FROM weir_data.views WHERE relid = 'changes_a."a name of a view may be as long as this which is cut bèhind"'::regclass;
DROP TABLE "a name of a view may be as long as this which is cut bèhind";

-- Event time has not begun: no watermark, nothing closed.
SELECT weir.watermark('per_minute'), weir.is_closed('per_minute', tstzrange('2020-01-01', '2020-01-02')),
	weir.is_closed('per_minute', NULL::tstzrange), weir.is_closed(NULL, tsrange('2020-01-01', '2020-01-02'));
-- when it has, windows that end by then are closed
UPDATE weir_data.status SET watermark = '2024-01-01 00:05:00+00', held_by = 2
	WHERE view_id = (SELECT id FROM weir_data.views WHERE relid = 'per_minute'::regclass);
SET timezone = 'UTC';
SELECT weir.watermark('per_minute'), w, weir.is_closed('per_minute', w) FROM unnest(ARRAY[
	tstzrange('2024-01-01 00:04+00', '2024-01-01 00:05+00'), '[2024-01-01 00:04:00+00, 2024-01-01 00:05:00.000001+00)',
	'[2024-01-01 00:04:00+00, 2024-01-01 00:05:00+00]', '[2024-01-01 00:04:00+00,)', 'empty', NULL]) w;
SET timezone = 'Asia/Tokyo';	-- a window without a zone is of UTC
SELECT w, weir.is_closed('per_minute', w) FROM unnest(ARRAY[
	tsrange('2024-01-01 00:04', '2024-01-01 00:05'), tsrange('2024-01-01 00:05', '2024-01-01 00:06')]) w;
RESET timezone;
SELECT view, watermark = weir.watermark(view) AS watermark, held_by FROM weir.views;
-- who may read v may ask
SET ROLE changes_reader;
SELECT weir.watermark('changes_a.per_minute') IS NOT NULL AS knows, weir.is_closed('changes_a.per_minute', tsrange('2024-01-01', '2024-01-02'));
RESET ROLE;
REVOKE SELECT ON per_minute FROM changes_reader;
SET ROLE changes_reader;
SELECT weir.watermark('changes_a.per_minute');
SELECT weir.is_closed('changes_a.per_minute', NULL::tsrange);
RESET ROLE;
SELECT weir.watermark('changes_clicks');
SELECT weir.watermark(0);
-- within a snapshot the answer stays, and with the next it is new
CREATE FUNCTION advance() RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	w tstzrange := tstzrange('2024-01-01 00:05+00', '2024-01-01 00:06+00');
	answers text := '';
BEGIN
	FOR i IN 1..2 LOOP
		answers := answers || ' ' || weir.is_closed('changes_a.per_minute', w);
		UPDATE weir_data.status SET watermark = '2024-01-01 00:06:00+00'
			WHERE view_id = (SELECT id FROM weir_data.views WHERE relid = 'changes_a.per_minute'::regclass);
	END LOOP;
	RETURN answers;
END $$;
SELECT advance();

-- Late rows are kept for the owner of the view; others see that there are some.
INSERT INTO weir_data.late_rows (view_id, windows, watermark, late_by, diff, "row", at)
	SELECT id, '{one,two}', '2024-01-01 00:05:00+00', '3 min', 1, '{"url": "/secret"}', '2024-01-01'
	FROM weir_data.views WHERE relid = 'per_minute'::regclass;
GRANT SELECT ON per_minute TO changes_reader;
SET ROLE changes_reader;
SELECT view, windows, late_by, diff, "row" FROM weir.late_rows;
SELECT weir.delete_late_rows('changes_a.per_minute');
SET ROLE changes_owner;
SELECT view, windows, late_by, diff, "row" FROM weir.late_rows;
SELECT weir.delete_late_rows('changes_a.per_minute', '2020-01-01');
SELECT weir.delete_late_rows('changes_a.per_minute');
RESET ROLE;
INSERT INTO weir_data.late_rows (view_id, windows, late_by, diff, at) SELECT id, '{one}', '3 min', 1, now()
	FROM weir_data.views WHERE relid = 'per_minute'::regclass;

-- A rebuild begins event time anew, and remembers what the changelog has: what was
-- closed when v was last published, which a backfill under way has not done.
UPDATE weir_data.status SET emitted = watermark, late_applied = 1, late_side = 2, late_dropped = 3, next_seq = 17, settled = watermark
	WHERE view_id = (SELECT id FROM weir_data.views WHERE relid = 'per_minute'::regclass);
SELECT late_applied, late_side, late_dropped FROM weir.stat_views;
SELECT weir.rebuild('per_minute', accept_loss => true);
SELECT watermark, emitted = '2024-01-01 00:06:00+00' AS emitted, settled, held_by, late_applied, late_side, late_dropped, next_seq
	FROM weir_data.status WHERE view_id = (SELECT id FROM weir_data.views WHERE relid = 'per_minute'::regclass);
SELECT count(*) FROM weir.late_rows;
UPDATE weir_data.status SET watermark = '2024-01-01 00:09:00+00'
	WHERE view_id = (SELECT id FROM weir_data.views WHERE relid = 'per_minute'::regclass);
SELECT weir.rebuild('per_minute', accept_loss => true);
SELECT watermark, emitted = '2024-01-01 00:06:00+00' AS emitted, next_seq
	FROM weir_data.status WHERE view_id = (SELECT id FROM weir_data.views WHERE relid = 'per_minute'::regclass);

-- It goes with v, by whatever statement; nothing is left.
BEGIN;
DROP TABLE per_minute;
SELECT * FROM places('per_m%');
ROLLBACK;
BEGIN;
DROP FOREIGN TABLE changes_clicks CASCADE;
SELECT * FROM places('per_m%');
ROLLBACK;
BEGIN;
DROP OWNED BY changes_owner;
SELECT * FROM places('per_m%');
ROLLBACK;
SELECT * FROM places('per_m%');
INSERT INTO weir_data.late_rows (view_id, windows, late_by, diff, at) SELECT id, '{one}', '3 min', 1, now() FROM weir_data.views;
DROP TABLE per_minute;
SELECT count(*) FROM weir_data.late_rows;
SELECT count(*) FROM weir_data.status;

SET client_min_messages = error;
RESET search_path;
DROP SCHEMA changes_a, changes_b CASCADE;
DROP OWNED BY changes_owner, changes_other, changes_reader;
DROP ROLE changes_owner, changes_other, changes_reader;
