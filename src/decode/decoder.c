/*-------------------------------------------------------------------------
 *
 * decoder.c
 *	  The decoder of a stream: options in, rows out.
 *
 * Receives a foreign table and the columns that somebody wants, and reads how
 * to fill them from the table's options.  Then receives messages, one at a
 * time, and hands back rows.  Knows formats and metadata; leaves syntax to
 * json_scan.c and csv_decode.c and types to convert.c.  Keeps nothing of a
 * message: what it remembers between messages is only the order of a JSON
 * object's members, which is a guess.
 *
 * Options of the table
 *	  format			json (default), csv, text, bytes
 *	  delimiter, quote, escape, null	of csv, as for COPY
 * Options of a column
 *	  metadata			key, partition, offset, timestamp, headers
 *	  path				json: names separated by dots.  A name that holds a dot
 *						is written in double quotes, and a double quote in it
 *						twice.  Default: the column's name, dots and all.
 *
 * With csv the value columns are all columns without metadata, in their
 * order, whether wanted or not.  text and bytes have exactly one.
 *
 *-------------------------------------------------------------------------
 */
#include "decode/decode_internal.h"

#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "foreign/foreign.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

typedef enum DecoderFormat
{
	FORMAT_JSON,
	FORMAT_CSV,
	FORMAT_TEXT,
	FORMAT_BYTES
} DecoderFormat;

struct WeirDecoder
{
	DecoderFormat format;
	WeirCsvFormat csv;
	int			n_values;		/* value columns of the table (csv, text) */

	int			n_columns;		/* wanted, those of the payload first */
	int			n_from_payload;
	WeirColumn *columns;

	WeirJsonShape *shape;
	WeirJsonValue *slots;
	WeirCsvField *fields;

	WeirComplaint complaint;
};

/*
 * Options
 */

static DecoderFormat
parse_format(const char *value)
{
	if (strcmp(value, "json") == 0)
		return FORMAT_JSON;
	if (strcmp(value, "csv") == 0)
		return FORMAT_CSV;
	if (strcmp(value, "text") == 0)
		return FORMAT_TEXT;
	if (strcmp(value, "bytes") == 0)
		return FORMAT_BYTES;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("unknown format \"%s\"", value),
			 errhint("The formats are json, csv, text and bytes.")));
}

WeirFieldKind
weir_parse_metadata(const char *value)
{
	if (value == NULL)
		return WEIR_FIELD_VALUE;
	if (strcmp(value, "key") == 0)
		return WEIR_FIELD_KEY;
	if (strcmp(value, "partition") == 0)
		return WEIR_FIELD_PARTITION;
	if (strcmp(value, "offset") == 0)
		return WEIR_FIELD_OFFSET;
	if (strcmp(value, "timestamp") == 0)
		return WEIR_FIELD_TIMESTAMP;
	if (strcmp(value, "headers") == 0)
		return WEIR_FIELD_HEADERS;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("unknown metadata \"%s\"", value),
			 errhint("The metadata of a message are key, partition, offset, timestamp and headers.")));
}

static char
parse_character(const char *option, const char *value)
{
	if (strlen(value) != 1 || value[0] == '\n' || value[0] == '\r')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must be a single one-byte character", option)));
	return value[0];
}

static void
read_table_options(WeirDecoder *decoder, List *options)
{
	WeirCsvFormat *csv = &decoder->csv;
	char	   *csv_option = NULL;
	char	   *escape = NULL;
	ListCell   *lc;

	csv->delimiter = ',';
	csv->quote = '"';
	csv->null_text = "";
	foreach(lc, options)
	{
		DefElem    *def = (DefElem *) lfirst(lc);
		char	   *value = defGetString(def);

		if (strcmp(def->defname, "format") == 0)
		{
			decoder->format = parse_format(value);
			continue;
		}
		if (strcmp(def->defname, "delimiter") == 0)
			csv->delimiter = parse_character("delimiter", value);
		else if (strcmp(def->defname, "quote") == 0)
			csv->quote = parse_character("quote", value);
		else if (strcmp(def->defname, "escape") == 0)
			escape = value;
		else if (strcmp(def->defname, "null") == 0)
			csv->null_text = pstrdup(value);
		else
			continue;
		csv_option = def->defname;
	}
	csv->escape = escape ? parse_character("escape", escape) : csv->quote;
	csv->null_len = strlen(csv->null_text);

	if (csv_option != NULL && decoder->format != FORMAT_CSV)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("option \"%s\" needs format csv", csv_option)));
	if (csv->delimiter == csv->quote)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("delimiter and quote must be different")));
	if (strchr(csv->null_text, csv->delimiter) != NULL ||
		strchr(csv->null_text, csv->quote) != NULL ||
		strpbrk(csv->null_text, "\r\n") != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("null must not hold a delimiter, a quote or a line end")));
}

