--
-- weir.tumble: the one window of a fixed size that holds a timestamp.
--
-- Expected windows come from plain SQL: date_bin() for physical sizes,
-- date_trunc() and AT TIME ZONE for days and months.  Most blocks print how
-- many of many cases disagree, which is 0.
--
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pg_weir;
RESET client_min_messages;
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';
SET intervalstyle = 'postgres';

-- What a user sees first: minutes, weeks that begin on Mondays, months.
SELECT weir.tumble('2024-02-29 12:34:56+00', '1 minute');
SELECT weir.tumble('2024-02-29 12:34:56+00', '1 week');
SELECT weir.tumble('2024-02-29 12:34:56+00', '1 month');
SELECT weir.tumble('2024-02-29 12:34:56'::timestamp, '15 minutes');
SELECT pg_typeof(weir.tumble(now(), '1 day')) AS with_zone,
	   pg_typeof(weir.tumble(now()::timestamp, '1 day')) AS without_zone;

-- The session's time zone does not matter, only the argument tz does.
SET timezone = 'Asia/Tokyo';
SELECT weir.tumble('2024-02-29 12:34:56+00', '1 day') =
	   tstzrange('2024-02-29 00:00+00', '2024-03-01 00:00+00') AS in_utc;
SELECT weir.tumble('2024-02-29 20:00+00', '1 day', tz => 'Asia/Tokyo');
SET timezone = 'UTC';

-- '1 day' in a zone has 23 or 25 hours when the clock changes; '24 hours' has 24.
SELECT d::date AS day,
	   upper(w) - lower(w) AS calendar,
	   upper(p) - lower(p) AS physical
FROM generate_series('2024-03-30 12:00+00'::timestamptz, '2024-04-01', '1 day') d,
	 weir.tumble(d, '1 day', tz => 'Europe/Paris') w,
	 weir.tumble(d, '24 hours', tz => 'Europe/Paris') p;
SELECT upper(w) - lower(w) AS autumn
FROM weir.tumble('2024-10-27 12:00+00', '1 day', NULL, 'Europe/Paris') w;

-- NULL in, NULL out; only the origin may be NULL.
SELECT weir.tumble(NULL::timestamptz, '1 day') IS NULL AS ts,
	   weir.tumble(now(), NULL) IS NULL AS size,
	   weir.tumble(now(), '1 day', NULL, NULL) IS NULL AS tz,
	   weir.tumble(now(), '1 day', NULL, 'UTC') IS NULL AS origin,
	   weir.tumble(NULL::timestamp, '1 day') IS NULL AS plain_ts,
	   weir.tumble(now()::timestamp, NULL) IS NULL AS plain_size,
	   weir.tumble(now()::timestamp, '1 day', NULL) IS NULL AS plain_origin;

-- Each wrong argument has an error of its own.
DO $$
DECLARE
	call text;
	hint text;
