-- Decoding: bytes to rows.  The oracle is Postgres' own parser and casts; what
-- is printed is mostly how many answers differ from it.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pg_weir;
SET timezone = 'America/New_York';
CREATE SCHEMA decode_test;
SET search_path = decode_test, public;

-- The decoder reads nothing but options, so a wrapper without code will do.
CREATE FOREIGN DATA WRAPPER test_fdw;
CREATE SERVER test_server FOREIGN DATA WRAPPER test_fdw;

-- One message, with everything that it is made of.
CREATE FOREIGN TABLE clicks (
	user_id	bigint,
	url		text,
	amount	numeric,
	ts		timestamptz,
	country	text OPTIONS (path 'geo.country'),
	geo		jsonb,
	missing	text,
	key		text OPTIONS (metadata 'key'),
	part	int OPTIONS (metadata 'partition'),
	off		bigint OPTIONS (metadata 'offset'),
	at		timestamptz OPTIONS (metadata 'timestamp'),
	headers	jsonb OPTIONS (metadata 'headers')
) SERVER test_server OPTIONS (topic 'clicks');

\x on
SELECT * FROM weir.try_decode('clicks', '{"user_id": 123456, "url": "/product/1234", "amount": 12.340, "ts": "2026-01-02T03:04:05.678Z", "geo": {"country": "DE", "city": "Berlin"}, "agent": "Mozilla/5.0 (X11)", "ok": true, "n": [1]}', 'k1');
\x off

-- A tombstone is no row and no error.
SELECT * FROM weir.try_decode('clicks', NULL, 'k1');

-- The verdict on poison: no message stops the flow, each has its SQLSTATE.
CREATE FUNCTION poison(label text, payload bytea) RETURNS TABLE (what text, verdict text, sqlstate text, message text)
	LANGUAGE sql AS $$
	SELECT label, t.verdict, t.sqlstate, t.message FROM weir.try_decode('clicks', payload) t
$$;
CREATE TABLE poison_cases (n serial, label text, payload bytea);
INSERT INTO poison_cases (label, payload) VALUES
	('empty', ''),
	('blank', '  '),
	('null', 'null'),
	('array', '[{"user_id": 1}]'),
	('string', '"x"'),
	('truncated', '{"user_id": 1'),
	('two documents', '{"user_id": 1} {"user_id": 2}'),
	('comma at the end', '{"user_id": 1,}'),
	('single quotes', convert_to($${'user_id': 1}$$, 'UTF8')),
	('leading zero', '{"user_id": 01}'),
	('NaN', '{"amount": NaN}'),
	('byte order mark', '\xefbbbf7b7d'),
	('NUL byte', '\x7b2275726c223a226100227d'),
	('control character', E'{"url": "a\\011b"}'),
	('bad UTF-8', '\x7b2275726c223a22ff227d'),
	('bad UTF-8 in a field that nobody wants', '\x7b2278223a22c3227d'),
	('overlong UTF-8', '\x7b2275726c223a22c0af227d'),
	('surrogate in UTF-8', '\x7b2275726c223a22eda080227d'),
	('escaped NUL', convert_to('{"url": "a\u0000b"}', 'UTF8')),
	('escaped NUL in a field that nobody wants', convert_to('{"x": "a\u0000b"}', 'UTF8')),
	('escaped NUL inside jsonb', convert_to('{"geo": {"x": "\u0000"}}', 'UTF8')),
	('lone high surrogate', convert_to('{"url": "\ud83d"}', 'UTF8')),
	('lone low surrogate', convert_to('{"url": "\ude00"}', 'UTF8')),
	('two high surrogates', convert_to('{"url": "\ud83d\ud83d"}', 'UTF8')),
	('surrogate pair', convert_to('{"url": "\ud83d\ude00"}', 'UTF8')),
	('escapes', convert_to('{"url": "\"\\\/\b\f\n\r\t\u00e9"}', 'UTF8')),
	('escaped name', convert_to('{"\u0075rl": "x"}', 'UTF8')),
	('a fraction for an integer', '{"user_id": 1.5}'),
	('an integral number', '{"user_id": 1.0}'),
	('an integer with an exponent', '{"user_id": 12e2}'),
	('an integer in a string', '{"user_id": "17"}'),
	('a word for an integer', '{"user_id": "seventeen"}'),
	('too large', '{"user_id": 9223372036854775808}'),
	('enormous', '{"user_id": 1e131072}'),
	('numeric overflow', '{"amount": 1e131072}'),
	('an object for an integer', '{"user_id": {"a": 1}}'),
	('an object for text', '{"url": {"a" : 1}}'),
	('a boolean for text', '{"url": true}'),
	('no such day', '{"ts": "2026-02-30T00:00:00Z"}'),
	('a number for a time', '{"ts": 1767323045678}'),
	('not a time', '{"ts": "yesterday or so"}'),
	('nulls', '{"user_id": null, "url": null, "amount": null, "ts": null, "geo": null}'),
	('empty object', '{}'),
	('duplicate', '{"url": "a", "url": "b"}'),
	('duplicate parent', '{"geo": {"country": "DE"}, "geo": {"city": "Berlin"}}'),
	('duplicate parent, no object', '{"geo": {"country": "DE"}, "geo": 3}'),
	('a parent that is an array', '{"geo": [{"country": "DE"}]}');
