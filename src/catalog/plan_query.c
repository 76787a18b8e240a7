/*-------------------------------------------------------------------------
 *
 * plan_query.c
 *	  Takes Q apart: filter, keys, aggregate calls, result expressions.
 *
 * Receives an analysed Query: from the DDL hook when a view is created, and
 * from the catalog, through the view weir_data.query_<id>, whenever a worker
 * starts.  In both cases the same code decides, so that nothing can be created
 * that does not run.  Hands on a WeirPlan.
 *
 * A view over a stream is computed in two halves.  One sees rows and knows
 * nothing of groups:
 *
 *		row -> filter -> keys, aggregate arguments -> transition states
 *
 * and one sees groups and knows nothing of rows:
 *
 *		keys, aggregate results -> having -> targets
 *
 * The cut between them runs through the middle of the target list: in
 * "lower(url) || count(*)" with GROUP BY lower(url), the operator belongs to
 * the second half and its two arguments to the first.  So keys and aggregate
 * calls are replaced by Vars of the group, wherever they occur, the largest
 * subexpression first, as the planner does it in setrefs.c.
 *
 * The replacement works on expressions as the parser left them, because the
 * parser's guarantee (whatever is neither aggregated nor constant is built
 * from keys) holds for those: constant folding may flatten "(a AND b) AND c"
 * so that the key "a AND b" no longer occurs in it.  Each piece is folded
 * afterwards.
 *
 * What is not here: whether a construct is accepted (accept_query.c) and
 * whether a function is (accept_function.c).  Privileges on the source are
 * the caller's.  Nothing is cached: a plan is made once per start.
 *
 *-------------------------------------------------------------------------
 */
#include "catalog/plan_query.h"

#include "access/attnum.h"
#include "access/sysattr.h"
#include "catalog/accept_query.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/clauses.h"
#include "optimizer/optimizer.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
#include "utils/typcache.h"
#include "window/window.h"

/* Collects the two halves while the target list is taken apart. */
typedef struct CutContext
{
	List	   *raw_keys;		/* group expressions, as parsed */
	List	   *calls;			/* Aggrefs, folded, each one once */
} CutContext;

/* The window call that is allowed besides the key that equals it. */
typedef struct StrayWindow
{
	Node	   *window_key;		/* or NULL */
	const char *where;			/* where a composed window cannot be, or NULL */
	const char *hint;
} StrayWindow;

static Node *normalize(const Query *query, const WeirFrom *from, Node *expr);
static Node *settle_vars_mutator(Node *node, void *context);
static List *group_expressions(const Query *query, List *targets);
static WeirWindowKind window_kind_of(Node *node);
static Node *find_window_key(List *raw_keys);
static void refuse_stray_windows(List *raw_keys, List *raw_targets,
								 Node *raw_where, Node *raw_having,
								 Node *window_key);
static bool refuse_stray_window_walker(Node *node, void *context);
static Node *cut_mutator(Node *node, void *context);
static Expr *ready(Node *expr);
static Expr *ready_key(Node *raw);
static Expr *ready_condition(Node *expr);
static void make_keys(WeirPlan *plan, List *raw_keys);
static void check_window_arguments(const WeirKey *key);
static void make_calls(WeirPlan *plan, List *calls);
static void find_result_columns(WeirPlan *plan);
static void check_window_column(const WeirPlan *plan);
static void find_wanted(WeirPlan *plan);

/*
 * See plan_query.h.
 */
