/*-------------------------------------------------------------------------
 *
 * try_event_time.c
 *	  Test builds: watermarks and deadlines, driven by scripts in SQL.
 *
 * A script is a number of arrays of the same length, one entry a step.
 *
 *	weir_test_watermark()	partitions that get rows and are looked at; compared
 *							with window functions over the same rows
 *	weir_test_lateness()	bytes of sketches, merged, and what they say
 *	weir_test_deadlines()	what is due when; compared with a plain table
 *
 * and two that are run by hand and say how long things take, in nanoseconds:
 *
 *	weir_test_watermark_cost('p99', 2048, 10000)	a row
 *	weir_test_deadlines_cost(1000000, 1440)			an item
 *
 * The functions exist in SQL only where a test declares them.
 *
 *-------------------------------------------------------------------------
 */
#include "window/watermark.h"

#ifdef WEIR_TEST

#include <math.h>

#include "catalog/pg_type.h"
#include "common/pg_prng.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "portability/instr_time.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "window/deadlines.h"

PG_FUNCTION_INFO_V1(weir_test_watermark);
PG_FUNCTION_INFO_V1(weir_test_lateness);
PG_FUNCTION_INFO_V1(weir_test_deadlines);
PG_FUNCTION_INFO_V1(weir_test_watermark_cost);
PG_FUNCTION_INFO_V1(weir_test_deadlines_cost);

#define MAX_PARTITIONS 16

/* An array argument of fixed-length values without NULLs. */
static const void *
array_arg(FunctionCallInfo fcinfo, int arg, int *n)
{
	ArrayType  *array = PG_GETARG_ARRAYTYPE_P(arg);
	int			length = ArrayGetNItems(ARR_NDIM(array), ARR_DIMS(array));

	if (ARR_HASNULL(array) || (*n >= 0 && length != *n))
		elog(ERROR, "argument %d must have %d entries and no NULLs", arg, *n);
	*n = length;
	return ARR_DATA_PTR(array);
}

static Datum *
texts_arg(FunctionCallInfo fcinfo, int arg, int *n)
{
	Datum	   *texts;

	deconstruct_array(PG_GETARG_ARRAYTYPE_P(arg), TEXTOID, -1, false,
					  TYPALIGN_INT, &texts, NULL, n);
	return texts;
}

/* "none", "p99.9", or microseconds. */
static WeirWatermarkRule
rule_of(const char *text, int64 idle_timeout, int64 max_future_skew)
{
	WeirWatermarkRule rule = {.idle_timeout = idle_timeout,
	.max_future_skew = max_future_skew};

	if (strcmp(text, "none") == 0)
		rule.kind = WEIR_WATERMARK_NONE;
	else if (text[0] == 'p')
	{
		rule.kind = WEIR_WATERMARK_PERCENTILE;
		rule.share = strtod(text + 1, NULL) / 100;
	}
	else
	{
		rule.kind = WEIR_WATERMARK_BOUNDED;
		rule.delay = strtoll(text, NULL, 10);
	}
	return rule;
}

/* ---- watermarks ---- */

typedef struct Look
{
	WeirWatermarkRule rule;
	WeirEventTime times[MAX_PARTITIONS];
	bool		at_end[MAX_PARTITIONS];
	int			n;				/* partitions */
	TimestampTz watermark;
	int64		ahead;
} Look;

