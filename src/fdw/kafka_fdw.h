/*-------------------------------------------------------------------------
 *
 * kafka_fdw.h
 *	  What the files of the Kafka foreign data wrapper share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef WEIR_KAFKA_FDW_H
#define WEIR_KAFKA_FDW_H

#include "weir.h"

#include "decode/decode.h"
#include "foreign/fdwapi.h"
#include "lib/stringinfo.h"
#include "source/kafka_handle.h"

/* What metadata option a column has; WEIR_FIELD_VALUE without one. */
extern WeirFieldKind weir_kafka_field(Oid foreign_table, AttrNumber attno);

/*
 * A comparison that narrows what is read.  kafka_quals.c
 */
typedef struct WeirKafkaQual
{
	WeirFieldKind field;		/* partition, offset or timestamp */
	int			strategy;		/* BTLessStrategyNumber, ... */
	bool		any;			/* field = ANY (array) */
	Oid			type;			/* of the value, or of the array's elements */
	Expr	   *value;			/* has no column in it */
} WeirKafkaQual;

/* What the comparisons come to at the start of a scan. */
typedef struct WeirKafkaBounds
{
	bool		nothing;		/* they exclude each other */
	int64		first_partition;
	int64		end_partition;	/* exclusive */
	bool		listed;			/* and only those in `partitions` */
	Bitmapset  *partitions;
	int64		low;			/* first offset */
	int64		high;			/* one past the last offset */
	TimestampTz since;			/* DT_NOBEGIN: no lower bound */
} WeirKafkaBounds;

extern bool weir_kafka_qual(Index varno, Oid foreign_table, Expr *clause,
							WeirKafkaQual *qual);
extern void weir_kafka_bounds_init(WeirKafkaBounds *bounds);
extern void weir_kafka_bounds_add(WeirKafkaBounds *bounds,
								  const WeirKafkaQual *qual,
								  Datum value, bool isnull);
extern bool weir_kafka_bounds_partition(const WeirKafkaBounds *bounds,
										int32 partition);

/* kafka_scan.c */
extern void weir_kafka_begin_scan(ForeignScanState *node, int eflags);
extern TupleTableSlot *weir_kafka_iterate_scan(ForeignScanState *node);
extern void weir_kafka_rescan(ForeignScanState *node);
extern void weir_kafka_end_scan(ForeignScanState *node);
struct ExplainState;
extern void weir_kafka_explain_scan(ForeignScanState *node,
									struct ExplainState *es);

/* kafka_insert.c */
extern void weir_kafka_begin_modify(ModifyTableState *mtstate,
									ResultRelInfo *result_rel, List *private,
									int subplan, int eflags);
extern void weir_kafka_begin_insert(ModifyTableState *mtstate,
									ResultRelInfo *result_rel);
extern TupleTableSlot *weir_kafka_insert(EState *estate,
										 ResultRelInfo *result_rel,
										 TupleTableSlot *slot,
										 TupleTableSlot *plan_slot);
extern void weir_kafka_end_modify(EState *estate, ResultRelInfo *result_rel);

/*
 * Rows to messages: the way back of decode.h.  kafka_encode.c
 */
typedef struct WeirEncoder WeirEncoder;

/* All memory belongs to the encoder's caller's current context. */
typedef struct WeirOutMessage
{
	char	   *payload;		/* NULL is a tombstone */
	size_t		len;			/* bytes */
	char	   *key;			/* NULL for no key */
	size_t		key_len;		/* bytes */
	int32		partition;		/* -1: by the key */
	int64		timestamp_ms;	/* since 1970; 0: now */
	int			n_headers;
	char	  **header_names;
	char	  **header_values;	/* NULL is a null value */
	size_t	   *header_lens;	/* bytes */
} WeirOutMessage;

extern WeirEncoder *weir_encoder_create(Oid foreign_table, TupleDesc desc);
extern void weir_encode(WeirEncoder *encoder, TupleTableSlot *slot,
						WeirOutMessage *message);

#endif							/* WEIR_KAFKA_FDW_H */
