# The soak: a server that lives for an hour (WEIR_SECONDS) as servers do, under a
# moderate load, and is looked at all the while.  Run by ./check --long, or by
# test/soak; bench/README.md has the report of the last long one.
#
# A topic, a push stream and a table that is inserted into, updated and deleted
# from; views of every kind over them, with late rows, dead letters, changelogs of
# a minute, and more groups than weir.state_memory has room for, if WEIR_KEYS is
# large.  A view is dropped and made anew every minute; others are paused and
# rebuilt.  In the first third workers are killed as well; in the rest they are left
# alone, since a process that has just begun leaks nothing.
#
# What must hold:
#
#	exact	every minute or so, each view is its query over all rows so far, less the
#			pairs of a row and a window that weir.late_rows says it has missed
#	flat	the private memory of each process of the last two thirds, by regression
#	held	no process of ours holds a snapshot or a transaction for ten seconds
#	bounded	tables that we write are at most 3 times their rows; state memory,
#			changelogs, dead letters, WAL and temporary files within their limits
#	clean	after DROP EXTENSION nothing is left: slots, processes, shared memory,
#			files, labels
#
# Rows of changelogs turn over once a minute here, and autovacuum would come once a
# minute: it comes more often, as docs/operations.md advises.
#
# One process gives the rows, in a tick of half a second, so that the load is the
# same on a slower machine, or less, but never more than was due.
#
# WEIR_SECONDS (3600), WEIR_RATE (1500 rows a second in all), WEIR_KEYS (200000),
# WEIR_STATE_MEMORY ('16MB'), WEIR_SEED.  WEIR_CONTEXTS=1 writes the memory contexts of
# workers into the server's log from time to time.
# The embedded broker suffices.
use strict;
use warnings;

use IO::Handle;
use POSIX qw(strftime);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);
use WeirBroker;
use WeirNode;
use WeirTime;

plan skip_all => 'WEIR_LONG or WEIR_SECONDS is not set' unless $ENV{WEIR_LONG} || $ENV{WEIR_SECONDS};

my $seconds = $ENV{WEIR_SECONDS} || 3600;
my $rate = $ENV{WEIR_RATE} || 1500;
my $keys = $ENV{WEIR_KEYS} || 200_000;
my $state_memory = $ENV{WEIR_STATE_MEMORY} || '16MB';
my $seed = $ENV{WEIR_SEED} || 1 + int rand 1_000_000;
srand $seed;
diag("WEIR_SEED=$seed WEIR_SECONDS=$seconds");

my $tick = 0.5;
my $sample_every = $seconds < 600 ? 3 : 10;
my $churn_every = $seconds < 600 ? 20 : 60;
my $look_every = $seconds < 600 ? 30 : 120;    # compare and measure tables
my $retention = 60;                            # of changelogs, in seconds
my $letters = 2000;                            # dead letters that a view keeps

# ------------------------------------------------------------- the server

# Segments of dynamic shared memory are files of this server alone, to be counted.
my $broker = WeirBroker->new(topics => { hits => 3 });
my $node = WeirNode->start_new('soak', conf => <<"EOF2");
weir.state_memory = '$state_memory'
weir.max_dead_letters = $letters
autovacuum_naptime = 10s
max_wal_size = 2GB
dynamic_shared_memory_type = mmap
log_min_messages = log
EOF2
create_kafka($node, $broker);
my $dboid = $node->safe_psql('postgres', q{SELECT oid FROM pg_database WHERE datname = 'postgres'});
sub sql { return $node->patient_psql($_[0], 120) }

sql(<<'EOF2');
CREATE EXTENSION pgstattuple;
CREATE FOREIGN TABLE hits (id bigint, k int, url text, country text, amount numeric, ts timestamptz) SERVER kafka OPTIONS (topic 'hits');
CREATE TABLE hits_heap (id bigint PRIMARY KEY, k int, url text, country text, amount numeric, ts timestamptz);
CREATE FOREIGN TABLE pushed (id bigint, k int, country text, n int, ts timestamptz) SERVER weir_stream;
CREATE TABLE pushed_heap (id bigint PRIMARY KEY, k int, country text, n int, ts timestamptz);
CREATE TABLE accounts (id bigint PRIMARY KEY, k int, country text, amount numeric, opened timestamptz);
ALTER TABLE accounts REPLICA IDENTITY FULL;
CREATE VIEW accounts_heap AS TABLE accounts;
CREATE TABLE progress (source text PRIMARY KEY, upto bigint NOT NULL);
INSERT INTO progress VALUES ('pushed', 0), ('accounts', 0);

