/* pg_weir--0.1.sql */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION pg_weir" to load this file. \quit

-- Everything that a user may call or read lives in schema weir; what only C
-- code writes lives in weir_data, which nobody else may even look into.
CREATE SCHEMA weir_data;
REVOKE ALL ON SCHEMA weir_data FROM PUBLIC;
GRANT USAGE ON SCHEMA weir TO PUBLIC;

--------------------------------------------------------------------------
-- Catalog
--------------------------------------------------------------------------

-- One row a view.  id is random, so that it survives dump and restore; it
-- names weir_data.query_<id> (Q as an internal view) and weir_data.state_<id>,
-- and is the argument of the trigger that keeps v read-only.
-- relid is valid where home says: '<system identifier>/<database oid>'.
CREATE TABLE weir_data.views (
	id			text COLLATE "C" PRIMARY KEY,
	relid		oid NOT NULL,
	home		text NOT NULL,
	options		text[] NOT NULL,	-- as given, 'commit_interval=100 ms'
	settings	text[] NOT NULL,	-- pinned, name and value in turn
	paused		boolean NOT NULL
);
CREATE INDEX views_relid ON weir_data.views (relid);

-- What changes at every commit of a view.
--
--	backfilling		states and positions commit, v keeps its old rows (none,
--					for a new view) until every partition is at its target
--	running			v is Q over the messages below the positions
--
-- A stall is orthogonal: sqlstate and what follows it are set.
CREATE TABLE weir_data.status (
	view_id		text COLLATE "C" PRIMARY KEY,
	phase		text NOT NULL,
	filenode	oid,				-- of v, when its rows were last placed
	sqlstate	text,
	message		text,
	detail		text,
	hint		text,
	last_commit	timestamptz,
	commits		bigint NOT NULL DEFAULT 0,
	commit_us	bigint NOT NULL DEFAULT 0,
	wal_bytes	bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 20);

-- The position and the books of one view on one partition:
-- rows_in = applied + rows_filtered + dead_letters, tombstones are apart.
CREATE TABLE weir_data.positions (
	view_id		text COLLATE "C" NOT NULL,
	partition	integer NOT NULL,
	position	bigint NOT NULL,	-- the next offset to read
	start		bigint NOT NULL,	-- the first offset of the view
	target		bigint NOT NULL,	-- a backfill is complete from here on
	source_end	bigint,				-- last known end of the partition
	last_offset	bigint,				-- last message seen, and its fingerprint
	last_print	bigint,
	last_time	timestamptz,		-- the broker's time of it
	rows_in		bigint NOT NULL DEFAULT 0,
	rows_filtered	bigint NOT NULL DEFAULT 0,
	tombstones	bigint NOT NULL DEFAULT 0,
	dead_letters	bigint NOT NULL DEFAULT 0,
	PRIMARY KEY (view_id, partition)
) WITH (fillfactor = 20);

-- source is text here, resolved when read: a dump must restore although
-- a relation is missing.
CREATE TABLE weir_data.dead_letters (
	view_id		text COLLATE "C" NOT NULL,
	source		oid NOT NULL,
	partition	integer,
	"offset"	bigint,
	lsn			pg_lsn,
	sqlstate	text NOT NULL,
	message		text NOT NULL,
	payload		bytea,
	at			timestamptz NOT NULL
);
CREATE INDEX dead_letters_view ON weir_data.dead_letters (view_id, at);

SELECT pg_catalog.pg_extension_config_dump('weir_data.views', '');
SELECT pg_catalog.pg_extension_config_dump('weir_data.status', '');
SELECT pg_catalog.pg_extension_config_dump('weir_data.positions', '');
SELECT pg_catalog.pg_extension_config_dump('weir_data.dead_letters', '');

--------------------------------------------------------------------------
-- Foreign data wrapper for Kafka
--------------------------------------------------------------------------

CREATE FUNCTION weir.kafka_fdw_handler() RETURNS fdw_handler
LANGUAGE C STRICT AS 'MODULE_PATHNAME', 'weir_kafka_fdw_handler';

CREATE FUNCTION weir.kafka_fdw_validator(options text[], catalog oid) RETURNS void
LANGUAGE C STRICT AS 'MODULE_PATHNAME', 'weir_kafka_fdw_validator';

COMMENT ON FUNCTION weir.kafka_fdw_validator(text[], oid) IS
	'checks options of Kafka servers, user mappings, tables and columns against the allow-list';

-- Nobody may create servers with it until somebody is granted USAGE: a server
-- names hosts that this machine will connect to.
CREATE FOREIGN DATA WRAPPER weir_kafka
	HANDLER weir.kafka_fdw_handler VALIDATOR weir.kafka_fdw_validator;

COMMENT ON FOREIGN DATA WRAPPER weir_kafka IS 'topics of Apache Kafka';

-- What would become of this message?  Says what a view would make of it:
-- verdict is row, skip (a tombstone) or bad.  Needs SELECT on the stream.
CREATE FUNCTION weir.try_decode(stream regclass, payload bytea,
								key bytea DEFAULT NULL,
								OUT verdict text, OUT sqlstate text,
								OUT message text, OUT "row" jsonb)
	LANGUAGE C VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'weir_try_decode';

--------------------------------------------------------------------------
-- Windows
--------------------------------------------------------------------------

--------------------------------------------------------------------------
-- Continuous views: DDL and control
--------------------------------------------------------------------------

--------------------------------------------------------------------------
-- Monitoring
--------------------------------------------------------------------------
