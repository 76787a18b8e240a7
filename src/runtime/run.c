/*-------------------------------------------------------------------------
 *
 * run.c
 *	  A view in the worker: opened from its definition, closed without trace.
 *
 * Opening plans Q, prepares expressions and states, and loads the groups of the
 * last commit.  Closing throws memory away; since memory is a cache of what
 * is committed plus one uncommitted interval, closing and opening again is
 * also the answer to every error in the middle of a fold.
 *
 *-------------------------------------------------------------------------
 */
#include "runtime/backfill.h"

#include "access/relation.h"
#include "access/table.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "emit/row_writer.h"
#include "executor/executor.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "replication/slot.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

/*
 * Open sliding windows are shown as often as a new one begins, but nobody waits a
 * day for the first sight of a day.
 */
#define LONGEST_PUBLISH_INTERVAL	USECS_PER_MINUTE

/* A bare column of the stream, or 0. */
static AttrNumber
bare_column(Expr *expr)
{
	if (expr != NULL && IsA(expr, Var) && ((Var *) expr)->varattno > 0)
		return ((Var *) expr)->varattno;
	return 0;
}

static void
prepare_keys(WeirRun *run)
{
	WeirPlan   *plan = run->plan;

	run->keys = palloc0(sizeof(WeirRunKey) * Max(plan->n_keys, 1));
	run->key_values = palloc0(sizeof(Datum) * Max(plan->n_keys, 1));
	run->key_nulls = palloc0(sizeof(bool) * Max(plan->n_keys, 1));
	for (int i = 0; i < plan->n_keys; i++)
	{
		WeirRunKey *key = &run->keys[i];
		Expr	   *expr = plan->keys[i].expr;

		key->is_window = plan->keys[i].is_window;
		if (key->is_window)
		{
			weir_window_prepare(&run->window, castNode(FuncExpr, expr));
			run->time_expr = linitial(castNode(FuncExpr, expr)->args);
			expr = linitial(castNode(FuncExpr, expr)->args);
		}
		key->column = bare_column(expr);
		key->expr = ExecInitExpr(expr, NULL);
	}
	run->format = weir_key_format(plan);
	run->image_room = MAXALIGN(weir_key_room(run->format));
}

/* A condition is true or not: NULL rejects, as in WHERE. */
static ExprState *
condition(Expr *expr)
{
	return ExecInitQual(make_ands_implicit(expr), NULL);
}

/* The input of a call, shared with an earlier call that has the same. */
static int
find_input(WeirRun *run, const WeirAggregateCall *call)
{
	WeirInput  *input;

	for (int i = 0; i < run->n_inputs; i++)
		if (equal(run->inputs[i].arg, call->arg) &&
			equal(run->inputs[i].filter, call->filter))
			return i;
	input = &run->inputs[run->n_inputs];
	input->arg = call->arg;
	input->filter = call->filter;
	input->column = bare_column(call->arg);
	input->arg_state = ExecInitExpr(call->arg, NULL);
	input->filter_state = condition(call->filter);
	input->values = palloc0(sizeof(Datum) * WEIR_BATCH_ROWS);
	input->nulls = palloc0(sizeof(bool) * WEIR_BATCH_ROWS);
	return run->n_inputs++;
}

/*
 * Rows can be taken back: each group counts its own, as count(*) does, to know
 * when it is gone.
 */
static void
prepare_presence(WeirRun *run, Size *words_size)
{
	WeirAggregateCall all = {0};
	WeirState  *state;
	int			input = find_input(run, &all);

	for (int s = 0; s < run->n_states; s++)
		if (run->state_input[s] == input &&
			run->states[s].ops == &weir_count_rows)
		{
			run->presence = run->states[s].offset;
			return;
		}
	state = &run->states[run->n_states];
	state->ops = &weir_count_rows;
	state->offset = run->presence = *words_size;
	run->state_input[run->n_states++] = input;
	*words_size += weir_count_rows.size;
}

/*
 * A session needs to know the least and the greatest time of each of its panes,
 * as if Q had min(ts) and max(ts); and until where it reached when its row was
 * written.
 */
