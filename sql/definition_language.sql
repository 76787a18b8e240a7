--
-- The definition language of continuous views: what is refused, by name, each
-- with a hint.  None of these statements gets as far as asking the broker.
-- What is accepted, and what becomes of it, is in query_plan.sql.
--
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pg_weir;
RESET client_min_messages;
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';
SET intervalstyle = 'postgres';
CREATE SCHEMA language;
SET search_path = language, public;
CREATE SERVER language_kafka FOREIGN DATA WRAPPER weir_kafka OPTIONS (bootstrap_servers 'localhost:9');
CREATE FOREIGN TABLE clicks (
	user_id bigint,
	url text,
	amount numeric,
	ts timestamptz,
	day date,
	tags text[],
	price money,
	ok boolean
) SERVER language_kafka OPTIONS (topic 'clicks', format 'json');
CREATE FOREIGN TABLE orders (user_id bigint, ts timestamptz)
	SERVER language_kafka OPTIONS (topic 'orders', format 'json');

-- Tries a query and prints what the user would read.
CREATE PROCEDURE try(query text) LANGUAGE plpgsql AS $$
DECLARE
	detail text;
	hint text;
BEGIN
	EXECUTE 'CREATE TABLE v WITH (weir.continuous) AS ' || query;
	RAISE NOTICE '% ACCEPTED', query;
	EXECUTE 'DROP TABLE v';
EXCEPTION WHEN others THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RAISE NOTICE E'% %\n    %', sqlstate,
		sqlerrm || CASE WHEN detail <> '' THEN E'\n    detail: ' || detail ELSE '' END,
		CASE WHEN hint <> '' THEN 'hint: ' || hint ELSE 'NO HINT' END;
END
$$;

-- A view computes something.
CALL try($$ SELECT url FROM clicks $$);
CALL try($$ SELECT url, amount FROM clicks WHERE ok $$);
CALL try($$ SELECT 1 $$);
CALL try($$ SELECT count(*) $$);
CALL try($$ VALUES (1) $$);

-- Clauses that have no meaning for a stored table, or not yet.
CALL try($$ SELECT DISTINCT url FROM clicks $$);
CALL try($$ SELECT DISTINCT ON (url) url, count(*) FROM clicks GROUP BY url $$);
CALL try($$ SELECT url, count(*) FROM clicks GROUP BY url ORDER BY 2 DESC $$);
CALL try($$ SELECT url, count(*) FROM clicks GROUP BY url LIMIT 10 $$);
CALL try($$ SELECT url, count(*) FROM clicks GROUP BY url OFFSET 10 $$);
CALL try($$ SELECT url FROM clicks FOR UPDATE $$);
CALL try($$ SELECT url, count(*) FROM clicks GROUP BY url UNION ALL SELECT url, count(*) FROM clicks GROUP BY url $$);
CALL try($$ SELECT count(*) FROM clicks EXCEPT SELECT 1 $$);
CALL try($$ WITH c AS (SELECT * FROM clicks) SELECT url, count(*) FROM c GROUP BY url $$);
CALL try($$ WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r WHERE n < 5) SELECT n, count(*) FROM r GROUP BY n $$);
CALL try($$ SELECT url, count(*) FROM clicks GROUP BY ROLLUP (url) $$);
CALL try($$ SELECT url, ok, count(*) FROM clicks GROUP BY CUBE (url, ok) $$);
CALL try($$ SELECT url, ok, GROUPING(url), count(*) FROM clicks GROUP BY GROUPING SETS ((url), (ok)) $$);
CALL try($$ SELECT url, GROUPING(url), count(*) FROM clicks GROUP BY url $$);

