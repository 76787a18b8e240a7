# Views over tables are exact, whatever writers do and whoever dies.
#
# Several sessions write random transactions at all isolation levels into tables
# with ties, NULLs, NaN and infinities: inserts, updates, deletes, changes of
# keys, savepoints, rollbacks, two-phase commits, TRUNCATE, harmless DDL.  In
# each round something happens beside them: a fault at a point of the code, a
# death at a random moment, a view that is created, rebuilt, paused or dropped, a
# transaction that stays open.  Meanwhile a reader looks for states that no
# transaction has left; after the round every view is compared with its query.
#
# A seed makes the scripts of the writers and the list of events before anything
# runs; how they interleave is the machine's.  WEIR_SEED repeats a list,
# WEIR_ROUNDS=N cuts it, --long takes each fault point with each action.
use strict;
use warnings;

use File::Find;
use FindBin;
use IPC::Run ();
use Test::More;
use Time::HiRes qw(sleep time);
use PostgreSQL::Test::Utils;
use WeirNode;
use WeirOracle;

my $seed = $ENV{WEIR_SEED} || 1 + int(rand 1_000_000);
srand $seed;
diag("WEIR_SEED=$seed");
my $begun = time;
my $long = $ENV{WEIR_LONG};
my $writers = 4;

sub one_of { return $_[ rand @_ ] }
sub shuffled { return map { $_->[1] } sort { $a->[0] <=> $b->[0] } map { [ rand, $_ ] } @_ }

# ------------------------------------------------------------- events

# Points that need no table, or that every process comes past: where they are tested.
my %elsewhere = map { $_ => 1 } qw(acknowledged catalog-view);
# Points of groups on disk, if there are such: 060_eviction.pl
@elsewhere{qw(evict-index evict-back)} = (1, 1) unless $ENV{WEIR_TEST_GROUPS};
# Points of what views and databases leave behind: 053_faults.pl
@elsewhere{qw(drop-view drop-forgotten slot-dropped leave-told leave-empty adopt-rows adopt-parts)} = (1) x 7;
# Points that only a view in the making reaches, or one that is rebuilt.
my $in_making = qr/^backfill|^create|^open|^publish|^evict-index/;
my $in_rebuild = qr/^rebuild/;
# Points of a slot in the making: 034_slot_states.pl
my $of_slot = qr/^slot-/;

my %points;
my $tree = -d "$FindBin::Bin/../../src" ? "$FindBin::Bin/../../src" : 'src';
find({ no_chdir => 1, wanted => sub {
	return unless /\.c$/;
	$points{$_} = 1 for slurp_file($_) =~ /\bWEIR_FAULT\("([^"]+)"\)/g;
} }, $tree);
my @points = grep { !$elsewhere{$_} && !/$of_slot/ } sort keys %points;
cmp_ok(scalar @points, '>=', 8, 'there are fault points: ' . "@points");

my @actions = qw(kill9 error enospc crash);
my @events = map { my $p = $_; map { [ 'fault', $p, $_ ] } $long ? @actions : one_of(@actions) } @points;
push @events, map { [$_] } (qw(kill9 kill9 crash crash none create create rebuild pause restart terminate open backfill_open drop)) x ($long ? 4 : 1);
@events = shuffled(@events);
splice @events, $ENV{WEIR_ROUNDS} if $ENV{WEIR_ROUNDS};

# ------------------------------------------------------------- the server

my $node = WeirNode->start_new('main', no_start => 1, conf => <<'EOF2');
fsync = on
include_if_exists = 'fault.conf'
max_prepared_transactions = 20
logical_decoding_work_mem = 256kB
deadlock_timeout = 100ms
lock_timeout = 3s
log_checkpoints = off
log_min_messages = log
log_min_error_statement = panic
EOF2
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION pg_weir');
my $oracle = WeirOracle->new($node, timeout => '60 s');

our $patience = 60;
sub sql { return $node->patient_psql($_[0], $patience) }

