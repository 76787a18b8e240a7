/*-------------------------------------------------------------------------
 *
 * try_compose.c
 *	  Test builds: windows composed of panes, without a worker.
 *
 * weir_test_compose() folds batches of rows into the panes of a window call,
 * composes after each of them and applies what comes out the way a commit would,
 * so that the test can compare the windows that are held with what Postgres says
 * about the rows that are there.  What SQL cannot see is checked here: that each
 * row is held once, by whom window.h says; what clusters are made of; that
 * nothing is left in memory; that questions about sessions have the same answers.
 *
 * The functions exist in SQL only where a test declares them.
 *
 *-------------------------------------------------------------------------
 */
#include "emit/compose_internal.h"

#ifdef WEIR_TEST

#include <time.h>

#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "nodes/makefuncs.h"
#include "optimizer/optimizer.h"
#include "parser/analyze.h"
#include "parser/parse_func.h"
#include "parser/parser.h"
#include "runtime/shared.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

PG_FUNCTION_INFO_V1(weir_test_compose);
PG_FUNCTION_INFO_V1(weir_test_starved_compose);
PG_FUNCTION_INFO_V1(weir_test_compose_cost);

/* Keys of the view: one of a type of choice, the window, and a constant. */
#define N_KEYS 3
#define WINDOW_KEY 1

/* Its states; the last one is presence. */
typedef enum
{
	SUM, MAX_TEXT, MIN_TEXT, FIRST, LAST, PRESENCE, N_STATES
} StateNumber;

/* A row of v, found by the TID that we make up for it. */
typedef struct Held
{
	bool		live;
	WeirGroup  *holder;
	bool		has_window;
	Timestamp	lower;
	Timestamp	upper;
	int64		n;
	char	   *sum;
	char	   *max_text;
	char	   *min_text;
} Held;

typedef struct Trial
{
	WeirWindow	window;
	WeirKeyPart parts[N_KEYS];
	WeirKeyFormat format;
	WeirState	states[N_STATES];
	WeirFinish	finishes[N_STATES];
	Size		words_size;
	bool		retracts;
	WeirValueStore *store;
	WeirGroupTable *table;
	WeirComposer *composer;
	WeirGroup **dirty;
	int			n_dirty;
	Timestamp	after;			/* windows are wanted that end after this, */
	Timestamp	until;			/* up to this */
	Held	   *held;
	int			n_held;
} Trial;

/* A row that comes or goes. */
typedef struct Row
{
	Datum		key;
	bool		no_key;
	Timestamp	ts;
	bool		no_ts;
	Datum		values[N_STATES];
	bool		nulls[N_STATES];
	int64		diff;
} Row;

/* ---- a view ---- */

/* What the worker would get from the plan of SELECT <call> FROM ... */
static void
parse_window(Trial *trial, const char *call)
{
	StringInfoData sql;
	Query	   *query;
	Node	   *expr;

	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT %s FROM (VALUES (NULL::timestamptz)) AS t (ts)",
					 call);
	query = parse_analyze_fixedparams(linitial_node(RawStmt,
													raw_parser(sql.data, RAW_PARSE_DEFAULT)),
									  sql.data, NULL, 0, NULL);
	expr = (Node *) linitial_node(TargetEntry, query->targetList)->expr;
	expr = eval_const_expressions(NULL, expr);
	weir_window_prepare(&trial->window, castNode(FuncExpr, expr));
}

static void
add_state(Trial *trial, StateNumber number, char *name, Oid type)
{
	Aggref	   *aggref = makeNode(Aggref);
	Oid			collation = type == TEXTOID ? C_COLLATION_OID : InvalidOid;
	WeirClass	class_;

	aggref->aggfnoid = LookupFuncName(list_make2(makeString("pg_catalog"),
												 makeString(name)),
									  OidIsValid(type) ? 1 : 0, &type, false);
	aggref->aggtype = type;
	aggref->inputcollid = aggref->aggcollid = collation;
	if (OidIsValid(type))
		aggref->args = list_make1(makeTargetEntry((Expr *) makeNullConst(type, -1,
																		 collation),
												  1, NULL, false));
	class_ = weir_classify(aggref, trial->retracts);
	weir_state_prepare(&trial->states[number], &class_, aggref, trial->store);
	trial->finishes[number] = class_.finish;
	trial->states[number].offset = trial->words_size;
	trial->words_size += class_.ops->size;
}

