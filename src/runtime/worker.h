/*-------------------------------------------------------------------------
 *
 * worker.h
 *	  The worker and the parts of its loop.
 *
 *-------------------------------------------------------------------------
 */
#ifndef WEIR_WORKER_H
#define WEIR_WORKER_H

#include "weir.h"
#include "catalog/weir_catalog.h"
#include "emit/emit.h"
#include "executor/executor.h"
#include "runtime/pace.h"
#include "runtime/shared.h"
#include "source/source.h"
#include "decode/decode.h"
#include "state/state.h"
#include "window/deadlines.h"
#include "window/window.h"

/* Handed from the launcher to a worker through bgw_extra. */
typedef struct WeirWorkerArgs
{
	Oid			database;
	int			slot;			/* -1: a scout */
} WeirWorkerArgs;

extern PGDLLEXPORT void weir_worker_main(Datum arg);

/*
 * pinned_settings.c: settings under which all of our own statements run, and
 * those of a view (name, value, ...).  Not in a transaction.
 */
extern void weir_pin_own_settings(void);
extern void weir_pin_settings(List *settings);

/* Lets other processes of the machine go first, from now on. */
extern void weir_stand_back(void);

/* The share of a core that this process used lately, its threads included. */
extern double weir_busy_share(void);

/*
 * "The definition has changed beneath us": no stall, the reload will tell.  A
 * SQLSTATE of our own, since a user's expression can raise any other.
 */
#define WEIR_ERRCODE_CHANGED MAKE_SQLSTATE('W', 'E', 'I', 'R', '1')

/* ---- a batch: messages of one stream, decoded once for all its views ---- */

/* Small enough for its columns to stay in cache, large enough to amortise. */
#define WEIR_BATCH_ROWS 2048

/*
 * What a row of a batch is when the source is a table or a push stream: how
 * often it is added (-1: taken back), and in which transaction.
 */
typedef struct WeirRowOrigin
{
	int64		diff;
	bool		inserted;		/* by an INSERT: what append-only views take */
	uint32		had;			/* WEIR_GROUP_HAD_UPDATE or _DELETE, else 0 */
	XLogRecPtr	begin;			/* of the commit record, and its end */
	XLogRecPtr	end;
	TransactionId xid;			/* top-level */
} WeirRowOrigin;

/* Either of messages or, with origins, of rows of changes. */
typedef struct WeirBatch
{
	int			n;				/* messages, of every kind; or rows */
	int			natts;			/* of the stream */
	WeirRowOrigin *origins;		/* NULL: messages */
	WeirMessage *messages;
	WeirVerdict *verdicts;		/* of the records among them */
	WeirDecodeError *errors;
	Datum	   *values;			/* n x natts, a row after the other */
	bool	   *nulls;
	MemoryContext mcxt;			/* by-reference values; reset every turn */
} WeirBatch;

/* ---- run.c: a view being run ---- */

/* An input of states: one argument under one FILTER. */
typedef struct WeirInput
{
	Expr	   *arg;			/* NULL: count(*) */
	Expr	   *filter;
	AttrNumber	column;			/* arg is this bare column, else 0 */
	ExprState  *arg_state;
	ExprState  *filter_state;
	Datum	   *values;			/* dense, of the rows of a batch */
	bool	   *nulls;
} WeirInput;

typedef struct WeirRunKey
{
	AttrNumber	column;			/* bare column (of a window: its time) */
	ExprState  *expr;
	bool		is_window;
} WeirRunKey;

typedef struct WeirGroupList
{
	WeirGroup **groups;
	int			n;
	int			max;
} WeirGroupList;

typedef struct WeirDeadLetter
{
	int32		partition;
	int64		offset;			/* -1: a change, see lsn */
	XLogRecPtr	lsn;			/* end of the commit */
	int			sqlstate;
	char	   *message;
	char	   *payload;		/* NULL for none */
	int			payload_len;	/* bytes, capped */
} WeirDeadLetter;

/*
 * A view in this worker.  What follows `mcxt` dies with it; what a commit has
 * not written yet is marked as such.
 */
