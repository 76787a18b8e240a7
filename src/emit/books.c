/*-------------------------------------------------------------------------
 *
 * books.c
 *	  Positions, event time, counters, status, dead letters and late rows, through
 *	  SPI.
 *
 * A handful of rows a commit: plans are kept, and clarity wins over the table
 * access method.  All of it is in the commit's transaction, so the books agree
 * with the results in every snapshot.
 *
 * A time that is not known yet is DT_NOBEGIN in memory and NULL in a table, where
 * people look at it.
 *
 *-------------------------------------------------------------------------
 */
#include "emit/emit.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/pg_lsn.h"
#include "utils/timestamp.h"

/* A statement with its plan, kept for the life of the process. */
typedef struct Statement
{
	const char *sql;
	int			n_args;
	Oid			types[21];
	SPIPlanPtr	plan;
} Statement;

static Statement update_position = {
	.sql = "UPDATE weir_data.positions SET position = $3, start = $4, target = $5,"
	" source_end = $6, last_offset = $7, last_print = $8, last_time = $9,"
	" rows_in = $10, rows_filtered = $11, tombstones = $12, dead_letters = $13,"
	" greatest = $14, watermark = $15, idle = $16, lateness = COALESCE($17, lateness)"
	" WHERE view_id OPERATOR(pg_catalog.=) $1 AND partition OPERATOR(pg_catalog.=) $2",
	.n_args = 17,
	.types = {TEXTOID, INT4OID, INT8OID, INT8OID, INT8OID, INT8OID, INT8OID,
		INT8OID, TIMESTAMPTZOID, INT8OID, INT8OID, INT8OID, INT8OID,
	TIMESTAMPTZOID, TIMESTAMPTZOID, BOOLOID, BYTEAOID}
};

static Statement insert_position = {
	.sql = "INSERT INTO weir_data.positions (view_id, partition, position, start, target,"
	" source_end, last_offset, last_print, last_time,"
	" rows_in, rows_filtered, tombstones, dead_letters,"
	" greatest, watermark, idle, lateness)"
	" VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)",
	.n_args = 17,
	.types = {TEXTOID, INT4OID, INT8OID, INT8OID, INT8OID, INT8OID, INT8OID,
		INT8OID, TIMESTAMPTZOID, INT8OID, INT8OID, INT8OID, INT8OID,
	TIMESTAMPTZOID, TIMESTAMPTZOID, BOOLOID, BYTEAOID}
};

static Statement update_lag = {
	.sql = "UPDATE weir_data.positions SET source_end = COALESCE($3, source_end),"
	" last_time = COALESCE($4, last_time)"
	" WHERE view_id OPERATOR(pg_catalog.=) $1 AND partition OPERATOR(pg_catalog.=) $2",
	.n_args = 4,
	.types = {TEXTOID, INT4OID, INT8OID, TIMESTAMPTZOID}
};

static Statement update_status = {
	.sql = "UPDATE weir_data.status SET phase = $2, filenode = $3, groups = $4,"
	" state_bytes = $5, busy = $6, last_commit = $7,"
	" commits = commits OPERATOR(pg_catalog.+) 1::bigint,"
	" commit_us = commit_us OPERATOR(pg_catalog.+) $8,"
	" wal_bytes = wal_bytes OPERATOR(pg_catalog.+) $9,"
	" watermark = $10, emitted = $11, held_by = $12,"
	" late_applied = $13, late_side = $14, late_dropped = $15,"
	" next_seq = $16, changes_at = $17, timeline = $18, notify_skipped = $19,"
	" settled = $20, evicted = $21"
	" WHERE view_id OPERATOR(pg_catalog.=) $1",
	.n_args = 21,
	.types = {TEXTOID, TEXTOID, OIDOID, INT8OID, INT8OID, FLOAT8OID,
		TIMESTAMPTZOID, INT8OID, INT8OID, TIMESTAMPTZOID, TIMESTAMPTZOID,
		INT4OID, INT8OID, INT8OID, INT8OID, INT8OID, TIMESTAMPTZOID, INT4OID,
	INT8OID, TIMESTAMPTZOID, INT8OID}
};

