# Event time is exact, in whatever order rows arrive and whoever dies.
#
# One set of rows, with ties, edges of windows to the microsecond, gaps of exactly
# a session's length, rows without a time and from the far future, goes into a
# topic of three partitions, a push stream and a table: each in an order of its own
# in which no row is more than $lateness behind the newest.  Rows of the table come
# wrong first and are corrected, or come and go.  Some rows, the wild ones, are
# later than anybody allows.
#
# Views of every kind of window read them:
#
#	exact	late = retract for $lateness, without the wild rows: equal to the
#			query over all rows so far
#	lossy	all rows, and policies that lose some: equal to the query over the
#			pairs of row and window, less those in weir.late_rows; what is
#			dropped is counted
#
# Q itself, run over a copy, is the oracle; of sessions, gaps and islands in plain
# SQL.  While the rows flow somebody looks, in one snapshot, whether the changelog
# folds to the view, and consumers read on from their last weir_seq.  In each round
# something dies, fails, is rebuilt, paused or moved.  At last a standby is promoted.
#
# WEIR_SEED repeats the rows, their order and the events; WEIR_ROUNDS=N cuts these;
# WEIR_LONG=1 takes every policy with every source and each fault with each action.
# WEIR_ROWS is the number of rows.
# The embedded broker suffices.
use strict;
use warnings;

use File::Find;
use File::Spec;
use FindBin;
use IPC::Run ();
use Test::More;
use Time::HiRes qw(sleep time);
use WeirBroker;
use PostgreSQL::Test::Utils;
use WeirNode;
use WeirTime;

my $seed = $ENV{WEIR_SEED} || 1 + int(rand 1_000_000);
srand $seed;
diag("WEIR_SEED=$seed");
my $begun = time;
my $long = $ENV{WEIR_LONG};
my $rows = $ENV{WEIR_ROWS} || ($long ? 30_000 : 5_000);
my $partitions = 3;

sub one_of { return $_[ rand @_ ] }
sub shuffled { return map { $_->[1] } sort { $a->[0] <=> $b->[0] } map { [ rand, $_ ] } @_ }

# ------------------------------------------------------------- events

# What the commit of event time goes through.
my %points;
my $tree = -d "$FindBin::Bin/../../src" ? "$FindBin::Bin/../../src" : 'src';
find({ no_chdir => 1, wanted => sub {
	return unless /\.c$/;
	$points{$_} = 1 for slurp_file($_) =~ /\bWEIR_FAULT\("([^"]+)"\)/g;
} }, $tree);
my @points = grep { /^(?:commit|fold|acknowledged|publish|changelog|late|compose|watermark)/ && !/^publish-complete/ } sort keys %points;
cmp_ok(scalar @points, '>=', 8, 'there are fault points: ' . "@points");

my @actions = qw(kill9 error enospc crash);
my @events = map { my $p = $_; map { [ 'fault', $p, $_ ] } $long ? @actions : one_of(@actions) } @points;
push @events, map { [$_] } (qw(kill9 crash none rebuild pause vacuum terminate)) x ($long ? 4 : 1);
@events = shuffled(@events);
splice @events, $ENV{WEIR_ROUNDS} if $ENV{WEIR_ROUNDS};

# ------------------------------------------------------------- the server

my $broker = WeirBroker->new;
my $node = WeirNode->start_new('main', no_start => 1, conf => <<'EOF2');
include_if_exists = 'fault.conf'
max_prepared_transactions = 5
max_wal_size = 4GB
log_checkpoints = off
log_min_messages = log
log_min_error_statement = panic
EOF2
$node->start;
create_kafka($node, $broker);
my $time = WeirTime->new($node, broker => $broker);
sub sql { return $node->patient_psql($_[0], 60) }

# ------------------------------------------------------------- rows

my $lateness = '10 minutes';
my $began = '2026-03-08 04:00:00+00';
my $span = '3 hours';
my $gap = '20 seconds';
my $fraction = $seed / 1_000_001;

# at: when it arrives, in the time of events.  A row with the time ts arrives
# between ts and ts + lateness, so no row is more than that behind the newest.
sql(<<"EOF2");
SELECT setseed($fraction);
CREATE TABLE truth (id int PRIMARY KEY, k text, ts timestamptz, n int, amount numeric, f float8, wild bool, fixed bool);
INSERT INTO truth
SELECT id, (ARRAY['a', 'b', 'c', 'd', 'e', NULL])[1 + floor(random() * random() * 6)::int],
	CASE WHEN dice < 0.01 THEN NULL WHEN dice < 0.014 THEN timestamptz '2100-01-01 00:00Z' + dice * interval '1 hour'
		WHEN dice < 0.3 THEN date_bin('10 s', base, '2000-01-01Z')
		WHEN dice < 0.35 THEN date_bin('10 s', base, '2000-01-01Z') - interval '1 us'
		WHEN dice < 0.4 THEN date_bin('10 s', base, '2000-01-01Z') + interval '1 us'
		WHEN dice < 0.45 THEN date_bin('1 minute', base, '2000-01-01Z')
		ELSE base END,
	floor(random() * 100)::int, CASE WHEN random() < 0.05 THEN NULL ELSE (random() * 100)::numeric(10, 2) END,
	floor(random() * 4000 - 2000) / 4, wild, wild OR random() < 0.4
