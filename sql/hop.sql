--
-- weir.hop: every window of a size that holds a timestamp, of windows that begin a
-- slide apart.
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

-- What a user sees first: overlapping windows, in the order of their time.
SELECT weir.hop('2024-02-29 12:34:56+00', '1 minute', '3 minutes');
-- The size need not be a multiple of the slide: two windows, or three.
SELECT weir.hop('2024-02-29 12:33:56+00', '2 minutes', '5 minutes');
SELECT weir.hop('2024-02-29 12:34:56+00', '2 minutes', '5 minutes');
-- Below the slide there are times between the windows.
SELECT m AS minute, weir.hop('2024-02-29 12:00+00'::timestamptz + m * interval '1 minute', '3 minutes', '1 minute')
FROM generate_series(0, 5) m;
-- As wide as the slide they are those of weir.tumble.
SELECT weir.hop('2024-02-29 12:34:56'::timestamp, '1 month', '1 month') = weir.tumble('2024-02-29 12:34:56'::timestamp, '1 month') AS tumbles;
SELECT pg_typeof(weir.hop(now(), '1 day', '1 day')) AS with_zone,
	   pg_typeof(weir.hop(now()::timestamp, '1 day', '1 day')) AS without_zone;

-- Two days across a day of 23 hours, of 25, and of 24 and a half.
SELECT zone, d AT TIME ZONE zone AS at, upper(w) - lower(w) AS two_days, lower(w) AT TIME ZONE zone AS from_clock, upper(w) AT TIME ZONE zone AS to_clock
FROM (VALUES ('2024-03-31 12:00+00'::timestamptz, 'Europe/Berlin'), ('2024-10-27 12:00+00', 'Europe/Berlin'), ('2024-04-07 00:00+00', 'Australia/Lord_Howe')) v(d, zone),
	 weir.hop(d, '1 day', '2 days', tz => zone) w;

-- Hours beside days where a day always has 24; elsewhere '24 hours' says it.
SELECT count(*), min(lower(w)) AS first FROM weir.hop('2024-02-29 12:34:56+00', '1 hour', '1 day') w;
SELECT count(*), min(lower(w)) AS first FROM weir.hop('2024-02-29 12:34:56+00', '1 day', '36 hours', tz => 'Etc/GMT-3') w;
SELECT count(*), min(lower(w)) AS first FROM weir.hop('2024-02-29 12:34:56'::timestamp, '12 hours', '1 week') w;
SELECT count(*), min(lower(w)) AS first FROM weir.hop('2024-02-29 12:34:56+00', '1 hour', '24 hours', tz => 'Europe/Berlin') w;

-- NULL in, no row out; only the origin may be NULL.
SELECT (SELECT count(*) FROM weir.hop(NULL::timestamptz, '1 day', '1 day')) AS ts,
	   (SELECT count(*) FROM weir.hop(now(), NULL, '1 day')) AS slide,
	   (SELECT count(*) FROM weir.hop(now(), '1 day', NULL)) AS size,
	   (SELECT count(*) FROM weir.hop(now(), '1 day', '1 day', NULL, NULL)) AS tz,
	   (SELECT count(*) FROM weir.hop(now(), '1 day', '1 day', NULL, 'UTC')) AS origin,
	   (SELECT count(*) FROM weir.hop(NULL::timestamp, '1 day', '1 day')) AS plain_ts,
	   (SELECT count(*) FROM weir.hop(now()::timestamp, NULL, '1 day')) AS plain_slide,
	   (SELECT count(*) FROM weir.hop(now()::timestamp, '1 day', NULL)) AS plain_size,
	   (SELECT count(*) FROM weir.hop(now()::timestamp, '1 day', '1 day', NULL)) AS plain_origin;

-- Each wrong argument has an error of its own.
DO $$
DECLARE
	call text;
	hint text;
