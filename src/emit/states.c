/*-------------------------------------------------------------------------
 *
 * states.c
 *	  Rows of weir_data.state_<id>: one a group, written where it changed.
 *
 * The table belongs to the extension and has no user type in it.  A row holds the
 * number of the pane, the hash of the other keys, the TID of the row of v that the
 * group holds, the bytes of the group (state/state_bytes.c), and of a session the
 * upper bound that it had when that row was written.
 *
 * It has no index, until the view's groups do not fit in memory any more: then one
 * on pane and hash, by which state_reader.c finds what is asked for.  Neither of
 * these ever changes in a row, so updates stay HOT.
 *
 *-------------------------------------------------------------------------
 */
#include "emit/emit.h"
#include "emit/state_table.h"

#include "access/heapam.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "replication/origin.h"
#include "storage/lmgr.h"
#include "utils/snapmgr.h"

#define CHUNK 512

/*
 * Fills slot with the row of a group; the state is built in bytes.  published is
 * NULL but for sessions.
 */
static void
fill(TupleTableSlot *slot, const WeirGroupTable *table,
	 const WeirGroup *group, const ItemPointerData *result,
	 const Timestamp *published, StringInfo bytes)
{
	ItemPointer tid = unconstify(ItemPointerData *, result);
	bool		placed = ItemPointerIsValid(tid);

	const char *image = weir_group_key(table, group);
	const WeirKeyFormat *format = weir_group_table_format(table);

	resetStringInfo(bytes);
	appendStringInfoSpaces(bytes, VARHDRSZ);
	weir_group_save(table, group, bytes);
	SET_VARSIZE(bytes->data, bytes->len);

	ExecClearTuple(slot);
	slot->tts_values[WEIR_STATE_PANE] =
		Int64GetDatum(weir_stored_pane(format, image));
	slot->tts_isnull[WEIR_STATE_PANE] = false;
	slot->tts_values[WEIR_STATE_HASH] =
		Int64GetDatum((int64) weir_key_hash_others(format, image, group->hash));
	slot->tts_isnull[WEIR_STATE_HASH] = false;
	slot->tts_values[WEIR_STATE_RESULT] = PointerGetDatum(tid);
	slot->tts_isnull[WEIR_STATE_RESULT] = !placed;
	slot->tts_values[WEIR_STATE_BYTES] = PointerGetDatum(bytes->data);
	slot->tts_isnull[WEIR_STATE_BYTES] = false;
	slot->tts_isnull[WEIR_STATE_PUBLISHED] = published == NULL || !placed;
	slot->tts_values[WEIR_STATE_PUBLISHED] =
		published != NULL ? Int64GetDatum(*published) : (Datum) 0;
	ExecStoreVirtualTuple(slot);
}

/* The state table, while its rows are written. */
typedef struct StateWriter
{
	Relation	rel;
	EState	   *estate;			/* NULL without an index */
	ResultRelInfo *target;
	MemoryContext chunk;		/* what a multi-insert forgets to free */
} StateWriter;

static void
begin_writing(StateWriter *writer, Relation rel)
{
	writer->rel = rel;
	writer->estate = NULL;
	writer->chunk = AllocSetContextCreate(CurrentMemoryContext,
										  "pg_weir state rows",
										  ALLOCSET_DEFAULT_SIZES);
	if (!rel->rd_rel->relhasindex)
		return;
	writer->estate = CreateExecutorState();
	writer->target = makeNode(ResultRelInfo);
	InitResultRelInfo(writer->target, rel, 0, NULL, 0);
	ExecOpenIndices(writer->target, false);
}

static void
end_writing(StateWriter *writer)
{
	if (writer->estate != NULL)
	{
		ExecCloseIndices(writer->target);
		FreeExecutorState(writer->estate);
	}
	MemoryContextDelete(writer->chunk);
}

static void
index_state(StateWriter *writer, TupleTableSlot *slot, bool update,
			WeirUpdateIndexes which)
{
	if (writer->estate == NULL)
		return;
	slot->tts_tableOid = RelationGetRelid(writer->rel);
	GetPerTupleExprContext(writer->estate)->ecxt_scantuple = slot;
	list_free(weir_insert_index_tuples(writer->target, slot, writer->estate,
									   update, which));
	ResetPerTupleExprContext(writer->estate);
}

/* A multi-insert leaves its copies of virtual tuples behind: in `chunk`. */
static void
flush(StateWriter *writer, TupleTableSlot **slots, ItemPointer *at, int n)
{
	MemoryContext old;

	if (n == 0)
		return;
	old = MemoryContextSwitchTo(writer->chunk);
	table_multi_insert(writer->rel, slots, n, GetCurrentCommandId(true), 0, NULL);
	MemoryContextSwitchTo(old);
	MemoryContextReset(writer->chunk);
	for (int i = 0; i < n; i++)
	{
		*at[i] = slots[i]->tts_tid;
		index_state(writer, slots[i], false, WEIR_UPDATE_ALL_INDEXES);
	}
}

/* Is the row of group i the first of its page?  Then tidies that. */
static void
tidy_before(Relation state_table, WeirGroup **groups, int i, int n)
{
	BlockNumber block = ItemPointerGetBlockNumberNoCheck(&groups[i]->state_tid);
	int			end = i + 1;

	if (i > 0 && block ==
		ItemPointerGetBlockNumberNoCheck(&groups[i - 1]->state_tid))
		return;
	while (end < n && block ==
		   ItemPointerGetBlockNumberNoCheck(&groups[end]->state_tid))
		end++;
	weir_tidy(state_table, &groups[i]->state_tid, end - i);
}

