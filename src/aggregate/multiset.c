/*-------------------------------------------------------------------------
 *
 * multiset.c
 *	  Min and max when rows can be taken back.
 *
 * Once the least value is gone, the next one must be known: so a group holds all
 * its values, each once with the number of its rows, ordered by the type's
 * btree comparison.  Values that are equal but not the same bytes (1.0 and 1.00,
 * -0 and 0, 'a' and 'A' where a collation says so) stand beside each other,
 * each with its own count, so that what is shown is in a row that is left.
 * min(x) and max(x) share one multiset.
 *
 * While states are being merged a count can be negative, the row taken back
 * before it was given; an entry is gone when its count is 0.  finish takes the
 * first (last) run of equal values with more than 0 rows in all.
 *
 * Entries are in sorted *chunks* of at most about 2 kB, in the value store, and
 * a *directory* lists the chunks in order.  Inserting moves entries of one
 * chunk; each hundredth time or so it splits and the directory moves.  A group
 * of few values is one small chunk and no directory.
 *
 *		words --> directory --> chunk 1: entry entry ...      bytes of values
 *							--> chunk 2: ...
 *
 * Cost per distinct value of a group: 16 bytes of memory if it is by value, else
 * 16 and its own (aligned to 8), and half as much again when values arrive in
 * random order, since split chunks are half empty; about 100 bytes for the
 * first.  A commit writes *all* values of each group that changed: 2 to 10
 * bytes a number (the difference to the one before), else 2 and its own.  A
 * group of a million values is thus a TOASTed row of megabytes per commit:
 * min and max over a table suit groups of up to some thousands.
 *
 * A row costs 0.5 us (bigint, 10,000 groups of 60 values) to 2.3 us (text, one
 * group of 400,000).
 *
 * The stored order is trusted when it is loaded.  As with an index, a change of
 * a collation's rules needs a rebuild.
 *
 *-------------------------------------------------------------------------
 */
#include "aggregate/aggregate.h"

#include <math.h>

#include "utils/datum.h"
#include "utils/expandeddatum.h"

typedef struct Multiset
{
	int64		n;				/* rows with a value */
	uint32		n_chunks;
	uint32		has_directory;	/* once there have been two chunks */
	WeirValueRef root;			/* the directory, or the only chunk */
} Multiset;

typedef struct Entry
{
	int64		count;			/* never 0 */
	union
	{
		Datum		value;		/* of a type by value */
		struct
		{
			uint32		at;		/* in the chunk's data */
			uint32		len;
		}			bytes;
	}			u;
} Entry;

/* Entries grow from the beginning of the data, bytes of values from its end. */
typedef struct Chunk
{
	uint32		n;
	uint32		size;			/* bytes of data */
	uint32		heap;			/* where the bytes of values begin */
	uint32		dead;			/* bytes behind that which no entry has */
	char		data[FLEXIBLE_ARRAY_MEMBER];
} Chunk;

typedef struct Directory
{
	uint64		size;			/* places for chunks */
	WeirValueRef chunks[FLEXIBLE_ARRAY_MEMBER];
} Directory;

/*
 * Data of a chunk: the first one of a group, and the most, unless a value alone
 * needs more.
 */
#define CHUNK_MIN 64
#define CHUNK_MAX 2000

#define CHUNK_BYTES(size) (offsetof(Chunk, data) + (size))
#define DIRECTORY_BYTES(size) \
	(offsetof(Directory, chunks) + (size) * sizeof(WeirValueRef))

#define ENTRIES(chunk) ((Entry *) (chunk)->data)

/* A value to look for, or to add: a Datum, or bytes. */
typedef struct Wanted
{
	Datum		value;
	uint32		len;			/* 0 if it is by value */
} Wanted;

static void
multiset_init(const WeirState *state, char *words)
{
	memset(words, 0, sizeof(Multiset));
}

/* ----------------------------------------------------------------- order */

static inline int
order_signed(Datum a, Datum b, int16 typlen)
{
	int64		left;
	int64		right;

	if (typlen == 2)
		return (int) DatumGetInt16(a) - (int) DatumGetInt16(b);
	left = typlen == 4 ? DatumGetInt32(a) : DatumGetInt64(a);
	right = typlen == 4 ? DatumGetInt32(b) : DatumGetInt64(b);
	return left < right ? -1 : left > right;
}

