/*-------------------------------------------------------------------------
 *
 * calendar.c
 *	  Days and months as the clock on the wall of a time zone counts them.
 *
 * Receives local times and counts from window.c and answers with local times
 * and instants.  Knows zones, and nothing of windows.
 *
 * The question that matters here is when a local day begins, and the answer
 * of Postgres' AT TIME ZONE is not the right one for windows.  Clocks skip and
 * repeat, and some do it at midnight:
 *
 *	   America/Sao_Paulo, spring	23:59 -> 01:00		no midnight
 *	   Atlantic/Azores, autumn		00:59 -> 00:00		two midnights
 *	   Pacific/Apia, end of 2011	29th -> 31st		no day at all
 *
 * On the Azores AT TIME ZONE takes the second midnight.  With that for an edge
 * the bad thing goes like this:
 *
 *	   1. a row comes at 00:30, by the clock, for the first time that night
 *	   2. its date is Sunday, so it goes to the window of Sunday
 *	   3. the window of Sunday begins at the second 00:00, in half an hour
 *	   4. the row is in a window that does not hold it, and the window of
 *		  Saturday, which does, ends late: an hour of Sunday is Saturday's
 *
 * So an edge is *the first instant at which the clock shows that time or a
 * later one*.  Seen as a function of the local time this never decreases, since
 * what shows a later time also shows an earlier time "or later".  Edges are
 * therefore in order however clocks behave, and windows between neighbouring
 * edges tile the axis of time.  A day that begins by a skip begins at the skip,
 * a day that begins twice begins the first time and has its 25 hours, and a
 * day that does not exist is an empty window that no row can be in.
 *
 * Where the two definitions differ, ours agrees with the local date of the
 * row: for every zone whose clock does not go back past midnight itself,
 * (ts AT TIME ZONE zone)::date is constant in a window of a day.
 *
 *-------------------------------------------------------------------------
 */
#include "window/calendar.h"

#include "common/int.h"
#include "utils/datetime.h"
#include "utils/timestamp.h"

#define EPOCH_SHIFT \
	((int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * SECS_PER_DAY)

/*
 * No zone is further from UTC: Manila was at -15:56 until 1844, Alaska at
 * +15:02 until 1867, and POSIX names allow for less than 25 hours (24:59:59).
 */
#define MAX_OFFSET_SECS (25 * SECS_PER_HOUR)

static bool split_local(Timestamp local, int *julian, int64 *time_of_day);

/*
 * Only names of zones, not abbreviations as in AT TIME ZONE: what those mean
 * depends on the setting timezone_abbreviations, and a window function is
 * immutable.  'CET' is the zone of that name, with summer time.
 */
pg_tz *
weir_zone(const char *name)
{
	pg_tz	   *zone = NULL;

	/* pg_tzset() is not meant for what does not fit its buffers */
	if (strlen(name) <= TZ_STRLEN_MAX)
		zone = pg_tzset(name);
	if (zone == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("time zone \"%s\" not recognized", name),
				 errhint("Use a full name, such as 'Europe/Paris'; they are listed in pg_timezone_names.")));
	if (!pg_tz_acceptable(zone))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("time zone \"%s\" appears to use leap seconds", name),
				 errdetail("PostgreSQL does not support leap seconds."),
				 errhint("Use the zone of the same name without \"right/\".")));
	return zone;
}

bool
weir_zone_is_fixed(pg_tz *zone, int64 *offset)
{
	long int	seconds = 0;

	if (zone != NULL && !pg_get_timezone_offset(zone, &seconds))
		return false;
	*offset = (int64) seconds * USECS_PER_SEC;
	return true;
}

/*
 * ts must be finite.  The result may be outside the range of timestamps by as
 * much as the zone is from UTC.
 */
Timestamp
weir_local_time(Timestamp ts, pg_tz *zone)
{
	pg_time_t	seconds;
	struct pg_tm *tm;

	if (zone == NULL)
		return ts;
	seconds = weir_floor_div(ts, USECS_PER_SEC) + EPOCH_SHIFT;
	tm = pg_localtime(&seconds, zone);
	return tm == NULL ? ts : ts + (int64) tm->tm_gmtoff * USECS_PER_SEC;
}

/*
 * The first instant at which the clock of the zone shows `local` or a later
 * time.  Between two changes of the clock its offset is constant, so we walk
 * over these stretches, beginning where no clock can have got that far; the
 * answer is in one of the first, at most a few steps on.
 *
 * Returns false if no such instant is a valid timestamp.
 */
