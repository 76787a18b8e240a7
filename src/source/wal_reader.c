/*-------------------------------------------------------------------------
 *
 * wal_reader.c
 *	  Decodes the WAL into a buffer of changes.
 *
 * Postgres' logical decoding puts the WAL of concurrent transactions in the
 * order of their commits, and calls an output plugin for each change.  We run it
 * in this process, on the slot of this database (wal_slot.c), with our own
 * callbacks in place of the plugin's.
 *
 *		WAL --> XLogReader --> reorder buffer --> callbacks --> WalBuffer
 *		          no waiting     by commit         copy           whole
 *		                                           bytes          transactions
 *
 * In a callback the historic snapshot is set: whatever reads a table there,
 * silently reads the catalogs of then and nothing else.  So callbacks copy bytes
 * and look at definitions, and never evaluate anything; the caller takes the
 * buffer apart later.
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

#include "access/detoast.h"
#include "access/htup_details.h"
#include "access/rmgr.h"
#include "access/transam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "access/xlogreader.h"
#include "access/xlogutils.h"
#include "catalog/namespace.h"
#include "fdw/stream_message.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "replication/decode.h"
#include "replication/logical.h"
#include "replication/origin.h"
#include "replication/slot.h"
#include "source/wal_reader.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"

/* The commits that weir_wal_has_told() remembers. */
#define TOLD_XIDS 65536

/* The clock is looked at once in so many records. */
#define RECORDS_PER_LOOK 64

struct WeirWalReader
{
	MemoryContext mcxt;
	LogicalDecodingContext *decoding;
	ReadLocalXLogPageNoWaitPrivate end_of_wal;
	WalShapes  *shapes;
	WalBuffer  *buffer;
	Oid			definitions;	/* weir_data.views */

	XLogRecPtr	start;			/* commits that end here or before are known */
	XLogRecPtr	position;
	TransactionId ddl_xid;

	/* what 17 makes us wait for, see weir_wal_confirm() */
	XLogRecPtr	waiting;
	XLogRecPtr	waits_for;

	/* the transaction being told */
	bool		known;			/* skip it */
	bool		defines;		/* it touched weir_data.views */
	WeirTransaction *txn;		/* NULL: nothing of interest yet */
	MemoryContext scratch;		/* reset at its beginning */
	List	   *touched;		/* of WalTouched, if it changed definitions */

	uint32		n_told;
	TransactionId told[TOLD_XIDS];	/* a ring */
};

/* ------------------------------------------------------------- transactions */

static void
begin_transaction(LogicalDecodingContext *ctx, ReorderBufferTXN *txn)
{
	WeirWalReader *reader = ctx->output_writer_private;

	reader->known = txn->end_lsn <= reader->start;
	reader->defines = false;
	reader->txn = NULL;
	if (unlikely(reader->touched != NIL))
	{
		reader->touched = NIL;
		MemoryContextReset(reader->scratch);
	}
	if (unlikely(rbtxn_has_catalog_changes(txn)) && !reader->known &&
		weir_wal_must_look(reader->shapes))
		weir_wal_look_first(reader->shapes);
}

/* The transaction's entry in the buffer, made when it is needed. */
static inline void
need_transaction(WeirWalReader *reader, ReorderBufferTXN *txn)
{
	if (likely(reader->txn != NULL))
		return;
	reader->txn = weir_wal_buffer_begin(reader->buffer);
	reader->txn->xid = txn->xid;
	reader->txn->begin = txn->final_lsn;
	reader->txn->end = txn->end_lsn;
	reader->txn->time = txn->xact_time.commit_time;
}

typedef struct Telling
{
	WeirWalReader *reader;
	ReorderBufferTXN *txn;
} Telling;

static char *
copy_text(const char *text)
{
	return text != NULL ? pstrdup(text) : NULL;
}

/* What is said of a source already that says as much. */
static WeirBroken *
find_broken(const WeirWalReader *reader, Oid source, bool even_append_only,
			bool columns)
{
	ListCell   *cell;

	if (reader->txn == NULL)
		return NULL;
	foreach(cell, reader->txn->broken)
	{
		WeirBroken *broken = lfirst(cell);

		if (broken->source == source &&
			broken->even_append_only >= even_append_only &&
			(broken->missing != NULL) == columns)
			return broken;
	}
	return NULL;
}