-- One source.
CALL try($$ SELECT c.url, count(*) FROM clicks c JOIN orders o USING (user_id) GROUP BY c.url $$);
CALL try($$ SELECT c.url, count(*) FROM clicks c LEFT JOIN orders o ON c.user_id = o.user_id GROUP BY c.url $$);
CALL try($$ SELECT c.url, count(*) FROM clicks c, orders o GROUP BY c.url $$);
CALL try($$ SELECT url, count(*) FROM (SELECT url FROM clicks) c GROUP BY url $$);
CALL try($$ SELECT count(*) FROM (VALUES (1), (2)) v(n) $$);
CALL try($$ SELECT weir.tumble('2024-01-01'::timestamptz, '1 min') w, count(*) FROM weir.tumble('2024-01-01'::timestamptz, '1 min') GROUP BY 1 $$);
CALL try($$ SELECT count(*) FROM clicks JOIN LATERAL weir.tumble(ts, '1 min') w ON true JOIN orders o ON w @> o.ts GROUP BY w $$);
CALL try($$ SELECT w, count(*) FROM clicks LEFT JOIN LATERAL weir.tumble(ts, '1 min') w ON ok GROUP BY w $$);
CALL try($$ SELECT n, count(*) FROM clicks, generate_series(1, 3) n GROUP BY n $$);
CALL try($$ SELECT n, count(*) FROM clicks, unnest(tags) WITH ORDINALITY AS u(t, n) GROUP BY n $$);
CALL try($$ SELECT x, count(*) FROM clicks, XMLTABLE('/a' PASSING ('<a/>'::xml) COLUMNS x int PATH 'b') GROUP BY x $$);

-- Other kinds of relations.
CREATE TABLE plain (url text, ts timestamptz);
CREATE TABLE parted (url text) PARTITION BY LIST (url);
CREATE VIEW clicks_view AS SELECT url FROM clicks;
CREATE MATERIALIZED VIEW plain_matview AS SELECT url FROM plain;
CREATE FOREIGN DATA WRAPPER other_wrapper;
CREATE SERVER other_server FOREIGN DATA WRAPPER other_wrapper;
CREATE FOREIGN TABLE elsewhere (url text) SERVER other_server;
CREATE FOREIGN TABLE clicks_child () INHERITS (plain) SERVER language_kafka OPTIONS (topic 'child', format 'json');
CREATE FOREIGN TABLE clicks_grandchild () INHERITS (clicks_child) SERVER language_kafka OPTIONS (topic 'grandchild', format 'json');
CALL try($$ SELECT url, count(*) FROM plain GROUP BY url $$);
CALL try($$ SELECT url, count(*) FROM ONLY parted GROUP BY url $$);
CALL try($$ SELECT url, count(*) FROM clicks_view GROUP BY url $$);
CALL try($$ SELECT url, count(*) FROM plain_matview GROUP BY url $$);
CALL try($$ SELECT url, count(*) FROM elsewhere GROUP BY url $$);
CALL try($$ SELECT url, count(*) FROM clicks_child GROUP BY url $$);
CALL try($$ SELECT url, count(*) FROM plain TABLESAMPLE system (10) GROUP BY url $$);

-- Columns.
CALL try($$ SELECT tableoid, count(*) FROM clicks GROUP BY tableoid $$);
CALL try($$ SELECT count(clicks) FROM clicks $$);
CALL try($$ SELECT row(url, ok), count(*) FROM clicks GROUP BY url, ok $$);
CALL try($$ SELECT price, count(*) FROM clicks GROUP BY price $$);
CALL try($$ SELECT array_agg(url) FROM clicks GROUP BY ARRAY[price] $$);
CALL try($$ SELECT count(*) FROM clicks GROUP BY to_tsvector('english', url) $$);

-- Expressions.
CALL try($$ SELECT count(*) FROM clicks WHERE url IN (SELECT url FROM plain) $$);
CALL try($$ SELECT count(*), (SELECT max(ts) FROM plain) FROM clicks $$);
CALL try($$ SELECT url, count(*) OVER () FROM clicks $$);
CALL try($$ SELECT url, rank() OVER (ORDER BY count(*)) FROM clicks GROUP BY url $$);
CALL try($$ SELECT unnest(tags), count(*) FROM clicks GROUP BY 1 $$);
CALL try($$ SELECT generate_series(1, 3), count(*) FROM clicks $$);

