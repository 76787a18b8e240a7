# Groups that memory has no room for live in the state table (src/runtime/evict.c, fault_in.c):
# views are what Postgres computes, whatever the share of their groups that is on
# disk.
#
# weir.test_groups says how many groups a view may keep in memory once they are
# clean, so a handful of rows does what millions would.  The last sections have a
# small weir.state_memory instead.
#
# Sections have sources of their own and go on where another has failed; those
# named on the command line run alone.  WEIR_LONG runs all of them, for six minutes.
# The embedded broker suffices.
use strict;
use warnings;

use Test::More;
use Time::HiRes qw(sleep time);
use PostgreSQL::Test::Utils;
use WeirBroker;
use WeirNode;
use WeirOracle;
use WeirRows;
use WeirTime;

my $long = $ENV{WEIR_LONG};
my $broker = WeirBroker->new;
my $node = WeirNode->start_new('main', conf => <<'EOF2');
max_worker_processes = 24
weir.max_workers = 8
include_if_exists = 'fault.conf'
EOF2
create_kafka($node, $broker);
my $oracle = WeirOracle->new($node, timeout => '40 s');
my $time = WeirTime->new($node, broker => $broker);

sub sql { return $node->safe_psql('postgres', @_) }
sub error_of { return $node->error_of(@_) }

my $rows = WeirRows->new($node, oracle => $oracle, broker => $broker, time => $time);
my ($sums, %shapes) = ($WeirRows::sums, %WeirRows::shapes);
sub keep_groups { return $rows->keep_groups(@_) }
sub memory { return $rows->memory(@_) }
sub stat_of { return $rows->stat_of(@_) }
sub away { return $rows->away(@_) }
sub state_table { return $rows->state_table(@_) }
sub source { return $rows->source(@_) }
sub give { return $rows->give(@_) }
sub drop { return $rows->drop(@_) }
sub reconcile { return $rows->reconcile(@_) }
sub view { return $rows->view(@_) }
sub views_over { return $rows->views_over(@_) }
sub without_late { return WeirRows::without_late(@_) }

sub exact { local $Test::Builder::Level = $Test::Builder::Level + 1; return $rows->exact(@_) }
sub comes_to { local $Test::Builder::Level = $Test::Builder::Level + 1; return $rows->comes_to(@_) }

# ------------------------------------------------- every window, every source

for my $case ($long ? ([ 'topic', 4 ], [ 'stream', 1 ]) : (), [ 'table', 16 ])
{
	my ($kind, $groups) = @$case;
	my $s = "all_$kind";
	$oracle->section("every kind of view over a $kind, $groups groups in memory", sub {
		keep_groups($groups);
		source($kind, $s);
		my @views = views_over($s);
		give($s, 400);
		give($s, 50, ts => 'NULL');
		give($s, 1, ts => 'moment(' . ($rows->last_id + 200) . ')');
		exact("$kind: windows close while their groups are on disk", @views);
		# numbers are of the last commit, and groups leave after it
		give($s, 1, ts => 'moment(' . $rows->last_id . ')');
		exact("$kind: once more", @views);
		my ($in_memory, $on_disk) = stat_of("flat_$s");
		ok($on_disk == 23 && $in_memory < 23, "$kind: groups in memory and on disk: $in_memory and $on_disk");
		cmp_ok(away("$_\_$s"), '>', 0, "$kind: some of $_ are on disk only") for qw(tumf hop ses);
		give($s, 200, ts => 'moment(i - 500)');
		give($s, 20, ts => 'NULL', k => "'new ' || i");
		exact("$kind: late rows come to groups on disk", @views);
		give($s, 100, ts => 'moment(i * 3)', k => "CASE WHEN i % 2 = 0 THEN 'k1' END", x => 'i % 7 + 0.50');
		exact("$kind: keys that are NULL", @views);
		if ($kind eq 'table')
		{
			sql("UPDATE $s SET n = n + 1, x = x + 1.00 WHERE id % 5 = 0");
			exact("$kind: UPDATE", @views);
			sql("UPDATE $s SET k = 'moved ' || id % 3, ts = ts + interval '90 seconds' WHERE id % 7 = 0");
			exact("$kind: rows move to other groups", @views);
			sql("DELETE FROM $s WHERE id % 3 = 0");
			exact("$kind: DELETE", @views);
			sql("DELETE FROM $s WHERE k IN ('k1', 'k2', 'k3')");
			exact("$kind: DELETE of whole groups", @views);
		}
		$node->restart;
		exact("$kind: after a restart", @views);
		give($s, 100, ts => 'moment(i - 300)');
		give($s, 100);
		exact("$kind: rows after it", @views);
		$node->crash_server;
		give($s, 100, ts => 'moment(i - 600)');
		exact("$kind: after a crash", @views);
		drop($s);
	});
}

