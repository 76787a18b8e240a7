/*-------------------------------------------------------------------------
 *
 * wal_reader.h
 *	  What the files that read the WAL share.
 *
 *		wal_reader.c	decodes; inside of decoding it has called
 *		wal_tell.c		what decoding tells, which asks
 *		wal_shapes.c	which changes are wanted, and what their columns mean
 *		wal_leaves.c	what has become of the watched relations themselves
 *		wal_buffer.c	keeps what was decoded, until it is taken out
 *
 *-------------------------------------------------------------------------
 */
#ifndef WEIR_WAL_READER_H
#define WEIR_WAL_READER_H

#include "source/changes.h"
#include "access/xlogutils.h"
#include "replication/logical.h"
#include "replication/reorderbuffer.h"
#include "utils/rel.h"

/* ---- wal_shapes.c ---- */

/* How the columns of a relation become those of one of its sources. */
typedef struct WalColumns
{
	int			n;				/* wanted columns */
	int		   *place;			/* per column of the relation, up to the last
								 * wanted one: where it goes, or -1 */
	int			n_absent;
	int		   *absent;			/* places that no column of it fills */
	int			n_varlena;
	int		   *varlena;		/* places of what could be compressed */
	Bitmapset  *unidentified;	/* of the source: not in the replica identity */
} WalColumns;

/* What one needs to know of a column to step over it. */
typedef struct WalColumn
{
	int			offset;			/* -1: it depends on the row */
	int16		len;
	bool		byval;
	char		align;
} WalColumn;

/*
 * A relation as it was at some position.  Changes in the buffer point to it, so
 * that it outlives its time until the buffer is empty.
 */
typedef struct WalShape
{
	Oid			relid;
	MemoryContext mcxt;
	int			n_sources;
	Oid		   *sources;		/* watched relations, itself or above it */
	WalColumns *columns;		/* per source */
	Bitmapset  *wanted;			/* of its columns, by any of them */
	int			natts;			/* up to the last wanted one */
	WalColumn  *atts;
	bool	   *missing_nulls;	/* NULL: rows that lack columns have NULLs */
	Datum	   *missing;
} WalShape;

/* A watched relation, and what is below it if it is partitioned. */
typedef struct WalWatch
{
	Oid			relid;			/* hash key */
	Bitmapset  *wanted;
	bool		is_stream;
	bool		look;			/* may have changed: see wal_leaves.c */
	bool		known;			/* leaves and parts are */
	List	   *leaves;			/* OIDs */
	List	   *parts;			/* OIDs, leaves and what is between */
} WalWatch;

typedef struct WalShapes WalShapes;

extern WalShapes *weir_wal_shapes_create(MemoryContext mcxt);

/* Never raises. */
extern void weir_wal_shapes_destroy(WalShapes *shapes);

/* Nothing in the buffer: frees the shapes of the past. */
extern void weir_wal_shapes_tidy(WalShapes *shapes);

/* As weir_wal_watch(). */
extern void weir_wal_shapes_watch(WalShapes *shapes, List *watched);

/*
 * The shape of a relation as it is in the historic snapshot, NULL if nobody
 * watches it.  Inside of decoding.
 */
extern WalShape *weir_wal_shape(WalShapes *shapes, Relation rel);

extern WalWatch *weir_wal_find_watch(WalShapes *shapes, Oid relid);

/* The watches that are due for a look; resets the mark of the set. */
extern bool weir_wal_must_look(const WalShapes *shapes);
extern List *weir_wal_due_looks(WalShapes *shapes);

/* Those whose parts are not known. */
extern List *weir_wal_unknown_parts(WalShapes *shapes);

/* A watch's parts are these now. */
extern void weir_wal_set_parts(WalShapes *shapes, WalWatch *watch,
							   List *leaves, List *parts);

/*
 * The catalog caches may hold what was true at another time.  Called wherever
 * decoding begins and ends, with the position: flushes them if definitions
 * have changed between there and now.
 */
extern void weir_wal_change_time(WalShapes *shapes, XLogRecPtr position);

/* ---- wal_buffer.c ---- */

/* A change in the buffer; its payload follows. */
typedef struct WalRecord
{
	Size		len;			/* with the payload */
	const WalShape *shape;		/* of rows */
	uint32		txn;
	uint32		kind;			/* WeirChangeKind */
	uint32		n_sources;		/* their OIDs come first, unless of rows */
	uint32		old_len;		/* of the old tuple */
	uint32		new_len;		/* of the new tuple, or the message */
} WalRecord;

#define WAL_RECORD_HEADER MAXALIGN(sizeof(WalRecord))
#define wal_record_payload(r) ((char *) (r) + WAL_RECORD_HEADER)

typedef struct WalBuffer WalBuffer;

extern WalBuffer *weir_wal_buffer_create(MemoryContext mcxt);
extern void weir_wal_buffer_destroy(WalBuffer *buffer);

/* Forgets all. */
extern void weir_wal_buffer_reset(WalBuffer *buffer);

/* Outside of decoding, before something may be added. */
extern void weir_wal_buffer_prepare(WalBuffer *buffer);

/* Begins a transaction; the pointer holds until the next reset. */
extern WeirTransaction *weir_wal_buffer_begin(WalBuffer *buffer);

/* Adds a change to the last transaction; the caller fills the payload. */
extern WalRecord *weir_wal_buffer_add(WalBuffer *buffer, WeirChangeKind kind,
									  Size payload);

extern Size weir_wal_buffer_bytes(const WalBuffer *buffer);
extern int64 weir_wal_buffer_changes(const WalBuffer *buffer);
extern MemoryContext weir_wal_buffer_context(const WalBuffer *buffer);

/* The other side, as weir_wal_next_chunk() and weir_wal_next(). */
extern bool weir_wal_buffer_next_chunk(WalBuffer *buffer);
extern bool weir_wal_buffer_next(WalBuffer *buffer, WeirChange *change);

/* In memory, in bytes; beyond that the buffer goes to a file.  For tests. */
extern Size weir_wal_buffer_limit;

/* ---- wal_leaves.c ---- */

/* A relation that was changed, and with which shape. */
typedef struct WalTouched
{
	Oid			relid;
	const WalShape *shape;		/* NULL: nobody watched it */
} WalTouched;

typedef void (*WalBreak) (void *arg, Oid source, bool even_append_only,
						  const char *message, const char *detail,
						  const char *hint);

/*
 * At the end of a transaction, under its historic snapshot: looks at the watched
 * relations that may have changed, and reports what of it cannot be followed.
 * `touched` are the relations that it wrote to.
 */
extern void weir_wal_look(WalShapes *shapes, ReorderBufferTXN *txn,
						  List *touched, WalBreak report, void *arg);

/* At the beginning of one: finds the parts that are not known. */
extern void weir_wal_look_first(WalShapes *shapes);

/* ---- wal_reader.c ---- */

/* The commits that weir_wal_has_told() remembers. */
#define TOLD_XIDS 65536

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

/* ---- wal_tell.c ---- */

/* The context's private data is the reader. */
extern void weir_wal_set_callbacks(LogicalDecodingContext *ctx);

#endif							/* WEIR_WAL_READER_H */
