# Backfills: a view over a table that is written all the while begins with what
# the table had, and nothing is missing or counted twice.
#
# Every transaction of the writers keeps sum(amount) of the table as it is: they
# move amounts between rows, add pairs that cancel out, delete a row and give
# another what it had.  So every prefix of the commits has the same sum, and so
# must a view at each of its commits, the first one above all.  At the end
# Postgres runs each query over the table and finds no difference.
use strict;
use warnings;

use IPC::Run ();
use Test::More;
use Time::HiRes qw(sleep time);
use WeirNode;

my $node = WeirNode->start_new('main', conf => <<'EOF');
include_if_exists = 'try.conf'
max_prepared_transactions = 5
max_wal_size = 4GB
log_checkpoints = off
EOF
my $total = 200_000;

sub sql { return $node->safe_psql('postgres', @_) }

# Sets what only backfills look at; nothing: as it was.
sub configure
{
	my (@lines) = @_;
	open my $fh, '>', $node->data_dir . '/try.conf' or die $!;
	print $fh map { "$_\n" } @lines;
	close $fh;
	$node->reload;
	# the postmaster has read it when a new session has it
	my ($name, $value) = ('weir.backfill_rate', '1000000');
	($name, $value) = $lines[-1] =~ /^([\w.]+)\s*=\s*'?(.*?)'?$/ if @lines;
	$node->wait_until("SELECT current_setting('$name')", $value);
}

sql(<<'EOF');
CREATE EXTENSION pg_weir;
CREATE TABLE acc (id bigserial PRIMARY KEY, grp int, amount bigint, note text);
ALTER TABLE acc REPLICA IDENTITY FULL;
CREATE TABLE parts (id bigserial, grp int, amount bigint, note text, PRIMARY KEY (id, grp)) PARTITION BY LIST (grp);
CREATE TABLE parts_a PARTITION OF parts FOR VALUES IN (0, 1, 2, 3, 4, 5, 6, 7, 8, 9);
CREATE TABLE parts_b (note text, amount bigint, grp int NOT NULL, id bigint NOT NULL);
ALTER TABLE parts ATTACH PARTITION parts_b DEFAULT;
ALTER TABLE parts_a REPLICA IDENTITY FULL;
ALTER TABLE parts_b REPLICA IDENTITY FULL;
INSERT INTO acc (grp, amount, note)
	SELECT i % 50, 1, CASE WHEN i % 1000 = 0 THEN repeat(md5(i::text), 200) ELSE md5((i % 77)::text) END
	FROM generate_series(1, 200000) i;
INSERT INTO parts (grp, amount, note) SELECT i % 50, 1, md5(i::text) FROM generate_series(1, 200000) i;
ANALYZE;

CREATE PROCEDURE churn(seconds float8, seed float8) LANGUAGE plpgsql AS $$
DECLARE
	until timestamptz := clock_timestamp() + seconds * interval '1 s';
	t text; x int; what int; ids bigint[];
BEGIN
	PERFORM setseed(seed);
	WHILE clock_timestamp() < until LOOP
		t := CASE WHEN random() < 0.7 THEN 'acc' ELSE 'parts' END;
		x := (random() * 100)::int;
		what := floor(random() * 6);
		EXECUTE format('SELECT array_agg(id) FROM (SELECT id FROM %I WHERE id IN ($1, $2) ORDER BY id FOR UPDATE SKIP LOCKED) s', t)
			INTO ids USING 100 + (random() * 210000)::bigint, 100 + (random() * 210000)::bigint;
		IF what = 0 OR cardinality(ids) IS DISTINCT FROM 2 THEN
			EXECUTE format('INSERT INTO %I (grp, amount, note) SELECT floor(random() * 50), s * $1, md5(random()::text) FROM (VALUES (1), (-1)) v(s)', t)
				USING x;
		ELSIF what <= 3 THEN
			EXECUTE format('UPDATE %I SET amount = amount + CASE WHEN id = $1 THEN $3 ELSE -$3 END, grp = floor(random() * 50) WHERE id IN ($1, $2)', t)
				USING ids[1], ids[2], x;
		ELSIF what = 4 THEN
			EXECUTE format('UPDATE %1$I SET amount = amount + (SELECT d.amount FROM %1$I d WHERE d.id = $2) WHERE id = $1', t)
				USING ids[1], ids[2];
			EXECUTE format('DELETE FROM %I WHERE id = $1', t) USING ids[2];
		ELSE
			BEGIN
				EXECUTE format('INSERT INTO %I (grp, amount, note) VALUES (1, 1000, ''undone'')', t);
				RAISE EXCEPTION 'undo';
			EXCEPTION WHEN raise_exception THEN
				EXECUTE format('INSERT INTO %I (grp, amount, note) VALUES (7, $1, ''one''), (8, -$1, ''other'')', t) USING x;
			END;
		END IF;
		IF random() < 0.1 THEN ROLLBACK; ELSE COMMIT; END IF;
	END LOOP;
