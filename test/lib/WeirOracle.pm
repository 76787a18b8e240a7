# WeirOracle: continuous views over tables, held against PostgreSQL's own answer.
#
#     my $oracle = WeirOracle->new($node);
#     $oracle->create('per_key', 'SELECT k, count(*) FROM t GROUP BY k');
#     $oracle->same('after an insert');            # all views, or those named
#
# Q is the text that the view was created from, run as an ordinary query in the
# same snapshot as the view is read: EXCEPT ALL, both ways.  Rows are compared as
# text, which is stricter than the = of their types (1.0 and 1.00 differ), except
# for views created with by => 'value'.
#
# It shares no code with what it tests, and knows nothing of how a view comes to
# its rows.
package WeirOracle;

use strict;
use warnings;

use Carp;
use Test::More;
use Time::HiRes qw(time);

sub new
{
	my ($class, $node, %param) = @_;
	return bless {
		node    => $node,
		dbname  => $param{dbname} || 'postgres',
		timeout => $param{timeout} || '30 s',
		views   => {},
	}, $class;
}

# create(name, Q, with => 'weir.x = y, ...', truth => Q of the oracle if that is
# another one, by => 'value', as => role, no_data => 1)
sub create
{
	my ($self, $name, $query, %param) = @_;
	$self->{node}->safe_psql($self->{dbname}, $self->statement($name, $query, %param));
	$self->know($name, $query, %param);
	return;
}

sub statement
{
	my ($self, $name, $query, %param) = @_;
	my $with = join ', ', 'weir.continuous', defined $param{with} ? $param{with} : ();
	my $role = defined $param{as} ? "SET ROLE $param{as}; " : '';
	my $end = $param{no_data} ? ' WITH NO DATA' : '';
	return "${role}CREATE TABLE $name WITH ($with) AS $query$end";
}

# A view that exists, or will, without its creation being our business.
sub know
{
	my ($self, $name, $query, %param) = @_;
	$self->{views}{$name} = {
		truth => defined $param{truth} ? $param{truth} : $query,
		by    => $param{by} || 'text' };
	return;
}

sub forget { my ($self, @names) = @_; delete @{ $self->{views} }{@names}; return }
sub names { my ($self) = @_; return sort keys %{ $self->{views} } }

sub drop
{
	my ($self, @names) = @_;
	$self->{node}->safe_psql($self->{dbname}, "DROP TABLE $_") for @names;
	$self->forget(@names);
	return;
}

# SQL that returns one row: 'exact', or what is wrong.
sub comparison
{
	my ($self, $name) = @_;
	my $view = $self->{views}{$name} or croak "no view $name";
	# a column named like the alias would be taken for the row
	my ($ours, $theirs) = ("SELECT row_of_view::text AS r FROM $name row_of_view", 'SELECT row_of_q::text AS r FROM theirs row_of_q');
	($ours, $theirs) = ("SELECT * FROM $name", 'SELECT * FROM theirs') if $view->{by} eq 'value';
	my $wrong = "SELECT 'missing ' || d::text AS w FROM ($theirs EXCEPT ALL $ours) d
			UNION ALL SELECT 'surplus ' || d::text FROM ($ours EXCEPT ALL $theirs) d";
	return "WITH theirs AS MATERIALIZED ($view->{truth}), wrong(w) AS ($wrong)
		SELECT CASE WHEN count(*) = 0 THEN 'exact'
			ELSE format('%s rows wrong of %s: %s', count(*), (SELECT count(*) FROM theirs),
				(SELECT string_agg(left(w, 300), '; ') FROM (SELECT w FROM wrong ORDER BY substr(w, 9), w LIMIT 6) x)) END
		FROM wrong";
}