# The same of the other sources, in short
for my $kind ($long ? () : qw(topic stream))
{
	my $s = "some_$kind";
	$oracle->section("some kinds of view over a $kind", sub {
		keep_groups(2);
		source($kind, $s);
		my @views = views_over($s, undef, qw(flat tum hop ses));
		my $at = $rows->last_id;
		give($s, 300, ts => "moment(i - $at)");
		give($s, 30, ts => 'NULL');
		exact("$kind: windows close while their groups are on disk", @views);
		give($s, 100, ts => "moment(i - $at - 300)");
		exact("$kind: late rows come to groups on disk", @views);
		give($s, 1, ts => "moment(i - $at)");
		exact("$kind: once more", @views);
		cmp_ok(away("flat_$s"), '>', 0, "$kind: some are on disk only");
		$node->kill9_worker('postgres') if $kind eq 'stream';
		give($s, 50, ts => "moment(i - $at - 400)");
		exact("$kind: and on", @views);
		drop($s);
	});
}

# ----------------------------------------------------------------- frozen

for my $kind ('topic', $long ? 'table' : ())
{
	my $s = "frozen_$kind";
	$oracle->section("frozen windows on disk, over a $kind", sub {
		keep_groups(4);
		source($kind, $s);
		my $with = "weir.allowed_lateness = '1 minute'";
		my @views = views_over($s, $with, qw(tumf hop ses));
		for my $view (@views)
		{
			my ($shape) = $view =~ /^([a-z]+)/;
			my ($list, $by) = @{ $shapes{$shape} };
			$oracle->know($view, $shape eq 'ses' ? WeirTime::sessions(without_late($view, $s), 'k', '20 seconds', $sums)
				: $shape eq 'tumf' ? "SELECT $list FROM " . without_late($view, $s) . " GROUP BY $by"
				: qq{SELECT k, win, $sums FROM ${s}_heap h, weir.hop(ts, '20 seconds', '1 minute') AS win
					WHERE NOT EXISTS (SELECT FROM weir.late_rows l WHERE l.view = '$view'::regclass
						AND (l."row"->>'ts')::timestamptz = h.ts AND win = ANY (l.windows::text::tstzrange[])) GROUP BY k, win}, by => 'value');
		}
		my $at = $rows->last_id;
		give($s, 300, ts => "moment(i - $at)");
		give($s, 200, ts => "moment(i - $at)");
		exact("$kind: rows in their order", @views);
		# each at a time of its own, by which it is known among the late
		give($s, 60, ts => "moment((i - $at) * 13 % 500 + i / 10000.0)");
		exact("$kind: rows that are late, and too late", @views);
		cmp_ok(sql("SELECT count(*) FROM weir.late_rows WHERE view = 'tumf_$s'::regclass"), '>', 0, "$kind: there are such");
		give($s, 1, ts => "moment(10000)", k => "'end'");
		exact("$kind: all are frozen", @views);
		give($s, 1, ts => "moment(10000 + $_)", k => "'end'") for 1 .. 3;
		for my $view (@views)
		{
			ok($node->wait_until('SELECT count(*) FROM ' . state_table($view) . q{ WHERE pane < (SELECT max(pane) - 3 FROM } . state_table($view) . ')', '0', 10),
				"$kind: no state of $view is left but that of its last window") or diag(sql('SELECT pane, count(*), count(result) FROM ' . state_table($view) . ' GROUP BY 1 ORDER BY 1'));
		}
		exact("$kind: and its rows stay", @views);
		drop($s);
	});
}

# --------------------------------------------------------------- TRUNCATE

$oracle->section('TRUNCATE', sub {
	my $s = 'emptied';
	keep_groups(2);
	source('table', $s);
	my @views = views_over($s, undef, $long ? () : qw(flat tum hop ses));
	my $at = $rows->last_id;
	give($s, 400, ts => "moment(i - $at)");
	give($s, 30, ts => 'NULL');
	exact('before it', @views);
	sql("TRUNCATE $s");
	exact('TRUNCATE', @views);
	give($s, 400, ts => 'moment(i - ' . ($rows->last_id - 500) . ')');
	exact('rows again', @views);
	# the same rows again, others, and late ones, in the same transaction
	sql("CREATE TABLE again AS TABLE $s; BEGIN; TRUNCATE $s; INSERT INTO $s TABLE again; COMMIT");
	exact('TRUNCATE, and the same rows again', @views);
	sql("BEGIN; TRUNCATE $s; INSERT INTO $s SELECT * FROM again WHERE id % 4 = 0; DELETE FROM $s WHERE id % 8 = 0;
		INSERT INTO $s SELECT id + 10000, 'more', n, x, note, ts + interval '70 seconds' FROM again WHERE id % 5 = 0; COMMIT");
	exact('TRUNCATE, and other rows in the same transaction', @views);
	sql("INSERT INTO $s TABLE again; UPDATE $s SET ts = ts + interval '10 seconds' WHERE id % 3 = 0");
	exact('rows after it', @views);
	sql("BEGIN; INSERT INTO $s TABLE again; TRUNCATE $s; INSERT INTO $s SELECT * FROM again WHERE k = 'k3'; COMMIT");
	exact('TRUNCATE behind rows', @views);
	$node->restart;
	sql("INSERT INTO $s TABLE again");
	exact('and after a restart', @views);
	sql('DROP TABLE again');
	drop($s);
});

$oracle->section('TRUNCATE of the one group of a query', sub {
	my $s = 'one';
	keep_groups(-1);
	source('table', $s);
	view('total', "SELECT count(*) AS c, sum(x) AS s FROM $s WHERE n >= 0", undef, truth => "SELECT count(*) AS c, sum(x) AS s FROM $s WHERE n >= 0");
	give($s, 10);
	exact('rows', 'total');
	# a batch makes room, and does not ask for it again
	give($s, 10, n => '-1');
	exact('rows that are none of its', 'total');
	is(away('total'), 1, 'it is on disk');
	sql("TRUNCATE $s");
	exact('of no rows', 'total');
	give($s, 10);
	exact('and of others', 'total');
	drop($s);
});

# Whether their groups are in memory or not
$oracle->section('TRUNCATE and frozen windows', sub {
	my $s = 'kept';
	keep_groups(0);
	source('table', $s);
	view('kept_tum', "SELECT k, weir.tumble(ts, '1 minute') AS win, count(*) AS c FROM $s GROUP BY k, win", "weir.watermark = '5 seconds'");
	my $at = $rows->last_id;
	give($s, 300, ts => "moment(i - $at)");
	exact('rows', 'kept_tum');
	sql("ALTER TABLE kept_tum SET (weir.allowed_lateness = '10 ms')");
	# a row for a window that is open: it shows when the option has been read
	give($s, 1, ts => "moment(290)");
	exact('once more', 'kept_tum');
	my $frozen = q{SELECT count(*), sum(c) FROM kept_tum WHERE upper(win) <= (SELECT watermark FROM weir.views WHERE view = 'kept_tum'::regclass)};
	my $was = sql($frozen);
	isnt($was, '0|', 'windows are frozen');
	sql("TRUNCATE $s");
	sql(q{SELECT weir.wait_for('kept_tum')});
	is(sql($frozen), $was, 'they stay');
	is(sql('SELECT sum(c) FROM kept_tum'), (split /\|/, $was)[1], 'and nothing else does');
	drop($s);
});

# ------------------------------------------------------ rows of v that move

# by_place(view): its rows by where they are, without VACUUM FULL's new places
sub changelog_end { my ($view) = @_; return sql("SELECT coalesce(max(weir_seq), 0) FROM ${view}_changes") }

$oracle->section('rows of v that have moved', sub {
	my $s = 'moved';
	keep_groups(4);
	source('topic', $s);
	my @views = views_over($s, undef, $long ? qw(having tum tumf fin hop ses) : qw(having fin hop));
	my $at = $rows->last_id;
	# of equal values any may show, and another when v is made anew
	my @note = (note => "'n' || i % 40");
	give($s, 500, ts => "moment(i - $at)", @note);
	exact('before', @views);
	my %end = map { $_ => changelog_end($_) } @views;
	sql("VACUUM FULL $_") for @views;
	$oracle->same('VACUUM FULL', @views);
	give($s, 1, ts => 'NULL', k => "'none'", n => '-1');
	exact('after VACUUM FULL', @views);
	is(sql("SELECT count(*) FROM ${_}_changes WHERE weir_seq > $end{$_} AND k::text NOT IN ('none', '-1')"), '0',
		"VACUUM FULL: no row of $_ is taken back and given again") for @views;
	sql("CREATE INDEX ${_}_c ON $_ (c); CLUSTER $_ USING ${_}_c") for @views;
	give($s, 100, ts => "moment(i - $at - 300)", @note);
	exact('after CLUSTER, with late rows', @views);
	for my $round (1 .. ($long ? 2 : 1))
	{
		%end = map { $_ => changelog_end($_) } @views;
		sql("SELECT weir.rebuild('$_')") for @views;
		exact('weir.rebuild', grep { !/^(?:tum|tumf|fin|hop|ses)_/ } @views);
		exact('weir.rebuild, of windows', grep { !/^having/ } @views);
		is(sql("SELECT count(*) FROM ${_}_changes WHERE weir_seq > $end{$_}"), '0',
			"weir.rebuild: no row of $_ is taken back and given again") for @views;
		give($s, 60, ts => "moment(i - $at - 200)", @note);
		exact('and late rows', @views);
	}
	sql("VACUUM FULL $_") for map { state_table($_) } @views;
	give($s, 60, ts => "moment(i - $at - 250)", @note);
	exact('states that have moved', @views);
	sql("SELECT weir.pause('$_')") for @views;
	give($s, 60, ts => "moment(i - $at - 260)", @note);
	sql("SELECT weir.resume('$_')") for @views;
	exact('pause and resume', @views);
	sql("ALTER TABLE $_ SET (weir.commit_interval = '20 ms')") for @views;
	give($s, 60, ts => "moment(i - $at - 270)", @note);
	exact('an option is altered', @views);
	drop($s);
});

# All groups fit when the view is opened; what comes then does not
$oracle->section('rows of v that have moved, and many new groups', sub {
	my $s = 'moved_too';
	keep_groups(4);
	source('table', $s);
	my @views = views_over($s, undef, qw(flat tumf));
	give($s, 12, k => "'k' || i % 3", ts => 'moment(i % 60)');
	exact('few groups', @views);
	sql("SELECT weir.pause('$_')") for @views;
	sql("VACUUM FULL $_") for @views;
	give($s, 3000, k => "'new ' || i % 5", ts => 'moment(i % 60)') for 1 .. 3;
	sql("SELECT weir.resume('$_')") for @views;
	exact('many', @views);
	drop($s);
});

# Thousands of rows of v that are equal, since their keys are not shown
$oracle->section('rows that are equal', sub {
	my $s = 'equals';
	keep_groups(4);
	source('table', $s);
	give($s, 20000, k => "'k' || i % 10000");
	$oracle->create('alike', "SELECT count(*) AS c FROM $s GROUP BY k");
	$oracle->same('a backfill', 'alike');
	sql('VACUUM FULL alike');
	my $begun = time;
	give($s, 1, k => "'other'");
	$oracle->same('moved', 'alike');
	cmp_ok(time - $begun, '<', 15, 'in a time that is not the square of their number');
	drop($s);
});

# ---------------------------------------------------------------- backfills

for my $kind ($long ? 'topic' : (), 'table')
{
	my $s = "before_$kind";
	$oracle->section("a backfill of a $kind with more groups than memory", sub {
		keep_groups(4);
		source($kind, $s);
		my $at = $rows->last_id;
		give($s, 3000, k => "'k' || i % 97", ts => "moment((i - $at) * 7919 % 3000)");
		my @views = views_over($s, undef, qw(flat having tumf fin hop ses));
		exact("$kind: a backfill", @views);
		drop($s);
	});
}

# What the flow takes away may come only later from the table; and then all goes
$oracle->section('a backfill of a table that loses rows', sub {
	my $s = 'losing';
	keep_groups(4);
	memory('32MB');
	source('table', $s);
	my $at = $rows->last_id;
	my $rate = sub { $node->append_conf('postgresql.conf', "weir.backfill_rate = $_[0]\n"); $node->reload; };
	# long keys, so that the process tells of them before it has come to the end
	give($s, 4000, k => "i % 997 || repeat('long', 450)", ts => "moment((i - $at) * 7919 % 3000)");
	$rate->(2000);
	my ($list, $by, $with) = @{ $shapes{ses} };
	view('losing_ses', "SELECT $list FROM $s GROUP BY $by", $with, truth => WeirTime::sessions($s, 'k', '20 seconds', $sums));
	my $half = sub { "SELECT state = 'backfilling' AND (SELECT count(*) > 10 FROM " . state_table($_[0]) . ") FROM weir.views WHERE view = '$_[0]'::regclass" };
	my @views = qw(losing_ses);
	ok($node->wait_until($half->($_)), "$_: states of half a backfill are on disk") for @views;
	my $worker = sql(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_weir worker'});
	sql("DELETE FROM $s WHERE id % 5 = $_") for 0 .. 3;
	sql("INSERT INTO $s SELECT id, 'gone', n, x, note, ts FROM $s WHERE id % 5 = 4; DELETE FROM $s WHERE k = 'gone'");
	exact('rows are deleted meanwhile', @views);
	is(sql(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_weir worker'}), $worker, 'the worker has lived through it');
	$node->restart;
	exact('after a restart', @views);
	give($s, 3000, k => "i % 997 || repeat('long', 450)", ts => "moment((i - $at) * 7919 % 3000)");
	exact('and many rows', @views);
	sql("SELECT weir.rebuild('$_')") for @views;
	ok($node->wait_until($half->($_)), "$_: a rebuild is under way") for @views;
	sql("TRUNCATE $s");
	give($s, 100);
	$rate->(1000000);
	comes_to('TRUNCATE in the middle of it', @views);
	memory('256MB');
	drop($s);
});

$oracle->section('a backfill that begins again', sub {
	my $s = 'slow';
	keep_groups(4);
	memory('8MB');
	source('table', $s);
	my $at = $rows->last_id;
	# long keys, so that the process tells of them before it has come to the end
	give($s, $long ? 8000 : 4000, k => "i % 3989 || repeat('long', 450)", n => 'i % 50', ts => "moment((i - $at) * 7919 % 3000)");
	my %q = (
		slow_bad => [ "SELECT k, sum(100 / n) AS s FROM $s GROUP BY k", "SELECT k, sum(100 / n) AS s FROM $s WHERE n <> 0 GROUP BY k",
			"weir.append_only, weir.on_error = 'dead_letter'" ],
		slow_tum => [ "SELECT k, weir.tumble(ts, '1 minute') AS win, count(*) AS c FROM $s GROUP BY k, win", undef, "weir.watermark = '5 seconds', weir.allowed_lateness = '1 hour'" ]);
	my @views = sort keys %q;
	my $rate = sub { $node->append_conf('postgresql.conf', "weir.backfill_rate = $_[0]\n"); $node->reload; };
	my $half = sub { "SELECT state = 'backfilling' AND (SELECT count(*) > 10 FROM " . state_table($_[0]) . ") FROM weir.views WHERE view = '$_[0]'::regclass" };
	$rate->(2000);
	$oracle->create($_, $q{$_}[0], with => $q{$_}[2], truth => $q{$_}[1] || $q{$_}[0], by => 'value') for @views;
	ok($node->wait_until($half->($_)), "$_: states of half a backfill are on disk") for @views;
	is(sql("SELECT count(*) FROM $_"), '0', "$_ shows nothing of it") for @views;
	$node->kill9_worker('postgres');
	$rate->(1000000);
	comes_to('a backfill that was broken off', @views);
	my $bad = sql("SELECT count(*) FROM $s WHERE n = 0");
	is(sql("SELECT count(*) FROM weir.dead_letters WHERE view = 'slow_bad'::regclass"), $bad, 'each dead letter once');
	is(sql("SELECT dead_letters FROM weir.stat_views WHERE view = 'slow_bad'::regclass"), $bad, 'and counted once');
	is(sql("SELECT count(*) FROM weir.late_rows WHERE view = 'slow_tum'::regclass"), '0', 'no row of a backfill is late');

	if (!$long)
	{
		memory('256MB');
		drop($s);
		return;
	}
	# the source is emptied in the middle
	$oracle->drop('slow_bad');
	$rate->(2000);
	sql("SELECT weir.rebuild('slow_tum')");
	ok($node->wait_until($half->('slow_tum')), 'a rebuild is under way');
	sql("TRUNCATE $s");
	give($s, 100, k => "'k' || i % 7");
	$rate->(1000000);
	comes_to('TRUNCATE in the middle of a backfill', 'slow_tum');
	memory('256MB');
	drop($s);
});

# ------------------------------------------------------------------- faults

$oracle->section('faults', sub {
	my $s = 'faulty';
	keep_groups(4);
	source('topic', $s);
	my @views = views_over($s, undef, qw(flat tum fin hop ses));
	my $at = $rows->last_id;
	give($s, 300, ts => "moment(i - $at)");
	exact('before', @views);
	my @faults = map { my $a = $_; map { "evict-back:$a:$_" } $long ? (1, 2, 5, 11) : (2) } $long ? 'error' : (), qw(enospc kill9 crash);
	push @faults, map { ("commit-states:$_:2", "commit-before:$_:1") } $long ? qw(error kill9) : ();
	for my $fault (@faults)
	{
		my ($point, $action) = split /:/, $fault;
		my $seen = -s $node->logfile;
		$node->set_fault($fault);
		give($s, 40, ts => "moment(i - $at - 150)") unless $action eq 'crash';
		eval { give($s, 40, ts => "moment(i - $at - 150)") } if $action eq 'crash';
		if ($action eq 'crash')
		{
			$node->wait_gone($node->{_pid});
			$node->set_fault('');
			$node->revive;
			reconcile($s);
		}
		else
		{
			$node->wait_for_log(qr/injected|fault|terminated by signal/i, $seen);
			$node->set_fault('');
			$node->wait_ready;
		}
		comes_to($fault, @views);
	}
	is(sql('SELECT count(*) FROM weir.dead_letters'), '0', 'no row became a dead letter for it');
	drop($s);
});

# A commit that fails in the middle of a portion is tried again in the same memory,
# if it was for a lock.
$oracle->section('a lock in the middle of a portion', sub {
	my $s = 'locked';
	keep_groups(3);
	source('topic', $s);
	sql(<<'EOF2');
CREATE TABLE mood (k text);
CREATE FUNCTION moody(text, bigint) RETURNS bigint IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN
	IF EXISTS (SELECT FROM public.mood m WHERE m.k = $1) THEN RAISE 'not now' USING errcode = 'lock_not_available'; END IF;
	RETURN $2; END $$;
EOF2
	my $list = "k, weir.tumble(ts, '1 minute') AS win, moody(k, count(*)) AS c";
	view('moody_fin', "SELECT $list FROM $s GROUP BY k, win", "weir.watermark = '5 seconds', weir.emit = 'final'",
		truth => "SELECT * FROM (SELECT $list FROM ${s}_heap GROUP BY k, win) q
			WHERE upper(win) <= (SELECT watermark FROM weir.views WHERE view = 'moody_fin'::regclass)");
	my $at = $rows->last_id;
	give($s, 50, ts => "moment(i - $at)");
	$oracle->same('nothing is closed', 'moody_fin');
	give($s, 1, ts => "moment(55)", k => "'k1'");
	$oracle->same('most are on disk', 'moody_fin');
	sql("INSERT INTO mood VALUES ('k7')");
	give($s, 1, ts => "moment(200)", k => "'end'");
	$oracle->stalls('moody_fin', '55P03', qr/not now/, 'closing meets a lock');
	sql('TRUNCATE mood');
	comes_to('all rows of the window are there', 'moody_fin');
	cmp_ok(sql('SELECT count(*) FROM moody_fin'), '>', 20, 'which are many');
	drop($s);
	sql('DROP FUNCTION moody; DROP TABLE mood');
});

# Without the index nothing would be found again
for my $action ($long ? 'error' : (), qw(enospc kill9))
{
	my $s = "first_$action";
	$oracle->section("no index yet: $action", sub {
		keep_groups(4);
		source('topic', $s);
		my @views = views_over($s, undef, qw(flat tumf));
		my $at = $rows->last_id;
		give($s, 3, ts => "moment(i - $at)");
		$oracle->same('few groups', @views);
		is(sql('SELECT count(*) FROM pg_index WHERE indrelid = ' . "'" . state_table($views[0]) . "'::regclass"), '0', 'no index');
		$node->set_fault("evict-index:$action:1");
		my $seen = -s $node->logfile;
		give($s, 100, ts => "moment(i - $at)");
		# what a commit leaves clean is evicted before the next batch
		$oracle->differences(1, @views);
		eval { give($s, 100, ts => "moment(i - $at)") };
		$node->wait_for_log(qr/could not make room|terminated by signal 9/, $seen);
		$node->set_fault('');
		$node->wait_ready;
		$node->patient_psql('SELECT 1');
		reconcile($s);
		give($s, 100, ts => "moment(i - $at)");
		exact("$action: exact", @views);
		drop($s);
	});
}

# A state on disk that is damaged
$oracle->section('a damaged state', sub {
	my $s = 'damaged';
	keep_groups(2);
	source('topic', $s);
	my @views = views_over($s, undef, qw(flat num));
	my $at = $rows->last_id;
	give($s, 100, ts => "moment(i - $at)");
	give($s, 1, k => "'k1'");
	exact('before', @views);
	my $flat = "flat_$s";
	my $state = state_table($flat);
	sql("SET allow_system_table_mods = on; UPDATE $state SET state = overlay(state PLACING '\\x5a5a'::bytea FROM 12 FOR 2)
		WHERE ctid IN (SELECT ctid FROM $state LIMIT 30)");
	give($s, 100);
	$oracle->stalls($flat, 'XX001', qr/weir\.rebuild/, 'a state that is damaged');
	exact('the other goes on', "num_$s");
	is(sql('SELECT count(*) FROM weir.dead_letters'), '0', 'no row became a dead letter for it');
	$oracle->rebuilt($flat, 'a damaged state');
	drop($s);
});

# Another version of a collation, say, gives keys other hashes than they were stored with
$oracle->section('keys with other hashes', sub {
	my $s = 'rehashed';
	keep_groups(0);
	source('topic', $s);
	my ($view) = views_over($s, undef, qw(flat));
	my $at = $rows->last_id;
	give($s, 100, ts => "moment(i - $at)");
	exact('before', $view);
	my $state = state_table($view);
	my $hashes = "SELECT sum(hash) FROM $state";
	my $was = sql($hashes);
	my $rehash = sub {
		sql("SELECT weir.pause('$view')");
		sql("SET allow_system_table_mods = on; UPDATE $state SET hash = hash # 1");
		isnt(sql($hashes), $was, "$_[0]: rows of states have other hashes");
		sql("SELECT weir.resume('$view')");
	};
	$rehash->('in memory');
	exact('in memory', $view);
	ok($node->wait_until($hashes, $was, 20), 'they are written anew');
	keep_groups(2);
	give($s, 100, ts => "moment(i - $at - 100)");
	exact('and found, once they are on disk', $view);
	# numbers are of the last commit, and groups leave after it
	give($s, 1);
	exact('once more', $view);
	cmp_ok(away($view), '>', 0, '... where they are');
	$was = sql($hashes);
	$rehash->('on disk');
	give($s, 100, ts => "moment(i - $at - 200)");
	exact('on disk', $view);
	is(sql($hashes), $was, 'they are written anew');
	drop($s);
});

# ---------------------------------------------------------- a real budget

sub most_bytes
{
	return sql('SELECT coalesce(max(state_bytes), 0) FROM weir_data.status');
}

$oracle->section('a small budget', sub {
	return unless $long;
	keep_groups(0);
	memory('4MB');
	my ($s, $other) = ('small', 'second');
	source($_ eq $s ? 'topic' : 'table', $_) for $s, $other;
	my @views = views_over($s, undef, qw(flat tumf ses));
	my $at = $rows->last_id;
	for my $round (1 .. 5)
	{
		give($s, 6000, k => "'key ' || i % 20011", ts => "moment((i - $at) / 20)");
		cmp_ok(most_bytes(), '<=', 4 * 1024 * 1024, "round $round: the budget holds");
	}
	comes_to('more groups than that', @views);
	cmp_ok(away("flat_$s"), '>', 0, 'most are on disk');
	give($other, 30000, k => "'other ' || i % 25000");
	my @others = views_over($other, undef, qw(flat));
	comes_to('a second worker gets its share', @others);
	give($s, 6000, k => "'key ' || i % 20011", ts => "moment((i - $at) / 20)");
	comes_to('and the first goes on', @views);
	cmp_ok(most_bytes(), '<=', 4 * 1024 * 1024, 'the budget holds');
	# all that is there freezes at once
	sql("ALTER TABLE $_ SET (weir.allowed_lateness = '1 minute')") for grep { !/flat/ } @views;
	give($s, 1, k => "'end'", ts => 'moment(1000000)');
	give($s, 1, k => "'end'", ts => "moment(1000000 + $_)") for 1 .. 4;
	exact('all is frozen at once', @views);
	$node->restart;
	give($s, 1, k => "'end'", ts => 'moment(1000010)');
	exact('and after a restart', @views);
	# so many a commit
	for my $view (grep { !/flat/ } @views)
	{
		my $left = 'SELECT count(*) FROM ' . state_table($view);
		for my $round (1 .. 20)
		{
			last if sql($left) < 10;
			give($s, 1, k => "'end'", ts => "moment(1000010 + $round)");
			$oracle->differences(1, $view);
		}
		cmp_ok(sql($left), '<', 10, "$view: frozen states go");
	}

	# more than fits
	sql("BEGIN; INSERT INTO $other SELECT i, 'large ' || i FROM generate_series(1, 60000) i; COMMIT");
	$oracle->stalls("flat_$other", '53200', qr/weir\.state_memory/, 'a transaction that does not fit');
	exact('others go on', @views);
	memory('64MB');
	comes_to('it goes on when there is more', @others);
	drop($s, $other);
});

$oracle->section('a budget of some groups', sub {
	keep_groups(0);
	memory('2MB');
	my $s = 'tight';
	source('table', $s);
	my @views = views_over($s, undef, qw(flat));
	for my $round (1 .. 3)
	{
		give($s, 6000, k => "'key ' || i % 20011");
		comes_to("round $round", @views);
		cmp_ok(most_bytes(), '<=', 2 * 1024 * 1024, "round $round: the budget holds");
	}
	cmp_ok(away("flat_$s"), '>', 0, 'some are on disk only');
	sql("BEGIN; INSERT INTO $s SELECT i, 'large ' || i FROM generate_series(1, 60000) i; COMMIT");
	$oracle->stalls("flat_$s", '53200', qr/weir\.state_memory/, 'a transaction that does not fit');
	memory('64MB');
	comes_to('it goes on when there is more', @views);
	drop($s);
});

# Values that states own may be more than their groups
$oracle->section('large values', sub {
	memory($long ? '24MB' : '5MB');
	my $s = 'large';
	my $n = $long ? 2000 : 200;
	source('table', $s);
	my @views = ('large_max');
	view('large_max', "SELECT k, max(note) AS m, count(*) AS c FROM $s GROUP BY k", '');
	give($s, $n, k => "'key ' || i % @{[ 3 * $n ]}", note => "repeat(md5(i::text), 100)") for 1 .. 6;
	comes_to('large values', @views);
	$node->restart;
	give($s, $n, k => "'key ' || i % @{[ 3 * $n ]}", note => "repeat(md5(i::text), 100)");
	comes_to('large values, after a restart', @views);
	drop($s);
});

$broker->stop;
done_testing();
