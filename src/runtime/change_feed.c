/*-------------------------------------------------------------------------
 *
 * change_feed.c
 *	  Changes of this database's tables into the views that read them.
 *
 * The reader (source/wal_reader.c) decodes whole transactions into a buffer, and
 * change_sources.c takes them out and folds them.  Here is when that happens, from
 * where on, and which views take part.  When weir_changes_read() returns, every
 * view is at the same end of a commit, so whatever is committed afterwards is a
 * prefix of the transactions.
 *
 * There is one reader, and it may be behind a view but never ahead of one:
 *
 *	a view that failed, or was paused, is opened again at its last commit: the
 *	reader goes back there, and the others skip what they have;
 *	a new view over a table begins where the feed stands, when its backfill takes
 *	its snapshot: nothing is read again;
 *	a new view over a push stream begins at its own CREATE: the reader stops by
 *	itself where definitions change, so it is there, and else goes back.
 *
 * How often it reads: at once when something is committed after a quiet time;
 * while there is work, once per commit interval, just before the commit, since
 * more often would only wake us and the writers without anybody seeing it.
 *
 *-------------------------------------------------------------------------
 */
#include "runtime/change_feed.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "postmaster/interrupt.h"
#include "runtime/backfill.h"
#include "storage/procarray.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/* What one call of weir_wal_read() may bring: bounds memory and patience. */
#define READ_BYTES (16 * 1024 * 1024)
#define READ_US 100000

/* How long reading is put off while views wait for their next commit. */
#define LONGEST_PACE_US 100000

/* Without a nudge (COMMIT PREPARED gives none) the WAL is looked at so often. */
#define LOOK_US 250000

/* A turn gives the backfills so much of its time. */
#define MERGE_US 20000

#define FIRST_BACKOFF_MS 1000
#define LAST_BACKOFF_MS 30000

/* Where a row was locked that takes a moment of ours. */
#define REMEMBER_AGAIN_US USECS_PER_SEC

/*
 * A new slot waits for every transaction that has written when it begins, in any
 * database, and begins anew each time.  At first that is given some seconds, so
 * that the views can say what they wait for; then ever more, since where some
 * transaction of a minute is always under way, no shorter wait comes to its end.
 */
#define FIRST_PATIENCE_MS 5000
#define USUAL_PATIENCE_MS 1000	/* see pinned_settings.c */
#define LAST_PATIENCE_MS (60 * 60 * 1000)

static void set_trouble(WeirChangeFeed *feed, const ErrorData *error);

WeirChangeFeed *
weir_changes_create(void)
{
	MemoryContext mcxt = AllocSetContextCreate(TopMemoryContext, "pg_weir feed",
											   ALLOCSET_DEFAULT_SIZES);
	WeirChangeFeed *feed = MemoryContextAllocZero(mcxt, sizeof(*feed));

	feed->mcxt = mcxt;
	feed->backoff_ms = FIRST_BACKOFF_MS;
	feed->patience_ms = FIRST_PATIENCE_MS;
	return feed;
}

/* --------------------------------------------------------------- the reader */

/* The least position of what is joined; the feed's, if that is all. */
static XLogRecPtr
least_position(WeirWorker *worker, XLogRecPtr position)
{
	ListCell   *cell;

	foreach(cell, worker->members)
	{
		WeirRun    *run = ((WeirMember *) lfirst(cell))->run;

		if (run != NULL && run->joined)
			position = Min(position, (XLogRecPtr) run->books[0].position);
	}
	return position;
}

static void
close_reader(WeirChangeFeed *feed)
{
	if (feed->reader != NULL)
		weir_wal_close(feed->reader);
	feed->reader = NULL;
}

static void
set_patience(WeirWorker *worker, int ms, bool making_slot)
{
	char		timeout[16];

	snprintf(timeout, sizeof(timeout), "%d", ms);
	SetConfigOption("lock_timeout", timeout, PGC_SUSET, PGC_S_OVERRIDE);
	LWLockAcquire(weir_shared->lock, LW_EXCLUSIVE);
	worker->slot->making_slot = making_slot;
	LWLockRelease(weir_shared->lock);
}

/* Others may make us wait for long, until there are news; false if there are. */
static bool
become_patient(WeirWorker *worker)
{
	set_patience(worker, worker->changes->patience_ms, true);
	return !ConfigReloadPending && !weir_must_leave(worker) &&
		!weir_members_are_stale(worker);
}

