/*-------------------------------------------------------------------------
 *
 * backfill_process.c
 *	  Backfills: the process that scans the table.
 *
 * One process computes the states of one view over the rows that its source had
 * at a snapshot S, and exits.  It receives its place in shared memory through
 * bgw_extra, finds the definition in the catalog, and sends groups, as the bytes
 * of their stored rows, through a queue to the worker (backfill.c).  It writes
 * nothing into any table.
 *
 * Two transactions, so that the source is locked before S is taken:
 *
 *	1. locks the source and all that inherit from it, opens the view.  This
 *	   reads on snapshots of its own, and no other may be imported after
 *	2. keeps the locks (as locks of the session in between), READY, waits for
 *	   S, takes it over, scans
 *
 * The rows come from the executor, which knows how to read any table: access
 * methods, inheritance, privileges.  They go through the same fold as changes
 * do, as rows added once.  If an error of any row ends the backfill anyhow
 * (on_error = 'stop'), WHERE is left to the executor, too: an index or
 * parallel workers may help.  Else it stays with the fold, which makes a dead
 * letter of a row that raises; for that it needs a subtransaction, which
 * parallel queries do not allow.
 *
 * Memory is bounded: groups are sent and forgotten when they have grown to
 * some size.  States merge in any order, so a group may be sent many times.
 *
 * It ends when the queue has lost its other end or its place is another's: then
 * nobody waits for the result.
 *
 *-------------------------------------------------------------------------
 */
#include "runtime/backfill.h"

#include "access/detoast.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_proc.h"
#include "executor/execdesc.h"
#include "libpq/pqformat.h"
#include "libpq/pqsignal.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "optimizer/clauses.h"
#include "parser/parse_relation.h"
#include "parser/parsetree.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "runtime/watchdog.h"
#include "storage/dsm.h"
#include "storage/ipc.h"
#include "storage/lmgr.h"
#include "storage/shm_mq.h"
#include "tcop/dest.h"
#include "tcop/tcopprot.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

/* Bytes of a message: small enough for the worker to stop after each. */
#define MESSAGE_BYTES (64 * 1024)

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

/* This process. */
static WeirBackfillPlace *place;
static uint64 ticket;
static shm_mq_handle *queue;
static MemoryContext process_mcxt;
static WeirRun *run;
static TupleDesc source_desc;
static List *locked;			/* OIDs: the source and what inherits from it */
static WeirBooks sent;			/* counters that the worker knows */

/* ------------------------------------------------------------------ place */

/* The lock is held: nobody waits for us any more. */
static void
lock_place(LWLockMode mode)
{
	LWLockAcquire(weir_shared->lock, mode);
	if (place->ticket != ticket)
	{
		LWLockRelease(weir_shared->lock);
		proc_exit(0);
	}
}

static void
set_state(WeirPlaceState state)
{
	lock_place(LW_EXCLUSIVE);
	place->state = state;
	if (state == WEIR_PLACE_SCANNING)
		place->started = GetCurrentTimestamp();
	SetLatch(place->worker_latch);
	LWLockRelease(weir_shared->lock);
}

static void
leave_place(int code, Datum arg)
{
	LWLockAcquire(weir_shared->lock, LW_EXCLUSIVE);
	if (place->pid == MyProcPid)
	{
		place->pid = 0;
		place->latch = NULL;
	}
	LWLockRelease(weir_shared->lock);
}

static dsm_handle
enter_place(const WeirBackfillArgs *args)
{
	dsm_handle	handle;

	place = &weir_shared->places[args->place];
	ticket = args->ticket;
	lock_place(LW_EXCLUSIVE);
	place->pid = MyProcPid;
	place->latch = MyLatch;
	handle = place->queue;
	LWLockRelease(weir_shared->lock);
	before_shmem_exit(leave_place, (Datum) 0);
	weir_watchdog_culprit = &place->culprit;
	return handle;
}

