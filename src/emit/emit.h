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
#include "window/watermark.h"
#include "window/window.h"

/* ---- project.c: from a group to a row of v ---- */

typedef struct WeirProjector WeirProjector;

/*
 * finishes and state_of (index into states) have plan->n_calls entries.
 * In a transaction; everything is allocated in CurrentMemoryContext.
 */
extern WeirProjector *weir_projector_create(const WeirPlan *plan,
											const WeirKeyFormat *format,
											const WeirWindow *window,
											WeirState *states,
											const WeirFinish *finishes,
											const int *state_of);

/* The types of v's columns. */
extern TupleDesc weir_projector_desc(const WeirProjector *projector);

/*
 * What becomes of one row of v, the row of a group or, where windows have several
 * panes, of a window: decided by runtime/publish.c, carried out by results.c.
 */
typedef enum WeirReason
{
	WEIR_REASON_FINAL,			/* its window closed */
	WEIR_REASON_LATE,			/* a row came after that */
	WEIR_REASON_UPDATE,			/* its window is open; or an UPDATE of the source */
	WEIR_REASON_DELETE,			/* a DELETE or TRUNCATE of the source */
	WEIR_REASON_REBUILD
} WeirReason;

typedef struct WeirOutcome
{
	WeirGroup  *holder;			/* its keys are the row's, and it keeps its place */
	const char *words;			/* the states to finish; NULL: v has no such row */
	bool		has_window;		/* false: none in Q, or the NULL window */
	Timestamp	lower;			/* of the window */
	Timestamp	upper;
	bool		was_emitted;	/* the row in v, if there is one, is in the changelog */
	bool		emits;			/* and the one that v gets shall be */
	uint32		had;			/* WEIR_GROUP_HAD_* of its panes; compose.c */
	bool		unsure;			/* v's row may be the same: look before writing */
	WeirReason	reason;
	int			cluster;		/* not 0: of all with this number, which are
								 * neighbours, the -1 come before the +1 */
} WeirOutcome;

/*
 * The row of an outcome, NULL when HAVING rejects it or there is none.  The slot
 * is the projector's and valid until the next call or reset.  Runs user code and
 * raises what it raises.
 */
extern TupleTableSlot *weir_project(WeirProjector *projector,
									const WeirGroupTable *table,
									const WeirOutcome *outcome);

/* Frees what rows since the last reset have allocated. */
extern void weir_projector_reset(WeirProjector *projector);

typedef struct WeirChangelog WeirChangelog;

/* ---- results.c: rows of v ---- */

/*
 * Has the group a row in v, unless HAVING rejects it, and a stored state?  Not
 * when all its rows have been taken back; but a query without GROUP BY has its
 * one row also over no input.  Raises XX001 when more rows were taken back than
 * given.
 */
extern bool weir_group_exists(const WeirGroupTable *table,
							  const WeirGroup *group);

/*
 * The row of v of an outcome, after the commit; applied to its holder when that
 * has succeeded.
 */
typedef struct WeirPlacement
{
	ItemPointerData tid;		/* invalid: none */
} WeirPlacement;

/*
 * Writes the rows of n outcomes: updates, inserts and deletes by TID, and what
 * the changelog (or NULL) says of them.  Fills placements[i].  v is open and
 * locked.
 *
 * A row that is in the changelog and does not change is not written at all.
 *
 * Errors: 55000 when a row that should be there is not; what projection, index
 * expressions and constraints raise.
 */
extern void weir_write_results(Relation v, WeirProjector *projector,
							   const WeirGroupTable *table,
							   const WeirOutcome *outcomes, int n,
							   WeirChangelog *changelog,
							   WeirPlacement *placements);

/* ---- replace.c: all rows of v ---- */

typedef struct WeirReplacement WeirReplacement;

/*
 * After a backfill or when v's rows have moved: the outcomes are all rows that v
 * shall have, and nothing is known of the places of those it has.  What is equal
 * stays where it is, the rest is deleted and inserted.
 *
 * window_column: of v, 0 if there is none.  Rows of v whose window ends at or
 * before `settled` (DT_NOBEGIN: none) are left alone: their states are gone.
 * Rows whose window ends at or before `emitted` (DT_NOEND: all, DT_NOBEGIN: none)
 * are in the changelog (or NULL).
 *
 * Then _keep() for all outcomes, _delete(), _insert() for all outcomes, _end(), as
 * the view's owner.  Placements are filled in by _keep() and completed by
 * _insert(); if they could not be kept in between, the latter is told that the
 * outcomes come `again`.
 */
