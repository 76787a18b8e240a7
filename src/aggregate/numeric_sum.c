/*-------------------------------------------------------------------------
 *
 * numeric_sum.c
 *	  sum and avg over numeric, exact, mostly without numeric arithmetic.
 *
 * A numeric is a list of base-10000 digits.  Nearly all that are ever summed
 * (prices, amounts, measurements) fit an integer of 128 bits once their
 * fraction is scaled to whole digits, and adding integers takes a nanosecond
 * where numeric_add and its palloc take a hundred.  So the state is such an
 * integer with its scale; a value or a sum that does not fit goes to `wide`, an
 * ordinary numeric in the value store, through numeric_add.  The result is the
 * sum of both, with the greatest display scale that was seen, as in Postgres.
 *
 * The layout of a numeric on disk is read and written here (it is not in a
 * header of the server, but it cannot change without breaking pg_upgrade):
 *
 *	header word		11......	special: NaN 0xC000, Inf 0xD000, -Inf 0xF000
 *					10sddddd dwwwwwww	short: sign, display scale, weight
 *					0s......	long: sign, display scale; a weight word follows
 *	digits			int16, base 10000, the first worth 10000^weight
 *
 *-------------------------------------------------------------------------
 */
#include "aggregate/aggregate.h"

#include "utils/fmgrprotos.h"
#include "utils/numeric.h"

#define BASE 10000

#define HEADER_KIND(h) ((h) & 0xC000)
#define HEADER_SHORT 0x8000
#define HEADER_SPECIAL 0xC000
#define HEADER_NAN 0xC000
#define HEADER_PLUS_INFINITY 0xD000
#define LONG_NEGATIVE 0x4000
#define LONG_SCALE_MASK 0x3FFF
#define SHORT_NEGATIVE 0x2000
#define SHORT_SCALE_MASK 0x1F80
#define SHORT_SCALE_SHIFT 7
#define SHORT_WEIGHT_SIGN 0x0040
#define SHORT_WEIGHT_MASK 0x003F

/* Digits behind the point that the integer may carry. */
#define MAX_FRACTION 4

/* Digits that surely fit 128 bits: 10000^9 = 10^36 < 2^127. */
#define MAX_DIGITS 9

typedef struct NumericSum
{
	int64		n;				/* all values, special ones included */
	int128		sum;			/* in units of 10000^-fraction */
	int32		fraction;
	int32		scale;			/* greatest display scale of a finite value */
	int64		nans;
	int64		plus_infinities;
	int64		minus_infinities;
	WeirValueRef wide;			/* 0: none */
} NumericSum;

/* A numeric taken apart, without copying its digits. */
typedef struct Parts
{
	bool		special;
	uint16		header;
	bool		negative;
	int			scale;
	int			weight;
	int			n_digits;
	const int16 *digits;
} Parts;

static void
take_apart(struct varlena *value, Parts *parts)
{
	char	   *data = VARDATA_ANY(value);
	int			len = VARSIZE_ANY_EXHDR(value);
	uint16		header;
	int			header_len;

	memcpy(&header, data, sizeof(header));
	parts->header = header;
	parts->special = HEADER_KIND(header) == HEADER_SPECIAL;
	if (parts->special)
		return;
	if (HEADER_KIND(header) == HEADER_SHORT)
	{
		header_len = sizeof(uint16);
		parts->negative = (header & SHORT_NEGATIVE) != 0;
		parts->scale = (header & SHORT_SCALE_MASK) >> SHORT_SCALE_SHIFT;
		parts->weight = (header & SHORT_WEIGHT_SIGN) ?
			(int) (header & SHORT_WEIGHT_MASK) - SHORT_WEIGHT_MASK - 1 :
			(int) (header & SHORT_WEIGHT_MASK);
	}
	else
	{
		int16		weight;

		header_len = sizeof(uint16) + sizeof(int16);
		memcpy(&weight, data + sizeof(uint16), sizeof(weight));
		parts->negative = (header & LONG_NEGATIVE) != 0;
		parts->scale = header & LONG_SCALE_MASK;
		parts->weight = weight;
	}
	parts->n_digits = (len - header_len) / (int) sizeof(int16);
	parts->digits = (const int16 *) (data + header_len);
}

/*
 * The value as an integer in units of 10000^-fraction; false if it has more
 * digits behind the point than that, or too many in all.
 */