static void
prepare_key(Trial *trial, Oid type, Oid collation)
{
	TypeCacheEntry *entry = lookup_type_cache(type, TYPECACHE_HASH_PROC |
											  TYPECACHE_EQ_OPR);
	WeirKeyPart *part = &trial->parts[0];

	for (int i = 1; i < N_KEYS; i++)
	{
		trial->parts[i].typlen = sizeof(Datum);
		trial->parts[i].typbyval = true;
		trial->parts[i].exact = true;
	}
	get_typlenbyval(type, &part->typlen, &part->typbyval);
	part->collation = collation;
	part->exact = type == TEXTOID && get_collation_isdeterministic(collation);
	if (!part->exact)
	{
		fmgr_info(entry->hash_proc, &part->hash);
		fmgr_info(get_opcode(entry->eq_opr), &part->equal);
	}
	trial->format.n = N_KEYS;
	trial->format.window = WINDOW_KEY;
	trial->format.exact = part->exact;
	trial->format.parts = trial->parts;
}

static Trial *
open_trial(const char *call, Oid key_type, Oid collation, bool retracts,
		   int most_rows)
{
	Trial	   *trial = palloc0(sizeof(*trial));

	trial->retracts = retracts;
	trial->after = DT_NOBEGIN;
	trial->until = DT_NOEND;
	parse_window(trial, call);
	prepare_key(trial, key_type, collation);
	trial->store = weir_value_store_create(CurrentMemoryContext);
	add_state(trial, SUM, "sum", NUMERICOID);
	add_state(trial, MAX_TEXT, "max", TEXTOID);
	add_state(trial, MIN_TEXT, "min", TEXTOID);
	add_state(trial, FIRST, "min", TIMESTAMPTZOID);
	add_state(trial, LAST, "max", TIMESTAMPTZOID);
	add_state(trial, PRESENCE, "count", InvalidOid);
	trial->table = weir_group_table_create(CurrentMemoryContext, &trial->format,
										   trial->states, N_STATES,
										   trial->words_size,
										   trial->states[PRESENCE].offset);
	trial->composer = weir_composer_create(&trial->window, WINDOW_KEY,
										   &trial->format, trial->table,
										   trial->states, N_STATES, FIRST, LAST);
	trial->dirty = palloc(sizeof(WeirGroup *) * Max(most_rows, 1));
	trial->held = palloc0(sizeof(Held) * 1024);
	return trial;
}

static void
close_trial(Trial *trial)
{
	MemoryContextDelete(trial->composer->mcxt);
	weir_group_table_destroy(trial->table);
	weir_value_store_destroy(trial->store);
}

static bool
is_wanted(void *arg, Timestamp lower, Timestamp upper, bool changed, bool holds)
{
	Trial	   *trial = arg;

	return upper > trial->after && upper <= trial->until;
}

/* The image of a row's key, and its hash. */
static uint32
write_key(Trial *trial, const Row *row, char *image, uint32 *hash)
{
	Datum		keys[N_KEYS];
	bool		nulls[N_KEYS] = {false};
	int64		pane = 0;

	keys[0] = row->key;
	nulls[0] = row->no_key;
	nulls[WINDOW_KEY] = row->no_ts;
	if (!row->no_ts && !weir_pane_of(&trial->window, row->ts, &pane))
		elog(ERROR, "row has no pane");
	keys[WINDOW_KEY] = Int64GetDatum(pane);
	keys[2] = Int64GetDatum(7);
	return weir_key_write(&trial->format, keys, nulls, image, hash);
}

