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

#endif							/* WEIR_COMPAT_H */
