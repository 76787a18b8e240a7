/*-------------------------------------------------------------------------
 *
 * pinned_settings.c
 *	  The settings under which our processes run, and views are computed.
 *
 * Runs in workers and backfill processes, outside of transactions: an abort
 * would take the settings back.
 *
 *-------------------------------------------------------------------------
 */
#include "runtime/worker.h"

#include "utils/guc.h"

void
weir_pin_own_settings(void)
{
	/* our acknowledgement needs the local flush, not a standby's */
	SetConfigOption("synchronous_commit", "local", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("search_path", "pg_catalog, pg_temp",
					PGC_SUSET, PGC_S_OVERRIDE);
	/* nobody queues behind us */
	SetConfigOption("lock_timeout", "1000", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("statement_timeout", "0", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("idle_in_transaction_session_timeout", "0",
					PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("default_transaction_isolation", "read committed",
					PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("default_transaction_read_only", "off",
					PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("row_security", "off", PGC_SUSET, PGC_S_OVERRIDE);
	/* compiling costs more than it saves here */
	SetConfigOption("jit", "off", PGC_SUSET, PGC_S_OVERRIDE);
}

void
weir_pin_settings(List *settings)
{
	ListCell   *cell;

	for (cell = list_head(settings); cell != NULL;
		 cell = lnext(settings, lnext(settings, cell)))
		(void) set_config_option(strVal(lfirst(cell)),
								 strVal(lfirst(lnext(settings, cell))),
								 PGC_SUSET, PGC_S_OVERRIDE, GUC_ACTION_SET,
								 true, WARNING, false);
}
