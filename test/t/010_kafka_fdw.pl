# Kafka foreign tables when the broker misbehaves, and against Apache Kafka
# what the embedded broker cannot show.
use strict;
use warnings;

use FindBin;
use IO::Socket::INET;
use IPC::Run ();
use lib "$FindBin::Bin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);
use WeirBroker;
use WeirNode;

my $broker = WeirBroker->new(topics => { clicks => 2, wide => 1 });
my $node = WeirNode->start_new('main');
create_kafka($node, $broker);
$node->safe_psql('postgres', <<'EOF');
ALTER SERVER kafka OPTIONS (timeout '2s');
CREATE FOREIGN TABLE clicks (
	n int, part int OPTIONS (metadata 'partition'), off bigint OPTIONS (metadata 'offset'),
	at timestamptz OPTIONS (metadata 'timestamp')
) SERVER kafka OPTIONS (topic 'clicks');
CREATE SERVER narrow FOREIGN DATA WRAPPER weir_kafka OPTIONS (bootstrap_servers 'x');
CREATE FUNCTION threads() RETURNS int LANGUAGE sql AS
	$$ SELECT count(*)::int FROM pg_ls_dir('/proc/' || pg_backend_pid() || '/task') $$;
EOF

# try(sql): what it answers and how it ends, and the seconds that it took:
# ( sqlstate or '', seconds, output, whole error )
sub try
{
	my ($sql) = @_;
	my ($out, $err) = ('', '');
	my $start = time;
	$node->psql('postgres', "\\set VERBOSITY verbose\n$sql", stdout => \$out, stderr => \$err,
		on_error_stop => 0);
	my ($state) = $err =~ /(?:ERROR|FATAL):  (\w{5}):/;
	return (defined $state ? $state : '', time - $start, $out, $err);
}

my $threads = 'SELECT threads();';
my ($state, $seconds, $out, $err);

# ---- all is well

is_deeply([ (try("INSERT INTO clicks (n, part) SELECT i, i % 2 FROM generate_series(1, 1000) i"))[0] ],
	[''], 'an INSERT delivers');
my %w = $broker->watermarks('clicks');
is_deeply(\%w, { 0 => [ 0, 500 ], 1 => [ 0, 500 ] }, 'all of it');
is($node->safe_psql('postgres', 'SELECT count(*), sum(n) FROM clicks'),
	'1000|500500', 'and a SELECT reads it');

# ---- the broker is away

$broker->down;
($state, $seconds, $out, $err) = try("SELECT * FROM clicks;\n$threads");
is($state, '08001', 'unreachable: 08001 for SELECT');
cmp_ok($seconds, '<', 10, 'within the time-out');
is($out, '1', 'and no thread is left');
like($err, qr/DETAIL:  The Kafka client says: /, 'with the client\'s words');
($state, $seconds, $out) = try("INSERT INTO clicks (n) VALUES (1);\n$threads");
is("$state $out", '08001 1', 'the same for INSERT');
$broker->up;
ok($node->wait_until('SELECT count(*) FROM clicks', '1000'), 'the broker comes back');

# A host that accepts and says nothing.
my $hole = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 5);
my $address = '127.0.0.1:' . $hole->sockport;
$node->safe_psql('postgres', <<"EOF");
CREATE SERVER hole FOREIGN DATA WRAPPER weir_kafka OPTIONS (bootstrap_servers '$address', timeout '1s');
CREATE SERVER patient FOREIGN DATA WRAPPER weir_kafka OPTIONS (bootstrap_servers '$address', timeout '1 min');
CREATE FOREIGN TABLE hole (n int) SERVER hole OPTIONS (topic 'clicks');
CREATE FOREIGN TABLE patient (n int) SERVER patient OPTIONS (topic 'clicks');
EOF
($state, $seconds) = try('SELECT * FROM hole');
is($state, '08001', 'a silent host: 08001');
cmp_ok($seconds, '<', 5, 'within the time-out');
for my $sql ('SELECT * FROM patient', 'INSERT INTO patient VALUES (1)')
{
	($state, $seconds, $out) = try("SET statement_timeout = '300ms';\n$sql;\nRESET statement_timeout;\n$threads");
	is("$state $out", '57014 1', "a cancel ends $sql and its threads");
	cmp_ok($seconds, '<', 3, 'at once');
}

# A session that is terminated while it waits takes the server nowhere.
my $session = IPC::Run::start(
	[ 'psql', '-XAtq', '-d', $node->connstr('postgres'), '-c', 'SELECT * FROM patient' ],
	'>', \my $gone_out, '2>', \my $gone_err);
