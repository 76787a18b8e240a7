# The fault table of docs/faults.md, what other tests do not show of it: messages
# that no producer should send, leaders that move, brokers and topics that are gone,
# owners who come and go, locks of users, and views that are made and dropped while
# all that runs.
#
# What a server lacks is 054_faults_server.pl's, disks and /dev/shm that are full
# are 055_full.pl's.  Sections named on the command line run alone.  WEIR_LONG=1
# drops a thousand views instead of a hundred, and sweeps all fault points.
# The embedded broker suffices.
use strict;
use warnings;

use IPC::Run ();
use Test::More;
use Time::HiRes qw(sleep time);
use PostgreSQL::Test::Utils;
use WeirBroker;
use WeirNode;
use WeirOracle;

my $broker = WeirBroker->new;
my $node = WeirNode->start_new('main', conf => "weir.max_workers = 8\nmax_worker_processes = 24\ninclude_if_exists = 'fault.conf'\n");
create_kafka($node, $broker);
my $oracle = WeirOracle->new($node, timeout => '20 s');

sub sql { return $node->safe_psql('postgres', @_) }
sub error_of { return $node->error_of(@_) }

# section(name, code): what it has made is its own to drop
sub section
{
	$oracle->section(@_);
	$oracle->forget($oracle->names);
}

sub stream
{
	my ($name, $columns, $partitions) = @_;
	$broker->create_topic($name, $partitions || 1);
	sql("CREATE FOREIGN TABLE $name ($columns) SERVER kafka OPTIONS (topic '$name')");
}

sub send_to
{
	my ($topic, @values) = @_;
	return $broker->produce($topic, map { [ 0, undef, $_ ] } @values);
}

# The fault that comes next in every new session
sub fault
{
	my ($fault) = @_;
	$node->set_fault($fault);
	$node->wait_until(q{SELECT current_setting('weir.fault')}, $fault) or die "no fault $fault";
}

# A statement at which the server dies, without the fault that kills it once it is back
sub crashes
{
	my ($sql, $db) = @_;
	my $seen = -s $node->logfile;
	eval { $node->psql($db || 'postgres', $sql) };
	$node->wait_for_log(qr/all server processes terminated; reinitializing/, $seen);
	$node->set_fault('');
	$node->wait_ready;
	return;
}

# A session of its own, for what must happen beside us
sub beside
{
	my ($sql) = @_;
	my ($in, $out) = ('', '');
	return IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres') . ' application_name=beside', '-c', $sql ],
		'<', \$in, '>', \$out, '2>&1', IPC::Run::timeout(120));
}

# What remains of views in the database: nothing, after the last of them
my $remains = q{
	SELECT (SELECT count(*) FROM weir_data.views) + (SELECT count(*) FROM weir_data.status) + (SELECT count(*) FROM weir_data.positions)
		+ (SELECT count(*) FROM weir_data.dead_letters) + (SELECT count(*) FROM weir_data.late_rows)
		+ (SELECT count(*) FROM pg_class WHERE relnamespace = 'weir_data'::regnamespace AND relname ~ '^(query|state)_')
		+ (SELECT count(*) FROM pg_class WHERE relname ~ '_changes$')
		+ (SELECT count(*) FROM pg_replication_slots)};
my $workers = q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_weir worker'};

# ------------------------------------------------------------- messages

