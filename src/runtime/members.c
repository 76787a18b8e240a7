/*-------------------------------------------------------------------------
 *
 * members.c
 *	  Which views a worker serves, and what becomes of those that fail.
 *
 * A view that fails does so alone: its memory is thrown away, the error becomes
 * its stall, and it is opened again from its last commit, after a second at
 * first and half a minute at most.  What needs a person (a gap, on_error =
 * 'stop') waits for one; a change of any definition, weir.resume among them,
 * tries all of them at once.
 *
 *-------------------------------------------------------------------------
 */
#include "runtime/change_feed.h"

#include "access/table.h"
#include "access/xact.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "runtime/watchdog.h"
#include "storage/lmgr.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#define FIRST_BACKOFF_MS 1000
#define LAST_BACKOFF_MS 30000

/* Views that start within so many messages of each other share a feed. */
#define CLOSE_ENOUGH 100000

/* A feed that is so near to another is waited for. */
#define NEARLY_THERE 50000

/* ------------------------------------------------------------ definitions */

bool
weir_members_are_stale(const WeirWorker *worker)
{
	return worker->generation !=
		pg_atomic_read_u64(&weir_shared->generation);
}

static bool
has_user_mapping(Oid user, Oid server)
{
	return SearchSysCacheExists2(USERMAPPINGUSERSERVER,
								 ObjectIdGetDatum(user),
								 ObjectIdGetDatum(server)) ||
		SearchSysCacheExists2(USERMAPPINGUSERSERVER,
							  ObjectIdGetDatum(InvalidOid),
							  ObjectIdGetDatum(server));
}

/*
 * All that a consumer and a decoder are made of.  When it changes, everything
 * that was made of it is made anew.
 */
static char *
print_stream(Oid stream, TupleDesc desc, List *defs)
{
	List	   *owners = NIL;
	ListCell   *cell;

	StringInfoData print;
	ForeignTable *table = GetForeignTable(stream);
	ForeignServer *server = GetForeignServer(table->serverid);

	initStringInfo(&print);
	appendStringInfo(&print, "%s %s", nodeToString(table->options),
					 nodeToString(server->options));
	foreach(cell, defs)
		owners = list_append_unique_oid(owners,
										((WeirViewDef *) lfirst(cell))->owner);
	list_sort(owners, list_oid_cmp);
	foreach(cell, owners)
		if (has_user_mapping(lfirst_oid(cell), server->serverid))
			appendStringInfo(&print, " %u %s", lfirst_oid(cell),
							 nodeToString(GetUserMapping(lfirst_oid(cell),
														 server->serverid)->options));
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		appendStringInfo(&print, " %s %u %d %d %s", NameStr(att->attname),
						 att->atttypid, att->atttypmod, att->attisdropped,
						 nodeToString(GetForeignColumnOptions(stream, i + 1)));
	}
	return print.data;
}

static WeirMember *
make_member(WeirViewDef *def, TupleDesc desc)
{
	MemoryContext mcxt = AllocSetContextCreate(TopMemoryContext,
											   "pg_weir member",
											   ALLOCSET_SMALL_SIZES);
	WeirMember *member = MemoryContextAllocZero(mcxt, sizeof(*member));
	MemoryContext old = MemoryContextSwitchTo(mcxt);

	member->mcxt = mcxt;
	member->def = palloc(sizeof(WeirViewDef));
	*member->def = *def;
	member->def->settings = copyObject(def->settings);
	member->def->name = pstrdup(def->name);
	member->desc = desc ? CreateTupleDescCopy(desc) : NULL;
	member->backoff_ms = FIRST_BACKOFF_MS;
	member->stalled = true;		/* perhaps: the first opening clears it */
	member->retry_at = def->paused ? DT_NOEND : 0;
	MemoryContextSwitchTo(old);
	return member;
}

