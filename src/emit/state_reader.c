/*-------------------------------------------------------------------------
 *
 * state_reader.c
 *	  Rows of weir_data.state_<id>, back into memory: all of them, or by pane
 *	  and key.
 *
 * When a view is opened its groups are loaded, as far as there is room for them.
 * Later, what has stayed on disk or gone there is read through an index on the pane
 * and the hash of the other keys.  Two keys may have the same hash: both come, and
 * nothing is lost by that.
 *
 * A row whose group is in memory is passed over: memory is the newer one.
 *
 *-------------------------------------------------------------------------
 */
#include "emit/emit.h"
#include "emit/state_table.h"

#include "access/genam.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"

struct WeirStateReader
{
	Relation	rel;
	Relation	index;
	WeirGroupTable *table;
	Size		mark;
	IndexScanDesc scan;
	TupleTableSlot *slot;
};

/* The bytes of a stored state; *copy is to be freed, unless NULL. */
static const char *
state_bytes(TupleTableSlot *slot, Size *len, struct varlena **copy)
{
	Datum		stored = slot->tts_values[WEIR_STATE_BYTES];
	struct varlena *bytes;

	if (slot->tts_isnull[WEIR_STATE_BYTES])
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("a stored state is missing"),
				 errhint("Run weir.rebuild on the view.")));
	bytes = PG_DETOAST_DATUM(stored);
	*copy = (Pointer) bytes != DatumGetPointer(stored) ? bytes : NULL;
	*len = VARSIZE(bytes) - VARHDRSZ;
	return VARDATA(bytes);
}

/* The group of the row in a slot, loaded; NULL if it is in memory. */
static WeirGroup *
load_row(WeirGroupTable *table, Size mark, TupleTableSlot *slot)
{
	struct varlena *copy;
	Size		len;
	const char *bytes;
	WeirGroup  *group;

	CHECK_FOR_INTERRUPTS();
	weir_progress++;
	slot_getallattrs(slot);
	bytes = state_bytes(slot, &len, &copy);
	group = weir_group_load(table, bytes, len);
	if (copy != NULL)
		pfree(copy);
	if (group == NULL)
		return NULL;
	group->state_tid = slot->tts_tid;
	if (!slot->tts_isnull[WEIR_STATE_RESULT])
		group->result_tid =
			*(ItemPointer) DatumGetPointer(slot->tts_values[WEIR_STATE_RESULT]);
	/* the word is the complement of DT_NOBEGIN: worker.h */
	if (mark != WEIR_NO_PRESENCE)
		*(int64 *) (WEIR_GROUP_WORDS(group) + mark) =
			slot->tts_isnull[WEIR_STATE_PUBLISHED] ? 0 :
			DatumGetInt64(slot->tts_values[WEIR_STATE_PUBLISHED]) ^ DT_NOBEGIN;
	return group;
}

/* The columns must be those that we know: it may be of another version. */
static void
check_columns(Relation state_table)
{
	TupleDesc	desc = RelationGetDescr(state_table);

	if (desc->natts != WEIR_STATE_PUBLISHED + 1 ||
		strcmp(NameStr(TupleDescAttr(desc, WEIR_STATE_PANE)->attname),
			   "pane") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("the table of stored states has columns that this pg_weir does not know"),
				 errhint("Install the version of pg_weir that made it, or create the view again.")));
}

/* Sees to it that a row will be found by its key; *at is where it is. */
static void
see_it_is_found(Relation state_table, TupleTableSlot *slot,
				int64 pane, uint32 hash, ItemPointer at)
{
	if (DatumGetInt64(slot->tts_values[WEIR_STATE_PANE]) != pane ||
		DatumGetInt64(slot->tts_values[WEIR_STATE_HASH]) != (int64) hash)
		weir_rekey_state(state_table, slot, pane, hash, at);
}

/* What stays on disk is only checked. */
static void
leave_row(Relation state_table, WeirGroupTable *table, TupleTableSlot *slot,
		  WeirEvicted *evicted)
{
	struct varlena *copy;
	Size		len;
	const char *bytes = state_bytes(slot, &len, &copy);
	int64		pane;
	uint32		hash;
	ItemPointerData at;

	weir_group_check(table, bytes, len, &pane, &hash);
	if (copy != NULL)
		pfree(copy);
	see_it_is_found(state_table, slot, pane, hash, &at);
	weir_evicted_add(evicted, pane, 1);
}

