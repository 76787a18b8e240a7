/*-------------------------------------------------------------------------
 *
 * fuzz_csv.c
 *	  Test builds: random records through our splitter and COPY's.
 *
 * A record is made of the characters that matter to the format at hand, one of
 * several.  The splitter must accept it exactly where COPY ... (FORMAT csv)
 * reads one record of as many fields, and give the same fields.
 *
 *-------------------------------------------------------------------------
 */
#include "decode/decode_internal.h"

#ifdef WEIR_TEST

#include "access/table.h"
#include "catalog/pg_type.h"
#include "commands/copy.h"
#include "fuzz.h"
#include "mb/pg_wchar.h"
#include "nodes/makefuncs.h"
#include "utils/array.h"
#include "utils/rel.h"

PG_FUNCTION_INFO_V1(weir_fuzz_csv);

#define LONGEST 120
#define MAX_FIELDS (LONGEST + 1)

static const WeirCsvFormat formats[] = {
	{',', '"', '"', "", 0},
	{';', '\'', '\\', "NULL", 4},
	{'\t', '"', '\\', "\\N", 2},
	{'|', '"', '|', "", 0},
	{',', '"', 'n', "n", 1},
	{' ', '\'', '\'', "-", 1}
};

/* What the callback of COPY reads from. */
static const char *source;
static int	source_left;

static int
read_source(void *out, int min, int max)
{
	int			n = Min(source_left, max);

	memcpy(out, source, n);
	source += n;
	source_left -= n;
	return n;
}

static void
make_record(WeirFuzz *fuzz, const WeirCsvFormat *format, StringInfo out)
{
	static const char *const others[] = {
		"a", "n", "b c", "\xc3\xa9", "\n", "\r", "\r\n", "NULL", "\\", "-", ".", "0"
	};
	int			n = weir_fuzz_below(fuzz, 16);

	initStringInfo(out);
	while (n-- > 0)
		switch (weir_fuzz_below(fuzz, 8))
		{
			case 0:
			case 1:
				appendStringInfoChar(out, format->delimiter);
				break;
			case 2:
			case 3:
				appendStringInfoChar(out, format->quote);
				break;
			case 4:
				appendStringInfoChar(out, format->escape);
				break;
			case 5:
				appendStringInfoString(out, format->null_text);
				break;
			default:
				appendStringInfoString(out, weir_fuzz_one_of(fuzz, others));
				break;
		}
	if (weir_fuzz_below(fuzz, 4) == 0)
		appendStringInfoChar(out, '\n');
}

static List *
copy_options(const WeirCsvFormat *format)
{
	return list_make5(makeDefElem("format", (Node *) makeString("csv"), -1),
					  makeDefElem("delimiter",
								  (Node *) makeString(psprintf("%c", format->delimiter)), -1),
					  makeDefElem("quote",
								  (Node *) makeString(psprintf("%c", format->quote)), -1),
					  makeDefElem("escape",
								  (Node *) makeString(psprintf("%c", format->escape)), -1),
					  makeDefElem("null", (Node *) makeString(format->null_text), -1));
}

/*
 * The fields that COPY sees, or false when it raises, or sees no record or more
 * than one.
 */
static bool
oracle_split(Relation rel, const WeirCsvFormat *format, const char *record,
			 int len, WeirCsvField *fields, int *n)
{
	MemoryContext old = CurrentMemoryContext;
	List	   *options = copy_options(format);
	volatile bool ok = false;
	CopyFromState volatile state = NULL;

	source = record;
	source_left = len;
	PG_TRY();
	{
		char	  **texts;

		state = BeginCopyFrom(NULL, rel, NULL, NULL, false, read_source, NIL,
							  options);
		ok = NextCopyFromRawFields(state, &texts, n);
		for (int i = 0; ok && i < *n; i++)
		{
			fields[i].isnull = texts[i] == NULL;
			fields[i].start = texts[i] == NULL ? NULL : pstrdup(texts[i]);
			fields[i].len = texts[i] == NULL ? 0 : strlen(texts[i]);
		}
		if (ok)
		{
			int			more;

			ok = !NextCopyFromRawFields(state, &texts, &more);
		}
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(old);
		FlushErrorState();
		ok = false;
	}
	PG_END_TRY();
	if (state != NULL)
		EndCopyFrom(state);
	return ok;
}

static bool
same_fields(const WeirCsvField *ours, const WeirCsvField *theirs, int n)
{
	for (int i = 0; i < n; i++)
		if (ours[i].isnull != theirs[i].isnull ||
			(!ours[i].isnull &&
			 (ours[i].len != theirs[i].len ||
			  memcmp(ours[i].start, theirs[i].start, ours[i].len) != 0)))
			return false;
	return true;
}

/*
 * weir_fuzz_csv(seed bigint, first bigint, rounds bigint, relation regclass)
 * -> bigint[]: records accepted, fields compared.
 *
 * relation is any table without rows, for COPY to begin.
 */
Datum
weir_fuzz_csv(PG_FUNCTION_ARGS)
{
	int64		first = PG_GETARG_INT64(1);
	int64		rounds = PG_GETARG_INT64(2);
	Relation	rel = table_open(PG_GETARG_OID(3), RowExclusiveLock);
	WeirFuzz	fuzz;
	Datum		n[2] = {0};

	weir_fuzz_begin(&fuzz, PG_GETARG_INT64(0));
	for (int64 round = first; round < first + rounds; round++)
	{
		WeirCsvField ours[MAX_FIELDS];
		WeirCsvField theirs[MAX_FIELDS];
		WeirComplaint complaint;
		const WeirCsvFormat *format;
		StringInfoData bytes;
		const char *record;
		char	   *scratch;
		int			wanted = 0;
		bool		accepted;

		weir_fuzz_round(&fuzz, round);
		format = &weir_fuzz_one_of(&fuzz, formats);
		make_record(&fuzz, format, &bytes);
		/* COPY takes nothing for no record, and \. for the end of all */
		if (bytes.len == 0 || bytes.len > LONGEST ||
			strstr(bytes.data, "\\.") != NULL)
			continue;
		record = weir_fuzz_exact(bytes.data, bytes.len);
		scratch = palloc(bytes.len);
		accepted = oracle_split(rel, format, record, bytes.len, theirs, &wanted);
		/* how many there are is known only if there is a record */
		if (!accepted)
			wanted = 1 + weir_fuzz_below(&fuzz, 4);
		if (weir_fuzz_below(&fuzz, 8) == 0)
		{
			accepted = false;
			wanted += wanted == 1 || weir_fuzz_below(&fuzz, 2) == 0 ? 1 : -1;
		}
		if (weir_csv_split(format, record, bytes.len, scratch, ours, wanted,
						   &complaint) != accepted)
			weir_fuzz_differs(&fuzz, psprintf("we %s (format %d, %d fields)",
											  accepted ? "refuse" : "accept",
											  (int) (format - formats), wanted),
							  record, bytes.len);
		if (!accepted)
			continue;
		n[0]++;
		n[1] += wanted;
		if (!same_fields(ours, theirs, wanted))
			weir_fuzz_differs(&fuzz, psprintf("fields differ (format %d)",
											  (int) (format - formats)),
							  record, bytes.len);
	}
	weir_fuzz_end(&fuzz);
	table_close(rel, RowExclusiveLock);
	PG_RETURN_ARRAYTYPE_P(construct_array(n, 2, INT8OID, 8, true,
										  TYPALIGN_DOUBLE));
}

#endif							/* WEIR_TEST */
