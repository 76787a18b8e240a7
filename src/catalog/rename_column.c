/*-------------------------------------------------------------------------
 *
 * rename_column.c
 *	  A renamed column of a JSON stream goes on reading its field.
 *
 * Without the option `path` a column reads the field of its own name.  Were a
 * rename to change the field as well, messages written before it would decode
 * to NULL from then on, in running views and without a word.  So the rename
 * writes the old name into `path`, and says so.
 *
 *-------------------------------------------------------------------------
 */
#include "weir.h"

#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/view_ddl.h"
#include "foreign/foreign.h"
#include "nodes/parsenodes.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

/* A foreign table of ours whose columns are fields by name. */
static bool
reads_fields_by_name(Oid relid)
{
	ForeignTable *table;
	ForeignServer *server;
	const char *format;

	if (get_rel_relkind(relid) != RELKIND_FOREIGN_TABLE)
		return false;
	table = GetForeignTable(relid);
	server = GetForeignServer(table->serverid);
	format = weir_foreign_option(table->options, "format");
	return strcmp(GetForeignDataWrapper(server->fdwid)->fdwname,
				  "weir_kafka") == 0 &&
		(format == NULL || strcmp(format, "json") == 0);
}

/* A name as one step of a path. */
static char *
path_of(const char *name)
{
	return strpbrk(name, ".\"") == NULL ?
		pstrdup(name) : psprintf("\"%s\"", name);
}

void
weir_after_rename(RenameStmt *stmt)
{
	Oid			relid;
	AttrNumber	column;
	List	   *options;

	if (stmt->renameType != OBJECT_COLUMN || stmt->relation == NULL ||
		stmt->subname == NULL)
		return;
	relid = RangeVarGetRelid(stmt->relation, NoLock, true);
	if (!OidIsValid(relid) || !reads_fields_by_name(relid))
		return;
	column = get_attnum(relid, stmt->newname);
	if (column == InvalidAttrNumber)
		return;
	options = GetForeignColumnOptions(relid, column);
	if (weir_foreign_option(options, "path") != NULL ||
		weir_foreign_option(options, "metadata") != NULL)
		return;
	weir_run_sql_as_caller(psprintf("ALTER FOREIGN TABLE %s ALTER COLUMN %s OPTIONS (ADD path %s)",
									quote_qualified_identifier(get_namespace_name(get_rel_namespace(relid)),
															   get_rel_name(relid)),
									quote_identifier(stmt->newname),
									quote_literal_cstr(path_of(stmt->subname))));
	ereport(NOTICE,
			(errmsg("column \"%s\" goes on reading the field \"%s\"",
					stmt->newname, stmt->subname),
			 errdetail("Its option \"path\" was set.")));
}
