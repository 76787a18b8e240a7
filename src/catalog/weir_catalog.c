/*-------------------------------------------------------------------------
 *
 * weir_catalog.c
 *	  Reads the definitions of continuous views.
 *
 * What a view is lies in three places: a row of weir_data.views (options,
 * pinned settings, paused), the internal view weir_data.query_<id> (Q, which
 * core keeps true through renames), and v itself (owner, columns).  This file
 * puts them together into a WeirViewDef for the worker, the control functions
 * and the monitoring views.
 *
 * It reads on a snapshot of now, not the transaction's: a user above READ
 * COMMITTED who drops a view must meet the row that is there.  And it locks
 * nothing that a user can hold: somebody who has dropped a view and not yet
 * committed must not stop the worker of all the others.  So Q is read from
 * pg_rewrite and not through the relation cache, which wants a lock.
 *
 * A row of weir_data.views whose relations are missing is passed over without
 * a word: after a partial restore that is the normal state of things, and
 * adopt_views.c deals with it.
 *
 * It writes nothing.
 *
 *-------------------------------------------------------------------------
 */
#include "catalog/view_ddl.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xlog.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_foreign_table.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_rewrite.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "executor/executor.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "nodes/value.h"
#include "rewrite/rewriteDefine.h"
#include "rewrite/rewriteManip.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/rls.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

/*
 * The schema weir_data, if it is ours.  Somebody may have made a schema of
 * this name in a database without the extension, and the hooks, which run
 * everywhere, must not take his tables for the catalog.
 */
static Oid
weir_data_schema(void)
{
	Oid			schema = get_namespace_oid(WEIR_DATA_SCHEMA, true);
	Oid			extension;

	if (!OidIsValid(schema))
		return InvalidOid;
	extension = get_extension_oid("pg_weir", true);
	if (!OidIsValid(extension) ||
		getExtensionOfObject(NamespaceRelationId, schema) != extension)
		return InvalidOid;
	return schema;
}

bool
weir_catalog_exists(void)
{
	return OidIsValid(weir_data_schema());
}

Oid
weir_data_table(const char *name)
{
	Oid			schema = weir_data_schema();

	return OidIsValid(schema) ? get_relname_relid(name, schema) : InvalidOid;
}

const char *
weir_home(void)
{
	return psprintf(UINT64_FORMAT "/%u", GetSystemIdentifier(), MyDatabaseId);
}

Oid
weir_extension_owner(void)
{
	HeapTuple	tuple;
	Oid			owner;

	/* the schema's owner; REASSIGN OWNED moves it with the extension's */
	tuple = SearchSysCache1(NAMESPACEOID, ObjectIdGetDatum(weir_data_schema()));
	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("extension pg_weir is not installed in this database"),
				 errhint("Run CREATE EXTENSION pg_weir.")));
	owner = ((Form_pg_namespace) GETSTRUCT(tuple))->nspowner;
	ReleaseSysCache(tuple);
	return owner;
}

Oid
weir_relation_owner(Oid relid, char *relkind)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		return InvalidOid;
	owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	*relkind = ((Form_pg_class) GETSTRUCT(tuple))->relkind;
	ReleaseSysCache(tuple);
	return owner;
}

Query *
weir_catalog_query(Oid query_view)
{
	HeapTuple	tuple;
	Datum		action;
	bool		isnull;
	List	   *actions;
	Query	   *query;
	char		relkind;

	tuple = SearchSysCache2(RULERELNAME, ObjectIdGetDatum(query_view),
							PointerGetDatum("_RETURN"));
	if (!HeapTupleIsValid(tuple))
		return NULL;
	action = SysCacheGetAttr(RULERELNAME, tuple, Anum_pg_rewrite_ev_action,
							 &isnull);
	Assert(!isnull);
	actions = (List *) stringToNode(TextDatumGetCString(action));
	ReleaseSysCache(tuple);
	query = linitial_node(Query, actions);

	/*
	 * Before release 16 a stored view begins its range table with OLD and
	 * NEW, which only the rule system understands.
	 */
	if (list_length(query->rtable) > 2 &&
		linitial_node(RangeTblEntry, query->rtable)->relid == query_view &&
		lsecond_node(RangeTblEntry, query->rtable)->relid == query_view)
	{
		OffsetVarNodes((Node *) query, -2, 0);
		query->rtable = list_copy_tail(query->rtable, 2);
	}

	setRuleCheckAsUser((Node *) query, weir_relation_owner(query_view, &relkind));
	return query;
}

