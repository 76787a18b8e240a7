/*
 * weir_broker: a Kafka broker small enough to start with every test.
 *
 * It is librdkafka's own mock cluster, one broker on the loopback interface,
 * kept alive by a process of its own so that clients in other processes can
 * use it.  It receives topics on its command line and, with --control, orders
 * on its standard input; it hands on nothing but its bootstrap address.
 *
 *     weir_broker [--file=PATH] [--control] [name:partitions ...]
 *
 * The address is written to PATH (atomically: a reader sees all of it or no
 * file) or, without --file, as the first line of standard output.
 *
 * Orders, one a line, each answered by "ok" or "error <why>":
 *
 *     topic <name> <partitions>      create a topic
 *     down | up                      refuse connections; accept them again
 *     rtt <ms>                       delay every answer
 *     leader <topic> <part> <0|1>    take a partition's leader away, or back
 *     topic_error <topic> <code>     answer metadata requests with this code
 *     fail <api key> <code> <n>      fail the next n requests of this kind
 *
 * What it deliberately is not: Kafka.  The mock keeps 5 MiB or 100,000 message
 * sets a partition and drops the oldest beyond that, forgets everything when
 * it stops, cannot add partitions or delete topics or records, answers -1 when
 * asked for the offset of a time, and shows aborted transactions to readers
 * who asked for committed data only.  A topic that a producer names comes into
 * being with four partitions.  Tests of any of these use the real broker.
 *
 * It never outlives the one who started it: it dies with its parent and, with
 * --control, at the end of its standard input.
 */
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <librdkafka/rdkafka.h>
#include <librdkafka/rdkafka_mock.h>

#define THE_BROKER 1			/* the mock numbers its brokers from 1 */

static void
die(const char *what, const char *why)
{
	fprintf(stderr, "weir_broker: %s: %s\n", what, why);
	exit(1);
}

/*
 * Ask the kernel to end us with our parent.  The parent may have died before
 * we asked, in which case nobody would ever tell us.
 */
static void
die_with_parent(pid_t parent)
{
	if (prctl(PR_SET_PDEATHSIG, SIGTERM) != 0)
		die("prctl", strerror(errno));
	if (getppid() != parent)
		exit(1);
}

/* "name:partitions", from the command line */
static void
create_topic_arg(rd_kafka_mock_cluster_t *cluster, const char *arg)
{
	char		name[250];
	const char *colon = strrchr(arg, ':');
	int			partitions = colon ? atoi(colon + 1) : 0;
	rd_kafka_resp_err_t err;

	if (partitions <= 0 || colon == arg || (size_t) (colon - arg) >= sizeof(name))
		die(arg, "expected name:partitions");
	memcpy(name, arg, colon - arg);
	name[colon - arg] = '\0';
	err = rd_kafka_mock_topic_create(cluster, name, partitions, 1);
	if (err)
		die(arg, rd_kafka_err2str(err));
}

static void
publish_address(const char *address, const char *path)
{
	char		tmp[4096];
	FILE	   *f;

	if (path == NULL)
	{
		printf("%s\n", address);
		fflush(stdout);
		return;
	}
	snprintf(tmp, sizeof(tmp), "%s.tmp", path);
	if ((f = fopen(tmp, "w")) == NULL)
		die(tmp, strerror(errno));
	if (fprintf(f, "%s\n", address) < 0 || fclose(f) != 0)
		die(tmp, strerror(errno));
	if (rename(tmp, path) != 0)
		die(path, strerror(errno));
}

/* One order; the answer is an error text, or NULL when it was carried out. */
static const char *
obey(rd_kafka_mock_cluster_t *cluster, const char *line)
{
	char		name[250];
	int			a;
	int			b;
	int			n;
	rd_kafka_resp_err_t err = RD_KAFKA_RESP_ERR_NO_ERROR;

	if (sscanf(line, "topic %249s %d", name, &n) == 2)
		err = rd_kafka_mock_topic_create(cluster, name, n, 1);
	else if (strcmp(line, "down") == 0)
		err = rd_kafka_mock_broker_set_down(cluster, THE_BROKER);
	else if (strcmp(line, "up") == 0)
		err = rd_kafka_mock_broker_set_up(cluster, THE_BROKER);
	else if (sscanf(line, "rtt %d", &n) == 1)
		err = rd_kafka_mock_broker_set_rtt(cluster, THE_BROKER, n);
	else if (sscanf(line, "leader %249s %d %d", name, &a, &b) == 3)
		err = rd_kafka_mock_partition_set_leader(cluster, name, a,
												 b ? THE_BROKER : -1);
	else if (sscanf(line, "topic_error %249s %d", name, &a) == 2)
		rd_kafka_mock_topic_set_error(cluster, name, a);
	else if (sscanf(line, "fail %d %d %d", &a, &b, &n) == 3)
	{
		while (n-- > 0)
			rd_kafka_mock_push_request_errors(cluster, a, 1, b);
	}
	else
		return "unknown order";
	return err ? rd_kafka_err2str(err) : NULL;
}

int
main(int argc, char **argv)
{
	pid_t		parent = getppid();
	const char *path = NULL;
	bool		control = false;
	char		errstr[512];
	rd_kafka_conf_t *conf;
	rd_kafka_t *rk;
	rd_kafka_mock_cluster_t *cluster;
	sigset_t	stop;
	int			signo;
	int			i;

	die_with_parent(parent);

	/*
	 * Block the signals before librdkafka starts its threads, so that these
	 * inherit the mask and sigwait() below is the only one to see them.  With
	 * --control the main thread reads instead of waiting: there the signals
	 * keep their default effect, which needs no farewell either.
	 */
	sigemptyset(&stop);
	sigaddset(&stop, SIGTERM);
	sigaddset(&stop, SIGINT);
	sigaddset(&stop, SIGHUP);
	for (i = 1; i < argc; i++)
		if (strcmp(argv[i], "--control") == 0)
			control = true;
	if (!control)
		sigprocmask(SIG_BLOCK, &stop, NULL);

	/* its carrier never connects anywhere, and need not warn about that */
	conf = rd_kafka_conf_new();
	rd_kafka_conf_set(conf, "log_level", "3", errstr, sizeof(errstr));
	rk = rd_kafka_new(RD_KAFKA_PRODUCER, conf, errstr, sizeof(errstr));
	if (rk == NULL)
		die("librdkafka", errstr);
	cluster = rd_kafka_mock_cluster_new(rk, 1);
	if (cluster == NULL)
		die("librdkafka", "could not create the mock cluster");

	for (i = 1; i < argc; i++)
	{
		if (strcmp(argv[i], "--control") == 0)
			continue;
		else if (strncmp(argv[i], "--file=", 7) == 0)
			path = argv[i] + 7;
		else if (argv[i][0] == '-')
			die(argv[i], "unknown option");
		else
			create_topic_arg(cluster, argv[i]);
	}

	publish_address(rd_kafka_mock_cluster_bootstraps(cluster), path);

	if (control)
	{
		char	   *line = NULL;
		size_t		size = 0;
		ssize_t		len;

		while ((len = getline(&line, &size, stdin)) > 0)
		{
			const char *error;

			if (line[len - 1] == '\n')
				line[len - 1] = '\0';
			error = obey(cluster, line);
			if (error)
				printf("error %s\n", error);
			else
				printf("ok\n");
			fflush(stdout);
		}
		free(line);
	}
	else
		sigwait(&stop, &signo);

	if (path)
		unlink(path);
	rd_kafka_mock_cluster_destroy(cluster);
	rd_kafka_destroy(rk);
	return 0;
}
