/*-------------------------------------------------------------------------
 *
 * window.c
 *	  weir.tumble: the one window of a fixed size that holds a timestamp.
 *
 * Two callers.  SQL calls weir.tumble(ts, size, origin, tz) in any query, and
 * the worker, which has the constant arguments from the plan, prepares a
 * WeirWindow once and asks weir_tumble_assign() for every row.  Both go through
 * the same few lines, because a view must show what the query would show.
 *
 * Windows are the stretches between neighbouring edges, and edge number n is
 *
 *	 physical size		origin + n * size
 *	 days				the instant of  local origin + n * size days
 *	 months				the instant of  local origin + n * size months
 *
 * with local times and their instants as calendar.c defines them.  Only the
 * size decides which of the three it is: '24 hours' is a physical size, and
 * '1 day' a calendar's.  Edges do not depend on the timestamp that is looked
 * up, so all rows agree on them, and windows neither overlap nor leave gaps.
 *
 * WeirWindow.origin is an instant for physical sizes and a local time for the
 * calendar's.  By default it is 2000-01-03 00:00 on the clock of the zone, a
 * Monday, so that weeks begin on Mondays; for months 2000-01-01 00:00.
 *
 * A zone whose clock never changes (UTC, the default) has days of 24 hours, and
 * so has a timestamp without a zone.  There days are computed like physical
 * sizes, with one division instead of a search.
 *
 * What is not here: sliding and growing windows, sessions, and whether a window
 * is closed.
 *
 *-------------------------------------------------------------------------
 */
#include "window/window.h"

#include "access/htup_details.h"
#include "access/transam.h"
#include "catalog/pg_language.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "common/int.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/rangetypes.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"
#include "window/calendar.h"

/* 2000-01-03, a Monday, is two days after the epoch of timestamps. */
#define DEFAULT_ORIGIN (2 * USECS_PER_DAY)
#define DEFAULT_ORIGIN_MONTHS INT64CONST(0)

#define SYMBOL_WITH_ZONE "weir_tumble_timestamptz"
#define SYMBOL_WITHOUT_ZONE "weir_tumble_timestamp"
#define LIBRARY "$libdir/pg_weir"

/*
 * What an SQL call keeps in fn_extra: the arguments that it was prepared for,
 * and the result.  Arguments are nearly always constants.
 */
typedef struct TumbleCall
{
	Interval	size;
	bool		default_origin;
	Timestamp	origin;
	text	   *zone;			/* NULL without a zone */
	WeirWindow	tumble;
} TumbleCall;

static void prepare(WeirWindow *tumble, const Interval *size,
					const Timestamp *origin, const text *zone);
static void classify_size(WeirWindow *tumble, const Interval *size);
static void use_period(WeirWindow *tumble, int64 period, Timestamp origin);
static bool assign_calendar(const WeirWindow *tumble, Timestamp ts, int64 *pane,
							Timestamp *lower, Timestamp *upper);
static bool edge(const WeirWindow *tumble, int64 n, Timestamp *instant);
static TumbleCall *call_cache(FunctionCallInfo fcinfo, bool with_zone);
static bool same_arguments(const TumbleCall *call, const Interval *size,
						   const Timestamp *origin, const text *zone);
static Datum tumble_datum(WeirWindow *tumble, Timestamp ts);

PG_FUNCTION_INFO_V1(weir_tumble_timestamptz);
PG_FUNCTION_INFO_V1(weir_tumble_timestamp);

/*
 * Recognised by the library and the symbol, and not by name: only superusers
 * create functions in C, so whatever passes runs the code below, and a user's
 * own "tumble" in another schema does not.
 */
WeirWindowKind
weir_window_kind(Oid funcid)
{
	HeapTuple	tuple;
	bool		result = false;

	if (funcid < FirstNormalObjectId)
		return WEIR_NO_WINDOW;
	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(funcid));
	if (!HeapTupleIsValid(tuple))
		return WEIR_NO_WINDOW;
	if (((Form_pg_proc) GETSTRUCT(tuple))->prolang == ClanguageId)
	{
		bool		no_symbol;
		bool		no_library;
		Datum		symbol;
		Datum		library;

		symbol = SysCacheGetAttr(PROCOID, tuple, Anum_pg_proc_prosrc, &no_symbol);
		library = SysCacheGetAttr(PROCOID, tuple, Anum_pg_proc_probin, &no_library);
		if (!no_symbol && !no_library)
		{
			char	   *name = TextDatumGetCString(symbol);

			result = (strcmp(name, SYMBOL_WITH_ZONE) == 0 ||
					  strcmp(name, SYMBOL_WITHOUT_ZONE) == 0) &&
				strcmp(TextDatumGetCString(library), LIBRARY) == 0;
		}
	}
	ReleaseSysCache(tuple);
	return result ? WEIR_TUMBLE : WEIR_NO_WINDOW;
}

