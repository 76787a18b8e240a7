/*-------------------------------------------------------------------------
 *
 * shared.h
 *	  What processes of pg_weir share: who serves what, and who waits.
 *
 *-------------------------------------------------------------------------
 */
#ifndef WEIR_SHARED_H
#define WEIR_SHARED_H

#include "weir.h"
#include "port/atomics.h"
#include "postmaster/bgworker.h"
#include "storage/condition_variable.h"
#include "storage/dsm.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/spin.h"

/*
 * A worker's place.  The launcher alone writes `state`, `database` and
 * `stream`, under the lock; the worker writes `pid` and `latch`.
 *
 *		FREE -- a scout asks --> WANTED -- the launcher starts --> RUNNING
 *		  ^                        |  ^                               |
 *		  |                        |  '------ exit, backoff ----------|
 *		  '---- no view is left ---'------ no view is left -----------'
 */
typedef enum WeirSlotState
{
	WEIR_SLOT_FREE,
	WEIR_SLOT_WANTED,
	WEIR_SLOT_RUNNING
} WeirSlotState;

typedef struct WeirSlot
{
	WeirSlotState state;
	Oid			database;
	Oid			stream;			/* the group of views: all that read it */
	pid_t		pid;			/* 0: no process */
	Latch	   *latch;			/* of that process */
	bool		done;			/* the worker found no view to serve */
	volatile Oid culprit;		/* a view whose code could not be cancelled */
	volatile bool waiting;		/* for a commit in the database: wake it */
	bool		making_slot;	/* waits for transactions of others: news cancel
								 * that */
	/* of changes: folded up to this LSN, and all that committed by this time */
	pg_atomic_uint64 read_to;
	pg_atomic_uint64 read_by;
} WeirSlot;

/*
 * A backend inside weir.wait_for(); one place for each backend of the server.
 * The backend moves NONE -> ASKED and back to NONE, the worker ASKED -> TAKEN ->
 * HELD; `ticket` tells one wait from the next.
 */
typedef enum WeirWaitState
{
	WEIR_WAIT_NONE,
	WEIR_WAIT_ASKED,
	WEIR_WAIT_TAKEN,			/* the worker knows the source's end */
	WEIR_WAIT_HELD				/* the view holds all up to that end */
} WeirWaitState;

typedef struct WeirWait
{
	slock_t		mutex;
	WeirWaitState state;
	uint64		ticket;
	Oid			database;
	Oid			view;
} WeirWait;

/*
 * A backfill under way.  The worker that wants it claims a place and gives it
 * back; a place whose worker is gone without doing so may be claimed again once
 * its process is gone, too.  All fields are read and written under the lock,
 * and by the process only while `ticket` is its own.
 *
 *		STARTING --> READY --> OFFERED --> SCANNING --> SCANNED
 *		   process     worker     process     process
 */
typedef enum WeirPlaceState
{
	WEIR_PLACE_STARTING,
	WEIR_PLACE_READY,			/* the source is locked */
	WEIR_PLACE_OFFERED,			/* there is a snapshot to take over */
	WEIR_PLACE_SCANNING,		/* it is taken over */
	WEIR_PLACE_SCANNED			/* and no longer held */
} WeirPlaceState;

typedef struct WeirBackfillPlace
{
	uint64		ticket;			/* another one for each backfill; 0: free */
	WeirPlaceState state;
	Oid			database;
	Oid			view;
	char		view_id[WEIR_ID_LEN + 1];
	int64		epoch;			/* of the definition */
	pid_t		worker_pid;
	Latch	   *worker_latch;
	pid_t		pid;			/* of the process; 0: none */
	Latch	   *latch;
	dsm_handle	queue;			/* from the process to the worker */
	char		snapshot[64];	/* of OFFERED */
	int			rate;			/* weir.backfill_rate; the process cannot read
								 * the configuration during a parallel query */
	volatile Oid culprit;		/* as in WeirSlot */
	TimestampTz started;		/* when the scan began; 0: not yet */
	int64		rows_done;
	int64		rows_estimate;	/* -1: not known yet */
} WeirBackfillPlace;

typedef struct WeirShared
{
	LWLock	   *lock;			/* slots, places of backfills, launcher */
	int			tranche;		/* of the workers' state areas */
	pid_t		launcher_pid;
	Latch	   *launcher_latch;
	Oid			leave;			/* a database that workers must leave now */
	TimestampTz leave_until;

	pg_atomic_uint64 generation;	/* of definitions, over all databases */
	pg_atomic_uint64 state_bytes;	/* taken from weir.state_memory */
	pg_atomic_uint64 memory_wanted; /* when somebody last found none; a
									 * TimestampTz */
	pg_atomic_uint64 clock_shift;	/* microseconds; tests only */
	pg_atomic_uint64 starved;	/* groups that found no slot, last time */
	ConditionVariable answered; /* some wait has moved on */

	uint64		last_ticket;	/* of backfills */
	int			n_places;
	WeirBackfillPlace *places;

	int			n_waits;		/* MaxBackends */
	WeirWait   *waits;

	int			n_slots;		/* weir.max_workers */
	WeirSlot	slots[FLEXIBLE_ARRAY_MEMBER];
} WeirShared;

extern WeirShared *weir_shared;

extern void weir_shmem_install(void);

/* Something that concerns others has changed, now and not at a commit. */
extern void weir_tell_all(void);

/* weir.state_memory is spent: workers that have more than their share give back. */
extern void weir_want_memory(void);

/* Every worker looks at once at what the configuration says. */
extern void weir_nudge_all(void);

/* In every process: wakes the reader of changes when a transaction commits. */
extern void weir_wake_reader_at_commits(void);

/*
 * Makes the workers and backfills of a database leave it, and stay away for a
 * while.
 */
extern void weir_leave_database(Oid database);

/* The slot that serves a stream of this database, or NULL. */
extern WeirSlot *weir_slot_of(Oid database, Oid stream);

/* weir_launcher.c */
extern void weir_launcher_install(void);

/*
 * Fills in what a process of ours is to be registered with: the C function that
 * it runs, what it is called, and that nobody starts it again.
 */
extern void weir_describe_process(BackgroundWorker *process,
								  const char *function, const char *type,
								  const char *name);

#endif							/* WEIR_SHARED_H */
