/*-------------------------------------------------------------------------
 *
 * wal_shapes.c
 *	  How the columns of a changed table become those of a watched one.
 *
 *-------------------------------------------------------------------------
 */
#include "weir.h"
