/*-------------------------------------------------------------------------
 *
 * event_time.c
 *	  weir.watermark() and weir.is_closed(): how far event time has come in a
 *	  view, for those who read it.
 *
 * The answer is of the query's own snapshot: a reader sees the rows of v, and the
 * watermark that was committed with them.  So it is read from weir_data.status,
 * row by row below SQL, for which the reader needs SELECT on v and nothing else.
 *
 * is_closed() stands in WHERE and is asked for each row, so the watermark is
 * remembered for as long as the snapshot is the same.
 *
 *-------------------------------------------------------------------------
 */
#include "weir.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "catalog/view_ddl.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rangetypes.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(weir_watermark);
PG_FUNCTION_INFO_V1(weir_is_closed);

/* What a call keeps in fn_extra. */
typedef struct KnownWatermark
{
	Oid			view;
	Snapshot	snapshot;		/* registered with nobody: compared, not used */
	TimestampTz watermark;		/* DT_NOBEGIN: none */
} KnownWatermark;

/*
 * Do two snapshots see the same?  What a transaction changes for others is seen
 * by a snapshot that no longer has it among the running ones.
 */
static bool
same_snapshot(Snapshot a, Snapshot b)
{
	return a->xmin == b->xmin && a->xmax == b->xmax &&
		a->xcnt == b->xcnt && a->subxcnt == b->subxcnt &&
		a->suboverflowed == b->suboverflowed && a->curcid == b->curcid &&
		memcmp(a->xip, b->xip, a->xcnt * sizeof(TransactionId)) == 0 &&
		memcmp(a->subxip, b->subxip, a->subxcnt * sizeof(TransactionId)) == 0;
}

/*
 * One row of a table of ours, found by an index: a copy, NULL if there is none.
 * Also the shape of its table, copied.
 */
static HeapTuple
read_row(const char *table, const char *index, AttrNumber attno,
		 RegProcedure equals, Datum value, Snapshot snapshot, TupleDesc *desc)
{
	Relation	rel = table_open(weir_data_table(table), AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, attno, BTEqualStrategyNumber, equals, value);
	scan = systable_beginscan(rel, weir_data_table(index), true, snapshot, 1,
							  &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
		tuple = heap_copytuple(tuple);
	*desc = CreateTupleDescCopy(RelationGetDescr(rel));
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return tuple;
}

static AttrNumber
column_number(TupleDesc desc, const char *name)
{
	for (int i = 0; i < desc->natts; i++)
		if (!TupleDescAttr(desc, i)->attisdropped &&
			strcmp(NameStr(TupleDescAttr(desc, i)->attname), name) == 0)
			return i + 1;
	elog(ERROR, "weir_data.status has no column \"%s\"", name);
}

/* The watermark of a view in a snapshot; DT_NOBEGIN if it has none. */
static TimestampTz
read_watermark(Oid view, Snapshot snapshot)
{
	HeapTuple	row = NULL;
	TupleDesc	desc;
	Datum		value;
	bool		isnull;
	AclResult	allowed = ACLCHECK_OK;

	/* a view that has gone is met by who reads at REPEATABLE READ */
	if (get_rel_name(view) != NULL)
		allowed = pg_class_aclcheck(view, GetUserId(), ACL_SELECT);
	if (allowed != ACLCHECK_OK)
		aclcheck_error(allowed, OBJECT_TABLE, get_rel_name(view));

	if (weir_catalog_exists())
		row = read_row("views", "views_relid", VIEWS_RELID, F_OIDEQ,
					   ObjectIdGetDatum(view), snapshot, &desc);
	if (row == NULL ||
		strcmp(TextDatumGetCString(heap_getattr(row, VIEWS_HOME, desc, &isnull)),
			   weir_home()) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is not a continuous view",
						get_rel_name(view) ? get_rel_name(view) : psprintf("%u", view)),
				 errhint("See weir.views for the continuous views of this database.")));

	row = read_row("status", "status_pkey", 1, F_TEXTEQ,
				   heap_getattr(row, VIEWS_ID, desc, &isnull), snapshot, &desc);
	if (row == NULL)
		return DT_NOBEGIN;
	value = heap_getattr(row, column_number(desc, "watermark"), desc, &isnull);
	return isnull ? DT_NOBEGIN : DatumGetTimestampTz(value);
}

/* The same, from memory if the snapshot is still the same. */
static TimestampTz
get_watermark(FmgrInfo *flinfo, Oid view)
{
	KnownWatermark *known = flinfo->fn_extra;
	Snapshot	snapshot = GetActiveSnapshot();
	MemoryContext old;
	Size		xips = snapshot->xcnt * sizeof(TransactionId);
	Size		subxips = snapshot->subxcnt * sizeof(TransactionId);
	TimestampTz watermark;

	if (known != NULL && known->view == view &&
		same_snapshot(known->snapshot, snapshot))
		return known->watermark;

	watermark = read_watermark(view, snapshot);
	if (known != NULL)
	{
		flinfo->fn_extra = NULL;
		pfree(known->snapshot);
		pfree(known);
	}
	old = MemoryContextSwitchTo(flinfo->fn_mcxt);
	known = palloc0(sizeof(KnownWatermark));
	known->view = view;
	known->watermark = watermark;
	known->snapshot = palloc0(sizeof(SnapshotData) + xips + subxips);
	*known->snapshot = *snapshot;
	known->snapshot->xip = (TransactionId *) (known->snapshot + 1);
	known->snapshot->subxip = known->snapshot->xip + snapshot->xcnt;
	memcpy(known->snapshot->xip, snapshot->xip, xips);
	memcpy(known->snapshot->subxip, snapshot->subxip, subxips);
	MemoryContextSwitchTo(old);
	flinfo->fn_extra = known;
	return watermark;
}

/* weir.watermark(view regclass) returns timestamptz */
Datum
weir_watermark(PG_FUNCTION_ARGS)
{
	TimestampTz watermark = get_watermark(fcinfo->flinfo, PG_GETARG_OID(0));

	if (watermark == DT_NOBEGIN)
		PG_RETURN_NULL();
	PG_RETURN_TIMESTAMPTZ(watermark);
}

/*
 * weir.is_closed(view regclass, window tstzrange or tsrange) returns boolean
 *
 * Closed is what ends at or before the watermark.  The NULL window never closes,
 * nor does one without an end; an empty range is no window.
 */
Datum
weir_is_closed(PG_FUNCTION_ARGS)
{
	TimestampTz watermark;
	RangeType  *range;
	RangeBound	lower;
	RangeBound	upper;
	bool		empty;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	watermark = get_watermark(fcinfo->flinfo, PG_GETARG_OID(0));
	if (PG_ARGISNULL(1) || watermark == DT_NOBEGIN)
		PG_RETURN_BOOL(false);

	range = PG_GETARG_RANGE_P(1);
	range_deserialize(lookup_type_cache(RangeTypeGetOid(range),
										TYPECACHE_RANGE_INFO),
					  range, &lower, &upper, &empty);
	if (empty || upper.infinite)
		PG_RETURN_BOOL(false);
	PG_RETURN_BOOL(upper.inclusive ?
				   DatumGetTimestampTz(upper.val) < watermark :
				   DatumGetTimestampTz(upper.val) <= watermark);
}
