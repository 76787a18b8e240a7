/*-------------------------------------------------------------------------
 *
 * window.c
 *	  The arithmetic of windows: edges, panes, and what holds what.
 *
 * Two callers.  The functions that SQL calls (window_functions.c) come with their
 * arguments in any query, and the worker, which has the constant ones from the
 * plan, makes a WeirWindow once and asks weir_pane_of() for every row.  Both go
 * through the same few lines, because a view must show what the query would show.
 *
 * All edges of all windows lie on one ladder, and edge number u is
 *
 *	 physical sizes		origin + u microseconds
 *	 days				the instant of  local origin + u days
 *	 months				the instant of  local origin + u months
 *
 * with local times and their instants as calendar.c defines them.  Only the
 * sizes decide which of the three it is: '24 hours' is a physical size, and
 * '1 day' a calendar's.  Windows and panes are pairs of edges:
 *
 *					window n						pane p
 *	 tumble			[n size, (n + 1) size)			[p size, (p + 1) size)
 *	 hop			[n slide, n slide + size)		[p slide, (p + 1) slide)
 *		 or, when the size leaves a rest over whole slides, for p = 2 n, 2 n + 1
 *													[n slide, n slide + rest)
 *													[n slide + rest, (n + 1) slide)
 *	 cumulate		[m size, (n + 1) step)			[p step, (p + 1) step)
 *		 with m = n step / size, rounded down
 *	 session		-								[p gap, (p + 1) gap)
 *
 * Edges do not depend on the timestamp that is looked up, so all rows agree on
 * them; and they never decrease with u, so that which windows hold a pane can be
 * said in numbers, without looking at a clock.
 *
 *			hop(ts, 3, 7): rest 1, whole 2
 *
 *	  edge   0   1       3   4       6   7       9   10
 *	  pane   | 0 |   1   | 2 |   3   | 4 |   5   | 6 |
 *	  win 0  |===========================|				panes 0 to 4
 *	  win 1              |===========================|	panes 2 to 6
 *
 * With physical sizes one division finds the pane of a timestamp, otherwise the
 * local time says which edge is near and the edges themselves decide.
 *
 * What is not here: what slide, size and origin of a call mean (window_sizes.c),
 * whether a window is closed, and which rows make a session.
 *
 *-------------------------------------------------------------------------
 */
#include "window/window.h"

#include "common/int.h"
#include "utils/rangetypes.h"
#include "utils/timestamp.h"
#include "window/calendar.h"

static bool find_by_division(const WeirWindow *window, Timestamp ts,
							 int64 *pane, Timestamp *lower, Timestamp *upper);
static bool find_by_calendar(const WeirWindow *window, Timestamp ts,
							 int64 *pane, Timestamp *lower, Timestamp *upper);
static bool edges_are_valid(const WeirWindow *window, int64 pane,
							Timestamp lower, Timestamp upper);
static bool raw_bounds(const WeirWindow *window, int64 number,
					   Timestamp *lower, Timestamp *upper);
static bool edge(const WeirWindow *window, int64 slides, int64 units,
				 Timestamp *instant);

/* ---- from a timestamp to its pane ---- */

/*
 * See window.h.  Rows come roughly in the order of their times, so most are in
 * the pane of the row before.
 */
bool
weir_pane_of(WeirWindow *window, Timestamp ts, int64 *pane)
{
	Timestamp	lower;
	Timestamp	upper;

	if (ts >= window->last_lower && ts < window->last_upper)
	{
		*pane = window->last_pane;
		return true;
	}
	if (TIMESTAMP_NOT_FINITE(ts))
		return false;

	if (!(window->period != 0 ?
		  find_by_division(window, ts, pane, &lower, &upper) :
		  find_by_calendar(window, ts, pane, &lower, &upper)))
		return false;
	if ((lower < window->safe_from || upper > window->safe_until) &&
		!edges_are_valid(window, *pane, lower, upper))
		return false;

	window->last_pane = *pane;
	window->last_lower = lower;
	window->last_upper = upper;
	return true;
}