END $$;
EOF

# So many writers for so long.
my @writers;

sub churn
{
	my ($n, $seconds) = @_;
	for (1 .. $n)
	{
		my $seed = rand;
		my ($in, $out) = ('', '');
		push @writers,
		  IPC::Run::start([ 'psql', '-XqAt', '-d', $node->connstr('postgres'),
				'-c', "CALL churn($seconds, $seed)" ], '<', \$in, '>', \$out, '2>&1');
	}
}

sub writers_end
{
	eval { $_->finish } for @writers;
	@writers = ();
}

my %query = (
	total => 'SELECT count(*) AS n, sum(amount) AS s FROM acc',
	groups => 'SELECT grp, count(*) AS n, sum(amount) AS s, min(note) AS lo, max(amount) AS hi FROM acc GROUP BY grp',
	narrow => 'SELECT grp, sum(amount) AS s, count(note) AS n FROM acc WHERE id < 20000 AND grp > 5 GROUP BY grp',
	each_row => 'SELECT id, grp, max(length(note)) AS l, sum(amount) AS s FROM acc GROUP BY id, grp',
	leaves => 'SELECT grp, count(*) AS n, sum(amount) AS s FROM parts GROUP BY grp',
	leaf => 'SELECT grp, count(*) AS n, sum(amount) AS s FROM parts_b GROUP BY grp',
	letters => 'SELECT grp, sum(100 / (id - 77)) AS s FROM acc GROUP BY grp');
my %options = (letters => ", weir.on_error = 'dead_letter'");

# What Postgres computes by itself: not for the rows that raise.
my %oracle = (%query,
	letters => 'SELECT grp, sum(100 / nullif(id - 77, 0)) AS s FROM acc WHERE id <> 77 GROUP BY grp');

sub create
{
	sql("CREATE TABLE $_ WITH (weir.continuous" . ($options{$_} || '') . ") AS $query{$_}") for @_;
}

sub differences
{
	my ($view) = @_;
	return sql("SELECT count(*) FROM ((TABLE $view EXCEPT ALL ($oracle{$view}))"
		  . " UNION ALL (($oracle{$view}) EXCEPT ALL TABLE $view)) d");
}

sub is_exact
{
	my ($view, $name) = @_;
	my $error = '';
	for (1 .. 40)
	{
		# a stall that ends by itself is none of our business here
		$error = $node->error_of("SELECT weir.wait_for('$view', '60 s')");
		last if $error eq '' || $error =~ /57014/;
		sleep 0.25;
	}
	is($error, '', "$name: $view gets there");
	is(differences($view), '0', "$name: $view is the query's result");
}

# ---- under load
{
	# begun before, ended after: S does not see them
	my ($in, $out) = ('', '');
	my $long = IPC::Run::start([ 'psql', '-XqAt', '-d', $node->connstr('postgres') ],
		'<', \$in, '>', \$out, '2>&1');
	$in = "SELECT weir_data.now() IS NOT NULL;\n";
	# creating the slot waits for whoever writes, so it comes first
	create('total');
	ok($node->wait_until("SELECT state FROM weir.views WHERE view = 'total'::regclass", 'running', 60), 'the first view');
	churn(3, 8);
	$in .= "BEGIN; UPDATE acc SET amount = amount + CASE WHEN id = 11 THEN 5 ELSE -5 END WHERE id IN (11, 12);"
	  . " SAVEPOINT a; DELETE FROM acc WHERE id = 13; ROLLBACK TO a; SAVEPOINT b;"
	  . " INSERT INTO acc (grp, amount) VALUES (3, 9), (4, -9); RELEASE b; SELECT 'begun';\n";
	$long->pump until $out =~ /begun/;
	sql("BEGIN; UPDATE acc SET amount = amount + CASE WHEN id = 21 THEN 7 ELSE -7 END WHERE id IN (21, 22);"
		  . " PREPARE TRANSACTION 'prepared'");
	create(grep { $_ ne 'total' } sort keys %query);

	my ($seen, $wrong, $published, $steps) = (0, 0, 0, 0);
	my $sums = join ' UNION ALL ', map { "SELECT '$_', sum(s) FROM $_ HAVING count(*) > 0" } qw(total groups each_row leaves);
	my $until = time + 12;		# longer than the writers take
	my $ended = 0;
	while (time < $until)
	{
		my %sum = map { split /\|/ } split /\n/, sql($sums);
		$seen = keys %sum if keys %sum > $seen;
		$wrong += grep { $_ ne $total } values %sum;
		$steps++;
		if (!$ended && $steps >= 3)
		{
			$in .= "COMMIT; SELECT 'ended';\n";
			$long->pump until $out =~ /ended/;
			sql("COMMIT PREPARED 'prepared'");
			$ended = 1;
		}
		sleep 0.05;
	}
	$in .= "\\q\n";
	eval { $long->finish };
	writers_end();
	is($seen, 4, 'the views were published while the table was written');
	cmp_ok($steps, '>', 20, 'and looked at often');
	is($wrong, 0, 'each commit of a view is of a prefix of the commits of the table');
	is_exact($_, 'under load') for sort keys %query;
	is(sql("SELECT count(*) FROM weir.dead_letters WHERE view = 'letters'::regclass AND sqlstate = '22012' AND lsn IS NOT NULL"),
		'1', 'a row that the table had becomes a dead letter');
	is(sql("SELECT count(*) FROM weir.progress"), '0', 'no progress to show');
	is(sql("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_weir backfill'"), '0', 'no process is left');
}