FROM (SELECT id, random() AS dice, random() < 0.04 AS wild, timestamptz '$began' + id * interval '$span' / $rows AS base
	FROM generate_series(1, $rows) id OFFSET 0) t;
-- of no partition is less to come: the last window closes
INSERT INTO truth SELECT $rows + i, 'end', timestamptz '$began' + interval '$span' + interval '2 hours', 0, 0, 0, false, true
	FROM generate_series(1, $partitions) i;

CREATE FUNCTION delay() RETURNS interval LANGUAGE sql VOLATILE AS
	\$\$ SELECT CASE WHEN random() < 0.6 THEN random() * interval '3 s' WHEN random() < 0.7 THEN random() * interval '1 minute'
		ELSE random() * interval '$lateness' END \$\$;
CREATE FUNCTION base(id int, ts timestamptz) RETURNS timestamptz LANGUAGE sql IMMUTABLE AS
	\$\$ SELECT CASE WHEN ts < '2099-01-01Z' THEN ts ELSE timestamptz '$began' + id * interval '$span' / $rows END \$\$;
CREATE TABLE arrival (source text, id int, part int, pos int, PRIMARY KEY (source, pos));
INSERT INTO arrival
SELECT source, id, part, row_number() OVER (PARTITION BY source ORDER BY at, id)
FROM (SELECT source, id, CASE WHEN k = 'end' THEN id % $partitions ELSE floor(random() * $partitions)::int END AS part,
		base(id, ts) + CASE WHEN k = 'end' THEN interval '1 day' WHEN wild THEN random() * interval '1 hour' ELSE delay() END AS at
	FROM truth, unnest(ARRAY['topic', 'stream']) source OFFSET 0) t;

-- the table: rows come right, or wrong and are corrected in time, or come and go
CREATE TABLE deeds (pos int PRIMARY KEY, what text, id int, k text, ts timestamptz, n int, amount numeric, f float8, wild bool, fixed bool);
INSERT INTO deeds
SELECT row_number() OVER (ORDER BY at, step), what, id, k, ts, n, amount, f, wild, fixed FROM (
	SELECT 'insert' AS what, 1 AS step, base(id, ts) + CASE WHEN k = 'end' THEN interval '1 day' WHEN wild THEN random() * interval '1 hour' ELSE delay() END AS at,
		id, k, ts, n, amount, f, wild, fixed
	FROM truth WHERE fixed OR ts IS NULL OR ts > '2099-01-01Z' OR id % 3 = 0
	UNION ALL
	SELECT what, step, CASE step WHEN 1 THEN first ELSE first + share * (least(ts, ts2) + interval '$lateness' - first) END, id,
		CASE WHEN step = 1 AND share < 0.3 THEN 'b' ELSE k END, CASE step WHEN 1 THEN ts2 ELSE ts END,
		CASE WHEN step = 1 THEN n + 1 ELSE n END, amount, f, wild, fixed
	FROM (SELECT *, random() AS share, greatest(ts, ts2) + random() * interval '1 minute' AS first
		FROM (SELECT *, CASE WHEN random() < 0.4 THEN ts ELSE ts + (random() - 0.5) * interval '8 minutes' END AS ts2
			FROM truth WHERE NOT fixed AND ts < '2099-01-01Z' AND id % 3 <> 0 OFFSET 0) a OFFSET 0) b,
		(VALUES ('insert', 1), ('update', 2)) v(what, step)
	UNION ALL
	SELECT what, step, CASE step WHEN 1 THEN first ELSE first + share * (ts + interval '$lateness' - first) END, id, k, ts, 7, 7, 7, false, false
	FROM (SELECT *, random() AS share, ts + random() * interval '1 minute' AS first
		FROM (SELECT 1000000 + i AS id, (ARRAY['a', 'b', 'c', 'x'])[1 + i % 4] AS k,
				date_bin(CASE WHEN i % 2 = 0 THEN interval '10 s' ELSE '1 us' END, timestamptz '$began' + random() * interval '$span', '2000-01-01Z') AS ts
			FROM generate_series(1, $rows / 8) i OFFSET 0) a OFFSET 0) b,
		(VALUES ('insert', 1), ('delete', 2)) v(what, step)) t;
DROP FUNCTION delay();
CREATE TABLE progress (source text PRIMARY KEY, upto int NOT NULL);
INSERT INTO progress VALUES ('topic', 0), ('stream', 0), ('table', 0);
CREATE TABLE tabled (LIKE truth INCLUDING INDEXES);
ALTER TABLE tabled REPLICA IDENTITY FULL;
CREATE FOREIGN TABLE pushed (id int, k text, ts timestamptz, n int, amount numeric, f float8, wild bool, fixed bool) SERVER weir_stream;
CREATE FOREIGN TABLE topical (id int, k text, ts timestamptz, n int, amount numeric, f float8, wild bool, fixed bool)
	SERVER kafka OPTIONS (topic 'topical');

