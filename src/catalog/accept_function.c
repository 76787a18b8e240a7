/*-------------------------------------------------------------------------
 *
 * accept_function.c
 *	  Which functions an expression of a continuous view may call.
 *
 * The theorem of pg_weir is that a view shows what Q would show.  Q is
 * computed once for a row when it arrives and perhaps again, after a crash or
 * for a rebuild, so a function is accepted when its result depends on its
 * arguments alone:
 *
 *	 immutable		accepted, whoever wrote it: the label is a promise
 *	 volatile		refused
 *	 stable			refused, unless it is on the list below
 *
 * The list holds functions of pg_catalog that are stable for one reason only:
 * they look at a setting, and the setting is one of those that a view pins to
 * what they were when it was created (TimeZone, DateStyle, IntervalStyle,
 * extra_float_digits, bytea_output, lc_*, xmlbinary,
 * default_text_search_config).  What also looks at the clock is not on it,
 * which is less obvious than it sounds: time::timetz takes the offset of
 * today, and age() with one argument counts from midnight.  Nor is what looks
 * at a setting that is not pinned (text::xml reads xmloption).
 *
 * Some of the listed functions are stable because they print or parse a value
 * of any type, to_json() or format(), or array_out() for its elements.  They
 * are as good as the I/O functions of those types, so we look at these too.
 *
 * Two limits, known and accepted.  Labels of enums are read from the catalog;
 * renaming one changes Q, and only new rows show it, until the view is
 * rebuilt.  And a text from a message that is cast to a timestamp may be
 * 'now': whoever casts payloads gets what their writers send.  Constants of
 * that kind are refused, because there the author of the view meant it.
 *
 * Functions are identified by the C symbol that implements them (prosrc), in
 * which overloads differ and releases do not.
 *
 *-------------------------------------------------------------------------
 */
#include "catalog/accept_query.h"

#include "access/htup_details.h"
#include "access/transam.h"
#include "access/tupdesc.h"
#include "catalog/pg_language.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "nodes/execnodes.h"
#include "nodes/nodeFuncs.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/formatting.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

/* How much of a value a listed function looks at. */
typedef enum Reach
{
	REACH_ARGUMENTS,			/* the types are fixed, nothing to look into */
	REACH_PRINTS				/* calls output functions of its arguments */
} Reach;

typedef struct PinnedFunction
{
	const char *symbol;
	Reach		reach;
} PinnedFunction;

/*
 * Functions in C.  Sorted by what they depend on; looked up once per call and
 * plan, so a linear search is good enough.
 */
