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
 *	  edge	0   1       3   4       6   7       9  10
 *	  pane	| 0 |   1   | 2 |   3   | 4 |   5   | 6 |
 *	  win 0	|===========================|				panes 0 to 4
 *	  win 1			    |===========================|	panes 2 to 6
 *
 * WeirWindow.origin is an instant for physical sizes and a local time for the
 * calendar's.  By default it is 2000-01-03 00:00 on the clock of the zone, a
 * Monday, so that weeks begin on Mondays; for months 2000-01-01 00:00.  Of
 * sessions the panes are nobody's business, and begin at 2000-01-01 in UTC.
 *
 * A zone whose clock never changes (UTC, the default) has days of 24 hours, and
 * so has a timestamp without a zone.  There days are computed like physical
 * sizes, with one division instead of a search.
 *
 * What is not here: whether a window is closed, and which rows make a session.
 *
 *-------------------------------------------------------------------------
 */
#include "window/window.h"

#include "catalog/pg_type.h"
#include "common/int.h"
#include "utils/builtins.h"
#include "utils/rangetypes.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"
#include "window/calendar.h"

/* 2000-01-03, a Monday, is two days after the epoch of timestamps. */
#define DEFAULT_ORIGIN (2 * USECS_PER_DAY)
#define DEFAULT_ORIGIN_MONTHS INT64CONST(0)

/*
 * Slides in a size.  Far beyond what is useful, and so little beside the range of
 * int64 that sums of numbers of windows cannot overflow.
 */
#define MAX_WHOLE 1000000

static void take_sizes(WeirWindow *window, const WeirWindowArguments *arguments);
static WeirSizeKind measure(const WeirWindow *window, const Interval *interval,
							const char *noun, int64 *length);
static void settle_kinds(WeirWindow *window, WeirSizeKind slide_kind,
						 WeirSizeKind size_kind);
static void measure_gap(WeirWindow *window, WeirSizeKind kind);
static void divide_size(WeirWindow *window);
static void place_origin(WeirWindow *window, const Timestamp *origin);
static void use_period(WeirWindow *window, Timestamp origin);
static void find_safe_stretch(WeirWindow *window);
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

/* ---- making a window ---- */

/* Everything that does not depend on the timestamp.  See window.h. */
void
weir_window_make(WeirWindow *window, WeirWindowKind kind, bool with_zone,
				 const WeirWindowArguments *arguments)
{
	memset(window, 0, sizeof(*window));
	window->kind = kind;
	window->with_zone = with_zone;
	window->range_type = lookup_type_cache(with_zone ? TSTZRANGEOID : TSRANGEOID,
										   TYPECACHE_RANGE_INFO);
	if (arguments->zone != NULL)
		window->zone = weir_zone(text_to_cstring(arguments->zone));
	take_sizes(window, arguments);
	place_origin(window, arguments->origin);
	find_safe_stretch(window);
}

static void
take_sizes(WeirWindow *window, const WeirWindowArguments *arguments)
{
	WeirSizeKind slide_kind;
	WeirSizeKind size_kind;

	size_kind = measure(window, arguments->size,
						window->kind == WEIR_SESSION ? "gap" : "size",
						&window->size);
	if (window->kind == WEIR_SESSION)
		measure_gap(window, size_kind);
	else
		window->size_kind = size_kind;

	if (weir_window_is_set(window->kind))
	{
		slide_kind = measure(window, arguments->slide,
							 weir_slide_noun(window->kind), &window->slide);
		settle_kinds(window, slide_kind, size_kind);
	}
	else
		window->slide = window->size;
	divide_size(window);
}

/* Which fields of the interval are set decides what the size means. */
static WeirSizeKind
measure(const WeirWindow *window, const Interval *interval, const char *noun,
		int64 *length)
{
	const char *what = (window->kind == WEIR_SESSION ? "session" : "window");
	int			fields = (interval->month != 0) + (interval->day != 0) +
		(interval->time != 0);
	WeirSizeKind kind;

	if (!weir_interval_is_finite(interval))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s %s must be finite", what, noun),
				 errhint("For one window over everything leave the window function out.")));
	if (fields > 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s %s must be of one kind", what, noun),
				 errdetail("Months, days and hours have no fixed ratio to one another, and \"%s\" mixes them.",
						   DatumGetCString(DirectFunctionCall1(interval_out,
															   IntervalPGetDatum(interval)))),
				 window->kind == WEIR_SESSION ?
				 errhint("Use days or weeks alone, or hours and less.") :
				 errhint("Use months or years alone, days or weeks alone, or hours and less.")));

	if (interval->month != 0)
	{
		kind = WEIR_SIZE_MONTHS;
		*length = interval->month;
	}
	else if (interval->day != 0)
	{
		kind = WEIR_SIZE_DAYS;
		*length = interval->day;
	}
	else
	{
		kind = WEIR_SIZE_PHYSICAL;
		*length = interval->time;
	}

	if (*length <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s %s must be greater than zero", what, noun),
				 errhint("Give the %s as a positive interval, such as '1 minute'.",
						 noun)));
	return kind;
}

/*
 * The ladder of edges is of one kind.  Hours beside days can be had where each
 * day has 24 of them.
 */
