/*-------------------------------------------------------------------------
 *
 * watermark.h
 *	  How far event time has come: the watermark of a partition and of a view.
 *
 * The watermark W of a partition is the lower bound of the event times that are
 * still expected from it.  It follows the greatest event time of the rows that
 * were accepted, at a distance that the rule says, and never goes back.  The
 * watermark of a view is the least over its partitions, less those that are
 * idle: at their end, and silent for some time.  If all are idle it is the
 * greatest.
 *
 * Nothing here reads a clock or a table: `now` is handed in, and what must
 * survive a crash is written by the caller with the positions.
 *
 * All times are microseconds since 2000, those of a timestamp without time zone
 * taken as UTC.  DT_NOBEGIN stands for "none yet" and is less than any time.
 *
 *-------------------------------------------------------------------------
 */
#ifndef WEIR_WATERMARK_H
#define WEIR_WATERMARK_H

#include "weir.h"
#include "lib/stringinfo.h"

typedef enum WeirWatermarkKind
{
	WEIR_WATERMARK_NONE,		/* windows never close */
	WEIR_WATERMARK_BOUNDED,		/* `delay` behind the greatest time */
	WEIR_WATERMARK_PERCENTILE	/* behind it by the lateness of that share */
} WeirWatermarkKind;

/* What the options of a view say.  `ascending` is BOUNDED with delay 0. */
typedef struct WeirWatermarkRule
{
	WeirWatermarkKind kind;
	int64		delay;			/* microseconds */
	double		share;			/* of PERCENTILE: 0.99 for p99 */
	int64		idle_timeout;	/* microseconds, -1: off */
	int64		max_future_skew;	/* microseconds */
} WeirWatermarkRule;

/*
 * A sketch of how late rows came, mergeable and of bounded size: a few kilobytes,
 * 30 at most.  Grows in the context in which it was made.
 */
typedef struct WeirLateness WeirLateness;

/* The event time of one partition for one view. */
typedef struct WeirEventTime
{
	/* stored with the position */
	TimestampTz greatest;		/* event time of an accepted row that moves W */
	TimestampTz watermark;
	WeirLateness *lateness;		/* NULL unless PERCENTILE */
	/* of this process */
	TimestampTz active;			/* clock: when it had a row, or was begun */
	bool		idle;			/* as of the last weir_view_watermark() */
} WeirEventTime;

/*
 * A partition without a row; a new one of a view that stands at watermark
 * (DT_NOBEGIN: no window of the view can have closed yet).
 */
extern void weir_event_time_begin(WeirEventTime *time,
								  const WeirWatermarkRule *rule,
								  TimestampTz watermark, TimestampTz now);

/*
 * n accepted rows of a partition, in the order in which they came.  Rows further
 * ahead of now than the skew allows are passed over, but for that a partition
 * that has them is not silent; returns how many were, infinity among them.
 * -infinity counts for nothing.  Allocates the sketch in CurrentMemoryContext.
 */
extern int64 weir_event_time_add(WeirEventTime *time,
								 const WeirWatermarkRule *rule,
								 const Timestamp *times, int n,
								 TimestampTz now);

/*
 * The same for rows that another process has read, whose greatest it says; the
 * partition is as silent as before.  See also weir_lateness_merge().
 */
extern void weir_event_time_merge(WeirEventTime *time, TimestampTz greatest);

/*
 * Moves the partition's watermark to where its rows allow.  That of PERCENTILE
 * stays until there are enough of them: 1 / (1 - share).
 */
extern void weir_event_time_advance(WeirEventTime *time,
									const WeirWatermarkRule *rule);

/*
 * The watermark of a view over n partitions, never less than `before`.
 * at_end[i]: everything that the partition is known to have was read; only then
 * can it be idle.  Sets idle of each, and
 *
 * *held_by		the partition (index) that holds the watermark back: one of the
 *				least of those that are not idle, or -1 if none is ahead of it
 *				and the view neither
 * *next_idle	when the next partition becomes idle if it stays silent; DT_NOEND
 *				if none will, or none of those that are at their end
 */
extern TimestampTz weir_view_watermark(WeirEventTime **times,
									   const bool *at_end, int n,
									   const WeirWatermarkRule *rule,
									   TimestampTz before, TimestampTz now,
									   int *held_by, TimestampTz *next_idle);

/* An empty sketch, in CurrentMemoryContext; and what another process measured. */
extern WeirLateness *weir_lateness_create(void);
extern void weir_lateness_merge(WeirLateness *into, const WeirLateness *from);

/*
 * The sketch as bytes, appended; and back, in CurrentMemoryContext.  Errors: XX001
 * for bytes that are none, 0A000 for a version that this build does not know.
 *
 * An older sketch does for a later position.  weir_lateness_is_due(): there are so
 * many more rows than when it was last saved that it is worth writing.  If the
 * commit that writes it fails, it is written some rows later.
 */
extern bool weir_lateness_is_due(const WeirLateness *lateness);
extern void weir_lateness_save(WeirLateness *lateness, StringInfo out);
extern WeirLateness *weir_lateness_load(const char *bytes, Size len);

#endif							/* WEIR_WATERMARK_H */
