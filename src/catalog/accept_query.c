/*-------------------------------------------------------------------------
 *
 * accept_query.c
 *	  Which queries may define a continuous view, and what we say of others.
 *
 * Receives an analysed Query, part by part, from plan_query.c; returns when
 * the part is accepted and raises 0A000 when it is not.  Every construct has a
 * message of its own and a hint that says how to get on, since the person who
 * reads it has a query that runs in psql and wants to know which word of it is
 * in the way.  For the same reason the checks come in the order in which one
 * reads a query: what kind of query, FROM, then expressions.
 *
 * Two kinds of refusal, told apart by the word "yet":
 *
 *	 not yet		the construct has a meaning over a stream and is planned
 *					(joins, DISTINCT in aggregates)
 *	 otherwise		it has none: a stored table has no ORDER BY, and a stream
 *					has no row to lock
 *
 * Nothing is changed or computed here.  Functions are accept_function.c's.
 *
 *-------------------------------------------------------------------------
 */
#include "catalog/accept_query.h"

#include "access/attnum.h"
#include "access/transam.h"
#include "aggregate/aggregate.h"
#include "catalog/pg_aggregate.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "catalog/weir_catalog.h"
#include "foreign/foreign.h"
#include "nodes/nodeFuncs.h"
#include "parser/parsetree.h"
#include "storage/lockdefs.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/typcache.h"
#include "window/window.h"

static void accept_from_item(const Query *query, Node *item, WeirFrom *from);
static void accept_relation(RangeTblEntry *rte);
static void accept_foreign_table(RangeTblEntry *rte, const char *name);
static void accept_from_function(RangeTblEntry *rte, WeirFrom *from, int rti);
static bool accept_expression_walker(Node *node, void *context);
static void accept_source_column(Var *var);
static void accept_set(Oid function);
static void accept_aggregate(Aggref *call);

void
weir_refuse(const char *message, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("%s", message),
			 errhint("%s", hint)));
}

/*
 * The clauses of a SELECT, without looking into any expression.
 */
void
weir_accept_clauses(const Query *query)
{
	if (query->commandType != CMD_SELECT || query->utilityStmt != NULL)
		weir_refuse("a continuous view is defined by a SELECT",
					"Write CREATE TABLE ... AS SELECT ....");
	if (query->jointree->fromlist == NIL && query->setOperations == NULL)
		weir_refuse("a continuous view needs a source in FROM",
					WEIR_SOURCE_HINT);
	if (query->setOperations != NULL)
		weir_refuse("continuous views do not support UNION, INTERSECT and EXCEPT yet",
					"Create one view for each SELECT, and combine them in a query over the views.");
	if (query->cteList != NIL)
		weir_refuse("continuous views do not support WITH yet",
					"Write the expressions of the common table expression in place.");
	if (query->hasSubLinks)
		weir_refuse("continuous views do not support subqueries in expressions yet",
					"Compare with constants, or filter when you query the view.");
	if (query->rowMarks != NIL || query->hasForUpdate)
		weir_refuse("continuous views do not support FOR UPDATE and FOR SHARE",
					"Leave the locking clause out: a stream has no rows to lock.");
	if (query->limitCount != NULL || query->limitOffset != NULL)
		weir_refuse("continuous views do not support LIMIT and OFFSET",
					"Put LIMIT into the queries that read the view.");
	if (query->distinctClause != NIL)
		weir_refuse("continuous views do not support SELECT DISTINCT",
					"Use GROUP BY with the same expressions: it gives the same rows.");
	if (query->sortClause != NIL)
		weir_refuse("continuous views do not support ORDER BY",
					"Put ORDER BY into the queries that read the view, and create an index on it if they are many.");
	if (query->hasWindowFuncs)
		weir_refuse("continuous views do not support window functions (OVER)",
					"Use them in the queries that read the view; for windows of time see weir.tumble().");

	/* GROUP BY () alone is another way to ask for one row over everything. */
	if (query->groupingSets != NIL &&
		!(query->groupClause == NIL && list_length(query->groupingSets) == 1))
		weir_refuse("continuous views do not support GROUPING SETS, ROLLUP and CUBE",
					"Create one view for each grouping, or roll the finest one up when you query it.");

	if (!query->hasAggs && query->groupClause == NIL &&
		query->groupingSets == NIL && query->havingQual == NULL)
		weir_refuse("a continuous view needs an aggregate or GROUP BY",
					"Add GROUP BY or an aggregate such as count(*); copying rows as they come is not supported yet.");
}

/*
 * FROM: one source, and perhaps the window function beside it.  Only what the
 * join tree names counts: up to PostgreSQL 15 the range table of a stored view
 * also has entries for OLD and NEW.
 */
void
weir_accept_from(const Query *query, WeirFrom *from)
{
	ListCell   *lc;

	memset(from, 0, sizeof(*from));
	foreach(lc, query->jointree->fromlist)
		accept_from_item(query, lfirst(lc), from);

	if (from->source_rti == 0)
		weir_refuse("a continuous view needs a source in FROM",
					WEIR_SOURCE_HINT);
	if (query->jointree->quals != NULL)
		from->quals = lappend(from->quals, query->jointree->quals);
}