sql(<<'EOF2');
CREATE TABLE orders (id int PRIMARY KEY, k text, cat int, amount numeric, n int, f float8, ts timestamptz, note text);
ALTER TABLE orders REPLICA IDENTITY FULL;
CREATE TABLE ev (id int, k text, n int, amount numeric, body text) PARTITION BY RANGE (id);
CREATE TABLE ev1 PARTITION OF ev FOR VALUES FROM (0) TO (500);
CREATE TABLE ev2 (amount numeric, junk int, body text, n int, k text, id int);
ALTER TABLE ev2 DROP COLUMN junk;
ALTER TABLE ev ATTACH PARTITION ev2 FOR VALUES FROM (500) TO (1500);
CREATE TABLE ev3 PARTITION OF ev DEFAULT;
ALTER TABLE ev1 REPLICA IDENTITY FULL; ALTER TABLE ev2 REPLICA IDENTITY FULL; ALTER TABLE ev3 REPLICA IDENTITY FULL;
CREATE TABLE slim (id int, k text NOT NULL, w int NOT NULL, other int);
CREATE UNIQUE INDEX slim_identity ON slim (k, w, id);
ALTER TABLE slim ALTER id SET NOT NULL;
ALTER TABLE slim REPLICA IDENTITY USING INDEX slim_identity;
CREATE TABLE acct (id int PRIMARY KEY, owner int, balance bigint);
ALTER TABLE acct REPLICA IDENTITY FULL;
INSERT INTO acct SELECT i, i % 10, 1000 FROM generate_series(1, 100) i;
CREATE TABLE log (id int, k text, n int);
CREATE TABLE log_ever (id int, k text, n int);
CREATE FUNCTION remember() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO log_ever VALUES (new.*); RETURN new; END $$;
CREATE TRIGGER remember AFTER INSERT ON log FOR EACH ROW EXECUTE FUNCTION remember();
-- all of it or nothing, also outside of a transaction block: money is never made
CREATE FUNCTION transfer(x int, y int, m int, o int) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
	UPDATE acct SET balance = balance - m WHERE id = x;
	IF NOT FOUND THEN RAISE 'no account'; END IF;
	UPDATE acct SET balance = balance + m, owner = o WHERE id = y;
	IF NOT FOUND THEN RAISE 'no account'; END IF;
END $$;
CREATE FUNCTION relocate(x int) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
	WITH gone AS (DELETE FROM acct WHERE id = x RETURNING *) INSERT INTO acct SELECT id + 1000, owner, balance FROM gone;
	UPDATE acct SET id = x WHERE id = x + 1000;
END $$;
-- what a writer may draw from: ties, NULLs, what is not a number.  Sums of these floats are
-- exact in any order.
CREATE FUNCTION any_k(i int) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT (ARRAY['a', 'b', 'c', NULL, '', 'd', repeat('long', 30), 'e'])[1 + abs(i) % 8] $$;
CREATE FUNCTION any_amount(i int) RETURNS numeric LANGUAGE sql IMMUTABLE AS $$
	SELECT CASE abs(i) % 97 WHEN 1 THEN NULL WHEN 2 THEN 'NaN' WHEN 3 THEN 'Infinity' WHEN 4 THEN 1e30 WHEN 5 THEN -0.00000001 ELSE (i % 1000) * 0.25 END $$;
CREATE FUNCTION any_f(i int) RETURNS float8 LANGUAGE sql IMMUTABLE AS $$
	SELECT CASE abs(i) % 89 WHEN 1 THEN NULL WHEN 2 THEN 'NaN' WHEN 3 THEN 'Infinity' WHEN 4 THEN '-Infinity' WHEN 5 THEN 1e12 ELSE (i % 1000) / 4.0 END $$;
CREATE FUNCTION any_ts(i int) RETURNS timestamptz LANGUAGE sql IMMUTABLE AS $$
	SELECT CASE abs(i) % 31 WHEN 1 THEN NULL WHEN 2 THEN timestamptz '2026-03-02 00:00Z' WHEN 3 THEN timestamptz '2026-03-02 00:00Z' - interval '1 us'
		ELSE timestamptz '2026-03-01 00:00Z' + abs(i) % 240 * interval '33 minutes' END $$;
CREATE FUNCTION any_body(i int) RETURNS text LANGUAGE sql IMMUTABLE AS $$
	SELECT CASE abs(i) % 5 WHEN 0 THEN NULL WHEN 1 THEN (SELECT string_agg(md5((i + j)::text), '') FROM generate_series(1, 120) j) ELSE md5(i::text) END $$;
INSERT INTO orders SELECT i, any_k(i), i % 4, any_amount(i), i % 50, any_f(i), any_ts(i), 'note ' || i % 17 FROM generate_series(1, 1500) i;
INSERT INTO ev SELECT i, any_k(i), i % 10, i % 100, any_body(i) FROM generate_series(1, 1000) i;
INSERT INTO slim SELECT i, coalesce(any_k(i), '-'), i % 5, 0 FROM generate_series(1, 500) i;
INSERT INTO log SELECT i, any_k(i), i FROM generate_series(1, 200) i;
EOF2

