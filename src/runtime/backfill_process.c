/*-------------------------------------------------------------------------
 *
 * backfill_process.c
 *	  Backfills: the process, from its start to its last word.
 *
 * One process computes the states of one view over the rows that its source had
 * at a snapshot S, and exits.  It receives its place in shared memory through
 * bgw_extra, finds the definition in the catalog, and sends groups, as the bytes
 * of their stored rows, through a queue to the worker (backfill.c).  It writes
 * nothing into any table.
 *
 * Two transactions, so that the source is locked before S is taken:
 *
 *	1. locks the source and all that inherit from it, opens the view.  This
 *	   reads on snapshots of its own, and no other may be imported after
 *	2. keeps the locks (as locks of the session in between), READY, waits for
 *	   S, takes it over, scans
 *
 * The scan itself is in backfill_scan.c.  Whenever its groups have grown to some
 * size they are sent and forgotten, so that memory is bounded: states merge in
 * any order, and a group may be sent many times.
 *
 * It ends when the queue has lost its other end or its place is another's: then
 * nobody waits for the result.
 *
 *-------------------------------------------------------------------------
 */
#include "runtime/backfill.h"

#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_inherits.h"
#include "libpq/pqformat.h"
#include "libpq/pqsignal.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "runtime/watchdog.h"
#include "storage/dsm.h"
#include "storage/ipc.h"
#include "storage/lmgr.h"
#include "storage/shm_mq.h"
#include "tcop/tcopprot.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

/* Bytes of a message: small enough for the worker to stop after each. */
#define MESSAGE_BYTES (64 * 1024)

/* This process. */
static WeirBackfillPlace *place;
static uint64 ticket;
static shm_mq_handle *queue;
static MemoryContext process_mcxt;
static WeirRun *run;
static TupleDesc source_desc;
static List *locked;			/* OIDs: the source and what inherits from it */
static WeirBooks sent;			/* counters that the worker knows */

/* ------------------------------------------------------------------ place */

/* The lock is held: nobody waits for us any more. */
static void
lock_place(LWLockMode mode)
{
	LWLockAcquire(weir_shared->lock, mode);
	if (place->ticket != ticket)
	{
		LWLockRelease(weir_shared->lock);
		proc_exit(0);
	}
}

static void
set_state(WeirPlaceState state)
{
	lock_place(LW_EXCLUSIVE);
	place->state = state;
	if (state == WEIR_PLACE_SCANNING)
		place->started = GetCurrentTimestamp();
	SetLatch(place->worker_latch);
	LWLockRelease(weir_shared->lock);
}

int
weir_backfill_report(int rows, int64 estimate)
{
	int			rate;

	lock_place(LW_EXCLUSIVE);
	place->rows_done += rows;
	if (estimate >= 0)
		place->rows_estimate = estimate;
	rate = place->rate;
	LWLockRelease(weir_shared->lock);
	return rate;
}

static void
leave_place(int code, Datum arg)
{
	LWLockAcquire(weir_shared->lock, LW_EXCLUSIVE);
	if (place->pid == MyProcPid)
	{
		place->pid = 0;
		place->latch = NULL;
	}
	LWLockRelease(weir_shared->lock);
}

static dsm_handle
enter_place(const WeirBackfillArgs *args)
{
	dsm_handle	handle;

	place = &weir_shared->places[args->place];
	ticket = args->ticket;
	lock_place(LW_EXCLUSIVE);
	place->pid = MyProcPid;
	place->latch = MyLatch;
	handle = place->queue;
	LWLockRelease(weir_shared->lock);
	before_shmem_exit(leave_place, (Datum) 0);
	weir_watchdog_culprit = &place->culprit;
	return handle;
}

