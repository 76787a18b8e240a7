/*-------------------------------------------------------------------------
 *
 * source.h
 *	  Where messages come from.
 *
 * A worker opens one consumer for a topic, assigns partitions with the
 * positions that it has committed itself, waits on the consumer's file
 * descriptor next to its latch, and polls without blocking.  The broker's
 * committed offsets are written for lag tools and never read.
 *
 *-------------------------------------------------------------------------
 */
#ifndef WEIR_SOURCE_H
#define WEIR_SOURCE_H

#include "weir.h"

typedef enum WeirMessageKind
{
	WEIR_RECORD,				/* a message; payload NULL is a tombstone */
	WEIR_END_OF_PARTITION,		/* all before `offset` has been delivered */
	WEIR_GAP,					/* the assigned offset is gone: stall */
	WEIR_SOURCE_ERROR			/* see `payload` for the text; sqlstate set */
} WeirMessageKind;

/*
 * One message.  All pointers belong to the consumer and stay valid until the
 * next poll or close.
 */
typedef struct WeirMessage
{
	WeirMessageKind kind;
	int			sqlstate;		/* of WEIR_GAP and WEIR_SOURCE_ERROR */
	bool		transient;		/* a retry can help (broker down, ...) */
	int32		partition;
	int64		offset;
	TimestampTz timestamp;		/* the broker's; DT_NOBEGIN when it has none */
	const char *key;			/* NULL for a null key */
	size_t		key_len;		/* bytes */
	const char *payload;
	size_t		len;			/* bytes */
	void	   *raw;			/* rd_kafka_message_t, for the headers */
} WeirMessage;

/* The i-th header in order; false when there is none.  value may be NULL. */
extern bool weir_message_header(const WeirMessage *message, int i,
								const char **name,
								const char **value, size_t *len);

typedef struct WeirPosition
{
	int32		partition;
	int64		offset;			/* the next offset to read */
} WeirPosition;

/* What a topic holds now, of one partition. */
typedef struct WeirPartitionRange
{
	int32		partition;
	int64		low;			/* first offset that can still be read */
	int64		high;			/* one past the last readable offset */
	int64		at_time;		/* first offset at or after the asked time,
								 * high when there is none, -1 not asked */
} WeirPartitionRange;

typedef struct WeirKafkaConsumer WeirKafkaConsumer;

/*
 * Asks the broker about a topic, from any process, with a handle that is
 * closed before it returns.  Waits at most the server's connect time-out
 * (option `timeout`, 15 s by default), interruptibly.  Ranges are ordered by
 * partition and palloc'd.  since = DT_NOBEGIN asks for no times.
 *
 * Errors: 08001 broker unreachable, 42P01 no such topic, 28000 authentication.
 */
extern WeirPartitionRange *weir_kafka_probe(Oid foreign_table, Oid user_id,
											TimestampTz since,
											int *n_partitions);

/*
 * Opens a consumer without assignment for the worker.  Server and user
 * mapping options are those that user_id sees.  Must run in a transaction;
 * the handle outlives it.  All signals are blocked in librdkafka's threads.
 */
extern WeirKafkaConsumer *weir_kafka_open(Oid foreign_table, Oid user_id);

/* Replaces the whole assignment; each partition is read from its offset. */
extern void weir_kafka_assign(WeirKafkaConsumer *consumer,
							  const WeirPosition *positions, int n);

/*
 * A partition that is paused is not read until it is resumed, from where it was;
 * what was fetched in advance is fetched again.
 */
extern void weir_kafka_pause(WeirKafkaConsumer *consumer, int32 partition);
extern void weir_kafka_resume(WeirKafkaConsumer *consumer, int32 partition);

/* Becomes readable when a poll may return something. */
extern int	weir_kafka_fd(WeirKafkaConsumer *consumer);

/*
 * Returns up to max messages without waiting, and releases those that the
 * previous poll returned.  Never raises.
 */
extern int	weir_kafka_poll(WeirKafkaConsumer *consumer,
							WeirMessage *messages, int max);

/* The last known end of a partition (exclusive), or -1.  Never waits. */
extern int64 weir_kafka_end(WeirKafkaConsumer *consumer, int32 partition);

/*
 * Current number of partitions and each one's range, through the consumer's
 * own connection; waits at most timeout_ms.  NULL when the broker did not
 * answer in time.
 */
extern WeirPartitionRange *weir_kafka_ranges(WeirKafkaConsumer *consumer,
											 int timeout_ms,
											 int *n_partitions);

/* Writes positions to the broker for lag tools; does not wait, may fail. */
extern void weir_kafka_acknowledge(WeirKafkaConsumer *consumer,
								   const WeirPosition *positions, int n);

/* Bounded in time: one second. */
extern void weir_kafka_close(WeirKafkaConsumer *consumer);

#endif							/* WEIR_SOURCE_H */
