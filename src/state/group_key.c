/*-------------------------------------------------------------------------
 *
 * group_key.c
 *	  The keys of a group as bytes: written, hashed, read.
 *
 * Two rows belong to one group when their keys are equal by the type's `=`,
 * with NULLs equal to each other.  For most key types that is equality of
 * bytes; numeric, floats, text under a non-deterministic collation and the
 * like need the type's own functions, and then a group shows the keys of the
 * row that founded it.
 *
 *-------------------------------------------------------------------------
 */
#include "state/state.h"

#include "catalog/pg_type.h"
#include "port/pg_bswap.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/typcache.h"

/*
 * Types whose equality is equality of bytes, once detoasted.  Whatever is not
 * known to be so goes the general way.
 */
static bool
equality_is_bytes(Oid type, Oid collation)
{
	switch (type)
	{
		case BOOLOID:
		case CHAROID:
		case INT2OID:
		case INT4OID:
		case INT8OID:
		case OIDOID:
		case DATEOID:
		case TIMEOID:
		case TIMESTAMPOID:
		case TIMESTAMPTZOID:
		case CASHOID:
		case UUIDOID:
		case BYTEAOID:
		case MACADDROID:
		case LSNOID:
		case XID8OID:
			return true;
		case TEXTOID:
		case VARCHAROID:
			return !OidIsValid(collation) ||
				get_collation_isdeterministic(collation);
		default:
			return type_is_enum(type);
	}
}

WeirKeyFormat *
weir_key_format(const WeirPlan *plan)
{
	WeirKeyFormat *format = palloc0(sizeof(*format));

	format->n = plan->n_keys;
	format->window = plan->window_key;
	format->exact = true;
	format->parts = palloc0(sizeof(WeirKeyPart) * Max(plan->n_keys, 1));
	for (int i = 0; i < plan->n_keys; i++)
	{
		WeirKey    *key = &plan->keys[i];
		WeirKeyPart *part = &format->parts[i];

		part->collation = key->collation;
		if (key->is_window)
		{
			part->typlen = sizeof(Timestamp);
			part->typbyval = true;
			part->exact = true;
			continue;
		}
		get_typlenbyval(key->type, &part->typlen, &part->typbyval);
		part->exact = equality_is_bytes(getBaseType(key->type), key->collation);
		if (part->exact)
			continue;
		format->exact = false;
		fmgr_info(key->hash_function, &part->hash);
		fmgr_info(key->eq_function, &part->equal);
	}
	return format;
}

#define BITMAP_BYTES(n) (((n) + 63) / 64 * 8)

/* Room for the longest key that is accepted. */
Size
weir_key_room(const WeirKeyFormat *format)
{
	return BITMAP_BYTES(format->n) + format->n * 16 + WEIR_MAX_KEY_BYTES + 8;
}

static inline void
set_null(char *image, int i)
{
	image[i >> 3] |= 1 << (i & 7);
}

static inline bool
is_null(const char *image, int i)
{
	return (image[i >> 3] & (1 << (i & 7))) != 0;
}

/*
 * A multiply-and-fold hash over whole words (the image is padded to 8), after
 * wyhash by Wang Yi.
 */
static inline uint64
mix(uint64 a, uint64 b)
{
	unsigned __int128 product = (unsigned __int128) a * b;

	return (uint64) product ^ (uint64) (product >> 64);
}

static inline uint32
hash_words(const char *bytes, uint32 len)
{
	uint64		hash = len;

	for (uint32 at = 0; at < len; at += 8)
	{
		uint64		word;

		memcpy(&word, bytes + at, sizeof(word));
		hash = mix(hash ^ UINT64CONST(0xa0761d6478bd642f),
				   word ^ UINT64CONST(0xe7037ed1a0b428db));
	}
	return (uint32) (hash ^ (hash >> 32));
}

/*
 * What the pane adds to the hash of the other keys, by exclusive or: so that the
 * one is had from the other, whatever the keys cost.
 */
static inline uint32
hash_pane(const WeirKeyFormat *format, const char *image)
{
	uint64		pane;
	uint64		hash;

	memcpy(&pane, image + BITMAP_BYTES(format->n), sizeof(pane));
	hash = mix(pane ^ UINT64CONST(0x589965cc75374cc3),
			   UINT64CONST(0x1d8e4e27c47d124f));
	return (uint32) (hash ^ (hash >> 32));
}

