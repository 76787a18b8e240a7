/*-------------------------------------------------------------------------
 *
 * view_ddl.h
 *	  What the files that define, change and drop views share.
 *
 * Nothing outside catalog/ includes this; readers use weir_catalog.h.
 *
 *-------------------------------------------------------------------------
 */
#ifndef WEIR_VIEW_DDL_H
#define WEIR_VIEW_DDL_H

#include "weir.h"
#include "catalog/plan_query.h"
#include "catalog/weir_catalog.h"
#include "source/source.h"
#include "tcop/utility.h"
#include "utils/relcache.h"

/* The namespace of our storage parameters. */
#define WEIR_NAMESPACE "weir"

/* Columns of weir_data.views, as the extension's script declares them. */
enum
{
	VIEWS_ID = 1,
	VIEWS_RELID,
	VIEWS_HOME,
	VIEWS_OPTIONS,
	VIEWS_SETTINGS,
	VIEWS_PAUSED,
	VIEWS_EPOCH,
	VIEWS_WINDOWED,
	VIEWS_CHANGELOG,
	VIEWS_NATTS = VIEWS_CHANGELOG
};

/* A call of ProcessUtility, to be handed on with another statement. */
typedef struct WeirUtilityCall
{
	PlannedStmt *pstmt;
	const char *query_string;
	ProcessUtilityContext context;
	ParamListInfo params;
	QueryEnvironment *query_env;
	DestReceiver *dest;
	QueryCompletion *qc;
} WeirUtilityCall;

/*
 * ddl_hook.c: lets the hooks behind ours, and core in the end, run `stmt` in
 * place of the statement of the call.  stmt may be scribbled on.
 */
extern void weir_run_utility(const WeirUtilityCall *call, Node *stmt);

/* weir_catalog.c: InvalidOid when the relation is gone. */
extern Oid	weir_relation_owner(Oid relid, char *relkind);

/* view_options.c */

/*
 * The weir.* options of a statement, as given: a list of DefElem.  Raises
 * 22023 for what is unknown, given twice or has a bad value, and 0A000 for
 * what is not supported yet.
 */
extern void weir_options_check_create(List *options);
extern void weir_options_check_alter(List *options, bool is_reset);

/* options without those of the weir namespace, or only those. */
extern List *weir_options_without_ours(List *options);
extern List *weir_options_ours(List *options);

/* The text[] of weir_data.views.options: 'name=value', checked before. */
extern Datum weir_options_to_array(List *options);

/* The stored options with some set anew, or removed. */
extern Datum weir_options_merge(Datum stored, List *options, bool is_reset);

/*
 * What depends on the source: raises 22023 for an option or value that the kind
 * of source cannot have.  The options were checked one by one before.
 */
extern WeirAppendOnly weir_options_check_source(List *options,
												WeirSourceKind kind);

/*
 * What a worker needs of the stored options, with the defaults filled in that
 * views over such a source have.  windowed: a column of v is the window.
 */
extern WeirViewOptions weir_options_read(Datum stored, WeirSourceKind kind,
										 bool windowed);

/* The stored options as a list of String, and the value of one, or NULL. */
extern List *weir_options_stored(Datum stored);
extern const char *weir_option_stored(List *stored, const char *name);

/* Raises 22023: invalid value for weir.name. */
weir_noreturn extern void weir_option_bad_value(const char *name,
												const char *value,
												const char *detail,
												const char *hint);

/* What a core type's input function makes of a value, its errors as above. */
extern Datum weir_option_input(PGFunction input, const char *name,
							   const char *value, const char *hint);

/*
 * event_options.c: the options that event time has.  Each has its row among
 * those of view_options.c; checking one alone, and filling in all of them.
 */
extern void weir_event_option_check(const char *name, const char *value);
extern void weir_event_options_read(List *stored, WeirSourceKind kind,
									bool windowed, WeirViewOptions *result);

/*
 * Raises 22023 for options that do not fit together, or not with the window of
 * Q; options is what weir_options_read() makes of them.
 */
extern void weir_event_options_check(List *stored,
									 const WeirViewOptions *options,
									 WeirWindowKind window_kind,
									 bool windowed);

/* The value of an option of ours in a statement, or NULL. */
extern const char *weir_option_given(List *options, const char *name);

