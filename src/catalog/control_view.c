/*-------------------------------------------------------------------------
 *
 * control_view.c
 *	  weir.pause, weir.resume, weir.rebuild, weir.definition,
 *	  weir.delete_dead_letters, weir.delete_late_rows.
 *
 * The first three write down what is to be and wake the worker at commit; none
 * of them waits for it.  They update the view's row in weir_data.views: the
 * first commit of the worker to see the new row finds a new epoch or `paused`
 * and drops what it has in memory.  A rebuild also truncates the states, which
 * the worker's commit has locked by then, so it has all of a commit or none.
 *
 * Only the owner of v may use them.  weir.definition is for everybody, as
 * pg_get_viewdef() is.
 *
 * On a standby they fail as any write does.
 *
 *-------------------------------------------------------------------------
 */
#include "catalog/view_ddl.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "source/changes.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"

PG_FUNCTION_INFO_V1(weir_pause);
PG_FUNCTION_INFO_V1(weir_resume);
PG_FUNCTION_INFO_V1(weir_rebuild);
PG_FUNCTION_INFO_V1(weir_definition);
PG_FUNCTION_INFO_V1(weir_delete_dead_letters);
PG_FUNCTION_INFO_V1(weir_delete_late_rows);

/* A partition of a view as it stands before a rebuild. */
typedef struct PartitionBooks
{
	int32		partition;
	int64		position;
	int64		start;
} PartitionBooks;

/* Raises unless relid is a continuous view. */
static WeirViewDef *
get_view(Oid relid)
{
	char	   *name = get_rel_name(relid);
	WeirViewDef *view;

	if (name == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation with OID %u does not exist", relid),
				 errhint("See weir.views for the continuous views of this database.")));
	view = weir_catalog_view(relid);
	if (view == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is not a continuous view", name),
				 errhint("See weir.views for the continuous views of this database.")));
	return view;
}

/*
 * A view that came with a copy of another database is nobody's yet, and its
 * owner says with weir.resume() or weir.rebuild() that it shall go on here.  The
 * worker could adopt the same view at the same time; both would write the same.
 */
static void
adopt_stray(Oid relid, const char *function)
{
	if (get_rel_name(relid) != NULL &&
		weir_owns_relation(relid, GetUserId()) &&
		weir_catalog_view(relid) == NULL &&
		OidIsValid(get_trigger_oid(relid, WEIR_READ_ONLY_TRIGGER, true)))
	{
		PreventCommandIfReadOnly(function);
		(void) weir_catalog_adopt();
		CommandCounterIncrement();
	}
}

/* Raises unless the user may change the view; locks it against DDL. */
static WeirViewDef *
get_view_to_control(Oid relid, const char *function)
{
	char	   *name;

	PreventCommandIfReadOnly(function);
	(void) get_view(relid);
	name = get_rel_name(relid);
	if (!weir_owns_relation(relid, GetUserId()))
		aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_TABLE, name);
	LockRelationOid(relid, ShareUpdateExclusiveLock);

	/* it may have gone, or gone to somebody else, while we waited */
	if (get_rel_name(relid) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("continuous view \"%s\" was dropped concurrently",
						name),
				 errhint("See weir.views for the continuous views of this database.")));
	if (!weir_owns_relation(relid, GetUserId()))
		aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_TABLE, name);
	return get_view(relid);
}

Datum
weir_pause(PG_FUNCTION_ARGS)
{
	WeirViewDef *view = get_view_to_control(PG_GETARG_OID(0), "weir.pause()");
	Oid			types[] = {TEXTOID};
	Datum		values[] = {CStringGetTextDatum(view->id)};

	weir_run_sql("UPDATE weir_data.views SET paused = true"
				 " WHERE id OPERATOR(pg_catalog.=) $1", 1, types, values);
	weir_wake_at_commit();
	PG_RETURN_VOID();
}