/* Closes the run of a member and takes it from its feed. */
static void
close_run(WeirWorker *worker, WeirMember *member)
{
	WeirFeed   *feed;

	if (member->run == NULL)
		return;
	if (worker->changes != NULL)
	{
		weir_changes_leave(worker, member->run);
		/* where it will go on */
		member->held_at = InvalidXLogRecPtr;
		if (member->run->n_books > 0 && member->run->books[0].exists)
		{
			member->held_at = (XLogRecPtr) member->run->books[0].committed;
			member->held_life = member->run->books[0].last_print;
			member->held_new = member->run->books[0].last_offset < 0;
		}
	}
	feed = weir_members_feed(worker, member->run);
	if (feed != NULL)
	{
		weir_feed_remove(feed, member->run);
		if (feed->runs == NIL)
		{
			worker->feeds = list_delete_ptr(worker->feeds, feed);
			worker->wait_set_stale = true;
			weir_feed_close(feed);
		}
	}
	weir_run_close(member->run);
	member->run = NULL;
}

static bool
same_definition(const WeirViewDef *a, const WeirViewDef *b)
{
	return a->relid == b->relid && a->owner == b->owner &&
		a->source == b->source && a->paused == b->paused &&
		a->epoch == b->epoch && a->state_table == b->state_table &&
		equal(a->settings, b->settings) &&
		a->options.on_error == b->options.on_error &&
		a->options.commit_interval == b->options.commit_interval;
}

/* A definition with what else a member begins with. */
typedef struct Found
{
	WeirViewDef *def;
	TupleDesc	desc;			/* of the source */
	XLogRecPtr	held_at;
	int64		held_life;
	bool		held_new;
} Found;

static Found *
find_definition(List *found, const char *id)
{
	ListCell   *cell;

	foreach(cell, found)
		if (strcmp(((Found *) lfirst(cell))->def->id, id) == 0)
			return lfirst(cell);
	return NULL;
}

/*
 * The columns of a source, without a lock: somebody may hold his own on it for
 * long, and the other views go on.
 */
static TupleDesc
source_columns(Oid source)
{
	Relation	rel = RelationIdGetRelation(source);
	TupleDesc	desc;

	if (rel == NULL)
		return NULL;
	desc = CreateTupleDescCopy(RelationGetDescr(rel));
	RelationClose(rel);
	return desc;
}

/* The definitions of our group, with their sources' columns. */
static List *
read_definitions(WeirWorker *worker, char **print)
{
	bool		changes = worker->changes != NULL;
	List	   *result = NIL;
	List	   *defs = NIL;
	ListCell   *cell;

	/* of the changes' sources nothing but columns matters, which views pin */
	*print = changes ? "" : NULL;
	if (!weir_catalog_exists())
		return NIL;
	foreach(cell, weir_catalog_views())
	{
		WeirViewDef *def = lfirst(cell);
		Found	   *found;
		TupleDesc	desc;

		/* a paused view over changes holds WAL back: it is known here */
		if (weir_group_of(def) != worker->stream || (def->paused && !changes))
			continue;
		desc = source_columns(def->source);
		if (desc == NULL)
			continue;
		found = palloc0(sizeof(*found));
		found->def = def;
		found->desc = desc;
		if (changes)
		{
			int			n;
			WeirBooks  *books = weir_read_books(def->id, &n);

			if (n > 0)
			{
				found->held_at = (XLogRecPtr) books[0].position;
				found->held_life = books[0].last_print;
				found->held_new = books[0].last_offset < 0;
			}
		}
		result = lappend(result, found);
		defs = lappend(defs, def);
	}
	if (result != NIL && !changes)
		*print = print_stream(worker->stream,
							  ((Found *) linitial(result))->desc, defs);
	return result;
}

/*
 * Reads definitions again.  The caller has committed all that could be: views
 * that are gone, paused or changed are closed here with what is left.
 */