/* In no transaction, or its abort would make us patient again. */
static void
become_impatient(WeirWorker *worker)
{
	set_patience(worker, USUAL_PATIENCE_MS, false);
	/* news that came too late to cancel anything */
	QueryCancelPending = false;
}

static void
begin_life(WeirWorker *worker)
{
	WeirChangeFeed *feed = worker->changes;
	WeirSlotLife life = weir_slot_begin();

	feed->life = life.life;
	feed->recorded = feed->position = life.confirmed;
	feed->lost_why = life.lost_why ?
		MemoryContextStrdup(feed->mcxt, life.lost_why) : NULL;
	feed->patience_ms = FIRST_PATIENCE_MS;
	/* what they had of another life ends with it: join_again() tells */
	weir_members_reopen(worker, feed->life);
}

/* No slot yet: somebody's transaction took longer than our patience, or news came. */
static void
note_wait(WeirChangeFeed *feed, const ErrorData *error)
{
	ErrorData	wait = {
		.elevel = ERROR,
		.sqlerrcode = error->sqlerrcode,
		.message = "waiting for transactions that write, to read changes from there on",
		.detail = "A new replication slot waits for all that are open, in any database.",
		.hint = "Look for old transactions in pg_stat_activity and pg_prepared_xacts."
	};

	if (error->sqlerrcode == ERRCODE_QUERY_CANCELED)
		return;
	set_trouble(feed, &wait);
	feed->patience_ms = Min(feed->patience_ms * 4, LAST_PATIENCE_MS);
	feed->backoff_ms = FIRST_BACKOFF_MS;
}

/* (Re)opens the reader; an error is the feed's trouble. */
static void
open_reader(WeirWorker *worker)
{
	WeirChangeFeed *feed = worker->changes;
	MemoryContext caller = CurrentMemoryContext;
	volatile bool begins = feed->life == 0;

	if (feed->reader != NULL || GetCurrentTimestamp() < feed->retry_at)
		return;
	if (begins && !become_patient(worker))
	{
		become_impatient(worker);
		return;					/* next turn */
	}
	PG_TRY();
	{
		if (begins)
		{
			begin_life(worker);
			begins = false;
			become_impatient(worker);
		}
		StartTransactionCommand();
		feed->position = least_position(worker, feed->position);
		feed->reader = weir_wal_open(weir_slot_name(worker->database),
									 feed->position);
		CommitTransactionCommand();
		MemoryContextSwitchTo(caller);
		feed->watch_stale = true;
		feed->next_read = 0;
	}
	PG_CATCH();
	{
		ErrorData  *error = weir_catch(caller);

		if (begins)
			become_impatient(worker);
		if (begins && (error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE ||
					   error->sqlerrcode == ERRCODE_QUERY_CANCELED))
			note_wait(feed, error);
		else
			set_trouble(feed, error);
		/* look again at whether the slot is the one that we know */
		feed->life = 0;
	}
	PG_END_TRY();
}

/* The slot is in trouble: the views say so until it works again. */
static void
set_trouble(WeirChangeFeed *feed, const ErrorData *error)
{
	MemoryContext old;

	close_reader(feed);
	feed->retry_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
												 WEIR_BACKOFF(feed->backoff_ms));
	feed->backoff_ms = Min(feed->backoff_ms * 2, LAST_BACKOFF_MS);
	if (feed->trouble != NULL)
		return;
	ereport(LOG,
			(errcode(error->sqlerrcode),
			 errmsg("reading the changes of tables: %s",
					error->message ? error->message : "unknown error"),
			 error->detail ? errdetail_internal("%s", error->detail) : 0));
	old = MemoryContextSwitchTo(feed->mcxt);
	feed->trouble = palloc(sizeof(ErrorData));
	memcpy(feed->trouble, error, sizeof(ErrorData));
	feed->trouble->message = pstrdup(error->message ? error->message : "unknown error");
	feed->trouble->detail = error->detail ? pstrdup(error->detail) : NULL;
	feed->trouble->hint = pstrdup(error->hint ? error->hint :
								  "pg_weir tries again by itself.");
	MemoryContextSwitchTo(old);
}

/* ------------------------------------------------------------------ joining */

