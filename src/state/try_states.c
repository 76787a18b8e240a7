/*-------------------------------------------------------------------------
 *
 * try_states.c
 *	  Test builds: aggregates folded by our states, without a worker.
 *
 * weir_test_fold() drives an aggregate call's state through a stream of rows
 * that are given and taken back, the way a worker would, and shows the groups
 * that are left; the test compares with Postgres' own aggregate.  The other two
 * look at what SQL cannot: memory under keys that come and go, and a merge
 * that runs out of budget.
 *
 * The functions exist in SQL only where a test declares them.
 *
 *-------------------------------------------------------------------------
 */
#include "state/trial.h"

#ifdef WEIR_TEST

#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "nodes/makefuncs.h"
#include "parser/parse_func.h"
#include "runtime/shared.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

PG_FUNCTION_INFO_V1(weir_test_fold);
PG_FUNCTION_INFO_V1(weir_test_churn);
PG_FUNCTION_INFO_V1(weir_test_starved_merge);

/* Rows between two saves, or two removals of empty groups. */
#define BATCH WEIR_TRIAL_BATCH

void
weir_trial_open_groups(WeirTrial *trial)
{
	trial->store = weir_value_store_create(CurrentMemoryContext);
	trial->states = palloc0(2 * sizeof(WeirState));
	weir_state_prepare(&trial->states[0], &trial->class_, trial->aggref,
					   trial->store);
	trial->states[1].ops = &weir_count_rows;
	trial->states[1].offset = trial->states[0].ops->size;
	trial->words_size = trial->states[1].offset + weir_count_rows.size;
	trial->table = weir_group_table_create(CurrentMemoryContext,
										   &trial->format, trial->states, 2,
										   trial->words_size,
										   trial->states[1].offset);
}

void
weir_trial_close_groups(WeirTrial *trial)
{
	weir_group_table_destroy(trial->table);
	weir_value_store_destroy(trial->store);
}

WeirTrial *
weir_trial_open(Oid aggregate, Oid type, Oid collation, bool retracts)
{
	WeirTrial	   *trial = palloc0(sizeof(*trial));
	Aggref	   *aggref = makeNode(Aggref);
	Const	   *arg = makeNullConst(type, -1, collation);

	aggref->aggfnoid = aggregate;
	aggref->aggtype = get_func_rettype(aggregate);
	if (IsPolymorphicType(aggref->aggtype))
		aggref->aggtype = type;
	aggref->inputcollid = aggref->aggcollid = collation;
	if (get_func_nargs(aggregate) > 0)
		aggref->args = list_make1(makeTargetEntry((Expr *) arg, 1, NULL, false));
	trial->aggref = aggref;
	trial->class_ = weir_classify(aggref, retracts);
	if (trial->class_.ops == NULL)
		elog(ERROR, "aggregate has no state");
	if (trial->class_.ops->retracts != retracts && retracts)
		elog(ERROR, "state \"%s\" does not retract", trial->class_.ops->name);

	trial->part.typlen = -1;
	trial->part.exact = true;
	trial->format.n = 1;
	trial->format.window = -1;
	trial->format.exact = true;
	trial->format.parts = &trial->part;
	weir_trial_open_groups(trial);
	return trial;
}

void
weir_trial_fold(WeirTrial *trial, int n, Datum *keys, Datum *values,
				bool *nulls, int64 *diffs)
{
	char	   *images[BATCH];
	uint32		lens[BATCH];
	uint32		hashes[BATCH];
	WeirGroup  *groups[BATCH];
	char	   *words[BATCH];

	for (int i = 0; i < n; i++)
	{
		bool		none[INDEX_MAX_KEYS] = {false};

		images[i] = palloc(weir_key_room(&trial->format));
		lens[i] = weir_key_write(&trial->format, &keys[i * trial->format.n],
								 none, images[i], &hashes[i]);
	}
	weir_group_table_upsert(trial->table, n, images, lens, hashes, groups);
	for (int s = 0; s < 2; s++)
	{
		WeirState  *state = &trial->states[s];

		for (int i = 0; i < n; i++)
			words[i] = WEIR_GROUP_WORDS(groups[i]) + state->offset;
		state->ops->advance(state, words, values, nulls, diffs, n);
	}
	for (int i = 0; i < n; i++)
		pfree(images[i]);
}

