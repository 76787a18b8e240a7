/*-------------------------------------------------------------------------
 *
 * wal_buffer.c
 *	  Decoded changes, between the reader and whoever folds them.
 *
 * Filled inside of decoding, emptied outside of it, never both at once.  It is
 * append-only: records lie one behind the other in chunks of a megabyte, in the
 * order in which they were told.  Transactions have a small record of their
 * own, elsewhere, because what is wrong with one is only known at its end.
 *
 *		full chunks, oldest first ---> file, if memory is used up ---> the chunk
 *										(whole chunks, oldest first)   being filled
 *
 * The file is a temporary one.  It is made before decoding begins, since to make
 * it may look at catalogs, and gone when the buffer is empty again.  Nothing
 * here survives a crash, or needs to: what was not folded is decoded again.
 *
 *-------------------------------------------------------------------------
 */
#include "source/wal_reader.h"

#include "miscadmin.h"
#include "storage/buffile.h"
#include "utils/memutils.h"

/* What is looked at together; larger only for a record that is larger. */
#define CHUNK_BYTES ((Size) 1024 * 1024)

/* Empty chunks that are kept: their pages need not be faulted in again. */
#define SPARE_CHUNKS 8

#define TXNS_PER_BLOCK 1024

Size		weir_wal_buffer_limit = (Size) 64 * 1024 * 1024;

typedef struct Chunk
{
	struct Chunk *next;
	Size		room;
	Size		used;
	char		data[FLEXIBLE_ARRAY_MEMBER];
} Chunk;

struct WalBuffer
{
	MemoryContext mcxt;
	MemoryContext notes;		/* what is broken, and why */

	/* full chunks in memory, the one being filled, empty ones */
	Chunk	   *first;
	Chunk	   *last;
	Chunk	   *filling;
	Chunk	   *spare;
	int			n_spare;
	Size		memory;			/* of full chunks */

	BufFile    *file;
	int64		n_in_file;		/* chunks that are not taken out yet */
	bool		file_used;
	bool		file_read;

	WeirTransaction **txns;		/* blocks */
	int			n_blocks;
	uint32		n_txns;

	Size		bytes;
	int64		n_changes;

	/* taking out */
	Chunk	   *taking;
	Size		at;
};

WalBuffer *
weir_wal_buffer_create(MemoryContext mcxt)
{
	WalBuffer  *buffer = MemoryContextAllocZero(mcxt, sizeof(WalBuffer));

	buffer->mcxt = AllocSetContextCreate(mcxt, "pg_weir changes",
										 ALLOCSET_DEFAULT_SIZES);
	buffer->notes = AllocSetContextCreate(mcxt, "pg_weir changes notes",
										  ALLOCSET_SMALL_SIZES);
	return buffer;
}

static void
close_file(WalBuffer *buffer)
{
	if (buffer->file != NULL)
		BufFileClose(buffer->file);
	buffer->file = NULL;
	buffer->file_used = false;
	buffer->file_read = false;
	buffer->n_in_file = 0;
}

/* Its memory goes with the context that it was created in. */
void
weir_wal_buffer_destroy(WalBuffer *buffer)
{
	close_file(buffer);
}

void
weir_wal_buffer_prepare(WalBuffer *buffer)
{
	MemoryContext old;

	if (buffer->file != NULL)
		return;
	old = MemoryContextSwitchTo(buffer->mcxt);
	/* across transactions: decoding begins and aborts its own */
	buffer->file = BufFileCreateTemp(true);
	MemoryContextSwitchTo(old);
}

static Chunk *
new_chunk(WalBuffer *buffer, Size room)
{
	Chunk	   *chunk = buffer->spare;

	if (chunk != NULL && room <= chunk->room)
	{
		buffer->spare = chunk->next;
		buffer->n_spare--;
	}
	else
	{
		room = Max(room, CHUNK_BYTES);
		chunk = MemoryContextAllocHuge(buffer->mcxt,
									   offsetof(Chunk, data) + room);
		chunk->room = room;
	}
	chunk->next = NULL;
	chunk->used = 0;
	return chunk;
}

static void
free_chunk(WalBuffer *buffer, Chunk *chunk)
{
	if (chunk->room != CHUNK_BYTES || buffer->n_spare >= SPARE_CHUNKS)
	{
		pfree(chunk);
		return;
	}
	chunk->next = buffer->spare;
	buffer->spare = chunk;
	buffer->n_spare++;
}

void
weir_wal_buffer_reset(WalBuffer *buffer)
{
	while (buffer->first != NULL)
	{
		Chunk	   *chunk = buffer->first;

		buffer->first = chunk->next;
		free_chunk(buffer, chunk);
	}
	buffer->last = NULL;
	if (buffer->filling != NULL)
		free_chunk(buffer, buffer->filling);
	if (buffer->taking != NULL)
		free_chunk(buffer, buffer->taking);
	buffer->filling = buffer->taking = NULL;
	buffer->memory = 0;
	if (buffer->file_used)
		close_file(buffer);
	for (int i = 1; i < buffer->n_blocks; i++)
		pfree(buffer->txns[i]);
	buffer->n_blocks = Min(buffer->n_blocks, 1);
	buffer->n_txns = 0;
	buffer->bytes = 0;
	buffer->n_changes = 0;
	MemoryContextReset(buffer->notes);
}

/* ------------------------------------------------------------------ filling */

