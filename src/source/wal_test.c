/*-------------------------------------------------------------------------
 *
 * wal_test.c
 *	  For tests, and in WEIR_TEST builds only: reads the changes of tables in a
 *	  session, and shows them as rows.
 *
 *-------------------------------------------------------------------------
 */
#include "source/changes.h"

#ifdef WEIR_TEST

#include "access/htup_details.h"
#include "access/table.h"
#include "access/xlog.h"
#include "fmgr.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "nodes/bitmapset.h"
#include "portability/instr_time.h"
#include "source/wal_reader.h"
#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/pg_lsn.h"
#include "utils/regproc.h"
#include "utils/rel.h"

#include <sys/resource.h>

/* 'table' or 'table(column, ...)'; a stream begins with '>'. */
static WeirWatched *
parse_watched(char *text)
{
	WeirWatched *watched = palloc0(sizeof(*watched));
	char	   *list;
	Relation	rel;

	if (text[0] == '>')
		watched->is_stream = true;
	text += watched->is_stream;
	list = strchr(text, '(');
	if (list != NULL)
		*list++ = '\0';
	watched->relid = DatumGetObjectId(DirectFunctionCall1(regclassin,
														  CStringGetDatum(text)));
	rel = table_open(watched->relid, AccessShareLock);
	for (int i = 0; list == NULL && i < RelationGetNumberOfAttributes(rel); i++)
	{
		if (!TupleDescAttr(RelationGetDescr(rel), i)->attisdropped)
			watched->wanted = bms_add_member(watched->wanted, i + 1);
	}
	table_close(rel, AccessShareLock);
	for (char *name = list ? strtok(list, ",) ") : NULL; name != NULL;
		 name = strtok(NULL, ",) "))
	{
		AttrNumber	attnum = get_attnum(watched->relid, name);

		if (attnum <= 0)
			elog(ERROR, "no column %s", name);
		watched->wanted = bms_add_member(watched->wanted, attnum);
	}
	return watched;
}

static List *
parse_list(ArrayType *array)
{
	Datum	   *elems;
	int			n;
	List	   *list = NIL;

	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &elems, NULL, &n);
	for (int i = 0; i < n; i++)
		list = lappend(list, parse_watched(TextDatumGetCString(elems[i])));
	return list;
}

static const WeirWatched *
find_watched(List *watched, Oid relid)
{
	ListCell   *cell;

	foreach(cell, watched)
	{
		const WeirWatched *one = lfirst(cell);

		if (one->relid == relid)
			return one;
	}
	elog(ERROR, "change of an unwatched relation");
}

/* The wanted columns of a row, in parentheses; NULL if there is none. */
static char *
row_text(const WeirChange *change, int i, bool old, const WeirWatched *watched)
{
	Relation	rel = table_open(watched->relid, AccessShareLock);
	TupleDesc	desc = RelationGetDescr(rel);
	Datum	   *values = palloc0(sizeof(Datum) * (desc->natts + 1));
	bool	   *nulls = palloc0(sizeof(bool) * (desc->natts + 1));
	StringInfoData text;
	int			attnum = -1;
	bool		first = true;
	bool		got = weir_change_row(change, i, old, values, nulls);

	initStringInfo(&text);
	while ((attnum = bms_next_member(watched->wanted, attnum)) > 0)
	{
		Form_pg_attribute att = TupleDescAttr(desc, attnum - 1);
		Oid			output;
		bool		is_varlena;

		if (!first)
			appendStringInfoChar(&text, ',');
		first = false;
		if (!got || nulls[attnum - 1])
			continue;
		if (att->attlen == -1 &&
			VARATT_IS_EXTENDED(DatumGetPointer(values[attnum - 1])) &&
			!VARATT_IS_SHORT(DatumGetPointer(values[attnum - 1])))
			elog(ERROR, "toasted value");
		getTypeOutputInfo(att->atttypid, &output, &is_varlena);
		appendStringInfoString(&text, OidOutputFunctionCall(output, values[attnum - 1]));
	}
	table_close(rel, AccessShareLock);
	return got ? psprintf("(%s)", text.data) : NULL;
}

