/*-------------------------------------------------------------------------
 *
 * try_row_image.c
 *	  Test builds: images of rows in a session.
 *
 * weir_test_row_image(table, tid, record) compares a row as it is stored, with
 * whatever compression and headers it has, to one that was just computed: what
 * results.c and replace.c do.  record is of the table's row type.
 *
 * The function exists in SQL only where a test declares it.
 *
 *-------------------------------------------------------------------------
 */
#include "emit/row_image.h"

#ifdef WEIR_TEST

#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "funcapi.h"
#include "utils/array.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/typcache.h"

PG_FUNCTION_INFO_V1(weir_test_row_image);

/*
 * A Datum from a tuple in the form that functions give theirs: an unsigned number
 * without a sign in its upper bytes, an array that is being worked on.
 */
static Datum
as_computed(Datum value, Form_pg_attribute att)
{
	if (att->attbyval && att->attlen == sizeof(uint32))
		return UInt32GetDatum((uint32) value);
	if (OidIsValid(get_element_type(att->atttypid)) && att->attlen == -1)
		return expand_array(value, CurrentMemoryContext, NULL);
	return value;
}

static TupleTableSlot *
computed_row(HeapTupleHeader record)
{
	TupleDesc	desc = lookup_rowtype_tupdesc(HeapTupleHeaderGetTypeId(record),
											  HeapTupleHeaderGetTypMod(record));
	TupleTableSlot *slot = MakeSingleTupleTableSlot(CreateTupleDescCopy(desc),
													&TTSOpsVirtual);
	HeapTupleData tuple = {
		.t_len = HeapTupleHeaderGetDatumLength(record),
		.t_data = record
	};

	heap_deform_tuple(&tuple, desc, slot->tts_values, slot->tts_isnull);
	for (int i = 0; i < desc->natts; i++)
		if (!slot->tts_isnull[i] && !TupleDescAttr(desc, i)->attisdropped)
			slot->tts_values[i] = as_computed(slot->tts_values[i],
											  TupleDescAttr(desc, i));
	ExecStoreVirtualTuple(slot);
	ReleaseTupleDesc(desc);
	return slot;
}

/* RETURNS (equal boolean, same_hash boolean) */
Datum
weir_test_row_image(PG_FUNCTION_ARGS)
{
	Relation	rel = table_open(PG_GETARG_OID(0), AccessShareLock);
	ItemPointerData tid = *(ItemPointer) PG_GETARG_POINTER(1);
	TupleTableSlot *computed = computed_row(PG_GETARG_HEAPTUPLEHEADER(2));
	TupleTableSlot *stored = table_slot_create(rel, NULL);
	TupleDesc	desc;
	Datum		values[2];
	bool		nulls[2] = {false, false};
	bool		equal;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	if (!table_tuple_fetch_row_version(rel, &tid, GetActiveSnapshot(), stored))
		elog(ERROR, "there is no such row");
	equal = weir_row_image_equal(stored, computed);
	if (equal != weir_row_image_equal(computed, stored))
		elog(ERROR, "equality of images is not symmetric");
	values[0] = BoolGetDatum(equal);
	values[1] = BoolGetDatum(weir_row_image_hash(stored) ==
							 weir_row_image_hash(computed));
	ExecDropSingleTupleTableSlot(stored);
	ExecDropSingleTupleTableSlot(computed);
	table_close(rel, AccessShareLock);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc),
													  values, nulls)));
}

#endif							/* WEIR_TEST */