static WeirBroken *
add_broken(Telling *telling, Oid source, bool even_append_only,
		   const char *message, const char *detail, const char *hint)
{
	WeirWalReader *reader = telling->reader;
	MemoryContext old;
	WeirBroken *broken;

	need_transaction(reader, telling->txn);
	old = MemoryContextSwitchTo(weir_wal_buffer_context(reader->buffer));
	broken = palloc0(sizeof(*broken));
	broken->source = source;
	broken->even_append_only = even_append_only;
	broken->sqlstate = ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE;
	broken->message = copy_text(message);
	broken->detail = copy_text(detail);
	broken->hint = copy_text(hint);
	reader->txn->broken = lappend(reader->txn->broken, broken);
	MemoryContextSwitchTo(old);
	return broken;
}

/* From this transaction on a source cannot be followed; said once for each. */
static void
break_source(void *arg, Oid source, bool even_append_only,
			 const char *message, const char *detail, const char *hint)
{
	Telling    *telling = arg;

	if (find_broken(telling->reader, source, even_append_only, false) == NULL)
		(void) add_broken(telling, source, even_append_only, message, detail,
						  hint);
}

static void
commit_transaction(LogicalDecodingContext *ctx, ReorderBufferTXN *txn,
				   XLogRecPtr commit_lsn)
{
	WeirWalReader *reader = ctx->output_writer_private;

	if (reader->known)
		return;
	if (unlikely(weir_wal_must_look(reader->shapes)))
	{
		Telling		telling = {reader, txn};

		weir_wal_look(reader->shapes, txn, reader->touched, break_source,
					  &telling);
	}
	if (reader->txn != NULL && reader->txn->broken != NIL)
		(void) weir_wal_buffer_add(reader->buffer, WEIR_CHANGE_END, 0);
	if (reader->defines)
		reader->ddl_xid = txn->xid;
}

static bool
filter_by_origin(LogicalDecodingContext *ctx, RepOriginId origin)
{
	return origin == DoNotReplicateId;
}

/* ------------------------------------------------------------------ changes */

/*
 * In a transaction that changes definitions, remembers which relations were
 * written to, and what they belonged to then.
 */
static void
note_touched(WeirWalReader *reader, Oid relid, const WalShape *shape)
{
	WalTouched *touched = reader->touched ? llast(reader->touched) : NULL;
	MemoryContext old;
	ListCell   *cell;

	if (touched != NULL && touched->relid == relid && touched->shape == shape)
		return;
	foreach(cell, reader->touched)
	{
		touched = lfirst(cell);
		if (touched->relid == relid && touched->shape == shape)
			return;
	}
	old = MemoryContextSwitchTo(reader->scratch);
	touched = palloc(sizeof(*touched));
	touched->relid = relid;
	touched->shape = shape;
	reader->touched = lappend(reader->touched, touched);
	MemoryContextSwitchTo(old);
}

/*
 * A tuple without references to what will be gone: values out of line are taken
 * in, if they are wanted.  What an update left alone is a pointer into the TOAST
 * table, which may not hold it any more: the old row has it, unless the
 * replica identity is too small; then `lost` is set.
 */
static HeapTuple
take_in(const WalShape *shape, Relation rel, HeapTuple tuple, HeapTuple old,
		Bitmapset **lost)
{
	TupleDesc	desc = RelationGetDescr(rel);
	Datum	   *values = palloc(sizeof(Datum) * desc->natts);
	bool	   *nulls = palloc(sizeof(bool) * desc->natts);
	HeapTuple	taken;

	heap_deform_tuple(tuple, desc, values, nulls);
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		struct varlena *value;

		if (nulls[i] || att->attisdropped || att->attlen != -1)
			continue;
		value = (struct varlena *) DatumGetPointer(values[i]);
		if (!VARATT_IS_EXTERNAL(value))
			continue;
		if (!bms_is_member(i + 1, shape->wanted))
			nulls[i] = true;
		else if (!VARATT_IS_EXTERNAL_ONDISK(value))
			values[i] = PointerGetDatum(detoast_external_attr(value));
		else
		{
			if (old != NULL)
				values[i] = heap_getattr(old, i + 1, desc, &nulls[i]);
			if (old == NULL || nulls[i] ||
				VARATT_IS_EXTERNAL(DatumGetPointer(values[i])))
			{
				nulls[i] = true;
				*lost = bms_add_member(*lost, i + 1);
			}
		}
	}
	taken = heap_form_tuple(desc, values, nulls);

	/*
	 * It is marked as a composite value, of which heap_deform_tuple() looks the
	 * type up (since 15.19 and the same minors); we deform outside of any
	 * transaction, and it is a row of the heap.
	 */
	ItemPointerSetInvalid(&taken->t_data->t_ctid);
	return taken;
}