WeirPlan *
weir_plan_query(const Query *query)
{
	WeirPlan   *plan = palloc0(sizeof(WeirPlan));
	WeirFrom	from;
	CutContext	cut = {NIL, NIL};
	Node	   *window_key;
	List	   *raw_targets;
	Node	   *raw_having;
	Node	   *raw_where = NULL;
	ListCell   *lc;

	weir_accept_clauses(query);
	weir_accept_from(query, &from);

	raw_targets = (List *) normalize(query, &from, (Node *) query->targetList);
	raw_having = normalize(query, &from, query->havingQual);
	if (from.quals != NIL)
		raw_where = normalize(query, &from,
							  (Node *) make_ands_explicit(from.quals));

	weir_accept_expression((Node *) raw_targets);
	weir_accept_expression(raw_where);
	weir_accept_expression(raw_having);
	weir_accept_functions((Node *) raw_targets);
	weir_accept_functions(raw_where);
	weir_accept_functions(raw_having);

	cut.raw_keys = group_expressions(query, raw_targets);

	/*
	 * The time of a view has one axis, so there is one window, and it is a
	 * key.  Elsewhere the very same call may be named again, as in WHERE.
	 */
	window_key = find_window_key(cut.raw_keys);
	if (from.window_call != NULL && window_key == NULL)
		weir_refuse("the window of a continuous view must be in GROUP BY",
					"Add the window to GROUP BY, or leave the window function out of FROM.");
	refuse_stray_windows(cut.raw_keys, raw_targets, raw_where, raw_having,
						 window_key);

	/* The half that sees rows. */
	plan->source = from.source;
	plan->grand_total = (cut.raw_keys == NIL);
	plan->filter = ready_condition(raw_where);
	make_keys(plan, cut.raw_keys);

	/* The half that sees groups. */
	foreach(lc, raw_targets)
	{
		TargetEntry *target = lfirst_node(TargetEntry, lc);

		if (target->resjunk)
			continue;
		weir_accept_result_type(target);
		target = flatCopyTargetEntry(target);
		target->expr = ready(cut_mutator((Node *) target->expr, &cut));
		target->ressortgroupref = 0;
		plan->targets = lappend(plan->targets, target);
	}
	plan->having = ready_condition(cut_mutator(raw_having, &cut));
	make_calls(plan, cut.calls);
	find_result_columns(plan);
	check_window_column(plan);
	find_wanted(plan);

	return plan;
}

/* context is a WeirWindowKind. */
static bool
find_window_walker(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (window_kind_of(node) != WEIR_NO_WINDOW)
	{
		*(WeirWindowKind *) context = window_kind_of(node);
		return true;
	}
	if (IsA(node, Query))
		return query_tree_walker((Query *) node, find_window_walker, context, 0);
	return expression_tree_walker(node, find_window_walker, context);
}

WeirWindowKind
weir_query_window_kind(const Query *query)
{
	WeirWindowKind result = WEIR_NO_WINDOW;

	(void) find_window_walker((Node *) unconstify(Query *, query), &result);
	return result;
}

static WeirWindowKind
window_kind_of(Node *node)
{
	return IsA(node, FuncExpr) ?
		weir_window_kind(((FuncExpr *) node)->funcid) : WEIR_NO_WINDOW;
}

/*
 * One expression of Q with everything resolved that is only a manner of
 * speaking: aliases of GROUP BY (PostgreSQL 18) and of joins, and the column
 * of FROM ..., weir.hop(), which becomes the call itself.  What remains are
 * Vars of the source, numbered 1.  Returns a copy.
 */
static Node *
normalize(const Query *query, const WeirFrom *from, Node *expr)
{
	Query	   *mutable_query = unconstify(Query *, query);
	WeirFrom	settled = *from;

	if (expr == NULL)
		return NULL;
	if (from->window_call != NULL)
		settled.window_call = (FuncExpr *)
			weir_flatten_join_alias_vars(mutable_query,
										 (Node *) copyObject(from->window_call));
	expr = weir_flatten_group_exprs(mutable_query, copyObject(expr));
	expr = weir_flatten_join_alias_vars(mutable_query, expr);
	return settle_vars_mutator(expr, &settled);
}

