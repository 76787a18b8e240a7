# WeirTime: event time for TAP tests.  Sources of three kinds that are given the
# same rows, the clock of pg_weir, sessions as plain SQL finds them, and what must
# hold of any changelog.
#
#     my $time = WeirTime->new($node, broker => $broker);
#     $time->source('topic', 'visits');           # or stream, table
#     $time->view('v', 'SELECT k, ... FROM visits GROUP BY k, win', 'weir.changelog = \'all\'');
#     $time->give('visits', [ 'a', '12:00:10', 1 ]);
#     is($time->news('v'), '+1 update a 12:00:00-12:01:00 1 1');
#
# A source has the columns id, k, ts and n; what it was given is kept in
# <source>_heap, an ordinary table, for oracles.  news() and rows() are for views
# with the columns k, win, c and s; all else works for any.
#
# It shares no code with what it tests.
package WeirTime;

use strict;
use warnings;

use Carp;
use Test::More;
use Time::HiRes qw(sleep time);

# The day of times that have none
our $day = '2026-05-04';

# new(node, broker => WeirBroker if there are to be topics)
sub new
{
	my ($class, $node, %param) = @_;
	my $self = bless {
		node   => $node,
		broker => $param{broker},
		ids    => 0,
		kind   => {},
		view   => {},
	}, $class;
	$self->sql('CREATE EXTENSION IF NOT EXISTS pg_weir;'
		  . q{CREATE FUNCTION shift_clock(interval) RETURNS void LANGUAGE c AS 'pg_weir', 'weir_test_shift_clock'});
	return $self;
}

sub sql { my ($self, @sql) = @_; return $self->{node}->safe_psql('postgres', @sql) }

# ---------------------------------------------------------------- sources

# source(kind, name, columns => of a topic, type => of ts, partitions => n)
sub source
{
	my ($self, $kind, $name, %param) = @_;
	my $type = $param{type} || 'timestamptz';
	my $columns = "id int, k text, ts $type, n int";
	$self->{kind}{$name} = $kind;
	if ($kind eq 'topic')
	{
		$self->{broker}->create_topic($name, $param{partitions} || 1);
		$self->sql("CREATE FOREIGN TABLE $name ($columns) SERVER kafka OPTIONS (topic '$name')");
	}
	elsif ($kind eq 'stream')
	{
		$self->sql("CREATE FOREIGN TABLE $name ($columns) SERVER weir_stream");
	}
	else
	{
		$self->sql("CREATE TABLE $name ($columns); ALTER TABLE $name REPLICA IDENTITY FULL; CREATE VIEW ${name}_heap AS TABLE $name");
		return;
	}
	$self->sql("CREATE TABLE ${name}_heap ($columns)");
	return;
}

# 12:00 is a moment of $day; what has a date is taken as it is.
sub moment
{
	my ($ts) = @_;
	return !defined $ts ? undef : $ts =~ /^\d\d:\d\d/ ? "${day}T${ts}Z" : $ts;
}

# give(source, [k, ts, n, partition], ...): in one transaction, where there are
# such, and then all views of it hold them.
sub give
{
	my ($self, $name, @rows) = @_;
	my (@values, @messages);
	for my $row (@rows)
	{
		my ($k, $ts, $n, $partition) = @$row;
		my $id = ++$self->{ids};
		$ts = moment($ts);
		push @values, sprintf '(%d, %s, %s, %s)', $id,
		  defined $k ? "'$k'" : 'NULL', defined $ts ? "'$ts'" : 'NULL', defined $n ? $n : 'NULL';
		push @messages, [ $partition || 0, undef, sprintf '{"id": %d, "k": %s, "ts": %s, "n": %s}', $id,
			defined $k ? qq("$k") : 'null', defined $ts ? qq("$ts") : 'null', defined $n ? $n : 'null' ];
	}
	my $values = join ', ', @values;
	my $kind = $self->{kind}{$name} or croak "no source $name";
	if ($kind eq 'topic')
	{
		my %at = $self->{broker}->produce($name, @messages);
		$self->{end}{$name}{$_} = $at{$_}[1] + 1 for keys %at;
		$self->sql("INSERT INTO ${name}_heap VALUES $values");
	}
	elsif ($kind eq 'stream')
	{
		$self->sql("BEGIN; INSERT INTO $name VALUES $values; INSERT INTO ${name}_heap VALUES $values; COMMIT");
	}
	else
	{
		$self->sql("INSERT INTO $name VALUES $values");
	}
	$self->settle($name);
	return;
}

