# The changelog of a view: what is said of a change and what is not, and that the
# relation is its owner's, who may index it, listen, and break it.  Windows, late
# rows and crashes are the business of other tests; here the view has none, and its
# changelog tells of every change.
use strict;
use warnings;

use Test::More;
use WeirNode;

my $node = WeirNode->start_new('main');
my $seen = 0;

sub sql { return $node->safe_psql('postgres', @_) }

# told(what, changes, statement): what the changelog says of a statement
sub told
{
	my ($name, $expected, $statement) = @_;
	sql("BEGIN; $statement; COMMIT");
	sql("SELECT weir.wait_for('v', '60 s')");
	my $got = sql("SELECT weir_diff, weir_reason, k, n, s, length(longest) FROM v_changes WHERE weir_seq > $seen ORDER BY weir_seq");
	$seen = sql("SELECT coalesce(max(weir_seq), 0) FROM v_changes");
	is($got, $expected, $name);
}

# folds(name): the rows that were given and not taken back are those of v
sub folds
{
	my ($name) = @_;
	my $fold = q{SELECT k, n, s::text, longest, sum(weir_diff) FROM v_changes GROUP BY 1, 2, 3, 4 HAVING sum(weir_diff) <> 0};
	my $rows = q{SELECT k, n, s::text, longest, 1 FROM v};
	is(sql("($fold EXCEPT ALL $rows) UNION ALL ($rows EXCEPT ALL $fold)"), '', $name);
}

sub stall
{
	$node->wait_until(q{SELECT state = 'stalled' FROM weir.views});
	return sql(q{SELECT sqlstate, message FROM weir.views});
}

sub resume
{
	sql(q{SELECT weir.resume('v')});
	sql(q{SELECT weir.wait_for('v', '60 s')});
}

sql(<<'EOF2');
CREATE EXTENSION pg_weir;
CREATE TABLE src (id int PRIMARY KEY, k text, x numeric, v text);
ALTER TABLE src REPLICA IDENTITY FULL;
INSERT INTO src VALUES (1, 'a', 1.0, 'first'), (2, 'b', 2, 'second');
CREATE TABLE v WITH (weir.continuous, weir.changelog = 'all', weir.commit_interval = '20 ms') AS
	SELECT k, count(*) AS n, sum(x) AS s, max(v) AS longest FROM src GROUP BY k HAVING count(*) <> 3;
EOF2
sql(q{SELECT weir.wait_for('v', '60 s')});
is(sql('SELECT weir_diff, weir_reason, k, n FROM v_changes ORDER BY k'), "1|update|a|1\n1|update|b|1", 'the first rows are given');
$seen = sql('SELECT max(weir_seq) FROM v_changes');
# an index of the owner's, over an expression
sql('CREATE INDEX ON v_changes ((n * 2), k)');

# ---- what is said
told('a row and its correction are neighbours', "-1|update|a|1|1.0|5\n1|update|a|2|3.0|5",
	q{INSERT INTO src VALUES (3, 'a', 2, 'early')});
told('a group that appears', '1|update|c|1|5|1', q{INSERT INTO src VALUES (4, 'c', 5, 'x')});
told('a group that goes', '-1|delete|c|1|5|1', q{DELETE FROM src WHERE id = 4});
told('HAVING takes a row away: to readers that is a delete', '-1|delete|a|2|3.0|5',
	q{INSERT INTO src VALUES (5, 'a', 0, '')});
told('and gives one', '1|update|a|4|3.0|5', q{INSERT INTO src VALUES (6, 'a', 0, '')});
told('values that are equal and look different', "-1|update|b|1|2|6\n1|update|b|1|2.00|6",
	q{UPDATE src SET x = 2.00 WHERE id = 2});
told('a row of many kilobytes is taken back as it was', "-1|update|b|1|2.00|6\n1|update|b|1|2.00|40000",
	q{UPDATE src SET v = (SELECT string_agg(md5(i::text), '') FROM generate_series(1, 1250) i) WHERE id = 2});
told('to the last byte', "-1|update|b|1|2.00|40000\n1|update|b|1|2.00|40001",
	q{UPDATE src SET v = v || 'z' WHERE id = 2});
folds('the changelog folds to the view');

# ---- what is not
my $places = sql('SELECT ctid, xmin FROM v ORDER BY k');
told('a change that changes nothing', '', q{UPDATE src SET v = 'f' WHERE id = 1; UPDATE src SET v = 'first' WHERE id = 1});
told('rows that come and go at once', '', q{INSERT INTO src VALUES (7, 'b', 1, 'z'); DELETE FROM src WHERE id = 7});
is(sql('SELECT ctid, xmin FROM v ORDER BY k'), $places, 'it is not written into the view either');
told('a rebuild of what is right', '', q{SELECT weir.rebuild('v')});
is(sql('SELECT ctid, xmin FROM v ORDER BY k'), $places, 'nor is that');
sql('VACUUM FULL v');
told('a change after the rows have moved', "1|update|d|1|1|1", q{INSERT INTO src VALUES (8, 'd', 1, 'd')});
folds('the changelog folds to the view still');
is(sql('SELECT count(*), count(DISTINCT weir_seq), bool_and(weir_watermark IS NULL), count(DISTINCT weir_at) > 5 FROM v_changes'),
	sql('SELECT count(*), max(weir_seq), true, true FROM v_changes'), 'numbers without a gap');
is(sql(q{SELECT count(*) FROM (SELECT weir_at, lag(weir_at) OVER (ORDER BY weir_seq) AS before FROM v_changes) t WHERE weir_at < before}), '0', 'weir_at never goes back');
is( sql('SET enable_seqscan = off; SELECT count(*) FROM v_changes WHERE n * 2 > 0'),
	sql('SET enable_indexscan = off; SET enable_indexonlyscan = off; SET enable_bitmapscan = off; SELECT count(*) FROM v_changes WHERE n * 2 > 0'),
	"the owner's index has every row");

# ---- a hint for those who listen
{
	my $channel = sql('SELECT channel FROM weir.views');
	my $got = sql("LISTEN $channel; INSERT INTO src VALUES (9, 'e', 1, 'e');\n" .
		"SELECT weir.wait_for('v', '60 s');\nSELECT 1");
	my $last = sql('SELECT max(weir_seq) FROM v_changes');
	like($got, qr/"$channel" with payload "$last"/, 'NOTIFY says how far the changelog is');
}

# ---- the owner breaks it
my $shape = '55000|the columns of the changelog "v_changes" were changed';
sql(q{ALTER TABLE v_changes ADD mine int; INSERT INTO src VALUES (10, 'f', 1, 'f')});
is(stall(), $shape, 'a column that is not ours');
sql(q{ALTER TABLE v_changes DROP mine});
resume();
folds('without it, it goes on');
sql(q{ALTER TABLE v_changes RENAME weir_diff TO sign; INSERT INTO src VALUES (11, 'g', 1, 'g')});
is(stall(), $shape, 'a column of another name');
sql(q{ALTER TABLE v_changes RENAME sign TO weir_diff});
resume();
folds('with the name, it goes on');
sql(q{ALTER TABLE v_changes SET UNLOGGED; INSERT INTO src VALUES (12, 'h', 1, 'h')});
is(stall(), '55000|the changelog "v_changes" has become unlogged', 'a crash would empty it');
sql(q{ALTER TABLE v_changes SET LOGGED});
resume();
folds('logged again, it goes on');

done_testing();
