-- Options about event time: what is accepted, what is refused and how, and what
-- can be changed later.  What they do is in the TAP tests.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pg_weir;
CREATE FOREIGN TABLE event_clicks (url text, amount numeric, ts timestamptz)
	SERVER weir_stream;
CREATE TABLE event_orders (id int PRIMARY KEY, amount numeric, ts timestamptz);
ALTER TABLE event_orders REPLICA IDENTITY FULL;

-- Tries to create a view with options, and to take it away again.  Says what
-- is stored, whether a changelog came with it, and whether notices did.
CREATE FUNCTION try(query text, options text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	stored text;
	d text; h text;
BEGIN
	EXECUTE format('CREATE TABLE event_view WITH (weir.continuous%s) AS %s WITH NO DATA',
		CASE WHEN options <> '' THEN ', ' || options END, query);
	SELECT v.options::text || CASE WHEN v.windowed THEN ', windowed' ELSE '' END
			|| CASE WHEN v.changelog IS NOT NULL THEN ', ' || v.changelog::regclass ELSE '' END
		INTO stored FROM weir_data.views v
		WHERE relid = 'event_view'::regclass;
	DROP TABLE event_view;
	RETURN stored;
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS d = PG_EXCEPTION_DETAIL, h = PG_EXCEPTION_HINT;
	RETURN format('%s: %s', SQLSTATE, SQLERRM)
		|| CASE WHEN d <> '' THEN E'\n  ' || d ELSE '' END
		|| CASE WHEN h <> '' THEN E'\n  ' || h ELSE '' END;
END $$;
CREATE FUNCTION try(options text) RETURNS text LANGUAGE sql AS $$
	SELECT try('SELECT url, weir.tumble(ts, ''1 min'') AS win, count(*) AS n
		FROM event_clicks GROUP BY url, win', options) $$;

-- The defaults: a window over a stream closes, and has a changelog.  Over a table
-- it does not unless one says when; and without a window there is nothing to close.
SELECT try('');
SELECT try('SELECT weir.tumble(ts, ''1 min'') AS win, count(*) FROM event_orders GROUP BY win', '');
SELECT try('SELECT weir.tumble(ts, ''1 min'') AS win, count(*) FROM event_orders GROUP BY win',
	'weir.watermark = ''1 min''');
SELECT try('SELECT url, count(*) FROM event_clicks GROUP BY url', '');
SELECT try('SELECT weir.hop(ts, ''1 min'', ''5 min'') AS win, count(*) FROM event_clicks GROUP BY win', '');
SELECT try('SELECT weir.cumulate(ts, ''1 min'', ''5 min'') AS win, count(*) FROM event_clicks GROUP BY win', '');
SELECT try('SELECT url, weir.session(ts, ''30 min'') AS win, count(*) FROM event_clicks GROUP BY url, win', '');

-- A window that is no column of the view: nobody could tell what is closed.  That
-- takes a default away, and is said.
SET client_min_messages = notice;
SELECT try('SELECT lower(weir.tumble(ts, ''1 min'')) AS since, count(*) FROM event_clicks
	GROUP BY weir.tumble(ts, ''1 min'')', '');
SELECT try('SELECT lower(weir.tumble(ts, ''1 min'')) AS since, count(*) FROM event_clicks
	GROUP BY weir.tumble(ts, ''1 min'')', 'weir.watermark = none');
SET client_min_messages = warning;
SELECT try('SELECT lower(weir.tumble(ts, ''1 min'')) AS since, count(*) FROM event_clicks
	GROUP BY weir.tumble(ts, ''1 min'')', 'weir.watermark = ''5 s''');
SELECT try('SELECT lower(weir.tumble(ts, ''1 min'')) AS since, count(*) FROM event_clicks
	GROUP BY weir.tumble(ts, ''1 min'')', 'weir.late = drop');

-- Values that are right.
SELECT o, try(o) FROM unnest(ARRAY[
	'weir.watermark = ''5 seconds''',
	'weir.watermark = ''0 s''',
	'weir.watermark = ''2 days 3 hours''',
	'weir.watermark = ''3650 days''',
	'weir.watermark = ascending',
	'weir.watermark = p99',
	'weir.watermark = ''p99.9''',
	'weir.watermark = ''p50''',
	'weir.watermark = ''p99.999999''',
	'weir.watermark = none',
	'weir.idle_timeout = ''10 ms''',
	'weir.idle_timeout = off',
	'weir.max_future_skew = ''0 s''',
	'weir.max_future_skew = ''1 hour''',
	'weir.late = retract',
	'weir.late = side_output',
	'weir.late = drop',
	'weir.allowed_lateness = ''0 s''',
	'weir.allowed_lateness = ''1 day'', weir.late = retract',
	'weir.emit = changes',
	'weir.emit = final',
	'weir.changelog = off',
	'weir.changelog = final',
	'weir.changelog = all',
	'weir.changelog = all, weir.watermark = none',
	'weir.changelog_retention = ''7 days''',
	'weir.changelog_retention = off',
	'weir.retention = off']) o;
SELECT try('SELECT weir.hop(ts, ''1 min'', ''5 min'') AS win, count(*) FROM event_clicks GROUP BY win',
	'weir.publish_interval = ''1 s''');
SELECT try('SELECT url, count(*) FROM event_clicks GROUP BY url', 'weir.changelog = all');

-- Values that are wrong.
SELECT o, try(o) FROM unnest(ARRAY[
	'weir.watermark',
	'weir.watermark = ''5''',
	'weir.watermark = 5',
	'weir.watermark = ''''',
	'weir.watermark = soon',
	'weir.watermark = ''-5 s''',
	'weir.watermark = ''1 day -25 hours''',
	'weir.watermark = ''1 month''',
	'weir.watermark = ''3651 days''',
	'weir.watermark = ''2000000000 days''',
	'weir.watermark = p',
	'weir.watermark = p9',
	'weir.watermark = p49',
	'weir.watermark = p100',
	'weir.watermark = "P99"',
	'weir.watermark = ''p99.''',
	'weir.watermark = ''p99.9999999''',
	'weir.watermark = ''p99%''',
	'weir.idle_timeout = ''0 s''',
	'weir.idle_timeout = ''9 ms''',
	'weir.idle_timeout = none',
	'weir.max_future_skew = off',
	'weir.max_future_skew = ''-1 s''',
	'weir.late = ignore',
	'weir.allowed_lateness = ''1 year''',
	'weir.allowed_lateness = off',
	'weir.emit = everything',
	'weir.changelog = on',
	'weir.changelog_retention = ''0 s''',
	'weir.retention = ''7 days''']) o;
SELECT try('SELECT weir.hop(ts, ''1 min'', ''5 min'') AS win, count(*) FROM event_clicks GROUP BY win',
	'weir.publish_interval = ''1 ms''');

-- What would have no effect is refused.
SELECT o, try(o) FROM unnest(ARRAY[
	'weir.watermark = none, weir.emit = final',
	'weir.watermark = none, weir.changelog = final',
	'weir.watermark = none, weir.late = drop',
	'weir.watermark = none, weir.allowed_lateness = ''1 hour''',
	'weir.watermark = none, weir.idle_timeout = ''1 min''',
	'weir.watermark = none, weir.max_future_skew = ''1 min''',
	'weir.watermark = none, weir.idle_timeout = off, weir.emit = changes, weir.changelog = off',
	'weir.watermark = none, weir.changelog_retention = ''1 day''',
	'weir.changelog = off, weir.changelog_retention = ''1 day''',
	'weir.changelog = off, weir.changelog_retention = off',
	'weir.late = drop, weir.allowed_lateness = ''1 hour''',
	'weir.late = side_output, weir.allowed_lateness = ''1 hour''',
	'weir.publish_interval = ''1 s''']) o;
SELECT o, try('SELECT url, count(*) FROM event_clicks GROUP BY url', o) FROM unnest(ARRAY[
	'weir.watermark = ''5 s''',
	'weir.watermark = none',
	'weir.emit = final',
	'weir.changelog = final',
	'weir.late = drop',
	'weir.publish_interval = ''1 s''']) o;
SELECT o, try('SELECT weir.tumble(ts, ''1 min'') AS win, count(*) FROM event_orders GROUP BY win', o) FROM unnest(ARRAY[
	'weir.late = drop',
	'weir.emit = final',
	'weir.late = drop, weir.watermark = ''5 s''']) o;
SELECT try('SELECT weir.hop(ts, ''1 min'', ''5 min'') AS win, count(*) FROM event_clicks GROUP BY win',
	'weir.emit = final, weir.publish_interval = ''1 s''');
SELECT try('SELECT weir.session(ts, ''1 min'') AS win, count(*) FROM event_clicks GROUP BY win',
	'weir.publish_interval = ''1 s''');

-- ALTER TABLE: most can be changed.
CREATE TABLE event_view WITH (weir.continuous) AS
	SELECT url, weir.tumble(ts, '1 min') AS win, count(*) AS n
	FROM event_clicks GROUP BY url, win WITH NO DATA;
CREATE FUNCTION stored() RETURNS text[] LANGUAGE sql AS $$
	SELECT v.options FROM weir_data.views v JOIN pg_class c ON c.oid = v.relid
	WHERE c.relname = 'event_view' $$;
ALTER TABLE event_view SET (weir.watermark = '1 min', weir.idle_timeout = off,
	weir.max_future_skew = '1 hour', weir.late = retract,
	weir.allowed_lateness = '2 days', weir.changelog_retention = '1 hour');
SELECT stored();
ALTER TABLE event_view SET (weir.watermark = p99);
ALTER TABLE event_view RESET (weir.watermark, weir.idle_timeout, weir.max_future_skew);
SELECT stored();
-- what fits together is looked at when the whole statement has been read
ALTER TABLE event_view SET (weir.late = drop);
ALTER TABLE event_view SET (weir.late = drop), RESET (weir.allowed_lateness);
SELECT stored();
ALTER TABLE event_view RESET (weir.late), SET (weir.allowed_lateness = '1 hour');
SELECT stored();
-- what is shown and recorded cannot; nor can windows cease to close
ALTER TABLE event_view SET (weir.emit = final);
ALTER TABLE event_view RESET (weir.emit);
ALTER TABLE event_view SET (weir.changelog = off);
ALTER TABLE event_view RESET (weir.changelog);
ALTER TABLE event_view SET (weir.watermark = none);
ALTER TABLE event_view SET (weir.publish_interval = '1 s');
ALTER TABLE event_view SET (weir.allowed_lateness = '1 month');
SELECT stored();
DROP TABLE event_view;

-- A view whose windows never closed may begin to close them; that gives it no
-- changelog.  And no way back.
CREATE TABLE event_view WITH (weir.continuous) AS
	SELECT weir.hop(ts, '1 min', '5 min') AS win, count(*) AS n
	FROM event_orders GROUP BY win WITH NO DATA;
ALTER TABLE event_view SET (weir.late = drop);
ALTER TABLE event_view SET (weir.watermark = '5 s', weir.late = drop, weir.publish_interval = '5 s');
SELECT stored();
SELECT changelog IS NULL AS none FROM weir_data.views WHERE relid = 'event_view'::regclass;
ALTER TABLE event_view SET (weir.changelog_retention = '1 day');
ALTER TABLE event_view RESET (weir.watermark);
DROP TABLE event_view;

-- without a window as a column there is nothing to begin with
CREATE TABLE event_view WITH (weir.continuous) AS
	SELECT url, count(*) AS n FROM event_clicks GROUP BY url WITH NO DATA;
ALTER TABLE event_view SET (weir.watermark = '5 s');
DROP TABLE event_view;

DROP TABLE event_orders;
DROP FOREIGN TABLE event_clicks;
DROP FUNCTION try(text, text), try(text), stored();
