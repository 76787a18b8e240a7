# Push streams, from INSERT to the view: every row that was committed is in the
# view exactly once, whatever is killed meanwhile.  Each transaction writes the
# same rows into a stream and into a table, so the oracle is the view's query over
# the table.
use strict;
use warnings;

use IPC::Run ();
use Test::More;
use Time::HiRes qw(sleep time);
use PostgreSQL::Test::Utils;
use WeirNode;

my $node = WeirNode->start_new('main', conf => "max_prepared_transactions = 10\n");
my $q = 'SELECT k, count(*) AS n, sum(id) AS ids, max(length(v)) AS longest FROM %s GROUP BY k';

sub sql { return $node->safe_psql('postgres', @_) }

# same(name): the view is what its query says over the table
sub same
{
	my ($name) = @_;
	sql("SELECT weir.wait_for('view', '60 s')");
	my $expected = sprintf $q, 'kept';
	my $differ = sql("(TABLE view EXCEPT ALL $expected) UNION ALL ($expected EXCEPT ALL TABLE view)");
	is($differ, '', $name)
	  or diag(sql("SELECT state, sqlstate, message FROM weir.views"));
}

sql(<<"EOF2");
CREATE EXTENSION pg_weir;
CREATE FOREIGN TABLE pushed (id bigint NOT NULL, k int, v text) SERVER weir_stream;
CREATE TABLE kept (id bigint NOT NULL, k int, v text);
CREATE TABLE view WITH (weir.continuous, weir.commit_interval = '20 ms') AS @{[sprintf $q, 'pushed']};
EOF2

# ---- the first INSERT waits for the first slot
{
	my ($in, $out, $timer) = ('', '', IPC::Run::timer(60));
	my $writer = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres') ],
		'<', \$in, '>', \$out, $timer);
	sql(q{INSERT INTO pushed VALUES (1, 1, 'first')});
	sql(q{INSERT INTO kept VALUES (1, 1, 'first')});
	same('the first row');

	# a transaction that stays open does not hold up others, and comes when it commits
	$in = "BEGIN; INSERT INTO pushed VALUES (2, 1, 'late'); INSERT INTO kept VALUES (2, 1, 'late'); SELECT 'in';\n";
	$writer->pump until $out =~ /in/;
	sql(q{BEGIN; INSERT INTO pushed VALUES (3, 1, 'early'); INSERT INTO kept VALUES (3, 1, 'early'); COMMIT});
	same('a row that is not committed is not in the view');
	$in = "COMMIT;\n\\q\n";
	$writer->finish;
	same('when it is committed, it is');
}

# ---- transactions of every kind
sql(<<'EOF2');
BEGIN;
INSERT INTO pushed SELECT g, g % 7, 'rolled back' FROM generate_series(1000, 9000) g;
ROLLBACK;
BEGIN;
INSERT INTO pushed SELECT g, g % 7, 'one' FROM generate_series(10, 90) g;
INSERT INTO kept SELECT g, g % 7, 'one' FROM generate_series(10, 90) g;
SAVEPOINT a;
INSERT INTO pushed SELECT g, g % 7, 'undone' FROM generate_series(1000, 20000) g;
ROLLBACK TO a;
INSERT INTO pushed VALUES (100, NULL, NULL);
INSERT INTO kept VALUES (100, NULL, NULL);
COMMIT;
COPY kept FROM stdin;
201	3	copied
202	3	\N
203	\N	copied
\.
COPY pushed FROM stdin;
201	3	copied
202	3	\N
203	\N	copied
\.
BEGIN;
INSERT INTO pushed SELECT g, g % 3, repeat('x', g) FROM generate_series(1, 3000) g;
INSERT INTO kept SELECT g, g % 3, repeat('x', g) FROM generate_series(1, 3000) g;
PREPARE TRANSACTION 'two phases';
EOF2
same('a prepared transaction is not in the view');
sql(q{COMMIT PREPARED 'two phases'});
same('when it is committed, it is');

