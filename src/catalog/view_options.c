/*-------------------------------------------------------------------------
 *
 * view_options.c
 *	  The options of a continuous view: WITH (weir.x = ...).
 *
 * Receives the DefElems of a statement, says what is wrong with them, and
 * turns them into the text[] of weir_data.views: 'name=value' as given.  The
 * worker gets them back as a WeirViewOptions with the defaults filled in.
 *
 * An option that means nothing yet is refused, with one exception: a value
 * that says exactly what happens anyway (weir.retention = 'off') is true and
 * so accepted.  No option is ever taken and ignored; a view that somebody
 * believes to close its windows and that does not is worse than an error.
 *
 * What is about event time has its row in the list here, and its values in
 * event_options.c; so has `start`, in start_option.c.
 *
 *-------------------------------------------------------------------------
 */
#include "catalog/view_ddl.h"

#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "common/string.h"
#include "lib/stringinfo.h"
#include "nodes/makefuncs.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/timestamp.h"
#include "utils/varlena.h"

#define DEFAULT_COMMIT_INTERVAL	(200 * INT64CONST(1000))

/*
 * Below 10 ms the commit itself costs more than the rows in it; beyond an hour
 * everything since would be read again after a crash.
 */
#define MIN_COMMIT_INTERVAL		(10 * INT64CONST(1000))
#define MAX_COMMIT_INTERVAL		(3600 * INT64CONST(1000000))

typedef struct OptionKind
{
	const char *name;
	void		(*check) (const char *name, const char *value); /* raises; NULL: see
																 * only */
	const char *only;			/* the one value that is true today */
	bool		fixed;			/* cannot be changed later */
	const char *bare;			/* what the option means without a value */
} OptionKind;

static void check_continuous(const char *name, const char *value);
static void check_commit_interval(const char *name, const char *value);
static void check_on_error(const char *name, const char *value);
static void check_append_only(const char *name, const char *value);
static const char *option_value(DefElem *option);

static const OptionKind kinds[] = {
	{"continuous", check_continuous, NULL, true, "true"},
	{"commit_interval", check_commit_interval, NULL, false, NULL},
	{"on_error", check_on_error, NULL, false, NULL},
	{"start", weir_start_check, NULL, true, NULL},
	{"watermark", weir_event_option_check, NULL, false, NULL},
	{"idle_timeout", weir_event_option_check, NULL, false, NULL},
	{"max_future_skew", weir_event_option_check, NULL, false, NULL},
	{"late", weir_event_option_check, NULL, false, NULL},
	{"allowed_lateness", weir_event_option_check, NULL, false, NULL},
	{"emit", weir_event_option_check, NULL, true, NULL},
	{"publish_interval", weir_event_option_check, NULL, false, NULL},
	{"changelog", weir_event_option_check, NULL, true, NULL},
	{"changelog_retention", weir_event_option_check, NULL, false, NULL},
	{"retention", NULL, "off", false, NULL},
	{"append_only", check_append_only, NULL, true, "error"},
};

/*--------------------------------------------------------------------------
 * Values
 *--------------------------------------------------------------------------
 */

void
weir_option_bad_value(const char *name, const char *value, const char *detail,
					  const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid value for weir.%s: \"%s\"", name, value),
			 detail ? errdetail("%s", detail) : 0,
			 errhint("%s", hint)));
}

/*
 * Runs a core type's input function and raises its complaint as ours, with the
 * option's name.  Nothing has been done that would need a subtransaction to
 * undo, and the error goes on.
 */
Datum
weir_option_input(PGFunction input, const char *name, const char *value,
				  const char *hint)
{
	MemoryContext context = CurrentMemoryContext;
	Datum		result = (Datum) 0;

	PG_TRY();
	{
		result = DirectFunctionCall3(input, CStringGetDatum(value),
									 ObjectIdGetDatum(InvalidOid),
									 Int32GetDatum(-1));
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		weir_option_bad_value(name, value, error->message, hint);
	}
	PG_END_TRY();
	return result;
}

static void
check_continuous(const char *name, const char *value)
{
	bool		on;

	if (!parse_bool(value, &on))
		weir_option_bad_value("continuous", value, NULL, "Use weir.continuous alone.");
	if (!on)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("weir.continuous must be on"),
				 errhint("For an ordinary table leave all weir options out.")));
}

