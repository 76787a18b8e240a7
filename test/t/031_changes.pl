# What the reader of the WAL tells, held against the tables: a bag of rows that
# follows the changes must be what the table holds.  No worker takes part; the
# test build's weir_test_changes() reads in a session, from a slot of the test.
use strict;
use warnings;

use IPC::Run ();
use Test::More;
use Time::HiRes qw(sleep time);
use WeirNode;

my $node = WeirNode->start_new('main', conf => <<'EOF2');
weir.enabled = off
max_prepared_transactions = 10
logical_decoding_work_mem = '64kB'
max_replication_slots = 10
EOF2
sub sql { return $node->safe_psql('postgres', @_) }

sql(<<'EOF2');
CREATE EXTENSION pg_weir;
CREATE FUNCTION test_changes(slot text, start pg_lsn, sources text[], until pg_lsn, confirm bool, max_bytes int, memory int,
	OUT kind text, OUT source regclass, OUT xid xid, OUT ends pg_lsn, OUT old text, OUT new text)
	RETURNS SETOF record AS '$libdir/pg_weir', 'weir_test_changes' LANGUAGE C;
EOF2
sub new_slot { sql("SELECT pg_create_logical_replication_slot('$_[0]', 'pgoutput')") }
new_slot('s');

# changes([sources], slot, start, max_bytes, memory, until): [kind, source, xid, ends, old, new], ...
sub changes
{
	my ($sources, %p) = @_;
	my $list = join ', ', map { sql_literal($_) } @$sources;
	my $slot = $p{slot} || 's';
	my $start = $p{start} || '0/0';
	my $until = $p{until} ? "'$p{until}'" : 'pg_current_wal_insert_lsn()';
	my $confirm = $p{confirm} ? 'true' : 'false';
	my $out = sql(sprintf(q{%s SELECT * FROM test_changes('%s', '%s', ARRAY[%s]::text[], %s, %s, %d, %d)},
		"\\pset null ''\n\\pset fieldsep '\t'\n", $slot, $start, $list, $until, $confirm,
		$p{max_bytes} || 1_000_000, $p{memory} || 64_000_000));
	return map { [ split /\t/, $_, -1 ] } split /\n/, $out;
}

# what the table would be, a line for each row
sub replay
{
	my ($source, @changes) = @_;
	my %bag;
	for my $change (grep { $_->[1] eq $source } @changes)
	{
		my ($kind, undef, undef, undef, $old, $new) = @$change;
		if ($kind eq 'TRUNCATE') { %bag = () }
		elsif ($kind =~ /INSERT|UPDATE|DELETE/)
		{
			next if $kind eq 'UPDATE' && $old eq '';
			delete $bag{$old} if $kind ne 'INSERT' && --$bag{$old} == 0;
			$bag{$new}++ if $kind ne 'DELETE';
		}
	}
	delete @bag{ grep { $bag{$_} == 0 } keys %bag };
	return join "\n", map { ($_) x ($bag{$_} < 0 ? 0 : $bag{$_}), $bag{$_} < 0 ? "taken back: $_" : () } sort keys %bag;
}

sub table
{
	my ($table, @columns) = @_;
	my $row = join " || ',' || ", map { "coalesce($_\::text, '')" } @columns;
	return join "\n", sort split /\n/, sql("SELECT '(' || $row || ')' FROM $table");
}

# same(name, table, columns ..., {options})
sub same
{
	my ($name, $table, @columns) = @_;
	my $watched = "$table(" . join(',', @columns) . ')';
	my @changes = changes([$watched]);
	is(replay($table, @changes), table($table, @columns), $name);
	is_deeply([ map { $_->[4] } grep { $_->[0] =~ /BROKEN/ } @changes ], [], "$name: nothing is broken");
	return @changes;
}

sub broken
{
	my ($sources, %p) = @_;
	return join "\n", map { "$_->[1]: $_->[4]" . ($_->[0] =~ /even/ ? ' (even append-only)' : '') }
	  grep { $_->[0] =~ /BROKEN/ } changes($sources, %p);
}

