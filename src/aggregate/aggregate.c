/* placeholder, replaced with the aggregate classes */
#include "aggregate/aggregate.h"
bool
weir_aggregate_supported(const Aggref *aggref)
{
	return true;
}
