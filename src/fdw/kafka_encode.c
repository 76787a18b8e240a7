/*-------------------------------------------------------------------------
 *
 * kafka_encode.c
 *	  Rows to messages, the way back of the decoder.
 *
 * Receives a row of a foreign table, hands on payload, key, partition, time
 * and headers for the producer.  What is written here must read back as the
 * same row, whatever the session's settings: floats with all their digits,
 * times in ISO 8601, text in UTF-8 (what every other client of Kafka expects)
 * whatever the database's encoding.
 *
 *	 json	an object of the value columns; `path` makes nested objects, NULL
 *			is null
 *	 csv	the value columns in their order, quoted as COPY would
 *	 text, bytes	the one value column; NULL is a tombstone
 *
 * The metadata columns say what surrounds the payload.  An offset cannot be
 * chosen: it must be NULL.
 *
 *-------------------------------------------------------------------------
 */
#include "fdw/kafka_fdw.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "executor/tuptable.h"
#include "fmgr.h"
#include "foreign/foreign.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/float.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

/* How a value looks in JSON. */
typedef enum JsonShape
{
	SHAPE_BOOLEAN,
	SHAPE_NUMBER,				/* digits, but NaN and Infinity are strings */
	SHAPE_JSON,					/* already is */
	SHAPE_TIME,					/* ISO 8601 */
	SHAPE_ARRAY,
	SHAPE_RECORD,
	SHAPE_TEXT					/* its output function's, as a string */
} JsonShape;

typedef struct OutColumn
{
	int			index;			/* into the slot's arrays */
	Oid			type;			/* below domains */
	JsonShape	shape;
	FmgrInfo	output;
} OutColumn;

/* An object's member: a column, or an object by a `path`. */
typedef struct JsonMember
{
	char	   *name;
	OutColumn  *column;			/* NULL for an object */
	List	   *members;		/* of JsonMember */
} JsonMember;

struct WeirEncoder
{
	char		format;			/* 'j', 'c', 't', 'b' */
	char		delimiter;		/* of csv, as are the next */
	char		quote;
	char		escape;
	const char *null;
	List	   *columns;		/* of OutColumn: the values, in order */
	JsonMember	root;
	OutColumn  *key;			/* NULL where the table has no such column */
	OutColumn  *partition;
	OutColumn  *offset;
	OutColumn  *timestamp;
	OutColumn  *headers;
};

static OutColumn *make_column(Form_pg_attribute att);
static JsonShape shape_of(Oid type);
static void add_member(WeirEncoder *encoder, const char *path, bool nested,
					   OutColumn *column);
static void read_format(WeirEncoder *encoder, Oid foreign_table);
static int	plain_settings(void);
static void put_object(StringInfo to, const JsonMember *object,
					   TupleTableSlot *slot);
static void put_json(StringInfo to, OutColumn *column, Datum value);
static void put_csv(StringInfo to, WeirEncoder *encoder, TupleTableSlot *slot);
static char *raw_bytes(OutColumn *column, Datum value, size_t *len);
static char *to_utf8(char *text, size_t *len);
static void put_surroundings(WeirEncoder *encoder, TupleTableSlot *slot,
							 WeirOutMessage *message);
static void put_headers(Jsonb *jsonb, WeirOutMessage *message);

/*
 * Errors: those of weir_decoder_check (which also sees to it that text and
 * bytes have one value column), and 22023 when two columns claim one place.
 */
WeirEncoder *
weir_encoder_create(Oid foreign_table, TupleDesc desc)
{
	WeirEncoder *encoder = palloc0(sizeof(WeirEncoder));

	/* the types below are those that the decoder would accept */
	weir_decoder_check(foreign_table, desc);
	read_format(encoder, foreign_table);
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		OutColumn  *column;

		if (att->attisdropped)
			continue;
		column = make_column(att);
		switch (weir_kafka_field(foreign_table, att->attnum))
		{
			case WEIR_FIELD_KEY:
				encoder->key = column;
				break;
			case WEIR_FIELD_PARTITION:
				encoder->partition = column;
				break;
			case WEIR_FIELD_OFFSET:
				encoder->offset = column;
				break;
			case WEIR_FIELD_TIMESTAMP:
				encoder->timestamp = column;
				break;
			case WEIR_FIELD_HEADERS:
				encoder->headers = column;
				break;
			case WEIR_FIELD_VALUE:
				encoder->columns = lappend(encoder->columns, column);
				if (encoder->format == 'j')
				{
					List	   *options = GetForeignColumnOptions(foreign_table,
																  att->attnum);
					const char *path = weir_foreign_option(options, "path");

					add_member(encoder, path ? path : NameStr(att->attname),
							   path != NULL, column);
				}
				break;
		}
	}

	return encoder;
}

