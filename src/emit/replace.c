/*-------------------------------------------------------------------------
 *
 * replace.c
 *	  Rows of v: all of them, where nothing is known of the old ones' places.
 *
 * After a backfill, and when VACUUM FULL, CLUSTER or a restore has moved v's
 * rows.  Most of the rows that v has are then right, and rewriting them would cost
 * readers of the table and of its changelog a change that is none.  So:
 *
 *	1. Read v; keep the place and a hash of the bytes of each row.
 *	2. Compute each row that v shall have.  If v has it, to the last byte, it
 *	   stays where it is.
 *	3. Delete what is left.
 *	4. Compute the others again, and insert them.
 *
 * 4 comes after 3 because of unique indexes: the new row of a key would meet the
 * old one.  Rows are computed twice rather than kept, since they may be many.
 * There is no 2 and 3 when v is empty, as it is at a view's first publication.
 *
 * Where groups do not fit in memory, outcomes come in portions, all of them for 2
 * and all of them again for 4, and where a row was kept is not remembered: it is
 * looked for again.
 *
 * In the changelog, all that is taken back comes before all that is new.
 *
 * Memory: 24 bytes per row of v.
 *
 *-------------------------------------------------------------------------
 */
#include "emit/emit.h"

#include "access/tableam.h"
#include "emit/row_image.h"
#include "emit/row_writer.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/rangetypes.h"
#include "utils/snapmgr.h"
#include "utils/typcache.h"

/* A row that v has. */
typedef struct StoredRow
{
	uint64		hash;			/* of its image */
	int64		kept_run;		/* of the first with that hash: so many, from
								 * it on, are kept */
	int64		found_run;		/* the same of those that are found, or gone */
	ItemPointerData tid;
	bool		kept;			/* found in step 2 */
	bool		found;			/* and, by a portion, in step 4 */
	bool		emitted;		/* it is in the changelog */
} StoredRow;

#define ST_SORT sort_by_hash
#define ST_ELEMENT_TYPE StoredRow
#define ST_COMPARE(a, b) \
	((a)->hash != (b)->hash ? ((a)->hash < (b)->hash ? -1 : 1) : \
	 ItemPointerCompare(&(a)->tid, &(b)->tid))
#define ST_SCOPE static
#define ST_DEFINE
#include "lib/sort_template.h"

#define ST_SORT sort_by_place
#define ST_ELEMENT_TYPE StoredRow
#define ST_COMPARE(a, b) ItemPointerCompare(&(a)->tid, &(b)->tid)
#define ST_SCOPE static
#define ST_DEFINE
#include "lib/sort_template.h"

struct WeirReplacement
{
	Relation	v;
	WeirProjector *projector;
	const WeirGroupTable *table;
	AttrNumber	window_column;
	TypeCacheEntry *window_type;
	Timestamp	settled;
	Timestamp	emitted;
	WeirChangelog *changelog;

	WeirRowWriter *writer;
	TupleTableSlot *old;
	bool		empty;			/* v had no rows */
	StoredRow  *stored;
	int64		n_stored;
	int64		max_stored;
};

/* The end of a stored row's window; DT_NOEND if it has none. */
static Timestamp
window_end(WeirReplacement *r, TupleTableSlot *row)
{
	RangeBound	lower;
	RangeBound	upper;
	bool		empty;
	bool		isnull;
	Datum		value;

	if (r->window_column == 0)
		return DT_NOEND;
	value = slot_getattr(row, r->window_column, &isnull);
	if (isnull)
		return DT_NOEND;
	range_deserialize(r->window_type, DatumGetRangeTypeP(value),
					  &lower, &upper, &empty);
	if (empty || upper.infinite)
		return DT_NOEND;
	return DatumGetTimestamp(upper.val);
}

/* Does what ends here belong to what was done up to `until`? */
static bool
is_within(Timestamp end, Timestamp until)
{
	return until != DT_NOBEGIN && end <= until;
}