BEGIN
	FOREACH call IN ARRAY ARRAY[
		$q$weir.tumble('2024-01-01'::timestamptz, '1 month 3 days')$q$,
		$q$weir.tumble('2024-01-01'::timestamptz, '1 day 1 hour')$q$,
		$q$weir.tumble('2024-01-01'::timestamptz, '1 day -1 hour')$q$,
		$q$weir.tumble('2024-01-01'::timestamptz, '0')$q$,
		$q$weir.tumble('2024-01-01'::timestamptz, '-1 minute')$q$,
		$q$weir.tumble('2024-01-01'::timestamp, '-1 month')$q$,
		$q$weir.tumble('infinity'::timestamptz, '1 day')$q$,
		$q$weir.tumble('-infinity'::timestamp, '1 day')$q$,
		$q$weir.tumble('infinity'::timestamptz, '1 hour')$q$,
		$q$weir.tumble('2024-01-01'::timestamptz, '1 day', 'infinity')$q$,
		$q$weir.tumble('2024-01-01'::timestamptz, '1 day', NULL, 'Mars/Olympus')$q$,
		$q$weir.tumble('2024-01-01'::timestamptz, '1 day', NULL, '')$q$,
		$q$weir.tumble('2024-01-01'::timestamptz, '1 day', NULL, 'PST')$q$,
		$q$weir.tumble('2024-01-01'::timestamptz, '1 day', NULL, repeat('x', 1000))$q$,
		$q$weir.tumble('2024-01-01'::timestamptz, '295000 years')$q$,
		$q$weir.tumble('2024-01-01'::timestamptz, '2000000000 days')$q$,
		$q$weir.tumble('2024-01-01'::timestamptz, '2000000000 days', tz => 'Europe/Paris')$q$,
		$q$weir.tumble('2024-01-01'::timestamptz, '2562047788 hours')$q$,
		$q$weir.tumble('294276-12-31 23:59:59'::timestamptz, '1 hour')$q$,
		$q$weir.tumble('294276-12-31 23:59:59'::timestamptz, '1 day', tz => 'Asia/Tokyo')$q$,
		$q$weir.tumble('294276-12-31 23:59:59'::timestamp, '1 month')$q$,
		$q$weir.tumble('4714-11-24 00:00:00 BC'::timestamp, '1 month')$q$,
		$q$weir.tumble('4714-11-24 00:00:00+00 BC'::timestamptz, '1 day', tz => 'America/New_York')$q$,
		$q$weir.tumble('4714-11-24 00:00:00+00 BC'::timestamptz, '5 days')$q$]
	LOOP
		BEGIN
			EXECUTE 'SELECT ' || call INTO hint;
			RAISE NOTICE E'%\n    no error: %', left(call, 90), hint;
		EXCEPTION WHEN others THEN
			GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
			RAISE NOTICE E'%\n    % %\n    %', left(call, 90), sqlstate, left(sqlerrm, 60), hint;
		END;
	END LOOP;
END
$$;

-- The outermost windows whose edges are timestamps are still there.
SELECT weir.tumble('294276-12-31 22:59:59.999999'::timestamp, '1 hour');
SELECT weir.tumble('4714-11-24 00:00:00 BC'::timestamp, '1 day');

--
-- Many timestamps, many sizes.  From 4001 BC to 9999, with the years in which
-- clocks have changed drawn more often, and with the moments of change.
--
CREATE TEMP TABLE zones (zone text);
INSERT INTO zones VALUES
	('UTC'), ('Europe/Paris'), ('America/Sao_Paulo'), ('Asia/Kathmandu'),
	('Pacific/Apia'), ('Africa/Cairo'), ('Australia/Lord_Howe'),
	('America/Havana'), ('Atlantic/Azores'), ('America/St_Johns'),
	('America/Juneau'), ('Asia/Manila'), ('Etc/GMT+12');
CREATE TEMP TABLE times (ts timestamptz);
SELECT setseed(0.42);
INSERT INTO times
SELECT '4001-01-01 BC'::timestamptz + random() * ('9999-12-31'::timestamptz - '4001-01-01 BC'::timestamptz)
FROM generate_series(1, 1000);
INSERT INTO times
SELECT '1840-01-01'::timestamptz + random() * ('2040-01-01'::timestamptz - '1840-01-01'::timestamptz)
FROM generate_series(1, 1000);
INSERT INTO times
SELECT '1965-01-01'::timestamptz + n * interval '3 hours' + random() * interval '1 minute'
FROM generate_series(1, 6000, 3) n;
INSERT INTO times VALUES ('1970-01-01'), ('1970-01-01'::timestamptz - interval '1 microsecond'),
	('2000-01-01'), ('2000-01-01'::timestamptz - interval '1 microsecond'),
	('2000-01-03'), ('2000-01-03'::timestamptz - interval '1 microsecond'), ('0001-01-01 BC'), ('0001-01-01');
-- the instants at which a zone changes its clock, to the hour
INSERT INTO times
SELECT h + d
FROM (SELECT DISTINCT h
	  FROM zones,
		   generate_series('2005-01-01'::timestamptz, '2013-01-01', '1 hour') h
	  WHERE (h AT TIME ZONE zone) - ((h - interval '1 hour') AT TIME ZONE zone) <> interval '1 hour') changes,
	 unnest(ARRAY[interval '0', '-1 microsecond', '30 minutes', '-30 minutes', '1 hour']) d;
