/*-------------------------------------------------------------------------
 *
 * fault_in.c
 *	  Groups of a view that come from disk: those that are asked for, and at first
 *	  as many as memory has room for.
 *
 * evict.c tells where a group may be.  A batch asks for all groups that it has not
 * found in memory at once (state/group_table.c); of those only keys of panes that
 * something has left are looked up, in the order of the index.  A commit asks in the
 * same way, of a session's cells say.
 *
 * When a view is opened, all its states are read, the latest first.  What has no room
 * is checked, and stays on disk.
 *
 *-------------------------------------------------------------------------
 */
#include "runtime/members.h"

#include "access/table.h"
#include "storage/bufmgr.h"
#include "utils/rel.h"

/* -------------------------------------------------------------- coming back */

typedef struct Lookup
{
	int64		pane;
	uint32		hash;			/* of the other keys */
} Lookup;

#define ST_SORT sort_lookups
#define ST_ELEMENT_TYPE Lookup
#define ST_COMPARE(a, b) \
	((a)->pane != (b)->pane ? ((a)->pane < (b)->pane ? -1 : 1) : \
	 (a)->hash != (b)->hash ? ((a)->hash < (b)->hash ? -1 : 1) : 0)
#define ST_SCOPE static
#define ST_DEFINE
#include "lib/sort_template.h"

/*
 * A group has come from disk.  While a commit is being put together nothing may be
 * added to the deadlines: what is due already would be dropped unseen.
 */
void
weir_run_welcome(WeirRun *run, WeirGroup *group)
{
	int64		pane = weir_stored_pane(run->format,
										weir_group_key(run->table, group));

	weir_evicted_add(run->evicted, pane, -1);
	group->flags |= WEIR_GROUP_HEAT_ONE;
	if (run->staging)
		weir_run_list(run, &run->arrived, WEIR_GROUP_ARRIVED, group);
	else if (run->deadlines != NULL && weir_pane_of_group(run, group, &pane))
		weir_run_wait(run, group, pane, DT_NOBEGIN);
	if (run->truncated)
	{
		/* what it was went with a TRUNCATE while it was away */
		weir_group_reset(run->table, group);
		if (run->staging)
			weir_run_mark(run, group, false, 0, DT_NOBEGIN);
		else
			weir_run_touch(run, group);
		group->flags |= WEIR_GROUP_HAD_DELETE;
	}
}

void
weir_run_settle_arrived(WeirRun *run)
{
	for (int i = 0; i < run->arrived.n; i++)
	{
		WeirGroup  *group = run->arrived.groups[i];
		int64		pane;

		group->flags &= ~WEIR_GROUP_ARRIVED;
		if (run->deadlines != NULL &&
			(group->flags & (WEIR_GROUP_WAITS | WEIR_GROUP_GONE)) == 0 &&
			weir_pane_of_group(run, group, &pane))
			weir_run_wait(run, group, pane, DT_NOBEGIN);
	}
	run->arrived.n = 0;
}

void
weir_run_bring_back(void *arg, int n, char **images, const uint32 *lens,
					const uint32 *hashes)
{
	WeirRun    *run = arg;
	Lookup	   *lookups = palloc(sizeof(Lookup) * n);
	int			n_lookups = 0;
	Relation	state_table;
	WeirStateReader *reader;
	WeirGroup  *group;

	for (int i = 0; i < n; i++)
	{
		int64		pane = weir_stored_pane(run->format, images[i]);

		if (!weir_evicted_has(run->evicted, pane))
			continue;
		lookups[n_lookups].pane = pane;
		lookups[n_lookups++].hash = weir_key_hash_others(run->format, images[i],
														 hashes[i]);
	}
	if (n_lookups == 0)
	{
		pfree(lookups);
		return;
	}
	run->fetching = true;
	WEIR_FAULT("evict-back");
	sort_lookups(lookups, n_lookups);
	state_table = table_open(run->def->state_table, AccessShareLock);
	reader = weir_state_reader_begin(state_table, run->table, run->mark);
	for (int i = 0; i < n_lookups; i++)
	{
		if (i > 0 && lookups[i].pane == lookups[i - 1].pane &&
			lookups[i].hash == lookups[i - 1].hash)
			continue;
		weir_state_reader_seek(reader, lookups[i].pane, lookups[i].hash,
							   lookups[i].hash);
		while ((group = weir_state_reader_next(reader)) != NULL)
			weir_run_welcome(run, group);
	}
	weir_state_reader_end(reader);
	table_close(state_table, AccessShareLock);
	run->fetching = false;
	pfree(lookups);
}

