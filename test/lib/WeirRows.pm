# WeirRows: sources that are given rows by expressions, views of every kind over
# them, and memory that has no room for all of it.
#
#     my $rows = WeirRows->new($node, oracle => $oracle, broker => $broker);
#     $rows->source('topic', 's');                # or stream, table
#     my @views = $rows->views_over('s', undef, qw(flat hop));
#     $rows->memory('4MB');
#     $rows->give('s', 6000, k => "'key ' || i");
#     $rows->comes_to('more groups than that', @views);
#
# What a source was given is kept in <source>_heap, an ordinary table, for the
# oracle.  It shares no code with what it tests.
package WeirRows;

use strict;
use warnings;

use POSIX ();
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);
use WeirSession;
use WeirTime;

our $sums = 'count(*) AS c, sum(x) AS s, min(note) AS mn, max(note) AS mx';

# name => [select list, GROUP BY ..., options, kind of window]
our %shapes = (
	flat => [ "k, $sums", 'k', '' ],
	having => [ "n AS k, count(*) AS c, avg(x) AS a", 'n HAVING count(*) % 3 <> 1', "weir.changelog = 'all'" ],
	num => [ "x AS k, count(*) AS c, max(n) AS m", 'x', '' ],
	ci => [ "note AS k, k AS k2, count(*) AS c, sum(n) AS s", 'note, k', '' ],
	tum => [ "k, weir.tumble(ts, '1 minute') AS win, $sums", 'k, win', "weir.watermark = '5 seconds', weir.changelog = 'all'" ],
	tumf => [ "k, weir.tumble(ts, '1 minute') AS win, $sums", 'k, win', "weir.watermark = '5 seconds'" ],
	fin => [ "k, weir.tumble(ts, '1 minute') AS win, $sums", 'k, win', "weir.watermark = '5 seconds', weir.emit = 'final'" ],
	hop => [ "k, weir.hop(ts, '20 seconds', '1 minute') AS win, $sums", 'k, win', "weir.watermark = '5 seconds'" ],
	cum => [ "k, weir.cumulate(ts, '30 seconds', '2 minutes') AS win, $sums", 'k, win', "weir.watermark = '5 seconds', weir.changelog = 'all'" ],
	ses => [ "k, weir.session(ts, '20 seconds') AS win, $sums", 'k, win', "weir.watermark = '5 seconds'", 'session' ],
);

my $columns = 'id bigint, k text, n int, x numeric, note text COLLATE ci, ts timestamptz';

# new(node, oracle => WeirOracle of the database, broker => WeirBroker if there are
# to be topics, time => WeirTime if changelogs are to be looked at)
sub new
{
	my ($class, $node, %param) = @_;
	my $self = bless {
		node    => $node,
		oracle  => $param{oracle},
		broker  => $param{broker},
		time    => $param{time},
		dbname  => $param{oracle}{dbname},
		last_id => 0,
		kind    => {},
	}, $class;
	$self->sql(<<'EOF2');
CREATE COLLATION ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
CREATE FUNCTION moment(double precision) RETURNS timestamptz IMMUTABLE LANGUAGE sql
	AS $$ SELECT timestamptz '2026-05-04 12:00Z' + $1 * interval '1 second' $$;
EOF2
	return $self;
}

sub sql { my ($self, @sql) = @_; return $self->{node}->safe_psql($self->{dbname}, @sql) }
sub last_id { my ($self) = @_; return $self->{last_id} }

# ---------------------------------------------------------------- memory

# memory(size): weir.state_memory from now on; workers look at it before each batch
sub memory
{
	my ($self, $size) = @_;
	$self->_set("weir.state_memory = '$size'");
	return;
}

# keep_groups(n): so many of a view may stay in memory once they are clean; 0: all
sub keep_groups
{
	my ($self, $n) = @_;
	$self->_set("weir.test_groups = $n");
	return;
}

sub _set
{
	my ($self, $line) = @_;
	$self->{node}->append_conf('postgresql.conf', "$line\n");
	$self->{node}->reload;
	return;
}

# Groups in memory and on disk, as of the last commit
sub stat_of
{
	my ($self, $view) = @_;
	return split /\|/, $self->sql("SELECT groups_in_memory, groups_on_disk FROM weir.stat_views WHERE view = '$view'::regclass");
}

# Of how many groups there is nothing in memory
sub away
{
	my ($self, $view) = @_;
	my ($in_memory, $on_disk) = $self->stat_of($view);
	return $on_disk - $in_memory;
}

sub state_table
{
	my ($self, $view) = @_;
	return $self->sql("SELECT 'weir_data.state_' || id FROM weir_data.views WHERE relid = '$view'::regclass");
}

# most_taken(code): the most that all views of the server took while the code ran, in
# bytes, and how often somebody looked: a process that does nothing else
sub most_taken
{
	my ($self, $code) = @_;
	my $file = PostgreSQL::Test::Utils::tempdir() . '/taken';
	my $pid = fork;
	die "fork: $!" unless defined $pid;
	_look($self, $file) if $pid == 0;
	my $done = eval { $code->(); 1 };
	my $error = $@;
	kill 'TERM', $pid;
	waitpid $pid, 0;
	die $error unless $done;
	my ($most, $looks) = split / /, slurp_file($file);
	note("$most bytes at most, in $looks looks");
	return ($most, $looks);
}

sub _look
{
	my ($self, $file) = @_;
	my ($most, $looks, $stop) = (0, 0, 0);
	local $SIG{TERM} = sub { $stop = 1 };
	eval {
		my $session = WeirSession->new($self->{node}, $self->{dbname});
		until ($stop)
		{
			my $bytes = $session->sql('SELECT weir.state_memory_taken()');
			$most = $bytes if $bytes > $most;
			$looks++;
			sleep 0.002;
		}
		$session->close;
	};
	open my $fh, '>', $file;
	print $fh "$most $looks";
	close $fh;
	# nothing of the test's is ours to end
	POSIX::_exit(0);
}

