/*-------------------------------------------------------------------------
 *
 * fuzz_states.c
 *	  Test builds: stored states that nobody stored.
 *
 * Saves groups of all kinds of states, changes their bytes in ways that know
 * the format (a word of a state, a number of the header, a length, a byte, the
 * end), makes the checksum right, and loads them.  A state is either refused,
 * with 0A000 or XX001, or it is one: then it finishes or raises, merges or
 * raises, and what is saved of it loads again and finishes as the same.
 *
 * What a checksum protects from never gets so far.  But it is a checksum and no
 * signature, and what a mistake of our own has stored has a right one: neither
 * may end the server.  The contents of a user type's value are the type's own
 * affair, as in a heap page; that it has the length that it says is ours.
 *
 *-------------------------------------------------------------------------
 */
#include "state/trial.h"

#ifdef WEIR_TEST

#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "fuzz.h"
#include "parser/parse_func.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

PG_FUNCTION_INFO_V1(weir_fuzz_states);

#define LONGEST 1000

/* Where the parts of a stored state lie; see state_bytes.c. */
#define VERSION_AT 0
#define N_STATES_AT 2
#define WORDS_LEN_AT 8
#define KEY_LEN_AT 12
#define PACKED_AT 16

static const struct
{
	const char *name;
	Oid			type;
	const char *values[6];
}			calls[] =
{
	{"count", ANYOID, {"1"}},
	{"sum", INT4OID, {"1", "-1", "2147483647"}},
	{"sum", INT8OID, {"1", "-9223372036854775808", "9223372036854775807"}},
	{"avg", INT4OID, {"1", "5", "-7"}},
	{"sum", NUMERICOID, {"1.50", "-2", "NaN", "1e30", "1e-20", "Infinity"}},
	{"avg", NUMERICOID, {"0.001", "12345678901234567890.12", "1.5", "1.50", "1.500", "1.50000"}},
	{"sum", FLOAT8OID, {"1.5", "-0", "1e308", "5e-324", "NaN", "-Infinity"}},
	{"avg", FLOAT4OID, {"1.5", "1e-45", "3e38", "0.1"}},
	{"sum", INTERVALOID, {"1 day", "-1 month", "3 hours"}},
	{"min", INT4OID, {"1", "-1", "7"}},
	{"max", FLOAT8OID, {"1", "NaN", "-0"}},
	{"max", TEXTOID, {"", "short", "a text that is too long to be held in the words themselves", "b"}},
	{"min", INTERVALOID, {"1 day", "-1 month", "3 hours"}},
	{"max", TIMETZOID, {"01:00+01", "02:00-03"}},
	{"min", BPCHAROID, {"a", "b   "}}
};

/* Calls come twice: of sources that take rows back, and of those that do not. */
#define N_TRIALS (2 * lengthof(calls))
#define SAMPLES 8

typedef struct Kind
{
	WeirTrial  *trial;
	Oid			output;			/* of the result's type */
	char	   *result;			/* of what finished last; NULL is NULL */
	StringInfoData samples[SAMPLES];
}			Kind;

/* ---- groups to begin with ---- */

/*
 * Keys of a number, which may be a pane, a text that is compared as bytes, and
 * one that is not: the general way of finding a group.
 */
static void
set_format(WeirTrial *trial, bool window)
{
	WeirKeyPart *parts = palloc0(3 * sizeof(WeirKeyPart));

	parts[0].typlen = 8;
	parts[0].typbyval = true;
	parts[0].exact = true;
	parts[1].typlen = -1;
	parts[1].exact = true;
	parts[1].collation = C_COLLATION_OID;
	parts[2] = parts[1];
	parts[2].exact = false;
	fmgr_info(F_HASHTEXT, &parts[2].hash);
	fmgr_info(F_TEXTEQ, &parts[2].equal);
	trial->format.n = 3;
	trial->format.parts = parts;
	trial->format.exact = false;
	trial->format.window = window ? 0 : -1;
}

