# Exactly once: whatever dies and whenever, a view is what Postgres computes by
# itself over the messages below the view's positions.
#
# Random messages (disorder, duplicates, NULLs, edges of windows, 1 to 2 % of
# poison) go into a topic in chunks and, as text, into a heap table.  Postgres
# parses that table with jsonb and runs each query over it; windows are written
# with date_trunc.  None of it is code of ours.  In between the worker or the
# server dies, fails or finds the disk full, at every fault point of the commit
# in turn and at random times.  After each the view must equal the query over
# the prefix that it claims to have, in one snapshot; at the end, over all.
#
# WEIR_SEED repeats a run.  WEIR_MESSAGES is the number per partition: 15,000 on
# the embedded broker, 300,000 on the real one and 1,000,000 with WEIR_LONG.
use strict;
use warnings;

use IPC::Run ();
use Test::More;
use Time::HiRes qw(sleep time);
use WeirBroker;
use PostgreSQL::Test::Utils;
use WeirNode;

my $seed = $ENV{WEIR_SEED} || 1 + int(rand 1_000_000);
srand $seed;
diag("WEIR_SEED=$seed");
my $begun = time;

my $broker = WeirBroker->new;
my $partitions = 3;
my $messages = $ENV{WEIR_MESSAGES} || ($broker->is_real ? ($ENV{WEIR_LONG} ? 1_000_000 : 300_000) : 15_000);
my $zone = 'America/New_York';

my @points = qw(fold-before-apply commit-begin commit-results commit-states commit-positions
	commit-before commit-after commit-applied acknowledged);
my @actions = qw(kill9 error enospc crash);

