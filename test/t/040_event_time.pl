# Event time, one feature after the other, exactly: which windows close when, what
# a late row does to them, and what the changelog says of it.
#
# What must hold for any order of any rows is 041_event_time_random.pl's.  Here
# the rows are few and the answers are written out: they follow from the contract
# by hand.  Views are also compared with their query over a copy of the rows.
#
# Sections have sources of their own and go on where another has failed; those
# named on the command line run alone.
use strict;
use warnings;

use File::Spec;
use IPC::Run ();
use Test::More;
use Time::HiRes qw(sleep time);
use WeirBroker;
use PostgreSQL::Test::Utils;
use WeirNode;
use WeirOracle;
use WeirTime;

my $broker = WeirBroker->new;
my $node = WeirNode->start_new('main', conf => "weir.max_workers = 12\nmax_worker_processes = 24\n");
create_kafka($node, $broker);
my $oracle = WeirOracle->new($node, timeout => '20 s');
my $time = WeirTime->new($node, broker => $broker);

sub sql { return $node->safe_psql('postgres', @_) }
sub error_of { return $node->error_of(@_) }
sub lines { return join "\n", @_ }

# view(name, Q, options): over the heap, the same query is the truth
sub view
{
	my ($name, $query, $with, %param) = @_;
	$time->view($name, $query, $with);
	$oracle->know($name, defined $param{truth} ? $param{truth} : $query =~ s/\bFROM (\w+)/FROM $1_heap/r) unless $param{no_truth};
	return;
}

# section(name, sources, code): what it has made is dropped
sub section
{
	my ($name, $sources, $code) = @_;
	$oracle->section($name, sub { $code->(); $time->drop(@$sources) });
	$oracle->forget($oracle->names);
	$time->right_clock;
	return;
}

# step(what, source, rows, view => expected news, '=view' => its rows, ...)
sub step
{
	my ($what, $source, $rows, @expected) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$time->give($source, @$rows) if $source;
	while (my ($view, $lines) = splice @expected, 0, 2)
	{
		my $rows_of = $view =~ s/^=//;
		is($rows_of ? $time->rows($view) : $time->news($view), lines(@$lines), "$what: " . ($rows_of ? '' : 'news of ') . $view);
	}
	return;
}

# Views wait for time: seconds pass that no source tells of.
sub in_time
{
	my ($sql, $expected, $what, $seconds) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return ok($node->wait_until($sql, $expected, $seconds || 15), $what);
}

my $tumble = q{SELECT k, weir.tumble(ts, '1 minute') AS win, count(*) AS c, sum(n) AS s FROM %s GROUP BY k, win};

# ------------------------------------------------------------- closing

