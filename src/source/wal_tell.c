/*-------------------------------------------------------------------------
 *
 * wal_tell.c
 *	  What logical decoding tells, into a buffer of changes.
 *
 * Receives, between the begin and the commit of a transaction, its changes of
 * rows, its TRUNCATEs and its logical messages, from the reorder buffer that
 * wal_reader.c runs.  Those that somebody watches (wal_shapes.c) are copied into
 * the buffer (wal_buffer.c); what cannot be followed becomes a reason for which
 * the views over that source stall.
 *
 * In a callback the historic snapshot is set: whatever reads a table there,
 * silently reads the catalogs of then and nothing else.  So callbacks copy bytes
 * and look at definitions, and never evaluate anything; the caller takes the
 * buffer apart later.
 *
 * A transaction that committed before the reader's start is known, and told to
 * nobody.  One that touched weir_data.views ends the reading: its definitions are
 * looked at before anything that came after it.
 *
 *-------------------------------------------------------------------------
 */
#include "source/wal_reader.h"

#include "access/detoast.h"
#include "access/htup_details.h"
#include "fdw/stream_message.h"
#include "replication/logical.h"
#include "replication/origin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

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

/* ---------------------------------------------------------------- callbacks */

void
weir_wal_set_callbacks(LogicalDecodingContext *ctx)
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
