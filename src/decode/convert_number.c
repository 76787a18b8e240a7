/*-------------------------------------------------------------------------
 *
 * convert_number.c
 *	  Text to numbers, without raising.
 *
 * Receives the text of a value (a JSON number, or what a JSON string or a CSV
 * field holds) and makes the same number that the type's input function
 * would: the same bits of a float, the same display scale of a numeric.
 * Integers go further than their input functions: 1.0, 1e2 and 1200e-2 are
 * integers, because JSON has only one kind of number and many serialisers
 * write a float where they mean an integer.
 *
 * What it does not know (NaN, infinity, hexadecimal, white space around a
 * float, thousands of digits) it leaves to the input function by answering
 * WEIR_UNKNOWN_FORM.  A fast path never decides that a text is *bad* unless
 * it has read the whole of it as a number.
 *
 *-------------------------------------------------------------------------
 */
#include "decode/decode_internal.h"

#include <ctype.h>
#include <limits.h>
#include <math.h>

/* Decimal digits that always fit a uint64. */
#define MAX_DIGITS 19

/* A number taken apart: mantissa * 10^exponent. */
typedef struct Decimal
{
	bool		negative;
	bool		exact;			/* the mantissa holds every digit */
	bool		has_exponent;	/* it was written with an e */
	uint64		mantissa;
	int			scale;			/* digits behind the point */
	int64		exponent;		/* of the last digit */
} Decimal;

static const uint64 powers[MAX_DIGITS + 1] = {
	UINT64CONST(1),
	UINT64CONST(10),
	UINT64CONST(100),
	UINT64CONST(1000),
	UINT64CONST(10000),
	UINT64CONST(100000),
	UINT64CONST(1000000),
	UINT64CONST(10000000),
	UINT64CONST(100000000),
	UINT64CONST(1000000000),
	UINT64CONST(10000000000),
	UINT64CONST(100000000000),
	UINT64CONST(1000000000000),
	UINT64CONST(10000000000000),
	UINT64CONST(100000000000000),
	UINT64CONST(1000000000000000),
	UINT64CONST(10000000000000000),
	UINT64CONST(100000000000000000),
	UINT64CONST(1000000000000000000),
	UINT64CONST(10000000000000000000)
};

static inline bool
is_digit(char c)
{
	return (unsigned char) (c - '0') <= 9;
}

/*
 * Takes a number apart that is written as JSON writes one; false if it is
 * written otherwise.
 */
static inline bool
parse_decimal(const char *s, int len, Decimal *d)
{
	const char *p = s;
	const char *end = s + len;
	const char *start;
	uint64		mantissa = 0;
	int			digits;			/* without leading zeros */

	d->negative = false;
	d->has_exponent = false;
	d->scale = 0;
	d->exponent = 0;
	if (p < end && *p == '-')
	{
		d->negative = true;
		p++;
	}
	start = p;
	while (p < end && is_digit(*p))
	{
		mantissa = mantissa * 10 + (*p - '0');
		p++;
	}
	if (p == start || (*start == '0' && p - start > 1))
		return false;
	digits = *start == '0' ? 0 : p - start;
	if (p < end && *p == '.')
	{
		const char *first;

		start = ++p;
		if (digits == 0)
		{
			while (p < end && *p == '0')
				p++;
		}
		first = p;
		while (p < end && is_digit(*p))
		{
			mantissa = mantissa * 10 + (*p - '0');
			p++;
		}
		if (p == start)
			return false;
		digits += p - first;
		d->scale = p - start;
		d->exponent = -d->scale;
	}
	if (p < end && (*p == 'e' || *p == 'E'))
	{
		bool		negative = false;
		int64		exponent = 0;

		d->has_exponent = true;
		p++;
		if (p < end && (*p == '+' || *p == '-'))
			negative = *p++ == '-';
		start = p;
		while (p < end && is_digit(*p))
		{
			/* beyond any message's number of digits it only has to be big */
			if (exponent < INT_MAX)
				exponent = exponent * 10 + (*p - '0');
			p++;
		}
		if (p == start)
			return false;
		d->exponent += negative ? -exponent : exponent;
	}
	d->mantissa = mantissa;
	d->exact = digits <= MAX_DIGITS;
	return p == end;
}

