/*-------------------------------------------------------------------------
 *
 * group_table.c
 *	  Groups by key: open addressing over groups laid out in blocks.
 *
 * Receives key images with their hashes, a batch at a time, and returns the
 * groups, made where they are new.  A slot is eight bytes, the hash and a
 * reference, so that a miss or a collision is decided without touching a
 * group; references count 8-byte units over equal blocks, which gives 32 GB
 * a view in 32 bits.  Batches are probed with prefetching: at a million
 * groups each probe would otherwise wait for memory twice.
 *
 * Groups are never moved.  One whose rows have all been taken back, or that is
 * only wanted on disk, is removed: its slot is closed by shifting those behind it
 * back, so that no probe passes over graves, and its units go to a free list of
 * their size.  Keys that come and go thereby live on the same memory.  Neighbours
 * are not joined again: a view whose keys grow longer and longer keeps what its
 * short ones had, until all of a block is free and goes back.
 *
 * What is not here may be on disk.  Who knows that is asked for what a batch does
 * not find, all at once, before anything is taken for new.
 *
 *-------------------------------------------------------------------------
 */
#include "state/state.h"

#include "utils/memutils.h"

#define BLOCK_BITS 14			/* units a block: 128 kB */
#define BLOCK_UNITS (1 << BLOCK_BITS)
#define MAX_BLOCKS (1 << (32 - BLOCK_BITS))

/* A view with few groups takes few kilobytes: there may be many such. */
#define FIRST_SLOTS 256
#define FIRST_UNITS 1024

/* hash in the upper half, reference in the lower; 0 is empty */
typedef uint64 Slot;

/* A reference is the number of a block and of a unit in it. */
typedef struct GroupBlock
{
	char	   *at;				/* in this process; NULL: vacant */
	dsa_pointer pointer;
	uint32		units;			/* that it has room for */
	uint32		filled;			/* the first so many have been handed out */
	uint32		used;			/* of those, by groups */
} GroupBlock;

struct WeirGroupTable
{
	MemoryContext mcxt;
	dsa_area   *area;
	const WeirKeyFormat *format;
	WeirState  *states;
	int			n_states;
	Size		words_size;
	Size		presence;		/* of the row count, or WEIR_NO_PRESENCE */
	char	   *fresh;			/* words of a new group, n_states initialised */

	Slot	   *slots;
	dsa_pointer slots_at;
	uint64		n_slots;		/* a power of two */
	int64		n_groups;

	int			n_blocks;		/* vacant ones included */
	int			max_blocks;
	GroupBlock *blocks;
	int			current;		/* the block that is being filled, or -1 */
	Size		block_bytes;	/* of all blocks */

	/* references of removed groups, by their size in units; 0: none */
	uint32	   *free;
	uint32		max_free;		/* entries of `free` */
	Size		free_bytes;		/* of all of these */

	WeirMissing missing;		/* knows groups that are not here, or NULL */
	void	   *missing_arg;
};

static void
make_slots(WeirGroupTable *table, uint64 n_slots)
{
	table->slots_at = weir_state_allocate(n_slots * sizeof(Slot));
	table->slots = dsa_get_address(table->area, table->slots_at);
	table->n_slots = n_slots;
	memset(table->slots, 0, n_slots * sizeof(Slot));
}

WeirGroupTable *
weir_group_table_create(MemoryContext mcxt, const WeirKeyFormat *format,
						WeirState *states, int n_states, Size words_size,
						Size presence)
{
	WeirGroupTable *table = MemoryContextAllocZero(mcxt, sizeof(*table));

	table->mcxt = mcxt;
	table->area = weir_state_area();
	table->format = format;
	table->states = states;
	table->n_states = n_states;
	table->words_size = words_size;
	table->presence = presence;
	table->current = -1;
	table->fresh = MemoryContextAllocZero(mcxt, words_size + 1);
	for (int i = 0; i < n_states; i++)
		states[i].ops->init(&states[i], table->fresh + states[i].offset);
	make_slots(table, FIRST_SLOTS);
	return table;
}

