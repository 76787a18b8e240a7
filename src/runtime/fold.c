/*-------------------------------------------------------------------------
 *
 * fold.c
 *	  A batch into a view: skip, filter, keys, inputs, groups, states.
 *
 * Two halves with a line between them.  Above it each row is *evaluated*: user
 * expressions run, as the view's owner, inside a subtransaction; a row
 * that raises becomes a dead letter and evaluation goes on with the next one.
 * The outcome is dense columns in private memory.  Below it the columns are
 * *applied* to the groups, state by state in tight loops, where nothing of
 * the user's runs but comparisons of min and max.
 *
 * A row is folded into the group of its pane, whatever the number of its windows.
 * Whether it comes too late for them is late.c's to say; a late row of a session
 * is judged by what was folded before it, so what is pending is applied first.
 *
 *-------------------------------------------------------------------------
 */
#include "runtime/backfill.h"

#include "access/xact.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "port/pg_crc32c.h"
#include "runtime/watchdog.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"

/* Bytes of a message that a dead letter keeps. */
#define PAYLOAD_CAP 8192

/* The dense columns of the rows that survive evaluation. */
typedef struct Columns
{
	int			n;
	char	   *free;			/* where the next key image goes */
	char	   *images[WEIR_BATCH_ROWS];
	uint32		lens[WEIR_BATCH_ROWS];
	uint32		hashes[WEIR_BATCH_ROWS];
	WeirGroup  *groups[WEIR_BATCH_ROWS];
	char	   *words[WEIR_BATCH_ROWS];
	int64		diffs[WEIR_BATCH_ROWS];
	bool		has_diffs;		/* some diff is not 1 */
	/* of a view with a window */
	int64		panes[WEIR_BATCH_ROWS];
	bool		has_pane[WEIR_BATCH_ROWS];
	Timestamp	times[WEIR_BATCH_ROWS];
	uint32		had[WEIR_BATCH_ROWS];	/* WEIR_GROUP_HAD_* */
	/* of one with a watermark: event times by partition, to move it */
	int			n_seen;
	Timestamp	seen[WEIR_BATCH_ROWS];
	int32		seen_of[WEIR_BATCH_ROWS];
} Columns;

/* What became of a row. */
typedef enum Fate
{
	FATE_FOLDED,
	FATE_FILTERED,
	FATE_LATE,
	FATE_SUSPECT				/* nothing yet: apply what is pending first */
} Fate;

static Columns columns;			/* a worker folds one batch at a time */

static void
dead_letter(WeirRun *run, const WeirBatch *batch, int row, WeirBooks *books,
			int sqlstate, const char *text)
{
	const WeirMessage *message = batch->origins ? NULL : &batch->messages[row];
	WeirDeadLetter letter = {0};

	letter.partition = message ? message->partition : 0;
	letter.offset = message ? message->offset : -1;
	letter.lsn = message ? InvalidXLogRecPtr : batch->origins[row].end;
	letter.sqlstate = sqlstate;
	letter.message = pstrdup(text);
	/* a text of some other library's could quote broken bytes */
	if (!pg_verifymbstr(letter.message, strlen(letter.message), true))
		for (char *c = letter.message; *c != '\0'; c++)
			if (IS_HIGHBIT_SET(*c))
				*c = '?';
	if (message != NULL && message->payload != NULL)
	{
		letter.payload_len = (int) Min(message->len, PAYLOAD_CAP);
		letter.payload = unconstify(char *, message->payload);
	}
	weir_keep_dead_letter(run, &letter);
	books->rows_in++;
	books->dead_letters++;
}