SELECT p.* FROM poison_cases, poison(label, payload) p ORDER BY n;
SELECT label, t."row" ->> 'user_id' AS user_id, t."row" ->> 'url' AS url, t."row" ->> 'country' AS country, t."row" -> 'geo' AS geo
	FROM poison_cases, weir.try_decode('clicks', payload) t WHERE t.verdict = 'row' ORDER BY n;

-- Size and depth have limits that do not depend on the server's settings.
SELECT n, v.verdict, v.sqlstate, v.message
	FROM (VALUES (999), (1000), (100000)) d(n),
		weir.try_decode('clicks', convert_to('{"x":' || repeat('[', n) || repeat(']', n) || '}', 'UTF8')) v;
SELECT v.verdict, v.sqlstate, v.message
	FROM weir.try_decode('clicks', convert_to('{"x":"' || repeat('x', 17000000) || '"}', 'UTF8')) v;

--
-- Which documents are JSON: json_in decides.
--
CREATE FOREIGN TABLE grammar (a text OPTIONS (path 'a'), b text OPTIONS (path 'b.c'))
	SERVER test_server;

CREATE FUNCTION is_json_object(payload bytea) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
	RETURN json_typeof(convert_from(payload, 'UTF8')::json) = 'object';
EXCEPTION WHEN data_exception THEN
	RETURN false;
END $$;

-- Documents with everything that JSON has, and each of them with one byte
-- deleted, replaced, inserted or everything behind it cut off.
CREATE TABLE seeds (seed bytea);
INSERT INTO seeds SELECT convert_to(s, 'UTF8') FROM unnest(ARRAY[
	'{}', ' { } ', '{"a":1}', '{"b":{"c":2}}', '{"a":[],"b":{}}', '[]', '"a"', '1', 'true',
	E'{ "a"\t:\n-0.5e+10 ,\r"x" : [ true , false, null ] }',
	'{"x":[[1,[2,{"y":[3]}]],{}],"a":"z"}',
	'{"x":{"y":{"z":[{"w":{}}]}},"b":{"d":[{"c":1}],"c":"v"}}',
	'{"a":"\u00e9\\\"\/\b\f\n\r\t","b":"\ud83d\ude00"}',
	'{"a":"é€😀","ключ":"значение, длиннее шестнадцати байт"}',
	'{"a long name of more than thirty-two bytes":"and a text of more than thirty-two bytes"}',
	'{"a":0,"n":[0,-1,10,1.0,1.25,0e0,1E5,1e-5,-0]}',
	'{"a":1,"b":{"c":2,"c":3},"a":4,"b":5}'
]) s;

CREATE TABLE documents AS
	SELECT DISTINCT payload FROM (
		SELECT seed AS payload FROM seeds
		UNION ALL
		SELECT substr(seed, 1, i) FROM seeds, generate_series(0, length(seed)) i
		UNION ALL
		SELECT substr(seed, 1, i - 1) || substr(seed, i + 1) FROM seeds, generate_series(1, length(seed)) i
		UNION ALL
		SELECT substr(seed, 1, i - 1) || set_byte('\x00', 0, b) || substr(seed, i + 1)
			FROM seeds, generate_series(1, length(seed)) i,
				unnest(ARRAY[0, 9, 10, 31, 32, 34, 43, 44, 45, 46, 47, 48, 49, 57, 58, 69, 91, 92, 93, 97, 101, 102, 110, 116, 117, 123, 125, 127, 128, 192, 224, 240, 255]) b
		UNION ALL
		SELECT substr(seed, 1, i) || set_byte('\x00', 0, b) || substr(seed, i + 1)
			FROM seeds, generate_series(0, length(seed)) i,
				unnest(ARRAY[0, 9, 10, 31, 32, 34, 43, 44, 45, 46, 47, 48, 49, 57, 58, 69, 91, 92, 93, 97, 101, 102, 110, 116, 117, 123, 125, 127, 128, 192, 224, 240, 255]) b
	) m;

