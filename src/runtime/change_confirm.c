/*-------------------------------------------------------------------------
 *
 * change_confirm.c
 *	  What the replication slot may forget.
 *
 * The slot is told how far all views are, after a transaction that has recorded it
 * (slot_life.c) is flushed.  A view that has news counts with what it has
 * committed; one without with where the feed is, since nothing between concerns
 * it; one that is paused or put aside with where it will go on, until that is
 * too much WAL and it is given up.
 *
 *-------------------------------------------------------------------------
 */
#include "runtime/change_feed.h"

#include "access/xact.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

/* While nothing of interest happens: confirm after so much WAL, so often. */
#define CONFIRM_BYTES (1024 * 1024)
#define CONFIRM_US (10 * USECS_PER_SEC)

XLogRecPtr
weir_changes_confirmable(WeirWorker *worker, List *committed)
{
	WeirChangeFeed *feed = worker->changes;
	XLogRecPtr	lsn = feed->position;
	ListCell   *cell;

	if (feed->reader == NULL)
		return InvalidXLogRecPtr;
	foreach(cell, worker->members)
	{
		WeirMember *member = lfirst(cell);
		WeirRun    *run = member->run;

		/* what it stalls before is to be told again when it is resumed */
		if (run != NULL && run->limit != 0)
			lsn = Min(lsn, run->limit);
		if (run == NULL || (!run->joined && run->n_books > 0))
		{
			/* paused or put aside; if it has no position, it holds nothing */
			if (!XLogRecPtrIsInvalid(member->held_at) &&
				weir_changes_holds(feed, member))
				lsn = Min(lsn, member->held_at);
		}
		else if (!run->joined || run->backfill != NULL)
			continue;			/* after a crash it begins again */
		else if (!list_member_ptr(committed, run) && weir_run_has_news(run))
			lsn = Min(lsn, run->books[0].exists ?
					  (XLogRecPtr) run->books[0].committed :
					  (XLogRecPtr) run->books[0].start);
	}
	return lsn > feed->recorded ? lsn : InvalidXLogRecPtr;
}

void
weir_changes_confirm(WeirWorker *worker, XLogRecPtr lsn)
{
	WeirChangeFeed *feed = worker->changes;

	if (XLogRecPtrIsInvalid(lsn))
		return;
	feed->recorded = lsn;
	feed->next_confirm = GetCurrentTimestamp() + CONFIRM_US;
	WEIR_FAULT("changes-confirm");
	if (feed->reader != NULL)
		weir_wal_confirm(feed->reader, lsn);
}

/* In a transaction of its own. */
static void
confirm_now(WeirWorker *worker, XLogRecPtr lsn)
{
	MemoryContext caller = CurrentMemoryContext;

	PG_TRY();
	{
		StartTransactionCommand();
		PushActiveSnapshot(GetTransactionSnapshot());
		weir_slot_record(lsn);
		PopActiveSnapshot();
		CommitTransactionCommand();
		MemoryContextSwitchTo(caller);
		weir_changes_confirm(worker, lsn);
	}
	PG_CATCH();
	{
		/* a lock, or a full disk: the next one will do */
		ErrorData  *error = weir_catch(caller);

		ereport(LOG,
				(errcode(error->sqlerrcode),
				 errmsg("could not confirm changes: %s", error->message)));
	}
	PG_END_TRY();
}

const char *
weir_rebuild_hint(const WeirViewDef *def)
{
	if (def->source_kind == WEIR_SOURCE_STREAM)
		return "Run weir.rebuild(view, accept_loss => true): a push stream keeps no rows.";
	if (def->options.append_only == WEIR_APPEND_ONLY_IGNORE)
		return "Run weir.rebuild(view, accept_loss => true): it computes the view from the rows that the table still has.";
	return "Run weir.rebuild(view).";
}

static void
give_up(WeirWorker *worker, WeirMember *member)
{
	ErrorData	error = {
		.elevel = ERROR,
		.sqlerrcode = ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
		.message = "the view held back more WAL than weir.max_retained_wal",
		.detail = psprintf("It stands at %X/%X.",
						   LSN_FORMAT_ARGS(member->held_at)),
		.hint = unconstify(char *, weir_rebuild_hint(member->def))
	};
	MemoryContext caller = CurrentMemoryContext;

	PG_TRY();
	{
		weir_slot_give_up(member->def->id);
		member->held_at = InvalidXLogRecPtr;
		weir_members_record_stall(member, &error);
	}
	PG_CATCH();
	{
		(void) weir_catch(caller);
	}
	PG_END_TRY();
}

void
weir_changes_tend(WeirWorker *worker)
{
	WeirChangeFeed *feed = worker->changes;
	TimestampTz now = GetCurrentTimestamp();
	uint64		limit = (uint64) weir_max_retained_wal_mb * 1024 * 1024;
	XLogRecPtr	lsn;
	ListCell   *cell;

	if (now < feed->next_confirm || feed->reader == NULL)
		return;
	feed->next_confirm = now + CONFIRM_US;
	foreach(cell, worker->members)
	{
		WeirMember *member = lfirst(cell);

		if (member->run == NULL && !XLogRecPtrIsInvalid(member->held_at) &&
			weir_changes_holds(feed, member) &&
			weir_wal_end() - Max(member->held_at, feed->recorded) > limit)
			give_up(worker, member);
	}
	lsn = weir_changes_confirmable(worker, NIL);
	if (!XLogRecPtrIsInvalid(lsn) && lsn - feed->recorded >= CONFIRM_BYTES)
		confirm_now(worker, lsn);
	/* a standby had not got so far when the slot was to be told */
	else if (weir_wal_confirmed(feed->reader) < feed->recorded)
		weir_wal_confirm(feed->reader, feed->recorded);
}
