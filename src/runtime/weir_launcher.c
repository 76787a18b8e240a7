/*-------------------------------------------------------------------------
 *
 * weir_launcher.c
 *	  One process for the server: keeps one worker per group of views.
 *
 * The launcher is connected to no database.  It learns which databases hold
 * views from a shared security label, which is transactional and dies with
 * the database.  For what they hold it sends a *scout*: a worker that connects,
 * writes the streams that views read into slots, and exits.  Scouts run when
 * the server starts, when definitions changed, and every minute for the
 * case that something was missed.
 *
 * It starts workers for wanted slots, waits longer after each failure (one
 * second to thirty), and starts none while weir.enabled is off, while a
 * database is being dropped, renamed or copied, on a standby, or in a binary
 * upgrade.
 *
 *-------------------------------------------------------------------------
 */
#include "weir.h"

#include "access/genam.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "catalog/pg_database.h"
#include "catalog/pg_shseclabel.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "runtime/shared.h"
#include "replication/slot.h"
#include "runtime/worker.h"
#include "source/changes.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#define FIRST_BACKOFF_MS 1000
#define LAST_BACKOFF_MS 30000
#define SCOUT_EVERY_MS 60000

/* What the launcher alone knows of each slot. */
typedef struct Child
{
	BackgroundWorkerHandle *handle;
	TimestampTz not_before;
	TimestampTz started;
	int			backoff_ms;
} Child;

static Child *children;

/* A slot has become free: a group that found none may take it. */
static bool slot_freed = false;

PGDLLEXPORT void weir_launcher_main(Datum arg);

/* Databases that carry our label. */
static List *
labelled_databases(void)
{
	MemoryContext caller = CurrentMemoryContext;
	List	   *result = NIL;
	Relation	rel;
	SysScanDesc scan;
	HeapTuple	tuple;

	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	rel = table_open(SharedSecLabelRelationId, AccessShareLock);
	scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_shseclabel label = (Form_pg_shseclabel) GETSTRUCT(tuple);
		bool		isnull;
		Datum		provider;

		if (label->classoid != DatabaseRelationId)
			continue;
		provider = heap_getattr(tuple, Anum_pg_shseclabel_provider,
								RelationGetDescr(rel), &isnull);
		if (!isnull && strcmp(TextDatumGetCString(provider), "weir") == 0)
		{
			MemoryContext old = MemoryContextSwitchTo(caller);

			result = lappend_oid(result, label->objoid);
			MemoryContextSwitchTo(old);
		}
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(caller);
	return result;
}

static bool
must_stay_away(Oid database)
{
	bool		away;

	LWLockAcquire(weir_shared->lock, LW_SHARED);
	away = weir_shared->leave == database &&
		GetCurrentTimestamp() < weir_shared->leave_until;
	LWLockRelease(weir_shared->lock);
	return away;
}

void
weir_describe_process(BackgroundWorker *process, const char *function,
					  const char *type, const char *name)
{
	memset(process, 0, sizeof(*process));
	process->bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	process->bgw_start_time = BgWorkerStart_RecoveryFinished;
	process->bgw_restart_time = BGW_NEVER_RESTART;
	snprintf(process->bgw_library_name, BGW_MAXLEN, "pg_weir");
	snprintf(process->bgw_function_name, BGW_MAXLEN, "%s", function);
	snprintf(process->bgw_name, BGW_MAXLEN, "%s", name);
	snprintf(process->bgw_type, BGW_MAXLEN, "%s", type);
}

static bool
start_worker(const char *name, WeirWorkerArgs *args,
			 BackgroundWorkerHandle **handle)
{
	BackgroundWorker worker;
	MemoryContext old;
	bool		started;

	weir_describe_process(&worker, "weir_worker_main", "pg_weir worker", name);
	memcpy(worker.bgw_extra, args, sizeof(*args));
	worker.bgw_notify_pid = MyProcPid;
	/* the handle outlives the turn */
	old = MemoryContextSwitchTo(TopMemoryContext);
	started = RegisterDynamicBackgroundWorker(&worker, handle);
	MemoryContextSwitchTo(old);
	return started;
}

static int
next_backoff(int backoff_ms)
{
	return backoff_ms == 0 ? FIRST_BACKOFF_MS :
		Min(backoff_ms * 2, LAST_BACKOFF_MS);
}

/*
 * Sends a scout and waits until it has come back, a minute at most.  False if
 * there was no place for it among max_worker_processes.
 */
