/*
 * weir_produce: what the tests, the demo and the benchmarks do to a topic.
 *
 * It receives lines on standard input and hands on Kafka messages, or carries
 * out one administrative request.  It is not a general client: it exists so
 * that a test can say exactly which bytes lie at which offset, quickly, without
 * trusting any code of the extension.
 *
 *     weir_produce --bootstrap=HOST:PORT [options] MODE
 *
 * Modes, the first being what happens without one:
 *
 *     --topic=T                     produce the lines of standard input
 *     --topic=T --watermarks        print "partition <TAB> low <TAB> high"
 *     --topic=T --committed=GROUP   print "partition <TAB> offset" of those that
 *                                   the group has committed
 *     --topic=T --consume           print every message up to the watermarks
 *                                   of this moment, with its offset first:
 *                                   "partition offset timestamp key value"
 *     --topic=T --create=N          create it with N partitions (--conf=K=V)
 *     --topic=T --partitions=N      raise the number of partitions to N
 *     --topic=T --alter             set --conf=K=V on it
 *     --topic=T --delete            delete it
 *     --topic=T --delete-records=P:O[,P:O ...]
 *                                   delete what lies before offset O
 *     --ping                        wait until the broker answers
 *
 * A line to produce is
 *
 *     partition <TAB> key <TAB> value [<TAB> timestamp ms [<TAB> name=header ...]]
 *
 * in the text format of COPY: \N is null, backslash escapes \t \n \r \b \f \v
 * \\ \ooo and \xhh stand for their byte.  So `COPY (SELECT ...) TO STDOUT`
 * feeds it directly.  With --raw only \N is special, which suits hand-written
 * JSON.  A partition of \N (or -1) leaves the choice to the key's hash.  Lines
 * that begin with "!" are orders: !begin, !commit, !abort (these three with
 * --transactional-id), !flush (wait until everything is acknowledged).
 *
 * Messages are acknowledged by all replicas and keep the order of the lines
 * within a partition.  The exit status is 0 only if every message arrived.
 *
 * With --answer every order is answered by a line with its name once it is
 * done, for a caller who holds both ends of the pipe.
 *
 * Options: --transactional-id=ID  --timeout=SECONDS (default 30: no request,
 * and no message, takes longer)  --compression=CODEC  --raw  --report (print
 * "partition first last" offsets at the end)  --isolation=read_uncommitted
 * (for --consume)  --hold=SECONDS (stay, with whatever transaction is open,
 * after the last line, then leave without closing it)  --conf=K=V  --set=K=V
 * (a property of librdkafka).
 */
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include <librdkafka/rdkafka.h>

#define MAX_PARTITIONS 4096
#define MAX_CONF 32

enum mode
{
	MODE_PRODUCE, MODE_WATERMARKS, MODE_COMMITTED, MODE_CONSUME, MODE_CREATE, MODE_PARTITIONS,
	MODE_ALTER, MODE_DELETE, MODE_DELETE_RECORDS, MODE_PING
};

/* What the command line asked for */
static enum mode mode = MODE_PRODUCE;
static const char *bootstrap;
static const char *topic;
static const char *mode_arg;
static const char *transactional_id;
static const char *compression;
static const char *isolation = "read_committed";
static const char *topic_conf[MAX_CONF];
static int	n_topic_conf;
static const char *client_conf[MAX_CONF];
static int	n_client_conf;
static int	timeout_ms = 30000;
static int	hold_s;
static bool raw;
static bool report;
static bool answer;

/* Delivery, as the broker reported it */
static long failed;
static rd_kafka_resp_err_t first_failure;
static int64_t first_offset[MAX_PARTITIONS];
static int64_t last_offset[MAX_PARTITIONS];

static void
die(const char *what, const char *why)
{
	fflush(stdout);
	fprintf(stderr, "weir_produce: %s: %s\n", what, why);
	exit(1);
}

static long
now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000L + ts.tv_nsec / 1000000L;
}

/* ----------------------------------------------------------------
 * Connecting
 * ----------------------------------------------------------------
 */

