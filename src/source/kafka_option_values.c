/*-------------------------------------------------------------------------
 *
 * kafka_option_values.c
 *	  The values of options of Kafka servers, tables and columns.
 *
 * Receives one value at a time, as text, and says what is wrong with it or
 * returns what it means.  It knows nothing of where an option may stand, nor of
 * other options; that is kafka_options.c's business.
 *
 * Hosts are compared here as well, when a server is created and again when
 * librdkafka connects to what the brokers advertise (kafka_handle.c).
 *
 *-------------------------------------------------------------------------
 */
#include "source/kafka_options.h"

#include <ctype.h>

#include "fmgr.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/timestamp.h"

#define MIN_TIMEOUT_MS 100
#define MAX_TIMEOUT_MS (60 * 60 * 1000)

/* Kafka's own limit on the name of a topic. */
#define MAX_TOPIC_LEN 249

void
weir_kafka_check_topic(const char *topic)
{
	size_t		len = strlen(topic);

	if (len == 0 || len > MAX_TOPIC_LEN ||
		strspn(topic, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") != len ||
		strcmp(topic, ".") == 0 || strcmp(topic, "..") == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value for option \"topic\": \"%s\"", topic),
				 errhint("A topic's name has 1 to %d letters, digits, dots, underscores and hyphens.",
						 MAX_TOPIC_LEN)));
}

static void
check_one_of(const char *name, const char *value, const char *const *choices)
{
	StringInfoData valid;

	initStringInfo(&valid);
	for (int i = 0; choices[i] != NULL; i++)
	{
		if (strcmp(value, choices[i]) == 0)
			return;
		appendStringInfo(&valid, "%s%s", i ? ", " : "", choices[i]);
	}
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid value for option \"%s\": \"%s\"", name, value),
			 errhint("Valid values are: %s.", valid.data)));
}

/* As COPY demands of its own options of these names. */
static void
check_one_byte(const char *name, const char *value)
{
	if (strlen(value) != 1 || value[0] == '\n' || value[0] == '\r')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value for option \"%s\": \"%s\"", name, value),
				 errhint("It must be a single one-byte character other than a line end.")));
}

/*
 * A file name in place of a PEM text would fail later anyway, and without
 * opening the file; saying so at DDL is kinder.  The value is not repeated.
 */
static void
check_pem(const char *name, const char *value)
{
	while (isspace((unsigned char) *value))
		value++;
	if (strncmp(value, "-----BEGIN ", 11) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value for option \"%s\"", name),
				 errhint("Give the text of the PEM file, beginning with -----BEGIN; file names are not accepted.")));
}

int
weir_kafka_parse_timeout(const char *value)
{
	volatile double ms = -1;
	int			parsed;

	if (parse_int(value, &parsed, GUC_UNIT_MS, NULL))
		ms = parsed;
	else
	{
		MemoryContext caller = CurrentMemoryContext;

		/* any complaint is replaced by the one below, also a raised one */
		PG_TRY();
		{
			Interval   *interval =
				DatumGetIntervalP(DirectFunctionCall3(interval_in,
													  CStringGetDatum(value),
													  ObjectIdGetDatum(InvalidOid),
													  Int32GetDatum(-1)));

			if (interval->month == 0 && interval->day == 0)
				ms = interval->time / 1000.0;
		}
		PG_CATCH();
		{
			MemoryContextSwitchTo(caller);
			FlushErrorState();
		}
		PG_END_TRY();
	}

	if (ms < MIN_TIMEOUT_MS || ms > MAX_TIMEOUT_MS)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value for option \"timeout\": \"%s\"", value),
				 errhint("Give milliseconds or an interval between 100 ms and 1 hour.")));
	return (int) ms;
}

char **
weir_kafka_parse_hosts(const char *value, int *n_hosts)
{
	char	   *copy = pstrdup(value);
	char	  **hosts = palloc(sizeof(char *) * (strlen(value) + 1));
	char	   *save = NULL;
	char	   *host;
	int			n = 0;

	for (host = strtok_r(copy, ", \t\n", &save); host != NULL;
		 host = strtok_r(NULL, ", \t\n", &save))
	{
		if (strchr(host, '*') != NULL &&
			(strncmp(host, "*.", 2) != 0 || strchr(host + 1, '*') != NULL))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("invalid value for option \"allowed_hosts\": \"%s\"", value),
					 errhint("Give hosts, host:port pairs or suffixes such as '*.example.com', separated by commas.")));
		hosts[n++] = host;
	}
	if (n == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("option \"allowed_hosts\" names no host"),
				 errhint("Drop the option to allow every host.")));
	*n_hosts = n;
	return hosts;
}