static inline int
order_unsigned(Datum a, Datum b, int16 typlen)
{
	uint64		left = typlen == 4 ? DatumGetUInt32(a) : DatumGetUInt64(a);
	uint64		right = typlen == 4 ? DatumGetUInt32(b) : DatumGetUInt64(b);

	return left < right ? -1 : left > right;
}

/* Postgres' order of floats: NaN equals itself and is above everything. */
static inline int
order_floats(double a, double b)
{
	if (isnan(a) || isnan(b))
		return (isnan(a) ? 1 : 0) - (isnan(b) ? 1 : 0);
	return a < b ? -1 : a > b;
}

static int
order_values(const WeirState *state, Datum a, Datum b)
{
	if (state->ops == &weir_multiset_signed)
		return order_signed(a, b, state->typlen);
	if (state->ops == &weir_multiset_unsigned)
		return order_unsigned(a, b, state->typlen);
	if (state->ops == &weir_multiset_float4)
		return order_floats(DatumGetFloat4(a), DatumGetFloat4(b));
	if (state->ops == &weir_multiset_float8)
		return order_floats(DatumGetFloat8(a), DatumGetFloat8(b));
	return DatumGetInt32(FunctionCall2Coll((FmgrInfo *) &state->compare,
										   state->collation, a, b));
}

static inline Datum
entry_value(const WeirState *state, const Chunk *chunk, uint32 i)
{
	const Entry *entry = &ENTRIES(chunk)[i];

	return state->typbyval ? entry->u.value :
		PointerGetDatum(chunk->data + entry->u.bytes.at);
}

/* By the type's order, then by bytes. */
static int
order_entry(const WeirState *state, const Wanted *wanted,
			const Chunk *chunk, uint32 i)
{
	const Entry *entry = &ENTRIES(chunk)[i];
	Datum		value = entry_value(state, chunk, i);
	int			order = order_values(state, wanted->value, value);

	if (order != 0)
		return order;
	if (state->typbyval)
		return wanted->value < value ? -1 : wanted->value > value;
	if (wanted->len != entry->u.bytes.len)
		return wanted->len < entry->u.bytes.len ? -1 : 1;
	return memcmp(DatumGetPointer(wanted->value), DatumGetPointer(value),
				  wanted->len);
}

/* --------------------------------------------------------------- chunks */

/* Where chunk i is referred to: in the words, or in the directory. */
static inline WeirValueRef *
chunk_ref(const WeirState *state, Multiset *set, uint32 i)
{
	Directory  *directory;

	if (!set->has_directory)
		return &set->root;
	directory = (Directory *) weir_value_edit(state->store, set->root);
	return &directory->chunks[i];
}

static inline Chunk *
chunk_at(const WeirState *state, Multiset *set, uint32 i)
{
	return (Chunk *) weir_value_edit(state->store, *chunk_ref(state, set, i));
}

static WeirValueRef
new_chunk(const WeirState *state, uint32 size)
{
	WeirValueRef ref = weir_value_put(state->store, NULL, CHUNK_BYTES(size));
	Chunk	   *chunk = (Chunk *) weir_value_edit(state->store, ref);

	chunk->n = 0;
	chunk->size = chunk->heap = size;
	chunk->dead = 0;
	return ref;
}

/* Bytes of data that an entry needs. */
static inline uint32
entry_bytes(uint32 len)
{
	return sizeof(Entry) + MAXALIGN(len);
}

static inline uint32
used_bytes(const Chunk *chunk)
{
	return chunk->n * sizeof(Entry) + chunk->size - chunk->heap - chunk->dead;
}

static inline bool
has_room(const Chunk *chunk, uint32 bytes)
{
	return chunk->n * sizeof(Entry) + bytes <= chunk->heap;
}

