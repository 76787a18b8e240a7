/*-------------------------------------------------------------------------
 *
 * kafka_scan.c
 *	  SELECT on a Kafka foreign table.
 *
 * A scan asks the broker what the topic holds now, assigns every partition
 * that the conditions leave, and reads each up to the end that it had then:
 *
 *	   start			 poll ...						  end
 *	 ranges, bounds --> [low, high) of each partition --> all done
 *
 * A partition is done when its last wanted offset has been seen, when a later
 * one has, or when the broker says that nothing follows; offsets have gaps
 * (compaction, transaction markers), so the last wanted message may not exist.
 * Messages that arrive during the scan are not read.  A rescan reads the same
 * ranges again, or a join would see two states of the topic.
 *
 * Nothing is contacted before the first row is asked for, and the consumer is
 * closed with the last row, or with the statement (its ResourceOwner) when
 * that fails or stops early.  A cursor keeps it between FETCHes.
 *
 * What the scan does not do: remember positions.  That is what continuous
 * views are for.
 *
 *-------------------------------------------------------------------------
 */
#define WEIR_EXPLAIN
#include "fdw/kafka_fdw.h"

#include "access/xact.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/resowner.h"
#include "utils/ruleutils.h"
#include "utils/timestamp.h"

/* As many as make a poll cheap, as few as make a LIMIT cheap. */
#define SCAN_BATCH 1000

/* The longest nap: a wake-up that got lost costs no more than this. */
#define NAP_MS 500

typedef struct ScanPartition
{
	int64		first;			/* offset where this scan begins */
	int64		end;			/* exclusive */
	bool		done;
} ScanPartition;

typedef struct KafkaScan
{
	Oid			foreign_table;
	Oid			user_id;
	char	   *topic;
	bool		skip_errors;
	int			timeout_ms;
	WeirDecoder *decoder;
	MemoryContext mcxt;			/* holds this struct; the query's */

	List	   *quals;			/* of WeirKafkaQual */
	List	   *values;			/* of ExprState, one a qual */

	/* the topic at the first start; later starts read no other range */
	WeirPartitionRange *ranges;
	int			n_ranges;

	/* one reading */
	bool		started;
	WeirKafkaConsumer *consumer;	/* NULL when there is nothing to read */
	ScanPartition *partitions;	/* indexed by partition */
	int			n_open;			/* partitions that are not done */
	WeirMessage *messages;
	int			n_messages;
	int			next_message;

	/* for EXPLAIN ANALYZE */
	int64		skipped;		/* undecodable */
	int64		tombstones;
} KafkaScan;

static void start(ForeignScanState *node, KafkaScan *scan);
static void fetch_ranges(KafkaScan *scan, TimestampTz since);
static bool fill(KafkaScan *scan);
static bool wanted(KafkaScan *scan, const WeirMessage *message);
static void finish_partition(KafkaScan *scan, int32 partition);
static bool decode(KafkaScan *scan, const WeirMessage *message,
				   TupleTableSlot *slot);
static WeirVerdict decode_or_raise(KafkaScan *scan, const WeirMessage *message,
								   TupleTableSlot *slot,
								   WeirDecodeError *error);
static WeirVerdict decode_guarded(KafkaScan *scan, const WeirMessage *message,
								  TupleTableSlot *slot,
								  WeirDecodeError *error);
weir_noreturn static void raise_bad_message(KafkaScan *scan,
											const WeirMessage *message,
											int sqlstate, const char *why);
static void raise_source_error(KafkaScan *scan, const WeirMessage *message);
static void stop(KafkaScan *scan);

void
weir_kafka_begin_scan(ForeignScanState *node, int eflags)
{
	ForeignScan *plan = (ForeignScan *) node->ss.ps.plan;
	EState	   *estate = node->ss.ps.state;
	Relation	rel = node->ss.ss_currentRelation;
	KafkaScan  *scan = palloc0(sizeof(KafkaScan));
	Bitmapset  *columns = NULL;
	WeirKafkaTarget *target;
	ListCell   *lc;

	node->fdw_state = scan;
	scan->mcxt = estate->es_query_cxt;
	scan->foreign_table = RelationGetRelid(rel);
	scan->user_id = weir_scan_user(node);
	if (!OidIsValid(scan->user_id))
		scan->user_id = GetUserId();
	target = weir_kafka_target(scan->foreign_table, scan->user_id);
	scan->topic = target->topic;
	scan->skip_errors = target->skip_errors;
	scan->timeout_ms = target->timeout_ms;
	if (eflags & EXEC_FLAG_EXPLAIN_ONLY)
		return;

	foreach(lc, plan->fdw_private)
		columns = bms_add_member(columns, lfirst_int(lc));
	scan->decoder = weir_decoder_create(scan->foreign_table, RelationGetDescr(rel),
										columns, estate->es_query_cxt);

	foreach(lc, plan->fdw_exprs)
	{
		WeirKafkaQual *qual = palloc(sizeof(WeirKafkaQual));

		/* an option may have changed since the plan was made */
		if (!weir_kafka_qual(plan->scan.scanrelid, scan->foreign_table,
							 (Expr *) lfirst(lc), qual))
			continue;
		scan->quals = lappend(scan->quals, qual);
		scan->values = lappend(scan->values,
							   ExecInitExpr(qual->value, (PlanState *) node));
	}
	scan->messages = palloc(sizeof(WeirMessage) * SCAN_BATCH);
}