# ---- an expression that raises, without weir.on_error
{
	sql("CREATE TABLE raises WITH (weir.continuous) AS SELECT grp, sum(100 / (id - 78)) AS s FROM acc GROUP BY grp");
	ok($node->wait_until("SELECT state, sqlstate, message, detail FROM weir.views WHERE view = 'raises'::regclass",
			'stalled|22012|division by zero|A row that the table had before the view.'), 'stalls the view');
	sql("DROP TABLE raises");
	sql("CREATE TABLE raises WITH (weir.continuous) AS SELECT grp, count(*) AS n FROM acc WHERE 100 / (id - 78) > 1 GROUP BY grp");
	ok($node->wait_until("SELECT state, sqlstate, message FROM weir.views WHERE view = 'raises'::regclass",
			'stalled|22012|division by zero'), 'in WHERE, too');
	sql("UPDATE acc SET id = -id WHERE id = 78");
	sql("SELECT weir.resume('raises')");
	$oracle{raises} = 'SELECT grp, count(*) AS n FROM acc WHERE 100 / (id - 78) > 1 GROUP BY grp';
	is_exact('raises', 'after the row was mended');
	sql("DROP TABLE raises");
}

# ---- faults at each step
for my $point (qw(start ready snapshot scan send merge done))
{
	for my $action (qw(error kill9))
	{
		my $seen = -s $node->logfile;
		configure("weir.fault = 'backfill-$point:$action:1'");
		churn(1, 1.5);
		# the worker can be down before the answer
		$node->_try("SELECT weir.rebuild('groups')");
		eval { $node->wait_for_log(qr/fault point backfill-$point: $action/, $seen); 1 }
		  or fail("backfill-$point is reached");
		open my $fh, '>', $node->data_dir . '/try.conf' or die $!;
		close $fh;
		$node->reload;
		$node->wait_ready;
		writers_end();
		is_exact('groups', "$action at $point");
	}
}

# ---- slowly
{
	configure('weir.backfill_rate = 20000');
	sql("SELECT weir.rebuild('groups')");
	ok($node->wait_until("SELECT rows_done > 20000 FROM weir.progress WHERE view = 'groups'::regclass"), 'progress');
	is(sql("SELECT phase, rows_done < 190000, rows_estimate BETWEEN 150000 AND 300000, rate BETWEEN 5000 AND 40000, started < now() FROM weir.progress"),
		'backfill|t|t|t|t', 'what it shows');
	sql("CREATE ROLE nobody LOGIN");
	is(sql("SET ROLE nobody; SELECT count(*) FROM weir.progress"), '0', 'and to whom');
	is(sql('SELECT sum(s) FROM groups'), $total, 'the rows from before the rebuild stay');
	configure();
	is_exact('groups', 'after the rate was raised on the way');
}

# ---- what others do meanwhile
sub begin_slowly
{
	configure('weir.backfill_rate = 10000');
	sql("SELECT weir.rebuild('groups')");
	return $node->wait_until("SELECT rows_done > 1000 FROM weir.progress WHERE view = 'groups'::regclass");
}

sub no_process
{
	return $node->wait_until("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_weir backfill'", '0', 5);
}