WeirGroup **
weir_trial_groups(WeirTrial *trial, int *n)
{
	WeirGroup **groups;
	WeirGroup  *group;
	uint64		cursor = 0;

	*n = 0;
	groups = palloc(sizeof(WeirGroup *) *
					(weir_group_table_count(trial->table) + 1));
	while ((group = weir_group_table_next(trial->table, &cursor)) != NULL)
		groups[(*n)++] = group;
	if (*n != weir_group_table_count(trial->table))
		elog(ERROR, "table counts its groups wrongly");
	return groups;
}

static void
remove_empty(WeirTrial *trial)
{
	int			n;
	WeirGroup **groups = weir_trial_groups(trial, &n);

	for (int i = 0; i < n; i++)
		if (weir_group_rows(trial->table, groups[i]) == 0)
			weir_group_table_remove(trial->table, groups[i]);
	pfree(groups);
}

/* Saves each group of `from` and hands its bytes to `take`. */
static void
hand_over(WeirTrial *from, WeirTrial *to,
		  WeirGroup *(*take) (WeirGroupTable *, const char *, Size))
{
	int			n;
	WeirGroup **groups = weir_trial_groups(from, &n);

	for (int i = 0; i < n; i++)
	{
		StringInfoData bytes;

		initStringInfo(&bytes);
		weir_group_save(from->table, groups[i], &bytes);
		take(to->table, bytes.data, bytes.len);
		pfree(bytes.data);
	}
	pfree(groups);
}

/* As if the worker had started again. */
static void
reload(WeirTrial *trial)
{
	WeirTrial		old = *trial;

	weir_trial_open_groups(trial);
	hand_over(&old, trial, weir_group_load);
	weir_trial_close_groups(&old);
}

static void
reset_all(WeirTrial *trial)
{
	int			n;
	WeirGroup **groups = weir_trial_groups(trial, &n);

	for (int i = 0; i < n; i++)
		weir_group_reset(trial->table, groups[i]);
	pfree(groups);
	if (weir_value_store_bytes(trial->store) != 0)
		elog(ERROR, "reset left values behind");
}

