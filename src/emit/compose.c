/*-------------------------------------------------------------------------
 *
 * compose.c
 *	  Windows of several panes: their states, made of those of their panes.
 *
 * Receives the panes that have changed, or whose windows close, of any keys and
 * in any order, and hands on an outcome for each of their windows that is wanted:
 * who holds its row of v, its bounds, and its merged states.  It writes nothing,
 * and makes nothing but the groups of holders that are missing.  Whether a
 * window is wanted, and what becomes of an outcome, runtime/publish.c decides.
 *
 * The panes are put together by key here.  What becomes of those of one key is in
 * compose_windows.c, for sliding and cumulating windows, and in compose_session.c.
 *
 * A state that is a pane's alone is not copied: the words are the group's.  Others
 * are in memory of the composer.  What they own by reference is in two value stores
 * of its own, one emptied after each key and one at the reset: so nothing has to
 * remember who owns what, whatever raises, and whoever deletes the context of the
 * composer without a word has emptied them as well.
 *
 *-------------------------------------------------------------------------
 */
#include "emit/compose_internal.h"

#include "miscadmin.h"
#include "port/pg_bitutils.h"
#include "utils/memutils.h"

/* Bytes of the first and the largest allocation of words. */
#define FIRST_WORDS 8192
#define MOST_WORDS (1024 * 1024)

/* Panes of one key among those given. */
typedef struct Key
{
	WeirGroup  *group;			/* the first that came */
	uint32		pane_at;		/* in its image */
	int64		n;
	int64		end;			/* in the panes by key */
} Key;

/* Of a pane given, in the order in which they came. */
typedef struct Tag
{
	int64		number;
	int64		key;			/* -1: of the NULL window */
} Tag;

/* The panes given, by key. */
typedef struct Sorted
{
	Key		   *keys;
	int64		n_keys;
	WeirGivenPane *panes;
} Sorted;

static void *take_zeros(WeirComposer *composer, int64 n, Size size);
static WeirState *copy_states(const WeirComposer *composer,
							  WeirValueStore *store);
static void empty_stores(void *arg);
static void compose_all(WeirComposer *composer, WeirGroup **panes, int n);
static void sort_panes(WeirComposer *composer, WeirGroup **panes, int n,
					   Sorted *sorted);
static void compose_null_window(WeirComposer *composer, WeirGroup *group);

/* ---- the composer ---- */

