# WeirSession: a psql that stays, for tests that ask thousands of questions.
#
#     my $session = WeirSession->new($node);
#     my $rows = $session->sql('SELECT 1');       # dies with the server's error
#     my ($rows, $error) = $session->try($sql);   # '' if there was none
#
# Starting a psql costs some 30 ms of the machine; a question to one that is there
# costs 1.  The error is "42601: message", of several the first, and 'lost' when
# the connection is gone; then reconnect() waits for the server.
package WeirSession;

use strict;
use warnings;

use Carp;
use IO::Handle;
use IPC::Open2 ();
use POSIX qw(WNOHANG);
use Time::HiRes qw(sleep time);

my $asked = 0;

# new(node, dbname)
sub new
{
	my ($class, $node, $dbname) = @_;
	my $self = bless {
		node   => $node,
		dbname => defined $dbname ? $dbname : 'postgres',
		owner  => $$,
	}, $class;
	$self->_open;
	return $self;
}

sub _open
{
	my ($self) = @_;
	$self->close;
	# errors come among the rows, where they can be told from them
	$self->{pid} = IPC::Open2::open2($self->{out}, $self->{in}, 'sh', '-c', 'exec "$@" 2>&1', 'sh',
		'psql', '-XAtq', '-v', 'VERBOSITY=verbose', '-v', 'SHOW_CONTEXT=never', '-d', $self->{node}->connstr($self->{dbname}));
	$self->{in}->autoflush(1);
	return;
}

sub close
{
	my ($self) = @_;
	my $pid = delete $self->{pid};
	delete @$self{qw(in out)};
	return unless $pid && $self->{owner} == $$;
	local ($?, $!);
	for (1 .. 500)
	{
		return if waitpid($pid, WNOHANG) != 0;
		sleep 0.002;
	}
	kill 'KILL', $pid;
	waitpid($pid, 0);
	return;
}

sub DESTROY { my ($self) = @_; local ($@, $?, $!); $self->close; return }

# try(sql): ( rows, error ).  A transaction that failed is rolled back.
sub try
{
	my ($self, $sql) = @_;
	my $end = 'answered ' . ++$asked;
	local $SIG{PIPE} = 'IGNORE';
	return ('', 'lost') unless $self->{in} && print { $self->{in} } "$sql\n;\n\\echo $end\n";
	my (@rows, $error);
	my $lost = 0;
	while (defined(my $line = readline $self->{out}))
	{
		chomp $line;
		if ($line eq $end)
		{
			last if $lost;
			$self->try('ROLLBACK') if defined $error && $sql =~ /\bBEGIN\b/;
			return (join("\n", @rows), defined $error ? $error : '');
		}
		if ($line =~ /^(?:psql:\S* )?(?:ERROR|FATAL|PANIC):\s+(\w{5}: .*)/) { $error = $1 unless defined $error }
		# psql goes on to the end of its input
		elsif ($line =~ /^server closed the connection|^could not (?:send|receive) data|connection to server was lost|^psql: error/) { $lost = 1 }
		elsif ($line =~ /^(?:psql:\S* )?(?:LOCATION|HINT|DETAIL|LINE \d+|WARNING|NOTICE|CONTEXT|QUERY):|^\s+\^$|^\s+This probably|^\s+before or/) { }
		else { push @rows, $line }
	}
	$self->close;
	return ('', 'lost' . (defined $error ? ": $error" : ''));
}

# sql(text): rows
sub sql
{
	my ($self, $sql) = @_;
	my ($rows, $error) = $self->try($sql);
	croak "$error\nfrom: $sql" if $error ne '';
	return $rows;
}

# reconnect(seconds = 60): true once the server answers
sub reconnect
{
	my ($self, $seconds) = @_;
	my $deadline = time + ($seconds || 60);
	while (1)
	{
		$self->_open;
		my ($rows, $error) = $self->try('SELECT 1');
		return 1 if $error eq '' && $rows eq '1';
		return 0 if time > $deadline;
		sleep 0.03;
	}
}

1;
