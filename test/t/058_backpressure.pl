# When commits fall behind, intake waits, memory stays within its bounds, and the lag
# can be seen.
#
# Commits are slow (a fault of a second in each), or impossible (somebody holds a
# lock), or one has very much to do, while messages and rows come faster than that.
# What a worker has for itself is asked of the kernel (RssAnon) all the while, and what
# weir.partitions shows.  In the end every view is its query, and nothing is missing.
#
# The bounds are those of docs/operations.md, with some room for what a C library
# keeps.  WEIR_LONG=1: longer locks, more rows.
# The embedded broker suffices.
use strict;
use warnings;

use IPC::Run ();
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);
use WeirBroker;
use WeirNode;
use WeirOracle;

my $long = $ENV{WEIR_LONG};
my $broker = WeirBroker->new(topics => { slow => 4, shut => 1, poison => 1 });
my $node = WeirNode->start_new('main', conf => <<'EOF2');
include_if_exists = 'fault.conf'
weir.state_memory = 128MB
logical_decoding_work_mem = 4MB
max_wal_size = 4GB
EOF2
create_kafka($node, $broker);
my $oracle = WeirOracle->new($node, timeout => '100 s');
sub sql { return $node->safe_psql('postgres', @_) }
# a queue of a megabyte, so that a burst is more than it holds
sql('ALTER SERVER kafka OPTIONS (ADD queued_max_messages_kbytes \'1024\', ADD max_partition_fetch_bytes \'65536\', ADD fetch_max_bytes \'1048576\')');

# in MB
sub private
{
	my ($view) = @_;
	my $pid = sql("SELECT weir.worker_pid('$view')") or return 0;
	return slurp_file("/proc/$pid/status") =~ /^RssAnon:\s+(\d+) kB/m ? $1 / 1024 : 0;
}

# Is a view so far behind, in offsets or bytes and in seconds?
sub behind
{
	my ($view, $lag, $seconds) = @_;
	return "SELECT sum(lag) > $lag AND max(lag_seconds) > $seconds FROM weir.partitions WHERE view = '$view'::regclass";
}

