/*-------------------------------------------------------------------------
 *
 * json_scan.c
 *	  One pass over a JSON document that finds the wanted members and
 *	  validates everything else.
 *
 * Receives the bytes of a message and a shape: the paths that somebody
 * wants.  Hands back, for each path, a slice of the message and its kind.
 * Builds no tree, copies nothing, allocates nothing (but for a member name
 * that holds a backslash), raises nothing.
 *
 * It accepts exactly the documents that Postgres' json_in accepts from a
 * UTF-8 database, and then only objects, up to WEIR_JSON_MAX_DEPTH.  Like
 * json_in it checks that \u is followed by four hexadecimal digits, but not
 * that surrogates come in pairs or that the character is not NUL: that is
 * asked only of values that become text, in json_text.c.  So a field that
 * nobody wants makes a message bad by its grammar or by bytes that are not
 * UTF-8, but not by its escapes.
 *
 * Duplicate names: the last wins, whole: a later "geo" also forgets what an
 * earlier one had below it.
 *
 * Why it is fast.  Messages of one topic resemble each other, so each level
 * of the shape remembers the names of the last message in their order, wanted
 * or not.  A name that is where it was last time costs three masked 8-byte
 * comparisons with no search and no look at its characters, which were
 * validated when it was learned; a member that is missing this time costs one
 * more comparison.  Strings are crossed 16 bytes at a time.
 *
 *-------------------------------------------------------------------------
 */
#include "decode/json_shape.h"

#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include "mb/pg_wchar.h"
#include "port/pg_bitutils.h"

/* One document under way. */
typedef struct JsonScan
{
	const char *begin;
	const char *end;
	WeirJsonValue *values;
	WeirJsonFault *fault;
} JsonScan;

static const char *scan_object(JsonScan *scan, JsonLevel *level,
							   const char *p, int depth);

/*
 * The scanner.  Each function takes the place where it begins and returns
 * the place after what it has read, or NULL with the fault filled.
 */

static pg_noinline const char *
fail(JsonScan *scan, const char *p, int sqlstate, const char *reason)
{
	scan->fault->sqlstate = sqlstate;
	scan->fault->reason = reason;
	scan->fault->offset = p - scan->begin;
	return NULL;
}

static pg_noinline const char *
fail_syntax(JsonScan *scan, const char *p)
{
	return fail(scan, p, ERRCODE_INVALID_TEXT_REPRESENTATION,
				p < scan->end ? "unexpected character" : "unexpected end");
}

static inline const char *
skip_space(const char *p, const char *end)
{
	/* nearly always nothing or one space: one comparison a byte */
	while (p < end && (unsigned char) *p <= ' ')
	{
		if (*p != ' ' && *p != '\n' && *p != '\r' && *p != '\t')
			break;
		p++;
	}
	return p;
}

static inline bool
is_digit(char c)
{
	return (unsigned char) (c - '0') <= 9;
}

static inline uint64
load_word(const char *p)
{
	uint64		word;

	memcpy(&word, p, sizeof(word));
	return word;
}

/*
 * Crosses bytes that need no thought in a string: printable ASCII other than
 * quote and backslash.
 */
static inline const char *
skip_plain(const char *p, const char *end)
{
#ifdef __SSE2__
	const __m128i quote = _mm_set1_epi8('"');
	const __m128i backslash = _mm_set1_epi8('\\');
	const __m128i space = _mm_set1_epi8(' ');

	while (end - p >= 16)
	{
		__m128i		chunk = _mm_loadu_si128((const __m128i *) p);
		__m128i		special;
		uint32		found;

		/* signed: what is below a space is a control byte or not ASCII */
		special = _mm_or_si128(_mm_cmplt_epi8(chunk, space),
							   _mm_or_si128(_mm_cmpeq_epi8(chunk, quote),
											_mm_cmpeq_epi8(chunk, backslash)));
		found = _mm_movemask_epi8(special);
		if (found != 0)
			return p + pg_rightmost_one_pos32(found);
		p += 16;
	}
#else
	const uint64 ones = UINT64CONST(0x0101010101010101);
	const uint64 highs = UINT64CONST(0x8080808080808080);

	while (end - p >= 8)
	{
		uint64		word = load_word(p);
		uint64		quote = word ^ (ones * '"');
		uint64		backslash = word ^ (ones * '\\');

		if ((((quote - ones) & ~quote) |
			 ((backslash - ones) & ~backslash) |
			 (word - ones * ' ') | word) & highs)
			break;
		p += 8;
	}
#endif
	while (p < end && *p != '"' && *p != '\\' &&
		   (unsigned char) (*p - ' ') < 0x80 - ' ')
		p++;
	return p;
}

