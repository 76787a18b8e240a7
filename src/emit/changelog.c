/*-------------------------------------------------------------------------
 *
 * changelog.c
 *	  Rows of <view>_changes: what was said of v's rows, and is taken back.
 *
 * Receives rows of v with a sign and a reason, in the order in which readers
 * shall see them, and numbers them.  The caller has netted them: a row that did
 * not change is not said twice.  The columns are
 *
 *	weir_seq		the order; a row is never given a number that another one had
 *	weir_diff		+1 a row of v, -1 the same row, taken back
 *	weir_reason		why
 *	weir_watermark	of the view, as of the commit
 *	weir_at			of the commit
 *	...				the columns of v
 *
 * The table is the user's: he may index, publish and read it as he likes.  We
 * append, and delete what is older than its retention from the front.
 *
 *-------------------------------------------------------------------------
 */
#include "emit/emit.h"

#include "access/genam.h"
#include "access/relation.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "catalog/pg_type.h"
#include "catalog/weir_catalog.h"
#include "commands/async.h"
#include "emit/row_writer.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

/* Columns are numbered from 1, places in arrays from 0. */
#define PLACE(column) ((column) - 1)

static const struct
{
	const char *name;
	Oid			type;
}			columns_of_ours[WEIR_CHANGES_OWN] = {
	[PLACE(WEIR_CHANGES_SEQ)] = {"weir_seq", INT8OID},
	[PLACE(WEIR_CHANGES_DIFF)] = {"weir_diff", INT2OID},
	[PLACE(WEIR_CHANGES_REASON)] = {"weir_reason", TEXTOID},
	[PLACE(WEIR_CHANGES_WATERMARK)] = {"weir_watermark", TIMESTAMPTZOID},
	[PLACE(WEIR_CHANGES_AT)] = {"weir_at", TIMESTAMPTZOID}
};

static const char *const reasons[] = {
	[WEIR_REASON_FINAL] = "final",
	[WEIR_REASON_LATE] = "late",
	[WEIR_REASON_UPDATE] = "update",
	[WEIR_REASON_DELETE] = "delete",
	[WEIR_REASON_REBUILD] = "rebuild"
};

struct WeirChangelog
{
	Relation	rel;
	WeirRowWriter *writer;
	TupleTableSlot *slot;		/* the row at hand */
	int			natts;			/* of v */
	int64		seq;
	TimestampTz watermark;
	Datum		reasons[lengthof(reasons)]; /* as text */
};

static Relation
open_changelog(Oid relid)
{
	Relation	rel = try_relation_open(relid, RowExclusiveLock);

	if (rel == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the changelog of the view is gone"),
				 errhint("Drop the view and create it again.")));
	return rel;
}

static bool
same_column(Form_pg_attribute att, Oid type, int32 typmod)
{
	return !att->attisdropped && att->atttypid == type &&
		att->atttypmod == typmod;
}

/*
 * Its owner may alter it.  A column more has no value that we could give it, and
 * one less is a change that nobody sees.  One that was added and dropped again
 * is no harm.
 */
static void
check_shape(Relation rel, TupleDesc columns)
{
	TupleDesc	desc = RelationGetDescr(rel);
	int			natts = WEIR_CHANGES_OWN + columns->natts;
	bool		same = desc->natts >= natts;

	for (int i = 0; same && i < WEIR_CHANGES_OWN; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		same = same_column(att, columns_of_ours[i].type, -1) &&
			strcmp(NameStr(att->attname), columns_of_ours[i].name) == 0;
	}
	for (int i = 0; same && i < columns->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(columns, i);

		same = same_column(TupleDescAttr(desc, WEIR_CHANGES_OWN + i),
						   att->atttypid, att->atttypmod);
	}
	for (int i = natts; same && i < desc->natts; i++)
		same = TupleDescAttr(desc, i)->attisdropped;
	if (!same)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the columns of the changelog \"%s\" were changed",
						RelationGetRelationName(rel)),
				 errdetail("They are weir_seq, weir_diff, weir_reason, weir_watermark, weir_at, and then those of the view."),
				 errhint("Change them back, and then run weir.resume on the view.  If one was dropped, drop the view and create it again.")));
	weir_check_alone(rel, "weir.resume");
	if (rel->rd_rel->relpersistence != RELPERSISTENCE_PERMANENT)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the changelog \"%s\" has become unlogged",
						RelationGetRelationName(rel)),
				 errdetail("A crash would empty it while the view stays."),
				 errhint("Run ALTER TABLE ... SET LOGGED, and then weir.resume on the view.")));
}

WeirChangelog *
weir_changelog_begin(Oid relid, TupleDesc columns, int64 seq,
					 TimestampTz watermark, TimestampTz at)
{
	WeirChangelog *changelog = palloc0(sizeof(*changelog));
	TupleTableSlot *slot;

	changelog->rel = open_changelog(relid);
	check_shape(changelog->rel, columns);
	changelog->writer = weir_row_writer_begin(changelog->rel);
	changelog->natts = columns->natts;
	changelog->seq = seq;
	changelog->watermark = watermark;
	for (int i = 0; i < lengthof(reasons); i++)
		changelog->reasons[i] = CStringGetTextDatum(reasons[i]);

	/* what all rows of a commit have in common is filled in once */
	slot = MakeSingleTupleTableSlot(RelationGetDescr(changelog->rel),
									&TTSOpsVirtual);
	memset(slot->tts_isnull, true,
		   sizeof(bool) * RelationGetDescr(changelog->rel)->natts);
	memset(slot->tts_isnull, false, sizeof(bool) * WEIR_CHANGES_OWN);
	slot->tts_values[PLACE(WEIR_CHANGES_WATERMARK)] = TimestampTzGetDatum(watermark);
	slot->tts_isnull[PLACE(WEIR_CHANGES_WATERMARK)] = watermark == DT_NOBEGIN;
	slot->tts_values[PLACE(WEIR_CHANGES_AT)] = TimestampTzGetDatum(at);
	changelog->slot = slot;
	return changelog;
}

