# What a review of event time has found: sessions whose rows are taken back while
# parts of them would have been frozen long ago.
use strict;
use warnings;

use Test::More;
use WeirNode;

my $node = WeirNode->start_new('main', conf => <<'EOF');
include_if_exists = 'try.conf'
TimeZone = 'UTC'
EOF
$node->safe_psql('postgres', 'CREATE EXTENSION pg_weir');

sub sql { return $node->safe_psql('postgres', @_) }

# The views have what was committed.
sub settle { sql(qq{SELECT weir.wait_for('$_', '30 s')}) for @_ }

sub source
{
	my ($name) = @_;
	sql("CREATE TABLE $name (id int PRIMARY KEY, k text, ts timestamptz); ALTER TABLE $name REPLICA IDENTITY FULL");
}

sub view
{
	my ($name, $source, $window, $with) = @_;
	sql("CREATE TABLE $name WITH (weir.continuous, weir.watermark = 'ascending', $with)"
		  . " AS SELECT k, $window AS win, count(*) AS c FROM $source GROUP BY k, win");
	settle($name);
}

# Rows "id k time", in one transaction.
sub insert
{
	my ($source, @rows) = @_;
	sql("INSERT INTO $source VALUES "
		  . join(', ', map { sprintf "(%d, '%s', '2020-01-01 %sZ')", split } @rows));
}

sub rows
{
	return sql("SELECT string_agg(format('%s %s-%s %s', k, to_char(lower(win), 'HH24:MI'), to_char(upper(win), 'HH24:MI'), c), ', ' ORDER BY k, win) FROM $_[0]");
}

sub news
{
	return sql("SELECT string_agg(format('%s%s %s %s-%s %s', CASE weir_diff WHEN 1 THEN '+' ELSE '-' END, weir_reason, k, to_char(lower(win), 'HH24:MI'), to_char(upper(win), 'HH24:MI'), c), ', ' ORDER BY weir_seq) FROM $_[0]_changes");
}

my $session = "weir.session(ts, '10 min')";

# An UPDATE takes a row from an open session and puts it back.  What is left of the
# session meanwhile would have ended before the watermark.
source('visits');
view('visits_side', 'visits', $session, "weir.late = 'side_output'");
insert('visits', '1 a 00:00', '2 a 00:09', '3 a 00:18');
insert('visits', '4 b 00:20');
settle('visits_side');
for my $id (3, 2, 1)
{
	sql("UPDATE visits SET k = k WHERE id = $id");
	settle('visits_side');
	is(rows('visits_side'), 'a 00:00-00:28 3, b 00:20-00:30 1', "row $id goes and comes, and the session is as it was");
}
is(sql('SELECT count(*) FROM weir.late_rows'), 0, '... and nobody was late');

# A row in the middle goes: the first part was never a session that could have been
# frozen, so it is shown.
sql('DELETE FROM visits WHERE id = 2');
settle('visits_side');
is(rows('visits_side'), 'a 00:00-00:10 1, a 00:18-00:28 1, b 00:20-00:30 1', 'a session falls apart behind the watermark');
insert('visits', '5 c 00:29');
settle('visits_side');
insert('visits', '6 c 00:31');
settle('visits_side');
is(news('visits_side'), '+delete a 00:00-00:10 1, +final a 00:18-00:28 1, +final b 00:20-00:30 1', '... and both parts are told of');

# Frozen sessions stay when the source is truncated, also those that are still in
# memory; and what is open goes, whatever changed in the same commit.
source('short');
view('short_side', 'short', $session, "weir.late = 'side_output'");
insert('short', '1 a 00:00', '2 b 00:00', '3 b 00:08', '4 b 00:16', '5 a 00:12');
settle('short_side');
sql('BEGIN; DELETE FROM short WHERE id = 4; TRUNCATE short; COMMIT');
settle('short_side');
is(rows('short_side'), 'a 00:00-00:10 1', 'TRUNCATE leaves what is frozen');

