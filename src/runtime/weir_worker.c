/*-------------------------------------------------------------------------
 *
 * weir_worker.c
 *	  The worker: poll, decode, fold, commit, acknowledge.
 *
 * One worker serves all views that read one stream of one database.  Start
 * reading at weir_worker_main(), at the end: the loop is the system in a page.
 * The parts are in the files beside it: feed.c polls and decodes, fold.c folds,
 * weir_commit.c commits; members.c says which views there are and opens them;
 * member_failures.c keeps those that have failed waiting; expire.c deletes what is
 * kept for a while only.
 *
 * No transaction is open while the worker waits.  A turn that read something
 * runs in a transaction of its own, without an XID; results are written in
 * another, at most once per commit interval.  An idle worker writes nothing.
 *
 *-------------------------------------------------------------------------
 */
#include "runtime/worker.h"

#ifdef __GLIBC__
#include <malloc.h>
#endif
#include <sys/resource.h>
#include <time.h>

#include "access/xact.h"
#include "libpq/pqsignal.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "runtime/change_feed.h"
#include "runtime/watchdog.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

/* The longest that a worker sleeps, so that lost news cost no more than this. */
#define LONGEST_WAIT_MS 10000

/*
 * A view commits when it has so many dead letters and late rows, before its
 * interval is over.
 */
#define MOST_KEPT_ROWS 10000

/*
 * So, too, when so many groups have changed, whatever its interval: a commit needs
 * about 200 bytes of private memory for each of them.
 */
#define MOST_DIRTY (256 * 1024)

static WeirWorker worker;

/* ------------------------------------------------------------- start, end */

/*
 * The nice value of processes that nobody waits for: scouts and backfills, which
 * use a core as long as they last.  At an equal share of two, transactions wait a
 * time slice for theirs, which is many times what they last.
 */
#define LOW_PRIORITY 10

void
weir_stand_back(void)
{
	(void) setpriority(PRIO_PROCESS, 0, LOW_PRIORITY);
}

static void
leave_slot(int code, Datum arg)
{
	LWLockAcquire(weir_shared->lock, LW_EXCLUSIVE);
	worker.slot->latch = NULL;
	worker.slot->pid = 0;
	worker.slot->making_slot = false;
	if (weir_shared->launcher_latch != NULL)
		SetLatch(weir_shared->launcher_latch);
	LWLockRelease(weir_shared->lock);
	ConditionVariableBroadcast(&weir_shared->answered);
}

/*
 * librdkafka allocates megabytes for each answer of a broker and frees them a
 * moment later.  Left to itself, the C library fetches them from the kernel
 * and gives them back each time, and the faults of fresh pages cost as much
 * as decoding does; the 64 MB that it may keep are of the order of what a
 * consumer queues anyhow.
 */
static void
keep_freed_memory(void)
{
#ifdef __GLIBC__
	(void) mallopt(M_MMAP_THRESHOLD, 32 * 1024 * 1024);
	(void) mallopt(M_TRIM_THRESHOLD, 64 * 1024 * 1024);
#endif
}

static void
start(const WeirWorkerArgs *args)
{
	keep_freed_memory();
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(args->database, InvalidOid, 0);
	weir_watchdog_install();
	weir_pin_own_settings();
	worker.database = args->database;
	worker.turn = AllocSetContextCreate(TopMemoryContext, "pg_weir turn",
										ALLOCSET_DEFAULT_SIZES);
	if (args->slot < 0)
		return;

	worker.slot = &weir_shared->slots[args->slot];
	worker.stream = worker.slot->stream;
	if (worker.stream == WEIR_GROUP_CHANGES)
		worker.changes = weir_changes_create();
	weir_watchdog_culprit = &worker.slot->culprit;
	LWLockAcquire(weir_shared->lock, LW_EXCLUSIVE);
	if (worker.slot->pid != 0)
	{
		/* a new launcher did not know of it; two would write the same rows */
		LWLockRelease(weir_shared->lock);
		proc_exit(0);
	}
	worker.slot->latch = MyLatch;
	worker.slot->pid = MyProcPid;
	pg_atomic_write_u64(&worker.slot->read_to, 0);
	pg_atomic_write_u64(&worker.slot->read_by, 0);
	LWLockRelease(weir_shared->lock);
	before_shmem_exit(leave_slot, (Datum) 0);
}

bool
weir_must_leave(const WeirWorker *worker)
{
	bool		leave;

	if (!weir_enabled)
		return true;
	LWLockAcquire(weir_shared->lock, LW_SHARED);
	leave = weir_shared->leave == worker->database &&
		GetCurrentTimestamp() < weir_shared->leave_until;
	LWLockRelease(weir_shared->lock);
	return leave;
}

