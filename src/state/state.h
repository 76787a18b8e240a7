/*-------------------------------------------------------------------------
 *
 * state.h
 *	  The groups of a view, in shared memory within a budget.
 *
 * The table is a cache of what the view's state table holds at the last
 * commit, plus one uncommitted interval.  Losing it loses nothing: it is
 * loaded again.  What is the same there may leave the table for want of room, and
 * come back when it is asked for (runtime/evict.c).  The worker that serves the view is its only writer and its
 * only reader, so there is no lock; the memory is shared so that one
 * budget (weir.state_memory) holds over all views and workers.
 *
 *-------------------------------------------------------------------------
 */
#ifndef WEIR_STATE_H
#define WEIR_STATE_H

#include "weir.h"
#include "aggregate/aggregate.h"
#include "catalog/plan_query.h"
#include "storage/itemptr.h"
#include "utils/dsa.h"

/* ---- budget.c: one counter over all workers ---- */

/* The worker's area of dynamic shared memory, made at the first call. */
extern dsa_area *weir_state_area(void);

/*
 * Memory of that area, counted against weir.state_memory; to be freed with the
 * number of bytes that it was allocated with.  Raises 53200 with a hint when
 * either has no more.  What a process holds is given back when it exits.
 */
extern dsa_pointer weir_state_allocate(Size bytes);
extern void weir_state_free(dsa_pointer pointer, Size bytes);

/*
 * For what gives memory back by moving into less of it: the smaller place is counted
 * from when the larger one goes, so that it can be had when all is spent.  Invalid if
 * there is none.
 */
extern dsa_pointer weir_state_allocate_smaller(Size bytes);
extern void weir_state_free_larger(dsa_pointer pointer, Size bytes,
								   Size smaller);

/* Counts without allocating: for what these two do, and for tests. */
extern void weir_budget_take(Size bytes);
extern void weir_budget_give(Size bytes);

/*
 * In bytes: what all processes may take together (less than weir.state_memory where
 * the server's shared memory was found to end before that), what they have taken,
 * and what this one has.
 */
extern Size weir_budget_limit(void);
extern Size weir_budget_reserve(void);	/* of that: to be left free */
extern bool weir_budget_was_refused(void);	/* to this process, lately */
extern Size weir_budget_taken(void);
extern Size weir_budget_mine(void);

/* ---- value_store.c: by-reference values of states ---- */

extern WeirValueStore *weir_value_store_create(MemoryContext mcxt);
extern Size weir_value_store_bytes(const WeirValueStore *store);

/* Frees every value that is left; and the store itself. */
extern void weir_value_store_empty(WeirValueStore *store);
extern void weir_value_store_destroy(WeirValueStore *store);

/* ---- group_key.c: keys as bytes ---- */

/*
 * How the keys of a view become one string of bytes, a *key image*: a bitmap of
 * NULLs, then each key that is not NULL, all aligned to 8 and padded with
 * zeros.  Where equality of all types is equality of bytes (`exact`), groups
 * are found with memcmp; otherwise with the types' own hash and equality.
 *
 * Of a window key the image has the number of the pane (window/window.h), which
 * stands first; of the NULL window 0.
 */
typedef struct WeirKeyPart
{
	int16		typlen;
	bool		typbyval;
	bool		exact;
	Oid			collation;
	FmgrInfo	hash;			/* both unset if exact */
	FmgrInfo	equal;
} WeirKeyPart;

typedef struct WeirKeyFormat
{
	int			n;
	int			window;			/* the part that is the window, or -1 */
	bool		exact;
	WeirKeyPart *parts;
} WeirKeyFormat;

/* Keys longer than this are refused: they would not fit a btree entry. */
#define WEIR_MAX_KEY_BYTES 2000

extern WeirKeyFormat *weir_key_format(const WeirPlan *plan);

/*
 * Writes the image of a row's keys to out, which must have room for
 * weir_key_room() bytes, and returns its length, a multiple of 8.  Raises
 * 54000 for a key over WEIR_MAX_KEY_BYTES, and whatever the types raise.
 */
extern uint32 weir_key_write(const WeirKeyFormat *format,
							 const Datum *values, const bool *nulls,
							 char *out, uint32 *hash);
extern Size weir_key_room(const WeirKeyFormat *format);

/* Datums of the keys; those by reference point into the image. */
extern void weir_key_read(const WeirKeyFormat *format, const char *image,
						  Datum *values, bool *nulls);

/*
 * A number that orders keys by one of their parts, roughly as an index does: a
 * hint for locality, of no meaning.
 */
extern uint64 weir_key_rank(const WeirKeyFormat *format, const char *image,
							int part);

/*
 * Where the pane stands in an image; writing another number there, and hashing
 * anew, gives the image of a neighbour.  NULL for the NULL window, and without
 * any.
 */
extern char *weir_key_pane_at(const WeirKeyFormat *format, char *image);

/*
 * Are two images of one key, by the types' equality?  Not looking at part
 * `except` (-1: at all).  Raises what the types raise.
 */
