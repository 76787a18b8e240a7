/*-------------------------------------------------------------------------
 *
 * stream_message.c
 *	  Rows as one logical message, with a MAC.
 *
 * Receives rows from an INSERT or COPY (stream_fdw.c), packs them into messages
 * of some 64 kB and puts them into the WAL; in the worker, gives the rows back.
 * It does not know who consumes a stream, nor whether anybody does.
 *
 *		MessageHeader		magic, version, stream, number of rows, MAC
 *		WeirStreamColumn	one per column of the stream as it was
 *		row ...				RowHeader, bitmap of NULLs if any, values
 *
 * A row lies as in a heap tuple (heap_fill_tuple), each one at a multiple of
 * MAXALIGN, so that the reader's Datums can point into the message.  Numbers
 * are in the machine's byte order, as all WAL is.
 *
 * The columns come with every message because the WAL outlives the shape of the
 * stream: when the worker reads a message, a column may have been dropped, added
 * or given another type since, and a value that is read with the wrong length
 * takes all that follow with it.  Eight bytes a column and message is what a
 * reader that never guesses costs.
 *
 * Trust.  Everybody may write a logical message of any prefix, and a reader that
 * believes one lets him insert into streams on which he has no privilege, or
 * crash the worker.  So each carries an HMAC-SHA-256, cut to 128 bits, over the
 * database, the top-level transaction and all of the message; its key lies in
 * weir_data.secret, which no SQL of a user can read.  The transaction is part of
 * it so that a message which somebody got to see (a replication client does)
 * cannot be written again later.  Nothing behind the header is looked at before
 * the MAC has been found right.
 *
 * The key is read once per process.  The relation cache tells when the extension
 * was dropped, and with it the key.
 *
 *-------------------------------------------------------------------------
 */
#include "fdw/stream_message.h"

#include "access/detoast.h"
#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tupmacs.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "catalog/weir_catalog.h"
#include "common/hmac.h"
#include "common/sha2.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "replication/message.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"

#define MESSAGE_MAGIC 0x57495231	/* "WIR1" */
#define MESSAGE_VERSION 1

#define MAC_LEN 16
#define KEY_LEN 32

/*
 * Enough rows to make the header and the MAC cheap, and less than would push
 * much else out of the WAL buffers (16 MB at most by default).
 */
#define MESSAGE_SIZE (64 * 1024)

/* With header, columns, and one row beyond MESSAGE_SIZE. */
#define LARGEST_MESSAGE (MESSAGE_SIZE + WEIR_STREAM_MAX_ROW + \
						 sizeof(MessageHeader) + \
						 MaxHeapAttributeNumber * sizeof(WeirStreamColumn))

/*
 * The same in every version, so that the MAC of a message can be looked at whose
 * version is another one: what is genuine and cannot be read must not be skipped.
 */
typedef struct MessageHeader
{
	uint32		magic;
	uint16		version;
	uint16		natts;
	Oid			stream;
	uint32		n_rows;
	uint8		mac[MAC_LEN];	/* over what is before and behind it */
} MessageHeader;

/* A column as it was written; a dropped one has no type. */
typedef struct WeirStreamColumn
{
	Oid			type;
	int16		len;
	uint8		align;			/* bytes */
	uint8		byval;			/* 0 or 1; no bool, which may hold nothing else */
} WeirStreamColumn;

typedef struct RowHeader
{
	uint32		len;			/* with this header; a multiple of MAXALIGN */
	uint16		data_at;		/* from the beginning of this header */
	uint16		has_nulls;		/* a bitmap lies between header and data */
} RowHeader;

StaticAssertDecl(MAXALIGN(sizeof(MessageHeader)) == sizeof(MessageHeader),
				 "columns follow the header without a gap");
StaticAssertDecl(MAXALIGN(sizeof(WeirStreamColumn)) == sizeof(WeirStreamColumn),
				 "rows follow the columns without a gap");

