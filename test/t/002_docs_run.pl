# What docs/event-time.md and docs/tutorial.md show is what happens: their statements
# are run, from top to bottom, and must answer what the pages say.  The pictures are
# drawn again, and must be the ones that are committed, to the byte.
# The embedded broker suffices.
use strict;
use warnings;

use Cwd qw(abs_path);
use FindBin;
use IPC::Run ();
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);
use WeirBroker;
use WeirNode;

my $docs = abs_path("$FindBin::Bin/../../docs");
my $broker = WeirBroker->new(topics => { clicks => 3 });
my $node = WeirNode->start_new('main');
my $directory = PostgreSQL::Test::Utils::tempdir();

$ENV{PGHOST} = $node->host;
$ENV{PGPORT} = $node->port;
$ENV{PGTZ} = 'UTC';

sub slurp
{
	my ($name) = @_;
	open my $fh, '<:encoding(UTF-8)', $name or return "no $name";
	local $/;
	return <$fh>;
}

# psql as a person sees it, but for notices, for what differs from server to server,
# and for void answers ahead of others
sub answer
{
	my ($sql, @where) = @_;
	my $file = "$directory/statements.sql";
	open my $fh, '>:encoding(UTF-8)', $file or die "$file: $!";
	print $fh $sql;
	close $fh;
	my $out;
	IPC::Run::run([ qw(psql -X -q -f), $file, @where ], '<', \'', '>&', \$out);
	$out =~ s/^psql:\S*: //mg;
	$out =~ s/^(?:NOTICE|WARNING):.*\n//mg;
	return plain($out);
}

sub plain
{
	my ($text) = @_;
	$text =~ s/^ \w+ \n-+\n \n\(1 row\)\n\n//mg;
	$text =~ s/read_only\('\w+'/read_only('id'/g;
	$text =~ s/\n+\z/\n/;
	return $text;
}

# run_page(name, where => psql's arguments, change => what to do with statements)
#
# Blocks of statements, each with the block of its answer if that follows.  Where the
# page says that a moment has passed, it may take some: a SELECT is asked again.
sub run_page
{
	my ($name, %param) = @_;
	my $page = slurp("$docs/$name");
	my ($n, $shown) = (0, 0);
	while ($page =~ /(<!-- not run[^\n]*-->\n)?^```(\w+)\n(.*?)^```\n(?:^```\n(.*?)^```\n)?/msg)
	{
		my ($not_run, $language, $sql, $expected) = ($1, $2, $3, $4);
		my ($line) = $sql =~ /^(.*)/;
		$param{shell}->($sql) if $language eq 'sh' && $param{shell};
		next if $not_run || $language ne 'sql';
		$sql = $param{change}->($sql) if $param{change};
		my @where = $param{where}->($sql);
		my $deadline = time + 10;
		my $answer = answer($sql, @where);
		$n++;
		if (!defined $expected)
		{
			unlike($answer, qr/^(?:ERROR|FATAL)/m, "$name: $line");
			next;
		}
		while ($sql =~ /^SELECT/ && $answer ne plain($expected) && time < $deadline)
		{
			sleep 0.1;
			$answer = answer($sql, @where);
		}
		$shown++;
		is($answer, plain($expected), "$name, with its answer: $line");
	}
	cmp_ok($n, '>', 20, "$name: the test finds statements");
	cmp_ok($shown, '>', 10, 'and answers');
	return;
}

$node->safe_psql('postgres', 'CREATE DATABASE page');
$node->safe_psql('page', 'CREATE EXTENSION pg_weir');
run_page('event-time.md', where => sub { return qw(-d page) });
$node->safe_psql('postgres', 'DROP DATABASE page');

my $address = $broker->bootstrap;
run_page('tutorial.md',
	where => sub { return $_[0] =~ /CREATE DATABASE/ ? qw(-d postgres) : qw(-d tutorial -U app) },
	# no password, and the address of this broker
	change => sub { return $_[0] =~ s/localhost:9092/$address/r =~ s/^CREATE USER MAPPING.*?;$//rmsg =~ s/^\\c tutorial app$//rm },
	shell => sub { if ($_[0] =~ /pg_ctl restart -m immediate/) { $node->stop('immediate'); $node->start; $node->wait_ready } });

# ---- the pictures
{
	$ENV{PGDATABASE} = 'pictures';
	$node->safe_psql('postgres', 'CREATE DATABASE pictures');
	is(system($^X, "$docs/pictures/draw", $directory), 0, 'the pictures are drawn');
	my @pictures = map { s{.*/}{}r } glob("$docs/pictures/*.svg");
	cmp_ok(@pictures, '>=', 8, 'pictures: the test finds them');
	is(slurp("$directory/$_"), slurp("$docs/pictures/$_"), "$_ is as committed") for @pictures;
	is($node->safe_psql('pictures', q{SELECT count(*) FROM pg_namespace WHERE nspname = 'pictures'}), '0', 'nothing stays');
}

done_testing();