static void
wait_for_latch(long ms)
{
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 ms, PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

/* ---------------------------------------------------------------- sending */

static void
send_message(StringInfo message)
{
	/* waits while the queue is full; whoever has left does not read */
	if (shm_mq_send(queue, message->len, message->data, false, true) !=
		SHM_MQ_SUCCESS)
		proc_exit(0);
}

static void
send_text(StringInfo message, const char *text)
{
	if (text == NULL)
		text = "";
	appendBinaryStringInfo(message, text, (int) strlen(text) + 1);
}

static void
send_letters(StringInfo message)
{
	ListCell   *cell;

	foreach(cell, run->dead_letters)
	{
		WeirDeadLetter *letter = lfirst(cell);

		resetStringInfo(message);
		pq_sendbyte(message, WEIR_BACKFILL_LETTER);
		pq_sendint32(message, letter->sqlstate);
		send_text(message, letter->message);
		send_message(message);
	}
	run->dead_letters = NIL;
	MemoryContextReset(run->interval);
}

static void
send_counters(StringInfo message)
{
	WeirBooks  *books = weir_run_books(run, 0);

	resetStringInfo(message);
	pq_sendbyte(message, WEIR_BACKFILL_COUNTERS);
	pq_sendint64(message, books->rows_in - sent.rows_in);
	pq_sendint64(message, books->rows_filtered - sent.rows_filtered);
	pq_sendint64(message, books->dead_letters - sent.dead_letters);
	send_message(message);
	sent = *books;
}

/* All groups are forgotten. */
static void
clear_groups(void)
{
	int			n_states;
	Size		words_size;
	WeirState  *states = weir_group_table_states(run->table, &n_states,
												 &words_size);

	weir_group_table_destroy(run->table);
	run->table = NULL;
	weir_value_store_destroy(run->store);
	run->store = NULL;
	run->store = weir_value_store_create(run->mcxt);
	for (int i = 0; i < n_states; i++)
		states[i].store = run->store;
	run->table = weir_group_table_create(run->mcxt, run->format, states,
										 n_states, words_size, run->presence);
	run->n_dirty = 0;
}

static void
send_all(void)
{
	MemoryContext mcxt = AllocSetContextCreate(CurrentMemoryContext,
											   "pg_weir backfill message",
											   ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(mcxt);
	uint64		cursor = 0;
	WeirGroup  *group;
	StringInfoData message;

	WEIR_FAULT("backfill-send");
	initStringInfo(&message);
	do
	{
		resetStringInfo(&message);
		pq_sendbyte(&message, WEIR_BACKFILL_GROUPS);
		while (message.len < MESSAGE_BYTES &&
			   (group = weir_group_table_next(run->table, &cursor)) != NULL)
		{
			int			at = message.len;
			uint32		len;

			pq_sendint32(&message, 0);
			weir_group_save(run->table, group, &message);
			len = pg_hton32(message.len - at - sizeof(len));
			memcpy(message.data + at, &len, sizeof(len));
		}
		send_message(&message);
	} while (group != NULL);
	clear_groups();
	send_letters(&message);
	send_counters(&message);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(mcxt);
}

static void
send_end(void)
{
	StringInfoData message;

	WEIR_FAULT("backfill-done");
	initStringInfo(&message);
	pq_sendbyte(&message, WEIR_BACKFILL_ENDS);
	send_message(&message);
}

static void
send_error(const ErrorData *error)
{
	StringInfoData message;

	initStringInfo(&message);
	pq_sendbyte(&message, WEIR_BACKFILL_ERROR);
	pq_sendint32(&message, error->sqlerrcode);
	pq_sendbyte(&message, run != NULL && run->stop != NULL && run->needs_person);
	send_text(&message, error->message);
	send_text(&message, error->detail);
	send_text(&message, error->hint);
	send_message(&message);
}

/* ---------------------------------------------------------------- opening */

/* The definition that the worker runs, its settings in force. */
static WeirViewDef *
read_definition(void)
{
	MemoryContext old;
	WeirViewDef *def;
	bool		same;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	old = MemoryContextSwitchTo(process_mcxt);
	def = weir_catalog_view(place->view);
	MemoryContextSwitchTo(old);
	PopActiveSnapshot();
	CommitTransactionCommand();

	lock_place(LW_SHARED);
	same = def != NULL && strcmp(def->id, place->view_id) == 0 &&
		def->epoch == place->epoch;
	LWLockRelease(weir_shared->lock);
	if (!same)
		ereport(ERROR,
				(errcode(WEIR_ERRCODE_CHANGED),
				 errmsg("the definition of the view has changed")));
	weir_pin_settings(def->settings);
	return def;
}

/* Returns the OIDs of what it has locked. */
static List *
lock_source(Oid source)
{
	Relation	rel = table_open(source, AccessShareLock);
	MemoryContext old = MemoryContextSwitchTo(process_mcxt);
	List	   *result;

	source_desc = CreateTupleDescCopy(RelationGetDescr(rel));
	result = find_all_inheritors(source, AccessShareLock, NULL);
	MemoryContextSwitchTo(old);
	table_close(rel, NoLock);
	return result;
}

/*
 * From the transaction that has opened the view to the one that scans, without
 * letting go of the source.  Nothing here looks at interrupts while locks are
 * the session's.
 */
static void
change_transactions(void)
{
	ListCell   *cell;

	foreach(cell, locked)
	{
		LockRelId	id = {.relId = lfirst_oid(cell),.dbId = MyDatabaseId};

		LockRelationIdForSession(&id, AccessShareLock);
	}
	PopActiveSnapshot();
	CommitTransactionCommand();

	StartTransactionCommand();
	XactIsoLevel = XACT_REPEATABLE_READ;
	foreach(cell, locked)
	{
		LockRelId	id = {.relId = lfirst_oid(cell),.dbId = MyDatabaseId};

		LockRelationOid(id.relId, AccessShareLock);
		UnlockRelationIdForSession(&id, AccessShareLock);
	}
}

/* Afterwards the second transaction is open, which has no snapshot yet. */
static void
open_view(WeirViewDef *def)
{
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	locked = lock_source(def->source);
	run = weir_run_open(def, source_desc);
	/* the one row of a query without GROUP BY is the worker's */
	clear_groups();
	sent = *weir_run_books(run, 0);
	change_transactions();
}

/*
 * The same, again and again while somebody holds a lock: lock_timeout makes each
 * attempt short, so that whoever wants a stronger lock does not wait for us
 * while we wait for another.
 */
static void
open_view_patiently(WeirViewDef *def)
{
	for (;;)
	{
		MemoryContext caller = CurrentMemoryContext;
		volatile bool opened = true;

		PG_TRY();
		{
			open_view(def);
		}
		PG_CATCH();
		{
			int			sqlstate = geterrcode();

			if (sqlstate != ERRCODE_LOCK_NOT_AVAILABLE &&
				sqlstate != ERRCODE_T_R_DEADLOCK_DETECTED)
				PG_RE_THROW();
			(void) weir_catch(caller);
			opened = false;
		}
		PG_END_TRY();
		if (opened)
			break;
		wait_for_latch(1000);
		lock_place(LW_SHARED);
		LWLockRelease(weir_shared->lock);
	}
}

/* Waits for S, and makes it this transaction's. */
static void
take_snapshot(void)
{
	char		name[sizeof(place->snapshot)];
	bool		offered;
	bool		in_time;

	for (;;)
	{
		/* VACUUM shall not care for what we have read by now */
		InvalidateCatalogSnapshot();
		lock_place(LW_SHARED);
		offered = place->state == WEIR_PLACE_OFFERED;
		strlcpy(name, place->snapshot, sizeof(name));
		LWLockRelease(weir_shared->lock);
		if (offered)
			break;
		wait_for_latch(10000);
	}
	ImportSnapshot(name);

	/* the worker may have got tired of waiting for us */
	lock_place(LW_EXCLUSIVE);
	in_time = place->state == WEIR_PLACE_OFFERED &&
		strcmp(name, place->snapshot) == 0;
	if (in_time)
	{
		place->state = WEIR_PLACE_SCANNING;
		place->started = GetCurrentTimestamp();
		SetLatch(place->worker_latch);
	}
	LWLockRelease(weir_shared->lock);
	if (!in_time)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("the snapshot of a backfill came too late")));

	/* ATTACH PARTITION is not kept off by our locks */
	if (!equal(find_all_inheritors(linitial_oid(locked), AccessShareLock, NULL),
			   locked))
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("partitions of the source changed while its backfill began")));
}

