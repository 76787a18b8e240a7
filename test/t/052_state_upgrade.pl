# What is stored of a view names its format and has a checksum (a message of a push
# stream a MAC): one of another version of pg_weir, or damaged, stalls the view that
# it belongs to, with a code and what to do; other views go on, and a rebuild repairs
# it.
#
# Stored are the states of groups (weir_data.state_<id>), the lateness of partitions
# (weir_data.positions) and, in the WAL, messages of push streams.  All else is in
# columns of the catalog, or is a file of a process that is made anew.
use strict;
use warnings;

use Test::More;
use PostgreSQL::Test::Utils;
use WeirNode;

my $node = WeirNode->start_new('main');

sub sql { return $node->safe_psql('postgres', @_) }


my %q = (
	damaged => 'SELECT k, count(*) AS n, sum(x) AS s, max(t) AS m FROM source GROUP BY k',
	measured => "SELECT k, weir.tumble(ts, '1 minute') AS win, count(*) AS n FROM source GROUP BY k, win",
	other => 'SELECT k, count(*) AS n, min(t) AS m FROM source GROUP BY k');

sql(<<"EOF");
CREATE EXTENSION pg_weir;
CREATE TABLE source (k int, x numeric, t text, ts timestamptz);
ALTER TABLE source REPLICA IDENTITY FULL;
INSERT INTO source SELECT g % 20, g / 7.0, repeat('a text, ', g % 20) || g, '2024-01-01'::timestamptz + g * interval '1 s' - g % 3 * interval '5 s'
	FROM generate_series(1, 2000) g;
CREATE TABLE damaged WITH (weir.continuous, weir.commit_interval = '20 ms') AS $q{damaged};
CREATE TABLE measured WITH (weir.continuous, weir.commit_interval = '20 ms', weir.watermark = 'p90') AS $q{measured};
CREATE TABLE other WITH (weir.continuous, weir.commit_interval = '20 ms') AS $q{other};
CREATE FUNCTION weir_test_sign(bytea) RETURNS bytea AS '\$libdir/pg_weir', 'weir_test_sign' LANGUAGE C;
EOF
my $more = q{INSERT INTO source SELECT g % 20, g, 'more', '2024-01-01 01:00'::timestamptz + g * interval '1 s' FROM generate_series(1, 100) g};

# same(view, source, what): the view is what its query says
sub same
{
	my ($view, $what) = @_;
	my $wait = $node->psql('postgres', "SELECT weir.wait_for('$view', '60 s')", stderr => \my $err);
	is($wait == 0 ? sql("(TABLE $view EXCEPT ALL $q{$view}) UNION ALL ($q{$view} EXCEPT ALL TABLE $view)") : $err, '', $what);
	return;
}

# stalls(view, sqlstate, message, hint, what)
sub stalls
{
	my ($view, $sqlstate, $message, $hint, $what) = @_;
	$node->wait_until("SELECT state FROM weir.views WHERE view = '$view'::regclass", 'stalled', 60);
	my ($got, $said, $advice) = split /\|/, sql("SELECT sqlstate, message, hint FROM weir.views WHERE view = '$view'::regclass");
	is($got, $sqlstate, "$what: SQLSTATE");
	like($said, $message, "$what: message");
	like($advice, $hint, "$what: hint");
	return;
}

# with_paused(view, statement): changes what is stored, and lets what the worker
# has in memory go
sub with_paused
{
	my ($view, $statement) = @_;
	sql("SELECT weir.pause('$view')");
	sql($statement);
	sql("SELECT pg_terminate_backend(weir.worker_pid('other'), 60000)");
	sql("SELECT weir.resume('$view')");
	return;
}

sub id_of { return sql("SELECT id FROM weir_data.views WHERE relid = '$_[0]'::regclass") }

same($_, "$_ to begin with") for sort keys %q;

# ---- the states of groups

my $states = 'weir_data.state_' . id_of('damaged');
my $of_another_version = qr/^Install the version of pg_weir that wrote (?:them|it), or run weir\.rebuild on the view\.$/;
my $rebuild = qr/^Run weir\.rebuild on the view\.$/;

# damage(view, statement, sqlstate, message, hint, what): a change of the catalog
# stalls the view, not the other one, and a rebuild repairs it
sub damage
{
	my ($view, $statement, $sqlstate, $message, $hint, $what) = @_;
	with_paused($view, $statement);
	# a state may be looked at only when a row of its group comes
	sql($more);
	stalls($view, $sqlstate, $message, $hint, $what);
	same('other', "$what: the other view goes on");
	sql("SELECT weir.rebuild('$view')");
	# an attempt of the old life that failed may be told of once more
	$node->wait_until("SELECT weir.wait_for('$view', '60 s') IS NOT NULL", 't', 60);
	same($view, "$what: a rebuild repairs it");
	return;
}

sub flip { my ($column, $at) = @_; return "set_byte($column, $at, get_byte($column, $at) # 255)" }