BEGIN
	FOREACH call IN ARRAY ARRAY[
		$q$weir.hop('2024-01-01'::timestamptz, '1 hour', '1 month')$q$,
		$q$weir.hop('2024-01-01'::timestamp, '1 month', '30 days')$q$,
		$q$weir.hop('2024-01-01'::timestamptz, '1 hour', '1 day', tz => 'Europe/Berlin')$q$,
		$q$weir.hop('2024-01-01'::timestamptz, '1 day', '36 hours', tz => 'Europe/Berlin')$q$,
		$q$weir.hop('2024-01-01'::timestamptz, '1 day 1 hour', '2 days')$q$,
		$q$weir.hop('2024-01-01'::timestamptz, '1 day', '2 days 1 hour')$q$,
		$q$weir.hop('2024-01-01'::timestamptz, '0', '1 minute')$q$,
		$q$weir.hop('2024-01-01'::timestamptz, '-1 minute', '1 minute')$q$,
		$q$weir.hop('2024-01-01'::timestamptz, '1 minute', '-1 minute')$q$,
		$q$weir.hop('2024-01-01'::timestamptz, '1 microsecond', '1 second 1 microsecond')$q$,
		$q$weir.hop('2024-01-01'::timestamptz, '1 hour', '2000000000 days')$q$,
		$q$weir.hop('infinity'::timestamptz, '1 hour', '1 hour')$q$,
		$q$weir.hop('-infinity'::timestamp, '1 hour', '1 hour')$q$,
		$q$weir.hop('2024-01-01'::timestamptz, '1 day', '1 day', '-infinity')$q$,
		$q$weir.hop('2024-01-01'::timestamptz, '1 day', '1 day', NULL, 'Mars/Olympus')$q$,
		$q$weir.hop('294276-12-31 23:30:00'::timestamptz, '10 minutes', '1 hour')$q$,
		$q$weir.hop('294276-12-31 12:00:00'::timestamp, '1 day', '2 days')$q$,
		$q$weir.hop('294276-11-30 12:00:00'::timestamp, '1 month', '2 months')$q$,
		$q$weir.hop('4714-11-24 12:00:00+00 BC'::timestamptz, '1 day', '2 days')$q$,
		$q$weir.hop('4714-11-26 12:00:00+00 BC'::timestamptz, '1 day', '4 days', tz => 'America/New_York')$q$]
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
-- The last windows whose edges are timestamps are still there, and the first.
SELECT weir.hop('294276-12-31 22:30:00'::timestamp, '30 minutes', '1 hour');
SELECT weir.hop('4714-11-25 12:00:00 BC'::timestamp, '1 day', '2 days');

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
CREATE TEMP TABLE physical (slide interval, size interval);
INSERT INTO physical VALUES
	('1 minute', '1 minute'), ('1 minute', '5 minutes'), ('2 minutes', '5 minutes'), ('7 seconds', '1 minute'),
	('5 minutes', '1 minute'), ('90 minutes', '24 hours'), ('24 hours', '90 minutes'), ('24 hours', '168 hours'),
	('1 second', '1.000001 seconds'), ('0.5 seconds', '0.499999 seconds'), ('3 microseconds', '7 microseconds'),
	('100000 hours', '1000000 hours');

-- The windows that hold ts begin at the last slide before it, and at those before
-- that from which the size still reaches it.
SELECT count(*) > 10000 AS many, sum(cardinality(found)) > 50000 AS windows,
	   count(*) FILTER (WHERE found <> expected) AS wrong
FROM times, physical,
	 (VALUES (NULL::timestamptz), ('2024-01-31 02:30:00.5+00'), ('1999-12-31 23:59:59.999999+00'), ('0044-03-15 12:00:00+00 BC')) o(origin),
	 LATERAL (SELECT ARRAY(SELECT weir.hop(ts, slide, size, origin, 'Asia/Kathmandu')) AS found) f,
	 LATERAL (SELECT date_bin(slide, ts, coalesce(origin, '2000-01-03'::timestamp AT TIME ZONE 'Asia/Kathmandu')) AS bin) b,
	 LATERAL (SELECT ARRAY(SELECT tstzrange(bin - i * slide, bin - i * slide + size)
						   FROM generate_series(ceil(extract(epoch FROM size) / extract(epoch FROM slide))::int, 0, -1) i
						   WHERE bin - i * slide + size > ts) AS expected) x;
-- Without a zone, where days are 24 hours, too.
SELECT count(*) > 10000 AS many, count(*) FILTER (WHERE found <> expected) AS wrong
FROM (SELECT ts::timestamp FROM times) t,
	 (TABLE physical UNION ALL VALUES (interval '1 day', interval '3 days'), ('3 days', '1 week'), ('2 days', '1 day'), ('8 hours', '2 days'), ('1 day', '36 hours')) s(slide, size),
	 (VALUES (NULL::timestamp), ('2024-01-31 02:30:00.5'), ('0044-03-15 12:00:00 BC')) o(origin),
	 LATERAL (SELECT ARRAY(SELECT weir.hop(ts, slide, size, origin)) AS found) f,
	 LATERAL (SELECT date_bin(slide, ts, coalesce(origin, '2000-01-03')) AS bin) b,
	 LATERAL (SELECT ARRAY(SELECT tsrange(bin - i * slide, bin - i * slide + size)
						   FROM generate_series(ceil(extract(epoch FROM size) / extract(epoch FROM slide))::int, 0, -1) i
						   WHERE bin - i * slide + size > ts) AS expected) x;

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
ANALYZE ladder;
SELECT count(*) > 10000 AS many, count(*) FILTER (WHERE e IS NULL) AS broken FROM ladder;

CREATE TEMP TABLE sizes (unit interval, slide int, size int);
INSERT INTO sizes VALUES
	('1 day', 1, 1), ('1 day', 1, 2), ('1 day', 2, 3), ('1 day', 3, 7), ('1 day', 7, 30), ('1 day', 5, 2), ('1 day', 2, 1),
	('1 month', 1, 1), ('1 month', 1, 3), ('1 month', 2, 5), ('1 month', 12, 30), ('1 month', 5, 2), ('1 month', 3, 1);
CREATE TEMP TABLE windows AS
SELECT zone, unit, local, slide, size, l.e AS since, tstzrange(l.e, h.e) AS w
FROM sizes JOIN ladder l USING (unit) JOIN ladder h USING (zone, unit, local)
WHERE l.u % slide = 0 AND h.u = l.u + size;
CREATE INDEX ON windows (zone, unit, local, slide, size, since);

