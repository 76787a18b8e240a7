/*-------------------------------------------------------------------------
 *
 * create_view.c
 *	  CREATE TABLE v WITH (weir.continuous, ...) AS SELECT ...
 *
 * Runs in the creating backend, within its transaction: whatever happens
 * afterwards, ROLLBACK leaves nothing.  It records and returns; the worker
 * begins after the commit.  Of a topic, one thing reaches outside: a question
 * to the broker, which partitions there are, and from where to where.  Its
 * answer fixes the first offset of the view and the target of the backfill,
 * and an unknown topic or a broker that is down becomes an error of CREATE.
 * A table or a push stream is asked nothing.
 *
 * The order matters in two places.  Everything that can be refused is refused
 * before the broker is asked, because that can take seconds.  And v is made
 * before its parts, by core and with our options taken out of the statement:
 * names, columns, privileges, tablespaces, event triggers and IF NOT EXISTS
 * are core's business and stay it.
 *
 * Which queries are accepted is plan_query.c's decision; what options mean is
 * view_options.c's.  This file never reads a row of the source.
 *
 *-------------------------------------------------------------------------
 */
#include "catalog/view_ddl.h"

#include "access/table.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "decode/decode.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "source/changes.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

/*
 * Settings that the output of expressions depends on.  They stay what they
 * were in the creating session, so that a view means the same for ever.
 */
static const char *const pinned_settings[] = {
	"TimeZone", "DateStyle", "IntervalStyle", "extra_float_digits",
	"bytea_output", "lc_monetary", "lc_numeric", "lc_time", "xmlbinary",
	"default_text_search_config"
};

/* Half of a page for the new versions of its rows: see facts.md, HOT. */
#define RESULT_FILLFACTOR 45

static void
refuse(const char *what, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("a continuous view cannot be %s", what),
			 errhint("%s", hint)));
}

/* Refuses the forms of CREATE TABLE AS that make no sense here. */
static void
check_form(const CreateTableAsStmt *stmt)
{
	const IntoClause *into = stmt->into;

	if (stmt->objtype == OBJECT_MATVIEW)
		refuse("a materialized view",
			   "Use CREATE TABLE ... WITH (weir.continuous) AS SELECT ...");
	if (into->rel->relpersistence == RELPERSISTENCE_TEMP)
		refuse("temporary",
			   "It is filled by another process, which cannot see temporary tables. Leave TEMPORARY out.");
	if (into->rel->relpersistence == RELPERSISTENCE_UNLOGGED)
		refuse("unlogged",
			   "A crash would empty it while its positions went on. Leave UNLOGGED out.");
	if (into->onCommit != ONCOMMIT_NOOP)
		refuse("declared with ON COMMIT", "Leave the clause out.");
	if (!IsA(stmt->query, Query) ||
		castNode(Query, stmt->query)->commandType != CMD_SELECT)
		refuse("defined by EXECUTE", "Write the SELECT out.");
}

static bool
has_parameter(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, Param))
		return castNode(Param, node)->paramkind == PARAM_EXTERN;
	if (IsA(node, Query))
		return query_tree_walker((Query *) node, has_parameter, context, 0);
	return expression_tree_walker(node, has_parameter, context);
}

/*
 * Plans Q with no more rights than its owner has and without side effects:
 * folding constants runs functions, his and those of others.
 */
static WeirPlan *
plan_restricted(const Query *query)
{
	WeirPlan   *plan;
	Oid			user;
	int			sec_context;
	int			guc_level;

	if (has_parameter((Node *) query, NULL))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("a continuous view cannot depend on a parameter or variable"),
				 errhint("Write its value into the query, for example with EXECUTE format(...).")));

	GetUserIdAndSecContext(&user, &sec_context);
	SetUserIdAndSecContext(user, sec_context | SECURITY_RESTRICTED_OPERATION);
	guc_level = NewGUCNestLevel();
	(void) set_config_option("search_path", "pg_catalog, pg_temp",
							 PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	plan = weir_plan_query(query);
	AtEOXact_GUC(false, guc_level);
	SetUserIdAndSecContext(user, sec_context);
	return plan;
}

/*
 * What the source must be so that its rows can be followed, beyond what the
 * query says of it.
 */
static void
check_source(const WeirPlan *plan, WeirSourceKind kind,
			 WeirAppendOnly append_only)
{
	/* already locked by parse analysis; a cached plan makes this explicit */
	Relation	rel = table_open(plan->source, AccessShareLock);

	if (RelationUsesLocalBuffers(rel) || isTempNamespace(RelationGetNamespace(rel)))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("a continuous view cannot read the temporary foreign table \"%s\"",
						RelationGetRelationName(rel)),
				 errhint("Make it a permanent one.")));
	if (kind == WEIR_SOURCE_KAFKA)
		weir_decoder_check(plan->source, RelationGetDescr(rel));
	else
		weir_slot_check_possible();
	if (kind == WEIR_SOURCE_TABLE)
		weir_check_table(rel, plan->wanted, append_only, true);
	table_close(rel, NoLock);
}

