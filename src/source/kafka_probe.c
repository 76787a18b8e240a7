/*-------------------------------------------------------------------------
 *
 * kafka_probe.c
 *	  Asks the broker which partitions a topic has and what they hold.
 *
 * Used by CREATE (where does `start` lie?), by scans (from where to where?)
 * and by workers (is there a new partition?).  Reads no message.
 *
 * librdkafka answers such questions in blocking calls only, and a backend must
 * answer a cancel within a tenth of a second.  So each question is asked in
 * slices.  A slice that found no connection is repeated at its length; one
 * whose answer was under way when it ended is repeated twice as long, since a
 * broker on another continent needs more than the first slice and would never
 * be heard otherwise.  A postmaster that dies meanwhile ends the process at once
 * (enter_client).
 *
 * All offsets come from ListOffsets, whose reserved times -2 and -1 mean the
 * first and the last offset: one request a broker and question, however many
 * partitions there are.  The consumer reads committed data, and so "last" is
 * the last stable offset: never beyond what a scan can deliver.
 *
 *-------------------------------------------------------------------------
 */
#include "source/kafka_handle.h"

#include <signal.h>
#include <unistd.h>
#ifdef HAVE_SYS_PRCTL_H
#include <sys/prctl.h>
#endif

#include "miscadmin.h"
#include "libpq/pqsignal.h"
#include "storage/ipc.h"
#include "storage/pmsignal.h"
#include "storage/latch.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#define FIRST_SLICE_MS 100
#define LAST_SLICE_MS 2000

/*
 * A consumer at work has a fetch waiting at the broker, which answers in
 * order: shorter slices would only repeat the question behind it.
 */
#define FIRST_SLICE_AT_WORK_MS 400

/*
 * How long all brokers may be down at once.  Not zero: of a host with an IPv6
 * and an IPv4 address the first may refuse while the second accepts.
 */
#define ALL_DOWN_MS 2000

/* A topic made a moment ago is unknown to some brokers for a moment. */
#define UNKNOWN_TOPIC_MS 500

/* The reserved times of ListOffsets. */
#define OFFSET_AT_END (-1)
#define OFFSET_AT_BEGINNING (-2)

/* One attempt to learn something, over several slices. */
typedef struct Patience
{
	WeirKafkaHandle *handle;
	bool		serve;			/* callbacks may run */
	int			slice_ms;
	TimestampTz deadline;
	TimestampTz unknown_until;	/* 0 until the topic was found unknown */
	bool		all_down;
	WeirKafkaEvent *failure;
} Patience;

static void enter_client(void);
static void leave_client(void);
static int	slice(Patience *patience);
static bool try_again(Patience *patience, rd_kafka_resp_err_t code);
static bool handle_events(Patience *patience);
static int	ask_partitions(Patience *patience);
static bool ask_offsets(Patience *patience, int64 time, int n, int64 *offsets);
static bool ask_times(Patience *patience, TimestampTz since, int n,
					  WeirPartitionRange *ranges);

WeirPartitionRange *
weir_kafka_probe(Oid foreign_table, Oid user_id, TimestampTz since,
				 int *n_partitions)
{
	WeirKafkaHandle *handle;
	WeirPartitionRange *ranges;
	WeirKafkaEvent failure;

	handle = weir_kafka_handle_open(foreign_table, user_id, RD_KAFKA_CONSUMER,
									CurrentResourceOwner);
	ranges = weir_kafka_list(handle, since, handle->target->timeout_ms,
							 true, n_partitions, &failure);
	if (ranges == NULL)
		weir_kafka_raise(handle, &failure); /* the owner closes the handle */
	weir_kafka_handle_close(handle);
	return ranges;
}

WeirPartitionRange *
weir_kafka_ranges(WeirKafkaConsumer *consumer, int timeout_ms,
				  int *n_partitions)
{
	WeirKafkaHandle *handle = weir_kafka_handle_of(consumer);
	WeirPartitionRange *ranges;
	WeirKafkaEvent failure;

	/* callbacks would swallow messages: leave them to the next poll */
	ranges = weir_kafka_list(handle, DT_NOBEGIN, timeout_ms, false,
							 n_partitions, &failure);

	/*
	 * librdkafka says nothing to a consumer whose topic is deleted, it only
	 * stops delivering: this is where that is found out.
	 */
	if (ranges == NULL && !failure.transient)
	{
		weir_kafka_handle_note(handle, &failure);
		weir_kafka_handle_wake(handle);
	}
	return ranges;
}

