--
-- Test builds: windows by way of panes.  A view folds each row into one pane and
-- puts windows together of those; what it takes the windows of a timestamp to be
-- must be what the SQL function returns.  weir_test_windows() also raises unless
-- panes make up their windows without gaps, and each window is held by one pane.
--
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pg_weir;
RESET client_min_messages;
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';
CREATE FUNCTION weir_test_windows(regprocedure, timestamptz, interval, interval, timestamptz, text)
RETURNS tstzrange[] AS '$libdir/pg_weir' LANGUAGE C;
CREATE FUNCTION weir_test_windows(regprocedure, timestamp, interval, interval, timestamp, text)
RETURNS tsrange[] AS '$libdir/pg_weir' LANGUAGE C;
CREATE FUNCTION weir_test_pane(regprocedure, timestamptz, interval, interval, timestamptz, text)
RETURNS tstzrange AS '$libdir/pg_weir' LANGUAGE C;

-- Random calls of each unit; sizes are multiples of the slide or not, below it or
-- far above.  Times from 4000 BC to 9999, around 1970, 2000 and changes of clocks,
-- and within a microsecond of edges.
SELECT setseed(0.27);
CREATE TEMP TABLE calls AS
SELECT n, unit, zone, (1 + n % 7) * unit AS slide,
	   CASE n % 3 WHEN 0 THEN (1 + floor(random() * 5)) * (1 + n % 7) ELSE 1 + floor(random() * 50) END * unit AS size,
	   (1 + n % 3) * (1 + n % 7) * unit AS multiple,
	   CASE WHEN random() < 0.7 THEN
		   CASE WHEN random() < 0.3 THEN '2024-01-31 02:30+00'
			   ELSE '1900-01-01'::timestamptz + random() * interval '150 years' END END AS origin
FROM generate_series(1, 300) n,
	 (VALUES (interval '1 microsecond', 'UTC'), ('1.5 seconds', 'Asia/Kathmandu'), ('1 minute', 'Europe/Berlin'), ('1 hour', 'UTC'),
			 ('1 day', 'UTC'), ('1 day', 'Etc/GMT+12'), ('1 day', 'Europe/Berlin'), ('1 day', 'Australia/Lord_Howe'), ('1 day', 'America/New_York'), ('1 day', 'Pacific/Apia'),
			 ('1 month', 'UTC'), ('1 month', 'Europe/Berlin'), ('1 month', 'America/Sao_Paulo')) u(unit, zone);
CREATE TEMP TABLE moments AS
SELECT '4000-01-01 BC'::timestamptz + random() * ('9999-01-01'::timestamptz - '4000-01-01 BC'::timestamptz) AS ts FROM generate_series(1, 20)
UNION ALL
SELECT '1965-01-01'::timestamptz + random() * interval '70 years' FROM generate_series(1, 20)
UNION ALL
SELECT t::timestamptz + d * interval '1 microsecond'
FROM unnest(ARRAY['1970-01-01', '2000-01-01', '2000-01-03', '2024-02-29', '2024-03-31 01:00', '2024-10-27 01:00', '2024-03-10 07:00', '2024-11-03 06:00',
				  '2024-04-06 15:00', '2024-10-05 15:30', '2011-12-30 10:00', '2011-12-29 10:00', '2018-11-04 03:00', '2019-02-17 02:00']) t,
	 generate_series(-1, 1) d;
-- and the edges of the first windows found
CREATE TEMP TABLE cases AS
SELECT calls.*, ts FROM calls, LATERAL (SELECT ts FROM moments WHERE random() < 0.06 OR n < 0) m;
INSERT INTO cases
SELECT n, unit, zone, slide, size, multiple, origin, e + d * interval '1 microsecond'
FROM (SELECT DISTINCT ON (n, unit, zone) *, ts AS t FROM cases) c,
	 LATERAL (SELECT lower(w) FROM weir.hop(t, slide, size, origin, zone) w UNION ALL SELECT upper(w) FROM weir.hop(t, slide, size, origin, zone) w LIMIT 3) x(e),
	 generate_series(-1, 1) d;
SELECT unit, zone, count(*) > 500 AS many FROM cases GROUP BY unit, zone ORDER BY unit, zone;

SELECT unit, zone,
	   count(*) FILTER (WHERE weir_test_windows('weir.hop(timestamptz, interval, interval, timestamptz, text)', ts, slide, size, origin, zone)
						IS DISTINCT FROM ARRAY(SELECT weir.hop(ts, slide, size, origin, zone))) AS hop,
	   count(*) FILTER (WHERE weir_test_windows('weir.cumulate(timestamptz, interval, interval, timestamptz, text)', ts, slide, multiple, origin, zone)
						IS DISTINCT FROM ARRAY(SELECT weir.cumulate(ts, slide, multiple, origin, zone))) AS cumulate,
	   count(*) FILTER (WHERE weir_test_windows('weir.tumble(timestamptz, interval, timestamptz, text)', ts, NULL, size, origin, zone)
						IS DISTINCT FROM ARRAY[weir.tumble(ts, size, origin, zone)]) AS tumble
FROM cases GROUP BY unit, zone ORDER BY unit, zone;

-- Without a zone.
SELECT unit,
	   count(*) FILTER (WHERE weir_test_windows('weir.hop(timestamp, interval, interval, timestamp)', t, slide, size, o, NULL)
						IS DISTINCT FROM ARRAY(SELECT weir.hop(t, slide, size, o))) AS hop,
	   count(*) FILTER (WHERE weir_test_windows('weir.cumulate(timestamp, interval, interval, timestamp)', t, slide, multiple, o, NULL)
						IS DISTINCT FROM ARRAY(SELECT weir.cumulate(t, slide, multiple, o))) AS cumulate,
	   count(*) FILTER (WHERE weir_test_windows('weir.tumble(timestamp, interval, timestamp)', t, NULL, size, o, NULL)
						IS DISTINCT FROM ARRAY[weir.tumble(t, size, o)]) AS tumble