extern WeirReplacement *weir_replace_begin(Relation v,
										   WeirProjector *projector,
										   const WeirGroupTable *table,
										   AttrNumber window_column,
										   Timestamp settled,
										   Timestamp emitted,
										   WeirChangelog *changelog);
/* Is there nothing to keep, or to delete? */
extern bool weir_replace_is_first(const WeirReplacement *replacement);
extern void weir_replace_keep(WeirReplacement *replacement,
							  const WeirOutcome *outcomes, int n,
							  WeirPlacement *placements);
extern void weir_replace_delete(WeirReplacement *replacement);
extern void weir_replace_insert(WeirReplacement *replacement,
								const WeirOutcome *outcomes, int n,
								WeirPlacement *placements, bool again);
extern void weir_replace_end(WeirReplacement *replacement);

/* ---- changelog.c: rows of <view>_changes ---- */

/*
 * In the commit's transaction, as the view's owner; relid is the changelog of a
 * view with these columns.  seq: the first weir_seq that is free.  Raises 55000
 * when it is gone, or no longer what we have made.
 */
extern WeirChangelog *weir_changelog_begin(Oid relid, TupleDesc columns,
										   int64 seq, TimestampTz watermark,
										   TimestampTz at);

/* diff: +1 or -1.  row: of v, copied. */
extern void weir_changelog_add(WeirChangelog *changelog, int diff,
							   WeirReason reason, TupleTableSlot *row);

/* What it was begun with. */
extern TimestampTz weir_changelog_watermark(const WeirChangelog *changelog);

/* Writes what is left and closes; returns the next weir_seq. */
extern int64 weir_changelog_end(WeirChangelog *changelog);

/*
 * Deletes the oldest rows, at most `most` of them, whose weir_at is before that;
 * returns how many.  In a transaction, as the view's owner.
 */
extern int64 weir_changelog_expire(Oid relid, TimestampTz before, int most);

/*
 * NOTIFY on the channel when this transaction commits; the payload is seq, the
 * last that was written.  If it cannot be done without a risk for the commit, it
 * is not, and *skipped is raised.  Holds a lock from here on for which everybody
 * waits who commits a NOTIFY: call it last, after the rows of all views.
 */
extern void weir_notify(const char *channel, int64 seq, int64 *skipped);

/* ---- compose.c: windows of several panes ---- */

typedef struct WeirComposer WeirComposer;

/*
 * first_state, last_state: of a session, the states (indexes) that hold the least
 * and the greatest time of a pane as int64 microseconds (min and max of the
 * timestamps).  Allocated in CurrentMemoryContext.
 */
extern WeirComposer *weir_composer_create(const WeirWindow *window,
										  int window_key,
										  const WeirKeyFormat *format,
										  WeirGroupTable *table,
										  WeirState *states, int n_states,
										  int first_state, int last_state);

/*
 * Which windows are to be composed?  Of a session: has it changed since the last
 * commit, and does one of its panes hold a row of v?
 */
typedef bool (*WeirWanted) (void *arg, Timestamp lower, Timestamp upper,
							bool changed, bool holds);

/*
 * For the panes given (any number, of any keys, in any order, none twice): the
 * outcomes of all windows that hold one of them and that `wanted` wants, with
 * holder, words, has_window, lower, upper, had and cluster set; the caller fills
 * in the rest.  They, their words and what those own live until
 * weir_composer_reset(), also over further calls; words may be a group's own.  A
 * window without rows has an outcome without words if a row of v is held for it,
 * else none.  Makes groups for holders that do not exist yet.  A pane of the NULL
 * window is an outcome of its own, and always wanted.
 *
 * Of sessions: all that the panes given, and their neighbours, are now part of,
 * and an outcome without words for each group that holds the row of a session
 * which no longer begins there; its bounds are the pane's, since those of the old
 * session are not known here.  Of a session that is not wanted nothing is said,
 * also not of rows that its panes hold: it is for those that are frozen.  What was
 * torn off a session that is wanted, or gone, is wanted.
 *
 * Compares keys and values of users' types: call it as the view's owner.  Raises
 * 53200 when the budget is spent, and what keys and merging raise; then all is as
 * after weir_composer_reset(), and the table has at most more empty groups than
 * before.
 */
