/* pg_weir--0.1.sql */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION pg_weir" to load this file. \quit

-- Everything that a user may call or read lives in schema weir; what only C
-- code writes lives in weir_data, which nobody else may even look into.
--
-- A schema weir that was there before keeps its owner, who could rename it and
-- put functions of his own where ours are looked for.
DO $$
BEGIN
	IF NOT (SELECT r.rolsuper FROM pg_catalog.pg_namespace n
			JOIN pg_catalog.pg_roles r ON r.oid OPERATOR(pg_catalog.=) n.nspowner
			WHERE n.nspname OPERATOR(pg_catalog.=) 'weir') THEN
		RAISE EXCEPTION 'schema "weir" belongs to a user'
			USING ERRCODE = 'insufficient_privilege',
			HINT = 'Rename it, or make a superuser its owner after looking at what it holds.';
	END IF;
END $$;
CREATE SCHEMA weir_data;
REVOKE ALL ON SCHEMA weir_data FROM PUBLIC;
GRANT USAGE ON SCHEMA weir TO PUBLIC;

--------------------------------------------------------------------------
-- Catalog
--------------------------------------------------------------------------

-- One row a view.  id is random, so that it survives dump and restore; it
-- names weir_data.query_<id> (Q as an internal view) and weir_data.state_<id>,
-- and is the argument of the triggers that keep v and its changelog read-only.
-- relid and changelog are valid where home says: '<system identifier>/<database
-- oid>'.
CREATE TABLE weir_data.views (
	id			text COLLATE "C" PRIMARY KEY,
	relid		oid NOT NULL,
	home		text NOT NULL,
	options		text[] NOT NULL,	-- as given, 'commit_interval=100 ms'
	settings	text[] NOT NULL,	-- pinned, name and value in turn
	paused		boolean NOT NULL,
	epoch		bigint NOT NULL DEFAULT 0,	-- raised by rebuild
	windowed	boolean NOT NULL DEFAULT false,	-- a column of v is Q's window
	changelog	oid					-- <view>_changes, NULL: none
);
CREATE INDEX views_relid ON weir_data.views (relid);
CREATE INDEX views_changelog ON weir_data.views (changelog);

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
	groups		bigint NOT NULL DEFAULT 0,	-- in memory
	evicted		bigint NOT NULL DEFAULT 0,	-- others in weir_data.state_<id>
	state_bytes	bigint NOT NULL DEFAULT 0,
	busy		float8,				-- share of the worker's time, lately
	last_commit	timestamptz,
	commits		bigint NOT NULL DEFAULT 0,
	commit_us	bigint NOT NULL DEFAULT 0,
	wal_bytes	bigint NOT NULL DEFAULT 0,
	watermark	timestamptz,		-- NULL: none yet, or none at all
	emitted		timestamptz,		-- windows that end by then are in the changelog,
									-- although the watermark began anew (rebuild)
	settled		timestamptz,		-- windows that end by then are never revised any
									-- more, also when the options change
	held_by		integer,			-- the partition that holds the watermark back
	late_applied	bigint NOT NULL DEFAULT 0,	-- pairs of row and window
	late_side	bigint NOT NULL DEFAULT 0,
	late_dropped	bigint NOT NULL DEFAULT 0,
	next_seq	bigint NOT NULL DEFAULT 1,	-- of the changelog, never given twice
	changes_at	timestamptz,		-- weir_at of its last rows
	timeline	integer,			-- of the WAL, when next_seq was written
	notify_skipped	bigint NOT NULL DEFAULT 0
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
	greatest	timestamptz,		-- event time of a row that moved the watermark
	watermark	timestamptz,		-- of this partition
	idle		boolean NOT NULL DEFAULT false,	-- left out of the view's
	lateness	bytea,				-- how late rows came, for p99 and the like
	PRIMARY KEY (view_id, partition)
) WITH (fillfactor = 20);

-- The replication slot of this database, which all views over tables and push
-- streams share.  A view's position (positions.position, the end of a commit)
-- belongs to one life of the slot: positions.last_print names it.
CREATE TABLE weir_data.slots (
	home		text PRIMARY KEY,	-- as in views
	name		name NOT NULL,
	life		bigint NOT NULL,	-- random: another one after the slot was lost
	confirmed	pg_lsn NOT NULL,	-- the slot was never told more than this
	lost_why	text				-- how the life before this one ended
);

