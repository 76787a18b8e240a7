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
 * asked only of values that become text, in weir_json_unescape().  So a field
 * that nobody wants cannot make a message bad for its characters, only for
 * its grammar.
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
 * A shape is a trie.  Its slots are numbered depth first, so that what is
 * below a name is a range of slots:
 *
 *	  user_id, geo.country, geo.city, geo, ts
 *
 *	  user_id  slot 0
 *	  geo      slot 1, below it [2, 4)
 *	    country  slot 2
 *	    city     slot 3
 *	  ts       slot 4
 *
 *-------------------------------------------------------------------------
 */
#include "decode/decode_internal.h"

#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include "mb/pg_wchar.h"
#include "port/pg_bitutils.h"

/* A name of up to 23 bytes and its closing quote. */
#define GUESS_WORDS 3
#define GUESS_BYTES (GUESS_WORDS * 8)

/* Members beyond these are looked up each time. */
#define GUESSES_MAX 64

typedef struct JsonLevel JsonLevel;

/* A name that somebody wants, in one level of the shape. */
typedef struct JsonName
{
	char	   *text;			/* UTF-8 */
	uint32		len;
	bool		wanted;			/* its value, not only what is below it */
	int			slot;			/* valid if wanted */
	int			below_first;	/* slots below it: [below_first, below_end) */
	int			below_end;
	JsonLevel  *below;			/* NULL if nothing below it is wanted */
	struct JsonName *next;
} JsonName;

/* The name that stood at this place in the last message. */
typedef struct JsonGuess
{
	uint64		text[GUESS_WORDS];	/* the raw name and its closing quote */
	uint64		mask[GUESS_WORDS];	/* 0xFF for each byte of it */
	uint32		len;			/* bytes with the quote; 0 = too long */
	JsonName   *name;			/* NULL: nobody wants it */
} JsonGuess;

struct JsonLevel
{
	JsonName   *first;			/* in order of addition */
	JsonName   *last;
	int			n_guesses;
	JsonGuess	guesses[GUESSES_MAX];
};

struct WeirJsonShape
{
	JsonLevel  *top;
	JsonName  **handles;		/* of each added path, its last name */
	int			n_handles;
	int			max_handles;
	int			n_slots;
	MemoryContext mcxt;
};

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
 * The shape
 */

static JsonLevel *
level_create(WeirJsonShape *shape)
{
	return (JsonLevel *) MemoryContextAllocZero(shape->mcxt, sizeof(JsonLevel));
}

/* Makes an empty shape in CurrentMemoryContext. */
WeirJsonShape *
weir_json_shape_create(void)
{
	WeirJsonShape *shape = palloc0(sizeof(WeirJsonShape));

	shape->mcxt = CurrentMemoryContext;
	shape->top = level_create(shape);
	shape->max_handles = 16;
	shape->handles = palloc(shape->max_handles * sizeof(JsonName *));
	return shape;
}

/*
 * Adds a path: names from the outermost, in UTF-8.  Returns a handle for
 * weir_json_shape_slot().  Equal paths share a slot.
 */
int
weir_json_shape_add(WeirJsonShape *shape, const char *const *names,
					int n_names)
{
	JsonLevel  *level = shape->top;
	JsonName   *name = NULL;
	int			i;

	Assert(n_names > 0);
	for (i = 0; i < n_names; i++)
	{
		uint32		len = strlen(names[i]);

		if (i > 0)
		{
			if (name->below == NULL)
				name->below = level_create(shape);
			level = name->below;
		}
		for (name = level->first; name != NULL; name = name->next)
		{
			if (name->len == len && memcmp(name->text, names[i], len) == 0)
				break;
		}
		if (name == NULL)
		{
			name = MemoryContextAllocZero(shape->mcxt, sizeof(JsonName));
			name->text = MemoryContextStrdup(shape->mcxt, names[i]);
			name->len = len;
			if (level->last != NULL)
				level->last->next = name;
			else
				level->first = name;
			level->last = name;
		}
	}
	name->wanted = true;

	if (shape->n_handles == shape->max_handles)
	{
		shape->max_handles *= 2;
		shape->handles = repalloc(shape->handles,
								  shape->max_handles * sizeof(JsonName *));
	}
	shape->handles[shape->n_handles] = name;
	return shape->n_handles++;
}

static void
number_slots(WeirJsonShape *shape, JsonLevel *level)
{
	JsonName   *name;

	for (name = level->first; name != NULL; name = name->next)
	{
		if (name->wanted)
			name->slot = shape->n_slots++;
		name->below_first = shape->n_slots;
		if (name->below != NULL)
			number_slots(shape, name->below);
		name->below_end = shape->n_slots;
	}
}