/* A row for each group that is left. */
static void
show_groups(WeirTrial *trial, Oid type, ReturnSetInfo *rsinfo)
{
	WeirGroup  *group;
	uint64		cursor = 0;
	Oid			output;
	bool		is_varlena;

	getTypeOutputInfo(trial->aggref->aggtype, &output, &is_varlena);
	while ((group = weir_group_table_next(trial->table, &cursor)) != NULL)
	{
		Datum		values[3];
		bool		nulls[3] = {false};
		Datum		key;
		Datum		result;

		weir_key_read(&trial->format, weir_group_key(trial->table, group),
					  &key, &nulls[0]);
		values[0] = key;
		values[1] = Int64GetDatum(weir_group_rows(trial->table, group));
		result = trial->class_.finish(&trial->states[0],
									  WEIR_GROUP_WORDS(group), &nulls[2]);
		values[2] = nulls[2] ? (Datum) 0 :
			CStringGetTextDatum(OidOutputFunctionCall(output, result));
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
}

/*
 * weir_test_fold(aggregate regprocedure, type regtype, coll regcollation,
 * keys text[], vals text[], diffs bigint[], how text) -> (key, rows, result)
 *
 * how: plain; reload (save and load between batches); merge and merge_back
 * (every other row goes to a second table, which is merged into the first, or
 * the first into it); reset (everything twice, forgotten in between); append
 * (the states of a source without retraction, the second half merged).
 */
Datum
weir_test_fold(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Oid			type = PG_GETARG_OID(1);
	char	   *how = text_to_cstring(PG_GETARG_TEXT_PP(6));
	bool		append = strcmp(how, "append") == 0;
	bool		merges = append || strncmp(how, "merge", 5) == 0;
	Datum	   *keys;
	Datum	   *texts;
	Datum	   *diffs;
	bool	   *nulls;
	int			n;
	Oid			input;
	Oid			ioparam;
	WeirTrial	   *trials[2];
	int			rounds = strcmp(how, "reset") == 0 ? 2 : 1;

	InitMaterializedSRF(fcinfo, 0);
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(3), TEXTOID, -1, false,
					  TYPALIGN_INT, &keys, NULL, &n);
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(4), TEXTOID, -1, false,
					  TYPALIGN_INT, &texts, &nulls, &n);
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(5), INT8OID, 8, true,
					  TYPALIGN_DOUBLE, &diffs, NULL, &n);
	getTypeInputInfo(type, &input, &ioparam);
	for (int t = 0; t < 2; t++)
		trials[t] = weir_trial_open(PG_GETARG_OID(0), type, PG_GETARG_OID(2), !append);

	while (rounds-- > 0)
	{
		for (int first = 0; first < n;)
		{
			Datum		batch_keys[2][BATCH];
			Datum		values[2][BATCH];
			bool		is_null[2][BATCH];
			int64		times[2][BATCH];
			int			size[2] = {0, 0};

			for (; first < n && size[0] < BATCH && size[1] < BATCH; first++)
			{
				int			t = merges ? first % 2 : 0;
				int			i = size[t]++;

				batch_keys[t][i] = keys[first];
				is_null[t][i] = nulls[first];
				values[t][i] = nulls[first] ? (Datum) 0 :
					OidInputFunctionCall(input, TextDatumGetCString(texts[first]),
										 ioparam, -1);
				times[t][i] = DatumGetInt64(diffs[first]);
			}
			for (int t = 0; t < 2; t++)
				weir_trial_fold(trials[t], size[t], batch_keys[t], values[t], is_null[t],
					 append ? NULL : times[t]);
			if (!append)
				remove_empty(trials[0]);
			if (strcmp(how, "reload") == 0)
				reload(trials[0]);
		}
		if (rounds > 0)
			reset_all(trials[0]);
	}
	if (strcmp(how, "merge_back") == 0)
	{
		WeirTrial	   *swap = trials[0];

		trials[0] = trials[1];
		trials[1] = swap;
	}
	if (merges)
	{
		hand_over(trials[1], trials[0], weir_group_merge);
		if (!append)
			remove_empty(trials[0]);
	}
	show_groups(trials[0], type, rsinfo);
	remove_empty(trials[0]);
	for (int t = 0; t < 2; t++)
	{
		reset_all(trials[t]);
		weir_trial_close_groups(trials[t]);
	}
	return (Datum) 0;
}

/*
 * weir_test_churn(groups int, rounds int) -> bigint[]: groups left, bytes of
 * the table after two rounds and after all, and of the values, likewise.
 *
 * Each round gives rows of new keys, of lengths of their own, and takes those
 * of the round before back.
 */
Datum
weir_test_churn(PG_FUNCTION_ARGS)
{
	int			n_groups = PG_GETARG_INT32(0);
	int			rounds = PG_GETARG_INT32(1);
	WeirTrial	   *trial;
	Datum		result[5] = {0};
	Oid			min_text;
	Oid			text_type = TEXTOID;

	min_text = LookupFuncName(list_make2(makeString("pg_catalog"),
										 makeString("min")),
							  1, &text_type, false);
	trial = weir_trial_open(min_text, TEXTOID, C_COLLATION_OID, true);
	for (int round = 0; round < rounds; round++)
	{
		for (int age = 0; age < Min(round + 1, 2); age++)
			for (int i = 0; i < n_groups; i++)
			{
				char		key[100];
				Datum		datum;
				bool		null = false;
				int64		diff = age == 0 ? 1 : -1;

				snprintf(key, sizeof(key), "%d-%d-%.*s", round - age, i,
						 i % 50, "the length of a key should differ, so it gets a tail");
				datum = CStringGetTextDatum(key);
				weir_trial_fold(trial, 1, &datum, &datum, &null, &diff);
				pfree(DatumGetPointer(datum));
			}
		remove_empty(trial);
		if (round == 1 || round == rounds - 1)
		{
			int			at = round == 1 ? 0 : 1;

			result[1 + at] = Int64GetDatum(weir_group_table_bytes(trial->table));
			result[3 + at] = Int64GetDatum(weir_value_store_bytes(trial->store));
		}
	}
	result[0] = Int64GetDatum(weir_group_table_count(trial->table));
	weir_trial_close_groups(trial);
	PG_RETURN_ARRAYTYPE_P(construct_array(result, 5, INT8OID, 8, true,
										  TYPALIGN_DOUBLE));
}

