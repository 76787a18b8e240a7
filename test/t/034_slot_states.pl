# The replication slot: what is said when there can be none, what becomes of views
# whose slot is lost, moved, left behind or copied, and that none stays behind.
#
# A position means something only with a slot that has kept everything since.  Where
# that is not so a view must stall and say what to do; weir.rebuild is the way back.
# What it must never do is go on over a gap.
use strict;
use warnings;

use Test::More;
use Time::HiRes qw(sleep time);
use PostgreSQL::Test::Utils;
use WeirNode;
use WeirOracle;

my $node = WeirNode->start_new('main', conf => <<'EOF2');
max_replication_slots = 4
weir.max_retained_wal = '64MB'
include_if_exists = 'fault.conf'
EOF2
$node->safe_psql('postgres', 'CREATE EXTENSION pg_weir');
my $oracle = WeirOracle->new($node, timeout => '30 s');
sub sql { return $node->safe_psql('postgres', @_) }
sub error_of { return $node->error_of(@_) }
sub section { return $oracle->section(@_) }

my $name = 'pg_weir_' . sql('SELECT oid FROM pg_database WHERE datname = current_database()');
my $slots = q{SELECT count(*) FROM pg_replication_slots WHERE slot_name LIKE 'pg_weir%'};

sub settle { my ($what) = @_; ok($node->wait_until($slots, '0', 60), "$what: no slot is left") or $oracle->tell }

# A table with two views, one of them windowed
my $tables = <<'EOF2';
CREATE TABLE t (id serial PRIMARY KEY, k int, n int, ts timestamptz DEFAULT '2026-01-01Z');
ALTER TABLE t REPLICA IDENTITY FULL;
INSERT INTO t (k, n) SELECT i % 7, i FROM generate_series(1, 200) i;
EOF2
my %query = (
	by_k => 'SELECT k, count(*) AS c, sum(n) AS s, max(n) AS m FROM t GROUP BY k',
	by_day => q{SELECT weir.tumble(ts, '1 day') AS win, count(*) AS c FROM t GROUP BY win});
my $write = 'INSERT INTO t (k, n) SELECT i % 9, i FROM generate_series(1, 50) i; UPDATE t SET n = n + 1 WHERE id % 5 = 0; DELETE FROM t WHERE id % 11 = 3';

# Whatever a section before has left
sub fresh
{
	sql('DROP TABLE IF EXISTS t CASCADE');
	$oracle->forget($oracle->names);
	sql($tables);
}

sub views
{
	my ($o) = @_;
	$o->create($_, $query{$_}, with => "weir.commit_interval = '20 ms'") for sort keys %query;
}

