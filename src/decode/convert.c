/*-------------------------------------------------------------------------
 *
 * convert.c
 *	  From a value in a message to a Datum of a column's type.
 *
 * Receives one value (a slice of a JSON document, or the text of a CSV field,
 * a whole message or a key) and the column it is for.  Hands back the Datum,
 * allocated in CurrentMemoryContext, or a complaint.
 *
 * The meaning is that of (payload ->> 'field')::type, for every type, with
 * these intended differences:
 *
 *	  integers		a JSON number with an integral value is an integer,
 *					however it is written: 1.0, 1e2
 *	  json, jsonb	the value itself, as payload -> 'field'; so a JSON string
 *					is a string, not a document in quotes
 *	  arrays and	from a JSON array or object as json_populate_record()
 *	  composites	does it; from a JSON string by the type's input function
 *	  NOT NULL		of a column or a domain is enforced: an absent member, and
 *					a null, cost the message
 *
 * The types that make up most streams are converted here without a call
 * through fmgr and without raising.  Any other form of a value, and any other
 * type, goes to the type's own input function, so that the answer is
 * Postgres' by construction; from 16 on it reports errors softly, on 15 it
 * raises and the caller of weir_decode() catches.  Either way the message
 * begins with the column's name.
 *
 * Messages are UTF-8, whatever the encoding of the server is.  Text is
 * converted on its way into a Datum; characters that the server cannot hold
 * raise.
 *
 *-------------------------------------------------------------------------
 */
#include "decode/decode_internal.h"

#include <ctype.h>

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "nodes/makefuncs.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"
#include "utils/uuid.h"

/* So much of a bad value is shown in its complaint, in bytes. */
#define SHOWN_BYTES 64

/* Room for the JSON text of a scalar type's value; longer ones are palloc'd. */
#define SHORT_TEXT 256

/* Fills the complaint and returns false, for the caller to pass on. */
bool
weir_complain(WeirComplaint *complaint, int sqlstate, const char *format,...)
{
	va_list		args;
	int			len;

	va_start(args, format);
	len = vsnprintf(complaint->message, sizeof(complaint->message), format, args);
	va_end(args);
	if (len >= (int) sizeof(complaint->message))
	{
		/* do not end in the middle of a character */
		len = pg_mbcliplen(complaint->message, sizeof(complaint->message) - 1,
						   sizeof(complaint->message) - 2);
		complaint->message[len] = '\0';
	}
	complaint->sqlstate = sqlstate;
	return false;
}

/*
 * UTF-8 to the server's encoding, which for nearly everybody is UTF-8.  The
 * result is s itself, or palloc'd.  Raises for a character that the server's
 * encoding lacks.
 */
const char *
weir_text_to_server(const char *s, int *len)
{
	char	   *converted;

	if (GetDatabaseEncoding() == PG_UTF8)
		return s;
	converted = pg_any_to_server(s, *len, PG_UTF8);
	if (converted != s)
		*len = strlen(converted);
	return converted;
}

/* The value did not make sense, or was too large, for the column's type. */
static bool
complain_value(WeirColumn *column, int sqlstate, const char *s, int len,
			   WeirComplaint *complaint)
{
	int			shown;

	s = weir_text_to_server(s, &len);
	shown = len;
	if (shown > SHOWN_BYTES)
		shown = pg_mbcliplen(s, len, SHOWN_BYTES);
	if (sqlstate == ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE)
		return weir_complain(complaint, sqlstate,
							 "column \"%s\": value \"%.*s%s\" is out of range for type %s",
							 column->name, shown, s, shown < len ? "..." : "",
							 format_type_with_typemod(column->typid, column->typmod));
	return weir_complain(complaint, sqlstate,
						 "column \"%s\": invalid input syntax for type %s: \"%.*s%s\"",
						 column->name,
						 format_type_with_typemod(column->typid, column->typmod),
						 shown, s, shown < len ? "..." : "");
}

/*
 * Preparation
 */

