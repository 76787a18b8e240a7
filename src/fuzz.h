/*-------------------------------------------------------------------------
 *
 * fuzz.h
 *	  Test builds: bytes that nobody would send, and what came of them.
 *
 * A fuzzer is an SQL function (seed, first round, rounds) beside the code that
 * it drives: decode/fuzz_json.c and so on.  Each round makes one case, from
 * nothing but the seed and the number of the round (so that it can be run
 * alone), hands it to a parser, and compares with an oracle where there is one.
 * The function returns counts, so that a run that reached nothing shows; a
 * difference raises, with the bytes and the round.
 *
 *-------------------------------------------------------------------------
 */
#ifndef WEIR_FUZZ_H
#define WEIR_FUZZ_H

#include "postgres.h"

#ifdef WEIR_TEST

#include "lib/stringinfo.h"

typedef struct WeirFuzz
{
	uint64		state;
	int64		seed;
	int64		round;
	MemoryContext mcxt;			/* of one round */
} WeirFuzz;

/* Begins a run; its memory is a child of CurrentMemoryContext. */
extern void weir_fuzz_begin(WeirFuzz *fuzz, int64 seed);

/*
 * Begins a round: seeds it, empties its memory and switches to that.  Serves
 * interrupts.
 */
extern void weir_fuzz_round(WeirFuzz *fuzz, int64 round);

/* The caller's context again. */
extern void weir_fuzz_end(WeirFuzz *fuzz);

extern uint64 weir_fuzz_word(WeirFuzz *fuzz);

/* 0 to n - 1 */
extern uint32 weir_fuzz_below(WeirFuzz *fuzz, uint32 n);

/* One of n; for lists of strings. */
#define weir_fuzz_one_of(fuzz, list) \
	((list)[weir_fuzz_below((fuzz), lengthof(list))])

/* A number that is often small, often near a power of two, seldom anything. */
extern uint64 weir_fuzz_number(WeirFuzz *fuzz);

/*
 * Changes bytes in place: one to four times a byte, a piece of the list, a
 * slice of itself, or nothing where something was.  Keeps len <= room.
 */
extern void weir_fuzz_mutate(WeirFuzz *fuzz, StringInfo bytes, int room,
							 const char *const *pieces, int n_pieces);

/*
 * A copy that ends where its memory ends, so that a sanitizer sees a read
 * past it; aligned to MAXALIGN.
 */
extern char *weir_fuzz_exact(const char *bytes, Size len);

/* Raises a difference, with the case in hex. */
extern void weir_fuzz_differs(const WeirFuzz *fuzz, const char *what,
							  const char *bytes, Size len);

#endif							/* WEIR_TEST */
#endif							/* WEIR_FUZZ_H */
