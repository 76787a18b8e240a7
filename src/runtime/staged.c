/*-------------------------------------------------------------------------
 *
 * staged.c
 *	  The groups of a commit: which states it writes, and what becomes of the
 *	  groups when it has succeeded, or failed.
 *
 * Receives the outcomes of publish.c, placed by emit/results.c.  States are
 * written of what is dirty, and of groups whose row of v has got another place;
 * deleted of those that go.  Memory changes after the commit only, by
 * weir_apply_staged(), where nothing may be asked that runs code of users: what
 * groups wait for next was found out before.
 *
 *-------------------------------------------------------------------------
 */
#include "runtime/worker.h"

#include "utils/memutils.h"
#include "utils/timestamp.h"

/* ---------------------------------------------------------------- states */

static void
add_group(WeirStaged *staged, WeirGroup *group, const ItemPointerData *result,
		  Timestamp published)
{
	int64		n = staged->n_groups++;

	staged->groups[n] = group;
	staged->gone[n] = (group->flags & WEIR_GROUP_GONE) != 0;
	staged->results[n] = *result;
	if (staged->marks != NULL)
		staged->marks[n] = published;
	group->flags |= WEIR_GROUP_STAGED;
}

/*
 * Is a group stored that has neither rows nor a row of v?  Part of a backfill stores
 * it, for the rest may still change it.
 */
static bool
is_left_over(const WeirRun *run, const WeirGroup *group, const ItemPointerData *result)
{
	return ItemPointerIsValid((ItemPointer) &group->state_tid) &&
		!ItemPointerIsValid(unconstify(ItemPointerData *, result)) &&
		!weir_group_exists(run->table, group);
}

static void
make_room(WeirStaged *staged, int64 most)
{
	MemoryContext mcxt = CurrentMemoryContext;

	most = Max(most, 1);
	staged->groups = MemoryContextAllocHuge(mcxt, sizeof(WeirGroup *) * most);
	staged->gone = MemoryContextAllocHuge(mcxt, sizeof(bool) * most);
	staged->results = MemoryContextAllocHuge(mcxt, sizeof(ItemPointerData) * most);
	staged->places = MemoryContextAllocHuge(mcxt, sizeof(ItemPointerData) * most);
	if (staged->run->mark != WEIR_NO_PRESENCE)
		staged->marks = MemoryContextAllocHuge(mcxt, sizeof(Timestamp) * most);
}

/*
 * Holders of rows of v that have got another place, in the order of those;
 * groups that go; and what else has changed.  Flags say what is in the list,
 * until it is complete.
 */
void
weir_stage_states(WeirRun *run, WeirStaged *staged)
{
	make_room(staged, run->n_dirty + staged->n_due + staged->n_outcomes +
			  (staged->publishes_open ? run->n_unpublished : 0));
	staged->deadlines = MemoryContextAllocHuge(CurrentMemoryContext,
											   sizeof(Timestamp) *
											   Max(staged->n_due, 1));
	for (int64 i = 0; i < staged->n_due; i++)
	{
		WeirGroup  *group = staged->due[i];
		int64		pane = 0;

		(void) weir_pane_of_group(run, group, &pane);
		staged->deadlines[i] = weir_next_deadline(run, group, pane,
												  staged->watermark);
		if (staged->deadlines[i] == DT_NOBEGIN)
			group->flags |= WEIR_GROUP_GONE;
	}
	for (int64 i = 0; i < staged->n_outcomes; i++)
	{
		const WeirOutcome *outcome = &staged->outcomes[i];
		WeirGroup  *group = outcome->holder;
		ItemPointer tid = &staged->placements[i].tid;
		Timestamp	published = ItemPointerIsValid(tid) ? outcome->upper : DT_NOBEGIN;

		if ((group->flags & (WEIR_GROUP_DIRTY | WEIR_GROUP_GONE)) != 0 ||
			weir_group_moves(group, tid) ||
			(staged->marks != NULL &&
			 published != weir_run_published(run, group)) ||
			is_left_over(run, group, tid))
			add_group(staged, group, tid, published);
	}
	for (int i = 0; staged->publishes_open && i < run->n_unpublished; i++)
	{
		WeirGroup  *group = run->unpublished[i];

		if ((group->flags & (WEIR_GROUP_DIRTY | WEIR_GROUP_GONE | WEIR_GROUP_STAGED)) == 0 &&
			is_left_over(run, group, &group->result_tid))
			add_group(staged, group, &group->result_tid, DT_NOBEGIN);
	}
	for (int64 i = 0; i < staged->n_due; i++)
	{
		WeirGroup  *group = staged->due[i];

		if ((group->flags & (WEIR_GROUP_GONE | WEIR_GROUP_STAGED)) == WEIR_GROUP_GONE)
			add_group(staged, group, &group->result_tid, DT_NOBEGIN);
	}
	staged->n_placed = staged->n_groups;
	for (int i = 0; i < run->n_dirty; i++)
	{
		WeirGroup  *group = run->dirty[i];

		if ((group->flags & WEIR_GROUP_STAGED) == 0)
			add_group(staged, group, &group->result_tid,
					  weir_run_published(run, group));
	}
	for (int64 i = 0; i < staged->n_groups; i++)
		staged->groups[i]->flags &= ~(WEIR_GROUP_STAGED | WEIR_GROUP_GONE);
}