SELECT count(*) > 4000 AS enough FROM times;

CREATE TEMP TABLE sizes (size interval);
INSERT INTO sizes VALUES
	('1 microsecond'), ('7 seconds'), ('1 minute'), ('90 minutes'), ('24 hours'), ('1000000 hours'),
	('1 day'), ('1 week'), ('3 days'), ('10 days'),
	('1 month'), ('3 months'), ('1 year'), ('7 months');
CREATE TEMP TABLE origins (origin timestamptz);
INSERT INTO origins VALUES
	(NULL), ('2024-01-31 02:30:00.5+00'), ('1999-12-31 23:59:59.999999+00'), ('0044-03-15 12:00:00+00 BC'), ('2096-02-29 00:00+00');

-- A window holds its row, its edges are in it and next to it, and its
-- neighbours begin and end where it ends and begins.
SELECT count(*) > 100000 AS many,
	   count(*) FILTER (WHERE NOT w @> ts) AS not_in_window,
	   count(*) FILTER (WHERE weir.tumble(lower(w), size, origin, zone) <> w) AS lower_edge,
	   count(*) FILTER (WHERE weir.tumble(upper(w) - interval '1 microsecond', size, origin, zone) <> w) AS upper_edge,
	   count(*) FILTER (WHERE lower(weir.tumble(upper(w), size, origin, zone)) <> upper(w)) AS gap_after,
	   count(*) FILTER (WHERE upper(weir.tumble(lower(w) - interval '1 microsecond', size, origin, zone)) <> lower(w)) AS gap_before
FROM sizes, zones, origins,
	 LATERAL (SELECT ts FROM times WHERE abs(extract(epoch FROM ts)::bigint) % 7 = (length(zone) + date_part('month', size)::int) % 7) t,
	 LATERAL (SELECT weir.tumble(ts, size, origin, zone) AS w OFFSET 0) x;

-- Without a zone the same, against date_bin() and a series of edges below.
SELECT count(*) FILTER (WHERE NOT w @> ts) AS not_in_window,
	   count(*) FILTER (WHERE weir.tumble(lower(w), size, origin) <> w) AS lower_edge,
	   count(*) FILTER (WHERE weir.tumble(upper(w) - interval '1 microsecond', size, origin) <> w) AS upper_edge,
	   count(*) FILTER (WHERE lower(weir.tumble(upper(w), size, origin)) <> upper(w)) AS gap_after
FROM sizes, (SELECT origin::timestamp FROM origins) o,
	 (SELECT ts::timestamp FROM times) t,
	 LATERAL (SELECT weir.tumble(ts, size, origin) AS w OFFSET 0) x;

-- Physical sizes are date_bin() from the origin, whatever the zone does.
SELECT count(*) > 100000 AS many,
	   count(*) FILTER (WHERE lower(w) <> date_bin(size, ts, coalesce(origin, '2000-01-03'::timestamp AT TIME ZONE zone))) AS lower,
	   count(*) FILTER (WHERE upper(w) - lower(w) <> size) AS length
FROM sizes, zones, origins,
	 LATERAL (SELECT ts FROM times WHERE abs(extract(epoch FROM ts)::bigint) % 3 = length(zone) % 3) t,
	 LATERAL (SELECT weir.tumble(ts, size, origin, zone) AS w OFFSET 0) x
WHERE date_part('month', size) = 0 AND date_part('day', size) = 0 AND date_part('year', size) = 0;
SELECT count(*) FILTER (WHERE lower(w) <> date_bin(size, ts, coalesce(origin, '2000-01-03'))) AS lower
FROM (VALUES (interval '1 minute'), ('5 hours'), ('1 day'), ('1 week'), ('3 days')) s(size),
	 (SELECT origin::timestamp FROM origins) o,
	 (SELECT ts::timestamp FROM times) t,
	 LATERAL (SELECT weir.tumble(ts, size, origin) AS w OFFSET 0) x;

-- Calendar units with the default origin are date_trunc() in the zone.
SELECT unit, count(*) FILTER (WHERE w <> tstzrange(date_trunc(unit, ts, 'UTC'),
												   (date_trunc(unit, ts AT TIME ZONE 'UTC') + size) AT TIME ZONE 'UTC')) AS wrong