/* The statement as core shall see it. */
static void
make_ordinary(CreateTableAsStmt *stmt)
{
	ListCell   *lc;
	bool		has_fillfactor = false;

	stmt->into->options = weir_options_without_ours(stmt->into->options);
	foreach(lc, stmt->into->options)
	{
		DefElem    *option = lfirst_node(DefElem, lc);

		if (option->defnamespace == NULL &&
			strcmp(option->defname, "fillfactor") == 0)
			has_fillfactor = true;
	}
	if (!has_fillfactor)
		stmt->into->options = lappend(stmt->into->options,
									  makeDefElem("fillfactor",
												  (Node *) makeInteger(RESULT_FILLFACTOR),
												  -1));
	stmt->into->skipData = true;
}

/* Q with the column names of v, which CREATE TABLE v (a, b) AS may change. */
static Query *
query_with_names(const Query *query, List *names)
{
	Query	   *result = copyObject(unconstify(Query *, query));
	ListCell   *name = list_head(names);
	ListCell   *lc;

	foreach(lc, result->targetList)
	{
		TargetEntry *target = lfirst_node(TargetEntry, lc);

		if (target->resjunk || name == NULL)
			continue;
		target->resname = pstrdup(strVal(lfirst(name)));
		name = lnext(names, name);
	}
	return result;
}

static Datum
pinned_array(void)
{
	Datum		elements[2 * lengthof(pinned_settings)];
	int			n = 0;

	for (int i = 0; i < lengthof(pinned_settings); i++)
	{
		elements[n++] = CStringGetTextDatum(pinned_settings[i]);
		elements[n++] = CStringGetTextDatum(GetConfigOption(pinned_settings[i],
															false, false));
	}
	return PointerGetDatum(construct_array(elements, n, TEXTOID, -1, false,
										   TYPALIGN_INT));
}

/*
 * Rows of views, status and positions.  Of a table there is no position yet: the
 * worker finds the place in the WAL where the snapshot of its rows fits in.
 */
static void
record_view(const char *id, Oid relid, Oid changelog, const WeirPlan *plan,
			List *options, bool paused, const WeirPartitionRange *ranges,
			const int64 *starts, int n)
{
	WeirSqlScope scope;
	Oid			view_types[] = {TEXTOID, OIDOID, TEXTOID, TEXTARRAYOID,
	TEXTARRAYOID, BOOLOID, BOOLOID, OIDOID};
	Datum		view_values[] = {CStringGetTextDatum(id),
		ObjectIdGetDatum(relid), CStringGetTextDatum(weir_home()),
		weir_options_to_array(options), pinned_array(),
		BoolGetDatum(paused), BoolGetDatum(plan->window_column != 0),
	ObjectIdGetDatum(changelog)};
	Oid			position_types[] = {TEXTOID, INT4OID, INT8OID, INT8OID, INT8OID};

	weir_sql_begin(&scope);
	weir_sql("INSERT INTO weir_data.views"
			 " (id, relid, home, options, settings, paused, windowed, changelog)"
			 " VALUES ($1, $2, $3, $4, $5, $6, $7,"
			 " CASE WHEN $8 OPERATOR(pg_catalog.<>) 0 THEN $8 END)",
			 lengthof(view_types), view_types, view_values);
	weir_sql("INSERT INTO weir_data.status (view_id, phase)"
			 " VALUES ($1, 'backfilling')", 1, view_types, view_values);
	for (int i = 0; i < n; i++)
	{
		Datum		values[] = {view_values[0],
			Int32GetDatum(ranges[i].partition),
			Int64GetDatum(starts[i]),
			Int64GetDatum(Max(starts[i], ranges[i].high)),
		Int64GetDatum(ranges[i].high)};

		weir_sql("INSERT INTO weir_data.positions"
				 " (view_id, partition, position, start, target, source_end)"
				 " VALUES ($1, $2, $3, $3, $4, $5)",
				 lengthof(position_types), position_types, values);
	}
	weir_sql_end(&scope);
}

/* 64 random bits as hexadecimal digits. */
static char *
new_view_id(void)
{
	unsigned char bytes[WEIR_ID_LEN / 2];
	char	   *id = palloc(WEIR_ID_LEN + 1);

	if (!pg_strong_random(bytes, sizeof(bytes)))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not generate random values")));
	for (int i = 0; i < lengthof(bytes); i++)
		snprintf(id + 2 * i, 3, "%02x", bytes[i]);
	return id;
}

/*
 * v as core has made it.  An event trigger may have run since and done
 * anything with it.
 */
static Oid
find_created(const RangeVar *name, Oid schema)
{
	Oid			relid = get_relname_relid(name->relname, schema);

	if (!OidIsValid(relid) ||
		get_rel_relkind(relid) != RELKIND_RELATION ||
		!weir_owns_relation(relid, GetUserId()))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table \"%s\" changed while it was created",
						name->relname),
				 errhint("Look for an event trigger that drops or alters new tables.")));
	if (get_rel_persistence(relid) != RELPERSISTENCE_PERMANENT)
		refuse("temporary", "Choose a permanent schema.");
	return relid;
}