-- A field is what -> and ->> give (jsonb would normalise numbers).  Documents
-- with a \u that is no text are compared for their grammar only.
CREATE FUNCTION field(payload bytea, VARIADIC path text[]) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	value json := convert_from(payload, 'UTF8')::json;
BEGIN
	FOR i IN 1 .. array_length(path, 1) - 1 LOOP
		value := value -> path[i];
	END LOOP;
	RETURN value ->> path[array_length(path, 1)];
EXCEPTION WHEN data_exception THEN
	RETURN 'no text';
END $$;

CREATE TABLE scanned AS
	SELECT d.payload, t.verdict, t."row", is_json_object(d.payload) AS expected
	FROM documents d, weir.try_decode('grammar', d.payload) t;
SELECT count(*) > 30000 AS many, count(*) FILTER (WHERE expected) > 5000 AS many_good,
	count(*) FILTER (WHERE NOT expected) > 5000 AS many_bad FROM scanned;
-- ... 'no text' apart, verdicts and fields that differ: none
SELECT payload, verdict, expected FROM scanned
	WHERE (verdict = 'row') <> expected AND field(payload, 'a') IS DISTINCT FROM 'no text';
SELECT payload, "row", field(payload, 'a') AS a, field(payload, 'b', 'c') AS c FROM scanned
	WHERE expected AND verdict = 'row' AND field(payload, 'a') IS DISTINCT FROM 'no text'
		AND ("row" ->> 'a' IS DISTINCT FROM field(payload, 'a') OR "row" ->> 'b' IS DISTINCT FROM field(payload, 'b', 'c'));
-- ... and a \u that is no text makes a message bad only where it is wanted
SELECT count(*) FROM scanned
	WHERE expected AND verdict = 'bad' AND field(payload, 'a') IS DISTINCT FROM 'no text';

--
-- Each type: the answer is (payload ->> 'v')::type, error codes included.
--
CREATE FUNCTION by_cast(doc text, type text, OUT state text, OUT value text) LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('SELECT coalesce(to_jsonb(($1::json ->> ''v'')::%s)::text, ''null'')', type) INTO value USING doc;
	state := '00000';
EXCEPTION WHEN data_exception OR integrity_constraint_violation THEN
	state := SQLSTATE;
END $$;

-- A cast cuts off what is too long for char(n) or varchar(n); input does not.
CREATE FUNCTION by_input(doc text, type text, OUT state text, OUT value text) LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('SELECT coalesce(to_jsonb(v)::text, ''null'') FROM json_to_record($1::json) r(v %s)', type) INTO value USING doc;
	state := '00000';
EXCEPTION WHEN data_exception OR integrity_constraint_violation THEN
	state := SQLSTATE;
END $$;

-- Integers also take any JSON number with an integral value.
CREATE FUNCTION by_number(doc text, type text, OUT state text, OUT value text) LANGUAGE plpgsql AS $$
DECLARE
	v text := btrim(doc::json ->> 'v', E' \t\n\r\v\f');
BEGIN
	IF v !~ '^-?(0|[1-9]\d*)(\.\d+)?([eE][-+]?\d+)?$' THEN
		SELECT * FROM by_cast(doc, type) INTO state, value;
	ELSIF v ~ '[eE]-?\+?0*[1-9]\d{4,}$' THEN
		state := CASE WHEN v ~ '^-?[0.]*[eE]' THEN '00000' WHEN v ~ '[eE]-' THEN '22P02' ELSE '22003' END;
		value := CASE WHEN state = '00000' THEN '0' END;
	ELSIF v::numeric <> trunc(v::numeric) THEN
		state := '22P02';
	ELSE
		SELECT * FROM by_cast(json_build_object('v', trunc(v::numeric)::text)::text, type) INTO state, value;
	END IF;
END $$;

CREATE FUNCTION by_decoder(stream regclass, doc text, OUT state text, OUT value text) LANGUAGE sql AS $$
	SELECT coalesce(t.sqlstate, '00000'), ("row" -> 'v')::text FROM weir.try_decode(stream, convert_to(doc, 'UTF8')) t
$$;

