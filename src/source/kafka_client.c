/*-------------------------------------------------------------------------
 *
 * kafka_client.c
 *	  Reads a Kafka topic from positions that we keep ourselves.
 *
 * Receives positions from a worker or a scan, hands on messages.  It joins no
 * consumer group and reads no committed offset: whoever restarts with his own
 * positions must not find the broker's opinion in between.  This is what the
 * broker's opinion would do:
 *
 *	 1. The worker commits results and position 500, and acknowledges 500.
 *	 2. The server crashes and is restored to a backup with position 300.
 *	 3. The consumer starts from the broker's 500: rows 300 to 499 are lost.
 *
 * So partitions are assigned by hand, a position that is gone is an error
 * (WEIR_GAP) instead of a jump to the end, and acknowledgements are sent for
 * lag tools only.
 *
 * A poll never raises, and does not wait but for the moments of keep_fetching().
 * It may run between two steps of a commit, where neither would be welcome;
 * waiting is the caller's, on the descriptor of weir_kafka_fd() next to his
 * latch.
 *
 * Memory: librdkafka prefetches up to queued.max.messages.kbytes (16 MB unless
 * the server says otherwise) and then stops fetching until we poll.  Messages
 * are not copied; they stay where the network put them until the next poll.
 *
 *-------------------------------------------------------------------------
 */
#include "source/kafka_handle.h"

#include "common/int.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/* Most messages that one poll returns. */
#define MAX_BATCH 10000

/* A commit that was not answered for so long is not waited for any more. */
#define ACK_PATIENCE_US INT64CONST(10000000)

/*
 * A fetcher that may be asleep is woken when so much of the greatest length
 * that its queue had is left: enough to decode while it starts again.
 */
#define WAKE_AT_ONE_IN 4

/* librdkafka's queued.min.messages: it does not fetch beyond that, either. */
#define QUEUED_MIN_MESSAGES 100000

/* Longest that a poll waits for having woken it, at full speed 1 ms in 50. */
#define WAKE_PATIENCE_MS 5

struct WeirKafkaConsumer
{
	WeirKafkaHandle *handle;
	int			n_assigned;
	int32	   *assigned;		/* partitions */
	int64		queue_limit;	/* bytes at which fetching stops */
	int			longest;		/* messages in the queue, since it was woken */
};

static bool translate(const rd_kafka_message_t *from, WeirMessage *to);
static void error_message(const WeirKafkaEvent *event, WeirMessage *to);
static TimestampTz message_time(const rd_kafka_message_t *message);
static void send_acks(WeirKafkaHandle *handle);
static int64 queue_limit(WeirKafkaHandle *handle);
static void keep_fetching(WeirKafkaConsumer *consumer);

WeirKafkaConsumer *
weir_kafka_open(Oid foreign_table, Oid user_id)
{
	return weir_kafka_open_owned(foreign_table, user_id, NULL);
}

/* The same, closed with a ResourceOwner at the latest. */
WeirKafkaConsumer *
weir_kafka_open_owned(Oid foreign_table, Oid user_id, ResourceOwner owner)
{
	WeirKafkaHandle *handle;
	WeirKafkaConsumer *consumer;

	handle = weir_kafka_handle_open(foreign_table, user_id,
									RD_KAFKA_CONSUMER, owner);
	consumer = MemoryContextAllocZero(handle->mcxt, sizeof(WeirKafkaConsumer));
	consumer->handle = handle;
	consumer->queue_limit = queue_limit(handle);
	handle->batch_size = MAX_BATCH;
	handle->batch = MemoryContextAlloc(handle->mcxt,
									   sizeof(rd_kafka_message_t *) * MAX_BATCH);
	return consumer;
}

WeirKafkaHandle *
weir_kafka_handle_of(WeirKafkaConsumer *consumer)
{
	return consumer->handle;
}

/* The consumer itself goes with the handle's context. */
void
weir_kafka_close(WeirKafkaConsumer *consumer)
{
	weir_kafka_handle_close(consumer->handle);
}

