/*-------------------------------------------------------------------------
 *
 * change_sources.c
 *	  From the reader's buffer into the views, source by source.
 *
 * A source is a relation that views name in FROM; it has a batch, and the views
 * that read it.  Changes are taken out of the buffer outside of any historic
 * snapshot and sorted into the batches, an update as its old row taken back and
 * its new one added; a batch that is full, or whose chunk of the buffer goes, is
 * folded into the views of the source.  A view that fails is put aside, and the
 * others go on.
 *
 * What a transaction does that is no row comes in between, in its order: TRUNCATE,
 * and what a source cannot be followed through (WeirBroken), which stops the
 * views that are concerned before that transaction.
 *
 *-------------------------------------------------------------------------
 */
#include "runtime/change_feed.h"

#include "fdw/stream_message.h"
#include "miscadmin.h"
#include "runtime/backfill.h"
#include "runtime/watchdog.h"
#include "utils/memutils.h"

/* -------------------------------------------------------------- the sources */

static WeirChangeSource *
find_source(WeirChangeFeed *feed, Oid relid)
{
	ListCell   *cell;

	if (feed->last != NULL && feed->last->relid == relid)
		return feed->last;
	foreach(cell, feed->sources)
	{
		WeirChangeSource *source = lfirst(cell);

		if (source->relid == relid)
			return feed->last = source;
	}
	return NULL;
}

static void
make_batch(WeirBatch *batch, int natts)
{
	batch->natts = natts;
	batch->origins = palloc(sizeof(WeirRowOrigin) * WEIR_BATCH_ROWS);
	batch->values = palloc0(sizeof(Datum) * WEIR_BATCH_ROWS * natts);
	batch->nulls = palloc(sizeof(bool) * WEIR_BATCH_ROWS * natts);
	memset(batch->nulls, true, sizeof(bool) * WEIR_BATCH_ROWS * natts);
	batch->mcxt = AllocSetContextCreate(CurrentMemoryContext, "pg_weir batch",
										ALLOCSET_DEFAULT_SIZES);
}

static void
free_batch(WeirBatch *batch)
{
	pfree(batch->origins);
	pfree(batch->values);
	pfree(batch->nulls);
	MemoryContextDelete(batch->mcxt);
}

/*
 * Columns have come since the others joined, or one that no view read then has
 * another type now.  Pushed rows are taken apart by these types.
 */
static bool
is_older(TupleDesc known, TupleDesc desc)
{
	if (known->natts != desc->natts)
		return known->natts < desc->natts;
	for (int i = 0; i < desc->natts; i++)
		if (TupleDescAttr(known, i)->atttypid != TupleDescAttr(desc, i)->atttypid)
			return true;
	return false;
}

void
weir_changes_add(WeirChangeFeed *feed, WeirRun *run, TupleDesc desc)
{
	MemoryContext old = MemoryContextSwitchTo(feed->mcxt);
	WeirChangeSource *source = find_source(feed, run->def->source);

	if (source == NULL)
	{
		source = palloc0(sizeof(*source));
		source->relid = run->def->source;
		source->is_stream = run->def->source_kind == WEIR_SOURCE_STREAM;
		feed->sources = lappend(feed->sources, source);
	}
	if (source->desc == NULL || is_older(source->desc, desc))
	{
		if (source->desc != NULL)
		{
			FreeTupleDesc(source->desc);
			free_batch(&source->batch);
		}
		source->desc = CreateTupleDescCopy(desc);
		make_batch(&source->batch, desc->natts);
	}
	source->wanted = bms_add_members(source->wanted, run->plan->wanted);
	source->runs = lappend(source->runs, run);
	MemoryContextSwitchTo(old);
	feed->watch_stale = true;
}

void
weir_changes_leave(WeirWorker *worker, WeirRun *run)
{
	WeirChangeFeed *feed = worker->changes;
	WeirChangeSource *source = find_source(feed, run->def->source);

	if (run->backfill != NULL)
		weir_backfill_end(run->backfill);
	run->backfill = NULL;
	if (source == NULL)
		return;
	source->runs = list_delete_ptr(source->runs, run);
	feed->watch_stale = true;
	/* a source without views goes when the reader is told what is watched */
}

