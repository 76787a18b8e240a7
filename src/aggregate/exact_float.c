/*-------------------------------------------------------------------------
 *
 * exact_float.c
 *	  Sum and avg of floats, exact also when rows are taken back.
 *
 * A double is an integer times a power of two, so a sum of doubles is an
 * integer, too, in units of the least of them, 2^-1074: of 2,161 bits if 2^63
 * rows are the greatest double.  It is kept as digits of 32 bits in chunks of
 * 64, signed, that have room for the carries of a billion additions: a
 * superaccumulator (R. M. Neal, Fast exact summation using small and large
 * superaccumulators, 2015, arXiv:1505.05571).  Nothing is lost in it, so what
 * is taken back leaves no trace, be it 1e308 or the least denormal; finish
 * rounds once, to nearest, ties to even.
 *
 * All chunks would be 560 bytes a group, of which a group's values touch two or
 * three.  So a group holds a *window* of six, which covers 192 bits: doubles of
 * a range of 10^40.  It moves where the values are, as long as they fit.  What
 * does not fit goes to all the chunks, in the value store (`wide`), with
 * the counts of NaN and infinities, which are as rare; the sum is that of both.
 * Both are stored without the chunks that are zero.
 *
 * A row costs what it costs in the compensated sum of sums.c (10,000 groups: 100
 * ns, the look-up of the group and count(*) included).
 *
 *-------------------------------------------------------------------------
 */
#include "aggregate/aggregate.h"

#include <float.h>
#include <math.h>

#include "port/pg_bitutils.h"

/* Chunk 0 begins with the bit that is worth 2^-1074. */
#define LEAST_EXPONENT (-1074)
#define CHUNKS 70
#define WINDOW 6

/* Digits of a product of a mantissa, a count of 32 bits and a shift. */
#define PRODUCT_DIGITS 4

#define MANTISSA_BITS 53
#define FLOAT4_MANTISSA_BITS 24
#define FLOAT4_LEAST_EXPONENT (-149)

typedef struct ExactSum
{
	int64		n;				/* values, all kinds */
	WeirValueRef wide;			/* of a Wide; 0: none */
	int64		base;			/* chunk that the window begins with */
	int64		window[WINDOW];
} ExactSum;

typedef struct Wide
{
	int64		nans;
	int64		plus_infinities;
	int64		minus_infinities;
	int64		minus_zeros;	/* a sum of nothing else is -0 */
	int64		chunks[CHUNKS];
} Wide;

#define WIDE_WORDS (sizeof(Wide) / sizeof(int64))

static void
exact_sum_init(const WeirState *state, char *words)
{
	memset(words, 0, sizeof(ExactSum));
}

/* ---------------------------------------------------------------- chunks */

/* Is it time to carry?  Another digit and its carry always fit till then. */
static inline bool
crowded(int64 chunk)
{
	return (uint64) chunk + (UINT64CONST(1) << 62) >= UINT64CONST(1) << 63;
}

/* Carries, so that all chunks but the last are digits of 0 to 2^32 - 1. */
static void
carry(int64 *chunks, int n)
{
	for (int i = 0; i < n - 1; i++)
	{
		int64		over = chunks[i] >> 32;

		chunks[i] -= over * (INT64CONST(1) << 32);
		chunks[i + 1] += over;
	}
}

/* Carries so that all digits have the sign of the sum: the fewest chunks. */
static bool
settle(int64 *chunks, int n)
{
	bool		negative;

	carry(chunks, n);
	negative = chunks[n - 1] < 0;
	if (negative)
	{
		for (int i = 0; i < n; i++)
			chunks[i] = -chunks[i];
		carry(chunks, n);
		for (int i = 0; i < n; i++)
			chunks[i] = -chunks[i];
	}
	return negative;
}

static Wide *
wide_of(const WeirState *state, ExactSum *sum)
{
	if (sum->wide == 0)
	{
		Wide		none = {0};

		sum->wide = weir_value_put(state->store, &none, sizeof(none));
	}
	return (Wide *) weir_value_edit(state->store, sum->wide);
}

static const Wide *
read_wide(const WeirState *state, const ExactSum *sum)
{
	Size		len;

	return (const Wide *) weir_value_get(state->store, sum->wide, &len);
}