# ---- what somebody else writes under our prefix
my $positions = "SELECT sum(rows_in) FROM weir.stat_views";
my $before = sql($positions);
sql(<<'EOF2');
BEGIN;
INSERT INTO kept VALUES (300, 3, 'true');
INSERT INTO pushed VALUES (300, 3, 'true');
DO $$
DECLARE
	header bytea = '\x31524957'::bytea || '\x0100'::bytea || '\x0300'::bytea;
	stream bytea = (SELECT substring(b FROM 4 FOR 1) || substring(b FROM 3 FOR 1) ||
		substring(b FROM 2 FOR 1) || substring(b FROM 1 FOR 1)
		FROM int4send('pushed'::regclass::oid::int) b);
BEGIN
	FOR len IN 0 .. 400 LOOP
		PERFORM pg_logical_emit_message(true, 'pg_weir',
			substring(header || stream || decode(repeat('ff00', 400), 'hex') FOR len));
		PERFORM pg_logical_emit_message(true, 'pg_weir',
			header || stream || decode(repeat('00', len), 'hex'));
	END LOOP;
	PERFORM pg_logical_emit_message(false, 'pg_weir', header || stream || decode(repeat('01', 100), 'hex'));
END $$;
COMMIT;
EOF2
same('forged messages are not believed');
is(sql($positions) - $before, 1, 'nor counted as rows');

# ---- kill -9 of the worker and of the server, under several writers
sub writer
{
	my ($n) = @_;
	my $script = '';
	for my $i (1 .. 150)
	{
		my $id = 10_000_000 * $n + 1000 * $i;
		my $many = $i % 20 == 0 ? 900 : 1 + $i % 4;
		my $rows = "SELECT g, g % 50, repeat('y', (g % 30)::int) FROM generate_series($id, $id + $many) g";
		$script .= "BEGIN; INSERT INTO kept $rows; SAVEPOINT s; INSERT INTO pushed $rows;\n";
		$script .= "ROLLBACK TO s; INSERT INTO pushed $rows;\n" if $i % 5 == 0;
		$script .= ($i % 7 == 0 ? "ROLLBACK" : "COMMIT") . "; SELECT pg_sleep(0.005);\n";
	}
	return $script;
}

sub start_writers
{
	return map {
		my ($in, $out) = (writer($_), '');
		IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres') ],
			'<', \$in, '>', \$out, '2>', \my $err, IPC::Run::timer(60));
	} @_;
}

my $base = 1;
for my $what (qw(nothing worker server))
{
	my @writers = start_writers($base .. $base + 2);
	$base += 3;
	sleep 0.4;
	$node->kill9_worker('postgres') if $what eq 'worker';
	$node->crash_server if $what eq 'server';
	$_->finish for @writers;
	$node->wait_ready;
	same("three writers at once; killed: $what");
}
cmp_ok(sql('SELECT count(*) FROM kept'), '>', 5000, 'and they had written something');

# ---- a dump has neither the key nor rows
my ($dump, $error) = ('', '');
IPC::Run::run([ 'pg_dump', '-d', $node->connstr('postgres') ], '>', \$dump, '2>', \$error);
like($dump, qr/CREATE FOREIGN TABLE public\.pushed/, 'a dump has the stream');
unlike($dump, qr/secret/, 'and not the key');

# ---- without logical WAL nothing could be read
$node->append_conf('postgresql.conf', "wal_level = replica\n");
sql(q{SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE NOT active});
sql('ALTER SYSTEM SET weir.enabled = off; SELECT pg_reload_conf()');
ok($node->wait_until(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_weir worker'}, '0'),
	'the worker leaves');
sql(q{SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots});
$node->restart;
like($node->error_of(q{INSERT INTO pushed VALUES (1, 1, 'x')}),
	qr/^55000: cannot insert into push stream "pushed" while wal_level is below logical/,
	'INSERT says that wal_level is too low');

$node->stop;
done_testing();