static void
make_sample(WeirFuzz *fuzz, Kind *kind, int call, int n_values, StringInfo out)
{
	WeirTrial  *trial = kind->trial;
	int			n = 1 + weir_fuzz_below(fuzz, 12);
	Datum		keys[WEIR_TRIAL_BATCH * 3];
	Datum		values[WEIR_TRIAL_BATCH];
	bool		nulls[WEIR_TRIAL_BATCH] = {false};
	int64		diffs[WEIR_TRIAL_BATCH];
	Oid			input;
	Oid			ioparam;
	int			n_groups;
	WeirGroup **groups;
	Oid			type = calls[call].type == ANYOID ? INT4OID : calls[call].type;

	getTypeInputInfo(type, &input, &ioparam);
	for (int i = 0; i < n; i++)
	{
		const char *value = calls[call].values[weir_fuzz_below(fuzz, n_values)];

		keys[i * 3] = Int64GetDatum(7);
		keys[i * 3 + 1] = CStringGetTextDatum("key");
		keys[i * 3 + 2] = CStringGetTextDatum("another key");
		values[i] = OidInputFunctionCall(input, unconstify(char *, value),
										 ioparam, -1);
		diffs[i] = 1 + weir_fuzz_below(fuzz, 3);
	}
	weir_trial_fold(trial, n, keys, values, nulls,
					trial->states[0].ops->retracts ? diffs : NULL);
	groups = weir_trial_groups(trial, &n_groups);
	initStringInfo(out);
	weir_group_save(trial->table, groups[0], out);
	weir_group_reset(trial->table, groups[0]);
	weir_group_table_remove(trial->table, groups[0]);
}

static void
open_kinds(WeirFuzz *fuzz, Kind *kinds)
{
	for (int i = 0; i < N_TRIALS; i++)
	{
		int			call = i / 2;
		Oid			type = calls[call].type;
		Oid			aggregate = LookupFuncName(list_make2(makeString("pg_catalog"),
														  makeString(unconstify(char *, calls[call].name))),
											   1, &type, false);
		int			n_values = 0;
		bool		varlena;

		while (n_values < lengthof(calls[call].values) &&
			   calls[call].values[n_values] != NULL)
			n_values++;
		kinds[i].trial = weir_trial_open(aggregate,
										 type == ANYOID ? INT4OID : type,
										 type_is_collatable(type) ? C_COLLATION_OID : InvalidOid,
										 i % 2 == 1 && type != ANYOID && strcmp(calls[call].name, "count") != 0);
		weir_trial_close_groups(kinds[i].trial);
		set_format(kinds[i].trial, i % 4 < 2);
		weir_trial_open_groups(kinds[i].trial);
		getTypeOutputInfo(kinds[i].trial->aggref->aggtype, &kinds[i].output,
						  &varlena);
		for (int s = 0; s < SAMPLES; s++)
			make_sample(fuzz, &kinds[i], call, n_values, &kinds[i].samples[s]);
	}
}

/* ---- changes ---- */

static void
put_bytes(StringInfo bytes, int at, int removed, const char *piece, int len)
{
	enlargeStringInfo(bytes, len);
	memmove(bytes->data + at + len, bytes->data + at + removed,
			bytes->len - at - removed);
	memcpy(bytes->data + at, piece, len);
	bytes->len += len - removed;
}

/* Another value for one of the packed words, most significant bytes last. */
static void
change_word(WeirFuzz *fuzz, StringInfo bytes)
{
	uint32		lens[2];
	int			wanted;
	int			at = PACKED_AT;
	int			lengths_at = PACKED_AT;

	memcpy(lens, bytes->data + WORDS_LEN_AT, sizeof(lens));
	wanted = weir_fuzz_below(fuzz, Max((lens[0] + lens[1]) / 8, 1));
	for (int i = 0; at < bytes->len; i++)
	{
		int			shift = i % 2 * 4;
		int			n;

		if (i % 2 == 0)
			lengths_at = at++;
		n = bytes->data[lengths_at] >> shift & 15;
		if (i == wanted && n <= 8 && at + n <= bytes->len)
		{
			uint64		word = 0;
			int			len = 0;

			memcpy(&word, bytes->data + at, n);
			word = weir_fuzz_below(fuzz, 3) == 0 ? word + weir_fuzz_below(fuzz, 5) - 2 :
				weir_fuzz_number(fuzz);
			if (weir_fuzz_below(fuzz, 4) == 0)
				word = -word;
			for (uint64 rest = word; rest != 0; rest >>= 8)
				len++;
			bytes->data[lengths_at] &= ~(15 << shift);
			bytes->data[lengths_at] |= len << shift;
			put_bytes(bytes, at, n, (char *) &word, len);
			return;
		}
		at += n;
	}
}

