# WeirBroker: a Kafka broker for a TAP test, the embedded one or Apache Kafka,
# behind one interface.
#
#     my $broker = WeirBroker->new;               # kind by WEIR_KAFKA
#     $broker->create_topic('clicks', 3);
#     $broker->produce('clicks', [0, 'key', '{"a": 1}'], [1, undef, '{}']);
#     my %w = $broker->watermarks('clicks');      # ( 0 => [0, 1], ... )
#
# The embedded broker (test/lib/weir_broker) starts in milliseconds and keeps
# 5 MiB a partition; the real one (test/lib/kafka_real) takes seconds and does
# everything else.  What a kind cannot do dies; ask is_real() and skip.
#
# Nothing of ours outlives the test: brokers are stopped by pid when the object
# goes, at END, and by the kernel if the test itself is killed.  This module
# knows nothing of PostgreSQL, so programs other than TAP tests may use it.
package WeirBroker;

use strict;
use warnings;

use Carp;
use Cwd qw(abs_path);
use File::Basename qw(dirname);
use File::Temp ();
use IO::Handle;
use IO::Socket::INET;
use IPC::Open2 ();
use IPC::Run ();
use POSIX qw(WNOHANG);
use Scalar::Util qw(weaken);
use Time::HiRes qw(sleep time);

my $here = dirname(abs_path(__FILE__));
my %alive;    # every broker and producer that this process has started

# A test that is told to stop must still run its END blocks.
for my $signal (qw(INT TERM HUP))
{
	$SIG{$signal} = sub { die "caught SIG$signal\n" }
	  unless defined $SIG{$signal} && $SIG{$signal} ne '';
}

# ---------------------------------------------------------------- life

# new(kind => 'embedded' | 'real', topics => { name => partitions })
sub new
{
	my ($class, %param) = @_;
	my $kind = $param{kind} || $ENV{WEIR_KAFKA} || 'embedded';
	my $self = bless {
		kind  => $kind,
		owner => $$,
		dir   => File::Temp->newdir('weir_broker_XXXXXX', TMPDIR => 1),
	}, $class;

	build_tools();
	$alive{$self} = $self;
	weaken($alive{$self});
	if ($kind eq 'embedded')
	{
		$self->_start_embedded;
	}
	elsif ($kind eq 'real')
	{
		$self->{port} = _free_port();
		$self->_start_real;
	}
	else
	{
		croak "no such kind of broker: $kind";
	}
	my $topics = $param{topics} || {};
	$self->create_topic($_, $topics->{$_}) for sort keys %$topics;
	return $self;
}

sub kind    { return $_[0]{kind} }
sub is_real { return $_[0]{kind} eq 'real' }
sub pid     { return $_[0]{pid} }

# "host:port"
sub bootstrap { return $_[0]{bootstrap} }

# The programs beside this file, for tests that run them by themselves.
sub tool { my (undef, $name) = @_; return "$here/$name" }

# Compile them if nobody has (./check has).
sub build_tools
{
	return if -x "$here/weir_broker" && -x "$here/weir_produce";
	my $log = '';
	IPC::Run::run([ 'make', '-s', '-C', $here ], '>&', \$log)
	  or die "could not build $here: $log";
	return;
}

sub _start_embedded
{
	my ($self) = @_;
	$self->{pid} = IPC::Open2::open2($self->{answers}, $self->{orders},
		"$here/weir_broker", '--control');
	$self->{orders}->autoflush(1);
	my $address = readline $self->{answers};
	die "the embedded broker did not start\n" unless defined $address;
	chomp($self->{bootstrap} = $address);
	return;
}

# The port is chosen once: a broker that comes back comes back where it was.
sub _start_real
{
	my ($self) = @_;
	my $log = "$self->{dir}/broker.log";
	my $parent = $$;
	my $pid = fork;
	die "fork: $!" unless defined $pid;
	if ($pid == 0)
	{
		# setpriv's parent-death signal does not see a parent that died before
		POSIX::_exit(1) if getppid() != $parent;
		open STDIN,  '<',  '/dev/null';
		open STDOUT, '>>', $log;
		open STDERR, '>>', $log;
		exec 'setpriv', '--pdeathsig', 'KILL', "$here/kafka_real",
		  "$self->{dir}/kafka", $self->{port}
		  or POSIX::_exit(1);
	}
	$self->{pid}       = $pid;
	$self->{bootstrap} = "127.0.0.1:$self->{port}";
	eval { $self->wait_up(90); 1 } or do
	{
		my $why = $@;
		open my $fh, '<', $log;
		my @lines = defined $fh ? <$fh> : ();
		splice @lines, 0, -30 if @lines > 30;
		die "Apache Kafka did not start: $why", @lines;
	};
	return;
}

# wait_up(seconds): until the broker answers
sub wait_up
{
	my ($self, $seconds) = @_;
	$self->_tool('--ping', '--timeout=' . ($seconds || 30));
	return;
}

# stop(signal = TERM): gone when it returns
sub stop
{
	my ($self, $signal) = @_;
	_end($self->{pid}, $signal || 'TERM') if $self->{owner} == $$;
	delete $self->{pid};
	delete @$self{qw(orders answers)};
	return;
}