/* Any run of digits with a sign, into 64 bits: 0 or 22003. */
static int
apply_sign(uint64 magnitude, bool negative, int64 *value)
{
	if (magnitude > (uint64) PG_INT64_MAX + negative)
		return ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE;
	*value = negative ? (int64) (0 - magnitude) : (int64) magnitude;
	return 0;
}

/*
 * The integer that a JSON number with too many digits for a uint64 stands
 * for: 1000000000000000000000e-10.  Strips the zeros at both ends and tries
 * again.
 */
static int
parse_long_integer(const char *s, int len, const Decimal *d, int64 *value)
{
	const char *p;
	uint64		mantissa = 0;
	int			digits = 0;
	int64		zeros = 0;		/* read, and not yet in the mantissa */
	int64		exponent = d->exponent;

	for (p = s; p < s + len && *p != 'e' && *p != 'E'; p++)
	{
		if (!is_digit(*p))
			continue;
		if (*p == '0')
		{
			zeros += digits > 0;
			continue;
		}
		digits += zeros + 1;
		if (digits > MAX_DIGITS)
			break;
		mantissa = mantissa * powers[zeros] * 10 + (*p - '0');
		zeros = 0;
	}
	if (digits > MAX_DIGITS)
	{
		/* 20 significant digits or more: not integral or out of range */
		for (; p < s + len && *p != 'e' && *p != 'E'; p++)
		{
			if (is_digit(*p))
				zeros = *p == '0' ? zeros + 1 : 0;
		}
		return exponent + zeros < 0 ? ERRCODE_INVALID_TEXT_REPRESENTATION :
			ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE;
	}
	exponent += zeros;
	if (exponent < 0)
		return ERRCODE_INVALID_TEXT_REPRESENTATION;
	if (digits + exponent > MAX_DIGITS)
		return ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE;
	return apply_sign(mantissa * powers[exponent], d->negative, value);
}

/*
 * A JSON number that stands for an integer: 0; 22P02 if it has a fraction,
 * 22003 if it does not fit, WEIR_UNKNOWN_FORM if it is no JSON number.
 */
int
weir_parse_integer(const char *s, int len, int64 *value)
{
	Decimal		d;
	uint64		magnitude;

	if (!parse_decimal(s, len, &d))
		return WEIR_UNKNOWN_FORM;
	if (!d.exact)
		return parse_long_integer(s, len, &d, value);
	magnitude = d.mantissa;
	if (magnitude == 0)
		d.exponent = 0;
	if (d.exponent > 0)
	{
		if (d.exponent > MAX_DIGITS ||
			magnitude > PG_UINT64_MAX / powers[d.exponent])
			return ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE;
		magnitude *= powers[d.exponent];
	}
	else if (d.exponent < 0)
	{
		if (d.exponent < -MAX_DIGITS ||
			magnitude % powers[-d.exponent] != 0)
			return ERRCODE_INVALID_TEXT_REPRESENTATION;
		magnitude /= powers[-d.exponent];
	}
	return apply_sign(magnitude, d.negative, value);
}

/*
 * Text to an integer of up to 64 bits, as int8in reads it, and if any_number
 * also any JSON number with an integral value.  Answers 0, 22P02, 22003, or
 * WEIR_UNKNOWN_FORM for what only newer releases read (0x1F, 1_000).
 */
