/*-------------------------------------------------------------------------
 *
 * watermark.c
 *	  How far event time has come: the watermark of a partition and of a view.
 *
 * Gets the event times of a batch from fold.c, partition by partition and in the
 * order in which they came, and says before each commit where the view stands.
 * It does not know what a window is, closes nothing, and stores nothing.
 *
 *			  rows                        commit
 *				|                           |
 *	   greatest, lateness  --advance-->  watermark     --+
 *		  of partition 0                of partition 0   |     least of those
 *				...                         ...          +-->  that are not idle
 *		  of partition n  --advance-->  watermark     --+      = W of the view
 *
 * Each arrow can only move ahead, so it does not matter that greatest - delay
 * may go back (a percentile that has grown, ALTER with another rule), that a
 * partition is idle now and not a moment later, or that one is new.
 *
 * The sketch of lateness.  A row's lateness is how far it is behind the greatest
 * event time of the rows before it in its partition, in microseconds.  Counts of
 * these are kept in buckets whose width grows with their distance from 0: 128
 * for each doubling, so that the greatest value of a bucket is less than 1 %
 * above any other, and below 128 each value has its own (log-linear, as in HDR
 * Histogram).  It is that greatest value that we take: the share of rows that
 * are not late is at least the one that was asked for, also when many rows are
 * late by the very same time.
 *
 * Which rank?  Of n measured values, the k-th from below is one that the next row
 * stays within with probability k / (n + 1); so k is the least with k / (n + 1)
 * >= share.  Until there are enough rows for such a k (99 for p99) nothing is
 * known, and the watermark does not move.
 *
 * The sketch forgets: beyond a number of rows all counts are halved, so that it
 * follows a source that has changed.  One that became later is noticed at once,
 * one that became more punctual after some halvings.
 *
 * After a crash an older sketch does as well as the last one: what was concluded
 * from it is in the watermark, which is stored at each commit.  Hence
 * weir_lateness_is_due(), which keeps us from writing kilobytes five times a
 * second.
 *
 *-------------------------------------------------------------------------
 */
#include "window/watermark.h"

#include <math.h>

#include "common/int.h"
#include "port/pg_bitutils.h"
#include "port/pg_crc32c.h"
#include "utils/memutils.h"

#define LATENESS_VERSION 1

/* 128 buckets an octave; the first octave is 0 to 127, the last ends at 2^64. */
#define SUB_BITS 7
#define SUB_BUCKETS (1 << SUB_BITS)
#define OCTAVES (64 - SUB_BITS + 1)

/*
 * Rows after which the counts are halved: enough for the rank that the share asks
 * for to have about this many rows above it.
 */
#define MIN_MEMORY (1 << 16)
#define MAX_MEMORY (1 << 30)
#define ROWS_ABOVE 128

/*
 * Only octaves that were met have memory, half a kilobyte each: a stream that is
 * late by milliseconds to minutes has 16 of them.
 */
struct WeirLateness
{
	uint32		rows;			/* sum of the counts */
	uint32		unsaved;		/* rows that came since it was saved or loaded */
	uint32	   *octaves[OCTAVES];
};

/* ---- the sketch ---- */

static uint32 *
octave_of(WeirLateness *lateness, int octave)
{
	if (lateness->octaves[octave] == NULL)
		lateness->octaves[octave] =
			MemoryContextAllocZero(GetMemoryChunkContext(lateness),
								   SUB_BUCKETS * sizeof(uint32));
	return lateness->octaves[octave];
}

/* Counts a row that was late by so many microseconds. */
static inline void
count_late(WeirLateness *lateness, uint64 by)
{
	int			octave = 0;

	if (by >= SUB_BUCKETS)
		octave = pg_leftmost_one_pos64(by) - SUB_BITS + 1;
	if (octave > 1)
		by >>= octave - 1;
	octave_of(lateness, octave)[by % SUB_BUCKETS]++;
}

