/*-------------------------------------------------------------------------
 *
 * json_shape.h
 *	  What is wanted of a JSON document, between json_shape.c, which builds
 *	  it, and json_scan.c, which follows it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef WEIR_JSON_SHAPE_H
#define WEIR_JSON_SHAPE_H

#include "decode/decode_internal.h"

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

extern JsonName *weir_json_find_name(JsonLevel *level, const char *raw,
									 uint32 len, bool escaped);
extern void weir_json_learn_guess(JsonLevel *level, int place, const char *raw,
								  uint32 len, JsonName *name);

#endif							/* WEIR_JSON_SHAPE_H */