/*
 * A refusal becomes an event of the next poll: callers have one place to look
 * for errors.
 */
void
weir_kafka_assign(WeirKafkaConsumer *consumer,
				  const WeirPosition *positions, int n)
{
	WeirKafkaHandle *handle = consumer->handle;
	rd_kafka_topic_partition_list_t *list;
	rd_kafka_resp_err_t code;

	if (consumer->assigned != NULL)
		pfree(consumer->assigned);
	consumer->assigned = MemoryContextAlloc(handle->mcxt,
											sizeof(int32) * Max(n, 1));
	consumer->n_assigned = n;
	consumer->longest = 0;

	list = rd_kafka_topic_partition_list_new(n);
	for (int i = 0; i < n; i++)
	{
		consumer->assigned[i] = positions[i].partition;
		rd_kafka_topic_partition_list_add(list, handle->target->topic,
										  positions[i].partition)->offset =
			positions[i].offset;
	}

	/* messages of the old assignment are not handed out any more */
	weir_kafka_handle_release(handle);
	code = rd_kafka_assign(handle->rk, list);
	rd_kafka_topic_partition_list_destroy(list);
	if (code != RD_KAFKA_RESP_ERR_NO_ERROR)
	{
		WeirKafkaEvent event;

		weir_kafka_event_set(&event, code, NULL);
		weir_kafka_handle_note(handle, &event);
		weir_kafka_handle_wake(handle);
	}
}

static void
pause_or_resume(WeirKafkaConsumer *consumer, int32 partition, bool pause)
{
	WeirKafkaHandle *handle = consumer->handle;
	rd_kafka_topic_partition_list_t *list;

	list = rd_kafka_topic_partition_list_new(1);
	rd_kafka_topic_partition_list_add(list, handle->target->topic, partition);
	(void) (pause ? rd_kafka_pause_partitions(handle->rk, list) :
			rd_kafka_resume_partitions(handle->rk, list));
	rd_kafka_topic_partition_list_destroy(list);
}

void
weir_kafka_pause(WeirKafkaConsumer *consumer, int32 partition)
{
	pause_or_resume(consumer, partition, true);
}

void
weir_kafka_resume(WeirKafkaConsumer *consumer, int32 partition)
{
	pause_or_resume(consumer, partition, false);
}

int
weir_kafka_fd(WeirKafkaConsumer *consumer)
{
	return consumer->handle->pipe[0];
}

int
weir_kafka_poll(WeirKafkaConsumer *consumer, WeirMessage *messages, int max)
{
	WeirKafkaHandle *handle = consumer->handle;
	int			asked = Min(max, handle->batch_size);
	int			count = 0;
	ssize_t		n;

	HOLD_INTERRUPTS();

	weir_kafka_handle_release(handle);
	if (handle->n_sent > 0)
	{
		memmove(handle->events, handle->events + handle->n_sent,
				sizeof(WeirKafkaEvent) * (handle->n_events - handle->n_sent));
		handle->n_events -= handle->n_sent;
		handle->n_sent = 0;
	}

	/*
	 * Drain first.  The other way round a message that comes between the poll
	 * and the drain would have its byte eaten, and wait for the next one.
	 */
	weir_kafka_handle_drain(handle);
	n = rd_kafka_consume_batch_queue(handle->queue, 0, handle->batch, asked);
	handle->n_batch = Max(n, 0);
	for (int i = 0; i < handle->n_batch; i++)
		if (translate(handle->batch[i], &messages[count]))
			count++;

	while (count < max && handle->n_sent < handle->n_events)
		error_message(&handle->events[handle->n_sent++], &messages[count++]);

	/* librdkafka writes only when its queue stops being empty */
	if (handle->n_batch == asked || handle->n_sent < handle->n_events)
		weir_kafka_handle_wake(handle);

	keep_fetching(consumer);
	send_acks(handle);
	weir_kafka_handle_log(handle);
	RESUME_INTERRUPTS();
	return count;
}

