/*-------------------------------------------------------------------------
 *
 * view_time.c
 *	  How far event time has come for a view, and what its groups wait for.
 *
 * The watermark of a view follows from the event times in its books
 * (window/watermark.c); it is asked for here and moves by a commit only.
 *
 * A group waits in the deadlines for the next of its windows to close, and then
 * for the last of them to be frozen, when it goes:
 *
 *		folded --> waits for a window to close --> closes, waits for the next
 *								  ^                     |
 *								  '---------------------+--> frozen: removed
 *
 * What is due is looked at by publish.c, within a commit.
 *
 *-------------------------------------------------------------------------
 */
#include "runtime/worker.h"

#include "utils/timestamp.h"

/* ---------------------------------------------------------------- the time */

TimestampTz
weir_run_watermark(WeirRun *run, TimestampTz *next_idle, int32 *held_by)
{
	const WeirWatermarkRule *rule = &run->def->options.watermark;
	int			n = run->n_books;
	WeirEventTime **times = palloc(sizeof(WeirEventTime *) * Max(n, 1));
	bool	   *at_end = palloc(sizeof(bool) * Max(n, 1));
	bool	   *was_idle = palloc(sizeof(bool) * Max(n, 1));
	TimestampTz watermark;
	TimestampTz now = weir_now();
	int			holder;
	bool		all_at_end = true;

	for (int i = 0; i < n; i++)
	{
		WeirBooks  *books = &run->books[i];

		weir_event_time_advance(&books->time, rule);
		times[i] = &books->time;
		was_idle[i] = books->time.idle;
		at_end[i] = run->def->source_kind != WEIR_SOURCE_KAFKA ||
			(books->source_end >= 0 && books->position >= books->source_end);
		all_at_end = all_at_end && at_end[i];
	}
	watermark = weir_view_watermark(times, at_end, n, rule,
									run->time.watermark, now,
									&holder, next_idle);
	/* the broker may know by then that there is nothing more */
	if (!all_at_end && rule->idle_timeout >= 0)
		*next_idle = Min(*next_idle, now + USECS_PER_SEC);
	*held_by = holder >= 0 ? run->books[holder].partition : -1;
	for (int i = 0; i < n; i++)
		if (times[i]->idle != was_idle[i])
			run->books[i].changed = run->idle_changed = true;
	pfree(was_idle);
	pfree(times);
	pfree(at_end);
	return watermark;
}

bool
weir_run_time_moves(WeirRun *run)
{
	TimestampTz watermark;
	TimestampTz next_idle;
	int32		held_by;

	if (!run->has_watermark || weir_now() < run->next_idle)
		return false;
	watermark = weir_run_watermark(run, &next_idle, &held_by);
	/* who asks again before the commit is told the same */
	if (watermark > run->time.watermark || held_by != run->time.held_by ||
		run->idle_changed)
		return true;
	run->next_idle = next_idle;
	return false;
}

/* ------------------------------------------------------------- deadlines */

bool
weir_pane_of_group(const WeirRun *run, const WeirGroup *group, int64 *pane)
{
	char	   *at = weir_key_pane_at(run->format,
									  unconstify(char *, weir_group_key(run->table, group)));

	if (at == NULL)
		return false;
	memcpy(pane, at, sizeof(*pane));
	return true;
}

/* When a group is of no use any more, if its last window ends at upper. */
static Timestamp
end_of_revision(const WeirRun *run, Timestamp upper)
{
	Timestamp	end = weir_time_add(upper, run->def->options.allowed_lateness);

	/* rows that come near a frozen session must still find it */
	return run->window.kind == WEIR_SESSION ?
		weir_time_add(end, run->window.size) : end;
}

Timestamp
weir_next_deadline(WeirRun *run, WeirGroup *group, int64 pane, TimestampTz watermark)
{
	Timestamp	lower;
	Timestamp	upper = DT_NOBEGIN;
	Timestamp	end;

	if (run->window.kind == WEIR_SESSION)
	{
		WeirGroup  *first;

		/* no rows, and no row of v: see weir_compose() */
		if (!weir_session_of(run->composer, group, &lower, &upper, &first))
			return DT_NOBEGIN;
		/* one whose rows can go may come to end with this pane */
		if (upper > watermark)
			return run->def->retracts &&
				weir_session_pane_end(run->composer, group, &end) &&
				end > watermark ? end : upper;
	}
	else
	{
		int64		first;
		int64		last;

		weir_windows_of(&run->window, pane, &first, &last);
		for (int64 w = first; w <= last; w++)
		{
			if (weir_window_bounds(&run->window, w, &lower, &upper) &&
				upper > watermark)
				return upper;
		}
	}
	end = end_of_revision(run, upper);
	return end > watermark ? end : DT_NOBEGIN;
}

/*
 * A pane of a session can only be told to wait for the end of its row, which is
 * too early if anything: then it is looked at, and waits again.
 */
void
weir_run_wait(WeirRun *run, WeirGroup *group, int64 pane, Timestamp at)
{
	Timestamp	deadline;

	if (run->window.kind == WEIR_SESSION)
		deadline = at == DT_NOBEGIN ? at : weir_time_add(at, run->window.size);
	else
		deadline = weir_next_deadline(run, group, pane, run->time.watermark);
	weir_deadlines_add(run->deadlines, deadline, group);
	group->flags |= WEIR_GROUP_WAITS;
}

void
weir_run_set_deadlines(WeirRun *run)
{
	uint64		cursor = 0;
	WeirGroup  *group;

	while ((group = weir_group_table_next(run->table, &cursor)) != NULL)
	{
		int64		pane;

		if (!weir_pane_of_group(run, group, &pane))
			continue;
		weir_run_wait(run, group, pane, DT_NOBEGIN);
	}
}
