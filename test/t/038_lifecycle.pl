# What the worker over tables does while it cannot begin, or must not: others'
# transactions that a new slot waits for, ingestion switched off, no slot to be
# had, a stop in the middle of much; and that nothing of views that came and went
# stays behind.
#
# Whatever the worker waits for, a DROP DATABASE, a DROP of the view and a stop of
# the server do not wait for it.
use strict;
use warnings;

use Test::More;
use Time::HiRes qw(time);
use PostgreSQL::Test::Utils;
use WeirNode;
use WeirOracle;

my $node = WeirNode->start_new('lifecycle', conf => <<'EOF2');
max_prepared_transactions = 2
max_replication_slots = 3
EOF2
my $tables = <<'EOF2';
CREATE EXTENSION pg_weir;
CREATE TABLE t (id serial PRIMARY KEY, k int, n int);
ALTER TABLE t REPLICA IDENTITY FULL;
INSERT INTO t (k, n) SELECT i % 7, i FROM generate_series(1, 200) i;
EOF2
my $query = 'SELECT k, count(*) AS c, sum(n) AS s, max(n) AS m FROM t GROUP BY k';
my $slots = q{SELECT count(*) FROM pg_replication_slots WHERE slot_name LIKE 'pg_weir%'};
my $workers = q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_weir worker'};

sub sql { return $node->safe_psql('postgres', @_) }

sub enabled
{
	my ($on) = @_;
	sql('ALTER SYSTEM ' . ($on ? 'RESET weir.enabled' : 'SET weir.enabled = off'));
	sql('SELECT pg_reload_conf()');
	$on or $node->wait_until($workers, '0', 10) or die 'workers stay';
}

sub quick
{
	my ($what, $seconds, $code) = @_;
	my $started = time;
	$code->();
	cmp_ok(time - $started, '<', $seconds, "$what takes no $seconds s");
}

sql($tables);
my $oracle = WeirOracle->new($node);

# ---- somebody has written, in whichever database, and does not end
sql('CREATE TABLE others (n int)');
sub hold { sql("BEGIN; INSERT INTO others VALUES (1); PREPARE TRANSACTION 'long'") }
my $waits = q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'pg_weir worker' AND wait_event_type = 'Lock'};

$node->safe_psql('postgres', 'CREATE DATABASE shop');
$node->safe_psql('shop', $tables);
hold();
$node->safe_psql('shop', "CREATE TABLE v WITH (weir.continuous) AS $query");
ok($node->wait_until($waits), 'a new slot waits for it');
ok($node->wait_until(q{SELECT state || ' ' || sqlstate FROM weir.views}, 'stalled 55P03', 20, 'shop'), 'the view says so');
like($node->error_of(q{SELECT weir.wait_for('v')}, 'shop'), qr/^55P03: waiting for transactions/, 'and wait_for');
ok($node->wait_until($waits), 'the worker waits on');
quick('DROP TABLE', 2, sub {
	$node->safe_psql('shop', 'DROP TABLE v');
	ok($node->wait_until($slots, '0', 2), 'without its view nobody waits any more');
});
$node->safe_psql('shop', "CREATE TABLE v WITH (weir.continuous) AS $query");
ok($node->wait_until($waits), 'the next one waits again');
quick('weir.enabled = off', 3, sub { enabled(0) });
enabled(1);
ok($node->wait_until($waits), 'on again, it waits again');
quick('DROP DATABASE', 4, sub { sql('DROP DATABASE shop') });

$oracle->create('v', $query);
ok($node->wait_until($waits), 'here, too');
quick('a stop of the server', 5, sub { $node->stop('fast') });
$node->start;
ok($node->wait_until($waits), 'after it as before');
sql(q{COMMIT PREPARED 'long'});
ok($node->wait_until(q{SELECT state FROM weir.views}, 'running'), 'and goes on when it ends');
$oracle->same('exact');

# ---- ingestion is off: what is dropped holds no WAL
enabled(0);
sql('DROP TABLE v');
ok($node->wait_until($slots, '0', 10), 'off: the slot goes with the last view');
$oracle->forget('v');
enabled(1);
$oracle->create('v', $query);
$oracle->same('on again');
enabled(0);
sql('SET client_min_messages = error; DROP EXTENSION pg_weir CASCADE');
ok($node->wait_until($slots, '0', 10), 'off: the slot goes with the extension');
$oracle->forget($oracle->names);
enabled(1);
sql('DROP TABLE IF EXISTS v, t CASCADE');
sql($tables);

