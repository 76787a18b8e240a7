/*-------------------------------------------------------------------------
 *
 * window.h
 *	  Which windows of event time hold a timestamp.
 *
 * Time is cut into *panes*: the stretches between neighbouring edges of windows.
 * A row is in one pane, and every window consists of neighbouring panes, so a
 * row is folded once whatever the number of its windows:
 *
 *	 tumble		the window itself
 *	 hop		from edge to edge of all windows: two a slide, or one when the
 *				size is a multiple of the slide
 *	 cumulate	a step
 *	 session	a stretch as long as the gap.  Rows of one pane are less than the
 *				gap apart, and rows with a whole pane between them are not: so a
 *				session is a row of panes, too, which its rows decide on
 *
 * Panes are numbered in the order of their time, and so are windows (sessions
 * have no numbers).  The row that v has of a window belongs to the group of one
 * of its panes, the window's *holder*: the first, or the last of a cumulating
 * window, so that no pane holds two.
 *
 * window_functions.c has what SQL calls, window_sizes.c makes a WeirWindow of the
 * arguments, window.c has the arithmetic.
 *
 *-------------------------------------------------------------------------
 */
#ifndef WEIR_WINDOW_H
#define WEIR_WINDOW_H

#include "weir.h"
#include "nodes/primnodes.h"
#include "pgtime.h"

typedef enum WeirWindowKind
{
	WEIR_NO_WINDOW,				/* what weir_window_kind() says of others */
	WEIR_TUMBLE,
	WEIR_HOP,
	WEIR_CUMULATE,
	WEIR_SESSION
} WeirWindowKind;

typedef enum WeirSizeKind
{
	WEIR_SIZE_PHYSICAL,			/* microseconds since the origin */
	WEIR_SIZE_DAYS,				/* calendar days of the zone */
	WEIR_SIZE_MONTHS			/* calendar months of the zone */
} WeirSizeKind;

/*
 * A window function whose arguments but the timestamp are constants, made ready.
 * All lengths are in units of size_kind, unless they say micros.  `last_*`
 * remembers the pane of the previous call: neighbours in time share it.
 */
typedef struct WeirWindow
{
	WeirWindowKind kind;
	WeirSizeKind size_kind;
	int64		slide;			/* between windows: of tumble and session the
								 * size or gap, of cumulate the step */
	int64		size;
	int64		whole;			/* slides (or steps) in a size, */
	int64		rest;			/* and what is left: 0 but for some of hop */
	bool		with_zone;		/* timestamptz (else timestamp) */
	Timestamp	origin;			/* resolved; see window_sizes.c */
	pg_tz	   *zone;			/* NULL for timestamp */
	int64		unit;			/* micros a unit, 0 if that varies */
	int64		period;			/* micros a slide, 0 if that varies */
	int64		phase;			/* if period: where the first slide at or
								 * after the epoch begins, and */
	int64		phase_number;	/* how many slides the origin is from there */
	int64		rest_micros;
	Timestamp	safe_from;		/* all windows of panes within this have valid */
	Timestamp	safe_until;		/* edges; of others it must be seen */
	int64		last_pane;
	Timestamp	last_lower;
	Timestamp	last_upper;
	struct TypeCacheEntry *range_type;	/* tstzrange or tsrange */
} WeirWindow;

/* The constant arguments of a window function, as SQL has them. */
typedef struct WeirWindowArguments
{
	const Interval *slide;		/* or step; NULL for tumble and session */
	const Interval *size;		/* or gap */
	const Timestamp *origin;	/* NULL for the default */
	text	   *zone;			/* NULL for timestamp, and for session */
} WeirWindowArguments;

/* ---- window_functions.c ---- */

/* Of a function's OID: any overload of the five, or WEIR_NO_WINDOW. */
extern WeirWindowKind weir_window_kind(Oid funcid);

/* For messages: "weir.hop". */
extern const char *weir_window_name(WeirWindowKind kind);

/* "slide" or "step". */
#define weir_slide_noun(kind) ((kind) == WEIR_CUMULATE ? "step" : "slide")

/* Can one row be in more windows than one, or in none?  SQL returns a set. */
#define weir_window_is_set(kind) ((kind) == WEIR_HOP || (kind) == WEIR_CUMULATE)

/* Is a window of several panes?  Then its row is composed of their states. */
#define weir_window_is_composed(kind) ((kind) >= WEIR_HOP)

/*
 * Prepares a call whose arguments after the first are Consts.  Errors: 22023.
 */
extern void weir_window_prepare(WeirWindow *window, FuncExpr *call);

/* ---- window_sizes.c ---- */

/* What weir_window_prepare() and SQL have in common.  Errors: 22023, 22008. */
extern void weir_window_make(WeirWindow *window, WeirWindowKind kind,
							 bool with_zone,
							 const WeirWindowArguments *arguments);

/* ---- window.c ---- */

/*
 * The pane of ts.  Does not raise: returns false for a ts that has none: it is
 * infinite, or an edge of the pane or of a window that holds it is no valid
 * timestamp; there the SQL function raises 22023 or 22008.  (A session's windows
 * are taken to end one gap after the pane.)
 */
extern bool weir_pane_of(WeirWindow *window, Timestamp ts, int64 *pane);

/* [lower, upper) of a pane; false when it is out of range. */
extern bool weir_pane_bounds(const WeirWindow *window, int64 pane,
							 Timestamp *lower, Timestamp *upper);

/*
 * Not for sessions: the windows that hold a pane, from first to last; none when
 * first > last (between the windows of a hop whose size is below its slide).
 */
extern void weir_windows_of(const WeirWindow *window, int64 pane,
							int64 *first, int64 *last);

/*
 * Not for sessions, and for the windows that hold a pane which weir_pane_of() has
 * given: a window's bounds, its panes, and the one that holds its row.
 *
 * weir_window_bounds() returns false for a number that is to be passed over: a
 * cumulating window whose last step is a day that the zone's calendar has left
 * out (Samoa had no 30 December 2011) would be the same as the one before it, and
 * GROUP BY knows them by their bounds.
 */
extern bool weir_window_bounds(const WeirWindow *window, int64 number,
							   Timestamp *lower, Timestamp *upper);
extern void weir_panes_of(const WeirWindow *window, int64 number,
						  int64 *first, int64 *last);
extern int64 weir_holder_of(const WeirWindow *window, int64 number);

/*
 * The window whose row the group of a pane holds; false if there is none.  Always
 * false for sessions.
 */
extern bool weir_window_held_by(const WeirWindow *window, int64 pane,
								int64 *number);

/* [lower, upper) as a tstzrange or tsrange Datum in CurrentMemoryContext. */
extern Datum weir_window_range(const WeirWindow *window,
							   Timestamp lower, Timestamp upper);

#endif							/* WEIR_WINDOW_H */
