/*-------------------------------------------------------------------------
 *
 * view_functions.c
 *	  What the monitoring views of schema weir cannot say in SQL.
 *
 * The views join the catalog tables to weir_data.definitions(): the views of
 * this database exactly as the worker sees them.  Both functions live in
 * weir_data, where users have no USAGE; they run only inside our views, which
 * filter by privilege behind a security barrier.
 *
 * Counters come from the catalog tables, as of the reader's snapshot, and so
 * agree with the rows that he sees.  What only the worker knows comes from
 * runtime/.
 *
 *-------------------------------------------------------------------------
 */
#include "weir.h"

#include "catalog/weir_catalog.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(weir_definitions);
PG_FUNCTION_INFO_V1(weir_sql_now);

/* (view oid, id text, owner oid, source oid, paused boolean) */
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
		Datum		values[5];
		bool		nulls[5] = {false};

		values[0] = ObjectIdGetDatum(view->relid);
		values[1] = CStringGetTextDatum(view->id);
		values[2] = ObjectIdGetDatum(view->owner);
		values[3] = ObjectIdGetDatum(view->source);
		values[4] = BoolGetDatum(view->paused);
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
