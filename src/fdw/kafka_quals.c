/*-------------------------------------------------------------------------
 *
 * kafka_quals.c
 *	  Which conditions of a query narrow what is read from a topic.
 *
 * A partition, an offset and a time are all that a broker can look up.  So a
 * comparison of such a metadata column with something that is known before the
 * scan starts is turned into bounds; everything else is the executor's.
 *
 *	 partition	=  <  <=  >  >=  = ANY (...)
 *	 offset		=  <  <=  >  >=
 *	 timestamp	=  >  >=		lower bounds only
 *
 * An upper bound on the time cannot be used: producers set the times, so that
 * after the first message that is too young an old one may follow.  A lower
 * bound can: the broker names the first message at or after a time, and
 * everything before it is older.
 *
 * Bounds may be wider than the conditions, never narrower, since every
 * condition is checked again on the rows.
 *
 *-------------------------------------------------------------------------
 */
#include "fdw/kafka_fdw.h"

#include "access/stratnum.h"
#include "catalog/pg_type.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/clauses.h"
#include "optimizer/optimizer.h"
#include "utils/array.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

/* Kafka's times are milliseconds. */
#define KAFKA_TIME_DIGITS 3

static bool is_integer(Oid type);
static int64 integer_value(Oid type, Datum value);
static void add_partitions(WeirKafkaBounds *bounds, Oid type, Datum array);
static void narrow(int64 *low, int64 *high, int strategy, int64 value);

/*
 * True when the clause is such a comparison; describes it in *qual.  At
 * planning and again when the scan begins, on the same clause.
 */
bool
weir_kafka_qual(Index varno, Oid foreign_table, Expr *clause,
				WeirKafkaQual *qual)
{
	Expr	   *left;
	Expr	   *right;
	Oid			operator;
	Oid			left_type;
	Oid			right_type;
	int			strategy;
	TypeCacheEntry *cache;
	Var		   *var;

	memset(qual, 0, sizeof(*qual));
	if (IsA(clause, OpExpr))
	{
		OpExpr	   *op = (OpExpr *) clause;

		if (list_length(op->args) != 2)
			return false;
		operator = op->opno;
		left = linitial(op->args);
		right = lsecond(op->args);
		if (!IsA(left, Var) || ((Var *) left)->varno != varno)
		{
			Expr	   *swap = left;

			left = right;
			right = swap;
			operator = get_commutator(operator);
		}
	}
	else if (IsA(clause, ScalarArrayOpExpr))
	{
		ScalarArrayOpExpr *op = (ScalarArrayOpExpr *) clause;

		if (!op->useOr)
			return false;
		operator = op->opno;
		left = linitial(op->args);
		right = lsecond(op->args);
		qual->any = true;
	}
	else
		return false;

	if (!IsA(left, Var) || !OidIsValid(operator))
		return false;
	var = (Var *) left;
	if (var->varno != varno || var->varlevelsup != 0 || var->varattno <= 0)
		return false;

	/* the value must be known before the first row is */
	if (contain_var_clause((Node *) right) ||
		contain_volatile_functions((Node *) right) ||
		contain_subplans((Node *) right))
		return false;

	qual->field = weir_kafka_field(foreign_table, var->varattno);
	if (qual->field != WEIR_FIELD_PARTITION &&
		qual->field != WEIR_FIELD_OFFSET &&
		qual->field != WEIR_FIELD_TIMESTAMP)
		return false;

	/* the operator must mean what btree says that it means */
	cache = lookup_type_cache(var->vartype, TYPECACHE_BTREE_OPFAMILY);
	if (!OidIsValid(cache->btree_opf) ||
		!op_in_opfamily(operator, cache->btree_opf))
		return false;
	get_op_opfamily_properties(operator, cache->btree_opf, false,
							   &strategy, &left_type, &right_type);
	if (qual->field == WEIR_FIELD_TIMESTAMP ?
		(left_type != TIMESTAMPTZOID || right_type != TIMESTAMPTZOID ||
		 strategy < BTEqualStrategyNumber) :
		(!is_integer(left_type) || !is_integer(right_type)))
		return false;
	/* a column that rounds may show a later time than the broker knows */
	if (qual->field == WEIR_FIELD_TIMESTAMP &&
		var->vartypmod >= 0 && var->vartypmod < KAFKA_TIME_DIGITS)
		return false;
	if (qual->any &&
		(qual->field != WEIR_FIELD_PARTITION ||
		 strategy != BTEqualStrategyNumber))
		return false;

	qual->strategy = strategy;
	qual->type = right_type;
	qual->value = right;
	return true;
}

