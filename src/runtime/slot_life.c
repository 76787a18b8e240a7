/*-------------------------------------------------------------------------
 *
 * slot_life.c
 *	  What we know of our replication slot, and whether it is the one that we
 *	  knew.
 *
 * A position in the WAL means something only together with a slot that has kept
 * everything since.  So each slot that we make gets a random number, its life;
 * a view's position names the life that it belongs to, and is worth nothing in
 * another.  A life ends when
 *
 *	-	the slot is gone: dropped by hand, a promotion without it, a restore
 *	-	it was invalidated: max_slot_wal_keep_size, or rows that it needed
 *	-	somebody has moved it on: it has confirmed more than we ever told it
 *
 * The last one is known because weir_data.slots.confirmed is committed before
 * the slot is told.  The other way round:
 *
 *	1. the slot is told 500	 2. crash	3. the slot is ahead of what is
 *	recorded, and nobody can say whether that was us
 *
 * A slot that is there without a word in weir_data.slots comes from a crash
 * between its creation and the first record: nobody's position depends on it,
 * and it is made again.
 *
 *-------------------------------------------------------------------------
 */
#include "runtime/change_feed.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/pg_lsn.h"
#include "utils/snapmgr.h"

static void
run_sql(const char *sql, int n, Oid *types, Datum *values, const char *nulls)
{
	if (SPI_execute_with_args(sql, n, types, values, nulls, false, 0) < 0)
		elog(ERROR, "could not run \"%s\"", sql);
}

/* What is recorded; false when nothing is. */
static bool
read_record(WeirSlotLife *life)
{
	MemoryContext caller = CurrentMemoryContext;
	Oid			types[] = {TEXTOID};
	Datum		values[1];
	bool		found;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	values[0] = CStringGetTextDatum(weir_home());
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	run_sql("SELECT life, confirmed, lost_why FROM weir_data.slots"
			" WHERE home OPERATOR(pg_catalog.=) $1", 1, types, values, NULL);
	found = SPI_processed == 1;
	if (found)
	{
		HeapTuple	row = SPI_tuptable->vals[0];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		bool		isnull;
		char	   *why = SPI_getvalue(row, desc, 3);

		life->life = DatumGetInt64(SPI_getbinval(row, desc, 1, &isnull));
		life->confirmed = DatumGetLSN(SPI_getbinval(row, desc, 2, &isnull));
		life->lost_why = why ? MemoryContextStrdup(caller, why) : NULL;
	}
	SPI_finish();
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(caller);
	return found;
}

static void
write_record(const char *name, const WeirSlotLife *life)
{
	MemoryContext caller = CurrentMemoryContext;
	Oid			types[] = {TEXTOID, TEXTOID, INT8OID, PG_LSNOID, TEXTOID};
	Datum		values[5];

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	values[0] = CStringGetTextDatum(weir_home());
	values[1] = CStringGetTextDatum(name);
	values[2] = Int64GetDatum(life->life);
	values[3] = LSNGetDatum(life->confirmed);
	values[4] = life->lost_why ? CStringGetTextDatum(life->lost_why) : (Datum) 0;
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	run_sql("INSERT INTO weir_data.slots (home, name, life, confirmed, lost_why)"
			" VALUES ($1, $2::pg_catalog.name, $3, $4, $5)"
			" ON CONFLICT (home) DO UPDATE SET name = excluded.name,"
			" life = excluded.life, confirmed = excluded.confirmed,"
			" lost_why = excluded.lost_why",
			5, types, values, life->lost_why ? NULL : "    n");
	SPI_finish();
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(caller);
}

bool
weir_slot_remember(const char *view_id, int64 life)
{
	MemoryContext caller = CurrentMemoryContext;
	Oid			types[] = {TEXTOID, INT8OID};
	Datum		values[2];
	bool		done;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	values[0] = CStringGetTextDatum(view_id);
	values[1] = Int64GetDatum(life);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	run_sql("WITH free AS (SELECT view_id FROM weir_data.positions"
			" WHERE view_id OPERATOR(pg_catalog.=) $1"
			" AND last_offset IS NULL FOR UPDATE SKIP LOCKED)"
			" UPDATE weir_data.positions p SET last_print = $2 FROM free"
			" WHERE p.view_id OPERATOR(pg_catalog.=) free.view_id",
			2, types, values, NULL);
	done = SPI_processed > 0;
	SPI_finish();
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(caller);
	return done;
}