# Each point with each action, in random order, and as many times nothing in
# particular happens or somebody is killed between two breaths.
my @events = map { my $p = $_; map { [ $p, $_ ] } @actions } @points;
push @events, map { [ 'random', $_ ] } qw(kill9 kill9 kill9 crash crash crash none none none none);
for my $i (reverse 1 .. $#events)
{
	my $j = int rand($i + 1);
	@events[ $i, $j ] = @events[ $j, $i ];
}
my $chunks = @events;

my $node = WeirNode->start_new('main', no_start => 1, conf => <<'EOF2');
fsync = on
include_if_exists = 'fault.conf'
max_wal_size = 4GB
work_mem = 256MB
log_checkpoints = off
EOF2
$node->start;
create_kafka($node, $broker);
$broker->create_topic('events', $partitions);

sub sql { return $node->patient_psql($_[0]) }

# ------------------------------------------------------------- messages

my $fraction = $seed / 1_000_001;
sql(<<"EOF2");
SELECT setseed($fraction);
CREATE TABLE raw (part int, off bigint, chunk int, value text);
INSERT INTO raw
SELECT part, off, off * $chunks / $messages,
	CASE WHEN dup < 0.02 THEN coalesce(lag(value, 3) OVER w, value) ELSE value END
FROM (
	SELECT part, off, dup,
		CASE WHEN poison < 0.002 THEN left(good, (length(good) * random())::int - 1)
			 WHEN poison < 0.003 THEN ''
			 WHEN poison < 0.004 THEN '[' || good || ']'
			 WHEN poison < 0.005 THEN good || ' x'
			 WHEN poison < 0.006 THEN NULL
			 ELSE good END AS value
	FROM (
		SELECT part, off, random() AS poison, random() AS dup, concat('{',
			CASE WHEN random() < 0.98 THEN '"k": ' ||
				(ARRAY['"a"', '"b"', '"c"', '"d\\u00e9"', '"\\ud83d\\ude00"', '"f f"', 'null', '""'])[1 + floor(random() * 8)::int] || ', ' END,
			'"uid": ', floor(random() * random() * 5000), ', "amount": ',
			CASE WHEN bad < 0.002 THEN '"12,5"' WHEN bad < 0.5 THEN (random() * 1000)::numeric(10, 2)::text
				 WHEN bad < 0.6 THEN '"' || (random() * 10)::numeric(10, 5) || '"' WHEN bad < 0.7 THEN '-3.5e2'
				 WHEN bad < 0.72 THEN 'null' ELSE (random() * 100)::int::text END,
			', "ts": "', CASE WHEN bad BETWEEN 0.3 AND 0.302 THEN 'infinity' WHEN bad BETWEEN 0.303 AND 0.305 THEN 'noon'
				WHEN bad BETWEEN 0.4 AND 0.45 THEN date_trunc('minute', ts)::text
				WHEN bad BETWEEN 0.45 AND 0.5 THEN (date_trunc('minute', ts) - interval '1 us')::text
				ELSE to_char(ts, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') END, '", "n": ',
			CASE WHEN bad BETWEEN 0.6 AND 0.602 THEN '1.5' WHEN bad BETWEEN 0.602 AND 0.604 THEN '99999999999'
				 WHEN bad BETWEEN 0.604 AND 0.606 THEN '"x"' WHEN bad BETWEEN 0.61 AND 0.63 THEN '7.0'
				 WHEN bad BETWEEN 0.63 AND 0.65 THEN '"8"' WHEN bad BETWEEN 0.65 AND 0.66 THEN 'null'
				 ELSE floor(random() * 200 - 90)::text END,
			', "f": ', floor(random() * 4000 - 2000) / 4, ', "deep": {"label": "', md5(floor(random() * 300)::text), '"}}') AS good
		FROM (
			SELECT part, off, random() AS bad,
				timestamptz '2026-03-08 04:00+00' + off * interval '6 hours' / $messages
					+ (random() - 0.5) * interval '2 hours' AS ts
			FROM generate_series(0, $partitions - 1) part, generate_series(0, $messages - 1) off
			OFFSET 0) t
		OFFSET 0) t
	OFFSET 0) t
WINDOW w AS (PARTITION BY part ORDER BY off);
EOF2

# What each message is, by Postgres' own parser.  One that is no object is bad
# for everybody; a column that does not convert, for those who read it.
sql(<<'EOF2');
CREATE TYPE parsed AS (ok bool, n_ok bool, amount_ok bool, ts_ok bool,
	k text, uid bigint, amount numeric, ts timestamptz, n int, f float8, label text);
CREATE FUNCTION whole(t text) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	IF t::numeric <> trunc(t::numeric) THEN RAISE 'no integer'; END IF;
	RETURN t::numeric;
END $$;
CREATE FUNCTION parse(v text) RETURNS parsed LANGUAGE plpgsql STABLE AS $$
DECLARE
	j jsonb;
	r parsed;
BEGIN
	r.ok := false;
	BEGIN
		j := v::jsonb;
		IF jsonb_typeof(j) <> 'object' THEN RETURN r; END IF;
	EXCEPTION WHEN OTHERS THEN RETURN r; END;
	r.ok := true; r.n_ok := true; r.amount_ok := true; r.ts_ok := true;
	r.k := j->>'k'; r.uid := j->>'uid'; r.f := j->>'f'; r.label := j->'deep'->>'label';
	BEGIN
		r.n := whole(j->>'n'); r.amount := j->>'amount'; r.ts := j->>'ts';
	EXCEPTION WHEN OTHERS THEN
		BEGIN r.n := whole(j->>'n'); EXCEPTION WHEN OTHERS THEN r.n_ok := false; END;
		BEGIN r.amount := j->>'amount'; EXCEPTION WHEN OTHERS THEN r.amount_ok := false; END;
		BEGIN r.ts := j->>'ts'; EXCEPTION WHEN OTHERS THEN r.ts_ok := false; END;
	END;
	RETURN r;
END $$;
CREATE TABLE truth AS SELECT part, off, false AS tombstone, p.* FROM raw, LATERAL parse(value) p LIMIT 0;
EOF2
# the slowest part by far, so side by side
{
	my @parsers;
	for my $part (0 .. $partitions - 1)
	{
		my ($in, $out) = ('', '');
		push @parsers, IPC::Run::start([ 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('postgres'), '-c', "
			INSERT INTO truth SELECT part, off, value IS NULL, (p).*
			FROM (SELECT part, off, value, parse(value) AS p FROM raw WHERE part = $part OFFSET 0) t" ],
			'<', \$in, '>&', \$out);
	}
	$_->finish or die 'parsing failed' for @parsers;
}
sql(<<'EOF2');
ALTER TABLE truth ADD PRIMARY KEY (part, off);
CREATE INDEX ON raw (chunk);
ANALYZE truth;
EOF2
my $total = $partitions * $messages;
is(sql('SELECT count(*) FROM truth'), $total, "$total messages");
my $poison = sql('SELECT count(*) FROM truth WHERE NOT tombstone AND NOT (ok AND n_ok AND amount_ok AND ts_ok)');
cmp_ok($poison, '>', $total / 150, "$poison of them are bad for somebody");

# ------------------------------------------------------------- views

my $day = "tstzrange(date_trunc('day', ts, '$zone'), (date_trunc('day', ts AT TIME ZONE '$zone') + interval '1 day') AT TIME ZONE '$zone')";
my $minute = "tstzrange(date_trunc('minute', ts), date_trunc('minute', ts) + interval '1 minute')";

# Which of equal numbers a minimum shows (47 or 47.00) is up to their order: so scales
# are trimmed.
#
# name => query with {window} and {source}, the same window in core's words, what
# makes a message good for it, its WHERE
my %view = (
	by_minute => {
		query => 'SELECT k, {window} AS win, count(*) AS c, sum(amount) AS sa, trim_scale(min(amount)) AS mina, trim_scale(max(amount)) AS maxa,
			avg(n) AS an, sum(f) AS sf FROM {source} GROUP BY k, win',
		ours => "weir.tumble(ts, '1 minute')", cores => "CASE WHEN ts IS NOT NULL THEN $minute END",
		good => 'ok AND n_ok AND amount_ok AND ts_ok AND isfinite(coalesce(ts, now()))' },
	by_day => {
		query => 'SELECT {window} AS win, label, count(*) AS c, sum(n) AS sn, avg(amount) AS aa, avg(f) AS af, max(f) AS mf
			FROM {source} GROUP BY 1, 2',
		ours => "weir.tumble(ts, '1 day', tz => '$zone')", cores => "CASE WHEN ts IS NOT NULL THEN $day END",
		good => 'ok AND n_ok AND amount_ok AND ts_ok AND isfinite(coalesce(ts, now()))' },
	filtered => {
		query => q{SELECT left(label, 2) AS l, min(label) AS mi, max(label) AS ma, min(k) AS mk, count(k) AS ck, sum(n) AS sn
			FROM {source} WHERE n > 0 AND k <> 'a' GROUP BY l},
		good => 'ok AND n_ok', where => q{n > 0 AND k <> 'a'} },
	havings => {
		query => 'SELECT uid, count(*) + 1 AS c1, round(sum(amount) / count(*), 3) AS r, min(ts) AS first, max(ts) AS last
			FROM {source} GROUP BY uid HAVING count(*) % 3 <> 0 AND sum(amount) > 100',
		good => 'ok AND amount_ok AND ts_ok' },
	grand => {
		query => 'SELECT count(*) AS c, count(n) AS cn, sum(n) AS sn, sum(amount) AS sa, sum(f) AS sf, min(ts) AS mi, max(ts) AS ma FROM {source}',
		good => 'ok AND n_ok AND amount_ok AND ts_ok' },
	everything => {
		query => 'SELECT part, count(*) AS c, sum(off) AS s, min(off) AS mi, max(off) AS ma, avg(off) AS av FROM {source} GROUP BY part',
		good => 'ok' },
	choosy => {
		query => q{SELECT k, uid % 10 AS u, count(*) FILTER (WHERE n > 0) AS c, sum(amount) FILTER (WHERE f < 0) AS sa,
			avg(f) FILTER (WHERE k IS NOT NULL) AS af, bool_or(n > 50) FILTER (WHERE false) AS b FROM {source} GROUP BY k, u},
		good => 'ok AND n_ok AND amount_ok' },
	half_way => {
		query => 'SELECT k, count(*) AS c, sum(n) AS sn FROM {source} GROUP BY k',
		good => 'ok AND n_ok' },
	anothers => {
		query => 'SELECT n, count(*) AS c, trim_scale(max(amount)) AS ma FROM {source} GROUP BY n',
		good => 'ok AND n_ok AND amount_ok' });
$view{choosy}{query} =~ s/, bool_or.*? AS b//;

sql(<<'EOF2');
CREATE FOREIGN TABLE events (k text, uid bigint, amount numeric, ts timestamptz, n int, f float8,
	label text OPTIONS (path 'deep.label'),
	part int OPTIONS (metadata 'partition'), off bigint OPTIONS (metadata 'offset'))
	SERVER kafka OPTIONS (topic 'events');
CREATE ROLE another;
GRANT USAGE ON FOREIGN SERVER kafka TO another;
GRANT SELECT ON events TO another;
GRANT CREATE ON SCHEMA public TO another;
EOF2

my %made;

sub make
{
	my ($name) = @_;
	my $query = $view{$name}{query};
	my $role = $name eq 'anothers' ? 'SET ROLE another;' : '';
	my $interval = 20 + int rand 200;
	# rows come in any order, and all count: when windows close is another test's
	$query =~ s/\{window\}/$view{$name}{ours}/;
	$query =~ s/\{source\}/events/;
	sql("$role CREATE TABLE $name WITH (weir.continuous, weir.commit_interval = '$interval ms', weir.watermark = 'none') AS $query");
	$made{$name} = 1;
}

# In one snapshot: rows that only one side has, rows, messages that neither the
# books nor the oracle can account for.  All zeros but for the number of rows.
sub compare
{
	my ($name) = @_;
	my $v = $view{$name};
	my $query = $v->{query};
	my $where = $v->{where} || 'true';
	$query =~ s/\{window\}/$v->{cores}/;
	$query =~ s/\{source\}/accepted/;
	return sql(<<"EOF2");
BEGIN ISOLATION LEVEL REPEATABLE READ;
CREATE TEMP TABLE prefix AS
	SELECT p.* FROM weir_data.positions p JOIN weir_data.views w ON w.id = p.view_id WHERE w.relid = '$name'::regclass;
CREATE TEMP TABLE delivered AS SELECT t.* FROM truth t JOIN prefix p ON part = partition AND off < position;
WITH accepted AS (SELECT * FROM delivered WHERE NOT tombstone AND $v->{good}
		AND (SELECT phase = 'running' FROM weir_data.status s JOIN weir_data.views w ON w.id = s.view_id WHERE w.relid = '$name'::regclass)),
	theirs AS (SELECT q::text FROM ($query) q),
	ours AS (SELECT v::text FROM $name v),
	wrong(w) AS (SELECT 'missing ' || q FROM (TABLE theirs EXCEPT ALL TABLE ours) t
		UNION ALL SELECT 'surplus ' || v FROM (TABLE ours EXCEPT ALL TABLE theirs) t),
	bad AS (SELECT part, off FROM delivered WHERE NOT tombstone AND NOT ($v->{good})),
	letters AS (SELECT partition, "offset" FROM weir.dead_letters WHERE view = '$name'::regclass),
	books AS (SELECT coalesce(sum(rows_in), 0) AS i, coalesce(sum(rows_filtered), 0) AS f,
			coalesce(sum(dead_letters), 0) AS d, coalesce(sum(tombstones), 0) AS t FROM prefix)
SELECT CASE WHEN n = 0 AND a = 0 AND b = 0 AND c = 0 THEN 'exact' ELSE format('%s rows wrong (%s), %s dead letters wrong, %s filtered wrong, %s unaccounted', n, sample, a, b, c) END
FROM (SELECT (SELECT count(*) FROM wrong) AS n,
	(SELECT string_agg(w, '; ') FROM (SELECT * FROM wrong ORDER BY substr(w, 9) LIMIT 6) x) AS sample,
	(SELECT count(*) FROM ((TABLE bad EXCEPT ALL TABLE letters) UNION ALL (TABLE letters EXCEPT ALL TABLE bad)) x)
		+ abs((SELECT d FROM books) - (SELECT count(*) FROM bad)) AS a,
	abs((SELECT f FROM books) - (SELECT count(*) FROM delivered WHERE NOT tombstone AND $v->{good} AND ($where) IS NOT TRUE)) AS b,
	abs((SELECT i FROM books) - (SELECT count(*) FROM delivered WHERE NOT tombstone))
		+ abs((SELECT t FROM books) - (SELECT count(*) FROM delivered WHERE tombstone)) AS c) x;
EOF2
}

# ------------------------------------------------------------- faults

my %fired;

# Produces a chunk and lets an event happen to it.
sub live_through
{
	my ($chunk, $event) = @_;
	my ($point, $action) = @$event;
	my $seen = -s $node->logfile;
	my $file = "${PostgreSQL::Test::Utils::tmp_check}/chunk";
	my $fault = $point eq 'random' ? '' : "$point:$action:1";

	sql("COPY (SELECT part, NULL, value FROM raw WHERE chunk = $chunk ORDER BY off, part) TO '$file'");
	open my $fh, '<', $file or die $!;
	my @lines = <$fh>;
	close $fh;
	$node->set_fault($fault) if $fault;

	# Over several commits, so that a point is reached more than once.  As soon as
	# the fault has fired it is taken back: whoever comes next counts anew.
	my $step = 1 + int(@lines / 5);
	my $found = 0;
	my $deadline = time + 15;
	my $look = sub {
		return if !$fault || $found;
		$found = slurp_file($node->logfile, $seen) =~ /fault point \Q$point\E: $action/ or return;
		$node->set_fault('');
		$node->revive if $action eq 'crash';
	};
	while (my @some = splice @lines, 0, $step)
	{
		$broker->produce('events', @some);
		sleep 0.05;
		$look->();
	}

	if ($fault)
	{
		until ($found || time > $deadline)
		{
			$look->();
			sleep 0.02;
		}
		$fired{"$point $action"}++ if $found;
		diag("$fault has not fired") unless $found;
		$node->set_fault('');
	}
	else
	{
		sleep rand 0.3;
		if ($action eq 'kill9') { $node->kill9_worker('postgres') }
		elsif ($action eq 'crash') { $node->crash_server }
		$fired{"random $action"}++;
	}
	$node->wait_ready or BAIL_OUT('the server does not come back');
}

make($_) for grep { $_ ne 'half_way' } sort keys %view;
sql("SELECT weir.wait_for('$_')") for sort keys %made;

diag(sprintf 'prepared in %.0f s', time - $begun);
my $started = time;
my (%wrong, $compared);
my $often = $total < 100_000;
my @names = sort keys %view;
for my $chunk (0 .. $chunks - 1)
{
	make('half_way') if $chunk == int($chunks / 2);
	live_through($chunk, $events[$chunk]);
	# all at the small size; at the large one a few, which take seconds each
	my @these = $often ? sort keys %made : $chunk % 12 == 11 ? ($names[ rand @names ]) : ();
	for my $name (grep { $made{$_} } @these)
	{
		my $result = compare($name);
		$compared++;
		next if $result eq 'exact';
		$wrong{"$name after @{$events[$chunk]} in chunk $chunk"} = $result;
	}
}
diag("$_: $wrong{$_}") for sort keys %wrong;
is(scalar(keys %wrong), 0, "after each event a view is its query over its prefix ($compared comparisons)");
diag(sprintf '%d events in %.0f s', scalar @events, time - $started);

for my $point (@points)
{
	my @fired = grep { $fired{"$point $_"} } @actions;
	is("@fired", "@actions", "$point: each fault fired");
}
cmp_ok($fired{'random kill9'} + $fired{'random crash'}, '>=', 6, 'random deaths');

$started = time;
for my $name (@names)
{
	my $error = '';
	# a stall that an injected error left behind passes by itself
	for (1 .. 60)
	{
		$error = $node->error_of("SELECT weir.wait_for('$name', '120 s')");
		last if $error eq '' || $error =~ /^57014/;
		sleep 0.5;
	}
	is($error, '', "$name catches up");
	is(sql("SELECT sum(position::bigint) FROM weir.partitions WHERE view = '$name'::regclass"),
		$total, "$name has seen all");
	is(compare($name), 'exact', "$name is exact");
	cmp_ok(sql("SELECT count(*) FROM $name"), '>', 0, "$name has rows");
}
diag(sprintf 'final comparison in %.0f s', time - $started);

# What is in the topic is what we believe: read by librdkafka alone.
{
	my $file = "${PostgreSQL::Test::Utils::tmp_check}/consumed";
	system_or_bail('sh', '-c', sprintf "'%s' --bootstrap=%s --topic=events --consume --timeout=120 > '%s'",
		$broker->tool('weir_produce'), $broker->bootstrap, $file);
	is(sql("CREATE TABLE consumed (part int, off bigint, ts text, key text, value text);
		COPY consumed FROM '$file';
		SELECT count(*) FROM (SELECT part, off, value FROM consumed) c FULL JOIN raw USING (part, off)
		WHERE c.value IS DISTINCT FROM raw.value"), '0', 'the topic holds these messages');
	unlink $file;
}

# A rebuild is the same once more, and so is a view made now.
sql("SELECT weir.rebuild('by_minute')");
sql("SELECT weir.wait_for('by_minute', '300 s')");
is(compare('by_minute'), 'exact', 'a rebuild is exact');

my $log = slurp_file($node->logfile);
unlike($log, qr/PANIC|TRAP:|signal 11|signal 6/, 'nobody crashed but on demand');
$node->stop;
diag(sprintf 'all in %.0f s', time - $begun);
done_testing;
