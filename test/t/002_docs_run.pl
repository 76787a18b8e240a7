# What docs/event-time.md shows is what happens: its statements are run, from top to
# bottom, and must answer what the page says; its pictures are drawn again, and must be
# the ones that are committed, to the byte.
use strict;
use warnings;

use Cwd qw(abs_path);
use FindBin;
use IPC::Run ();
use PostgreSQL::Test::Utils;
use Test::More;
use WeirNode;

my $docs = abs_path("$FindBin::Bin/../../docs");
my $node = WeirNode->start_new('main');
my $directory = PostgreSQL::Test::Utils::tempdir();

sub slurp
{
	my ($name) = @_;
	open my $fh, '<:encoding(UTF-8)', $name or return "no $name";
	local $/;
	return <$fh>;
}

$ENV{$_->[0]} = $_->[1] for [ PGHOST => $node->host ], [ PGPORT => $node->port ], [ PGDATABASE => 'page' ], [ PGTZ => 'UTC' ];

# psql as a person sees it, but for notices
sub answer
{
	my ($sql) = @_;
	my $file = "$directory/statements.sql";
	open my $fh, '>:encoding(UTF-8)', $file or die "$file: $!";
	print $fh $sql;
	close $fh;
	my ($out, $err);
	IPC::Run::run([ qw(psql -X -q -v ON_ERROR_STOP=1 -f), $file ], '<', \'', '>', \$out, '2>', \$err);
	$err =~ s/^psql:\S*: //mg;
	$out =~ s/\n+\z/\n/;
	return $out . join '', map { "$_\n" } grep { /^(?:ERROR|FATAL)/ } split /\n/, $err;
}

# ---- the page
{
	$node->safe_psql('postgres', 'CREATE DATABASE page');
	$node->safe_psql('page', 'CREATE EXTENSION pg_weir');
	my $page = slurp("$docs/event-time.md");
	my ($n, $shown) = (0, 0);
	while ($page =~ /(<!-- not run[^\n]*-->\n)?^```sql\n(.*?)^```\n(?:^```\n(.*?)^```\n)?/msg)
	{
		my ($not_run, $sql, $expected) = ($1, $2, $3);
		next if $not_run;
		my ($line) = $sql =~ /^(.*)/;
		my $answer = answer($sql);
		$n++;
		unlike($answer, qr/^(?:ERROR|FATAL)/m, "no error: $line") or last;
		next unless defined $expected;
		$shown++;
		is($answer, $expected, "as shown: $line");
	}
	cmp_ok($n, '>', 20, 'the page: the test finds statements');
	cmp_ok($shown, '>', 10, 'and answers');
}

# ---- its pictures
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
