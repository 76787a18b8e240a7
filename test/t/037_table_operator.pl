# Views over tables as the person meets them who runs the server: lags, the slot,
# privileges that go, rebuilds that are refused, dumps, copies, and dropping it all.
use strict;
use warnings;

use Test::More;
use PostgreSQL::Test::Utils;
use WeirNode;

my $node = WeirNode->start_new('operator');
my $stall = q{SELECT sqlstate FROM weir.views WHERE view = 'app.v'::regclass};

sub sql { return $node->safe_psql('shop', @_) }

$node->safe_psql('postgres', 'CREATE DATABASE shop');
sql(<<'EOF');
CREATE EXTENSION pg_weir;
CREATE ROLE app;
CREATE SCHEMA app AUTHORIZATION app;
CREATE TABLE orders (id int PRIMARY KEY, customer int, amount numeric);
ALTER TABLE orders REPLICA IDENTITY FULL;
INSERT INTO orders SELECT i, i % 3, i FROM generate_series(1, 30) i;
GRANT SELECT ON orders TO app;
SET ROLE app;
CREATE TABLE app.v WITH (weir.continuous) AS SELECT customer, sum(amount) FROM public.orders GROUP BY customer;
CREATE FOREIGN TABLE app.pushed (a int) SERVER weir_stream;
CREATE TABLE app.w WITH (weir.continuous) AS SELECT a, count(*) FROM app.pushed GROUP BY a;
EOF

sub until_true
{
	my ($database, $sql) = @_;
	return $node->wait_until($sql, 't', 30, $database);
}

sub is_exact
{
	my ($what, $database) = @_;
	is($node->safe_psql($database // 'shop', <<'EOF'), '0', $what);
SELECT count(*) FROM (
	(TABLE app.v EXCEPT ALL SELECT customer, sum(amount) FROM orders GROUP BY customer)
	UNION ALL (SELECT customer, sum(amount) FROM orders GROUP BY customer EXCEPT ALL TABLE app.v)) d
EOF
}

# ---- where it stands
sql(q{SELECT weir.wait_for('app.v')});
is_exact('complete');
sql('INSERT INTO app.pushed VALUES (1), (1)');
sql(q{SELECT weir.wait_for('app.w')});
ok(until_true('shop', q{SELECT count(*) = 2 AND max(lag) = 0 AND max(lag_seconds) = 0
	AND bool_and(partition IS NULL AND position::pg_lsn <= source_end::pg_lsn) FROM weir.partitions}),
	'idle views are not behind, though the WAL has gone on');
is(sql(q{SELECT name = 'pg_weir_' || d.oid, active, pid = weir.worker_pid('app.v'), restart <= confirmed,
		retained_bytes > 0, max_retained_bytes = pg_size_bytes('10GB'), wal_status, last_lost IS NULL, xmin_age >= 0
	FROM weir.slot, pg_database d WHERE datname = current_database()}),
	't|t|t|t|t|t|reserved|t|t', 'weir.slot tells of the slot');
is(sql('SET ROLE app; SELECT count(*) FROM weir.slot'), '1', 'to everybody');

# ---- who may no longer read
sql('REVOKE SELECT ON orders FROM app; INSERT INTO orders VALUES (31, 1, 1)');
ok(until_true('shop', "SELECT ($stall) = '42501'"), 'REVOKE stalls')
  or diag(sql('SELECT * FROM weir.views'));
is(sql(q{SELECT lag IS NULL AND lag_seconds IS NULL FROM weir.partitions WHERE view = 'app.v'::regclass}), 't',
	'a stalled view has no lag');
sql(q{GRANT SELECT ON orders TO app; SELECT weir.resume('app.v')});
sql(q{SELECT weir.wait_for('app.v')});
is_exact('GRANT and resume go on without loss');
sql('ALTER TABLE orders ENABLE ROW LEVEL SECURITY; INSERT INTO orders VALUES (32, 1, 1)');
ok(until_true('shop', "SELECT ($stall) = '42501'"), 'so does row level security');
sql(q{ALTER ROLE app BYPASSRLS; SELECT weir.resume('app.v')});
sql(q{SELECT weir.wait_for('app.v')});
is_exact('and goes on when no policy applies');

# ---- an identity that says too little
sql('ALTER TABLE orders REPLICA IDENTITY DEFAULT; INSERT INTO orders VALUES (33, 1, 1)');
sql(q{SELECT weir.wait_for('app.v')});
is_exact('a weaker identity does no harm to inserts');
sql('DELETE FROM orders WHERE id = 1');
ok(until_true('shop', "SELECT ($stall) = '55000'"), 'but a delete stalls');
my ($rc, $out, $err) = $node->psql('shop', q{SELECT weir.rebuild('app.v')});
like($err, qr/Run ALTER TABLE public\.orders REPLICA IDENTITY FULL/, 'rebuild asks for the identity first');
sql(q{ALTER TABLE orders REPLICA IDENTITY FULL; SELECT weir.rebuild('app.v')});
sql(q{SELECT weir.wait_for('app.v')});
is_exact('rebuilt');

# ---- a dump comes with its rows, and says what it needs
my $dump = PostgreSQL::Test::Utils::tempdir . "/dump.sql";
command_ok([ 'pg_dump', '-d', $node->connstr('shop'), '-f', $dump ], 'dump');
$node->safe_psql('postgres', 'CREATE DATABASE copy');
command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('copy'), '-f', $dump ], 'restore');
is_exact('its rows come along', 'copy');
ok(until_true('copy', "SELECT ($stall) = '55000'"), 'its position does not: it stalls');
$node->safe_psql('copy', q{SELECT weir.rebuild('app.v')});
$node->safe_psql('copy', q{INSERT INTO orders VALUES (100, 1, 1)});
$node->safe_psql('copy', q{SELECT weir.wait_for('app.v')});
is_exact('rebuilt', 'copy');

# ---- and away with it, while workers hold slots
$node->safe_psql('postgres', 'DROP DATABASE copy');
pass('DROP DATABASE waits for the slot');
sql('DROP TABLE orders CASCADE; DROP SCHEMA app CASCADE');
ok(until_true('shop', 'SELECT NOT EXISTS (SELECT FROM weir.slot)'), 'the slot goes with the last view');
is(sql('SELECT count(*) FROM weir_data.slots'), '0', 'and what is known of it');

$node->stop;
done_testing();
