/*-------------------------------------------------------------------------
 *
 * window_sizes.c
 *	  What slide, size, origin and zone of a window function mean.
 *
 * Receives the arguments of a call, from window_functions.c, and makes a
 * WeirWindow of them, or refuses them.  window.c computes with it.
 *
 * Which fields of an interval are set decides what it measures:
 *
 *	 '90 minutes'	physical time, counted from the origin
 *	 '1 day'		days of the zone, of 23 to 25 hours
 *	 '1 month'		months of the zone
 *
 * Slide and size are measured alike, or edges would not lie on one ladder.
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
 *-------------------------------------------------------------------------
 */
#include "window/window.h"

#include "catalog/pg_type.h"
#include "common/int.h"
#include "utils/builtins.h"
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
	WeirSizeKind kind;
	int			fields;

	if (!weir_interval_is_finite(interval))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s %s must be finite", what, noun),
				 errhint("For one window over everything leave the window function out.")));
	fields = (interval->month != 0) + (interval->day != 0) +
		(interval->time != 0);
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