# the position before something happens
sub now { return sql('SELECT pg_current_wal_insert_lsn()') }

# ---- plain tables: every statement, and what is rolled back is not told
sql(<<'EOF2');
CREATE TABLE plain (id int PRIMARY KEY, a text, n numeric, ts timestamptz, arr int[]);
ALTER TABLE plain REPLICA IDENTITY FULL;
CREATE TABLE nobody (id int);
INSERT INTO plain SELECT i, 'row ' || i, i * 1.10, '2026-01-01'::timestamptz + i * interval '1 s', ARRAY[i, NULL] FROM generate_series(1, 300) i;
INSERT INTO plain (id) VALUES (1000);
UPDATE plain SET n = n + 1 WHERE id % 3 = 0;
UPDATE plain SET id = id + 10000 WHERE id % 7 = 0;
DELETE FROM plain WHERE id % 11 = 0;
BEGIN; DELETE FROM plain; INSERT INTO plain VALUES (5000, 'never'); ROLLBACK;
BEGIN; INSERT INTO plain VALUES (2000, 'kept'); SAVEPOINT a; DELETE FROM plain WHERE id < 100; ROLLBACK TO a;
UPDATE plain SET a = 'twice' WHERE id = 2000; SAVEPOINT b; UPDATE plain SET a = 'three times' WHERE id = 2000; RELEASE b; COMMIT;
INSERT INTO nobody SELECT generate_series(1, 1000);
INSERT INTO plain VALUES (2000, 'there') ON CONFLICT (id) DO UPDATE SET a = excluded.a;
INSERT INTO plain VALUES (2000, 'there') ON CONFLICT DO NOTHING;
DO $$ BEGIN FOR i IN 1 .. 200 LOOP BEGIN INSERT INTO plain VALUES (20000 + i / 2, 'sub ' || i); EXCEPTION WHEN unique_violation THEN DELETE FROM plain WHERE id = i; END; END LOOP; END $$;
EOF2
sql("COPY plain (id, a) FROM stdin;\n30001\tcopied\n30002\t\\N\n\\.\n");
same('a plain table', 'plain', qw(id a n ts arr));
same('one column of it', 'plain', 'n');
is_deeply([ changes([]) ], [], 'nobody watches');
my @all = changes(['plain(id)', 'nobody']);
is(scalar(grep { $_->[1] eq 'nobody' } @all), 1000, 'two sources');
is((grep { $_->[1] eq 'nobody' } @all)[0][3], (grep { $_->[1] eq 'nobody' } @all)[-1][3], 'the rows of a transaction have one position');

# ---- a buffer that is too small for memory, and reads that are too small for it
{
	my @small = changes([ 'plain', 'nobody' ], max_bytes => 1);
	my @whole = changes([ 'plain', 'nobody' ]);
	is_deeply(\@small, \@whole, 'in small reads');
	sql(q{INSERT INTO nobody SELECT i FROM generate_series(1, 60000) i; DELETE FROM nobody WHERE id % 2 = 0;
		ALTER TABLE nobody REPLICA IDENTITY FULL; UPDATE nobody SET id = -id;});
	my $from = now();
	sql(q{BEGIN; INSERT INTO nobody SELECT i FROM generate_series(1, 50000) i; DELETE FROM nobody WHERE id < 0; UPDATE nobody SET id = id + 1 WHERE id > 49000; COMMIT});
	my @spilled = changes(['nobody'], start => $from, memory => 100_000);
	is_deeply(\@spilled, [ changes(['nobody'], start => $from) ], 'through a file, the same');
	is(scalar(grep { $_->[0] eq 'INSERT' } @spilled), 50000, 'each insert once');
}

