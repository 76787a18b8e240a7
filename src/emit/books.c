/*-------------------------------------------------------------------------
 *
 * books.c
 *	  Positions, counters, status and dead letters, through SPI.
 *
 * A handful of rows a commit: plans are kept, and clarity wins over the table
 * access method.  All of it is in the commit's transaction, so the books agree
 * with the results in every snapshot.
 *
 *-------------------------------------------------------------------------
 */
#include "emit/emit.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/pg_lsn.h"
#include "utils/timestamp.h"

/* A statement with its plan, kept for the life of the process. */
typedef struct Statement
{
	const char *sql;
	int			n_args;
	Oid			types[16];
	SPIPlanPtr	plan;
} Statement;

static Statement update_position = {
	.sql = "UPDATE weir_data.positions SET position = $3, start = $4, target = $5,"
	" source_end = $6, last_offset = $7, last_print = $8, last_time = $9,"
	" rows_in = $10, rows_filtered = $11, tombstones = $12, dead_letters = $13"
	" WHERE view_id OPERATOR(pg_catalog.=) $1 AND partition OPERATOR(pg_catalog.=) $2",
	.n_args = 13,
	.types = {TEXTOID, INT4OID, INT8OID, INT8OID, INT8OID, INT8OID, INT8OID,
		INT8OID, TIMESTAMPTZOID, INT8OID, INT8OID, INT8OID, INT8OID}
};

static Statement insert_position = {
	.sql = "INSERT INTO weir_data.positions (view_id, partition, position, start, target,"
	" source_end, last_offset, last_print, last_time,"
	" rows_in, rows_filtered, tombstones, dead_letters)"
	" VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
	.n_args = 13,
	.types = {TEXTOID, INT4OID, INT8OID, INT8OID, INT8OID, INT8OID, INT8OID,
		INT8OID, TIMESTAMPTZOID, INT8OID, INT8OID, INT8OID, INT8OID}
};

static Statement update_status = {
	.sql = "UPDATE weir_data.status SET phase = $2, filenode = $3, groups = $4,"
	" state_bytes = $5, busy = $6, last_commit = $7,"
	" commits = commits OPERATOR(pg_catalog.+) 1::bigint,"
	" commit_us = commit_us OPERATOR(pg_catalog.+) $8,"
	" wal_bytes = wal_bytes OPERATOR(pg_catalog.+) $9"
	" WHERE view_id OPERATOR(pg_catalog.=) $1",
	.n_args = 9,
	.types = {TEXTOID, TEXTOID, OIDOID, INT8OID, INT8OID, FLOAT8OID,
		TIMESTAMPTZOID, INT8OID, INT8OID}
};

static Statement insert_dead_letter = {
	.sql = "INSERT INTO weir_data.dead_letters (view_id, source, partition, \"offset\","
	" sqlstate, message, payload, at, lsn)"
	" VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
	.n_args = 9,
	.types = {TEXTOID, OIDOID, INT4OID, INT8OID, TEXTOID, TEXTOID, BYTEAOID,
		TIMESTAMPTZOID, PG_LSNOID}
};

/* Runs a statement that writes; returns the number of rows. */
static uint64
run(Statement *statement, Datum *values, const char *nulls)
{
	uint64		processed;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (statement->plan == NULL)
	{
		SPIPlanPtr	plan = SPI_prepare(statement->sql, statement->n_args,
									   statement->types);

		if (plan == NULL || SPI_keepplan(plan) != 0)
			elog(ERROR, "could not prepare \"%s\"", statement->sql);
		statement->plan = plan;
	}
	if (SPI_execute_plan(statement->plan, values, nulls, false, 0) < 0)
		elog(ERROR, "could not run \"%s\"", statement->sql);
	processed = SPI_processed;
	SPI_finish();
	return processed;
}

void
weir_write_books(const char *view_id, WeirBooks *books, int n)
{
	Datum		id = CStringGetTextDatum(view_id);

	for (int i = 0; i < n; i++)
	{
		WeirBooks  *b = &books[i];
		Datum		values[] = {id, Int32GetDatum(b->partition),
			Int64GetDatum(b->position), Int64GetDatum(b->start),
			Int64GetDatum(b->target), Int64GetDatum(b->source_end),
			Int64GetDatum(b->last_offset), Int64GetDatum(b->last_print),
			TimestampTzGetDatum(b->last_time), Int64GetDatum(b->rows_in),
			Int64GetDatum(b->rows_filtered), Int64GetDatum(b->tombstones),
		Int64GetDatum(b->dead_letters)};
		char		nulls[] = "             ";

		if (!b->changed)
			continue;
		if (b->source_end < 0)
			nulls[5] = 'n';
		if (b->last_offset < 0)
			nulls[6] = nulls[7] = 'n';
		if (b->last_time == DT_NOBEGIN)
			nulls[8] = 'n';
		if (!b->exists || run(&update_position, values, nulls) == 0)
			run(&insert_position, values, nulls);
	}
}