-- Aggregates.
CREATE AGGREGATE product (numeric) (SFUNC = numeric_mul, STYPE = numeric);
CALL try($$ SELECT count(DISTINCT user_id) FROM clicks $$);
CALL try($$ SELECT sum(amount ORDER BY ts) FROM clicks $$);
CALL try($$ SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY amount) FROM clicks $$);
CALL try($$ SELECT rank(1) WITHIN GROUP (ORDER BY amount) FROM clicks $$);
CALL try($$ SELECT mode() WITHIN GROUP (ORDER BY url) FROM clicks $$);
CALL try($$ SELECT string_agg(url, ',') FROM clicks $$);
CALL try($$ SELECT array_agg(url) FROM clicks $$);
CALL try($$ SELECT url FROM clicks GROUP BY url HAVING stddev(amount) > 1 $$);
CALL try($$ SELECT product(amount) FROM clicks $$);

-- Windows: one, a key, and its size a constant that makes sense.
CALL try($$ SELECT weir.tumble(ts, '1 min') a, weir.tumble(ts, '1 day') b, count(*) FROM clicks GROUP BY 1, 2 $$);
CALL try($$ SELECT a, count(*) FROM clicks, weir.tumble(ts, '1 min') a, weir.tumble(ts, '1 day') b GROUP BY a $$);
CALL try($$ SELECT a, count(*) FROM clicks, weir.tumble(ts, '1 min') a WHERE weir.tumble(ts, '1 day') = a GROUP BY a $$);
CALL try($$ SELECT count(*) FROM clicks, weir.tumble(ts, '1 min') win $$);
CALL try($$ SELECT lower(weir.tumble(ts, '1 min')), count(*) FROM clicks GROUP BY 1 $$);
CALL try($$ SELECT max(lower(weir.tumble(ts, '1 min'))) FROM clicks $$);
CALL try($$ SELECT weir.tumble(ts, amount * interval '1 min') w, count(*) FROM clicks GROUP BY w $$);
CALL try($$ SELECT weir.tumble(ts, '1 day', tz => url) w, count(*) FROM clicks GROUP BY w $$);
CALL try($$ SELECT weir.tumble(ts, '1 day 2 hours') w, count(*) FROM clicks GROUP BY w $$);
CALL try($$ SELECT weir.tumble(ts, '0') w, count(*) FROM clicks GROUP BY w $$);
CALL try($$ SELECT weir.tumble(ts, NULL) w, count(*) FROM clicks GROUP BY w $$);
CALL try($$ SELECT weir.tumble(ts, '1 day', tz => NULL) w, count(*) FROM clicks GROUP BY w $$);
CALL try($$ SELECT weir.tumble(ts, '1 day', tz => 'Mars/Olympus') w, count(*) FROM clicks GROUP BY w $$);
-- Of the windows that share a row, or that rows make, the view shows each; what
-- they are is known of groups only.  tumble, of which a row has one, may be named
-- anywhere.
CALL try($$ SELECT lower(w), count(*) FROM clicks, weir.hop(ts, '1 min', '5 min') w GROUP BY w $$);
CALL try($$ SELECT count(*) FROM clicks GROUP BY weir.hop(ts, '1 min', '5 min') $$);
CALL try($$ SELECT upper(weir.cumulate(ts, '1 min', '5 min')), count(*) FROM clicks GROUP BY weir.cumulate(ts, '1 min', '5 min') $$);
CALL try($$ SELECT lower(weir.session(ts, '5 min')), count(*) FROM clicks GROUP BY weir.session(ts, '5 min') $$);
CALL try($$ SELECT w, count(*) FROM clicks, weir.hop(ts, '1 min', '5 min') w WHERE lower(w) > '2024-01-01' GROUP BY w $$);
CALL try($$ SELECT w, count(*) FROM clicks JOIN LATERAL weir.cumulate(ts, '1 min', '5 min') w ON lower(w) > '2024-01-01' GROUP BY w $$);
CALL try($$ SELECT weir.session(ts, '5 min') w, count(*) FROM clicks WHERE weir.session(ts, '5 min') IS NOT NULL GROUP BY w $$);
CALL try($$ SELECT w, max(lower(w)) FROM clicks, weir.hop(ts, '1 min', '5 min') w GROUP BY w $$);
CALL try($$ SELECT w, count(*) FILTER (WHERE ts < lower(w) + interval '10 s') FROM clicks, weir.cumulate(ts, '1 min', '5 min') w GROUP BY w $$);
CALL try($$ SELECT w, count(*) FROM clicks, weir.session(ts, '5 min') w GROUP BY w HAVING count(w) > 1 $$);
CALL try($$ SELECT w, lower(w), count(*) FROM clicks, weir.hop(ts, '1 min', '5 min') w GROUP BY w, lower(w) $$);
CALL try($$ SELECT w, upper(w), count(*) FROM clicks, weir.session(ts, '5 min') w GROUP BY w, upper(w) $$);
CALL try($$ SELECT lower(weir.hop(ts, '1 min', '5 min')), count(*) FROM clicks GROUP BY 1 $$);
CALL try($$ SELECT max(lower(weir.session(ts, '1 min'))) FROM clicks $$);
CALL try($$ SELECT w, count(*) FROM clicks LEFT JOIN LATERAL weir.hop(ts, '1 min', '5 min') w ON true GROUP BY w $$);
CALL try($$ SELECT w, n, count(*) FROM clicks, weir.hop(ts, '1 min', '5 min') WITH ORDINALITY AS x(w, n) GROUP BY w, n $$);
-- One of them: two sets would run in lockstep, or multiply.
CALL try($$ SELECT weir.hop(ts, '1 min', '5 min') a, weir.tumble(ts, '1 min') b, count(*) FROM clicks GROUP BY a, b $$);
CALL try($$ SELECT weir.hop(ts, '1 min', '5 min') a, weir.hop(ts, '1 min', '7 min') b, count(*) FROM clicks GROUP BY a, b $$);
CALL try($$ SELECT weir.hop(ts, '1 min', '5 min') a, b, count(*) FROM clicks, weir.hop(ts, '1 min', '5 min') b GROUP BY a, b $$);
CALL try($$ SELECT weir.session(ts, '1 min') a, count(*) FROM clicks, weir.tumble(ts, '1 min') b GROUP BY a, b $$);
CALL try($$ SELECT weir.hop(ts, '1 min', '5 min') w, unnest(tags) t, count(*) FROM clicks GROUP BY w, t $$);
-- Lengths and gaps are literals, and right.
CALL try($$ SELECT weir.hop(ts, amount * interval '1 min', '5 min') w, count(*) FROM clicks GROUP BY w $$);
CALL try($$ SELECT weir.session(ts, amount * interval '1 min') w, count(*) FROM clicks GROUP BY w $$);
CALL try($$ SELECT weir.hop(ts, '1 hour', '1 day', tz => 'Europe/Paris') w, count(*) FROM clicks GROUP BY w $$);
CALL try($$ SELECT weir.hop(ts, '0', '1 min') w, count(*) FROM clicks GROUP BY w $$);
CALL try($$ SELECT weir.hop(ts, '1 min', NULL) w, count(*) FROM clicks GROUP BY w $$);
CALL try($$ SELECT weir.cumulate(ts, '2 min', '5 min') w, count(*) FROM clicks GROUP BY w $$);
CALL try($$ SELECT weir.session(ts, '1 month') w, count(*) FROM clicks GROUP BY w $$);
CALL try($$ SELECT weir.session(ts, '-1 min') w, count(*) FROM clicks GROUP BY w $$);
CALL try($$ SELECT weir.session(ts, NULL) w, count(*) FROM clicks GROUP BY w $$);
CALL try($$ SELECT weir.session(NULL::timestamptz, NULL) w, count(*) FROM clicks GROUP BY w $$);

