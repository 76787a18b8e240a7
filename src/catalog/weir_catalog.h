/*-------------------------------------------------------------------------
 *
 * weir_catalog.h
 *	  Definitions of continuous views as the catalog tables hold them.
 *
 * Who may write what, and in which order locks are taken, so that nobody
 * waits in a circle:
 *
 *	1. v itself, RowExclusiveLock or stronger.  DROP TABLE v holds it before
 *	   all the rest, so whoever begins elsewhere can meet it head on.
 *	2. The row of weir_data.views: DDL and the control functions update or
 *	   delete it.  A worker reads it without a lock.
 *	3. weir_data.state_<id>.  A worker's commit holds RowExclusiveLock on it
 *	   before it compares the epoch of 2; a rebuild truncates it, and so waits
 *	   for the commit under way and holds up the next.
 *	4. <view>_changes: a commit writes into it, and a change of v's name, owner
 *	   or schema is carried on to it.
 *	5. The rows of status, positions, dead_letters and late_rows.
 *
 *-------------------------------------------------------------------------
 */
#ifndef WEIR_CATALOG_H
#define WEIR_CATALOG_H

#include "weir.h"
#include "catalog/pg_class.h"
#include "nodes/parsenodes.h"
#include "window/watermark.h"

/*
 * The trigger on v and its changelog that keeps users from writing.  Its first
 * argument is the id; the changelog's has a second one.
 */
#define WEIR_READ_ONLY_TRIGGER "weir_read_only"
#define WEIR_READ_ONLY_CHANGELOG "changelog"

/*
 * The columns of a changelog before those of v, in their order.
 */
enum
{
	WEIR_CHANGES_SEQ = 1,		/* weir_seq bigint, the primary key */
	WEIR_CHANGES_DIFF,			/* weir_diff smallint */
	WEIR_CHANGES_REASON,		/* weir_reason text */
	WEIR_CHANGES_WATERMARK,		/* weir_watermark timestamptz */
	WEIR_CHANGES_AT,			/* weir_at timestamptz */
	WEIR_CHANGES_OWN = WEIR_CHANGES_AT
};

typedef enum WeirOnError
{
	WEIR_ON_ERROR_DEAD_LETTER,
	WEIR_ON_ERROR_STOP
} WeirOnError;

/*
 * Are rows of the source taken back when they are updated or deleted?  OFF: yes.
 * ERROR: an update or delete stalls the view.  IGNORE: the view is over every
 * row that was ever inserted.
 */
typedef enum WeirAppendOnly
{
	WEIR_APPEND_ONLY_OFF,
	WEIR_APPEND_ONLY_ERROR,
	WEIR_APPEND_ONLY_IGNORE
} WeirAppendOnly;

/* What becomes of a row whose window has closed? */
typedef enum WeirLate
{
	WEIR_LATE_RETRACT,			/* the window is revised, for allowed_lateness */
	WEIR_LATE_SIDE_OUTPUT,		/* it goes to weir.late_rows */
	WEIR_LATE_DROP				/* it is counted */
} WeirLate;

/* Which windows does v show? */
typedef enum WeirEmit
{
	WEIR_EMIT_CHANGES,			/* open ones, too */
	WEIR_EMIT_FINAL				/* closed ones */
} WeirEmit;

/* Which of its rows does the changelog have? */
typedef enum WeirChangelogMode
{
	WEIR_CHANGELOG_OFF,			/* there is none */
	WEIR_CHANGELOG_FINAL,		/* those of closed windows */
	WEIR_CHANGELOG_ALL
} WeirChangelogMode;

/*
 * Options of a view, defaults filled in.  Of a view without a window, and one
 * with weir.watermark = 'none', the rule's kind is WEIR_WATERMARK_NONE.
 */
typedef struct WeirViewOptions
{
	int64		commit_interval;	/* microseconds */
	WeirOnError on_error;
	WeirAppendOnly append_only;
	WeirWatermarkRule watermark;
	WeirLate	late;
	int64		allowed_lateness;	/* microseconds; 0 unless RETRACT */
	WeirEmit	emit;
	int64		publish_interval;	/* microseconds; -1: the slide or step */
	WeirChangelogMode changelog;
	int64		changelog_retention;	/* microseconds, -1: off */
} WeirViewOptions;

