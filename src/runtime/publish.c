/*-------------------------------------------------------------------------
 *
 * publish.c
 *	  Which rows of v, and which states, a commit writes.
 *
 * Receives what was folded since the last commit and how far event time has
 * come.  W0 is the watermark of the last commit, W1 that of this one.  Hands on
 * outcomes, one for each row of v that may change, and the groups whose states
 * change:
 *
 *	 window				outcome when
 *	 open				it changed, unless weir.emit = 'final'; of several panes:
 *						once per publish_interval
 *	 W0 < upper <= W1	it closes: it changed, v did not have it, or the changelog
 *						gets it
 *	 upper <= W0		a late row, an UPDATE or a DELETE has changed it
 *	 frozen at W0		never
 *
 * A group waits in the deadlines for the next of its windows to close, and then
 * for the last of them to be frozen, when it goes.
 *
 *		folded --> waits for a window to close --> closes, waits for the next
 *								  ^                     |
 *								  '---------------------+--> frozen: removed
 *
 * No group is changed before the commit has succeeded: weir_apply_staged() does
 * that, and until then everything is in WeirStaged.
 *
 *-------------------------------------------------------------------------
 */
#include "runtime/worker.h"

#include "miscadmin.h"
#include "utils/memutils.h"
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

bool
weir_run_publishes_open(const WeirRun *run)
{
	return run->n_unpublished > 0 && !run->backfilling &&
		(run->publish_now || weir_now() >= run->next_publish);
}

void
weir_run_publish_again(WeirRun *run)
{
	uint64		cursor = 0;
	WeirGroup  *group;

	run->unsure = true;
	while ((group = weir_group_table_next(run->table, &cursor)) != NULL)
		/* one without rows may hold the row of a window that has lost its last */
		if (weir_group_rows(run->table, group) > 0 ||
			ItemPointerIsValid(&group->result_tid))
			weir_run_publish_pane(run, group);
}

/* ------------------------------------------------------------- deadlines */

static bool
pane_of_group(const WeirRun *run, const WeirGroup *group, int64 *pane)
{
	char	   *at = weir_key_pane_at(run->format,
									  unconstify(char *, weir_group_key(run->table, group)),
									  run->plan->window_key);

	if (at == NULL)
		return false;
	memcpy(pane, at, sizeof(*pane));
	return true;
}

static int64
lateness(const WeirRun *run)
{
	return run->def->options.allowed_lateness;
}

/* When a group is of no use any more, if its last window ends at upper. */
static Timestamp
end_of_revision(const WeirRun *run, Timestamp upper)
{
	Timestamp	end = weir_time_add(upper, lateness(run));

	/* rows that come near a frozen session must still find it */
	return run->window.kind == WEIR_SESSION ?
		weir_time_add(end, run->window.size) : end;
}

/*
 * When a group is to be looked at, the watermark being there: DT_NOBEGIN if it is
 * to go.
 */
static Timestamp
next_deadline(WeirRun *run, WeirGroup *group, int64 pane, TimestampTz watermark)
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
		deadline = next_deadline(run, group, pane, run->time.watermark);
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

		if (!pane_of_group(run, group, &pane))
			continue;
		weir_run_wait(run, group, pane, DT_NOBEGIN);
	}
}

/* -------------------------------------------------------------- outcomes */

static WeirReason
reason_of(uint32 had, bool closes, bool was_closed)
{
	if (closes)
		return WEIR_REASON_FINAL;
	if (was_closed && (had & WEIR_GROUP_HAD_LATE))
		return WEIR_REASON_LATE;
	if (had & WEIR_GROUP_HAD_UPDATE)
		return WEIR_REASON_UPDATE;
	if (had & WEIR_GROUP_HAD_DELETE)
		return WEIR_REASON_DELETE;
	return was_closed ? WEIR_REASON_LATE : WEIR_REASON_UPDATE;
}

/* What the changelog has, and gets, of an outcome whose window is known. */
static void
fill_in(const WeirRun *run, const WeirStaged *staged, WeirOutcome *outcome)
{
	/* what a backfill has let pass was never published */
	TimestampTz before = staged->replaces ? run->time.emitted :
		run->time.watermark;
	bool		was_closed = false;
	bool		is_closed = false;

	if (run->has_watermark && outcome->has_window)
	{
		Timestamp	was_upper = outcome->upper;

		/* what v has of a session is the session as it was */
		if (run->window.kind == WEIR_SESSION)
			was_upper = weir_run_published(run, outcome->holder);
		was_closed = was_upper <= before &&
			(run->window.kind != WEIR_SESSION || was_upper != DT_NOBEGIN);
		is_closed = outcome->words != NULL && outcome->upper <= staged->watermark;
	}
	switch (run->def->options.changelog)
	{
		case WEIR_CHANGELOG_OFF:
			outcome->was_emitted = outcome->emits = false;
			break;
		case WEIR_CHANGELOG_FINAL:
			outcome->was_emitted = was_closed;
			outcome->emits = is_closed;
			break;
		case WEIR_CHANGELOG_ALL:
			outcome->was_emitted = outcome->emits = true;
			break;
	}
	if (run->window.kind == WEIR_SESSION && is_closed && !was_closed)
	{
		/* born behind the watermark: there is nothing final about it */
		was_closed = outcome->upper <= before;
	}
	outcome->reason = reason_of(outcome->had, is_closed && !was_closed,
								was_closed);
}

