/*-------------------------------------------------------------------------
 *
 * ddl_hook.c
 *	  Where DDL of any session reaches pg_weir.
 *
 * ProcessUtility_hook looks at two statements only, CREATE TABLE AS and ALTER
 * TABLE ... SET or RESET, and at these only when they name the `weir.`
 * namespace, which core would refuse anyway.  All others pass straight on to
 * the next hook.  So nothing here can make other people's statements fail.
 *
 * object_access_hook hears of what happens to objects by whatever statement:
 *
 *	v dropped			its catalog rows go, at once (drop_view.c)
 *	v altered			the worker is woken to look at its shape; at the end
 *						of the transaction query_<id> follows v's owner
 *	a foreign table, server or user mapping changed: the worker is woken
 *	a trigger created	woken too: the last step of a restore makes the
 *						triggers by which restored views are found
 *	our extension dropped: the mark on the database goes
 *
 * The owner is followed at the end because the hook is called when the change
 * of v is not yet visible, and in the middle of REASSIGN OWNED, which is about
 * to change query_<id> itself.  What is done then is read from the catalogs
 * and not from what was noted: a note that was rolled back with its savepoint
 * finds nothing to do.
 *
 *-------------------------------------------------------------------------
 */
#include "catalog/view_ddl.h"

#include "access/xact.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_class.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_user_mapping.h"
#include "commands/extension.h"
#include "commands/tablecmds.h"
#include "miscadmin.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

static ProcessUtility_hook_type next_process_utility = NULL;
static object_access_hook_type next_object_access = NULL;

/* Views altered in this transaction, in TopTransactionContext. */
static List *altered_views = NIL;

/*--------------------------------------------------------------------------
 * Statements
 *--------------------------------------------------------------------------
 */

static bool
names_our_namespace(List *options)
{
	return weir_options_ours(options) != NIL;
}

static bool
is_our_alter(AlterTableStmt *stmt)
{
	ListCell   *lc;

	foreach(lc, stmt->cmds)
	{
		AlterTableCmd *cmd = lfirst_node(AlterTableCmd, lc);

		if ((cmd->subtype == AT_SetRelOptions ||
			 cmd->subtype == AT_ResetRelOptions) &&
			names_our_namespace((List *) cmd->def))
			return true;
	}
	return false;
}

static bool
is_our_statement(Node *stmt)
{
	if (IsA(stmt, CreateTableAsStmt))
		return names_our_namespace(castNode(CreateTableAsStmt, stmt)->into->options);
	if (IsA(stmt, AlterTableStmt))
		return is_our_alter(castNode(AlterTableStmt, stmt));
	return false;
}

/* Without the server's half a view would be created and never filled. */
static void
check_installed(void)
{
	if (!weir_catalog_exists())
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("extension pg_weir is not installed in this database"),
				 errhint("Run CREATE EXTENSION pg_weir.")));
	if (!weir_preloaded)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("pg_weir is not loaded by the server"),
				 errdetail("Continuous views are filled by background workers, which start with the server."),
				 errhint("Add pg_weir to shared_preload_libraries and restart the server.")));
}

static void
run_next(PlannedStmt *pstmt, const char *query_string, bool read_only_tree,
		 ProcessUtilityContext context, ParamListInfo params,
		 QueryEnvironment *query_env, DestReceiver *dest, QueryCompletion *qc)
{
	if (next_process_utility)
		next_process_utility(pstmt, query_string, read_only_tree, context,
							 params, query_env, dest, qc);
	else
		standard_ProcessUtility(pstmt, query_string, read_only_tree, context,
								params, query_env, dest, qc);
}

void
weir_run_utility(const WeirUtilityCall *call, Node *stmt)
{
	PlannedStmt *pstmt = makeNode(PlannedStmt);

	*pstmt = *call->pstmt;
	pstmt->utilityStmt = stmt;
	run_next(pstmt, call->query_string, false, call->context, call->params,
			 call->query_env, call->dest, call->qc);
}

