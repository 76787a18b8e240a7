/*-------------------------------------------------------------------------
 *
 * kafka_handle.c
 *	  One librdkafka instance inside a Postgres process.
 *
 * Postgres knows one thread; librdkafka brings half a dozen.  They live
 * together under five rules, all of them kept in this file:
 *
 * 1. Signals go to Postgres' thread.  All are blocked while librdkafka starts,
 *	  and its threads inherit that.
 * 2. No thread of librdkafka's calls Postgres.  Logs and errors are queued
 *	  (log.queue) and handed to callbacks by a poll of ours.  The one callback
 *	  that does run in a foreign thread, resolve_host(), touches plain memory
 *	  only.
 * 3. Nothing raises inside a callback: a longjmp out of librdkafka would leave
 *	  its locks held.  Even ereport(DEBUG1) can, through
 *	  CHECK_FOR_INTERRUPTS(), so callbacks write to fixed buffers and
 *	  weir_kafka_handle_log() reports them afterwards.
 * 4. Threads end with the statement.  A handle belongs to a ResourceOwner,
 *	  which closes it when the statement fails, or to nobody, and then to the
 *	  process: a hook closes it before exit() runs OpenSSL's destructors under
 *	  the feet of threads that use it.  A thread that hangs (in getaddrinfo()
 *	  with a dead name server, or behind a commit that a frozen coordinator
 *	  does not answer) is given a second, see end_client().
 * 5. What a broker says is not trusted: names and error texts are reduced to
 *	  printable ASCII before they reach a message, and every host that a broker
 *	  advertises goes through the server's allow-list.
 *
 *-------------------------------------------------------------------------
 */
#include "source/kafka_handle.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "access/xlog.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/memutils.h"
#include "utils/wait_event.h"

/* Every handle of this process, so that exit and abort can find them. */
static dlist_head open_handles = DLIST_STATIC_INIT(open_handles);

/* How long a close may take. */
#define CLOSE_SECONDS 1

/*
 * The end of a client, shared between our thread and the one that waits for
 * librdkafka's; malloc'd, and freed by whoever is last.
 */
typedef struct ClientEnd
{
	pthread_mutex_t lock;
	pthread_cond_t changed;
	rd_kafka_t *rk;
	bool		done;
} ClientEnd;

/* Handles whose client had not ended in time, until it has. */
static dlist_head late_handles = DLIST_STATIC_INIT(late_handles);
static int	exit_code = 0;		/* of this process, once it exits */

static void copy_clean(char *to, size_t size, const char *from);
static int	sqlstate_of(rd_kafka_resp_err_t code);
static bool is_transient(rd_kafka_resp_err_t code);
static void on_error(rd_kafka_t *rk, int code, const char *reason, void *opaque);
static void on_log(const rd_kafka_t *rk, int level, const char *facility,
				   const char *text);
static void on_commit(rd_kafka_t *rk, rd_kafka_resp_err_t code,
					  rd_kafka_topic_partition_list_t *offsets, void *opaque);
static void on_delivery(rd_kafka_t *rk, const rd_kafka_message_t *message,
						void *opaque);
static int	resolve_host(const char *node, const char *service,
						 const struct addrinfo *hints,
						 struct addrinfo **result, void *opaque);
static void release_handles(ResourceReleasePhase phase, bool is_commit,
							bool is_top_level, void *arg);
static void close_all_handles(int code, Datum arg);
static void make_pipe(WeirKafkaHandle *handle);
static bool end_client(WeirKafkaHandle *handle);
static void *wait_for_end(void *arg);
static void free_late_handles(void);
static void leave_late_threads(void);

