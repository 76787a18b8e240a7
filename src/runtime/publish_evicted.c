/*-------------------------------------------------------------------------
 *
 * publish_evicted.c
 *	  What a commit does with groups that are on disk.
 *
 * publish.c and staged.c look at groups in memory.  Of those that are not, a commit
 * may want something all the same:
 *
 *		their window closes		and v or the changelog is to have it (tumble)
 *		v is replaced			after a backfill, or when its rows have moved
 *		a TRUNCATE was read		what they stood for is gone
 *		they are frozen			nobody will ask for them again
 *
 * They are read from disk in portions, each of which is written and forgotten before
 * the next one comes; so memory does not depend on how many they are.  A portion is
 * in the run's table as long as it lasts, but in none of its lists: when it is done
 * with, it is taken out again, whether the commit succeeds or not, since on disk it
 * is what the commit makes of it.
 *
 * Windows of several panes are made of all panes of a key, so their portions are
 * ranges of keys' hashes, over all panes.
 *
 * Frozen groups are deleted so many a commit: nothing depends on when.
 *
 *-------------------------------------------------------------------------
 */
#include "runtime/worker.h"

#include "miscadmin.h"
#include "replication/origin.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/* Frozen groups that a commit deletes, some tens of milliseconds' worth. */
#define FROZEN_AT_ONCE 10000

/* Groups of a portion: these, as far as memory allows. */
#define LEAST_PORTION 64
#define MOST_PORTION 8192

typedef struct Portion
{
	WeirRun    *run;
	WeirStaged *staged;			/* of the commit */
	Relation	v;
	Relation	state_table;
	WeirStateReader *reader;
	WeirReplacement *replacement;
	MemoryContext mcxt;			/* reset after each */
	int64		most;
	WeirGroup **groups;
	int64		n;
	int64		max;
} Portion;

/* What is done with a portion. */
typedef enum Purpose
{
	CLOSE_WINDOWS,
	KEEP,						/* v is replaced: what stays as it is */
	INSERT,						/* and what is new */
	WIPE,
	FORGET
} Purpose;

static int64
portion_of_memory(const WeirRun *run, int share)
{
	Size		a_group = Max(run->group_bytes, 64);
	int64		most = weir_budget_limit() / share / a_group;

#ifdef WEIR_TEST
	if (weir_test_groups != 0)
		return Max(weir_test_groups, 1);
#endif
	return Max(LEAST_PORTION, most);
}

static void
begin(Portion *portion, WeirRun *run, WeirStaged *staged, Relation v,
	  Relation state_table)
{
	portion->run = run;
	portion->staged = staged;
	portion->v = v;
	portion->state_table = state_table;
	portion->reader = weir_state_reader_begin(state_table, run->table, run->mark);
	portion->mcxt = AllocSetContextCreate(CurrentMemoryContext,
										  "pg_weir groups on disk",
										  ALLOCSET_DEFAULT_SIZES);
	portion->most = Min(portion_of_memory(run, 32), MOST_PORTION);
	portion->n = 0;
	portion->max = 1024;
	portion->groups = palloc(sizeof(WeirGroup *) * portion->max);
}

static void
end(Portion *portion)
{
	weir_state_reader_end(portion->reader);
	MemoryContextDelete(portion->mcxt);
	pfree(portion->groups);
}

static void
add(Portion *portion, WeirGroup *group)
{
	if (portion->n == portion->max)
	{
		portion->max *= 2;
		portion->groups = repalloc_huge(portion->groups,
										sizeof(WeirGroup *) * portion->max);
	}
	portion->groups[portion->n++] = group;
}

/* The outcomes of a portion, in a WeirStaged of its own. */
static void
stage(Portion *portion, Purpose purpose, WeirStaged *part)
{
	WeirRun    *run = portion->run;

	*part = *portion->staged;
	part->outcomes = palloc_extended(sizeof(WeirOutcome) * Max(portion->n, 1),
									 MCXT_ALLOC_HUGE);
	part->n_outcomes = part->n_due = 0;
	part->replaces = purpose == KEEP || purpose == INSERT;
	for (int64 i = 0; i < portion->n; i++)
	{
		WeirOutcome *outcome = &part->outcomes[part->n_outcomes];
		WeirGroup  *group = portion->groups[i];

		switch (purpose)
		{
			case CLOSE_WINDOWS:
				part->n_outcomes += weir_outcome_of_closing(run, part, group,
															outcome);
				break;
			case WIPE:
				if (part->publishes)
					part->n_outcomes += weir_outcome_of_wiped(run, part, group,
															  outcome);
				break;
			case KEEP:
			case INSERT:
			case FORGET:
				break;
		}
	}
	if (part->replaces)
		weir_stage_again(run, part, portion->groups, portion->n);
}