/*
 * See window.h.  The call has been through the planner, which has put the
 * defaults in the places of arguments left out.
 */
void
weir_window_prepare(WeirWindow *tumble, FuncExpr *call)
{
	bool		with_zone = (call->funcresulttype == TSTZRANGEOID);
	Const	   *size;
	Const	   *origin;
	Const	   *zone = NULL;
	Timestamp	origin_value = 0;

	if (list_length(call->args) != (with_zone ? 4 : 3))
		elog(ERROR, "unexpected number of arguments of a window function: %d",
			 list_length(call->args));
	size = lsecond_node(Const, call->args);
	origin = lthird_node(Const, call->args);
	if (with_zone)
		zone = lfourth_node(Const, call->args);

	/* The SQL function returns NULL here, for every row: nobody means that. */
	if (size->constisnull)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("window size must not be null"),
				 errhint("Give the size as an interval, such as '1 minute'.")));
	if (with_zone && zone->constisnull)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("time zone of a window must not be null"),
				 errhint("Leave the argument out for UTC.")));

	if (!origin->constisnull)
		origin_value = DatumGetTimestamp(origin->constvalue);
	prepare(tumble, DatumGetIntervalP(size->constvalue),
			origin->constisnull ? NULL : &origin_value,
			with_zone ? DatumGetTextPP(zone->constvalue) : NULL);
}

/*
 * Everything about a window function that does not depend on the timestamp.
 * origin is NULL for the default, zone for timestamps without one.
 */
static void
prepare(WeirWindow *tumble, const Interval *size, const Timestamp *origin,
		const text *zone)
{
	int64		offset;
	int64		period;

	memset(tumble, 0, sizeof(*tumble));
	tumble->kind = WEIR_TUMBLE;
	tumble->with_zone = (zone != NULL);
	tumble->range_type = lookup_type_cache(zone ? TSTZRANGEOID : TSRANGEOID,
										   TYPECACHE_RANGE_INFO);
	classify_size(tumble, size);
	if (zone != NULL)
		tumble->zone = weir_zone(text_to_cstring(zone));
	if (origin != NULL && TIMESTAMP_NOT_FINITE(*origin))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("origin of a window must be finite"),
				 errhint("Leave the argument out for the default.")));

	if (tumble->size_kind == WEIR_SIZE_PHYSICAL)
	{
		if (origin != NULL)
			tumble->origin = *origin;
		else if (!weir_first_instant(DEFAULT_ORIGIN, tumble->zone,
									 &tumble->origin))
			elog(ERROR, "time zone has no 2000-01-03");
		use_period(tumble, tumble->size, tumble->origin);
		return;
	}

	if (origin != NULL)
		tumble->origin = weir_local_time(*origin, tumble->zone);
	else if (tumble->size_kind == WEIR_SIZE_DAYS)
		tumble->origin = DEFAULT_ORIGIN;
	else
		tumble->origin = DEFAULT_ORIGIN_MONTHS;

	if (tumble->size_kind == WEIR_SIZE_DAYS &&
		weir_zone_is_fixed(tumble->zone, &offset) &&
		!pg_mul_s64_overflow(tumble->size, USECS_PER_DAY, &period))
		use_period(tumble, period, tumble->origin - offset);
}

/* Which fields of the interval are set decides what the size means. */
static void
classify_size(WeirWindow *tumble, const Interval *size)
{
	int			fields = (size->month != 0) + (size->day != 0) + (size->time != 0);

	if (!weir_interval_is_finite(size))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("window size must be finite"),
				 errhint("For one window over everything leave the window function out.")));
	if (fields > 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("window size must be of one kind"),
				 errdetail("Months, days and hours have no fixed ratio to one another, and \"%s\" mixes them.",
						   DatumGetCString(DirectFunctionCall1(interval_out,
															   IntervalPGetDatum(size)))),
				 errhint("Use months or years alone, days or weeks alone, or hours and less.")));

	if (size->month != 0)
	{
		tumble->size_kind = WEIR_SIZE_MONTHS;
		tumble->size = size->month;
	}
	else if (size->day != 0)
	{
		tumble->size_kind = WEIR_SIZE_DAYS;
		tumble->size = size->day;
	}
	else
	{
		tumble->size_kind = WEIR_SIZE_PHYSICAL;
		tumble->size = size->time;
	}

	if (tumble->size <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("window size must be greater than zero"),
				 errhint("Give the size as a positive interval, such as '1 minute'.")));
}