void
weir_backfill_wait(long ms)
{
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 ms, PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

/* ---------------------------------------------------------------- sending */

static bool sending = false;

static void
send_message(StringInfo message)
{
	/* an error in the middle of a message: no other can follow it */
	if (sending)
		return;
	sending = true;
	/* waits while the queue is full; whoever has left does not read */
	if (shm_mq_send(queue, message->len, message->data, false, true) !=
		SHM_MQ_SUCCESS)
		proc_exit(0);
	sending = false;
}

static void
send_text(StringInfo message, const char *text)
{
	if (text == NULL)
		text = "";
	appendBinaryStringInfo(message, text, (int) strlen(text) + 1);
}

static void
send_letter(void *arg, const WeirDeadLetter *letter)
{
	StringInfo	message = arg;

	resetStringInfo(message);
	pq_sendbyte(message, WEIR_BACKFILL_LETTER);
	pq_sendint32(message, letter->sqlstate);
	send_text(message, letter->message);
	send_message(message);
}

static void
send_letters(StringInfo message)
{
	weir_each_dead_letter(run, send_letter, message);
	weir_forget_kept_rows(run);
}

static void
send_counters(StringInfo message)
{
	WeirBooks  *books = weir_run_books(run, 0);

	resetStringInfo(message);
	pq_sendbyte(message, WEIR_BACKFILL_COUNTERS);
	pq_sendint64(message, books->rows_in - sent.rows_in);
	pq_sendint64(message, books->rows_filtered - sent.rows_filtered);
	pq_sendint64(message, books->dead_letters - sent.dead_letters);
	pq_sendint64(message, books->time.greatest);
	send_message(message);
	sent = *books;
}

/* All groups are forgotten. */
static void
clear_groups(void)
{
	int			n_states;
	Size		words_size;
	WeirState  *states = weir_group_table_states(run->table, &n_states,
												 &words_size);

	weir_group_table_destroy(run->table);
	run->table = NULL;
	weir_value_store_destroy(run->store);
	run->store = NULL;
	run->store = weir_value_store_create(run->mcxt);
	for (int i = 0; i < n_states; i++)
		states[i].store = run->store;
	run->table = weir_group_table_create(run->mcxt, run->format, states,
										 n_states, words_size, run->presence);
	run->n_dirty = 0;
}

void
weir_backfill_send(void)
{
	MemoryContext mcxt = AllocSetContextCreate(CurrentMemoryContext,
											   "pg_weir backfill message",
											   ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(mcxt);
	uint64		cursor = 0;
	WeirGroup  *group = NULL;
	StringInfoData message;

	WEIR_FAULT("backfill-send");
	initStringInfo(&message);
	do
	{
		resetStringInfo(&message);
		pq_sendbyte(&message, WEIR_BACKFILL_GROUPS);
		while (message.len < MESSAGE_BYTES &&
			   (group = weir_group_table_next(run->table, &cursor)) != NULL)
		{
			int			at = message.len;
			uint32		len;

			pq_sendint32(&message, 0);
			weir_group_save(run->table, group, &message);
			len = pg_hton32(message.len - at - sizeof(len));
			memcpy(message.data + at, &len, sizeof(len));
		}
		send_message(&message);
	} while (group != NULL);
	clear_groups();
	send_letters(&message);
	send_counters(&message);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(mcxt);
}

static void
send_end(void)
{
	StringInfoData message;

	WEIR_FAULT("backfill-done");
	initStringInfo(&message);
	pq_sendbyte(&message, WEIR_BACKFILL_ENDS);
	send_message(&message);
}

static void
send_error(const ErrorData *error)
{
	StringInfoData message;

	initStringInfo(&message);
	pq_sendbyte(&message, WEIR_BACKFILL_ERROR);
	pq_sendint32(&message, error->sqlerrcode);
	pq_sendbyte(&message, run != NULL && run->stop != NULL && run->needs_person);
	send_text(&message, error->message);
	send_text(&message, error->detail);
	send_text(&message, error->hint);
	send_message(&message);
}

/* ---------------------------------------------------------------- opening */

/* The definition that the worker runs, its settings in force. */
static WeirViewDef *
read_definition(void)
{
	MemoryContext old;
	WeirViewDef *def;
	bool		same;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	old = MemoryContextSwitchTo(process_mcxt);
	def = weir_catalog_view(place->view);
	MemoryContextSwitchTo(old);
	PopActiveSnapshot();
	CommitTransactionCommand();

	lock_place(LW_SHARED);
	same = def != NULL && strcmp(def->id, place->view_id) == 0 &&
		def->epoch == place->epoch;
	LWLockRelease(weir_shared->lock);
	if (!same)
		ereport(ERROR,
				(errcode(WEIR_ERRCODE_CHANGED),
				 errmsg("the definition of the view has changed")));
	weir_pin_settings(def->settings);
	return def;
}

/* Returns the OIDs of what it has locked. */
static List *
lock_source(Oid source)
{
	Relation	rel = table_open(source, AccessShareLock);
	MemoryContext old = MemoryContextSwitchTo(process_mcxt);
	List	   *result;

	source_desc = CreateTupleDescCopy(RelationGetDescr(rel));
	result = find_all_inheritors(source, AccessShareLock, NULL);
	MemoryContextSwitchTo(old);
	table_close(rel, NoLock);
	return result;
}

/*
 * From the transaction that has opened the view to the one that scans, without
 * letting go of the source.  Nothing here looks at interrupts while locks are
 * the session's.
 */
static void
change_transactions(void)
{
	ListCell   *cell;

	foreach(cell, locked)
	{
		LockRelId	id = {.relId = lfirst_oid(cell),.dbId = MyDatabaseId};

		LockRelationIdForSession(&id, AccessShareLock);
	}
	PopActiveSnapshot();
	CommitTransactionCommand();

	StartTransactionCommand();
	XactIsoLevel = XACT_REPEATABLE_READ;
	foreach(cell, locked)
	{
		LockRelId	id = {.relId = lfirst_oid(cell),.dbId = MyDatabaseId};

		LockRelationOid(id.relId, AccessShareLock);
		UnlockRelationIdForSession(&id, AccessShareLock);
	}
}

/* Afterwards the second transaction is open, which has no snapshot yet. */
static void
open_view(WeirViewDef *def)
{
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	locked = lock_source(def->source);
	run = weir_run_open(def, source_desc, false);
	/* the one row of a query without GROUP BY is the worker's */
	clear_groups();
	/* windows close in the worker */
	run->backfilling = true;
	run->composer = NULL;
	run->deadlines = NULL;
	run->publishes_panes = false;
	sent = *weir_run_books(run, 0);
	change_transactions();
}

/*
 * The same, again and again while somebody holds a lock: lock_timeout makes each
 * attempt short, so that whoever wants a stronger lock does not wait for us
 * while we wait for another.
 */
static void
open_view_patiently(WeirViewDef *def)
{
	for (;;)
	{
		MemoryContext caller = CurrentMemoryContext;
		volatile bool opened = true;

		PG_TRY();
		{
			open_view(def);
		}
		PG_CATCH();
		{
			int			sqlstate = geterrcode();

			if (sqlstate != ERRCODE_LOCK_NOT_AVAILABLE &&
				sqlstate != ERRCODE_T_R_DEADLOCK_DETECTED)
				PG_RE_THROW();
			(void) weir_catch(caller);
			opened = false;
		}
		PG_END_TRY();
		if (opened)
			break;
		weir_backfill_wait(1000);
		lock_place(LW_SHARED);
		LWLockRelease(weir_shared->lock);
	}
}

/* Waits for S, and makes it this transaction's. */
static void
take_snapshot(void)
{
	char		name[sizeof(place->snapshot)];
	bool		offered;
	bool		in_time;

	for (;;)
	{
		/* VACUUM shall not care for what we have read by now */
		InvalidateCatalogSnapshot();
		lock_place(LW_SHARED);
		offered = place->state == WEIR_PLACE_OFFERED;
		strlcpy(name, place->snapshot, sizeof(name));
		LWLockRelease(weir_shared->lock);
		if (offered)
			break;
		weir_backfill_wait(10000);
	}
	ImportSnapshot(name);

	/* the worker may have got tired of waiting for us */
	lock_place(LW_EXCLUSIVE);
	in_time = place->state == WEIR_PLACE_OFFERED &&
		strcmp(name, place->snapshot) == 0;
	if (in_time)
	{
		place->state = WEIR_PLACE_SCANNING;
		place->started = GetCurrentTimestamp();
		SetLatch(place->worker_latch);
	}
	LWLockRelease(weir_shared->lock);
	if (!in_time)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("the snapshot of a backfill came too late")));

	/* ATTACH PARTITION is not kept off by our locks */
	if (!equal(find_all_inheritors(linitial_oid(locked), AccessShareLock, NULL),
			   locked))
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("partitions of the source changed while its backfill began")));
}

