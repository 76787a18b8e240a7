/*-------------------------------------------------------------------------
 *
 * align.c
 *	  Partitions of a topic that are read far behind its end, side by side in
 *	  event time.
 *
 * The watermark of a view is that of its slowest partition, so a partition that
 * is ahead of the others makes no row of theirs late.  But it opens windows that
 * cannot close until the others are there: a view that reads a week's worth of
 * messages, of which one partition holds a tenth, would have all windows of the
 * week open at once.  So while a partition has much to be read and is behind, the
 * ones that are far ahead of it are not read.
 *
 *		read --- so far ahead of a partition that has a backlog ---> held
 *		  ^                                                           |
 *		  '--- half as far ahead, or nobody is behind any more -------'
 *
 * Only feeds of views with watermarks do this.  Views at the end of their topic
 * have no backlog, so nothing is held from them; and a partition from which
 * nothing comes holds nobody up for longer than a few seconds.
 *
 * What librdkafka has fetched of a partition before it is held still comes, with
 * versions below 2.1: the bound is loose by its queue (queued_max_messages_kbytes).
 *
 *-------------------------------------------------------------------------
 */
#include "runtime/worker.h"

#include "utils/timestamp.h"

/* Less than so many messages are read in no time. */
#define MUCH_TO_READ	10000

#define LOOK_EVERY		(10 * INT64CONST(1000))
#define PATIENCE		(5 * USECS_PER_SEC)

/*
 * How far ahead, in event time.  Holding a partition throws away what was fetched
 * of it in advance, so this must not happen often: windows of twenty sizes.
 */
#define LEAST_DISTANCE	USECS_PER_HOUR
#define SIZES			20

/* A partition, as far as all views of the feed have it. */
typedef struct Standing
{
	TimestampTz greatest;		/* DT_NOBEGIN: no row yet */
	bool		behind;			/* has much to be read */
} Standing;

static int64
distance_of(const WeirRun *run)
{
	const WeirWindow *window = &run->window;
	int64		size;

	switch (window->size_kind)
	{
		case WEIR_SIZE_PHYSICAL:
			size = window->size;
			break;
		case WEIR_SIZE_DAYS:
			size = window->size * USECS_PER_DAY;
			break;
		default:
			size = window->size * 30 * USECS_PER_DAY;
			break;
	}
	return Max(LEAST_DISTANCE, Min(size, PG_INT64_MAX / SIZES) * SIZES);
}

static bool
wants_order(const WeirFeed *feed)
{
	ListCell   *cell;

	foreach(cell, feed->runs)
		if (!((WeirRun *) lfirst(cell))->has_watermark)
			return false;
	return feed->runs != NIL && feed->n_partitions > 1;
}

static void
look_at(WeirFeed *feed, int p, TimestampTz now, Standing *standing)
{
	int64		end = weir_kafka_end(feed->consumer, p);
	ListCell   *cell;

	standing->greatest = DT_NOEND;
	foreach(cell, feed->runs)
	{
		WeirRun    *run = lfirst(cell);

		standing->greatest = Min(standing->greatest,
								 weir_run_books(run, p)->time.greatest);
	}
	/* from one that does not answer nothing comes, whoever waits for it */
	standing->behind = end - feed->next[p] > MUCH_TO_READ &&
		now - feed->heard[p] < PATIENCE;
}

static void
hold(WeirFeed *feed, int p, bool held)
{
	if (feed->held[p] == held)
		return;
	feed->held[p] = held;
	feed->n_held += held ? 1 : -1;
	if (held)
		weir_kafka_pause(feed->consumer, p);
	else
		weir_kafka_resume(feed->consumer, p);
}

void
weir_feed_align(WeirFeed *feed)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz slowest = DT_NOEND;
	TimestampTz begun = DT_NOEND;
	int64		distance = 0;
	Standing   *standings;
	ListCell   *cell;

	if (now < feed->next_align)
		return;
	feed->next_align = now + LOOK_EVERY;
	if (!wants_order(feed))
	{
		for (int p = 0; p < feed->n_partitions; p++)
			hold(feed, p, false);
		return;
	}
	foreach(cell, feed->runs)
		distance = Max(distance, distance_of(lfirst(cell)));
	standings = palloc(sizeof(Standing) * feed->n_partitions);
	for (int p = 0; p < feed->n_partitions; p++)
	{
		/* one that is held is silent because of us */
		if (feed->held[p])
			feed->heard[p] = now;
		look_at(feed, p, now, &standings[p]);
		if (standings[p].greatest != DT_NOBEGIN)
			begun = Min(begun, standings[p].greatest);
	}
	/* of one that has not said anything yet, it is where the first one began */
	if (feed->begun == DT_NOEND)
		feed->begun = begun;
	for (int p = 0; p < feed->n_partitions; p++)
		if (standings[p].behind)
			slowest = Min(slowest, standings[p].greatest == DT_NOBEGIN ?
						  feed->begun : standings[p].greatest);
	for (int p = 0; p < feed->n_partitions; p++)
	{
		TimestampTz greatest = standings[p].greatest;

		if (slowest == DT_NOEND || greatest == DT_NOBEGIN)
			hold(feed, p, false);
		else if (greatest > weir_time_add(slowest, distance))
			hold(feed, p, true);
		else if (greatest <= weir_time_add(slowest, distance / 2))
			hold(feed, p, false);
	}
	pfree(standings);
}

void
weir_feed_hold_none(WeirFeed *feed)
{
	TimestampTz now = GetCurrentTimestamp();

	for (int p = 0; p < feed->n_partitions; p++)
	{
		feed->heard[p] = now;
		hold(feed, p, false);
	}
}