$node->wait_until("SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT * FROM patient'", 1);
sleep 0.3;
my $start = time;
$node->safe_psql('postgres',
	"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE query = 'SELECT * FROM patient'");
$session->finish;
cmp_ok(time - $start, '<', 5, 'a terminated session ends');
like($gone_err, qr/terminating connection due to administrator command/, 'and says why');

# ---- hosts

my $port = (split /:/, $broker->bootstrap)[1];
$node->safe_psql('postgres', <<"EOF");
ALTER SERVER narrow OPTIONS (SET bootstrap_servers 'localhost:$port', ADD timeout '2s',
	ADD allowed_hosts 'localhost', ADD broker_address_family 'v4');
CREATE FOREIGN TABLE narrow (n int) SERVER narrow OPTIONS (topic 'clicks');
EOF
is((try('SELECT * FROM narrow'))[0], '08001',
	'an advertised address that is not allowed is not connected to');
$node->safe_psql('postgres', "ALTER SERVER narrow OPTIONS (SET allowed_hosts 'localhost, 127.0.0.1:$port')");
is($node->safe_psql('postgres', 'SELECT count(*) FROM narrow'), '1000', 'one that is allowed is');

SKIP:
{
	skip 'the embedded broker only', 9 if $broker->is_real;

	# ---- a broker that is slow, or says no

	$broker->order('rtt 250');
	is($node->safe_psql('postgres', "ALTER SERVER kafka OPTIONS (SET timeout '20s');
		SELECT count(*) FROM clicks"), '1000', 'answers that take longer than a slice are heard');
	$broker->order('rtt 0');

	$broker->order('topic_error clicks 3');
	is((try('SELECT * FROM clicks'))[0], '42P01', 'no such topic: 42P01');
	is((try('INSERT INTO clicks (n) VALUES (1)'))[0], '42P01', 'for INSERT too');
	$broker->order('topic_error clicks 29');
	is((try('SELECT * FROM clicks'))[0], '42501', 'no right to the topic: 42501');
	$broker->order('topic_error clicks 0');
	is((try('SELECT * FROM clicks'))[0], '', 'and all is well again');

	# 0 is the produce request; 29 is not retried
	$broker->order('fail 0 29 1');
	($state, $seconds, $out, $err) = try("INSERT INTO clicks (n) VALUES (5000);\n$threads");
	is("$state $out", '42501 1', 'a message that the broker refuses fails the statement');
	like($err, qr/0 of 1 messages have been delivered/, 'which says how much was delivered');

	# 7 is retried: nothing lost, nothing twice
	$broker->order('fail 0 7 2');
	is((try('INSERT INTO clicks (n) VALUES (6000)'))[0], '', 'what can be retried is');
	is($node->safe_psql('postgres', 'SELECT n, count(*) FROM clicks WHERE n >= 5000 GROUP BY n'),
		'6000|1', 'without a second copy');
}

# ---- it goes away in the middle

# fetches so small that the broker is needed until the end
$node->safe_psql('postgres', <<"EOF");
CREATE SERVER slow FOREIGN DATA WRAPPER weir_kafka OPTIONS (bootstrap_servers '${\$broker->bootstrap}',
	timeout '5s', max_partition_fetch_bytes '20000', fetch_max_bytes '20000', queued_max_messages_kbytes '20',
	message_max_bytes '20000');
CREATE FOREIGN TABLE wide (t text) SERVER slow OPTIONS (topic 'wide', format 'text');
INSERT INTO wide SELECT repeat('x', 1000) FROM generate_series(1, 2000);
EOF
is($node->safe_psql('postgres', 'SELECT count(*) FROM wide'), '2000', 'small fetches read it all');
{
	# one session that reads, and stops in the middle until the broker is down
	my ($in, $o, $e) = ('', '', '');
	my $psql = IPC::Run::start(
		[ 'psql', '-XAt', '-v', 'VERBOSITY=verbose', '-d', $node->connstr('postgres') ],
		'<', \$in, '>', \$o, '2>', \$e, IPC::Run::timeout(60));
	$in = "BEGIN; DECLARE c CURSOR FOR SELECT length(t) FROM wide; FETCH 1 FROM c; \\echo first\n";
	$psql->pump until $o =~ /first/;
	$broker->down;
	$in = "MOVE ALL FROM c; \\echo second\nROLLBACK; $threads\n\\q\n";
	$psql->finish;
	like($e, qr/ERROR:  08001: could not reach Kafka server "slow"/, 'a scan that loses its broker fails');
	like($o, qr/second\n(?:ROLLBACK\n)?1\n/, 'and leaves no thread');
	$broker->up;

	($in, $o, $e) = ('', '', '');
	$psql = IPC::Run::start(
		[ 'psql', '-XAt', '-v', 'VERBOSITY=verbose', '-d', $node->connstr('postgres') ],
		'<', \$in, '>', \$o, '2>', \$e, IPC::Run::timeout(60));
	$in = "INSERT INTO wide SELECT 'late' FROM (SELECT pg_sleep(CASE i WHEN 2 THEN 2 ELSE 0 END) FROM generate_series(1, 3) i OFFSET 0) s;\n$threads\n\\q\n";
	$psql->pump_nb;
	$node->wait_until("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'", 1);
	$broker->down;
	$psql->finish;
	like($e, qr/ERROR:  08001: could not deliver messages to topic "wide"/, 'an INSERT that loses it fails');
	like($o, qr/^1$/m, 'and leaves no thread');
	$broker->up;
}

# ---- Apache Kafka

SKIP:
{
	skip 'Apache Kafka only', 8 unless $broker->is_real;

	is((try("CREATE FOREIGN TABLE typo (n int) SERVER kafka OPTIONS (topic 'clikcs'); SELECT * FROM typo"))[0],
		'42P01', 'a topic that does not exist');
	is((try('INSERT INTO typo VALUES (1)'))[0], '42P01', 'INSERT does not make it');

	# aborted transactions are not there; their markers leave gaps
	$broker->create_topic('txn', 1, 'retention.ms' => -1);
	$broker->transaction('txn', 'abort', [ 0, undef, '{"n": 1}' ]);
	$broker->transaction('txn', 'commit', [ 0, undef, '{"n": 2}' ], [ 0, undef, '{"n": 3}' ]);
	$broker->transaction('txn', 'abort', [ 0, undef, '{"n": 4}' ]);
	$node->safe_psql('postgres', <<'EOF');
CREATE FOREIGN TABLE txn (
	n int, off bigint OPTIONS (metadata 'offset'), at timestamptz OPTIONS (metadata 'timestamp')
) SERVER kafka OPTIONS (topic 'txn');
EOF
	is($node->safe_psql('postgres', 'SELECT n, off FROM txn'), "2|2\n3|3", 'committed messages only');
	my $producer = $broker->producer('txn', 'open');
	$producer->order('!begin');
	$producer->send([ 0, undef, '{"n": 5}' ]);
	$producer->order('!flush');
	is($node->safe_psql('postgres', 'SELECT max(n) FROM txn'), '3', 'an open transaction is not waited for');
	$producer->order('!commit');
	$producer->stop;
	is($node->safe_psql('postgres', 'SELECT max(n) FROM txn'), '5', 'and is seen once committed');

	# times are looked up by the broker
	$broker->create_topic('timed', 1, 'retention.ms' => -1);
	$broker->produce('timed', map { [ 0, undef, "{\"n\": $_}", 1704067200000 + $_ * 1000 ] } 0 .. 99);
	$node->safe_psql('postgres', <<'EOF');
CREATE FOREIGN TABLE timed (
	n int, off bigint OPTIONS (metadata 'offset'), at timestamptz OPTIONS (metadata 'timestamp')
) SERVER kafka OPTIONS (topic 'timed');
EOF
	like($node->safe_psql('postgres',
			"EXPLAIN (ANALYZE, COSTS OFF) SELECT * FROM timed WHERE at >= '2024-01-01 00:01:30+00'"),
		qr/Offsets Read: 0 \[90,100\)/, 'a lower bound on the time is an offset');
	like($node->safe_psql('postgres',
			"EXPLAIN (ANALYZE, COSTS OFF) SELECT * FROM timed WHERE at > '2030-01-01'"),
		qr/Offsets Read: none/, 'one in the future reads nothing');

	# what retention takes away during a scan is an error, not a hole
	$broker->delete_records('timed', 0, 50);
	is($node->safe_psql('postgres', 'SELECT count(*), min(n) FROM timed'), '50|50',
		'a scan begins at the low watermark');
}

# However all this ended, no process crashed.
unlike(slurp_file($node->logfile), qr/was terminated by signal|PANIC/, 'no process has crashed');
$node->stop;
done_testing();
