/*-------------------------------------------------------------------------
 *
 * late.c
 *	  Rows whose windows have closed: which windows they revise or miss.
 *
 * Lateness is a matter of a row and a window, and the watermark W of the last
 * commit decides, so that rows of one commit are never late for each other's
 * sake:
 *
 *		W < upper						open: in time
 *		upper <= W < upper + lateness	closed: the row revises the window
 *		upper + lateness <= W			frozen: the row misses the window
 *
 * with no lateness at all under weir.late = 'side_output' and 'drop'.  What is
 * frozen stays so, also when the option is changed: up to WeirViewTime.settled
 * windows are.  A row that
 * misses some of its windows is folded nevertheless: its pane counts for the
 * others, and a frozen window is never composed again.
 *
 * A session is what its rows make of it, so a row is judged by the sessions that
 * it would touch.  That it touches a frozen one can be ruled out by its time
 * alone in nearly all cases; only what is left asks for the groups.
 *
 *-------------------------------------------------------------------------
 */
#include "runtime/worker.h"

#include "catalog/pg_type.h"
#include "common/int.h"
#include "executor/executor.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/*
 * Of a pane whose earliest window has closed: how its windows stand.  Late rows
 * of one sender come together, and in the same pane.
 */
typedef struct WeirJudgement
{
	bool		valid;
	int64		pane;
	int64		n_windows;		/* that hold it, up to the first open one */
	int64		n_frozen;		/* the first so many of them */
	int64		n_closed;		/* frozen ones included */
	int64		first;			/* numbers of windows: the first of all, and */
	int64		last_frozen;
} WeirJudgement;

/* A pane of a session that rows were taken from: when that began before. */
typedef struct WeirTorn
{
	WeirGroup  *pane;
	Timestamp	lower;
} WeirTorn;

Timestamp
weir_time_add(Timestamp ts, int64 interval)
{
	Timestamp	sum;

	if (TIMESTAMP_NOT_FINITE(ts))
		return ts;
	if (pg_add_s64_overflow(ts, interval, &sum) || sum >= DT_NOEND)
		return DT_NOEND;
	return sum <= DT_NOBEGIN ? DT_NOBEGIN + 1 : sum;
}

static bool
is_closed(const WeirRun *run, Timestamp upper)
{
	return upper <= run->time.watermark;
}

static bool
is_frozen(const WeirRun *run, Timestamp upper)
{
	return upper <= run->time.settled;
}

void
weir_judge_anew(WeirRun *run)
{
	for (int i = 0; i < run->n_torn; i++)
		run->torn[i].pane->flags &= ~WEIR_GROUP_TORN;
	run->n_torn = 0;
	if (run->judgement != NULL)
		run->judgement->valid = false;
}

/* The columns of the source that the view reads, as one jsonb. */
static Datum
row_as_jsonb(WeirRun *run)
{
	int			n = run->late_desc->natts;
	Datum	   *values = palloc(sizeof(Datum) * Max(n, 1));
	bool	   *nulls = palloc(sizeof(bool) * Max(n, 1));
	HeapTuple	tuple;
	Datum		json;

	for (int i = 0; i < n; i++)
	{
		values[i] = run->row->tts_values[run->late_columns[i] - 1];
		nulls[i] = run->row->tts_isnull[run->late_columns[i] - 1];
	}
	tuple = heap_form_tuple(run->late_desc, values, nulls);
	json = DirectFunctionCall1(row_to_json,
							   heap_copy_tuple_as_datum(tuple, run->late_desc));
	return DirectFunctionCall1(jsonb_in,
							   CStringGetDatum(text_to_cstring(DatumGetTextPP(json))));
}

static Datum
window_as_text(const WeirRun *run, Timestamp lower, Timestamp upper)
{
	Oid			type = run->window.with_zone ? TSTZRANGEOID : TSRANGEOID;
	Oid			output;
	bool		is_varlena;

	getTypeOutputInfo(type, &output, &is_varlena);
	return CStringGetTextDatum(OidOutputFunctionCall(output,
													 weir_window_range(&run->window, lower, upper)));
}

/* Windows as text are many bytes; a hop may have thousands of them. */
#define MOST_WINDOWS 100

/*
 * Records a row that misses n windows, of which the last are shown: those up to
 * number `last`, or of a session the one with these bounds.
 */
static void
record(WeirRun *run, int64 n, int64 first, int64 last,
	   Timestamp session_lower, Timestamp session_upper, int diff)
{
	int			shown = 0;
	Datum		windows[MOST_WINDOWS];
	Timestamp	lower = session_lower;
	Timestamp	upper = session_upper;
	Timestamp	latest = session_upper;
	WeirLateRow late;

	if (run->def->options.late == WEIR_LATE_DROP)
	{
		run->time.late_dropped += n;
		run->moved = true;
		return;
	}
	if (run->window.kind == WEIR_SESSION)
		windows[shown++] = window_as_text(run, lower, upper);
	else
		for (int64 w = Max(first, last - MOST_WINDOWS + 1); w <= last; w++)
		{
			if (!weir_window_bounds(&run->window, w, &lower, &upper))
				continue;
			windows[shown++] = window_as_text(run, lower, upper);
			latest = upper;
		}
	late.windows = PointerGetDatum(construct_array(windows, shown, TEXTOID, -1,
												   false, TYPALIGN_INT));
	late.watermark = run->time.watermark;
	/* behind the end of its latest window */
	late.late_by = run->time.watermark - latest;
	late.diff = diff;
	late.row = row_as_jsonb(run);
	weir_keep_late_row(run, &late);
	run->time.late_side += n;
	run->moved = true;
}

