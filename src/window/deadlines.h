/*-------------------------------------------------------------------------
 *
 * deadlines.h
 *	  What is to be done when the watermark gets there.
 *
 * A group waits here for its window to close, and then for the end of its
 * revision.  Items are pointers that mean nothing to this file.  What is due is
 * first looked at and only then, once the commit has succeeded, taken out: a
 * commit that fails leaves everything as it was.
 *
 * Many items share a deadline (all groups of a window), or few do (sessions).
 *
 *-------------------------------------------------------------------------
 */
#ifndef WEIR_DEADLINES_H
#define WEIR_DEADLINES_H

#include "weir.h"

typedef struct WeirDeadlines WeirDeadlines;

extern WeirDeadlines *weir_deadlines_create(MemoryContext mcxt);

extern void weir_deadlines_add(WeirDeadlines *deadlines, Timestamp at,
							   void *item);

/* The earliest deadline, DT_NOEND if there is none. */
extern Timestamp weir_deadlines_first(const WeirDeadlines *deadlines);

/*
 * All items with a deadline <= watermark, by deadline, in an array of
 * CurrentMemoryContext; they stay.  Nothing may be added before
 * weir_deadlines_drop().
 */
extern void **weir_deadlines_due(WeirDeadlines *deadlines,
								 Timestamp watermark, int64 *n);

/* Takes those out. */
extern void weir_deadlines_drop(WeirDeadlines *deadlines, Timestamp watermark);

extern int64 weir_deadlines_count(const WeirDeadlines *deadlines);

#endif							/* WEIR_DEADLINES_H */