WeirTransaction *
weir_wal_buffer_begin(WalBuffer *buffer)
{
	int			block = buffer->n_txns / TXNS_PER_BLOCK;
	WeirTransaction *txn;

	if (block >= buffer->n_blocks)
	{
		Size		size = sizeof(WeirTransaction *) * (block + 1);

		if (buffer->txns == NULL)
			buffer->txns = MemoryContextAlloc(buffer->mcxt, size);
		else
			buffer->txns = repalloc(buffer->txns, size);
		buffer->txns[block] =
			MemoryContextAlloc(buffer->mcxt,
							   sizeof(WeirTransaction) * TXNS_PER_BLOCK);
		buffer->n_blocks = block + 1;
	}
	txn = &buffer->txns[block][buffer->n_txns % TXNS_PER_BLOCK];
	memset(txn, 0, sizeof(*txn));
	buffer->n_txns++;
	buffer->bytes += sizeof(*txn);
	return txn;
}

/* The chunk is full: it stays in memory or goes to the file. */
static void
put_away(WalBuffer *buffer, Chunk *chunk)
{
	if (!buffer->file_used &&
		buffer->memory + chunk->used <= weir_wal_buffer_limit)
	{
		if (buffer->last != NULL)
			buffer->last->next = chunk;
		else
			buffer->first = chunk;
		buffer->last = chunk;
		buffer->memory += chunk->used;
		return;
	}
	if (buffer->file == NULL)
		elog(ERROR, "the buffer of changes has no file");
	BufFileWrite(buffer->file, &chunk->used, sizeof(Size));
	BufFileWrite(buffer->file, chunk->data, chunk->used);
	buffer->file_used = true;
	buffer->n_in_file++;
	free_chunk(buffer, chunk);
}

WalRecord *
weir_wal_buffer_add(WalBuffer *buffer, WeirChangeKind kind, Size payload)
{
	Size		len = WAL_RECORD_HEADER + MAXALIGN(payload);
	Chunk	   *chunk = buffer->filling;
	WalRecord  *record;

	if (unlikely(chunk == NULL || chunk->room - chunk->used < len))
	{
		buffer->filling = NULL;
		if (chunk != NULL)
			put_away(buffer, chunk);
		chunk = buffer->filling = new_chunk(buffer, len);
	}
	record = (WalRecord *) (chunk->data + chunk->used);
	chunk->used += len;
	memset(record, 0, sizeof(*record));
	record->len = len;
	record->kind = kind;
	record->txn = buffer->n_txns - 1;
	buffer->bytes += len;
	buffer->n_changes++;
	return record;
}

Size
weir_wal_buffer_bytes(const WalBuffer *buffer)
{
	return buffer->bytes;
}

int64
weir_wal_buffer_changes(const WalBuffer *buffer)
{
	return buffer->n_changes;
}

MemoryContext
weir_wal_buffer_context(const WalBuffer *buffer)
{
	return buffer->notes;
}

/* --------------------------------------------------------------- taking out */

static void
read_file(WalBuffer *buffer, void *to, Size len)
{
	if (BufFileRead(buffer->file, to, len) != len)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not read changes back from a temporary file: %m")));
}

static Chunk *
chunk_from_file(WalBuffer *buffer)
{
	Chunk	   *chunk;
	Size		len;

	if (!buffer->file_read && BufFileSeek(buffer->file, 0, 0, SEEK_SET) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not read changes back from a temporary file: %m")));
	buffer->file_read = true;
	read_file(buffer, &len, sizeof(len));
	chunk = new_chunk(buffer, len);
	buffer->taking = chunk;
	read_file(buffer, chunk->data, len);
	chunk->used = len;
	buffer->n_in_file--;
	return chunk;
}

bool
weir_wal_buffer_next_chunk(WalBuffer *buffer)
{
	if (buffer->taking != NULL)
		free_chunk(buffer, buffer->taking);
	buffer->taking = NULL;
	buffer->at = 0;
	if (buffer->first != NULL)
	{
		buffer->taking = buffer->first;
		buffer->first = buffer->taking->next;
		if (buffer->first == NULL)
			buffer->last = NULL;
		buffer->memory -= buffer->taking->used;
	}
	else if (buffer->n_in_file > 0)
		(void) chunk_from_file(buffer);
	else
	{
		buffer->taking = buffer->filling;
		buffer->filling = NULL;
	}
	return buffer->taking != NULL;
}

bool
weir_wal_buffer_next(WalBuffer *buffer, WeirChange *change)
{
	const WalRecord *record;

	if (buffer->taking == NULL || buffer->at >= buffer->taking->used)
		return false;
	record = (const WalRecord *) (buffer->taking->data + buffer->at);
	buffer->at += record->len;
	change->kind = record->kind;
	change->txn = &buffer->txns[record->txn / TXNS_PER_BLOCK]
		[record->txn % TXNS_PER_BLOCK];
	change->internal = record;
	if (record->shape != NULL)
	{
		change->n_sources = record->shape->n_sources;
		change->sources = record->shape->sources;
		change->message = NULL;
		change->message_len = 0;
	}
	else
	{
		change->n_sources = record->n_sources;
		change->sources = (const Oid *) wal_record_payload(record);
		change->message = wal_record_payload(record) +
			MAXALIGN(sizeof(Oid) * record->n_sources);
		change->message_len = record->new_len;
	}
	return true;
}
