/*-------------------------------------------------------------------------
 *
 * pg_weir.c
 *	  Entry point of the library: settings, hooks, shared memory, launcher.
 *
 *-------------------------------------------------------------------------
 */
#include "weir.h"

#include "fmgr.h"

PG_MODULE_MAGIC;

void		_PG_init(void);

void
_PG_init(void)
{
	weir_define_settings();
}