/* Bytes in the queue at which librdkafka stops fetching. */
static int64
queue_limit(WeirKafkaHandle *handle)
{
	char		value[32] = "";
	size_t		size = sizeof(value);

	if (rd_kafka_conf_get(rd_kafka_conf(handle->rk),
						  "queued.max.messages.kbytes", value, &size) !=
		RD_KAFKA_CONF_OK)
		return INT64CONST(65536) * 1024;
	return atoll(value) * 1024;
}

/*
 * When its queue is full, librdkafka stops fetching and looks again after a
 * whole second; later versions let kafka_options.c say when.  We empty 16 MB in
 * a tenth of that, and would wait for the rest.
 *
 * Nothing public wakes the fetching threads but a question that they have to
 * send.  So, when a queue that may have been full is nearly empty, we ask
 * for the ends of the partitions and do not care for the answer.  With
 * nothing being fetched the broker answers at once.
 */
static void
keep_fetching(WeirKafkaConsumer *consumer)
{
	WeirKafkaHandle *handle = consumer->handle;
	rd_kafka_topic_partition_list_t *list;
	int			length = (int) rd_kafka_queue_length(handle->queue);
	int64		bytes = 0;

	consumer->longest = Max(consumer->longest, length);
	if (rd_kafka_version() >= WEIR_KAFKA_QUEUE_BACKOFF ||
		handle->n_batch == 0 || length > consumer->longest / WAKE_AT_ONE_IN)
		return;
	for (int i = 0; i < handle->n_batch; i++)
		bytes += handle->batch[i]->len + handle->batch[i]->key_len;

	/* half full: the limits are overshot, and means are not exact */
	if (consumer->longest < QUEUED_MIN_MESSAGES / 2 &&
		bytes / handle->n_batch * consumer->longest < consumer->queue_limit / 2)
		return;

	list = rd_kafka_topic_partition_list_new(consumer->n_assigned);
	for (int i = 0; i < consumer->n_assigned; i++)
		rd_kafka_topic_partition_list_add(list, handle->target->topic,
										  consumer->assigned[i])->offset =
			RD_KAFKA_OFFSET_END;
	(void) rd_kafka_offsets_for_times(handle->rk, list, WAKE_PATIENCE_MS);
	rd_kafka_topic_partition_list_destroy(list);
	consumer->longest = length;
}

/* Returns false for what is nobody's business. */
static bool
translate(const rd_kafka_message_t *from, WeirMessage *to)
{
	WeirKafkaEvent event;

	memset(to, 0, sizeof(*to));
	to->partition = from->partition;
	to->offset = from->offset;
	to->timestamp = DT_NOBEGIN;
	to->raw = (void *) from;

	switch ((int) from->err)
	{
		case RD_KAFKA_RESP_ERR_NO_ERROR:
			to->kind = WEIR_RECORD;
			to->timestamp = message_time(from);
			to->key = from->key;
			to->key_len = from->key_len;
			to->payload = from->payload;
			to->len = from->len;
			return true;

		case RD_KAFKA_RESP_ERR__PARTITION_EOF:
			to->kind = WEIR_END_OF_PARTITION;
			return true;

		case RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET:
		case RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE:
		case RD_KAFKA_RESP_ERR__NO_OFFSET:
			to->kind = WEIR_GAP;
			to->sqlstate = ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE;
			to->payload = rd_kafka_message_errstr(from);
			to->len = strlen(to->payload);
			return true;

			/* the group is for lag tools, and they may do without */
		case RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED:
		case RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE:
		case RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS:
		case RD_KAFKA_RESP_ERR_NOT_COORDINATOR:
		case RD_KAFKA_RESP_ERR__WAIT_COORD:
			return false;

		default:
			weir_kafka_event_set(&event, from->err, NULL);
			to->kind = WEIR_SOURCE_ERROR;
			to->sqlstate = event.sqlstate;
			to->transient = event.transient;
			to->payload = rd_kafka_message_errstr(from);
			to->len = strlen(to->payload);
			return true;
	}
}