static Statement insert_late_row = {
	.sql = "INSERT INTO weir_data.late_rows (view_id, windows, watermark, late_by,"
	" diff, \"row\", at)"
	" VALUES ($1, $2, $3, $4, $5, $6, $7)",
	.n_args = 7,
	.types = {TEXTOID, TEXTARRAYOID, TIMESTAMPTZOID, INTERVALOID, INT2OID,
	JSONBOID, TIMESTAMPTZOID}
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

/* A time as an argument. */
static void
set_time(Datum *value, char *null, TimestampTz time)
{
	*value = TimestampTzGetDatum(time);
	*null = time == DT_NOBEGIN ? 'n' : ' ';
}

/* NULL leaves the one that is stored, which does for a while. */
static void
set_lateness(Datum *value, char *null, WeirLateness *lateness)
{
	StringInfoData bytes;

	*null = 'n';
	if (lateness == NULL || !weir_lateness_is_due(lateness))
		return;
	initStringInfo(&bytes);
	appendStringInfoSpaces(&bytes, VARHDRSZ);
	weir_lateness_save(lateness, &bytes);
	SET_VARSIZE(bytes.data, bytes.len);
	*value = PointerGetDatum(bytes.data);
	*null = ' ';
}

static void
write_position(const char *view_id, const WeirBooks *b)
{
	Datum		values[17];
	char		nulls[17];

	memset(nulls, ' ', sizeof(nulls));
	values[0] = CStringGetTextDatum(view_id);
	values[1] = Int32GetDatum(b->partition);
	values[2] = Int64GetDatum(b->position);
	values[3] = Int64GetDatum(b->start);
	values[4] = Int64GetDatum(b->target);
	values[5] = Int64GetDatum(b->source_end);
	if (b->source_end < 0)
		nulls[5] = 'n';
	values[6] = Int64GetDatum(b->last_offset);
	values[7] = Int64GetDatum(b->last_print);
	if (b->last_offset < 0)
		nulls[6] = nulls[7] = 'n';
	set_time(&values[8], &nulls[8], b->last_time);
	values[9] = Int64GetDatum(b->rows_in);
	values[10] = Int64GetDatum(b->rows_filtered);
	values[11] = Int64GetDatum(b->tombstones);
	values[12] = Int64GetDatum(b->dead_letters);
	set_time(&values[13], &nulls[13], b->time.greatest);
	set_time(&values[14], &nulls[14], b->time.watermark);
	values[15] = BoolGetDatum(b->time.idle);
	set_lateness(&values[16], &nulls[16], b->time.lateness);
	if (!b->exists || run(&update_position, values, nulls) == 0)
		run(&insert_position, values, nulls);
}

void
weir_write_books(const char *view_id, WeirBooks *books, int n)
{
	for (int i = 0; i < n; i++)
		if (books[i].changed)
			write_position(view_id, &books[i]);
}

void
weir_write_lag(const char *view_id, const WeirBooks *books,
			   TimestampTz complete_to)
{
	Datum		values[] = {CStringGetTextDatum(view_id),
		Int32GetDatum(books->partition), Int64GetDatum(books->source_end),
	TimestampTzGetDatum(complete_to)};
	char		nulls[] = "    ";

	if (books->source_end < 0)
		nulls[2] = 'n';
	if (complete_to == 0)
		nulls[3] = 'n';
	run(&update_lag, values, nulls);
}

void
weir_write_status(const char *view_id, const WeirStatus *status)
{
	const WeirViewTime *time = &status->time;
	Datum		values[21];
	char		nulls[21];

	memset(nulls, ' ', sizeof(nulls));
	values[0] = CStringGetTextDatum(view_id);
	values[1] = CStringGetTextDatum(status->backfilling ? "backfilling" : "running");
	values[2] = ObjectIdGetDatum(status->filenode);
	values[3] = Int64GetDatum(status->groups);
	values[4] = Int64GetDatum(status->state_bytes);
	values[5] = Float8GetDatum(status->busy);
	values[6] = TimestampTzGetDatum(weir_now());
	values[7] = Int64GetDatum(status->commit_us);
	values[8] = Int64GetDatum(status->wal_bytes);
	set_time(&values[9], &nulls[9], time->watermark);
	set_time(&values[10], &nulls[10], time->emitted);
	values[11] = Int32GetDatum(time->held_by);
	if (time->held_by < 0)
		nulls[11] = 'n';
	values[12] = Int64GetDatum(time->late_applied);
	values[13] = Int64GetDatum(time->late_side);
	values[14] = Int64GetDatum(time->late_dropped);
	values[15] = Int64GetDatum(time->seq);
	set_time(&values[16], &nulls[16], time->at);
	values[17] = Int32GetDatum(time->timeline);
	values[18] = Int64GetDatum(time->notify_skipped);
	set_time(&values[19], &nulls[19], time->settled);
	values[20] = Int64GetDatum(status->evicted);
	run(&update_status, values, nulls);
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

void
weir_write_late_row(const char *view_id, const WeirLateRow *row)
{
	Interval   *late_by = palloc0(sizeof(Interval));
	Datum		values[7];
	char		nulls[7];

	memset(nulls, ' ', sizeof(nulls));
	late_by->time = row->late_by;
	values[0] = CStringGetTextDatum(view_id);
	values[1] = row->windows;
	set_time(&values[2], &nulls[2], row->watermark);
	values[3] = IntervalPGetDatum(late_by);
	values[4] = Int16GetDatum(row->diff);
	values[5] = row->row;
	values[6] = TimestampTzGetDatum(weir_now());
	run(&insert_late_row, values, nulls);
}

static int64
int64_column(HeapTuple tuple, TupleDesc desc, int column, int64 if_null)
{
	bool		isnull;
	Datum		value = SPI_getbinval(tuple, desc, column, &isnull);

	return isnull ? if_null : DatumGetInt64(value);
}

static TimestampTz
time_column(HeapTuple tuple, TupleDesc desc, int column)
{
	return int64_column(tuple, desc, column, DT_NOBEGIN);
}

/*
 * The event time of a partition, from four columns.  One that was silent for too
 * long when the worker ended has been so all along, as far as we know; of the
 * others the patience begins anew.
 */
static void
read_event_time(HeapTuple tuple, TupleDesc desc, int column,
				WeirEventTime *time, bool lateness)
{
	bool		isnull;
	Datum		value;

	time->greatest = time_column(tuple, desc, column);
	time->watermark = time_column(tuple, desc, column + 1);
	time->idle = DatumGetBool(SPI_getbinval(tuple, desc, column + 2, &isnull));
	time->active = time->idle ? 0 : weir_now();
	value = SPI_getbinval(tuple, desc, column + 3, &isnull);
	if (lateness && !isnull)
	{
		bytea	   *bytes = DatumGetByteaPP(value);

		time->lateness = weir_lateness_load(VARDATA_ANY(bytes),
											VARSIZE_ANY_EXHDR(bytes));
	}
}

WeirBooks *
weir_read_books(const char *view_id, bool lateness, int *n)
{
	MemoryContext caller = CurrentMemoryContext;
	Oid			types[] = {TEXTOID};
	Datum		values[] = {CStringGetTextDatum(view_id)};
	WeirBooks  *books;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (SPI_execute_with_args("SELECT partition, position, start, target, source_end,"
							  " last_offset, last_print, last_time, rows_in,"
							  " rows_filtered, tombstones, dead_letters,"
							  " greatest, watermark, idle, lateness"
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
		MemoryContext spi;

		b->exists = true;
		b->partition = DatumGetInt32(SPI_getbinval(tuple, desc, 1, &isnull));
		b->position = b->committed = int64_column(tuple, desc, 2, 0);
		b->start = int64_column(tuple, desc, 3, 0);
		b->target = int64_column(tuple, desc, 4, 0);
		b->source_end = int64_column(tuple, desc, 5, -1);
		b->last_offset = int64_column(tuple, desc, 6, -1);
		b->last_print = int64_column(tuple, desc, 7, 0);
		b->last_time = time_column(tuple, desc, 8);
		b->rows_in = int64_column(tuple, desc, 9, 0);
		b->rows_filtered = int64_column(tuple, desc, 10, 0);
		b->tombstones = int64_column(tuple, desc, 11, 0);
		b->dead_letters = int64_column(tuple, desc, 12, 0);
		spi = MemoryContextSwitchTo(caller);
		read_event_time(tuple, desc, 13, &b->time, lateness);
		MemoryContextSwitchTo(spi);
	}
	SPI_finish();
	return books;
}

bool
weir_read_status(const char *view_id, bool *backfilling, Oid *filenode,
				 bool *stalled, WeirViewTime *time)
{
	Oid			types[] = {TEXTOID};
	Datum		values[] = {CStringGetTextDatum(view_id)};
	bool		found;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (SPI_execute_with_args("SELECT phase OPERATOR(pg_catalog.=) 'backfilling',"
							  " filenode, sqlstate IS NOT NULL,"
							  " watermark, emitted, held_by, late_applied, late_side,"
							  " late_dropped, next_seq, changes_at, timeline, notify_skipped, settled"
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
		time->watermark = time_column(tuple, desc, 4);
		time->emitted = time_column(tuple, desc, 5);
		value = SPI_getbinval(tuple, desc, 6, &isnull);
		time->held_by = isnull ? -1 : DatumGetInt32(value);
		time->late_applied = int64_column(tuple, desc, 7, 0);
		time->late_side = int64_column(tuple, desc, 8, 0);
		time->late_dropped = int64_column(tuple, desc, 9, 0);
		time->seq = int64_column(tuple, desc, 10, 1);
		time->at = time_column(tuple, desc, 11);
		value = SPI_getbinval(tuple, desc, 12, &isnull);
		time->timeline = isnull ? 0 : DatumGetInt32(value);
		time->notify_skipped = int64_column(tuple, desc, 13, 0);
		time->settled = time_column(tuple, desc, 14);
	}
	SPI_finish();
	return found;
}