-- the rows that a source has by now
CREATE VIEW topical_heap AS SELECT t.* FROM arrival a JOIN truth t USING (id) WHERE source = 'topic' AND pos <= (SELECT upto FROM progress WHERE source = 'topic');
CREATE VIEW pushed_heap AS SELECT t.* FROM arrival a JOIN truth t USING (id) WHERE source = 'stream' AND pos <= (SELECT upto FROM progress WHERE source = 'stream');
CREATE VIEW tabled_heap AS TABLE tabled;

-- what a source is given next, once only: the transaction says how far
CREATE FUNCTION play_stream(until int) RETURNS void LANGUAGE sql AS \$\$
	INSERT INTO pushed SELECT t.* FROM arrival a JOIN truth t USING (id)
		WHERE source = 'stream' AND pos > (SELECT upto FROM progress WHERE source = 'stream') AND pos <= until ORDER BY pos;
	UPDATE progress SET upto = until WHERE source = 'stream' AND upto < until \$\$;
CREATE FUNCTION play_table(until int) RETURNS void LANGUAGE plpgsql AS \$\$
DECLARE
	d deeds;
BEGIN
	FOR d IN SELECT * FROM deeds WHERE pos > (SELECT upto FROM progress WHERE source = 'table') AND pos <= until ORDER BY pos LOOP
		IF d.what = 'insert' THEN INSERT INTO tabled VALUES (d.id, d.k, d.ts, d.n, d.amount, d.f, d.wild, d.fixed);
		ELSIF d.what = 'update' THEN UPDATE tabled SET k = d.k, ts = d.ts, n = d.n WHERE id = d.id;
		ELSE DELETE FROM tabled WHERE id = d.id; END IF;
	END LOOP;
	UPDATE progress SET upto = until WHERE source = 'table' AND upto < until;
END \$\$;
ANALYZE;
EOF2
$broker->create_topic('topical', $partitions);
my %last = map { split /\|/ } split /\n/, sql(q{SELECT source, max(pos) FROM arrival GROUP BY 1 UNION ALL SELECT 'table', max(pos) FROM deeds});

# ------------------------------------------------------------- views

my %source = (topic => 'topical', stream => 'pushed', table => 'tabled');
my %window = (
	tumble => q{weir.tumble(ts, '1 minute')},
	hop => q{weir.hop(ts, '30 seconds', '2 minutes')},
	uneven => q{weir.hop(ts, '50 seconds', '2 minutes')},
	gaps => q{weir.hop(ts, '1 minute', '40 seconds')},
	cumulate => q{weir.cumulate(ts, '30 seconds', '3 minutes')},
	session => qq{weir.session(ts, '$gap')});
my $aggregates = 'count(*) AS c, sum(n) AS s, sum(id) AS ids, min(n) AS mi, max(ts) AS last, avg(amount) AS a, sum(f) AS f, count(*) FILTER (WHERE n > 50) AS big';
my $odd = 'count(*) % 3 <> 0';

my $read = 'id, k, ts, n, amount, f';

my %view;    # name => what it is

# make(kind, source, what, late, allowed lateness, emit, changelog)
sub make
{
	my ($kind, $source, $what, $late, $allowed, $emit, $changelog) = @_;
	my $name = join '_', $what, $kind, $source, $what eq 'lossy' ? $late : (), $emit eq 'final' ? 'final' : ();
	my $from = $source{$source};
	my $where = $what eq 'exact' ? 'WHERE NOT wild' : '';
	my $having = $what eq 'exact' && rand() < 0.3 ? $odd : undef;
	my @with = sprintf "weir.commit_interval = '%d ms'", 10 + rand 100;
	push @with, "weir.changelog = '$changelog'";
	my $query;
	if ($kind eq 'global')
	{
		$where = '';
		$query = "SELECT k, $aggregates FROM %s GROUP BY k";
	}
	else
	{
		my $watermark = one_of('5 seconds', '5 seconds', '0 seconds', 'ascending', 'p95', 'p99.9', '30 seconds');
		push @with, "weir.late = '$late'", "weir.emit = '$emit'", "weir.watermark = '$watermark'";
		push @with, "weir.allowed_lateness = '$allowed'" if $late eq 'retract';
		push @with, sprintf "weir.publish_interval = '%d ms'", one_of(10, 100, 1000, 10000) if $kind =~ /hop|uneven|gaps|cumulate/ && $emit eq 'changes';
		$query = "SELECT k, $window{$kind} AS win, $aggregates FROM %s $where GROUP BY k, win";
	}
	$query .= " HAVING $having" if defined $having;
	$view{$name} = {
		name => $name, kind => $kind, source => $source, what => $what, late => $late, allowed => $allowed, emit => $emit, changelog => $changelog,
		where => $where, having => $having, with => join(', ', @with), query => $query, seen => 0, read => [] };
	return;
}

