# What only a real Kafka does: transactions, control records, retention, new
# partitions, restarts, a topic deleted and made again.
use strict;
use warnings;

use Test::More;
use Time::HiRes qw(sleep time);
use WeirBroker;
use PostgreSQL::Test::Utils;
use WeirNode;

plan skip_all => 'needs the real broker (./check --kafka=real)'
  unless ($ENV{WEIR_KAFKA} || '') eq 'real';

my $broker = WeirBroker->new;
my $node = WeirNode->start_new('main', conf => "weir.max_workers = 16\nmax_worker_processes = 32\n");
create_kafka($node, $broker);

sub sql { return $node->safe_psql('postgres', @_) }

# A topic, its foreign table, and a view of what is in it.
sub stream
{
	my ($name, $partitions, %conf) = @_;
	$broker->create_topic($name, $partitions, %conf);
	table($name);
}

sub table
{
	my ($name) = @_;
	sql("CREATE FOREIGN TABLE $name (k text, n int, part int OPTIONS (metadata 'partition'), off bigint OPTIONS (metadata 'offset'))
		SERVER kafka OPTIONS (topic '$name')");
}

my $query = 'SELECT k, count(*) AS c, sum(n) AS s, sum(off) AS o FROM %s GROUP BY k';

sub view
{
	my ($name, $source, $options) = @_;
	sql("CREATE TABLE $name WITH (weir.continuous" . ($options ? ", $options" : '') . ") AS " . sprintf $query, $source);
}

sub row { my ($k, $n, $p) = @_; return [ $p || 0, $k, qq({"k": "$k", "n": $n}) ] }

# The view against what librdkafka reads with read_committed, folded by Postgres.
sub is_exact
{
	my ($view, $topic, $what) = @_;
	my $error = $node->error_of("SELECT weir.wait_for('$view', '60 s')");
	is($error, '', "$what: caught up") or diag(sql('SELECT * FROM weir.views') . "\n" . sql("SELECT * FROM weir.partitions WHERE view = '$view'::regclass"));
	my @values;
	for ($broker->consume($topic))
	{
		my ($p, $o, undef, undef, $v) = split /\t/;
		push @values, "($p, $o, " . sql_literal($v) . '::jsonb)';
	}
	my $expected = sql('SELECT j->>\'k\' AS k, count(*) AS c, sum((j->>\'n\')::int) AS s, sum(o) AS o FROM (VALUES '
		  . join(', ', @values) . ') v(p, o, j) GROUP BY 1 ORDER BY 1');
	is(sql("SELECT * FROM $view ORDER BY 1"), $expected, $what);
}

sub state_of { return sql("SELECT concat_ws(' ', state, sqlstate) FROM weir.views WHERE view = '$_[0]'::regclass") }

sub stalls
{
	my ($view, $message, $what) = @_;
	ok($node->wait_until("SELECT state FROM weir.views WHERE view = '$view'::regclass", 'stalled', 60), "$what: stalls");
	like(sql("SELECT concat_ws(' / ', sqlstate, message, detail, hint) FROM weir.views WHERE view = '$view'::regclass"), $message, "$what: says why");
}

# Aborted transactions leave offsets but no rows; control records end the topic.
{
	stream('txn', 2);
	view('v_txn', 'txn');
	$broker->transaction('txn', 'commit', map { row("a$_", $_, $_ % 2) } 1 .. 500);
	is_exact('v_txn', 'txn', 'a committed transaction, a control record at the end');
	$broker->transaction('txn', 'abort', map { row("a$_", 1000, $_ % 2) } 1 .. 700);
	is_exact('v_txn', 'txn', 'nothing but an aborted transaction is new');
	for my $round (1 .. 6)
	{
		$broker->transaction('txn', $round % 2 ? 'abort' : 'commit', map { row('a' . $_ % 50, $round, $_ % 2) } 1 .. 50);
		$broker->produce('txn', map { row("plain$_", $round, $_ % 2) } 1 .. 20) if $round % 3 == 0;
	}
	is_exact('v_txn', 'txn', 'committed, aborted and plain messages in turn');

	my $open = $broker->producer('txn', 'stays-open');
	$open->order('!begin');
	$open->send(row('open', 1, 0));
	$open->order('!flush');
	my $started = time;
	is_exact('v_txn', 'txn', 'what an open transaction holds is not there yet');
	cmp_ok(time - $started, '<', 20, 'wait_for does not wait for it');
	is(sql(q{SELECT count(*) FROM v_txn WHERE k = 'open'}), '0', 'nor does the view show it');
	$broker->produce('txn', row('behind', 1, 0), row('beside', 1, 1));
	ok($node->wait_until(q{SELECT count(*) FROM v_txn WHERE k = 'beside'}, '1'), 'other partitions go on');
	$open->order('!commit');
	$open->stop;
	is_exact('v_txn', 'txn', 'an open transaction that commits');

	$open = $broker->producer('txn', 'never-closed');
	$open->order('!begin');
	$open->send(map { row('never', 1, 0) } 1 .. 100);
	$open->order('!flush');
	$open->kill9;
	$broker->produce('txn', row('after', 1, 0));
	# whoever comes next with the same name fences the dead one off, and aborts
	$open = $broker->producer('txn', 'never-closed');
	$open->order('!begin');
	$open->order('!abort');
	$open->stop;
	is_exact('v_txn', 'txn', 'a producer that died');

	view('v_txn_late', 'txn');
	is_exact('v_txn_late', 'txn', 'a view made over all that');

	# the worker dies on a control record
	$broker->transaction('txn', 'abort', map { row('x', 1, $_ % 2) } 1 .. 10);
	$node->kill9_worker('postgres');
	is_exact('v_txn', 'txn', 'kill -9 after an aborted transaction');
	$node->crash_server;
	is_exact('v_txn', 'txn', 'a crash, with nothing new');
	$broker->transaction('txn', 'commit', row('last', 1));
	is_exact('v_txn', 'txn', 'and on');
	sql('DROP FOREIGN TABLE txn CASCADE');
}

# The broker goes and comes back, gently or not, while messages flow.
{
	stream('restarts', 2);
	view('v_restarts', 'restarts');
	for my $signal (qw(TERM KILL))
	{
		$broker->produce('restarts', map { row('a' . $_ % 10, $_, $_ % 2) } 1 .. 1000);
		$broker->restart($signal);
		$broker->produce('restarts', map { row('b' . $_ % 10, $_, $_ % 2) } 1 .. 1000);
		is_exact('v_restarts', 'restarts', "the broker restarts (SIG$signal)");
	}
	# down when the worker starts
	$broker->stop('KILL');
	$node->restart;
	ok($node->wait_until(q{SELECT state || ' ' || left(sqlstate, 2) FROM weir.views}, 'stalled 08', 60), 'no broker at the start: says so');
	like($node->error_of("SELECT weir.wait_for('v_restarts', '10 s')"), qr/^(08|57014)/, 'so does wait_for');
	is(sql('SELECT sum(c) FROM v_restarts'), '4000', 'the view stays readable');
	$broker->start;
	$broker->produce('restarts', row('c', 1));
	is_exact('v_restarts', 'restarts', 'and goes on by itself');
	ok($node->wait_until(q{SELECT state FROM weir.views}, 'running', 30), 'running');
	sql('DROP FOREIGN TABLE restarts CASCADE');
}

# The head of a topic goes.  Whoever was beyond it does not care.
{
	stream('heads', 1);
	$broker->produce('heads', map { row('a', $_) } 1 .. 100);
	view('v_beyond', 'heads');
	view('v_behind', 'heads');
	is_exact('v_beyond', 'heads', 'before');
	is_exact('v_behind', 'heads', 'before');
	sql("SELECT weir.pause('v_behind')");
	$broker->produce('heads', map { row('b', $_) } 1 .. 100);
	sql("SELECT weir.wait_for('v_beyond')");
	my $before = sql('TABLE v_beyond ORDER BY 1');
	$broker->delete_records('heads', 0, 150);
	$broker->produce('heads', row('c', 1));
	sql("SELECT weir.wait_for('v_beyond')");
	is(sql(q{SELECT * FROM v_beyond WHERE k <> 'c' ORDER BY 1}), $before, 'a view beyond the deleted head keeps what it has');
	is(sql(q{SELECT c FROM v_beyond WHERE k = 'c'}), '1', 'and goes on');
	$node->kill9_worker('postgres');
	$broker->produce('heads', row('c', 1));
	sql("SELECT weir.wait_for('v_beyond')");
	is(sql(q{SELECT c FROM v_beyond WHERE k = 'c'}), '2', 'after a restart, too');

	my $rows = sql('TABLE v_behind');
	sql("SELECT weir.resume('v_behind')");
	stalls('v_behind', qr/gone from the topic.*at offset 100.*begins at 150.*accept_loss/, 'a view behind the head');
	is(sql('TABLE v_behind'), $rows, 'it stays as it was');
	like($node->error_of("SELECT weir.wait_for('v_behind')"), qr/gone from the topic/, 'wait_for says the same');
	like($node->error_of("SELECT weir.rebuild('v_behind')"), qr/^55000/, 'a rebuild is refused');
	sql("SELECT weir.rebuild('v_behind', true)");
	is_exact('v_behind', 'heads', 'unless the loss is accepted');
	view('v_new', 'heads');
	is_exact('v_new', 'heads', 'a new view begins where the topic does');
	sql('DROP FOREIGN TABLE heads CASCADE');
}

# Retention that overtakes a running backfill is a gap, not a jump.
{
	stream('overtaken', 1);
	$broker->produce('overtaken', map { row('a', 1) } 1 .. 10);
	view('v_overtaken', 'overtaken');
	is_exact('v_overtaken', 'overtaken', 'before');
	sql('ALTER SYSTEM SET weir.enabled = off');
	$node->reload;
	$node->wait_until(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_weir worker'}, '0');
	$broker->produce('overtaken', map { row('a', 1) } 1 .. 10);
	$broker->delete_records('overtaken', 0, 20);
	sql('ALTER SYSTEM RESET weir.enabled');
	$node->reload;
	stalls('v_overtaken', qr/gone from the topic/, 'all that was unread is deleted');
	is(sql('SELECT c FROM v_overtaken'), '10', 'nothing was guessed');
	sql('DROP FOREIGN TABLE overtaken CASCADE');
}

# Partitions added later are found within a minute and read from 0.
{
	stream('grows', 1);
	view('v_grows', 'grows');
	$broker->produce('grows', row('a', 1, 0));
	is_exact('v_grows', 'grows', 'one partition');
	$broker->add_partitions('grows', 3);
	$broker->produce('grows', map { row('a', $_, $_ % 3) } 1 .. 300);
	my $started = time;
	ok($node->wait_until('SELECT c FROM v_grows', '301', 60), 'new partitions are read');
	diag(sprintf 'found after %.0f s', time - $started);
	is_exact('v_grows', 'grows', 'from their beginning');
	$node->kill9_worker('postgres');
	$broker->add_partitions('grows', 4);
	$broker->produce('grows', map { row('b', $_, $_ % 4) } 1 .. 400);
	is_exact('v_grows', 'grows', 'added while no worker looks');
	sql('DROP FOREIGN TABLE grows CASCADE');
}

# A topic of the same name is not the same topic.
{
	for my $case ([ 'shorter', 3 ], [ 'longer', 30 ])
	{
		my ($name, $n) = @$case;
		stream($name, 1);
		view("v_$name", $name);
		$broker->produce($name, map { row('a', $_) } 1 .. 10);
		is_exact("v_$name", $name, "the first $name topic");
		sql('ALTER SYSTEM SET weir.enabled = off');
		$node->reload;
		$node->wait_until(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_weir worker'}, '0');
		$broker->delete_topic($name);
		for (1 .. 50) { last if eval { $broker->create_topic($name, 1); 1 }; sleep 0.2 }
		$broker->produce($name, map { row('z', $_) } 1 .. $n);
		sql('ALTER SYSTEM RESET weir.enabled');
		$node->reload;
		stalls("v_$name", qr/made anew|not the one that the view has read/, "a topic made again, $name");
		is(sql("SELECT c FROM v_$name"), '10', 'nothing of it was read');
		sql("SELECT weir.rebuild('v_$name', true)");
		is_exact("v_$name", $name, 'a rebuild takes it as it is');
	}

	# beneath a running worker
	stream('vanishes', 1);
	view('v_vanishes', 'vanishes');
	$broker->produce('vanishes', map { row('a', $_) } 1 .. 10);
	is_exact('v_vanishes', 'vanishes', 'a topic');
	$broker->delete_topic('vanishes');
	stalls('v_vanishes', qr/./, 'deleted beneath its worker');
	is(sql('SELECT c FROM v_vanishes'), '10', 'the view stays');
	for (1 .. 50) { last if eval { $broker->create_topic('vanishes', 1); 1 }; sleep 0.2 }
	$broker->produce('vanishes', map { row('z', $_) } 1 .. 30);
	ok($node->wait_until(q{SELECT state = 'stalled' AND concat(message, detail) ~ 'made anew|not the one that the view has read'
		FROM weir.views WHERE view = 'v_vanishes'::regclass}, 't', 60), 'made again beneath its worker: stalls and says why');
	is(sql('SELECT c FROM v_vanishes'), '10', 'nothing of it was read');
	sql("DROP FOREIGN TABLE $_ CASCADE") for qw(shorter longer vanishes);
}

# Compaction: keys vanish from the middle; gaps in offsets are normal.
{
	stream('compacted', 1, 'cleanup.policy' => 'compact', 'segment.ms' => 200,
		'min.cleanable.dirty.ratio' => 0.01, 'max.compaction.lag.ms' => 500);
	for my $round (1 .. 6)
	{
		$broker->produce('compacted', map { row("k$_", $round) } 1 .. 20);
		sleep 0.3;
	}
	my $deadline = time + 40;
	my @left;
	sleep 0.5 until (@left = $broker->consume('compacted')) < 100 || time > $deadline;
	cmp_ok(scalar @left, '<', 120, 'the broker has compacted: ' . scalar(@left) . ' of 120 left');
	view('v_compacted', 'compacted');
	$broker->produce('compacted', row('more', 1));
	sql("SELECT weir.wait_for('v_compacted', '60 s')");
	is(sql('SELECT sum(c) >= 21 FROM v_compacted'), 't', 'a compacted topic is read');
	is(sql(q{SELECT s FROM v_compacted WHERE k = 'more'}), '1', 'to its end');
	is(state_of('v_compacted'), 'running', 'without a stall');
	$node->kill9_worker('postgres');
	$broker->produce('compacted', row('more', 2));
	sql("SELECT weir.wait_for('v_compacted', '60 s')");
	is(sql(q{SELECT s FROM v_compacted WHERE k = 'more'}), '3', 'and goes on after a restart');
	sql('DROP FOREIGN TABLE compacted CASCADE');
}

unlike(slurp_file($node->logfile), qr/PANIC|TRAP:|signal 11|signal 6/, 'no process crashed but on demand');
$node->stop;
done_testing;