/* --------------------------------------------------------------- the scan */

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
		double		rate;

		lock_place(LW_SHARED);
		rate = place->rate;
		LWLockRelease(weir_shared->lock);

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
		wait_for_latch((long) Min(1000.0, 1 - receiver->allowance * 1000.0 / rate));
	}
}

static void
report_progress(int rows)
{
	lock_place(LW_EXCLUSIVE);
	place->rows_done += rows;
	LWLockRelease(weir_shared->lock);
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
						   (Size) weir_state_memory_mb * 1024 * 1024 / 4);
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
	report_progress(rows);
	if (weir_group_table_bytes(run->table) +
		weir_value_store_bytes(run->store) > room ||
		list_length(run->dead_letters) >= 1000)
		send_all();
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
	batch->mcxt = AllocSetContextCreate(process_mcxt, "pg_weir batch",
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

static void
scan(void)
{
	MemoryContext old = MemoryContextSwitchTo(process_mcxt);
	Receiver   *receiver = make_receiver();
	Query	   *definition;
	PlannedStmt *plan;
	QueryDesc  *query_desc;
	WeirOwnerScope scope;

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
	lock_place(LW_EXCLUSIVE);
	place->rows_estimate = (int64) Min(plan->planTree->plan_rows, 1e18);
	LWLockRelease(weir_shared->lock);

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
	MemoryContextSwitchTo(old);
}

static void
backfill(void)
{
	WeirViewDef *def;

	WEIR_FAULT("backfill-start");
	def = read_definition();
	weir_watchdog_view = def->relid;
	open_view_patiently(def);
	WEIR_FAULT("backfill-ready");
	set_state(WEIR_PLACE_READY);
	take_snapshot();
	scan();
	set_state(WEIR_PLACE_SCANNED);
	send_all();
	send_end();
}

void
weir_backfill_main(Datum arg)
{
	WeirBackfillArgs args;
	dsm_handle	handle;
	dsm_segment *segment;
	shm_mq	   *mq;

	memcpy(&args, MyBgworkerEntry->bgw_extra, sizeof(args));
	pqsignal(SIGTERM, die);
	/* the worker tells us what we need of the configuration */
	pqsignal(SIGHUP, SIG_IGN);
	BackgroundWorkerUnblockSignals();
	handle = enter_place(&args);
	BackgroundWorkerInitializeConnectionByOid(args.database, InvalidOid, 0);
	process_mcxt = AllocSetContextCreate(TopMemoryContext, "pg_weir backfill",
										 ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(process_mcxt);

	segment = dsm_attach(handle);
	if (segment == NULL)
		proc_exit(0);			/* the worker is gone */
	mq = dsm_segment_address(segment);
	shm_mq_set_sender(mq, MyProc);
	queue = shm_mq_attach(mq, segment, NULL);
	weir_watchdog_install();
	weir_pin_own_settings();

	PG_TRY();
	{
		backfill();
	}
	PG_CATCH();
	{
		ErrorData  *error;

		error = weir_catch(process_mcxt);
		weir_watchdog_explain(error);
		send_error(error);
	}
	PG_END_TRY();
	proc_exit(0);
}