# ---- there is no slot any more for views that had one
$oracle->create('v', $query);
$oracle->same('before its slot goes');
enabled(0);
sql(q{SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots});
sql(q{SELECT pg_create_physical_replication_slot('other' || i) FROM generate_series(1, 3) i});
enabled(1);
$oracle->stalls('v', '53400', qr/max_replication_slots/, 'no slot to be had');
sql(q{SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots});
$oracle->stalls('v', '55000', qr/rebuild/, 'one to be had');
$oracle->rebuilt('v', 'rebuilt');

# ---- views that come and go leave nothing
my $relations = q{SELECT count(*) FROM pg_class WHERE relnamespace = 'weir_data'::regnamespace};
my $before = sql($relations);
quick('to create and drop 100 views', 20, sub {
	sql(join '', map { "CREATE TABLE v$_ WITH (weir.continuous) AS $query;"
		  . ($_ % 10 ? '' : "SELECT weir.wait_for('v$_');") . "DROP TABLE v$_;" } 1 .. 100);
});
ok($node->wait_until($relations, $before), 'no relation is left');
is(sql('SELECT count(*) FROM weir_data.views'), '1', 'no view');
sql('INSERT INTO t (k, n) VALUES (1, 1); DELETE FROM t WHERE id % 9 = 0');
$oracle->same('the one that stayed is exact');

# ---- a view that is dropped while the worker reads its definition for the first time
sql('CREATE TABLE lone (k int) WITH (fillfactor = 90)');
my $worker = sql("SELECT weir.worker_pid('v')");
my $seen = -s $node->logfile;
# of the two views the worker comes past the second one between its two looks at
# pg_class, and then meets a table that it knows nothing of yet
sql(q{ALTER SYSTEM SET weir.fault = 'catalog-view:sleep:2'});
sql('SELECT pg_reload_conf()');
$node->wait_for_log(qr/parameter "weir.fault" changed/, $seen);
sql(q{SELECT pg_sleep(0.3)});
sql(<<'EOF2');
CREATE TABLE brief WITH (weir.continuous, weir.append_only) AS SELECT k, count(*) AS c FROM lone GROUP BY k;
SELECT pg_sleep(0.3);
DROP TABLE brief;
EOF2
ok($node->wait_for_log(qr/\[$worker\] LOG: +fault point catalog-view: sleep/, $seen), 'a view is dropped while its definition is read');
sql('ALTER SYSTEM RESET weir.fault');
sql('SELECT pg_reload_conf()');
sql('INSERT INTO t (k, n) VALUES (1, 1)');
$oracle->same('... the others go on');
is(sql("SELECT weir.worker_pid('v')"), $worker, '... in the same worker');

# ---- autovacuum learns what the worker writes while it runs
sql('UPDATE t SET n = n + 1');
$oracle->same('after an update of all');
ok($node->wait_until(q{SELECT n_tup_upd > 0 FROM pg_stat_user_tables WHERE relname = 'v'}, 't', 20), 'the view is seen to have dead rows');

# ---- a stop in the middle of a large transaction, and of a backfill
sql('INSERT INTO t (k, n) SELECT i % 1000, i FROM generate_series(1, 1000000) i');
quick('a stop within a large transaction', 5, sub { $node->stop('fast') });
$node->start;
$oracle->create('per_id', 'SELECT id, count(*) AS c FROM t GROUP BY id');
$node->wait_until(q{SELECT count(*) > 0 FROM pg_stat_activity WHERE backend_type LIKE 'pg_weir backfill%'}, 't', 5);
quick('a stop within a backfill', 5, sub { $node->stop('fast') });
$node->start;
quick('DROP of a view whose backfill runs', 2, sub { sql('DROP TABLE per_id') });
$oracle->forget('per_id');
$oracle->same('all of it came through');

$node->stop('fast');
unlike(slurp_file($node->logfile), qr/PANIC:|TRAP:|terminated by signal/, 'nobody crashed');
done_testing();
