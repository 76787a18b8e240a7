# A topic that holds rows in any order, read by views that are made afterwards, in
# many commits: nothing of that is late, whatever the policy, and the views are
# their query over all of it.  Windows share panes, so a row that one of them were
# said to miss would be in it nevertheless.
# The embedded broker suffices.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use WeirNode;
use WeirBroker;

my $broker = WeirBroker->new(topics => { mixed => 1 });
my $node = WeirNode->start_new('main');
create_kafka($node, $broker);
sub sql { return $node->safe_psql('postgres', @_) }

# every third row is one or two hours behind
my $n = 30_000;
$broker->produce('mixed', map { [ 0, undef, sprintf('{"k": %d, "s": %d}', $_ % 5, $_ - ($_ % 3 ? 0 : 3600 * (1 + $_ % 2))) ] } 1 .. $n);
sql(q{CREATE FOREIGN TABLE mixed (k int, s int) SERVER kafka OPTIONS (topic 'mixed')});
sql('CREATE TABLE copied AS SELECT * FROM mixed');
is(sql('SELECT count(*) FROM copied'), $n, 'the topic is there');

# an expression that costs some microseconds, so that there are many commits
my $ts = "timestamptz '2026-01-01 00:00Z' + s * interval '1 second'";
my $work = q{max(length(md5(repeat(k || 'x', 4000)))) AS l};
my %view = (
	tumbling => qq{SELECT k, weir.tumble($ts, '10 minutes') AS win, count(*) AS c, $work FROM %s GROUP BY k, win},
	sliding => qq{SELECT k, weir.hop($ts, '1 minute', '10 minutes') AS win, count(*) AS c, $work FROM %s GROUP BY k, win},
	growing => qq{SELECT k, weir.cumulate($ts, '10 minutes', '1 hour') AS win, count(*) AS c, $work FROM %s GROUP BY k, win});
sub differing
{
	my ($name) = @_;
	my $q = sprintf $view{$name}, 'copied';
	return sql(qq{SELECT count(*) FROM ((TABLE $name EXCEPT ALL $q) UNION ALL ($q EXCEPT ALL TABLE $name)) x});
}

for my $late (qw(drop side_output))
{
	for my $name (sort keys %view)
	{
		sql(qq{CREATE TABLE $name WITH (weir.continuous, weir.watermark = '5 seconds', weir.late = '$late', weir.commit_interval = '10 ms') AS }
				. sprintf($view{$name}, 'mixed'));
	}
	for my $name (sort keys %view)
	{
		sql("SELECT weir.wait_for('$name', '120 s')");
		is(differing($name), 0, "$name, $late: the view is its query");
		is(sql("SELECT late_side + late_dropped FROM weir.stat_views WHERE view = '$name'::regclass"), 0, 'nothing is late');
		cmp_ok(sql("SELECT commits FROM weir.stat_views WHERE view = '$name'::regclass"), '>', 3, 'in several commits');
	}
	is(sql('SELECT count(*) FROM weir.late_rows'), 0, 'no late rows');
	sql("DROP TABLE $_") for sort keys %view;
}
done_testing();