/* The greatest lateness that is counted there. */
static uint64
end_of_bucket(int octave, int sub)
{
	if (octave == 0)
		return sub;
	/* 2^64 wraps to 0, which is meant */
	return ((uint64) (SUB_BUCKETS + sub + 1) << (octave - 1)) - 1;
}

/*
 * Halves all counts.  Halved are the numbers of rows that are at least so late,
 * each rounded up, and the counts are what lies between those: counts of 1, which
 * is what the rare late rows have, neither all stay nor all go.
 */
static void
age(WeirLateness *lateness)
{
	uint32		tail = 0;
	uint32		half = 0;

	for (int octave = OCTAVES - 1; octave >= 0; octave--)
	{
		uint32	   *counts = lateness->octaves[octave];

		if (counts == NULL)
			continue;
		for (int sub = SUB_BUCKETS - 1; sub >= 0; sub--)
		{
			uint32		before = half;

			tail += counts[sub];
			half = tail / 2 + tail % 2;
			counts[sub] = half - before;
		}
	}
	lateness->rows = half;
}

/* How late a row may be for `share` of all rows not to be later; or false. */
static bool
lateness_at(const WeirLateness *lateness, double share, uint64 *by)
{
	double		rank = ceil(share * ((double) lateness->rows + 1));
	double		above;
	uint64		seen = 0;

	if (rank > lateness->rows)
		return false;
	/* from the end, where there is less */
	above = lateness->rows - rank;
	for (int octave = OCTAVES - 1; octave >= 0; octave--)
	{
		const uint32 *counts = lateness->octaves[octave];

		if (counts == NULL)
			continue;
		for (int sub = SUB_BUCKETS - 1; sub >= 0; sub--)
		{
			seen += counts[sub];
			if (seen > above)
			{
				*by = end_of_bucket(octave, sub);
				return true;
			}
		}
	}
	return false;
}

WeirLateness *
weir_lateness_create(void)
{
	return palloc0(sizeof(WeirLateness));
}

void
weir_lateness_merge(WeirLateness *into, const WeirLateness *from)
{
	for (int octave = 0; octave < OCTAVES; octave++)
	{
		uint32	   *counts;

		if (from->octaves[octave] == NULL)
			continue;
		counts = octave_of(into, octave);
		for (int sub = 0; sub < SUB_BUCKETS; sub++)
			counts[sub] += from->octaves[octave][sub];
	}
	into->rows += from->rows;
	into->unsaved += from->rows;
	/* both had MAX_MEMORY at most, so there is no overflow */
	if (into->rows > MAX_MEMORY)
		age(into);
}

/* ---- the sketch as bytes ---- */

/*
 *	byte		version
 *	uint32		CRC-32C of the version and of everything behind this
 *	numbers		of the buckets that are not empty, in order: how many lie between
 *				it and the one before, and its count
 *
 * Numbers have seven bits a byte, the lowest first; all but the last byte of one
 * have the highest bit set.
 */
#define LATENESS_HEADER (1 + sizeof(pg_crc32c))

static void
put_number(StringInfo out, uint32 number)
{
	for (; number >= 0x80; number >>= 7)
		appendStringInfoCharMacro(out, (char) (number | 0x80));
	appendStringInfoCharMacro(out, (char) number);
}

/* Returns the place behind, NULL when there is no such number. */
static const char *
get_number(const char *at, const char *end, uint32 *number)
{
	uint64		result = 0;

	for (int shift = 0; at < end && shift < 35; shift += 7)
	{
		unsigned char byte = (unsigned char) *at++;

		result |= (uint64) (byte & 0x7f) << shift;
		if (byte < 0x80)
		{
			*number = (uint32) result;
			return result > PG_UINT32_MAX ? NULL : at;
		}
	}
	return NULL;
}

static pg_crc32c
checksum(const char *bytes, Size len)
{
	pg_crc32c	crc;

	INIT_CRC32C(crc);
	COMP_CRC32C(crc, bytes, 1);
	COMP_CRC32C(crc, bytes + LATENESS_HEADER, len - LATENESS_HEADER);
	FIN_CRC32C(crc);
	return crc;
}