-- Texts in and around each type's syntax, and each with one character
-- changed; all as JSON strings, and as bare JSON where they are that.
CREATE TABLE texts (kind text, t text);
INSERT INTO texts SELECT 'number', unnest(ARRAY[
	'0', '-0', '1', '-1', '+1', '12', '00012', '127', '32767', '32768', '-32768', '-32769', '2147483647', '2147483648', '-2147483648', '-2147483649',
	'9223372036854775807', '9223372036854775808', '-9223372036854775808', '-9223372036854775809', '18446744073709551616', '99999999999999999999',
	'1.0', '1.5', '-1.50', '1e2', '1E+2', '120e-1', '125e-1', '1.25e2', '1.25e1', '0e5', '0e400', '0e-400', '0.0', '-0.0', '0.000', '1e400', '1e-400', '1e99999999999', '1e-99999999999',
	'1000000000000000000000e-10', '0.00000000000000000000000001e26', '123456789012345678901234567890e-20', '100000000000000000000.0', '9223372036854775807.0', '9223372036854775807.5', '9223372036854775808.0',
	'12.34', '99999999.99', '0.1', '0.2', '0.3', '1.1', '123456.789', '0.1234567890123456', '0.12345678901234567', '1234567890.123456', '9999999999999999', '99999999999999999', '0.0001', '0.00012', '100.00', '1000000', '10000.0001', '99.995', '99.9949999', '-99.995', '0.005', '0.004999999999999',
	'3.4028235e38', '3.4028236e38', '1e-45', '1e-46', '1.17549435e-38', '1.7976931348623157e308', '1.7976931348623159e308', '5e-324', '2e-324', '2.2250738585072014e-308', '9007199254740993', '9007199254740992', '16777217', '16777216', '123456789e-10', '7.0385307e-26', '1e22', '1e23', '8.5e-23',
	'NaN', 'nan', 'Infinity', '-Infinity', 'inf', '.5', '5.', '-.5', ' 1 ', E'\t1', '1 2', '', ' ', '-', '+', 'e', '1e', '1e+', '0x1F', '0b11', '0o17', '1_000', '1__0', '_1', '1_', 'abc', '1a', '--1', '+-1', '١', '1,5', '0x', '0x1p3', 'true'
]);
INSERT INTO texts SELECT 'time', unnest(ARRAY[
	'2026-01-02T03:04:05.678Z', '2026-01-02 03:04:05.678901+02', '2026-01-02T03:04:05+02:30', '2026-01-02T03:04:05-0230', '2026-01-02T03:04:05', '2026-01-02 03:04:05', '2026-01-02T03:04Z', '2026-01-02', '20260102T030405Z', '2026-01-02T03:04:05.1234567Z', '2026-01-02T03:04:05.999999500Z', '2026-01-02T03:04:05.9999995Z', '2026-01-02T03:04:05.123456789+00', '2026-01-02T03:04:05.1234565Z', '2026-01-02T03:04:05.0000005Z', '2026-01-02T03:04:05.0000015Z', '2026-01-02T23:59:59.999999999999Z', '2026-01-02T03:04:05.123456789012345Z', '2026-01-02T03:04:05.1234567890123456Z',
	'2026-02-28T00:00:00Z', '2026-02-29T00:00:00Z', '2024-02-29T00:00:00Z', '2000-02-29T00:00:00Z', '1900-02-29T00:00:00Z', '1900-02-28T12:00:00Z', '0001-01-01T00:00:00Z', '0000-01-01T00:00:00Z', '9999-12-31T23:59:59.999999Z', '1969-12-31T23:59:59.5-15:59', '2026-13-01T00:00:00Z', '2026-00-01T00:00:00Z', '2026-01-00T00:00:00Z', '2026-04-31T00:00:00Z', '2026-01-02T24:00:00Z', '2026-01-02T24:00:01Z', '2026-01-02T25:00:00Z', '2026-01-02T23:60:00Z', '2026-01-02T23:59:60Z', '2026-01-02T23:59:61Z', '2026-01-02T03:04:05+15:59', '2026-01-02T03:04:05+16', '2026-01-02T03:04:05+15:60', '2026-01-02T03:04:05+2', '2026-01-02T03:04:05+02:3', '2026-01-02T03:04:05+023', '2026-01-02T03:04:05+02:30:15', '2026-01-02T03:04:05 +02', '2026-01-02T03:04:05 Z', '2026-01-02T03:04:05z', '2026-01-02t03:04:05Z', '2026-01-02T03:04:05.Z', '2026-01-02T03:04:05.', '2026-01-02T03:04:05,5Z', '2026-1-2T3:4:5Z', '26-01-02T03:04:05Z', '12026-01-02T03:04:05Z', '2026-01-02T03:04:05 BC', '2026-01-02 03:04:05 America/New_York', '2026-01-02 03:04:05 EST', '2026-03-08 02:30:00', '2026-11-01 01:30:00', 'infinity', '-infinity', 'epoch', 'Jan 2 2026 03:04:05 UTC', '01/02/2026', '2026.01.02', '2026-002', '2026-01-02T03:04:05ZZ', '2026-01-02T03:04:05+', '2026-01-02T03:04:05+0x', ' 2026-01-02T03:04:05Z', '2026-01-02T03:04:05Z ', '294276-12-31T23:59:59Z', '294277-01-01T00:00:00Z', '20260102', '1767323045678', '2026', ''
]);
INSERT INTO texts SELECT 'bool', unnest(ARRAY[
	'true', 'false', 't', 'f', 'T', 'tr', 'tru', 'truex', 'yes', 'y', 'no', 'on', 'off', 'o', 'of', '1', '0', '2', '10', '', ' ', ' true ', E'\tfalse\n', 'null', 'NULL', 'TRUE', 'False', '1.0'
]);
INSERT INTO texts SELECT 'uuid', unnest(ARRAY[
	'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11', '{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}', 'a0eebc999c0b4ef8bb6d6bb9bd380a11', 'a0ee-bc99-9c0b-4ef8-bb6d-6bb9-bd38-0a11', '{a0eebc99-9c0b4ef8-bb6d6bb9-bd380a11}', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a1', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a111', '{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}', 'a-0eebc999c0b4ef8bb6d6bb9bd380a11', 'a0eebc99--9c0b-4ef8-bb6d-6bb9bd380a11', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11-', 'g0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '', '{}'
]);
INSERT INTO texts SELECT 'text', unnest(ARRAY[
	'', 'a', 'abcde', 'abcdef', 'abcde   ', 'abcde  f', 'éééééé', 'ééééé', '     ', '😀😀😀😀😀', '😀😀😀😀😀 ', E'a"b\\c/d\be\nf', '{"a": [1, 2]}', '[1]', 'null', repeat('long ', 100), repeat('é', 300)
]);
INSERT INTO texts
	SELECT kind, overlay(t placing c from i for n) FROM texts, generate_series(1, length(t)) i,
		unnest(ARRAY['', ' ', '0', '9', '.', '-', '+', ':', 'e', 'T', 'x']) c, generate_series(0, 1) n
	WHERE kind IN ('number', 'time', 'uuid') AND length(t) < 48 AND t IN (
		'-1.50', '1.25e2', '12.34', '9223372036854775807', ' 1 ', '2026-01-02T03:04:05.678Z', '2026-01-02 03:04:05.678901+02', '2026-01-02T03:04:05+02:30', '2026-01-02T03:04:05.1234567Z', '2026-01-02', '2026-01-02 03:04:05', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '{a0eebc99-9c0b4ef8-bb6d6bb9-bd380a11}')
	UNION
	SELECT 'number', v FROM generate_series(1, 2000) i,
		LATERAL (VALUES ((i * 7919 % 100000)::text || '.' || (i * 104729 % 1000)::text), ((i::numeric * 982451653 * 7919 % 99999999999999989)::text || 'e' || (i % 61 - 40)), ('-0.' || repeat('0', i % 9) || (i * 15485863::bigint % 1000000007))) x(v);

