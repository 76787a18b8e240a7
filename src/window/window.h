/*-------------------------------------------------------------------------
 *
 * window.h
 *	  Which window of event time holds a timestamp.
 *
 *-------------------------------------------------------------------------
 */
#ifndef WEIR_WINDOW_H
#define WEIR_WINDOW_H

#include "weir.h"
#include "nodes/primnodes.h"
#include "pgtime.h"

typedef enum WeirSizeKind
{
	WEIR_SIZE_PHYSICAL,			/* microseconds since the origin */
	WEIR_SIZE_DAYS,				/* calendar days of the zone */
	WEIR_SIZE_MONTHS			/* calendar months of the zone */
} WeirSizeKind;

/*
 * A tumbling window with constant size, origin and zone, made ready.  `last_*`
 * remembers the window of the previous call: neighbours in time share it.
 */
typedef struct WeirTumble
{
	WeirSizeKind kind;
	int64		size;			/* microseconds, days or months */
	bool		with_zone;		/* timestamptz (else timestamp) */
	Timestamp	origin;			/* resolved; see tumble.c for its meaning */
	pg_tz	   *zone;			/* NULL for timestamp */
	int64		period;			/* microseconds between edges, 0 if it varies */
	int64		phase;			/* of an edge, modulo period */
	Timestamp	last_lower;
	Timestamp	last_upper;
	struct TypeCacheEntry *range_type;	/* tstzrange or tsrange */
} WeirTumble;

/* True for a call of weir.tumble, either overload. */
extern bool weir_is_tumble(Oid funcid);

/*
 * Prepares a call whose size, origin and tz are Consts.  Errors: 22023.
 */
extern void weir_tumble_prepare(WeirTumble *tumble, FuncExpr *call);

/*
 * The window [lower, upper) of ts.  Does not raise: returns false for a ts
 * that has no window (infinite, or a window edge out of range), where the SQL
 * function raises 22023 or 22008.
 */
extern bool weir_tumble_assign(WeirTumble *tumble, Timestamp ts,
							   Timestamp *lower, Timestamp *upper);

/* [lower, upper) as a tstzrange or tsrange Datum in CurrentMemoryContext. */
extern Datum weir_window_range(const WeirTumble *tumble,
							   Timestamp lower, Timestamp upper);

#endif							/* WEIR_WINDOW_H */
