/*-------------------------------------------------------------------------
 *
 * window_functions.c
 *	  weir.tumble, hop, cumulate and session: what SQL calls.
 *
 * SQL calls them in any query, where all arguments may differ from row to row,
 * and in the query of a view, where the worker takes the call apart instead
 * (weir_window_prepare) and never executes it.  Either way a WeirWindow comes out,
 * and window.c answers from it.
 *
 *	 tumble				returns the window, NULL for a NULL argument
 *	 hop, cumulate		return the windows in the order of their time, none for
 *						a NULL argument
 *	 session			raises: which rows are there decides on a session, and a
 *						function sees one of them
 *
 * Sets come value by value, so that LIMIT and EXISTS stop early.  Between two
 * values, and from one row to the next, fn_extra keeps a WindowCall: arguments are
 * nearly always constants, and what is made of them is worth keeping.
 *
 *-------------------------------------------------------------------------
 */
#include "window/window.h"

#include "access/htup_details.h"
#include "access/transam.h"
#include "catalog/pg_language.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#define LIBRARY "$libdir/pg_weir"

/* Symbols of the C functions are a name with one of two endings. */
#define WITH_ZONE "_timestamptz"
#define WITHOUT_ZONE "_timestamp"

static const struct
{
	const char *symbol;
	const char *name;
}			window_kinds[] = {
	[WEIR_NO_WINDOW] = {NULL, NULL},
	[WEIR_TUMBLE] = {"weir_tumble", "weir.tumble"},
	[WEIR_HOP] = {"weir_hop", "weir.hop"},
	[WEIR_CUMULATE] = {"weir_cumulate", "weir.cumulate"},
	[WEIR_SESSION] = {"weir_session", "weir.session"}
};

/*
 * What an SQL call keeps in fn_extra: the arguments that it was made for, what
 * was made of them, and the windows that are still to be returned.
 */
typedef struct WindowCall
{
	Interval	slide;
	Interval	size;
	bool		default_origin;
	Timestamp	origin;
	text	   *zone;			/* NULL without a zone */
	WeirWindow	window;
	bool		returning;		/* a set, of which these are left: */
	int64		next;
	int64		last;
} WindowCall;

static WeirWindowKind kind_of_symbol(const char *source);
static Const *constant_argument(FuncExpr *call, int *n);
static void refuse_null(Const *argument, const char *what, const char *hint);
static Datum one_window(FunctionCallInfo fcinfo, bool with_zone);
static Datum next_window(FunctionCallInfo fcinfo, WeirWindowKind kind,
						 bool with_zone);
static void stop_returning(Datum arg);
static bool has_null(FunctionCallInfo fcinfo, WeirWindowKind kind,
					 bool with_zone);
static WindowCall *call_cache(FunctionCallInfo fcinfo, WeirWindowKind kind,
							  bool with_zone);
static bool same_arguments(const WindowCall *call,
						   const WeirWindowArguments *arguments);
static bool same_interval(const Interval *a, const Interval *b);
static int64 pane_or_error(WeirWindow *window, Timestamp ts);
weir_noreturn static void refuse_session(void);

PG_FUNCTION_INFO_V1(weir_tumble_timestamptz);
PG_FUNCTION_INFO_V1(weir_tumble_timestamp);
PG_FUNCTION_INFO_V1(weir_hop_timestamptz);
PG_FUNCTION_INFO_V1(weir_hop_timestamp);
PG_FUNCTION_INFO_V1(weir_cumulate_timestamptz);
PG_FUNCTION_INFO_V1(weir_cumulate_timestamp);
PG_FUNCTION_INFO_V1(weir_session_timestamptz);
PG_FUNCTION_INFO_V1(weir_session_timestamp);

/* ---- calls in the query of a view ---- */

/*
 * Recognised by the library and the symbol, and not by name: only superusers
 * create functions in C, so whatever passes runs the code below, and a user's
 * own "tumble" in another schema does not.
 */
