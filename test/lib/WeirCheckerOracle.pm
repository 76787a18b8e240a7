# WeirCheckerOracle: what a view of a trace must hold, as SQL.
#
# What a source was given is kept in chk.history, by the transaction that gave it:
# rows that came (w = 1) and went (w = -1), messages with their offsets.  The
# input of a view is what lies below the position that the view has committed, in
# the snapshot that reads both; so a view can be looked at at any time, without
# waiting for it.  Q runs over that input as an ordinary query, sessions as gaps
# and islands.
#
# It shares no code with what it tests.
package WeirCheckerOracle;

use strict;
use warnings;

use WeirCheckerTrace;
use WeirTime;

# Once in a database
sub schema
{
	return <<"EOF";
CREATE SCHEMA chk;
CREATE TYPE chk.rec AS ($WeirCheckerTrace::type);
-- what was given, and when it was committed (NULL: nobody has asked yet)
CREATE TABLE chk.txs (n int PRIMARY KEY, xid xid8 NOT NULL, lsn pg_lsn);
-- bad: the column that cannot be read, or '*'
CREATE TABLE chk.history (source text, tx int, w int, part int, off bigint, bad text, r chk.rec);
-- windows, as anybody would write them
CREATE FUNCTION chk.tumble(ts timestamptz, size interval) RETURNS tstzrange LANGUAGE sql IMMUTABLE AS
	\$\$ SELECT CASE WHEN ts IS NOT NULL THEN tstzrange(date_bin(size, ts, '2000-01-03Z'), date_bin(size, ts, '2000-01-03Z') + size) END \$\$;
CREATE FUNCTION chk.hop(ts timestamptz, slide interval, size interval) RETURNS SETOF tstzrange LANGUAGE sql IMMUTABLE AS
	\$\$ SELECT tstzrange(w, w + size) FROM generate_series(date_bin(slide, ts - size, '2000-01-03Z'), ts, slide) w WHERE w + size > ts \$\$;
CREATE FUNCTION chk.cumulate(ts timestamptz, step interval, size interval) RETURNS SETOF tstzrange LANGUAGE sql IMMUTABLE AS
	\$\$ SELECT tstzrange(w, u) FROM date_bin(size, ts, '2000-01-03Z') w, generate_series(w + step, w + size, step) u WHERE u > ts \$\$;
-- writes of the table are seen by triggers, in the order in which they happen
CREATE FUNCTION chk.remember() RETURNS trigger LANGUAGE plpgsql AS \$\$
DECLARE
	tx int := current_setting('chk.tx');
BEGIN
	IF tg_op IN ('UPDATE', 'DELETE') THEN
		INSERT INTO chk.history (source, tx, w, r) VALUES (tg_argv[0], tx, -1, ROW(old.id, old.k, old.g, old.ts, old.n, old.b, old.amount, old.f)::chk.rec);
	END IF;
	IF tg_op IN ('UPDATE', 'INSERT') THEN
		INSERT INTO chk.history (source, tx, w, r) VALUES (tg_argv[0], tx, 1, ROW(new.id, new.k, new.g, new.ts, new.n, new.b, new.amount, new.f)::chk.rec);
	END IF;
	IF tg_op = 'TRUNCATE' THEN
		EXECUTE format('INSERT INTO chk.history (source, tx, w, r) SELECT %L, %s, -1, ROW(id, k, g, ts, n, b, amount, f)::chk.rec FROM %s', tg_argv[0], tx, tg_relid::regclass);
	END IF;
	RETURN NULL;
END \$\$;
EOF
}

my $read = join ', ', @WeirCheckerTrace::columns;

# The names of keys, as columns, and what computes them
sub key_names { my ($v) = @_; return map { / AS (\w+)$/ ? $1 : $_ } @{ $v->{keys} } }
sub computed_keys { my ($v) = @_; return grep { / AS / } @{ $v->{keys} } }

# The window of a row: by a function of the oracle's own
sub win { my ($v) = @_; return $WeirCheckerTrace::window{ $v->{window} } =~ s/\bweir\./chk./r }

# Q, over any relation
sub query
{
	my ($v, $from, $win) = @_;
	my @list = @{ $v->{keys} };
	push @list, (defined $win ? $win : win($v)) . ' AS win' if $v->{window};
	my @group = (key_names($v), $v->{window} ? 'win' : ());
	return 'SELECT ' . join(', ', @list, @{ $v->{aggregates} }) . " FROM $from"
	  . ($v->{where} ? " WHERE $v->{where}" : '') . (@group ? ' GROUP BY ' . join(', ', @group) : '')
	  . ($v->{having} ? " HAVING $v->{having}" : '');
}