static const PinnedFunction pinned_functions[] = {
	/* TimeZone: timestamptz seen as a local date or time, and back */
	{"timestamptz_trunc", REACH_ARGUMENTS},
	{"timestamptz_trunc_zone", REACH_ARGUMENTS},
	{"timestamptz_part", REACH_ARGUMENTS},
	{"extract_timestamptz", REACH_ARGUMENTS},
	{"timestamptz_pl_interval", REACH_ARGUMENTS},
	{"timestamptz_mi_interval", REACH_ARGUMENTS},
	{"timestamptz_date", REACH_ARGUMENTS},
	{"timestamptz_time", REACH_ARGUMENTS},
	{"timestamptz_timestamp", REACH_ARGUMENTS},
	{"timestamptz_timetz", REACH_ARGUMENTS},
	{"timestamp_timestamptz", REACH_ARGUMENTS},
	{"date_timestamptz", REACH_ARGUMENTS},
	{"timestamptz_at_local", REACH_ARGUMENTS},
	{"timestamp_at_local", REACH_ARGUMENTS},
	{"make_timestamptz", REACH_ARGUMENTS},
	{"make_timestamptz_at_timezone", REACH_ARGUMENTS},
	{"in_range_timestamptz_interval", REACH_ARGUMENTS},
	{"date_eq_timestamptz", REACH_ARGUMENTS},
	{"date_ne_timestamptz", REACH_ARGUMENTS},
	{"date_lt_timestamptz", REACH_ARGUMENTS},
	{"date_le_timestamptz", REACH_ARGUMENTS},
	{"date_gt_timestamptz", REACH_ARGUMENTS},
	{"date_ge_timestamptz", REACH_ARGUMENTS},
	{"date_cmp_timestamptz", REACH_ARGUMENTS},
	{"timestamptz_eq_date", REACH_ARGUMENTS},
	{"timestamptz_ne_date", REACH_ARGUMENTS},
	{"timestamptz_lt_date", REACH_ARGUMENTS},
	{"timestamptz_le_date", REACH_ARGUMENTS},
	{"timestamptz_gt_date", REACH_ARGUMENTS},
	{"timestamptz_ge_date", REACH_ARGUMENTS},
	{"timestamptz_cmp_date", REACH_ARGUMENTS},
	{"timestamp_eq_timestamptz", REACH_ARGUMENTS},
	{"timestamp_ne_timestamptz", REACH_ARGUMENTS},
	{"timestamp_lt_timestamptz", REACH_ARGUMENTS},
	{"timestamp_le_timestamptz", REACH_ARGUMENTS},
	{"timestamp_gt_timestamptz", REACH_ARGUMENTS},
	{"timestamp_ge_timestamptz", REACH_ARGUMENTS},
	{"timestamp_cmp_timestamptz", REACH_ARGUMENTS},
	{"timestamptz_eq_timestamp", REACH_ARGUMENTS},
	{"timestamptz_ne_timestamp", REACH_ARGUMENTS},
	{"timestamptz_lt_timestamp", REACH_ARGUMENTS},
	{"timestamptz_le_timestamp", REACH_ARGUMENTS},
	{"timestamptz_gt_timestamp", REACH_ARGUMENTS},
	{"timestamptz_ge_timestamp", REACH_ARGUMENTS},
	{"timestamptz_cmp_timestamp", REACH_ARGUMENTS},
	{"jsonb_path_exists_tz", REACH_ARGUMENTS},
	{"jsonb_path_match_tz", REACH_ARGUMENTS},
	{"jsonb_path_query_array_tz", REACH_ARGUMENTS},
	{"jsonb_path_query_first_tz", REACH_ARGUMENTS},

	/* TimeZone, DateStyle and IntervalStyle: text in and out */
	{"date_in", REACH_ARGUMENTS},
	{"date_out", REACH_ARGUMENTS},
	{"time_in", REACH_ARGUMENTS},
	{"timestamp_in", REACH_ARGUMENTS},
	{"timestamp_out", REACH_ARGUMENTS},
	{"timestamptz_in", REACH_ARGUMENTS},
	{"timestamptz_out", REACH_ARGUMENTS},
	{"interval_in", REACH_ARGUMENTS},
	{"interval_out", REACH_ARGUMENTS},

	/* lc_numeric, lc_monetary, lc_time and TimeZone */
	{"timestamp_to_char", REACH_ARGUMENTS},
	{"timestamptz_to_char", REACH_ARGUMENTS},
	{"interval_to_char", REACH_ARGUMENTS},
	{"numeric_to_char", REACH_ARGUMENTS},
	{"int4_to_char", REACH_ARGUMENTS},
	{"int8_to_char", REACH_ARGUMENTS},
	{"float4_to_char", REACH_ARGUMENTS},
	{"float8_to_char", REACH_ARGUMENTS},
	{"numeric_to_number", REACH_ARGUMENTS},
	{"to_timestamp", REACH_ARGUMENTS},
	{"to_date", REACH_ARGUMENTS},
	{"cash_in", REACH_ARGUMENTS},
	{"cash_out", REACH_ARGUMENTS},
	{"cash_numeric", REACH_ARGUMENTS},
	{"numeric_cash", REACH_ARGUMENTS},
	{"int4_cash", REACH_ARGUMENTS},
	{"int8_cash", REACH_ARGUMENTS},

	/* default_text_search_config */
	{"get_current_ts_config", REACH_ARGUMENTS},
	{"to_tsvector", REACH_ARGUMENTS},
	{"json_string_to_tsvector", REACH_ARGUMENTS},
	{"jsonb_string_to_tsvector", REACH_ARGUMENTS},
	{"json_to_tsvector", REACH_ARGUMENTS},
	{"jsonb_to_tsvector", REACH_ARGUMENTS},
	{"to_tsquery", REACH_ARGUMENTS},
	{"plainto_tsquery", REACH_ARGUMENTS},
	{"phraseto_tsquery", REACH_ARGUMENTS},
	{"websearch_to_tsquery", REACH_ARGUMENTS},
	{"ts_headline", REACH_ARGUMENTS},
	{"ts_headline_opt", REACH_ARGUMENTS},
	{"ts_headline_json", REACH_ARGUMENTS},
	{"ts_headline_json_opt", REACH_ARGUMENTS},
	{"ts_headline_jsonb", REACH_ARGUMENTS},
	{"ts_headline_jsonb_opt", REACH_ARGUMENTS},
	{"ts_match_tq", REACH_ARGUMENTS},
	{"ts_match_tt", REACH_ARGUMENTS},

	/* conversions of encodings: pg_conversion, defaults of initdb in effect */
	{"pg_convert", REACH_ARGUMENTS},
	{"pg_convert_from", REACH_ARGUMENTS},
	{"pg_convert_to", REACH_ARGUMENTS},
	{"length_in_encoding", REACH_ARGUMENTS},

	/* labels of an enum; see the head of the file */
	{"enum_in", REACH_ARGUMENTS},
	{"enum_out", REACH_ARGUMENTS},

	/* whatever their arguments depend on */
	{"text_concat", REACH_PRINTS},
	{"text_concat_ws", REACH_PRINTS},
	{"text_format", REACH_PRINTS},
	{"text_format_nv", REACH_PRINTS},
	{"array_to_text", REACH_PRINTS},
	{"array_to_text_null", REACH_PRINTS},
	{"array_to_json", REACH_PRINTS},
	{"array_to_json_pretty", REACH_PRINTS},
	{"row_to_json", REACH_PRINTS},
	{"row_to_json_pretty", REACH_PRINTS},
	{"to_json", REACH_PRINTS},
	{"to_jsonb", REACH_PRINTS},
	{"json_build_array", REACH_PRINTS},
	{"json_build_array_noargs", REACH_PRINTS},
	{"json_build_object", REACH_PRINTS},
	{"json_build_object_noargs", REACH_PRINTS},
	{"jsonb_build_array", REACH_PRINTS},
	{"jsonb_build_array_noargs", REACH_PRINTS},
	{"jsonb_build_object", REACH_PRINTS},
	{"jsonb_build_object_noargs", REACH_PRINTS},
};