void
weir_members_reload(WeirWorker *worker)
{
	MemoryContext caller = CurrentMemoryContext;
	List	   *found;
	List	   *old_members = worker->members;
	ListCell   *cell;
	char	   *print;
	bool		stream_changed;

	worker->generation = pg_atomic_read_u64(&weir_shared->generation);
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	MemoryContextSwitchTo(worker->turn);
	found = read_definitions(worker, &print);
	PopActiveSnapshot();
	CommitTransactionCommand();

	MemoryContextSwitchTo(TopMemoryContext);
	stream_changed = worker->stream_print == NULL || print == NULL ||
		strcmp(print, worker->stream_print) != 0;
	worker->members = NIL;
	foreach(cell, old_members)
	{
		WeirMember *member = lfirst(cell);
		Found	   *now = find_definition(found, member->def->id);

		if (now != NULL && !stream_changed &&
			same_definition(member->def, now->def))
		{
			/*
			 * A view over changes is read again from where it stands, and the
			 * others wait meanwhile: not without somebody asking for it.
			 */
			if (worker->changes == NULL ||
				member->def->version != now->def->version)
				member->retry_at = now->def->paused ? DT_NOEND : 0;
			member->def->version = now->def->version;
			worker->members = lappend(worker->members, member);
			found = list_delete_ptr(found, now);
			continue;
		}
		close_run(worker, member);
		MemoryContextDelete(member->mcxt);
	}
	list_free(old_members);
	foreach(cell, found)
	{
		Found	   *now = lfirst(cell);
		WeirMember *member = make_member(now->def, now->desc);

		member->held_at = now->held_at;
		member->held_life = now->held_life;
		member->held_new = now->held_new;
		worker->members = lappend(worker->members, member);
	}
	if (stream_changed && print != NULL)
		worker->stream_print = pstrdup(print);
	MemoryContextSwitchTo(caller);
}

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
		weir_record_stall(member->def->id, error);
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

static WeirMember *
member_of(WeirWorker *worker, WeirRun *run)
{
	ListCell   *cell;

	foreach(cell, worker->members)
		if (((WeirMember *) lfirst(cell))->run == run)
			return lfirst(cell);
	elog(ERROR, "run without a member");
}

static void
put_aside(WeirWorker *worker, WeirMember *member, const ErrorData *error,
		  bool needs_person)
{
	ErrorData	hinted = *error;

	member->retry_at = needs_person ? DT_NOEND :
		TimestampTzPlusMilliseconds(GetCurrentTimestamp(), member->backoff_ms);
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
	WeirMember *member = member_of(worker, run);

	/* the error may lie in what is closed */
	if (before != 0 && run->limit == 0 && !run->backfilling)
	{
		member->limit = before;
		member->limit_error = copy_error(member->mcxt, error);
		member->retry_at = 0;
	}
	else
		put_aside(worker, member, error, true);
	close_run(worker, member);
}

void
weir_members_reopen(WeirWorker *worker, int64 life)
{
	ListCell   *cell;

	foreach(cell, worker->members)
	{
		WeirMember *member = lfirst(cell);

		if (member->run != NULL && member->run->joined &&
			member->run->books[0].last_print != life)
			close_run(worker, member);
	}
}

void
weir_members_fold(WeirWorker *worker, WeirRun *run, const WeirBatch *batch)
{
	MemoryContext caller = CurrentMemoryContext;

	if (run->stop != NULL)
		return;
	PG_TRY();
	{
		weir_watchdog_view = run->def->relid;
		StartTransactionCommand();
		PushActiveSnapshot(GetTransactionSnapshot());
		weir_run_fold(run, batch);
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
	if (batch->origins != NULL && run->stop != NULL)
		weir_members_stall(worker, run, run->stop, run->stop_lsn);
}

void
weir_members_fail(WeirWorker *worker, WeirRun *run, ErrorData *error)
{
	WeirMember *member = member_of(worker, run);

	close_run(worker, member);
	put_aside(worker, member, error, false);
}

void
weir_members_fail_commit(WeirWorker *worker, WeirRun *run, ErrorData *error)
{
	switch (error->sqlerrcode)
	{
		case ERRCODE_LOCK_NOT_AVAILABLE:
		case ERRCODE_T_R_DEADLOCK_DETECTED:
		case ERRCODE_T_R_SERIALIZATION_FAILURE:
			/* memory is as it was: read no more, and try the commit again */
			run->blocked = true;
			run->last_commit = GetCurrentTimestamp();
			if (!member_of(worker, run)->stalled)
				weir_members_record_stall(member_of(worker, run), error);
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
				member->backoff_ms = FIRST_BACKOFF_MS;
			continue;
		}
		if (weir_run_has_news(member->run))
			continue;
		stop = member->run->stop;	/* goes with the run: record first */
		put_aside(worker, member, stop, member->run->needs_person);
		close_run(worker, member);
	}
	list_free(members);
}

