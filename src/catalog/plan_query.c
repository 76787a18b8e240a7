#include "catalog/plan_query.h"
WeirPlan *
weir_plan_query(const Query *query)
{
	return NULL;
}
