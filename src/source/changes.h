/*-------------------------------------------------------------------------
 *
 * changes.h
 *	  Changes of tables of this database, and rows pushed into streams, as
 *	  logical decoding tells them.
 *
 * A worker reads the WAL of its own database through one replication slot.  The
 * reader decodes whole transactions, in the order of their commits, and keeps the
 * changes of the relations that somebody watches; the worker then takes them out
 * in chunks, outside of any historic snapshot, and folds them.
 *
 * A *source* is a relation that a view names in FROM: a table, a partitioned
 * table, or a push stream.  A change of a leaf is a change of each watched
 * relation above it, with its columns brought into that relation's order.
 *
 *-------------------------------------------------------------------------
 */
#ifndef WEIR_CHANGES_H
#define WEIR_CHANGES_H

#include "weir.h"
#include "access/tupdesc.h"
#include "access/xlogdefs.h"
#include "nodes/bitmapset.h"

/* ---- wal_slot.c: the replication slot of this database ---- */

/* 'pg_weir_<database oid>' of this database; palloc'd. */
extern char *weir_slot_name(Oid database);

typedef enum WeirSlotHealth
{
	WEIR_REPLSLOT_NONE,			/* there is no slot of this name */
	WEIR_REPLSLOT_FOREIGN,		/* of another database or plugin, or physical */
	WEIR_REPLSLOT_BUSY,			/* another process has it */
	WEIR_REPLSLOT_LOST,			/* invalidated: WAL or rows that it needs are gone */
	WEIR_REPLSLOT_GOOD
} WeirSlotHealth;

typedef struct WeirSlotInfo
{
	WeirSlotHealth health;
	XLogRecPtr	confirmed;		/* changes before it are never told again */
	XLogRecPtr	restart;		/* WAL is kept from here on */
	int			busy_pid;
} WeirSlotInfo;

/* Looks at the slot without acquiring it.  Any process. */
extern WeirSlotInfo weir_slot_inspect(const char *name);

/*
 * Creates the slot (plugin pgoutput; from 17 on a failover slot) and leaves it
 * free.  Waits, interruptibly, until all transactions that write now have
 * ended.  Opens and ends a transaction of its own.  Returns the position from
 * which on it tells changes.
 *
 * Errors: 55000 wal_level is below logical, or on a standby; 53400 no free slot.
 * Each with a hint.
 */
extern XLogRecPtr weir_slot_create(const char *name);

/* Drops it if it is there and free; false if another process has it. */
extern bool weir_slot_drop(const char *name);

/*
 * What CREATE of a view over a table can tell its user beforehand: raises 55000
 * or 53400, with a hint, when there could be no slot.
 */
extern void weir_slot_check_possible(void);

/* ---- wal_reader.c ---- */

typedef struct WeirWalReader WeirWalReader;

/* A watched relation. */
typedef struct WeirWatched
{
	Oid			relid;
	Bitmapset  *wanted;			/* its attribute numbers, not offset */
	List	   *leaves;			/* OIDs of the leaves that are known, of a
								 * partitioned table; NIL: not known yet, take
								 * what is found first */
	bool		is_stream;		/* a push stream */
} WeirWatched;

/*
 * Acquires the slot and begins to decode: every transaction whose commit ends
 * after `start` is told.  In a transaction (facts: else VACUUM ignores our
 * snapshots later).  The reader lives in a context of its own, below
 * TopMemoryContext.
 *
 * Errors: those of the slot; after any error here or in weir_wal_read() the
 * caller closes the reader.
 */
extern WeirWalReader *weir_wal_open(const char *slot_name, XLogRecPtr start);

/* Releases the slot.  Never raises. */
extern void weir_wal_close(WeirWalReader *reader);

/* Replaces the set of watched relations (copied).  Between reads. */
extern void weir_wal_watch(WeirWalReader *reader, List *watched);

/* The known leaves of a watched partitioned table, as of the position. */
extern List *weir_wal_leaves(const WeirWalReader *reader, Oid relid);

