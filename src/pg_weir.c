/*-------------------------------------------------------------------------
 *
 * pg_weir.c
 *	  Entry point of the library: settings, hooks, shared memory, launcher.
 *
 *-------------------------------------------------------------------------
 */
#include "weir.h"

#include "catalog/weir_catalog.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "runtime/shared.h"

PG_MODULE_MAGIC;

void		_PG_init(void);

bool		weir_preloaded = false;

void
_PG_init(void)
{
	weir_preloaded = process_shared_preload_libraries_in_progress;
	weir_define_settings();
	weir_install_ddl_hooks();
	if (weir_preloaded)
	{
		weir_shmem_install();
	weir_wake_reader_at_commits();
		weir_launcher_install();
	}
}