Oid
weir_query_source(const Query *query)
{
	ListCell   *lc;

	foreach(lc, query->rtable)
	{
		RangeTblEntry *rte = lfirst_node(RangeTblEntry, lc);

		if (rte->rtekind == RTE_RELATION)
			return rte->relid;
	}
	return InvalidOid;
}

void
weir_check_source_privileges(const Query *query, Oid user_id)
{
	Query	   *copy = copyObject(unconstify(Query *, query));
	Oid			source = weir_query_source(query);
	char		relkind = '\0';

	setRuleCheckAsUser((Node *) copy, user_id);
	weir_check_query_permissions(copy);

	/* the WAL tells every row, whoever may see it */
	if (check_enable_rls(source, user_id, true) == RLS_ENABLED)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("row level security of table \"%s\" applies to role \"%s\"",
						get_rel_name(source), GetUserNameFromId(user_id, false)),
				 errdetail("A continuous view is over all rows of its source."),
				 errhint("Let a role own the view to which no policy applies: the table's owner, or one with BYPASSRLS.")));

	if (OidIsValid(weir_relation_owner(source, &relkind)) &&
		relkind == RELKIND_FOREIGN_TABLE)
	{
		ForeignServer *server = GetForeignServer(GetForeignTable(source)->serverid);
		AclResult	result = weir_server_aclcheck(server->serverid, user_id,
												  ACL_USAGE);

		if (result != ACLCHECK_OK)
			aclcheck_error(result, OBJECT_FOREIGN_SERVER, server->servername);
	}
}

/* False when a DROP of the source, or of its server, has just committed. */
static bool
find_source_kind(Oid source, WeirSourceKind *kind)
{
	char		relkind = get_rel_relkind(source);
	HeapTuple	tuple;
	ForeignServer *server;
	ForeignDataWrapper *wrapper;

	*kind = WEIR_SOURCE_TABLE;
	if (relkind != RELKIND_FOREIGN_TABLE)
		return relkind != '\0';
	tuple = SearchSysCache1(FOREIGNTABLEREL, ObjectIdGetDatum(source));
	if (!HeapTupleIsValid(tuple))
		return false;
	server = GetForeignServerExtended(((Form_pg_foreign_table) GETSTRUCT(tuple))->ftserver,
									  FSV_MISSING_OK);
	ReleaseSysCache(tuple);
	if (server == NULL)
		return false;
	wrapper = GetForeignDataWrapperExtended(server->fdwid, FDW_MISSING_OK);
	if (wrapper == NULL)
		return false;
	*kind = strcmp(wrapper->fdwname, WEIR_STREAM_WRAPPER) == 0 ?
		WEIR_SOURCE_STREAM : WEIR_SOURCE_KAFKA;
	return true;
}

WeirSourceKind
weir_source_kind(Oid source)
{
	WeirSourceKind kind;

	if (!find_source_kind(source, &kind))
		elog(ERROR, "relation %u is gone", source);
	return kind;
}

/* text[] to a list of String. */
static List *
strings_of_array(Datum array)
{
	Datum	   *elements;
	int			n;
	List	   *result = NIL;

	deconstruct_array(DatumGetArrayTypeP(array), TEXTOID, -1, false,
					  TYPALIGN_INT, &elements, NULL, &n);
	for (int i = 0; i < n; i++)
		result = lappend(result, makeString(TextDatumGetCString(elements[i])));
	return result;
}