void
weir_kafka_bounds_init(WeirKafkaBounds *bounds)
{
	memset(bounds, 0, sizeof(*bounds));
	bounds->end_partition = PG_INT64_MAX;
	bounds->high = PG_INT64_MAX;
	bounds->since = DT_NOBEGIN;
}

/* Narrows the bounds by a comparison whose value is known now. */
void
weir_kafka_bounds_add(WeirKafkaBounds *bounds, const WeirKafkaQual *qual,
					  Datum value, bool isnull)
{
	/* btree's operators are strict: nothing compares true with NULL */
	if (isnull)
		bounds->nothing = true;
	else if (qual->any)
		add_partitions(bounds, qual->type, value);
	else if (qual->field == WEIR_FIELD_PARTITION)
		narrow(&bounds->first_partition, &bounds->end_partition,
			   qual->strategy, integer_value(qual->type, value));
	else if (qual->field == WEIR_FIELD_OFFSET)
		narrow(&bounds->low, &bounds->high,
			   qual->strategy, integer_value(qual->type, value));
	else
		bounds->since = Max(bounds->since, DatumGetTimestampTz(value));

	if (bounds->low >= bounds->high ||
		bounds->first_partition >= bounds->end_partition ||
		(bounds->listed && bounds->partitions == NULL))
		bounds->nothing = true;
}

static bool
is_integer(Oid type)
{
	return type == INT2OID || type == INT4OID || type == INT8OID;
}

static int64
integer_value(Oid type, Datum value)
{
	return type == INT2OID ? DatumGetInt16(value) :
		type == INT4OID ? DatumGetInt32(value) : DatumGetInt64(value);
}

/*
 * A set has a bit for each number up to its greatest member; no topic has
 * partitions beyond this, so that leaving larger numbers out loses nothing.
 */
#define MAX_LISTED 1000000

static void
add_partitions(WeirKafkaBounds *bounds, Oid type, Datum array)
{
	Bitmapset  *these = NULL;
	Datum	   *values;
	bool	   *nulls;
	int			n;
	int16		len;
	bool		byval;
	char		align;

	get_typlenbyvalalign(type, &len, &byval, &align);
	deconstruct_array(DatumGetArrayTypeP(array), type, len, byval, align,
					  &values, &nulls, &n);
	for (int i = 0; i < n; i++)
		if (!nulls[i])
		{
			int64		value = integer_value(type, values[i]);

			if (value >= 0 && value < MAX_LISTED)
				these = bms_add_member(these, (int) value);
		}
	bounds->partitions = bounds->listed ?
		bms_int_members(bounds->partitions, these) : these;
	if (bms_is_empty(bounds->partitions))
		bounds->partitions = NULL;
	bounds->listed = true;
}

/* low <= x < high, and now also x <strategy> value. */
static void
narrow(int64 *low, int64 *high, int strategy, int64 value)
{
	int64		next = (value < PG_INT64_MAX) ? value + 1 : value;

	switch (strategy)
	{
		case BTLessStrategyNumber:
			*high = Min(*high, value);
			break;
		case BTLessEqualStrategyNumber:
			*high = Min(*high, next);
			break;
		case BTEqualStrategyNumber:
			*low = Max(*low, value);
			*high = Min(*high, next);
			break;
		case BTGreaterEqualStrategyNumber:
			*low = Max(*low, value);
			break;
		case BTGreaterStrategyNumber:
			*low = Max(*low, next);
			break;
	}
}

/* The partitions that a scan must read, of those that the topic has. */
bool
weir_kafka_bounds_partition(const WeirKafkaBounds *bounds, int32 partition)
{
	return partition >= bounds->first_partition &&
		partition < bounds->end_partition &&
		(!bounds->listed || bms_is_member(partition, bounds->partitions));
}