/* on_error = 'stop': the view stalls before this message or transaction. */
static void
stop_at(WeirRun *run, const WeirBatch *batch, int row, int sqlstate,
		const char *text)
{
	MemoryContext old = MemoryContextSwitchTo(run->mcxt);
	ErrorData  *error = palloc0(sizeof(*error));

	error->sqlerrcode = sqlstate;
	error->message = pstrdup(text);
	if (batch->origins != NULL)
	{
		if (TransactionIdIsValid(batch->origins[row].xid))
		{
			error->detail = psprintf("A row of transaction %u, which ends at %X/%X.",
									 batch->origins[row].xid,
									 LSN_FORMAT_ARGS(batch->origins[row].end));
			/* what was written stays in the WAL, whatever becomes of the row */
			error->hint = pstrdup(run->def->source_kind == WEIR_SOURCE_STREAM ?
								  "Set weir.on_error = 'dead_letter' on the view to skip such rows, then call weir.resume." :
								  "Set weir.on_error = 'dead_letter' on the view to skip such rows, then call weir.resume. Or mend the row in its table, then call weir.rebuild.");
		}
		else
		{
			error->detail = pstrdup("A row that the table had before the view.");
			error->hint = pstrdup("Mend the row, or set weir.on_error = 'dead_letter' on the view to skip such rows; then call weir.resume.");
		}
	}
	else
	{
		const WeirMessage *message = &batch->messages[row];

		error->detail = psprintf("Message at offset %lld of partition %d.",
								 (long long) message->offset, message->partition);
		error->hint = pstrdup("Set weir.on_error = 'dead_letter' on the view to skip such messages, then call weir.resume.");
	}
	run->stop = error;
	run->stop_lsn = batch->origins != NULL ? batch->origins[row].begin : 0;
	run->needs_person = true;
	MemoryContextSwitchTo(old);
}

/* True when the row is disposed of, false when the view stops before it. */
static bool
bad_row(WeirRun *run, const WeirBatch *batch, int row, WeirBooks *books,
		int sqlstate, const char *text)
{
	if (run->def->options.on_error == WEIR_ON_ERROR_STOP)
	{
		stop_at(run, batch, row, sqlstate, text);
		return false;
	}
	dead_letter(run, batch, row, books, sqlstate, text);
	return true;
}

/* One expression over the current row. */
static inline Datum
evaluate(WeirRun *run, const WeirBatch *batch, int row,
		 AttrNumber column, ExprState *expr, bool *isnull)
{
	if (column > 0)
	{
		Size		at = (Size) row * batch->natts + column - 1;

		*isnull = batch->nulls[at];
		return batch->values[at];
	}
	return ExecEvalExpr(expr, run->econtext, isnull);
}

weir_noreturn
static void
has_no_window(Timestamp ts)
{
	if (TIMESTAMP_NOT_FINITE(ts))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("an infinite timestamp is in no window")));
	ereport(ERROR,
			(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
			 errmsg("timestamp out of range")));
}

/* The pane of a row as a key; false when the row is in no window. */
static inline bool
evaluate_window(WeirRun *run, const WeirBatch *batch, int row, int key)
{
	WeirWindow *window = &run->window;
	int			n = columns.n;
	bool		isnull;
	Datum		time = evaluate(run, batch, row, run->keys[key].column,
								run->keys[key].expr, &isnull);

	run->key_nulls[key] = isnull;
	run->key_values[key] = (Datum) 0;
	columns.has_pane[n] = !isnull;
	if (isnull)
		return !weir_window_is_set(window->kind);
	columns.times[n] = DatumGetTimestamp(time);
	if (!weir_pane_of(window, columns.times[n], &columns.panes[n]))
		has_no_window(columns.times[n]);
	run->key_values[key] = Int64GetDatum(columns.panes[n]);
	if (window->kind == WEIR_HOP)
	{
		int64		first;
		int64		last;

		weir_windows_of(window, columns.panes[n], &first, &last);
		return first <= last;
	}
	return true;
}

