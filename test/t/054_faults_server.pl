# The fault table of docs/faults.md, where it is about the server: what it runs out
# of, what holds it up, and how it ends.
#
# The postmaster dies while workers are inside librdkafka; background workers are
# used up by somebody else; a transaction of many rows comes over the slot; DDL on
# the source comes between rows that were not read yet.  Snapshots, catalog_xmin
# and transaction ids are counted.  Disks that are full are 055_full.pl's.
#
# WEIR_LONG=1 writes 5,000,000 rows in the one transaction, instead of 300,000.
# The embedded broker suffices.
use strict;
use warnings;

use IO::Socket::INET;
use IPC::Run ();
use Test::More;
use Time::HiRes qw(sleep time);
use PostgreSQL::Test::Utils;
use WeirBroker;
use WeirNode;
use WeirOracle;

my $broker = WeirBroker->new;
my $node = WeirNode->start_new('main', conf => "weir.max_workers = 8\nmax_worker_processes = 24\nlogical_decoding_work_mem = 1MB\n");
create_kafka($node, $broker);
my $oracle = WeirOracle->new($node, timeout => '60 s');
my $workers = q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_weir worker'};

sub sql { return $node->safe_psql('postgres', @_) }
sub error_of { return $node->error_of(@_) }

sub section
{
	$oracle->section(@_);
	$oracle->forget($oracle->names);
}

sub stream
{
	my ($name, $columns, $server) = @_;
	$broker->create_topic($name, 1);
	sql("CREATE FOREIGN TABLE $name ($columns) SERVER " . ($server || 'kafka') . " OPTIONS (topic '$name')");
}

sub send_to
{
	my ($topic, @values) = @_;
	return $broker->produce($topic, map { [ 0, undef, $_ ] } @values);
}

# ------------------------------------------------------------- the end of the postmaster

# A host that accepts and says nothing keeps a worker inside librdkafka for as long
# as the client's own time-out lasts; one that is busy is there most of the time.
section 'postmaster killed', sub {
	my $hole = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 5);
	my $address = '127.0.0.1:' . $hole->sockport;
	stream('busy', 'k int, n int');
	stream('quiet', 'k int');
	sql(q{CREATE TABLE busy_v WITH (weir.continuous, weir.commit_interval = '10 ms') AS SELECT k, count(*) AS c, sum(n) AS s FROM busy GROUP BY k;
		CREATE TABLE quiet_v WITH (weir.continuous) AS SELECT count(*) AS c FROM quiet;
		CREATE TABLE killed_t (id int PRIMARY KEY);
		CREATE TABLE killed_tv WITH (weir.continuous, weir.commit_interval = '10 ms') AS SELECT count(*) AS c, max(id) AS m FROM killed_t});
	sql(qq{CREATE SERVER deaf FOREIGN DATA WRAPPER weir_kafka OPTIONS (bootstrap_servers '} . $broker->bootstrap . q{', timeout '1 min')});
	stream('deaf', 'k int', 'deaf');
	sql(q{CREATE TABLE deaf_v WITH (weir.continuous) AS SELECT count(*) AS c FROM deaf});
	sql("SELECT weir.wait_for('$_')") for qw(busy_v quiet_v deaf_v killed_tv);
	sql(qq{ALTER SERVER deaf OPTIONS (SET bootstrap_servers '$address')});
	my $sent = 0;
	for my $round (1 .. 3)
	{
		# it connects to the silent host, or waits to do so again
		sql(q{SELECT pg_terminate_backend(weir.worker_pid('deaf_v'))}) if $round == 2;
		for (1 .. 20)
		{
			send_to('busy', map { sprintf '{"k": %d, "n": %d}', $_ % 7, $_ } 1 .. 500);
			$sent += 500;
		}
		sql("INSERT INTO killed_t SELECT i FROM generate_series($round * 1000, $round * 1000 + 500) i");
		# and a session is inside it, too
		my ($in, $out) = ('', '');
		my $session = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres'), '-c', $round == 3 ? 'INSERT INTO deaf VALUES (1)' : 'SELECT count(*) FROM deaf' ],
			'<', \$in, '>', \$out, '2>&1', IPC::Run::timeout(60));
		ok($node->wait_until(q{SELECT count(*) FROM pg_stat_activity WHERE query ~ '^(SELECT|INSERT).* deaf' AND pid <> pg_backend_pid()}, '1'), "round $round: a session asks");
		sleep 0.5;
		my $ours = sql(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'pg_weir%'});
		cmp_ok($ours, '>=', 4, "round $round: $ours processes of ours");
		my @children = $node->kill9;
		my $started = time;
		$node->wait_gone(@children);
		cmp_ok(time - $started, '<', 1, sprintf 'round %d: all are gone after %.2f s', $round, time - $started);
		eval { $session->finish };
		ok($node->start(fail_ok => 1), "round $round: a restart is not blocked");
		is(error_of("SELECT weir.wait_for('$_', '30 s')"), '', "round $round: $_ goes on") for qw(busy_v quiet_v killed_tv);
		is(sql('SELECT sum(c) FROM busy_v'), $sent, "round $round: nothing is lost or doubled");
		is(sql('TABLE killed_tv'), sql('SELECT count(*), max(id) FROM killed_t'), "round $round: nor of the table");
	}
	sql('DROP FOREIGN TABLE busy, quiet, deaf CASCADE; DROP SERVER deaf CASCADE; DROP TABLE killed_t CASCADE');
};