/*
 * Functions of pg_catalog whose body is SQL: they have no symbol of their own.
 */
static const struct
{
	Oid			function;
	Reach		reach;
}			pinned_sql_functions[] =
{
	{F_TIMESTAMPTZ_DATE_TIME, REACH_ARGUMENTS},
	{F_INTERVAL_PL_TIMESTAMPTZ, REACH_ARGUMENTS},
	{F_OVERLAPS_TIMESTAMPTZ_INTERVAL_TIMESTAMPTZ_INTERVAL, REACH_ARGUMENTS},
	{F_OVERLAPS_TIMESTAMPTZ_TIMESTAMPTZ_TIMESTAMPTZ_INTERVAL, REACH_ARGUMENTS},
	{F_OVERLAPS_TIMESTAMPTZ_INTERVAL_TIMESTAMPTZ_TIMESTAMPTZ, REACH_ARGUMENTS},
	{F_TEXTANYCAT, REACH_PRINTS},
	{F_ANYTEXTCAT, REACH_PRINTS},
	{F_QUOTE_LITERAL_ANYELEMENT, REACH_PRINTS},
	{F_QUOTE_NULLABLE_ANYELEMENT, REACH_PRINTS},
};

static bool accept_functions_walker(Node *node, void *context);
static bool accept_one_function(Oid function, void *context);
static void accept_function(Oid function, List *args);
static void accept_domain(Oid type);
static void accept_printed(List *exprs);
static bool is_pinned(HeapTuple procedure, Reach *reach);
static bool is_builtin(Oid function);
static void accept_conversion(Oid type, Node *expr, bool to_text);
static void refuse_conversion(Oid type, bool to_text);
static void refuse_clock_literal(CoerceViaIO *cast);
static void refuse_sql_value(SQLValueFunction *value);