/* delta is a digit, with a sign. */
static void
add_to_wide(const WeirState *state, ExactSum *sum, int chunk, int64 delta)
{
	Wide	   *wide = wide_of(state, sum);

	wide->chunks[chunk] += delta;
	if (unlikely(crowded(wide->chunks[chunk])))
		carry(wide->chunks, CHUNKS);
}

/* Carries in the window, and what it has no room for to `wide`. */
static void
carry_window(const WeirState *state, ExactSum *sum)
{
	int64	   *top = &sum->window[WINDOW - 1];
	int64		over;

	carry(sum->window, WINDOW);
	/* 2^63 rows do not fill the last chunk of all */
	if (!crowded(*top) || sum->base + WINDOW == CHUNKS)
		return;
	(void) wide_of(state, sum); /* this may raise, and then nothing is lost */
	over = *top >> 32;
	*top -= over * (INT64CONST(1) << 32);
	add_to_wide(state, sum, sum->base + WINDOW, over);
}

/*
 * Moves the window so that it covers chunks low to high and what is in it;
 * false if that is too much.
 */
static bool
move_window(ExactSum *sum, int low, int high)
{
	int64		moved[WINDOW] = {0};
	int			first = 0;
	int			last = WINDOW - 1;
	int			base;

	settle(sum->window, WINDOW);
	while (first < WINDOW && sum->window[first] == 0)
		first++;
	while (last >= 0 && sum->window[last] == 0)
		last--;
	if (first <= last)
	{
		low = Min(low, (int) sum->base + first);
		high = Max(high, (int) sum->base + last);
	}
	if (high - low >= WINDOW)
		return false;
	/* values reach down further than sums grow; but leave some room above */
	base = first <= last ? low - (WINDOW - 1 - (high - low)) / 2 :
		Min(low, high - (WINDOW - 3));
	base = Max(Min(base, CHUNKS - WINDOW), 0);
	for (int i = first; i <= last; i++)
		moved[sum->base + i - base] = sum->window[i];
	memcpy(sum->window, moved, sizeof(moved));
	sum->base = base;
	return true;
}

/* Adds n digits, the lowest first, from a chunk on. */
static inline void
add_digits(const WeirState *state, ExactSum *sum, int chunk,
		   const int64 *digits, int n)
{
	bool		full = false;
	int64	   *at;

	if (unlikely(chunk < sum->base || chunk + n > sum->base + WINDOW) &&
		!move_window(sum, chunk, chunk + n - 1))
	{
		for (int i = 0; i < n; i++)
			add_to_wide(state, sum, chunk + i, digits[i]);
		return;
	}
	at = &sum->window[chunk - sum->base];
	for (int i = 0; i < n; i++)
	{
		at[i] += digits[i];
		full |= crowded(at[i]);
	}
	if (unlikely(full))
		carry_window(state, sum);
}

/* Adds mantissa * times, from a bit on; times is below 2^32. */
static inline void
add_product(const WeirState *state, ExactSum *sum, bool negative,
			uint64 mantissa, int bit, uint64 times)
{
	unsigned __int128 product = ((unsigned __int128) mantissa * times) << (bit & 31);
	int64		digits[PRODUCT_DIGITS];
	int			n = 0;

	for (; product != 0; product >>= 32)
		digits[n++] = negative ? -(int64) (uint32) product :
			(int64) (uint32) product;
	add_digits(state, sum, bit >> 5, digits, n);
}

/* ---------------------------------------------------------------- values */

static void
add_special(const WeirState *state, ExactSum *sum, double value, int64 diff)
{
	Wide	   *wide = wide_of(state, sum);

	if (isnan(value))
		wide->nans += diff;
	else if (value == 0)
		wide->minus_zeros += diff;
	else if (value > 0)
		wide->plus_infinities += diff;
	else
		wide->minus_infinities += diff;
}

static inline void
add_value(const WeirState *state, ExactSum *sum, double value, int64 diff)
{
	uint64		bits;
	uint64		mantissa;
	int			exponent;
	int			zeros;
	bool		negative;
	uint64		times;

	sum->n += diff;
	memcpy(&bits, &value, sizeof(bits));
	mantissa = bits & ((UINT64CONST(1) << (MANTISSA_BITS - 1)) - 1);
	exponent = (int) (bits >> (MANTISSA_BITS - 1)) & 0x7FF;
	if (unlikely(exponent == 0x7FF ||
				 bits == UINT64CONST(1) << 63))
	{
		add_special(state, sum, value, diff);
		return;
	}
	if (exponent > 0)
	{
		mantissa |= UINT64CONST(1) << (MANTISSA_BITS - 1);
		exponent--;				/* now the bit that the mantissa begins at */
	}
	if (mantissa == 0 || diff == 0)
		return;
	zeros = pg_rightmost_one_pos64(mantissa);
	mantissa >>= zeros;
	exponent += zeros;
	negative = ((bits >> 63) != 0) != (diff < 0);
	times = diff < 0 ? -(uint64) diff : (uint64) diff;
	if ((uint32) times != 0)
		add_product(state, sum, negative, mantissa, exponent, (uint32) times);
	if (unlikely(times >> 32 != 0))
		add_product(state, sum, negative, mantissa, exponent + 32, times >> 32);
}