-- source is an OID here and no regclass, so that a dump restores although a
-- relation is missing.  It is what the worker read at the time; readers are
-- shown the view's source of now.
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

-- Rows that came when windows of theirs could not be revised any more.
CREATE TABLE weir_data.late_rows (
	view_id		text COLLATE "C" NOT NULL,
	windows		text[] NOT NULL,	-- that the row has missed, as text
	watermark	timestamptz,		-- of the view, when the row came
	late_by		interval NOT NULL,	-- behind the end of the latest of them
	"row"		jsonb,				-- what the view reads of it
	at			timestamptz NOT NULL,
	diff		smallint NOT NULL DEFAULT 1	-- -1: a row that was taken back
);
CREATE INDEX late_rows_view ON weir_data.late_rows (view_id, at);

SELECT pg_catalog.pg_extension_config_dump('weir_data.views', '');
SELECT pg_catalog.pg_extension_config_dump('weir_data.status', '');
SELECT pg_catalog.pg_extension_config_dump('weir_data.positions', '');
SELECT pg_catalog.pg_extension_config_dump('weir_data.dead_letters', '');
SELECT pg_catalog.pg_extension_config_dump('weir_data.late_rows', '');

--------------------------------------------------------------------------
-- Foreign data wrapper for Kafka
--------------------------------------------------------------------------

CREATE FUNCTION weir.kafka_fdw_handler() RETURNS fdw_handler
	LANGUAGE C STRICT
	SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'weir_kafka_fdw_handler';

CREATE FUNCTION weir.kafka_fdw_validator(options text[], catalog oid) RETURNS void
	LANGUAGE C STRICT
	SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'weir_kafka_fdw_validator';

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
-- Push streams
--------------------------------------------------------------------------

-- The key of the MACs of pushed rows: one row, which only C code reads.  Whoever
-- knows it can push into any stream of this database.  Row security without a
-- policy keeps it from members of pg_read_all_data, too.  It is made here, is in
-- no dump, and a restored database has another one.  Two random UUIDs have 244
-- random bits.
CREATE TABLE weir_data.secret (
	key			bytea NOT NULL CHECK (pg_catalog.length(key) OPERATOR(pg_catalog.=) 32)
);
ALTER TABLE weir_data.secret ENABLE ROW LEVEL SECURITY;
INSERT INTO weir_data.secret SELECT pg_catalog.sha256(
	pg_catalog.uuid_send(pg_catalog.gen_random_uuid())
	OPERATOR(pg_catalog.||) pg_catalog.uuid_send(pg_catalog.gen_random_uuid()));

CREATE FUNCTION weir.stream_fdw_handler() RETURNS fdw_handler
	LANGUAGE C STRICT
	SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'weir_stream_fdw_handler';

CREATE FUNCTION weir.stream_fdw_validator(options text[], catalog oid) RETURNS void
	LANGUAGE C STRICT
	SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'weir_stream_fdw_validator';

COMMENT ON FUNCTION weir.stream_fdw_validator(text[], oid) IS
	'checks the options of push streams';

CREATE FOREIGN DATA WRAPPER weir_stream
	HANDLER weir.stream_fdw_handler VALIDATOR weir.stream_fdw_validator;

COMMENT ON FOREIGN DATA WRAPPER weir_stream IS 'push streams of this database';

-- Everybody may make streams: a server of weir_stream reaches nothing outside of
-- the database, a stream stores nothing, and what INSERT writes to the WAL an
-- ordinary table would cost, too.  (A server of weir_kafka names hosts.)
CREATE SERVER weir_stream FOREIGN DATA WRAPPER weir_stream;
GRANT USAGE ON FOREIGN SERVER weir_stream TO PUBLIC;

COMMENT ON SERVER weir_stream IS 'CREATE FOREIGN TABLE ... SERVER weir_stream makes a push stream';

--------------------------------------------------------------------------
-- Windows
--------------------------------------------------------------------------

-- The window [lower, upper) that holds ts.  A NULL origin is the default:
-- 2000-01-03 00:00 (a Monday) in tz, 2000-01-01 for sizes in months.  Any other
-- NULL gives NULL, so the functions are not STRICT.
CREATE FUNCTION tumble(ts timestamptz, size interval,
					   origin timestamptz DEFAULT NULL, tz text DEFAULT 'UTC')
RETURNS tstzrange
AS 'MODULE_PATHNAME', 'weir_tumble_timestamptz'
LANGUAGE C IMMUTABLE PARALLEL SAFE;