static void
delivered(rd_kafka_t *rk, const rd_kafka_message_t *m, void *opaque)
{
	if (m->err)
	{
		/* an aborted transaction purges what was still queued: expected */
		if (m->err == RD_KAFKA_RESP_ERR__PURGE_QUEUE ||
			m->err == RD_KAFKA_RESP_ERR__PURGE_INFLIGHT)
			return;
		if (failed++ == 0)
			first_failure = m->err;
	}
	else if (m->partition >= 0 && m->partition < MAX_PARTITIONS && m->offset >= 0)
	{
		if (first_offset[m->partition] < 0)
			first_offset[m->partition] = m->offset;
		last_offset[m->partition] = m->offset;
	}
}

static void
set(rd_kafka_conf_t *conf, const char *key, const char *value)
{
	char		errstr[512];

	if (rd_kafka_conf_set(conf, key, value, errstr, sizeof(errstr)) != RD_KAFKA_CONF_OK)
		die(key, errstr);
}

static rd_kafka_t *
connect_to_broker(void)
{
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	rd_kafka_type_t type = RD_KAFKA_PRODUCER;
	char		ms[16];
	char		errstr[512];
	rd_kafka_t *rk;
	int			i;

	snprintf(ms, sizeof(ms), "%d", timeout_ms);
	set(conf, "bootstrap.servers", bootstrap);
	set(conf, "log_level", "0");	/* we report what matters ourselves */
	set(conf, "broker.address.family", "v4");
	set(conf, "reconnect.backoff.ms", "50");
	set(conf, "reconnect.backoff.max.ms", "500");
	if (mode == MODE_CONSUME || mode == MODE_COMMITTED)
	{
		type = RD_KAFKA_CONSUMER;
		set(conf, "group.id", mode == MODE_COMMITTED ? mode_arg : "weir_produce");
		set(conf, "enable.auto.commit", "false");
		set(conf, "enable.partition.eof", "true");
		set(conf, "auto.offset.reset", "error");
		set(conf, "isolation.level", isolation);
	}
	else
	{
		/* idempotence keeps the order of lines over retries, too */
		set(conf, "enable.idempotence", "true");
		set(conf, "acks", "all");
		set(conf, "linger.ms", "5");
		set(conf, "queue.buffering.max.messages", "500000");
		set(conf, "queue.buffering.max.kbytes", "524288");
		set(conf, "message.max.bytes", "200000000");
		set(conf, "message.timeout.ms", ms);
		if (compression)
			set(conf, "compression.codec", compression);
		if (transactional_id)
			set(conf, "transactional.id", transactional_id);
		rd_kafka_conf_set_dr_msg_cb(conf, delivered);
	}
	for (i = 0; i < n_client_conf; i++)
	{
		char	   *key = strdup(client_conf[i]);
		char	   *eq = strchr(key, '=');

		if (eq == NULL)
			die(key, "expected key=value");
		*eq = '\0';
		set(conf, key, eq + 1);
		free(key);
	}
	rk = rd_kafka_new(type, conf, errstr, sizeof(errstr));
	if (rk == NULL)
		die("connect", errstr);
	return rk;
}

/* Partitions of the topic; dies when the broker does not know it in time. */
static int
partition_count(rd_kafka_t *rk)
{
	long		deadline = now_ms() + timeout_ms;
	const struct rd_kafka_metadata *md;
	rd_kafka_topic_t *rkt = rd_kafka_topic_new(rk, topic, NULL);
	rd_kafka_resp_err_t err;
	int			n = 0;

	do
	{
		err = rd_kafka_metadata(rk, 0, rkt, &md, timeout_ms);
		if (!err)
		{
			err = md->topic_cnt == 1 ? md->topics[0].err
				: RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART;
			n = md->topic_cnt == 1 ? md->topics[0].partition_cnt : 0;
			rd_kafka_metadata_destroy(md);
		}
		if (!err && n > 0)
			break;
		/* a topic created a moment ago may not have a leader yet */
		usleep(50000);
	} while (now_ms() < deadline &&
			 err != RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART);
	rd_kafka_topic_destroy(rkt);
	if (err || n == 0)
		die(topic, err ? rd_kafka_err2str(err) : "has no partitions");
	return n;
}