/* Keys and inputs of one row, to the columns. */
static inline Fate
evaluate_row(WeirRun *run, const WeirBatch *batch, int row, int diff)
{
	WeirPlan   *plan = run->plan;
	Datum	   *key_values = run->key_values;
	bool	   *key_nulls = run->key_nulls;
	int			n = columns.n;

	/* the slot looks at the batch's row in place */
	run->row->tts_values = batch->values + (Size) row * batch->natts;
	run->row->tts_isnull = batch->nulls + (Size) row * batch->natts;

	if (run->filter != NULL && !ExecQual(run->filter, run->econtext))
		return FATE_FILTERED;

	columns.has_pane[n] = false;
	columns.had[n] = batch->origins ? batch->origins[row].had : 0;
	for (int i = 0; i < plan->n_keys; i++)
	{
		WeirRunKey *key = &run->keys[i];

		if (!key->is_window)
			key_values[i] = evaluate(run, batch, row, key->column, key->expr,
									 &key_nulls[i]);
		else if (!evaluate_window(run, batch, row, i))
			return FATE_FILTERED;
	}
	columns.images[n] = columns.free;
	columns.lens[n] = weir_key_write(run->format, key_values, key_nulls,
									 columns.images[n], &columns.hashes[n]);
	for (int i = 0; i < run->n_inputs; i++)
	{
		WeirInput  *input = &run->inputs[i];

		if (input->filter_state != NULL &&
			!ExecQual(input->filter_state, run->econtext))
		{
			input->nulls[n] = true;
			input->values[n] = (Datum) 0;
		}
		else if (input->arg == NULL)
		{
			input->nulls[n] = false;
			input->values[n] = (Datum) 0;
		}
		else
			input->values[n] = evaluate(run, batch, row, input->column,
										input->arg_state, &input->nulls[n]);
	}
	/* last: what raises is a dead letter, and nothing else */
	if (run->has_watermark && columns.has_pane[n])
	{
		switch (weir_judge_row(run, columns.times[n], columns.panes[n],
							   columns.images[n], columns.lens[n], diff))
		{
			case WEIR_IN_TIME:
				break;
			case WEIR_LATE_FOR_SOME:
				if (columns.had[n] == 0)
					columns.had[n] = WEIR_GROUP_HAD_LATE;
				break;
			case WEIR_LATE_ALTOGETHER:
				return FATE_LATE;
			case WEIR_SUSPECT:
				return FATE_SUSPECT;
		}
	}
	columns.free += columns.lens[n];
	columns.n++;
	return FATE_FOLDED;
}

/* The event time of the row that was folded last may move the watermark. */
static inline void
see_time(WeirRun *run, int32 partition)
{
	int			n = columns.n - 1;

	if (!run->has_watermark || !columns.has_pane[n])
		return;
	columns.seen[columns.n_seen] = columns.times[n];
	columns.seen_of[columns.n_seen++] = partition;
}

/* Messages of a partition come together, mostly. */
static void
move_times(WeirRun *run)
{
	TimestampTz now;
	int			from = 0;

	if (columns.n_seen == 0)
		return;
	now = weir_now();
	for (int i = 1; i <= columns.n_seen; i++)
		if (i == columns.n_seen ||
			columns.seen_of[i] != columns.seen_of[from])
		{
			WeirBooks  *books = weir_run_books(run, columns.seen_of[from]);
			MemoryContext old = MemoryContextSwitchTo(run->mcxt);

			(void) weir_event_time_add(&books->time,
									   &run->def->options.watermark,
									   columns.seen + from, i - from, now);
			books->changed = true;
			MemoryContextSwitchTo(old);
			from = i;
		}
	columns.n_seen = 0;
}

/* Books of a message that the view has not seen; NULL when it has. */
static inline WeirBooks *
is_new(WeirRun *run, const WeirMessage *message)
{
	WeirBooks  *books = weir_run_books(run, message->partition);

	return message->offset < books->position ? NULL : books;
}

static inline void
advance_position(WeirRun *run, WeirBooks *books, int64 position)
{
	books->position = position;
	books->changed = true;
	run->moved = true;
}

/*
 * What the message is to this view; *error is set when it is bad.  The feed's
 * decoder read columns for all its views: one that the view does not read is no
 * reason to lose the row.  Input functions may raise.
 */
static WeirVerdict
judge(WeirRun *run, const WeirBatch *batch, int row, WeirDecodeError *error)
{
	Size		at = (Size) row * batch->natts;

	if (batch->verdicts[row] != WEIR_BAD)
		return batch->verdicts[row];
	*error = batch->errors[row];
	if (run->decoder == NULL)
		return WEIR_BAD;
	return weir_decode(run->decoder, &batch->messages[row], batch->values + at,
					   batch->nulls + at, error);
}

/*
 * Rows of changes.  A transaction that the view has, or that its backfill sees,
 * is passed over; the position moves when whole transactions are folded, which
 * the caller knows.
 */
static bool
evaluate_changes_from(WeirRun *run, const WeirBatch *batch, volatile int *at)
{
	WeirBooks  *books = weir_run_books(run, 0);

	for (; *at < batch->n; ++*at)
	{
		const WeirRowOrigin *origin = &batch->origins[*at];

		if (origin->end <= (XLogRecPtr) books->position ||
			(run->limit != 0 && origin->end > run->limit) ||
			(run->backfill != NULL &&
			 weir_backfill_sees(run->backfill, origin->xid, origin->end)))
			continue;
		if (!origin->inserted &&
			run->def->options.append_only != WEIR_APPEND_ONLY_OFF)
			continue;
		weir_progress++;
		columns.diffs[columns.n] = origin->diff;
		switch (evaluate_row(run, batch, *at, origin->diff))
		{
			case FATE_FOLDED:
				if (origin->diff != 1)
					columns.has_diffs = true;
				else
					see_time(run, 0);
				break;
			case FATE_FILTERED:
				books->rows_filtered++;
				break;
			case FATE_LATE:
				break;
			case FATE_SUSPECT:
				run->suspect = true;
				return true;
		}
		books->rows_in++;
		run->moved = true;
	}
	return true;
}

