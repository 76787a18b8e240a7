-- Who may do what: views of several owners on one stream, and what an owner's
-- own functions can and cannot reach.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pg_weir;
\getenv bootstrap WEIR_BOOTSTRAP
CREATE ROLE regress_weir_alice;
CREATE ROLE regress_weir_bob;
CREATE SCHEMA alice AUTHORIZATION regress_weir_alice;
CREATE SCHEMA bob AUTHORIZATION regress_weir_bob;
CREATE SERVER security_kafka FOREIGN DATA WRAPPER weir_kafka
	OPTIONS (bootstrap_servers :'bootstrap');
GRANT USAGE ON FOREIGN SERVER security_kafka TO regress_weir_alice, regress_weir_bob;
CREATE FOREIGN TABLE secured (url text)
	SERVER security_kafka OPTIONS (topic 'security');
GRANT SELECT ON secured TO regress_weir_alice, regress_weir_bob;
RESET client_min_messages;

-- One worker serves both owners.  A function of one of them that changes
-- search_path must not choose the functions that the other one's run: that
-- would be code of hers with rights of his.
SET ROLE regress_weir_alice;
CREATE TABLE alice.caught (who text);
CREATE FUNCTION alice.lower(x text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO alice.caught VALUES (current_user);
	RETURN pg_catalog.lower(x);
END $$;
GRANT USAGE ON SCHEMA alice TO PUBLIC;
GRANT INSERT ON alice.caught TO PUBLIC;
CREATE FUNCTION alice.spoil(x text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS $$
BEGIN
	PERFORM set_config('search_path', 'alice, pg_catalog', false);
	RETURN x;
END $$;
SET ROLE regress_weir_bob;
CREATE FUNCTION bob.fold(x text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS $$
BEGIN
	RETURN lower(x);
END $$;
SET ROLE regress_weir_alice;
CREATE TABLE alice.v WITH (weir.continuous, weir.start = 'latest') AS
	SELECT alice.spoil(url) AS k, count(*) AS n FROM secured GROUP BY 1;
SET ROLE regress_weir_bob;
CREATE TABLE bob.v WITH (weir.continuous, weir.start = 'latest') AS
	SELECT bob.fold(url) AS k, count(*) AS n FROM secured GROUP BY 1;
RESET ROLE;
SELECT weir.wait_for('alice.v'), weir.wait_for('bob.v');
INSERT INTO secured VALUES ('ONE');
SELECT weir.wait_for('alice.v'), weir.wait_for('bob.v');
INSERT INTO secured VALUES ('TWO');
SELECT weir.wait_for('alice.v'), weir.wait_for('bob.v');
INSERT INTO secured VALUES ('THREE');
SELECT weir.wait_for('alice.v'), weir.wait_for('bob.v');
SELECT weir.worker_pid('alice.v') = weir.worker_pid('bob.v') AS one_worker;
SELECT * FROM bob.v ORDER BY 1;
SELECT * FROM alice.caught;

-- A function that the owner may not call is refused, also where it hides in
-- one that is inlined: the worker is a superuser until it runs her expressions.
CREATE FUNCTION public.treasure(x text) RETURNS text IMMUTABLE SECURITY DEFINER
	LANGUAGE plpgsql AS $$ BEGIN RETURN 'treasure of ' || x; END $$;
REVOKE EXECUTE ON FUNCTION public.treasure(text) FROM PUBLIC;
SET ROLE regress_weir_alice;
CREATE FUNCTION alice.wrap(x text) RETURNS text IMMUTABLE LANGUAGE sql
	AS 'SELECT public.treasure(x)';
CREATE TABLE alice.direct WITH (weir.continuous) AS
	SELECT public.treasure(url) AS k, count(*) AS n FROM secured GROUP BY 1;
CREATE TABLE alice.wrapped WITH (weir.continuous) AS
	SELECT alice.wrap(url) AS k, count(*) AS n FROM secured GROUP BY 1;
SELECT weir.wait_for('alice.wrapped');
TABLE alice.wrapped;

-- A cast to a domain runs its conditions.
CREATE DOMAIN alice.timely AS text CHECK (VALUE <> clock_timestamp()::text);
CREATE TABLE alice.by_clock WITH (weir.continuous) AS
	SELECT url::alice.timely AS k, count(*) AS n FROM secured GROUP BY 1;
CREATE DOMAIN alice.short AS text CHECK (length(VALUE) < 5);
CREATE TABLE alice.by_length WITH (weir.continuous) AS
	SELECT url::alice.short AS k, count(*) > 0 AS seen FROM secured GROUP BY 1;
SELECT weir.wait_for('alice.by_length');
SELECT * FROM alice.by_length ORDER BY 1;
SELECT current_user;

-- Rows that are routed to a partition pass by the trigger that keeps users out.
CREATE TABLE alice.parent (k alice.short, seen boolean) PARTITION BY LIST (k);
ALTER TABLE alice.parent ATTACH PARTITION alice.by_length DEFAULT;
INSERT INTO alice.parent VALUES ('stow', true);
RESET ROLE;
INSERT INTO secured VALUES ('FOUR');
SET ROLE regress_weir_alice;
SELECT weir.wait_for('alice.by_length');
ALTER TABLE alice.parent DETACH PARTITION alice.by_length;
SELECT weir.rebuild('alice.by_length');
SELECT weir.wait_for('alice.by_length');
SELECT * FROM alice.by_length ORDER BY 1;

-- Unlogged, it would lose its rows in a crash and keep its positions.  Dropped
-- in that state it leaves nothing behind.
ALTER TABLE alice.by_length SET UNLOGGED;
RESET ROLE;
INSERT INTO secured VALUES ('FIVE');
SELECT weir.wait_for('alice.by_length');
ALTER TABLE alice.by_length SET LOGGED;
SELECT weir.resume('alice.by_length');
SELECT weir.wait_for('alice.by_length');
SELECT * FROM alice.by_length ORDER BY 1;
CREATE TABLE alice.gone WITH (weir.continuous) AS
	SELECT url, count(*) AS n FROM secured GROUP BY 1 WITH NO DATA;
ALTER TABLE alice.gone SET UNLOGGED;
DROP TABLE alice.gone;
SELECT count(*) FROM weir_data.views v
	WHERE NOT EXISTS (SELECT FROM pg_class WHERE oid = v.relid);
SET ROLE regress_weir_alice;

-- Everybody sees the views that he may read, under any settings of his own.
SET standard_conforming_strings = off;
SET escape_string_warning = off;
SELECT view FROM weir.views ORDER BY view::text;
RESET standard_conforming_strings;
RESET escape_string_warning;
RESET ROLE;

SET client_min_messages = warning;
DROP SERVER security_kafka CASCADE;
DROP FUNCTION public.treasure(text) CASCADE;
DROP SCHEMA alice, bob CASCADE;

-- Who owns the schema of the extension could replace what is in it.
CREATE DATABASE regress_weir_owned;
GRANT CREATE ON DATABASE regress_weir_owned TO regress_weir_bob;
\c regress_weir_owned
SET ROLE regress_weir_bob;
CREATE SCHEMA weir;
RESET ROLE;
\set SHOW_CONTEXT never
CREATE EXTENSION pg_weir;
\set SHOW_CONTEXT errors
ALTER SCHEMA weir OWNER TO CURRENT_USER;
CREATE EXTENSION pg_weir;
\c contrib_regression
DROP DATABASE regress_weir_owned;
DROP ROLE regress_weir_alice, regress_weir_bob;