/* Keys whose types have a hash of their own: combine per key. */
static uint32
hash_keys(const WeirKeyFormat *format, const char *image)
{
	uint32		hash = 0;
	Datum		values[FUNC_MAX_ARGS];
	bool		nulls[FUNC_MAX_ARGS];
	Datum	   *value = format->n <= FUNC_MAX_ARGS ?
	values : palloc(format->n * sizeof(Datum));
	bool	   *null = format->n <= FUNC_MAX_ARGS ?
	nulls : palloc(format->n * sizeof(bool));

	weir_key_read(format, image, value, null);
	for (int i = 0; i < format->n; i++)
	{
		WeirKeyPart *part = &format->parts[i];
		uint32		h = 0;

		if (i == format->window && !null[i])
			continue;			/* the pane comes in apart */
		if (null[i])
			h = 0x9e3779b9;
		else if (!part->exact)
			h = DatumGetUInt32(FunctionCall1Coll(&part->hash, part->collation,
												 value[i]));
		else if (part->typbyval)
			h = hash_words((char *) &value[i], 8);
		else
		{
			const char *bytes = DatumGetPointer(value[i]);
			Size		size = datumGetSize(value[i], false, part->typlen);

			h = hash_words(bytes, (uint32) (size + 7) / 8 * 8);
		}
		hash = (uint32) mix(hash ^ UINT64CONST(0x8ebc6af09c88c6e3), h);
	}
	return hash;
}

/* Of all keys but the pane. */
static inline uint32
hash_others(const WeirKeyFormat *format, const char *image, uint32 len)
{
	uint32		before;
	uint32		behind;

	if (!format->exact)
		return hash_keys(format, image);
	if (format->window < 0)
		return hash_words(image, len);
	before = BITMAP_BYTES(format->n);
	behind = before + sizeof(int64);
	return hash_words(image, before) ^ hash_words(image + behind, len - behind);
}

uint32
weir_key_hash(const WeirKeyFormat *format, const char *image, uint32 len)
{
	uint32		hash = hash_others(format, image, len);

	return format->window < 0 ? hash : hash ^ hash_pane(format, image);
}

uint32
weir_key_hash_others(const WeirKeyFormat *format, const char *image,
					 uint32 hash)
{
	return format->window < 0 ? hash : hash ^ hash_pane(format, image);
}

weir_noreturn
static void
key_too_long(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
			 errmsg("group key is longer than %d bytes", WEIR_MAX_KEY_BYTES)));
}

uint32
weir_key_write(const WeirKeyFormat *format,
			   const Datum *values, const bool *nulls,
			   char *out, uint32 *hash)
{
	char	   *at = out + BITMAP_BYTES(format->n);
	char	   *limit = at + format->n * 16 + WEIR_MAX_KEY_BYTES;

	memset(out, 0, BITMAP_BYTES(format->n));
	if (format->window >= 0)
	{
		Datum		pane = nulls[format->window] ? (Datum) 0 :
			values[format->window];

		memcpy(at, &pane, sizeof(Datum));
		at += sizeof(Datum);
	}
	for (int i = 0; i < format->n; i++)
	{
		const WeirKeyPart *part = &format->parts[i];

		if (nulls[i])
			set_null(out, i);
		else if (i == format->window)
			continue;
		else if (part->typbyval)
		{
			memcpy(at, &values[i], sizeof(Datum));
			at += sizeof(Datum);
		}
		else
		{
			Datum		value = values[i];
			Size		size;
			Size		padded;

			if (part->typlen == -1)
			{
				struct varlena *flat = PG_DETOAST_DATUM_PACKED(value);
				Size		payload = VARSIZE_ANY_EXHDR(flat);

				size = payload + VARHDRSZ;
				padded = (size + 7) & ~(Size) 7;
				if (padded > (Size) (limit - at))
					key_too_long();
				memset(at + padded - 8, 0, 8);
				SET_VARSIZE(at, size);
				memcpy(at + VARHDRSZ, VARDATA_ANY(flat), payload);
			}
			else
			{
				size = datumGetSize(value, false, part->typlen);
				padded = (size + 7) & ~(Size) 7;
				if (padded > (Size) (limit - at))
					key_too_long();
				memset(at + padded - 8, 0, 8);
				memcpy(at, DatumGetPointer(value), size);
			}
			at += padded;
		}
	}
	*hash = weir_key_hash(format, out, (uint32) (at - out));
	return (uint32) (at - out);
}

