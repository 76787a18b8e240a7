/*-------------------------------------------------------------------------
 *
 * run_sql.c
 *	  SQL of our own, from backends that define and control views.
 *
 * Users have no rights in weir_data, so catalog rows are written as the
 * extension's owner.  Statements come here with every name qualified; the
 * search path is set all the same, since a default expression or a type's
 * input function may look something up.
 *
 * The snapshot is taken now even above READ COMMITTED.  The worker commits to
 * these tables several times a second; on the transaction's own snapshot a
 * user at REPEATABLE READ could hardly ever rebuild a view, although nothing
 * that he has read depends on those rows.
 *
 * Nothing of this runs in a worker's loop.
 *
 *-------------------------------------------------------------------------
 */
#include "catalog/view_ddl.h"

#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/guc.h"
#include "utils/snapmgr.h"

void
weir_sql_begin(WeirSqlScope *scope)
{
	Oid			owner = weir_extension_owner();

	GetUserIdAndSecContext(&scope->user, &scope->sec_context);
	SetUserIdAndSecContext(owner,
						   scope->sec_context | SECURITY_LOCAL_USERID_CHANGE);
	scope->guc_level = NewGUCNestLevel();
	(void) set_config_option("search_path", "pg_catalog, pg_temp",
							 PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	/* our tables do not follow a session into a tablespace of its choice */
	(void) set_config_option("default_tablespace", "",
							 PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	SPI_connect();
}

uint64
weir_sql(const char *sql, int n_args, const Oid *types, const Datum *values)
{
	SPIPlanPtr	plan;
	int			result;

	plan = SPI_prepare(sql, n_args, unconstify(Oid *, types));
	if (plan == NULL)
		elog(ERROR, "could not prepare \"%s\": %s", sql,
			 SPI_result_code_string(SPI_result));
	result = SPI_execute_snapshot(plan, unconstify(Datum *, values), NULL,
								  GetLatestSnapshot(), InvalidSnapshot,
								  false, true, 0);
	if (result < 0)
		elog(ERROR, "could not run \"%s\": %s", sql,
			 SPI_result_code_string(result));
	return SPI_processed;
}

void
weir_sql_end(WeirSqlScope *scope)
{
	SPI_finish();
	AtEOXact_GUC(false, scope->guc_level);
	SetUserIdAndSecContext(scope->user, scope->sec_context);
}

uint64
weir_run_sql(const char *sql, int n_args, const Oid *types,
			 const Datum *values)
{
	WeirSqlScope scope;
	uint64		rows;

	weir_sql_begin(&scope);
	rows = weir_sql(sql, n_args, types, values);
	weir_sql_end(&scope);
	return rows;
}

void
weir_run_sql_as_caller(const char *sql)
{
	int			result;

	SPI_connect();
	result = SPI_execute(sql, false, 0);
	if (result < 0)
		elog(ERROR, "could not run \"%s\": %s", sql,
			 SPI_result_code_string(result));
	SPI_finish();
}
