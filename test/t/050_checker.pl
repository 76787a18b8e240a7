# Random traces: whatever rows come, whatever is done to views and whoever dies,
# every view is its query over what lies below its position.
#
# A seed becomes a trace before anything runs (test/lib/WeirCheckerTrace.pm says
# what one is); each fourth is run once more in another way that must end the same.
# A trace that fails is made smaller, printed, and kept beside the log.  In
# test/corpus/ are traces that have failed once; they are replayed first.
#
#	WEIR_SEED=N       begin with this seed; the next trace has the next one
#	WEIR_TRACES=N     so many traces
#	WEIR_SECONDS=N    or as many as fit (60; with WEIR_LONG=1 3,600)
#	WEIR_REPLAY=FILE  that trace alone, 10 times or WEIR_TRACES
#	WEIR_REPORT=FILE  write the report there, too
#	WEIR_SHRINK=N     seconds for making a trace smaller (90)
#	WEIR_TRIES=N      times that a smaller one is run before it counts as good (1)
# The embedded broker suffices.
use strict;
use warnings;

use FindBin;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);
use WeirChecker;
use WeirCheckerShrink;
use WeirCheckerTrace;

my $long = $ENV{WEIR_LONG};
my $seed = $ENV{WEIR_SEED} || 1 + int(rand 1_000_000_000);
my $shrink = defined $ENV{WEIR_SHRINK} ? $ENV{WEIR_SHRINK} : $long ? 600 : 90;
my $most = $ENV{WEIR_FAILURES} || ($long ? 3 : 1);
my $begun = time;
diag("WEIR_SEED=$seed");
my $checker = WeirChecker->new;
my ($failed, $replayed) = (0, 0);

# The first view that is wrong may be another one, but not what is wrong of it.
sub kind { my ($wrong) = @_; return $wrong =~ /not all catch up|a crash|left behind/ ? $& : $wrong =~ /\b(rows|fold|changelog|watermark|books|late|dropped):/ ? $1 : 'other' }

sub report_failure
{
	my ($name, $trace, $wrong) = @_;
	$failed++;
	fail($name);
	diag($wrong);
	my $kind = kind($wrong);
	my $small = $trace;
	if ($shrink && $wrong !~ /^as '/)
	{
		local $WeirChecker::patience = 10;
		my $runs = 0;
		$small = WeirCheckerShrink::shrink($trace, $shrink, sub {
			my ($candidate) = @_;
			for (1 .. $ENV{WEIR_TRIES} || 1)
			{
				$runs++;
				my $is = $checker->run($candidate);
				next if $is eq '' || kind($is) ne $kind;
				$wrong = $is;
				return 1;
			}
			return 0;
		});
		diag(sprintf 'smaller, after %d runs: %d actions, %d views; it says: %s', $runs, scalar @{ $small->{actions} }, scalar @{ $small->{views} }, $wrong);
	}
	my $text = WeirCheckerTrace::as_text($small);
	my $file = "$PostgreSQL::Test::Utils::log_path/050_checker_" . ($name =~ s/\W+/_/gr) . '.trace';
	open my $fh, '>', $file or die "$file: $!";
	print $fh map { "# $_\n" } $name, split /\n/, $wrong;
	print $fh $text;
	close $fh;
	diag(length $text > 20_000 ? "the trace is in $file" : $text);
	return;
}

sub one
{
	my ($name, $trace, $how) = @_;
	my $started = time;
	my $wrong = $checker->run($trace);
	$wrong = $checker->pair($trace, $how) if $wrong eq '' && defined $how;
	note(sprintf('%s: %.2f s', $name, time - $started), map { "; $_" } @{ $checker->{slow} || [] });
	report_failure($name, $trace, $wrong) if $wrong ne '';
	return $wrong eq '';
}

# ------------------------------------------------------------- the corpus

if (defined(my $file = $ENV{WEIR_REPLAY}))
{
	my $trace = WeirCheckerTrace::from_text(slurp_file($file));
	for my $n (1 .. $ENV{WEIR_TRACES} || 10) { one("$file, run $n", $trace) or last }
}
else
{
	my $corpus = -d "$FindBin::Bin/../corpus" ? "$FindBin::Bin/../corpus" : 'test/corpus';
	for my $file (sort glob "$corpus/*.trace")
	{
		my ($name) = $file =~ m{([^/]+)$};
		ok(one($name, WeirCheckerTrace::from_text(slurp_file($file))), $name);
		$replayed++;
	}

	# --------------------------------------------------------- random traces

	my $n = $ENV{WEIR_TRACES};
	my $until = $begun + ($ENV{WEIR_SECONDS} || ($long ? 3600 : 60));
	my @ways = sort keys %WeirCheckerTrace::pairs;
	for (my $i = 0; (defined $n ? $i < $n : time < $until) && $failed < $most; $i++, $seed++)
	{
		one("seed $seed", WeirCheckerTrace::expand($seed), $seed % 4 == 0 ? $ways[ $seed / 4 % @ways ] : undef);
	}
}

# ------------------------------------------------------------- the report

my $report = $checker->report;
diag($report);
if (defined(my $file = $ENV{WEIR_REPORT}))
{
	open my $fh, '>', $file or die "$file: $!";
	print $fh $report;
	close $fh;
}
is($failed, 0, 'no trace has failed');

# Was there something to test?
my %count = %{ $checker->{count} };
SKIP:
{
	skip 'whether everything came up: a trace has failed', 1 if $failed;
	skip 'whether everything came up: one trace alone was asked for', 1 if $ENV{WEIR_REPLAY};
	diag("$checker->{traces} traces: too few to ask whether everything came up") if $checker->{traces} < 25;
	skip "whether everything came up: $checker->{traces} traces are too few, it takes 25", 1 if $checker->{traces} < 25;
	cmp_ok($count{$_} || 0, '>', 0, $_) for 'rows', 'poison', 'faults', 'comparisons', 'rows compared', 'late_applied', 'late_side', 'late_dropped',
	  'views, exact', 'views, lossy', 'views, model', 'views of pairs';
	cmp_ok($count{'views with rows'}, '>', $count{views} / 2, 'most views have rows');
	for my $action (qw(error enospc kill9))
	{
		cmp_ok(scalar(grep { / $action$/ } keys %{ $checker->{fired} }), '>', 0, "faults that fired: $action");
	}
	cmp_ok($count{'evicted groups'} || 0, '>', 0, 'groups were evicted') if $checker->{has_groups};
}
ok($replayed, 'there is a corpus') unless $ENV{WEIR_REPLAY};
$checker->stop;
done_testing;
