# The brokers that the other tests stand on: what goes in comes out, at the
# offsets expected, and nothing is left running.  No server, no extension.
use strict;
use warnings;

use Test::More;
use WeirBroker;

my $broker = WeirBroker->new(topics => { clicks => 3 });

# Messages keep their bytes, keys, nulls, timestamps and order.
{
	my %at = $broker->produce('clicks',
		[ 0, 'k', "{\"a\": \"x\ty\\n\"}" ],
		[ 0, undef, undef, 1700000000123 ],
		[ 2, "\0b", "two\nlines", undef, { h => 'v', n => undef } ]);
	is_deeply(\%at, { 0 => [ 0, 1 ], 2 => [ 0, 0 ] }, 'produced where told');
	is_deeply(
		{ $broker->watermarks('clicks') },
		{ 0 => [ 0, 2 ], 1 => [ 0, 0 ], 2 => [ 0, 1 ] },
		'watermarks');
	my @rows = sort $broker->consume('clicks');
	like($rows[0], qr/^0\t0\t\d+\tk\t\{"a": "x\\ty\\\\n"\}$/, 'a value with escapes');
	is($rows[1], "0\t1\t1700000000123\t\\N\t\\N", 'nulls and a timestamp');
	like($rows[2], qr/^2\t0\t\d+\t\\x00b\ttwo\\nlines$/, 'control characters');
}

# 45,000 messages, from a file, quickly and in order.
{
	$broker->create_topic('many', 3);
	my $file = File::Temp->new;
	printf $file "%d\tk%d\t{\"n\":%d}\n", $_ % 3, $_ % 100, $_ for 0 .. 44_999;
	close $file;
	my $started = time;
	my %at = $broker->produce_file('many', "$file");
	cmp_ok(time - $started, '<', 20, 'bulk is quick');
	is_deeply(\%at, { map { $_ => [ 0, 14_999 ] } 0 .. 2 }, 'bulk is complete');
	my (%next, $disorder);
	for ($broker->consume('many'))
	{
		my ($p, $o, undef, undef, $v) = split /\t/;
		$disorder++ unless $v eq sprintf '{"n":%d}', 3 * $o + $p;
		$disorder++ unless $o == ($next{$p} || 0);
		$next{$p} = $o + 1;
	}
	is($disorder, undef, 'bulk is in order');
}

# A broker out of reach is an error in bounded time, and comes back whole.
{
	$broker->down;
	my $started = time;
	my $ok = eval { $broker->_tool('--topic=clicks', '--watermarks', '--timeout=2'); 1 };
	ok(!$ok, 'a broker that is down does not answer');
	cmp_ok(time - $started, '<', 15, 'and the question does not hang');
	$broker->up;
	$broker->wait_up;
	my %w = $broker->watermarks('clicks');
	is_deeply($w{0}, [ 0, 2 ], 'it comes back with its data');
}

SKIP:
{
	skip 'the embedded broker has none of these', 13 unless $broker->is_real;

	# Transactions: aborted messages occupy offsets and are never read.
	$broker->create_topic('txn', 1);
	$broker->transaction('txn', 'commit', [ 0, 'a', 'kept' ]);
	$broker->transaction('txn', 'abort',  [ 0, 'b', 'aborted' ]);
	my $open = $broker->producer('txn', 'stays-open');
	$open->order('!begin');
	$open->send([ 0, 'c', 'open' ]);
	$open->order('!flush');
	my @values = map { (split /\t/)[4] } $broker->consume('txn');
	is_deeply(\@values, ['kept'], 'committed messages only');
	@values = map { (split /\t/)[4] } $broker->consume('txn', 'read_uncommitted');
	is_deeply(\@values, [ 'kept', 'aborted', 'open' ], 'the others are there');
	$open->order('!commit');
	$open->stop;
	@values = map { (split /\t/)[4] } $broker->consume('txn');
	is_deeply(\@values, [ 'kept', 'open' ], 'committed later');
	my %w = $broker->watermarks('txn');
	is_deeply($w{0}, [ 0, 6 ], 'control records occupy offsets');

	# The head of a partition goes; partitions come.
	$broker->delete_records('many', 0, 100);
	%w = $broker->watermarks('many');
	is_deeply($w{0}, [ 100, 15_000 ], 'records deleted');
	$broker->add_partitions('many', 4);
	%w = $broker->watermarks('many');
	is_deeply($w{3}, [ 0, 0 ], 'partition added');

	# Retention within seconds, by bytes.
	$broker->create_topic('short', 1, 'segment.bytes' => 300_000, 'retention.bytes' => 300_000);
	$broker->produce('short', map { "0\tk\t" . ('x' x 100) } 1 .. 2000) for 1 .. 6;
	my $low = 0;
	for (1 .. 100)
	{
		%w = $broker->watermarks('short');
		last if ($low = $w{0}[0]) > 0;
		select undef, undef, undef, 0.2;
	}
	cmp_ok($low, '>', 0, 'retention deletes the head');

	# Restarted gently or not, it is the same broker.
	my ($before, $pid) = ($broker->bootstrap, $broker->pid);
	$broker->restart;
	is($broker->bootstrap, $before, 'the same address after a restart');
	isnt($broker->pid, $pid, 'another process');
	%w = $broker->watermarks('many');
	is_deeply($w{1}, [ 0, 15_000 ], 'the same data after a restart');
	$broker->restart('KILL');
	%w = $broker->watermarks('many');
	is_deeply($w{1}, [ 0, 15_000 ], 'the same data after kill -9');

	$broker->delete_topic('short');
	ok(!eval { $broker->watermarks('short'); 1 }, 'a deleted topic is unknown');
	ok(!eval { $broker->watermarks('never'); 1 }, 'and asking creates none');
}

# Faults on order.
SKIP:
{
	skip 'only the embedded broker makes faults', 1 if $broker->is_real;
	ok(!eval { $broker->order('dance'); 1 }, 'an unknown order is refused');
}

my $pid = $broker->pid;
undef $broker;
ok(!kill(0, $pid), 'a broker that nobody holds is gone');

done_testing;
