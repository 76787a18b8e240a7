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
 *-------------------------------------------------------------------------
 */
#include "weir.h"

#include "catalog/pg_authid.h"
#include "catalog/pg_database.h"
#include "catalog/view_ddl.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "runtime/shared.h"
#include "utils/acl.h"

/* The database that the statement wants alone, or InvalidOid. */
static Oid
wanted_database(Node *stmt)
{
	const char *name = NULL;

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
		(weir_owns_database(database, GetUserId()) || have_createdb_privilege()))
		weir_leave_database(database);
}