static void
change_header(WeirFuzz *fuzz, StringInfo bytes)
{
	static const struct
	{
		int			at;
		int			len;
	}			fields[] = {
		{VERSION_AT, 2}, {N_STATES_AT, 2}, {WORDS_LEN_AT, 4}, {KEY_LEN_AT, 4},
		{KEY_LEN_AT, 4}
	};
	int			i = weir_fuzz_below(fuzz, lengthof(fields));
	uint64		number = 0;

	memcpy(&number, bytes->data + fields[i].at, fields[i].len);
	switch (weir_fuzz_below(fuzz, 3))
	{
		case 0:
			number = weir_fuzz_number(fuzz);
			break;
		case 1:
			number += 8;
			break;
		default:
			number -= 8;
			break;
	}
	memcpy(bytes->data + fields[i].at, &number, fields[i].len);
}

static void
change(WeirFuzz *fuzz, StringInfo bytes)
{
	StringInfoData behind;

	switch (weir_fuzz_below(fuzz, 8))
	{
		case 0:
			change_header(fuzz, bytes);
			break;
		case 1:
		case 2:
		case 3:
		case 4:
			for (int n = 1 + weir_fuzz_below(fuzz, 3); n > 0; n--)
				change_word(fuzz, bytes);
			break;
		default:
			/* behind the header */
			initStringInfo(&behind);
			appendBinaryStringInfo(&behind, bytes->data + PACKED_AT,
								   bytes->len - PACKED_AT);
			weir_fuzz_mutate(fuzz, &behind, LONGEST, NULL, 0);
			bytes->len = PACKED_AT;
			appendBinaryStringInfo(bytes, behind.data, behind.len);
			break;
	}
	if (weir_fuzz_below(fuzz, 200) == 0)
		bytes->len = weir_fuzz_below(fuzz, bytes->len + 1);
	if (bytes->len >= PACKED_AT)
		weir_state_bytes_sign(bytes->data, bytes->len);
}

/* ---- what becomes of them ---- */

/* Steps that may raise, and what they may raise; PG_TRY around one of them. */
typedef enum Step
{
	LOAD,
	FINISH,
	MERGE
} Step;

static bool
step(const WeirFuzz *fuzz, Kind *kind, Step what, WeirGroup **group,
	 const char *bytes, Size len)
{
	MemoryContext old = CurrentMemoryContext;
	WeirTrial  *trial = kind->trial;
	volatile int sqlstate = 0;

	PG_TRY();
	{
		if (what == LOAD)
			*group = weir_group_load(trial->table, bytes, len);
		else if (what == MERGE)
			weir_group_merge(trial->table, bytes, len);
		else
		{
			bool		isnull;
			Datum		result = trial->class_.finish(&trial->states[0],
													  WEIR_GROUP_WORDS(*group),
													  &isnull);

			kind->result = isnull ? NULL :
				OidOutputFunctionCall(kind->output, result);
		}
	}
	PG_CATCH();
	{
		sqlstate = geterrcode();
		MemoryContextSwitchTo(old);
		FlushErrorState();
	}
	PG_END_TRY();
	if (sqlstate == ERRCODE_INTERNAL_ERROR ||
		(what == LOAD && sqlstate != 0 && sqlstate != ERRCODE_DATA_CORRUPTED &&
		 sqlstate != ERRCODE_FEATURE_NOT_SUPPORTED))
		weir_fuzz_differs(fuzz, psprintf("raised %s", unpack_sql_state(sqlstate)),
						  bytes, len);
	return sqlstate == 0;
}

