/*-------------------------------------------------------------------------
 *
 * expire.c
 *	  What is kept for a while only: rows of changelogs by their age, dead letters
 *	  and late rows by their number.
 *
 * Runs in the worker, after its commits, in transactions of its own.  What is due
 * goes in portions, the oldest first, a portion a turn, so that a view whose every
 * message is bad does not fill the disk, and the others do not wait.  What is
 * counted, stays counted.  An error is nobody's: it is tried again.
 *
 * How many dead letters and late rows a view has is counted once it is opened, and
 * from then on known by what it has added.  Their owner may have deleted some:
 * before anything goes they are counted again, and so that this is seldom, a tenth
 * more than the limit is borne with.
 *
 *-------------------------------------------------------------------------
 */
#include "runtime/change_feed.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "replication/origin.h"
#include "runtime/watchdog.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#define PORTION 10000
#define LOOK_EVERY (10 * USECS_PER_SEC)

static bool
is_too_many(int64 stored, int limit)
{
	return limit >= 0 && (stored < 0 || stored > limit + (int64) limit / 10);
}

static bool
has_changelog(const WeirRun *run)
{
	return run->def->options.changelog_retention >= 0 &&
		OidIsValid(run->def->changelog);
}

void
weir_expiry_count(WeirRun *run)
{
	if (run->letters_stored >= 0)
		run->letters_stored += weir_kept_letters(run);
	if (run->late_stored >= 0)
		run->late_stored += weir_kept_late_rows(run);
}

TimestampTz
weir_expiry_due(const WeirRun *run)
{
	return has_changelog(run) ||
		is_too_many(run->letters_stored, weir_max_dead_letters) ||
		is_too_many(run->late_stored, weir_max_late_rows) ?
		run->next_expiry : DT_NOEND;
}

/* Returns how many rows went. */
static int64
expire_changelog(WeirRun *run)
{
	TimestampTz before = weir_time_add(weir_now(),
									   -run->def->options.changelog_retention);
	WeirOwnerScope scope;
	int64		n;

	weir_owner_begin(&scope, run->def->owner);
	n = weir_changelog_expire(run->def->changelog, before, PORTION);
	weir_owner_end(&scope);
	return n;
}

static int64
count_kept(const char *table, const WeirRun *run)
{
	Oid			types[] = {TEXTOID};
	Datum		values[] = {CStringGetTextDatum(run->def->id)};
	bool		isnull;

	if (SPI_execute_with_args(psprintf("SELECT pg_catalog.count(*) FROM weir_data.%s"
									   " WHERE view_id OPERATOR(pg_catalog.=) $1",
									   table),
							  1, types, values, NULL, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not count rows of %s", table);
	return DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0],
									   SPI_tuptable->tupdesc, 1, &isnull));
}

static int64
delete_oldest(const char *table, const WeirRun *run, int64 most)
{
	Oid			types[] = {TEXTOID, INT8OID};
	Datum		values[] = {CStringGetTextDatum(run->def->id),
	Int64GetDatum(most)};

	if (SPI_execute_with_args(psprintf("DELETE FROM weir_data.%s"
									   " WHERE ctid OPERATOR(pg_catalog.=) ANY (ARRAY("
									   "SELECT ctid FROM weir_data.%s"
									   " WHERE view_id OPERATOR(pg_catalog.=) $1"
									   " ORDER BY at LIMIT $2))", table, table),
							  2, types, values, NULL, false, 0) != SPI_OK_DELETE)
		elog(ERROR, "could not delete rows of %s", table);
	return (int64) SPI_processed;
}

static int64
trim(WeirRun *run, const char *table, int limit, int64 *stored)
{
	int64		deleted = 0;
	int64		n;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	n = count_kept(table, run);
	if (is_too_many(n, limit))
	{
		/* logical decoding may pass over it, as over all that we write here */
		replorigin_session_origin = DoNotReplicateId;
		deleted = delete_oldest(table, run, Min(n - limit, PORTION));
		replorigin_session_origin = InvalidRepOriginId;
	}
	SPI_finish();
	*stored = n - deleted;
	return deleted;
}

/* The n-th kind, if it is due; returns how many rows went. */
static int64
expire_kind(WeirRun *run, int kind)
{
	switch (kind)
	{
		case 0:
			return has_changelog(run) ? expire_changelog(run) : 0;
		case 1:
			return is_too_many(run->letters_stored, weir_max_dead_letters) ?
				trim(run, "dead_letters", weir_max_dead_letters,
					 &run->letters_stored) : 0;
		default:
			return is_too_many(run->late_stored, weir_max_late_rows) ?
				trim(run, "late_rows", weir_max_late_rows,
					 &run->late_stored) : 0;
	}
}

static int64
expire_kind_safely(WeirRun *run, int kind)
{
	MemoryContext caller = CurrentMemoryContext;
	volatile int64 n = 0;

	PG_TRY();
	{
		StartTransactionCommand();
		PushActiveSnapshot(GetTransactionSnapshot());
		n = expire_kind(run, kind);
		PopActiveSnapshot();
		CommitTransactionCommand();
		MemoryContextSwitchTo(caller);
	}
	PG_CATCH();
	{
		ErrorData  *error = weir_catch(caller);

		replorigin_session_origin = InvalidRepOriginId;
		if (error->sqlerrcode != ERRCODE_LOCK_NOT_AVAILABLE &&
			error->sqlerrcode != ERRCODE_UNDEFINED_TABLE)
			ereport(LOG,
					(errcode(error->sqlerrcode),
					 errmsg("could not delete old rows that are kept for \"%s\": %s",
							run->def->name, error->message)));
		n = 0;
	}
	PG_END_TRY();
	return n;
}

static void
expire_of(WeirRun *run)
{
	bool		more = false;

	for (int kind = 0; kind < 3; kind++)
		more |= expire_kind_safely(run, kind) >= PORTION;
	run->next_expiry = weir_time_add(GetCurrentTimestamp(), more ? 0 : LOOK_EVERY);
}

void
weir_expire(WeirWorker *worker)
{
	TimestampTz now = GetCurrentTimestamp();
	ListCell   *cell;

	foreach(cell, worker->members)
	{
		WeirRun    *run = ((WeirMember *) lfirst(cell))->run;

		if (run != NULL && now >= run->next_expiry &&
			weir_expiry_due(run) <= now)
			expire_of(run);
	}
}
