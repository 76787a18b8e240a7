/*-------------------------------------------------------------------------
 *
 * row_writer.c
 *	  Writes the rows of a table and their index entries.
 *
 * For tables of the user's that we alone write, v and its changelog: through the
 * table access method, which takes a tenth of what a statement does.  Rows are
 * known by their TIDs; new ones go in by the page.  No trigger fires and no
 * constraint is checked but unique indexes and NOT NULL: what a user adds of that
 * kind is not ours to obey half.  NOT NULL is no matter of taste: code that takes
 * tuples apart, JIT's above all, trusts in it and would take the bytes of the next
 * column for the one that is missing.  Index expressions are the user's code; the
 * caller has switched to the owner in a restricted operation.
 *
 *-------------------------------------------------------------------------
 */
#include "emit/row_writer.h"

#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_inherits.h"
#include "executor/executor.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

/* Rows handed to table_multi_insert at once, and bytes, as COPY does. */
#define CHUNK_ROWS 512
#define CHUNK_BYTES (1024 * 1024)

struct WeirRowWriter
{
	Relation	rel;
	EState	   *estate;
	ResultRelInfo *target;
	CommandId	cid;
	int			n_not_null;
	AttrNumber *not_null;		/* columns that are NOT NULL */
	int			n_pending;		/* new rows that are not written yet */
	Size		pending_bytes;
	TupleTableSlot *pending[CHUNK_ROWS];
	ItemPointer places[CHUNK_ROWS];
	int			n_slots;		/* made so far */
	MemoryContext mcxt;			/* the caller's, for slots */
	MemoryContext chunk;		/* what a multi-insert forgets to free */
};

void
weir_check_alone(Relation rel, const char *repair)
{
	if (rel->rd_rel->relispartition)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("\"%s\" has become a partition",
						RelationGetRelationName(rel)),
				 errdetail("Rows that are inserted into its parent can end up in it."),
				 errhint("Detach it, and run %s on the view.", repair)));
	if (has_superclass(RelationGetRelid(rel)))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("\"%s\" has become a child of another table",
						RelationGetRelationName(rel)),
				 errdetail("Rows that are updated or deleted in its parent can be its own."),
				 errhint("Run ALTER TABLE ... NO INHERIT, and then %s on the view.",
						 repair)));
}

static void
find_not_null(WeirRowWriter *writer)
{
	TupleDesc	desc = RelationGetDescr(writer->rel);

	writer->not_null = palloc(sizeof(AttrNumber) * Max(desc->natts, 1));
	for (int i = 0; i < desc->natts; i++)
		if (!TupleDescAttr(desc, i)->attisdropped &&
			TupleDescAttr(desc, i)->attnotnull)
			writer->not_null[writer->n_not_null++] = i + 1;
}

static void
check_not_null(const WeirRowWriter *writer, TupleTableSlot *row)
{
	for (int i = 0; i < writer->n_not_null; i++)
	{
		AttrNumber	column = writer->not_null[i];

		if (slot_attisnull(row, column))
		{
			char	   *name = NameStr(TupleDescAttr(RelationGetDescr(writer->rel),
													 column - 1)->attname);

			ereport(ERROR,
					(errcode(ERRCODE_NOT_NULL_VIOLATION),
					 errmsg("column \"%s\" of \"%s\" is NOT NULL, and the view has a row without a value for it",
							name, RelationGetRelationName(writer->rel)),
					 errhint("Run ALTER TABLE ... ALTER COLUMN ... DROP NOT NULL, and then weir.resume on the view."),
					 errtablecol(writer->rel, column)));
		}
	}
}

WeirRowWriter *
weir_row_writer_begin(Relation rel)
{
	WeirRowWriter *writer = palloc0(sizeof(*writer));

	writer->rel = rel;
	writer->estate = CreateExecutorState();
	writer->target = makeNode(ResultRelInfo);

	/*
	 * No range table stands behind it (index 0): the executor then takes all
	 * indexes for unchanged by an update, which is a hint for their clean-up
	 * only, and true of those that we make.
	 */
	InitResultRelInfo(writer->target, rel, 0, NULL, 0);
	ExecOpenIndices(writer->target, false);
	find_not_null(writer);
	writer->cid = GetCurrentCommandId(true);
	writer->mcxt = CurrentMemoryContext;
	writer->chunk = AllocSetContextCreate(CurrentMemoryContext,
										  "pg_weir rows",
										  ALLOCSET_DEFAULT_SIZES);
	return writer;
}

