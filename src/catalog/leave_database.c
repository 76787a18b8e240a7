/*-------------------------------------------------------------------------
 *
 * leave_database.c
 *	  Makes room for statements that want a database for themselves.
 *
 * DROP DATABASE, ALTER DATABASE RENAME and SET TABLESPACE, and CREATE DATABASE
 * with a template wait five seconds for other sessions to leave, and a worker
 * is such a session.  So the statement is announced to our workers before it
 * runs; they commit, leave, and stay away for as long as it may wait.  Who may
 * not run the statement does not get to send them away.
 *
 * DROP DATABASE drops the replication slots of the database too, but does not
 * wait for those that are in use.  So we do, for ours.
 *
 *-------------------------------------------------------------------------
 */
#include "weir.h"

#include "access/htup_details.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_database.h"
#include "catalog/view_ddl.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "pgstat.h"
#include "replication/slot.h"
#include "runtime/shared.h"
#include "source/changes.h"
#include "utils/acl.h"
#include "utils/syscache.h"

/* The database that the statement wants alone, or InvalidOid. */
static Oid
wanted_database(Node *stmt)
{
	/* a new database is made from template1 unless it says otherwise */
	const char *name = IsA(stmt, CreatedbStmt) ? "template1" : NULL;

	if (IsA(stmt, DropdbStmt))
		name = ((DropdbStmt *) stmt)->dbname;
	else if (IsA(stmt, RenameStmt) &&
			 ((RenameStmt *) stmt)->renameType == OBJECT_DATABASE)
		name = ((RenameStmt *) stmt)->subname;
	else if (IsA(stmt, AlterDatabaseStmt))
	{
		ListCell   *cell;

		foreach(cell, ((AlterDatabaseStmt *) stmt)->options)
			if (strcmp(((DefElem *) lfirst(cell))->defname, "tablespace") == 0)
				name = ((AlterDatabaseStmt *) stmt)->dbname;
	}
	else if (IsA(stmt, CreatedbStmt))
	{
		ListCell   *cell;

		foreach(cell, ((CreatedbStmt *) stmt)->options)
			if (strcmp(((DefElem *) lfirst(cell))->defname, "template") == 0 &&
				((DefElem *) lfirst(cell))->arg != NULL)
				name = defGetString(lfirst(cell));
	}
	return name == NULL ? InvalidOid : get_database_oid(name, true);
}

/* Core has such a function, but kept it to itself up to 15.18. */
static bool
may_create_databases(Oid role)
{
	HeapTuple	tuple = SearchSysCache1(AUTHOID, ObjectIdGetDatum(role));
	bool		result = superuser_arg(role);

	if (HeapTupleIsValid(tuple))
	{
		result |= ((Form_pg_authid) GETSTRUCT(tuple))->rolcreatedb;
		ReleaseSysCache(tuple);
	}
	return result;
}

/* What core will ask: anybody who may create databases may copy a template. */
static bool
is_allowed(Node *stmt, Oid database)
{
	bool		result = weir_owns_database(database, GetUserId());

	if (!result && IsA(stmt, CreatedbStmt) && may_create_databases(GetUserId()))
	{
		HeapTuple	tuple = SearchSysCache1(DATABASEOID,
											ObjectIdGetDatum(database));

		if (HeapTupleIsValid(tuple))
		{
			result = ((Form_pg_database) GETSTRUCT(tuple))->datistemplate;
			ReleaseSysCache(tuple);
		}
	}
	return result;
}

/* Waits until nobody has our slot of the database, five seconds at most. */
static void
wait_for_slot(Oid database)
{
	char	   *name = weir_slot_name(database);

	for (int i = 0; i < 250; i++)
	{
		ReplicationSlot *slot = SearchNamedReplicationSlot(name, true);

		if (slot == NULL || slot->active_pid == 0)
			break;
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 20L, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

void
weir_make_room(Node *stmt)
{
	Oid			database;

	switch (nodeTag(stmt))
	{
		case T_DropdbStmt:
		case T_RenameStmt:
		case T_AlterDatabaseStmt:
		case T_CreatedbStmt:
			break;
		default:
			return;
	}
	database = wanted_database(stmt);
	if (OidIsValid(database) &&
		is_allowed(stmt, database))
	{
		weir_leave_database(database);
		WEIR_FAULT("leave-told");
		if (weir_preloaded && IsA(stmt, DropdbStmt))
			wait_for_slot(database);
		WEIR_FAULT("leave-empty");
	}
}
