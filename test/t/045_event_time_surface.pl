# What users meet of event time: the view and its changelog as tables of theirs,
# which they alter, dump, replicate and drop like any other, and what they may see
# of other people's.
#
# sql/changelog_relation.sql has what needs no worker; 040_event_time.pl has what
# closes when.
use strict;
use warnings;

use Test::More;
use Time::HiRes qw(time sleep);
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

# ---- a lock on the changelog holds its view up, once, and no other
sql(q{CREATE TABLE other WITH (weir.continuous, weir.commit_interval = '20 ms') AS SELECT count(*) AS n FROM s; SELECT weir.wait_for('other', '60 s')});
for my $table ('v', 'v_changes')
{
	my $locker = $node->background_psql('postgres');
	$locker->query_safe("BEGIN; LOCK TABLE $table IN SHARE MODE");
	sql(q{INSERT INTO s VALUES ('d', '2024-01-01 00:01:40', 1)});
	stalls('v', '55P03|canceling statement due to lock timeout', "a lock on $table holds the view up");
	like(sql(q{SELECT hint FROM weir.views WHERE view = 'v'::regclass}), qr/lock on the view or its changelog/, '... which says so');
	my $started = time;
	for (1 .. 5)
	{
		sql(q{INSERT INTO s VALUES ('d', '2024-01-01 00:01:40', 1)});
		sql(q{SELECT weir.wait_for('other', '60 s')});
		sleep 0.2;
	}
	cmp_ok(time - $started, '<', 4, '... and others no longer wait with it');
	$locker->query_safe('COMMIT');
	$locker->quit;
	resumes('v', '... which goes on without it');
}
folds('v', 'the changelog folds to the view');

# ---- weir.wait_for for a view that goes meanwhile
my ($worker) = $node->worker_pids('postgres');
my $waiter = $node->background_psql('postgres', on_error_stop => 0);
kill 'STOP', $worker;
$waiter->query_until(qr/now/, "\\echo now\nSELECT weir.wait_for('other', '60 s');\n");
ok($node->wait_until(q{SELECT count(*) FROM pg_stat_activity WHERE query ~ '^SELECT weir.wait_for' AND wait_event = 'Extension'}, '1'), 'weir.wait_for waits');
sql('DROP TABLE other');
$waiter->query('SELECT 1');
like($waiter->{stderr}, qr/relation with OID \d+ does not exist/, '... and says that the view is gone');
kill 'CONT', $worker;
$waiter->quit;

# ---- the changelog in another database, by logical replication: what is appended,
# and with publish = 'insert' not what becomes too old here
$node->safe_psql('postgres', 'CREATE DATABASE archive');
sql(q{CREATE PUBLICATION changes FOR TABLE v_changes WITH (publish = 'insert')});
sql(q{SELECT pg_create_logical_replication_slot('archive', 'pgoutput')});
my $address = sql_literal($node->connstr('postgres'));
$node->safe_psql('archive', <<"EOF");
CREATE TABLE v_changes (weir_seq bigint PRIMARY KEY, weir_diff smallint, weir_reason text, weir_watermark timestamptz,
	weir_at timestamptz, k text, win tstzrange, n bigint, m int);
CREATE SUBSCRIPTION archive CONNECTION $address PUBLICATION changes WITH (create_slot = false, slot_name = 'archive');
EOF
ok($node->wait_until(q{SELECT srsubstate FROM pg_subscription_rel}, 'r', 30, 'archive'), 'a subscription takes what is there');
sql(q{INSERT INTO s SELECT 'k' || i % 3, timestamptz '2024-01-01 00:02:00' + i * interval '7 s', i FROM generate_series(1, 100) i});
sql(q{SELECT weir.wait_for('v', '60 s')});
my $changes = sql('SELECT * FROM v_changes ORDER BY weir_seq');
sql(q{ALTER TABLE v SET (weir.changelog_retention = '10 ms')});
ok($node->wait_until('SELECT count(*) FROM v_changes', '0', 40), 'what is too old goes');
sql(q{ALTER TABLE v RESET (weir.changelog_retention); INSERT INTO s VALUES ('last', '2024-01-01 00:02:00', 1)});
sql(q{SELECT weir.wait_for('v', '60 s')});
$changes .= "\n" . sql('SELECT * FROM v_changes ORDER BY weir_seq');
$node->wait_until('SELECT count(*) FROM v_changes', scalar(my @all = split /\n/, $changes), 30, 'archive');
is($node->safe_psql('archive', 'SELECT * FROM v_changes ORDER BY weir_seq'), $changes, '... and stays in the archive');
$node->safe_psql('archive', 'DROP SUBSCRIPTION archive');
sql('DROP PUBLICATION changes');

# ---- what another version has stored stalls its view, and no other of the worker's
sql(<<'EOF');
CREATE TABLE shares WITH (weir.continuous, weir.watermark = 'p90', weir.commit_interval = '20 ms') AS
	SELECT k, weir.tumble(ts, '1 minute') AS win, count(*) AS n FROM s GROUP BY k, win;
