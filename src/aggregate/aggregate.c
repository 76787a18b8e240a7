/*-------------------------------------------------------------------------
 *
 * aggregate.c
 *	  Which state serves which aggregate call.
 *
 * Every call of Q is mapped here to one of a handful of states.  What is not in
 * the table is not supported yet, and the query is refused by name: there
 * is no approximate fallback.
 *
 *-------------------------------------------------------------------------
 */
#include "aggregate/aggregate.h"

#include "access/htup_details.h"
#include "catalog/pg_aggregate.h"
#include "catalog/pg_type.h"
#include "nodes/nodeFuncs.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

/* min(x) and max(x): how the states compare, by the type of x. */
static const WeirStateOps *
extreme_ops(Oid type, bool retracts)
{
	switch (type)
	{
		case INT2OID:
		case INT4OID:
		case INT8OID:
		case DATEOID:
		case TIMEOID:
		case TIMESTAMPOID:
		case TIMESTAMPTZOID:
		case CASHOID:
			return retracts ? &weir_multiset_signed : &weir_extreme_signed;
		case OIDOID:
		case XID8OID:
		case LSNOID:
			return retracts ? &weir_multiset_unsigned : &weir_extreme_unsigned;
		case FLOAT4OID:
			return retracts ? &weir_multiset_float4 : &weir_extreme_float4;
		case FLOAT8OID:
			return retracts ? &weir_multiset_float8 : &weir_extreme_float8;
		default:
			return retracts ? &weir_multiset_general : &weir_extreme_general;
	}
}

/*
 * min and max are recognised by what they are, aggregates of pg_catalog with a
 * sort operator, so that those which a later release adds (bytea and records
 * in 18) come along.
 */
static bool
is_extreme(Oid aggfnoid, bool *least)
{
	HeapTuple	tuple;
	Oid			sort_operator;
	char	   *name;

	if (aggfnoid >= FirstGenbkiObjectId)
		return false;
	name = get_func_name(aggfnoid);
	if (name == NULL)
		return false;
	*least = strcmp(name, "min") == 0;
	if (!*least && strcmp(name, "max") != 0)
		return false;

	tuple = SearchSysCache1(AGGFNOID, ObjectIdGetDatum(aggfnoid));
	if (!HeapTupleIsValid(tuple))
		return false;
	sort_operator = ((Form_pg_aggregate) GETSTRUCT(tuple))->aggsortop;
	ReleaseSysCache(tuple);
	return OidIsValid(sort_operator);
}

static Oid
argument_type(const Aggref *aggref)
{
	TargetEntry *arg = linitial_node(TargetEntry, aggref->args);

	return getBaseType(exprType((Node *) arg->expr));
}

WeirClass
weir_classify(const Aggref *aggref, bool retracts)
{
	WeirClass	result = {NULL, NULL, false};
	bool		least;

#define SERVED_BY(ops_, finish_) \
	do { result.ops = &(ops_); result.finish = (finish_); } while (0)

	switch (aggref->aggfnoid)
	{
		case F_COUNT_:
			SERVED_BY(weir_count_rows, weir_count_finish);
			break;
		case F_COUNT_ANY:
			SERVED_BY(weir_count_any, weir_count_finish);
			break;
		case F_SUM_INT2:
		case F_SUM_INT4:
		case F_SUM_MONEY:
			SERVED_BY(weir_int_sum, weir_int_sum_int8);
			break;
		case F_SUM_INT8:
			SERVED_BY(weir_int_sum, weir_int_sum_numeric);
			break;
		case F_AVG_INT2:
		case F_AVG_INT4:
		case F_AVG_INT8:
			SERVED_BY(weir_int_sum, weir_int_avg);
			break;
		case F_SUM_FLOAT4:
			if (retracts)
				SERVED_BY(weir_exact_sum, weir_exact_sum_float4);
			else
				SERVED_BY(weir_float_sum, weir_float_sum_float4);
			break;
		case F_SUM_FLOAT8:
			if (retracts)
				SERVED_BY(weir_exact_sum, weir_exact_sum_float8);
			else
				SERVED_BY(weir_float_sum, weir_float_sum_float8);
			break;
		case F_AVG_FLOAT4:
		case F_AVG_FLOAT8:
			if (retracts)
				SERVED_BY(weir_exact_sum, weir_exact_avg);
			else
				SERVED_BY(weir_float_sum, weir_float_avg);
			break;
		case F_SUM_NUMERIC:
			if (retracts)
				SERVED_BY(weir_numeric_exact, weir_numeric_sum_finish);
			else
				SERVED_BY(weir_numeric_sum, weir_numeric_sum_finish);
			break;
		case F_AVG_NUMERIC:
			if (retracts)
				SERVED_BY(weir_numeric_exact, weir_numeric_avg);
			else
				SERVED_BY(weir_numeric_sum, weir_numeric_avg);
			break;
		case F_SUM_INTERVAL:
			SERVED_BY(weir_interval_sum, weir_interval_sum_finish);
			break;
		case F_AVG_INTERVAL:
			SERVED_BY(weir_interval_sum, weir_interval_avg);
			break;
		default:
			if (is_extreme(aggref->aggfnoid, &least))
				result.ops = extreme_ops(argument_type(aggref), retracts);
			if (result.ops != NULL && retracts)
			{
				/* both ends of one multiset: min and max share it */
				result.finish = least ? weir_multiset_min : weir_multiset_max;
			}
			else if (result.ops != NULL)
			{
				result.least = least;
				result.finish = result.ops == &weir_extreme_general ?
					weir_extreme_general_finish : weir_extreme_finish;
			}
			break;
	}
	return result;
}

bool
weir_aggregate_supported(const Aggref *aggref)
{
	return weir_classify(aggref, true).ops != NULL;
}

void
weir_state_prepare(WeirState *state, const WeirClass *class_,
				   const Aggref *aggref, WeirValueStore *store)
{
	memset(state, 0, sizeof(*state));
	state->ops = class_->ops;
	state->store = store;
	state->least = class_->least;
	state->collation = aggref->inputcollid;

	if (aggref->args == NIL)
		return;
	state->arg_type = argument_type(aggref);
	get_typlenbyval(state->arg_type, &state->typlen, &state->typbyval);
	if (state->ops == &weir_extreme_general ||
		state->ops == &weir_multiset_general)
	{
		TypeCacheEntry *entry;

		entry = lookup_type_cache(state->arg_type, TYPECACHE_CMP_PROC);
		if (!OidIsValid(entry->cmp_proc))
			elog(ERROR, "no comparison function for type %u", state->arg_type);
		fmgr_info(entry->cmp_proc, &state->compare);
	}
}
