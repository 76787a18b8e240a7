/*-------------------------------------------------------------------------
 *
 * fuzz_json.c
 *	  Test builds: random documents through our scanner and Postgres' parser.
 *
 * A document grows from a grammar and is mostly mutated afterwards, so that it
 * is JSON or nearly so.  The scanner must accept it exactly where pg_parse_json
 * does (json_in's parser, with which it shares no code), find the very bytes of
 * the wanted members, and make the same text of the strings among them; values
 * must become the Datums that the types' input functions make of that text.
 *
 * The scanner remembers the names of the last document: one shape lives through
 * a thousand rounds, since what it learned from one document must never show in
 * the verdict on another.  So what fails is found again from the thousand on.
 *
 *-------------------------------------------------------------------------
 */
#include "decode/decode_internal.h"

#ifdef WEIR_TEST

#include "catalog/pg_type.h"
#include "common/jsonapi.h"
#include "fmgr.h"
#include "fuzz.h"
#include "mb/pg_wchar.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

PG_FUNCTION_INFO_V1(weir_fuzz_json);
PG_FUNCTION_INFO_V1(weir_fuzz_values);

#define LONGEST 400
#define ROUNDS_PER_SHAPE 1000

static const char *const names[] = {
	"a", "a", "b", "c", "d", "", "\\u0061", "\xc3\xa9", "a\\\"b",
	"a name that is longer than what a guess can hold"
};

static const char *const pieces[] = {
	"{", "}", "[", "]", ",", ":", "\"", "\\", "\"a\"", "\"b\"", "\"a\":", "1",
	"-", "0", ".", "e", "E", "+", "true", "false", "null", " ", "\n", "\t",
	"\\u", "\\u0000", "\\ud83d", "\\ude00", "\\u0061", "\\n", "\x7f", "\x1f",
	"\x01", "\xc3", "\xa9", "\xc3\xa9", "\xed\xa0\x80", "\xf4\x90\x80\x80",
	"\xf0\x9f\x98\x80", "\xc0\xaf", "\xff", "{\"b\":", "{}", "[]", "\"\"",
	"\"a\":{\"c\":1}", "\"b\":{\"c\":2}", "0123456789abcdef"
};

static const char *const strings[] = {
	"", "x", "\\n", "\\u00e9", "\\ud83d\\ude00", "\xc3\xa9", "\xf0\x9f\x98\x80",
	"\\\"", "\\\\", "0123456789abcdef", "0123456789abcde\\", "\\u0000", "\\ud83d",
	"\\ude00", "\\/", "\\b\\f\\r\\t"
};

static const char *const numbers[] = {
	"0", "-0", "1", "-1", "0.1", "1.0", "1e2", "1E+9", "2.5e-3", "120e-1",
	"9223372036854775807", "9223372036854775808", "-9223372036854775808",
	"1e400", "1e-400", "1e131072", "2147483648", "32768", "0.00012",
	"123456789012345678901234567890", "4.35", "99.995", "17976931348623157e292"
};

/* ---- documents ---- */

static void
add_space(WeirFuzz *fuzz, StringInfo out)
{
	static const char *const spaces[] = {"", "", "", "", " ", "\n", "\t \r"};

	appendStringInfoString(out, weir_fuzz_one_of(fuzz, spaces));
}

static void
add_string(WeirFuzz *fuzz, StringInfo out)
{
	int			n = weir_fuzz_below(fuzz, 4);

	appendStringInfoChar(out, '"');
	while (n-- > 0)
		appendStringInfoString(out, weir_fuzz_one_of(fuzz, strings));
	appendStringInfoChar(out, '"');
}

static void add_value(WeirFuzz *fuzz, StringInfo out, int depth);

static void
add_object(WeirFuzz *fuzz, StringInfo out, int depth)
{
	int			n = weir_fuzz_below(fuzz, 6);

	appendStringInfoChar(out, '{');
	for (int i = 0; i < n && out->len < LONGEST; i++)
	{
		if (i > 0)
			appendStringInfoChar(out, ',');
		add_space(fuzz, out);
		appendStringInfo(out, "\"%s\"", weir_fuzz_one_of(fuzz, names));
		add_space(fuzz, out);
		appendStringInfoChar(out, ':');
		add_space(fuzz, out);
		add_value(fuzz, out, depth + 1);
	}
	add_space(fuzz, out);
	appendStringInfoChar(out, '}');
}

