--
-- weir.cumulate: the windows that begin at a multiple of the size and grow by
-- steps up to it, as far as they hold a timestamp.
--
-- Expected windows come from plain SQL: date_bin() for physical sizes, a ladder of
-- edges for days and months.  Most blocks print how many of many cases disagree,
-- which is 0.
--
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pg_weir;
RESET client_min_messages;
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';
SET intervalstyle = 'postgres';

-- What a user sees first: the day so far, each six hours.
SELECT weir.cumulate('2024-02-29 07:34:56+00', '6 hours', '1 day');
SELECT weir.cumulate('2024-02-29 23:59:59.999999'::timestamp, '6 hours', '1 day');
SELECT weir.cumulate('2024-02-29 07:34:56'::timestamp, '1 month', '3 months');
-- As wide as the step they are those of weir.tumble.
SELECT weir.cumulate('2024-02-29 12:34:56+00', '1 week', '1 week') = weir.tumble('2024-02-29 12:34:56+00', '1 week') AS tumbles;
SELECT pg_typeof(weir.cumulate(now(), '1 day', '1 day')) AS with_zone,
	   pg_typeof(weir.cumulate(now()::timestamp, '1 day', '1 day')) AS without_zone;

-- The origin says where the size begins, and not only the step.
SELECT weir.cumulate('2024-02-29 07:34:56+00', '6 hours', '1 day', '2024-01-01 05:00+00');
-- A week of days in a zone; one of them has 23 hours.
SELECT upper(w) - lower(w) AS grown, upper(w) AT TIME ZONE 'Europe/Berlin' AS until
FROM weir.cumulate('2024-03-29 12:00+00', '1 day', '1 week', tz => 'Europe/Berlin') w;
-- Samoa had no 30 December 2011: there is no window that ends with it.
SELECT weir.cumulate('2011-12-29 06:00-10', '1 day', '5 days', tz => 'Pacific/Apia');
SELECT weir.cumulate('2011-12-29 06:00-10', '1 day', '6 days', '2011-12-28 00:00-10', 'Pacific/Apia');

-- NULL in, no row out; only the origin may be NULL.
SELECT (SELECT count(*) FROM weir.cumulate(NULL::timestamptz, '1 day', '1 day')) AS ts,
	   (SELECT count(*) FROM weir.cumulate(now(), NULL, '1 day')) AS step,
	   (SELECT count(*) FROM weir.cumulate(now(), '1 day', NULL)) AS size,
	   (SELECT count(*) FROM weir.cumulate(now(), '1 day', '1 day', NULL, NULL)) AS tz,
	   (SELECT count(*) FROM weir.cumulate(now(), '1 day', '1 day', NULL, 'UTC')) AS origin,
	   (SELECT count(*) FROM weir.cumulate(NULL::timestamp, '1 day', '1 day')) AS plain_ts,
	   (SELECT count(*) FROM weir.cumulate(now()::timestamp, NULL, '1 day')) AS plain_step,
	   (SELECT count(*) FROM weir.cumulate(now()::timestamp, '1 day', NULL)) AS plain_size,
	   (SELECT count(*) FROM weir.cumulate(now()::timestamp, '1 day', '1 day', NULL)) AS plain_origin;

-- Each wrong argument has an error of its own.
DO $$
DECLARE
	call text;
	hint text;