static void
give_block(WeirGroupTable *table, int i)
{
	GroupBlock *block = &table->blocks[i];
	Size		bytes = (Size) block->units * 8;

	if (block->at == NULL)
		return;
	weir_state_free(block->pointer, bytes);
	table->block_bytes -= bytes;
	block->at = NULL;
}

void
weir_group_table_destroy(WeirGroupTable *table)
{
	if (table->slots != NULL)
		weir_state_free(table->slots_at, table->n_slots * sizeof(Slot));
	for (int i = 0; i < table->n_blocks; i++)
		give_block(table, i);
	dsa_trim(table->area);
	if (table->blocks != NULL)
		pfree(table->blocks);
	if (table->free != NULL)
		pfree(table->free);
	pfree(table->fresh);
	pfree(table);
}

static inline WeirGroup *
group_at(const WeirGroupTable *table, uint32 ref)
{
	return (WeirGroup *) (table->blocks[ref >> BLOCK_BITS].at +
						  (Size) (ref & (BLOCK_UNITS - 1)) * 8);
}

const char *
weir_group_key(const WeirGroupTable *table, const WeirGroup *group)
{
	return WEIR_GROUP_WORDS(group) + table->words_size;
}

/* The number of a block that there is not yet, or not any more. */
static int
vacant_block(WeirGroupTable *table)
{
	for (int i = 0; i < table->n_blocks; i++)
		if (table->blocks[i].at == NULL)
			return i;
	if (table->n_blocks >= MAX_BLOCKS)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("the groups of a view exceed 32 GB")));
	if (table->n_blocks == table->max_blocks)
	{
		int			max = Max(16, table->max_blocks * 2);

		table->blocks = table->blocks == NULL ?
			MemoryContextAlloc(table->mcxt, max * sizeof(GroupBlock)) :
			repalloc(table->blocks, max * sizeof(GroupBlock));
		table->max_blocks = max;
	}
	table->blocks[table->n_blocks].at = NULL;
	return table->n_blocks++;
}

/* The first blocks are as large as all before them. */
static uint32
next_units(const WeirGroupTable *table, uint32 units)
{
	uint32		next = FIRST_UNITS;

	while (next < BLOCK_UNITS && ((Size) next * 8 < table->block_bytes ||
								  next <= units))
		next *= 2;
	return next;
}

/* With room for a group of so many units. */
static void
add_block(WeirGroupTable *table, uint32 units)
{
	int			number = vacant_block(table);
	GroupBlock *block = &table->blocks[number];

	block->units = next_units(table, units);
	block->pointer = weir_state_allocate((Size) block->units * 8);
	block->at = dsa_get_address(table->area, block->pointer);
	block->used = 0;
	/* unit 0 of the first block stays unused: reference 0 means empty */
	block->filled = number == 0 ? 1 : 0;
	table->block_bytes += (Size) block->units * 8;
	table->current = number;
}

static inline uint32
units_of(const WeirGroupTable *table, uint32 key_len)
{
	return (uint32) ((sizeof(WeirGroup) + table->words_size + key_len + 7) / 8);
}

/* Room for `units` in the free lists, so that give_units() cannot fail. */
static void
make_free_lists(WeirGroupTable *table, uint32 units)
{
	uint32		max = Max(units + 1, table->max_free * 2);

	if (units < table->max_free)
		return;
	if (table->free == NULL)
		table->free = MemoryContextAlloc(table->mcxt, max * sizeof(uint32));
	else
		table->free = repalloc(table->free, max * sizeof(uint32));
	memset(table->free + table->max_free, 0,
		   (max - table->max_free) * sizeof(uint32));
	table->max_free = max;
}

/* Free units begin with the reference of the next ones of their size. */
static void
give_units(WeirGroupTable *table, uint32 ref, uint32 units)
{
	memcpy(group_at(table, ref), &table->free[units], sizeof(uint32));
	table->free[units] = ref;
	table->free_bytes += (Size) units * 8;
}