/* p is at a backslash; returns the place after the escape. */
static const char *
scan_escape(JsonScan *scan, const char *p)
{
	const char *end = scan->end;
	int			i;

	p++;
	if (p >= end)
		return fail_syntax(scan, p);
	switch (*p)
	{
		case '"':
		case '\\':
		case '/':
		case 'b':
		case 'f':
		case 'n':
		case 'r':
		case 't':
			return p + 1;
		case 'u':
			for (i = 1; i <= 4; i++)
			{
				if (p + i >= end)
					return fail_syntax(scan, end);
				if (!isxdigit((unsigned char) p[i]))
					return fail(scan, p + i, ERRCODE_INVALID_TEXT_REPRESENTATION,
								"\\u needs four hexadecimal digits");
			}
			return p + 5;
		default:
			return fail(scan, p, ERRCODE_INVALID_TEXT_REPRESENTATION,
						"invalid escape");
	}
}

/*
 * p is behind the opening quote; returns the place of the closing one.
 */
static inline const char *
scan_string(JsonScan *scan, const char *p, bool *escaped)
{
	const char *end = scan->end;

	for (;;)
	{
		p = skip_plain(p, end);
		if (p >= end)
			return fail_syntax(scan, p);
		if (*p == '"')
			return p;
		if (*p == '\\')
		{
			*escaped = true;
			p = scan_escape(scan, p);
			if (p == NULL)
				return NULL;
		}
		else if ((unsigned char) *p < ' ')
			return fail(scan, p, ERRCODE_INVALID_TEXT_REPRESENTATION,
						"control character in a string");
		else
		{
			/* text that is not ASCII comes in runs */
			do
			{
				int			len = pg_utf_mblen((const unsigned char *) p);

				if (len > end - p ||
					!pg_utf8_islegal((const unsigned char *) p, len))
					return fail(scan, p, ERRCODE_CHARACTER_NOT_IN_REPERTOIRE,
								"invalid UTF-8");
				p += len;
			} while (p < end && IS_HIGHBIT_SET(*p));
		}
	}
}

static inline const char *
scan_number(JsonScan *scan, const char *p)
{
	const char *end = scan->end;

	if (*p == '-')
		p++;
	if (p < end && *p == '0')
		p++;
	else if (p < end && is_digit(*p))
	{
		do
			p++;
		while (p < end && is_digit(*p));
	}
	else
		return fail_syntax(scan, p);
	if (p < end && *p == '.')
	{
		p++;
		if (p >= end || !is_digit(*p))
			return fail_syntax(scan, p);
		do
			p++;
		while (p < end && is_digit(*p));
	}
	if (p < end && (*p == 'e' || *p == 'E'))
	{
		p++;
		if (p < end && (*p == '+' || *p == '-'))
			p++;
		if (p >= end || !is_digit(*p))
			return fail_syntax(scan, p);
		do
			p++;
		while (p < end && is_digit(*p));
	}
	return p;
}

/* p is at a value that is neither an object nor an array. */
static inline const char *
scan_scalar(JsonScan *scan, const char *p, WeirJsonKind *kind)
{
	const char *end = scan->end;

	switch (*p)
	{
		case '"':
			{
				bool		escaped = false;

				p = scan_string(scan, p + 1, &escaped);
				*kind = escaped ? WEIR_JSON_ESCAPED : WEIR_JSON_STRING;
				return p == NULL ? NULL : p + 1;
			}
		case '-':
		case '0':
		case '1':
		case '2':
		case '3':
		case '4':
		case '5':
		case '6':
		case '7':
		case '8':
		case '9':
			*kind = WEIR_JSON_NUMBER;
			return scan_number(scan, p);
		case 't':
			*kind = WEIR_JSON_TRUE;
			if (end - p >= 4 && memcmp(p, "true", 4) == 0)
				return p + 4;
			break;
		case 'f':
			*kind = WEIR_JSON_FALSE;
			if (end - p >= 5 && memcmp(p, "false", 5) == 0)
				return p + 5;
			break;
		case 'n':
			*kind = WEIR_JSON_NULL;
			if (end - p >= 4 && memcmp(p, "null", 4) == 0)
				return p + 4;
			break;
	}
	return fail_syntax(scan, p);
}