/* Rows of v and of its changelog. */
static void
write_rows(Portion *portion, Purpose purpose, WeirStaged *part)
{
	if (part->n_outcomes == 0)
		return;
	if (!part->replaces)
	{
		weir_write_outcomes(portion->run, portion->v, part);
		portion->staged->seq = part->seq;
		portion->staged->notified |= part->notified;
		return;
	}
	part->placements = palloc_extended(sizeof(WeirPlacement) * part->n_outcomes,
									   MCXT_ALLOC_HUGE);
	if (purpose == KEEP)
		weir_replace_keep(portion->replacement, part->outcomes,
						  (int) part->n_outcomes, part->placements);
	else
		weir_replace_insert(portion->replacement, part->outcomes,
							(int) part->n_outcomes, part->placements, true);
}

/* States of the portion, as they are from this commit on. */
static void
write_states(Portion *portion, Purpose purpose, const WeirStaged *part)
{
	WeirRun    *run = portion->run;
	bool		all = purpose == WIPE || purpose == FORGET;
	int64		most = Max(all ? portion->n : part->n_outcomes, 1);
	WeirGroup **groups = palloc_extended(sizeof(WeirGroup *) * most,
										 MCXT_ALLOC_HUGE);
	bool	   *gone = palloc_extended(sizeof(bool) * most, MCXT_ALLOC_HUGE);
	ItemPointerData *results = palloc_extended(sizeof(ItemPointerData) * most,
											   MCXT_ALLOC_HUGE);
	ItemPointerData *places = palloc_extended(sizeof(ItemPointerData) * most,
											  MCXT_ALLOC_HUGE);
	Timestamp  *marks = palloc_extended(sizeof(Timestamp) * most,
										MCXT_ALLOC_HUGE);
	int64		n = 0;

	for (int64 i = 0; i < most; i++)
		ItemPointerSetInvalid(&results[i]);
	for (int64 i = 0; all && i < portion->n; i++)
	{
		gone[n] = true;
		groups[n++] = portion->groups[i];
	}
	for (int64 i = 0; !all && i < part->n_outcomes; i++)
	{
		const WeirOutcome *outcome = &part->outcomes[i];
		ItemPointer tid = &part->placements[i].tid;

		if (purpose == CLOSE_WINDOWS &&
			!weir_group_moves(outcome->holder, tid))
			continue;
		gone[n] = false;
		results[n] = *tid;
		marks[n] = ItemPointerIsValid(tid) ? outcome->upper : DT_NOBEGIN;
		groups[n++] = outcome->holder;
	}
	replorigin_session_origin = DoNotReplicateId;
	weir_write_states(portion->state_table, run->table, groups, gone, results,
					  run->mark != WEIR_NO_PRESENCE ? marks : NULL, (int) n,
					  false, places);
	replorigin_session_origin = InvalidRepOriginId;
}

/*
 * The portion leaves memory again, and with it the holders of windows that
 * composing has made, whose states are on disk now.
 */
static void
leave(Portion *portion, Purpose purpose, const WeirStaged *part)
{
	WeirRun    *run = portion->run;
	int64		n_made = 0;
	WeirGroup **made = palloc_extended(sizeof(WeirGroup *) *
									   Max(part->n_outcomes, 1),
									   MCXT_ALLOC_HUGE);

	for (int64 i = 0; i < portion->n; i++)
		portion->groups[i]->flags |= WEIR_GROUP_GONE;
	for (int64 i = 0; i < part->n_outcomes; i++)
		if ((part->outcomes[i].holder->flags & WEIR_GROUP_GONE) == 0)
		{
			made[n_made++] = part->outcomes[i].holder;
			part->outcomes[i].holder->flags |= WEIR_GROUP_GONE;
		}
	if (run->composer != NULL)
		weir_composer_reset(run->composer);
	for (int64 i = 0; i < portion->n; i++)
		weir_group_table_remove(run->table, portion->groups[i]);
	portion->n = 0;
	for (int64 i = 0; i < n_made; i++)
	{
		if (purpose != KEEP)
			weir_evicted_add(run->evicted,
							 weir_stored_pane(run->format,
											  weir_group_key(run->table,
															 made[i])),
							 1);
		weir_group_table_remove(run->table, made[i]);
	}
}

