/*-------------------------------------------------------------------------
 *
 * results.c
 *	  Rows of v: what an interval has changed, and what the changelog says of it.
 *
 * Receives outcomes, one for each row that v shall have, or have no longer.  The
 * group that holds a row knows its TID, which costs a tenth of finding it
 * through an index.  A row that has none yet is new.
 *
 * Where there is a changelog, its readers have seen the rows that are `emitted`,
 * and what changes of those is netted:
 *
 *	was emitted	shall be	unlike the old
 *	yes			yes			no				nothing, not even in v
 *	yes			yes			yes				-1 old, +1 new
 *	yes			no							-1 old
 *	no			yes							+1 new; v only if unlike the old
 *	no			no							nothing; v as without a changelog
 *
 * The row that is taken back is read from v just before it changes there, so it
 * is the very row that was given.  No old row is read without a changelog, unless
 * the outcome is `unsure`: it may be that nothing has changed.
 *
 * Nothing is remembered here: the new TIDs go to the caller's placements, which
 * it applies once the transaction has committed.
 *
 *-------------------------------------------------------------------------
 */
#include "emit/emit.h"

#include "access/tableam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "emit/row_image.h"
#include "emit/row_writer.h"
#include "miscadmin.h"

typedef struct Results
{
	Relation	v;
	WeirRowWriter *writer;
	WeirChangelog *changelog;	/* or NULL */
	TupleTableSlot *old;		/* a row of v as it was */

	/*
	 * Of the cluster at hand: rows that are given once all are taken back.  A
	 * merge of sessions says of each that it is no more before it says what
	 * has become of them.
	 */
	int			cluster;
	int			n_held;
	int			max_held;		/* slots made */
	TupleTableSlot **held;
	WeirReason *held_reasons;
} Results;

/* As much as the log of a thousand rows. */
#define PORTION_BYTES (256 * 1024)

/*
 * The WAL writer writes while we go on, so that a large commit does not leave all
 * of it to its end; it flushes by portions of wal_writer_flush_after.  Flushing here
 * instead took a third of the time of a commit of 10,000 rows, waiting for a disk
 * that needs mostly the same for a little and for much.
 */
void
weir_flush_in_portions(void)
{
	static XLogRecPtr told = InvalidXLogRecPtr;

	if (XactLastRecEnd > Max(told, GetFlushRecPtr(NULL)) + PORTION_BYTES)
	{
		XLogSetAsyncXactLSN(XactLastRecEnd);
		told = XactLastRecEnd;
	}
}

bool
weir_group_exists(const WeirGroupTable *table, const WeirGroup *group)
{
	int64		rows = weir_group_rows(table, group);

	if (rows < 0)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("more rows were deleted than inserted in a group of the view"),
				 errdetail("The group has %lld rows.", (long long) rows),
				 errhint("Run weir.rebuild on the view.")));
	return rows > 0 || weir_group_table_format(table)->n == 0;
}

/* Is the row of outcome i the first of its page?  Then tidies that. */
static void
tidy_before(Relation v, const WeirOutcome *outcomes, int i, int n)
{
	ItemPointer tid = &outcomes[i].holder->result_tid;
	BlockNumber block = ItemPointerGetBlockNumberNoCheck(tid);
	int			end = i + 1;

	if (i > 0 && block ==
		ItemPointerGetBlockNumberNoCheck(&outcomes[i - 1].holder->result_tid))
		return;
	while (end < n && block ==
		   ItemPointerGetBlockNumberNoCheck(&outcomes[end].holder->result_tid))
		end++;
	weir_tidy(v, tid, end - i);
}

weir_noreturn
static void
row_has_vanished(Relation v)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("a row of \"%s\" that pg_weir wrote is gone or was changed by somebody else",
					RelationGetRelationName(v)),
			 errhint("Run weir.rebuild on the view.")));
}

/* Puts a row, or none, where there is one, or none, now. */
static void
write_row(Results *results, TupleTableSlot *row, WeirPlacement *at)
{
	bool		placed = ItemPointerIsValid(&at->tid);
	bool		done = true;

	if (row != NULL && placed)
		done = weir_update_row(results->writer, &at->tid, row);
	else if (row != NULL)
		weir_insert_row(results->writer, row, &at->tid);
	else if (placed)
		done = weir_delete_row(results->writer, &at->tid);
	if (!done)
		row_has_vanished(results->v);
}

/*
 * What becomes of an open window is an update, or a delete when nothing is given
 * for what is taken back: by which statement of the source, or by HAVING, does
 * not matter to who reads along.  Closed ones are revised for a reason.
 */
