/*-------------------------------------------------------------------------
 *
 * view_parts.c
 *	  The relations that belong to a continuous view v.
 *
 *		weir_data.query_<id>	Q as a view, owned by v's owner
 *		weir_data.state_<id>	transition states, owned by the extension's owner
 *		<view>_changes			the changelog, if the view has one, beside v and
 *								owned by v's owner (changelog_table.c)
 *		trigger weir_read_only	on v and its changelog: refuses users' writes
 *		indexes					on v: unique over the keys, BRIN over the window
 *
 * All but the indexes are internal parts of v: they go when it goes, and core
 * refuses to drop them alone.  v in turn depends on its source.  Without that
 * direct dependency DROP of the source would still find v, through the rule
 * of query_<id>, but would explain itself with names that no user has seen.
 *
 * States live apart and belong to the extension's owner because stored bytes
 * reach deserialisers of aggregates, which trust them.  query_<id> belongs to
 * v's owner because core checks a view's reads as its owner.
 *
 * This file makes parts and records how they hang together; which view gets
 * them, and when, is create_view.c's and adopt_views.c's business.
 *
 *-------------------------------------------------------------------------
 */
#include "catalog/view_ddl.h"

#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/objectaddress.h"
#include "catalog/pg_am.h"
#include "catalog/pg_class.h"
#include "catalog/pg_trigger.h"
#include "commands/defrem.h"
#include "commands/tablecmds.h"
#include "commands/trigger.h"
#include "commands/view.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

/* v's name, qualified and quoted. */
static char *
quoted_relation(Oid relid)
{
	return quote_qualified_identifier(get_namespace_name(get_rel_namespace(relid)),
									  get_rel_name(relid));
}

/*
 * Makes weir_data.query_<id> of an analysed Query.  The owner, who is the
 * current user, has no rights in weir_data, so the relation is made as the
 * extension's owner; the rule goes in as himself.
 */
Oid
weir_make_query_view(const char *id, const Query *query, Oid owner)
{
	CreateStmt *create = makeNode(CreateStmt);
	ObjectAddress address;
	ListCell   *lc;
	Oid			save_user;
	int			save_sec_context;

	foreach(lc, query->targetList)
	{
		TargetEntry *target = lfirst_node(TargetEntry, lc);
		Node	   *expr = (Node *) target->expr;

		if (!target->resjunk)
			create->tableElts = lappend(create->tableElts,
										makeColumnDef(target->resname,
													  exprType(expr),
													  exprTypmod(expr),
													  exprCollation(expr)));
	}
	create->relation = makeRangeVar(WEIR_DATA_SCHEMA,
									psprintf("query_%s", id), -1);
	create->oncommit = ONCOMMIT_NOOP;

	GetUserIdAndSecContext(&save_user, &save_sec_context);
	SetUserIdAndSecContext(weir_extension_owner(),
						   save_sec_context | SECURITY_LOCAL_USERID_CHANGE);
	address = DefineRelation(create, RELKIND_VIEW, owner, NULL, NULL);
	SetUserIdAndSecContext(save_user, save_sec_context);

	CommandCounterIncrement();
	StoreViewQuery(address.objectId, copyObject(unconstify(Query *, query)),
				   false);
	CommandCounterIncrement();
	return address.objectId;
}

/*
 * Makes weir_data.state_<id>: pane, hash of the other keys, place of the result
 * row, state.  The fillfactor leaves room for a HOT update of every row of a page.
 */
Oid
weir_make_state_table(const char *id)
{
	const char *name = psprintf("state_%s", id);

	weir_run_sql(psprintf("CREATE TABLE %s (pane pg_catalog.int8 NOT NULL,"
						  " hash pg_catalog.int8 NOT NULL,"
						  " result pg_catalog.tid, state pg_catalog.bytea,"
						  " published pg_catalog.int8)"
						  " USING heap WITH (fillfactor = 45)",
						  quote_qualified_identifier(WEIR_DATA_SCHEMA, name)),
				 0, NULL, NULL);
	return weir_data_table(name);
}

static const char *
quoted_state_table(Oid state_table)
{
	char	   *name = get_rel_name(state_table);

	if (name == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("the view was dropped")));
	return quote_qualified_identifier(WEIR_DATA_SCHEMA, name);
}

