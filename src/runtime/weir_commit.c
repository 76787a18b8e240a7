/*-------------------------------------------------------------------------
 *
 * weir_commit.c
 *	  The one transaction of an interval.
 *
 * Results, states, dead letters, positions and counters of all runs that are due
 * change together, or not at all:
 *
 *	1. begin; for each run: lock v, see that its definition is still ours;
 *	   where event time is now, and which rows of v that changes (publish.c)
 *	2. rows of v and of its changelog, as the view's owner
 *	3. rows of the state table, with the TIDs from 2
 *	4. dead letters, late rows, positions, status
 *	5. commit, flushed locally
 *	6. memory: TIDs, clean groups; without those of no rows
 *	7. (the worker) acknowledge to the source
 *
 * Memory changes after the commit only, so an error anywhere before leaves it as
 * it was.  Were 7 before 5, a crash between them would lose the interval; were
 * the positions in another transaction than the rows, one would run ahead.
 *
 * An error names the run that it belongs to.  The caller leaves that one out
 * and commits the others.
 *
 *-------------------------------------------------------------------------
 */
#include "runtime/backfill.h"
#include "runtime/change_feed.h"

#include "access/relation.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/instrument.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "portability/instr_time.h"
#include "replication/origin.h"
#include "runtime/watchdog.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

/*
 * Where something comes in the order of writing: what has a place by that, so that
 * each page is visited once; then the new ones by their keys, so that neighbours
 * in the index come one after the other.
 */
typedef struct Turn
{
	uint64		first;
	uint64		second;
	int64		item;
} Turn;

#define ST_SORT sort_turns
#define ST_ELEMENT_TYPE Turn
#define ST_COMPARE(a, b) \
	((a)->first != (b)->first ? ((a)->first < (b)->first ? -1 : 1) : \
	 (a)->second != (b)->second ? ((a)->second < (b)->second ? -1 : 1) : 0)
#define ST_SCOPE static
#define ST_DEFINE
#include "lib/sort_template.h"

static void
set_turn(const WeirRun *run, Turn *turn, int64 item, const WeirGroup *group,
		 const ItemPointerData *place)
{
	const WeirKeyFormat *format = run->format;
	ItemPointer tid = unconstify(ItemPointerData *, place);

	turn->item = item;
	turn->second = 0;
	if (ItemPointerIsValid(tid))
		turn->first = (uint64) ItemPointerGetBlockNumber(tid) << 16 |
			ItemPointerGetOffsetNumber(tid);
	else
	{
		const char *image = weir_group_key(run->table, group);

		turn->first = UINT64CONST(1) << 63;
		if (format->n > 0)
			turn->first |= weir_key_rank(format, image, 0) >> 1;
		if (format->n > 1)
			turn->second = weir_key_rank(format, image, 1);
	}
}

static void
order_outcomes(WeirStaged *staged)
{
	int64		n = staged->n_outcomes;
	Turn	   *turns;
	WeirOutcome *ordered;

	/* clusters must stay together, and sessions are few a commit */
	if (n < 2 || staged->run->mark != WEIR_NO_PRESENCE)
		return;
	turns = MemoryContextAllocHuge(CurrentMemoryContext, sizeof(Turn) * n);
	ordered = MemoryContextAllocHuge(CurrentMemoryContext,
									 sizeof(WeirOutcome) * n);
	for (int64 i = 0; i < n; i++)
	{
		WeirGroup  *group = staged->outcomes[i].holder;

		if (i + WEIR_GROUPS_AHEAD < n)
			weir_group_prefetch(staged->outcomes[i + WEIR_GROUPS_AHEAD].holder);
		set_turn(staged->run, &turns[i], i, group, &group->result_tid);
	}
	sort_turns(turns, n);
	for (int64 i = 0; i < n; i++)
		ordered[i] = staged->outcomes[turns[i].item];
	pfree(turns);
	staged->outcomes = ordered;
}

