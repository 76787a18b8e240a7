/*-------------------------------------------------------------------------
 *
 * plan_query.h
 *	  From Q, an analysed Query, to the parts that a worker runs.
 *
 * weir_plan_query() is also the gate of the definition language: whatever
 * pg_weir does not do is refused here by name.
 *
 *-------------------------------------------------------------------------
 */
#ifndef WEIR_PLAN_QUERY_H
#define WEIR_PLAN_QUERY_H

#include "weir.h"
#include "access/tupdesc.h"
#include "nodes/bitmapset.h"
#include "nodes/parsenodes.h"
#include "nodes/primnodes.h"
#include "window/window.h"

/* One GROUP BY expression.  Vars in expr are of the source, with varno 1. */
typedef struct WeirKey
{
	Expr	   *expr;
	Oid			type;
	int32		typmod;
	Oid			collation;
	Oid			eq_function;	/* of the default equality of the type */
	Oid			hash_function;	/* 32-bit, matches eq_function */
	bool		is_window;		/* expr is a FuncExpr of a window function, which
								 * the executor must not run: it may be a set,
								 * or weir.session */
	AttrNumber	result_column;	/* a column of v that shows it bare, or 0 */
} WeirKey;

/* One distinct aggregate call. */
typedef struct WeirAggregateCall
{
	Aggref	   *aggref;			/* its Vars have varno 1 */
	Expr	   *arg;			/* NULL for count(*) */
	Expr	   *filter;			/* NULL without FILTER */
} WeirAggregateCall;

/*
 * Result expressions (targets, having) contain no Aggref and no Var of the
 * source: Vars with varno OUTER_VAR number first the keys, 1 .. n_keys, then the
 * aggregate calls, n_keys + 1 ...
 */
typedef struct WeirPlan
{
	Oid			source;			/* the relation in FROM */
	Bitmapset  *wanted;			/* attribute numbers of source that are read */
	Expr	   *filter;			/* WHERE, one expression, or NULL */
	int			n_keys;
	WeirKey    *keys;
	int			window_key;		/* index into keys, or -1 */
	WeirWindowKind window_kind;
	AttrNumber	window_column;	/* of v, that shows the window bare, or 0 */
	int			n_calls;
	WeirAggregateCall *calls;
	bool		grand_total;	/* no GROUP BY: one row, also over no input */
	List	   *targets;		/* TargetEntry, no junk, in column order */
	Expr	   *having;			/* or NULL */
} WeirPlan;

/*
 * Checks and plans Q.  The Query is not changed; the plan is allocated in
 * CurrentMemoryContext.  Constants are folded and all expressions are ready for
 * ExecInitExpr().
 *
 * Folding runs functions of the query's author, and ours are run with what
 * rights the session has: the caller switches to the owner of the view, in a
 * security-restricted operation and with a safe search_path, and has pinned
 * the settings of the view.  A snapshot must be active.
 *
 * Errors: 0A000 with a hint, for everything that is not accepted; 22023 for a
 * wrong window; what constant expressions raise.
 */
extern WeirPlan *weir_plan_query(const Query *query);

/* The window function of a query that was accepted before. */
extern WeirWindowKind weir_query_window_kind(const Query *query);

#endif							/* WEIR_PLAN_QUERY_H */
