/*-------------------------------------------------------------------------
 *
 * try_decode.c
 *	  weir.try_decode(): what would become of this message?
 *
 * For people who look at a dead letter, and for our tests.  Receives a stream
 * and the bytes of a message; hands back the row as jsonb, or why there is
 * none, exactly as a view would fare.  Reads no topic and writes nothing.
 *
 * The decoder is kept for the length of the query, as a worker keeps it.
 *
 *-------------------------------------------------------------------------
 */
#include "decode/decode.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "catalog/weir_catalog.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "portability/instr_time.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/resowner.h"

PG_FUNCTION_INFO_V1(weir_try_decode);

typedef struct TryDecode
{
	Oid			stream;
	TupleDesc	desc;
	WeirDecoder *decoder;
	Datum	   *values;
	bool	   *nulls;
} TryDecode;

/* Opens the stream once a query; the caller must be allowed to read it. */
static TryDecode *
open_stream(FmgrInfo *flinfo, Oid stream)
{
	TryDecode  *state = flinfo->fn_extra;
	MemoryContext old;
	Relation	rel;
	Bitmapset  *all = NULL;
	AclResult	acl;
	int			i;

	if (state != NULL && state->stream == stream)
		return state;

	rel = table_open(stream, AccessShareLock);
	acl = pg_class_aclcheck(stream, GetUserId(), ACL_SELECT);
	if (acl != ACLCHECK_OK)
		aclcheck_error(acl, get_relkind_objtype(rel->rd_rel->relkind),
					   RelationGetRelationName(rel));
	if (rel->rd_rel->relkind != RELKIND_FOREIGN_TABLE)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is not a foreign table",
						RelationGetRelationName(rel))));
	if (weir_source_kind(stream) == WEIR_SOURCE_STREAM)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is a push stream", RelationGetRelationName(rel)),
				 errdetail("What is pushed into it are rows; there is nothing to decode."),
				 errhint("Name the foreign table of a topic.")));

	old = MemoryContextSwitchTo(flinfo->fn_mcxt);
	state = palloc0(sizeof(TryDecode));
	state->stream = stream;
	state->desc = CreateTupleDescCopy(RelationGetDescr(rel));
	state->values = palloc0(Max(state->desc->natts, 1) * sizeof(Datum));
	state->nulls = palloc0(Max(state->desc->natts, 1) * sizeof(bool));
	for (i = 1; i <= state->desc->natts; i++)
		all = bms_add_member(all, i);
	state->decoder = weir_decoder_create(stream, RelationGetDescr(rel), all,
										 flinfo->fn_mcxt);
	MemoryContextSwitchTo(old);
	table_close(rel, AccessShareLock);
	flinfo->fn_extra = state;
	return state;
}

/*
 * weir_decode() with what it raises turned into a verdict as well.
 */
static WeirVerdict
decode_or_catch(TryDecode *state, const WeirMessage *message,
				WeirDecodeError *error)
{
	MemoryContext caller = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	volatile WeirVerdict verdict = WEIR_BAD;

	memset(state->nulls, true, state->desc->natts * sizeof(bool));
	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(caller);
	PG_TRY();
	{
		verdict = weir_decode(state->decoder, message,
							  state->values, state->nulls, error);
		ReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(caller);
		CurrentResourceOwner = owner;
	}
	PG_CATCH();
	{
		ErrorData  *raised;

		MemoryContextSwitchTo(caller);
		raised = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(caller);
		CurrentResourceOwner = owner;
		if (raised->sqlerrcode == ERRCODE_QUERY_CANCELED)
			ReThrowError(raised);
		error->sqlstate = raised->sqlerrcode;
		error->message = raised->message;
	}
	PG_END_TRY();
	return verdict;
}

/* The row as jsonb, in the column order of the stream. */
static Datum
row_datum(TryDecode *state)
{
	HeapTuple	tuple = heap_form_tuple(state->desc, state->values, state->nulls);
	Datum		json;

	json = DirectFunctionCall1(row_to_json, heap_copy_tuple_as_datum(tuple, state->desc));
	return DirectFunctionCall1(jsonb_in,
							   CStringGetDatum(TextDatumGetCString(json)));
}

/*
 * weir.try_decode(stream regclass, payload bytea, key bytea)
 *	  verdict text, sqlstate text, message text, "row" jsonb
 *
 * verdict is row, skip (a tombstone) or bad.  Needs SELECT on the stream.
 */
Datum
weir_try_decode(PG_FUNCTION_ARGS)
{
	static const char *const verdicts[] = {"row", "skip", "bad"};
	TryDecode  *state;
	TupleDesc	desc;
	WeirMessage message = {0};
	WeirDecodeError error = {0};
	WeirVerdict verdict;
	Datum		values[4] = {0};
	bool		nulls[4] = {false, true, true, true};

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	state = open_stream(fcinfo->flinfo, PG_GETARG_OID(0));

	message.kind = WEIR_RECORD;
	message.timestamp = DT_NOBEGIN;
	if (!PG_ARGISNULL(1))
	{
		bytea	   *payload = PG_GETARG_BYTEA_PP(1);

		message.payload = VARDATA_ANY(payload);
		message.len = VARSIZE_ANY_EXHDR(payload);
	}
	if (!PG_ARGISNULL(2))
	{
		bytea	   *key = PG_GETARG_BYTEA_PP(2);

		message.key = VARDATA_ANY(key);
		message.key_len = VARSIZE_ANY_EXHDR(key);
	}

	verdict = decode_or_catch(state, &message, &error);
	values[0] = CStringGetTextDatum(verdicts[verdict]);
	if (verdict == WEIR_ROW)
	{
		values[3] = row_datum(state);
		nulls[3] = false;
	}
	else if (verdict == WEIR_BAD)
	{
		values[1] = CStringGetTextDatum(unpack_sql_state(error.sqlstate));
		values[2] = CStringGetTextDatum(error.message);
		nulls[1] = nulls[2] = false;
	}
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls));
}

#ifdef WEIR_TEST
PG_FUNCTION_INFO_V1(weir_decode_nanoseconds);

/*
 * weir_decode_nanoseconds(stream regclass, payload bytea, n int): mean time
 * of weir_decode() over n messages, all columns wanted.
 */
Datum
weir_decode_nanoseconds(PG_FUNCTION_ARGS)
{
	TryDecode  *state = open_stream(fcinfo->flinfo, PG_GETARG_OID(0));
	bytea	   *payload = PG_GETARG_BYTEA_PP(1);
	int			n = PG_GETARG_INT32(2);
	MemoryContext batch = AllocSetContextCreate(CurrentMemoryContext,
												"pg_weir decode benchmark",
												ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(batch);
	WeirMessage message = {0};
	WeirDecodeError error;
	instr_time	start;
	instr_time	stop;
	int			i;

	message.timestamp = DT_NOBEGIN;
	message.payload = VARDATA_ANY(payload);
	message.len = VARSIZE_ANY_EXHDR(payload);
	INSTR_TIME_SET_CURRENT(start);
	for (i = 0; i < n; i++)
	{
		if (i % 1000 == 0)
			MemoryContextReset(batch);
		if (weir_decode(state->decoder, &message, state->values, state->nulls,
						&error) != WEIR_ROW)
			elog(ERROR, "message is bad: %s", error.message);
	}
	INSTR_TIME_SET_CURRENT(stop);
	INSTR_TIME_SUBTRACT(stop, start);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(batch);
	PG_RETURN_FLOAT8(INSTR_TIME_GET_DOUBLE(stop) * 1e9 / Max(n, 1));
}
#endif