section 'poison', sub {
	stream('poison', 'k text, n numeric, i int');
	sql(q{CREATE TABLE sums WITH (weir.continuous) AS SELECT k, count(*) AS c, sum(n) AS s, sum(i) AS i FROM poison GROUP BY k});
	my $big = 'x' x 17_000_000;
	my @poison = (
		[ 'NUL', qq({"k": "a\0b", "n": 1}), '22P02' ],
		[ 'an escaped NUL', '{"k": "a\\u0000b", "n": 1}', '22P05' ],
		[ 'bad UTF-8', qq({"k": "\xff", "n": 1}), '22021' ],
		[ 'a lone surrogate', '{"k": "\\ud83d", "n": 1}', '22P02' ],
		[ 'a number beyond numeric', '{"k": "a", "n": 1e131072}', '22003' ],
		[ 'one beyond int', '{"k": "a", "i": 1e131071}', '22003' ],
		[ '100,000 levels', '{"k": ' . ('[' x 100_000) . (']' x 100_000) . '}', '54001' ],
		[ 'half of an object', '{"k": "a", ', '22P02' ],
		[ 'another type', '{"k": "a", "n": "many"}', '22P02' ],
		[ '17 MB', qq({"k": "a", "n": 1, "x": "$big"}), '54000', 'gzip' ],
		[ '17 MB, lz4', qq({"k": "a", "n": 1, "x": "$big"}), '54000', 'lz4' ],
		[ '17 MB, zstd', qq({"k": "a", "n": 1, "x": "$big"}), '54000', 'zstd' ],
		[ '102 MB', qq({"k": "a", "n": 1, "x": ") . ($big x 6) . '"}', '54000', 'gzip' ]);
	my (@expected, $offset);
	for my $case (@poison)
	{
		# compressed, a broker takes any size
		my %at = $broker->produce_compressed('poison', $case->[3] || 'none', [ 0, undef, $case->[1] ]);
		push @expected, "$at{0}[0]|$case->[2]";
		send_to('poison', '{"k": "good", "n": 1, "i": 1}');
	}
	is(error_of(q{SELECT weir.wait_for('sums', '30 s')}), '', 'poison does not stop the flow');
	is(sql('TABLE sums'), join('|', 'good', (scalar @poison) x 3), 'each costs itself alone');
	is(sql(q{SELECT "offset", sqlstate FROM weir.dead_letters WHERE partition = 0 ORDER BY 1}), join("\n", @expected),
		'each is a dead letter with its place and its SQLSTATE');
	is(sql('SELECT max(length(payload)), min(length(payload)) > 0 FROM weir.dead_letters'), '8192|t', 'with at most 8 kB of it');

	# good by itself, and too much together: no row is to blame
	sql(q{CREATE TABLE counts WITH (weir.continuous, weir.commit_interval = '20 ms') AS SELECT k, count(*) AS c FROM poison GROUP BY k});
	send_to('poison', '{"k": "huge", "n": 9e131071}');
	is(error_of(q{SELECT weir.wait_for('sums', '20 s')}), '', 'the greatest numeric there is');
	send_to('poison', '{"k": "huge", "n": 9e131071}');
	$oracle->stalls('sums', '22003', qr/overflow/, 'a sum that overflows');
	is(sql(q{SELECT c FROM sums WHERE k = 'huge'}), '1', 'the view stands where it was');
	send_to('poison', '{"k": "good"}');
	is(error_of(q{SELECT weir.wait_for('counts', '20 s')}), '', 'others go on');
	is(sql(q{SELECT c FROM counts WHERE k = 'huge'}), '2', '... with all of it');
	sql('DROP FOREIGN TABLE poison CASCADE');
};

section 'a leader that moves', sub {
	stream('led', 'k text, n int', 2);
	sql(q{CREATE TABLE led_v WITH (weir.continuous, weir.commit_interval = '20 ms') AS SELECT k, sum(n) AS s FROM led GROUP BY k});
	$broker->produce('led', [ 0, undef, '{"k": "a", "n": 1}' ], [ 1, undef, '{"k": "a", "n": 2}' ]);
	is(error_of(q{SELECT weir.wait_for('led_v', '20 s')}), '', 'both partitions');
	for my $round (1 .. 2)
	{
		$broker->order('leader led 0 0');
		$broker->produce('led', [ 1, undef, qq({"k": "b$round", "n": 4}) ]);
		ok($node->wait_until("SELECT s FROM led_v WHERE k = 'b$round'", '4', 20), 'the other partition goes on without it');
		$broker->order('leader led 0 1');
		$broker->produce('led', [ 0, undef, qq({"k": "c$round", "n": 8}) ]);
		ok($node->wait_until("SELECT s FROM led_v WHERE k = 'c$round'", '8', 30), 'and so does this one, when there is a leader again');
	}
	is(sql('SELECT sum(s) FROM led_v'), '27', 'nothing is lost or doubled');
	sql('DROP FOREIGN TABLE led CASCADE');
};

# ------------------------------------------------------------- brokers

# A broker of its own, with a server, a stream and a view over it
sub elsewhere
{
	my ($name, @messages) = @_;
	my $other = WeirBroker->new(kind => 'embedded', topics => { $name => 1 });
	$other->produce($name, @messages);
	create_kafka($node, $other, "${name}_server");
	sql("CREATE FOREIGN TABLE $name (k text, n int) SERVER ${name}_server OPTIONS (topic '$name');
		CREATE TABLE ${name}_v WITH (weir.continuous, weir.commit_interval = '10 ms') AS SELECT k, count(*) AS c, sum(n) AS s FROM $name GROUP BY k");
	is(error_of("SELECT weir.wait_for('${name}_v', '20 s')"), '', "a view over a broker of its own: $name");
	return $other;
}

sub message { my ($k, $n) = @_; return [ 0, undef, qq({"k": "$k", "n": $n}) ] }

section 'a broker that is down', sub {
	my $other = elsewhere('down', message('a', 1));
	$other->down;
	# a worker that finds it so; one that has read before waits for it to come back
	sql(q{SELECT pg_terminate_backend(weir.worker_pid('down_v'))});
	ok($node->wait_until($oracle->state_query('down_v'), 'stalled 08001', 30), 'a broker that is down');
	like(sql(q{SELECT concat_ws(' / ', message, hint) FROM weir.views WHERE view = 'down_v'::regclass}), qr/(?:refused|down).* tries again by itself/, '... weir.views says so');
	is(sql('TABLE down_v'), 'a|1|1', '... the view stays readable');
	$other->up;
	$other->produce('down', message('b', 2));
	ok($node->wait_until('SELECT string_agg(k, $$ $$ ORDER BY k) FROM down_v', 'a b', 40), '... and goes on by itself');
	ok($node->wait_until($oracle->state_query('down_v'), 'running', 20), '... as weir.views says');
	sql('DROP SERVER down_server CASCADE');
};

# Of the same name, with other messages in it: nothing of it belongs to the view
section 'a topic made again', sub {
	for my $case ([ 'shorter', 3 ], [ 'longer', 30 ])
	{
		my ($name, $n) = @$case;
		my $first = elsewhere($name, map { message('a', $_) } 1 .. 10);
		my $second = WeirBroker->new(kind => 'embedded', topics => { $name => 1 });
		$second->produce($name, map { message('z', $_) } 1 .. $n);
		sql("ALTER SERVER ${name}_server OPTIONS (SET bootstrap_servers " . sql_literal($second->bootstrap) . ')');
		sql("SELECT pg_terminate_backend(weir.worker_pid('${name}_v'))");
		$oracle->stalls("${name}_v", '22000', qr/made anew|not the one that the view has read/, "a topic made again, $name");
		is(sql("TABLE ${name}_v"), 'a|10|55', '... nothing of it was read');
		sql("SELECT weir.rebuild('${name}_v', accept_loss => true)");
		is(error_of("SELECT weir.wait_for('${name}_v', '20 s')"), '', '... a rebuild takes it as it is');
		is(sql("TABLE ${name}_v"), "z|$n|" . $n * ($n + 1) / 2, '... all of it, and nothing else');
		sql("DROP SERVER ${name}_server CASCADE");
	}
};

section 'secrets', sub {
	my $seen = -s $node->logfile;
	my $other = elsewhere('told', message('a', 1), [ 0, undef, 'bad' ]);
	sql(q{CREATE USER MAPPING FOR PUBLIC SERVER told_server OPTIONS (sasl_username 'somebody', sasl_password 'hunter2');
		ALTER SERVER told_server OPTIONS (ADD security_protocol 'sasl_plaintext', ADD sasl_mechanism 'PLAIN', ADD timeout '500')});
	sql(q{SELECT pg_terminate_backend(weir.worker_pid('told_v'))});
	# a broker that does not know SASL ends the connection
	$oracle->stalls('told_v', '28000', qr/SASL/, 'a broker that does not let us in');
	my @said = (error_of('SELECT * FROM told'), error_of(q{INSERT INTO told VALUES ('b', 1)}), error_of(q{SELECT weir.wait_for('told_v', '1 s')}));
	like($_, qr/^28000/, 'so do statements') for @said;
	is(error_of(q{ALTER USER MAPPING FOR PUBLIC SERVER told_server OPTIONS (SET sasl_password 'hunter2 the second')}), '', 'another password');
	push @said, map { sql("SELECT string_agg(x::text, ' ') FROM $_ x") } qw(weir.views weir.dead_letters weir.partitions weir.stat_sources weir_data.status pg_stat_activity);
	unlike($said[-5], qr/^$/, 'there is a dead letter');
	my $log = slurp_file($node->logfile, $seen);
	like($log, qr/told_v/, 'the log knows of the view');
	unlike($_, qr/hunter2/, 'the password is not repeated') for $log, join "\n", @said;
	sql('DROP SERVER told_server CASCADE');
};

# ------------------------------------------------------------- owners

section 'owners', sub {
	stream('owned', 'k text');
	sql(<<'EOF2');
CREATE TABLE owned_t (id int PRIMARY KEY, k text);
CREATE ROLE lender LOGIN;
GRANT CREATE ON SCHEMA public TO lender;
GRANT USAGE ON FOREIGN SERVER kafka TO lender;
GRANT SELECT ON owned, owned_t TO lender;
EOF2
	sql(q{SET ROLE lender; CREATE TABLE lent WITH (weir.continuous, weir.commit_interval = '20 ms') AS SELECT count(*) AS c FROM owned;
		CREATE TABLE lent_t WITH (weir.continuous, weir.commit_interval = '20 ms') AS SELECT count(*) AS c FROM owned_t});
	my $n = 0;
	my $goes_on = sub {
		my ($what) = @_;
		$n++;
		send_to('owned', '{"k": "x"}');
		sql("INSERT INTO owned_t VALUES ($n, 'x')");
		for my $v (qw(lent lent_t))
		{
			is(error_of("SELECT weir.wait_for('$v', '20 s')"), '', "$what: $v goes on");
			is(sql("SELECT c FROM $v"), $n, '... exactly');
		}
	};
	$goes_on->('an owner who may log in');
	# nobody logs in as the owner: his rights are what counts
	sql('ALTER ROLE lender NOLOGIN');
	$goes_on->('one who may not');
	sql('REVOKE CONNECT ON DATABASE postgres FROM public');
	$goes_on->('without CONNECT');
	sql(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'pg_weir worker'});
	$goes_on->('in another worker');
	sql('GRANT CONNECT ON DATABASE postgres TO public');
	like(error_of('DROP ROLE lender'), qr/^2BP01/, 'an owner is not dropped');

	# what he may no longer read stalls, server, stream or table, and nothing else
	for my $case ([ 'USAGE of the server', 'USAGE ON FOREIGN SERVER kafka', 'lent', 'lent_t' ],
		[ 'the stream', 'SELECT ON owned', 'lent', 'lent_t' ], [ 'the table', 'SELECT ON owned_t', 'lent_t', 'lent' ])
	{
		my ($what, $privilege, $stalls, $goes) = @$case;
		sql("REVOKE $privilege FROM lender");
		$n++;
		send_to('owned', '{"k": "x"}');
		sql("INSERT INTO owned_t VALUES ($n, 'x')");
		$oracle->stalls($stalls, '42501', qr/./, "without $what");
		is(error_of("SELECT weir.wait_for('$goes', '20 s')"), '', '... the other view goes on');
		sql("GRANT $privilege TO lender; SELECT weir.resume('$stalls')");
		is(error_of("SELECT weir.wait_for('$stalls', '20 s')"), '', '... and this one, when it is given back');
		is(sql("SELECT c FROM $stalls"), $n, '... without loss');
	}

	sql('CREATE ROLE heir; GRANT USAGE ON FOREIGN SERVER kafka TO heir; GRANT SELECT ON owned TO heir; REASSIGN OWNED BY lender TO heir; DROP OWNED BY lender; DROP ROLE lender');
	$n++;
	send_to('owned', '{"k": "x"}');
	is(error_of(q{SELECT weir.wait_for('lent', '20 s')}), '', 'an heir who may read the source: the view goes on');
	is(sql('SELECT c FROM lent'), $n, '... exactly');
	$oracle->stalls('lent_t', '42501', qr/./, 'one who may not: it stalls');
	sql('DROP OWNED BY heir; DROP ROLE heir');
	is(sql($remains), '0', 'views go with what their owner owned, all of them');
	sql('DROP FOREIGN TABLE owned; DROP TABLE owned_t');
};

# ------------------------------------------------------------- locks

# A lock of ours that waits stands before whoever comes after it.
section 'nobody queues behind us', sub {
	stream('locked', 'k text');
	sql(q{CREATE TABLE locked_t (id int PRIMARY KEY);
		CREATE TABLE locked_v WITH (weir.continuous, weir.commit_interval = '20 ms') AS SELECT count(*) AS c FROM locked;
		CREATE TABLE locked_tv WITH (weir.continuous, weir.commit_interval = '20 ms') AS SELECT count(*) AS c FROM locked_t});
	send_to('locked', '{}');
	sql('INSERT INTO locked_t VALUES (1)');
	sql("SELECT weir.wait_for('$_')") for qw(locked_v locked_tv);
	for my $v (qw(locked_v locked_tv))
	{
		my $holder = $node->background_psql('postgres');
		# reads and other SHARE locks are welcome beside it, a commit of ours is not
		$holder->query_safe("BEGIN; LOCK TABLE $v IN SHARE MODE");
		my $more = sub { $v eq 'locked_v' ? send_to('locked', '{}') : sql('INSERT INTO locked_t SELECT max(id) + 1 FROM locked_t') };
		$more->();
		ok($node->wait_until("SELECT count(*) FROM pg_locks WHERE relation = '$v'::regclass AND NOT granted", '1'), "$v: a commit waits");
		my $longest = 0;
		for (1 .. 6)
		{
			my $started = time;
			sql("BEGIN; LOCK TABLE $v IN SHARE MODE; COMMIT");
			$longest = time - $started if time - $started > $longest;
			$more->();
		}
		cmp_ok($longest, '<', 1.8, sprintf '%s: nobody waits for it for long (%.1f s)', $v, $longest);
		ok($node->wait_until($oracle->state_query($v), 'stalled 55P03', 20), "$v: it says what it waits for");
		my $other = $v eq 'locked_v' ? 'locked_tv' : 'locked_v';
		is($oracle->state_of($other), 'running', "$v: the other view runs");
		$holder->query_safe('COMMIT');
		$holder->quit;
		ok($node->wait_until("SELECT c FROM $v", '8', 20), "$v: and goes on with all of it");
	}
	sql('DROP FOREIGN TABLE locked CASCADE; DROP TABLE locked_t CASCADE');
};

# ------------------------------------------------------------- views that come and go

section 'drops', sub {
	my $times = $ENV{WEIR_LONG} ? 1000 : 100;
	stream('dropped', 'k text');
	sql('CREATE TABLE dropped_t (id int PRIMARY KEY, k text); ALTER TABLE dropped_t REPLICA IDENTITY FULL');
	send_to('dropped', map { qq({"k": "$_"}) } 1 .. 200);
	sql(q{INSERT INTO dropped_t SELECT i, i % 7 FROM generate_series(1, 200) i});
	is(sql($remains), '0', 'nothing is there');
	sql(q{CREATE TABLE stays WITH (weir.continuous, weir.commit_interval = '10 ms') AS SELECT count(*) AS c FROM dropped});
	my ($longest, $filled) = (0, 0);
	for my $i (1 .. $times)
	{
		my $source = $i % 4 ? 'dropped' : 'dropped_t';
		sql("CREATE TABLE goes WITH (weir.continuous, weir.commit_interval = '10 ms') AS SELECT k, count(*) AS c FROM $source GROUP BY k");
		# in all stages of its life
		$i % 10 == 0 ? sql(q{SELECT weir.wait_for('goes')}) : $i % 3 == 0 ? sleep rand 0.1 : 1;
		send_to('dropped', qq({"k": "more"})) if $i % 25 == 0;
		my $started = time;
		$filled++ if sql('SELECT count(*) FROM goes; DROP TABLE goes') > 0;
		$longest = time - $started if time - $started > $longest;
	}
	cmp_ok($longest, '<', 2, sprintf '%d drops while running, the longest of %.2f s', $times, $longest);
	cmp_ok($filled, '>=', $times / 10, "$filled of them had rows");
	is(error_of(q{SELECT weir.wait_for('stays', '20 s')}), '', 'a view beside them goes on');
	is(sql('SELECT c FROM stays'), sql('SELECT count(*) FROM dropped'), '... exactly');

	# the source goes while a worker reads the definition: of the two it comes past
	# the second between its looks at the catalogs
	stream('brief', 'k text');
	my $worker = sql(q{SELECT weir.worker_pid('stays')});
	my $seen = -s $node->logfile;
	fault('catalog-view:sleep:2');
	sql('SELECT pg_sleep(0.3)');
	sql(q{CREATE TABLE goes WITH (weir.continuous) AS SELECT count(*) AS c FROM brief; SELECT pg_sleep(0.3); DROP FOREIGN TABLE brief CASCADE});
	ok($node->wait_for_log(qr/\[$worker\] LOG: +fault point catalog-view: sleep/, $seen), 'a source is dropped while a definition is read');
	fault('');
	is(error_of(q{SELECT weir.wait_for('stays', '20 s')}), '', '... the other view goes on');
	is(sql(q{SELECT weir.worker_pid('stays')}), $worker, '... in the same worker');

	sql('DROP TABLE stays');
	ok($node->wait_until($workers, '0', 20), 'no worker stays');
	ok($node->wait_until($remains, '0', 20), 'nor anything else');
	sql('DROP FOREIGN TABLE dropped; DROP TABLE dropped_t');
};

section 'CREATE that does not come to its end', sub {
	stream('made', 'k text');
	sql('CREATE TABLE made_t (id int PRIMARY KEY, k text); ALTER TABLE made_t REPLICA IDENTITY FULL');
	for my $source (qw(made made_t))
	{
		my $create = "CREATE TABLE half WITH (weir.continuous) AS SELECT k, count(*) AS c FROM $source GROUP BY k";
		my $nothing = sub {
			my ($what) = @_;
			is(sql($remains), '0', "$what: nothing is left");
			is(sql(q{SELECT to_regclass('half') IS NULL}), 't', '... not even the table');
		};
		# at the last step but one, when all its relations are there
		fault('create_before_record:error:1');
		like(error_of($create), qr/^XX000: fault point/, "an error in CREATE over $source");
		$nothing->('an error');

		fault('create_before_record:sleep:1');
		my $seen = -s $node->logfile;
		my $session = beside($create);
		$node->wait_for_log(qr/fault point create_before_record: sleep/, $seen);
		sql(q{SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE application_name = 'beside'});
		$session->finish;
		$nothing->('cancelled');

		fault('create_before_record:kill9:1');
		crashes($create);
		$nothing->('a crash');

		sql("BEGIN; $create; ROLLBACK");
		$nothing->('ROLLBACK');
		isnt(error_of("BEGIN; $create; SELECT 1 / 0; COMMIT"), '', 'an error after it');
		$nothing->('an error after it');
	}
	ok($node->wait_until($workers, '0', 20), 'no worker is there');
	sql(q{CREATE TABLE half WITH (weir.continuous) AS SELECT k, count(*) AS c FROM made_t GROUP BY k; INSERT INTO made_t VALUES (1, 'a')});
	is(error_of(q{SELECT weir.wait_for('half', '20 s')}), '', 'the name is free, and the next one works');
	sql('DROP FOREIGN TABLE made; DROP TABLE made_t CASCADE');
};

section 'DROP that does not come to its end', sub {
	stream('undropped', 'k text');
	sql('CREATE TABLE undropped_t (k text)');
	for my $source (qw(undropped undropped_t))
	{
		my $n = 0;
		my $v = "${source}_v";
		my $more = sub { $n++; $source eq 'undropped' ? send_to($source, '{"k": "a"}') : sql("INSERT INTO $source VALUES ('a')") };
		my $as = "weir.commit_interval = '10 ms'" . ($source eq 'undropped' ? '' : ', weir.append_only');
		$more->();
		sql("CREATE TABLE $v WITH (weir.continuous, weir.changelog = 'all', $as) AS SELECT k, count(*) AS c FROM $source GROUP BY k");
		is(error_of("SELECT weir.wait_for('$v', '20 s')"), '', "a view over $source");
		my $whole = sub {
			my ($what) = @_;
			$more->();
			is(error_of("SELECT weir.wait_for('$v', '20 s')"), '', "$what: it goes on");
			is(sql("SELECT c, (SELECT sum(weir_diff * c) FROM ${v}_changes) FROM $v"), "$n|$n", '... exactly');
			like(error_of("DELETE FROM $v"), qr/^55000/, '... and is a view still');
		};
		my @sweep = map { my $point = $_; map { "$point:$_:1" } qw(error enospc kill9) } qw(drop-view drop-forgotten);
		@sweep = @sweep[ $source eq 'undropped' ? (0, 4) : 5 ] unless $ENV{WEIR_LONG};
		for my $fault (@sweep)
		{
			fault($fault);
			if ($fault =~ /kill9/) { crashes("DROP TABLE $v") }
			else { like(error_of("DROP TABLE $v"), qr/^(?:XX000|53100).*fault point drop/, "DROP of a view over $source, $fault") }
			fault('');
			$whole->($fault);
		}
		is(error_of("DROP TABLE $v"), '', 'then it goes');
		ok($node->wait_until($remains, '0', 20), '... with all that it had');
	}

	# the slot of the last view is gone, and what we know of it is not
	for my $action ($ENV{WEIR_LONG} ? 'error' : (), 'kill9')
	{
		sql(q{INSERT INTO undropped_t VALUES ('b'); CREATE TABLE undropped_tv WITH (weir.continuous, weir.append_only) AS SELECT count(*) AS c FROM undropped_t});
		is(error_of(q{SELECT weir.wait_for('undropped_tv', '20 s')}), '', 'a view, and its slot');
		my $seen = -s $node->logfile;
		fault("slot-dropped:$action:1");
		sql('DROP TABLE undropped_tv');
		$node->wait_for_log(qr/fault point slot-dropped: $action/, $seen);
		$node->wait_for_log(qr/all server processes terminated; reinitializing/, $seen) if $action eq 'kill9';
		$node->set_fault('');
		$node->wait_ready;
		ok($node->wait_until($remains, '0', 20), "slot-dropped: $action: nothing is left");
	}
	sql(q{CREATE TABLE undropped_tv WITH (weir.continuous, weir.append_only) AS SELECT count(*) AS c FROM undropped_t});
	is(error_of(q{SELECT weir.wait_for('undropped_tv', '20 s')}), '', 'the next view has a slot again');
	is(sql('TABLE undropped_tv'), sql('SELECT count(*) FROM undropped_t'), '... and is exact');
	sql('DROP FOREIGN TABLE undropped CASCADE; DROP TABLE undropped_t CASCADE');
};

# Databases that are to go, or have come
section 'databases between here and there', sub {
	stream('lived', 'k text');
	sql('CREATE DATABASE house');
	create_kafka($node, $broker, 'kafka', 'house');
	my $there = sub { my ($db, $sql) = @_; return $node->safe_psql($db, $sql) };
	$there->('house', q{CREATE FOREIGN TABLE lived (k text) SERVER kafka OPTIONS (topic 'lived');
		CREATE TABLE lives WITH (weir.continuous, weir.changelog = 'all', weir.commit_interval = '10 ms') AS SELECT k, count(*) AS c FROM lived GROUP BY k});
	my $n = 0;
	my $whole = sub {
		my ($what, $db) = @_;
		$n++;
		send_to('lived', '{"k": "a"}');
		is(error_of(q{SELECT weir.wait_for('lives', '30 s')}, $db), '', "$what: it goes on");
		is($there->($db, 'SELECT c, (SELECT sum(weir_diff * c) FROM lives_changes) FROM lives'), "$n|$n", '... exactly');
	};
	$whole->('a view in a database', 'house');

	for my $statement ('ALTER DATABASE house RENAME TO home', 'DROP DATABASE house')
	{
		for my $fault ('leave-told:error:1', 'leave-empty:enospc:1')
		{
			fault($fault);
			like(error_of($statement), qr/^(?:XX000|53100).*fault point leave/, "$statement, $fault");
		}
	}
	fault('leave-empty:kill9:1');
	crashes('DROP DATABASE house');
	$whole->('a database that is not dropped', 'house');

	# a copy, taken in by a session, ...
	is(error_of('CREATE DATABASE copy TEMPLATE house'), '', 'a copy');
	for my $fault ('adopt-rows:error:1', 'adopt-parts:enospc:1', $ENV{WEIR_LONG} ? 'adopt-rows:kill9:1' : (), 'adopt-parts:kill9:1')
	{
		fault($fault);
		if ($fault =~ /kill9/) { crashes(q{SELECT weir.resume('lives')}, 'copy') }
		else { like(error_of(q{SELECT weir.resume('lives')}, 'copy'), qr/^(?:XX000|53100).*fault point adopt/, "weir.resume, $fault") }
		fault('');
		is($there->('copy', 'SELECT state FROM weir.views'), 'stalled', "$fault: it is still not of here");
	}
	is(error_of(q{SELECT weir.resume('lives')}, 'copy'), '', 'then it is');
	$whole->('taken in', 'copy');
	is($there->('copy', 'SELECT count(*) FROM weir_data.views'), '1', '... once');
	sql('DROP DATABASE copy');

	# ... and a dump, by a scout
	my $dump = PostgreSQL::Test::Utils::tempdir() . '/house';
	command_ok([ 'pg_dump', '-d', $node->connstr('house'), '-f', $dump ], 'a dump');
	for my $fault ('adopt-parts:enospc:1', $ENV{WEIR_LONG} ? 'adopt-rows:kill9:1' : ())
	{
		my ($point) = $fault =~ /^([^:]+)/;
		sql('CREATE DATABASE moved');
		my $seen = -s $node->logfile;
		fault($fault);
		command_ok([ 'psql', '-Xq', '-d', $node->connstr('moved'), '-f', $dump ], 'restored');
		ok($node->wait_for_log(qr/fault point $point: /, $seen), "a scout fails at $fault");
		$node->wait_for_log(qr/all server processes terminated; reinitializing/, $seen) if $fault =~ /kill9/;
		$node->set_fault('');
		$node->wait_ready;
		# another comes within a minute, and at once after a crash; or somebody says so
		$fault =~ /kill9/ ? $node->wait_until('SELECT state FROM weir.views', 'running', 60, 'moved') : $there->('moved', q{SELECT weir.resume('lives')});
		$whole->("restored, $fault", 'moved');
		is(error_of('DROP DATABASE moved'), '', '... and goes');
	}
	sql('DROP DATABASE house; DROP FOREIGN TABLE lived');
};

section 'extension', sub {
	stream('extended', 'k text');
	sql('CREATE TABLE extended_t (id int PRIMARY KEY, k text); ALTER TABLE extended_t REPLICA IDENTITY FULL; INSERT INTO extended_t SELECT i, i % 3 FROM generate_series(1, 100) i');
	send_to('extended', '{"k": "a"}', '{"k": "b"}');
	for my $source (qw(extended extended_t))
	{
		sql("CREATE TABLE ${source}_v WITH (weir.continuous, weir.commit_interval = '10 ms') AS SELECT k, count(*) AS c FROM $source GROUP BY k");
		is(error_of("SELECT weir.wait_for('${source}_v', '20 s')"), '', "a view over $source");
	}
	my $feed = beside('DO $$ BEGIN FOR i IN 1000 .. 3000 LOOP INSERT INTO extended_t VALUES (i, i % 5); COMMIT; PERFORM pg_sleep(0.001); END LOOP; END $$');
	for my $sql ('ALTER EXTENSION pg_weir UPDATE', 'ALTER EXTENSION pg_weir DROP FUNCTION weir.worker_pid(regclass)',
		'ALTER EXTENSION pg_weir ADD FUNCTION weir.worker_pid(regclass)')
	{
		my $started = time;
		is(error_of($sql), '', $sql);
		cmp_ok(time - $started, '<', 5, '... at once');
	}
	$feed->finish;
	is(error_of("SELECT weir.wait_for('extended_t_v', '20 s')"), '', 'the views go on');
	is(sql('(TABLE extended_t_v EXCEPT ALL SELECT k, count(*) FROM extended_t GROUP BY k) UNION ALL (SELECT k, count(*) FROM extended_t GROUP BY k EXCEPT ALL TABLE extended_t_v)'),
		'', '... exactly');
	my $started = time;
	is(error_of('DROP EXTENSION pg_weir CASCADE'), '', 'DROP EXTENSION while they run');
	cmp_ok(time - $started, '<', 5, '... at once');
	is(sql(q{SELECT to_regclass('extended_v') IS NULL AND to_regclass('extended_t_v') IS NULL}), 't', 'the views are gone');
	ok($node->wait_until($workers, '0', 20), 'so are the workers');
	ok($node->wait_until('SELECT count(*) FROM pg_replication_slots', '0', 20), 'and the slot');
	sql('DROP TABLE extended_t');

	sql('CREATE ROLE installer; GRANT CREATE ON DATABASE postgres TO installer');
	like(error_of('SET ROLE installer; CREATE EXTENSION pg_weir'), qr/^42501/, 'it takes a superuser to have it again');
};

my $log = slurp_file($node->logfile);
unlike($log, qr/PANIC|TRAP:|signal 11|signal 6/, 'nobody crashed but on demand');
$node->stop;
done_testing;
