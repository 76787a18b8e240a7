/*-------------------------------------------------------------------------
 *
 * members.h
 *	  The views of a worker, open or waiting for another try.
 *
 *-------------------------------------------------------------------------
 */
#ifndef WEIR_MEMBERS_H
#define WEIR_MEMBERS_H

#include "runtime/worker.h"

/*
 * A view of the worker's group.
 *
 *		waiting -- retry_at has come --> open -- it fails --> waiting
 *
 * Every failure is written to weir_data.status as the view's stall; the next
 * commit that succeeds, or the next successful opening, clears it.
 */
typedef struct WeirMember
{
	WeirViewDef *def;
	MemoryContext mcxt;			/* of def and of this */
	WeirRun    *run;			/* NULL while waiting */
	TupleDesc	desc;			/* of the source */
	XLogRecPtr	held_at;		/* of a view over changes: where it stands, while
								 * it is not run; invalid if nowhere */
	int64		held_life;		/* of the slot, to which held_at belongs */
	bool		held_new;		/* or to none yet */
	TimestampTz opened;
	TimestampTz retry_at;
	int			backoff_ms;
	bool		stalled;		/* status says so */
	bool		locked_out;		/* closed until its locks can be had */
	const ErrorData *told;		/* the trouble of its source that it says */
	XLogRecPtr	limit;			/* run it up to here, and no further: */
	ErrorData  *limit_error;	/* why */
} WeirMember;

/* A wait_for that the worker has taken. */
typedef struct WeirTaken
{
	int			place;			/* in weir_shared->waits */
	uint64		ticket;
	Oid			view;
	int			n;
	int64	   *ends;			/* per partition */
} WeirTaken;

typedef struct WeirWorker
{
	Oid			database;
	Oid			stream;
	WeirSlot   *slot;
	MemoryContext turn;			/* reset every turn of the loop */
	uint64		generation;		/* of the definitions that we know */
	char	   *stream_print;	/* options and columns of the stream */
	struct WeirChangeFeed *changes; /* of the group of tables and push streams */
	List	   *members;
	List	   *feeds;
	List	   *taken;
	WaitEventSet *wait_set;
	bool		wait_set_stale;
	List	   *applied_settings;
} WeirWorker;

/* A scout: which streams of this database have views?  To slots. */
extern void weir_scout(Oid database);

/* Is ingestion off, or does somebody want the database alone?  weir_worker.c */
extern bool weir_must_leave(const WeirWorker *worker);

/* ---- members.c: opened, closed, given to feeds ---- */

extern bool weir_members_are_stale(const WeirWorker *worker);
extern void weir_members_reload(WeirWorker *worker);

/* Opens members whose time has come, and gives them to feeds. */
extern void weir_members_open(WeirWorker *worker);

/* The member of an open run. */
extern WeirMember *weir_members_of(WeirWorker *worker, WeirRun *run);

/* Closes the run of a member, if it has one, and takes it from its feed. */
extern void weir_members_close(WeirWorker *worker, WeirMember *member);

/*
 * Closes runs that were fed in another life of the slot than this, to be opened
 * again from what they have committed.
 */
extern void weir_members_reopen(WeirWorker *worker, int64 life);

extern WeirFeed *weir_members_feed(WeirWorker *worker, WeirRun *run);
extern void weir_members_update_ends(WeirWorker *worker, WeirRun *run);
extern void weir_members_merge_feeds(WeirWorker *worker);
extern void weir_members_apply_settings(WeirWorker *worker, List *settings);

/* waits.c */
extern void weir_members_answer_waits(WeirWorker *worker);

/* ---- member_failures.c: what becomes of those that fail ---- */

/* What a member waits after its first failure; twice that after the next. */
#define WEIR_FIRST_BACKOFF_MS 1000

/* The owners may have lost what they had on the stream: looks, if so. */
extern void weir_members_check_privileges(WeirWorker *worker);

/*
 * Says when a member whose run is closed, or will be, is opened again, and
 * records why it is not open.
 */
extern void weir_members_put_aside(WeirWorker *worker, WeirMember *member,
								   const ErrorData *error, bool needs_person);

/*
 * Folds a batch into a run, or (NULL) a TRUNCATE of its source; if it fails, it is
 * put aside.
 */
extern void weir_members_fold(WeirWorker *worker, WeirRun *run,
							  const WeirBatch *batch);

/*
 * Puts aside a run until a person does something; what it has not committed is
 * lost, for it may be half of a transaction.  With the beginning of its commit
 * record, the view is run once more up to there, and stalls when that is committed.
 */
extern void weir_members_stall(WeirWorker *worker, WeirRun *run,
							   const ErrorData *error, XLogRecPtr before);

/*
 * A lock keeps the run from committing, and that is too much to keep: closes it
 * until the lock can be had.
 */
extern void weir_members_lock_out(WeirWorker *worker, WeirRun *run);

/* Can a member that was locked out be opened?  Else looks again in a while. */
extern bool weir_members_unlocked(WeirMember *member);

/* While a run cannot commit: writes down how far behind its source it is. */
extern void weir_members_tell_lag(WeirWorker *worker, WeirRun *run);

/* Records a stall or its end (NULL), if that can be done. */
extern void weir_members_record_stall(WeirMember *member,
									  const ErrorData *error);

/* Puts aside a run that raised: its memory goes, the error is its stall. */
extern void weir_members_fail(WeirWorker *worker, WeirRun *run,
							  ErrorData *error);

/* The same for an error of a commit, which a lock may have caused. */
extern void weir_members_fail_commit(WeirWorker *worker, WeirRun *run,
									 ErrorData *error);

/* Puts aside runs that have asked to stop and have nothing uncommitted. */
extern void weir_members_stop(WeirWorker *worker);

/*
 * evict.c: another worker has found no memory, or weir.state_memory was lowered: gives
 * back what is more than our share.  Not in a transaction.
 */
extern void weir_give_back_memory(WeirWorker *worker);

/* Has it become less than is in use, since this was last asked? */
extern bool weir_memory_was_lowered(void);

/* weir_run_make_room(), at the cost of the other views of the worker, too. */
extern bool weir_members_make_room(WeirWorker *worker, WeirRun *run, int n);

#endif							/* WEIR_MEMBERS_H */
