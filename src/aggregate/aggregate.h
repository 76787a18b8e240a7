/*-------------------------------------------------------------------------
 *
 * aggregate.h
 *	  Transition states of pg_weir's own: fixed-size, exact, in place.
 *
 *-------------------------------------------------------------------------
 */
#ifndef WEIR_AGGREGATE_H
#define WEIR_AGGREGATE_H

#include "weir.h"
#include "nodes/primnodes.h"

/* True when this build can keep the aggregate call in a continuous view. */
extern bool weir_aggregate_supported(const Aggref *aggref);

#endif							/* WEIR_AGGREGATE_H */