CREATE FUNCTION tumble(ts timestamp, size interval,
					   origin timestamp DEFAULT NULL)
RETURNS tsrange
AS 'MODULE_PATHNAME', 'weir_tumble_timestamp'
LANGUAGE C IMMUTABLE PARALLEL SAFE;

-- All windows that hold ts, in the order of their time.  Any NULL but the
-- origin gives no row.  The number of rows is size / slide, or what is left of
-- size / step, which the planner does not know.
CREATE FUNCTION hop(ts timestamptz, slide interval, size interval,
					origin timestamptz DEFAULT NULL, tz text DEFAULT 'UTC')
RETURNS SETOF tstzrange
AS 'MODULE_PATHNAME', 'weir_hop_timestamptz'
LANGUAGE C IMMUTABLE PARALLEL SAFE ROWS 10;

CREATE FUNCTION hop(ts timestamp, slide interval, size interval,
					origin timestamp DEFAULT NULL)
RETURNS SETOF tsrange
AS 'MODULE_PATHNAME', 'weir_hop_timestamp'
LANGUAGE C IMMUTABLE PARALLEL SAFE ROWS 10;

CREATE FUNCTION cumulate(ts timestamptz, step interval, size interval,
						 origin timestamptz DEFAULT NULL, tz text DEFAULT 'UTC')
RETURNS SETOF tstzrange
AS 'MODULE_PATHNAME', 'weir_cumulate_timestamptz'
LANGUAGE C IMMUTABLE PARALLEL SAFE ROWS 10;

CREATE FUNCTION cumulate(ts timestamp, step interval, size interval,
						 origin timestamp DEFAULT NULL)
RETURNS SETOF tsrange
AS 'MODULE_PATHNAME', 'weir_cumulate_timestamp'
LANGUAGE C IMMUTABLE PARALLEL SAFE ROWS 10;

-- Raises whenever it is called, also with a NULL: it stands in queries of
-- continuous views, where the worker does what it says.
CREATE FUNCTION session(ts timestamptz, gap interval)
RETURNS tstzrange
AS 'MODULE_PATHNAME', 'weir_session_timestamptz'
LANGUAGE C IMMUTABLE PARALLEL SAFE;

CREATE FUNCTION session(ts timestamp, gap interval)
RETURNS tsrange
AS 'MODULE_PATHNAME', 'weir_session_timestamp'
LANGUAGE C IMMUTABLE PARALLEL SAFE;

COMMENT ON FUNCTION tumble(timestamptz, interval, timestamptz, text)
IS 'the window of a fixed size that holds a timestamp; days and months are those of the time zone';
COMMENT ON FUNCTION tumble(timestamp, interval, timestamp)
IS 'the window of a fixed size that holds a timestamp';

COMMENT ON FUNCTION hop(timestamptz, interval, interval, timestamptz, text)
IS 'all windows that hold a timestamp, of windows of a size that begin a slide apart';
COMMENT ON FUNCTION hop(timestamp, interval, interval, timestamp)
IS 'all windows that hold a timestamp, of windows of a size that begin a slide apart';
COMMENT ON FUNCTION cumulate(timestamptz, interval, interval, timestamptz, text)
IS 'all windows that hold a timestamp, of windows that grow by steps up to a size';
COMMENT ON FUNCTION cumulate(timestamp, interval, interval, timestamp)
IS 'all windows that hold a timestamp, of windows that grow by steps up to a size';
COMMENT ON FUNCTION session(timestamptz, interval)
IS 'in continuous views: rows of a group less than the gap apart';
COMMENT ON FUNCTION session(timestamp, interval)
IS 'in continuous views: rows of a group less than the gap apart';

--------------------------------------------------------------------------
-- Continuous views: DDL and control
--------------------------------------------------------------------------

-- Marks the database for the launcher and wakes it, also when a restore fills
-- the table.
CREATE FUNCTION weir_data.views_changed() RETURNS trigger
AS 'MODULE_PATHNAME', 'weir_views_changed'
LANGUAGE C SET search_path = pg_catalog, pg_temp;

CREATE TRIGGER views_changed
AFTER INSERT OR UPDATE OR DELETE ON weir_data.views
FOR EACH STATEMENT EXECUTE FUNCTION weir_data.views_changed();

-- Keeps users from writing into v and its changelog; the first argument is the
-- id of the view, and the changelog's has a second one, 'changelog'.
CREATE FUNCTION weir.read_only() RETURNS trigger
AS 'MODULE_PATHNAME', 'weir_read_only'
LANGUAGE C SET search_path = pg_catalog, pg_temp;

