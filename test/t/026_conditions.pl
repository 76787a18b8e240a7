# Conditions and what they make of NULL; a stream whose columns are renamed; an
# expression that raises whatever SQLSTATE.  The oracle is Postgres running Q
# over a table that holds the same rows.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use WeirNode;
use WeirBroker;

my $broker = WeirBroker->new(topics => { numbers => 2 });
my $node = WeirNode->start_new('main');
create_kafka($node, $broker);
sub sql { return $node->safe_psql('postgres', $_[0]) }

sql(q{CREATE FOREIGN TABLE numbers (k text, a int, b float8, c text COLLATE "C")
	SERVER kafka OPTIONS (topic 'numbers', format 'json')});
sql(q{CREATE TABLE oracle (k text, a int, b float8, c text COLLATE "C")});

# every combination of present, absent and null, and of signs and specials
my @rows;
for my $k ('"x"', '"y"', 'null')
{
	for my $a (5, 'null', -1, 7, 0)
	{
		for my $b ('1.5', 'null', '"NaN"', '"-Infinity"')
		{
			push @rows, qq({"k": $k, "a": $a, "b": $b, "c": "c$a"});
		}
	}
}
push @rows, '{"a": 3}', '{"k": "z"}', '{}';
my $i = 0;
$broker->produce('numbers', map { [ $i++ % 2, undef, $_ ] } @rows);
for my $row (@rows)
{
	(my $quoted = $row) =~ s/'/''/g;
	sql(qq{INSERT INTO oracle SELECT r.* FROM json_populate_record(NULL::oracle, '$quoted') r});
}

my %queries = (
	where_null => 'SELECT k, count(*) AS n, sum(a) AS s FROM %s WHERE a > 0 GROUP BY k',
	where_not => 'SELECT k, count(*) AS n FROM %s WHERE NOT (a > 0) GROUP BY k',
	where_bare => 'SELECT count(*) AS n FROM %s WHERE a > 0 AND b < 10',
	where_or => 'SELECT count(*) AS n FROM %s WHERE a > 0 OR b IS NULL',
	having_null => 'SELECT k, sum(a) AS s FROM %s GROUP BY k HAVING sum(a) > 0',
	having_all_null => 'SELECT c, max(b) AS m FROM %s GROUP BY c HAVING max(b) > 1',
	filters => 'SELECT k, count(*) FILTER (WHERE a > 0) AS n, sum(a) FILTER (WHERE b > 1) AS s, min(b) FILTER (WHERE a IS NULL) AS m FROM %s GROUP BY k',
	specials => 'SELECT a, sum(b) AS s, avg(b) AS v, min(b) AS l, max(b) AS h, count(b) AS n FROM %s GROUP BY a',
	by_float => 'SELECT b, count(*) AS n, min(c) AS l, max(c) AS h FROM %s GROUP BY b',
	case_null => q{SELECT CASE WHEN a > 0 THEN 'up' WHEN a < 0 THEN 'down' END AS w, count(*) AS n FROM %s GROUP BY 1},
);
for my $name (sort keys %queries)
{
	my $q = sprintf $queries{$name}, 'numbers';
	sql(qq{CREATE TABLE $name WITH (weir.continuous) AS $q});
}
for my $name (sort keys %queries)
{
	my $q = sprintf $queries{$name}, 'oracle';
	sql(qq{SELECT weir.wait_for('$name')});
	is( sql(qq{SELECT count(*) FROM ((TABLE $name EXCEPT ALL ($q)) UNION ALL (($q) EXCEPT ALL TABLE $name)) d}),
		'0', "$name is what Postgres computes");
}

# A renamed column goes on reading its field.
my $notice;
$node->psql('postgres', q{ALTER FOREIGN TABLE numbers RENAME COLUMN a TO amount}, stderr => \$notice);
like($notice,
	qr/goes on reading the field "a"/, 'a rename says what it does');
$broker->produce('numbers', [ 0, undef, '{"k": "x", "a": 100}' ]);
sql(q{INSERT INTO oracle VALUES ('x', 100)});
for my $name ('where_null', 'having_null')
{
	my $q = sprintf $queries{$name}, 'oracle';
	sql(qq{SELECT weir.wait_for('$name')});
	is( sql(qq{SELECT count(*) FROM ((TABLE $name EXCEPT ALL ($q)) UNION ALL (($q) EXCEPT ALL TABLE $name)) d}),
		'0', "$name after the rename");
}

# A final expression may raise any SQLSTATE, and the stall shows it.
sql(q{CREATE FUNCTION missing(n bigint) RETURNS bigint IMMUTABLE LANGUAGE plpgsql
	AS $$BEGIN RAISE 'no such thing' USING ERRCODE = 'undefined_table'; END$$});
sql(q{CREATE TABLE broken WITH (weir.continuous) AS SELECT missing(count(*)) AS n FROM numbers});
ok($node->wait_until(q{SELECT state || ' ' || sqlstate || ' ' || message FROM weir.views WHERE view::text = 'broken'},
		'stalled 42P01 no such thing', 30), 'an error of any code shows');
sql('DROP TABLE broken');

# A function that loops and will not be cancelled costs its own view only.
sql(q{CREATE FUNCTION stubborn(n int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$
BEGIN
	WHILE n = 100 LOOP
		BEGIN
			LOOP n := n; END LOOP;
		EXCEPTION WHEN query_canceled THEN NULL;
		END;
	END LOOP;
	RETURN n;
END$$});
sql(q{CREATE TABLE stuck WITH (weir.continuous) AS SELECT sum(stubborn(amount)) AS s FROM numbers});
ok($node->wait_until(q{SELECT state || ' ' || sqlstate FROM weir.views WHERE view::text = 'stuck'},
		'stalled 57014', 90), 'code that cannot be cancelled stalls its view');
$broker->produce('numbers', [ 0, undef, '{"k": "x", "a": 1}' ]);
sql(q{INSERT INTO oracle VALUES ('x', 1)});
ok($node->wait_until(q{SELECT n FROM where_bare}, sql(q{SELECT count(*) FROM oracle WHERE a > 0 AND b < 10}), 60),
	'and the others go on');
sql(q{SELECT weir.wait_for('where_null')});
is(sql(q{SELECT sum(n) FROM where_null}), sql(q{SELECT count(*) FROM oracle WHERE a > 0}), 'without loss');
sql('DROP TABLE stuck');

# Dead letters stay until their owner deletes them.
$broker->produce('numbers', [ 0, undef, 'bad' ], [ 1, undef, 'worse' ]);
sql(q{SELECT weir.wait_for('where_bare')});
is(sql(q{SELECT count(*) FROM weir.dead_letters WHERE view = 'where_bare'::regclass}), '2', 'dead letters');
is(sql(q{SELECT weir.delete_dead_letters('where_bare', now() - interval '1 day')}), '0', 'none is that old');
is(sql(q{SELECT weir.delete_dead_letters('where_bare')}), '2', 'deleted');
is(sql(q{SELECT count(*) FROM weir.dead_letters WHERE view = 'where_bare'::regclass}), '0', 'gone');

$node->stop;
$broker->stop;
done_testing();
