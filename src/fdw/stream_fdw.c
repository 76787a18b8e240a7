/*-------------------------------------------------------------------------
 *
 * stream_fdw.c
 *	  Push streams: the foreign data wrapper weir_stream, INSERT and COPY.
 *
 * A push stream is a foreign table without a store.  What is inserted into it
 * goes to the WAL as transactional logical messages, is rolled back with its
 * transaction and its savepoints, is as durable as the commit, and is read by
 * nobody but the continuous views over the stream.  So there is nothing to
 * select, update, delete or truncate, and each is refused in words of its own.
 *
 * Core calls us row by row, whoever inserts: VALUES, SELECT, COPY, the tuple
 * routing of a partitioned table.  We check the constraints, which core leaves to
 * the store of a foreign table, and hand the row to stream_message.c, which packs
 * rows into messages.  What is left is written when the statement ends.  That
 * happens in the subtransaction in which it began: core runs whatever modifies to
 * its end at once, cursors and functions too, and an error in between drops rows
 * and subtransaction together.
 *
 * A row that nobody will ever read is a loss that nobody would notice.  So a
 * statement begins by looking whether the stream is consumed:
 *
 *		no view over it				error; with unconsumed 'discard' the
 *									rows are dropped
 *		none that reads, one		its worker, and perhaps the first replication
 *		has never begun				slot of this database, start now: wait
 *		none that reads, all have	their slot is gone and with it what would be
 *		read once					written now: error
 *		one that reads				go ahead
 *
 * A view reads when its position belongs to the present life of the slot (see
 * runtime/slot_life.c).  To wait for that is a must: what commits before there is
 * a slot is told to nobody.  And it must not be done by a transaction that has
 * written:
 *
 *		1. we wait for the slot, having an xid   2. to make the slot, the worker
 *		waits for every xid that it finds running, ours too   3. nobody moves
 *
 * The answer "go ahead" is kept until some definition changes (weir_shared->
 * generation).  The others are not: a view that this transaction has dropped may
 * come back by ROLLBACK TO SAVEPOINT, and no generation tells.
 *
 *-------------------------------------------------------------------------
 */
#include "weir.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/reloptions.h"
#include "access/table.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_foreign_table.h"
#include "catalog/weir_catalog.h"
#include "commands/defrem.h"
#include "executor/executor.h"
#include "fdw/stream_message.h"
#include "fmgr.h"
#include "foreign/fdwapi.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "optimizer/pathnode.h"
#include "optimizer/planmain.h"
#include "optimizer/restrictinfo.h"
#include "pgstat.h"
#include "runtime/shared.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

/*
 * A slot is there in milliseconds, unless somebody writes for long; then better
 * an error than a statement that hangs for no visible reason.
 */
#define WAIT_FOR_SLOT_MS 10000
#define LOOK_EVERY_MS 20

/* Columns, as the extension's script declares them. */
#define POSITIONS_VIEW_ID 1
#define POSITIONS_LAST_PRINT 8
#define SLOTS_HOME 1
#define SLOTS_LIFE 3

/* Of an INSERT under way. */
typedef struct StreamInsert
{
	WeirStreamWriter *writer;	/* NULL: nobody consumes, rows are dropped */
	bool		check_partition;
} StreamInsert;

typedef enum Consumers
{
	CONSUMERS_NONE,				/* no view */
	CONSUMERS_LOST,				/* views that have read, and cannot go on */
	CONSUMERS_STARTING,			/* a view that has never begun */
	CONSUMERS_READY
} Consumers;

/* Streams that were CONSUMERS_READY, and at which generation. */
typedef struct KnownStream
{
	Oid			stream;			/* the key */
	uint64		generation;
} KnownStream;

static HTAB *known_streams = NULL;

PG_FUNCTION_INFO_V1(weir_stream_fdw_handler);
PG_FUNCTION_INFO_V1(weir_stream_fdw_validator);

