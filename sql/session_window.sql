--
-- weir.session: in continuous views only.  Elsewhere it raises, and its hint shows
-- the query that gives the same in plain SQL.
--
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pg_weir;
RESET client_min_messages;
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';

CREATE TEMP TABLE events (k text, ts timestamptz, local timestamp);
INSERT INTO events SELECT k, ts, ts AT TIME ZONE 'UTC'
FROM (VALUES ('a', '2024-01-01 10:00+00'::timestamptz), ('a', '2024-01-01 10:29:59.999999+00'), ('a', '2024-01-01 10:59:59.999999+00'),
			 ('b', '2024-01-01 10:10+00'), ('b', '2024-01-01 10:10+00'), ('b', '2024-01-01 12:00+00')) v(k, ts);
SELECT k, weir.session(ts, '30 min') AS win, count(*) FROM events GROUP BY k, win;

-- The other overload, and whatever the arguments are: NULL, a gap that no view
-- would take, nothing but constants.
\set VERBOSITY terse
SELECT weir.session(local, '30 min') FROM events;
SELECT weir.session(NULL::timestamptz, '30 min');
SELECT weir.session(ts, NULL) FROM events;
SELECT weir.session(ts, '1 month') FROM events;
SELECT weir.session('2024-01-01'::timestamptz, '30 min');
\set VERBOSITY default
-- Over no row it is not called.
SELECT k, weir.session(ts, '30 min') AS win, count(*) FROM events WHERE k = 'c' GROUP BY k, win;

-- The hint is the query that it promises.  Exactly the gap apart, a new session
-- begins: a's third row; b has two rows at one time.
SELECT k, tstzrange(min(ts), max(ts) + '30 min') AS win, count(*)
FROM (SELECT *, count(*) FILTER (WHERE starts) OVER (PARTITION BY k ORDER BY ts) AS number
      FROM (SELECT *, ts - lag(ts) OVER (PARTITION BY k ORDER BY ts) >= '30 min' AS starts FROM events) AS a) AS b
GROUP BY k, number ORDER BY k, win;
-- The same text, out of the error.
DO $$
DECLARE
	hint text;
	sessions text;
BEGIN
	PERFORM weir.session(ts, '30 min') FROM events;
EXCEPTION WHEN feature_not_supported THEN
	GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
	EXECUTE 'SELECT string_agg(q::text, chr(10) ORDER BY q::text) FROM (' ||
		rtrim(substr(hint, strpos(hint, 'SELECT')), ';') || ') q' INTO sessions;
	RAISE NOTICE E'%\n%', sqlstate, sessions;
END
$$;

SELECT proname, provolatile, proparallel, proisstrict, proretset, prorettype::regtype
FROM pg_proc WHERE pronamespace = 'weir'::regnamespace AND proname = 'session' ORDER BY prorettype::regtype::text;
