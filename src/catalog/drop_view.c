/*-------------------------------------------------------------------------
 *
 * drop_view.c
 *	  Forgets a continuous view when its table goes.
 *
 * Called from the object access hook while core is dropping v, by whatever
 * statement: DROP TABLE, SCHEMA, OWNED, EXTENSION, or a cascade from the
 * source.  The internal parts go by their dependencies; here go the rows of
 * the catalog tables, in the same (sub)transaction, so that ROLLBACK TO a
 * savepoint brings everything back together.
 *
 * Core holds an AccessExclusiveLock on v.  A worker's commit locks v before it
 * locks these rows, so it cannot be in the middle; a worker that writes down
 * why it stalls may be, and is waited for and followed.
 *
 * Deletion goes below SQL: inside a hook in the middle of a cascade there is
 * no telling which of our tables or functions still exists, and an error here
 * would make a table undroppable.
 *
 *-------------------------------------------------------------------------
 */
#include "catalog/view_ddl.h"

#include "access/genam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

/* Deletes a row, or what a concurrent update has made of it. */
static void
delete_row(Relation rel, ItemPointer place, Snapshot snapshot)
{
	ItemPointerData tid = *place;

	for (;;)
	{
		TM_FailureData failure;
		TM_Result	result;

		result = table_tuple_delete(rel, &tid, GetCurrentCommandId(true),
									snapshot, InvalidSnapshot, true,
									&failure, false);
		if (result == TM_Updated && !ItemPointerEquals(&tid, &failure.ctid))
		{
			tid = failure.ctid;
			continue;
		}
		/* TM_Ok, or somebody else has deleted it: gone either way */
		return;
	}
}

/*
 * Walks over the rows of a catalog table whose column `attno` has a value;
 * deletes them if asked.  Appends the first column of each, as text, to ids.
 * Returns their number.  A table that is gone has none.
 */
static int
scan_rows(const char *table, const char *index, AttrNumber attno,
		  RegProcedure equals, Datum value, bool delete, List **ids)
{
	Oid			relid = weir_data_table(table);
	Relation	rel;
	Snapshot	snapshot;
	SysScanDesc scan;
	ScanKeyData key;
	HeapTuple	tuple;
	int			n = 0;
	const char *home = weir_home();

	if (!OidIsValid(relid) ||
		(rel = try_table_open(relid, RowExclusiveLock)) == NULL)
		return 0;

	/* the text columns are COLLATE "C", as ScanKeyInit assumes */
	ScanKeyInit(&key, attno, BTEqualStrategyNumber, equals, value);
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	scan = systable_beginscan(rel, weir_data_table(index),
							  OidIsValid(weir_data_table(index)),
							  snapshot, 1, &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		bool		isnull;

		if (ids != NULL)
		{
			/* of views: an OID of another database says nothing here */
			Datum		row_home = heap_getattr(tuple, VIEWS_HOME, RelationGetDescr(rel),
												&isnull);
			Datum		id = heap_getattr(tuple, VIEWS_ID, RelationGetDescr(rel),
										  &isnull);

			if (strcmp(TextDatumGetCString(row_home), home) != 0)
				continue;
			*ids = lappend(*ids, TextDatumGetCString(id));
		}
		if (delete)
			delete_row(rel, &tuple->t_self, snapshot);
		n++;
	}
	systable_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(rel, NoLock);
	return n;
}

bool
weir_is_view(Oid relid)
{
	List	   *ids = NIL;

	return scan_rows("views", "views_relid", VIEWS_RELID, F_OIDEQ,
					 ObjectIdGetDatum(relid), false, &ids) > 0;
}

void
weir_forget_view(Oid relid)
{
	List	   *ids = NIL;
	ListCell   *lc;

	/*
	 * The row of views first: a worker's commit holds it, so from here on
	 * nobody adds to the others.
	 */
	scan_rows("views", "views_relid", VIEWS_RELID, F_OIDEQ, ObjectIdGetDatum(relid),
			  true, &ids);
	foreach(lc, ids)
	{
		Datum		id = CStringGetTextDatum((char *) lfirst(lc));

		WEIR_FAULT("drop-view");
		scan_rows("status", "status_pkey", 1, F_TEXTEQ, id, true, NULL);
		scan_rows("positions", "positions_pkey", 1, F_TEXTEQ, id, true, NULL);
		scan_rows("dead_letters", "dead_letters_view", 1, F_TEXTEQ, id, true,
				  NULL);
		scan_rows("late_rows", "late_rows_view", 1, F_TEXTEQ, id, true, NULL);
	}
	if (ids != NIL)
	{
		WEIR_FAULT("drop-forgotten");
		weir_wake_at_commit();
	}
}