/* Puts an entry at place i of a chunk that has room for it. */
static void
place_entry(const WeirState *state, Chunk *chunk, uint32 i,
			const Wanted *wanted, int64 count)
{
	Entry	   *entry = &ENTRIES(chunk)[i];

	memmove(entry + 1, entry, (chunk->n - i) * sizeof(Entry));
	chunk->n++;
	entry->count = count;
	if (state->typbyval)
	{
		entry->u.value = wanted->value;
		return;
	}
	chunk->heap -= MAXALIGN(wanted->len);
	entry->u.bytes.at = chunk->heap;
	entry->u.bytes.len = wanted->len;
	memcpy(chunk->data + chunk->heap, DatumGetPointer(wanted->value),
		   wanted->len);
}

/* Appends entries first to last - 1 of a chunk to another that has room. */
static void
copy_entries(const WeirState *state, Chunk *to, const Chunk *from,
			 uint32 first, uint32 last)
{
	for (uint32 i = first; i < last; i++)
	{
		Wanted		wanted;

		wanted.value = entry_value(state, from, i);
		wanted.len = state->typbyval ? 0 : ENTRIES(from)[i].u.bytes.len;
		place_entry(state, to, to->n, &wanted, ENTRIES(from)[i].count);
	}
}

/* A chunk written anew with so many bytes of data. */
static Chunk *
resize_chunk(const WeirState *state, Multiset *set, uint32 i, uint32 size)
{
	WeirValueRef *ref = chunk_ref(state, set, i);
	WeirValueRef old = *ref;
	WeirValueRef resized = new_chunk(state, size);
	Chunk	   *to = (Chunk *) weir_value_edit(state->store, resized);
	const Chunk *from = (const Chunk *) weir_value_edit(state->store, old);

	copy_entries(state, to, from, 0, from->n);
	*ref = resized;
	weir_value_free(state->store, old);
	return to;
}

/* Sizes double, so that a group grows in few steps. */
static uint32
size_for(uint32 bytes)
{
	uint32		size = CHUNK_MIN;

	while (size < bytes && size < CHUNK_MAX)
		size = Min(size * 2, CHUNK_MAX);
	return Max(size, bytes);
}

/* Makes sure that there is a place for one chunk more. */
static void
reserve_place(const WeirState *state, Multiset *set)
{
	uint64		size = Max(16, (uint64) set->n_chunks * 2);
	WeirValueRef old = set->root;
	WeirValueRef grown;
	Directory  *to;

	if (set->n_chunks == 0)
		return;
	if (set->has_directory && set->n_chunks <
		((Directory *) weir_value_edit(state->store, old))->size)
		return;
	grown = weir_value_put(state->store, NULL, DIRECTORY_BYTES(size));
	to = (Directory *) weir_value_edit(state->store, grown);
	to->size = size;
	memcpy(to->chunks, chunk_ref(state, set, 0),
		   set->n_chunks * sizeof(WeirValueRef));
	if (set->has_directory)
		weir_value_free(state->store, old);
	set->root = grown;
	set->has_directory = true;
}

/* Makes an empty chunk number i. */
static Chunk *
add_chunk(const WeirState *state, Multiset *set, uint32 i, uint32 size)
{
	WeirValueRef chunk;
	WeirValueRef *place;

	reserve_place(state, set);	/* what can raise comes first */
	chunk = new_chunk(state, size);
	place = chunk_ref(state, set, i);
	if (i < set->n_chunks)
		memmove(place + 1, place, (set->n_chunks - i) * sizeof(WeirValueRef));
	*place = chunk;
	set->n_chunks++;
	return (Chunk *) weir_value_edit(state->store, chunk);
}

static void
drop_chunk(const WeirState *state, Multiset *set, uint32 i)
{
	WeirValueRef *place = chunk_ref(state, set, i);

	weir_value_free(state->store, *place);
	set->n_chunks--;
	if (i < set->n_chunks)
		memmove(place, place + 1, (set->n_chunks - i) * sizeof(WeirValueRef));
	if (set->n_chunks == 0 && set->has_directory)
	{
		weir_value_free(state->store, set->root);
		set->has_directory = false;
	}
	if (set->n_chunks == 0)
		set->root = 0;
}