/* 'geo."a.b".c' to the names geo, a.b and c. */
static List *
split_path(const char *column, const char *path)
{
	List	   *names = NIL;
	StringInfoData name;
	const char *p = path;

	initStringInfo(&name);
	for (;;)
	{
		resetStringInfo(&name);
		if (*p == '"')
		{
			for (p++; *p != '\0' && (*p != '"' || p[1] == '"'); p++)
			{
				if (*p == '"')
					p++;
				appendStringInfoChar(&name, *p);
			}
			if (*p++ != '"')
				break;
		}
		else
		{
			while (*p != '\0' && *p != '.')
				appendStringInfoChar(&name, *p++);
			if (name.len == 0)
				break;
		}
		names = lappend(names, pstrdup(name.data));
		if (*p == '\0')
			return names;
		if (*p++ != '.')
			break;
	}
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid path \"%s\" of column \"%s\"", path, column),
			 errhint("A path is one or more names separated by dots, like geo.country.")));
}

/* Shape names are UTF-8, as messages are. */
static int
add_path(WeirDecoder *decoder, const char *column, const char *path)
{
	List	   *list = path ? split_path(column, path) : list_make1(pstrdup(column));
	const char **names = palloc(list_length(list) * sizeof(char *));
	ListCell   *lc;
	int			n = 0;

	if (list_length(list) > WEIR_JSON_MAX_DEPTH)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("path of column \"%s\" has more than %d names",
						column, WEIR_JSON_MAX_DEPTH)));
	foreach(lc, list)
	{
		char	   *name = lfirst(lc);

		names[n++] = pg_server_to_any(name, strlen(name), PG_UTF8);
	}
	return weir_json_shape_add(decoder->shape, names, n);
}

/* Which types can carry a piece of metadata. */
static void
check_metadata_type(WeirColumn *column, const char *metadata)
{
	bool		ok = false;

	switch (column->source)
	{
		case WEIR_FIELD_KEY:
			ok = column->typid == TEXTOID || column->typid == VARCHAROID ||
				column->typid == BYTEAOID;
			break;
		case WEIR_FIELD_PARTITION:
			ok = column->typid == INT4OID || column->typid == INT8OID;
			break;
		case WEIR_FIELD_OFFSET:
			ok = column->typid == INT8OID;
			break;
		case WEIR_FIELD_TIMESTAMP:
			ok = column->typid == TIMESTAMPTZOID;
			break;
		case WEIR_FIELD_HEADERS:
			ok = column->typid == JSONBOID || column->typid == TEXTOID;
			break;
		case WEIR_FIELD_VALUE:
			ok = true;
			break;
	}
	if (!ok)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("column \"%s\" of type %s cannot hold the metadata \"%s\"",
						column->name, format_type_be(column->typid), metadata),
				 errhint("key is text or bytea, partition integer or bigint, offset bigint, timestamp timestamptz, headers jsonb or text.")));
}

/* The value column of formats text and bytes. */
static void
check_whole_value(WeirDecoder *decoder, WeirColumn *column)
{
	char		category;
	bool		preferred;

	get_type_category_preferred(column->typid, &category, &preferred);
	if (decoder->format == FORMAT_BYTES ? column->typid != BYTEAOID :
		category != TYPCATEGORY_STRING)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("column \"%s\" of type %s cannot hold a value of format %s",
						column->name, format_type_be(column->typid),
						decoder->format == FORMAT_BYTES ? "bytes" : "text")));
}

