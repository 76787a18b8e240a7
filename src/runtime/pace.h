/*-------------------------------------------------------------------------
 *
 * pace.h
 *	  How often a view commits.
 *
 *-------------------------------------------------------------------------
 */
#ifndef WEIR_PACE_H
#define WEIR_PACE_H

struct WeirRun;
struct WeirWorker;

/* Why a view commits less often than weir.commit_interval says. */
typedef enum WeirPaceReason
{
	WEIR_PACE_AS_TOLD,			/* it does not */
	WEIR_PACE_COMMITS,			/* they take too long */
	WEIR_PACE_HORIZON			/* what they leave behind cannot be removed */
} WeirPaceReason;

/* Of an open view; zeroed memory is a view that has just been opened. */
typedef struct WeirPace
{
	TimestampTz begun;			/* when it first had something to commit; 0: not
								 * yet */
	int64		interval;		/* microseconds; what the horizon asks for, or
								 * 0 */
	bool		hurry;			/* commit as weir.commit_interval says, once */
	int64		left_behind;	/* row versions, since the horizon was marked */
	int			slow;			/* looks in succession at which commits were
								 * too slow; below 0: were not */
	WeirPaceReason reason;		/* as weir.views says, or is about to */
	TimestampTz since;			/* weir_now(): not as told */
	bool		logged;
	bool		recorded;		/* status has been seen to since it was opened */
} WeirPace;

/*
 * When the view commits next, if there is something: an interval after the
 * beginning of its last commit (of what it has read first, if there is none), and
 * not before the worker has done other things for as long as commits take.
 */
extern TimestampTz weir_pace_due(struct WeirRun *run);

/* The interval that is in force, in microseconds. */
extern int64 weir_pace_interval(const struct WeirRun *run);

/* It is longer than weir.commit_interval, and known to be. */
extern bool weir_pace_is_slow(const struct WeirRun *run);

/* Commits that came one after the other took so long. */
extern void weir_pace_committed(TimestampTz begun, TimestampTz ended);

/* A commit of this view has written so many rows of groups. */
extern void weir_pace_wrote(struct WeirRun *run, int64 groups);

/*
 * Once a second, while views have something to commit: how are commits doing,
 * and is the vacuum horizon moving?  Sets the intervals, and says so in
 * weir_data.status.  Not in a transaction.
 */
extern void weir_pace_look(struct WeirWorker *worker);

/* When it wants to be called, if nothing comes; DT_NOEND: never. */
extern TimestampTz weir_pace_next_look(const struct WeirWorker *worker);

#endif							/* WEIR_PACE_H */