static WeirConversion
conversion_for(Oid typid)
{
	Oid			base;

	switch (typid)
	{
		case INT2OID:
			return WEIR_CONVERT_INT2;
		case INT4OID:
			return WEIR_CONVERT_INT4;
		case INT8OID:
			return WEIR_CONVERT_INT8;
		case FLOAT4OID:
			return WEIR_CONVERT_FLOAT4;
		case FLOAT8OID:
			return WEIR_CONVERT_FLOAT8;
		case NUMERICOID:
			return WEIR_CONVERT_NUMERIC;
		case BOOLOID:
			return WEIR_CONVERT_BOOL;
		case TEXTOID:
			return WEIR_CONVERT_TEXT;
		case VARCHAROID:
			return WEIR_CONVERT_VARCHAR;
		case TIMESTAMPTZOID:
			return WEIR_CONVERT_TIMESTAMPTZ;
		case TIMESTAMPOID:
			return WEIR_CONVERT_TIMESTAMP;
		case DATEOID:
			return WEIR_CONVERT_DATE;
		case UUIDOID:
			return WEIR_CONVERT_UUID;
		case JSONOID:
			return WEIR_CONVERT_JSON;
		case JSONBOID:
			return WEIR_CONVERT_JSONB;
		default:
			/* domains go through their input function for the constraints */
			base = getBaseType(typid);
			if (OidIsValid(get_element_type(base)) || type_is_rowtype(base))
				return WEIR_CONVERT_POPULATE;
			if (base == JSONOID || base == JSONBOID)
				return WEIR_CONVERT_JSONB;
			return WEIR_CONVERT_INPUT;
	}
}

/*
 * json_populate_type() is exported from 17 on only; the SQL function is there
 * always.  It takes its row type from an empty record of one column, "v".
 */
static void
prepare_populate(WeirColumn *column)
{
	TupleDesc	desc = CreateTemplateTupleDesc(1);
	Datum		value = (Datum) 0;
	bool		isnull = true;
	List	   *args;
	FuncExpr   *call;

	TupleDescInitEntry(desc, 1, "v", column->typid, column->typmod, 0);
	desc = BlessTupleDesc(desc);
	column->empty_record = HeapTupleGetDatum(heap_form_tuple(desc, &value, &isnull));

	args = list_make3(makeNullConst(RECORDOID, desc->tdtypmod, InvalidOid),
					  makeNullConst(JSONOID, -1, InvalidOid),
					  makeNullConst(BOOLOID, -1, InvalidOid));
	call = makeFuncExpr(F_JSON_POPULATE_RECORD, RECORDOID, args,
						InvalidOid, InvalidOid, COERCE_EXPLICIT_CALL);
	column->populate = palloc0(sizeof(FmgrInfo));
	fmgr_info_cxt(F_JSON_POPULATE_RECORD, column->populate, column->mcxt);
	fmgr_info_set_expr((Node *) call, column->populate);
}

/* Finds out how to convert, once; name, typid and typmod are filled. */
void
weir_column_prepare(WeirColumn *column, MemoryContext mcxt)
{
	MemoryContext old = MemoryContextSwitchTo(mcxt);
	Oid			input;

	column->mcxt = mcxt;
	column->conversion = conversion_for(column->typid);
	column->is_domain = get_typtype(column->typid) == TYPTYPE_DOMAIN;
	getTypeInputInfo(column->typid, &input, &column->typioparam);
	fmgr_info_cxt(input, &column->input, mcxt);
	if (column->conversion == WEIR_CONVERT_POPULATE)
		prepare_populate(column);
	MemoryContextSwitchTo(old);
}

/*
 * The slow, general way
 */

/* Says which column it was, if the error is about a value. */
static void
rethrow_with_column(WeirColumn *column, MemoryContext caller)
{
	ErrorData  *error;
	int			category;

	MemoryContextSwitchTo(caller);
	error = CopyErrorData();
	category = ERRCODE_TO_CATEGORY(error->sqlerrcode);
	if (category != ERRCODE_DATA_EXCEPTION &&
		category != ERRCODE_INTEGRITY_CONSTRAINT_VIOLATION)
		PG_RE_THROW();
	FlushErrorState();
	error->message = psprintf("column \"%s\": %s", column->name, error->message);
	ReThrowError(error);
}

