/*-------------------------------------------------------------------------
 *
 * table_source.c
 *	  Which tables may be a source, and what their identity must carry.
 *
 * A view over a table is over the rows that the table holds; it hears of what
 * happens to them from the WAL.  So two questions are asked of a table that
 * nobody asks of a topic:
 *
 *	weir_accept_table()		is it in the WAL of this database, and is what Q
 *							reads of it the rows of one table?  Asked whenever
 *							Q is planned, by CREATE and by the worker.
 *	weir_check_table()		does the WAL say enough of a row that is updated or
 *							deleted to take it out of its group?  Asked at
 *							CREATE; from then on each transaction answers for
 *							itself (source/wal_shapes.c).
 *
 * The second is about the leaves of a partitioned table: each has a replica
 * identity of its own, and a new partition begins with the default one.
 *
 * Locks: AccessShareLock on the source and its partitions until the end of the
 * transaction, as a SELECT takes.
 *
 *-------------------------------------------------------------------------
 */
#include "catalog/view_ddl.h"

#include "access/table.h"
#include "access/transam.h"
#include "catalog/accept_query.h"
#include "catalog/catalog.h"
#include "catalog/namespace.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "lib/stringinfo.h"
#include "parser/parse_relation.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

/* Partitions that a hint names one by one; the rest it only counts. */
#define MAX_NAMED 5

/*--------------------------------------------------------------------------
 * Kinds of tables
 *--------------------------------------------------------------------------
 */

/* For statements in hints. */
static char *
full_name(Oid relid)
{
	return quote_qualified_identifier(get_namespace_name(get_rel_namespace(relid)),
									  get_rel_name(relid));
}

static void
refuse_table(const char *what, const char *name, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("%s \"%s\" cannot be the source of a continuous view",
					what, name),
			 errhint("%s", hint)));
}

/* The relation itself, whether it stands in FROM or is a partition. */
static void
accept_storage(Oid relid, const char *name)
{
	switch (get_rel_persistence(relid))
	{
		case RELPERSISTENCE_TEMP:
			refuse_table("temporary table", name,
						 "Another process follows its changes, which cannot see temporary tables. Use a permanent table.");
			break;
		case RELPERSISTENCE_UNLOGGED:
			/* of a partitioned table it says nothing about its partitions */
			if (get_rel_relkind(relid) != RELKIND_PARTITIONED_TABLE)
				refuse_table("unlogged table", name,
							 psprintf("Its changes are not in the WAL. Run ALTER TABLE %s SET LOGGED first.",
									  full_name(relid)));
			break;
		default:
			break;
	}
	if (relid < FirstNormalObjectId || IsCatalogRelationOid(relid))
		refuse_table("system table", name,
					 "Changes of system tables are not told by logical decoding. Name a table of your own.");
	if (get_rel_namespace(relid) == get_namespace_oid(WEIR_DATA_SCHEMA, true))
		refuse_table("pg_weir's own table", name,
					 "It changes with every commit of a view. " WEIR_SOURCE_HINT);
	if (weir_catalog_view_of_changelog(relid) != NULL)
		refuse_table("changelog", name,
					 "Changelogs as sources are not supported yet. Define the new view over the source of the view that the changelog is of.");
	if (weir_catalog_view(relid) != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("continuous view \"%s\" cannot be the source of another one", name),
				 errhint("Views as sources are not supported yet. Define the new view over the source of \"%s\".",
						 name)));
}

void
weir_accept_table(RangeTblEntry *rte)
{
	char	   *name = get_rel_name(rte->relid);

	accept_storage(rte->relid, name);
	if (rte->relkind == RELKIND_PARTITIONED_TABLE)
	{
		if (!rte->inh)
			weir_refuse("continuous views do not support ONLY before a partitioned table",
						"It has no rows of its own. Leave ONLY out.");
	}
	else if (rte->inh && find_inheritance_children(rte->relid, NoLock) != NIL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("table \"%s\" has inheritance children", name),
				 errhint("Write FROM ONLY to read its own rows; reading the children too is not supported yet.")));
}

/*--------------------------------------------------------------------------
 * What the WAL says of a row
 *--------------------------------------------------------------------------
 */

/* Names of wanted columns that the old rows of a leaf do not carry, or NULL. */
static char *
missing_columns(Relation source, const Bitmapset *wanted, Relation leaf)
{
	Bitmapset  *identity;
	StringInfoData names;
	int			column = -1;

	if (leaf->rd_rel->relreplident == REPLICA_IDENTITY_FULL)
		return NULL;
	identity = RelationGetIndexAttrBitmap(leaf, INDEX_ATTR_BITMAP_IDENTITY_KEY);
	initStringInfo(&names);
	while ((column = bms_next_member(wanted, column)) >= 0)
	{
		const char *name = get_attname(RelationGetRelid(source), column, false);
		AttrNumber	there = get_attnum(RelationGetRelid(leaf), name);

		if (!bms_is_member(there - FirstLowInvalidHeapAttributeNumber, identity))
			appendStringInfo(&names, "%s\"%s\"", names.len > 0 ? ", " : "", name);
	}
	return names.len > 0 ? names.data : NULL;
}