/* One row of the result: the view, then its partitions. */
static void
look(Look *view, int step, TimestampTz now, ReturnSetInfo *result)
{
	WeirEventTime *times[MAX_PARTITIONS];
	Datum		of_each[MAX_PARTITIONS];
	Datum		idle[MAX_PARTITIONS];
	Datum		values[7];
	bool		nulls[7] = {0};
	TimestampTz next_idle;
	int			held_by;

	for (int i = 0; i < view->n; i++)
	{
		times[i] = &view->times[i];
		weir_event_time_advance(times[i], &view->rule);
		of_each[i] = TimestampTzGetDatum(times[i]->watermark);
	}
	view->watermark = weir_view_watermark(times, view->at_end, view->n,
										  &view->rule, view->watermark, now,
										  &held_by, &next_idle);
	for (int i = 0; i < view->n; i++)
		idle[i] = BoolGetDatum(times[i]->idle);
	values[0] = Int32GetDatum(step);
	values[1] = TimestampTzGetDatum(view->watermark);
	values[2] = PointerGetDatum(construct_array(of_each, view->n, TIMESTAMPTZOID,
												8, FLOAT8PASSBYVAL,
												TYPALIGN_DOUBLE));
	values[3] = PointerGetDatum(construct_array(idle, view->n, BOOLOID, 1, true,
												TYPALIGN_CHAR));
	values[4] = Int32GetDatum(held_by);
	values[5] = TimestampTzGetDatum(next_idle);
	values[6] = Int64GetDatum(view->ahead);
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/* What a restart leaves of a partition. */
static void
restart(WeirEventTime *time, const WeirWatermarkRule *rule, TimestampTz now)
{
	WeirEventTime stored = *time;
	StringInfoData bytes;

	weir_event_time_begin(time, rule, stored.watermark, now);
	time->greatest = stored.greatest;
	if (stored.lateness == NULL)
		return;
	initStringInfo(&bytes);
	appendStringInfoString(&bytes, "before");
	weir_lateness_save(stored.lateness, &bytes);
	time->lateness = weir_lateness_load(bytes.data + 6, bytes.len - 6);
}

/*
 * (rule, idle_timeout, max_future_skew, what[], partition[], ts[], clock[])
 *
 *	row		the partition has a row; rows that follow each other at the same
 *			clock are one batch
 *	begin	the next partition begins
 *	end		the partition is at its end from now on; `more`: it is not
 *	merge	another process has read rows up to ts
 *	restart	of all partitions
 *	look	a row of the result
 */
Datum
weir_test_watermark(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	Look		view = {.watermark = DT_NOBEGIN};
	int			n = -1;
	Datum	   *what = texts_arg(fcinfo, 3, &n);
	const int32 *partition = array_arg(fcinfo, 4, &n);
	const TimestampTz *ts = array_arg(fcinfo, 5, &n);
	const TimestampTz *clock = array_arg(fcinfo, 6, &n);

	InitMaterializedSRF(fcinfo, 0);
	view.rule = rule_of(text_to_cstring(PG_GETARG_TEXT_PP(0)),
						PG_GETARG_INT64(1), PG_GETARG_INT64(2));
	for (int i = 0; i < n; i++)
	{
		char	   *step = TextDatumGetCString(what[i]);
		WeirEventTime *time = &view.times[partition[i]];

		if (partition[i] < 0 || partition[i] >= MAX_PARTITIONS)
			elog(ERROR, "no partition %d", partition[i]);
		if (strcmp(step, "row") == 0)
		{
			int			first = i;

			while (i + 1 < n && partition[i + 1] == partition[i] &&
				   clock[i + 1] == clock[i] &&
				   strcmp(TextDatumGetCString(what[i + 1]), "row") == 0)
				i++;
			view.ahead += weir_event_time_add(time, &view.rule, ts + first,
											  i - first + 1, clock[i]);
		}
		else if (strcmp(step, "begin") == 0)
			weir_event_time_begin(&view.times[view.n++], &view.rule,
								  view.watermark, clock[i]);
		else if (strcmp(step, "end") == 0 || strcmp(step, "more") == 0)
			view.at_end[partition[i]] = step[0] == 'e';
		else if (strcmp(step, "merge") == 0)
			weir_event_time_merge(time, ts[i]);
		else if (strcmp(step, "restart") == 0)
			for (int p = 0; p < view.n; p++)
				restart(&view.times[p], &view.rule, clock[i]);
		else if (strcmp(step, "look") == 0)
			look(&view, i + 1, clock[i], result);
		else
			elog(ERROR, "no step \"%s\"", step);
	}
	return (Datum) 0;
}

/*
 * (rule, ts[], sketch, sketch): the bytes of a sketch of the first sketch given
 * (or none), then the times, then the second merged in; and the delay, NULL when
 * there is none yet, and whether it ought to be saved.
 */
Datum
weir_test_lateness(PG_FUNCTION_ARGS)
{
	WeirWatermarkRule rule;
	WeirEventTime time;
	TupleDesc	desc;
	Datum		values[3];
	bool		nulls[3] = {0};
	int			n = -1;
	const Timestamp *ts = array_arg(fcinfo, 1, &n);
	StringInfoData bytes;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "must return a row");
	rule = rule_of(text_to_cstring(PG_GETARG_TEXT_PP(0)), -1, PG_INT64_MAX);
	weir_event_time_begin(&time, &rule, DT_NOBEGIN, 0);
	if (!PG_ARGISNULL(2))
	{
		bytea	   *saved = PG_GETARG_BYTEA_PP(2);

		time.lateness = weir_lateness_load(VARDATA_ANY(saved),
										   VARSIZE_ANY_EXHDR(saved));
	}
	/* as batches come: the sketch forgets between them */
	for (int i = 0; i < n || i == 0; i += 2048)
		weir_event_time_add(&time, &rule, ts + i, Min(n - i, 2048), 0);
	if (!PG_ARGISNULL(3))
	{
		bytea	   *saved = PG_GETARG_BYTEA_PP(3);
		WeirLateness *other = weir_lateness_load(VARDATA_ANY(saved),
												 VARSIZE_ANY_EXHDR(saved));

		weir_lateness_merge(time.lateness, other);
	}
	weir_event_time_merge(&time, 0);	/* so that there is a time at all */
	weir_event_time_advance(&time, &rule);
	nulls[1] = time.watermark == DT_NOBEGIN;
	values[1] = Int64GetDatum(nulls[1] ? 0 : time.greatest - time.watermark);
	values[2] = BoolGetDatum(weir_lateness_is_due(time.lateness));
	initStringInfo(&bytes);
	weir_lateness_save(time.lateness, &bytes);
	if (weir_lateness_is_due(time.lateness))
		elog(ERROR, "what was saved is due to be saved");
	values[0] = PointerGetDatum(cstring_to_text_with_len(bytes.data, bytes.len));
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(desc, values, nulls)));
}