/*
 * Fills a column from its attribute and options.  Returns its path, NULL for
 * none.
 */
static char *
read_column(WeirDecoder *decoder, Oid foreign_table, Form_pg_attribute attr,
			WeirColumn *column)
{
	List	   *options = GetForeignColumnOptions(foreign_table, attr->attnum);
	char	   *metadata = weir_foreign_option(options, "metadata");
	char	   *path = weir_foreign_option(options, "path");

	memset(column, 0, sizeof(WeirColumn));
	column->attnum = attr->attnum;
	column->name = pstrdup(NameStr(attr->attname));
	column->typid = attr->atttypid;
	column->typmod = attr->atttypmod;
	column->not_null = attr->attnotnull;
	column->source = weir_parse_metadata(metadata);
	check_metadata_type(column, metadata);
	if (path != NULL && (metadata != NULL || decoder->format != FORMAT_JSON))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("column \"%s\" cannot have a path", column->name),
				 errdetail(metadata ? "It holds metadata of the message." :
						   "Only the format json has paths.")));
	if (metadata == NULL &&
		(decoder->format == FORMAT_TEXT || decoder->format == FORMAT_BYTES))
		check_whole_value(decoder, column);
	return path;
}

/* Reads all options; only wanted columns are prepared for decoding. */
static WeirDecoder *
build_decoder(Oid foreign_table, TupleDesc desc, const Bitmapset *wanted,
			  MemoryContext mcxt)
{
	WeirDecoder *decoder = palloc0(sizeof(WeirDecoder));
	WeirColumn *metadata = palloc0(Max(desc->natts, 1) * sizeof(WeirColumn));
	int			n_metadata = 0;
	int			i;

	decoder->columns = palloc0(Max(desc->natts, 1) * sizeof(WeirColumn));
	read_table_options(decoder, GetForeignTable(foreign_table)->options);
	decoder->shape = weir_json_shape_create();

	for (i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute attr = TupleDescAttr(desc, i);
		WeirColumn	column;
		char	   *path;
		bool		is_wanted = bms_is_member(attr->attnum, wanted);

		if (attr->attisdropped)
			continue;
		path = read_column(decoder, foreign_table, attr, &column);
		if (is_wanted)
			weir_column_prepare(&column, mcxt);
		if (column.source != WEIR_FIELD_VALUE)
		{
			if (is_wanted)
				metadata[n_metadata++] = column;
			continue;
		}
		if (decoder->format != FORMAT_JSON)
			column.place = decoder->n_values;
		else if (is_wanted)
			column.place = add_path(decoder, column.name, path);
		else if (path != NULL)
			(void) split_path(column.name, path);
		decoder->n_values++;
		if (is_wanted)
			decoder->columns[decoder->n_from_payload++] = column;
	}

	if ((decoder->format == FORMAT_TEXT || decoder->format == FORMAT_BYTES) &&
		decoder->n_values != 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("format %s needs exactly one column without metadata, found %d",
						decoder->format == FORMAT_TEXT ? "text" : "bytes",
						decoder->n_values)));

	weir_json_shape_finish(decoder->shape);
	decoder->slots = palloc0((weir_json_shape_slots(decoder->shape) + 1) *
							 sizeof(WeirJsonValue));
	decoder->fields = palloc0((decoder->n_values + 1) * sizeof(WeirCsvField));
	for (i = 0; i < decoder->n_from_payload; i++)
	{
		WeirColumn *column = &decoder->columns[i];

		if (decoder->format == FORMAT_JSON)
			column->place = weir_json_shape_slot(decoder->shape, column->place);
		else if (decoder->format == FORMAT_BYTES)
			column->conversion = WEIR_CONVERT_BYTEA;
	}
	memcpy(&decoder->columns[decoder->n_from_payload], metadata,
		   n_metadata * sizeof(WeirColumn));
	decoder->n_columns = decoder->n_from_payload + n_metadata;
	return decoder;
}