BEGIN
	FOREACH call IN ARRAY ARRAY[
		$q$weir.cumulate('2024-01-01'::timestamptz, '5 minutes', '12 minutes')$q$,
		$q$weir.cumulate('2024-01-01'::timestamptz, '1 hour', '5 minutes')$q$,
		$q$weir.cumulate('2024-01-01'::timestamp, '2 months', '1 year 1 month')$q$,
		$q$weir.cumulate('2024-01-01'::timestamp, '7 hours', '1 day')$q$,
		$q$weir.cumulate('2024-01-01'::timestamptz, '1 day', '1 month')$q$,
		$q$weir.cumulate('2024-01-01'::timestamptz, '1 hour', '1 day', tz => 'Europe/Berlin')$q$,
		$q$weir.cumulate('2024-01-01'::timestamptz, '1 hour', '1 day', tz => 'Etc/GMT-3')$q$,
		$q$weir.cumulate('2024-01-01'::timestamptz, '1 hour', '24 hours', tz => 'Europe/Berlin')$q$,
		$q$weir.cumulate('2024-01-01'::timestamptz, '1 day 1 hour', '2 days 2 hours')$q$,
		$q$weir.cumulate('2024-01-01'::timestamptz, '0', '1 minute')$q$,
		$q$weir.cumulate('2024-01-01'::timestamptz, '1 minute', '0')$q$,
		$q$weir.cumulate('2024-01-01'::timestamptz, '-1 minute', '-5 minutes')$q$,
		$q$weir.cumulate('2024-01-01'::timestamptz, '1 microsecond', '2 seconds')$q$,
		$q$weir.cumulate('infinity'::timestamptz, '1 hour', '1 hour')$q$,
		$q$weir.cumulate('-infinity'::timestamp, '1 hour', '1 hour')$q$,
		$q$weir.cumulate('2024-01-01'::timestamptz, '1 day', '1 day', 'infinity')$q$,
		$q$weir.cumulate('2024-01-01'::timestamptz, '1 day', '1 day', NULL, 'Mars/Olympus')$q$,
		$q$weir.cumulate('294276-12-31 01:00:00'::timestamptz, '1 hour', '1 day')$q$,
		$q$weir.cumulate('4714-11-24 01:00:00 BC'::timestamp, '1 day', '7 days')$q$]
	LOOP
		BEGIN
			EXECUTE 'SELECT count(*) FROM ' || call INTO hint;
			RAISE NOTICE E'%\n    no error: %', left(call, 90), hint;
		EXCEPTION WHEN others THEN
			GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
			RAISE NOTICE E'%\n    % %\n    %', left(call, 90), sqlstate, left(sqlerrm, 80), hint;
		END;
	END LOOP;
END
$$;
--
-- Physical sizes, against date_bin().  From 4001 BC to 9999, around 1970 and 2000,
-- and a microsecond beside edges.
--
CREATE TEMP TABLE times (ts timestamptz);
SELECT setseed(0.42);
INSERT INTO times
SELECT '4001-01-01 BC'::timestamptz + random() * ('9999-12-31'::timestamptz - '4001-01-01 BC'::timestamptz)
FROM generate_series(1, 400);
INSERT INTO times
SELECT '1969-12-01'::timestamptz + random() * interval '60 days'
FROM generate_series(1, 200);
INSERT INTO times
SELECT e::timestamptz + n * interval '1 minute' + d * interval '1 microsecond'
FROM unnest(ARRAY['1970-01-01', '2000-01-01', '2000-01-03', '2024-02-29', '0001-01-01 BC']) e,
	 generate_series(-3, 3) n, generate_series(-1, 1) d;
CREATE TEMP TABLE physical (step interval, size interval);
INSERT INTO physical VALUES
	('1 minute', '1 minute'), ('1 minute', '5 minutes'), ('5 minutes', '1 hour'), ('1 hour', '24 hours'),
	('7 seconds', '21 seconds'), ('0.5 seconds', '2.5 seconds'), ('3 microseconds', '9 microseconds'), ('100000 hours', '1000000 hours');

-- They begin at the last size before ts, and end at steps after ts.
SELECT count(*) > 10000 AS many, sum(cardinality(found)) > 50000 AS windows,
	   count(*) FILTER (WHERE found <> expected) AS wrong
FROM times, physical,
	 (VALUES (NULL::timestamptz), ('2024-01-31 02:30:00.5+00'), ('1999-12-31 23:59:59.999999+00'), ('0044-03-15 12:00:00+00 BC')) o(origin),
	 LATERAL (SELECT ARRAY(SELECT weir.cumulate(ts, step, size, origin, 'Asia/Kathmandu')) AS found) f,
	 LATERAL (SELECT date_bin(size, ts, coalesce(origin, '2000-01-03'::timestamp AT TIME ZONE 'Asia/Kathmandu')) AS bin) b,
	 LATERAL (SELECT ARRAY(SELECT tstzrange(bin, bin + i * step)
						   FROM generate_series(1, (extract(epoch FROM size) / extract(epoch FROM step))::int) i
						   WHERE bin + i * step > ts) AS expected) x;
