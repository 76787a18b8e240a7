# WeirChecker: runs traces (WeirCheckerTrace) against one long-lived server and
# holds what the views show against WeirCheckerOracle.
#
#     my $checker = WeirChecker->new;
#     my $wrong = $checker->run($trace);       # '' or what was wrong first
#     print $checker->report;
#
# Server, database and broker live through all traces; topics, tables and views
# are made anew for each and dropped after it.  A view of nothing (chk.anchor)
# keeps the replication slot and its worker alive meanwhile, and is looked at, too.
#
# Whatever dies, the trace goes on: what was given is marked in the transaction
# that gave it, so an action whose end nobody has seen is done again or not.
# Injected errors leave stalls behind that pass by themselves after a second;
# weir.resume makes that now.
package WeirChecker;

use strict;
use warnings;

use Carp;
use PostgreSQL::Test::Utils ();
use Time::HiRes qw(sleep time);
use WeirBroker;
use WeirCheckerOracle;
use WeirCheckerTrace;
use WeirNode;
use WeirSession;
use WeirTime;

our $patience = 40;    # seconds that a view may take to catch up

# new(broker => WeirBroker)
sub new
{
	my ($class, %param) = @_;
	my $node = WeirNode->start_new('checker', no_start => 1, conf => <<'EOF');
include_if_exists = 'fault.conf'
include_if_exists = 'checker.conf'
max_wal_size = 4GB
checkpoint_timeout = 1h
log_checkpoints = off
log_min_messages = log
log_min_error_statement = panic
autovacuum = off
weir.test_backoff = 50ms
EOF
	$node->start;
	my $broker = $param{broker} || WeirBroker->new;
	create_kafka($node, $broker);
	# a question about the end of a topic waits for the fetch before it
	$node->safe_psql('postgres', "ALTER SERVER kafka OPTIONS (ADD fetch_wait_max_ms '10')");
	my $self = bless {
		node => $node,
		broker => $broker,
		time => WeirTime->new($node, broker => $broker),
		session => WeirSession->new($node),
		traces => 0,
		tx => 0,
		logged => 0,
		count => {},
		fired => {},
		spent => {},
	}, $class;
	$self->{session}->sql(WeirCheckerOracle::schema() . q{
		CREATE EXTENSION pg_walinspect;
		CREATE TABLE chk.nothing (n int); ALTER TABLE chk.nothing REPLICA IDENTITY FULL;
		CREATE TABLE chk.anchor WITH (weir.continuous) AS SELECT count(*), sum(n) FROM chk.nothing;
		SELECT weir.wait_for('chk.anchor')});
	$self->{has_groups} = $self->{session}->sql("SELECT count(*) FROM pg_settings WHERE name = 'weir.test_groups'");
	$self->{parts} = $self->{session}->sql(parts_query());
	return $self;
}

sub node { return $_[0]{node} }
sub stop { my ($self) = @_; $self->{session}->close; $self->{node}->stop; return }

# What is left of views, when all are dropped
sub parts_query
{
	return q{SELECT format('%s views, %s relations, %s positions', (SELECT count(*) FROM weir_data.views), (SELECT count(*) FROM weir_data.positions),
		(SELECT count(*) FROM pg_class WHERE relnamespace = 'weir_data'::regnamespace AND strpos(relname, (SELECT id FROM weir_data.views WHERE relid = 'chk.anchor'::regclass)) = 0))};
}

# ------------------------------------------------------------- the server

# Faults that have fired are taken back: another process would meet them, too.
# Returns what it has found.
sub read_log
{
	my ($self) = @_;
	my $size = -s $self->{node}->logfile;
	return 0 if $size <= $self->{logged};
	my $new = PostgreSQL::Test::Utils::slurp_file($self->{node}->logfile, $self->{logged});
	$self->{logged} += length $new;
	my $fired = 0;
	while ($new =~ /fault point (\S+): (error|enospc|kill9|crash|sleep)$/mg)
	{
		$self->{fired}{"$1 $2"}++;
		$self->{count}{faults}++;
		$fired++;
	}
	$self->arm('') if $fired;
	$self->{crash} = $1 if $new =~ /^(.*(?:PANIC:|TRAP:|terminated by signal (?!9\b)\d+).*)$/m;
	return $fired;
}