-- Each batch once: the transaction says how far.  A row of event time comes up to
-- ten seconds late; one in two hundred up to two minutes.
CREATE FUNCTION moment(at timestamptz, r float8, r2 float8) RETURNS timestamptz LANGUAGE sql IMMUTABLE AS
	$$ SELECT at - CASE WHEN r < 0.005 THEN r2 * interval '2 minutes' WHEN r < 0.3 THEN r2 * interval '10 s' ELSE r2 * interval '1 s' END $$;
CREATE FUNCTION push(batch bigint, n int) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF batch <= (SELECT upto FROM progress WHERE source = 'pushed' FOR UPDATE) THEN RETURN; END IF;
	WITH fresh AS (
		INSERT INTO pushed_heap SELECT batch * 10000 + i, (random() * random() * 300)::int,
			(ARRAY['DE', 'FR', 'US', 'BR', NULL])[1 + (random() * 4)::int], (random() * 1000)::int,
			moment(clock_timestamp(), random(), random()) FROM generate_series(1, n) i RETURNING *)
	INSERT INTO pushed SELECT * FROM fresh;
	UPDATE progress SET upto = batch WHERE source = 'pushed';
END $$;
CREATE FUNCTION trade(batch bigint, n int, most int) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF batch <= (SELECT upto FROM progress WHERE source = 'accounts' FOR UPDATE) THEN RETURN; END IF;
	INSERT INTO accounts SELECT batch * 10000 + i, (random() * 1000)::int, (ARRAY['DE', 'FR', 'US'])[1 + (random() * 2)::int],
		(random() * 1000)::numeric(10, 2), clock_timestamp() FROM generate_series(1, n) i;
	UPDATE accounts SET amount = (random() * 1000)::numeric(10, 2), k = CASE WHEN random() < 0.1 THEN (random() * 1000)::int ELSE k END
		WHERE id IN (SELECT id FROM accounts WHERE id >= (SELECT min(id) + random() * (max(id) - min(id)) FROM accounts) ORDER BY id LIMIT n);
	-- as many as have come, the oldest, once there are enough
	DELETE FROM accounts WHERE id IN (SELECT id FROM accounts ORDER BY id LIMIT greatest(0, (SELECT count(*) FROM accounts) - most));
	UPDATE progress SET upto = batch WHERE source = 'accounts';
END $$;
EOF2

# ------------------------------------------------------------- views

my $log = "weir.changelog_retention = '$retention seconds'";
my $sums = 'count(*) AS n, sum(id) AS ids';
# late: how its oracle leaves out what was late; the others lose nothing, since
# none is later than two minutes
my %view = (
	h_country => { from => 'hits', query => "SELECT country, $sums, sum(amount) AS total, min(ts) AS first FROM %s GROUP BY country" },
	h_keys => { from => 'hits', query => "SELECT k, $sums, sum(amount) AS total, max(url) AS url FROM %s GROUP BY k" },
	h_tumble => { from => 'hits', late => 1, window => "weir.tumble(ts, '10 seconds')", keys => 'url', what => "$sums, avg(amount) AS a",
		with => "weir.watermark = '5 seconds', weir.allowed_lateness = '20 seconds', $log" },
	h_hop => { from => 'hits', window => "weir.hop(ts, '5 seconds', '20 seconds')", keys => 'country', what => "$sums, sum(amount) AS total",
		with => "weir.allowed_lateness = '3 minutes', weir.changelog = 'all', $log" },
	p_keys => { from => 'pushed', query => "SELECT k, country, $sums, max(n) AS most FROM %s GROUP BY k, country" },
	p_session => { from => 'pushed', session => '2 seconds', keys => 'k', what => $sums,
		with => "weir.allowed_lateness = '3 minutes', weir.changelog = 'all', $log" },
	p_cumulate => { from => 'pushed', final => 1, window => "weir.cumulate(ts, '10 seconds', '1 minute')", keys => 'country', what => "$sums, max(n) AS most",
		with => "weir.emit = 'final', weir.allowed_lateness = '3 minutes', $log" },
	p_side => { from => 'pushed', late => 1, window => "weir.tumble(ts, '5 seconds')", keys => 'country', what => $sums,
		with => "weir.watermark = '3 seconds', weir.late = 'side_output', $log" },
	a_country => { from => 'accounts', query => "SELECT country, $sums, sum(amount) AS total, min(amount) AS least, max(k) AS k FROM %s GROUP BY country" },
	a_keys => { from => 'accounts', query => "SELECT k, $sums, sum(amount) AS total FROM %s GROUP BY k HAVING count(*) > 3" },
	a_minute => { from => 'accounts', query => "SELECT weir.tumble(opened, '1 minute') AS win, country, $sums FROM %s GROUP BY win, country" });