WeirDecoder *
weir_decoder_create(Oid foreign_table, TupleDesc desc,
					const Bitmapset *wanted, MemoryContext mcxt)
{
	MemoryContext old = MemoryContextSwitchTo(mcxt);
	WeirDecoder *decoder = build_decoder(foreign_table, desc, wanted, mcxt);

	MemoryContextSwitchTo(old);
	return decoder;
}

void
weir_decoder_check(Oid foreign_table, TupleDesc desc)
{
	MemoryContext mcxt = AllocSetContextCreate(CurrentMemoryContext,
											   "pg_weir decoder check",
											   ALLOCSET_SMALL_SIZES);
	Bitmapset  *all = NULL;
	int			i;

	for (i = 1; i <= desc->natts; i++)
		all = bms_add_member(all, i);
	(void) weir_decoder_create(foreign_table, desc, all, mcxt);
	bms_free(all);
	MemoryContextDelete(mcxt);
}

/*
 * Messages
 */

/*
 * Bytes that claim to be text: UTF-8 without NUL.  Complains with 22021.
 */
static bool
check_text(const char *s, int len, WeirComplaint *complaint)
{
	if (pg_verify_mbstr(PG_UTF8, s, len, true))
		return true;
	return weir_complain(complaint, ERRCODE_CHARACTER_NOT_IN_REPERTOIRE,
						 "message is not UTF-8 text");
}

static bool
decode_json(WeirDecoder *decoder, const WeirMessage *message,
			Datum *values, bool *nulls)
{
	WeirJsonFault fault;
	int			i;

	if (!weir_json_scan(decoder->shape, message->payload, message->len,
						decoder->slots, &fault))
		return weir_complain(&decoder->complaint, fault.sqlstate,
							 "invalid JSON at byte %zu: %s",
							 fault.offset, fault.reason);
	for (i = 0; i < decoder->n_from_payload; i++)
	{
		WeirColumn *column = &decoder->columns[i];
		int			att = column->attnum - 1;

		if (!weir_convert_json(column, &decoder->slots[column->place],
							   &values[att], &nulls[att],
							   &decoder->complaint))
			return false;
	}
	return true;
}

static bool
decode_csv(WeirDecoder *decoder, const WeirMessage *message,
		   Datum *values, bool *nulls)
{
	char	   *scratch;
	int			i;

	if (!check_text(message->payload, message->len, &decoder->complaint))
		return false;
	scratch = palloc(message->len + 1);
	if (!weir_csv_split(&decoder->csv, message->payload, message->len, scratch,
						decoder->fields, decoder->n_values,
						&decoder->complaint))
		return false;
	for (i = 0; i < decoder->n_from_payload; i++)
	{
		WeirColumn *column = &decoder->columns[i];
		WeirCsvField *field = &decoder->fields[column->place];
		int			att = column->attnum - 1;
		bool		ok;

		nulls[att] = false;
		if (field->isnull)
			ok = weir_convert_null(column, &values[att], &nulls[att],
								   &decoder->complaint);
		else
			ok = weir_convert_text(column, field->start, field->len, false,
								   &values[att], &decoder->complaint);
		if (!ok)
			return false;
	}
	pfree(scratch);
	return true;
}

/* Formats text and bytes: the payload is the value. */
static bool
decode_whole(WeirDecoder *decoder, const WeirMessage *message,
			 Datum *values, bool *nulls)
{
	WeirColumn *column = &decoder->columns[0];
	int			att;

	if (decoder->format == FORMAT_TEXT &&
		!check_text(message->payload, message->len, &decoder->complaint))
		return false;
	if (decoder->n_from_payload == 0)
		return true;
	att = column->attnum - 1;
	nulls[att] = false;
	return weir_convert_text(column, message->payload, message->len, false,
							 &values[att], &decoder->complaint);
}

/* JSON has no bytes: what is no text is written as bytea would be. */
static void
append_header_value(StringInfo json, const char *value, size_t len)
{
	if (value == NULL)
		appendStringInfoString(json, "null");
	else if (pg_verify_mbstr(PG_UTF8, value, len, true))
	{
		int			text_len = len;
		const char *text = weir_text_to_server(value, &text_len);

		escape_json(json, pnstrdup(text, text_len));
	}
	else
	{
		size_t		i;

		appendStringInfoString(json, "\"\\\\x");
		for (i = 0; i < len; i++)
			appendStringInfo(json, "%02x", (unsigned char) value[i]);
		appendStringInfoChar(json, '"');
	}
}