# ------------------------------------------------------------- workers

section 'max_worker_processes', sub {
	# the launcher, two workers; and no place for who looks after definitions
	my $small = WeirNode->start_new('small', conf => "max_worker_processes = 4\nmax_logical_replication_workers = 0\nmax_parallel_workers = 0\n");
	create_kafka($small, $broker);
	my $o = WeirOracle->new($small, timeout => '40 s');
	for my $i (1 .. 3)
	{
		$broker->create_topic("crowd$i", 1);
		$small->safe_psql('postgres', "CREATE FOREIGN TABLE crowd$i (k text) SERVER kafka OPTIONS (topic 'crowd$i');
			CREATE TABLE in_crowd$i WITH (weir.continuous, weir.commit_interval = '10 ms') AS SELECT count(*) AS c FROM crowd$i");
		# the places go in this order
		is($small->error_of("SELECT weir.wait_for('in_crowd$i', '20 s')"), '', "view $i has a worker");
	}
	my $log = -s $small->logfile;
	$broker->create_topic('crowd4', 1);
	$small->safe_psql('postgres', q{CREATE FOREIGN TABLE crowd4 (k text) SERVER kafka OPTIONS (topic 'crowd4');
		CREATE TABLE in_crowd4 WITH (weir.continuous, weir.commit_interval = '10 ms') AS SELECT count(*) AS c FROM crowd4});
	ok($small->wait_for_log(qr/pg_weir could not start a worker.*\n.*HINT:.*max_worker_processes/, $log), 'the log says that there is no place for another');
	is($small->safe_psql('postgres', q{SELECT message, hint ~ 'max_worker_processes' FROM weir.views WHERE view = 'in_crowd4'::regclass}),
		'no worker serves the view now|t', 'so does weir.views, and what to do');
	send_to('crowd1', '{}');
	is($small->error_of(q{SELECT weir.wait_for('in_crowd1', '20 s')}), '', 'the others go on');
	is($small->safe_psql('postgres', 'TABLE in_crowd1'), '1', '... exactly');
	send_to('crowd4', '{}');
	# tries are a second apart at first, then more
	sleep 3.2;
	my $tries = () = slurp_file($small->logfile, $log) =~ /could not start a worker/g;
	cmp_ok($tries, '>=', 2, "it is tried again ($tries times)");
	cmp_ok($tries, '<', 8, '... not all the time');
	$small->safe_psql('postgres', 'DROP TABLE in_crowd2');
	ok($small->wait_until('TABLE in_crowd4', '1', 40), 'it runs when there is a place');
	$small->stop;
};

# ------------------------------------------------------------- what holds others up

section 'snapshots', sub {
	stream('flowing', 'k int');
	sql(<<'EOF2');
CREATE TABLE flowing_t (id serial PRIMARY KEY, k int);
ALTER TABLE flowing_t REPLICA IDENTITY FULL;
CREATE TABLE flowing_v WITH (weir.continuous, weir.commit_interval = '50 ms') AS SELECT k, count(*) AS c FROM flowing GROUP BY k;
CREATE TABLE flowing_tv WITH (weir.continuous, weir.commit_interval = '50 ms') AS SELECT k, count(*) AS c FROM flowing_t GROUP BY k;
SELECT weir.wait_for('flowing_v'), weir.wait_for('flowing_tv');
EOF2
	# while rows come all the time nobody keeps a snapshot from one to the next
	my (%seen, $oldest);
	my $until = time + 8;
	while (time < $until)
	{
		send_to('flowing', map { qq({"k": $_}) } 1 .. 50);
		sql('INSERT INTO flowing_t (k) SELECT i FROM generate_series(1, 50) i; UPDATE flowing_t SET k = k + 1 WHERE id % 17 = 0');
		for (split /\n/, sql(q{SELECT backend_xmin, pid FROM pg_stat_activity WHERE backend_type = 'pg_weir worker' AND backend_xmin IS NOT NULL}))
		{
			$seen{$_} = time unless $seen{$_};
			my $age = time - $seen{$_};
			$oldest = $age if !defined $oldest || $age > $oldest;
		}
	}
	cmp_ok($oldest || 0, '<', 2, sprintf 'no snapshot of ours gets old while rows come (%.2f s)', $oldest || 0);
	is(error_of("SELECT weir.wait_for('$_', '20 s')"), '', "$_ is busy all the while") for qw(flowing_v flowing_tv);
	cmp_ok(sql('SELECT min(commits) FROM weir.stat_views'), '>', 20, '... with many commits');

	# the slot does not hold the catalogs while our tables are idle and others are not
	my $age = 'SELECT xmin_age FROM weir.slot';
	sql('DO $$ BEGIN FOR i IN 1 .. 300 LOOP CREATE TEMP TABLE t (a int); DROP TABLE t; COMMIT; END LOOP; END $$');
	cmp_ok(sql($age), '>', 100, 'others use up transaction ids, and weir.slot says how far catalog_xmin is behind');
	my $deadline = time + 40;
	my $now;
	while (($now = sql($age)) > 50 && time < $deadline)
	{
		# where the server's snapshots are logged, catalog_xmin can move
		sql('CHECKPOINT');
		sleep 0.3;
	}
	cmp_ok($now, '<=', 50, "catalog_xmin follows ($now behind)");
	is(sql(q{SELECT retained_bytes < 64 * 1024 * 1024 FROM weir.slot}), 't', 'and so does the WAL that is kept');

	# transaction ids: one a commit, none without
	my $ids = q{SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint};
	my $commits = q{SELECT sum(commits) FROM weir.stat_views WHERE view = 'flowing_v'::regclass};
	# autovacuum takes some, of the catalogs that have grown just now
	sql('ALTER SYSTEM SET autovacuum = off; SELECT pg_reload_conf()');
	$node->wait_until(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'autovacuum%'}, '0');
	my ($id, $commit, $begun) = (sql($ids), sql($commits), time);
	for (1 .. 20) { send_to('flowing', '{"k": 1}', '{"k": 2}', 'bad'); sleep 0.06 }
	is(error_of(q{SELECT weir.wait_for('flowing_v', '20 s')}), '', 'commits');
	my ($used, $made) = (sql($ids) - $id, sql($commits) - $commit);
	cmp_ok($made, '>=', 5, "$made of them");
	# beside them the other worker records each ten seconds how far its slot is
	cmp_ok($used, '<=', $made + 1 + int((time - $begun) / 10), "use one transaction id each ($used)");
	my $quiet = 0;
	for (1 .. 15)
	{
		$id = sql($ids);
		sleep 1;
		last if $quiet = sql($ids) == $id;
	}
	ok($quiet, 'and nothing costs none');
	sql('ALTER SYSTEM RESET autovacuum; SELECT pg_reload_conf()');
	sql('DROP FOREIGN TABLE flowing CASCADE; DROP TABLE flowing_t CASCADE');
};