void
weir_encode(WeirEncoder *encoder, TupleTableSlot *slot, WeirOutMessage *message)
{
	StringInfoData text;
	int			nest_level;

	memset(message, 0, sizeof(*message));
	slot_getallattrs(slot);
	nest_level = plain_settings();

	if (encoder->format == 'j' || encoder->format == 'c')
	{
		initStringInfo(&text);
		if (encoder->format == 'j')
			put_object(&text, &encoder->root, slot);
		else
			put_csv(&text, encoder, slot);
		message->len = text.len;
		message->payload = to_utf8(text.data, &message->len);
	}
	else
	{
		OutColumn  *column = linitial(encoder->columns);

		if (!slot->tts_isnull[column->index])
			message->payload = raw_bytes(column, slot->tts_values[column->index],
										 &message->len);
	}
	put_surroundings(encoder, slot, message);

	if (nest_level >= 0)
		AtEOXact_GUC(true, nest_level);
}

static OutColumn *
make_column(Form_pg_attribute att)
{
	OutColumn  *column = palloc0(sizeof(OutColumn));
	Oid			function;
	bool		varlena;

	column->index = att->attnum - 1;
	column->type = getBaseType(att->atttypid);
	column->shape = shape_of(column->type);
	getTypeOutputInfo(column->type, &function, &varlena);
	fmgr_info(function, &column->output);
	return column;
}

static JsonShape
shape_of(Oid type)
{
	switch (type)
	{
		case BOOLOID:
			return SHAPE_BOOLEAN;
		case INT2OID:
		case INT4OID:
		case INT8OID:
		case FLOAT4OID:
		case FLOAT8OID:
		case NUMERICOID:
			return SHAPE_NUMBER;
		case JSONOID:
		case JSONBOID:
			return SHAPE_JSON;
		case DATEOID:
		case TIMESTAMPOID:
		case TIMESTAMPTZOID:
			return SHAPE_TIME;
		default:
			if (OidIsValid(get_element_type(type)))
				return SHAPE_ARRAY;
			if (type_is_rowtype(type))
				return SHAPE_RECORD;
			return SHAPE_TEXT;
	}
}

/*
 * Puts a column at its place in the object.  A name that is a value at one
 * path and an object at another cannot be written.
 */
static void
add_member(WeirEncoder *encoder, const char *path, bool nested,
		   OutColumn *column)
{
	JsonMember *object = &encoder->root;
	char	   *name = pstrdup(path);

	for (;;)
	{
		char	   *dot = nested ? strchr(name, '.') : NULL;
		JsonMember *member = NULL;
		ListCell   *lc;

		if (dot != NULL)
			*dot = '\0';
		foreach(lc, object->members)
			if (strcmp(((JsonMember *) lfirst(lc))->name, name) == 0)
				member = lfirst(lc);
		if (member != NULL && (dot == NULL || member->column != NULL))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("columns write the JSON path \"%s\" twice", path),
					 errhint("Give the columns different paths, none of which lies inside another.")));
		if (member == NULL)
		{
			member = palloc0(sizeof(JsonMember));
			member->name = name;
			object->members = lappend(object->members, member);
		}
		if (dot == NULL)
		{
			member->column = column;
			return;
		}
		object = member;
		name = dot + 1;
	}
}

static void
read_format(WeirEncoder *encoder, Oid foreign_table)
{
	const char *escape = NULL;
	ListCell   *lc;

	encoder->format = 'j';
	encoder->delimiter = ',';
	encoder->quote = '"';
	encoder->null = "";
	foreach(lc, GetForeignTable(foreign_table)->options)
	{
		DefElem    *def = (DefElem *) lfirst(lc);
		const char *value = defGetString(def);

		if (strcmp(def->defname, "format") == 0)
			encoder->format = value[0];
		else if (strcmp(def->defname, "delimiter") == 0)
			encoder->delimiter = value[0];
		else if (strcmp(def->defname, "quote") == 0)
			encoder->quote = value[0];
		else if (strcmp(def->defname, "escape") == 0)
			escape = value;
		else if (strcmp(def->defname, "null") == 0)
			encoder->null = pstrdup(value);
	}
	encoder->escape = escape ? escape[0] : encoder->quote;
}