static void
take_row(Relation state_table, WeirGroupTable *table, Size mark,
		 TupleTableSlot *slot)
{
	const WeirKeyFormat *format = weir_group_table_format(table);
	WeirGroup  *group = load_row(table, mark, slot);
	const char *image;

	if (group == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("two stored states have the same key"),
				 errhint("Run weir.rebuild on the view.")));
	image = weir_group_key(table, group);
	see_it_is_found(state_table, slot, weir_stored_pane(format, image),
					weir_key_hash_others(format, image, group->hash),
					&group->state_tid);
}

void
weir_load_states(Relation state_table, WeirGroupTable *table, Size mark,
				 WeirMayStay may_stay, void *arg, WeirEvicted *evicted)
{
	TupleTableSlot *slot = table_slot_create(state_table, NULL);
	TableScanDesc scan;

	check_columns(state_table);
	scan = table_beginscan(state_table, GetActiveSnapshot(), 0, NULL);
	/* what was written last is at the end, mostly */
	while (table_scan_getnextslot(scan, BackwardScanDirection, slot))
	{
		slot_getallattrs(slot);
		if (may_stay(arg, DatumGetInt64(slot->tts_values[WEIR_STATE_PANE])))
		{
			CHECK_FOR_INTERRUPTS();
			weir_progress++;
			leave_row(state_table, table, slot, evicted);
		}
		else
			take_row(state_table, table, mark, slot);
	}
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
}

Oid
weir_state_index(Relation state_table)
{
	List	   *indexes = RelationGetIndexList(state_table);
	Oid			index = indexes == NIL ? InvalidOid : linitial_oid(indexes);

	list_free(indexes);
	return index;
}

WeirStateReader *
weir_state_reader_begin(Relation state_table, WeirGroupTable *table, Size mark)
{
	WeirStateReader *reader = palloc0(sizeof(*reader));

	reader->rel = state_table;
	reader->table = table;
	reader->mark = mark;
	reader->index = index_open(weir_state_index(state_table), AccessShareLock);
	reader->scan = weir_index_beginscan(state_table, reader->index,
										GetActiveSnapshot(), 3);
	reader->slot = table_slot_create(state_table, NULL);
	return reader;
}

void
weir_state_reader_seek(WeirStateReader *reader, int64 pane,
					   uint32 first, uint32 last)
{
	ScanKeyData keys[3];

	ScanKeyInit(&keys[0], WEIR_STATE_PANE + 1, BTEqualStrategyNumber, F_INT8EQ,
				Int64GetDatum(pane));
	ScanKeyInit(&keys[1], WEIR_STATE_HASH + 1, BTGreaterEqualStrategyNumber,
				F_INT8GE, Int64GetDatum((int64) first));
	ScanKeyInit(&keys[2], WEIR_STATE_HASH + 1, BTLessEqualStrategyNumber,
				F_INT8LE, Int64GetDatum((int64) last));
	index_rescan(reader->scan, keys, 3, NULL, 0);
}

WeirGroup *
weir_state_reader_next(WeirStateReader *reader)
{
	while (index_getnext_slot(reader->scan, ForwardScanDirection, reader->slot))
	{
		WeirGroup  *group = load_row(reader->table, reader->mark, reader->slot);

		if (group != NULL)
			return group;
	}
	return NULL;
}

int64
weir_state_reader_delete(WeirStateReader *reader, int64 most)
{
	int64		n = 0;

	while (n < most &&
		   index_getnext_slot(reader->scan, ForwardScanDirection, reader->slot))
	{
		TM_FailureData failure;

		CHECK_FOR_INTERRUPTS();
		weir_progress++;
		if (table_tuple_delete(reader->rel, &reader->slot->tts_tid,
							   GetCurrentCommandId(true), GetActiveSnapshot(),
							   InvalidSnapshot, true, &failure, false) == TM_Ok)
			n++;
		if ((n & 127) == 127)
			weir_flush_in_portions();
	}
	return n;
}

void
weir_state_reader_end(WeirStateReader *reader)
{
	index_endscan(reader->scan);
	index_close(reader->index, AccessShareLock);
	ExecDropSingleTupleTableSlot(reader->slot);
	pfree(reader);
}