/* v shows open windows, or it shows this one. */
static bool
shows(const WeirRun *run, const WeirStaged *staged, bool has_window,
	  Timestamp upper)
{
	return run->def->options.emit == WEIR_EMIT_CHANGES ||
		(has_window && upper <= staged->watermark);
}

/* A group that is one window, or is of no window at all. */
static bool
outcome_of_group(WeirRun *run, const WeirStaged *staged, WeirGroup *group,
				 WeirOutcome *outcome)
{
	int64		pane;

	memset(outcome, 0, sizeof(*outcome));
	outcome->holder = group;
	outcome->had = group->flags & WEIR_GROUP_REASONS;
	if (weir_group_exists(run->table, group))
		outcome->words = WEIR_GROUP_WORDS(group);
	if (run->plan->window_key >= 0 && pane_of_group(run, group, &pane))
	{
		outcome->has_window = true;
		if (!weir_window_bounds(&run->window, pane, &outcome->lower,
								&outcome->upper))
			elog(ERROR, "window has no bounds");
	}
	if (!shows(run, staged, outcome->has_window, outcome->upper))
		return false;
	/* frozen, and about to go: of such rows of v replace.c leaves those it has */
	if (staged->replaces && run->has_watermark && outcome->has_window &&
		!run->backfilling && outcome->upper <= run->time.settled)
		return false;
	fill_in(run, staged, outcome);
	return true;
}

/* Windows of one pane: dirty groups, and those whose windows close. */
static void
stage_groups(WeirRun *run, WeirStaged *staged, WeirGroup **groups, int64 n)
{
	/* does a window that closes without a change have to be written? */
	bool		closing = run->def->options.emit == WEIR_EMIT_FINAL ||
		run->def->options.changelog != WEIR_CHANGELOG_OFF;

	staged->outcomes = MemoryContextAllocHuge(CurrentMemoryContext,
											  sizeof(WeirOutcome) *
											  Max(n + staged->n_due, 1));
	for (int64 i = 0; i < n; i++)
	{
		WeirOutcome *outcome = &staged->outcomes[staged->n_outcomes];

		if (i + WEIR_GROUPS_AHEAD < n)
			weir_group_prefetch(groups[i + WEIR_GROUPS_AHEAD]);
		if (outcome_of_group(run, staged, groups[i], outcome))
			staged->n_outcomes++;
	}
	if (!closing || staged->replaces)
		return;
	for (int64 i = 0; i < staged->n_due; i++)
	{
		WeirOutcome *outcome = &staged->outcomes[staged->n_outcomes];
		WeirGroup  *group = staged->due[i];

		if (i + WEIR_GROUPS_AHEAD < staged->n_due)
			weir_group_prefetch(staged->due[i + WEIR_GROUPS_AHEAD]);
		if ((group->flags & WEIR_GROUP_DIRTY) == 0 &&
			outcome_of_group(run, staged, group, outcome) &&
			outcome->upper > run->time.watermark &&
			outcome->upper <= staged->watermark)
			staged->n_outcomes++;
	}
}

/* Which windows a call of weir_compose() is to compose. */
typedef struct Wanted
{
	const WeirRun *run;
	const WeirStaged *staged;
	bool		closing;		/* they close now */
	bool		closed;			/* closed before, and can be revised */
	bool		open;			/* and stay open */
} Wanted;

static bool
is_wanted(void *arg, Timestamp lower, Timestamp upper, bool changed, bool holds)
{
	const Wanted *wanted = arg;
	const WeirRun *run = wanted->run;

	if (!run->has_watermark)
		return wanted->open;
	/* a session that v shows may be open again: then v is to lose it */
	if (upper > wanted->staged->watermark)
		return wanted->open &&
			(run->def->options.emit == WEIR_EMIT_CHANGES || holds);
	if (upper > run->time.watermark)
		return wanted->closing;

	/*
	 * What a backfill has not published yet was never frozen; nor was a session
	 * whose rows have changed, of which late.c judged, whatever is left of it.
	 */
	return wanted->closed &&
		(run->backfilling || upper > run->time.settled || changed);
}