/* At most 63 bytes, since ids are short. */
void
weir_make_state_index(Oid state_table)
{
	const char *table = quoted_state_table(state_table);

	weir_run_sql(psprintf("CREATE INDEX %s ON %s (pane, hash)",
						  quote_identifier(psprintf("%s_by_key",
													get_rel_name(state_table))),
						  table),
				 0, NULL, NULL);
}

void
weir_truncate_states(Oid state_table)
{
	weir_run_sql(psprintf("TRUNCATE %s", quoted_state_table(state_table)),
				 0, NULL, NULL);
}

void
weir_make_read_only_trigger(const char *id, Oid relid, bool is_changelog)
{
	weir_run_sql_as_caller(psprintf("CREATE TRIGGER %s BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE"
									" ON %s FOR EACH STATEMENT EXECUTE FUNCTION %s.read_only(%s%s)",
									WEIR_READ_ONLY_TRIGGER,
									quoted_relation(relid), WEIR_SCHEMA,
									quote_literal_cstr(id),
									is_changelog ? ", '" WEIR_READ_ONLY_CHANGELOG "'" : ""));
}

/* The column of v that shows a key bare, quoted. */
static const char *
key_column(Oid relid, const WeirKey *key)
{
	return quote_identifier(get_attname(relid, key->result_column, false));
}

/*
 * A unique index when the result shows every key bare and each can be
 * compared: it is what users look rows up by, and what finds a row again
 * whose place has changed.  Its columns never change in a row, so updates of
 * the results stay HOT.
 */
void
weir_make_indexes(Oid relid, const WeirPlan *plan)
{
	StringInfoData columns;
	bool		unique = plan->n_keys > 0 && plan->n_keys <= INDEX_MAX_KEYS;

	initStringInfo(&columns);
	for (int i = 0; unique && i < plan->n_keys; i++)
	{
		const WeirKey *key = &plan->keys[i];

		if (key->result_column == 0 ||
			!OidIsValid(GetDefaultOpClass(key->type, BTREE_AM_OID)))
			unique = false;
		else
			appendStringInfo(&columns, "%s%s", i > 0 ? ", " : "",
							 key_column(relid, key));
	}
	if (unique)
		weir_run_sql_as_caller(psprintf("CREATE UNIQUE INDEX ON %s (%s) NULLS NOT DISTINCT",
										quoted_relation(relid), columns.data));

	if (plan->window_key >= 0)
	{
		const WeirKey *window = &plan->keys[plan->window_key];

		if (window->result_column != 0 &&
			OidIsValid(GetDefaultOpClass(window->type, BRIN_AM_OID)))
			weir_run_sql_as_caller(psprintf("CREATE INDEX ON %s USING brin (%s)",
											quoted_relation(relid),
											key_column(relid, window)));
	}
}

/* Records dependencies; the relations and the trigger exist. */
void
weir_record_parts(Oid relid, Oid query_view, Oid state_table, Oid changelog,
				  Oid source)
{
	ObjectAddress v;
	ObjectAddress part;

	ObjectAddressSet(v, RelationRelationId, relid);

	ObjectAddressSet(part, RelationRelationId, query_view);
	recordDependencyOn(&part, &v, DEPENDENCY_INTERNAL);
	ObjectAddressSet(part, RelationRelationId, state_table);
	recordDependencyOn(&part, &v, DEPENDENCY_INTERNAL);
	ObjectAddressSet(part, TriggerRelationId,
					 get_trigger_oid(relid, WEIR_READ_ONLY_TRIGGER, false));
	recordDependencyOn(&part, &v, DEPENDENCY_INTERNAL);
	if (OidIsValid(changelog))
	{
		ObjectAddress trigger;

		ObjectAddressSet(part, RelationRelationId, changelog);
		recordDependencyOn(&part, &v, DEPENDENCY_INTERNAL);
		ObjectAddressSet(trigger, TriggerRelationId,
						 get_trigger_oid(changelog, WEIR_READ_ONLY_TRIGGER,
										 false));
		recordDependencyOn(&trigger, &part, DEPENDENCY_INTERNAL);
	}

	ObjectAddressSet(part, RelationRelationId, source);
	recordDependencyOn(&v, &part, DEPENDENCY_NORMAL);
	CommandCounterIncrement();
}