CREATE TABLE docs AS
	SELECT kind, json_build_object('v', t)::text AS doc FROM texts
	UNION
	SELECT kind, '{"v": ' || t || '}' FROM texts
		WHERE is_json_object(convert_to('{"v": ' || t || '}', 'UTF8'));
SELECT kind, count(*) > 15 AS enough FROM docs GROUP BY kind ORDER BY kind;

CREATE TABLE types (kind text, type text, oracle text DEFAULT 'by_cast');
INSERT INTO types VALUES
	('number', 'smallint', 'by_number'), ('number', 'integer', 'by_number'), ('number', 'bigint', 'by_number');
INSERT INTO types SELECT 'number', unnest(ARRAY['real', 'double precision', 'numeric', 'numeric(10,2)', 'numeric(4,2)', 'numeric(20)', 'numeric(3,5)', 'numeric(5,-2)', 'numeric(30,20)', 'text', 'boolean', 'money', 'oid']);
INSERT INTO types SELECT 'time', unnest(ARRAY['timestamptz', 'timestamp', 'timestamptz(3)', 'timestamp(0)', 'date', 'time', 'timetz', 'interval']);
INSERT INTO types SELECT 'bool', unnest(ARRAY['boolean', 'text']);
INSERT INTO types SELECT 'uuid', unnest(ARRAY['uuid']);
INSERT INTO types SELECT 'text', unnest(ARRAY['text', 'varchar', 'varchar(5)', 'char(5)', 'name', 'bytea']), 'by_input';

CREATE TABLE differences (type text, doc text, expected_state text, expected text, state text, value text);
CREATE TABLE compared (type text, good bigint, bad bigint);
DO $$
DECLARE
	k record;
