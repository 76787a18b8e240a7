/*-------------------------------------------------------------------------
 *
 * kafka_options.c
 *	  The options of Kafka servers, user mappings, tables and columns.
 *
 * Receives the option lists of CREATE and ALTER SERVER, USER MAPPING and
 * FOREIGN TABLE, and refuses what is not on the list below; later turns what
 * was stored into a configuration for librdkafka.
 *
 * An allow-list, never a deny-list.  librdkafka has some 170 properties, and
 * new ones with every release: `plugin.library.paths` loads a library,
 * `sasl.kerberos.kinit.cmd` runs a shell command, every `*.location` opens a
 * file with the server's rights, `debug` writes secrets to the log, and an
 * OAuth endpoint makes the server fetch any URL.  None of them is here.  Nor
 * is anything that would break the engine's reading: offsets, groups,
 * isolation and commit settings are set by weir_kafka_conf() alone.
 *
 * SASL deserves a word.  librdkafka's default mechanism is GSSAPI, which runs
 * kinit through a shell and would lend the server's own ticket to every user.
 * So a SASL protocol without a mechanism is refused, and only mechanisms that
 * use the mapping's own name and password are accepted.
 *
 * Whether a value makes sense is asked of librdkafka, where the option is one of
 * its properties, and of kafka_option_values.c.
 *
 * What this file cannot see: a validator gets one catalog's options at a
 * time, so that a csv delimiter on a json table, or a `path` that two columns
 * share, is found by the decoder (weir_decoder_check).
 *
 *-------------------------------------------------------------------------
 */
#include "source/kafka_options.h"

#include "access/htup_details.h"
#include "access/reloptions.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_foreign_data_wrapper.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_foreign_table.h"
#include "catalog/pg_user_mapping.h"
#include "commands/defrem.h"
#include "fmgr.h"
#include "foreign/foreign.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/syscache.h"
#include "utils/varlena.h"

/* Fifteen seconds: longer than a broker's restart, shorter than patience. */
#define DEFAULT_TIMEOUT_MS 15000

/* Where an option may stand. */
#define ON_SERVER	0x01
#define ON_USER		0x02
#define ON_TABLE	0x04
#define ON_COLUMN	0x08

/* Which handles librdkafka's property is for; it warns about the others. */
#define FOR_CONSUMER	0x01
#define FOR_PRODUCER	0x02
#define FOR_BOTH		(FOR_CONSUMER | FOR_PRODUCER)

typedef struct KafkaOption
{
	const char *name;
	int			where;			/* ON_... */
	const char *property;		/* librdkafka's name; NULL for our own */
	int			handles;		/* FOR_..., of a property */
	bool		secret;			/* never repeat the value in a message */
} KafkaOption;