/* context is the WeirFrom. */
static Node *
settle_vars_mutator(Node *node, void *context)
{
	WeirFrom   *from = (WeirFrom *) context;

	if (node == NULL)
		return NULL;
	if (IsA(node, Var))
	{
		Var		   *var = (Var *) node;

		/* the call has Vars of the source to settle, and none of its own */
		if (var->varno == from->window_rti)
			return settle_vars_mutator((Node *) from->window_call, context);
		if (var->varno != from->source_rti || var->varlevelsup != 0)
			elog(ERROR, "unexpected Var of range table entry %d",
				 (int) var->varno);

		/*
		 * A new Var, because the old one may remember that it was written
		 * through the alias of a join, which deparsing would look for.
		 */
		return (Node *) makeVar(1, var->varattno, var->vartype, var->vartypmod,
								var->varcollid, 0);
	}
	return expression_tree_mutator(node, settle_vars_mutator, context);
}

/* The expressions of GROUP BY, in its order. */
static List *
group_expressions(const Query *query, List *targets)
{
	List	   *result = NIL;
	ListCell   *lc;

	foreach(lc, query->groupClause)
	{
		SortGroupClause *clause = lfirst_node(SortGroupClause, lc);

		result = lappend(result, get_sortgroupclause_expr(clause, targets));
	}
	return result;
}

/*
 * The key that is a bare call of the window function, or NULL.
 */
static Node *
find_window_key(List *raw_keys)
{
	Node	   *found = NULL;
	ListCell   *lc;

	foreach(lc, raw_keys)
	{
		Node	   *key = lfirst(lc);

		if (window_kind_of(key) == WEIR_NO_WINDOW)
			continue;
		if (found != NULL)
			weir_refuse("continuous views support one window function only",
						"Keep one window, and create a second view for the other.");
		found = key;
	}
	return found;
}

/*
 * A window call that is not the window key: lower(weir.tumble()) as a key, or
 * a different window in WHERE.  As plain functions they could be computed, but
 * the view would have a notion of time that does not close with the watermark.
 *
 * The one window of a row may be named again wherever an expression is of the
 * row, as in WHERE.  Where a row can be in several windows, or where others
 * decide on the window, it has a meaning of the group only.
 */
static void
refuse_stray_windows(List *raw_keys, List *raw_targets, Node *raw_where,
					 Node *raw_having, Node *window_key)
{
	StrayWindow stray = {window_key, NULL, NULL};
	ListCell   *lc;

	(void) refuse_stray_window_walker((Node *) raw_targets, &stray);
	(void) refuse_stray_window_walker(raw_having, &stray);

	stray.where = "WHERE or ON";
	stray.hint = "Compare the timestamp in WHERE, and the window in HAVING.";
	(void) refuse_stray_window_walker(raw_where, &stray);

	stray.where = "another GROUP BY expression";
	stray.hint = "Group by the window itself, and take lower() or upper() of it in the select list.";
	foreach(lc, raw_keys)
	{
		if (lfirst(lc) != window_key)
			(void) refuse_stray_window_walker(lfirst(lc), &stray);
	}
}

static bool
refuse_stray_window_walker(Node *node, void *context)
{
	StrayWindow *stray = (StrayWindow *) context;
	WeirWindowKind kind;

	if (node == NULL)
		return false;
	kind = window_kind_of(node);
	if (kind != WEIR_NO_WINDOW)
	{
		if (stray->window_key == NULL)
			weir_refuse("the window of a continuous view must be in GROUP BY",
						"Write GROUP BY with the window itself, and take lower() or upper() of it in the select list.");
		if (!equal(node, stray->window_key))
			weir_refuse("continuous views support one window function only",
						"Keep one window, and create a second view for the other.");
		if (stray->where != NULL && weir_window_is_composed(kind))
			weir_refuse(psprintf("continuous views do not support %s in %s",
								 weir_window_name(kind), stray->where),
						stray->hint);
	}
	if (IsA(node, Aggref) && stray->where == NULL)
	{
		StrayWindow inside = {
			stray->window_key, "the arguments of an aggregate",
			"Aggregate the timestamp, and use the window outside of aggregates."
		};

		return expression_tree_walker(node, refuse_stray_window_walker,
									  &inside);
	}
	return expression_tree_walker(node, refuse_stray_window_walker, context);
}