bool
weir_lateness_is_due(const WeirLateness *lateness)
{
	return lateness->unsaved > lateness->rows / 16;
}

void
weir_lateness_save(WeirLateness *lateness, StringInfo out)
{
	int			start = out->len;
	uint32		between = 0;
	pg_crc32c	crc = 0;

	appendStringInfoCharMacro(out, LATENESS_VERSION);
	appendBinaryStringInfo(out, (const char *) &crc, sizeof(crc));
	for (int octave = 0; octave < OCTAVES; octave++)
	{
		const uint32 *counts = lateness->octaves[octave];

		for (int sub = 0; sub < SUB_BUCKETS; sub++)
		{
			if (counts == NULL || counts[sub] == 0)
			{
				between++;
				continue;
			}
			put_number(out, between);
			put_number(out, counts[sub]);
			between = 0;
		}
	}
	crc = checksum(out->data + start, out->len - start);
	memcpy(out->data + start + 1, &crc, sizeof(crc));
	lateness->unsaved = 0;
}

weir_noreturn
static void
damaged(const char *what)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("the stored lateness of a partition is damaged"),
			 errdetail_internal("%s", what),
			 errhint("Run weir.rebuild on the view.")));
}

WeirLateness *
weir_lateness_load(const char *bytes, Size len)
{
	WeirLateness *lateness = weir_lateness_create();
	const char *at = bytes + LATENESS_HEADER;
	const char *end = bytes + len;
	uint64		bucket = 0;
	uint64		rows = 0;
	pg_crc32c	crc;

	if (len < LATENESS_HEADER)
		damaged("It is shorter than its header.");
	if (bytes[0] != LATENESS_VERSION)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("stored lateness has format %d, this pg_weir reads %d",
						(unsigned char) bytes[0], LATENESS_VERSION),
				 errhint("Install the version of pg_weir that wrote it, or run weir.rebuild on the view.")));
	memcpy(&crc, bytes + 1, sizeof(crc));
	if (crc != checksum(bytes, len))
		damaged("Its checksum does not match.");

	for (; at < end; bucket++)
	{
		uint32		between;
		uint32		count;

		if ((at = get_number(at, end, &between)) == NULL ||
			(at = get_number(at, end, &count)) == NULL)
			damaged("A number runs over its end.");
		bucket += between;
		rows += count;
		if (bucket >= OCTAVES * SUB_BUCKETS || rows > UINT64CONST(2) * MAX_MEMORY)
			damaged("A number is out of range.");
		octave_of(lateness, bucket / SUB_BUCKETS)[bucket % SUB_BUCKETS] = count;
	}
	lateness->rows = (uint32) rows;
	return lateness;
}

/* ---- a partition ---- */

/* The last time that is not too far ahead of now. */
static Timestamp
latest_allowed(const WeirWatermarkRule *rule, TimestampTz now)
{
	int64		latest;

	if (pg_add_s64_overflow(now, rule->max_future_skew, &latest) ||
		!IS_VALID_TIMESTAMP(latest))
		return END_TIMESTAMP - 1;
	return latest;
}

void
weir_event_time_begin(WeirEventTime *time, const WeirWatermarkRule *rule,
					  TimestampTz watermark, TimestampTz now)
{
	time->greatest = DT_NOBEGIN;
	time->watermark = watermark;
	time->lateness = NULL;
	time->active = now;
	time->idle = false;
}

/*
 * Goes once over the times, and again only where some are too far ahead.  This
 * loop costs less than a nanosecond a row.
 */
static int64
add_bounded(WeirEventTime *time, const Timestamp *times, int n,
			Timestamp latest)
{
	Timestamp	greatest = time->greatest;
	int64		ahead = 0;

	for (int i = 0; i < n; i++)
		greatest = Max(greatest, times[i]);
	if (greatest > latest)
	{
		greatest = time->greatest;
		for (int i = 0; i < n; i++)
		{
			if (times[i] > latest)
				ahead++;
			else
				greatest = Max(greatest, times[i]);
		}
	}
	time->greatest = greatest;
	return ahead;
}

