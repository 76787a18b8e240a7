/*-------------------------------------------------------------------------
 *
 * wal_reader.c
 *	  Decodes the WAL, record by record, up to its flushed end.
 *
 * Postgres' logical decoding puts the WAL of concurrent transactions in the
 * order of their commits, and calls an output plugin for each change.  We run it
 * in this process, on the slot of this database (wal_slot.c), with our own
 * callbacks (wal_tell.c) in place of the plugin's.
 *
 *		WAL --> XLogReader --> reorder buffer --> callbacks --> WalBuffer
 *		          no waiting     by commit         copy           whole
 *		                                           bytes          transactions
 *
 * The end of the flushed WAL may be in the middle of a record.  Reading it fails
 * then, and the same record is read again at the next call.
 *
 * Positions.  `start` is where the caller's own state ends: what committed up
 * to there is not told.  The slot remembers another position, confirmed, which
 * is never beyond what the caller has made durable, and need not be exact.
 *
 *-------------------------------------------------------------------------
 */
#include "source/changes.h"

#include "access/rmgr.h"
#include "access/transam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "access/xlogreader.h"
#include "access/xlogutils.h"
#include "catalog/namespace.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "replication/decode.h"
#include "replication/logical.h"
#include "replication/slot.h"
#include "source/wal_reader.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"

/* The clock is looked at once in so many records. */
#define RECORDS_PER_LOOK 64

/* ------------------------------------------------------------ open and close */

/* What pgoutput wants to hear; the publication is never looked up. */
static List *
plugin_options(void)
{
	return list_make2(makeDefElem("proto_version",
								  (Node *) makeString(pstrdup("1")), -1),
					  makeDefElem("publication_names",
								  (Node *) makeString(pstrdup("pg_weir")), -1));
}

static void
begin_decoding(WeirWalReader *reader, const char *slot_name)
{
	MemoryContext old = MemoryContextSwitchTo(reader->mcxt);
	LogicalDecodingContext *ctx;

	weir_slot_acquire(slot_name);
	ctx = CreateDecodingContext(reader->start, plugin_options(), false,
								XL_ROUTINE(.page_read = read_local_xlog_page_no_wait,
										   .segment_open = wal_segment_open,
										   .segment_close = wal_segment_close),
								NULL, NULL, NULL);
	reader->decoding = ctx;
	ctx->output_writer_private = reader;
	ctx->reader->private_data = &reader->end_of_wal;
	weir_wal_set_callbacks(ctx);
	reader->start = Max(reader->start,
						MyReplicationSlot->data.confirmed_flush);
	reader->position = reader->start;
	XLogBeginRead(ctx->reader, MyReplicationSlot->data.restart_lsn);
	MemoryContextSwitchTo(old);
}

WeirWalReader *
weir_wal_open(const char *slot_name, XLogRecPtr start)
{
	MemoryContext mcxt;
	WeirWalReader *reader;

	Assert(IsTransactionState());
	CheckLogicalDecodingRequirements();
	mcxt = AllocSetContextCreate(TopMemoryContext, "pg_weir wal reader",
								 ALLOCSET_DEFAULT_SIZES);
	reader = MemoryContextAllocZero(mcxt, sizeof(*reader));
	reader->mcxt = mcxt;
	reader->start = start;
	PG_TRY();
	{
		reader->scratch = AllocSetContextCreate(mcxt, "pg_weir wal scratch",
												ALLOCSET_SMALL_SIZES);
		reader->shapes = weir_wal_shapes_create(mcxt);
		reader->buffer = weir_wal_buffer_create(mcxt);
		reader->definitions =
			get_relname_relid("views", get_namespace_oid(WEIR_DATA_SCHEMA, true));
		begin_decoding(reader, slot_name);
	}
	PG_CATCH();
	{
		weir_wal_close(reader);
		PG_RE_THROW();
	}
	PG_END_TRY();
	return reader;
}

/* Errors become warnings: one is under way already, or nobody could do more. */
static void
end_quietly(WeirWalReader *reader, void (*end) (WeirWalReader *reader))
{
	MemoryContext caller = CurrentMemoryContext;

	PG_TRY();
	{
		end(reader);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(caller);
		EmitErrorReport();
		FlushErrorState();
	}
	PG_END_TRY();
}