TupleTableSlot *
weir_kafka_iterate_scan(ForeignScanState *node)
{
	KafkaScan  *scan = (KafkaScan *) node->fdw_state;
	TupleTableSlot *slot = node->ss.ss_ScanTupleSlot;

	ExecClearTuple(slot);
	if (!scan->started)
		start(node, scan);

	for (;;)
	{
		while (scan->next_message < scan->n_messages)
		{
			WeirMessage *message = &scan->messages[scan->next_message++];

			if (wanted(scan, message) && decode(scan, message, slot))
				return ExecStoreVirtualTuple(slot);
		}
		if (!fill(scan))
			return slot;
	}
}

/*
 * Parameters may have new values; the topic keeps the state that we saw.  A new
 * consumer is ready in a few milliseconds, while a new assignment would wait
 * behind the fetch that the old one has left at the broker.
 */
void
weir_kafka_rescan(ForeignScanState *node)
{
	KafkaScan  *scan = (KafkaScan *) node->fdw_state;

	stop(scan);
	scan->started = false;
}

void
weir_kafka_end_scan(ForeignScanState *node)
{
	KafkaScan  *scan = (KafkaScan *) node->fdw_state;

	if (scan != NULL)
		stop(scan);
}

static void
stop(KafkaScan *scan)
{
	if (scan->consumer != NULL)
		weir_kafka_close(scan->consumer);
	scan->consumer = NULL;
	scan->n_messages = scan->next_message = 0;
}

/* Evaluates the conditions and assigns what they leave. */
static void
start(ForeignScanState *node, KafkaScan *scan)
{
	ExprContext *econtext = node->ss.ps.ps_ExprContext;
	MemoryContext caller = MemoryContextSwitchTo(scan->mcxt);
	WeirKafkaBounds bounds;
	WeirPosition *positions;
	int			n = 0;
	ListCell   *lc1,
			   *lc2;

	scan->started = true;
	scan->n_open = 0;
	scan->n_messages = scan->next_message = 0;

	weir_kafka_bounds_init(&bounds);
	forboth(lc1, scan->quals, lc2, scan->values)
	{
		bool		isnull;
		Datum		value = ExecEvalExpr((ExprState *) lfirst(lc2), econtext, &isnull);

		weir_kafka_bounds_add(&bounds, lfirst(lc1), value, isnull);
	}
	if (bounds.nothing)
	{
		MemoryContextSwitchTo(caller);
		return;
	}

	/* the portal's owner: it outlives subtransactions of a cursor's user */
	scan->consumer = weir_kafka_open_owned(scan->foreign_table, scan->user_id,
										   CurrentResourceOwner);
	fetch_ranges(scan, bounds.since);

	positions = palloc(sizeof(WeirPosition) * scan->n_ranges);
	for (int i = 0; i < scan->n_ranges; i++)
	{
		WeirPartitionRange *range = &scan->ranges[i];
		ScanPartition *partition = &scan->partitions[i];

		partition->first = Max(range->low, bounds.low);
		if (range->at_time >= 0)
			partition->first = Max(partition->first, range->at_time);
		partition->end = Min(range->high, bounds.high);
		partition->done = (partition->first >= partition->end ||
						   !weir_kafka_bounds_partition(&bounds, i));
		if (partition->done)
		{
			partition->end = partition->first;
			continue;
		}
		positions[n++] = (WeirPosition)
		{
			.partition = i,
			.offset = partition->first
		};
	}
	scan->n_open = n;
	if (n > 0)
		weir_kafka_assign(scan->consumer, positions, n);
	pfree(positions);
	MemoryContextSwitchTo(caller);
}

/*
 * The first time, what the topic holds; later only where `since` lies in it.
 */