static void
do_with(Portion *portion, Purpose purpose)
{
	MemoryContext old;
	WeirStaged	part;
	WeirOwnerScope scope;

	if (portion->n == 0)
		return;
	old = MemoryContextSwitchTo(portion->mcxt);
	weir_owner_begin(&scope, portion->run->def->owner);
	stage(portion, purpose, &part);
	write_rows(portion, purpose, &part);
	weir_owner_end(&scope);
	if (purpose != KEEP)
		write_states(portion, purpose, &part);
	leave(portion, purpose, &part);
	MemoryContextSwitchTo(old);
	MemoryContextReset(portion->mcxt);
}

/*
 * All groups of a pane, whatever their number; at most so many.  Loading compares
 * keys, whose equality may be a user's.
 */
static int64
do_with_pane(Portion *portion, Purpose purpose, int64 pane, int64 most)
{
	int64		n = 0;

	weir_state_reader_seek(portion->reader, pane, 0, PG_UINT32_MAX);
	while (n < most)
	{
		WeirOwnerScope scope;
		WeirGroup  *group = NULL;

		weir_owner_begin(&scope, portion->run->def->owner);
		while (n < most && portion->n < portion->most &&
			   (group = weir_state_reader_next(portion->reader)) != NULL)
		{
			add(portion, group);
			n++;
		}
		weir_owner_end(&scope);
		do_with(portion, purpose);
		if (group == NULL)
			break;
	}
	return n;
}

/* Windows of one pane that close now, if that is news to anybody. */
static void
close_windows(Portion *portion)
{
	WeirRun    *run = portion->run;
	int64	   *panes;
	int			n = weir_evicted_panes(run->evicted, &panes);

	for (int i = 0; i < n; i++)
	{
		Timestamp	lower;
		Timestamp	upper;

		if (panes[i] != WEIR_NULL_PANE &&
			weir_window_bounds(&run->window, panes[i], &lower, &upper) &&
			upper > run->time.watermark && upper <= portion->staged->watermark)
			(void) do_with_pane(portion, CLOSE_WINDOWS, panes[i], PG_INT64_MAX);
	}
	pfree(panes);
}

/* All groups whose keys have a hash in a range, over all panes. */
static void
do_with_range(Portion *portion, Purpose purpose, const int64 *panes, int n,
			  uint32 first, uint32 last)
{
	WeirOwnerScope scope;

	weir_owner_begin(&scope, portion->run->def->owner);
	for (int i = 0; i < n; i++)
	{
		WeirGroup  *group;

		weir_state_reader_seek(portion->reader, panes[i], first, last);
		while ((group = weir_state_reader_next(portion->reader)) != NULL)
			add(portion, group);
	}
	weir_owner_end(&scope);
	do_with(portion, purpose);
}

static void
do_with_all(Portion *portion, Purpose purpose)
{
	WeirRun    *run = portion->run;
	int64		n_groups = weir_evicted_count(run->evicted);
	int64	   *panes;
	int			n = weir_evicted_panes(run->evicted, &panes);

	if (weir_window_is_composed(run->plan->window_kind))
	{
		int64		ranges = n_groups / portion_of_memory(run, 8) + 1;
		uint64		step;

		ranges = Min(ranges, 65536);
		step = (UINT64CONST(1) << 32) / ranges + 1;
		for (uint64 from = 0; from <= PG_UINT32_MAX; from += step)
			do_with_range(portion, purpose, panes, n, (uint32) from,
						  (uint32) Min(from + step - 1, PG_UINT32_MAX));
	}
	else
		for (int i = 0; i < n; i++)
			(void) do_with_pane(portion, purpose, panes[i], PG_INT64_MAX);
	pfree(panes);
}

