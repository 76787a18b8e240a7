/*-------------------------------------------------------------------------
 *
 * wal_shapes.c
 *	  How the columns of a changed table become those of a watched one.
 *
 * For each relation that a change is met of, it is found out once which watched
 * relations it belongs to (itself and the partitioned ones above it), which of
 * its columns they want, and which of those its replica identity carries: its
 * *shape*.  That is read from the catalogs under the historic snapshot, so it is
 * what was true when the change was made.  It is forgotten when decoding comes
 * past an invalidation of the relation, or when something else is watched.
 *
 * A relation that nobody watches has an entry as well, without a shape.
 *
 * Two times share one set of caches.  Decoding fills Postgres' caches with
 * catalog rows of then, the rest of the process with those of now.  While
 * definitions have changed in between, the caches are flushed at each crossing
 * (weir_wal_change_time).  How we know: whoever changes a definition sends an
 * invalidation, which we see, and his commit lies before the end of the WAL at
 * that moment; once we have decoded up to there, then and now agree.
 *
 *-------------------------------------------------------------------------
 */
#include "source/wal_reader.h"

#include "access/detoast.h"
#include "access/htup_details.h"
#include "access/sysattr.h"
#include "access/tupdesc_details.h"
#include "access/tupmacs.h"
#include "catalog/partition.h"
#include "utils/datum.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/relcache.h"

/* Beyond so many, the entries of relations are thrown away now and then. */
#define MANY_ENTRIES 4096

typedef struct Entry
{
	Oid			relid;			/* hash key */
	bool		valid;
	WalShape   *shape;			/* NULL: nobody watches it */
} Entry;

typedef struct Part
{
	Oid			relid;			/* hash key */
} Part;

struct WalShapes
{
	MemoryContext mcxt;
	HTAB	   *entries;
	Entry	   *last;			/* found last; most changes come in runs */
	HTAB	   *watches;
	HTAB	   *parts;			/* of any watched partitioned table */
	bool		must_look;
	List	   *retired;		/* shapes that buffered changes may point to */

	bool		doubtful;		/* definitions have changed since `agreed` was set */
	XLogRecPtr	agreed;			/* from here on then and now are the same */
};

/* The reader of this process: callbacks cannot be unregistered. */
static WalShapes *current_shapes = NULL;
static bool changing_time = false;

/* ------------------------------------------------------------ invalidations */

static void
invalidate_all(WalShapes *shapes)
{
	HASH_SEQ_STATUS status;
	Entry	   *entry;

	hash_seq_init(&status, shapes->entries);
	while ((entry = hash_seq_search(&status)) != NULL)
		entry->valid = false;
}

static void
look_at_all(WalShapes *shapes)
{
	HASH_SEQ_STATUS status;
	WalWatch   *watch;

	hash_seq_init(&status, shapes->watches);
	while ((watch = hash_seq_search(&status)) != NULL)
		watch->look = true;
	shapes->must_look = true;
}

static void
relation_changed(Datum arg, Oid relid)
{
	WalShapes  *shapes = current_shapes;
	Entry	   *entry;

	if (shapes == NULL || changing_time)
		return;
	shapes->doubtful = true;
	if (!OidIsValid(relid) ||
		hash_search(shapes->watches, &relid, HASH_FIND, NULL) != NULL ||
		hash_search(shapes->parts, &relid, HASH_FIND, NULL) != NULL)
	{
		/* what is below may belong elsewhere now */
		invalidate_all(shapes);
		look_at_all(shapes);
		return;
	}
	entry = hash_search(shapes->entries, &relid, HASH_FIND, NULL);
	if (entry != NULL)
		entry->valid = false;
}

void
weir_wal_change_time(WalShapes *shapes, XLogRecPtr position)
{
	if (shapes->doubtful)
	{
		shapes->agreed = weir_wal_end();
		shapes->doubtful = false;
	}
	if (position >= shapes->agreed)
		return;
	/* no definition changes by this, neither of then nor of now */
	changing_time = true;
	PG_TRY();
	{
		InvalidateSystemCaches();
	}
	PG_FINALLY();
	{
		changing_time = false;
	}
	PG_END_TRY();
}

