# An idle worker costs nothing: no WAL, no snapshot, hardly any processor time.
#
# Two servers are idle side by side.  One has topics alone and writes no WAL at all.
# The other follows a table and a push stream; at its wal_level the server itself
# logs a snapshot now and then, so what it has written is looked at record by record.
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

my $other = WeirNode->start_new('logical', conf => <<'EOF2');
autovacuum = off
checkpoint_timeout = 1h
EOF2
sub other { return $other->safe_psql('postgres', @_) }

sql(q{CREATE FOREIGN TABLE quiet (k text, n int, ts timestamptz) SERVER kafka OPTIONS (topic 'quiet');
	CREATE FOREIGN TABLE other (k text) SERVER kafka OPTIONS (topic 'other')});
sql(q{CREATE TABLE sums WITH (weir.continuous, weir.commit_interval = '10 ms') AS SELECT k, sum(n) AS s FROM quiet GROUP BY k});
sql(q{CREATE TABLE per_minute WITH (weir.continuous) AS
	SELECT weir.tumble(ts, '1 minute') AS win, count(*) AS n FROM quiet GROUP BY win});
sql(q{CREATE TABLE total WITH (weir.continuous) AS SELECT count(*) AS n FROM other});
$broker->produce('quiet', map { [ $_ % 3, undef, qq({"k": "k$_", "n": $_, "ts": "2026-01-01T00:00:00Z"}) ] } 1 .. 1000);
sql("SELECT weir.wait_for('$_')") for qw(sums per_minute total);
is(sql('SELECT sum(s) FROM sums'), '500500', 'it has worked');

other(q{CREATE EXTENSION pg_weir; CREATE EXTENSION pg_walinspect;
	CREATE TABLE changed (k int, n int); ALTER TABLE changed REPLICA IDENTITY FULL;
	CREATE FOREIGN TABLE pushed (k int, ts timestamptz) SERVER weir_stream;
	CREATE TABLE of_changed WITH (weir.continuous, weir.commit_interval = '10 ms') AS SELECT k, sum(n) AS s FROM changed GROUP BY k;
	CREATE TABLE of_pushed WITH (weir.continuous, weir.idle_timeout = '1 second') AS SELECT weir.tumble(ts, '1 minute') AS win, count(*) AS c FROM pushed GROUP BY win});
other(q{INSERT INTO changed SELECT i % 10, i FROM generate_series(1, 1000) i;
	INSERT INTO pushed SELECT i, now() + i * interval '1 second' FROM generate_series(1, 1000) i;
	UPDATE changed SET n = n + 1});
other("SELECT weir.wait_for('$_')") for qw(of_changed of_pushed);
is(other('SELECT sum(s), (SELECT sum(c) FROM of_pushed) FROM of_changed'), '501500|1000', 'so has the other');
my @others = ($other->worker_pids('postgres'), $other->worker_pids(undef, 'pg_weir launcher'));
is(scalar @others, 2, 'one worker and the launcher');

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
for my $each ($node, $other)
{
	$each->safe_psql('postgres', 'VACUUM');
	$each->safe_psql('postgres', 'CHECKPOINT');
}
sleep 1;
my $other_lsn = other('SELECT pg_current_wal_insert_lsn()');
my $other_before = other('SELECT sum(commits) FROM weir_data.status');
my $lsn = sql('SELECT pg_current_wal_insert_lsn()');
my $before = sql('SELECT sum(commits) FROM weir_data.status');
my %ticks = map { $_ => ticks($_) } @pids, @others;
my $started = time;

# Look at the snapshots all the while: a look of ours is a transaction of ours.
my $seconds = 20;
my $held = 0;
while (time - $started < $seconds)
{
	$held += $_->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity
		WHERE backend_type LIKE 'pg_weir%' AND (backend_xmin IS NOT NULL OR backend_xid IS NOT NULL)}) for $node, $other;
	sleep 2;
}
my $elapsed = time - $started;
is($held, 0, 'no snapshot and no transaction of ours in pg_stat_activity');

my $hertz = 100;    # of /proc, whatever the kernel ticks at
for my $pid (@pids, @others)
{
	my $share = (ticks($pid) - $ticks{$pid}) / $hertz / $elapsed;
	cmp_ok($share, '<', 0.005, sprintf 'process %d used %.2f %% of a core', $pid, 100 * $share);
}

is(sql('SELECT pg_current_wal_insert_lsn()'), $lsn, "no WAL in $seconds s");
is(sql('SELECT sum(commits) FROM weir_data.status'),
	$before, 'no commit was counted');
is(sql('SELECT count(*) FROM pg_replication_slots'), '0', 'no replication slot');
other(q{SELECT pg_create_restore_point('end')});
my $records = other("SELECT resource_manager, record_type, count(*) FROM pg_get_wal_records_info('$other_lsn', pg_current_wal_flush_lsn()) GROUP BY 1, 2 ORDER BY 1, 2");
like($records, qr/^XLOG\|RESTORE_POINT\|1$/m, 'the other server: what has been written can be seen');
is(join(' ', grep { !/^(?:XLOG\|RESTORE_POINT|Standby\|RUNNING_XACTS)\|/ } split /\n/, $records), '', '... no WAL but the snapshots that it logs for standbys');
is(other('SELECT sum(commits) FROM weir_data.status'), $other_before, '... no commit');
is_deeply([ $other->worker_pids('postgres') ], [ $others[0] ], '... the same worker');
other('INSERT INTO changed VALUES (11, 5); INSERT INTO pushed VALUES (1, now())');
ok($other->wait_until('SELECT s FROM of_changed WHERE k = 11', '5', 10), '... which is awake');
is_deeply([ $node->worker_pids('postgres') ], [ @pids[ 0, 1 ] ], 'the same processes as before');

# And it is awake: what comes now is there soon.
$broker->produce('quiet', [ 0, undef, '{"k": "k1", "n": 1}' ]);
$started = time;
ok($node->wait_until(q{SELECT s FROM sums WHERE k = 'k1'}, '2', 10), 'awake');
cmp_ok(time - $started, '<', 2, 'at once');

$_->stop for $node, $other;
done_testing;
