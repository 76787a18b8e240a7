# One weir.state_memory for all views of the server (src/state/budget.c,
# src/runtime/evict.c): many databases, many views, workers that share it, the least
# that may be set, and less than is in use.  What must hold each time: views are
# what Postgres computes, nothing stalls for long that has what it needs, and what
# is taken never exceeds the budget, which is looked at all the time.
#
# Sections have sources of their own and go on where another has failed; those named
# on the command line run alone.
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

my $mb = 1024 * 1024;
my $broker = WeirBroker->new;
my $node = WeirNode->start_new('main', conf => <<'EOF2');
max_worker_processes = 24
max_replication_slots = 10
weir.max_workers = 8
EOF2
create_kafka($node, $broker);
my $oracle = WeirOracle->new($node, timeout => '40 s');
my $rows = WeirRows->new($node, oracle => $oracle, broker => $broker);

sub sql { return $node->safe_psql('postgres', @_) }
sub taken { return sql('SELECT weir.state_memory_taken()') }

# stalls_since(place in the log): how often a view said that it had no memory
sub stalls_since
{
	my ($seen) = @_;
	my $n = () = slurp_file($node->logfile, $seen) =~ /stalls: (?:the states of all views exceed|out of dynamic)/g;
	return $n;
}

# within(seconds, what, code)
sub within
{
	my ($seconds, $what, $code) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $begun = time;
	$code->();
	cmp_ok(time - $begun, '<', $seconds, "$what: within $seconds s");
	return;
}

# ------------------------------------------------------------ many databases

$oracle->section('three databases', sub {
	my @dbs = qw(one two three);
	my %in;
	for my $db (@dbs)
	{
		$node->safe_psql('postgres', "CREATE DATABASE $db");
		$node->safe_psql($db, 'CREATE EXTENSION pg_weir');
		my $o = WeirOracle->new($node, dbname => $db, timeout => '40 s');
		$in{$db} = WeirRows->new($node, oracle => $o);
		$in{$db}->source('table', 's');
		$in{$db}->views_over('s', undef, 'flat', $db eq 'two' ? 'tumf' : ());
	}
	$rows->memory('5MB');
	my ($most, $looks) = $rows->most_taken(sub {
		for my $round (1 .. 8)
		{
			$in{$_}->give('s', 1200, k => "'key ' || i * 7919 % 9001", ts => 'moment(i / 20.0)') for @dbs;
		}
		$in{$_}->comes_to("views of database $_ share the budget", $_ eq 'two' ? qw(flat_s tumf_s) : 'flat_s') for @dbs;
	});
	cmp_ok($most, '<=', 5 * $mb, 'what is taken by all stays within it');
	cmp_ok($looks, '>', 100, '... and was looked at');
	my $groups = 0;
	for my $db (@dbs)
	{
		# numbers are of the last commit, and groups leave after it
		$in{$db}->give('s', 1);
		$in{$db}->exact("$db: once more");
		cmp_ok($in{$db}->away('flat_s'), '>', 0, "$db: some groups are on disk only");
	}
	$in{$_}->sql("UPDATE s SET n = n + 1, x = x + 1 WHERE id % 9 = 0 AND id % 2 = 0; DELETE FROM s WHERE id % 11 = 0 AND id % 2 = 0") for @dbs;
	$in{$_}->comes_to("$_: rows are changed and deleted", $_ eq 'two' ? qw(flat_s tumf_s) : 'flat_s') for @dbs;
	# what a database had is there for the others
	$in{$_}->drop('s') for @dbs;
	ok($node->wait_until('SELECT weir.state_memory_taken()', '0', 20), 'views that are dropped take nothing');
	sql("DROP DATABASE $_") for @dbs;
});

# ---------------------------------------------------------------- many views

