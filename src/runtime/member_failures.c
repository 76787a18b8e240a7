/*-------------------------------------------------------------------------
 *
 * member_failures.c
 *	  What becomes of the views of a worker that fail.
 *
 * A view that fails does so alone: its memory is thrown away, the error becomes
 * its stall, and it is opened again from its last commit, after a second or so at
 * first and half a minute or so at most.  What needs a person (a gap, on_error =
 * 'stop') waits for one; a change of any definition, weir.resume among them,
 * tries all of them at once.
 *
 * Errors come from folding and from commits, from what a view's own code has asked
 * for (its stop), from the source that it shares with others (its trouble), and
 * from privileges that its owner has lost.  Views are opened and closed by
 * members.c.
 *
 *-------------------------------------------------------------------------
 */
#include "runtime/change_feed.h"

#include "access/xact.h"
#include "common/pg_prng.h"
#include "runtime/watchdog.h"
#include "storage/lmgr.h"
#include "utils/inval.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#define LAST_BACKOFF_MS 30000

/* How often a view that cannot commit says how far behind it is. */
#define TELL_LAG_MS 5000

/* ------------------------------------------------------------- privileges */

/* A GRANT or REVOKE on the stream or its server shows as an invalidation. */
static bool privileges_touched = false;
static WeirWorker *watched = NULL;

static bool
is_source(Oid relid)
{
	ListCell   *cell;

	foreach(cell, watched->members)
		if (((WeirMember *) lfirst(cell))->def->source == relid)
			return true;
	return false;
}

static void
relation_invalidated(Datum arg, Oid relid)
{
	if (!OidIsValid(relid) || is_source(relid))
		privileges_touched = true;
}

static void
catalog_invalidated(Datum arg, int cache, uint32 hash)
{
	privileges_touched = true;
}

static void
watch_privileges(WeirWorker *worker)
{
	watched = worker;
	CacheRegisterRelcacheCallback(relation_invalidated, (Datum) 0);
	CacheRegisterSyscacheCallback(FOREIGNSERVEROID, catalog_invalidated,
								  (Datum) 0);
	CacheRegisterSyscacheCallback(AUTHMEMROLEMEM, catalog_invalidated,
								  (Datum) 0);
	/* superusers and BYPASSRLS: policies begin to apply to who was one */
	CacheRegisterSyscacheCallback(AUTHOID, catalog_invalidated, (Datum) 0);
}

void
weir_members_check_privileges(WeirWorker *worker)
{
	List	   *members;
	ListCell   *cell;

	if (watched == NULL)
		watch_privileges(worker);
	if (!privileges_touched)
		return;
	privileges_touched = false;
	members = list_copy(worker->members);
	foreach(cell, members)
	{
		WeirMember *member = lfirst(cell);
		MemoryContext caller = CurrentMemoryContext;

		if (member->run == NULL)
			continue;
		PG_TRY();
		{
			Query	   *query;

			StartTransactionCommand();
			PushActiveSnapshot(GetTransactionSnapshot());
			query = weir_catalog_query(member->def->query_view);
			if (query != NULL)	/* else dropped: the reload will tell */
				weir_check_source_privileges(query, member->def->owner);
			PopActiveSnapshot();
			CommitTransactionCommand();
			MemoryContextSwitchTo(caller);
		}
		PG_CATCH();
		{
			ErrorData  *error = weir_catch(caller);

			weir_members_fail(worker, member->run, error);
		}
		PG_END_TRY();
	}
}

/* --------------------------------------------------------------- failures */