extern bool weir_key_equal(const WeirKeyFormat *format, const char *a,
						   const char *b, int except);

/* Is it one?  Asked of what was stored; of a key's value it tells the length. */
extern bool weir_key_is_image(const WeirKeyFormat *format, const char *image,
							  uint32 len);

/* The hash of an image that was written earlier, perhaps by another build. */
extern uint32 weir_key_hash(const WeirKeyFormat *format, const char *image,
							uint32 len);

/*
 * The hash of all keys but the pane, from that of the image: the same for all panes
 * of a key.
 */
extern uint32 weir_key_hash_others(const WeirKeyFormat *format,
								   const char *image, uint32 hash);

/* ---- group_table.c ---- */

/* A group: this header, the words of its states, its key image. */
typedef struct WeirGroup
{
	uint32		hash;
	uint32		key_len;		/* bytes */
	ItemPointerData result_tid; /* invalid: no row in v */
	ItemPointerData state_tid;	/* invalid: never committed */
	uint32		flags;
} WeirGroup;

#define WEIR_GROUP_DIRTY	0x0001	/* changed since the last commit */
#define WEIR_GROUP_WAITS	0x0002	/* has a deadline (window/deadlines.h) */
#define WEIR_GROUP_UNPUBLISHED	0x0004	/* a pane: changed since its windows were
										 * composed */
#define WEIR_GROUP_TORN		0x0008	/* a pane of a session from which rows
										 * were taken since the last commit */
#define WEIR_GROUP_CLOSING	0x0080	/* a pane of a session, which may close
									 * before the pane is due */
/* since the last commit there was */
#define WEIR_GROUP_HAD_LATE		0x0010	/* a late row */
#define WEIR_GROUP_HAD_UPDATE	0x0020	/* an UPDATE of the source */
#define WEIR_GROUP_HAD_DELETE	0x0040	/* a DELETE or TRUNCATE */
#define WEIR_GROUP_REASONS		0x0070
/* of this commit, by runtime/publish.c */
#define WEIR_GROUP_STAGED		0x0100	/* is in the list of its states */
#define WEIR_GROUP_GONE			0x0200	/* is to be removed */
#define WEIR_GROUP_ARRIVED		0x0400	/* from disk, and waits for nothing yet */
/* intervals in which rows came, lately: runtime/evict.c */
#define WEIR_GROUP_HEAT			0x3000
#define WEIR_GROUP_HEAT_ONE		0x1000

#define WEIR_GROUP_WORDS(group) ((char *) (group) + sizeof(WeirGroup))

/*
 * For loops over many groups, which lie all over a memory that no cache holds:
 * so many groups ahead, enough for memory to answer meanwhile.
 */
#define WEIR_GROUPS_AHEAD 6

static inline void
weir_group_prefetch(const WeirGroup *group)
{
	__builtin_prefetch(group);
	__builtin_prefetch((const char *) group + 64);
	__builtin_prefetch((const char *) group + 128);
}

/*
 * Is the row of v that the group holds elsewhere than it was?  It may have, or
 * have had, no place, of which ItemPointerEquals() must not be asked.
 */
static inline bool
weir_group_moves(const WeirGroup *group, const ItemPointerData *tid)
{
	ItemPointer from = unconstify(ItemPointerData *, &group->result_tid);
	ItemPointer to = unconstify(ItemPointerData *, tid);

	if (!ItemPointerIsValid(from) || !ItemPointerIsValid(to))
		return ItemPointerIsValid(from) != ItemPointerIsValid(to);
	return !ItemPointerEquals(from, to);
}

typedef struct WeirGroupTable WeirGroupTable;

/*
 * words_size is the sum of the states' sizes; states are needed to initialise
 * and release.  Allocated in mcxt; the groups are in shared memory.
 *
 * presence: where in the words the int64 is that counts the rows of a group, of a
 * view whose rows can be taken back; WEIR_NO_PRESENCE of others.
 */
#define WEIR_NO_PRESENCE ((Size) -1)

extern WeirGroupTable *weir_group_table_create(MemoryContext mcxt,
											   const WeirKeyFormat *format,
											   WeirState *states,
											   int n_states,
											   Size words_size,
											   Size presence);
extern void weir_group_table_destroy(WeirGroupTable *table);

/*
 * Finds or makes the groups of n rows.  Raises 53200 when the budget is spent,
 * with the table intact; otherwise what the keys' equality raises, and what
 * looking for groups elsewhere raises.
 */
extern void weir_group_table_upsert(WeirGroupTable *table, int n,
									char **images, const uint32 *lens,
									const uint32 *hashes,
									WeirGroup **groups);

/* The groups of n images, NULL where there is none. */
extern void weir_group_table_find(WeirGroupTable *table, int n,
								  char **images, const uint32 *lens,
								  const uint32 *hashes, WeirGroup **groups);