# real: stop it as `kill -9` would
sub kill9 { my ($self) = @_; return $self->stop('KILL') }

# real: start it again, same port, same data.  (The embedded one would have
# forgotten everything: use down() and up().)
sub start
{
	my ($self) = @_;
	$self->_only_real('start');
	croak 'the broker is running' if $self->{pid};
	return $self->_start_real;
}

# real: restart(signal = TERM)
sub restart
{
	my ($self, $signal) = @_;
	$self->_only_real('restart');
	$self->stop($signal);
	return $self->start;
}

# Out of reach, and back, with all its data; for both kinds.
sub down
{
	my ($self) = @_;
	return $self->is_real ? $self->stop : $self->order('down');
}

sub up
{
	my ($self) = @_;
	return $self->is_real ? $self->start : $self->order('up');
}

# embedded: an order of weir_broker's (see there), for faults
sub order
{
	my ($self, $order) = @_;
	croak "only the embedded broker takes the order: $order" if $self->is_real;
	print { $self->{orders} } "$order\n";
	my $answer = readline $self->{answers};
	croak "the embedded broker is gone" unless defined $answer;
	chomp $answer;
	croak "$order: $answer" unless $answer eq 'ok';
	return;
}

sub DESTROY
{
	my ($self) = @_;
	local ($?, $@, $!);
	delete $alive{$self};
	$self->stop('KILL') if $self->{pid};
	return;
}

END
{
	my $status = $?;
	for my $one (values %alive)
	{
		$one->stop('KILL') if defined $one && $one->{pid};
	}
	$? = $status;
}

# Signal a child and wait for its end, insisting after ten seconds.
sub _end
{
	my ($pid, $signal) = @_;
	return unless $pid;
	my $deadline = time + 10;
	kill $signal, $pid;
	local $?;
	while (waitpid($pid, WNOHANG) == 0)
	{
		kill 'KILL', $pid if time > $deadline;
		sleep 0.02;
	}
	return;
}

# Below the kernel's range for outgoing connections, so that a restart finds it
# free; with its neighbour, which becomes the controller's.
sub _free_port
{
	for (1 .. 200)
	{
		my $port = 27000 + 2 * int(rand 2400);
		my @held = grep { defined } map {
			IO::Socket::INET->new(
				LocalAddr => '127.0.0.1',
				LocalPort => $port + $_,
				Listen    => 1)
		} 0, 1;
		return $port if @held == 2;
	}
	die 'no free port';
}

sub _only_real
{
	my ($self, $what) = @_;
	croak "only the real broker can $what" unless $self->is_real;
	return;
}

# ---------------------------------------------------------------- topics

# create_topic(name, partitions = 1, config => value ...)
sub create_topic
{
	my ($self, $topic, $partitions, %conf) = @_;
	$partitions ||= 1;
	return $self->order("topic $topic $partitions") unless $self->is_real;
	$self->_tool("--topic=$topic", "--create=$partitions",
		map { "--conf=$_=$conf{$_}" } sort keys %conf);
	# wait until every partition has its leader
	$self->watermarks($topic);
	return;
}

# real: up to so many in all
sub add_partitions
{
	my ($self, $topic, $total) = @_;
	$self->_only_real('add partitions');
	$self->_tool("--topic=$topic", "--partitions=$total");
	for (1 .. 200)
	{
		my %w = $self->watermarks($topic);
		return if keys %w == $total;
		sleep 0.05;
	}
	die "topic $topic did not get $total partitions";
}

# real: what it does not name returns to its default
sub alter_topic
{
	my ($self, $topic, %conf) = @_;
	$self->_only_real('alter a topic');
	$self->_tool("--topic=$topic", '--alter',
		map { "--conf=$_=$conf{$_}" } sort keys %conf);
	return;
}

sub delete_topic
{
	my ($self, $topic) = @_;
	$self->_only_real('delete topics');
	$self->_tool("--topic=$topic", '--delete');
	return;
}

# real: what lies before the offset
sub delete_records
{
	my ($self, $topic, $partition, $before) = @_;
	$self->_only_real('delete records');
	$self->_tool("--topic=$topic", "--delete-records=$partition:$before");
	return;
}

# ( partition => [low, high], ... )
sub watermarks
{
	my ($self, $topic) = @_;
	return _table($self->_tool("--topic=$topic", '--watermarks'));
}

# committed(topic, group): ( partition => offset, ... ) that it has told the broker
sub committed
{
	my ($self, $topic, $group) = @_;
	return map { split /\t/ } split /\n/, $self->_tool("--topic=$topic", "--committed=$group");
}

# ---------------------------------------------------------------- messages

# produce(topic, row ...): a row is [partition, key, value, timestamp in ms,
# { header => value }] (undef is null; trailing fields may be left out) or a
# line in the format of weir_produce.  Returns ( partition => [first, last] ).
sub produce
{
	my ($self, $topic, @rows) = @_;
	return _table($self->_tool({ in => _lines(@rows) }, "--topic=$topic", '--report'));
}

