/*-------------------------------------------------------------------------
 *
 * results.c
 *	  Rows of v, written through the table access method.
 *
 * Receives the groups that changed.  A group that has a row in v knows its TID,
 * which costs a tenth of finding it through an index; new rows go in by the
 * page.  No trigger fires and no constraint is checked: what a user adds to v
 * of that kind is not ours to obey half.
 *
 * A group whose rows have all been taken back loses its row, and neither
 * HAVING nor an expression of the user's is run for it.
 *
 * Nothing is remembered here: the new TIDs go to the caller's placements, which
 * it applies once the transaction has committed.
 *
 *-------------------------------------------------------------------------
 */
#include "emit/emit.h"

#include "access/heapam.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"

/* Rows handed to table_multi_insert at once. */
#define CHUNK 512

/* v, its indexes, and new rows that are not written yet. */
typedef struct Writer
{
	Relation	v;
	EState	   *estate;
	ResultRelInfo *target;
	CommandId	cid;
	int			n_pending;
	TupleTableSlot *pending[CHUNK];
	WeirPlacement *pending_at[CHUNK];
	int			n_slots;		/* made so far */
	MemoryContext chunk;		/* what a multi-insert forgets to free */
} Writer;

static void
begin(Writer *writer, Relation v)
{
	memset(writer, 0, sizeof(*writer));
	writer->v = v;
	writer->estate = CreateExecutorState();
	writer->target = makeNode(ResultRelInfo);
	/*
	 * No range table stands behind it (index 0): the executor then takes all
	 * indexes for unchanged by an update, which is a hint for their clean-up
	 * only, and true of those that we make.
	 */
	InitResultRelInfo(writer->target, v, 0, NULL, 0);
	ExecOpenIndices(writer->target, false);
	writer->cid = GetCurrentCommandId(true);
	writer->chunk = AllocSetContextCreate(CurrentMemoryContext,
										  "pg_weir rows",
										  ALLOCSET_DEFAULT_SIZES);
}

static void
index_row(Writer *writer, TupleTableSlot *slot, bool update,
		  WeirUpdateIndexes which)
{
	if (writer->target->ri_NumIndices == 0)
		return;
	GetPerTupleExprContext(writer->estate)->ecxt_scantuple = slot;
	list_free(weir_insert_index_tuples(writer->target, slot, writer->estate,
									   update, which));
	ResetPerTupleExprContext(writer->estate);
}

static void
flush(Writer *writer)
{
	MemoryContext old;

	if (writer->n_pending == 0)
		return;
	old = MemoryContextSwitchTo(writer->chunk);
	/* no BulkInsertState: its small ring would evict what we update next */
	table_multi_insert(writer->v, writer->pending, writer->n_pending,
					   writer->cid, 0, NULL);
	MemoryContextSwitchTo(old);
	MemoryContextReset(writer->chunk);
	for (int i = 0; i < writer->n_pending; i++)
	{
		writer->pending_at[i]->tid = writer->pending[i]->tts_tid;
		index_row(writer, writer->pending[i], false, WEIR_UPDATE_ALL_INDEXES);
		ExecClearTuple(writer->pending[i]);
	}
	writer->n_pending = 0;
}

static void
insert_row(Writer *writer, TupleTableSlot *row, WeirPlacement *at)
{
	TupleTableSlot *slot;

	if (writer->n_pending == writer->n_slots)
	{
		writer->pending[writer->n_slots++] =
			MakeSingleTupleTableSlot(RelationGetDescr(writer->v),
									 &TTSOpsVirtual);
	}
	slot = writer->pending[writer->n_pending];
	ExecCopySlot(slot, row);
	slot->tts_tableOid = RelationGetRelid(writer->v);
	writer->pending_at[writer->n_pending++] = at;
	if (writer->n_pending == CHUNK)
		flush(writer);
}

weir_noreturn
static void
row_has_vanished(Relation v)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("a row of \"%s\" that pg_weir wrote is gone or was changed by somebody else",
					RelationGetRelationName(v)),
			 errhint("Run weir.rebuild on the view.")));
}

static void
update_row(Writer *writer, const ItemPointerData *tid, TupleTableSlot *row,
		   WeirPlacement *at)
{
	TM_FailureData failure;
	LockTupleMode mode;
	WeirUpdateIndexes which;
	ItemPointerData old = *tid;

	row->tts_tableOid = RelationGetRelid(writer->v);
	if (table_tuple_update(writer->v, &old, row, writer->cid,
						   GetActiveSnapshot(), InvalidSnapshot, true,
						   &failure, &mode, &which) != TM_Ok)
		row_has_vanished(writer->v);
	at->tid = row->tts_tid;
	if (weir_must_update_indexes(which))
		index_row(writer, row, true, which);
}