/* text is terminated, in the server's encoding; NULL only for domains. */
static bool
call_input(WeirColumn *column, char *text, Datum *value,
		   WeirComplaint *complaint)
{
	MemoryContext caller = CurrentMemoryContext;
	int			sqlstate = 0;
	const char *message = NULL;
	bool		ok = false;

	PG_TRY();
	{
		ok = weir_input_function_call(&column->input, text,
									  column->typioparam, column->typmod,
									  value, &sqlstate, &message);
	}
	PG_CATCH();
	{
		rethrow_with_column(column, caller);
	}
	PG_END_TRY();
	if (!ok)
		return weir_complain(complaint, sqlstate, "column \"%s\": %s",
							 column->name, message);
	return true;
}

static bool
input_text(WeirColumn *column, const char *s, int len, Datum *value,
		   WeirComplaint *complaint)
{
	char		buffer[SHORT_TEXT];
	char	   *text = buffer;
	bool		ok;

	s = weir_text_to_server(s, &len);
	if (len >= (int) sizeof(buffer))
		text = palloc(len + 1);
	memcpy(text, s, len);
	text[len] = '\0';
	ok = call_input(column, text, value, complaint);
	if (text != buffer)
		pfree(text);
	return ok;
}

/* json is an array or an object. */
static bool
populate_value(WeirColumn *column, const WeirJsonValue *json, Datum *value,
			   bool *isnull, WeirComplaint *complaint)
{
	LOCAL_FCINFO(fcinfo, 3);
	MemoryContext caller = CurrentMemoryContext;
	StringInfoData document;
	const char *s;
	int			len = json->len;
	Datum		record = (Datum) 0;

	s = weir_text_to_server(json->start, &len);
	initStringInfo(&document);
	appendStringInfoSpaces(&document, VARHDRSZ);
	appendStringInfoString(&document, "{\"v\":");
	appendBinaryStringInfo(&document, s, len);
	appendStringInfoChar(&document, '}');
	SET_VARSIZE(document.data, document.len);

	InitFunctionCallInfoData(*fcinfo, column->populate, 3, InvalidOid, NULL, NULL);
	fcinfo->args[0].value = column->empty_record;
	fcinfo->args[0].isnull = false;
	fcinfo->args[1].value = PointerGetDatum(document.data);
	fcinfo->args[1].isnull = false;
	fcinfo->args[2].value = BoolGetDatum(false);
	fcinfo->args[2].isnull = false;

	PG_TRY();
	{
		record = FunctionCallInvoke(fcinfo);
	}
	PG_CATCH();
	{
		rethrow_with_column(column, caller);
	}
	PG_END_TRY();
	pfree(document.data);
	if (fcinfo->isnull)
		return weir_convert_null(column, value, isnull, complaint);
	*value = GetAttributeByNum(DatumGetHeapTupleHeader(record), 1, isnull);
	return true;
}

/*
 * An absent or null value.  A domain may have its own opinion.
 */
bool
weir_convert_null(WeirColumn *column, Datum *value, bool *isnull,
				  WeirComplaint *complaint)
{
	*value = (Datum) 0;
	*isnull = true;
	if (column->not_null)
		return weir_complain(complaint, ERRCODE_NOT_NULL_VIOLATION,
							 "null value in column \"%s\" violates not-null constraint",
							 column->name);
	if (column->is_domain)
		return call_input(column, NULL, value, complaint);
	return true;
}

/*
 * Text to a Datum
 */

static Datum
make_text(const char *s, int len)
{
	char	   *result;

	s = weir_text_to_server(s, &len);
	result = palloc(len + VARHDRSZ);
	SET_VARSIZE(result, len + VARHDRSZ);
	memcpy(VARDATA(result), s, len);
	return PointerGetDatum(result);
}

/* As varchar_input(): what does not fit must be spaces. */
static bool
make_varchar(WeirColumn *column, const char *s, int len, Datum *value,
			 WeirComplaint *complaint)
{
	s = weir_text_to_server(s, &len);
	if (column->typmod >= (int32) VARHDRSZ &&
		len > column->typmod - (int32) VARHDRSZ)
	{
		int			limit = column->typmod - VARHDRSZ;
		int			kept = pg_mbcharcliplen(s, len, limit);
		int			i;

		for (i = kept; i < len; i++)
		{
			if (s[i] != ' ')
				return weir_complain(complaint,
									 ERRCODE_STRING_DATA_RIGHT_TRUNCATION,
									 "column \"%s\": value too long for type character varying(%d)",
									 column->name, limit);
		}
		len = kept;
	}
	*value = PointerGetDatum(cstring_to_text_with_len(s, len));
	return true;
}