WeirKafkaHandle *
weir_kafka_handle_open(Oid foreign_table, Oid user_id, rd_kafka_type_t type,
					   ResourceOwner owner)
{
	static bool hooks_are_set = false;
	WeirKafkaHandle *handle;
	MemoryContext mcxt;
	MemoryContext caller;
	rd_kafka_conf_t *conf;
	sigset_t	all;
	sigset_t	before;
	char		error[WEIR_KAFKA_TEXT_LEN] = "";

	if (!hooks_are_set)
	{
		RegisterResourceReleaseCallback(release_handles, NULL);
		before_shmem_exit(close_all_handles, (Datum) 0);
		hooks_are_set = true;
	}

	/* read the options where an error costs nothing */
	mcxt = AllocSetContextCreate(CurrentMemoryContext, "pg_weir kafka client",
								 ALLOCSET_SMALL_SIZES);
	caller = MemoryContextSwitchTo(mcxt);
	handle = palloc0(sizeof(WeirKafkaHandle));
	handle->mcxt = mcxt;
	handle->owner = owner;
	handle->target = weir_kafka_target(foreign_table, user_id);
	/* lag tools see this group; nobody ever joins it */
	snprintf(handle->group, sizeof(handle->group),
			 "pg_weir." UINT64_FORMAT ".%u",
			 GetSystemIdentifier(), foreign_table);
	make_pipe(handle);
	MemoryContextSwitchTo(caller);

	/* from here on it is ours to close, whatever happens */
	MemoryContextSetParent(mcxt, TopMemoryContext);
	dlist_push_head(&open_handles, &handle->node);

	PG_TRY();
	{
		conf = weir_kafka_conf(handle->target, type);
	}
	PG_CATCH();
	{
		weir_kafka_handle_close(handle);
		PG_RE_THROW();
	}
	PG_END_TRY();

	rd_kafka_conf_set_opaque(conf, handle);
	rd_kafka_conf_set_error_cb(conf, on_error);
	rd_kafka_conf_set_log_cb(conf, on_log);
	rd_kafka_conf_set_resolve_cb(conf, resolve_host);
	if (type == RD_KAFKA_CONSUMER)
	{
		rd_kafka_conf_set_offset_commit_cb(conf, on_commit);
		(void) rd_kafka_conf_set(conf, "group.id", handle->group, NULL, 0);
	}
	else
		rd_kafka_conf_set_dr_msg_cb(conf, on_delivery);

	/* rule 1 */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	handle->rk = rd_kafka_new(type, conf, error, sizeof(error));
	if (handle->rk == NULL)
		rd_kafka_conf_destroy(conf);
	pthread_sigmask(SIG_SETMASK, &before, NULL);

	if (handle->rk == NULL)
	{
		char		clean[WEIR_KAFKA_TEXT_LEN];
		char	   *server = pstrdup(handle->target->server);

		copy_clean(clean, sizeof(clean), error);
		weir_kafka_handle_close(handle);
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("could not start the Kafka client for server \"%s\"",
						server),
				 errdetail("The Kafka client says: %s", clean),
				 errhint("Check the options of the server and of the user mapping.")));
	}

	if (type == RD_KAFKA_CONSUMER)
	{
		/* errors and logs join the messages in one queue */
		rd_kafka_poll_set_consumer(handle->rk);
		handle->queue = rd_kafka_queue_get_consumer(handle->rk);
	}
	else
		handle->queue = rd_kafka_queue_get_main(handle->rk);
	rd_kafka_set_log_queue(handle->rk, NULL);
	rd_kafka_queue_io_event_enable(handle->queue, handle->pipe[1], "w", 1);
	return handle;
}

/*
 * The pipe is how librdkafka's threads wake ours: they write one byte when
 * the queue stops being empty, and WaitLatchOrSocket watches the other end.
 */
static void
make_pipe(WeirKafkaHandle *handle)
{
	handle->pipe[0] = handle->pipe[1] = -1;
	if (!AcquireExternalFD())
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not reserve a file descriptor for the Kafka client: %m")));
	if (!AcquireExternalFD())
	{
		ReleaseExternalFD();
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not reserve a file descriptor for the Kafka client: %m")));
	}
	if (pipe2(handle->pipe, O_NONBLOCK | O_CLOEXEC) != 0)
	{
		handle->pipe[0] = handle->pipe[1] = -1;
		ReleaseExternalFD();
		ReleaseExternalFD();
		ereport(ERROR,
				(errcode_for_socket_access(),
				 errmsg("could not create a pipe for the Kafka client: %m")));
	}
}

void
weir_kafka_handle_close(WeirKafkaHandle *handle)
{
	bool		ended = true;

	dlist_delete(&handle->node);
	free_late_handles();

	/* messages and topics hold references: destroy would wait for them */
	weir_kafka_handle_release(handle);
	if (handle->acks != NULL)
		rd_kafka_topic_partition_list_destroy(handle->acks);
	if (handle->topic != NULL)
		rd_kafka_topic_destroy(handle->topic);
	if (handle->queue != NULL)
	{
		rd_kafka_queue_io_event_enable(handle->queue, -1, NULL, 0);
		rd_kafka_queue_destroy(handle->queue);
	}
	if (handle->rk != NULL && rd_kafka_type(handle->rk) == RD_KAFKA_PRODUCER)
		rd_kafka_purge(handle->rk, RD_KAFKA_PURGE_F_QUEUE |
					   RD_KAFKA_PURGE_F_INFLIGHT | RD_KAFKA_PURGE_F_NON_BLOCKING);
	if (handle->rk != NULL)
		ended = end_client(handle);
	if (handle->pipe[0] >= 0)
	{
		close(handle->pipe[0]);
		close(handle->pipe[1]);
		ReleaseExternalFD();
		ReleaseExternalFD();
	}

	/* a late thread may still look at the allow-list of hosts */
	if (ended)
		MemoryContextDelete(handle->mcxt);
	else
		dlist_push_head(&late_handles, &handle->node);
}

