/*-------------------------------------------------------------------------
 *
 * kafka_insert.c
 *	  INSERT and COPY into a Kafka foreign table.
 *
 * Each row becomes a message in librdkafka's queue, which its threads empty in
 * batches; at the end of the statement we wait until the broker has
 * acknowledged every one (acks=all, idempotent: a retry of librdkafka's makes
 * no second copy).  One that failed makes the statement fail, in the broker's
 * words.
 *
 * What an INSERT cannot give is a way back.  A message that is produced stays
 * produced: not ROLLBACK, not an error in the last row takes it away, and a
 * statement that is repeated after an error produces twice.  A user who writes
 * BEGIN expects otherwise, so that a transaction block is refused unless he
 * has said that he knows (weir.produce_in_transaction).  A function, DO block
 * or trigger counts as a block: its statements too stand or fall together.
 *
 *-------------------------------------------------------------------------
 */
#include "fdw/kafka_fdw.h"

#include "access/xact.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/pmsignal.h"
#include "tcop/cmdtag.h"
#include "tcop/pquery.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/portal.h"
#include "utils/rel.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"

/* How long one call into librdkafka may block: a cancel waits no longer. */
#define SLICE_MS 50

typedef struct KafkaInsert
{
	WeirKafkaHandle *handle;
	WeirEncoder *encoder;
	MemoryContext row_mcxt;		/* reset for each row */
	char	   *topic;
	int			n_partitions;
	int			timeout_ms;
	int64		produced;		/* handed to librdkafka */
} KafkaInsert;

static void begin(ResultRelInfo *result_rel, EState *estate);
static bool is_lone_statement(EState *estate);
static void produce(KafkaInsert *insert, const WeirOutMessage *message);
static rd_kafka_error_t *enqueue(KafkaInsert *insert,
								 const WeirOutMessage *message);
static void flush(KafkaInsert *insert);
static void check_events(KafkaInsert *insert);
weir_noreturn static void raise_failure(KafkaInsert *insert);

void
weir_kafka_begin_modify(ModifyTableState *mtstate, ResultRelInfo *result_rel,
						List *private, int subplan, int eflags)
{
	if ((eflags & EXEC_FLAG_EXPLAIN_ONLY) == 0)
		begin(result_rel, mtstate->ps.state);
}

/* COPY, and rows that a partitioned table sends here. */
void
weir_kafka_begin_insert(ModifyTableState *mtstate, ResultRelInfo *result_rel)
{
	begin(result_rel, mtstate->ps.state);
}

static void
begin(ResultRelInfo *result_rel, EState *estate)
{
	Relation	rel = result_rel->ri_RelationDesc;
	Oid			foreign_table = RelationGetRelid(rel);
	Oid			user_id = weir_result_rel_user(result_rel, estate);
	MemoryContext caller;
	KafkaInsert *insert;
	WeirPartitionRange *ranges;

	if (!OidIsValid(user_id))
		user_id = GetUserId();
	if (!weir_produce_in_transaction && !is_lone_statement(estate))
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("cannot insert into Kafka foreign table \"%s\" inside a transaction block",
						RelationGetRelationName(rel)),
				 errdetail("Messages that have been produced are not undone by ROLLBACK."),
				 errhint("Run the statement by itself, or set weir.produce_in_transaction to on.")));

	caller = MemoryContextSwitchTo(estate->es_query_cxt);
	insert = palloc0(sizeof(KafkaInsert));
	insert->encoder = weir_encoder_create(foreign_table, RelationGetDescr(rel));
	insert->row_mcxt = AllocSetContextCreate(estate->es_query_cxt,
											 "pg_weir kafka insert",
											 ALLOCSET_DEFAULT_SIZES);

	/*
	 * A producer would let the broker create a topic that was misspelled, and
	 * would find out about a wrong password after minutes: ask first.
	 */
	ranges = weir_kafka_probe(foreign_table, user_id, DT_NOBEGIN,
							  &insert->n_partitions);
	pfree(ranges);

	insert->handle = weir_kafka_handle_open(foreign_table, user_id,
											RD_KAFKA_PRODUCER,
											CurrentResourceOwner);
	insert->topic = insert->handle->target->topic;
	insert->timeout_ms = insert->handle->target->timeout_ms;
	if (weir_kafka_handle_topic(insert->handle) == NULL)
		elog(ERROR, "could not make a topic object");
	result_rel->ri_FdwState = insert;
	MemoryContextSwitchTo(caller);
}