static int
prepare_extreme(WeirRun *run, bool least, Size *words_size)
{
	WeirAggregateCall call = {.arg = run->time_expr};
	int			input = find_input(run, &call);
	WeirState  *state = &run->states[run->n_states];

	state->ops = run->def->retracts ?
		&weir_multiset_signed : &weir_extreme_signed;
	state->store = run->store;
	state->arg_type = exprType((Node *) run->time_expr);
	state->typlen = sizeof(int64);
	state->typbyval = true;
	state->least = least;
	state->offset = *words_size;
	run->state_input[run->n_states] = input;
	*words_size += state->ops->size;
	return run->n_states++;
}

static void
prepare_session(WeirRun *run, Size *words_size)
{
	run->first_state = prepare_extreme(run, true, words_size);
	/* a multiset has both ends */
	run->last_state = run->def->retracts ? run->first_state :
		prepare_extreme(run, false, words_size);
	run->mark = *words_size;
	*words_size += sizeof(int64);
}

/*
 * States for the calls; sum(x) and avg(x) share one.  count(*) FILTER (...)
 * counts the rows that are not NULL of an input that is NULL where the
 * filter fails.
 */
static void
prepare_states(WeirRun *run, WeirFinish *finishes, int *state_of,
			   Size *words_size)
{
	WeirPlan   *plan = run->plan;
	int			n = plan->n_calls + 3;	/* presence, and times of sessions */

	run->inputs = palloc0(sizeof(WeirInput) * n);
	run->states = palloc0(sizeof(WeirState) * n);
	run->state_input = palloc0(sizeof(int) * n);
	*words_size = 0;
	for (int i = 0; i < plan->n_calls; i++)
	{
		WeirAggregateCall *call = &plan->calls[i];
		WeirClass	class_ = weir_classify(call->aggref, run->def->retracts);
		int			input = find_input(run, call);
		int			s;

		if (class_.ops == NULL)
			elog(ERROR, "aggregate %u has no state", call->aggref->aggfnoid);
		if (class_.ops == &weir_count_rows && call->filter != NULL)
			class_.ops = &weir_count_any;
		finishes[i] = class_.finish;
		for (s = 0; s < run->n_states; s++)
			if (run->state_input[s] == input &&
				run->states[s].ops == class_.ops &&
				run->states[s].least == class_.least &&
				run->states[s].collation == call->aggref->inputcollid)
				break;
		if (s == run->n_states)
		{
			weir_state_prepare(&run->states[s], &class_, call->aggref,
							   run->store);
			run->states[s].offset = *words_size;
			run->state_input[s] = input;
			*words_size += class_.ops->size;
			run->n_states++;
		}
		state_of[i] = s;
	}
	run->presence = run->mark = WEIR_NO_PRESENCE;
	run->first_state = run->last_state = -1;
	if (run->def->retracts || weir_window_is_composed(plan->window_kind))
		prepare_presence(run, words_size);
	if (plan->window_kind == WEIR_SESSION)
		prepare_session(run, words_size);
}

/*
 * A process holds one replication slot at a time, and the worker's is ours.  An
 * expression of an owner who may use slots would let go of it: core's functions
 * take theirs without looking, and leave none.  So it is set aside while
 * expressions run, and whatever they have left is released.
 */
static ReplicationSlot *slot_aside = NULL;

static void
take_slot_back(void)
{
	ReplicationSlot *slot = slot_aside;

	if (slot == NULL)
		return;
	slot_aside = NULL;
	if (MyReplicationSlot != NULL && MyReplicationSlot != slot)
		ReplicationSlotRelease();
	/* taken by its name and released, or dropped: the reader will notice */
	MyReplicationSlot = slot->in_use && slot->active_pid == MyProcPid ?
		slot : NULL;
}

/* Core releases the slot of a process that ends, where it looks for it. */
static void
take_slot_back_at_exit(int code, Datum arg)
{
	take_slot_back();
}

static void
set_slot_aside(void)
{
	static bool registered = false;

	if (MyReplicationSlot == NULL || slot_aside != NULL)
		return;
	if (!registered)
		before_shmem_exit(take_slot_back_at_exit, (Datum) 0);
	registered = true;
	slot_aside = MyReplicationSlot;
	MyReplicationSlot = NULL;
}