static bool
to_integer(const Parts *parts, int fraction, int128 *result)
{
	int128		integer = 0;
	int			shift;

	if (parts->n_digits == 0)
	{
		*result = 0;
		return true;
	}
	shift = fraction + parts->weight - (parts->n_digits - 1);
	if (shift < 0 || parts->n_digits + shift > MAX_DIGITS)
		return false;
	for (int i = 0; i < parts->n_digits; i++)
	{
		int16		digit;

		memcpy(&digit, &parts->digits[i], sizeof(digit));	/* unaligned if packed */
		integer = integer * BASE + digit;
	}
	while (shift-- > 0)
		integer *= BASE;
	*result = parts->negative ? -integer : integer;
	return true;
}

/* Raises the fraction of the sum; false if the sum has no room for it. */
static bool
widen_fraction(NumericSum *sum, int fraction)
{
	int128		scaled = sum->sum;

	for (int i = sum->fraction; i < fraction; i++)
		if (__builtin_mul_overflow(scaled, (int128) BASE, &scaled))
			return false;
	sum->sum = scaled;
	sum->fraction = fraction;
	return true;
}

static void
add_wide(const WeirState *state, NumericSum *sum, Datum value)
{
	WeirValueRef old = sum->wide;
	struct varlena *total;

	if (old != 0)
	{
		Size		len;

		value = DirectFunctionCall2(numeric_add,
									PointerGetDatum(weir_value_get(state->store,
																   old, &len)),
									value);
	}
	total = PG_DETOAST_DATUM(value);
	sum->wide = weir_value_put(state->store, total, VARSIZE(total));
	if (old != 0)
		weir_value_free(state->store, old);
}

static void
add_finite(const WeirState *state, NumericSum *sum, const Parts *parts,
		   struct varlena *value)
{
	int			fraction = parts->n_digits - 1 - parts->weight;
	int128		integer;

	sum->scale = Max(sum->scale, parts->scale);
	if (fraction > sum->fraction &&
		(fraction > MAX_FRACTION || !widen_fraction(sum, fraction)))
		add_wide(state, sum, PointerGetDatum(value));
	else if (!to_integer(parts, sum->fraction, &integer) ||
			 __builtin_add_overflow(sum->sum, integer, &integer))
		add_wide(state, sum, PointerGetDatum(value));
	else
		sum->sum = integer;
}

static void
numeric_sum_init(const WeirState *state, char *words)
{
	memset(words, 0, sizeof(NumericSum));
}

static void
numeric_sum_advance(const WeirState *state, char **words,
					const Datum *values, const bool *nulls, const int64 *diffs, int n)
{
	for (int i = 0; i < n; i++)
	{
		NumericSum *sum = (NumericSum *) words[i];
		struct varlena *value;
		Parts		parts;

		if (nulls[i])
			continue;
		value = PG_DETOAST_DATUM_PACKED(values[i]);
		take_apart(value, &parts);
		if (!parts.special)
			add_finite(state, sum, &parts, value);
		else if (parts.header == HEADER_NAN)
			sum->nans++;
		else if (parts.header == HEADER_PLUS_INFINITY)
			sum->plus_infinities++;
		else
			sum->minus_infinities++;
		sum->n++;
	}
}

/*
 * A numeric from an integer in units of 10000^-fraction, shown with `scale`
 * decimal digits behind the point.  Long format throughout: it is valid for
 * every value, and numeric functions normalise what they return.
 */
