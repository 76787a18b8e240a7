# Views over tables and push streams, and who may see which row: what is committed
# together with the loss of a privilege is not for who has lost it, and whoever
# forges, pushes or defines what he should not gets nothing for it.
#
# sql/security.sql has what one session can see of it.
use strict;
use warnings;

use Test::More;
use PostgreSQL::Test::Utils;
use WeirNode;

my $node = WeirNode->start_new('main');

sub sql { return $node->safe_psql('postgres', @_) }
sub stall_of { return sql("SELECT coalesce(sqlstate, '') FROM weir.views WHERE view = '$_[0]'::regclass") }
sub stalls
{
	my ($view, $what) = @_;
	return ok($node->wait_until("SELECT sqlstate FROM weir.views WHERE view = '$view'::regclass", '42501', 20), $what);
}

sql(<<'EOF');
CREATE EXTENSION pg_weir;
CREATE ROLE alice;
CREATE ROLE bob;
CREATE SCHEMA a AUTHORIZATION alice;
CREATE SCHEMA b AUTHORIZATION bob;
GRANT USAGE ON SCHEMA a TO bob;
EOF

# ------------------------------------------- privileges that go with a row's commit

# Each time the row is written by the very transaction that takes the privilege,
# and the worker reads both at once.
my $n = 0;
for my $case (
	[ 'REVOKE' => '', 'REVOKE SELECT ON a.t FROM bob', 'GRANT SELECT ON a.t TO bob' ],
	[ 'row level security' => '', 'ALTER TABLE a.t ENABLE ROW LEVEL SECURITY', 'ALTER TABLE a.t DISABLE ROW LEVEL SECURITY' ],
	[ 'NOBYPASSRLS' => 'ALTER TABLE a.t ENABLE ROW LEVEL SECURITY; ALTER ROLE bob BYPASSRLS', 'ALTER ROLE bob NOBYPASSRLS', 'ALTER ROLE bob BYPASSRLS' ],
	[ 'NOSUPERUSER' => 'ALTER ROLE bob SUPERUSER', 'ALTER ROLE bob NOSUPERUSER; REVOKE SELECT ON a.t FROM bob', 'ALTER ROLE bob SUPERUSER' ],
	[ 'membership' => 'REVOKE SELECT ON a.t FROM bob; CREATE ROLE readers; GRANT SELECT ON a.t TO readers; GRANT readers TO bob', 'REVOKE readers FROM bob', 'GRANT readers TO bob' ])
{
	my ($name, $before, $take, $give) = @$case;
	my $secret = 'secret ' . ++$n;

	sql(<<"EOF");
DROP TABLE IF EXISTS a.t CASCADE;
ALTER ROLE bob NOSUPERUSER NOBYPASSRLS;
SET ROLE alice;
CREATE TABLE a.t (id serial PRIMARY KEY, x text);
ALTER TABLE a.t REPLICA IDENTITY FULL;
INSERT INTO a.t (x) VALUES ('seen');
GRANT SELECT ON a.t TO bob;
RESET ROLE;
$before;
SET ROLE bob;
CREATE TABLE b.v WITH (weir.continuous, weir.commit_interval = '20 ms') AS SELECT x, count(*) FROM a.t GROUP BY x;
SELECT weir.wait_for('b.v');
EOF
	is(sql('SELECT x FROM b.v'), 'seen', "$name: the view is filled");
	sql("BEGIN; $take; INSERT INTO a.t (x) VALUES ('$secret'); COMMIT");
	stalls('b.v', "$name: the view stalls when the privilege goes");
	is(sql('SELECT x FROM b.v'), 'seen', "$name: what was committed with it is not shown");
	isnt(sql(q{SELECT hint FROM weir.views WHERE view = 'b.v'::regclass}), '', "$name: weir.views says what to do");
	sql("$give; SELECT weir.resume('b.v')");
	is(sql(q{SELECT weir.wait_for('b.v'); SELECT x FROM b.v ORDER BY x}), "\nsecret $n\nseen",
		"$name: nothing is lost when it comes back");
}

# --------------------------------------------------------- columns of push streams

# A column may change its type while no view reads it; who reads it next must get
# its values, although the source has been read for long.
sql(<<'EOF');
SET ROLE alice;
CREATE FOREIGN TABLE a.s (id int, x int) SERVER weir_stream;
CREATE TABLE a.ids WITH (weir.continuous) AS SELECT id, count(*) FROM a.s GROUP BY id;
INSERT INTO a.s VALUES (1, 1);
SELECT weir.wait_for('a.ids');
ALTER FOREIGN TABLE a.s ALTER COLUMN x TYPE text;
CREATE TABLE a.xs WITH (weir.continuous) AS SELECT x, count(*) FROM a.s GROUP BY x;
INSERT INTO a.s VALUES (2, 'two');
SELECT weir.wait_for('a.xs'), weir.wait_for('a.ids');
EOF
is(sql('SELECT x, count FROM a.xs'), 'two|1', 'a column whose type was changed is read as what it is');
is(sql('SELECT id, count FROM a.ids ORDER BY 1'), "1|1\n2|1", 'and the others go on');

like($node->error_of(q{SELECT weir.try_decode('a.s', 'x')}), qr/^42809: "s" is a push stream/, 'a push stream decodes nothing');

# ------------------------------------------------------------------- forgeries