-- Returns once the view holds everything that its source had at the call.
CREATE FUNCTION weir.wait_for(view regclass, timeout interval DEFAULT '30 s')
RETURNS void
AS 'MODULE_PATHNAME', 'weir_wait_for'
LANGUAGE C STRICT SET search_path = pg_catalog, pg_temp;

CREATE FUNCTION weir.pause(view regclass) RETURNS void
AS 'MODULE_PATHNAME', 'weir_pause'
LANGUAGE C STRICT SET search_path = pg_catalog, pg_temp;

CREATE FUNCTION weir.resume(view regclass) RETURNS void
AS 'MODULE_PATHNAME', 'weir_resume'
LANGUAGE C STRICT SET search_path = pg_catalog, pg_temp;

CREATE FUNCTION weir.rebuild(view regclass, accept_loss boolean DEFAULT false)
RETURNS void
AS 'MODULE_PATHNAME', 'weir_rebuild'
LANGUAGE C STRICT SET search_path = pg_catalog, pg_temp;

CREATE FUNCTION weir.definition(view regclass) RETURNS text
AS 'MODULE_PATHNAME', 'weir_definition'
LANGUAGE C STABLE STRICT SET search_path = pg_catalog, pg_temp;

-- Dead letters are kept until the owner of the view deletes them.
CREATE FUNCTION weir.delete_dead_letters(view regclass,
	before timestamptz DEFAULT 'infinity')
RETURNS bigint
AS 'MODULE_PATHNAME', 'weir_delete_dead_letters'
LANGUAGE C STRICT SET search_path = pg_catalog, pg_temp;

-- Late rows, too.
CREATE FUNCTION weir.delete_late_rows(view regclass,
	before timestamptz DEFAULT 'infinity')
RETURNS bigint
AS 'MODULE_PATHNAME', 'weir_delete_late_rows'
LANGUAGE C STRICT SET search_path = pg_catalog, pg_temp;

-- How far event time has come, in the snapshot of the query; needs SELECT on the
-- view.  No SET clause: is_closed is called for each row.
CREATE FUNCTION weir.watermark(view regclass) RETURNS timestamptz
AS 'MODULE_PATHNAME', 'weir_watermark'
LANGUAGE C STABLE STRICT PARALLEL SAFE;

CREATE FUNCTION weir.is_closed(view regclass, "window" tstzrange) RETURNS boolean
AS 'MODULE_PATHNAME', 'weir_is_closed'
LANGUAGE C STABLE PARALLEL SAFE;

CREATE FUNCTION weir.is_closed(view regclass, "window" tsrange) RETURNS boolean
AS 'MODULE_PATHNAME', 'weir_is_closed'
LANGUAGE C STABLE PARALLEL SAFE;

COMMENT ON FUNCTION weir.watermark(regclass) IS 'how far event time has come in a continuous view';
COMMENT ON FUNCTION weir.is_closed(regclass, tstzrange) IS 'is no row expected any more in this window of a continuous view?';
COMMENT ON FUNCTION weir.is_closed(regclass, tsrange) IS 'is no row expected any more in this window of a continuous view?';
COMMENT ON FUNCTION weir.delete_late_rows(regclass, timestamptz) IS 'delete the late rows of a continuous view that are older than a time';
COMMENT ON FUNCTION weir.delete_dead_letters(regclass, timestamptz) IS 'delete the dead letters of a continuous view that are older than a time';
COMMENT ON FUNCTION weir.read_only() IS 'trigger: keeps users from writing into a continuous view';
COMMENT ON FUNCTION weir.pause(regclass) IS 'stop a continuous view; it keeps its rows and its positions';
COMMENT ON FUNCTION weir.resume(regclass) IS 'let a paused or stalled continuous view go on';
COMMENT ON FUNCTION weir.rebuild(regclass, boolean) IS 'compute a continuous view again from its source';
COMMENT ON FUNCTION weir.definition(regclass) IS 'the query of a continuous view';

--------------------------------------------------------------------------
-- Monitoring
--------------------------------------------------------------------------

-- The process that serves a view, NULL if none does.
CREATE FUNCTION weir.worker_pid(view regclass) RETURNS integer
AS 'MODULE_PATHNAME', 'weir_worker_pid'
LANGUAGE C STRICT SET search_path = pg_catalog, pg_temp;