weir_noreturn
static void
state_is_missing(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("a stored state is missing"),
			 errhint("Run weir.rebuild on the view.")));
}

static void
update_state(StateWriter *writer, const WeirGroup *group,
			 TupleTableSlot *slot, ItemPointer at)
{
	ItemPointerData old = group->state_tid;
	TM_FailureData failure;
	LockTupleMode mode;
	WeirUpdateIndexes which;

	if (table_tuple_update(writer->rel, &old, slot,
						   GetCurrentCommandId(true),
						   GetActiveSnapshot(), InvalidSnapshot, true,
						   &failure, &mode, &which) != TM_Ok)
		state_is_missing();
	*at = slot->tts_tid;
	if (weir_must_update_indexes(which))
		index_state(writer, slot, true, which);
}

/* Cells of a session may come from disk with each other, also when they are deleted. */
static void
delete_state(Relation state_table, const WeirGroup *group)
{
	ItemPointerData old = group->state_tid;
	TM_FailureData failure;
	TM_Result	result = table_tuple_delete(state_table, &old,
											GetCurrentCommandId(true),
											GetActiveSnapshot(),
											InvalidSnapshot, true,
											&failure, false);

	if (result != TM_Ok && result != TM_SelfModified)
		state_is_missing();
}

/* Is there nothing of a group that is to be stored? */
static bool
is_nothing(const WeirGroupTable *table, const WeirGroup *group,
		   const ItemPointerData *result)
{
	return !ItemPointerIsValid(unconstify(ItemPointerData *, result)) &&
		!weir_group_exists(table, group);
}

void
weir_write_states(Relation state_table, const WeirGroupTable *table,
				  WeirGroup **groups, const bool *gone,
				  const ItemPointerData *results, const Timestamp *marks,
				  int n, bool partial, ItemPointerData *places)
{
	StateWriter writer;
	TupleTableSlot *slots[CHUNK];
	StringInfoData bytes[CHUNK];
	ItemPointer at[CHUNK];
	int			n_slots = 0;
	int			pending = 0;
	TupleTableSlot *update_slot;
	StringInfoData update_bytes;

	begin_writing(&writer, state_table);
	initStringInfo(&update_bytes);
	update_slot = MakeSingleTupleTableSlot(RelationGetDescr(state_table),
										   &TTSOpsVirtual);
	for (int i = 0; i < n; i++)
	{
		const WeirGroup *group = groups[i];
		bool		placed = ItemPointerIsValid((ItemPointer) &group->state_tid);

		if ((i & 1023) == 0)
			CHECK_FOR_INTERRUPTS();
		if ((i & 127) == 127)
			weir_flush_in_portions();
		weir_progress++;
		if (i + WEIR_GROUPS_AHEAD < n)
			weir_group_prefetch(groups[i + WEIR_GROUPS_AHEAD]);
		if (placed)
			tidy_before(state_table, groups, i, n);
		if (gone[i] || (!partial && is_nothing(table, group, &results[i])))
		{
			if (placed)
				delete_state(state_table, group);
			ItemPointerSetInvalid(&places[i]);
			continue;
		}
		if (placed)
		{
			fill(update_slot, table, group, &results[i],
				 marks ? &marks[i] : NULL, &update_bytes);
			update_state(&writer, group, update_slot, &places[i]);
			continue;
		}

		if (pending == n_slots)
		{
			slots[n_slots] = MakeSingleTupleTableSlot(RelationGetDescr(state_table),
													  &TTSOpsVirtual);
			initStringInfo(&bytes[n_slots]);
			n_slots++;
		}
		fill(slots[pending], table, group, &results[i],
			 marks ? &marks[i] : NULL, &bytes[pending]);
		at[pending++] = &places[i];
		if (pending == CHUNK)
		{
			flush(&writer, slots, at, pending);
			pending = 0;
		}
	}
	flush(&writer, slots, at, pending);

	for (int i = 0; i < n_slots; i++)
	{
		ExecDropSingleTupleTableSlot(slots[i]);
		pfree(bytes[i].data);
	}
	ExecDropSingleTupleTableSlot(update_slot);
	pfree(update_bytes.data);
	end_writing(&writer);
}

void
weir_rekey_state(Relation state_table, TupleTableSlot *stored,
				 int64 pane, uint32 hash, ItemPointer at)
{
	WeirGroup	group = {.state_tid = stored->tts_tid};
	StateWriter writer;
	TupleTableSlot *slot = MakeSingleTupleTableSlot(RelationGetDescr(state_table),
													&TTSOpsVirtual);

	LockRelationOid(RelationGetRelid(state_table), RowExclusiveLock);
	slot_getallattrs(stored);
	for (int i = 0; i < stored->tts_nvalid; i++)
	{
		slot->tts_values[i] = stored->tts_values[i];
		slot->tts_isnull[i] = stored->tts_isnull[i];
	}
	slot->tts_values[WEIR_STATE_PANE] = Int64GetDatum(pane);
	slot->tts_values[WEIR_STATE_HASH] = Int64GetDatum((int64) hash);
	ExecStoreVirtualTuple(slot);

	begin_writing(&writer, state_table);
	PG_TRY();
	{
		replorigin_session_origin = DoNotReplicateId;
		update_state(&writer, &group, slot, at);
	}
	PG_FINALLY();
	{
		replorigin_session_origin = InvalidRepOriginId;
	}
	PG_END_TRY();
	end_writing(&writer);
	ExecDropSingleTupleTableSlot(slot);
}
