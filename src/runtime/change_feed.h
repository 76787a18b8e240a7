/*-------------------------------------------------------------------------
 *
 * change_feed.h
 *	  Changes of this database's tables, and the views that they feed.
 *
 *-------------------------------------------------------------------------
 */
#ifndef WEIR_CHANGE_FEED_H
#define WEIR_CHANGE_FEED_H

#include "runtime/members.h"
#include "source/changes.h"

/* ---- change_feed.c ---- */

/* A relation that views name in FROM, and the rows for them. */
typedef struct WeirChangeSource
{
	Oid			relid;
	bool		is_stream;
	TupleDesc	desc;
	Bitmapset  *wanted;			/* of all runs */
	List	   *runs;
	WeirBatch	batch;			/* with origins */
} WeirChangeSource;

/*
 * The one reader of a worker.  `position` is where all views that are up to date
 * are: everything that committed before it is folded into them.  A view whose
 * position is behind makes the reader go back to it; the others skip what
 * they have.
 */
typedef struct WeirChangeFeed
{
	MemoryContext mcxt;
	WeirWalReader *reader;		/* NULL: not open */
	int64		life;			/* of the slot; 0 unknown */
	char	   *lost_why;		/* how the life before ended, or NULL */
	XLogRecPtr	position;
	XLogRecPtr	recorded;		/* weir_data.slots.confirmed */
	List	   *sources;
	WeirChangeSource *last;		/* looked up */
	bool		watch_stale;	/* the reader must be told what is watched */
	TransactionId ddl_xid;		/* reload definitions when it is visible */
	XLogRecPtr	furthest;		/* it was never beyond this */
	TimestampTz next_read;
	bool		idle;			/* the last read found nothing */
	XLogRecPtr	seen;			/* the end of flushed WAL at that time */
	XLogRecPtr	mark;			/* a place ahead, and when it was the end */
	TimestampTz mark_time;
	TimestampTz next_confirm;
	TimestampTz next_remember;	/* the lives of views that did not begin yet */
	TimestampTz retry_at;		/* after a trouble */
	int			backoff_ms;
	int			patience_ms;	/* with those whom a new slot waits for */
	ErrorData  *trouble;
} WeirChangeFeed;

extern WeirChangeFeed *weir_changes_create(void);

/*
 * Gives open runs to the feed: at their position, or, new ones, at the
 * feed's, over a table after its backfill has taken a snapshot.  Runs whose
 * position no slot can serve are put aside.  Opens the reader if need be.
 */
extern void weir_changes_join(WeirWorker *worker);

/* ---- change_sources.c ---- */

/* Feeds a run; desc is its source's.  The reader must be told (watch_stale). */
extern void weir_changes_add(WeirChangeFeed *feed, WeirRun *run, TupleDesc desc);

/* Tells the reader which relations have views. */
extern void weir_changes_tell_watched(WeirChangeFeed *feed);

/* Takes everything out of the reader's buffer, and folds it. */
extern void weir_changes_take(WeirWorker *worker);

/* The run is about to be closed. */
extern void weir_changes_leave(WeirWorker *worker, WeirRun *run);

/* After commits: by when is all that was committed in the views? */
extern void weir_changes_note_time(WeirWorker *worker);

/* Reads and folds; true if there is more at once. */
extern bool weir_changes_read(WeirWorker *worker);

/*
 * How far the slot may be told that we are, if `committed` (runs) are committed
 * to where they stand.  InvalidXLogRecPtr: no further.
 */
extern XLogRecPtr weir_changes_confirmable(WeirWorker *worker,
										   List *committed);

/* Tells the slot, after the recording transaction has been flushed. */
extern void weir_changes_confirm(WeirWorker *worker, XLogRecPtr lsn);

/*
 * What no commit does: confirms while nothing of interest happens, and gives up
 * views that hold back more WAL than weir.max_retained_wal.
 */
extern void weir_changes_tend(WeirWorker *worker);

/* How to compute a view anew; for some it means to accept a loss. */
extern const char *weir_rebuild_hint(const WeirViewDef *def);

/*
 * Before the worker waits: asks backends to wake it when they commit, if it has
 * nothing to do before; true when something was written meanwhile.
 */
extern bool weir_changes_watch_commits(WeirWorker *worker);

/* Whether the slot keeps WAL for a member that has no run. */
extern bool weir_changes_holds(const WeirChangeFeed *feed,
							   const WeirMember *member);

/* The worker was woken, or its time has come. */
extern void weir_changes_woken(WeirWorker *worker);

/* No view is left: gives the slot back. */
extern void weir_changes_end(WeirWorker *worker);

/* When the worker must wake by itself. */
extern TimestampTz weir_changes_due(WeirWorker *worker);

/* ---- slot_life.c ---- */

typedef struct WeirSlotLife
{
	int64		life;
	XLogRecPtr	confirmed;		/* as recorded */
	char	   *lost_why;		/* palloc'd, or NULL */
} WeirSlotLife;

/*
 * Makes sure that the slot is there and is the one that we knew; otherwise makes
 * a new one, with a new life, and writes down why.  In the worker, in no
 * transaction.  May wait for transactions that write.
 */
extern WeirSlotLife weir_slot_begin(void);

/* Records what the slot is going to be told; in the commit's transaction. */
extern void weir_slot_record(XLogRecPtr confirmed);

/* Drops the slot and what we know of it, when no view needs it.  No transaction. */
extern void weir_slot_end(void);

/*
 * A view that did not begin yet belongs to this life of the slot; false while
 * somebody else holds its row.  No transaction.
 */
extern bool weir_slot_remember(const char *view_id, int64 life);

/* A view gives up its position: only a rebuild brings it back. */
extern void weir_slot_give_up(const char *view_id);

#endif							/* WEIR_CHANGE_FEED_H */