-- Times at rungs, a microsecond beside them, and anywhere.
CREATE TEMP TABLE moments AS
SELECT zone, unit, local, given, CASE WHEN given THEN local AT TIME ZONE zone END AS origin, e + d AS ts
FROM ladder, unnest(ARRAY[interval '0', '-1 microsecond', '1 microsecond', random() * unit]) d
WHERE inner_rung AND (random() < 0.04 OR unit = '1 day' AND
	((e AT TIME ZONE zone)::date IN ('2023-10-29', '2023-11-05', '2024-03-10', '2024-03-31', '2024-04-07', '2024-10-06', '2024-10-27', '2024-02-29') OR
	 e BETWEEN '2011-12-28' AND '2012-01-01'));

SELECT zone, unit, count(*) > 300 AS many, count(*) FILTER (WHERE found <> expected) AS wrong
FROM moments JOIN sizes USING (unit),
	 LATERAL (SELECT ARRAY(SELECT weir.hop(ts, slide * unit, size * unit, origin, zone)) AS found) f,
	 LATERAL (SELECT ARRAY(SELECT w FROM windows o
						   WHERE (o.zone, o.unit, o.local, o.slide, o.size) = (moments.zone, moments.unit, moments.local, sizes.slide, sizes.size)
							 AND since <= ts AND since > ts - (sizes.size + 2) * moments.unit AND w @> ts ORDER BY since) AS expected) x
GROUP BY zone, unit ORDER BY zone, unit;

-- Without a zone the clock is that of UTC.
SELECT count(*) > 1000 AS many, count(*) FILTER (WHERE found <> expected) AS wrong
FROM moments JOIN sizes USING (unit),
	 LATERAL (SELECT ARRAY(SELECT weir.hop(ts AT TIME ZONE 'UTC', slide * unit, size * unit, origin AT TIME ZONE 'UTC')) AS found) f,
	 LATERAL (SELECT ARRAY(SELECT tsrange(lower(w) AT TIME ZONE 'UTC', upper(w) AT TIME ZONE 'UTC') FROM windows o
						   WHERE (o.zone, o.unit, o.local, o.slide, o.size) = (moments.zone, moments.unit, moments.local, sizes.slide, sizes.size)
							 AND since <= ts AND since > ts - (sizes.size + 2) * moments.unit AND w @> ts ORDER BY since) AS expected) x
WHERE zone = 'UTC';

-- An origin on the 31st: each edge is clamped from the origin itself.
SELECT weir.hop('2024-03-10'::timestamp, '1 month', '2 months', '2023-10-31 12:00');

-- Arguments that change from row to row are followed, and a scan that stops early
-- leaves nothing behind for the next one.
SELECT count(*) > 5000 AS many, count(*) FILTER (WHERE w IS DISTINCT FROM expected) AS stale
FROM (SELECT ts, slide, size, (SELECT lower(weir.hop(ts, slide, size)) LIMIT 1) AS w, (SELECT min(lower(w)) FROM weir.hop(ts, slide, size) w) AS expected
	  FROM (SELECT * FROM times, physical ORDER BY md5(ts::text || slide::text || size::text)) s) x;
SELECT n, (SELECT count(*) FROM (SELECT weir.hop('2024-02-29 12:34:56+00', '1 minute', n * interval '1 minute') LIMIT n - 1) s) AS before_last
FROM generate_series(1, 5) n;
SELECT n FROM generate_series(1, 5) n
WHERE EXISTS (SELECT FROM weir.hop('2024-02-29 12:34:56+00', '1 minute', n * interval '1 minute') w WHERE lower(w) = '2024-02-29 12:32+00');

-- Immutable, and in parts of a parallel query.
SELECT proname, provolatile, proparallel, proisstrict, proretset, prorettype::regtype
FROM pg_proc WHERE pronamespace = 'weir'::regnamespace AND proname = 'hop' ORDER BY prorettype::regtype::text;

-- A set is not possible everywhere.
SELECT 1 FROM times WHERE weir.hop(ts, '1 day', '1 day') IS NOT NULL;

-- Both ways to write the query, and what they mean.
CREATE TEMP TABLE events (ts timestamptz, amount int);
INSERT INTO events SELECT '2024-01-01'::timestamptz + n * interval '7 minutes', n FROM generate_series(0, 20) n;
SELECT weir.hop(ts, '1 hour', '2 hours') AS win, count(*), sum(amount) FROM events GROUP BY win ORDER BY win;
SELECT win, count(*), sum(amount) FROM events, weir.hop(ts, '1 hour', '2 hours') AS win GROUP BY win ORDER BY win;
SELECT win, count(*), sum(amount)
FROM generate_series('2023-12-31 23:00+00'::timestamptz, '2024-01-01 04:00+00', '1 hour') h, LATERAL (SELECT tstzrange(h, h + interval '2 hours') AS win) w
	 JOIN events ON win @> ts
GROUP BY win ORDER BY win;
