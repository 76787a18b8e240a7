/*-------------------------------------------------------------------------
 *
 * weir_shmem.c
 *	  Static shared memory, and the news that definitions changed.
 *
 * Runs in every process.  A backend that creates, alters or drops a view says
 * so with weir_wake_at_commit(); the word goes out after its commit, when the
 * change is visible: a new generation, and a nudge for the launcher and for
 * each worker of the database.
 *
 *-------------------------------------------------------------------------
 */
#include "weir.h"

#include <signal.h>

#include "access/xact.h"
#include "miscadmin.h"
#include "runtime/shared.h"
#include "storage/ipc.h"
#include "storage/shmem.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"

WeirShared *weir_shared = NULL;

static shmem_request_hook_type previous_request_hook = NULL;
static shmem_startup_hook_type previous_startup_hook = NULL;
static bool wake_at_commit = false;
static bool wake_now = false;	/* the commit is done but for its locks */

/* Backfills at a time: several views of one database may begin together. */
static int
number_of_places(void)
{
	return Max(weir_max_workers, 4);
}

static Size
shared_size(void)
{
	Size		size = add_size(offsetof(WeirShared, slots),
								mul_size(weir_max_workers, sizeof(WeirSlot)));

	size = add_size(MAXALIGN(size), mul_size(MaxBackends, sizeof(WeirWait)));
	return add_size(MAXALIGN(size),
					mul_size(number_of_places(), sizeof(WeirBackfillPlace)));
}

static void
request_shared_memory(void)
{
	if (previous_request_hook)
		previous_request_hook();
	RequestAddinShmemSpace(shared_size());
	RequestNamedLWLockTranche("pg_weir", 2);
}

static void
startup_shared_memory(void)
{
	bool		found;

	if (previous_startup_hook)
		previous_startup_hook();
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	weir_shared = ShmemInitStruct("pg_weir", shared_size(), &found);
	if (!found)
	{
		LWLockPadded *locks = GetNamedLWLockTranche("pg_weir");

		memset(weir_shared, 0, shared_size());
		weir_shared->lock = &locks[0].lock;
		weir_shared->tranche = locks[1].lock.tranche;
		weir_shared->n_slots = weir_max_workers;
		pg_atomic_init_u64(&weir_shared->generation, 1);
		pg_atomic_init_u64(&weir_shared->state_bytes, 0);
		pg_atomic_init_u64(&weir_shared->memory_wanted, 0);
		pg_atomic_init_u64(&weir_shared->clock_shift, 0);
		pg_atomic_init_u64(&weir_shared->starved, 0);
		for (int i = 0; i < weir_max_workers; i++)
		{
			pg_atomic_init_u64(&weir_shared->slots[i].read_to, 0);
			pg_atomic_init_u64(&weir_shared->slots[i].read_by, 0);
		}
		ConditionVariableInit(&weir_shared->answered);
		weir_shared->n_waits = MaxBackends;
		weir_shared->waits = (WeirWait *)
			((char *) weir_shared +
			 MAXALIGN(offsetof(WeirShared, slots) +
					  weir_max_workers * sizeof(WeirSlot)));
		for (int i = 0; i < weir_shared->n_waits; i++)
			SpinLockInit(&weir_shared->waits[i].mutex);
		weir_shared->n_places = number_of_places();
		weir_shared->places = (WeirBackfillPlace *)
			((char *) weir_shared->waits +
			 MAXALIGN(MaxBackends * sizeof(WeirWait)));
	}
	LWLockRelease(AddinShmemInitLock);
}

/*
 * Nudges the launcher, and the workers of a database (InvalidOid: of all).  One
 * that waits for other transactions, which may take hours, looks at no latch:
 * its wait is cancelled.
 */
static void
nudge(Oid database)
{
	LWLockAcquire(weir_shared->lock, LW_SHARED);
	if (weir_shared->launcher_latch != NULL)
		SetLatch(weir_shared->launcher_latch);
	for (int i = 0; i < weir_shared->n_slots; i++)
	{
		WeirSlot   *slot = &weir_shared->slots[i];

		if (slot->latch == NULL ||
			(OidIsValid(database) && slot->database != database))
			continue;
		SetLatch(slot->latch);
		if (slot->making_slot && slot->pid != MyProcPid)
			kill(slot->pid, SIGINT);
	}
	LWLockRelease(weir_shared->lock);
}

/*
 * Told in two steps, because it must not be told too early:
 *
 *	1. We raise the generation in the callback of the commit.
 *	2. A worker reads the definitions: new rows of ours, but the owner and
 *	   the options from its system caches, which know nothing yet.
 *	3. We send the invalidations.  The worker has done its reading.
 */
