/*-------------------------------------------------------------------------
 *
 * compat.h
 *	  Differences between PostgreSQL 15, 16, 17 and 18, and nothing else.
 *
 * PG_VERSION_NUM appears in this file alone.  Each shim names the release
 * and the change that forced it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef WEIR_COMPAT_H
#define WEIR_COMPAT_H

#include "postgres.h"
#include "access/tableam.h"
#include "nodes/pathnodes.h"
#include "optimizer/optimizer.h"
#include "utils/rangetypes.h"
#include "utils/timestamp.h"

#if PG_VERSION_NUM < 150000 || PG_VERSION_NUM >= 190000
#error "pg_weir supports PostgreSQL 15 to 18"
#endif

/* 18 made it a specifier, which stands first. */
#if PG_VERSION_NUM >= 180000
#define weir_noreturn pg_noreturn
#else
#define weir_noreturn pg_attribute_noreturn()
#endif

/* 16 renamed the parts of a relation's locator. */
#if PG_VERSION_NUM >= 160000
#define weir_filenode(rel) ((Oid) (rel)->rd_locator.relNumber)
#else
#define weir_filenode(rel) ((rel)->rd_node.relNode)
#endif

/* 17 owns wait event sets by resource owner, no longer by memory context. */
#if PG_VERSION_NUM >= 170000
#define weir_create_wait_set(n) CreateWaitEventSet(NULL, n)
#else
#define weir_create_wait_set(n) CreateWaitEventSet(TopMemoryContext, n)
#endif

/* 17 numbers backends from 0, and by the process array. */
#if PG_VERSION_NUM >= 170000
#define weir_backend_index() ((int) MyProcNumber)
#else
#define weir_backend_index() ((int) MyBackendId - 1)
#endif

/* 17 gave intervals infinities. */
#if PG_VERSION_NUM >= 170000
#define weir_interval_is_plus_infinity(i) INTERVAL_IS_NOEND(i)
#define weir_interval_is_minus_infinity(i) INTERVAL_IS_NOBEGIN(i)
#define weir_interval_set_infinity(i, plus) \
	do { if (plus) INTERVAL_NOEND(i); else INTERVAL_NOBEGIN(i); } while (0)
#else
#define weir_interval_is_plus_infinity(i) (false)
#define weir_interval_is_minus_infinity(i) (false)
#define weir_interval_set_infinity(i, plus) ((void) 0)
#endif

/*
 * 16 told summarising indexes (BRIN) from others in the answer of
 * table_tuple_update and in ExecInsertIndexTuples.
 */
#if PG_VERSION_NUM >= 160000
typedef TU_UpdateIndexes WeirUpdateIndexes;
#define WEIR_UPDATE_ALL_INDEXES TU_All
#define weir_must_update_indexes(which) ((which) != TU_None)
#define weir_insert_index_tuples(target, slot, estate, update, which) \
	ExecInsertIndexTuples(target, slot, estate, update, false, NULL, NIL, \
						  (which) == TU_Summarizing)
#else
typedef bool WeirUpdateIndexes;
#define WEIR_UPDATE_ALL_INDEXES true
#define weir_must_update_indexes(which) (which)
#define weir_insert_index_tuples(target, slot, estate, update, which) \
	ExecInsertIndexTuples(target, slot, estate, update, false, NULL, NIL)
#endif

/*
 * 16 took the privileges that a query needs out of its range table, and made
 * one object_aclcheck() and one object_ownercheck() of a function per class.
 * Who uses these includes executor/executor.h, utils/acl.h, for selected
 * columns parser/parse_relation.h, and the header of the class.
 */
#if PG_VERSION_NUM >= 160000
#define weir_check_query_permissions(query) \
	((void) ExecCheckPermissions((query)->rtable, (query)->rteperminfos, true))
#define weir_selected_columns(query, rte) \
	(getRTEPermissionInfo((query)->rteperminfos, rte)->selectedCols)
#define weir_server_aclcheck(server, role, mode) \
	object_aclcheck(ForeignServerRelationId, server, role, mode)
#define weir_function_aclcheck(function, role, mode) \
	object_aclcheck(ProcedureRelationId, function, role, mode)
#define weir_owns_relation(relid, role) \
	object_ownercheck(RelationRelationId, relid, role)
#define weir_owns_database(database, role) \
	object_ownercheck(DatabaseRelationId, database, role)
#else
#define weir_check_query_permissions(query) \
	((void) ExecCheckRTPerms((query)->rtable, true))
#define weir_selected_columns(query, rte) \
	((rte)->selectedCols)
#define weir_server_aclcheck(server, role, mode) \
	pg_foreign_server_aclcheck(server, role, mode)
#define weir_function_aclcheck(function, role, mode) \
	pg_proc_aclcheck(function, role, mode)
#define weir_owns_relation(relid, role) \
	pg_class_ownercheck(relid, role)
#define weir_owns_database(database, role) \
	pg_database_ownercheck(database, role)
#endif