/*
 * Runs in librdkafka's threads too: no palloc, no ereport, no locale.
 */
bool
weir_kafka_host_allowed(char **hosts, int n_hosts,
						const char *host, const char *port)
{
	size_t		len = strlen(host);

	for (int i = 0; i < n_hosts; i++)
	{
		const char *allowed = hosts[i];
		const char *colon = strrchr(allowed, ':');
		size_t		allowed_len = strlen(allowed);

		/* one colon parts host and port; more are an IPv6 address */
		if (colon != NULL && strchr(allowed, ':') == colon)
		{
			if (port == NULL || strcmp(colon + 1, port) != 0)
				continue;
			allowed_len = colon - allowed;
		}
		if (allowed[0] == '*')
		{
			if (len >= allowed_len &&
				pg_strncasecmp(host + len - (allowed_len - 1), allowed + 1,
							   allowed_len - 1) == 0)
				return true;
		}
		else if (len == allowed_len &&
				 pg_strncasecmp(host, allowed, len) == 0)
			return true;
	}
	return false;
}

void
weir_kafka_check_bootstrap(const char *servers, char **hosts, int n_hosts)
{
	char	   *copy = pstrdup(servers);
	char	   *save = NULL;
	char	   *server;
	int			n = 0;

	for (server = strtok_r(copy, ", \t\n", &save); server != NULL;
		 server = strtok_r(NULL, ", \t\n", &save))
	{
		char	   *host = strstr(server, "://");
		char	   *port;

		n++;
		host = host ? host + 3 : server;
		port = strrchr(host, ':');
		if (host[0] == '[' && strchr(host, ']') != NULL)
		{
			char	   *close = strchr(++host, ']');

			port = (close[1] == ':') ? close + 1 : NULL;
			*close = '\0';
		}
		if (port != NULL)
			*port++ = '\0';
		if (host[0] == '\0')
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("invalid value for option \"bootstrap_servers\": \"%s\"",
							servers),
					 errhint("Give host:port pairs separated by commas.")));
		if (hosts != NULL &&
			!weir_kafka_host_allowed(hosts, n_hosts, host, port ? port : "9092"))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("bootstrap server \"%s\" is not one of the allowed hosts",
							host),
					 errhint("Add it to the option \"allowed_hosts\", which the addresses that brokers advertise must obey as well.")));
	}
	if (n == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("option \"bootstrap_servers\" names no broker"),
				 errhint("Give host:port pairs separated by commas.")));
}

void
weir_kafka_check_value(const char *name, const char *value)
{
	static const char *const formats[] = {"json", "csv", "text", "bytes", NULL};
	static const char *const errors[] = {"raise", "skip", NULL};
	static const char *const metadata[] = {"key", "partition", "offset",
	"timestamp", "headers", NULL};
	static const char *const mechanisms[] = {"PLAIN", "SCRAM-SHA-256",
	"SCRAM-SHA-512", NULL};
	int			n;

	if (strcmp(name, "topic") == 0)
		weir_kafka_check_topic(value);
	else if (strcmp(name, "format") == 0)
		check_one_of(name, value, formats);
	else if (strcmp(name, "scan_errors") == 0)
		check_one_of(name, value, errors);
	else if (strcmp(name, "metadata") == 0)
		check_one_of(name, value, metadata);
	else if (strcmp(name, "sasl_mechanism") == 0)
		check_one_of(name, value, mechanisms);
	else if (strcmp(name, "timeout") == 0)
		(void) weir_kafka_parse_timeout(value);
	else if (strcmp(name, "allowed_hosts") == 0)
		(void) weir_kafka_parse_hosts(value, &n);
	else if (strcmp(name, "delimiter") == 0 || strcmp(name, "quote") == 0 ||
			 strcmp(name, "escape") == 0)
		check_one_byte(name, value);
	else if (strcmp(name, "use_remote_estimate") == 0)
	{
		bool		flag;

		if (!parse_bool(value, &flag))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("invalid value for option \"%s\": \"%s\"", name, value),
					 errhint("Valid values are: true, false.")));
	}
	else if (strcmp(name, "path") == 0)
	{
		size_t		len = strlen(value);

		if (len == 0 || value[0] == '.' || value[len - 1] == '.' ||
			strstr(value, "..") != NULL)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("invalid value for option \"path\": \"%s\"", value),
					 errhint("A path is names separated by dots, as in 'geo.country'.")));
	}
	else if (strstr(name, "_pem") != NULL)
		check_pem(name, value);
}
