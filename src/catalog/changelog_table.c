/*-------------------------------------------------------------------------
 *
 * changelog_table.c
 *	  <view>_changes: the relation that tells what became of the rows of v.
 *
 * Made by CREATE, beside v, with v's columns behind a few of ours, and owned by
 * v's owner: an ordinary table, so that privileges, publications and dumps are
 * core's business.  It is an internal part of v: it goes when v goes, and core
 * refuses to drop it alone.  A trigger keeps users from writing.
 *
 * v's owner and schema are its own, too, and a new name of v becomes part of a
 * new name for it, unless somebody has renamed it since: ddl_hook.c sees the
 * change of v and calls weir_changelog_follow().
 *
 * Which rows go into it is emit/changelog.c's business.  What its columns are is
 * in weir_catalog.h.
 *
 *-------------------------------------------------------------------------
 */
#include "catalog/view_ddl.h"

#include "access/table.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/objectaddress.h"
#include "catalog/pg_class.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_trigger.h"
#include "commands/comment.h"
#include "commands/defrem.h"
#include "commands/tablecmds.h"
#include "commands/tablespace.h"
#include "commands/trigger.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

static const char *const own_columns[] = {
	"weir_seq", "weir_diff", "weir_reason", "weir_watermark", "weir_at"
};

StaticAssertDecl(lengthof(own_columns) == WEIR_CHANGES_OWN,
				 "columns of a changelog");

char *
weir_changelog_name(const char *view)
{
	return makeObjectName(view, NULL, "changes");
}

static void
check_name_free(const char *name, Oid schema, const char *hint)
{
	if (OidIsValid(get_relname_relid(name, schema)))
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_TABLE),
				 errmsg("relation \"%s\" already exists", name),
				 errdetail("The changelog of the continuous view is called so."),
				 errhint("%s", hint)));
}

void
weir_check_changelog(const char *view, Oid schema, List *columns)
{
	ListCell   *lc;

	foreach(lc, columns)
	{
		for (int i = 0; i < lengthof(own_columns); i++)
		{
			if (strcmp(lfirst(lc), own_columns[i]) == 0)
				ereport(ERROR,
						(errcode(ERRCODE_DUPLICATE_COLUMN),
						 errmsg("column name \"%s\" is taken by the changelog of the view",
								own_columns[i]),
						 errhint("Give the column another name with AS, or say weir.changelog = 'off'.")));
		}
	}
	check_name_free(weir_changelog_name(view), schema,
					"Rename that relation, or say weir.changelog = 'off'.");
}

/* ", name type COLLATE ..." of a column of v, as no search path can mistake it. */
static void
append_column(StringInfo sql, Form_pg_attribute column)
{
	appendStringInfo(sql, ", %s %s",
					 quote_identifier(NameStr(column->attname)),
					 format_type_extended(column->atttypid, column->atttypmod,
										  FORMAT_TYPE_TYPEMOD_GIVEN |
										  FORMAT_TYPE_FORCE_QUALIFY));
	if (OidIsValid(column->attcollation) &&
		column->attcollation != get_typcollation(column->atttypid))
	{
		HeapTuple	tuple = SearchSysCache1(COLLOID,
											ObjectIdGetDatum(column->attcollation));
		Form_pg_collation collation;

		if (!HeapTupleIsValid(tuple))
			elog(ERROR, "cache lookup failed for collation %u",
				 column->attcollation);
		collation = (Form_pg_collation) GETSTRUCT(tuple);
		appendStringInfo(sql, " COLLATE %s",
						 quote_qualified_identifier(get_namespace_name(collation->collnamespace),
													NameStr(collation->collname)));
		ReleaseSysCache(tuple);
	}
}

/* CREATE TABLE for v's changelog. */
static char *
create_statement(Relation v, const char *name)
{
	StringInfoData sql;
	TupleDesc	desc = RelationGetDescr(v);

	initStringInfo(&sql);
	appendStringInfo(&sql, "CREATE TABLE %s ("
					 "weir_seq pg_catalog.int8 PRIMARY KEY,"
					 " weir_diff pg_catalog.int2 NOT NULL,"
					 " weir_reason pg_catalog.text NOT NULL,"
					 " weir_watermark pg_catalog.timestamptz,"
					 " weir_at pg_catalog.timestamptz NOT NULL",
					 quote_qualified_identifier(get_namespace_name(RelationGetNamespace(v)),
												name));
	for (int i = 0; i < desc->natts; i++)
		if (!TupleDescAttr(desc, i)->attisdropped)
			append_column(&sql, TupleDescAttr(desc, i));
	appendStringInfoString(&sql, ") USING heap");
	if (OidIsValid(v->rd_rel->reltablespace))
		appendStringInfo(&sql, " TABLESPACE %s",
						 quote_identifier(get_tablespace_name(v->rd_rel->reltablespace)));
	return sql.data;
}

Oid
weir_make_changelog(const char *id, Oid relid)
{
	/* locked since it was made */
	Relation	v = table_open(relid, NoLock);
	Oid			schema = RelationGetNamespace(v);
	char	   *name = weir_changelog_name(RelationGetRelationName(v));
	Oid			result;

	weir_run_sql_as_caller(create_statement(v, name));
	table_close(v, NoLock);
	CommandCounterIncrement();

	/* an event trigger may have done anything with it */
	result = get_relname_relid(name, schema);
	if (!OidIsValid(result) ||
		get_rel_relkind(result) != RELKIND_RELATION ||
		get_rel_persistence(result) != RELPERSISTENCE_PERMANENT ||
		!weir_owns_relation(result, GetUserId()))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table \"%s\" changed while it was created", name),
				 errhint("Look for an event trigger that drops or alters new tables.")));
	weir_make_read_only_trigger(id, result, true);
	CreateComments(result, RelationRelationId, 0,
				   "changelog of a continuous view");
	CommandCounterIncrement();
	return result;
}

void
weir_changelog_follow(const WeirViewDef *view, const char *old_name)
{
	Oid			schema = get_rel_namespace(view->relid);
	Oid			old_schema;
	char		relkind;
	bool		renamed = old_name != NULL && strcmp(old_name, view->name) != 0;

	/* most changes of v are none of these, and lock nothing more */
	if (!renamed && get_rel_namespace(view->changelog) == schema &&
		weir_relation_owner(view->changelog, &relkind) == view->owner)
		return;

	LockRelationOid(view->changelog, AccessExclusiveLock);
	if (weir_relation_owner(view->changelog, &relkind) != view->owner)
		ATExecChangeOwner(view->changelog, view->owner, true,
						  AccessExclusiveLock);

	old_schema = get_rel_namespace(view->changelog);
	if (old_schema != schema)
	{
		Relation	rel = table_open(view->changelog, NoLock);
		ObjectAddresses *moved = new_object_addresses();

		check_name_free(RelationGetRelationName(rel), schema,
						"Rename one of the two first.");
		AlterTableNamespaceInternal(rel, old_schema, schema, moved);
		free_object_addresses(moved);
		table_close(rel, NoLock);
		CommandCounterIncrement();
	}

	if (renamed &&
		strcmp(get_rel_name(view->changelog), weir_changelog_name(old_name)) == 0)
	{
		char	   *name = weir_changelog_name(view->name);

		/* two long names may be cut to the same */
		if (strcmp(name, get_rel_name(view->changelog)) != 0)
		{
			check_name_free(name, schema,
							"Rename that relation, or the changelog first: it keeps a name of your own.");
			RenameRelationInternal(view->changelog, name, false, false);
		}
	}
	CommandCounterIncrement();
}