/*
 * start_option.c.  weir_start_check raises 22023 for a wrong value.  The others:
 * at which time the broker is to be asked (DT_NOBEGIN if none), and then, per
 * partition, the first offset of the view.
 */
extern void weir_start_check(const char *name, const char *value);
extern TimestampTz weir_start_time(List *options);
extern void weir_start_offsets(List *options,
							   const WeirPartitionRange *ranges, int n,
							   int64 *starts);

/* create_view.c, alter_view.c */
extern void weir_create_view(const WeirUtilityCall *call);
extern void weir_alter_view(const WeirUtilityCall *call);

/*
 * table_source.c: raises unless the changes of a table can be followed: 55000
 * when the identity of its rows does not carry the wanted columns, 0A000 for
 * what is not in the WAL at all.  rel is open and locked as for a SELECT;
 * may_append: the hint may name weir.append_only.
 */
extern void weir_check_table(Relation rel, const Bitmapset *wanted,
							 WeirAppendOnly append_only, bool may_append);

/* The same for the source of a view that exists: partitions may be new. */
extern void weir_recheck_table(const WeirViewDef *view);

/* view_parts.c: the relations that belong to v */
extern Oid	weir_make_query_view(const char *id, const Query *query, Oid owner);
extern Oid	weir_make_state_table(const char *id);
extern void weir_make_read_only_trigger(const char *id, Oid relid,
											bool is_changelog);
extern void weir_make_indexes(Oid relid, const WeirPlan *plan);

/* changelog: InvalidOid if there is none */
extern void weir_record_parts(Oid relid, Oid query_view, Oid state_table,
							  Oid changelog, Oid source);

/* changelog_table.c: <view>_changes */

/* The name of the changelog of a table of this name, cut to 63 bytes. */
extern char *weir_changelog_name(const char *view);

/*
 * Raises 42P07 or 42701 when a changelog cannot be made beside a view of that
 * name.  columns: of v, a list of char *.
 */
extern void weir_check_changelog(const char *view, Oid schema, List *columns);

/* Makes it for v, which exists, as the current user; read-only, with a comment. */
extern Oid	weir_make_changelog(const char *id, Oid relid);

/*
 * Lets a changelog follow v's owner, schema and name; v was called old_name
 * before, or that is NULL.  Locks it.
 */
extern void weir_changelog_follow(const WeirViewDef *view, const char *old_name);

/* adopt_views.c: is `part` an internal part of relation relid? */
extern bool weir_is_internal_part(Oid part, Oid relid);

/*
 * drop_view.c.  weir_is_view: does weir_data.views name this relation?
 * weir_forget_view deletes all rows about it.
 */
extern bool weir_is_view(Oid relid);
extern void weir_forget_view(Oid relid);

/* run_sql.c: SQL of ours */

/* What weir_sql_begin() changed and weir_sql_end() puts back. */
typedef struct WeirSqlScope
{
	Oid			user;
	int			sec_context;
	int			guc_level;
} WeirSqlScope;

/*
 * Between these two weir_sql() runs statements with the rights of the
 * extension's owner, a safe search path and a snapshot of now, whatever the
 * isolation level.  Results are SPI's (SPI_tuptable).  An error leaves nothing
 * to clean up: abort restores the user.
 */
extern void weir_sql_begin(WeirSqlScope *scope);
extern uint64 weir_sql(const char *sql, int n_args, const Oid *types,
					   const Datum *values);
extern void weir_sql_end(WeirSqlScope *scope);

/* The three in one, for a statement whose rows nobody looks at. */
extern uint64 weir_run_sql(const char *sql, int n_args, const Oid *types,
						   const Datum *values);

/* One statement with the rights of the current user. */
extern void weir_run_sql_as_caller(const char *sql);

/* database_label.c: how the launcher learns which databases hold views */
extern void weir_install_label_provider(void);
extern void weir_remove_label(void);

/* rename_column.c: a renamed column of a JSON stream keeps its field. */
extern void weir_after_rename(RenameStmt *stmt);

/* leave_database.c: sends workers out of a database that stmt wants alone. */
extern void weir_make_room(Node *stmt);

#endif							/* WEIR_VIEW_DDL_H */