struct WeirStreamWriter
{
	TupleDesc	desc;
	WeirStreamColumn *columns;
	Datum	   *flat;			/* the row at hand, detoasted */
	StringInfoData message;
	int			rows_at;		/* where rows begin in it */
	uint32		n_rows;
	SubTransactionId subxact;	/* in which they came */
	MemoryContext mcxt;			/* of one row */
};

/* The key, and the table that it was read from. */
static uint8 key[KEY_LEN];
static bool key_known = false;
static Oid	key_table = InvalidOid;

static void flatten(WeirStreamWriter *writer, const Datum *values,
					const bool *nulls);
static void begin_message(WeirStreamWriter *writer, Oid stream);
static void compute_mac(const char *message, Size len, TransactionId xid,
						uint8 *mac);
static void know_key(void);
static void read_key(void);
static void forget_key(Datum arg, Oid relid);
static bool is_right(const uint8 *mac, const uint8 *expected);
static uint8 align_bytes(char attalign);
static void check_column(const WeirStreamColumn *column);
static Size value_size(const WeirStreamColumn *column, const char *value,
					   Size room);
weir_noreturn static void broken_message(void);

/* ---- writing ---- */

WeirStreamWriter *
weir_stream_writer_create(Oid stream, TupleDesc desc)
{
	WeirStreamWriter *writer = palloc0(sizeof(WeirStreamWriter));

	writer->desc = desc;
	writer->flat = palloc(Max(desc->natts, 1) * sizeof(Datum));
	writer->mcxt = AllocSetContextCreate(CurrentMemoryContext,
										 "pg_weir stream row",
										 ALLOCSET_DEFAULT_SIZES);
	initStringInfo(&writer->message);
	begin_message(writer, stream);
	return writer;
}

/* Header and columns are the same in every message of a statement. */
static void
begin_message(WeirStreamWriter *writer, Oid stream)
{
	TupleDesc	desc = writer->desc;
	MessageHeader header = {0};

	header.magic = MESSAGE_MAGIC;
	header.version = MESSAGE_VERSION;
	header.natts = desc->natts;
	header.stream = stream;
	appendBinaryStringInfo(&writer->message, (char *) &header, sizeof(header));
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		WeirStreamColumn column = {0};

		column.type = att->attisdropped ? InvalidOid : att->atttypid;
		column.len = att->attlen;
		column.align = align_bytes(att->attalign);
		column.byval = att->attbyval;
		appendBinaryStringInfo(&writer->message, (char *) &column,
							   sizeof(column));
	}
	writer->rows_at = writer->message.len;
}

static uint8
align_bytes(char attalign)
{
	switch (attalign)
	{
		case TYPALIGN_CHAR:
			return 1;
		case TYPALIGN_SHORT:
			return ALIGNOF_SHORT;
		case TYPALIGN_INT:
			return ALIGNOF_INT;
		default:
			return ALIGNOF_DOUBLE;
	}
}

void
weir_stream_writer_add(WeirStreamWriter *writer, const Datum *values,
					   const bool *nulls)
{
	TupleDesc	desc = writer->desc;
	RowHeader	header = {0};
	Size		data_at = sizeof(RowHeader);
	Size		data_len;
	Size		len;
	char	   *row;
	uint16		infomask = 0;

	for (int i = 0; i < desc->natts; i++)
		if (nulls[i])
			header.has_nulls = 1;
	if (header.has_nulls)
		data_at += BITMAPLEN(desc->natts);
	data_at = MAXALIGN(data_at);

	flatten(writer, values, nulls);
	data_len = heap_compute_data_size(desc, writer->flat,
									  unconstify(bool *, nulls));
	len = MAXALIGN(data_at + data_len);
	if (len > WEIR_STREAM_MAX_ROW)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("row of %zu bytes is too large for a push stream", len),
				 errdetail("A row may have %d bytes.", WEIR_STREAM_MAX_ROW),
				 errhint("Store large values in a table, and push their keys.")));

	enlargeStringInfo(&writer->message, len);
	row = writer->message.data + writer->message.len;
	memset(row, 0, len);
	header.len = len;
	header.data_at = data_at;
	memcpy(row, &header, sizeof(header));
	heap_fill_tuple(desc, writer->flat, unconstify(bool *, nulls),
					row + data_at, data_len, &infomask,
					header.has_nulls ? (bits8 *) row + sizeof(RowHeader) : NULL);
	MemoryContextReset(writer->mcxt);

	if (writer->n_rows == 0)
		writer->subxact = GetCurrentSubTransactionId();
	writer->message.len += len;
	writer->n_rows++;
	if (writer->message.len >= MESSAGE_SIZE)
		weir_stream_writer_flush(writer);
}

