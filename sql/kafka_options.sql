--
-- Options of Kafka servers, user mappings, tables and columns: an allow-list,
-- checked when they are set.
--
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pg_weir;
RESET client_min_messages;

-- The whole list is accepted where it belongs.
CREATE SERVER option_full FOREIGN DATA WRAPPER weir_kafka OPTIONS (
	bootstrap_servers 'kafka1.example.com:9092, kafka2.example.com:9093',
	allowed_hosts '*.example.com, 10.0.0.1:9092', timeout '2 min',
	client_id 'me', client_rack 'r1', broker_address_family 'v4',
	socket_timeout_ms '5000', socket_connection_setup_timeout_ms '5000',
	socket_keepalive_enable 'true', connections_max_idle_ms '60000',
	reconnect_backoff_ms '50', reconnect_backoff_max_ms '1000',
	security_protocol 'sasl_ssl', sasl_mechanism 'SCRAM-SHA-512',
	ssl_ca_pem '-----BEGIN CERTIFICATE-----',
	ssl_cipher_suites 'TLS_AES_256_GCM_SHA384',
	ssl_endpoint_identification_algorithm 'https',
	enable_ssl_certificate_verification 'true',
	fetch_wait_max_ms '10', fetch_min_bytes '1', fetch_max_bytes '1000000',
	max_partition_fetch_bytes '100000', queued_max_messages_kbytes '1024',
	check_crcs 'true', message_max_bytes '100000',
	compression_codec 'lz4', linger_ms '1', use_remote_estimate 'false');
CREATE USER MAPPING FOR PUBLIC SERVER option_full OPTIONS (
	sasl_username 'u', sasl_password 'p',
	ssl_certificate_pem '-----BEGIN CERTIFICATE-----',
	ssl_key_pem '-----BEGIN PRIVATE KEY-----', ssl_key_password 'q');
CREATE FOREIGN TABLE option_table (
	a int OPTIONS (path 'x.y'),
	p int OPTIONS (metadata 'partition')
) SERVER option_full OPTIONS (topic 't', format 'csv', delimiter ';', quote '''',
	escape '\', "null" 'NULL', scan_errors 'skip', use_remote_estimate 'on');

-- A name that is not on it: the nearest one, or where it belongs, or all.
ALTER SERVER option_full OPTIONS (bootstrap_server 'h');
ALTER SERVER option_full OPTIONS (sasl_password 'secret');
ALTER SERVER option_full OPTIONS (topic 't');
ALTER USER MAPPING FOR PUBLIC SERVER option_full OPTIONS (plugin_library_paths 'x');
ALTER FOREIGN TABLE option_table OPTIONS (formt 'json');
ALTER FOREIGN TABLE option_table ALTER COLUMN a OPTIONS (bootstrap_servers 'h');
ALTER FOREIGN DATA WRAPPER weir_kafka OPTIONS (timeout '1s');

-- Required ones.
CREATE SERVER option_bad FOREIGN DATA WRAPPER weir_kafka;
CREATE FOREIGN TABLE option_bad (a int) SERVER option_full;
ALTER SERVER option_full OPTIONS (DROP bootstrap_servers);

-- Without a mechanism librdkafka would take GSSAPI and run kinit.
ALTER SERVER option_full OPTIONS (DROP sasl_mechanism);
ALTER SERVER option_full OPTIONS (SET sasl_mechanism 'GSSAPI');
ALTER SERVER option_full OPTIONS (SET sasl_mechanism 'OAUTHBEARER');

-- Values that librdkafka refuses, in its words; secrets are not repeated, and
-- a file is neither opened nor looked for.
ALTER SERVER option_full OPTIONS (SET security_protocol 'telnet');
ALTER SERVER option_full OPTIONS (SET socket_timeout_ms 'soon');
ALTER SERVER option_full OPTIONS (SET linger_ms '-1');
ALTER SERVER option_full OPTIONS (SET client_id '');
ALTER SERVER option_full OPTIONS (SET ssl_ca_pem '/etc/passwd');
ALTER SERVER option_full OPTIONS (SET ssl_ca_pem '/no/such/file');
ALTER USER MAPPING FOR PUBLIC SERVER option_full OPTIONS (SET ssl_key_pem 'hunter2');

-- Ours.
ALTER SERVER option_full OPTIONS (SET timeout '15');
ALTER SERVER option_full OPTIONS (SET timeout '1 month');
ALTER SERVER option_full OPTIONS (SET timeout 'patience');
ALTER SERVER option_full OPTIONS (SET timeout '00:00:30');
ALTER SERVER option_full OPTIONS (SET timeout '1500');
ALTER SERVER option_full OPTIONS (SET allowed_hosts 'kafka1.example.com');
ALTER SERVER option_full OPTIONS (SET allowed_hosts '*.example.com:9092');
ALTER SERVER option_full OPTIONS (SET allowed_hosts 'kafka*');
ALTER SERVER option_full OPTIONS (SET allowed_hosts 'EXAMPLE.com, *.EXAMPLE.com');
ALTER SERVER option_full OPTIONS (SET bootstrap_servers 'notexample.com:9092');
ALTER SERVER option_full OPTIONS (SET bootstrap_servers ' , ');
ALTER FOREIGN TABLE option_table OPTIONS (SET topic 'a b');
ALTER FOREIGN TABLE option_table OPTIONS (SET topic '^.*');
ALTER FOREIGN TABLE option_table OPTIONS (SET format 'avro');
ALTER FOREIGN TABLE option_table OPTIONS (SET delimiter ';;');
ALTER FOREIGN TABLE option_table OPTIONS (SET scan_errors 'ignore');
ALTER FOREIGN TABLE option_table ALTER COLUMN a OPTIONS (SET path 'x..y');
ALTER FOREIGN TABLE option_table ALTER COLUMN a OPTIONS (ADD metadata 'key');
ALTER FOREIGN TABLE option_table ALTER COLUMN p OPTIONS (SET metadata 'epoch');

-- librdkafka's own table, all of it: what is not on our list is refused in
-- every place, with dots and with underscores.
CREATE FUNCTION property_names() RETURNS SETOF text
	LANGUAGE C AS '$libdir/pg_weir', 'weir_kafka_property_names';
CREATE FUNCTION accepted_in(place regclass, option text) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
	message text;
BEGIN
	PERFORM weir.kafka_fdw_validator(ARRAY[option || '=x'], place);
	RETURN true;
EXCEPTION WHEN invalid_parameter_value THEN
	-- its value may be wrong, or another option missing: then the name is right
	GET STACKED DIAGNOSTICS message = MESSAGE_TEXT;
	RETURN message NOT LIKE 'invalid option%';
END $$;

SELECT count(*) > 150 AS whole_table FROM property_names();
SELECT count(*) AS dotted_names_accepted
FROM property_names() AS name, unnest('{pg_foreign_server,pg_user_mapping,pg_foreign_table,pg_attribute,pg_foreign_data_wrapper}'::regclass[]) AS place
WHERE name LIKE '%.%' AND accepted_in(place, name);
SELECT DISTINCT place, option
FROM (SELECT place, replace(name, '.', '_') AS option
	  FROM property_names() AS name, unnest('{pg_foreign_server,pg_user_mapping,pg_foreign_table,pg_attribute,pg_foreign_data_wrapper}'::regclass[]) AS place) AS all_options
WHERE accepted_in(place, option)
ORDER BY place, option;

DROP FUNCTION property_names(), accepted_in(regclass, text);
DROP SERVER option_full CASCADE;
