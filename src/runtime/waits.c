/*-------------------------------------------------------------------------
 *
 * waits.c
 *	  The worker's side of weir.wait_for().
 *
 * A backend puts its question into its place in shared memory.  The worker takes
 * it by asking the source for its end, and answers once the view has committed
 * up to there.  The backend's side is monitor/wait_for.c.
 *
 *-------------------------------------------------------------------------
 */
#include "runtime/change_feed.h"

#include "access/xlog.h"
#include "storage/spin.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/*
 * Where the source ends now, per partition; false when it did not answer.  NULL:
 * the run is not fed yet.
 */
static bool
source_ends(WeirWorker *worker, WeirRun *run, int64 **ends, int *n)
{
	WeirFeed   *feed = weir_members_feed(worker, run);
	WeirPartitionRange *ranges;

	*ends = NULL;
	if (worker->changes != NULL)
	{
		/* who asks has seen his commits return, flushed or not */
		*n = 1;
		*ends = palloc(sizeof(int64));
		**ends = (int64) weir_wal_end();
		XLogFlush((XLogRecPtr) **ends);
		worker->changes->next_read = 0;
		return true;
	}
	if (feed == NULL)
		return true;
	ranges = weir_kafka_ranges(feed->consumer, 1000, n);
	if (ranges == NULL)
		return false;
	*ends = palloc(sizeof(int64) * Max(*n, 1));
	for (int p = 0; p < *n; p++)
		(*ends)[p] = ranges[p].high;
	return true;
}

/*
 * Takes a wait that asks for one of our open views; false when the source did
 * not answer, for which it waits a second.
 */
static bool
take_wait(WeirWorker *worker, int place, WeirRun *run, uint64 ticket)
{
	WeirWait   *wait = &weir_shared->waits[place];
	WeirTaken  *taken;
	MemoryContext old;
	int64	   *ends;
	int			n;

	if (!source_ends(worker, run, &ends, &n))
		return false;			/* next turn */
	if (ends == NULL)
		return true;
	old = MemoryContextSwitchTo(TopMemoryContext);
	taken = palloc(sizeof(*taken));
	taken->place = place;
	taken->ticket = ticket;
	taken->view = run->def->relid;
	taken->n = n;
	taken->ends = palloc(sizeof(int64) * Max(n, 1));
	for (int p = 0; p < n; p++)
		taken->ends[p] = ends[p];
	worker->taken = lappend(worker->taken, taken);
	MemoryContextSwitchTo(old);

	SpinLockAcquire(&wait->mutex);
	if (wait->state == WEIR_WAIT_ASKED && wait->ticket == ticket)
		wait->state = WEIR_WAIT_TAKEN;
	SpinLockRelease(&wait->mutex);
	return true;
}

static bool
is_taken(const WeirWorker *worker, int place, uint64 ticket)
{
	ListCell   *cell;

	foreach(cell, worker->taken)
	{
		const WeirTaken *taken = lfirst(cell);

		if (taken->place == place && taken->ticket == ticket)
			return true;
	}
	return false;
}

static WeirRun *
run_of_view(WeirWorker *worker, Oid view)
{
	ListCell   *cell;

	foreach(cell, worker->members)
	{
		WeirMember *member = lfirst(cell);

		if (member->def->relid == view)
			return member->run;
	}
	return NULL;
}

static bool
holds(WeirRun *run, const WeirTaken *taken)
{
	bool		held = true;
	bool		folded = true;

	if (run->backfilling)
		return false;
	for (int p = 0; p < taken->n; p++)
	{
		int64		committed = p < run->n_books ? run->books[p].committed : 0;
		int64		position = p < run->n_books ? run->books[p].position : 0;

		/* what is folded and changed nothing needs no commit */
		if (run->joined && !weir_run_has_news(run))
			committed = position;

		if (committed < taken->ends[p])
			held = false;
		if (position < taken->ends[p])
			folded = false;
	}
	/* it commits rarely for the sake of readers, and here is one who waits */
	if (folded && !held)
		run->pace.hurry = true;
	/* open windows of several panes are committed, but not shown yet */
	if (held && run->n_unpublished > 0)
	{
		run->publish_now = true;
		held = false;
	}
	return held;
}

void
weir_members_answer_waits(WeirWorker *worker)
{
	bool		news = false;
	ListCell   *cell;

	for (int i = 0; i < weir_shared->n_waits; i++)
	{
		WeirWait   *wait = &weir_shared->waits[i];
		WeirRun    *run;
		uint64		ticket;
		Oid			view;

		WeirWaitState state = wait->state;

		if ((state != WEIR_WAIT_ASKED && state != WEIR_WAIT_TAKEN) ||
			wait->database != worker->database)
			continue;
		SpinLockAcquire(&wait->mutex);
		state = wait->state;
		ticket = wait->ticket;
		view = wait->view;
		SpinLockRelease(&wait->mutex);
		/* one that a worker took that is no more has not been answered */
		if (state != WEIR_WAIT_ASKED &&
			(state != WEIR_WAIT_TAKEN || is_taken(worker, i, ticket)))
			continue;
		run = run_of_view(worker, view);
		/* the others would only wait a second each as well */
		if (run != NULL && !take_wait(worker, i, run, ticket))
			break;
	}
	foreach(cell, worker->taken)
	{
		WeirTaken  *taken = lfirst(cell);
		WeirWait   *wait = &weir_shared->waits[taken->place];
		WeirRun    *run = run_of_view(worker, taken->view);
		bool		held = run != NULL && holds(run, taken);
		bool		gone = false;

		SpinLockAcquire(&wait->mutex);
		if (wait->ticket != taken->ticket || wait->state != WEIR_WAIT_TAKEN)
			gone = true;
		else if (held)
		{
			wait->state = WEIR_WAIT_HELD;
			gone = news = true;
		}
		SpinLockRelease(&wait->mutex);
		if (gone)
		{
			worker->taken = foreach_delete_current(worker->taken, cell);
			pfree(taken->ends);
			pfree(taken);
		}
	}
	if (news)
		ConditionVariableBroadcast(&weir_shared->answered);
}