-- Bytes of weir.state_memory, by the views of all databases of the server, now.
CREATE FUNCTION weir.state_memory_taken() RETURNS bigint
AS 'MODULE_PATHNAME', 'weir_state_memory_taken'
LANGUAGE C SET search_path = pg_catalog, pg_temp;

COMMENT ON FUNCTION weir.state_memory_taken() IS 'bytes that the continuous views of the server take of weir.state_memory';

-- Everybody may read these; each shows what the reader may see: views that he
-- may SELECT from, and payloads of views whose owner he is.  The barrier keeps
-- functions in his WHERE clause away from the rest.

CREATE FUNCTION weir_data.definitions(
	OUT view oid, OUT id text, OUT owner oid, OUT source oid, OUT kind text,
	OUT paused boolean, OUT changelog oid)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'weir_definitions'
LANGUAGE C SET search_path = pg_catalog, pg_temp;

CREATE FUNCTION weir_data.strays() RETURNS SETOF oid
AS 'MODULE_PATHNAME', 'weir_strays'
LANGUAGE C SET search_path = pg_catalog, pg_temp;

CREATE FUNCTION weir_data.now() RETURNS timestamptz
AS 'MODULE_PATHNAME', 'weir_sql_now'
LANGUAGE C SET search_path = pg_catalog, pg_temp;

CREATE FUNCTION weir_data.home() RETURNS text
AS 'MODULE_PATHNAME', 'weir_sql_home'
LANGUAGE C SET search_path = pg_catalog, pg_temp;

CREATE FUNCTION weir_data.changes_read_to(OUT read_to pg_lsn, OUT read_by timestamptz)
AS 'MODULE_PATHNAME', 'weir_changes_read_to'
LANGUAGE C SET search_path = pg_catalog, pg_temp;

-- The end of all WAL, also where it is replayed.
CREATE FUNCTION weir_data.wal_end() RETURNS pg_lsn
LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$ SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()
	ELSE pg_current_wal_insert_lsn() END $$;

-- A view that does not move says why: its own stall first, then what somebody
-- has asked for, then what the server lacks.  An error may quote a row of the
-- source, so the text of a stall is for the view's owner alone.
--
-- The privilege is looked at outside of the UNION: a barrier does not hold
-- between a reader's function and conditions inside of its arms.
CREATE VIEW weir.views WITH (security_barrier) AS
SELECT * FROM (
SELECT d.view::pg_catalog.regclass AS view,
	CASE WHEN s.sqlstate IS NOT NULL THEN 'stalled'
		 WHEN d.paused THEN 'paused'
		 ELSE s.phase END AS state,
	s.sqlstate,
	CASE WHEN s.sqlstate IS NOT NULL THEN CASE WHEN own THEN s.message
			ELSE 'the view is stalled' END
		 WHEN d.paused THEN NULL
		 ELSE h.message END AS message,
	CASE WHEN own AND (s.sqlstate IS NOT NULL OR NOT d.paused AND h.message IS NULL)
		 THEN s.detail END AS detail,	-- of one that runs: why it commits rarely
	CASE WHEN s.sqlstate IS NOT NULL THEN CASE WHEN own THEN s.hint
			ELSE 'Its owner sees why.' END
		 WHEN d.paused THEN 'Call weir.resume() to let it go on.'
		 WHEN h.message IS NOT NULL THEN h.hint
		 WHEN own THEN s.hint END AS hint,
	s.watermark,
	CASE WHEN d.kind OPERATOR(pg_catalog.=) 'kafka'
		 THEN 'partition ' OPERATOR(pg_catalog.||) s.held_by::pg_catalog.text
	END AS held_by,
	CASE WHEN d.changelog IS NOT NULL
		 THEN 'weir_' OPERATOR(pg_catalog.||) d.id END AS channel,
	s.last_commit
FROM weir_data.definitions() d
	JOIN weir_data.status s ON s.view_id OPERATOR(pg_catalog.=) d.id
	CROSS JOIN LATERAL (SELECT pg_catalog.pg_has_role(d.owner, 'USAGE') AS own) o
	LEFT JOIN LATERAL (SELECT * FROM (VALUES
		(pg_catalog.pg_is_in_recovery(),
		 'a standby does not ingest',
		 'The view shows what the primary has committed.'),
		(NOT pg_catalog.current_setting('weir.enabled')::pg_catalog.bool,
		 'weir.enabled is off',
		 'Set weir.enabled to on and reload the configuration.'),
		(weir.worker_pid(d.view) IS NULL,
		 'no worker serves the view now',
		 'One starts within seconds, unless weir.max_workers or max_worker_processes are used up; see the server log.')
		) w(applies, message, hint) WHERE w.applies LIMIT 1) h ON true
UNION ALL
SELECT t.view::pg_catalog.regclass, 'stalled', '55000',
	'the view came with a copy of another database', NULL,
	'Call weir.resume() to let it go on here from where it stood.',
	NULL, NULL, NULL, NULL
FROM weir_data.strays() t(view)
) v
WHERE pg_catalog.has_table_privilege(v.view, 'SELECT');

