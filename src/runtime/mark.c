/*-------------------------------------------------------------------------
 *
 * mark.c
 *	  Groups that have changed: marked, so that the next commit finds them.
 *
 * A group is in a list at most once; a flag of it says so.  The lists are the
 * view's and live as long as it is open; commits empty them (staged.c).
 *
 *		dirty			its state is to be stored
 *		unpublished		a pane: its open windows are to be composed
 *		deadlines		it waits for one of its windows to close
 *
 *-------------------------------------------------------------------------
 */
#include "runtime/worker.h"

#include "utils/memutils.h"
#include "utils/timestamp.h"

static void
mark_dirty(WeirRun *run, WeirGroup *group)
{
	if ((group->flags & WEIR_GROUP_DIRTY) != 0)
		return;
	group->flags |= WEIR_GROUP_DIRTY;
	if ((group->flags & WEIR_GROUP_HEAT) != WEIR_GROUP_HEAT)
		group->flags += WEIR_GROUP_HEAT_ONE;
	if (run->n_dirty == run->max_dirty)
	{
		run->max_dirty *= 2;
		run->dirty = repalloc_huge(run->dirty,
								   sizeof(WeirGroup *) * run->max_dirty);
	}
	run->dirty[run->n_dirty++] = group;
}

void
weir_run_list(WeirRun *run, WeirGroupList *list, uint32 flag, WeirGroup *group)
{
	if ((group->flags & flag) != 0)
		return;
	if (list->groups == NULL)
	{
		list->max = 64;
		list->groups = MemoryContextAlloc(run->mcxt,
										  sizeof(WeirGroup *) * list->max);
	}
	if (list->n == list->max)
	{
		list->groups = repalloc_huge(list->groups,
									 sizeof(WeirGroup *) * list->max * 2);
		list->max *= 2;
	}
	group->flags |= flag;
	list->groups[list->n++] = group;
}

void
weir_run_publish_pane(WeirRun *run, WeirGroup *group)
{
	if ((group->flags & WEIR_GROUP_UNPUBLISHED) != 0)
		return;
	group->flags |= WEIR_GROUP_UNPUBLISHED;
	if (run->n_unpublished == run->max_unpublished)
	{
		run->max_unpublished *= 2;
		run->unpublished = repalloc_huge(run->unpublished,
										 sizeof(WeirGroup *) *
										 run->max_unpublished);
	}
	run->unpublished[run->n_unpublished++] = group;
}

void
weir_run_mark(WeirRun *run, WeirGroup *group, bool has_pane, int64 pane,
			  Timestamp at)
{
	mark_dirty(run, group);
	if (run->publishes_panes)
		weir_run_publish_pane(run, group);
	if (run->deadlines != NULL && has_pane &&
		(group->flags & WEIR_GROUP_WAITS) == 0)
		weir_run_wait(run, group, pane, at);
}

void
weir_run_touch(WeirRun *run, WeirGroup *group)
{
	char	   *pane = NULL;

	if (run->plan->window_key >= 0)
		pane = weir_key_pane_at(run->format,
								unconstify(char *, weir_group_key(run->table, group)));
	/* no time is known: it is looked at when the watermark moves */
	weir_run_mark(run, group, pane != NULL, pane ? *(int64 *) pane : 0,
				  DT_NOBEGIN);
	run->moved = true;
}

/*
 * Is a group part of a window that stays as it is, whatever comes?  (Of sliding
 * windows compose.c leaves out the frozen ones.)
 */
static bool
is_frozen(WeirRun *run, WeirGroup *group)
{
	WeirGroup  *first;
	Timestamp	lower;
	Timestamp	upper;
	int64		pane;

	/* what a backfill has not published is not frozen */
	if (!run->has_watermark || run->backfilling ||
		run->plan->window_key < 0 ||
		!weir_pane_of_group(run, group, &pane))
		return false;
	if (run->window.kind == WEIR_TUMBLE)
		return weir_window_bounds(&run->window, pane, &lower, &upper) &&
			upper <= run->time.settled;

	/*
	 * Of each group, so that a session is known whole before the first of its
	 * panes is emptied.  What rows were taken from is not frozen yet.
	 */
	return run->mark != WEIR_NO_PRESENCE &&
		weir_session_of(run->composer, group, &lower, &upper, &first) &&
		upper <= run->time.settled &&
		(group->flags & (WEIR_GROUP_DIRTY | WEIR_GROUP_TORN)) == 0;
}

void
weir_run_truncate(WeirRun *run)
{
	uint64		cursor = 0;
	Timestamp	published;
	WeirGroup  *group;
	WeirOwnerScope scope;

	/* equality of types may be a user's */
	weir_owner_begin(&scope, run->def->owner);

	/*
	 * What is on disk follows at the commit, or when it is asked for; of sessions
	 * it must be known now which are frozen.  A grand total stays, of no rows.
	 */
	if (run->window.kind == WEIR_SESSION || run->format->n == 0)
		weir_run_bring_all_back(run);
	else if (weir_evicted_count(run->evicted) > 0)
		run->truncated = true;
	while ((group = weir_group_table_next(run->table, &cursor)) != NULL)
	{
		/* without rows it holds the row of a window, whose rows may be on disk */
		if (weir_group_rows(run->table, group) == 0 &&
			!(run->truncated && ItemPointerIsValid(&group->result_tid)))
			continue;
		if (is_frozen(run, group))
			continue;
		published = weir_run_published(run, group);
		weir_group_reset(run->table, group);
		weir_run_set_published(run, group, published);
		weir_run_touch(run, group);
		group->flags |= WEIR_GROUP_HAD_DELETE;
	}
	if (run->composer != NULL)
		weir_composer_reset(run->composer);
	weir_owner_end(&scope);
	run->moved = true;
}