static void
fetch_ranges(KafkaScan *scan, TimestampTz since)
{
	WeirKafkaHandle *handle = weir_kafka_handle_of(scan->consumer);
	WeirKafkaEvent failure;
	WeirPartitionRange *ranges;
	int			n;

	if (scan->ranges != NULL)
		for (int i = 0; i < scan->n_ranges; i++)
			scan->ranges[i].at_time = -1;
	if (scan->ranges != NULL && TIMESTAMP_IS_NOBEGIN(since))
		return;

	ranges = weir_kafka_list(handle, since, scan->timeout_ms, true, &n, &failure);
	if (ranges == NULL)
		weir_kafka_raise(handle, &failure);
	if (scan->ranges == NULL)
	{
		scan->ranges = ranges;
		scan->n_ranges = n;
		scan->partitions = palloc0(sizeof(ScanPartition) * n);
		return;
	}
	for (int i = 0; i < Min(n, scan->n_ranges); i++)
		scan->ranges[i].at_time = Min(ranges[i].at_time, scan->ranges[i].high);
	pfree(ranges);
}

/* Gets the next messages, waiting for them; false at the end of the scan. */
static bool
fill(KafkaScan *scan)
{
	WeirKafkaHandle *handle;
	TimestampTz deadline;

	/* all read: end librdkafka's threads now, not when a long statement ends */
	if (scan->n_open == 0)
	{
		stop(scan);
		return false;
	}

	handle = weir_kafka_handle_of(scan->consumer);
	deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), scan->timeout_ms);
	for (;;)
	{
		CHECK_FOR_INTERRUPTS();
		scan->next_message = 0;
		scan->n_messages = weir_kafka_poll(scan->consumer, scan->messages,
										   SCAN_BATCH);
		if (scan->n_messages > 0)
		{
			WeirMessage *first = &scan->messages[0];

			/* transient errors are no progress: the deadline goes on */
			if (scan->n_messages > 1 || first->kind != WEIR_SOURCE_ERROR)
				return true;
			raise_source_error(scan, first);
		}
		if (GetCurrentTimestamp() >= deadline)
		{
			WeirKafkaEvent event;

			weir_kafka_event_set(&event, RD_KAFKA_RESP_ERR__TIMED_OUT,
								 handle->last_words[0] ? handle->last_words :
								 "no message arrived within the time-out");
			weir_kafka_raise(handle, &event);
		}
		if (scan->n_messages == 0)
			weir_kafka_handle_wait(handle, NAP_MS);
	}
}

/*
 * Keeps the books of the partition; true for a message that belongs to the
 * result.
 */
static bool
wanted(KafkaScan *scan, const WeirMessage *message)
{
	ScanPartition *partition;

	if (message->kind == WEIR_SOURCE_ERROR)
	{
		raise_source_error(scan, message);
		return false;
	}
	if (message->partition < 0 || message->partition >= scan->n_ranges)
		return false;
	partition = &scan->partitions[message->partition];
	if (partition->done)
		return false;

	if (message->kind == WEIR_GAP)
		ereport(ERROR,
				(errcode(message->sqlstate),
				 errmsg("messages of topic \"%s\" disappeared during the scan",
						scan->topic),
				 errdetail("Offset %lld of partition %d is no longer in the topic.",
						   (long long) message->offset, message->partition),
				 errhint("The topic's retention has removed it; repeat the query.")));

	if (message->kind == WEIR_END_OF_PARTITION)
	{
		/* a replica that lags may reach its own end before ours */
		if (message->offset >= partition->end)
			finish_partition(scan, message->partition);
		return false;
	}

	if (message->offset >= partition->end - 1)
		finish_partition(scan, message->partition);
	return message->offset < partition->end;
}

/* Stops fetching what nobody will read, unless all of it ends anyway. */
static void
finish_partition(KafkaScan *scan, int32 partition)
{
	scan->partitions[partition].done = true;
	if (--scan->n_open > 0)
		weir_kafka_pause(scan->consumer, partition);
}

/* True with a row in the slot, to be stored; false for none. */
static bool
decode(KafkaScan *scan, const WeirMessage *message, TupleTableSlot *slot)
{
	WeirDecodeError error = {0};
	WeirVerdict verdict;

	memset(slot->tts_isnull, true, slot->tts_tupleDescriptor->natts);
	verdict = scan->skip_errors ?
		decode_guarded(scan, message, slot, &error) :
		decode_or_raise(scan, message, slot, &error);

	switch (verdict)
	{
		case WEIR_ROW:
			return true;
		case WEIR_SKIP:
			scan->tombstones++;
			return false;
		case WEIR_BAD:
			if (!scan->skip_errors)
				raise_bad_message(scan, message, error.sqlstate, error.message);
			scan->skipped++;
			return false;
	}
	return false;
}

/*
 * Input functions raise; what they say about data is said again with the
 * message's place.  Nothing is caught for good here, so no subtransaction.
 */
