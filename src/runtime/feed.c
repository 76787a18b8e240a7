/*-------------------------------------------------------------------------
 *
 * feed.c
 *	  One consumer, one decoder, and the views that share them.
 *
 * Each message is decoded once for all views of one owner (and one set of
 * pinned settings) that are about as far.  A view skips what it has, so a
 * feed may be behind its views but never ahead of one.  A view that must catch
 * up gets a feed of its own, which is merged when the positions meet.
 *
 * A feed begins at the last message that its views have, not behind it: that
 * message must come back as it was, or the topic is not the one that we
 * know.  So it does after every trouble of the broker's, behind which a topic may
 * have been deleted and made again.  A gap, an end before our position, a partition that does not start at
 * 0 are never guessed over: the view stops.
 *
 *-------------------------------------------------------------------------
 */
#include "runtime/worker.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "runtime/watchdog.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"

#define OPEN_TIMEOUT_MS 5000
#define LOOK_TIMEOUT_MS 1000
#define LOOK_EVERY_MS 30000
#define LOOK_IN_TROUBLE_MS 3000

static void
stop_run(WeirRun *run, int sqlstate, const char *message, const char *detail)
{
	MemoryContext old;

	if (run->stop != NULL)
		return;
	old = MemoryContextSwitchTo(run->mcxt);
	run->stop = palloc0(sizeof(ErrorData));
	run->stop->sqlerrcode = sqlstate;
	run->stop->message = pstrdup(message);
	run->stop->detail = pstrdup(detail);
	run->needs_person = sqlstate == ERRCODE_DATA_EXCEPTION;
	if (run->needs_person)
		run->stop->hint = pstrdup("If the messages are lost for good, run weir.rebuild(view, accept_loss => true).");
	MemoryContextSwitchTo(old);
}

/*
 * Can the topic still serve the run's position?  A topic that was deleted and
 * made again may end before it.
 */
static bool
check_range(WeirRun *run, const WeirPartitionRange *range)
{
	WeirBooks  *books = weir_run_books(run, range->partition);

	if (range->low > books->position)
	{
		stop_run(run, ERRCODE_DATA_EXCEPTION,
				 "messages that were not read yet are gone from the topic",
				 psprintf("Partition %d: the view is at offset %lld, the topic begins at %lld.",
						  range->partition, (long long) books->position,
						  (long long) range->low));
		return false;
	}
	if (range->high < books->position)
	{
		stop_run(run, ERRCODE_DATA_EXCEPTION,
				 "the topic ends before the position of the view",
				 psprintf("Partition %d: the view is at offset %lld, the topic ends at %lld; it was probably made anew.",
						  range->partition, (long long) books->position,
						  (long long) range->high));
		return false;
	}
	return true;
}

/* Where to begin on a partition, for one run. */
static int64
begin_at(WeirRun *run, const WeirPartitionRange *range)
{
	WeirBooks  *books = weir_run_books(run, range->partition);

	if (books->last_offset >= range->low && books->last_offset < books->position)
		return books->last_offset;
	return books->position;
}

static void
assign(WeirFeed *feed)
{
	WeirPosition *positions = palloc(sizeof(WeirPosition) *
									 Max(feed->n_partitions, 1));

	weir_feed_hold_none(feed);
	for (int p = 0; p < feed->n_partitions; p++)
	{
		positions[p].partition = p;
		positions[p].offset = feed->next[p];
	}
	weir_kafka_assign(feed->consumer, positions, feed->n_partitions);
	pfree(positions);
}

static void
make_batch(WeirFeed *feed)
{
	WeirBatch  *batch = &feed->batch;

	batch->natts = feed->desc->natts;
	batch->messages = palloc(sizeof(WeirMessage) * WEIR_BATCH_ROWS);
	batch->verdicts = palloc(sizeof(WeirVerdict) * WEIR_BATCH_ROWS);
	batch->errors = palloc(sizeof(WeirDecodeError) * WEIR_BATCH_ROWS);
	batch->values = palloc0(sizeof(Datum) * WEIR_BATCH_ROWS * batch->natts);
	batch->nulls = palloc(sizeof(bool) * WEIR_BATCH_ROWS * batch->natts);
	memset(batch->nulls, true, sizeof(bool) * WEIR_BATCH_ROWS * batch->natts);
	batch->mcxt = AllocSetContextCreate(feed->mcxt, "pg_weir batch",
										ALLOCSET_DEFAULT_SIZES);
}

/*
 * The decoder extracts what any of the views reads.  What it cannot decode may
 * be good for a view that reads less, and whom a view shares its feed with must
 * not show in its rows: such a view has a decoder of its own, for bad messages.
 */