static void
add_array(WeirFuzz *fuzz, StringInfo out, int depth)
{
	int			n = weir_fuzz_below(fuzz, 4);

	appendStringInfoChar(out, '[');
	for (int i = 0; i < n && out->len < LONGEST; i++)
	{
		if (i > 0)
			appendStringInfoChar(out, ',');
		add_value(fuzz, out, depth + 1);
	}
	appendStringInfoChar(out, ']');
}

static void
add_value(WeirFuzz *fuzz, StringInfo out, int depth)
{
	static const char *const words[] = {"true", "false", "null"};

	switch (weir_fuzz_below(fuzz, depth > 4 ? 5 : 8))
	{
		case 0:
		case 1:
			appendStringInfoString(out, weir_fuzz_one_of(fuzz, numbers));
			break;
		case 2:
		case 3:
			add_string(fuzz, out);
			break;
		case 4:
			appendStringInfoString(out, weir_fuzz_one_of(fuzz, words));
			break;
		case 5:
			add_array(fuzz, out, depth);
			break;
		default:
			add_object(fuzz, out, depth);
			break;
	}
}

/* Around the depth at which we stop; that Postgres does so far deeper. */
static void
add_depth(WeirFuzz *fuzz, StringInfo out)
{
	int			n = WEIR_JSON_MAX_DEPTH - 2 + weir_fuzz_below(fuzz, 4);

	appendStringInfoString(out, "{\"a\":");
	for (int i = 0; i < n; i++)
		appendStringInfoChar(out, '[');
	for (int i = 0; i < n; i++)
		appendStringInfoChar(out, ']');
	appendStringInfoChar(out, '}');
}

static void
make_document(WeirFuzz *fuzz, StringInfo out)
{
	initStringInfo(out);
	if (weir_fuzz_below(fuzz, 2000) == 0)
		add_depth(fuzz, out);
	else if (weir_fuzz_below(fuzz, 50) == 0)
		add_value(fuzz, out, 0);
	else
	{
		add_space(fuzz, out);
		add_object(fuzz, out, 0);
		add_space(fuzz, out);
	}
	if (weir_fuzz_below(fuzz, 5) > 1)
		weir_fuzz_mutate(fuzz, out, out->len + LONGEST, pieces,
						 lengthof(pieces));
}

/* ---- the oracle ---- */

/* A path that is wanted, and what Postgres' parser found there. */
typedef struct Wanted
{
	const char *outer;
	const char *inner;			/* NULL: the outer one is wanted */
	bool		in_outer;
	bool		inside;
	const char *start;			/* NULL: absent */
	const char *end;
	char	   *text;			/* of a string */
} Wanted;

#define N_WANTED 3

typedef struct Oracle
{
	JsonLexContext *lex;
	Wanted		wanted[N_WANTED];
} Oracle;

static WEIR_JSON_ACTION
field_start(void *state, char *name, bool isnull)
{
	Oracle	   *oracle = state;
	int			level = oracle->lex->lex_level;

	for (int i = 0; i < N_WANTED; i++)
	{
		Wanted	   *w = &oracle->wanted[i];

		if (level == 1 && strcmp(name, w->outer) == 0)
		{
			/* a later one also forgets what an earlier one had below it */
			w->start = NULL;
			w->text = NULL;
			w->in_outer = true;
			w->inside = w->inner == NULL;
		}
		else if (level == 2 && w->in_outer && w->inner != NULL &&
				 strcmp(name, w->inner) == 0)
			w->inside = true;
		else
			continue;
		if (w->inside)
		{
			w->start = oracle->lex->token_start;
			w->text = NULL;
		}
	}
	WEIR_JSON_GO_ON;
}

static WEIR_JSON_ACTION
field_end(void *state, char *name, bool isnull)
{
	Oracle	   *oracle = state;
	int			level = oracle->lex->lex_level;

	for (int i = 0; i < N_WANTED; i++)
	{
		Wanted	   *w = &oracle->wanted[i];

		if (w->inside && level == (w->inner == NULL ? 1 : 2))
		{
			w->inside = false;
			w->end = oracle->lex->prev_token_terminator;
		}
		if (level == 1)
			w->in_outer = false;
	}
	WEIR_JSON_GO_ON;
}

