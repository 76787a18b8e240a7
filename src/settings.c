/*-------------------------------------------------------------------------
 *
 * settings.c
 *	  The settings of pg_weir, each with a unit.
 *
 *-------------------------------------------------------------------------
 */
#include "weir.h"

#include <limits.h>

#include "utils/guc.h"

bool		weir_enabled = true;
int			weir_max_workers = 4;
int			weir_state_memory_kb = 256 * 1024;
int			weir_max_retained_wal_mb = 10 * 1024;
int			weir_backfill_rate = 1000000;
int			weir_backfill_max_age_s = 3600;
int			weir_max_dead_letters = 100000;
int			weir_max_late_rows = 1000000;
bool		weir_produce_in_transaction = false;

void
weir_define_settings(void)
{
	DefineCustomBoolVariable("weir.enabled",
							 "Lets continuous views ingest.",
							 "Turning it off stops every worker without a restart; "
							 "views stay readable at their last commit.",
							 &weir_enabled, true,
							 PGC_SIGHUP, 0, NULL, NULL, NULL);

	/*
	 * A session that loads the library by itself may not define it: the
	 * server would end the session, where CREATE of a view explains itself.
	 */
	if (weir_preloaded)
		DefineCustomIntVariable("weir.max_workers",
							"Largest number of workers, over all databases.",
							"Each takes one of max_worker_processes.",
							&weir_max_workers, 4, 0, 1000,
							PGC_POSTMASTER, 0, NULL, NULL, NULL);

	DefineCustomIntVariable("weir.state_memory",
							"Shared memory for the states of all views.",
							"What does not fit is read from disk when it is needed.",
							&weir_state_memory_kb, 256 * 1024, 64, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_KB, NULL, NULL, NULL);

	DefineCustomIntVariable("weir.max_retained_wal",
							"WAL that is kept for views over tables that are paused or stalled.",
							"A view that has more than this to read is given up: it must be rebuilt.",
							&weir_max_retained_wal_mb, 10 * 1024, 1, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_MB, NULL, NULL, NULL);

	DefineCustomIntVariable("weir.max_dead_letters",
							"Dead letters that are kept of a view, the newest ones.",
							"Older ones are deleted; they stay counted. -1 means all.",
							&weir_max_dead_letters, 100000, -1, INT_MAX,
							PGC_SIGHUP, 0, NULL, NULL, NULL);

	DefineCustomIntVariable("weir.max_late_rows",
							"Late rows that are kept of a view, the newest ones.",
							"Older ones are deleted; they stay counted. -1 means all.",
							&weir_max_late_rows, 1000000, -1, INT_MAX,
							PGC_SIGHUP, 0, NULL, NULL, NULL);

	DefineCustomIntVariable("weir.backfill_rate",
							"Rows a second that a backfill reads at most.",
							"0 means as fast as it can.",
							&weir_backfill_rate, 1000000, 0, INT_MAX,
							PGC_SIGHUP, 0, NULL, NULL, NULL);

	DefineCustomIntVariable("weir.backfill_max_age",
							"How long the snapshot of a backfill may be held.",
							"A backfill that takes longer is given up, and its view stalls.",
							&weir_backfill_max_age_s, 3600, 10, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);

	DefineCustomBoolVariable("weir.produce_in_transaction",
							 "Lets INSERT into a Kafka foreign table run in a transaction block.",
							 "Produced messages are not undone by ROLLBACK.",
							 &weir_produce_in_transaction, false,
							 PGC_USERSET, 0, NULL, NULL, NULL);

#ifdef WEIR_TEST
	weir_define_test_settings();
#endif
	MarkGUCPrefixReserved("weir");
}