FROM (VALUES ('day', interval '1 day'), ('week', '1 week'), ('month', '1 month'), ('quarter', '3 months'), ('year', '1 year')) u(unit, size),
	 times,
	 LATERAL (SELECT weir.tumble(ts, size) AS w OFFSET 0) x
GROUP BY unit ORDER BY unit;

-- In zones too, in years of which all releases of the zone data say the same,
-- and where no midnight is struck twice (those are below).
SELECT zone,
	   count(*) FILTER (WHERE lower(d) <> date_trunc('day', ts, zone)) AS day,
	   count(*) FILTER (WHERE lower(w) <> date_trunc('week', ts, zone)) AS week,
	   count(*) FILTER (WHERE lower(m) <> date_trunc('month', ts, zone)) AS month,
	   count(*) FILTER (WHERE lower(q) <> date_trunc('quarter', ts, zone)) AS quarter
FROM zones, times,
	 LATERAL (SELECT weir.tumble(ts, '1 day', NULL, zone) AS d,
					 weir.tumble(ts, '1 week', NULL, zone) AS w,
					 weir.tumble(ts, '1 month', NULL, zone) AS m,
					 weir.tumble(ts, '3 months', NULL, zone) AS q OFFSET 0) x
WHERE ts BETWEEN '1980-01-01' AND '2037-01-01'
  AND zone NOT IN ('America/Havana', 'America/Juneau', 'America/St_Johns', 'Atlantic/Azores')
GROUP BY zone ORDER BY zone;

--
-- Nights on which a midnight is missing or comes twice.  An edge is the first
-- instant at which the clock of the zone shows that time or a later one: here
-- found by looking at the clock every minute.
--
CREATE TEMP TABLE nights (zone text, day date, note text);
INSERT INTO nights VALUES
	('America/Sao_Paulo', '2018-11-04', '00:00 -> 01:00'),
	('America/Sao_Paulo', '2019-02-17', '00:00 -> 23:00'),
	('Africa/Cairo', '2010-04-30', '00:00 -> 01:00'),
	('Atlantic/Azores', '2023-10-29', '01:00 -> 00:00'),
	('America/Havana', '2011-11-13', '01:00 -> 00:00'),
	('America/St_Johns', '2005-10-30', '00:01 -> 23:01'),
	('America/St_Johns', '2005-04-03', '00:01 -> 01:01'),
	('America/Toronto', '1919-03-31', '23:30 -> 00:30'),
	('Pacific/Apia', '2011-12-31', '30 December does not exist'),
	('Pacific/Kwajalein', '1993-08-22', '21 August does not exist'),
	('Europe/Paris', '2024-03-31', 'not at midnight'),
	('Australia/Lord_Howe', '2024-04-07', 'by half an hour');
SELECT n.zone, n.day, note,
	   lower(w) AT TIME ZONE zone AS from_clock, upper(w) - lower(w) AS length,
	   lower(w) = first_at AS begins, upper(w) = next_at AS ends,
	   off_date AS minutes_of_another_date
FROM nights n,
	 LATERAL (SELECT min(t) FILTER (WHERE t AT TIME ZONE zone >= day) AS first_at,
					 min(t) FILTER (WHERE t AT TIME ZONE zone >= day + 1) AS next_at
			  FROM generate_series(day::timestamptz - interval '2 days', day::timestamptz + interval '3 days', '1 minute') t) e,
	 LATERAL (SELECT weir.tumble(first_at + interval '90 minutes', '1 day', NULL, zone) AS w OFFSET 0) x,
	 LATERAL (SELECT count(*) AS off_date
			  FROM generate_series(lower(w), upper(w) - interval '1 minute', '1 minute') t
			  WHERE (t AT TIME ZONE zone)::date <> day) o
ORDER BY n.zone, n.day;

-- Every half hour of those nights is in a window, and in one only.
SELECT count(*) AS half_hours, count(*) FILTER (WHERE NOT w @> t) AS outside,
	   count(*) FILTER (WHERE lower(w) < before AND before IS NOT NULL) AS backwards