WeirPartitionRange *
weir_kafka_list(WeirKafkaHandle *handle, TimestampTz since, int timeout_ms,
				bool serve, int *n_partitions, WeirKafkaEvent *failure)
{
	WeirPartitionRange *ranges;
	Patience	patience = {
		.handle = handle,
		.serve = serve,
		.slice_ms = serve ? FIRST_SLICE_MS : FIRST_SLICE_AT_WORK_MS,
		.deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), timeout_ms),
		.failure = failure
	};
	int64	   *low;
	int64	   *high;
	int			n;

	n = ask_partitions(&patience);
	if (n <= 0)
		return NULL;

	low = palloc(sizeof(int64) * n);
	high = palloc(sizeof(int64) * n);
	if (!ask_offsets(&patience, OFFSET_AT_BEGINNING, n, low) ||
		!ask_offsets(&patience, OFFSET_AT_END, n, high))
		return NULL;

	ranges = palloc(sizeof(WeirPartitionRange) * n);
	for (int i = 0; i < n; i++)
		ranges[i] = (WeirPartitionRange)
		{
			.partition = i,
			.low = low[i],
			.high = Max(low[i], high[i]),
			.at_time = -1
		};
	if (!TIMESTAMP_IS_NOBEGIN(since) &&
		!ask_times(&patience, since, n, ranges))
		return NULL;

	*n_partitions = n;
	return ranges;
}

/* The number of partitions, or -1 with the failure noted. */
static int
ask_partitions(Patience *patience)
{
	rd_kafka_topic_t *topic = weir_kafka_handle_topic(patience->handle);
	rd_kafka_resp_err_t code = rd_kafka_last_error();

	if (topic == NULL)
	{
		weir_kafka_event_set(patience->failure, code, NULL);
		return -1;
	}
	do
	{
		const struct rd_kafka_metadata *metadata = NULL;
		int			n = 0;

		enter_client();
		code = rd_kafka_metadata(patience->handle->rk, 0, topic, &metadata,
								 slice(patience));
		leave_client();
		if (code == RD_KAFKA_RESP_ERR_NO_ERROR)
		{
			if (metadata->topic_cnt != 1)
				code = RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART;
			else
			{
				code = metadata->topics[0].err;
				n = metadata->topics[0].partition_cnt;
			}
			rd_kafka_metadata_destroy(metadata);
		}
		if (code == RD_KAFKA_RESP_ERR_NO_ERROR)
		{
			if (n > 0)
				return n;
			code = RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE;
		}
	} while (try_again(patience, code));
	return -1;
}

/*
 * For each partition the first offset whose message is at or after a time,
 * -1 when there is none.
 */
static bool
ask_offsets(Patience *patience, int64 time, int n, int64 *offsets)
{
	rd_kafka_resp_err_t code;

	do
	{
		rd_kafka_topic_partition_list_t *list;

		list = rd_kafka_topic_partition_list_new(n);
		for (int i = 0; i < n; i++)
			rd_kafka_topic_partition_list_add(list,
											  patience->handle->target->topic,
											  i)->offset = time;
		enter_client();
		code = rd_kafka_offsets_for_times(patience->handle->rk, list,
										  slice(patience));
		leave_client();
		for (int i = 0; i < n && code == RD_KAFKA_RESP_ERR_NO_ERROR; i++)
		{
			rd_kafka_topic_partition_t *entry =
				rd_kafka_topic_partition_list_find(list,
												   patience->handle->target->topic, i);

			if (entry == NULL)
				code = RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION;
			else
			{
				code = entry->err;
				offsets[i] = entry->offset;
			}
		}
		rd_kafka_topic_partition_list_destroy(list);
		if (code == RD_KAFKA_RESP_ERR_NO_ERROR)
			return true;
	} while (try_again(patience, code));
	return false;
}

/*
 * A broker says -1 when no message is as young as that; the mock broker always
 * does.  They are told apart by asking for 1970: a partition that has
 * messages, none of them since 1970, is one whose broker knows no times, and
 * then only its beginning is safe.
 */
