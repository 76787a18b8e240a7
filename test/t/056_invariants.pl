# The twelve invariants of src/README, each looked at directly, by its name.
#
# What makes life hard for them is other tests' business, which docs/faults.md
# names; here each is stated once, as a question to the catalog and to PostgreSQL,
# and asked while rows flow and processes die.  Where a question could be answered
# well by saying nothing, the test spoils what it asks about and must hear so.
# The embedded broker suffices.
use strict;
use warnings;

use IPC::Run ();
use Test::More;
use Time::HiRes qw(sleep time);
use PostgreSQL::Test::Utils;
use WeirBroker;
use WeirNode;
use WeirOracle;
use WeirTime;

my $conf = <<'EOF2';
weir.max_workers = 8
max_worker_processes = 24
include_if_exists = 'fault.conf'
synchronous_commit = off
wal_writer_delay = 10s
dynamic_shared_memory_type = mmap
EOF2
my $broker = WeirBroker->new;
my $node = WeirNode->start_new('main', conf => $conf);
create_kafka($node, $broker);
my $oracle = WeirOracle->new($node, timeout => '30 s');
my $time = WeirTime->new($node, broker => $broker);

sub sql { return $node->safe_psql('postgres', @_) }
sub patient { return $node->patient_psql($_[0]) }

# invariant(NAME, code): goes on where one does not hold
sub invariant
{
	my ($name, $code) = @_;
	return if @ARGV && !grep { index($name, $_) >= 0 } @ARGV;
	my $started = time;
	subtest $name => sub {
		if (!eval { $code->(); 1 })
		{
			fail('it comes to its end');
			diag($@);
			$oracle->tell;
		}
	};
	note(sprintf '%s: %.1f s', $name, time - $started);
	return;
}

# What comes by while something else happens: rows in the topic "events" and, in one
# transaction, in the table and the push stream; a second later the same again.
my $id = 0;
our $per_turn = 60;
my $poison = 0;

sub turn
{
	my (@messages, @values);
	for (1 .. $per_turn)
	{
		$id++;
		my ($k, $s) = ($id % 7, $id * 3 - ($id % 5 ? 0 : 90));
		if ($id % 40 == 0) { push @messages, [ $id % 2, undef, "bad $id" ]; $poison++; next }
		push @messages, [ $id % 2, undef, qq({"id": $id, "k": $k, "s": $s, "n": $id}) ];
		push @values, "($id, $k, $s, $id)";
	}
	my $values = join ', ', @values;
	# the oracle's copy first, and flushed: whatever a view has, it is there; tried again
	# where the answer of a COMMIT was lost in a crash
	patient("SET synchronous_commit = on; BEGIN; INSERT INTO truth VALUES $values ON CONFLICT DO NOTHING; INSERT INTO items VALUES $values ON CONFLICT DO NOTHING; COMMIT");
	$broker->produce('events', @messages);
	return;
}

# another(n): as many rows more in the table alone
sub another
{
	my ($n) = @_;
	sql("INSERT INTO items SELECT i, i % 7, 0, 1 FROM (SELECT greatest(max(id), 1000000) AS m FROM items) x, generate_series(m + 1, m + $n) i");
	return;
}

my $ts = "timestamptz '2026-05-04 00:00Z' + s * interval '1 second'";
$broker->create_topic('events', 2);
sql(<<'EOF2');
CREATE FOREIGN TABLE events (id int, k int, s int, n int, part int OPTIONS (metadata 'partition'), off bigint OPTIONS (metadata 'offset'))
	SERVER kafka OPTIONS (topic 'events');
CREATE TABLE truth (id int PRIMARY KEY, k int, s int, n int);
CREATE TABLE items (id int PRIMARY KEY, k int, s int, n int);
ALTER TABLE items REPLICA IDENTITY FULL;
EOF2
my %query = (
	of_topic => "SELECT k, count(*) AS c, sum(n) AS s, max(n) AS m FROM events GROUP BY k",
	of_table => "SELECT k, count(*) AS c, sum(n) AS s, max(n) AS m FROM items GROUP BY k",
	minutes => "SELECT k, weir.tumble($ts, '1 minute') AS win, count(*) AS c, sum(n) AS s FROM events GROUP BY k, win",
	sliding => "SELECT k, weir.hop($ts, '1 minute', '2 minutes') AS win, count(*) AS c, sum(n) AS s FROM events WHERE k <> 6 GROUP BY k, win");
my %with = (
	of_topic => "weir.changelog = 'all'",
	minutes => "weir.watermark = '0 seconds', weir.changelog = 'all', weir.late = 'side_output'",
	sliding => "weir.watermark = '0 seconds', weir.late = 'side_output', weir.publish_interval = '10 ms'");
# views are looked at from their first row on: what a backfill reads is never late
sql("CREATE TABLE $_ WITH (weir.continuous, weir.commit_interval = '10 ms'" . ($with{$_} ? ", $with{$_}" : '') . ") AS $query{$_}") for sort keys %query;
sql("SELECT weir.wait_for('$_')") for sort keys %query;

# Odd ids are in partition 1, even ones in 0, in order; so offset o of partition p
# is the message with the id 2 * o + (p = 0 ? 2 : 1).
my $below = q{id IN (SELECT 2 * o + CASE WHEN partition = 0 THEN 2 ELSE 1 END
	FROM weir_data.positions p JOIN weir_data.views w ON w.id = p.view_id, generate_series(0, position - 1) o WHERE w.relid = 'of_topic'::regclass)};
my $prefix = $query{of_topic} =~ s/FROM events/FROM truth WHERE $below/r;
my $differs = "SELECT count(*) FROM ((TABLE of_topic EXCEPT ALL ($prefix)) UNION ALL (($prefix) EXCEPT ALL TABLE of_topic)) d";

# ------------------------------------------------------------- PREFIX EXACTNESS