{
	ok(begin_slowly(), 'begun');
	sql("SELECT weir.pause('groups')");
	ok(no_process(), 'pause ends the process');
	configure();
	sql("SELECT weir.resume('groups')");
	is_exact('groups', 'after pause and resume');

	ok(begin_slowly(), 'begun');
	sql("SELECT weir.rebuild('groups')");
	configure();
	is_exact('groups', 'after a rebuild during a rebuild');

	ok(begin_slowly(), 'begun');
	my ($worker) = $node->worker_pids('postgres');
	sql("SELECT pg_terminate_backend($worker)");
	ok($node->wait_until("SELECT count(*) FROM pg_stat_activity WHERE pid <> $worker AND backend_type = 'pg_weir worker'", '1', 30),
		'another worker begins');
	configure();
	is_exact('groups', 'after the end of the worker');

	ok(begin_slowly(), 'begun');
	sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'pg_weir backfill'");
	ok($node->wait_until("SELECT sqlstate, message FROM weir.views WHERE view = 'groups'::regclass",
			'57P01|the backfill process ended unexpectedly', 5), 'somebody ends the process');
	configure();
	is_exact('groups', 'after the end of the process');

	ok(begin_slowly(), 'begun');
	sql("DROP TABLE groups");
	ok(no_process(), 'DROP ends the process');
	is(sql("SELECT count(*) FROM weir.progress"), '0', 'and its progress');
	configure();
}

# ---- TRUNCATE waits for the scan, and comes after it
{
	configure('weir.backfill_rate = 100000');
	create('groups');
	ok($node->wait_until("SELECT rows_done > 1000 FROM weir.progress WHERE view = 'groups'::regclass"), 'begun');
	sql("TRUNCATE acc; INSERT INTO acc (grp, amount) VALUES (1, 1), (2, 2)");
	configure();
	is_exact($_, 'after TRUNCATE') for qw(groups total each_row narrow);
	$node->stop;
	$node->start;
	is_exact($_, 'after a restart') for qw(groups leaves);
}

# ---- nobody waits for us, and we wait for nobody long
{
	my ($in, $out) = ("BEGIN; LOCK TABLE parts IN ACCESS EXCLUSIVE MODE; SELECT 'locked';\n", '');
	sql("SELECT weir.pause('leaves')");
	my $psql = IPC::Run::start([ 'psql', '-XqAt', '-d', $node->connstr('postgres') ],
		'<', \$in, '>', \$out, '2>&1');
	$psql->pump until $out =~ /locked/;
	$node->_try("SET lock_timeout = '1 s'; SELECT weir.rebuild('leaf')");
	sleep 2.5;
	$in .= "ROLLBACK;\n\\q\n";
	$psql->finish;
	sql("SELECT weir.resume('leaves'), weir.rebuild('leaf')");
	is_exact($_, 'after a lock') for qw(leaves leaf);
}

# ---- DROP DATABASE during a backfill
{
	sql('CREATE DATABASE other');
	configure('weir.backfill_rate = 1000');
	$node->safe_psql('other', <<'EOF');
CREATE EXTENSION pg_weir;
CREATE TABLE t AS SELECT generate_series(1, 100000) AS i;
ALTER TABLE t REPLICA IDENTITY FULL;
CREATE TABLE v WITH (weir.continuous) AS SELECT count(*) AS n FROM t;
EOF
	ok($node->wait_until("SELECT rows_done > 0 FROM weir.progress", 't', 30, 'other'), 'begun');
	my $begun = time;
	ok($node->wait_until("SELECT true FROM pg_stat_activity WHERE backend_type = 'pg_weir backfill' AND datname = 'other'"), 'in the other database');
	is($node->error_of('DROP DATABASE other'), '', 'DROP DATABASE is not held up by a process or a slot');
	cmp_ok(time - $begun, '<', 5, 'for long');
	configure();
}

# ---- not for ever
{
	$query{old} = 'SELECT grp, sum(amount) AS s FROM parts GROUP BY grp';
	create('old');
	$oracle{old} = $query{old};
	is_exact('old', 'first');
	configure('weir.backfill_max_age = 10', 'weir.backfill_rate = 3000');
	sql("SELECT weir.rebuild('old')");
	ok($node->wait_until("SELECT sqlstate, message FROM weir.views WHERE view = 'old'::regclass",
			'57014|the backfill of "old" took longer than weir.backfill_max_age', 30), 'given up');
	ok(no_process(), 'and its snapshot with it');
	configure();
	sql("SELECT weir.resume('old')");
	is_exact('old', 'resumed');
}

is(sql("SELECT count(*) FROM pg_replication_slots WHERE NOT active"), '0', 'one slot, in use');
$node->stop;
done_testing();