Datum
weir_resume(PG_FUNCTION_ARGS)
{
	WeirViewDef *view;
	WeirSqlScope scope;
	Oid			types[] = {TEXTOID};
	Datum		values[1];

	adopt_stray(PG_GETARG_OID(0), "weir.resume()");
	view = get_view_to_control(PG_GETARG_OID(0), "weir.resume()");
	values[0] = CStringGetTextDatum(view->id);
	weir_sql_begin(&scope);
	weir_sql("UPDATE weir_data.views SET paused = false"
			 " WHERE id OPERATOR(pg_catalog.=) $1", 1, types, values);
	weir_sql("UPDATE weir_data.status"
			 " SET sqlstate = NULL, message = NULL, detail = NULL, hint = NULL"
			 " WHERE view_id OPERATOR(pg_catalog.=) $1", 1, types, values);
	weir_sql_end(&scope);
	weir_wake_at_commit();
	PG_RETURN_VOID();
}

/*--------------------------------------------------------------------------
 * Rebuild
 *--------------------------------------------------------------------------
 */

static PartitionBooks *
read_books(const char *id, int *n)
{
	WeirSqlScope scope;
	Oid			types[] = {TEXTOID};
	Datum		values[] = {CStringGetTextDatum(id)};
	MemoryContext context = CurrentMemoryContext;
	PartitionBooks *books;

	weir_sql_begin(&scope);
	*n = weir_sql("SELECT partition, position, start FROM weir_data.positions"
				  " WHERE view_id OPERATOR(pg_catalog.=) $1 ORDER BY 1",
				  1, types, values);
	books = MemoryContextAlloc(context, (*n + 1) * sizeof(PartitionBooks));
	for (int i = 0; i < *n; i++)
	{
		HeapTuple	row = SPI_tuptable->vals[i];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		bool		isnull;

		books[i].partition = DatumGetInt32(SPI_getbinval(row, desc, 1, &isnull));
		books[i].position = DatumGetInt64(SPI_getbinval(row, desc, 2, &isnull));
		books[i].start = DatumGetInt64(SPI_getbinval(row, desc, 3, &isnull));
	}
	weir_sql_end(&scope);
	return books;
}

static const WeirPartitionRange *
find_range(const WeirPartitionRange *ranges, int n, int32 partition)
{
	for (int i = 0; i < n; i++)
		if (ranges[i].partition == partition)
			return &ranges[i];
	return NULL;
}

/*
 * True if the source still holds every position that the view has accepted:
 * none deleted by retention, and no topic of the same name made since.
 */
static bool
is_complete(const PartitionBooks *books, const WeirPartitionRange *range)
{
	return range != NULL && range->low <= books->start &&
		books->position <= range->high;
}

static void
refuse_loss(const WeirViewDef *view, const PartitionBooks *books,
			const WeirPartitionRange *range)
{
	char	   *detail;

	if (range == NULL)
		detail = psprintf("Partition %d is no longer there.", books->partition);
	else if (range->low > books->start)
		detail = psprintf("The view has read partition %d from offset " INT64_FORMAT "; the first one still there is " INT64_FORMAT ".",
						  books->partition, books->start, range->low);
	else
		detail = psprintf("The view has read partition %d up to offset " INT64_FORMAT "; it ends at " INT64_FORMAT " now, so the topic was made anew.",
						  books->partition, books->position, range->high);
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("the source no longer holds all that \"%s\" has read",
					get_rel_name(view->relid)),
			 errdetail("%s", detail),
			 errhint("To compute the view from what is left, call weir.rebuild(view, accept_loss => true).")));
}

/*
 * One partition goes back to its start.  The target is at least the position
 * of now, read in the same statement, so that the rows published at the end of
 * the rebuild are never older than those that they replace.
 */
