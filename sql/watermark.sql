--
-- How far event time has come: the watermark of partitions and of a view, and
-- what waits for it.  Compared with window functions over the same rows.
--
-- Runs in WEIR_TEST builds only, and needs neither worker nor broker: scripts are
-- handed to the code directly.
--
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';
SET intervalstyle = 'postgres';
SET statement_timeout = '120s';
CREATE FUNCTION weir_test_watermark(rule text, idle_timeout bigint, max_future_skew bigint,
	what text[], part int[], ts timestamptz[], clock timestamptz[],
	OUT step int, OUT watermark timestamptz, OUT of_each timestamptz[], OUT idle boolean[],
	OUT held_by int, OUT next_idle timestamptz, OUT ahead bigint) RETURNS SETOF record
AS '$libdir/pg_weir', 'weir_test_watermark' LANGUAGE C;
CREATE FUNCTION weir_test_lateness(rule text, ts timestamptz[], first bytea, second bytea,
	OUT sketch bytea, OUT delay bigint, OUT due boolean)
AS '$libdir/pg_weir', 'weir_test_lateness' LANGUAGE C;
CREATE FUNCTION weir_test_deadlines(what text[], at timestamptz[], item int[],
	OUT step int, OUT due int[], OUT first timestamptz, OUT waiting bigint) RETURNS SETOF record
AS '$libdir/pg_weir', 'weir_test_deadlines' LANGUAGE C;
CREATE FUNCTION weir_test_deadlines_cost(items int, deadlines int) RETURNS float8[]
AS '$libdir/pg_weir', 'weir_test_deadlines_cost' LANGUAGE C;

-- The steps of a script.
CREATE TABLE script (step serial PRIMARY KEY, what text, part int DEFAULT 0,
	ts timestamptz DEFAULT '-infinity', clock timestamptz DEFAULT '2026-01-01 12:00');

CREATE FUNCTION us(interval) RETURNS bigint IMMUTABLE
RETURN (extract(epoch FROM $1) * 1000000)::bigint;

CREATE FUNCTION look(rule text, idle interval DEFAULT NULL, skew interval DEFAULT '5 min')
RETURNS TABLE (step int, watermark timestamptz, of_each timestamptz[], idle boolean[],
	held_by int, next_idle timestamptz, ahead bigint)
BEGIN ATOMIC
	SELECT w.* FROM (SELECT array_agg(what ORDER BY step) AS what, array_agg(part ORDER BY step) AS part,
			array_agg(ts ORDER BY step) AS ts, array_agg(clock ORDER BY step) AS clock FROM script) s,
		weir_test_watermark(rule, coalesce(us(idle), -1), us(skew), s.what, s.part, s.ts, s.clock) w;
END;