extern WeirOutcome *weir_compose(WeirComposer *composer,
								 WeirGroup **panes, int n,
								 WeirWanted wanted, void *arg,
								 int64 *n_outcomes);
extern void weir_composer_reset(WeirComposer *composer);

/*
 * The session that a pane is part of, by the rows that it has now: its bounds, and
 * the group that begins it.  False if the pane has no rows.  Answers are
 * remembered until weir_composer_reset(), and the second one about a session runs
 * no code of a key's type: nothing may be folded in between.
 */
extern bool weir_session_of(WeirComposer *composer, WeirGroup *pane,
							Timestamp *lower, Timestamp *upper,
							WeirGroup **first);

/*
 * When the session of a pane would end if it ended with that; false if the pane
 * has no rows.  Runs no code of users.
 */
extern bool weir_session_pane_end(const WeirComposer *composer,
								  const WeirGroup *pane, Timestamp *end);

/* The sessions that a row would be part of, or bridge. */
typedef struct WeirSessionsAround
{
	Timestamp	lower;			/* the least of all; DT_NOEND without any */
	Timestamp	least_upper;	/* likewise */
	Timestamp	least_whole;	/* of those that have not changed, */
	Timestamp	whole_lower;	/* and where that one begins */
	Timestamp	upper;			/* of the one that the row would then be in, ts +
								 * gap at least */
	const WeirGroup *torn;		/* one of its panes that is WEIR_GROUP_TORN */
} WeirSessionsAround;

/*
 * For judging a late row.  image: of the key with the row's own pane.  Looks at
 * committed and folded rows; slow.
 */
extern void weir_session_around(WeirComposer *composer, const char *image,
								uint32 len, Timestamp ts,
								WeirSessionsAround *around);

/*
 * The panes of the session that the pane of an image is part of, in
 * CurrentMemoryContext; returns how many.
 */
extern int64 weir_session_panes(WeirComposer *composer, const char *image,
								uint32 len, WeirGroup ***panes);

/* ---- tidy.c ---- */

extern void weir_tidy(Relation rel, const ItemPointerData *tid, int n);

/*
 * results.c.  Called every so many rows: has WAL that we have written go to disk,
 * when it is much.  Otherwise the commit flushes all of it at once, and everybody
 * else who commits meanwhile waits for that.
 */
extern void weir_flush_in_portions(void);

/* ---- states.c: rows of weir_data.state_<id> ---- */

/*
 * Writes the states of n groups, which are to hold the rows of v at results[i];
 * deletes those of the groups that are `gone`, and, unless the groups are partial
 * (of half a backfill), of groups that have neither rows nor a row of v.  Fills
 * places[i] with the TIDs of the stored rows.
 *
 * marks (or NULL): of sessions, the upper bound of the row at results[i].
 */
extern void weir_write_states(Relation state_table,
							  const WeirGroupTable *table,
							  WeirGroup **groups, const bool *gone,
							  const ItemPointerData *results,
							  const Timestamp *marks, int n, bool partial,
							  ItemPointerData *places);

/* ---- state_reader.c: and back into memory ---- */

/* May the group of a pane stay on disk? */
typedef bool (*WeirMayStay) (void *arg, int64 pane);

/*
 * Loads the groups of a state table, the latest first, and marks of sessions to the
 * words at `mark`, if any.  Those for which may_stay says so stay on disk, and are
 * counted in `evicted`; they are checked all the same.  Rows that would not be found
 * by their keys, because these have other hashes now (another version of a collation,
 * say), are written anew.  Raises what weir_group_load() raises, and XX001 for a key
 * that is stored twice.
 */
extern void weir_load_states(Relation state_table, WeirGroupTable *table,
							 Size mark, WeirMayStay may_stay, void *arg,
							 WeirEvicted *evicted);