/*
 * Edges are origin + n * period.  Of the origin only the remainder matters,
 * and with it in [0, period) no difference below can overflow.
 */
static void
use_period(WeirWindow *tumble, int64 period, Timestamp origin)
{
	tumble->unit = period;
	tumble->origin = origin - weir_floor_div(origin, period) * period;
}

/*
 * See window.h.  Rows come roughly in the order of their times, so most are in
 * the pane of the row before.
 */
bool
weir_pane_of(WeirWindow *window, Timestamp ts, int64 *pane)
{
	bool		found;

	if (ts >= window->last_lower && ts < window->last_upper)
	{
		*pane = window->last_pane;
		return true;
	}
	if (TIMESTAMP_NOT_FINITE(ts))
		return false;

	if (window->unit != 0)
	{
		*pane = weir_floor_div(ts, window->unit);
		if (ts - *pane * window->unit < window->origin)
			(*pane)--;
		found = weir_pane_bounds(window, *pane, &window->last_lower,
								 &window->last_upper);
	}
	else
		found = assign_calendar(window, ts, pane, &window->last_lower,
								&window->last_upper);

	if (found)
		window->last_pane = *pane;
	else
		window->last_lower = window->last_upper = 0;
	return found;
}

bool
weir_pane_bounds(const WeirWindow *window, int64 pane,
				 Timestamp *lower, Timestamp *upper)
{
	if (window->unit == 0)
		return edge(window, pane, lower) && edge(window, pane + 1, upper);
	return !pg_mul_s64_overflow(pane, window->unit, lower) &&
		!pg_add_s64_overflow(*lower, window->origin, lower) &&
		!pg_add_s64_overflow(*lower, window->unit, upper) &&
		IS_VALID_TIMESTAMP(*lower) && IS_VALID_TIMESTAMP(*upper);
}

void
weir_windows_of(const WeirWindow *window, int64 pane,
				int64 *first, int64 *last)
{
	*first = *last = pane;
}

bool
weir_window_bounds(const WeirWindow *window, int64 number,
				   Timestamp *lower, Timestamp *upper)
{
	return weir_pane_bounds(window, number, lower, upper);
}

void
weir_panes_of(const WeirWindow *window, int64 number,
			  int64 *first, int64 *last)
{
	*first = *last = number;
}

int64
weir_holder_of(const WeirWindow *window, int64 number)
{
	return number;
}

bool
weir_window_held_by(const WeirWindow *window, int64 pane, int64 *number)
{
	*number = pane;
	return true;
}

const char *
weir_window_name(WeirWindowKind kind)
{
	return "weir.tumble";
}

/*
 * The local time says which edge is near, and the edges themselves decide.
 * The guess is off by one where the day or the time of day of ts comes before
 * the origin's, and while a clock that was set back repeats itself.
 */
static bool
assign_calendar(const WeirWindow *tumble, Timestamp ts, int64 *pane,
				Timestamp *lower, Timestamp *upper)
{
	Timestamp	local = weir_local_time(ts, tumble->zone);
	int64		distance;
	int64		n;

	if (!(tumble->size_kind == WEIR_SIZE_DAYS ?
		  weir_days_between(tumble->origin, local, &distance) :
		  weir_months_between(tumble->origin, local, &distance)))
		return false;
	n = weir_floor_div(distance, tumble->size);

	if (!edge(tumble, n, lower))
		return false;
	while (ts < *lower)
	{
		if (!edge(tumble, --n, lower))
			return false;
	}
	if (!edge(tumble, n + 1, upper))
		return false;
	while (ts >= *upper)
	{
		*lower = *upper;
		if (!edge(tumble, ++n + 1, upper))
			return false;
	}
	*pane = n;
	return true;
}

/* The instant of edge n, false if it is no valid timestamp. */
static bool
edge(const WeirWindow *tumble, int64 n, Timestamp *instant)
{
	int64		distance;
	Timestamp	local;

	if (pg_mul_s64_overflow(n, tumble->size, &distance))
		return false;
	if (!(tumble->size_kind == WEIR_SIZE_DAYS ?
		  weir_add_days(tumble->origin, distance, &local) :
		  weir_add_months(tumble->origin, distance, &local)))
		return false;
	return weir_first_instant(local, tumble->zone, instant);
}

