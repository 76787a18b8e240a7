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
 * The panes are put together by key, and of each key the wanted windows are
 * walked in the order of time.  Neighbours share most of their panes, so panes
 * are looked up once for a run of windows that touch, and merged by two stacks:
 *
 *		panes		 3    4    5    6    7    8    9
 *		window					 |-------------------|
 *					.. front ...... | ... back .......
 *					 5-7  6-7  7    |  8-9
 *
 * Front has, for each of its panes, the merged states from there to its end; back
 * has one, of all panes that came since.  A window is a state of front and back
 * together.  When the windows have passed the end of front, back becomes front,
 * from its last pane backwards.  Each pane is thus merged once into either, and
 * each window is one merge more, whatever the number of its panes; and no state
 * is ever asked to take another one out, which most cannot.  (The two stacks of a
 * queue that knows its minimum; van Herk 1992 and Gil and Werman 1993 do it in
 * blocks of a fixed length, which months and cumulating windows have not.)
 * Cumulating windows never pass an end, so all is in back: prefix sums.
 *
 * A state that is a pane's alone is not copied: the words are the group's.  Others
 * are in memory of the composer.  What they own by reference is in two value stores
 * of its own, one emptied after each key and one at the reset: so nothing has to
 * remember who owns what, whatever raises, and whoever deletes the context of the
 * composer without a word has emptied them as well.
 *
 * Sessions are in compose_session.c.
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
static void compose_windows(WeirComposer *composer, const WeirComposedKey *key);
static int64 collect_windows(WeirComposer *composer, const WeirComposedKey *key);
static void compose_run(WeirComposer *composer, const WeirComposedKey *key,
						const WeirWindowFact *windows, int64 n, int64 *given);

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
	char	   *pane = weir_key_pane_at(composer->format, (char *) image,
										composer->window_key);

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
			compose_windows(composer, &key);
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
			WeirGroup *group, char *copy, uint32 pane_at)
{
	const char *image = weir_group_key(composer->table, group);
	static const int64 no_pane = 0;
	uint32		hash;
	uint64		at;
	Key		   *key;

	memcpy(copy, image, group->key_len);
	memcpy(copy + pane_at, &no_pane, sizeof(no_pane));
	hash = weir_key_hash(composer->format, copy, group->key_len);
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
	char	   *copy = palloc(weir_key_room(composer->format));
	int64		begin = 0;

	slots = take_zeros(composer, n_slots, sizeof(uint64));
	tags = take_zeros(composer, n, sizeof(Tag));
	sorted->keys = take_zeros(composer, n, sizeof(Key));
	sorted->panes = take_zeros(composer, n, sizeof(WeirGivenPane));
	sorted->n_keys = 0;
	for (int i = 0; i < n; i++)
	{
		const char *image = weir_group_key(composer->table, panes[i]);
		const char *pane = weir_key_pane_at(composer->format, (char *) image,
											composer->window_key);

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
								  panes[i], copy, pane - image);
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
	pfree(copy);
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

/* ---- windows of one key ---- */

static void
compose_windows(WeirComposer *composer, const WeirComposedKey *key)
{
	int64		n = collect_windows(composer, key);
	const WeirWindowFact *windows = composer->windows.data;
	int64		given = 0;
	int64		end;

	/* runs of windows that touch */
	for (int64 begin = 0; begin < n; begin = end)
	{
		for (end = begin + 1; end < n; end++)
			if (windows[end].first > windows[end - 1].last + 1)
				break;
		compose_run(composer, key, windows + begin, end - begin, &given);
	}
}

/*
 * Keys mostly have the same windows, whose bounds may take a walk through a time
 * zone.
 */
static const WeirWindowFact *
window_fact(WeirComposer *composer, int64 number)
{
	WeirWindowFact *fact = &composer->facts[number & (WEIR_WINDOW_FACTS - 1)];

	if (fact->known && fact->number == number)
		return fact;
	fact->known = true;
	fact->number = number;
	fact->wanted = weir_window_bounds(composer->window, number,
									  &fact->lower, &fact->upper) &&
		composer->wanted(composer->wanted_arg, fact->lower, fact->upper);
	if (fact->wanted)
	{
		weir_panes_of(composer->window, number, &fact->first, &fact->last);
		fact->holder = weir_holder_of(composer->window, number);
	}
	return fact;
}

/* The windows of the panes given that are wanted, in order. */
static int64
collect_windows(WeirComposer *composer, const WeirComposedKey *key)
{
	int64		n = 0;
	int64		next = PG_INT64_MIN;

	for (int64 i = 0; i < key->n_given; i++)
	{
		int64		first;
		int64		last;

		weir_windows_of(composer->window, key->given[i].number, &first, &last);
		first = Max(first, next);
		if (first > last)
			continue;
		weir_room(composer, &composer->windows, n + (last - first + 1),
				  sizeof(WeirWindowFact));
		for (int64 number = first; number <= last; number++)
		{
			const WeirWindowFact *fact = window_fact(composer, number);

			if (fact->wanted)
				((WeirWindowFact *) composer->windows.data)[n++] = *fact;
		}
		next = last + 1;
	}
	return n;
}

/*
 * The panes base .. base + n - 1 of a key: their groups, and their words if they
 * have rows.  *given is where in key->given the panes begin, and is moved on.
 */
static void
gather_panes(WeirComposer *composer, const WeirComposedKey *key,
			 int64 base, int64 n, int64 *given)
{
	int64	   *numbers;
	WeirGroup **groups;
	const char **words;
	uint32	   *had;

	weir_room(composer, &composer->numbers, n, sizeof(int64));
	weir_room(composer, &composer->groups, n, sizeof(WeirGroup *));
	weir_room(composer, &composer->pane_words, n, sizeof(char *));
	weir_room(composer, &composer->pane_had, n, sizeof(uint32));
	numbers = composer->numbers.data;
	groups = composer->groups.data;
	words = composer->pane_words.data;
	had = composer->pane_had.data;
	for (int64 i = 0; i < n; i++)
	{
		numbers[i] = base + i;
		groups[i] = NULL;
	}
	for (; *given < key->n_given && key->given[*given].number < base + n;
		 ++*given)
		if (key->given[*given].number >= base)
			groups[key->given[*given].number - base] = key->given[*given].group;
	weir_compose_find(composer, key, numbers, n, groups, false);
	for (int64 i = 0; i < n; i++)
	{
		bool		exists = groups[i] != NULL &&
			weir_group_exists(composer->table, groups[i]);

		if (i + WEIR_GROUPS_AHEAD < n && groups[i + WEIR_GROUPS_AHEAD] != NULL)
			weir_group_prefetch(groups[i + WEIR_GROUPS_AHEAD]);
		words[i] = exists ? WEIR_GROUP_WORDS(groups[i]) : NULL;
		had[i] = groups[i] != NULL ? groups[i]->flags & WEIR_GROUP_REASONS : 0;
	}
}

/*
 * The two stacks: panes front_first .. back_first - 1 are in front, and
 * back_first .. end - 1 in back.
 */
typedef struct Stacks
{
	int64		front_first;
	int64		back_first;
	int64		end;
	const char *back;			/* words; NULL: no pane has rows */
	uint32		back_had;		/* what the panes of back had */
} Stacks;

/* The states of two stretches of panes together, in words that can take them. */
static const char *
together(WeirComposer *composer, const WeirState *states,
		 const char *a, const char *b, char *words)
{
	weir_compose_copy(composer, states, words, a);
	weir_compose_merge(composer, states, words, b);
	return words;
}

static void
push_back(WeirComposer *composer, Stacks *stacks)
{
	const char *pane = ((const char **) composer->pane_words.data)[stacks->end];

	stacks->back_had |= ((uint32 *) composer->pane_had.data)[stacks->end++];
	if (pane == NULL)
		return;
	if (stacks->back == NULL)
		stacks->back = pane;
	else if (stacks->back == composer->back_made)
		weir_compose_merge(composer, composer->passing, composer->back_made,
						   pane);
	else
		stacks->back = together(composer, composer->passing, stacks->back, pane,
								composer->back_made);
}

/* Panes first .. end - 1 become front, and back is empty. */
static void
turn_over(WeirComposer *composer, Stacks *stacks, int64 first)
{
	const char **panes = composer->pane_words.data;
	const uint32 *had = composer->pane_had.data;
	const char **front;
	uint32	   *front_had;
	char	   *made;
	const char *rest = NULL;
	uint32		rest_had = 0;
	Size		size = MAXALIGN(composer->words_size);

	weir_room(composer, &composer->front_words, stacks->end, sizeof(char *));
	weir_room(composer, &composer->front_had, stacks->end, sizeof(uint32));
	weir_room(composer, &composer->front_made, stacks->end - first, size);
	front = composer->front_words.data;
	front_had = composer->front_had.data;
	made = composer->front_made.data;
	for (int64 i = stacks->end - 1; i >= first; i--)
	{
		if (rest == NULL)
			rest = panes[i];
		else if (panes[i] != NULL)
			rest = together(composer, composer->passing, rest, panes[i],
							made + (i - first) * size);
		rest_had |= had[i];
		front[i] = rest;
		front_had[i] = rest_had;
	}
	stacks->front_first = first;
	stacks->back_first = stacks->end;
	stacks->back = NULL;
	stacks->back_had = 0;
}

/* Moves the stacks to the panes first .. last, neither of which goes back. */
static void
move_to(WeirComposer *composer, Stacks *stacks, int64 first, int64 last)
{
	if (first >= stacks->end)
	{
		stacks->front_first = stacks->back_first = stacks->end = first;
		stacks->back = NULL;
		stacks->back_had = 0;
	}
	else if (first > stacks->back_first)
		turn_over(composer, stacks, first);
	else
		stacks->front_first = first;
	while (stacks->end <= last)
		push_back(composer, stacks);
}

/* Are these words a group's, or made by us for the time being? */
static inline bool
is_of_group(const WeirComposer *composer, const char *words)
{
	const char *made = composer->front_made.data;
	Size		size = composer->front_made.max * MAXALIGN(composer->words_size);

	return words != composer->back_made &&
		(words < made || words >= made + size);
}

/*
 * Words of the panes in the stacks: those of a group if only one pane has rows,
 * else words that last; NULL if none has.
 */
static const char *
words_of(WeirComposer *composer, const Stacks *stacks)
{
	const char *front = NULL;
	const char *one;
	char	   *words;

	if (stacks->front_first < stacks->back_first)
		front = ((const char **) composer->front_words.data)[stacks->front_first];
	if (front != NULL && stacks->back != NULL)
		return together(composer, composer->lasting, front, stacks->back,
						weir_compose_words(composer));
	one = front != NULL ? front : stacks->back;
	if (one == NULL || is_of_group(composer, one))
		return one;
	words = weir_compose_words(composer);
	weir_compose_copy(composer, composer->lasting, words, one);
	return words;
}

/*
 * Makes the groups of holders that are missing.  numbers[] has the holders of the
 * outcomes from that one on.
 */
static void
make_holders(WeirComposer *composer, const WeirComposedKey *key,
			 int64 first_outcome)
{
	WeirOutcome *outcomes = composer->outcomes + first_outcome;
	int64		n = composer->n_outcomes - first_outcome;
	WeirGroup **holders = composer->groups.data;

	for (int64 i = 0; i < n; i++)
		holders[i] = outcomes[i].holder;
	weir_compose_find(composer, key, composer->numbers.data, n, holders, true);
	for (int64 i = 0; i < n; i++)
		outcomes[i].holder = holders[i];
}

/* What the panes in the stacks had since the last commit. */
static uint32
had_of(const WeirComposer *composer, const Stacks *stacks)
{
	uint32		had = stacks->back_had;

	if (stacks->front_first < stacks->back_first)
		had |= ((uint32 *) composer->front_had.data)[stacks->front_first];
	return had;
}

/* The windows of a run, in order. */
static void
compose_run(WeirComposer *composer, const WeirComposedKey *key,
			const WeirWindowFact *windows, int64 n, int64 *given)
{
	int64		base = windows[0].first;
	int64		n_panes = windows[n - 1].last - base + 1;
	int64		first_outcome = composer->n_outcomes;
	Stacks		stacks = {0};
	WeirGroup **groups;
	int64	   *numbers;

	gather_panes(composer, key, base, n_panes, given);
	groups = composer->groups.data;
	numbers = composer->numbers.data;
	for (int64 i = 0; i < n; i++)
	{
		const WeirWindowFact *window = &windows[i];
		WeirGroup  *holder = groups[window->holder - base];
		const char *words;

		if ((i & 1023) == 1023)
			CHECK_FOR_INTERRUPTS();
		move_to(composer, &stacks, window->first - base, window->last - base);
		words = words_of(composer, &stacks);
		if (words == NULL &&
			(holder == NULL || !ItemPointerIsValid(&holder->result_tid)))
			continue;
		/* holders ascend, and we are behind theirs: numbers[] is free so far */
		numbers[composer->n_outcomes - first_outcome] = window->holder;
		weir_compose_outcome(composer, holder, words, window->lower,
							 window->upper)->had = had_of(composer, &stacks);
	}
	make_holders(composer, key, first_outcome);
}