/* Step 1. */
static void
read_stored(WeirReplacement *r)
{
	TableScanDesc scan = table_beginscan(r->v, GetActiveSnapshot(), 0, NULL);
	MemoryContext scratch = AllocSetContextCreate(CurrentMemoryContext,
												  "pg_weir stored row",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(scratch);

	while (table_scan_getnextslot(scan, ForwardScanDirection, r->old))
	{
		Timestamp	end;
		StoredRow  *row;

		CHECK_FOR_INTERRUPTS();
		weir_progress++;
		MemoryContextReset(scratch);
		r->empty = false;
		end = window_end(r, r->old);
		if (is_within(end, r->settled))
			continue;
		if (r->n_stored == r->max_stored)
		{
			r->max_stored *= 2;
			r->stored = repalloc_huge(r->stored,
									  sizeof(StoredRow) * r->max_stored);
		}
		row = &r->stored[r->n_stored++];
		row->hash = weir_row_image_hash(r->old);
		row->kept_run = row->found_run = 0;
		row->tid = r->old->tts_tid;
		row->kept = row->found = false;
		row->emitted = is_within(end, r->emitted);
	}
	MemoryContextSwitchTo(caller);
	table_endscan(scan);
	ExecClearTuple(r->old);
	MemoryContextDelete(scratch);
	sort_by_hash(r->stored, r->n_stored);
}

/* The first stored row with that hash, or where it would be. */
static int64
search(const WeirReplacement *r, uint64 hash)
{
	int64		low = 0;
	int64		high = r->n_stored;

	while (low < high)
	{
		int64		middle = low + (high - low) / 2;

		if (r->stored[middle].hash < hash)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/* Is it the very row, to the last byte? */
static bool
is_same(WeirReplacement *r, const StoredRow *stored, TupleTableSlot *row)
{
	bool		same;

	if (!weir_fetch_row(r->writer, &stored->tid, r->old))
		elog(ERROR, "a row of \"%s\" has vanished",
			 RelationGetRelationName(r->v));
	same = weir_row_image_equal(r->old, row);
	ExecClearTuple(r->old);
	return same;
}

/* A stored row with the image of `row` that is not kept yet, or NULL. */
static StoredRow *
find_stored(WeirReplacement *r, TupleTableSlot *row)
{
	uint64		hash = weir_row_image_hash(row);
	int64		first = search(r, hash);
	int64		at = first;

	/* rows may be the same by the thousand: do not visit the kept ones again */
	if (first < r->n_stored)
		at += r->stored[first].kept_run;
	for (; at < r->n_stored && r->stored[at].hash == hash; at++)
	{
		StoredRow  *stored = &r->stored[at];

		if (stored->kept || !is_same(r, stored, row))
			continue;
		stored->kept = true;
		if (at == first + r->stored[first].kept_run)
			r->stored[first].kept_run++;
		return stored;
	}
	return NULL;
}

/* One that was kept, for an outcome that comes again; any of those that are equal. */
static StoredRow *
find_kept(WeirReplacement *r, TupleTableSlot *row)
{
	uint64		hash = weir_row_image_hash(row);
	int64		first = search(r, hash);
	int64		at = first;

	if (first < r->n_stored)
		at += r->stored[first].found_run;
	for (; at < r->n_stored && r->stored[at].hash == hash; at++)
	{
		StoredRow  *stored = &r->stored[at];

		if (!stored->kept || stored->found)
		{
			if (at == first + r->stored[first].found_run)
				r->stored[first].found_run++;
			continue;
		}
		if (!is_same(r, stored, row))
			continue;
		stored->found = true;
		return stored;
	}
	return NULL;
}

/* Every so many rows. */
static void
breathe(int i)
{
	if ((i & 1023) == 0)
		CHECK_FOR_INTERRUPTS();
	if ((i & 127) == 127)
		weir_flush_in_portions();
	weir_progress++;
}

/* The row of an outcome, or NULL. */
static TupleTableSlot *
project(WeirReplacement *r, const WeirOutcome *outcome)
{
	if (outcome->words == NULL)
		return NULL;
	return weir_project(r->projector, r->table, outcome);
}

void
weir_replace_keep(WeirReplacement *r, const WeirOutcome *outcomes, int n,
				  WeirPlacement *placements)
{
	for (int i = 0; i < n; i++)
	{
		TupleTableSlot *row;
		StoredRow  *stored;

		breathe(i);
		ItemPointerSetInvalid(&placements[i].tid);
		if (r->n_stored == 0)
			continue;
		row = project(r, &outcomes[i]);
		stored = row != NULL ? find_stored(r, row) : NULL;
		if (stored != NULL)
		{
			placements[i].tid = stored->tid;
			if (r->changelog != NULL && stored->emitted &&
				!outcomes[i].emits)
				weir_changelog_add(r->changelog, -1, WEIR_REASON_REBUILD, row);
		}
		weir_projector_reset(r->projector);
	}
}

void
weir_replace_delete(WeirReplacement *r)
{
	StoredRow  *others;
	int64		n = 0;

	if (r->n_stored == 0)
		return;
	others = MemoryContextAllocHuge(CurrentMemoryContext,
									sizeof(StoredRow) * r->n_stored);

	for (int64 i = 0; i < r->n_stored; i++)
		if (!r->stored[i].kept)
			others[n++] = r->stored[i];
	/* by the page */
	sort_by_place(others, n);
	for (int64 i = 0; i < n; i++)
	{
		StoredRow  *stored = &others[i];

		breathe((int) (i & 1023));
		if (r->changelog != NULL && stored->emitted)
		{
			if (!weir_fetch_row(r->writer, &stored->tid, r->old))
				elog(ERROR, "a row of \"%s\" has vanished",
					 RelationGetRelationName(r->v));
			weir_changelog_add(r->changelog, -1, WEIR_REASON_REBUILD, r->old);
			ExecClearTuple(r->old);
		}
		if (!weir_delete_row(r->writer, &stored->tid))
			elog(ERROR, "a row of \"%s\" has vanished",
				 RelationGetRelationName(r->v));
	}
	pfree(others);
}

/* Is the row of an outcome, if v has it already, in the changelog? */
static bool
was_emitted(const WeirReplacement *r, const WeirOutcome *outcome)
{
	if (r->window_column > 0 && outcome->has_window)
		return is_within(outcome->upper, r->emitted);
	return is_within(DT_NOEND, r->emitted);
}

/*
 * A window that closes in this very commit closes whether v is replaced or not;
 * and what was never there is not there again.
 */
static WeirReason
reason_of(const WeirReplacement *r, const WeirOutcome *outcome)
{
	if (r->empty || r->emitted == DT_NOBEGIN ||
		(outcome->reason == WEIR_REASON_FINAL && !was_emitted(r, outcome)))
		return outcome->reason;
	return WEIR_REASON_REBUILD;
}

void
weir_replace_insert(WeirReplacement *r, const WeirOutcome *outcomes, int n,
					WeirPlacement *placements, bool again)
{
	for (int i = 0; i < n; i++)
	{
		const WeirOutcome *outcome = &outcomes[i];
		TupleTableSlot *row = NULL;
		bool		kept;
		bool		says = r->changelog != NULL && outcome->emits;

		breathe(i);
		if (again)
		{
			StoredRow  *stored = NULL;

			ItemPointerSetInvalid(&placements[i].tid);
			row = project(r, outcome);
			if (row != NULL && r->n_stored > 0)
				stored = find_kept(r, row);
			if (stored != NULL)
				placements[i].tid = stored->tid;
		}
		kept = ItemPointerIsValid(&placements[i].tid);
		if (kept && was_emitted(r, outcome))
			says = false;
		if (!kept || says)
		{
			if (row == NULL)
				row = project(r, outcome);
			if (row != NULL && !kept)
				weir_insert_row(r->writer, row, &placements[i].tid);
			if (row != NULL && says)
				weir_changelog_add(r->changelog, +1,
								   reason_of(r, outcome), row);
		}
		weir_projector_reset(r->projector);
	}
	/* the places of new rows are known when they are written */
	weir_row_writer_flush(r->writer);
}

WeirReplacement *
weir_replace_begin(Relation v, WeirProjector *projector,
				   const WeirGroupTable *table, AttrNumber window_column,
				   Timestamp settled, Timestamp emitted,
				   WeirChangelog *changelog)
{
	WeirReplacement *r = palloc0(sizeof(*r));

	r->v = v;
	r->projector = projector;
	r->table = table;
	r->window_column = window_column;
	r->settled = settled;
	r->emitted = emitted;
	r->changelog = changelog;
	r->empty = true;
	r->max_stored = 1024;
	if (window_column > 0)
		r->window_type =
			lookup_type_cache(TupleDescAttr(RelationGetDescr(v),
											window_column - 1)->atttypid,
							  TYPECACHE_RANGE_INFO);
	r->writer = weir_row_writer_begin(v);
	r->old = table_slot_create(v, NULL);
	r->stored = palloc(sizeof(StoredRow) * r->max_stored);
	read_stored(r);
	return r;
}

bool
weir_replace_is_first(const WeirReplacement *r)
{
	return r->n_stored == 0;
}

void
weir_replace_end(WeirReplacement *r)
{
	weir_row_writer_end(r->writer);
	ExecDropSingleTupleTableSlot(r->old);
	pfree(r->stored);
	pfree(r);
}
