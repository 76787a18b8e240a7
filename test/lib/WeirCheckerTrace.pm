# WeirCheckerTrace: from a seed to a trace, which is all that one run of the
# checker will do, as plain data, before any of it is done.
#
#     my $trace = WeirCheckerTrace::expand(4711);
#     print WeirCheckerTrace::as_text($trace);
#     my $trace = WeirCheckerTrace::from_text($text);
#
# A trace is
#
#	{ seed, sources => { topic => { partitions }, stream => {}, table => {} },
#	  views => [ { name, source, window, keys, ... } ], actions => [ { do, ... } ] }
#
# and as text one JSON object a line: the head, the views, the actions.  So a
# trace can be cut with an editor, and diff shows what shrinking took away.
#
# What a view may be judged by (its `class`):
#
#	exact	equal to Q over all rows so far: it has no watermark, or revises its
#			windows for a year
#	model	on the stream, of which each transaction is a commit of the view: which
#			pairs of a row and a window are late is computed
#	lossy	on the topic or the table: less what weir.late_rows says; what is
#			dropped is counted
package WeirCheckerTrace;

use strict;
use warnings;

use JSON::PP ();

my $json = JSON::PP->new->canonical->allow_nonref;

sub one_of { return $_[ rand @_ ] }
sub some { my ($share) = @_; return rand() < $share }
sub between { my ($a, $b) = @_; return $a + int rand($b - $a + 1) }

# ------------------------------------------------------------- text

sub as_text
{
	my ($trace) = @_;
	my %head = map { $_ => $trace->{$_} } grep { !/^(?:views|actions)$/ } keys %$trace;
	return join '', map { $json->encode($_) . "\n" } \%head,
	  (map { +{ view => $_ } } @{ $trace->{views} }), @{ $trace->{actions} };
}