# ---- identities
sql(<<'EOF2');
CREATE TABLE keyed (id int PRIMARY KEY, u int NOT NULL UNIQUE, a text);
INSERT INTO keyed SELECT i, i + 100, 'x' FROM generate_series(1, 5) i;
EOF2
my $from = now();
sql(q{UPDATE keyed SET a = 'y' WHERE id = 1; UPDATE keyed SET id = 20 WHERE id = 2; DELETE FROM keyed WHERE id = 3});
same('the key alone, under REPLICA IDENTITY DEFAULT', 'keyed', 'id');
is(broken(['keyed()'], start => $from), '', 'count(*) needs no identity');
like(broken(['keyed(id,a)'], start => $from), qr/^keyed: a row of table "keyed" was updated or deleted without its old values(\nkeyed: .* old values){2}$/,
	'columns beyond the key');
like((grep { $_->[0] eq 'BROKEN' } changes(['keyed(a)'], start => $from))[0][5], qr/^Run ALTER TABLE public.keyed REPLICA IDENTITY FULL, then/, 'with a hint');
sql(q{ALTER TABLE keyed REPLICA IDENTITY USING INDEX keyed_u_key});
$from = now();
sql(q{UPDATE keyed SET u = 500 WHERE id = 1; DELETE FROM keyed WHERE id = 4});
is(broken(['keyed(u)'], start => $from), '', 'REPLICA IDENTITY USING INDEX');
is(join(' ', map { "$_->[0]$_->[4]$_->[5]" } changes(['keyed(u)'], start => $from)), 'UPDATE(101)(500) DELETE(104)', 'its columns are told');
isnt(broken(['keyed(id)'], start => $from), '', 'the primary key is none then');
sql(q{ALTER TABLE keyed REPLICA IDENTITY NOTHING});
$from = now();
sql(q{DELETE FROM keyed WHERE id = 5});
is(join(' ', map { "$_->[0]$_->[4]" } changes(['keyed()'], start => $from)), 'DELETE()', 'REPLICA IDENTITY NOTHING: a DELETE is told');
sql(q{ALTER TABLE keyed REPLICA IDENTITY FULL; INSERT INTO keyed VALUES (7, 7, 'x'); UPDATE keyed SET a = 'z'});
is(broken(['keyed'], start => now()), '', 'the identity is that of then');

# ---- large values: in line, compressed, out of line, unchanged
sql(<<'EOF2');
CREATE TABLE large (id int PRIMARY KEY, k int, t text, e text, j jsonb);
ALTER TABLE large ALTER e SET STORAGE EXTERNAL, REPLICA IDENTITY FULL;
INSERT INTO large SELECT i, i, repeat('abc' || i, 5000 * i), repeat(md5(i::text), 200 * i), jsonb_build_object('a', repeat('j', 3000 * i)) FROM generate_series(1, 8) i;
UPDATE large SET k = k + 1;
UPDATE large SET t = t || 'x' WHERE id % 2 = 0;
UPDATE large SET e = NULL WHERE id = 3;
UPDATE large SET e = repeat('z', 100000), id = 40 WHERE id = 4;
DELETE FROM large WHERE id = 5;
EOF2
same('large values', 'large', 'id', 'k', 't', 'e', 'j');
same('beside large values', 'large', 'id', 'k');
same('large values, through a file', 'large', 'e');
is(replay('large', changes([ 'large(id,e)' ], memory => 1)), table('large', 'id', 'e'), 'large values, in a file');
$from = now();
sql(q{ALTER TABLE large REPLICA IDENTITY DEFAULT; UPDATE large SET k = 0});
is(broken(['large(id)'], start => $from), '', 'the key of a row with large values');
isnt(broken([ 'large(id,e)' ], start => $from), '', 'a large value that was not changed is not known');