static bool
make_integer(WeirColumn *column, const char *s, int len, bool any_number,
			 Datum *value, WeirComplaint *complaint)
{
	int64		number = 0;
	int			result = weir_parse_int8(s, len, any_number, &number);

	if (likely(result == 0))
	{
		switch (column->conversion)
		{
			case WEIR_CONVERT_INT2:
				if (number >= PG_INT16_MIN && number <= PG_INT16_MAX)
				{
					*value = Int16GetDatum((int16) number);
					return true;
				}
				break;
			case WEIR_CONVERT_INT4:
				if (number >= PG_INT32_MIN && number <= PG_INT32_MAX)
				{
					*value = Int32GetDatum((int32) number);
					return true;
				}
				break;
			default:
				*value = Int64GetDatum(number);
				return true;
		}
		result = ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE;
	}
	if (result == WEIR_UNKNOWN_FORM)
		return input_text(column, s, len, value, complaint);
	return complain_value(column, result, s, len, complaint);
}

static bool
make_bool(WeirColumn *column, const char *s, int len, Datum *value,
		  WeirComplaint *complaint)
{
	const char *start = s;
	const char *end = s + len;
	char		word[sizeof("false")] = {0};
	bool		result;

	while (start < end && isspace((unsigned char) *start))
		start++;
	while (end > start && isspace((unsigned char) end[-1]))
		end--;

	/*
	 * Of nothing that function reads the first character, and of an "o" the
	 * second, so it needs a terminator.
	 */
	if (end - start < sizeof(word))
		memcpy(word, start, end - start);
	if (end - start >= sizeof(word) ||
		!parse_bool_with_len(word, end - start, &result))
		return complain_value(column, ERRCODE_INVALID_TEXT_REPRESENTATION,
							  s, len, complaint);
	*value = BoolGetDatum(result);
	return true;
}

static inline int
hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

/* As uuid_in(): braces around it, and hyphens after any four digits. */
static bool
make_uuid(WeirColumn *column, const char *s, int len, Datum *value,
		  WeirComplaint *complaint)
{
	const char *p = s;
	const char *end = s + len;
	bool		braces = len > 0 && *s == '{';
	pg_uuid_t  *uuid = palloc(sizeof(pg_uuid_t));
	int			i;

	p += braces;
	for (i = 0; i < UUID_LEN; i++)
	{
		int			high = end - p >= 2 ? hex_digit(p[0]) : -1;
		int			low = end - p >= 2 ? hex_digit(p[1]) : -1;

		if (high < 0 || low < 0)
			break;
		uuid->data[i] = high << 4 | low;
		p += 2;
		if (p < end && *p == '-' && (i % 2) == 1 && i < UUID_LEN - 1)
			p++;
	}
	if (i < UUID_LEN || end - p != braces || (braces && *p != '}'))
		return complain_value(column, ERRCODE_INVALID_TEXT_REPRESENTATION,
							  s, len, complaint);
	*value = UUIDPGetDatum(uuid);
	return true;
}

/* timestamp(3) and the like round with the function that casts use. */
static Datum
round_timestamp(WeirColumn *column, int64 micros)
{
	Datum		value = Int64GetDatum(micros);

	if (column->typmod < 0 || column->typmod >= MAX_TIMESTAMP_PRECISION)
		return value;
	return DirectFunctionCall2(column->conversion == WEIR_CONVERT_TIMESTAMPTZ ?
							   timestamptz_scale : timestamp_scale,
							   value, Int32GetDatum(column->typmod));
}

/*
 * s is UTF-8 without a terminator.  from_json: the text of a JSON scalar, so
 * that an integer may be written as any number.  Never NULL.
 */
