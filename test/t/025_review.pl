# What a reviewer found: each block failed once.
use strict;
use warnings;

use Test::More;
use Time::HiRes qw(sleep time);
use WeirBroker;
use PostgreSQL::Test::Utils;
use WeirNode;

my $broker = WeirBroker->new;
my $node = WeirNode->start_new('main', conf => "weir.max_workers = 4\n");
create_kafka($node, $broker);

sub sql { return $node->safe_psql('postgres', @_) }

sub stream
{
	my ($name, $columns, $partitions) = @_;
	$broker->create_topic($name, $partitions || 1);
	sql("CREATE FOREIGN TABLE $name ($columns) SERVER kafka OPTIONS (topic '$name')");
}

sub send_to
{
	my ($topic, @values) = @_;
	$broker->produce($topic, map { [ 0, undef, $_ ] } @values);
}

sub view
{
	my ($name, $query, $options) = @_;
	sql("CREATE TABLE $name WITH (weir.continuous" . ($options ? ", $options" : '') . ") AS $query");
}

# Rows in which a view and Q over its topic differ, once it has caught up
sub difference
{
	my ($view) = @_;
	sql("SELECT weir.wait_for('$view')");
	my $q = sql("SELECT weir.definition('$view')");
	return sql("(TABLE $view EXCEPT ALL ($q)) UNION ALL (($q) EXCEPT ALL TABLE $view)");
}

sub state_of
{
	return sql("SELECT state || coalesce(' ' || sqlstate, '') FROM weir.views WHERE view = '$_[0]'::regclass");
}

# A condition that is NULL is not true, whatever the row before it gave.
{
	stream('unknowns', 'k text, x numeric, y int');
	view('u_where', 'SELECT k, count(*) AS n, count(*) FILTER (WHERE y > 0) AS f, sum(x) AS s FROM unknowns WHERE x > 0 GROUP BY k');
	view('u_and', 'SELECT k, count(*) AS n, sum(x) AS s FROM unknowns WHERE abs(x) > 0 AND y < 100 GROUP BY k');
	view('u_having', 'SELECT k, count(*) AS n FROM unknowns GROUP BY k HAVING sum(x) > 0');
	send_to('unknowns', map { (qq({"k": "a$_", "x": 1, "y": 1}), qq({"k": "a$_", "y": 1}),
		qq({"k": "a$_", "x": 2}), qq({"k": "b$_"}), qq({"k": "c$_", "x": 1, "y": 2})) } 1 .. 30);
	is(difference($_), '', "$_: a condition that is NULL") for qw(u_where u_and u_having);
	sql('DROP FOREIGN TABLE unknowns CASCADE');
}

$node->stop;
$broker->stop if $broker->can('stop');
done_testing();
