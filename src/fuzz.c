/*-------------------------------------------------------------------------
 *
 * fuzz.c
 *	  Test builds: where the cases of the fuzzers come from.
 *
 * Random numbers, mutations, and the report of a difference.  Knows no format:
 * what a case begins as, and which pieces are worth putting into it, is the
 * fuzzers' own knowledge.
 *
 *-------------------------------------------------------------------------
 */
#include "fuzz.h"

#ifdef WEIR_TEST

#include "miscadmin.h"
#include "utils/memutils.h"

/* So many rounds share a memory before it is emptied. */
#define ROUNDS_PER_RESET 64

static MemoryContext caller;

void
weir_fuzz_begin(WeirFuzz *fuzz, int64 seed)
{
	fuzz->seed = seed;
	fuzz->round = 0;
	fuzz->mcxt = AllocSetContextCreate(CurrentMemoryContext, "pg_weir fuzz",
									   ALLOCSET_DEFAULT_SIZES);
	caller = MemoryContextSwitchTo(fuzz->mcxt);
}

/* splitmix64, by Sebastiano Vigna */
uint64
weir_fuzz_word(WeirFuzz *fuzz)
{
	uint64		z = (fuzz->state += UINT64CONST(0x9E3779B97F4A7C15));

	z = (z ^ (z >> 30)) * UINT64CONST(0xBF58476D1CE4E5B9);
	z = (z ^ (z >> 27)) * UINT64CONST(0x94D049BB133111EB);
	return z ^ (z >> 31);
}

void
weir_fuzz_round(WeirFuzz *fuzz, int64 round)
{
	CHECK_FOR_INTERRUPTS();
	MemoryContextSwitchTo(fuzz->mcxt);
	if (round % ROUNDS_PER_RESET == 0)
		MemoryContextReset(fuzz->mcxt);
	fuzz->round = round;
	fuzz->state = (uint64) fuzz->seed;
	fuzz->state = weir_fuzz_word(fuzz) ^ (uint64) round;
	(void) weir_fuzz_word(fuzz);
}

void
weir_fuzz_end(WeirFuzz *fuzz)
{
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(fuzz->mcxt);
}

uint32
weir_fuzz_below(WeirFuzz *fuzz, uint32 n)
{
	return (uint32) ((weir_fuzz_word(fuzz) >> 32) * n >> 32);
}

uint64
weir_fuzz_number(WeirFuzz *fuzz)
{
	switch (weir_fuzz_below(fuzz, 4))
	{
		case 0:
			return weir_fuzz_below(fuzz, 4);
		case 1:
			return weir_fuzz_below(fuzz, 300);
		case 2:
			return (UINT64CONST(1) << weir_fuzz_below(fuzz, 64)) +
				weir_fuzz_below(fuzz, 3) - 1;
		default:
			return weir_fuzz_word(fuzz);
	}
}

static void
replace_bytes(StringInfo bytes, int at, int removed, const char *piece,
			  int piece_len, int room)
{
	if (bytes->len - removed + piece_len > room)
		return;
	enlargeStringInfo(bytes, piece_len);
	memmove(bytes->data + at + piece_len, bytes->data + at + removed,
			bytes->len - at - removed);
	memcpy(bytes->data + at, piece, piece_len);
	bytes->len += piece_len - removed;
	bytes->data[bytes->len] = '\0';
}

static void
mutate_once(WeirFuzz *fuzz, StringInfo bytes, int room,
			const char *const *pieces, int n_pieces)
{
	int			at = weir_fuzz_below(fuzz, bytes->len + 1);
	int			removed = at < bytes->len ? 1 : 0;
	char		byte = (char) weir_fuzz_below(fuzz, 256);
	const char *piece = n_pieces > 0 ?
		pieces[weir_fuzz_below(fuzz, n_pieces)] : "";
	char		copy[40];
	int			copied;

	switch (weir_fuzz_below(fuzz, n_pieces > 0 ? 7 : 5))
	{
		case 0:
			replace_bytes(bytes, at, removed, "", 0, room);
			break;
		case 1:
			replace_bytes(bytes, at, removed, &byte, 1, room);
			break;
		case 2:
			replace_bytes(bytes, at, 0, &byte, 1, room);
			break;
		case 3:
			copied = weir_fuzz_below(fuzz, Min(bytes->len - at, (int) sizeof(copy)) + 1);
			memcpy(copy, bytes->data + at, copied);
			replace_bytes(bytes, weir_fuzz_below(fuzz, bytes->len + 1), 0,
						  copy, copied, room);
			break;
		case 4:
			/* one bit, or all that is behind */
			if (removed == 0)
				break;
			if (weir_fuzz_below(fuzz, 8) == 0)
				replace_bytes(bytes, at, bytes->len - at, "", 0, room);
			else
				bytes->data[at] ^= 1 << weir_fuzz_below(fuzz, 8);
			break;
		case 5:
			replace_bytes(bytes, at, removed, piece, strlen(piece), room);
			break;
		default:
			replace_bytes(bytes, at, 0, piece, strlen(piece), room);
			break;
	}
}

void
weir_fuzz_mutate(WeirFuzz *fuzz, StringInfo bytes, int room,
				 const char *const *pieces, int n_pieces)
{
	int			times = 1 + weir_fuzz_below(fuzz, 4);

	while (times-- > 0)
		mutate_once(fuzz, bytes, room, pieces, n_pieces);
}

/* Of palloc's memory the end is known to the byte where its size is a multiple
 * of MAXALIGN, which is why the copy is set to the end. */
char *
weir_fuzz_exact(const char *bytes, Size len)
{
	char	   *copy = palloc(Max(len, 1));

	memcpy(copy, bytes, len);
	return copy;
}

void
weir_fuzz_differs(const WeirFuzz *fuzz, const char *what, const char *bytes,
				  Size len)
{
	StringInfoData hex;
	MemoryContext old = MemoryContextSwitchTo(caller);

	initStringInfo(&hex);
	for (Size i = 0; i < len; i++)
		appendStringInfo(&hex, "%02x", (unsigned char) bytes[i]);
	MemoryContextSwitchTo(old);
	elog(ERROR, "seed " INT64_FORMAT " round " INT64_FORMAT ": %s: \\x%s",
		 fuzz->seed, fuzz->round, what, hex.data);
}

#endif							/* WEIR_TEST */