BEGIN
	FOR k IN SELECT * FROM types LOOP
		EXECUTE format('CREATE FOREIGN TABLE one_column (v %s) SERVER test_server', k.type);
		EXECUTE format($f$
			WITH answers AS (
				SELECT doc, e.state AS expected_state, e.value AS expected, d.state, d.value
				FROM docs, %s(doc, %L) e, by_decoder('one_column', doc) d
				WHERE kind = %L),
			counts AS (
				INSERT INTO compared SELECT %2$L, count(*) FILTER (WHERE state = '00000'), count(*) FILTER (WHERE state <> '00000') FROM answers)
			INSERT INTO differences SELECT %2$L, * FROM answers
				WHERE (state, value) IS DISTINCT FROM (expected_state, expected)
					-- an integer both too long and malformed is either
					AND NOT (%1$L = 'by_number' AND '{22003,22P02}' @> ARRAY[state, expected_state])$f$, k.oracle, k.type, k.kind);
		DROP FOREIGN TABLE one_column;
	END LOOP;
END $$;
-- enough of both, and no difference
SELECT type, good > 3 AS good, bad > 3 AS bad FROM compared WHERE NOT (good > 3 AND bad > 3) ORDER BY type;
SELECT * FROM differences ORDER BY type, doc LIMIT 50;

--
-- A decoder remembers the order of members, which is only ever a guess: 3,000
-- messages with members in any order, missing, twice or unknown.
--
CREATE FOREIGN TABLE many_fields (
	f1 int, f2 text, f3 numeric, f4 int, f5 text, f6 int, f7 int, f8 int,
	"a name of more than twenty-three bytes" int, "é" text
) SERVER test_server;
CREATE TABLE shuffled AS
	SELECT g, '{' || string_agg(to_json(name)::text || repeat(' ', g % 2) || ':' || value, ',' ORDER BY (k * 7919 + g * 104729) % 31, k) || '}' AS doc
	FROM generate_series(1, 3000) g,
		LATERAL (
			SELECT k, (ARRAY['f1', 'f2', 'f3', 'f4', 'f5', 'f6', 'f7', 'f8', 'a name of more than twenty-three bytes', 'é', 'x', 'f', 'f11', 'F1'])[k % 14 + 1],
				CASE WHEN k % 5 = 0 THEN 'null' ELSE (k * g)::text END
			FROM generate_series(1, 16) k
			-- most messages resemble the one before
			WHERE (k * (g / 10) * 31) % 17 < 14
		) m(k, name, value)
	GROUP BY g;
SELECT count(*) > 2000 AS many, count(DISTINCT doc) > 1000 AS different FROM shuffled;
SELECT s.doc, t."row" FROM shuffled s, weir.try_decode('many_fields', convert_to(s.doc, 'UTF8')) t
	WHERE t."row" IS DISTINCT FROM
		(SELECT to_jsonb(r) FROM json_to_record(doc::json) r(
			f1 int, f2 text, f3 numeric, f4 int, f5 text, f6 int, f7 int, f8 int,
			"a name of more than twenty-three bytes" int, "é" text));

--
-- Types without a conversion of their own: json_to_record decides.  Domains
-- and NOT NULL are enforced.
--
CREATE TYPE mood AS ENUM ('sad', 'ok');
CREATE TYPE point3 AS (x int, y text, z int[]);
CREATE DOMAIN positive AS int CHECK (value > 0);
CREATE DOMAIN required AS text NOT NULL;
CREATE DOMAIN short_list AS int[] CHECK (cardinality(value) < 3);
CREATE FOREIGN TABLE general (
	i int[], t text[], p point3, ps point3[], m mood, d positive, l short_list,
	j json, jb jsonb, ip inet, iv interval, x bytea
) SERVER test_server;
CREATE TABLE general_cases (n serial, doc text);
INSERT INTO general_cases (doc) VALUES
	('{"i": [1, 2, null], "t": ["a", "b,c", null, "\"", 1, true, {"k": 1}]}'),
	('{"i": [[1, 2], [3, 4]], "t": []}'),
	('{"i": "{1,2}", "t": "{a,b}"}'),
	('{"i": [1, "x"]}'), ('{"i": [[1], [2, 3]]}'), ('{"i": 5}'), ('{"i": {"a": 1}}'), ('{"i": "nothing"}'),
	('{"p": {"x": 1, "y": "z", "z": [1, 2], "w": 0}}'), ('{"p": {}}'), ('{"p": "(1,a,)"}'), ('{"p": [1]}'), ('{"p": {"x": "a"}}'),
	('{"ps": [{"x": 1}, null, {"y": "b"}]}'), ('{"ps": [{"x": "a"}]}'),
	('{"m": "ok"}'), ('{"m": "glad"}'), ('{"m": 1}'),
	('{"d": 5}'), ('{"d": 0}'), ('{"d": "x"}'), ('{"d": null}'),
	('{"l": [1, 2]}'), ('{"l": [1, 2, 3]}'), ('{"l": "{1}"}'),
	('{"j": {"a" : [1, 2]}, "jb": {"a" : [1, 2], "a": 3}}'), ('{"j": "text", "jb": "te\"xt\u00e9"}'), ('{"j": 1.50, "jb": 1.50}'), ('{"j": true, "jb": [null]}'), ('{"j": null, "jb": null}'),
	('{"ip": "10.0.0.1/8", "iv": "1 day 02:03:04", "x": "\\x0102"}'), ('{"ip": "10.0.0"}'), ('{"iv": "long"}'), ('{"x": "\\xz"}');
