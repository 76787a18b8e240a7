/*-------------------------------------------------------------------------
 *
 * scout.c
 *	  What the launcher sends into a database: which streams have views?
 *
 * The launcher is connected to no database.  A scout is a worker without a slot:
 * it connects, marks a slot for each stream that a view reads, frees those of
 * streams that none reads any more, takes in views that came by a dump or a
 * clone, and exits.
 *
 *-------------------------------------------------------------------------
 */
#include "runtime/change_feed.h"

#include "access/xact.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"

/* Marks a slot for a stream as wanted, unless it has one. */
static void
want(Oid database, Oid stream)
{
	WeirSlot   *free_slot = NULL;
	bool		served = false;

	LWLockAcquire(weir_shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < weir_shared->n_slots; i++)
	{
		WeirSlot   *slot = &weir_shared->slots[i];

		if (slot->state == WEIR_SLOT_FREE)
			free_slot = free_slot ? free_slot : slot;
		else if (slot->database == database && slot->stream == stream)
			served = true;
	}
	if (!served && free_slot != NULL)
	{
		free_slot->state = WEIR_SLOT_WANTED;
		free_slot->database = database;
		free_slot->stream = stream;
		free_slot->done = false;
		free_slot->culprit = InvalidOid;
	}
	LWLockRelease(weir_shared->lock);
	if (!served && free_slot == NULL)
	{
		pg_atomic_fetch_add_u64(&weir_shared->starved, 1);
		ereport(LOG,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("no worker is free for the continuous views of \"%s\"",
						stream == WEIR_GROUP_CHANGES ? "tables" : get_rel_name(stream)),
				 errhint("Raise weir.max_workers (now %d).", weir_max_workers)));
	}
}

/* Slots of streams that no view reads any more are free again. */
static void
drop_wishes(Oid database, List *streams)
{
	LWLockAcquire(weir_shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < weir_shared->n_slots; i++)
	{
		WeirSlot   *slot = &weir_shared->slots[i];

		if (slot->state == WEIR_SLOT_WANTED && slot->database == database &&
			!list_member_oid(streams, slot->stream))
			slot->state = WEIR_SLOT_FREE;
	}
	LWLockRelease(weir_shared->lock);
}

void
weir_scout(Oid database)
{
	List	   *streams = NIL;
	ListCell   *cell;
	bool		follows_changes;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	if (weir_catalog_exists())
	{
		/* who restores a dump with ingestion off may look at it first */
		if (weir_enabled)
			weir_catalog_adopt();
		foreach(cell, weir_catalog_views())
		{
			WeirViewDef *def = lfirst(cell);

			/* a paused view over changes still holds WAL back: somebody counts */
			if (!def->paused || def->source_kind != WEIR_SOURCE_KAFKA)
				streams = list_append_unique_oid(streams, weir_group_of(def));
		}
	}
	drop_wishes(database, streams);
	foreach(cell, streams)
		want(database, lfirst_oid(cell));
	/* the list goes with the transaction */
	follows_changes = list_member_oid(streams, WEIR_GROUP_CHANGES);
	PopActiveSnapshot();
	CommitTransactionCommand();
	/* nobody else would: the worker of the last view may have died */
	if (!follows_changes)
		weir_slot_end();
}
