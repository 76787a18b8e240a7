/*-------------------------------------------------------------------------
 *
 * extreme.c
 *	  min and max over everything that has an order.
 *
 * Types that fit a machine word compare in place.  All others go through the
 * comparison function of their default btree operator class, and the winner is
 * copied into the value store.  Where several representations of equal values
 * meet, the first one that came is kept; Postgres, too, shows any of them.
 *
 * Nothing here can take a row back: views over a source with deletes have
 * multiset.c.
 *
 *-------------------------------------------------------------------------
 */
#include "aggregate/aggregate.h"

#include <math.h>

#include "utils/datum.h"
#include "utils/expandeddatum.h"

typedef struct Extreme
{
	int64		n;				/* values seen; 0 means none yet */
	Datum		value;
} Extreme;

static void
extreme_init(const WeirState *state, char *words)
{
	memset(words, 0, sizeof(Extreme));
}

static inline int64
signed_word(Datum value, int16 typlen)
{
	switch (typlen)
	{
		case 2:
			return DatumGetInt16(value);
		case 4:
			return DatumGetInt32(value);
		default:
			return DatumGetInt64(value);
	}
}

static void
extreme_signed_advance(const WeirState *state, char **words,
					   const Datum *values, const bool *nulls, const int64 *diffs, int n)
{
	for (int i = 0; i < n; i++)
	{
		Extreme    *extreme = (Extreme *) words[i];
		int64		candidate;
		int64		holder;

		if (nulls[i])
			continue;
		candidate = signed_word(values[i], state->typlen);
		holder = signed_word(extreme->value, state->typlen);
		if (extreme->n++ == 0 ||
			(state->least ? candidate < holder : candidate > holder))
			extreme->value = values[i];
	}
}

static void
extreme_unsigned_advance(const WeirState *state, char **words,
						 const Datum *values, const bool *nulls, const int64 *diffs, int n)
{
	for (int i = 0; i < n; i++)
	{
		Extreme    *extreme = (Extreme *) words[i];
		uint64		candidate;
		uint64		holder;

		if (nulls[i])
			continue;
		candidate = state->typlen == 4 ?
			DatumGetUInt32(values[i]) : DatumGetUInt64(values[i]);
		holder = state->typlen == 4 ?
			DatumGetUInt32(extreme->value) : DatumGetUInt64(extreme->value);
		if (extreme->n++ == 0 ||
			(state->least ? candidate < holder : candidate > holder))
			extreme->value = values[i];
	}
}

/* Postgres' order of floats: NaN equals itself and is above everything. */
static inline bool
float_below(double a, double b)
{
	if (isnan(a))
		return false;
	return isnan(b) || a < b;
}

static inline void
extreme_float(const WeirState *state, Extreme *extreme,
			  double candidate, double holder, Datum value)
{
	if (extreme->n++ == 0 ||
		(state->least ? float_below(candidate, holder) :
		 float_below(holder, candidate)))
		extreme->value = value;
}

static void
extreme_float4_advance(const WeirState *state, char **words,
					   const Datum *values, const bool *nulls, const int64 *diffs, int n)
{
	for (int i = 0; i < n; i++)
	{
		Extreme    *extreme = (Extreme *) words[i];

		if (!nulls[i])
			extreme_float(state, extreme, DatumGetFloat4(values[i]),
						  DatumGetFloat4(extreme->value), values[i]);
	}
}

static void
extreme_float8_advance(const WeirState *state, char **words,
					   const Datum *values, const bool *nulls, const int64 *diffs, int n)
{
	for (int i = 0; i < n; i++)
	{
		Extreme    *extreme = (Extreme *) words[i];

		if (!nulls[i])
			extreme_float(state, extreme, DatumGetFloat8(values[i]),
						  DatumGetFloat8(extreme->value), values[i]);
	}
}

/* The other's winner contends as one value, then counts as all of its own. */
static void
extreme_merge(const WeirState *state, char *words, const char *from)
{
	const Extreme *other = (const Extreme *) from;
	bool		null = false;

	if (other->n == 0)
		return;
	state->ops->advance(state, &words, &other->value, &null, NULL, 1);
	((Extreme *) words)->n += other->n - 1;
}

Datum
weir_extreme_finish(const WeirState *state, const char *words, bool *isnull)
{
	const Extreme *extreme = (const Extreme *) words;

	*isnull = extreme->n == 0;
	return extreme->value;
}

const WeirStateOps weir_extreme_signed = {
	.name = "extreme", .size = sizeof(Extreme),
	.init = extreme_init, .advance = extreme_signed_advance,
	.merge = extreme_merge
};

const WeirStateOps weir_extreme_unsigned = {
	.name = "extreme", .size = sizeof(Extreme),
	.init = extreme_init, .advance = extreme_unsigned_advance,
	.merge = extreme_merge
};

const WeirStateOps weir_extreme_float4 = {
	.name = "extreme", .size = sizeof(Extreme),
	.init = extreme_init, .advance = extreme_float4_advance,
	.merge = extreme_merge
};

const WeirStateOps weir_extreme_float8 = {
	.name = "extreme", .size = sizeof(Extreme),
	.init = extreme_init, .advance = extreme_float8_advance,
	.merge = extreme_merge
};

/* -------------------------------------------------- values by reference */

/*
 * A short value is held in the words themselves: nearly all numerics are
 * short, and in the store each would cost an allocation per group and a cache
 * miss per row.
 */
#define SHORT_BYTES 16

typedef struct GeneralExtreme
{
	int64		n;				/* values seen; 0 means none yet */
	uint64		len;			/* bytes of `here`; 0: the value is `there` */
	union
	{
		char		here[SHORT_BYTES];
		WeirValueRef there;
	}			value;
} GeneralExtreme;

