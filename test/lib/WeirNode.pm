# WeirNode: a PostgreSQL server with pg_weir loaded, for TAP tests.
#
#     my $node = WeirNode->start_new('main');
#     create_kafka($node, $broker);               # extension and server "kafka"
#     $node->wait_until('SELECT count(*) FROM v', 100);
#
# It is PostgreSQL::Test::Cluster with our settings, with waiting that fails
# loudly, and with the ways of dying that our tests are about.  Everything that
# Cluster offers (safe_psql, psql, restart, backup, ...) is there.
package WeirNode;

use strict;
use warnings;

use parent -norequire, 'PostgreSQL::Test::Cluster';
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;

use Carp;
use Exporter qw(import);
use Test::More;
use Time::HiRes qw(sleep time);

our @EXPORT = qw(create_kafka sql_literal);

# Cluster stops its servers at END, which a signal would not reach.
for my $signal (qw(INT TERM HUP))
{
	$SIG{$signal} = sub { die "caught SIG$signal\n" }
	  unless defined $SIG{$signal} && $SIG{$signal} ne '';
}

# start_new(name, conf => "a = b\n", allows_streaming => 0 | 1 | 'logical',
#           no_start => 0 | 1)
sub start_new
{
	my ($class, $name, %param) = @_;
	my $node = $class->new($name);
	$node->init(
		extra => [ '--no-locale', '-E', 'UTF8' ],
		allows_streaming => $param{allows_streaming} || 'logical');
	$node->append_conf('postgresql.conf', settings() . ($param{conf} || ''));
	# any test can be run with nearly all groups on disk
	$node->append_conf('postgresql.conf',
		"weir.test_groups = $ENV{WEIR_TEST_GROUPS}\n")
	  if defined $ENV{WEIR_TEST_GROUPS};
	$node->start unless $param{no_start};
	return $node;
}

# fsync is off already (Cluster): kill -9 of processes loses nothing, only a
# lost machine does.  Cluster turns restart_after_crash off, but how a server
# comes back from a killed worker is what we test.
sub settings
{
	return <<'EOF';
shared_preload_libraries = 'pg_weir'
max_worker_processes = 16
max_connections = 50
restart_after_crash = on
shared_buffers = 64MB
max_wal_size = 1GB
autovacuum_naptime = 10s
log_statement = 'none'
log_min_messages = info
log_autovacuum_min_duration = -1
jit = off
lc_messages = 'C'
timezone = 'UTC'
EOF
}

# A postmaster that was killed can stay a zombie for as long as the machine's
# first process pleases.  To the next one it looks alive, so its lock files have
# to go; whoever is not a zombie keeps his.
sub start
{
	my ($self, @rest) = @_;
	for my $file ($self->data_dir . '/postmaster.pid',
		$self->host . '/.s.PGSQL.' . $self->port . '.lock')
	{
		open my $fh, '<', $file or next;
		chomp(my $pid = readline $fh);
		unlink $file if _is_dead($pid);
	}
	return $self->SUPER::start(@rest);
}

sub sql_literal
{
	my ($s) = @_;
	$s =~ s/'/''/g;
	return "'$s'";
}

# create_kafka(node, broker, server = 'kafka', dbname = 'postgres')
sub create_kafka
{
	my ($node, $broker, $server, $dbname) = @_;
	$server = 'kafka'    unless defined $server;
	$dbname = 'postgres' unless defined $dbname;
	my $address = sql_literal($broker->bootstrap);
	$node->safe_psql($dbname, <<"EOF");
CREATE EXTENSION IF NOT EXISTS pg_weir;
CREATE SERVER $server FOREIGN DATA WRAPPER weir_kafka
	OPTIONS (bootstrap_servers $address);
EOF
	return;
}