/*
 * The one relation of a query, a copy of another query's, with what privileges
 * that needs; see above.  Who uses it includes parser/parse_relation.h.
 */
#if PG_VERSION_NUM >= 160000
#define weir_query_take_relation(query, from, rte) \
	do { \
		(query)->rteperminfos = \
			list_make1(copyObject(getRTEPermissionInfo((from)->rteperminfos, rte))); \
		(query)->rtable = list_make1(copyObject(rte)); \
		linitial_node(RangeTblEntry, (query)->rtable)->perminfoindex = 1; \
	} while (0)
#else
#define weir_query_take_relation(query, from, rte) \
	((query)->rtable = list_make1(copyObject(rte)))
#endif

/* 18 took execute_once away: each QueryDesc is run once only. */
#if PG_VERSION_NUM >= 180000
#define weir_executor_run(query_desc) \
	ExecutorRun(query_desc, ForwardScanDirection, 0)
#else
#define weir_executor_run(query_desc) \
	ExecutorRun(query_desc, ForwardScanDirection, 0, true)
#endif

/* 18 counts index searches for EXPLAIN, where somebody wants to know. */
#if PG_VERSION_NUM >= 180000
#define weir_index_beginscan(heap, index, snapshot, n_keys) \
	index_beginscan(heap, index, snapshot, NULL, n_keys, 0)
#else
#define weir_index_beginscan(heap, index, snapshot, n_keys) \
	index_beginscan(heap, index, snapshot, n_keys, 0)
#endif

/* 16 gave flatten_join_alias_vars() a PlannerInfo, NULL outside the planner. */
static inline Node *
weir_flatten_join_alias_vars(Query *query, Node *node)
{
#if PG_VERSION_NUM >= 160000
	return flatten_join_alias_vars(NULL, query, node);
#else
	return flatten_join_alias_vars(query, node);
#endif
}

/*
 * 18 put the expressions of GROUP BY into a range table entry of their own,
 * with Vars in the places where they were used.
 */
static inline Node *
weir_flatten_group_exprs(Query *query, Node *node)
{
#if PG_VERSION_NUM >= 180000
	if (query->hasGroupRTE)
		return flatten_group_exprs(NULL, query, node);
#endif
	return node;
}

/* 16 gave make_range() a place for soft errors. */
static inline RangeType *
weir_make_range(TypeCacheEntry *type, RangeBound *lower, RangeBound *upper)
{
#if PG_VERSION_NUM >= 160000
	return make_range(type, lower, upper, false, NULL);
#else
	return make_range(type, lower, upper, false);
#endif
}

/* 17 introduced infinite intervals. */
static inline bool
weir_interval_is_finite(const Interval *interval)
{
#if PG_VERSION_NUM >= 170000
	return !INTERVAL_NOT_FINITE(interval);
#else
	return true;
#endif
}

/*
 * Input functions that report instead of raising: PostgreSQL 16 (soft errors,
 * nodes/miscnodes.h).  On 15 they raise, and whoever calls the decoder
 * catches.
 */
#if PG_VERSION_NUM >= 160000
#include "nodes/miscnodes.h"
#endif

#include "fmgr.h"

static inline bool
weir_input_function_call(FmgrInfo *function, char *text, Oid typioparam,
						 int32 typmod, Datum *result, int *sqlstate,
						 const char **message)
{
#if PG_VERSION_NUM >= 160000
	ErrorSaveContext escontext = {T_ErrorSaveContext};

	escontext.details_wanted = true;
	if (InputFunctionCallSafe(function, text, typioparam, typmod,
							  (Node *) &escontext, result))
		return true;
	*sqlstate = escontext.error_data->sqlerrcode;
	*message = escontext.error_data->message;
	return false;
#else
	*result = InputFunctionCall(function, text, typioparam, typmod);
	return true;
#endif
}

/*
 * Foreign scans and inserts (fdw/).
 *
 * 16 moved the role that permissions are checked for from the range table
 * entry to RTEPermissionInfo, and gives it to foreign scans in the plan node.
 * For inserts the entry of a partition's root counts.
 */
#if PG_VERSION_NUM >= 160000
#define weir_scan_user(node) \
	(((ForeignScan *) (node)->ss.ps.plan)->checkAsUser)
#define weir_result_rel_user(rri, estate) \
	ExecGetResultRelCheckAsUser(rri, estate)
#else
#define weir_scan_user(node) \
	(exec_rt_fetch(((ForeignScan *) (node)->ss.ps.plan)->scan.scanrelid, \
				   (node)->ss.ps.state)->checkAsUser)
#define weir_result_rel_user(rri, estate) \
	(((rri)->ri_RootResultRelInfo ? (rri)->ri_RootResultRelInfo : \
	  (rri))->ri_RangeTableIndex == 0 ? InvalidOid : \
	 exec_rt_fetch(((rri)->ri_RootResultRelInfo ? \
					(rri)->ri_RootResultRelInfo : \
					(rri))->ri_RangeTableIndex, estate)->checkAsUser)
