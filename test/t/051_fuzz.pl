# Bytes that nobody would send: what comes from outside (JSON, CSV, the texts of
# values) gets the verdict and the values that Postgres' own parsers give, and what
# is stored (states, lateness, messages of push streams), with its checksum or MAC
# made right, is refused or is what it says.  Nothing of it may end the server.
#
# Each fuzzer lies beside the code that it drives: src/*/fuzz_*.c.  A round is made
# from the seed and its number alone, and a difference says both and shows the
# bytes.  WEIR_SEED repeats a run, WEIR_FUZZ_SECONDS says for how long each fuzzer
# runs: 3 seconds, with --long 10 minutes.  What once failed is in sql/decode.sql,
# or so near to any seed that the first rounds find it.
use strict;
use warnings;

use Test::More;
use Time::HiRes qw(time);
use PostgreSQL::Test::Utils;
use WeirNode;

my $seed = $ENV{WEIR_SEED} || 1 + int(rand 1_000_000);
diag("WEIR_SEED=$seed");
my $seconds = $ENV{WEIR_FUZZ_SECONDS} || ($ENV{WEIR_LONG} ? 600 : 3);
my $rounds = $ENV{WEIR_SANITIZE} ? 2_000 : 20_000;

my $node = WeirNode->start_new('main', conf => "log_min_messages = warning\n");

$node->safe_psql('postgres', <<'EOF');
CREATE EXTENSION pg_weir;
CREATE TABLE nothing (t text);
CREATE FOREIGN TABLE pushed (a smallint, b int, c bigint, gone text, d boolean, e text, f numeric, g float8,
	h "char", i name, j timetz, k text, l float4) SERVER weir_stream;
ALTER FOREIGN TABLE pushed DROP COLUMN gone;
EOF

# What each counts, and the least share of rounds that has to get so far: a fuzzer
# whose cases all end at the first byte tests nothing.
my @fuzzers = (
	{ name => 'json', counts => [ 'accepted', 'compared' ], least => [ 0.2, 0.1 ] },
	{ name => 'values', counts => ['accepted'], least => [0.1] },
	{ name => 'csv', more => [ 'regclass', 'nothing' ], counts => [ 'accepted', 'fields' ], least => [ 0.2, 0.4 ] },
	{ name => 'states', counts => [ 'loaded', 'finished', 'merged' ], least => [ 0.2, 0.2, 0.2 ] },
	{ name => 'lateness', counts => [ 'loaded', 'moved a watermark' ], least => [ 0.2, 0.2 ] },
	{ name => 'messages', more => [ 'regclass', 'pushed' ], counts => [ 'read', 'rows' ], least => [ 0.2, 0.5 ] });

for my $fuzzer (@fuzzers)
{
	my $name = "weir_fuzz_$fuzzer->{name}";
	my ($type, $value) = @{ $fuzzer->{more} || [] };
	$node->safe_psql('postgres', "CREATE FUNCTION $name(bigint, bigint, bigint"
		  . ($type ? ", $type" : '') . ") RETURNS bigint[] AS '\$libdir/pg_weir', '$name' LANGUAGE C");

	my ($begun, $first, $error) = (time, 0, '');
	my @total = map { 0 } @{ $fuzzer->{counts} };
	while (time - $begun < $seconds)
	{
		my ($rc, $out, $err) = $node->psql('postgres', "SELECT $name($seed, $first, $rounds" . ($type ? ", '$value'" : '') . ')');
		$error = $err if $rc != 0;
		last if $error;
		my @counts = $out =~ /(\d+)/g;
		$total[$_] += $counts[$_] for 0 .. $#total;
		$first += $rounds;
	}
	my $took = time - $begun;
	is($error, '', "$fuzzer->{name}: no difference");
	ok($first > 0 && !grep({ $total[$_] < $first * $fuzzer->{least}[$_] } 0 .. $#total),
		"$fuzzer->{name}: most of the code was reached");
	diag(sprintf '%s: %d rounds, %d a second; %s', $fuzzer->{name}, $first, $first / ($took || 1),
		join ', ', map { "$total[$_] $fuzzer->{counts}[$_]" } 0 .. $#total);
}

unlike(slurp_file($node->logfile), qr/PANIC|TRAP|terminated by signal/, 'nothing has ended the server');
$node->stop;
done_testing();
