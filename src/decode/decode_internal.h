/*-------------------------------------------------------------------------
 *
 * decode_internal.h
 *	  What the files of decode/ say to each other, and to nobody else.
 *
 * A format (JSON, CSV, ...) cuts a message into values without copying; a
 * conversion makes a Datum of one value for one column.  A format knows
 * nothing of types, a conversion nothing of messages.
 *
 *-------------------------------------------------------------------------
 */
#ifndef WEIR_DECODE_INTERNAL_H
#define WEIR_DECODE_INTERNAL_H

#include "decode/decode.h"
#include "fmgr.h"

/*
 * Larger messages are dead letters before a byte of them is looked at: what
 * we keep per message is a small multiple of its size.  Push streams have the
 * same limit.
 */
#define WEIR_MESSAGE_MAX_BYTES (16 * 1024 * 1024)

/*
 * Postgres' own limit is max_stack_depth, some 6,000 levels with the default;
 * a fixed one gives the same verdict on every server.
 */
#define WEIR_JSON_MAX_DEPTH 1000

/* json_scan.c */

typedef enum WeirJsonKind
{
	WEIR_JSON_ABSENT,
	WEIR_JSON_NULL,
	WEIR_JSON_TRUE,
	WEIR_JSON_FALSE,
	WEIR_JSON_NUMBER,
	WEIR_JSON_STRING,			/* no backslash in it */
	WEIR_JSON_ESCAPED,			/* a string that has to be unescaped */
	WEIR_JSON_OBJECT,
	WEIR_JSON_ARRAY
} WeirJsonKind;

/* A value inside the message; of strings, what is between the quotes. */
typedef struct WeirJsonValue
{
	const char *start;
	uint32		len;
	WeirJsonKind kind;
} WeirJsonValue;

/* Where and why a document is not JSON. */
typedef struct WeirJsonFault
{
	int			sqlstate;
	const char *reason;			/* constant */
	size_t		offset;			/* bytes from the start of the message */
} WeirJsonFault;

typedef struct WeirJsonShape WeirJsonShape;

extern WeirJsonShape *weir_json_shape_create(void);
extern int	weir_json_shape_add(WeirJsonShape *shape, const char *const *names,
								int n_names);
extern void weir_json_shape_finish(WeirJsonShape *shape);
extern int	weir_json_shape_slot(WeirJsonShape *shape, int handle);
extern int	weir_json_shape_slots(WeirJsonShape *shape);

extern bool weir_json_scan(WeirJsonShape *shape, const char *json, size_t len,
						   WeirJsonValue *values, WeirJsonFault *fault);
extern int	weir_json_unescape(const char *raw, uint32 len, char *out,
							   WeirJsonFault *fault);

/* convert.c */

typedef enum WeirConversion
{
	WEIR_CONVERT_INPUT,			/* the type's input function */
	WEIR_CONVERT_POPULATE,		/* the same; JSON arrays and objects through
								 * json_populate_record */
	WEIR_CONVERT_JSON,			/* json: the text of the value itself */
	WEIR_CONVERT_JSONB,			/* jsonb: the value itself */
	WEIR_CONVERT_INT2,
	WEIR_CONVERT_INT4,
	WEIR_CONVERT_INT8,
	WEIR_CONVERT_FLOAT4,
	WEIR_CONVERT_FLOAT8,
	WEIR_CONVERT_NUMERIC,
	WEIR_CONVERT_BOOL,
	WEIR_CONVERT_TEXT,
	WEIR_CONVERT_VARCHAR,
	WEIR_CONVERT_BYTEA,			/* format bytes and keys: taken as they are */
	WEIR_CONVERT_TIMESTAMPTZ,
	WEIR_CONVERT_TIMESTAMP,
	WEIR_CONVERT_DATE,
	WEIR_CONVERT_UUID
} WeirConversion;

/* A column that somebody wants. */
typedef struct WeirColumn
{
	AttrNumber	attnum;
	char	   *name;
	WeirFieldKind source;
	Oid			typid;
	int32		typmod;
	bool		not_null;
	bool		is_domain;		/* NULL goes through the input function too */
	WeirConversion conversion;
	int			place;			/* JSON: slot; CSV: number of the field */
	FmgrInfo	input;
	Oid			typioparam;
	FmgrInfo   *populate;		/* json_populate_record over one column */
	Datum		empty_record;
	MemoryContext mcxt;			/* of the decoder */
} WeirColumn;

/*
 * What is wrong with a value.  The text has room for what a person needs;
 * the dead letter carries the payload.
 */
typedef struct WeirComplaint
{
	int			sqlstate;
	char		message[256];
} WeirComplaint;

extern void weir_column_prepare(WeirColumn *column, MemoryContext mcxt);
extern bool weir_convert_null(WeirColumn *column, Datum *value, bool *isnull,
							  WeirComplaint *complaint);
extern bool weir_convert_json(WeirColumn *column, const WeirJsonValue *json,
							  Datum *value, bool *isnull,
							  WeirComplaint *complaint);
extern bool weir_convert_text(WeirColumn *column, const char *s, int len,
							  bool from_json, Datum *value,
							  WeirComplaint *complaint);
extern bool weir_complain(WeirComplaint *complaint, int sqlstate,
						  const char *format,...) pg_attribute_printf(3, 4);
extern const char *weir_text_to_server(const char *s, int *len);

/* convert_number.c: these answer a SQLSTATE, 0 for success, or say that they
 * do not know the form, which the input function may know. */
#define WEIR_UNKNOWN_FORM (-1)

extern int	weir_parse_integer(const char *s, int len, int64 *value);
extern int	weir_parse_int8(const char *s, int len, bool any_number,
							int64 *value);
extern int	weir_parse_float8(const char *s, int len, float8 *value);
extern int	weir_parse_float4(const char *s, int len, float4 *value);
extern int	weir_parse_numeric(const char *s, int len, int32 typmod,
							   Datum *value);

/* convert_time.c */
extern bool weir_parse_timestamp(const char *s, int len, bool want_zone,
								 int64 *value);
extern bool weir_parse_date(const char *s, int len, int32 *value);

/* csv_decode.c */

typedef struct WeirCsvFormat
{
	char		delimiter;
	char		quote;
	char		escape;
	char	   *null_text;
	int			null_len;
} WeirCsvFormat;

typedef struct WeirCsvField
{
	char	   *start;			/* in `scratch`, unquoted */
	int			len;
	bool		isnull;
} WeirCsvField;

extern bool weir_csv_split(const WeirCsvFormat *format, const char *record,
						   int len, char *scratch, WeirCsvField *fields,
						   int n_fields, WeirComplaint *complaint);

#endif							/* WEIR_DECODE_INTERNAL_H */