/* States of groups whose rows of v stay as they are: by their own places. */
static void
order_others(WeirStaged *staged)
{
	int64		from = staged->n_placed;
	int64		n = staged->n_groups - from;
	Turn	   *turns;
	WeirGroup **groups;

	/* these go, or have no row, or keep it: what is said of each is the same */
	if (n < 2 || staged->run->mark != WEIR_NO_PRESENCE)
		return;
	turns = MemoryContextAllocHuge(CurrentMemoryContext, sizeof(Turn) * n);
	groups = MemoryContextAllocHuge(CurrentMemoryContext,
									sizeof(WeirGroup *) * n);
	for (int64 i = 0; i < n; i++)
		set_turn(staged->run, &turns[i], i, staged->groups[from + i],
				 &staged->groups[from + i]->state_tid);
	sort_turns(turns, n);
	for (int64 i = 0; i < n; i++)
		groups[i] = staged->groups[from + turns[i].item];
	for (int64 i = 0; i < n; i++)
	{
		staged->groups[from + i] = groups[i];
		staged->results[from + i] = groups[i]->result_tid;
	}
	pfree(turns);
	pfree(groups);
}

/*
 * Waiting for a lock once is enough: the others wait with us.  Later attempts ask
 * whether it is to be had.
 */
static void
check_unlocked(const WeirRun *run)
{
	Oid			changelog = run->def->changelog;

	if (!ConditionalLockRelationOid(run->def->relid, RowExclusiveLock) ||
		(OidIsValid(changelog) &&
		 !ConditionalLockRelationOid(changelog, RowExclusiveLock)))
		ereport(ERROR,
				(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
				 errmsg("canceling statement due to lock timeout")));
}

/*
 * Locks v and its state table, then looks at the definition, in that order.
 * A rebuild truncates the state table, which waits for us, or we for it.
 * Looking first would lose the rebuild:
 *
 *	1. We see the old epoch.
 *	2. The rebuild empties the states, resets the positions and commits.
 *	3. We write one interval's states and the old positions over that.
 */
static Relation
open_view(WeirRun *run, Relation *state_table)
{
	Relation	v;
	WeirViewDef *now;

	if (run->blocked)
		check_unlocked(run);
	v = try_relation_open(run->def->relid, RowExclusiveLock);
	if (v != NULL)
		*state_table = try_relation_open(run->def->state_table, RowExclusiveLock);
	if (v == NULL || *state_table == NULL)
		ereport(ERROR,
				(errcode(WEIR_ERRCODE_CHANGED),
				 errmsg("the view was dropped")));
	now = weir_catalog_view(run->def->relid);
	if (now == NULL || now->paused || now->epoch != run->def->epoch ||
		now->owner != run->def->owner)
		ereport(ERROR,
				(errcode(WEIR_ERRCODE_CHANGED),
				 errmsg("the definition of the view has changed")));
	/* VACUUM FULL and the like have moved its rows: load them again */
	if (weir_filenode(*state_table) != run->state_filenode)
		ereport(ERROR,
				(errcode(WEIR_ERRCODE_CHANGED),
				 errmsg("the state table was rewritten")));
	weir_check_shape(v, run->shape);
	return v;
}

WeirChangelog *
weir_begin_changes(WeirRun *run, const WeirStaged *staged)
{
	if (run->def->options.changelog == WEIR_CHANGELOG_OFF)
		return NULL;
	return weir_changelog_begin(run->def->changelog, run->shape, staged->seq,
								staged->watermark, staged->at);
}

void
weir_end_changes(WeirStaged *staged, WeirChangelog *changelog)
{
	int64		seq;

	if (changelog == NULL)
		return;
	seq = weir_changelog_end(changelog);
	staged->notified |= seq > staged->seq;
	staged->seq = seq;
}

