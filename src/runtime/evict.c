/*-------------------------------------------------------------------------
 *
 * evict.c
 *	  Groups that leave memory when it is short.  fault_in.c brings them back when
 *	  they are asked for.
 *
 * Where a group is:
 *
 *		dirty in memory -- commit --> clean in memory -- evicted --> on disk
 *			  ^                          |    ^                        |
 *			  '---------- a row ---------'    '---- asked for ---------'
 *
 * What leaves is clean, so nothing is written: the row of weir_data.state_<id> is
 * what it was.  Nothing may point to it: no list of a run has it, and its deadline is
 * taken out with it.  The coldest go first: panes whose windows have closed, and then
 * what no row has touched for the most intervals (a clock with three hands).
 *
 * What may leave depends on what a commit will want of it:
 *
 *	 tumbling windows	everything.  When their pane closes, and when it is
 *	 and none			frozen, publish_evicted.c reads them from disk in portions
 *	 hop, cumulate		panes whose windows have all closed: an open window is
 *						composed of all its panes each time, for all keys at once
 *	 session			cells that no open session can end with.  Others of it may
 *						be away: they come when it is composed
 *	 in a backfill		everything, for the whole of it is published from disk
 *
 * weir_run_make_room() is asked before each batch.  The other views of the worker
 * give something, too.  If what could leave is not enough, since it is dirty, the
 * view commits before its interval is over.  When it is too much for that as well,
 * the budget says no (53200), and the view stalls.
 *
 * Memory is shared by all workers.  One that finds none wakes the others; those that
 * have more than their share give back what they can.  So do they when
 * weir.state_memory is set to less than is in use, and commit before, since rows that
 * have been read must be folded, whether there is memory or not.
 *
 *-------------------------------------------------------------------------
 */
#include "runtime/members.h"

#include "access/xact.h"
#include "runtime/shared.h"
#include "storage/lwlock.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

/* A sweep frees so much of a view's memory: fewer would each walk over it all. */
#define SWEEP_SHARE 8

/* Everything that some list points to, or that is not on disk as it is. */
#define PINNED (WEIR_GROUP_DIRTY | WEIR_GROUP_UNPUBLISHED | WEIR_GROUP_TORN | \
				WEIR_GROUP_CLOSING | WEIR_GROUP_STAGED | WEIR_GROUP_GONE)

/* ------------------------------------------------------- what may leave */

/* When all windows of a pane have closed: the upper bound of the last. */
static Timestamp
end_of_pane(WeirRun *run, int64 pane)
{
	Timestamp	lower;
	Timestamp	upper = DT_NOEND;
	int64		first;
	int64		last;

	if (run->plan->window_key < 0 || pane == WEIR_NULL_PANE)
		return DT_NOEND;
	if (run->window.kind == WEIR_SESSION)
	{
		if (!weir_pane_bounds(&run->window, pane, &lower, &upper))
			return DT_NOEND;
		return weir_time_add(upper, run->window.size);
	}
	weir_windows_of(&run->window, pane, &first, &last);
	for (int64 w = last; w >= first; w--)
		if (weir_window_bounds(&run->window, w, &lower, &upper))
			return upper;
	return DT_NOEND;
}

Timestamp
weir_pane_freezes(WeirRun *run, int64 pane)
{
	Timestamp	end = end_of_pane(run, pane);

	if (!run->has_watermark || end == DT_NOEND)
		return DT_NOEND;
	end = weir_time_add(end, run->def->options.allowed_lateness);
	return run->window.kind == WEIR_SESSION ?
		weir_time_add(end, run->window.size) : end;
}

typedef enum Residence
{
	MUST_STAY,
	MAY_LEAVE,
	COLD						/* of a pane that is done with */
} Residence;