/*
 * Values that lie elsewhere (in a TOAST table, in an expanded object) or are
 * compressed become plain ones: the reader must not have to look anything up,
 * and what it would look up may be gone by then.
 */
static void
flatten(WeirStreamWriter *writer, const Datum *values, const bool *nulls)
{
	MemoryContext caller = MemoryContextSwitchTo(writer->mcxt);

	for (int i = 0; i < writer->desc->natts; i++)
	{
		writer->flat[i] = nulls[i] ? (Datum) 0 : values[i];
		if (!nulls[i] && TupleDescAttr(writer->desc, i)->attlen == -1)
		{
			struct varlena *value = (struct varlena *) DatumGetPointer(values[i]);

			if (VARATT_IS_EXTERNAL(value) || VARATT_IS_COMPRESSED(value))
				writer->flat[i] = PointerGetDatum(detoast_attr(value));
		}
	}
	MemoryContextSwitchTo(caller);
}

void
weir_stream_writer_flush(WeirStreamWriter *writer)
{
	StringInfo	message = &writer->message;
	MessageHeader *header = (MessageHeader *) message->data;

	if (writer->n_rows == 0)
		return;
	if (writer->subxact != GetCurrentSubTransactionId())
		elog(ERROR, "rows of another subtransaction are left");
	header->n_rows = writer->n_rows;
	compute_mac(message->data, message->len, GetTopTransactionId(),
				header->mac);
	weir_log_message(WEIR_STREAM_PREFIX, message->data, message->len);
	message->len = writer->rows_at;
	writer->n_rows = 0;
}

/* ---- the MAC ---- */

static ResourceOwner
owner_for_mac(void)
{
	static ResourceOwner owner = NULL;

	if (owner == NULL)
		owner = ResourceOwnerCreate(NULL, "pg_weir MAC");
	return owner;
}

static void
compute_mac(const char *message, Size len, TransactionId xid, uint8 *mac)
{
	const Size	before = offsetof(MessageHeader, mac);
	struct
	{
		Oid			database;
		TransactionId xid;
	}			place = {MyDatabaseId, xid};
	uint8		digest[PG_SHA256_DIGEST_LENGTH];
	pg_hmac_ctx *ctx;
	ResourceOwner caller;
	const char *failure = NULL;

	know_key();

	/* a worker between transactions has none, and the context wants one */
	caller = CurrentResourceOwner;
	if (caller == NULL)
		CurrentResourceOwner = owner_for_mac();
	ctx = pg_hmac_create(PG_SHA256);
	if (ctx == NULL ||
		pg_hmac_init(ctx, key, KEY_LEN) < 0 ||
		pg_hmac_update(ctx, (uint8 *) &place, sizeof(place)) < 0 ||
		pg_hmac_update(ctx, (const uint8 *) message, before) < 0 ||
		pg_hmac_update(ctx, (const uint8 *) message + sizeof(MessageHeader),
					   len - sizeof(MessageHeader)) < 0 ||
		pg_hmac_final(ctx, digest, sizeof(digest)) < 0)
		failure = pg_hmac_error(ctx);
	pg_hmac_free(ctx);
	CurrentResourceOwner = caller;
	if (failure != NULL)
		elog(ERROR, "could not compute the MAC of a message: %s", failure);
	memcpy(mac, digest, MAC_LEN);
}

/* In constant time: how far it is right must not show. */
static bool
is_right(const uint8 *mac, const uint8 *expected)
{
	uint8		difference = 0;

	for (int i = 0; i < MAC_LEN; i++)
		difference |= mac[i] ^ expected[i];
	return difference == 0;
}

