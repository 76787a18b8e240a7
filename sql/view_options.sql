-- Options of continuous views: what is accepted, what is refused and how.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pg_weir;
\getenv bootstrap WEIR_BOOTSTRAP
CREATE SERVER option_kafka FOREIGN DATA WRAPPER weir_kafka
	OPTIONS (bootstrap_servers :'bootstrap');
CREATE FOREIGN TABLE option_clicks (url text, amount numeric, ts timestamptz)
	SERVER option_kafka OPTIONS (topic 'view_options');

-- Tries to create a view with options, and to take it away again.
CREATE FUNCTION try(options text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	stored text;
	d text; h text;
BEGIN
	EXECUTE format('CREATE TABLE option_view WITH (%s) AS
		SELECT url, count(*) AS n FROM option_clicks GROUP BY url WITH NO DATA', options);
	SELECT v.options::text INTO stored FROM weir_data.views v
		WHERE relid = 'option_view'::regclass;
	DROP TABLE option_view;
	RETURN stored;
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS d = PG_EXCEPTION_DETAIL, h = PG_EXCEPTION_HINT;
	RETURN format('%s: %s', SQLSTATE, SQLERRM)
		|| CASE WHEN d <> '' THEN E'\n  ' || d ELSE '' END
		|| CASE WHEN h <> '' THEN E'\n  ' || h ELSE '' END;
END $$;

-- continuous, alone and with a value.  Without it our options are a mistake.
SELECT o, try(o) FROM unnest(ARRAY[
	'weir.continuous',
	'weir.continuous = true',
	'weir.continuous = on',
	'weir.continuous = off',
	'weir.continuous = maybe',
	'weir.start = ''latest''',
	'weir.continuous, weir.continuous']) o;

-- The others are stored as given; core's options go to core.
SELECT o, try('weir.continuous, ' || o) FROM unnest(ARRAY[
	'weir.commit_interval = ''50 ms''',
	'weir.commit_interval = ''00:00:01''',
	'weir.commit_interval = ''1 hour''',
	'weir.commit_interval = ''10 ms'', fillfactor = 70, autovacuum_enabled = off',
	'weir.on_error = stop',
	'weir.on_error = ''dead_letter''',
	'weir.start = earliest',
	'weir.start = latest',
	'weir.start = ''2026-01-01 00:00+00''',
	'weir.start = ''{"0": 0}''',
	'weir.start = ''{"2": "0", "1": 0}''',
	'weir.start = ''{}''']) o;

-- Bad values are errors that say what to write instead.
SELECT o, try('weir.continuous, ' || o) FROM unnest(ARRAY[
	'weir.commit_interval',
	'weir.commit_interval = 200',
	'weir.commit_interval = ''200''',
	'weir.commit_interval = ''9 ms''',
	'weir.commit_interval = ''61 minutes''',
	'weir.commit_interval = ''1 day''',
	'weir.commit_interval = ''-1 s''',
	'weir.commit_interval = ''soon''',
	'weir.commit_interval = ''''',
	'weir.on_error = ''ignore''',
	'weir.start = ''yesterday-ish''',
	'weir.start = ''infinity''',
	'weir.start = ''{"0": 1}''',
	'weir.start = ''{"7": 0}''',
	'weir.start = ''{"0": -1}''',
	'weir.start = ''{"0": 1.5}''',
	'weir.start = ''{"0": null}''',
	'weir.start = ''{"0": {}}''',
	'weir.start = ''{"x": 1}''',
	'weir.start = ''{"99999999999": 1}''',
	'weir.start = ''{"0" 1}''']) o;

-- Unknown options: the nearest name is offered.  Core's are core's business.
SELECT o, try('weir.continuous, ' || o) FROM unnest(ARRAY[
	'weir.comit_interval = ''1 s''',
	'weir.lateness = ''1 s''',
	'weir.nothing_like_it = 1',
	'"weir.continuous" = on',
	'fillfactor = 5',
	'nonsense = 1',
	'weird.continuous']) o;

-- Options of later releases are refused, unless they say what happens now.
SELECT o, try('weir.continuous, ' || o) FROM unnest(ARRAY[
	'weir.watermark = none',
	'weir.watermark = ''5 seconds''',
	'weir.watermark = ascending',
	'weir.idle_timeout = off',
	'weir.idle_timeout = ''30 seconds''',
	'weir.max_future_skew = ''5 minutes''',
	'weir.late = retract',
	'weir.allowed_lateness = ''1 day''',
	'weir.emit = changes',
	'weir.emit = final',
	'weir.publish_interval = ''1 s''',
	'weir.changelog = off',
	'weir.changelog = final',
	'weir.changelog_retention = ''1 day''',
	'weir.retention = off',
	'weir.retention = ''7 days''',
	'weir.append_only = off',
	'weir.append_only = error',
	'weir.append_only']) o;

-- ALTER TABLE SET and RESET.
CREATE TABLE option_view WITH (weir.continuous, weir.start = 'latest') AS
	SELECT url, count(*) AS n FROM option_clicks GROUP BY url WITH NO DATA;
CREATE FUNCTION stored() RETURNS TABLE (ours text[], core text[]) LANGUAGE sql AS $$
	SELECT v.options, c.reloptions FROM weir_data.views v JOIN pg_class c ON c.oid = v.relid
	WHERE c.relname = 'option_view' $$;
SELECT * FROM stored();
ALTER TABLE option_view SET (weir.commit_interval = '50 ms');
SELECT * FROM stored();
ALTER TABLE option_view SET (weir.commit_interval = '70 ms', weir.on_error = stop);
SELECT * FROM stored();
-- mixed with core's options and with other subcommands: all in one
ALTER TABLE option_view SET (weir.on_error = dead_letter, fillfactor = 60),
	ALTER COLUMN n SET STATISTICS 10, RESET (weir.commit_interval);
SELECT * FROM stored();
SELECT attstattarget FROM pg_attribute
	WHERE attrelid = 'option_view'::regclass AND attname = 'n';
-- and none of it if one fails, whichever it is
ALTER TABLE option_view SET (weir.on_error = stop, fillfactor = 5);
ALTER TABLE option_view SET (weir.on_error = stopp, fillfactor = 70);
SELECT * FROM stored();
ALTER TABLE option_view RESET (weir.on_error, fillfactor);
SELECT * FROM stored();
-- what cannot be changed, what does not exist
ALTER TABLE option_view SET (weir.start = 'earliest');
ALTER TABLE option_view RESET (weir.start);
ALTER TABLE option_view SET (weir.continuous = off);
ALTER TABLE option_view RESET (weir.continuous);
ALTER TABLE option_view RESET (weir.comit_interval);
ALTER TABLE option_view RESET (weir.commit_interval = '1 s');
ALTER TABLE option_view SET (weir.watermark = '1 s');
ALTER TABLE option_view SET (weir.on_error = stop, weir.on_error = stop);
-- rolled back with its savepoint
BEGIN;
SAVEPOINT s;
ALTER TABLE option_view SET (weir.on_error = stop);
ROLLBACK TO s;
SELECT * FROM stored();
COMMIT;
-- other relations have no such options
CREATE TABLE option_plain (a int);
ALTER TABLE option_plain SET (weir.commit_interval = '1 s');
ALTER TABLE option_plain SET (weird.x = 1);
ALTER TABLE option_missing SET (weir.commit_interval = '1 s');
SET client_min_messages = notice;
ALTER TABLE IF EXISTS option_missing SET (weir.commit_interval = '1 s');
SET client_min_messages = warning;
-- only the owner may
CREATE ROLE regress_weir_other;
SET ROLE regress_weir_other;
ALTER TABLE option_view SET (weir.commit_interval = '1 s');
RESET ROLE;

DROP TABLE option_plain, option_view;
DROP FUNCTION try, stored;
DROP SERVER option_kafka CASCADE;
DROP ROLE regress_weir_other;
SELECT count(*) FROM weir_data.views;