static void
add_outcomes(WeirStaged *staged, const WeirOutcome *outcomes, int64 n)
{
	WeirOutcome *all;

	if (n == 0)
		return;
	all = MemoryContextAllocHuge(CurrentMemoryContext,
								 sizeof(WeirOutcome) * (staged->n_outcomes + n));
	if (staged->n_outcomes > 0)
		memcpy(all, staged->outcomes, sizeof(WeirOutcome) * staged->n_outcomes);
	memcpy(all + staged->n_outcomes, outcomes, sizeof(WeirOutcome) * n);
	staged->outcomes = all;
	staged->n_outcomes += n;
}

static void
compose(WeirRun *run, WeirStaged *staged, WeirGroup **panes, int64 n,
		const Wanted *wanted)
{
	WeirOutcome *outcomes;
	int64		n_outcomes;
	int64		n_kept = 0;

	if (n == 0)
		return;
	outcomes = weir_compose(run->composer, panes, n, is_wanted,
							unconstify(Wanted *, wanted), &n_outcomes);
	for (int64 i = 0; i < n_outcomes; i++)
	{
		/* the NULL window; what v does not show, unless it is to lose it */
		if (outcomes[i].words != NULL &&
			!shows(run, staged, outcomes[i].has_window, outcomes[i].upper))
		{
			if (!ItemPointerIsValid(&outcomes[i].holder->result_tid))
				continue;
			outcomes[i].words = NULL;
		}
		fill_in(run, staged, &outcomes[i]);
		outcomes[i].unsure = run->unsure;
		outcomes[n_kept++] = outcomes[i];
	}
	add_outcomes(staged, outcomes, n_kept);
}

/* Panes among these whose first window has closed before: it is to be revised. */
static WeirGroup **
panes_of_closed(WeirRun *run, WeirGroup **groups, int64 n, int64 *n_panes)
{
	WeirGroup **panes = MemoryContextAllocHuge(CurrentMemoryContext,
											   sizeof(WeirGroup *) * Max(n, 1));

	*n_panes = 0;
	for (int64 i = 0; i < n; i++)
	{
		int64		pane;
		int64		first;
		int64		last;
		Timestamp	lower;
		Timestamp	upper;

		if (!pane_of_group(run, groups[i], &pane))
			continue;
		weir_windows_of(&run->window, pane, &first, &last);
		if (first <= last &&
			weir_window_bounds(&run->window, first, &lower, &upper) &&
			upper <= run->time.watermark)
			panes[(*n_panes)++] = groups[i];
	}
	return panes;
}

/* Hop and cumulate. */
static void
stage_sliding(WeirRun *run, WeirStaged *staged)
{
	Wanted		wanted = {.run = run, .staged = staged};

	wanted.closing = true;
	compose(run, staged, (WeirGroup **) staged->due, staged->n_due, &wanted);
	wanted.closing = false;
	if (run->has_watermark)
	{
		int64		n;
		WeirGroup **panes = panes_of_closed(run, run->dirty, run->n_dirty, &n);

		wanted.closed = true;
		compose(run, staged, panes, n, &wanted);
		wanted.closed = false;
	}
	staged->publishes_open = weir_run_publishes_open(run);
	if (staged->publishes_open)
	{
		wanted.open = true;
		compose(run, staged, run->unpublished, run->n_unpublished, &wanted);
	}
}

/*
 * Is the group part of a session that closes now, without having changed?  Once
 * for each: those that have been asked for are marked.
 */
static bool
is_of_closing(WeirRun *run, const WeirStaged *staged, WeirGroup *group)
{
	WeirGroup  *first;
	Timestamp	lower;
	Timestamp	upper;

	if ((group->flags & (WEIR_GROUP_DIRTY | WEIR_GROUP_STAGED)) != 0 ||
		!weir_session_of(run->composer, group, &lower, &upper, &first) ||
		upper <= run->time.watermark || upper > staged->watermark)
		return false;
	group->flags |= WEIR_GROUP_STAGED;
	return true;
}

/*
 * Sessions that have changed, and those that close.  A session's panes wait
 * each for itself; which of those that are due are worth composing?  And some
 * close before their panes are due (fold.c).
 */
