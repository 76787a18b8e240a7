# How often a view commits: as it was told, unless commits fall behind, or what they
# leave behind cannot be removed.  weir.views says so, and the view is right all
# the while.
#
# Time that is too long to wait for is passed by moving the clock; that a view
# commits rarely is seen by counting its commits.
use strict;
use warnings;

use Test::More;
use Time::HiRes qw(sleep time);
use WeirNode;
use WeirOracle;

my $node = WeirNode->start_new('main', conf => "include_if_exists = 'fault.conf'\nmax_prepared_transactions = 2\n");
sub sql { return $node->safe_psql('postgres', @_) }
my $oracle = WeirOracle->new($node, timeout => '60 s');

my $groups = 10_000;
sql(q{CREATE EXTENSION pg_weir;
	CREATE FUNCTION shift_clock(interval) RETURNS void LANGUAGE c AS 'pg_weir', 'weir_test_shift_clock';
	CREATE TABLE t (k int, n int);
	CREATE TABLE other (n int)});
$oracle->create('v', 'SELECT k, count(*) AS c, sum(n) AS s FROM t GROUP BY k', with => q{weir.append_only, weir.commit_interval = '100 ms'});

# Changes the first so many groups, once; then waits, if it is told to.
sub change
{
	my ($n, $wait) = @_;
	return sql("INSERT INTO t SELECT g, 1 FROM generate_series(1, $n) g;" . ($wait ? q{SELECT weir.wait_for('v', '60 s')} : ''));
}

# Changes every group, and has it committed, so many times
sub rounds
{
	my ($n) = @_;
	return sql("INSERT INTO t SELECT g, 1 FROM generate_series(1, $groups) g; SELECT weir.wait_for('v', '60 s');\n" x $n);
}
sub of_v { my ($what, $from) = @_; return sql("SELECT $what FROM weir." . ($from || 'views') . q{ WHERE view = 'v'::regclass}) }
sub size { return sql(q{SELECT pg_relation_size('v')}) }

# Until the view says so; the worker looks once a second, while it commits.
sub says
{
	my ($what, $why) = @_;
	my $deadline = time + 40;
	my $detail;
	do
	{
		rounds(1);
		$detail = of_v('detail');
	} until $detail =~ $what || time > $deadline;
	return like($detail, $what, $why);
}

# The interval in force, in seconds, as weir.views says
sub interval
{
	my ($n, $unit) = of_v('detail') =~ /commits every ([\d.]+) (ms|s)\b/ or return 0;
	return $unit eq 's' ? $n : $n / 1000;
}

sub ends
{
	my ($why) = @_;
	return ok($node->wait_until(q{SELECT detail IS NULL AND hint IS NULL AND message IS NULL
		FROM weir.views WHERE view = 'v'::regclass}, 't', 40), $why);
}

rounds(1);
$oracle->same('it works');
is(of_v('detail'), '', 'nothing is said of a view that commits as it was told');

# ---- a snapshot is held: what is left behind stays
my $holder = $node->background_psql('postgres');
$holder->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1');
my $pid = $holder->query_safe('SELECT pg_backend_pid()');
# an xid, for the horizon to be behind something
sql('INSERT INTO other VALUES (1)');
my $rounds = 8;
my $bytes = size();
rounds($rounds);
my $grown = size() - $bytes;
cmp_ok($grown, '>', 3 * $bytes, 'under a held snapshot v grows');

# ---- and that lasts
sql(q{SELECT shift_clock('10 minutes')});
says(qr/process $pid \(client backend\) has held the vacuum horizon at transaction \d+ since/, 'the view says who holds the horizon');
like(of_v('detail'), qr/^commits every .* instead of every 100 ms/, '... and what that does to it');
like(of_v('hint'), qr/^End what holds it/, '... and what to do');
is(of_v('state, message IS NULL, sqlstate IS NULL'), 'running|t|t', '... but that is no stall');
sql(q{SELECT shift_clock('1 minute')});
says(qr/process $pid\b/, '... and says so as long as it lasts');
$node->wait_for_log(qr/LOG:  continuous view "v" commits less often than weir.commit_interval says/);
pass('so does the log');

