# Views over tables, one feature after the other: whatever is done to a table,
# its views are what Postgres computes over it (test/lib/WeirOracle.pm).
#
# Each section has tables of its own, and goes on where another has failed.
# What happens concurrently and under faults is 031_tables_random.pl's.
use strict;
use warnings;

use IPC::Run ();
use Test::More;
use Time::HiRes qw(sleep);
use PostgreSQL::Test::Utils;
use WeirNode;
use WeirOracle;

use File::Spec;

# the server is given it, and wants it absolute; Utils does not say so from 16 on
my $rows_file = File::Spec->rel2abs("$PostgreSQL::Test::Utils::tmp_check/rows");

# The reorder buffer spills early, and so do we all the time.
my $node = WeirNode->start_new('main', conf => <<'EOF2');
max_prepared_transactions = 10
logical_decoding_work_mem = 64kB
weir.max_workers = 4
EOF2
$node->safe_psql('postgres', 'CREATE EXTENSION pg_weir');
my $oracle = WeirOracle->new($node, timeout => '20 s');

sub sql { return $node->safe_psql('postgres', @_) }
sub error_of { return $node->error_of(@_) }

# Each has its own tables and views
sub section
{
	$oracle->section(@_);
	$oracle->forget($oracle->names);
}

# each(view names, what => SQL, ...): after each step all of them are exact
sub each_step
{
	my ($views, @steps) = @_;
	while (my ($what, $sql) = splice @steps, 0, 2)
	{
		ref $sql ? $sql->() : sql($sql);
		$oracle->same($what, @$views);
	}
}

my $slot = q{SELECT 'pg_weir_' || oid FROM pg_database WHERE datname = current_database()};
my $count_slots = "SELECT count(*) FROM pg_replication_slots WHERE slot_name = ($slot)";

# ------------------------------------------------------------- rows come and go