bool
weir_first_instant(Timestamp local, pg_tz *zone, Timestamp *ts)
{
	int64		micros;			/* of local, below the second */
	pg_time_t	wanted;			/* local, in seconds, unix epoch */
	pg_time_t	start;			/* of the stretch */

	if (zone == NULL)
	{
		*ts = local;
		return IS_VALID_TIMESTAMP(local);
	}

	/* far outside there is no instant, and the sums below could overflow */
	if (local < MIN_TIMESTAMP - 2 * USECS_PER_DAY ||
		local > END_TIMESTAMP + 2 * USECS_PER_DAY)
		return false;

	wanted = weir_floor_div(local, USECS_PER_SEC);
	micros = local - wanted * USECS_PER_SEC;
	wanted += EPOCH_SHIFT;
	start = wanted - MAX_OFFSET_SECS;

	for (;;)
	{
		long int	offset;
		long int	next_offset;
		int			isdst;
		int			next_isdst;
		pg_time_t	end;
		pg_time_t	found;
		int			more;

		more = pg_next_dst_boundary(&start, &offset, &isdst, &end,
									&next_offset, &next_isdst, zone);
		if (more < 0)
			return false;

		/*
		 * Changes fall on whole seconds, so the fraction matters only where
		 * the clock has already passed the wanted time when the stretch
		 * begins: then it is the beginning, without a fraction.
		 */
		found = wanted - offset;
		if (more == 0 || found < end)
		{
			if (found < start)
			{
				found = start;
				micros = 0;
			}
			*ts = (found - EPOCH_SHIFT) * USECS_PER_SEC + micros;
			return IS_VALID_TIMESTAMP(*ts);
		}
		start = end;
	}
}

/* local + days at the same time of day. */
bool
weir_add_days(Timestamp local, int64 days, Timestamp *result)
{
	int64		micros;

	return !pg_mul_s64_overflow(days, USECS_PER_DAY, &micros) &&
		!pg_add_s64_overflow(local, micros, result);
}

/*
 * local + months at the same time of day; where the month has no such day, the
 * last day that it has.  Always from `local` itself: going on from a clamped
 * result would turn "the 31st" into "the 28th" for ever.
 */
bool
weir_add_months(Timestamp local, int64 months, Timestamp *result)
{
	int			julian;
	int64		time_of_day;
	int			year;
	int			month;
	int			day;
	int64		count;
	int64		new_year;
	int			new_month;

	if (!split_local(local, &julian, &time_of_day))
		return false;
	j2date(julian, &year, &month, &day);

	if (pg_add_s64_overflow((int64) year * MONTHS_PER_YEAR + month - 1,
							months, &count))
		return false;
	new_year = weir_floor_div(count, MONTHS_PER_YEAR);
	new_month = (int) (count - new_year * MONTHS_PER_YEAR) + 1;
	if (new_year < JULIAN_MINYEAR || new_year > JULIAN_MAXYEAR)
		return false;
	year = (int) new_year;
	day = Min(day, day_tab[isleap(year)][new_month - 1]);
	if (!IS_VALID_JULIAN(year, new_month, day))
		return false;

	return weir_add_days(time_of_day,
						 (int64) date2j(year, new_month, day) - POSTGRES_EPOCH_JDATE,
						 result);
}

/* How many times 24 hours, rounded down. */
bool
weir_days_between(Timestamp from, Timestamp to, int64 *days)
{
	int64		micros;

	if (pg_sub_s64_overflow(to, from, &micros))
		return false;
	*days = weir_floor_div(micros, USECS_PER_DAY);
	return true;
}

/* How many months by their names: from 31 January to 1 February it is one. */
bool
weir_months_between(Timestamp from, Timestamp to, int64 *months)
{
	int			julian;
	int64		time_of_day;
	int			year;
	int			month;
	int			day;

	if (!split_local(to, &julian, &time_of_day))
		return false;
	j2date(julian, &year, &month, &day);
	*months = (int64) year * MONTHS_PER_YEAR + month;

	if (!split_local(from, &julian, &time_of_day))
		return false;
	j2date(julian, &year, &month, &day);
	*months -= (int64) year * MONTHS_PER_YEAR + month;
	return true;
}

/*
 * Julian day and time since its midnight.  False before Julian day 0, where
 * j2date() does not go.
 */
static bool
split_local(Timestamp local, int *julian, int64 *time_of_day)
{
	int64		days = weir_floor_div(local, USECS_PER_DAY);

	*time_of_day = local - days * USECS_PER_DAY;
	days += POSTGRES_EPOCH_JDATE;
	if (days < 0 || days > PG_INT32_MAX)
		return false;
	*julian = (int) days;
	return true;
}
