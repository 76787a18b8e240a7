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
 * There is no way to take out one item that is not due yet: an item whose deadline
 * has moved on is looked at when the old one comes, and added again.  Many can be
 * taken out together.
 *
 *-------------------------------------------------------------------------
 */
#ifndef WEIR_DEADLINES_H
#define WEIR_DEADLINES_H

#include "weir.h"

typedef struct WeirDeadlines WeirDeadlines;

/* In mcxt, with a context below it; goes when that is deleted. */
extern WeirDeadlines *weir_deadlines_create(MemoryContext mcxt);

extern void weir_deadlines_add(WeirDeadlines *deadlines, Timestamp at,
							   void *item);

/* The earliest deadline, DT_NOEND if there is none. */
extern Timestamp weir_deadlines_first(const WeirDeadlines *deadlines);

/*
 * All items with a deadline <= watermark, by deadline, in an array of
 * CurrentMemoryContext; they stay.  Until weir_deadlines_drop() nothing may be
 * added that is due as well: that would be dropped unseen.
 *
 * Costs what is due, and sometimes, for what comes near, a pass over it.
 */
extern void **weir_deadlines_due(WeirDeadlines *deadlines,
								 Timestamp watermark, int64 *n);

/* Takes those out.  The watermark is that of weir_deadlines_due(). */
extern void weir_deadlines_drop(WeirDeadlines *deadlines, Timestamp watermark);

/* Takes out all items that are not to be kept, at the price of a pass over all. */
extern void weir_deadlines_filter(WeirDeadlines *deadlines,
								  bool (*keep) (void *item));

extern int64 weir_deadlines_count(const WeirDeadlines *deadlines);

#endif							/* WEIR_DEADLINES_H */