static void
ping(rd_kafka_t *rk)
{
	long		deadline = now_ms() + timeout_ms;
	const struct rd_kafka_metadata *md;
	rd_kafka_resp_err_t err;

	for (;;)
	{
		err = rd_kafka_metadata(rk, 1, NULL, &md, 1000);
		if (!err)
		{
			int			brokers = md->broker_cnt;

			rd_kafka_metadata_destroy(md);
			if (brokers > 0)
				return;
		}
		if (now_ms() > deadline)
			die(bootstrap, err ? rd_kafka_err2str(err) : "no broker");
		usleep(50000);
	}
}

/* ----------------------------------------------------------------
 * Producing
 * ----------------------------------------------------------------
 */

static int
hex(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

/*
 * Undo COPY's escapes in place (the result is never longer).  Returns the
 * length, or -1 for \N.
 */
static ssize_t
unescape(char *s, size_t len)
{
	char	   *in = s;
	char	   *out = s;
	char	   *end = s + len;

	if (len == 2 && s[0] == '\\' && s[1] == 'N')
		return -1;
	if (raw || memchr(s, '\\', len) == NULL)
		return len;
	while (in < end)
	{
		if (*in != '\\' || in + 1 == end)
		{
			*out++ = *in++;
			continue;
		}
		in++;
		switch (*in)
		{
			case 't': *out++ = '\t'; in++; break;
			case 'n': *out++ = '\n'; in++; break;
			case 'r': *out++ = '\r'; in++; break;
			case 'b': *out++ = '\b'; in++; break;
			case 'f': *out++ = '\f'; in++; break;
			case 'v': *out++ = '\v'; in++; break;
			case 'x':
				if (in + 1 < end && hex(in[1]) >= 0)
				{
					int			v = hex(*++in);

					in++;
					if (in < end && hex(*in) >= 0)
						v = v * 16 + hex(*in++);
					*out++ = (char) v;
				}
				else
					*out++ = *in++;
				break;
			case '0': case '1': case '2': case '3':
			case '4': case '5': case '6': case '7':
				{
					int			v = 0;
					int			digits = 0;

					while (digits++ < 3 && in < end && *in >= '0' && *in <= '7')
						v = v * 8 + (*in++ - '0');
					*out++ = (char) v;
					break;
				}
			default:
				*out++ = *in++;
		}
	}
	return out - s;
}

/* The next tab-separated field, cut out of *rest; NULL when there is none. */
static char *
next_field(char **rest, char *end, size_t *len)
{
	char	   *start = *rest;
	char	   *tab;

	if (start == NULL)
		return NULL;
	tab = memchr(start, '\t', end - start);
	*len = (tab ? tab : end) - start;
	*rest = tab ? tab + 1 : NULL;
	return start;
}

static rd_kafka_headers_t *
parse_headers(char **rest, char *end, long lineno)
{
	rd_kafka_headers_t *headers = NULL;
	char	   *field;
	size_t		len;

	while ((field = next_field(rest, end, &len)) != NULL)
	{
		char	   *eq = memchr(field, '=', len);
		char	   *value;
		ssize_t		vlen;

		if (eq == NULL)
		{
			fprintf(stderr, "weir_produce: line %ld: a header is name=value\n", lineno);
			exit(1);
		}
		if (headers == NULL)
			headers = rd_kafka_headers_new(4);
		value = eq + 1;
		vlen = unescape(value, len - (value - field));
		rd_kafka_header_add(headers, field, eq - field,
							vlen < 0 ? NULL : value, vlen < 0 ? 0 : vlen);
	}
	return headers;
}

static void
produce_line(rd_kafka_t *rk, rd_kafka_topic_t *rkt, char *line, size_t size, long lineno)
{
	char	   *end = line + size;
	char	   *rest = line;
	char	   *part;
	char	   *key;
	char	   *value;
	char	   *ts;
	size_t		part_len;
	size_t		key_size;
	size_t		value_size;
	size_t		ts_len;
	ssize_t		key_len;
	ssize_t		value_len;
	int32_t		partition = RD_KAFKA_PARTITION_UA;
	int64_t		timestamp = 0;
	rd_kafka_headers_t *headers;
	rd_kafka_resp_err_t err;

	part = next_field(&rest, end, &part_len);
	key = next_field(&rest, end, &key_size);
	value = next_field(&rest, end, &value_size);
	if (value == NULL)
	{
		fprintf(stderr, "weir_produce: line %ld: expected partition, key and value\n", lineno);
		exit(1);
	}
	if (!(part_len == 2 && memcmp(part, "\\N", 2) == 0))
		partition = atoi(part);
	ts = next_field(&rest, end, &ts_len);
	if (ts != NULL && ts_len > 0 && ts[0] != '\\')
		timestamp = strtoll(ts, NULL, 10);
	headers = parse_headers(&rest, end, lineno);
	key_len = unescape(key, key_size);
	value_len = unescape(value, value_size);

	for (;;)
	{
		rd_kafka_vu_t args[8];
		size_t		n = 0;
		rd_kafka_error_t *error;

		args[n].vtype = RD_KAFKA_VTYPE_RKT;
		args[n++].u.rkt = rkt;
		args[n].vtype = RD_KAFKA_VTYPE_PARTITION;
		args[n++].u.i32 = partition;
		args[n].vtype = RD_KAFKA_VTYPE_MSGFLAGS;
		args[n++].u.i = RD_KAFKA_MSG_F_COPY;
		args[n].vtype = RD_KAFKA_VTYPE_KEY;
		args[n].u.mem.ptr = key_len < 0 ? NULL : key;
		args[n++].u.mem.size = key_len < 0 ? 0 : key_len;
		args[n].vtype = RD_KAFKA_VTYPE_VALUE;
		args[n].u.mem.ptr = value_len < 0 ? NULL : value;
		args[n++].u.mem.size = value_len < 0 ? 0 : value_len;
		args[n].vtype = RD_KAFKA_VTYPE_TIMESTAMP;
		args[n++].u.i64 = timestamp;	/* 0: now */
		if (headers)
		{
			args[n].vtype = RD_KAFKA_VTYPE_HEADERS;
			args[n++].u.headers = headers;
		}
		error = rd_kafka_produceva(rk, args, n);
		if (error == NULL)
			return;
		err = rd_kafka_error_code(error);
		if (err != RD_KAFKA_RESP_ERR__QUEUE_FULL)
			die("produce", rd_kafka_error_string(error));
		rd_kafka_error_destroy(error);
		rd_kafka_poll(rk, 10);
	}
}

static void
check(const char *what, rd_kafka_error_t *error)
{
	if (error)
		die(what, rd_kafka_error_string(error));
}

static void
flush(rd_kafka_t *rk)
{
	/* messages time out by themselves; the slack lets them say so */
	rd_kafka_resp_err_t err = rd_kafka_flush(rk, timeout_ms + 2000);

	if (err)
		die("flush", rd_kafka_err2str(err));
	if (failed > 0)
	{
		fprintf(stderr, "weir_produce: %ld messages were not delivered: %s\n",
				failed, rd_kafka_err2str(first_failure));
		exit(1);
	}
}

static void
obey(rd_kafka_t *rk, const char *order)
{
	if (strcmp(order, "!begin") == 0)
		check("begin", rd_kafka_begin_transaction(rk));
	else if (strcmp(order, "!commit") == 0)
		check("commit", rd_kafka_commit_transaction(rk, timeout_ms));
	else if (strcmp(order, "!abort") == 0)
	{
		/*
		 * Flush first: otherwise what is still queued is dropped without ever
		 * reaching the log, and the test that wants aborted messages in the
		 * log has none.
		 */
		flush(rk);
		check("abort", rd_kafka_abort_transaction(rk, timeout_ms));
	}
	else if (strcmp(order, "!flush") == 0)
		flush(rk);
	else
		die(order, "unknown order");
	if (answer)
	{
		puts(order);
		fflush(stdout);
	}
}

static void
produce(rd_kafka_t *rk)
{
	rd_kafka_topic_t *rkt;
	char	   *line = NULL;
	size_t		size = 0;
	ssize_t		len;
	long		lineno = 0;
	int			i;

	for (i = 0; i < MAX_PARTITIONS; i++)
		first_offset[i] = last_offset[i] = -1;
	if (transactional_id)
		check("init transactions", rd_kafka_init_transactions(rk, timeout_ms));
	rkt = rd_kafka_topic_new(rk, topic, NULL);
	while ((len = getline(&line, &size, stdin)) > 0)
	{
		lineno++;
		if (line[len - 1] == '\n')
			line[--len] = '\0';
		if (line[0] == '!')
			obey(rk, line);
		else
			produce_line(rk, rkt, line, len, lineno);
		if (lineno % 1000 == 0)
			rd_kafka_poll(rk, 0);
	}
	free(line);
	flush(rk);
	if (report)
		for (i = 0; i < MAX_PARTITIONS; i++)
			if (first_offset[i] >= 0)
				printf("%d\t%lld\t%lld\n", i, (long long) first_offset[i],
					   (long long) last_offset[i]);
	if (hold_s > 0)
	{
		fflush(stdout);
		sleep(hold_s);
		_exit(0);				/* no farewell: the transaction stays open */
	}
	rd_kafka_topic_destroy(rkt);
}

/* ----------------------------------------------------------------
 * Looking
 * ----------------------------------------------------------------
 */

static void
watermarks(rd_kafka_t *rk, int64_t *low, int64_t *high, int n)
{
	int			i;

	for (i = 0; i < n; i++)
	{
		rd_kafka_resp_err_t err;
		long		deadline = now_ms() + timeout_ms;

		/* a partition without a leader yet is worth waiting for */
		while ((err = rd_kafka_query_watermark_offsets(rk, topic, i, &low[i],
													   &high[i], timeout_ms)) != 0)
		{
			if (now_ms() > deadline)
				die(topic, rd_kafka_err2str(err));
			usleep(100000);
		}
	}
}

/* The reverse of unescape() */
static void
print_field(const char *s, size_t len, bool null)
{
	size_t		i;

	if (null)
	{
		fputs("\\N", stdout);
		return;
	}
	for (i = 0; i < len; i++)
	{
		unsigned char c = s[i];

		if (c == '\\')
			fputs("\\\\", stdout);
		else if (c == '\t')
			fputs("\\t", stdout);
		else if (c == '\n')
			fputs("\\n", stdout);
		else if (c == '\r')
			fputs("\\r", stdout);
		else if (c < 0x20)
			printf("\\x%02x", c);
		else
			putchar(c);
	}
}

static void
consume(rd_kafka_t *rk)
{
	int			n = partition_count(rk);
	int64_t    *low = calloc(n, sizeof(int64_t));
	int64_t    *high = calloc(n, sizeof(int64_t));
	rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(n);
	int			open = 0;
	int			i;
	long		last_progress;

	watermarks(rk, low, high, n);
	for (i = 0; i < n; i++)
		if (low[i] < high[i])
		{
			rd_kafka_topic_partition_list_add(list, topic, i)->offset = low[i];
			open++;
		}
	if (rd_kafka_assign(rk, list))
		die(topic, "cannot assign");
	last_progress = now_ms();
	while (open > 0)
	{
		rd_kafka_message_t *m = rd_kafka_consumer_poll(rk, 100);
		rd_kafka_timestamp_type_t type;

		if (m == NULL)
		{
			if (now_ms() - last_progress > timeout_ms)
				die(topic, "timed out");
			continue;
		}
		last_progress = now_ms();
		if (m->err == RD_KAFKA_RESP_ERR__PARTITION_EOF)
			open--;
		else if (m->err)
			die(topic, rd_kafka_message_errstr(m));
		else
		{
			printf("%d\t%lld\t%lld\t", m->partition, (long long) m->offset,
				   (long long) rd_kafka_message_timestamp(m, &type));
			print_field(m->key, m->key_len, m->key == NULL);
			putchar('\t');
			print_field(m->payload, m->len, m->payload == NULL);
			putchar('\n');
		}
		rd_kafka_message_destroy(m);
	}
	rd_kafka_topic_partition_list_destroy(list);
	free(low);
	free(high);
	rd_kafka_consumer_close(rk);
}

static void
print_watermarks(rd_kafka_t *rk)
{
	int			n = partition_count(rk);
	int64_t    *low = calloc(n, sizeof(int64_t));
	int64_t    *high = calloc(n, sizeof(int64_t));
	int			i;

	watermarks(rk, low, high, n);
	for (i = 0; i < n; i++)
		printf("%d\t%lld\t%lld\n", i, (long long) low[i], (long long) high[i]);
	free(low);
	free(high);
}

/* Asked by the group's own name, but without joining it. */
static void
print_committed(rd_kafka_t *rk)
{
	rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
	rd_kafka_resp_err_t err;
	int			n = partition_count(rk);
	int			i;

	for (i = 0; i < n; i++)
		(void) rd_kafka_topic_partition_list_add(list, topic, i);
	err = rd_kafka_committed(rk, list, timeout_ms);
	if (err)
		die("committed", rd_kafka_err2str(err));
	for (i = 0; i < list->cnt; i++)
		if (list->elems[i].offset >= 0)
			printf("%d\t%lld\n", list->elems[i].partition,
				   (long long) list->elems[i].offset);
	rd_kafka_topic_partition_list_destroy(list);
}

/* ----------------------------------------------------------------
 * Administration
 * ----------------------------------------------------------------
 */

/* Wait for the answer to the request just sent and die unless it is success. */
static void
await_result(rd_kafka_queue_t *queue)
{
	rd_kafka_event_t *ev = rd_kafka_queue_poll(queue, timeout_ms + 1000);
	const rd_kafka_topic_result_t **topics = NULL;
	size_t		n = 0;
	size_t		i;

	if (ev == NULL)
		die(topic, "no answer");
	if (rd_kafka_event_error(ev))
		die(topic, rd_kafka_event_error_string(ev));
	switch (rd_kafka_event_type(ev))
	{
		case RD_KAFKA_EVENT_CREATETOPICS_RESULT:
			topics = rd_kafka_CreateTopics_result_topics(rd_kafka_event_CreateTopics_result(ev), &n);
			break;
		case RD_KAFKA_EVENT_DELETETOPICS_RESULT:
			topics = rd_kafka_DeleteTopics_result_topics(rd_kafka_event_DeleteTopics_result(ev), &n);
			break;
		case RD_KAFKA_EVENT_CREATEPARTITIONS_RESULT:
			topics = rd_kafka_CreatePartitions_result_topics(rd_kafka_event_CreatePartitions_result(ev), &n);
			break;
		case RD_KAFKA_EVENT_ALTERCONFIGS_RESULT:
			{
				const rd_kafka_ConfigResource_t **r =
					rd_kafka_AlterConfigs_result_resources(rd_kafka_event_AlterConfigs_result(ev), &n);

				for (i = 0; i < n; i++)
					if (rd_kafka_ConfigResource_error(r[i]))
						die(topic, rd_kafka_ConfigResource_error_string(r[i]));
				n = 0;
				break;
			}
		case RD_KAFKA_EVENT_DELETERECORDS_RESULT:
			{
				const rd_kafka_topic_partition_list_t *l =
					rd_kafka_DeleteRecords_result_offsets(rd_kafka_event_DeleteRecords_result(ev));

				for (i = 0; i < (size_t) l->cnt; i++)
					if (l->elems[i].err)
						die(topic, rd_kafka_err2str(l->elems[i].err));
				break;
			}
		default:
			die(topic, "unexpected answer");
	}
	for (i = 0; i < n; i++)
		if (rd_kafka_topic_result_error(topics[i]))
			die(topic, rd_kafka_topic_result_error_string(topics[i]));
	rd_kafka_event_destroy(ev);
}

/* Call f(key, value) for each --conf */
#define EACH_CONF(f, object) \
	do { \
		for (int c_ = 0; c_ < n_topic_conf; c_++) \
		{ \
			char	   *key_ = strdup(topic_conf[c_]); \
			char	   *eq_ = strchr(key_, '='); \
			if (eq_ == NULL) \
				die(key_, "expected key=value"); \
			*eq_ = '\0'; \
			f(object, key_, eq_ + 1); \
			free(key_); \
		} \
	} while (0)

static rd_kafka_DeleteRecords_t *
parse_delete_records(void)
{
	rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(8);
	rd_kafka_DeleteRecords_t *request;
	const char *p = mode_arg;

	for (;;)
	{
		int			partition;
		long long	offset;
		int			used;

		if (sscanf(p, "%d:%lld%n", &partition, &offset, &used) != 2)
			die(mode_arg, "expected partition:offset[,partition:offset ...]");
		rd_kafka_topic_partition_list_add(list, topic, partition)->offset = offset;
		p += used;
		if (*p == '\0')
			break;
		p++;
	}
	request = rd_kafka_DeleteRecords_new(list);
	rd_kafka_topic_partition_list_destroy(list);
	return request;
}

static void
administer(rd_kafka_t *rk)
{
	rd_kafka_queue_t *queue = rd_kafka_queue_new(rk);
	rd_kafka_AdminOptions_t *options = rd_kafka_AdminOptions_new(rk, RD_KAFKA_ADMIN_OP_ANY);
	char		errstr[512];

	rd_kafka_AdminOptions_set_request_timeout(options, timeout_ms, errstr, sizeof(errstr));
	if (mode == MODE_CREATE)
	{
		rd_kafka_NewTopic_t *t = rd_kafka_NewTopic_new(topic, atoi(mode_arg), 1, errstr, sizeof(errstr));

		if (t == NULL)
			die(topic, errstr);
		EACH_CONF(rd_kafka_NewTopic_set_config, t);
		rd_kafka_CreateTopics(rk, &t, 1, options, queue);
		await_result(queue);
		rd_kafka_NewTopic_destroy(t);
	}
	else if (mode == MODE_PARTITIONS)
	{
		rd_kafka_NewPartitions_t *p = rd_kafka_NewPartitions_new(topic, atoi(mode_arg), errstr, sizeof(errstr));

		if (p == NULL)
			die(topic, errstr);
		rd_kafka_CreatePartitions(rk, &p, 1, options, queue);
		await_result(queue);
		rd_kafka_NewPartitions_destroy(p);
	}
	else if (mode == MODE_ALTER)
	{
		rd_kafka_ConfigResource_t *r = rd_kafka_ConfigResource_new(RD_KAFKA_RESOURCE_TOPIC, topic);

		EACH_CONF(rd_kafka_ConfigResource_set_config, r);
		rd_kafka_AlterConfigs(rk, &r, 1, options, queue);
		await_result(queue);
		rd_kafka_ConfigResource_destroy(r);
	}
	else if (mode == MODE_DELETE)
	{
		rd_kafka_DeleteTopic_t *t = rd_kafka_DeleteTopic_new(topic);

		rd_kafka_DeleteTopics(rk, &t, 1, options, queue);
		await_result(queue);
		rd_kafka_DeleteTopic_destroy(t);
	}
	else
	{
		rd_kafka_DeleteRecords_t *d = parse_delete_records();

		rd_kafka_DeleteRecords(rk, &d, 1, options, queue);
		await_result(queue);
		rd_kafka_DeleteRecords_destroy(d);
	}
	rd_kafka_AdminOptions_destroy(options);
	rd_kafka_queue_destroy(queue);
}

/* ----------------------------------------------------------------
 * The command line
 * ----------------------------------------------------------------
 */

static void
keep(const char **list, int *n, const char *value)
{
	if (*n == MAX_CONF)
		die(value, "too many options");
	list[(*n)++] = value;
}

static void
parse_options(int argc, char **argv)
{
	enum
	{
		BOOTSTRAP = 1000, TOPIC, TXN, TIMEOUT, COMPRESSION, RAW, REPORT, ANSWER,
		ISOLATION, HOLD, CONF, SET, MODES
	};
	static const struct option options[] = {
		{"bootstrap", required_argument, NULL, BOOTSTRAP},
		{"topic", required_argument, NULL, TOPIC},
		{"transactional-id", required_argument, NULL, TXN},
		{"timeout", required_argument, NULL, TIMEOUT},
		{"compression", required_argument, NULL, COMPRESSION},
		{"raw", no_argument, NULL, RAW},
		{"report", no_argument, NULL, REPORT},
		{"answer", no_argument, NULL, ANSWER},
		{"isolation", required_argument, NULL, ISOLATION},
		{"hold", required_argument, NULL, HOLD},
		{"conf", required_argument, NULL, CONF},
		{"set", required_argument, NULL, SET},
		{"watermarks", no_argument, NULL, MODES + MODE_WATERMARKS},
		{"committed", required_argument, NULL, MODES + MODE_COMMITTED},
		{"consume", no_argument, NULL, MODES + MODE_CONSUME},
		{"create", required_argument, NULL, MODES + MODE_CREATE},
		{"partitions", required_argument, NULL, MODES + MODE_PARTITIONS},
		{"alter", no_argument, NULL, MODES + MODE_ALTER},
		{"delete", no_argument, NULL, MODES + MODE_DELETE},
		{"delete-records", required_argument, NULL, MODES + MODE_DELETE_RECORDS},
		{"ping", no_argument, NULL, MODES + MODE_PING},
		{NULL, 0, NULL, 0}
	};
	int			c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1)
		switch (c)
		{
			case BOOTSTRAP: bootstrap = optarg; break;
			case TOPIC: topic = optarg; break;
			case TXN: transactional_id = optarg; break;
			case TIMEOUT: timeout_ms = (int) (atof(optarg) * 1000); break;
			case COMPRESSION: compression = optarg; break;
			case RAW: raw = true; break;
			case REPORT: report = true; break;
			case ANSWER: answer = true; break;
			case ISOLATION: isolation = optarg; break;
			case HOLD: hold_s = atoi(optarg); break;
			case CONF: keep(topic_conf, &n_topic_conf, optarg); break;
			case SET: keep(client_conf, &n_client_conf, optarg); break;
			case '?': exit(2);
			default:
				mode = (enum mode) (c - MODES);
				mode_arg = optarg;
		}
	if (optind < argc)
		die(argv[optind], "unknown argument");
	if (bootstrap == NULL)
		die("--bootstrap", "is missing");
	if (topic == NULL && mode != MODE_PING)
		die("--topic", "is missing");
	if (timeout_ms < 1000)
		timeout_ms = 1000;		/* librdkafka's least for some requests */
}

int
main(int argc, char **argv)
{
	rd_kafka_t *rk;

	/* a test that dies must not leave its producer behind */
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	parse_options(argc, argv);
	rk = connect_to_broker();
	switch (mode)
	{
		case MODE_PRODUCE:
			produce(rk);
			break;
		case MODE_WATERMARKS:
			print_watermarks(rk);
			break;
		case MODE_COMMITTED:
			print_committed(rk);
			break;
		case MODE_CONSUME:
			consume(rk);
			break;
		case MODE_PING:
			ping(rk);
			break;
		default:
			administer(rk);
	}
	if (fflush(stdout) != 0)
		die("stdout", strerror(errno));
	rd_kafka_destroy(rk);
	return 0;
}
