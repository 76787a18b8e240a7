/*-------------------------------------------------------------------------
 *
 * fuzz_json.c
 *	  Random documents through our scanner and Postgres' parser.
 *
 * fuzz_json SEED ROUNDS.  Each round mutates the last document that was
 * accepted, or one of the seeds, and compares the verdict and the slice of
 * the wanted member "a"; documents lie at the end of an exact allocation, so
 * that ASan sees a read past them.  One shape lives through all rounds: what
 * it learned from one document must never show in the verdict on another.
 *
 *-------------------------------------------------------------------------
 */
#include "decode/decode_internal.h"

#include "utils/palloc.h"

extern bool oracle_accepts(const char *json, int len);
extern bool oracle_member(const char *json, int len,
						  const char **start, const char **end);

/* The little of the backend that the scanner asks for. */
MemoryContext CurrentMemoryContext = NULL;

void *
MemoryContextAllocZero(MemoryContext context, Size size)
{
	return calloc(1, size);
}

char *
MemoryContextStrdup(MemoryContext context, const char *string)
{
	return strdup(string);
}

#define MAX_LEN 400

static const char *const seeds[] = {
	"{}",
	"{\"a\":1}",
	"{\"b\": {\"c\": [1, 2.5e-3, {\"a\": null}], \"d\": \"x\"}, \"a\" : \"\\u00e9\\n\"}",
	"{\"a\":{\"a\":{\"a\":[[[]]]}},\"a\":[true,false,null,-0,0.1,1E9]}",
	"{\"a name that is longer than what a guess can hold\":\"0123456789abcdef0123456789abcdef\",\"a\":\"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\"}",
	" {\t\"x\"\n:\r[ ] , \"b\" : { } , \"a\" : \"\\ud83d\\ude00\\\"\\\\\" } ",
	"[{\"a\":1}]",
	"\"a\""
};

static const char *const pieces[] = {
	"{", "}", "[", "]", ",", ":", "\"", "\\", "\"a\"", "\"b\"", "\"a\":", "1", "-", "0", ".", "e", "+",
	"true", "false", "null", " ", "\n", "\\u", "\\u0000", "\\ud83d", "\\ude00", "\\u0061", "\x7f", "\x1f",
	"\xc3", "\xa9", "\xc3\xa9", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xc0\xaf", "\xff", "{\"b\":", "{}", "[]", "\"\""
};

static uint64 state;

static uint32
random_below(uint32 n)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return (uint32) ((state >> 11) % n);
}

static int
replace_bytes(char *buffer, int len, int at, int removed, const char *piece, int piece_len)
{
	if (len - removed + piece_len > MAX_LEN)
		return len;
	memmove(buffer + at + piece_len, buffer + at + removed, len - at - removed);
	memcpy(buffer + at, piece, piece_len);
	return len - removed + piece_len;
}

static int
mutate(char *buffer, int len)
{
	int			at = random_below(len + 1);
	char		byte = (char) random_below(256);
	const char *piece = pieces[random_below(lengthof(pieces))];
	char		copy[MAX_LEN];
	int			copied;

	switch (random_below(6))
	{
		case 0:
			return replace_bytes(buffer, len, at, at < len, "", 0);
		case 1:
			return replace_bytes(buffer, len, at, at < len, &byte, 1);
		case 2:
			return replace_bytes(buffer, len, at, 0, &byte, 1);
		case 3:
			return replace_bytes(buffer, len, at, at < len, piece, strlen(piece));
		case 4:
			return replace_bytes(buffer, len, at, 0, piece, strlen(piece));
		default:
			copied = random_below(Min(len - at, 40) + 1);
			memcpy(copy, buffer + at, copied);
			return replace_bytes(buffer, len, random_below(len + 1), 0, copy, copied);
	}
}

static void
complain(const char *what, const char *json, int len)
{
	fprintf(stderr, "%s: ", what);
	fwrite(json, 1, len, stderr);
	fputc('\n', stderr);
	exit(1);
}

int
main(int argc, char **argv)
{
	static const char *const path_a[] = {"a"};
	static const char *const path_bc[] = {"b", "c"};
	static const char *const path_b[] = {"b"};
	WeirJsonShape *shape = weir_json_shape_create();
	int			a = weir_json_shape_add(shape, path_a, 1);
	WeirJsonValue values[3];
	WeirJsonFault fault;
	char		good[MAX_LEN];
	int			good_len = 0;
	long		rounds = argc > 2 ? atol(argv[2]) : 1000000;
	long		accepted = 0;
	long		compared = 0;
	long		i;

	state = (argc > 1 ? atol(argv[1]) : 1) * UINT64CONST(0x9E3779B97F4A7C15);
	weir_json_shape_add(shape, path_bc, 2);
	weir_json_shape_add(shape, path_b, 1);
	weir_json_shape_finish(shape);
	a = weir_json_shape_slot(shape, a);

	for (i = 0; i < rounds; i++)
	{
		char		buffer[MAX_LEN];
		int			len;
		int			mutations = 1 + random_below(4);
		char	   *json;
		bool		ours;
		const char *start;
		const char *end;

		if (good_len == 0 || random_below(50) == 0)
		{
			const char *seed = seeds[random_below(lengthof(seeds))];

			good_len = strlen(seed);
			memcpy(good, seed, good_len);
		}
		memcpy(buffer, good, good_len);
		len = good_len;
		while (mutations-- > 0)
			len = mutate(buffer, len);
		json = malloc(len + 1);
		memcpy(json + 1, buffer, len);
		json = json + 1;

		ours = weir_json_scan(shape, json, len, values, &fault);
		if (ours != oracle_accepts(json, len))
			complain(ours ? "we accept" : "we refuse", json, len);
		if (ours)
		{
			accepted++;
			memcpy(good, buffer, len);
			good_len = len;
			if (oracle_member(json, len, &start, &end))
			{
				WeirJsonValue *value = &values[a];
				bool		quoted = value->kind == WEIR_JSON_STRING ||
				value->kind == WEIR_JSON_ESCAPED;

				compared++;
				if (start == NULL ? value->kind != WEIR_JSON_ABSENT :
					(value->kind == WEIR_JSON_ABSENT ||
					 value->start - quoted != start ||
					 value->start + value->len + quoted != end))
					complain("member differs", json, len);
				if (value->kind == WEIR_JSON_ESCAPED)
				{
					char	   *text = malloc(value->len);

					if (weir_json_unescape(value->start, value->len, text, &fault) < 0)
						complain("text refused", json, len);
					free(text);
				}
			}
		}
		free(json - 1);
	}
	printf("%ld documents, %ld accepted, %ld members compared, no difference\n",
		   rounds, accepted, compared);
	/* a run that accepts nothing has tested nothing */
	return accepted > rounds / 100 && compared > accepted / 4 ? 0 : 1;
}
