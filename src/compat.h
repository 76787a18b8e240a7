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