/*
 * Ends librdkafka's threads, which takes them some milliseconds; true when
 * they are gone.
 *
 * rd_kafka_destroy() joins them, and knows no time-out.  So a thread of our
 * own calls it and we wait for that.  If it takes too long the statement goes
 * on without them: they can do no harm, since their client has been told to
 * end and they touch nothing of Postgres'; and the process, should it exit
 * meanwhile, does so without running their libraries' destructors.
 */
static bool
end_client(WeirKafkaHandle *handle)
{
	ClientEnd  *end = malloc(sizeof(ClientEnd));
	pthread_t	thread;
	sigset_t	all;
	sigset_t	before;
	struct timespec deadline;
	bool		started;
	bool		done;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	started = false;
	if (end != NULL)
	{
		pthread_mutex_init(&end->lock, NULL);
		pthread_cond_init(&end->changed, NULL);
		end->rk = handle->rk;
		end->done = false;
		started = (pthread_create(&thread, NULL, wait_for_end, end) == 0);
	}
	pthread_sigmask(SIG_SETMASK, &before, NULL);

	if (!started)
	{
		/* out of memory or threads: then it takes what it takes */
		free(end);
		rd_kafka_destroy_flags(handle->rk, RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
		return true;
	}

	clock_gettime(CLOCK_REALTIME, &deadline);
	deadline.tv_sec += CLOSE_SECONDS;
	pthread_mutex_lock(&end->lock);
	while (!end->done &&
		   pthread_cond_timedwait(&end->changed, &end->lock, &deadline) == 0)
		;
	done = end->done;
	pthread_mutex_unlock(&end->lock);

	if (done)
	{
		pthread_join(thread, NULL);
		pthread_cond_destroy(&end->changed);
		pthread_mutex_destroy(&end->lock);
		free(end);
	}
	else
	{
		static bool hook_is_set = false;

		if (!hook_is_set)
			hook_is_set = (atexit(leave_late_threads) == 0);
		pthread_detach(thread);
		handle->end = end;
	}
	return done;
}

/* In the thread that ends a client. */
static void *
wait_for_end(void *arg)
{
	ClientEnd  *end = arg;

	rd_kafka_destroy_flags(end->rk, RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
	pthread_mutex_lock(&end->lock);
	end->done = true;
	pthread_cond_signal(&end->changed);
	pthread_mutex_unlock(&end->lock);
	return NULL;
}

/* Frees what late clients have left, of those that have ended by now. */
static void
free_late_handles(void)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &late_handles)
	{
		WeirKafkaHandle *handle = dlist_container(WeirKafkaHandle, node, iter.cur);
		ClientEnd  *end = handle->end;
		bool		done;

		pthread_mutex_lock(&end->lock);
		done = end->done;
		pthread_mutex_unlock(&end->lock);
		if (!done)
			continue;

		/*
		 * Its last act was to release the lock; the few bytes of end are not
		 * worth finding out whether it has returned from that.
		 */
		dlist_delete(&handle->node);
		MemoryContextDelete(handle->mcxt);
	}
}

/*
 * In exit(), before the destructors of libraries that were loaded earlier:
 * those of OpenSSL would crash a thread that still uses it, and a crash of one
 * backend restarts them all.  Everything of Postgres' has been done by now.
 */
static void
leave_late_threads(void)
{
	dlist_iter	iter;
	bool		late = false;

	dlist_foreach(iter, &late_handles)
	{
		ClientEnd  *end = dlist_container(WeirKafkaHandle, node, iter.cur)->end;

		pthread_mutex_lock(&end->lock);
		late |= !end->done;
		pthread_mutex_unlock(&end->lock);
	}
	if (late)
		_exit(exit_code);
}