#endif

/* 17 added restriction clauses to foreign paths, 18 disabled nodes. */
#if PG_VERSION_NUM >= 180000
#define weir_create_foreignscan_path(root, rel, rows, startup, total, outer) \
	create_foreignscan_path(root, rel, NULL, rows, 0, startup, total, NIL, \
							outer, NULL, NIL, NIL)
#elif PG_VERSION_NUM >= 170000
#define weir_create_foreignscan_path(root, rel, rows, startup, total, outer) \
	create_foreignscan_path(root, rel, NULL, rows, startup, total, NIL, \
							outer, NULL, NIL, NIL)
#else
#define weir_create_foreignscan_path(root, rel, rows, startup, total, outer) \
	create_foreignscan_path(root, rel, NULL, rows, startup, total, NIL, \
							outer, NULL, NIL)
#endif

/* 18 split explain.h; WEIR_EXPLAIN is defined by who needs it. */
#ifdef WEIR_EXPLAIN
#include "commands/explain.h"
#if PG_VERSION_NUM >= 180000
#include "commands/explain_format.h"
#include "commands/explain_state.h"
#endif
#endif

/* 18 brought generated columns that are computed when they are read. */
#if PG_VERSION_NUM < 180000
#define ATTRIBUTE_GENERATED_VIRTUAL 'v'
#endif

/*
 * 16 brought JSON_OBJECT() and its family, which print arguments of any type,
 * 17 JSON_VALUE() and its family, which parse a result of any type.
 */
static inline List *
weir_json_constructor_args(Node *node)
{
#if PG_VERSION_NUM >= 160000
	if (IsA(node, JsonConstructorExpr))
		return ((JsonConstructorExpr *) node)->args;
#endif
	return NIL;
}

static inline Oid
weir_json_query_type(Node *node)
{
#if PG_VERSION_NUM >= 170000
	if (IsA(node, JsonExpr))
		return ((JsonExpr *) node)->returning->typid;
#endif
	return InvalidOid;
}

/*
 * Logical messages (fdw/stream_message.c), which are always transactional here.
 * 17 can flush those that are not.  Who uses it includes replication/message.h.
 */
#if PG_VERSION_NUM >= 170000
#define weir_log_message(prefix, message, size) \
	((void) LogLogicalMessage(prefix, message, size, true, false))
#else
#define weir_log_message(prefix, message, size) \
	((void) LogLogicalMessage(prefix, message, size, true))
#endif

/*
 * Replication slots and logical decoding (source/).
 *
 * 16 says why a slot is invalid, where 15 has the position at which it became
 * so.  17 made slots that standbys keep a copy of, and the right to move on
 * conditional on those.  18 lets one acquire invalid slots.  17 also hands out
 * tuples without a wrapper.
 */
#if PG_VERSION_NUM >= 160000
#define weir_slot_is_invalid(data) ((data)->invalidated != RS_INVAL_NONE)
#else
#define weir_slot_is_invalid(data) (!XLogRecPtrIsInvalid((data)->invalidated_at))
#endif

#if PG_VERSION_NUM >= 170000
#define WEIR_CREATE_SLOT(name, plugin) \
	"pg_catalog.pg_create_logical_replication_slot(" name ", " plugin \
	", failover => true)"
#define weir_slot_has_failover() (MyReplicationSlot->data.failover)
#define weir_standbys_have(lsn) StandbySlotsHaveCaughtup(lsn, DEBUG1)
#define weir_change_tuple(tuple) (tuple)
#else
#define WEIR_CREATE_SLOT(name, plugin) \
	"pg_catalog.pg_create_logical_replication_slot(" name ", " plugin ")"
#define weir_slot_has_failover() (false)
#define weir_standbys_have(lsn) (true)
#define weir_change_tuple(buf) ((buf) != NULL ? &(buf)->tuple : NULL)
#endif

#if PG_VERSION_NUM >= 180000
#define weir_slot_acquire(name) ReplicationSlotAcquire(name, true, true)
#else
#define weir_slot_acquire(name) ReplicationSlotAcquire(name, true)
#endif

/*
 * Postgres' own JSON parser, which the fuzzers compare with.  17 can fill a
 * lexer of the caller's; its callbacks, from 16 on, say whether to go on.
 */
#if PG_VERSION_NUM >= 170000
#define weir_make_json_lexer(json, len, escapes) \
	makeJsonLexContextCstringLen(NULL, json, len, PG_UTF8, escapes)
#else
#define weir_make_json_lexer(json, len, escapes) \
	makeJsonLexContextCstringLen(unconstify(char *, json), len, PG_UTF8, \
								 escapes)
#endif
#if PG_VERSION_NUM >= 160000
#define WEIR_JSON_ACTION JsonParseErrorType
#define WEIR_JSON_GO_ON return JSON_SUCCESS
#else
#define WEIR_JSON_ACTION void
#define WEIR_JSON_GO_ON return
#endif

#endif							/* WEIR_COMPAT_H */
