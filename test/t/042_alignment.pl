# A view that reads a topic from far behind, whose partitions are uneven: one holds
# forty days in a ninth of the messages in which the other holds one.  The one that
# is ahead makes no row of the other late, and is held so that it opens no windows
# of weeks to come.
# The embedded broker suffices.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);
use WeirNode;
use WeirBroker;

my $broker = WeirBroker->new(topics => { uneven => 2 });
my $node = WeirNode->start_new('main');
create_kafka($node, $broker);
sql(q{ALTER SERVER kafka OPTIONS (ADD queued_max_messages_kbytes '100')});
sub sql { return $node->safe_psql('postgres', @_) }

# p0: 86400 s * 40 / 10_000; wide, so that not all of it is fetched at once
my ($fast, $slow) = (10_000, 90_000);
my $pad = 'x' x 420;
my $file = "$PostgreSQL::Test::Utils::tmp_check/uneven";
open my $fh, '>', $file or die "$file: $!";
printf $fh qq(0\t\\N\t{"k": %d, "s": %.2f, "pad": "$pad"}\n), $_ % 10, $_ * 345.6 for 0 .. $fast - 1;
printf $fh qq(1\t\\N\t{"k": %d, "s": %.2f}\n), $_ % 10, $_ * 0.96 for 0 .. $slow - 1;
close $fh;

# an expression that costs some microseconds, so that there is something to see
my $query = q{SELECT k, weir.tumble(timestamptz '2026-01-01 00:00Z' + s * interval '1 second', '1 minute') AS win,
	count(*) AS n, max(length(md5(repeat(k || 'x', 2000)))) AS l FROM %s GROUP BY k, win};
sql('CREATE FOREIGN TABLE uneven (k int, s float8, part int OPTIONS (metadata \'partition\')) SERVER kafka OPTIONS (topic \'uneven\')');

sql(qq{CREATE TABLE v WITH (weir.continuous, weir.watermark = '5 seconds', weir.late = 'side_output', weir.commit_interval = '20 ms') AS }
		. sprintf($query, 'uneven'));
sql(q{SELECT weir.wait_for('v')});
sql(q{SELECT weir.pause('v')});
$broker->produce_file('uneven', $file);
sql('CREATE TABLE copied AS SELECT * FROM uneven');
is(sql('SELECT count(*) FROM copied'), $fast + $slow, 'the topic is there');
sql(q{CREATE VIEW how AS SELECT max(greatest) - min(greatest) AS apart, count(greatest) AS seen,
	min(source_end - position) AS least_left, max(source_end - position) AS most_left FROM weir_data.positions});

# not a backfill, of which nothing is ever late
sql(q{SELECT weir.resume('v')});
my ($samples, $most, $most_groups) = (0, 0, 0);
my $deadline = time + 120;
while (time < $deadline)
{
	my ($seconds, $seen, $left, $groups, $state, $rows_in) = split /\|/,
		sql(q{SELECT extract(epoch FROM h.apart), h.seen, h.most_left, (SELECT sum(groups) FROM weir_data.status),
			(SELECT state FROM weir.views), (SELECT rows_in FROM weir.stat_views) FROM how h});
	last if $rows_in == $fast + $slow || $state eq 'stalled';
	# while the slow one has much to be read
	if (($seen || 0) == 2 && $left ne '' && $left > 12_000)
	{
		$samples++;
		$most = $seconds if $seconds > $most;
		$most_groups = $groups if $groups > $most_groups;
	}
	sleep 0.02;
}
cmp_ok($samples, '>', 3, "it was looked at while it read ($samples times)");
# an hour, and what was fetched before: megabytes
cmp_ok($most, '<', 20 * 86400, sprintf('the partitions stay side by side (%.1f h apart at most)', $most / 3600));
sql(q{SELECT weir.wait_for('v', '60 s')});
is(sql('SELECT count(*) FROM weir.late_rows'), 0, 'no row is late');
my $q = sprintf $query, 'copied';
is(sql(qq{SELECT count(*) FROM ((TABLE v EXCEPT ALL $q) UNION ALL ($q EXCEPT ALL TABLE v)) x}), 0, 'the view is its query');
is(sql('SELECT rows_in FROM weir.stat_views'), $fast + $slow, 'each message was read once');

# the end of the slow one; the other has its weeks to come, and goes on at once
$broker->produce('uneven', [ 0, undef, '{"k": 1, "s": 7000000}' ]);
sql(q{SELECT weir.wait_for('v', '20 s')});
is(sql(q{SELECT held_by FROM weir.views}), 'partition 1', 'the slow one holds the watermark');
sql(q{CREATE FUNCTION shift_clock(interval) RETURNS void LANGUAGE c AS 'pg_weir', 'weir_test_shift_clock'});
sql(q{SELECT shift_clock('40 seconds')});
my $watermark = '';
for (1 .. 100)
{
	$watermark = sql(q{SELECT watermark = timestamptz '2026-01-01 00:00Z' + 7000000 * interval '1 second' - interval '5 seconds' FROM weir.views});
	last if $watermark eq 't';
	sleep 0.1;
}
is($watermark, 't', 'until it is idle');
done_testing();