static void
accept_from_item(const Query *query, Node *item, WeirFrom *from)
{
	RangeTblEntry *rte;
	int			rti;

	if (IsA(item, JoinExpr))
	{
		JoinExpr   *join = (JoinExpr *) item;

		/*
		 * CROSS JOIN and JOIN ... ON true with the window function are the
		 * comma written differently; two relations are found out below.
		 */
		if (join->jointype != JOIN_INNER)
			weir_refuse("continuous views do not support joins yet",
						"Aggregate each source in a view of its own, and join the views in a query.");
		accept_from_item(query, join->larg, from);
		accept_from_item(query, join->rarg, from);
		if (join->quals != NULL)
			from->quals = lappend(from->quals, join->quals);
		return;
	}

	if (!IsA(item, RangeTblRef))
		elog(ERROR, "unrecognized node type in FROM: %d", (int) nodeTag(item));
	rti = ((RangeTblRef *) item)->rtindex;
	rte = rt_fetch(rti, query->rtable);

	switch (rte->rtekind)
	{
		case RTE_RELATION:
			if (from->source_rti != 0)
				weir_refuse("continuous views do not support joins yet",
							"Aggregate each source in a view of its own, and join the views in a query.");
			accept_relation(rte);
			from->source = rte->relid;
			from->source_rti = rti;
			break;
		case RTE_FUNCTION:
			accept_from_function(rte, from, rti);
			break;
		case RTE_SUBQUERY:
			weir_refuse("continuous views do not support subqueries in FROM yet",
						"Write the expressions of the subquery in place.");
			break;
		case RTE_TABLEFUNC:
			weir_refuse("continuous views do not support XMLTABLE and JSON_TABLE yet",
						"Declare the fields as columns of the foreign table, with the option path.");
			break;
		case RTE_VALUES:
			weir_refuse("continuous views do not support VALUES in FROM",
						"Name one source in FROM, and use CASE for a small mapping.");
			break;
		case RTE_CTE:
			weir_refuse("continuous views do not support WITH yet",
						"Write the expressions of the common table expression in place.");
			break;
		case RTE_NAMEDTUPLESTORE:
			weir_refuse("continuous views do not support transition tables",
						WEIR_SOURCE_HINT);
			break;
		default:
			elog(ERROR, "unrecognized range table entry in FROM: %d",
				 (int) rte->rtekind);
	}
}

/*
 * The source.  The wrapper is recognised by its name: names of wrappers are
 * unique in a database, and only superusers create them.
 */
static void
accept_relation(RangeTblEntry *rte)
{
	char	   *name = get_rel_name(rte->relid);

	if (rte->tablesample != NULL)
		weir_refuse("continuous views do not support TABLESAMPLE",
					"Filter in WHERE by a hash of a key to read a part of the rows.");

	switch (rte->relkind)
	{
		case RELKIND_FOREIGN_TABLE:
			accept_foreign_table(rte, name);
			break;
		case RELKIND_RELATION:
		case RELKIND_PARTITIONED_TABLE:
			weir_accept_table(rte);
			break;
		case RELKIND_VIEW:
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("view \"%s\" cannot be the source of a continuous view", name),
					 errhint("Views as sources are not supported yet. Write the query of the view over its own source.")));
			break;
		case RELKIND_MATVIEW:
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("materialized view \"%s\" cannot be the source of a continuous view", name),
					 errhint("Write the query of the materialized view over its own source.")));
			break;
		default:
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("relation \"%s\" cannot be the source of a continuous view", name),
					 errhint(WEIR_SOURCE_HINT)));
	}
}

static void
accept_foreign_table(RangeTblEntry *rte, const char *name)
{
	ForeignServer *server = GetForeignServer(GetForeignTable(rte->relid)->serverid);
	const char *wrapper = GetForeignDataWrapper(server->fdwid)->fdwname;

	if (strcmp(wrapper, WEIR_KAFKA_WRAPPER) != 0 &&
		strcmp(wrapper, WEIR_STREAM_WRAPPER) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("foreign table \"%s\" cannot be the source of a continuous view", name),
				 errdetail("Its server \"%s\" uses the foreign data wrapper \"%s\".",
						   server->servername, wrapper),
				 errhint("Other wrappers are not supported yet. " WEIR_SOURCE_HINT)));

	/* Q would read the children's rows as well. */
	if (rte->inh && find_inheritance_children(rte->relid, NoLock) != NIL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("foreign table \"%s\" has inheritance children", name),
				 errhint("Write FROM ONLY to read its own rows; reading the children too is not supported yet.")));
}

