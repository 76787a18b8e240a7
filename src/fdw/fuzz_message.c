/*-------------------------------------------------------------------------
 *
 * fuzz_message.c
 *	  Test builds: messages of a push stream that nobody pushed.
 *
 * Packs random rows of a stream as an INSERT would, changes bytes and numbers
 * of the message, makes the MAC right, and reads the rows.  A message is
 * ignored, or raises as broken, or has rows, all of whose values lie inside of
 * it.  One that was not changed has the rows that were packed.
 *
 * The MAC keeps everybody else's messages away from the code behind it, so this
 * is about mistakes of our own.
 *
 *-------------------------------------------------------------------------
 */
#include "fdw/stream_message.h"

#ifdef WEIR_TEST

#include "access/table.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "fuzz.h"
#include "utils/array.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"

PG_FUNCTION_INFO_V1(weir_fuzz_messages);

#define LONGEST 4000
#define MOST_ROWS 4
#define MOST_COLUMNS 32
#define XID ((TransactionId) 4711)

/* The sizes of the parts of a message; see stream_message.c. */
#define HEADER 32
#define COLUMN 8

/* Values of each column, made once. */
typedef struct Values
{
	int			n;
	Datum		values[4];
} Values;

static const char *const texts[] = {"7", "12", "-3", "0"};

static void
make_values(TupleDesc desc, Values *values)
{
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		Oid			input;
		Oid			ioparam;

		values[i].n = 0;
		if (att->attisdropped)
			continue;
		getTypeInputInfo(att->atttypid, &input, &ioparam);
		for (int v = 0; v < lengthof(values[i].values); v++)
		{
			char	   *text = unconstify(char *, texts[v]);

			if (att->atttypid == BOOLOID)
				text = v % 2 == 0 ? "t" : "f";
			else if (att->atttypid == TEXTOID && v > 0)
				text = psprintf("%0*d", v * 90, v);
			else if (att->atttypid == TIMETZOID)
				text = "10:11:12+02";
			values[i].values[values[i].n++] =
				OidInputFunctionCall(input, text, ioparam, att->atttypmod);
		}
	}
}

static void
pack_rows(WeirFuzz *fuzz, WeirStreamWriter *writer, TupleDesc desc,
		  const Values *values, int n_rows, Datum *packed, bool *nulls)
{
	for (int r = 0; r < n_rows; r++)
	{
		Datum	   *row = &packed[r * desc->natts];
		bool	   *row_nulls = &nulls[r * desc->natts];
		int			often = weir_fuzz_below(fuzz, 3);

		for (int i = 0; i < desc->natts; i++)
		{
			row_nulls[i] = values[i].n == 0 ||
				weir_fuzz_below(fuzz, 8) < often;
			row[i] = row_nulls[i] ? (Datum) 0 :
				values[i].values[weir_fuzz_below(fuzz, values[i].n)];
		}
		weir_stream_writer_add(writer, row, row_nulls);
	}
}

/* A number of the header, of a column, or of a row's header. */
static void
change_number(WeirFuzz *fuzz, StringInfo message, int natts)
{
	static const int sizes[] = {1, 2, 4};
	int			size = weir_fuzz_one_of(fuzz, sizes);
	int			rows_at = HEADER + natts * COLUMN;
	uint32		number = 0;
	int			at;

	switch (weir_fuzz_below(fuzz, 4))
	{
		case 0:
			at = weir_fuzz_below(fuzz, HEADER);
			break;
		case 1:
			at = HEADER + weir_fuzz_below(fuzz, natts * COLUMN);
			break;
		case 2:
			at = rows_at + weir_fuzz_below(fuzz, 16);
			break;
		default:
			at = rows_at + weir_fuzz_below(fuzz, Max(message->len - rows_at, 1));
			break;
	}
	if (at + size > message->len)
		return;
	memcpy(&number, message->data + at, size);
	if (weir_fuzz_below(fuzz, 2) == 0)
		number += 8 * (weir_fuzz_below(fuzz, 2) == 0 ? 1 : -1);
	else
		number = (uint32) weir_fuzz_number(fuzz);
	memcpy(message->data + at, &number, size);
}

static void
change(WeirFuzz *fuzz, StringInfo message, int natts)
{
	switch (weir_fuzz_below(fuzz, 4))
	{
		case 0:
			weir_fuzz_mutate(fuzz, message, LONGEST, NULL, 0);
			break;
		case 1:
			message->len = weir_fuzz_below(fuzz, message->len + 1);
			break;
		default:
			for (int n = 1 + weir_fuzz_below(fuzz, 3); n > 0; n--)
				change_number(fuzz, message, natts);
			break;
	}
}

/* Does the value lie in the message? */
static bool
lies_in(Form_pg_attribute att, Datum value, const char *message, Size len)
{
	const char *bytes = DatumGetPointer(value);

	if (att->attbyval)
		return true;
	return bytes >= message && bytes < message + len &&
		datumGetSize(value, false, att->attlen) <=
		(Size) (message + len - bytes);
}

