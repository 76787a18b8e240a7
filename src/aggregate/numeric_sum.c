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
 * sum of both.  NaN and infinities are counted in the value store as well.
 *
 * Postgres shows a sum with the greatest display scale of its values.  Where
 * rows are taken back that is the greatest of those that are left, so there the
 * values of each scale are counted: three scales in the group (a column of
 * numeric(10,2) has one), others in the value store.  Digits behind the shown
 * ones are then zero, since no value has any.
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
#define HEADER_MINUS_INFINITY 0xF000
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

/* Display scales that are counted in the group. */
#define NEAR_SCALES 3

typedef struct NumericSum
{
	int64		n;				/* all values, special ones included */
	int128		sum;			/* in units of 10000^-fraction */
	int32		fraction;
	int32		scale;			/* greatest display scale of a finite value, where
								 * no row is taken back */
	WeirValueRef more;			/* of a More; 0: none */

	/* of weir_numeric_exact alone; a count of 0 is a free place */
	int16		scales[NEAR_SCALES];
	int64		counts[NEAR_SCALES];
} NumericSum;

typedef struct ScaleCount
{
	int64		scale;
	int64		count;
} ScaleCount;

/* What few groups have, in the value store. */
typedef struct More
{
	int64		nans;
	int64		plus_infinities;
	int64		minus_infinities;
	WeirValueRef wide;			/* of a numeric; 0: none */
	int64		n_scales;
	ScaleCount	scales[FLEXIBLE_ARRAY_MEMBER];
} More;

#define MORE_BYTES(n_scales) \
	(offsetof(More, scales) + (n_scales) * sizeof(ScaleCount))

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

static More *
more_of(const WeirState *state, NumericSum *sum)
{
	if (sum->more == 0)
	{
		More		none = {0};

		sum->more = weir_value_put(state->store, &none, MORE_BYTES(0));
	}
	return (More *) weir_value_edit(state->store, sum->more);
}

/* NULL: the group has nothing of the kind. */
static const More *
read_more(const WeirState *state, const NumericSum *sum)
{
	Size		len;

	if (sum->more == 0)
		return NULL;
	return (const More *) weir_value_get(state->store, sum->more, &len);
}

static Datum
wide_value(const WeirState *state, const More *more)
{
	Size		len;

	return PointerGetDatum(weir_value_get(state->store, more->wide, &len));
}

static void
add_wide(const WeirState *state, NumericSum *sum, Datum value)
{
	More	   *more = more_of(state, sum);
	WeirValueRef old = more->wide;
	struct varlena *total;
	Parts		parts;

	if (old != 0)
		value = DirectFunctionCall2(numeric_add, wide_value(state, more),
									value);
	total = PG_DETOAST_DATUM(value);
	take_apart(total, &parts);
	more->wide = parts.n_digits == 0 ? 0 :
		weir_value_put(state->store, total, VARSIZE(total));
	if (old != 0)
	{
		weir_value_free(state->store, old);
		pfree(total);
	}
}

/* Adds a value diff times to `wide`. */
static void
add_wide_value(const WeirState *state, NumericSum *sum, Datum value,
			   int64 diff)
{
	if (diff != 1)
		value = DirectFunctionCall2(numeric_mul, value,
									weir_int128_numeric(diff));
	add_wide(state, sum, value);
}

/* Counts a scale that has no place in the group. */
static void
count_far_scale(const WeirState *state, NumericSum *sum, int scale, int64 diff)
{
	More	   *more = more_of(state, sum);
	More	   *grown;
	int64		n = more->n_scales;
	WeirValueRef old = sum->more;

	for (int64 i = 0; i < n; i++)
	{
		if (more->scales[i].scale != scale)
			continue;
		more->scales[i].count += diff;
		if (more->scales[i].count == 0)
			more->scales[i] = more->scales[--more->n_scales];
		return;
	}
	for (int i = 0; i < NEAR_SCALES; i++)
		if (sum->counts[i] == 0)
		{
			sum->scales[i] = scale;
			sum->counts[i] = diff;
			return;
		}

	sum->more = weir_value_put(state->store, NULL, MORE_BYTES(n + 1));
	grown = (More *) weir_value_edit(state->store, sum->more);
	memcpy(grown, more, MORE_BYTES(n));
	grown->scales[n].scale = scale;
	grown->scales[n].count = diff;
	grown->n_scales = n + 1;
	weir_value_free(state->store, old);
}

/* A scale is counted in one place only. */
static inline void
count_scale(const WeirState *state, NumericSum *sum, int scale, int64 diff)
{
	int			unused = -1;

	for (int i = 0; i < NEAR_SCALES; i++)
	{
		if (sum->counts[i] == 0)
			unused = i;
		else if (sum->scales[i] == scale)
		{
			sum->counts[i] += diff;
			return;
		}
	}
	if (unused >= 0 && sum->more == 0)
	{
		sum->scales[unused] = scale;
		sum->counts[unused] = diff;
	}
	else
		count_far_scale(state, sum, scale, diff);
}