WeirReplacement *
weir_begin_replacement(WeirRun *run, Relation v, WeirChangelog *changelog)
{
	/* what a backfill has not published yet was never frozen */
	Timestamp	settled = run->backfilling ? DT_NOBEGIN : run->time.settled;
	Timestamp	emitted = DT_NOBEGIN;

	if (run->def->options.changelog == WEIR_CHANGELOG_ALL)
		emitted = DT_NOEND;
	else if (run->def->options.changelog == WEIR_CHANGELOG_FINAL)
		emitted = run->time.emitted;
	return weir_replace_begin(v, run->projector, run->table,
							  run->plan->window_column, settled, emitted,
							  changelog);
}

void
weir_write_outcomes(WeirRun *run, Relation v, WeirStaged *staged)
{
	WeirChangelog *changelog = weir_begin_changes(run, staged);
	int			n = (int) staged->n_outcomes;

	order_outcomes(staged);
	staged->placements = MemoryContextAllocHuge(CurrentMemoryContext,
												sizeof(WeirPlacement) *
												Max(n, 1));
	if (staged->replaces)
	{
		WeirReplacement *replacement = weir_begin_replacement(run, v, changelog);

		weir_replace_keep(replacement, staged->outcomes, n, staged->placements);
		weir_replace_delete(replacement);
		weir_replace_insert(replacement, staged->outcomes, n,
							staged->placements, false);
		weir_replace_end(replacement);
	}
	else
		weir_write_results(v, run->projector, run->table, staged->outcomes, n,
						   changelog, staged->placements);
	weir_end_changes(staged, changelog);
}

static void
write_status(WeirRun *run, WeirStaged *staged, bool backfilling)
{
	WeirStatus	status;

	status.backfilling = backfilling;
	status.filenode = staged->filenode;
	status.groups = weir_group_table_count(run->table);
	status.evicted = weir_evicted_count(run->evicted);
	for (int64 i = 0; !backfilling && i < staged->n_groups; i++)
		if (staged->gone[i] ||
			!weir_group_exists(run->table, staged->groups[i]))
			status.groups--;	/* removed after the commit */
	status.state_bytes = weir_group_table_bytes(run->table) +
		weir_value_store_bytes(run->store);
	status.busy = weir_busy_share();
	status.commit_us = run->commit_us;
	status.wal_bytes = run->wal_bytes;
	status.time = run->time;
	status.time.watermark = staged->watermark;
	status.time.settled = staged->settled;
	if (staged->publishes)
		status.time.emitted = staged->watermark;
	status.time.held_by = staged->held_by;
	status.time.seq = staged->seq;
	if (staged->notified)
		status.time.at = staged->at;
	weir_write_status(run->def->id, &status);
}

/*
 * v is to be replaced, after a backfill or when its rows have moved.  If groups are
 * on disk, all of it is done from there: what is in memory goes there, too, by a
 * commit that publishes nothing (false), and what is clean leaves.
 */
static bool
prepare_replacement(WeirRun *run)
{
	run->again = false;
	if (weir_evicted_count(run->evicted) == 0 && !run->truncated)
		return true;
	if (run->n_dirty == 0 && !run->truncated)
	{
		weir_run_leave_memory(run);
		return true;
	}
	/* the rows that are there now are of the last commit: begin again from it */
	if (!run->backfilling)
		ereport(ERROR,
				(errcode(WEIR_ERRCODE_CHANGED),
				 errmsg("the rows of the view have moved")));
	run->again = true;
	return false;
}