/*
 * A row is taken back from a session, which may leave it in pieces that would have
 * been frozen long ago, had they been sessions before.  Until the commit they are
 * not: the same UPDATE may put the row back.
 */
static void
tear(WeirRun *run, const char *image, uint32 len, Timestamp lower)
{
	WeirGroup **panes;
	int64		n = weir_session_panes(run->composer, image, len, &panes);

	for (int64 i = 0; i < n; i++)
	{
		if ((panes[i]->flags & WEIR_GROUP_TORN) != 0)
			continue;
		if (run->n_torn == run->max_torn)
		{
			int			max = Max(run->max_torn * 2, 64);

			run->torn = run->torn == NULL ?
				MemoryContextAlloc(run->mcxt, sizeof(WeirTorn) * max) :
				repalloc_huge(run->torn, sizeof(WeirTorn) * max);
			run->max_torn = max;
		}
		run->torn[run->n_torn].pane = panes[i];
		run->torn[run->n_torn++].lower = lower;
		panes[i]->flags |= WEIR_GROUP_TORN;
	}
	pfree(panes);
}

/*
 * Frozen sessions are forgotten a gap after they were frozen.  A row that would
 * make an older session begin further back than that might touch one, now or when
 * the next such row comes; unless the session did begin there before this commit.
 */
static bool
could_touch_forgotten(const WeirRun *run, Timestamp ts,
					  const WeirSessionsAround *around)
{
	if (around->lower <= ts ||
		weir_time_add(ts, run->window.size) >= run->time.settled)
		return false;
	for (int i = 0; around->torn != NULL && i < run->n_torn; i++)
		if (run->torn[i].pane == around->torn)
			return run->torn[i].lower > ts;
	return true;
}

static WeirTimeliness
judge_session(WeirRun *run, Timestamp ts, const char *image, uint32 len,
			  int diff)
{
	Timestamp	alone = weir_time_add(ts, run->window.size);
	WeirSessionsAround around;

	/*
	 * A session that it touches ends behind the row, so none is frozen; and it is
	 * in an open one, be it alone.
	 */
	if (ts >= run->time.settled && alone > run->time.watermark)
		return WEIR_IN_TIME;
	if (!run->judging)
		return WEIR_SUSPECT;
	run->judging = false;
	weir_session_around(run->composer, image, len, ts, &around);
	if (is_frozen(run, around.least_whole))
	{
		record(run, 1, 0, 0, around.whole_lower, around.least_whole, diff);
		return WEIR_LATE_ALTOGETHER;
	}
	if (is_frozen(run, around.upper) || could_touch_forgotten(run, ts, &around))
	{
		record(run, 1, 0, 0, ts, alone, diff);
		return WEIR_LATE_ALTOGETHER;
	}
	if (diff < 0)
		tear(run, image, len, around.lower);
	if (!is_closed(run, Min(around.least_upper, around.upper)))
		return WEIR_IN_TIME;
	run->time.late_applied++;
	return WEIR_LATE_FOR_SOME;
}

/* How the windows of a pane stand. */
static void
judge_pane(WeirRun *run, WeirJudgement *judgement, int64 pane)
{
	const WeirWindow *window = &run->window;
	Timestamp	lower;
	Timestamp	upper;
	int64		last;

	judgement->valid = false;
	judgement->pane = pane;
	judgement->n_windows = judgement->n_frozen = judgement->n_closed = 0;
	weir_windows_of(window, pane, &judgement->first, &last);
	for (int64 w = judgement->first; w <= last; w++)
	{
		if (!weir_window_bounds(window, w, &lower, &upper))
			continue;
		judgement->n_windows++;
		/* they end one after the other */
		if (!is_closed(run, upper))
			break;
		judgement->n_closed++;
		if (is_frozen(run, upper))
		{
			judgement->n_frozen++;
			judgement->last_frozen = w;
		}
	}
	judgement->valid = true;
}

WeirTimeliness
weir_judge_row(WeirRun *run, Timestamp ts, int64 pane,
			   const char *image, uint32 len, int diff)
{
	WeirJudgement *judgement = run->judgement;

	/* a window that holds it ends behind it */
	if (ts >= run->time.watermark)
		return WEIR_IN_TIME;

	/*
	 * No window has been shown yet: all are composed, closed ones too, once the
	 * backfill is complete.  A row that one of them were to miss would be in it
	 * nevertheless, by a pane that others share.
	 */
	if (run->backfilling)
		return WEIR_IN_TIME;
	if (run->window.kind == WEIR_SESSION)
		return judge_session(run, ts, image, len, diff);
	if (judgement == NULL)
		judgement = run->judgement =
			MemoryContextAllocZero(run->mcxt, sizeof(WeirJudgement));
	if (!judgement->valid || judgement->pane != pane)
		judge_pane(run, judgement, pane);
	if (judgement->n_closed == 0)
		return WEIR_IN_TIME;
	if (judgement->n_frozen > 0)
		record(run, judgement->n_frozen, judgement->first,
			   judgement->last_frozen, 0, 0, diff);
	if (judgement->n_frozen == judgement->n_windows)
		return WEIR_LATE_ALTOGETHER;
	if (judgement->n_closed == judgement->n_frozen)
		return WEIR_IN_TIME;	/* for all that it is folded into */
	run->time.late_applied += judgement->n_closed - judgement->n_frozen;
	return WEIR_LATE_FOR_SOME;
}