/* FROM clicks, weir.tumble(ts, '1 min') AS win */
static void
accept_from_function(RangeTblEntry *rte, WeirFrom *from, int rti)
{
	RangeTblFunction *function;
	FuncExpr   *call;

	if (list_length(rte->functions) != 1 || rte->funcordinality)
		weir_refuse("continuous views do not support ROWS FROM and WITH ORDINALITY",
					"Name the window function alone: FROM source, weir.tumble(...) AS win.");
	function = linitial_node(RangeTblFunction, rte->functions);
	call = (FuncExpr *) function->funcexpr;

	if (!IsA(call, FuncExpr) || weir_window_kind(call->funcid) == WEIR_NO_WINDOW)
		weir_refuse("continuous views do not support functions in FROM, other than the window function",
					"Call the function in the select list, in WHERE or in GROUP BY.");
	if (from->window_call != NULL)
		weir_refuse("continuous views support one window function only",
					"Keep one window, and create a second view for the other.");
	from->window_call = call;
	from->window_rti = rti;
}

/*
 * Everything in an expression but the functions that it calls.  Vars are of
 * the source.
 */
void
weir_accept_expression(Node *expr)
{
	(void) accept_expression_walker(expr, NULL);
}

static bool
accept_expression_walker(Node *node, void *context)
{
	if (node == NULL)
		return false;

	switch (nodeTag(node))
	{
		case T_Var:
			accept_source_column((Var *) node);
			break;
		case T_FuncExpr:
			if (((FuncExpr *) node)->funcretset)
				accept_set(((FuncExpr *) node)->funcid);
			break;
		case T_OpExpr:
			if (((OpExpr *) node)->opretset)
				accept_set(InvalidOid);
			break;
		case T_Aggref:
			accept_aggregate((Aggref *) node);
			break;
		case T_GroupingFunc:
			weir_refuse("continuous views do not support GROUPING()",
						"Create one view for each grouping.");
			break;
		case T_SubLink:
			weir_refuse("continuous views do not support subqueries in expressions yet",
						"Compare with constants, or filter when you query the view.");
			break;
		case T_WindowFunc:
			weir_refuse("continuous views do not support window functions (OVER)",
						"Use them in the queries that read the view; for windows of time see weir.tumble().");
			break;
		case T_Param:
			weir_refuse("continuous views do not support parameters",
						"Write the value as a literal; in PL/pgSQL use EXECUTE format().");
			break;
		default:
			break;
	}
	return expression_tree_walker(node, accept_expression_walker, context);
}

static void
accept_source_column(Var *var)
{
	if (var->varattno < 0)
		weir_refuse("continuous views do not support system columns",
					"Use columns of the source. Of a topic, a column with the option metadata holds the partition, offset, timestamp, key or headers of a message.");
	if (var->varattno == 0)
		weir_refuse("continuous views do not support whole rows of the source yet",
					"Name the columns.");
}

/* The windows of a row are a set; whether they may stand there is seen later. */
static void
accept_set(Oid function)
{
	if (!weir_window_is_set(weir_window_kind(function)))
		weir_refuse("continuous views do not support set-returning functions yet",
					"Call the function in the queries that read the view.");
}

static void
accept_aggregate(Aggref *call)
{
	char	   *name = format_procedure(call->aggfnoid);

	if (call->aggkind == AGGKIND_HYPOTHETICAL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("continuous views do not support the hypothetical-set aggregate %s yet", name),
				 errhint("Supported are count, sum, avg, min and max.")));
	if (call->aggkind == AGGKIND_ORDERED_SET)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("continuous views do not support the ordered-set aggregate %s yet", name),
				 errhint("Supported are count, sum, avg, min and max.")));
	if (call->aggdistinct != NIL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("continuous views do not support DISTINCT in aggregate %s yet", name),
				 errhint("Group by the argument in the view, and count the groups when you query it.")));
	if (call->aggorder != NIL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("continuous views do not support ORDER BY in aggregate %s yet", name),
				 errhint("Leave ORDER BY out: it changes nothing for count, sum, avg, min and max.")));
	if (call->aggfnoid >= FirstNormalObjectId)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("continuous views do not support the user-defined aggregate %s yet", name),
				 errhint("Supported are count, sum, avg, min and max.")));
	if (!weir_aggregate_supported(call))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("continuous views do not support aggregate %s yet", name),
				 errhint("Supported are count, sum, avg, min and max.")));
}

/*
 * Groups are found by hashing.  The type cache answers for what a type is made
 * of as well: an array can be hashed if its elements can.
 */
void
weir_accept_key_type(Node *expr)
{
	Oid			type = exprType(expr);
	TypeCacheEntry *entry;

	entry = lookup_type_cache(type, TYPECACHE_EQ_OPR | TYPECACHE_HASH_PROC);
	if (!OidIsValid(entry->hash_proc) || !OidIsValid(entry->eq_opr))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("continuous views cannot group by type %s", format_type_be(type)),
				 errdetail("The type has no hash function for its equality."),
				 errhint("Cast the expression to a type that can be hashed, such as text or numeric.")));
}

void
weir_accept_result_type(TargetEntry *target)
{
	Oid			type = exprType((Node *) target->expr);

	if (get_typtype(type) == TYPTYPE_PSEUDO)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("column \"%s\" of a continuous view cannot be of type %s",
						target->resname, format_type_be(type)),
				 errhint("Name the fields as columns of their own, or cast to a composite type.")));
}