/* Moves the second half of a chunk to a new one behind it. */
static void
split_chunk(const WeirState *state, Multiset *set, uint32 i)
{
	Chunk	   *left = chunk_at(state, set, i);
	uint32		middle = left->n / 2;
	uint32		moved = 0;
	Chunk	   *right;

	for (uint32 e = middle; e < left->n; e++)
		moved += entry_bytes(state->typbyval ? 0 : ENTRIES(left)[e].u.bytes.len);
	right = add_chunk(state, set, i + 1, size_for(moved + sizeof(Entry)));
	copy_entries(state, right, left, middle, left->n);
	left->dead += moved - (left->n - middle) * sizeof(Entry);
	left->n = middle;
}

/* -------------------------------------------------------------- entries */

/*
 * Where the entry is, or would have to go: at place *at of chunk *chunk.  True
 * if it is there.
 */
static bool
find(const WeirState *state, Multiset *set, const Wanted *wanted,
	 uint32 *chunk, uint32 *at)
{
	uint32		low = 0;
	uint32		high = set->n_chunks;
	const Chunk *entries;

	*chunk = *at = 0;
	if (set->n_chunks == 0)
		return false;

	/* the last chunk whose first entry is not above it, or the first */
	while (high - low > 1)
	{
		uint32		middle = low + (high - low) / 2;

		if (order_entry(state, wanted, chunk_at(state, set, middle), 0) < 0)
			high = middle;
		else
			low = middle;
	}
	*chunk = low;
	entries = chunk_at(state, set, low);
	low = 0;
	high = entries->n;
	while (low < high)
	{
		uint32		middle = low + (high - low) / 2;
		int			order = order_entry(state, wanted, entries, middle);

		if (order == 0)
		{
			*at = middle;
			return true;
		}
		if (order < 0)
			high = middle;
		else
			low = middle + 1;
	}
	*at = low;
	return false;
}

/*
 * Inserts an entry at a place that find() gave.  False if a chunk had to be
 * split first: look for the place again.
 */
static bool
insert_entry(const WeirState *state, Multiset *set, uint32 i, uint32 at,
			 const Wanted *wanted, int64 count)
{
	uint32		bytes = entry_bytes(wanted->len);
	Chunk	   *chunk;

	if (set->n_chunks == 0)
	{
		place_entry(state, add_chunk(state, set, 0, size_for(bytes)), 0,
					wanted, count);
		return true;
	}
	chunk = chunk_at(state, set, i);
	if (!has_room(chunk, bytes) && used_bytes(chunk) + bytes <= CHUNK_MAX)
		chunk = resize_chunk(state, set, i,
							 size_for(used_bytes(chunk) + bytes));
	if (has_room(chunk, bytes))
	{
		place_entry(state, chunk, at, wanted, count);
		return true;
	}

	/* rows mostly come in order of time: leave full chunks behind */
	if (at == chunk->n && (i == set->n_chunks - 1 || chunk->n == 1))
		i++;
	else if (at != 0 || (i != 0 && chunk->n > 1))
	{
		split_chunk(state, set, i);
		return false;
	}
	place_entry(state, add_chunk(state, set, i, size_for(bytes)), 0,
				wanted, count);
	return true;
}

static void
remove_entry(const WeirState *state, Multiset *set, uint32 i, uint32 at)
{
	Chunk	   *chunk = chunk_at(state, set, i);
	Entry	   *entry = &ENTRIES(chunk)[at];

	if (!state->typbyval)
		chunk->dead += MAXALIGN(entry->u.bytes.len);
	chunk->n--;
	memmove(entry, entry + 1, (chunk->n - at) * sizeof(Entry));
	if (chunk->n == 0)
		drop_chunk(state, set, i);
	else if (chunk->size > CHUNK_MIN && used_bytes(chunk) < chunk->size / 4)
		resize_chunk(state, set, i, size_for(used_bytes(chunk)));
}

static void
add_entry(const WeirState *state, Multiset *set, const Wanted *wanted,
		  int64 count)
{
	uint32		chunk;
	uint32		at;

	for (;;)
	{
		if (find(state, set, wanted, &chunk, &at))
		{
			Entry	   *entry = &ENTRIES(chunk_at(state, set, chunk))[at];

			entry->count += count;
			if (entry->count == 0)
				remove_entry(state, set, chunk, at);
			return;
		}
		if (insert_entry(state, set, chunk, at, wanted, count))
			return;
	}
}