/*
 * Validates an object or array that nobody looks into.  p is at its bracket,
 * and `depth` containers are open around it.  No recursion: which kind each
 * open container is takes one bit.
 */
static const char *
skip_container(JsonScan *scan, const char *p, int depth)
{
	const char *end = scan->end;
	uint64		is_object[WEIR_JSON_MAX_DEPTH / 64 + 1];
	int			base = depth;
	bool		in_object = false;
	bool		escaped;
	WeirJsonKind kind;

	for (;;)
	{
		/* at a value */
		if (p < end && (*p == '{' || *p == '['))
		{
			uint64		bit = UINT64CONST(1) << (depth & 63);

			if (depth >= WEIR_JSON_MAX_DEPTH)
				return fail(scan, p, ERRCODE_STATEMENT_TOO_COMPLEX,
							"nested too deeply");
			in_object = *p == '{';
			if (in_object)
				is_object[depth >> 6] |= bit;
			else
				is_object[depth >> 6] &= ~bit;
			depth++;
			p = skip_space(p + 1, end);
			if (p >= end || *p != (in_object ? '}' : ']'))
				goto member;
		}
		else
		{
			if (p >= end)
				return fail_syntax(scan, p);
			p = scan_scalar(scan, p, &kind);
			if (p == NULL)
				return NULL;
			p = skip_space(p, end);
		}

		/* behind a value, or at the end of an empty container */
		for (;;)
		{
			if (p >= end)
				return fail_syntax(scan, p);
			if (*p == ',')
			{
				p = skip_space(p + 1, end);
				break;
			}
			if (*p != (in_object ? '}' : ']'))
				return fail_syntax(scan, p);
			p++;
			depth--;
			if (depth == base)
				return p;
			in_object = (is_object[(depth - 1) >> 6] >> ((depth - 1) & 63)) & 1;
			p = skip_space(p, end);
		}

member:
		if (in_object)
		{
			if (p >= end || *p != '"')
				return fail_syntax(scan, p);
			p = scan_string(scan, p + 1, &escaped);
			if (p == NULL)
				return NULL;
			p = skip_space(p + 1, end);
			if (p >= end || *p != ':')
				return fail_syntax(scan, p);
			p = skip_space(p + 1, end);
		}
	}
}

/* A value that nobody wants. */
static inline const char *
skip_value(JsonScan *scan, const char *p, int depth)
{
	WeirJsonKind kind;

	if (p < scan->end && (*p == '{' || *p == '['))
		return skip_container(scan, p, depth);
	if (p >= scan->end)
		return fail_syntax(scan, p);
	return scan_scalar(scan, p, &kind);
}

/* A value that is wanted, or below which something is. */
static inline const char *
take_value(JsonScan *scan, JsonName *name, const char *p, int depth)
{
	const char *start = p;
	WeirJsonKind kind = WEIR_JSON_ABSENT;

	if (name->below != NULL)
		memset(&scan->values[name->below_first], 0,
			   (name->below_end - name->below_first) * sizeof(WeirJsonValue));

	if (p >= scan->end)
		return fail_syntax(scan, p);
	if (*p == '{')
	{
		kind = WEIR_JSON_OBJECT;
		if (name->below != NULL)
			p = scan_object(scan, name->below, p, depth);
		else
			p = skip_container(scan, p, depth);
	}
	else if (*p == '[')
	{
		kind = WEIR_JSON_ARRAY;
		p = skip_container(scan, p, depth);
	}
	else
		p = scan_scalar(scan, p, &kind);

	if (p != NULL && name->wanted)
	{
		WeirJsonValue *value = &scan->values[name->slot];
		bool		quoted = *start == '"';

		value->kind = kind;
		value->start = start + quoted;
		value->len = p - start - 2 * quoted;
	}
	return p;
}