/* Of the groups of a pane that are clean. */
static Residence
residence_of_pane(WeirRun *run, int64 pane)
{
	bool		composed = weir_window_is_composed(run->plan->window_kind);
	Timestamp	end;

	if (run->backfilling || (composed && pane == WEIR_NULL_PANE))
		return MAY_LEAVE;
	if (!run->has_watermark)
		return weir_window_is_set(run->plan->window_kind) ?
			MUST_STAY : MAY_LEAVE;
	end = end_of_pane(run, pane);
	if (end > run->time.watermark)
		return composed ? MUST_STAY : MAY_LEAVE;

	/*
	 * A session that outlives its cells by so much is asked about until it is
	 * frozen itself: let it be.
	 */
	if (run->window.kind == WEIR_SESSION &&
		weir_pane_freezes(run, pane) <= run->time.watermark)
		return MUST_STAY;
	return COLD;
}

bool
weir_pane_must_stay(WeirRun *run, int64 pane)
{
	return residence_of_pane(run, pane) == MUST_STAY;
}

/* Groups of a pane lie together in time, but not in memory: so a few of them. */
#define VERDICTS 64

typedef struct Verdicts
{
	bool		known[VERDICTS];
	int64		panes[VERDICTS];
	Residence	residence[VERDICTS];
} Verdicts;

static Residence
residence_of(WeirRun *run, Verdicts *verdicts, const WeirGroup *group)
{
	int64		pane = weir_stored_pane(run->format,
										weir_group_key(run->table, group));
	int			i = (uint64) pane % VERDICTS;

	if (!verdicts->known[i] || verdicts->panes[i] != pane)
	{
		verdicts->known[i] = true;
		verdicts->panes[i] = pane;
		verdicts->residence[i] = residence_of_pane(run, pane);
	}
	return verdicts->residence[i];
}

/* ------------------------------------------------------------- the sweep */

static bool
is_not_leaving(void *item)
{
	return (((WeirGroup *) item)->flags & WEIR_GROUP_GONE) == 0;
}

/* Takes groups, which are marked as GONE, out of memory. */
static void
let_go(WeirRun *run, WeirGroup **groups, int64 n)
{
	if (n == 0)
		return;
	if (run->composer != NULL)
		weir_composer_reset(run->composer);
	if (run->deadlines != NULL)
		weir_deadlines_filter(run->deadlines, is_not_leaving);
	for (int64 i = 0; i < n; i++)
	{
		if (i + WEIR_GROUPS_AHEAD < n)
			weir_group_prefetch(groups[i + WEIR_GROUPS_AHEAD]);
		/* a holder that never got a row of v is nowhere else */
		if (ItemPointerIsValid(&groups[i]->state_tid))
			weir_evicted_add(run->evicted,
							 weir_stored_pane(run->format,
											  weir_group_key(run->table,
															 groups[i])),
							 1);
		weir_group_table_remove(run->table, groups[i]);
	}
	weir_group_table_trim(run->table);
	weir_group_table_set_missing(run->table, weir_run_bring_back, run);
}

/* Bytes that a group takes, more or less: the values of all have the same share. */
static Size
bytes_of(const WeirRun *run, const WeirGroup *group, Size values)
{
	Size		words_size;
	int			n_states;

	(void) weir_group_table_states(run->table, &n_states, &words_size);
	return sizeof(WeirGroup) + words_size + group->key_len + values;
}

/* How much a sweep takes. */
typedef enum Extent
{
	SOME,						/* the coldest */
	WHAT_MAY_LEAVE,
	ALL							/* nothing is dirty, and all is read from disk */
} Extent;

/* How warm a group must be to stay, in each round of the hand. */
static bool
leaves(WeirRun *run, Verdicts *verdicts, WeirGroup *group, Extent extent)
{
	Residence	residence;

	if (extent == ALL)
		return true;
	if ((group->flags & PINNED) != 0 ||
		!ItemPointerIsValid(&group->state_tid))
		return false;
	residence = residence_of(run, verdicts, group);
	if (residence == MUST_STAY)
		return false;
	if (extent == WHAT_MAY_LEAVE || residence == COLD || (group->flags & WEIR_GROUP_HEAT) == 0)
		return true;
	group->flags -= WEIR_GROUP_HEAT_ONE;
	return false;
}