WeirComposer *
weir_composer_create(const WeirWindow *window, int window_key,
					 const WeirKeyFormat *format, WeirGroupTable *table,
					 WeirState *states, int n_states,
					 int first_state, int last_state)
{
	MemoryContext mcxt = AllocSetContextCreate(CurrentMemoryContext,
											   "pg_weir compose",
											   ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(mcxt);
	WeirComposer *composer = palloc0(sizeof(*composer));
	int			n_table_states;

	composer->window = window;
	composer->window_key = window_key;
	composer->format = format;
	composer->table = table;
	composer->states = states;
	composer->n_states = n_states;
	composer->first_state = first_state;
	composer->last_state = last_state;
	(void) weir_group_table_states(table, &n_table_states,
								   &composer->words_size);
	composer->mcxt = mcxt;
	composer->composed = AllocSetContextCreate(mcxt, "pg_weir composed",
											   ALLOCSET_DEFAULT_SIZES);
	composer->scratch = AllocSetContextCreate(mcxt, "pg_weir compose scratch",
											  ALLOCSET_DEFAULT_SIZES);
	composer->merges = palloc(n_states * sizeof(*composer->merges));
	for (int i = 0; i < n_states; i++)
	{
		const WeirStateOps *ops = states[i].ops;

		composer->merges[i] = ops->compose != NULL ? ops->compose : ops->merge;
		composer->by_reference |= ops->by_reference;
	}
	composer->passing_store = weir_value_store_create(mcxt);
	composer->lasting_store = weir_value_store_create(mcxt);
	composer->passing = copy_states(composer, composer->passing_store);
	composer->lasting = copy_states(composer, composer->lasting_store);
	composer->images = palloc(WEIR_COMPOSE_LOOKUPS * weir_key_room(format));
	composer->facts = palloc(WEIR_WINDOW_FACTS * sizeof(WeirWindowFact));
	composer->back_made = palloc(composer->words_size + 8);
	composer->callback.func = empty_stores;
	composer->callback.arg = composer;
	MemoryContextRegisterResetCallback(mcxt, &composer->callback);
	MemoryContextSwitchTo(old);
	return composer;
}

static WeirState *
copy_states(const WeirComposer *composer, WeirValueStore *store)
{
	WeirState  *copies = palloc(composer->n_states * sizeof(WeirState));

	for (int i = 0; i < composer->n_states; i++)
	{
		copies[i] = composer->states[i];
		copies[i].store = store;
		/* what a comparison remembers belongs to one caller */
		if (OidIsValid(composer->states[i].compare.fn_oid))
			fmgr_info_copy(&copies[i].compare,
						   (FmgrInfo *) &composer->states[i].compare,
						   composer->mcxt);
	}
	return copies;
}

static void
empty_stores(void *arg)
{
	WeirComposer *composer = arg;

	weir_value_store_empty(composer->passing_store);
	weir_value_store_empty(composer->lasting_store);
}

void
weir_composer_reset(WeirComposer *composer)
{
	WeirRoom	none = {0};

	empty_stores(composer);
	MemoryContextReset(composer->scratch);
	MemoryContextReset(composer->composed);
	composer->outcomes = NULL;
	composer->sessions = NULL;
	composer->n_clusters = 0;
	composer->words = NULL;
	composer->words_left = composer->words_chunk = 0;
	composer->windows = composer->numbers = composer->groups = none;
	composer->pane_words = composer->pane_had = none;
	composer->front_words = composer->front_had = composer->front_made = none;
	composer->cells = none;
}

/* ---- what both files use ---- */

void
weir_room(WeirComposer *composer, WeirRoom *room, int64 n, Size element)
{
	int64		max = Max(room->max, 64);

	if (n <= room->max)
		return;
	while (max < n)
		max *= 2;
	if (room->data == NULL)
		room->data = MemoryContextAllocHuge(composer->composed, max * element);
	else
		room->data = repalloc_huge(room->data, max * element);
	room->max = max;
}

void
weir_composed_key(WeirComposer *composer, WeirComposedKey *key,
				  const char *image, uint32 len)
{
	char	   *pane = weir_key_pane_at(composer->format, (char *) image);

	if (pane == NULL)
		elog(ERROR, "the NULL window has no panes");
	key->image = image;
	key->len = len;
	key->pane_at = pane - image;
	key->given = NULL;
	key->n_given = 0;
	composer->n_images = 0;
}

void
weir_compose_find(WeirComposer *composer, const WeirComposedKey *key,
				  const int64 *numbers, int64 n, WeirGroup **groups, bool make)
{
	char	   *images[WEIR_COMPOSE_LOOKUPS];
	uint32		lens[WEIR_COMPOSE_LOOKUPS];
	uint32		hashes[WEIR_COMPOSE_LOOKUPS];
	WeirGroup  *found[WEIR_COMPOSE_LOOKUPS];
	int64		places[WEIR_COMPOSE_LOOKUPS];
	int			n_wanted = 0;

	for (int64 i = 0; i <= n; i++)
	{
		if (n_wanted == WEIR_COMPOSE_LOOKUPS || (i == n && n_wanted > 0))
		{
			if (make)
				weir_group_table_upsert(composer->table, n_wanted, images, lens,
										hashes, found);
			else
				weir_group_table_find(composer->table, n_wanted, images, lens,
									  hashes, found);
			for (int f = 0; f < n_wanted; f++)
				groups[places[f]] = found[f];
			n_wanted = 0;
		}
		if (i == n || groups[i] != NULL)
			continue;
		images[n_wanted] = composer->images + n_wanted * key->len;
		if (n_wanted == composer->n_images)
		{
			memcpy(images[n_wanted], key->image, key->len);
			composer->n_images++;
		}
		memcpy(images[n_wanted] + key->pane_at, &numbers[i], sizeof(int64));
		lens[n_wanted] = key->len;
		hashes[n_wanted] = weir_key_hash(composer->format, images[n_wanted],
										 key->len);
		places[n_wanted++] = i;
	}
}

char *
weir_compose_words(WeirComposer *composer)
{
	Size		size = MAXALIGN(composer->words_size);
	char	   *words;

	if (composer->words_left < size)
	{
		composer->words_chunk = Min(composer->words_chunk * 2, MOST_WORDS);
		composer->words_chunk = Max(composer->words_chunk,
									Max(FIRST_WORDS, size));
		composer->words = MemoryContextAlloc(composer->composed,
											 composer->words_chunk);
		composer->words_left = composer->words_chunk;
	}
	words = composer->words;
	composer->words += size;
	composer->words_left -= size;
	return words;
}

void
weir_compose_merge(WeirComposer *composer, const WeirState *states,
				   char *words, const char *from)
{
	for (int i = 0; i < composer->n_states; i++)
		composer->merges[i] (&states[i], words + states[i].offset,
							 from + states[i].offset);
}

void
weir_compose_copy(WeirComposer *composer, const WeirState *states,
				  char *words, const char *from)
{
	memcpy(words, from, composer->words_size);
	if (!composer->by_reference)
		return;
	for (int i = 0; i < composer->n_states; i++)
	{
		const WeirState *state = &states[i];

		if (!state->ops->by_reference)
			continue;
		state->ops->init(state, words + state->offset);
		composer->merges[i] (state, words + state->offset,
							 from + state->offset);
	}
}

WeirOutcome *
weir_compose_outcome(WeirComposer *composer, WeirGroup *holder,
					 const char *words, Timestamp lower, Timestamp upper)
{
	WeirOutcome *outcome;

	if (composer->n_outcomes == composer->max_outcomes)
	{
		composer->max_outcomes *= 2;
		composer->outcomes = repalloc_huge(composer->outcomes,
										   composer->max_outcomes *
										   sizeof(WeirOutcome));
	}
	outcome = &composer->outcomes[composer->n_outcomes++];
	memset(outcome, 0, sizeof(*outcome));
	outcome->holder = holder;
	outcome->words = words;
	outcome->has_window = true;
	outcome->lower = lower;
	outcome->upper = upper;
	return outcome;
}

/* ---- panes by key ---- */

WeirOutcome *
weir_compose(WeirComposer *composer, WeirGroup **panes, int n,
			 WeirWanted wanted, void *arg, int64 *n_outcomes)
{
	MemoryContext old = CurrentMemoryContext;

	composer->wanted = wanted;
	composer->wanted_arg = arg;
	composer->n_outcomes = 0;
	composer->max_outcomes = Max(n, 16);
	for (int i = 0; i < WEIR_WINDOW_FACTS; i++)
		composer->facts[i].known = false;
	PG_TRY();
	{
		composer->outcomes = MemoryContextAllocHuge(composer->composed,
													composer->max_outcomes *
													sizeof(WeirOutcome));
		MemoryContextSwitchTo(composer->scratch);
		compose_all(composer, panes, n);
		MemoryContextSwitchTo(old);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(old);
		weir_composer_reset(composer);
		PG_RE_THROW();
	}
	PG_END_TRY();
	*n_outcomes = composer->n_outcomes;
	return composer->outcomes;
}

static void
compose_all(WeirComposer *composer, WeirGroup **panes, int n)
{
	Sorted		sorted;
	int64		begin = 0;

	sort_panes(composer, panes, n, &sorted);
	for (int64 i = 0; i < sorted.n_keys; i++)
	{
		const Key  *sorted_key = &sorted.keys[i];
		WeirComposedKey key;

		CHECK_FOR_INTERRUPTS();
		key.image = weir_group_key(composer->table, sorted_key->group);
		key.len = sorted_key->group->key_len;
		key.pane_at = sorted_key->pane_at;
		key.given = sorted.panes + begin;
		key.n_given = sorted_key->n;
		begin += sorted_key->n;
		composer->n_images = 0;
		if (composer->window->kind == WEIR_SESSION)
			weir_compose_sessions(composer, &key);
		else
			weir_compose_windows(composer, &key);
		weir_value_store_empty(composer->passing_store);
		MemoryContextReset(composer->scratch);
	}
	pfree(sorted.keys);
	pfree(sorted.panes);
}

/* To be freed with pfree(). */
static void *
take_zeros(WeirComposer *composer, int64 n, Size size)
{
	void	   *zeros = MemoryContextAllocHuge(composer->composed,
											   Max(n, 1) * size);

	memset(zeros, 0, n * size);
	return zeros;
}

static bool
is_of_key(const WeirComposer *composer, const Key *key,
		  const char *image, uint32 len, uint32 pane_at)
{
	const char *other = weir_group_key(composer->table, key->group);
	uint32		behind = pane_at + sizeof(int64);

	if (key->group->key_len == len && key->pane_at == pane_at &&
		memcmp(other, image, pane_at) == 0 &&
		memcmp(other + behind, image + behind, len - behind) == 0)
		return true;
	return !composer->format->exact &&
		weir_key_equal(composer->format, other, image, composer->window_key);
}

/*
 * The key of a pane, new or not: open addressing over keys of which there are at
 * most half as many as slots.  A slot is a hash and the number of a key, from 1.
 */
static uint32
key_of_pane(const WeirComposer *composer, Sorted *sorted,
			uint64 *slots, uint64 mask,
			WeirGroup *group, uint32 pane_at)
{
	const char *image = weir_group_key(composer->table, group);
	uint32		hash = weir_key_hash_others(composer->format, image,
											group->hash);
	uint64		at;
	Key		   *key;

	for (at = hash & mask; slots[at] != 0; at = (at + 1) & mask)
		if ((uint32) (slots[at] >> 32) == hash &&
			is_of_key(composer, &sorted->keys[(uint32) slots[at] - 1],
					  image, group->key_len, pane_at))
			return (uint32) slots[at] - 1;
	key = &sorted->keys[sorted->n_keys++];
	key->group = group;
	key->pane_at = pane_at;
	key->n = 0;
	slots[at] = ((uint64) hash << 32) | (uint32) sorted->n_keys;
	return sorted->n_keys - 1;
}

static int
order_panes(const void *a, const void *b)
{
	int64		left = ((const WeirGivenPane *) a)->number;
	int64		right = ((const WeirGivenPane *) b)->number;

	return left < right ? -1 : left > right;
}

/* Panes often are in the order of time already, since rows come in it. */
static void
order_by_number(WeirGivenPane *panes, int64 n)
{
	for (int64 i = 1; i < n; i++)
		if (panes[i - 1].number > panes[i].number)
		{
			qsort(panes, n, sizeof(WeirGivenPane), order_panes);
			return;
		}
}

/*
 * Finds out which keys the panes have, and lays them out key by key.  Those of
 * the NULL window are done with here.
 */
static void
sort_panes(WeirComposer *composer, WeirGroup **panes, int n, Sorted *sorted)
{
	uint64		n_slots = pg_nextpower2_64((uint64) Max(n, 8) * 2);
	uint64	   *slots;
	Tag		   *tags;
	int64		begin = 0;

	slots = take_zeros(composer, n_slots, sizeof(uint64));
	tags = take_zeros(composer, n, sizeof(Tag));
	sorted->keys = take_zeros(composer, n, sizeof(Key));
	sorted->panes = take_zeros(composer, n, sizeof(WeirGivenPane));
	sorted->n_keys = 0;
	for (int i = 0; i < n; i++)
	{
		const char *image = weir_group_key(composer->table, panes[i]);
		const char *pane = weir_key_pane_at(composer->format, (char *) image);

		if (i + WEIR_GROUPS_AHEAD < n)
			weir_group_prefetch(panes[i + WEIR_GROUPS_AHEAD]);
		if (pane == NULL)
		{
			compose_null_window(composer, panes[i]);
			tags[i].key = -1;
			continue;
		}
		memcpy(&tags[i].number, pane, sizeof(int64));
		tags[i].key = key_of_pane(composer, sorted, slots, n_slots - 1,
								  panes[i], pane - image);
		sorted->keys[tags[i].key].n++;
	}

	for (int64 i = 0; i < sorted->n_keys; i++)
	{
		sorted->keys[i].end = begin;
		begin += sorted->keys[i].n;
	}
	for (int i = 0; i < n; i++)
	{
		WeirGivenPane *pane;

		if (tags[i].key < 0)
			continue;
		pane = &sorted->panes[sorted->keys[tags[i].key].end++];
		pane->number = tags[i].number;
		pane->group = panes[i];
	}
	for (int64 i = 0; i < sorted->n_keys; i++)
		order_by_number(sorted->panes + sorted->keys[i].end - sorted->keys[i].n,
						sorted->keys[i].n);
	pfree(slots);
	pfree(tags);
}

/* It is a group like any other, and its own window. */
static void
compose_null_window(WeirComposer *composer, WeirGroup *group)
{
	bool		exists = weir_group_exists(composer->table, group);
	WeirOutcome *outcome;

	if (!exists && !ItemPointerIsValid(&group->result_tid))
		return;
	outcome = weir_compose_outcome(composer, group,
								   exists ? WEIR_GROUP_WORDS(group) : NULL,
								   DT_NOBEGIN, DT_NOEND);
	outcome->has_window = false;
	outcome->had = group->flags & WEIR_GROUP_REASONS;
}