TimestampTz
weir_changelog_watermark(const WeirChangelog *changelog)
{
	return changelog->watermark;
}

void
weir_changelog_add(WeirChangelog *changelog, int diff, WeirReason reason,
				   TupleTableSlot *row)
{
	TupleTableSlot *slot = changelog->slot;

	slot_getallattrs(row);
	ExecClearTuple(slot);
	slot->tts_values[PLACE(WEIR_CHANGES_SEQ)] = Int64GetDatum(changelog->seq++);
	slot->tts_values[PLACE(WEIR_CHANGES_DIFF)] = Int16GetDatum(diff);
	slot->tts_values[PLACE(WEIR_CHANGES_REASON)] = changelog->reasons[reason];
	memcpy(slot->tts_values + WEIR_CHANGES_OWN, row->tts_values,
		   sizeof(Datum) * changelog->natts);
	memcpy(slot->tts_isnull + WEIR_CHANGES_OWN, row->tts_isnull,
		   sizeof(bool) * changelog->natts);
	ExecStoreVirtualTuple(slot);
	/* copies what belongs to v's buffers and to the projection */
	weir_insert_row(changelog->writer, slot, NULL);
}

int64
weir_changelog_end(WeirChangelog *changelog)
{
	int64		seq = changelog->seq;

	weir_row_writer_end(changelog->writer);
	ExecDropSingleTupleTableSlot(changelog->slot);
	table_close(changelog->rel, NoLock);
	pfree(changelog);
	return seq;
}

/*
 * The index that has the rows in their order: the primary key that we have made.
 */
static Relation
open_order(Relation rel)
{
	Relation	index = NULL;

	RelationGetIndexList(rel);
	if (OidIsValid(rel->rd_pkindex))
		index = index_open(rel->rd_pkindex, RowExclusiveLock);
	if (index == NULL ||
		index->rd_index->indkey.values[0] != WEIR_CHANGES_SEQ)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the changelog \"%s\" has lost its primary key",
						RelationGetRelationName(rel)),
				 errdetail("Without it, old rows cannot be found and deleted."),
				 errhint("Make (weir_seq) its primary key.")));
	return index;
}

/*
 * In the order of weir_seq, which is that of weir_at.  Without SQL: the statement
 * trigger that keeps users from writing would keep us, too.
 */
int64
weir_changelog_expire(Oid relid, TimestampTz before, int most)
{
	Relation	rel = open_changelog(relid);
	Relation	index = open_order(rel);
	CommandId	cid = GetCurrentCommandId(true);
	int64		deleted = 0;
	SysScanDesc scan;
	HeapTuple	tuple;

	scan = systable_beginscan_ordered(rel, index, GetActiveSnapshot(), 0, NULL);
	while (deleted < most &&
		   (tuple = systable_getnext_ordered(scan, ForwardScanDirection)) != NULL)
	{
		TM_FailureData failure;
		bool		isnull;
		Datum		at = heap_getattr(tuple, WEIR_CHANGES_AT,
									  RelationGetDescr(rel), &isnull);

		CHECK_FOR_INTERRUPTS();
		weir_progress++;
		if (isnull || DatumGetTimestampTz(at) >= before)
			break;
		/* one that somebody else has deleted is none of ours */
		if (table_tuple_delete(rel, &tuple->t_self, cid, GetActiveSnapshot(),
							   InvalidSnapshot, true, &failure,
							   false) == TM_Ok)
			deleted++;
	}
	systable_endscan_ordered(scan);
	index_close(index, NoLock);
	table_close(rel, NoLock);
	return deleted;
}

/*
 * ---- NOTIFY ----
 *
 * A hint that something came, for who does not want to poll; it must never make
 * a commit fail or wait for long.  Two things could.  When the queue of
 * notifications is full, because somebody listens in a transaction that does not
 * end, whoever sends raises at his commit: we stop when it is half full.  And
 * commits with a NOTIFY are made one after the other, under a lock on "database
 * 0" that is taken at the commit: we take it here, and do without if it is not to
 * be had within that time.
 */
#define QUEUE_USAGE_LIMIT 0.5
#define LOCK_TRIES 50			/* of 2 ms */

static bool
lock_queue(void)
{
	LOCKTAG		tag;

	SET_LOCKTAG_OBJECT(tag, InvalidOid, DatabaseRelationId, InvalidOid, 0);
	for (int i = 0; i < LOCK_TRIES; i++)
	{
		if (LockAcquire(&tag, AccessExclusiveLock, false, true) !=
			LOCKACQUIRE_NOT_AVAIL)
			return true;
		CHECK_FOR_INTERRUPTS();
		pg_usleep(2000L);
	}
	return false;
}

static double
queue_usage(void)
{
	LOCAL_FCINFO(fcinfo, 0);

	InitFunctionCallInfoData(*fcinfo, NULL, 0, InvalidOid, NULL, NULL);
	return DatumGetFloat8(pg_notification_queue_usage(fcinfo));
}

void
weir_notify(const char *channel, int64 seq, int64 *skipped)
{
	char		payload[MAXINT8LEN + 1];

	if (queue_usage() >= QUEUE_USAGE_LIMIT || !lock_queue())
	{
		(*skipped)++;
		return;
	}
	pg_lltoa(seq, payload);
	Async_Notify(channel, payload);
}