static void
fold_row(Trial *trial, Row *row)
{
	char	   *image = palloc(weir_key_room(&trial->format));
	uint32		hash;
	uint32		len = write_key(trial, row, image, &hash);
	WeirGroup  *group;

	weir_group_table_upsert(trial->table, 1, &image, &len, &hash, &group);
	for (int i = 0; i < N_STATES; i++)
	{
		WeirState  *state = &trial->states[i];
		char	   *words = WEIR_GROUP_WORDS(group) + state->offset;

		state->ops->advance(state, &words, &row->values[i], &row->nulls[i],
							trial->retracts ? &row->diff : NULL, 1);
	}
	if ((group->flags & WEIR_GROUP_DIRTY) == 0)
		trial->dirty[trial->n_dirty++] = group;
	group->flags |= WEIR_GROUP_DIRTY;
	pfree(image);
}

static void
compose(Trial *trial, WeirOutcome **outcomes, int64 *n)
{
	*outcomes = weir_compose(trial->composer, trial->dirty, trial->n_dirty,
							 is_wanted, trial, n);
}

static void
check_stores(Trial *trial, const char *when)
{
	if (weir_value_store_bytes(trial->composer->passing_store) != 0 ||
		weir_value_store_bytes(trial->composer->lasting_store) != 0)
		elog(ERROR, "the composer has values %s", when);
}

/* ---- outcomes, checked and applied ---- */

static char *
finish(Trial *trial, StateNumber number, const char *words)
{
	WeirState  *state = &trial->states[number];
	bool		isnull;
	Datum		result = trial->finishes[number] (state, words + state->offset,
												  &isnull);

	if (isnull)
		return NULL;
	return number == SUM ?
		DatumGetCString(DirectFunctionCall1(numeric_out, result)) :
		TextDatumGetCString(result);
}

static void
check_outcome(Trial *trial, const WeirOutcome *outcome)
{
	WeirGroup  *holder = outcome->holder;
	char	   *at = weir_key_pane_at(&trial->format,
									  (char *) weir_group_key(trial->table, holder));
	int64		pane;
	int64		number;
	int64		first;
	int64		last;
	Timestamp	lower;
	Timestamp	upper;

	if (outcome->has_window != (at != NULL))
		elog(ERROR, "holder and outcome do not agree on the NULL window");
	if ((holder->flags & WEIR_GROUP_STAGED) != 0)
		elog(ERROR, "a group has two outcomes");
	holder->flags |= WEIR_GROUP_STAGED;
	if (outcome->words == NULL && !ItemPointerIsValid(&holder->result_tid))
		elog(ERROR, "an outcome takes away what is not there");
	if (at == NULL)
		return;
	if (!is_wanted(trial, outcome->lower, outcome->upper, false, false) &&
		(outcome->words != NULL || trial->window.kind != WEIR_SESSION))
		elog(ERROR, "an outcome was not wanted");
	memcpy(&pane, at, sizeof(pane));
	if (trial->window.kind == WEIR_SESSION)
	{
		if (!weir_pane_bounds(&trial->window, pane, &lower, &upper) ||
			outcome->lower < lower || outcome->lower >= upper)
			elog(ERROR, "a session does not begin in its holder");
		return;
	}
	if (!weir_window_held_by(&trial->window, pane, &number) ||
		!weir_window_bounds(&trial->window, number, &lower, &upper) ||
		lower != outcome->lower || upper != outcome->upper)
		elog(ERROR, "a window is held by the wrong pane");
	weir_panes_of(&trial->window, number, &first, &last);
	if (pane < first || pane > last)
		elog(ERROR, "a window does not hold its holder");
}

/* Clusters are neighbours, of two at least, and deletions come first. */
static void
check_clusters(const WeirOutcome *outcomes, int64 n)
{
	int			greatest = 0;

	for (int64 i = 0; i < n; i++)
	{
		bool		begins = i == 0 || outcomes[i - 1].cluster != outcomes[i].cluster;
		bool		ends = i == n - 1 || outcomes[i + 1].cluster != outcomes[i].cluster;

		if (outcomes[i].cluster == 0)
			continue;
		if (begins && (ends || outcomes[i].cluster <= greatest))
			elog(ERROR, "a cluster is in pieces");
		if (!begins && outcomes[i].words == NULL && outcomes[i - 1].words != NULL)
			elog(ERROR, "a deletion comes late in its cluster");
		greatest = outcomes[i].cluster;
	}
}

