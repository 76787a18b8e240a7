/*-------------------------------------------------------------------------
 *
 * kafka_options.h
 *	  What a user may say about a broker, a topic and its columns.
 *
 * Private to the Kafka parts: source/kafka_*.c and fdw/kafka_*.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef WEIR_KAFKA_OPTIONS_H
#define WEIR_KAFKA_OPTIONS_H

#include "weir.h"

#include <librdkafka/rdkafka.h>

/* Everything that the options of one foreign table and one user say. */
typedef struct WeirKafkaTarget
{
	Oid			foreign_table;
	char	   *topic;
	char	   *server;			/* name of the foreign server, for messages */
	int			timeout_ms;		/* connect and no-progress time-out */
	char	  **allowed_hosts;	/* NULL: every host */
	int			n_allowed_hosts;
	bool		skip_errors;	/* scan_errors 'skip' */
	bool		use_remote_estimate;

	/* librdkafka's property names with their values, in turn */
	List	   *properties;		/* of char *: name, value, name, value, ... */
} WeirKafkaTarget;

/*
 * Reads the options; all memory from CurrentMemoryContext.  Needs a
 * transaction.  Errors: 22023 for options that contradict each other.
 */
extern WeirKafkaTarget *weir_kafka_target(Oid foreign_table, Oid user_id);

/* From this version on librdkafka knows fetch.queue.backoff.ms. */
#define WEIR_KAFKA_QUEUE_BACKOFF 0x020200ff

/*
 * Turns them into a configuration for a handle of the given type.  The result
 * belongs to librdkafka's allocator: the caller hands it to rd_kafka_new or
 * destroys it, and must not raise in between.
 */
extern rd_kafka_conf_t *weir_kafka_conf(const WeirKafkaTarget *target,
										rd_kafka_type_t type);

/*
 * kafka_option_values.c.  What they refuse is an error 22023.
 */

/* Does the value make sense for the option of that name, by itself? */
extern void weir_kafka_check_value(const char *name, const char *value);

extern void weir_kafka_check_topic(const char *topic);

/*
 * A number of milliseconds, a setting's notation ('15s', '2 min') or an
 * interval; returns milliseconds.
 */
extern int	weir_kafka_parse_timeout(const char *value);

/*
 * 'kafka1, kafka2:9092, *.example.com': hosts, hosts with a port, and
 * suffixes that begin at a dot.
 */
extern char **weir_kafka_parse_hosts(const char *value, int *n_hosts);

/* Each bootstrap server must be on the list, if there is one. */
extern void weir_kafka_check_bootstrap(const char *servers, char **hosts,
									   int n_hosts);

/* True when host is on the list; callable from any thread. */
extern bool weir_kafka_host_allowed(char **hosts, int n_hosts,
									const char *host, const char *port);

#endif							/* WEIR_KAFKA_OPTIONS_H */