WeirWindowKind
weir_window_kind(Oid funcid)
{
	HeapTuple	tuple;
	WeirWindowKind result = WEIR_NO_WINDOW;

	if (funcid < FirstNormalObjectId)
		return WEIR_NO_WINDOW;
	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(funcid));
	if (!HeapTupleIsValid(tuple))
		return WEIR_NO_WINDOW;
	if (((Form_pg_proc) GETSTRUCT(tuple))->prolang == ClanguageId)
	{
		bool		no_symbol;
		bool		no_library;
		Datum		source;
		Datum		library;

		source = SysCacheGetAttr(PROCOID, tuple, Anum_pg_proc_prosrc, &no_symbol);
		library = SysCacheGetAttr(PROCOID, tuple, Anum_pg_proc_probin, &no_library);
		if (!no_symbol && !no_library &&
			strcmp(TextDatumGetCString(library), LIBRARY) == 0)
			result = kind_of_symbol(TextDatumGetCString(source));
	}
	ReleaseSysCache(tuple);
	return result;
}

static WeirWindowKind
kind_of_symbol(const char *source)
{
	WeirWindowKind kind;

	for (kind = WEIR_TUMBLE; kind < lengthof(window_kinds); kind++)
	{
		Size		len = strlen(window_kinds[kind].symbol);

		if (strncmp(source, window_kinds[kind].symbol, len) == 0 &&
			(strcmp(source + len, WITH_ZONE) == 0 ||
			 strcmp(source + len, WITHOUT_ZONE) == 0))
			return kind;
	}
	return WEIR_NO_WINDOW;
}

/* See window.h. */
const char *
weir_window_name(WeirWindowKind kind)
{
	return window_kinds[kind].name;
}

/*
 * See window.h.  The call has been through the planner, which has put the
 * defaults in the places of arguments left out.
 */
void
weir_window_prepare(WeirWindow *window, FuncExpr *call)
{
	WeirWindowKind kind = weir_window_kind(call->funcid);
	bool		with_zone = (call->funcresulttype == TSTZRANGEOID);
	WeirWindowArguments arguments = {0};
	Timestamp	origin;
	Const	   *argument;
	int			n = 1;

	/* The SQL function returns NULL or no row here: nobody means that. */
	if (weir_window_is_set(kind))
	{
		argument = constant_argument(call, &n);
		refuse_null(argument, psprintf("window %s", weir_slide_noun(kind)),
					"Give an interval, such as '1 minute'.");
		arguments.slide = DatumGetIntervalP(argument->constvalue);
	}
	argument = constant_argument(call, &n);
	refuse_null(argument,
				kind == WEIR_SESSION ? "session gap" : "window size",
				kind == WEIR_SESSION ? "Give the gap as an interval, such as '1 minute'." :
				"Give the size as an interval, such as '1 minute'.");
	arguments.size = DatumGetIntervalP(argument->constvalue);
	if (kind != WEIR_SESSION)
	{
		argument = constant_argument(call, &n);
		if (!argument->constisnull)
		{
			origin = DatumGetTimestamp(argument->constvalue);
			arguments.origin = &origin;
		}
		if (with_zone)
		{
			argument = constant_argument(call, &n);
			refuse_null(argument, "time zone of a window",
						"Leave the argument out for UTC.");
			arguments.zone = DatumGetTextPP(argument->constvalue);
		}
	}
	if (n != list_length(call->args))
		elog(ERROR, "unexpected number of arguments of a window function: %d",
			 list_length(call->args));

	weir_window_make(window, kind, with_zone, &arguments);
}

static Const *
constant_argument(FuncExpr *call, int *n)
{
	if (*n >= list_length(call->args))
		elog(ERROR, "unexpected number of arguments of a window function: %d",
			 list_length(call->args));
	return list_nth_node(Const, call->args, (*n)++);
}

static void
refuse_null(Const *argument, const char *what, const char *hint)
{
	if (argument->constisnull)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must not be null", what),
				 errhint("%s", hint)));
}

/* ---- calls in any query ---- */

/* weir.tumble(timestamptz, interval, timestamptz, text) returns tstzrange */
Datum
weir_tumble_timestamptz(PG_FUNCTION_ARGS)
{
	return one_window(fcinfo, true);
}

/* weir.tumble(timestamp, interval, timestamp) returns tsrange */
Datum
weir_tumble_timestamp(PG_FUNCTION_ARGS)
{
	return one_window(fcinfo, false);
}