/*
 * Replaces keys and aggregate calls by Vars of the group.  context is the
 * CutContext; calls are appended to it as they are met.
 */
static Node *
cut_mutator(Node *node, void *context)
{
	CutContext *cut = (CutContext *) context;
	ListCell   *lc;

	if (node == NULL)
		return NULL;

	if (IsA(node, Aggref))
	{
		Aggref	   *call = (Aggref *) ready(node);
		int			number = 0;

		/* count(*) FILTER (WHERE true) is count(*) */
		if (call->aggfilter != NULL)
			call->aggfilter = ready_condition((Node *) call->aggfilter);

		foreach(lc, cut->calls)
		{
			if (equal(lfirst(lc), call))
				break;
			number++;
		}
		if (lc == NULL)
			cut->calls = lappend(cut->calls, call);
		return (Node *) makeVar(OUTER_VAR,
								list_length(cut->raw_keys) + number + 1,
								call->aggtype, -1, call->aggcollid, 0);
	}

	/*
	 * A constant is left alone even if it is a key: the two are equal, and
	 * the constant needs no group.
	 */
	if (!IsA(node, Const))
	{
		foreach(lc, cut->raw_keys)
		{
			if (equal(lfirst(lc), node))
				return (Node *) makeVar(OUTER_VAR,
										foreach_current_index(lc) + 1,
										exprType(node), exprTypmod(node),
										exprCollation(node), 0);
		}
	}

	if (IsA(node, Var))
		elog(ERROR, "column %d of the source is neither aggregated nor grouped",
			 ((Var *) node)->varattno);

	return expression_tree_mutator(node, cut_mutator, context);
}

/* Folds constants and fills in what the executor needs. */
static Expr *
ready(Node *expr)
{
	return expression_planner((Expr *) copyObject(expr));
}

/*
 * A key.  The call of a window is left a call, whatever its arguments: folding it
 * would run it, which weir.session answers with an error.  A tumbling window of
 * constants may be folded; it is a plain key then.
 */
static Expr *
ready_key(Node *raw)
{
	FuncExpr   *call;
	HeapTuple	function;
	ListCell   *lc;

	if (!weir_window_is_composed(window_kind_of(raw)))
		return ready(raw);
	call = copyObject((FuncExpr *) raw);
	function = SearchSysCache1(PROCOID, ObjectIdGetDatum(call->funcid));
	if (!HeapTupleIsValid(function))
		elog(ERROR, "cache lookup failed for function %u", call->funcid);
	call->args = expand_function_arguments(call->args, false,
										   call->funcresulttype, function);
	ReleaseSysCache(function);
	foreach(lc, call->args)
		lfirst(lc) = ready(lfirst(lc));
	return (Expr *) call;
}

/* The same for a condition, where NULL stands for one that is always true. */
static Expr *
ready_condition(Node *expr)
{
	Expr	   *result;

	if (expr == NULL)
		return NULL;
	result = ready(expr);
	if (IsA(result, Const) &&
		!((Const *) result)->constisnull &&
		DatumGetBool(((Const *) result)->constvalue))
		return NULL;
	return result;
}