# settle(source or nothing): until its views hold what it has
sub settle
{
	my ($self, $name) = @_;
	my @views = grep { !defined $name || $self->{view}{$_}{source} eq $name } sort keys %{ $self->{view} };
	return unless @views;
	my $error = '';
	# a broker answers where a topic ends after the fetch that it holds back, so a
	# question costs a fifth of a second: but we know where it ends
	my @known = grep { $self->{kind}{ $self->{view}{$_}{source} } eq 'topic' && $self->{view}{$_}{settled} && $self->{view}{$_}{query} !~ /weir\.(?:hop|cumulate)/ } @views;
	my %known = map { $_ => 1 } @known;
	my @others = grep { !$known{$_} } @views;
	$error = $self->{node}->error_of(join ' ', map { "SELECT weir.wait_for('$_', '20 s');" } @others) if @others;
	$error = $self->{node}->error_of($self->_wait_query(@known)) if $error eq '' && @known;
	if ($error eq '')
	{
		$self->{view}{$_}{settled} = 1 for @views;
		return;
	}
	diag($self->sql(q{SELECT view, state, sqlstate, message, detail, hint FROM weir.views WHERE state <> 'running'}));
	croak "@views: $error";
}

# Until the positions of views are where their topics end
sub _wait_query
{
	my ($self, @views) = @_;
	my @behind;
	for my $view (@views)
	{
		my $end = $self->{end}{ $self->{view}{$view}{source} } || {};
		push @behind, map { "('$view'::regclass, $_, $end->{$_})" } sort keys %$end;
	}
	return 'SELECT 1' unless @behind;
	my $behind = join ', ', @behind;
	return qq{DO \$\$
		DECLARE
			until timestamptz := clock_timestamp() + interval '60 s';
			bad text;
		BEGIN
			WHILE EXISTS (SELECT FROM (VALUES $behind) e(view, partition, at) LEFT JOIN weir.partitions p USING (view, partition)
					WHERE (p.position::bigint >= e.at) IS NOT TRUE) LOOP
				SELECT string_agg(concat_ws(' ', view, sqlstate, message), ', ') INTO bad FROM weir.views
					WHERE view IN (SELECT view FROM (VALUES $behind) e(view)) AND state = 'stalled';
				IF bad IS NOT NULL THEN RAISE '%', bad; END IF;
				IF clock_timestamp() > until THEN RAISE 'not all is read in time'; END IF;
				PERFORM pg_sleep(0.005);
			END LOOP;
		END \$\$};
}

# ---------------------------------------------------------------- views

# view(name, Q, options)
sub view
{
	my ($self, $name, $query, $with) = @_;
	my ($source) = $query =~ /\bFROM (\w+)/ or croak "no source in: $query";
	$with = defined $with && $with ne '' ? ", $with" : '';
	$self->sql("CREATE TABLE $name WITH (weir.continuous, weir.commit_interval = '10 ms'$with) AS $query");
	$self->{view}{$name} = { source => $source, query => $query, seen => 0 };
	return;
}

sub forget
{
	my ($self, @names) = @_;
	delete @{ $self->{view} }{@names};
	return;
}

# Views and sources of a section, when it is over
sub drop
{
	my ($self, @sources) = @_;
	for my $source (@sources)
	{
		$self->forget(grep { $self->{view}{$_}{source} eq $source } keys %{ $self->{view} });
		my $kind = delete $self->{kind}{$source} or next;
		$self->sql('DROP ' . ($kind eq 'table' ? '' : 'FOREIGN ') . "TABLE $source CASCADE; DROP "
			  . ($kind eq 'table' ? 'VIEW IF EXISTS' : 'TABLE') . " ${source}_heap");
	}
	return;
}

my $span = q{coalesce((lower(win) AT TIME ZONE 'UTC')::time || '-' || (upper(win) AT TIME ZONE 'UTC')::time, 'never')};

# rows(view): "k from-to c s", a line each, by key and window
sub rows
{
	my ($self, $view) = @_;
	return $self->sql("SELECT format('%s %s %s %s', k, $span, c, s) FROM $view ORDER BY k, win");
}