# --------------------------------------------------------------- sources

sub source
{
	my ($self, $kind, $name) = @_;
	$self->{kind}{$name} = $kind;
	if ($kind eq 'table')
	{
		$self->sql("CREATE TABLE $name ($columns); ALTER TABLE $name REPLICA IDENTITY FULL; CREATE VIEW ${name}_heap AS TABLE $name");
		return;
	}
	if ($kind eq 'topic')
	{
		$self->{broker}->create_topic($name, 1);
		$self->sql("CREATE FOREIGN TABLE $name ($columns) SERVER kafka OPTIONS (topic '$name')");
	}
	else
	{
		$self->sql("CREATE FOREIGN TABLE $name ($columns) SERVER weir_stream");
	}
	$self->sql("CREATE TABLE ${name}_heap ($columns)");
	return;
}

# drop(source ...): and all views that the oracle knows
sub drop
{
	my ($self, @names) = @_;
	for my $name (@names)
	{
		my $kind = delete $self->{kind}{$name} or next;
		$self->{oracle}->forget($self->{oracle}->names);
		$self->sql('DROP ' . ($kind eq 'table' ? '' : 'FOREIGN ') . "TABLE $name CASCADE; DROP "
			  . ($kind eq 'table' ? 'VIEW IF EXISTS' : 'TABLE') . " ${name}_heap");
	}
	return;
}

# give(source, n, column => expression of i, ...): n rows
sub give
{
	my ($self, $name, $n, %of) = @_;
	my $first = $self->{last_id} + 1;
	my $last = $self->{last_id} += $n;
	my %e = (
		k => "'k' || i % 23",
		n => 'i % 17',
		x => '(i % 29) / 4.0',
		note => "(ARRAY['a','A','b','B','long ' || repeat('y', (i % 40)::int), NULL])[1 + i % 6]",
		ts => 'moment(i)',
		%of);
	my $rows = "SELECT i, $e{k}, $e{n}, $e{x}, $e{note}, $e{ts} FROM generate_series($first, $last) i";
	my $kind = $self->{kind}{$name};
	my $heap = $kind eq 'table' ? $name : "${name}_heap";
	$self->sql($kind eq 'table' ? "INSERT INTO $name $rows"
		: $kind eq 'stream' ? "BEGIN; INSERT INTO $heap $rows; INSERT INTO $name $rows; COMMIT"
		: "INSERT INTO $heap $rows; INSERT INTO $name $rows");
	return;
}

# After a crash in the middle of give(): the topic has the rows that it has
sub reconcile
{
	my ($self, $name) = @_;
	$self->sql("BEGIN; TRUNCATE ${name}_heap; INSERT INTO ${name}_heap TABLE $name; COMMIT");
	return;
}

# ----------------------------------------------------------------- views

# view(name, Q over a source, options, truth => SQL): the truth is Q over the heap
sub view
{
	my ($self, $name, $query, $with, %param) = @_;
	my $truth = $param{truth} || $query =~ s/\bFROM (\w+)/FROM $1_heap/r;
	$with = join ', ', "weir.commit_interval = '10 ms'", $with ? $with : ();
	$self->{oracle}->create($name, $query, with => $with, truth => $truth, by => 'value');
	return;
}

# The heap without the pairs of row and window that are in weir.late_rows
sub without_late
{
	my ($view, $source) = @_;
	return qq{(SELECT * FROM ${source}_heap h WHERE NOT EXISTS (SELECT FROM weir.late_rows l
		WHERE l.view = '$view'::regclass AND (l."row"->>'ts')::timestamptz = h.ts)) h};
}

# views_over(source, more options, shapes or nothing for all): their names
sub views_over
{
	my ($self, $source, $more, @names) = @_;
	@names = sort keys %shapes unless @names;
	for my $name (@names)
	{
		my ($list, $by, $with, $kind) = @{ $shapes{$name} };
		my %param;
		$param{truth} = WeirTime::sessions("${source}_heap", 'k', '20 seconds', $sums) if $kind;
		# what v shows is what has closed
		$param{truth} = "SELECT * FROM (SELECT $list FROM ${source}_heap GROUP BY $by) q
			WHERE upper(win) <= (SELECT watermark FROM weir.views WHERE view = '${name}_$source'::regclass)" if $name eq 'fin';
		$self->view("${name}_$source", "SELECT $list FROM $source GROUP BY $by", join(', ', grep { $_ } $with, $more), %param);
	}
	return map { "${_}_$source" } @names;
}

# exact(what, views): and their changelogs fold to them
sub exact
{
	my ($self, $what, @views) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$self->{oracle}->same($what, @views) or return 0;
	for my $view ($self->{time} ? @views : ())
	{
		next unless $self->sql("SELECT to_regclass('${view}_changes') IS NOT NULL") eq 't';
		my ($shape) = $view =~ /^([a-z]+)_/;
		next unless $shapes{$shape};
		my $with = $shapes{$shape}[2];
		my $mode = $with =~ /changelog = 'all'/ ? 'all' : 'final';
		$self->{time}->sound($view, $what, mode => $mode, emit => $with =~ /emit = 'final'/ ? 'final' : undef,
			kind => $shapes{$shape}[3], jumps => 1);
	}
	return 1;
}

# comes_to(what, views): exact, in the end.  A view may have stalled until others
# had given back memory.
sub comes_to
{
	my ($self, $what, @views) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $until = time + 60;
	while ($self->{oracle}->differences(1, @views) && time < $until) { sleep 0.2 }
	return $self->exact($what, @views);
}

1;