# The query of a view, over its source or over what the source was given
sub query
{
	my ($v, $from) = @_;
	return sprintf $v->{query}, $from if $v->{query};
	my $window = $v->{session} ? "weir.session(ts, '$v->{session}')" : $v->{window};
	return "SELECT $v->{keys}, $window AS win, $v->{what} FROM $from GROUP BY $v->{keys}, win";
}

sub create
{
	my ($name) = @_;
	my $v = $view{$name};
	my $with = join ', ', 'weir.continuous', q{weir.commit_interval = '100 ms'}, $v->{with} || ();
	sql("CREATE TABLE $name WITH ($with) AS " . query($v, $v->{from}));
	return;
}

sub truth
{
	my ($name) = @_;
	my $v = $view{$name};
	my $heap = "$v->{from}_heap";
	return WeirTime::sessions("(TABLE $heap) t", $v->{keys}, $v->{session}, $v->{what}) if $v->{session};
	return query($v, $heap) if !$v->{late} && !$v->{final};
	my $missed = $v->{late} ? "(id, win) NOT IN (SELECT (\"row\"->>'id')::bigint, w::tstzrange FROM weir.late_rows, unnest(windows) w WHERE view = '$name'::regclass)" : 'true';
	my $closed = $v->{final} ? "upper(win) <= weir.watermark('$name')" : 'true';
	return "SELECT $v->{keys}, win, $v->{what} FROM (SELECT *, $v->{window} AS win FROM $heap) t WHERE $missed AND $closed GROUP BY $v->{keys}, win";
}

# compare(name ...): what is wrong with them, '' if nothing is
sub compare
{
	my (@names) = @_;
	my $wait = join '', map { "SELECT weir.wait_for('$_', '120 s');\n" } @names;
	my $looks = join '', map { my $q = truth($_); qq{
		WITH theirs AS MATERIALIZED ($q), wrong(w) AS (
			SELECT 'missing ' || r FROM (SELECT t::text AS r FROM theirs t EXCEPT ALL SELECT o::text FROM $_ o) a
			UNION ALL SELECT 'surplus ' || r FROM (SELECT o::text AS r FROM $_ o EXCEPT ALL SELECT t::text FROM theirs t) b)
		SELECT '$_: ' || count(*) || ' rows wrong: ' || min(w) || ' ... ' || max(w) FROM wrong HAVING count(*) > 0;\n} } @names;
	return sql("SET client_min_messages = error;\n\\o /dev/null\n$wait\\o\nSET work_mem = '64MB';\nBEGIN ISOLATION LEVEL REPEATABLE READ;\n$looks COMMIT;");
}

create($_) for sort keys %view;

# ------------------------------------------------------------- the load

my @urls = map { "/page/$_" } 1 .. 40;
my @countries = qw(DE FR US BR);
my $batch = 0;
my %given = (hits => 0, pushed => 0, accounts => 0, poison => 0);

sub stamp
{
	my ($at) = @_;
	return strftime('%Y-%m-%dT%H:%M:%S', gmtime $at) . sprintf '.%06dZ', ($at - int $at) * 1_000_000;
}