/* ------------------------------------------------------------------ feeds */

WeirFeed *
weir_members_feed(WeirWorker *worker, WeirRun *run)
{
	ListCell   *cell;

	foreach(cell, worker->feeds)
		if (list_member_ptr(((WeirFeed *) lfirst(cell))->runs, run))
			return lfirst(cell);
	return NULL;
}

void
weir_members_update_ends(WeirWorker *worker, WeirRun *run)
{
	WeirFeed   *feed = weir_members_feed(worker, run);

	if (feed == NULL)
		return;					/* of changes: the feed says */
	for (int i = 0; i < run->n_books; i++)
	{
		WeirBooks  *books = &run->books[i];
		int64		end = weir_kafka_end(feed->consumer, books->partition);

		if (end >= 0)
			books->source_end = Max(end, books->position);
	}
}

void
weir_members_apply_settings(WeirWorker *worker, List *settings)
{
	if (equal(settings, worker->applied_settings))
		return;
	weir_pin_settings(settings);
	list_free_deep(worker->applied_settings);
	worker->applied_settings = NIL;
	{
		MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

		worker->applied_settings = copyObject(settings);
		MemoryContextSwitchTo(old);
	}
}

/* Opens a member's run; on failure it is put aside. */
static void
open_member(WeirWorker *worker, WeirMember *member)
{
	MemoryContext caller = CurrentMemoryContext;

	if (worker->slot->culprit == member->def->relid)
	{
		ErrorData	error = {
			.sqlerrcode = ERRCODE_QUERY_CANCELED,
			.message = "an expression of the view went on after it was cancelled",
			.detail = "The worker was ended for it.",
			.hint = "Mend the function, then call weir.resume."
		};

		worker->slot->culprit = InvalidOid;
		put_aside(worker, member, &error, true);
		return;
	}
	weir_members_apply_settings(worker, member->def->settings);
	weir_watchdog_view = member->def->relid;
	/* constants are folded, keys hashed: functions of the user run */
	weir_watchdog_start();
	PG_TRY();
	{
		StartTransactionCommand();
		PushActiveSnapshot(GetTransactionSnapshot());
		MemoryContextSwitchTo(caller);
		member->run = weir_run_open(member->def, member->desc);
		member->opened = GetCurrentTimestamp();
		member->run->limit = member->limit;
		PopActiveSnapshot();
		CommitTransactionCommand();
		MemoryContextSwitchTo(caller);
	}
	PG_CATCH();
	{
		ErrorData  *error = weir_catch(caller);

		weir_watchdog_explain(error);
		/* it was only to be run up to where it stalls for a better reason */
		if (member->limit != 0)
			put_aside(worker, member, member->limit_error, true);
		else
			put_aside(worker, member, error, false);
		member->limit = 0;
	}
	PG_END_TRY();
	weir_watchdog_stop();
}

static int64
total_position(const WeirRun *run)
{
	int64		total = 0;

	for (int i = 0; i < run->n_books; i++)
		total += run->books[i].position;
	return total;
}

