# The documentation is held against the code: what the code has must be in the
# docs, and what the docs name must exist.  Needs no server and no build.
#
# It reads source text with patterns that fit how this project writes it.  Each
# list that it finds must have at least so many entries, so that a pattern that
# has stopped matching fails and does not pass for want of anything to check.
use strict;
use warnings;

use Cwd qw(abs_path);
use File::Basename qw(dirname);
use File::Find;
use FindBin;
use Test::More;

chdir abs_path("$FindBin::Bin/../..") or die "chdir: $!";

sub slurp
{
	my ($name) = @_;
	open my $fh, '<:encoding(UTF-8)', $name or die "$name: $!";
	local $/;
	return <$fh>;
}

# missing(what, at least, names, how to find one): the names that are not found
sub all_found
{
	my ($what, $least, $names, $found) = @_;
	my %seen;
	my @names = grep { !$seen{$_}++ } @$names;
	cmp_ok(@names, '>=', $least, "$what: the test finds them")
	  or diag("found only: @names");
	is_deeply([ grep { !$found->($_) } @names ], [], "$what: all are there");
}

my @sources;
find({ no_chdir => 1, wanted => sub { push @sources, $_ if /\.[ch]$/ } }, 'src');
@sources = sort @sources;
my %text = map { $_ => slurp($_) } @sources;
my $script = slurp('pg_weir--0.1.sql');
my $reference = slurp('docs/reference.md');

sub in_reference
{
	my ($name) = @_;
	return $reference =~ /`\Q$name\E`/;
}

# ---- the map of files in src/README is complete, both ways
{
	my %in_map = map { ("src/$_" => 1) }
	  slurp('src/README') =~ /^    ([a-z_\/0-9]+\.[ch])  /mg;
	all_found('files in the map', 70, \@sources, sub { $in_map{ $_[0] } });
	all_found('files of the map', 70, [ keys %in_map ], sub { $text{ $_[0] } });
}

# ---- settings
{
	my @names = map { /DefineCustom\w+Variable\(\s*"([^"]+)"/g }
	  map { $text{$_} } grep { !/fault_point/ } @sources;
	all_found('settings', 4, \@names, \&in_reference);
}