void
weir_kafka_handle_release(WeirKafkaHandle *handle)
{
	for (int i = 0; i < handle->n_batch; i++)
		rd_kafka_message_destroy(handle->batch[i]);
	handle->n_batch = 0;
}

rd_kafka_topic_t *
weir_kafka_handle_topic(WeirKafkaHandle *handle)
{
	if (handle->topic == NULL)
		handle->topic = rd_kafka_topic_new(handle->rk, handle->target->topic,
										   NULL);
	return handle->topic;
}

/* The end of a (sub)transaction or portal: no handle of its survives. */
static void
release_handles(ResourceReleasePhase phase, bool is_commit, bool is_top_level,
				void *arg)
{
	dlist_mutable_iter iter;

	if (phase != RESOURCE_RELEASE_BEFORE_LOCKS)
		return;
	dlist_foreach_modify(iter, &open_handles)
	{
		WeirKafkaHandle *handle = dlist_container(WeirKafkaHandle, node, iter.cur);

		if (handle->owner != NULL && handle->owner == CurrentResourceOwner)
			weir_kafka_handle_close(handle);
	}
}

/* The end of the process. */
static void
close_all_handles(int code, Datum arg)
{
	dlist_mutable_iter iter;

	exit_code = code;
	dlist_foreach_modify(iter, &open_handles)
		weir_kafka_handle_close(dlist_container(WeirKafkaHandle, node, iter.cur));
}

void
weir_kafka_handle_wake(WeirKafkaHandle *handle)
{
	int			rc = write(handle->pipe[1], "w", 1);

	(void) rc;					/* a full pipe is readable as well */
}

void
weir_kafka_handle_drain(WeirKafkaHandle *handle)
{
	char		buffer[64];

	while (read(handle->pipe[0], buffer, sizeof(buffer)) == sizeof(buffer))
		;
}

void
weir_kafka_handle_serve(WeirKafkaHandle *handle)
{
	weir_kafka_handle_drain(handle);
	rd_kafka_poll(handle->rk, 0);
}