static void get_rel_size(PlannerInfo *root, RelOptInfo *baserel,
						 Oid foreign_table);
static void get_paths(PlannerInfo *root, RelOptInfo *baserel,
					  Oid foreign_table);
static ForeignScan *get_plan(PlannerInfo *root, RelOptInfo *baserel,
							 Oid foreign_table, ForeignPath *best_path,
							 List *tlist, List *scan_clauses,
							 Plan *outer_plan);
static void begin_scan(ForeignScanState *node, int eflags);
static TupleTableSlot *iterate_scan(ForeignScanState *node);
static void rescan(ForeignScanState *node);
static void end_scan(ForeignScanState *node);
static void refuse_change(PlannerInfo *root, Index rtindex,
						  RangeTblEntry *target_rte, Relation target_relation);
static void refuse_truncate(List *rels, DropBehavior behavior,
							bool restart_seqs);
static int	is_updatable(Relation rel);
static void begin_modify(ModifyTableState *mtstate, ResultRelInfo *result_rel,
						 List *private, int subplan, int eflags);
static void begin_insert(ModifyTableState *mtstate, ResultRelInfo *result_rel);
static void begin(ResultRelInfo *result_rel, EState *estate);
static TupleTableSlot *insert_row(EState *estate, ResultRelInfo *result_rel,
								  TupleTableSlot *slot,
								  TupleTableSlot *plan_slot);
static void end_insert(EState *estate, ResultRelInfo *result_rel);
static bool find_consumer(Relation rel);
static bool may_discard(Oid stream);
static bool is_known(Oid stream, uint64 generation);
static void remember(Oid stream, uint64 generation);
static Consumers look_for_consumers(Oid stream);
static bool read_number(const char *table, const char *index,
						AttrNumber key_column, const char *key,
						AttrNumber column, Snapshot snapshot, int64 *number);
static void wait_a_moment(void);
weir_noreturn static void raise_unconsumed(Relation rel);
weir_noreturn static void raise_lost(Relation rel);
weir_noreturn static void raise_starting(Relation rel, bool has_written);

Datum
weir_stream_fdw_handler(PG_FUNCTION_ARGS)
{
	FdwRoutine *routine = makeNode(FdwRoutine);

	routine->GetForeignRelSize = get_rel_size;
	routine->GetForeignPaths = get_paths;
	routine->GetForeignPlan = get_plan;
	routine->BeginForeignScan = begin_scan;
	routine->IterateForeignScan = iterate_scan;
	routine->ReScanForeignScan = rescan;
	routine->EndForeignScan = end_scan;

	routine->BeginForeignModify = begin_modify;
	routine->BeginForeignInsert = begin_insert;
	routine->ExecForeignInsert = insert_row;
	routine->EndForeignModify = end_insert;
	routine->EndForeignInsert = end_insert;
	routine->IsForeignRelUpdatable = is_updatable;
	routine->AddForeignUpdateTargets = refuse_change;
	routine->ExecForeignTruncate = refuse_truncate;

	PG_RETURN_POINTER(routine);
}

/*
 * weir.stream_fdw_validator(options text[], catalog oid)
 *
 * A foreign table has one option, anything else none.  Errors: 22023.
 */
Datum
weir_stream_fdw_validator(PG_FUNCTION_ARGS)
{
	List	   *options = untransformRelOptions(PG_GETARG_DATUM(0));
	bool		is_table = PG_GETARG_OID(1) == ForeignTableRelationId;
	ListCell   *lc;

	foreach(lc, options)
	{
		DefElem    *option = lfirst_node(DefElem, lc);
		const char *value;

		if (!is_table || strcmp(option->defname, "unconsumed") != 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("invalid option \"%s\" of a push stream",
							option->defname),
					 is_table ?
					 errhint("A push stream has one option: unconsumed.") :
					 errhint("Only the foreign table takes an option: unconsumed.")));
		value = defGetString(option);
		if (strcmp(value, "error") != 0 && strcmp(value, "discard") != 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("invalid value for option \"unconsumed\": \"%s\"",
							value),
					 errhint("Valid values are: error, discard.")));
	}
	PG_RETURN_VOID();
}

