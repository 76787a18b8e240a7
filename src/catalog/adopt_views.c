/*-------------------------------------------------------------------------
 *
 * adopt_views.c
 *	  Takes in the views of a dump, a cloned database or an upgraded cluster.
 *
 * pg_dump writes out everything that a view consists of: v with its rows and
 * its trigger, query_<id>, state_<id>, and the rows of our catalog tables.
 * What does not travel are OIDs, and the internal dependencies.  A row is at
 * home if it says so and core agrees, that is if query_<id> is an internal
 * part of the relation that the row names; the second condition is for a dump
 * that is restored over its own database.  The others are looked for:
 *
 *	v is the one table whose trigger weir_read_only has the id as argument and
 *	whose owner also owns query_<id>.
 *
 * Its changelog is the one table of that owner whose trigger also says so; a row
 * that names a changelog waits for it.
 *
 * The owner is part of it since anybody may put such a trigger on a table of
 * his own, but nobody can give a table or query_<id> away.  No table, or two:
 * the row stays as it is, without an error, for a restore may still be under
 * way.  The trigger is its last step, and ddl_hook.c wakes the worker then.
 *
 * Runs in the worker before it reads definitions, in a transaction of its own,
 * and in weir.resume(): a database cloned with TEMPLATE carries no mark for the
 * launcher, so that no worker comes until somebody asks.  Until then weir.views
 * shows the stray views as stalled.  It does not touch positions: for Kafka they mean the same in every cluster.
 *
 *-------------------------------------------------------------------------
 */
#include "catalog/view_ddl.h"

#include "access/genam.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_depend.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

PG_FUNCTION_INFO_V1(weir_strays);

/* A row that may be adopted; the relations exist. */
typedef struct Candidate
{
	char	   *id;
	Oid			relid;
	Oid			query_view;
	Oid			state_table;
	Oid			changelog;		/* InvalidOid: none */
} Candidate;