static bool
find_by_division(const WeirWindow *window, Timestamp ts,
				 int64 *pane, Timestamp *lower, Timestamp *upper)
{
	int64		number = ts / window->period;
	int64		since = ts % window->period;	/* the pane began */
	int64		length = window->period;

	if (since < 0)
	{
		since += window->period;
		number--;
	}
	since -= window->phase;
	if (since < 0)
	{
		since += window->period;
		number--;
	}

	*pane = number - window->phase_number;

	if (window->rest != 0)
	{
		/* half as many slides, of at least two microseconds: this fits */
		*pane *= 2;
		if (since < window->rest_micros)
			length = window->rest_micros;
		else
		{
			*pane += 1;
			since -= window->rest_micros;
			length -= window->rest_micros;
		}
	}
	return !pg_sub_s64_overflow(ts, since, lower) &&
		!pg_add_s64_overflow(*lower, length, upper);
}

/*
 * The local time says which edge is near, and the edges themselves decide.
 * The guess is off by one where the day or the time of day of ts comes before
 * the origin's, and while a clock that was set back repeats itself.
 */
static bool
find_by_calendar(const WeirWindow *window, Timestamp ts,
				 int64 *pane, Timestamp *lower, Timestamp *upper)
{
	Timestamp	local = weir_local_time(ts, window->zone);
	Timestamp	middle;
	int64		distance;
	int64		n;

	if (!(window->size_kind == WEIR_SIZE_DAYS ?
		  weir_days_between(window->origin, local, &distance) :
		  weir_months_between(window->origin, local, &distance)))
		return false;
	n = weir_floor_div(distance, window->slide);

	if (!edge(window, n, 0, lower))
		return false;
	while (ts < *lower)
	{
		if (!edge(window, --n, 0, lower))
			return false;
	}
	if (!edge(window, n + 1, 0, upper))
		return false;
	while (ts >= *upper)
	{
		*lower = *upper;
		if (!edge(window, ++n + 1, 0, upper))
			return false;
	}

	*pane = n;
	if (window->rest != 0)
	{
		if (!edge(window, n, window->rest, &middle))
			return false;
		*pane = 2 * n + (ts >= middle);
		if (ts < middle)
			*upper = middle;
		else
			*lower = middle;
	}
	return true;
}

/* Near the ends of the calendar: has each window of the pane valid edges? */
static bool
edges_are_valid(const WeirWindow *window, int64 pane,
				Timestamp lower, Timestamp upper)
{
	int64		first;
	int64		last;
	Timestamp	other;

	if (!IS_VALID_TIMESTAMP(lower) || !IS_VALID_TIMESTAMP(upper))
		return false;
	if (window->kind == WEIR_SESSION)
		return !pg_add_s64_overflow(upper, window->size, &upper) &&
			IS_VALID_TIMESTAMP(upper);

	weir_windows_of(window, pane, &first, &last);
	return first > last ||
		(raw_bounds(window, first, &lower, &other) &&
		 raw_bounds(window, last, &other, &upper));
}

/* ---- panes and windows by their numbers ---- */

/* See window.h. */
bool
weir_pane_bounds(const WeirWindow *window, int64 pane,
				 Timestamp *lower, Timestamp *upper)
{
	int64		from = 0;
	int64		to = window->slide;

	if (pane == window->last_pane && window->last_lower < window->last_upper)
	{
		*lower = window->last_lower;
		*upper = window->last_upper;
		return true;
	}
	if (window->rest != 0)
	{
		if (pane % 2 == 0)
			to = window->rest;
		else
			from = window->rest;
		pane = weir_floor_div(pane, 2);
	}
	return edge(window, pane, from, lower) && edge(window, pane, to, upper);
}