static void
settle_kinds(WeirWindow *window, WeirSizeKind slide_kind,
			 WeirSizeKind size_kind)
{
	const char *noun = weir_slide_noun(window->kind);
	int64	   *days = (slide_kind == WEIR_SIZE_DAYS ?
						&window->slide : &window->size);
	int64		offset;

	if (slide_kind == size_kind)
		return;
	if (slide_kind == WEIR_SIZE_MONTHS || size_kind == WEIR_SIZE_MONTHS)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s and size of a window must be of one kind", noun),
				 errdetail("Months have no fixed number of days or hours."),
				 errhint("Give both in months or years, both in days or weeks, or both in hours and less.")));
	if (!weir_zone_is_fixed(window->zone, &offset))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s and size of a window must be of one kind", noun),
				 errdetail("In time zone \"%s\" days do not always have 24 hours.",
						   pg_get_timezone_name(window->zone)),
				 errhint("Write '24 hours' in place of '1 day'.")));

	if (pg_mul_s64_overflow(*days, USECS_PER_DAY, days))
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
				 errmsg("window is out of range"),
				 errhint("Choose a smaller size or %s.", noun)));
	window->size_kind = WEIR_SIZE_PHYSICAL;
}

/* The gap lies between two rows and not on a calendar: a day is 24 hours. */
static void
measure_gap(WeirWindow *window, WeirSizeKind kind)
{
	if (kind == WEIR_SIZE_MONTHS)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("session gap must not be in months"),
				 errdetail("Months differ in length, and a gap has one length."),
				 errhint("Give the gap in days, where a day is 24 hours, or in hours and less.")));
	if (kind == WEIR_SIZE_DAYS &&
		pg_mul_s64_overflow(window->size, USECS_PER_DAY, &window->size))
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
				 errmsg("window is out of range"),
				 errhint("Choose a smaller gap.")));
	window->size_kind = WEIR_SIZE_PHYSICAL;
}

static void
divide_size(WeirWindow *window)
{
	window->whole = window->size / window->slide;
	window->rest = window->size % window->slide;
	if (window->kind == WEIR_CUMULATE && window->rest != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("size of a cumulating window must be a multiple of its step"),
				 errhint("Give a size such as '1 hour' with a step such as '5 minutes'.")));
	if (window->whole > MAX_WHOLE)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("size of a window must not be more than %d times its %s",
						MAX_WHOLE, weir_slide_noun(window->kind)),
				 errdetail("Each row would be in that many windows."),
				 errhint("Choose a smaller size, or a larger %s.",
						 weir_slide_noun(window->kind))));
}

static void
place_origin(WeirWindow *window, const Timestamp *origin)
{
	int64		offset;
	int64		longest;
	bool		fits = !pg_mul_s64_overflow(Max(window->size, window->slide),
											USECS_PER_DAY, &longest);

	if (origin != NULL && TIMESTAMP_NOT_FINITE(*origin))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("origin of a window must be finite"),
				 errhint("Leave the argument out for the default.")));

	if (window->size_kind == WEIR_SIZE_PHYSICAL)
	{
		Timestamp	instant = 0;

		if (origin != NULL)
			instant = *origin;
		else if (window->kind != WEIR_SESSION &&
				 !weir_first_instant(DEFAULT_ORIGIN, window->zone, &instant))
			elog(ERROR, "time zone has no 2000-01-03");
		window->unit = 1;
		use_period(window, instant);
		return;
	}

	if (origin != NULL)
		window->origin = weir_local_time(*origin, window->zone);
	else if (window->size_kind == WEIR_SIZE_DAYS)
		window->origin = DEFAULT_ORIGIN;
	else
		window->origin = DEFAULT_ORIGIN_MONTHS;

	if (window->size_kind == WEIR_SIZE_DAYS && fits &&
		weir_zone_is_fixed(window->zone, &offset))
	{
		window->unit = USECS_PER_DAY;
		use_period(window, window->origin - offset);
	}
}

/*
 * The ladder is origin + u * unit.  Of the origin only the remainder matters,
 * and with it in [0, size) or [0, slide) no difference below can overflow.  It is
 * the size for cumulating windows: each beginning is a size from the last.
 */
static void
use_period(WeirWindow *window, Timestamp origin)
{
	int64		turn;

	turn = (window->kind == WEIR_CUMULATE ? window->size : window->slide) *
		window->unit;
	window->origin = origin - weir_floor_div(origin, turn) * turn;
	window->period = window->slide * window->unit;
	window->phase = window->origin % window->period;
	window->phase_number = window->origin / window->period;
	window->rest_micros = window->rest * window->unit;
}

/*
 * The edges of a window are within a size of any pane in it: so far from the ends
 * of the calendar nobody need look.  Of calendar units the longest are counted,
 * and two days for what clocks do.
 */
static void
find_safe_stretch(WeirWindow *window)
{
	int64		unit = window->unit;
	int64		reach = 0;

	window->safe_from = PG_INT64_MAX;
	window->safe_until = PG_INT64_MIN;
	if (unit == 0)
		unit = (window->size_kind == WEIR_SIZE_MONTHS ? 31 : 1) * USECS_PER_DAY;
	if (window->kind != WEIR_TUMBLE &&
		(pg_mul_s64_overflow(window->size, unit, &reach) ||
		 pg_add_s64_overflow(reach, 2 * USECS_PER_DAY, &reach)))
		return;
	window->safe_from = MIN_TIMESTAMP + reach;
	window->safe_until = END_TIMESTAMP - 1 - reach;
}

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