/* Microseconds. */
static int64
parse_commit_interval(const char *value)
{
	static const char hint[] = "Use an interval from 10 ms to 1 hour, with its unit, such as '200 ms'.";
	Interval   *interval;
	int64		result;

	/* Postgres would read a bare 200 as seconds; who writes it means ms */
	if (value[0] != '\0' && strspn(value, "+-.0123456789 ") == strlen(value))
		weir_option_bad_value("commit_interval", value, "The value has no unit.", hint);
	interval = DatumGetIntervalP(weir_option_input(interval_in, "commit_interval",
												   value, hint));
	if (interval->month != 0 || interval->day != 0)
		weir_option_bad_value("commit_interval", value, NULL, hint);
	result = interval->time;
	if (result < MIN_COMMIT_INTERVAL || result > MAX_COMMIT_INTERVAL)
		weir_option_bad_value("commit_interval", value, NULL, hint);
	return result;
}

static void
check_commit_interval(const char *name, const char *value)
{
	(void) parse_commit_interval(value);
}

static WeirOnError
parse_on_error(const char *value)
{
	if (strcmp(value, "dead_letter") == 0)
		return WEIR_ON_ERROR_DEAD_LETTER;
	if (strcmp(value, "stop") != 0)
		weir_option_bad_value("on_error", value, NULL, "Use 'dead_letter' or 'stop'.");
	return WEIR_ON_ERROR_STOP;
}

static void
check_on_error(const char *name, const char *value)
{
	(void) parse_on_error(value);
}

static WeirAppendOnly
parse_append_only(const char *value)
{
	if (strcmp(value, "off") == 0)
		return WEIR_APPEND_ONLY_OFF;
	if (strcmp(value, "ignore") == 0)
		return WEIR_APPEND_ONLY_IGNORE;
	if (strcmp(value, "error") != 0)
		weir_option_bad_value("append_only", value, NULL,
							  "Use 'error' (an update or delete stalls the view), 'ignore' (the view keeps what was inserted) or 'off'.");
	return WEIR_APPEND_ONLY_ERROR;
}

static void
check_append_only(const char *name, const char *value)
{
	(void) parse_append_only(value);
}

/*--------------------------------------------------------------------------
 * Names
 *--------------------------------------------------------------------------
 */

/* All names, for a hint. */
static char *
all_names(void)
{
	StringInfoData names;

	initStringInfo(&names);
	for (int i = 0; i < lengthof(kinds); i++)
		appendStringInfo(&names, "%sweir.%s",
						 i == 0 ? "" : i == lengthof(kinds) - 1 ? " and " : ", ",
						 kinds[i].name);
	return names.data;
}

/* Raises 22023 with the nearest name that there is. */
static const OptionKind *
find_kind(const char *name)
{
	const char *nearest = NULL;
	int			best = 4;		/* further away is another word */

	for (int i = 0; i < lengthof(kinds); i++)
	{
		int			distance;

		if (strcmp(kinds[i].name, name) == 0)
			return &kinds[i];
		if (strlen(name) > 64)
			continue;
		distance = varstr_levenshtein(name, strlen(name), kinds[i].name,
									  strlen(kinds[i].name), 1, 1, 1, true);
		if (distance < best)
		{
			best = distance;
			nearest = kinds[i].name;
		}
	}
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("unrecognized option \"weir.%s\"", name),
			 nearest ? errhint("Perhaps you meant \"weir.%s\".", nearest) :
			 errhint("There are %s.", all_names())));
}

static const char *
option_value(DefElem *option)
{
	return option->arg == NULL ? find_kind(option->defname)->bare :
		defGetString(option);
}

const char *
weir_option_given(List *options, const char *name)
{
	ListCell   *lc;

	foreach(lc, options)
	{
		DefElem    *option = lfirst_node(DefElem, lc);

		if (option->defnamespace != NULL &&
			strcmp(option->defnamespace, WEIR_NAMESPACE) == 0 &&
			strcmp(option->defname, name) == 0)
			return option_value(option);
	}
	return NULL;
}