void
weir_note_group_bytes(WeirRun *run)
{
	int64		n = weir_group_table_count(run->table);

	if (n > 0)
		run->group_bytes = (weir_group_table_bytes(run->table) -
							weir_group_table_free_bytes(run->table) +
							weir_value_store_bytes(run->store)) / n;
}

/* Evicts groups of so many bytes, or more. */
static void
sweep(WeirRun *run, Size wanted, Extent extent)
{
	bool		all = extent != SOME;
	int64		n_groups = weir_group_table_count(run->table);
	Size		values = n_groups == 0 ? 0 :
		weir_value_store_bytes(run->store) / n_groups;
	WeirGroup **leaving;
	Verdicts   *verdicts = palloc0(sizeof(Verdicts));
	int64		n = 0;
	int			rounds = all ? 1 : WEIR_GROUP_HEAT / WEIR_GROUP_HEAT_ONE + 1;

	weir_note_group_bytes(run);
	leaving = MemoryContextAllocHuge(CurrentMemoryContext,
									 sizeof(WeirGroup *) * Max(n_groups, 1));
	/* the hand stands at the same place until it has freed something */
	for (int64 seen = 0; seen < n_groups * rounds && (all || wanted > 0); seen++)
	{
		WeirGroup  *group = weir_group_table_next(run->table, &run->hand);
		Size		bytes;

		if (group == NULL)
		{
			run->hand = 0;
			group = weir_group_table_next(run->table, &run->hand);
		}
		if (group == NULL || !leaves(run, verdicts, group, extent))
			continue;
		group->flags |= WEIR_GROUP_GONE;
		leaving[n++] = group;
		bytes = bytes_of(run, group, values);
		wanted -= Min(bytes, wanted);
	}
	let_go(run, leaving, n);
	pfree(leaving);
	pfree(verdicts);
}

/* --------------------------------------------------------------- the index */

/*
 * Without the index nothing on disk would be found again.  In a transaction of its
 * own; an error is nobody's, and is met again when memory has come to its end.
 */
static bool
has_index(WeirRun *run)
{
	MemoryContext caller = CurrentMemoryContext;

	if (run->has_index)
		return true;
	if (IsTransactionState() || run->next_index > GetCurrentTimestamp())
		return false;
	PG_TRY();
	{
		WEIR_FAULT("evict-index");
		StartTransactionCommand();
		PushActiveSnapshot(GetTransactionSnapshot());
		weir_make_state_index(run->def->state_table);
		PopActiveSnapshot();
		CommitTransactionCommand();
		MemoryContextSwitchTo(caller);
		run->has_index = true;
	}
	PG_CATCH();
	{
		ErrorData  *error = weir_catch(caller);

		ereport(LOG,
				(errmsg("could not make room for the groups of \"%s\": %s",
						run->def->name, error->message)));
		run->next_index = GetCurrentTimestamp() + USECS_PER_SEC;
	}
	PG_END_TRY();
	return run->has_index;
}

/* ------------------------------------------------------------------- room */

bool
weir_is_over_test_limit(const WeirRun *run)
{
#ifdef WEIR_TEST
	return weir_test_groups != 0 &&
		weir_group_table_count(run->table) > Max(weir_test_groups, 0);
#else
	return false;
#endif
}

/* What n more groups take, values that they own included; no more than half of all. */
static Size
growth_by(const WeirRun *run, int n)
{
	int64		n_groups = weir_group_table_count(run->table);
	Size		values = n_groups == 0 ? 0 :
		weir_value_store_bytes(run->store) / n_groups * n;

	return weir_group_table_growth(run->table, n) +
		Min(values, weir_budget_limit() / 2);
}

/* Is there no room for n more groups? */
static bool
is_short(const WeirRun *run, int n)
{
	Size		growth = growth_by(run, n);

	/* without growth the groups have room; values that they own may not */
	return weir_budget_taken() + growth >
		weir_budget_limit() - weir_budget_reserve() / (growth > 0 ? 1 : 2);
}

