/*-------------------------------------------------------------------------
 *
 * show_message.c
 *	  Test builds: the rows of a message of a push stream.
 *
 * weir_test_stream_rows(message bytea, xid xid, stream regclass) returns the
 * rows as text, one each, as a cast of the stream's row type would, and none
 * for a message that is ignored.  Tests hand it what a logical slot shows, and
 * what a forger might have made of that.  weir_test_sign(message bytea) makes its
 * MAC right for the transaction that calls it, as a pg_weir of another version
 * would have.
 *
 *-------------------------------------------------------------------------
 */
#include "fdw/stream_message.h"

#ifdef WEIR_TEST

#include "access/table.h"
#include "access/transam.h"
#include "access/xact.h"
#include "fmgr.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/tuplestore.h"

PG_FUNCTION_INFO_V1(weir_test_stream_rows);
PG_FUNCTION_INFO_V1(weir_test_sign);

static Datum show_row(TupleDesc desc, Datum *values, bool *nulls);

Datum
weir_test_stream_rows(PG_FUNCTION_ARGS)
{
	bytea	   *bytes = PG_GETARG_BYTEA_PP(0);
	TransactionId xid = DatumGetTransactionId(PG_GETARG_DATUM(1));
	Oid			stream = PG_GETARG_OID(2);
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Size		len = VARSIZE_ANY_EXHDR(bytes);
	char	   *message;
	Relation	rel;
	TupleDesc	desc;
	WeirStreamRows rows;
	Datum	   *values;
	bool	   *nulls;
	int			n = 0;

	if (!superuser())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("only a superuser looks into messages")));
	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);

	/* exactly as long as it is, so that valgrind sees a step too far */
	message = palloc(Max(len, 1));
	memcpy(message, VARDATA_ANY(bytes), len);
	if (weir_stream_message_target(message, len) != stream ||
		!weir_stream_message_open(&rows, stream, xid, message, len))
		return (Datum) 0;

	rel = table_open(stream, AccessShareLock);
	desc = RelationGetDescr(rel);
	values = palloc(desc->natts * sizeof(Datum));
	nulls = palloc(desc->natts * sizeof(bool));
	while (weir_stream_message_next(&rows, desc, values, nulls))
	{
		Datum		row = show_row(desc, values, nulls);
		bool		null = false;

		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, &row, &null);
		n++;
	}
	if (n != rows.n)
		elog(ERROR, "%d rows of %d", n, rows.n);
	table_close(rel, AccessShareLock);
	return (Datum) 0;
}

Datum
weir_test_sign(PG_FUNCTION_ARGS)
{
	bytea	   *bytes = PG_GETARG_BYTEA_P_COPY(0);
	Size		len = VARSIZE(bytes) - VARHDRSZ;
	char	   *message = palloc(Max(len, 1));

	if (!superuser())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("only a superuser signs messages")));
	memcpy(message, VARDATA(bytes), len);
	weir_stream_message_sign(message, len, GetTopTransactionId());
	memcpy(VARDATA(bytes), message, len);
	PG_RETURN_BYTEA_P(bytes);
}

static Datum
show_row(TupleDesc desc, Datum *values, bool *nulls)
{
	TupleDesc	row_type = lookup_rowtype_tupdesc_copy(desc->tdtypeid, -1);
	HeapTuple	tuple = heap_form_tuple(row_type, values, nulls);
	Datum		datum = heap_copy_tuple_as_datum(tuple, row_type);
	Oid			output;
	bool		is_varlena;

	getTypeOutputInfo(desc->tdtypeid, &output, &is_varlena);
	return CStringGetTextDatum(OidOutputFunctionCall(output, datum));
}

#endif							/* WEIR_TEST */