/* The share of a core that this process used since the last question. */
double
weir_busy_share(void)
{
	static int64 last_cpu = 0;
	static TimestampTz last_time = 0;
	static double share = 0;
	struct timespec cpu;
	int64		cpu_us;
	TimestampTz now = GetCurrentTimestamp();

	if (now - last_time < USECS_PER_SEC)
		return share;
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu);
	cpu_us = (int64) cpu.tv_sec * USECS_PER_SEC + cpu.tv_nsec / 1000;
	if (last_time != 0)
		share = (double) (cpu_us - last_cpu) / (double) (now - last_time);
	last_cpu = cpu_us;
	last_time = now;
	return share;
}

/* --------------------------------------------------------------- the turn */

/*
 * Another feed of the same kind is nearly where this one is: wait for it, so
 * that both become one.
 */
static bool
is_held(WeirFeed *feed)
{
	return feed->held_since != 0 &&
		!TimestampDifferenceExceeds(feed->held_since, GetCurrentTimestamp(),
									2000);
}

static bool
some_feed_is_held(void)
{
	ListCell   *cell;

	foreach(cell, worker.feeds)
		if (is_held(lfirst(cell)))
			return true;
	return false;
}

/* Is there so much to commit that it should not become more? */
static bool
has_much(const WeirRun *run)
{
	return run->pressed || run->n_dirty >= MOST_DIRTY ||
		weir_kept_rows(run) >= MOST_KEPT_ROWS;
}

/* Folds a batch into the views of a feed; those that fail are put aside. */
static void
fold(WeirFeed *feed)
{
	List	   *runs = list_copy(feed->runs);
	ListCell   *cell;

	foreach(cell, runs)
		weir_members_fold(&worker, lfirst(cell), &feed->batch);
	list_free(runs);
}

/*
 * False if decoding failed altogether (out of memory, say): then all views of
 * the feed are put aside, and those of other owners go on.
 */
static bool
decode(WeirFeed *feed)
{
	MemoryContext caller = CurrentMemoryContext;
	volatile bool decoded = true;

	weir_watchdog_view = ((WeirRun *) linitial(feed->runs))->def->relid;
	PG_TRY();
	{
		StartTransactionCommand();
		PushActiveSnapshot(GetTransactionSnapshot());
		weir_feed_decode(feed);
		PopActiveSnapshot();
		CommitTransactionCommand();
		MemoryContextSwitchTo(caller);
	}
	PG_CATCH();
	{
		List	   *runs;
		ListCell   *cell;
		ErrorData  *error = weir_catch(caller);

		/* the feed goes with the last of them */
		runs = list_copy(feed->runs);
		foreach(cell, runs)
			weir_members_fail(&worker, lfirst(cell), error);
		decoded = false;
	}
	PG_END_TRY();
	return decoded;
}

/* Reads what has come, from each feed a batch; true if there was something. */
static bool
read_feeds(void)
{
	bool		busy = false;
	List	   *feeds = list_copy(worker.feeds);
	ListCell   *cell;

	foreach(cell, feeds)
	{
		WeirFeed   *feed = lfirst(cell);

		weir_feed_align(feed);
		if (is_held(feed) || weir_feed_poll(feed) == 0)
			continue;
		busy = true;
		weir_members_apply_settings(&worker, feed->settings);
		weir_watchdog_start();
		if (decode(feed))
			fold(feed);
		weir_watchdog_stop();
	}
	list_free(feeds);
	return busy;
}

static bool
is_due(WeirRun *run, TimestampTz now)
{
	if (run->has_watermark && weir_now() >= run->next_idle)
		weir_members_update_ends(&worker, run);
	if (!weir_run_has_news(run))
		return false;
	return run->stop != NULL || run->publish_now ||
		(has_much(run) && !run->blocked) ||
		now >= weir_pace_due(run);
}

static void
acknowledge(List *runs)
{
	ListCell   *cell;

	/* the broker's copy is for lag tools: one view per feed speaks for it */
	foreach(cell, runs)
	{
		WeirRun    *run = lfirst(cell);
		WeirFeed   *feed = weir_members_feed(&worker, run);
		WeirPosition *positions;

		if (feed == NULL || linitial(feed->runs) != run)
			continue;
		positions = palloc(sizeof(WeirPosition) * Max(run->n_books, 1));
		for (int i = 0; i < run->n_books; i++)
		{
			positions[i].partition = run->books[i].partition;
			positions[i].offset = run->books[i].committed;
		}
		weir_kafka_acknowledge(feed->consumer, positions, run->n_books);
	}
}