/* The stall is recorded if it can be; the log has it anyhow. */
void
weir_members_record_stall(WeirMember *member, const ErrorData *error)
{
	MemoryContext caller = CurrentMemoryContext;

	PG_TRY();
	{
		weir_record_stall(member->def->id, member->def->epoch, error);
		member->stalled = error != NULL;
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(caller);
		EmitErrorReport();
		FlushErrorState();
		AbortCurrentTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(caller);
}

/*
 * How long a view is left alone, in milliseconds.  Those that have found no memory or
 * disk together would come back together and take it from each other again: they come
 * one by one.
 */
static int
next_backoff(WeirMember *member, const ErrorData *error)
{
	int			ms = WEIR_BACKOFF(member->backoff_ms);

	if (ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_INSUFFICIENT_RESOURCES)
		ms = ms / 2 + (int) pg_prng_uint64_range(&pg_global_prng_state, 0, ms);
	return ms;
}

void
weir_members_put_aside(WeirWorker *worker, WeirMember *member,
					   const ErrorData *error, bool needs_person)
{
	ErrorData	hinted = *error;

	member->retry_at = needs_person ? DT_NOEND :
		TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
									next_backoff(member, error));
	member->backoff_ms = Min(member->backoff_ms * 2, LAST_BACKOFF_MS);

	/* dropped, paused or altered beneath us: the reload will tell */
	if (error->sqlerrcode == WEIR_ERRCODE_CHANGED)
	{
		member->retry_at = 0;
		return;
	}
	ereport(LOG,
			(errcode(error->sqlerrcode),
			 errmsg("continuous view \"%s\" stalls: %s", member->def->name,
					error->message ? error->message : "unknown error"),
			 error->detail ? errdetail_internal("%s", error->detail) : 0));
	/* core's "permission denied" does not say whom to grant it to, nor what then */
	if (hinted.sqlerrcode == ERRCODE_INSUFFICIENT_PRIVILEGE && hinted.hint == NULL)
		hinted.hint = "Grant it to the owner of the view, then call weir.resume.";
	/* nor do functions, which may be those of an index, say where they are */
	if (hinted.detail == NULL)
		hinted.detail = hinted.context;
	if (hinted.hint == NULL)
		hinted.hint = needs_person ?
			"When the cause is gone, call weir.resume on the view." :
			"It is tried again by itself, every 30 seconds at least; weir.resume tries at once.";
	weir_members_record_stall(member, &hinted);
}

/* What a stall says, kept for longer than the run that raised it. */
static ErrorData *
copy_error(MemoryContext mcxt, const ErrorData *error)
{
	MemoryContext old = MemoryContextSwitchTo(mcxt);
	ErrorData  *copy = palloc0(sizeof(*copy));

	copy->elevel = ERROR;
	copy->sqlerrcode = error->sqlerrcode;
	copy->message = pstrdup(error->message ? error->message : "unknown error");
	copy->detail = error->detail ? pstrdup(error->detail) : NULL;
	copy->hint = error->hint ? pstrdup(error->hint) : NULL;
	MemoryContextSwitchTo(old);
	return copy;
}

void
weir_members_stall(WeirWorker *worker, WeirRun *run, const ErrorData *error,
				   XLogRecPtr before)
{
	WeirMember *member = weir_members_of(worker, run);

	/* the error may lie in what is closed */
	if (before != 0 && run->limit == 0 && !run->backfilling)
	{
		member->limit = before;
		member->limit_error = copy_error(member->mcxt, error);
		member->retry_at = 0;
	}
	else
		weir_members_put_aside(worker, member, error, true);
	weir_members_close(worker, member);
}

void
weir_members_fold(WeirWorker *worker, WeirRun *run, const WeirBatch *batch)
{
	MemoryContext caller = CurrentMemoryContext;

	if (run->stop != NULL)
		return;
	if (batch != NULL)
		run->pressed = !weir_members_make_room(worker, run, batch->n) ||
			run->pressed;
	PG_TRY();
	{
		weir_watchdog_view = run->def->relid;
		StartTransactionCommand();
		PushActiveSnapshot(GetTransactionSnapshot());
		if (batch != NULL)
			weir_run_fold(run, batch);
		else
			weir_run_truncate(run);
		PopActiveSnapshot();
		CommitTransactionCommand();
		MemoryContextSwitchTo(caller);
	}
	PG_CATCH();
	{
		weir_members_fail(worker, run, weir_catch(caller));
		return;
	}
	PG_END_TRY();

	/* of a transaction that stops in its middle nothing may be committed */
	if (batch != NULL && batch->origins != NULL && run->stop != NULL)
		weir_members_stall(worker, run, run->stop, run->stop_lsn);
}

void
weir_members_fail(WeirWorker *worker, WeirRun *run, ErrorData *error)
{
	WeirMember *member = weir_members_of(worker, run);

	weir_members_close(worker, member);
	weir_members_put_aside(worker, member, error, false);
}

/* Core does not say for which table it has waited. */
static void
record_locked(WeirMember *member, const ErrorData *error)
{
	ErrorData	hinted = *error;

	if (hinted.hint == NULL)
		hinted.hint = "Somebody holds a lock on the view or its changelog, see pg_locks. It is tried again by itself.";
	weir_members_record_stall(member, &hinted);
}