static void
multiset_advance(const WeirState *state, char **words, const Datum *values,
				 const bool *nulls, const int64 *diffs, int n)
{
	for (int i = 0; i < n; i++)
	{
		Multiset   *set = (Multiset *) words[i];
		int64		diff = diffs == NULL ? 1 : diffs[i];
		Wanted		wanted = {.value = values[i]};
		struct varlena *flat = NULL;

		if (nulls[i] || diff == 0)
			continue;
		if (!state->typbyval && state->typlen == -1)
		{
			/* detoasted, so that it depends on no other relation */
			flat = PG_DETOAST_DATUM(values[i]);
			wanted.value = PointerGetDatum(flat);
		}
		if (!state->typbyval)
			wanted.len = datumGetSize(wanted.value, false, state->typlen);
		add_entry(state, set, &wanted, diff);
		set->n += diff;
		if (flat != NULL && (Pointer) flat != DatumGetPointer(values[i]))
			pfree(flat);
	}
}

static void
multiset_merge(const WeirState *state, char *words, const char *from)
{
	Multiset   *set = (Multiset *) words;
	Multiset	other = *(const Multiset *) from;

	for (uint32 i = 0; i < other.n_chunks; i++)
	{
		const Chunk *chunk = chunk_at(state, &other, i);

		for (uint32 e = 0; e < chunk->n; e++)
		{
			Wanted		wanted;

			wanted.value = entry_value(state, chunk, e);
			wanted.len = state->typbyval ? 0 : ENTRIES(chunk)[e].u.bytes.len;
			add_entry(state, set, &wanted, ENTRIES(chunk)[e].count);
		}
	}
	set->n += other.n;
}

/* --------------------------------------------------------------- results */

/* A place between entries, walked in either direction. */
typedef struct Walk
{
	uint32		chunk;			/* counted from the end if backward */
	uint32		entry;
} Walk;

/* The next entry, NULL at the end; its value goes to *value. */
static const Entry *
next_entry(const WeirState *state, Multiset *set, Walk *walk, bool backward,
		   Datum *value)
{
	const Chunk *chunk;
	uint32		at;

	if (walk->chunk == set->n_chunks)
		return NULL;
	chunk = chunk_at(state, set, backward ? set->n_chunks - 1 - walk->chunk :
					 walk->chunk);
	at = backward ? chunk->n - 1 - walk->entry : walk->entry;
	if (++walk->entry == chunk->n)
	{
		walk->entry = 0;
		walk->chunk++;
	}
	*value = entry_value(state, chunk, at);
	return &ENTRIES(chunk)[at];
}

static Datum
find_extreme(const WeirState *state, const char *words, bool backward,
			 bool *isnull)
{
	Multiset	set = *(const Multiset *) words;
	Walk		walk = {0};
	const Entry *entry;
	Datum		value;
	Datum		shown = (Datum) 0;	/* of this run of equal values */
	Datum		last = (Datum) 0;
	int64		shown_rows = 0;
	int64		rows = 0;
	bool		first = true;

	while ((entry = next_entry(state, &set, &walk, backward, &value)) != NULL)
	{
		if (!first && order_values(state, last, value) != 0)
		{
			if (rows > 0)
				break;
			rows = shown_rows = 0;
		}
		rows += entry->count;
		if (entry->count > shown_rows)
		{
			shown = value;
			shown_rows = entry->count;
		}
		last = value;
		first = false;
	}
	*isnull = rows <= 0;
	return shown;
}

Datum
weir_multiset_min(const WeirState *state, const char *words, bool *isnull)
{
	return find_extreme(state, words, false, isnull);
}

Datum
weir_multiset_max(const WeirState *state, const char *words, bool *isnull)
{
	return find_extreme(state, words, true, isnull);
}

/* Its two ends, one row each: so what is composed of n states has 2 n values. */
static void
multiset_compose(const WeirState *state, char *words, const char *from)
{
	for (int backward = 0; backward < 2; backward++)
	{
		bool		isnull;
		Datum		value = find_extreme(state, from, backward != 0, &isnull);

		if (!isnull)
			multiset_advance(state, &words, &value, &isnull, NULL, 1);
	}
}

/* -------------------------------------------------------- stored, freed */

