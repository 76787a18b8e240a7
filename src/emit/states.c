/*-------------------------------------------------------------------------
 *
 * states.c
 *	  Rows of weir_data.state_<id>: one a group, written where it changed.
 *
 * The table belongs to the extension, has no index and no user type in it.  A
 * row holds the hash of the key, the TID of the row of v that the group holds, the
 * bytes of the group (state/state_bytes.c), and of a session the upper bound that
 * it had when that row was written.
 *
 *-------------------------------------------------------------------------
 */
#include "emit/emit.h"

#include "access/heapam.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "miscadmin.h"
#include "utils/snapmgr.h"

#define CHUNK 512

enum
{
	COLUMN_HASH,
	COLUMN_RESULT,
	COLUMN_STATE,
	COLUMN_PUBLISHED,
	N_COLUMNS
};

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

	resetStringInfo(bytes);
	appendStringInfoSpaces(bytes, VARHDRSZ);
	weir_group_save(table, group, bytes);
	SET_VARSIZE(bytes->data, bytes->len);

	ExecClearTuple(slot);
	slot->tts_values[COLUMN_HASH] = Int64GetDatum((int64) group->hash);
	slot->tts_isnull[COLUMN_HASH] = false;
	slot->tts_values[COLUMN_RESULT] = PointerGetDatum(tid);
	slot->tts_isnull[COLUMN_RESULT] = !placed;
	slot->tts_values[COLUMN_STATE] = PointerGetDatum(bytes->data);
	slot->tts_isnull[COLUMN_STATE] = false;
	slot->tts_isnull[COLUMN_PUBLISHED] = published == NULL || !placed;
	slot->tts_values[COLUMN_PUBLISHED] =
		published != NULL ? Int64GetDatum(*published) : (Datum) 0;
	ExecStoreVirtualTuple(slot);
}

/* A multi-insert leaves its copies of virtual tuples behind: in `chunk`. */
static void
flush(Relation rel, TupleTableSlot **slots, ItemPointer *at, int n,
	  MemoryContext chunk)
{
	MemoryContext old;

	if (n == 0)
		return;
	old = MemoryContextSwitchTo(chunk);
	table_multi_insert(rel, slots, n, GetCurrentCommandId(true), 0, NULL);
	MemoryContextSwitchTo(old);
	MemoryContextReset(chunk);
	for (int i = 0; i < n; i++)
		*at[i] = slots[i]->tts_tid;
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
update_state(Relation state_table, const WeirGroup *group,
			 TupleTableSlot *slot, ItemPointer at)
{
	ItemPointerData old = group->state_tid;
	TM_FailureData failure;
	LockTupleMode mode;
	WeirUpdateIndexes which;

	if (table_tuple_update(state_table, &old, slot,
						   GetCurrentCommandId(true),
						   GetActiveSnapshot(), InvalidSnapshot, true,
						   &failure, &mode, &which) != TM_Ok)
		state_is_missing();
	*at = slot->tts_tid;
}

static void
delete_state(Relation state_table, const WeirGroup *group)
{
	ItemPointerData old = group->state_tid;
	TM_FailureData failure;

	if (table_tuple_delete(state_table, &old, GetCurrentCommandId(true),
						   GetActiveSnapshot(), InvalidSnapshot, true,
						   &failure, false) != TM_Ok)
		state_is_missing();
}

void
weir_write_states(Relation state_table, const WeirGroupTable *table,
				  WeirGroup **groups, const bool *gone,
				  const ItemPointerData *results, const Timestamp *marks,
				  int n, ItemPointerData *places)
{
	TupleTableSlot *slots[CHUNK];
	StringInfoData bytes[CHUNK];
	ItemPointer at[CHUNK];
	int			n_slots = 0;
	int			pending = 0;
	TupleTableSlot *update_slot;
	StringInfoData update_bytes;
	MemoryContext chunk = AllocSetContextCreate(CurrentMemoryContext,
												"pg_weir state rows",
												ALLOCSET_DEFAULT_SIZES);

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
		if (gone[i] ||
			(!ItemPointerIsValid(unconstify(ItemPointerData *, &results[i])) &&
			 !weir_group_exists(table, group)))
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
			update_state(state_table, group, update_slot, &places[i]);
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
			flush(state_table, slots, at, pending, chunk);
			pending = 0;
		}
	}
	flush(state_table, slots, at, pending, chunk);

	for (int i = 0; i < n_slots; i++)
	{
		ExecDropSingleTupleTableSlot(slots[i]);
		pfree(bytes[i].data);
	}
	ExecDropSingleTupleTableSlot(update_slot);
	pfree(update_bytes.data);
	MemoryContextDelete(chunk);
}

void
weir_load_states(Relation state_table, WeirGroupTable *table, Size mark)
{
	TupleTableSlot *slot = table_slot_create(state_table, NULL);
	TableScanDesc scan = table_beginscan(state_table, GetActiveSnapshot(),
										 0, NULL);

	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		struct varlena *bytes;
		WeirGroup  *group;

		CHECK_FOR_INTERRUPTS();
		weir_progress++;
		slot_getallattrs(slot);
		bytes = PG_DETOAST_DATUM(slot->tts_values[COLUMN_STATE]);
		group = weir_group_load(table, VARDATA(bytes),
								VARSIZE(bytes) - VARHDRSZ);
		if (ItemPointerIsValid(&group->state_tid))
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("two stored states have the same key"),
					 errhint("Run weir.rebuild on the view.")));
		group->state_tid = slot->tts_tid;
		if (!slot->tts_isnull[COLUMN_RESULT])
			group->result_tid =
				*(ItemPointer) DatumGetPointer(slot->tts_values[COLUMN_RESULT]);
		/* the word is the complement of DT_NOBEGIN: worker.h */
		if (mark != WEIR_NO_PRESENCE)
			*(int64 *) (WEIR_GROUP_WORDS(group) + mark) =
				slot->tts_isnull[COLUMN_PUBLISHED] ? 0 :
				DatumGetInt64(slot->tts_values[COLUMN_PUBLISHED]) ^ DT_NOBEGIN;
		if ((Pointer) bytes != DatumGetPointer(slot->tts_values[COLUMN_STATE]))
			pfree(bytes);
	}
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
}