static const KafkaOption kafka_options[] = {
	/* reaching the broker */
	{"bootstrap_servers", ON_SERVER, "bootstrap.servers", FOR_BOTH, false},
	{"allowed_hosts", ON_SERVER, NULL, 0, false},
	{"timeout", ON_SERVER, NULL, 0, false},
	{"client_id", ON_SERVER, "client.id", FOR_BOTH, false},
	{"client_rack", ON_SERVER, "client.rack", FOR_CONSUMER, false},
	{"broker_address_family", ON_SERVER, "broker.address.family", FOR_BOTH, false},
	{"socket_timeout_ms", ON_SERVER, "socket.timeout.ms", FOR_BOTH, false},
	{"socket_connection_setup_timeout_ms", ON_SERVER,
	"socket.connection.setup.timeout.ms", FOR_BOTH, false},
	{"socket_keepalive_enable", ON_SERVER, "socket.keepalive.enable", FOR_BOTH, false},
	{"connections_max_idle_ms", ON_SERVER, "connections.max.idle.ms", FOR_BOTH, false},
	{"reconnect_backoff_ms", ON_SERVER, "reconnect.backoff.ms", FOR_BOTH, false},
	{"reconnect_backoff_max_ms", ON_SERVER, "reconnect.backoff.max.ms", FOR_BOTH, false},

	/* proving who is who */
	{"security_protocol", ON_SERVER, "security.protocol", FOR_BOTH, false},
	{"sasl_mechanism", ON_SERVER, "sasl.mechanism", FOR_BOTH, false},
	{"ssl_ca_pem", ON_SERVER, "ssl.ca.pem", FOR_BOTH, true},
	{"ssl_certificate_pem", ON_SERVER | ON_USER, "ssl.certificate.pem", FOR_BOTH, true},
	{"ssl_cipher_suites", ON_SERVER, "ssl.cipher.suites", FOR_BOTH, false},
	{"ssl_endpoint_identification_algorithm", ON_SERVER,
	"ssl.endpoint.identification.algorithm", FOR_BOTH, false},
	{"enable_ssl_certificate_verification", ON_SERVER,
	"enable.ssl.certificate.verification", FOR_BOTH, false},
	{"sasl_username", ON_USER, "sasl.username", FOR_BOTH, true},
	{"sasl_password", ON_USER, "sasl.password", FOR_BOTH, true},
	{"ssl_key_pem", ON_USER, "ssl.key.pem", FOR_BOTH, true},
	{"ssl_key_password", ON_USER, "ssl.key.password", FOR_BOTH, true},

	/* reading */
	{"fetch_wait_max_ms", ON_SERVER, "fetch.wait.max.ms", FOR_CONSUMER, false},
	{"fetch_min_bytes", ON_SERVER, "fetch.min.bytes", FOR_CONSUMER, false},
	{"fetch_max_bytes", ON_SERVER, "fetch.max.bytes", FOR_CONSUMER, false},
	{"max_partition_fetch_bytes", ON_SERVER, "max.partition.fetch.bytes", FOR_CONSUMER, false},
	{"queued_max_messages_kbytes", ON_SERVER, "queued.max.messages.kbytes", FOR_CONSUMER, false},
	{"check_crcs", ON_SERVER, "check.crcs", FOR_CONSUMER, false},
	{"message_max_bytes", ON_SERVER, "message.max.bytes", FOR_BOTH, false},

	/* writing */
	{"compression_codec", ON_SERVER, "compression.codec", FOR_PRODUCER, false},
	{"linger_ms", ON_SERVER, "linger.ms", FOR_PRODUCER, false},

	/* what a topic holds */
	{"topic", ON_TABLE, NULL, 0, false},
	{"format", ON_TABLE, NULL, 0, false},
	{"delimiter", ON_TABLE, NULL, 0, false},
	{"quote", ON_TABLE, NULL, 0, false},
	{"escape", ON_TABLE, NULL, 0, false},
	{"null", ON_TABLE, NULL, 0, false},
	{"scan_errors", ON_TABLE, NULL, 0, false},
	{"use_remote_estimate", ON_SERVER | ON_TABLE, NULL, 0, false},
	{"path", ON_COLUMN, NULL, 0, false},
	{"metadata", ON_COLUMN, NULL, 0, false},
};

PG_FUNCTION_INFO_V1(weir_kafka_fdw_validator);
PG_FUNCTION_INFO_V1(weir_kafka_property_names);

static const KafkaOption *find_option(const char *name, int where);
weir_noreturn static void refuse_option(const char *name, int where);
static void check_property(const KafkaOption *option, const char *value);
static List *mapping_options(Oid user_id, Oid server_id);
static void add_properties(WeirKafkaTarget *target, List *options, int where);
static bool set_property(rd_kafka_conf_t *conf, const char *name,
						 const char *value, char *error, size_t error_size);

/*
 * weir.kafka_fdw_validator(options text[], catalog oid)
 *
 * At CREATE and ALTER; the list is complete, as it would be stored.
 * Errors: 22023.
 */
