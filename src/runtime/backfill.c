/*-------------------------------------------------------------------------
 *
 * backfill.c
 *	  Backfills, as the worker sees them.
 *
 * Starts the process that scans (backfill_process.c), hands it the snapshot S,
 * takes in what it sends.  What it is all about is drawn in backfill.h; which
 * transactions the worker folds meanwhile, and when the view is published, is
 * change_feed.c's.
 *
 * Why no transaction is lost or counted twice between S and the flow:
 *
 *	- The worker keeps every change of a transaction whose commit it reads after
 *	  P, so what S does not see must not have been read up to P.  A commit
 *	  record is in the WAL before its transaction is visible, and with a
 *	  synchronous standby that can take long.  So each transaction that S shows
 *	  as running, or as not begun (the latest one of all is not among those that
 *	  run), is looked up among those that were told; if one is among them, S is
 *	  thrown away and taken again later.
 *
 *	- Every transaction that S sees has its commit record in the WAL before S is
 *	  taken, so before `target`, which is read afterwards.  Only up to there are
 *	  xids compared with S; their numbers come around again some day.
 *
 * Only top-level xids are compared, and S has those of all running
 * transactions, prepared ones too, however many subtransactions there are.
 *
 * An error here never reaches the caller: it becomes the backfill's.  Nothing
 * survives a crash; the view is as it was, and its backfill begins again.
 *
 *-------------------------------------------------------------------------
 */
#include "runtime/backfill.h"

#include "access/transam.h"
#include "access/xact.h"
#include "libpq/pqformat.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "runtime/watchdog.h"
#include "source/changes.h"
#include "storage/dsm.h"
#include "storage/ipc.h"
#include "storage/procarray.h"
#include "storage/shm_mq.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

/* Enough for the process to go on while the worker commits. */
#define QUEUE_BYTES (1024 * 1024)

/* More groups than a message has. */
#define GROUPS_OF_MESSAGE 1000

/* How long the worker waits for the process to take S over. */
#define HANDOVER_MS 5000

/* Rows of a table that may raise before its view is published. */
#define MOST_LETTERS 100000

typedef struct WeirBackfillPrivate
{
	MemoryContext mcxt;
	WeirBackfillPlace *place;
	uint64		ticket;
	char	   *name;			/* of the view */
	BackgroundWorkerHandle *handle;
	dsm_segment *segment;
	shm_mq_handle *queue;
	TimestampTz snapshot_at;	/* 0: none taken yet */
	bool		scanned;		/* S is not held any more */
} Private;

/* All of this worker, for its exit. */
static List *backfills = NIL;

/* ------------------------------------------------------------------ places */

static void
free_place(WeirBackfillPlace *place)
{
	place->ticket = 0;
	place->database = InvalidOid;
	place->worker_pid = 0;
	place->worker_latch = NULL;
}

/* A place for a view, or NULL. */
static WeirBackfillPlace *
claim_place(const WeirViewDef *def)
{
	WeirBackfillPlace *found = NULL;

	LWLockAcquire(weir_shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < weir_shared->n_places && found == NULL; i++)
	{
		WeirBackfillPlace *place = &weir_shared->places[i];

		/* the process of an ended backfill may still be on its way out */
		if (place->pid != 0)
			continue;
		if (place->ticket == 0 ||
			BackendPidGetProc(place->worker_pid) == NULL)
			found = place;
	}
	if (found != NULL)
	{
		memset(found, 0, sizeof(*found));
		found->ticket = ++weir_shared->last_ticket;
		found->state = WEIR_PLACE_STARTING;
		found->database = MyDatabaseId;
		found->view = def->relid;
		strlcpy(found->view_id, def->id, sizeof(found->view_id));
		found->epoch = def->epoch;
		found->worker_pid = MyProcPid;
		found->worker_latch = MyLatch;
		found->rate = weir_backfill_rate;
		found->rows_estimate = -1;
	}
	LWLockRelease(weir_shared->lock);
	return found;
}

static void
give_back_place(Private *private)
{
	if (private->place == NULL)
		return;
	LWLockAcquire(weir_shared->lock, LW_EXCLUSIVE);
	if (private->place->ticket == private->ticket)
		free_place(private->place);
	LWLockRelease(weir_shared->lock);
	private->place = NULL;
}

/* The worker exits: so do its processes, however far they are. */
static void
leave_backfills(int code, Datum arg)
{
	ListCell   *cell;

	foreach(cell, backfills)
	{
		Private    *private = ((WeirBackfill *) lfirst(cell))->private;

		if (private->handle != NULL)
			TerminateBackgroundWorker(private->handle);
		give_back_place(private);
	}
}