section 'rows', sub {
	sql(<<'EOF2');
CREATE TABLE orders (id bigserial PRIMARY KEY, k text, cat int, amount numeric, n int, b bigint, f float8,
	span interval, ts timestamptz, note text)
	WITH (autovacuum_enabled = off); -- new rows stay the last ones: sum(float8) depends on their order
ALTER TABLE orders REPLICA IDENTITY FULL;
INSERT INTO orders (k, cat, amount, n, b, f, span, ts, note)
SELECT chr(97 + i % 7), i % 5, i * 1.25, i % 11 - 3, i, i / 4.0, i * interval '1 hour',
	timestamptz '2026-03-01 00:00Z' + i * interval '37 minutes', 'note ' || i % 13
FROM generate_series(1, 500) i;
EOF2
	my %q = (
		per_key => 'SELECT k, count(*) AS c, count(n) AS cn, sum(n) AS sn, sum(b) AS sb, sum(amount) AS sa, avg(amount) AS aa, avg(n) AS an
			FROM orders GROUP BY k',
		per_day => q{SELECT cat, weir.tumble(ts, '1 day') AS win, count(*) AS c, sum(amount) AS s FROM orders GROUP BY cat, win},
		extremes => 'SELECT k, min(n) AS mi, max(n) AS ma, min(amount) AS mia, max(amount) AS maa, min(note) AS mit, max(note) AS mat,
			min(ts) AS first, max(ts) AS last, max(f) AS maf, min(span) AS mis FROM orders GROUP BY k',
		grand => 'SELECT count(*) AS c, sum(n) AS sn, sum(f) AS sf, avg(f) AS af, min(id) AS mi, max(id) AS ma FROM orders',
		busy => 'SELECT cat, count(*) AS c, sum(amount) / count(*) AS mean FROM orders WHERE n > 0 GROUP BY cat
			HAVING count(*) > 3 AND sum(amount) > 10',
		chosen => q{SELECT cat % 2 AS odd, count(*) FILTER (WHERE n > 3) AS c, sum(amount) FILTER (WHERE k < 'd') AS s,
			max(n) FILTER (WHERE f > 20) AS m, count(note) AS cn FROM orders GROUP BY odd},
		spans => 'SELECT k, sum(span) AS s, avg(span) AS a, sum(f::float4) AS f4 FROM orders GROUP BY k',
		empty_key => 'SELECT nullif(k, \'a\') AS k, upper(note) AS u, count(*) AS c FROM orders WHERE cat IS DISTINCT FROM 2 GROUP BY 1, 2');
	my @all = sort keys %q;
	# of equal extremes (1 and 1.0) any may show, as in Postgres
	$oracle->create($_, $q{$_}, with => "weir.commit_interval = '20 ms'", by => $_ eq 'extremes' ? 'value' : 'text') for @all;
	$oracle->same('what the table held before its views', @all);
	my ($seq) = ('INSERT INTO orders (k, cat, amount, n, b, f, span, ts, note) ');
	my $row = sub { "VALUES ('$_[0]', $_[1], $_[2], $_[3], $_[3], $_[4], '1 day 2 hours', '2026-03-05 12:00Z', '$_[5]')" };

	each_step(\@all,
		'INSERT' => $seq . $row->('a', 1, '1.50', 2, 0.25, 'x'),
		'INSERT of a new group' => $seq . $row->('new', 9, 7, 5, 1, 'y'),
		'INSERT of many rows' => $seq . q{SELECT chr(97 + i % 9), i % 4, i, i, i, i, interval '1 min', '2026-03-09 00:00Z', 'm' FROM generate_series(1, 3000) i},
		'INSERT of NULLs' => $seq . "VALUES (NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL), ('a', 1, NULL, NULL, NULL, NULL, NULL, NULL, NULL)",
		'UPDATE of values' => 'UPDATE orders SET amount = amount + 0.125, n = n + 1, f = f * 2, span = span + interval \'1 month\' WHERE id % 10 = 3',
		'UPDATE to NULL and back' => 'UPDATE orders SET amount = CASE WHEN id % 2 = 0 THEN NULL ELSE 5 END, n = NULL WHERE id % 50 = 7',
		'UPDATE of group keys' => "UPDATE orders SET k = chr(97 + (ascii(k) - 96) % 7), cat = cat + 1 WHERE id % 8 = 1",
		'UPDATE of the time, to other windows' => "UPDATE orders SET ts = ts + interval '1 day' WHERE id % 6 = 2",
		'UPDATE of the time, within a window' => "UPDATE orders SET ts = ts + interval '1 us' WHERE id % 100 = 2",
		'UPDATE into and out of WHERE' => 'UPDATE orders SET n = -n, cat = 2 - cat WHERE id % 9 = 4',
		'UPDATE that changes nothing' => 'UPDATE orders SET n = n',
		'UPDATE of the primary key' => 'UPDATE orders SET id = id + 1000000 WHERE id % 70 = 0',
		'DELETE' => 'DELETE FROM orders WHERE id % 13 = 5',
		'DELETE of the extremes' => 'DELETE FROM orders o USING (SELECT k, min(n) mi, max(n) ma, max(amount) maa, min(ts) mt FROM orders GROUP BY k) x
			WHERE o.k = x.k AND (n IN (mi, ma) OR amount = maa OR ts = mt)',
		'DELETE of a whole group' => "DELETE FROM orders WHERE k = 'new'",
		'a group comes back' => $seq . $row->('new', 9, 70, 5, 1, 'y'),
		'in and out in one transaction' => 'BEGIN; ' . $seq . $row->('short', 77, 1, 1, 1, 'z')
			. "; UPDATE orders SET cat = 78 WHERE k = 'short'; DELETE FROM orders WHERE k = 'short'; COMMIT",
		'one row many times in one transaction' => 'BEGIN; ' . $seq . $row->('many', 1, 1, 1, 1, 'z') . ';'
			. join('', map { "UPDATE orders SET n = $_, k = 'many$_' WHERE k LIKE 'many%';" } 1 .. 30) . 'COMMIT',
		'HAVING is left' => 'DELETE FROM orders WHERE cat = 1 AND n > 0 AND id > (SELECT min(id) FROM orders WHERE cat = 1)',
		'HAVING is entered' => $seq . 'SELECT \'h\', 1, 100, 5, 5, 5, NULL, now(), NULL FROM generate_series(1, 20)',
		'ON CONFLICT DO UPDATE' => "INSERT INTO orders (id, k, n) SELECT id, 'c', 1 FROM orders WHERE id < 100
			ON CONFLICT (id) DO UPDATE SET k = excluded.k, n = orders.n + excluded.n",
		'MERGE' => "MERGE INTO orders o USING (SELECT i::bigint AS i FROM generate_series(1, 200) i) x ON o.id = x.i
			WHEN MATCHED AND i % 3 = 0 THEN DELETE WHEN MATCHED THEN UPDATE SET n = i WHEN NOT MATCHED THEN INSERT (id, k, n, cat) VALUES (i, 'merge', i, 3)",
		'data-modifying WITH' => "WITH gone AS (DELETE FROM orders WHERE id % 31 = 0 RETURNING *) " . $seq
			. "SELECT 'moved', cat, amount, n, b, f, span, ts, note FROM gone",
		'ROLLBACK' => 'BEGIN; DELETE FROM orders; ROLLBACK',
		'COPY' => "COPY (SELECT 'copied', i % 3, i * 0.1, i FROM generate_series(1, 5000) i) TO '$rows_file';
			COPY orders (k, cat, amount, n) FROM '$rows_file'",
		'a COPY that failed' => sub {
			isnt(error_of("COPY orders (k, cat, amount, id) FROM '$rows_file'"), '', 'it failed');
		},
		'synchronous_commit = off' => 'SET synchronous_commit = off; ' . $seq . $row->('async', 1, 1, 1, 1, 'a'),
		'NaN and infinities' => $seq . "VALUES ('nan', 1, 'NaN', 1, 1, 'NaN', NULL, '2026-03-05Z', ''), ('nan', 1, 'Infinity', 1, 1, 'Infinity', NULL, '2026-03-05Z', ''),
			('nan', 1, 3, 1, 1, '-Infinity', NULL, '2026-03-05Z', ''), ('a', 1, 'NaN', 1, 1, 'NaN', NULL, '2026-03-05Z', '')",
		'NaN and infinities leave' => "DELETE FROM orders WHERE amount = 'NaN' OR f IN ('Infinity', 'NaN')",
		'the last infinity leaves' => "DELETE FROM orders WHERE f = '-Infinity'",
		'the display scale of what remains' => $seq . "VALUES ('scale', 1, 1.00, 1, 1, 1, NULL, NULL, NULL), ('scale', 1, 2.5, 1, 1, 1, NULL, NULL, NULL), ('scale', 1, 0.12345678901234567890, 1, 1, 1, NULL, NULL, NULL)",
		'the display scale after deletes' => "DELETE FROM orders WHERE k = 'scale' AND amount = 1 OR amount = 0.12345678901234567890",
		'huge numerics and bigints' => $seq . "VALUES ('huge', 1, 1e100, 2147483647, 9223372036854775807, 1, NULL, NULL, NULL), ('huge', 1, 1e-100, 2147483647, 9223372036854775807, 1, NULL, NULL, NULL)",
		'huge numerics leave' => "DELETE FROM orders WHERE k = 'huge' AND amount = 1e100",
		'a float that swallows others' => $seq . "VALUES ('a', 1, 1, 1, 1, 1e17, NULL, NULL, NULL)",
		'and leaves' => 'DELETE FROM orders WHERE f = 1e17',
		'CLUSTER' => 'CLUSTER orders USING orders_pkey; ' . $seq . $row->('a', 1, 1, 1, 1, 'a'),
		'VACUUM FULL' => 'VACUUM FULL orders',
		'after VACUUM FULL' => 'UPDATE orders SET n = n + 1 WHERE id % 100 = 0',
		'a trigger that writes more' => q{CREATE FUNCTION more() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
				IF new.k = 'trig' THEN INSERT INTO orders (k, n) VALUES ('child', new.n); END IF; RETURN new; END $$;
			CREATE TRIGGER more AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION more();
			INSERT INTO orders (k, n) SELECT 'trig', i FROM generate_series(1, 5) i; DROP TRIGGER more ON orders});

	# ---- transactions
	my @sub = map { $_ % 3 ? "SAVEPOINT s; INSERT INTO orders (k, n) VALUES ('sub', $_); RELEASE s;"
		: "SAVEPOINT s; UPDATE orders SET n = n + 1 WHERE k = 'sub'; ROLLBACK TO s; RELEASE s;" } 1 .. 150;
	each_step(\@all,
		'ROLLBACK TO SAVEPOINT' => 'BEGIN; ' . $seq . $row->('sp', 1, 1, 1, 1, 'a') . '; SAVEPOINT a; DELETE FROM orders WHERE cat = 1;
			SAVEPOINT b; ' . $seq . $row->('sp', 2, 2, 2, 2, 'b') . '; ROLLBACK TO a; ' . $seq . $row->('sp', 3, 3, 3, 3, 'c') . '; COMMIT',
		'nested savepoints' => 'BEGIN; SAVEPOINT a; ' . $seq . $row->('n1', 1, 1, 1, 1, 'a') . '; SAVEPOINT b; ' . $seq . $row->('n2', 1, 1, 1, 1, 'a')
			. '; RELEASE b; SAVEPOINT c; ' . $seq . $row->('n3', 1, 1, 1, 1, 'a') . '; ROLLBACK TO c; RELEASE a; COMMIT',
		'many subtransactions' => "BEGIN; @sub COMMIT",
		'exceptions' => q{DO $$ BEGIN FOR i IN 1 .. 300 LOOP BEGIN
			UPDATE orders SET n = n + 1 WHERE k = 'sub' AND id % 300 = i; INSERT INTO orders (k, n) VALUES ('exc', i);
			IF i % 3 = 0 THEN RAISE 'no'; END IF; EXCEPTION WHEN raise_exception THEN NULL; END; END LOOP; END $$},
		'a transaction in which only a part survives' => "BEGIN; SAVEPOINT a; UPDATE orders SET k = 'lost'; ROLLBACK TO a; DELETE FROM orders WHERE k = 'exc' AND n % 2 = 0; COMMIT",
		'PREPARE' => "BEGIN; INSERT INTO orders (k, n, cat) SELECT 'prep', i, 1 FROM generate_series(1, 100) i; UPDATE orders SET n = 5 WHERE k = 'exc';
			PREPARE TRANSACTION 'one'; BEGIN; INSERT INTO orders (k, n) VALUES ('prep2', 1); PREPARE TRANSACTION 'two'",
		'others commit meanwhile' => $seq . $row->('mean', 1, 1, 1, 1, 'a'),
		'ROLLBACK PREPARED' => "ROLLBACK PREPARED 'two'",
		'a restart meanwhile' => sub { $node->restart },
		'COMMIT PREPARED' => "COMMIT PREPARED 'one'",
		'a large transaction' => "BEGIN; INSERT INTO orders (k, cat, n, amount) SELECT chr(97 + i % 26), i % 100, i, i FROM generate_series(1, 30000) i;
			UPDATE orders SET cat = cat + 1 WHERE n % 3 = 0; DELETE FROM orders WHERE n % 7 = 0 AND cat > 50; COMMIT",
		'a large transaction, rolled back' => "BEGIN; INSERT INTO orders (k, cat, n, amount) SELECT chr(97 + i % 26), i % 100, i, i FROM generate_series(1, 30000) i; ROLLBACK");

	# ---- TRUNCATE
	my $fill = $seq . q{SELECT chr(97 + i % 7), i % 5, i * 1.25, i % 11, i, i / 4.0, NULL, timestamptz '2026-04-01Z' + i * interval '1 hour', 't' FROM generate_series(1, 100) i};
	each_step(\@all,
		'TRUNCATE rolled back' => 'BEGIN; TRUNCATE orders; ROLLBACK',
		'TRUNCATE in a savepoint rolled back' => "BEGIN; SAVEPOINT s; TRUNCATE orders; $fill; ROLLBACK TO s; $fill; COMMIT",
		'TRUNCATE' => 'TRUNCATE orders',
		'rows after it' => $fill,
		'TRUNCATE with rows before and after' => "BEGIN; INSERT INTO orders (k, n) VALUES ('before', 1); UPDATE orders SET n = n + 1; TRUNCATE orders; $fill; UPDATE orders SET n = n + 2; COMMIT",
		'TRUNCATE twice' => "BEGIN; TRUNCATE orders; $fill; TRUNCATE orders; $fill; $fill; COMMIT",
		'TRUNCATE in a savepoint' => "BEGIN; SAVEPOINT s; TRUNCATE orders RESTART IDENTITY; RELEASE s; $fill; COMMIT",
		'TRUNCATE and COPY FREEZE' => "COPY (SELECT 'copied', i % 3, i * 0.1, i FROM generate_series(1, 500) i) TO '$rows_file';
			BEGIN; TRUNCATE orders; COPY orders (k, cat, amount, n) FROM '$rows_file' WITH (FREEZE); COMMIT",
		'a rewrite' => 'ALTER TABLE orders ADD COLUMN extra float8 DEFAULT random()',
		'rows after it' => $fill,
		'DELETE of everything' => 'DELETE FROM orders');
	is(sql('SELECT count(*) FROM per_key'), '0', 'no group is left');
	is(sql('SELECT c FROM grand'), '0', 'a view without GROUP BY has its one row');
	ok($node->wait_until("SELECT sum(groups_on_disk) FROM weir.stat_views WHERE view::text IN ('per_key', 'per_day', 'extremes')", '0', 15),
		'and no state');
	sql($fill);
	$oracle->same('and it begins again', @all);
	cmp_ok(sql("SELECT min(rows_in) FROM weir.stat_views"), '>', 50000, 'rows have come this way');

	# asynchronous commits show up without anybody waiting for them
	sql("SET synchronous_commit = off; INSERT INTO orders (k, n) VALUES ('soon', 1)");
	ok($node->wait_until("SELECT count(*) FROM per_key WHERE k = 'soon'", '1', 10), 'an asynchronous commit is seen within bounds');

	# ---- pausing
	sql("SELECT weir.pause('per_key')");
	my $before = sql('SELECT k, c FROM per_key ORDER BY 1');
	sql($fill) for 1 .. 3;
	sql("DELETE FROM orders WHERE k = 'a'; UPDATE orders SET k = 'z' WHERE k = 'b'");
	$oracle->same('the others go on beside a paused view', grep { $_ ne 'per_key' } @all);
	is(sql('SELECT k, c FROM per_key ORDER BY 1'), $before, 'a paused view stands still');
	sql("SELECT weir.resume('per_key')");
	$oracle->same('resumed, it has caught up', 'per_key');
	sql("SELECT weir.pause('$_')") for @all;
	sql($fill);
	$node->restart;
	sql('TRUNCATE orders');
	sql($fill);
	sql("SELECT weir.resume('$_')") for @all;
	$oracle->same('all paused, a restart, a TRUNCATE, resumed', @all);
	sql("SELECT weir.rebuild('$_')") for 'per_key', 'extremes';
	sql($fill);
	$oracle->same('rebuilt', @all);

	# ---- the end of views
	sql('DROP TABLE per_key');
	$oracle->forget('per_key');
	sql($fill);
	$oracle->same('the others go on after a DROP', grep { $_ ne 'per_key' } @all);
	like(error_of('DROP TABLE orders'), qr/^2BP01/, 'the table is not dropped beneath its views');
	sql('DROP TABLE orders CASCADE');
	is(sql('SELECT count(*) FROM weir.views'), '0', 'but with them');
};