/*
 * All functions that expr calls, under operators and casts as well.  expr must
 * be as the parser left it: folding could remove what we are looking for.
 */
void
weir_accept_functions(Node *expr)
{
	(void) accept_functions_walker(expr, NULL);
}

static bool
accept_functions_walker(Node *node, void *context)
{
	if (node == NULL)
		return false;

	switch (nodeTag(node))
	{
		case T_FuncExpr:
			accept_function(((FuncExpr *) node)->funcid,
							((FuncExpr *) node)->args);
			break;
		case T_OpExpr:
			accept_function(get_opcode(((OpExpr *) node)->opno),
							((OpExpr *) node)->args);
			break;
		case T_CoerceViaIO:
			{
				CoerceViaIO *cast = (CoerceViaIO *) node;

				refuse_clock_literal(cast);
				accept_conversion(exprType((Node *) cast->arg),
								  (Node *) cast->arg, true);
				accept_conversion(cast->resulttype, NULL, false);
			}
			break;
		case T_CoerceToDomain:
			accept_domain(((CoerceToDomain *) node)->resulttype);
			break;
		case T_XmlExpr:
			accept_printed(((XmlExpr *) node)->named_args);
			accept_printed(((XmlExpr *) node)->args);
			break;
		case T_SQLValueFunction:
			refuse_sql_value((SQLValueFunction *) node);
			break;
		case T_NextValueExpr:
			weir_refuse("continuous views do not support sequences",
						"Number the rows when you query the view.");
			break;
		case T_Aggref:
			/* accept_query.c has looked at it; its arguments come here */
			break;
		default:
			(void) check_functions_in_node(node, accept_one_function, NULL);
			accept_printed(weir_json_constructor_args(node));
			if (OidIsValid(weir_json_query_type(node)))
				accept_conversion(weir_json_query_type(node), NULL, false);
			break;
	}
	return expression_tree_walker(node, accept_functions_walker, context);
}

/* Callback for nodes whose functions see no types but their own. */
static bool
accept_one_function(Oid function, void *context)
{
	accept_function(function, NIL);
	return false;
}

/*
 * One function.  args is NIL where the caller has none to show; functions
 * that print their arguments are always called through a node that has.
 */
static void
accept_function(Oid function, List *args)
{
	HeapTuple	procedure;
	char		volatility;
	bool		pinned;
	Reach		reach = REACH_ARGUMENTS;
	AclResult	allowed;

	/* the executor checks this when it starts, which is too late for CREATE */
	allowed = weir_function_aclcheck(function, GetUserId(), ACL_EXECUTE);
	if (allowed != ACLCHECK_OK)
		aclcheck_error(allowed, OBJECT_FUNCTION, get_func_name(function));

	procedure = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	if (!HeapTupleIsValid(procedure))
		elog(ERROR, "cache lookup failed for function %u", function);
	volatility = ((Form_pg_proc) GETSTRUCT(procedure))->provolatile;
	pinned = is_pinned(procedure, &reach);
	ReleaseSysCache(procedure);

	if (volatility == PROVOLATILE_IMMUTABLE)
		return;
	if (volatility == PROVOLATILE_VOLATILE)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("continuous views do not support the volatile function %s",
						format_procedure(function)),
				 errdetail("The same row must give the same result whenever it is read."),
				 is_builtin(function)
				 ? errhint("Compute the value before the row is produced.")
				 : errhint("If its result depends on its arguments alone, declare the function IMMUTABLE.")));
	if (!pinned)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("continuous views do not support the stable function %s",
						format_procedure(function)),
				 errdetail("Its result may differ from one statement to the next."),
				 is_builtin(function)
				 ? errhint("Call it in the queries that read the view.")
				 : errhint("If its result depends on its arguments alone, declare the function IMMUTABLE.")));

	if (reach == REACH_PRINTS)
		accept_printed(args);
}

