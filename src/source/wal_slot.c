/*-------------------------------------------------------------------------
 *
 * wal_slot.c
 *	  The replication slot of this database.
 *
 * A slot keeps the WAL, and the old rows of the catalogs, that decoding needs
 * from some position on.  Ours is made with the plugin pgoutput, which every
 * server allows by default; nothing that pgoutput does is ever called, since the
 * reader (wal_reader.c) puts its own callbacks in.
 *
 * Here a slot is looked at, made and dropped.  Reading and confirming, which
 * need it acquired, are the reader's.  What its loss means for the views is
 * decided in runtime/.
 *
 *-------------------------------------------------------------------------
 */
#include "source/changes.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "replication/slot.h"
#include "storage/lwlock.h"
#include "storage/spin.h"
#include "utils/memutils.h"
#include "utils/builtins.h"
#include "utils/pg_lsn.h"
#include "utils/snapmgr.h"

#define SLOT_PLUGIN "pgoutput"

char *
weir_slot_name(Oid database)
{
	return psprintf("pg_weir_%u", database);
}

/* A copy of the slot of this name; false if there is none. */
static bool
copy_slot(const char *name, ReplicationSlotPersistentData *data, int *pid)
{
	bool		found = false;

	LWLockAcquire(ReplicationSlotControlLock, LW_SHARED);
	for (int i = 0; i < max_replication_slots && !found; i++)
	{
		ReplicationSlot *slot = &ReplicationSlotCtl->replication_slots[i];

		if (!slot->in_use || strcmp(NameStr(slot->data.name), name) != 0)
			continue;
		SpinLockAcquire(&slot->mutex);
		*data = slot->data;
		*pid = slot->active_pid;
		SpinLockRelease(&slot->mutex);
		found = true;
	}
	LWLockRelease(ReplicationSlotControlLock);
	return found;
}

static bool
is_ours(const ReplicationSlotPersistentData *data)
{
	return data->database != InvalidOid &&
		(data->database == MyDatabaseId || MyDatabaseId == InvalidOid) &&
		strcmp(NameStr(data->plugin), SLOT_PLUGIN) == 0 &&
		data->persistency != RS_TEMPORARY && !data->two_phase;
}

/* Invalidated, or the WAL that it needs has gone in spite of it. */
static bool
is_lost(const ReplicationSlotPersistentData *data)
{
	XLogSegNo	segment;

	if (weir_slot_is_invalid(data) || XLogRecPtrIsInvalid(data->restart_lsn))
		return true;
	XLByteToSeg(data->restart_lsn, segment, wal_segment_size);
	return segment <= XLogGetLastRemovedSegno();
}

/* Inside or outside of a transaction; a process without a database takes the
 * slot of any. */
WeirSlotInfo
weir_slot_inspect(const char *name)
{
	ReplicationSlotPersistentData data;
	WeirSlotInfo info = {0};
	int			pid;

	info.health = WEIR_REPLSLOT_NONE;
	if (!copy_slot(name, &data, &pid))
		return info;
	info.confirmed = data.confirmed_flush;
	info.restart = data.restart_lsn;
	info.busy_pid = pid == MyProcPid ? 0 : pid;
	if (!is_ours(&data))
		info.health = WEIR_REPLSLOT_FOREIGN;
	else if (info.busy_pid != 0)
		info.health = WEIR_REPLSLOT_BUSY;	/* a creator has no restart_lsn yet */
	else if (is_lost(&data))
		info.health = WEIR_REPLSLOT_LOST;
	else
		info.health = WEIR_REPLSLOT_GOOD;
	return info;
}

/* Is there room for one more slot? */
static bool
has_free_slot(void)
{
	bool		free_one = false;

	LWLockAcquire(ReplicationSlotControlLock, LW_SHARED);
	for (int i = 0; i < max_replication_slots; i++)
		free_one |= !ReplicationSlotCtl->replication_slots[i].in_use;
	LWLockRelease(ReplicationSlotControlLock);
	return free_one;
}

void
weir_slot_check_possible(void)
{
	ReplicationSlotPersistentData data;
	int			pid;

	if (!XLogLogicalInfoActive())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("changes of tables cannot be followed with wal_level below \"logical\""),
				 errhint("Set wal_level = logical and restart the server.")));
	if (RecoveryInProgress())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("changes of tables cannot be followed on a standby"),
				 errhint("Use the primary server.")));
	if (!copy_slot(weir_slot_name(MyDatabaseId), &data, &pid) &&
		!has_free_slot())
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("there is no free replication slot to follow changes of tables with"),
				 errhint("Drop a slot that nobody needs, or raise max_replication_slots and restart the server.")));
}

/*
 * The function of SQL does it, so that what a release does on the way is done.
 * Its transaction must not have written anything.
 */
XLogRecPtr
weir_slot_create(const char *name)
{
	MemoryContext caller = CurrentMemoryContext;
	Oid			types[] = {TEXTOID};
	Datum		values[1];
	XLogRecPtr	start;
	bool		isnull;

	weir_slot_check_possible();
	StartTransactionCommand();
	PG_TRY();
	{
		PushActiveSnapshot(GetTransactionSnapshot());
		values[0] = CStringGetTextDatum(name);
		if (SPI_connect() != SPI_OK_CONNECT)
			elog(ERROR, "SPI_connect failed");
		if (SPI_execute_with_args("SELECT lsn FROM "
								  WEIR_CREATE_SLOT("$1::pg_catalog.name",
												   "'" SLOT_PLUGIN "'"),
								  1, types, values, NULL, false, 0) != SPI_OK_SELECT ||
			SPI_processed != 1)
			elog(ERROR, "could not create replication slot \"%s\"", name);
		start = DatumGetLSN(SPI_getbinval(SPI_tuptable->vals[0],
										  SPI_tuptable->tupdesc, 1, &isnull));
		SPI_finish();
		PopActiveSnapshot();
		CommitTransactionCommand();
	}
	PG_CATCH();
	{
		/* what is half made goes with this; workers have nobody else to do it */
		if (MyReplicationSlot != NULL)
			ReplicationSlotRelease();
		PG_RE_THROW();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(caller);
	return start;
}

/* A slot of that name that is not ours stays, and counts as gone. */
bool
weir_slot_drop(const char *name)
{
	MemoryContext caller = CurrentMemoryContext;
	WeirSlotInfo info = weir_slot_inspect(name);
	volatile bool done = true;

	if (info.health == WEIR_REPLSLOT_NONE ||
		info.health == WEIR_REPLSLOT_FOREIGN)
		return true;
	if (info.health == WEIR_REPLSLOT_BUSY)
		return false;
	PG_TRY();
	{
		ReplicationSlotDrop(name, true);
	}
	PG_CATCH();
	{
		ErrorData  *error;

		/* somebody was faster */
		MemoryContextSwitchTo(caller);
		error = CopyErrorData();
		if (error->sqlerrcode != ERRCODE_OBJECT_IN_USE &&
			error->sqlerrcode != ERRCODE_UNDEFINED_OBJECT)
			PG_RE_THROW();
		FlushErrorState();
		done = error->sqlerrcode == ERRCODE_UNDEFINED_OBJECT;
		FreeErrorData(error);
	}
	PG_END_TRY();
	return done;
}