-- Of a topic, a row for each partition, in offsets: compaction and transactions
-- leave some of them empty.  lag_seconds: how long ago the broker took the last
-- message that was read.
--
-- Of a table or push stream, one row, in bytes of WAL, most of which is of no
-- interest to it: so a view that runs is as far as the worker has read, and all
-- that was committed lag_seconds ago is folded.
--
-- Lags are NULL while nobody looks at the source: paused or stalled; but one that
-- only waits for a lock (55P03) is known to be behind.
CREATE VIEW weir_data.lags AS
SELECT d.view, d.id, d.source, d.kind, p.partition,
	p.position::pg_catalog.text AS position,
	p.source_end::pg_catalog.text AS source_end,
	CASE WHEN p.source_end IS NOT NULL
		 THEN GREATEST(p.source_end OPERATOR(pg_catalog.-) p.position, 0) END AS lag,
	CASE WHEN p.source_end OPERATOR(pg_catalog.<=) p.position THEN 0
		 WHEN p.last_time IS NOT NULL
		 THEN GREATEST(0, EXTRACT(epoch FROM weir_data.now() OPERATOR(pg_catalog.-) p.last_time))
	END::pg_catalog.float8 AS lag_seconds,
	NOT d.paused AND (s.sqlstate IS NULL OR s.sqlstate OPERATOR(pg_catalog.=) '55P03') AS moves,
	p.watermark,
	CASE WHEN p.watermark IS NOT NULL OR p.idle THEN p.idle END AS idle
FROM weir_data.definitions() d
	JOIN weir_data.positions p ON p.view_id OPERATOR(pg_catalog.=) d.id
	JOIN weir_data.status s ON s.view_id OPERATOR(pg_catalog.=) d.id
WHERE d.kind OPERATOR(pg_catalog.=) 'kafka'
UNION ALL
SELECT d.view, d.id, d.source, d.kind, NULL,
	q.position::pg_catalog.text, e.source_end::pg_catalog.text,
	GREATEST(pg_catalog.pg_wal_lsn_diff(e.source_end, r.position), 0)::pg_catalog.int8,
	CASE WHEN e.source_end OPERATOR(pg_catalog.<=) r.position THEN 0
		 WHEN r.read_by IS NOT NULL
		 THEN GREATEST(0, EXTRACT(epoch FROM pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) r.read_by))
		 -- it waits for a lock
		 WHEN q.moves THEN GREATEST(0, EXTRACT(epoch FROM pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) p.last_time))
	END::pg_catalog.float8,
	q.moves,
	p.watermark,
	CASE WHEN p.watermark IS NOT NULL OR p.idle THEN p.idle END AS idle
FROM weir_data.definitions() d
	JOIN weir_data.positions p ON p.view_id OPERATOR(pg_catalog.=) d.id
	JOIN weir_data.status s ON s.view_id OPERATOR(pg_catalog.=) d.id
	LEFT JOIN weir_data.slots l ON l.home OPERATOR(pg_catalog.=) weir_data.home()
	CROSS JOIN LATERAL (SELECT weir_data.wal_end() AS source_end) e
	-- what is recorded, in the snapshot of the view's rows
	CROSS JOIN LATERAL (SELECT
		NOT d.paused AND (s.sqlstate IS NULL OR s.sqlstate OPERATOR(pg_catalog.=) '55P03') AS moves,
		s.phase OPERATOR(pg_catalog.=) 'running' AND NOT d.paused
			AND s.sqlstate IS NULL AS runs,
		GREATEST('0/0'::pg_catalog.pg_lsn OPERATOR(pg_catalog.+) p.position::pg_catalog.numeric,
			CASE WHEN s.phase OPERATOR(pg_catalog.=) 'running' AND NOT d.paused
				AND s.sqlstate IS NULL THEN l.confirmed END) AS position) q
	-- and what is read by now
	CROSS JOIN LATERAL (SELECT
		GREATEST(q.position, CASE WHEN q.runs THEN c.read_to END) AS position,
		CASE WHEN q.runs THEN c.read_by END AS read_by
		FROM weir_data.changes_read_to() c) r