/*
 * The conditions of a domain, which a cast to it checks: one that looks at the
 * clock would accept a row today and refuse it in a rebuild.
 */
static void
accept_domain(Oid type)
{
	/* not on the stack: its memory context calls back when it goes */
	DomainConstraintRef *constraints = palloc(sizeof(DomainConstraintRef));
	ListCell   *lc;

	InitDomainConstraintRef(type, constraints, CurrentMemoryContext, false);
	foreach(lc, constraints->constraints)
		(void) accept_functions_walker((Node *) ((DomainConstraintState *) lfirst(lc))->check_expr,
									   NULL);
}

/* Expressions whose values become text, whatever their types. */
static void
accept_printed(List *exprs)
{
	ListCell   *lc;

	foreach(lc, exprs)
		accept_conversion(exprType(lfirst(lc)), lfirst(lc), true);
}

/*
 * Is the function on the list?  *reach is set only if it is.
 */
static bool
is_pinned(HeapTuple procedure, Reach *reach)
{
	Form_pg_proc form = (Form_pg_proc) GETSTRUCT(procedure);
	Datum		prosrc;
	bool		isnull;
	char	   *symbol;
	int			i;

	if (!is_builtin(form->oid))
		return false;

	for (i = 0; i < lengthof(pinned_sql_functions); i++)
	{
		if (pinned_sql_functions[i].function == form->oid)
		{
			*reach = pinned_sql_functions[i].reach;
			return true;
		}
	}

	if (form->prolang != INTERNALlanguageId)
		return false;
	prosrc = SysCacheGetAttr(PROCOID, procedure, Anum_pg_proc_prosrc, &isnull);
	if (isnull)
		return false;
	symbol = TextDatumGetCString(prosrc);
	for (i = 0; i < lengthof(pinned_functions); i++)
	{
		if (strcmp(pinned_functions[i].symbol, symbol) == 0)
		{
			*reach = pinned_functions[i].reach;
			return true;
		}
	}
	return false;
}

/*
 * Made by initdb.  A user's function may name a C symbol of the server too,
 * with a label of his own; it does not get here on that account.
 */
static bool
is_builtin(Oid function)
{
	return function < FirstGenbkiObjectId;
}

/*
 * Values of a type as text, or out of text.  expr is the expression if there
 * is one: an anonymous record has no other description.
 *
 * array_out() and its like are stable because their parts could be anything,
 * so the parts are what counts.
 */
static void
accept_conversion(Oid type, Node *expr, bool to_text)
{
	Oid			part;
	Oid			function;
	Oid			ignored_oid;
	bool		ignored_bool;
	HeapTuple	procedure;
	Reach		reach;
	bool		accepted;

	check_stack_depth();
	type = getBaseType(type);

	/* in a list of arguments of type "any", a literal without a type */
	if (type == UNKNOWNOID || type == CSTRINGOID)
		return;

	if (type == RECORDOID)
	{
		RowExpr    *row = (RowExpr *) expr;
		ListCell   *lc;

		if (expr == NULL || !IsA(expr, RowExpr))
			refuse_conversion(type, to_text);
		foreach(lc, row->args)
			accept_conversion(exprType(lfirst(lc)), lfirst(lc), to_text);
		return;
	}

	part = get_element_type(type);
	if (!OidIsValid(part))
		part = get_range_subtype(type);
	if (!OidIsValid(part))
		part = get_range_subtype(get_multirange_range(type));
	if (OidIsValid(part))
	{
		accept_conversion(part, NULL, to_text);
		return;
	}

	if (get_typtype(type) == TYPTYPE_COMPOSITE)
	{
		TupleDesc	shape = lookup_rowtype_tupdesc_copy(type, -1);
		int			i;

		for (i = 0; i < shape->natts; i++)
		{
			if (!TupleDescAttr(shape, i)->attisdropped)
				accept_conversion(TupleDescAttr(shape, i)->atttypid, NULL, to_text);
		}
		return;
	}

	if (to_text)
		getTypeOutputInfo(type, &function, &ignored_bool);
	else
		getTypeInputInfo(type, &function, &ignored_oid);

	procedure = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	if (!HeapTupleIsValid(procedure))
		elog(ERROR, "cache lookup failed for function %u", function);
	accepted = ((Form_pg_proc) GETSTRUCT(procedure))->provolatile == PROVOLATILE_IMMUTABLE ||
		is_pinned(procedure, &reach);
	ReleaseSysCache(procedure);

	if (!accepted)
		refuse_conversion(type, to_text);
}