/* What a load that failed has left is thrown away with all groups, as by a view. */
static void
begin_anew(WeirTrial *trial, MemoryContext mcxt)
{
	MemoryContext old = MemoryContextSwitchTo(mcxt);

	weir_trial_close_groups(trial);
	weir_trial_open_groups(trial);
	MemoryContextSwitchTo(old);
}

/* Finished, saved, loaded and finished: the same.  False if it raises. */
static bool
finishes(const WeirFuzz *fuzz, Kind *kind, WeirGroup *group,
		 const char *bytes, Size len)
{
	StringInfoData saved;
	WeirTrial  *trial = kind->trial;
	bool		finished = step(fuzz, kind, FINISH, &group, bytes, len);
	char	   *before = kind->result;

	initStringInfo(&saved);
	weir_group_save(trial->table, group, &saved);
	weir_group_reset(trial->table, group);
	weir_group_table_remove(trial->table, group);
	if (!step(fuzz, kind, LOAD, &group, saved.data, saved.len))
		weir_fuzz_differs(fuzz, "what was saved does not load", bytes, len);
	if (step(fuzz, kind, FINISH, &group, bytes, len) != finished ||
		(finished && (before == NULL) != (kind->result == NULL)) ||
		(finished && before != NULL && strcmp(before, kind->result) != 0))
		weir_fuzz_differs(fuzz, "what was saved loads as something else",
						  bytes, len);
	return finished;
}

/*
 * weir_fuzz_states(seed bigint, first bigint, rounds bigint) -> bigint[]:
 * states loaded, finished, merged.
 */
Datum
weir_fuzz_states(PG_FUNCTION_ARGS)
{
	int64		first = PG_GETARG_INT64(1);
	int64		rounds = PG_GETARG_INT64(2);
	MemoryContext mcxt = AllocSetContextCreate(CurrentMemoryContext,
											   "pg_weir fuzz states",
											   ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(mcxt);
	WeirFuzz	fuzz = {0};
	Kind		kinds[N_TRIALS] = {0};
	Datum		n[3] = {0};

	open_kinds(&fuzz, kinds);
	weir_fuzz_begin(&fuzz, PG_GETARG_INT64(0));
	for (int64 round = first; round < first + rounds; round++)
	{
		Kind	   *kind;
		StringInfoData changed;
		const StringInfoData *sample;
		const char *bytes;
		WeirGroup  *group = NULL;
		WeirGroup **groups;
		int			n_groups;

		weir_fuzz_round(&fuzz, round);
		kind = &weir_fuzz_one_of(&fuzz, kinds);
		sample = &weir_fuzz_one_of(&fuzz, kind->samples);
		initStringInfo(&changed);
		appendBinaryStringInfo(&changed, sample->data, sample->len);
		change(&fuzz, &changed);
		bytes = weir_fuzz_exact(changed.data, changed.len);
		if (!step(&fuzz, kind, LOAD, &group, bytes, changed.len))
		{
			begin_anew(kind->trial, mcxt);
			continue;
		}
		n[0]++;
		n[1] += finishes(&fuzz, kind, group, bytes, changed.len);
		n[2] += step(&fuzz, kind, MERGE, NULL, sample->data, sample->len) &&
			step(&fuzz, kind, MERGE, NULL, bytes, changed.len);
		groups = weir_trial_groups(kind->trial, &n_groups);
		for (int i = 0; i < n_groups; i++)
		{
			weir_group_reset(kind->trial->table, groups[i]);
			weir_group_table_remove(kind->trial->table, groups[i]);
		}
		if (weir_value_store_bytes(kind->trial->store) != 0)
			weir_fuzz_differs(&fuzz, "values are left", bytes, changed.len);
		if (round % 100000 == 99999)
			begin_anew(kind->trial, mcxt);
	}
	weir_fuzz_end(&fuzz);
	for (int i = 0; i < N_TRIALS; i++)
		weir_trial_close_groups(kinds[i].trial);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(mcxt);
	PG_RETURN_ARRAYTYPE_P(construct_array(n, 3, INT8OID, 8, true,
										  TYPALIGN_DOUBLE));
}

#endif							/* WEIR_TEST */