/* Columns of a source are not known in some row. */
static void
break_columns(Telling *telling, Oid source, Relation rel,
			  const Bitmapset *missing, const char *detail)
{
	WeirWalReader *reader = telling->reader;
	WeirBroken *broken = find_broken(reader, source, false, true);
	MemoryContext old;
	char	   *name;

	/* there may be millions of them */
	if (broken != NULL && bms_is_subset(missing, broken->missing))
		return;
	if (broken == NULL)
	{
		name = get_rel_name(source);
		broken = add_broken(telling, source, false,
				 psprintf("a row of table \"%s\" was updated or deleted without its old values",
						  name ? name : "?"),
				 detail,
				 psprintf("Run ALTER TABLE %s REPLICA IDENTITY FULL, then weir.rebuild(view).",
						  quote_qualified_identifier(get_namespace_name(RelationGetNamespace(rel)),
													 RelationGetRelationName(rel))));
	}
	old = MemoryContextSwitchTo(weir_wal_buffer_context(reader->buffer));
	broken->missing = bms_add_members(broken->missing, missing);
	MemoryContextSwitchTo(old);
}

/* Which sources cannot do without the old row that is not there? */
static void
check_identity(Telling *telling, const WalShape *shape, Relation rel)
{
	for (int i = 0; i < shape->n_sources; i++)
	{
		if (shape->columns[i].unidentified != NULL)
			break_columns(telling, shape->sources[i], rel,
						  shape->columns[i].unidentified,
						  "Its replica identity lacks columns that the view reads.");
	}
}

static void
add_row(Telling *telling, WalShape *shape, WeirChangeKind kind,
		HeapTuple old, HeapTuple new)
{
	uint32		old_len = old != NULL ? old->t_len : 0;
	uint32		new_len = new != NULL ? new->t_len : 0;
	WalRecord  *record;
	char	   *to;

	need_transaction(telling->reader, telling->txn);
	record = weir_wal_buffer_add(telling->reader->buffer, kind,
								 MAXALIGN(old_len) + new_len);
	record->shape = shape;
	record->old_len = old_len;
	record->new_len = new_len;
	to = wal_record_payload(record);
	if (old != NULL)
		memcpy(to, old->t_data, old_len);
	if (new != NULL)
		memcpy(to + MAXALIGN(old_len), new->t_data, new_len);
}

/* Values out of line that an update left alone, and no old row has. */
static void
break_for_lost(Telling *telling, const WalShape *shape, int i, Relation rel,
			   const Bitmapset *lost)
{
	Bitmapset  *missing = NULL;
	int			attnum = -1;

	while ((attnum = bms_next_member(lost, attnum)) > 0)
	{
		if (shape->columns[i].place[attnum - 1] >= 0)
			missing = bms_add_member(missing,
									 shape->columns[i].place[attnum - 1] + 1);
	}
	if (missing != NULL)
		break_columns(telling, shape->sources[i], rel, missing,
					  "A large value that was not changed is not known.");
}

