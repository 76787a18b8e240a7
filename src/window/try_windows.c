/*-------------------------------------------------------------------------
 *
 * try_windows.c
 *	  Test builds: the windows of a timestamp, by way of its pane.
 *
 * weir_test_windows(function, ts, slide, size, origin, zone) goes the way that the
 * worker goes with a call in a view's query: it prepares the call, looks up the
 * pane of ts, the windows of the pane, and their bounds.  The test compares the
 * ranges with what the SQL function returns.  What cannot be seen from SQL is
 * checked on the way, and raises: that panes make up their windows without gaps,
 * that exactly the windows of a pane have it among their panes, and that each
 * window is held by one pane and no pane holds two.
 *
 * The function exists in SQL only where a test declares it.
 *
 *-------------------------------------------------------------------------
 */
#include "window/window.h"

#ifdef WEIR_TEST

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "utils/array.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

/* Panes and windows looked at, at either end of what is long. */
#define LOOK 40

#define require(condition) \
	do { \
		if (!(condition)) \
			elog(ERROR, "%s: pane " INT64_FORMAT ", window " INT64_FORMAT, \
				 #condition, pane, number); \
	} while (0)

static FuncExpr *make_call(FunctionCallInfo fcinfo);
static Const *argument_const(FunctionCallInfo fcinfo, int n, Oid type,
							 int16 len, bool byval);
static void check_pane(WeirWindow *window, Timestamp ts, int64 pane);
static void check_window(WeirWindow *window, Timestamp ts, int64 pane,
						 int64 number);

PG_FUNCTION_INFO_V1(weir_test_windows);
PG_FUNCTION_INFO_V1(weir_test_pane);

/*
 * weir_test_windows(regproc, ts, slide, size, origin, zone) returns an array of
 * ranges, NULL where ts has no pane.  regproc is an overload of hop, cumulate or
 * tumble (whose slide is ignored); it decides on the types of the rest.
 */
Datum
weir_test_windows(PG_FUNCTION_ARGS)
{
	WeirWindow	window;
	ArrayBuildState *result;
	Timestamp	ts = PG_GETARG_TIMESTAMP(1);
	Timestamp	lower;
	Timestamp	upper;
	int64		pane;
	int64		again;
	int64		first;
	int64		last;
	int64		number;

	weir_window_prepare(&window, make_call(fcinfo));
	if (!weir_pane_of(&window, ts, &pane))
		PG_RETURN_NULL();
	if (!weir_pane_of(&window, ts, &again) || again != pane)
		elog(ERROR, "the pane that is remembered is another one");
	check_pane(&window, ts, pane);

	/* what is remembered hides what is computed */
	window.last_lower = window.last_upper = 0;
	check_pane(&window, ts, pane);

	result = initArrayResult(window.range_type->type_id, CurrentMemoryContext,
							 false);
	weir_windows_of(&window, pane, &first, &last);
	for (number = first; number <= last; number++)
	{
		CHECK_FOR_INTERRUPTS();
		if (!weir_window_bounds(&window, number, &lower, &upper))
			continue;
		if (number - first < LOOK || last - number < LOOK)
			check_window(&window, ts, pane, number);
		result = accumArrayResult(result,
								  weir_window_range(&window, lower, upper),
								  false, window.range_type->type_id,
								  CurrentMemoryContext);
	}

	/* the neighbours do not hold ts */
	if (weir_window_bounds(&window, first - 1, &lower, &upper) &&
		ts >= lower && ts < upper)
		elog(ERROR, "window " INT64_FORMAT " holds the timestamp, too", first - 1);
	if (weir_window_bounds(&window, last + 1, &lower, &upper) &&
		ts >= lower && ts < upper)
		elog(ERROR, "window " INT64_FORMAT " holds the timestamp, too", last + 1);

	return makeArrayResult(result, CurrentMemoryContext);
}

/*
 * weir_test_pane(regproc, ts, NULL, gap, NULL, NULL) returns the pane of ts, or
 * NULL, as a range: all that there is of a session.
 */
Datum
weir_test_pane(PG_FUNCTION_ARGS)
{
	WeirWindow	window;
	Timestamp	lower;
	Timestamp	upper;
	int64		pane;

	weir_window_prepare(&window, make_call(fcinfo));
	if (!weir_pane_of(&window, PG_GETARG_TIMESTAMP(1), &pane))
		PG_RETURN_NULL();
	check_pane(&window, PG_GETARG_TIMESTAMP(1), pane);
	window.last_lower = window.last_upper = 0;
	if (!weir_pane_bounds(&window, pane, &lower, &upper))
		elog(ERROR, "pane " INT64_FORMAT " has no bounds", pane);
	return weir_window_range(&window, lower, upper);
}

/* The call as the planner leaves it. */
static FuncExpr *
make_call(FunctionCallInfo fcinfo)
{
	Oid			function = PG_GETARG_OID(0);
	Oid			result = get_func_rettype(function);
	WeirWindowKind kind = weir_window_kind(function);
	Oid			time = (result == TSTZRANGEOID ? TIMESTAMPTZOID : TIMESTAMPOID);
	List	   *args;

	args = list_make1(argument_const(fcinfo, 1, time, 8, true));
	if (weir_window_is_set(kind))
		args = lappend(args, argument_const(fcinfo, 2, INTERVALOID,
											sizeof(Interval), false));
	args = lappend(args, argument_const(fcinfo, 3, INTERVALOID,
										sizeof(Interval), false));
	if (kind != WEIR_SESSION)
		args = lappend(args, argument_const(fcinfo, 4, time, 8, true));
	if (kind != WEIR_SESSION && result == TSTZRANGEOID)
		args = lappend(args, argument_const(fcinfo, 5, TEXTOID, -1, false));
	return makeFuncExpr(function, result, args, InvalidOid, InvalidOid,
						COERCE_EXPLICIT_CALL);
}

static Const *
argument_const(FunctionCallInfo fcinfo, int n, Oid type, int16 len, bool byval)
{
	return makeConst(type, -1, InvalidOid, len,
					 PG_ARGISNULL(n) ? 0 : PG_GETARG_DATUM(n),
					 PG_ARGISNULL(n), byval);
}

static void
check_pane(WeirWindow *window, Timestamp ts, int64 pane)
{
	int64		number = 0;
	Timestamp	lower;
	Timestamp	upper;
	Timestamp	neighbour;

	require(weir_pane_bounds(window, pane, &lower, &upper));
	require(lower <= ts && ts < upper);
	require(!weir_pane_bounds(window, pane - 1, &neighbour, &lower) ||
			(neighbour <= lower && lower <= ts));
	require(!weir_pane_bounds(window, pane + 1, &upper, &neighbour) ||
			(ts < upper && upper <= neighbour));

	if (weir_window_held_by(window, pane, &number))
		require(weir_holder_of(window, number) == pane);
}

/* A window that holds ts, which is in that pane. */
static void
check_window(WeirWindow *window, Timestamp ts, int64 pane, int64 number)
{
	Timestamp	lower;
	Timestamp	upper;
	Timestamp	from;
	Timestamp	to;
	int64		first;
	int64		last;
	int64		i;
	int64		held;
	int			holders = 0;

	require(weir_window_bounds(window, number, &lower, &upper));
	require(lower <= ts && ts < upper);
	weir_panes_of(window, number, &first, &last);
	require(first <= pane && pane <= last);
	require(weir_pane_bounds(window, first, &from, &to) && from == lower);
	require(weir_pane_bounds(window, last, &from, &to) && to == upper);
	require(weir_window_held_by(window, weir_holder_of(window, number), &held));
	require(held == number);

	/* from one pane outside to one pane outside; the middle if it is long */
	for (i = first - 1; i <= last + 1; i++)
	{
		int64		least;
		int64		greatest;
		bool		holds;

		if (i == first + LOOK && last - i > LOOK)
			i = last - LOOK;
		weir_windows_of(window, i, &least, &greatest);
		holds = (least <= number && number <= greatest);
		require(holds == (first <= i && i <= last));
		if (i >= first && i < last)
		{
			require(weir_pane_bounds(window, i, &lower, &from));
			require(weir_pane_bounds(window, i + 1, &to, &upper));
			require(lower <= from && from == to && to <= upper);
		}
		if (weir_window_held_by(window, i, &held) && held == number)
		{
			require(holds);
			holders++;
		}
	}
	require(holders == 1);
}

#endif							/* WEIR_TEST */
