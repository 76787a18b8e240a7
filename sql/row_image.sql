--
-- Images of rows: two rows are the same when they look the same, to the last
-- byte, however they are stored.  What the changelog takes back and gives, and
-- which rows a rebuild leaves in place, hangs on it.
--
-- Runs in WEIR_TEST builds only: weir_test_row_image() compares a row as it is
-- stored with one that was just computed.  The measure is record_image_eq(), the
-- operator *=, of Postgres.
--
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pg_weir;
RESET client_min_messages;
SET timezone = 'UTC';
CREATE FUNCTION weir_test_row_image(rel regclass, stored tid, computed record,
	OUT equal boolean, OUT same_hash boolean)
AS '$libdir/pg_weir', 'weir_test_row_image' LANGUAGE C STRICT;

-- One value in every form in which it can be stored: with a header of one byte
-- and of four, compressed, out of line, and both.  It stays the same.
CREATE TABLE form (how text, v text);
ALTER TABLE form ALTER v SET STORAGE plain, ALTER v SET COMPRESSION pglz;
COPY form FROM stdin;
short, plain	abc
\.
INSERT INTO form VALUES ('long, plain', repeat('abc', 1000));
ALTER TABLE form ALTER v SET STORAGE extended;
INSERT INTO form VALUES ('short', 'abc'), ('long, compressed', repeat('abc', 1000));
ALTER TABLE form ALTER v SET STORAGE external;
INSERT INTO form VALUES ('long, out of line', repeat('abc', 1000));
ALTER TABLE form ALTER v SET STORAGE extended;
INSERT INTO form VALUES ('huge, compressed, out of line', (SELECT repeat('x', 50000) || string_agg(md5(i::text), '') FROM generate_series(1, 1000) AS i));
ALTER TABLE form ALTER v SET STORAGE external;
INSERT INTO form VALUES ('huge, out of line', (SELECT repeat('x', 50000) || string_agg(md5(i::text), '') FROM generate_series(1, 1000) AS i));
CREATE FUNCTION computed(how text) RETURNS form LANGUAGE sql STABLE AS $$
	SELECT ROW(how, CASE WHEN how LIKE 'short%' THEN 'abc' WHEN how LIKE 'long%' THEN repeat('abc', 1000)
		ELSE (SELECT repeat('x', 50000) || string_agg(md5(i::text), '') FROM generate_series(1, 1000) AS i) END)::form $$;
SELECT how, pg_column_size(v) - octet_length(v) AS overhead, pg_column_compression(v) AS compression, equal, same_hash
FROM form, LATERAL weir_test_row_image('form', form.ctid, computed(how)) ORDER BY form.ctid;

-- One letter else, at the end of it, and it is another.
SELECT how, equal, same_hash
FROM form, LATERAL weir_test_row_image('form', form.ctid, ROW(how, left((computed(how)).v, -1) || '!')) ORDER BY form.ctid;

-- Values that are equal and do not look it, values next to nothing, and types of
-- every length: each row with each, as record_image_eq() has it.
CREATE TYPE pair AS (a int, b text);
CREATE TABLE image (
	i2 smallint, i4 int, i8 bigint, o oid, c "char", b boolean, f4 float4, f8 float8, n name, u uuid,
	t text, nu numeric, iv interval, ts timestamptz, r tstzrange, j jsonb, a int[], p pair, bits varbit);
