--
-- How an accepted query is taken apart: what is computed of a row (filter,
-- keys, arguments of aggregates) and what of a group (columns, HAVING).
--
-- Runs in WEIR_TEST builds only, and needs neither worker nor broker.
--
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pg_weir;
RESET client_min_messages;
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';
SET intervalstyle = 'postgres';
CREATE FUNCTION weir_test_plan(text) RETURNS text
AS '$libdir/pg_weir', 'weir_test_plan' LANGUAGE C;

CREATE TYPE mood AS ENUM ('sad', 'happy');
CREATE SERVER plan_kafka FOREIGN DATA WRAPPER weir_kafka OPTIONS (bootstrap_servers 'localhost:9');
CREATE FOREIGN TABLE clicks (
	user_id bigint,
	url text,
	amount numeric(10, 2),
	ts timestamptz,
	local_ts timestamp,
	day date,
	tags text[],
	feeling mood,
	price money,
	ok boolean
) SERVER plan_kafka OPTIONS (topic 'clicks', format 'json');

\pset format unaligned
\pset tuples_only on

-- The query of the manual: keys and calls in order, each once.
SELECT weir_test_plan($$
	SELECT url, weir.tumble(ts, '1 minute') AS win, count(*) AS clicks, sum(amount) AS revenue
	FROM clicks WHERE amount > 0 GROUP BY url, win $$);

-- The window function in FROM means the same, by comma, CROSS JOIN and JOIN.
SELECT weir_test_plan($$
	SELECT win, count(*) FROM clicks, weir.tumble(ts, '1 day', tz => 'Europe/Paris') AS win GROUP BY win $$);
SELECT weir_test_plan($$
	SELECT lower(w) AS since, count(*) FROM clicks AS c CROSS JOIN LATERAL weir.tumble(c.local_ts, '1 month') AS x(w) GROUP BY w $$);
SELECT weir_test_plan($$
	SELECT w, count(*) FROM (clicks JOIN weir.tumble(ts, '1 hour') AS w ON ok) AS j WHERE amount > 1 GROUP BY w $$);

-- So do the windows of which a row has several, and those that rows make; they can
-- be named again after grouping.  Nothing calls weir.session, not even for constants.
SELECT weir_test_plan($$
	SELECT url, weir.hop(ts, '1 min', '5 min') AS win, count(*) FROM clicks GROUP BY url, win $$);
SELECT weir_test_plan($$
	SELECT url, win, count(*) FROM clicks, weir.hop(ts, '1 min', '5 min') AS win GROUP BY url, win $$) =
	weir_test_plan($$
	SELECT url, weir.hop(ts, '1 min', '5 min') AS win, count(*) FROM clicks GROUP BY url, win $$) AS same;
SELECT weir_test_plan($$
	SELECT w, count(*) FROM clicks c CROSS JOIN LATERAL weir.hop(c.ts, '1 month', tz => 'Europe/Paris', size => '1 year') w GROUP BY w $$);
SELECT weir_test_plan($$
	SELECT lower(w) + interval '1 min' AS since, w, count(*) AS n FROM clicks JOIN weir.cumulate(local_ts, '1 hour', '1 day') w ON ok
	WHERE amount > 1 GROUP BY w HAVING upper(w) > '2024-01-01' AND count(*) > 1 $$);
SELECT weir_test_plan($$
	SELECT lower(weir.hop(ts, '1 min', '5 min')) AS since, weir.hop(ts, '1 min', '5 min') AS w, weir.hop(ts, '1 min', '5 min') AS again, count(*)
	FROM clicks GROUP BY weir.hop(ts, '1 min', '5 min') $$);
SELECT weir_test_plan($$
	SELECT url, weir.session(ts, '30 min') AS win, upper(weir.session(ts, '30 min')) - lower(weir.session(ts, '30 min')) AS long, count(*)
	FROM clicks GROUP BY url, weir.session(ts, '30 min') HAVING lower(weir.session(ts, '30 min')) > '2024-01-01' $$);
SELECT weir_test_plan($$
	SELECT s, count(*) FROM clicks, weir.session(gap => '30 min', ts => local_ts) AS s GROUP BY s $$);
SELECT weir_test_plan($$
	SELECT weir.session('2024-01-01'::timestamptz, '30 min') AS s, count(*) FROM clicks GROUP BY s $$);
-- Without GROUP BY: one row.  GROUP BY () is the same.
SELECT weir_test_plan('SELECT count(*), avg(amount) FROM clicks');
SELECT weir_test_plan('SELECT count(*) FROM clicks GROUP BY ()');
SELECT weir_test_plan('SELECT 1 AS one FROM clicks HAVING count(*) > 10');

-- Without aggregates: the distinct keys.
SELECT weir_test_plan('SELECT url FROM clicks GROUP BY url');

-- Expressions around aggregates and keys; the largest key is replaced first.
SELECT weir_test_plan($$
	SELECT lower(url) || '!' AS name, upper(lower(url)) AS loud, sum(amount) / count(*) + 1 AS mean,
		   CASE WHEN count(*) > 1 THEN max(ts) END AS latest
	FROM clicks GROUP BY lower(url) HAVING sum(amount) > 10 AND lower(url) <> 'x' $$);