static void
apply_outcome(Trial *trial, const WeirOutcome *outcome)
{
	WeirGroup  *holder = outcome->holder;
	Held	   *held;

	holder->flags &= ~WEIR_GROUP_STAGED;
	if (ItemPointerIsValid(&holder->result_tid))
	{
		held = &trial->held[ItemPointerGetBlockNumber(&holder->result_tid)];
		if (!held->live || held->holder != holder)
			elog(ERROR, "a row is not where it should be");
		held->live = false;
		ItemPointerSetInvalid(&holder->result_tid);
	}
	if (outcome->words == NULL)
		return;
	if (trial->n_held > 0 && trial->n_held % 1024 == 0)
		trial->held = repalloc_huge(trial->held,
									sizeof(Held) * (trial->n_held + 1024));
	ItemPointerSet(&holder->result_tid, trial->n_held, 1);
	held = &trial->held[trial->n_held++];
	held->live = true;
	held->holder = holder;
	held->has_window = outcome->has_window;
	held->lower = outcome->lower;
	held->upper = outcome->upper;
	held->n = *(const int64 *) (outcome->words + trial->states[PRESENCE].offset);
	held->sum = finish(trial, SUM, outcome->words);
	held->max_text = finish(trial, MAX_TEXT, outcome->words);
	held->min_text = finish(trial, MIN_TEXT, outcome->words);
}

/* Groups without rows that hold nothing go, as after a commit. */
static void
remove_empty(Trial *trial)
{
	int			n = 0;
	uint64		cursor = 0;
	WeirGroup  *group;
	WeirGroup **empty = palloc(sizeof(WeirGroup *) *
							   (weir_group_table_count(trial->table) + 1));

	while ((group = weir_group_table_next(trial->table, &cursor)) != NULL)
		if (weir_group_rows(trial->table, group) == 0 &&
			!ItemPointerIsValid(&group->result_tid))
			empty[n++] = group;
	for (int i = 0; i < n; i++)
		weir_group_table_remove(trial->table, empty[i]);
	pfree(empty);
}

/* Each pane with rows is in a session that is held, and its first one holds it. */
static void
check_sessions(Trial *trial)
{
	uint64		cursor = 0;
	WeirGroup  *group;

	if (trial->window.kind != WEIR_SESSION)
		return;
	while ((group = weir_group_table_next(trial->table, &cursor)) != NULL)
	{
		Timestamp	lower;
		Timestamp	upper;
		WeirGroup  *first;
		const Held *held;

		if (weir_key_pane_at(&trial->format,
							 (char *) weir_group_key(trial->table, group)) == NULL)
			continue;
		if (!weir_session_of(trial->composer, group, &lower, &upper, &first))
		{
			if (weir_group_rows(trial->table, group) != 0)
				elog(ERROR, "a pane with rows is in no session");
			continue;
		}
		if (!is_wanted(trial, lower, upper, false, false))
			continue;
		if (!ItemPointerIsValid(&first->result_tid))
			elog(ERROR, "a session is not held");
		held = &trial->held[ItemPointerGetBlockNumber(&first->result_tid)];
		if (!held->live || held->lower != lower || held->upper != upper)
			elog(ERROR, "a session is held otherwise than it is");
	}
	weir_composer_reset(trial->composer);
}

/*
 * weir_session_around() of a row that is about to come, against all sessions that
 * are held of its key.
 */
static void
check_around(Trial *trial, const Row *row)
{
	char	   *image;
	uint32		hash;
	uint32		len;
	WeirSessionsAround around;
	Timestamp	least_expected = DT_NOEND;
	Timestamp	expected = row->ts + trial->window.slide;

	if (trial->window.kind != WEIR_SESSION || row->no_ts || row->diff < 0)
		return;
	image = palloc(weir_key_room(&trial->format));
	len = write_key(trial, row, image, &hash);
	for (int i = 0; i < trial->n_held; i++)
	{
		const Held *held = &trial->held[i];

		if (!held->live || !held->has_window ||
			!weir_key_equal(&trial->format, image,
							weir_group_key(trial->table, held->holder),
							WINDOW_KEY) ||
			row->ts >= held->upper ||
			held->lower - row->ts >= trial->window.slide)
			continue;
		least_expected = Min(least_expected, held->upper);
		expected = Max(expected, held->upper);
	}
	weir_session_around(trial->composer, image, len, row->ts, &around);
	if (around.least_upper != least_expected || around.upper != expected)
		elog(ERROR, "what is around a row is told wrongly");
	pfree(image);
}