void
weir_unstage(WeirRun *run, WeirStaged *staged)
{
	for (int64 i = 0; i < staged->n_groups; i++)
		staged->groups[i]->flags &= ~(WEIR_GROUP_STAGED | WEIR_GROUP_GONE);
	for (int64 i = 0; i < staged->n_due; i++)
		((WeirGroup *) staged->due[i])->flags &= ~(WEIR_GROUP_STAGED |
												   WEIR_GROUP_GONE);
	for (int i = 0; i < run->closing.n; i++)
		run->closing.groups[i]->flags &= ~WEIR_GROUP_STAGED;
	run->staging = run->fetching = false;
	weir_run_settle_arrived(run);
	if (run->composer != NULL)
		weir_composer_reset(run->composer);
}

/* ------------------------------------------------------------ afterwards */

/*
 * Due groups that stay wait again, for later.  What a group waits for was decided
 * before the commit: of a session the keys' equality may have been asked.
 */
static void
move_deadlines(WeirStaged *staged)
{
	WeirRun    *run = staged->run;

	if (run->deadlines == NULL || staged->due == NULL)
		return;
	weir_deadlines_drop(run->deadlines, staged->watermark);
	for (int64 i = 0; i < staged->n_due; i++)
	{
		WeirGroup  *group = staged->due[i];

		if (staged->deadlines[i] == DT_NOBEGIN)
			group->flags &= ~WEIR_GROUP_WAITS;	/* it is among those that go */
		else
			weir_deadlines_add(run->deadlines, staged->deadlines[i], group);
	}
}

/* A group without rows that holds none of v's either. */
static bool
is_empty(const WeirRun *run, const WeirGroup *group)
{
	return !weir_group_exists(run->table, group) &&
		!ItemPointerIsValid((ItemPointer) &group->result_tid);
}

/* Waits for nothing, nothing hangs on it, and it is not stored. */
static bool
is_idle(const WeirRun *run, const WeirGroup *group)
{
	return (group->flags & (WEIR_GROUP_WAITS | WEIR_GROUP_UNPUBLISHED |
							WEIR_GROUP_GONE)) == 0 &&
		!ItemPointerIsValid((ItemPointer) &group->state_tid) &&
		is_empty(run, group);
}

/*
 * A pane that has lost its last row stays until its open windows have been
 * published without that: v still shows them with it.  (After a crash all windows
 * of which v has a row are published again.)
 */
static void
forget_unpublished(WeirStaged *staged)
{
	WeirRun    *run = staged->run;
	int			kept = 0;

	/* of those that go nothing may point to them */
	for (int i = 0; i < run->n_unpublished; i++)
	{
		WeirGroup  *group = run->unpublished[i];

		if ((group->flags & WEIR_GROUP_GONE) != 0)
			continue;
		if (!staged->publishes_open)
			run->unpublished[kept++] = group;
		else if (is_idle(run, group))
			weir_group_table_remove(run->table, group);
	}
	run->n_unpublished = kept;
}

/*
 * The same of those that may close early; once their ends have passed they are due.
 * Half of a backfill may have taken from a group more rows than have come: nothing
 * is asked of it, and when it is complete all is looked at.
 */
