/*-------------------------------------------------------------------------
 *
 * stream_message.h
 *	  Rows that were pushed into a stream, as one logical message.
 *
 * INSERT and COPY write messages, the worker reads them.  A message says which
 * stream it is for and carries a MAC over (database, stream, transaction,
 * payload), since anybody may call pg_logical_emit_message().
 *
 *-------------------------------------------------------------------------
 */
#ifndef WEIR_STREAM_MESSAGE_H
#define WEIR_STREAM_MESSAGE_H

#include "weir.h"
#include "access/tupdesc.h"
#include "executor/tuptable.h"
#include "lib/stringinfo.h"

/* The prefix of our messages. */
#define WEIR_STREAM_PREFIX "pg_weir"

/* The largest row, in bytes. */
#define WEIR_STREAM_MAX_ROW (16 * 1024 * 1024)

/* ---- writing: backends ---- */

typedef struct WeirStreamWriter WeirStreamWriter;

/*
 * Collects rows of a stream; lives in CurrentMemoryContext.  `desc` is the
 * stream's and outlives the writer.  Must be flushed in the subtransaction in
 * which the rows came, or they would share another one's fate.
 */
extern WeirStreamWriter *weir_stream_writer_create(Oid stream, TupleDesc desc);

/*
 * Adds a row, of which nothing is referred to afterwards; writes a message when
 * enough rows have come together.  54000 for a row of more than 16 MB.
 */
extern void weir_stream_writer_add(WeirStreamWriter *writer,
								   const Datum *values, const bool *nulls);

/* Writes what is left.  Assigns a transaction id if there is anything. */
extern void weir_stream_writer_flush(WeirStreamWriter *writer);

/* ---- reading: the worker ---- */

/*
 * The relation that a message is for, from its header alone: no catalog, no
 * MAC.  InvalidOid when it is none of ours, or larger than any.  Called inside of decoding; the
 * message may lie anywhere.
 */
extern Oid	weir_stream_message_target(const char *message, Size len);

typedef struct WeirStreamRows
{
	int			n;				/* rows, of which some may have been read */
	int			natts;			/* when it was written */
	const struct WeirStreamColumn *columns; /* likewise */
	const char *at;				/* the next row */
	const char *end;
} WeirStreamRows;

/*
 * Checks the MAC and begins to read.  False for a message that is not what
 * pg_weir wrote for this stream in this transaction: it is counted and ignored.
 * Raises 0A000 for one that is genuine and of a format that this build does not
 * know, and XX001, here or at any row, for one that is broken.  xid is the top-level transaction's.  The message has to begin at a multiple of
 * MAXALIGN.
 *
 * Needs the catalog of now to read the key, once per process and again when the
 * extension may have been dropped: not inside of decoding.  Begins a transaction
 * for that if there is none; raises 55000 when there is no key, with that
 * transaction open.
 */
extern bool weir_stream_message_open(WeirStreamRows *rows, Oid stream,
									 TransactionId xid, const char *message,
									 Size len);

/*
 * The next row, in the columns of desc (the stream as it is now).  Columns that
 * came later are NULL, and so are those that have another type now: core lets
 * nobody change the type of a column that a view reads.  Values by reference
 * point into the message: plain, or varlenas with a short header; they are never
 * toasted.  False at the end.
 */
extern bool weir_stream_message_next(WeirStreamRows *rows, TupleDesc desc,
									 Datum *values, bool *nulls);

#ifdef WEIR_TEST
/* The message so far, without a MAC, which the other one makes right. */
extern void weir_stream_writer_show(WeirStreamWriter *writer, StringInfo out);
extern void weir_stream_message_sign(char *message, Size len,
									 TransactionId xid);
#endif

#endif							/* WEIR_STREAM_MESSAGE_H */