static void
refuse_identity(Relation source, const char *first, const char *columns,
				List *commands, int n_more, bool may_append)
{
	StringInfoData hint;
	ListCell   *lc;

	initStringInfo(&hint);
	foreach(lc, commands)
		appendStringInfo(&hint, "%sALTER TABLE %s REPLICA IDENTITY FULL",
						 hint.len > 0 ? "; " : "Run ", (char *) lfirst(lc));
	if (n_more > 0)
		appendStringInfo(&hint, "; and the same for %d more partitions", n_more);
	appendStringInfoString(&hint, may_append ? ". If rows are never updated or deleted, say weir.append_only instead." : ".");
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("the replica identity of table \"%s\" does not carry all columns that the view needs",
					RelationGetRelationName(source)),
			 errdetail("Updates and deletes of \"%s\" do not say the old values of %s.",
					   first, columns),
			 errhint("%s", hint.data)));
}

/* The tables that hold the rows: the source itself, or its leaf partitions. */
static List *
leaves_of(Relation source)
{
	List	   *result = NIL;
	ListCell   *lc;

	if (source->rd_rel->relkind != RELKIND_PARTITIONED_TABLE)
		return list_make1_oid(RelationGetRelid(source));
	foreach(lc, find_all_inheritors(RelationGetRelid(source), AccessShareLock, NULL))
	{
		Oid			relid = lfirst_oid(lc);

		if (get_rel_relkind(relid) == RELKIND_FOREIGN_TABLE)
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("partition \"%s\" of table \"%s\" is a foreign table",
							get_rel_name(relid), RelationGetRelationName(source)),
					 errhint("Its changes are not in the WAL of this database. Define the view over the partitions that are tables.")));
		accept_storage(relid, get_rel_name(relid));
		if (get_rel_relkind(relid) != RELKIND_PARTITIONED_TABLE)
			result = lappend_oid(result, relid);
	}
	return result;
}

static void
check_columns(Relation rel, const Bitmapset *wanted)
{
	int			column = -1;

	while ((column = bms_next_member(wanted, column)) >= 0)
	{
		Form_pg_attribute attribute = TupleDescAttr(RelationGetDescr(rel),
													column - 1);

		if (attribute->attgenerated == ATTRIBUTE_GENERATED_VIRTUAL)
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("continuous views do not support the virtual generated column \"%s\"",
							NameStr(attribute->attname)),
					 errhint("It is not stored, and so not in the WAL. Write its expression in place, or make it STORED.")));
	}
}

/* Logical decoding knows the WAL of heaps only. */
static void
check_access_method(Relation leaf)
{
	if (leaf->rd_amhandler != F_HEAP_TABLEAM_HANDLER)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("table \"%s\" is not a heap", RelationGetRelationName(leaf)),
				 errdetail("Its access method writes changes that logical decoding does not read."),
				 errhint("Run ALTER TABLE %s SET ACCESS METHOD heap first.",
						 full_name(RelationGetRelid(leaf)))));
}

/*
 * Columns of the source that Q names.  The plan may want fewer, where an
 * expression was folded away.
 */
static Bitmapset *
named_columns(const Query *query)
{
	Bitmapset  *result = NULL;
	ListCell   *lc;

	foreach(lc, query->rtable)
	{
		RangeTblEntry *rte = lfirst_node(RangeTblEntry, lc);
		int			column = -1;
		Bitmapset  *selected;

		if (rte->rtekind != RTE_RELATION)
			continue;
		selected = weir_selected_columns(query, rte);
		while ((column = bms_next_member(selected, column)) >= 0)
			if (column + FirstLowInvalidHeapAttributeNumber > 0)
				result = bms_add_member(result,
										column + FirstLowInvalidHeapAttributeNumber);
	}
	return result;
}

void
weir_recheck_table(const WeirViewDef *view)
{
	Query	   *query = weir_catalog_query(view->query_view);
	Relation	rel = table_open(view->source, AccessShareLock);

	weir_check_table(rel, named_columns(query), view->options.append_only,
					 false);
	table_close(rel, NoLock);
}

void
weir_check_table(Relation rel, const Bitmapset *wanted,
				 WeirAppendOnly append_only, bool may_append)
{
	List	   *leaves = leaves_of(rel);
	List	   *commands = NIL;
	char	   *first = NULL;
	char	   *columns = NULL;
	int			n_more = 0;
	ListCell   *lc;

	check_columns(rel, wanted);
	foreach(lc, leaves)
	{
		Relation	leaf = table_open(lfirst_oid(lc), AccessShareLock);
		char	   *missing = NULL;

		check_access_method(leaf);
		if (append_only == WEIR_APPEND_ONLY_OFF)
			missing = missing_columns(rel, wanted, leaf);
		if (missing != NULL && columns == NULL)
		{
			columns = missing;
			first = pstrdup(RelationGetRelationName(leaf));
		}
		if (missing != NULL && list_length(commands) < MAX_NAMED)
			commands = lappend(commands, full_name(RelationGetRelid(leaf)));
		else if (missing != NULL)
			n_more++;
		table_close(leaf, NoLock);
	}
	if (columns != NULL)
		refuse_identity(rel, first, columns, commands, n_more, may_append);
}