sub statement
{
	my ($v, $name, $from) = @_;
	my $with = join ', ', 'weir.continuous', map { "weir.$_ = '$v->{with}{$_}'" } sort keys %{ $v->{with} };
	return "CREATE TABLE $name WITH ($with) AS " . query($v, $from, $v->{window} && $WeirCheckerTrace::window{ $v->{window} });
}

# What lies below the position of the view
sub input
{
	my ($v, $source, $since) = @_;
	return "SELECT (h.r).* FROM chk.history h JOIN pos ON pos.partition = h.part AND h.off < pos.position WHERE h.source = '$source' AND NOT " . bad($v)
	  if $v->{source} eq 'topic';
	my $done = "chk.history h JOIN chk.txs t ON t.n = h.tx AND t.n > $since AND t.lsn - '0/0' <= (SELECT position FROM pos) WHERE h.source = '$source'";
	return "SELECT (h.r).* FROM $done" if $v->{source} eq 'stream';
	return "SELECT (r).* FROM (SELECT r::chk.rec AS r FROM (SELECT h.r::text AS r, sum(h.w)::int AS n FROM $done GROUP BY 1 HAVING sum(h.w) > 0) x, generate_series(1, n)) y";
}

# Q with sessions as PostgreSQL has them
sub truth
{
	my ($v, $from) = @_;
	return query($v, $from) if !$v->{window} || $v->{window} ne 'session';
	my $where = $v->{where} ? "WHERE $v->{where}" : '';
	my $rows = '(SELECT ' . join(', ', '*', computed_keys($v)) . " FROM $from $where) h";
	return WeirTime::sessions($rows, join(', ', key_names($v)), '20 seconds', join(', ', @{ $v->{aggregates} }), $v->{having});
}

# Messages that are dead letters to this view
sub bad
{
	my ($v) = @_;
	my $text = query($v, 'x') =~ s/'[^']*'//gr;
	return "coalesce(h.bad IN (" . join(', ', "'*'", map { "'$_'" } grep { $text =~ /\b\Q$_\E\b/ } @WeirCheckerTrace::columns) . '), false)';
}

sub delay { my ($v) = @_; my $w = $v->{with}{watermark}; return $w eq 'ascending' ? '0' : $w }
sub is_bounded { my ($v) = @_; my $w = $v->{with}{watermark}; return defined $w && $w =~ /second|ascending/ }
sub has_panes { my ($v) = @_; return $v->{window} && $v->{window} =~ /hop|uneven|gaps|cumulate/ }

# Of rows that WHERE lets pass: those that are in a window at all
sub kept
{
	my ($v) = @_;
	return ($v->{where} ? "($v->{where})" : 'true')
	  . (has_panes($v) ? ' AND EXISTS (SELECT ' . win($v) . ')' : '');
}

# Rows that move the watermark
sub movers { my ($v) = @_; return kept($v) . " AND ts < '2090-01-01Z'" }