# ---- options of views
{
	my ($table) = $text{'src/catalog/view_options.c'} =~
	  /OptionKind kinds\[\] = \{(.*?)\n\};/s;
	my @names = map { "weir.$_" } $table =~ /^\t\{"(\w+)"/mg;
	all_found('options of views', 15, \@names, \&in_reference);
	my @pinned = $text{'src/catalog/create_view.c'} =~
	  /pinned_settings\[\] = \{(.*?)\};/s;
	my $concepts = slurp('docs/concepts.md');
	all_found('pinned settings', 10, [ "@pinned" =~ /"(\w+)"/g ],
		sub { $concepts =~ /\b$_[0]\b/ });
}

# ---- options of servers, mappings, tables and columns
{
	my ($table) = $text{'src/source/kafka_options.c'} =~
	  /KafkaOption kafka_options\[\] = \{(.*?)\n\};/s;
	my @names = $table =~ /^\t\{"(\w+)"/mg;
	all_found('options of foreign tables', 40, \@names, \&in_reference);
	# and no option is documented that there is not
	my ($chapter) = $reference =~ /^### Server options\n(.*?)^### Formats/ms;
	my %known = map { $_ => 1 } @names,
	  qw(key partition offset timestamp headers);
	all_found('documented options', 40, [ $chapter =~ /^\| `(\w+)`/mg ],
		sub { $known{ $_[0] } });
}

# ---- functions and relations of schema weir
{
	my @functions =
	  map { /^weir_data\./ ? () : s/^(?!weir\.)/weir./r }
	  $script =~ /^CREATE FUNCTION ([\w.]+)\(/mg;
	all_found('functions', 10, \@functions,
		sub { $reference =~ /`\Q$_[0]\E\(/ });
	my @relations = $script =~ /^CREATE (?:TABLE|VIEW) (weir\.\w+)/mg;
	all_found('relations', 5, \@relations, \&in_reference);

	# their columns, as far as the last name before a comma tells
	for my $relation (@relations)
	{
		my ($chapter) = $reference =~ /^### `\Q$relation\E`\n(.*?)^##/ms;
		ok($chapter, "$relation has a chapter") or next;
		my ($query) = $script =~ /^CREATE VIEW \Q$relation\E .*?\n(.*?);\n/ms;
		my ($list) = $query =~ /(?:SELECT \* FROM \(\n)?SELECT (.*?)\nFROM /s;
		my @columns = $list =~ /(?:\bAS |^\t|^)(?:\w\.)?"?(\w+)"?,?$/mg;
		push @columns, $list =~ / AS (\w+)/g;
		all_found("columns of $relation", 5,
			[ grep { !/^(?:WHEN|CASE|END|float8)$/ } @columns ],
			sub { $chapter =~ /`$_[0]`/ });
	}
}

# ---- what the sources promise
{
	is_deeply(
		[ grep { $text{$_} =~ /PG_VERSION_NUM/ } @sources ],
		['src/compat.h'], 'PG_VERSION_NUM occurs in compat.h alone');

	my (@without, $n);
	for my $file (@sources)
	{
		my $source = $text{$file};
		$source =~ s{/\*.*?\*/}{}gs;
		while ($source =~ /\bereport\(\s*(?:ERROR|FATAL|PANIC),(.{0,200})/gs)
		{
			my $rest = $1;
			$n++;
			push @without, "$file: " . substr($rest, 0, 60)
			  unless $rest =~ /^\s*\(\s*errcode(?:_for_\w+)?\(/;
		}
	}
	cmp_ok($n, '>', 100, 'ereport(ERROR): the test finds them');
	is_deeply(\@without, [], 'each has an errcode first');
}

# ---- the messages of errors are in the reference
#
# The beginning of a message up to its first placeholder, or if that is too
# little, its longest part between placeholders.
{
	my %not_for_users = map { $_ => 1 } qw(
	  src/runtime/fault_point.c src/catalog/describe_plan.c);
	my $text = $reference;
	$text =~ s/`//g;
	$text =~ s/\s+/ /g;
	my @missing;
	my $n = 0;
	for my $file (grep { !$not_for_users{$_} } @sources)
	{
		my $source = $text{$file};
		while ($source =~ /\berrmsg\(((?:"(?:[^"\\]|\\.)*"\s*)+)/g)
		{
			my $message = join '', $1 =~ /"((?:[^"\\]|\\.)*)"/g;
			my ($part) = sort { length $b <=> length $a }
			  split /%(?:\.\*)?(?:ll?|z)?[a-zA-Z]|INT64_FORMAT|\\"|: %m|;/, $message;
			$n++;
			next if $message =~ /^%s(?:: %s)?$/;	# somebody else's words
			$part =~ s/^\s+|\s+$//g;
			my $known = index($text, $part) >= 0;
			# families that the reference names by their beginning
			$known ||= $message =~ /^(?:continuous views|a continuous view|window size must be|invalid value for option|column \\"%s\\" of a continuous view)/;
			$known ||= $message =~ /^(?:table|view|relation|materialized view|foreign table) .*(?:cannot be the source|is not a source)/;
			$known ||= $message =~ /is not a source of continuous views|RESET must not include|skipping$|expected one/;
			# between the parts of a worker, never shown
			$known ||= $message =~ /^the (?:view was dropped|definition of the view has changed|state table was rewritten|rows of the view have moved)$/;
			push @missing, "$file: $message" unless $known;
		}
	}
	cmp_ok($n, '>', 90, 'errmsg: the test finds them');
	is_deeply(\@missing, [], 'the reference lists each error')
	  or diag(map { "$_\n" } @missing);
}

# ---- links
{
	my @documents = ('README.md', 'CHANGELOG.md', 'SECURITY.md', glob('docs/*.md'));
	my (@broken, $n);
	my %anchors;
	for my $document (@documents)
	{
		my $body = slurp($document);
		$body =~ s/^```.*?^```//msg;
		# as GitHub makes them: lower case, punctuation away, spaces to hyphens
		my %anchor = map { $_ => 1 } map {
			my $a = lc;
			$a =~ s/[^\w\- ]//g;
			$a =~ s/ /-/g;
			$a
		} $body =~ /^#+ (.*)$/mg;
		$anchors{$document} = \%anchor;
	}
	for my $document (@documents)
	{
		my $body = slurp($document);
		$body =~ s/^```.*?^```//msg;
		while ($body =~ /\[[^\]]*\]\(([^)\s]+)\)/g)
		{
			my ($file, $anchor) = split /#/, $1, 2;
			$n++;
			next if $file =~ /^https?:/;
			my $target = $file eq '' ? $document :
			  dirname($document) . '/' . $file;
			$target =~ s{^\./}{};
			1 while $target =~ s{[^/]+/\.\./}{};
			push @broken, "$document: $1" unless -e $target;
			push @broken, "$document: $1"
			  if defined $anchor && $anchors{$target} && !$anchors{$target}{$anchor};
		}
	}
	cmp_ok($n, '>', 25, 'links: the test finds them');
	is_deeply(\@broken, [], 'no link is broken');
}

# ---- operators in SQL of ours are qualified
#
# The script's, and those in strings of the sources that look like SQL.
{
	my $bare = qr/(?<![:\w])\s(?:=|<>|<=|>=|<|>|\|\||!?~\*?)\s/;
	my $sql = $script;
	$sql =~ s/--.*//g;
	my @statements = split /\n/, $sql;
	for my $file (@sources)
	{
		my $source = $text{$file};
		$source =~ s{/\*.*?\*/}{}gs;
		push @statements, grep { /\b(?:WHERE|AND|ON|SELECT|UPDATE)\b/ }
		  $source =~ /(?<!errmsg\()(?<!errhint\()(?<!errdetail\()"((?:[^"\\]|\\.)*)"/g;
	}
	my $qualified = () = "@statements" =~ /OPERATOR\(pg_catalog\.[^)]+\)/g;
	cmp_ok($qualified, '>', 80, 'operators: the test finds them');
	is_deeply(
		[ grep {
				my $line = $_;
				# no operators: settings, options, columns that are set
				$line =~ s/\b(?:search_path|fillfactor|ERRCODE|HINT|DETAIL) = //g;
				$line =~ s/(?:\bSET |, )\w+ = //g;
				$line =~ s/^\s*\w+ = //;
				" $line " =~ $bare;
			} @statements ],
		[], 'operators are qualified');
}

# ---- tests that are named exist, down to the part that is named
{
	my $faults = slurp('docs/faults.md');
	my @named = ($faults . slurp('src/README') . slurp('docs/operations.md')) =~ m{`?((?:test/t|sql|test/specs|test/setup)/[\w.]+\w(?:: [^`\n]+)?)`?}g;
	my %body;
	all_found('tests that the docs name', 100, \@named, sub {
		my ($file, $part) = split /: /, $_[0], 2;
		return 0 unless -e $file;
		return 1 unless defined $part;
		$body{$file} = slurp($file) unless defined $body{$file};
		return index($body{$file}, $part) >= 0;
	});

	# every row of a table of faults has one, or says that it has none
	my @rows = grep { /^\| / && !/^\|(?: \|)* \||^\| (?:Fault|---)/ } split /\n/, $faults;
	my @without = grep { !m{`(?:test/t|sql|test/specs|test/setup)/} } grep { !/Tests? \|$/ } @rows;
	cmp_ok(scalar @rows, '>', 80, 'rows of faults: the test finds them');
	is_deeply(\@without, [], 'each has a test');

	# each invariant has a test of its name, here and in the sources' map
	my $map = slurp('src/README');
	my @invariants = $map =~ /^([A-Z][A-Z ]+[A-Z])  /mg;
	all_found('invariants', 12, \@invariants,
		sub { $faults =~ m{^\| $_[0] \|.*`test/t/056_invariants\.pl: $_[0]`}m });
	is(scalar @invariants, 12, 'twelve of them');
	my @tested = $map =~ /^    Tested: (.*(?:\n        .*)*)/mg;
	is(scalar(grep { m{test/t/056_invariants\.pl} } @tested), 12, 'each says which test has its name');
}

done_testing();