/* See window.h, and the picture above. */
void
weir_windows_of(const WeirWindow *window, int64 pane,
				int64 *first, int64 *last)
{
	bool		after_rest = true;

	Assert(window->kind != WEIR_SESSION);

	if (window->kind == WEIR_CUMULATE)
	{
		*first = pane;
		*last = weir_floor_div(pane, window->whole) * window->whole +
			window->whole - 1;
		return;
	}
	if (window->rest != 0)
	{
		after_rest = (pane % 2 != 0);
		pane = weir_floor_div(pane, 2);
	}
	*first = pane - window->whole + after_rest;
	*last = pane;
}

/* See window.h. */
bool
weir_window_bounds(const WeirWindow *window, int64 number,
				   Timestamp *lower, Timestamp *upper)
{
	Timestamp	step_lower;

	if (!raw_bounds(window, number, lower, upper))
		return false;
	if (window->kind == WEIR_CUMULATE && window->period == 0)
		return edge(window, number, 0, &step_lower) && step_lower < *upper;
	return true;
}

static bool
raw_bounds(const WeirWindow *window, int64 number,
		   Timestamp *lower, Timestamp *upper)
{
	int64		beginning = number;

	Assert(window->kind != WEIR_SESSION);

	if (window->kind == WEIR_CUMULATE)
	{
		beginning = weir_floor_div(number, window->whole) * window->whole;
		return edge(window, beginning, 0, lower) &&
			edge(window, number, window->slide, upper);
	}
	return edge(window, number, 0, lower) &&
		edge(window, number, window->size, upper);
}

/* See window.h. */
void
weir_panes_of(const WeirWindow *window, int64 number,
			  int64 *first, int64 *last)
{
	Assert(window->kind != WEIR_SESSION);

	*first = *last = number;
	if (window->kind == WEIR_CUMULATE)
		*first = weir_floor_div(number, window->whole) * window->whole;
	else if (window->rest != 0)
	{
		*first = 2 * number;
		*last = 2 * (number + window->whole);
	}
	else
		*last = number + window->whole - 1;
}

/* See window.h. */
int64
weir_holder_of(const WeirWindow *window, int64 number)
{
	Assert(window->kind != WEIR_SESSION);

	return window->rest != 0 ? 2 * number : number;
}

/* See window.h. */
bool
weir_window_held_by(const WeirWindow *window, int64 pane, int64 *number)
{
	if (window->kind == WEIR_SESSION ||
		(window->rest != 0 && pane % 2 != 0))
		return false;
	*number = (window->rest != 0 ? pane / 2 : pane);
	return true;
}

/*
 * The instant of the edge that is so many slides and units from the origin;
 * false if it is no valid timestamp.
 */
static bool
edge(const WeirWindow *window, int64 slides, int64 units, Timestamp *instant)
{
	int64		distance;
	Timestamp	local;

	if (pg_mul_s64_overflow(slides, window->slide, &distance) ||
		pg_add_s64_overflow(distance, units, &distance))
		return false;
	if (window->period != 0)
		return !pg_mul_s64_overflow(distance, window->unit, &distance) &&
			!pg_add_s64_overflow(window->origin, distance, instant) &&
			IS_VALID_TIMESTAMP(*instant);
	if (!(window->size_kind == WEIR_SIZE_DAYS ?
		  weir_add_days(window->origin, distance, &local) :
		  weir_add_months(window->origin, distance, &local)))
		return false;
	return weir_first_instant(local, window->zone, instant);
}

/* See window.h. */
Datum
weir_window_range(const WeirWindow *window, Timestamp lower, Timestamp upper)
{
	RangeBound	from = {0};
	RangeBound	to = {0};

	from.val = TimestampGetDatum(lower);
	from.inclusive = true;
	from.lower = true;
	to.val = TimestampGetDatum(upper);
	return RangeTypePGetDatum(weir_make_range(window->range_type, &from, &to));
}