static void
at_transaction_end(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_COMMIT:
		case XACT_EVENT_PREPARE:
			wake_now = wake_at_commit;
			wake_at_commit = false;
			break;
		case XACT_EVENT_ABORT:
			wake_at_commit = false;
			break;
		default:
			break;
	}
}

static void
at_release(ResourceReleasePhase phase, bool is_commit, bool is_top_level,
		   void *arg)
{
	if (!wake_now || phase != RESOURCE_RELEASE_AFTER_LOCKS || !is_top_level)
		return;
	wake_now = false;
	pg_atomic_fetch_add_u64(&weir_shared->generation, 1);
	nudge(MyDatabaseId);
}

/* Once a second is enough: they take a moment. */
void
weir_want_memory(void)
{
	TimestampTz now = GetCurrentTimestamp();
	uint64		last = pg_atomic_read_u64(&weir_shared->memory_wanted);

	if (now - (TimestampTz) last < USECS_PER_SEC ||
		!pg_atomic_compare_exchange_u64(&weir_shared->memory_wanted, &last,
										(uint64) now))
		return;
	nudge(InvalidOid);
}

void
weir_nudge_all(void)
{
	nudge(InvalidOid);
}

void
weir_tell_all(void)
{
	pg_atomic_fetch_add_u64(&weir_shared->generation, 1);
	nudge(MyDatabaseId);
}

void
weir_wake_at_commit(void)
{
	static bool registered = false;

	if (!weir_preloaded)
		return;
	if (!registered)
	{
		RegisterXactCallback(at_transaction_end, NULL);
		RegisterResourceReleaseCallback(at_release, NULL);
		registered = true;
	}
	wake_at_commit = true;
}

/*
 * A commit of this process: the worker that reads the changes of this database
 * may wait for it.  Nearly always it does not, and this is a look at a few
 * words of memory.
 */
static void
wake_reader(XactEvent event, void *arg)
{
	if (event != XACT_EVENT_COMMIT ||
		!TransactionIdIsValid(GetTopTransactionIdIfAny()))
		return;
	/* our commit must be in the WAL before we look */
	pg_memory_barrier();
	for (int i = 0; i < weir_shared->n_slots; i++)
	{
		WeirSlot   *slot = &weir_shared->slots[i];

		if (!slot->waiting || slot->database != MyDatabaseId)
			continue;
		LWLockAcquire(weir_shared->lock, LW_SHARED);
		if (slot->waiting && slot->latch != NULL)
		{
			slot->waiting = false;
			SetLatch(slot->latch);
		}
		LWLockRelease(weir_shared->lock);
	}
}

void
weir_wake_reader_at_commits(void)
{
	RegisterXactCallback(wake_reader, NULL);
}

void
weir_leave_database(Oid database)
{
	if (!weir_preloaded)
		return;
	LWLockAcquire(weir_shared->lock, LW_EXCLUSIVE);
	weir_shared->leave = database;
	/* core waits five seconds for others to leave */
	weir_shared->leave_until =
		TimestampTzPlusMilliseconds(GetCurrentTimestamp(), 6000);
	/* a scan looks at nothing while it waits; its worker will see it gone */
	for (int i = 0; i < weir_shared->n_places; i++)
		if (weir_shared->places[i].database == database &&
			weir_shared->places[i].pid != 0)
			kill(weir_shared->places[i].pid, SIGTERM);
	LWLockRelease(weir_shared->lock);
	nudge(database);
}

WeirSlot *
weir_slot_of(Oid database, Oid stream)
{
	WeirSlot   *found = NULL;

	if (!weir_preloaded)
		return NULL;
	LWLockAcquire(weir_shared->lock, LW_SHARED);
	for (int i = 0; i < weir_shared->n_slots; i++)
	{
		WeirSlot   *slot = &weir_shared->slots[i];

		if (slot->state != WEIR_SLOT_FREE &&
			slot->database == database && slot->stream == stream)
			found = slot;
	}
	LWLockRelease(weir_shared->lock);
	return found;
}

TimestampTz
weir_now(void)
{
	TimestampTz now = GetCurrentTimestamp();

#ifdef WEIR_TEST
	if (weir_preloaded)
		now += (int64) pg_atomic_read_u64(&weir_shared->clock_shift);
#endif
	return now;
}

void
weir_shmem_install(void)
{
	previous_request_hook = shmem_request_hook;
	shmem_request_hook = request_shared_memory;
	previous_startup_hook = shmem_startup_hook;
	shmem_startup_hook = startup_shared_memory;
}
