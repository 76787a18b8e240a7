/*-------------------------------------------------------------------------
 *
 * compat.h
 *	  Differences between PostgreSQL 15, 16, 17 and 18, and nothing else.
 *
 * PG_VERSION_NUM appears in this file alone.  Each shim names the release
 * and the change that forced it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef WEIR_COMPAT_H
#define WEIR_COMPAT_H

#include "postgres.h"

#if PG_VERSION_NUM < 150000 || PG_VERSION_NUM >= 190000
#error "pg_weir supports PostgreSQL 15 to 18"
#endif

#include "nodes/parsenodes.h"
#include "optimizer/optimizer.h"

/* 16 gave flatten_join_alias_vars() a PlannerInfo, NULL outside the planner. */
static inline Node *
weir_flatten_join_alias_vars(Query *query, Node *node)
{
#if PG_VERSION_NUM >= 160000
	return flatten_join_alias_vars(NULL, query, node);
#else
	return flatten_join_alias_vars(query, node);
#endif
}

/*
 * 18 put the expressions of GROUP BY into a range table entry of their own,
 * with Vars in the places where they were used.
 */
static inline Node *
weir_flatten_group_exprs(Query *query, Node *node)
{
#if PG_VERSION_NUM >= 180000
	if (query->hasGroupRTE)
		return flatten_group_exprs(NULL, query, node);
#endif
	return node;
}

#include "utils/rangetypes.h"
#include "utils/timestamp.h"

/* 16 gave make_range() a place for soft errors. */
static inline RangeType *
weir_make_range(TypeCacheEntry *type, RangeBound *lower, RangeBound *upper)
{
#if PG_VERSION_NUM >= 160000
	return make_range(type, lower, upper, false, NULL);
#else
	return make_range(type, lower, upper, false);
#endif
}

/* 17 introduced infinite intervals. */
static inline bool
weir_interval_is_finite(const Interval *interval)
{
#if PG_VERSION_NUM >= 170000
	return !INTERVAL_NOT_FINITE(interval);
#else
	return true;
#endif
}

#endif							/* WEIR_COMPAT_H */
