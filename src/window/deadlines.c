/*-------------------------------------------------------------------------
 *
 * deadlines.c
 *	  A queue of what waits for the watermark: a radix heap.
 *
 * A watermark never goes back, so nobody asks twice for the same stretch of
 * time, and the queue need not keep more order than the next question needs.
 * Items lie in 65 buckets by their distance from the time up to which the queue
 * was asked, `asked`:
 *
 *	 0		deadlines <= asked: due, unless dropped
 *	 b > 0	deadlines that differ from asked in bit b - 1, counted from the
 *			lowest, and in none above it
 *
 * so all of bucket 3 comes before all of bucket 4.  When the question is moved on
 * to W, one bucket is told apart anew, that of the highest bit in which W differs
 * from asked: those below it are due as a whole, those above it stay as they are.
 * An item only ever moves to lower buckets, so it is touched a few times while
 * its deadline comes near (64 times at most; about eight in an hour of commits),
 * and always by walking over memory in order.
 *
 * (R. K. Ahuja, K. Mehlhorn, J. B. Orlin, R. E. Tarjan: Faster Algorithms for the
 * Shortest Path Problem.  Journal of the ACM 37, 1990.)
 *
 * Why not a hash of the distinct deadlines with a list for each, and a heap of
 * those?  It is as good when many groups share a deadline, and three times the
 * memory when a million sessions have each their own.  A plain heap of items
 * pays some twenty cache misses for each item that is taken out.  Here both
 * cases are the same case: 16 bytes an item, and no search.
 *
 * Deadlines that have passed already are welcome; they are due at once.
 *
 * Runs in workers.  The memory is the process' own: a bucket is a list of small
 * chunks, so nothing is copied when it grows, and what is dropped goes back.
 *
 *-------------------------------------------------------------------------
 */
#include "window/deadlines.h"

#include "port/pg_bitutils.h"
#include "utils/memutils.h"

#define N_BUCKETS 65

/* A kilobyte a chunk: a view with few groups has few chunks, each in use. */
#define CHUNK_ENTRIES 63

typedef struct Waiting
{
	Timestamp	at;
	void	   *item;
} Waiting;

typedef struct WaitingChunk
{
	struct WaitingChunk *next;
	int64		n;
	Waiting		entries[CHUNK_ENTRIES];
} WaitingChunk;

/* Only the first chunk of a list may have room. */
typedef struct WaitingBucket
{
	WaitingChunk *first;
	Timestamp	least;			/* of its deadlines; DT_NOEND without any */
	int64		n;
} WaitingBucket;

struct WeirDeadlines
{
	MemoryContext chunks;
	WaitingChunk *spare;		/* so that moving items need not allocate */
	int			n_spare;
	Timestamp	asked;
	int64		n;
	uint64		in_use;			/* bit b - 1: bucket b is not empty */
	WaitingBucket buckets[N_BUCKETS];
};

#define ST_SORT sort_waiting
#define ST_ELEMENT_TYPE Waiting
#define ST_COMPARE(a, b) ((a)->at < (b)->at ? -1 : (a)->at > (b)->at)
#define ST_SCOPE static
#define ST_DEFINE
#include "lib/sort_template.h"

static void empty_bucket(WeirDeadlines *deadlines, int bucket);

WeirDeadlines *
weir_deadlines_create(MemoryContext mcxt)
{
	WeirDeadlines *deadlines = MemoryContextAllocZero(mcxt,
													  sizeof(WeirDeadlines));

	/* slab: chunks that come and go leave no holes behind */
	deadlines->chunks = SlabContextCreate(mcxt, "pg_weir deadlines",
										  SLAB_DEFAULT_BLOCK_SIZE,
										  sizeof(WaitingChunk));
	deadlines->asked = DT_NOBEGIN;
	for (int i = 0; i < N_BUCKETS; i++)
		empty_bucket(deadlines, i);
	return deadlines;
}

/* Marks a bucket as empty, whose chunks are somebody else's now. */
static void
empty_bucket(WeirDeadlines *deadlines, int bucket)
{
	deadlines->buckets[bucket].first = NULL;
	deadlines->buckets[bucket].least = DT_NOEND;
	deadlines->buckets[bucket].n = 0;
	if (bucket > 0)
		deadlines->in_use &= ~(UINT64CONST(1) << (bucket - 1));
}

static inline int
bucket_of(const WeirDeadlines *deadlines, Timestamp at)
{
	if (at <= deadlines->asked)
		return 0;
	return pg_leftmost_one_pos64((uint64) at ^ (uint64) deadlines->asked) + 1;
}

static WaitingChunk *
take_chunk(WeirDeadlines *deadlines)
{
	WaitingChunk *chunk = deadlines->spare;

	if (chunk == NULL)
		chunk = MemoryContextAlloc(deadlines->chunks, sizeof(WaitingChunk));
	else
	{
		deadlines->spare = chunk->next;
		deadlines->n_spare--;
	}
	chunk->n = 0;
	return chunk;
}

static void
give_chunk(WeirDeadlines *deadlines, WaitingChunk *chunk)
{
	chunk->next = deadlines->spare;
	deadlines->spare = chunk;
	deadlines->n_spare++;
}

static void
free_spare(WeirDeadlines *deadlines)
{
	while (deadlines->spare != NULL)
		pfree(take_chunk(deadlines));
}