/*
 * Gives a stored state, in a slot of its table, the pane and the hash of its key.
 * *at: where its row is then.
 */
extern void weir_rekey_state(Relation state_table, TupleTableSlot *stored,
							 int64 pane, uint32 hash, ItemPointer at);

/* The index on pane and hash; InvalidOid if there is none. */
extern Oid	weir_state_index(Relation state_table);

typedef struct WeirStateReader WeirStateReader;

/* With an active snapshot, which shows the last commit.  The table has the index. */
extern WeirStateReader *weir_state_reader_begin(Relation state_table,
												WeirGroupTable *table,
												Size mark);

/*
 * Goes to the stored groups of a pane whose keys have a hash from `first` to
 * `last`.
 */
extern void weir_state_reader_seek(WeirStateReader *reader, int64 pane,
								   uint32 first, uint32 last);

/*
 * Loads the next of those that is not in the table, and returns it; NULL when there
 * is none.
 */
extern WeirGroup *weir_state_reader_next(WeirStateReader *reader);

/*
 * Deletes up to `most` of those, in memory or not; returns how many.  For panes
 * that are of no use any more.
 */
extern int64 weir_state_reader_delete(WeirStateReader *reader, int64 most);

extern void weir_state_reader_end(WeirStateReader *reader);

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
	WeirEventTime time;			/* of a view with a watermark */
} WeirBooks;

/* What a view has on event time: part of its row of weir_data.status. */
typedef struct WeirViewTime
{
	TimestampTz watermark;		/* DT_NOBEGIN: none yet */
	TimestampTz emitted;		/* windows that end here or before are in the
								 * changelog: differs after weir.rebuild */
	TimestampTz settled;		/* windows that end here or before are frozen,
								 * whatever the options say now */
	int32		held_by;		/* the partition that holds it back, or -1 */
	int64		late_applied;	/* pairs of row and window */
	int64		late_side;
	int64		late_dropped;
	int64		seq;			/* next weir_seq */
	TimestampTz at;				/* weir_at of the last rows; DT_NOBEGIN: none */
	int32		timeline;		/* of the WAL, when seq was written */
	int64		notify_skipped;
} WeirViewTime;

/* One row of weir_data.status, as a commit leaves it. */
typedef struct WeirStatus
{
	bool		backfilling;
	WeirViewTime time;
	Oid			filenode;
	int64		groups;			/* in memory */
	int64		evicted;		/* on disk only */
	int64		state_bytes;
	double		busy;			/* share of a core since the last commit */
	int64		commit_us;
	int64		wal_bytes;		/* of the commit before this one */
} WeirStatus;

extern void weir_write_books(const char *view_id, WeirBooks *books, int n);

/*
 * Only what tells how far behind the source a view is: the source's end, if it is
 * known, and `complete_to` (or 0) as the row's last_time.
 */
extern void weir_write_lag(const char *view_id, const WeirBooks *books,
						   TimestampTz complete_to);
extern void weir_write_status(const char *view_id, const WeirStatus *status);
extern void weir_write_dead_letter(const char *view_id, Oid source,
								   int32 partition, int64 offset,
								   XLogRecPtr lsn, int sqlstate,
								   const char *message,
								   const char *payload, int payload_len);

/* A row that came too late: see the view weir.late_rows. */
typedef struct WeirLateRow
{
	Datum		windows;		/* text[] */
	TimestampTz watermark;
	int64		late_by;		/* microseconds, behind the latest of them */
	int			diff;			/* -1: a row that was taken back */
	Datum		row;			/* jsonb */
} WeirLateRow;

extern void weir_write_late_row(const char *view_id, const WeirLateRow *row);

/*
 * Reads a view's books, in CurrentMemoryContext; and its status.  Lateness that
 * is damaged, or was written by another version, raises: who does not ask for it
 * has the rest.
 */
extern WeirBooks *weir_read_books(const char *view_id, bool lateness, int *n);
extern bool weir_read_status(const char *view_id, bool *backfilling,
							 Oid *filenode, bool *stalled, WeirViewTime *time);

#endif							/* WEIR_EMIT_H */