/* NULL unless the row is of this database and all its relations are there. */
static WeirViewDef *
resolve_view(HeapTuple tuple, TupleDesc desc, const char *home)
{
	Datum		values[VIEWS_NATTS];
	bool		nulls[VIEWS_NATTS];
	WeirViewDef *view;
	Query	   *query;
	Oid			schema = weir_data_schema();
	char		relkind = '\0';

	if (desc->natts < VIEWS_NATTS)
		return NULL;			/* an older script: ALTER EXTENSION UPDATE */
	heap_deform_tuple(tuple, desc, values, nulls);
	if (strcmp(TextDatumGetCString(values[VIEWS_HOME - 1]), home) != 0)
		return NULL;

	view = palloc0(sizeof(WeirViewDef));
	strlcpy(view->id, TextDatumGetCString(values[VIEWS_ID - 1]),
			sizeof(view->id));
	view->relid = DatumGetObjectId(values[VIEWS_RELID - 1]);
	view->owner = weir_relation_owner(view->relid, &relkind);
	if (!OidIsValid(view->owner) || relkind != RELKIND_RELATION)
		return NULL;
	view->query_view = get_relname_relid(psprintf("query_%s", view->id), schema);
	view->state_table = get_relname_relid(psprintf("state_%s", view->id), schema);
	if (!OidIsValid(view->query_view) || !OidIsValid(view->state_table))
		return NULL;

	/* a dump restored over its own database: the OID is another table's */
	if (!weir_is_internal_part(view->query_view, view->relid))
		return NULL;
	query = weir_catalog_query(view->query_view);
	if (query == NULL)
		return NULL;
	view->source = weir_query_source(query);
	WEIR_FAULT("catalog-view");
	/* they were there above, but a DROP may have committed in between */
	if (!find_source_kind(view->source, &view->source_kind))
		return NULL;
	view->name = get_rel_name(view->relid);
	if (view->name == NULL)
		return NULL;
	view->paused = DatumGetBool(values[VIEWS_PAUSED - 1]);
	view->epoch = DatumGetInt64(values[VIEWS_EPOCH - 1]);
	view->version = HeapTupleHeaderGetRawXmin(tuple->t_data);
	view->settings = strings_of_array(values[VIEWS_SETTINGS - 1]);
	view->windowed = DatumGetBool(values[VIEWS_WINDOWED - 1]);
	snprintf(view->channel, sizeof(view->channel), "weir_%s", view->id);
	view->options = weir_options_read(values[VIEWS_OPTIONS - 1],
									  view->source_kind, view->windowed);
	view->changelog = nulls[VIEWS_CHANGELOG - 1] ? InvalidOid :
		DatumGetObjectId(values[VIEWS_CHANGELOG - 1]);
	if (!OidIsValid(view->changelog))
		view->options.changelog = WEIR_CHANGELOG_OFF;
	else if (!weir_is_internal_part(view->changelog, view->relid))
		return NULL;
	view->retracts = view->source_kind == WEIR_SOURCE_TABLE &&
		view->options.append_only == WEIR_APPEND_ONLY_OFF;
	return view;
}

/*
 * All rows of weir_data.views, or with a valid relid those that name it, in the
 * column `attno` with that index.
 */
static List *
read_views(AttrNumber attno, const char *index_name, Oid relid)
{
	Oid			views = weir_data_table("views");
	Oid			index = InvalidOid;
	Relation	rel;
	Snapshot	snapshot;
	SysScanDesc scan;
	ScanKeyData key;
	HeapTuple	tuple;
	List	   *result = NIL;
	const char *home = weir_home();

	if (!OidIsValid(views) ||
		(rel = try_table_open(views, AccessShareLock)) == NULL)
		return NIL;

	if (OidIsValid(relid))
	{
		index = weir_data_table(index_name);
		ScanKeyInit(&key, attno, BTEqualStrategyNumber, F_OIDEQ,
					ObjectIdGetDatum(relid));
	}
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	scan = systable_beginscan(rel, index, OidIsValid(index), snapshot,
							  OidIsValid(relid) ? 1 : 0, &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		WeirViewDef *view = resolve_view(tuple, RelationGetDescr(rel), home);

		if (view != NULL)
			result = lappend(result, view);
	}
	systable_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(rel, AccessShareLock);
	return result;
}

List *
weir_catalog_views(void)
{
	return read_views(InvalidAttrNumber, NULL, InvalidOid);
}

WeirViewDef *
weir_catalog_view(Oid relid)
{
	List	   *views = OidIsValid(relid) ?
	read_views(VIEWS_RELID, "views_relid", relid) : NIL;

	return views == NIL ? NULL : linitial(views);
}

WeirViewDef *
weir_catalog_view_of_changelog(Oid relid)
{
	List	   *views = OidIsValid(relid) ?
	read_views(VIEWS_CHANGELOG, "views_changelog", relid) : NIL;

	return views == NIL ? NULL : linitial(views);
}
