/*-------------------------------------------------------------------------
 *
 * progress.c
 *	  What weir.progress cannot say in SQL: how far backfills of tables are.
 *
 * Runs in backends.  Reads the places of runtime/backfill.c in shared memory;
 * the view joins them to the definitions and filters by privilege.
 *
 *-------------------------------------------------------------------------
 */
#include "weir.h"

#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "runtime/shared.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(weir_backfills);

/* (view oid, rows_done bigint, rows_estimate bigint, started timestamptz) */
Datum
weir_backfills(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;

	InitMaterializedSRF(fcinfo, 0);
	if (!weir_preloaded)
		return (Datum) 0;
	for (int i = 0; i < weir_shared->n_places; i++)
	{
		WeirBackfillPlace place;
		Datum		values[4];
		bool		nulls[4] = {false};

		LWLockAcquire(weir_shared->lock, LW_SHARED);
		place = weir_shared->places[i];
		LWLockRelease(weir_shared->lock);
		if (place.ticket == 0 || place.database != MyDatabaseId)
			continue;
		values[0] = ObjectIdGetDatum(place.view);
		values[1] = Int64GetDatum(place.rows_done);
		values[2] = Int64GetDatum(place.rows_estimate);
		nulls[2] = place.rows_estimate < 0;
		values[3] = TimestampTzGetDatum(place.started);
		nulls[3] = place.started == 0;
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	return (Datum) 0;
}