static bool
scout(Oid database)
{
	WeirWorkerArgs args = {.database = database,.slot = -1};
	BackgroundWorkerHandle *handle;
	TimestampTz give_up = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													  60000);
	pid_t		pid;

	if (must_stay_away(database))
		return true;
	if (!start_worker("pg_weir scout", &args, &handle))
	{
		ereport(LOG,
				(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
				 errmsg("pg_weir could not start a worker"),
				 errhint("Raise max_worker_processes.")));
		return false;
	}
	while (GetBackgroundWorkerPid(handle, &pid) != BGWH_STOPPED)
	{
		if (GetCurrentTimestamp() > give_up)
		{
			TerminateBackgroundWorker(handle);
			break;
		}
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 1000L, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		if (ShutdownRequestPending)
			break;
	}
	pfree(handle);
	return true;
}

/* Slots whose database has lost its label have nothing to serve. */
static void
forget_databases(List *databases)
{
	LWLockAcquire(weir_shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < weir_shared->n_slots; i++)
	{
		WeirSlot   *slot = &weir_shared->slots[i];

		if (slot->state == WEIR_SLOT_WANTED &&
			!list_member_oid(databases, slot->database))
			slot->state = WEIR_SLOT_FREE;
	}
	LWLockRelease(weir_shared->lock);
}

static void
drop_slot_if_free(const char *name)
{
	MemoryContext caller = CurrentMemoryContext;

	PG_TRY();
	{
		ReplicationSlotDrop(name, true);
	}
	PG_CATCH();
	{
		/* somebody has just taken or dropped it: next time */
		(void) weir_catch(caller);
	}
	PG_END_TRY();
}

/*
 * The slots of databases that have no views any more.  Usually their worker has
 * dropped them; one that died, or a DROP EXTENSION while weir.enabled is off,
 * leaves that to us.
 */
static void
drop_orphaned_slots(List *databases)
{
	List	   *names = NIL;
	ListCell   *cell;

	LWLockAcquire(ReplicationSlotControlLock, LW_SHARED);
	for (int i = 0; i < max_replication_slots; i++)
	{
		ReplicationSlot *slot = &ReplicationSlotCtl->replication_slots[i];

		if (slot->in_use && slot->active_pid == 0 &&
			OidIsValid(slot->data.database) &&
			!list_member_oid(databases, slot->data.database) &&
			strcmp(NameStr(slot->data.name),
				   weir_slot_name(slot->data.database)) == 0)
			names = lappend(names, pstrdup(NameStr(slot->data.name)));
	}
	LWLockRelease(ReplicationSlotControlLock);
	foreach(cell, names)
		drop_slot_if_free(lfirst(cell));
}

static void
reap_and_start(int i)
{
	WeirSlot   *slot = &weir_shared->slots[i];
	Child	   *child = &children[i];
	TimestampTz now = GetCurrentTimestamp();
	WeirWorkerArgs args;
	pid_t		pid;

	if (child->handle != NULL &&
		GetBackgroundWorkerPid(child->handle, &pid) == BGWH_STOPPED)
	{
		pfree(child->handle);
		child->handle = NULL;

		/* a worker that ran well for a while starts again at once */
		if (TimestampDifferenceExceeds(child->started, now, LAST_BACKOFF_MS))
			child->backoff_ms = 0;
		child->not_before =
			TimestampTzPlusMilliseconds(now, WEIR_BACKOFF(child->backoff_ms));
		child->backoff_ms = next_backoff(child->backoff_ms);

		/* pid: a worker of the launcher before us serves the slot still */
		LWLockAcquire(weir_shared->lock, LW_EXCLUSIVE);
		if (slot->pid == 0)
			slot->state = slot->done ? WEIR_SLOT_FREE : WEIR_SLOT_WANTED;
		if (slot->done)
			child->backoff_ms = 0;
		/* the group may be gone, with its database even: look again */
		slot_freed = true;
		LWLockRelease(weir_shared->lock);
		ConditionVariableBroadcast(&weir_shared->answered);
	}

	/* what was started by the launcher before us has ended, or never began */
	if (child->handle == NULL && slot->state == WEIR_SLOT_RUNNING)
	{
		LWLockAcquire(weir_shared->lock, LW_EXCLUSIVE);
		if (slot->pid == 0)
			slot->state = WEIR_SLOT_WANTED;
		LWLockRelease(weir_shared->lock);
	}

	if (child->handle != NULL || slot->state != WEIR_SLOT_WANTED ||
		now < child->not_before || !weir_enabled ||
		must_stay_away(slot->database))
		return;

	args.database = slot->database;
	args.slot = i;
	LWLockAcquire(weir_shared->lock, LW_EXCLUSIVE);
	slot->done = false;
	slot->state = WEIR_SLOT_RUNNING;
	LWLockRelease(weir_shared->lock);
	child->started = now;
	if (!start_worker("pg_weir worker", &args, &child->handle))
	{
		/* others have all places; nobody tells us when one becomes free */
		child->handle = NULL;
		child->backoff_ms = next_backoff(child->backoff_ms);
		child->not_before = TimestampTzPlusMilliseconds(now, child->backoff_ms);
		LWLockAcquire(weir_shared->lock, LW_EXCLUSIVE);
		slot->state = WEIR_SLOT_WANTED;
		LWLockRelease(weir_shared->lock);
		ereport(LOG,
				(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
				 errmsg("pg_weir could not start a worker"),
				 errhint("Raise max_worker_processes.")));
	}
}