/* ---- deadlines ---- */

/*
 * (what[], at[], item[]): add an item; drop what is due at a watermark; look: a
 * row with what is due at a watermark, the first deadline, and how many wait.
 */
Datum
weir_test_deadlines(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	WeirDeadlines *deadlines = weir_deadlines_create(CurrentMemoryContext);
	int			n = -1;
	Datum	   *what = texts_arg(fcinfo, 0, &n);
	const Timestamp *at = array_arg(fcinfo, 1, &n);
	const int32 *item = array_arg(fcinfo, 2, &n);

	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < n; i++)
	{
		char	   *step = TextDatumGetCString(what[i]);
		Datum		values[4];
		bool		nulls[4] = {0};
		void	  **due;
		Datum	   *items;
		int64		n_due;

		if (strcmp(step, "add") == 0)
			weir_deadlines_add(deadlines, at[i], (void *) (intptr_t) item[i]);
		else if (strcmp(step, "drop") == 0)
			weir_deadlines_drop(deadlines, at[i]);
		if (strcmp(step, "look") != 0)
			continue;
		due = weir_deadlines_due(deadlines, at[i], &n_due);
		items = palloc(Max(n_due, 1) * sizeof(Datum));
		for (int64 d = 0; d < n_due; d++)
			items[d] = Int32GetDatum((int32) (intptr_t) due[d]);
		values[0] = Int32GetDatum(i + 1);
		values[1] = PointerGetDatum(construct_array(items, (int) n_due, INT4OID,
													sizeof(int32), true,
													TYPALIGN_INT));
		values[2] = TimestampTzGetDatum(weir_deadlines_first(deadlines));
		values[3] = Int64GetDatum(weir_deadlines_count(deadlines));
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/* ---- by hand ---- */

static double
nanoseconds_since(instr_time start)
{
	instr_time	now;

	INSTR_TIME_SET_CURRENT(now);
	INSTR_TIME_SUBTRACT(now, start);
	return INSTR_TIME_GET_DOUBLE(now) * 1e9;
}

/* Rows a millisecond apart, exponentially late by ten seconds in the mean. */
Datum
weir_test_watermark_cost(PG_FUNCTION_ARGS)
{
	WeirWatermarkRule rule;
	int			n = PG_GETARG_INT32(1);
	int			rounds = PG_GETARG_INT32(2);
	Timestamp  *ts = palloc(n * sizeof(Timestamp));
	WeirEventTime time;
	pg_prng_state prng;
	double		taken = 0;

	rule = rule_of(text_to_cstring(PG_GETARG_TEXT_PP(0)), -1, PG_INT64_MAX);
	weir_event_time_begin(&time, &rule, DT_NOBEGIN, 0);
	pg_prng_seed(&prng, 1);
	for (int round = 0; round < rounds; round++)
	{
		instr_time	start;

		CHECK_FOR_INTERRUPTS();
		for (int i = 0; i < n; i++)
			ts[i] = ((int64) round * n + i) * 1000 +
				(int64) (1e7 * log(1 - pg_prng_double(&prng)));
		INSTR_TIME_SET_CURRENT(start);
		weir_event_time_add(&time, &rule, ts, n, 0);
		weir_event_time_advance(&time, &rule);
		taken += nanoseconds_since(start);
	}
	PG_RETURN_FLOAT8(taken / n / rounds);
}

/*
 * Items come in any order for a day that is to come, of so many distinct
 * deadlines; the watermark then walks through it in seconds.  Returns nanoseconds
 * an item to add it, and to ask for it and drop it; milliseconds of the longest
 * such step; and bytes an item.
 */
Datum
weir_test_deadlines_cost(PG_FUNCTION_ARGS)
{
	int			n = PG_GETARG_INT32(0);
	int			distinct = PG_GETARG_INT32(1);
	int64		step = USECS_PER_DAY / distinct;
	MemoryContext mcxt = AllocSetContextCreate(CurrentMemoryContext, "cost",
											   ALLOCSET_DEFAULT_SIZES);
	WeirDeadlines *deadlines = weir_deadlines_create(mcxt);
	Timestamp  *at = palloc_extended(n * sizeof(Timestamp), MCXT_ALLOC_HUGE);
	pg_prng_state prng;
	instr_time	start;
	Datum		values[4];
	double		worst = 0;
	double		all = 0;
	int64		dropped = 0;

	pg_prng_seed(&prng, 1);
	for (int i = 0; i < n; i++)
		at[i] = (int64) pg_prng_uint64_range(&prng, 1, distinct) * step;
	(void) weir_deadlines_due(deadlines, 0, &dropped);
	INSTR_TIME_SET_CURRENT(start);
	for (int i = 0; i < n; i++)
		weir_deadlines_add(deadlines, at[i], at + i);
	values[0] = Float8GetDatum(nanoseconds_since(start) / n);
	values[3] = Float8GetDatum((double) MemoryContextMemAllocated(mcxt, true) / n);
	for (Timestamp now = 0; now <= USECS_PER_DAY; now += USECS_PER_SEC)
	{
		int64		n_due;
		void	  **due;
		double		taken;

		CHECK_FOR_INTERRUPTS();
		INSTR_TIME_SET_CURRENT(start);
		due = weir_deadlines_due(deadlines, now, &n_due);
		weir_deadlines_drop(deadlines, now);
		taken = nanoseconds_since(start);
		pfree(due);
		dropped += n_due;
		all += taken;
		worst = Max(worst, taken);
	}
	if (dropped != n || weir_deadlines_count(deadlines) != 0)
		elog(ERROR, INT64_FORMAT " of %d items were due", dropped, n);
	values[1] = Float8GetDatum(all / n);
	values[2] = Float8GetDatum(worst / 1e6);
	MemoryContextDelete(mcxt);
	PG_RETURN_ARRAYTYPE_P(construct_array(values, 4, FLOAT8OID, 8,
										  FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}

#endif							/* WEIR_TEST */