static WeirVerdict
decode_or_raise(KafkaScan *scan, const WeirMessage *message,
				TupleTableSlot *slot, WeirDecodeError *error)
{
	MemoryContext caller = CurrentMemoryContext;
	volatile WeirVerdict verdict = WEIR_BAD;

	PG_TRY();
	{
		verdict = weir_decode(scan->decoder, message, slot->tts_values,
							  slot->tts_isnull, error);
	}
	PG_CATCH();
	{
		ErrorData  *data;
		int			category = ERRCODE_TO_CATEGORY(geterrcode());

		if (category != ERRCODE_DATA_EXCEPTION &&
			category != ERRCODE_INTEGRITY_CONSTRAINT_VIOLATION)
			PG_RE_THROW();
		MemoryContextSwitchTo(caller);
		data = CopyErrorData();
		FlushErrorState();
		raise_bad_message(scan, message, data->sqlerrcode, data->message);
	}
	PG_END_TRY();
	return verdict;
}

/*
 * scan_errors 'skip': an input function's error must leave nothing behind, so
 * each message gets a subtransaction (some microseconds; it writes nothing).
 * A parallel query can have none; there such an error is an error.
 */
static WeirVerdict
decode_guarded(KafkaScan *scan, const WeirMessage *message,
			   TupleTableSlot *slot, WeirDecodeError *error)
{
	MemoryContext caller = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	volatile WeirVerdict verdict = WEIR_BAD;

	if (IsInParallelMode())
		return decode_or_raise(scan, message, slot, error);

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(caller);
	PG_TRY();
	{
		verdict = weir_decode(scan->decoder, message, slot->tts_values,
							  slot->tts_isnull, error);
		ReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(caller);
		CurrentResourceOwner = owner;
	}
	PG_CATCH();
	{
		int			category = ERRCODE_TO_CATEGORY(geterrcode());

		/* a cancel, or memory that ran out, is not the message's fault */
		if (category != ERRCODE_DATA_EXCEPTION &&
			category != ERRCODE_INTEGRITY_CONSTRAINT_VIOLATION)
			PG_RE_THROW();
		MemoryContextSwitchTo(caller);
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(caller);
		CurrentResourceOwner = owner;
		verdict = WEIR_BAD;
	}
	PG_END_TRY();
	return verdict;
}

static void
raise_bad_message(KafkaScan *scan, const WeirMessage *message, int sqlstate,
				  const char *why)
{
	ereport(ERROR,
			(errcode(sqlstate),
			 errmsg("could not decode a message of topic \"%s\"", scan->topic),
			 errdetail("Partition %d, offset %lld: %s",
					   message->partition, (long long) message->offset, why),
			 errhint("Foreign table option scan_errors 'skip' leaves such messages out.")));
}

/* Errors that may pass are waited out by fill(). */
static void
raise_source_error(KafkaScan *scan, const WeirMessage *message)
{
	WeirKafkaEvent event;

	if (message->transient)
		return;
	weir_kafka_event_set(&event, RD_KAFKA_RESP_ERR_UNKNOWN, message->payload);
	event.sqlstate = message->sqlstate;
	weir_kafka_raise(weir_kafka_handle_of(scan->consumer), &event);
}

void
weir_kafka_explain_scan(ForeignScanState *node, ExplainState *es)
{
	KafkaScan  *scan = (KafkaScan *) node->fdw_state;
	ForeignScan *plan = (ForeignScan *) node->ss.ps.plan;

	ExplainPropertyText("Topic", scan->topic, es);
	if (plan->fdw_exprs != NIL)
	{
		List	   *context = set_deparse_context_plan(es->deparse_cxt,
													   (Plan *) plan, NIL);
		bool		prefix = list_length(es->rtable) > 1 || es->verbose;

		ExplainPropertyText("Pushed Conditions",
							deparse_expression((Node *) make_ands_explicit(plan->fdw_exprs),
											   context, prefix, false), es);
	}
	if (es->analyze && scan->partitions != NULL)
	{
		StringInfoData text;

		initStringInfo(&text);
		for (int i = 0; i < scan->n_ranges; i++)
			if (scan->partitions[i].first < scan->partitions[i].end)
				appendStringInfo(&text, "%s%d [%lld,%lld)", text.len ? ", " : "", i,
								 (long long) scan->partitions[i].first,
								 (long long) scan->partitions[i].end);
		ExplainPropertyText("Offsets Read", text.len ? text.data : "none", es);
	}
	if (es->analyze && scan->skipped > 0)
		ExplainPropertyInteger("Messages Skipped", NULL, scan->skipped, es);
	if (es->analyze && scan->tombstones > 0)
		ExplainPropertyInteger("Tombstones", NULL, scan->tombstones, es);
}