static bool
ask_times(Patience *patience, TimestampTz since, int n,
		  WeirPartitionRange *ranges)
{
	int64		epoch = (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY;
	int64	   *offsets = palloc(sizeof(int64) * n);
	bool		doubtful = false;
	int64		ms;

	/* rounded down; -1 and -2 would mean something else */
	ms = TIMESTAMP_IS_NOEND(since) ? PG_INT64_MAX / 2 : (since + epoch) / 1000;
	if (ms <= 0)
	{
		for (int i = 0; i < n; i++)
			ranges[i].at_time = ranges[i].low;
		return true;
	}

	if (!ask_offsets(patience, ms, n, offsets))
		return false;
	for (int i = 0; i < n; i++)
	{
		if (offsets[i] < 0)
		{
			ranges[i].at_time = ranges[i].high;
			doubtful |= ranges[i].low < ranges[i].high;
		}
		else
			ranges[i].at_time = Min(Max(offsets[i], ranges[i].low),
									ranges[i].high);
	}
	if (doubtful)
	{
		int64	   *since_1970 = palloc(sizeof(int64) * n);

		if (!ask_offsets(patience, 0, n, since_1970))
			return false;
		for (int i = 0; i < n; i++)
			if (offsets[i] < 0 && since_1970[i] < 0)
				ranges[i].at_time = ranges[i].low;
	}
	return true;
}

/*
 * A process of Postgres ends when its postmaster has died, the next time that it
 * waits; in here it would not look for as long as the call blocks, and while one
 * process is left no server starts on these data.  The kernel tells us with a
 * signal, which ends the process if it is inside of the call.  Elsewhere that
 * would be wrong: others may wait, without looking either, for an LWLock of ours.
 */
static volatile sig_atomic_t inside_client = false;

#if defined(USE_POSTMASTER_DEATH_SIGNAL) && defined(PR_GET_PDEATHSIG)
static void
on_postmaster_death(SIGNAL_ARGS)
{
	postmaster_possibly_dead = true;
	if (inside_client && getppid() != PostmasterPid)
		_exit(1);
}
#endif

static void
enter_client(void)
{
#if defined(USE_POSTMASTER_DEATH_SIGNAL) && defined(PR_GET_PDEATHSIG)
	static bool listening = false;
	int			signo = 0;

	if (!listening && IsUnderPostmaster &&
		prctl(PR_GET_PDEATHSIG, &signo) == 0 && signo != 0)
		pqsignal(signo, on_postmaster_death);
	listening = true;
#endif
	inside_client = true;
	/* it may have died before anybody listened */
	if (IsUnderPostmaster && !PostmasterIsAlive())
		proc_exit(1);
}

static void
leave_client(void)
{
	inside_client = false;
}

/* How long the next call may block. */
static int
slice(Patience *patience)
{
	long		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(),
													   patience->deadline);

	return Max(1, Min(left, patience->slice_ms));
}

/*
 * After a call that failed: true to repeat it.  Interrupts are served here,
 * with nothing of librdkafka's in hand.
 */
static bool
try_again(Patience *patience, rd_kafka_resp_err_t code)
{
	WeirKafkaHandle *handle = patience->handle;
	TimestampTz now;

	CHECK_FOR_INTERRUPTS();
	if (!handle_events(patience))
		return false;

	weir_kafka_event_set(patience->failure, code, NULL);
	now = GetCurrentTimestamp();
	if (patience->failure->sqlstate == ERRCODE_UNDEFINED_TABLE)
	{
		if (patience->unknown_until == 0)
			patience->unknown_until =
				TimestampTzPlusMilliseconds(now, UNKNOWN_TOPIC_MS);
		patience->failure->transient = false;
		if (now >= patience->unknown_until)
			return false;
	}
	else if (!patience->failure->transient)
		return false;
	else
		weir_kafka_event_set(patience->failure, code,
							 handle->last_words[0] ? handle->last_words :
							 "no broker has answered within the time-out");
	if (now >= patience->deadline)
		return false;

	/*
	 * A call that took its whole slice has waited enough; one that came back
	 * at once (an election, say) must not become a busy loop.
	 */
	if (code == RD_KAFKA_RESP_ERR__TIMED_OUT)
		patience->slice_ms = Min(patience->slice_ms * 2, LAST_SLICE_MS);
	else if (code != RD_KAFKA_RESP_ERR__TRANSPORT)
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 50, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	return true;
}

/*
 * Errors that librdkafka reports beside the call: false when one of them
 * decides the matter.
 */
static bool
handle_events(Patience *patience)
{
	WeirKafkaHandle *handle = patience->handle;
	bool		hopeful = true;

	if (!patience->serve)
		return true;
	weir_kafka_handle_serve(handle);
	for (int i = 0; i < handle->n_events && hopeful; i++)
	{
		WeirKafkaEvent *event = &handle->events[i];

		if (event->sqlstate == ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION)
		{
			*patience->failure = *event;
			hopeful = false;
		}
		else if (event->code == RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN &&
				 !patience->all_down)
		{
			TimestampTz soon =
				TimestampTzPlusMilliseconds(GetCurrentTimestamp(), ALL_DOWN_MS);

			patience->all_down = true;
			patience->deadline = Min(patience->deadline, soon);
		}
	}
	handle->n_events = 0;
	handle->n_sent = 0;
	weir_kafka_handle_log(handle);
	return hopeful;
}