static void
make_decoder(WeirFeed *feed)
{
	Bitmapset  *wanted = NULL;
	ListCell   *cell;

	foreach(cell, feed->runs)
		wanted = bms_add_members(wanted,
								 ((WeirRun *) lfirst(cell))->plan->wanted);
	MemoryContextReset(feed->decoder_mcxt);
	feed->decoder = weir_decoder_create(feed->stream, feed->desc, wanted,
										feed->decoder_mcxt);
	foreach(cell, feed->runs)
	{
		WeirRun    *run = lfirst(cell);

		run->decoder = NULL;
		if (!bms_equal(run->plan->wanted, wanted))
			run->decoder = weir_decoder_create(feed->stream, feed->desc,
											   run->plan->wanted,
											   feed->decoder_mcxt);
	}
	memset(feed->batch.nulls, true,
		   sizeof(bool) * WEIR_BATCH_ROWS * feed->batch.natts);
}

/* The client may know better than "no answer": no topic, no permission. */
static void
raise_source_error(WeirFeed *feed)
{
	int			n = weir_kafka_poll(feed->consumer, feed->batch.messages,
									WEIR_BATCH_ROWS);

	for (int i = 0; i < n; i++)
		if (feed->batch.messages[i].kind == WEIR_SOURCE_ERROR)
			ereport(ERROR,
					(errcode(feed->batch.messages[i].sqlstate),
					 errmsg("source of \"%s\": %s", feed->name,
							feed->batch.messages[i].payload)));
}

WeirFeed *
weir_feed_open(Oid stream, TupleDesc desc, List *runs)
{
	MemoryContext mcxt = AllocSetContextCreate(TopMemoryContext, "pg_weir feed",
											   ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(mcxt);
	WeirFeed   *feed = palloc0(sizeof(*feed));
	WeirRun    *first = linitial(runs);

	feed->mcxt = mcxt;
	feed->stream = stream;
	feed->name = get_rel_name(stream);
	feed->owner = first->def->owner;
	feed->settings = copyObject(first->def->settings);
	feed->desc = CreateTupleDescCopy(desc);
	feed->decoder_mcxt = AllocSetContextCreate(mcxt, "pg_weir decoder",
											   ALLOCSET_DEFAULT_SIZES);
	PG_TRY();
	{
		WeirPartitionRange *ranges;
		ListCell   *cell;
		int			n;

		make_batch(feed);
		feed->consumer = weir_kafka_open(stream, feed->owner);
		ranges = weir_kafka_ranges(feed->consumer, OPEN_TIMEOUT_MS, &n);
		if (ranges == NULL)
			raise_source_error(feed);
		if (ranges == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION),
					 errmsg("the Kafka broker of \"%s\" does not answer",
							feed->name),
					 errhint("pg_weir tries again by itself.")));
		feed->n_partitions = n;
		feed->next = palloc(sizeof(int64) * Max(n, 1));
		feed->ends = palloc(sizeof(int64) * Max(n, 1));
		feed->begun = DT_NOEND;
		feed->held = palloc0(sizeof(bool) * Max(n, 1));
		feed->heard = palloc0(sizeof(TimestampTz) * Max(n, 1));
		for (int p = 0; p < n; p++)
		{
			feed->next[p] = PG_INT64_MAX;
			feed->ends[p] = ranges[p].high;
		}
		foreach(cell, runs)
		{
			WeirRun    *run = lfirst(cell);
			bool		good = true;

			for (int p = 0; p < n; p++)
				good &= check_range(run, &ranges[p]);
			if (!good)
				continue;
			for (int p = 0; p < n; p++)
				feed->next[p] = Min(feed->next[p], begin_at(run, &ranges[p]));
			feed->runs = lappend(feed->runs, run);
		}
		if (feed->runs != NIL)
		{
			make_decoder(feed);
			assign(feed);
		}
		feed->next_look = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													  LOOK_EVERY_MS);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(old);
		weir_feed_close(feed);
		PG_RE_THROW();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(old);
	return feed;
}

void
weir_feed_close(WeirFeed *feed)
{
	if (feed->consumer != NULL)
		weir_kafka_close(feed->consumer);
	MemoryContextDelete(feed->mcxt);
}

bool
weir_feed_same_kind(const WeirFeed *feed, const WeirRun *run)
{
	return feed->owner == run->def->owner &&
		equal(feed->settings, run->def->settings);
}

