--
-- Aggregates are exact when rows are taken back: whatever was given and taken
-- back, in whatever order, the states show what Postgres' own aggregate shows
-- over the rows that are left.
--
-- Runs in WEIR_TEST builds only, and needs neither worker nor broker: the states
-- are driven directly, by batches, through saves and loads, and as two halves
-- that are merged.
--
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pg_weir;
RESET client_min_messages;
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';
SET intervalstyle = 'postgres';
SET lc_monetary = 'C';
SET statement_timeout = '120s';
CREATE FUNCTION weir_test_fold(aggregate regprocedure, type regtype, coll regcollation,
	keys text[], vals text[], diffs bigint[], how text,
	OUT key text, OUT n bigint, OUT result text) RETURNS SETOF record
AS '$libdir/pg_weir', 'weir_test_fold' LANGUAGE C STRICT;
CREATE FUNCTION weir_test_churn(groups int, rounds int) RETURNS bigint[]
AS '$libdir/pg_weir', 'weir_test_churn' LANGUAGE C STRICT;
CREATE FUNCTION weir_test_starved_merge(aggregate regprocedure, type regtype,
	a text[], b text[]) RETURNS boolean
AS '$libdir/pg_weir', 'weir_test_starved_merge' LANGUAGE C STRICT;

-- Rows with their time of coming and, unless they stay, of going.
CREATE TABLE life (key text, val text, born float8, gone float8);

-- Rows of random values of `vals`, half of which go again; all rows of one key
-- go, and all of values that are `passing`.
CREATE FUNCTION live(vals text[], passing text[]) RETURNS void
BEGIN ATOMIC
	DELETE FROM life;
	INSERT INTO life
	SELECT k, CASE WHEN random() > 0.05 THEN v[1 + floor(random() * array_length(v, 1))::int] END,
		born, CASE WHEN random() < 0.5 OR k LIKE 'all%' THEN born + random() END
	FROM (SELECT random() AS born, (ARRAY['a', 'b', 'a longer key', 'all go'])[1 + floor(random() * 4)::int] AS k,
			vals || passing AS v
		FROM generate_series(1, 700)) AS rows;
	UPDATE life SET gone = born + 0.3 WHERE val = ANY (passing) AND gone IS NULL;
END;

-- What the states make of that, in each way.
CREATE FUNCTION ours(call text, type text, coll text, how text)
RETURNS TABLE (key text, n bigint, result text)
BEGIN ATOMIC
	SELECT w.key, w.n, w.result
	FROM (SELECT array_agg(r.key ORDER BY at) AS keys, array_agg(val ORDER BY at) AS vals,
			array_agg(diff ORDER BY at) AS diffs
		FROM (SELECT life.key, val, born AS at, 1::bigint AS diff FROM life
			WHERE gone IS NULL OR how <> 'append'
			UNION ALL
			SELECT life.key, val, gone, -1 FROM life WHERE gone IS NOT NULL AND how <> 'append') AS r) AS s,
		weir_test_fold(call::regprocedure, type::regtype, coll::regcollation,
			keys, vals, diffs, how) AS w;
END;

-- 'same', or where they differ.  expected: what Postgres computes of val.  Where
-- equal values look different, any one of those that are left will do.
CREATE FUNCTION compare(call text, type text, vals text[], passing text[] DEFAULT '{}',
	coll text DEFAULT '-', expected text DEFAULT NULL, any_of boolean DEFAULT false) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
	how text;
	found text;
	suffix text := format('::%s', type) || CASE WHEN coll = '-' THEN '' ELSE ' COLLATE ' || coll END;
	typed text := 'val' || suffix;
	looks text := 'o.result IS DISTINCT FROM p.result';
	ways text[] := '{plain,reload,merge,merge_back,reset,append}';
BEGIN
	IF expected IS NOT NULL THEN	-- floats that append only are summed less exactly
		ways := array_remove(ways, 'append');
	END IF;
	PERFORM live(vals, passing);
	expected := coalesce(expected, format('%s(%s)', split_part(call, '(', 1), typed));
	IF any_of THEN
		looks := format('(o.result IS NULL) <> (p.result IS NULL) OR o.result%s <> p.result%1$s OR o.result <> ALL (p.looks)', suffix);
	END IF;
	FOREACH how IN ARRAY ways LOOP
		EXECUTE format($q$
			SELECT string_agg(format('%%s: ours %%s rows, %%s; Postgres %%s rows, %%s', key, o.n, o.result, p.n, p.result), E'\n')
			FROM ours(%L, %L, %L, %L) AS o
			FULL JOIN (SELECT key, count(*) AS n, (%s)::text AS result, array_agg((%s)::text) AS looks
				FROM life WHERE gone IS NULL GROUP BY key) AS p USING (key)
			WHERE o.n IS DISTINCT FROM p.n OR %s $q$,
			call, type, coll, how, expected, typed, looks) INTO found;
		IF found IS NOT NULL THEN
			RETURN how || E'\n' || found;
		END IF;
	END LOOP;
	RETURN 'same';
