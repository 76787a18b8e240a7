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

/*
 * Makes a decoder for a foreign table: table option `format` (json, csv,
 * text, bytes; with csv `delimiter`, `quote`, `escape`, `null`), column
 * options `path` (JSON: names separated by dots) and `metadata`.  `wanted`
 * holds attribute numbers (not offset); a whole-row need passes all.  All memory
 * comes from mcxt.  Needs a transaction (catalog look-ups).
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
 * CurrentMemoryContext or point into the message.  They may be NULL-filled
 * for columns whose field is absent.
 *
 * Errors that the decoder finds itself come back as WEIR_BAD.  Input
 * functions of types without a direct conversion may raise; the caller
 * catches, inside a subtransaction.
 */
extern WeirVerdict weir_decode(WeirDecoder *decoder,
							   const WeirMessage *message,
							   Datum *values, bool *nulls,
							   WeirDecodeError *error);

/* Raises what is wrong with the table's and the columns' options, at DDL. */
extern void weir_decoder_check(Oid foreign_table, TupleDesc desc);

#endif							/* WEIR_DECODE_H */