# ------------------------------------------------------------- views

my %query = (
	by_key => 'SELECT k, count(*) AS c, count(n) AS cn, sum(n) AS sn, sum(amount) AS sa, avg(amount) AS aa, avg(n) AS an FROM orders GROUP BY k',
	by_day => q{SELECT cat, weir.tumble(ts, '1 day') AS win, count(*) AS c, sum(f) AS sf, avg(f) AS af, sum(n) AS sn FROM orders GROUP BY cat, win},
	extremes => 'SELECT k, min(n) AS mn, max(n) AS mxn, min(amount) AS ma, max(amount) AS mxa, max(note) AS mno, min(ts) AS mt, max(f) AS mf FROM orders GROUP BY k',
	grand => 'SELECT count(*) AS c, sum(n) AS sn, sum(amount) AS sa, min(id) AS mi, max(ts) AS mt FROM orders',
	often => 'SELECT n, count(*) AS c, sum(amount) / count(*) AS m FROM orders WHERE cat > 0 GROUP BY n HAVING count(*) % 3 <> 0 AND sum(id) > 100',
	chosen => q{SELECT cat, n % 3 AS r, count(*) FILTER (WHERE k < 'd') AS c, sum(amount) FILTER (WHERE f > 0) AS s, max(id) FILTER (WHERE n > 25) AS m FROM orders GROUP BY 1, 2},
	ev_key => 'SELECT k, count(*) AS c, sum(amount) AS s, min(id) AS mi, max(length(body)) AS lb FROM ev GROUP BY k',
	ev_body => q{SELECT left(body, 1) AS l, count(*) AS c, max(body) AS mb FROM ev GROUP BY 1},
	ev_leaf => 'SELECT n, count(*) AS c, sum(amount) AS s FROM ev2 GROUP BY n',
	slim_key => 'SELECT k, count(*) AS c, sum(w) AS s, max(id) AS m FROM slim GROUP BY k',
	money => 'SELECT sum(balance) AS s, count(*) AS c FROM acct',
	owners => 'SELECT owner, sum(balance) AS s, count(*) AS c FROM acct GROUP BY owner',
	ever => 'SELECT k, count(*) AS c, sum(n) AS s, max(id) AS m FROM log GROUP BY k');
# made in the middle of the load, by the events, one after the other
my @later = qw(ev_body often owners chosen);
my @now = grep { my $v = $_; !grep { $_ eq $v } @later } sort keys %query;

sub options
{
	my ($name) = @_;
	my @with = sprintf "weir.commit_interval = '%d ms'", 10 + int rand 150;
	push @with, "weir.append_only = 'ignore'" if $name =~ /^ever/;
	return join ', ', @with;
}

# Of equal extremes (0 and 0.00) any may show, as in PostgreSQL.
sub parameters
{
	my ($name) = @_;
	return (with => options($name), $name =~ /^extremes/ ? (by => 'value') : (),
		$name =~ /^ever/ ? (truth => $query{ever} =~ s/FROM log/FROM log_ever/r) : ());
}

# A name again and again: a view of a name's query
my $made = 0;
my $created = 0;
sub create_some
{
	my $name = @later ? shift @later : one_of(keys %query);
	my $query = $query{$name};
	$name .= '_' . ++$made if $oracle->{views}{$name};
	my %param = parameters($name);
	# what 'ignore' has seen depends on the moment of its creation
	return create_some() if $name =~ /^ever/;
	sql($oracle->statement($name, $query, %param));
	$oracle->know($name, $query, %param);
	$created++;
	return $name;
}

# ------------------------------------------------------------- writers

sub some_ids { my ($max) = @_; my $from = int rand $max; my $n = rand() < 0.1 ? 200 : 1 + int rand 15; return ($from, $from + $n) }