void
weir_write_status(const char *view_id, const WeirStatus *status)
{
	Datum		values[] = {CStringGetTextDatum(view_id),
		CStringGetTextDatum(status->backfilling ? "backfilling" : "running"),
		ObjectIdGetDatum(status->filenode), Int64GetDatum(status->groups),
		Int64GetDatum(status->state_bytes), Float8GetDatum(status->busy),
		TimestampTzGetDatum(weir_now()), Int64GetDatum(status->commit_us),
	Int64GetDatum(status->wal_bytes)};

	run(&update_status, values, NULL);
}

void
weir_write_dead_letter(const char *view_id, Oid source, int32 partition,
					   int64 offset, XLogRecPtr lsn, int sqlstate,
					   const char *message, const char *payload,
					   int payload_len)
{
	Datum		values[] = {CStringGetTextDatum(view_id),
		ObjectIdGetDatum(source), Int32GetDatum(partition),
		Int64GetDatum(offset),
		CStringGetTextDatum(unpack_sql_state(sqlstate)),
	CStringGetTextDatum(message), (Datum) 0, TimestampTzGetDatum(weir_now()),
	LSNGetDatum(lsn)};
	char		nulls[] = "         ";

	if (payload != NULL)
		values[6] = PointerGetDatum(cstring_to_text_with_len(payload,
															 payload_len));
	/* a message has an offset, a change the end of its commit */
	if (offset < 0)
		nulls[2] = nulls[3] = 'n';
	if (XLogRecPtrIsInvalid(lsn))
		nulls[8] = 'n';
	if (payload == NULL)
		nulls[6] = 'n';
	run(&insert_dead_letter, values, nulls);
}

static int64
int64_column(HeapTuple tuple, TupleDesc desc, int column, int64 if_null)
{
	bool		isnull;
	Datum		value = SPI_getbinval(tuple, desc, column, &isnull);

	return isnull ? if_null : DatumGetInt64(value);
}

WeirBooks *
weir_read_books(const char *view_id, int *n)
{
	MemoryContext caller = CurrentMemoryContext;
	Oid			types[] = {TEXTOID};
	Datum		values[] = {CStringGetTextDatum(view_id)};
	WeirBooks  *books;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (SPI_execute_with_args("SELECT partition, position, start, target, source_end,"
							  " last_offset, last_print, last_time, rows_in,"
							  " rows_filtered, tombstones, dead_letters"
							  " FROM weir_data.positions"
							  " WHERE view_id OPERATOR(pg_catalog.=) $1 ORDER BY partition",
							  1, types, values, NULL, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read positions");
	*n = (int) SPI_processed;
	books = MemoryContextAllocZero(caller, sizeof(WeirBooks) * Max(*n, 1));
	for (int i = 0; i < *n; i++)
	{
		HeapTuple	tuple = SPI_tuptable->vals[i];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		WeirBooks  *b = &books[i];
		bool		isnull;
		Datum		time;

		b->exists = true;
		b->partition = DatumGetInt32(SPI_getbinval(tuple, desc, 1, &isnull));
		b->position = b->committed = int64_column(tuple, desc, 2, 0);
		b->start = int64_column(tuple, desc, 3, 0);
		b->target = int64_column(tuple, desc, 4, 0);
		b->source_end = int64_column(tuple, desc, 5, -1);
		b->last_offset = int64_column(tuple, desc, 6, -1);
		b->last_print = int64_column(tuple, desc, 7, 0);
		time = SPI_getbinval(tuple, desc, 8, &isnull);
		b->last_time = isnull ? DT_NOBEGIN : DatumGetTimestampTz(time);
		b->rows_in = int64_column(tuple, desc, 9, 0);
		b->rows_filtered = int64_column(tuple, desc, 10, 0);
		b->tombstones = int64_column(tuple, desc, 11, 0);
		b->dead_letters = int64_column(tuple, desc, 12, 0);
	}
	SPI_finish();
	return books;
}

bool
weir_read_status(const char *view_id, bool *backfilling, Oid *filenode,
				 bool *stalled)
{
	Oid			types[] = {TEXTOID};
	Datum		values[] = {CStringGetTextDatum(view_id)};
	bool		found;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (SPI_execute_with_args("SELECT phase OPERATOR(pg_catalog.=) 'backfilling',"
							  " filenode, sqlstate IS NOT NULL"
							  " FROM weir_data.status"
							  " WHERE view_id OPERATOR(pg_catalog.=) $1",
							  1, types, values, NULL, true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read status");
	found = SPI_processed == 1;
	if (found)
	{
		HeapTuple	tuple = SPI_tuptable->vals[0];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		bool		isnull;
		Datum		value;

		*backfilling = DatumGetBool(SPI_getbinval(tuple, desc, 1, &isnull));
		value = SPI_getbinval(tuple, desc, 2, &isnull);
		*filenode = isnull ? InvalidOid : DatumGetObjectId(value);
		*stalled = DatumGetBool(SPI_getbinval(tuple, desc, 3, &isnull));
	}
	SPI_finish();
	return found;
}