/*
 * Whether nothing but this statement can be rolled back with it.  Outside of a
 * block that is true of what the client sent, whose text the portal and the
 * executor share, and false of what a function runs meanwhile.  COPY has an
 * executor without a text.
 */
static bool
is_lone_statement(EState *estate)
{
	if (IsTransactionBlock() || IsSubTransaction() || ActivePortal == NULL)
		return false;
	if (estate->es_sourceText == NULL)
		return ActivePortal->commandTag == CMDTAG_COPY;
	return estate->es_sourceText == ActivePortal->sourceText;
}

TupleTableSlot *
weir_kafka_insert(EState *estate, ResultRelInfo *result_rel,
				  TupleTableSlot *slot, TupleTableSlot *plan_slot)
{
	KafkaInsert *insert = (KafkaInsert *) result_rel->ri_FdwState;
	MemoryContext caller = MemoryContextSwitchTo(insert->row_mcxt);
	WeirOutMessage message;

	weir_encode(insert->encoder, slot, &message);
	if (message.partition >= insert->n_partitions)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("partition %d does not exist", message.partition),
				 errdetail("Topic \"%s\" has %d partitions.",
						   insert->topic, insert->n_partitions),
				 errhint("Leave the column NULL to let the key decide.")));
	produce(insert, &message);

	MemoryContextSwitchTo(caller);
	MemoryContextReset(insert->row_mcxt);
	return slot;
}

/* The end of the statement; on error it is not called, the owner closes. */
void
weir_kafka_end_modify(EState *estate, ResultRelInfo *result_rel)
{
	KafkaInsert *insert = (KafkaInsert *) result_rel->ri_FdwState;

	if (insert == NULL)
		return;					/* EXPLAIN without ANALYZE */
	flush(insert);
	weir_kafka_handle_close(insert->handle);
	result_rel->ri_FdwState = NULL;
}

/*
 * Queues a message.  The queue is bounded (64 MB, 100,000 messages), and when
 * it is full we wait for the broker; as long as anything is delivered.
 */
static void
produce(KafkaInsert *insert, const WeirOutMessage *message)
{
	WeirKafkaHandle *handle = insert->handle;
	TimestampTz deadline = 0;
	int64		answered = -1;

	for (;;)
	{
		rd_kafka_error_t *error = enqueue(insert, message);
		rd_kafka_resp_err_t code = rd_kafka_error_code(error);
		WeirKafkaEvent event;

		if (error == NULL)
			break;
		weir_kafka_event_set(&event, code, rd_kafka_error_string(error));
		rd_kafka_error_destroy(error);
		if (code != RD_KAFKA_RESP_ERR__QUEUE_FULL)
			weir_kafka_raise(handle, &event);

		rd_kafka_poll(handle->rk, SLICE_MS);
		check_events(insert);
		if (answered != handle->delivered + handle->failed)
		{
			answered = handle->delivered + handle->failed;
			deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
												   insert->timeout_ms);
		}
		else if (GetCurrentTimestamp() >= deadline)
			raise_failure(insert);
	}
	insert->produced++;

	/* reports are small, but they wait in memory */
	if (insert->produced % 1000 == 0)
	{
		weir_kafka_handle_serve(handle);
		check_events(insert);
	}
}

/*
 * librdkafka copies the bytes.  NULL on success; an error belongs to the
 * caller, as do the headers when there is one.
 */