$oracle->section('a hundred views', sub {
	$rows->memory('2500kB');
	$rows->source('stream', 'many');
	my @views = map { "many_$_" } 1 .. 100;
	my $create = '';
	for my $i (1 .. 100)
	{
		my $query = "SELECT n * 100 + id % 71 + $i AS k, count(*) AS c, sum(x) AS s FROM many WHERE id % 100 <> $i GROUP BY 1";
		$create .= $oracle->statement("many_$i", $query, with => "weir.commit_interval = '20 ms'") . ";\n";
		$oracle->know("many_$i", $query =~ s/FROM many/FROM many_heap/r, by => 'value');
	}
	sql($create);
	my ($most) = $rows->most_taken(sub {
		$rows->give('many', 150) for 1 .. 4;
		$rows->comes_to('a hundred views', @views);
		# what they all change of it is more than there is: some stall, and come back
		$rows->give('many', 450);
		within(30, 'more than fits at once', sub { $rows->comes_to('more than fits at once', @views) });
	});
	cmp_ok($most, '<=', 2500 * 1024, 'they stay within the budget');
	is(sql("SELECT count(*) FROM weir.views WHERE view::text LIKE 'many\\_%' AND state <> 'running'"), '0', 'none stalls');
	cmp_ok(sql('SELECT sum(groups_on_disk - groups_in_memory) FROM weir.stat_views'), '>', 0, 'some groups are on disk only');
	sql('DROP TABLE ' . join ', ', @views);
	$oracle->forget(@views);
	$rows->drop('many');
});

# ----------------------------------------------------------- workers that share

# A view over a topic has filled the memory, and is idle; one over a table, of another
# worker, then needs it.
$oracle->section('what an idle view has', sub {
	$rows->memory('3MB');
	$rows->source('topic', 'idle');
	$rows->source('table', 'needy');
	my ($idle) = $rows->views_over('idle', undef, 'flat');
	my ($needy) = $rows->views_over('needy', undef, 'flat');
	my ($most) = $rows->most_taken(sub {
		$rows->give('idle', 3000, k => "'idle ' || i") for 1 .. 4;
		$rows->comes_to('the first fills it', $idle);
		cmp_ok(taken(), '>', 1.5 * $mb, 'it is full');
		within(15, 'the other gets its share', sub {
			$rows->give('needy', 1000, k => "'needy ' || i") for 1 .. 6;
			$rows->comes_to('the other', $needy);
		});
		my $bytes = 'SELECT sum(state_bytes) FROM weir.stat_views WHERE view = ';
		cmp_ok(sql("$bytes '$needy'::regclass"), '>', $mb / 4, 'it has memory now');
		$rows->give('idle', 1500, k => "'idle ' || i - 12000") for 1 .. 2;
		$rows->give('needy', 500, k => "'needy ' || i - 6000");
		within(15, 'both at once', sub { $rows->comes_to('both', $idle, $needy) });
		cmp_ok(sql('SELECT sum(state_bytes) FROM weir.stat_views'), '<=', 3 * $mb, 'as the views tell it');
	});
	cmp_ok($most, '<=', 3 * $mb, 'within the budget');
	cmp_ok($rows->away($_), '>', 0, "some of $_ are on disk only") for $idle, $needy;
	$rows->drop('idle', 'needy');
});

# Groups whose rows are deleted leave the memory that they were in, whether the view
# that needs it is of the same worker (table) or of another.
for my $kind ('table', 'topic')
{
	$oracle->section("what deleted groups had, needed over a $kind", sub {
		$rows->memory('3MB');
		my ($s, $other) = ("gone_$kind", "after_$kind");
		$rows->source('table', $s);
		$rows->source($kind, $other);
		my ($gone) = $rows->views_over($s, undef, 'flat');
		my ($flat) = $rows->views_over($other, undef, 'flat');
		$rows->give($s, 1500, k => "'gone ' || i", note => 'NULL') for 1 .. 8;
		$rows->exact("$kind: many groups", $gone);
		cmp_ok(taken(), '>', 1.8 * $mb, "$kind: they take most of it");
		sql("DELETE FROM $s WHERE id % 8 = $_") for 0 .. 7;
		$rows->exact("$kind: all are deleted", $gone);
		within(15, "$kind: another view", sub {
			$rows->give($other, 1000, k => "'other ' || i", note => 'NULL') for 1 .. 14;
			$rows->comes_to("$kind: another view comes", $flat);
		});
		$rows->give($other, 1, k => "'last'");
		$rows->exact("$kind: once more", $flat);
		cmp_ok(sql("SELECT state_bytes FROM weir.stat_views WHERE view = '$flat'::regclass"), '>', 1.5 * $mb, "$kind: it has the memory");
		$rows->drop($s, $other);
	});
}

# -------------------------------------------------------------------- the least

# Each view is what it was after one of the transactions, if it has stalled.
sub of_some_commit
{
	my ($s, $view, @ends) = @_;
	for my $end (reverse 0, @ends)
	{
		sql("CREATE OR REPLACE VIEW ${s}_heap AS SELECT * FROM $s WHERE id <= $end");
		return 1 unless $oracle->differences(0, $view);
	}
	return 0;
}