/* Commits runs of the same settings; those that fail are left out. */
static void
commit_together(List *due)
{
	List	   *again = NIL;
	ListCell   *cell;

	weir_members_apply_settings(&worker,
								((WeirRun *) linitial(due))->def->settings);
	while (due != NIL)
	{
		ErrorData  *error = NULL;
		XLogRecPtr	confirm = worker.changes == NULL ? InvalidXLogRecPtr :
			weir_changes_confirmable(&worker, due);
		WeirRun    *failed;

		SetCurrentStatementStartTimestamp();
		failed = weir_commit_runs(due, confirm, &error);
		if (failed == NULL)
		{
			acknowledge(due);
			if (worker.changes != NULL)
				weir_changes_confirm(&worker, confirm);
			WEIR_FAULT("acknowledged");
			/* what went to disk first is published before anything is folded */
			foreach(cell, due)
				if (((WeirRun *) lfirst(cell))->again)
					again = lappend(again, lfirst(cell));
			due = again;
			again = NIL;
			continue;
		}
		due = list_delete_ptr(due, failed);
		weir_members_fail_commit(&worker, failed, error);
	}
}

/* Which runs commit. */
typedef enum Which
{
	WHAT_IS_DUE,
	WHAT_HAS_MOVED,				/* rows of v, while nobody looked (VACUUM FULL):
								 * before anything is folded, or leaves memory */
	EVERYTHING
} Which;

static bool
is_among(Which which, WeirRun *run, TimestampTz now)
{
	switch (which)
	{
		case WHAT_IS_DUE:
			return is_due(run, now);
		case WHAT_HAS_MOVED:
			return run->rewrite && !run->blocked;
		case EVERYTHING:
			return weir_run_has_news(run);
	}
	return false;
}

/*
 * Result expressions depend on the pinned settings, so runs with others get a
 * transaction of their own.
 */
static void
commit(Which which)
{
	TimestampTz now = GetCurrentTimestamp();
	List	   *due = NIL;
	ListCell   *cell;

	foreach(cell, worker.members)
	{
		WeirRun    *run = ((WeirMember *) lfirst(cell))->run;

		if (run != NULL && is_among(which, run, now))
		{
			weir_members_update_ends(&worker, run);
			due = lappend(due, run);
		}
	}
	if (due == NIL)
		return;
	while (due != NIL)
	{
		WeirRun    *first = linitial(due);
		List	   *together = NIL;
		List	   *others = NIL;

		foreach(cell, due)
		{
			WeirRun    *run = lfirst(cell);

			if (equal(run->def->settings, first->def->settings))
				together = lappend(together, run);
			else
				others = lappend(others, run);
		}
		commit_together(together);
		due = others;
	}
	weir_pace_committed(now, GetCurrentTimestamp());
	foreach(cell, worker.members)
	{
		WeirMember *member = lfirst(cell);

		if (member->run == NULL || !member->run->reopen)
			continue;
		weir_members_close(&worker, member);
		member->retry_at = 0;
	}
}

/*
 * A lock keeps a view from committing.  It reads on within its memory, since most
 * locks are short.  Before that is too much, or what it holds back of the WAL, the
 * view is closed until the lock can be had; so the others go on, and it reads again
 * from its last commit.  Rows that a table had before would have to be scanned
 * again, and are within weir.state_memory anyhow.
 */
static void
tend_blocked(void)
{
	uint64		most_wal = (uint64) weir_max_retained_wal_mb * 1024 * 1024;
	List	   *members = list_copy(worker.members);
	ListCell   *cell;

	foreach(cell, members)
	{
		WeirRun    *run = ((WeirMember *) lfirst(cell))->run;

		if (run == NULL || !run->blocked)
			continue;
		if (GetCurrentTimestamp() >= run->next_lag)
			weir_members_tell_lag(&worker, run);
		if (worker.changes == NULL ? has_much(run) :
			!run->backfilling &&
			(has_much(run) || (run->books[0].exists &&
							   weir_wal_end() - (XLogRecPtr) run->books[0].committed > most_wal)))
			weir_members_lock_out(&worker, run);
	}
	list_free(members);
}

/* When a view commits, or looks whether it should, if nothing comes. */
static TimestampTz
next_commit(WeirRun *run)
{
	TimestampTz due = DT_NOEND;

	if (weir_run_has_news(run))
		due = run->publish_now && !run->blocked ? 0 : weir_pace_due(run);
	else
	{
		TimestampTz at = DT_NOEND;

		if (run->n_unpublished > 0 && !run->backfilling)
			at = run->next_publish;
		if (run->has_watermark)
			at = Min(at, run->next_idle);
		/* tests move this clock */
		if (at < DT_NOEND)
			due = weir_time_add(GetCurrentTimestamp(), Max(at - weir_now(), 0));
	}
	if (run->blocked)
		due = Min(due, run->next_lag);
	return Min(due, weir_expiry_due(run));
}