# Sums of what has a weight of -1 would be no help here: rows of the table that were
# dropped are known by their number alone, which corrections blur.
my @lossy = ([ 'retract', '20 seconds' ], [ 'side_output', '0 seconds' ], [ 'drop', '0 seconds' ]);
for my $kind (sort keys %window)
{
	for my $source (sort keys %source)
	{
		make($kind, $source, 'exact', 'retract', $lateness, $_, one_of('final', 'final', 'all', 'all', 'off'))
		  for $long ? qw(changes final) : one_of(qw(changes changes final));
	}
	for my $policy (@lossy)
	{
		my @sources = grep { $policy->[0] ne 'drop' || $_ ne 'table' } sort keys %source;
		make($kind, $_, 'lossy', @$policy, $long ? 'changes' : one_of(qw(changes changes final)), one_of('final', 'all'))
		  for $long ? @sources : one_of(@sources);
	}
}
make('global', $_, 'exact', 'retract', 0, 'changes', 'all') for sort keys %source;
my @names = sort keys %view;
for my $v (values %view)
{
	sql("CREATE TABLE $v->{name} WITH (weir.continuous, $v->{with}) AS " . sprintf $v->{query}, $source{ $v->{source} });
}
diag(sprintf '%d views, %d rows, %d deeds, %d events; prepared in %.0f s', scalar @names, $last{topic}, $last{table}, scalar @events, time - $begun);

# ------------------------------------------------------------- oracles

# The rows that v must have, given the rows that its source has.
sub expected
{
	my ($v) = @_;
	my $heap = "$source{$v->{source}}_heap";
	my $name = $v->{name};
	return sprintf $v->{query}, $heap if $v->{kind} eq 'global';
	my $closed = $v->{emit} eq 'final' ? "WHERE upper(win) <= (SELECT w FROM now_at)" : '';
	if ($v->{what} eq 'exact')
	{
		my $q = $v->{kind} eq 'session' ? WeirTime::sessions("(SELECT * FROM $heap $v->{where}) h", 'k', $gap, $aggregates, $v->{having})
		  : sprintf $v->{query}, $heap;
		return "SELECT * FROM ($q) q $closed";
	}
	# less what came too late, and with what was taken back too late, as the view tells
	my $all = "SELECT $read FROM $heap";
	if ($v->{kind} eq 'session')
	{
		my $accepted = "($all UNION ALL SELECT $read FROM late WHERE diff < 0) EXCEPT ALL SELECT $read FROM late WHERE diff > 0";
		return "SELECT * FROM (" . WeirTime::sessions("($accepted) h", 'k', $gap, $aggregates) . ") q $closed";
	}
	my $pairs = "(SELECT $read, $window{$v->{kind}} AS win FROM $heap UNION ALL SELECT $read, unnest(windows)::tstzrange FROM late WHERE diff < 0)
		EXCEPT ALL SELECT $read, unnest(windows)::tstzrange FROM late WHERE diff > 0";
	return "SELECT * FROM (SELECT k, win, $aggregates FROM ($pairs) p GROUP BY k, win) q $closed";
}

