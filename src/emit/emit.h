/*-------------------------------------------------------------------------
 *
 * emit.h
 *	  Results, states and books, written in the worker's commit.
 *
 *-------------------------------------------------------------------------
 */
#ifndef WEIR_EMIT_H
#define WEIR_EMIT_H

#include "weir.h"
#include "catalog/plan_query.h"
#include "executor/executor.h"
#include "state/state.h"
#include "utils/rel.h"
#include "window/window.h"

/* ---- project.c: from a group to a row of v ---- */

typedef struct WeirProjector WeirProjector;

/*
 * finishes and state_of (index into states) have plan->n_calls entries.
 * In a transaction; everything is allocated in CurrentMemoryContext.
 */
extern WeirProjector *weir_projector_create(const WeirPlan *plan,
											const WeirKeyFormat *format,
											const WeirTumble *window,
											WeirState *states,
											const WeirFinish *finishes,
											const int *state_of);

/* The types of v's columns. */
extern TupleDesc weir_projector_desc(const WeirProjector *projector);

/*
 * The row of a group, NULL when HAVING rejects it.  The slot is the
 * projector's and valid until the next call or reset.  Runs user code and
 * raises what it raises.
 */
extern TupleTableSlot *weir_project(WeirProjector *projector,
									const WeirGroupTable *table,
									const WeirGroup *group);

/* Frees what rows since the last reset have allocated. */
extern void weir_projector_reset(WeirProjector *projector);

/* ---- results.c: rows of v ---- */

/*
 * Has the group a row in v, unless HAVING rejects it, and a stored state?  Not
 * when all its rows have been taken back; but a query without GROUP BY has its
 * one row also over no input.  Raises XX001 when more rows were taken back than
 * given.
 */
extern bool weir_group_exists(const WeirGroupTable *table,
							  const WeirGroup *group);

/* Where a group's rows are after the commit; applied when it has succeeded. */
typedef struct WeirPlacement
{
	ItemPointerData result_tid;
	ItemPointerData state_tid;
} WeirPlacement;

/*
 * Writes the rows of n groups: updates, inserts and deletes by TID.  Fills
 * placements[i].result_tid.  v is open and locked.  rewrite first deletes every
 * row of v and treats all groups as new.
 *
 * Errors: 55000 when a row that should be there is not; what projection, index
 * expressions and constraints raise.
 */
extern void weir_write_results(Relation v, WeirProjector *projector,
							   const WeirGroupTable *table,
							   WeirGroup **groups, int n, bool rewrite,
							   WeirPlacement *placements);

/* ---- tidy.c ---- */

extern void weir_tidy(Relation rel, const ItemPointerData *tid, int n);

/*
 * results.c.  Called every so many rows: flushes WAL that we have written, when it is much.
 * Otherwise the commit flushes all of it at once, and everybody else who commits
 * meanwhile waits for that.
 */
extern void weir_flush_in_portions(void);

/* ---- states.c: rows of weir_data.state_<id> ---- */

/*
 * Writes the states of n groups, and deletes those of groups that do not exist
 * any more; fills placements[i].state_tid.
 */
extern void weir_write_states(Relation state_table,
							  const WeirGroupTable *table,
							  WeirGroup **groups, int n,
							  WeirPlacement *placements);

/* Loads all groups of a state table. */
extern void weir_load_states(Relation state_table, WeirGroupTable *table);

/* ---- books.c: positions, status, dead letters ---- */

/*
 * One row of weir_data.positions.  The counters are totals; `committed` is what
 * the row holds, `position` may be ahead of it.
 */
typedef struct WeirBooks
{
	int32		partition;
	bool		exists;			/* the row is there */
	bool		changed;		/* since the last commit */
	int64		committed;
	int64		position;
	int64		start;
	int64		target;
	int64		source_end;		/* -1 unknown */
	int64		last_offset;	/* -1 none */
	int64		last_print;
	TimestampTz last_time;		/* DT_NOBEGIN none */
	int64		rows_in;
	int64		rows_filtered;
	int64		tombstones;
	int64		dead_letters;
} WeirBooks;

/* One row of weir_data.status, as a commit leaves it. */
typedef struct WeirStatus
{
	bool		backfilling;
	Oid			filenode;
	int64		groups;
	int64		state_bytes;
	double		busy;			/* share of a core since the last commit */
	int64		commit_us;
	int64		wal_bytes;		/* of the commit before this one */
} WeirStatus;

extern void weir_write_books(const char *view_id, WeirBooks *books, int n);
extern void weir_write_status(const char *view_id, const WeirStatus *status);
extern void weir_write_dead_letter(const char *view_id, Oid source,
								   int32 partition, int64 offset,
								   XLogRecPtr lsn, int sqlstate,
								   const char *message,
								   const char *payload, int payload_len);

/* Reads a view's books, in CurrentMemoryContext; and its status. */
extern WeirBooks *weir_read_books(const char *view_id, int *n);
extern bool weir_read_status(const char *view_id, bool *backfilling,
							 Oid *filenode, bool *stalled);

#endif							/* WEIR_EMIT_H */