static void
add_finite(const WeirState *state, NumericSum *sum, const Parts *parts,
		   struct varlena *value, int64 diff)
{
	int			fraction = parts->n_digits - 1 - parts->weight;
	int128		integer;

	if (fraction > sum->fraction &&
		(fraction > MAX_FRACTION || !widen_fraction(sum, fraction)))
		add_wide_value(state, sum, PointerGetDatum(value), diff);
	else if (!to_integer(parts, sum->fraction, &integer) ||
			 (diff != 1 &&
			  __builtin_mul_overflow(integer, (int128) diff, &integer)) ||
			 __builtin_add_overflow(sum->sum, integer, &integer))
		add_wide_value(state, sum, PointerGetDatum(value), diff);
	else
		sum->sum = integer;
}

static void
add_special(const WeirState *state, NumericSum *sum, uint16 header, int64 diff)
{
	More	   *more = more_of(state, sum);

	if (header == HEADER_NAN)
		more->nans += diff;
	else if (header == HEADER_PLUS_INFINITY)
		more->plus_infinities += diff;
	else
		more->minus_infinities += diff;
}

static void
numeric_sum_init(const WeirState *state, char *words)
{
	memset(words, 0, state->ops->size);
}

static void
numeric_sum_advance(const WeirState *state, char **words,
					const Datum *values, const bool *nulls,
					const int64 *diffs, int n)
{
	bool		retracts = state->ops->retracts;

	for (int i = 0; i < n; i++)
	{
		NumericSum *sum = (NumericSum *) words[i];
		int64		diff = diffs == NULL ? 1 : diffs[i];
		struct varlena *value;
		Parts		parts;

		if (nulls[i] || diff == 0)
			continue;
		value = PG_DETOAST_DATUM_PACKED(values[i]);
		take_apart(value, &parts);
		if (parts.special)
			add_special(state, sum, parts.header, diff);
		else
		{
			add_finite(state, sum, &parts, value, diff);
			if (retracts)
				count_scale(state, sum, parts.scale, diff);
			else
				sum->scale = Max(sum->scale, parts.scale);
		}
		sum->n += diff;
	}
}

/* Short or long format: the same choice as numeric.c makes. */
static Datum
assemble(bool negative, int weight, int scale, const int16 *digits, int n)
{
	bool		is_short;
	char	   *result;
	char	   *out;
	uint16		header;

	is_short = scale <= (SHORT_SCALE_MASK >> SHORT_SCALE_SHIFT) &&
		weight <= SHORT_WEIGHT_MASK && weight >= -SHORT_WEIGHT_MASK - 1;
	result = palloc(VARHDRSZ + 2 * sizeof(uint16) + n * sizeof(int16));
	out = VARDATA(result);
	if (is_short)
		header = HEADER_SHORT | (negative ? SHORT_NEGATIVE : 0) |
			(scale << SHORT_SCALE_SHIFT) |
			(weight < 0 ? SHORT_WEIGHT_SIGN : 0) |
			(weight & SHORT_WEIGHT_MASK);
	else
		header = (negative ? LONG_NEGATIVE : 0) | scale;
	memcpy(out, &header, sizeof(header));
	out += sizeof(header);
	if (!is_short)
	{
		int16		weight16 = (int16) weight;

		memcpy(out, &weight16, sizeof(weight16));
		out += sizeof(weight16);
	}
	memcpy(out, digits, n * sizeof(int16));
	out += n * sizeof(int16);
	SET_VARSIZE(result, out - result);
	return PointerGetDatum(result);
}

/*
 * A numeric from an integer in units of 10000^-fraction, shown with `scale`
 * decimal digits behind the point.
 */
static Datum
build_numeric(int128 integer, int fraction, int scale)
{
	int16		digits[16];
	int			first = lengthof(digits);
	int			last = lengthof(digits);
	unsigned __int128 rest = integer < 0 ?
		-(unsigned __int128) integer : (unsigned __int128) integer;
	int			weight;

	while (rest != 0)
	{
		digits[--first] = (int16) (rest % BASE);
		rest /= BASE;
	}
	weight = last - first - 1 - fraction;
	while (last > first && digits[last - 1] == 0)
		last--;
	if (last == first)
		weight = 0;
	return assemble(integer < 0, weight, scale, digits + first, last - first);
}

/* A numeric that has no more digits than `scale` behind the point. */
static Datum
show_with_scale(Datum value, int scale)
{
	Parts		parts;

	take_apart(PG_DETOAST_DATUM(value), &parts);
	return assemble(parts.negative, parts.weight, scale, parts.digits,
					parts.n_digits);
}