/* A position that no slot can serve any more. */
static void
put_aside_lost(WeirWorker *worker, WeirRun *run)
{
	WeirChangeFeed *feed = worker->changes;
	bool		given_up = run->books[0].last_print == 0;
	ErrorData	error = {
		.elevel = ERROR,
		.sqlerrcode = ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
		.message = "changes that the view has not read are gone",
		.detail = given_up ?
		"It held back more WAL than weir.max_retained_wal, and was given up." :
		feed->lost_why ? feed->lost_why :
		"The replication slot that its position belongs to is gone.",
		.hint = unconstify(char *, weir_rebuild_hint(run->def))
	};

	weir_members_stall(worker, run, &error, 0);
}

static bool
has_told(void *reader, TransactionId xid, bool or_later)
{
	return or_later ? weir_wal_has_told_from(reader, xid) :
		weir_wal_has_told(reader, xid);
}

/* The first position of a view. */
static void
begin_at(WeirWorker *worker, WeirRun *run, XLogRecPtr position,
		 XLogRecPtr target)
{
	WeirBooks  *books = weir_run_books(run, 0);

	books->position = books->start = (int64) position;
	books->target = (int64) target;
	books->last_offset = 0;
	books->last_print = worker->changes->life;
	books->changed = true;
	run->moved = true;
	run->joined = true;
}

/* A run over a table that has no position yet. */
static void
join_new(WeirWorker *worker, WeirMember *member)
{
	WeirChangeFeed *feed = worker->changes;
	WeirRun    *run = member->run;

	if (run->backfill == NULL)
		run->backfill = weir_backfill_start(run);
	if (run->backfill == NULL)
		return;					/* no process to be had: next turn */
	weir_backfill_poll(run->backfill, run, 0);
	if (run->backfill->state == WEIR_BACKFILL_READY &&
		weir_backfill_snapshot(run->backfill, has_told, feed->reader))
	{
		begin_at(worker, run, feed->position, run->backfill->target);
		weir_changes_add(feed, run, member->desc);
	}
}

/*
 * CREATE of a view over a push stream writes down where the WAL was.  It begins
 * there, or where the slot does, if it was made since: what is pushed before
 * somebody takes it is refused.  Until it has joined, nothing is confirmed.
 */
static bool
is_new_to_stream(const WeirRun *run)
{
	return run->def->source_kind == WEIR_SOURCE_STREAM &&
		run->books[0].last_offset < 0;
}

/*
 * Does the slot keep WAL for a member that has no run?  It does for what belongs
 * to its life, and for what is new and belongs to none yet.
 */
bool
weir_changes_holds(const WeirChangeFeed *feed, const WeirMember *member)
{
	return member->held_life == feed->life ||
		(member->held_new && member->held_life == 0);
}

/*
 * A view over a push stream that was paused before it began: what is pushed for
 * it is in this life of the slot from now on, and lost with it.  That is written
 * down, so that the view knows when it is resumed.
 */
static void
remember_life(WeirWorker *worker)
{
	WeirChangeFeed *feed = worker->changes;
	ListCell   *cell;

	if (GetCurrentTimestamp() < feed->next_remember)
		return;
	foreach(cell, worker->members)
	{
		WeirMember *member = lfirst(cell);

		if (member->run != NULL || !member->held_new || member->held_life != 0)
			continue;
		if (weir_slot_remember(member->def->id, feed->life))
			member->held_life = feed->life;
		else					/* somebody holds its row, to rebuild it, say */
			feed->next_remember = GetCurrentTimestamp() + REMEMBER_AGAIN_US;
	}
}

/* A run that has a position, in a life of the slot. */
static void
join_again(WeirWorker *worker, WeirMember *member)
{
	WeirChangeFeed *feed = worker->changes;
	WeirRun    *run = member->run;

	if (run->books[0].last_print != feed->life &&
		!(is_new_to_stream(run) && run->books[0].last_print == 0))
	{
		put_aside_lost(worker, run);
		return;
	}
	if (is_new_to_stream(run))
		begin_at(worker, run,
				 Max((XLogRecPtr) run->books[0].position, feed->recorded), 0);
	run->joined = true;
	weir_changes_add(feed, run, member->desc);
	if ((XLogRecPtr) run->books[0].position < feed->position)
	{
		close_reader(feed);
		feed->position = (XLogRecPtr) run->books[0].position;
	}
}

/* The error goes with the backfill, and that with the run. */
static void
fail_with_backfill(WeirWorker *worker, WeirRun *run)
{
	const ErrorData *error = run->backfill->error;
	ErrorData	copy = {
		.elevel = ERROR,
		.sqlerrcode = error->sqlerrcode,
		.message = pstrdup(error->message ? error->message : "unknown error"),
		.detail = error->detail ? pstrdup(error->detail) : NULL,
		.hint = error->hint ? pstrdup(error->hint) : NULL
	};

	if (run->backfill->needs_person)
		weir_members_stall(worker, run, &copy, 0);
	else
		weir_members_fail(worker, run, &copy);
}