WHERE d.kind OPERATOR(pg_catalog.<>) 'kafka';

CREATE VIEW weir.partitions WITH (security_barrier) AS
SELECT l.view::pg_catalog.regclass AS view,
	l.source::pg_catalog.regclass AS source,
	l.partition,
	l.position,
	l.source_end,
	CASE WHEN l.moves THEN l.lag END AS lag,
	CASE WHEN l.moves THEN l.lag_seconds END AS lag_seconds,
	l.watermark,
	l.idle
FROM weir_data.lags l
WHERE pg_catalog.has_table_privilege(l.view, 'SELECT');

-- As of the last commit.  All groups are on disk, as many of them as there is
-- room for also in memory.
-- commit_ms is the sum over all commits but the last.
CREATE VIEW weir.stat_views WITH (security_barrier) AS
SELECT d.view::pg_catalog.regclass AS view,
	p.rows_in,
	p.rows_filtered,
	s.late_applied,
	s.late_side,
	s.late_dropped,
	p.dead_letters,
	s.groups AS groups_in_memory,
	s.groups OPERATOR(pg_catalog.+) s.evicted AS groups_on_disk,
	s.state_bytes,
	s.commits,
	s.commit_us OPERATOR(pg_catalog./) 1000.0::pg_catalog.float8 AS commit_ms,
	s.wal_bytes,
	s.busy
FROM weir_data.definitions() d
	JOIN weir_data.status s ON s.view_id OPERATOR(pg_catalog.=) d.id
	CROSS JOIN LATERAL (
		SELECT COALESCE(pg_catalog.sum(q.rows_in), 0)::pg_catalog.int8 AS rows_in,
			COALESCE(pg_catalog.sum(q.rows_filtered), 0)::pg_catalog.int8 AS rows_filtered,
			COALESCE(pg_catalog.sum(q.dead_letters), 0)::pg_catalog.int8 AS dead_letters
		FROM weir_data.positions q
		WHERE q.view_id OPERATOR(pg_catalog.=) d.id) p
WHERE pg_catalog.has_table_privilege(d.view, 'SELECT');

-- Over the views of a source that the reader may see: lag is that of the view
-- that is furthest behind, the counters are sums.
CREATE VIEW weir.stat_sources WITH (security_barrier) AS
SELECT d.source::pg_catalog.regclass AS source,
	pg_catalog.count(DISTINCT d.view) AS views,
	pg_catalog.count(DISTINCT p.partition) AS partitions,
	COALESCE(pg_catalog.sum(p.rows_in), 0)::pg_catalog.int8 AS rows_in,
	COALESCE(pg_catalog.sum(p.tombstones), 0)::pg_catalog.int8 AS tombstones,
	COALESCE(pg_catalog.sum(p.dead_letters), 0)::pg_catalog.int8 AS dead_letters,
	pg_catalog.max(g.lag) AS lag,
	pg_catalog.max(p.last_time) AS last_time
FROM weir_data.definitions() d
	LEFT JOIN weir_data.positions p ON p.view_id OPERATOR(pg_catalog.=) d.id
	LEFT JOIN (SELECT l.id, pg_catalog.sum(l.lag)::pg_catalog.int8 AS lag
		FROM weir_data.lags l GROUP BY l.id) g ON g.id OPERATOR(pg_catalog.=) d.id
WHERE pg_catalog.has_table_privilege(d.view, 'SELECT')
GROUP BY d.source;

-- The replication slot of this database, for who watches the disk.  No row
-- while no view needs one.  wal_status, safe_wal_size: as in
-- pg_replication_slots.
CREATE VIEW weir.slot AS
SELECT r.slot_name AS name,
	r.active,
	r.active_pid AS pid,
	r.confirmed_flush_lsn AS confirmed,
	r.restart_lsn AS restart,
	GREATEST(pg_catalog.pg_wal_lsn_diff(weir_data.wal_end(), r.restart_lsn), 0)::pg_catalog.int8 AS retained_bytes,
	pg_catalog.pg_size_bytes(pg_catalog.current_setting('weir.max_retained_wal')) AS max_retained_bytes,
	r.safe_wal_size,
	r.wal_status,
	pg_catalog.age(r.catalog_xmin) AS xmin_age,
	l.lost_why AS last_lost