-- A script as text: at what time of day, what, in which partition, with what event
-- time; a dash for what does not matter.  Times are shown without the day.
CREATE FUNCTION play(lines text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	TRUNCATE script RESTART IDENTITY;
	INSERT INTO script (clock, what, part, ts)
	SELECT '2026-01-01'::date + c[1]::time, c[2], CASE WHEN c[3] <> '-' THEN c[3]::int ELSE 0 END,
		CASE WHEN c[4] <> '-' THEN '2026-01-01'::date + c[4]::time ELSE '-infinity' END
	FROM string_to_table(lines, E'\n') WITH ORDINALITY l (line, i),
		regexp_split_to_array(trim(line, E' \t'), '\s+') c
	WHERE line ~ '\S' ORDER BY i;
END $$;

CREATE FUNCTION shown(t timestamptz) RETURNS text
RETURN CASE WHEN isfinite(t) THEN t::time::text ELSE t::text END;

-- Rows of three partitions, up to an hour out of order; some are ahead of the
-- clock, around the skew of five minutes.  Rows that follow each other in one
-- partition within a second are one batch.
CREATE FUNCTION random_rows(n int) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	TRUNCATE script RESTART IDENTITY;
	INSERT INTO script (what, part) SELECT 'begin', i FROM generate_series(0, 2) i;
	INSERT INTO script (what, part, ts, clock)
	SELECT (ARRAY['row', 'look'])[1 + (random() < 0.1)::int], floor(chosen ^ 2 * 3)::int,
		CASE WHEN random() < 0.01 THEN now + interval '5 min' + floor(random() * 3 - 1) * interval '1 us'
			WHEN random() < 0.01 THEN now + random() * interval '10 min'
			WHEN random() < 0.01 THEN 'infinity'
			WHEN random() < 0.01 THEN '-infinity'
			ELSE now - random() ^ 3 * interval '1 hour' END, now
	FROM (SELECT random() AS chosen, j FROM generate_series(1, n / 5) j) part,
		LATERAL (SELECT '2026-01-01 12:00'::timestamptz + (j * 5 + i) / 7 * interval '1 second' AS now, i
			FROM generate_series(1, 5) i) row
	ORDER BY j, i;
END $$;

--
-- Bounded disorder
--
-- W of a partition is the greatest event time less the delay; that of the view
-- the least of them.  What is ahead of the clock by more than the skew is counted
-- and moves nothing.
CREATE FUNCTION bounded_as_expected(delay interval) RETURNS TABLE (looks boolean, differ bigint)
BEGIN ATOMIC
	WITH expected AS (
		SELECT l.step, (SELECT array_agg(coalesce((SELECT max(ts) FROM script r
				WHERE r.what = 'row' AND r.part = p AND r.step < l.step AND r.ts <= r.clock + interval '5 min')
				- delay, '-infinity') ORDER BY p) FROM generate_series(0, 2) p) AS of_each,
			(SELECT count(*) FROM script r WHERE r.what = 'row' AND r.step < l.step
				AND r.ts > r.clock + interval '5 min') AS ahead
		FROM script l WHERE l.what = 'look')
	SELECT count(*) > 60, count(*) FILTER (WHERE w IS NULL OR w.of_each <> e.of_each OR w.ahead <> e.ahead
		OR w.watermark <> (SELECT min(t) FROM unnest(e.of_each) t))
	FROM expected e LEFT JOIN look(us(delay)::text) w USING (step);
END;
SELECT random_rows(1500);
SELECT d, b.* FROM unnest('{0, 1 us, 5 s, 1 day}'::interval[]) d, bounded_as_expected(d) b;

-- No watermark: nothing moves.
SELECT DISTINCT watermark, of_each, held_by, next_idle FROM look('none', '1 s');

-- At the ends of the range there is no overflow: a watermark that would come
-- before all times is none.
TRUNCATE script RESTART IDENTITY;
INSERT INTO script (what, ts, clock) VALUES
	('begin', default, '294276-12-31 23:59:59'),
	('row', '4713-01-01 00:00:10 BC', '294276-12-31 23:59:59'),
	('look', default, '294276-12-31 23:59:59'),
	('row', '294276-12-31 23:59:59.999999', '294276-12-31 23:59:59'),
	('look', default, '294276-12-31 23:59:59'),
	('row', 'infinity', '294276-12-31 23:59:59'),
	('look', default, '294276-12-31 23:59:59');
SELECT delay, l.watermark, ahead FROM unnest('{0,10000000,4060799999999,4060800000000,9223372036854775807}'::bigint[]) delay,
	look(delay::text, NULL, '5 min') l ORDER BY delay, step;

--
-- Percentiles
--
SELECT random_rows(1500);
-- How late a row is: behind the greatest of the rows before it.
CREATE VIEW measured AS
SELECT part, step, ts, us(greatest(max(ts) OVER sofar, ts) - ts) AS late
FROM script WHERE what = 'row' AND isfinite(ts) AND ts <= clock + interval '5 min'
WINDOW sofar AS (PARTITION BY part ORDER BY step);

-- The delay is that of the k-th row by lateness, k / (n + 1) >= share, or up to
-- 1 % more; with fewer rows there is no watermark.  It never goes back.
CREATE FUNCTION percentile_as_expected(share float8) RETURNS TABLE (looks boolean, far_off bigint, not_yet boolean)
BEGIN ATOMIC
	WITH at_look AS MATERIALIZED (
		SELECT l.step, p, max(m.ts) AS greatest,
			(array_agg(m.late ORDER BY m.late))[ceil(share * (count(*) + 1))] AS late
		FROM script l, generate_series(0, 2) p LEFT JOIN measured m ON m.part = p
		WHERE l.what = 'look' AND coalesce(m.step < l.step, true) GROUP BY 1, 2),
	bounds AS (
		SELECT step, p, coalesce(max(greatest - late * 1.01 * interval '1 us') OVER sofar, '-infinity') AS low,
			coalesce(max(greatest - late * interval '1 us') OVER sofar, '-infinity') AS high
		FROM at_look WINDOW sofar AS (PARTITION BY p ORDER BY step))
	SELECT count(*) > 180, count(*) FILTER (WHERE w IS NULL OR w.of_each[p + 1] NOT BETWEEN low AND high
			OR w.watermark <> (SELECT min(t) FROM unnest(w.of_each) t)),
		bool_or(high = '-infinity' AND step > 1400)
	FROM bounds LEFT JOIN look('p' || share * 100) w USING (step);
END;
SELECT p, e.* FROM unnest('{0.5, 0.9, 0.99, 0.999}'::float8[]) p, percentile_as_expected(p) e;

-- After a restart the sketch goes on where it was: restarts change nothing.
CREATE TABLE straight AS SELECT * FROM look('p99');
UPDATE script SET what = 'restart' WHERE what = 'row' AND ts = '-infinity';
SELECT count(*) > 0 FROM script WHERE what = 'restart';
SELECT * FROM look('p99') EXCEPT SELECT * FROM straight;
DROP TABLE straight;

-- Lateness of any size, and many rows that are late by the very same time: what
-- the sketch says is never less, and at most 1 % more.
CREATE FUNCTION comes_late(late bigint[]) RETURNS timestamptz[]
RETURN (SELECT array_agg('2026-01-01'::timestamptz - l * interval '1 us' ORDER BY i)
	FROM unnest(0::bigint || late) WITH ORDINALITY u (l, i));
CREATE TABLE spread AS
SELECT 'microseconds' AS how, array_agg(i % 300) AS late FROM generate_series(1, 5000) i
UNION ALL SELECT 'milliseconds to minutes', array_agg((1000 * exp(random() * 11))::bigint) FROM generate_series(1, 5000)
UNION ALL SELECT 'up to 6000 years', array_agg((exp(random() * 40))::bigint % 190000000000000000) FROM generate_series(1, 5000)
UNION ALL SELECT 'a few values', array_agg((ARRAY[0, 1000000, 10000000, 86400000000])[1 + floor(random() * 4)]) FROM generate_series(1, 5000)
UNION ALL SELECT 'powers of two', array_agg((2 ^ (i % 57))::bigint + i % 3 - 1) FILTER (WHERE i % 57 > 0) FROM generate_series(1, 5000) i
UNION ALL SELECT 'one', '{5}'
UNION ALL SELECT 'none', '{}';
SELECT how, count(*), count(exact) > 0 AS some,
	count(*) FILTER (WHERE (delay IS NULL) <> (exact IS NULL) OR NOT delay BETWEEN exact AND exact * 1.01) AS far_off
FROM spread, unnest('{1, 10, 50, 75, 90, 99, 99.9, 99.99}'::float8[]) p, weir_test_lateness('p' || p, comes_late(late), NULL, NULL) l,
	LATERAL (SELECT (array_agg(v ORDER BY v))[ceil(p / 100 * (count(*) + 1))] AS exact FROM unnest(0::bigint || late) v) e
GROUP BY how ORDER BY how;

-- And by Postgres' own percentile, over so many rows that the rank makes no
-- difference.
SELECT p, l.delay BETWEEN exact AND exact * 1.02 AS near, octet_length(sketch) < 5000 AS small
FROM (SELECT array_agg((1000 * exp(random() * 11))::bigint) AS late FROM generate_series(1, 50000)) s,
	unnest('{50, 90, 99}'::float8[]) p, weir_test_lateness('p' || p, comes_late(late), NULL, NULL) l,
	LATERAL (SELECT percentile_disc(p / 100) WITHIN GROUP (ORDER BY v) AS exact FROM unnest(late) v) e;

-- The ends of the range again: 280,000 years late, and so late that there is no
-- time for a watermark.
SELECT delay BETWEEN us(a - b) AND us(a - b) * 1.01 FROM (VALUES ('294276-12-31 23:59:59.999999'::timestamptz, '14276-12-31'::timestamptz)) v (a, b),
	weir_test_lateness('p50', ARRAY[a, b, b], NULL, NULL);
SELECT delay FROM weir_test_lateness('p50', ARRAY['294276-12-31 23:59:59.999999', '4713-01-01 BC', '4713-01-01 BC']::timestamptz[], NULL, NULL);

-- Sketches merge: two halves say what the whole says, to the byte.
SELECT how, w.sketch = m.sketch AND c.sketch = m.sketch AS equal
FROM (SELECT how, comes_late(late[:1000]) AS a, '2026-01-01'::timestamptz || comes_late(late[1001:]) AS b,
		comes_late(late[:1000] || 0::bigint || 0::bigint || late[1001:]) AS all FROM spread) s,
	weir_test_lateness('p90', a, NULL, NULL) one, weir_test_lateness('p90', b, NULL, NULL) two,
	weir_test_lateness('p90', '{}', one.sketch, two.sketch) m,
	weir_test_lateness('p90', b, one.sketch, NULL) c,
	weir_test_lateness('p90', "all", NULL, NULL) w ORDER BY how;

-- It is worth saving when there is a sixteenth of new rows.
SELECT n, l.due FROM weir_test_lateness('p90', comes_late(array_fill(0::bigint, '{9999}')), NULL, NULL) s,
	unnest('{1, 600, 700}'::int[]) n, weir_test_lateness('p90', comes_late(array_fill(0::bigint, ARRAY[n - 1])), s.sketch, NULL) l ORDER BY n;

-- It follows a source that has changed: at once if it became later, after some
-- hundred thousand rows if it became more punctual.  What is old is forgotten.
CREATE TABLE history AS
SELECT sketch FROM (SELECT array_agg((i % 2 * 3600000000)) AS late FROM generate_series(1, 200000) i) s,
	weir_test_lateness('p99', comes_late(late), NULL, NULL);
SELECT n, delay * interval '1 us' < interval '2 s' AS follows
FROM history h, unnest('{100000, 300000}'::int[]) n,
	LATERAL (SELECT array_agg((i % 2 * 1000000)::bigint) AS late FROM generate_series(1, n) i) s,
	weir_test_lateness('p99', comes_late(late), h.sketch, NULL) ORDER BY n;
SELECT n, delay * interval '1 us' > interval '23 hours' AS follows
FROM history h, unnest('{100, 1500}'::int[]) n,
	weir_test_lateness('p99', comes_late(array_fill(86400000000, ARRAY[n])), h.sketch, NULL) ORDER BY n;
-- halving keeps the shares (evenly spread without chance, by the golden ratio)
SELECT p, delay BETWEEN exact * 0.99 AND exact * 1.02 AS near
FROM (SELECT array_agg((1000 * exp(x - floor(x)) ^ 11)::bigint) AS late
		FROM generate_series(1, 150000) i, LATERAL (SELECT i * (sqrt(5) - 1) / 2 AS x) golden) s,
	unnest('{50, 90, 99}'::float8[]) p, weir_test_lateness('p' || p, comes_late(late), NULL, NULL) l,
	LATERAL (SELECT percentile_disc(p / 100) WITHIN GROUP (ORDER BY v) AS exact FROM unnest(late) v) e;
-- also of rare rows, of which there is one or none in a bucket
SELECT delay BETWEEN exact * 0.8 AND exact * 1.25 AS near
FROM (SELECT array_agg(CASE WHEN i % 200 = 0 THEN (1000 * exp(x - floor(x)) ^ 11)::bigint ELSE 0 END) AS late
		FROM generate_series(1, 150000) i, LATERAL (SELECT i / 200 * (sqrt(5) - 1) / 2 AS x) golden) s,
	weir_test_lateness('p99.9', comes_late(late), NULL, NULL) l,
	LATERAL (SELECT percentile_disc(0.999) WITHIN GROUP (ORDER BY v) AS exact FROM unnest(late) v) e;

--
-- Damaged sketches
--
-- Whatever byte is changed, missing or too many is noticed.
CREATE FUNCTION load_error(sketch bytea) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	PERFORM weir_test_lateness('p90', '{}', sketch, NULL);
	RETURN 'none';
EXCEPTION WHEN OTHERS THEN
	RETURN sqlstate;
END $$;
CREATE TABLE saved AS SELECT sketch FROM spread, weir_test_lateness('p90', comes_late(late[:200]), NULL, NULL)
	WHERE how = 'milliseconds to minutes';
SELECT load_error(sketch), load_error('') AS empty, load_error(sketch || '\x00') AS longer FROM saved;
SELECT i = 0 AS version, load_error(set_byte(sketch, i, get_byte(sketch, i) # (1 << bit))) AS error, count(*) > 7
FROM saved, generate_series(0, octet_length(sketch) - 1) i, generate_series(0, 7) bit GROUP BY 1, 2 ORDER BY 1;
SELECT DISTINCT load_error(substring(sketch FOR i)) FROM saved, generate_series(0, octet_length(sketch) - 1) i;
SELECT weir_test_lateness('p90', '{}', set_byte(sketch, 0, 200), NULL) FROM saved;
SELECT weir_test_lateness('p90', '{}', set_byte(sketch, 9, 0), NULL) FROM saved;

-- Also numbers that make no sense, under a checksum that is right.
CREATE FUNCTION crc32c(bytes bytea) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	crc bigint := 4294967295;
BEGIN
	FOR i IN 0 .. octet_length(bytes) - 1 LOOP
		crc := crc # get_byte(bytes, i);
		FOR bit IN 1 .. 8 LOOP
			crc := (crc >> 1) # (CASE WHEN crc & 1 = 1 THEN 2197175160 ELSE 0 END);
		END LOOP;
	END LOOP;
	RETURN crc # 4294967295;
END $$;
CREATE FUNCTION with_header(numbers bytea) RETURNS bytea LANGUAGE plpgsql AS $$
DECLARE
	crc bytea := int4send(((crc32c('\x01' || numbers) + 2147483648) % 4294967296 - 2147483648)::int);
	-- as this machine orders the bytes of a number
	little boolean := (SELECT substring(sketch FROM 2 FOR 4) <> int4send(((crc32c('\x01' || substring(sketch FROM 6))
		+ 2147483648) % 4294967296 - 2147483648)::int) FROM saved);
BEGIN
	IF little THEN
		crc := substring(crc FROM 4) || substring(crc FROM 3 FOR 1) || substring(crc FROM 2 FOR 1) || substring(crc FOR 1);
	END IF;
	RETURN '\x01'::bytea || crc || numbers;
END $$;
SELECT why, load_error(with_header(numbers)) FROM (VALUES
	(1, 'nothing', '\x'::bytea),
	(2, 'three rows of 200 us', '\xc90103'),
	(3, 'the last bucket', '\xff3901'),
	(4, 'one bucket too many', '\x803a01'),
	(5, 'far too many', '\xffffffff0f01'),
	(6, 'a number of 36 bits', '\xffffffff1f01'),
	(7, 'an endless number', '\xffffffffffffffffff01'),
	(8, 'no count', '\x05'),
	(9, 'half a number', '\x0580'),
	(10, 'more rows than we ever count', '\x00ffffffff0f')) v (i, why, numbers) ORDER BY i;

--
-- Idle partitions
--
-- At any time: W is the least over the partitions that are not idle, or the
-- greatest if all are; idle is who is at its end and silent for the timeout.
CREATE FUNCTION idle_as_expected(delay interval, timeout interval)
RETURNS TABLE (looks boolean, all_idle boolean, some_idle boolean, differ bigint)
BEGIN ATOMIC
	WITH part AS MATERIALIZED (
		SELECT l.step, l.clock, p,
			coalesce((SELECT max(ts) FROM script r WHERE r.what = 'row' AND r.part = p AND r.step < l.step
				AND r.ts <= r.clock + interval '5 min') - delay, '-infinity') AS w,
			(SELECT max(clock) FROM script r WHERE r.what IN ('row', 'begin') AND r.part = p AND r.step < l.step) + timeout AS from,
			coalesce((SELECT what = 'end' FROM script r WHERE r.what IN ('end', 'more') AND r.part = p AND r.step < l.step
				ORDER BY r.step DESC LIMIT 1), false) AS at_end
		FROM script l, generate_series(0, 2) p WHERE l.what = 'look'),
	at_look AS (
		SELECT step, array_agg(at_end AND "from" <= clock ORDER BY p) AS idle, array_agg(w ORDER BY p) AS of_each,
			min(w) FILTER (WHERE NOT (at_end AND "from" <= clock)) AS least, max(w) AS greatest,
			coalesce(min("from") FILTER (WHERE at_end AND "from" > clock), 'infinity') AS next_idle
		FROM part GROUP BY step),
	expected AS (
		SELECT *, max(coalesce(least, greatest)) OVER (ORDER BY step) AS watermark FROM at_look)
	SELECT count(*) > 60, bool_or(true = ALL (e.idle)), bool_or(true = ANY (e.idle) AND false = ANY (e.idle)),
		count(*) FILTER (WHERE w IS NULL OR w.idle <> e.idle OR w.of_each <> e.of_each
			OR w.watermark <> e.watermark OR w.next_idle <> e.next_idle
			OR w.held_by <> CASE WHEN coalesce(e.least < greatest(e.greatest, e.watermark), false)
				THEN (SELECT min(i) - 1 FROM generate_series(1, 3) i WHERE e.of_each[i] = e.least AND NOT e.idle[i]) ELSE -1 END)
	FROM expected e LEFT JOIN look(us(delay)::text, timeout) w USING (step);
END;
SELECT random_rows(1500);
-- ends that come and go, silences of partitions, and of all
UPDATE script SET what = (ARRAY['end', 'end', 'end', 'more'])[1 + floor(random() * 4)] WHERE what = 'row' AND random() < 0.2;
UPDATE script SET what = 'merge', ts = '-infinity' WHERE what = 'row'
	AND ((step / 40 + part * 2) % 5 IN (0, 1, 2) OR step % 300 > 200);
SELECT timeout, e.* FROM unnest('{0, 2 s, 1000 days}'::interval[]) timeout, idle_as_expected('5 s', timeout) e;

-- One rule after the other.
CREATE FUNCTION played(delay interval, idle interval, lines text)
RETURNS TABLE (clock text, w text, of_each text[], idle_ones text, held_by int, next_idle text) LANGUAGE plpgsql AS $$
BEGIN
	PERFORM play(lines);
	RETURN QUERY SELECT shown(s.clock), shown(l.watermark), ARRAY(SELECT shown(t) FROM unnest(l.of_each) t),
		translate(array_to_string(l.idle, ''), 'tf', 'i.'), l.held_by, shown(l.next_idle)
	FROM look(us(delay)::text, idle) l JOIN script s USING (step) ORDER BY step;
END $$;

-- A partition that never had a row holds the view back until it is idle, one
-- microsecond later than not.
SELECT * FROM played('5 s', '30 s', $$
	12:00:00		begin	-	-
	12:00:00		begin	-	-
	12:00:00		end		0	-
	12:00:00		end		1	-
	12:00:10		row		0	12:00:10
	12:00:10		look	-	-
	12:00:29.999999	look	-	-
	12:00:30		look	-	-
$$);
-- One that is not at its end is never idle: what is to come is known to be there.
SELECT * FROM played('5 s', '30 s', $$
	12:00:00		begin	-	-
	12:00:00		begin	-	-
	12:00:00		end		0	-
	12:00:10		row		0	12:00:10
	13:00:00		row		0	13:00:00
	13:00:00		look	-	-
	13:00:00		end		1	-
	13:00:00		look	-	-
$$);
-- All idle: the greatest.  And idle no more: it holds the view back again, but W
-- does not return to it.
SELECT * FROM played('5 s', '30 s', $$
	12:00:00		begin	-	-
	12:00:00		begin	-	-
	12:00:00		end		0	-
	12:00:00		end		1	-
	12:00:00		row		0	12:00:00
	12:00:00		row		1	11:00:00
	12:00:00		look	-	-
	12:01:00		look	-	-
	12:01:10		row		1	11:00:30
	12:01:10		look	-	-
	12:01:20		row		1	12:01:20
	12:01:20		look	-	-
	12:01:21		row		0	12:01:21
	12:01:21		look	-	-
$$);
-- Without a timeout nobody is idle.
SELECT * FROM played('5 s', NULL, $$
	12:00:00		begin	-	-
	12:00:00		begin	-	-
	12:00:00		end		0	-
	12:00:00		end		1	-
	12:00:00		row		0	12:00:00
	23:00:00		look	-	-
$$);
-- A new partition starts where the view stands.
SELECT * FROM played('5 s', '30 s', $$
	12:00:00		begin	-	-
	12:00:00		row		0	12:00:00
	12:00:00		look	-	-
	12:00:05		begin	-	-
	12:00:06		row		0	12:00:06
	12:00:06		look	-	-
	12:00:07		row		1	11:00:00
	12:00:07		look	-	-
	12:00:08		row		1	12:00:03
	12:00:08		look	-	-
$$);
-- After a restart the silence begins anew, and W is what it was.
SELECT * FROM played('5 s', '30 s', $$
	12:00:00		begin	-	-
	12:00:00		begin	-	-
	12:00:00		end		0	-
	12:00:00		end		1	-
	12:00:00		row		0	12:00:00
	12:00:30		look	-	-
	12:00:40		restart	-	-
	12:00:40		look	-	-
	12:00:50		row		0	12:00:50
	12:01:10		look	-	-
$$);
-- A row that is too far ahead does not move W, but its partition is not silent.
SELECT * FROM played('5 s', '30 s', $$
	12:00:00		begin	-	-
	12:00:00		end		0	-
	12:00:00		row		0	12:00:00
	12:00:20		row		0	12:05:20.000001
	12:00:40		look	-	-
	12:00:40		row		0	12:05:40
	12:00:40		look	-	-
$$);
-- A clock that is set back makes nobody wait for longer than the timeout.
SELECT * FROM played('5 s', '30 s', $$
	12:00:00		begin	-	-
	12:00:00		begin	-	-
	12:00:00		end		0	-
	12:00:00		end		1	-
	12:00:00		row		0	11:00:00
	11:00:00		look	-	-
	11:00:30		look	-	-
$$);
-- What another process has read counts, and is no sign of life.
SELECT * FROM played('5 s', '30 s', $$
	12:00:00		begin	-	-
	12:00:00		end		0	-
	12:00:10		merge	0	11:00:00
	12:00:10		merge	0	10:00:00
	12:00:10		look	-	-
	12:00:30		look	-	-
$$);

--
-- Deadlines
--
-- What was added, is not later than the watermark and has not been dropped is due;
-- the watermark may be anything, and deadlines near it, far away or past.
CREATE FUNCTION random_deadlines(n int, distinct_ones int) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	TRUNCATE script RESTART IDENTITY;
	INSERT INTO script (what, ts)
	SELECT what, CASE WHEN random() < 0.01 THEN (ARRAY['infinity', '-infinity', '4713-01-01 BC', '294276-12-31',
				'2000-01-01', '1999-12-31 23:59:59.999999'])[1 + floor(random() * 6)]::timestamptz
			WHEN what = 'add' THEN now + CASE WHEN random() < 0.1 THEN floor(random() * 3) - 1
				WHEN distinct_ones > 0 THEN floor(random() * distinct_ones) * 1000000
				ELSE floor(exp(random() * 28)) END * interval '1 us'
			ELSE now - CASE WHEN random() < 0.1 THEN random() * interval '10 s' ELSE '0' END END
	FROM (SELECT i, (ARRAY['look', 'drop', 'add', 'add', 'add', 'add', 'add', 'add'])[1 + floor(random() * 8)] AS what,
			'2000-01-01'::timestamptz + (i - n / 2) / 10 * interval '1 s' AS now FROM generate_series(1, n) i) s
	WHERE what <> 'drop' OR random() < 0.3 ORDER BY i;
	-- what is looked at is mostly dropped
	UPDATE script d SET what = 'drop', ts = l.ts FROM script l
		WHERE l.what = 'look' AND d.step = l.step + 1 AND random() < 0.5;
END $$;
CREATE FUNCTION deadlines_as_expected()
RETURNS TABLE (looks boolean, seen boolean, wrong_items bigint, wrong_order bigint, wrong_first bigint, wrong_count bigint)
BEGIN ATOMIC
	WITH life AS MATERIALIZED (
		SELECT a.step, a.ts, coalesce((SELECT min(d.step) FROM script d
			WHERE d.what = 'drop' AND d.step > a.step AND d.ts >= a.ts), 2147483647) AS gone
		FROM script a WHERE a.what = 'add'),
	expected AS (
		SELECT l.step, coalesce(array_agg(a.step ORDER BY a.step) FILTER (WHERE a.ts <= l.ts), '{}') AS due,
			coalesce(min(a.ts), 'infinity') AS first, count(a.ts) AS waiting
		FROM script l LEFT JOIN life a ON a.step < l.step AND a.gone > l.step
		WHERE l.what = 'look' GROUP BY l.step)
	SELECT count(*) > 60, sum(cardinality(e.due)) > 300,
		count(*) FILTER (WHERE ARRAY(SELECT unnest(d.due) ORDER BY 1) IS DISTINCT FROM e.due),
		count(*) FILTER (WHERE EXISTS (SELECT FROM (SELECT s.ts < lag(s.ts) OVER (ORDER BY i) AS wrong
			FROM unnest(d.due) WITH ORDINALITY u (step, i) JOIN script s USING (step)) o WHERE wrong)),
		count(*) FILTER (WHERE d.first IS DISTINCT FROM e.first),
		count(*) FILTER (WHERE d.waiting IS DISTINCT FROM e.waiting)
	FROM expected e LEFT JOIN (SELECT d.* FROM (SELECT array_agg(what ORDER BY step) AS what,
		array_agg(ts ORDER BY step) AS ts, array_agg(step ORDER BY step) AS step FROM script) s,
		weir_test_deadlines(s.what, s.ts, s.step) d) d USING (step);
END;
SELECT random_deadlines(2500, 0);
SELECT * FROM deadlines_as_expected();
SELECT random_deadlines(2500, 60);
SELECT * FROM deadlines_as_expected();
SELECT random_deadlines(2500, 1);
SELECT * FROM deadlines_as_expected();

-- An item is due when the watermark is its deadline, and not a moment before;
-- only then it is dropped.
SELECT due, first, waiting FROM weir_test_deadlines(
	'{look, add, add, look, drop, look, look, drop, look}',
	ARRAY['2026-01-01', '2026-01-01', 'infinity', '2025-12-31 23:59:59.999999', '2025-12-31 23:59:59.999999',
		'2026-01-01', '2026-01-01', '2026-01-01', '294276-12-31']::timestamptz[],
	'{0, 1, 2, 0, 0, 0, 0, 0, 0}');

-- Many, with few deadlines and with many: each is due once, in 24 bytes.
SELECT n, (weir_test_deadlines_cost(200000, n))[4] <= 24 AS small FROM unnest('{1, 1440, 200000}'::int[]) n;