static void
extreme_general_init(const WeirState *state, char *words)
{
	memset(words, 0, sizeof(GeneralExtreme));
}

static inline Datum
held_value(const WeirState *state, const GeneralExtreme *extreme)
{
	const char *bytes = extreme->value.here;
	Size		len;

	if (extreme->len == 0)
		bytes = weir_value_get(state->store, extreme->value.there, &len);
	if (state->typbyval)
	{
		Datum		value;

		memcpy(&value, bytes, sizeof(Datum));
		return value;
	}
	return PointerGetDatum(bytes);
}

static inline void
release_value(const WeirState *state, GeneralExtreme *extreme)
{
	if (extreme->n > 0 && extreme->len == 0)
		weir_value_free(state->store, extreme->value.there);
}

static void
hold_bytes(const WeirState *state, GeneralExtreme *extreme,
		   const void *bytes, Size len)
{
	WeirValueRef there = 0;

	if (len > SHORT_BYTES)
		there = weir_value_put(state->store, bytes, len);
	release_value(state, extreme);
	memset(&extreme->value, 0, sizeof(extreme->value));
	if (len > SHORT_BYTES)
	{
		extreme->len = 0;
		extreme->value.there = there;
	}
	else
	{
		extreme->len = len;
		memcpy(extreme->value.here, bytes, len);
	}
}

/* Copies a value: detoasted, so that it depends on no other relation. */
static void
hold_value(const WeirState *state, GeneralExtreme *extreme, Datum value)
{
	struct varlena *flat;

	if (state->typbyval)
		hold_bytes(state, extreme, &value, sizeof(Datum));
	else if (state->typlen != -1)
		hold_bytes(state, extreme, DatumGetPointer(value),
				   datumGetSize(value, false, state->typlen));
	else
	{
		flat = PG_DETOAST_DATUM(value);
		hold_bytes(state, extreme, flat, VARSIZE(flat));
		if ((Pointer) flat != DatumGetPointer(value))
			pfree(flat);
	}
}

/* Puts value in the holder's place if it is better. */
static void
contend(const WeirState *state, GeneralExtreme *extreme, Datum value)
{
	if (extreme->n > 0)
	{
		int32		order;

		order = DatumGetInt32(FunctionCall2Coll((FmgrInfo *) &state->compare,
												state->collation, value,
												held_value(state, extreme)));
		if (state->least ? order >= 0 : order <= 0)
			return;
	}
	hold_value(state, extreme, value);
}

static void
extreme_general_advance(const WeirState *state, char **words,
						const Datum *values, const bool *nulls, const int64 *diffs, int n)
{
	for (int i = 0; i < n; i++)
	{
		GeneralExtreme *extreme = (GeneralExtreme *) words[i];

		if (nulls[i])
			continue;
		contend(state, extreme, values[i]);
		extreme->n++;
	}
}

static void
extreme_general_merge(const WeirState *state, char *words, const char *from)
{
	GeneralExtreme *extreme = (GeneralExtreme *) words;
	const GeneralExtreme *other = (const GeneralExtreme *) from;

	if (other->n == 0)
		return;
	contend(state, extreme, held_value(state, other));
	extreme->n += other->n;
}

Datum
weir_extreme_general_finish(const WeirState *state, const char *words,
							bool *isnull)
{
	const GeneralExtreme *extreme = (const GeneralExtreme *) words;

	*isnull = extreme->n == 0;
	return *isnull ? (Datum) 0 : held_value(state, extreme);
}

/*
 * The by-reference part: the length of the value in bytes, and the value; 0
 * for none, or one that the words hold.
 */
static void
extreme_general_save(const WeirState *state, const char *words, StringInfo out)
{
	const GeneralExtreme *extreme = (const GeneralExtreme *) words;
	Size		len = 0;
	const char *bytes = NULL;
	uint32		len32;

	if (extreme->n > 0 && extreme->len == 0)
		bytes = weir_value_get(state->store, extreme->value.there, &len);
	len32 = (uint32) len;
	appendBinaryStringInfo(out, (const char *) &len32, sizeof(len32));
	if (len > 0)
		appendBinaryStringInfo(out, bytes, len);
}

static const char *
extreme_general_load(const WeirState *state, char *words,
					 const char *in, const char *end)
{
	GeneralExtreme *extreme = (GeneralExtreme *) words;
	int64		n = extreme->n;
	bool		there = n > 0 && extreme->len == 0;
	uint32		len;

	extreme->n = 0;				/* nothing to release until it is loaded */
	if (end - in < (ptrdiff_t) sizeof(len))
		return NULL;
	memcpy(&len, in, sizeof(len));
	in += sizeof(len);
	if (end - in < (ptrdiff_t) len || (len != 0) != there ||
		n < 0 || n > PG_INT64_MAX / 2 ||
		extreme->len > SHORT_BYTES)
		return NULL;
	if (n > 0 &&
		!weir_value_has_length(state->typbyval, state->typlen,
							   there ? in : extreme->value.here,
							   there ? len : extreme->len))
		return NULL;
	if (there)
		extreme->value.there = weir_value_put(state->store, in, len);
	extreme->n = n;
	return in + len;
}

static void
extreme_general_release(const WeirState *state, char *words)
{
	GeneralExtreme *extreme = (GeneralExtreme *) words;

	release_value(state, extreme);
	extreme->n = 0;
}

const WeirStateOps weir_extreme_general = {
	.name = "extreme by comparison", .size = sizeof(GeneralExtreme),
	.by_reference = true,
	.init = extreme_general_init, .advance = extreme_general_advance,
	.merge = extreme_general_merge,
	.save = extreme_general_save, .load = extreme_general_load,
	.release = extreme_general_release
};
