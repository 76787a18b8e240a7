/*-------------------------------------------------------------------------
 *
 * decode.h
 *	  Bytes to typed rows.
 *
 * A decoder is made once for a stream and the columns that somebody wants,
 * and then turns messages into Datums.  A message that it cannot decode costs
 * that message alone.
 *
 *-------------------------------------------------------------------------
 */
#ifndef WEIR_DECODE_H
#define WEIR_DECODE_H

#include "weir.h"
#include "access/tupdesc.h"
#include "nodes/bitmapset.h"
#include "source/source.h"

typedef struct WeirDecoder WeirDecoder;

typedef enum WeirVerdict
{
	WEIR_ROW,					/* values and nulls are filled */
	WEIR_SKIP,					/* a tombstone: counted, no row */
	WEIR_BAD					/* error is filled: a dead letter */
} WeirVerdict;

/* Why a message is bad; message points into the decoder or is constant. */
typedef struct WeirDecodeError
{
	int			sqlstate;
	const char *message;
} WeirDecodeError;

/* Where a column comes from. */
typedef enum WeirFieldKind
{
	WEIR_FIELD_VALUE,			/* from the payload */
	WEIR_FIELD_KEY,
	WEIR_FIELD_PARTITION,
	WEIR_FIELD_OFFSET,
	WEIR_FIELD_TIMESTAMP,
	WEIR_FIELD_HEADERS
} WeirFieldKind;

/* Of the column option `metadata`, NULL if it is not set.  22023 for another value. */
extern WeirFieldKind weir_parse_metadata(const char *value);

/*
 * Makes a decoder for a foreign table: table option `format` (json, csv,
 * text, bytes; with csv `delimiter`, `quote`, `escape`, `null`), column
 * options `path` (JSON: names separated by dots, a name with a dot in double
 * quotes) and `metadata`.  `wanted` holds attribute numbers (not offset); a
 * whole-row need passes all.  All memory comes from mcxt.  Needs a
 * transaction (catalog look-ups).
 *
 * Errors: 22023 for a bad option, 42804 for a column whose type cannot carry
 * its metadata.
 */
extern WeirDecoder *weir_decoder_create(Oid foreign_table, TupleDesc desc,
										const Bitmapset *wanted,
										MemoryContext mcxt);

/*
 * Decodes one message.  values and nulls have desc->natts entries and are
 * written for wanted columns only; Datums by reference are allocated in
 * CurrentMemoryContext.  An absent field is NULL, unless the column or its
 * domain is NOT NULL: then the message is bad.  After WEIR_BAD and WEIR_SKIP,
 * and when it raises, values and nulls hold nothing of use.
 *
 * Errors that the decoder finds itself come back as WEIR_BAD: what is wrong
 * with the message as a whole, and every conversion to a number, boolean,
 * text or uuid.  Input functions of other types may raise; the caller
 * catches, inside a subtransaction.  (From 16 on nearly all come back softly,
 * on 15 a malformed time or numeric raises.)  Interrupts are not served: a
 * message is at most 16 MB.
 *
 * SQLSTATEs of WEIR_BAD: 22P02 no JSON, or not of the column's type; 22032
 * JSON but no object; 22021 no UTF-8; 22P05 \u0000 in text; 22003 out of
 * range; 22001 too long; 22P04 no CSV record of the right length; 23502 NULL;
 * 54000 larger than 16 MB; 54001 nested deeper than 1,000; and those of the
 * input functions.
 */
extern WeirVerdict weir_decode(WeirDecoder *decoder,
							   const WeirMessage *message,
							   Datum *values, bool *nulls,
							   WeirDecodeError *error);

/* Raises what is wrong with the table's and the columns' options, at DDL. */
extern void weir_decoder_check(Oid foreign_table, TupleDesc desc);

#endif							/* WEIR_DECODE_H */