# The last rows of a session go: it ends before its panes were to be looked at.
source('shrinking');
my @shrinking = map { "shrinking_$_" } qw(changes final);
view('shrinking_changes', 'shrinking', $session, "weir.emit = 'changes'");
view('shrinking_final', 'shrinking', $session, "weir.emit = 'final'");
insert('shrinking', '1 a 00:00', '2 a 00:01', '3 a 00:08', '4 b 00:05', '5 b 00:12', '6 b 00:19');
settle(@shrinking);
insert('shrinking', '10 z 00:11');
settle(@shrinking);
insert('shrinking', '11 z 00:15');
settle(@shrinking);
sql('DELETE FROM shrinking WHERE id IN (3, 6)');
settle(@shrinking);
insert('shrinking', "$_ z 00:$_") for 21 .. 26;
settle(@shrinking);
my $expected = 'a 00:00-00:11 2, b 00:05-00:22 2';
is(rows('shrinking_final'), $expected, 'a session that has shrunk closes when it ends');
is(news('shrinking_changes'), '+final a 00:00-00:18 3, -delete a 00:00-00:18 3, +delete a 00:00-00:11 2, +final b 00:05-00:22 2', '... and is told of');

# A session ends behind the watermark, since its last rows go, and late rows make it
# longer than that; but not as long as it was.
source('regrown');
view('regrown_final', 'regrown', $session, "weir.emit = 'final'");
insert('regrown', '1 a 00:00', '2 a 00:09', '3 a 00:18', '4 a 00:27');
insert('regrown', '10 z 00:20');
settle('regrown_final');
insert('regrown', '11 z 00:21', '12 b 00:26');
settle('regrown_final');
sql('DELETE FROM regrown WHERE id IN (2, 3, 4, 12)');
settle('regrown_final');
insert('regrown', '5 a 00:08', '6 a 00:17', '7 b 00:18');
settle('regrown_final');
insert('regrown', "$_ z 00:$_") for 28 .. 32;
settle('regrown_final');
is(rows('regrown_final'), 'a 00:00-00:27 3, b 00:18-00:28 1', 'a session that has grown again closes when it ends');

# A late row takes a closed session into one that is open: it is not there any more.
source('bridged');
view('bridged_final', 'bridged', $session, "weir.emit = 'final'");
insert('bridged', '1 a 00:00', '2 b 00:05');
insert('bridged', '3 a 00:15');
settle('bridged_final');
is(rows('bridged_final'), 'a 00:00-00:10 1, b 00:05-00:15 1', 'a session closes');
insert('bridged', '4 a 00:08');
settle('bridged_final');
is(rows('bridged_final'), 'b 00:05-00:15 1', 'it is open again, and not shown');
insert('bridged', '5 z 00:30');
settle('bridged_final');
is(rows('bridged_final'), 'a 00:00-00:25 3, b 00:05-00:15 1', '... until it closes');
is(news('bridged_final'), '+final a 00:00-00:10 1, +final b 00:05-00:15 1, -late a 00:00-00:10 1, +final a 00:00-00:25 3', '... as the changelog says');

# A frozen session that nobody remembers is not reached by rows that come one before
# the other.
source('forgotten');
view('forgotten_side', 'forgotten', $session, "weir.late = 'side_output'");
insert('forgotten', '1 a 00:00', '2 a 00:15');
settle('forgotten_side');
insert('forgotten', sprintf('%d a 00:%02d', $_, $_)) for map { 22 + 7 * $_ } 0 .. 4;
settle('forgotten_side');
insert('forgotten', '101 a 00:11');
insert('forgotten', '102 a 00:07');
settle('forgotten_side');
is(sql('SELECT count(*) FROM forgotten_side x, forgotten_side y WHERE x.win && y.win AND x.ctid < y.ctid'), 0, 'sessions never overlap');
sql('DELETE FROM forgotten WHERE id > 100');
settle('forgotten_side');
is(rows('forgotten_side'), 'a 00:00-00:10 1, a 00:15-01:00 6', '... and rows that came too late go as they came');

# Less lateness freezes windows that are still in memory when v's rows move.
source('moved');
view('moved_t', 'moved', "weir.tumble(ts, '10 min')", "weir.allowed_lateness = '1 day'");
insert('moved', '1 a 00:01', '2 a 00:31');
settle('moved_t');
sql(q{ALTER TABLE moved_t SET (weir.allowed_lateness = '1 minute')});
sql('INSERT INTO moved VALUES (3, $$b$$, $$2020-01-01 00:31Z$$)');
settle('moved_t');
sql('VACUUM FULL moved_t');
sql('INSERT INTO moved VALUES (4, $$c$$, $$2020-01-01 00:31Z$$)');
settle('moved_t');
is(rows('moved_t'), 'a 00:00-00:10 1, a 00:30-00:40 1, b 00:30-00:40 1, c 00:30-00:40 1', 'frozen rows are not written twice');

is(sql(q{SELECT count(*) FROM weir.views WHERE state <> 'running'}), 0, 'all views run');
done_testing();