static void
end_decoding(WeirWalReader *reader)
{
	LogicalDecodingContext *ctx = reader->decoding;

	reader->decoding = NULL;
	if (ctx == NULL)
		return;
	/* core reads its name, and an expression may have released it */
	if (MyReplicationSlot == NULL)
		weir_slot_acquire(weir_slot_name(MyDatabaseId));
	FreeDecodingContext(ctx);
}

static void
end_buffer(WeirWalReader *reader)
{
	if (reader->buffer != NULL)
		weir_wal_buffer_destroy(reader->buffer);
}

static void
end_slot(WeirWalReader *reader)
{
	if (MyReplicationSlot != NULL)
		ReplicationSlotRelease();
}

void
weir_wal_close(WeirWalReader *reader)
{
	/* the context first: it removes files that the slot names */
	end_quietly(reader, end_decoding);
	end_quietly(reader, end_slot);
	end_quietly(reader, end_buffer);
	if (reader->shapes != NULL)
		weir_wal_shapes_destroy(reader->shapes);
	MemoryContextDelete(reader->mcxt);
}

/* ------------------------------------------------------------------ reading */

/*
 * Remembers each commit that we come past, told or not, so that those before
 * `start`, which another process told, are known as well.
 */
static void
note_commit(WeirWalReader *reader, XLogReaderState *record)
{
	uint8		info = XLogRecGetInfo(record) & XLOG_XACT_OPMASK;
	TransactionId xid = XLogRecGetXid(record);

	if (info == XLOG_XACT_COMMIT_PREPARED)
	{
		xl_xact_parsed_commit parsed;

		ParseCommitRecord(XLogRecGetInfo(record),
						  (xl_xact_commit *) XLogRecGetData(record), &parsed);
		xid = parsed.twophase_xid;
	}
	else if (info != XLOG_XACT_COMMIT)
		return;
	reader->told[reader->n_told++ % TOLD_XIDS] = xid;
}

/* Decodes one record; false at the end of what is flushed. */
static bool
read_record(WeirWalReader *reader)
{
	XLogReaderState *wal = reader->decoding->reader;
	XLogRecord *record;
	char	   *error = NULL;

	reader->end_of_wal.end_of_wal = false;
	record = XLogReadRecord(wal, &error);
	if (record == NULL)
	{
		if (error == NULL && reader->end_of_wal.end_of_wal)
			return false;
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("could not read WAL at %X/%X: %s",
						LSN_FORMAT_ARGS(wal->EndRecPtr),
						error ? error : "no record found")));
	}
	LogicalDecodingProcessRecord(reader->decoding, wal);
	if (XLogRecGetRmid(wal) == RM_XACT_ID)
		note_commit(reader, wal);
	reader->position = Max(reader->position, wal->EndRecPtr);
	return true;
}

static void
read_records(WeirWalReader *reader, Size max_bytes, int64 max_us)
{
	TimestampTz until = GetCurrentTimestamp() + max_us;
	XLogRecPtr	end = GetFlushRecPtr(NULL);
	ResourceOwner owner = CurrentResourceOwner;
	int			n = 0;

	/* what the XLogReader allocates on its way lives as long as itself */
	MemoryContextSwitchTo(reader->mcxt);
	while (reader->decoding->reader->EndRecPtr < end)
	{
		bool		more = read_record(reader);

		/* decoding has begun and aborted a transaction of its own */
		CurrentResourceOwner = owner;
		MemoryContextSwitchTo(reader->mcxt);
		CHECK_FOR_INTERRUPTS();
		if (!more || TransactionIdIsValid(reader->ddl_xid) ||
			weir_wal_buffer_bytes(reader->buffer) >= max_bytes)
			return;
		/* on the way to `start` nothing is told, and nothing seems to move */
		if (++n % RECORDS_PER_LOOK == 0 && GetCurrentTimestamp() >= until &&
			reader->decoding->reader->EndRecPtr >= reader->start)
			return;
	}
}