ErrorData *
weir_catch(MemoryContext caller)
{
	ErrorData  *error;

	MemoryContextSwitchTo(caller);
	error = CopyErrorData();
	FlushErrorState();
	AbortCurrentTransaction();
	take_slot_back();
	/* outside of a transaction nothing else lets them go */
	LWLockReleaseAll();
	MemoryContextSwitchTo(caller);
	return error;
}

void
weir_owner_begin(WeirOwnerScope *scope, Oid owner)
{
	GetUserIdAndSecContext(&scope->user, &scope->sec_context);
	SetUserIdAndSecContext(owner,
						   scope->sec_context | SECURITY_RESTRICTED_OPERATION);
	scope->guc_level = NewGUCNestLevel();
	set_slot_aside();
}

void
weir_owner_end(const WeirOwnerScope *scope)
{
	take_slot_back();
	AtEOXact_GUC(false, scope->guc_level);
	SetUserIdAndSecContext(scope->user, scope->sec_context);
}

/* v must still have the columns that Q gives it. */
void
weir_check_shape(Relation v, TupleDesc wanted)
{
	TupleDesc	desc = RelationGetDescr(v);
	bool		same = desc->natts == wanted->natts;

	for (int i = 0; same && i < wanted->natts; i++)
		same = !TupleDescAttr(desc, i)->attisdropped &&
			TupleDescAttr(desc, i)->atttypid == TupleDescAttr(wanted, i)->atttypid &&
			TupleDescAttr(desc, i)->atttypmod == TupleDescAttr(wanted, i)->atttypmod;
	if (!same)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the columns of \"%s\" were changed",
						RelationGetRelationName(v)),
				 errhint("Drop the view and create it again with the query that you want.")));

	weir_check_alone(v, "weir.rebuild");
	if (v->rd_rel->relpersistence != RELPERSISTENCE_PERMANENT)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("\"%s\" has become unlogged",
						RelationGetRelationName(v)),
				 errdetail("A crash would empty it while its positions stay."),
				 errhint("Run ALTER TABLE ... SET LOGGED, and then weir.resume on the view.")));
}

/*
 * Event time goes on where it was committed.  On another timeline, numbers of
 * the changelog that were given out beyond our copy of the WAL may be known to
 * somebody: ours begin far ahead of them.
 */
static void
begin_time(WeirRun *run)
{
	int32		timeline = (int32) GetWALInsertionTimeLine();

	run->next_idle = DT_NOEND;
	if (run->publishes_panes && !run->backfilling)
		weir_run_publish_again(run);
	if (run->time.timeline != 0 && run->time.timeline != timeline)
		run->time.seq += INT64CONST(1) << 32;
	run->time.timeline = timeline;
	if (!run->has_watermark)
		return;
	for (int i = 0; i < run->n_books; i++)
	{
		WeirEventTime *time = &run->books[i].time;

		if (run->def->options.watermark.kind != WEIR_WATERMARK_PERCENTILE)
			time->lateness = NULL;
	}
	/* another policy holds from the next row on, not from the next commit */
	if (!run->backfilling)
		run->time.settled =
			Max(run->time.settled,
				weir_time_add(run->time.watermark,
							  -run->def->options.allowed_lateness));
	run->next_idle = 0;
	weir_run_set_deadlines(run);
}

/* What is known of the view besides its groups. */
static void
load_books(WeirRun *run)
{
	bool		stalled;
	Oid			filenode;

	run->books = weir_read_books(run->def->id, true, &run->n_books);
	if (!weir_read_status(run->def->id, &run->backfilling, &filenode, &stalled,
						  &run->time))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("the status of a view is missing")));
	/* a table view is backfilled until it has a position: never a second time */
	if (run->def->source_kind == WEIR_SOURCE_TABLE && run->n_books == 0 &&
		!run->backfilling)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("the position of a view is missing"),
				 errhint("Run weir.rebuild on the view.")));
	/* VACUUM FULL, CLUSTER and a restore move rows: write them anew */
	run->rewrite = !run->backfilling && OidIsValid(filenode) &&
		filenode != run->filenode;
}