# One batch, of n rows: two thirds of them messages
sub give
{
	my ($n) = @_;
	my (@messages, @values);
	my $now = time;
	$batch++;
	for my $i (1 .. $n * 2 / 3)
	{
		# nine in ten rows are of a tenth of the keys
		my $k = int rand(rand() < 0.9 ? $keys / 10 : $keys);
		my $r = rand;
		my $ts = stamp($now - ($r < 0.005 ? rand 120 : $r < 0.3 ? rand 10 : rand 1));
		my ($url, $country, $amount, $id) = ($urls[ rand() * rand() * @urls ], $countries[ rand @countries ], sprintf('%.2f', rand 100), $batch * 10000 + $i);
		push @messages, [ $i % 3, undef, qq({"id":$id,"k":$k,"url":"$url","country":"$country","amount":$amount,"ts":"$ts"}) ];
		push @values, "($id,$k,'$url','$country',$amount,'$ts')";
	}
	if (rand() < 0.5)
	{
		$given{poison} += 10;
		push @messages, map { [ $_ % 3, undef, '{"id": "no number, and a text that goes on for a while: ' . 'x' x 200 ] } 1 .. 10;
	}
	$broker->produce('hits', @messages);
	my ($few, $fewer) = (int $n / 4 + 1, int $n / 4 + 1);
	sql('INSERT INTO hits_heap VALUES ' . join(',', @values) . ' ON CONFLICT DO NOTHING;'
		  . "SELECT push($batch, $few) \\g /dev/null\nSELECT trade($batch, $fewer, 20000) \\g /dev/null");
	$given{hits} += @values;
	$given{pushed} += $few;
	$given{accounts} += 3 * $fewer;
	return;
}

# ------------------------------------------------------------- what is looked at

my $postmaster = $node->{_pid};

# in kB: what a process has for itself
sub private
{
	my ($pid) = @_;
	open my $fh, '<', "/proc/$pid/status" or return;
	local $/;
	return <$fh> =~ /^RssAnon:\s+(\d+) kB/m ? $1 : undef;
}

sub size_of { my $sum = 0; $sum += -s $_ || 0 for @_; return $sum }

# in seconds, of the postmaster, its children, and those that are dead
sub cpu
{
	my $ticks = 0;
	for my $pid ($postmaster, WeirNode::_children($postmaster))
	{
		open my $fh, '<', "/proc/$pid/stat" or next;
		my $stat = <$fh> // '';
		$stat =~ s/^.*\) //s;
		my @f = split / /, $stat;
		$ticks += $f[11] + $f[12] + ($pid == $postmaster ? $f[13] + $f[14] : 0) if @f > 14;
	}
	return $ticks / 100;
}

# what was seen, a line each time, for who looks for a leak
open my $series, '>', $node->logfile =~ s/\.log$/.samples/r or die $!;
$series->autoflush(1);
my (@samples, %most);
my $begun = time;
my $cpu_begun = cpu();
sub now { return time - $begun }

# The greatest value that was seen, and when
sub see
{
	my ($what, $value) = @_;
	return unless defined $value && $value ne '';
	$most{$what} = $value if !defined $most{$what} || $value > $most{$what};
	return;
}

sub sample
{
	my $data = $node->data_dir;
	my %s = (at => now());
	for (split /\n/, sql(q{
		SELECT 'pid', pid, backend_type FROM pg_stat_activity WHERE backend_type LIKE 'pg_weir%';
		SELECT 'held', coalesce(max(extract(epoch FROM clock_timestamp() - xact_start)), 0) FROM pg_stat_activity
			WHERE backend_type LIKE 'pg_weir%' AND backend_type <> 'pg_weir backfill' AND (backend_xmin IS NOT NULL OR backend_xid IS NOT NULL);
		SELECT 'state_bytes', sum(state_bytes) FROM weir.stat_views;
		SELECT 'slots', count(*) FROM pg_replication_slots;
		SELECT 'retained', max(retained_bytes) FROM weir.slot;
		SELECT 'lag_seconds', max(lag_seconds) FROM weir.partitions;
		SELECT 'notify', pg_notification_queue_usage();}))
	{
		my ($what, @value) = split /\|/;
		if ($what eq 'pid')
		{
			$s{anon}{ $value[0] } = private($value[0]);
			see("RssAnon of a $value[1], MB", $s{anon}{ $value[0] } / 1024) if defined $s{anon}{ $value[0] };
		}
		else { $s{$what} = $value[0] }
	}
	$s{shared} = size_of(glob "$data/pg_dynshmem/mmap.*");
	$s{temp} = size_of(glob "$data/base/pgsql_tmp/*");
	$s{spill} = size_of(glob "$data/pg_replslot/*/*.spill");
	see('snapshot or transaction held, s', $s{held});
	see('states of all views, MB', ($s{state_bytes} || 0) / 1e6);
	see('dynamic shared memory, MB', $s{shared} / 1e6);
	see('temporary files, MB', ($s{temp} + $s{spill}) / 1e6);
	see('WAL that the slot keeps, MB', $s{retained} / 1e6) if $s{retained};
	see('replication slots', $s{slots});
	see('lag, s', $s{lag_seconds});
	push @samples, \%s;
	print $series join("\t", map({ sprintf '%s=%.0f', $_, $s{$_} || 0 } grep { $_ ne 'anon' } sort keys %s), map { "anon.$_=" . ($s{anon}{$_} || 0) } sort keys %{ $s{anon} }), "\n";
	sql(q{SELECT pg_log_backend_memory_contexts(pid) FROM pg_stat_activity WHERE backend_type = 'pg_weir worker'}) if $ENV{WEIR_CONTEXTS} && @samples % 20 == 0;
	return;
}