FROM (SELECT zone, t, w, lag(lower(w)) OVER (PARTITION BY zone, day ORDER BY t) AS before
	  FROM nights,
		   generate_series(day::timestamptz - interval '2 days', day::timestamptz + interval '3 days', '30 minutes') t,
		   weir.tumble(t, '1 day', NULL, zone) w) x;

--
-- An origin on the 29th to 31st: edge n is the origin plus n months, clamped from
-- the origin itself and not from the edge before.
--
SELECT DISTINCT weir.tumble(d, '1 month', '2023-10-31 12:00') AS w
FROM generate_series('2023-11-01'::timestamp, '2024-06-01', '1 day') d ORDER BY w;
SELECT DISTINCT weir.tumble(d, '1 year', '2020-02-29') AS w
FROM generate_series('2020-03-01'::timestamp, '2025-03-01', '1 month') d ORDER BY w;

-- The same for all origins, sizes and zones, against a series of edges.
SELECT kind, count(*) > 1000 AS many, count(*) FILTER (WHERE lower(w) <> edge) AS wrong
FROM (SELECT kind, weir.tumble(ts, n * unit, origin, zone) AS w,
			 (SELECT max(e) FROM (SELECT ((origin AT TIME ZONE zone) + i * n * unit) AT TIME ZONE zone AS e
								  FROM generate_series(i0 - 3, i0 + 3) i) edges WHERE e <= ts) AS edge
	  FROM (VALUES ('months', interval '1 month', 1), ('months', '1 month', 5), ('days', '1 day', 1), ('days', '1 day', 3)) u(kind, unit, n),
		   (SELECT origin FROM origins WHERE origin IS NOT NULL) o,
		   (SELECT zone FROM zones WHERE zone IN ('UTC', 'Europe/Paris', 'Asia/Kathmandu', 'Australia/Lord_Howe')) z,
		   (SELECT ts FROM times WHERE ts BETWEEN '1990-01-01' AND '2036-01-01' AND extract(epoch FROM ts)::bigint % 11 = 0) t,
		   -- the number of the edge, nearly: here a month has 30.4368 days
		   LATERAL (SELECT floor(extract(epoch FROM ts - origin) / extract(epoch FROM n * unit * CASE kind WHEN 'months' THEN 1.01456 ELSE 1 END))::int AS i0) g) x
WHERE edge IS NOT NULL
GROUP BY kind ORDER BY kind;

-- Arguments that change from row to row are followed.
SELECT count(*) FILTER (WHERE w <> weir.tumble('2024-05-06 07:08:09+00', size, NULL, zone)) AS stale
FROM (SELECT size, zone, weir.tumble('2024-05-06 07:08:09+00', size, NULL, zone) AS w
	  FROM sizes, zones ORDER BY md5(size::text || zone)) x;
SELECT string_agg((upper(weir.tumble('2024-05-06 07:08:09+00', size, NULL, zone)) AT TIME ZONE 'UTC')::text, ', ' ORDER BY i)
FROM (VALUES (1, interval '1 day', 'UTC'), (2, '1 day', 'Asia/Tokyo'), (3, '1 hour', 'Asia/Tokyo'), (4, '1 hour', 'Asia/Kathmandu'), (5, '1 day', 'UTC')) v(i, size, zone);

-- Immutable: usable in an index, and by all workers of a parallel query.
CREATE TEMP TABLE events (ts timestamptz, amount int);
CREATE INDEX ON events (weir.tumble(ts, '1 hour'));
SELECT proname, provolatile, proparallel, proisstrict, prorettype::regtype
FROM pg_proc WHERE pronamespace = 'weir'::regnamespace AND proname = 'tumble' ORDER BY prorettype::regtype::text;

-- Both ways to write the query.
INSERT INTO events SELECT '2024-01-01'::timestamptz + n * interval '7 minutes', n FROM generate_series(0, 20) n;
SELECT weir.tumble(ts, '1 hour') AS win, count(*), sum(amount) FROM events GROUP BY win ORDER BY win;
SELECT win, count(*), sum(amount) FROM events, weir.tumble(ts, '1 hour') AS win GROUP BY win ORDER BY win;
