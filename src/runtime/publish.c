/*-------------------------------------------------------------------------
 *
 * publish.c
 *	  Which rows of v a commit writes.
 *
 * Receives what was folded since the last commit and how far event time has
 * come.  W0 is the watermark of the last commit, W1 that of this one.  Hands on
 * outcomes, one for each row of v that may change:
 *
 *	 window				outcome when
 *	 open				it changed, unless weir.emit = 'final'; of several panes:
 *						once per publish_interval
 *	 W0 < upper <= W1	it closes: it changed, v did not have it, or the changelog
 *						gets it
 *	 upper <= W0		a late row, an UPDATE or a DELETE has changed it
 *	 frozen at W0		never
 *
 * No group is changed here: everything is in WeirStaged, and staged.c takes it
 * from there.
 *
 *-------------------------------------------------------------------------
 */
#include "runtime/worker.h"

#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

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
	if (run->plan->window_key >= 0 && weir_pane_of_group(run, group, &pane))
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
			weir_outcome_of_closing(run, staged, group, outcome))
			staged->n_outcomes++;
	}
}

bool
weir_outcome_of_closing(WeirRun *run, const WeirStaged *staged,
						WeirGroup *group, WeirOutcome *outcome)
{
	return outcome_of_group(run, staged, group, outcome) &&
		outcome->upper > run->time.watermark &&
		outcome->upper <= staged->watermark;
}

bool
weir_outcome_of_wiped(WeirRun *run, const WeirStaged *staged,
					  WeirGroup *group, WeirOutcome *outcome)
{
	int64		pane;
	int64		number;

	memset(outcome, 0, sizeof(*outcome));
	outcome->holder = group;
	outcome->had = WEIR_GROUP_HAD_DELETE;
	if (!ItemPointerIsValid(&group->result_tid))
		return false;
	if (run->plan->window_key >= 0 && weir_pane_of_group(run, group, &pane))
	{
		outcome->has_window = true;
		if (!weir_window_held_by(&run->window, pane, &number) ||
			!weir_window_bounds(&run->window, number, &outcome->lower,
								&outcome->upper))
			elog(ERROR, "a group holds the row of no window");
		if (run->has_watermark && outcome->upper <= run->time.settled)
			return false;
	}
	fill_in(run, staged, outcome);
	return true;
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

		if (!weir_pane_of_group(run, groups[i], &pane))
			continue;
		weir_windows_of(&run->window, pane, &first, &last);
		if (first <= last &&
			weir_window_bounds(&run->window, first, &lower, &upper) &&
			upper <= run->time.watermark)
			panes[(*n_panes)++] = groups[i];
	}
	return panes;
}

/*
 * After a TRUNCATE: panes that came from disk only now, since a window of theirs was
 * composed.  Another window, whose row one of them holds, may have none of its panes
 * in memory besides; what is still on disk publish_evicted.c sees to.
 */
static void
stage_wiped(WeirRun *run, WeirStaged *staged)
{
	WeirOutcome *wiped = palloc(sizeof(WeirOutcome) * Max(run->arrived.n, 1));
	int64		n_composed = staged->n_outcomes;
	int64		n = 0;

	for (int64 i = 0; i < n_composed; i++)
		staged->outcomes[i].holder->flags |= WEIR_GROUP_STAGED;
	for (int i = 0; i < run->arrived.n; i++)
		if ((run->arrived.groups[i]->flags & WEIR_GROUP_STAGED) == 0 &&
			weir_outcome_of_wiped(run, staged, run->arrived.groups[i], &wiped[n]))
			n++;
	for (int64 i = 0; i < n_composed; i++)
		staged->outcomes[i].holder->flags &= ~WEIR_GROUP_STAGED;
	add_outcomes(staged, wiped, n);
	pfree(wiped);
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
	if (run->truncated)
		stage_wiped(run, staged);
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
weir_stage_again(WeirRun *run, WeirStaged *staged, WeirGroup **groups, int64 n)
{
	Wanted		wanted = {.run = run, .staged = staged,
		.closing = true, .closed = true, .open = true};

	if (run->composer != NULL)
		compose(run, staged, groups, n, &wanted);
	else
		stage_groups(run, staged, groups, n);
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
							  weir_time_add(staged->watermark, -run->def->options.allowed_lateness));
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

		weir_stage_again(run, staged, groups, n);
		staged->publishes_open = true;
	}
	else if (run->composer == NULL)
		stage_groups(run, staged, run->dirty, run->n_dirty);
	else if (run->window.kind == WEIR_SESSION)
		stage_sessions(run, staged);
	else
		stage_sliding(run, staged);
}