# wait_until(sql, expected = 't', seconds = 30, dbname = 'postgres'): until the
# query answers so.  Errors count as "not yet": the server may be coming back.
# True or false; on false says what it got, for the test to report.
sub wait_until
{
	my ($self, $sql, $expected, $seconds, $dbname) = @_;
	$expected = 't' unless defined $expected;
	my $deadline = time + ($seconds || 30);
	my ($pause, $rc, $out, $err) = (0.02);

	while (1)
	{
		($rc, $out, $err) = $self->_try($sql, $dbname);
		return 1 if $rc == 0 && $out eq $expected;
		last if time > $deadline;
		sleep $pause;
		$pause = $pause * 1.5 if $pause < 0.3;
	}
	diag("wait_until: expected\n$expected\nbut got\n"
		  . ($rc == 0 ? $out : "an error: $err")
		  . "\nfrom\n$sql");
	return 0;
}

sub _try
{
	my ($self, $sql, $dbname) = @_;
	my ($out, $err) = ('', '');
	# psql that cannot connect may be gone before it was given its input, and
	# IPC::Run dies of that
	my $rc = eval {
		$self->psql(
			defined $dbname ? $dbname : 'postgres', $sql,
			stdout => \$out, stderr => \$err, on_error_stop => 1);
	};
	($rc, $err) = (2, "connection to server failed: $@") unless defined $rc;
	return ($rc, $out, $err);
}

# patient_psql(sql, seconds = 60): what it answers, from a server that may just be
# going down or coming back; then once more.
sub patient_psql
{
	my ($self, $sql, $seconds) = @_;
	my $deadline = time + (defined $seconds ? $seconds : 60);
	while (1)
	{
		my ($rc, $out, $err) = $self->_try($sql);
		return $out if $rc == 0;
		die "$err\nfrom: $sql" if time > $deadline || $err !~
		  /terminating connection|server closed|not yet accepting|starting up|shutting down|in recovery mode|could not connect|connection to server/;
		sleep 0.1;
	}
}

# error_of(sql, dbname = 'postgres'): "57014: message" of what it raises, or ''
sub error_of
{
	my ($self, $sql, $dbname) = @_;
	my $err = '';
	eval {
		$self->psql(
			defined $dbname ? $dbname : 'postgres', $sql,
			stderr => \$err,
			on_error_stop => 1,
			extra_params => [ '-v', 'VERBOSITY=verbose' ]);
		1;
	} or $err = "FATAL: $@";
	return $err =~ /^(?:psql:\S+ )?(?:ERROR|FATAL):  (\w{5}: .*)$/m ? $1 : $err =~ /(?:ERROR|FATAL)/ ? $err : '';
}

# wait_ready(seconds = 60): until it accepts connections, after a crash
sub wait_ready
{
	my ($self, $seconds) = @_;
	return $self->wait_until('SELECT 1', '1', $seconds || 60);
}

# Pids of our processes: worker_pids(dbname, kind = 'pg_weir worker')
sub worker_pids
{
	my ($self, $dbname, $kind) = @_;
	my $sql = 'SELECT pid FROM pg_stat_activity WHERE backend_type = '
	  . sql_literal($kind || 'pg_weir worker');
	$sql .= ' AND datname = ' . sql_literal($dbname) if defined $dbname;
	return split /\n/, $self->safe_psql('postgres', "$sql ORDER BY pid");
}

# kill9_worker(dbname, kind): kill -9 the worker (waiting for there to be one)
# and wait until the server, which restarts every session for it, is back.
# Returns the pid that was killed.
sub kill9_worker
{
	my ($self, $dbname, $kind) = @_;
	my @pids;
	my $deadline = time + 30;

	until (@pids = $self->worker_pids($dbname, $kind))
	{
		croak 'no worker to kill' if time > $deadline;
		sleep 0.05;
	}
	my $seen = -s $self->logfile;
	kill 9, @pids;
	# before the server has noticed, "ready" would mean nothing
	$self->wait_for_log(qr/all server processes terminated; reinitializing/, $seen);
	$self->wait_ready or croak 'the server did not come back';
	return $pids[0];
}