/* ---- rows ---- */

static Datum *
take_array(ArrayType *array, int *n, bool **nulls)
{
	int16		typlen;
	bool		typbyval;
	char		typalign;
	Datum	   *values;

	get_typlenbyvalalign(ARR_ELEMTYPE(array), &typlen, &typbyval, &typalign);
	deconstruct_array(array, ARR_ELEMTYPE(array), typlen, typbyval, typalign,
					  &values, nulls, n);
	return values;
}

/* Arguments from `first` on: keys text[], times timestamptz[], nums numeric[],
 * texts text[], diffs bigint[], batches int[]. */
static Row *
take_rows(FunctionCallInfo fcinfo, int first, Oid key_type, int *n,
		  Datum **batches)
{
	Datum	   *columns[6];
	bool	   *nulls[6];
	Row		   *rows;
	Oid			input;
	Oid			ioparam;

	getTypeInputInfo(key_type, &input, &ioparam);
	for (int i = 0; i < 6; i++)
		columns[i] = take_array(PG_GETARG_ARRAYTYPE_P(first + i), n, &nulls[i]);
	rows = palloc0(sizeof(Row) * Max(*n, 1));
	for (int i = 0; i < *n; i++)
	{
		Row		   *row = &rows[i];

		row->no_key = nulls[0][i];
		if (!row->no_key)
			row->key = OidInputFunctionCall(input,
											TextDatumGetCString(columns[0][i]),
											ioparam, -1);
		row->no_ts = nulls[1][i];
		row->ts = DatumGetTimestampTz(columns[1][i]);
		row->values[FIRST] = row->values[LAST] = columns[1][i];
		row->nulls[FIRST] = row->nulls[LAST] = row->no_ts;
		row->values[SUM] = columns[2][i];
		row->nulls[SUM] = nulls[2][i];
		row->values[MAX_TEXT] = row->values[MIN_TEXT] = columns[3][i];
		row->nulls[MAX_TEXT] = row->nulls[MIN_TEXT] = nulls[3][i];
		row->diff = DatumGetInt64(columns[4][i]);
	}
	*batches = columns[5];
	return rows;
}

static void
put_text(Datum *value, bool *isnull, const char *text)
{
	*isnull = text == NULL;
	if (text != NULL)
		*value = CStringGetTextDatum(text);
}

