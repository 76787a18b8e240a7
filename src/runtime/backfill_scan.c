/*-------------------------------------------------------------------------
 *
 * backfill_scan.c
 *	  Backfills: the rows of a table, from the executor into the fold.
 *
 * Runs in the backfill's process, in the transaction that has taken over the
 * snapshot S; ends it.  Receives an open view; leaves groups in its table, or
 * has sent them on the way.
 *
 * The rows come from the executor, which knows how to read any table: access
 * methods, inheritance, privileges.  They go through the same fold as changes
 * do, as rows added once.  If an error of any row ends the backfill anyhow
 * (on_error = 'stop'), WHERE is left to the executor, too: an index or
 * parallel workers may help.  Else it stays with the fold, which makes a dead
 * letter of a row that raises; for that it needs a subtransaction, which
 * parallel queries do not allow.
 *
 * All of it runs as the owner of the view, in a security-restricted operation.
 *
 *-------------------------------------------------------------------------
 */
#include "runtime/backfill.h"

#include "access/detoast.h"
#include "access/xact.h"
#include "catalog/pg_proc.h"
#include "executor/execdesc.h"
#include "nodes/makefuncs.h"
#include "optimizer/clauses.h"
#include "parser/parse_relation.h"
#include "parser/parsetree.h"
#include "runtime/watchdog.h"
#include "tcop/dest.h"
#include "tcop/tcopprot.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

/* Bytes of rows in a batch, which few rows can have. */
#define BATCH_BYTES (4 * 1024 * 1024)

/* Bytes of groups after which they are sent. */
#define GROUPS_BYTES ((Size) 32 * 1024 * 1024)

/* Where the rows of a scan go. */
typedef struct Receiver
{
	DestReceiver pub;
	TupleDesc	desc;			/* of the source */
	int			n_columns;		/* of the scan */
	AttrNumber *columns;		/* which one of the source each is */
	bool		filtered;		/* the scan leaves out what WHERE rejects */
	WeirBatch	batch;
	Size		batch_bytes;
	int			batch_rows;		/* it is full with */
	double		allowance;		/* rows that weir.backfill_rate allows now */
	TimestampTz allowed_at;
} Receiver;

static WeirRun *run;
static TupleDesc source_desc;

/*
 * SELECT the columns that are wanted FROM the source [WHERE ...], with the
 * privileges and the ONLY of Q.
 */
static Query *
scan_query(const Query *definition, Receiver *receiver)
{
	Query	   *query = makeNode(Query);
	RangeTblRef *from = makeNode(RangeTblRef);
	RangeTblEntry *source = NULL;
	ListCell   *cell;
	int			attnum = -1;

	foreach(cell, definition->rtable)
		if (lfirst_node(RangeTblEntry, cell)->rtekind == RTE_RELATION)
			source = lfirst(cell);
	Assert(source != NULL);

	query->commandType = CMD_SELECT;
	query->querySource = QSRC_ORIGINAL;
	query->canSetTag = true;
	weir_query_take_relation(query, definition, source);
	from->rtindex = 1;
	query->jointree = makeFromExpr(list_make1(from), NULL);
	if (receiver->filtered)
		query->jointree->quals = copyObject((Node *) run->plan->filter);

	receiver->columns = palloc(sizeof(AttrNumber) *
							   (bms_num_members(run->plan->wanted) + 1));
	while ((attnum = bms_next_member(run->plan->wanted, attnum)) >= 0)
	{
		Form_pg_attribute att = TupleDescAttr(source_desc, attnum - 1);
		Var		   *var = makeVar(1, attnum, att->atttypid, att->atttypmod,
								  att->attcollation, 0);

		receiver->columns[receiver->n_columns++] = attnum;
		query->targetList =
			lappend(query->targetList,
					makeTargetEntry((Expr *) var, receiver->n_columns,
									pstrdup(NameStr(att->attname)), false));
	}
	return query;
}