invariant 'PREFIX EXACTNESS', sub {
	my %seen;
	for my $what (('nothing') x 6, 'kill9', 'nothing', 'crash', ('nothing') x 3, 'commit-states:kill9:1', 'commit-after:kill9:1', 'nothing')
	{
		my $log = -s $node->logfile;
		$node->set_fault($what) if $what =~ /:/;
		turn();
		if ($what eq 'kill9') { $node->kill9_worker('postgres') }
		elsif ($what eq 'crash') { $node->crash_server }
		elsif ($what =~ /^(.*):kill9/)
		{
			$node->wait_for_log(qr/fault point \Q$1\E: kill9/, $log);
			$node->set_fault('');
			$node->wait_ready;
		}
		# no waiting: whatever it claims to have, it has
		my ($wrong, $at) = split /\|/, patient("SELECT ($differs), (SELECT sum(position::bigint) FROM weir.partitions WHERE view = 'of_topic'::regclass)");
		is($wrong, '0', "after $what the view is its query over the prefix that it has");
		$seen{$at} = 1;
	}
	cmp_ok(scalar keys %seen, '>=', 5, 'which was another one each time');
	is(sql("SELECT weir.wait_for('of_topic', '30 s'); $differs"), "\n0", 'so it is at the end');
	is(sql(q{SELECT weir.wait_for('of_table', '30 s'); SELECT count(*) FROM ((TABLE of_table EXCEPT ALL (} . $query{of_table} . ')) UNION ALL ((' . $query{of_table} . ') EXCEPT ALL TABLE of_table)) d'),
		"\n0", '... over a table, too');
	isnt(sql("BEGIN; UPDATE weir_data.positions SET position = position - 5; $differs; ROLLBACK"), '0', 'a position that is wrong would show');
};

# ------------------------------------------------------------- ATOMICITY

# In one statement, and so in one snapshot: rows, positions, counters, dead letters,
# changelog and late rows speak of the same messages.
my $whole = q{
	SELECT (SELECT sum(c) FROM minutes) = p.rows_in - p.dead_letters - s.late_side - s.late_dropped
			AND p.rows_in = p.position
			AND (SELECT count(*) FROM weir_data.dead_letters d WHERE d.view_id = w.id) = p.dead_letters
			AND (SELECT coalesce(sum(cardinality(windows)), 0) FROM weir_data.late_rows l WHERE l.view_id = w.id) = s.late_side
			AND (SELECT max(weir_seq) + 1 FROM minutes_changes) = s.next_seq
			AND (SELECT sum(weir_diff * c) FROM minutes_changes) = (SELECT sum(c) FROM minutes)
			AND s.watermark IS NOT DISTINCT FROM (SELECT max(weir_watermark) FROM minutes_changes),
		p.position
	FROM weir_data.views w JOIN weir_data.status s ON s.view_id = w.id
		CROSS JOIN LATERAL (SELECT sum(rows_in) AS rows_in, sum(dead_letters) AS dead_letters, sum(position) AS position
			FROM weir_data.positions q WHERE q.view_id = w.id) p
	WHERE w.relid = 'minutes'::regclass};

invariant 'ATOMICITY', sub {
	my (%seen, $torn);
	for my $turn (1 .. 12)
	{
		turn();
		$node->kill9_worker('postgres') if $turn == 5;
		for (1 .. 6)
		{
			my ($all, $at) = split /\|/, patient($whole);
			$seen{$at} = 1;
			$torn = $at if $all ne 't';
		}
	}
	is($torn, undef, 'no snapshot sees one part of a commit without the others');
	cmp_ok(scalar keys %seen, '>=', 8, scalar(keys %seen) . ' commits were seen');
	sql(q{SELECT weir.wait_for('minutes', '30 s')});
	is((split /\|/, sql($whole))[0], 't', 'nor at the end');
	cmp_ok(sql(q{SELECT least(late_side, dead_letters) FROM weir.stat_views WHERE view = 'minutes'::regclass}), '>', 0, 'there were late rows and dead letters');
	like(sql("BEGIN; UPDATE weir_data.status SET next_seq = next_seq + 1; $whole; ROLLBACK"), qr/^f/, 'a part that is ahead would show');
};

# ------------------------------------------------------------- ACCOUNTING

invariant 'ACCOUNTING', sub {
	turn();
	sql("SELECT weir.wait_for('$_', '30 s')") for qw(minutes sliding);
	my %w = $broker->watermarks('events');
	my $sent = $w{0}[1] + $w{1}[1];
	is($sent, $id, "$sent messages were delivered");
	is(sql(q{SELECT rows_in, dead_letters FROM weir.stat_views WHERE view = 'sliding'::regclass}), "$sent|$poison", 'each is one that came, the bad ones are dead letters');
	is(sql(q{SELECT rows_filtered FROM weir.stat_views WHERE view = 'sliding'::regclass}), sql('SELECT count(*) FROM truth WHERE k = 6'), 'those that WHERE rejects are filtered');
	# two windows each
	is(sql(q{SELECT (SELECT sum(c) FROM sliding) + late_side + late_dropped FROM weir.stat_views WHERE view = 'sliding'::regclass}),
		sql('SELECT 2 * count(*) FROM truth WHERE k <> 6'), 'each pair of a row and a window is applied or late');
	cmp_ok(sql(q{SELECT late_side FROM weir.stat_views WHERE view = 'sliding'::regclass}), '>', 0, '... some are late');
	is(sql(q{SELECT string_agg(partition || ':' || "offset", ' ' ORDER BY partition, "offset") FROM weir.dead_letters WHERE view = 'minutes'::regclass}),
		join(' ', map { '0:' . (20 * $_ - 1) } 1 .. $poison), 'and no message is a dead letter twice');

	# pushed: k = 0 divides by zero, k = 6 is filtered, and time goes back now and then
	sql("CREATE FOREIGN TABLE pushed (k int, s int) SERVER weir_stream; CREATE TABLE pushed_truth (k int, s int);
		CREATE TABLE counted WITH (weir.continuous, weir.commit_interval = '10 ms', weir.watermark = '0 seconds', weir.late = 'side_output')
			AS SELECT weir.tumble($ts, '1 minute') AS win, count(*) AS c, sum(60 / k) AS s FROM pushed WHERE k <> 6 GROUP BY win");
	for my $part (0 .. 7)
	{
		# the second statement is of the minute before, which has closed
		my $rows = "SELECT i % 7, 60 * $part + i % 60 - CASE WHEN i > 100 THEN 61 ELSE 0 END FROM generate_series(1, %s) i";
		sql('BEGIN; ' . join('', map { "INSERT INTO $_ " . sprintf($rows, 100) . '; ' } qw(pushed pushed_truth)) . q{COMMIT; SELECT weir.wait_for('counted', '30 s')});
		sql('BEGIN; ' . join('', map { "INSERT INTO $_ " . sprintf($rows, 120) . '; ' } qw(pushed pushed_truth)) . 'COMMIT');
	}
	sql(q{SELECT weir.wait_for('counted', '30 s')});
	is(sql(q{SELECT rows_in, rows_filtered, dead_letters, (SELECT sum(c) FROM counted) + late_side + late_dropped, late_side > 0
			FROM weir.stat_views WHERE view = 'counted'::regclass}),
		sql('SELECT count(*), count(*) FILTER (WHERE k = 6), count(*) FILTER (WHERE k = 0), count(*) FILTER (WHERE k NOT IN (0, 6)), true FROM pushed_truth'),
		'each row of a push stream is one of applied, late, filtered and a dead letter');
	sql('DROP FOREIGN TABLE pushed CASCADE');

	# changes of a table: an UPDATE is a row that goes and one that comes
	sql(q{CREATE TABLE changed (id int PRIMARY KEY, k int); ALTER TABLE changed REPLICA IDENTITY FULL;
		INSERT INTO changed SELECT i, i % 7 FROM generate_series(1, 1000) i;
		CREATE TABLE changed_v WITH (weir.continuous, weir.on_error = 'dead_letter', weir.commit_interval = '10 ms') AS SELECT k, count(*) AS c, sum(60 / (k - 3)) AS s FROM changed WHERE k <> 6 GROUP BY k;
		SELECT weir.wait_for('changed_v', '30 s')});
	my $books = q{SELECT rows_in, rows_filtered, dead_letters FROM weir.stat_views WHERE view = 'changed_v'::regclass};
	my $of_changed = 'SELECT count(*), count(*) FILTER (WHERE k = 6), count(*) FILTER (WHERE k = 3) FROM changed';
	is(sql($books), sql($of_changed), 'each row of a backfill is one of applied, filtered and a dead letter');
	sql(q{CREATE TABLE moved AS TABLE changed;
		WITH d AS (DELETE FROM changed WHERE id % 10 = 0 RETURNING id, k) INSERT INTO moved TABLE d;
		WITH u AS (UPDATE changed c SET k = (c.k + 1) % 7 FROM changed o WHERE o.id = c.id AND c.id % 9 = 0 RETURNING c.id, o.k AS a, c.k AS b) INSERT INTO moved SELECT id, unnest(ARRAY[a, b]) FROM u;
		WITH i AS (INSERT INTO changed SELECT i, i % 7 FROM generate_series(2001, 2500) i RETURNING id, k) INSERT INTO moved TABLE i;
		SELECT weir.wait_for('changed_v', '30 s')});
	is(sql($books), sql($of_changed =~ s/changed/moved/r), '... so is each row of a change');
	is(sql('SELECT sum(c) FROM changed_v'), sql('SELECT count(*) FROM changed WHERE k NOT IN (3, 6)'), '... and what is applied is in the view');
	sql('DROP TABLE changed CASCADE; DROP TABLE moved');
};

# ------------------------------------------------------------- ACKNOWLEDGE AFTER DURABILITY

invariant 'ACKNOWLEDGE AFTER DURABILITY', sub {
	# the slot first, and then what we have committed: what is told was committed before
	my $look = q{SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name LIKE 'pg_weir%'};
	my ($ahead, %seen);
	for (1 .. 25)
	{
		turn() if $_ % 3 == 0;
		my $told = sql($look);
		$seen{$told} = 1;
		$ahead = $told if sql("SELECT confirmed < '$told' FROM weir_data.slots") ne 'f';
	}
	is($ahead, undef, 'the slot is never told more than we have committed');
	cmp_ok(scalar keys %seen, '>=', 3, '... and was told ' . scalar(keys %seen) . ' times');

	# what lag tools see: our own group's offsets, which are told, never ahead
	my $group = sql(q{SELECT 'pg_weir.' || system_identifier || '.' || 'events'::regclass::oid FROM pg_control_system()});
	my @stages;
	undef $ahead;
	for (1 .. 6)
	{
		turn();
		my %told = $broker->committed('events', $group);
		my %have = map { split /\|/ } split /\n/, sql(q{SELECT partition, max(position::bigint) FROM weir.partitions
			WHERE view IN (SELECT d.relid FROM weir_data.views d WHERE d.relid::regclass::text IN ('of_topic', 'minutes', 'sliding')) GROUP BY 1});
		$ahead = "$told{$_} of $have{$_}" for grep { $told{$_} > $have{$_} } keys %told;
		push @stages, join ' ', %told;
	}
	is($ahead, undef, 'the broker is never told more than we have committed');
	sql("SELECT weir.wait_for('$_', '30 s')") for qw(of_topic minutes sliding);
	my %w = $broker->watermarks('events');
	my $deadline = time + 20;
	my %told;
	do { %told = $broker->committed('events', $group) } until ($told{0} || 0) == $w{0}[1] && ($told{1} || 0) == $w{1}[1] || time > $deadline;
	is_deeply(\%told, { 0 => $w{0}[1], 1 => $w{1}[1] }, '... and in the end of all of it');

	# nobody else flushes here: synchronous_commit is off, the WAL writer sleeps
	for my $round (1 .. 3)
	{
		my $log = -s $node->logfile;
		$node->set_fault('acknowledged:crash:3');
		my $deadline = time + 20;
		until (slurp_file($node->logfile, $log) =~ /fault point acknowledged: crash/ || time > $deadline)
		{
			eval { another(5) };
			sleep 0.05;
		}
		cmp_ok(time, '<', $deadline, "round $round: the server dies when the slot has been told");
		$node->set_fault('');
		$node->revive;
		$node->wait_ready;
		is(sql(q{SELECT s.confirmed_flush_lsn <= o.confirmed AND o.confirmed <= pg_current_wal_flush_lsn()
			FROM pg_replication_slots s, weir_data.slots o WHERE s.slot_name LIKE 'pg_weir%'}), 't', "round $round: what the slot was told had been flushed");
		is(sql(q{SELECT weir.wait_for('of_table', '30 s'); SELECT count(*) FROM ((TABLE of_table EXCEPT ALL (} . $query{of_table} . ')) UNION ALL ((' . $query{of_table} . ') EXCEPT ALL TABLE of_table)) d'),
			"\n0", "round $round: so nothing is missing");
	}

	# the source ahead of us
	sql('ALTER SYSTEM SET weir.enabled = off; SELECT pg_reload_conf()');
	$node->wait_until(q{SELECT count(*) FROM pg_replication_slots WHERE active}, '0', 20);
	another(1);
	sql('SELECT pg_replication_slot_advance(slot_name, pg_current_wal_insert_lsn()) FROM pg_replication_slots');
	sql('ALTER SYSTEM RESET weir.enabled; SELECT pg_reload_conf()');
	$oracle->stalls('of_table', '55000', qr/rebuild/, 'a slot that is ahead of us');
	sql(q{SELECT weir.rebuild('of_table')});
	is($node->error_of(q{SELECT weir.wait_for('of_table', '30 s')}), '', 'until it is rebuilt');
};

# ------------------------------------------------------------- MONOTONICITY

my $how_far = q{SELECT (SELECT string_agg(position, ' ' ORDER BY partition) FROM weir.partitions WHERE view = 'minutes'::regclass),
		extract(epoch FROM weir.watermark('minutes'))::bigint,
		(SELECT count(*) FILTER (WHERE weir.is_closed('minutes', win)) FROM minutes)};

# Is one of them less than it was?
sub went_back
{
	my ($before, $now) = map { [ split /[ |]/ ] } @_;
	return scalar grep { $now->[$_] < $before->[$_] } 0 .. $#$before;
}

invariant 'MONOTONICITY', sub {
	my ($before, $back) = (patient($how_far));
	my $first = $before;
	for my $what (('nothing') x 4, 'kill9', 'nothing', 'crash', 'nothing', 'restart', 'nothing', 'slower', 'nothing')
	{
		turn();
		if ($what eq 'kill9') { $node->kill9_worker('postgres') }
		elsif ($what eq 'crash') { $node->crash_server }
		elsif ($what eq 'restart') { $node->restart }
		elsif ($what eq 'slower') { sql(q{ALTER TABLE minutes SET (weir.watermark = '1 hour')}) }
		for (1 .. 3)
		{
			my $now = patient($how_far);
			$back = "after $what $before became $now" if went_back($before, $now);
			$before = $now;
		}
	}
	is($back, undef, 'positions, watermark and closed windows never go back');
	is(went_back($before, $first), 4, '... and all have gone on');
	sql(q{ALTER TABLE minutes SET (weir.watermark = '0 seconds')});
};

# ------------------------------------------------------------- CHANGELOG

invariant 'CHANGELOG', sub {
	my @copies;
	for my $n (1 .. 8)
	{
		# a consumer that begins here: the rows and the last number, in one snapshot
		patient("DROP TABLE IF EXISTS copy_$n; CREATE TABLE copy_$n AS SELECT v.*, (SELECT coalesce(max(weir_seq), 0) FROM minutes_changes) AS at FROM minutes v");
		push @copies, "copy_$n";
		turn();
		# so that they begin at different places, however fast the turns are
		patient(q{SELECT weir.wait_for('minutes', '30 s')}) if $n % 2;
		$node->kill9_worker('postgres') if $n == 4;
	}
	sql(q{SELECT weir.wait_for('minutes', '30 s')});
	my %at;
	for my $copy (@copies)
	{
		$at{ sql("SELECT max(at) FROM $copy") } = 1;
		is(sql(qq{WITH fold AS (SELECT k, win, c, s, sum(d) AS d FROM (SELECT k, win, c, s, 1 AS d FROM $copy
				UNION ALL SELECT k, win, c, s, weir_diff FROM minutes_changes WHERE weir_seq > (SELECT max(at) FROM $copy)) x GROUP BY 1, 2, 3, 4 HAVING sum(d) <> 0)
			SELECT count(*) FROM ((SELECT k, win, c, s FROM fold WHERE d = 1 EXCEPT ALL TABLE minutes) UNION ALL (TABLE minutes EXCEPT ALL SELECT k, win, c, s FROM fold)) y}),
			'0', "folded onto $copy it gives the view");
	}
	cmp_ok(scalar keys %at, '>=', 4, 'from ' . scalar(keys %at) . ' places');
	# and what a changelog must never hold: a row taken back that was not given, ...
	$time->sound('minutes', 'at the end', mode => 'all');
	isnt(sql('BEGIN; SET LOCAL session_replication_role = replica; DELETE FROM minutes_changes WHERE weir_seq = (SELECT max(weir_seq) FROM minutes_changes); '
			. $time->fold_query('minutes', 'all') . '; ROLLBACK'), '0', 'a row that is missing would show');
};

# ------------------------------------------------------------- CONTAINMENT

invariant 'CONTAINMENT', sub {
	my $log = -s $node->logfile;
	sql(<<'EOF2');
CREATE ROLE rogue;
GRANT CREATE ON SCHEMA public TO rogue;
GRANT USAGE ON FOREIGN SERVER kafka TO rogue;
GRANT SELECT ON events, items TO rogue;
SET ROLE rogue;
CREATE FUNCTION deeper(n int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN RETURN deeper(n + 1); END $$;
CREATE FUNCTION larger(n int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN RETURN length(repeat('x', 2000000000)); END $$;
CREATE FUNCTION ender(n int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN n; END $$;
CREATE FUNCTION wronger(n int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN RAISE 'x' USING ERRCODE = '57P01'; END $$;
CREATE FUNCTION locker(n int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_advisory_lock(n); PERFORM set_config('statement_timeout', '1', false); RETURN n; END $$;
CREATE FUNCTION writer(n int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'CREATE TEMP TABLE x (a int)'; RETURN n; END $$;
EOF2
	my %fate;
	for my $f (qw(deeper larger ender wronger locker writer))
	{
		sql("SET ROLE rogue; CREATE TABLE by_$f WITH (weir.continuous, weir.start = 'latest') AS SELECT max($f(n)) AS m, count(*) AS c FROM events");
		# in a final expression as well
		sql("SET ROLE rogue; CREATE TABLE over_$f WITH (weir.continuous, weir.start = 'latest') AS SELECT $f(max(n)) AS m FROM events");
	}
	my ($worker) = sql(q{SELECT weir.worker_pid('of_topic')});
	local $per_turn = 4;
	turn();
	is($node->error_of(q{SELECT weir.wait_for('of_topic', '60 s')}), '', 'expressions that do what they should not: others go on');
	is(sql($differs), '0', '... exactly');
	is(sql(q{SELECT weir.worker_pid('of_topic')}), $worker, '... in the same worker');
	for my $f (qw(deeper larger wronger writer))
	{
		# what looks like somebody's order to end is no error of the row
		$f eq 'wronger' ? ok($node->wait_until($oracle->state_query("by_$f"), 'stalled 57P01', 20), "$f: it stalls its view")
		  : ok($node->wait_until("SELECT dead_letters > 0 FROM weir.stat_views WHERE view = 'by_$f'::regclass", 't', 20), "$f: the rows are dead letters");
		ok($node->wait_until("SELECT state FROM weir.views WHERE view = 'over_$f'::regclass", 'stalled', 20), "$f: in a final expression it stalls its view");
	}
	my ($partition) = sql(q{SELECT count(*) FROM weir.views WHERE view::text !~ '^(by|over)_' AND state <> 'running'});
	is($partition, '0', 'all other views run');
	sql('DROP OWNED BY rogue; DROP ROLE rogue');
	unlike(slurp_file($node->logfile, $log), qr/PANIC|TRAP:|terminated by signal|was terminated|exited with exit code/, 'no process has ended');
};

# ------------------------------------------------------------- PRIVILEGE

invariant 'PRIVILEGE', sub {
	sql(<<'EOF2');
CREATE ROLE alice;
CREATE ROLE bob;
CREATE SCHEMA a AUTHORIZATION alice;
CREATE SCHEMA b AUTHORIZATION bob;
GRANT USAGE ON FOREIGN SERVER kafka TO alice, bob;
GRANT SELECT ON events, items TO alice, bob;
CREATE FUNCTION who(text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS $$
DECLARE
	restricted text := 'no';
BEGIN
	BEGIN
		PERFORM set_config('role', 'postgres', false);
	EXCEPTION WHEN others THEN restricted := 'yes';
	END;
	RETURN format('%s, restricted: %s, %s', current_user, restricted, current_setting('search_path'));
END $$;
EOF2
	for my $role (qw(alice bob))
	{
		my $schema = substr $role, 0, 1;
		for my $source (qw(events items))
		{
			sql("SET ROLE $role; CREATE TABLE $schema.of_$source WITH (weir.continuous) AS
				SELECT public.who(k::text) AS k, max(public.who(n::text)) AS a, public.who(max(n)::text) AS r, count(*) FILTER (WHERE public.who(n::text) !~ '^$role, ') AS f
				FROM public.$source WHERE public.who(s::text) ~ '^$role, ' GROUP BY 1 HAVING public.who(max(n)::text) ~ '^$role, '");
			sql("SELECT weir.wait_for('$schema.of_$source', '30 s')");
			my $who = "$role, restricted: yes, pg_catalog, pg_temp";
			is(sql("TABLE $schema.of_$source"), "$who|$who|$who|0", "all expressions of a view of $role over $source run as him, restricted, with a safe path");
		}
	}
	# and what he may not, his view may not
	sql('REVOKE SELECT ON items FROM alice');
	another(1);
	$oracle->stalls('a.of_items', '42501', qr/permission denied|privilege/, 'without SELECT');
	is($node->error_of(q{SELECT weir.wait_for('b.of_items', '30 s')}), '', 'the view of another goes on');
	like($node->error_of(q{SET ROLE bob; DELETE FROM weir_data.positions}), qr/^42501/, 'nobody writes into the catalog');
	# every function of ours says where it looks for names
	is(sql(q{SELECT string_agg(p.oid::regprocedure::text, ' ') FROM pg_proc p JOIN pg_depend d ON d.objid = p.oid AND d.classid = 'pg_proc'::regclass
		JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'pg_weir' AND d.deptype = 'e'
		WHERE NOT ('search_path=pg_catalog, pg_temp' = ANY (coalesce(proconfig, '{}'))) AND NOT (provolatile IN ('i', 's') AND prosecdef = false AND prolang = (SELECT oid FROM pg_language WHERE lanname = 'c'))}),
		'', 'each function has its search_path');
	is(sql(q{SELECT count(*) FROM pg_proc p JOIN pg_depend d ON d.objid = p.oid AND d.classid = 'pg_proc'::regclass
		JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'pg_weir' AND d.deptype = 'e' WHERE prosecdef}), '0', 'none is SECURITY DEFINER');
	is(sql(q{SELECT count(*) FROM pg_class WHERE relnamespace = 'weir_data'::regnamespace AND relowner <> (SELECT extowner FROM pg_extension WHERE extname = 'pg_weir')
		AND relkind IN ('r', 'i', 'S') AND relname !~ '^query_'}), '0', 'states and catalog belong to the owner of the extension');
	sql('DROP OWNED BY alice, bob; DROP ROLE alice, bob');
};

# ------------------------------------------------------------- BOUNDS

invariant 'BOUNDS', sub {
	$broker->create_topic('many', 1);
	sql(q{CREATE FOREIGN TABLE many (k int) SERVER kafka OPTIONS (topic 'many')});
	sql(q{ALTER SYSTEM SET weir.state_memory = '2MB'; SELECT pg_reload_conf()});
	sql(q{CREATE TABLE many_v WITH (weir.continuous, weir.commit_interval = '10 ms') AS SELECT k, count(*) AS c, max(md5(k::text)) AS m FROM many GROUP BY k});
	my ($worker) = sql(q{SELECT weir.wait_for('many_v', '20 s'); SELECT weir.worker_pid('many_v')}) =~ /(\d+)/;
	my $memory = sub { my ($kb) = slurp_file("/proc/$_[0]/status") =~ /^RssAnon:\s+(\d+)/m; return $kb };
	my ($before, $most, $oldest, $largest) = ($memory->($worker), 0, 0, 0);
	my $n = 60_000;
	for my $part (0 .. 11)
	{
		$broker->produce('many', map { [ 0, undef, "{\"k\": $_}" ] } $part * 5000 .. $part * 5000 + 4999);
		my ($bytes, $age) = split /\|/, sql(q{SELECT sum(state_bytes), (SELECT coalesce(max(extract(epoch FROM clock_timestamp() - xact_start)), 0)
			FROM pg_stat_activity WHERE backend_type LIKE 'pg_weir%' AND backend_xmin IS NOT NULL) FROM weir.stat_views});
		$largest = $bytes if $bytes > $largest;
		$oldest = $age if $age > $oldest;
		my $now = $memory->($worker);
		$most = $now - $before if $now - $before > $most;
	}
	# more than there is room for: told, or on disk
	ok($node->wait_until(q{SELECT sqlstate = '53200' OR (SELECT count(*) FROM many_v) = 60000 FROM weir.views WHERE view = 'many_v'::regclass}, 't', 60),
		'60,000 groups and 2 MB: the view says that there is no room, or has all of them');
	cmp_ok($largest, '<=', 2 * 1024 * 1024, 'the states of all views stay within weir.state_memory');
	cmp_ok($most, '<', 100 * 1024, sprintf 'the worker\'s own memory within its cap (%.0f MB)', $most / 1024);
	cmp_ok($oldest, '<', 10, 'no snapshot is held for long');
	sql(q{ALTER SYSTEM RESET weir.state_memory; SELECT pg_reload_conf()});
	ok($node->wait_until('SELECT count(*) FROM many_v', $n, 60), 'with room for them they are all there');
	sql('DROP FOREIGN TABLE many CASCADE');

	# one key with 95 % of the rows, and keys that come once; as many sessions
	my $o = WeirOracle->new($node, timeout => '60 s');
	my ($rows, $parts) = (60_000, 8);
	sql(q{CREATE FOREIGN TABLE skewed (k int, s int, n int) SERVER weir_stream; CREATE TABLE skewed_truth (k int, s int, n int)});
	$o->create('skewed_v', "SELECT k, weir.tumble($ts, '1 minute') AS win, count(*) AS c, sum(n) AS s, max(md5(n::text)) AS m FROM skewed GROUP BY k, win",
		truth => "SELECT k, weir.tumble($ts, '1 minute') AS win, count(*) AS c, sum(n) AS s, max(md5(n::text)) AS m FROM skewed_truth GROUP BY k, win",
		with => "weir.watermark = 'none', weir.commit_interval = '10 ms'");
	$o->create('skewed_s', "SELECT k, weir.session($ts, '5 seconds') AS win, count(*) AS c, sum(n) AS s FROM skewed GROUP BY k, win",
		truth => "SELECT k, tstzrange(min(t), max(t) + interval '5 seconds') AS win, count(*) AS c, sum(n) AS s
			FROM (SELECT *, count(*) FILTER (WHERE begins) OVER (PARTITION BY k ORDER BY t ROWS UNBOUNDED PRECEDING) AS i
				FROM (SELECT *, t - lag(t) OVER (PARTITION BY k ORDER BY t) < interval '5 seconds' IS NOT TRUE AS begins
					FROM (SELECT k, n, $ts AS t FROM skewed_truth) a) b) c GROUP BY k, i",
		with => "weir.commit_interval = '10 ms', weir.watermark = '10 seconds', weir.allowed_lateness = '1 minute', weir.changelog = 'off'");
	sql("SELECT weir.wait_for('$_', '30 s')") for qw(skewed_v skewed_s);
	my ($state) = sql('SELECT sum(state_bytes) FROM weir.stat_views');
	sql(sprintf q{ALTER SYSTEM SET weir.state_memory = '%dkB'; SELECT pg_reload_conf()}, 3072 + $state / 1024);
	my ($begun, $first, $last) = (time, 0, 0);
	$largest = 0;
	for my $part (0 .. $parts - 1)
	{
		my $made = "SELECT CASE WHEN i % 20 = 0 THEN $rows * $part + i ELSE 0 END, 60 * $part + i * 60 / $rows, i FROM generate_series(1, $rows) i";
		my $started = time;
		sql(join('', map { "INSERT INTO $_ $made; " } qw(skewed skewed_truth)) . q{SELECT weir.wait_for('skewed_v', '60 s'); SELECT weir.wait_for('skewed_s', '60 s')});
		$last = time - $started;
		$first ||= $last;
		my ($bytes) = sql('SELECT sum(state_bytes) FROM weir.stat_views');
		$largest = $bytes if $bytes > $largest;
	}
	diag(sprintf '%.1f s, %s', time - $begun, sql(q{SELECT string_agg(format('%s: %s of %s in memory, %s kB', view, groups_in_memory, groups_on_disk, state_bytes / 1024), '; ') FROM weir.stat_views WHERE view::text ~ 'skewed'}));
	$o->same('one key with 95 % of the rows and 24,000 with one, in windows and sessions: exact');
	is(sql(q{SELECT string_agg(view::text, ' ' ORDER BY view::text) FROM weir.stat_views WHERE view::text ~ '^skewed' AND groups_in_memory < groups_on_disk}), 'skewed_s skewed_v', '... most of them on disk');
	cmp_ok($largest, '<=', 3072 * 1024 + $state, '... within the budget');
	cmp_ok($last, '<', 10 * $first + 2, sprintf '... and the last of them came in %.1f s, as the first in %.1f s', $last, $first);
	sql(q{ALTER SYSTEM RESET weir.state_memory; SELECT pg_reload_conf(); DROP FOREIGN TABLE skewed CASCADE; DROP TABLE skewed_truth});
};

# ------------------------------------------------------------- NO SILENT LOSS

invariant 'NO SILENT LOSS', sub {
	# the embedded broker keeps 5 MiB of a partition: what a paused view did not read goes
	$broker->create_topic('short', 1);
	sql(q{CREATE FOREIGN TABLE short (k int, x text) SERVER kafka OPTIONS (topic 'short');
		CREATE TABLE short_v WITH (weir.continuous) AS SELECT count(*) AS c, max(k) AS m FROM short});
	$broker->produce('short', [ 0, undef, '{"k": 1}' ]);
	sql(q{SELECT weir.wait_for('short_v', '20 s'); SELECT weir.pause('short_v')});
	my $pad = 'x' x 60_000;
	$broker->produce('short', map { [ 0, undef, qq({"k": $_, "x": "$pad"}) ] } 2 .. 150);
	sql(q{SELECT weir.resume('short_v')});
	$oracle->stalls('short_v', '22000', qr/gone from the topic.*accept_loss/, 'messages that were not read are gone');
	is(sql('TABLE short_v'), '1|1', 'it stands where it was');
	like($node->error_of(q{SELECT weir.rebuild('short_v')}), qr/^55000/, 'weir.rebuild asks whether the loss is accepted');
	my $log = -s $node->logfile;
	sql(q{SELECT weir.rebuild('short_v', accept_loss => true)});
	is($node->error_of(q{SELECT weir.wait_for('short_v', '20 s')}), '', 'with that it goes on');
	like(slurp_file($node->logfile, $log), qr/"short_v" is rebuilt, and what its source has lost is accepted/, '... and the log knows');
	isnt(sql('SELECT c FROM short_v'), '150', '... without what is gone');

	# rows without their old values
	sql(q{ALTER TABLE items REPLICA IDENTITY NOTHING; DELETE FROM items WHERE id = (SELECT min(id) FROM items)});
	$oracle->stalls('of_table', '55000', qr/REPLICA IDENTITY/, 'an old row that is not told');
	sql(q{ALTER TABLE items REPLICA IDENTITY FULL; SELECT weir.rebuild('of_table')});
	is($node->error_of(q{SELECT weir.wait_for('of_table', '20 s')}), '', 'a rebuild helps');

	# a slot that is gone
	sql('ALTER SYSTEM SET weir.enabled = off; SELECT pg_reload_conf()');
	$node->wait_until(q{SELECT count(*) FROM pg_replication_slots WHERE active}, '0', 20);
	sql('SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots; ALTER SYSTEM RESET weir.enabled; SELECT pg_reload_conf()');
	$oracle->stalls('of_table', '55000', qr/rebuild/, 'a slot that is gone');
	sql(q{SELECT weir.rebuild('of_table')});
	is($node->error_of(q{SELECT weir.wait_for('of_table', '20 s')}), '', 'and again');
	sql('DROP FOREIGN TABLE short CASCADE');
};

# ------------------------------------------------------------- LIFECYCLE

invariant 'LIFECYCLE', sub {
	sql('CREATE DATABASE brief');
	create_kafka($node, $broker, 'kafka', 'brief');
	my $there = sub { return $node->patient_psql($_[0], 60) };
	my $files = q{SELECT count(*) FROM pg_ls_dir('base/' || (SELECT oid FROM pg_database WHERE datname = current_database())) f WHERE f ~ '^\d+$'
		AND NOT EXISTS (SELECT FROM pg_class c WHERE pg_relation_filenode(c.oid)::text = f)};
	$node->safe_psql('brief', q{CREATE TABLE t (id int PRIMARY KEY, k int); ALTER TABLE t REPLICA IDENTITY FULL; INSERT INTO t SELECT i, i % 10 FROM generate_series(1, 50000) i;
		CREATE FOREIGN TABLE events (k int) SERVER kafka OPTIONS (topic 'events'); CREATE FOREIGN TABLE pushed (k int) SERVER weir_stream});
	my $before = $node->safe_psql('brief', $files);
	my $n = 0;
	for my $source (qw(t events pushed))
	{
		for my $phase ('at once', 'in its backfill', 'running', 'paused', 'killed', 'aborted')
		{
			my $create = "CREATE TABLE v WITH (weir.continuous, weir.commit_interval = '10 ms') AS SELECT k, weir.tumble(timestamptz '2026-01-01Z', '1 day') AS win, count(*) AS c FROM $source GROUP BY k, win";
			if ($phase eq 'aborted') { $node->safe_psql('brief', "BEGIN; $create; ROLLBACK"); $n++; next }
			$node->safe_psql('brief', $create);
			sleep 0.1 if $phase eq 'in its backfill';
			$node->safe_psql('brief', q{SELECT weir.wait_for('v', '30 s')}) if $phase =~ /running|paused|killed/;
			$node->safe_psql('brief', q{SELECT weir.pause('v')}) if $phase eq 'paused';
			if ($phase eq 'killed' && $source eq 't') { $node->kill9_worker('brief') }
			$node->safe_psql('brief', 'DROP TABLE v');
			$n++;
		}
	}
	ok($node->wait_until(q{SELECT count(*) FROM pg_stat_activity WHERE datname = 'brief' AND backend_type LIKE 'pg_weir%'}, '0', 60), "$n views later: no process");
	ok($node->wait_until(q{SELECT count(*) FROM pg_replication_slots s JOIN pg_database d ON s.slot_name = 'pg_weir_' || d.oid WHERE datname = 'brief'}, '0', 60), '... no slot');
	is($node->safe_psql('brief', q{SELECT (SELECT count(*) FROM weir_data.views) + (SELECT count(*) FROM weir_data.status) + (SELECT count(*) FROM weir_data.positions)
		+ (SELECT count(*) FROM pg_class WHERE relnamespace = 'weir_data'::regnamespace AND relname ~ '^(query|state)_') + (SELECT count(*) FROM pg_class WHERE relname ~ '_changes$')}), '0',
		'... no row and no relation');
	sql('CHECKPOINT');
	ok($node->wait_until($files, $before, 30, 'brief'), '... no file without a relation');
	cmp_ok(scalar(my @segments = glob $node->data_dir . '/pg_dynshmem/mmap.*'), '>', 1, '... views that stay have shared memory');
	is(join(' ', $node->unmapped_segments), '', '... and none is without a process');
	is(sql(q{SELECT string_agg(name, ' ') FROM pg_ls_tmpdir() WHERE substring(name FROM '\d+')::int NOT IN (SELECT pid FROM pg_stat_activity)}), '', '... no temporary file of a process that is gone');

	# a standby never ingests; a clone does not take the slot of another
	$node->backup('base');
	my $standby = WeirNode->new('standby');
	$standby->init_from_backup($node, 'base', has_streaming => 1);
	$standby->append_conf('postgresql.conf', "primary_slot_name = ''\n");
	$standby->start;
	is(scalar(my @none = ($standby->worker_pids, $standby->worker_pids(undef, 'pg_weir launcher'))), 0, 'a standby has no process of ours');
	turn();
	sql(q{SELECT weir.wait_for('minutes', '30 s')});
	$node->wait_for_catchup($standby, 'replay', $node->lsn('insert'));
	my ($before_it, $back) = ($standby->safe_psql('postgres', $how_far));
	my ($now, $last) = ($before_it, $id);
	is($before_it, sql($how_far), 'but is as far as the primary');
	$standby->promote;
	for (1 .. 4)
	{
		turn();
		my $before = $now;
		$now = $standby->patient_psql($how_far);
		$back = "$before became $now" if went_back($before, $now);
	}
	is($standby->error_of(q{SELECT weir.wait_for('minutes', '30 s')}), '', 'promoted, it goes on');
	is($back, undef, '... positions, watermark and closed windows do not go back');
	is(went_back($standby->safe_psql('postgres', $how_far), $before_it), 4, '... but on');
	# the oracle's copy stayed behind
	$standby->safe_psql('postgres', 'INSERT INTO truth VALUES ' . sql("SELECT string_agg(t::text, ', ') FROM truth t WHERE id > $last"));
	my $o = WeirOracle->new($standby);
	$o->stalls('of_table', '55000', qr/rebuild/, 'promoted without the slot');
	is($standby->error_of(q{SELECT weir.wait_for('of_topic', '30 s')}), '', '... views over topics go on');
	is($standby->safe_psql('postgres', $differs), '0', '... exactly');
	$standby->stop;
	sql('DROP DATABASE brief');
};

# ------------------------------------------------------------- COEXISTENCE

invariant 'COEXISTENCE', sub {
	my $quick = sub {
		my ($what, $seconds, $code) = @_;
		my $started = time;
		my $error = $code->();
		cmp_ok(time - $started, '<', $seconds, sprintf '%s: %.1f s', $what, time - $started);
		is($error, '', "$what: succeeds") if defined $error && !ref $error && $error !~ /^\d+$/;
	};
	turn();
	for my $mode (qw(fast smart immediate))
	{
		$quick->("a stop of the server, $mode", 10, sub { $node->stop($mode); undef });
		$quick->('a start', 20, sub { $node->start; undef });
		is($node->error_of("SELECT weir.wait_for('$_', '30 s')"), '', "... and $_ goes on") for qw(of_topic of_table);
	}
	for my $statement ('VACUUM FULL of_topic', 'VACUUM FULL items', 'VACUUM', 'ANALYZE', 'CLUSTER items USING items_pkey', 'REINDEX TABLE of_table',
		'ALTER TABLE items ADD COLUMN more int DEFAULT 1', 'CREATE INDEX ON of_topic (s)', 'ALTER TABLE of_topic SET (autovacuum_enabled = false)', 'CHECKPOINT')
	{
		turn();
		$quick->($statement, 5, sub { return $node->error_of($statement) });
	}
	my $dump = PostgreSQL::Test::Utils::tempdir() . '/dump';
	command_ok([ 'pg_dump', '-d', $node->connstr('postgres'), '-f', $dump ], 'pg_dump');
	$quick->('CREATE DATABASE TEMPLATE', 5, sub { return $node->error_of('CREATE DATABASE copy TEMPLATE postgres', 'template1') });
	$quick->('ALTER DATABASE RENAME', 5, sub { return $node->error_of('ALTER DATABASE copy RENAME TO copied') });
	$quick->('DROP DATABASE', 5, sub { return $node->error_of('DROP DATABASE copied') });
	is($node->error_of("SELECT weir.wait_for('$_', '30 s')"), '', "after all that $_ goes on") for qw(of_topic of_table);
	is(sql($differs), '0', '... exactly');

	# a server without us: views are tables, and can be had, kept and dropped
	sql('ALTER SYSTEM SET weir.enabled = off; SELECT pg_reload_conf()');
	ok($node->wait_until(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_weir worker'}, '0', 20), 'switched off by a setting');
	my $rows = sql('SELECT count(*) FROM of_topic');
	$node->append_conf('postgresql.conf', "shared_preload_libraries = ''\n");
	$node->restart;
	is(sql('SELECT count(*) FROM of_topic'), $rows, 'without the library a view can be read');
	command_ok([ 'pg_dump', '-d', $node->connstr('postgres'), '-f', "$dump.2" ], '... and dumped');
	is($node->error_of('CREATE TABLE kept AS TABLE of_topic; DROP TABLE of_topic'), '', '... kept as a table, and dropped');
	is($node->error_of('UPDATE items SET n = n + 1'), '', '... its source is written');
	is($node->error_of('SET client_min_messages = warning; DROP EXTENSION pg_weir CASCADE'), '', '... and all of it removed');
	is(sql('SELECT count(*) FROM kept'), $rows, '... but what was kept');
	sql(q{SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots});
	is(sql('SELECT count(*) FROM items') > 0, 1, '... and the source');
};

unlike(slurp_file($node->logfile), qr/PANIC|TRAP:|signal 11|signal 6/, 'nobody crashed but on demand');
$node->stop;
done_testing;