static void
show_held(Trial *trial, Oid key_type, int batch, ReturnSetInfo *rsinfo)
{
	Oid			output;
	bool		is_varlena;

	getTypeOutputInfo(key_type, &output, &is_varlena);
	for (int i = 0; i < trial->n_held; i++)
	{
		const Held *held = &trial->held[i];
		Datum		keys[N_KEYS];
		bool		key_nulls[N_KEYS];
		Datum		values[8] = {0};
		bool		nulls[8] = {false};

		if (!held->live)
			continue;
		weir_key_read(&trial->format, weir_group_key(trial->table, held->holder),
					  keys, key_nulls);
		values[0] = Int32GetDatum(batch);
		put_text(&values[1], &nulls[1],
				 key_nulls[0] ? NULL : OidOutputFunctionCall(output, keys[0]));
		values[2] = TimestampTzGetDatum(held->lower);
		values[3] = TimestampTzGetDatum(held->upper);
		nulls[2] = nulls[3] = !held->has_window;
		values[4] = Int64GetDatum(held->n);
		put_text(&values[5], &nulls[5], held->sum);
		put_text(&values[6], &nulls[6], held->max_text);
		put_text(&values[7], &nulls[7], held->min_text);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
}

/*
 * weir_test_compose(call text, key_type regtype, coll regcollation,
 * retracts boolean, after timestamptz, until timestamptz, keys text[],
 * times timestamptz[], nums numeric[], texts text[], diffs bigint[],
 * batches int[]) -> (batch int, key text, lower timestamptz, upper timestamptz,
 * n bigint, total text, max_txt text, min_txt text)
 *
 * All rows of v after each batch.
 */
Datum
weir_test_compose(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Oid			key_type = PG_GETARG_OID(1);
	int			n;
	Datum	   *batches;
	Row		   *rows;
	Trial	   *trial;

	InitMaterializedSRF(fcinfo, 0);
	rows = take_rows(fcinfo, 6, key_type, &n, &batches);
	trial = open_trial(text_to_cstring(PG_GETARG_TEXT_PP(0)), key_type,
					   PG_GETARG_OID(2), PG_GETARG_BOOL(3), n);
	trial->after = PG_GETARG_TIMESTAMPTZ(4);
	trial->until = PG_GETARG_TIMESTAMPTZ(5);
	for (int i = 0; i < n;)
	{
		int			batch = DatumGetInt32(batches[i]);
		WeirOutcome *outcomes;
		int64		n_outcomes;

		if (trial->until == DT_NOEND && trial->after == DT_NOBEGIN)
			check_around(trial, &rows[i]);
		for (; i < n && DatumGetInt32(batches[i]) == batch; i++)
			fold_row(trial, &rows[i]);
		compose(trial, &outcomes, &n_outcomes);
		for (int64 o = 0; o < n_outcomes; o++)
			check_outcome(trial, &outcomes[o]);
		check_clusters(outcomes, n_outcomes);
		for (int64 o = 0; o < n_outcomes; o++)
			apply_outcome(trial, &outcomes[o]);
		weir_composer_reset(trial->composer);
		check_stores(trial, "after a reset");
		for (int d = 0; d < trial->n_dirty; d++)
			trial->dirty[d]->flags &= ~WEIR_GROUP_DIRTY;
		trial->n_dirty = 0;
		remove_empty(trial);
		check_sessions(trial);
		show_held(trial, key_type, batch, rsinfo);
	}
	close_trial(trial);
	return (Datum) 0;
}

/*
 * weir_test_starved_compose(call text, keys text[], times timestamptz[],
 * nums numeric[], texts text[], diffs bigint[], batches int[]) -> boolean:
 * has any attempt failed?
 *
 * Folds all rows, and composes with ever more of the budget left.  Raises when an
 * attempt that fails leaves a value behind.
 */
Datum
weir_test_starved_compose(PG_FUNCTION_ARGS)
{
	int			n;
	Datum	   *batches;
	Row		   *rows = take_rows(fcinfo, 1, TEXTOID, &n, &batches);
	Trial	   *trial = open_trial(text_to_cstring(PG_GETARG_TEXT_PP(0)), TEXTOID,
								   C_COLLATION_OID, true, n);
	WeirOutcome *volatile outcomes = NULL;
	volatile int failures = 0;
	Size		bytes;

	for (int i = 0; i < n; i++)
		fold_row(trial, &rows[i]);
	bytes = weir_value_store_bytes(trial->store);
	for (Size left = 0; outcomes == NULL; left += 1000)
	{
		Size		taken = (Size) weir_state_memory_kb * 1024 -
		pg_atomic_read_u64(&weir_shared->state_bytes) - left;
		MemoryContext old = CurrentMemoryContext;

		weir_budget_take(taken);
		PG_TRY();
		{
			WeirOutcome *made;
			int64		n_made;

			compose(trial, &made, &n_made);
			outcomes = made;
		}
		PG_CATCH();
		{
			MemoryContextSwitchTo(old);
			FlushErrorState();
			failures++;
			check_stores(trial, "after an error");
		}
		PG_END_TRY();
		weir_budget_give(taken);
	}
	weir_composer_reset(trial->composer);
	check_stores(trial, "after a reset");
	if (weir_value_store_bytes(trial->store) != bytes)
		elog(ERROR, "composing has changed the values of groups");
	close_trial(trial);
	PG_RETURN_BOOL(failures > 0);
}

/* ---- what it costs ---- */

/* Of this process: other work of the machine does not count. */
static double
cpu_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
	return now.tv_sec * 1e9 + now.tv_nsec;
}