my (@wrong, @bloated, $compared, %greatest);

# Nothing is given meanwhile.
sub look
{
	my $started = time;
	my $wrong = compare(sort keys %view);
	$compared++;
	push @wrong, sprintf '%d s: %s', now(), $wrong if $wrong ne '';
	diag("wrong: $wrong") if $wrong ne '';

	# what VACUUM leaves alone by its defaults is nothing to speak of
	for (split /\n/, sql(q{SELECT coalesce('states of ' || v.relid::regclass, r::text), pg_relation_size(r), tuple_len + 4 * tuple_count
			FROM (SELECT relid::regclass FROM weir_data.views UNION SELECT changelog::regclass FROM weir_data.views WHERE changelog IS NOT NULL
				UNION SELECT oid FROM pg_class WHERE relnamespace = 'weir_data'::regnamespace AND relkind = 'r') t(r)
			CROSS JOIN pgstattuple(r) LEFT JOIN weir_data.views v ON r::text = 'weir_data.state_' || v.id ORDER BY 1}))
	{
		my ($name, $size, $live) = split /\|/;
		# while nothing is given changelogs expire, and their files stay
		$live = $greatest{$name} if $name =~ /_changes$/ && ($greatest{$name} || 0) > $live;
		$greatest{$name} = $live;
		next if $size < 1_000_000;
		my $ratio = $live > 0 ? $size / $live : 'inf';
		see("size of $name against its rows", $ratio);
		push @bloated, sprintf '%d s: %s is %.1f MB for %.1f MB of rows', now(), $name, $size / 1e6, $live / 1e6 if $size > 3 * $live + 1_000_000;
	}
	for (split /\n/, sql(join '', map { "SELECT '$_', extract(epoch FROM clock_timestamp() - min(weir_at)) FROM ${_}_changes;" } grep { ($view{$_}{with} || '') =~ /changelog/ } sort keys %view))
	{
		my ($name, $age) = split /\|/;
		see('age of the oldest row of a changelog, s', $age);
	}
	see('dead letters of a view', sql('SELECT coalesce(max(n), 0) FROM (SELECT count(*) AS n FROM weir_data.dead_letters GROUP BY view_id) x'));
	see('longest comparison, s', time - $started);
	return time - $started;
}

# ------------------------------------------------------------- what happens

my $churned = 0;
my %happened;

# Dropped and made anew: over each source in turn, from here on
sub churn
{
	my ($from) = (qw(hits pushed accounts))[ $churned++ % 3 ];
	if ($view{churn})
	{
		my $wrong = compare('churn');
		push @wrong, sprintf '%d s: %s', now(), $wrong if $wrong ne '';
		sql('DROP TABLE churn');
	}
	my $last = sql("SELECT coalesce(max(id), 0) FROM ${from}_heap");
	$view{churn} = { from => $from, query => "SELECT country, $sums, sum(k) AS keys FROM %s WHERE id > $last GROUP BY country",
		$from eq 'hits' ? (with => q{weir.start = 'latest'}) : () };
	create('churn');
	$happened{'views dropped and made anew'}++;
	return;
}

sub a_view { my @names = sort grep { !$_[0] || /^$_[0]/ } keys %view; return $names[ rand @names ] }