static WEIR_JSON_ACTION
scalar(void *state, char *token, JsonTokenType type)
{
	Oracle	   *oracle = state;
	int			level = oracle->lex->lex_level;

	for (int i = 0; i < N_WANTED; i++)
	{
		Wanted	   *w = &oracle->wanted[i];

		if (w->inside && level == (w->inner == NULL ? 1 : 2) &&
			type == JSON_TOKEN_STRING)
			w->text = pstrdup(token);
	}
	WEIR_JSON_GO_ON;
}

/* Is it what json_in takes from a UTF-8 client, and an object? */
static bool
oracle_accepts(const char *json, int len)
{
	const char *p = json;

	if (memchr(json, '\0', len) != NULL ||
		!pg_verify_mbstr(PG_UTF8, json, len, true) ||
		pg_parse_json(weir_make_json_lexer(json, len, false),
					  &nullSemAction) != JSON_SUCCESS)
		return false;
	while (strchr(" \t\r\n", *p) != NULL)
		p++;
	return *p == '{';
}

/*
 * The wanted members of an accepted document.  False if it has a \u escape that
 * is no text, which this parser refuses wherever it stands.
 */
static bool
oracle_members(const char *json, int len, Oracle *oracle)
{
	JsonSemAction actions = {0};

	oracle->lex = weir_make_json_lexer(json, len, true);
	actions.semstate = oracle;
	actions.object_field_start = field_start;
	actions.object_field_end = field_end;
	actions.scalar = scalar;
	return pg_parse_json(oracle->lex, &actions) == JSON_SUCCESS;
}

/* Raises if a member is not what Postgres found. */
static void
compare_member(const WeirFuzz *fuzz, const char *json, int len,
			   const WeirJsonValue *ours, const Wanted *theirs)
{
	bool		quoted = ours->kind == WEIR_JSON_STRING ||
		ours->kind == WEIR_JSON_ESCAPED;
	char	   *text;
	int			text_len = ours->len;
	WeirJsonFault fault;

	if (theirs->start == NULL ? ours->kind != WEIR_JSON_ABSENT :
		(ours->kind == WEIR_JSON_ABSENT ||
		 ours->start - quoted != theirs->start ||
		 ours->start + ours->len + quoted != theirs->end))
		weir_fuzz_differs(fuzz, "a member differs", json, len);
	if (theirs->start == NULL)
		return;
	if (quoted != (theirs->text != NULL))
		weir_fuzz_differs(fuzz, "a string is none", json, len);
	if (!quoted)
		return;
	text = palloc(ours->len + 1);
	if (ours->kind == WEIR_JSON_ESCAPED)
		text_len = weir_json_unescape(ours->start, ours->len, text, &fault);
	else
		memcpy(text, ours->start, ours->len);
	if (text_len < 0 || strlen(theirs->text) != text_len ||
		memcmp(text, theirs->text, text_len) != 0)
		weir_fuzz_differs(fuzz, "a text differs", json, len);
}

/* Is it deep enough for us to refuse it? */
static bool
is_deep(const char *json, int len)
{
	int			n = 0;

	for (int i = 0; i < len; i++)
		n += json[i] == '[' || json[i] == '{';
	return n > WEIR_JSON_MAX_DEPTH;
}

static WeirJsonShape *
make_shape(MemoryContext mcxt, int *slots)
{
	static const char *const paths[N_WANTED][2] = {
		{"a", NULL}, {"b", "c"}, {"b", NULL}
	};
	MemoryContext old = MemoryContextSwitchTo(mcxt);
	WeirJsonShape *shape;
	int			handles[N_WANTED];

	MemoryContextReset(mcxt);
	shape = weir_json_shape_create();
	for (int i = 0; i < N_WANTED; i++)
		handles[i] = weir_json_shape_add(shape, paths[i],
										 paths[i][1] == NULL ? 1 : 2);
	weir_json_shape_finish(shape);
	for (int i = 0; i < N_WANTED; i++)
		slots[i] = weir_json_shape_slot(shape, handles[i]);
	MemoryContextSwitchTo(old);
	return shape;
}

