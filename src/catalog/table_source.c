/*-------------------------------------------------------------------------
 *
 * table_source.c
 *	  Which tables may be a source, and what their identity must carry.
 *
 *-------------------------------------------------------------------------
 */
#include "weir.h"