# ---- columns that come and go
sql(<<'EOF2');
CREATE TABLE shaped (x int, id int, gone text, g int GENERATED ALWAYS AS (id * 2) STORED);
ALTER TABLE shaped REPLICA IDENTITY FULL;
INSERT INTO shaped SELECT i, i, 'g' FROM generate_series(1, 20) i;
ALTER TABLE shaped DROP COLUMN gone;
INSERT INTO shaped SELECT i, i FROM generate_series(21, 40) i;
ALTER TABLE shaped ADD COLUMN d int DEFAULT 42, ADD COLUMN s text DEFAULT 'some text', ADD COLUMN nothing int;
EOF2
$from = now();
sql(<<'EOF2');
DELETE FROM shaped WHERE id % 5 = 0;
UPDATE shaped SET x = 0 WHERE id % 3 = 0;
BEGIN; ALTER TABLE shaped ALTER x TYPE bigint; INSERT INTO shaped (id, d) VALUES (100, 1); DELETE FROM shaped WHERE id = 1; ALTER TABLE shaped RENAME s TO t; DELETE FROM shaped WHERE id = 2; COMMIT;
EOF2
same('dropped and generated columns', 'shaped', 'id', 'g');
is(join(' ', map { "$_->[4]" } grep { $_->[0] eq 'DELETE' } changes(['shaped'], start => $from)),
	'(5,5,10,42,some text,) (10,10,20,42,some text,) (15,15,30,42,some text,) (20,20,40,42,some text,) (25,25,50,42,some text,) (30,30,60,42,some text,) (35,35,70,42,some text,) (40,40,80,42,some text,) (1,1,2,42,some text,) (2,2,4,42,some text,)',
	'rows from before ADD COLUMN have its default');

# ---- partitions: columns in another order, rows that move, several levels watched
sql(<<'EOF2');
CREATE TABLE parted (id int, k int, v text) PARTITION BY LIST (k);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES IN (1);
CREATE TABLE parted_2 (v text, dropped int, k int, id int);
ALTER TABLE parted_2 DROP COLUMN dropped;
ALTER TABLE parted ATTACH PARTITION parted_2 FOR VALUES IN (2);
CREATE TABLE parted_3 (k int, v text, id int) PARTITION BY RANGE (id);
CREATE TABLE parted_3a PARTITION OF parted_3 FOR VALUES FROM (0) TO (50);
CREATE TABLE parted_3b (id int, v text, k int);
ALTER TABLE parted_3 ATTACH PARTITION parted_3b FOR VALUES FROM (50) TO (1000);
ALTER TABLE parted ATTACH PARTITION parted_3 FOR VALUES IN (3);
DO $$ DECLARE t text; BEGIN FOREACH t IN ARRAY '{parted_1,parted_2,parted_3a,parted_3b}'::text[] LOOP EXECUTE 'ALTER TABLE ' || t || ' REPLICA IDENTITY FULL'; END LOOP; END $$;
EOF2
new_slot('p');
sql(<<'EOF2');
INSERT INTO parted SELECT i, i % 3 + 1, 'v' || i FROM generate_series(1, 120) i;
UPDATE parted SET k = k % 3 + 1 WHERE id % 4 = 0;
DELETE FROM parted WHERE id % 10 = 0;
INSERT INTO parted_3 VALUES (3, 'direct', 60);
UPDATE parted_2 SET v = NULL WHERE id < 20;
EOF2
{
	my @changes = changes([ 'parted', 'parted_3', 'parted_2', 'parted_3b(v)' ], slot => 'p');
	is(replay('parted', @changes), table('parted', qw(id k v)), 'a partitioned table');
	is(replay('parted_3', @changes), table('parted_3', qw(k v id)), 'one within');
	is(replay('parted_2', @changes), table('parted_2', qw(v k id)), 'a leaf');
	is(replay('parted_3b', @changes), table('parted_3b', 'v'), 'another leaf');
	is(scalar(grep { $_->[0] =~ /BROKEN/ } @changes), 0, 'nothing is broken');
}

# ---- partitions that come and go
$from = now();
sql(q{CREATE TABLE parted_4 PARTITION OF parted FOR VALUES IN (4); ALTER TABLE parted_4 REPLICA IDENTITY FULL; INSERT INTO parted VALUES (1, 4, 'four')});
sql(q{BEGIN; CREATE TABLE parted_5 (LIKE parted); ALTER TABLE parted ATTACH PARTITION parted_5 FOR VALUES IN (5); INSERT INTO parted VALUES (1, 5, 'five'); SAVEPOINT a; CREATE TABLE parted_6 PARTITION OF parted FOR VALUES IN (6); INSERT INTO parted VALUES (1, 6, 'six'); COMMIT});
sql('VACUUM ANALYZE parted; ANALYZE parted_1');
is(broken(['parted'], slot => 'p'), '', 'a new and empty partition is harmless');
is(replay('parted', changes(['parted'], slot => 'p')), table('parted', qw(id k v)), 'its rows are told');