END $$;

SELECT setseed(0.4711);

-- counts and integers; sums of bigints leave 64 bits on their way
SELECT call, compare(call, type, vals)
FROM (VALUES
	('count("any")', 'text', '{a,b}'::text[]),
	('sum(int2)', 'int2', '{-32768,32767,0,7}'),
	('avg(int2)', 'int2', '{-32768,32767,0,7}'),
	('sum(int4)', 'int4', '{-2147483648,2147483647,12,-5}'),
	('avg(int4)', 'int4', '{-2147483648,2147483647,12,-5}'),
	('sum(int8)', 'int8', '{9223372036854775807,-9223372036854775808,12}'),
	('avg(int8)', 'int8', '{9223372036854775807,-9223372036854775808,12}'),
	('sum(money)', 'money', '{1.25,-99.99,1000000}'),
	('sum(interval)', 'interval', '{1 mon,-1 day,02:03:04.5,-1 year,30 days}'),
	('avg(interval)', 'interval', '{1 mon,-1 day,02:03:04.5,-1 year,30 days}')) AS c(call, type, vals);

-- Floats whose sums are exact in Postgres, too, since others have gone: what
-- is taken back leaves no trace.
SELECT call, compare(call, type, '{1,2.5,-1024.125,0.0009765625,-0,0,3e5}',
	CASE type WHEN 'float4' THEN '{NaN,Infinity,-Infinity,3e38,-3e38,1e-45,0.1}'
	ELSE '{NaN,Infinity,-Infinity,1.7e308,-1e308,5e-324,-1e-310,0.1,1e22}' END::text[])
FROM (VALUES ('sum(float4)', 'float4'), ('avg(float4)', 'float4'),
	('sum(float8)', 'float8'), ('avg(float8)', 'float8')) AS c(call, type);
-- NaN and infinities that stay
SELECT compare('sum(float8)', 'float8', '{1,Infinity}'), compare('sum(float8)', 'float8', '{1,-Infinity}'),
	compare('sum(float8)', 'float8', '{Infinity,-Infinity}'), compare('avg(float8)', 'float8', '{NaN,2}'),
	compare('sum(float8)', 'float8', '{-0}', '{0,5}'), compare('sum(float4)', 'float4', '{-0}', '{0,5}');

-- Floats of all sizes against the exact sum, which numeric has room for, rounded
-- once.
CREATE TABLE power_of_two AS
WITH RECURSIVE up(e, value) AS (SELECT 0, 1::numeric UNION ALL SELECT e + 1, value * 2 FROM up WHERE e < 1023),
	down(e, value) AS (SELECT 0, 1::numeric UNION ALL SELECT e - 1, value * 0.5 FROM down WHERE e > -1074)
SELECT * FROM up UNION SELECT * FROM down;
ALTER TABLE power_of_two ADD PRIMARY KEY (e);
ANALYZE power_of_two;
CREATE FUNCTION exactly(f float8) RETURNS numeric LANGUAGE sql STRICT AS $$
	SELECT sign(f)::int * CASE WHEN e = 0 THEN m ELSE m + (1::bigint << 52) END *
		(SELECT value FROM power_of_two p WHERE p.e = greatest(b.e, 1) - 1075)
	FROM (SELECT (bits >> 52)::int & 2047 AS e, bits & ((1::bigint << 52) - 1) AS m
		FROM (SELECT ('x' || encode(float8send(f), 'hex'))::bit(64)::bigint AS bits) AS a) AS b
$$;
SELECT exactly(0.1), exactly(-3), exactly(5e-324) = (SELECT value FROM power_of_two WHERE e = -1074) AS least;
CREATE FUNCTION floats(range float8) RETURNS text[] LANGUAGE sql AS $$
	SELECT array_agg(((random() - 0.5) * (10::float8 ^ (random() * 2 * range - range)))::text) FROM generate_series(1, 300)
$$;
SELECT range, compare('sum(float8)', 'float8', floats(range), expected => 'sum(exactly(val::float8))::float8')
FROM (VALUES (1), (5), (12), (20), (40), (100), (300)) AS r(range);
SELECT compare('sum(float8)', 'float8', '{5e-324,1e-323,-5e-324,2.2250738585072014e-308,1.5e-310}',
	'{1e300,-1e300}', expected => 'sum(exactly(val::float8))::float8');
SELECT compare('sum(float4)', 'float4',
	(SELECT array_agg(((random() - 0.5) * (10::float8 ^ (random() * 60 - 42)))::float4::text) FROM generate_series(1, 300)),
	expected => 'sum(exactly(val::float4))::float4');
