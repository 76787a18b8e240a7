/*-------------------------------------------------------------------------
 *
 * sums.c
 *	  count, and sum and avg over integers, money, floats and intervals.
 *
 * Receives dense columns of values from the fold and the words of each row's
 * group.  All but the compensated float sum are exact when rows are taken back.
 * The states are wide enough that no step can overflow, so a fold never
 * raises; what does not fit the result type is found by finish, with the
 * error that Postgres' own aggregate raises.  (Postgres may raise earlier, at
 * an intermediate sum that a later row brings back: there Q has no answer
 * and this has one.)
 *
 *-------------------------------------------------------------------------
 */
#include "aggregate/aggregate.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/timestamp.h"

/* ---------------------------------------------------------------- count */

static void
count_init(const WeirState *state, char *words)
{
	*(int64 *) words = 0;
}

static void
count_rows_advance(const WeirState *state, char **words,
				   const Datum *values, const bool *nulls, const int64 *diffs, int n)
{
	if (diffs == NULL)
	{
		for (int i = 0; i < n; i++)
			++*(int64 *) words[i];
		return;
	}
	for (int i = 0; i < n; i++)
		*(int64 *) words[i] += diffs[i];
}

static void
count_any_advance(const WeirState *state, char **words,
				  const Datum *values, const bool *nulls, const int64 *diffs, int n)
{
	if (diffs == NULL)
	{
		for (int i = 0; i < n; i++)
			*(int64 *) words[i] += !nulls[i];
		return;
	}
	for (int i = 0; i < n; i++)
		if (!nulls[i])
			*(int64 *) words[i] += diffs[i];
}

static void
count_merge(const WeirState *state, char *words, const char *from)
{
	*(int64 *) words += *(const int64 *) from;
}

Datum
weir_count_finish(const WeirState *state, const char *words, bool *isnull)
{
	*isnull = false;
	return Int64GetDatum(*(const int64 *) words);
}

const WeirStateOps weir_count_rows = {
	.name = "count", .size = sizeof(int64), .retracts = true,
	.init = count_init, .advance = count_rows_advance, .merge = count_merge
};

const WeirStateOps weir_count_any = {
	.name = "count", .size = sizeof(int64), .retracts = true,
	.init = count_init, .advance = count_any_advance, .merge = count_merge
};

/* ------------------------------------------------------------- integers */

/* 2^63 rows of the greatest bigint fit: no step needs a check. */
typedef struct IntSum
{
	int64		n;
	int128		sum;
} IntSum;

static void
int_sum_init(const WeirState *state, char *words)
{
	memset(words, 0, sizeof(IntSum));
}

/* Inlined twice, so that the loop without diffs does not ask for them. */
static pg_attribute_always_inline void
int_sum_fold(const WeirState *state, char **words, const Datum *values,
			 const bool *nulls, const int64 *diffs, int n)
{
	for (int i = 0; i < n; i++)
	{
		IntSum	   *sum = (IntSum *) words[i];
		int64		value;

		if (nulls[i])
			continue;
		switch (state->typlen)
		{
			case 2:
				value = DatumGetInt16(values[i]);
				break;
			case 4:
				value = DatumGetInt32(values[i]);
				break;
			default:
				value = DatumGetInt64(values[i]);
				break;
		}
		if (diffs == NULL)
		{
			sum->n++;
			sum->sum += value;
		}
		else
		{
			sum->n += diffs[i];
			sum->sum += (int128) value * diffs[i];
		}
	}
}

static void
int_sum_advance(const WeirState *state, char **words, const Datum *values,
				const bool *nulls, const int64 *diffs, int n)
{
	if (diffs == NULL)
		int_sum_fold(state, words, values, nulls, NULL, n);
	else
		int_sum_fold(state, words, values, nulls, diffs, n);
}

static void
int_sum_merge(const WeirState *state, char *words, const char *from)
{
	IntSum	   *sum = (IntSum *) words;
	const IntSum *other = (const IntSum *) from;

	sum->n += other->n;
	sum->sum += other->sum;
}

Datum
weir_int_sum_int8(const WeirState *state, const char *words, bool *isnull)
{
	const IntSum *sum = (const IntSum *) words;

	*isnull = sum->n == 0;
	if (sum->sum > PG_INT64_MAX || sum->sum < PG_INT64_MIN)
		ereport(ERROR,
				(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
				 state->arg_type == CASHOID ?
				 errmsg("money out of range") : errmsg("bigint out of range")));
	return Int64GetDatum((int64) sum->sum);
}