# news(view, order): lines of the changelog since the last call, "diff reason k
# from-to c s"; of a commit by key, window and weir_seq, unless ordered otherwise
sub news
{
	my ($self, $view, $order) = @_;
	$order ||= 'weir_at, k, win, weir_seq';
	my $out = $self->sql(qq{SELECT weir_seq, format('%s %s %s %s %s %s', to_char(weir_diff, 'SG9'), weir_reason, k, $span, c, s)
		FROM ${view}_changes WHERE weir_seq > $self->{view}{$view}{seen} ORDER BY $order});
	my (@lines, $last);
	for (split /\n/, $out)
	{
		my ($seq, $line) = /^(\d+)\|(.*)/;
		$last = $seq if !defined $last || $seq > $last;
		push @lines, $line;
	}
	$self->{view}{$view}{seen} = $last if defined $last;
	return join "\n", @lines;
}

# watermark(view): the time of day, or the whole of it, or 'none'
sub watermark
{
	my ($self, $view) = @_;
	my $w = $self->sql("SELECT to_char(weir.watermark('$view') AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US')");
	$w =~ s/^$day //;
	$w =~ s/\.000000$//;
	return $w eq '' ? 'none' : $w;
}

# late(view): "applied side dropped", pairs of row and window
sub late
{
	my ($self, $view) = @_;
	return $self->sql("SELECT concat_ws(' ', late_applied, late_side, late_dropped) FROM weir.stat_views WHERE view = '$view'::regclass");
}

# late_rows(view): "k n: from-to from-to W late_by", a line each
sub late_rows
{
	my ($self, $view) = @_;
	return $self->sql(qq{SELECT format('%s %s: %s %s %s', "row"->>'k', "row"->>'n',
			(SELECT string_agg($span, ' ' ORDER BY win) FROM unnest(windows) w, LATERAL (SELECT w::tstzrange AS win) x),
			(watermark AT TIME ZONE 'UTC')::time, late_by)
		FROM weir.late_rows WHERE view = '$view'::regclass ORDER BY at, ("row"->>'id')::int});
}

# ---------------------------------------------------------------- the clock

sub shift_clock { my ($self, $by) = @_; $self->sql("SELECT shift_clock('$by')"); return }

# A restart does the same.
sub right_clock
{
	my ($self) = @_;
	$self->sql(q{SELECT shift_clock(-ahead) FROM (SELECT date_trunc('second', weir_data.now() - clock_timestamp() + interval '0.5 s') AS ahead) x WHERE ahead <> '0'});
	return;
}

# ---------------------------------------------------------------- sessions

# Gaps and islands: sessions(FROM item, keys, gap, "count(*) AS c, ...", HAVING).
# A row without a time is in the window NULL.
sub sessions
{
	my ($from, $key, $gap, $aggregates, $having) = @_;
	$having = defined $having ? "HAVING $having" : '';
	return qq{SELECT $key, CASE WHEN min(ts) IS NOT NULL THEN tstzrange(min(ts), max(ts) + interval '$gap') END AS win, $aggregates
		FROM (SELECT *, count(*) FILTER (WHERE begins) OVER (PARTITION BY $key ORDER BY ts ROWS UNBOUNDED PRECEDING) AS island
			FROM (SELECT *, ts - lag(ts) OVER (PARTITION BY $key ORDER BY ts) < interval '$gap' IS NOT TRUE AND ts IS NOT NULL AS begins
				FROM $from) gaps) islands
		GROUP BY $key, island, ts IS NULL $having};
}

# ---------------------------------------------------------------- changelogs

# columns(view): as in a select list
sub columns
{
	my ($self, $view) = @_;
	return $self->{columns}{$view} ||= $self->{node}->patient_psql(qq{SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum)
		FROM pg_attribute WHERE attrelid = '$view'::regclass AND attnum > 0 AND NOT attisdropped});
}

# fold_query(view, 'all' or 'final', emit): SQL for how many rows the folded
# changelog and the emitted rows of v have that the other does not.  In one
# snapshot by being one statement.
sub fold_query
{
	my ($self, $view, $mode, $emit) = @_;
	my $columns = $self->columns($view);
	my $emitted = $mode eq 'all' || defined $emit && $emit eq 'final' ? 'true'
	  : "upper(win) <= (SELECT watermark FROM weir.views WHERE view = '$view'::regclass)";
	return qq{WITH folded AS (SELECT ROW($columns)::text AS r, sum(weir_diff) AS n FROM ${view}_changes GROUP BY 1 HAVING sum(weir_diff) <> 0),
		emitted AS (SELECT ROW($columns)::text AS r, count(*) AS n FROM $view WHERE $emitted GROUP BY 1)
		SELECT count(*) || coalesce(': ' || string_agg(w, '; ') FILTER (WHERE at <= 4), '')
		FROM (SELECT w, row_number() OVER (ORDER BY substr(w, 8), w) AS at
			FROM (SELECT 'v lacks ' || f::text AS w FROM (TABLE folded EXCEPT TABLE emitted) f
				UNION ALL SELECT 'v  adds ' || e::text FROM (TABLE emitted EXCEPT TABLE folded) e) x) y};
}

