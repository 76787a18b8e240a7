/*-------------------------------------------------------------------------
 *
 * alter_view.c
 *	  ALTER TABLE v SET (weir.x = ...) and RESET (weir.x).
 *
 * One statement may carry our options, core's, and other subcommands.  Ours
 * are taken out; what is left, if anything, is core's.  Both happen in one
 * transaction: ours first, so that a bad option is reported before core
 * rewrites a table for the rest.
 *
 * Renames, owners, schemas and columns are not seen here; see ddl_hook.c.
 *
 *-------------------------------------------------------------------------
 */
#include "catalog/view_ddl.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "commands/tablecmds.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"

/*
 * The options as they are now, after all of a statement's changes: do they fit
 * together?  A view that has closed windows goes on closing them: states of those
 * that are frozen are gone, and a late row would begin them anew.
 */
static void
check_options(const WeirViewDef *before, Datum stored)
{
	WeirViewOptions options = weir_options_read(stored, before->source_kind,
												before->windowed);

	options.changelog = before->options.changelog;
	if (options.watermark.kind == WEIR_WATERMARK_NONE &&
		before->options.watermark.kind != WEIR_WATERMARK_NONE)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("weir.watermark cannot be changed to 'none'"),
				 errdetail("States of windows that are frozen have been deleted."),
				 errhint("Drop the view and create it again, or give the watermark a long interval.")));
	weir_event_options_check(weir_options_stored(stored), &options,
							 weir_query_window_kind(weir_catalog_query(before->query_view)),
							 before->windowed);
}

/*
 * Takes our options out of a SET or RESET and stores them; each is checked
 * first.  Returns what is stored then.
 */
static Datum
store_options(const WeirViewDef *view, List *options, bool is_reset)
{
	WeirSqlScope scope;
	Oid			types[] = {TEXTOID, TEXTARRAYOID};
	Datum		values[2] = {CStringGetTextDatum(view->id), (Datum) 0};
	bool		isnull;
	Datum		stored;
	MemoryContext caller = CurrentMemoryContext;

	weir_options_check_alter(options, is_reset);

	weir_sql_begin(&scope);
	if (weir_sql("SELECT options FROM weir_data.views"
				 " WHERE id OPERATOR(pg_catalog.=) $1 FOR UPDATE",
				 1, types, values) != 1)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("continuous view \"%s\" was dropped concurrently",
						get_rel_name(view->relid)),
				 errhint("Create it again.")));
	stored = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1,
						   &isnull);
	values[1] = weir_options_merge(stored, options, is_reset);
	weir_sql("UPDATE weir_data.views SET options = $2"
			 " WHERE id OPERATOR(pg_catalog.=) $1",
			 2, types, values);
	MemoryContextSwitchTo(caller);
	stored = datumCopy(values[1], false, -1);
	weir_sql_end(&scope);
	return stored;
}

static WeirViewDef *
find_view(Oid relid, const RangeVar *name)
{
	WeirViewDef *view = weir_catalog_view(relid);

	if (view == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is not a continuous view", name->relname),
				 errhint("Continuous views are created by CREATE TABLE ... WITH (weir.continuous) AS SELECT ...")));
	return view;
}

void
weir_alter_view(const WeirUtilityCall *call)
{
	AlterTableStmt *stmt = copyObject(castNode(AlterTableStmt,
											   call->pstmt->utilityStmt));
	WeirViewDef *view;
	List	   *rest = NIL;
	Datum		stored = (Datum) 0;
	ListCell   *lc;
	Oid			relid;

	PreventCommandIfReadOnly("ALTER TABLE");

	/*
	 * The lock that core would take for storage parameters; it lets the
	 * worker write.  The callback checks that the user owns the relation.
	 */
	relid = RangeVarGetRelidExtended(stmt->relation, ShareUpdateExclusiveLock,
									 stmt->missing_ok ? RVR_MISSING_OK : 0,
									 RangeVarCallbackOwnsRelation, NULL);
	if (!OidIsValid(relid))
	{
		ereport(NOTICE,
				(errmsg("relation \"%s\" does not exist, skipping",
						stmt->relation->relname)));
		return;
	}
	view = find_view(relid, stmt->relation);

	foreach(lc, stmt->cmds)
	{
		AlterTableCmd *cmd = lfirst_node(AlterTableCmd, lc);
		List	   *options;

		if ((cmd->subtype == AT_SetRelOptions ||
			 cmd->subtype == AT_ResetRelOptions) &&
			weir_options_ours((List *) cmd->def) != NIL)
		{
			options = (List *) cmd->def;
			stored = store_options(view, options,
								   cmd->subtype == AT_ResetRelOptions);
			options = weir_options_without_ours(options);
			if (options == NIL)
				continue;
			cmd->def = (Node *) options;
		}
		rest = lappend(rest, cmd);
	}
	if (stored != (Datum) 0)
		check_options(view, stored);
	weir_wake_at_commit();

	if (rest != NIL)
	{
		stmt->cmds = rest;
		CommandCounterIncrement();
		weir_run_utility(call, (Node *) stmt);
	}
}
