--
-- Windows of several panes are composed of the states of their panes, and sessions
-- of cells that join: after any batch of rows that come and go, the rows that are
-- held are those that Postgres computes over the rows that are there.
--
-- Runs in WEIR_TEST builds only, and needs neither worker nor broker: panes are
-- folded and composed directly, batch by batch, and what comes out is applied to
-- what came out before, as a commit does.
--
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pg_weir;
RESET client_min_messages;
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';
SET intervalstyle = 'postgres';
SET statement_timeout = '120s';
CREATE FUNCTION weir_test_compose(call text, key_type regtype, coll regcollation,
	retracts boolean, after timestamptz, until timestamptz,
	keys text[], times timestamptz[], nums numeric[], texts text[], diffs bigint[], batches int[],
	OUT batch int, OUT key text, OUT lower timestamptz, OUT upper timestamptz,
	OUT n bigint, OUT total text, OUT max_txt text, OUT min_txt text) RETURNS SETOF record
AS '$libdir/pg_weir', 'weir_test_compose' LANGUAGE C STRICT;
CREATE FUNCTION weir_test_starved_compose(call text,
	keys text[], times timestamptz[], nums numeric[], texts text[], diffs bigint[], batches int[])
RETURNS boolean
AS '$libdir/pg_weir', 'weir_test_starved_compose' LANGUAGE C STRICT;

-- Rows with the batch in which they come and, unless they stay, go.
CREATE TABLE life (key text, ts timestamptz, num numeric, txt text COLLATE "C", born int, gone int);

-- n rows of random keys and values; with each a batch begins, or with each fifth.
-- A third goes again if `going`, all at the end if they are of key 'go'.
CREATE FUNCTION live(keys text[], times text, n int, per_batch int, going boolean) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
	DELETE FROM life;
	EXECUTE format($q$
		INSERT INTO life
		SELECT ($1)[1 + floor(random() * array_length($1, 1))::int],
			%s,
			CASE WHEN random() < 0.9 THEN
				round((random() * 1000)::numeric, floor(random() * 3)::int)
				* (CASE WHEN random() < 0.1 THEN 1e30 ELSE 1 END) END,
			CASE WHEN random() < 0.9 THEN repeat(chr(97 + floor(random() * 26)::int), 3)
				|| repeat('x', floor(random() * 40)::int) END,
			i / $3
		FROM generate_series(0, $2 - 1) AS i$q$, times)
	USING keys, n, per_batch;
	UPDATE life SET gone = n / per_batch + 1 WHERE going AND key = 'go';
	UPDATE life SET gone = born + 1 + floor(random() * (n / per_batch - born))::int
	WHERE going AND random() < 0.4;
END $$;

-- Keys that are equal, in one form.
CREATE FUNCTION norm(key text, type text) RETURNS text LANGUAGE sql AS
$$ SELECT CASE type WHEN 'numeric' THEN trim_scale(key::numeric)::text ELSE lower(key) END $$;

-- All batches, with the rows that are there after each.
CREATE VIEW there AS
SELECT b AS batch, life.*
FROM generate_series(0, (SELECT max(greatest(born, gone)) FROM life)) AS b, life
WHERE born <= b AND (gone IS NULL OR gone > b) AND
	EXISTS (SELECT FROM life WHERE b IN (born, gone));

-- 'same', or what is only here or only there.
CREATE FUNCTION check_windows(call text, gap interval DEFAULT NULL,
	type text DEFAULT 'text', coll text DEFAULT '"C"', retracts boolean DEFAULT true,
	after timestamptz DEFAULT '-infinity', until timestamptz DEFAULT 'infinity')
RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
	windows text := format('SELECT there.*, lower(w) AS lower, upper(w) AS upper
		FROM there, LATERAL (SELECT %s AS w) AS s WHERE ts IS NOT NULL', call);
	sessions text := format('SELECT s.*, min(ts) OVER island AS lower, max(ts) OVER island + %1$L::interval AS upper
		FROM (SELECT *, count(*) FILTER (WHERE begins) OVER so_far AS number
			FROM (SELECT *, (ts - lag(ts) OVER (PARTITION BY batch, norm(key, %2$L) ORDER BY ts) < %1$L) IS NOT TRUE AS begins
				FROM there WHERE ts IS NOT NULL) AS r
			WINDOW so_far AS (PARTITION BY batch, norm(key, %2$L) ORDER BY ts ROWS UNBOUNDED PRECEDING)) AS s
		WINDOW island AS (PARTITION BY batch, norm(key, %2$L), number)', gap, type);
	n bigint;
BEGIN
	EXECUTE format($q$
		CREATE TEMP TABLE expected AS
		SELECT batch, norm(key, %2$L) AS key, lower, upper, count(*) AS n, sum(num)::text AS total, max(txt), min(txt)
		FROM (%1$s UNION ALL SELECT there.*, %3$s NULL, NULL FROM there WHERE ts IS NULL) AS rows
		WHERE upper IS NULL OR (upper > %4$L AND upper <= %5$L)
		GROUP BY batch, norm(key, %2$L), lower, upper$q$,
		CASE WHEN gap IS NULL THEN windows ELSE sessions END, type,
		CASE WHEN gap IS NULL THEN '' ELSE 'NULL::boolean, NULL::bigint, ' END, after, until);
	CREATE TEMP TABLE ours AS
	SELECT w.batch, norm(w.key, type), w.lower, w.upper, w.n, w.total, w.max_txt, w.min_txt
	FROM (SELECT array_agg(r.key ORDER BY batch) AS keys, array_agg(ts ORDER BY batch) AS times,
			array_agg(num ORDER BY batch) AS nums, array_agg(txt::text ORDER BY batch) AS texts,
			array_agg(diff ORDER BY batch) AS diffs, array_agg(batch ORDER BY batch) AS batches
		FROM (SELECT life.key, ts, num, txt, born AS batch, 1::bigint AS diff FROM life
			UNION ALL
			SELECT life.key, ts, num, txt, gone, -1 FROM life WHERE gone IS NOT NULL) AS r) AS s,
		weir_test_compose(call, type::regtype, coll::regcollation, retracts, after, until,
			keys, times, nums, texts, diffs, batches) AS w;
	RETURN QUERY
	SELECT 'ours ' || d::text FROM (SELECT * FROM ours EXCEPT ALL SELECT * FROM expected) AS d
	UNION ALL
	SELECT 'theirs ' || d::text FROM (SELECT * FROM expected EXCEPT ALL SELECT * FROM ours) AS d
	LIMIT 10;
	IF NOT FOUND THEN
		SELECT count(*) INTO n FROM expected;
		RETURN NEXT CASE WHEN n > 50 THEN 'same' ELSE n || ' windows are too few' END;
	END IF;
	DROP TABLE ours, expected;
END $$;

SELECT setseed(0.5);

-- Sliding windows: rows come out of order over two hours, and go again.
SELECT live('{a,b,go,NULL}', $$ '2000-01-01 23:00Z'::timestamptz + random() * interval '2 hours' $$, 300, 5, true);
UPDATE life SET ts = NULL WHERE random() < 0.03;
SELECT check_windows($$ weir.hop(ts, '10 minutes', '50 minutes') $$);
-- the size leaves a rest over whole slides: two panes a slide
SELECT check_windows($$ weir.hop(ts, '7 minutes', '50 minutes') $$);
-- many windows a row, and panes that are mostly empty
SELECT check_windows($$ weir.hop(ts, '1 minute', '25 minutes') $$);
-- gaps between windows: rows in them are in none
SELECT check_windows($$ weir.hop(ts, '10 minutes', '4 minutes') $$);
SELECT check_windows($$ weir.hop(ts, '1 minute', '1 minute') $$);
-- growing windows share their beginning
SELECT check_windows($$ weir.cumulate(ts, '5 minutes', '40 minutes') $$);
SELECT check_windows($$ weir.cumulate(ts, '20 minutes', '20 minutes') $$);

-- Only some windows are wanted: one, those that end late, those in the middle.
SELECT check_windows($$ weir.hop(ts, '1 minute', '25 minutes') $$, after => '2000-01-02 00:04Z', until => '2000-01-02 00:05Z');
SELECT check_windows($$ weir.hop(ts, '7 minutes', '50 minutes') $$, after => '2000-01-02 00:30Z');
SELECT check_windows($$ weir.cumulate(ts, '5 minutes', '40 minutes') $$, after => '2000-01-02 00:00Z', until => '2000-01-02 00:30Z');

-- Rows that nobody takes back have other states.
SELECT live('{a,b,go,NULL}', $$ '1969-12-31 23:00Z'::timestamptz + random() * interval '2 hours' $$, 300, 5, false);
SELECT check_windows($$ weir.hop(ts, '7 minutes', '50 minutes') $$, retracts => false);
SELECT check_windows($$ weir.cumulate(ts, '5 minutes', '40 minutes') $$, retracts => false);

-- Calendar sizes, over the days on which Berlin's clocks change.
SELECT live('{a,b}', $$ '2024-03-20 00:00Z'::timestamptz + random() * interval '20 days' $$, 200, 5, true);
SELECT check_windows($$ weir.hop(ts, '1 day', '1 week', NULL, 'Europe/Berlin') $$);
SELECT check_windows($$ weir.hop(ts, '2 days', '5 days', NULL, 'Europe/Berlin') $$);
SELECT check_windows($$ weir.cumulate(ts, '1 day', '1 week', NULL, 'Europe/Berlin') $$);
SELECT live('{a,b}', $$ '2023-10-20 00:00Z'::timestamptz + random() * interval '800 days' $$, 200, 5, true);
SELECT check_windows($$ weir.hop(ts, '2 months', '7 months', '2020-01-31 00:00Z', 'Europe/Berlin') $$);
SELECT check_windows($$ weir.cumulate(ts, '1 month', '1 year') $$);

-- Keys that are equal and look different are one key: panes find each other.
CREATE COLLATION any_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
SELECT live('{1,1.0,1.00,2,2.000,NULL}', $$ '2000-01-01 23:00Z'::timestamptz + random() * interval '2 hours' $$, 300, 5, true);
SELECT check_windows($$ weir.hop(ts, '7 minutes', '50 minutes') $$, type => 'numeric');
SELECT check_windows($$ weir.cumulate(ts, '5 minutes', '40 minutes') $$, type => 'numeric');
SELECT check_windows($$ weir.session(ts, '5 minutes') $$, gap => '5 minutes', type => 'numeric');
SELECT live('{Ab,aB,c,C,NULL}', $$ '2000-01-01 23:00Z'::timestamptz + random() * interval '2 hours' $$, 300, 5, true);
SELECT check_windows($$ weir.hop(ts, '7 minutes', '50 minutes') $$, coll => 'any_case');
SELECT check_windows($$ weir.session(ts, '5 minutes') $$, gap => '5 minutes', coll => 'any_case');

-- Sessions: rows come out of order and go again, a batch at a time.  What a row
-- would touch, and which session a pane is part of, is asked between batches.
SELECT live('{a,b,go,NULL}', $$ '1999-12-31 23:00Z'::timestamptz + random() * interval '2 hours' $$, 300, 5, true);
UPDATE life SET ts = NULL WHERE random() < 0.03;
SELECT check_windows($$ weir.session(ts, '5 minutes') $$, gap => '5 minutes');
SELECT check_windows($$ weir.session(ts, '40 seconds') $$, gap => '40 seconds');
SELECT check_windows($$ weir.session(ts, '1 hour') $$, gap => '1 hour');
-- sessions of many cells
SELECT live('{a}', $$ '1999-12-31 23:00Z'::timestamptz + random() * interval '2 hours' $$, 900, 30, true);
SELECT check_windows($$ weir.session(ts, '30 seconds') $$, gap => '30 seconds');

-- Rows exactly the gap apart, a microsecond less and one more; each is a batch, so
-- each that bridges or splits sessions does so alone.
SELECT live('{a,b}', $$ '1999-12-31 23:30Z'::timestamptz + floor(random() * 30) * interval '2 minutes'
	+ (floor(random() * 3) - 1) * interval '1 microsecond' $$, 200, 1, true);
SELECT check_windows($$ weir.session(ts, '2 minutes') $$, gap => '2 minutes');
SELECT check_windows($$ weir.session(ts, '4 minutes') $$, gap => '4 minutes');
SELECT check_windows($$ weir.session(ts, '2 minutes 1 microsecond') $$, gap => '2 minutes 1 microsecond');
SELECT live('{a,b}', $$ '1999-12-31 23:30Z'::timestamptz + floor(random() * 30) * interval '2 minutes'
	+ (floor(random() * 3) - 1) * interval '1 microsecond' $$, 100, 1, false);
SELECT check_windows($$ weir.session(ts, '2 minutes') $$, gap => '2 minutes', retracts => false);
-- ties, and gaps of a microsecond
SELECT live('{a,b}', $$ '2000-01-01 00:00Z'::timestamptz + (floor(random() * 100) - 50) * interval '1 microsecond' $$, 200, 2, true);
SELECT check_windows($$ weir.session(ts, '1 microsecond') $$, gap => '1 microsecond');
SELECT check_windows($$ weir.session(ts, '2 microseconds') $$, gap => '2 microseconds');
SELECT check_windows($$ weir.session(ts, '3 microseconds') $$, gap => '3 microseconds');

-- What is composed until the budget is spent is given back.
SELECT live('{a,b,c,d}', $$ '2000-01-01 23:00Z'::timestamptz + random() * interval '2 hours' $$, 300, 5, false);
SELECT weir_test_starved_compose(call, array_agg(key), array_agg(ts), array_agg(num),
	array_agg(repeat(txt, 30)), array_agg(1::bigint), array_agg(born))
FROM life, unnest('{"weir.hop(ts, ''7 minutes'', ''50 minutes'')", "weir.cumulate(ts, ''5 minutes'', ''40 minutes'')",
	"weir.session(ts, ''3 minutes'')"}'::text[]) AS call
GROUP BY call ORDER BY call;

DROP COLLATION any_case;
DROP VIEW there;
DROP TABLE life;
DROP FUNCTION weir_test_compose, weir_test_starved_compose, live, norm, check_windows;