void
weir_changes_join(WeirWorker *worker)
{
	WeirChangeFeed *feed = worker->changes;
	List	   *members = list_copy(worker->members);
	ListCell   *cell;

	open_reader(worker);
	if (feed->life == 0)
		return;
	remember_life(worker);
	foreach(cell, members)
	{
		WeirMember *member = lfirst(cell);

		if (member->run != NULL && !member->run->joined &&
			member->run->n_books > 0)
			join_again(worker, member);
	}
	open_reader(worker);
	if (feed->reader == NULL)
		return;
	foreach(cell, members)
	{
		WeirMember *member = lfirst(cell);

		if (member->run == NULL)
			continue;
		/* what is new begins where all are; who went back is not there yet */
		if (!member->run->joined)
			join_new(worker, member);
		else if (member->run->backfill != NULL)
			weir_backfill_poll(member->run->backfill, member->run, MERGE_US);
		if (member->run != NULL && member->run->backfill != NULL &&
			member->run->backfill->state == WEIR_BACKFILL_FAILED)
			fail_with_backfill(worker, member->run);
	}
	list_free(members);
}

/* ------------------------------------------------------------------ reading */

/*
 * Tells weir.partitions how fresh the views are.  One place ahead of us is kept
 * with the time at which it was the end of the WAL; when we are there, all that
 * was committed by then is folded.
 */
static void
note_progress(WeirWorker *worker)
{
	WeirChangeFeed *feed = worker->changes;

	pg_atomic_write_u64(&worker->slot->read_to, feed->position);
	if (feed->position >= feed->mark)
	{
		if (feed->mark_time != 0)
			pg_atomic_write_u64(&worker->slot->read_by, (uint64) feed->mark_time);
		feed->mark = GetFlushRecPtr(NULL);
		feed->mark_time = GetCurrentTimestamp();
	}
}

/*
 * All that came before the transaction is folded: commit that, then stall.  The
 * position is where its commit record begins, not somewhere in that: decoding
 * that starts there passes over a transaction whose record began before.
 */
static void
stop_at_limit(WeirMember *member)
{
	WeirRun    *run = member->run;

	run->books[0].position = Max(run->books[0].position,
								 (int64) run->limit);
	run->stop = member->limit_error;
	run->needs_person = true;
	member->limit = 0;
}

void
weir_changes_note_time(WeirWorker *worker)
{
	TimestampTz read_by = (TimestampTz) pg_atomic_read_u64(&worker->slot->read_by);
	ListCell   *cell;

	foreach(cell, worker->members)
	{
		WeirRun    *run = ((WeirMember *) lfirst(cell))->run;

		if (run != NULL && run->joined && !weir_run_has_news(run))
			run->complete_to = read_by;
	}
}

/* All views that are fed are at the reader's position now. */
static void
advance(WeirWorker *worker)
{
	WeirChangeFeed *feed = worker->changes;
	XLogRecPtr	position = weir_wal_position(feed->reader);
	ListCell   *cell;

	feed->position = Max(feed->position, position);
	foreach(cell, worker->members)
	{
		WeirRun    *run = ((WeirMember *) lfirst(cell))->run;

		if (run == NULL || !run->joined)
			continue;
		if (run->limit != 0 && feed->position > run->limit)
			stop_at_limit(lfirst(cell));
		else
			run->books[0].position = Max(run->books[0].position,
										 (int64) feed->position);
		run->books[0].source_end = run->books[0].position;
		run->books[0].changed = true;
	}
}

/*
 * When to read next: when the next view may commit, since nobody sees what is
 * read more often; and before, if that is long.
 */
static TimestampTz
next_tick(WeirWorker *worker, TimestampTz now)
{
	TimestampTz tick = now + LONGEST_PACE_US;
	ListCell   *cell;

	foreach(cell, worker->members)
	{
		WeirRun    *run = ((WeirMember *) lfirst(cell))->run;
		TimestampTz due;

		if (run == NULL || !run->joined)
			continue;
		due = weir_pace_due(run);
		/* whose time has come commits now, and then an interval later */
		if (due <= now)
			due = now + weir_pace_interval(run);
		tick = Min(tick, due);
	}
	return tick;
}

