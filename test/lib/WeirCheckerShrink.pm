# WeirCheckerShrink: the smallest trace that still fails, as far as the time goes.
#
#     my $small = WeirCheckerShrink::shrink($trace, $seconds, sub { ... });
#
# The caller's code runs a trace and says whether it fails as the first one did.
# Parts are taken away as delta debugging does: halves, then quarters, until
# nothing that is left can go by itself.  First actions, then views, then what is
# in an action: messages, rows, steps; then aggregates, keys and options of views.
package WeirCheckerShrink;

use strict;
use warnings;

use JSON::PP ();
use Time::HiRes qw(time);

my $json = JSON::PP->new->canonical->allow_nonref;
sub copy { return $json->decode($json->encode($_[0])) }

# Lists in which things may be missing: [ what to set, its items, the least number ]
sub lists
{
	my ($trace) = @_;
	my @lists = ([ sub { $_[0]{actions} = $_[1] }, $trace->{actions}, 1 ], [ sub { $_[0]{views} = $_[1] }, $trace->{views}, 1 ]);
	for my $i (0 .. $#{ $trace->{actions} })
	{
		for my $part (grep { ref $trace->{actions}[$i]{$_} } qw(messages rows steps))
		{
			push @lists, [ sub { $_[0]{actions}[$i]{$part} = $_[1] }, $trace->{actions}[$i]{$part}, 1 ];
		}
		for my $j (grep { $trace->{actions}[$i]{steps}[$_][0] eq 'insert' } 0 .. $#{ $trace->{actions}[$i]{steps} || [] })
		{
			my ($what, @rows) = @{ $trace->{actions}[$i]{steps}[$j] };
			push @lists, [ sub { $_[0]{actions}[$i]{steps}[$j] = [ $what, @{ $_[1] } ] }, \@rows, 1 ];
		}
	}
	for my $i (0 .. $#{ $trace->{views} })
	{
		my $v = $trace->{views}[$i];
		# what a lossy view reads is how its rows are known
		push @lists, [ sub { $_[0]{views}[$i]{aggregates} = $_[1] }, $v->{aggregates}, 1 ] if $v->{class} ne 'lossy';
		push @lists, [ sub { $_[0]{views}[$i]{keys} = $_[1] }, $v->{keys}, 1 ];
		for my $part (grep { defined $v->{$_} } qw(where having))
		{
			push @lists, [ sub { $_[0]{views}[$i]{$part} = $_[1][0] }, [ $v->{$part} ], 0 ];
		}
	}
	return @lists;
}

sub shrink
{
	my ($trace, $seconds, $fails) = @_;
	my $until = time + $seconds;
	my $smaller = 1;
	$trace = copy($trace);
	while ($smaller && time < $until)
	{
		$smaller = 0;
		my $n = () = lists($trace);
		for (my $l = 0; $l < $n && time < $until; $l++)
		{
			# a list that has shrunk may have taken others with it
			my @lists = lists($trace);
			last if $l > $#lists;
			my ($set, $items, $least) = @{ $lists[$l] };
			my $kept = ddmin($items, $least, $until, sub {
				my $candidate = copy($trace);
				$set->($candidate, $_[0]);
				return $fails->($candidate);
			});
			next if @$kept == @$items;
			$set->($trace, $kept);
			$smaller = 1;
			$n = () = lists($trace);
		}
	}
	return $trace;
}

sub ddmin
{
	my ($items, $least, $until, $fails) = @_;
	my @items = @$items;
	my $parts = 2;
	while (@items > $least && time < $until)
	{
		my $size = int((@items + $parts - 1) / $parts);
		my $found = 0;
		# from the end: what comes after the failure goes first
		for (my $to = @items; $to > 0 && time < $until; $to -= $size)
		{
			my $from = $to > $size ? $to - $size : 0;
			my @rest = (@items[ 0 .. $from - 1 ], @items[ $to .. $#items ]);
			next if @rest < $least || @rest == @items;
			next unless $fails->(\@rest);
			@items = @rest;
			$found = 1;
		}
		last if !$found && $size == 1;
		$parts = $found ? 2 : $parts * 2;
		$parts = @items if $parts > @items;
	}
	return \@items;
}

1;