static void
delete_row(Writer *writer, const ItemPointerData *tid, WeirPlacement *at)
{
	TM_FailureData failure;
	ItemPointerData old = *tid;

	if (table_tuple_delete(writer->v, &old, writer->cid, GetActiveSnapshot(),
						   InvalidSnapshot, true, &failure, false) != TM_Ok)
		row_has_vanished(writer->v);
	ItemPointerSetInvalid(&at->tid);
}

/* Before a rewrite: whatever rows v has. */
static void
delete_all(Writer *writer)
{
	TupleTableSlot *slot = table_slot_create(writer->v, NULL);
	TableScanDesc scan = table_beginscan(writer->v, GetActiveSnapshot(), 0, NULL);
	WeirPlacement ignored;

	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		CHECK_FOR_INTERRUPTS();
		weir_progress++;
		delete_row(writer, &slot->tts_tid, &ignored);
	}
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
}

static void
end(Writer *writer)
{
	flush(writer);
	for (int i = 0; i < writer->n_slots; i++)
		ExecDropSingleTupleTableSlot(writer->pending[i]);
	MemoryContextDelete(writer->chunk);
	ExecCloseIndices(writer->target);
	FreeExecutorState(writer->estate);
}

/* As much as the log of a few hundred rows: a flush of a millisecond. */
#define PORTION_BYTES (256 * 1024)

void
weir_flush_in_portions(void)
{
	static XLogRecPtr flushed = InvalidXLogRecPtr;

	if (XactLastRecEnd > flushed + PORTION_BYTES)
	{
		XLogFlush(XactLastRecEnd);
		flushed = XactLastRecEnd;
	}
}

bool
weir_group_exists(const WeirGroupTable *table, const WeirGroup *group)
{
	int64		rows = weir_group_rows(table, group);

	if (rows < 0)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("more rows were deleted than inserted in a group of the view"),
				 errdetail("The group has %lld rows.", (long long) rows),
				 errhint("Run weir.rebuild on the view.")));
	return rows > 0 || weir_group_table_format(table)->n == 0;
}

/* Is the row of outcome i the first of its page?  Then tidies that. */
static void
tidy_before(Relation v, const WeirOutcome *outcomes, int i, int n)
{
	BlockNumber block =
		ItemPointerGetBlockNumberNoCheck(&outcomes[i].holder->result_tid);
	int			end = i + 1;

	if (i > 0 && block ==
		ItemPointerGetBlockNumberNoCheck(&outcomes[i - 1].holder->result_tid))
		return;
	while (end < n && block ==
		   ItemPointerGetBlockNumberNoCheck(&outcomes[end].holder->result_tid))
		end++;
	weir_tidy(v, &outcomes[i].holder->result_tid, end - i);
}

void
weir_write_results(Relation v, WeirProjector *projector,
				   const WeirGroupTable *table, const WeirOutcome *outcomes,
				   int n, WeirChangelog *changelog, WeirPlacement *placements)
{
	Writer		writer;

	begin(&writer, v);
	for (int i = 0; i < n; i++)
	{
		const WeirGroup *holder = outcomes[i].holder;
		bool		placed = ItemPointerIsValid((ItemPointer) &holder->result_tid);
		TupleTableSlot *row;

		if ((i & 1023) == 0)
			CHECK_FOR_INTERRUPTS();
		if ((i & 127) == 127)
			weir_flush_in_portions();
		weir_progress++;
		if (i + WEIR_GROUPS_AHEAD < n)
			weir_group_prefetch(outcomes[i + WEIR_GROUPS_AHEAD].holder);
		if (placed)
			tidy_before(v, outcomes, i, n);
		row = weir_project(projector, table, &outcomes[i]);
		ItemPointerSetInvalid(&placements[i].tid);
		if (row != NULL && placed)
			update_row(&writer, &holder->result_tid, row, &placements[i]);
		else if (row != NULL)
			insert_row(&writer, row, &placements[i]);
		else if (placed)
			delete_row(&writer, &holder->result_tid, &placements[i]);
		weir_projector_reset(projector);
	}
	end(&writer);
}

/* The skeleton of emit/replace.c: all rows go, and come again. */
void
weir_replace_results(Relation v, WeirProjector *projector,
					 const WeirGroupTable *table, const WeirOutcome *outcomes,
					 int n, AttrNumber window_column, Timestamp settled,
					 Timestamp emitted, WeirChangelog *changelog,
					 WeirPlacement *placements)
{
	Writer		writer;

	begin(&writer, v);
	delete_all(&writer);
	for (int i = 0; i < n; i++)
	{
		TupleTableSlot *row = weir_project(projector, table, &outcomes[i]);

		ItemPointerSetInvalid(&placements[i].tid);
		if (row != NULL)
			insert_row(&writer, row, &placements[i]);
		weir_projector_reset(projector);
	}
	end(&writer);
}