my %event = (
	'kill -9 of a worker' => sub {
		my $v = a_view();
		my $pid = sql("SELECT weir.worker_pid('$v')") or return;
		my $seen = -s $node->logfile;
		kill 9, $pid;
		$node->wait_for_log(qr/all server processes terminated; reinitializing/, $seen);
		$node->wait_ready(120);
	},
	'worker terminated' => sub { sql("SELECT pg_terminate_backend(weir.worker_pid('" . a_view() . "'))") },
	'view paused' => sub {
		my $v = a_view();
		sql("SELECT weir.pause('$v')");
		sleep 1 for 1 .. 3;
		sql("SELECT weir.resume('$v')");
	},
	'view rebuilt' => sub { sql("SELECT weir.rebuild('" . a_view('a_') . "')") },
	'view locked' => sub { my $v = a_view(); sql("BEGIN; LOCK TABLE $v; SELECT pg_sleep(2); COMMIT") },
	'options changed' => sub { sql("ALTER TABLE " . a_view('h_') . " SET (weir.commit_interval = '" . (100 + int rand 400) . " ms')") });

# ------------------------------------------------------------- the hour

my $given_at = time;
my ($next_sample, $next_churn, $next_look, $next_event) = (0, 5, $look_every, $seconds < 600 ? 6 : 20);
give(20);
while (now() < $seconds)
{
	my $started = time;
	# what is due, but never more than two ticks' worth: a machine that is busy with
	# something else gets less
	my $due = int($rate * ($started - $given_at));
	$due = 2 * $rate * $tick if $due > 2 * $rate * $tick;
	$given_at = $started;
	give($due) if $due > 12;
	if (now() >= $next_sample) { sample(); $next_sample = now() + $sample_every }
	if (now() >= $next_churn) { churn(); $next_churn = now() + $churn_every }
	if (now() >= $next_look) { my $took = look(); $next_look = now() + $look_every + 10 * $took; $given_at = time }
	if (now() >= $next_event)
	{
		my @names = grep { now() < $seconds / 3 || !/kill|terminated/ } sort keys %event;
		my $name = $names[ rand @names ];
		diag(sprintf '%d s: %s', now(), $name);
		$event{$name}->();
		$happened{$name}++;
		$next_event = now() + ($seconds < 600 ? 6 : 20) * (0.5 + rand);
	}
	my $left = $tick - (time - $started);
	sleep $left if $left > 0;
}
sample();
my $elapsed = now();
my $cpu = (cpu() - $cpu_begun) / $elapsed;
diag('the last comparison, after the last death');
$event{'kill -9 of a worker'}->();
$happened{'kill -9 of a worker'}++;
look();

# ------------------------------------------------------------- verdicts

is(join("\n", @wrong), '', "exact: every view, $compared times");
cmp_ok($compared, '>=', 2, 'there were comparisons');
is(sql(q{SELECT view, sqlstate, message FROM weir.views WHERE state <> 'running'}), '', 'every view runs');
my $rows_in = sql('SELECT sum(rows_in) FROM weir.stat_views');
cmp_ok($rows_in, '>', $given{hits}, 'they had something to do');
cmp_ok($most{'dead letters of a view'}, '>', 0, 'poison came');
cmp_ok(sql('SELECT count(*) FROM weir.late_rows'), '>', 0, 'rows were late');

cmp_ok($most{'snapshot or transaction held, s'}, '<', 10, 'no snapshot of ours was held for ten seconds');
is(join("\n", @bloated), '', 'bounded: no table of ours is more than 3 times its rows');
cmp_ok($most{'states of all views, MB'}, '<=', sql(q{SELECT pg_size_bytes(current_setting('weir.state_memory')) / 1e6}), 'states are within weir.state_memory');
cmp_ok($most{'age of the oldest row of a changelog, s'}, '<', $retention + 60, 'changelogs are kept as long as they should be');
cmp_ok($most{'dead letters of a view'}, '<=', $letters * 1.1 + 200, 'dead letters are bounded');
is($most{'replication slots'}, 1, 'one replication slot');

