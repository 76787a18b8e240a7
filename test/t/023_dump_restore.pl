# A view that moves house: pg_dump | psql, a standby, its promotion.  It goes on
# from the positions that came with its rows, exactly, or stalls and says why.
use strict;
use warnings;

use Test::More;
use Time::HiRes qw(sleep time);
use WeirBroker;
use PostgreSQL::Test::Utils;
use WeirNode;

my $broker = WeirBroker->new(topics => { clicks => 2 });
my $node = WeirNode->start_new('main');
create_kafka($node, $broker);

my $sent = 0;

# Every fiftieth is bad.
sub send_some
{
	my ($n) = @_;
	my @rows;
	for (1 .. $n)
	{
		$sent++;
		push @rows, [ $sent % 2, undef, $sent % 50 == 0 ? 'bad' :
			sprintf('{"k": "k%d", "n": %d, "ts": "2026-01-01T00:%02d:30Z"}', rand 20, $sent, rand 60) ];
	}
	$broker->produce('clicks', @rows);
}

# The oracle: the topic itself, scanned as text and parsed by Postgres.
my $truth = q[SELECT j->>'k' AS k, date_trunc('minute', (j->>'ts')::timestamptz) AS m, count(*) AS c, sum((j->>'n')::numeric) AS s, max((j->>'n')::int) AS x
	FROM (SELECT v::jsonb AS j FROM clicks_text WHERE v LIKE '{%' OFFSET 0) t GROUP BY 1, 2];

sub is_exact
{
	my ($where, $db, $what) = @_;
	my $error = $where->error_of("SELECT weir.wait_for('v', '60 s')", $db);
	is($error, '', "$what: caught up");
	my $wrong = $where->safe_psql($db, qq{
		WITH ours AS (SELECT k, lower(win) AS m, c, s, x FROM v), theirs AS ($truth)
		SELECT (SELECT count(*) FROM (TABLE ours EXCEPT ALL TABLE theirs) a) || ' ' ||
			(SELECT count(*) FROM (TABLE theirs EXCEPT ALL TABLE ours) b) || ' ' || (SELECT count(*) > 0 FROM ours)});
	is($wrong, '0 0 true', "$what: exact");
	is($where->safe_psql($db, q{SELECT count(*) FROM weir.dead_letters WHERE view = 'v'::regclass}),
		$where->safe_psql($db, q[SELECT count(*) FROM clicks_text WHERE v NOT LIKE '{%']), "$what: its dead letters");

	# the changelog came along, goes on, and folds to the windows that are closed
	$wrong = $where->safe_psql($db, q{
		WITH closed AS (SELECT * FROM v WHERE weir.is_closed('v', win)),
			folded AS (SELECT k, win, c, s, x, sum(weir_diff) AS n FROM v_changes GROUP BY k, win, c, s, x HAVING sum(weir_diff) <> 0)
		SELECT (SELECT count(*) FROM (TABLE closed EXCEPT ALL SELECT k, win, c, s, x FROM folded) a) || ' ' ||
			(SELECT count(*) FROM (SELECT k, win, c, s, x FROM folded EXCEPT ALL TABLE closed) b) || ' ' ||
			(SELECT count(*) FROM folded WHERE n <> 1) || ' ' || (SELECT count(*) > 0 FROM closed) || ' ' ||
			(SELECT max(weir_seq) = (SELECT next_seq - 1 FROM weir_data.status) FROM v_changes) || ' ' ||
			(SELECT channel LIKE 'weir\_%' FROM weir.views)});
	is($wrong, '0 0 0 true true true', "$what: its changelog");
}

$node->safe_psql('postgres', q{
	CREATE FOREIGN TABLE clicks (k text, n int, ts timestamptz) SERVER kafka OPTIONS (topic 'clicks');
	CREATE FOREIGN TABLE clicks_text (v text) SERVER kafka OPTIONS (topic 'clicks', format 'text');
	CREATE TABLE v WITH (weir.continuous) AS
		SELECT k, weir.tumble(ts, '1 minute') AS win, count(*) AS c, sum(n) AS s, max(n) AS x FROM clicks GROUP BY k, win;
	CREATE INDEX ON v (c)});
send_some(500);
is_exact($node, 'postgres', 'at home');

# ------------------------------------------------------------- dump, restore

my $dump = "$PostgreSQL::Test::Utils::tmp_check/dump";
command_ok([ 'pg_dump', '-d', $node->connstr('postgres'), '-f', $dump ], 'pg_dump while it runs');
send_some(300);
is_exact($node, 'postgres', 'after the dump');