typedef struct WeirRun
{
	WeirViewDef *def;
	MemoryContext mcxt;
	WeirPlan   *plan;

	/* fold */
	WeirRunKey *keys;
	Datum	   *key_values;		/* of the row at hand */
	bool	   *key_nulls;
	int			n_inputs;
	WeirInput  *inputs;
	int			n_states;
	WeirState  *states;
	int		   *state_input;	/* index into inputs, per state */
	WeirKeyFormat *format;
	WeirValueStore *store;
	WeirGroupTable *table;
	Size		presence;		/* of the row count in a group's words */
	Size		mark;			/* of a session's published upper bound */
	int			first_state;	/* of a session: min and max of its times */
	int			last_state;

	/* groups on disk: evict.c */
	WeirEvicted *evicted;
	bool		has_index;		/* of the state table */
	TimestampTz next_index;		/* when to try again to make it */
	uint64		hand;			/* where the next sweep goes on */
	Size		group_bytes;	/* of a group in memory, when we last looked */
	bool		fetching;		/* groups; stays set if that has failed */
	bool		staging;		/* a commit is being put together */
	WeirGroupList arrived;		/* WEIR_GROUP_ARRIVED: came meanwhile */
	bool		truncated;		/* groups on disk are of no rows any more */
	bool		pressed;		/* no room: commit before the interval is over */
	bool		again;			/* and at once once more: publish from disk */
	bool		reopen;			/* it was published from there */
	bool		forgot_closing; /* a backfill's, and `closing` is to be made anew */

	ExprState  *filter;
	ExprContext *econtext;
	TupleTableSlot *row;		/* of the stream */
	WeirDecoder *decoder;		/* for messages that are bad for the feed, whose
								 * views read more; NULL: they are bad for us.
								 * The feed's. */
	char	   *images;			/* WEIR_BATCH_ROWS key images */
	Size		image_room;

	/* event time; without a watermark windows never close */
	WeirWindow	window;			/* if Q has one */
	bool		has_watermark;
	WeirViewTime time;			/* as of the last commit; counters of late rows
								 * and what follows them may be ahead of it */
	Expr	   *time_expr;		/* the first argument of the window function */
	struct WeirJudgement *judgement;	/* of the pane of the last late row */
	WeirDeadlines *deadlines;	/* of all groups with a pane; NULL without a
								 * watermark, and in a backfill's process */
	TimestampTz next_idle;		/* clock: a partition may become idle then */
	bool		idle_changed;	/* of a partition, since the last commit */
	struct WeirKept *late_rows; /* kept_rows.c; NULL: none */
	TupleDesc	late_desc;		/* the columns that a late row shows */
	AttrNumber *late_columns;	/* of the source */
	bool		suspect;		/* fold.c: a row must be judged by what is applied */
	bool		judging;

	/* emit */
	WeirComposer *composer;		/* of windows of several panes */
	struct WeirTorn *torn;		/* WEIR_GROUP_TORN, until the commit */
	int			n_torn;
	int			max_torn;
	WeirGroupList closing;		/* WEIR_GROUP_CLOSING: may close before they are due */
	bool		publishes_panes;	/* open ones of hop and cumulate */
	WeirGroup **unpublished;	/* panes that changed since their open windows
								 * were composed */
	int			n_unpublished;
	int			max_unpublished;
	int64		publish_interval;	/* microseconds */
	TimestampTz next_publish;	/* by weir_now(): of open sliding windows */
	bool		unsure;			/* v may show them as they are */
	bool		publish_now;	/* somebody waits for them */
	TimestampTz next_expiry;	/* of what expire.c deletes */
	int64		letters_stored; /* about; -1: not counted yet */
	int64		late_stored;
	WeirProjector *projector;
	TupleDesc	shape;			/* of v, as the definition gives it */
	Oid			filenode;		/* of v, for which the result TIDs hold */
	Oid			state_filenode; /* of the state table, likewise */
	bool		backfilling;
	struct WeirBackfill *backfill;	/* of a table: what its rows were before */
	bool		joined;			/* fed with changes */
	bool		rewrite;		/* the next commit replaces all rows of v */

	/* uncommitted */
	WeirGroup **dirty;
	int			n_dirty;
	int			max_dirty;
	struct WeirKept *dead_letters;	/* kept_rows.c; NULL: none */
	MemoryContext interval;		/* of these; reset at each commit */
	bool		moved;			/* some position moved */
	WeirBooks  *books;			/* per partition */
	int			n_books;

	TimestampTz last_commit;	/* server time: paces the next one; 0: none yet */
	WeirPace	pace;
	bool		blocked;		/* a lock kept the last commit off */
	TimestampTz next_lag;		/* while it does: when to say how far behind */
	TimestampTz complete_to;	/* of changes: all that was committed by then is
								 * in v; 0: not known */
	int64		wal_bytes;		/* of the last commit, and its duration */
	int64		commit_us;

	/* set by on_error = 'stop', and by a source with a gap: stall after the
	 * commit of what came before */
	ErrorData  *stop;
	XLogRecPtr	stop_lsn;		/* of changes: where the commit record of the
								 * transaction that it is about begins */
	XLogRecPtr	limit;			/* fold nothing that ends beyond this; 0: none */
	bool		needs_person;	/* to stop again at once would be no news */
} WeirRun;

