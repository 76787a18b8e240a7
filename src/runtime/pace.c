/*-------------------------------------------------------------------------
 *
 * pace.c
 *	  How often a view commits.
 *
 * Receives how long commits took, how many rows they wrote, and where the vacuum
 * horizon is.  Hands on when a view is due.  That is weir.commit_interval after
 * the beginning of its last commit, but for two things that make it longer:
 *
 * Commits fall behind.  A worker reads nothing while it commits.  If a commit
 * takes longer than the interval, the next one would be due as it ends, and the
 * worker would do nothing else, each time for the few rows that it read in
 * between.  So after a commit it does other things for at least as long as
 * that took: at most half of the time goes into commits, and what comes meanwhile
 * is written together.
 *
 * The vacuum horizon is held.  A commit leaves an old version of each row that it
 * changes.  They are taken away when the next version needs the room (tidy.c),
 * unless a snapshot, a prepared transaction or a slot that is older than the commit
 * may still want to see them.  Then v and its states grow: 10,000 groups written
 * each 10 ms by twenty times their size every two seconds, and with their indexes,
 * and readers wade through them.  What is left behind is counted from a mark:
 *
 *		mark the next xid --> look, a second later:
 *			^					is the horizon beyond the mark?
 *			'-- yes: what was left by then can go ----'
 *				no:  the horizon has been held since the mark at least
 *
 * Beyond three times the live rows each further one of them adds STEP to the
 * interval, but never more than a fourth of the time for which the horizon has been
 * held, nor more than LONGEST: a query of ten seconds makes nobody wait for more than
 * two and a half.  As commits become rarer, the growth slows down; and all is as
 * it was as soon as the horizon has moved on.
 *
 * It is what is left behind that counts, not the size of a table, which does not
 * become less when the horizon moves, and would call a table bloated for ever that
 * once was.
 *
 * What is said: weir_data.status.detail and hint, without an SQLSTATE, which is no
 * stall, in a transaction of its own when it changes; a line in the log when it
 * begins to last, and one when it is over.
 *
 * What is not done: making commits less durable, or the worker idle.  A view that
 * somebody waits for commits at once (waits.c).
 *
 *-------------------------------------------------------------------------
 */
#include "runtime/members.h"

#include "access/relation.h"
#include "access/transam.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "storage/lmgr.h"
#include "storage/procarray.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#define LOOK_EVERY		USECS_PER_SEC

/* From the first row that a view has read to its first commit, at most. */
#define FIRST_INTERVAL	(USECS_PER_SEC / 5)

/* The longest interval that a held horizon can cause. */
#define LONGEST			(5 * USECS_PER_SEC)

/* Dead versions, in live rows: so much is nobody's concern. */
#define MOST_LEFT_BEHIND 3

/* For each more. */
#define STEP			(USECS_PER_SEC / 10)

/* A view of fewer groups counts as one of so many: a megabyte or two. */
#define FEW_GROUPS		10000

/* A snapshot that is held for so long is what any query does. */
#define SHORT_HOLD		(2 * USECS_PER_SEC)

/*
 * Commits are called slow, and no longer, when so many looks in succession agree.
 * If there was none for that long, they are not.
 */
#define LOOKS_TO_AGREE	3
#define FORGET_AFTER	(10 * USECS_PER_SEC)

/* What is over sooner is not worth a line in the log. */
#define LOG_AFTER		(10 * USECS_PER_SEC)

/* Of this worker's commits; microseconds. */
static int64 last_took = 0;
static int64 usually_takes = 0;
static TimestampTz last_ended = 0;

static TimestampTz next_look = 0;
static TransactionId mark = InvalidTransactionId;
static TimestampTz marked = 0;	/* by weir_now() */

/* ---------------------------------------------------------------- when */

/*
 * What other things get between two commits.  One slow commit among many that are
 * quick (a disk that hiccups) makes the next wait for a fourth of it only.
 */
static int64
pause_between(void)
{
	return Min(last_took, usually_takes);
}

void
weir_pace_committed(TimestampTz begun, TimestampTz ended)
{
	last_took = Max(ended - begun, 0);
	usually_takes += (last_took - usually_takes) / 4;
	last_ended = ended;
}