/* See window.h. */
Datum
weir_window_range(const WeirWindow *tumble, Timestamp lower, Timestamp upper)
{
	RangeBound	from = {0};
	RangeBound	to = {0};

	from.val = TimestampGetDatum(lower);
	from.inclusive = true;
	from.lower = true;
	to.val = TimestampGetDatum(upper);
	return RangeTypePGetDatum(weir_make_range(tumble->range_type, &from, &to));
}

/* weir.tumble(timestamptz, interval, timestamptz, text) returns tstzrange */
Datum
weir_tumble_timestamptz(PG_FUNCTION_ARGS)
{
	if (PG_ARGISNULL(0) || PG_ARGISNULL(1) || PG_ARGISNULL(3))
		PG_RETURN_NULL();
	return tumble_datum(&call_cache(fcinfo, true)->tumble,
						PG_GETARG_TIMESTAMPTZ(0));
}

/* weir.tumble(timestamp, interval, timestamp) returns tsrange */
Datum
weir_tumble_timestamp(PG_FUNCTION_ARGS)
{
	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		PG_RETURN_NULL();
	return tumble_datum(&call_cache(fcinfo, false)->tumble,
						PG_GETARG_TIMESTAMP(0));
}

/*
 * The prepared window function of an SQL call, made anew when an argument
 * differs from the previous row's.
 */
static TumbleCall *
call_cache(FunctionCallInfo fcinfo, bool with_zone)
{
	TumbleCall *call = (TumbleCall *) fcinfo->flinfo->fn_extra;
	Interval   *size = PG_GETARG_INTERVAL_P(1);
	Timestamp	origin_value = 0;
	Timestamp  *origin = NULL;
	text	   *zone = NULL;
	WeirWindow	tumble;

	if (!PG_ARGISNULL(2))
	{
		origin_value = PG_GETARG_TIMESTAMP(2);
		origin = &origin_value;
	}
	if (with_zone)
		zone = PG_GETARG_TEXT_PP(3);

	if (call != NULL && same_arguments(call, size, origin, zone))
		return call;

	/* May raise: what is cached stays as it is until it has not. */
	prepare(&tumble, size, origin, zone);

	if (call == NULL)
		call = MemoryContextAllocZero(fcinfo->flinfo->fn_mcxt,
									  sizeof(TumbleCall));
	else
		fcinfo->flinfo->fn_extra = NULL;
	if (call->zone != NULL)
		pfree(call->zone);
	call->zone = NULL;
	if (zone != NULL)
	{
		call->zone = MemoryContextAlloc(fcinfo->flinfo->fn_mcxt,
										VARSIZE_ANY(zone));
		memcpy(call->zone, zone, VARSIZE_ANY(zone));
	}
	call->size = *size;
	call->default_origin = (origin == NULL);
	call->origin = origin_value;
	call->tumble = tumble;
	fcinfo->flinfo->fn_extra = call;
	return call;
}

static bool
same_arguments(const TumbleCall *call, const Interval *size,
			   const Timestamp *origin, const text *zone)
{
	if (call->size.time != size->time || call->size.day != size->day ||
		call->size.month != size->month ||
		call->default_origin != (origin == NULL) ||
		(origin != NULL && call->origin != *origin))
		return false;
	if (zone == NULL)
		return true;
	return VARSIZE_ANY_EXHDR(call->zone) == VARSIZE_ANY_EXHDR(zone) &&
		memcmp(VARDATA_ANY(call->zone), VARDATA_ANY(zone),
			   VARSIZE_ANY_EXHDR(zone)) == 0;
}

/* The window as SQL gets it, with an error where there is none. */
static Datum
tumble_datum(WeirWindow *tumble, Timestamp ts)
{
	Timestamp	lower;
	Timestamp	upper;
	int64		pane;

	if (TIMESTAMP_NOT_FINITE(ts))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("an infinite timestamp is in no window"),
				 errhint("Leave such rows out in WHERE with isfinite().")));
	if (!weir_pane_of(tumble, ts, &pane) ||
		!weir_window_bounds(tumble, pane, &lower, &upper))
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
				 errmsg("window is out of range"),
				 errdetail("An edge of the window would not be a valid timestamp."),
				 errhint("Choose a smaller size, or leave such rows out in WHERE.")));
	return weir_window_range(tumble, lower, upper);
}
