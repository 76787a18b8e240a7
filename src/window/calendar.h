/*-------------------------------------------------------------------------
 *
 * calendar.h
 *	  Days and months as the clock on the wall of a time zone counts them.
 *
 * A local time is what that clock shows, held like a timestamp without time
 * zone.  All functions allow a NULL zone, where clock and time are the same.
 *
 *-------------------------------------------------------------------------
 */
#ifndef WEIR_CALENDAR_H
#define WEIR_CALENDAR_H

#include "weir.h"
#include "pgtime.h"

/* The zone of that name.  Errors: 22023. */
extern pg_tz *weir_zone(const char *name);

/* True, and the offset in microseconds east, if the zone has only one. */
extern bool weir_zone_is_fixed(pg_tz *zone, int64 *offset);

/* What the clock shows at ts. */
extern Timestamp weir_local_time(Timestamp ts, pg_tz *zone);

/* The first instant at which the clock shows that time or a later one. */
extern bool weir_first_instant(Timestamp local, pg_tz *zone, Timestamp *ts);

/* Calendar arithmetic on local times; false when out of range. */
extern bool weir_add_days(Timestamp local, int64 days, Timestamp *result);
extern bool weir_add_months(Timestamp local, int64 months, Timestamp *result);

/* Whole days, and months by name, from one to the other; at most one off. */
extern bool weir_days_between(Timestamp from, Timestamp to, int64 *days);
extern bool weir_months_between(Timestamp from, Timestamp to, int64 *months);

/* Division that rounds down; divisor > 0. */
static inline int64
weir_floor_div(int64 dividend, int64 divisor)
{
	return dividend / divisor - (dividend % divisor < 0);
}

#endif							/* WEIR_CALENDAR_H */