void
weir_pace_wrote(WeirRun *run, int64 groups)
{
	/* and its status and positions, which count for a view of few groups */
	run->pace.left_behind += groups + 1;
	run->pace.hurry = false;
}

int64
weir_pace_interval(const WeirRun *run)
{
	int64		interval = Max(run->def->options.commit_interval,
							   run->pace.interval);

	return Max(interval, 2 * pause_between());
}

TimestampTz
weir_pace_due(WeirRun *run)
{
	int64		interval = run->def->options.commit_interval;
	TimestampTz due;

	if (!run->pace.hurry)
		interval = Max(interval, run->pace.interval);
	/* a commit that a lock kept off is tried again an interval later */
	if (!run->blocked)
		interval = Max(interval - run->commit_us, 0);
	if (run->last_commit == 0)
	{
		/* that its rows have moved is no news to mix with others */
		if (run->rewrite)
			return 0;
		/* what stalled for the sake of one row may be mended by those behind it */
		if (run->pace.begun == 0)
			run->pace.begun = GetCurrentTimestamp();
		return weir_time_add(run->pace.begun, Min(interval, FIRST_INTERVAL));
	}
	due = weir_time_add(run->last_commit, interval);
	return Max(due, last_ended + pause_between());
}

bool
weir_pace_is_slow(const WeirRun *run)
{
	return run->pace.reason != WEIR_PACE_AS_TOLD;
}

/* ---------------------------------------------------------------- why */

/*
 * Where the vacuum horizon of this database is; invalid if the table by which we ask
 * is locked.  In a transaction.  All tables that are no catalogs have the same one.
 */
static TransactionId
horizon_of(Oid table)
{
	Relation	rel;
	TransactionId horizon;

	if (!ConditionalLockRelationOid(table, AccessShareLock))
		return InvalidTransactionId;
	rel = try_relation_open(table, NoLock);
	if (rel == NULL)
		return InvalidTransactionId;
	horizon = GetOldestNonRemovableTransactionId(rel);
	relation_close(rel, AccessShareLock);
	return horizon;
}

/* Where what is left behind begins to count anew. */
static void
set_mark(WeirWorker *worker)
{
	ListCell   *cell;

	mark = ReadNextTransactionId();
	marked = weir_now();
	foreach(cell, worker->members)
	{
		WeirRun    *run = ((WeirMember *) lfirst(cell))->run;

		if (run != NULL)
			run->pace.left_behind = 0;
	}
}

/* What a horizon that has been held for so long asks of a view. */
static int64
interval_under(const WeirRun *run, int64 held)
{
	int64		live = Max((int64) weir_group_table_count(run->table) +
						   weir_evicted_count(run->evicted), FEW_GROUPS);
	double		excess = (double) run->pace.left_behind / (double) live -
	MOST_LEFT_BEHIND;

	if (held < SHORT_HOLD || excess <= 0)
		return 0;
	return Min((int64) Min(excess * STEP, (double) LONGEST), held / 4);
}

static bool
commits_are_slow(const WeirRun *run)
{
	int64		interval = Max(run->def->options.commit_interval,
							   run->pace.interval);

	return GetCurrentTimestamp() - last_ended < FORGET_AFTER &&
		2 * pause_between() > interval;
}

static WeirPaceReason
reason_of(WeirRun *run)
{
	WeirPace   *pace = &run->pace;

	if (commits_are_slow(run))
		pace->slow = Min(Max(pace->slow, 0) + 1, LOOKS_TO_AGREE);
	else
		pace->slow = Max(Min(pace->slow, 0) - 1, -LOOKS_TO_AGREE);
	if (pace->interval > run->def->options.commit_interval &&
		pace->interval >= 2 * pause_between())
		return WEIR_PACE_HORIZON;
	if (pace->slow == LOOKS_TO_AGREE ||
		(pace->reason == WEIR_PACE_COMMITS && pace->slow > -LOOKS_TO_AGREE))
		return WEIR_PACE_COMMITS;
	return WEIR_PACE_AS_TOLD;
}

/* ---------------------------------------------------------------- saying so */

