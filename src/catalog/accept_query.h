/*-------------------------------------------------------------------------
 *
 * accept_query.h
 *	  The gate of the definition language, shared by plan_query.c,
 *	  accept_query.c, accept_function.c and table_source.c and by nobody else.
 *
 *-------------------------------------------------------------------------
 */
#ifndef WEIR_ACCEPT_QUERY_H
#define WEIR_ACCEPT_QUERY_H

#include "weir.h"
#include "nodes/parsenodes.h"
#include "nodes/primnodes.h"

/* What FROM consists of, once it is accepted. */
typedef struct WeirFrom
{
	Oid			source;			/* the relation */
	int			source_rti;		/* its place in the range table */
	int			window_rti;		/* of FROM ..., weir.tumble(), or 0 */
	FuncExpr   *window_call;	/* that call, or NULL */
	List	   *quals;			/* of inner joins between the two, and WHERE */
} WeirFrom;

/* What may stand in FROM, as a hint. */
#define WEIR_SOURCE_HINT \
	"Name a table of this database, a push stream (wrapper weir_stream) or a topic (wrapper weir_kafka)."

/* Raises 0A000 with the message and the hint, both complete sentences. */
weir_noreturn extern void weir_refuse(const char *message, const char *hint);

/* accept_query.c */
extern void weir_accept_clauses(const Query *query);
extern void weir_accept_from(const Query *query, WeirFrom *from);
extern void weir_accept_expression(Node *expr);
extern void weir_accept_key_type(Node *expr);
extern void weir_accept_result_type(TargetEntry *target);

/* table_source.c */
extern void weir_accept_table(RangeTblEntry *rte);

/* accept_function.c */
extern void weir_accept_functions(Node *expr);

#endif							/* WEIR_ACCEPT_QUERY_H */