sub arm
{
	my ($self, $fault) = @_;
	return if ($self->{armed} || '') eq $fault;
	$self->{node}->set_fault($fault);
	$self->{armed} = $fault;
	return;
}

# The connection is gone: with it the server, or all but its postmaster.
sub come_back
{
	my ($self) = @_;
	my $started = time;
	# what has killed would kill again
	$self->arm('');
	$self->{count}{crashes}++;
	for (1 .. 20)
	{
		my $pid = $self->{node}{_pid};
		$self->{node}->revive if !defined $pid || WeirNode::_is_dead($pid);
		last if $self->{session}->reconnect(3);
	}
	$self->{session}->try('SELECT 1') eq '1' or $self->{session}->reconnect(60) or die "the server does not come back\n";
	$self->{spent}{'coming back'} += time - $started;
	return;
}

# try(sql): as WeirSession has it, from a server that may come back meanwhile; the
# second time is the caller's business.
sub try
{
	my ($self, $sql) = @_;
	my ($rows, $error) = $self->{session}->try($sql);
	$self->come_back if $error =~ /^lost|^57P0|^08/;
	return ($rows, $error);
}

# query(sql): for what may be done twice
sub query
{
	my ($self, $sql) = @_;
	my ($rows, $error);
	for (1 .. 8)
	{
		($rows, $error) = $self->try($sql);
		return $rows if $error eq '';
		last unless $error =~ /^lost|^57P0|^08/;
	}
	die "$error\nfrom: $sql\n";
}

# ------------------------------------------------------------- literals

sub literal
{
	my ($v) = @_;
	return 'NULL' unless defined $v;
	$v =~ s/'/''/g;
	return "'$v'";
}

sub values_of { my ($row) = @_; return '(' . join(', ', map { literal($row->{$_}) } @WeirCheckerTrace::columns) . ')' }

my $json = JSON::PP->new->canonical->allow_nonref;

# Numbers as JSON has them, also where Perl has a string
sub message
{
	my ($row) = @_;
	my $text = '{' . join(', ', map {
		my $v = $row->{$_};
		"\"$_\": " . (!defined $v ? 'null' : $v =~ /^-?\d+(?:\.\d+)?$/ && $_ ne 'k' ? $v : $json->encode("$v"))
	} @WeirCheckerTrace::columns) . '}';
	# bytes, of which nobody else is to make UTF-8
	utf8::downgrade($text);
	return $text;
}

# ------------------------------------------------------------- transactions