/* Steps 1 to 4 for one run. */
static void
write_run(WeirRun *run, WeirStaged *staged)
{
	Relation	state_table = NULL;
	Relation	v = open_view(run, &state_table);
	bool		backfilling = run->backfilling && !weir_run_complete(run);
	bool		replaces = !backfilling && (run->backfilling || run->rewrite);
	WeirOwnerScope scope;

	staged->filenode = weir_filenode(v);
	if (replaces)
		replaces = prepare_replacement(run);
	backfilling = run->backfilling && !replaces;
	staged->partial = backfilling && run->def->source_kind != WEIR_SOURCE_KAFKA;
	staged->publishes = !backfilling;
	staged->replaces = replaces;
	run->staging = true;
	/* VACUUM FULL and the like: only what is committed says which rows these are */
	if (!run->backfilling && !run->rewrite && staged->filenode != run->filenode)
		ereport(ERROR,
				(errcode(WEIR_ERRCODE_CHANGED),
				 errmsg("the rows of the view have moved")));

	PushActiveSnapshot(GetTransactionSnapshot());
	/* equality and order of types may be a user's */
	weir_owner_begin(&scope, run->def->owner);
	weir_stage_outcomes(run, staged);
	/* what is replaced from disk is not in memory */
	if (staged->publishes && !(replaces && weir_evicted_count(run->evicted) > 0))
		weir_write_outcomes(run, v, staged);
	weir_stage_states(run, staged);
	weir_owner_end(&scope);
	order_others(staged);
	WEIR_FAULT("commit-results");

	/* logical decoding, ours and that of others, may pass over what follows */
	replorigin_session_origin = DoNotReplicateId;
	weir_write_states(state_table, run->table, staged->groups, staged->gone,
					  staged->results, staged->marks, (int) staged->n_groups,
					  staged->partial, staged->places);
	replorigin_session_origin = InvalidRepOriginId;
	weir_publish_evicted(run, staged, v, state_table);
	replorigin_session_origin = DoNotReplicateId;
	table_close(state_table, NoLock);
	WEIR_FAULT("commit-states");

	/* half of a table has no position: after a crash its scan begins again */
	if (!staged->partial)
	{
		weir_write_kept_rows(run);
		weir_write_books(run->def->id, run->books, run->n_books);
	}
	WEIR_FAULT("commit-positions");

	write_status(run, staged, backfilling);
	replorigin_session_origin = InvalidRepOriginId;
	PopActiveSnapshot();
	relation_close(v, NoLock);
}

static void
apply_books(WeirRun *run)
{
	weir_expiry_count(run);
	weir_forget_kept_rows(run);
	run->moved = false;
	for (int i = 0; i < run->n_books; i++)
	{
		run->books[i].committed = run->books[i].position;
		run->books[i].exists = true;
		run->books[i].changed = false;
	}
}

/* Step 6. */
static void
apply(WeirStaged *staged, int64 wal_bytes, int64 commit_us)
{
	WeirRun    *run = staged->run;

	weir_apply_staged(staged);
	if (!staged->partial)
		apply_books(run);
	run->rewrite = run->rewrite && !staged->replaces;
	run->blocked = run->pressed = false;

	/* windows that are open belong into memory, as far as they are composed */
	run->reopen = staged->replaces && run->composer != NULL &&
		(weir_evicted_count(run->evicted) > 0 || run->forgot_closing);
	if (staged->publishes)
		run->backfilling = false;
	if (run->backfill != NULL && staged->publishes)
	{
		weir_backfill_end(run->backfill);
		run->backfill = NULL;
	}
	run->filenode = staged->filenode;
	run->last_commit = GetCurrentTimestamp();
	run->wal_bytes = wal_bytes;
	run->commit_us = commit_us;
	weir_pace_wrote(run, staged->n_groups);
}

/* What the slot will be told once we have committed. */
static void
record_slot(XLogRecPtr confirm)
{
	PushActiveSnapshot(GetTransactionSnapshot());
	replorigin_session_origin = DoNotReplicateId;
	weir_slot_record(confirm);
	replorigin_session_origin = InvalidRepOriginId;
	PopActiveSnapshot();
}

/*
 * Last of all, for the sake of the lock that it takes.  What could not be said is
 * on record from the next commit on.
 */
static void
notify(WeirStaged *staged, int n)
{
	for (int i = 0; i < n; i++)
	{
		WeirRun    *run = staged[i].run;

		if (staged[i].notified)
			weir_notify(run->def->channel, staged[i].seq - 1,
						&run->time.notify_skipped);
	}
}