int64
weir_wal_read(WeirWalReader *reader, Size max_bytes, int64 max_us)
{
	ResourceOwner owner = CurrentResourceOwner;
	MemoryContext caller = CurrentMemoryContext;
	bool		in_transaction = IsTransactionState();	/* in tests alone */

	/* somebody's expression may use slots, too (runtime/run.c) */
	if (MyReplicationSlot == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("an expression of a view has released the replication slot"),
				 errhint("Views must not call functions for replication slots.")));
	reader->ddl_xid = InvalidTransactionId;
	weir_wal_buffer_reset(reader->buffer);
	weir_wal_shapes_tidy(reader->shapes);
	if (reader->decoding->reader->EndRecPtr >= GetFlushRecPtr(NULL))
		return 0;
	weir_wal_buffer_prepare(reader->buffer);
	weir_wal_change_time(reader->shapes, reader->position);
	PG_TRY();
	{
		/*
		 * Within a transaction each decoded one is replayed in a subtransaction,
		 * which costs half of what a transaction of its own does.
		 */
		if (!in_transaction)
			StartTransactionCommand();
		read_records(reader, max_bytes, max_us);
		if (!in_transaction)
			CommitTransactionCommand();
	}
	PG_CATCH();
	{
		CurrentResourceOwner = owner;
		MemoryContextSwitchTo(caller);
		/* the caches are of then, and nobody will come back here */
		InvalidateSystemCaches();
		PG_RE_THROW();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(caller);
	weir_wal_change_time(reader->shapes, reader->position);
	return weir_wal_buffer_changes(reader->buffer);
}

/* ---------------------------------------------------------------- the others */

void
weir_wal_watch(WeirWalReader *reader, List *watched)
{
	weir_wal_shapes_watch(reader->shapes, watched);
}

List *
weir_wal_leaves(const WeirWalReader *reader, Oid relid)
{
	const WalWatch *watch = weir_wal_find_watch(reader->shapes, relid);

	return watch != NULL ? watch->leaves : NIL;
}

XLogRecPtr
weir_wal_position(const WeirWalReader *reader)
{
	return reader->position;
}

TransactionId
weir_wal_ddl_xid(const WeirWalReader *reader)
{
	return reader->ddl_xid;
}

bool
weir_wal_has_told(const WeirWalReader *reader, TransactionId xid)
{
	uint32		n = Min(reader->n_told, TOLD_XIDS);

	for (uint32 i = 0; i < n; i++)
	{
		if (reader->told[i] == xid)
			return true;
	}
	return false;
}

bool
weir_wal_has_told_from(const WeirWalReader *reader, TransactionId xid)
{
	uint32		n = Min(reader->n_told, TOLD_XIDS);

	for (uint32 i = 0; i < n; i++)
	{
		if (TransactionIdFollowsOrEquals(reader->told[i], xid))
			return true;
	}
	return false;
}

bool
weir_wal_next_chunk(WeirWalReader *reader)
{
	return weir_wal_buffer_next_chunk(reader->buffer);
}

bool
weir_wal_next(WeirWalReader *reader, WeirChange *change)
{
	return weir_wal_buffer_next(reader->buffer, change);
}

/*
 * On an empty page the insert position is behind the page's header, where no
 * record has ended and nothing can be flushed yet.
 */
XLogRecPtr
weir_wal_end(void)
{
	XLogRecPtr	end = GetXLogInsertRecPtr();

	if (XLogSegmentOffset(end, wal_segment_size) == SizeOfXLogLongPHD)
		return end - SizeOfXLogLongPHD;
	if (end % XLOG_BLCKSZ == SizeOfXLogShortPHD)
		return end - SizeOfXLogShortPHD;
	return end;
}

/*
 * From 17 on standbys may hold a copy of the slot, for a failover.  It must not be
 * ahead of what they have of our own commits: the slot moves to lsn only when
 * they have the WAL that was flushed when we were asked, positions and all.
 */
void
weir_wal_confirm(WeirWalReader *reader, XLogRecPtr lsn)
{
	if (MyReplicationSlot == NULL)
		return;					/* the next read says so */
	if (!weir_slot_has_failover())
	{
		reader->waiting = lsn;
		reader->waits_for = InvalidXLogRecPtr;
	}
	else if (XLogRecPtrIsInvalid(reader->waiting))
	{
		reader->waiting = lsn;
		reader->waits_for = GetFlushRecPtr(NULL);
	}
	if (!XLogRecPtrIsInvalid(reader->waits_for) &&
		!weir_standbys_have(reader->waits_for))
		return;
	if (reader->waiting > MyReplicationSlot->data.confirmed_flush)
	{
		LogicalConfirmReceivedLocation(reader->waiting);
		/* or a clean shutdown would forget it */
		ReplicationSlotMarkDirty();
	}
	reader->waiting = InvalidXLogRecPtr;
}

XLogRecPtr
weir_wal_confirmed(const WeirWalReader *reader)
{
	/* without the slot nothing is known; the next read says so */
	return MyReplicationSlot != NULL ?
		MyReplicationSlot->data.confirmed_flush : InvalidXLogRecPtr;
}
