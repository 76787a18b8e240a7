/*-------------------------------------------------------------------------
 *
 * fault_point.c
 *	  Named places where a test build fails on demand, and its clock.
 *
 * weir.fault = 'name:action:n' acts when the named point is reached for the n-th
 * time in a process since it was set: `error` raises, `kill9` kills the process, `crash` kills
 * the whole server as a power failure would look to it, `sleep` waits a second,
 * `enospc` raises disk full.  n = 0: each time.  Several faults are separated by commas.  None of
 * this exists in a production build.
 *
 *-------------------------------------------------------------------------
 */
#include "weir.h"

#ifdef WEIR_TEST

#include <signal.h>
#include <unistd.h>

#include "fmgr.h"
#include "miscadmin.h"
#include "runtime/shared.h"
#include "utils/guc.h"
#include "utils/timestamp.h"

static char *fault_setting = NULL;
int			weir_test_backoff = INT_MAX;
int			weir_test_groups = 0;

/* How often each point was reached by this process. */
#define MAX_POINTS 64
static struct
{
	char		name[64];
	int			hits;
}			points[MAX_POINTS];

/* Another setting counts anew. */
static void
forget_hits(const char *value, void *extra)
{
	memset(points, 0, sizeof(points));
}

void
weir_define_test_settings(void)
{
	DefineCustomStringVariable("weir.fault",
							   "Fault points to trigger (test builds only).",
							   NULL, &fault_setting, "",
							   PGC_SIGHUP, 0, NULL, forget_hits, NULL);
	DefineCustomIntVariable("weir.test_backoff",
							"The longest pause before what failed is tried again (test builds only).",
							NULL, &weir_test_backoff, INT_MAX, 0, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("weir.test_groups",
							"Groups of a view that are kept in memory, -1 for none, 0 for all that fit (test builds only).",
							NULL, &weir_test_groups, 0, -1, INT_MAX,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
}

static int
hit(const char *name)
{
	for (int i = 0; i < MAX_POINTS; i++)
	{
		if (points[i].name[0] == '\0')
			strlcpy(points[i].name, name, sizeof(points[i].name));
		if (strcmp(points[i].name, name) == 0)
			return ++points[i].hits;
	}
	return 0;
}

static void
act(const char *name, const char *action)
{
	elog(LOG, "fault point %s: %s", name, action);
	if (strcmp(action, "kill9") == 0)
		kill(MyProcPid, SIGKILL);
	else if (strcmp(action, "crash") == 0)
	{
		kill(PostmasterPid, SIGKILL);
		kill(MyProcPid, SIGKILL);
	}
	else if (strcmp(action, "sleep") == 0)
		pg_usleep(1000000L);
	else if (strcmp(action, "enospc") == 0)
		ereport(ERROR,
				(errcode(ERRCODE_DISK_FULL),
				 errmsg("no space left on device (fault point %s)", name)));
	else
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("fault point %s", name)));
}

void
weir_fault_point(const char *name)
{
	char	   *copy;
	char	   *save = NULL;
	int			hits;

	if (fault_setting == NULL || fault_setting[0] == '\0')
		return;
	hits = hit(name);
	copy = pstrdup(fault_setting);
	for (char *item = strtok_r(copy, ",", &save); item != NULL;
		 item = strtok_r(NULL, ",", &save))
	{
		char		point[64];
		char		action[16];
		int			n;

		if (sscanf(item, " %63[^:]:%15[^:]:%d", point, action, &n) == 3 &&
			strcmp(point, name) == 0 && (n == 0 || n == hits))
			act(name, action);
	}
	pfree(copy);
}

PG_FUNCTION_INFO_V1(weir_test_shift_clock);

/* Moves the clock of pg_weir by an interval. */
Datum
weir_test_shift_clock(PG_FUNCTION_ARGS)
{
	Interval   *by = PG_GETARG_INTERVAL_P(0);

	if (!superuser())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("only a superuser moves the clock")));
	pg_atomic_fetch_add_u64(&weir_shared->clock_shift,
							by->time + (int64) by->day * USECS_PER_DAY);
	PG_RETURN_VOID();
}

#endif							/* WEIR_TEST */