/* An error that belongs to no partition. */
static void
error_message(const WeirKafkaEvent *event, WeirMessage *to)
{
	memset(to, 0, sizeof(*to));
	to->kind = WEIR_SOURCE_ERROR;
	to->sqlstate = event->sqlstate;
	to->transient = event->transient;
	to->partition = -1;
	to->offset = -1;
	to->timestamp = DT_NOBEGIN;
	to->payload = event->text;
	to->len = strlen(event->text);
}

/*
 * Kafka counts milliseconds from 1970, and its producers may write any 64-bit
 * number there; what Postgres cannot express counts as no time.
 */
static TimestampTz
message_time(const rd_kafka_message_t *message)
{
	rd_kafka_timestamp_type_t type;
	int64		ms = rd_kafka_message_timestamp(message, &type);
	int64		us;

	if (type == RD_KAFKA_TIMESTAMP_NOT_AVAILABLE || ms == -1 ||
		pg_mul_s64_overflow(ms, 1000, &us) ||
		pg_sub_s64_overflow(us, (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) *
							USECS_PER_DAY, &us) ||
		!IS_VALID_TIMESTAMP(us))
		return DT_NOBEGIN;
	return us;
}

bool
weir_message_header(const WeirMessage *message, int i, const char **name,
					const char **value, size_t *len)
{
	rd_kafka_headers_t *headers;
	const void *bytes;

	if (message->raw == NULL ||
		rd_kafka_message_headers((const rd_kafka_message_t *) message->raw,
								 &headers) != RD_KAFKA_RESP_ERR_NO_ERROR ||
		rd_kafka_header_get_all(headers, i, name, &bytes, len) !=
		RD_KAFKA_RESP_ERR_NO_ERROR)
		return false;
	*value = bytes;
	return true;
}

int64
weir_kafka_end(WeirKafkaConsumer *consumer, int32 partition)
{
	WeirKafkaHandle *handle = consumer->handle;
	int64_t		low;
	int64_t		high;

	if (rd_kafka_get_watermark_offsets(handle->rk, handle->target->topic,
									   partition, &low, &high) !=
		RD_KAFKA_RESP_ERR_NO_ERROR || high < 0)
		return -1;
	return high;
}

/*
 * One commit at a time is on its way; what comes meanwhile replaces what
 * waits.  So a coordinator that is away costs nothing.
 */
void
weir_kafka_acknowledge(WeirKafkaConsumer *consumer,
					   const WeirPosition *positions, int n)
{
	WeirKafkaHandle *handle = consumer->handle;

	if (handle->acks == NULL)
		handle->acks = rd_kafka_topic_partition_list_new(n);
	for (int i = 0; i < n; i++)
	{
		rd_kafka_topic_partition_t *entry;

		entry = rd_kafka_topic_partition_list_find(handle->acks,
												   handle->target->topic,
												   positions[i].partition);
		if (entry == NULL)
			entry = rd_kafka_topic_partition_list_add(handle->acks,
													  handle->target->topic,
													  positions[i].partition);
		entry->offset = positions[i].offset;
	}
	send_acks(handle);
}

static void
send_acks(WeirKafkaHandle *handle)
{
	TimestampTz now;

	if (handle->acks == NULL)
		return;
	now = GetCurrentTimestamp();
	if (handle->acks_in_flight > 0 && now - handle->acked_at < ACK_PATIENCE_US)
		return;
	if (rd_kafka_commit(handle->rk, handle->acks, 1) == RD_KAFKA_RESP_ERR_NO_ERROR)
		handle->acks_in_flight++;
	handle->acked_at = now;
	rd_kafka_topic_partition_list_destroy(handle->acks);
	handle->acks = NULL;
}