/*
 * Output functions obey settings of the session.  Returns the nesting level to
 * undo, or -1 when the settings are plain already, as they mostly are.
 */
static int
plain_settings(void)
{
	int			nest_level;

	if (DateStyle == USE_ISO_DATES && IntervalStyle == INTSTYLE_POSTGRES &&
		extra_float_digits >= 1)
		return -1;

	nest_level = NewGUCNestLevel();
	(void) set_config_option("datestyle", "ISO", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	(void) set_config_option("intervalstyle", "postgres", PGC_USERSET,
							 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	(void) set_config_option("extra_float_digits", "3", PGC_USERSET,
							 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	return nest_level;
}

static void
put_object(StringInfo to, const JsonMember *object, TupleTableSlot *slot)
{
	const char *separator = "";
	ListCell   *lc;

	appendStringInfoChar(to, '{');
	foreach(lc, object->members)
	{
		JsonMember *member = lfirst(lc);

		appendStringInfoString(to, separator);
		escape_json(to, member->name);
		appendStringInfoChar(to, ':');
		if (member->column == NULL)
			put_object(to, member, slot);
		else if (slot->tts_isnull[member->column->index])
			appendStringInfoString(to, "null");
		else
			put_json(to, member->column,
					 slot->tts_values[member->column->index]);
		separator = ",";
	}
	appendStringInfoChar(to, '}');
}

/* As to_json() writes it, but for numbers that JSON does not know. */
static void
put_json(StringInfo to, OutColumn *column, Datum value)
{
	char		buffer[MAXDATELEN + 1];
	char	   *printed;

	switch (column->shape)
	{
		case SHAPE_BOOLEAN:
			appendStringInfoString(to, DatumGetBool(value) ? "true" : "false");
			break;
		case SHAPE_NUMBER:
			printed = OutputFunctionCall(&column->output, value);
			/* digits, signs, dots and exponents: NaN and Infinity have neither */
			if (strpbrk(printed, "NI") != NULL)
				escape_json(to, printed);
			else
				appendStringInfoString(to, printed);
			break;
		case SHAPE_JSON:
			appendStringInfoString(to, OutputFunctionCall(&column->output, value));
			break;
		case SHAPE_TIME:
			JsonEncodeDateTime(buffer, value, column->type, NULL);
			appendStringInfo(to, "\"%s\"", buffer);
			break;
		case SHAPE_ARRAY:
		case SHAPE_RECORD:
			value = DirectFunctionCall1((column->shape == SHAPE_ARRAY) ?
										array_to_json : row_to_json, value);
			printed = TextDatumGetCString(value);
			appendStringInfoString(to, printed);
			break;
		case SHAPE_TEXT:
			escape_json(to, OutputFunctionCall(&column->output, value));
			break;
	}
}

/* A line without its end.  A value that looks like NULL is quoted. */
static void
put_csv(StringInfo to, WeirEncoder *encoder, TupleTableSlot *slot)
{
	bool		first = true;
	ListCell   *lc;

	foreach(lc, encoder->columns)
	{
		OutColumn  *column = lfirst(lc);
		const char *text;

		if (!first)
			appendStringInfoChar(to, encoder->delimiter);
		first = false;
		if (slot->tts_isnull[column->index])
		{
			appendStringInfoString(to, encoder->null);
			continue;
		}
		text = OutputFunctionCall(&column->output,
								  slot->tts_values[column->index]);
		if (strcmp(text, encoder->null) != 0 && text[0] != '\0' &&
			strchr(text, encoder->delimiter) == NULL &&
			strchr(text, encoder->quote) == NULL &&
			strpbrk(text, "\r\n") == NULL && strcmp(text, "\\.") != 0)
		{
			appendStringInfoString(to, text);
			continue;
		}
		appendStringInfoChar(to, encoder->quote);
		for (; *text; text++)
		{
			if (*text == encoder->quote || *text == encoder->escape)
				appendStringInfoChar(to, encoder->escape);
			appendStringInfoChar(to, *text);
		}
		appendStringInfoChar(to, encoder->quote);
	}
}

/* bytea as it is, everything else as text. */
static char *
raw_bytes(OutColumn *column, Datum value, size_t *len)
{
	char	   *text;

	if (column->type == BYTEAOID)
	{
		bytea	   *bytes = DatumGetByteaPP(value);

		*len = VARSIZE_ANY_EXHDR(bytes);
		return VARDATA_ANY(bytes);
	}
	text = OutputFunctionCall(&column->output, value);
	*len = strlen(text);
	return to_utf8(text, len);
}

static char *
to_utf8(char *text, size_t *len)
{
	char	   *converted = pg_server_to_any(text, (int) *len, PG_UTF8);

	if (converted != text)
		*len = strlen(converted);
	return converted;
}

static void
put_surroundings(WeirEncoder *encoder, TupleTableSlot *slot,
				 WeirOutMessage *message)
{
	OutColumn  *column;

	column = encoder->key;
	if (column != NULL && !slot->tts_isnull[column->index])
		message->key = raw_bytes(column, slot->tts_values[column->index],
								 &message->key_len);

	message->partition = -1;
	column = encoder->partition;
	if (column != NULL && !slot->tts_isnull[column->index])
	{
		Datum		value = slot->tts_values[column->index];
		int64		partition = column->type == INT8OID ? DatumGetInt64(value) :
			column->type == INT2OID ? DatumGetInt16(value) : DatumGetInt32(value);

		if (partition < 0 || partition > PG_INT32_MAX)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("partition %lld does not exist", (long long) partition),
					 errhint("Leave the column NULL to let the key decide.")));
		message->partition = (int32) partition;
	}

	column = encoder->offset;
	if (column != NULL && !slot->tts_isnull[column->index])
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the offset of a message cannot be chosen"),
				 errhint("Leave the column out: the broker assigns offsets.")));

	column = encoder->timestamp;
	if (column != NULL && !slot->tts_isnull[column->index])
	{
		TimestampTz ts = DatumGetTimestampTz(slot->tts_values[column->index]);
		int64		epoch = (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY;

		if (TIMESTAMP_NOT_FINITE(ts) || (ts + epoch) / 1000 <= 0)
			ereport(ERROR,
					(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
					 errmsg("timestamp out of range for a Kafka message"),
					 errdetail("Kafka counts milliseconds since 1970.")));
		message->timestamp_ms = (ts + epoch) / 1000;
	}

	column = encoder->headers;
	if (column != NULL && !slot->tts_isnull[column->index])
	{
		Datum		value = slot->tts_values[column->index];

		if (column->type != JSONBOID)
			value = DirectFunctionCall1(jsonb_in,
										CStringGetDatum(OutputFunctionCall(&column->output,
																		   value)));
		put_headers(DatumGetJsonbP(value), message);
	}
}