static void
drop_unread_sources(WeirChangeFeed *feed)
{
	ListCell   *cell;

	foreach(cell, feed->sources)
	{
		WeirChangeSource *source = lfirst(cell);

		if (source->runs != NIL)
			continue;
		feed->sources = foreach_delete_current(feed->sources, cell);
		feed->last = NULL;
		FreeTupleDesc(source->desc);
		free_batch(&source->batch);
		pfree(source);
	}
}

void
weir_changes_tell_watched(WeirChangeFeed *feed)
{
	List	   *watched = NIL;
	ListCell   *cell;

	drop_unread_sources(feed);
	foreach(cell, feed->sources)
	{
		WeirChangeSource *source = lfirst(cell);
		WeirWatched *watch = palloc0(sizeof(*watch));

		watch->relid = source->relid;
		watch->wanted = source->wanted;
		watch->is_stream = source->is_stream;
		watched = lappend(watched, watch);
	}
	weir_wal_watch(feed->reader, watched);
	feed->watch_stale = false;
}

/*
 * What the values of a batch may take that are not where they were read, but had
 * to be decompressed: few rows can take much.
 */
#define BATCH_BYTES (8 * 1024 * 1024)

/* ------------------------------------------------------------------- taking */

/* Folds the batch of a source into its views; those that fail are put aside. */
static void
flush(WeirWorker *worker, WeirChangeSource *source)
{
	List	   *runs;
	ListCell   *cell;

	if (source->batch.n == 0)
		return;
	runs = list_copy(source->runs);
	foreach(cell, runs)
	{
		WeirRun    *run = lfirst(cell);

		weir_members_apply_settings(worker, run->def->settings);
		weir_members_fold(worker, run, &source->batch);
	}
	list_free(runs);
	source->batch.n = 0;
	MemoryContextReset(source->batch.mcxt);
}

static void
flush_all(WeirWorker *worker)
{
	ListCell   *cell;

	foreach(cell, worker->changes->sources)
		flush(worker, lfirst(cell));
}

/* Makes room for one more row. */
static inline int
next_row(WeirWorker *worker, WeirChangeSource *source,
		 const WeirTransaction *txn, int64 diff, bool inserted, uint32 had)
{
	WeirBatch  *batch = &source->batch;
	WeirRowOrigin *origin;

	if (batch->n == WEIR_BATCH_ROWS ||
		MemoryContextMemAllocated(batch->mcxt, false) > BATCH_BYTES)
		flush(worker, source);
	origin = &batch->origins[batch->n];
	origin->diff = diff;
	origin->inserted = inserted;
	origin->had = had;
	origin->begin = txn->begin;
	origin->end = txn->end;
	origin->xid = txn->xid;
	return batch->n;
}

static inline bool
fill_row(const WeirChange *change, int i, bool old, WeirBatch *batch, int row)
{
	return weir_change_row(change, i, old,
						   batch->values + (Size) row * batch->natts,
						   batch->nulls + (Size) row * batch->natts);
}

static void
add_rows(WeirWorker *worker, WeirChangeSource *source,
		 const WeirChange *change, int i)
{
	WeirBatch  *batch = &source->batch;
	bool		inserted = change->kind == WEIR_CHANGE_INSERT;
	uint32		had = change->kind == WEIR_CHANGE_UPDATE ? WEIR_GROUP_HAD_UPDATE :
		change->kind == WEIR_CHANGE_DELETE ? WEIR_GROUP_HAD_DELETE : 0;
	MemoryContext old = MemoryContextSwitchTo(batch->mcxt);

	if (change->kind != WEIR_CHANGE_INSERT)
	{
		int			row = next_row(worker, source, change->txn, -1, false, had);

		/* an update that left all that we want alone has no old row */
		if (!fill_row(change, i, true, batch, row))
		{
			MemoryContextSwitchTo(old);
			return;
		}
		batch->n++;
	}
	if (change->kind != WEIR_CHANGE_DELETE)
	{
		int			row = next_row(worker, source, change->txn, 1, inserted, had);

		if (fill_row(change, i, false, batch, row))
			batch->n++;
	}
	MemoryContextSwitchTo(old);
}