/* Rounded, so that what is said changes when there is something to say. */
static char *
interval_text(int64 us)
{
	int			ms = (int) (us / 1000);

	if (ms < 100)
		return psprintf("%d ms", ms);
	if (ms < 1000)
		return psprintf("%d ms", (ms + 49) / 50 * 50);
	return psprintf("%d.%d s", (ms + 50) / 1000, (ms + 50) / 100 % 10);
}

/*
 * Who has the horizon where it is?  Whoever has taken a snapshot since a transaction
 * began that still runs has the same, so that one goes first.  In a transaction,
 * with a snapshot.
 */
static char *
holder_of(TransactionId horizon)
{
	MemoryContext caller = CurrentMemoryContext;
	Oid			types[] = {XIDOID};
	Datum		values[] = {TransactionIdGetDatum(horizon)};
	char	   *holder = NULL;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (SPI_execute_with_args("SELECT who FROM ("
							  "SELECT pg_catalog.format('prepared transaction %s', gid), 1, prepared"
							  " FROM pg_catalog.pg_prepared_xacts"
							  " WHERE transaction OPERATOR(pg_catalog.=) $1"
							  " UNION ALL SELECT pg_catalog.format('replication slot %s', slot_name), 2, NULL"
							  " FROM pg_catalog.pg_replication_slots"
							  " WHERE xmin OPERATOR(pg_catalog.=) $1"
							  " UNION ALL SELECT pg_catalog.format('process %s (%s)', pid, backend_type),"
							  " CASE WHEN backend_xid OPERATOR(pg_catalog.=) $1 THEN 1 ELSE 3 END, xact_start"
							  " FROM pg_catalog.pg_stat_activity"
							  " WHERE (backend_xmin OPERATOR(pg_catalog.=) $1 OR backend_xid OPERATOR(pg_catalog.=) $1)"
							  " AND pid OPERATOR(pg_catalog.<>) pg_catalog.pg_backend_pid()"
							  ") h (who, rank, began) ORDER BY rank, began LIMIT 1",
							  1, types, values, NULL, true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read who holds the vacuum horizon");
	if (SPI_processed == 1)
		holder = MemoryContextStrdup(caller,
									 SPI_getvalue(SPI_tuptable->vals[0],
												  SPI_tuptable->tupdesc, 1));
	SPI_finish();
	return holder ? holder : "something";
}

/* What weir.views shows of it, NULL if nothing. */
static char *
detail_of(const WeirRun *run, TransactionId horizon)
{
	char	   *now = interval_text(weir_pace_interval(run));
	char	   *told = interval_text(run->def->options.commit_interval);

	switch (run->pace.reason)
	{
		case WEIR_PACE_COMMITS:
			return psprintf("commits every %s instead of every %s, because each takes %s",
							now, told, interval_text(pause_between()));
		case WEIR_PACE_HORIZON:
			return psprintf("commits every %s instead of every %s, because old versions of its rows cannot be removed: "
							"%s has held the vacuum horizon at transaction %u since %s",
							now, told, holder_of(horizon), horizon,
							timestamptz_to_str(marked));
		case WEIR_PACE_AS_TOLD:
			break;
	}
	return NULL;
}

static const char *
hint_of(WeirPaceReason reason)
{
	switch (reason)
	{
		case WEIR_PACE_COMMITS:
			return "Raise weir.commit_interval, or see what makes writing slow: the disk, indexes on the view, how many groups change.";
		case WEIR_PACE_HORIZON:
			return "End what holds it, or let it go on: the view is right, but less fresh.";
		case WEIR_PACE_AS_TOLD:
			break;
	}
	return NULL;
}

/* A stall has the same columns, and goes before. */
static void
record(const char *view_id, const char *detail, const char *hint)
{
	Oid			types[] = {TEXTOID, TEXTOID, TEXTOID};
	Datum		values[3] = {CStringGetTextDatum(view_id)};
	char		nulls[] = " nn";

	if (detail != NULL)
	{
		values[1] = CStringGetTextDatum(detail);
		values[2] = CStringGetTextDatum(hint);
		nulls[1] = nulls[2] = ' ';
	}
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (SPI_execute_with_args("UPDATE weir_data.status SET detail = $2, hint = $3"
							  " WHERE view_id OPERATOR(pg_catalog.=) $1 AND sqlstate IS NULL"
							  " AND detail IS DISTINCT FROM $2",
							  3, types, values, nulls, false, 0) < 0)
		elog(ERROR, "could not record the pace of a view");
	SPI_finish();
}

static void
say(WeirRun *run, TransactionId horizon)
{
	WeirPace   *pace = &run->pace;
	char	   *detail = detail_of(run, horizon);

	record(run->def->id, detail, hint_of(pace->reason));
	pace->recorded = true;
	if (detail == NULL && pace->logged)
	{
		ereport(LOG,
				(errmsg("continuous view \"%s\" commits every %s again",
						run->def->name,
						interval_text(run->def->options.commit_interval))));
		pace->logged = false;
	}
	else if (detail != NULL && !pace->logged &&
			 weir_now() - pace->since >= LOG_AFTER)
	{
		ereport(LOG,
				(errmsg("continuous view \"%s\" commits less often than weir.commit_interval says",
						run->def->name),
				 errdetail_internal("It %s.", detail),
				 errhint("%s", hint_of(pace->reason))));
		pace->logged = true;
	}
}

/* ---------------------------------------------------------------- looking */

static void
set_pace(WeirRun *run, int64 held, TransactionId horizon)
{
	WeirPace   *pace = &run->pace;
	WeirPaceReason before = pace->reason;

	pace->interval = interval_under(run, held);
	pace->reason = reason_of(run);
	if (before == WEIR_PACE_AS_TOLD)
		pace->since = weir_now();
	if (pace->reason != WEIR_PACE_AS_TOLD || before != WEIR_PACE_AS_TOLD ||
		!pace->recorded)
		say(run, horizon);
}

static bool
is_of_interest(WeirRun *run)
{
	return run != NULL && (weir_run_has_news(run) || weir_pace_is_slow(run) ||
						   !run->pace.recorded);
}

/* In a transaction. */
static void
look(WeirWorker *worker, Oid table)
{
	TransactionId horizon = horizon_of(table);
	ListCell   *cell;
	int64		held;

	if (!TransactionIdIsValid(horizon))
		return;
	if (!TransactionIdIsValid(mark) ||
		TransactionIdFollowsOrEquals(horizon, mark))
		set_mark(worker);
	held = weir_now() - marked;
	foreach(cell, worker->members)
	{
		WeirRun    *run = ((WeirMember *) lfirst(cell))->run;

		if (is_of_interest(run))
			set_pace(run, held, horizon);
	}
}

void
weir_pace_look(WeirWorker *worker)
{
	MemoryContext caller = CurrentMemoryContext;
	TimestampTz now = GetCurrentTimestamp();
	Oid			table = InvalidOid;
	ListCell   *cell;

	if (now < next_look)
		return;
	foreach(cell, worker->members)
	{
		WeirRun    *run = ((WeirMember *) lfirst(cell))->run;

		if (is_of_interest(run))
			table = run->def->state_table;
	}
	if (!OidIsValid(table))
		return;
	next_look = now + LOOK_EVERY;
	PG_TRY();
	{
		StartTransactionCommand();
		PushActiveSnapshot(GetTransactionSnapshot());
		look(worker, table);
		PopActiveSnapshot();
		CommitTransactionCommand();
		MemoryContextSwitchTo(caller);
	}
	PG_CATCH();
	{
		ErrorData  *error = weir_catch(caller);

		/* it is tried again; commits go on at the pace that they have */
		if (error->sqlerrcode != ERRCODE_LOCK_NOT_AVAILABLE)
			ereport(LOG,
					(errmsg("could not see to the pace of commits: %s",
							error->message)));
	}
	PG_END_TRY();
}

TimestampTz
weir_pace_next_look(const WeirWorker *worker)
{
	ListCell   *cell;

	foreach(cell, worker->members)
	{
		WeirRun    *run = ((WeirMember *) lfirst(cell))->run;

		if (run != NULL && weir_pace_is_slow(run))
			return next_look;
	}
	return DT_NOEND;
}
