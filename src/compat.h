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
 * 16 took the privileges that a query needs out of its range table, and made
 * one object_aclcheck() and one object_ownercheck() of a function per class.
 * Who uses these includes executor/executor.h, utils/acl.h and the header of
 * the class.
 */
#if PG_VERSION_NUM >= 160000
#define weir_check_query_permissions(query) \
	((void) ExecCheckPermissions((query)->rtable, (query)->rteperminfos, true))
#define weir_server_aclcheck(server, role, mode) \
	object_aclcheck(ForeignServerRelationId, server, role, mode)
#define weir_owns_relation(relid, role) \
	object_ownercheck(RelationRelationId, relid, role)
#else
#define weir_check_query_permissions(query) \
	((void) ExecCheckRTPerms((query)->rtable, true))
#define weir_server_aclcheck(server, role, mode) \
	pg_foreign_server_aclcheck(server, role, mode)
#define weir_owns_relation(relid, role) \
	pg_class_ownercheck(relid, role)
#endif

#endif							/* WEIR_COMPAT_H */
