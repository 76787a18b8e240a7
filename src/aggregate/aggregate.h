/*-------------------------------------------------------------------------
 *
 * aggregate.h
 *	  Transition states of pg_weir's own: exact, of fixed size, in place.
 *
 * An aggregate call of Q is served by a *state*; calls that fold the same
 * values in the same way (sum(x) and avg(x)) share one.  A state is a few words
 * inside a group.  A state that must hold a value by reference (the least
 * text, a numeric beyond 128 bits) owns one allocation in the value store and
 * keeps its reference in those words.
 *
 * The contract, in the order of a state's life:
 *
 *	init		a fresh state, of no rows
 *	advance		folds one value into each of n states: diffs[i] times, which is
 *				negative for a row that is taken back.  diffs is NULL when all
 *				are 1, and always so for a state without `retracts`
 *	merge		folds another state of the same kind into this one.  Either
 *				may be of more rows taken back than given, until all is merged
 *	compose		like merge, but takes over no more than what finish needs; what it
 *				is folded into is only composed, finished and released.  NULL
 *				where merge does no more
 *	finish		the aggregate's result
 *	save, load	the by-reference part as bytes; the fixed part is copied
 *				as it stands, and load() puts new references in it
 *	release		frees the by-reference part
 *
 * advance() and merge() may raise only where a comparison of the type does, or
 * when shared memory is short; a caller that sees advance() raise throws the
 * whole table away and loads it again from the last commit.  Whatever raises,
 * load() included: release() works on what it leaves.
 *
 *-------------------------------------------------------------------------
 */
#ifndef WEIR_AGGREGATE_H
#define WEIR_AGGREGATE_H

#include "weir.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "nodes/primnodes.h"

/*
 * Where by-reference values of states live; state/value_store.c has one.
 * bytes NULL: the caller writes them.  A pointer is valid until the value is
 * freed.
 */
typedef uint64 WeirValueRef;

typedef struct WeirValueStore WeirValueStore;
extern WeirValueRef weir_value_put(WeirValueStore *store,
								   const void *bytes, Size len);
extern const char *weir_value_get(WeirValueStore *store,
								  WeirValueRef ref, Size *len);
extern char *weir_value_edit(WeirValueStore *store, WeirValueRef ref);
extern void weir_value_free(WeirValueStore *store, WeirValueRef ref);

typedef struct WeirState WeirState;

typedef struct WeirStateOps
{
	const char *name;			/* for weir.explain and messages */
	Size		size;			/* bytes in the group, a multiple of 8 */
	bool		by_reference;	/* has save, load and release */
	bool		retracts;		/* exact also when rows are taken back */
	void		(*init) (const WeirState *state, char *words);
	void		(*advance) (const WeirState *state, char **words,
							const Datum *values, const bool *nulls,
							const int64 *diffs, int n);
	void		(*merge) (const WeirState *state, char *words,
						  const char *from);
	void		(*compose) (const WeirState *state, char *words,
							const char *from);
	void		(*save) (const WeirState *state, const char *words,
						 StringInfo out);
	const char *(*load) (const WeirState *state, char *words,
						 const char *in, const char *end);
	void		(*release) (const WeirState *state, char *words);
} WeirStateOps;

struct WeirState
{
	const WeirStateOps *ops;
	Size		offset;			/* of the words, within a group's states */
	WeirValueStore *store;
	Oid			arg_type;
	Oid			collation;
	int16		typlen;
	bool		typbyval;
	bool		least;			/* min (else max), of extreme.c's */
	FmgrInfo	compare;		/* btree comparison, of the general states of
								 * extreme.c and multiset.c */
};

/* How a call's result comes out of its state's words. */
typedef Datum (*WeirFinish) (const WeirState *state, const char *words,
							 bool *isnull);

/* What serves a call: NULL ops when this release cannot keep it exactly. */
typedef struct WeirClass
{
	const WeirStateOps *ops;
	WeirFinish	finish;
	bool		least;
} WeirClass;