/*
 * Between these two everything runs with the rights of a view's owner, and
 * what his functions do to settings is undone at the end: views of several
 * owners share a worker, and a search_path that one of them leaves behind
 * would choose the functions that the next one's run.  In a transaction; an
 * error leaves nothing to clean up but the user, whom its abort restores.
 */
typedef struct WeirOwnerScope
{
	Oid			user;
	int			sec_context;
	int			guc_level;
} WeirOwnerScope;

/*
 * In PG_CATCH(), outside of subtransactions: ends the transaction, if there is
 * one, and returns the error in the context `caller`, which is current then.
 */
extern ErrorData *weir_catch(MemoryContext caller);

extern void weir_owner_begin(WeirOwnerScope *scope, Oid owner);
extern void weir_owner_end(const WeirOwnerScope *scope);

/*
 * Opens a view: plans Q, and loads its groups, but for a backfill's process.  In a
 * transaction; raises what planning and loading raise, with nothing left behind.
 */
extern WeirRun *weir_run_open(WeirViewDef *def, TupleDesc stream_desc,
							  bool loads);
extern void weir_run_close(WeirRun *run);

/*
 * Raises 55000 when v no longer has the columns of Q, others can write it, or a
 * crash would empty it.
 */
extern void weir_check_shape(Relation v, TupleDesc wanted);

/* Every partition is at its target: a backfill may be published. */
extern bool weir_run_complete(const WeirRun *run);

/* There is something to commit. */
extern bool weir_run_has_news(WeirRun *run);

/* The books of a partition, made if they are new. */
extern WeirBooks *weir_run_books(WeirRun *run, int32 partition);

/* ---- fold.c ---- */

/*
 * Folds what is new for the view in a batch.  In a transaction with an active
 * snapshot.  A row whose expressions raise becomes a dead letter.  If it raises
 * itself the view's memory is torn and must be closed.
 */
extern void weir_run_fold(WeirRun *run, const WeirBatch *batch);

/*
 * The same without a subtransaction, which a parallel query does not allow.  If
 * an expression raises, run->stop is set and the caller aborts its transaction.
 * For rows with origins.
 */
extern void weir_run_fold_unguarded(WeirRun *run, const WeirBatch *batch);

/*
 * The source was truncated: all groups are of no rows now.  A view that only
 * takes inserts is not asked.
 */
extern void weir_run_truncate(WeirRun *run);

/*
 * A group of the table is changed: commit it, publish it, look at it when its
 * window closes.  `at`: the time of its row, for a session.
 */
extern void weir_run_mark(WeirRun *run, WeirGroup *group, bool has_pane,
						  int64 pane, Timestamp at);

/* Appends to a list, unless the flag says that it is there. */
extern void weir_run_list(WeirRun *run, WeirGroupList *list, uint32 flag,
						  WeirGroup *group);

/* A group was changed by somebody else than the fold: commit it. */
extern void weir_run_touch(WeirRun *run, WeirGroup *group);

/* Recognises a message when it is met again. */
extern int64 weir_fingerprint(const WeirMessage *message);

/* An open window of this pane is to be composed. */
extern void weir_run_publish_pane(WeirRun *run, WeirGroup *group);

/* ---- evict.c: groups that leave memory ---- */