static Datum
build_numeric(int128 integer, int fraction, int scale)
{
	int16		digits[16];
	int			n = 0;
	int			first = lengthof(digits);
	int			last = lengthof(digits);
	unsigned __int128 rest = integer < 0 ?
		-(unsigned __int128) integer : (unsigned __int128) integer;
	int			weight;
	bool		is_short;
	char	   *result;
	char	   *out;
	uint16		header;

	while (rest != 0)
	{
		digits[--first] = (int16) (rest % BASE);
		rest /= BASE;
	}
	weight = last - first - 1 - fraction;
	while (last > first && digits[last - 1] == 0)
		last--;
	n = last - first;
	if (n == 0)
		weight = 0;

	/* the same choice between the formats as numeric.c makes */
	is_short = scale <= (SHORT_SCALE_MASK >> SHORT_SCALE_SHIFT) &&
		weight <= SHORT_WEIGHT_MASK && weight >= -SHORT_WEIGHT_MASK - 1;
	result = palloc(VARHDRSZ + 2 * sizeof(uint16) + n * sizeof(int16));
	out = VARDATA(result);
	if (is_short)
		header = HEADER_SHORT | (integer < 0 ? SHORT_NEGATIVE : 0) |
			(scale << SHORT_SCALE_SHIFT) |
			(weight < 0 ? SHORT_WEIGHT_SIGN : 0) |
			(weight & SHORT_WEIGHT_MASK);
	else
		header = (integer < 0 ? LONG_NEGATIVE : 0) | scale;
	memcpy(out, &header, sizeof(header));
	out += sizeof(header);
	if (!is_short)
	{
		int16		weight16 = (int16) weight;

		memcpy(out, &weight16, sizeof(weight16));
		out += sizeof(weight16);
	}
	memcpy(out, digits + first, n * sizeof(int16));
	out += n * sizeof(int16);
	SET_VARSIZE(result, out - result);
	return PointerGetDatum(result);
}

Datum
weir_int128_numeric(int128 value)
{
	return build_numeric(value, 0, 0);
}

/* NaN and infinities decide alone. */
static Datum
special_total(const NumericSum *sum)
{
	const char *text;

	if (sum->nans > 0 ||
		(sum->plus_infinities > 0 && sum->minus_infinities > 0))
		text = "NaN";
	else if (sum->plus_infinities > 0)
		text = "Infinity";
	else
		text = "-Infinity";
	return DirectFunctionCall3(numeric_in, CStringGetDatum(text),
							   ObjectIdGetDatum(InvalidOid),
							   Int32GetDatum(-1));
}

static inline bool
is_special(const NumericSum *sum)
{
	return (sum->nans | sum->plus_infinities | sum->minus_infinities) != 0;
}

Datum
weir_numeric_sum_finish(const WeirState *state, const char *words,
						bool *isnull)
{
	const NumericSum *sum = (const NumericSum *) words;
	Datum		total;

	*isnull = sum->n == 0;
	if (*isnull)
		return (Datum) 0;
	if (is_special(sum))
		return special_total(sum);
	total = build_numeric(sum->sum, sum->fraction, sum->scale);
	if (sum->wide != 0)
	{
		Size		len;

		total = DirectFunctionCall2(numeric_add, total,
									PointerGetDatum(weir_value_get(state->store,
																   sum->wide,
																   &len)));
	}
	return total;
}

Datum
weir_numeric_avg(const WeirState *state, const char *words, bool *isnull)
{
	const NumericSum *sum = (const NumericSum *) words;
	Datum		total = weir_numeric_sum_finish(state, words, isnull);

	if (*isnull || is_special(sum))
		return total;
	return DirectFunctionCall2(numeric_div, total,
							   weir_int128_numeric(sum->n));
}

static void
numeric_sum_save(const WeirState *state, const char *words, StringInfo out)
{
	const NumericSum *sum = (const NumericSum *) words;
	Size		len = 0;
	const char *bytes = NULL;
	uint32		len32;

	if (sum->wide != 0)
		bytes = weir_value_get(state->store, sum->wide, &len);
	len32 = (uint32) len;
	appendBinaryStringInfo(out, (const char *) &len32, sizeof(len32));
	if (len > 0)
		appendBinaryStringInfo(out, bytes, len);
}

static const char *
numeric_sum_load(const WeirState *state, char *words,
				 const char *in, const char *end)
{
	NumericSum *sum = (NumericSum *) words;
	uint32		len;

	if (end - in < (ptrdiff_t) sizeof(len))
		return NULL;
	memcpy(&len, in, sizeof(len));
	in += sizeof(len);
	if (end - in < (ptrdiff_t) len)
		return NULL;
	sum->wide = len == 0 ? 0 : weir_value_put(state->store, in, len);
	return in + len;
}

static void
numeric_sum_release(const WeirState *state, char *words)
{
	NumericSum *sum = (NumericSum *) words;

	if (sum->wide != 0)
		weir_value_free(state->store, sum->wide);
	sum->wide = 0;
}

const WeirStateOps weir_numeric_sum = {
	.name = "numeric sum in 128 bits", .size = sizeof(NumericSum),
	.by_reference = true,
	.init = numeric_sum_init, .advance = numeric_sum_advance,
	.save = numeric_sum_save, .load = numeric_sum_load,
	.release = numeric_sum_release
};
