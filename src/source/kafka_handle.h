/*-------------------------------------------------------------------------
 *
 * kafka_handle.h
 *	  One librdkafka instance inside a Postgres process.
 *
 *-------------------------------------------------------------------------
 */
#ifndef WEIR_KAFKA_HANDLE_H
#define WEIR_KAFKA_HANDLE_H

#include "weir.h"

#include <librdkafka/rdkafka.h>

#include "lib/ilist.h"
#include "source/kafka_options.h"
#include "source/source.h"
#include "utils/resowner.h"

#define WEIR_KAFKA_TEXT_LEN 512

/* What librdkafka reported; text is clean ASCII of bounded length. */
typedef struct WeirKafkaEvent
{
	rd_kafka_resp_err_t code;
	int			sqlstate;
	bool		transient;
	char		text[WEIR_KAFKA_TEXT_LEN];
} WeirKafkaEvent;

/* Few: events repeat themselves, and a poll empties the list. */
#define WEIR_KAFKA_MAX_EVENTS 8

typedef struct WeirKafkaHandle
{
	dlist_node	node;			/* in the list of all open handles */
	MemoryContext mcxt;			/* holds this struct and what it points to */
	ResourceOwner owner;		/* closes the handle at the latest; may be NULL */

	rd_kafka_t *rk;
	rd_kafka_queue_t *queue;	/* all events and messages */
	rd_kafka_topic_t *topic;	/* made at first need */
	rd_kafka_message_t **batch; /* what the last poll returned; librdkafka's */
	int			n_batch;
	int			batch_size;
	int			pipe[2];		/* written by librdkafka when queue fills */
	WeirKafkaTarget *target;	/* copied options */
	char		group[64];
	struct ClientEnd *end;		/* of one that ends late */

	/* Filled by callbacks, which run in our thread inside a poll only. */
	WeirKafkaEvent events[WEIR_KAFKA_MAX_EVENTS];
	int			n_events;
	char		last_words[WEIR_KAFKA_TEXT_LEN];	/* last error in the log */
	char		logs[WEIR_KAFKA_MAX_EVENTS][WEIR_KAFKA_TEXT_LEN];
	int			n_logs;
	int			n_sent;			/* events handed on by the last poll */
	int			acks_in_flight;
	TimestampTz acked_at;		/* when the last acknowledgement was sent */
	rd_kafka_topic_partition_list_t *acks;	/* waiting for their turn */

	/* Delivery reports of a producer. */
	int64		delivered;
	int64		failed;
	WeirKafkaEvent first_failure;
} WeirKafkaHandle;

/*
 * Starts a client for a table's topic with the options that user_id sees.
 * With an owner the client ends with it, also on error; with NULL it lives
 * until it is closed or the process exits.
 *
 * Errors: 22023 options, 58000 librdkafka could not start.
 */
extern WeirKafkaHandle *weir_kafka_handle_open(Oid foreign_table, Oid user_id,
											   rd_kafka_type_t type,
											   ResourceOwner owner);

/* Ends all its threads, within a second.  Never raises. */
extern void weir_kafka_handle_close(WeirKafkaHandle *handle);

/* Writes what the callbacks have gathered to the log.  May be interrupted. */
extern void weir_kafka_handle_log(WeirKafkaHandle *handle);

/* Runs callbacks; for a producer, or a consumer without assignment. */
extern void weir_kafka_handle_serve(WeirKafkaHandle *handle);

/* The topic of the target, as librdkafka's object; NULL if it refuses. */
extern rd_kafka_topic_t *weir_kafka_handle_topic(WeirKafkaHandle *handle);

/* Gives messages of the last poll back. */
extern void weir_kafka_handle_release(WeirKafkaHandle *handle);

/* Makes the pipe readable, or unreadable. */
extern void weir_kafka_handle_wake(WeirKafkaHandle *handle);
extern void weir_kafka_handle_drain(WeirKafkaHandle *handle);

/*
 * Waits for the queue, an interrupt or the timeout; then
 * CHECK_FOR_INTERRUPTS.  For backends.
 */
extern void weir_kafka_handle_wait(WeirKafkaHandle *handle, int timeout_ms);

/* Records an error of librdkafka's. */
extern void weir_kafka_event_set(WeirKafkaEvent *event,
								 rd_kafka_resp_err_t code, const char *text);

/* Leaves one for the next poll. */
extern void weir_kafka_handle_note(WeirKafkaHandle *handle,
								   const WeirKafkaEvent *event);

/* Raises one, in the words that suit its sqlstate. */
weir_noreturn extern void weir_kafka_raise(const WeirKafkaHandle *handle,
							 const WeirKafkaEvent *event);

/*
 * The number of partitions and their ranges; waits at most timeout_ms.
 * serve: callbacks may run meanwhile (no partition is assigned).  NULL with
 * *failure filled when it did not succeed.
 */
extern WeirPartitionRange *weir_kafka_list(WeirKafkaHandle *handle,
										   TimestampTz since, int timeout_ms,
										   bool serve, int *n_partitions,
										   WeirKafkaEvent *failure);

/* The consumer's handle, for scans. */
extern WeirKafkaHandle *weir_kafka_handle_of(WeirKafkaConsumer *consumer);
extern WeirKafkaConsumer *weir_kafka_open_owned(Oid foreign_table, Oid user_id,
												ResourceOwner owner);

/* Stops fetching partitions that a scan is done with. */

#endif							/* WEIR_KAFKA_HANDLE_H */