/* Waits for what weir.backfill_rate allows. */
static void
throttle(Receiver *receiver, int rows)
{
	receiver->allowance -= rows;
	for (;;)
	{
		TimestampTz now = GetCurrentTimestamp();
		double		rate = weir_backfill_report(0, -1);

		/* a tenth of a second at a time, so that the flow is even */
		receiver->batch_rows = rate == 0 ? WEIR_BATCH_ROWS :
			(int) Max(1.0, Min(rate / 10, WEIR_BATCH_ROWS));
		receiver->allowance += rate * (now - receiver->allowed_at) / USECS_PER_SEC;
		receiver->allowance = Min(receiver->allowance, receiver->batch_rows);
		receiver->allowed_at = now;
		if (rate == 0)
			receiver->allowance = 0;
		if (receiver->allowance >= 0)
			return;
		weir_backfill_wait((long) Min(1000.0, 1 - receiver->allowance * 1000.0 / rate));
	}
}

/* An expression has raised, and on_error is 'stop'. */
static void
raise_stop(const ErrorData *stop)
{
	ereport(ERROR,
			(errcode(stop->sqlerrcode),
			 errmsg("%s", stop->message),
			 errdetail_internal("%s", stop->detail),
			 errhint("%s", stop->hint)));
}

static void
fold_batch(Receiver *receiver)
{
	WeirBatch  *batch = &receiver->batch;
	MemoryContext old = MemoryContextSwitchTo(batch->mcxt);
	Size		room = Min(GROUPS_BYTES,
						   (Size) weir_state_memory_kb * 1024 / 4);
	int			rows = batch->n;

	WEIR_FAULT("backfill-scan");
	/* only our own expressions are watched: a scan may be long without a row */
	weir_watchdog_start();
	if (receiver->filtered)
		weir_run_fold_unguarded(run, batch);
	else
		weir_run_fold(run, batch);
	weir_watchdog_stop();
	if (run->stop != NULL)
		raise_stop(run->stop);
	batch->n = 0;
	receiver->batch_bytes = 0;
	MemoryContextReset(batch->mcxt);
	(void) weir_backfill_report(rows, -1);
	if (weir_group_table_bytes(run->table) +
		weir_value_store_bytes(run->store) > room ||
		weir_kept_letters(run) >= 1000)
		weir_backfill_send();
	throttle(receiver, rows);
	MemoryContextSwitchTo(old);
}

/*
 * A value that outlives its slot: as long as the batch.  Varlenas are not
 * toasted, as weir_change_row() promises for rows of changes.
 */
static Datum
keep_value(Receiver *receiver, Form_pg_attribute att, Datum value)
{
	Size		len;
	char	   *copy;

	if (att->attbyval)
		return value;
	if (att->attlen == -1 && VARATT_IS_EXTENDED(DatumGetPointer(value)) &&
		!VARATT_IS_SHORT(DatumGetPointer(value)))
	{
		copy = (char *) detoast_attr((struct varlena *) DatumGetPointer(value));
		receiver->batch_bytes += VARSIZE_ANY(copy);
		return PointerGetDatum(copy);
	}
	if (att->attlen == -1)
		len = VARSIZE_ANY(DatumGetPointer(value));
	else if (att->attlen == -2)
		len = strlen(DatumGetCString(value)) + 1;
	else
		len = att->attlen;
	copy = palloc(len);
	memcpy(copy, DatumGetPointer(value), len);
	receiver->batch_bytes += len;
	return PointerGetDatum(copy);
}

static bool
receive_row(TupleTableSlot *slot, DestReceiver *self)
{
	Receiver   *receiver = (Receiver *) self;
	WeirBatch  *batch = &receiver->batch;
	MemoryContext old = MemoryContextSwitchTo(batch->mcxt);
	Size		row = (Size) batch->n * batch->natts;

	slot_getallattrs(slot);
	for (int i = 0; i < receiver->n_columns; i++)
	{
		int			at = receiver->columns[i] - 1;

		batch->nulls[row + at] = slot->tts_isnull[i];
		if (!slot->tts_isnull[i])
			batch->values[row + at] =
				keep_value(receiver, TupleDescAttr(receiver->desc, at),
						   slot->tts_values[i]);
	}
	batch->n++;
	MemoryContextSwitchTo(old);
	if (batch->n >= receiver->batch_rows || receiver->batch_bytes >= BATCH_BYTES)
		fold_batch(receiver);
	return true;
}