/* ---- what a stream does not do ---- */

/* Plans are made, so that EXPLAIN works; there is never more than no row. */
static void
get_rel_size(PlannerInfo *root, RelOptInfo *baserel, Oid foreign_table)
{
	baserel->rows = 1;
}

static void
get_paths(PlannerInfo *root, RelOptInfo *baserel, Oid foreign_table)
{
	add_path(baserel, (Path *)
			 weir_create_foreignscan_path(root, baserel, baserel->rows, 0, 0,
										  baserel->lateral_relids));
}

static ForeignScan *
get_plan(PlannerInfo *root, RelOptInfo *baserel, Oid foreign_table,
		 ForeignPath *best_path, List *tlist, List *scan_clauses,
		 Plan *outer_plan)
{
	return make_foreignscan(tlist, extract_actual_clauses(scan_clauses, false),
							baserel->relid, NIL, NIL, NIL, NIL, outer_plan);
}

/* Here and not at the first row: LIMIT 0 is no less in vain. */
static void
begin_scan(ForeignScanState *node, int eflags)
{
	if ((eflags & EXEC_FLAG_EXPLAIN_ONLY) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot select from push stream \"%s\"",
						RelationGetRelationName(node->ss.ss_currentRelation)),
				 errdetail("A push stream stores no rows: they go to the continuous views over it."),
				 errhint("Create a continuous view over the stream, and select from that.")));
}

static TupleTableSlot *
iterate_scan(ForeignScanState *node)
{
	return ExecClearTuple(node->ss.ss_ScanTupleSlot);
}

static void
rescan(ForeignScanState *node)
{
}

static void
end_scan(ForeignScanState *node)
{
}

/* The planner asks how to find the row of an UPDATE, DELETE or MERGE again. */
static void
refuse_change(PlannerInfo *root, Index rtindex, RangeTblEntry *target_rte,
			  Relation target_relation)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 root->parse->commandType == CMD_DELETE ?
			 errmsg("cannot delete from push stream \"%s\"",
					RelationGetRelationName(target_relation)) :
			 errmsg("cannot update push stream \"%s\"",
					RelationGetRelationName(target_relation)),
			 errdetail("A push stream stores no rows: what was pushed has been handed on."),
			 errhint("Use a table as the source if rows change or go; views follow its UPDATE and DELETE.")));
}

static void
refuse_truncate(List *rels, DropBehavior behavior, bool restart_seqs)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("cannot truncate push stream \"%s\"",
					RelationGetRelationName((Relation) linitial(rels))),
			 errdetail("A push stream stores no rows: what was pushed has been handed on."),
			 errhint("To begin a view anew, drop and create it.")));
}

static int
is_updatable(Relation rel)
{
	return 1 << CMD_INSERT;
}

/* ---- INSERT and COPY ---- */

static void
begin_modify(ModifyTableState *mtstate, ResultRelInfo *result_rel,
			 List *private, int subplan, int eflags)
{
	if ((eflags & EXEC_FLAG_EXPLAIN_ONLY) == 0)
		begin(result_rel, mtstate->ps.state);
}

/* COPY, and rows that a partitioned table sends here. */
static void
begin_insert(ModifyTableState *mtstate, ResultRelInfo *result_rel)
{
	begin(result_rel, mtstate->ps.state);
}