/* Seven bits a byte, the lowest first. */
static void
save_number(StringInfo out, uint64 number)
{
	char		bytes[10];
	int			n = 0;

	for (; number >= 0x80; number >>= 7)
		bytes[n++] = (char) (number | 0x80);
	bytes[n++] = (char) number;
	appendBinaryStringInfo(out, bytes, n);
}

static bool
load_number(const char **in, const char *end, uint64 *number)
{
	*number = 0;
	for (int shift = 0; shift < 64 && *in < end; shift += 7)
	{
		uint64		byte = (unsigned char) *(*in)++;

		*number |= (byte & 0x7F) << shift;
		if ((byte & 0x80) == 0)
			return true;
	}
	return false;
}

/* Small numbers of either sign to small ones. */
static inline uint64
fold_sign(int64 number)
{
	return (uint64) number << 1 ^ (uint64) (number >> 63);
}

static inline int64
unfold_sign(uint64 number)
{
	return (int64) (number >> 1 ^ -(number & 1));
}

/*
 * The number of entries; then of each, in order, its count, and the difference
 * to the value before it, or its length and bytes.
 */
static void
multiset_save(const WeirState *state, const char *words, StringInfo out)
{
	Multiset	set = *(const Multiset *) words;
	uint64		n = 0;
	uint64		last = 0;
	Walk		walk = {0};
	const Entry *entry;
	Datum		value;

	for (uint32 i = 0; i < set.n_chunks; i++)
		n += chunk_at(state, &set, i)->n;
	save_number(out, n);
	while ((entry = next_entry(state, &set, &walk, false, &value)) != NULL)
	{
		save_number(out, fold_sign(entry->count));
		if (state->typbyval)
		{
			save_number(out, fold_sign((int64) ((uint64) value - last)));
			last = (uint64) value;
			continue;
		}
		save_number(out, entry->u.bytes.len);
		appendBinaryStringInfo(out, DatumGetPointer(value),
							   entry->u.bytes.len);
	}
}

static const char *
multiset_load(const WeirState *state, char *words,
			  const char *in, const char *end)
{
	Multiset   *set = (Multiset *) words;
	uint64		n;
	uint64		last = 0;

	set->n_chunks = 0;
	set->has_directory = false;
	set->root = 0;
	if (!load_number(&in, end, &n))
		return NULL;
	for (uint64 i = 0; i < n; i++)
	{
		Wanted		wanted = {0};
		uint64		count;
		uint64		number;
		uint32		chunk = Max(set->n_chunks, 1) - 1;

		if (!load_number(&in, end, &count) || !load_number(&in, end, &number))
			return NULL;
		if (state->typbyval)
			last = wanted.value = (Datum) (last + (uint64) unfold_sign(number));
		else
		{
			if (number == 0 || number > (uint64) (end - in) ||
				!weir_value_has_length(false, state->typlen, in, number))
				return NULL;
			wanted.value = PointerGetDatum(in);
			wanted.len = (uint32) number;
			in += number;
		}
		insert_entry(state, set, chunk,
					 set->n_chunks == 0 ? 0 : chunk_at(state, set, chunk)->n,
					 &wanted, unfold_sign(count));
	}
	return in;
}

static void
multiset_release(const WeirState *state, char *words)
{
	Multiset   *set = (Multiset *) words;

	for (uint32 i = 0; i < set->n_chunks; i++)
		weir_value_free(state->store, *chunk_ref(state, set, i));
	if (set->has_directory)
		weir_value_free(state->store, set->root);
	memset(set, 0, sizeof(*set));
}

/* They differ in how they compare; see order_values(). */
#define MULTISET_OPS(ops, name_) \
	const WeirStateOps ops = { \
		.name = (name_), .size = sizeof(Multiset), \
		.by_reference = true, .retracts = true, \
		.init = multiset_init, .advance = multiset_advance, \
		.merge = multiset_merge, .compose = multiset_compose, \
		.save = multiset_save, \
		.load = multiset_load, .release = multiset_release \
	}

MULTISET_OPS(weir_multiset_signed, "multiset");
MULTISET_OPS(weir_multiset_unsigned, "multiset");
MULTISET_OPS(weir_multiset_float4, "multiset");
MULTISET_OPS(weir_multiset_float8, "multiset");
MULTISET_OPS(weir_multiset_general, "multiset by comparison");
