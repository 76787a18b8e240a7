# An idle worker costs nothing: no WAL, no snapshot, hardly any processor time.
# (At wal_level above minimal the server itself logs a snapshot now and then.)
use strict;
use warnings;

use Test::More;
use Time::HiRes qw(sleep time);
use WeirBroker;
use WeirNode;

my $broker = WeirBroker->new(topics => { quiet => 3, other => 1 });
my $node = WeirNode->start_new('main', conf => <<'EOF2');
autovacuum = off
checkpoint_timeout = 1h
bgwriter_lru_maxpages = 0
wal_level = minimal
max_wal_senders = 0
EOF2
create_kafka($node, $broker);
sub sql { return $node->safe_psql('postgres', @_) }

sql(q{CREATE FOREIGN TABLE quiet (k text, n int, ts timestamptz) SERVER kafka OPTIONS (topic 'quiet');
	CREATE FOREIGN TABLE other (k text) SERVER kafka OPTIONS (topic 'other')});
sql(q{CREATE TABLE sums WITH (weir.continuous, weir.commit_interval = '10 ms') AS SELECT k, sum(n) AS s FROM quiet GROUP BY k});
sql(q{CREATE TABLE per_minute WITH (weir.continuous) AS
	SELECT weir.tumble(ts, '1 minute') AS win, count(*) AS n FROM quiet GROUP BY win});
sql(q{CREATE TABLE total WITH (weir.continuous) AS SELECT count(*) AS n FROM other});
$broker->produce('quiet', map { [ $_ % 3, undef, qq({"k": "k$_", "n": $_, "ts": "2026-01-01T00:00:00Z"}) ] } 1 .. 1000);
sql("SELECT weir.wait_for('$_')") for qw(sums per_minute total);
is(sql('SELECT sum(s) FROM sums'), '500500', 'it has worked');

my @pids = $node->worker_pids('postgres');
push @pids, $node->worker_pids(undef, 'pg_weir launcher');
is(scalar @pids, 3, 'two workers and the launcher');

# in ticks, of all threads
sub ticks
{
	my ($pid) = @_;
	open my $fh, '<', "/proc/$pid/stat" or die "/proc/$pid/stat: $!";
	my $stat = <$fh>;
	$stat =~ s/^.*\) //s;
	my @field = split / /, $stat;
	return $field[11] + $field[12];
}

# A feed that has just merged with another, or a first look for partitions, is
# not idleness yet.
sleep 2;
# sessions prune catalog pages in passing, which is WAL of theirs
sql('VACUUM');
sql('CHECKPOINT');
sleep 1;
my $lsn = sql('SELECT pg_current_wal_insert_lsn()');
my $before = sql('SELECT sum(commits) FROM weir_data.status');
my %ticks = map { $_ => ticks($_) } @pids;
my $started = time;

# Look at the snapshots all the while: a look of ours is a transaction of ours.
my $seconds = 20;
my $held = 0;
while (time - $started < $seconds)
{
	$held++ if sql(q{SELECT count(*) FROM pg_stat_activity
		WHERE backend_type LIKE 'pg_weir%' AND (backend_xmin IS NOT NULL OR backend_xid IS NOT NULL)}) ne '0';
	sleep 2;
}
my $elapsed = time - $started;
is($held, 0, 'no snapshot and no transaction of ours in pg_stat_activity');

my $hertz = 100;    # of /proc, whatever the kernel ticks at
for my $pid (@pids)
{
	my $share = (ticks($pid) - $ticks{$pid}) / $hertz / $elapsed;
	cmp_ok($share, '<', 0.005, sprintf 'process %d used %.2f %% of a core', $pid, 100 * $share);
}

is(sql('SELECT pg_current_wal_insert_lsn()'), $lsn, "no WAL in $seconds s");
is(sql('SELECT sum(commits) FROM weir_data.status'),
	$before, 'no commit was counted');
is(sql('SELECT count(*) FROM pg_replication_slots'), '0', 'no replication slot');
is_deeply([ $node->worker_pids('postgres') ], [ @pids[ 0, 1 ] ], 'the same processes as before');

# And it is awake: what comes now is there soon.
$broker->produce('quiet', [ 0, undef, '{"k": "k1", "n": 1}' ]);
$started = time;
ok($node->wait_until(q{SELECT s FROM sums WHERE k = 'k1'}, '2', 10), 'awake');
cmp_ok(time - $started, '<', 2, 'at once');

$node->stop;
done_testing;