/* The names of v's columns. */
static List *
column_names(const WeirPlan *plan, List *given)
{
	List	   *result = NIL;
	ListCell   *lc;

	foreach(lc, plan->targets)
	{
		int			i = foreach_current_index(lc);

		result = lappend(result, i < list_length(given) ?
						 strVal(list_nth(given, i)) :
						 lfirst_node(TargetEntry, lc)->resname);
	}
	return result;
}

/*
 * The options of event time against Q; true if v shall have a changelog.  A
 * default that is lost is told, since nothing of the statement says so.
 */
static bool
check_event_time(const IntoClause *into, Oid schema, List *options,
				 const WeirPlan *plan, WeirSourceKind kind)
{
	Datum		stored = weir_options_to_array(options);
	bool		windowed = plan->window_column != 0;
	WeirViewOptions settled = weir_options_read(stored, kind, windowed);

	weir_event_options_check(weir_options_stored(stored), &settled,
							 plan->window_kind, windowed);
	if (plan->window_kind != WEIR_NO_WINDOW && !windowed &&
		kind != WEIR_SOURCE_TABLE &&
		weir_option_stored(weir_options_stored(stored), "watermark") == NULL)
		ereport(NOTICE,
				(errmsg("windows of continuous view \"%s\" never close",
						into->rel->relname),
				 errdetail("The window is no column of the view, so nobody could tell which of its rows are closed."),
				 errhint("Add the window itself to the select list, or say weir.watermark = 'none'.")));
	if (settled.changelog == WEIR_CHANGELOG_OFF)
		return false;
	weir_check_changelog(into->rel->relname, schema,
						 column_names(plan, into->colNames));
	return true;
}

void
weir_create_view(const WeirUtilityCall *call)
{
	CreateTableAsStmt *stmt = copyObject(castNode(CreateTableAsStmt,
												  call->pstmt->utilityStmt));
	List	   *options = stmt->into->options;
	bool		paused = stmt->into->skipData;
	Query	   *query;
	WeirPlan   *plan;
	WeirSourceKind kind;
	WeirPartitionRange *ranges = NULL;
	int64	   *starts = NULL;
	int			n = 0;
	Oid			schema;
	Oid			existing;
	Oid			relid;
	Oid			query_view;
	Oid			state_table;
	Oid			changelog = InvalidOid;
	bool		has_changelog;
	char	   *id;

	PreventCommandIfReadOnly("CREATE TABLE AS");
	check_form(stmt);
	weir_options_check_create(options);

	/* an existing v is core's to report, before anything costs time */
	schema = RangeVarGetAndCheckCreationNamespace(stmt->into->rel, NoLock,
												  &existing);
	if (stmt->into->rel->relpersistence == RELPERSISTENCE_TEMP)
		refuse("temporary", "Choose a permanent schema.");
	stmt->into->rel->schemaname = get_namespace_name(schema);
	query = castNode(Query, stmt->query);
	make_ordinary(stmt);
	if (OidIsValid(existing))
	{
		weir_run_utility(call, (Node *) stmt);
		return;
	}

	plan = plan_restricted(query);
	weir_check_source_privileges(query, GetUserId());
	kind = weir_source_kind(plan->source);
	has_changelog = check_event_time(stmt->into, schema, options, plan, kind);
	check_source(plan, kind, weir_options_check_source(options, kind));
	if (kind == WEIR_SOURCE_KAFKA)
	{
		ranges = weir_kafka_probe(plan->source, GetUserId(),
								  weir_start_time(options), &n);
		starts = palloc((n + 1) * sizeof(int64));
		weir_start_offsets(options, ranges, n, starts);
	}

	weir_run_utility(call, copyObject((Node *) stmt));
	CommandCounterIncrement();
	relid = find_created(stmt->into->rel, schema);

	id = new_view_id();
	query_view = weir_make_query_view(id,
									  query_with_names(query,
													   stmt->into->colNames),
									  GetUserId());
	state_table = weir_make_state_table(id);
	weir_make_read_only_trigger(id, relid, false);
	weir_make_indexes(relid, plan);
	if (has_changelog)
		changelog = weir_make_changelog(id, relid);
	weir_record_parts(relid, query_view, state_table, changelog, plan->source);
	WEIR_FAULT("create_before_record");
	/* a stream begins now; what commits before our commit may come along */
	if (kind == WEIR_SOURCE_STREAM)
	{
		ranges = palloc0(sizeof(WeirPartitionRange));
		starts = palloc(sizeof(int64));
		ranges[0].high = starts[0] = (int64) GetXLogInsertRecPtr();
		n = 1;
	}
	record_view(id, relid, changelog, plan, options, paused, ranges, starts, n);
	weir_wake_at_commit();
}