/* In a transaction of its own if there is none. */
static void
know_key(void)
{
	static bool registered = false;
	MemoryContext caller = CurrentMemoryContext;
	bool		apart = !IsTransactionState();

	if (key_known)
		return;
	if (!registered)
	{
		CacheRegisterRelcacheCallback(forget_key, (Datum) 0);
		registered = true;
	}
	if (apart)
		StartTransactionCommand();
	read_key();
	if (apart)
	{
		CommitTransactionCommand();
		MemoryContextSwitchTo(caller);
	}
}

static void
read_key(void)
{
	Oid			table = weir_data_table("secret");
	Relation	rel;
	Snapshot	snapshot;
	SysScanDesc scan;
	HeapTuple	tuple;

	if (!OidIsValid(table))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("extension pg_weir is not installed in this database"),
				 errhint("Run CREATE EXTENSION pg_weir.")));
	rel = table_open(table, AccessShareLock);
	key_table = table;
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	scan = systable_beginscan(rel, InvalidOid, false, snapshot, 0, NULL);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		bool		isnull;
		Datum		value = heap_getattr(tuple, 1, RelationGetDescr(rel), &isnull);
		bytea	   *bytes = isnull ? NULL : DatumGetByteaPP(value);

		if (bytes != NULL && VARSIZE_ANY_EXHDR(bytes) == KEY_LEN)
		{
			memcpy(key, VARDATA_ANY(bytes), KEY_LEN);
			key_known = true;
		}
	}
	systable_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(rel, AccessShareLock);
	if (!key_known)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the key of push streams is missing"),
				 errdetail("Table weir_data.secret has to hold one row of %d bytes, made by CREATE EXTENSION.",
						   KEY_LEN),
				 errhint("Insert 32 random bytes into weir_data.secret, and restart the server.")));
}

/* Another session dropped the extension, or we have missed what happened. */
static void
forget_key(Datum arg, Oid relid)
{
	if (relid == key_table || relid == InvalidOid)
		key_known = false;
}

/* ---- reading ---- */

/*
 * Copies the header, which may lie anywhere; false if there is none.  Nobody
 * shall make the reader keep a gigabyte in memory only to find its MAC wrong.
 */
static bool
get_header(const char *message, Size len, MessageHeader *header)
{
	if (len < sizeof(MessageHeader) || len > LARGEST_MESSAGE)
		return false;
	memcpy(header, message, sizeof(MessageHeader));
	return header->magic == MESSAGE_MAGIC;
}

Oid
weir_stream_message_target(const char *message, Size len)
{
	MessageHeader header;

	return get_header(message, len, &header) ? header.stream : InvalidOid;
}

bool
weir_stream_message_open(WeirStreamRows *rows, Oid stream, TransactionId xid,
						 const char *message, Size len)
{
	MessageHeader header;
	uint8		expected[MAC_LEN];
	Size		columns_len;

	Assert(message == (const char *) MAXALIGN(message));
	if (!get_header(message, len, &header) || header.stream != stream)
		return false;
	compute_mac(message, len, xid, expected);
	if (!is_right(header.mac, expected))
		return false;
	if (header.version != MESSAGE_VERSION)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("a message of a push stream has format %d, this pg_weir reads %d",
						header.version, MESSAGE_VERSION),
				 errhint("Install the version of pg_weir that wrote it and call weir.resume, or let the view begin anew with weir.rebuild(view, true).")));

	columns_len = header.natts * sizeof(WeirStreamColumn);
	if (len - sizeof(MessageHeader) < columns_len)
		broken_message();
	rows->n = header.n_rows;
	rows->natts = header.natts;
	rows->columns = (const WeirStreamColumn *) (message + sizeof(MessageHeader));
	for (int i = 0; i < rows->natts; i++)
		check_column(&rows->columns[i]);
	rows->at = message + sizeof(MessageHeader) + columns_len;
	rows->end = message + len;
	return true;
}