Datum
weir_int_sum_numeric(const WeirState *state, const char *words, bool *isnull)
{
	const IntSum *sum = (const IntSum *) words;

	*isnull = sum->n == 0;
	return *isnull ? (Datum) 0 : weir_int128_numeric(sum->sum);
}

Datum
weir_int_avg(const WeirState *state, const char *words, bool *isnull)
{
	const IntSum *sum = (const IntSum *) words;

	*isnull = sum->n == 0;
	if (*isnull)
		return (Datum) 0;
	return DirectFunctionCall2(numeric_div,
							   weir_int128_numeric(sum->sum),
							   weir_int128_numeric(sum->n));
}

const WeirStateOps weir_int_sum = {
	.name = "integer sum", .size = sizeof(IntSum), .retracts = true,
	.init = int_sum_init, .advance = int_sum_advance, .merge = int_sum_merge
};

/* --------------------------------------------------------------- floats */

/*
 * A compensated sum (Neumaier 1974): `carry` holds what rounding lost, so that
 * the order of the rows hardly matters.  NaN and infinities are counted
 * beside the sum.  Two thirds of the state of the exact sum in exact_float.c,
 * and nothing in the value store, for rows that nobody takes back.
 */
typedef struct FloatSum
{
	int64		n;
	double		sum;
	double		carry;
	int64		nans;
	int64		plus_infinities;
	int64		minus_infinities;
} FloatSum;

static void
float_sum_init(const WeirState *state, char *words)
{
	memset(words, 0, sizeof(FloatSum));
	((FloatSum *) words)->sum = -0.0;	/* the sum of -0 and -0 is -0 */
}

static inline void
float_sum_add(FloatSum *sum, double value)
{
	double		total = sum->sum + value;

	if (fabs(sum->sum) >= fabs(value))
		sum->carry += (sum->sum - total) + value;
	else
		sum->carry += (value - total) + sum->sum;
	sum->sum = total;
}

static void
float_sum_advance(const WeirState *state, char **words,
				  const Datum *values, const bool *nulls, const int64 *diffs, int n)
{
	Assert(diffs == NULL);
	for (int i = 0; i < n; i++)
	{
		FloatSum   *sum = (FloatSum *) words[i];
		double		value;

		if (nulls[i])
			continue;
		value = state->typlen == 4 ?
			DatumGetFloat4(values[i]) : DatumGetFloat8(values[i]);
		sum->n++;
		if (unlikely(!isfinite(value)))
		{
			if (isnan(value))
				sum->nans++;
			else if (value > 0)
				sum->plus_infinities++;
			else
				sum->minus_infinities++;
			continue;
		}
		float_sum_add(sum, value);
	}
}

static void
float_sum_merge(const WeirState *state, char *words, const char *from)
{
	FloatSum   *sum = (FloatSum *) words;
	const FloatSum *other = (const FloatSum *) from;

	sum->n += other->n;
	sum->nans += other->nans;
	sum->plus_infinities += other->plus_infinities;
	sum->minus_infinities += other->minus_infinities;
	float_sum_add(sum, other->sum);
	sum->carry += other->carry;
}

/* The sum as Postgres would show it: it raises when finite values overflow. */
static double
float_total(const FloatSum *sum)
{
	double		total;

	if (sum->nans > 0 ||
		(sum->plus_infinities > 0 && sum->minus_infinities > 0))
		return NAN;
	if (sum->plus_infinities > 0)
		return INFINITY;
	if (sum->minus_infinities > 0)
		return -INFINITY;
	total = sum->carry == 0 ? sum->sum : sum->sum + sum->carry;
	if (!isfinite(total))
		ereport(ERROR,
				(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
				 errmsg("value out of range: overflow")));
	return total;
}

Datum
weir_float_sum_float8(const WeirState *state, const char *words, bool *isnull)
{
	const FloatSum *sum = (const FloatSum *) words;

	*isnull = sum->n == 0;
	return *isnull ? (Datum) 0 : Float8GetDatum(float_total(sum));
}