/* Somebody wrote a message in our name: its rows are not rows of the stream. */
static void
count_forgery(WeirChangeSource *source, const WeirChange *change)
{
	ListCell   *cell;

	ereport(LOG,
			(errcode(ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION),
			 errmsg("a message for a push stream was not written by pg_weir and is ignored"),
			 errdetail("In transaction %u, which ends at %X/%X.",
					   change->txn->xid, LSN_FORMAT_ARGS(change->txn->end))));
	foreach(cell, source->runs)
	{
		WeirRun    *run = lfirst(cell);

		if (change->txn->end > (XLogRecPtr) run->books[0].position)
			run->books[0].tombstones++;
	}
}

/* False for a forgery.  Raises when the rows cannot be read. */
static bool
read_pushed(WeirWorker *worker, WeirChangeSource *source,
			const WeirChange *change)
{
	WeirBatch  *batch = &source->batch;
	WeirStreamRows rows;

	if (!weir_stream_message_open(&rows, source->relid, change->txn->xid,
								  change->message, change->message_len))
		return false;
	for (;;)
	{
		int			row = next_row(worker, source, change->txn, 1, true, 0);

		if (!weir_stream_message_next(&rows, source->desc,
									  batch->values + (Size) row * batch->natts,
									  batch->nulls + (Size) row * batch->natts))
			return true;
		batch->n++;
	}
}

/* Does the view still have to learn of this transaction? */
static bool
is_news(const WeirRun *run, const WeirTransaction *txn)
{
	return txn->end > (XLogRecPtr) run->books[0].position &&
		(run->limit == 0 || txn->end <= run->limit) &&
		(run->backfill == NULL ||
		 !weir_backfill_sees(run->backfill, txn->xid, txn->end));
}

/*
 * Rows that were pushed into a stream.  If they cannot be read, its views stop
 * before that transaction, and nobody else's.
 */
static void
add_pushed(WeirWorker *worker, WeirChangeSource *source,
		   const WeirChange *change)
{
	MemoryContext caller = CurrentMemoryContext;
	ErrorData  *volatile error = NULL;
	List	   *runs;
	ListCell   *cell;

	PG_TRY();
	{
		if (!read_pushed(worker, source, change))
			count_forgery(source, change);
	}
	PG_CATCH();
	{
		error = weir_catch(caller);
	}
	PG_END_TRY();
	if (error == NULL)
		return;

	runs = list_copy(source->runs);
	foreach(cell, runs)
		if (is_news(lfirst(cell), change->txn))
			weir_members_stall(worker, lfirst(cell), error, change->txn->begin);
	list_free(runs);
}

/* Views that may only see inserts have seen something else. */
static void
stop_append_only(WeirWorker *worker, WeirChangeSource *source,
				 const WeirTransaction *txn, const char *message)
{
	List	   *runs = list_copy(source->runs);
	ListCell   *cell;

	foreach(cell, runs)
	{
		WeirRun    *run = lfirst(cell);
		ErrorData	error = {
			.elevel = ERROR,
			.sqlerrcode = ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
			.message = unconstify(char *, message),
			.detail = psprintf("By transaction %u, which ends at %X/%X.",
							   txn->xid, LSN_FORMAT_ARGS(txn->end)),
			.hint = "Run weir.rebuild(view), or create the view without weir.append_only."
		};

		if (run->def->options.append_only == WEIR_APPEND_ONLY_ERROR &&
			is_news(run, txn))
			weir_members_stall(worker, run, &error, txn->begin);
	}
	list_free(runs);
}

static bool
has_append_only(const WeirChangeSource *source)
{
	ListCell   *cell;

	foreach(cell, source->runs)
		if (((WeirRun *) lfirst(cell))->def->options.append_only ==
			WEIR_APPEND_ONLY_ERROR)
			return true;
	return false;
}

