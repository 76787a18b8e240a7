/*-------------------------------------------------------------------------
 *
 * kafka_fdw.c
 *	  The foreign data wrapper weir_kafka: its callbacks and its plans.
 *
 * A SELECT reads a topic as it is now, from the low to the high watermark,
 * once, and needs no continuous view; this is also how weir.verify() and a
 * user check what a view says.  An INSERT produces.  UPDATE, DELETE and
 * TRUNCATE have no callback, and the executor refuses them by name: a topic is
 * a log.
 *
 * Planning does not talk to the broker unless asked to
 * (use_remote_estimate): an EXPLAIN of a broken broker should answer at once,
 * and a plan must not depend on the second at which it was made.
 *
 * Execution is in kafka_scan.c and kafka_insert.c, the conditions that narrow
 * a scan in kafka_quals.c, the option check in source/kafka_options.c.
 *
 *-------------------------------------------------------------------------
 */
#include "fdw/kafka_fdw.h"

#include <math.h>

#include "access/sysattr.h"
#include "access/table.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "optimizer/cost.h"
#include "optimizer/optimizer.h"
#include "optimizer/pathnode.h"
#include "optimizer/planmain.h"
#include "optimizer/restrictinfo.h"
#include "utils/rel.h"

/*
 * What we suppose of a topic about which we know nothing: enough that a hash
 * join beats a nested loop that would read it again for every row.
 */
#define DEFAULT_MESSAGES 100000.0

/* A few round trips to the broker, in units of a page read. */
#define CONNECT_COST 100.0

/* One message fetched and decoded, compared with one row of a heap. */
#define MESSAGE_COST 5.0

PG_FUNCTION_INFO_V1(weir_kafka_fdw_handler);

WeirFieldKind
weir_kafka_field(Oid foreign_table, AttrNumber attno)
{
	List	   *options = GetForeignColumnOptions(foreign_table, attno);

	return weir_parse_metadata(weir_foreign_option(options, "metadata"));
}

static void
get_rel_size(PlannerInfo *root, RelOptInfo *baserel, Oid foreign_table)
{
	Oid			user_id = OidIsValid(baserel->userid) ? baserel->userid : GetUserId();
	WeirKafkaTarget *target = weir_kafka_target(foreign_table, user_id);

	baserel->tuples = DEFAULT_MESSAGES;
	if (target->use_remote_estimate)
	{
		int			n;
		WeirPartitionRange *ranges = weir_kafka_probe(foreign_table, user_id,
													  DT_NOBEGIN, &n);

		baserel->tuples = 0;
		for (int i = 0; i < n; i++)
			baserel->tuples += ranges[i].high - ranges[i].low;
		/* zero would make the planner believe that it knows the answer */
		baserel->tuples = Max(baserel->tuples, 1);
	}
	baserel->pages = (BlockNumber) Min(baserel->tuples / 100 + 1, 1e9);
	set_baserel_size_estimates(root, baserel);
}

/*
 * One path.  Every message between the bounds is read and decoded; conditions
 * on the partition make that less, roughly by their selectivity.
 */
static void
get_paths(PlannerInfo *root, RelOptInfo *baserel, Oid foreign_table)
{
	List	   *pushed = NIL;
	double		messages;
	Cost		startup = CONNECT_COST + baserel->baserestrictcost.startup;
	Cost		per_row;
	ListCell   *lc;

	foreach(lc, baserel->baserestrictinfo)
	{
		RestrictInfo *rinfo = lfirst_node(RestrictInfo, lc);
		WeirKafkaQual qual;

		if (weir_kafka_qual(baserel->relid, foreign_table, rinfo->clause, &qual))
			pushed = lappend(pushed, rinfo);
	}
	messages = baserel->tuples *
		clauselist_selectivity(root, pushed, 0, JOIN_INNER, NULL);

	per_row = MESSAGE_COST * cpu_tuple_cost + baserel->baserestrictcost.per_tuple;
	startup += baserel->reltarget->cost.startup;
	add_path(baserel, (Path *)
			 weir_create_foreignscan_path(root, baserel, baserel->rows, startup,
										  startup + per_row * messages +
										  baserel->reltarget->cost.per_tuple *
										  baserel->rows,
										  baserel->lateral_relids));
}

/* The columns that somebody looks at, as a list of attribute numbers. */
static List *
wanted_columns(RelOptInfo *baserel, Oid foreign_table)
{
	Bitmapset  *used = NULL;
	List	   *wanted = NIL;
	Relation	rel = table_open(foreign_table, NoLock);
	TupleDesc	desc = RelationGetDescr(rel);
	bool		whole_row;
	ListCell   *lc;

	pull_varattnos((Node *) baserel->reltarget->exprs, baserel->relid, &used);
	foreach(lc, baserel->baserestrictinfo)
		pull_varattnos((Node *) lfirst_node(RestrictInfo, lc)->clause,
					   baserel->relid, &used);

	whole_row = bms_is_member(0 - FirstLowInvalidHeapAttributeNumber, used);
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (!att->attisdropped &&
			(whole_row ||
			 bms_is_member(att->attnum - FirstLowInvalidHeapAttributeNumber,
						   used)))
			wanted = lappend_int(wanted, att->attnum);
	}
	table_close(rel, NoLock);
	return wanted;
}

/*
 * Every condition stays for the executor to check, the pushed ones too: the
 * bounds that they come to may be wider than what they say.  They are also
 * kept in fdw_exprs, where the planner replaces their parameters and
 * EXPLAIN finds them.
 */
static ForeignScan *
get_plan(PlannerInfo *root, RelOptInfo *baserel, Oid foreign_table,
		 ForeignPath *best_path, List *tlist, List *scan_clauses,
		 Plan *outer_plan)
{
	List	   *clauses = extract_actual_clauses(scan_clauses, false);
	List	   *pushed = NIL;
	ListCell   *lc;

	foreach(lc, clauses)
	{
		WeirKafkaQual qual;

		if (weir_kafka_qual(baserel->relid, foreign_table,
							(Expr *) lfirst(lc), &qual))
			pushed = lappend(pushed, lfirst(lc));
	}
	return make_foreignscan(tlist, clauses, baserel->relid, pushed,
							wanted_columns(baserel, foreign_table),
							NIL, NIL, outer_plan);
}

static int
is_updatable(Relation rel)
{
	return 1 << CMD_INSERT;
}

Datum
weir_kafka_fdw_handler(PG_FUNCTION_ARGS)
{
	FdwRoutine *routine = makeNode(FdwRoutine);

	routine->GetForeignRelSize = get_rel_size;
	routine->GetForeignPaths = get_paths;
	routine->GetForeignPlan = get_plan;

	routine->BeginForeignScan = weir_kafka_begin_scan;
	routine->IterateForeignScan = weir_kafka_iterate_scan;
	routine->ReScanForeignScan = weir_kafka_rescan;
	routine->EndForeignScan = weir_kafka_end_scan;
	routine->ExplainForeignScan = weir_kafka_explain_scan;

	routine->BeginForeignModify = weir_kafka_begin_modify;
	routine->BeginForeignInsert = weir_kafka_begin_insert;
	routine->ExecForeignInsert = weir_kafka_insert;
	routine->EndForeignModify = weir_kafka_end_modify;
	routine->EndForeignInsert = weir_kafka_end_modify;
	routine->IsForeignRelUpdatable = is_updatable;

	PG_RETURN_POINTER(routine);
}