/* After the last path and before the first scan. */
void
weir_json_shape_finish(WeirJsonShape *shape)
{
	number_slots(shape, shape->top);
}

int
weir_json_shape_slot(WeirJsonShape *shape, int handle)
{
	return shape->handles[handle]->slot;
}

int
weir_json_shape_slots(WeirJsonShape *shape)
{
	return shape->n_slots;
}

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
	while (p < end &&
		   (*p == ' ' || *p == '\n' || *p == '\r' || *p == '\t'))
		p++;
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

/* Looks a raw name up, in the slow way. */
static JsonName *
find_name(JsonLevel *level, const char *raw, uint32 len, bool escaped)
{
	JsonName   *name;
	char	   *plain = NULL;

	if (escaped)
	{
		WeirJsonFault ignored;
		int			plain_len;

		plain = palloc(len);
		plain_len = weir_json_unescape(raw, len, plain, &ignored);
		if (plain_len < 0)
		{
			/* not text, so not the name of a column */
			pfree(plain);
			return NULL;
		}
		raw = plain;
		len = plain_len;
	}
	for (name = level->first; name != NULL; name = name->next)
	{
		if (name->len == len && memcmp(name->text, raw, len) == 0)
			break;
	}
	if (plain != NULL)
		pfree(plain);
	return name;
}

static void
learn_guess(JsonLevel *level, int place, const char *raw, uint32 len,
			JsonName *name)
{
	JsonGuess  *guess = &level->guesses[place];

	memset(guess, 0, sizeof(JsonGuess));
	if (len < GUESS_BYTES)
	{
		/* the closing quote is in the message as well */
		guess->len = len + 1;
		memcpy(guess->text, raw, guess->len);
		memset(guess->mask, 0xFF, guess->len);
	}
	guess->name = name;
	if (place >= level->n_guesses)
		level->n_guesses = place + 1;
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
			name = find_name(level, start, p - start, escaped);
			if (place < GUESSES_MAX)
				learn_guess(level, place++, start, p - start, name);
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

/*
 * Unescaping, for strings that the scanner has accepted
 */

static uint32
hex4(const char *p)
{
	uint32		value = 0;
	int			i;

	for (i = 0; i < 4; i++)
	{
		char		c = p[i];

		value = value << 4 | (is_digit(c) ? c - '0' : (c | 0x20) - 'a' + 10);
	}
	return value;
}

static int
unescape_fault(WeirJsonFault *fault, int sqlstate, const char *reason)
{
	fault->sqlstate = sqlstate;
	fault->reason = reason;
	fault->offset = 0;
	return -1;
}

/*
 * Writes the text of an escaped string to out, which has room for len bytes,
 * in UTF-8 and without a terminator.  Returns its length in bytes, or -1 with
 * the fault filled: 22P05 for \u0000, 22P02 for a surrogate without its pair.
 */
int
weir_json_unescape(const char *raw, uint32 len, char *out,
				   WeirJsonFault *fault)
{
	const char *p = raw;
	const char *end = raw + len;
	char	   *o = out;

	while (p < end)
	{
		const char *backslash = memchr(p, '\\', end - p);
		uint32		c;

		if (backslash == NULL)
			backslash = end;
		memcpy(o, p, backslash - p);
		o += backslash - p;
		p = backslash;
		if (p >= end)
			break;

		p += 2;
		switch (p[-1])
		{
			case 'b':
				*o++ = '\b';
				break;
			case 'f':
				*o++ = '\f';
				break;
			case 'n':
				*o++ = '\n';
				break;
			case 'r':
				*o++ = '\r';
				break;
			case 't':
				*o++ = '\t';
				break;
			case 'u':
				c = hex4(p);
				p += 4;
				if (is_utf16_surrogate_first(c))
				{
					if (end - p < 6 || p[0] != '\\' || p[1] != 'u' ||
						!is_utf16_surrogate_second(hex4(p + 2)))
						return unescape_fault(fault, ERRCODE_INVALID_TEXT_REPRESENTATION,
											  "a high surrogate must be followed by a low one");
					c = surrogate_pair_to_codepoint(c, hex4(p + 2));
					p += 6;
				}
				else if (is_utf16_surrogate_second(c))
					return unescape_fault(fault, ERRCODE_INVALID_TEXT_REPRESENTATION,
										  "a low surrogate must follow a high one");
				if (c == 0)
					return unescape_fault(fault, ERRCODE_UNTRANSLATABLE_CHARACTER,
										  "\\u0000 cannot be converted to text");
				unicode_to_utf8(c, (unsigned char *) o);
				o += pg_utf_mblen((unsigned char *) o);
				break;
			default:
				*o++ = p[-1];	/* quote, backslash, slash */
				break;
		}
	}
	return o - out;
}