Datum
weir_float_sum_float4(const WeirState *state, const char *words, bool *isnull)
{
	const FloatSum *sum = (const FloatSum *) words;
	double		total;
	float4		result;

	*isnull = sum->n == 0;
	if (*isnull)
		return (Datum) 0;
	total = float_total(sum);
	result = (float4) total;
	if (isinf(result) && !isinf(total))
		ereport(ERROR,
				(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
				 errmsg("value out of range: overflow")));
	return Float4GetDatum(result);
}

Datum
weir_float_avg(const WeirState *state, const char *words, bool *isnull)
{
	const FloatSum *sum = (const FloatSum *) words;

	*isnull = sum->n == 0;
	return *isnull ? (Datum) 0 :
		Float8GetDatum((0.0 + float_total(sum)) / (double) sum->n);
}

const WeirStateOps weir_float_sum = {
	.name = "compensated float sum", .size = sizeof(FloatSum),
	.init = float_sum_init, .advance = float_sum_advance,
	.merge = float_sum_merge
};

/* ------------------------------------------------------------ intervals */

/*
 * Field by field, as Postgres adds intervals; infinite ones (17 and later) are
 * counted beside.
 */
typedef struct IntervalSum
{
	int64		n;
	int128		time;
	int64		days;
	int64		months;
	int64		plus_infinities;
	int64		minus_infinities;
} IntervalSum;

static void
interval_sum_init(const WeirState *state, char *words)
{
	memset(words, 0, sizeof(IntervalSum));
}

static void
interval_sum_advance(const WeirState *state, char **words,
					 const Datum *values, const bool *nulls, const int64 *diffs, int n)
{
	for (int i = 0; i < n; i++)
	{
		IntervalSum *sum = (IntervalSum *) words[i];
		int64		diff = diffs == NULL ? 1 : diffs[i];
		Interval   *value;

		if (nulls[i])
			continue;
		value = DatumGetIntervalP(values[i]);
		sum->n += diff;
		if (weir_interval_is_plus_infinity(value))
			sum->plus_infinities += diff;
		else if (weir_interval_is_minus_infinity(value))
			sum->minus_infinities += diff;
		else
		{
			sum->time += (int128) value->time * diff;
			sum->days += value->day * diff;
			sum->months += value->month * diff;
		}
	}
}

static void
interval_sum_merge(const WeirState *state, char *words, const char *from)
{
	IntervalSum *sum = (IntervalSum *) words;
	const IntervalSum *other = (const IntervalSum *) from;

	sum->n += other->n;
	sum->time += other->time;
	sum->days += other->days;
	sum->months += other->months;
	sum->plus_infinities += other->plus_infinities;
	sum->minus_infinities += other->minus_infinities;
}

static Interval *
interval_total(const IntervalSum *sum)
{
	Interval   *total = palloc0(sizeof(Interval));

	if (sum->plus_infinities > 0 || sum->minus_infinities > 0)
	{
		if (sum->plus_infinities > 0 && sum->minus_infinities > 0)
			ereport(ERROR,
					(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
					 errmsg("interval out of range")));
		weir_interval_set_infinity(total, sum->plus_infinities > 0);
		return total;
	}
	if (sum->time > PG_INT64_MAX || sum->time < PG_INT64_MIN ||
		sum->days > PG_INT32_MAX || sum->days < PG_INT32_MIN ||
		sum->months > PG_INT32_MAX || sum->months < PG_INT32_MIN)
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
				 errmsg("interval out of range")));
	total->time = (int64) sum->time;
	total->day = (int32) sum->days;
	total->month = (int32) sum->months;
	return total;
}

Datum
weir_interval_sum_finish(const WeirState *state, const char *words,
						 bool *isnull)
{
	const IntervalSum *sum = (const IntervalSum *) words;

	*isnull = sum->n == 0;
	return *isnull ? (Datum) 0 : IntervalPGetDatum(interval_total(sum));
}

Datum
weir_interval_avg(const WeirState *state, const char *words, bool *isnull)
{
	const IntervalSum *sum = (const IntervalSum *) words;

	*isnull = sum->n == 0;
	if (*isnull)
		return (Datum) 0;
	return DirectFunctionCall2(interval_div,
							   IntervalPGetDatum(interval_total(sum)),
							   Float8GetDatum((double) sum->n));
}

const WeirStateOps weir_interval_sum = {
	.name = "interval sum", .size = sizeof(IntervalSum), .retracts = true,
	.init = interval_sum_init, .advance = interval_sum_advance,
	.merge = interval_sum_merge
};