bool
weir_feed_accepts(const WeirFeed *feed, const WeirRun *run)
{
	if (!weir_feed_same_kind(feed, run))
		return false;
	for (int p = 0; p < feed->n_partitions; p++)
	{
		int64		position = p < run->n_books ? run->books[p].position : 0;

		if (feed->next[p] > position)
			return false;
	}
	return true;
}

void
weir_feed_add(WeirFeed *feed, WeirRun *run)
{
	MemoryContext old = MemoryContextSwitchTo(feed->mcxt);

	feed->runs = lappend(feed->runs, run);
	make_decoder(feed);
	MemoryContextSwitchTo(old);
}

void
weir_feed_remove(WeirFeed *feed, WeirRun *run)
{
	/* the decoder keeps extracting what only this run read: harmless */
	feed->runs = list_delete_ptr(feed->runs, run);
}

/*
 * The message that a view had last, met again: it must be the same.
 */
static void
check_fingerprints(WeirFeed *feed, const WeirMessage *message)
{
	ListCell   *cell;

	foreach(cell, feed->runs)
	{
		WeirRun    *run = lfirst(cell);
		WeirBooks  *books = weir_run_books(run, message->partition);

		if (books->last_offset == message->offset &&
			books->last_print != weir_fingerprint(message))
			stop_run(run, ERRCODE_DATA_EXCEPTION,
					 "the topic is not the one that the view has read",
					 psprintf("Partition %d: the message at offset %lld has changed.",
							  message->partition, (long long) message->offset));
	}
}

/* The client reconnects by itself; the views say meanwhile what is wrong. */
static void
note_trouble(WeirFeed *feed, const WeirMessage *message)
{
	MemoryContext old;

	feed->in_doubt = true;
	if (feed->trouble != NULL)
		return;
	ereport(LOG,
			(errcode(message->sqlstate),
			 errmsg("source of \"%s\": %s", feed->name, message->payload)));
	old = MemoryContextSwitchTo(feed->mcxt);
	feed->trouble = palloc0(sizeof(ErrorData));
	feed->trouble->sqlerrcode = message->sqlstate;
	feed->trouble->message = pstrdup(message->payload);
	feed->trouble->hint = pstrdup("pg_weir tries again by itself.");
	feed->next_look = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
												  LOOK_IN_TROUBLE_MS);
	MemoryContextSwitchTo(old);
}

/*
 * Assigns anew, at the last messages that the views have.  While the broker does
 * not say what there is, without them: then we come back here.
 */
static void
begin_again(WeirFeed *feed)
{
	WeirPartitionRange *ranges;
	int			n;

	ranges = weir_kafka_ranges(feed->consumer, LOOK_TIMEOUT_MS, &n);
	feed->in_doubt = ranges == NULL;
	for (int p = 0; p < feed->n_partitions; p++)
	{
		ListCell   *cell;

		feed->next[p] = PG_INT64_MAX;
		foreach(cell, feed->runs)
		{
			WeirRun    *run = lfirst(cell);
			int64		at = weir_run_books(run, p)->position;

			if (ranges != NULL && p < n && run->stop == NULL &&
				check_range(run, &ranges[p]))
				at = begin_at(run, &ranges[p]);
			feed->next[p] = Min(feed->next[p], at);
		}
	}
	assign(feed);
}

/* Messages have come since a trouble: are they of the topic that we know? */
static bool
is_doubtful(WeirFeed *feed)
{
	WeirBatch  *batch = &feed->batch;
	bool		answered = false;

	for (int i = 0; i < batch->n; i++)
	{
		const WeirMessage *message = &batch->messages[i];

		if (message->kind != WEIR_SOURCE_ERROR)
			answered = true;
		else if (message->transient)
			note_trouble(feed, message);
		else
			return false;		/* the views stop, and begin again by themselves */
	}
	return feed->in_doubt && answered;
}