/* ------------------------------------------------------------------- main */

static void
backfill(void)
{
	WeirViewDef *def;

	WEIR_FAULT("backfill-start");
	def = read_definition();
	weir_watchdog_view = def->relid;
	open_view_patiently(def);
	WEIR_FAULT("backfill-ready");
	set_state(WEIR_PLACE_READY);
	take_snapshot();
	weir_backfill_scan(run, source_desc, process_mcxt);
	set_state(WEIR_PLACE_SCANNED);
	weir_backfill_send();
	send_end();
}

void
weir_backfill_main(Datum arg)
{
	WeirBackfillArgs args;
	dsm_handle	handle;
	dsm_segment *segment;
	shm_mq	   *mq;

	memcpy(&args, MyBgworkerEntry->bgw_extra, sizeof(args));
	weir_stand_back();
	pqsignal(SIGTERM, die);
	/* the worker tells us the one setting that may change meanwhile */
	pqsignal(SIGHUP, SIG_IGN);
	BackgroundWorkerUnblockSignals();
	handle = enter_place(&args);
	BackgroundWorkerInitializeConnectionByOid(args.database, InvalidOid, 0);
	process_mcxt = AllocSetContextCreate(TopMemoryContext, "pg_weir backfill",
										 ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(process_mcxt);

	segment = dsm_attach(handle);
	if (segment == NULL)
		proc_exit(0);			/* the worker is gone */
	mq = dsm_segment_address(segment);
	shm_mq_set_sender(mq, MyProc);
	queue = shm_mq_attach(mq, segment, NULL);
	weir_watchdog_install();
	weir_pin_own_settings();

	PG_TRY();
	{
		backfill();
	}
	PG_CATCH();
	{
		ErrorData  *error;

		error = weir_catch(process_mcxt);
		weir_watchdog_explain(error);
		weir_watchdog_stop();
		send_error(error);
	}
	PG_END_TRY();
	proc_exit(0);
}