static void
reset_partition(const char *id, const PartitionBooks *books,
				const WeirPartitionRange *range)
{
	Oid			types[] = {TEXTOID, INT4OID, INT8OID, INT8OID, BOOLOID};
	Datum		values[] = {CStringGetTextDatum(id),
	Int32GetDatum(books->partition), (Datum) 0, (Datum) 0, (Datum) 0};
	bool		anew;

	if (range == NULL)
	{
		/* should it come back, it is a new partition and read from 0 */
		weir_sql("DELETE FROM weir_data.positions"
				 " WHERE view_id OPERATOR(pg_catalog.=) $1"
				 " AND partition OPERATOR(pg_catalog.=) $2", 2, types, values);
		return;
	}

	anew = books->position > range->high;
	values[2] = Int64GetDatum(anew ? range->low :
							  Max(books->start, range->low));
	values[3] = Int64GetDatum(range->high);
	values[4] = BoolGetDatum(anew);
	weir_sql("UPDATE weir_data.positions SET position = $3, start = $3,"
			 " target = CASE WHEN $5 THEN $4 ELSE GREATEST(position, $4) END,"
			 " source_end = $4, last_offset = NULL, last_print = NULL,"
			 " last_time = NULL, rows_in = 0, rows_filtered = 0,"
			 " tombstones = 0, dead_letters = 0,"
			 " greatest = NULL, watermark = NULL, idle = false, lateness = NULL"
			 " WHERE view_id OPERATOR(pg_catalog.=) $1"
			 " AND partition OPERATOR(pg_catalog.=) $2",
			 5, types, values);
}

/*
 * Positions first, the broker second: asked the other way round, a position
 * that moved on meanwhile would look as if the topic ended before it.
 */
static PartitionBooks *
ask_broker(const WeirViewDef *view, bool accept_loss, int *n_books,
		   WeirPartitionRange **ranges, int *n_ranges)
{
	PartitionBooks *books = read_books(view->id, n_books);

	*ranges = weir_kafka_probe(view->source, view->owner, DT_NOBEGIN, n_ranges);
	for (int i = 0; i < *n_books; i++)
	{
		const WeirPartitionRange *range = find_range(*ranges, *n_ranges,
													 books[i].partition);

		if (!accept_loss && !is_complete(&books[i], range))
			refuse_loss(view, &books[i], range);
	}
	return books;
}

/*
 * A table holds the rows that it holds, whatever the WAL still has.  What a
 * view over more than these has lost, it loses for good.
 */
static void
check_rebuild_changes(const WeirViewDef *view, bool accept_loss)
{
	const char *detail = NULL;
	const char *hint = "To compute the view from what is left, call weir.rebuild(view, accept_loss => true).";

	if (view->source_kind == WEIR_SOURCE_STREAM)
	{
		detail = "Rows of a push stream are stored nowhere.";
		hint = "To begin anew with what is inserted from now on, call weir.rebuild(view, accept_loss => true).";
	}
	else if (view->options.append_only == WEIR_APPEND_ONLY_IGNORE)
		detail = "The view is over every row that was ever inserted (weir.append_only is 'ignore'); rows that were deleted since are no longer in the table.";
	if (detail != NULL && !accept_loss)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the source no longer holds all that \"%s\" has read",
						view->name),
				 errdetail("%s", detail),
				 errhint("%s", hint)));
	weir_slot_check_possible();
	if (view->source_kind == WEIR_SOURCE_TABLE)
		weir_recheck_table(view);
}