/* [["name", "value"], ["name", null], ...], as the column reads back. */
static void
put_headers(Jsonb *jsonb, WeirOutMessage *message)
{
	JsonbContainer *array = &jsonb->root;
	bool		good = JsonContainerIsArray(array) && !JsonContainerIsScalar(array);
	int			n = good ? JsonContainerSize(array) : 0;

	message->header_names = palloc(sizeof(char *) * (n + 1));
	message->header_values = palloc(sizeof(char *) * (n + 1));
	message->header_lens = palloc0(sizeof(size_t) * (n + 1));
	for (int i = 0; i < n && good; i++)
	{
		JsonbValue *pair = getIthJsonbValueFromContainer(array, i);
		JsonbValue *name = NULL;
		JsonbValue *value = NULL;

		if (pair != NULL && pair->type == jbvBinary &&
			JsonContainerIsArray(pair->val.binary.data) &&
			JsonContainerSize(pair->val.binary.data) == 2)
		{
			name = getIthJsonbValueFromContainer(pair->val.binary.data, 0);
			value = getIthJsonbValueFromContainer(pair->val.binary.data, 1);
		}
		good = name != NULL && name->type == jbvString && value != NULL &&
			(value->type == jbvString || value->type == jbvNull);
		if (!good)
			break;

		message->header_lens[i] = name->val.string.len;
		message->header_names[i] = to_utf8(pnstrdup(name->val.string.val,
													name->val.string.len),
										   &message->header_lens[i]);
		message->header_values[i] = NULL;
		message->header_lens[i] = 0;
		if (value->type == jbvString)
		{
			message->header_lens[i] = value->val.string.len;
			message->header_values[i] = to_utf8(pnstrdup(value->val.string.val,
														 value->val.string.len),
												&message->header_lens[i]);
		}
		message->n_headers++;
	}
	if (!good)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("headers must be an array of pairs of strings"),
				 errhint("For example: '[[\"trace\", \"a1\"], [\"retry\", null]]'.")));
}