my @statements = (
	[ 20, sub { my ($a, $b) = some_ids(3000); my $r = int rand 100000;
		"INSERT INTO orders SELECT i, any_k(i * $r % 1009), i % 4, any_amount(i * $r % 4999), (i + $r) % 50, any_f(i + $r), any_ts(i + $r), 'note ' || $r % 17 FROM generate_series($a, $b) i ON CONFLICT DO NOTHING" } ],
	[ 8, sub { my ($a, $b) = some_ids(3000); my $r = int rand 100000;
		"INSERT INTO orders (id, k, n, amount) SELECT i, any_k($r), $r % 50, $r % 7 FROM generate_series($a, $b) i ON CONFLICT (id) DO UPDATE SET n = excluded.n, amount = orders.amount + 0.125" } ],
	[ 15, sub { my ($a, $b) = some_ids(3000); my $r = int rand 100000;
		"UPDATE orders SET amount = any_amount(id + $r), n = (n + $r) % 50, f = any_f(id * 3 + $r) WHERE id BETWEEN $a AND $b" } ],
	[ 12, sub { my ($a, $b) = some_ids(3000); my $r = int rand 100000;
		"UPDATE orders SET k = any_k(id + $r), cat = (cat + 1) % 5 WHERE id BETWEEN $a AND $b" } ],
	[ 8, sub { my ($a, $b) = some_ids(3000); my $r = int rand 100000; "UPDATE orders SET ts = any_ts(id + $r), note = 'note ' || id % 5 WHERE id BETWEEN $a AND $b" } ],
	[ 3, sub { my ($a, $b) = some_ids(3000); "UPDATE orders SET id = id + 5000 WHERE id BETWEEN $a AND $b AND NOT EXISTS (SELECT FROM orders o WHERE o.id = orders.id + 5000)" } ],
	[ 12, sub { my ($a, $b) = some_ids(3000); "DELETE FROM orders WHERE id BETWEEN $a AND $b" } ],
	[ 3, sub { my $k = int rand 8; "DELETE FROM orders WHERE k IS NOT DISTINCT FROM any_k($k) AND id % 3 = 0" } ],
	[ 8, sub { my ($a, $b) = some_ids(2000); my $r = int rand 100000; "INSERT INTO ev SELECT i, any_k(i + $r), i % 10, $r % 100, any_body(i + $r) FROM generate_series($a, $b) i" } ],
	[ 8, sub { my ($a, $b) = some_ids(2000); my $r = int rand 1000; "UPDATE ev SET n = (n + 1) % 10, amount = $r WHERE id BETWEEN $a AND $b" } ],
	[ 5, sub { my ($a, $b) = some_ids(2000); my $to = int rand 2000; "UPDATE ev SET id = id - $a + $to, k = any_k(n + $to) WHERE id BETWEEN $a AND $b" } ],
	[ 3, sub { my ($a, $b) = some_ids(2000); "UPDATE ev SET body = body || 'x' WHERE id BETWEEN $a AND $b" } ],
	[ 7, sub { my ($a, $b) = some_ids(2000); "DELETE FROM ev WHERE id BETWEEN $a AND $b" } ],
	[ 6, sub { my ($a, $b) = some_ids(1000); my $r = int rand 1000; "INSERT INTO slim SELECT i, coalesce(any_k(i + $r), '-'), i % 5, $r FROM generate_series($a, $b) i ON CONFLICT DO NOTHING" } ],
	[ 6, sub { my ($a, $b) = some_ids(1000); my $r = int rand 1000;
		one_of("UPDATE slim SET other = $r WHERE id BETWEEN $a AND $b", "UPDATE slim SET w = 5 - w WHERE id BETWEEN $a AND $b", "DELETE FROM slim WHERE id BETWEEN $a AND $b") } ],
	[ 15, sub { my ($x, $y, $z) = map { 1 + int rand 100 } 1 .. 3; my $m = int rand 50;
"SELECT transfer($x, $y, $m, $z % 10)" } ],
	[ 3, sub { my $x = 1 + int rand 100; "SELECT relocate($x)" } ],
	[ 8, sub { my ($a, $b) = some_ids(500); "INSERT INTO log SELECT i, any_k(i), i FROM generate_series($a, $b) i" } ],
	[ 3, sub { my ($a, $b) = some_ids(500); one_of("DELETE FROM log WHERE id BETWEEN $a AND $b", "UPDATE log SET n = n + 1 WHERE id BETWEEN $a AND $b") } ],
	[ 0.3, sub { "DELETE FROM log; INSERT INTO log SELECT i, 'again', i FROM generate_series(1, 50) i" } ],
	[ 0.4, sub { my $r = int rand 1000; 'TRUNCATE ' . one_of('orders', 'orders', 'log', 'slim', 'ev', 'orders, ev') . "; INSERT INTO orders SELECT i, any_k(i + $r), i % 4, any_amount(i), i % 50, any_f(i), any_ts(i), 'note' FROM generate_series(1, 800) i ON CONFLICT DO NOTHING" } ],
	[ 0.1, sub { 'DELETE FROM orders' } ],
	[ 0.6, sub { my $r = int rand 1e9; one_of("ALTER TABLE orders ADD COLUMN extra_$r int DEFAULT 5", "ALTER TABLE orders ADD COLUMN extra_$r float8 DEFAULT random()",
		'CREATE INDEX ON orders (n)', 'ALTER TABLE orders SET (fillfactor = ' . (50 + $r % 50) . ')', "ALTER TABLE ev ADD COLUMN extra_$r text DEFAULT 'e'",
		"ALTER TABLE acct ADD CONSTRAINT c_$r CHECK (id > 0)", 'ANALYZE orders', 'COMMENT ON TABLE orders IS \'c\'',
		q{DO $d$ DECLARE c text; BEGIN SELECT attname INTO c FROM pg_attribute WHERE attrelid = 'orders'::regclass AND attname LIKE 'extra%' AND NOT attisdropped LIMIT 1;
			IF c IS NOT NULL THEN EXECUTE format('ALTER TABLE orders DROP COLUMN %I', c); END IF; END $d$}) } ]);