/* Milliseconds until something is due by the clock. */
static long
time_to_wait(void)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz due = TimestampTzPlusMilliseconds(now, LONGEST_WAIT_MS);
	ListCell   *cell;

	foreach(cell, worker.members)
	{
		WeirMember *member = lfirst(cell);

		if (member->stalled && member->run != NULL)
			due = Min(due, TimestampTzPlusMilliseconds(now, 300));
		if (member->run == NULL)
			due = Min(due, member->retry_at);
		else
			due = Min(due, next_commit(member->run));
	}
	foreach(cell, worker.feeds)
	{
		WeirFeed   *feed = lfirst(cell);

		due = Min(due, feed->next_look);
		if (feed->n_held > 0)
			due = Min(due, feed->next_align);
		if (feed->held_since != 0)
			due = Min(due, now + 10000);
	}
	if (worker.changes != NULL)
		due = Min(due, weir_changes_due(&worker));
	due = Min(due, weir_pace_next_look(&worker));
	return TimestampDifferenceMilliseconds(now, due);
}

/* Waits for messages, for news, for the clock; or only looks, if busy. */
static void
wait(bool busy)
{
	WaitEvent	event;

	if (worker.wait_set == NULL || worker.wait_set_stale)
	{
		ListCell   *cell;

		if (worker.wait_set != NULL)
			FreeWaitEventSet(worker.wait_set);
		worker.wait_set =
			weir_create_wait_set(2 + list_length(worker.feeds));
		AddWaitEventToSet(worker.wait_set, WL_LATCH_SET, PGINVALID_SOCKET,
						  MyLatch, NULL);
		AddWaitEventToSet(worker.wait_set, WL_EXIT_ON_PM_DEATH,
						  PGINVALID_SOCKET, NULL, NULL);
		foreach(cell, worker.feeds)
			AddWaitEventToSet(worker.wait_set, WL_SOCKET_READABLE,
							  weir_kafka_fd(((WeirFeed *) lfirst(cell))->consumer),
							  NULL, NULL);
		worker.wait_set_stale = false;
	}
	/* whoever waited for the broker may have eaten a nudge */
	if (weir_members_are_stale(&worker))
		busy = true;
	if (worker.changes != NULL && !busy)
		busy = weir_changes_watch_commits(&worker);
	if (!busy && some_feed_is_held())
		/* its descriptor is readable all the time: wait for the clock */
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 Min(time_to_wait(), 100), PG_WAIT_EXTENSION);
	else
		WaitEventSetWait(worker.wait_set, busy ? 0 : time_to_wait(), &event, 1,
						 PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	if (worker.changes != NULL)
		weir_changes_woken(&worker);
	CHECK_FOR_INTERRUPTS();
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
	}
}

static void
look_for_partitions(void)
{
	TimestampTz now = GetCurrentTimestamp();
	ListCell   *cell;

	foreach(cell, worker.feeds)
		if (now >= ((WeirFeed *) lfirst(cell))->next_look)
			weir_feed_look(lfirst(cell));
}

void
weir_worker_main(Datum arg)
{
	WeirWorkerArgs args;
	bool		busy = false;

	memcpy(&args, MyBgworkerEntry->bgw_extra, sizeof(args));
	if (args.slot < 0)
		weir_stand_back();
	start(&args);
	if (args.slot < 0)
	{
		weir_scout(args.database);
		proc_exit(0);
	}

	for (;;)
	{
		MemoryContextReset(worker.turn);
		MemoryContextSwitchTo(worker.turn);

		/* or autovacuum knows nothing of what we wrote, until we end */
		(void) pgstat_report_stat(false);
		wait(busy);
		/* or pg_stat_activity takes our transactions to be as old as ourselves */
		SetCurrentStatementStartTimestamp();
		if (weir_must_leave(&worker))
			break;
		if (weir_members_are_stale(&worker))
		{
			commit(EVERYTHING);
			weir_members_reload(&worker);
		}
		if (worker.members == NIL)
		{
			if (worker.changes != NULL)
				weir_changes_end(&worker);
			worker.slot->done = true;
			break;
		}
		if (weir_memory_was_lowered())
		{
			commit(EVERYTHING);
			weir_give_back_memory(&worker);
		}
		weir_members_check_privileges(&worker);
		weir_members_open(&worker);
		commit(WHAT_HAS_MOVED);

		busy = worker.changes ? weir_changes_read(&worker) : read_feeds();
		commit(WHAT_IS_DUE);
		if (worker.changes != NULL)
			weir_changes_note_time(&worker);
		tend_blocked();
		weir_pace_look(&worker);
		weir_give_back_memory(&worker);
		weir_members_stop(&worker);
		weir_members_answer_waits(&worker);
		weir_members_merge_feeds(&worker);
		look_for_partitions();
		weir_expire(&worker);
		if (worker.changes != NULL)
			weir_changes_tend(&worker);
	}
	commit(EVERYTHING);
	proc_exit(0);
}