$from = now();
sql(q{BEGIN; CREATE TABLE parted_7 (LIKE parted); INSERT INTO parted_7 VALUES (1, 7, 'seven'); ALTER TABLE parted ATTACH PARTITION parted_7 FOR VALUES IN (7); COMMIT});
is(broken(['parted'], slot => 'p'), 'parted: the partition "parted_7" was attached (even append-only)', 'rows before ATTACH, in one transaction');
is(broken(['parted_1'], slot => 'p'), '', 'not the business of a leaf');
is(broken(['parted'], start => $from), 'parted: the partition "parted_7" was attached (even append-only)', 'though it be the first transaction');

sql(q{CREATE TABLE parted_8 (LIKE parted)});
$from = now();
sql(q{ALTER TABLE parted ATTACH PARTITION parted_8 FOR VALUES IN (8)});
is(broken(['parted'], start => $from), 'parted: the partition "parted_8" was attached (even append-only)', 'ATTACH of what was there');

$from = now();
sql(q{ALTER TABLE parted DETACH PARTITION parted_8});
is(broken(['parted'], start => $from), 'parted: a partition of table "parted" was detached or dropped', 'DETACH');
$from = now();
sql(q{ALTER TABLE parted DETACH PARTITION parted_7 CONCURRENTLY});
is(broken(['parted'], start => $from), 'parted: a partition of table "parted" was detached or dropped', 'DETACH CONCURRENTLY, once');
$from = now();
sql(q{DROP TABLE parted_6});
is(broken(['parted'], start => $from), 'parted: a partition of table "parted" was detached or dropped', 'DROP');
$from = now();
sql(q{ALTER TABLE parted_3 DETACH PARTITION parted_3a});
is(join("\n", sort split /\n/, broken([ 'parted', 'parted_3', 'parted_2' ], start => $from)),
	"parted: a partition of table \"parted\" was detached or dropped\nparted_3: a partition of table \"parted_3\" was detached or dropped",
	'DETACH further down');
$from = now();
sql(q{BEGIN; CREATE TABLE parted_9 PARTITION OF parted FOR VALUES IN (9); ROLLBACK; INSERT INTO parted VALUES (2, 2, 'x')});
is(broken(['parted'], start => $from), '', 'rolled back');

# a transaction that began before somebody else's DDL, and ends after it
$from = now();
sql(q{INSERT INTO parted_1 VALUES (300, 1, 'first')});
sql(q{BEGIN; INSERT INTO parted VALUES (301, 1, 'early'); PREPARE TRANSACTION 'early'});
my $attach = now();
sql(q{BEGIN; CREATE TABLE parted_11 (LIKE parted); ALTER TABLE parted ATTACH PARTITION parted_11 FOR VALUES IN (11); COMMIT});
sql(q{COMMIT PREPARED 'early'; INSERT INTO parted VALUES (302, 11, 'late')});
is(broken(['parted'], start => $from), '', 'a snapshot that is older than the last look');
is(join(' ', map { $_->[5] } changes(['parted'], start => $attach)), '(301,1,early) (302,11,late)', 'a prepared transaction is told when it commits');
is(broken(['parted'], start => $attach), '', 'nor with that as the first look');

# ---- what can be no source any more
sql(q{CREATE TABLE logged (id int)});
$from = now();
sql(q{INSERT INTO logged VALUES (1)});
sql(q{ALTER TABLE logged SET UNLOGGED});
is(broken(['logged'], start => $from), 'logged: table "logged" is not logged (even append-only)', 'SET UNLOGGED');
sql(q{CREATE TABLE parent (id int)});
$from = now();
sql(q{CREATE TABLE child () INHERITS (parent)});
is(broken(['parent'], start => $from), 'parent: other tables inherit from table "parent" (even append-only)', 'INHERITS');
$from = now();
sql(q{ALTER TABLE parted_2 SET UNLOGGED});
is(broken(['parted'], start => $from), 'parted: the partition "parted_2" is not logged (even append-only)', 'SET UNLOGGED of a leaf');
sql(q{ALTER TABLE parted_2 SET LOGGED});