static void
check_option(DefElem *option)
{
	const OptionKind *kind = find_kind(option->defname);
	const char *value;

	/* two may stand alone; any other option says something */
	if (option->arg == NULL && kind->bare == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("weir.%s needs a value", option->defname),
				 errhint("Write weir.%s = '...'.", option->defname)));
	value = option_value(option);

	if (kind->check != NULL)
		kind->check(kind->name, value);
	else if (kind->only == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("weir.%s = '%s' is not supported yet",
						kind->name, value),
				 errhint("Leave the option out.")));
	else if (strcmp(kind->only, value) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("weir.%s = '%s' is not supported yet",
						kind->name, value),
				 errhint("Leave the option out, or say weir.%s = '%s', which is what happens now.",
						 kind->name, kind->only)));
}

static void
check_no_duplicates(List *options)
{
	ListCell   *a;

	foreach(a, options)
	{
		for (int b = 0; b < foreach_current_index(a); b++)
			if (strcmp(lfirst_node(DefElem, a)->defname,
					   list_nth_node(DefElem, options, b)->defname) == 0)
				ereport(ERROR,
						(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						 errmsg("weir.%s is given more than once",
								lfirst_node(DefElem, a)->defname),
						 errhint("Give each option once.")));
	}
}

void
weir_options_check_create(List *options)
{
	ListCell   *lc;
	bool		continuous = false;

	options = weir_options_ours(options);
	foreach(lc, options)
	{
		DefElem    *option = lfirst_node(DefElem, lc);

		check_option(option);
		if (strcmp(option->defname, "continuous") == 0)
			continuous = true;
	}
	check_no_duplicates(options);
	if (!continuous)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("weir options need weir.continuous"),
				 errhint("Write WITH (weir.continuous, weir.%s = ...).",
						 linitial_node(DefElem, options)->defname)));
}

/* What a view is over, or that it is one, does not change. */
weir_noreturn static void
refuse_change(const OptionKind *kind)
{
	const char *detail = "A continuous view stays one.";
	const char *hint = "Use DROP TABLE, or weir.pause().";

	if (kind->check == weir_start_check)
	{
		detail = "The first offsets of a view are settled when it is created.";
		hint = "Create another view with the other start.";
	}
	else if (kind->check == check_append_only)
	{
		detail = "It says which rows the view is over: those that the table holds, or all that were ever inserted.";
		hint = "Drop the view and create it again with the other value.";
	}
	else if (kind->check == weir_event_option_check)
	{
		detail = "Rows that were shown or recorded by then would mean something else.";
		hint = "Drop the view and create it again with the other value.";
	}
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("weir.%s cannot be changed", kind->name),
			 errdetail("%s", detail),
			 errhint("%s", hint)));
}

void
weir_options_check_alter(List *options, bool is_reset)
{
	ListCell   *lc;

	options = weir_options_ours(options);
	foreach(lc, options)
	{
		DefElem    *option = lfirst_node(DefElem, lc);
		const OptionKind *kind = find_kind(option->defname);

		if (kind->fixed)
			refuse_change(kind);
		if (!is_reset)
			check_option(option);
		else if (option->arg != NULL)
			ereport(ERROR,
					(errcode(ERRCODE_SYNTAX_ERROR),
					 errmsg("RESET must not include values for parameters"),
					 errhint("Write RESET (weir.%s).", kind->name)));
	}
	check_no_duplicates(options);
}

WeirAppendOnly
weir_options_check_source(List *options, WeirSourceKind kind)
{
	const char *start = weir_option_given(options, "start");
	const char *append_only = weir_option_given(options, "append_only");

	if (append_only != NULL && kind != WEIR_SOURCE_TABLE &&
		parse_append_only(append_only) != WEIR_APPEND_ONLY_OFF)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("weir.append_only is for views over tables"),
				 errdetail("Messages and pushed rows are never updated or deleted."),
				 errhint("Leave the option out.")));
	if (start != NULL && kind == WEIR_SOURCE_TABLE &&
		strcmp(start, "earliest") != 0)
		weir_option_bad_value("start", start, "A view over a table begins with the rows that the table holds.",
							  "Leave the option out; WHERE leaves older rows out.");
	if (start != NULL && kind == WEIR_SOURCE_STREAM &&
		strcmp(start, "latest") != 0)
		weir_option_bad_value("start", start, "A push stream stores no rows: a view holds what is inserted after CREATE.",
							  "Leave the option out, or say weir.start = 'latest'.");
	return append_only == NULL ? WEIR_APPEND_ONLY_OFF :
		parse_append_only(append_only);
}

/*--------------------------------------------------------------------------
 * Lists and arrays
 *--------------------------------------------------------------------------
 */