void
weir_run_bring_all_back(WeirRun *run)
{
	Relation	state_table;
	WeirStateReader *reader;
	WeirGroup  *group;
	int64	   *panes;
	int			n;

	if (weir_evicted_count(run->evicted) == 0)
		return;
	state_table = table_open(run->def->state_table, AccessShareLock);
	reader = weir_state_reader_begin(state_table, run->table, run->mark);
	n = weir_evicted_panes(run->evicted, &panes);
	for (int i = 0; i < n; i++)
	{
		weir_state_reader_seek(reader, panes[i], 0, PG_UINT32_MAX);
		while ((group = weir_state_reader_next(reader)) != NULL)
			weir_run_welcome(run, group);
	}
	weir_state_reader_end(reader);
	table_close(state_table, AccessShareLock);
	pfree(panes);
}

/* ---------------------------------------------------------------- opening */

/* While states are loaded: is memory full as far as this group is concerned? */
static bool
may_stay_on_disk(void *arg, int64 pane)
{
	WeirRun    *run = arg;

	if (!run->has_index)
		return false;
	if (weir_budget_taken() + weir_group_table_growth(run->table, 1) +
		2 * weir_budget_reserve() <= weir_budget_limit() &&
		!weir_is_over_test_limit(run))
		return false;
	/* what is frozen stays in memory until it goes, but need not come for that */
	return !weir_pane_must_stay(run, pane) ||
		(!run->backfilling && run->has_watermark &&
		 weir_pane_freezes(run, pane) <= run->time.watermark);
}

/*
 * Stored bytes are packed; in memory a group takes twice as much, or four times.
 * If that might not fit, the index is made first, for nobody can make it while the
 * table is being read.
 */
static bool
may_not_fit(Relation state_table)
{
	Size		stored = (Size) RelationGetNumberOfBlocks(state_table) * BLCKSZ;
	Size		limit = weir_budget_limit();
	Size		taken = Min(weir_budget_taken(), limit);

#ifdef WEIR_TEST
	if (weir_test_groups != 0 && stored > 0)
		return true;
#endif
	/* it may be that we were wrong when we tried before */
	return stored * 4 > limit - taken ||
		(stored > 0 && weir_budget_was_refused());
}

/* What a backfill of a table had to write to make room, before it was broken off. */
static void
forget_partial_states(WeirRun *run)
{
	Relation	state_table;
	bool		empty;

	if (!run->backfilling || run->def->source_kind == WEIR_SOURCE_KAFKA)
		return;
	state_table = table_open(run->def->state_table, AccessShareLock);
	empty = RelationGetNumberOfBlocks(state_table) == 0;
	table_close(state_table, AccessShareLock);
	if (!empty)
		weir_truncate_states(run->def->state_table);
}

void
weir_run_load_groups(WeirRun *run)
{
	Relation	state_table;
	bool		wants_index;
	WeirOwnerScope scope;

	forget_partial_states(run);
	state_table = table_open(run->def->state_table, AccessShareLock);
	run->has_index = OidIsValid(weir_state_index(state_table));
	wants_index = !run->has_index && may_not_fit(state_table);
	table_close(state_table, AccessShareLock);
	if (wants_index)
	{
		WEIR_FAULT("evict-index");
		weir_make_state_index(run->def->state_table);
		run->has_index = true;
	}

	state_table = table_open(run->def->state_table, AccessShareLock);
	run->state_filenode = weir_filenode(state_table);
	/* the keys' hash functions run */
	weir_owner_begin(&scope, run->def->owner);
	weir_load_states(state_table, run->table, run->mark, may_stay_on_disk, run,
					 run->evicted);
	weir_owner_end(&scope);
	table_close(state_table, AccessShareLock);
	weir_note_group_bytes(run);
	if (weir_evicted_count(run->evicted) > 0)
		weir_group_table_set_missing(run->table, weir_run_bring_back, run);
}