/*
 * Units of a removed group: of the very size, or, when the alternative is
 * another block, a piece of larger ones.
 */
static uint32
take_free_units(WeirGroupTable *table, uint32 units, bool exact)
{
	uint32		last = exact ? units + 1 : table->max_free;

	for (uint32 size = units; size < last && size < table->max_free; size++)
	{
		uint32		ref = table->free[size];

		if (ref == 0)
			continue;
		memcpy(&table->free[size], group_at(table, ref), sizeof(uint32));
		table->free_bytes -= (Size) size * 8;
		if (size > units)
			give_units(table, ref + units, size - units);
		return ref;
	}
	return 0;
}

static uint32
find_units(WeirGroupTable *table, uint32 units)
{
	uint32		ref = take_free_units(table, units, true);
	GroupBlock *block;

	if (ref != 0)
		return ref;
	if (table->current < 0 ||
		table->blocks[table->current].filled + units >
		table->blocks[table->current].units)
	{
		ref = take_free_units(table, units, false);
		if (ref != 0)
			return ref;
		add_block(table, units);
	}
	block = &table->blocks[table->current];
	ref = ((uint32) table->current << BLOCK_BITS) | block->filled;
	block->filled += units;
	return ref;
}

static uint32
take_units(WeirGroupTable *table, uint32 units)
{
	uint32		ref = find_units(table, units);

	table->blocks[ref >> BLOCK_BITS].used += units;
	return ref;
}

/* A fresh group that is in no slot yet. */
static uint32
make_group(WeirGroupTable *table, uint32 hash, const char *image, uint32 len)
{
	uint32		units = units_of(table, len);
	uint32		ref;
	WeirGroup  *group;

	if (units > BLOCK_UNITS - 1)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("a group of %zu bytes is too large",
						(Size) units * 8)));
	ref = take_units(table, units);
	group = group_at(table, ref);
	group->hash = hash;
	group->key_len = len;
	ItemPointerSetInvalid(&group->result_tid);
	ItemPointerSetInvalid(&group->state_tid);
	group->flags = 0;
	memcpy(WEIR_GROUP_WORDS(group), table->fresh, table->words_size);
	memcpy(WEIR_GROUP_WORDS(group) + table->words_size, image, len);
	return ref;
}

/* What was in other slots. */
static void
fill_slots(WeirGroupTable *table, const Slot *old, uint64 n_old)
{
	uint64		mask = table->n_slots - 1;

	for (uint64 i = 0; i < n_old; i++)
	{
		uint64		at;

		if (old[i] == 0)
			continue;
		at = (old[i] >> 32) & mask;
		while (table->slots[at] != 0)
			at = (at + 1) & mask;
		table->slots[at] = old[i];
	}
}

/* Doubles the slots.  Until the last line the old ones are untouched. */
static void
grow(WeirGroupTable *table)
{
	Slot	   *old = table->slots;
	dsa_pointer old_at = table->slots_at;
	uint64		n_old = table->n_slots;

	make_slots(table, n_old * 2);
	fill_slots(table, old, n_old);
	weir_state_free(old_at, n_old * sizeof(Slot));
}

/*
 * When nearly all groups have left, their slots may be most of what the table takes.
 * Those that stay fill a quarter or an eighth of what is left, so that slots are not
 * made fewer and more by turns.
 */
static void
shrink(WeirGroupTable *table)
{
	Slot	   *old = table->slots;
	dsa_pointer old_at = table->slots_at;
	uint64		n_old = table->n_slots;
	uint64		n_slots = FIRST_SLOTS;
	dsa_pointer at;

	if ((uint64) table->n_groups * 16 > n_old)
		return;
	while (n_slots < (uint64) table->n_groups * 4)
		n_slots *= 2;
	if (n_slots >= n_old)
		return;
	at = weir_state_allocate_smaller(n_slots * sizeof(Slot));
	if (!DsaPointerIsValid(at))
		return;
	table->slots_at = at;
	table->slots = dsa_get_address(table->area, at);
	table->n_slots = n_slots;
	memset(table->slots, 0, n_slots * sizeof(Slot));
	fill_slots(table, old, n_old);
	weir_state_free_larger(old_at, n_old * sizeof(Slot), n_slots * sizeof(Slot));
}