/*
 * Decodes what is flushed, until the buffer holds about max_bytes, max_us have
 * passed, or the definitions of views have changed; always whole transactions.
 * Not in a transaction, and never waits.  Afterwards the changes are taken with
 * weir_wal_next_chunk().  Returns the number of changes.
 */
extern int64 weir_wal_read(WeirWalReader *reader, Size max_bytes,
						   int64 max_us);

/* All transactions that committed before this position have been told. */
extern XLogRecPtr weir_wal_position(const WeirWalReader *reader);

/*
 * A transaction that touched weir_data.views ended the last read: definitions
 * may have changed at exactly this position.  Its xid; it may not be visible
 * yet, since the commit record comes first.  InvalidTransactionId if none.
 */
extern TransactionId weir_wal_ddl_xid(const WeirWalReader *reader);

/* True when the reader told the commit of this top-level transaction lately. */
extern bool weir_wal_has_told(const WeirWalReader *reader, TransactionId xid);

/* The same for this one or any of a later xid. */
extern bool weir_wal_has_told_from(const WeirWalReader *reader,
								   TransactionId xid);

/* The end of all WAL that is inserted, flushed or not. */
extern XLogRecPtr weir_wal_end(void);

/*
 * The slot need not tell again what is before lsn.  The caller has made sure that
 * what it derived from it is flushed.
 */
extern void weir_wal_confirm(WeirWalReader *reader, XLogRecPtr lsn);
extern XLogRecPtr weir_wal_confirmed(const WeirWalReader *reader);

/* Why a source cannot be followed from a transaction on. */
typedef struct WeirBroken
{
	Oid			source;
	bool		even_append_only;	/* else views that only take inserts go on */
	Bitmapset  *missing;		/* only views that want one of these columns of
								 * the source are concerned; NULL: all are */
	int			sqlstate;
	char	   *message;
	char	   *detail;
	char	   *hint;
} WeirBroken;

/* A transaction in the buffer. */
typedef struct WeirTransaction
{
	TransactionId xid;			/* top-level */
	XLogRecPtr	begin;			/* of its commit record: who committed before it
								 * ends there at the latest */
	XLogRecPtr	end;			/* of its commit record */
	TimestampTz time;			/* of the commit */
	List	   *broken;			/* of WeirBroken: known before its first change */
} WeirTransaction;

typedef enum WeirChangeKind
{
	WEIR_CHANGE_INSERT,
	WEIR_CHANGE_UPDATE,			/* old and new */
	WEIR_CHANGE_DELETE,			/* old */
	WEIR_CHANGE_TRUNCATE,		/* all rows of the source are gone */
	WEIR_CHANGE_PUSHED,			/* a message of rows: fdw/stream_message.h */
	WEIR_CHANGE_END				/* of the transaction, if it has broken sources */
} WeirChangeKind;

/*
 * One change.  `sources` are the watched relations that it belongs to, usually
 * one.  Pointers hold until the next weir_wal_next_chunk().
 */
typedef struct WeirChange
{
	WeirChangeKind kind;
	const WeirTransaction *txn;
	int			n_sources;
	const Oid  *sources;
	const char *message;		/* of WEIR_CHANGE_PUSHED */
	Size		message_len;
	const void *internal;		/* the reader's */
} WeirChange;

/*
 * The next chunk of the buffer, of which all changes can be looked at together;
 * false when there is none.  May read what was spilled to a temporary file.
 */
extern bool weir_wal_next_chunk(WeirWalReader *reader);
extern bool weir_wal_next(WeirWalReader *reader, WeirChange *change);

/*
 * Fills values and nulls (as many as the source has attributes; only wanted
 * columns are written) with the old or the new row of a change, in the order of
 * the i-th of its sources.  By-reference values point into the chunk, or are
 * allocated in CurrentMemoryContext where they were compressed or stored out of
 * line: varlenas come as plain ones or with a short header, never toasted.
 *
 * False when the change has no such row (an update that left the replica
 * identity alone has no old row if the identity is not FULL: then all
 * wanted columns are the new row's, or the source is broken).
 */
extern bool weir_change_row(const WeirChange *change, int i, bool old,
							Datum *values, bool *nulls);

#endif							/* WEIR_CHANGES_H */