-- Without a zone, where days are 24 hours, too.
SELECT count(*) > 10000 AS many, count(*) FILTER (WHERE found <> expected) AS wrong
FROM (SELECT ts::timestamp FROM times) t,
	 (TABLE physical UNION ALL VALUES (interval '1 day', interval '3 days'), ('1 day', '1 week'), ('8 hours', '2 days'), ('12 hours', '1 week')) s(step, size),
	 (VALUES (NULL::timestamp), ('2024-01-31 02:30:00.5'), ('0044-03-15 12:00:00 BC')) o(origin),
	 LATERAL (SELECT ARRAY(SELECT weir.cumulate(ts, step, size, origin)) AS found) f,
	 LATERAL (SELECT date_bin(size, ts, coalesce(origin, '2000-01-03')) AS bin) b,
	 LATERAL (SELECT ARRAY(SELECT tsrange(bin, bin + i * step)
						   FROM generate_series(1, (extract(epoch FROM size) / extract(epoch FROM step))::int) i
						   WHERE bin + i * step > ts) AS expected) x;

--
-- All edges of days and months lie on a ladder: the origin and so many units.  A
-- rung is the first instant at which the clock of the zone shows that time or a
-- later one: here found by looking at the clock every half hour.
--
CREATE FUNCTION pg_temp.rung(local timestamp, zone text) RETURNS timestamptz LANGUAGE sql AS $$
	SELECT min(t)
	FROM generate_series(local AT TIME ZONE 'UTC' - interval '15 hours', local AT TIME ZONE 'UTC' + interval '15 hours', '30 minutes') t
	WHERE t AT TIME ZONE zone >= local $$;
CREATE TEMP TABLE zones (zone text, since date, until date);
INSERT INTO zones VALUES
	('UTC', '2023-10-01', '2024-12-01'),
	('Europe/Berlin', '2023-10-01', '2024-12-01'),
	('America/New_York', '2023-10-01', '2024-12-01'),
	('Australia/Lord_Howe', '2023-10-01', '2024-12-01'),	-- by half an hour
	('Pacific/Apia', '2011-10-01', '2012-03-01');	-- had no 30 December 2011
CREATE TEMP TABLE origins (unit interval, local timestamp, given boolean);
INSERT INTO origins VALUES
	('1 day', '2000-01-03', false), ('1 day', '2024-02-29 02:30', true), ('1 day', '1969-12-31 23:30', true),
	('1 month', '2000-01-01', false), ('1 month', '2024-01-31 02:30', true), ('1 month', '2020-02-29', true);
CREATE TEMP TABLE ladder AS
SELECT zone, unit, local, given, u, u BETWEEN u0 + 35 AND u1 - 35 AS inner_rung, pg_temp.rung(local + u * unit, zone) AS e
FROM zones, origins,
	 LATERAL (SELECT CASE unit WHEN '1 day' THEN since - local::date ELSE (1966 - date_part('year', local)::int) * 12 END AS u0,
					 CASE unit WHEN '1 day' THEN until - local::date ELSE (2030 - date_part('year', local)::int) * 12 END AS u1) r,
	 generate_series(u0, u1) u;
CREATE UNIQUE INDEX ON ladder (zone, unit, local, u);
ANALYZE ladder;
SELECT count(*) > 10000 AS many, count(*) FILTER (WHERE e IS NULL) AS broken FROM ladder;

CREATE TEMP TABLE sizes (unit interval, step int, size int);
INSERT INTO sizes VALUES
	('1 day', 1, 1), ('1 day', 1, 7), ('1 day', 2, 6), ('1 day', 3, 30), ('1 day', 1, 4),
	('1 month', 1, 1), ('1 month', 1, 12), ('1 month', 2, 6), ('1 month', 5, 15);
CREATE TEMP TABLE windows AS
SELECT DISTINCT zone, unit, local, step, size, e AS since, tstzrange(e, until) AS w
FROM sizes JOIN ladder l USING (unit), generate_series(step, size, step) grown,
	 LATERAL (SELECT (SELECT e FROM ladder h WHERE (h.zone, h.unit, h.local, h.u) = (l.zone, l.unit, l.local, l.u + grown)) AS until) h
