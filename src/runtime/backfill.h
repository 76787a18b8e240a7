/*-------------------------------------------------------------------------
 *
 * backfill.h
 *	  The rows that a table had before its view: computed beside the flow.
 *
 * A process of its own reads the source under a snapshot S and folds its rows
 * into groups of its own; the worker folds every transaction that S does not see.
 * Partial states merge in any order, and may be negative meanwhile.  Nothing of
 * a backfill is stored until it is complete: after a crash it begins again.
 *
 *		process						worker
 *		-------						------
 *		starts, locks the source
 *		READY			------->	between two reads, at position P: takes S,
 *									sees that no transaction told up to P is
 *									still running in S, else tries again later
 *		takes over S	<-------	SNAPSHOT
 *		SCANNING		------->	ends its transaction; goes on reading, folds
 *									what S does not see
 *		sends groups	------->	merges them, a few a turn
 *		DONE			------->	complete, once it has read beyond the end of
 *									the WAL as of S
 *
 * The source is locked before S is taken, so that no TRUNCATE and no rewrite
 * come between S and the end of the scan.
 *
 *-------------------------------------------------------------------------
 */
#ifndef WEIR_BACKFILL_H
#define WEIR_BACKFILL_H

#include "runtime/worker.h"

typedef enum WeirBackfillState
{
	WEIR_BACKFILL_STARTING,
	WEIR_BACKFILL_READY,		/* call weir_backfill_snapshot() */
	WEIR_BACKFILL_SCANNING,
	WEIR_BACKFILL_DONE,			/* all groups are merged */
	WEIR_BACKFILL_FAILED		/* the run's memory is torn: close it */
} WeirBackfillState;

typedef struct WeirBackfill
{
	WeirBackfillState state;
	XLogRecPtr	target;			/* the end of WAL as of S; valid from SCANNING */
	/* S, for the transactions that ended before target */
	TransactionId xmin;
	TransactionId xmax;
	int			n_running;
	TransactionId *running;		/* sorted */
	bool		discarded;		/* the source was truncated since */
	ErrorData  *error;			/* of FAILED; lives as long as this */
	bool		needs_person;	/* to begin again at once would be no news */
	struct WeirBackfillPrivate *private;
} WeirBackfill;

/*
 * Starts a process for a run.  In the worker, not in a transaction.  NULL when
 * there is none to be had now (logged once): try again later.
 */
extern WeirBackfill *weir_backfill_start(WeirRun *run);

/*
 * Looks what has come, and merges groups into run->table, marking them dirty;
 * returns after about max_us.  In the worker, in no transaction (opens one to
 * merge).  Sets state.
 */
extern void weir_backfill_poll(WeirBackfill *backfill, WeirRun *run,
							   int64 max_us);

/*
 * Takes S and hands it over, waiting for the process for a moment.  In no
 * transaction.  has_told(xid, or_later) says whether a transaction that S does
 * not see was told already: then false, and nothing has happened.
 */
typedef bool (*WeirHasTold) (void *arg, TransactionId xid, bool or_later);

extern bool weir_backfill_snapshot(WeirBackfill *backfill,
								   WeirHasTold has_told, void *arg);

/*
 * TRUNCATE of the source: the rest of what S shows is of no use.  It could not
 * begin before the scan was over, so this ends the backfill at once: DONE.
 */
extern void weir_backfill_discard(WeirBackfill *backfill);

/* Ends the process if it runs, and frees all.  Never raises. */
extern void weir_backfill_end(WeirBackfill *backfill);

/* Is a transaction part of S? */
extern bool weir_backfill_sees_slowly(const WeirBackfill *backfill,
									  TransactionId xid);

static inline bool
weir_backfill_sees(const WeirBackfill *backfill, TransactionId xid,
				   XLogRecPtr end)
{
	return end <= backfill->target &&
		weir_backfill_sees_slowly(backfill, xid);
}

/* ---- between backfill.c and backfill_process.c ---- */

/* Handed to the process through bgw_extra. */
typedef struct WeirBackfillArgs
{
	Oid			database;
	int			place;
	uint64		ticket;
} WeirBackfillArgs;

/*
 * What goes through the queue: a byte that says what it is, and then
 *
 *		groups		length (4 bytes) and bytes of a group, again and again
 *		letter		SQLSTATE (4 bytes), message
 *		counters	rows in, filtered, dead letters (8 bytes each) since the last;
 *					the greatest event time so far
 *		error		SQLSTATE, needs_person (1 byte), message, detail, hint
 *		done		nothing
 *
 * Strings end with a zero byte.  Both ends are of one server and one build.
 */
#define WEIR_BACKFILL_GROUPS	'g'
#define WEIR_BACKFILL_LETTER	'l'
#define WEIR_BACKFILL_COUNTERS	'c'
#define WEIR_BACKFILL_ERROR		'e'
#define WEIR_BACKFILL_ENDS		'd'

extern PGDLLEXPORT void weir_backfill_main(Datum arg);

/* Sends all groups, dead letters and counters of the process, and forgets them. */
extern void weir_backfill_send(void);

/*
 * So many more rows are done; the estimate of all (-1: as before).  Returns
 * weir.backfill_rate.  Does not return when nobody waits for the backfill.
 */
extern int	weir_backfill_report(int rows, int64 estimate);

/* Waits, interruptibly. */
extern void weir_backfill_wait(long ms);

/* backfill_scan.c: scans, in the open transaction, and ends that. */
extern void weir_backfill_scan(WeirRun *view, TupleDesc desc,
							   MemoryContext mcxt);

#endif							/* WEIR_BACKFILL_H */