/* What weir.late_rows shows of a row: the columns that the view reads. */
static void
prepare_late_rows(WeirRun *run)
{
	TupleDesc	source = run->row->tts_tupleDescriptor;
	int			n = 0;
	int			column = -1;

	run->late_desc = CreateTemplateTupleDesc(bms_num_members(run->plan->wanted));
	run->late_columns = palloc(sizeof(AttrNumber) *
							   Max(run->late_desc->natts, 1));
	while ((column = bms_next_member(run->plan->wanted, column)) >= 0)
	{
		run->late_columns[n++] = column;
		TupleDescCopyEntry(run->late_desc, n, source, column);
	}
	run->late_desc = BlessTupleDesc(run->late_desc);
}

/* All that a fold and a commit need, but the groups. */
static void
prepare_groups(WeirRun *run, WeirFinish *finishes, int *state_of, Size words_size)
{
	WeirWindow *window = NULL;
	Relation	v;
	Relation	definition;

	if (run->plan->window_key >= 0)
		window = &run->window;
	run->projector = weir_projector_create(run->plan, run->format, window,
										   run->states, finishes, state_of);
	run->table = weir_group_table_create(run->mcxt, run->format, run->states,
										 run->n_states, words_size,
										 run->presence);
	run->evicted = weir_evicted_create(run->mcxt);
	if (weir_window_is_composed(run->plan->window_kind))
		run->composer = weir_composer_create(window, run->plan->window_key,
											 run->format, run->table,
											 run->states, run->n_states,
											 run->first_state,
											 run->last_state);
	run->publishes_panes = weir_window_is_set(run->plan->window_kind) &&
		run->def->options.emit == WEIR_EMIT_CHANGES;
	run->publish_interval = run->def->options.publish_interval;
	if (run->publish_interval < 0 && window != NULL)
		run->publish_interval = window->size_kind == WEIR_SIZE_PHYSICAL ?
			Min(window->slide, LONGEST_PUBLISH_INTERVAL) : LONGEST_PUBLISH_INTERVAL;
	run->has_watermark = window != NULL && run->plan->window_column != 0 &&
		run->def->options.watermark.kind != WEIR_WATERMARK_NONE;
	if (run->has_watermark)
	{
		run->deadlines = weir_deadlines_create(run->mcxt);
		prepare_late_rows(run);
	}

	v = table_open(run->def->relid, AccessShareLock);
	definition = relation_open(run->def->query_view, AccessShareLock);
	run->shape = CreateTupleDescCopy(RelationGetDescr(definition));
	relation_close(definition, AccessShareLock);
	weir_check_shape(v, run->shape);
	run->filenode = weir_filenode(v);
	table_close(v, AccessShareLock);
}

static void
add_grand_total(WeirRun *run)
{
	char	   *image = palloc0(run->image_room);
	uint32		hash;
	uint32		len;
	WeirGroup  *group;

	if (!run->plan->grand_total || weir_group_table_count(run->table) > 0 ||
		weir_evicted_count(run->evicted) > 0)
		return;
	len = weir_key_write(run->format, NULL, NULL, image, &hash);
	weir_group_table_upsert(run->table, 1, &image, &len, &hash, &group);
	group->flags |= WEIR_GROUP_DIRTY;
	run->dirty[run->n_dirty++] = group;
	run->moved = true;			/* one row, also over no input: commit it */
}