static Datum
counts(const int64 *n, int len)
{
	Datum	   *values = palloc(len * sizeof(Datum));

	for (int i = 0; i < len; i++)
		values[i] = Int64GetDatum(n[i]);
	return PointerGetDatum(construct_array(values, len, INT8OID, 8, true,
										   TYPALIGN_DOUBLE));
}

/*
 * weir_fuzz_json(seed bigint, first bigint, rounds bigint) -> bigint[]:
 * documents accepted, documents whose members were compared.
 */
Datum
weir_fuzz_json(PG_FUNCTION_ARGS)
{
	int64		first = PG_GETARG_INT64(1);
	int64		rounds = PG_GETARG_INT64(2);
	MemoryContext shapes = AllocSetContextCreate(CurrentMemoryContext,
												 "pg_weir fuzz shape",
												 ALLOCSET_DEFAULT_SIZES);
	WeirJsonShape *shape = NULL;
	int			slots[N_WANTED];
	WeirFuzz	fuzz;
	int64		n[2] = {0};

	weir_fuzz_begin(&fuzz, PG_GETARG_INT64(0));
	for (int64 round = first; round < first + rounds; round++)
	{
		WeirJsonValue values[N_WANTED + 1];
		WeirJsonFault fault;
		StringInfoData document;
		const char *json;
		int			len;
		bool		ours;

		weir_fuzz_round(&fuzz, round);
		if (shape == NULL || round % ROUNDS_PER_SHAPE == 0)
			shape = make_shape(shapes, slots);
		make_document(&fuzz, &document);
		len = document.len;
		json = weir_fuzz_exact(document.data, len);
		ours = weir_json_scan(shape, json, len, values, &fault);
		if (!ours && fault.sqlstate == ERRCODE_STATEMENT_TOO_COMPLEX &&
			is_deep(json, len))
			continue;
		if (ours != oracle_accepts(json, len))
			weir_fuzz_differs(&fuzz, ours ? "we accept" : "we refuse", json, len);
		if (!ours)
			continue;
		n[0]++;
		{
			Oracle		oracle = {.wanted = {
					{.outer = "a"}, {.outer = "b", .inner = "c"}, {.outer = "b"}
			}};

			if (!oracle_members(json, len, &oracle))
				continue;
			n[1]++;
			for (int i = 0; i < N_WANTED; i++)
				compare_member(&fuzz, json, len, &values[slots[i]],
							   &oracle.wanted[i]);
		}
	}
	weir_fuzz_end(&fuzz);
	MemoryContextDelete(shapes);
	PG_RETURN_DATUM(counts(n, 2));
}

/* ---- values ---- */

static const char *const texts[] = {
	"2026-01-02T03:04:05.678Z", "2026-01-02 03:04:05.678901+02:30",
	"2026-01-02T03:04:05.1234567", "2026-01-02", "20260102T030405Z",
	"0001-01-01T00:00:00Z", "294276-12-31T23:59:59.9999999Z",
	"1969-12-31T23:59:59.5-15:59", "2024-02-29T24:00:00Z", "infinity",
	"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
	"{a0eebc999c0b4ef8bb6d6bb9bd380a11}", "true", "f", "yes", "of", "NaN",
	"-Infinity", " 12 ", "+1", "1_000", "0x1F", "-32768", "32768", "12.345",
	"9223372036854775807", "-9223372036854775809", "1e15", "1.5e-3", ".5", "5.",
	"0.0001", "99.995", "3.4028235e38", "3.4028236e38", "1e-45", "5e-324",
	"1.7976931348623157e308", "123456789012345678901234567890.123456789",
	"0e0", "1e131071", "00012.50", "\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9", "abcde  "
};

static const char *const text_pieces[] = {
	"0", "9", "00", "1", "5", ".", "-", "+", ":", "e", "E", "T", "Z", " ", "x",
	"_", "e-5", "e+300", "000000000000", "999999999999", "\t", "\n", "{", "}",
	"24", "59", "60", "\xc3\xa9", "+02", ".5", "5000000", "inf", "BC"
};