static void
index_row(WeirRowWriter *writer, TupleTableSlot *slot, bool update,
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
flush(WeirRowWriter *writer)
{
	MemoryContext old;

	if (writer->n_pending == 0)
		return;
	old = MemoryContextSwitchTo(writer->chunk);
	/* no BulkInsertState: its small ring would evict what we update next */
	table_multi_insert(writer->rel, writer->pending, writer->n_pending,
					   writer->cid, 0, NULL);
	MemoryContextSwitchTo(old);
	MemoryContextReset(writer->chunk);
	for (int i = 0; i < writer->n_pending; i++)
	{
		if (writer->places[i] != NULL)
			*writer->places[i] = writer->pending[i]->tts_tid;
		index_row(writer, writer->pending[i], false, WEIR_UPDATE_ALL_INDEXES);
		ExecClearTuple(writer->pending[i]);
	}
	writer->n_pending = 0;
	writer->pending_bytes = 0;
}

void
weir_insert_row(WeirRowWriter *writer, TupleTableSlot *row, ItemPointer place)
{
	TupleTableSlot *slot;
	VirtualTupleTableSlot *copy;

	check_not_null(writer, row);
	if (writer->n_pending == writer->n_slots)
	{
		MemoryContext old = MemoryContextSwitchTo(writer->mcxt);

		writer->pending[writer->n_slots++] =
			MakeSingleTupleTableSlot(RelationGetDescr(writer->rel),
									 &TTSOpsVirtual);
		MemoryContextSwitchTo(old);
	}
	slot = writer->pending[writer->n_pending];
	ExecCopySlot(slot, row);
	slot->tts_tableOid = RelationGetRelid(writer->rel);
	copy = (VirtualTupleTableSlot *) slot;
	if (copy->data != NULL)
		writer->pending_bytes += GetMemoryChunkSpace(copy->data);
	writer->places[writer->n_pending++] = place;
	if (writer->n_pending == CHUNK_ROWS || writer->pending_bytes >= CHUNK_BYTES)
		flush(writer);
}

bool
weir_update_row(WeirRowWriter *writer, ItemPointer place, TupleTableSlot *row)
{
	TM_FailureData failure;
	LockTupleMode mode;
	WeirUpdateIndexes which;

	check_not_null(writer, row);
	row->tts_tableOid = RelationGetRelid(writer->rel);
	if (table_tuple_update(writer->rel, place, row, writer->cid,
						   GetActiveSnapshot(), InvalidSnapshot, true,
						   &failure, &mode, &which) != TM_Ok)
		return false;
	*place = row->tts_tid;
	if (weir_must_update_indexes(which))
		index_row(writer, row, true, which);
	return true;
}

bool
weir_delete_row(WeirRowWriter *writer, ItemPointer place)
{
	TM_FailureData failure;

	if (table_tuple_delete(writer->rel, place, writer->cid,
						   GetActiveSnapshot(), InvalidSnapshot, true,
						   &failure, false) != TM_Ok)
		return false;
	ItemPointerSetInvalid(place);
	return true;
}

bool
weir_fetch_row(WeirRowWriter *writer, const ItemPointerData *place,
			   TupleTableSlot *slot)
{
	ItemPointerData tid = *place;

	return table_tuple_fetch_row_version(writer->rel, &tid,
										 GetActiveSnapshot(), slot);
}

void
weir_row_writer_flush(WeirRowWriter *writer)
{
	flush(writer);
}

void
weir_row_writer_end(WeirRowWriter *writer)
{
	flush(writer);
	for (int i = 0; i < writer->n_slots; i++)
		ExecDropSingleTupleTableSlot(writer->pending[i]);
	MemoryContextDelete(writer->chunk);
	ExecCloseIndices(writer->target);
	pfree(writer->not_null);
	FreeExecutorState(writer->estate);
	pfree(writer);
}