# Everybody may write messages.  One that is larger than any of ours is not even
# kept until its MAC is looked at; it begins as one for the stream does.
sql(<<'EOF');
CREATE FUNCTION forge(stream oid, size int) RETURNS pg_lsn LANGUAGE sql AS $$
	SELECT pg_logical_emit_message(true, 'pg_weir', decode('31524957' || '0100' || '0200', 'hex')
		|| (SELECT string_agg(set_byte('\x00', 0, ((stream::bigint >> (8 * i)) & 255)::int), '' ORDER BY i) FROM generate_series(0, 3) i)
		|| decode(repeat('ff', size), 'hex'))
$$;
SET ROLE bob;
SELECT forge('a.s'::regclass, 200);
SELECT forge('a.s'::regclass, 32000000);
RESET ROLE;
INSERT INTO a.s VALUES (4, 'genuine');
EOF
is(sql(q{SELECT weir.wait_for('a.xs'); SELECT x, count FROM a.xs ORDER BY 1}), "\ngenuine|1\ntwo|1", 'forgeries are not counted');
is(() = slurp_file($node->logfile) =~ /was not written by pg_weir and is ignored/g, 1, 'and the log tells of the one that could have been ours');

# --------------------------------------------------- expressions that use slots

# A process has one replication slot; an expression of who may use slots must not
# get hold of the worker's, nor leave his own behind.  What it does to ours by name
# costs the others a moment.
sql(<<'EOF');
CREATE FUNCTION run(command text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE command;
	RETURN 'done';
EXCEPTION WHEN others THEN
	RETURN sqlstate;
END $$;
CREATE FUNCTION looks_pure(command text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS $$
DECLARE
	result text;
BEGIN
	SELECT public.run(command) INTO result;
	RETURN result;
END $$;
CREATE TABLE commands (id serial PRIMARY KEY, command text);
ALTER TABLE commands REPLICA IDENTITY FULL;
CREATE TABLE slots_used WITH (weir.continuous) AS
	SELECT command, looks_pure(command) AS r, count(*) FROM commands GROUP BY 1, 2;
SELECT weir.wait_for('slots_used'), weir.wait_for('a.ids');
SELECT pg_create_logical_replication_slot('theirs', 'test_decoding');
EOF
my $ours = 'pg_weir_' . sql('SELECT oid FROM pg_database WHERE datname = current_database()');
my ($pid) = $node->worker_pids('postgres');
for my $command (
	q{SELECT pg_create_physical_replication_slot('new')},
	q{SELECT count(*) FROM pg_logical_slot_peek_changes('theirs', NULL, NULL)},
	q{SELECT count(*) FROM pg_logical_slot_get_changes('theirs', NULL, NULL, 'nonsense', '1')},
	qq{SELECT pg_replication_slot_advance('$ours', pg_current_wal_flush_lsn())},
	qq{SELECT pg_drop_replication_slot('$ours')})
{
	sql('INSERT INTO commands (command) VALUES (' . sql_literal($command) . ')');
	# a commit that is confirmed to the slot
	sql(q{INSERT INTO a.s VALUES (3, 'three')}) if $command !~ /\Q$ours\E/;
	ok($node->wait_until(q{SELECT weir.wait_for('slots_used', '100 ms'), true}, '|t', 30), "the view goes on: $command")
	  if $command !~ /\Q$ours\E/;
	is(sql(q{SELECT count(*) FROM pg_replication_slots WHERE active AND slot_name IN ('theirs', 'new')}), '0',
		'and leaves no slot in use');
}
ok($node->wait_until(q{SELECT count(*) FROM weir.slot WHERE active}, '1', 30), 'a slot is read again');
is(($node->worker_pids('postgres'))[0], $pid, 'the worker lives');
sql(q{DROP TABLE slots_used; SELECT pg_drop_replication_slot('theirs'), pg_drop_replication_slot('new')});

# ------------------------------------------- an error may quote a row

sql(<<'EOF');
CREATE TABLE a.emp (id int PRIMARY KEY, salary text);
ALTER TABLE a.emp OWNER TO alice;
ALTER TABLE a.emp REPLICA IDENTITY FULL;
SET ROLE alice;
CREATE TABLE a.total WITH (weir.continuous) AS SELECT sum(salary::int) FROM a.emp;
GRANT SELECT ON a.total TO bob;
GRANT USAGE ON SCHEMA a TO bob;
SELECT weir.wait_for('a.total');
INSERT INTO a.emp VALUES (1, 'ssn 123-45');
EOF
$node->wait_until(q{SELECT sqlstate FROM weir.views WHERE view = 'a.total'::regclass}, '22P02', 20);
my $why = q{SELECT sqlstate, message, detail IS NULL FROM weir.views WHERE view = 'a.total'::regclass};
is(sql("SET ROLE alice; $why"), '22P02|invalid input syntax for type integer: "ssn 123-45"|f', 'the owner of a view is told why it stalls');
is(sql("SET ROLE bob; $why"), '22P02|the view is stalled|t', 'another reader is not: the error quotes a row');
my (undef, undef, $said) = $node->psql('postgres', q{SET ROLE bob; SELECT weir.wait_for('a.total')});
like($said, qr/the view is stalled/, 'nor by wait_for');
unlike($said, qr/ssn/, 'which does not quote it either');

done_testing();