static inline void
put(WeirDeadlines *deadlines, int number, Waiting entry)
{
	WaitingBucket *bucket = &deadlines->buckets[number];
	WaitingChunk *chunk = bucket->first;

	if (chunk == NULL || chunk->n == CHUNK_ENTRIES)
	{
		chunk = take_chunk(deadlines);
		chunk->next = bucket->first;
		bucket->first = chunk;
	}
	chunk->entries[chunk->n++] = entry;
	bucket->n++;
	if (entry.at < bucket->least)
		bucket->least = entry.at;
	if (number > 0)
		deadlines->in_use |= UINT64CONST(1) << (number - 1);
}

void
weir_deadlines_add(WeirDeadlines *deadlines, Timestamp at, void *item)
{
	put(deadlines, bucket_of(deadlines, at), (Waiting) {at, item});
	deadlines->n++;
}

int64
weir_deadlines_count(const WeirDeadlines *deadlines)
{
	return deadlines->n;
}

Timestamp
weir_deadlines_first(const WeirDeadlines *deadlines)
{
	if (deadlines->buckets[0].n > 0)
		return deadlines->buckets[0].least;
	if (deadlines->in_use == 0)
		return DT_NOEND;
	return deadlines->buckets[pg_rightmost_one_pos64(deadlines->in_use) + 1].least;
}

/* Puts the items of a bucket where they belong now. */
static void
spread(WeirDeadlines *deadlines, int number)
{
	WaitingChunk *chunk = deadlines->buckets[number].first;

	empty_bucket(deadlines, number);
	while (chunk != NULL)
	{
		WaitingChunk *next = chunk->next;

		for (int64 i = 0; i < chunk->n; i++)
		{
			Waiting		entry = chunk->entries[i];

			put(deadlines, bucket_of(deadlines, entry.at), entry);
		}
		give_chunk(deadlines, chunk);
		chunk = next;
	}
}

/*
 * Moves the question on to a watermark, unless nothing would come of it.  Raises,
 * if memory is short, before anything has changed.
 */
static void
ask(WeirDeadlines *deadlines, Timestamp watermark)
{
	int			top;

	if (watermark <= deadlines->asked ||
		watermark < weir_deadlines_first(deadlines))
		return;
	top = bucket_of(deadlines, watermark);

	/* each bucket that gets items may need a chunk before one is free */
	while (deadlines->n_spare < Min(deadlines->n, top + 1))
		give_chunk(deadlines, MemoryContextAlloc(deadlines->chunks,
												 sizeof(WaitingChunk)));
	deadlines->asked = watermark;
	for (int i = 1; i <= top; i++)
		if (deadlines->buckets[i].n > 0)
			spread(deadlines, i);
	free_spare(deadlines);
}

void **
weir_deadlines_due(WeirDeadlines *deadlines, Timestamp watermark, int64 *n)
{
	const WaitingBucket *bucket = &deadlines->buckets[0];
	Waiting    *due;
	void	  **items;
	int64		n_due = 0;

	ask(deadlines, watermark);
	*n = 0;
	if (bucket->n == 0)
		return palloc(sizeof(void *));
	due = palloc_extended(bucket->n * sizeof(Waiting), MCXT_ALLOC_HUGE);
	for (const WaitingChunk *chunk = bucket->first; chunk != NULL;
		 chunk = chunk->next)
		for (int64 i = 0; i < chunk->n; i++)
			if (chunk->entries[i].at <= watermark)
				due[n_due++] = chunk->entries[i];
	sort_waiting(due, n_due);

	items = palloc_extended(Max(n_due, 1) * sizeof(void *), MCXT_ALLOC_HUGE);
	for (int64 i = 0; i < n_due; i++)
		items[i] = due[i].item;
	pfree(due);
	*n = n_due;
	return items;
}

/* Keeps the entries of a bucket for which keep says so; returns how many go. */
static int64
compact(WaitingBucket *bucket, bool (*keep) (const Waiting *entry, void *arg),
		void *arg)
{
	WaitingChunk **link = &bucket->first;
	WaitingChunk *chunk;
	int64		gone = 0;

	bucket->least = DT_NOEND;
	while ((chunk = *link) != NULL)
	{
		int64		n = 0;

		for (int64 i = 0; i < chunk->n; i++)
		{
			if (!keep(&chunk->entries[i], arg))
				continue;
			bucket->least = Min(bucket->least, chunk->entries[i].at);
			chunk->entries[n++] = chunk->entries[i];
		}
		gone += chunk->n - n;
		chunk->n = n;
		if (n > 0)
			link = &chunk->next;
		else
		{
			*link = chunk->next;
			pfree(chunk);
		}
	}
	bucket->n -= gone;
	return gone;
}

static bool
is_later(const Waiting *entry, void *watermark)
{
	return entry->at > *(Timestamp *) watermark;
}

void
weir_deadlines_drop(WeirDeadlines *deadlines, Timestamp watermark)
{
	ask(deadlines, watermark);
	/* after a commit that failed, less may be due than was asked for */
	deadlines->n -= compact(&deadlines->buckets[0], is_later, &watermark);
}

static bool
is_kept(const Waiting *entry, void *keep)
{
	return (*(bool (**) (void *)) keep) (entry->item);
}

void
weir_deadlines_filter(WeirDeadlines *deadlines, bool (*keep) (void *item))
{
	for (int i = 0; i < N_BUCKETS; i++)
	{
		WaitingBucket *bucket = &deadlines->buckets[i];

		if (bucket->n == 0)
			continue;
		deadlines->n -= compact(bucket, is_kept, &keep);
		if (bucket->n == 0)
			empty_bucket(deadlines, i);
	}
}