/*
 * Evaluates messages from *at on.  *at is kept up to date, for the caller that
 * catches an error of row *at; returns false when the view stops.
 */
static bool
evaluate_from(WeirRun *run, const WeirBatch *batch, volatile int *at)
{
	for (; *at < batch->n; ++*at)
	{
		int			i = *at;
		const WeirMessage *message = &batch->messages[i];
		WeirDecodeError error;
		WeirBooks  *books;

		if (message->kind == WEIR_END_OF_PARTITION)
		{
			/* control records and aborted transactions lie before the end */
			books = is_new(run, message);
			if (books != NULL && message->offset > books->position)
				advance_position(run, books, message->offset);
			continue;
		}
		if (message->kind != WEIR_RECORD)
			continue;
		books = is_new(run, message);
		if (books == NULL)
			continue;

		weir_progress++;
		switch (judge(run, batch, i, &error))
		{
			case WEIR_SKIP:
				books->tombstones++;
				break;
			case WEIR_BAD:
				if (!bad_row(run, batch, i, books, error.sqlstate,
							 error.message))
					return false;
				break;
			case WEIR_ROW:
				switch (evaluate_row(run, batch, i, 1))
				{
					case FATE_FOLDED:
						see_time(run, message->partition);
						break;
					case FATE_FILTERED:
						books->rows_filtered++;
						break;
					case FATE_LATE:
						break;
					case FATE_SUSPECT:
						run->suspect = true;
						return true;
				}
				books->rows_in++;
				break;
		}
		advance_position(run, books, message->offset + 1);
	}
	return true;
}

/* The last message of each partition, to recognise the topic by. */
static void
take_fingerprints(WeirRun *run, const WeirBatch *batch, int n)
{
	uint64		seen = 0;		/* partitions below 64, from the end */

	for (int i = n - 1; i >= 0; i--)
	{
		const WeirMessage *message = &batch->messages[i];
		WeirBooks  *books;

		if (message->kind != WEIR_RECORD)
			continue;
		if (message->partition < 64)
		{
			if (seen & (UINT64CONST(1) << message->partition))
				continue;
			seen |= UINT64CONST(1) << message->partition;
		}
		books = weir_run_books(run, message->partition);
		if (books->position > message->offset &&
			message->offset > books->last_offset)
		{
			books->last_offset = message->offset;
			books->last_print = weir_fingerprint(message);
			books->last_time = message->timestamp;
		}
	}
}

int64
weir_fingerprint(const WeirMessage *message)
{
	pg_crc32c	crc;

	INIT_CRC32C(crc);
	if (message->key != NULL)
		COMP_CRC32C(crc, message->key, message->key_len);
	if (message->payload != NULL)
		COMP_CRC32C(crc, message->payload, message->len);
	COMP_CRC32C(crc, &message->timestamp, sizeof(message->timestamp));
	FIN_CRC32C(crc);
	return (int64) crc;
}

/* The second half: dense columns to groups. */
static void
apply(WeirRun *run)
{
	int			n = columns.n;

	move_times(run);
	if (n == 0)
		return;
	weir_group_table_upsert(run->table, n, columns.images, columns.lens,
							columns.hashes, columns.groups);
	for (int i = 0; i < n; i++)
	{
		WeirGroup  *group = columns.groups[i];

		/* what a group has once, it has until the commit */
		if ((group->flags & WEIR_GROUP_DIRTY) == 0 ||
			(run->deadlines != NULL && (group->flags & WEIR_GROUP_WAITS) == 0) ||
			(run->publishes_panes && (group->flags & WEIR_GROUP_UNPUBLISHED) == 0))
			weir_run_mark(run, group, columns.has_pane[i], columns.panes[i],
						  columns.times[i]);
		group->flags |= columns.had[i];

		/*
		 * A session may end before its panes are looked at: it has lost rows, or
		 * it was closed, waits for the end of its revision, and is open again.
		 */
		if (run->mark != WEIR_NO_PRESENCE && run->deadlines != NULL &&
			columns.has_pane[i] &&
			((columns.has_diffs && columns.diffs[i] < 0) ||
			 columns.times[i] < run->time.watermark))
			weir_run_list(run, &run->closing, WEIR_GROUP_CLOSING, group);
	}
	for (int s = 0; s < run->n_states; s++)
	{
		WeirState  *state = &run->states[s];
		WeirInput  *input = &run->inputs[run->state_input[s]];

		for (int i = 0; i < n; i++)
			columns.words[i] = WEIR_GROUP_WORDS(columns.groups[i]) + state->offset;
		state->ops->advance(state, columns.words, input->values, input->nulls,
							columns.has_diffs ? columns.diffs : NULL, n);
	}
}