# ------------------------------------------------------------- a large transaction

section 'a large transaction', sub {
	my $rows = $ENV{WEIR_LONG} ? 5_000_000 : 300_000;
	my $peak = sub {
		my ($pid) = @_;
		my $status = slurp_file("/proc/$pid/status");
		my ($anon) = $status =~ /^RssAnon:\s+(\d+)/m;
		return $anon;
	};
	sql(q{CREATE TABLE large (id int, k int, pad text);
		ALTER TABLE large REPLICA IDENTITY FULL});
	$oracle->create('large_v', 'SELECT k, count(*) AS c, sum(id) AS s FROM large GROUP BY k');
	$oracle->same('at first');
	my $pid = sql(q{SELECT weir.worker_pid('large_v')});
	my $before = $peak->($pid);
	my ($in, $out) = ('', '');
	my $writer = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres'),
			'-c', "BEGIN; INSERT INTO large SELECT i, i % 100, repeat('x', 300) FROM generate_series(1, $rows) i; UPDATE large SET k = k + 1 WHERE id % 50 = 0; DELETE FROM large WHERE id % 100 = 7; COMMIT" ],
		'<', \$in, '>', \$out, '2>&1', IPC::Run::timeout(900));
	my $most = 0;
	my $deadline = time + 800;
	while (time < $deadline && sql('SELECT coalesce(sum(c), 0) FROM large_v') eq '0')
	{
		my $now = $peak->($pid);
		$most = $now if $now > $most;
		sleep 0.1;
	}
	$writer->finish;
	my $bytes = $rows * 330 / 1024;
	diag(sprintf '%d rows, %.0f MB: the worker grew by %.0f MB', $rows, $bytes / 1024, ($most - $before) / 1024);
	# 64 MB of decoded rows, the C library's share, and what decoding itself takes
	cmp_ok($most - $before, '<', 128 * 1024, 'a transaction larger than memory takes a part of it');
	is(sql(q{SELECT weir.worker_pid('large_v')}), $pid, 'by the same worker');
	$oracle->{timeout} = '600 s';
	$oracle->same('exact');
	sql('DROP TABLE large CASCADE');
};