/* Nanoseconds per window, of several rounds the best. */
static double
measure(WeirComposer *composer, WeirGroup **panes, int n, Trial *trial,
		int64 *n_windows)
{
	double		best = 0;

	for (int round = 0; round < 5; round++)
	{
		double		start = cpu_ns();
		double		ns;

		(void) weir_compose(composer, panes, n, is_wanted, trial, n_windows);
		ns = (cpu_ns() - start) / Max(*n_windows, 1);
		weir_composer_reset(composer);
		if (round == 0 || ns < best)
			best = ns;
	}
	return best;
}

/*
 * weir_test_compose_cost(call text, keys int, panes int) -> float8[]: windows
 * and nanoseconds a window, when all panes of all keys are given; when the last
 * one of each key is; and when of those only the first window is wanted.
 *
 * States: count(*) and sum(bigint), a row in each pane.
 */
Datum
weir_test_compose_cost(PG_FUNCTION_ARGS)
{
	int			n_keys = PG_GETARG_INT32(1);
	int			n_panes = PG_GETARG_INT32(2);
	Trial	   *trial = palloc0(sizeof(*trial));
	WeirGroup **panes = palloc_extended(sizeof(WeirGroup *) * n_keys * n_panes,
										MCXT_ALLOC_HUGE);
	WeirGroup **last = palloc(sizeof(WeirGroup *) * n_keys);
	char	   *image;
	Datum		result[6];
	int64		n_windows;
	Timestamp	lower;
	Timestamp	upper;

	trial->after = DT_NOBEGIN;
	trial->until = DT_NOEND;
	parse_window(trial, text_to_cstring(PG_GETARG_TEXT_PP(0)));
	prepare_key(trial, TEXTOID, C_COLLATION_OID);
	image = palloc(weir_key_room(&trial->format));
	trial->store = weir_value_store_create(CurrentMemoryContext);
	add_state(trial, 0, "count", InvalidOid);
	add_state(trial, 1, "sum", INT8OID);
	trial->table = weir_group_table_create(CurrentMemoryContext, &trial->format,
										   trial->states, 2, trial->words_size, 0);
	trial->composer = weir_composer_create(&trial->window, WINDOW_KEY,
										   &trial->format, trial->table,
										   trial->states, 2, -1, -1);
	for (int64 pane = 0; pane < n_panes; pane++)
		for (int64 key = 0; key < n_keys; key++)
		{
			Row			row = {0};
			uint32		hash;
			uint32		len;
			WeirGroup  *group;
			char		text[32];

			snprintf(text, sizeof(text), "user-%d", (int) key);
			row.key = CStringGetTextDatum(text);
			if (!weir_pane_bounds(&trial->window, pane, &row.ts, &upper))
				elog(ERROR, "pane has no bounds");
			len = write_key(trial, &row, image, &hash);
			pfree(DatumGetPointer(row.key));
			weir_group_table_upsert(trial->table, 1, &image, &len, &hash, &group);
			for (int i = 0; i < 2; i++)
			{
				char	   *words = WEIR_GROUP_WORDS(group) + trial->states[i].offset;
				Datum		value = Int64GetDatum(key);
				bool		null = false;

				trial->states[i].ops->advance(&trial->states[i], &words, &value,
											  &null, NULL, 1);
			}
			panes[pane * n_keys + key] = last[key] = group;
		}
	result[1] = Float8GetDatum(measure(trial->composer, panes, n_keys * n_panes,
									   trial, &n_windows));
	result[0] = Float8GetDatum(n_windows);
	result[3] = Float8GetDatum(measure(trial->composer, last, n_keys, trial,
									   &n_windows));
	result[2] = Float8GetDatum(n_windows);
	if (weir_pane_bounds(&trial->window, n_panes - 1, &lower, &upper))
		trial->until = upper;
	result[5] = Float8GetDatum(measure(trial->composer, last, n_keys, trial,
									   &n_windows));
	result[4] = Float8GetDatum(n_windows);
	close_trial(trial);
	PG_RETURN_ARRAYTYPE_P(construct_array(result, 6, FLOAT8OID, 8, true,
										  TYPALIGN_DOUBLE));
}

#endif							/* WEIR_TEST */