CREATE FUNCTION general_by_record(doc text, OUT state text, OUT value jsonb) LANGUAGE plpgsql AS $$
BEGIN
	SELECT to_jsonb(r) INTO value FROM json_to_record(doc::json) r(
		i int[], t text[], p point3, ps point3[], m mood, d positive, l short_list,
		j json, jb jsonb, ip inet, iv interval, x bytea);
EXCEPTION WHEN data_exception OR integrity_constraint_violation THEN
	state := SQLSTATE;
END $$;
SELECT n, doc, t.sqlstate FROM general_cases, weir.try_decode('general', convert_to(doc, 'UTF8')) t
	WHERE t.verdict = 'bad' ORDER BY n;
SELECT doc, t.sqlstate, t."row", e.* FROM general_cases, weir.try_decode('general', convert_to(doc, 'UTF8')) t, general_by_record(doc) e
	WHERE (t.sqlstate, t."row") IS DISTINCT FROM (e.state, e.value) ORDER BY n;

CREATE FOREIGN TABLE strict (a int NOT NULL, b required) SERVER test_server;
SELECT doc, t.verdict, t.sqlstate, t.message
	FROM unnest(ARRAY['{"a": 1, "b": "x"}', '{"a": null, "b": "x"}', '{"b": "x"}', '{"a": 1}', '{"a": 1, "b": null}']) doc,
		weir.try_decode('strict', convert_to(doc, 'UTF8')) t;

--
-- Paths: names separated by dots, and in double quotes if they hold one.  A
-- column's name is never taken apart.
--
CREATE FOREIGN TABLE paths (
	a text OPTIONS (path 'o.p.q'),
	b text OPTIONS (path '"o.p"."say ""hi"""'),
	"o.p" text,
	c text OPTIONS (path 'o.p'),
	again text OPTIONS (path 'o.p.q')
) SERVER test_server;
SELECT t."row" FROM weir.try_decode('paths', convert_to('{"o": {"p": {"q": 1}}, "o.p": {"say \"hi\"": 2}}', 'UTF8')) t;

--
-- CSV: COPY decides.
--
CREATE FOREIGN TABLE csv_stream (a int, part int OPTIONS (metadata 'partition'), b text, c numeric)
	SERVER test_server OPTIONS (format 'csv');
CREATE TABLE csv_copied (a int, b text, c numeric);
COPY csv_copied FROM stdin (FORMAT csv);
1,x,2.50
1,,
1,"",
,"a,b",1
1,"a""b",1
1,a"b,c"d,1
1," a ", 2
"1",x,"2"
1,"\n",3
1,"two
lines",3
1,NULL,1
\.
WITH record(n, line) AS (VALUES
	(1, '1,x,2.50'), (2, '1,,'), (3, '1,"",'), (4, ',"a,b",1'), (5, '1,"a""b",1'), (6, '1,a"b,c"d,1'), (7, '1," a ", 2'), (8, '"1",x,"2"'), (9, '1,"\n",3'), (10, E'1,"two\nlines",3'), (11, '1,NULL,1')),
	decoded AS (
		SELECT n, t.verdict, t.sqlstate, (t."row" ->> 'a')::int AS a, t."row" ->> 'b' AS b, (t."row" ->> 'c')::numeric AS c
		FROM record, unnest(ARRAY['', E'\n', E'\r\n']) line_end, weir.try_decode('csv_stream', convert_to(line || line_end, 'UTF8')) t),
	copied AS (SELECT row_number() OVER () AS n, * FROM csv_copied)
SELECT * FROM copied FULL JOIN decoded USING (n)
	WHERE (copied.a, copied.b, copied.c::text) IS DISTINCT FROM (decoded.a, decoded.b, decoded.c::text);
SELECT line, t.verdict, t.sqlstate, t.message
	FROM unnest(ARRAY['1,x', '1,x,2,3', '', '1,"x,2', E'1,x,2\n1,y,2', 'z,x,2', '1.0,x,2', '1,x,1e131072', E'1,x,2\n\n']) line,
		weir.try_decode('csv_stream', convert_to(line, 'UTF8')) t;