# ---- TRUNCATE
sub told { return join ' ', sort map { "$_->[0]:$_->[1]" } changes(@_) }
sql(q{CREATE TABLE owner (id serial PRIMARY KEY); CREATE TABLE owned (id int REFERENCES owner)});
$from = now();
sql(q{TRUNCATE parted});
is(told([ 'parted', 'parted_2' ], start => $from), 'TRUNCATE:parted TRUNCATE:parted_2', 'TRUNCATE of the root names it and its leaves');
$from = now();
sql(q{TRUNCATE parted_2});
is(told([ 'parted', 'parted_2', 'parted_3' ], start => $from), 'BROKEN:parted TRUNCATE:parted_2', 'TRUNCATE of a leaf');
$from = now();
sql(q{TRUNCATE owner RESTART IDENTITY CASCADE});
is(told([ 'owner', 'owned' ], start => $from), 'TRUNCATE:owned TRUNCATE:owner', 'CASCADE and RESTART IDENTITY');
$from = now();
sql(q{BEGIN; INSERT INTO plain (id) VALUES (77777); TRUNCATE plain; INSERT INTO plain (id) VALUES (77778); COMMIT});
is(join(' ', map { $_->[0] } changes(['plain'], start => $from)), 'INSERT TRUNCATE INSERT', 'TRUNCATE in its place');
sql(q{BEGIN; CREATE TABLE fresh (id int); INSERT INTO fresh VALUES (1); TRUNCATE fresh; INSERT INTO fresh VALUES (2); COMMIT});
is(replay('fresh', changes(['fresh'])), '(2)', 'TRUNCATE of a table made in the same transaction');

# ---- definitions of views
$from = now();
sql(q{INSERT INTO fresh VALUES (3)});
sql(q{BEGIN; INSERT INTO fresh VALUES (4); TRUNCATE weir_data.views; INSERT INTO fresh VALUES (5); COMMIT});
sql(q{INSERT INTO fresh VALUES (6)});
is(join(' ', map { $_->[0] . $_->[5] } changes(['fresh'], start => $from)),
	'DEFINITIONS INSERT(3) INSERT(4) INSERT(5) INSERT(6)', 'a read ends right behind a change of definitions');

# ---- origins, messages
sql(q{SELECT pg_replication_origin_create('elsewhere')});
$from = now();
sql(q{SELECT pg_replication_origin_session_setup('elsewhere'); INSERT INTO fresh VALUES (7)});
is(join(' ', map { $_->[5] } changes(['fresh'], start => $from)), '(7)', 'rows that a subscription wrote count');
sql(q{SELECT pg_logical_emit_message(true, 'pg_weir', 'forged'), pg_logical_emit_message(false, 'pg_weir', 'forged')});
is(scalar(changes(['fresh'], start => now())), 0, 'forged messages are nothing');