static WeirReason
reason_of(const Results *results, const WeirOutcome *outcome, bool gives)
{
	bool		closed = outcome->has_window &&
	outcome->upper <= weir_changelog_watermark(results->changelog);

	if (!closed && (outcome->reason == WEIR_REASON_UPDATE ||
					outcome->reason == WEIR_REASON_DELETE))
		return gives ? WEIR_REASON_UPDATE : WEIR_REASON_DELETE;
	return outcome->reason;
}

static void
hold(Results *results, WeirReason reason, TupleTableSlot *row)
{
	if (results->n_held == results->max_held)
	{
		int			n = Max(results->max_held * 2, 8);

		results->held = results->held == NULL ?
			palloc(sizeof(TupleTableSlot *) * n) :
			repalloc(results->held, sizeof(TupleTableSlot *) * n);
		results->held_reasons = results->held_reasons == NULL ?
			palloc(sizeof(WeirReason) * n) :
			repalloc(results->held_reasons, sizeof(WeirReason) * n);
		for (int i = results->max_held; i < n; i++)
			results->held[i] =
				MakeSingleTupleTableSlot(RelationGetDescr(results->v),
										 &TTSOpsVirtual);
		results->max_held = n;
	}
	ExecCopySlot(results->held[results->n_held], row);
	results->held_reasons[results->n_held++] = reason;
}

/* The cluster is over. */
static void
give_held(Results *results)
{
	for (int i = 0; i < results->n_held; i++)
	{
		weir_changelog_add(results->changelog, +1, results->held_reasons[i],
						   results->held[i]);
		ExecClearTuple(results->held[i]);
	}
	results->n_held = 0;
}

/*
 * The same as write_row(), with a look at the old row: see the table at the top.
 * Without a changelog nothing was emitted, nor shall be.
 */
static void
compare_and_write(Results *results, const WeirOutcome *outcome,
				  TupleTableSlot *row, WeirPlacement *at)
{
	bool		placed = ItemPointerIsValid(&at->tid);
	bool		tells = results->changelog != NULL;
	bool		was_emitted = tells && placed && outcome->was_emitted;
	bool		emits = tells && row != NULL && outcome->emits;
	WeirReason	reason = outcome->reason;
	bool		same = false;

	if (outcome->cluster != results->cluster)
		give_held(results);
	results->cluster = outcome->cluster;
	if (was_emitted || emits)
		reason = reason_of(results, outcome, emits);

	if (placed && (was_emitted || emits || (row != NULL && outcome->unsure)))
	{
		if (!weir_fetch_row(results->writer, &at->tid, results->old))
			row_has_vanished(results->v);
		same = row != NULL && weir_row_image_equal(results->old, row);
		if (was_emitted && !(emits && same))
			weir_changelog_add(results->changelog, -1, reason, results->old);
		ExecClearTuple(results->old);
	}
	if (emits && !(was_emitted && same))
	{
		if (outcome->cluster != 0)
			hold(results, reason, row);
		else
			weir_changelog_add(results->changelog, +1, reason, row);
	}
	if (!same)
		write_row(results, row, at);
}

static void
end(Results *results)
{
	give_held(results);
	weir_row_writer_end(results->writer);
	ExecDropSingleTupleTableSlot(results->old);
	for (int i = 0; i < results->max_held; i++)
		ExecDropSingleTupleTableSlot(results->held[i]);
}

void
weir_write_results(Relation v, WeirProjector *projector,
				   const WeirGroupTable *table,
				   const WeirOutcome *outcomes, int n,
				   WeirChangelog *changelog, WeirPlacement *placements)
{
	Results		results = {0};

	results.v = v;
	results.changelog = changelog;
	results.writer = weir_row_writer_begin(v);
	results.old = table_slot_create(v, NULL);
	for (int i = 0; i < n; i++)
	{
		const WeirOutcome *outcome = &outcomes[i];
		TupleTableSlot *row;

		if ((i & 1023) == 0)
			CHECK_FOR_INTERRUPTS();
		if ((i & 127) == 127)
			weir_flush_in_portions();
		weir_progress++;
		if (i + WEIR_GROUPS_AHEAD < n)
			weir_group_prefetch(outcomes[i + WEIR_GROUPS_AHEAD].holder);
		placements[i].tid = outcome->holder->result_tid;
		if (ItemPointerIsValid(&placements[i].tid))
			tidy_before(v, outcomes, i, n);
		row = weir_project(projector, table, outcome);
		if (changelog == NULL && !outcome->unsure)
			write_row(&results, row, &placements[i]);
		else
			compare_and_write(&results, outcome, row, &placements[i]);
		weir_projector_reset(projector);
	}
	end(&results);
}