# comparison(v, name, source, since): SQL that returns lines "@name what|is", is
# being 'exact', 'not yet', or what is wrong.  One statement, so one snapshot.
sub comparison
{
	my ($v, $name, $source, $since) = @_;
	my $win = $v->{window} ? win($v) : undef;
	my @with = (
		"v AS MATERIALIZED (SELECT d.id, s.phase, s.watermark, s.late_applied, s.late_side, s.late_dropped FROM weir_data.views d JOIN weir_data.status s ON s.view_id = d.id WHERE d.relid = '$name'::regclass)",
		'pos AS MATERIALIZED (SELECT p.* FROM weir_data.positions p JOIN v ON v.id = p.view_id)',
		'input AS MATERIALIZED (' . input($v, $source, $since) . ')');
	my @answers;
	my $late = $v->{with}{late} || 'retract';
	my $closed = 'upper(win) <= (SELECT watermark FROM v)';
	my $theirs;
	if ($v->{class} eq 'exact') { $theirs = truth($v, 'input') }
	elsif ($v->{class} eq 'model')
	{
		my ($with, $answer) = model($v, $source, $since);
		push @with, @$with;
		push @answers, $answer;
		my @columns = (key_names($v), 'win');
		$theirs = 'SELECT ' . join(', ', @columns, @{ $v->{aggregates} }) . ' FROM accepted GROUP BY ' . join(', ', @columns);
	}
	else
	{
		push @with, "late AS MATERIALIZED (SELECT r.*, windows, diff, watermark, late_by FROM weir.late_rows l, jsonb_to_record(\"row\") r($WeirCheckerTrace::type) WHERE view = '$name'::regclass)";
		push @answers, late_answer($v) if $late ne 'drop';
		if ($late eq 'drop')
		{
			push @answers, dropped_answer($v, $name);
		}
		elsif ($v->{window} eq 'session')
		{
			$theirs = truth($v, "((SELECT $read FROM input UNION ALL SELECT $read FROM late WHERE diff < 0) EXCEPT ALL SELECT $read FROM late WHERE diff > 0) a");
		}
		else
		{
			my @columns = (key_names($v), 'win');
			$theirs = 'SELECT ' . join(', ', @columns, @{ $v->{aggregates} }) . " FROM (SELECT $read, $win AS win FROM input UNION ALL SELECT $read, unnest(windows)::tstzrange FROM late WHERE diff < 0
				EXCEPT ALL SELECT $read, unnest(windows)::tstzrange FROM late WHERE diff > 0) a GROUP BY " . join(', ', @columns);
		}
	}
	if (defined $theirs)
	{
		$theirs = "SELECT * FROM ($theirs) q WHERE $closed" if ($v->{with}{emit} || '') eq 'final';
		push @with, "theirs AS MATERIALIZED ($theirs)",
		  "wrong(w) AS (SELECT 'missing ' || d::text FROM (SELECT t::text FROM theirs t EXCEPT ALL SELECT o::text FROM $name o) d
			UNION ALL SELECT 'surplus ' || d::text FROM (SELECT o::text FROM $name o EXCEPT ALL SELECT t::text FROM theirs t) d)";
		push @answers, "SELECT 'rows', CASE WHEN count(*) = 0 THEN 'exact ' || (SELECT count(*) FROM theirs) || ' ' || (SELECT count(*) FROM input) ELSE format('%s rows wrong of %s: %s', count(*), (SELECT count(*) FROM theirs),
			(SELECT string_agg(w, '; ') FROM (SELECT left(w, 250) AS w FROM wrong ORDER BY substr(w, 9), w LIMIT 6) x)) END FROM wrong";
	}
	push @answers, watermark_answer($v, $source, $since);
	push @answers, books_answer($v, $source, $since);
	my $with = join ",\n", @with;
	return "WITH $with\nSELECT '\@$name ' || what, CASE WHEN phase <> 'running' THEN 'not yet' ELSE answer END FROM v LEFT JOIN LATERAL (\n"
	  . join("\nUNION ALL\n", @answers) . ") a(what, answer) ON true";
}