-- A user's own function of the same name is a function like any other.
CREATE FUNCTION tumble(timestamptz, interval) RETURNS tstzrange VOLATILE LANGUAGE sql AS 'SELECT NULL::tstzrange';
CALL try($$ SELECT tumble(ts, '1 min') w, count(*) FROM clicks GROUP BY w $$);

-- Functions: volatile ones, and stable ones that look at more than settings
-- which the view pins.
CREATE SEQUENCE numbers;
CREATE FUNCTION rate(text) RETURNS numeric STABLE LANGUAGE sql AS 'SELECT 1.0';
CREATE FUNCTION dice() RETURNS int LANGUAGE sql AS 'SELECT 4';
CALL try($$ SELECT count(*) FROM clicks WHERE random() < 0.1 $$);
CALL try($$ SELECT nextval('numbers'), count(*) FROM clicks $$);
CALL try($$ SELECT count(*) FROM clicks WHERE clock_timestamp() > ts $$);
CALL try($$ SELECT count(*) FROM clicks WHERE amount > dice() $$);
CALL try($$ SELECT count(*) FROM clicks WHERE ts > now() - interval '1 hour' $$);
CALL try($$ SELECT count(*) FROM clicks WHERE ts > CURRENT_TIMESTAMP $$);
CALL try($$ SELECT count(*) FROM clicks WHERE day = CURRENT_DATE $$);
CALL try($$ SELECT CURRENT_USER, count(*) FROM clicks $$);
CALL try($$ SELECT count(*) FROM clicks WHERE url = SESSION_USER $$);
CALL try($$ SELECT count(*) FROM clicks WHERE url = current_setting('application_name') $$);
CALL try($$ SELECT version(), count(*) FROM clicks $$);
CALL try($$ SELECT sum(amount * rate(url)) FROM clicks $$);
CALL try($$ SELECT sum(amount) FILTER (WHERE random() < 0.5) FROM clicks $$);
CALL try($$ SELECT url FROM clicks GROUP BY url HAVING max(ts) > now() $$);
CALL try($$ SELECT max(age(ts)) FROM clicks $$);
CALL try($$ SELECT max(ts) FROM clicks WHERE ts > 'yesterday'::text::timestamptz $$);
CALL try($$ SELECT url::regclass AS r, count(*) FROM clicks GROUP BY 1 $$);
CALL try($$ SELECT to_json(pg_typeof(url)) AS r, count(*) FROM clicks GROUP BY url $$);
CALL try($$ SELECT concat(user_id::oid::regclass), count(*) FROM clicks GROUP BY user_id $$);
CALL try($$ SELECT xmlforest(user_id::oid::regclass AS r)::text, count(*) FROM clicks GROUP BY user_id $$);
CALL try($$ SELECT (url::xml)::text, count(*) FROM clicks GROUP BY 1 $$);
CALL try($$ SELECT (max(ts)::time::timetz)::text FROM clicks $$);
CALL try($$ SELECT pg_sleep(1), count(*) FROM clicks $$);

-- What folding would hide is seen: the check comes first.
CALL try($$ SELECT count(*) FROM clicks WHERE false AND random() < 1 $$);

-- Parameters of a routine.
DO $$
DECLARE
	least numeric := 5;
BEGIN
	CREATE TABLE v WITH (weir.continuous) AS SELECT count(*) FROM clicks WHERE amount > least;
EXCEPTION WHEN others THEN
	RAISE NOTICE '% %', sqlstate, sqlerrm;
END
$$;

-- Nothing of all this has left anything behind.
SELECT count(*) AS views FROM pg_class WHERE relname = 'v' AND relnamespace = 'language'::regnamespace;

RESET search_path;
SET client_min_messages = warning;
DROP SCHEMA language CASCADE;
DROP SERVER language_kafka;
DROP FOREIGN DATA WRAPPER other_wrapper CASCADE;
