/*-------------------------------------------------------------------------
 *
 * kept_rows.c
 *	  Dead letters and late rows, from the fold until their commit.
 *
 * Receives what fold.c and late.c could not put into the view, hands it on to
 * emit/books.c in the commit's transaction.  Of a topic they are few: a view that
 * has ten thousand of them commits.  But a transaction of a table, or one that was
 * pushed into a stream, is committed as a whole, and each of its rows may be late or
 * raise.  So some megabytes of them are kept in memory, and beyond that they go
 * to a temporary file.
 *
 * A commit that fails leaves them as they are.  Nothing here survives a crash, or
 * needs to: what was not committed is read again.
 *
 *-------------------------------------------------------------------------
 */
#include "runtime/worker.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/pg_lsn.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

/* Of each kind, in kilobytes: some ten thousand rows of a usual length. */
#define KEPT_KB (4 * 1024)

struct WeirKept
{
	Tuplestorestate *rows;
	TupleDesc	desc;
	int64		n;
};

/* In the order of what follows. */
static const Oid letter_types[] = {INT4OID, INT8OID, PG_LSNOID, INT4OID,
TEXTOID, BYTEAOID};
static const Oid late_types[] = {TEXTARRAYOID, TIMESTAMPTZOID, INT8OID, INT4OID,
JSONBOID};

#define MOST_COLUMNS 6

/*
 * The file outlives the transaction, and so the resource owner, in which the first
 * row came: it has none.  Whoever closes the view closes it.
 */
static WeirKept *
begin(WeirRun *run, const Oid *types, int n)
{
	MemoryContext old = MemoryContextSwitchTo(run->interval);
	ResourceOwner owner = CurrentResourceOwner;
	WeirKept   *kept = palloc0(sizeof(WeirKept));

	kept->desc = CreateTemplateTupleDesc(n);
	for (int i = 0; i < n; i++)
		TupleDescInitEntry(kept->desc, i + 1, NULL, types[i], -1, 0);
	CurrentResourceOwner = NULL;
	kept->rows = tuplestore_begin_heap(true, true, KEPT_KB);
	CurrentResourceOwner = owner;
	MemoryContextSwitchTo(old);
	return kept;
}

static void
add(WeirKept *kept, Datum *values, bool *nulls)
{
	tuplestore_putvalues(kept->rows, kept->desc, values, nulls);
	kept->n++;
}

void
weir_keep_dead_letter(WeirRun *run, const WeirDeadLetter *letter)
{
	Datum		values[MOST_COLUMNS] = {0};
	bool		nulls[MOST_COLUMNS] = {false};

	values[0] = Int32GetDatum(letter->partition);
	values[1] = Int64GetDatum(letter->offset);
	values[2] = LSNGetDatum(letter->lsn);
	values[3] = Int32GetDatum(letter->sqlstate);
	values[4] = CStringGetTextDatum(letter->message);
	nulls[5] = letter->payload == NULL;
	if (letter->payload != NULL)
		values[5] = PointerGetDatum(cstring_to_text_with_len(letter->payload,
															 letter->payload_len));
	if (run->dead_letters == NULL)
		run->dead_letters = begin(run, letter_types, lengthof(letter_types));
	add(run->dead_letters, values, nulls);
}

void
weir_keep_late_row(WeirRun *run, const WeirLateRow *row)
{
	Datum		values[MOST_COLUMNS] = {0};
	bool		nulls[MOST_COLUMNS] = {false};

	values[0] = row->windows;
	values[1] = TimestampTzGetDatum(row->watermark);
	values[2] = Int64GetDatum(row->late_by);
	values[3] = Int32GetDatum(row->diff);
	values[4] = row->row;
	if (run->late_rows == NULL)
		run->late_rows = begin(run, late_types, lengthof(late_types));
	add(run->late_rows, values, nulls);
}

int64
weir_kept_letters(const WeirRun *run)
{
	return run->dead_letters != NULL ? run->dead_letters->n : 0;
}

