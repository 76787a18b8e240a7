/*-------------------------------------------------------------------------
 *
 * evicted.c
 *	  Which panes have groups that are on disk only.
 *
 * A group that is not in memory is new, or it has been evicted.  Asking the state
 * table costs a microsecond or two, and most groups that are not there are new:
 * of a pane that has just begun.  So it is known for each pane how many of its
 * groups are away; where there are none, nobody looks.
 *
 * A pane is remembered until it is frozen, also when all of its groups have come
 * back: numbers that were wrong by one would otherwise make a second group of a
 * key.  A few dozen bytes for a pane, in memory of the process.
 *
 *-------------------------------------------------------------------------
 */
#include "state/state.h"

#include "common/hashfn.h"

typedef struct EvictedPane
{
	int64		pane;
	int64		n;
	char		status;			/* of the hash table */
} EvictedPane;

#define SH_PREFIX panes
#define SH_ELEMENT_TYPE EvictedPane
#define SH_KEY_TYPE int64
#define SH_KEY pane
#define SH_HASH_KEY(tb, key) murmurhash32((uint32) (key) ^ (uint32) ((key) >> 32))
#define SH_EQUAL(tb, a, b) ((a) == (b))
#define SH_SCOPE static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

struct WeirEvicted
{
	panes_hash *panes;
	int64		n;
};

WeirEvicted *
weir_evicted_create(MemoryContext mcxt)
{
	WeirEvicted *evicted = MemoryContextAllocZero(mcxt, sizeof(*evicted));

	evicted->panes = panes_create(mcxt, 16, NULL);
	return evicted;
}

void
weir_evicted_add(WeirEvicted *evicted, int64 pane, int64 n)
{
	bool		found;
	EvictedPane *entry = panes_insert(evicted->panes, pane, &found);

	if (!found)
		entry->n = 0;
	entry->n += n;
	evicted->n += n;
}

bool
weir_evicted_has(const WeirEvicted *evicted, int64 pane)
{
	return panes_lookup(evicted->panes, pane) != NULL;
}

void
weir_evicted_forget(WeirEvicted *evicted, int64 pane)
{
	EvictedPane *entry = panes_lookup(evicted->panes, pane);

	if (entry == NULL)
		return;
	evicted->n -= entry->n;
	panes_delete_item(evicted->panes, entry);
}

int64
weir_evicted_count(const WeirEvicted *evicted)
{
	return evicted->n;
}

static int
order_panes(const void *a, const void *b)
{
	int64		left = *(const int64 *) a;
	int64		right = *(const int64 *) b;

	return left < right ? -1 : left > right;
}

int
weir_evicted_panes(const WeirEvicted *evicted, int64 **panes)
{
	panes_iterator i;
	EvictedPane *entry;
	int			n = 0;

	*panes = palloc(sizeof(int64) * Max(evicted->panes->members, 1));
	panes_start_iterate(evicted->panes, &i);
	while ((entry = panes_iterate(evicted->panes, &i)) != NULL)
		(*panes)[n++] = entry->pane;
	qsort(*panes, n, sizeof(int64), order_panes);
	return n;
}