void
weir_kafka_handle_wait(WeirKafkaHandle *handle, int timeout_ms)
{
	int			events;

	events = WaitLatchOrSocket(MyLatch,
							   WL_LATCH_SET | WL_SOCKET_READABLE |
							   WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
							   handle->pipe[0], timeout_ms, PG_WAIT_EXTENSION);
	if (events & WL_LATCH_SET)
		ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

/*
 * DEBUG1, because librdkafka repeats itself at each reconnect and because
 * what matters also arrives as an error.
 */
void
weir_kafka_handle_log(WeirKafkaHandle *handle)
{
	int			n = handle->n_logs;

	handle->n_logs = 0;
	for (int i = 0; i < n; i++)
		ereport(DEBUG1,
				(errmsg_internal("kafka client: %s", handle->logs[i])));
}

/* Printable ASCII, cut to size, always terminated. */
static void
copy_clean(char *to, size_t size, const char *from)
{
	size_t		i = 0;

	if (from != NULL)
		for (; from[i] != '\0' && i < size - 1; i++)
			to[i] = (from[i] >= ' ' && from[i] <= '~') ? from[i] : '?';
	to[i] = '\0';
}

void
weir_kafka_event_set(WeirKafkaEvent *event, rd_kafka_resp_err_t code,
					 const char *text)
{
	event->code = code;
	event->sqlstate = sqlstate_of(code);
	event->transient = is_transient(code);
	copy_clean(event->text, sizeof(event->text),
			   (text != NULL && text[0] != '\0') ? text : rd_kafka_err2str(code));
}

/* For the next poll to report; the newest stays when there are too many. */
void
weir_kafka_handle_note(WeirKafkaHandle *handle, const WeirKafkaEvent *event)
{
	handle->events[Min(handle->n_events, WEIR_KAFKA_MAX_EVENTS - 1)] = *event;
	if (handle->n_events < WEIR_KAFKA_MAX_EVENTS)
		handle->n_events++;
	handle->n_sent = Min(handle->n_sent, handle->n_events - 1);
}

static int
sqlstate_of(rd_kafka_resp_err_t code)
{
	switch ((int) code)
	{
		case RD_KAFKA_RESP_ERR__AUTHENTICATION:
		case RD_KAFKA_RESP_ERR_SASL_AUTHENTICATION_FAILED:
		case RD_KAFKA_RESP_ERR_UNSUPPORTED_SASL_MECHANISM:
		case RD_KAFKA_RESP_ERR_ILLEGAL_SASL_STATE:
			return ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION;

		case RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED:
		case RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED:
		case RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED:
		case RD_KAFKA_RESP_ERR_TRANSACTIONAL_ID_AUTHORIZATION_FAILED:
			return ERRCODE_INSUFFICIENT_PRIVILEGE;

		case RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART:
		case RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION:
		case RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC:
		case RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION:
			return ERRCODE_UNDEFINED_TABLE;

		case RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE:
		case RD_KAFKA_RESP_ERR_RECORD_LIST_TOO_LARGE:
			return ERRCODE_PROGRAM_LIMIT_EXCEEDED;

		case RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET:
		case RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE:
			return ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE;

		case RD_KAFKA_RESP_ERR__BAD_MSG:
		case RD_KAFKA_RESP_ERR__BAD_COMPRESSION:
		case RD_KAFKA_RESP_ERR_INVALID_MSG:
			return ERRCODE_DATA_CORRUPTED;

		default:
			return is_transient(code) || code == RD_KAFKA_RESP_ERR__SSL ?
				ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION :
				ERRCODE_FDW_ERROR;
	}
}

/* What may pass by itself: the broker is away, or a leader is being elected. */
static bool
is_transient(rd_kafka_resp_err_t code)
{
	switch ((int) code)
	{
		case RD_KAFKA_RESP_ERR__TRANSPORT:
		case RD_KAFKA_RESP_ERR__RESOLVE:
		case RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN:
		case RD_KAFKA_RESP_ERR__TIMED_OUT:
		case RD_KAFKA_RESP_ERR__TIMED_OUT_QUEUE:
		case RD_KAFKA_RESP_ERR__MSG_TIMED_OUT:
		case RD_KAFKA_RESP_ERR__WAIT_COORD:
		case RD_KAFKA_RESP_ERR__WAIT_CACHE:
		case RD_KAFKA_RESP_ERR__IN_PROGRESS:
		case RD_KAFKA_RESP_ERR__NODE_UPDATE:
		case RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE:
		case RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION:
		case RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT:
		case RD_KAFKA_RESP_ERR_BROKER_NOT_AVAILABLE:
		case RD_KAFKA_RESP_ERR_REPLICA_NOT_AVAILABLE:
		case RD_KAFKA_RESP_ERR_NETWORK_EXCEPTION:
		case RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS:
		case RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE:
		case RD_KAFKA_RESP_ERR_NOT_COORDINATOR:
		case RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS:
		case RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS_AFTER_APPEND:
		case RD_KAFKA_RESP_ERR_KAFKA_STORAGE_ERROR:
		case RD_KAFKA_RESP_ERR_OFFSET_NOT_AVAILABLE:
		case RD_KAFKA_RESP_ERR_THROTTLING_QUOTA_EXCEEDED:
			return true;

			/*
			 * A broker that has just started may not know the topic yet; that
			 * it is gone is said by weir_kafka_list(), which asks again.
			 */
		case RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART:
		case RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC:
		case RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION:
			return true;
		default:
			return false;
	}
}

/*
 * Raises in the words that a Postgres user knows for the state, with the
 * client's own words as the detail.
 */
void
weir_kafka_raise(const WeirKafkaHandle *handle, const WeirKafkaEvent *event)
{
	const char *topic = pstrdup(handle->target->topic);
	const char *server = pstrdup(handle->target->server);
	const char *detail = pstrdup(event->text);

	switch (event->sqlstate)
	{
		case ERRCODE_UNDEFINED_TABLE:
			ereport(ERROR,
					(errcode(event->sqlstate),
					 errmsg("topic \"%s\" does not exist on server \"%s\"",
							topic, server),
					 errdetail("The Kafka client says: %s", detail),
					 errhint("Create the topic, or correct the option \"topic\" with ALTER FOREIGN TABLE.")));
			break;
		case ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION:
			ereport(ERROR,
					(errcode(event->sqlstate),
					 errmsg("could not authenticate to Kafka server \"%s\"",
							server),
					 errdetail("The Kafka client says: %s", detail),
					 errhint("Check sasl_username and sasl_password of the user mapping, and sasl_mechanism of the server.")));
			break;
		case ERRCODE_INSUFFICIENT_PRIVILEGE:
			ereport(ERROR,
					(errcode(event->sqlstate),
					 errmsg("Kafka server \"%s\" denies access to topic \"%s\"",
							server, topic),
					 errdetail("The Kafka client says: %s", detail),
					 errhint("The broker's access rules must allow this user to read the topic, or to write it for INSERT.")));
			break;
		case ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION:
			ereport(ERROR,
					(errcode(event->sqlstate),
					 errmsg("could not reach Kafka server \"%s\"", server),
					 errdetail("The Kafka client says: %s", detail),
					 errhint("Check bootstrap_servers, security_protocol and that the broker's advertised addresses can be reached from here.")));
			break;
		default:
			ereport(ERROR,
					(errcode(event->sqlstate),
					 errmsg("Kafka server \"%s\" reported an error for topic \"%s\"",
							server, topic),
					 errdetail("The Kafka client says: %s", detail)));
	}
	pg_unreachable();
}

/* Inside a poll of ours. */
static void
on_error(rd_kafka_t *rk, int code, const char *reason, void *opaque)
{
	WeirKafkaHandle *handle = opaque;
	WeirKafkaEvent event;
	char		fatal[WEIR_KAFKA_TEXT_LEN] = "";

	/*
	 * A fatal error hides its own cause behind a code that says nothing.
	 */
	if (code == RD_KAFKA_RESP_ERR__FATAL)
	{
		rd_kafka_resp_err_t cause = rd_kafka_fatal_error(rk, fatal, sizeof(fatal));

		if (cause != RD_KAFKA_RESP_ERR_NO_ERROR)
		{
			code = cause;
			reason = fatal;
		}
	}

	/*
	 * We read without a group, and acknowledgements may fail (source.h): what
	 * happens to its coordinator is no error of the source.
	 */
	if (code == RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED ||
		(reason != NULL && strncmp(reason, "GroupCoordinator", 16) == 0))
		return;

	weir_kafka_event_set(&event, code, reason);
	if (reason == fatal)
		event.transient = false;
	weir_kafka_handle_note(handle, &event);

	/* "all brokers are down" says less than the reason before it */
	if (code != RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN)
		copy_clean(handle->last_words, sizeof(handle->last_words), reason);
}

/* Inside a poll of ours, or inside rd_kafka_new in our thread. */
static void
on_log(const rd_kafka_t *rk, int level, const char *facility, const char *text)
{
	WeirKafkaHandle *handle = rk ? rd_kafka_opaque(rk) : NULL;

	if (handle == NULL)
		return;
	if (handle->n_logs < WEIR_KAFKA_MAX_EVENTS)
		copy_clean(handle->logs[handle->n_logs++], WEIR_KAFKA_TEXT_LEN, text);
}

/* Inside a poll of ours: one acknowledgement has been answered, or given up. */
static void
on_commit(rd_kafka_t *rk, rd_kafka_resp_err_t code,
		  rd_kafka_topic_partition_list_t *offsets, void *opaque)
{
	WeirKafkaHandle *handle = opaque;

	if (handle->acks_in_flight > 0)
		handle->acks_in_flight--;
	if (code != RD_KAFKA_RESP_ERR_NO_ERROR &&
		handle->n_logs < WEIR_KAFKA_MAX_EVENTS)
		copy_clean(handle->logs[handle->n_logs++], WEIR_KAFKA_TEXT_LEN,
				   rd_kafka_err2str(code));
}

/* Inside a poll of ours: one message was delivered, or never will be. */
static void
on_delivery(rd_kafka_t *rk, const rd_kafka_message_t *message, void *opaque)
{
	WeirKafkaHandle *handle = opaque;

	if (message->err == RD_KAFKA_RESP_ERR_NO_ERROR)
		handle->delivered++;
	else if (handle->failed++ == 0)
		weir_kafka_event_set(&handle->first_failure, message->err,
							 rd_kafka_message_errstr(message));
}

/*
 * In a thread of librdkafka's, for every broker that it is about to connect
 * to: those of bootstrap_servers and those that brokers advertise.  Without
 * node it is asked to free a result.
 */
static int
resolve_host(const char *node, const char *service,
			 const struct addrinfo *hints, struct addrinfo **result,
			 void *opaque)
{
	const WeirKafkaHandle *handle = opaque;
	const WeirKafkaTarget *target = handle->target;

	if (node == NULL && service == NULL)
	{
		freeaddrinfo(*result);
		return 0;
	}
	if (target->allowed_hosts != NULL &&
		!weir_kafka_host_allowed(target->allowed_hosts, target->n_allowed_hosts,
								 node ? node : "", service))
	{
		errno = EACCES;			/* "Permission denied" in the error's text */
		return EAI_SYSTEM;
	}
	return getaddrinfo(node, service, hints, result);
}