/* Foreign data wrappers whose tables may be sources, recognised by name. */
#define WEIR_KAFKA_WRAPPER "weir_kafka"
#define WEIR_STREAM_WRAPPER "weir_stream"

typedef enum WeirSourceKind
{
	WEIR_SOURCE_KAFKA,			/* foreign table of the wrapper weir_kafka */
	WEIR_SOURCE_TABLE,			/* table or partitioned table of this database */
	WEIR_SOURCE_STREAM			/* foreign table of the wrapper weir_stream */
} WeirSourceKind;

/*
 * What a worker serves: a topic, by the OID of its foreign table, or all tables
 * and push streams of its database, which share one replication slot.  No
 * source has the OID of pg_class.
 */
#define WEIR_GROUP_CHANGES RelationRelationId
#define weir_group_of(def) \
	((def)->source_kind == WEIR_SOURCE_KAFKA ? (def)->source : WEIR_GROUP_CHANGES)

/* One row of weir_data.views, resolved. */
typedef struct WeirViewDef
{
	char		id[WEIR_ID_LEN + 1];
	int64		epoch;			/* another one: begin again from the catalog */
	TransactionId version;		/* who wrote its row: weir.resume writes it, too */
	Oid			relid;			/* v */
	char	   *name;			/* of v, unqualified */
	Oid			owner;			/* of v */
	Oid			query_view;		/* weir_data.query_<id> */
	Oid			state_table;	/* weir_data.state_<id> */
	Oid			changelog;		/* <view>_changes, InvalidOid if there is none */
	char		channel[NAMEDATALEN];	/* for NOTIFY */
	bool		windowed;		/* Q has a window, as a column of v */
	Oid			source;			/* the stream in FROM */
	WeirSourceKind source_kind;
	bool		retracts;		/* rows of the source can be taken back */
	bool		paused;
	List	   *settings;		/* pinned: String name, String value, ... */
	WeirViewOptions options;
} WeirViewDef;

/*
 * All views of this database whose parts exist, in CurrentMemoryContext.
 * Needs a transaction; takes no lock on the views.
 */
extern List *weir_catalog_views(void);

/* NULL when relid is no continuous view. */
extern WeirViewDef *weir_catalog_view(Oid relid);

/* The view whose changelog relid is, NULL when it is none. */
extern WeirViewDef *weir_catalog_view_of_changelog(Oid relid);

/*
 * Q of a view, a copy, as it was when analysed: its range table does not begin
 * with the OLD and NEW that a stored view has on some releases.  Privileges
 * are to be checked as the owner of the view.
 */
extern Query *weir_catalog_query(Oid query_view);

/*
 * Raises 42501 unless user_id may read what Q reads: SELECT on the columns of
 * the source, USAGE on its server, and no row level security in the way.
 */
extern void weir_check_source_privileges(const Query *query, Oid user_id);

/* The one table or foreign table in Q's FROM, or InvalidOid. */
extern Oid	weir_query_source(const Query *query);

/* The kind of a source; WEIR_SOURCE_TABLE for all that is no foreign table. */
extern WeirSourceKind weir_source_kind(Oid source);

/* True when the extension is installed here. */
extern bool weir_catalog_exists(void);

/*
 * view_parts.c, in a transaction that does not have the table open.  The index is on
 * pane and hash (emit/state_table.h); there must be none.
 */
extern void weir_make_state_index(Oid state_table);
extern void weir_truncate_states(Oid state_table);

/* Oid of a table of weir_data by name, InvalidOid if missing. */
extern Oid	weir_data_table(const char *name);

/* '<system identifier>/<database oid>': where an OID of ours is valid. */
extern const char *weir_home(void);

/* Who owns the extension and with it weir_data. */
extern Oid	weir_extension_owner(void);

/*
 * catalog/adopt_views.c: finds the tables of views that came here by a dump, a
 * template or pg_upgrade, and records OIDs and dependencies anew.  A view
 * whose table is missing or cannot be told is left as it is.  Returns the
 * number of views adopted.  Called by the worker when it starts, in a
 * transaction that may write.
 */
extern int	weir_catalog_adopt(void);

/*
 * catalog/ddl_hook.c: the ProcessUtility and object access hooks and the
 * label provider; called once, from _PG_init.
 */
extern void weir_install_ddl_hooks(void);

#endif							/* WEIR_CATALOG_H */