/* As add_row(), for tuples with values out of line. */
static void
add_large_row(Telling *telling, WalShape *shape, Relation rel,
			  WeirChangeKind kind, HeapTuple old, HeapTuple new)
{
	MemoryContext scratch = AllocSetContextCreate(CurrentMemoryContext,
												  "pg_weir large row",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(scratch);
	Bitmapset  *lost = NULL;

	if (old != NULL && HeapTupleHasExternal(old))
		old = take_in(shape, rel, old, NULL, &lost);
	if (new != NULL && HeapTupleHasExternal(new))
		new = take_in(shape, rel, new, old, &lost);
	add_row(telling, shape, kind, old, new);
	MemoryContextSwitchTo(caller);
	for (int i = 0; lost != NULL && i < shape->n_sources; i++)
		break_for_lost(telling, shape, i, rel, lost);
	MemoryContextDelete(scratch);
}

static void
tell_change(LogicalDecodingContext *ctx, ReorderBufferTXN *txn, Relation rel,
			ReorderBufferChange *change)
{
	WeirWalReader *reader = ctx->output_writer_private;
	Telling		telling = {reader, txn};
	HeapTuple	old = weir_change_tuple(change->data.tp.oldtuple);
	HeapTuple	new = weir_change_tuple(change->data.tp.newtuple);
	WeirChangeKind kind = WEIR_CHANGE_INSERT;
	WalShape   *shape;

	if (reader->known)
		return;
	shape = weir_wal_shape(reader->shapes, rel);
	if (unlikely(rbtxn_has_catalog_changes(txn)))
		note_touched(reader, RelationGetRelid(rel), shape);
	if (RelationGetRelid(rel) == reader->definitions)
		reader->defines = true;
	if (shape == NULL)
		return;
	if (change->action == REORDER_BUFFER_CHANGE_INSERT)
		old = NULL;
	else
	{
		kind = change->action == REORDER_BUFFER_CHANGE_UPDATE ?
			WEIR_CHANGE_UPDATE : WEIR_CHANGE_DELETE;
		if (rel->rd_rel->relreplident != REPLICA_IDENTITY_FULL)
			check_identity(&telling, shape, rel);
	}
	if (unlikely((old != NULL && HeapTupleHasExternal(old)) ||
				 (new != NULL && HeapTupleHasExternal(new))))
		add_large_row(&telling, shape, rel, kind, old, new);
	else
		add_row(&telling, shape, kind, old, new);
}

/*
 * A TRUNCATE of a watched relation names it, though it be partitioned and only its
 * leaves hold rows.  One that empties a leaf alone takes away rows untold.
 */
static void
tell_truncate(LogicalDecodingContext *ctx, ReorderBufferTXN *txn, int n,
			  Relation *rels, ReorderBufferChange *change)
{
	WeirWalReader *reader = ctx->output_writer_private;
	Telling		telling = {reader, txn};
	List	   *whole = NIL;
	WalRecord  *record;
	Oid		   *to;
	ListCell   *cell;

	if (reader->known)
		return;
	for (int i = 0; i < n; i++)
	{
		if (RelationGetRelid(rels[i]) == reader->definitions)
			reader->defines = true;
		if (weir_wal_find_watch(reader->shapes, RelationGetRelid(rels[i])))
			whole = lappend_oid(whole, RelationGetRelid(rels[i]));
	}
	for (int i = 0; i < n; i++)
	{
		WalShape   *shape = weir_wal_shape(reader->shapes, rels[i]);

		for (int k = 0; shape != NULL && k < shape->n_sources; k++)
		{
			if (!list_member_oid(whole, shape->sources[k]))
				break_source(&telling, shape->sources[k], false,
							 psprintf("a partition of table \"%s\" was truncated",
									  get_rel_name(shape->sources[k])),
							 psprintf("It was \"%s\".",
									  RelationGetRelationName(rels[i])),
							 "Run weir.rebuild(view).");
		}
	}
	if (whole == NIL)
		return;
	need_transaction(reader, txn);
	record = weir_wal_buffer_add(reader->buffer, WEIR_CHANGE_TRUNCATE,
								 sizeof(Oid) * list_length(whole));
	record->n_sources = list_length(whole);
	to = (Oid *) wal_record_payload(record);
	foreach(cell, whole)
		*to++ = lfirst_oid(cell);
}

/* Rows pushed into a stream; whether they are genuine is seen when folded. */
static void
tell_message(LogicalDecodingContext *ctx, ReorderBufferTXN *txn,
			 XLogRecPtr lsn, bool transactional, const char *prefix,
			 Size len, const char *message)
{
	WeirWalReader *reader = ctx->output_writer_private;
	WalRecord  *record;
	WalWatch   *watch;
	Oid			stream;

	if (!transactional || reader->known ||
		strcmp(prefix, WEIR_STREAM_PREFIX) != 0)
		return;
	stream = weir_stream_message_target(message, len);
	watch = OidIsValid(stream) ? weir_wal_find_watch(reader->shapes, stream) : NULL;
	if (watch == NULL || !watch->is_stream)
		return;
	need_transaction(reader, txn);
	record = weir_wal_buffer_add(reader->buffer, WEIR_CHANGE_PUSHED,
								 MAXALIGN(sizeof(Oid)) + len);
	record->n_sources = 1;
	record->new_len = len;
	memcpy(wal_record_payload(record), &stream, sizeof(Oid));
	memcpy(wal_record_payload(record) + MAXALIGN(sizeof(Oid)), message, len);
}

/* ------------------------------------------------------------ open and close */

static void
set_callbacks(LogicalDecodingContext *ctx)
{
	/* pgoutput's, which forgets its own caches */
	LogicalDecodeShutdownCB shutdown = ctx->callbacks.shutdown_cb;

	memset(&ctx->callbacks, 0, sizeof(ctx->callbacks));
	ctx->callbacks.shutdown_cb = shutdown;
	ctx->callbacks.begin_cb = begin_transaction;
	ctx->callbacks.change_cb = tell_change;
	ctx->callbacks.truncate_cb = tell_truncate;
	ctx->callbacks.commit_cb = commit_transaction;
	ctx->callbacks.message_cb = tell_message;
	ctx->callbacks.filter_by_origin_cb = filter_by_origin;
	/* transactions come whole, prepared ones when they commit */
	ctx->streaming = false;
	ctx->twophase = false;
}

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
	set_callbacks(ctx);
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