my $weight = 0;
$weight += $_->[0] for @statements;

sub statement
{
	my $at = rand $weight;
	for my $s (@statements) { return $s->[1]->() . ";\n" if ($at -= $s->[0]) < 0 }
	return $statements[0][1]->() . ";\n";
}

my $prepared = 0;
sub transaction
{
	my $sql = 'BEGIN ISOLATION LEVEL ' . one_of('READ COMMITTED', 'REPEATABLE READ', 'SERIALIZABLE') . ";\n";
	return statement() if rand() < 0.2;
	my $n = rand() < 0.03 ? 60 : 1 + int rand 6;
	my $depth = 0;
	for (1 .. $n)
	{
		my $what = rand;
		if ($what < 0.15) { $sql .= "SAVEPOINT s;\n"; $depth++ }
		elsif ($what < 0.25 && $depth) { $sql .= "ROLLBACK TO s;\n" }
		elsif ($what < 0.28 && $depth) { $sql .= "RELEASE s;\n"; $depth-- }
		$sql .= statement();
		$sql .= sprintf "SELECT pg_sleep(%.3f);\n", rand 0.02 if rand() < 0.05;
	}
	my $end = rand;
	if ($end < 0.05) { my $gid = 'g' . ++$prepared; return $sql . "PREPARE TRANSACTION '$gid';\n" . one_of('COMMIT', 'COMMIT', 'ROLLBACK') . " PREPARED '$gid';\n" }
	return $sql . ($end < 0.18 ? "ROLLBACK;\n" : "COMMIT;\n");
}

my $dir = $PostgreSQL::Test::Utils::tmp_check;
my @running;

sub start_writers
{
	my ($transactions) = @_;
	for my $w (1 .. $writers)
	{
		open my $fh, '>', "$dir/writer$w.sql" or die $!;
		print $fh "SET synchronous_commit = off;\n" if rand() < 0.3;
		print $fh transaction() for 1 .. $transactions;
		close $fh;
		my $out = '';
		push @running, { out => \$out, run => IPC::Run::start(
			[ 'psql', '-XAt', '-d', $node->connstr('postgres'), '-f', "$dir/writer$w.sql" ],
			'<', '/dev/null', '>', \$out, '2>', "$dir/writer$w.err", IPC::Run::timeout(120)) };
	}
}

my ($committed, $failures) = (0, 0);
sub finish_writers
{
	for my $writer (@running)
	{
		eval { $writer->{run}->finish; 1 } or diag("a writer: $@");
		$committed += () = ${ $writer->{out} } =~ /^COMMIT$/mg;
	}
	@running = ();
	for my $w (1 .. $writers)
	{
		my $err = slurp_file("$dir/writer$w.err");
		$failures += () = $err =~ /could not serialize|deadlock/g;
		# a writer that only makes mistakes tests nothing
		if ($err =~ /^(.*(?:syntax error|(?:column|relation|function|type) \S+ does not exist|out of range).*)$/m) { fail('writers know SQL'); diag($1) }
	}
}