/*
 * Makes room for n more groups, by evicting others.  Not in a transaction.  False
 * if it would take a commit first.
 */
extern bool weir_run_make_room(WeirRun *run, int n);

/* Evicts everything, since v is replaced from disk.  Nothing may be dirty. */
extern void weir_run_leave_memory(WeirRun *run);

/* When the groups of a pane are of no use any more; DT_NOEND: never. */
extern Timestamp weir_pane_freezes(WeirRun *run, int64 pane);

/* Would a commit not find the groups of a pane, were they not in memory? */
extern bool weir_pane_must_stay(WeirRun *run, int64 pane);

/* weir.test_groups */
extern bool weir_is_over_test_limit(const WeirRun *run);

/* Sees what a group takes on average: run->group_bytes. */
extern void weir_note_group_bytes(WeirRun *run);

/* ---- fault_in.c: groups that come from disk ---- */

/* Loads the groups of the last commit, as far as memory goes.  As run.c's open. */
extern void weir_run_load_groups(WeirRun *run);

/* A WeirMissing whose arg is the run: loads those groups that are on disk. */
extern void weir_run_bring_back(void *arg, int n, char **images,
								const uint32 *lens, const uint32 *hashes);
extern void weir_run_bring_all_back(WeirRun *run);

/* A group has been loaded: it is not away any more, and waits for its deadline. */
extern void weir_run_welcome(WeirRun *run, WeirGroup *group);

/* The commit is over: what has come meanwhile begins to wait. */
extern void weir_run_settle_arrived(WeirRun *run);

/* ---- late.c: rows whose windows have closed ---- */

typedef enum WeirTimeliness
{
	WEIR_IN_TIME,				/* for all of its windows */
	WEIR_LATE_FOR_SOME,			/* revises a window, or misses one */
	WEIR_LATE_ALTOGETHER,		/* recorded or counted; it is not folded */
	WEIR_SUSPECT				/* of a session: apply what is pending, ask again */
} WeirTimeliness;

/*
 * Is the row at hand, with this event time in this pane, in time?  Counts and
 * records what it misses.  image: of its keys, for sessions.
 */
extern WeirTimeliness weir_judge_row(WeirRun *run, Timestamp ts, int64 pane,
									 const char *image, uint32 len, int diff);

/* A commit has succeeded: the watermark may have moved, what was judged is void. */
extern void weir_judge_anew(WeirRun *run);

/* ---- kept_rows.c: dead letters and late rows, until their commit ---- */

typedef struct WeirKept WeirKept;

/* Copies of these; in a transaction. */
extern void weir_keep_dead_letter(WeirRun *run, const WeirDeadLetter *letter);
extern void weir_keep_late_row(WeirRun *run, const WeirLateRow *row);

/* How many there are since the last commit. */
extern int64 weir_kept_letters(const WeirRun *run);
extern int64 weir_kept_late_rows(const WeirRun *run);
extern int64 weir_kept_rows(const WeirRun *run);

extern void weir_each_dead_letter(WeirRun *run,
								  void (*take) (void *arg,
												const WeirDeadLetter *letter),
								  void *arg);

/* In the commit's transaction; again, if that has failed. */
extern void weir_write_kept_rows(WeirRun *run);

/* They are committed, or thrown away. */
extern void weir_forget_kept_rows(WeirRun *run);

/* ---- expire.c: what is kept for a while only ---- */

struct WeirWorker;

/* Deletes what is due; a transaction for each kind and view. */
extern void weir_expire(struct WeirWorker *worker);

/* The rows that the run has kept are stored now. */
extern void weir_expiry_count(WeirRun *run);

/* When it is to be called again for a run; DT_NOEND: when it likes. */
extern TimestampTz weir_expiry_due(const WeirRun *run);

/* ---- publish.c: which rows of v a commit writes ---- */