/* ------------------------------------------------------- making and freeing */

static HTAB *
oid_hash(const char *name, Size entry_size, MemoryContext mcxt)
{
	HASHCTL		ctl = {0};

	ctl.keysize = sizeof(Oid);
	ctl.entrysize = entry_size;
	ctl.hcxt = mcxt;
	return hash_create(name, 64, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

WalShapes *
weir_wal_shapes_create(MemoryContext mcxt)
{
	static bool registered = false;
	WalShapes  *shapes = MemoryContextAllocZero(mcxt, sizeof(WalShapes));

	shapes->mcxt = mcxt;
	shapes->entries = oid_hash("pg_weir shapes", sizeof(Entry), mcxt);
	shapes->watches = oid_hash("pg_weir watches", sizeof(WalWatch), mcxt);
	shapes->parts = oid_hash("pg_weir parts", sizeof(Part), mcxt);
	shapes->doubtful = true;
	if (!registered)
		CacheRegisterRelcacheCallback(relation_changed, (Datum) 0);
	registered = true;
	current_shapes = shapes;
	return shapes;
}

/* Its memory goes with the context that it was created in. */
void
weir_wal_shapes_destroy(WalShapes *shapes)
{
	current_shapes = NULL;
}

static void
retire(WalShapes *shapes, Entry *entry)
{
	MemoryContext old;

	if (entry->shape == NULL)
		return;
	old = MemoryContextSwitchTo(shapes->mcxt);
	shapes->retired = lappend(shapes->retired, entry->shape);
	MemoryContextSwitchTo(old);
	entry->shape = NULL;
}

static void
forget_entries(WalShapes *shapes)
{
	HASH_SEQ_STATUS status;
	Entry	   *entry;

	hash_seq_init(&status, shapes->entries);
	while ((entry = hash_seq_search(&status)) != NULL)
	{
		retire(shapes, entry);
		(void) hash_search(shapes->entries, &entry->relid, HASH_REMOVE, NULL);
	}
	shapes->last = NULL;
}

void
weir_wal_shapes_tidy(WalShapes *shapes)
{
	ListCell   *cell;

	if (hash_get_num_entries(shapes->entries) > MANY_ENTRIES)
		forget_entries(shapes);
	foreach(cell, shapes->retired)
		MemoryContextDelete(((WalShape *) lfirst(cell))->mcxt);
	list_free(shapes->retired);
	shapes->retired = NIL;
}

/* ----------------------------------------------------------------- watching */

static void
note_parts(WalShapes *shapes, const WalWatch *watch)
{
	ListCell   *cell;

	foreach(cell, watch->parts)
		(void) hash_search(shapes->parts, &lfirst_oid(cell), HASH_ENTER, NULL);
}

static void
set_watch(WalShapes *shapes, const WeirWatched *watched, HTAB *before)
{
	WalWatch   *old = before ? hash_search(before, &watched->relid, HASH_FIND, NULL) : NULL;
	WalWatch   *watch = hash_search(shapes->watches, &watched->relid,
									HASH_ENTER, NULL);
	MemoryContext caller = MemoryContextSwitchTo(shapes->mcxt);

	watch->wanted = bms_copy(watched->wanted);
	watch->is_stream = watched->is_stream;
	watch->look = true;
	watch->known = watched->leaves != NIL;
	watch->leaves = list_copy(watched->leaves);
	list_sort(watch->leaves, list_oid_cmp);
	watch->parts = list_copy(watched->leaves);
	if (!watch->known && old != NULL && old->known)
	{
		watch->known = true;
		watch->leaves = list_copy(old->leaves);
		watch->parts = list_copy(old->parts);
	}
	note_parts(shapes, watch);
	MemoryContextSwitchTo(caller);
}

static void
free_watches(HTAB *watches)
{
	HASH_SEQ_STATUS status;
	WalWatch   *watch;

	hash_seq_init(&status, watches);
	while ((watch = hash_seq_search(&status)) != NULL)
	{
		bms_free(watch->wanted);
		list_free(watch->leaves);
		list_free(watch->parts);
	}
	hash_destroy(watches);
}

void
weir_wal_shapes_watch(WalShapes *shapes, List *watched)
{
	HTAB	   *before = shapes->watches;
	ListCell   *cell;

	shapes->watches = oid_hash("pg_weir watches", sizeof(WalWatch), shapes->mcxt);
	hash_destroy(shapes->parts);
	shapes->parts = oid_hash("pg_weir parts", sizeof(Part), shapes->mcxt);
	foreach(cell, watched)
		set_watch(shapes, lfirst(cell), before);
	free_watches(before);
	shapes->must_look = true;
	forget_entries(shapes);
}

WalWatch *
weir_wal_find_watch(WalShapes *shapes, Oid relid)
{
	return hash_search(shapes->watches, &relid, HASH_FIND, NULL);
}

bool
weir_wal_must_look(const WalShapes *shapes)
{
	return shapes->must_look;
}

List *
weir_wal_due_looks(WalShapes *shapes)
{
	HASH_SEQ_STATUS status;
	WalWatch   *watch;
	List	   *due = NIL;

	shapes->must_look = false;
	hash_seq_init(&status, shapes->watches);
	while ((watch = hash_seq_search(&status)) != NULL)
	{
		if (watch->look && !watch->is_stream)
			due = lappend(due, watch);
		watch->look = false;
	}
	return due;
}

List *
weir_wal_unknown_parts(WalShapes *shapes)
{
	HASH_SEQ_STATUS status;
	WalWatch   *watch;
	List	   *unknown = NIL;

	hash_seq_init(&status, shapes->watches);
	while ((watch = hash_seq_search(&status)) != NULL)
	{
		if (!watch->known && !watch->is_stream)
			unknown = lappend(unknown, watch);
	}
	return unknown;
}

void
weir_wal_set_parts(WalShapes *shapes, WalWatch *watch, List *leaves, List *parts)
{
	MemoryContext old = MemoryContextSwitchTo(shapes->mcxt);

	list_free(watch->leaves);
	list_free(watch->parts);
	watch->leaves = list_copy(leaves);
	watch->parts = list_copy(parts);
	watch->known = true;
	note_parts(shapes, watch);	/* those that went do no harm */
	MemoryContextSwitchTo(old);
}

/* ----------------------------------------------------------- making a shape */

/* The number of a source's column in the relation, then. */
static AttrNumber
find_column(Relation rel, Oid source, AttrNumber attnum)
{
	TupleDesc	desc = RelationGetDescr(rel);
	char	   *name;

	if (source == RelationGetRelid(rel))
		return attnum <= desc->natts ? attnum : InvalidAttrNumber;
	name = get_attname(source, attnum, true);
	if (name == NULL)
		return InvalidAttrNumber;
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (!att->attisdropped && strcmp(NameStr(att->attname), name) == 0)
			return att->attnum;
	}
	return InvalidAttrNumber;
}

static void
map_columns(WalShape *shape, Relation rel, const WalWatch *watch,
			const Bitmapset *identity, WalColumns *columns)
{
	TupleDesc	desc = RelationGetDescr(rel);
	int			room = bms_num_members(watch->wanted) + 1;
	int			attnum = -1;

	columns->place = palloc(sizeof(int) * (desc->natts + 1));
	for (int i = 0; i < desc->natts; i++)
		columns->place[i] = -1;
	columns->absent = palloc(sizeof(int) * room);
	columns->varlena = palloc(sizeof(int) * room);
	while ((attnum = bms_next_member(watch->wanted, attnum)) > 0)
	{
		AttrNumber	from = find_column(rel, watch->relid, attnum);

		columns->n++;
		if (from == InvalidAttrNumber)
		{
			columns->absent[columns->n_absent++] = attnum - 1;
			continue;			/* nothing was in it */
		}
		columns->place[from - 1] = attnum - 1;
		shape->wanted = bms_add_member(shape->wanted, from);
		if (TupleDescAttr(desc, from - 1)->attlen == -1)
			columns->varlena[columns->n_varlena++] = attnum - 1;
		if (rel->rd_rel->relreplident != REPLICA_IDENTITY_FULL &&
			!bms_is_member(from - FirstLowInvalidHeapAttributeNumber, identity))
			columns->unidentified = bms_add_member(columns->unidentified, attnum);
	}
}

/* Values of columns that were added after a row was written. */
static void
copy_missing(WalShape *shape, TupleDesc desc, int natts)
{
	if (desc->constr == NULL || desc->constr->missing == NULL)
		return;
	shape->missing = palloc0(sizeof(Datum) * natts);
	shape->missing_nulls = palloc(sizeof(bool) * natts);
	for (int i = 0; i < natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		AttrMissing *missing = &desc->constr->missing[i];

		shape->missing_nulls[i] = !att->atthasmissing || !missing->am_present;
		if (!shape->missing_nulls[i])
			shape->missing[i] = datumCopy(missing->am_value, att->attbyval,
										  att->attlen);
	}
}

/*
 * Its columns up to the last one that is wanted: no more is taken apart.  Those
 * before the first of variable length always lie at the same place, if no NULL
 * comes before them.
 */
static void
copy_columns(WalShape *shape, Relation rel)
{
	TupleDesc	desc = RelationGetDescr(rel);
	int			attnum = -1;
	int			offset = 0;

	while ((attnum = bms_next_member(shape->wanted, attnum)) > 0)
		shape->natts = attnum;
	shape->atts = palloc(sizeof(WalColumn) * (shape->natts + 1));
	for (int i = 0; i < shape->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		WalColumn  *column = &shape->atts[i];

		column->len = att->attlen;
		column->byval = att->attbyval;
		column->align = att->attalign;
		column->offset = -1;
		if (att->attlen < 0)
			offset = -1;
		if (offset >= 0)
		{
			column->offset = att_align_nominal(offset, att->attalign);
			offset = column->offset + att->attlen;
		}
	}
	copy_missing(shape, desc, shape->natts);
}

/* The watches that a relation belongs to, itself first. */
static List *
find_sources(WalShapes *shapes, Relation rel)
{
	WalWatch   *watch = weir_wal_find_watch(shapes, RelationGetRelid(rel));
	List	   *sources = watch ? list_make1(watch) : NIL;
	ListCell   *cell;

	if (!rel->rd_rel->relispartition)
		return sources;
	foreach(cell, get_partition_ancestors(RelationGetRelid(rel)))
	{
		watch = weir_wal_find_watch(shapes, lfirst_oid(cell));
		if (watch != NULL)
			sources = lappend(sources, watch);
	}
	return sources;
}

static WalShape *
make_shape(WalShapes *shapes, Relation rel)
{
	List	   *sources = find_sources(shapes, rel);
	Bitmapset  *identity = NULL;
	MemoryContext mcxt;
	MemoryContext old;
	WalShape   *shape;

	if (sources == NIL)
		return NULL;
	if (rel->rd_rel->relreplident != REPLICA_IDENTITY_FULL)
		identity = RelationGetIdentityKeyBitmap(rel);
	mcxt = AllocSetContextCreate(shapes->mcxt, "pg_weir shape",
								 ALLOCSET_SMALL_SIZES);
	old = MemoryContextSwitchTo(mcxt);
	shape = palloc0(sizeof(*shape));
	shape->relid = RelationGetRelid(rel);
	shape->mcxt = mcxt;
	shape->sources = palloc(sizeof(Oid) * list_length(sources));
	shape->columns = palloc0(sizeof(WalColumns) * list_length(sources));
	for (int i = 0; i < list_length(sources); i++)
	{
		const WalWatch *watch = list_nth(sources, i);

		shape->sources[i] = watch->relid;
		map_columns(shape, rel, watch, identity, &shape->columns[i]);
	}
	shape->n_sources = list_length(sources);
	copy_columns(shape, rel);
	MemoryContextSwitchTo(old);
	return shape;
}

WalShape *
weir_wal_shape(WalShapes *shapes, Relation rel)
{
	Oid			relid = RelationGetRelid(rel);
	Entry	   *entry = shapes->last;
	bool		found = true;

	if (entry == NULL || entry->relid != relid)
		entry = hash_search(shapes->entries, &relid, HASH_ENTER, &found);
	if (!found)
	{
		entry->valid = false;
		entry->shape = NULL;
	}
	if (unlikely(!entry->valid))
	{
		retire(shapes, entry);
		/* an invalidation while we look makes it invalid again */
		entry->valid = true;
		entry->shape = make_shape(shapes, rel);
	}
	shapes->last = entry;
	return entry->shape;
}

/* ----------------------------------------------------------- reading a row */

/* Varlenas as the rest of us takes them: not compressed. */
static inline void
expand(Datum *value)
{
	struct varlena *v = (struct varlena *) DatumGetPointer(*value);

	if (unlikely(VARATT_IS_COMPRESSED(v) || VARATT_IS_EXTERNAL(v)))
		*value = PointerGetDatum(detoast_attr(v));
}

/*
 * As heap_deform_tuple(), but only as far as it is wanted, and to where it is
 * wanted.  (That one has begun to refuse tuples of more columns than the
 * descriptor has.)
 */
static inline void
deform(const WalShape *shape, const WalColumns *columns,
	   HeapTupleHeader tuple, Datum *values, bool *nulls)
{
	int			natts = Min(HeapTupleHeaderGetNatts(tuple), shape->natts);
	bits8	   *bits = (tuple->t_infomask & HEAP_HASNULL) ? tuple->t_bits : NULL;
	char	   *data = (char *) tuple + tuple->t_hoff;
	bool		fixed = true;	/* nothing of another length came before */
	int			offset = 0;
	int			i;

	for (i = 0; i < natts; i++)
	{
		const WalColumn *att = &shape->atts[i];
		int			place = columns->place[i];

		if (bits != NULL && att_isnull(i, bits))
		{
			fixed = false;
			if (place >= 0)
			{
				nulls[place] = true;
				values[place] = (Datum) 0;
			}
			continue;
		}
		if (fixed && att->offset >= 0)
			offset = att->offset;
		else
			offset = att_align_pointer(offset, att->align, att->len, data + offset);
		if (place >= 0)
		{
			nulls[place] = false;
			values[place] = fetch_att(data + offset, att->byval, att->len);
		}
		offset = att_addlength_pointer(offset, att->len, data + offset);
	}
	for (; i < shape->natts; i++)
	{
		int			place = columns->place[i];

		if (place < 0)
			continue;
		nulls[place] = shape->missing == NULL || shape->missing_nulls[i];
		values[place] = nulls[place] ? (Datum) 0 : shape->missing[i];
	}
}

/* Nothing is known of the row. */
static void
forget_columns(const WalShape *shape, const WalColumns *columns,
			   Datum *values, bool *nulls)
{
	for (int i = 0; i < shape->natts; i++)
	{
		if (columns->place[i] < 0)
			continue;
		nulls[columns->place[i]] = true;
		values[columns->place[i]] = (Datum) 0;
	}
	for (int k = 0; k < columns->n_absent; k++)
	{
		nulls[columns->absent[k]] = true;
		values[columns->absent[k]] = (Datum) 0;
	}
}

bool
weir_change_row(const WeirChange *change, int i, bool old, Datum *values,
				bool *nulls)
{
	const WalRecord *record = change->internal;
	const WalShape *shape = record->shape;
	const WalColumns *columns;
	char	   *data = wal_record_payload(record);

	if (shape == NULL)
		return false;
	columns = &shape->columns[i];
	if (old && record->old_len == 0)
	{
		/* that a row went is known, and enough for count(*) */
		if (record->kind != WEIR_CHANGE_DELETE)
			return false;
		forget_columns(shape, columns, values, nulls);
		return true;
	}
	if (!old && record->new_len == 0)
		return false;
	if (!old)
		data += MAXALIGN(record->old_len);
	deform(shape, columns, (HeapTupleHeader) data, values, nulls);
	for (int k = 0; k < columns->n_absent; k++)
	{
		nulls[columns->absent[k]] = true;
		values[columns->absent[k]] = (Datum) 0;
	}
	for (int k = 0; k < columns->n_varlena; k++)
	{
		int			place = columns->varlena[k];

		if (!nulls[place])
			expand(&values[place]);
	}
	return true;
}