sub writing { return grep { $_->{run}->pumpable && eval { $_->{run}->pump_nb; 1 } && $_->{run}->pumpable } @running }

# ------------------------------------------------------------- faults

my %fired;
my $seen;

sub look_for
{
	my ($point, $action) = @_;
	slurp_file($node->logfile, $seen) =~ /fault point \Q$point\E: $action/ or return 0;
	$node->set_fault('');
	$node->revive if $action eq 'crash';
	return 1;
}

# ------------------------------------------------------------- looks

my ($looks, %odd) = (0);

# States that no transaction has left; views at the same position must agree.
sub look
{
	my ($rc, $out) = $node->_try(q{
		BEGIN ISOLATION LEVEL REPEATABLE READ;
		WITH p AS (SELECT d.view::regclass::text AS v, max(p.position) AS at FROM weir_data.positions p
				JOIN weir_data.definitions() d ON d.id = p.view_id JOIN weir_data.status s ON s.view_id = d.id AND s.phase = 'running' GROUP BY 1)
		SELECT 'money is ' || s || ' of ' || c FROM money WHERE (s, c) IS DISTINCT FROM (100000, 100) AND EXISTS (SELECT FROM p WHERE v = 'money')
		UNION ALL SELECT 'orders are ' || c || ' and ' || (SELECT coalesce(sum(c), 0) FROM by_key) FROM grand
			WHERE (SELECT count(DISTINCT at) = 1 AND count(*) = 2 FROM p WHERE v IN ('grand', 'by_key')) AND c <> (SELECT coalesce(sum(c), 0) FROM by_key)
		UNION ALL SELECT 'days are ' || sn FROM grand
			WHERE (SELECT count(DISTINCT at) = 1 AND count(*) = 2 FROM p WHERE v IN ('grand', 'by_day')) AND sn IS DISTINCT FROM (SELECT sum(sn) FROM by_day);
		COMMIT});
	return if $rc != 0;
	$looks++;
	$odd{$_}++ for grep { /\S/ } split /\n/, $out;
}

# ------------------------------------------------------------- a round

my %open;    # a session with an open transaction

sub open_transaction
{
	my $session = $node->background_psql('postgres', on_error_stop => 0);
	$session->query("BEGIN; INSERT INTO orders SELECT i, 'open', 1, 1, 1, 1, now(), 'open' FROM generate_series(20000, 20100) i ON CONFLICT DO NOTHING; DELETE FROM orders WHERE id = 20050; SAVEPOINT s; UPDATE orders SET n = 2 WHERE id > 20080");
	return $session;
}

my $rounds = 0;
sub live_through
{
	my ($event) = @_;
	my ($kind, $point, $action) = @$event;
	my $held;
	$seen = -s $node->logfile;
	$node->set_fault("$point:$action:1") if $kind eq 'fault';
	$held = open_transaction() if $kind =~ /open/;
	start_writers($long ? 80 : 50);
	sleep rand 0.2;

	if ($kind eq 'fault')
	{
		my $found = 0;
		my $deadline = time + 25;
		my $prompted;
		until ($found ||= look_for($point, $action))
		{
			last if time > $deadline;
			# who dies of it is not waited for
			local $patience = 0;
			$prompted ||= eval { create_some() } || 1 if $point =~ $in_making;
			$prompted ||= eval { sql("SELECT weir.rebuild('by_key')") } || 1 if $point =~ $in_rebuild;
			if (!writing()) { finish_writers(); $node->wait_ready(5); start_writers(20) }
			sleep 0.03;
		}
		$fired{"$point $action"}++ if $found;
		diag("$point:$action has not fired") unless $found;
		$node->set_fault('');
	}
	elsif ($kind eq 'kill9') { sleep rand 0.5; $node->kill9_worker('postgres') }
	elsif ($kind eq 'crash') { sleep rand 0.5; $node->crash_server }
	elsif ($kind eq 'restart') { $node->restart }
	elsif ($kind eq 'terminate') { sql(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type LIKE 'pg_weir%'}) }
	elsif ($kind eq 'create' || $kind eq 'backfill_open') { create_some() for 1 .. 2 }
	elsif ($kind eq 'rebuild') { sql("SELECT weir.rebuild('$_')") for (shuffled(grep { !/^ever/ } $oracle->names))[ 0 .. 1 ] }
	elsif ($kind eq 'pause')
	{
		my @some = (shuffled($oracle->names))[ 0 .. 2 ];
		sql("SELECT weir.pause('$_')") for @some;
		sleep 0.3;
		sql("SELECT weir.resume('$_')") for @some;
	}
	elsif ($kind eq 'drop')
	{
		my $name = create_some();
		$oracle->forget($name);
		sql("DROP TABLE $name");
	}
	$fired{$kind}++;

	while (writing()) { look(); sleep 0.02 }
	finish_writers();
	$node->wait_ready or BAIL_OUT('the server does not come back');
	if ($held)
	{
		# views hold what is committed, and no more, beside a transaction that goes on
		check("beside an open transaction, $kind");
		eval { $held->query('ROLLBACK TO s; UPDATE orders SET n = 3 WHERE id > 20090; COMMIT'); $held->quit };
	}
	for my $gid (split /\n/, sql('SELECT gid FROM pg_prepared_xacts'))
	{
		sql(one_of('COMMIT', 'ROLLBACK') . " PREPARED '$gid'");
	}
	$rounds++;
}