static void
exact_sum_advance(const WeirState *state, char **words, const Datum *values,
				  const bool *nulls, const int64 *diffs, int n)
{
	for (int i = 0; i < n; i++)
		if (!nulls[i])
			add_value(state, (ExactSum *) words[i],
					  state->typlen == 4 ? DatumGetFloat4(values[i]) :
					  DatumGetFloat8(values[i]),
					  diffs == NULL ? 1 : diffs[i]);
}

static void
exact_sum_merge(const WeirState *state, char *words, const char *from)
{
	ExactSum   *sum = (ExactSum *) words;
	ExactSum	other = *(const ExactSum *) from;

	sum->n += other.n;
	settle(other.window, WINDOW);
	for (int i = 0; i < WINDOW; i++)
	{
		/* the last one may be of more than a digit */
		int64		high = other.window[i] / (INT64CONST(1) << 32);
		int64		low = other.window[i] % (INT64CONST(1) << 32);

		if (low != 0)
			add_digits(state, sum, (int) other.base + i, &low, 1);
		if (high != 0)
			add_digits(state, sum, (int) other.base + i + 1, &high, 1);
	}
	if (other.wide != 0)
	{
		Wide		more = *read_wide(state, &other);
		Wide	   *wide = wide_of(state, sum);

		settle(more.chunks, CHUNKS);
		wide->nans += more.nans;
		wide->plus_infinities += more.plus_infinities;
		wide->minus_infinities += more.minus_infinities;
		wide->minus_zeros += more.minus_zeros;
		for (int i = 0; i < CHUNKS; i++)
			if (more.chunks[i] != 0)
				add_to_wide(state, sum, i, more.chunks[i]);
	}
}

/* --------------------------------------------------------------- results */

/*
 * The double nearest to the digits, with so many bits in its mantissa and none
 * below `least`, a power of two.
 */
static double
round_digits(const int64 *chunks, int mantissa_bits, int least)
{
	int			top = CHUNKS - 1;
	int			low;			/* bit that the mantissa begins at */
	uint64		mantissa = 0;
	bool		sticky = false;

#define BIT(at) ((uint64) chunks[(at) >> 5] >> ((at) & 31) & 1)

	while (top >= 0 && chunks[top] == 0)
		top--;
	if (top < 0)
		return 0;
	top = top * 32 + pg_leftmost_one_pos64(chunks[top]);
	low = Max(top - mantissa_bits + 1, least - LEAST_EXPONENT);
	for (int at = top; at >= low; at--)
		mantissa = mantissa << 1 | BIT(at);
	if (low > 0 && BIT(low - 1))
	{
		for (int at = low - 2; at >= 0 && !sticky; at--)
			sticky = BIT(at);
		if (sticky || (mantissa & 1) != 0)
			mantissa++;
	}
#undef BIT
	return ldexp((double) mantissa, low + LEAST_EXPONENT);
}

/* The sum of at least one value.  Raises as Postgres does on overflow. */
static double
exact_total(const WeirState *state, const ExactSum *sum,
			int mantissa_bits, int least)
{
	Wide		all = {0};
	bool		negative;
	double		total;

	if (sum->wide != 0)
		all = *read_wide(state, sum);
	if (all.nans > 0 ||
		(all.plus_infinities > 0 && all.minus_infinities > 0))
		return NAN;
	if (all.plus_infinities > 0)
		return INFINITY;
	if (all.minus_infinities > 0)
		return -INFINITY;
	if (all.minus_zeros == sum->n)
		return -0.0;
	for (int i = 0; i < WINDOW; i++)
		all.chunks[sum->base + i] += sum->window[i];
	negative = settle(all.chunks, CHUNKS);
	if (negative)
		for (int i = 0; i < CHUNKS; i++)
			all.chunks[i] = -all.chunks[i];
	/* no rows lead to more than a digit there, but a damaged state may */
	if ((uint64) all.chunks[CHUNKS - 1] > PG_UINT32_MAX)
		total = INFINITY;
	else
		total = round_digits(all.chunks, mantissa_bits, least);
	if (total > (mantissa_bits == MANTISSA_BITS ? DBL_MAX : FLT_MAX))
		ereport(ERROR,
				(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
				 errmsg("value out of range: overflow")));
	return negative ? -total : total;
}

