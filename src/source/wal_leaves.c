/*-------------------------------------------------------------------------
 *
 * wal_leaves.c
 *	  What has become of the watched relations themselves.
 *
 * ATTACH, DETACH and DROP of a partition change what a partitioned table holds,
 * and write no row of it.  So after an invalidation of a watched relation, or
 * of something below it, it is looked at again, and compared with what it was.
 *
 * When: at the commit of the next transaction.  Only there does its historic
 * snapshot show everything that committed before it, and what it did itself; at
 * its beginning it may show less:
 *
 *		1. T2 begins and writes		2. T1 attaches a leaf and commits, and we
 *		look: the leaf is known		3. T2 commits: its snapshot at its beginning
 *		is older than 1, the leaf seems to be gone
 *
 * A leaf that is new is harmless if the same transaction made it and nothing was
 * written to it while it was none of ours.
 *
 * What a partitioned table consists of when it is first watched is taken as it
 * is found: at the end of the first transaction, or at its beginning if that
 * transaction changed definitions itself.
 *
 *-------------------------------------------------------------------------
 */
#include "source/wal_reader.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/sysattr.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#define REBUILD "Run weir.rebuild(view)."
#define MAKE_LOGGED \
	"Run ALTER TABLE ... SET LOGGED, then weir.rebuild(view)."

typedef struct Look
{
	WalShapes  *shapes;
	WalWatch   *watch;
	ReorderBufferTXN *txn;
	List	   *touched;		/* of WalTouched */
	WalBreak	report;
	void	   *arg;
	List	   *leaves;			/* found */
	List	   *parts;
} Look;

static void
broken(const Look *look, bool even_append_only, const char *format,
	   Oid relid, const char *detail, const char *hint)
{
	char	   *name = get_rel_name(relid);

	look->report(look->arg, look->watch->relid, even_append_only,
				 psprintf(format, name ? name : "?"), detail, hint);
}

/* The relations directly below another; one whose DETACH has begun is not. */
static List *
find_children(Oid parent)
{
	Relation	inherits = table_open(InheritsRelationId, AccessShareLock);
	List	   *children = NIL;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, Anum_pg_inherits_inhparent, BTEqualStrategyNumber,
				F_OIDEQ, ObjectIdGetDatum(parent));
	scan = systable_beginscan(inherits, InheritsParentIndexId, true, NULL, 1,
							  &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_inherits row = (Form_pg_inherits) GETSTRUCT(tuple);

		if (!row->inhdetachpending)
			children = lappend_oid(children, row->inhrelid);
	}
	systable_endscan(scan);
	table_close(inherits, AccessShareLock);
	return children;
}

static void
find_parts(Look *look, Oid parent)
{
	ListCell   *cell;

	foreach(cell, find_children(parent))
	{
		Oid			child = lfirst_oid(cell);

		look->parts = lappend_oid(look->parts, child);
		if (get_rel_relkind(child) == RELKIND_PARTITIONED_TABLE)
			find_parts(look, child);
		else
			look->leaves = lappend_oid(look->leaves, child);
	}
}

/* Was it created by the transaction, or a part of it? */
static bool
created_by(ReorderBufferTXN *txn, Oid relid)
{
	/* the row of a system column is never updated */
	HeapTuple	tuple = SearchSysCache2(ATTNUM, ObjectIdGetDatum(relid),
										Int16GetDatum(TableOidAttributeNumber));
	TransactionId xmin;
	dlist_iter	iter;
	bool		created;

	if (!HeapTupleIsValid(tuple))
		return false;
	xmin = HeapTupleHeaderGetRawXmin(tuple->t_data);
	ReleaseSysCache(tuple);
	created = xmin == txn->xid;
	dlist_foreach(iter, &txn->subtxns)
		created |= dlist_container(ReorderBufferTXN, node, iter.cur)->xid == xmin;
	return created;
}

/* Was it written to while it did not belong to the watched relation? */
static bool
written_before(const Look *look, Oid relid)
{
	ListCell   *cell;

	foreach(cell, look->touched)
	{
		const WalTouched *touched = lfirst(cell);
		bool		belonged = false;

		if (touched->relid != relid)
			continue;
		for (int i = 0; touched->shape != NULL && i < touched->shape->n_sources; i++)
			belonged |= touched->shape->sources[i] == look->watch->relid;
		if (!belonged)
			return true;
	}
	return false;
}