static void
make_keys(WeirPlan *plan, List *raw_keys)
{
	ListCell   *lc;

	plan->n_keys = list_length(raw_keys);
	plan->keys = palloc0(sizeof(WeirKey) * Max(plan->n_keys, 1));
	plan->window_key = -1;

	foreach(lc, raw_keys)
	{
		int			i = foreach_current_index(lc);
		WeirKey    *key = &plan->keys[i];
		Node	   *raw = lfirst(lc);
		TypeCacheEntry *type;

		weir_accept_key_type(raw);
		key->expr = ready_key(raw);
		key->type = exprType(raw);
		key->typmod = exprTypmod(raw);
		key->collation = exprCollation(raw);
		type = lookup_type_cache(key->type,
								 TYPECACHE_EQ_OPR | TYPECACHE_HASH_PROC);
		key->eq_function = get_opcode(type->eq_opr);
		key->hash_function = type->hash_proc;

		/* a window of constants only has been folded, and is a plain key */
		if (window_kind_of((Node *) key->expr) != WEIR_NO_WINDOW)
		{
			check_window_arguments(key);
			key->is_window = true;
			plan->window_key = i;
			plan->window_kind = window_kind_of((Node *) key->expr);
		}
	}
}

/*
 * Only the timestamp may differ from row to row: edges that do would overlap.
 * The values are checked here too, so that a wrong size is an error of
 * CREATE and not of the first row.
 */
static void
check_window_arguments(const WeirKey *key)
{
	FuncExpr   *call = (FuncExpr *) key->expr;
	WeirWindow	window;
	ListCell   *lc;

	for_each_from(lc, call->args, 1)
	{
		if (!IsA(lfirst(lc), Const))
			weir_refuse("the arguments of a window, but for the timestamp, must be constants in a continuous view",
						"Write them as literals.");
	}
	weir_window_prepare(&window, call);
}

static void
make_calls(WeirPlan *plan, List *calls)
{
	ListCell   *lc;

	plan->n_calls = list_length(calls);
	plan->calls = palloc0(sizeof(WeirAggregateCall) * Max(plan->n_calls, 1));

	foreach(lc, calls)
	{
		WeirAggregateCall *call = &plan->calls[foreach_current_index(lc)];

		call->aggref = lfirst_node(Aggref, lc);
		if (call->aggref->args != NIL)
			call->arg = linitial_node(TargetEntry, call->aggref->args)->expr;
		call->filter = call->aggref->aggfilter;
	}
}

/* Which column of v shows a key as it is: that one can carry an index. */
static void
find_result_columns(WeirPlan *plan)
{
	ListCell   *lc;

	foreach(lc, plan->targets)
	{
		TargetEntry *target = lfirst_node(TargetEntry, lc);
		Var		   *var = (Var *) target->expr;

		if (IsA(var, Var) && var->varattno <= plan->n_keys &&
			plan->keys[var->varattno - 1].result_column == 0)
			plan->keys[var->varattno - 1].result_column = target->resno;
	}
	if (plan->window_key >= 0)
		plan->window_column = plan->keys[plan->window_key].result_column;
}

/*
 * Rows that windows share, or that make windows, cannot be told apart without
 * them; and event time closes what v shows.
 */
static void
check_window_column(const WeirPlan *plan)
{
	if (plan->window_key >= 0 &&
		plan->keys[plan->window_key].result_column == 0 &&
		weir_window_is_composed(plan->window_kind))
		weir_refuse(psprintf("continuous views do not support %s without the window as a column",
							 weir_window_name(plan->window_kind)),
					"Add the window itself to the select list; lower() and upper() of it may stand beside it.");
}

/*
 * The columns that the decoder has to produce.  System columns and whole rows
 * have been refused, so all numbers are positive.
 */
static void
find_wanted(WeirPlan *plan)
{
	Bitmapset  *shifted = NULL;
	int			i;

	pull_varattnos((Node *) plan->filter, 1, &shifted);
	for (i = 0; i < plan->n_keys; i++)
		pull_varattnos((Node *) plan->keys[i].expr, 1, &shifted);
	for (i = 0; i < plan->n_calls; i++)
		pull_varattnos((Node *) plan->calls[i].aggref, 1, &shifted);

	i = -1;
	while ((i = bms_next_member(shifted, i)) >= 0)
		plan->wanted = bms_add_member(plan->wanted,
									  i + FirstLowInvalidHeapAttributeNumber);
	bms_free(shifted);
}