int
weir_feed_poll(WeirFeed *feed)
{
	WeirBatch  *batch = &feed->batch;
	TimestampTz now = GetCurrentTimestamp();
	ListCell   *cell;

	MemoryContextReset(batch->mcxt);
	batch->n = weir_kafka_poll(feed->consumer, batch->messages,
							   WEIR_BATCH_ROWS);
	if (is_doubtful(feed))
	{
		begin_again(feed);
		batch->n = 0;
		return 0;
	}
	for (int i = 0; i < batch->n; i++)
	{
		const WeirMessage *message = &batch->messages[i];
		int32		p = message->partition;

		switch (message->kind)
		{
			case WEIR_RECORD:
				if (p < feed->n_partitions)
				{
					foreach(cell, feed->runs)
					{
						WeirRun    *run = lfirst(cell);

						if (p < run->n_books &&
							run->books[p].last_offset == message->offset)
						{
							check_fingerprints(feed, message);
							break;
						}
					}
					feed->next[p] = message->offset + 1;
					feed->heard[p] = now;
					feed->trouble = NULL;
				}
				break;
			case WEIR_END_OF_PARTITION:
				if (p < feed->n_partitions)
					feed->next[p] = Max(feed->next[p], message->offset);
				break;
			case WEIR_GAP:
				foreach(cell, feed->runs)
					if (weir_run_books(lfirst(cell), p)->position <= message->offset ||
						message->offset < 0)
						stop_run(lfirst(cell), ERRCODE_DATA_EXCEPTION,
							 "messages that were not read yet are gone from the topic",
							 psprintf("Partition %d.", p));
				break;
			case WEIR_SOURCE_ERROR:
				if (!message->transient)
					foreach(cell, feed->runs)
						stop_run(lfirst(cell), message->sqlstate,
								 message->payload, "The source says so.");
				break;
		}
	}
	return batch->n;
}

static void
decode_from(WeirFeed *feed, volatile int *at)
{
	WeirBatch  *batch = &feed->batch;

	for (; *at < batch->n; ++*at)
	{
		int			i = *at;

		if (batch->messages[i].kind != WEIR_RECORD)
			continue;
		weir_progress++;
		batch->verdicts[i] = weir_decode(feed->decoder, &batch->messages[i],
										 batch->values + (Size) i * batch->natts,
										 batch->nulls + (Size) i * batch->natts,
										 &batch->errors[i]);
		if (batch->verdicts[i] == WEIR_BAD)
		{
			/* the decoder may reuse its text */
			batch->errors[i].message = pstrdup(batch->errors[i].message);
		}
	}
}

/*
 * Decodes the batch.  Input functions of rarer types raise on bad input: a
 * subtransaction contains it, and the message is bad.
 */
void
weir_feed_decode(WeirFeed *feed)
{
	WeirBatch  *batch = &feed->batch;
	volatile int at = 0;
	WeirOwnerScope scope;

	weir_owner_begin(&scope, feed->owner);
	while (at < batch->n)
	{
		MemoryContext caller = CurrentMemoryContext;
		ResourceOwner owner = CurrentResourceOwner;

		BeginInternalSubTransaction(NULL);
		MemoryContextSwitchTo(batch->mcxt);
		PG_TRY();
		{
			decode_from(feed, &at);
			ReleaseCurrentSubTransaction();
		}
		PG_CATCH();
		{
			ErrorData  *error;

			MemoryContextSwitchTo(batch->mcxt);
			error = CopyErrorData();
			FlushErrorState();
			RollbackAndReleaseCurrentSubTransaction();
			weir_watchdog_rethrow(error);
			batch->verdicts[at] = WEIR_BAD;
			batch->errors[at].sqlstate = error->sqlerrcode;
			batch->errors[at].message = error->message;
			++at;
		}
		PG_END_TRY();
		MemoryContextSwitchTo(caller);
		CurrentResourceOwner = owner;
	}
	weir_owner_end(&scope);
}

void
weir_feed_look(WeirFeed *feed)
{
	WeirPartitionRange *ranges;
	int			n;
	int			old_n = feed->n_partitions;

	ranges = weir_kafka_ranges(feed->consumer, LOOK_TIMEOUT_MS, &n);
	if (ranges != NULL)
		feed->trouble = NULL;
	feed->next_look =
		TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
									feed->trouble ? LOOK_IN_TROUBLE_MS : LOOK_EVERY_MS);
	/* what a client knows is of its last fetch, and with a full queue it has none */
	for (int p = 0; ranges != NULL && p < Min(n, old_n); p++)
		feed->ends[p] = ranges[p].high;
	if (ranges == NULL || n <= old_n)
		return;

	feed->ends = repalloc(feed->ends, sizeof(int64) * n);
	feed->next = repalloc(feed->next, sizeof(int64) * n);
	feed->held = repalloc(feed->held, sizeof(bool) * n);
	memset(feed->held + old_n, 0, sizeof(bool) * (n - old_n));
	feed->heard = repalloc(feed->heard, sizeof(TimestampTz) * n);
	for (int p = old_n; p < n; p++)
	{
		ListCell   *cell;

		feed->next[p] = 0;
		feed->ends[p] = ranges[p].high;
		foreach(cell, feed->runs)
			(void) check_range(lfirst(cell), &ranges[p]);
	}
	feed->n_partitions = n;
	assign(feed);
}