# A stall that an injected error has left behind passes by itself.
sub catch_up
{
	my $deadline = time + 60;
	my $error = '';
	for my $name ($oracle->names)
	{
		while (1)
		{
			$error = $node->error_of("SELECT weir.wait_for('$name', '60 s')");
			return "$name: $error" if $error =~ /^57014/ || $error ne '' && time > $deadline;
			last if $error eq '';
			sleep 0.2;
		}
	}
	return '';
}

my ($compared, %wrong) = (0);
sub check
{
	my ($what) = @_;
	my $late = catch_up();
	my %differ = $late ne '' ? ('(late)' => $late) : $oracle->differences(0);
	$compared += $oracle->names;
	for my $name (sort keys %differ)
	{
		$wrong{"$name after $what"} = $differ{$name};
		diag("round $rounds, $what: $name: $differ{$name}");
	}
	# one failure is enough to look at: the rest would follow from it
	if (%differ) { $oracle->tell; die "given up\n" }
}

for my $name (@now)
{
	$oracle->create($name, $query{$name}, parameters($name));
}
eval {
	check('creation');
	diag(sprintf 'prepared in %.0f s, %d events', time - $begun, scalar @events);
	for my $event (@events)
	{
		my $started = time;
		live_through($event);
		my $lived = time - $started;
		check("@$event");
		note(sprintf '%s: %.1f s, compared %.1f s', "@$event", $lived, time - $started - $lived);
		# not more views than a person would look at
		if ($oracle->names > 18) { $oracle->drop($_) for (grep { /_\d+$/ } $oracle->names)[ 0 .. 3 ] }
	}
	1;
} or diag($@);

is(join("\n", map { "$_: $wrong{$_}" } sort keys %wrong), '', "after each event every view is its query ($compared comparisons)");
is($rounds, scalar @events, 'all events were lived through');
is(join("\n", sort keys %odd), '', "no reader has seen what no transaction left ($looks looks)");
diag(sprintf '%d events in %.0f s; %d transactions, %d serialization failures and deadlocks, %d looks', $rounds, time - $begun, $committed, $failures, $looks);

# Was there something to test?
is(join(', ', grep { !$fired{ s/^fault //r } } map { "@$_" } @events), '', 'each event happened');
cmp_ok($committed, '>', 10 * @events, 'transactions were committed');
cmp_ok($failures, '>', 0, 'and some got into each other\'s way');
cmp_ok($looks, '>', @events, 'somebody looked');
cmp_ok($created, '>=', 3, 'views were created in the middle') unless $ENV{WEIR_ROUNDS};
cmp_ok(sql('SELECT coalesce(min(rows_in), 0) FROM weir.stat_views'), '>', 0, 'each view was given rows');
for my $name ($oracle->names) { cmp_ok(sql("SELECT count(*) FROM $name"), '>', 0, "$name has rows") }

# A rebuild is the same once more, and nothing stays behind.
if (!%wrong)
{
	sql("SELECT weir.rebuild('$_')") for grep { !/^ever/ } $oracle->names;
	$oracle->same('after a rebuild of all');
	$oracle->drop($_) for $oracle->names;
	ok($node->wait_until('SELECT count(*) FROM pg_replication_slots', '0', 60), 'no slot is left');
}
unlike(slurp_file($node->logfile), qr/PANIC|TRAP:|signal 11|signal 6/, 'nobody crashed but on demand');
$node->stop;
done_testing;
