/*-------------------------------------------------------------------------
 *
 * start_option.c
 *	  The option `start` of a view over a topic: where it begins.
 *
 * It is resolved to offsets once, at creation, and stays in the options for
 * people to read: what was "the end" then has no meaning later.  Three steps:
 * the value is checked alone, before the broker is asked anything; the broker is
 * told which time it is to look up; what it answers becomes a first offset for
 * each partition.
 *
 *-------------------------------------------------------------------------
 */
#include "catalog/view_ddl.h"

#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

static const char start_hint[] =
"Use 'earliest', 'latest', a timestamp with time zone, or offsets by partition such as '{\"0\": 42}'.";

typedef enum StartKind
{
	START_EARLIEST,
	START_LATEST,
	START_TIME,
	START_OFFSETS
} StartKind;

static StartKind
start_kind(const char *value)
{
	if (strcmp(value, "earliest") == 0)
		return START_EARLIEST;
	if (strcmp(value, "latest") == 0)
		return START_LATEST;
	if (value[strspn(value, " \t\r\n")] == '{')
		return START_OFFSETS;
	return START_TIME;
}

static TimestampTz
parse_start_time(const char *value)
{
	TimestampTz result;

	result = DatumGetTimestampTz(weir_option_input(timestamptz_in, "start", value,
												   start_hint));
	if (TIMESTAMP_NOT_FINITE(result))
		weir_option_bad_value("start", value, NULL, start_hint);
	return result;
}

/*
 * {"0": 42, "1": 7} to positions.  Offsets are whole numbers from 0, given as
 * JSON numbers or, for tools that write all keys and values alike, as strings.
 */
static WeirPosition *
parse_start_offsets(const char *value, int *n)
{
	Jsonb	   *json;
	JsonbIterator *it;
	JsonbValue	v;
	JsonbIteratorToken token;
	WeirPosition *positions;

	json = DatumGetJsonbP(weir_option_input(jsonb_in, "start", value, start_hint));
	positions = palloc((JB_ROOT_COUNT(json) + 1) * sizeof(WeirPosition));
	*n = 0;
	it = JsonbIteratorInit(&json->root);
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		char	   *text;
		char	   *end;
		int64		number;

		if (token != WJB_KEY && token != WJB_VALUE)
			continue;
		if (v.type == jbvString)
			text = pnstrdup(v.val.string.val, v.val.string.len);
		else if (v.type == jbvNumeric)
			text = DatumGetCString(DirectFunctionCall1(numeric_out,
													   NumericGetDatum(v.val.numeric)));
		else
			text = "";
		errno = 0;
		number = strtoi64(text, &end, 10);
		if (text[0] < '0' || text[0] > '9' || *end != '\0' || errno != 0 ||
			(token == WJB_KEY && number > PG_INT32_MAX))
			weir_option_bad_value("start", value,
								  token == WJB_KEY ?
								  psprintf("\"%s\" is not the number of a partition.", text) :
								  psprintf("The offset of partition %d is not a whole number.",
										   positions[*n].partition),
								  start_hint);
		if (token == WJB_KEY)
			positions[*n].partition = (int32) number;
		else
			positions[(*n)++].offset = number;
	}
	return positions;
}

void
weir_start_check(const char *name, const char *value)
{
	int			n;

	switch (start_kind(value))
	{
		case START_TIME:
			(void) parse_start_time(value);
			break;
		case START_OFFSETS:
			(void) parse_start_offsets(value, &n);
			break;
		default:
			break;
	}
}

TimestampTz
weir_start_time(List *options)
{
	const char *value = weir_option_given(options, "start");

	if (value == NULL || start_kind(value) != START_TIME)
		return DT_NOBEGIN;
	return parse_start_time(value);
}

void
weir_start_offsets(List *options, const WeirPartitionRange *ranges, int n,
				   int64 *starts)
{
	const char *value = weir_option_given(options, "start");
	StartKind	kind = value == NULL ? START_EARLIEST : start_kind(value);
	WeirPosition *given = NULL;
	int			n_given = 0;

	for (int i = 0; i < n; i++)
	{
		starts[i] = ranges[i].low;
		if (kind == START_LATEST)
			starts[i] = ranges[i].high;
		else if (kind == START_TIME)
			starts[i] = Max(ranges[i].at_time, ranges[i].low);
	}

	if (kind == START_OFFSETS)
		given = parse_start_offsets(value, &n_given);
	for (int i = 0; i < n_given; i++)
	{
		int			p;

		for (p = 0; p < n && ranges[p].partition != given[i].partition;)
			p++;
		if (p == n)
			weir_option_bad_value("start", value,
								  psprintf("The topic has no partition %d.",
										   given[i].partition), start_hint);
		if (given[i].offset < ranges[p].low || given[i].offset > ranges[p].high)
			weir_option_bad_value("start", value,
								  psprintf("Partition %d can be read from offset " INT64_FORMAT " on; the next message gets offset " INT64_FORMAT ".",
										   given[i].partition, ranges[p].low,
										   ranges[p].high),
								  start_hint);
		starts[p] = given[i].offset;
	}
}