/* weir.hop(timestamptz, interval, interval, timestamptz, text) returns setof tstzrange */
Datum
weir_hop_timestamptz(PG_FUNCTION_ARGS)
{
	return next_window(fcinfo, WEIR_HOP, true);
}

/* weir.hop(timestamp, interval, interval, timestamp) returns setof tsrange */
Datum
weir_hop_timestamp(PG_FUNCTION_ARGS)
{
	return next_window(fcinfo, WEIR_HOP, false);
}

/* weir.cumulate(timestamptz, interval, interval, timestamptz, text) returns setof tstzrange */
Datum
weir_cumulate_timestamptz(PG_FUNCTION_ARGS)
{
	return next_window(fcinfo, WEIR_CUMULATE, true);
}

/* weir.cumulate(timestamp, interval, interval, timestamp) returns setof tsrange */
Datum
weir_cumulate_timestamp(PG_FUNCTION_ARGS)
{
	return next_window(fcinfo, WEIR_CUMULATE, false);
}

/* weir.session(timestamptz, interval) returns tstzrange */
Datum
weir_session_timestamptz(PG_FUNCTION_ARGS)
{
	refuse_session();
}

/* weir.session(timestamp, interval) returns tsrange */
Datum
weir_session_timestamp(PG_FUNCTION_ARGS)
{
	refuse_session();
}

static Datum
one_window(FunctionCallInfo fcinfo, bool with_zone)
{
	WindowCall *call;
	Timestamp	lower;
	Timestamp	upper;
	int64		pane;

	if (has_null(fcinfo, WEIR_TUMBLE, with_zone))
		PG_RETURN_NULL();
	call = call_cache(fcinfo, WEIR_TUMBLE, with_zone);
	pane = pane_or_error(&call->window, PG_GETARG_TIMESTAMP(0));
	if (!weir_pane_bounds(&call->window, pane, &lower, &upper))
		elog(ERROR, "pane has no bounds");
	return weir_window_range(&call->window, lower, upper);
}

/*
 * The protocol of sets, value by value: a call finds either nothing begun, or the
 * rest of what it began.  A scan that ends early, or begins again, is announced
 * through the expression context.
 */
static Datum
next_window(FunctionCallInfo fcinfo, WeirWindowKind kind, bool with_zone)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	WindowCall *call = (WindowCall *) fcinfo->flinfo->fn_extra;
	Timestamp	lower;
	Timestamp	upper;

	if (result == NULL || !IsA(result, ReturnSetInfo) ||
		(result->allowedModes & SFRM_ValuePerCall) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("%s returns a set, and is called where a set is not possible",
						weir_window_name(kind)),
				 errhint("Call it in FROM or in the select list.")));

	if (call == NULL || !call->returning)
	{
		int64		pane;

		if (has_null(fcinfo, kind, with_zone))
		{
			result->isDone = ExprEndResult;
			PG_RETURN_NULL();
		}
		call = call_cache(fcinfo, kind, with_zone);
		pane = pane_or_error(&call->window, PG_GETARG_TIMESTAMP(0));
		weir_windows_of(&call->window, pane, &call->next, &call->last);
		call->returning = true;
		RegisterExprContextCallback(result->econtext, stop_returning,
									PointerGetDatum(call));
	}

	while (call->next <= call->last)
	{
		if (!weir_window_bounds(&call->window, call->next++, &lower, &upper))
			continue;
		result->isDone = ExprMultipleResult;
		return weir_window_range(&call->window, lower, upper);
	}

	UnregisterExprContextCallback(result->econtext, stop_returning,
								  PointerGetDatum(call));
	call->returning = false;
	result->isDone = ExprEndResult;
	PG_RETURN_NULL();
}

static void
stop_returning(Datum arg)
{
	((WindowCall *) DatumGetPointer(arg))->returning = false;
}

/* Is an argument NULL for which that is not the default? */
static bool
has_null(FunctionCallInfo fcinfo, WeirWindowKind kind, bool with_zone)
{
	int			set = weir_window_is_set(kind);

	return PG_ARGISNULL(0) || PG_ARGISNULL(1) ||
		(set && PG_ARGISNULL(2)) ||
		(with_zone && PG_ARGISNULL(3 + set));
}