bool
weir_is_internal_part(Oid part, Oid relid)
{
	Relation	rel = table_open(DependRelationId, AccessShareLock);
	ScanKeyData keys[2];
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		found = false;

	ScanKeyInit(&keys[0], Anum_pg_depend_classid, BTEqualStrategyNumber,
				F_OIDEQ, ObjectIdGetDatum(RelationRelationId));
	ScanKeyInit(&keys[1], Anum_pg_depend_objid, BTEqualStrategyNumber,
				F_OIDEQ, ObjectIdGetDatum(part));
	scan = systable_beginscan(rel, DependDependerIndexId, true, NULL, 2, keys);
	while (!found && HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_depend depend = (Form_pg_depend) GETSTRUCT(tuple);

		found = depend->refclassid == RelationRelationId &&
			depend->refobjid == relid &&
			depend->deptype == DEPENDENCY_INTERNAL;
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return found;
}

static const char candidates_sql[] =
"SELECT v.id, pg_catalog.min(c.oid), pg_catalog.min(q.oid), pg_catalog.min(s.oid),"
"       pg_catalog.min(l.oid)"
"  FROM weir_data.views v"
"  JOIN pg_catalog.pg_class q"
"    ON q.relname OPERATOR(pg_catalog.=) ('query_' OPERATOR(pg_catalog.||) v.id)::pg_catalog.name"
"   AND q.relkind OPERATOR(pg_catalog.=) 'v'"
"   AND q.relnamespace OPERATOR(pg_catalog.=) $2"
"  JOIN pg_catalog.pg_class s"
"    ON s.relname OPERATOR(pg_catalog.=) ('state_' OPERATOR(pg_catalog.||) v.id)::pg_catalog.name"
"   AND s.relkind OPERATOR(pg_catalog.=) 'r'"
"   AND s.relnamespace OPERATOR(pg_catalog.=) $2"
"  JOIN pg_catalog.pg_trigger t"
"    ON t.tgname OPERATOR(pg_catalog.=) 'weir_read_only'"
"   AND t.tgfoid OPERATOR(pg_catalog.=) 'weir.read_only()'::pg_catalog.regprocedure"
"   AND t.tgargs OPERATOR(pg_catalog.=)"
"       (pg_catalog.convert_to(v.id, 'UTF8') OPERATOR(pg_catalog.||) pg_catalog.decode('00', 'hex'))"
"  JOIN pg_catalog.pg_class c"
"    ON c.oid OPERATOR(pg_catalog.=) t.tgrelid"
"   AND c.relkind OPERATOR(pg_catalog.=) 'r'"
"   AND c.relowner OPERATOR(pg_catalog.=) q.relowner"
"  LEFT JOIN (SELECT k.oid, k.relowner, u.tgargs"
"         FROM pg_catalog.pg_trigger u"
"         JOIN pg_catalog.pg_class k"
"           ON k.oid OPERATOR(pg_catalog.=) u.tgrelid"
"          AND k.relkind OPERATOR(pg_catalog.=) 'r'"
"        WHERE u.tgname OPERATOR(pg_catalog.=) 'weir_read_only'"
"          AND u.tgfoid OPERATOR(pg_catalog.=) 'weir.read_only()'::pg_catalog.regprocedure) l"
"    ON v.changelog IS NOT NULL"
"   AND l.relowner OPERATOR(pg_catalog.=) q.relowner"
"   AND l.tgargs OPERATOR(pg_catalog.=)"
"       (pg_catalog.convert_to(v.id, 'UTF8') OPERATOR(pg_catalog.||) pg_catalog.decode('00', 'hex')"
"        OPERATOR(pg_catalog.||) pg_catalog.convert_to('" WEIR_READ_ONLY_CHANGELOG "', 'UTF8')"
"        OPERATOR(pg_catalog.||) pg_catalog.decode('00', 'hex'))"
" WHERE (v.changelog IS NULL OR l.oid IS NOT NULL)"
"   AND (v.home OPERATOR(pg_catalog.<>) $1"
"    OR NOT EXISTS (SELECT 1 FROM pg_catalog.pg_depend d"
"         WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass"
"           AND d.objid OPERATOR(pg_catalog.=) q.oid"
"           AND d.refobjid OPERATOR(pg_catalog.=) v.relid"
"           AND d.deptype OPERATOR(pg_catalog.=) 'i'))"
" GROUP BY v.id HAVING pg_catalog.count(*) OPERATOR(pg_catalog.=) 1";

/* The result of candidates_sql, in a context that outlives SPI. */
static List *
find_candidates(MemoryContext result_context)
{
	Oid			types[] = {TEXTOID, OIDOID};
	Datum		values[] = {CStringGetTextDatum(weir_home()),
	ObjectIdGetDatum(get_namespace_oid(WEIR_DATA_SCHEMA, false))};
	List	   *result = NIL;
	uint64		n = weir_sql(candidates_sql, 2, types, values);
	MemoryContext old = MemoryContextSwitchTo(result_context);

	for (uint64 i = 0; i < n; i++)
	{
		HeapTuple	row = SPI_tuptable->vals[i];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		Candidate  *candidate = palloc(sizeof(Candidate));
		bool		isnull;

		candidate->id = SPI_getvalue(row, desc, 1);
		candidate->relid = DatumGetObjectId(SPI_getbinval(row, desc, 2, &isnull));
		candidate->query_view = DatumGetObjectId(SPI_getbinval(row, desc, 3, &isnull));
		candidate->state_table = DatumGetObjectId(SPI_getbinval(row, desc, 4, &isnull));
		candidate->changelog = DatumGetObjectId(SPI_getbinval(row, desc, 5, &isnull));
		if (isnull)
			candidate->changelog = InvalidOid;
		result = lappend(result, candidate);
	}
	MemoryContextSwitchTo(old);
	return result;
}

/*
 * The place of v's rows was noted by file node, which may be the same here by
 * accident.  So it becomes 1, which no table of users has, and the worker finds
 * each row again by its key.  NULL, a view without rows, stays NULL.
 */
static void
adopt(const Candidate *candidate)
{
	Oid			types[] = {TEXTOID, OIDOID, TEXTOID, OIDOID};
	Datum		values[] = {CStringGetTextDatum(candidate->id),
		ObjectIdGetDatum(candidate->relid),
		CStringGetTextDatum(weir_home()),
	ObjectIdGetDatum(candidate->changelog)};
	Query	   *query = weir_catalog_query(candidate->query_view);

	weir_sql("UPDATE weir_data.views SET relid = $2, home = $3,"
			 " changelog = CASE WHEN $4 OPERATOR(pg_catalog.<>) 0 THEN $4 END"
			 " WHERE id OPERATOR(pg_catalog.=) $1", 4, types, values);
	weir_sql("UPDATE weir_data.status SET filenode = 1"
			 " WHERE filenode IS NOT NULL AND view_id OPERATOR(pg_catalog.=) $1", 1, types, values);

	WEIR_FAULT("adopt-rows");
	/* CREATE DATABASE ... TEMPLATE has copied them */
	if (!weir_is_internal_part(candidate->query_view, candidate->relid))
		weir_record_parts(candidate->relid, candidate->query_view,
						  candidate->state_table, candidate->changelog,
						  weir_query_source(query));
	WEIR_FAULT("adopt-parts");
}

int
weir_catalog_adopt(void)
{
	WeirSqlScope scope;
	List	   *candidates;
	ListCell   *lc;
	MemoryContext context = CurrentMemoryContext;
	int			n = 0;

	if (!weir_catalog_exists())
		return 0;

	weir_sql_begin(&scope);
	candidates = find_candidates(context);
	foreach(lc, candidates)
	{
		Candidate  *candidate = lfirst(lc);

		/* somebody is busy with it: another time */
		if (!ConditionalLockRelationOid(candidate->relid,
										ShareUpdateExclusiveLock))
			continue;
		if (get_rel_relkind(candidate->relid) != RELKIND_RELATION ||
			get_rel_relkind(candidate->query_view) != RELKIND_VIEW ||
			get_rel_relkind(candidate->state_table) != RELKIND_RELATION ||
			(OidIsValid(candidate->changelog) &&
			 get_rel_relkind(candidate->changelog) != RELKIND_RELATION))
			continue;
		adopt(candidate);
		n++;
	}
	weir_sql_end(&scope);
	return n;
}

/* SETOF oid: the tables of views that wait to be adopted. */
Datum
weir_strays(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	WeirSqlScope scope;
	List	   *candidates;
	ListCell   *lc;
	MemoryContext context = CurrentMemoryContext;

	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	weir_sql_begin(&scope);
	candidates = find_candidates(context);
	weir_sql_end(&scope);
	foreach(lc, candidates)
	{
		Candidate  *candidate = lfirst(lc);
		Datum		values[1] = {ObjectIdGetDatum(candidate->relid)};
		bool		nulls[1] = {false};

		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	return (Datum) 0;
}