static void
refuse_conversion(Oid type, bool to_text)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 to_text
			 ? errmsg("continuous views do not support type %s as text",
					  format_type_be(type))
			 : errmsg("continuous views do not support text as type %s",
					  format_type_be(type)),
			 errdetail("The conversion depends on more than the value."),
			 errhint("Convert it in the queries that read the view.")));
}

/*
 * 'now'::text::timestamptz means the clock.  ('now'::timestamptz does not: the
 * parser has read the clock already, as in any stored query.)
 */
static void
refuse_clock_literal(CoerceViaIO *cast)
{
	static const char *const words[] = {"now", "today", "tomorrow", "yesterday"};
	Const	   *literal = (Const *) cast->arg;
	Oid			type = getBaseType(cast->resulttype);
	char	   *text;
	int			i;

	if (type != DATEOID && type != TIMEOID &&
		type != TIMESTAMPOID && type != TIMESTAMPTZOID)
		return;
	if (!IsA(literal, Const) || literal->constisnull ||
		literal->consttype != TEXTOID)
		return;

	text = asc_tolower(VARDATA_ANY(DatumGetPointer(literal->constvalue)),
					   VARSIZE_ANY_EXHDR(DatumGetPointer(literal->constvalue)));
	for (i = 0; i < lengthof(words); i++)
	{
		if (strstr(text, words[i]) != NULL)
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("continuous views do not support the clock in \"%s\"", text),
					 errhint("Compare with the clock in the queries that read the view.")));
	}
}

/* CURRENT_DATE and its family, which the parser does not make functions. */
static void
refuse_sql_value(SQLValueFunction *value)
{
	const char *name = "this function";

	switch (value->op)
	{
		case SVFOP_CURRENT_DATE:
			name = "CURRENT_DATE";
			break;
		case SVFOP_CURRENT_TIME:
		case SVFOP_CURRENT_TIME_N:
			name = "CURRENT_TIME";
			break;
		case SVFOP_CURRENT_TIMESTAMP:
		case SVFOP_CURRENT_TIMESTAMP_N:
			name = "CURRENT_TIMESTAMP";
			break;
		case SVFOP_LOCALTIME:
		case SVFOP_LOCALTIME_N:
			name = "LOCALTIME";
			break;
		case SVFOP_LOCALTIMESTAMP:
		case SVFOP_LOCALTIMESTAMP_N:
			name = "LOCALTIMESTAMP";
			break;
		case SVFOP_CURRENT_ROLE:
			name = "CURRENT_ROLE";
			break;
		case SVFOP_CURRENT_USER:
			name = "CURRENT_USER";
			break;
		case SVFOP_USER:
			name = "USER";
			break;
		case SVFOP_SESSION_USER:
			name = "SESSION_USER";
			break;
		case SVFOP_CURRENT_CATALOG:
			name = "CURRENT_CATALOG";
			break;
		case SVFOP_CURRENT_SCHEMA:
			name = "CURRENT_SCHEMA";
			break;
	}
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("continuous views do not support %s", name),
			 errdetail("Its result may differ from one statement to the next."),
			 errhint("Use it in the queries that read the view.")));
}