# ---- every position is a place to begin: nothing twice, nothing left out
{
	sql(<<'EOF2');
CREATE TABLE steps (id int PRIMARY KEY, n int);
ALTER TABLE steps REPLICA IDENTITY FULL;
EOF2
	new_slot('m');
	for my $i (1 .. 8)
	{
		sql("INSERT INTO steps VALUES ($i, 0); UPDATE steps SET n = n + 1; BEGIN; DELETE FROM steps WHERE id = $i - 3; CREATE TABLE between_$i (); COMMIT; CHECKPOINT");
		sql("BEGIN; INSERT INTO steps VALUES (-$i, 0); PREPARE TRANSACTION 'p$i'") if $i <= 4;
		sql("COMMIT PREPARED 'p" . ($i - 4) . "'") if $i > 4;
	}
	my @whole = changes(['steps'], slot => 'm');
	is(replay('steps', @whole), table('steps', qw(id n)), 'from the first position');
	my %ends = map { $_->[3] => 1 } @whole;
	my @bad;
	for my $end (sort keys %ends)
	{
		my @rest = changes(['steps'], slot => 'm', start => $end);
		my $seen = 0;
		my @expected = grep { my $after = $seen; $seen ||= $_->[3] eq $end; $after && $_->[3] ne $end } @whole;
		push @bad, $end unless eq_array(\@rest, \@expected);
	}
	cmp_ok(scalar keys %ends, '>=', 20, 'many positions');
	is_deeply(\@bad, [], 'from each of them: the rest');

	# confirmed as we go: the slot moves on, and what comes is the same
	my ($last, @parts) = ('0/0');
	my @ends = sort { sql("SELECT '$a'::pg_lsn > '$b'::pg_lsn") eq 't' ? 1 : -1 } keys %ends;
	for my $end ($ends[5], $ends[15], $ends[-1])
	{
		push @parts, changes(['steps'], slot => 'm', start => $last, until => $end, confirm => 1, max_bytes => 1);
		$last = $parts[-1][3];
		is(sql("SELECT confirmed_flush_lsn >= '$last' FROM pg_replication_slots WHERE slot_name = 'm'"), 't', 'confirmed');
	}
	push @parts, changes(['steps'], slot => 'm');
	is_deeply(\@parts, \@whole, 'in parts, confirmed in between');
}

# ---- the end of the flushed WAL is in the middle of a record
{
	sql(q{CREATE TABLE busy (id int, filler text)});
	sql(q{ALTER TABLE busy ALTER filler SET STORAGE PLAIN});
	new_slot('b');
	my $start = now();
	my $script = q{SET synchronous_commit = off;
		DO $$ BEGIN FOR i IN 1 .. 6000 LOOP INSERT INTO busy VALUES (i, repeat('x', 7000)); COMMIT; END LOOP; END $$};
	my $writer = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres'), '-c', 'SET synchronous_commit = off', '-c', $script =~ s/^SET.*?;//sr ], '<', \undef);
	my $until = sql("SELECT '$start'::pg_lsn + 20000000");
	my @seen = map { $_->[5] } changes(['busy(id)'], slot => 'b', until => $until);
	$writer->finish;
	push @seen, map { $_->[5] } (changes(['busy(id)'], slot => 'b'))[ scalar(@seen) .. 5999 ];
	is(scalar(@seen), 6000, 'read while it is written: each once');
	is_deeply(\@seen, [ map { "($_)" } 1 .. 6000 ], 'in order');
}

# ---- errors in the middle, and many readers in one session
{
	my $call = q{SELECT count(*) FROM test_changes('s', '0/0', ARRAY['plain', 'nobody'], pg_current_wal_insert_lsn(), false, 1000000, 1000)};
	my ($rc, $out, $err) = $node->psql('postgres',
		"\\set ON_ERROR_STOP 0\nSELECT pg_sleep(0);\n" .
		join('', map { "SET statement_timeout = $_;\n$call;\n" } 20, 30, 50, 70) .
		"SET statement_timeout = 0;\n" . ("$call;\n" x 5) .
		"SELECT test_changes('nosuch', '0/0', '{}', '0/0', false, 1, 1);\n$call;\n" .
		"SELECT count(*) FROM pg_replication_slots WHERE active;\n");
	like($err, qr/canceling statement due to statement timeout/, 'cancelled while decoding');
	my @counts = grep { /^\d+$/ && $_ > 1 } split /\n/, $out;
	cmp_ok(scalar(@counts), '>=', 6, 'a reader can be opened after another failed');
	is(scalar(keys %{ { map { $_ => 1 } @counts } }), 1, 'each reads the same');
	like($out, qr/^0$/m, 'no slot is held afterwards');
	is(sql(q{SELECT count(*) FROM pg_ls_tmpdir()}), '0', 'no temporary file is left');
}

$node->stop;
done_testing();