void
weir_key_read(const WeirKeyFormat *format, const char *image,
			  Datum *values, bool *nulls)
{
	const char *pane = image + BITMAP_BYTES(format->n);
	const char *at = format->window < 0 ? pane : pane + sizeof(int64);

	for (int i = 0; i < format->n; i++)
	{
		const WeirKeyPart *part = &format->parts[i];

		nulls[i] = is_null(image, i);
		values[i] = (Datum) 0;
		if (nulls[i])
			continue;
		if (i == format->window)
		{
			memcpy(&values[i], pane, sizeof(Datum));
			continue;
		}
		if (part->typbyval)
		{
			memcpy(&values[i], at, sizeof(Datum));
			at += sizeof(Datum);
		}
		else
		{
			values[i] = PointerGetDatum(at);
			at += (datumGetSize(values[i], false, part->typlen) + 7) & ~(Size) 7;
		}
	}
}

bool
weir_key_is_image(const WeirKeyFormat *format, const char *image, uint32 len)
{
	Size		at = BITMAP_BYTES(format->n);

	if (format->window >= 0)
		at += sizeof(int64);	/* the pane */
	if (len < at || len % 8 != 0)
		return false;
	for (int i = 0; i < format->n; i++)
	{
		const WeirKeyPart *part = &format->parts[i];
		Size		room = len - at;
		Size		size = sizeof(Datum);

		if (is_null(image, i) || i == format->window)
			continue;
		if (!part->typbyval && part->typlen == -1)
			size = room < VARHDRSZ ? 0 : VARSIZE(image + at);
		else if (!part->typbyval && part->typlen == -2)
			size = strnlen(image + at, room) + 1;
		else if (!part->typbyval)
			size = part->typlen;
		if (size > room ||
			!weir_value_has_length(part->typbyval, part->typlen, image + at, size))
			return false;
		at += (size + 7) & ~(Size) 7;
	}
	return at == len;
}

/* Where a part that is not NULL stands: bytes from the image's beginning. */
static Size
part_offset(const WeirKeyFormat *format, const char *image, int part)
{
	const char *at = image + BITMAP_BYTES(format->n);

	if (part == format->window)
		return at - image;
	if (format->window >= 0)
		at += sizeof(int64);
	for (int i = 0; i < part; i++)
	{
		if (is_null(image, i) || i == format->window)
			continue;
		at += format->parts[i].typbyval ? sizeof(Datum) :
			(datumGetSize(PointerGetDatum(at), false,
						  format->parts[i].typlen) + 7) & ~(Size) 7;
	}
	return at - image;
}

char *
weir_key_pane_at(const WeirKeyFormat *format, char *image)
{
	if (format->window < 0 || is_null(image, format->window))
		return NULL;
	return image + BITMAP_BYTES(format->n);
}

/*
 * Two short arrays are made for each call: keys that are not exact are rare, and
 * their own functions cost more.
 */
bool
weir_key_equal(const WeirKeyFormat *format, const char *a, const char *b,
			   int except)
{
	Datum	   *values = palloc(2 * format->n * sizeof(Datum));
	bool	   *nulls = palloc(2 * format->n * sizeof(bool));
	bool		equal = true;

	weir_key_read(format, a, values, nulls);
	weir_key_read(format, b, values + format->n, nulls + format->n);
	for (int i = 0; i < format->n && equal; i++)
	{
		const WeirKeyPart *part = &format->parts[i];
		Datum		left = values[i];
		Datum		right = values[format->n + i];

		if (i == except)
			continue;
		if (nulls[i] || nulls[format->n + i])
			equal = nulls[i] == nulls[format->n + i];
		else if (part->exact)
			equal = datumIsEqual(left, right, part->typbyval, part->typlen);
		else
			equal = DatumGetBool(FunctionCall2Coll((FmgrInfo *) &part->equal,
												   part->collation,
												   left, right));
	}
	pfree(values);
	pfree(nulls);
	return equal;
}

uint64
weir_key_rank(const WeirKeyFormat *format, const char *image, int part)
{
	const char *at;
	const WeirKeyPart *wanted = &format->parts[part];
	uint64		rank = 0;

	if (is_null(image, part))
		return PG_UINT64_MAX;
	at = image + part_offset(format, image, part);
	if (wanted->typbyval)
	{
		/* as a signed number */
		memcpy(&rank, at, sizeof(rank));
		return rank ^ (UINT64CONST(1) << 63);
	}
	/* as bytes; what is shorter than eight is padded */
	if (wanted->typlen == -1)
	{
		Size		len = VARSIZE(at) - VARHDRSZ;

		memcpy(&rank, at + VARHDRSZ, Min(len, sizeof(rank)));
	}
	else
		memcpy(&rank, at, sizeof(rank));
	return pg_ntoh64(rank);
}