# faults_query(view, mode => 'all' | 'final', kind => of window, jumps => weir_seq
# may have gaps, row => what a row of v is known by, unless that is its first
# column and the window): SQL for what a changelog must never hold, a line each.
sub faults_query
{
	my ($self, $view, %param) = @_;
	my $columns = $self->columns($view);
	my $windowed = $columns =~ /\bwin\b/;
	my ($key) = $columns =~ /^(\w+)/;
	my %what = (
		'weir_at goes back' => 'weir_at < lag(weir_at) OVER o OR weir_at IS NULL',
		# a rebuild begins with none
		'weir_watermark goes back' =>
		  "weir_watermark < lag(weir_watermark) OVER o AND NOT EXISTS (SELECT FROM ${view}_changes WHERE weir_reason = 'rebuild')",
		'a row is taken back that was not there, or comes twice' =>
		  'sum(weir_diff) OVER (PARTITION BY r ORDER BY weir_seq) NOT IN (0, 1)',
		'not netted' => 'count(*) OVER (PARTITION BY weir_at, r) > 1',
		'no such diff or reason' =>
		  q{weir_diff IS NULL OR weir_diff NOT IN (-1, 1) OR weir_reason IS NULL OR weir_reason NOT IN ('final', 'late', 'update', 'delete', 'rebuild')},
		'final takes back' => $param{mode} eq 'final' ? q{weir_reason = 'final' AND weir_diff = -1} : 'false');
	$what{'a gap in weir_seq'} = 'weir_seq <> lag(weir_seq, 1, weir_seq - 1) OVER o + 1' unless $param{jumps};
	$what{'final while open'} = q{weir_reason = 'final' AND weir_diff = 1 AND (upper(win) <= weir_watermark) IS NOT TRUE} if $windowed;
	$what{'late while open'} = q{weir_reason = 'late' AND (upper(win) <= weir_watermark) IS NOT TRUE}
	  if $windowed && ($param{kind} || '') ne 'session';
	$what{'an open window'} = "(upper(win) <= weir_watermark) IS NOT TRUE AND NOT (weir_reason = 'rebuild' AND weir_diff = -1)" if $windowed && $param{mode} eq 'final';
	if (!$param{kind} || $param{kind} ne 'session')
	{
		my $row = defined $param{row} ? $param{row} : $windowed ? "$key, win" : $key;
		# what a rebuild takes back comes before all that is new
		$what{'-1 and +1 of a window are apart'} =
		  "NOT bool_or(weir_reason = 'rebuild') OVER (PARTITION BY weir_at) AND (count(*) OVER p > 2 OR count(*) OVER p = 2 AND (max(weir_seq) OVER p <> min(weir_seq) OVER p + 1 OR weir_diff <> CASE WHEN weir_seq = min(weir_seq) OVER p THEN -1 ELSE 1 END))";
		$what{'two rows of a window'} = "sum(weir_diff) OVER (PARTITION BY $row ORDER BY weir_seq) NOT IN (0, 1)";
		$what{'-1 and +1 of a window are apart'} =~ s/OVER p/OVER (PARTITION BY weir_at, $row)/g;
	}
	my $looks = join ",\n", map { "($what{$_}) AS \"$_\"" } sort keys %what;
	return qq{WITH looked AS (SELECT weir_seq, weir_diff, weir_reason, r, $looks
			FROM (SELECT *, ROW($columns)::text AS r FROM ${view}_changes) c WINDOW o AS (ORDER BY weir_seq))
		} . join "\nUNION ALL\n", map { qq{SELECT '$_: ' || count(*) || ', first at ' || min(weir_seq) || ' ' || min(r) FROM looked WHERE "$_" HAVING count(*) > 0} } sort keys %what;
}

# sound(view, what, mode, emit, kind): one test that the changelog is as it must be
# and folds to the view
sub sound
{
	my ($self, $view, $what, %param) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is($self->sql($self->fold_query($view, $param{mode}, $param{emit}) . ';' . $self->faults_query($view, %param)),
		'0', "$what: the changelog of $view folds to it");
	return;
}

1;