static inline bool
same_key(const WeirGroupTable *table, const WeirGroup *group,
		 const char *image, uint32 len)
{
	const char *key = weir_group_key(table, group);

	if (table->format->exact)
		return group->key_len == len && memcmp(key, image, len) == 0;
	return (group->key_len == len && memcmp(key, image, len) == 0) ||
		weir_key_equal(table->format, key, image, -1);
}

/* Rows of one batch between the two passes of prefetching. */
#define STRIDE 16

/* Has memory bring what probing for n hashes will look at. */
static inline void
prefetch_probes(const WeirGroupTable *table, const uint32 *hashes, int n)
{
	uint64		mask = table->n_slots - 1;

	for (int i = 0; i < n; i++)
		__builtin_prefetch(&table->slots[hashes[i] & mask]);
	for (int i = 0; i < n; i++)
	{
		Slot		slot = table->slots[hashes[i] & mask];

		if ((uint32) (slot >> 32) == hashes[i] && slot != 0)
		{
			char	   *group = (char *) group_at(table, (uint32) slot);

			__builtin_prefetch(group);
			__builtin_prefetch(group + 64);
		}
	}
}

/* The group of an image, or NULL, and *at is the empty slot that it would get. */
static inline WeirGroup *
probe(const WeirGroupTable *table, const char *image, uint32 len, uint32 hash,
	  uint64 *at)
{
	uint64		mask = table->n_slots - 1;

	for (*at = hash & mask; table->slots[*at] != 0; *at = (*at + 1) & mask)
	{
		Slot		slot = table->slots[*at];

		if ((uint32) (slot >> 32) == hash)
		{
			WeirGroup  *group = group_at(table, (uint32) slot);

			if (same_key(table, group, image, len))
				return group;
		}
	}
	return NULL;
}

/*
 * Asks for what is not here.  The one who is asked puts groups into the table,
 * without being asked in turn.
 */
static void
ask_for_missing(WeirGroupTable *table, int n, char **images,
				const uint32 *lens, const uint32 *hashes)
{
	WeirMissing missing = table->missing;
	char	  **wanted_images = palloc(sizeof(char *) * n);
	uint32	   *wanted_lens = palloc(sizeof(uint32) * n);
	uint32	   *wanted_hashes = palloc(sizeof(uint32) * n);
	int			n_wanted = 0;

	for (int first = 0; first < n; first += STRIDE)
	{
		int			end = Min(first + STRIDE, n);

		prefetch_probes(table, hashes + first, end - first);
		for (int i = first; i < end; i++)
		{
			uint64		at;

			if (probe(table, images[i], lens[i], hashes[i], &at) != NULL)
				continue;
			wanted_images[n_wanted] = images[i];
			wanted_lens[n_wanted] = lens[i];
			wanted_hashes[n_wanted++] = hashes[i];
		}
	}
	if (n_wanted > 0)
	{
		table->missing = NULL;
		PG_TRY();
		{
			missing(table->missing_arg, n_wanted, wanted_images, wanted_lens,
					wanted_hashes);
		}
		PG_CATCH();
		{
			table->missing = missing;
			PG_RE_THROW();
		}
		PG_END_TRY();
		table->missing = missing;
	}
	pfree(wanted_images);
	pfree(wanted_lens);
	pfree(wanted_hashes);
}