SELECT weir_test_plan($$
	SELECT url, lower(url), lower(lower(url)), count(*) FROM clicks GROUP BY url, lower(url) $$);

-- Keys that need not be shown, by number and by alias; constants.
SELECT weir_test_plan('SELECT count(*) FROM clicks GROUP BY url, user_id % 10');
SELECT weir_test_plan($$ SELECT user_id % 10 AS bucket, 'x' AS tag, count(*) FROM clicks GROUP BY 1, 2 $$);

-- A key that simplification would make disappear (NOT a > 1 is a <= 1) is found.
SELECT weir_test_plan('SELECT NOT (amount > 1) AS small, count(*) FROM clicks GROUP BY amount > 1');

-- Equal calls are one; FILTER (WHERE true) is none; arguments are folded.
SELECT weir_test_plan($$
	SELECT url, sum(amount), sum(amount) * 2 AS double, sum(amount) FILTER (WHERE ok) AS good,
		   sum(amount) FILTER (WHERE 1 = 1) AS all_of_them, count(*) FILTER (WHERE url LIKE '/a%'), max(amount + (1 + 2))
	FROM clicks GROUP BY url HAVING sum(amount) > 0 $$);
SELECT weir_test_plan('SELECT count(*) FROM clicks WHERE 1 + 1 = 2');
SELECT weir_test_plan('SELECT count(*) FROM clicks WHERE 1 + 1 = 3');

-- The window may be named again where rows are filtered.
SELECT weir_test_plan($$
	SELECT w, count(*) FROM clicks, weir.tumble(ts, '1 hour') w WHERE lower(w) > '2024-01-01' GROUP BY w HAVING upper(w) < '2025-01-01' $$);

-- Types of keys: arrays, enums, booleans, dates.
SELECT weir_test_plan('SELECT tags, feeling, ok, day, count(*) FROM clicks GROUP BY tags, feeling, ok, day');

-- Stable functions that depend on a pinned setting only are not folded.
SELECT weir_test_plan($$
	SELECT date_trunc('day', ts) AS d, ts::date AS day, to_char(min(ts), 'HH24:MI') AS first,
		   max(ts) + interval '1 day' AS later, '2024-01-01 00:00+00'::timestamptz::text AS fixed
	FROM clicks WHERE ts > '2024-01-01'::date AND extract(hour FROM ts) < 12 GROUP BY 1, 2 $$);
SELECT weir_test_plan($$
	SELECT url || user_id AS pasted, concat(url, ts, tags) AS c, to_jsonb(tags) AS j, feeling::text AS f,
		   json_build_object('n', count(*)) AS o, format('%s', day) AS g, ts::text AS t, url::date AS d, age(max(ts), min(ts)),
		   array_to_string(tags, ','), row_to_json(row(url, day)), tags::text, greatest(ts, '2024-01-01'), price::numeric, xmlforest(ts, url)::text
	FROM clicks GROUP BY url, user_id, ts, tags, feeling, day, price::numeric $$);

-- A function of the user's is accepted if he declares it immutable.
CREATE FUNCTION twice(numeric) RETURNS numeric IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN $1 * 2; END';
CREATE FUNCTION inlined(numeric) RETURNS numeric IMMUTABLE LANGUAGE sql AS 'SELECT $1 * 3';
SELECT weir_test_plan('SELECT sum(twice(amount)), sum(inlined(amount)), twice(21) FROM clicks');

-- The stored form of a query, in which a worker gets it, gives the same plan.
CREATE FUNCTION weir_test_plan(regclass) RETURNS text
AS '$libdir/pg_weir', 'weir_test_plan_of_view' LANGUAGE C;
CREATE VIEW stored AS
	SELECT w, lower(j.url) AS name, upper(lower(j.url)) AS loud, count(*) FILTER (WHERE ok) + 1 AS more
	FROM (clicks JOIN weir.tumble(ts, '1 hour') AS w ON ok) AS j
	WHERE amount > 1 GROUP BY w, lower(j.url) HAVING count(*) > 1;
SELECT weir_test_plan('stored'::regclass);
SELECT weir_test_plan(pg_get_viewdef('stored')) = weir_test_plan('stored'::regclass) AS same;
CREATE VIEW stored_hop AS
	SELECT w, lower(w) AS since, url, count(*) AS n FROM clicks c, LATERAL weir.hop(c.ts, '1 min', '5 min') AS w GROUP BY w, url;
SELECT weir_test_plan('stored_hop'::regclass);
CREATE VIEW stored_session AS
	SELECT weir.session(ts, '5 min') AS w, url, count(*) AS n FROM clicks GROUP BY w, url;
SELECT weir_test_plan('stored_session'::regclass);
SELECT weir_test_plan(pg_get_viewdef('stored_session')) = weir_test_plan('stored_session'::regclass) AS same;

DROP VIEW stored, stored_hop, stored_session;
DROP FUNCTION weir_test_plan(text);
DROP FUNCTION weir_test_plan(regclass);
DROP FOREIGN TABLE clicks;
DROP SERVER plan_kafka;
DROP FUNCTION twice;
DROP FUNCTION inlined;
DROP TYPE mood;