int
weir_parse_int8(const char *s, int len, bool any_number, int64 *value)
{
	const char *p = s;
	const char *end = s + len;
	bool		negative = false;
	uint64		magnitude = 0;
	int			result;

	/* the usual case first: a sign at most, and digits that must fit */
	if (len > 0 && len <= 18)
	{
		if (*p == '-')
		{
			negative = true;
			p++;
		}
		while (p < end && is_digit(*p))
			magnitude = magnitude * 10 + (*p++ - '0');
		if (p == end && is_digit(end[-1]))
		{
			*value = negative ? -(int64) magnitude : (int64) magnitude;
			return 0;
		}
	}

	while (s < end && isspace((unsigned char) *s))
		s++;
	while (end > s && isspace((unsigned char) end[-1]))
		end--;
	if (any_number)
	{
		result = weir_parse_integer(s, end - s, value);
		if (result != WEIR_UNKNOWN_FORM)
			return result;
	}

	p = s;
	negative = false;
	if (p < end && (*p == '-' || *p == '+'))
		negative = *p++ == '-';
	if (p == end)
		return ERRCODE_INVALID_TEXT_REPRESENTATION;
	s = p;
	while (p < end && is_digit(*p))
		p++;
	if (p < end)
	{
		/* other notations begin with a digit, or with _ in the middle */
		return p > s && (isalpha((unsigned char) *p) || *p == '_') ?
			WEIR_UNKNOWN_FORM : ERRCODE_INVALID_TEXT_REPRESENTATION;
	}
	while (s < end && *s == '0')
		s++;
	if (end - s > MAX_DIGITS)
		return ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE;
	magnitude = 0;
	for (; s < end; s++)
		magnitude = magnitude * 10 + (*s - '0');
	return apply_sign(magnitude, negative, value);
}

/*
 * Floats.  Clinger's fast path ("How to read floating point numbers
 * accurately", 1990): a mantissa that the type holds exactly, times or divided
 * by a power of ten that it holds exactly, is one correctly rounded operation
 * and so what strtod() returns.
 */

static const double exact_doubles[] = {
	1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11,
	1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22
};

static const float exact_floats[] = {
	1e0f, 1e1f, 1e2f, 1e3f, 1e4f, 1e5f, 1e6f, 1e7f, 1e8f, 1e9f, 1e10f
};

/* strtod() wants a terminator, which a message does not have. */
static char *
terminated(const char *s, int len, char *buffer, int size)
{
	char	   *copy = len < size ? buffer : palloc(len + 1);

	memcpy(copy, s, len);
	copy[len] = '\0';
	return copy;
}

/* A JSON number as float8in reads it: 0, 22003 or WEIR_UNKNOWN_FORM. */
int
weir_parse_float8(const char *s, int len, float8 *value)
{
	Decimal		d;
	char		buffer[64];
	char	   *copy;
	double		result;
	int			error;

	if (!parse_decimal(s, len, &d))
		return WEIR_UNKNOWN_FORM;
	if (d.exact && d.mantissa <= (UINT64CONST(1) << 53) &&
		d.exponent >= -22 && d.exponent <= 22)
	{
		result = (double) d.mantissa;
		if (d.exponent < 0)
			result /= exact_doubles[-d.exponent];
		else
			result *= exact_doubles[d.exponent];
		*value = d.negative ? -result : result;
		return 0;
	}

	copy = terminated(s, len, buffer, sizeof(buffer));
	errno = 0;
	result = strtod(copy, NULL);
	error = errno;
	if (copy != buffer)
		pfree(copy);
	/* float8in lets the denormals through that set ERANGE */
	if (error == ERANGE &&
		(result == 0.0 || result >= HUGE_VAL || result <= -HUGE_VAL))
		return ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE;
	*value = result;
	return 0;
}

/* A JSON number as float4in reads it: 0, 22003 or WEIR_UNKNOWN_FORM. */
int
weir_parse_float4(const char *s, int len, float4 *value)
{
	Decimal		d;
	char		buffer[64];
	char	   *copy;
	float		result;
	int			error;

	if (!parse_decimal(s, len, &d))
		return WEIR_UNKNOWN_FORM;
	if (d.exact && d.mantissa <= (1 << 24) &&
		d.exponent >= -10 && d.exponent <= 10)
	{
		result = (float) d.mantissa;
		if (d.exponent < 0)
			result /= exact_floats[-d.exponent];
		else
			result *= exact_floats[d.exponent];
		*value = d.negative ? -result : result;
		return 0;
	}

	copy = terminated(s, len, buffer, sizeof(buffer));
	errno = 0;
	result = strtof(copy, NULL);
	error = errno;
	if (copy != buffer)
		pfree(copy);
	if (error == ERANGE &&
		(result == 0.0f || result >= HUGE_VALF || result <= -HUGE_VALF))
		return ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE;
	*value = result;
	return 0;
}