/* [["name", "value"], ...] in the order of the message. */
static Datum
headers_datum(WeirColumn *column, const WeirMessage *message)
{
	StringInfoData json;
	const char *name;
	const char *value;
	size_t		len;
	int			i;

	initStringInfo(&json);
	appendStringInfoChar(&json, '[');
	for (i = 0; message->raw != NULL &&
		 weir_message_header(message, i, &name, &value, &len); i++)
	{
		appendStringInfoString(&json, i == 0 ? "[" : ", [");
		append_header_value(&json, name, strlen(name));
		appendStringInfoString(&json, ", ");
		append_header_value(&json, value, len);
		appendStringInfoChar(&json, ']');
	}
	appendStringInfoChar(&json, ']');
	if (column->typid == JSONBOID)
		return DirectFunctionCall1(jsonb_in, CStringGetDatum(json.data));
	return CStringGetTextDatum(json.data);
}

static bool
decode_metadata(WeirDecoder *decoder, WeirColumn *column,
				const WeirMessage *message, Datum *value, bool *isnull)
{
	*isnull = false;
	switch (column->source)
	{
		case WEIR_FIELD_PARTITION:
			*value = column->typid == INT8OID ?
				Int64GetDatum(message->partition) :
				Int32GetDatum(message->partition);
			return true;
		case WEIR_FIELD_OFFSET:
			*value = Int64GetDatum(message->offset);
			return true;
		case WEIR_FIELD_TIMESTAMP:
			if (message->timestamp == DT_NOBEGIN)
				break;
			*value = TimestampTzGetDatum(message->timestamp);
			return true;
		case WEIR_FIELD_HEADERS:
			*value = headers_datum(column, message);
			return true;
		case WEIR_FIELD_KEY:
			if (message->key == NULL)
				break;
			if (column->typid == BYTEAOID)
			{
				*value = PointerGetDatum(cstring_to_text_with_len(message->key,
																  message->key_len));
				return true;
			}
			if (!pg_verify_mbstr(PG_UTF8, message->key, message->key_len, true))
				return weir_complain(&decoder->complaint,
									 ERRCODE_CHARACTER_NOT_IN_REPERTOIRE,
									 "column \"%s\": key is not UTF-8 text",
									 column->name);
			return weir_convert_text(column, message->key, message->key_len,
									 false, value, &decoder->complaint);
		case WEIR_FIELD_VALUE:
			break;
	}
	return weir_convert_null(column, value, isnull, &decoder->complaint);
}

WeirVerdict
weir_decode(WeirDecoder *decoder, const WeirMessage *message,
			Datum *values, bool *nulls, WeirDecodeError *error)
{
	bool		ok = false;
	int			i;

	if (message->payload == NULL)
		return WEIR_SKIP;

	if (message->len > WEIR_MESSAGE_MAX_BYTES)
		weir_complain(&decoder->complaint, ERRCODE_PROGRAM_LIMIT_EXCEEDED,
					  "message of %zu bytes is larger than %d",
					  message->len, WEIR_MESSAGE_MAX_BYTES);
	else
	{
		switch (decoder->format)
		{
			case FORMAT_JSON:
				ok = decode_json(decoder, message, values, nulls);
				break;
			case FORMAT_CSV:
				ok = decode_csv(decoder, message, values, nulls);
				break;
			case FORMAT_TEXT:
			case FORMAT_BYTES:
				ok = decode_whole(decoder, message, values, nulls);
				break;
		}
	}
	for (i = decoder->n_from_payload; ok && i < decoder->n_columns; i++)
	{
		WeirColumn *column = &decoder->columns[i];
		int			att = column->attnum - 1;

		ok = decode_metadata(decoder, column, message,
							 &values[att], &nulls[att]);
	}
	if (ok)
		return WEIR_ROW;
	error->sqlstate = decoder->complaint.sqlstate;
	error->message = decoder->complaint.message;
	return WEIR_BAD;
}