/* v gets the rows of all groups; there is none in memory. */
static void
replace_all(Portion *portion)
{
	WeirRun    *run = portion->run;
	WeirChangelog *changelog;
	WeirOwnerScope scope;

	weir_owner_begin(&scope, run->def->owner);
	changelog = weir_begin_changes(run, portion->staged);
	portion->replacement = weir_begin_replacement(run, portion->v, changelog);
	weir_owner_end(&scope);
	if (!weir_replace_is_first(portion->replacement))
		do_with_all(portion, KEEP);
	weir_owner_begin(&scope, run->def->owner);
	weir_replace_delete(portion->replacement);
	weir_owner_end(&scope);
	do_with_all(portion, INSERT);
	weir_owner_begin(&scope, run->def->owner);
	weir_replace_end(portion->replacement);
	weir_end_changes(portion->staged, changelog);
	weir_owner_end(&scope);
}

/* Is the one window of a pane frozen?  Its row stays as it is. */
static bool
is_frozen(WeirRun *run, int64 pane)
{
	return run->has_watermark && !run->backfilling &&
		weir_pane_freezes(run, pane) <= run->time.watermark;
}

static void
wipe(Portion *portion)
{
	int64	   *panes;
	int			n = weir_evicted_panes(portion->run->evicted, &panes);

	for (int i = 0; i < n; i++)
		if (!is_frozen(portion->run, panes[i]))
			(void) do_with_pane(portion, WIPE, panes[i], PG_INT64_MAX);
	pfree(panes);
}

static bool
is_forgotten(WeirRun *run, WeirGroup *group)
{
	int64		pane = 0;

	(void) weir_pane_of_group(run, group, &pane);
	return weir_next_deadline(run, group, pane, run->time.watermark) ==
		DT_NOBEGIN;
}

/* It is as if a group that has arrived had stayed on disk. */
static void
send_back(WeirRun *run, WeirGroup *group)
{
	group->flags &= ~WEIR_GROUP_ARRIVED;
	weir_evicted_add(run->evicted,
					 weir_stored_pane(run->format,
									  weir_group_key(run->table, group)),
					 1);
}

/*
 * A portion has cells of sessions that may be longer than that.  Asking brings the
 * others from disk: those that came since `others` go with them.  What belongs to a
 * session that can still be revised comes back for good, and goes as groups in memory
 * do.  Asking about those in turn may bring more; of them nothing is known, not even
 * whether this commit has deleted them, so that they go back.
 */
static void
sort_out_cells(Portion *portion, int others)
{
	WeirRun    *run = portion->run;
	bool	   *goes = palloc(sizeof(bool) * Max(portion->n, 1));
	bool	   *goes_too;
	int64		n = portion->n;
	int			n_arrived;
	int			n_kept = others;

	for (int64 i = 0; i < n; i++)
		goes[i] = is_forgotten(run, portion->groups[i]);
	n_arrived = run->arrived.n;
	goes_too = palloc(sizeof(bool) * Max(n_arrived, 1));
	for (int i = others; i < n_arrived; i++)
		goes_too[i] = is_forgotten(run, run->arrived.groups[i]);

	/* no error from here on */
	portion->n = 0;
	for (int64 i = 0; i < n; i++)
	{
		if (goes[i])
			portion->groups[portion->n++] = portion->groups[i];
		else
			weir_run_welcome(run, portion->groups[i]);
	}
	for (int i = others; i < run->arrived.n; i++)
	{
		WeirGroup  *group = run->arrived.groups[i];

		if (i < n_arrived && !goes_too[i])
		{
			run->arrived.groups[n_kept++] = group;
			continue;
		}
		send_back(run, group);
		if (i < n_arrived)
			add(portion, group);
		else
			weir_group_table_remove(run->table, group);
	}
	if (run->arrived.n > n_arrived)
		weir_composer_reset(run->composer);
	run->arrived.n = n_kept;
	pfree(goes);
	pfree(goes_too);
}