/*
 * The window of an SQL call, made anew when an argument differs from the previous
 * row's.
 */
static WindowCall *
call_cache(FunctionCallInfo fcinfo, WeirWindowKind kind, bool with_zone)
{
	WindowCall *call = (WindowCall *) fcinfo->flinfo->fn_extra;
	WeirWindowArguments arguments = {0};
	Timestamp	origin = 0;
	WeirWindow	window;
	int			n = 1;

	if (weir_window_is_set(kind))
		arguments.slide = PG_GETARG_INTERVAL_P(n++);
	arguments.size = PG_GETARG_INTERVAL_P(n++);
	if (!PG_ARGISNULL(n))
	{
		origin = PG_GETARG_TIMESTAMP(n);
		arguments.origin = &origin;
	}
	if (with_zone)
		arguments.zone = PG_GETARG_TEXT_PP(n + 1);

	if (call != NULL && same_arguments(call, &arguments))
		return call;

	/* May raise: what is cached stays as it is until it has not. */
	weir_window_make(&window, kind, with_zone, &arguments);

	if (call == NULL)
		call = MemoryContextAllocZero(fcinfo->flinfo->fn_mcxt,
									  sizeof(WindowCall));
	else
		fcinfo->flinfo->fn_extra = NULL;
	if (call->zone != NULL)
		pfree(call->zone);
	call->zone = NULL;
	if (arguments.zone != NULL)
	{
		call->zone = MemoryContextAlloc(fcinfo->flinfo->fn_mcxt,
										VARSIZE_ANY(arguments.zone));
		memcpy(call->zone, arguments.zone, VARSIZE_ANY(arguments.zone));
	}
	if (arguments.slide != NULL)
		call->slide = *arguments.slide;
	call->size = *arguments.size;
	call->default_origin = (arguments.origin == NULL);
	call->origin = origin;
	call->window = window;
	fcinfo->flinfo->fn_extra = call;
	return call;
}

static bool
same_arguments(const WindowCall *call, const WeirWindowArguments *arguments)
{
	text	   *zone = arguments->zone;

	if (!same_interval(&call->size, arguments->size) ||
		(arguments->slide != NULL &&
		 !same_interval(&call->slide, arguments->slide)) ||
		call->default_origin != (arguments->origin == NULL) ||
		(arguments->origin != NULL && call->origin != *arguments->origin))
		return false;
	if (zone == NULL)
		return true;
	return VARSIZE_ANY_EXHDR(call->zone) == VARSIZE_ANY_EXHDR(zone) &&
		memcmp(VARDATA_ANY(call->zone), VARDATA_ANY(zone),
			   VARSIZE_ANY_EXHDR(zone)) == 0;
}

static bool
same_interval(const Interval *a, const Interval *b)
{
	return a->time == b->time && a->day == b->day && a->month == b->month;
}

/* The pane of a timestamp, with an error where there is none. */
static int64
pane_or_error(WeirWindow *window, Timestamp ts)
{
	int64		pane;

	if (TIMESTAMP_NOT_FINITE(ts))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("an infinite timestamp is in no window"),
				 errhint("Leave such rows out in WHERE with isfinite().")));
	if (!weir_pane_of(window, ts, &pane))
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
				 errmsg("window is out of range"),
				 errdetail("An edge of the window would not be a valid timestamp."),
				 errhint("Choose a smaller size, or leave such rows out in WHERE.")));
	return pane;
}

static void
refuse_session(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("weir.session can be used in continuous views only"),
			 errdetail("Which rows there are decides on the sessions, and a function sees one row."),
			 errhint("In other queries number the sessions first, here of k with a gap of 30 minutes:\n"
					 "SELECT k, tstzrange(min(ts), max(ts) + '30 min') AS win, count(*)\n"
					 "FROM (SELECT *, count(*) FILTER (WHERE starts) OVER (PARTITION BY k ORDER BY ts) AS number\n"
					 "      FROM (SELECT *, ts - lag(ts) OVER (PARTITION BY k ORDER BY ts) >= '30 min' AS starts FROM events) AS a) AS b\n"
					 "GROUP BY k, number;")));
}