Datum
weir_int128_numeric(int128 value)
{
	return build_numeric(value, 0, 0);
}

/*
 * Brings two integers to the same unit and adds them; what does not fit goes to
 * `wide`.
 */
static void
merge_integers(const WeirState *state, NumericSum *sum, const NumericSum *other)
{
	NumericSum	scaled = *other;
	int			fraction = Max(sum->fraction, other->fraction);
	int128		total;

	if (widen_fraction(sum, fraction) && widen_fraction(&scaled, fraction) &&
		!__builtin_add_overflow(sum->sum, scaled.sum, &total))
		sum->sum = total;
	else
		add_wide(state, sum, build_numeric(other->sum, other->fraction,
										   other->fraction * 4));
}

static void
numeric_sum_merge(const WeirState *state, char *words, const char *from)
{
	NumericSum *sum = (NumericSum *) words;
	NumericSum	other = {0};
	const More *other_more;

	memcpy(&other, from, state->ops->size);
	other_more = read_more(state, &other);
	merge_integers(state, sum, &other);
	sum->n += other.n;
	sum->scale = Max(sum->scale, other.scale);
	if (state->ops->retracts)
		for (int i = 0; i < NEAR_SCALES; i++)
			if (other.counts[i] != 0)
				count_scale(state, sum, other.scales[i], other.counts[i]);
	if (other_more == NULL)
		return;
	for (int i = 0; i < other_more->n_scales; i++)
		count_scale(state, sum, (int) other_more->scales[i].scale,
					other_more->scales[i].count);
	if (other_more->wide != 0)
		add_wide(state, sum, wide_value(state, other_more));
	if (other_more->nans != 0)
		add_special(state, sum, HEADER_NAN, other_more->nans);
	if (other_more->plus_infinities != 0)
		add_special(state, sum, HEADER_PLUS_INFINITY,
					other_more->plus_infinities);
	if (other_more->minus_infinities != 0)
		add_special(state, sum, HEADER_MINUS_INFINITY,
					other_more->minus_infinities);
}

/* NaN and infinities decide alone; NULL when there are none. */
static const char *
special_total(const More *more)
{
	if (more == NULL)
		return NULL;
	if (more->nans > 0 ||
		(more->plus_infinities > 0 && more->minus_infinities > 0))
		return "NaN";
	if (more->plus_infinities > 0)
		return "Infinity";
	if (more->minus_infinities > 0)
		return "-Infinity";
	return NULL;
}

/* The greatest display scale of the values that are left. */
static int
greatest_scale(const WeirState *state, const NumericSum *sum, const More *more)
{
	int			scale = 0;

	if (!state->ops->retracts)
		return sum->scale;
	for (int i = 0; i < NEAR_SCALES; i++)
		if (sum->counts[i] > 0)
			scale = Max(scale, sum->scales[i]);
	for (int i = 0; more != NULL && i < more->n_scales; i++)
		if (more->scales[i].count > 0)
			scale = Max(scale, (int) more->scales[i].scale);
	return scale;
}

Datum
weir_numeric_sum_finish(const WeirState *state, const char *words,
						bool *isnull)
{
	const NumericSum *sum = (const NumericSum *) words;
	const More *more = read_more(state, sum);
	const char *special = special_total(more);
	int			scale;

	*isnull = sum->n == 0;
	if (*isnull)
		return (Datum) 0;
	if (special != NULL)
		return DirectFunctionCall3(numeric_in, CStringGetDatum(special),
								   ObjectIdGetDatum(InvalidOid),
								   Int32GetDatum(-1));
	scale = greatest_scale(state, sum, more);
	if (more == NULL || more->wide == 0)
		return build_numeric(sum->sum, sum->fraction, scale);
	return show_with_scale(DirectFunctionCall2(numeric_add,
											   build_numeric(sum->sum,
															 sum->fraction,
															 sum->fraction * 4),
											   wide_value(state, more)),
						   scale);
}

Datum
weir_numeric_avg(const WeirState *state, const char *words, bool *isnull)
{
	const NumericSum *sum = (const NumericSum *) words;
	Datum		total = weir_numeric_sum_finish(state, words, isnull);

	if (*isnull || special_total(read_more(state, sum)) != NULL)
		return total;
	return DirectFunctionCall2(numeric_div, total,
							   weir_int128_numeric(sum->n));
}

static void
save_bytes(StringInfo out, const void *bytes, Size len)
{
	uint32		len32 = (uint32) len;

	appendBinaryStringInfo(out, (const char *) &len32, sizeof(len32));
	if (len > 0)
		appendBinaryStringInfo(out, bytes, len);
}