bool
weir_convert_text(WeirColumn *column, const char *s, int len, bool from_json,
				  Datum *value, WeirComplaint *complaint)
{
	int			result = WEIR_UNKNOWN_FORM;
	int64		micros;
	int32		day;
	float4		single;
	float8		number;

	switch (column->conversion)
	{
		case WEIR_CONVERT_TEXT:
			*value = make_text(s, len);
			return true;
		case WEIR_CONVERT_VARCHAR:
			return make_varchar(column, s, len, value, complaint);
		case WEIR_CONVERT_INT2:
		case WEIR_CONVERT_INT4:
		case WEIR_CONVERT_INT8:
			return make_integer(column, s, len, from_json, value, complaint);
		case WEIR_CONVERT_NUMERIC:
			result = weir_parse_numeric(s, len, column->typmod, value);
			break;
		case WEIR_CONVERT_FLOAT8:
			result = weir_parse_float8(s, len, &number);
			if (result == 0)
				*value = Float8GetDatum(number);
			break;
		case WEIR_CONVERT_FLOAT4:
			result = weir_parse_float4(s, len, &single);
			if (result == 0)
				*value = Float4GetDatum(single);
			break;
		case WEIR_CONVERT_BOOL:
			return make_bool(column, s, len, value, complaint);
		case WEIR_CONVERT_UUID:
			return make_uuid(column, s, len, value, complaint);
		case WEIR_CONVERT_TIMESTAMPTZ:
		case WEIR_CONVERT_TIMESTAMP:
			if (weir_parse_timestamp(s, len,
									 column->conversion == WEIR_CONVERT_TIMESTAMPTZ,
									 &micros))
			{
				*value = round_timestamp(column, micros);
				return true;
			}
			break;
		case WEIR_CONVERT_DATE:
			if (weir_parse_date(s, len, &day))
			{
				*value = DateADTGetDatum(day);
				return true;
			}
			break;
		case WEIR_CONVERT_BYTEA:
			*value = PointerGetDatum(cstring_to_text_with_len(s, len));
			return true;
		case WEIR_CONVERT_JSON:
		case WEIR_CONVERT_JSONB:
		case WEIR_CONVERT_POPULATE:
		case WEIR_CONVERT_INPUT:
			break;
	}
	if (result == 0)
		return true;
	if (result != WEIR_UNKNOWN_FORM)
		return complain_value(column, result, s, len, complaint);
	return input_text(column, s, len, value, complaint);
}

/*
 * JSON to a Datum
 */

/* A string with escapes in it: unescape, then as any text. */
static bool
convert_escaped(WeirColumn *column, const WeirJsonValue *json, Datum *value,
				WeirComplaint *complaint)
{
	char		buffer[SHORT_TEXT];
	char	   *text = buffer;
	WeirJsonFault fault;
	int			len;
	bool		ok;

	if (json->len > sizeof(buffer))
		text = palloc(json->len);
	len = weir_json_unescape(json->start, json->len, text, &fault);
	if (len < 0)
		return weir_complain(complaint, fault.sqlstate, "column \"%s\": %s",
							 column->name, fault.reason);
	ok = weir_convert_text(column, text, len, true, value, complaint);
	if (text != buffer)
		pfree(text);
	return ok;
}

/* One value of a document for one column. */
bool
weir_convert_json(WeirColumn *column, const WeirJsonValue *json,
				  Datum *value, bool *isnull, WeirComplaint *complaint)
{
	WeirJsonKind kind = json->kind;

	if (kind == WEIR_JSON_ABSENT || kind == WEIR_JSON_NULL)
		return weir_convert_null(column, value, isnull, complaint);
	*isnull = false;

	if (unlikely(column->conversion == WEIR_CONVERT_JSON ||
				 column->conversion == WEIR_CONVERT_JSONB))
	{
		bool		quoted = kind == WEIR_JSON_STRING || kind == WEIR_JSON_ESCAPED;
		const char *s = json->start - quoted;
		int			len = json->len + 2 * quoted;

		if (column->conversion == WEIR_CONVERT_JSONB)
			return input_text(column, s, len, value, complaint);
		/* the scanner has validated it as json_in would */
		*value = make_text(s, len);
		return true;
	}
	if (kind == WEIR_JSON_ESCAPED)
		return convert_escaped(column, json, value, complaint);
	if (column->conversion == WEIR_CONVERT_BOOL &&
		(kind == WEIR_JSON_TRUE || kind == WEIR_JSON_FALSE))
	{
		*value = BoolGetDatum(kind == WEIR_JSON_TRUE);
		return true;
	}
	if (column->populate != NULL &&
		(kind == WEIR_JSON_OBJECT || kind == WEIR_JSON_ARRAY))
		return populate_value(column, json, value, isnull, complaint);
	return weir_convert_text(column, json->start, json->len, true, value,
							 complaint);
}