# Lines that begin with # are for people.
sub from_text
{
	my ($text) = @_;
	my ($head, @lines) = map { $json->decode($_) } grep { /\S/ && !/^#/ } split /\n/, $text;
	$head->{views} = [ map { $_->{view} } grep { $_->{view} && !$_->{do} } @lines ];
	$head->{actions} = [ grep { $_->{do} } @lines ];
	return $head;
}

# ------------------------------------------------------------- rows

our @columns = qw(id k g ts n b amount f);
our $type = 'id int, k text, g int, ts timestamptz, n int, b bigint, amount numeric, f float8';

my $start = 4 * 3600 * 1_000_000;    # 04:00 of the day
my $gap = 20 * 1_000_000;

# A moment in microseconds of the day, as text
sub moment
{
	my ($us) = @_;
	my $day = 8;
	while ($us >= 86_400_000_000) { $us -= 86_400_000_000; $day++ }
	while ($us < 0) { $us += 86_400_000_000; $day-- }
	my $s = int($us / 1_000_000);
	return sprintf '2020-03-%02dT%02d:%02d:%02d.%06dZ', $day, int($s / 3600), int($s / 60) % 60, $s % 60, $us % 1_000_000;
}

# A source of rows: { now, id, last => { key => time } }
sub event_time
{
	my ($flow, $k) = @_;
	$flow->{now} += int(rand(2) * $flow->{step});
	my $dice = rand;
	return undef if $dice < 0.02;
	return one_of('2100-01-01T00:00:00.000000Z', '2099-12-31T23:59:59.999999Z') if $dice < 0.03;
	my $late = some(0.6) ? rand 3e6 : some(0.7) ? rand 60e6 : rand 600e6;
	my $us = int($flow->{now} - $late);
	my $grid = one_of(10e6, 10e6, 30e6, 60e6);
	my $last = $flow->{last}{ defined $k ? $k : '' };
	if ($dice < 0.25) { $us -= $us % $grid }
	elsif ($dice < 0.33) { $us -= $us % $grid + 1 }
	elsif ($dice < 0.39) { $us -= $us % $grid - 1 }
	elsif ($dice < 0.55 && defined $last) { $us = $last + one_of($gap, $gap, $gap - 1, $gap + 1, -$gap, -$gap + 1, 2 * $gap - 1) }
	elsif ($dice < 0.60 && defined $last) { $us = $last }
	$flow->{last}{ defined $k ? $k : '' } = $us;
	return moment($us);
}

sub key_of { return one_of('a', 'a', 'a', 'b', 'b', 'c', 'd', '', undef, "\xc3\xa9") }

# Equal values look the same, so that of equal extremes it does not matter which.
sub amount
{
	my $dice = rand;
	return undef if $dice < 0.05;
	return 'NaN' if $dice < 0.06;
	my $n = between(-400, 4000);
	return sprintf '%.*f', abs($n) % 3 + 1, $n / (abs($n) % 3 == 0 ? 2 : 4);
}

sub float
{
	my $dice = rand;
	return undef if $dice < 0.05;
	return one_of('NaN', 'Infinity', '-Infinity') if $dice < 0.07;
	return sprintf '%s', between(-2000, 2000) / 4;
}

sub row
{
	my ($flow) = @_;
	my $k = key_of();
	return {
		id => ++$flow->{id}, k => $k, g => (some(0.1) ? undef : between(0, 3)), ts => event_time($flow, $k),
		n => (some(0.05) ? undef : between(0, 99)), b => (some(0.05) ? undef : one_of(between(-1000, 1000), between(1, 9) . '000000000000000000')),
		amount => amount(), f => float() };
}

# ------------------------------------------------------------- views

our %window = (
	tumble => "weir.tumble(ts, '1 minute')",
	small => "weir.tumble(ts, '10 seconds')",
	hop => "weir.hop(ts, '30 seconds', '2 minutes')",
	uneven => "weir.hop(ts, '50 seconds', '2 minutes')",
	gaps => "weir.hop(ts, '1 minute', '40 seconds')",
	cumulate => "weir.cumulate(ts, '30 seconds', '3 minutes')",
	session => "weir.session(ts, '20 seconds')");

# A key is a column or an expression with a name.  None has two faces of one value.
my @keys = ([], ['k'], ['k'], ['k'], ['g'], ['g'], [ 'k', 'g' ], ['n % 3 AS m'], [ 'k', 'n % 2 AS m' ], ['upper(k) AS u'], ['b']);

my @aggregates = ('count(n)', 'sum(n)', 'avg(n)', 'min(n)', 'max(n)', 'sum(b)', 'min(b)', 'max(b)', 'sum(amount)', 'avg(amount)',
	'min(amount)', 'max(amount)', 'sum(f)', 'avg(f)', 'min(f)', 'max(f)', 'min(k)', 'max(k)', 'min(ts)', 'max(ts)', 'sum(g)',
	'sum(id)', 'count(*) FILTER (WHERE n > 50)', 'sum(amount) FILTER (WHERE g = 1)', 'min(n) FILTER (WHERE k <> \'a\')', 'sum(n) + count(*)',
	'coalesce(sum(n), 0) * 2', 'sum(n + g)');

my @where = ('n > 20', 'g IS NOT NULL', "k <> 'b'", 'n % 2 = 0', 'amount > 10 OR f < 0');
my @having = ('count(*) % 3 <> 0', 'count(*) > 1', 'sum(n) > 60', 'max(n) > 50');

# Aggregates of a view of which it matters that a row is known by what it reads
my @reads_all = ('count(*) AS c', 'sum(n) AS s', 'sum(id) AS ids', 'min(g) AS mi', 'max(ts) AS last', 'avg(amount) AS a', 'sum(f) AS f', 'sum(b) AS b');

sub view
{
	my ($name, $source, $class) = @_;
	my $window = $class ne 'exact' ? one_of(sort keys %window) : some(0.2) ? undef : one_of(sort keys %window);
	$window = one_of(qw(tumble small hop uneven gaps cumulate)) if $class eq 'model';
	my @key = @{ one_of(@keys) };
	@key = ('k') if !@key && defined $window && $window eq 'session' || $class eq 'lossy';
	my @call = ('count(*) AS c');
	my $i = 0;
	push @call, one_of(@aggregates) . ' AS x' . ++$i for 1 .. between(1, 5);
	@call = @reads_all if $class eq 'lossy';
	my %v = (name => $name, source => $source, class => $class, window => $window, keys => \@key, aggregates => \@call);
	$v{where} = one_of(@where) if $class ne 'lossy' && some(0.4);
	$v{having} = one_of(@having) if $class eq 'exact' && some(0.25);
	my %with = (commit_interval => between(10, 40) . ' ms');
	if (!defined $window)
	{
		$with{changelog} = 'all' if some(0.4);
	}
	elsif ($class eq 'exact' && $source eq 'table' && some(0.3))
	{
		# none, the default of tables
		$with{changelog} = 'all' if some(0.4);
	}
	else
	{
		$with{watermark} = one_of('5 seconds', '0 seconds', 'ascending', '30 seconds', $class eq 'exact' && some(0.3) ? 'p90' : ());
		$with{emit} = 'final' if some(0.3);
		$with{changelog} = one_of('final', 'all', 'all', 'off');
		# then what the watermark is does not depend on when
		$with{idle_timeout} = 'off' if $class ne 'lossy' || some(0.5);
		if ($class eq 'exact') { $with{allowed_lateness} = '365 days' }
		else
		{
			$with{late} = one_of('retract', 'side_output', $source eq 'table' ? () : 'drop');
			$with{allowed_lateness} = one_of('20 seconds', '1 minute') if $with{late} eq 'retract';
		}
		$with{publish_interval} = '10 ms' if $window =~ /hop|uneven|gaps|cumulate/ && !$with{emit};
	}
	$v{with} = \%with;
	return \%v;
}

# ------------------------------------------------------------- actions

our @points = qw(commit-begin commit-results commit-states commit-positions commit-before commit-after commit-applied acknowledged
	fold-before-apply open changes-read changes-confirm backfill-start backfill-ready backfill-snapshot backfill-scan backfill-send backfill-done
	backfill-merge create_before_record rebuild_after_truncate evict-index evict-back);

# Steps of one transaction on the table
sub table_steps
{
	my ($trace, $flow) = @_;
	# rows of windows that are frozen stay, and nobody says which they were
	my $truncates = !grep { $_->{source} eq 'table' && $_->{class} eq 'lossy' } @{ $trace->{views} };
	my @steps;
	my $depth = 0;
	for (1 .. between(1, 6))
	{
		my $dice = rand;
		my $id = $flow->{id} ? between($flow->{id} > 40 ? $flow->{id} - 40 : 1, $flow->{id}) : 1;
		if ($dice < 0.45) { push @steps, [ 'insert', map { row($flow) } 1 .. between(1, 6) ] }
		elsif ($dice < 0.60) { my $new = row($flow); delete $new->{id}; my @set = grep { some(0.4) } sort keys %$new; push @steps, [ 'update', $id, { map { $_ => $new->{$_} } @set ? @set : 'n' } ] }
		elsif ($dice < 0.67) { push @steps, [ 'update', $id, { k => key_of(), g => between(0, 3) } ] }
		elsif ($dice < 0.70) { push @steps, [ 'update', $id, { id => ++$flow->{id} } ] }
		elsif ($dice < 0.82) { push @steps, [ 'delete', $id, $id + between(0, 3) ] }
		elsif ($dice < 0.85 && $truncates) { push @steps, ['truncate'] }
		elsif ($dice < 0.92) { push @steps, ['savepoint']; $depth++ }
		elsif ($depth) { push @steps, [ one_of('rollback to', 'rollback to', 'release') ]; $depth-- if $steps[-1][0] eq 'release' }
	}
	return \@steps;
}

# A message that is none, or whose column cannot be read: that costs the row only
# those who read the column.
sub poison
{
	my ($part, $row) = @_;
	return [ $part, one_of('bad', '[1]', '', '{"k": "a\\u0000"', '{"ts": "noon"}}'), '*' ] if some(0.5);
	my $column = one_of(qw(id n ts b f k));
	my %face = (id => 9999999999, n => '1.5', ts => 'noon', b => 'x', f => '1e999', k => "a\0b");
	return [ $part, { %$row, $column => $face{$column} }, $column ];
}

sub give
{
	my ($trace, $flow, $source) = @_;
	if ($source eq 'table') { return { do => 'change', steps => table_steps($trace, $flow), end => (some(0.07) ? 'rollback' : 'commit') } }
	my @rows = map { row($flow) } 1 .. one_of(1, 3, between(4, 12), between(10, 30));
	return { do => 'push', rows => \@rows, end => (some(0.07) ? 'rollback' : 'commit') } if $source eq 'stream';
	return {
		do => 'produce', messages => [ map {
			my $part = between(0, $trace->{sources}{topic}{partitions} - 1);
			some(0.02) ? poison($part, $_) : [ $part, $_ ] } @rows ] };
}

sub fault
{
	my @these = some(0.75) ? grep { /^commit|^ack|^fold|^evict/ } @points : @points;
	my $point = one_of(@these);
	my $action = one_of(qw(error error error enospc enospc kill9));
	$action = 'crash' if some(0.03);
	# no process of ours dies in a statement
	$action = 'error' if $point =~ /^create|^rebuild/ && some(0.5);
	my $n = some(0.6) ? 1 : between(2, 4);
	return { do => 'fault', fault => "$point:$action:$n" };
}

# ------------------------------------------------------------- pairs

# Another trace that ends the same, as far as the views go that stays_same() names.
our %pairs = (
	# faults on or off
	calm => sub { my ($trace) = @_; @{ $trace->{actions} } = grep { $_->{do} !~ /^(?:fault|kill9|crash|terminate|pause|resume|rebuild)$/ } @{ $trace->{actions} } },
	# a message, a transaction at a time
	single => sub { my ($trace) = @_; @{ $trace->{actions} } = map { split_up($_) } @{ $trace->{actions} } },
	# all at once
	whole => sub {
		my ($trace) = @_;
		my (@first, %all, @last);
		for my $action (@{ $trace->{actions} })
		{
			if ($action->{do} eq 'create') { push @first, $action; next }
			if ($action->{do} !~ /^(?:produce|push|change)$/) { push @last, $action if $action->{do} =~ /^(?:pause|resume|vacuum)$/; next }
			next if ($action->{end} || 'commit') ne 'commit';
			my ($part) = grep { ref $action->{$_} } qw(messages rows steps);
			my $one = $all{ $action->{do} } ||= { %$action, $part => [] };
			# a savepoint of before is nobody else's
			push @{ $one->{$part} }, $part eq 'steps' ? complete($action->{steps}) : @{ $action->{$part} };
		}
		@{ $trace->{actions} } = (@first, (map { $all{$_} } sort keys %all), @last);
	},
	# views that find all there is
	after => sub {
		my ($trace) = @_;
		my %late = map { $_->{name} => 1 } grep { $_->{source} ne 'stream' } @{ $trace->{views} };
		my @created = grep { $_->{do} eq 'create' && $late{ $_->{view} } } @{ $trace->{actions} };
		my @others = grep { !(defined $_->{view} && $late{ $_->{view} }) && $_->{do} !~ /^(?:check|look)$/ } @{ $trace->{actions} };
		@{ $trace->{actions} } = (@others, @created);
	},
	# one group in memory, or all
	few => sub { my ($trace) = @_; @{ $trace->{actions} } = ({ do => 'groups', most => 1 }, grep { $_->{do} ne 'groups' } @{ $trace->{actions} }) },
	all => sub { my ($trace) = @_; @{ $trace->{actions} } = grep { $_->{do} ne 'groups' } @{ $trace->{actions} } });

sub split_up
{
	my ($action) = @_;
	return $action if ($action->{end} || 'commit') ne 'commit';
	return map { +{ %$action, messages => [$_] } } @{ $action->{messages} } if $action->{do} eq 'produce';
	return map { +{ %$action, rows => [$_] } } @{ $action->{rows} } if $action->{do} eq 'push';
	return map { +{ %$action, steps => [$_] } } complete($action->{steps}) if $action->{do} eq 'change';
	return $action;
}

# The steps that count in the end
sub complete
{
	my ($steps) = @_;
	my (@done, @marks);
	for my $step (@$steps)
	{
		if ($step->[0] eq 'savepoint') { push @marks, scalar @done }
		elsif ($step->[0] eq 'release') { pop @marks }
		elsif ($step->[0] eq 'rollback to') { splice @done, $marks[-1] if @marks }
		else { push @done, $step }
	}
	return @done;
}

# Where no order decides what is late, closed or shown
sub stays_same
{
	my ($trace) = @_;
	my %made = map { $_->{view} => 1 } grep { $_->{do} eq 'create' } @{ $trace->{actions} };
	return map { $_->{name} } grep { $made{ $_->{name} } && $_->{class} eq 'exact' && $_->{source} ne 'stream' && ($_->{with}{emit} || '') ne 'final' } @{ $trace->{views} };
}

# ------------------------------------------------------------- the whole

# expand(seed, %how): the trace.  how => { faults => 0 }: without
sub expand
{
	my ($seed, %how) = @_;
	srand $seed;
	my %trace = (seed => $seed, sources => {}, views => [], actions => []);
	my @sources = @{ one_of(['topic'], ['topic'], [ 'stream', 'table' ], ['table'], ['stream'], [ 'topic', 'table' ]) };
	my %flow;
	for my $source (@sources)
	{
		$trace{sources}{$source} = $source eq 'topic' ? { partitions => one_of(1, 2, 3) } : {};
		$flow{$source} = { now => $start, id => 0, last => {}, step => one_of(1e6, 3e6, 10e6) };
	}
	for my $i (1 .. between(4, 8))
	{
		my $source = one_of(@sources);
		my $class = some(0.6) ? 'exact' : $source eq 'stream' ? 'model' : 'lossy';
		push @{ $trace{views} }, view("v$i", $source, $class);
	}
	# some are made later
	my @later;
	for my $v (@{ $trace{views} })
	{
		if (some(0.25)) { push @later, { do => 'create', view => $v->{name} } }
		else { push @{ $trace{actions} }, { do => 'create', view => $v->{name} } }
	}
	push @{ $trace{actions} }, { do => 'groups', most => one_of(1, 1, 4, 16) } if some(0.4);
	my $n = between(8, 22);
	my %paused;
	for my $i (1 .. $n)
	{
		my $dice = rand;
		my $v = one_of(@{ $trace{views} });
		my $name = $v->{name};
		my $made = !grep { $_->{view} eq $name } @later;
		my $action;
		if ($dice < 0.62) { my $source = one_of(@sources); $action = give(\%trace, $flow{$source}, $source) }
		elsif ($dice < 0.74) { $action = fault() }
		elsif ($dice < 0.78) { $action = shift @later || { do => one_of('look', 'arrive') } }
		elsif ($dice < 0.82 && $made && $v->{class} ne 'model')
		{
			$action = { do => $paused{$name} ? 'resume' : 'pause', view => $name };
			$paused{$name} = !$paused{$name};
		}
		elsif ($dice < 0.85 && $made && $v->{source} ne 'stream' && $v->{class} eq 'exact' && !$paused{$name}) { $action = { do => 'rebuild', view => $name } }
		elsif ($dice < 0.88 && $made) { $action = { do => 'vacuum', view => $name } }
		elsif ($dice < 0.89) { $action = { do => one_of('kill9', 'terminate', 'terminate') } }
		elsif ($dice < 0.892) { $action = { do => 'crash' } }
		elsif ($dice < 0.91) { $action = { do => 'clock', by => one_of('10 seconds', '40 seconds', '2 hours') } }
		elsif ($dice < 0.93 && $made) { $action = { do => 'alter', view => $name, set => "weir.commit_interval = '" . between(10, 100) . " ms'" } }
		elsif ($dice < 0.945 && $made) { $action = { do => 'index', view => $name } }
		elsif ($dice < 0.955 && $trace{sources}{table}) { $action = { do => 'widen' } }
		elsif ($dice < 0.975) { $action = { do => 'groups', most => one_of(1, 4, 16, 0) } }
		else { $action = { do => 'check' } }
		push @{ $trace{actions} }, $action if $action;
		push @{ $trace{actions} }, { do => 'arrive' } if $dice < 0.62 && some(0.1);
	}
	push @{ $trace{actions} }, @later;
	push @{ $trace{actions} }, map { +{ do => 'resume', view => $_ } } grep { $paused{$_} } sort keys %paused;
	@{ $trace{actions} } = grep { $_->{do} !~ /^(?:fault|kill9|crash|terminate)$/ } @{ $trace{actions} } if defined $how{faults} && !$how{faults};
	return \%trace;
}

1;