static int64
new_life(void)
{
	int64		life;

	if (!pg_strong_random(&life, sizeof(life)))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not generate random values")));
	/* 0 means none */
	return life == 0 ? 1 : life;
}

static void
drop_slot(const char *name)
{
	if (!weir_slot_drop(name))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("replication slot \"%s\" is in use", name),
				 errhint("pg_weir tries again by itself.")));
}

WeirSlotLife
weir_slot_begin(void)
{
	char	   *name = weir_slot_name(MyDatabaseId);
	WeirSlotLife life = {0};
	bool		known = read_record(&life);
	WeirSlotInfo info = weir_slot_inspect(name);
	const char *lost_why = NULL;

	switch (info.health)
	{
		case WEIR_REPLSLOT_FOREIGN:
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("replication slot \"%s\" is not of pg_weir", name),
					 errhint("Drop it with pg_drop_replication_slot(), if nobody needs it.")));
			break;
		case WEIR_REPLSLOT_BUSY:
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_IN_USE),
					 errmsg("replication slot \"%s\" is in use by process %d",
							name, info.busy_pid),
					 errhint("End that process; pg_weir tries again by itself.")));
			break;
		case WEIR_REPLSLOT_GOOD:
			if (known && info.confirmed <= life.confirmed)
				return life;
			if (known)
				lost_why = "The slot was moved on by somebody else than pg_weir.";
			break;
		case WEIR_REPLSLOT_LOST:
			lost_why = "The slot was invalidated: the server removed WAL or rows that it needed.";
			break;
		case WEIR_REPLSLOT_NONE:
			lost_why = known ? "The slot was dropped, or did not come along with a promotion or a restore." : NULL;
			break;
	}

	if (info.health != WEIR_REPLSLOT_NONE)
		drop_slot(name);
	WEIR_FAULT("slot-create");
	life.confirmed = weir_slot_create(name);
	life.life = new_life();
	life.lost_why = known && lost_why ? pstrdup(lost_why) : NULL;
	WEIR_FAULT("slot-created");
	write_record(name, &life);
	/* whoever pushes into a stream must look again who reads it */
	if (known)
		weir_tell_all();
	ereport(LOG,
			(errmsg("pg_weir created replication slot \"%s\"", name),
			 life.lost_why ? errdetail_internal("%s", life.lost_why) : 0));
	return life;
}

void
weir_slot_record(XLogRecPtr confirmed)
{
	static SPIPlanPtr plan = NULL;
	Oid			types[] = {TEXTOID, PG_LSNOID};
	Datum		values[2];

	values[0] = CStringGetTextDatum(weir_home());
	values[1] = LSNGetDatum(confirmed);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (plan == NULL)
	{
		plan = SPI_prepare("UPDATE weir_data.slots SET confirmed = $2"
						   " WHERE home OPERATOR(pg_catalog.=) $1", 2, types);
		if (plan == NULL || SPI_keepplan(plan) != 0)
			elog(ERROR, "could not prepare");
	}
	if (SPI_execute_plan(plan, values, NULL, false, 0) < 0)
		elog(ERROR, "could not record the slot's position");
	SPI_finish();
}

void
weir_slot_end(void)
{
	MemoryContext caller = CurrentMemoryContext;
	Oid			types[] = {TEXTOID};
	Datum		values[1];

	if (!weir_slot_drop(weir_slot_name(MyDatabaseId)))
		return;
	WEIR_FAULT("slot-dropped");
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	if (weir_catalog_exists())
	{
		values[0] = CStringGetTextDatum(weir_home());
		if (SPI_connect() != SPI_OK_CONNECT)
			elog(ERROR, "SPI_connect failed");
		run_sql("DELETE FROM weir_data.slots"
				" WHERE home OPERATOR(pg_catalog.=) $1", 1, types, values, NULL);
		SPI_finish();
	}
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(caller);
}

void
weir_slot_give_up(const char *view_id)
{
	MemoryContext caller = CurrentMemoryContext;
	Oid			types[] = {TEXTOID};
	Datum		values[1];

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	values[0] = CStringGetTextDatum(view_id);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	run_sql("UPDATE weir_data.positions SET last_print = 0,"
			" last_offset = COALESCE(last_offset, 0)"
			" WHERE view_id OPERATOR(pg_catalog.=) $1", 1, types, values, NULL);
	SPI_finish();
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(caller);
}