# As many changes as before, for which nobody waits
my $interval = interval();
cmp_ok($interval, '>', 0.2, "the interval is $interval s now");
my ($commits, $started) = (of_v('commits', 'stat_views'), time);
$bytes = size();
change($groups) for 1 .. $rounds;
my $most = (time - $started) / $interval + 1;
cmp_ok(of_v('commits', 'stat_views') - $commits, '<=', $most, 'commits are as rare as that');
sql(q{SELECT weir.wait_for('v', '60 s')});
SKIP:
{
	skip 'a slow machine', 1 if $most > $rounds / 2;
	cmp_ok(size() - $bytes, '<', $grown, '... and v grows by less');
}
$oracle->same('the view is right');

# ---- who waits is not kept waiting for it
rounds(30);
says(qr/commits every [45]/, 'the interval grows up to 5 s');
$started = time;
rounds(5);
cmp_ok(time - $started, '<', 5 * 3.5, 'weir.wait_for is not kept waiting');

# ---- a view that is paused commits nothing
my $logged = -s $node->logfile;
sql(q{SELECT weir.pause('v')});
is(of_v('state, detail'), 'paused|', 'a view that is paused says nothing of its pace');
sql(q{SELECT weir.resume('v')});
$oracle->same('it goes on');

# ---- it is over
rounds(5);
sql(q{SELECT shift_clock('10 minutes')});
says(qr/process $pid\b/, 'it says so again');
sql(q{SELECT shift_clock('1 minute')});
$node->wait_for_log(qr/LOG:  continuous view "v" commits less often/, $logged);
$holder->query_safe('COMMIT');
ends('when the snapshot goes, the view commits as it was told');
$node->wait_for_log(qr/LOG:  continuous view "v" commits every 100 ms again/, $logged);
pass('so says the log');
$commits = of_v('commits', 'stat_views');
rounds(4);
cmp_ok(of_v('commits', 'stat_views') - $commits, '>=', 4, 'and it does');
is(of_v('detail'), '', 'nothing more is said');
$oracle->same('the view is right after that');

# ---- a prepared transaction holds it as well
$holder->query_safe(q{BEGIN; INSERT INTO other VALUES (2); PREPARE TRANSACTION 'forgotten'});
rounds(5);
sql(q{SELECT shift_clock('10 minutes')});
says(qr/prepared transaction forgotten has held/, 'a prepared transaction is named');
sql(q{COMMIT PREPARED 'forgotten'});
ends('and it is over with that');

# ---- so does the slot of a standby that has gone while somebody read there; that
# of a subscriber holds the catalogs alone
sql(q{SELECT pg_create_physical_replication_slot('left_behind'); SELECT pg_create_logical_replication_slot('of_others', 'test_decoding')});
$node->backup('base');
my $standby = WeirNode->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->append_conf('postgresql.conf', "primary_slot_name = 'left_behind'\nhot_standby_feedback = on\nwal_receiver_status_interval = 1\n");
$standby->start;
my $reader = $standby->background_psql('postgres');
$reader->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM t');
ok($node->wait_until(q{SELECT xmin IS NOT NULL FROM pg_replication_slots WHERE slot_name = 'left_behind'}), 'a standby tells its slot what it reads');
$standby->stop('immediate');
# it has read what has ended since
sql('INSERT INTO other VALUES (3)');
rounds(5);
sql(q{SELECT shift_clock('10 minutes')});
says(qr/replication slot left_behind has held/, 'a slot is named');
sql(q{SELECT pg_drop_replication_slot('left_behind')});
ends('and it is over with that, whatever a slot of the catalogs holds');
sql(q{SELECT pg_drop_replication_slot('of_others')});
eval { $reader->quit };

# ---- commits that take long
$node->set_fault(join ',', map { "commit-before:sleep:$_" } 1 .. 40);
my $deadline = time + 60;
do { change(10); sleep 0.2 } until of_v('detail') =~ /because each takes/ || time > $deadline;
like(of_v('detail'), qr/^commits every .* instead of every 100 ms, because each takes/, 'commits that take long are said to');
cmp_ok(interval(), '>=', 0.2, '... and made rare');
like(of_v('hint'), qr/Raise weir.commit_interval/, '... with what to do');
$node->set_fault('');
$deadline = time + 60;
do { change(10, 1); sleep 0.1 } until of_v('detail') eq '' || time > $deadline;
ends('and it is over when they do not');
$oracle->same('the view is right after all');

$holder->quit;
$node->stop;
done_testing;