bool
weir_stream_message_next(WeirStreamRows *rows, TupleDesc desc, Datum *values,
						 bool *nulls)
{
	const char *row = rows->at;
	const bits8 *bitmap = NULL;
	const RowHeader *header;
	const char *data;
	Size		room;
	Size		offset = 0;

	if (rows->end == row)
		return false;
	header = (const RowHeader *) row;
	if (rows->end - row < sizeof(RowHeader) ||
		rows->end - row < header->len ||
		header->len != MAXALIGN(header->len) ||
		header->data_at > header->len ||
		header->data_at != MAXALIGN(header->data_at) ||
		header->data_at < sizeof(RowHeader) +
		(header->has_nulls ? BITMAPLEN(rows->natts) : 0))
		broken_message();
	if (header->has_nulls)
		bitmap = (const bits8 *) row + sizeof(RowHeader);
	data = row + header->data_at;
	room = header->len - header->data_at;

	for (int i = 0; i < rows->natts; i++)
	{
		const WeirStreamColumn *column = &rows->columns[i];
		bool		known = i < desc->natts &&
		OidIsValid(column->type) &&
		TupleDescAttr(desc, i)->atttypid == column->type;
		Size		size;

		if (i < desc->natts)
		{
			values[i] = (Datum) 0;
			nulls[i] = true;
		}
		if (known &&
			(TupleDescAttr(desc, i)->attlen != column->len ||
			 TupleDescAttr(desc, i)->attbyval != column->byval ||
			 align_bytes(TupleDescAttr(desc, i)->attalign) != column->align))
			broken_message();
		if (bitmap != NULL && att_isnull(i, bitmap))
			continue;

		/* a varlena with a short header is not aligned, nor is it padded for */
		if (column->len != -1 || offset >= room || data[offset] == 0)
			offset = TYPEALIGN(column->align, offset);
		if (offset > room)
			broken_message();
		size = value_size(column, data + offset, room - offset);
		if (known)
		{
			values[i] = fetch_att(data + offset, column->byval, column->len);
			nulls[i] = false;
		}
		offset += size;
	}
	for (int i = rows->natts; i < desc->natts; i++)
	{
		values[i] = (Datum) 0;
		nulls[i] = true;
	}
	rows->at += header->len;
	return true;
}

/* The bytes of a value, which has at most `room` of them. */
static Size
value_size(const WeirStreamColumn *column, const char *value, Size room)
{
	Size		size = 0;

	if (column->len > 0)
		size = column->len;
	else if (column->len == -2)
		size = strnlen(value, room) + 1;
	else if (room > 0 && VARATT_IS_1B(value) && !VARATT_IS_1B_E(value))
		size = VARSIZE_1B(value);
	else if (room >= VARHDRSZ && VARATT_IS_4B_U(value) &&
			 value == (const char *) TYPEALIGN(column->align, value) &&
			 VARSIZE_4B(value) >= VARHDRSZ)
		size = VARSIZE_4B(value);
	if (size == 0 || size > room)
		broken_message();
	return size;
}

/* Is it one that a type can have? */
static void
check_column(const WeirStreamColumn *column)
{
	if (column->len == 0 || column->len < -2 ||
		column->align == 0 || column->align > MAXIMUM_ALIGNOF ||
		(column->align & (column->align - 1)) != 0 || column->byval > 1 ||
		(column->byval && column->len != 1 && column->len != 2 &&
		 column->len != 4 && column->len != 8))
		broken_message();
}

/* The MAC was right, so this is our own mistake and nobody's attack. */
static void
broken_message(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("a message of a push stream is broken"),
			 errhint("Its rows cannot be read. weir.rebuild(view, true) lets the view begin anew.")));
}

#ifdef WEIR_TEST
void
weir_stream_writer_show(WeirStreamWriter *writer, StringInfo out)
{
	((MessageHeader *) writer->message.data)->n_rows = writer->n_rows;
	appendBinaryStringInfo(out, writer->message.data, writer->message.len);
}

void
weir_stream_message_sign(char *message, Size len, TransactionId xid)
{
	if (len >= sizeof(MessageHeader))
		compute_mac(message, len, xid, ((MessageHeader *) message)->mac);
}
#endif							/* WEIR_TEST */