int64
weir_kept_late_rows(const WeirRun *run)
{
	return run->late_rows != NULL ? run->late_rows->n : 0;
}

int64
weir_kept_rows(const WeirRun *run)
{
	return weir_kept_letters(run) + weir_kept_late_rows(run);
}

/*
 * Calls `take` with the columns of each row, in a context that is reset in
 * between: there may be millions.
 */
static void
each(WeirKept *kept, void (*take) (void *arg, Datum *values, bool *nulls),
	 void *arg)
{
	MemoryContext scratch;
	MemoryContext old;
	TupleTableSlot *slot;

	if (kept == NULL)
		return;
	scratch = AllocSetContextCreate(CurrentMemoryContext, "pg_weir kept row",
									ALLOCSET_DEFAULT_SIZES);
	slot = MakeSingleTupleTableSlot(kept->desc, &TTSOpsMinimalTuple);
	tuplestore_rescan(kept->rows);
	while (tuplestore_gettupleslot(kept->rows, true, false, slot))
	{
		old = MemoryContextSwitchTo(scratch);
		slot_getallattrs(slot);
		take(arg, slot->tts_values, slot->tts_isnull);
		weir_progress++;
		MemoryContextSwitchTo(old);
		MemoryContextReset(scratch);
	}
	ExecDropSingleTupleTableSlot(slot);
	MemoryContextDelete(scratch);
}

static void
get_letter(Datum *values, bool *nulls, WeirDeadLetter *letter)
{
	letter->partition = DatumGetInt32(values[0]);
	letter->offset = DatumGetInt64(values[1]);
	letter->lsn = DatumGetLSN(values[2]);
	letter->sqlstate = DatumGetInt32(values[3]);
	letter->message = TextDatumGetCString(values[4]);
	letter->payload = NULL;
	letter->payload_len = 0;
	if (!nulls[5])
	{
		bytea	   *payload = DatumGetByteaPP(values[5]);

		letter->payload = VARDATA_ANY(payload);
		letter->payload_len = VARSIZE_ANY_EXHDR(payload);
	}
}

typedef struct LetterTaker
{
	void		(*take) (void *arg, const WeirDeadLetter *letter);
	void	   *arg;
} LetterTaker;

static void
take_letter(void *arg, Datum *values, bool *nulls)
{
	LetterTaker *taker = arg;
	WeirDeadLetter letter;

	get_letter(values, nulls, &letter);
	taker->take(taker->arg, &letter);
}

void
weir_each_dead_letter(WeirRun *run,
					  void (*take) (void *arg, const WeirDeadLetter *letter),
					  void *arg)
{
	LetterTaker taker = {take, arg};

	each(run->dead_letters, take_letter, &taker);
}

static void
write_letter(void *arg, const WeirDeadLetter *letter)
{
	WeirRun    *run = arg;

	weir_write_dead_letter(run->def->id, run->def->source, letter->partition,
						   letter->offset, letter->lsn, letter->sqlstate,
						   letter->message, letter->payload,
						   letter->payload_len);
}

static void
write_late_row(void *arg, Datum *values, bool *nulls)
{
	WeirRun    *run = arg;
	WeirLateRow row;

	row.windows = values[0];
	row.watermark = DatumGetTimestampTz(values[1]);
	row.late_by = DatumGetInt64(values[2]);
	row.diff = DatumGetInt32(values[3]);
	row.row = values[4];
	weir_write_late_row(run->def->id, &row);
}

void
weir_write_kept_rows(WeirRun *run)
{
	weir_each_dead_letter(run, write_letter, run);
	each(run->late_rows, write_late_row, run);
}

void
weir_forget_kept_rows(WeirRun *run)
{
	if (run->dead_letters != NULL)
		tuplestore_end(run->dead_letters->rows);
	if (run->late_rows != NULL)
		tuplestore_end(run->late_rows->rows);
	run->dead_letters = run->late_rows = NULL;
	if (run->interval != NULL)
		MemoryContextReset(run->interval);
}