Datum
weir_kafka_fdw_validator(PG_FUNCTION_ARGS)
{
	List	   *options = untransformRelOptions(PG_GETARG_DATUM(0));
	Oid			catalog = PG_GETARG_OID(1);
	int			where;
	ListCell   *lc;

	switch (catalog)
	{
		case ForeignServerRelationId:
			where = ON_SERVER;
			break;
		case UserMappingRelationId:
			where = ON_USER;
			break;
		case ForeignTableRelationId:
			where = ON_TABLE;
			break;
		case AttributeRelationId:
			where = ON_COLUMN;
			break;
		default:
			where = 0;			/* the wrapper itself has no options */
			break;
	}

	foreach(lc, options)
	{
		DefElem    *def = (DefElem *) lfirst(lc);
		const KafkaOption *option = find_option(def->defname, where);

		if (option == NULL)
			refuse_option(def->defname, where);
		weir_kafka_check_value(option->name, defGetString(def));
		if (option->property != NULL)
			check_property(option, defGetString(def));
	}

	if (where == ON_SERVER)
	{
		const char *servers = weir_foreign_option(options, "bootstrap_servers");
		const char *protocol = weir_foreign_option(options, "security_protocol");
		const char *allowed = weir_foreign_option(options, "allowed_hosts");
		char	  **hosts = NULL;
		int			n_hosts = 0;

		if (servers == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("option \"bootstrap_servers\" is required"),
					 errhint("Name one or more brokers, as in OPTIONS (bootstrap_servers 'host1:9092,host2:9092').")));
		if (allowed != NULL)
			hosts = weir_kafka_parse_hosts(allowed, &n_hosts);
		weir_kafka_check_bootstrap(servers, hosts, n_hosts);

		/* the default mechanism would run kinit: see the top of this file */
		if (protocol != NULL && pg_strncasecmp(protocol, "sasl", 4) == 0 &&
			weir_foreign_option(options, "sasl_mechanism") == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("option \"sasl_mechanism\" is required with security protocol \"%s\"",
							protocol),
					 errhint("Valid values are: PLAIN, SCRAM-SHA-256, SCRAM-SHA-512.")));
	}
	else if (where == ON_TABLE && weir_foreign_option(options, "topic") == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("option \"topic\" is required"),
				 errhint("Name the topic that the table reads, as in OPTIONS (topic 'clicks').")));
	else if (where == ON_COLUMN && weir_foreign_option(options, "path") != NULL &&
			 weir_foreign_option(options, "metadata") != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("options \"path\" and \"metadata\" exclude each other"),
				 errhint("A column comes from the message's value or from what surrounds it.")));

	PG_RETURN_VOID();
}

/*
 * The names of all of librdkafka's properties, for the test which checks that
 * everything off the list is refused.  The extension does not declare it.
 */
Datum
weir_kafka_property_names(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	char	   *table = NULL;
	size_t		size = 0;
	FILE	   *out;
	char	   *line;
	char	   *next;

	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);

	/* librdkafka knows only how to print it, as a Markdown table */
	out = open_memstream(&table, &size);
	if (out == NULL)
		elog(ERROR, "out of memory");
	rd_kafka_conf_properties_show(out);
	fclose(out);

	for (line = table; line != NULL && *line; line = next)
	{
		char	   *bar = strchr(line, '|');
		char	   *end = strchr(line, '\n');

		next = end ? end + 1 : NULL;
		if (bar != NULL && (end == NULL || bar < end) &&
			line[0] != '-' && strncmp(line, "Property ", 9) != 0)
		{
			Datum		value;
			bool		null = false;

			while (bar > line && bar[-1] == ' ')
				bar--;
			value = PointerGetDatum(cstring_to_text_with_len(line, bar - line));
			tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc,
								 &value, &null);
		}
	}
	free(table);
	return (Datum) 0;
}

static const KafkaOption *
find_option(const char *name, int where)
{
	for (int i = 0; i < lengthof(kafka_options); i++)
		if ((kafka_options[i].where & where) != 0 &&
			strcmp(kafka_options[i].name, name) == 0)
			return &kafka_options[i];
	return NULL;
}

/*
 * Says no, and what the nearest valid word is; with no near word, all of
 * them.  A name that is valid elsewhere gets a hint to go there: putting the
 * password on the server is the mistake that everybody makes once.
 */
static void
refuse_option(const char *name, int where)
{
	const KafkaOption *elsewhere = find_option(name, ~0);
	const char *nearest = NULL;
	int			distance = Min(4, (int) strlen(name) / 2) + 1;
	StringInfoData valid;
	char	   *hint;

	initStringInfo(&valid);
	for (int i = 0; i < lengthof(kafka_options); i++)
	{
		const char *candidate = kafka_options[i].name;
		int			d;

		if ((kafka_options[i].where & where) == 0)
			continue;
		appendStringInfo(&valid, "%s%s", valid.len ? ", " : "", candidate);

		/* longer names than this are no typing error */
		if (strlen(name) > NAMEDATALEN)
			continue;
		d = varstr_levenshtein_less_equal(name, strlen(name),
										  candidate, strlen(candidate),
										  1, 1, 1, distance, true);
		if (d < distance)
		{
			distance = d;
			nearest = candidate;
		}
	}

	if (elsewhere != NULL)
		hint = psprintf("\"%s\" is an option of a %s.", name,
						(elsewhere->where & ON_SERVER) ? "server" :
						(elsewhere->where & ON_USER) ? "user mapping" :
						(elsewhere->where & ON_TABLE) ? "foreign table" :
						"foreign table's column");
	else if (nearest != NULL)
		hint = psprintf("Perhaps you meant the option \"%s\".", nearest);
	else if (valid.len > 0)
		hint = psprintf("Valid options in this context are: %s.", valid.data);
	else
		hint = "There are no valid options in this context.";

	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid option \"%s\"", name),
			 errhint("%s", hint)));
}