SELECT t.verdict, t.sqlstate, t.message FROM weir.try_decode('csv_stream', '\x312cff2c32') t;

-- a boolean is not read on into the field behind it: two are bad, as for COPY
CREATE FOREIGN TABLE csv_booleans (a boolean, b text) SERVER test_server OPTIONS (format 'csv');
SELECT line, t.verdict, t.sqlstate, t."row" FROM unnest(ARRAY['"",true', 'o,n', 't,rue', '" oN ",x']) line,
	weir.try_decode('csv_booleans', convert_to(line, 'UTF8')) t;

CREATE FOREIGN TABLE csv_options (a text, b text, c text)
	SERVER test_server OPTIONS (format 'csv', delimiter ';', quote '''', escape '\', null 'NULL');
SELECT line, t."row" FROM unnest(ARRAY['a,b;NULL;''NULL''', '''it\''s'';;''a\\b''', 'a\b;"c";''a\b''']) line,
	weir.try_decode('csv_options', convert_to(line, 'UTF8')) t;

--
-- The whole value in one column.
--
CREATE FOREIGN TABLE whole_text (off bigint OPTIONS (metadata 'offset'), line text)
	SERVER test_server OPTIONS (format 'text');
CREATE FOREIGN TABLE whole_bytes (b bytea, key bytea OPTIONS (metadata 'key'))
	SERVER test_server OPTIONS (format 'bytes');
SELECT t.* FROM unnest(ARRAY['', 'a line', '\x6100', '\xff']::bytea[]) v, weir.try_decode('whole_text', v) t;
SELECT t.* FROM unnest(ARRAY['', 'a line', '\x6100', '\xff']::bytea[]) v, weir.try_decode('whole_bytes', v, '\xfe') t;
SELECT t.* FROM weir.try_decode('clicks', '{}', '\xfe') t;

--
-- Options that make no sense are refused when the decoder is made.
--
CREATE PROCEDURE refuse(columns text, options text) LANGUAGE plpgsql AS $$
DECLARE
	detail text;
	hint text;
BEGIN
	EXECUTE format('CREATE FOREIGN TABLE refused (%s) SERVER test_server OPTIONS (%s)', columns, options);
	PERFORM weir.try_decode('refused', '{}');
	RAISE 'accepted: % %', columns, options;
EXCEPTION WHEN invalid_parameter_value OR datatype_mismatch THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RAISE WARNING '% %', SQLSTATE, concat_ws(' | ', SQLERRM, nullif(detail, ''), nullif(hint, ''));
END $$;
CALL refuse('a int', $$format 'xml'$$);
CALL refuse('a int', $$delimiter ';'$$);
CALL refuse('a int', $$format 'csv', delimiter ';;'$$);
CALL refuse('a int', $$format 'csv', delimiter '"'$$);
CALL refuse('a int', $$format 'csv', null ','$$);
CALL refuse($$a int OPTIONS (path 'a..b')$$, $$format 'json'$$);
CALL refuse($$a int OPTIONS (path '')$$, $$format 'json'$$);
CALL refuse($$a int OPTIONS (path '"a')$$, $$format 'json'$$);
CALL refuse($$a int OPTIONS (path 'a')$$, $$format 'csv'$$);
CALL refuse($$a int OPTIONS (path 'a', metadata 'offset')$$, $$format 'json'$$);
CALL refuse($$a int OPTIONS (metadata 'size')$$, $$format 'json'$$);
CALL refuse($$a int OPTIONS (metadata 'offset')$$, $$format 'json'$$);
CALL refuse($$a json OPTIONS (metadata 'headers')$$, $$format 'json'$$);
CALL refuse($$a timestamp OPTIONS (metadata 'timestamp')$$, $$format 'json'$$);
CALL refuse($$a int OPTIONS (metadata 'key')$$, $$format 'json'$$);
CALL refuse('a text, b text', $$format 'text'$$);
CALL refuse('a int', $$format 'text'$$);
CALL refuse('a text', $$format 'bytes'$$);
CALL refuse($$a bigint OPTIONS (metadata 'offset')$$, $$format 'bytes'$$);

-- Whoever may not read the stream may not try its decoder either.
CREATE ROLE weir_decode_nobody;
GRANT USAGE ON SCHEMA weir, decode_test TO weir_decode_nobody;
SET ROLE weir_decode_nobody;
SELECT weir.try_decode('clicks', '{}');
RESET ROLE;
SELECT weir.try_decode('seeds', '{}');
REVOKE USAGE ON SCHEMA weir, decode_test FROM weir_decode_nobody;
DROP ROLE weir_decode_nobody;

DROP SCHEMA decode_test CASCADE;
DROP FOREIGN DATA WRAPPER test_fdw CASCADE;