# kill9(): the postmaster alone, as Cluster does it, but dead when it returns.
# Returns the pids of its children, which should notice and go by themselves:
# start() before they have (wait_gone) is refused by PostgreSQL.
sub kill9
{
	my ($self) = @_;
	my $postmaster = $self->{_pid} or return;
	kill 'STOP', $postmaster;
	my @children = _children($postmaster);
	kill 9, $postmaster;
	$self->wait_gone($postmaster);
	$self->{_pid} = undef;
	return @children;
}

# crash_server(): kill -9 the postmaster and all its children, as the machine's
# end would, and start it again.  crash_server(no_start => 1) leaves it down.
sub crash_server
{
	my ($self, %param) = @_;
	my $postmaster = $self->{_pid} or croak 'the server is not running';

	# stopped, it cannot start another child while we look for them
	kill 'STOP', $postmaster;
	my @children = _children($postmaster);
	kill 9, $postmaster, @children;
	$self->wait_gone($postmaster, @children);
	$self->{_pid} = undef;
	$self->start unless $param{no_start};
	return;
}

# set_fault('point:action:n'), set_fault('') takes it back.  For a postmaster that
# may be dead or restarting: no SQL, no pg_ctl.  The node's configuration has
# include_if_exists = 'fault.conf'.
sub set_fault
{
	my ($self, $fault) = @_;
	my $file = $self->data_dir . '/fault.conf';
	open my $fh, '>', $file or die "$file: $!";
	print $fh "weir.fault = '$fault'\n";
	close $fh;
	kill 'HUP', $self->{_pid} if $self->{_pid};
	return;
}

# revive(): after a fault has ended the postmaster.  Until a child of a postmaster
# that was killed has noticed, the new one is refused.
sub revive
{
	my ($self) = @_;
	my $deadline = time + 60;
	$self->wait_gone($self->{_pid}) if $self->{_pid};
	$self->{_pid} = undef;
	until ($self->start(fail_ok => 1))
	{
		BAIL_OUT('the server does not start') if time > $deadline;
		sleep 0.2;
		# a start that failed has read the pid of the dead one
		$self->{_pid} = undef;
	}
	return;
}

sub _children
{
	my ($parent) = @_;
	my @found;
	for my $file (glob '/proc/[0-9]*/stat')
	{
		open my $fh, '<', $file or next;
		my $stat = <$fh>;
		# pid (name, which may hold anything) state ppid
		push @found, $1
		  if defined $stat && $stat =~ /\A(\d+) \(.*\) \S (\d+) /s && $2 == $parent;
	}
	return @found;
}

# Gone, or a zombie that only waits for its parent's attention
sub _is_dead
{
	my ($pid) = @_;
	open my $fh, '<', "/proc/$pid/stat" or return 1;
	my $stat = <$fh>;
	return !defined $stat || $stat =~ /\A\d+ \(.*\) [ZX] /s;
}

# unmapped_segments(): the dynamic shared memory that no process of the server has.
# The server has dynamic_shared_memory_type = mmap, which makes segments files; its
# own, for control and statistics, are somebody's too.
sub unmapped_segments
{
	my ($self) = @_;
	my %mapped;
	# who looks at statistics maps theirs
	my $maps = $self->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_all_tables; SELECT pg_read_file('/proc/self/maps')});
	for my $pid ($self->{_pid}, _children($self->{_pid}))
	{
		$maps .= slurp_file("/proc/$pid/maps") if -r "/proc/$pid/maps";
	}
	$mapped{$1} = 1 while $maps =~ m{/pg_dynshmem/(mmap\.\d+)}g;
	return grep { !$mapped{$_} } map { m{([^/]+)\z} } glob $self->data_dir . '/pg_dynshmem/mmap.*';
}

# wait_gone(pid ...): until all are; half a minute at most
sub wait_gone
{
	my ($self, @pids) = @_;
	my $deadline = time + 30;
	for my $pid (@pids)
	{
		until (_is_dead($pid))
		{
			croak "process $pid does not die" if time > $deadline;
			sleep 0.02;
		}
	}
	return;
}

1;