/* Is the name at p (behind its opening quote) the guessed one? */
static inline bool
guess_holds(const JsonGuess *guess, const char *p, const char *end)
{
	if (guess->len == 0)
		return false;
	if (likely(end - p >= GUESS_BYTES))
		return (((load_word(p) ^ guess->text[0]) & guess->mask[0]) |
				((load_word(p + 8) ^ guess->text[1]) & guess->mask[1]) |
				((load_word(p + 16) ^ guess->text[2]) & guess->mask[2])) == 0;
	return end - p >= guess->len && memcmp(p, guess->text, guess->len) == 0;
}

/*
 * Reads an object of which members are wanted.  p is at its brace; `depth`
 * containers are open around it.  Recurses as deep as the longest path.
 */
static const char *
scan_object(JsonScan *scan, JsonLevel *level, const char *p, int depth)
{
	const char *end = scan->end;
	int			place = 0;

	if (depth >= WEIR_JSON_MAX_DEPTH)
		return fail(scan, p, ERRCODE_STATEMENT_TOO_COMPLEX,
					"nested too deeply");
	p = skip_space(p + 1, end);
	if (p < end && *p == '}')
		return p + 1;

	for (;;)
	{
		JsonName   *name;

		if (unlikely(p >= end || *p != '"'))
			return fail_syntax(scan, p);
		p++;
		if (likely(place < level->n_guesses) &&
			guess_holds(&level->guesses[place], p, end))
		{
			name = level->guesses[place].name;
			p += level->guesses[place].len;
			place++;
		}
		else if (place + 1 < level->n_guesses &&
				 guess_holds(&level->guesses[place + 1], p, end))
		{
			name = level->guesses[place + 1].name;
			p += level->guesses[place + 1].len;
			place += 2;
		}
		else
		{
			const char *start = p;
			bool		escaped = false;

			p = scan_string(scan, p, &escaped);
			if (p == NULL)
				return NULL;
			name = weir_json_find_name(level, start, p - start, escaped);
			if (place < GUESSES_MAX)
				weir_json_learn_guess(level, place++, start, p - start, name);
			p++;
		}

		p = skip_space(p, end);
		if (unlikely(p >= end || *p != ':'))
			return fail_syntax(scan, p);
		p = skip_space(p + 1, end);
		if (name == NULL)
			p = skip_value(scan, p, depth + 1);
		else
			p = take_value(scan, name, p, depth + 1);
		if (unlikely(p == NULL))
			return NULL;

		p = skip_space(p, end);
		if (unlikely(p >= end))
			return fail_syntax(scan, p);
		if (*p == '}')
			return p + 1;
		if (unlikely(*p != ','))
			return fail_syntax(scan, p);
		p = skip_space(p + 1, end);
	}
}

/*
 * Reads a document.  values has one entry a slot and is wholly written.
 * Returns false with the fault filled if the document is not a JSON object:
 *
 * 22P02 not JSON (also the empty message)
 * 22021 a string in it is not UTF-8
 * 22032 JSON, but no object
 * 54001 nested deeper than WEIR_JSON_MAX_DEPTH
 */
bool
weir_json_scan(WeirJsonShape *shape, const char *json, size_t len,
			   WeirJsonValue *values, WeirJsonFault *fault)
{
	JsonScan	scan;
	const char *p;
	const char *start;

	scan.begin = json;
	scan.end = json + len;
	scan.values = values;
	scan.fault = fault;
	memset(values, 0, shape->n_slots * sizeof(WeirJsonValue));

	start = p = skip_space(json, scan.end);
	if (p < scan.end && *p == '{')
		p = scan_object(&scan, shape->top, p, 0);
	else
		p = skip_value(&scan, p, 0);
	if (p == NULL)
		return false;
	p = skip_space(p, scan.end);
	if (p < scan.end)
		return fail_syntax(&scan, p) != NULL;
	if (*start != '{')
		return fail(&scan, start, ERRCODE_INVALID_JSON_TEXT,
					"not an object") != NULL;
	return true;
}