WeirRun *
weir_commit_runs(List *runs, XLogRecPtr confirm, ErrorData **failure)
{
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext mcxt = AllocSetContextCreate(caller, "pg_weir commit",
											   ALLOCSET_DEFAULT_SIZES);
	int			n = list_length(runs);
	WeirStaged *staged = MemoryContextAllocZero(mcxt, sizeof(WeirStaged) * n);
	WeirRun    *volatile current = NULL;
	WeirRun    *failed = NULL;
	uint64		wal_before = pgWalUsage.wal_bytes;
	instr_time	begun;
	instr_time	ended;

	INSTR_TIME_SET_CURRENT(begun);
	weir_watchdog_start();
	PG_TRY();
	{
		WEIR_FAULT("commit-begin");
		StartTransactionCommand();
		MemoryContextSwitchTo(mcxt);
		for (int i = 0; i < n; i++)
		{
			current = list_nth(runs, i);
			weir_watchdog_view = current->def->relid;
			write_run(current, &staged[i]);
			weir_progress++;
		}
		current = NULL;
		if (!XLogRecPtrIsInvalid(confirm))
			record_slot(confirm);
		notify(staged, n);
		WEIR_FAULT("commit-before");
		CommitTransactionCommand();
		MemoryContextSwitchTo(caller);
	}
	PG_CATCH();
	{
		*failure = weir_catch(caller);
		replorigin_session_origin = InvalidRepOriginId;
		/* an error of the commit itself is put down to the first run */
		failed = current != NULL ? current : linitial(runs);
		weir_watchdog_explain(*failure);
		for (int i = 0; i < n; i++)
			weir_unstage(list_nth(runs, i), &staged[i]);
	}
	PG_END_TRY();
	weir_watchdog_stop();

	if (failed == NULL)
	{
		/* an error from here to the end of apply() is the worker's end */
		WEIR_FAULT("commit-after");
		INSTR_TIME_SET_CURRENT(ended);
		INSTR_TIME_SUBTRACT(ended, begun);
		for (int i = 0; i < n; i++)
			apply(&staged[i], pgWalUsage.wal_bytes - wal_before,
				  INSTR_TIME_GET_MICROSEC(ended));
		WEIR_FAULT("commit-applied");
	}
	MemoryContextDelete(mcxt);
	return failed;
}

/*
 * The statement of a stall.  message NULL clears it.  A rebuild that is under way
 * holds the row of weir_data.views, so that we wait for it, and see its epoch.
 */
void
weir_record_stall(const char *view_id, int64 epoch, const ErrorData *error)
{
	Oid			types[] = {TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, INT8OID};
	Datum		values[6] = {0};
	char		nulls[] = " nnnn ";

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	values[0] = CStringGetTextDatum(view_id);
	values[5] = Int64GetDatum(epoch);
	if (error != NULL)
	{
		values[1] = CStringGetTextDatum(unpack_sql_state(error->sqlerrcode));
		values[2] = CStringGetTextDatum(error->message ? error->message : "");
		nulls[1] = nulls[2] = ' ';
		if (error->detail != NULL)
		{
			values[3] = CStringGetTextDatum(error->detail);
			nulls[3] = ' ';
		}
		if (error->hint != NULL)
		{
			values[4] = CStringGetTextDatum(error->hint);
			nulls[4] = ' ';
		}
	}
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (SPI_execute_with_args("WITH ours AS MATERIALIZED ("
							  " SELECT FROM weir_data.views"
							  " WHERE id OPERATOR(pg_catalog.=) $1"
							  " AND epoch OPERATOR(pg_catalog.=) $6 FOR SHARE)"
							  " UPDATE weir_data.status SET sqlstate = $2,"
							  " message = $3, detail = $4, hint = $5"
							  " WHERE view_id OPERATOR(pg_catalog.=) $1"
							  " AND (sqlstate IS NOT NULL OR $2 IS NOT NULL)"
							  " AND EXISTS (SELECT FROM ours)",
							  6, types, values, nulls, false, 0) < 0)
		elog(ERROR, "could not record a stall");
	SPI_finish();
	PopActiveSnapshot();
	CommitTransactionCommand();
}