# differences(wait, name ...): ( name => what is wrong ), empty if all is well;
# in one session, and after the waits in one snapshot.  Views that do not catch
# up are reported as their error.
sub differences
{
	my ($self, $wait, @names) = @_;
	@names = $self->names unless @names;
	my $sql = '';
	$sql .= "SELECT weir.wait_for('$_', '$self->{timeout}');\n" for $wait ? @names : ();
	$sql .= "BEGIN ISOLATION LEVEL REPEATABLE READ;\n";
	$sql .= "SELECT '\@$_', (" . $self->comparison($_) . ");\n" for @names;
	$sql .= "COMMIT;\n";
	my ($out, $err) = ('', '');
	my $rc = eval {
		$self->{node}->psql($self->{dbname}, $sql,
			stdout => \$out, stderr => \$err, on_error_stop => 1,
			extra_params => [ '-v', 'VERBOSITY=verbose' ]);
	};
	return ('(session)' => defined $rc ? $err : $@) if !defined $rc || $rc != 0;
	my %wrong;
	my %seen;
	for my $line (split /\n/, $out)
	{
		my ($name, $what) = $line =~ /^@([^|]+)\|(.*)/ or next;
		$seen{$name} = 1;
		$wrong{$name} = $what unless $what eq 'exact';
	}
	$seen{$_} or $wrong{$_} = 'no answer' for @names;
	return %wrong;
}

# same(what happened, name ...): one test
sub same
{
	my ($self, $why, @names) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my %wrong = $self->differences(1, @names);
	ok(!%wrong, $why);
	diag("$_: $wrong{$_}") for sort keys %wrong;
	$self->tell if %wrong;
	return !%wrong;
}

# Where everything stands
sub tell
{
	my ($self) = @_;
	my ($out, $err) = ('', '');
	eval {
		$self->{node}->psql($self->{dbname}, q{
			SELECT view, state, sqlstate, message, detail, hint, last_commit FROM weir.views
				WHERE state <> 'running' ORDER BY 1;
			SELECT slot_name, active_pid, wal_status, restart_lsn, confirmed_flush_lsn, pg_current_wal_lsn()
				FROM pg_replication_slots;}, stdout => \$out, stderr => \$err);
	};
	diag($out . $err);
	return;
}

# section(name, code): a part of a test that goes on where another has failed.
# Sections named on the command line run alone, for those who look for something.
sub section
{
	my ($self, $name, $code) = @_;
	return if @ARGV && !grep { index($name, $_) >= 0 } @ARGV;
	my $started = time;
	if (!eval { $code->(); 1 })
	{
		fail("$name: it comes to its end");
		diag($@);
		$self->tell;
	}
	note(sprintf '%s: %.1f s', $name, time - $started);
	return;
}

# state_of(name): 'running', 'stalled 55000', ...
sub state_of
{
	my ($self, $name) = @_;
	return $self->{node}->safe_psql($self->{dbname}, $self->state_query($name));
}

sub state_query
{
	my ($self, $name) = @_;
	return "SELECT state || coalesce(' ' || sqlstate, '') FROM weir.views WHERE view = '$name'::regclass";
}

# stalls(name, SQLSTATE, pattern of message and hint, what happened)
sub stalls
{
	my ($self, $name, $code, $pattern, $why) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $ok = ok($self->{node}->wait_until($self->state_query($name), "stalled $code", 30, $self->{dbname}), $why);
	like($self->{node}->safe_psql($self->{dbname},
			"SELECT concat_ws(' / ', message, detail, hint) FROM weir.views WHERE view = '$name'::regclass"),
		$pattern, "$why: it says what to do");
	# who waits is told at once, with the same words
	like($self->{node}->error_of("SELECT weir.wait_for('$name', '20 s')", $self->{dbname}),
		qr/^$code/, "$why: wait_for says so, too");
	return $ok;
}

# rebuilt(name, why, accept_loss): weir.rebuild brings it back
sub rebuilt
{
	my ($self, $name, $why, $accept) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is($self->{node}->error_of("SELECT weir.rebuild('$name'" . ($accept ? ', true' : '') . ')',
			$self->{dbname}), '', "$why: rebuild") or return 0;
	return $self->same("$why: exact after the rebuild", $name);
}

1;
