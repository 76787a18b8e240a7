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
	WEIR_WATERMARK_PERCENTILE	/* as far behind as that share of rows was late */
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

/* A sketch of how late rows came, mergeable and of bounded size. */
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

/* A partition without a row; a new one of a view that stands at watermark. */
extern void weir_event_time_begin(WeirEventTime *time,
								  const WeirWatermarkRule *rule,
								  TimestampTz watermark, TimestampTz now);

/*
 * n accepted rows of a partition, in the order in which they came.  Rows further
 * ahead of now than the skew allows are passed over; returns how many were.
 * Allocates the sketch in CurrentMemoryContext.
 */
extern int64 weir_event_time_add(WeirEventTime *time,
								 const WeirWatermarkRule *rule,
								 const Timestamp *times, int n,
								 TimestampTz now);

/* The same for rows that another process has read, whose greatest it says. */
extern void weir_event_time_merge(WeirEventTime *time, TimestampTz greatest);

/* Moves the partition's watermark to where its rows allow. */
extern void weir_event_time_advance(WeirEventTime *time,
									const WeirWatermarkRule *rule);

/*
 * The watermark of a view over n partitions, never less than `before`.
 * at_end[i]: everything that the partition is known to have was read; only then
 * can it be idle.  Sets idle of each, *held_by to the partition (index) that
 * holds the watermark back, or -1, and *next_idle to when another partition
 * becomes idle if it stays silent (DT_NOEND: never).
 */
extern TimestampTz weir_view_watermark(WeirEventTime **times,
									   const bool *at_end, int n,
									   const WeirWatermarkRule *rule,
									   TimestampTz before, TimestampTz now,
									   int *held_by, TimestampTz *next_idle);

/* The sketch as bytes, appended; and back: XX001 for bytes that are none. */
extern void weir_lateness_save(const WeirLateness *lateness, StringInfo out);
extern WeirLateness *weir_lateness_load(const char *bytes, Size len);

#endif							/* WEIR_WATERMARK_H */