/* The same of what is in the table, without looking elsewhere. */
extern void weir_group_table_put(WeirGroupTable *table, int n,
								 char **images, const uint32 *lens,
								 const uint32 *hashes, WeirGroup **groups);
extern void weir_group_table_look(WeirGroupTable *table, int n,
								  char **images, const uint32 *lens,
								  const uint32 *hashes, WeirGroup **groups);

/*
 * Is asked, before a group is made or taken for absent, for n keys that are not in
 * the table (some may be the same), and puts those there that it has.
 */
typedef void (*WeirMissing) (void *arg, int n, char **images,
							 const uint32 *lens, const uint32 *hashes);
extern void weir_group_table_set_missing(WeirGroupTable *table,
										 WeirMissing missing, void *arg);

extern int64 weir_group_table_count(const WeirGroupTable *table);
extern Size weir_group_table_bytes(const WeirGroupTable *table);

/* Of these bytes, those that the next groups take. */
extern Size weir_group_table_free_bytes(const WeirGroupTable *table);

/* Bytes more than it has that the table may need for n more groups: a guess. */
extern Size weir_group_table_growth(const WeirGroupTable *table, int n);

/* Gives memory back in which there is no group. */
extern void weir_group_table_trim(WeirGroupTable *table);
extern const char *weir_group_key(const WeirGroupTable *table,
								  const WeirGroup *group);

/* Visits every group in no order; start with *cursor = 0, NULL at the end. */
extern WeirGroup *weir_group_table_next(WeirGroupTable *table,
										uint64 *cursor);

/*
 * The number of rows in a group; 1 without presence.  A group of 0 rows has no
 * row in v and no stored state (but for the one group of a query without GROUP
 * BY), and is removed after the commit that deleted them.
 */
extern int64 weir_group_rows(const WeirGroupTable *table,
							 const WeirGroup *group);

/* Makes a group one of no rows; it keeps its TIDs.  After a TRUNCATE. */
extern void weir_group_reset(WeirGroupTable *table, WeirGroup *group);

/*
 * Takes a group out and frees it.  No cursor over the table may be open: groups
 * change their slots.
 */
extern void weir_group_table_remove(WeirGroupTable *table, WeirGroup *group);

/* ---- evicted.c: which panes have groups that are on disk only ---- */

/*
 * The number of a pane, as it stands in the state table: 0 without a window,
 * WEIR_NULL_PANE of the NULL window.
 */
#define WEIR_NULL_PANE PG_INT64_MIN

static inline int64
weir_stored_pane(const WeirKeyFormat *format, const char *image)
{
	const char *pane;

	if (format->window < 0)
		return 0;
	pane = weir_key_pane_at(format, unconstify(char *, image));
	return pane == NULL ? WEIR_NULL_PANE : *(const int64 *) pane;
}

typedef struct WeirEvicted WeirEvicted;

extern WeirEvicted *weir_evicted_create(MemoryContext mcxt);

/* So many more groups of a pane are away (less than none: have come back). */
extern void weir_evicted_add(WeirEvicted *evicted, int64 pane, int64 n);

/* May some of its groups be away?  They are not if this says no. */
extern bool weir_evicted_has(const WeirEvicted *evicted, int64 pane);

/* None is away any more. */
extern void weir_evicted_forget(WeirEvicted *evicted, int64 pane);

/* How many are away in all. */
extern int64 weir_evicted_count(const WeirEvicted *evicted);

/* The panes for which weir_evicted_has(), in order, in CurrentMemoryContext. */
extern int	weir_evicted_panes(const WeirEvicted *evicted, int64 **panes);

/* ---- state_bytes.c: a group as one bytea, and back ---- */

/* Appends the bytes of a group: version, checksum, words, key image, values. */
extern void weir_group_save(const WeirGroupTable *table,
							const WeirGroup *group, StringInfo out);

/*
 * Puts a saved group into the table and returns it; NULL if its key is there
 * already, which is then left as it is.  Errors: XX001 for bytes that fail their
 * checksum, 0A000 for a version that this build does not know.
 */
extern WeirGroup *weir_group_load(WeirGroupTable *table,
								  const char *bytes, Size len);

/* The same errors, without loading it.  hash: of all keys but the pane. */
extern void weir_group_check(const WeirGroupTable *table,
							 const char *bytes, Size len,
							 int64 *pane, uint32 *hash);

/*
 * Merges the bytes of a group, of another process, into the group of the same
 * key, made if it is new; returns that.  Errors: as weir_group_load(), 53200
 * when the budget is spent, and what a comparison of min and max raises; the
 * states are as they were then.
 */
extern WeirGroup *weir_group_merge(WeirGroupTable *table,
								   const char *bytes, Size len);

/* For state_bytes.c. */
extern WeirState *weir_group_table_states(const WeirGroupTable *table,
										  int *n_states, Size *words_size);
extern const WeirKeyFormat *weir_group_table_format(const WeirGroupTable *table);
extern const char *weir_group_table_fresh(const WeirGroupTable *table);

#endif							/* WEIR_STATE_H */