static List *
options_of(List *options, bool ours)
{
	List	   *result = NIL;
	ListCell   *lc;

	foreach(lc, options)
	{
		DefElem    *option = lfirst_node(DefElem, lc);

		if (ours == (option->defnamespace != NULL &&
					 strcmp(option->defnamespace, WEIR_NAMESPACE) == 0))
			result = lappend(result, option);
	}
	return result;
}

List *
weir_options_ours(List *options)
{
	return options_of(options, true);
}

List *
weir_options_without_ours(List *options)
{
	return options_of(options, false);
}

/* 'name=value' entries as Strings, to text[]. */
static Datum
array_of_strings(List *strings)
{
	Datum	   *elements = palloc((list_length(strings) + 1) * sizeof(Datum));
	int			n = 0;
	ListCell   *lc;

	foreach(lc, strings)
		elements[n++] = CStringGetTextDatum(strVal(lfirst(lc)));
	return PointerGetDatum(construct_array(elements, n, TEXTOID, -1, false,
										   TYPALIGN_INT));
}

/* continuous is not stored: a row of weir_data.views says as much. */
static List *
append_options(List *strings, List *options)
{
	ListCell   *lc;

	foreach(lc, weir_options_ours(options))
	{
		DefElem    *option = lfirst_node(DefElem, lc);

		if (strcmp(option->defname, "continuous") != 0)
			strings = lappend(strings,
							  makeString(psprintf("%s=%s", option->defname,
												  option_value(option))));
	}
	return strings;
}

Datum
weir_options_to_array(List *options)
{
	return array_of_strings(append_options(NIL, options));
}

/* The text behind 'name=', or NULL if the entry is of another option. */
static const char *
entry_value(const char *entry, const char *name)
{
	size_t		len = strlen(name);

	if (strncmp(entry, name, len) == 0 && entry[len] == '=')
		return entry + len + 1;
	return NULL;
}

List *
weir_options_stored(Datum stored)
{
	List	   *result = NIL;
	Datum	   *elements;
	int			n;

	deconstruct_array(DatumGetArrayTypeP(stored), TEXTOID, -1, false,
					  TYPALIGN_INT, &elements, NULL, &n);
	for (int i = 0; i < n; i++)
		result = lappend(result, makeString(TextDatumGetCString(elements[i])));
	return result;
}

const char *
weir_option_stored(List *stored, const char *name)
{
	ListCell   *lc;

	foreach(lc, stored)
	{
		const char *value = entry_value(strVal(lfirst(lc)), name);

		if (value != NULL)
			return value;
	}
	return NULL;
}

Datum
weir_options_merge(Datum stored, List *options, bool is_reset)
{
	List	   *kept = NIL;
	ListCell   *entry;

	options = weir_options_ours(options);
	foreach(entry, weir_options_stored(stored))
	{
		bool		replaced = false;
		ListCell   *lc;

		foreach(lc, options)
			if (entry_value(strVal(lfirst(entry)),
							lfirst_node(DefElem, lc)->defname) != NULL)
			replaced = true;
		if (!replaced)
			kept = lappend(kept, lfirst(entry));
	}
	return array_of_strings(is_reset ? kept : append_options(kept, options));
}

WeirViewOptions
weir_options_read(Datum stored, WeirSourceKind kind, bool windowed)
{
	WeirViewOptions result = {
		.commit_interval = DEFAULT_COMMIT_INTERVAL,
		.append_only = WEIR_APPEND_ONLY_OFF
	};
	List	   *given = weir_options_stored(stored);
	const char *value;

	if ((value = weir_option_stored(given, "commit_interval")) != NULL)
		result.commit_interval = parse_commit_interval(value);
	if ((value = weir_option_stored(given, "append_only")) != NULL)
		result.append_only = parse_append_only(value);

	/* a row that was left out could not be taken back when it is deleted */
	if ((value = weir_option_stored(given, "on_error")) != NULL)
		result.on_error = parse_on_error(value);
	else
		result.on_error = kind == WEIR_SOURCE_TABLE &&
			result.append_only == WEIR_APPEND_ONLY_OFF ?
			WEIR_ON_ERROR_STOP : WEIR_ON_ERROR_DEAD_LETTER;
	weir_event_options_read(given, kind, windowed, &result);
	return result;
}