/*
 * Lets librdkafka judge a value, on a configuration that is thrown away.
 * Its words may repeat the value, so secrets get words of ours.
 */
static void
check_property(const KafkaOption *option, const char *value)
{
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	char		error[512] = "";
	bool		ok = set_property(conf, option->property, value,
								  error, sizeof(error));

	rd_kafka_conf_destroy(conf);
	if (ok && value[0] != '\0')
		return;
	/* some of its messages are lines, others are not */
	if (strlen(error) > 0 && error[strlen(error) - 1] == '\n')
		error[strlen(error) - 1] = '\0';

	if (option->secret || value[0] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value for option \"%s\"", option->name),
				 value[0] == '\0' ?
				 errhint("To go back to the default, drop the option.") : 0));
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid value for option \"%s\": \"%s\"",
					option->name, value),
			 errdetail("The Kafka client says: %s", error)));
}

/*
 * The user's mapping, else the public one, else nothing: a broker without
 * authentication needs none, so this is not GetUserMapping, which raises.
 */
static List *
mapping_options(Oid user_id, Oid server_id)
{
	HeapTuple	tuple;
	Datum		datum;
	bool		isnull;
	List	   *options = NIL;

	tuple = SearchSysCache2(USERMAPPINGUSERSERVER,
							ObjectIdGetDatum(user_id),
							ObjectIdGetDatum(server_id));
	if (!HeapTupleIsValid(tuple))
		tuple = SearchSysCache2(USERMAPPINGUSERSERVER,
								ObjectIdGetDatum(InvalidOid),
								ObjectIdGetDatum(server_id));
	if (!HeapTupleIsValid(tuple))
		return NIL;

	datum = SysCacheGetAttr(USERMAPPINGUSERSERVER, tuple,
							Anum_pg_user_mapping_umoptions, &isnull);
	if (!isnull)
		options = untransformRelOptions(datum);
	ReleaseSysCache(tuple);
	return options;
}

WeirKafkaTarget *
weir_kafka_target(Oid foreign_table, Oid user_id)
{
	WeirKafkaTarget *target = palloc0(sizeof(WeirKafkaTarget));
	ForeignTable *table = GetForeignTable(foreign_table);
	ForeignServer *server = GetForeignServer(table->serverid);
	const char *value;

	target->foreign_table = foreign_table;
	target->server = pstrdup(server->servername);
	target->timeout_ms = DEFAULT_TIMEOUT_MS;

	/* a dump may be restored without validation: check again what we need */
	value = weir_foreign_option(table->options, "topic");
	if (value == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("option \"topic\" is required"),
				 errhint("Name the topic that the table reads, as in OPTIONS (topic 'clicks').")));
	weir_kafka_check_topic(value);
	target->topic = pstrdup(value);

	if ((value = weir_foreign_option(server->options, "timeout")) != NULL)
		target->timeout_ms = weir_kafka_parse_timeout(value);
	if ((value = weir_foreign_option(server->options, "allowed_hosts")) != NULL)
		target->allowed_hosts = weir_kafka_parse_hosts(value, &target->n_allowed_hosts);
	value = weir_foreign_option(table->options, "scan_errors");
	target->skip_errors = (value != NULL && strcmp(value, "skip") == 0);
	value = weir_foreign_option(table->options, "use_remote_estimate");
	if (value == NULL)
		value = weir_foreign_option(server->options, "use_remote_estimate");
	if (value != NULL)
		(void) parse_bool(value, &target->use_remote_estimate);

	/* the mapping comes later and wins */
	add_properties(target, server->options, ON_SERVER);
	add_properties(target, mapping_options(user_id, server->serverid), ON_USER);
	return target;
}

/* Appends what librdkafka is to know; anything off the list is an error. */
static void
add_properties(WeirKafkaTarget *target, List *options, int where)
{
	ListCell   *lc;

	foreach(lc, options)
	{
		DefElem    *def = (DefElem *) lfirst(lc);
		const KafkaOption *option = find_option(def->defname, where);

		if (option == NULL)
			refuse_option(def->defname, where);
		if (option->property == NULL)
			continue;
		target->properties = lappend(target->properties, (void *) option);
		target->properties = lappend(target->properties,
									 pstrdup(defGetString(def)));
	}
}