static void
begin(ResultRelInfo *result_rel, EState *estate)
{
	Relation	rel = result_rel->ri_RelationDesc;
	MemoryContext caller = MemoryContextSwitchTo(estate->es_query_cxt);
	StreamInsert *insert = palloc0(sizeof(StreamInsert));

	if (find_consumer(rel))
		insert->writer = weir_stream_writer_create(RelationGetRelid(rel),
												   RelationGetDescr(rel));
	/* routing has looked at the constraint, unless a trigger came since */
	insert->check_partition = rel->rd_rel->relispartition &&
		(result_rel->ri_RootResultRelInfo == NULL ||
		 (result_rel->ri_TrigDesc != NULL &&
		  result_rel->ri_TrigDesc->trig_insert_before_row));
	result_rel->ri_FdwState = insert;
	MemoryContextSwitchTo(caller);
}

static TupleTableSlot *
insert_row(EState *estate, ResultRelInfo *result_rel, TupleTableSlot *slot,
		   TupleTableSlot *plan_slot)
{
	StreamInsert *insert = (StreamInsert *) result_rel->ri_FdwState;

	if (RelationGetDescr(result_rel->ri_RelationDesc)->constr != NULL)
		ExecConstraints(result_rel, slot, estate);
	if (insert->check_partition)
		ExecPartitionCheck(result_rel, slot, estate, true);
	if (insert->writer != NULL)
	{
		slot_getallattrs(slot);
		weir_stream_writer_add(insert->writer, slot->tts_values,
							   slot->tts_isnull);
	}
	return slot;
}

/* The end of the statement; on error it is not called, nor need it be. */
static void
end_insert(EState *estate, ResultRelInfo *result_rel)
{
	StreamInsert *insert = (StreamInsert *) result_rel->ri_FdwState;

	if (insert == NULL)
		return;					/* EXPLAIN without ANALYZE */
	result_rel->ri_FdwState = NULL;
	if (insert->writer != NULL)
		weir_stream_writer_flush(insert->writer);
}

/* ---- who consumes ---- */

/*
 * True when rows are to be written, false when they are to be dropped; else
 * raises 55000.
 */
static bool
find_consumer(Relation rel)
{
	Oid			stream = RelationGetRelid(rel);
	TimestampTz deadline = 0;

	if (!weir_preloaded)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("pg_weir is not loaded by the server"),
				 errdetail("Continuous views are filled by background workers, which start with the server."),
				 errhint("Add pg_weir to shared_preload_libraries and restart the server.")));
	if (!XLogLogicalInfoActive())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot insert into push stream \"%s\" while wal_level is below logical",
						RelationGetRelationName(rel)),
				 errhint("Set wal_level to logical and restart the server.")));

	for (;;)
	{
		/* taken first: a change while we look makes the answer an old one */
		uint64		generation = pg_atomic_read_u64(&weir_shared->generation);

		if (is_known(stream, generation))
			return true;
		switch (look_for_consumers(stream))
		{
			case CONSUMERS_NONE:
				if (may_discard(stream))
					return false;
				raise_unconsumed(rel);
			case CONSUMERS_LOST:
				raise_lost(rel);
			case CONSUMERS_STARTING:
				break;
			case CONSUMERS_READY:
				remember(stream, generation);
				return true;
		}

		/* the slot would wait for us */
		if (TransactionIdIsValid(GetTopTransactionIdIfAny()))
			raise_starting(rel, true);
		if (deadline == 0)
			deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
												   WAIT_FOR_SLOT_MS);
		else if (GetCurrentTimestamp() >= deadline)
			raise_starting(rel, false);
		wait_a_moment();
	}
}