# least squares, in kB and hours: (mean, slope)
sub regression
{
	my (@points) = @_;
	my ($n, $sx, $sy, $sxx, $sxy) = (scalar @points, 0, 0, 0, 0);
	for (@points) { my ($x, $y) = @$_; $sx += $x; $sy += $y; $sxx += $x * $x; $sxy += $x * $y }
	my $d = $n * $sxx - $sx * $sx;
	return ($sy / $n, $d == 0 ? 0 : ($n * $sxy - $sx * $sy) / $d);
}

# Those that have lived through all of the last two thirds; the first tenth of that
# is for growing up.
my @calm = grep { $_->{at} > $seconds * 0.4 && $_->{at} <= $seconds } @samples;
my %lived;
$lived{$_}++ for map { keys %{ $_->{anon} } } @calm;
my @old = grep { $lived{$_} >= 0.9 * @calm } sort keys %lived;
cmp_ok(scalar @old, '>=', 3, 'the launcher and both workers have lived');
my $hours = $seconds * 0.6 / 3600;
my $slack = 8 * 1024;    # kB: over all of that time, or an hour
my @memory;
for my $pid (@old)
{
	my ($mean, $slope) = regression(map { [ $_->{at} / 3600, $_->{anon}{$pid} ] } grep { defined $_->{anon}{$pid} } @calm);
	my $growth = $slope * ($hours < 1 ? $hours : 1);
	push @memory, sprintf '| process %d | %.1f MB | %+.2f MB an hour |', $pid, $mean / 1024, $slope / 1024;
	cmp_ok($growth, '<', $slack, sprintf 'flat: process %d has %.1f MB, %+.2f MB an hour', $pid, $mean / 1024, $slope / 1024);
}
my ($mean, $slope) = regression(map { [ $_->{at} / 3600, $_->{shared} / 1024 ] } @calm);
push @memory, sprintf '| dynamic shared memory | %.1f MB | %+.2f MB an hour |', $mean / 1024, $slope / 1024;

# ------------------------------------------------------------- nothing is left

sql('DROP EXTENSION pg_weir CASCADE');
ok($node->wait_until(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'pg_weir%' AND backend_type <> 'pg_weir launcher'}, '0', 60), 'clean: no process');
ok($node->wait_until('SELECT count(*) FROM pg_replication_slots', '0', 60), 'clean: no replication slot');
ok($node->wait_until(q{SELECT count(*) FROM pg_shseclabel}, '0', 60), 'clean: no label');
is(sql(q{SELECT string_agg(oid::regclass::text, ' ') FROM pg_class WHERE relname ~ '^[hpa]_' OR relname LIKE '%\_changes'}), '', 'clean: no relation');
is(size_of(glob $node->data_dir . '/base/pgsql_tmp/*'), 0, 'clean: no temporary file');
is(join(' ', $node->unmapped_segments), '', 'clean: no segment of shared memory');
sql('CHECKPOINT');
my %known = map { $_ => 1 } split /\n/, sql('SELECT DISTINCT pg_relation_filenode(oid) FROM pg_class WHERE pg_relation_filenode(oid) IS NOT NULL');
my @stray = grep { m{/(\d+)[^/]*\z} && !$known{$1} } glob $node->data_dir . "/base/$dboid/[0-9]*";
is("@stray", '', 'clean: no file without a relation');
my @children = WeirNode::_children($postmaster);
$node->stop;
ok(@children && !(grep { !WeirNode::_is_dead($_) } @children), 'clean: the server has ended with all its processes');

# ------------------------------------------------------------- the report

my @report = (sprintf('%d s; %d messages (%d of them poison), %d pushed rows, %d changes of a table; %d comparisons; seed %d; server: %.0f %% of a core',
		$elapsed, $given{hits} + $given{poison}, $given{poison}, $given{pushed}, $given{accounts}, $compared, $seed, $cpu * 100),
	'', '| happened | times |', '|---|---|', (map { "| $_ | $happened{$_} |" } sort keys %happened),
	'', '| greatest value seen | |', '|---|---|', (map { sprintf '| %s | %.1f |', $_, $most{$_} } sort keys %most),
	'', '| private memory, last 60 % of the time | mean | slope |', '|---|---|---|', @memory);
diag(join "\n", '', @report);
if ($ENV{WEIR_REPORT})
{
	open my $fh, '>', $ENV{WEIR_REPORT} or die "$ENV{WEIR_REPORT}: $!";
	print $fh join("\n", @report), "\n";
	close $fh;
}
done_testing;