/* ------------------------------------------------------------- start, end */

static bool
start_process(Private *private)
{
	WeirBackfillArgs args = {
		.database = MyDatabaseId,
		.place = private->place - weir_shared->places,
		.ticket = private->ticket
	};
	BackgroundWorker worker;
	char		name[BGW_MAXLEN];

	snprintf(name, BGW_MAXLEN, "pg_weir backfill of %s", private->name);
	weir_describe_process(&worker, "weir_backfill_main", "pg_weir backfill",
						  name);
	memcpy(worker.bgw_extra, &args, sizeof(args));
	worker.bgw_notify_pid = MyProcPid;
	return RegisterDynamicBackgroundWorker(&worker, &private->handle);
}

/* The queue and the process at its other end; false when there is none. */
static bool
connect_process(Private *private)
{
	shm_mq	   *queue;

	private->segment = dsm_create(QUEUE_BYTES, DSM_CREATE_NULL_IF_MAXSEGMENTS);
	if (private->segment == NULL)
		return false;
	dsm_pin_mapping(private->segment);
	queue = shm_mq_create(dsm_segment_address(private->segment), QUEUE_BYTES);
	shm_mq_set_receiver(queue, MyProc);

	LWLockAcquire(weir_shared->lock, LW_EXCLUSIVE);
	private->place->queue = dsm_segment_handle(private->segment);
	LWLockRelease(weir_shared->lock);
	if (!start_process(private))
		return false;
	/* with the handle a process that dies before it attaches is noticed */
	private->queue = shm_mq_attach(queue, private->segment, private->handle);
	return true;
}

/* Says once, until it works again, that there is no process. */
static void
complain(bool works, bool of_places)
{
	static bool complained = false;

	if (!works && !complained)
		ereport(LOG,
				(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
				 errmsg("pg_weir could not start a backfill"),
				 of_places ?
				 errdetail("As many as the server allows (%d) are under way.",
						   weir_shared->n_places) : 0,
				 of_places ?
				 errhint("It starts when one of them ends.  weir.max_workers allows for more.") :
				 errhint("Raise max_worker_processes.")));
	complained = !works;
}