FROM (SELECT *, ts::timestamp AS t, origin::timestamp AS o FROM cases) c GROUP BY unit ORDER BY unit;

-- Many windows: the most that there may be.
SELECT cardinality(weir_test_windows('weir.hop(timestamptz, interval, interval, timestamptz, text)', '2024-01-01', '3 microseconds', '2.999999 seconds', NULL, 'UTC')),
	   cardinality(weir_test_windows('weir.cumulate(timestamptz, interval, interval, timestamptz, text)', '2024-01-01', '1 microsecond', '1 second', '2024-01-01', 'UTC'));

-- Near the ends of the calendar there are panes as far as all windows of the pane
-- have edges: the SQL function raises where there is none.
CREATE FUNCTION pg_temp.found(ts timestamp, slide interval, size interval) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	RETURN ARRAY(SELECT weir.hop(ts, slide, size))::text;
EXCEPTION WHEN datetime_field_overflow THEN
	RETURN NULL;
END $$;
SELECT unit, count(*) > 50 AS many, count(found) > 0 AS inside, count(*) > count(found) AS outside, count(*) FILTER (WHERE panes IS DISTINCT FROM found) AS wrong
FROM (VALUES (interval '1 day', '294276-12-31 23:00'::timestamp), ('1 day', '4714-11-24 01:00 BC'),
			 ('1 month', '294276-12-31 23:00'), ('1 month', '4714-11-24 01:00 BC'),
			 ('1 hour', '294276-12-31 23:59'), ('1 hour', '4714-11-24 00:01 BC')) v(unit, edge),
	 generate_series(0, 12) n, (VALUES (1, 1), (1, 3), (2, 5), (5, 2)) s(slide, size),
	 LATERAL (SELECT CASE WHEN edge > '2000-01-01' THEN edge - n * unit ELSE edge + n * unit END AS ts) t,
	 LATERAL (SELECT weir_test_windows('weir.hop(timestamp, interval, interval, timestamp)', ts, slide * unit, size * unit, NULL, NULL)::text AS panes,
					 pg_temp.found(ts, slide * unit, size * unit) AS found) f
GROUP BY unit ORDER BY unit;

-- Of sessions: panes as long as the gap, whatever the zone; a day has 24 hours.
SELECT count(*) > 1000 AS many,
	   count(*) FILTER (WHERE weir_test_pane('weir.session(timestamptz, interval)', ts, NULL, size, NULL, NULL)
						<> tstzrange(date_bin(size, ts, '2000-01-01'), date_bin(size, ts, '2000-01-01') + size)) AS wrong
FROM cases WHERE unit < '1 month';
-- The pane must be such that a gap after it still has a time.
SELECT weir_test_pane('weir.session(timestamptz, interval)', ts, NULL, '1 hour', NULL, NULL)
FROM (VALUES ('294276-12-31 21:59:59+00'::timestamptz), ('294276-12-31 22:00:00+00'), ('294276-12-31 23:00:00+00'),
			 ('infinity'), ('-infinity'), ('4714-11-24 00:00:00+00 BC')) v(ts);

-- What weir_window_prepare() says, which a view's creation shows.
DO $$
DECLARE
	args text;
	hint text;
BEGIN
	FOREACH args IN ARRAY ARRAY[
		$q$'weir.session(timestamptz, interval)', '2024-01-01', NULL, '1 month', NULL, NULL$q$,
		$q$'weir.session(timestamptz, interval)', '2024-01-01', NULL, '1 day 1 hour', NULL, NULL$q$,
		$q$'weir.session(timestamptz, interval)', '2024-01-01', NULL, '0', NULL, NULL$q$,
		$q$'weir.session(timestamptz, interval)', '2024-01-01', NULL, NULL, NULL, NULL$q$,
		$q$'weir.session(timestamptz, interval)', '2024-01-01', NULL, '2000000000 days', NULL, NULL$q$,
		$q$'weir.hop(timestamptz, interval, interval, timestamptz, text)', '2024-01-01', NULL, '1 hour', NULL, 'UTC'$q$,
		$q$'weir.hop(timestamptz, interval, interval, timestamptz, text)', '2024-01-01', '1 hour', NULL, NULL, 'UTC'$q$,
		$q$'weir.hop(timestamptz, interval, interval, timestamptz, text)', '2024-01-01', '1 hour', '1 day', NULL, NULL$q$,
		$q$'weir.hop(timestamptz, interval, interval, timestamptz, text)', '2024-01-01', '1 hour', '1 day', NULL, 'Europe/Berlin'$q$,
		$q$'weir.cumulate(timestamptz, interval, interval, timestamptz, text)', '2024-01-01', NULL, '1 hour', NULL, 'UTC'$q$,
		$q$'weir.cumulate(timestamptz, interval, interval, timestamptz, text)', '2024-01-01', '7 minutes', '1 hour', NULL, 'UTC'$q$]
	LOOP
		BEGIN
			EXECUTE 'SELECT weir_test_pane(' || args || ')' INTO hint;
			RAISE NOTICE E'%\n    no error: %', args, hint;
		EXCEPTION WHEN others THEN
			GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
			RAISE NOTICE E'%\n    % %\n    %', args, sqlstate, sqlerrm, hint;
		END;
	END LOOP;
END
$$;