# SQL that says 'exact', or what is wrong.  What was dropped is known by its number.
sub comparison
{
	my ($v) = @_;
	my $name = $v->{name};
	my $with = "now_at AS MATERIALIZED (SELECT watermark AS w FROM weir.views WHERE view = '$name'::regclass),
		late AS MATERIALIZED (SELECT r.*, windows, diff FROM weir.late_rows l, jsonb_to_record(\"row\") r(id int, k text, ts timestamptz, n int, amount numeric, f float8)
			WHERE view = '$name'::regclass)";
	if ($v->{late} eq 'drop')
	{
		my $pairs = "SELECT * FROM (SELECT id, $window{$v->{kind}} AS win FROM $source{$v->{source}}_heap) p WHERE upper(win) <= (SELECT w FROM now_at)";
		my $ours = "SELECT sum(c) FROM $name WHERE upper(win) <= (SELECT w FROM now_at)";
		if ($v->{kind} eq 'session')
		{
			# which of them are in open sessions a view of closed ones does not say
			$pairs = "SELECT * FROM $source{$v->{source}}_heap";
			$ours = $v->{emit} eq 'final' ? 'NULL::bigint' : "SELECT sum(c) FROM $name";
		}
		return "WITH $with SELECT CASE WHEN ours IS NULL OR ours + dropped = pairs THEN 'exact' ELSE format('%s applied and %s dropped of %s', ours, dropped, pairs) END
			FROM (SELECT ($ours) AS ours, (SELECT count(*) FROM ($pairs) x) AS pairs, (SELECT late_dropped FROM weir.stat_views WHERE view = '$name'::regclass) AS dropped) y";
	}
	return "WITH $with, theirs AS MATERIALIZED (" . expected($v) . "), ours AS (SELECT * FROM $name),
		wrong(w) AS (SELECT 'missing ' || d::text FROM (SELECT t::text FROM theirs t EXCEPT ALL SELECT o::text FROM ours o) d
			UNION ALL SELECT 'surplus ' || d::text FROM (SELECT o::text FROM ours o EXCEPT ALL SELECT t::text FROM theirs t) d)
		SELECT CASE WHEN count(*) = 0 THEN 'exact' ELSE format('%s rows wrong of %s: %s', count(*), (SELECT count(*) FROM theirs),
			(SELECT string_agg(w, '; ') FROM (SELECT left(w, 200) AS w FROM wrong ORDER BY substr(w, 9), w LIMIT 6) x)) END FROM wrong";
}

# What weir.late_rows says must be so, and be counted.
sub late_faults
{
	my ($v) = @_;
	my $name = $v->{name};
	my $lost = "upper(win) + interval '$v->{allowed}' <= watermark";
	my $by = $v->{kind} eq 'session' ? 'true' : "late_by = watermark - (SELECT max(upper(w::tstzrange)) FROM unnest(windows) w)";
	return "SELECT concat_ws(', ',
			CASE WHEN EXISTS (SELECT FROM l GROUP BY \"row\" HAVING count(*) > 1) AND '$v->{source}' <> 'table' THEN 'a row is there twice' END,
			CASE WHEN EXISTS (SELECT FROM l WHERE NOT coalesce($by, false)) THEN 'late_by is wrong' END,
			CASE WHEN EXISTS (SELECT FROM l, LATERAL (SELECT w::tstzrange AS win FROM unnest(windows) w) x WHERE NOT coalesce($lost, false)) AND '$v->{kind}' <> 'session' THEN 'a window could still be revised' END,
			CASE WHEN (SELECT coalesce(sum(cardinality(windows)), 0) FROM l) <> (SELECT late_side FROM weir.stat_views WHERE view = '$name'::regclass) THEN 'not all are counted' END)
		FROM (VALUES (1)) v(i)" =~ s/\A/WITH l AS (SELECT *, ("row"->>'id')::int AS id FROM weir.late_rows WHERE view = '$name'::regclass) /r;
}

# ------------------------------------------------------------- looking on

my ($looks, %odd) = (0);

# One view, in one snapshot; and what its consumer has not read yet.
sub look
{
	my @logged = grep { $_->{changelog} ne 'off' } values %view;
	my $v = $logged[ rand @logged ];
	my $columns = eval { $time->columns($v->{name}) } or return;
	my ($rc, $out) = $node->_try("BEGIN ISOLATION LEVEL REPEATABLE READ;
		SELECT '\@' || (" . $time->fold_query($v->{name}, $v->{changelog}, $v->{emit}) . ") WHERE (SELECT state IN ('running', 'stalled') FROM weir.views WHERE view = '$v->{name}'::regclass);
		SELECT weir_seq, weir_diff, ROW($columns)::text FROM $v->{name}_changes WHERE weir_seq > $v->{seen} ORDER BY weir_seq;
		COMMIT");
	return if $rc != 0;
	$looks++;
	for (split /\n/, $out)
	{
		if (/^@(.*)/) { $odd{"$v->{name}: $1"}++ if $1 ne '0'; next }
		push @{ $v->{read} }, $_;
		($v->{seen}) = /^(\d+)/;
	}
}

# ------------------------------------------------------------- giving

my $dir = $PostgreSQL::Test::Utils::tmp_check;
my %running;
my ($poisoned, $transactions) = (0, 0);

# A script that brings a source up to a position, in transactions of any size.
sub start_writer
{
	my ($source, $until) = @_;
	my $at = sql("SELECT upto FROM progress WHERE source = '$source'");
	return if $at >= $until;
	open my $fh, '>', "$dir/$source.sql" or die $!;
	while ($at < $until)
	{
		$at += rand() < 0.05 ? 100 : 1 + int rand 12;
		$at = $until if $at > $until;
		my $play = "SELECT play_$source($at)";
		my $dice = rand;
		print $fh $dice < 0.05 ? "BEGIN; $play; ROLLBACK; $play;\n" : $dice < 0.1 ? "BEGIN; SAVEPOINT s; $play; ROLLBACK TO s; $play; COMMIT;\n" : "$play;\n";
		printf $fh "SELECT pg_sleep(%.3f);\n", rand 0.03 if rand() < 0.3;
		$transactions++;
	}
	close $fh;
	my $out = '';
	$running{$source} = { until => $until, out => \$out, run => IPC::Run::start(
		[ 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('postgres'), '-f', "$dir/$source.sql" ],
		'<', '/dev/null', '>', \$out, '2>', "$dir/$source.err", IPC::Run::timeout(120)) };
	return;
}

sub still_writing
{
	my ($writer) = @_;
	return $writer->{run}->pumpable && eval { $writer->{run}->pump_nb; 1 } && $writer->{run}->pumpable;
}

# Messages of the topic up to a position, as lines for the producer
sub messages
{
	my ($from, $until) = @_;
	my $file = File::Spec->rel2abs("$dir/messages");
	sql("COPY (SELECT part, NULL, json_build_object('id', id, 'k', k, 'ts', ts, 'n', n, 'amount', amount, 'f', f, 'wild', wild, 'fixed', fixed)
		FROM arrival JOIN truth USING (id) WHERE source = 'topic' AND pos > $from AND pos <= $until ORDER BY pos) TO '$file'");
	open my $fh, '<', $file or die $!;
	my @lines = <$fh>;
	close $fh;
	return @lines;
}

# ------------------------------------------------------------- rounds

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

my $given = 0;    # of the topic
sub live_through
{
	my ($event, $share) = @_;
	my ($kind, $point, $action) = @$event;
	my %until = map { $_ => int($last{$_} * $share) } keys %last;
	my @lines = messages($given, $until{topic});
	$given = $until{topic};
	$seen = -s $node->logfile;
	$node->set_fault("$point:$action:" . (1 + int rand 2)) if $kind eq 'fault';
	start_writer($_, $until{$_}) for qw(stream table);

	my $step = 1 + int(@lines / 6);
	my ($found, $happened) = (0, 0);
	my $deadline = time + 20;
	my @paused;
	while (@lines || grep { still_writing($_) } values %running)
	{
		if (my @some = splice @lines, 0, $step)
		{
			if (rand() < 0.5) { push @some, [ int rand $partitions, undef, one_of('bad', '{"id": 1, "ts": "noon"}', '[1]') ]; $poisoned++ }
			$broker->produce('topical', @some);
		}
		$found ||= $kind eq 'fault' && look_for($point, $action);
		if ($kind ne 'fault' && !$happened && @lines < 3 * $step)
		{
			$happened = 1;
			if ($kind eq 'kill9') { $node->kill9_worker('postgres') }
			elsif ($kind eq 'crash') { $node->crash_server }
			elsif ($kind eq 'terminate') { sql(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type LIKE 'pg_weir%'}) }
			elsif ($kind eq 'rebuild') { sql("SELECT weir.rebuild('$_')") for (shuffled(grep { $view{$_}{what} eq 'exact' && $view{$_}{source} ne 'stream' } @names))[ 0 .. 3 ] }
			elsif ($kind eq 'vacuum') { sql("VACUUM FULL $_") for (shuffled(@names))[ 0 .. 5 ] }
			elsif ($kind eq 'pause') { @paused = (shuffled(@names))[ 0 .. 3 ]; sql("SELECT weir.pause('$_')") for @paused }
		}
		look();
	}
	if ($kind eq 'fault')
	{
		until ($found ||= look_for($point, $action))
		{
			last if time > $deadline;
			look();
		}
		$fired{"$point $action"}++ if $found;
		$found or diag("$point:$action has not fired");
		$node->set_fault('');
	}
	else { $fired{$kind}++ if $happened }
	sql("SELECT weir.resume('$_')") for @paused;
	eval { $_->{run}->finish } for values %running;
	$node->wait_ready or BAIL_OUT('the server does not come back');
	# those who died with it go on where they had committed
	for my $source (sort keys %running)
	{
		for (1 .. 20)
		{
			last if sql("SELECT upto >= $until{$source} FROM progress WHERE source = '$source'") eq 't';
			my $error = slurp_file("$dir/$source.err");
			BAIL_OUT("$source: $error") if $error =~ /ERROR/ && $error !~ /terminating|shutting down|starting up|recovery/;
			start_writer($source, $until{$source});
			while (still_writing($running{$source})) { look() }
			eval { $running{$source}{run}->finish };
			$node->wait_ready;
		}
	}
	%running = ();
	sql("UPDATE progress SET upto = $given WHERE source = 'topic'");
	return;
}

my ($compared, %wrong) = (0);
sub check
{
	my ($what, @these) = @_;
	my $deadline = time + 60;
	# a stall that an injected error has left behind passes by itself
	for my $name (@these)
	{
		my $error;
		until (($error = $node->error_of("SELECT weir.wait_for('$name', '30 s')")) eq '')
		{
			last if time > $deadline || $error =~ /^57014/;
			sleep 0.2;
		}
		if ($error ne '') { $wrong{"$name after $what"} = $error; last }
	}
	if (!%wrong)
	{
		my $all = join ";\n", map {
			my $v = $view{$_};
			"SELECT '\@$_ view|' || (" . comparison($v) . ')',
			  ($v->{changelog} ne 'off' ? "SELECT '\@$_ fold|' || (" . $time->fold_query($_, $v->{changelog}, $v->{emit}) . ')' : ()),
			  ($v->{what} eq 'lossy' && $v->{late} ne 'drop' ? "SELECT '\@$_ late|' || (" . late_faults($v) . ')' : ())
		} @these;
		my %seen;
		for (split /\n/, sql("BEGIN ISOLATION LEVEL REPEATABLE READ; SET LOCAL work_mem = '64MB'; $all; COMMIT"))
		{
			my ($name, $is) = /^@([^|]+)\|(.*)/ or next;
			$seen{$name}++;
			$compared++;
			$wrong{"$name after $what"} = $is unless $is =~ /^(?:exact|0|)$/;
		}
		$seen{"$_ view"} or $wrong{"$_ after $what"} = 'no answer' for @these;
	}
	if (%wrong)
	{
		diag("$_: $wrong{$_}") for sort keys %wrong;
		diag(sql('SELECT view, state, sqlstate, message, detail, watermark, held_by FROM weir.views'));
		die "given up\n";
	}
	return;
}

my $lived = 0;
my $ok = eval {
	check('creation', @names);
	for my $i (0 .. $#events)
	{
		my $started = time;
		live_through($events[$i], ($i + 1) / @events);
		my $then = time;
		# each view after a third of the events, at the least, and all at the end
		check("@{$events[$i]}", $long || $i == $#events ? @names : grep { rand() < 0.4 } @names);
		$lived++;
		note(sprintf '%s: %.1f s, compared in %.1f s', "@{$events[$i]}", $then - $started, time - $then);
	}
	1;
} or diag($@);
is(join("\n", map { "$_: $wrong{$_}" } sort keys %wrong), '', "after each event every view is what its query says ($compared comparisons)");
is($lived, scalar @events, 'all events were lived through');
is(join("\n", sort keys %odd), '', "at every look the changelog folded to its view ($looks looks)");
diag(sprintf '%d events in %.0f s, %d looks, %d transactions', $lived, time - $begun, $looks, $transactions);

# ------------------------------------------------------------- the end

if ($ok)
{
	# every window with an end has closed
	for my $name (grep { $view{$_}{kind} ne 'global' } @names)
	{
		my $v = $view{$name};
		is(sql("SELECT count(*) FROM $name WHERE upper(win) <= '$began'::timestamptz + interval '$span' + interval '1 hour' AND NOT weir.is_closed('$name', win)"), '0', "$name: all have closed")
		  if $v->{emit} eq 'changes';
		# sessions that were dropped: what is left are those without end
		next unless $v->{late} eq 'drop' && $v->{kind} eq 'session' && $v->{emit} eq 'final';
		is(sql("SELECT (SELECT sum(c) FROM $name) + (SELECT late_dropped FROM weir.stat_views WHERE view = '$name'::regclass)
			- (SELECT count(*) FROM $source{$v->{source}}_heap WHERE ts < '2099-01-01Z' AND k IS DISTINCT FROM 'end')"),
			'0', "$name: applied or dropped");
	}
	# in whatever order they came, the same rows
	for my $kind (sort keys %window)
	{
		my @same = grep { $view{$_}{kind} eq $kind && $view{$_}{what} eq 'exact' && !defined $view{$_}{having} } @names;
		for my $name (@same[ 1 .. $#same ])
		{
			is(sql("SELECT count(*) FROM ((SELECT o::text FROM $same[0] o EXCEPT ALL SELECT t::text FROM $name t) UNION ALL (SELECT t::text FROM $name t EXCEPT ALL SELECT o::text FROM $same[0] o)) d
				WHERE d.o NOT LIKE '%2100-%' AND d.o LIKE '%[%' AND d.o NOT LIKE '(end%'"), '0', "$same[0] and $name end the same");
		}
	}
	for my $v (map { $view{$_} } grep { $view{$_}{changelog} ne 'off' } @names)
	{
		is(sql($time->faults_query($v->{name}, mode => $v->{changelog}, kind => $v->{kind})), '', "$v->{name}: a sound changelog");
		look_at($v);
	}
	books();
	substance();
}

# The consumer of a view has read each row of the changelog once.
sub look_at
{
	my ($v) = @_;
	my $columns = $time->columns($v->{name});
	my $of = "SELECT weir_seq, weir_diff, ROW($columns)::text FROM $v->{name}_changes";
	push @{ $v->{read} }, split /\n/, sql("$of WHERE weir_seq > $v->{seen} ORDER BY weir_seq");
	($v->{seen}) = $v->{read}[-1] =~ /^(\d+)/ if @{ $v->{read} };
	my @is = split /\n/, sql("$of ORDER BY weir_seq");
	is(join("\n", @{ $v->{read} }) eq join("\n", @is), 1, "$v->{name}: a consumer has read all " . @is . ' changes once');
	return;
}

# Every message is one of applied, filtered, late, dead letter.
sub books
{
	for my $v (map { $view{$_} } grep { $view{$_}{kind} eq 'tumble' && $view{$_}{source} ne 'table' && !defined $view{$_}{having} && $view{$_}{emit} eq 'changes' } @names)
	{
		is(sql("SELECT rows_in - rows_filtered - dead_letters - late_side - late_dropped - (SELECT sum(c) FROM $v->{name}) FROM weir.stat_views WHERE view = '$v->{name}'::regclass"),
			'0', "$v->{name}: the books");
	}
	is(sql(qq{SELECT string_agg(DISTINCT dead_letters::text, ',') FROM weir.stat_views WHERE view::text ~ '_topic'}) =~ /^\d+(,\d+)?$/, 1, 'dead letters')
	  if $poisoned;
	return;
}

# Was there something to test?
sub substance
{
	is(join(', ', grep { !$fired{ s/^fault //r } } map { "@$_" } @events), '', 'each event happened');
	cmp_ok($looks, '>', 5 * @events, 'somebody looked');
	my %late;
	for my $v (map { $view{$_} } grep { $view{$_}{kind} ne 'global' } @names)
	{
		my $name = $v->{name};
		cmp_ok(sql("SELECT count(*) FROM $name"), '>', 20, "$name has rows");
		my ($applied, $side, $dropped) = split / /, $time->late($name);
		is("$side $dropped", '0 0', "$name: none was lost") if $v->{what} eq 'exact';
		$late{"$v->{kind}, applied"} += $applied;
		$late{"$v->{kind}, $v->{late}"} += $side + $dropped if $v->{what} eq 'lossy';
		next if $v->{changelog} eq 'off';
		cmp_ok(sql("SELECT count(*) FROM ${name}_changes WHERE weir_reason = 'final'"), '>', 0, "$name: windows have closed");
	}
	cmp_ok($late{$_}, '>', 0, "late rows: $_") for sort keys %late;
	my $sessions = join ' UNION ALL ', map { "SELECT '$_' AS v, weir_at, k, count(*) FILTER (WHERE weir_diff < 0) AS minus, count(*) FILTER (WHERE weir_diff > 0) AS plus FROM ${_}_changes GROUP BY weir_at, k" }
	  grep { $view{$_}{kind} eq 'session' && $view{$_}{changelog} ne 'off' } @names;
	if ($sessions)
	{
		cmp_ok(sql("SELECT count(*) FROM ($sessions) s WHERE minus > plus AND plus > 0"), '>', 0, 'sessions were merged');
		cmp_ok(sql("SELECT count(*) FROM ($sessions) s WHERE v LIKE '%table%' AND plus > minus AND minus > 0"), '>', 0, 'and split')
		  if $sessions =~ /table/;
	}
	return;
}

# ------------------------------------------------------------- promotion

# The standby lacks the last commits of the primary when that is gone.  Its
# numbers jump, so that whoever has read those commits misses nothing.
sub promotion
{
	my @topical = grep { $view{$_}{source} eq 'topic' && $view{$_}{changelog} ne 'off' } @names;
	my $more = int($rows / 10);
	sql(qq{INSERT INTO truth SELECT 2000000 + id, k, ts, n, amount, f, false, true FROM
		(SELECT id, (ARRAY['a', 'b', NULL])[1 + id % 3] AS k, timestamptz '$began' + interval '$span' + interval '3 hours' + id * interval '1 second' AS ts,
			id AS n, id AS amount, id / 4.0 AS f FROM generate_series(1, $more) id) t;
		INSERT INTO arrival SELECT 'topic', id, id % $partitions, $last{topic} + row_number() OVER (ORDER BY ts + random() * interval '30 s') FROM truth WHERE id > 2000000});
	my $send = sub {
		my ($share) = @_;
		my $until = $last{topic} + int($more * $share);
		$broker->produce('topical', messages($given, $until));
		$given = $until;
	};
	my $backup = 'base';
	$node->backup($backup);
	my $standby = WeirNode->new('standby');
	$standby->init_from_backup($node, $backup, has_streaming => 1);
	$standby->start;
	$send->(0.3);
	sql("UPDATE progress SET upto = $given WHERE source = 'topic'");
	check('with a standby', @topical);
	$node->wait_for_catchup($standby);
	$standby->stop;
	$send->(0.6);
	sql("SELECT weir.wait_for('$_')") for @topical;
	my %read = map { $_ => sql("SELECT coalesce(max(weir_seq), 0) FROM ${_}_changes") } @topical;
	$node->crash_server(no_start => 1);
	$standby->start;
	my %old = map { $_ => $standby->safe_psql('postgres', "SELECT coalesce(max(weir_seq), 0) FROM ${_}_changes") } @topical;
	$standby->promote;
	$node = $standby;
	$time->{node} = $standby;
	$send->(1);
	sql("UPDATE progress SET upto = $given WHERE source = 'topic'");
	eval { check('promotion', @topical); 1 } or diag($@);
	is(join("\n", map { "$_: $wrong{$_}" } sort keys %wrong), '', 'the promoted standby is exact');
	for my $name (@topical)
	{
		my $v = $view{$name};
		my $next = sql("SELECT min(weir_seq) FROM ${name}_changes WHERE weir_seq > $old{$name}");
		cmp_ok($next, '>', $read{$name}, "$name: numbers jump ahead of what the old primary gave") if $next ne '';
		is(sql($time->faults_query($name, mode => $v->{changelog}, kind => $v->{kind}, jumps => 1)), '', "$name: nothing is repeated");
	}
	cmp_ok(scalar(grep { $read{$_} > $old{$_} } @topical), '>', 0, 'the old primary had given what the standby lacked');
	unlike(slurp_file($standby->logfile), qr/PANIC|TRAP:|signal 11|signal 6/, 'the standby did not crash');
	return;
}

my $log = slurp_file($node->logfile);
unlike($log, qr/PANIC|TRAP:|signal 11|signal 6/, 'nobody crashed but on demand');
if ($ok)
{
	eval { promotion(); 1 } or do { fail('promotion'); diag($@) };
}
$node->stop;
diag(sprintf 'all in %.0f s', time - $begun);
done_testing;