static void
receiver_nothing(DestReceiver *self)
{
}

static void
receiver_startup(DestReceiver *self, int operation, TupleDesc desc)
{
}

static Receiver *
make_receiver(void)
{
	Receiver   *receiver = palloc0(sizeof(*receiver));
	WeirBatch  *batch = &receiver->batch;
	Size		cells = (Size) WEIR_BATCH_ROWS * source_desc->natts;

	receiver->pub.receiveSlot = receive_row;
	receiver->pub.rStartup = receiver_startup;
	receiver->pub.rShutdown = receiver_nothing;
	receiver->pub.rDestroy = receiver_nothing;
	receiver->pub.mydest = DestNone;
	receiver->desc = source_desc;
	receiver->filtered = run->def->options.on_error == WEIR_ON_ERROR_STOP;
	receiver->batch_rows = WEIR_BATCH_ROWS;
	receiver->allowed_at = GetCurrentTimestamp();

	batch->natts = source_desc->natts;
	batch->mcxt = AllocSetContextCreate(CurrentMemoryContext, "pg_weir batch",
										ALLOCSET_DEFAULT_SIZES);
	batch->values = palloc_extended(sizeof(Datum) * cells, MCXT_ALLOC_HUGE |
									MCXT_ALLOC_ZERO);
	batch->nulls = palloc_extended(sizeof(bool) * cells, MCXT_ALLOC_HUGE);
	memset(batch->nulls, true, sizeof(bool) * cells);
	batch->origins = palloc0(sizeof(WeirRowOrigin) * WEIR_BATCH_ROWS);
	for (int i = 0; i < WEIR_BATCH_ROWS; i++)
	{
		batch->origins[i].diff = 1;
		batch->origins[i].inserted = true;
		/* beyond every position, of no transaction in particular */
		batch->origins[i].end = PG_INT64_MAX;
	}
	return receiver;
}

/* As the owner of the view, in the second transaction. */
static PlannedStmt *
plan_scan(const Query *definition, Receiver *receiver)
{
	Query	   *query = scan_query(definition, receiver);
	int			options = 0;

	/*
	 * Functions in keys and arguments run in this process, which a parallel
	 * query restricts, too, and the planner sees nothing of them.
	 */
	if (receiver->filtered &&
		max_parallel_hazard(copyObject(unconstify(Query *, definition))) !=
		PROPARALLEL_UNSAFE)
		options = CURSOR_OPT_PARALLEL_OK;
	/* row-level security that applies to the owner raises here */
	query = linitial_node(Query, pg_rewrite_query(query));
	return pg_plan_query(query, "pg_weir backfill", options, NULL);
}

void
weir_backfill_scan(WeirRun *view, TupleDesc desc, MemoryContext mcxt)
{
	Receiver   *receiver;
	Query	   *definition;
	PlannedStmt *plan;
	QueryDesc  *query_desc;
	WeirOwnerScope scope;

	run = view;
	source_desc = desc;
	MemoryContextSwitchTo(mcxt);
	receiver = make_receiver();
	PushActiveSnapshot(GetTransactionSnapshot());
	definition = weir_catalog_query(run->def->query_view);
	if (definition == NULL)
		ereport(ERROR,
				(errcode(WEIR_ERRCODE_CHANGED),
				 errmsg("the view was dropped")));
	weir_owner_begin(&scope, run->def->owner);
	plan = plan_scan(definition, receiver);
	if (receiver->filtered)
		run->filter = NULL;
	(void) weir_backfill_report(0, (int64) Min(plan->planTree->plan_rows, 1e18));

	query_desc = CreateQueryDesc(plan, "pg_weir backfill", GetActiveSnapshot(),
								 InvalidSnapshot, &receiver->pub, NULL, NULL, 0);
	ExecutorStart(query_desc, 0);
	weir_executor_run(query_desc);
	if (receiver->batch.n > 0)
		fold_batch(receiver);
	ExecutorFinish(query_desc);
	ExecutorEnd(query_desc);
	FreeQueryDesc(query_desc);
	weir_owner_end(&scope);
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(mcxt);
}