/* A feed for runs of one kind; those that it cannot serve have `stop` set. */
static void
open_feed(WeirWorker *worker, List *runs)
{
	MemoryContext caller = CurrentMemoryContext;
	ListCell   *cell;

	PG_TRY();
	{
		WeirFeed   *feed;
		MemoryContext old;

		StartTransactionCommand();
		PushActiveSnapshot(GetTransactionSnapshot());
		MemoryContextSwitchTo(caller);
		feed = weir_feed_open(worker->stream,
							  member_of(worker, linitial(runs))->desc, runs);
		PopActiveSnapshot();
		CommitTransactionCommand();
		old = MemoryContextSwitchTo(TopMemoryContext);
		if (feed->runs == NIL)
			weir_feed_close(feed);
		else
		{
			worker->feeds = lappend(worker->feeds, feed);
			worker->wait_set_stale = true;
		}
		MemoryContextSwitchTo(old);
		MemoryContextSwitchTo(caller);
	}
	PG_CATCH();
	{
		ErrorData  *error = weir_catch(caller);

		foreach(cell, runs)
			weir_members_fail(worker, lfirst(cell), error);
	}
	PG_END_TRY();
}

void
weir_members_open(WeirWorker *worker)
{
	TimestampTz now = GetCurrentTimestamp();
	List	   *fresh = NIL;
	ListCell   *cell;

	foreach(cell, worker->members)
	{
		WeirMember *member = lfirst(cell);

		if (member->run != NULL || now < member->retry_at)
			continue;
		open_member(worker, member);
		if (member->run != NULL)
			fresh = lappend(fresh, member->run);
	}

	if (worker->changes != NULL)
	{
		weir_changes_join(worker);
		return;
	}

	/* views that were running together find together again */
	while (fresh != NIL)
	{
		WeirRun    *first = linitial(fresh);
		List	   *together = list_make1(first);

		fresh = list_delete_first(fresh);
		foreach(cell, fresh)
		{
			WeirRun    *run = lfirst(cell);

			if (run->def->owner == first->def->owner &&
				equal(run->def->settings, first->def->settings) &&
				llabs(total_position(run) - total_position(first)) < CLOSE_ENOUGH)
				together = lappend(together, run);
		}
		foreach(cell, together)
			fresh = list_delete_ptr(fresh, lfirst(cell));
		open_feed(worker, together);
	}
}

/* How far one feed is behind another, in messages, over partitions. */
static int64
distance(const WeirFeed *behind, const WeirFeed *ahead)
{
	int64		sum = 0;

	for (int p = 0; p < Min(behind->n_partitions, ahead->n_partitions); p++)
		sum += Max(ahead->next[p] - behind->next[p], 0);
	return sum;
}

/* Moves the runs of one feed to another that they may join. */
static void
merge(WeirWorker *worker, WeirFeed *from, WeirFeed *into)
{
	ListCell   *cell;

	foreach(cell, from->runs)
	{
		StartTransactionCommand();
		weir_feed_add(into, lfirst(cell));
		CommitTransactionCommand();
	}
	MemoryContextSwitchTo(worker->turn);
	worker->feeds = list_delete_ptr(worker->feeds, from);
	worker->wait_set_stale = true;
	weir_feed_close(from);
}

/*
 * Two feeds of one kind become one as soon as the views of one have all that
 * the other has passed.  The one ahead waits for the other over the last
 * stretch; otherwise two busy feeds could miss each other for ever.
 */
void
weir_members_merge_feeds(WeirWorker *worker)
{
	ListCell   *a;
	ListCell   *b;

	foreach(a, worker->feeds)
		((WeirFeed *) lfirst(a))->held_since *=
			list_length(worker->feeds) > 1;

	foreach(a, worker->feeds)
	{
		WeirFeed   *into = lfirst(a);

		foreach(b, worker->feeds)
		{
			WeirFeed   *from = lfirst(b);
			int64		missing;

			if (from == into || from->runs == NIL ||
				!weir_feed_same_kind(into, linitial(from->runs)) ||
				from->n_partitions != into->n_partitions)
				continue;
			missing = distance(from, into);
			if (missing == 0)
			{
				into->held_since = 0;
				merge(worker, from, into);
				return;
			}
			if (missing < NEARLY_THERE && into->held_since == 0 &&
				distance(into, from) == 0)
				into->held_since = GetCurrentTimestamp();
		}
	}
}