# watch(view, until, seconds): looks until the query says 't' or the time is over;
# returns the greatest of what it saw
sub watch
{
	my ($view, $until, $seconds) = @_;
	my %most = (private => 0, lag => 0, lag_seconds => 0, state => 0);
	my $begun = time;
	while (time - $begun < $seconds)
	{
		my ($lag, $behind, $state, $done) = split /\|/, sql(
			"SELECT (SELECT coalesce(sum(lag), 0) FROM weir.partitions WHERE view = '$view'::regclass),
				(SELECT coalesce(max(lag_seconds), 0) FROM weir.partitions WHERE view = '$view'::regclass),
				(SELECT coalesce(sum(state_bytes), 0) FROM weir.stat_views), ($until)");
		my %now = (private => private($view), lag => $lag, lag_seconds => $behind, state => $state / 1024 / 1024);
		for (keys %now) { $most{$_} = $now{$_} if $now{$_} > $most{$_} }
		last if $done eq 't';
		sleep 0.05;
	}
	$most{took} = time - $begun;
	note(sprintf '%s: %s', $view, join ', ', map { sprintf '%s %.1f', $_, $most{$_} } sort keys %most);
	return %most;
}

# Nothing is behind any more.
sub caught_up
{
	my ($view, $why) = @_;
	ok($node->wait_until("SELECT bool_and(lag < 4096 AND lag_seconds < 2) FROM weir.partitions WHERE view = '$view'::regclass", 't', 60), "$why: the lag goes");
	return;
}

# ------------------------------------------------------------- slow commits

$oracle->section('slow commits over a topic', sub {
	sql('CREATE FOREIGN TABLE slow (id int, k int, t text) SERVER kafka OPTIONS (topic \'slow\')');
	$oracle->create('by_k', 'SELECT k, count(*) AS n, sum(id) AS ids FROM slow GROUP BY k',
		truth => 'SELECT i % 1000 AS k, count(*) AS n, sum(i) AS ids FROM generate_series(0, (SELECT sum(position::bigint) FROM weir.partitions WHERE view = \'by_k\'::regclass) - 1) i WHERE i % 3 = 0 GROUP BY 1', with => q{weir.commit_interval = '10 ms'});
	$broker->produce('slow', [ 0, undef, '{"id": 0, "k": 0}' ]);
	$oracle->same('it has begun', 'by_k');
	my $before = private('by_k');
	$node->set_fault('commit-begin:sleep:0,commit-before:sleep:0');
	$node->reload;
	# Commits that are slow come seldom, and have more to do each: so two in three
	# messages are bad, of which a commit takes ten thousand.
	$broker->produce('slow', map { [ $_ % 4, undef, sprintf '{"id": %d, "k": %s, "t": "%s"}', $_, $_ % 3 ? '"no number"' : $_ % 1000, 'x' x 100 ] } 1 .. 90_000);
	my %seen = watch('by_k', behind('by_k', 20_000, 3), 30);
	cmp_ok($seen{lag}, '>', 20_000, 'the lag is seen');
	cmp_ok($seen{lag_seconds}, '>', 2, 'in seconds, too');
	cmp_ok($seen{private} - $before, '<', 24, sprintf 'memory is bounded: %.1f MB more', $seen{private} - $before);
	cmp_ok(sql('SELECT rows_in FROM weir.stat_views'), '<', 90_000, 'intake waits for the commits');
	$node->set_fault('');
	$node->reload;
	$oracle->same('all of it is there', 'by_k');
	is(sql('SELECT rows_in, dead_letters FROM weir.stat_views'), '90001|60000', 'each message is counted once');
	caught_up('by_k', 'slow commits');
});

# ------------------------------------------------------------- a lock

# Somebody who holds a lock until he is told otherwise
sub lock_view
{
	my ($view) = @_;
	my %session = (in => "BEGIN; LOCK TABLE $view IN SHARE MODE; SELECT 'locked';\n", out => '');
	$session{run} = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres') ], '<', \$session{in}, '>', \$session{out}, IPC::Run::timer(120));
	$session{run}->pump until $session{out} =~ /locked/;
	return \%session;
}

sub unlock
{
	my ($session) = @_;
	$session->{in} .= "COMMIT;\n\\q\n";
	$session->{run}->finish;
	return;
}

$oracle->section('a lock on a view over a topic', sub {
	sql('CREATE FOREIGN TABLE shut (id int, k int) SERVER kafka OPTIONS (topic \'shut\')');
	my $q = 'SELECT k, count(*) AS n, sum(id) AS ids FROM shut GROUP BY k';
	my $heap = 'SELECT k, count(*) AS n, sum(id) AS ids FROM shut_heap GROUP BY k';
	sql('CREATE TABLE shut_heap (id int, k int)');
	$oracle->create($_, $q, truth => $heap, with => q{weir.commit_interval = '10 ms'}) for qw(locked free);
	my $id = 0;
	my $give = sub {
		my ($good, $bad) = @_;
		my @rows = map { [ ++$id, $id % 7 ] } 1 .. $good;
		$broker->produce('shut', (map { [ 0, undef, qq({"id": $_->[0], "k": $_->[1]}) ] } @rows), map { [ 0, undef, '{"id": ' . ('y' x 150) ] } 1 .. $bad);
		sql('INSERT INTO shut_heap VALUES ' . join ', ', map { "($_->[0], $_->[1])" } @rows);
	};
	$give->(10, 0);
	$oracle->same('they have begun', qw(locked free));
	my $before = private('locked');

	my $lock = lock_view('locked');
	$give->(1000, 0);
	ok($node->wait_until(q{SELECT state || ' ' || sqlstate FROM weir.views WHERE view = 'locked'::regclass}, 'stalled 55P03', 30), 'it says that it waits for a lock');
	my %first = watch('locked', behind('locked', 999, 1), 30);
	cmp_ok($first{lag}, '>=', 1000, 'and how far behind it is');
	cmp_ok($first{lag_seconds}, '>', 1, 'in seconds, too');
	my $seen = -s $node->logfile;
	$give->(3000, 12_000);
	my %second = watch('locked', $long ? 'false' : behind('locked', 10_000, $first{lag_seconds} + 2), 60);
	cmp_ok($second{lag_seconds}, '>', $first{lag_seconds}, 'which grows');
	cmp_ok($second{lag}, '>', $first{lag}, 'in messages, too');
	like(slurp_file($node->logfile, $seen), qr/"locked" reads no more until it can be locked/, 'when it has too much to keep, it reads no more');
	cmp_ok($second{private} - $before, '<', 32, sprintf 'memory is bounded: %.1f MB more', $second{private} - $before);
	$oracle->same('the other view goes on', 'free');

	unlock($lock);
	ok($node->wait_until(q{SELECT state FROM weir.views WHERE view = 'locked'::regclass}, 'running', 60), 'it goes on when it can');
	$oracle->same('all of it is there', qw(locked free));
	is(sql(q{SELECT string_agg(concat_ws(' ', rows_in, dead_letters), ', ') FROM weir.stat_views WHERE view IN ('locked'::regclass, 'free'::regclass)}),
		'16010 12000, 16010 12000', 'dead letters, too, each once');
	caught_up('locked', 'a lock');
});

$oracle->section('a lock on a view over a table', sub {
	sql('CREATE TABLE t (id int PRIMARY KEY, k int); ALTER TABLE t REPLICA IDENTITY FULL; INSERT INTO t SELECT g, g % 10 FROM generate_series(1, 100) g');
	my $q = 'SELECT k, count(*) AS n, sum(id) AS ids FROM t GROUP BY k';
	$oracle->create($_, $q, with => q{weir.commit_interval = '10 ms'}) for qw(t_locked t_free);
	$oracle->create('t_bad', 'SELECT 100 / k AS r, count(*) AS n FROM t GROUP BY 1',
		truth => 'SELECT 100 / k AS r, count(*) AS n FROM t WHERE k <> 0 GROUP BY 1',
		with => q{weir.on_error = 'dead_letter', weir.append_only = 'ignore', weir.commit_interval = '10 ms'});
	$oracle->same('they have begun', qw(t_locked t_free t_bad));
	my @locks = map { lock_view($_) } qw(t_locked t_bad);
	sql('INSERT INTO t SELECT g, g % 10 FROM generate_series(101, 2000) g');
	ok($node->wait_until(q{SELECT count(*) FROM weir.views WHERE view IN ('t_locked'::regclass, 't_bad'::regclass) AND sqlstate = '55P03'}, '2', 30), 'both wait for a lock');
	my %first = watch('t_locked', behind('t_locked', 1000, 0.5), 30);
	my $seen = -s $node->logfile;
	# those with k = 0 are too many dead letters to keep
	sql('INSERT INTO t SELECT g, CASE WHEN g % 2 = 0 THEN 0 ELSE g % 10 END FROM generate_series(2001, 32000) g');
	my %second = watch('t_locked', $long ? 'false' : behind('t_locked', $first{lag}, $first{lag_seconds} + 2), 60);
	$node->wait_for_log(qr/"t_bad" reads no more/, $seen);
	cmp_ok($first{lag}, '>', 1000, 'the lag is seen, in bytes');
	cmp_ok($second{lag}, '>', $first{lag}, 'and grows');
	cmp_ok($first{lag_seconds}, '>', 0.5, 'in seconds');
	cmp_ok($second{lag_seconds}, '>', $first{lag_seconds} + 2, 'and grows');
	cmp_ok($second{lag_seconds}, '<', 120, 'counted from when it fell behind');
	like(slurp_file($node->logfile, $seen), qr/"t_bad" reads no more until it can be locked/, 'one has too much to keep');
	unlike(slurp_file($node->logfile, $seen), qr/"t_locked" reads no more/, 'the other has not');
	$oracle->same('a third goes on', 't_free');
	sql('UPDATE t SET k = k + 1 WHERE id < 50; DELETE FROM t WHERE id BETWEEN 60 AND 70');
	unlock($_) for @locks;
	$oracle->same('all of it is there', qw(t_locked t_free));
	ok($node->wait_until(q{SELECT dead_letters FROM weir.stat_views WHERE view = 't_bad'::regclass}, '15200', 60), 'dead letters, too, each once');
	caught_up($_, 'a lock') for qw(t_locked t_bad);
});

# ------------------------------------------------------------- one big transaction

$oracle->section('a transaction of which all is late', sub {
	my $rows = $long ? 1_000_000 : 250_000;
	sql('CREATE FOREIGN TABLE pushed (id int, k int, ts timestamptz) SERVER weir_stream');
	sql(q{CREATE TABLE late WITH (weir.continuous, weir.late = 'side_output', weir.commit_interval = '10 ms') AS
		SELECT k, weir.tumble(ts, '1 minute') AS win, count(*) AS n, sum(id) AS ids FROM pushed GROUP BY k, win});
	sql(q{INSERT INTO pushed VALUES (0, 1, '2026-01-01 12:00Z'); SELECT weir.wait_for('late')});
	my $before = private('late');
	sql("INSERT INTO pushed SELECT g, g % 10, '2026-01-01 11:00Z' FROM generate_series(1, $rows) g");
	my %seen = watch('late', "SELECT late_side >= $rows FROM weir.stat_views WHERE view = 'late'::regclass", 120);
	cmp_ok($seen{private} - $before, '<', 64, sprintf 'memory is bounded: %.1f MB more', $seen{private} - $before);
	cmp_ok($seen{lag_seconds}, '>', 0.5, 'the lag is seen');
	is(sql('SELECT count(*), count(DISTINCT "row"->>\'id\') FROM weir.late_rows'), "$rows|$rows", 'each is a late row, once');
	is(size_of_files($node->data_dir . '/base/pgsql_tmp'), 0, 'no temporary file is left');
	sql(q{SELECT weir.delete_late_rows('late')});
	caught_up('late', 'late rows');
});

sub size_of_files { my ($dir) = @_; my $sum = 0; $sum += -s $_ || 0 for glob "$dir/*"; return $sum }

$oracle->section('a transaction of a million rows and many groups', sub {
	my $groups = $long ? 600_000 : 200_000;
	sql('CREATE TABLE big (id int, k int); ALTER TABLE big REPLICA IDENTITY FULL');
	$oracle->create('of_big', 'SELECT k, count(*) AS n, sum(id) AS ids FROM big GROUP BY k', with => q{weir.commit_interval = '10 ms'});
	$oracle->same('it has begun', 'of_big');
	my $before = private('of_big');
	sql("INSERT INTO big SELECT g, g % $groups FROM generate_series(1, 1000000) g");
	my %seen = watch('of_big', 'SELECT rows_in >= 1000000 FROM weir.stat_views WHERE view = \'of_big\'::regclass', 120);
	# what is decoded, and what a commit needs for each group
	my $bound = 64 + 16 + 16 + $groups * 250 / 1024 / 1024;
	cmp_ok($seen{private} - $before, '<', $bound, sprintf 'memory is bounded: %.1f MB more of %.1f', $seen{private} - $before, $bound);
	cmp_ok($seen{state}, '<=', 128, 'states are within weir.state_memory');
	cmp_ok($seen{lag}, '>', 1_000_000, 'the lag is seen');
	$oracle->same('all of it is there', 'of_big');
	caught_up('of_big', 'a big transaction');
	sql('DROP TABLE big CASCADE');
	$oracle->forget('of_big');
});

$oracle->section('a long interval', sub {
	sql('CREATE FOREIGN TABLE many (k int) SERVER weir_stream');
	sql(q{CREATE TABLE hourly WITH (weir.continuous, weir.commit_interval = '1 hour') AS SELECT k, count(*) AS n FROM many GROUP BY k});
	ok($node->wait_until(q{SELECT state FROM weir.views WHERE view = 'hourly'::regclass}, 'running', 30), 'it runs');
	my $commits = sql(q{SELECT commits FROM weir.stat_views WHERE view = 'hourly'::regclass});
	sql('INSERT INTO many SELECT g FROM generate_series(1, 300000) g');
	ok($node->wait_until(q{SELECT count(*) FROM hourly}, '300000', 60), 'a view commits when very much has changed, however long its interval');
	cmp_ok(sql(q{SELECT commits FROM weir.stat_views WHERE view = 'hourly'::regclass}), '<=', $commits + 1, 'once');
});

# ------------------------------------------------------------- dead letters

$oracle->section('dead letters are bounded', sub {
	sql(q{ALTER SYSTEM SET weir.max_dead_letters = 500; ALTER SYSTEM SET weir.max_late_rows = 200; SELECT pg_reload_conf()});
	sql('CREATE FOREIGN TABLE poison (k int) SERVER kafka OPTIONS (topic \'poison\')');
	sql('CREATE TABLE p WITH (weir.continuous, weir.commit_interval = \'10 ms\') AS SELECT count(*) AS n FROM poison');
	my $kept = q{SELECT count(*) FROM weir.dead_letters WHERE view = 'p'::regclass};
	$broker->produce('poison', map { [ 0, undef, "poison $_" ] } 0 .. 499);
	sql(q{SELECT weir.wait_for('p')});
	is(sql($kept), 500, 'as many as are kept');
	is(sql(q{SELECT weir.delete_dead_letters('p')}), 500, 'their owner deletes them');
	$broker->produce('poison', map { [ 0, undef, "poison $_" ] } 500 .. 999);
	sql(q{SELECT weir.wait_for('p')});
	$broker->produce('poison', map { [ 0, undef, "poison $_" ] } 1000 .. 2999);
	sql(q{SELECT weir.wait_for('p')});
	ok($node->wait_until("SELECT ($kept) <= 550", 't', 40), 'the newest are kept');
	is(sql(q{SELECT max("offset"), min("offset") >= 2400 FROM weir.dead_letters WHERE view = 'p'::regclass}), '2999|t', 'and no others');
	is(sql(q{SELECT dead_letters FROM weir.stat_views WHERE view = 'p'::regclass}), 3000, 'all are counted');

	sql("INSERT INTO pushed SELECT g, g % 10, '2026-01-01 10:00Z' FROM generate_series(1, 1000) g; SELECT weir.wait_for('late')");
	ok($node->wait_until(q{SELECT count(*) <= 220 FROM weir.late_rows}, 't', 40), 'late rows, too');
	is(sql(q{SELECT max(("row"->>'id')::int) FROM weir.late_rows}), 1000, 'the newest');
	# another worker counts them before it deletes more
	sql(q{ALTER SYSTEM SET weir.max_dead_letters = 100; SELECT pg_reload_conf(); SELECT pg_terminate_backend(weir.worker_pid('p'))});
	ok($node->wait_until("SELECT ($kept) <= 110", 't', 40), 'a lower limit holds after a restart of the worker');
	is(sql('SELECT n FROM p'), 0, 'the view is what it is');
});

$node->stop;
done_testing;