/* Everything that is known of a trial's groups, in the order of their slots. */
static char *
fingerprint(WeirTrial *trial)
{
	StringInfoData bytes;
	StringInfoData hex;
	int			n;
	WeirGroup **groups = weir_trial_groups(trial, &n);

	initStringInfo(&bytes);
	initStringInfo(&hex);
	for (int i = 0; i < n; i++)
		weir_group_save(trial->table, groups[i], &bytes);
	appendStringInfo(&hex, "%zu bytes: ", weir_value_store_bytes(trial->store));
	for (int i = 0; i < bytes.len; i++)
		appendStringInfo(&hex, "%02x", (unsigned char) bytes.data[i]);
	return hex.data;
}

/*
 * weir_test_starved_merge(aggregate regprocedure, type regtype, a text[],
 * b text[]) -> boolean: has any attempt failed?
 *
 * Merges a group of the values b into one of the values a with ever more of
 * the budget left.  Raises when an attempt that fails leaves a trace.
 */
Datum
weir_test_starved_merge(PG_FUNCTION_ARGS)
{
	Oid			type = PG_GETARG_OID(1);
	WeirTrial	   *trials[2];
	Oid			input;
	Oid			ioparam;
	StringInfoData bytes;
	char	   *before;
	int			n_groups;
	volatile int failures = 0;
	volatile bool done = false;

	getTypeInputInfo(type, &input, &ioparam);
	for (int t = 0; t < 2; t++)
	{
		Datum	   *texts;
		int			n;
		int64		diff = 1;
		bool		null = false;
		Datum		key = CStringGetTextDatum("k");

		trials[t] = weir_trial_open(PG_GETARG_OID(0), type, C_COLLATION_OID, true);
		deconstruct_array(PG_GETARG_ARRAYTYPE_P(2 + t), TEXTOID, -1, false,
						  TYPALIGN_INT, &texts, NULL, &n);
		for (int i = 0; i < n; i++)
		{
			Datum		value = OidInputFunctionCall(input,
													 TextDatumGetCString(texts[i]),
													 ioparam, -1);

			weir_trial_fold(trials[t], 1, &key, &value, &null, &diff);
		}
	}
	initStringInfo(&bytes);
	weir_group_save(trials[1]->table, weir_trial_groups(trials[1], &n_groups)[0],
					&bytes);
	before = fingerprint(trials[0]);
	for (Size left = 0; !done; left += 8)
	{
		Size		taken = (Size) weir_state_memory_kb * 1024 -
			pg_atomic_read_u64(&weir_shared->state_bytes) - left;
		MemoryContext old = CurrentMemoryContext;

		weir_budget_take(taken);
		PG_TRY();
		{
			weir_group_merge(trials[0]->table, bytes.data, bytes.len);
			done = true;
		}
		PG_CATCH();
		{
			MemoryContextSwitchTo(old);
			FlushErrorState();
			failures++;
		}
		PG_END_TRY();
		weir_budget_give(taken);
		if (!done && strcmp(before, fingerprint(trials[0])) != 0)
			elog(ERROR, "a merge that failed left a trace, with %zu bytes left",
				 left);
	}
	for (int t = 0; t < 2; t++)
	{
		reset_all(trials[t]);
		weir_trial_close_groups(trials[t]);
	}
	PG_RETURN_BOOL(failures > 0);
}

#endif							/* WEIR_TEST */