/*
 * Rows up to `at` are evaluated; a subtransaction is all that an error of the
 * next one takes down.
 */
static bool
evaluate_guarded(WeirRun *run, const WeirBatch *batch, volatile int *at)
{
	MemoryContext caller = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	volatile bool going_on = true;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(run->econtext->ecxt_per_tuple_memory);
	PG_TRY();
	{
		going_on = batch->origins != NULL ?
			evaluate_changes_from(run, batch, at) :
			evaluate_from(run, batch, at);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		WeirBooks  *books;
		ErrorData  *error;

		MemoryContextSwitchTo(batch->mcxt);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		weir_watchdog_rethrow(error);
		/* a group could not be read from disk: that is no fault of the row */
		if (run->fetching)
			ReThrowError(error);
		run->judging = false;
		books = weir_run_books(run, batch->origins != NULL ? 0 :
							   batch->messages[*at].partition);
		going_on = bad_row(run, batch, *at, books, error->sqlerrcode,
						   error->message);
		if (going_on)
		{
			if (batch->origins == NULL)
				advance_position(run, books, batch->messages[*at].offset + 1);
			run->moved = true;
			++*at;
		}
	}
	PG_END_TRY();
	MemoryContextSwitchTo(caller);
	CurrentResourceOwner = owner;
	return going_on;
}

/* Where there can be no subtransaction: the caller aborts when this stops. */
static bool
evaluate_unguarded(WeirRun *run, const WeirBatch *batch, volatile int *at)
{
	MemoryContext caller = CurrentMemoryContext;
	volatile bool going_on = true;

	MemoryContextSwitchTo(run->econtext->ecxt_per_tuple_memory);
	PG_TRY();
	{
		going_on = evaluate_changes_from(run, batch, at);
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(batch->mcxt);
		error = CopyErrorData();
		FlushErrorState();
		weir_watchdog_rethrow(error);
		stop_at(run, batch, *at, error->sqlerrcode, error->message);
		going_on = false;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(caller);
	return going_on;
}

static void
clear_columns(WeirRun *run)
{
	columns.n = columns.n_seen = 0;
	columns.has_diffs = false;
	columns.free = run->images;
}

static void
fold(WeirRun *run, const WeirBatch *batch,
	 bool (*evaluate_some) (WeirRun *, const WeirBatch *, volatile int *))
{
	volatile int at = 0;
	Datum	   *slot_values = run->row->tts_values;
	bool	   *slot_nulls = run->row->tts_isnull;
	WeirOwnerScope scope;

	clear_columns(run);
	run->suspect = run->judging = false;
	ExecStoreAllNullTuple(run->row);
	weir_owner_begin(&scope, run->def->owner);
	while (at < batch->n && evaluate_some(run, batch, &at))
	{
		if (!run->suspect)
			continue;
		apply(run);
		clear_columns(run);
		run->suspect = false;
		run->judging = true;
	}
	run->row->tts_values = slot_values;
	run->row->tts_isnull = slot_nulls;
	if (batch->origins == NULL)
		take_fingerprints(run, batch, Min(at, batch->n));

	WEIR_FAULT("fold-before-apply");
	if (run->stop == NULL || evaluate_some == evaluate_guarded)
		apply(run);				/* equality and order of types may be a user's */
	weir_owner_end(&scope);
	ResetExprContext(run->econtext);
}

void
weir_run_fold(WeirRun *run, const WeirBatch *batch)
{
	fold(run, batch, evaluate_guarded);
}

void
weir_run_fold_unguarded(WeirRun *run, const WeirBatch *batch)
{
	Assert(batch->origins != NULL);
	fold(run, batch, evaluate_unguarded);
}
