# What a review of the flow of changes has found: each was a row lost or counted
# twice without a word.
use strict;
use warnings;

use Test::More;
use Time::HiRes qw(sleep time);
use WeirNode;
use WeirOracle;

my $node = WeirNode->start_new('main', conf => <<'EOF');
include_if_exists = 'try.conf'
EOF
$node->safe_psql('postgres', 'CREATE EXTENSION pg_weir');
my $oracle = WeirOracle->new($node, timeout => '20 s');

sub sql { return $node->safe_psql('postgres', @_) }

# The fault that the worker meets next; '': none.
sub fault
{
	my ($fault) = @_;
	open my $fh, '>', $node->data_dir . '/try.conf' or die $!;
	print $fh "weir.fault = '$fault'\n";
	close $fh;
	$node->reload;
	$node->wait_until(q{SELECT current_setting('weir.fault')}, $fault);
}

# A view that stalls before a transaction is told it again when it is resumed,
# though it has committed what came before, and others go on meanwhile.
sql(<<'EOF');
CREATE TABLE divisors (id int PRIMARY KEY, k int, d int);
ALTER TABLE divisors REPLICA IDENTITY FULL;
INSERT INTO divisors SELECT i, i % 3, 1 FROM generate_series(1, 10) i;
EOF
$oracle->create('quotients', 'SELECT k, count(*) AS c, sum(100 / d) AS s FROM divisors GROUP BY k',
	truth => 'SELECT k, count(*) AS c, sum(100 / d) AS s FROM divisors WHERE d <> 0 GROUP BY k');
$oracle->create('others', 'SELECT k, count(*) AS c FROM divisors GROUP BY k', with => q{weir.commit_interval = '10 ms'});
$oracle->same('before a bad row');
for my $round (1 .. 3)
{
	my $id = $round * 100;
	# transactions of their own, fast enough to be read together
	sql(<<"EOF");
INSERT INTO divisors VALUES ($id, 0, 2);
INSERT INTO divisors VALUES ($id + 1, 0, 4);
BEGIN; INSERT INTO divisors VALUES ($id + 2, 1, 0), ($id + 3, 1, 5); COMMIT;
INSERT INTO divisors VALUES ($id + 4, 2, 5);
EOF
	ok($node->wait_until($oracle->state_query('quotients'), 'stalled 22012'), "round $round: a bad row stalls the view");
	is(sql('SELECT c FROM quotients WHERE k = 0'), 3 + 2 * $round, '... which holds what came before');
	sql("INSERT INTO divisors VALUES ($id + 5, 2, 7)");
	$oracle->same('... the other goes on', 'others');
	sql(q{ALTER TABLE quotients SET (weir.on_error = 'dead_letter')});
	ok($node->wait_until($oracle->state_query('quotients'), 'running'), '... and when it is resumed');
	$oracle->same('... nothing is missing');
	is(sql('SELECT count(*) FROM weir.dead_letters'), $round, '... but the bad row');
	sql(q{ALTER TABLE quotients SET (weir.on_error = 'stop')});
}
$oracle->drop('quotients', 'others');

# The slot is dropped while the worker has let go of it: another one does not know
# what was committed in between, and no view goes on as if it did.
sql(<<'EOF');
CREATE TABLE lost (id int PRIMARY KEY, k int);
ALTER TABLE lost REPLICA IDENTITY FULL;
INSERT INTO lost SELECT i, i % 3 FROM generate_series(1, 10) i;
EOF
$oracle->create('lossy', 'SELECT k, count(*) AS c FROM lost GROUP BY k');
$oracle->same('before the slot goes');
my $mine = 'slot_name = (SELECT \'pg_weir_\' || oid FROM pg_database WHERE datname = current_database())';
fault('changes-read:error:1');
sql('INSERT INTO lost VALUES (11, 0)');
ok($node->wait_until("SELECT active FROM pg_replication_slots WHERE $mine", 'f'), 'an error makes the worker let go of the slot');
sql("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE $mine");
sql('INSERT INTO lost VALUES (12, 1)');
ok($node->wait_until("SELECT active FROM pg_replication_slots WHERE $mine", 't'), '... and make a new one');
sql('INSERT INTO lost VALUES (13, 2)');
$oracle->stalls('lossy', '55000', qr/rebuild/, 'the view that was open meanwhile');
fault('');
$oracle->rebuilt('lossy', 'the slot is another one');
$oracle->same('after its rebuild');

done_testing;