WHERE u % size = 0 AND e < until;
CREATE INDEX ON windows (zone, unit, local, step, size, since);

-- Times at rungs, a microsecond beside them, and anywhere.
CREATE TEMP TABLE moments AS
SELECT zone, unit, local, given, CASE WHEN given THEN local AT TIME ZONE zone END AS origin, e + d AS ts
FROM ladder, unnest(ARRAY[interval '0', '-1 microsecond', '1 microsecond', random() * unit]) d
WHERE inner_rung AND (random() < 0.04 OR unit = '1 day' AND
	((e AT TIME ZONE zone)::date IN ('2023-10-29', '2023-11-05', '2024-03-10', '2024-03-31', '2024-04-07', '2024-10-06', '2024-10-27', '2024-02-29') OR
	 e BETWEEN '2011-12-28' AND '2012-01-01'));

SELECT zone, unit, count(*) > 300 AS many, count(*) FILTER (WHERE found <> expected) AS wrong
FROM moments JOIN sizes USING (unit),
	 LATERAL (SELECT ARRAY(SELECT weir.cumulate(ts, step * unit, size * unit, origin, zone)) AS found) f,
	 LATERAL (SELECT ARRAY(SELECT w FROM windows o
						   WHERE (o.zone, o.unit, o.local, o.step, o.size) = (moments.zone, moments.unit, moments.local, sizes.step, sizes.size)
							 AND since <= ts AND since > ts - (sizes.size + 2) * moments.unit AND w @> ts ORDER BY upper(w)) AS expected) x
GROUP BY zone, unit ORDER BY zone, unit;

-- Without a zone the clock is that of UTC.
SELECT count(*) > 1000 AS many, count(*) FILTER (WHERE found <> expected) AS wrong
FROM moments JOIN sizes USING (unit),
	 LATERAL (SELECT ARRAY(SELECT weir.cumulate(ts AT TIME ZONE 'UTC', step * unit, size * unit, origin AT TIME ZONE 'UTC')) AS found) f,
	 LATERAL (SELECT ARRAY(SELECT tsrange(lower(w) AT TIME ZONE 'UTC', upper(w) AT TIME ZONE 'UTC') FROM windows o
						   WHERE (o.zone, o.unit, o.local, o.step, o.size) = (moments.zone, moments.unit, moments.local, sizes.step, sizes.size)
							 AND since <= ts AND since > ts - (sizes.size + 2) * moments.unit AND w @> ts ORDER BY upper(w)) AS expected) x
WHERE zone = 'UTC';

-- An origin on the 31st: each edge is clamped from the origin itself.
SELECT weir.cumulate('2024-02-10'::timestamp, '1 month', '4 months', '2023-10-31 12:00');

-- Immutable, and in parts of a parallel query.
SELECT proname, provolatile, proparallel, proisstrict, proretset, prorettype::regtype
FROM pg_proc WHERE pronamespace = 'weir'::regnamespace AND proname = 'cumulate' ORDER BY prorettype::regtype::text;

-- Both ways to write the query, and what they mean.
CREATE TEMP TABLE events (ts timestamptz, amount int);
INSERT INTO events SELECT '2024-01-01 00:30+00'::timestamptz + n * interval '7 minutes', n FROM generate_series(0, 20) n;
SELECT weir.cumulate(ts, '30 minutes', '2 hours') AS win, count(*), sum(amount) FROM events GROUP BY win ORDER BY win;
SELECT win, count(*), sum(amount) FROM events, weir.cumulate(ts, '30 minutes', '2 hours') AS win GROUP BY win ORDER BY win;
SELECT win, count(*), sum(amount)
FROM unnest(ARRAY['2024-01-01 00:00+00'::timestamptz, '2024-01-01 02:00+00']) h, generate_series(1, 4) n,
	 LATERAL (SELECT tstzrange(h, h + n * interval '30 minutes') AS win) w
	 JOIN events ON win @> ts
GROUP BY win ORDER BY win;
