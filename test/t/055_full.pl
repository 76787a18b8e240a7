# Where there is no room: a tablespace, the files of a transaction that is spilled,
# the replication slot's directory, the WAL, and /dev/shm, each of them a small
# file system of its own that the test fills.  What must hold for all: the view
# that wants the room says so, others go on, nothing is lost, and when there is
# room again all is as it should be, without anybody's help.
#
# (A full disk at each step of a commit, on demand, is 021_exactly_once.pl's.)
#
# The test runs in a user namespace, where it may mount what it likes.  Where the
# machine allows nobody that, it is skipped.
# The embedded broker suffices.
use strict;
use warnings;

my $place;

# As root of a namespace of mounts it makes the file systems, then goes on as the
# user that it was, since PostgreSQL does not run as root.  The process stays the
# same.
BEGIN
{
	$place = $ENV{WEIR_SMALL_DISKS};
	if (!defined $place && system('unshare -Urm mount -t tmpfs none /mnt 2>/dev/null') == 0)
	{
		$place = $ENV{WEIR_SMALL_DISKS} = ($ENV{TMPDIR} || '/tmp') . "/weir_full_$$";
		my $group = (split / /, $()[0];
		my $mounts = join ' && ', "mkdir '$place'", "mount -t tmpfs -o size=1M none '$place'",
		  (map { "mkdir '$place/$_->[0]' && mount -t tmpfs -o size=$_->[1],mode=700 none '$place/$_->[0]'" }
			  [ small => '96M' ], [ slots => '256M' ], [ wal => '512M' ]),
		  'mount -t tmpfs -o size=64M,mode=1777 none /dev/shm';
		exec 'unshare', '-Urm', 'sh', '-c',
		  "$mounts && exec unshare -U --map-user=$> --map-group=$group \"\$@\"", 'sh',
		  $^X, (map { "-I$_" } @INC), $0, @ARGV;
	}
}

use IPC::Run ();
use Test::More;
use Time::HiRes qw(sleep time);
use PostgreSQL::Test::Utils;
use WeirBroker;
use WeirNode;
use WeirOracle;

plan skip_all => 'needs user namespaces' unless defined $place;

# ------------------------------------------------------------- disks

sub room
{
	my ($mount) = @_;
	my ($blocks) = `df -k --output=avail '$mount'` =~ /(\d+)\s*$/;
	return $blocks;
}

# fill(mount, left = 0): but for so many kB
sub fill
{
	my ($mount, $left) = @_;
	my $take = room($mount) - ($left || 0);
	system_or_bail('fallocate', '-l', "${take}KiB", "$mount/ballast") if $take > 0;
	return;
}

sub empty { my ($mount) = @_; unlink "$mount/ballast"; return }

my ($small, $slots, $wal, $shm) = ("$place/small", "$place/slots", "$place/wal", '/dev/shm');

my $broker = WeirBroker->new;
my $node = WeirNode->start_new('main', no_start => 1, conf => <<'EOF2');
weir.max_workers = 8
max_worker_processes = 24
logical_decoding_work_mem = 1MB
max_wal_size = 48MB
min_wal_size = 32MB
wal_keep_size = 0
autovacuum = off
EOF2

# Two directories of the server's move to file systems of their own
for my $pair ([ 'pg_wal', "$wal/pg_wal" ], [ 'pg_replslot', "$slots/pg_replslot" ])
{
	my $from = $node->data_dir . "/$pair->[0]";
	system_or_bail('cp', '-a', $from, $pair->[1]);
	system_or_bail('rm', '-r', $from);
	symlink $pair->[1], $from or die "symlink: $!";
}
$node->start;

# What wants room is in database d, all of which is in the small tablespace
mkdir "$small/space";
$node->safe_psql('postgres', "CREATE TABLESPACE small LOCATION '$small/space'");
$node->safe_psql('postgres', 'CREATE DATABASE d TABLESPACE small');
create_kafka($node, $broker, 'kafka', $_) for qw(postgres d);
my $oracle = WeirOracle->new($node, dbname => 'd', timeout => '60 s');
my $here = WeirOracle->new($node, timeout => '60 s');

sub sql { return $node->safe_psql('d', @_) }

# others(what): a view in another database, and one over another source of this one
my $beside = 0;

sub others
{
	my ($what, @dbs) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$beside++;
	$broker->produce('beside', [ 0, undef, '{"k": "a"}' ]);
	for my $db (@dbs)
	{
		is($node->error_of(q{SELECT weir.wait_for('beside_v', '30 s')}, $db), '', "$what: others go on, in $db");
		is($node->safe_psql($db, 'TABLE beside_v'), $beside, '... exactly');
	}
	return;
}

$broker->create_topic('beside', 1);
$broker->create_topic('keys', 1);
for my $db (qw(postgres d))
{
	$node->safe_psql($db, q{CREATE FOREIGN TABLE beside (k text) SERVER kafka OPTIONS (topic 'beside');
		CREATE TABLE beside_v WITH (weir.continuous, weir.commit_interval = '20 ms') AS SELECT count(*) AS c FROM beside;
		SELECT weir.wait_for('beside_v')});
}
others('at first', qw(postgres d));

# the source itself is where there is room
sql(<<'EOF2');
CREATE FOREIGN TABLE keys (k int, n int) SERVER kafka OPTIONS (topic 'keys');
CREATE TABLE t (id int, k int, pad text) TABLESPACE pg_default;
ALTER TABLE t REPLICA IDENTITY FULL;
EOF2
$oracle->create('by_key', 'SELECT k, count(*) AS c, sum(n) AS s FROM keys GROUP BY k');
$oracle->create('of_t', 'SELECT k, count(*) AS c, sum(id) AS s FROM t GROUP BY k');

my $keys = 0;

sub more_keys
{
	my ($n) = @_;
	$broker->produce('keys', map { [ 0, undef, sprintf '{"k": %d, "n": %d}', $_, $_ % 100 ] } $keys .. $keys + $n - 1);
	$keys += $n;
	return;
}

# section(name, code): with all the room there is, at first
sub section
{
	empty($_) for $small, $slots, $wal, $shm;
	$oracle->section(@_);
	return;
}

# ------------------------------------------------------------- state and results

section('tablespace', sub {
	more_keys(500);
	sql('INSERT INTO t SELECT i, i, $$x$$ FROM generate_series(1, 500) i');
	$oracle->same('before it is full');
	fill($small);
	more_keys(20_000);
	sql('INSERT INTO t SELECT i, i, $$x$$ FROM generate_series(501, 20000) i');
	$oracle->stalls('by_key', '53100', qr/No space left on device/, 'a tablespace is full: a view over a topic');
	$oracle->stalls('of_t', '53100', qr/No space left on device/, 'a tablespace is full: a view over a table');
	is(sql('SELECT count(*), (SELECT count(*) FROM of_t) FROM by_key'), '500|500', 'both are as they were');
	others('full', 'postgres');
	my $log = -s $node->logfile;
	sleep 4;
	my $tries = () = slurp_file($node->logfile, $log) =~ /"by_key" stalls/g;
	cmp_ok($tries, '<=', 4, "it is tried again, not all the time ($tries times)");
	empty($small);
	ok($node->wait_until(q{SELECT count(*) FROM weir.views WHERE state = 'running'}, '3', 60, 'd'), 'there is room: they go on by themselves');
	$oracle->same('exactly');
	others('room again', qw(postgres d));
});

# ------------------------------------------------------------- what is spilled

# More than 64 MB of decoded rows go to a temporary file, in the tablespace of the
# database; before that, what PostgreSQL decodes beyond 1 MB, beside the slot.
for my $case ([ 'our own spill file', $small ], [ 'the spill files of the slot', $slots ])
{
	my ($what, $mount) = @$case;
	section($what, sub {
		$oracle->same("$what: before", 'of_t');
		my $before = sql('SELECT sum(c) FROM of_t');
		my $seen = -s $node->logfile;
		# what is dirty has its room
		sql('CHECKPOINT');
		fill($mount, 4096);
		# the session itself must need none
		sql(q{SET work_mem = '256MB'; INSERT INTO t SELECT i, i % 100, repeat('x', 400) FROM generate_series(1, 200000) i});
		ok($node->wait_for_log(qr/No space left on device/, $seen), "$what: full");
		ok($node->wait_until($oracle->state_query('of_t'), 'stalled 53100', 30, 'd'), "$what: the view says so");
		is(sql('SELECT sum(c) FROM of_t'), $before, "$what: nothing of the transaction is shown");
		more_keys(10);
		is($node->error_of(q{SELECT weir.wait_for('by_key', '30 s')}, 'd'), '', "$what: views of other sources go on") if $mount ne $small;
		others($what, 'postgres');
		empty($mount);
		ok($node->wait_until('SELECT sum(c) FROM of_t', $before + 200_000, 60, 'd'), "$what: there is room, and the view goes on by itself");
		$oracle->same("$what: exactly");
		sql('DELETE FROM t WHERE id % 100 = 3');
		$oracle->same("$what: and on");
	});
}

# ------------------------------------------------------------- /dev/shm

section('/dev/shm', sub {
	$oracle->same('before there is no shared memory');
	fill($shm, 64);
	# larger than what a segment has left
	$broker->create_topic('wide', 1);
	sql(q{CREATE FOREIGN TABLE wide (k text) SERVER kafka OPTIONS (topic 'wide')});
	$oracle->create('wide_v', 'SELECT k, count(*) AS c FROM wide GROUP BY k');
	$broker->produce('wide', map { [ 0, undef, sprintf '{"k": "%s%d"}', 'w' x 100, $_ ] } 1 .. 20_000);
	ok($node->wait_until($oracle->state_query('wide_v') =~ s/SELECT .*? FROM/SELECT state || ' ' || left(sqlstate, 2) FROM/r, 'stalled 53', 60, 'd'),
		'/dev/shm is full: the view says so') or $oracle->tell;
	like(sql(q{SELECT concat_ws(' / ', message, hint) FROM weir.views WHERE view = 'wide_v'::regclass}), qr/memory|space/i, '... in words');
	others('no shared memory', qw(postgres d));
	my $log = -s $node->logfile;
	sleep 4;
	my $tries = () = slurp_file($node->logfile, $log) =~ /"wide_v" stalls/g;
	cmp_ok($tries, '<=', 4, "it is tried again, not all the time ($tries times)");
	empty($shm);
	ok($node->wait_until('SELECT count(*) FROM wide_v', '20000', 60, 'd'), 'there is room: it goes on by itself');
	$oracle->same('exactly');
	others('room again', qw(postgres d));
});

# weir.state_memory is 256 MB, but what /dev/shm has left is much less than the groups:
# views find that out, evict, and go on while it stays so.
section('a small /dev/shm', sub {
	$oracle->same('before /dev/shm is small');
	# what the oracle sorts has no room on the small disk
	sql(q{ALTER DATABASE d SET work_mem = '64MB'});
	sql(q{CREATE TABLE roomy (id int, k text) TABLESPACE pg_default; ALTER TABLE roomy REPLICA IDENTITY FULL});
	$oracle->create('roomy_v', 'SELECT k, count(*) AS c, sum(id) AS s, max(id) AS m FROM roomy GROUP BY k');
	$oracle->same('a view that has its first memory', 'roomy_v');
	fill($shm, 3072);
	my $at = 0;
	for my $round (1 .. 10)
	{
		sql(sprintf q{INSERT INTO roomy SELECT i, repeat('r', 100) || i * 7919 %% 20011 FROM generate_series(%d, %d) i}, $at + 1, $at += 2000);
	}
	my $until = time + 60;
	while ($oracle->differences(1, 'roomy_v') && time < $until) { sleep 0.2 }
	$oracle->same('more groups than /dev/shm has room for', 'roomy_v');
	cmp_ok(sql(q{SELECT groups_on_disk - groups_in_memory FROM weir.stat_views WHERE view = 'roomy_v'::regclass}), '>', 0, 'some are on disk only');
	cmp_ok(room($shm), '<=', 3072, 'while there is no more of it');
	sql(q{UPDATE roomy SET id = id + 1 WHERE id % 37 = 0});
	$until = time + 60;
	while ($oracle->differences(1, 'roomy_v') && time < $until) { sleep 0.2 }
	$oracle->same('rows change all over it', 'roomy_v');
	is(sql(q{SELECT state FROM weir.views WHERE view = 'roomy_v'::regclass}), 'running', 'it does not stall');
	others('a small /dev/shm', qw(postgres d));

	# one transaction that changes more than even that
	sql(q{UPDATE roomy SET k = 's' || k});
	ok($node->wait_until($oracle->state_query('roomy_v') =~ s/SELECT .*? FROM/SELECT state || ' ' || left(sqlstate, 2) FROM/r, 'stalled 53', 60, 'd'),
		'more than that in one transaction: the view says so') or $oracle->tell;
	my $told = sql(q{SELECT concat_ws(' / ', sqlstate, message, detail, hint) FROM weir.views WHERE view = 'roomy_v'::regclass});
	note($told);
	like($told, qr{/dev/shm}, '... and what to do');
	empty($shm);
	ok($node->wait_until(q{SELECT bool_and(left(k, 1) = 's') FROM roomy_v}, 't', 90, 'd'), 'there is room: it goes on by itself');
	$oracle->same('exactly', 'roomy_v');
	sql('ALTER DATABASE d RESET work_mem');
	$oracle->drop('roomy_v');
	sql('DROP TABLE roomy');
});

# ------------------------------------------------------------- the WAL

# PostgreSQL itself does not live on without room for WAL: it ends with a PANIC, and
# is started again when there is room.
section('WAL', sub {
	$oracle->same('before the WAL is full');
	fill($wal, 1024);
	my $seen = -s $node->logfile;
	my $deadline = time + 60;
	my $full = sub { slurp_file($node->logfile, $seen) =~ /PANIC:.*No space left on device/ };
	# all that is recycled is written first, and as fast as the machine can; the
	# sources' rows, and ours, are on the way
	until ($full->() || time > $deadline)
	{
		more_keys(100);
		eval { $node->psql('d', q{INSERT INTO t SELECT i, i % 1000, 'y' FROM generate_series(1, 100) i;
			SELECT count(pg_logical_emit_message(false, 'filler', repeat('x', 1000000))) FROM generate_series(1, 20)}) };
	}
	cmp_ok(time, '<', $deadline, 'the WAL is full: the server ends');
	my $postmaster = $node->{_pid};
	for (1 .. 100) { last if !kill 0, $postmaster; sleep 0.1 }
	kill 'QUIT', $postmaster if kill 0, $postmaster;
	empty($wal);
	$node->revive;
	$node->wait_ready;
	ok($node->wait_until(q{SELECT count(*) FROM weir.views WHERE state = 'running'}, sql('SELECT count(*) FROM weir.views'), 60, 'd'), 'there is room: the views go on');
	$oracle->same('exactly');
	others('room again', qw(postgres d));
});

$node->stop;
done_testing;