static void
weir_process_utility(PlannedStmt *pstmt, const char *query_string,
					 bool read_only_tree, ProcessUtilityContext context,
					 ParamListInfo params, QueryEnvironment *query_env,
					 DestReceiver *dest, QueryCompletion *qc)
{
	WeirUtilityCall call = {
		.pstmt = pstmt,
		.query_string = query_string,
		.context = context,
		.params = params,
		.query_env = query_env,
		.dest = dest,
		.qc = qc
	};

	if (!is_our_statement(pstmt->utilityStmt))
	{
		weir_make_room(pstmt->utilityStmt);
		run_next(pstmt, query_string, read_only_tree, context, params,
				 query_env, dest, qc);
		if (IsA(pstmt->utilityStmt, RenameStmt) && weir_catalog_exists())
		{
			CommandCounterIncrement();
			weir_after_rename((RenameStmt *) pstmt->utilityStmt);
		}
		/* what was prepared shows from here on only */
		if (IsA(pstmt->utilityStmt, TransactionStmt) &&
			((TransactionStmt *) pstmt->utilityStmt)->kind == TRANS_STMT_COMMIT_PREPARED)
			weir_wake_at_commit();
		return;
	}

	check_installed();
	if (IsA(pstmt->utilityStmt, CreateTableAsStmt))
		weir_create_view(&call);
	else
		weir_alter_view(&call);
}

/*--------------------------------------------------------------------------
 * Objects
 *--------------------------------------------------------------------------
 */

static void
note_altered(Oid relid)
{
	MemoryContext old = MemoryContextSwitchTo(TopTransactionContext);

	altered_views = list_append_unique_oid(altered_views, relid);
	MemoryContextSwitchTo(old);
}

static void
relation_changed(ObjectAccessType access, Oid relid, int column)
{
	char		relkind = get_rel_relkind(relid);

	if (relkind == RELKIND_FOREIGN_TABLE)
	{
		if (access != OAT_POST_CREATE && weir_catalog_exists())
			weir_wake_at_commit();
	}
	else if (relkind == RELKIND_RELATION &&
			 get_rel_persistence(relid) != RELPERSISTENCE_TEMP &&
			 !(access == OAT_POST_CREATE && column == 0) &&
			 weir_is_view(relid))
	{
		if (access == OAT_DROP && column == 0)
			weir_forget_view(relid);
		else
		{
			note_altered(relid);
			weir_wake_at_commit();
		}
	}
}

static void
extension_dropped(Oid extension)
{
	char	   *name = get_extension_name(extension);

	if (name != NULL && strcmp(name, "pg_weir") == 0)
	{
		weir_remove_label();
		weir_wake_at_commit();
	}
}

static void
weir_object_access(ObjectAccessType access, Oid class_id, Oid object_id,
				   int sub_id, void *arg)
{
	if (next_object_access)
		next_object_access(access, class_id, object_id, sub_id, arg);

	if (access != OAT_POST_CREATE && access != OAT_POST_ALTER &&
		access != OAT_DROP)
		return;

	switch (class_id)
	{
		case RelationRelationId:
			relation_changed(access, object_id, sub_id);
			break;
		case ForeignServerRelationId:
		case UserMappingRelationId:
		case TriggerRelationId:
			if (weir_catalog_exists())
				weir_wake_at_commit();
			break;
		case ExtensionRelationId:
			if (access == OAT_DROP)
				extension_dropped(object_id);
			break;
		default:
			break;
	}
}

/*--------------------------------------------------------------------------
 * End of transaction
 *--------------------------------------------------------------------------
 */

static void
follow_owner(Oid relid)
{
	WeirViewDef *view = weir_catalog_view(relid);
	char		relkind;

	if (view != NULL &&
		weir_relation_owner(view->query_view, &relkind) != view->owner)
	{
		ATExecChangeOwner(view->query_view, view->owner, true,
						  AccessExclusiveLock);
		CommandCounterIncrement();
	}
}

static void
weir_transaction_end(XactEvent event, void *arg)
{
	List	   *views = altered_views;
	ListCell   *lc;

	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
		case XACT_EVENT_PRE_PREPARE:
			altered_views = NIL;
			if (views == NIL)
				break;
			/* statements have taken theirs back; rows of pg_type can be out of line */
			PushActiveSnapshot(GetTransactionSnapshot());
			foreach(lc, views)
				follow_owner(lfirst_oid(lc));
			PopActiveSnapshot();
			break;
		default:
			altered_views = NIL;
			break;
	}
}

void
weir_install_ddl_hooks(void)
{
	next_process_utility = ProcessUtility_hook;
	ProcessUtility_hook = weir_process_utility;
	next_object_access = object_access_hook;
	object_access_hook = weir_object_access;
	RegisterXactCallback(weir_transaction_end, NULL);
	weir_install_label_provider();
}