static char
persistence_of(Oid relid)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	char		persistence = RELPERSISTENCE_PERMANENT;

	if (HeapTupleIsValid(tuple))
	{
		persistence = ((Form_pg_class) GETSTRUCT(tuple))->relpersistence;
		ReleaseSysCache(tuple);
	}
	return persistence;
}

/* In a sorted list. */
static bool
has_oid(const List *sorted, Oid oid)
{
	int			low = 0;
	int			high = list_length(sorted);

	while (low < high)
	{
		int			middle = (low + high) / 2;
		Oid			at = list_nth_oid(sorted, middle);

		if (at == oid)
			return true;
		if (at < oid)
			low = middle + 1;
		else
			high = middle;
	}
	return false;
}

static void
check_leaf(const Look *look, Oid leaf)
{
	if (get_rel_relkind(leaf) != RELKIND_RELATION)
		broken(look, true, "the partition \"%s\" is no table", leaf, NULL,
			   "Detach it, then run weir.rebuild(view).");
	else if (persistence_of(leaf) != RELPERSISTENCE_PERMANENT)
		broken(look, true, "the partition \"%s\" is not logged", leaf, NULL,
			   MAKE_LOGGED);
	else if (look->watch->known &&
			 !has_oid(look->watch->leaves, leaf) &&
			 !(created_by(look->txn, leaf) && !written_before(look, leaf)))
		broken(look, true, "the partition \"%s\" was attached", leaf,
			   "The rows that it had before are not known.", REBUILD);
}

static void
look_at_partitions(Look *look)
{
	WalWatch   *watch = look->watch;
	ListCell   *cell;

	find_parts(look, watch->relid);
	list_sort(look->leaves, list_oid_cmp);
	foreach(cell, look->leaves)
		check_leaf(look, lfirst_oid(cell));
	if (watch->known)
	{
		foreach(cell, watch->leaves)
		{
			if (!has_oid(look->leaves, lfirst_oid(cell)))
				broken(look, false,
					   "a partition of table \"%s\" was detached or dropped",
					   watch->relid, "Its rows went without being told.", REBUILD);
		}
	}
	weir_wal_set_parts(look->shapes, watch, look->leaves, look->parts);
}

static void
look_at(Look *look)
{
	Oid			relid = look->watch->relid;
	char		kind = get_rel_relkind(relid);

	/* gone, and its views with it; or not there yet */
	if (kind != RELKIND_RELATION && kind != RELKIND_PARTITIONED_TABLE)
		return;
	if (persistence_of(relid) != RELPERSISTENCE_PERMANENT)
		broken(look, true, "table \"%s\" is not logged", relid, NULL, MAKE_LOGGED);
	else if (kind == RELKIND_PARTITIONED_TABLE)
		look_at_partitions(look);
	else if (find_children(relid) != NIL)
		broken(look, true, "other tables inherit from table \"%s\"", relid,
			   "Their rows are rows of it, too.",
			   "Run ALTER TABLE ... NO INHERIT, then weir.rebuild(view).");
}

void
weir_wal_look(WalShapes *shapes, ReorderBufferTXN *txn, List *touched,
			  WalBreak report, void *arg)
{
	Look		look = {0};
	ListCell   *cell;

	look.shapes = shapes;
	look.txn = txn;
	look.touched = touched;
	look.report = report;
	look.arg = arg;
	foreach(cell, weir_wal_due_looks(shapes))
	{
		look.watch = lfirst(cell);
		look.leaves = look.parts = NIL;
		look_at(&look);
	}
}

void
weir_wal_look_first(WalShapes *shapes)
{
	ListCell   *cell;

	foreach(cell, weir_wal_unknown_parts(shapes))
	{
		Look		look = {0};

		look.watch = lfirst(cell);
		find_parts(&look, look.watch->relid);
		list_sort(look.leaves, list_oid_cmp);
		if (get_rel_relkind(look.watch->relid) == RELKIND_PARTITIONED_TABLE)
			weir_wal_set_parts(shapes, look.watch, look.leaves, look.parts);
	}
}