void
weir_members_lock_out(WeirWorker *worker, WeirRun *run)
{
	WeirMember *member = weir_members_of(worker, run);

	ereport(LOG,
			(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
			 errmsg("continuous view \"%s\" reads no more until it can be locked",
					member->def->name)));
	weir_members_tell_lag(worker, run);
	weir_members_close(worker, member);
	member->locked_out = true;
	member->retry_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
												   WEIR_FIRST_BACKOFF_MS);
}

/* What a commit would lock first, and not wait for. */
bool
weir_members_unlocked(WeirMember *member)
{
	Oid			changelog = member->def->changelog;

	StartTransactionCommand();
	member->locked_out =
		!ConditionalLockRelationOid(member->def->relid, RowExclusiveLock) ||
		(OidIsValid(changelog) &&
		 !ConditionalLockRelationOid(changelog, RowExclusiveLock));
	CommitTransactionCommand();
	member->retry_at = member->locked_out ?
		TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
									WEIR_FIRST_BACKOFF_MS) : 0;
	return !member->locked_out;
}

/*
 * Positions and counters are those of the last commit, and stay.  What was not
 * stored yet has no lag to speak of.
 */
void
weir_members_tell_lag(WeirWorker *worker, WeirRun *run)
{
	MemoryContext caller = CurrentMemoryContext;

	run->next_lag = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
												TELL_LAG_MS);
	weir_members_update_ends(worker, run);
	PG_TRY();
	{
		StartTransactionCommand();
		PushActiveSnapshot(GetTransactionSnapshot());
		for (int i = 0; i < run->n_books; i++)
			weir_write_lag(run->def->id, &run->books[i],
						   worker->changes == NULL ? 0 : run->complete_to);
		PopActiveSnapshot();
		CommitTransactionCommand();
		MemoryContextSwitchTo(caller);
	}
	PG_CATCH();
	{
		/* it is a courtesy */
		(void) weir_catch(caller);
	}
	PG_END_TRY();
}

void
weir_members_fail_commit(WeirWorker *worker, WeirRun *run, ErrorData *error)
{
	switch (error->sqlerrcode)
	{
		case ERRCODE_LOCK_NOT_AVAILABLE:
		case ERRCODE_T_R_DEADLOCK_DETECTED:
		case ERRCODE_T_R_SERIALIZATION_FAILURE:
			/* memory is as it was: try the commit again */
			if (!run->blocked)
			{
				record_locked(weir_members_of(worker, run), error);
				run->next_lag = 0;
			}
			run->blocked = true;
			run->last_commit = GetCurrentTimestamp();
			break;
		default:
			weir_members_fail(worker, run, error);
			break;
	}
}

/* What keeps the source of a run from being read, or NULL. */
static const ErrorData *
trouble_of(WeirWorker *worker, WeirRun *run)
{
	WeirFeed   *feed;

	if (worker->changes != NULL)
		return worker->changes->trouble;
	feed = weir_members_feed(worker, run);
	return feed != NULL ? feed->trouble : NULL;
}

void
weir_members_stop(WeirWorker *worker)
{
	List	   *members = list_copy(worker->members);
	ListCell   *cell;

	foreach(cell, members)
	{
		WeirMember *member = lfirst(cell);
		ErrorData  *stop;

		if (member->run == NULL)
			continue;
		if (member->run->stop == NULL)
		{
			const ErrorData *trouble = trouble_of(worker, member->run);

			if (trouble != NULL)
			{
				/* `stalled` is a guess until something has been recorded */
				if (member->told != trouble)
					weir_members_record_stall(member, trouble);
				member->told = trouble;
				continue;
			}
			member->told = NULL;
			/* it works again, and not only until its next commit */
			if (member->stalled && !member->run->blocked &&
				!weir_run_has_news(member->run) &&
				TimestampDifferenceExceeds(member->opened,
										   GetCurrentTimestamp(), 300))
				weir_members_record_stall(member, NULL);
			if (member->run->last_commit != 0)
				member->backoff_ms = WEIR_FIRST_BACKOFF_MS;
			continue;
		}
		if (weir_run_has_news(member->run))
			continue;
		stop = member->run->stop;	/* goes with the run: record first */
		weir_members_put_aside(worker, member, stop, member->run->needs_person);
		weir_members_close(worker, member);
	}
	list_free(members);
}