-- ties go to even, and what only just does not tie does not
SELECT result = (2::float8 ^ 53)::text AS even FROM weir_test_fold('sum(float8)', 'float8', '-', '{k,k}', '{9007199254740992,1}', '{1,1}', 'plain');
SELECT result = (2::float8 ^ 53 + 2)::text AS up FROM weir_test_fold('sum(float8)', 'float8', '-', '{k,k,k}', '{9007199254740992,1,5e-324}', '{1,1,1}', 'plain');
-- many of one row at once
SELECT result FROM weir_test_fold('sum(float8)', 'float8', '-', '{k,k,k}', '{1.5,1.5,-0.25}', '{9000000000000000,-8999999999999999,1}', 'plain');
SELECT result FROM weir_test_fold('sum(numeric)', 'numeric', '-', '{k,k,k}', '{1.50,1.50,-0.2}', '{9000000000000000000,-8999999999999999999,1}', 'plain');
SELECT result FROM weir_test_fold('min(text)', 'text', '"C"', '{k,k,k}', '{a,a,b}', '{9000000000000000000,-9000000000000000000,1}', 'plain');
-- only the sum that is shown has to fit
SELECT result FROM weir_test_fold('sum(float8)', 'float8', '-', '{k,k,k}', '{1e308,1e308,-1.5e308}', '{1,1,1}', 'plain');
SELECT result FROM weir_test_fold('sum(float8)', 'float8', '-', '{k,k}', '{1e308,1e308}', '{1,1}', 'plain');
SELECT result FROM weir_test_fold('sum(float4)', 'float4', '-', '{k,k}', '{3e38,3e38}', '{1,1}', 'plain');

-- numeric: the display scale is that of the rows that are left
SELECT call, compare(call, 'numeric', vals, passing)
FROM (VALUES ('sum(numeric)'), ('avg(numeric)')) AS c(call), (VALUES
	('{1.00,2.50,-3.25}'::text[], '{}'::text[]),
	('{1,2.5,-3}', '{1.000,7.12345,0.00000000000000000001}'),
	('{1,2.5,-3.11,4.001,5.0001,6.00001,7.000001}', '{8.0000001,9.00000000}'),
	('{99999999999999999999999999999999,0.5,-1}', '{1e200,-1e-200,123456789012345678901234567890.12345678901234567890}'),
	('{1e40,-1e39,0.00000000000000000000000001}', '{0.1}'),
	('{170141183460469231731687303715884105727,170141183460469231731687303715884105727.5}', '{1.23}'),
	('{1,2.50}', '{NaN,Infinity,-Infinity}'),
	('{1,Infinity}', '{NaN,-Infinity}'),
	('{0.00,-0}', '{1.2345}'),
	('{1,NaN}', '{}')) AS v(vals, passing);

-- min and max of everything that has them, over few values and many
SELECT aggregate || '(' || type || ')' AS call,
	compare(aggregate || '(' || coalesce(arg, type) || ')', type, vals, passing, coll, any_of => true)
FROM (VALUES ('min'), ('max')) AS a(aggregate), (VALUES
	('int2', NULL, '{-32768,0,5,32767}'::text[], '{}'::text[], '-'),
	('int4', NULL, (SELECT array_agg((random() * 1000)::int::text) FROM generate_series(1, 400)), '{-2147483648}', '-'),
	('int8', NULL, '{5,-6,9223372036854775807}', '{-9223372036854775808}', '-'),
	('oid', NULL, '{5,4294967295,17}', '{0}', '-'),
	('money', NULL, '{1.5,-3}', '{-100}', '-'),
	('date', NULL, '{2026-01-01,infinity,0044-03-15 BC}', '{-infinity}', '-'),
	('time', NULL, '{00:00,24:00,12:34:56.789}', '{}', '-'),
	('timetz', NULL, '{00:00+05,00:00+00,23:59:59-11}', '{}', '-'),
	('timestamp', NULL, '{2026-01-01 00:00,infinity,0044-03-15 BC}', '{-infinity}', '-'),
	('timestamptz', NULL, '{2026-01-01 00:00+00,infinity,1970-01-01 00:00+02}', '{-infinity}', '-'),
	('float4', NULL, '{1.5,-0,0,3e38,NaN,Infinity}', '{-Infinity}', '-'),
	('float8', NULL, (SELECT array_agg(v) FROM (SELECT random()::text AS v FROM generate_series(1, 300) UNION ALL VALUES ('NaN'), ('-0'), ('0')) AS f), '{-Infinity,Infinity}', '-'),
	('numeric', NULL, '{1,1.0,1.00,2,2.000,-5e100,1e-50}', '{NaN,-Infinity,Infinity}', '-'),
	('interval', NULL, '{1 mon,30 days,720:00,-1 year,1 sec}', '{}', '-'),
	('text', NULL, (SELECT array_agg(repeat(md5(i::text), i % 7)) FROM generate_series(1, 400) AS i), '{zzz,~}', '"C"'),
	('text', NULL, '{a,B,b,A,ä,Z,éa,""}', '{zz}', '"en-x-icu"'),
	('text', NULL, (SELECT array_agg(repeat(chr(97 + i % 26), 1000 * (i % 4))) FROM generate_series(1, 40) AS i), '{}', '"C"'),
	('bpchar', 'bpchar', '{"a ",b,"a"}', '{}', '"C"'),
	('inet', NULL, '{10.0.0.1,10.0.0.0/8,::1}', '{1.2.3.4}', '-'),
	('tid', NULL, '{"(0,1)","(5,2)"}', '{"(0,0)"}', '-'),
	('pg_lsn', NULL, '{0/1,FFFFFFFF/0}', '{0/0}', '-'),
	('xid8', NULL, '{1,18446744073709551615}', '{0}', '-'),
	('int[]', 'anyarray', '{"{1,2}","{1}","{2,NULL}"}', '{"{}"}', '-')) AS t(type, arg, vals, passing, coll);
