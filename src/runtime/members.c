/*-------------------------------------------------------------------------
 *
 * members.c
 *	  Which views a worker serves, opened, closed and given to feeds.
 *
 * Definitions are read when something says that they changed.  A view that is new
 * becomes a member, one that is gone, paused or altered is closed, and members
 * that wait are opened when their time has come.
 *
 * Views over a topic share feeds: those that belong to one owner, are computed
 * under the same settings and stand about at the same place.  Feeds that meet
 * become one.  Views over changes have one reader, in change_feed.c.
 *
 * When a view that failed is tried again, and what is said of it until then, is
 * decided in member_failures.c.
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
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

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
	member->backoff_ms = WEIR_FIRST_BACKOFF_MS;
	member->stalled = true;		/* perhaps: the first opening clears it */
	member->retry_at = def->paused ? DT_NOEND : 0;
	MemoryContextSwitchTo(old);
	return member;
}

WeirMember *
weir_members_of(WeirWorker *worker, WeirRun *run)
{
	ListCell   *cell;

	foreach(cell, worker->members)
		if (((WeirMember *) lfirst(cell))->run == run)
			return lfirst(cell);
	elog(ERROR, "run without a member");
}

void
weir_members_close(WeirWorker *worker, WeirMember *member)
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

void
weir_members_reopen(WeirWorker *worker, int64 life)
{
	ListCell   *cell;

	foreach(cell, worker->members)
	{
		WeirMember *member = lfirst(cell);

		if (member->run != NULL && member->run->joined &&
			member->run->books[0].last_print != life)
			weir_members_close(worker, member);
	}
}

static bool
same_options(const WeirViewOptions *a, const WeirViewOptions *b)
{
	return a->commit_interval == b->commit_interval &&
		a->append_only == b->append_only &&
		a->on_error == b->on_error &&
		a->watermark.kind == b->watermark.kind &&
		a->watermark.delay == b->watermark.delay &&
		a->watermark.share == b->watermark.share &&
		a->watermark.idle_timeout == b->watermark.idle_timeout &&
		a->watermark.max_future_skew == b->watermark.max_future_skew &&
		a->late == b->late &&
		a->allowed_lateness == b->allowed_lateness &&
		a->emit == b->emit &&
		a->publish_interval == b->publish_interval &&
		a->changelog == b->changelog &&
		a->changelog_retention == b->changelog_retention;
}

static bool
same_definition(const WeirViewDef *a, const WeirViewDef *b)
{
	return a->relid == b->relid && a->owner == b->owner &&
		a->source == b->source && a->paused == b->paused &&
		a->epoch == b->epoch && a->state_table == b->state_table &&
		equal(a->settings, b->settings) &&
		same_options(&a->options, &b->options);
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
			WeirBooks  *books = weir_read_books(def->id, false, &n);

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
		weir_members_close(worker, member);
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

/* -------------------------------------------------------- opening and feeds */

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

		if (books->partition < feed->n_partitions)
			end = Max(end, feed->ends[books->partition]);
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
		weir_members_put_aside(worker, member, &error, true);
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
		member->run = weir_run_open(member->def, member->desc, true);
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
			weir_members_put_aside(worker, member, member->limit_error, true);
		else
			weir_members_put_aside(worker, member, error, false);
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
							  weir_members_of(worker, linitial(runs))->desc, runs);
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

		if (member->run != NULL || now < member->retry_at ||
			(member->locked_out && !weir_members_unlocked(member)))
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
