/*-------------------------------------------------------------------------
 *
 * view_functions.c
 *	  What the monitoring views of schema weir cannot say in SQL.
 *
 * The views join the catalog tables to weir_data.definitions(): the views of
 * this database exactly as the worker sees them.  The functions live in
 * weir_data, where users have no USAGE; they run only inside our views, which
 * filter by privilege behind a security barrier.  What is of the server as a whole
 * (weir.state_memory_taken) is for everybody.
 *
 * Counters come from the catalog tables, as of the reader's snapshot, and so
 * agree with the rows that he sees.  What only the worker knows comes from
 * runtime/.
 *
 *-------------------------------------------------------------------------
 */
#include "weir.h"

#include "access/htup_details.h"
#include "catalog/weir_catalog.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "runtime/shared.h"
#include "state/state.h"
#include "utils/builtins.h"
#include "utils/pg_lsn.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(weir_definitions);
PG_FUNCTION_INFO_V1(weir_sql_now);
PG_FUNCTION_INFO_V1(weir_sql_home);
PG_FUNCTION_INFO_V1(weir_changes_read_to);
PG_FUNCTION_INFO_V1(weir_state_memory_taken);

static const char *
kind_name(WeirSourceKind kind)
{
	switch (kind)
	{
		case WEIR_SOURCE_KAFKA:
			return "kafka";
		case WEIR_SOURCE_TABLE:
			return "table";
		case WEIR_SOURCE_STREAM:
			return "stream";
	}
	pg_unreachable();
}

/*
 * (view oid, id text, owner oid, source oid, kind text, paused boolean,
 * changelog oid)
 */
Datum
weir_definitions(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	List	   *views = weir_catalog_views();
	ListCell   *lc;

	InitMaterializedSRF(fcinfo, 0);
	foreach(lc, views)
	{
		WeirViewDef *view = lfirst(lc);
		Datum		values[7];
		bool		nulls[7] = {false};

		values[0] = ObjectIdGetDatum(view->relid);
		values[1] = CStringGetTextDatum(view->id);
		values[2] = ObjectIdGetDatum(view->owner);
		values[3] = ObjectIdGetDatum(view->source);
		values[4] = CStringGetTextDatum(kind_name(view->source_kind));
		values[5] = BoolGetDatum(view->paused);
		values[6] = ObjectIdGetDatum(view->changelog);
		nulls[6] = !OidIsValid(view->changelog);
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/* The clock that tests move. */
Datum
weir_sql_now(PG_FUNCTION_ARGS)
{
	PG_RETURN_TIMESTAMPTZ(weir_now());
}

/* Bytes of weir.state_memory, by all views of the server; 0 where none can be. */
Datum
weir_state_memory_taken(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(weir_preloaded ? (int64) weir_budget_taken() : 0);
}

/* Where OIDs of ours are valid: weir_data.views.home. */
Datum
weir_sql_home(PG_FUNCTION_ARGS)
{
	PG_RETURN_TEXT_P(cstring_to_text(weir_home()));
}

/*
 * How far the worker has read the changes of this database: (read_to pg_lsn,
 * read_by timestamptz), all of it folded by the views that run, and all that
 * committed by that time.  NULLs while nobody reads.  Not of the reader's
 * snapshot: for telling how fresh a view is, not what is in it.
 */
Datum
weir_changes_read_to(PG_FUNCTION_ARGS)
{
	WeirSlot   *slot = weir_slot_of(MyDatabaseId, WEIR_GROUP_CHANGES);
	TupleDesc	desc;
	Datum		values[2] = {(Datum) 0, (Datum) 0};
	bool		nulls[2] = {true, true};

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	if (slot != NULL)
	{
		LWLockAcquire(weir_shared->lock, LW_SHARED);
		if (slot->pid != 0)
		{
			values[0] = LSNGetDatum(pg_atomic_read_u64(&slot->read_to));
			values[1] = TimestampTzGetDatum((TimestampTz) pg_atomic_read_u64(&slot->read_by));
			nulls[0] = DatumGetLSN(values[0]) == InvalidXLogRecPtr;
			nulls[1] = DatumGetTimestampTz(values[1]) == 0;
		}
		LWLockRelease(weir_shared->lock);
	}
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(desc, values, nulls)));
}