FROM pg_catalog.pg_replication_slots r
	LEFT JOIN weir_data.slots l ON l.home OPERATOR(pg_catalog.=) weir_data.home()
WHERE r.slot_name OPERATOR(pg_catalog.=) (SELECT ('pg_weir_' OPERATOR(pg_catalog.||) d.oid)::pg_catalog.name
	FROM pg_catalog.pg_database d
	WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database());

-- The message of an error may quote the row that it is about, as Postgres' own
-- do: it is the owner's alone, like the payload.
CREATE VIEW weir.dead_letters WITH (security_barrier) AS
SELECT d.source::pg_catalog.regclass AS source,
	d.view::pg_catalog.regclass AS view,
	l.partition,
	l."offset",
	l.lsn,
	l.sqlstate,
	CASE WHEN pg_catalog.pg_has_role(d.owner, 'USAGE') THEN l.message END AS message,
	CASE WHEN pg_catalog.pg_has_role(d.owner, 'USAGE') THEN l.payload END AS payload,
	l.at
FROM weir_data.definitions() d
	JOIN weir_data.dead_letters l ON l.view_id OPERATOR(pg_catalog.=) d.id
WHERE pg_catalog.has_table_privilege(d.view, 'SELECT');

-- One row for each late row of the source.  It is the owner's alone: who may read
-- the view may not therefore read its source.
CREATE VIEW weir.late_rows WITH (security_barrier) AS
SELECT d.view::pg_catalog.regclass AS view,
	l.windows,
	l.watermark,
	l.late_by,
	CASE WHEN pg_catalog.pg_has_role(d.owner, 'USAGE') THEN l."row" END AS "row",
	l.diff,
	l.at
FROM weir_data.definitions() d
	JOIN weir_data.late_rows l ON l.view_id OPERATOR(pg_catalog.=) d.id
WHERE pg_catalog.has_table_privilege(d.view, 'SELECT');

-- Backfills under way: views that show nothing yet, or the rows from before
-- their rebuild.  Rows of a table as far as they are read, and as the planner
-- has estimated them; messages of a topic, by their offsets.
CREATE FUNCTION weir_data.backfills(
	OUT view oid, OUT rows_done bigint, OUT rows_estimate bigint,
	OUT started timestamptz)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'weir_backfills'
LANGUAGE C SET search_path = pg_catalog, pg_temp;

CREATE VIEW weir.progress WITH (security_barrier) AS
SELECT d.view::pg_catalog.regclass AS view,
	'backfill'::pg_catalog.text AS phase,
	CASE WHEN d.kind OPERATOR(pg_catalog.=) 'kafka' THEN m.rows_done
		 ELSE COALESCE(b.rows_done, 0) END AS rows_done,
	CASE WHEN d.kind OPERATOR(pg_catalog.=) 'kafka' THEN m.rows_estimate
		 ELSE b.rows_estimate END AS rows_estimate,
	b.rows_done OPERATOR(pg_catalog./) NULLIF(EXTRACT(epoch FROM
		pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) b.started)::pg_catalog.float8, 0) AS rate,
	b.started
FROM weir_data.definitions() d
	JOIN weir_data.status s ON s.view_id OPERATOR(pg_catalog.=) d.id
	LEFT JOIN weir_data.backfills() b ON b.view OPERATOR(pg_catalog.=) d.view
	LEFT JOIN (
		SELECT q.view_id,
			pg_catalog.sum(q.position OPERATOR(pg_catalog.-) q.start)::pg_catalog.int8 AS rows_done,
			pg_catalog.sum(GREATEST(q.target OPERATOR(pg_catalog.-) q.start, 0))::pg_catalog.int8 AS rows_estimate
		FROM weir_data.positions q GROUP BY q.view_id) m ON m.view_id OPERATOR(pg_catalog.=) d.id
WHERE s.phase OPERATOR(pg_catalog.=) 'backfilling'
	AND d.kind OPERATOR(pg_catalog.<>) 'stream'
	AND pg_catalog.has_table_privilege(d.view, 'SELECT');

GRANT SELECT ON weir.views, weir.partitions, weir.stat_views,
	weir.stat_sources, weir.slot, weir.dead_letters, weir.late_rows,
	weir.progress TO PUBLIC;