# ------------------------------------------------------------- columns

section 'TOAST', sub {
	sql(<<'EOF2');
CREATE TABLE docs (id int PRIMARY KEY, k text, n int, body text, packed text, title text);
ALTER TABLE docs ALTER body SET STORAGE EXTERNAL, REPLICA IDENTITY FULL;
CREATE FUNCTION long(i int, bytes int) RETURNS text LANGUAGE sql AS
	$$ SELECT string_agg(md5(i::text || j), '') FROM generate_series(1, bytes / 32) j $$;
INSERT INTO docs SELECT i, 'k' || i % 3, i, long(i, 9000), repeat(chr(97 + i % 5), 40000), 't' || i FROM generate_series(1, 30) i;
EOF2
	$oracle->create('bodies', 'SELECT k, sum(length(body)) AS l, min(body) AS mi, max(packed) AS ma, count(packed) AS c FROM docs GROUP BY k');
	$oracle->create('by_body', 'SELECT md5(body) AS body, count(*) AS c, sum(n) AS n FROM docs GROUP BY 1');
	$oracle->create('by_left', 'SELECT left(body, 1) AS l, length(packed) AS p, sum(n) AS n, max(title) AS t FROM docs GROUP BY 1, 2');
	each_step([qw(bodies by_body by_left)],
		'values out of line, before the view' => 'SELECT',
		'INSERT of such values' => "INSERT INTO docs SELECT i, 'k' || i % 3, i, long(i, 9000), repeat(chr(97 + i % 5), 40000), 't' || i FROM generate_series(31, 60) i",
		'UPDATE beside an unchanged one' => 'UPDATE docs SET n = n + 100 WHERE id % 2 = 0',
		'UPDATE of the group beside it' => "UPDATE docs SET k = 'moved' WHERE id % 5 = 0",
		'UPDATE of one of two' => 'UPDATE docs SET body = long(id + 1000, 12000) WHERE id % 7 = 0',
		'UPDATE of the other' => "UPDATE docs SET packed = repeat('x', 50000 + id) WHERE id % 6 = 0",
		'UPDATE twice in a transaction' => 'BEGIN; UPDATE docs SET n = n + 1; UPDATE docs SET body = body || \'!\' WHERE id < 10; UPDATE docs SET n = n + 1; COMMIT',
		'UPDATE to a short value and back' => "UPDATE docs SET body = 'short' WHERE id % 4 = 1; UPDATE docs SET body = long(id, 20000) WHERE body = 'short' AND id % 8 = 1",
		'UPDATE to NULL' => 'UPDATE docs SET body = NULL, packed = NULL WHERE id % 9 = 0',
		'DELETE' => 'DELETE FROM docs WHERE id % 3 = 0',
		'a very long value' => "INSERT INTO docs VALUES (999, 'long', 1, long(1, 3000000), NULL, NULL)",
		'beside it' => 'UPDATE docs SET n = 2 WHERE id = 999',
		'and gone' => 'DELETE FROM docs WHERE id = 999');
	sql('DROP TABLE docs CASCADE');
};