/* Bytes that save_bytes() wrote; NULL when they run over the end. */
static const char *
loaded_bytes(const char **in, const char *end, uint32 *len)
{
	const char *bytes;

	if (*in == NULL || end - *in < (ptrdiff_t) sizeof(*len))
		return NULL;
	memcpy(len, *in, sizeof(*len));
	bytes = *in + sizeof(*len);
	if (end - bytes < (ptrdiff_t) *len)
		return NULL;
	*in = bytes + *len;
	return bytes;
}

/* `more`, and if there is one, `wide`. */
static void
numeric_sum_save(const WeirState *state, const char *words, StringInfo out)
{
	const NumericSum *sum = (const NumericSum *) words;
	const More *more = read_more(state, sum);
	Size		len = 0;
	const char *wide = NULL;

	if (more == NULL)
	{
		save_bytes(out, NULL, 0);
		return;
	}
	save_bytes(out, more, MORE_BYTES(more->n_scales));
	if (more->wide != 0)
		wide = weir_value_get(state->store, more->wide, &len);
	save_bytes(out, wide, len);
}

/* Is it a finite numeric, such as we store? */
static bool
is_finite_numeric(const char *bytes, Size len)
{
	uint16		header;
	Size		begin = VARHDRSZ + sizeof(uint16);

	if (!weir_value_has_length(false, -1, bytes, len) || len < begin)
		return false;
	memcpy(&header, bytes + VARHDRSZ, sizeof(header));
	if (HEADER_KIND(header) != HEADER_SHORT)
		begin += sizeof(int16);
	if (HEADER_KIND(header) == HEADER_SPECIAL || len < begin ||
		(len - begin) % sizeof(int16) != 0)
		return false;
	for (Size at = begin; at < len; at += sizeof(int16))
	{
		int16		digit;

		memcpy(&digit, bytes + at, sizeof(digit));
		if (digit < 0 || digit >= BASE)
			return false;
	}
	return true;
}

/* Could it be a sum?  What follows from it must not run wild. */
static bool
is_sound(const WeirState *state, const NumericSum *sum)
{
	if (sum->fraction < 0 || sum->fraction > MAX_FRACTION ||
		sum->scale < 0 || sum->scale > LONG_SCALE_MASK)
		return false;
	for (int i = 0; i < NEAR_SCALES && state->ops->retracts; i++)
		if (sum->scales[i] < 0 || sum->scales[i] > LONG_SCALE_MASK)
			return false;
	return true;
}

static const char *
numeric_sum_load(const WeirState *state, char *words,
				 const char *in, const char *end)
{
	NumericSum *sum = (NumericSum *) words;
	const char *bytes;
	const char *wide;
	uint32		len;
	uint32		wide_len;
	More	   *more;
	int64		n_scales;

	sum->more = 0;
	bytes = loaded_bytes(&in, end, &len);
	if (bytes == NULL || !is_sound(state, sum))
		return NULL;
	if (len == 0)
		return in;
	if (len < MORE_BYTES(0))
		return NULL;
	memcpy(&n_scales, bytes + offsetof(More, n_scales), sizeof(n_scales));
	wide = loaded_bytes(&in, end, &wide_len);
	if (wide == NULL || n_scales < 0 ||
		n_scales > LONG_SCALE_MASK || len != MORE_BYTES(n_scales) ||
		(wide_len > 0 && !is_finite_numeric(wide, wide_len)))
		return NULL;
	for (int64 i = 0; i < n_scales; i++)
	{
		int64		scale;

		memcpy(&scale, bytes + MORE_BYTES(i), sizeof(scale));
		if (scale < 0 || scale > LONG_SCALE_MASK)
			return NULL;
	}

	sum->more = weir_value_put(state->store, bytes, len);
	more = (More *) weir_value_edit(state->store, sum->more);
	more->wide = 0;
	if (wide_len > 0)
		more->wide = weir_value_put(state->store, wide, wide_len);
	return in;
}

static void
numeric_sum_release(const WeirState *state, char *words)
{
	NumericSum *sum = (NumericSum *) words;
	const More *more = read_more(state, sum);

	if (more == NULL)
		return;
	if (more->wide != 0)
		weir_value_free(state->store, more->wide);
	weir_value_free(state->store, sum->more);
	sum->more = 0;
}

const WeirStateOps weir_numeric_sum = {
	.name = "numeric sum in 128 bits", .size = offsetof(NumericSum, scales),
	.by_reference = true,
	.init = numeric_sum_init, .advance = numeric_sum_advance,
	.merge = numeric_sum_merge, .save = numeric_sum_save,
	.load = numeric_sum_load, .release = numeric_sum_release
};

const WeirStateOps weir_numeric_exact = {
	.name = "numeric sum in 128 bits, by scales", .size = sizeof(NumericSum),
	.by_reference = true, .retracts = true,
	.init = numeric_sum_init, .advance = numeric_sum_advance,
	.merge = numeric_sum_merge, .save = numeric_sum_save,
	.load = numeric_sum_load, .release = numeric_sum_release
};