/*
 * Numeric.  The format on disk is the one that pg_upgrade keeps (numeric.c,
 * "NumericShort"): a 16-bit header of sign, display scale and weight, then
 * the value in base 10,000, most significant digit first, without zeros at
 * either end.
 *
 * A mantissa below 10^16 is made here, which is every amount of money; it
 * takes about 15 ns where numeric_in takes 60.
 */
#define NUMERIC_DIGITS_MAX 16
#define SHORT_MARK 0x8000
#define SHORT_NEGATIVE 0x2000
#define SHORT_SCALE_SHIFT 7
#define SHORT_WEIGHT_SIGN 0x0040
#define SHORT_WEIGHT_MASK 0x003F

static Datum
make_numeric(uint64 mantissa, int scale, int display_scale, bool negative)
{
	int16		digits[8];
	int			n = 0;			/* filled from the end of the array */
	int			weight;
	int			fraction_digits = (scale + 3) / 4;
	uint16		header = SHORT_MARK;
	Size		size;
	char	   *result;

	/* below 10^16 * 10^3 */
	mantissa *= powers[fraction_digits * 4 - scale];
	weight = -fraction_digits - 1;
	while (mantissa != 0)
	{
		int16		digit = mantissa % 10000;

		mantissa /= 10000;
		weight++;
		if (digit != 0 || n > 0)
			digits[lengthof(digits) - ++n] = digit;
	}
	if (n == 0)
	{
		weight = 0;
		negative = false;
	}

	header |= display_scale << SHORT_SCALE_SHIFT;
	if (negative)
		header |= SHORT_NEGATIVE;
	if (weight < 0)
		header |= SHORT_WEIGHT_SIGN;
	header |= weight & SHORT_WEIGHT_MASK;

	size = VARHDRSZ + sizeof(uint16) + n * sizeof(int16);
	result = palloc(size);
	SET_VARSIZE(result, size);
	memcpy(result + VARHDRSZ, &header, sizeof(header));
	memcpy(result + VARHDRSZ + sizeof(uint16),
		   &digits[lengthof(digits) - n], n * sizeof(int16));
	return PointerGetDatum(result);
}

/*
 * A plain decimal number as numeric_in reads it under typmod: 0, 22003 or
 * WEIR_UNKNOWN_FORM.
 */
int
weir_parse_numeric(const char *s, int len, int32 typmod, Datum *value)
{
	Decimal		d;
	int			display_scale;

	if (!parse_decimal(s, len, &d) || !d.exact || d.has_exponent ||
		d.mantissa >= powers[NUMERIC_DIGITS_MAX] ||
		d.scale > NUMERIC_DIGITS_MAX)
		return WEIR_UNKNOWN_FORM;
	display_scale = d.scale;

	if (typmod >= (int32) VARHDRSZ)
	{
		int			precision = ((typmod - VARHDRSZ) >> 16) & 0xFFFF;
		int			room;

		/* the scale is 11 bits with a sign */
		display_scale = (((typmod - VARHDRSZ) & 0x7FF) ^ 1024) - 1024;
		if (display_scale < 0 || display_scale > NUMERIC_DIGITS_MAX)
			return WEIR_UNKNOWN_FORM;
		if (d.scale > display_scale)
		{
			/* half away from zero */
			uint64		unit = powers[d.scale - display_scale];

			d.mantissa = (d.mantissa + unit / 2) / unit;
			d.scale = display_scale;
		}
		/* the value must be below 10^(precision - scale) */
		room = precision - display_scale + d.scale;
		if (d.mantissa != 0 &&
			(room < 0 || (room <= MAX_DIGITS && d.mantissa >= powers[room])))
			return ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE;
	}
	*value = make_numeric(d.mantissa, d.scale, display_scale, d.negative);
	return 0;
}