static void
truncate_source(WeirWorker *worker, WeirChangeSource *source,
				const WeirTransaction *txn)
{
	List	   *runs;
	ListCell   *cell;

	flush(worker, source);
	stop_append_only(worker, source, txn,
					 "the source was truncated, but the view is append-only");
	runs = list_copy(source->runs);
	foreach(cell, runs)
	{
		WeirRun    *run = lfirst(cell);

		if (!is_news(run, txn) ||
			run->def->options.append_only != WEIR_APPEND_ONLY_OFF)
			continue;
		if (run->backfill != NULL)
			weir_backfill_discard(run->backfill);
		weir_members_apply_settings(worker, run->def->settings);
		weir_members_fold(worker, run, NULL);
	}
	list_free(runs);
}

static bool
is_concerned(const WeirRun *run, const WeirBroken *broken)
{
	WeirAppendOnly append_only = run->def->options.append_only;

	if (append_only == WEIR_APPEND_ONLY_IGNORE && !broken->even_append_only)
		return false;
	/* one that takes no changes of rows has its own word for it */
	if (broken->missing != NULL)
		return append_only == WEIR_APPEND_ONLY_OFF &&
			bms_overlap(run->plan->wanted, broken->missing);
	return true;
}

/* Sources that cannot be followed through a transaction: their views stop. */
static void
stop_broken(WeirWorker *worker, const WeirTransaction *txn)
{
	ListCell   *cell;

	foreach(cell, txn->broken)
	{
		const WeirBroken *broken = lfirst(cell);
		WeirChangeSource *source = find_source(worker->changes, broken->source);
		List	   *runs = source ? list_copy(source->runs) : NIL;
		ListCell   *at;

		if (source != NULL)
			flush(worker, source);
		foreach(at, runs)
		{
			WeirRun    *run = lfirst(at);
			ErrorData	error = {
				.elevel = ERROR,
				.sqlerrcode = broken->sqlstate,
				.message = broken->message,
				.detail = broken->detail,
				.hint = broken->hint
			};

			if (!list_member_ptr(source->runs, run) || !is_news(run, txn) ||
				!is_concerned(run, broken))
				continue;
			weir_members_stall(worker, run, &error, txn->begin);
		}
		list_free(runs);
	}
}

static void
take_change(WeirWorker *worker, const WeirChange *change)
{
	for (int i = 0; i < change->n_sources; i++)
	{
		WeirChangeSource *source = find_source(worker->changes,
											   change->sources[i]);

		if (source == NULL || source->runs == NIL)
			continue;
		switch (change->kind)
		{
			case WEIR_CHANGE_UPDATE:
			case WEIR_CHANGE_DELETE:
				if (has_append_only(source))
					stop_append_only(worker, source, change->txn,
									 "a row of the source was updated or deleted, but the view is append-only");
				add_rows(worker, source, change, i);
				break;
			case WEIR_CHANGE_INSERT:
				add_rows(worker, source, change, i);
				break;
			case WEIR_CHANGE_TRUNCATE:
				truncate_source(worker, source, change->txn);
				break;
			case WEIR_CHANGE_PUSHED:
				add_pushed(worker, source, change);
				break;
			case WEIR_CHANGE_END:
				break;
		}
	}
}

/* Takes everything out of the reader's buffer. */
void
weir_changes_take(WeirWorker *worker)
{
	WeirChangeFeed *feed = worker->changes;
	const WeirTransaction *stopped = NULL;
	WeirChange	change;

	weir_watchdog_start();
	while (weir_wal_next_chunk(feed->reader))
	{
		CHECK_FOR_INTERRUPTS();
		while (weir_wal_next(feed->reader, &change))
		{
			if (change.txn->broken != NIL && change.txn != stopped)
			{
				stopped = change.txn;
				stop_broken(worker, change.txn);
			}
			take_change(worker, &change);
		}
		flush_all(worker);		/* the chunk goes */
	}
	weir_watchdog_stop();
}