# The life of a window over each kind of source, in every mode at once.
for my $kind (qw(topic stream table))
{
	my $s = "life_$kind";
	section "life over a $kind", [$s], sub {
		$time->source($kind, $s);
		my $q = sprintf $tumble, $s;
		my $options = "weir.watermark = '5 seconds', weir.allowed_lateness = '1 hour'";
		view("all_$kind", $q, "$options, weir.changelog = 'all'");
		view("fin_$kind", $q, $options);
		view("off_$kind", $q, "$options, weir.changelog = 'off'");
		view("last_$kind", $q, "$options, weir.emit = 'final'", no_truth => 1);
		my ($all, $fin, $off, $last) = map { "${_}_$kind" } qw(all fin off last);
		$time->settle($s);
		is($time->watermark($fin), 'none', 'no row, no watermark');

		step('the first row', $s, [ [ 'a', '12:00:10', 1 ] ],
			$all => ['+1 update a 12:00:00-12:01:00 1 1'], $fin => [], "=$last" => []);
		is($time->watermark($fin), '12:00:05', 'the watermark is behind it');
		step('the last microsecond', $s, [ [ 'a', '12:00:59.999999', 2 ] ],
			$all => [ '-1 update a 12:00:00-12:01:00 1 1', '+1 update a 12:00:00-12:01:00 2 3' ], $fin => [], "=$last" => []);
		step('a microsecond too early to close it', $s, [ [ 'b', '12:01:04.999999', 4 ] ],
			$all => ['+1 update b 12:01:00-12:02:00 1 4'], $fin => [], "=$last" => []);
		is($time->watermark($fin), '12:00:59.999999', 'the watermark, to the microsecond');
		is(sql("SELECT weir.is_closed('$fin', win) FROM $fin WHERE k = 'a'"), 'f', 'weir.is_closed: not yet');

		step('the edge', $s, [ [ 'b', '12:01:05', 8 ] ],
			$all => [ '-1 update b 12:01:00-12:02:00 1 4', '+1 update b 12:01:00-12:02:00 2 12' ],
			$fin => ['+1 final a 12:00:00-12:01:00 2 3'], "=$last" => ['a 12:00:00-12:01:00 2 3']);
		is(sql("SELECT weir_watermark FROM ${fin}_changes"), sql("SELECT weir.watermark('$fin')"), 'the row in the changelog says so');
		is(sql("SELECT (SELECT xmin FROM ${fin}_changes) = (SELECT xmin FROM $fin WHERE k = 'b')"), 't',
			'the window closed in the commit of the row that moved the watermark');
		is(sql("SELECT string_agg(k || weir.is_closed('$fin', win), ' ' ORDER BY k) FROM $fin"), 'atrue bfalse', 'weir.is_closed');

		# the first moment of the next window is not late, the last of this one is
		step('late by a microsecond', $s, [ [ 'a', '12:00:59.999999', 16 ] ],
			$all => [ '-1 late a 12:00:00-12:01:00 2 3', '+1 late a 12:00:00-12:01:00 3 19' ],
			$fin => [ '-1 late a 12:00:00-12:01:00 2 3', '+1 late a 12:00:00-12:01:00 3 19' ], "=$last" => ['a 12:00:00-12:01:00 3 19']);
		is($time->late($fin), '1 0 0', 'counted');
		step('not late', $s, [ [ 'a', '12:01:00', 32 ] ],
			$all => ['+1 update a 12:01:00-12:02:00 1 32'], $fin => [], "=$last" => ['a 12:00:00-12:01:00 3 19']);
		step('a new group in a closed window', $s, [ [ 'c', '12:00:30', 64 ] ],
			$all => ['+1 late c 12:00:00-12:01:00 1 64'], $fin => ['+1 late c 12:00:00-12:01:00 1 64'],
			"=$last" => [ 'a 12:00:00-12:01:00 3 19', 'c 12:00:00-12:01:00 1 64' ]);

		# an old maximum does not pull the watermark back
		is($time->watermark($fin), '12:01:00', 'late rows do not move the watermark');
		$oracle->same('all rows so far', $all, $fin, $off);

		# frozen: allowed lateness after the end
		step('an hour later, less a microsecond', $s, [ [ 'b', '13:01:04.999999', 1 ] ],
			$fin => [ '+1 final a 12:01:00-12:02:00 1 32', '+1 final b 12:01:00-12:02:00 2 12' ]);
		step('still revised', $s, [ [ 'a', '12:00:00', 128 ] ],
			$fin => [ '-1 late a 12:00:00-12:01:00 3 19', '+1 late a 12:00:00-12:01:00 4 147' ]);
		$oracle->same('all rows so far', $all, $fin, $off);
		step('an hour later', $s, [ [ 'b', '13:01:05', 1 ] ], $fin => []);
		$time->give($s, [ 'a', '12:00:59.999999', 256 ], [ 'd', '12:00:00', 512 ]);
		is($time->news($fin), '', 'beyond the allowed lateness nothing changes');
		is($time->late_rows($fin), lines('a 256: 12:00:00-12:01:00 13:01:00 01:00:00', 'd 512: 12:00:00-12:01:00 13:01:00 01:00:00'),
			'but weir.late_rows has it');
		is($time->late($fin), '3 2 0', 'and it is counted');
		step('the neighbour is revised', $s, [ [ 'a', '12:01:00', 256 ] ],
			$fin => [ '-1 late a 12:01:00-12:02:00 1 32', '+1 late a 12:01:00-12:02:00 2 288' ]);
		is(sql("SELECT rows_in = (SELECT sum(c) FROM $fin) + rows_filtered + dead_letters + late_side + late_dropped FROM weir.stat_views
			WHERE view = '$fin'::regclass"), 't', 'all rows are accounted for');

		is(error_of("TABLE ${off}_changes"), qq{42P01: relation "${off}_changes" does not exist}, "with 'off' there is no changelog");
		$time->sound($all, 'all', mode => 'all');
		$time->sound($fin, 'final', mode => 'final');
		$time->sound($last, "emit = 'final'", mode => 'final', emit => 'final');
	};
}

# Kept away from the others: what a commit nets out.
section 'netting', ['net'], sub {
	$time->source('table', 'net');
	sql('ALTER TABLE net ADD PRIMARY KEY (id)');
	view('net_v', sprintf($tumble, 'net'), "weir.watermark = '5 seconds', weir.changelog = 'all', weir.allowed_lateness = '1 hour'");
	step('two groups', 'net', [ [ 'a', '12:00:10', 1 ], [ 'b', '12:00:10', 1 ] ],
		net_v => [ '+1 update a 12:00:00-12:01:00 1 1', '+1 update b 12:00:00-12:01:00 1 1' ]);
	sql(q{UPDATE net SET n = n; BEGIN; INSERT INTO net VALUES (1000, 'a', '2026-05-04 12:00Z', 7); DELETE FROM net WHERE id = 1000; COMMIT;
		BEGIN; UPDATE net SET n = n + 1; UPDATE net SET n = n - 1; COMMIT; BEGIN; UPDATE net SET k = CASE k WHEN 'a' THEN 'b' ELSE 'a' END; COMMIT});
	$time->settle('net');
	is($time->news('net_v'), '', 'what is as before is no news');
	sql(q{BEGIN; UPDATE net SET n = 5 WHERE k = 'a'; UPDATE net SET n = 6 WHERE k = 'a'; COMMIT});
	$time->settle('net');
	is($time->news('net_v'), lines('-1 update a 12:00:00-12:01:00 1 1', '+1 update a 12:00:00-12:01:00 1 6'), 'many changes of a commit are one');
	sql(q{DELETE FROM net WHERE k = 'a'});
	$time->settle('net');
	is($time->news('net_v'), '-1 delete a 12:00:00-12:01:00 1 6', 'the last row goes');
	$time->sound('net_v', 'netted', mode => 'all');
};

# ------------------------------------------------------------- changes of a table

section 'updates and deletes', ['chg'], sub {
	$time->source('table', 'chg');
	sql('ALTER TABLE chg ADD PRIMARY KEY (id)');
	my $options = "weir.watermark = '5 seconds', weir.allowed_lateness = '1 hour'";
	view('chg_all', sprintf($tumble, 'chg'), "$options, weir.changelog = 'all'");
	view('chg_fin', sprintf($tumble, 'chg'), $options);
	view('chg_side', sprintf($tumble, 'chg'), "weir.watermark = '5 seconds', weir.late = 'side_output'", no_truth => 1);
	is(sql("SELECT watermark IS NULL FROM weir.views WHERE view = 'chg_fin'::regclass"), 't', 'no watermark yet');

	my $change = sub {
		my ($what, $sql, @expected) = @_;
		sql($sql);
		$time->settle('chg');
		step($what, '', [], @expected);
		$oracle->same("$what: exact");
	};
	$time->give('chg', [ 'a', '12:00:10', 1 ], [ 'a', '12:00:20', 2 ], [ 'b', '12:00:30', 4 ], [ 'x', '12:01:04', 0 ]);
	$time->news('chg_all');
	$change->('UPDATE in an open window', q{UPDATE chg SET n = 3 WHERE n = 1}, chg_fin => [],
		chg_all => [ '-1 update a 12:00:00-12:01:00 2 3', '+1 update a 12:00:00-12:01:00 2 5' ]);
	$change->('DELETE in an open window', q{DELETE FROM chg WHERE n = 3}, chg_fin => [],
		chg_all => [ '-1 update a 12:00:00-12:01:00 2 5', '+1 update a 12:00:00-12:01:00 1 2' ]);
	$time->give('chg', [ 'x', '12:02:05', 0 ]);
	is($time->news('chg_fin'), lines('+1 final a 12:00:00-12:01:00 1 2', '+1 final b 12:00:00-12:01:00 1 4', '+1 final x 12:01:00-12:02:00 1 0'), 'closed');
	$time->news('chg_all');
	$change->('UPDATE in a closed window', q{UPDATE chg SET n = 8 WHERE k = 'a'},
		map { $_ => [ '-1 update a 12:00:00-12:01:00 1 2', '+1 update a 12:00:00-12:01:00 1 8' ] } qw(chg_fin chg_all));
	$change->('UPDATE of the key', q{UPDATE chg SET k = 'b' WHERE k = 'a'},
		map { $_ => [ '-1 update a 12:00:00-12:01:00 1 8', '-1 update b 12:00:00-12:01:00 1 4', '+1 update b 12:00:00-12:01:00 2 12' ] } qw(chg_fin chg_all));
	$change->('UPDATE of the time, to another closed window', q{UPDATE chg SET ts = ts + interval '1 minute' WHERE n = 8},
		map { $_ => [ '-1 update b 12:00:00-12:01:00 2 12', '+1 update b 12:00:00-12:01:00 1 4', '+1 update b 12:01:00-12:02:00 1 8' ] } qw(chg_fin chg_all));
	$change->('UPDATE of the time, to an open window', q{UPDATE chg SET ts = '2026-05-04 12:02:00Z' WHERE n = 8},
		chg_fin => ['-1 update b 12:01:00-12:02:00 1 8'],
		chg_all => [ '-1 update b 12:01:00-12:02:00 1 8', '+1 update b 12:02:00-12:03:00 1 8' ]);
	$change->('and back', q{UPDATE chg SET ts = '2026-05-04 12:01:59.999999Z' WHERE n = 8},
		chg_fin => ['+1 update b 12:01:00-12:02:00 1 8'],
		chg_all => [ '+1 update b 12:01:00-12:02:00 1 8', '-1 delete b 12:02:00-12:03:00 1 8' ]);
	$change->('a late INSERT', q{INSERT INTO chg VALUES (100, 'b', '2026-05-04 12:01:30Z', 1)},
		map { $_ => [ '-1 late b 12:01:00-12:02:00 1 8', '+1 late b 12:01:00-12:02:00 2 9' ] } qw(chg_fin chg_all));
	$change->('DELETE in a closed window', q{DELETE FROM chg WHERE id = 100},
		map { $_ => [ '-1 delete b 12:01:00-12:02:00 2 9', '+1 delete b 12:01:00-12:02:00 1 8' ] } qw(chg_fin chg_all));
	$change->('DELETE of the last row of a closed window', q{DELETE FROM chg WHERE n = 8},
		map { $_ => ['-1 delete b 12:01:00-12:02:00 1 8'] } qw(chg_fin chg_all));
	is($time->watermark('chg_fin'), '12:02:00', 'the watermark is where it was');
	$time->give('chg', [ 'x', '12:02:59', 16 ]);
	$change->('DELETE of the row that had moved the watermark', q{DELETE FROM chg WHERE n = 16}, chg_fin => []);
	is($time->watermark('chg_fin'), '12:02:54', 'and does not go back');
	$time->news('chg_all');
	$change->('TRUNCATE', 'TRUNCATE chg', chg_fin => [ '-1 delete b 12:00:00-12:01:00 1 4', '-1 delete x 12:01:00-12:02:00 1 0' ]);
	$time->sound('chg_all', 'after all that', mode => 'all');
	$time->sound('chg_fin', 'after all that', mode => 'final');
};

# ------------------------------------------------------------- several windows a row

section 'hop', ['hops'], sub {
	$time->source('stream', 'hops');
	my $q = q{SELECT k, weir.hop(ts, '1 minute', '2 minutes') AS win, count(*) AS c, sum(n) AS s FROM hops GROUP BY k, win};
	my $options = "weir.watermark = '5 seconds'";
	my $often = "weir.publish_interval = '10 ms'";
	view('hop_fin', $q, "$options, $often, weir.allowed_lateness = '2 minutes'");
	view('hop_side', $q, "$options, $often, weir.late = 'side_output'", no_truth => 1);
	view('hop_drop', $q, "$options, weir.late = 'drop', weir.emit = 'final', weir.changelog = 'all'", no_truth => 1);
	my $each = sub { my ($lines) = @_; return map { $_ => $lines } qw(hop_fin hop_side hop_drop) };

	step('in two windows', 'hops', [ [ 'a', '12:00:30', 1 ] ], $each->([]));
	step('a microsecond', 'hops', [ [ 'b', '12:01:04.999999', 2 ] ], $each->([]));
	step('the first of them closes', 'hops', [ [ 'b', '12:01:05', 2 ] ], $each->(['+1 final a 11:59:00-12:01:00 1 1']));
	step('a row that is late for one of its windows', 'hops', [ [ 'a', '12:00:40', 4 ] ],
		hop_fin => [ '-1 late a 11:59:00-12:01:00 1 1', '+1 late a 11:59:00-12:01:00 2 5' ], hop_side => [], hop_drop => []);
	is($time->late('hop_fin'), '1 0 0', 'retract counts it for that window');
	is($time->late('hop_side'), '0 1 0', 'side_output');
	is($time->late_rows('hop_side'), 'a 4: 11:59:00-12:01:00 12:01:00 00:00:00', 'side_output says which window it missed');
	is($time->late('hop_drop'), '0 0 1', 'drop');
	is($time->late_rows('hop_drop'), '', 'drop keeps no row');
	step('the second one closes', 'hops', [ [ 'b', '12:02:05', 8 ] ],
		$each->([ '+1 final a 12:00:00-12:02:00 2 5', '+1 final b 12:00:00-12:02:00 2 4' ]));
	step('late for both', 'hops', [ [ 'a', '12:00:00', 16 ] ],
		hop_fin => [ '-1 late a 11:59:00-12:01:00 2 5', '+1 late a 11:59:00-12:01:00 3 21',
			'-1 late a 12:00:00-12:02:00 2 5', '+1 late a 12:00:00-12:02:00 3 21' ], hop_side => [], hop_drop => []);
	is(join(', ', map { $time->late($_) } qw(hop_fin hop_side hop_drop)), '3 0 0, 0 3 0, 0 0 3', 'counted for each window');
	is($time->late_rows('hop_side'), lines('a 4: 11:59:00-12:01:00 12:01:00 00:00:00',
		'a 16: 11:59:00-12:01:00 12:00:00-12:02:00 12:02:00 00:00:00'), 'one entry a row');
	$oracle->same('retract loses nothing', 'hop_fin');
	is($time->rows('hop_side'), lines('a 11:59:00-12:01:00 1 1', 'a 12:00:00-12:02:00 2 5', 'b 12:00:00-12:02:00 2 4',
		'b 12:01:00-12:03:00 3 12', 'b 12:02:00-12:04:00 1 8'), 'side_output: the others only');

	# of its two windows the first is beyond the allowed lateness
	step('four minutes later', 'hops', [ [ 'x', '12:03:05', 0 ] ],
		$each->(['+1 final b 12:01:00-12:03:00 3 12']));
	step('half of it is accepted', 'hops', [ [ 'a', '12:00:30', 32 ] ],
		hop_fin => [ '-1 late a 12:00:00-12:02:00 3 21', '+1 late a 12:00:00-12:02:00 4 53' ], hop_side => [], hop_drop => []);
	is($time->late_rows('hop_fin'), 'a 32: 11:59:00-12:01:00 12:03:00 00:02:00', 'and half of it is not');
	is($time->late('hop_fin'), '4 1 0', 'counted');
	$time->sound('hop_fin', 'hop', mode => 'final');
	$time->sound('hop_side', 'hop', mode => 'final');
	$time->sound('hop_drop', 'hop', mode => 'all', emit => 'final');
	is(sql('SELECT string_agg(DISTINCT late_by::text, $$,$$) FROM weir.late_rows WHERE view = $$hop_fin$$::regclass'), '00:02:00', 'late_by');
};

# Sizes that are no multiple of the slide, and less than it: gaps between windows
section 'uneven hops', ['uneven'], sub {
	$time->source('stream', 'uneven');
	for ([ 'odd', '2 minutes', '5 minutes' ], [ 'gaps', '1 minute', '20 seconds' ], [ 'turned', '50 seconds', '3 minutes' ])
	{
		my ($name, $slide, $size) = @$_;
		view("uneven_$name", qq{SELECT k, weir.hop(ts, '$slide', '$size') AS win, count(*) AS c, sum(n) AS s FROM uneven GROUP BY k, win},
			"weir.publish_interval = '10 ms', weir.changelog = 'all'");
	}
	$time->give('uneven', map { [ 'a', $_, 1 ] } qw(12:00:00 12:00:19.999999 12:00:20 12:00:59.999999 12:01:00 12:03:00 12:04:59.999999 12:05:00));
	$oracle->same('at the edges');
	$time->give('uneven', map { [ 'b', sprintf('12:%02d:%02d', $_ / 60, $_ % 60), $_ ] } map { 7 * $_ } 1 .. 100);
	$oracle->same('all along');
	$time->give('uneven', map { [ 'a', sprintf('12:%02d:%02d', $_ / 60, $_ % 60), $_ ] } map { 11 * $_ } 1 .. 60);
	$oracle->same('late');
	$time->sound("uneven_$_", $_, mode => 'all') for qw(odd gaps turned);
	cmp_ok(sql(q{SELECT count(*) FROM uneven_gaps_changes WHERE weir_reason = 'late'}), '>', 0, 'some were late');
};

section 'cumulate', ['cum'], sub {
	$time->source('stream', 'cum');
	my $q = q{SELECT k, weir.cumulate(ts, '1 minute', '3 minutes') AS win, count(*) AS c, sum(n) AS s FROM cum GROUP BY k, win};
	view('cum_fin', $q, "weir.publish_interval = '10 ms'");
	view('cum_side', $q, "weir.late = 'side_output', weir.emit = 'final'", no_truth => 1);
	step('in three windows', 'cum', [ [ 'a', '12:00:30', 1 ] ], cum_fin => []);
	is($time->rows('cum_fin'), lines('a 12:00:00-12:01:00 1 1', 'a 12:00:00-12:02:00 1 1', 'a 12:00:00-12:03:00 1 1'), 'the open ones');
	step('a microsecond', 'cum', [ [ 'b', '12:01:04.999999', 2 ] ], cum_fin => [], cum_side => []);
	step('the first closes', 'cum', [ [ 'b', '12:01:05', 4 ] ], map { $_ => ['+1 final a 12:00:00-12:01:00 1 1'] } qw(cum_fin cum_side));
	step('late for the first', 'cum', [ [ 'a', '12:00:00', 8 ] ],
		cum_fin => [ '-1 late a 12:00:00-12:01:00 1 1', '+1 late a 12:00:00-12:01:00 2 9' ], cum_side => []);
	is($time->late_rows('cum_side'), 'a 8: 12:00:00-12:01:00 12:01:00 00:00:00', 'missed');
	step('the second and third close', 'cum', [ [ 'b', '12:03:05', 16 ] ],
		(map { $_ => [ '+1 final a 12:00:00-12:02:00 2 9', '+1 final a 12:00:00-12:03:00 2 9',
			'+1 final b 12:00:00-12:02:00 2 6', '+1 final b 12:00:00-12:03:00 2 6' ] } qw(cum_fin cum_side)),
		'=cum_side' => [ 'a 12:00:00-12:01:00 1 1', 'a 12:00:00-12:02:00 2 9', 'a 12:00:00-12:03:00 2 9',
			'b 12:00:00-12:02:00 2 6', 'b 12:00:00-12:03:00 2 6' ]);
	step('a new group, late for all', 'cum', [ [ 'c', '12:01:00', 32 ] ],
		cum_fin => [ '+1 late c 12:00:00-12:02:00 1 32', '+1 late c 12:00:00-12:03:00 1 32' ], cum_side => []);
	is($time->late('cum_fin'), '3 0 0', 'retract counts pairs');
	is($time->late('cum_side'), '0 3 0', 'side_output, too');
	$oracle->same('retract loses nothing', 'cum_fin');
	$time->sound($_, 'cumulate', mode => 'final', emit => $_ eq 'cum_side' ? 'final' : undef) for qw(cum_fin cum_side);
};

# ------------------------------------------------------------- sessions

for my $kind (qw(topic table))
{
	my $s = "visits_$kind";
	section "sessions over a $kind", [$s], sub {
		$time->source($kind, $s);
		my $q = qq{SELECT k, weir.session(ts, '1 minute') AS win, count(*) AS c, sum(n) AS s FROM $s GROUP BY k, win};
		my $truth = WeirTime::sessions("${s}_heap", 'k', '1 minute', 'count(*) AS c, sum(n) AS s');
		my $options = "weir.watermark = '5 seconds', weir.allowed_lateness = '1 hour'";
		my ($all, $fin, $last) = map { "${_}_$s" } qw(all fin last);
		view($all, $q, "$options, weir.changelog = 'all'", truth => $truth);
		view($fin, $q, $options, truth => $truth);
		view($last, $q, "$options, weir.emit = 'final'", no_truth => 1);
		my $signs = sub { return sql("SELECT string_agg(weir_diff::text, ' ' ORDER BY weir_seq) FROM ${fin}_changes WHERE weir_seq > $_[0]") };
		my $seen = sub { return sql("SELECT coalesce(max(weir_seq), 0) FROM ${fin}_changes") };
		# of a commit the -1 first, whatever their order
		my $order = 'weir_at, k, weir_diff, win';
		my $news = sub { my ($view, $what, @lines) = @_; is($time->news($view, $order), lines(@lines), "$what: news of $view") };

		$time->give($s, [ 'a', '12:00:00', 1 ]);
		$news->($all, 'one row', '+1 update a 12:00:00-12:01:00 1 1');
		$time->give($s, [ 'a', '12:00:59.999999', 2 ]);
		$news->($all, 'less than the gap', '-1 update a 12:00:00-12:01:00 1 1', '+1 update a 12:00:00-12:01:59.999999 2 3');
		$time->give($s, [ 'a', '12:01:59.999999', 4 ]);
		$news->($all, 'exactly the gap', '+1 update a 12:01:59.999999-12:02:59.999999 1 4');
		$time->give($s, [ 'b', '12:02:04.999998', 0 ]);
		$news->($fin, 'a microsecond');
		$time->give($s, [ 'b', '12:02:04.999999', 0 ]);
		$news->($fin, 'the edge', '+1 final a 12:00:00-12:01:59.999999 2 3');
		$time->give($s, [ 'b', '12:03:30', 0 ]);
		$news->($fin, 'the others', '+1 final a 12:01:59.999999-12:02:59.999999 1 4', '+1 final b 12:02:04.999998-12:03:04.999999 2 0');
		is(sql("SELECT count(*) FROM $last"), '3', 'closed ones only');
		my $b = 'b 12:02:04.999998-12:03:04.999999 2 0';
		$time->news($all);
		my $before = $seen->();
		$time->give($s, [ 'a', '12:01:30', 8 ]);
		$news->($_, 'a late row bridges two sessions', '-1 late a 12:00:00-12:01:59.999999 2 3', '-1 late a 12:01:59.999999-12:02:59.999999 1 4',
			'+1 late a 12:00:00-12:02:59.999999 4 15') for $fin, $all;
		is($signs->($before), '-1 -1 1', 'all -1 before the +1');
		is(sql("SELECT count(DISTINCT weir_at) FROM ${fin}_changes WHERE weir_seq > $before"), '1', 'in one commit');
		is($time->rows($last), lines('a 12:00:00-12:02:59.999999 4 15', $b), 'and the view of closed ones has the one');
		$oracle->same('merged', $all, $fin);

		# a late row may open a session again: it ends later than the watermark then
		$time->give($s, [ 'a', '12:02:40', 16 ]);
		$news->($fin, 'a closed session is open again', '-1 late a 12:00:00-12:02:59.999999 4 15');
		is($time->rows($last), $b, 'and is not final any more');
		$oracle->same('opened again', $all, $fin);
		$time->give($s, [ 'b', '12:03:45', 0 ]);
		$news->($fin, 'it closes once more', '+1 final a 12:00:00-12:03:40 5 31');
		is($time->rows($last), lines('a 12:00:00-12:03:40 5 31', $b), 'final');
		$time->give($s, [ 'c', '11:50:00', 1 ], [ 'c', '11:50:30', 2 ], [ 'c', '11:52:00', 4 ]);
		$news->($fin, 'a late session of its own', '+1 late c 11:50:00-11:51:30 2 3', '+1 late c 11:52:00-11:53:00 1 4') if $kind eq 'table';
		$oracle->same('late sessions', $all, $fin);
		# at the front
		$time->news($fin);
		$time->give($s, [ 'a', '11:59:30', 32 ]);
		$news->($fin, 'a session begins earlier', '-1 late a 12:00:00-12:03:40 5 31', '+1 late a 11:59:30-12:03:40 6 63');
		$oracle->same('begins earlier', $all, $fin);
		if ($kind eq 'table')
		{
			my $change = sub {
				my ($what, $sql, @lines) = @_;
				sql($sql);
				$time->settle($s);
				$news->($fin, $what, @lines);
				$oracle->same("$what: exact", $all, $fin);
			};
			$change->('a DELETE splits a session', "DELETE FROM $s WHERE n = 8", '-1 delete a 11:59:30-12:03:40 6 63',
				'+1 delete a 11:59:30-12:01:59.999999 3 35', '+1 delete a 12:01:59.999999-12:03:40 2 20');
			$change->('an UPDATE moves an end', "UPDATE $s SET ts = '2026-05-04 12:02:30Z' WHERE n = 16", '-1 update a 12:01:59.999999-12:03:40 2 20',
				'+1 update a 12:01:59.999999-12:03:30 2 20');
			$change->('an UPDATE bridges', "UPDATE $s SET ts = '2026-05-04 12:01:40Z' WHERE n = 32", '-1 update a 11:59:30-12:01:59.999999 3 35',
				'-1 update a 12:01:59.999999-12:03:30 2 20', '+1 update a 12:00:00-12:03:30 5 55');
			$change->('an UPDATE splits', "UPDATE $s SET ts = '2026-05-04 11:30:00Z' WHERE n = 32", '-1 update a 12:00:00-12:03:30 5 55',
				'+1 update a 11:30:00-11:31:00 1 32', '+1 update a 12:00:00-12:01:59.999999 2 3', '+1 update a 12:01:59.999999-12:03:30 2 20');
			$change->('a whole session goes', "DELETE FROM $s WHERE n = 32", '-1 delete a 11:30:00-11:31:00 1 32');
			$change->('the first row of a session goes', "DELETE FROM $s WHERE k = 'a' AND n = 1",
				'-1 delete a 12:00:00-12:01:59.999999 2 3', '+1 delete a 12:00:59.999999-12:01:59.999999 1 2');
			$change->('a whole session moves', "UPDATE $s SET ts = ts + interval '1 hour' WHERE k = 'c'",
				# which moves the watermark
				'+1 final b 12:03:30-12:04:45 2 0', '-1 update c 11:50:00-11:51:30 2 3', '-1 update c 11:52:00-11:53:00 1 4',
				'+1 final c 12:50:00-12:51:30 2 3');
		}

		# beyond the allowed lateness
		$time->give($s, [ 'b', '14:30:00', 0 ]);
		$time->news($fin);
		$time->give($s, [ 'f', '13:28:55', 1 ]);
		is($time->late_rows($fin), "f 1: 13:28:55-13:29:55 14:29:55 01:00:00", 'a session that ended an hour ago is not begun');
		$time->give($s, [ 'f', '13:28:55.000001', 2 ]);
		$news->($fin, 'a microsecond younger', '+1 late f 13:28:55.000001-13:29:55.000001 1 2');
		$time->give($s, [ 'a', '12:03:00', 1 ]);
		is(sql("SELECT count(*) FROM weir.late_rows WHERE view = '$fin'::regclass"), '2', 'nor is an old one revised');
		$news->($fin, 'too late');
		$time->sound($all, 'sessions', mode => 'all', kind => 'session');
		$time->sound($fin, 'sessions', mode => 'final', kind => 'session');
		$time->sound($last, 'sessions', mode => 'final', emit => 'final', kind => 'session');
	};
}

# Time leaps in the commit that revises: the window goes at once, and nothing waits for it
section 'revised and frozen in one commit', ['leap'], sub {
	my $seen = -s $node->logfile;
	$time->source('stream', 'leap');
	my %q = (
		tumbled => q{SELECT k, weir.tumble(ts, '1 minute') AS win, count(*) AS c, sum(n) AS s FROM leap GROUP BY k, win},
		hopped => q{SELECT k, weir.hop(ts, '30 seconds', '1 minute') AS win, count(*) AS c, sum(n) AS s FROM leap GROUP BY k, win},
		visited => q{SELECT k, weir.session(ts, '1 minute') AS win, count(*) AS c, sum(n) AS s FROM leap GROUP BY k, win});
	my $truth = WeirTime::sessions('leap_heap', 'k', '1 minute', 'count(*) AS c, sum(n) AS s');
	view($_, $q{$_}, "weir.allowed_lateness = '1 hour'", $_ eq 'visited' ? (truth => $truth) : ()) for sort keys %q;
	$time->give('leap', [ 'a', '12:00:00', 1 ], [ 'b', '12:03:00', 1 ]);
	$time->news($_) for sort keys %q;
	$time->give('leap', [ 'a', '12:00:30', 2 ], [ 'b', '14:00:00', 1 ]);
	is($time->news('tumbled'), lines('-1 late a 12:00:00-12:01:00 1 1', '+1 late a 12:00:00-12:01:00 2 3', '+1 final b 12:03:00-12:04:00 1 1'), 'revised');
	# moves time and makes no new group, which might take the place of the old one
	$time->give('leap', [ 'b', '14:00:20', 1 ]);
	$time->give('leap', [ 'b', '15:30:00', 1 ]);
	$time->give('leap', [ 'b', '17:30:00', 1 ]);
	is($time->news('tumbled'), lines('+1 final b 14:00:00-14:01:00 2 2', '+1 final b 15:30:00-15:31:00 1 1'), 'and time goes on');
	$oracle->same('after the leap', sort keys %q);
	is(sql(q{SELECT string_agg(groups_in_memory::text, ' ') FROM weir.stat_views WHERE view IN ('tumbled'::regclass, 'visited'::regclass)}), '1 1', 'what is frozen is gone');
	unlike(slurp_file($node->logfile, $seen), qr/ERROR/, 'and no worker had to begin again');
};

# Late for sessions without revision: what touches a closed one, whatever it would bridge
section 'sessions that are not revised', ['strict'], sub {
	$time->source('stream', 'strict');
	my $q = q{SELECT k, weir.session(ts, '1 minute') AS win, count(*) AS c, sum(n) AS s FROM strict GROUP BY k, win};
	view('strict_side', $q, "weir.late = 'side_output'", no_truth => 1);
	view('strict_drop', $q, "weir.late = 'drop', weir.emit = 'final'", no_truth => 1);
	$time->give('strict', [ 'a', '12:00:00', 1 ], [ 'a', '12:01:30', 2 ]);
	$time->give('strict', [ 'b', '12:01:05', 0 ]);
	is($time->news('strict_side'), '+1 final a 12:00:00-12:01:00 1 1', 'the first has closed, the second has not');
	$time->give('strict', [ 'a', '12:00:59.999999', 4 ]);
	is($time->news('strict_side'), '', 'a row that would bridge them is late');
	like($time->late_rows('strict_side'), qr/^a 4: \S+ 12:01:25 /, 'it missed the closed one');
	$time->give('strict', [ 'a', '12:01:00', 8 ]);
	is(sql(q{SELECT c FROM strict_side WHERE k = 'a' AND upper(win) > '2026-05-04 12:01Z'}), '2', 'one that touches the open one alone is not');
	is(join(', ', map { $time->late($_) } qw(strict_side strict_drop)), '0 1 0, 0 0 1', 'counted');
	$time->give('strict', [ 'b', '12:05:00', 0 ]);
	is($time->rows('strict_drop'), lines('a 12:00:00-12:01:00 1 1', 'a 12:01:00-12:02:30 2 10', 'b 12:01:05-12:02:05 1 0'), 'what is left');
	$time->sound($_, 'sessions', mode => 'final', emit => $_ eq 'strict_drop' ? 'final' : undef, kind => 'session') for qw(strict_side strict_drop);
};

# Rows of an open session may be taken back, and what is left may end before the
# watermark: it is closed then, and not revised any more.
section 'deletes in sessions that are not revised', ['torn'], sub {
	$time->source('table', 'torn');
	my $q = q{SELECT k, weir.session(ts, '1 minute') AS win, count(*) AS c, sum(n) AS s FROM torn GROUP BY k, win};
	view('torn_v', $q, "weir.watermark = '5 seconds', weir.late = 'side_output'", no_truth => 1);
	view('torn_all', $q, "weir.watermark = '5 seconds', weir.late = 'side_output', weir.changelog = 'all'", no_truth => 1);
	my $order = 'weir_at, k, weir_diff, win';
	$time->give('torn', map { [ 'a', sprintf('12:%02d:%02d', $_ / 2, $_ % 2 * 30), 1 << $_ ] } 0 .. 10);
	is($time->rows('torn_v'), 'a 12:00:00-12:06:00 11 2047', 'one session, open');
	$time->news('torn_all');
	sql(q{DELETE FROM torn WHERE n IN (16, 32)});
	$time->settle('torn');
	is($time->rows('torn_v'), lines('a 12:00:00-12:02:30 4 15', 'a 12:03:00-12:06:00 5 1984'), 'what is left of it in front has closed');
	is($time->news('torn_v', $order), '+1 delete a 12:00:00-12:02:30 4 15', 'which the changelog says');
	is($time->news('torn_all', $order), lines('-1 delete a 12:00:00-12:06:00 11 2047', '+1 delete a 12:00:00-12:02:30 4 15', '+1 update a 12:03:00-12:06:00 5 1984'), 'or all of it');
	sql(q{DELETE FROM torn WHERE n = 1; UPDATE torn SET k = 'b' WHERE n = 2});
	$time->settle('torn');
	is($time->rows('torn_v'), lines('a 12:00:00-12:02:30 4 15', 'a 12:03:00-12:06:00 5 1984'), 'and is not revised');
	is(sql(q{SELECT string_agg(concat_ws(' ', diff, "row"->>'k', "row"->>'n'), ', ' ORDER BY at, diff, "row"->>'n') FROM weir.late_rows WHERE view = 'torn_v'::regclass}),
		'-1 a 1, -1 a 2, 1 b 2', 'weir.late_rows says what was taken back, too');
	sql(q{DELETE FROM torn WHERE n = 1024; DELETE FROM torn WHERE n = 512});
	$time->settle('torn');
	is($time->rows('torn_v'), lines('a 12:00:00-12:02:30 4 15', 'a 12:03:00-12:05:00 3 448'), 'a session ends earlier');
	$time->news('torn_all');
	sql(q{DELETE FROM torn WHERE n = 256});
	$time->settle('torn');
	is($time->news('torn_v'), '+1 delete a 12:03:00-12:04:30 2 192', 'and has closed by that');
	is($time->news('torn_all', $order), lines('-1 delete a 12:03:00-12:05:00 3 448', '+1 delete a 12:03:00-12:04:30 2 192'), 'which is no end like others');
	$time->give('torn', [ 'z', '12:20:00', 0 ]);
	sql(q{DELETE FROM torn});
	$time->settle('torn');
	is($time->rows('torn_v'), lines('a 12:00:00-12:02:30 4 15', 'a 12:03:00-12:04:30 2 192'), 'frozen');
	$time->news($_) for qw(torn_v torn_all);
	$time->give('torn', map { [ 'c', sprintf('12:%02d:%02d', 20 + $_ / 2, $_ % 2 * 30), 1 << $_ ] } 0 .. 10);
	sql(q{DELETE FROM torn WHERE n IN (4, 64)});
	$time->settle('torn');
	is($time->rows('torn_all'), lines($time->rows('torn_v')), 'torn in three');
	is($time->news('torn_v', $order), lines('+1 delete c 12:20:00-12:21:30 2 3', '+1 delete c 12:21:30-12:23:30 3 56'), 'two of which have closed');
	# looked at while it was longer, it closes when it ends now
	$time->give('torn', map { [ 'd', $_, 1 ] } '12:40:00', '12:40:30');
	$time->give('torn', map { [ 'd', $_, 2 ] } '12:41:00', '12:41:30');
	sql(q{DELETE FROM torn WHERE k = 'd' AND n = 2});
	$time->settle('torn');
	$time->news($_) for qw(torn_v torn_all);
	$time->give('torn', [ 'z', '12:41:34.999999', 0 ]);
	is($time->news('torn_v'), '', 'a shrunk session is still open');
	$time->give('torn', [ 'z', '12:41:35', 0 ]);
	is($time->news('torn_v'), '+1 final d 12:40:00-12:41:30 2 2', 'and closes at its new end');
	$time->give('torn', [ 'd', '12:45:00', 1 ], [ 'd', '12:45:59', 2 ]);
	sql(q{DELETE FROM torn WHERE k = 'd' AND n = 2; DELETE FROM torn WHERE k = 'd' AND lower(ts::text) LIKE '%12:45%'});
	$time->give('torn', [ 'z', '13:00:00', 0 ]);
	is(sql(q{SELECT count(*) FROM torn_v WHERE k = 'd'}), '1', 'one that has shrunk to nothing is gone');
	$time->sound($_->[0], 'deletes', mode => $_->[1], kind => 'session') for [ 'torn_v', 'final' ], [ 'torn_all', 'all' ];
};

# ------------------------------------------------------------- late policies

section 'late policies', ['tardy'], sub {
	$time->source('topic', 'tardy');
	my $q = q{SELECT k, weir.tumble(ts, '1 minute') AS win, count(*) AS c, sum(n) AS s FROM tardy WHERE n >= 0 GROUP BY k, win};
	view('tardy_retract', $q, "weir.allowed_lateness = '0 seconds'", no_truth => 1);
	view("tardy_$_", $q, "weir.late = '$_'", no_truth => 1) for qw(side_output drop);
	my @views = qw(tardy_retract tardy_side_output tardy_drop);
	$time->give('tardy', [ 'a', '12:00:10', 1 ]);
	$time->give('tardy', [ 'b', '12:01:05', 2 ]);
	is($time->news($_), '+1 final a 12:00:00-12:01:00 1 1', "closed: $_") for @views;
	$time->give('tardy', [ 'a', '12:00:59.999999', 4 ]);
	$time->give('tardy', [ 'c', '11:00:00', -1 ]);
	$time->give('tardy', [ 'c', '11:00:00', 8 ]);
	$time->give('tardy', [ 'c', 'infinity', 8 ]);
	is($time->news($_), '', "no revision: $_") for @views;
	is(join(', ', map { $time->late($_) } @views), '0 2 0, 0 2 0, 0 0 2', 'counted');
	my $late = lines('a 4: 12:00:00-12:01:00 12:01:00 00:00:00', 'c 8: 11:00:00-11:01:00 12:01:00 01:00:00');
	is($time->late_rows('tardy_side_output'), $late, 'side_output: its rows');
	is($time->late_rows('tardy_retract'), $late, 'retract for no time: the same');
	is($time->late_rows('tardy_drop'), '', 'drop: none');
	is(sql("SELECT string_agg(rows_in || ' ' || rows_filtered || ' ' || dead_letters, ',') FROM weir.stat_views WHERE view::text LIKE 'tardy%'"),
		'6 1 1,6 1 1,6 1 1', 'the books: in, filtered, dead letters');
	is(sql(qq{SELECT rows_in - rows_filtered - dead_letters - late_side - late_dropped FROM weir.stat_views WHERE view = 'tardy_drop'::regclass}),
		sql('SELECT sum(c) FROM tardy_drop'), 'and the rest was applied');
	is(sql(q{SELECT string_agg(key, ',' ORDER BY key) FROM (SELECT DISTINCT jsonb_object_keys("row") AS key FROM weir.late_rows WHERE view = 'tardy_side_output'::regclass) x})
		=~ /\bk\b.*\bn\b.*\bts\b/, 1, 'a late row has the columns that the view reads');
	sql('CREATE ROLE stranger');
	is(sql('SET ROLE stranger; SELECT count(*) FROM weir.late_rows'), '0', 'late rows are for those who may read the view');

	# options that make no sense
	like(error_of(sprintf "CREATE TABLE bad WITH (weir.continuous, %s) AS $q", $_->[0]), qr/^$_->[1]/, "refused: $_->[0]")
	  for [ "weir.emit = 'final', weir.watermark = 'none'", '22023' ], [ "weir.late = 'ignore'", '22023' ],
		[ "weir.allowed_lateness = '-1 s'", '22023' ], [ "weir.watermark = 'p100'", '22023' ], [ "weir.watermark = '-5 s'", '22023' ],
		[ "weir.changelog = 'some'", '22023' ], [ "weir.emit = 'sometimes'", '22023' ];
	like(error_of(q{CREATE TABLE bad WITH (weir.continuous, weir.emit = 'final') AS SELECT k, count(*) AS c FROM tardy GROUP BY k}), qr/^22023/,
		"emit = 'final' without a window");
	like(error_of(q{CREATE TABLE bad WITH (weir.continuous, weir.watermark = '5 s') AS
		SELECT k, lower(weir.tumble(ts, '1 minute')) AS l, count(*) AS c FROM tardy GROUP BY k, weir.tumble(ts, '1 minute')}), qr/^22023/, 'a watermark needs the window');
	like(error_of(q{CREATE TABLE bad WITH (weir.continuous) AS
		SELECT k, lower(win) AS l, count(*) AS c FROM tardy, weir.hop(ts, '1 minute', '2 minutes') AS win GROUP BY k, win}), qr/^0A000/, 'so does hop');
	like(error_of(q{SELECT weir.session(now(), '1 minute')}), qr/^0A000/, 'sessions are for continuous views');
};

# ------------------------------------------------------------- partitions

section 'idle partitions', ['idle'], sub {
	$time->source('topic', 'idle', partitions => 3);
	view('idle_v', sprintf($tumble, 'idle'), "weir.watermark = '5 seconds', weir.idle_timeout = '30 seconds', weir.changelog = 'all'");
	my $state = sub {
		return sql(q{SELECT string_agg(partition || ' ' || CASE WHEN idle THEN 'idle' ELSE 'awake' END || coalesce(' ' || (watermark AT TIME ZONE 'UTC')::time, ''),
			', ' ORDER BY partition) FROM weir.partitions WHERE view = 'idle_v'::regclass});
	};
	my $w = q{SELECT (weir.watermark('idle_v') AT TIME ZONE 'UTC')::time};
	$time->give('idle', [ 'a', '12:00:10', 1, 0 ]);
	$time->give('idle', [ 'a', '12:00:20', 1, 1 ]);
	is($time->watermark('idle_v'), 'none', 'a partition that never had a row holds the watermark back');
	like(sql(q{SELECT held_by FROM weir.views WHERE view = 'idle_v'::regclass}), qr/\b2\b/, 'and weir.views says so');
	$time->shift_clock('31 seconds');
	# all are silent now: the greatest
	in_time($w, '12:00:15', 'all idle: the watermark is the greatest');
	is($state->(), '0 idle 12:00:05, 1 idle 12:00:15, 2 idle', 'weir.partitions says so');
	$time->give('idle', [ 'a', '12:00:40', 1, 0 ]);
	is($time->watermark('idle_v'), '12:00:35', 'one wakes up, the others do not hold it back');
	$time->give('idle', [ 'a', '12:00:36', 1, 1 ]);
	is($time->watermark('idle_v'), '12:00:35', 'another wakes up: it does not go back');
	$time->give('idle', [ 'a', '12:02:00', 1, 0 ]);
	is($time->watermark('idle_v'), '12:00:35', 'and holds it back now');
	like(sql(q{SELECT held_by FROM weir.views WHERE view = 'idle_v'::regclass}), qr/\b1\b/, 'held by partition 1');
	$time->give('idle', [ 'a', '12:01:00', 1, 1 ]);
	is($time->watermark('idle_v'), '12:00:55', 'until it goes on');
	$time->give('idle', [ 'a', '12:03:00', 1, 1 ]);
	is($time->watermark('idle_v'), '12:01:55', 'the least of them');
	$oracle->same('no row is lost', 'idle_v');
	# it moves without any row, and closes windows
	$time->shift_clock('20 seconds');
	$time->give('idle', [ 'a', '12:03:05', 1, 0 ]);
	$time->shift_clock('11 seconds');
	in_time($w, '12:03:00', 'only partition 1 is idle now');
	is($state->(), '0 awake 12:03:00, 1 idle 12:02:55, 2 idle', 'weir.partitions says so');
	$time->sound('idle_v', 'idle', mode => 'all');
	$time->right_clock;

	# off: nothing is ever idle
	view('idle_off', sprintf($tumble, 'idle'), "weir.watermark = '5 seconds', weir.idle_timeout = 'off'");
	$time->settle('idle');
	$time->shift_clock('1 day');
	$time->give('idle', [ 'a', '12:03:06', 1, 0 ]);
	is($time->watermark('idle_off'), 'none', "idle_timeout = 'off'");
	$time->shift_clock('-1 day');
	$time->give('idle', [ 'a', '12:00:00', 1, 2 ]);
	is($time->watermark('idle_off'), '11:59:55', 'until each has had a row');
	$oracle->same('no row is lost, whatever was late', 'idle_v', 'idle_off');
	is(sql(q{SELECT string_agg(weir_diff || ' ' || weir_reason, ',' ORDER BY weir_seq) FROM idle_v_changes
		WHERE weir_seq > (SELECT max(weir_seq) FROM idle_v_changes) - 2}), '-1 late,1 late', 'the row of a partition that was idle is late');
};

section 'new partitions', ['grown'], sub {
  SKIP:
	{
		skip 'the embedded broker adds no partitions', 1 unless $broker->is_real;
		$time->source('topic', 'grown');
		view('grown_v', sprintf($tumble, 'grown'), "weir.watermark = '5 seconds'");
		$time->give('grown', [ 'a', '12:01:30', 1, 0 ]);
		is($time->watermark('grown_v'), '12:01:25', 'one partition');
		$broker->add_partitions('grown', 2);
		$time->give('grown', [ 'a', '12:00:30', 1, 1 ]);
		in_time(q{SELECT count(*) FROM weir.partitions WHERE view = 'grown_v'::regclass}, '2', 'another one');
		is($time->watermark('grown_v'), '12:01:25', 'begins at the watermark');
		$time->give('grown', [ 'a', '12:02:30', 1, 0 ]);
		is($time->watermark('grown_v'), '12:01:25', 'and holds it there');
		$oracle->same('with its rows', 'grown_v');
	}
};

# ------------------------------------------------------------- times that are none

section 'rows from the future', ['ahead'], sub {
	$time->source('topic', 'ahead');
	view('ahead_v', sprintf($tumble, 'ahead'), "weir.watermark = '0 seconds', weir.max_future_skew = '5 minutes', weir.allowed_lateness = '1000 days'");
	my $from_now = sub { return sql("SELECT to_char((weir_data.now() + interval '$_[0]') AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')") };
	$time->give('ahead', [ 'a', '12:00:00', 1 ]);
	$time->give('ahead', [ 'a', $from_now->('6 minutes'), 1 ], [ 'a', '2999-01-01T00:00:00Z', 1 ], [ 'a', '9999-12-31T23:59:59Z', 1 ]);
	is($time->watermark('ahead_v'), '12:00:00', 'a row too far ahead of the clock does not move the watermark');
	is(sql('SELECT count(*) FROM ahead_v'), '4', 'but it is in the view');
	$time->give('ahead', [ 'a', $from_now->('4 minutes'), 1 ]);
	is(sql(q{SELECT weir.watermark('ahead_v') > weir_data.now() + interval '3 minutes'}), 't', 'one that is not does');
	my $before = sql(q{SELECT weir.watermark('ahead_v')});
	# the clock decides when the row comes, not later
	$time->shift_clock('10 minutes');
	$time->give('ahead', [ 'b', '12:00:00', 1 ]);
	is(sql(q{SELECT weir.watermark('ahead_v')}), $before, 'nor does it afterwards');
	$time->shift_clock('-10 minutes');
	$broker->produce('ahead', map { [ 0, undef, qq({"id": 1, "k": "a", "ts": "$_", "n": 1}) ] } 'infinity', '-infinity');
	is(error_of("SELECT weir.wait_for('ahead_v')"), '', 'times that are none');
	is(sql(q{SELECT string_agg(sqlstate, ',') FROM weir.dead_letters WHERE view = 'ahead_v'::regclass}), '22023,22023', 'infinity is a dead letter');
	is(sql(q{SELECT weir.watermark('ahead_v')}), $before, 'and moves nothing');
	$oracle->same('with all that have a time', 'ahead_v');
	$time->sound('ahead_v', 'future', mode => 'final');
};

section 'rows without a time', ['timeless'], sub {
	$time->source('stream', 'timeless');
	my %q = (
		tumble => sprintf($tumble, 'timeless'),
		hop => q{SELECT k, weir.hop(ts, '1 minute', '2 minutes') AS win, count(*) AS c, sum(n) AS s FROM timeless GROUP BY k, win},
		session => q{SELECT k, weir.session(ts, '1 minute') AS win, count(*) AS c, sum(n) AS s FROM timeless GROUP BY k, win});
	my $truth = WeirTime::sessions('timeless_heap', 'k', '1 minute', 'count(*) AS c, sum(n) AS s');
	my %with = (hop => ", weir.publish_interval = '10 ms'");
	for my $name (sort keys %q)
	{
		my $with = $with{$name} || '';
		view("timeless_$name", $q{$name}, "weir.changelog = 'all'$with", $name eq 'session' ? (truth => $truth) : ());
		view("timeless_fin_$name", $q{$name}, "weir.emit = 'final'", no_truth => 1);
	}
	$time->give('timeless', [ 'a', undef, 1 ]);
	is($time->watermark('timeless_tumble'), 'none', 'it moves no watermark');
	is($time->news('timeless_tumble'), '+1 update a never 1 1', 'NULL is a window');
	is($time->news('timeless_session'), '+1 update a never 1 1', 'also of sessions');
	$time->give('timeless', [ 'a', undef, 2 ], [ 'a', '12:00:30', 4 ], [ undef, undef, 8 ], [ undef, '12:00:31', 16 ]);
	$time->give('timeless', [ 'a', undef, 2 ], [ 'b', '14:00:00', 4 ]);
	is(sql("SELECT weir.is_closed('timeless_tumble', NULL::tstzrange) IS TRUE"), 'f', 'which never closes');
	is(sql(q{SELECT count(*) FROM timeless_fin_tumble WHERE win IS NULL}), '0', "so emit = 'final' never shows it");
	is($time->rows('timeless_fin_tumble'), lines('a 12:00:00-12:01:00 1 4', ' 12:00:00-12:01:00 1 16'), 'but the others');
	is($time->rows('timeless_fin_session'), lines('a 12:00:30-12:01:30 1 4', ' 12:00:31-12:01:31 1 16'), 'also of sessions');
	is(sql('SELECT count(*) FROM timeless_hop WHERE win IS NULL'), '0', 'hop gives no row for no time, as in SQL');
	$oracle->same('as Postgres has it');
	$time->sound("timeless_$_", 'NULL', mode => 'all', kind => $_) for sort keys %q;
};

section 'times before 2000, 1970 and Christ', ['ancient'], sub {
	$time->source('stream', 'ancient', type => 'timestamp');
	my %q = (
		tumble => sprintf($tumble, 'ancient'),
		days => q{SELECT k, weir.tumble(ts, '1 day') AS win, count(*) AS c, sum(n) AS s FROM ancient GROUP BY k, win},
		months => q{SELECT k, weir.tumble(ts, '1 month') AS win, count(*) AS c, sum(n) AS s FROM ancient GROUP BY k, win},
		hop => q{SELECT k, weir.hop(ts, '2 minutes', '5 minutes') AS win, count(*) AS c, sum(n) AS s FROM ancient GROUP BY k, win},
		cumulate => q{SELECT k, weir.cumulate(ts, '7 seconds', '21 seconds') AS win, count(*) AS c, sum(n) AS s FROM ancient GROUP BY k, win});
	view("ancient_$_", $q{$_}, "weir.watermark = '0 seconds', weir.changelog = 'all'" . (/hop|cum/ ? ", weir.publish_interval = '10 ms'" : '')) for sort keys %q;
	view('ancient_session', q{SELECT k, weir.session(ts, '1 minute') AS win, count(*) AS c, sum(n) AS s FROM ancient GROUP BY k, win},
		"weir.watermark = '0 seconds', weir.changelog = 'all'",
		truth => WeirTime::sessions('ancient_heap', 'k', '1 minute', 'count(*) AS c, sum(n) AS s') =~ s/tstzrange/tsrange/r);
	my $n = 0;
	for my $around ('0044-03-15 12:00:00 BC', '0001-01-01 00:00:00', '1582-10-15 00:00:00', '1969-12-31 23:59:00', '1970-01-01 00:00:00', '2000-01-01 00:00:00',
		'2000-02-29 00:00:00', '2000-03-01 00:00:00', '2026-05-04 12:00:00')
	{
		my @ts = split /\n/, sql("SELECT timestamp '$around' + d * interval '1 us' FROM unnest(ARRAY[-60000000, -1, 0, 1, 59999999, 60000000, 120000001]) d");
		# on time, and then again, late
		$time->give('ancient', map { [ 'a', $_, ++$n ] } @ts);
		$time->give('ancient', map { [ 'b', $_, ++$n ] } @ts);
	}
	$oracle->same('as Postgres has it');
	is(sql(q{SELECT weir.watermark('ancient_tumble')}), '2026-05-04 12:02:00.000001+00', 'timestamps without time zone are taken as UTC');
	is(sql(q{SELECT pg_typeof(win) FROM ancient_session LIMIT 1}), 'tsrange', 'and their windows are tsranges');
	is(sql(q{SELECT count(*) FILTER (WHERE weir.is_closed('ancient_tumble', win)) || ' of ' || count(*) FROM ancient_tumble WHERE lower(win) < '2026-01-01'}),
		sql(q{SELECT count(*) || ' of ' || count(*) FROM ancient_tumble WHERE lower(win) < '2026-01-01'}), 'all old ones are closed');
	for my $name (sort keys %q, 'session')
	{
		is($node->safe_psql('postgres', $time->fold_query("ancient_$name", 'all')), '0', "the changelog of ancient_$name folds to it");
	}
};

section 'days of 23 and 25 hours', ['dst'], sub {
	$time->source('stream', 'dst');
	my $zone = 'America/New_York';
	my %q = (
		day => qq{SELECT k, weir.tumble(ts, '1 day', tz => '$zone') AS win, count(*) AS c, sum(n) AS s FROM dst GROUP BY k, win},
		hours => qq{SELECT k, weir.tumble(ts, '24 hours', tz => '$zone') AS win, count(*) AS c, sum(n) AS s FROM dst GROUP BY k, win},
		month => qq{SELECT k, weir.tumble(ts, '1 month', tz => '$zone') AS win, count(*) AS c, sum(n) AS s FROM dst GROUP BY k, win},
		week => qq{SELECT k, weir.hop(ts, '1 day', '7 days', tz => '$zone') AS win, count(*) AS c, sum(n) AS s FROM dst GROUP BY k, win},
		sofar => qq{SELECT k, weir.cumulate(ts, '1 day', '5 days', tz => '$zone') AS win, count(*) AS c, sum(n) AS s FROM dst GROUP BY k, win});
	view("dst_$_", $q{$_}, "weir.watermark = '0 seconds', weir.allowed_lateness = '1000 days'" . (/week|sofar/ ? ", weir.publish_interval = '10 ms'" : '')) for sort keys %q;
	# midnights of New York: 05:00 before and 04:00 after the 8th of March, and back on the 1st of November
	step('before midnight', 'dst', [ [ 'a', '2026-03-08T05:00:00Z', 1 ], [ 'a', '2026-03-09T03:59:59.999999Z', 2 ] ], dst_day => []);
	is(sql('SELECT win FROM dst_day'), '["2026-03-08 05:00:00+00","2026-03-09 04:00:00+00")', 'a day of 23 hours');
	$time->give('dst', [ 'b', '2026-03-09T04:00:00Z', 1 ]);
	is(sql('SELECT k, win, c, weir_reason FROM dst_day_changes'), 'a|["2026-03-08 05:00:00+00","2026-03-09 04:00:00+00")|2|final', 'closes at its end');
	$time->give('dst', [ 'a', '2026-11-01T04:00:00Z', 4 ], [ 'a', '2026-11-02T04:59:59.999999Z', 8 ]);
	is(sql(q{SELECT weir.is_closed('dst_day', win) FROM dst_day WHERE win @> timestamptz '2026-11-01 12:00Z'}), 'f', 'a day of 25 hours');
	$time->give('dst', [ 'b', '2026-11-02T05:00:00Z', 1 ]);
	is(sql(q{SELECT k, win, c, weir_reason FROM dst_day_changes WHERE win @> timestamptz '2026-11-01 12:00Z'}),
		'a|["2026-11-01 04:00:00+00","2026-11-02 05:00:00+00")|2|final', 'closes at its end');
	$time->give('dst', map { [ $_ % 3 ? 'a' : 'c', sql("SELECT (timestamptz '2026-02-27 00:00Z' + $_ * interval '5 days 7 hours') AT TIME ZONE 'UTC' || 'Z'"), $_ ] } 1 .. 5, 44 .. 49);
	$oracle->same('as Postgres has it');
	$time->sound("dst_$_", 'DST', mode => 'final') for sort keys %q;
};

# ------------------------------------------------------------- percentile, ascending

section 'ascending', ['asc_s'], sub {
	$time->source('stream', 'asc_s');
	view('asc_v', sprintf($tumble, 'asc_s'), "weir.watermark = 'ascending', weir.late = 'side_output'", no_truth => 1);
	$time->give('asc_s', [ 'a', '12:00:59', 1 ]);
	is($time->watermark('asc_v'), '12:00:59', 'no delay');
	step('at the edge', 'asc_s', [ [ 'a', '12:01:00', 1 ] ], asc_v => ['+1 final a 12:00:00-12:01:00 1 1']);
	# two rows of one commit are not late for each other's sake
	step('one commit', 'asc_s', [ [ 'a', '12:05:00', 1 ], [ 'a', '12:01:30', 1 ] ], asc_v => ['+1 final a 12:01:00-12:02:00 2 2']);
	is($time->late('asc_v'), '0 0 0', 'rows of one commit are not late for each other');
};

section 'percentile', ['pct'], sub {
	$time->source('topic', 'pct');
	view('pct_v', sprintf($tumble, 'pct'), "weir.watermark = 'p90', weir.allowed_lateness = '1 day'");
	view('pct_99', sprintf($tumble, 'pct'), "weir.watermark = 'p99.9', weir.allowed_lateness = '1 day'");
	# three of four rows are the newest, one of four is twenty seconds late
	my $second = 0;
	my $some = sub { return map { $second++; [ 'a', sprintf('13:%02d:%02d', ($second - ($_ % 4 ? 0 : 20)) / 60 % 60, ($second - ($_ % 4 ? 0 : 20)) % 60), 1 ] } 1 .. $_[0] };
	$second = 60;
	my ($least, $went_back) = ('', 0);
	for (1 .. 8)
	{
		$time->give('pct', $some->(100));
		my $w = $time->watermark('pct_v');
		$went_back++ if $w lt $least;
		$least = $w;
	}
	is($went_back, 0, 'it never goes back');
	my $behind = sub { return sql("SELECT extract(epoch FROM max(ts) - weir.watermark('$_[0]'))::int FROM pct_heap") };
	cmp_ok($behind->('pct_v'), '>=', 18, 'p90 of rows of which a quarter is 20 seconds late');
	cmp_ok($behind->('pct_v'), '<=', 24, 'and no more');
	my $before = $time->watermark('pct_v');
	$node->restart;
	$node->wait_ready;
	is($time->watermark('pct_v'), $before, 'it survives a restart');
	$time->give('pct', $some->(3));
	cmp_ok($behind->('pct_v'), '>=', 18, 'and so does what was measured');
	cmp_ok($behind->('pct_v'), '<=', 26, 'of it');
	$oracle->same('late rows are revised', 'pct_v', 'pct_99');
	$time->sound('pct_v', 'percentile', mode => 'final');
};

# ------------------------------------------------------------- how often

section 'publish_interval', ['often'], sub {
	$time->source('stream', 'often');
	my $q = q{SELECT k, weir.hop(ts, '1 minute', '2 minutes') AS win, count(*) AS c, sum(n) AS s FROM often GROUP BY k, win};
	$time->view('often_v', $q, "weir.changelog = 'all', weir.publish_interval = '1 hour'");
	my $in = q{SELECT rows_in FROM weir.stat_views WHERE view = 'often_v'::regclass};
	my $give = sub { my ($k, $ts) = @_; sql("INSERT INTO often VALUES (1, '$k', '2026-05-04 ${ts}Z', 1)") };
	$give->('a', '12:00:30');
	in_time($in, '1', 'one row is in');
	$time->shift_clock('61 minutes');
	in_time('SELECT string_agg(c::text, $$,$$) FROM often_v', '1,1', 'and is shown when it is time');
	$give->('a', '12:00:40');
	in_time($in, '2', 'another one is in');
	sleep 0.3;
	is(sql('SELECT string_agg(c::text, $$,$$) FROM often_v'), '1,1', 'but not shown yet');
	$give->('b', '12:01:05');
	in_time(q{SELECT string_agg(c::text, ',' ORDER BY win) FROM often_v WHERE k = 'a'}, '2,1', 'a window that closes is shown at once');
	is(sql(q{SELECT count(*) FROM often_v WHERE k = 'b'}), '0', 'the others still are not');
	$node->restart;
	$time->shift_clock('3 hours');
	in_time(q{SELECT string_agg(k || c, ',' ORDER BY k, win) FROM often_v}, 'a2,a2,b1,b1', 'nothing is forgotten over a restart');
	$oracle->know('often_v', q{SELECT k, weir.hop(ts, '1 minute', '2 minutes') AS win, count(*) AS c, sum(n) AS s
		FROM (VALUES ('a', timestamptz '2026-05-04 12:00:30Z', 1), ('a', '2026-05-04 12:00:40Z', 1), ('b', '2026-05-04 12:01:05Z', 1)) v(k, ts, n) GROUP BY k, win});
	$oracle->same('exact', 'often_v');
	$time->sound('often_v', 'published now and then', mode => 'all');
};

section 'retention of the changelog', ['kept'], sub {
	$time->source('stream', 'kept');
	my $q = sprintf $tumble, 'kept';
	view('kept_v', $q, "weir.changelog_retention = '1 hour', weir.changelog = 'all'");
	view('kept_off', $q, "weir.changelog_retention = 'off', weir.changelog = 'all'");
	$time->give('kept', [ 'a', '12:00:10', 1 ]);
	$time->give('kept', [ 'a', '12:00:20', 1 ]);
	is(sql('SELECT count(*) FROM kept_v_changes'), '3', 'three rows');
	$time->shift_clock('30 minutes');
	$time->give('kept', [ 'a', '12:00:30', 1 ]);
	is(sql('SELECT count(*) FROM kept_v_changes'), '5', 'five rows');
	$time->shift_clock('31 minutes');
	# whether anything happens to the view or not
	in_time('SELECT min(weir_seq) FROM kept_v_changes', '4', 'the old ones are deleted', 90);
	is(sql('SELECT count(*) FROM kept_v_changes'), '2', 'and no others');
	$time->shift_clock('10 days');
	$time->give('kept', [ 'b', '12:00:30', 1 ]);
	is(sql('SELECT max(weir_seq) FROM kept_v_changes'), '6', 'numbers go on');
	is(sql('SELECT count(*) FROM kept_off_changes'), '6', "with 'off' nothing is deleted");
	# the clock goes back, weir_at does not
	$time->shift_clock('-15 days');
	$time->give('kept', [ 'b', '12:00:31', 1 ]);
	$time->give('kept', [ 'b', '12:00:32', 1 ]);
	$time->sound('kept_off', 'a clock that was set back', mode => 'all');
	is(sql('SELECT count(DISTINCT weir_at) FROM kept_off_changes'), '6', 'each commit has its own weir_at');
	$oracle->same('exact', 'kept_v', 'kept_off');
};

# ------------------------------------------------------------- telling others

section 'LISTEN', ['told'], sub {
	$time->source('stream', 'told');
	view('told_v', sprintf($tumble, 'told'), '');
	view('told_off', sprintf($tumble, 'told'), "weir.changelog = 'off'");
	my $channel = sql(q{SELECT channel FROM weir.views WHERE view = 'told_v'::regclass});
	isnt($channel, '', 'weir.views says the channel');
	is(sql(q{SELECT channel FROM weir.views WHERE view = 'told_off'::regclass}), '', 'without a changelog there is none');
	cmp_ok(length $channel, '<', 64, 'which is a name');
	my $ear = $node->background_psql('postgres');
	$ear->query(qq{LISTEN "$channel"});
	my $hears = sub {
		my $deadline = time + $_[0];
		do { return $1 if $ear->query('SELECT 1') =~ /Asynchronous notification "([^"]+)"/; sleep 0.05 } until time > $deadline;
		return '';
	};
	$time->give('told', [ 'a', '12:00:10', 1 ]);
	is($hears->(0.5), '', 'an open window is no news');
	$time->give('told', [ 'a', '12:02:10', 1 ]);
	is($hears->(10), $channel, 'a window that closes is');
	$time->give('told', [ 'a', '12:00:20', 1 ]);
	is($hears->(10), $channel, 'a correction is');
	sql('ALTER TABLE told_v RENAME TO renamed_v');
	is(sql(q{SELECT channel FROM weir.views WHERE view = 'renamed_v'::regclass}) ne '', 1, 'a renamed view has a channel');
	my $channel2 = sql(q{SELECT channel FROM weir.views WHERE view = 'renamed_v'::regclass});
	$ear->query(qq{LISTEN "$channel2"});
	sql('ALTER TABLE renamed_v RENAME TO told_v');
	$ear->quit;
};

# A consumer that subscribes to the relation
section 'publication', ['pubd'], sub {
	$time->source('stream', 'pubd');
	view('pubd_v', sprintf($tumble, 'pubd'), "weir.changelog = 'all'");
	sql(q{CREATE PUBLICATION pub FOR TABLE pubd_v_changes; SELECT pg_create_logical_replication_slot('pub', 'pgoutput')});
	$time->give('pubd', [ 'a', '12:00:10', 1 ]);
	$time->give('pubd', [ 'a', '12:00:11', 1 ]);
	my $messages = q{SELECT count(*) FILTER (WHERE get_byte(data, 0) = ascii('I')) || ' ' || count(*) FILTER (WHERE get_byte(data, 0) IN (ascii('U'), ascii('D')))
		FROM pg_logical_slot_get_binary_changes('pub', NULL, NULL, 'proto_version', '1', 'publication_names', 'pub')};
	is(sql($messages), '3 0', 'its rows are published, by INSERT');
	sql(q{SELECT pg_drop_replication_slot('pub'); DROP PUBLICATION pub});
	like(error_of('INSERT INTO pubd_v_changes DEFAULT VALUES'), qr/^(55000|42501)/, 'nobody else writes it');
	like(error_of('DELETE FROM pubd_v_changes'), qr/^(55000|42501)/, 'nor deletes from it');
	is(sql(q{SELECT string_agg(attname || ' ' || atttypid::regtype, ', ' ORDER BY attnum) FROM pg_attribute
		WHERE attrelid = 'pubd_v_changes'::regclass AND attnum > 0}),
		'weir_seq bigint, weir_diff smallint, weir_reason text, weir_watermark timestamp with time zone, weir_at timestamp with time zone, '
		  . 'k text, win tstzrange, c bigint, s bigint', 'its columns');
	is(sql(q{SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = 'pubd_v_changes'::regclass AND contype = 'p'}),
		'PRIMARY KEY (weir_seq)', 'its key');
};

# HAVING: a window leaves and enters the view as it is revised
section 'HAVING', ['hav'], sub {
	$time->source('stream', 'hav');
	my $q = sprintf($tumble, 'hav') . ' HAVING count(*) % 2 = 1';
	view('hav_v', $q, '');
	view('hav_all', $q, "weir.changelog = 'all'");
	$time->give('hav', [ 'a', '12:00:10', 1 ]);
	is($time->news('hav_all'), '+1 update a 12:00:00-12:01:00 1 1', 'it enters');
	$time->give('hav', [ 'a', '12:00:11', 1 ]);
	is($time->news('hav_all'), '-1 delete a 12:00:00-12:01:00 1 1', 'it leaves');
	$time->give('hav', [ 'b', '12:01:05', 1 ]);
	is($time->news('hav_v'), '', 'a closed window without a row is no news');
	$time->give('hav', [ 'a', '12:00:12', 1 ]);
	is($time->news('hav_v'), '+1 late a 12:00:00-12:01:00 3 3', 'it enters late');
	$time->give('hav', [ 'a', '12:00:13', 1 ]);
	is($time->news('hav_v'), '-1 late a 12:00:00-12:01:00 3 3', 'it leaves late');
	$oracle->same('exact');
	$time->sound('hav_v', 'HAVING', mode => 'final');
	$time->sound('hav_all', 'HAVING', mode => 'all');
};

# ------------------------------------------------------------- a view and its owner

# Rows that move, options that change, a rebuild.
section 'maintenance', ['maint'], sub {
	$time->source('topic', 'maint');
	my %q = (
		tumble => sprintf($tumble, 'maint'),
		hop => q{SELECT k, weir.hop(ts, '1 minute', '2 minutes') AS win, count(*) AS c, sum(n) AS s FROM maint GROUP BY k, win},
		session => q{SELECT k, weir.session(ts, '1 minute') AS win, count(*) AS c, sum(n) AS s FROM maint GROUP BY k, win});
	my $truth = WeirTime::sessions('maint_heap', 'k', '1 minute', 'count(*) AS c, sum(n) AS s');
	for my $name (sort keys %q)
	{
		view("maint_$name", $q{$name}, "weir.allowed_lateness = '1 hour'" . ($name eq 'hop' ? ", weir.publish_interval = '10 ms'" : ''),
			$name eq 'session' ? (truth => $truth) : ());
	}
	my @views = map { "maint_$_" } sort keys %q;
	# frozen, closed and open windows
	$time->give('maint', $_) for [ 'a', '10:00:10', 1 ], [ 'a', '12:00:10', 1 ], [ 'a', '12:01:20', 2 ], [ 'b', '12:02:30', 4 ];
	my $sound = sub { my ($what) = @_; $time->sound("maint_$_", $what, mode => 'final', kind => $_) for sort keys %q };
	$oracle->same('before', @views);
	for my $how ('VACUUM FULL maint_%s', 'CLUSTER maint_%s', 'ALTER TABLE maint_%s SET (fillfactor = 70)', 'VACUUM FULL maint_%s_changes', 'REINDEX TABLE maint_%s')
	{
		for my $name (sort keys %q)
		{
			my $sql = sprintf $how, $name;
			$sql .= ' USING ' . sql("SELECT indexrelid::regclass FROM pg_index WHERE indrelid = 'maint_$name'::regclass AND indisunique LIMIT 1") if $how =~ /CLUSTER/;
			sql($sql);
		}
		$time->news($_) for @views;
		$time->give('maint', [ 'a', '12:00:11', 1 ]);
		like($time->news('maint_tumble'), qr/\A-1 late a 12:00:00-12:01:00 \d+ \d+\n\+1 late a 12:00:00-12:01:00 \d+ \d+\z/, "$how: a closed window is revised");
		$time->give('maint', [ 'c', '12:02:31', 1 ]);
		$oracle->same("$how: exact", @views);
		$sound->($how);
	}
	# a window that is gone for good stays in v
	is(sql(q{SELECT count(*) FROM maint_tumble WHERE upper(win) < '2026-05-04 11:00Z'}), '1', 'a frozen window stays');

	# options
	my $w = $time->watermark('maint_tumble');
	is($w, '12:02:26', 'the watermark');
	sql(q{ALTER TABLE maint_tumble SET (weir.watermark = '1 minute')});
	$time->give('maint', [ 'd', '12:02:40', 1 ]);
	is($time->watermark('maint_tumble'), $w, 'a longer delay does not pull it back');
	$time->give('maint', [ 'd', '12:04:00', 1 ]);
	is($time->watermark('maint_tumble'), '12:03:00', 'but counts from then on');
	sql(q{ALTER TABLE maint_tumble SET (weir.watermark = '0 seconds')});
	$time->give('maint', [ 'd', '12:04:01', 1 ]);
	is($time->watermark('maint_tumble'), '12:04:01', 'a shorter one does at once');
	like(error_of(q{ALTER TABLE maint_tumble SET (weir.late = 'side_output')}), qr/^22023: .*allowed_lateness/, 'no revision, no time for it');
	sql(q{ALTER TABLE maint_tumble RESET (weir.allowed_lateness), SET (weir.late = 'side_output')});
	$time->give('maint', [ 'a', '12:00:12', 1 ]);
	is($time->late_rows('maint_tumble') =~ /^a 1: 12:00:00-12:01:00/, 1, 'late = side_output from then on');
	$sound->('options');

	# a rebuild takes all that is there: also what was late
	$time->news('maint_tumble');
	my $side = $time->late('maint_tumble');
	sql("SELECT weir.rebuild('$_')") for @views;
	$time->settle('maint');
	$oracle->same('rebuilt', @views);
	is($time->news('maint_tumble'), lines(sql(q{SELECT format('-1 rebuild a 12:00:00-12:01:00 %s %s', c - 1, s - 1) FROM maint_tumble WHERE k = 'a' AND lower(win) = '2026-05-04 12:00Z'}),
		sql(q{SELECT format('+1 rebuild a 12:00:00-12:01:00 %s %s', c, s) FROM maint_tumble WHERE k = 'a' AND lower(win) = '2026-05-04 12:00Z'})),
		'the changelog has the difference');
	$sound->('rebuild');
	$time->give('maint', [ 'd', '12:05:30', 1 ]);
	$oracle->same('and goes on', @views);
	$sound->('after the rebuild');
	sql(q{ALTER TABLE maint_tumble SET (weir.late = 'retract')});
	$time->give('maint', [ 'e', '12:07:00', 1 ]);
	$time->news('maint_tumble');
	$time->give('maint', [ 'd', '12:05:31', 1 ]);
	is($time->news('maint_tumble'), lines('-1 late d 12:05:00-12:06:00 1 1', '+1 late d 12:05:00-12:06:00 2 2'), 'and revises again what closes from then on');
	$oracle->same('after it', @views);
	$time->give('maint', [ 'e', '12:04:59', 1 ]);
	is($time->news('maint_tumble'), '', 'but not what could not be revised before');
	like($time->late_rows('maint_tumble'), qr/^e 1: 12:04:00-12:05:00 /m, 'which is late for good');
	$oracle->forget('maint_tumble');
	@views = grep { $_ ne 'maint_tumble' } @views;

	# other ways of a table
	sql('ALTER TABLE maint_tumble RENAME TO maint_renamed');
	sql('ALTER TABLE maint_renamed RENAME TO maint_tumble');
	$time->give('maint', [ 'a', '12:00:14', 1 ]);
	$oracle->same('renamed and back', @views);
	$sound->('renamed');
	sql('DROP TABLE maint_hop');
	is(error_of('TABLE maint_hop_changes'), '42P01: relation "maint_hop_changes" does not exist', 'a changelog goes with its view');
	$oracle->forget('maint_hop');
	$time->forget('maint_hop');
};

section 'a dump', ['home'], sub {
	$time->source('topic', 'home');
	my %q = (
		tumble => sprintf($tumble, 'home'),
		hop => q{SELECT k, weir.hop(ts, '1 minute', '2 minutes') AS win, count(*) AS c, sum(n) AS s FROM home GROUP BY k, win},
		session => q{SELECT k, weir.session(ts, '1 minute') AS win, count(*) AS c, sum(n) AS s FROM home GROUP BY k, win});
	for my $name (sort keys %q)
	{
		$time->view("home_$name", $q{$name}, "weir.allowed_lateness = '1 hour'" . ($name eq 'hop' ? ", weir.publish_interval = '10 ms'" : ''));
	}
	$time->give('home', $_) for [ 'a', '10:00:10', 1 ], [ 'a', '12:00:10', 1 ], [ 'a', '12:01:20', 2 ], [ 'b', '12:02:30', 4 ], [ 'a', '10:00:00', 3 ];
	is($time->late('home_tumble'), '0 1 0', 'one row was too late');
	my $dump = File::Spec->rel2abs("$PostgreSQL::Test::Utils::tmp_check/event_time.dump");
	$node->safe_psql('postgres', 'CREATE DATABASE away');
	command_ok([ 'pg_dump', '-d', $node->connstr('postgres'), '-f', $dump ], 'pg_dump');
	command_ok([ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('away'), '-f', $dump ], 'restored');
	for my $name (sort keys %q)
	{
		$node->wait_until("SELECT state IN ('running', 'stalled', 'paused') FROM weir.views WHERE view = 'home_$name'::regclass", 't', 30, 'away');
		$node->safe_psql('away', "SELECT weir.resume('home_$name') FROM weir.views WHERE view = 'home_$name'::regclass AND state <> 'running'");
	}
	is($node->safe_psql('away', "SELECT weir.watermark('home_tumble')"), sql("SELECT weir.watermark('home_tumble')"), 'the watermark came along');
	$time->give('home', [ 'a', '12:00:20', 8 ]);
	$time->give('home', [ 'a', '10:00:30', 16 ]);
	$time->give('home', [ 'c', '12:05:30', 32 ]);
	for my $name (sort keys %q)
	{
		is($node->error_of("SELECT weir.wait_for('home_$name')", 'away'), '', 'the restored view goes on');
		my $all = "SELECT string_agg(t::text, ';' ORDER BY t::text) FROM home_$name t";
		is($node->safe_psql('away', $all), sql($all), "home_$name: as at home");
		my $changes = "SELECT string_agg(concat_ws(' ', weir_diff, weir_reason, k, win, c, s), ';' ORDER BY k, win, weir_diff, c) FROM home_${name}_changes";
		is($node->safe_psql('away', $changes), sql($changes), "and its changelog");
		is($node->safe_psql('away', $time->fold_query("home_$name", 'final')), '0', 'which folds to it');
	}
	is($node->safe_psql('away', q{SELECT late_side FROM weir.stat_views WHERE view = 'home_tumble'::regclass}), '2', 'late rows are counted on');
	$node->safe_psql('postgres', 'DROP DATABASE away');
};

# A view that is made later than its rows: the backfill closes what is over, and
# nothing of it is late.
section 'rows from before', [], sub {
	for my $kind (qw(topic table))
	{
		my $s = "earlier_$kind";
		$time->source($kind, $s);
		$time->give($s, map { [ $_ % 2 ? 'a' : 'b', sprintf('%02d:%02d:00', 10 + ($_ * 7 % 5), $_ * 13 % 60), $_ ] } 1 .. 60);
		$time->give($s, [ 'z', '15:30:00', 1 ]);
		my $q = sprintf $tumble, $s;
		view("${s}_v", $q, "weir.watermark = '5 seconds', weir.late = 'side_output'");
		view("${s}_all", $q, "weir.watermark = '5 seconds', weir.changelog = 'all'");
		view("${s}_last", $q, "weir.watermark = '5 seconds', weir.emit = 'final'", no_truth => 1);
		view("${s}_session", qq{SELECT k, weir.session(ts, '5 minutes') AS win, count(*) AS c, sum(n) AS s FROM $s GROUP BY k, win},
			"weir.watermark = '5 seconds'", truth => WeirTime::sessions("${s}_heap", 'k', '5 minutes', 'count(*) AS c, sum(n) AS s'));
		$time->settle($s);
		$oracle->same("$kind: all of it", "${s}_v", "${s}_all", "${s}_session");
		is($time->watermark("${s}_v"), '15:29:55', 'the watermark');
		is($time->late("${s}_v"), '0 0 0', 'nothing is late in a backfill');
		is(sql("SELECT count(*) FROM ${s}_last"), sql("SELECT count(*) - 1 FROM ${s}_v"), 'all but the last have closed');
		is(sql("SELECT string_agg(DISTINCT weir_reason, ',') || ' ' || count(*) FROM ${s}_v_changes"), 'final ' . sql("SELECT count(*) FROM ${s}_last"), 'as final');
		is(sql("SELECT count(DISTINCT weir_at) FROM ${s}_all_changes"), '1', 'in one commit');
		$time->sound("${s}_v", 'backfill', mode => 'final');
		$time->sound("${s}_all", 'backfill', mode => 'all');
		$time->sound("${s}_last", 'backfill', mode => 'final', emit => 'final');
		$time->sound("${s}_session", 'backfill', mode => 'final', kind => 'session');
		$time->give($s, [ 'a', '10:00:00', 1 ]);
		is($time->late("${s}_v"), '0 1 0', 'but afterwards') or diag($time->late_rows("${s}_v"));
		$time->drop($s);
		$oracle->forget($oracle->names);
	}
};

# Without a watermark: windows never close, and there is a changelog when asked for.
section 'without a watermark', ['never'], sub {
	$time->source('table', 'never');
	view('never_v', sprintf($tumble, 'never'), '');
	view('never_all', sprintf($tumble, 'never'), "weir.changelog = 'all'");
	view('never_keys', 'SELECT k, count(*) AS c, sum(n) AS s FROM never GROUP BY k', "weir.changelog = 'all'");
	$time->give('never', [ 'a', '12:00:10', 1 ]);
	$time->give('never', [ 'a', '18:00:10', 1 ]);
	$time->give('never', [ 'a', '10:00:10', 1 ]);
	is($time->watermark('never_v'), 'none', 'a table has none unless asked for');
	is(error_of('TABLE never_v_changes'), '42P01: relation "never_v_changes" does not exist', 'nor a changelog');
	is($time->late('never_v'), '0 0 0', 'nothing is late');
	is(sql(q{SELECT weir.is_closed('never_v', win) FROM never_v LIMIT 1}), 'f', 'nothing closes');
	is($time->news('never_all'), lines(map { "+1 update a $_ 1 1" } '12:00:00-12:01:00', '18:00:00-18:01:00', '10:00:00-10:01:00'), 'all changes');
	is(sql(q{SELECT string_agg(concat_ws(' ', weir_diff, weir_reason, k, c), ',' ORDER BY weir_seq) FROM never_keys_changes}),
		'1 update a 1,-1 update a 1,1 update a 2,-1 update a 2,1 update a 3', 'also without a window');
	sql('DELETE FROM never');
	$time->settle('never');
	is(sql(q{SELECT concat_ws(' ', weir_diff, weir_reason, k, c) FROM never_keys_changes ORDER BY weir_seq DESC LIMIT 1}), '-1 delete a 3', 'and its end');
	$oracle->same('exact');
	$time->sound($_, 'without a watermark', mode => 'all') for qw(never_all never_keys);
};

# A death changes nothing of it.
section 'after a crash', ['crashed'], sub {
	$time->source('topic', 'crashed');
	my %q = (
		tumble => sprintf($tumble, 'crashed'),
		hop => q{SELECT k, weir.hop(ts, '1 minute', '2 minutes') AS win, count(*) AS c, sum(n) AS s FROM crashed GROUP BY k, win},
		cumulate => q{SELECT k, weir.cumulate(ts, '1 minute', '2 minutes') AS win, count(*) AS c, sum(n) AS s FROM crashed GROUP BY k, win},
		session => q{SELECT k, weir.session(ts, '1 minute') AS win, count(*) AS c, sum(n) AS s FROM crashed GROUP BY k, win});
	for my $name (sort keys %q)
	{
		view("crashed_$name", $q{$name}, "weir.allowed_lateness = '1 hour'" . ($name =~ /hop|cum/ ? ", weir.publish_interval = '10 ms'" : ''),
			$name eq 'session' ? (truth => WeirTime::sessions('crashed_heap', 'k', '1 minute', 'count(*) AS c, sum(n) AS s')) : ());
	}
	my @views = map { "crashed_$_" } sort keys %q;
	$time->give('crashed', $_) for [ 'a', '12:00:10', 1 ], [ 'a', '12:01:20', 2 ], [ 'b', '12:02:30', 4 ];
	my $w = $time->watermark('crashed_tumble');
	$node->crash_server;
	$node->wait_ready;
	is($time->watermark('crashed_tumble'), $w, 'the watermark is as it was');
	$time->news($_) for @views;
	$time->give('crashed', [ 'a', '12:00:11', 1 ]);
	is($time->news('crashed_tumble'), lines('-1 late a 12:00:00-12:01:00 1 1', '+1 late a 12:00:00-12:01:00 2 2'), 'a closed window is revised');
	is($time->news('crashed_session', 'weir_at, weir_diff, win'), lines('-1 late a 12:00:10-12:01:10 1 1', '+1 late a 12:00:10-12:01:11 2 2'), 'and a session');
	# a jump in time right after: what had waited closes
	$node->crash_server;
	$node->wait_ready;
	$time->give('crashed', [ 'b', '19:00:00', 8 ]);
	$oracle->same('exact', @views);
	is(sql(qq{SELECT string_agg(n::text, ' ') FROM (SELECT count(*) AS n FROM crashed_$_ v WHERE weir.is_closed('crashed_$_', win)
		EXCEPT SELECT sum(weir_diff) FROM crashed_${_}_changes) x}), '', "all windows of $_ closed") for sort keys %q;
	$time->sound("crashed_$_", 'crash', mode => 'final', kind => $_) for sort keys %q;
};

unlike(slurp_file($node->logfile), qr/PANIC|TRAP:|terminated by signal (?!9)/, 'no process was ended by a signal of its own');
$node->stop;
done_testing;