# Ingestion off, so that somebody else can have the slot
sub off
{
	sql('ALTER SYSTEM SET weir.enabled = off');
	sql('SELECT pg_reload_conf()');
	$node->wait_until(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_weir worker'}, '0', 20) or die 'workers stay';
	$node->wait_until('SELECT count(*) FROM pg_replication_slots WHERE active', '0', 20) or die 'the slot stays in use';
}
sub on
{
	sql('ALTER SYSTEM RESET weir.enabled');
	sql('SELECT pg_reload_conf()');
}

# What must happen when changes may have been missed: no other number, ever.
sub lost
{
	my ($o, $what, $pattern) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $n = $o->{node};
	my $before = $n->safe_psql('postgres', 'SELECT * FROM by_k ORDER BY 1');
	$o->stalls($_, '55000', $pattern || qr/rebuild/, "$what: $_") for sort keys %query;
	$n->safe_psql('postgres', $write);
	is($n->safe_psql('postgres', 'SELECT * FROM by_k ORDER BY 1'), $before, "$what: the view stands still");
	like($n->error_of("SELECT weir.resume('by_k'); SELECT pg_sleep(1); SELECT weir.wait_for('by_k', '20 s')"), qr/^55000/, "$what: resume alone does not help");
	$o->rebuilt($_, $what) for sort keys %query;
	$n->safe_psql('postgres', $write);
	$o->same("$what: and on");
}

# ------------------------------------------------------------- creation

section 'wal_level', sub {
	my $low = WeirNode->start_new('low', conf => "wal_level = replica\n");
	$low->safe_psql('postgres', "CREATE EXTENSION pg_weir; $tables");
	my $err = '';
	$low->psql('postgres', $oracle->statement('v', $query{by_k}), stderr => \$err, extra_params => [ '-v', 'VERBOSITY=verbose' ]);
	like($err, qr/ERROR:  55000:.*HINT:.*wal_level/s, 'wal_level below logical: said at creation, with what to do');
	is($low->safe_psql('postgres', 'SELECT count(*) FROM weir.views'), '0', 'and no view is left');
	$low->append_conf('postgresql.conf', "wal_level = logical\n");
	$low->restart;
	my $o = WeirOracle->new($low);
	views($o);
	$o->same('after the restart that it asks for');
	$low->stop;
};

section 'no free slot', sub {
	fresh();
	sql("SELECT pg_create_physical_replication_slot('other$_')") for 1 .. 4;
	my $err = '';
	$node->psql('postgres', $oracle->statement('v', $query{by_k}), stderr => \$err, extra_params => [ '-v', 'VERBOSITY=verbose' ]);
	like($err, qr/ERROR:  53400:.*HINT:.*max_replication_slots/s, 'no free slot: said at creation, with what to do');
	sql("SELECT pg_drop_replication_slot('other$_')") for 1 .. 4;

	# a slot of somebody else with our name
	sql("SELECT pg_create_physical_replication_slot('$name')");
	error_of($oracle->statement('v', $query{by_k}));
	if (sql("SELECT count(*) FROM weir.views") eq '1')
	{
		ok($node->wait_until(q{SELECT state || ' ' || sqlstate FROM weir.views WHERE view = 'v'::regclass}, 'stalled 55000'), 'a slot of our name that is not ours is not touched');
		$oracle->know('v', $query{by_k});
		sql("SELECT pg_drop_replication_slot('$name'); SELECT weir.resume('v')");
		ok($node->wait_until("SELECT weir.wait_for('v', '20 s') IS NOT NULL", 't', 40), 'gone, it goes on by itself');
		$oracle->same('and is exact', 'v');
		$oracle->drop('v');
	}
	else { sql("SELECT pg_drop_replication_slot('$name')") }
	settle('the only view dropped');
	sql('DROP TABLE t');
};

# ------------------------------------------------------------- a slot that is lost

section 'lost', sub {
	fresh();
	views($oracle);
	$oracle->same('at first');
	off();
	sql($write);
	sql("SELECT pg_drop_replication_slot('$name')");
	on();
	lost($oracle, 'dropped by hand');

	off();
	sql($write);
	sql("SELECT pg_drop_replication_slot('$name'); SELECT pg_create_logical_replication_slot('$name', 'pgoutput')");
	on();
	lost($oracle, 'made anew by hand');

	off();
	sql($write);
	sql("SELECT pg_replication_slot_advance('$name', pg_current_wal_lsn())");
	on();
	lost($oracle, 'moved on by hand');

	# a moved slot whose changes were all seen is as suspicious
	off();
	sql("SELECT pg_logical_emit_message(true, 'x', 'y'); SELECT pg_replication_slot_advance('$name', pg_current_wal_lsn())");
	on();
	lost($oracle, 'moved on by hand over nothing of ours');

	off();
	sql("ALTER SYSTEM SET max_slot_wal_keep_size = '16MB'");
	sql('SELECT pg_reload_conf()');
	sql("$write; SELECT pg_switch_wal()") for 1 .. 5;
	sql('CHECKPOINT');
	ok($node->wait_until("SELECT wal_status FROM pg_replication_slots WHERE slot_name = '$name'", 'lost'), 'max_slot_wal_keep_size has done it');
	on();
	lost($oracle, 'invalidated');
	sql('ALTER SYSTEM RESET max_slot_wal_keep_size');
	sql('SELECT pg_reload_conf()');

	# what loses nothing
	off();
	sql($write);
	on();
	$oracle->same('off and on');
	$node->restart;
	sql($write);
	$oracle->same('a restart');
	$node->crash_server;
	sql($write);
	$oracle->same('a crash');
	my $seen = -s $node->logfile;
	sql($write) for 1 .. 20;
	$node->kill9_worker('postgres');
	sql($write);
	$oracle->same('kill -9 of the worker');

	$oracle->drop($_) for $oracle->names;
	settle('views dropped');
	sql('DROP TABLE t');
};

# A view over a push stream that was paused before it began has rows in the slot, too.
section 'lost before the view began', sub {
	sql(<<'EOF2');
CREATE FOREIGN TABLE pushed (k int) SERVER weir_stream;
CREATE TABLE waiting WITH (weir.continuous) AS SELECT count(*) AS c FROM pushed WITH NO DATA;
CREATE TABLE waking WITH (weir.continuous) AS SELECT count(*) AS c FROM pushed;
SELECT weir.wait_for('waking');
INSERT INTO pushed VALUES (1), (2);
SELECT weir.wait_for('waking');
EOF2
	is(sql('TABLE waking'), '2', 'rows are pushed');
	ok($node->wait_until(q{SELECT count(*) FROM weir_data.positions WHERE last_print IS NOT NULL}, '2', 10), 'both views know the slot');
	off();
	sql("SELECT pg_drop_replication_slot('$name')");
	on();
	$oracle->stalls('waking', '55000', qr/rebuild/, 'the slot is gone: the view that had begun');
	sql(q{SELECT weir.resume('waiting')});
	$oracle->stalls('waiting', '55000', qr/rebuild/, 'the one that had not');
	sql(q{SELECT weir.rebuild('waking', true), weir.rebuild('waiting', true)});
	is(error_of(q{SELECT weir.wait_for('waking', '20 s'), weir.wait_for('waiting', '20 s')}), '', 'rebuilt, both go on');
	sql('INSERT INTO pushed VALUES (3)');
	is(error_of(q{SELECT weir.wait_for('waking', '20 s'), weir.wait_for('waiting', '20 s')}), '', 'with what comes');
	is(sql('SELECT c, (SELECT c FROM waiting) FROM waking'), '1|1', '... exactly');
	sql('DROP FOREIGN TABLE pushed CASCADE');
	settle('views dropped');
};

# ------------------------------------------------------------- a paused view and the disk

section 'retained WAL', sub {
	fresh();
	views($oracle);
	sql("SELECT weir.wait_for('by_k'); SELECT weir.wait_for('by_day'); SELECT weir.pause('by_k')");
	sql($write);
	my $before = sql('SELECT * FROM by_k ORDER BY 1');
	sql("SELECT pg_switch_wal(); $write") for 1 .. 8;
	sql('CHECKPOINT');
	$oracle->same('the other goes on', 'by_day');
	ok($node->wait_until("SELECT bool_and(pg_current_wal_lsn() - restart_lsn < 80 * 1024 * 1024) FROM pg_replication_slots WHERE slot_name LIKE 'pg_weir%'", 't', 60),
		'a paused view does not hold more than weir.max_retained_wal');
	is(sql('SELECT * FROM by_k ORDER BY 1'), $before, 'it stands still');
	sql("SELECT weir.resume('by_k')");
	$oracle->stalls('by_k', '55000', qr/rebuild/, 'resumed, it says that it needs a rebuild');
	$oracle->rebuilt('by_k', 'weir.max_retained_wal');
	sql($write);
	$oracle->same('both go on');

	# a quiet database lets go of the WAL of others
	my $at = sql("SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = '$name'");
	sql('CREATE TABLE unwatched (a text); ' . join '', map { "INSERT INTO unwatched SELECT repeat('x', 1000) FROM generate_series(1, 5000); SELECT pg_switch_wal();" } 1 .. 3);
	ok($node->wait_until("SELECT pg_current_wal_lsn() - confirmed_flush_lsn < 2 * 16 * 1024 * 1024 FROM pg_replication_slots WHERE slot_name = '$name'", 't', 60),
		'changes of other tables are confirmed, too');
	$oracle->drop($_) for $oracle->names;
	settle('views dropped');
	sql('DROP TABLE t, unwatched');
};

# ------------------------------------------------------------- crashes in the middle of making one

sub set_fault { $node->set_fault(@_); sleep 0.2 }

section 'creation dies', sub {
	fresh();
	for my $point (qw(slot-create slot-created))
	{
		for my $action (qw(error kill9 crash))
		{
			my $seen = -s $node->logfile;
			set_fault("$point:$action:1");
			eval { $oracle->create('by_k', $query{by_k}) };
			ok($node->wait_until('SELECT 1', '1', 30), 'reachable') if $action eq 'error';
			my $deadline = time + 30;
			sleep 0.05 until slurp_file($node->logfile, $seen) =~ /fault point \Q$point\E: $action/ || time > $deadline;
			cmp_ok(time, '<', $deadline, "$point:$action has fired");
			set_fault('');
			$node->revive if $action eq 'crash';
			$node->wait_ready;
			if ($action eq 'kill9')
			{
				$oracle->drop('by_k');
				settle("$point:$action, and the view dropped");
				next;
			}
			my $error = 'x';
			for (1 .. 60) { last if ($error = error_of("SELECT weir.wait_for('by_k', '60 s')")) eq ''; sleep 0.5 }
			is($error, '', "$point:$action: it comes to be after all");
			sql($write);
			$oracle->same("$point:$action: exact", 'by_k');
			is(sql($slots), '1', "$point:$action: one slot");
			$oracle->drop('by_k');
			settle("$point:$action");
		}
	}

	# making a slot waits for whoever writes: dying there
	for my $how (qw(drop crash kill9))
	{
		my $writer = $node->background_psql('postgres', on_error_stop => 0);
		$writer->query("BEGIN; INSERT INTO t (k, n) VALUES (1000, 1)");
		$oracle->create('by_k', $query{by_k});
		sleep 1.5;
		is(sql('SELECT count(*) FROM by_k'), '0', 'nothing is shown yet');
		if ($how eq 'drop')
		{
			my $started = time;
			$oracle->drop('by_k');
			cmp_ok(time - $started, '<', 10, 'a view in the making is dropped at once');
			settle('a view dropped while its slot is made');
			$writer->query('ROLLBACK');
			$writer->quit;
			next;
		}
		$how eq 'crash' ? $node->crash_server : $node->kill9_worker('postgres');
		eval { $writer->quit };
		my $error = 'x';
		for (1 .. 60) { last if ($error = error_of("SELECT weir.wait_for('by_k', '60 s')")) eq ''; sleep 0.5 }
		$oracle->same("$how while a slot waits for writers", 'by_k');
		is(sql($slots), '1', "$how: one slot");
		$oracle->drop('by_k');
		settle("$how while a slot is made");
	}
	sql('DROP TABLE t');
};

# ------------------------------------------------------------- the end of databases and of the extension

section 'databases', sub {
	for my $how ('DROP DATABASE d', 'DROP DATABASE d WITH (FORCE)')
	{
		sql('CREATE DATABASE d');
		$node->safe_psql('d', "CREATE EXTENSION pg_weir; $tables");
		my $o = WeirOracle->new($node, dbname => 'd');
		views($o);
		$o->same("$how: views", $o->names);
		my $started = time;
		is(error_of($how), '', $how);
		cmp_ok(time - $started, '<', 10, "$how: at once");
		settle($how);
	}
	sql('CREATE DATABASE d');
	$node->safe_psql('d', "CREATE EXTENSION pg_weir; $tables");
	my $o = WeirOracle->new($node, dbname => 'd');
	views($o);
	$o->same('in another database');
	my $started = time;
	is(error_of('ALTER DATABASE d RENAME TO e'), '', 'RENAME of the database');
	cmp_ok(time - $started, '<', 5, '... in time');
	$o = WeirOracle->new($node, dbname => 'e');
	$o->know($_, $query{$_}) for sort keys %query;
	$node->safe_psql('e', $write);
	$o->same('goes on under another name');
	is(error_of('CREATE DATABASE copy TEMPLATE e'), '', 'as a template');
	my $c = WeirOracle->new($node, dbname => 'copy');
	$c->know($_, $query{$_}) for sort keys %query;
	for my $v (sort keys %query)
	{
		ok($node->wait_until("SELECT state IN ('paused', 'stalled') FROM weir.views WHERE view = '$v'::regclass", 't', 60, 'copy'), "$v of the copy does not go on by itself");
	}
	$node->safe_psql('copy', $write);
	$node->safe_psql('e', $write);
	$node->safe_psql('copy', "SELECT weir.resume('$_')") for sort keys %query;
	for my $v (sort keys %query)
	{
		$c->stalls($v, '55000', qr/rebuild/, "$v of the copy, resumed");
		$c->rebuilt($v, 'a copy');
	}
	$node->safe_psql('copy', $write);
	$c->same('the copy lives');
	$o->same('and so does the original');
	is(error_of('DROP DATABASE copy'), '', 'the copy goes');
	$node->safe_psql('e', 'DROP EXTENSION pg_weir CASCADE');
	settle('DROP EXTENSION');
	is(error_of('DROP DATABASE e'), '', 'and the database');
};

# ------------------------------------------------------------- standbys, promotion, backups

section 'standby', sub {
	fresh();
	views($oracle);
	$oracle->same('on the primary');
	$node->backup('base');
	my $standby = WeirNode->new('standby');
	$standby->init_from_backup($node, 'base', has_streaming => 1);
	$standby->append_conf('postgresql.conf', "primary_slot_name = ''\n");
	$standby->start;
	sql($write);
	$oracle->same('the primary beside a standby');
	$node->wait_for_catchup($standby, 'replay', $node->lsn('insert'));
	is($standby->safe_psql('postgres', 'SELECT * FROM by_k ORDER BY 1'), sql('SELECT * FROM by_k ORDER BY 1'), 'a standby shows what the primary has');
	like($standby->error_of("SELECT weir.wait_for('by_k')"), qr/^55000/, 'and says that it does not ingest');
	is($standby->safe_psql('postgres', $slots), '0', 'it has no slot');
	is(scalar(my @none = $standby->worker_pids), 0, 'and no worker');

	# a clone from the same backup, let loose: no slot comes with it
	my $clone = WeirNode->new('clone');
	$clone->init_from_backup($node, 'base');
	$clone->start;
	$clone->wait_until('SELECT NOT pg_is_in_recovery()');
	my $o = WeirOracle->new($clone);
	$o->know($_, $query{$_}) for sort keys %query;
	lost($o, 'restored from a base backup');
	sql($write);
	$oracle->same('the original knows nothing of it');
	$clone->stop;

	# promotion without the slot
	sql($write);
	$oracle->same('before the promotion');
	$node->wait_for_catchup($standby, 'replay', $node->lsn('insert'));
	$node->stop('immediate');
	$standby->promote;
	my $p = WeirOracle->new($standby);
	$p->know($_, $query{$_}) for sort keys %query;
	lost($p, 'promoted without the slot');
	$standby->stop;

	# the data directory with its slot, copied: it goes on
	$node->start;
	$oracle->same('the old primary, back');
	$node->stop;
	$node->backup_fs_cold('cold');
	$node->start;
	my $twin = WeirNode->new('twin');
	$twin->init_from_backup($node, 'cold');
	$twin->start;
	my $t = WeirOracle->new($twin);
	$t->know($_, $query{$_}) for sort keys %query;
	$twin->safe_psql('postgres', $write);
	sql("$write; $write");
	$t->same('a cold copy goes on by itself');
	$oracle->same('beside its original');
	unlike(slurp_file($_->logfile), qr/PANIC|TRAP:/, 'no crash of ' . $_->name) for $clone, $standby, $twin;
	$twin->stop;
	$oracle->drop($_) for $oracle->names;
	settle('the end');
};

unlike(slurp_file($node->logfile), qr/PANIC|TRAP:|signal 11|signal 6/, 'nobody crashed but on demand');
$node->stop;
done_testing;