CREATE TYPE retract_mood AS ENUM ('sad', 'ok', 'happy');
SELECT compare('max(anyenum)', 'retract_mood', '{sad,ok}', '{happy}'), compare('min(anyenum)', 'retract_mood', '{happy,ok}', '{sad}');

-- values that are equal and look different, by a collation that says so
CREATE COLLATION retract_nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
SELECT compare('min(text)', 'text', '{a,A,b,B,c,Ä,ä}', '{Aa}', 'retract_nocase', any_of => true),
	compare('max(text)', 'text', '{a,A,z,Z}', '{zz,ZZ}', 'retract_nocase', any_of => true);
-- what is shown is left, not what was first
SELECT result FROM weir_test_fold('min(text)', 'text', 'retract_nocase', '{k,k,k}', '{a,A,a}', '{1,1,-1}', 'plain');
SELECT result FROM weir_test_fold('max(numeric)', 'numeric', '-', '{k,k,k}', '{1.0,1.00,1.0}', '{1,1,-1}', 'plain');

-- A hundred thousand values of one group, in order, against it and at random, and
-- taken back but for one in a thousand: not quadratic (the timeout).
CREATE TABLE many AS SELECT i AS at, (CASE i / 40000 WHEN 0 THEN i WHEN 1 THEN 200000 - i ELSE (random() * 1e6)::int END) AS v
FROM generate_series(0, 99999) AS i;
SELECT type, result = (SELECT CASE type WHEN 'text' THEN min(v::text COLLATE "C") ELSE min(v)::text END FROM many WHERE at % 1000 = 7) AS same, n
FROM (VALUES ('int4', '-'), ('text', '"C"')) AS t(type, coll),
	LATERAL (SELECT array_agg('k'::text) AS keys, array_agg(v::text ORDER BY diff DESC, at) AS vals, array_agg(diff ORDER BY diff DESC, at) AS diffs
		FROM (SELECT at, v, 1::bigint AS diff FROM many UNION ALL SELECT at, v, -1 FROM many WHERE at % 1000 <> 7) AS r) AS s,
	LATERAL weir_test_fold(format('min(%s)', type)::regprocedure, type::regtype, coll::regcollation, keys, vals, diffs, 'plain');

-- Keys that come and go, of all lengths: the memory of two rounds does for two
-- hundred.
SELECT c[1] AS groups, c[3] <= c[2] * 1.3 AS table_stays, c[5] <= c[4] * 1.1 AS values_stay
FROM weir_test_churn(500, 200) AS c;

-- A merge that runs out of budget, at whichever step, leaves all as it was.
SELECT weir_test_starved_merge('min(text)', 'text', a, b), weir_test_starved_merge('max(int4)', 'int4', i, j)
FROM (SELECT array_agg(md5(i::text)) AS a, array_agg(md5((i + 20)::text)) AS b, array_agg(i::text) AS i, array_agg((i * 7 % 100)::text) AS j
	FROM generate_series(1, 100) AS i) AS s;
SELECT weir_test_starved_merge('sum(numeric)', 'numeric', '{1e50,1.5,NaN,1.25,3}', '{-1e60,1.125,2.0001,0.00001}'),
	weir_test_starved_merge('sum(float8)', 'float8', '{1e300,1}', '{1e-300,NaN}');

DROP FUNCTION ours, live;
DROP TABLE life, power_of_two, many;
DROP FUNCTION compare, exactly, floats, weir_test_fold, weir_test_churn, weir_test_starved_merge;
DROP COLLATION retract_nocase;
DROP TYPE retract_mood;