/* How long nothing can be due, in milliseconds. */
static long
next_due(TimestampTz next_scout)
{
	TimestampTz due = next_scout;

	for (int i = 0; i < weir_shared->n_slots; i++)
		if (weir_enabled && weir_shared->slots[i].state == WEIR_SLOT_WANTED)
			due = Min(due, Max(children[i].not_before,
							   TimestampTzPlusMilliseconds(GetCurrentTimestamp(), 100)));
	return TimestampDifferenceMilliseconds(GetCurrentTimestamp(), due);
}

static void
leave_shared(int code, Datum arg)
{
	LWLockAcquire(weir_shared->lock, LW_EXCLUSIVE);
	weir_shared->launcher_latch = NULL;
	weir_shared->launcher_pid = 0;
	LWLockRelease(weir_shared->lock);
}

void
weir_launcher_main(Datum arg)
{
	uint64		scouted = 0;	/* generation */
	TimestampTz next_scout = 0;
	int			scout_backoff_ms = 0;
	MemoryContext turn;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, SignalHandlerForShutdownRequest);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);

	children = MemoryContextAllocZero(TopMemoryContext,
									  sizeof(Child) * Max(weir_shared->n_slots, 1));
	turn = AllocSetContextCreate(TopMemoryContext, "pg_weir launcher turn",
								 ALLOCSET_DEFAULT_SIZES);
	LWLockAcquire(weir_shared->lock, LW_EXCLUSIVE);
	weir_shared->launcher_latch = MyLatch;
	weir_shared->launcher_pid = MyProcPid;
	LWLockRelease(weir_shared->lock);
	before_shmem_exit(leave_shared, (Datum) 0);

	while (!ShutdownRequestPending)
	{
		uint64		generation = pg_atomic_read_u64(&weir_shared->generation);
		TimestampTz now = GetCurrentTimestamp();

		MemoryContextReset(turn);
		MemoryContextSwitchTo(turn);
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
			/* a worker that waits for other transactions does not look itself */
			if (!weir_enabled)
				weir_nudge_all();
		}

		/* also while nothing is ingested: the last view may go, and its slot */
		if (generation != scouted || now >= next_scout || slot_freed)
		{
			List	   *databases = labelled_databases();
			ListCell   *cell;
			bool		all_scouted = true;

			scouted = generation;
			slot_freed = false;
			next_scout = TimestampTzPlusMilliseconds(now, SCOUT_EVERY_MS);
			forget_databases(databases);
			drop_orphaned_slots(databases);
			pg_atomic_write_u64(&weir_shared->starved, 0);
			foreach(cell, databases)
			{
				if (!ShutdownRequestPending && !scout(lfirst_oid(cell)))
					all_scouted = false;
			}
			scout_backoff_ms = all_scouted ? 0 : next_backoff(scout_backoff_ms);
			if (!all_scouted)
				next_scout = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
														 scout_backoff_ms);
			MemoryContextSwitchTo(turn);
		}
		for (int i = 0; i < weir_shared->n_slots; i++)
			reap_and_start(i);

		/* a scout may have eaten the nudge of a newer generation */
		if (!slot_freed &&
			scouted == pg_atomic_read_u64(&weir_shared->generation))
			(void) WaitLatch(MyLatch,
							 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
							 next_due(next_scout), PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	/* after status 0 the postmaster would start no launcher ever again */
	proc_exit(1);
}

void
weir_launcher_install(void)
{
	BackgroundWorker worker;

	if (IsBinaryUpgrade)
		return;
	weir_describe_process(&worker, "weir_launcher_main", "pg_weir launcher",
						  "pg_weir launcher");
	worker.bgw_restart_time = 5;
	RegisterBackgroundWorker(&worker);
}