/* What a commit does with the groups of a run, until it has succeeded. */
typedef struct WeirStaged
{
	WeirRun    *run;
	Oid			filenode;		/* of v */
	bool		publishes;		/* not in the middle of a backfill */
	bool		partial;		/* states of half a table, to make room */
	bool		replaces;		/* all rows of v */
	bool		publishes_open;	/* sliding windows */
	TimestampTz watermark;
	TimestampTz settled;
	TimestampTz next_idle;
	int32		held_by;
	WeirOutcome *outcomes;
	int64		n_outcomes;
	WeirPlacement *placements;	/* of the outcomes' rows */
	void	  **due;			/* groups whose deadline has come */
	int64		n_due;
	Timestamp  *deadlines;		/* what those wait for next; DT_NOBEGIN: they go */
	WeirGroup **groups;			/* states to write */
	bool	   *gone;			/* or to delete, with the group */
	ItemPointerData *results;	/* where their rows of v are */
	Timestamp  *marks;			/* of sessions */
	ItemPointerData *places;	/* where their stored states are */
	int64		n_groups;
	int64		n_placed;		/* the first so many are in the order of v's rows */
	int64		seq;			/* next weir_seq */
	TimestampTz at;
	bool		notified;
	List	   *forgotten;		/* int64 *: panes of which nothing is on disk now */
} WeirStaged;

/* Watermark and outcomes; in the commit's transaction, changes no group. */
extern void weir_stage_outcomes(WeirRun *run, WeirStaged *staged);

/* Of these groups, all that v is to have: v is being replaced. */
extern void weir_stage_again(WeirRun *run, WeirStaged *staged,
							 WeirGroup **groups, int64 n);

/*
 * Of a group that is a window: false if that does not close now, or nobody is to
 * know.
 */
extern bool weir_outcome_of_closing(WeirRun *run, const WeirStaged *staged,
									WeirGroup *group, WeirOutcome *outcome);

/* A TRUNCATE: v loses the row of the group, if it has one that is not frozen. */
extern bool weir_outcome_of_wiped(WeirRun *run, const WeirStaged *staged,
								  WeirGroup *group, WeirOutcome *outcome);

/* ---- publish_evicted.c: groups that are on disk ---- */

/* What has not been in memory; after the others' rows and states. */
extern void weir_publish_evicted(WeirRun *run, WeirStaged *staged, Relation v,
								 Relation state_table);
extern void weir_apply_evicted(WeirStaged *staged);

/*
 * weir_commit.c: rows of v and of its changelog, and placements; or what it takes to
 * do that in portions.  As the owner.
 */
extern void weir_write_outcomes(WeirRun *run, Relation v, WeirStaged *staged);
extern WeirChangelog *weir_begin_changes(WeirRun *run, const WeirStaged *staged);
extern void weir_end_changes(WeirStaged *staged, WeirChangelog *changelog);
extern WeirReplacement *weir_begin_replacement(WeirRun *run, Relation v,
											   WeirChangelog *changelog);

/* ---- staged.c: the groups of a commit ---- */

/* With the placements at hand: the states. */
extern void weir_stage_states(WeirRun *run, WeirStaged *staged);

/* The commit has failed: whatever was marked is as it was. */
extern void weir_unstage(WeirRun *run, WeirStaged *staged);

/* After the commit: groups, deadlines, time. */
extern void weir_apply_staged(WeirStaged *staged);

/* After loading: what v shows of open sliding windows may be of before. */
extern void weir_run_publish_again(WeirRun *run);

/*
 * The upper bound of the session whose row the group holds, as it was published:
 * a word of the group that is DT_NOBEGIN when it is zero.
 */
static inline Timestamp
weir_run_published(const WeirRun *run, const WeirGroup *group)
{
	return run->mark == WEIR_NO_PRESENCE ? DT_NOBEGIN :
		*(const int64 *) (WEIR_GROUP_WORDS(group) + run->mark) ^ DT_NOBEGIN;
}

static inline void
weir_run_set_published(const WeirRun *run, WeirGroup *group, Timestamp upper)
{
	if (run->mark != WEIR_NO_PRESENCE)
		*(int64 *) (WEIR_GROUP_WORDS(group) + run->mark) = upper ^ DT_NOBEGIN;
}

/* Are there open windows of several panes whose time to be shown has come? */
extern bool weir_run_publishes_open(const WeirRun *run);

/* ---- view_time.c: how far event time has come, and what groups wait for ---- */

/* Where the watermark would be if the run committed now. */
extern TimestampTz weir_run_watermark(WeirRun *run, TimestampTz *next_idle,
									  int32 *held_by);