static int64
forget_cells(Portion *portion, int64 pane, int64 most)
{
	WeirRun    *run = portion->run;
	WeirGroup  *group;
	int64		n = 0;

	weir_state_reader_seek(portion->reader, pane, 0, PG_UINT32_MAX);
	do
	{
		int			others = run->arrived.n;
		WeirOwnerScope scope;

		group = NULL;
		weir_owner_begin(&scope, run->def->owner);
		while (n < most && portion->n < portion->most &&
			   (group = weir_state_reader_next(portion->reader)) != NULL)
		{
			add(portion, group);
			n++;
		}
		sort_out_cells(portion, others);
		weir_owner_end(&scope);
		do_with(portion, FORGET);
	} while (group != NULL && n < most);
	return n;
}

/* Panes that are of no use any more. */
static void
forget_frozen(Portion *portion)
{
	WeirRun    *run = portion->run;
	int64		left = FROZEN_AT_ONCE;
	int64	   *panes;
	int			n = weir_evicted_panes(run->evicted, &panes);

	for (int i = 0; i < n && left > 0; i++)
	{
		int64		done;

		if (!is_frozen(run, panes[i]))
			continue;
		done = run->window.kind == WEIR_SESSION ?
			forget_cells(portion, panes[i], left) :
			do_with_pane(portion, FORGET, panes[i], left);
		if (done < left)
		{
			int64	   *pane = palloc(sizeof(int64));

			*pane = panes[i];
			portion->staged->forgotten = lappend(portion->staged->forgotten,
												 pane);
		}
		left -= done;
	}
	pfree(panes);
}

/* Has a pane of those that are away come to an end, of any kind? */
static bool
has_news(WeirRun *run, const WeirStaged *staged)
{
	if (weir_evicted_count(run->evicted) == 0 && !run->truncated)
		return false;
	return staged->replaces || run->truncated || run->has_watermark;
}

/*
 * An error in the middle of a portion: it is on disk as it was, and in no list.  The
 * view may go on in this memory, if it was only a lock that could not be had.
 */
static void
give_up(Portion *portion)
{
	WeirRun    *run = portion->run;

	if (run->composer != NULL)
		weir_composer_reset(run->composer);
	for (int64 i = 0; i < portion->n; i++)
		weir_group_table_remove(run->table, portion->groups[i]);
	portion->n = 0;
}

static void
publish(Portion *portion)
{
	WeirRun    *run = portion->run;
	WeirStaged *staged = portion->staged;
	bool		shows_closing = run->def->options.emit == WEIR_EMIT_FINAL ||
		run->def->options.changelog != WEIR_CHANGELOG_OFF;

	if (run->truncated)
		wipe(portion);
	else if (staged->replaces)
	{
		/* a portion has all panes of its keys: others are nowhere */
		weir_group_table_set_missing(run->table, NULL, NULL);
		replace_all(portion);
		weir_group_table_set_missing(run->table, weir_run_bring_back, run);
	}
	else if (staged->publishes && staged->watermark > run->time.watermark &&
			 shows_closing && run->window.kind == WEIR_TUMBLE)
		close_windows(portion);
	if (staged->publishes && !staged->replaces && run->has_watermark &&
		!run->truncated)
		forget_frozen(portion);
}

void
weir_publish_evicted(WeirRun *run, WeirStaged *staged, Relation v,
					 Relation state_table)
{
	Portion    *portion;

	if (!has_news(run, staged) || !run->has_index)
		return;
	portion = palloc0(sizeof(Portion));
	begin(portion, run, staged, v, state_table);
	PG_TRY();
	{
		publish(portion);
	}
	PG_CATCH();
	{
		give_up(portion);
		weir_group_table_set_missing(run->table, weir_run_bring_back, run);
		PG_RE_THROW();
	}
	PG_END_TRY();
	end(portion);
}

void
weir_apply_evicted(WeirStaged *staged)
{
	WeirRun    *run = staged->run;
	ListCell   *cell;

	foreach(cell, staged->forgotten)
		weir_evicted_forget(run->evicted, *(int64 *) lfirst(cell));
	if (run->truncated)
	{
		int64	   *panes;
		int			n = weir_evicted_panes(run->evicted, &panes);

		for (int i = 0; i < n; i++)
			if (!is_frozen(run, panes[i]))
				weir_evicted_forget(run->evicted, panes[i]);
		pfree(panes);
		run->truncated = false;
	}
}