# transaction(statements, 'commit' or 'rollback'): once, and its number
sub transaction
{
	my ($self, $body, $end) = @_;
	my $n = ++$self->{tx};
	# after a crash the WAL goes on behind what was flushed
	my $from = $self->query('SELECT pg_current_wal_flush_lsn()');
	for (1 .. 8)
	{
		my ($rows, $error) = $self->try("BEGIN; SET LOCAL chk.tx = $n; INSERT INTO chk.txs VALUES ($n, pg_current_xact_id());\n$body;\n$end");
		last if $error eq '';
		die "$error\nfrom: $body\n" unless $error =~ /^lost|^57P0|^08/;
		last if $self->query("SELECT count(*) FROM chk.txs WHERE n = $n") eq '1';
	}
	# where its commit ends: a position at or beyond that holds it
	$self->query("UPDATE chk.txs t SET lsn = r.end_lsn FROM pg_get_wal_records_info('$from', pg_current_wal_flush_lsn()) r
		WHERE t.n = $n AND r.resource_manager = 'Transaction' AND r.record_type LIKE 'COMMIT%' AND r.xid = t.xid::xid") if $end eq 'commit';
	return $n;
}

sub change
{
	my ($self, $run, $action) = @_;
	my $table = $run->{source}{table};
	my $depth = 0;
	my @sql;
	for my $step (@{ $action->{steps} })
	{
		my ($what, @rest) = @$step;
		if ($what eq 'insert') { push @sql, "INSERT INTO $table (" . join(', ', @WeirCheckerTrace::columns) . ') VALUES ' . join(', ', map { values_of($_) } @rest) }
		elsif ($what eq 'update') { push @sql, "UPDATE $table SET " . join(', ', map { "$_ = " . literal($rest[1]{$_}) } sort keys %{ $rest[1] }) . " WHERE id = $rest[0]" }
		elsif ($what eq 'delete') { push @sql, "DELETE FROM $table WHERE id BETWEEN $rest[0] AND $rest[1]" }
		elsif ($what eq 'truncate') { push @sql, "TRUNCATE $table" }
		elsif ($what eq 'savepoint') { push @sql, 'SAVEPOINT s'; $depth++ }
		# a trace that was cut may have lost its savepoint
		elsif ($depth) { push @sql, $what eq 'release' ? 'RELEASE s' : 'ROLLBACK TO s'; $depth-- if $what eq 'release' }
	}
	return $self->transaction(join(";\n", @sql, 'SELECT'), $action->{end});
}

sub push_rows
{
	my ($self, $run, $action) = @_;
	my @rows = @{ $action->{rows} } or return;
	my $stream = $run->{source}{stream};
	my $values = join ', ', map { values_of($_) } @rows;
	my $history = join ', ', map { "ROW" . values_of($_) . "::chk.rec" } @rows;
	$self->transaction("INSERT INTO $stream VALUES $values;
		INSERT INTO chk.history (source, tx, w, r) SELECT '$stream', current_setting('chk.tx')::int, 1, unnest(ARRAY[$history])", $action->{end});
	$self->{count}{rows} += @rows;
	# each transaction is a commit of those that are judged by that
	$self->settle($run, grep { $_->{class} eq 'model' && $_->{made} } values %{ $run->{view} });
	return;
}

sub produce
{
	my ($self, $run, $action) = @_;
	my @messages = @{ $action->{messages} } or return;
	my $topic = $run->{source}{topic};
	my @history = map {
		my ($part, $what, $bad) = @$_;
		my $off = $run->{end}{$part}++;
		# what is bad of a row is no value
		my $row = ref $what ? 'ROW' . values_of({ %$what, defined $bad ? ($bad => undef) : () }) . '::chk.rec' : 'NULL::chk.rec';
		"($part, $off, " . literal($bad) . ", $row)"
	} @messages;
	$self->transaction("INSERT INTO chk.history (source, tx, w, part, off, bad, r) SELECT '$topic', current_setting('chk.tx')::int, 1, * FROM (VALUES "
		  . join(', ', @history) . ') x', 'commit');
	$run->{producer} ||= $self->{broker}->producer($topic);
	$run->{producer}->send(map { [ $_->[0], undef, ref $_->[1] ? message($_->[1]) : $_->[1] ] } @messages);
	$run->{producer}->order('!flush');
	$self->{count}{rows} += @messages;
	$self->{count}{poison} += grep { defined $_->[2] } @messages;
	return;
}

# ------------------------------------------------------------- views

sub create
{
	my ($self, $run, $v) = @_;
	$v->{made} and return;
	my $source = $run->{source}{ $v->{source} } or return;
	my $sql = WeirCheckerOracle::statement($v, $v->{id}, $source);
	for (1 .. 8)
	{
		my ($rows, $error) = $self->try($sql);
		last if $error eq '';
		$self->read_log;
		die "$error\nfrom: $sql\n" unless $error =~ /^lost|^57P0|^08|fault point/;
		last if $self->query("SELECT to_regclass('$v->{id}') IS NOT NULL") eq 't';
	}
	# a stream begins where its view does
	$v->{since} = $v->{source} eq 'stream' ? $self->{tx} : 0;
	$v->{made} = 1;
	# until the first of them works an INSERT is refused
	$self->settle($run, $v) if $v->{source} eq 'stream' && 1 == grep { $_->{made} && $_->{source} eq 'stream' } values %{ $run->{view} };
	return;
}

# settle(views): until they hold what their source has
sub settle
{
	my ($self, $run, @views) = @_;
	@views = sort { $a->{name} cmp $b->{name} } grep { !$_->{paused} } @views;
	my $deadline = time + $patience;
	my $started = time;
	my $tries = 0;
	while (@views)
	{
		# in one session, side by side; one that fails does not keep the others waiting
		my $timeout = $self->{armed} ? '200 ms' : "$patience s";
		my ($rows, $error) = $self->try(join ";\n", map { "SELECT weir.wait_for('$_->{id}', '$timeout')" } @views);
		$self->read_log;
		last if $error eq '';
		if (time > $deadline)
		{
			my $state = $self->query("SELECT string_agg(concat_ws(' ', view, state, sqlstate, message, detail, hint), '; ') FROM weir.views WHERE state <> 'running'");
			die "not all catch up: $error" . ($state ne '' ? "; $state" : '') . "\n";
		}
		next if $error =~ /^57014/ && $self->{armed};
		# what would heal when the view is opened again, but has no business to happen
		die "stalls: $error\n" if $error =~ /^XX00[12]|^23505|gone or was changed by somebody else|more rows were deleted/;
		$self->{count}{stalls}++;
		sleep 0.02 * $tries++ if $tries < 10;
		sleep 0.3 if $tries >= 10;
		# it would be tried again in a second
		$self->try("SELECT weir.resume(view) FROM weir.views WHERE state = 'stalled' LIMIT 1");
	}
	$self->{spent}{waiting} += time - $started;
	return;
}

# arrive(run): until they have committed it, without asking anybody to hurry or to
# publish; not long, for who has not to commit does not
sub arrive
{
	my ($self, $run) = @_;
	my @views = grep { $_->{made} && !$_->{paused} } values %{ $run->{view} };
	my $ends = join ', ', '(-1, 0)', map { "($_, $run->{end}{$_})" } sort keys %{ $run->{end} };
	my @behind = map {
		my $end = $_->{source} eq 'topic' ? "(SELECT e FROM (VALUES $ends) v(n, e) WHERE n = p.partition)" : "(SELECT max(lsn) - '0/0' FROM chk.txs)";
		"SELECT 1 FROM weir_data.views d JOIN weir_data.positions p ON p.view_id = d.id WHERE d.relid = '$_->{id}'::regclass AND p.position < $end"
	} @views or return;
	my $until = time + 0.3;
	while (1)
	{
		last if $self->query(join ' UNION ALL ', @behind) eq '' || time > $until;
		sleep 0.01;
	}
	return;
}

# look(run, views): compares them as they are; dies of what is wrong
sub look
{
	my ($self, $run, $settled, @views) = @_;
	my $started = time;
	my @sql;
	for my $v (sort { $a->{name} cmp $b->{name} } @views)
	{
		push @sql, WeirCheckerOracle::comparison($v, $v->{id}, $run->{source}{ $v->{source} }, $v->{since});
		my $mode = $v->{with}{changelog} || 'off';
		next if $mode eq 'off';
		$self->{time}{columns}{ $v->{id} } = join ', ', WeirCheckerOracle::key_names($v), ($v->{window} ? 'win' : ()), map { / AS (\w+)$/ } @{ $v->{aggregates} };
		my $fold = $self->{time}->fold_query($v->{id}, $mode, $v->{with}{emit});
		push @sql, "SELECT '\@$v->{id} fold', CASE WHEN phase <> 'running' THEN 'not yet' ELSE ($fold) END FROM weir_data.views d JOIN weir_data.status s ON s.view_id = d.id WHERE d.relid = '$v->{id}'::regclass";
		next unless $run->{ending};
		my @keys = WeirCheckerOracle::key_names($v);
		my %what = (mode => $mode, kind => $v->{window}, row => join(', ', @keys, $v->{window} ? 'win' : ()) || 'true');
		push @sql, "SELECT '\@$v->{id} changelog', f FROM (" . $self->{time}->faults_query($v->{id}, %what) . ') x(f)';
	}
	my $answers = $self->query("BEGIN ISOLATION LEVEL REPEATABLE READ;\n" . join(";\n", @sql) . ";\nCOMMIT");
	my (@wrong, %seen);
	for (split /\n/, $answers)
	{
		my ($id, $what, $is) = /^@(\S+) (\w+)\|(.*)/ or next;
		my ($v) = grep { $_->{id} eq $id } @views;
		$seen{$id}++;
		if ($is eq 'not yet') { push @wrong, "$v->{name} $what: not yet" if $settled; next }
		$self->{count}{comparisons}++;
		if ($what eq 'rows' && $is =~ /^exact (\d+) (\d+)$/)
		{
			$self->{count}{'rows compared'} += $1;
			$v->{rows} = $1;
			$v->{had} = $2;
		}
		elsif ($what =~ /^(?:late|dropped)$/ && $is =~ /^exact (\d+) (\d+) (\d+)$/) { @$v{qw(late_applied late_side late_dropped)} = ($1, $2, $3) }
		elsif ($is !~ /^(?:exact.*|0)$/) { push @wrong, "$v->{name} $what: $is" }
	}
	push @wrong, map { "$_->{name}: no answer" } grep { !$seen{ $_->{id} } } @views;
	$self->{spent}{comparing} += time - $started;
	if (@wrong)
	{
		# what a person would ask next
		my ($letters) = $self->try("SELECT string_agg(DISTINCT concat_ws(' ', partition, \"offset\", sqlstate, message, convert_from(payload, 'SQL_ASCII')), '; ') FROM weir.dead_letters WHERE view IN (" . join(', ', map { "'$_->{id}'::regclass" } @views) . ')');
		die join("\n", @wrong, $letters ne '' ? "dead letters: $letters" : ()) . "\n";
	}
	$self->{count}{looks}++;
	return;
}

# ------------------------------------------------------------- a trace

my %do = (
	create => sub { my ($self, $run, $action, $v) = @_; $self->create($run, $v); return },
	produce => \&produce,
	push => \&push_rows,
	change => sub { my ($self, $run, $action) = @_; $self->change($run, $action); $self->{count}{rows} += @{ $action->{steps} }; return },
	fault => sub { my ($self, $run, $action) = @_; $self->arm(''); $self->arm($action->{fault}); $self->{count}{'faults armed'}++; return },
	pause => sub { my ($self, $run, $action, $v) = @_; $self->query("SELECT weir.pause('$v->{id}')"); $v->{paused} = 1; return },
	resume => sub { my ($self, $run, $action, $v) = @_; $self->query("SELECT weir.resume('$v->{id}')"); $v->{paused} = 0; return },
	vacuum => sub { my ($self, $run, $action, $v) = @_; $self->query("VACUUM FULL $v->{id}"); return },
	alter => sub { my ($self, $run, $action, $v) = @_; $self->query("ALTER TABLE $v->{id} SET ($action->{set})"); return },
	index => sub { my ($self, $run, $action, $v) = @_; $self->query("CREATE INDEX ON $v->{id} (c)"); return },
	widen => sub { my ($self, $run) = @_; my $n = ++$run->{widened}; $self->query("ALTER TABLE $run->{source}{table} ADD COLUMN IF NOT EXISTS extra$n int DEFAULT 7"); return },
	clock => sub { my ($self, $run, $action) = @_; $self->query("SELECT shift_clock('$action->{by}')"); return },
	groups => sub { my ($self, $run, $action) = @_; $self->groups($action->{most}); return },
	arrive => sub { my ($self, $run) = @_; $self->arrive($run); return },
	check => sub { my ($self, $run) = @_; $self->check($run); return },
	look => sub { my ($self, $run) = @_; $self->look($run, 0, grep { $_->{made} && !WeirCheckerOracle::has_panes($_) } values %{ $run->{view} }); return },
	terminate => sub { my ($self) = @_; $self->query(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'pg_weir worker'}); $self->{fired}{terminate}++; return },
	kill9 => sub {
		my ($self) = @_;
		my ($pid) = split /\n/, $self->query(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_weir worker' ORDER BY random() LIMIT 1});
		return unless $pid;
		kill 9, $pid;
		$self->{fired}{kill9}++;
		# until the session is gone, too: before that nothing has happened
		for (1 .. 200) { last if ($self->try('SELECT pg_sleep(0.01)'))[1] ne '' }
	},
	crash => sub { my ($self) = @_; $self->{node}->crash_server; $self->{fired}{crash}++; $self->come_back; return },
	rebuild => sub {
		my ($self, $run, $action, $v) = @_;
		my ($rows, $error) = $self->try("SELECT weir.rebuild('$v->{id}')");
		$self->read_log;
		die "rebuild of $v->{name}: $error\n" if $error ne '' && $error !~ /^lost|^57P0|^08|fault point/;
	});

sub groups
{
	my ($self, $most) = @_;
	return unless $self->{has_groups};
	my $file = $self->{node}->data_dir . '/checker.conf';
	open my $fh, '>', $file or die "$file: $!";
	print $fh "weir.test_groups = $most\n";
	close $fh;
	kill 'HUP', $self->{node}{_pid} if $self->{node}{_pid};
	return;
}

sub check
{
	my ($self, $run) = @_;
	my @views = grep { $_->{made} } values %{ $run->{view} };
	$self->settle($run, @views);
	my @these = grep { !$_->{paused} } @views;
	if (!eval { $self->look($run, 1, @these); 1 })
	{
		my $wrong = $@;
		# a view that is right later is another mistake than one that stays wrong
		$self->settle($run, @views);
		die $wrong . (eval { $self->look($run, 1, @these); 1 } ? "(right at the second look)\n" : "(wrong at the second look, too)\n");
	}
	$self->evictions(@views) if $self->{has_groups};
	return;
}

# What is in memory, and what is not, once there is such a thing
sub evictions
{
	my ($self, @views) = @_;
	my $list = join ', ', map { "'$_->{id}'::regclass" } @views or return;
	my ($rows, $error) = $self->try("SELECT count(*) FILTER (WHERE groups_in_memory < groups_on_disk), coalesce(sum(greatest(groups_on_disk - groups_in_memory, 0)), 0) FROM weir.stat_views WHERE view IN ($list)");
	return if $error ne '' || $rows !~ /^(\d+)\|(\d+)$/;
	$self->{count}{'views with evicted groups'} += $1;
	$self->{count}{'evicted groups'} += $2;
	return;
}

# begin(trace): sources, and what is known of the views
sub begin
{
	my ($self, $trace) = @_;
	my $id = 'c' . ++$self->{traces};
	my $run = { id => $id, trace => $trace, source => {}, end => {}, view => {} };
	for my $name (sort keys %{ $trace->{sources} })
	{
		my $source = $run->{source}{$name} = "${id}_$name";
		if ($name eq 'topic')
		{
			$self->{broker}->create_topic($source, $trace->{sources}{topic}{partitions});
			$run->{end}{$_} = 0 for 0 .. $trace->{sources}{topic}{partitions} - 1;
			$self->query("CREATE FOREIGN TABLE $source ($WeirCheckerTrace::type) SERVER kafka OPTIONS (topic '$source')");
		}
		elsif ($name eq 'stream') { $self->query("CREATE FOREIGN TABLE $source ($WeirCheckerTrace::type) SERVER weir_stream OPTIONS (unconsumed 'discard')") }
		else
		{
			$self->query("CREATE TABLE $source ($WeirCheckerTrace::type); ALTER TABLE $source REPLICA IDENTITY FULL;
				CREATE TRIGGER remember AFTER INSERT OR UPDATE OR DELETE ON $source FOR EACH ROW EXECUTE FUNCTION chk.remember('$source');
				CREATE TRIGGER remember_all BEFORE TRUNCATE ON $source FOR EACH STATEMENT EXECUTE FUNCTION chk.remember('$source')");
		}
	}
	$run->{view}{ $_->{name} } = { %$_, id => "${id}_$_->{name}", made => 0, paused => 0, since => 0 } for @{ $trace->{views} };
	return $run;
}

sub end
{
	my ($self, $run) = @_;
	$self->arm('');
	delete($run->{producer})->stop if $run->{producer};
	my @drop = map { "DROP TABLE IF EXISTS $_->{id}" } values %{ $run->{view} };
	for my $name (sort keys %{ $run->{source} }) { push @drop, 'DROP ' . ($name eq 'table' ? '' : 'FOREIGN ') . "TABLE IF EXISTS $run->{source}{$name} CASCADE" }
	$self->query($_) for @drop;
	$self->query('TRUNCATE chk.history, chk.txs');
	$self->query(q{SELECT shift_clock(-ahead) FROM (SELECT date_trunc('second', weir_data.now() - clock_timestamp() + interval '0.5 s') AS ahead) x WHERE ahead <> '0'});
	$self->groups(0);
	return;
}

# run(trace): '' if all was well, else what was not
sub run
{
	my ($self, $trace) = @_;
	my $started = time;
	delete @$self{qw(crash slow final)};
	my $run;
	my $at = 'the sources';
	my $wrong = '';
	eval {
		$run = $self->begin($trace);
		my $i = 0;
		for my $action (@{ $trace->{actions} })
		{
			$at = 'action ' . ++$i . ", $action->{do}" . (defined $action->{view} ? " $action->{view}" : '');
			my $v = defined $action->{view} ? $run->{view}{ $action->{view} } : undef;
			# of a trace that was cut
			next if defined $action->{view} && (!$v || $action->{do} ne 'create' && !$v->{made});
			next if $action->{do} =~ /^(?:produce|push|change)$/ && !$run->{source}{ { produce => 'topic', push => 'stream', change => 'table' }->{ $action->{do} } };
			my $code = $do{ $action->{do} } or die "no such action\n";
			my $then = time;
			$code->($self, $run, $action, $v);
			$self->{spent}{ $action->{do} } += time - $then;
			push @{ $self->{slow} }, sprintf '%s: %.1f s', $at, time - $then if time - $then > 1;
			$self->read_log if $self->{armed};
		}
		$at = 'the end';
		$run->{ending} = 1;
		$self->check($run);
		$self->tally($run);
		1;
	} or $wrong = "at $at: $@";
	my $then = time;
	if ($run)
	{
		if (!eval { $self->end($run); 1 })
		{
			$wrong ||= "at the drop: $@";
			# the next trace is not to suffer for it
			$self->{node}->restart;
			$self->come_back;
			eval { $self->end($run); 1 };
		}
		eval {
			my $left = $self->query(parts_query());
			$wrong ||= "left behind: $left, and not $self->{parts}" if $left ne $self->{parts};
			1;
		};
	}
	$self->{spent}{dropping} += time - $then;
	$self->read_log;
	$wrong ||= "a crash: $self->{crash}" if $self->{crash};
	$self->{spent}{all} += time - $started;
	chomp $wrong;
	return $wrong;
}

# For the report, and for who asks whether there was anything to test
sub tally
{
	my ($self, $run) = @_;
	for my $v (grep { $_->{made} } values %{ $run->{view} })
	{
		$self->{count}{views}++;
		$self->{count}{"views, $v->{class}"}++;
		$self->{count}{'views with rows'}++ if $v->{rows};
		$self->{count}{$_} += $v->{$_} || 0 for qw(late_applied late_side late_dropped);
	}
	my @same = grep { !$run->{view}{$_}{paused} } WeirCheckerTrace::stays_same($run->{trace});
	$self->{final} = { map { split /\|/, $_, 2 } split /\n/, $self->query(join ";\n", 'SELECT 1 WHERE false',
			map { "SELECT '$_', count(*) || ' ' || md5(coalesce(string_agg(r, '' ORDER BY r), '')) FROM (SELECT v::text AS r FROM $run->{view}{$_}{id} v) x" } @same) };
	return;
}

# pair(trace, how): the same in another way; '' if its views end alike.  After a run
# of the trace itself.
sub pair
{
	my ($self, $trace, $how) = @_;
	my %before = %{ $self->{final} || {} };
	my $other = WeirCheckerTrace::from_text(WeirCheckerTrace::as_text($trace));
	$WeirCheckerTrace::pairs{$how}->($other);
	my $wrong = $self->run($other);
	return "as '$how': $wrong" if $wrong ne '';
	my @both = grep { defined $self->{final}{$_} } sort keys %before;
	$self->{count}{"pairs, $how"}++;
	$self->{count}{'views of pairs'} += @both;
	my @differ = grep { $before{$_} ne $self->{final}{$_} } @both;
	return @differ ? "as '$how' these end differently: " . join(', ', map { "$_ ($before{$_}, $self->{final}{$_})" } @differ) : '';
}

sub report
{
	my ($self) = @_;
	my $text = sprintf "%d traces in %.0f s\n", $self->{traces}, $self->{spent}{all} || 0;
	$text .= sprintf "  %-28s %d\n", $_, $self->{count}{$_} for sort keys %{ $self->{count} };
	$text .= "faults that fired\n";
	$text .= sprintf "  %-36s %d\n", $_, $self->{fired}{$_} for sort keys %{ $self->{fired} };
	$text .= "seconds\n";
	$text .= sprintf "  %-28s %.1f\n", $_, $self->{spent}{$_} for sort keys %{ $self->{spent} };
	return $text;
}

1;