WeirBackfill *
weir_backfill_start(WeirRun *run)
{
	static bool registered = false;
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext mcxt;
	WeirBackfill *backfill;
	Private    *private;
	WeirBackfillPlace *place;
	volatile bool started = false;

	if (!registered)
	{
		before_shmem_exit(leave_backfills, (Datum) 0);
		registered = true;
	}
	place = claim_place(run->def);
	if (place == NULL)
	{
		complain(false, true);
		return NULL;
	}

	mcxt = AllocSetContextCreate(TopMemoryContext, "pg_weir backfill",
								 ALLOCSET_DEFAULT_SIZES);
	backfill = MemoryContextAllocZero(mcxt, sizeof(*backfill));
	private = MemoryContextAllocZero(mcxt, sizeof(*private));
	backfill->state = WEIR_BACKFILL_STARTING;
	backfill->private = private;
	private->mcxt = mcxt;
	private->place = place;
	private->ticket = place->ticket;
	private->name = MemoryContextStrdup(mcxt, run->def->name);
	MemoryContextSwitchTo(TopMemoryContext);
	backfills = lappend(backfills, backfill);

	MemoryContextSwitchTo(mcxt);
	PG_TRY();
	{
		started = connect_process(private);
	}
	PG_CATCH();
	{
		/* no room in shared memory, say */
		MemoryContextSwitchTo(mcxt);
		EmitErrorReport();
		FlushErrorState();
		LWLockReleaseAll();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(caller);
	complain(started, false);
	if (!started)
	{
		weir_backfill_end(backfill);
		return NULL;
	}
	return backfill;
}

void
weir_backfill_end(WeirBackfill *backfill)
{
	Private    *private = backfill->private;

	if (private->handle != NULL)
		TerminateBackgroundWorker(private->handle);
	give_back_place(private);
	/* detaches the queue, too: a process that still sends notices */
	if (private->segment != NULL)
		dsm_detach(private->segment);
	backfills = list_delete_ptr(backfills, backfill);
	MemoryContextDelete(private->mcxt);
}

/* ---------------------------------------------------------------- failures */

static void
fail(WeirBackfill *backfill, ErrorData *error, bool needs_person)
{
	backfill->state = WEIR_BACKFILL_FAILED;
	backfill->error = error;
	backfill->needs_person = needs_person;
	if (backfill->private->handle != NULL)
		TerminateBackgroundWorker(backfill->private->handle);
}

static void
fail_with(WeirBackfill *backfill, int sqlstate, const char *message,
		  const char *detail, const char *hint, bool needs_person)
{
	MemoryContext old = MemoryContextSwitchTo(backfill->private->mcxt);
	ErrorData  *error = palloc0(sizeof(*error));

	error->elevel = ERROR;
	error->sqlerrcode = sqlstate;
	error->message = pstrdup(message);
	error->detail = detail && *detail ? pstrdup(detail) : NULL;
	error->hint = hint && *hint ? pstrdup(hint) : NULL;
	MemoryContextSwitchTo(old);
	fail(backfill, error, needs_person);
}

/* In PG_CATCH(): the error is the backfill's. */
static void
fail_with_caught(WeirBackfill *backfill, MemoryContext caller)
{
	ErrorData  *error;

	error = weir_catch(backfill->private->mcxt);
	weir_watchdog_explain(error);
	MemoryContextSwitchTo(caller);
	fail(backfill, error, false);
}

/* ---------------------------------------------------------- what it sends */

static void
take_groups(WeirBackfill *backfill, WeirRun *run, StringInfo message)
{
	if (backfill->discarded)
		return;
	WEIR_FAULT("backfill-merge");
	while (message->cursor < message->len)
	{
		int			len = pq_getmsgint(message, 4);

		weir_run_touch(run, weir_group_merge(run->table,
											 pq_getmsgbytes(message, len),
											 len));
		weir_progress++;
	}
}

/* A row that the table had, and whose expressions raise. */
static void
take_letter(WeirBackfill *backfill, WeirRun *run, StringInfo message)
{
	WeirDeadLetter letter = {0};

	letter.offset = -1;
	letter.lsn = backfill->target;
	letter.sqlstate = pq_getmsgint(message, 4);
	letter.message = unconstify(char *, pq_getmsgrawstring(message));
	if (!backfill->discarded)
		weir_keep_dead_letter(run, &letter);
	/* they are kept until the view is published */
	if (weir_kept_letters(run) > MOST_LETTERS)
		fail_with(backfill, ERRCODE_PROGRAM_LIMIT_EXCEEDED,
				  "more than 100000 rows of the table raise errors",
				  letter.message,
				  "Mend the rows or the query; then call weir.rebuild(view).",
				  true);
}

static void
take_counters(WeirBackfill *backfill, WeirRun *run, StringInfo message)
{
	WeirBooks  *books = weir_run_books(run, 0);
	int64		rows_in = pq_getmsgint64(message);
	int64		rows_filtered = pq_getmsgint64(message);
	int64		dead_letters = pq_getmsgint64(message);
	TimestampTz greatest = pq_getmsgint64(message);

	if (backfill->discarded)
		return;
	books->rows_in += rows_in;
	books->rows_filtered += rows_filtered;
	books->dead_letters += dead_letters;
	weir_event_time_merge(&books->time, greatest);
	books->changed = true;
	run->moved = true;
}

static void
take_error(WeirBackfill *backfill, StringInfo message)
{
	int			sqlstate = pq_getmsgint(message, 4);
	bool		needs_person = pq_getmsgbyte(message);
	const char *text = pq_getmsgrawstring(message);
	const char *detail = pq_getmsgrawstring(message);
	const char *hint = pq_getmsgrawstring(message);

	fail_with(backfill, sqlstate, text, detail, hint, needs_person);
}

static void
take(WeirBackfill *backfill, WeirRun *run, void *data, Size len)
{
	StringInfoData message;

	message.data = data;
	message.len = message.maxlen = (int) len;
	message.cursor = 0;
	switch (pq_getmsgbyte(&message))
	{
		case WEIR_BACKFILL_GROUPS:
			take_groups(backfill, run, &message);
			break;
		case WEIR_BACKFILL_LETTER:
			take_letter(backfill, run, &message);
			break;
		case WEIR_BACKFILL_COUNTERS:
			take_counters(backfill, run, &message);
			break;
		case WEIR_BACKFILL_ERROR:
			take_error(backfill, &message);
			break;
		case WEIR_BACKFILL_ENDS:
			backfill->state = WEIR_BACKFILL_DONE;
			break;
		default:
			elog(ERROR, "unknown message of a backfill");
	}
}

/* The process is gone, and what it had to say has been read. */
static void
notice_death(WeirBackfill *backfill)
{
	Private    *private = backfill->private;
	Oid			culprit;

	LWLockAcquire(weir_shared->lock, LW_SHARED);
	culprit = private->place->culprit;
	LWLockRelease(weir_shared->lock);
	if (OidIsValid(culprit))
		fail_with(backfill, ERRCODE_QUERY_CANCELED,
				  "an expression of the view went on after it was cancelled",
				  "The backfill was ended for it.",
				  "Mend the function, then call weir.resume.", true);
	else
		fail_with(backfill, ERRCODE_ADMIN_SHUTDOWN,
				  "the backfill process ended unexpectedly",
				  "It begins again.", "The server log may say why.", false);
}

/* Whether there is something in the queue; begins a transaction for it. */
static void
drain(WeirBackfill *backfill, WeirRun *run, int64 max_us)
{
	TimestampTz until = GetCurrentTimestamp() + max_us;
	WeirOwnerScope scope;
	shm_mq_result result;
	Size		len;
	void	   *data;
	bool		begun = false;

	/* if there is no room, the process waits until a commit has made some */
	do
	{
		if (!weir_run_make_room(run, GROUPS_OF_MESSAGE))
		{
			run->pressed = true;
			break;
		}
		result = shm_mq_receive(backfill->private->queue, &len, &data, true);
		if (result == SHM_MQ_WOULD_BLOCK)
			break;
		if (result == SHM_MQ_DETACHED)
		{
			notice_death(backfill);
			break;
		}
		if (!begun)
		{
			StartTransactionCommand();
			PushActiveSnapshot(GetTransactionSnapshot());
			weir_owner_begin(&scope, run->def->owner);
			begun = true;
		}
		take(backfill, run, data, len);
	} while (backfill->state != WEIR_BACKFILL_DONE &&
			 backfill->state != WEIR_BACKFILL_FAILED &&
			 GetCurrentTimestamp() < until);
	if (begun)
	{
		weir_owner_end(&scope);
		PopActiveSnapshot();
		CommitTransactionCommand();
	}
}

/* What the place says; and what the process should know. */
static void
look_at_place(WeirBackfill *backfill)
{
	Private    *private = backfill->private;
	WeirBackfillPlace *place = private->place;

	LWLockAcquire(weir_shared->lock, LW_EXCLUSIVE);
	if (backfill->state == WEIR_BACKFILL_STARTING &&
		place->state == WEIR_PLACE_READY)
		backfill->state = WEIR_BACKFILL_READY;
	private->scanned = place->state == WEIR_PLACE_SCANNED;
	if (place->rate != weir_backfill_rate)
	{
		place->rate = weir_backfill_rate;
		if (place->latch != NULL)
			SetLatch(place->latch);
	}
	LWLockRelease(weir_shared->lock);

	if (backfill->state == WEIR_BACKFILL_SCANNING && !private->scanned &&
		TimestampDifferenceExceeds(private->snapshot_at, GetCurrentTimestamp(),
								   Min(weir_backfill_max_age_s, INT_MAX / 1000) * 1000))
		fail_with(backfill, ERRCODE_QUERY_CANCELED,
				  psprintf("the backfill of \"%s\" took longer than weir.backfill_max_age",
						   private->name),
				  "VACUUM can remove no dead rows anywhere in the database while a backfill reads.",
				  "Raise weir.backfill_max_age or weir.backfill_rate, then call weir.resume.",
				  true);
}

void
weir_backfill_poll(WeirBackfill *backfill, WeirRun *run, int64 max_us)
{
	MemoryContext caller = CurrentMemoryContext;

	if (backfill->state == WEIR_BACKFILL_DONE ||
		backfill->state == WEIR_BACKFILL_FAILED)
		return;
	look_at_place(backfill);
	if (backfill->state == WEIR_BACKFILL_FAILED)
		return;
	/* equality of keys and order of values may be a user's functions */
	weir_watchdog_view = run->def->relid;
	weir_watchdog_start();
	PG_TRY();
	{
		drain(backfill, run, max_us);
	}
	PG_CATCH();
	{
		fail_with_caught(backfill, caller);
	}
	PG_END_TRY();
	weir_watchdog_stop();
	MemoryContextSwitchTo(caller);
}

void
weir_backfill_discard(WeirBackfill *backfill)
{
	backfill->discarded = true;
	if (backfill->state != WEIR_BACKFILL_SCANNING)
		return;
	backfill->state = WEIR_BACKFILL_DONE;
	TerminateBackgroundWorker(backfill->private->handle);
}

/* ------------------------------------------------------------ the snapshot */

/* What S sees; false when it is of no use, see at the top. */
static bool
keep_snapshot(WeirBackfill *backfill, Snapshot snapshot,
			  WeirHasTold has_told, void *arg)
{
	TransactionId next = ReadNextTransactionId();

	for (uint32 i = 0; i < snapshot->xcnt; i++)
		if (has_told(arg, snapshot->xip[i], false) ||
			TransactionIdDidCommit(snapshot->xip[i]))
			return false;
	/* a reader before us may have told them: look at the commits, too */
	if (has_told(arg, snapshot->xmax, true))
		return false;
	for (TransactionId xid = snapshot->xmax; TransactionIdPrecedes(xid, next);)
	{
		if (TransactionIdDidCommit(xid))
			return false;
		TransactionIdAdvance(xid);
	}

	if (backfill->running != NULL)
		pfree(backfill->running);
	backfill->xmin = snapshot->xmin;
	backfill->xmax = snapshot->xmax;
	backfill->n_running = (int) snapshot->xcnt;
	backfill->running =
		MemoryContextAlloc(backfill->private->mcxt,
						   sizeof(TransactionId) * Max(snapshot->xcnt, 1));
	memcpy(backfill->running, snapshot->xip,
		   sizeof(TransactionId) * snapshot->xcnt);
	qsort(backfill->running, backfill->n_running, sizeof(TransactionId),
		  xidComparator);
	return true;
}

/* Offers S, or takes the offer back; false if it is too late for that. */
static void
offer(WeirBackfillPlace *place, const char *name)
{
	LWLockAcquire(weir_shared->lock, LW_EXCLUSIVE);
	strlcpy(place->snapshot, name, sizeof(place->snapshot));
	place->state = WEIR_PLACE_OFFERED;
	if (place->latch != NULL)
		SetLatch(place->latch);
	LWLockRelease(weir_shared->lock);
}

static bool
is_taken_over(WeirBackfillPlace *place)
{
	bool		result;

	LWLockAcquire(weir_shared->lock, LW_SHARED);
	result = place->state == WEIR_PLACE_SCANNING ||
		place->state == WEIR_PLACE_SCANNED;
	LWLockRelease(weir_shared->lock);
	return result;
}

static bool
withdraw(WeirBackfillPlace *place)
{
	bool		in_time;

	LWLockAcquire(weir_shared->lock, LW_EXCLUSIVE);
	in_time = place->state == WEIR_PLACE_OFFERED;
	if (in_time)
		place->state = WEIR_PLACE_READY;
	LWLockRelease(weir_shared->lock);
	return in_time;
}

/* S must be ours until the process has it.  False if it does not take it. */
static bool
hand_over(WeirBackfill *backfill, Snapshot snapshot)
{
	Private    *private = backfill->private;
	TimestampTz until;
	pid_t		pid;

	offer(private->place, ExportSnapshot(snapshot));
	WEIR_FAULT("backfill-snapshot");
	until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), HANDOVER_MS);
	while (!is_taken_over(private->place))
	{
		if (GetCurrentTimestamp() >= until ||
			GetBackgroundWorkerPid(private->handle, &pid) != BGWH_STARTED)
			return !withdraw(private->place);
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 100L, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	return true;
}

