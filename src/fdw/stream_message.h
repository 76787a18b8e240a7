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

/* The prefix of our messages. */
#define WEIR_STREAM_PREFIX "pg_weir"

/* The largest row, in bytes. */
#define WEIR_STREAM_MAX_ROW (16 * 1024 * 1024)

/*
 * The relation that a message is for, from its header alone: no catalog, no
 * MAC.  InvalidOid when it is none of ours.  Called inside of decoding.
 */
extern Oid	weir_stream_message_target(const char *message, Size len);

typedef struct WeirStreamRows
{
	int			n;				/* rows */
	int			natts;			/* when it was written */
	const char *at;				/* the next row */
	const char *end;
} WeirStreamRows;

/*
 * Checks the MAC and begins to read.  False for a message that is not what
 * pg_weir wrote for this stream in this transaction: it is counted and ignored.
 * Needs a transaction, to read the key once per process.
 */
extern bool weir_stream_message_open(WeirStreamRows *rows, Oid stream,
									 TransactionId xid, const char *message,
									 Size len);

/*
 * The next row, in the columns of desc (the stream as it is now; columns that
 * came later are NULL).  Values by reference point into the message.  False at
 * the end.
 */
extern bool weir_stream_message_next(WeirStreamRows *rows, TupleDesc desc,
									 Datum *values, bool *nulls);

#endif							/* WEIR_STREAM_MESSAGE_H */