Datum
weir_rebuild(PG_FUNCTION_ARGS)
{
	WeirViewDef *view;
	bool		accept_loss = PG_GETARG_BOOL(1);
	WeirSqlScope scope;
	Oid			types[] = {TEXTOID};
	Datum		values[1];
	WeirPartitionRange *ranges = NULL;
	PartitionBooks *books = NULL;
	int			n_ranges = 0;
	int			n_books = 0;

	adopt_stray(PG_GETARG_OID(0), "weir.rebuild()");
	view = get_view_to_control(PG_GETARG_OID(0), "weir.rebuild()");
	values[0] = CStringGetTextDatum(view->id);
	if (view->source_kind == WEIR_SOURCE_KAFKA)
		books = ask_broker(view, accept_loss, &n_books, &ranges, &n_ranges);
	else
		check_rebuild_changes(view, accept_loss);
	if (accept_loss)
		ereport(LOG,
				(errmsg("continuous view \"%s\" is rebuilt, and what its source has lost is accepted",
						view->name)));

	weir_sql_begin(&scope);
	weir_sql("UPDATE weir_data.views SET epoch = epoch OPERATOR(pg_catalog.+) 1"
			 " WHERE id OPERATOR(pg_catalog.=) $1", 1, types, values);
	weir_sql(psprintf("TRUNCATE %s",
					  quote_qualified_identifier(WEIR_DATA_SCHEMA,
												 get_rel_name(view->state_table))),
			 0, NULL, NULL);
	WEIR_FAULT("rebuild_after_truncate");

	/*
	 * Event time begins anew, too.  The changelog does not: it goes on from
	 * its last number, and windows that had closed when v was last published,
	 * as `emitted` goes on to say, are in it.
	 */
	weir_sql("UPDATE weir_data.status SET phase = 'backfilling',"
			 " groups = 0, state_bytes = 0,"
			 " sqlstate = NULL, message = NULL, detail = NULL, hint = NULL,"
			 " watermark = NULL, settled = NULL, held_by = NULL,"
			 " late_applied = 0, late_side = 0, late_dropped = 0"
			 " WHERE view_id OPERATOR(pg_catalog.=) $1", 1, types, values);
	weir_sql("DELETE FROM weir_data.dead_letters"
			 " WHERE view_id OPERATOR(pg_catalog.=) $1", 1, types, values);
	weir_sql("DELETE FROM weir_data.late_rows"
			 " WHERE view_id OPERATOR(pg_catalog.=) $1", 1, types, values);
	for (int i = 0; i < n_books; i++)
		reset_partition(view->id, &books[i],
						find_range(ranges, n_ranges, books[i].partition));
	/* like a new view: over a table it has none, over a stream it begins now */
	if (view->source_kind == WEIR_SOURCE_STREAM)
	{
		Oid			begin_types[] = {TEXTOID, INT8OID};
		Datum		begin_values[] = {values[0],
		Int64GetDatum((int64) GetXLogInsertRecPtr())};

		weir_sql("UPDATE weir_data.positions SET position = $2, start = $2,"
				 " target = $2, source_end = $2, last_offset = NULL,"
				 " last_print = NULL, last_time = NULL, rows_in = 0,"
				 " rows_filtered = 0, dead_letters = 0,"
				 " greatest = NULL, watermark = NULL, idle = false,"
				 " lateness = NULL"
				 " WHERE view_id OPERATOR(pg_catalog.=) $1",
				 2, begin_types, begin_values);
	}
	else if (view->source_kind == WEIR_SOURCE_TABLE)
		weir_sql("DELETE FROM weir_data.positions"
				 " WHERE view_id OPERATOR(pg_catalog.=) $1", 1, types, values);
	weir_sql_end(&scope);
	weir_wake_at_commit();
	PG_RETURN_VOID();
}

/*
 * Q as SQL, names qualified because the function's own search path is what
 * core looks at; without the semicolon, so that it fits into parentheses.
 */
Datum
weir_definition(PG_FUNCTION_ARGS)
{
	WeirViewDef *view = get_view(PG_GETARG_OID(0));
	char	   *query;
	size_t		len;

	query = TextDatumGetCString(DirectFunctionCall2(pg_get_viewdef_ext,
													ObjectIdGetDatum(view->query_view),
													BoolGetDatum(true)));
	len = strlen(query);
	if (len > 0 && query[len - 1] == ';')
		query[len - 1] = '\0';
	PG_RETURN_TEXT_P(cstring_to_text(query));
}

/* What is kept until somebody has looked at it; returns how many rows. */
static int64
delete_kept(PG_FUNCTION_ARGS, const char *function, const char *sql)
{
	WeirViewDef *view = get_view_to_control(PG_GETARG_OID(0), function);
	Oid			types[] = {TEXTOID, TIMESTAMPTZOID};
	Datum		values[] = {CStringGetTextDatum(view->id), PG_GETARG_DATUM(1)};

	return (int64) weir_run_sql(sql, 2, types, values);
}

Datum
weir_delete_dead_letters(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(delete_kept(fcinfo, "weir.delete_dead_letters()",
								"DELETE FROM weir_data.dead_letters"
								" WHERE view_id OPERATOR(pg_catalog.=) $1"
								" AND at OPERATOR(pg_catalog.<) $2"));
}

Datum
weir_delete_late_rows(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(delete_kept(fcinfo, "weir.delete_late_rows()",
								"DELETE FROM weir_data.late_rows"
								" WHERE view_id OPERATOR(pg_catalog.=) $1"
								" AND at OPERATOR(pg_catalog.<) $2"));
}