static void
wait_a_moment(void)
{
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 LOOK_EVERY_MS, PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

static bool
may_discard(Oid stream)
{
	const char *value = weir_foreign_option(GetForeignTable(stream)->options,
											"unconsumed");

	return value != NULL && strcmp(value, "discard") == 0;
}

static bool
is_known(Oid stream, uint64 generation)
{
	KnownStream *known;

	if (known_streams == NULL)
		return false;
	known = hash_search(known_streams, &stream, HASH_FIND, NULL);
	return known != NULL && known->generation == generation;
}

static void
remember(Oid stream, uint64 generation)
{
	KnownStream *known;

	if (known_streams == NULL)
	{
		HASHCTL		control = {0};

		control.keysize = sizeof(Oid);
		control.entrysize = sizeof(KnownStream);
		control.hcxt = TopMemoryContext;
		known_streams = hash_create("pg_weir known streams", 16, &control,
									HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	}
	known = hash_search(known_streams, &stream, HASH_ENTER, NULL);
	known->generation = generation;
}

/* Looks into the catalog as it is now, whatever the isolation level. */
static Consumers
look_for_consumers(Oid stream)
{
	MemoryContext mcxt = AllocSetContextCreate(CurrentMemoryContext,
											   "pg_weir consumers",
											   ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(mcxt);
	Consumers	found = CONSUMERS_NONE;
	List	   *views = weir_catalog_views();
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	int64		life = 0;
	ListCell   *lc;

	foreach(lc, views)
	{
		WeirViewDef *view = (WeirViewDef *) lfirst(lc);
		int64		of_view;
		Consumers	this;

		if (view->source_kind != WEIR_SOURCE_STREAM || view->source != stream)
			continue;
		if (found == CONSUMERS_NONE &&
			!read_number("slots", "slots_pkey", SLOTS_HOME, weir_home(),
						 SLOTS_LIFE, snapshot, &life))
			life = 0;
		if (!read_number("positions", "positions_pkey", POSITIONS_VIEW_ID,
						 view->id, POSITIONS_LAST_PRINT, snapshot, &of_view))
			this = CONSUMERS_STARTING;
		else
			this = of_view != 0 && of_view == life ? CONSUMERS_READY :
				CONSUMERS_LOST;
		found = Max(found, this);
	}
	UnregisterSnapshot(snapshot);
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(mcxt);
	return found;
}

/*
 * A bigint of the row of a catalog table that has this text in its first key
 * column; false when there is no row, or it is NULL.
 */
static bool
read_number(const char *table, const char *index, AttrNumber key_column,
			const char *key, AttrNumber column, Snapshot snapshot,
			int64 *number)
{
	Relation	rel = table_open(weir_data_table(table), AccessShareLock);
	Oid			index_id = weir_data_table(index);
	ScanKeyData scan_key;
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		isnull = true;

	ScanKeyInit(&scan_key, key_column, BTEqualStrategyNumber, F_TEXTEQ,
				CStringGetTextDatum(key));
	scan_key.sk_collation =
		TupleDescAttr(RelationGetDescr(rel), key_column - 1)->attcollation;
	scan = systable_beginscan(rel, index_id, OidIsValid(index_id), snapshot,
							  1, &scan_key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		Datum		value = heap_getattr(tuple, column, RelationGetDescr(rel),
										 &isnull);

		if (!isnull)
			*number = DatumGetInt64(value);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return !isnull;
}

static void
raise_unconsumed(Relation rel)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("no continuous view consumes push stream \"%s\"",
					RelationGetRelationName(rel)),
			 errdetail("The rows would be lost: a push stream stores none."),
			 errhint("Create a continuous view over it, or let rows be dropped with ALTER FOREIGN TABLE ... OPTIONS (ADD unconsumed 'discard').")));
}

static void
raise_lost(Relation rel)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("the continuous views over push stream \"%s\" cannot go on",
					RelationGetRelationName(rel)),
			 errdetail("The replication slot that they read from is gone; the rows would be lost."),
			 errhint("Run weir.rebuild(view, accept_loss => true); weir.views says what has happened.")));
}

static void
raise_starting(Relation rel, bool has_written)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("no continuous view over push stream \"%s\" has begun its work yet",
					RelationGetRelationName(rel)),
			 has_written ?
			 errdetail("The replication slot that it needs may be in the making, which waits for every transaction that has written, this one too.") :
			 errdetail("The replication slot that it needs may be in the making, which waits for every transaction that has written."),
			 errhint("Try again in a new transaction; weir.views shows what the view waits for.")));
}