/* Evicts an eighth of a run, or what is asked for. */
static void
sweep_some(WeirRun *run, Size wanted)
{
	Size		bytes = weir_group_table_bytes(run->table) +
		weir_value_store_bytes(run->store);

	sweep(run, Max(bytes / SWEEP_SHARE, wanted), SOME);
}

bool
weir_run_make_room(WeirRun *run, int n)
{
	if (!weir_is_over_test_limit(run) && !is_short(run, n))
		return true;
	if (weir_group_table_count(run->table) == run->n_dirty || !has_index(run))
		return run->n_dirty == 0;
	if (weir_is_over_test_limit(run))
		sweep(run, 0, WHAT_MAY_LEAVE);
	else
		sweep_some(run, 2 * growth_by(run, n));
	return run->n_dirty == 0 || !is_short(run, n);
}

bool
weir_members_make_room(WeirWorker *worker, WeirRun *run, int n)
{
	bool		room = weir_run_make_room(run, n);
	ListCell   *cell;

	foreach(cell, worker->members)
	{
		WeirRun    *other = ((WeirMember *) lfirst(cell))->run;

		if (!is_short(run, n))
			break;
		if (other == NULL || other == run ||
			weir_group_table_count(other->table) == other->n_dirty ||
			!has_index(other))
			continue;
		sweep_some(other, 2 * growth_by(run, n));
		/* only blocks that are empty are of use to another */
		if (is_short(run, n))
			sweep(other, 0, WHAT_MAY_LEAVE);
	}
	return room || !is_short(run, n);
}

void
weir_run_leave_memory(WeirRun *run)
{
	Assert(run->n_dirty == 0 && run->n_torn == 0);
	/* all windows are about to be published, and looked at anew after that */
	run->n_unpublished = run->closing.n = run->arrived.n = 0;
	sweep(run, 0, ALL);
}

/* A worker's share of the budget, if all that are there want as much. */
static Size
fair_share(void)
{
	int			n = 0;

	LWLockAcquire(weir_shared->lock, LW_SHARED);
	for (int i = 0; i < weir_shared->n_slots; i++)
		n += weir_shared->slots[i].pid != 0;
	LWLockRelease(weir_shared->lock);
	return weir_budget_limit() / Max(n, 1);
}

/* The last wish for memory that we have answered. */
static uint64 last_wish = 0;

bool
weir_memory_was_lowered(void)
{
	static Size last_limit = 0;
	Size		limit = weir_budget_limit();
	bool		lowered = limit < last_limit && weir_budget_taken() > limit;

	last_limit = limit;
	if (lowered)
		last_wish = PG_UINT64_MAX;
	return lowered;
}

/*
 * Groups that are deleted or frozen leave memory that is for their view's next ones.
 * A view that has more of that than groups gives it to the others.
 */
static void
give_back_unused(WeirWorker *worker)
{
	ListCell   *cell;

	foreach(cell, worker->members)
	{
		WeirRun    *run = ((WeirMember *) lfirst(cell))->run;

		if (run != NULL && weir_group_table_free_bytes(run->table) >
			weir_group_table_bytes(run->table) / 2)
			weir_group_table_trim(run->table);
	}
}

void
weir_give_back_memory(WeirWorker *worker)
{
	uint64		wanted = pg_atomic_read_u64(&weir_shared->memory_wanted);
	Size		share;
	bool		is_dirty = false;
	ListCell   *cell;

	give_back_unused(worker);
	if (wanted == last_wish)
		return;
	share = fair_share();
	/* it may be a view of ours that wants it */
	if (weir_budget_was_refused())
		share /= 2;
	foreach(cell, worker->members)
	{
		WeirRun    *run = ((WeirMember *) lfirst(cell))->run;

		if (weir_budget_mine() <= share)
			break;
		if (run == NULL)
			continue;
		is_dirty |= run->n_dirty > 0;
		if (has_index(run))
			sweep(run, 0, WHAT_MAY_LEAVE);
	}
	/* or again, once what is dirty is committed */
	if (!is_dirty || weir_budget_mine() <= share)
		last_wish = wanted;
}