/*
 * retracts: rows of the source can be taken back, so the state must be exact
 * then, too.
 */
extern WeirClass weir_classify(const Aggref *aggref, bool retracts);

/* True when this release can keep the aggregate call in a continuous view. */
extern bool weir_aggregate_supported(const Aggref *aggref);

/*
 * Makes state ready for the call: catalog look-ups, in CurrentMemoryContext.
 */
extern void weir_state_prepare(WeirState *state, const WeirClass *class_,
							   const Aggref *aggref, WeirValueStore *store);

/*
 * Are these bytes, which may lie anywhere, as long as they say as a value of a
 * type?  Asked of what was stored: a varlena is plain, as we store them.  What
 * is in the value is the type's own affair.
 */
static inline bool
weir_value_has_length(bool typbyval, int16 typlen, const char *bytes, Size len)
{
	uint32		header;

	if (typbyval)
		return len == sizeof(Datum);
	if (typlen >= 0)
		return len == (Size) typlen;
	if (typlen == -2)
		return len > 0 && strnlen(bytes, len) == len - 1;
	if (len < VARHDRSZ)
		return false;
	memcpy(&header, bytes, sizeof(header));
	return VARATT_IS_4B_U(&header) && VARSIZE(&header) == len;
}

/* sums.c: count, and sums and averages over integers, money and floats */
extern const WeirStateOps weir_count_any;
extern const WeirStateOps weir_count_rows;
extern const WeirStateOps weir_int_sum;
extern const WeirStateOps weir_float_sum;
extern const WeirStateOps weir_interval_sum;
extern Datum weir_count_finish(const WeirState *, const char *, bool *);
extern Datum weir_int_sum_int8(const WeirState *, const char *, bool *);
extern Datum weir_int_sum_numeric(const WeirState *, const char *, bool *);
extern Datum weir_int_avg(const WeirState *, const char *, bool *);
extern Datum weir_float_sum_float4(const WeirState *, const char *, bool *);
extern Datum weir_float_sum_float8(const WeirState *, const char *, bool *);
extern Datum weir_float_avg(const WeirState *, const char *, bool *);
extern Datum weir_interval_sum_finish(const WeirState *, const char *, bool *);
extern Datum weir_interval_avg(const WeirState *, const char *, bool *);

/* exact_float.c: sums and averages of floats whose rows can be taken back */
extern const WeirStateOps weir_exact_sum;
extern Datum weir_exact_sum_float4(const WeirState *, const char *, bool *);
extern Datum weir_exact_sum_float8(const WeirState *, const char *, bool *);
extern Datum weir_exact_avg(const WeirState *, const char *, bool *);

/* numeric_sum.c */
extern const WeirStateOps weir_numeric_sum;
extern const WeirStateOps weir_numeric_exact;	/* with retraction */
extern Datum weir_numeric_sum_finish(const WeirState *, const char *, bool *);
extern Datum weir_numeric_avg(const WeirState *, const char *, bool *);
extern Datum weir_int128_numeric(int128 value);

/* extreme.c: min and max */
extern const WeirStateOps weir_extreme_signed;
extern const WeirStateOps weir_extreme_unsigned;
extern const WeirStateOps weir_extreme_float4;
extern const WeirStateOps weir_extreme_float8;
extern const WeirStateOps weir_extreme_general;
extern Datum weir_extreme_finish(const WeirState *, const char *, bool *);
extern Datum weir_extreme_general_finish(const WeirState *, const char *,
										 bool *);

/* multiset.c: min and max whose rows can be taken back */
extern const WeirStateOps weir_multiset_signed;
extern const WeirStateOps weir_multiset_unsigned;
extern const WeirStateOps weir_multiset_float4;
extern const WeirStateOps weir_multiset_float8;
extern const WeirStateOps weir_multiset_general;
extern Datum weir_multiset_min(const WeirState *, const char *, bool *);
extern Datum weir_multiset_max(const WeirState *, const char *, bool *);

#endif							/* WEIR_AGGREGATE_H */