/* What is in the table; what is not is made, or NULL. */
static inline void
visit(WeirGroupTable *table, int n, char **images, const uint32 *lens,
	  const uint32 *hashes, WeirGroup **groups, bool make)
{
	for (int first = 0; first < n; first += STRIDE)
	{
		int			end = Min(first + STRIDE, n);

		/* three quarters full at most, also after this stride */
		if (make &&
			(uint64) (table->n_groups + STRIDE) * 4 > table->n_slots * 3)
			grow(table);

		prefetch_probes(table, hashes + first, end - first);
		for (int i = first; i < end; i++)
		{
			uint64		at;

			groups[i] = probe(table, images[i], lens[i], hashes[i], &at);
			if (groups[i] == NULL && make)
			{
				uint32		ref = make_group(table, hashes[i],
											 images[i], lens[i]);

				table->slots[at] = ((uint64) hashes[i] << 32) | ref;
				table->n_groups++;
				groups[i] = group_at(table, ref);
			}
		}
	}
}

void
weir_group_table_put(WeirGroupTable *table, int n,
					 char **images, const uint32 *lens,
					 const uint32 *hashes, WeirGroup **groups)
{
	visit(table, n, images, lens, hashes, groups, true);
}

void
weir_group_table_look(WeirGroupTable *table, int n,
					  char **images, const uint32 *lens,
					  const uint32 *hashes, WeirGroup **groups)
{
	visit(table, n, images, lens, hashes, groups, false);
}

void
weir_group_table_upsert(WeirGroupTable *table, int n,
						char **images, const uint32 *lens,
						const uint32 *hashes, WeirGroup **groups)
{
	if (table->missing != NULL)
		ask_for_missing(table, n, images, lens, hashes);
	weir_group_table_put(table, n, images, lens, hashes, groups);
}

void
weir_group_table_find(WeirGroupTable *table, int n,
					  char **images, const uint32 *lens,
					  const uint32 *hashes, WeirGroup **groups)
{
	if (table->missing != NULL)
		ask_for_missing(table, n, images, lens, hashes);
	weir_group_table_look(table, n, images, lens, hashes, groups);
}

void
weir_group_table_set_missing(WeirGroupTable *table, WeirMissing missing,
							 void *arg)
{
	table->missing = missing;
	table->missing_arg = arg;
}

int64
weir_group_table_count(const WeirGroupTable *table)
{
	return table->n_groups;
}

Size
weir_group_table_bytes(const WeirGroupTable *table)
{
	return table->n_slots * sizeof(Slot) + table->block_bytes;
}

Size
weir_group_table_free_bytes(const WeirGroupTable *table)
{
	Size		bytes = table->free_bytes;

	if (table->current >= 0)
		bytes += (Size) (table->blocks[table->current].units -
						 table->blocks[table->current].filled) * 8;
	return bytes;
}

Size
weir_group_table_growth(const WeirGroupTable *table, int n)
{
	Size		used = table->block_bytes - weir_group_table_free_bytes(table);
	Size		a_group = table->n_groups > 0 ? used / table->n_groups : 256;
	Size		wanted = (Size) n * a_group;
	Size		has = weir_group_table_free_bytes(table);
	Size		growth = wanted <= has ? 0 :
		(wanted - has + BLOCK_UNITS * 8) / (BLOCK_UNITS * 8) * (BLOCK_UNITS * 8);

	/* while slots are doubled, the old ones are there, too */
	if ((uint64) (table->n_groups + n) * 4 > table->n_slots * 3)
		growth += table->n_slots * 2 * sizeof(Slot);
	return growth;
}

WeirGroup *
weir_group_table_next(WeirGroupTable *table, uint64 *cursor)
{
	while (*cursor < table->n_slots)
	{
		Slot		slot = table->slots[(*cursor)++];

		if (slot != 0)
			return group_at(table, (uint32) slot);
	}
	return NULL;
}

WeirState *
weir_group_table_states(const WeirGroupTable *table, int *n_states,
						Size *words_size)
{
	*n_states = table->n_states;
	*words_size = table->words_size;
	return table->states;
}

