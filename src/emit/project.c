/*-------------------------------------------------------------------------
 *
 * project.c
 *	  From a group to its row of v: finished aggregates, HAVING, expressions.
 *
 * The input of the expressions is one virtual tuple: the keys, then the
 * results of the aggregate calls.  Expressions are the user's own; the caller has
 * switched to the view's owner in a restricted operation.
 *
 *-------------------------------------------------------------------------
 */
#include "emit/emit.h"

#include "access/tupdesc.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "utils/timestamp.h"

struct WeirProjector
{
	int			n_keys;
	int			window_key;
	WeirWindow	window;
	int			n_calls;
	const WeirKeyFormat *format;
	WeirState  *states;
	WeirFinish *finishes;
	int		   *state_of;

	ExprContext *econtext;
	TupleTableSlot *group_slot; /* keys and results */
	TupleTableSlot *row_slot;	/* of v */
	ProjectionInfo *projection;
	ExprState  *having;
};

WeirProjector *
weir_projector_create(const WeirPlan *plan, const WeirKeyFormat *format,
					  const WeirWindow *window, WeirState *states,
					  const WeirFinish *finishes, const int *state_of)
{
	WeirProjector *projector = palloc0(sizeof(*projector));
	int			n = plan->n_keys + plan->n_calls;
	TupleDesc	group_desc = CreateTemplateTupleDesc(n);

	projector->n_keys = plan->n_keys;
	projector->window_key = plan->window_key;
	if (plan->window_key >= 0)
		projector->window = *window;
	projector->n_calls = plan->n_calls;
	projector->format = format;
	projector->states = states;
	projector->finishes = palloc(sizeof(WeirFinish) * Max(plan->n_calls, 1));
	memcpy(projector->finishes, finishes, sizeof(WeirFinish) * plan->n_calls);
	projector->state_of = palloc(sizeof(int) * Max(plan->n_calls, 1));
	memcpy(projector->state_of, state_of, sizeof(int) * plan->n_calls);

	for (int i = 0; i < plan->n_keys; i++)
	{
		TupleDescInitEntry(group_desc, i + 1, NULL, plan->keys[i].type,
						   plan->keys[i].typmod, 0);
		TupleDescInitEntryCollation(group_desc, i + 1, plan->keys[i].collation);
	}
	for (int i = 0; i < plan->n_calls; i++)
	{
		Aggref	   *aggref = plan->calls[i].aggref;

		TupleDescInitEntry(group_desc, plan->n_keys + i + 1, NULL,
						   aggref->aggtype, -1, 0);
		TupleDescInitEntryCollation(group_desc, plan->n_keys + i + 1,
									aggref->aggcollid);
	}

	projector->econtext = CreateStandaloneExprContext();
	projector->group_slot = MakeSingleTupleTableSlot(group_desc,
													 &TTSOpsVirtual);
	projector->row_slot =
		MakeSingleTupleTableSlot(ExecTypeFromTL(plan->targets), &TTSOpsVirtual);
	projector->econtext->ecxt_outertuple = projector->group_slot;
	projector->projection = ExecBuildProjectionInfo(plan->targets,
													projector->econtext,
													projector->row_slot,
													NULL, group_desc);
	projector->having = ExecInitQual(make_ands_implicit(plan->having), NULL);
	return projector;
}

TupleDesc
weir_projector_desc(const WeirProjector *projector)
{
	return projector->row_slot->tts_tupleDescriptor;
}

TupleTableSlot *
weir_project(WeirProjector *projector, const WeirGroupTable *table,
			 const WeirOutcome *outcome)
{
	TupleTableSlot *slot = projector->group_slot;
	MemoryContext old;

	if (outcome->words == NULL)
		return NULL;
	old = MemoryContextSwitchTo(projector->econtext->ecxt_per_tuple_memory);
	ExecClearTuple(slot);
	weir_key_read(projector->format, weir_group_key(table, outcome->holder),
				  slot->tts_values, slot->tts_isnull);
	if (outcome->has_window)
		slot->tts_values[projector->window_key] =
			weir_window_range(&projector->window, outcome->lower,
							  outcome->upper);
	for (int i = 0; i < projector->n_calls; i++)
	{
		WeirState  *state = &projector->states[projector->state_of[i]];
		int			at = projector->n_keys + i;

		slot->tts_values[at] = projector->finishes[i] (state,
													   outcome->words + state->offset,
													   &slot->tts_isnull[at]);
	}
	ExecStoreVirtualTuple(slot);
	MemoryContextSwitchTo(old);

	if (projector->having != NULL &&
		!ExecQual(projector->having, projector->econtext))
		return NULL;
	return ExecProject(projector->projection);
}

void
weir_projector_reset(WeirProjector *projector)
{
	ResetExprContext(projector->econtext);
}
