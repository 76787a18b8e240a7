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

# Opening a view that has gone meanwhile: the worker took its definition, and is
# busy with the view before it.
{
	stream('leaving', 'k text');
	view('l_stays', 'SELECT k, count(*) AS n FROM leaving GROUP BY k');
	view('l_goes', 'SELECT count(*) AS n FROM leaving');
	send_to('leaving', '{"k": "a"}');
	is(difference('l_goes'), '', 'two views');
	my ($worker) = sql("SELECT weir.worker_pid('l_goes')") =~ /(\d+)/;
	sql("ALTER SYSTEM SET weir.fault = 'open:sleep:1, open:sleep:2'");
	sql('SELECT pg_reload_conf()');
	my $log = -s $node->logfile;
	sql("SELECT pg_terminate_backend($worker)");
	$node->wait_for_log(qr/fault point open: sleep/, $log);
	sql('DROP TABLE l_goes');
	sql('ALTER SYSTEM RESET weir.fault');
	sql('SELECT pg_reload_conf()');
	send_to('leaving', '{"k": "b"}');
	is(difference('l_stays'), '', 'the other view goes on');
	unlike(slurp_file($node->logfile), qr/terminated by signal/, 'nothing died of it');
	sql('DROP FOREIGN TABLE leaving CASCADE');
}

# Who may not execute a function may not do so by way of a view.
{
	stream('secrets', 'k text');
	sql(q{CREATE FUNCTION secret(text) RETURNS text IMMUTABLE SECURITY DEFINER LANGUAGE sql AS $$ SELECT 'secret of ' || $1 $$});
	sql('REVOKE EXECUTE ON FUNCTION secret FROM public');
	sql('CREATE ROLE curious; GRANT ALL ON SCHEMA public TO curious; GRANT USAGE ON FOREIGN SERVER kafka TO curious; GRANT SELECT ON secrets TO curious');
	send_to('secrets', '{"k": "a"}');
	for my $query ('SELECT secret(k) AS k, count(*) AS n FROM secrets GROUP BY 1',
		'SELECT secret(max(k)) AS k FROM secrets', 'SELECT max(secret(k)) AS k FROM secrets',
		"SELECT max(k) AS k FROM secrets WHERE secret(k) <> ''",
		"SELECT max(k) AS k FROM secrets HAVING secret(max(k)) <> ''")
	{
		$node->psql('postgres', "SET ROLE curious; CREATE TABLE peek WITH (weir.continuous) AS $query");
		like($node->error_of("SELECT weir.wait_for('peek')"), qr/^(42501|42P01)/, "refused: $query");
		sql('DROP TABLE IF EXISTS peek');
	}
	sql('DROP FOREIGN TABLE secrets CASCADE');
}

# An expression that raises "no such table" stalls its view like any other.
{
	stream('tables', 'k text');
	sql(q{CREATE FUNCTION picky(bigint) RETURNS bigint IMMUTABLE LANGUAGE plpgsql AS
		$$ BEGIN IF $1 > 1 THEN RAISE 'no such table' USING ERRCODE = '42P01'; END IF; RETURN $1; END $$});
	view('t_picky', 'SELECT k, picky(count(*)) AS n FROM tables GROUP BY k');
	send_to('tables', '{"k": "a"}');
	is(difference('t_picky'), '', 'it works for one');
	send_to('tables', '{"k": "a"}');
	like($node->error_of("SELECT weir.wait_for('t_picky', '10 s')"), qr/^42P01: no such table/, 'and says what is wrong with two');
	sql('DROP FOREIGN TABLE tables CASCADE');
}

# What the function of one owner sets does not reach the views of another.
{
	stream('shared', 'k text, ts timestamptz');
	sql(q{CREATE FUNCTION meddle(text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN
		PERFORM set_config('TimeZone', 'Asia/Tokyo', false);
		PERFORM set_config('default_transaction_read_only', 'on', false);
		PERFORM set_config('search_path', 'pg_temp', false);
		RETURN $1; END $$});
	sql('GRANT USAGE ON FOREIGN SERVER kafka TO curious; GRANT SELECT ON shared TO curious');
	send_to('shared', map { qq({"k": "$_", "ts": "2026-01-01T0$_:00:00Z"}) } 1 .. 3);
	sql("SET ROLE curious; CREATE TABLE s_meddler WITH (weir.continuous) AS SELECT meddle(k) AS k, meddle(max(k)) AS m, count(*) AS n FROM shared GROUP BY 1");
	view('s_victim', q{SELECT to_char(ts, 'YYYY-MM-DD HH24') AS hour, max(ts)::text AS t, count(*) AS n FROM shared GROUP BY 1});
	for my $i (4 .. 9)
	{
		send_to('shared', qq({"k": "$i", "ts": "2026-01-01T0$i:00:00Z"}));
		sql("SELECT weir.wait_for('$_')") for qw(s_meddler s_victim);
	}
	is(sql('SELECT count(*), sum(n) FROM s_meddler'), '9|9', 'the meddler gets what he asked for');
	is(difference('s_victim'), '', 'and his neighbour what is right');
	is(state_of('s_victim'), 'running', 'and is not held up');
	sql('DROP FOREIGN TABLE shared CASCADE; DROP OWNED BY curious; DROP ROLE curious');
}

# The launcher may end at any time; another takes its place and knows whom it
# inherits.
{
	stream('orphans', 'k text');
	view('o_count', 'SELECT count(*) AS n FROM orphans');
	is(difference('o_count'), '', 'a view');
	my $launcher = q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_weir launcher'};
	my ($worker) = $node->worker_pids('postgres');
	for my $how (qw(pg_terminate_backend pg_cancel_backend))
	{
		my $old = sql($launcher);
		sql("SELECT $how($old)");
		ok($node->wait_until("SELECT count(*) FROM ($launcher) l WHERE pid <> $old", '1', 20), "$how: a new launcher");
		is_deeply([ $node->worker_pids('postgres') ], [$worker], 'and the worker that was there');
		sql("SELECT pg_terminate_backend($worker)");
		ok($node->wait_until("SELECT weir.worker_pid('o_count') <> $worker", 't', 20), 'a worker that ends is replaced');
		($worker) = $node->worker_pids('postgres');
		send_to('orphans', '{"k": "a"}');
		is(difference('o_count'), '', 'and goes on');
	}
	sql('DROP FOREIGN TABLE orphans CASCADE');
}

$node->stop;
$broker->stop if $broker->can('stop');
done_testing();