/* rd_kafka_conf_set with our return type. */
static bool
set_property(rd_kafka_conf_t *conf, const char *name, const char *value,
			 char *error, size_t error_size)
{
	return rd_kafka_conf_set(conf, name, value, error, error_size) ==
		RD_KAFKA_CONF_OK;
}

rd_kafka_conf_t *
weir_kafka_conf(const WeirKafkaTarget *target, rd_kafka_type_t type)
{
	/*
	 * First what a user may change, then the user's words, then what nobody
	 * may change.
	 *
	 * The memory of a consumer is bounded by queued.max.messages.kbytes; its
	 * default of 64 MB is too much for a backend.  A broker answers a
	 * connection's requests in order, so that a question about offsets waits
	 * behind a fetch that waits for messages: half a second by default
	 * (fetch.wait.max.ms), for the price of ten small requests a second.
	 */
	static const char *const consumer_defaults[] = {
		"queued.max.messages.kbytes", "16384",
		"fetch.wait.max.ms", "100",
		NULL
	};
	static const char *const producer_defaults[] = {
		"queue.buffering.max.kbytes", "65536",
		"linger.ms", "5",
		NULL
	};
	static const char *const common_fixed[] = {
		"log.queue", "true",	/* no thread of librdkafka's may log */
		"log.connection.close", "false",
		"allow.auto.create.topics", "false",	/* a typing error is an error */
		"socket.nagle.disable", "true", /* or 40 ms a question */
		NULL
	};
	static const char *const consumer_fixed[] = {
		"auto.offset.reset", "error",	/* the default skips to the end */
		"isolation.level", "read_committed",
		"enable.auto.commit", "false",
		"enable.auto.offset.store", "false",
		"enable.partition.eof", "true",
		"max.poll.interval.ms", "86400000",	/* no group, so no rebalance */
		"session.timeout.ms", "1000",	/* else a close waits longer for a lost
										 * acknowledgement */
		NULL
	};
	static const char *const producer_fixed[] = {
		"enable.idempotence", "true",	/* implies acks=all */
		"partitioner", "murmur2_random",	/* where Java's producers put a key */
		NULL
	};
	bool		producer = (type == RD_KAFKA_PRODUCER);
	const char *const *sets[3];
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	const KafkaOption *failed = NULL;
	const char *failed_name = NULL;
	char		error[512] = "";
	ListCell   *lc;

	/* no palloc and no ereport from here on: conf would leak */
	sets[0] = producer ? producer_defaults : consumer_defaults;
	sets[1] = common_fixed;
	sets[2] = producer ? producer_fixed : consumer_fixed;

	for (int i = 0; sets[0][i] != NULL && failed_name == NULL; i += 2)
		if (!set_property(conf, sets[0][i], sets[0][i + 1],
						  error, sizeof(error)))
			failed_name = sets[0][i];

	/* how long a full queue goes unlooked at: a second is the default */
	if (!producer && rd_kafka_version() >= WEIR_KAFKA_QUEUE_BACKOFF)
		(void) set_property(conf, "fetch.queue.backoff.ms", "10",
							error, sizeof(error));

	for (lc = list_head(target->properties);
		 lc != NULL && failed_name == NULL;
		 lc = lnext(target->properties, lc))
	{
		const KafkaOption *option = (const KafkaOption *) lfirst(lc);
		const char *value;

		lc = lnext(target->properties, lc);
		value = (const char *) lfirst(lc);
		if ((option->handles & (producer ? FOR_PRODUCER : FOR_CONSUMER)) == 0)
			continue;
		if (!set_property(conf, option->property, value,
						  error, sizeof(error)))
		{
			failed = option;
			failed_name = option->name;
		}
	}

	for (int s = 1; s < 3; s++)
		for (int i = 0; sets[s][i] != NULL && failed_name == NULL; i += 2)
			if (!set_property(conf, sets[s][i], sets[s][i + 1],
							  error, sizeof(error)))
				failed_name = sets[s][i];

	if (failed_name != NULL)
	{
		rd_kafka_conf_destroy(conf);
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value for option \"%s\"", failed_name),
				 (failed != NULL && failed->secret) ? 0 :
				 errdetail("The Kafka client says: %s", error)));
	}
	return conf;
}