SELECT weir.wait_for('shares', '60 s');
INSERT INTO s SELECT 'k', timestamptz '2024-01-01 00:15:00' - i * interval '1 s', i FROM generate_series(1, 30) i;
EOF
sql(q{SELECT weir.wait_for('shares', '60 s')});
my $id = sql(q{SELECT id FROM weir_data.views WHERE relid = 'shares'::regclass});
for my $case (
	[ "UPDATE weir_data.positions SET lateness = set_byte(lateness, 0, 99) WHERE view_id = '$id'", qr/^0A000.stored lateness has format 99, .*weir.rebuild/ ],
	[ "UPDATE weir_data.positions SET lateness = substr(lateness, 1, length(lateness) - 1) WHERE view_id = '$id'", qr/^XX001.the stored lateness of a partition is damaged.*weir.rebuild/ ],
	[ "UPDATE weir_data.state_$id SET state = set_byte(state, 0, 3)", qr/^0A000.stored states have format 3, .*weir.rebuild/ ])
{
	my ($damage, $stall) = @$case;
	sql(q{SELECT weir.pause('shares'); INSERT INTO s VALUES ('k', '2024-01-01 00:15:00', 1)});
	sql(q{SELECT weir.wait_for('v', '60 s')});
	isnt(sql("$damage RETURNING 1"), '', 'something is stored');
	sql(q{SELECT weir.resume('shares')});
	$node->wait_until(q{SELECT state FROM weir.views WHERE view = 'shares'::regclass}, 'stalled');
	like(sql(q{SELECT sqlstate, message, hint FROM weir.views WHERE view = 'shares'::regclass}), $stall, 'it cannot be read');
	resumes('v', 'others go on');
	sql(q{SELECT weir.rebuild('shares', accept_loss => true)});
	sql(q{SELECT weir.wait_for('shares', '60 s'); INSERT INTO s SELECT 'k', timestamptz '2024-01-01 00:15:00' - i * interval '1 s', i FROM generate_series(1, 30) i});
	is(sql(q{SELECT weir.wait_for('shares', '60 s'); SELECT sum(n) FROM shares}), "\n30", 'a rebuild begins anew');
}
sql('DROP TABLE shares');

# ---- a standby, and its promotion: what is closed is asked there as here, and
# numbers of the changelog that somebody may have seen are not given again
sql(<<'EOF');
CREATE TABLE t (id serial PRIMARY KEY, k text, ts timestamptz);
ALTER TABLE t REPLICA IDENTITY FULL;
CREATE TABLE tv WITH (weir.continuous, weir.watermark = '5 seconds', weir.allowed_lateness = '1 minute', weir.commit_interval = '20 ms') AS
	SELECT k, weir.session(ts, '1 minute') AS win, count(*) AS n FROM t GROUP BY k, win;
EOF
sql(q{INSERT INTO t (k, ts) SELECT 'k' || i % 3, timestamptz '2024-01-01' + i * interval '40 s' FROM generate_series(1, 30) i});
sql(q{SELECT weir.wait_for('tv', '60 s')});
sql(q{INSERT INTO t (k, ts) VALUES ('late', '2024-01-01 00:00:01'), ('late', '2024-01-01 00:18:00')});
sql(q{SELECT weir.wait_for('tv', '60 s')});
$node->backup('base');
my $standby = WeirNode->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
$node->wait_for_catchup($standby);
for my $query (
	q{SELECT * FROM tv_changes ORDER BY weir_seq},
	q{SELECT *, weir.is_closed('tv', win) FROM tv ORDER BY 1, 2},
	q{SELECT weir.watermark('tv')},
	q{SELECT view, state, watermark, held_by, channel FROM weir.views ORDER BY 1},
	q{SELECT view, rows_in, late_applied, late_side FROM weir.stat_views ORDER BY 1},
	q{SELECT * FROM weir.late_rows WHERE view = 'tv'::regclass},
	q{SELECT view, watermark, idle FROM weir.partitions ORDER BY 1})
{
	my $here = sql($query);
	isnt($here, '', "the primary: $query");
	is($standby->safe_psql('postgres', $query), $here, '... and the standby');
}
like($standby->error_of(q{SELECT weir.delete_late_rows('tv')}), qr/^25006/, 'where nothing is deleted');
my $before = sql('SELECT max(weir_seq) FROM tv_changes');
$node->stop;
$standby->promote;
# the slot stayed behind
ok($standby->wait_until(q{SELECT state || ' ' || hint FROM weir.views WHERE view = 'tv'::regclass}, 'stalled Run weir.rebuild(view).'), 'promoted, the view over a table asks for a rebuild');
$standby->safe_psql('postgres', q{INSERT INTO t (k, ts) VALUES ('new', '2024-01-01 01:00:00')});
$standby->safe_psql('postgres', q{SELECT weir.rebuild('tv')});
$standby->safe_psql('postgres', q{SELECT weir.wait_for('tv', '60 s')});
is($standby->safe_psql('postgres', "SELECT min(weir_seq) > 4294967296 FROM tv_changes WHERE weir_seq > $before"), 't', 'numbers begin far behind those of before');
is($standby->safe_psql('postgres', <<'EOF'), '', 'the changelog folds to the closed sessions');
WITH fold AS (SELECT k, win, n FROM tv_changes GROUP BY 1, 2, 3 HAVING sum(weir_diff) = 1),
	closed AS (SELECT k, win, n FROM tv WHERE weir.is_closed('tv', win))
(TABLE fold EXCEPT ALL TABLE closed) UNION ALL (TABLE closed EXCEPT ALL TABLE fold)
EOF
$standby->stop;
unlike(slurp_file($_->logfile), qr/PANIC|TRAP:|signal 11|signal 6/, $_->name . ': nobody crashed') for $node, $standby;

done_testing();
