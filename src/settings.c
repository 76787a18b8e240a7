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
int			weir_state_memory_mb = 256;
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
							NULL,
							&weir_state_memory_mb, 256, 1, INT_MAX / 2,
							PGC_SIGHUP, GUC_UNIT_MB, NULL, NULL, NULL);

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