/* Somebody committed without waiting for the disk: flush for him. */
static void
flush_for_others(void)
{
	XLogRecPtr	end = weir_wal_end();

	if (GetFlushRecPtr(NULL) < end)
		XLogFlush(end);
}

/* Definitions changed at the reader's position: is that visible now? */
static bool
waits_for_ddl(WeirWorker *worker)
{
	WeirChangeFeed *feed = worker->changes;

	if (!TransactionIdIsValid(feed->ddl_xid))
		return false;
	if (TransactionIdIsInProgress(feed->ddl_xid))
		return true;
	feed->ddl_xid = InvalidTransactionId;
	worker->generation = 0;		/* read them, before anything else */
	return true;
}

/*
 * All that is read is folded before the next commit: into what memory there is.  Rows
 * may take much more there, if they were compressed: when that was refused, as little
 * as possible.
 */
static Size
bytes_to_read(void)
{
	Size		room = weir_budget_was_refused() ? 0 : weir_budget_limit() / 16;

	return Min(READ_BYTES, Max(room, 64 * 1024));
}

bool
weir_changes_read(WeirWorker *worker)
{
	WeirChangeFeed *feed = worker->changes;
	MemoryContext caller = CurrentMemoryContext;
	TimestampTz now = GetCurrentTimestamp();
	volatile bool more = false;

	if (feed->reader == NULL || waits_for_ddl(worker) ||
		now < feed->next_read)
		return false;
	if (feed->watch_stale)
		weir_changes_tell_watched(feed);
	PG_TRY();
	{
		XLogRecPtr	before = weir_wal_position(feed->reader);

		flush_for_others();
		feed->seen = GetFlushRecPtr(NULL);
		WEIR_FAULT("changes-read");
		(void) weir_wal_read(feed->reader, bytes_to_read(), READ_US);
		MemoryContextSwitchTo(caller);
		feed->idle = weir_wal_position(feed->reader) == before;
		more = !feed->idle && weir_wal_position(feed->reader) < feed->seen;
		feed->next_read = more ? 0 : feed->idle ? now + LOOK_US :
			next_tick(worker, now);
	}
	PG_CATCH();
	{
		set_trouble(feed, weir_catch(caller));
		feed->life = 0;
	}
	PG_END_TRY();
	if (feed->reader == NULL)
		return false;

	if (feed->trouble != NULL)
	{
		feed->trouble = NULL;
		feed->backoff_ms = FIRST_BACKOFF_MS;
	}
	/*
	 * Decoding a REVOKE, or a policy, has invalidated what it should.  Rows that
	 * were committed with it or later are not for a view that has lost its
	 * privileges; looking before reading alone would let them in.
	 */
	weir_members_check_privileges(worker);
	weir_changes_take(worker);
	advance(worker);
	note_progress(worker);
	/* what was read before has been seen to before */
	if (feed->position > feed->furthest)
		feed->ddl_xid = weir_wal_ddl_xid(feed->reader);
	feed->furthest = Max(feed->furthest, feed->position);
	return more || TransactionIdIsValid(feed->ddl_xid);
}

TimestampTz
weir_changes_due(WeirWorker *worker)
{
	WeirChangeFeed *feed = worker->changes;
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz due;
	ListCell   *cell;

	if (feed->reader == NULL)
		return Max(feed->retry_at, now + 10000);
	if (TransactionIdIsValid(feed->ddl_xid))
		return now + 2000;
	due = Max(feed->next_read, now);
	foreach(cell, worker->members)
	{
		WeirRun    *run = ((WeirMember *) lfirst(cell))->run;

		/* its process tells by the latch; this is for what gets lost */
		if (run != NULL && (!run->joined || run->backfill != NULL))
			due = Min(due, now + 50000);
	}
	return due;
}

bool
weir_changes_watch_commits(WeirWorker *worker)
{
	WeirChangeFeed *feed = worker->changes;

	if (feed->reader == NULL || !feed->idle)
		return false;
	worker->slot->waiting = true;
	pg_memory_barrier();
	/* who committed before he could see that has not woken us */
	if (GetFlushRecPtr(NULL) == feed->seen)
		return false;
	feed->next_read = 0;
	return true;
}

void
weir_changes_woken(WeirWorker *worker)
{
	WeirChangeFeed *feed = worker->changes;

	worker->slot->waiting = false;
	if (feed->idle)
		feed->next_read = 0;
}

void
weir_changes_end(WeirWorker *worker)
{
	close_reader(worker->changes);
	weir_slot_end();
}