bool
weir_backfill_snapshot(WeirBackfill *backfill, WeirHasTold has_told, void *arg)
{
	MemoryContext caller = CurrentMemoryContext;
	volatile bool taken = false;

	Assert(backfill->state == WEIR_BACKFILL_READY);
	PG_TRY();
	{
		Snapshot	snapshot;

		StartTransactionCommand();
		XactIsoLevel = XACT_REPEATABLE_READ;
		snapshot = GetTransactionSnapshot();
		if (keep_snapshot(backfill, snapshot, has_told, arg))
		{
			backfill->target = weir_wal_end();
			backfill->private->snapshot_at = GetCurrentTimestamp();
			taken = hand_over(backfill, snapshot);
		}
		CommitTransactionCommand();
		MemoryContextSwitchTo(caller);
	}
	PG_CATCH();
	{
		taken = false;
		fail_with_caught(backfill, caller);
	}
	PG_END_TRY();
	/* whoever waited here may have eaten a nudge */
	SetLatch(MyLatch);
	if (taken)
		backfill->state = WEIR_BACKFILL_SCANNING;
	return taken;
}

bool
weir_backfill_sees_slowly(const WeirBackfill *backfill, TransactionId xid)
{
	if (TransactionIdPrecedes(xid, backfill->xmin))
		return true;
	if (TransactionIdFollowsOrEquals(xid, backfill->xmax))
		return false;
	return bsearch(&xid, backfill->running, backfill->n_running,
				   sizeof(TransactionId), xidComparator) == NULL;
}