static const struct
{
	Oid			type;
	int32		typmod;
}			columns[] =
{
	{INT2OID, -1}, {INT4OID, -1}, {INT8OID, -1}, {FLOAT4OID, -1},
	{FLOAT8OID, -1}, {NUMERICOID, -1},
	{NUMERICOID, (10 << 16 | 2) + VARHDRSZ}, {BOOLOID, -1}, {TEXTOID, -1},
	{VARCHAROID, 5 + VARHDRSZ}, {TIMESTAMPTZOID, -1}, {TIMESTAMPTZOID, 3},
	{TIMESTAMPOID, -1}, {DATEOID, -1}, {UUIDOID, -1}, {INTERVALOID, -1}
};

/* Calls one of the two and turns what it raises into false. */
typedef bool (*Make) (WeirColumn *column, char *text, int len, Datum *value);

static bool
make_ours(WeirColumn *column, char *text, int len, Datum *value)
{
	WeirComplaint complaint;

	return weir_convert_text(column, weir_fuzz_exact(text, len), len, false,
							 value, &complaint);
}

static bool
make_theirs(WeirColumn *column, char *text, int len, Datum *value)
{
	*value = InputFunctionCall(&column->input, text, column->typioparam,
							   column->typmod);
	return true;
}

static bool
succeeds(Make make, WeirColumn *column, char *text, int len, Datum *value)
{
	MemoryContext old = CurrentMemoryContext;
	volatile bool ok = false;

	PG_TRY();
	{
		ok = make(column, text, len, value);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(old);
		FlushErrorState();
	}
	PG_END_TRY();
	return ok;
}

/*
 * weir_fuzz_values(seed bigint, first bigint, rounds bigint) -> bigint[]:
 * texts that became values.
 *
 * Text, as a CSV field has it, against the types' input functions.  Those raise
 * on some releases, without resources of theirs, so that no subtransaction is
 * needed to catch that.
 */
Datum
weir_fuzz_values(PG_FUNCTION_ARGS)
{
	int64		first = PG_GETARG_INT64(1);
	int64		rounds = PG_GETARG_INT64(2);
	WeirColumn *prepared = palloc0(sizeof(WeirColumn) * lengthof(columns));
	WeirFuzz	fuzz;
	int64		n[1] = {0};

	for (int i = 0; i < lengthof(columns); i++)
	{
		prepared[i].name = "v";
		prepared[i].typid = columns[i].type;
		prepared[i].typmod = columns[i].typmod;
		weir_column_prepare(&prepared[i], CurrentMemoryContext);
	}
	weir_fuzz_begin(&fuzz, PG_GETARG_INT64(0));
	for (int64 round = first; round < first + rounds; round++)
	{
		WeirColumn *column;
		StringInfoData text;
		Datum		ours;
		Datum		theirs;
		bool		accepted;

		weir_fuzz_round(&fuzz, round);
		column = &prepared[weir_fuzz_below(&fuzz, lengthof(columns))];
		initStringInfo(&text);
		appendStringInfoString(&text, weir_fuzz_one_of(&fuzz, texts));
		if (weir_fuzz_below(&fuzz, 5) > 1)
			weir_fuzz_mutate(&fuzz, &text, text.len + 60, text_pieces,
							 lengthof(text_pieces));
		/* the decoder has looked at that before */
		if (memchr(text.data, '\0', text.len) != NULL ||
			!pg_verify_mbstr(PG_UTF8, text.data, text.len, true))
			continue;
		accepted = succeeds(make_theirs, column, text.data, text.len, &theirs);
		if (succeeds(make_ours, column, text.data, text.len, &ours) != accepted)
			weir_fuzz_differs(&fuzz, psprintf("we %s as %s",
											  accepted ? "refuse" : "accept",
											  format_type_be(column->typid)),
							  text.data, text.len);
		if (!accepted)
			continue;
		n[0]++;
		if (!datum_image_eq(ours, theirs, get_typbyval(column->typid),
							get_typlen(column->typid)))
			weir_fuzz_differs(&fuzz, psprintf("another value of %s",
											  format_type_be(column->typid)),
							  text.data, text.len);
	}
	weir_fuzz_end(&fuzz);
	PG_RETURN_DATUM(counts(n, 1));
}

#endif							/* WEIR_TEST */