damage('damaged', "UPDATE $states SET state = set_byte(state, 0, 99)",
	'0A000', qr/^stored states have format 99, this pg_weir reads \d+$/, $of_another_version, 'states of another version');
for my $case ([ 8, 'a length' ], [ 'length(state) - 1', 'a value' ])
{
	my ($at, $what) = @$case;
	damage('damaged', "UPDATE $states SET state = " . flip('state', $at),
		'XX001', qr/^a stored state is damaged$/, $rebuild, "states with a damaged byte in $what");
}
# ---- the lateness of partitions

my $of_measured = "FROM weir_data.positions WHERE view_id = '" . id_of('measured') . "'";
is(sql("SELECT count(*) > 0 AND bool_and(length(lateness) > 5) $of_measured"), 't', 'lateness is stored');
(my $set = "UPDATE weir_data.positions SET lateness = NEW WHERE view_id = '" . id_of('measured') . "'");
for my $case (
	[ 'set_byte(lateness, 0, 99)', '0A000', qr/^stored lateness has format 99, this pg_weir reads \d+$/, $of_another_version, 'lateness of another version' ],
	[ flip('lateness', 'length(lateness) - 1'), 'XX001', qr/^the stored lateness of a partition is damaged$/, $rebuild, 'damaged lateness' ])
{
	my ($new, @rest) = @$case;
	# a rebuild has emptied it
	sql($more);
	same('measured', 'rows whose lateness is measured');
	damage('measured', $set =~ s/NEW/$new/r, @rest);
}

# ---- messages of push streams

sql(<<'EOF');
CREATE FOREIGN TABLE pushed (k int, t text) SERVER weir_stream;
CREATE FOREIGN TABLE pushed_too (k int, t text) SERVER weir_stream;
CREATE TABLE of_pushed WITH (weir.continuous, weir.commit_interval = '20 ms') AS SELECT k, count(*) AS n FROM pushed GROUP BY k;
CREATE TABLE of_pushed_too WITH (weir.continuous, weir.commit_interval = '20 ms') AS SELECT k, count(*) AS n FROM pushed_too GROUP BY k;
SELECT weir.wait_for('of_pushed');
SELECT pg_create_logical_replication_slot('looks', 'test_decoding');
INSERT INTO pushed VALUES (1, 'as it should be');
SELECT weir.wait_for('of_pushed');
CREATE TABLE message AS
	SELECT substring(data FROM position('content:'::bytea IN data) + 8) AS bytes
	FROM pg_logical_slot_get_binary_changes('looks', NULL, NULL, 'skip-empty-xacts', '1')
	WHERE substring(data FOR 41) = 'message: transactional: 1 prefix: pg_weir'::bytea;
EOF
is(sql('SELECT count(*) FROM message'), 1, 'a message to begin with');
sub emit { my ($change) = @_; return "SELECT pg_logical_emit_message(true, 'pg_weir', $change) IS NOT NULL FROM message" }

# what is genuine but for its transaction is a forgery, of whatever version
sql(emit($_)) for 'bytes', 'set_byte(bytes, 4, 99)';
sql("INSERT INTO pushed VALUES (2, 'another'); SELECT weir.wait_for('of_pushed')");
is(sql('SELECT * FROM of_pushed ORDER BY k'), "1|1\n2|1", 'forgeries are ignored');

for my $case (
	[ 'set_byte(bytes, 4, 99)', '0A000', qr/^a message of a push stream has format 99, this pg_weir reads \d+$/, 'a message of another version' ],
	[ 'substr(bytes, 1, length(bytes) - 8)', 'XX001', qr/^a message of a push stream is broken$/, 'a message that is cut off' ],
	[ 'set_byte(bytes, 36, 99)', 'XX001', qr/^a message of a push stream is broken$/, 'a message with a column that is none' ])
{
	my ($change, $sqlstate, $message, $what) = @$case;
	my $before = sql('SELECT * FROM of_pushed ORDER BY k');
	sql("BEGIN; INSERT INTO pushed VALUES (7, 'in the same transaction'); " . emit("weir_test_sign($change)") . '; COMMIT');
	stalls('of_pushed', $sqlstate, $message, qr/weir\.rebuild\(view, true\)/, $what);
	is(sql('SELECT * FROM of_pushed ORDER BY k'), $before, "$what: nothing of its transaction is in the view");
	sql("INSERT INTO pushed_too VALUES (1, 'goes on'); SELECT weir.wait_for('of_pushed_too')");
	same('other', "$what: views over tables go on");
	sql("SELECT weir.rebuild('of_pushed', true)");
	sql("SELECT weir.wait_for('of_pushed', '60 s')");
	sql("INSERT INTO pushed VALUES (3, 'a new life'); SELECT weir.wait_for('of_pushed', '60 s')");
	is(sql('SELECT * FROM of_pushed'), '3|1', "$what: rebuilt, it begins anew");
}
is(sql('SELECT n FROM of_pushed_too'), 3, 'the other stream has lost nothing');

$node->stop;
done_testing();