static int64
add_measured(WeirEventTime *time, const Timestamp *times, int n,
			 Timestamp latest)
{
	WeirLateness *lateness = time->lateness;
	uint32	   *punctual = octave_of(lateness, 0);
	int64		ahead = 0;

	for (int i = 0; i < n; i++)
	{
		if (times[i] > latest)
		{
			ahead++;
			continue;
		}
		if (times[i] == DT_NOBEGIN)
			continue;
		if (times[i] >= time->greatest)
		{
			time->greatest = times[i];
			punctual[0]++;
		}
		else					/* may exceed what an int64 holds */
			count_late(lateness,
					   (uint64) time->greatest - (uint64) times[i]);
		lateness->rows++;
		lateness->unsaved++;
	}
	return ahead;
}

int64
weir_event_time_add(WeirEventTime *time, const WeirWatermarkRule *rule,
					const Timestamp *times, int n, TimestampTz now)
{
	Timestamp	latest = latest_allowed(rule, now);
	double		memory;
	int64		ahead;

	if (n > 0)
		time->active = now;
	if (rule->kind != WEIR_WATERMARK_PERCENTILE)
		return add_bounded(time, times, n, latest);

	if (time->lateness == NULL)
		time->lateness = weir_lateness_create();
	ahead = add_measured(time, times, n, latest);
	memory = ROWS_ABOVE / (1 - rule->share);
	memory = Min(Max(memory, MIN_MEMORY), MAX_MEMORY);
	while (time->lateness->rows > memory)
		age(time->lateness);
	return ahead;
}

void
weir_event_time_merge(WeirEventTime *time, TimestampTz greatest)
{
	if (greatest != DT_NOEND)
		time->greatest = Max(time->greatest, greatest);
}

void
weir_event_time_advance(WeirEventTime *time, const WeirWatermarkRule *rule)
{
	uint64		delay = (uint64) rule->delay;

	if (rule->kind == WEIR_WATERMARK_NONE || time->greatest == DT_NOBEGIN)
		return;
	if (rule->kind == WEIR_WATERMARK_PERCENTILE &&
		(time->lateness == NULL ||
		 !lateness_at(time->lateness, rule->share, &delay)))
		return;

	/* what would come before all times says nothing */
	if (delay <= (uint64) time->greatest - (uint64) MIN_TIMESTAMP)
		time->watermark = Max(time->watermark,
							  (int64) ((uint64) time->greatest - delay));
}

/* ---- a view ---- */

/* When a partition is idle if no row comes until then. */
static TimestampTz
idle_from(WeirEventTime *time, const WeirWatermarkRule *rule, TimestampTz now)
{
	int64		from;

	/* a clock that was set back does not make it silent for longer */
	time->active = Min(time->active, now);
	if (rule->idle_timeout < 0 ||
		pg_add_s64_overflow(time->active, rule->idle_timeout, &from))
		return DT_NOEND;
	return from;
}

TimestampTz
weir_view_watermark(WeirEventTime **times, const bool *at_end, int n,
					const WeirWatermarkRule *rule,
					TimestampTz before, TimestampTz now,
					int *held_by, TimestampTz *next_idle)
{
	TimestampTz least = DT_NOEND;
	TimestampTz greatest = before;
	int			last = -1;

	*held_by = -1;
	*next_idle = DT_NOEND;
	if (rule->kind == WEIR_WATERMARK_NONE)
		return before;
	for (int i = 0; i < n; i++)
	{
		TimestampTz from = DT_NOEND;

		if (at_end[i])
			from = idle_from(times[i], rule, now);
		times[i]->idle = from <= now;
		greatest = Max(greatest, times[i]->watermark);
		if (times[i]->idle)
			continue;
		*next_idle = Min(*next_idle, from);
		if (last < 0 || times[i]->watermark < least)
		{
			least = times[i]->watermark;
			last = i;
		}
	}
	if (last < 0)
		return greatest;		/* all are idle */
	if (least < greatest)
		*held_by = last;
	return Max(before, least);
}