section 'columns', sub {
	sql(<<'EOF2');
CREATE TABLE lines (gone1 int, id int PRIMARY KEY, price numeric, gone2 text, qty int,
	total numeric GENERATED ALWAYS AS (price * qty) STORED, k varchar(20), gone3 text);
ALTER TABLE lines REPLICA IDENTITY FULL;
INSERT INTO lines (gone1, id, price, gone2, qty, k) SELECT i, i, i * 0.5, 'x', i % 4, 'k' || i % 3 FROM generate_series(1, 40) i;
ALTER TABLE lines DROP COLUMN gone1;
INSERT INTO lines (id, price, gone2, qty, k) SELECT i, i * 0.5, 'x', i % 4, 'k' || i % 3 FROM generate_series(41, 50) i;
ALTER TABLE lines ADD COLUMN early int DEFAULT 7;
INSERT INTO lines (id, price, gone2, qty, k, early) SELECT i, i * 0.5, 'x', i % 4, 'k' || i % 3, i FROM generate_series(51, 60) i;
EOF2
	$oracle->create('totals', 'SELECT k, sum(total) AS t, sum(price) AS p, min(total) AS m, count(*) AS c FROM lines GROUP BY k');
	$oracle->create('earlies', 'SELECT early, count(*) AS c, sum(qty) AS q FROM lines GROUP BY early');
	my @both = qw(totals earlies);
	$node->wait_until("SELECT count(*) FROM weir.views WHERE state = 'running'", '2');
	my $more = sub { my ($from) = @_; "INSERT INTO lines (id, price, qty, k) SELECT i, i * 0.5, i % 4, 'k' || i % 3 FROM generate_series($from, $from + 9) i" };
	each_step(\@both,
		'generated columns and dropped ones' => $more->(100),
		'UPDATE of what is generated' => 'UPDATE lines SET qty = qty + 1 WHERE id % 2 = 0',
		'DELETE of rows older than a column with a default' => 'DELETE FROM lines WHERE id < 20',
		'UPDATE of such rows' => 'UPDATE lines SET price = price + 1 WHERE id BETWEEN 20 AND 30',
		'a column is dropped' => 'ALTER TABLE lines DROP COLUMN gone2',
		'rows after that' => $more->(120) . '; UPDATE lines SET qty = 9 WHERE id % 7 = 0; DELETE FROM lines WHERE id % 11 = 0',
		'ADD COLUMN DEFAULT' => 'ALTER TABLE lines ADD COLUMN late int DEFAULT 42',
		'rows after that' => $more->(140) . '; UPDATE lines SET qty = 8 WHERE id % 5 = 0; DELETE FROM lines WHERE id % 13 = 0',
		'DDL and rows in one transaction' => 'BEGIN; ' . $more->(160) . '; ALTER TABLE lines DROP COLUMN gone3; ' . $more->(170)
			. '; ALTER TABLE lines ADD COLUMN later text DEFAULT \'z\'; ' . $more->(180) . '; UPDATE lines SET qty = qty + 1; COMMIT',
		'DDL rolled back' => 'BEGIN; ' . $more->(190) . '; ALTER TABLE lines DROP COLUMN later; ' . $more->(200) . '; ROLLBACK; ' . $more->(190),
		'DDL in a savepoint rolled back' => 'BEGIN; ' . $more->(210) . '; SAVEPOINT s; ALTER TABLE lines ADD COLUMN never int DEFAULT 3; ' . $more->(220) . '; ROLLBACK TO s; ' . $more->(220) . '; COMMIT',
		'RENAME of a column' => 'ALTER TABLE lines RENAME COLUMN late TO belated');
	$oracle->know('totals', 'SELECT k, sum(sum) AS t, sum(price) AS p, min(sum) AS m, count(*) AS c FROM lines GROUP BY k');
	each_step(['totals'], 'RENAME of a column that is read' => 'ALTER TABLE lines RENAME COLUMN total TO sum; ' . $more->(230));
	$oracle->know('totals', 'SELECT k, sum(sum) AS t, sum(price) AS p, min(sum) AS m, count(*) AS c FROM elsewhere.rows_of_orders GROUP BY k');
	$oracle->know('earlies', 'SELECT early, count(*) AS c, sum(qty) AS q FROM elsewhere.rows_of_orders GROUP BY early');
	each_step(\@both,
		'RENAME of the table, SET SCHEMA' => 'CREATE SCHEMA elsewhere; ALTER TABLE lines RENAME TO rows_of_orders; ALTER TABLE rows_of_orders SET SCHEMA elsewhere;
			UPDATE elsewhere.rows_of_orders SET qty = qty + 1; DELETE FROM elsewhere.rows_of_orders WHERE id % 17 = 0',
		'constraints, indexes, statistics' => 'ALTER TABLE elsewhere.rows_of_orders ADD CONSTRAINT sane CHECK (id > 0), ALTER COLUMN price SET NOT NULL, ALTER COLUMN price SET STATISTICS 10;
			CREATE INDEX ON elsewhere.rows_of_orders (price); ANALYZE elsewhere.rows_of_orders; UPDATE elsewhere.rows_of_orders SET price = price + 1',
		'another type of a column that nobody reads' => 'ALTER TABLE elsewhere.rows_of_orders ALTER COLUMN belated TYPE text;
			UPDATE elsewhere.rows_of_orders SET qty = qty + 1 WHERE id % 2 = 0; DELETE FROM elsewhere.rows_of_orders WHERE id % 19 = 0');
	isnt(error_of('ALTER TABLE elsewhere.rows_of_orders ALTER COLUMN price TYPE float8'), '', 'another type of one that is read is refused');
	isnt(error_of('ALTER TABLE elsewhere.rows_of_orders DROP COLUMN price'), '', 'so is dropping it');
	$oracle->same('and nothing has happened', @both);
	sql('DROP SCHEMA elsewhere CASCADE');
};

# ------------------------------------------------------------- partitions

section 'partitions', sub {
	sql(<<'EOF2');
CREATE TABLE ev (id int, region text, n int, amount numeric, at timestamptz) PARTITION BY LIST (region);
CREATE TABLE ev_eu PARTITION OF ev FOR VALUES IN ('de', 'fr');
CREATE TABLE ev_us (junk int, amount numeric, at timestamptz, region text, n int, id int);
ALTER TABLE ev_us DROP COLUMN junk;
ALTER TABLE ev ATTACH PARTITION ev_us FOR VALUES IN ('us');
CREATE TABLE ev_rest PARTITION OF ev DEFAULT PARTITION BY RANGE (n);
CREATE TABLE ev_rest1 PARTITION OF ev_rest FOR VALUES FROM (MINVALUE) TO (50);
CREATE TABLE ev_rest2 PARTITION OF ev_rest FOR VALUES FROM (50) TO (MAXVALUE);
ALTER TABLE ev_eu REPLICA IDENTITY FULL; ALTER TABLE ev_us REPLICA IDENTITY FULL;
ALTER TABLE ev_rest1 REPLICA IDENTITY FULL; ALTER TABLE ev_rest2 REPLICA IDENTITY FULL;
INSERT INTO ev SELECT i, (ARRAY['de', 'fr', 'us', 'jp', 'in'])[1 + i % 5], i % 100, i * 0.5, timestamptz '2026-01-01Z' + i * interval '1 h'
	FROM generate_series(1, 500) i;
EOF2
	$oracle->create('regions', 'SELECT region, count(*) AS c, sum(n) AS n, sum(amount) AS a, max(id) AS m FROM ev GROUP BY region');
	$oracle->create('days', q{SELECT weir.tumble(at, '1 day') AS win, count(*) AS c, sum(amount) AS a FROM ev GROUP BY win});
	$oracle->create('of_leaf', 'SELECT n % 5 AS n, count(*) AS c, sum(amount) AS a FROM ev_us GROUP BY 1');
	$oracle->create('of_middle', 'SELECT region, count(*) AS c, min(n) AS n FROM ev_rest GROUP BY region');
	my @views = qw(regions days of_leaf of_middle);
	my $rows = sub { my ($from) = @_; "INSERT INTO ev SELECT i, (ARRAY['de', 'fr', 'us', 'jp', 'in'])[1 + i % 5], i % 100, i * 0.5, timestamptz '2026-01-09Z' + i * interval '1 min' FROM generate_series($from, $from + 99) i" };
	each_step(\@views,
		'rows in all partitions' => $rows->(1000),
		'UPDATE, another order of columns' => 'UPDATE ev SET amount = amount + 1, n = (n + 7) % 100 WHERE id % 3 = 0',
		'UPDATE that moves rows' => "UPDATE ev SET region = CASE region WHEN 'us' THEN 'de' WHEN 'de' THEN 'us' ELSE region END, n = 99 - n WHERE id % 7 = 0",
		'DELETE' => 'DELETE FROM ev WHERE id % 5 = 1',
		'writing to leaves' => "INSERT INTO ev_us (id, region, n, amount) VALUES (1, 'us', 1, 1); UPDATE ev_us SET n = n + 1; DELETE FROM ev_eu WHERE n % 2 = 0",
		'a partition is created' => "CREATE TABLE ev_br PARTITION OF ev FOR VALUES IN ('br'); ALTER TABLE ev_br REPLICA IDENTITY FULL",
		'rows in it' => "INSERT INTO ev SELECT i, 'br', i % 10, i FROM generate_series(1, 50) i; UPDATE ev SET amount = 5 WHERE region = 'br' AND n = 3; UPDATE ev SET region = 'us' WHERE n = 4; DELETE FROM ev WHERE n = 5",
		'created and filled in one transaction' => "BEGIN; CREATE TABLE ev_mx PARTITION OF ev FOR VALUES IN ('mx'); ALTER TABLE ev_mx REPLICA IDENTITY FULL; INSERT INTO ev SELECT i, 'mx', i % 10, i FROM generate_series(1, 50) i; UPDATE ev SET n = n + 1 WHERE region = 'mx'; COMMIT",
		'a restart' => sub { $node->restart },
		'rows after it' => $rows->(1200) . "; UPDATE ev SET n = (n + 1) % 100",
		'TRUNCATE of the root' => 'TRUNCATE ev',
		'rows after it' => $rows->(1300));

	for my $case (
		[ 'TRUNCATE of a leaf', 'TRUNCATE ev_eu' ],
		[ 'DETACH', 'ALTER TABLE ev DETACH PARTITION ev_eu' ],
		[ 'ATTACH', "BEGIN; DELETE FROM ev WHERE region IN ('de', 'fr'); ALTER TABLE ev ATTACH PARTITION ev_eu FOR VALUES IN ('de', 'fr'); COMMIT" ],
		[ 'DROP of a leaf', 'DROP TABLE ev_mx' ],
		[ 'TRUNCATE of a leaf among rows', 'BEGIN; ' . $rows->(1400) . '; TRUNCATE ev_br; ' . $rows->(1500) . '; COMMIT' ])
	{
		my ($what, $sql) = @$case;
		sql($sql);
		sql($rows->(1600));
		$oracle->stalls('regions', '55000', qr/rebuild/, $what);
		$oracle->stalls('days', '55000', qr/rebuild/, "$what, another view");
		$oracle->same("$what: a view of another leaf goes on", 'of_leaf');
		$oracle->rebuilt($_, $what) for qw(regions days);
		each_step([qw(regions days of_leaf)], "$what: and on" => $rows->(1700) . '; UPDATE ev SET n = (n + 1) % 100; DELETE FROM ev WHERE id % 17 = 0');
	}
	$oracle->same('the one in the middle', 'of_middle');
	sql('DROP TABLE ev CASCADE');
};

# ------------------------------------------------------------- identity, append_only

section 'identity', sub {
	sql(<<'EOF2');
CREATE TABLE acct (id int PRIMARY KEY, k text NOT NULL, n int NOT NULL, note text);
INSERT INTO acct SELECT i, 'k' || i % 4, i % 10, 'n' FROM generate_series(1, 100) i;
EOF2
	my $error = '';
	$node->psql('postgres', $oracle->statement('no_view', 'SELECT k, sum(n) AS s FROM acct GROUP BY k'),
		stderr => \$error, extra_params => [ '-v', 'VERBOSITY=verbose' ]);
	like($error, qr/ERROR:  55000:.*ALTER TABLE .*acct REPLICA IDENTITY FULL/s, 'an identity that does not carry the columns is refused, with what to run');

	$oracle->create('ids', 'SELECT id % 10 AS d, count(*) AS c, sum(id) AS s, max(id) AS m FROM acct GROUP BY 1');
	$oracle->create('how_many', 'SELECT count(*) AS c FROM acct');
	my @default = qw(ids how_many);
	each_step(\@default,
		'only key columns: the default identity will do' => "INSERT INTO acct SELECT i, 'k', 1 FROM generate_series(101, 120) i",
		'UPDATE of others' => 'UPDATE acct SET n = n + 1, note = \'m\'',
		'UPDATE of the key' => 'UPDATE acct SET id = id + 1000 WHERE id % 3 = 0',
		'UPDATE of both' => 'UPDATE acct SET id = id + 1000, n = 5 WHERE id % 4 = 0',
		'DELETE' => 'DELETE FROM acct WHERE id % 5 = 0');

	sql('CREATE UNIQUE INDEX acct_kn ON acct (k, id, n); ALTER TABLE acct REPLICA IDENTITY USING INDEX acct_kn');
	$oracle->create('by_index', 'SELECT k, count(*) AS c, sum(n) AS s FROM acct GROUP BY k');
	each_step([ @default, 'by_index' ],
		'an index as identity' => "INSERT INTO acct SELECT i, 'i' || i % 3, i FROM generate_series(3001, 3020) i; UPDATE acct SET n = n + 1 WHERE id % 2 = 0; UPDATE acct SET note = 'x'; UPDATE acct SET k = 'other' WHERE id % 7 = 0; DELETE FROM acct WHERE id % 9 = 0");
	sql('ALTER TABLE acct REPLICA IDENTITY FULL');
	$oracle->create('full_one', 'SELECT note, sum(n) AS s FROM acct GROUP BY note');
	each_step([ @default, 'by_index', 'full_one' ], 'a larger identity' => "UPDATE acct SET note = 'y', n = n + 1 WHERE id % 3 = 0; DELETE FROM acct WHERE id % 8 = 0");

	sql('ALTER TABLE acct REPLICA IDENTITY DEFAULT');
	$oracle->same('a smaller identity alone', qw(ids how_many by_index full_one));
	sql("INSERT INTO acct VALUES (5000, 'k', 1)");
	sql("UPDATE acct SET n = n + 1 WHERE id < 500");
	$oracle->stalls('full_one', '55000', qr/REPLICA IDENTITY/, 'UPDATE under a smaller identity');
	$oracle->stalls('by_index', '55000', qr/REPLICA IDENTITY/, 'the same for an index that is no longer the identity');
	$oracle->same('views that need no more go on', @default);
	sql('ALTER TABLE acct REPLICA IDENTITY FULL');
	for my $v (qw(full_one by_index)) { $oracle->rebuilt($v, "$v after the identity is back") }
	each_step([ @default, 'by_index', 'full_one' ], 'all go on' => "UPDATE acct SET note = 'z', n = n + 1 WHERE id % 3 = 0; DELETE FROM acct WHERE id % 6 = 0");
	sql('ALTER TABLE acct REPLICA IDENTITY NOTHING; DELETE FROM acct WHERE id = (SELECT min(id) FROM acct)');
	$oracle->stalls('ids', '55000', qr/REPLICA IDENTITY/, 'DELETE without an identity');
	sql('DROP TABLE acct CASCADE');
};

section 'append_only', sub {
	# What was ever inserted, by a trigger: the oracle of 'ignore'.
	sql(<<'EOF2');
CREATE TABLE hits (id serial PRIMARY KEY, k text, n int, d int DEFAULT 1);
CREATE TABLE hits_ever (id int, k text, n int, d int);
CREATE FUNCTION remember() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO hits_ever VALUES (new.*); RETURN new; END $$;
CREATE TRIGGER remember AFTER INSERT ON hits FOR EACH ROW EXECUTE FUNCTION remember();
INSERT INTO hits (k, n) SELECT 'k' || i % 3, i FROM generate_series(1, 100) i;
EOF2
	my $q = 'SELECT k, count(*) AS c, sum(n) AS s, max(n) AS m FROM hits GROUP BY k';
	(my $ever = $q) =~ s/hits/hits_ever/;
	$oracle->create('strict', $q, with => "weir.append_only");
	$oracle->create('strict_too', $q, with => "weir.append_only = 'error'");
	$oracle->create('loose', $q, with => "weir.append_only = 'ignore'", truth => $ever);
	each_step([qw(strict strict_too loose)],
		'append_only needs no identity' => "INSERT INTO hits (k, n) SELECT 'k' || i % 3, i FROM generate_series(101, 200) i",
		'ROLLBACK' => "BEGIN; INSERT INTO hits (k, n) VALUES ('no', 1); SAVEPOINT s; DELETE FROM hits; ROLLBACK TO s; ROLLBACK");
	my $before = sql('SELECT * FROM strict ORDER BY 1');
	sql("BEGIN; INSERT INTO hits (k, n) VALUES ('same', 1); UPDATE hits SET n = -1 WHERE id = 5; COMMIT");
	$oracle->stalls('strict', '55000', qr/append_only|UPDATE/i, 'UPDATE and append_only');
	$oracle->stalls('strict_too', '55000', qr/append_only|UPDATE/i, "UPDATE and append_only = 'error'");
	is(sql('SELECT * FROM strict ORDER BY 1'), $before, 'none of that transaction is in it');
	each_step(['loose'],
		"append_only = 'ignore': UPDATE" => 'UPDATE hits SET n = n + 1, k = \'u\' WHERE id % 2 = 0',
		'DELETE' => 'DELETE FROM hits WHERE id % 3 = 0',
		'TRUNCATE' => "TRUNCATE hits",
		'rows after it' => "INSERT INTO hits (k, n) SELECT 'k' || i % 3, i FROM generate_series(1, 10) i",
		'all of it in one' => "BEGIN; INSERT INTO hits (k, n) VALUES ('t', 1); TRUNCATE hits; INSERT INTO hits (k, n) VALUES ('t', 2); DELETE FROM hits WHERE n = 2; COMMIT");
	$oracle->rebuilt('strict', 'append_only', 1);
	sql("INSERT INTO hits (k, n) VALUES ('d', 1)");
	$oracle->same('append_only: rows after the rebuild', 'strict');
	sql("DELETE FROM hits WHERE k = 'd'");
	$oracle->stalls('strict', '55000', qr/append_only|DELETE/i, 'DELETE and append_only');

	# bad rows
	$oracle->create('careful', 'SELECT k, sum(100 / d) AS s FROM hits GROUP BY k', with => "weir.append_only = 'ignore', weir.on_error = 'dead_letter'",
		truth => q{SELECT k, sum(100 / nullif(d, 0)) AS s FROM hits h WHERE d <> 0 GROUP BY k});
	each_step(['careful'], 'a bad row costs itself alone' => "INSERT INTO hits (k, n, d) VALUES ('a', 1, 5), ('a', 2, 0), ('b', 3, 2)");
	is(sql(q{SELECT "offset" IS NULL, lsn IS NOT NULL, lsn <= pg_current_wal_lsn(), sqlstate, source FROM weir.dead_letters WHERE view = 'careful'::regclass}),
		't|t|t|22012|hits', 'and is a dead letter with its LSN');
	is(sql("SELECT dead_letters FROM weir.stat_views WHERE view = 'careful'::regclass"), '1', 'which is counted');
	sql('DROP TABLE hits CASCADE');

	sql("CREATE TABLE part (id int PRIMARY KEY, k text, d int); ALTER TABLE part REPLICA IDENTITY FULL; INSERT INTO part VALUES (1, 'a', 4)");
	$oracle->create('stops', 'SELECT k, sum(100 / d) AS s FROM part GROUP BY k');
	$oracle->same('a quotient', 'stops');
	sql("INSERT INTO part VALUES (2, 'a', 5)");
	sql("INSERT INTO part VALUES (3, 'a', 0)");
	sql("INSERT INTO part VALUES (4, 'a', 10)");
	ok($node->wait_until($oracle->state_query('stops'), 'stalled 22012'), 'a bad row of a table that is not append-only stalls the view');
	is(sql('SELECT s FROM stops'), '45', 'which holds all that came before');
	sql('DELETE FROM part WHERE d = 0');
	$oracle->rebuilt('stops', 'the bad row is gone');
	sql('DROP TABLE part CASCADE');
};

# ------------------------------------------------------------- sources

section 'sources', sub {
	sql(<<'EOF2');
CREATE TABLE plain (a int, b int); ALTER TABLE plain REPLICA IDENTITY FULL;
CREATE UNLOGGED TABLE unlogged (a int);
CREATE TABLE parent (a int); CREATE TABLE child () INHERITS (parent);
CREATE VIEW a_view AS SELECT a FROM plain; CREATE MATERIALIZED VIEW a_matview AS SELECT a FROM plain;
ALTER TABLE parent REPLICA IDENTITY FULL; ALTER TABLE child REPLICA IDENTITY FULL;
EOF2
	for my $case ([ 'unlogged', qr/^(0A000|55000): .*unlogged/i ], [ 'parent', qr/^0A000: .*inherit/i ], [ 'a_view', qr/^0A000: .*view/ ],
		[ 'a_matview', qr/^0A000: .*materialized view/ ], [ 'pg_catalog.pg_class', qr/^(0A000|42501)/ ], [ 'weir.views', qr/^0A000/ ])
	{
		like(error_of($oracle->statement('none', "SELECT count(*) AS c FROM $case->[0]")), $case->[1], "$case->[0] is no source");
	}
	like(error_of('CREATE TEMP TABLE t (a int); ' . $oracle->statement('none', 'SELECT count(*) AS c FROM t')), qr/^(0A000|55000|42P16)/, 'nor is a temporary table');

	# several tables, one worker and one slot
	sql('CREATE TABLE second (a int PRIMARY KEY); CREATE TABLE third (a int, b int); ALTER TABLE third REPLICA IDENTITY FULL');
	$oracle->create('p1', 'SELECT a, sum(b) AS s FROM plain GROUP BY a');
	$oracle->create('p2', 'SELECT b, count(*) AS s FROM plain GROUP BY b');
	$oracle->create('s1', 'SELECT count(*) AS c FROM second');
	$oracle->create('t1', 'SELECT a, min(b) AS m FROM third GROUP BY a');
	my @all = qw(p1 p2 s1 t1);
	each_step(\@all,
		'several tables' => 'INSERT INTO plain SELECT i % 5, i FROM generate_series(1, 50) i; INSERT INTO second SELECT generate_series(1, 20); INSERT INTO third SELECT i % 5, i FROM generate_series(1, 50) i',
		'in one transaction' => 'BEGIN; UPDATE plain SET b = b + 1; DELETE FROM second WHERE a < 5; UPDATE third SET a = a + 1; UPDATE plain SET a = 9 WHERE b = 3; COMMIT',
		'TRUNCATE of two' => 'TRUNCATE plain, third',
		'and on' => 'INSERT INTO plain SELECT i % 5, i FROM generate_series(1, 50) i; INSERT INTO third SELECT i % 5, i FROM generate_series(1, 50) i');
	is(sql($count_slots), '1', 'one slot');
	is(scalar(my @pids = $node->worker_pids('postgres')), 1, 'one worker');

	# a view made in a transaction with rows before and after it
	sql('BEGIN; INSERT INTO third VALUES (100, 1); ' . $oracle->statement('t2', 'SELECT a, count(*) AS c FROM third GROUP BY a') . '; INSERT INTO third VALUES (100, 2); COMMIT');
	$oracle->know('t2', 'SELECT a, count(*) AS c FROM third GROUP BY a');
	$oracle->same('a view made among rows of its own transaction', 't2');
	sql('BEGIN; ' . $oracle->statement('t3', 'SELECT a, count(*) AS c FROM third GROUP BY a') . '; ROLLBACK');
	sql($oracle->statement('t3', 'SELECT b, count(*) AS c FROM third GROUP BY b', no_data => 1));
	$oracle->know('t3', 'SELECT b, count(*) AS c FROM third GROUP BY b');
	is($oracle->state_of('t3'), 'paused', 'WITH NO DATA');
	sql("INSERT INTO third VALUES (1, 1); SELECT weir.resume('t3')");
	$oracle->same('and resumed', 't3');

	# who may read
	sql('CREATE ROLE reader; GRANT CREATE ON SCHEMA public TO reader');
	like(error_of($oracle->statement('theirs', 'SELECT a, count(*) AS c FROM third GROUP BY a', as => 'reader')), qr/^42501/, 'a view needs SELECT on its source');
	sql('GRANT SELECT ON third TO reader');
	$oracle->create('theirs', 'SELECT a, count(*) AS c FROM third GROUP BY a', as => 'reader');
	$oracle->same('a view of another owner', 'theirs');
	sql('REVOKE SELECT ON third FROM reader; INSERT INTO third VALUES (7, 7)');
	ok($node->wait_until($oracle->state_query('theirs'), 'stalled 42501', 40), 'an owner who may no longer read stalls his view');
	sql('INSERT INTO third VALUES (7, 8); UPDATE third SET b = b + 1; GRANT SELECT ON third TO reader');
	sql("SELECT weir.resume('theirs')");
	$oracle->same('the GRANT is back: nothing is lost', 'theirs', 't1', 't2');

	sql('ALTER TABLE third SET UNLOGGED');
	sql('INSERT INTO third VALUES (8, 8)');
	# by the transaction, or by the look at the table when the view is opened again
	ok($node->wait_until("SELECT state = 'stalled' AND message ~ 'logged' FROM weir.views WHERE view = 't1'::regclass"), 'SET UNLOGGED stalls');
	sql('ALTER TABLE third SET LOGGED');
	$oracle->rebuilt('t1', 'SET LOGGED');
	$oracle->same('others go on', 'p1', 'p2', 's1');
	is(sql("SELECT count(*) FROM weir.views WHERE view = 'p1'::regclass AND watermark IS NULL AND last_commit IS NOT NULL"), '1', 'weir.views');

	# the slot goes with the last view
	sql("DROP TABLE $_ CASCADE") for qw(third plain);
	is(sql('SELECT count(*) FROM weir.views'), '1', 'one view is left');
	$oracle->same('and goes on', 's1');
	sql('DROP TABLE second CASCADE');
	ok($node->wait_until('SELECT count(*) FROM pg_replication_slots', '0', 60), 'the slot goes with the last view');
	ok($node->wait_until(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_weir worker'}, '0', 60), 'so does the worker');
	sql('CREATE TABLE again (a int PRIMARY KEY); INSERT INTO again VALUES (1)');
	$oracle->create('again_c', 'SELECT count(*) AS c FROM again');
	each_step(['again_c'], 'and comes back with the next' => 'INSERT INTO again VALUES (2)');
	$oracle->drop('again_c');
	$oracle->create('again_c', 'SELECT sum(a) AS c FROM again');
	each_step(['again_c'], 'dropped and made anew at once' => 'INSERT INTO again VALUES (3)');
	sql('DROP TABLE again CASCADE');
};

# ------------------------------------------------------------- told, but not visible yet

# A commit is in the WAL before it is visible; a synchronous standby that is away
# stretches that.  A view made meanwhile must neither lose nor double it.
section 'visible later', sub {
	sql('CREATE TABLE late (id int PRIMARY KEY, k int); ALTER TABLE late REPLICA IDENTITY FULL; INSERT INTO late SELECT i, i % 3 FROM generate_series(1, 30) i');
	my $q = 'SELECT k, count(*) AS c, sum(id) AS s FROM late GROUP BY k';
	$oracle->create('before_it', $q);
	$oracle->same('a view', 'before_it');
	sql("ALTER SYSTEM SET synchronous_standby_names = 'nobody'");
	sql('SELECT pg_reload_conf()');
	my ($in, $out, $err) = ('', '', '');
	my $writer = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres'), '-c',
		'INSERT INTO late SELECT i, i % 3 FROM generate_series(101, 110) i; UPDATE late SET k = 5 WHERE id = 7' ],
		'<', \$in, '>', \$out, '2>', \$err, IPC::Run::timeout(60));
	ok($node->wait_until("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'", '1'), 'a commit waits for a standby');
	is(sql('SELECT count(*) FROM late'), '30', 'and is not visible');
	sql('SET synchronous_commit = local; INSERT INTO late VALUES (200, 1)');
	ok($node->wait_until('SELECT sum(c) FROM before_it WHERE k = 1', sql('SELECT count(*) FROM late WHERE k = 1') + 2, 15), 'the first view has been told of it');
	sql('SET synchronous_commit = local; ' . $oracle->statement('after_it', $q));
	$oracle->know('after_it', $q);
	sleep 1.5;
	is(sql('SELECT count(*) FROM after_it'), '0', 'one that is made now waits for it');
	sql('ALTER SYSTEM RESET synchronous_standby_names');
	sql('SELECT pg_reload_conf()');
	$writer->finish;
	$oracle->same('a view made before it was visible', qw(before_it after_it));
	sql('DROP TABLE late CASCADE');
};

# nothing is left behind
ok($node->wait_until('SELECT count(*) FROM pg_replication_slots', '0', 60), 'no slot is left');
is(sql(q{SELECT count(*) FROM pg_class WHERE relnamespace = 'weir_data'::regnamespace AND relname ~ '^(query|state)_'}), '0', 'no relation of a view');
is(sql('SELECT (SELECT count(*) FROM weir_data.views) + (SELECT count(*) FROM weir_data.status) + (SELECT count(*) FROM weir_data.positions)'), '0', 'no row of a view');
unlike(slurp_file($node->logfile), qr/PANIC|TRAP:|terminated by signal/, 'nobody crashed');
$node->stop;
done_testing;