static rd_kafka_error_t *
enqueue(KafkaInsert *insert, const WeirOutMessage *message)
{
	rd_kafka_vu_t args[8];
	rd_kafka_headers_t *headers = NULL;
	rd_kafka_error_t *error;
	int			n = 0;

	args[n].vtype = RD_KAFKA_VTYPE_RKT;
	args[n++].u.rkt = insert->handle->topic;
	args[n].vtype = RD_KAFKA_VTYPE_PARTITION;
	args[n++].u.i32 = (message->partition >= 0) ? message->partition :
		RD_KAFKA_PARTITION_UA;
	args[n].vtype = RD_KAFKA_VTYPE_MSGFLAGS;
	args[n++].u.i = RD_KAFKA_MSG_F_COPY;
	args[n].vtype = RD_KAFKA_VTYPE_VALUE;
	args[n].u.mem.ptr = message->payload;
	args[n++].u.mem.size = message->len;
	args[n].vtype = RD_KAFKA_VTYPE_KEY;
	args[n].u.mem.ptr = message->key;
	args[n++].u.mem.size = message->key_len;
	args[n].vtype = RD_KAFKA_VTYPE_TIMESTAMP;
	args[n++].u.i64 = message->timestamp_ms;
	if (message->n_headers > 0)
	{
		headers = rd_kafka_headers_new(message->n_headers);
		for (int i = 0; i < message->n_headers; i++)
			rd_kafka_header_add(headers, message->header_names[i], -1,
								message->header_values[i],
								message->header_values[i] ?
								(ssize_t) message->header_lens[i] : 0);
		args[n].vtype = RD_KAFKA_VTYPE_HEADERS;
		args[n++].u.headers = headers;
	}
	error = rd_kafka_produceva(insert->handle->rk, args, n);
	if (error != NULL && headers != NULL)
		rd_kafka_headers_destroy(headers);
	return error;
}

/* Returns when every message has arrived. */
static void
flush(KafkaInsert *insert)
{
	WeirKafkaHandle *handle = insert->handle;
	TimestampTz deadline = 0;
	int64		answered = -1;

	while (handle->delivered + handle->failed < insert->produced)
	{
		/* runs callbacks, and does not wait for batches to fill */
		rd_kafka_flush(handle->rk, SLICE_MS);
		check_events(insert);
		if (answered != handle->delivered + handle->failed)
		{
			answered = handle->delivered + handle->failed;
			deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
												   insert->timeout_ms);
		}
		else if (GetCurrentTimestamp() >= deadline)
			break;
	}
	if (handle->delivered < insert->produced)
		raise_failure(insert);
}

/*
 * After every call that ran callbacks.  The first failed message ends the
 * statement: it will fail anyway, and the fewer messages follow the better.
 */
static void
check_events(KafkaInsert *insert)
{
	WeirKafkaHandle *handle = insert->handle;

	CHECK_FOR_INTERRUPTS();
	if (IsUnderPostmaster && !PostmasterIsAlive())
		proc_exit(1);
	weir_kafka_handle_log(handle);
	for (int i = 0; i < handle->n_events; i++)
		if (!handle->events[i].transient &&
			(handle->events[i].sqlstate == ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION ||
			 rd_kafka_fatal_error(handle->rk, NULL, 0) != RD_KAFKA_RESP_ERR_NO_ERROR))
			weir_kafka_raise(handle, &handle->events[i]);
	handle->n_events = 0;
	if (handle->failed > 0)
		raise_failure(insert);
}

/* Says how much has been delivered: nobody can take that back. */
static void
raise_failure(KafkaInsert *insert)
{
	WeirKafkaHandle *handle = insert->handle;
	WeirKafkaEvent *event = &handle->first_failure;

	if (handle->failed == 0)
		weir_kafka_event_set(event, RD_KAFKA_RESP_ERR__TIMED_OUT,
							 handle->last_words[0] ? handle->last_words :
							 "the broker did not answer within the time-out");
	ereport(ERROR,
			(errcode(event->sqlstate),
			 errmsg("could not deliver messages to topic \"%s\"",
					pstrdup(insert->topic)),
			 errdetail("The Kafka client says: %s  %lld of %lld messages have been delivered.",
					   pstrdup(event->text), (long long) handle->delivered,
					   (long long) insert->produced),
			 errhint("What has been delivered stays in the topic: repeating the statement produces it again.")));
}
