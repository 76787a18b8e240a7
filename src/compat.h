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

#if PG_VERSION_NUM < 150000 || PG_VERSION_NUM >= 190000
#error "pg_weir supports PostgreSQL 15 to 18"
#endif

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

#endif							/* WEIR_COMPAT_H */
