# What users meet of event time: the view and its changelog as tables of theirs,
# which they alter, dump, replicate and drop like any other, and what they may see
# of other people's.
#
# sql/changelog_relation.sql has what needs no worker; 040_event_time.pl has what
# closes when.
use strict;
use warnings;

use Test::More;
use PostgreSQL::Test::Utils;
use WeirNode;

my $node = WeirNode->start_new('main');

sub sql { return $node->safe_psql('postgres', @_) }

# stalls(view, expected, what): "sqlstate|message" of its stall
sub stalls
{
	my ($view, $expected, $what) = @_;
	$node->wait_until("SELECT state FROM weir.views WHERE view = '$view'::regclass", 'stalled');
	return is(sql("SELECT sqlstate, message FROM weir.views WHERE view = '$view'::regclass"), $expected, $what);
}

sub resumes
{
	my ($view, $what) = @_;
	return is(sql("SELECT weir.resume('$view'); SELECT weir.wait_for('$view', '60 s')"), "\n", $what);
}

# folds(view, what): the changelog of a view that tells all adds up to it
sub folds
{
	my ($view, $what) = @_;
	my $fold = "SELECT k, win, n, m FROM ${view}_changes GROUP BY 1, 2, 3, 4 HAVING sum(weir_diff) = 1";
	my $rows = "SELECT k, win, n, m FROM $view";
	return is(sql("($fold EXCEPT ALL $rows) UNION ALL ($rows EXCEPT ALL $fold)"), '', $what);
}

sql(<<'EOF');
CREATE EXTENSION pg_weir;
CREATE FOREIGN TABLE s (k text, ts timestamptz, x int) SERVER weir_stream;
CREATE TABLE v WITH (weir.continuous, weir.changelog = 'all', weir.commit_interval = '20 ms') AS
	SELECT k, weir.tumble(ts, '1 minute') AS win, count(*) AS n, max(x) AS m FROM s GROUP BY k, win;
INSERT INTO s VALUES ('a', '2024-01-01 00:00:10', 1), ('b', '2024-01-01 00:00:20', 2), ('a', '2024-01-01 00:01:10', 3);
SELECT weir.wait_for('v', '60 s');
EOF

# ---- NOT NULL, in which code that reads tuples trusts: with JIT, a NULL in such a
# column was read as the bytes of the next one
sql(q{ALTER TABLE v ALTER k SET NOT NULL; ALTER TABLE v_changes ALTER m SET NOT NULL});
sql(q{INSERT INTO s VALUES (NULL, '2024-01-01 00:01:20', NULL)});
my $missing = 'is NOT NULL, and the view has a row without a value for it';
stalls('v', qq{23502|column "m" of "v_changes" $missing}, 'a NULL for a column of the changelog that is NOT NULL');
sql(q{ALTER TABLE v_changes ALTER m DROP NOT NULL; SELECT weir.resume('v')});
stalls('v', qq{23502|column "k" of "v" $missing}, 'and of the view');
sql(q{ALTER TABLE v ALTER k DROP NOT NULL});
resumes('v', 'without NOT NULL it goes on');
sql(q{ALTER TABLE v ALTER n SET NOT NULL; INSERT INTO s VALUES (NULL, '2024-01-01 00:01:20', 5)});
is(sql(q{SELECT weir.wait_for('v', '60 s'); SELECT n, m FROM v WHERE k IS NULL}), "\n2|5", 'with NOT NULL that nothing violates, too');
folds('v', 'the changelog folds to the view');

# ---- tables above it, by which rows could be changed that no trigger sees
sql(<<'EOF');
CREATE TABLE above_v (LIKE v);
CREATE TABLE above_changes (LIKE v_changes);
CREATE TABLE parted (LIKE v_changes) PARTITION BY LIST (weir_diff);
EOF
for my $case (
	[ 'v', 'ALTER TABLE v INHERIT above_v', 'ALTER TABLE v NO INHERIT above_v', 'a child of another table' ],
	[ 'v_changes', 'ALTER TABLE v_changes INHERIT above_changes', 'ALTER TABLE v_changes NO INHERIT above_changes', 'a child of another table' ],
	[ 'v_changes', 'ALTER TABLE parted ATTACH PARTITION v_changes DEFAULT', 'ALTER TABLE parted DETACH PARTITION v_changes', 'a partition' ])
{
	my ($table, $above, $alone, $what) = @$case;
	sql("$above; INSERT INTO s VALUES ('c', '2024-01-01 00:01:30', 1)");
	stalls('v', qq{55000|"$table" has become $what}, "$table has become $what");
	sql($alone);
	resumes('v', 'no longer, it goes on');
}
folds('v', 'the changelog folds to the view');

# ---- code of the owner's that runs when rows are written: a stall says where it is,
# and what to do
sql(<<'EOF');
CREATE FUNCTION fussy(k text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
	BEGIN IF k = 'bad' THEN RAISE 'no such thing'; END IF; RETURN k; END $$;
CREATE INDEX fussy ON v_changes (fussy(k));
INSERT INTO s VALUES ('bad', '2024-01-01 00:01:40', 1);
EOF
stalls('v', 'P0001|no such thing', "an index of the owner's raises");
like(sql('SELECT detail, hint FROM weir.views'), qr/^PL.pgSQL function public.fussy.*\|It is tried again by itself/s, 'the stall says where and what then');
sql('DROP INDEX fussy');
resumes('v', 'without it, it goes on');
folds('v', 'the changelog folds to the view');

done_testing();