# produce_compressed(topic, codec, row ...): small on its way, however large it is
sub produce_compressed
{
	my ($self, $topic, $codec, @rows) = @_;
	return _table($self->_tool({ in => _lines(@rows) }, "--topic=$topic", '--report', "--compression=$codec"));
}

# produce_file(topic, path): a file of such lines
sub produce_file
{
	my ($self, $topic, $file) = @_;
	return _table($self->_tool({ file => $file }, "--topic=$topic", '--report'));
}

# transaction(topic, 'commit' or 'abort', row ...): one Kafka transaction
sub transaction
{
	my ($self, $topic, $end, @rows) = @_;
	my $lines = _lines(@rows);
	return _table(
		$self->_tool(
			{ in => "!begin\n$lines!$end\n" }, "--topic=$topic",
			'--report', "--transactional-id=weir_$$"));
}

# A producer that stays, for a transaction that stays open:
#     my $p = $broker->producer('clicks', 'my-id');
#     $p->order('!begin'); $p->send([0, 'k', 'v']); $p->order('!flush');
#     ... $p->order('!commit'); $p->stop;      # or $p->kill9
sub producer
{
	my ($self, $topic, $id) = @_;
	return WeirBroker::Producer->new("$here/weir_produce",
		"--bootstrap=$self->{bootstrap}", "--topic=$topic", '--answer',
		(defined $id ? ("--transactional-id=$id") : ()));
}

# consume(topic): what is in it, by librdkafka and nothing of ours, as lines
# "partition offset timestamp key value", tab-separated with COPY's escapes.
# Committed messages only, unless told 'read_uncommitted'.
sub consume
{
	my ($self, $topic, $isolation) = @_;
	return split /\n/,
	  $self->_tool("--topic=$topic", '--consume',
		'--isolation=' . ($isolation || 'read_committed'));
}

sub _escape
{
	my ($s) = @_;
	return '\N' unless defined $s;
	utf8::encode($s) if utf8::is_utf8($s);
	$s =~ s/([\\\t\n\r\0])/sprintf '\\x%02x', ord $1/ge;
	return $s;
}

sub _line
{
	my ($row) = @_;
	return $row =~ /\n\z/ ? $row : "$row\n" unless ref $row;
	my ($partition, $key, $value, $timestamp, $headers) = @$row;
	my @field = (
		defined $partition ? $partition : '\N',
		_escape($key), _escape($value));
	push @field, defined $timestamp ? $timestamp : '\N' if @$row > 3;
	push @field, map { "$_=" . _escape($headers->{$_}) } sort keys %$headers
	  if $headers;
	return join("\t", @field) . "\n";
}

sub _lines { return join '', map { _line($_) } @_ }

sub _table
{
	return map { my ($p, $a, $b) = split /\t/; $p => [ $a, $b ] } split /\n/, $_[0];
}

# Run weir_produce; its output, or die with what it said.  Nothing takes longer
# than two minutes.
sub _tool
{
	my ($self, @arg) = @_;
	my $opt = ref $arg[0] ? shift @arg : {};
	my $in  = defined $opt->{in} ? $opt->{in} : '';
	my ($out, $err) = ('', '');
	my $ok = IPC::Run::run(
		[ "$here/weir_produce", "--bootstrap=$self->{bootstrap}", @arg ],
		'<', (defined $opt->{file} ? $opt->{file} : \$in),
		'>',  \$out,
		'2>', \$err,
		IPC::Run::timeout(120));
	croak $err || "weir_produce @arg failed" unless $ok;
	return $out;
}

# ---------------------------------------------------------------- producers

package WeirBroker::Producer;

use strict;
use warnings;
use Carp;

sub new
{
	my ($class, @command) = @_;
	my $self = bless { owner => $$ }, $class;
	$self->{pid} = IPC::Open2::open2($self->{out}, $self->{in}, @command);
	$self->{in}->autoflush(1);
	$alive{$self} = $self;
	Scalar::Util::weaken($alive{$self});
	return $self;
}

# Rows as produce() takes them; !flush afterwards to be sure that they arrived.
sub send
{
	my ($self, @rows) = @_;
	print { $self->{in} } WeirBroker::_lines(@rows) or croak "producer: $!";
	return;
}

# !begin, !commit, !abort, !flush; done when it returns
sub order
{
	my ($self, $order) = @_;
	print { $self->{in} } "$order\n" or croak "producer: $!";
	my $answer = readline $self->{out};
	croak "the producer did not survive $order" unless defined $answer;
	return;
}

# At once and without closing a transaction: the broker aborts that in time.
sub kill9 { my ($self) = @_; return $self->stop('KILL') }

sub stop
{
	my ($self, $signal) = @_;
	close delete $self->{in} if $self->{in} && !$signal;
	if ($self->{owner} == $$)
	{
		local $?;
		$signal
		  ? WeirBroker::_end($self->{pid}, $signal)
		  : waitpid($self->{pid}, 0);
	}
	delete $self->{pid};
	return;
}

sub DESTROY
{
	my ($self) = @_;
	local ($?, $@, $!);
	delete $alive{$self};
	$self->stop('KILL') if $self->{pid};
	return;
}

1;