WeirRun *
weir_run_open(WeirViewDef *def, TupleDesc stream_desc, bool loads)
{
	MemoryContext mcxt = AllocSetContextCreate(TopMemoryContext,
											   "pg_weir view",
											   ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(mcxt);
	WeirRun    *run = palloc0(sizeof(*run));
	Oid			save_user;
	int			save_context;

	run->mcxt = mcxt;
	run->def = def;
	GetUserIdAndSecContext(&save_user, &save_context);
	PG_TRY();
	{
		WeirFinish *finishes;
		int		   *state_of;
		Size		words_size;
		Query	   *query;
		WeirOwnerScope scope;

		WEIR_FAULT("open");
		query = weir_catalog_query(def->query_view);
		if (query == NULL)
			ereport(ERROR,
					(errcode(WEIR_ERRCODE_CHANGED),
					 errmsg("the view was dropped")));
		weir_check_source_privileges(query, def->owner);

		/*
		 * Folding constants runs functions of the user, and preparing
		 * expressions asks whether he may execute them.
		 */
		weir_owner_begin(&scope, def->owner);
		run->plan = weir_plan_query(query);

		finishes = palloc0(sizeof(WeirFinish) * Max(run->plan->n_calls, 1));
		state_of = palloc0(sizeof(int) * Max(run->plan->n_calls, 1));
		run->letters_stored = run->late_stored = -1;
		run->interval = AllocSetContextCreate(mcxt, "pg_weir interval",
											  ALLOCSET_DEFAULT_SIZES);
		run->store = weir_value_store_create(mcxt);
		prepare_keys(run);
		prepare_states(run, finishes, state_of, &words_size);
		run->econtext = CreateStandaloneExprContext();
		run->row = MakeSingleTupleTableSlot(CreateTupleDescCopy(stream_desc),
											&TTSOpsVirtual);
		run->econtext->ecxt_scantuple = run->row;
		run->filter = condition(run->plan->filter);
		run->images = palloc(run->image_room * WEIR_BATCH_ROWS);
		run->max_dirty = 1024;
		run->dirty = palloc(sizeof(WeirGroup *) * run->max_dirty);
		run->max_unpublished = run->plan->window_key >= 0 ? 1024 : 0;
		run->unpublished = palloc(sizeof(WeirGroup *) * run->max_unpublished);
		prepare_groups(run, finishes, state_of, words_size);
		weir_owner_end(&scope);

		load_books(run);
		if (loads)
			weir_run_load_groups(run);
		begin_time(run);
		add_grand_total(run);
	}
	PG_CATCH();
	{
		SetUserIdAndSecContext(save_user, save_context);
		MemoryContextSwitchTo(old);
		weir_run_close(run);
		PG_RE_THROW();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(old);
	return run;
}

void
weir_run_close(WeirRun *run)
{
	weir_forget_kept_rows(run);
	if (run->table != NULL)
		weir_group_table_destroy(run->table);
	if (run->store != NULL)
		weir_value_store_destroy(run->store);
	MemoryContextDelete(run->mcxt);
}

WeirBooks *
weir_run_books(WeirRun *run, int32 partition)
{
	WeirBooks  *books;
	int			i;

	/* partitions are numbered from 0 and kept in order */
	if (partition < run->n_books && run->books[partition].partition == partition)
		return &run->books[partition];
	for (i = 0; i < run->n_books; i++)
		if (run->books[i].partition == partition)
			return &run->books[i];

	/* added after the view was made: it is read from 0 */
	run->books = repalloc(run->books, sizeof(WeirBooks) * (run->n_books + 1));
	books = &run->books[run->n_books++];
	memset(books, 0, sizeof(*books));
	books->partition = partition;
	books->source_end = -1;
	books->last_offset = -1;
	books->last_time = DT_NOBEGIN;
	weir_event_time_begin(&books->time, &run->def->options.watermark,
						  run->time.watermark, weir_now());
	books->changed = true;
	return books;
}

bool
weir_run_complete(const WeirRun *run)
{
	if (run->def->source_kind != WEIR_SOURCE_KAFKA &&
		(!run->joined ||
		 (run->backfill != NULL && run->backfill->state != WEIR_BACKFILL_DONE)))
		return false;
	for (int i = 0; i < run->n_books; i++)
		if (run->books[i].position < run->books[i].target)
			return false;
	return true;
}

bool
weir_run_has_news(WeirRun *run)
{
	/* states of half a backfill mean nothing: they are written to make room */
	if (run->backfilling && run->def->source_kind != WEIR_SOURCE_KAFKA)
		return weir_run_complete(run) || (run->pressed && run->n_dirty > 0);
	return run->moved || run->n_dirty > 0 || run->rewrite ||
		(run->backfilling && weir_run_complete(run)) ||
		weir_run_publishes_open(run) || weir_run_time_moves(run);
}