static void
forget_closing(WeirStaged *staged)
{
	WeirRun    *run = staged->run;
	int			kept = 0;

	if (staged->partial)
	{
		for (int i = 0; i < run->closing.n; i++)
			run->closing.groups[i]->flags &= ~WEIR_GROUP_CLOSING;
		run->forgot_closing |= run->closing.n > 0;
		run->closing.n = 0;
		return;
	}
	for (int i = 0; i < run->closing.n; i++)
	{
		WeirGroup  *group = run->closing.groups[i];
		Timestamp	end;

		/* one without rows may get others, and still waits for the old ones */
		if ((group->flags & WEIR_GROUP_GONE) == 0 &&
			(!weir_session_pane_end(run->composer, group, &end) ||
			 end > staged->watermark))
			run->closing.groups[kept++] = group;
		else
			group->flags &= ~WEIR_GROUP_CLOSING;
	}
	run->closing.n = kept;
}

/*
 * Groups that go, those of no rows among them; and holders that compose.c has
 * made for windows which HAVING then rejected.
 */
static void
remove_groups(WeirStaged *staged)
{
	WeirRun    *run = staged->run;
	int64		n_holders = 0;

	for (int i = 0; staged->publishes_open && i < run->n_unpublished; i++)
		run->unpublished[i]->flags &= ~WEIR_GROUP_UNPUBLISHED;
	for (int64 i = 0; staged->publishes && i < staged->n_groups; i++)
		if (is_idle(run, staged->groups[i]))
			staged->groups[i]->flags |= WEIR_GROUP_GONE;
	for (int64 i = 0; i < staged->n_outcomes; i++)
		if (is_idle(run, staged->outcomes[i].holder))
		{
			staged->outcomes[i].holder->flags |= WEIR_GROUP_GONE;
			staged->outcomes[n_holders++].holder = staged->outcomes[i].holder;
		}
	forget_unpublished(staged);
	forget_closing(staged);
	for (int64 i = 0; i < staged->n_groups; i++)
		if ((staged->groups[i]->flags & WEIR_GROUP_GONE) != 0)
			weir_group_table_remove(run->table, staged->groups[i]);
	for (int64 i = 0; i < n_holders; i++)
		weir_group_table_remove(run->table, staged->outcomes[i].holder);
}

void
weir_apply_staged(WeirStaged *staged)
{
	WeirRun    *run = staged->run;

	for (int64 i = 0; i < staged->n_groups; i++)
	{
		WeirGroup  *group = staged->groups[i];

		group->result_tid = staged->results[i];
		group->state_tid = staged->places[i];
		if (staged->marks != NULL)
			weir_run_set_published(run, group, staged->marks[i]);
		group->flags &= ~(WEIR_GROUP_DIRTY | WEIR_GROUP_REASONS);
		if (staged->gone[i])
			group->flags |= WEIR_GROUP_GONE;
	}
	weir_judge_anew(run);		/* while the groups are there */
	move_deadlines(staged);
	run->staging = false;
	weir_run_settle_arrived(run);
	weir_apply_evicted(staged);

	/*
	 * What compose.c has made and what waits for nothing yet.  A window may be
	 * revised and frozen in one commit: its group goes, and waits no more.
	 */
	for (int64 i = 0; run->deadlines != NULL && i < staged->n_outcomes; i++)
	{
		WeirGroup  *group = staged->outcomes[i].holder;
		int64		pane;

		if ((group->flags & (WEIR_GROUP_WAITS | WEIR_GROUP_GONE)) == 0 &&
			!is_empty(run, group) &&
			weir_pane_of_group(run, group, &pane))
			weir_run_wait(run, group, pane, DT_NOBEGIN);
	}
	remove_groups(staged);
	if (run->composer != NULL)
		weir_composer_reset(run->composer);

	run->n_dirty = 0;
	if (staged->publishes_open)
	{
		run->next_publish = weir_time_add(weir_now(), run->publish_interval);
		run->publish_now = run->unsure = false;
	}
	run->time.watermark = staged->watermark;
	run->time.settled = staged->settled;
	if (staged->publishes)
		run->time.emitted = staged->watermark;
	run->time.held_by = staged->held_by;
	run->time.seq = staged->seq;
	if (staged->notified)
		run->time.at = staged->at;
	run->next_idle = staged->next_idle;
	run->idle_changed = false;
}