/* What was read of a message. */
typedef struct Reading
{
	int			n_rows;
	bool		same;			/* as what was packed */
} Reading;

static void
read_rows(const WeirFuzz *fuzz, TupleDesc desc, Oid stream, const char *message,
		  Size len, const Datum *packed, const bool *packed_nulls,
		  int n_packed, Reading *reading)
{
	WeirStreamRows rows;
	Datum		values[MOST_COLUMNS];
	bool		nulls[MOST_COLUMNS];

	if (weir_stream_message_target(message, len) != stream ||
		!weir_stream_message_open(&rows, stream, XID, message, len))
		return;
	while (weir_stream_message_next(&rows, desc, values, nulls))
	{
		for (int i = 0; i < desc->natts; i++)
		{
			Form_pg_attribute att = TupleDescAttr(desc, i);
			int			p = reading->n_rows * desc->natts + i;

			if (!nulls[i] && !lies_in(att, values[i], message, len))
				weir_fuzz_differs(fuzz, "a value lies outside of the message",
								  message, len);
			if (reading->n_rows < n_packed &&
				(nulls[i] != packed_nulls[p] ||
				 (!nulls[i] &&
				  !datum_image_eq(values[i], packed[p], att->attbyval,
								  att->attlen))))
				reading->same = false;
		}
		reading->n_rows++;
	}
}

/* False if it is broken. */
static bool
can_read(const WeirFuzz *fuzz, TupleDesc desc, Oid stream, const char *message,
		 Size len, const Datum *packed, const bool *packed_nulls,
		 int n_packed, Reading *reading)
{
	MemoryContext old = CurrentMemoryContext;
	volatile bool ok = true;

	PG_TRY();
	{
		read_rows(fuzz, desc, stream, message, len, packed, packed_nulls,
				  n_packed, reading);
	}
	PG_CATCH();
	{
		int			sqlstate = geterrcode();

		MemoryContextSwitchTo(old);
		if (sqlstate != ERRCODE_DATA_CORRUPTED &&
			sqlstate != ERRCODE_FEATURE_NOT_SUPPORTED)
			PG_RE_THROW();
		FlushErrorState();
		ok = false;
	}
	PG_END_TRY();
	return ok;
}

/*
 * weir_fuzz_messages(seed bigint, first bigint, rounds bigint, stream regclass)
 * -> bigint[]: messages that were read, rows in them.
 *
 * The stream's columns are of types that read small numbers, or boolean, text
 * or timetz.
 */
Datum
weir_fuzz_messages(PG_FUNCTION_ARGS)
{
	int64		first = PG_GETARG_INT64(1);
	int64		rounds = PG_GETARG_INT64(2);
	Oid			stream = PG_GETARG_OID(3);
	Relation	rel = table_open(stream, AccessShareLock);
	TupleDesc	desc = RelationGetDescr(rel);
	Values		values[MOST_COLUMNS];
	WeirFuzz	fuzz;
	Datum		n[2] = {0};

	if (desc->natts > MOST_COLUMNS)
		elog(ERROR, "too many columns");
	make_values(desc, values);
	weir_fuzz_begin(&fuzz, PG_GETARG_INT64(0));
	for (int64 round = first; round < first + rounds; round++)
	{
		WeirStreamWriter *writer;
		StringInfoData message;
		Datum		packed[MOST_ROWS * MOST_COLUMNS];
		bool		nulls[MOST_ROWS * MOST_COLUMNS];
		int			n_rows;
		bool		changed;
		char	   *copy;
		Reading		reading = {.same = true};

		weir_fuzz_round(&fuzz, round);
		n_rows = weir_fuzz_below(&fuzz, MOST_ROWS) + 1;
		changed = weir_fuzz_below(&fuzz, 8) != 0;
		writer = weir_stream_writer_create(stream, desc);
		pack_rows(&fuzz, writer, desc, values, n_rows, packed, nulls);
		initStringInfo(&message);
		weir_stream_writer_show(writer, &message);
		if (changed)
			change(&fuzz, &message, desc->natts);
		copy = weir_fuzz_exact(message.data, message.len);
		weir_stream_message_sign(copy, message.len, XID);
		if (can_read(&fuzz, desc, stream, copy, message.len, packed, nulls,
					 n_rows, &reading))
			n[0] += reading.n_rows > 0;
		n[1] += reading.n_rows;
		if (!changed && (reading.n_rows != n_rows || !reading.same))
			weir_fuzz_differs(&fuzz, "other rows were read", copy, message.len);
	}
	weir_fuzz_end(&fuzz);
	table_close(rel, AccessShareLock);
	PG_RETURN_ARRAYTYPE_P(construct_array(n, 2, INT8OID, 8, true,
										  TYPALIGN_DOUBLE));
}

#endif							/* WEIR_TEST */