const WeirKeyFormat *
weir_group_table_format(const WeirGroupTable *table)
{
	return table->format;
}

int64
weir_group_rows(const WeirGroupTable *table, const WeirGroup *group)
{
	if (table->presence == WEIR_NO_PRESENCE)
		return 1;
	return *(const int64 *) (WEIR_GROUP_WORDS(group) + table->presence);
}

void
weir_group_reset(WeirGroupTable *table, WeirGroup *group)
{
	for (int i = 0; i < table->n_states; i++)
		if (table->states[i].ops->by_reference)
			table->states[i].ops->release(&table->states[i],
										  WEIR_GROUP_WORDS(group) +
										  table->states[i].offset);
	memcpy(WEIR_GROUP_WORDS(group), table->fresh, table->words_size);
}

/* The slot of a group that is in the table. */
static uint64
slot_of(const WeirGroupTable *table, const WeirGroup *group)
{
	uint64		mask = table->n_slots - 1;
	uint64		at = group->hash & mask;

	while ((uint32) (table->slots[at] >> 32) != group->hash ||
		   group_at(table, (uint32) table->slots[at]) != group)
	{
		if (table->slots[at] == 0)
			elog(ERROR, "group is not in its table");
		at = (at + 1) & mask;
	}
	return at;
}

/*
 * Empties a slot and moves back what was put behind it because it was taken
 * (Knuth, The Art of Computer Programming 3, 6.4, algorithm R).
 */
static void
close_slot(WeirGroupTable *table, uint64 hole)
{
	uint64		mask = table->n_slots - 1;

	for (uint64 at = (hole + 1) & mask; table->slots[at] != 0;
		 at = (at + 1) & mask)
	{
		uint64		home = (table->slots[at] >> 32) & mask;

		/* may it stand in the hole: is its home not between hole and at? */
		if (((at - home) & mask) >= ((at - hole) & mask))
		{
			table->slots[hole] = table->slots[at];
			hole = at;
		}
	}
	table->slots[hole] = 0;
}

void
weir_group_table_remove(WeirGroupTable *table, WeirGroup *group)
{
	uint32		units = units_of(table, group->key_len);
	uint64		slot = slot_of(table, group);
	uint32		ref = (uint32) table->slots[slot];

	make_free_lists(table, units);
	weir_group_reset(table, group);
	close_slot(table, slot);
	give_units(table, ref, units);
	table->blocks[ref >> BLOCK_BITS].used -= units;
	table->n_groups--;
}

/* Takes what lies in blocks without groups out of the free lists. */
static void
forget_free_units(WeirGroupTable *table)
{
	for (uint32 size = 0; size < table->max_free; size++)
	{
		uint32		ref = table->free[size];
		uint32		kept = 0;

		while (ref != 0)
		{
			uint32		next;

			memcpy(&next, group_at(table, ref), sizeof(next));
			if (table->blocks[ref >> BLOCK_BITS].used == 0)
				table->free_bytes -= (Size) size * 8;
			else
			{
				memcpy(group_at(table, ref), &kept, sizeof(kept));
				kept = ref;
			}
			ref = next;
		}
		table->free[size] = kept;
	}
}

void
weir_group_table_trim(WeirGroupTable *table)
{
	int			n_empty = 0;

	for (int i = 0; i < table->n_blocks; i++)
		n_empty += table->blocks[i].at != NULL && table->blocks[i].used == 0;
	if (n_empty == 0)
	{
		shrink(table);
		return;
	}
	forget_free_units(table);
	for (int i = 0; i < table->n_blocks; i++)
		if (table->blocks[i].at != NULL && table->blocks[i].used == 0)
			give_block(table, i);
	if (table->current >= 0 && table->blocks[table->current].at == NULL)
		table->current = -1;
	/* the smaller slots may lie where blocks were */
	shrink(table);
	dsa_trim(table->area);
}

const char *
weir_group_table_fresh(const WeirGroupTable *table)
{
	return table->fresh;
}