Datum
weir_exact_sum_float8(const WeirState *state, const char *words, bool *isnull)
{
	const ExactSum *sum = (const ExactSum *) words;

	*isnull = sum->n == 0;
	return *isnull ? (Datum) 0 :
		Float8GetDatum(exact_total(state, sum, MANTISSA_BITS, LEAST_EXPONENT));
}

/* Rounded to a float4 at once: by way of a double it would round twice. */
Datum
weir_exact_sum_float4(const WeirState *state, const char *words, bool *isnull)
{
	const ExactSum *sum = (const ExactSum *) words;

	*isnull = sum->n == 0;
	return *isnull ? (Datum) 0 :
		Float4GetDatum((float4) exact_total(state, sum, FLOAT4_MANTISSA_BITS,
											FLOAT4_LEAST_EXPONENT));
}

/* Postgres adds to a 0 here, so that an average is never -0 for a sum of -0. */
Datum
weir_exact_avg(const WeirState *state, const char *words, bool *isnull)
{
	const ExactSum *sum = (const ExactSum *) words;

	*isnull = sum->n == 0;
	return *isnull ? (Datum) 0 :
		Float8GetDatum((0.0 + exact_total(state, sum, MANTISSA_BITS,
										  LEAST_EXPONENT)) / (double) sum->n);
}

/* -------------------------------------------------------- stored, freed */

/* Of `wide`: how many of its words are not zero, and each with its place. */
static void
exact_sum_save(const WeirState *state, const char *words, StringInfo out)
{
	const ExactSum *sum = (const ExactSum *) words;
	int			at = out->len;
	uint16		n = 0;
	Wide		wide;

	appendBinaryStringInfo(out, (const char *) &n, sizeof(n));
	if (sum->wide == 0)
		return;
	wide = *read_wide(state, sum);
	settle(wide.chunks, CHUNKS);
	for (uint16 i = 0; i < WIDE_WORDS; i++)
	{
		int64		word = ((const int64 *) &wide)[i];

		if (word == 0)
			continue;
		appendBinaryStringInfo(out, (const char *) &i, sizeof(i));
		appendBinaryStringInfo(out, (const char *) &word, sizeof(word));
		n++;
	}
	memcpy(out->data + at, &n, sizeof(n));
}

static const char *
exact_sum_load(const WeirState *state, char *words,
			   const char *in, const char *end)
{
	ExactSum   *sum = (ExactSum *) words;
	Wide		wide = {0};
	uint16		n;

	sum->wide = 0;
	if (end - in < (ptrdiff_t) sizeof(n) ||
		sum->base < 0 || sum->base > CHUNKS - WINDOW)
		return NULL;
	memcpy(&n, in, sizeof(n));
	in += sizeof(n);
	if (end - in < (ptrdiff_t) (n * (sizeof(uint16) + sizeof(int64))))
		return NULL;
	for (int i = 0; i < n; i++)
	{
		uint16		place;

		memcpy(&place, in, sizeof(place));
		if (place >= WIDE_WORDS)
			return NULL;
		memcpy((int64 *) &wide + place, in + sizeof(place), sizeof(int64));
		in += sizeof(place) + sizeof(int64);
	}
	if (n > 0)
		sum->wide = weir_value_put(state->store, &wide, sizeof(wide));
	return in;
}

static void
exact_sum_release(const WeirState *state, char *words)
{
	ExactSum   *sum = (ExactSum *) words;

	if (sum->wide != 0)
		weir_value_free(state->store, sum->wide);
	sum->wide = 0;
}

const WeirStateOps weir_exact_sum = {
	.name = "exact float sum", .size = sizeof(ExactSum),
	.by_reference = true, .retracts = true,
	.init = exact_sum_init, .advance = exact_sum_advance,
	.merge = exact_sum_merge, .save = exact_sum_save, .load = exact_sum_load,
	.release = exact_sum_release
};