static void
put(ReturnSetInfo *result, const char *kind, Oid source, const WeirTransaction *txn,
	const char *old, const char *new)
{
	Datum		values[6] = {0};
	bool		nulls[6] = {0};

	values[0] = CStringGetTextDatum(kind);
	values[1] = ObjectIdGetDatum(source);
	values[2] = TransactionIdGetDatum(txn ? txn->xid : 0);
	values[3] = LSNGetDatum(txn ? txn->end : 0);
	nulls[4] = old == NULL;
	if (old != NULL)
		values[4] = CStringGetTextDatum(old);
	nulls[5] = new == NULL;
	if (new != NULL)
		values[5] = CStringGetTextDatum(new);
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

static void
put_broken(ReturnSetInfo *result, const WeirTransaction *txn)
{
	ListCell   *cell;

	foreach(cell, txn->broken)
	{
		const WeirBroken *broken = lfirst(cell);

		put(result, broken->even_append_only ? "BROKEN, even append-only" : "BROKEN",
			broken->source, txn, broken->message, broken->hint);
	}
}

static void
put_change(ReturnSetInfo *result, const WeirChange *change, List *watched)
{
	static const char *kinds[] = {"INSERT", "UPDATE", "DELETE", "TRUNCATE", "PUSHED", "END"};

	for (int i = 0; i < change->n_sources; i++)
	{
		const WeirWatched *source = find_watched(watched, change->sources[i]);
		bool		is_row = change->kind <= WEIR_CHANGE_DELETE;

		put(result, kinds[change->kind], source->relid, change->txn,
			is_row && change->kind != WEIR_CHANGE_INSERT ?
			row_text(change, i, true, source) : NULL,
			is_row && change->kind != WEIR_CHANGE_DELETE ?
			row_text(change, i, false, source) :
			change->kind == WEIR_CHANGE_PUSHED ?
			pnstrdup(change->message, change->message_len) : NULL);
	}
}

static void
read_all(WeirWalReader *reader, ReturnSetInfo *result, List *watched,
		 int max_bytes, XLogRecPtr until)
{
	MemoryContext mcxt = AllocSetContextCreate(CurrentMemoryContext, "test row",
											   ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(mcxt);
	const WeirTransaction *txn = NULL;
	WeirChange	change;

	while (weir_wal_position(reader) < until)
	{
		XLogRecPtr	before = weir_wal_position(reader);

		(void) weir_wal_read(reader, max_bytes, 1000000);
		if (TransactionIdIsValid(weir_wal_ddl_xid(reader)))
			put(result, "DEFINITIONS", InvalidOid, NULL, NULL, NULL);
		while (weir_wal_next_chunk(reader))
		{
			while (weir_wal_next(reader, &change))
			{
				if (change.txn != txn)
					put_broken(result, change.txn);
				txn = change.txn;
				put_change(result, &change, watched);
				MemoryContextReset(mcxt);
			}
		}
		txn = NULL;
		CHECK_FOR_INTERRUPTS();
		if (weir_wal_position(reader) == before)
			pg_usleep(1000);
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(mcxt);
}

PG_FUNCTION_INFO_V1(weir_test_changes);

/*
 * weir_test_changes(slot text, start pg_lsn, sources text[], until pg_lsn,
 * confirm bool, max_bytes int, memory int) returns setof (kind text, source
 * regclass, xid xid, ends pg_lsn, old text, new text)
 */
Datum
weir_test_changes(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	List	   *watched = parse_list(PG_GETARG_ARRAYTYPE_P(2));
	XLogRecPtr	until = PG_GETARG_LSN(3);
	Size		limit = weir_wal_buffer_limit;
	WeirWalReader *reader;

	InitMaterializedSRF(fcinfo, 0);
	reader = weir_wal_open(text_to_cstring(PG_GETARG_TEXT_PP(0)), PG_GETARG_LSN(1));
	PG_TRY();
	{
		weir_wal_watch(reader, watched);
		weir_wal_buffer_limit = PG_GETARG_INT32(6);
		read_all(reader, result, watched, PG_GETARG_INT32(5), until);
		if (PG_GETARG_BOOL(4))
			weir_wal_confirm(reader, weir_wal_position(reader));
	}
	PG_FINALLY();
	{
		weir_wal_buffer_limit = limit;
		weir_wal_close(reader);
		/* definitions of then, in a session that goes on with those of now */
		InvalidateSystemCaches();
	}
	PG_END_TRY();
	return (Datum) 0;
}

static double
cpu_seconds(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return usage.ru_utime.tv_sec + usage.ru_stime.tv_sec +
		(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

PG_FUNCTION_INFO_V1(weir_test_speed);

/*
 * weir_test_speed(slot text, start pg_lsn, sources text[], until pg_lsn,
 * max_bytes int) returns text: rows, CPU seconds of reading, of taking apart.
 */
Datum
weir_test_speed(PG_FUNCTION_ARGS)
{
	List	   *watched = parse_list(PG_GETARG_ARRAYTYPE_P(2));
	XLogRecPtr	until = PG_GETARG_LSN(3);
	WeirWalReader *reader = weir_wal_open(text_to_cstring(PG_GETARG_TEXT_PP(0)),
										  PG_GETARG_LSN(1));
	double		read = 0;
	double		taken = 0;
	int64		n = 0;
	Datum		values[100];
	bool		nulls[100];

	PG_TRY();
	{
		weir_wal_watch(reader, watched);
		while (weir_wal_position(reader) < until)
		{
			double		t0 = cpu_seconds();
			double		t1;
			WeirChange	change;

			n += weir_wal_read(reader, PG_GETARG_INT32(4), 100000);
			t1 = cpu_seconds();
			while (weir_wal_next_chunk(reader))
			{
				while (weir_wal_next(reader, &change))
				{
					for (int i = 0; i < change.n_sources; i++)
					{
						(void) weir_change_row(&change, i, true, values, nulls);
						(void) weir_change_row(&change, i, false, values, nulls);
					}
				}
			}
			taken += cpu_seconds() - t1;
			read += t1 - t0;
			if (weir_wal_position(reader) >= GetFlushRecPtr(NULL))
				break;
			CHECK_FOR_INTERRUPTS();
		}
	}
	PG_FINALLY();
	{
		weir_wal_close(reader);
		InvalidateSystemCaches();
	}
	PG_END_TRY();
	PG_RETURN_TEXT_P(cstring_to_text(psprintf("%lld changes, read %.3f s, taken %.3f s",
											  (long long) n, read, taken)));
}

#endif							/* WEIR_TEST */