INSERT INTO image (i2) VALUES (NULL), (0), (-1), (32767);
INSERT INTO image (i4) VALUES (0), (-1), (2147483647);
INSERT INTO image (i8) VALUES (0), (-1), (4294967296);
INSERT INTO image (o) VALUES (0), (4294967295), (2147483648), (4294967295);
INSERT INTO image (c) VALUES (''), ('a'), ('\377');
INSERT INTO image (b) VALUES (true), (false);
INSERT INTO image (f4) VALUES (0), ('-0'), ('NaN'), (1.5);
INSERT INTO image (f8) VALUES (0), ('-0'), ('NaN'), ('Infinity'), (-1.5), (-1.5);
INSERT INTO image (n) VALUES (''), ('a'), ('a'), (repeat('n', 63));
INSERT INTO image (u) VALUES ('00000000-0000-0000-0000-000000000000'), ('ffffffff-ffff-ffff-ffff-ffffffffffff');
INSERT INTO image (t) VALUES (''), (' '), ('a'), ('A'), ('a '), ('a'), (repeat('a', 126)), (repeat('a', 127)), (repeat('a', 127));
INSERT INTO image (nu) VALUES (0), (1), (1.0), (1.00), (100), (1e2), ('NaN'), ('Infinity'), (1e100), (0.00);
INSERT INTO image (iv) VALUES ('24 hours'), ('1 day'), ('1 mon'), ('30 days'), ('0'), ('24:00:00');
INSERT INTO image (ts) VALUES ('2026-01-01 00:00+00'), ('2026-01-01 02:00+02'), ('infinity'), ('-infinity');
INSERT INTO image (r) VALUES ('empty'), ('(,)'), ('[2026-01-01 00:00+00,2026-01-01 00:01+00)'), ('(2026-01-01 00:00+00,2026-01-01 00:01+00)'), ('[2026-01-01 02:00+02,2026-01-01 00:01+00)');
INSERT INTO image (j) VALUES ('{}'), ('[]'), ('{"a": 1, "b": 2}'), ('{"b": 2, "a": 1}'), ('1'), ('1.0'), ('null');
INSERT INTO image (a) VALUES ('{}'), ('{1,2}'), ('{{1,2}}'), ('[0:1]={1,2}'), ('{1,NULL}'), ('{NULL,1}'), ('{1,2}');
INSERT INTO image (p) VALUES (ROW(1, NULL)), (ROW(NULL, '1')), (ROW(1, '1')), (ROW(1, '1')), (ROW(NULL, NULL));
INSERT INTO image (bits) VALUES (''), ('0'), ('00'), ('1'), ('10'), ('1');
INSERT INTO image (i4, t) VALUES (1, 'x'), (1, 'x'), (1, NULL), (NULL, 'x');
SELECT count(*) AS pairs, count(*) FILTER (WHERE equal) AS equal,
	count(*) FILTER (WHERE equal <> (one *= other)) AS wrong,
	count(*) FILTER (WHERE same_hash <> equal) AS wrong_hashes
FROM image AS one, image AS other, LATERAL weir_test_row_image('image', one.ctid, other);

-- Columns that were added since, of which the row says nothing, and columns that
-- were dropped, of which it still has a value.
CREATE TABLE altered (gone text, a int, also_gone int, b text);
INSERT INTO altered VALUES ('old', 1, 2, 'b'), ('else', 1, 3, 'b'), (NULL, 1, NULL, 'b'), ('old', 2, 2, 'b');
ALTER TABLE altered DROP gone, DROP also_gone, ADD added int DEFAULT 7, ADD more text;
INSERT INTO altered VALUES (1, 'b', DEFAULT, DEFAULT), (1, 'b', 8, NULL), (1, 'b', 7, 'more');
SELECT altered, equal, same_hash, equal = (altered *= ROW(1, 'b', 7, NULL)::altered) AS right
FROM altered, LATERAL weir_test_row_image('altered', altered.ctid, ROW(1, 'b', 7, NULL)::altered) ORDER BY altered.ctid;
SELECT count(*) AS pairs, count(*) FILTER (WHERE equal) AS equal,
	count(*) FILTER (WHERE equal <> (one *= other)) AS wrong,
	count(*) FILTER (WHERE same_hash <> equal) AS wrong_hashes
FROM altered AS one, altered AS other, LATERAL weir_test_row_image('altered', one.ctid, other);

DROP FUNCTION computed, weir_test_row_image;
DROP TABLE form, image, altered;
DROP TYPE pair;