sub restore
{
	my ($where, $db, $file) = @_;
	$where->safe_psql('postgres', "CREATE DATABASE $db");
	command_ok([ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-d', $where->connstr($db), '-f', $file ], "restored into $db");
}

# The restored view holds the dump's rows until its worker has gone on; it goes
# on by itself or says that it waits for a person.
sub goes_on
{
	my ($where, $db, $what) = @_;
	$where->wait_until(q{SELECT state IN ('running', 'stalled', 'paused') FROM weir.views}, 't', 30, $db);
	my $state = $where->safe_psql($db, 'SELECT state FROM weir.views');
	if ($state ne 'running')
	{
		isnt($where->safe_psql($db, 'SELECT coalesce(message, hint) FROM weir.views'), '', "$what: says why it waits");
		$where->safe_psql($db, "SELECT weir.resume('v')");
	}
	is_exact($where, $db, $what);
}

restore($node, 'copied', $dump);
goes_on($node, 'copied', 'another database of the same server');
is_exact($node, 'postgres', 'the original does not mind');

my $other = WeirNode->start_new('other');
restore($other, 'moved', $dump);
goes_on($other, 'moved', 'another server');
send_some(300);
is_exact($_->[0], $_->[1], "then all go on: $_->[1]") for [ $node, 'postgres' ], [ $node, 'copied' ], [ $other, 'moved' ];
$other->kill9_worker;
send_some(100);
is_exact($other, 'moved', 'after kill -9 of the restored');
like($other->error_of('DELETE FROM v', 'moved'), qr/^55000/, 'the restored view is read-only');
like($other->error_of('DELETE FROM v_changes', 'moved'), qr/^55000.*changelog "v_changes"/, 'so is its changelog');
like($other->error_of('DROP TABLE v_changes', 'moved'), qr/^2BP01/, 'which is part of it again');
$other->safe_psql('moved', 'ALTER TABLE v RENAME TO w');
is($other->safe_psql('moved', "SELECT to_regclass('w_changes') IS NOT NULL"), 't', 'and follows it');
$other->safe_psql('moved', 'ALTER TABLE w RENAME TO v');
is($other->error_of('DROP TABLE v', 'moved'), '', 'and can be dropped');
is($other->safe_psql('moved', "SELECT to_regclass('v_changes') IS NULL"), 't', 'with its changelog');
is($other->safe_psql('moved', q{SELECT count(*) FROM pg_class WHERE relnamespace = 'weir_data'::regnamespace AND relname ~ '^(query|state)_'}),
	'0', 'with all its parts');

# The custom format, in parallel, and a dump of a paused view.
$node->safe_psql('postgres', "SELECT weir.pause('v')");
command_ok([ 'pg_dump', '-Fc', '-d', $node->connstr('postgres'), '-f', "$dump.c" ], 'pg_dump of a paused view');
$node->safe_psql('postgres', "SELECT weir.resume('v')");
$other->safe_psql('postgres', 'CREATE DATABASE parallel');
command_ok([ 'pg_restore', '-j2', '-e', '-d', $other->connstr('parallel'), "$dump.c" ], 'pg_restore -j2');
# a scout takes it in
$other->poll_query_until('parallel', 'SELECT count(*) = 1 FROM weir.views') or die 'the view was not taken in';
is($other->safe_psql('parallel', q{SELECT state FROM weir.views}), 'paused', 'a paused view arrives paused');
$other->safe_psql('parallel', "SELECT weir.resume('v')");
is_exact($other, 'parallel', 'resumed');

# A dump that is older than what the topic still holds would be a gap; a dump
# whose topic is another: the fingerprint tells.
{
	my $strange = WeirBroker->new(topics => { clicks => 2 });
	$strange->produce('clicks', map { [ $_ % 2, undef, qq({"k": "z", "n": $_}) ] } 1 .. 5000);
	$other->safe_psql('postgres', 'CREATE DATABASE strange');
	my $address = $strange->bootstrap;
	my $there = $broker->bootstrap;
	my $text = slurp_file($dump);
	$text =~ s/\Q$there\E/$address/g;
	append_to_file("$dump.strange", $text);
	command_ok([ 'psql', '-Xq', '-d', $other->connstr('strange'), '-f', "$dump.strange" ], 'restored beside another topic');
	$other->wait_until(q{SELECT state FROM weir.views}, 'stalled', 30, 'strange');
	$other->safe_psql('strange', "SELECT weir.resume('v')") if $other->safe_psql('strange', 'SELECT message FROM weir.views') =~ /resume/;
	ok($other->wait_until(q{SELECT state || ' ' || message FROM weir.views}, 'stalled the topic is not the one that the view has read', 30, 'strange'),
		'another topic of the same name is recognised');
	is($other->safe_psql('strange', 'SELECT sum(c) FROM v'), '490', 'nothing of it was folded');
	$other->safe_psql('postgres', 'DROP DATABASE strange');
}
$other->stop;

# ------------------------------------------------------------- a standby

$node->safe_psql('postgres', 'DROP DATABASE copied');
$node->backup('base');
my $standby = WeirNode->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
send_some(300);
is_exact($node, 'postgres', 'with a standby');
$node->wait_for_catchup($standby);
is($standby->safe_psql('postgres', 'SELECT * FROM v ORDER BY 1, 2'), $node->safe_psql('postgres', 'SELECT * FROM v ORDER BY 1, 2'),
	'the standby shows the same rows');
is($standby->safe_psql('postgres', 'SELECT state FROM weir.views'), 'running', 'and the monitoring views');
like($standby->error_of("SELECT weir.wait_for('v')"), qr/^55000: .*standby/, 'wait_for refuses there');
is($standby->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'pg_weir%'}), '0', 'a standby never ingests');
like($standby->error_of("SELECT weir.pause('v')"), qr/^25006/, 'nor takes orders');

# The primary dies in the middle of its work.
send_some(400);
$node->crash_server(no_start => 1);
$standby->promote;
is_exact($standby, 'postgres', 'the promoted standby');
send_some(200);
is_exact($standby, 'postgres', 'and on');

unlike(slurp_file($_->logfile), qr/PANIC|TRAP:|signal 11|signal 6/, $_->name . ': nobody crashed but on demand') for $node, $other, $standby;
$standby->stop;
done_testing;
