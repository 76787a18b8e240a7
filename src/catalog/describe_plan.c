/*-------------------------------------------------------------------------
 *
 * describe_plan.c
 *	  weir_test_plan(text): what weir_plan_query() makes of a query, as text.
 *
 * For tests, and in WEIR_TEST builds only: an accepted query shows what the
 * plan consists of without a worker or a broker.  Expressions are deparsed by
 * Postgres after keys and aggregate calls have been put back where the plan
 * has Vars of the group, so a wrong number shows as a wrong expression.
 *
 * weir_test_plan(regclass) does the same for the query of a stored view, which
 * is the form in which a worker gets it.
 *
 * The functions exist in SQL only where a test declares them.
 *
 *-------------------------------------------------------------------------
 */
#include "catalog/plan_query.h"

#ifdef WEIR_TEST

#include "access/attnum.h"
#include "access/table.h"
#include "fmgr.h"
#include "nodes/nodeFuncs.h"
#include "parser/analyze.h"
#include "rewrite/rewriteHandler.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/ruleutils.h"

static text *describe(const Query *query);
static Node *put_back_mutator(Node *node, void *context);
static char *show(const WeirPlan *plan, Node *expr, bool of_group);

PG_FUNCTION_INFO_V1(weir_test_plan);
PG_FUNCTION_INFO_V1(weir_test_plan_of_view);

Datum
weir_test_plan(PG_FUNCTION_ARGS)
{
	char	   *sql = text_to_cstring(PG_GETARG_TEXT_PP(0));
	List	   *parsed = pg_parse_query(sql);
	Query	   *query;

	if (list_length(parsed) != 1)
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("expected one statement")));
	query = parse_analyze_fixedparams(linitial_node(RawStmt, parsed), sql,
									  NULL, 0, NULL);
	PG_RETURN_TEXT_P(describe(query));
}

Datum
weir_test_plan_of_view(PG_FUNCTION_ARGS)
{
	Relation	view = table_open(PG_GETARG_OID(0), AccessShareLock);
	text	   *result = describe(get_view_query(view));

	table_close(view, AccessShareLock);
	PG_RETURN_TEXT_P(result);
}

static text *
describe(const Query *query)
{
	WeirPlan   *plan = weir_plan_query(query);
	StringInfoData out;
	ListCell   *lc;
	int			i;

	initStringInfo(&out);
	appendStringInfo(&out, "source %s, wanted", get_rel_name(plan->source));
	i = -1;
	while ((i = bms_next_member(plan->wanted, i)) >= 0)
		appendStringInfo(&out, " %s",
						 get_attname(plan->source, (AttrNumber) i, false));
	if (plan->grand_total)
		appendStringInfoString(&out, ", grand total");
	if (plan->filter != NULL)
		appendStringInfo(&out, "\nfilter %s",
						 show(plan, (Node *) plan->filter, false));
	for (i = 0; i < plan->n_keys; i++)
	{
		WeirKey    *key = &plan->keys[i];

		appendStringInfo(&out, "\nkey %d %s: %s, %s", i + 1,
						 show(plan, (Node *) key->expr, false),
						 format_type_with_typemod(key->type, key->typmod),
						 get_func_name(key->eq_function));
		if (!OidIsValid(key->hash_function))
			appendStringInfoString(&out, ", NOT hashed");
		if (key->is_window)
			appendStringInfo(&out, ", %s of %s",
							 plan->window_key == i ? "window" : "NOT the window",
							 weir_window_name(plan->window_kind));
		if (key->result_column != 0)
			appendStringInfo(&out, ", column %d", key->result_column);
		if (key->is_window && key->result_column != plan->window_column)
			appendStringInfoString(&out, ", NOT the column of the window");
	}
	for (i = 0; i < plan->n_calls; i++)
	{
		WeirAggregateCall *call = &plan->calls[i];

		appendStringInfo(&out, "\ncall %d %s of %s", i + 1,
						 get_func_name(call->aggref->aggfnoid),
						 call->arg ? show(plan, (Node *) call->arg, false) : "*");
		if (call->filter != NULL)
			appendStringInfo(&out, " where %s",
							 show(plan, (Node *) call->filter, false));
	}
	foreach(lc, plan->targets)
	{
		TargetEntry *target = lfirst_node(TargetEntry, lc);

		appendStringInfo(&out, "\ncolumn %d %s: %s", target->resno,
						 target->resname,
						 show(plan, (Node *) target->expr, true));
	}
	if (plan->having != NULL)
		appendStringInfo(&out, "\nhaving %s",
						 show(plan, (Node *) plan->having, true));
	return cstring_to_text(out.data);
}

static char *
show(const WeirPlan *plan, Node *expr, bool of_group)
{
	List	   *names = deparse_context_for(get_rel_name(plan->source),
											plan->source);

	if (of_group)
		expr = put_back_mutator(expr, unconstify(WeirPlan *, plan));
	return deparse_expression(expr, names, false, false);
}

/* context is the WeirPlan. */
static Node *
put_back_mutator(Node *node, void *context)
{
	WeirPlan   *plan = (WeirPlan *) context;

	if (node == NULL)
		return NULL;
	if (IsA(node, Var))
	{
		Var		   *var = (Var *) node;

		if (var->varno != OUTER_VAR)
			elog(ERROR, "Var of relation %d among results", (int) var->varno);
		if (var->varattno <= plan->n_keys)
			return (Node *) copyObject(plan->keys[var->varattno - 1].expr);
		return (Node *) copyObject(plan->calls[var->varattno - plan->n_keys - 1].aggref);
	}
	return expression_tree_mutator(node, put_back_mutator, context);
}

#endif							/* WEIR_TEST */
