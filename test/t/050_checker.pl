# Random traces: whatever rows come, whatever is done to views and whoever dies,
# every view is its query over what lies below its position.
#
# A seed becomes a trace before anything runs (test/lib/WeirCheckerTrace.pm); a
# trace that fails is made smaller and printed, and can be put into test/corpus/,
# which is replayed first.
#
#	WEIR_SEED=N      begin with this seed; the next trace has the next one
#	WEIR_TRACES=N    so many
#	WEIR_SECONDS=N   or as many as fit
#	WEIR_REPLAY=FILE that trace alone
#	WEIR_REPORT=FILE write the report there, too
# The embedded broker suffices.
use strict;
use warnings;

use FindBin;
use Test::More;
use Time::HiRes qw(time);
use WeirChecker;
use WeirCheckerTrace;

my $seed = $ENV{WEIR_SEED} || 1 + int(rand 1_000_000_000);
diag("WEIR_SEED=$seed");
my $checker = WeirChecker->new;
my $until = time + ($ENV{WEIR_SECONDS} || 60);
my $n = $ENV{WEIR_TRACES};
my $failed = 0;
for (my $i = 0; defined $n ? $i < $n : time < $until; $i++, $seed++)
{
	my $trace = WeirCheckerTrace::expand($seed);
	my $started = time;
	my $wrong = $checker->run($trace);
	note(sprintf 'seed %d: %.2f s', $seed, time - $started);
	next if $wrong eq '';
	$failed++;
	fail("seed $seed");
	diag($wrong);
	last if $failed >= ($ENV{WEIR_FAILURES} || 3);
}
diag($checker->report);
is($failed, 0, 'no trace has failed');
$checker->stop;
done_testing;