/* Would it move although no row has come, since a partition has become idle? */
extern bool weir_run_time_moves(WeirRun *run);

/* The pane of a group; false for the NULL window. */
extern bool weir_pane_of_group(const WeirRun *run, const WeirGroup *group,
							   int64 *pane);

/*
 * When a group is to be looked at, the watermark being there: DT_NOBEGIN if it is
 * to go.
 */
extern Timestamp weir_next_deadline(WeirRun *run, WeirGroup *group, int64 pane,
									TimestampTz watermark);

/* A group that waits for nothing: when is it to be looked at?  at: its row's time. */
extern void weir_run_wait(WeirRun *run, WeirGroup *group, int64 pane,
						  Timestamp at);

/* After loading: all groups wait for something. */
extern void weir_run_set_deadlines(WeirRun *run);

/* late.c: ts + interval, at most the end of time. */
extern Timestamp weir_time_add(Timestamp ts, int64 interval);

/* ---- feed.c: one consumer and the runs that it feeds ---- */

typedef struct WeirFeed
{
	Oid			stream;
	char	   *name;			/* of the stream */
	Oid			owner;			/* of all its views: whose user mapping is used */
	List	   *settings;		/* pinned, of all its views */
	WeirKafkaConsumer *consumer;
	MemoryContext mcxt;
	MemoryContext decoder_mcxt;
	WeirDecoder *decoder;
	TupleDesc	desc;
	List	   *runs;
	int			n_partitions;
	int64	   *next;			/* per partition: what comes next */
	int64	   *ends;			/* where it ended when it was looked at */
	int			n_held;
	bool	   *held;			/* is not read, for it is far ahead of others */
	TimestampTz *heard;			/* when there was a message of it */
	TimestampTz next_align;
	TimestampTz begun;			/* event time where the first partition was;
								 * DT_NOEND: nowhere yet */
	WeirBatch	batch;
	TimestampTz next_look;		/* for new partitions */
	ErrorData  *trouble;		/* the broker is away; it will come back */
	bool		in_doubt;		/* since a trouble: see that the topic is the same */
	TimestampTz held_since;		/* not polled, so that another can catch up */
} WeirFeed;

/*
 * Opens a consumer at the least position of the runs.  In a transaction.
 * Raises: 08001 and 08006 when the broker does not answer (a retry helps).
 * Runs whose position the topic cannot serve get `stop` set.
 */
extern WeirFeed *weir_feed_open(Oid stream, TupleDesc desc, List *runs);
extern void weir_feed_close(WeirFeed *feed);

/* True if the feed can take the run as it is: it has skipped nothing of it. */
extern bool weir_feed_accepts(const WeirFeed *feed, const WeirRun *run);
extern void weir_feed_add(WeirFeed *feed, WeirRun *run);
extern void weir_feed_remove(WeirFeed *feed, WeirRun *run);
extern bool weir_feed_same_kind(const WeirFeed *feed, const WeirRun *run);

/* Polls; decodes into feed->batch.  Returns the number of messages. */
extern int	weir_feed_poll(WeirFeed *feed);
extern void weir_feed_decode(WeirFeed *feed);

/*
 * align.c: while views with watermarks catch up, holds partitions that are far
 * ahead of others in event time; and lets all of them go.
 */
extern void weir_feed_align(WeirFeed *feed);
extern void weir_feed_hold_none(WeirFeed *feed);

/* Looks for new partitions; waits for the broker at most a second. */
extern void weir_feed_look(WeirFeed *feed);

/* ---- weir_commit.c ---- */

/*
 * Writes what the runs have folded, in one transaction, which it begins and
 * ends.  Returns the run that failed and the error in *failure, having
 * written nothing then; NULL when all is committed.  confirm: recorded along,
 * unless invalid, as what the replication slot will be told.
 */
extern WeirRun *weir_commit_runs(List *runs, XLogRecPtr confirm,
								 ErrorData **failure);

/*
 * Records or clears (error NULL) a stall; a transaction of its own.  Not if the view
 * has begun another life meanwhile, by weir.rebuild: that knows nothing of it.
 */
extern void weir_record_stall(const char *view_id, int64 epoch,
							  const ErrorData *error);

#endif							/* WEIR_WORKER_H */