static void
stage_sessions(WeirRun *run, WeirStaged *staged)
{
	Wanted		wanted = {.run = run, .staged = staged,
		.closing = true, .closed = true, .open = true};
	WeirGroup **panes = MemoryContextAllocHuge(CurrentMemoryContext,
											   sizeof(WeirGroup *) *
											   (run->n_dirty + staged->n_due +
												run->closing.n + 1));
	int64		n = run->n_dirty;

	memcpy(panes, run->dirty, sizeof(WeirGroup *) * n);
	for (int64 i = 0; i < staged->n_due; i++)
		if (is_of_closing(run, staged, staged->due[i]))
			panes[n++] = staged->due[i];
	for (int i = 0; i < run->closing.n &&
		 staged->watermark > run->time.watermark; i++)
		if (is_of_closing(run, staged, run->closing.groups[i]))
			panes[n++] = run->closing.groups[i];
	for (int64 i = run->n_dirty; i < n; i++)
		panes[i]->flags &= ~WEIR_GROUP_STAGED;
	compose(run, staged, panes, n, &wanted);
	staged->publishes_open = true;
}

/* All groups of a run: after a backfill, or when v's rows have moved. */
static WeirGroup **
all_groups(WeirRun *run, int64 *n)
{
	WeirGroup **groups =
		MemoryContextAllocHuge(CurrentMemoryContext,
							   sizeof(WeirGroup *) *
							   Max(weir_group_table_count(run->table), 1));
	uint64		cursor = 0;
	WeirGroup  *group;

	*n = 0;
	while ((group = weir_group_table_next(run->table, &cursor)) != NULL)
		groups[(*n)++] = group;
	return groups;
}

void
weir_stage_outcomes(WeirRun *run, WeirStaged *staged)
{
	bool		moved = false;

	staged->run = run;
	staged->held_by = -1;
	staged->watermark = run->time.watermark;
	staged->settled = run->time.settled;
	staged->next_idle = DT_NOEND;
	staged->seq = run->time.seq;
	staged->at = Max(weir_now(), run->time.at + 1);
	if (run->has_watermark)
	{
		staged->watermark = weir_run_watermark(run, &staged->next_idle,
											   &staged->held_by);
		moved = staged->watermark > run->time.watermark;
		staged->settled = Max(run->time.settled,
							  weir_time_add(staged->watermark, -lateness(run)));
	}
	if (!staged->publishes)
		return;
	if (run->deadlines != NULL && (moved || staged->replaces))
		staged->due = weir_deadlines_due(run->deadlines, staged->watermark,
										 &staged->n_due);
	if (staged->replaces)
	{
		int64		n;
		WeirGroup **groups = all_groups(run, &n);
		Wanted		wanted = {.run = run, .staged = staged,
			.closing = true, .closed = true, .open = true};

		if (run->composer != NULL)
			compose(run, staged, groups, n, &wanted);
		else
			stage_groups(run, staged, groups, n);
		staged->publishes_open = true;
	}
	else if (run->composer == NULL)
		stage_groups(run, staged, run->dirty, run->n_dirty);
	else if (run->window.kind == WEIR_SESSION)
		stage_sessions(run, staged);
	else
		stage_sliding(run, staged);
}

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
	make_room(staged, run->n_dirty + staged->n_due + staged->n_outcomes);
	staged->deadlines = MemoryContextAllocHuge(CurrentMemoryContext,
											   sizeof(Timestamp) *
											   Max(staged->n_due, 1));
	for (int64 i = 0; i < staged->n_due; i++)
	{
		WeirGroup  *group = staged->due[i];
		int64		pane = 0;

		(void) pane_of_group(run, group, &pane);
		staged->deadlines[i] = next_deadline(run, group, pane,
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
			!ItemPointerEquals(tid, &group->result_tid) ||
			(staged->marks != NULL &&
			 published != weir_run_published(run, group)))
			add_group(staged, group, tid, published);
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

static void
forget_unpublished(WeirStaged *staged)
{
	WeirRun    *run = staged->run;
	int			kept = 0;

	/* of those that go nothing may point to them */
	for (int i = 0; i < run->n_unpublished; i++)
	{
		WeirGroup  *group = run->unpublished[i];

		if (staged->publishes_open)
			group->flags &= ~WEIR_GROUP_UNPUBLISHED;
		else if ((group->flags & WEIR_GROUP_GONE) == 0)
			run->unpublished[kept++] = group;
	}
	run->n_unpublished = kept;
}

/* The same of those that may close early; once their ends have passed they are due. */
static void
forget_closing(WeirStaged *staged)
{
	WeirRun    *run = staged->run;
	int			kept = 0;

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

/* Waits for nothing, and nothing hangs on it. */
static bool
is_idle(const WeirRun *run, const WeirGroup *group)
{
	return (group->flags & (WEIR_GROUP_WAITS | WEIR_GROUP_GONE)) == 0 &&
		is_empty(run, group);
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
			pane_of_group(run, group, &pane))
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