# ------------------------------------------------------------- DDL with rows unread

section 'DDL among rows that were not read', sub {
	sql(<<'EOF2');
CREATE TABLE ddl (id int PRIMARY KEY, gone int, k text, n int, other text);
ALTER TABLE ddl REPLICA IDENTITY FULL;
INSERT INTO ddl SELECT i, i, 'k' || i % 3, i, 'o' FROM generate_series(1, 20) i;
EOF2
	$oracle->create('ddl_v', 'SELECT k, count(*) AS c, sum(n) AS s FROM ddl GROUP BY k');
	$oracle->same('before');
	sql(q{SELECT weir.pause('ddl_v')});
	for my $ddl ('ALTER TABLE ddl RENAME COLUMN other TO another', 'ALTER TABLE ddl DROP COLUMN gone', 'ALTER TABLE ddl ALTER COLUMN another TYPE int USING 5',
		'ALTER TABLE ddl ADD COLUMN late int DEFAULT 7', 'ALTER TABLE ddl RENAME TO ddl2; ALTER TABLE ddl2 RENAME TO ddl',
		'ALTER TABLE ddl RENAME COLUMN n TO m; UPDATE ddl SET m = m + 1 WHERE id % 5 = 0; ALTER TABLE ddl RENAME COLUMN m TO n')
	{
		sql("INSERT INTO ddl (id, k, n) SELECT coalesce(max(id), 0) + 1, 'k1', 5 FROM ddl; $ddl; UPDATE ddl SET n = n + 1 WHERE id % 3 = 0; DELETE FROM ddl WHERE id = (SELECT min(id) FROM ddl)");
	}
	isnt(error_of('ALTER TABLE ddl ALTER COLUMN n TYPE bigint'), '', 'another type of a column that is read is refused, also then');
	isnt(error_of('ALTER TABLE ddl DROP COLUMN k'), '', 'so is dropping it');
	sql(q{SELECT weir.resume('ddl_v')});
	$oracle->same('resumed, the view is exact over rows of all those shapes', 'ddl_v');
	sql(q{SELECT weir.pause('ddl_v')});
	sql('TRUNCATE ddl; INSERT INTO ddl (id, k, n) VALUES (1, $$z$$, 1)');
	sql(q{SELECT weir.resume('ddl_v')});
	$oracle->same('TRUNCATE takes back what was there', 'ddl_v');
	sql('DROP TABLE ddl CASCADE');
};

unlike(slurp_file($node->logfile), qr/PANIC|TRAP:|signal 11|signal 6/, 'nobody crashed but on demand');
$node->stop;
done_testing;