$oracle->section('the least that may be set', sub {
	is($node->error_of(q{ALTER SYSTEM SET weir.state_memory = '63kB'}), '22023: 63 kB is outside the valid range for parameter "weir.state_memory" (64 .. 2147483647)', 'less than 64 kB may not be');
	for my $shapes ([qw(flat tumf hop ses)], $ENV{WEIR_LONG} ? ([qw(cum fin tum)], [qw(ci having num)]) : ())
	{
		my $s = "least_$shapes->[0]";
		$rows->memory('64kB');
		$rows->source('table', $s);
		my @views = $rows->views_over($s, undef, @$shapes);
		my @ends;
		my $at = $rows->last_id;
		for my $n (20, 10, 20)
		{
			$rows->give($s, $n, k => "'key ' || i % 10", ts => "moment((i - $at) / 10.0)");
			push @ends, $rows->last_id;
		}
		$rows->exact("few groups: @views", @views);
		my ($most) = $rows->most_taken(sub {
			for my $n (50, 2000)
			{
				$rows->give($s, $n, k => "'many ' || i % 1000", n => 'i', x => 'i', note => "'note ' || i", ts => "moment((i - $at) / 10.0)");
				push @ends, $rows->last_id;
			}
			for my $view (@views)
			{
				$oracle->stalls($view, '53200', qr/Raise weir\.state_memory/, "many groups: $view");
				ok(of_some_commit($s, $view, @ends), "$view shows what one of its commits had");
			}
			sql("CREATE OR REPLACE VIEW ${s}_heap AS TABLE $s");
		});
		cmp_ok($most, '<=', 64 * 1024, 'no more than that is taken');
		$rows->memory('64MB');
		within(20, 'all of them', sub { $rows->comes_to('they go on when there is more', @views) });
		# of what is on disk a little is read at a time
		$rows->memory('64kB');
		$rows->give($s, 2, k => "'key 1'") for 1 .. 3;
		$node->error_of("SELECT weir.wait_for('$_', '5 s')") for @views;
		$rows->memory('64MB');
		$rows->comes_to('and more again', @views);
		$rows->drop($s);
	}
});

# Groups of open windows must stay in memory, so nothing makes the room that a backfill
# would like to have.
$oracle->section('a backfill beside open windows', sub {
	my $rate = sub { $node->append_conf('postgresql.conf', "weir.backfill_rate = $_[0]\n"); $node->reload; };
	$rows->memory('64kB');
	$rate->(1000);
	$rows->source('table', 'beside');
	$rows->give('beside', 1500, k => "'k' || i % 7", note => 'NULL', ts => 'moment(i % 60)');
	my @views = $rows->views_over('beside', undef, 'hop');
	$rows->give('beside', 50, k => "'k' || i % 7", note => 'NULL', ts => 'moment(i % 60)') for 1 .. 6;
	$rate->(1000000);
	$rows->exact('it comes to its end', @views);
	$rows->drop('beside');
});

# ------------------------------------------------------------ less than is in use

$oracle->section('less than is in use', sub {
	$rows->memory('64MB');
	$rows->source('table', 'lowered');
	my @views = $rows->views_over('lowered', undef, qw(flat num tumf));
	$rows->give('lowered', 30000, k => "'key ' || i", x => 'i');
	$rows->exact('much', @views);
	my $before = taken();
	cmp_ok($before, '>', 12 * $mb, "much is in use: $before bytes");
	my $seen = -s $node->logfile;
	sql("ALTER SYSTEM SET weir.state_memory = '2MB'");
	$node->reload;
	$rows->give('lowered', 300, k => "'key ' || i - 30000", x => 'i - 30000') for 1 .. 5;
	ok($node->wait_until('SELECT weir.state_memory_taken() <= 2 * 1024 * 1024', 't', 2), 'it is given back');
	within(20, 'lowered', sub { $rows->comes_to('exact, with less', @views) });
	is(stalls_since($seen), 0, 'no view stalls for it');
	sql('ALTER SYSTEM RESET weir.state_memory');
	$node->reload;
	$rows->give('lowered', 300, k => "'key ' || i - 30000");
	$rows->exact('and with more', @views);
	$rows->drop('lowered');
});

$broker->stop;
done_testing();