# Which pairs of a row and a window the stream's views accept: each transaction is
# judged by the watermark that the ones before it have left.
sub model
{
	my ($v, $source, $since) = @_;
	my $win = win($v);
	my $where = $v->{where} ? "WHERE $v->{where}" : '';
	my $late = $v->{with}{late};
	my $allowed = $late eq 'retract' ? $v->{with}{allowed_lateness} : '0';
	my $delay = delay($v);
	my $movers = movers($v);
	my $keys = join '', map { ", $_" } computed_keys($v);
	my @with = (
		"given AS MATERIALIZED (SELECT h.tx, (h.r).* FROM chk.history h JOIN chk.txs t ON t.n = h.tx AND t.n > $since AND t.lsn - '0/0' <= (SELECT position FROM pos) WHERE h.source = '$source')",
		"marks AS (SELECT tx, max(greatest) OVER (ORDER BY tx ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) - interval '$delay' AS w FROM (SELECT tx, max(ts) FILTER (WHERE $movers) AS greatest FROM given GROUP BY tx) g)",
		"pairs AS MATERIALIZED (SELECT given.*, w, $win AS win$keys FROM given JOIN marks USING (tx) $where)",
		"accepted AS (SELECT * FROM pairs WHERE (upper(win) + interval '$allowed' <= w) IS NOT TRUE)");
	my $lost = "count(*) FILTER (WHERE upper(win) + interval '$allowed' <= w)";
	my $applied = "count(*) FILTER (WHERE upper(win) <= w AND upper(win) + interval '$allowed' > w)";
	my ($side, $dropped) = $late eq 'drop' ? ('0', $lost) : ($lost, '0');
	return (\@with, "SELECT 'late', CASE WHEN (a, s, d) = (late_applied, late_side, late_dropped) THEN 'exact ' || a || ' ' || s || ' ' || d
		ELSE format('late are %s %s %s and the view says %s %s %s', a, s, d, late_applied, late_side, late_dropped) END FROM v, (SELECT $applied AS a, $side AS s, $dropped AS d FROM pairs) p");
}

# What weir.late_rows says must be so, and be counted.
sub late_answer
{
	my ($v) = @_;
	my $allowed = $v->{with}{late} eq 'retract' ? $v->{with}{allowed_lateness} : '0';
	my @faults = ("CASE WHEN (SELECT coalesce(sum(cardinality(windows)), 0) FROM late) <> late_side THEN 'not all are counted' END");
	push @faults, q{CASE WHEN EXISTS (SELECT FROM late GROUP BY id HAVING count(*) > 1) THEN 'a row is there twice' END} if $v->{source} ne 'table';
	push @faults, q{CASE WHEN EXISTS (SELECT FROM late WHERE late_by IS DISTINCT FROM watermark - (SELECT max(upper(w::tstzrange)) FROM unnest(windows) w)) THEN 'late_by is wrong' END},
	  "CASE WHEN EXISTS (SELECT FROM late, LATERAL (SELECT w::tstzrange AS win FROM unnest(windows) w) x WHERE (upper(win) + interval '$allowed' <= watermark) IS NOT TRUE) THEN 'a window could still be revised' END"
	  if $v->{window} ne 'session';
	return "SELECT 'late', coalesce(nullif(concat_ws(', ', " . join(', ', @faults) . "), ''), 'exact ' || late_applied || ' ' || late_side || ' ' || late_dropped) FROM v";
}

sub dropped_answer
{
	my ($v, $name) = @_;
	my $closed = 'upper(win) <= (SELECT watermark FROM v)';
	my $pairs = 'SELECT FROM (SELECT ' . win($v) . " AS win FROM input OFFSET 0) p WHERE $closed";
	my $ours = "SELECT coalesce(sum(c), 0) FROM $name WHERE $closed";
	if ($v->{window} eq 'session')
	{
		# which of them are in open sessions a view of closed ones does not say
		$pairs = 'SELECT FROM input';
		$ours = ($v->{with}{emit} || '') eq 'final' ? 'SELECT NULL::bigint' : "SELECT coalesce(sum(c), 0) FROM $name";
	}
	return "SELECT 'dropped', CASE WHEN ours IS NULL OR ours + late_dropped = pairs THEN 'exact 0 0 ' || late_dropped ELSE format('%s applied and %s dropped of %s', ours, late_dropped, pairs) END
		FROM v, (SELECT ($ours) AS ours, (SELECT count(*) FROM ($pairs) x) AS pairs) y";
}

# The watermark is what the input says, where no clock decides.
sub watermark_answer
{
	my ($v, $source, $since) = @_;
	return () unless $v->{window} && is_bounded($v);
	my $movers = movers($v);
	my $delay = delay($v);
	my $rule = '<=';
	my $greatest;
	if ($v->{source} eq 'topic')
	{
		$rule = ($v->{with}{idle_timeout} || '') eq 'off' ? '=' : '<=';
		my $bad = bad($v);
		my $which = $rule eq '=' ? 'CASE WHEN count(*) = count(g) THEN min(g) END' : 'max(g)';
		$greatest = "SELECT $which FROM (SELECT (SELECT max(ts) FROM (SELECT (h.r).* FROM chk.history h WHERE h.source = '$source' AND h.part = pos.partition AND h.off < pos.position AND NOT $bad OFFSET 0) r WHERE $movers) AS g FROM pos) p";
	}
	elsif ($v->{source} eq 'stream') { $rule = '='; $greatest = "SELECT max(ts) FROM input WHERE $movers" }
	else { $greatest = "SELECT max(ts) FROM (SELECT (h.r).* FROM chk.history h WHERE h.source = '$source' AND h.w > 0 OFFSET 0) r WHERE $movers" }
	my $right = $rule eq '=' ? 'watermark IS NOT DISTINCT FROM w' : 'watermark IS NULL OR watermark <= w';
	return "SELECT 'watermark', CASE WHEN $right THEN 'exact' ELSE format('the watermark is %s and not $rule %s', watermark, w) END
		FROM v, (SELECT ($greatest) - interval '$delay' AS w) x";
}

# Every message is one of applied, filtered, late, dead letter.
sub books_answer
{
	my ($v, $source, $since) = @_;
	return () if $v->{source} eq 'table';
	my $kept = kept($v);
	my $bad = $v->{source} eq 'topic' ? "SELECT count(*) FROM chk.history h JOIN pos ON pos.partition = h.part AND h.off < pos.position WHERE h.source = '$source' AND " . bad($v) : 'SELECT 0';
	return "SELECT 'books', CASE WHEN (x.a, x.f, x.d) = (p.a, p.f, p.d) THEN 'exact ' || x.d ELSE format('in, filtered, dead are %s %s %s and the view says %s %s %s', x.a, x.f, x.d, p.a, p.f, p.d) END
		FROM (SELECT coalesce(sum(rows_in), 0) AS a, coalesce(sum(rows_filtered), 0) AS f, coalesce(sum(dead_letters), 0) AS d FROM pos) p,
			(SELECT n + d AS a, f, d FROM (SELECT count(*) AS n, count(*) FILTER (WHERE ($kept) IS NOT TRUE) AS f FROM input) i, ($bad) b(d)) x";
}

1;
