/*-------------------------------------------------------------------------
 *
 * event_options.c
 *	  The options of a view that are about event time: when windows close, what
 *	  becomes of late rows, what is shown, what the changelog has.
 *
 * view_options.c knows their names and stores them; this file reads their
 * values, fills in the defaults, and says which do not fit together.  Defaults
 * depend on the view:
 *
 *	 a window that is a column of v, over a topic or push stream
 *						watermark '5 seconds', changelog 'final'
 *	 the same over a table
 *						no watermark, no changelog: rows of a table may be of
 *						any time
 *	 no such window		neither: there is nothing to close
 *
 * An option that would have no effect is refused, and so is a change that would
 * make one so: who gives weir.late = 'drop' to a view whose windows never close
 * believes something that is not true.
 *
 * Whether there is a changelog is settled by CREATE and read from the catalog
 * afterwards, not from the options: its default follows that of the watermark,
 * which can be given to a view later.
 *
 *-------------------------------------------------------------------------
 */
#include "catalog/view_ddl.h"

#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/timestamp.h"

#define DEFAULT_WATERMARK		(5 * USECS_PER_SEC)
#define DEFAULT_IDLE_TIMEOUT	(30 * USECS_PER_SEC)
#define DEFAULT_FUTURE_SKEW		(5 * USECS_PER_MINUTE)
#define DEFAULT_LATENESS		USECS_PER_DAY
#define DEFAULT_RETENTION		USECS_PER_DAY

/* Ten years: more is a mistake, and added to any timestamp might overflow. */
#define MAX_DURATION			(3650 * USECS_PER_DAY)

/* What a clock tells apart; publishing more often costs more than the rows. */
#define MIN_DURATION			(10 * INT64CONST(1000))

typedef struct EventOption
{
	const char *name;
	void		(*read) (const char *name, const char *value,
						 WeirViewOptions *options);
} EventOption;

/* One name of a value, and what it stands for. */
typedef struct Word
{
	const char *word;
	int			value;
} Word;

/*--------------------------------------------------------------------------
 * Values
 *--------------------------------------------------------------------------
 */

/*
 * An interval in microseconds.  A day has 24 hours here; months have no length.
 */
static int64
read_duration(const char *name, const char *value, int64 least,
			  const char *hint)
{
	Interval   *interval;
	int64		result;

	/* Postgres would read a bare 5 as seconds; who writes it may mean minutes */
	if (value[0] != '\0' && strspn(value, "+-.0123456789 ") == strlen(value))
		weir_option_bad_value(name, value, "The value has no unit.", hint);
	interval = DatumGetIntervalP(weir_option_input(interval_in, name, value,
												   hint));
	if (interval->month != 0)
		weir_option_bad_value(name, value, "Months differ in length.", hint);
	if (interval->day > MAX_DURATION / USECS_PER_DAY ||
		interval->day < -MAX_DURATION / USECS_PER_DAY ||
		interval->time > MAX_DURATION || interval->time < -MAX_DURATION)
		weir_option_bad_value(name, value, "The most is 3650 days.", hint);
	result = interval->day * USECS_PER_DAY + interval->time;
	if (result < 0)
		weir_option_bad_value(name, value, "The value is negative.", hint);
	if (result < least)
		weir_option_bad_value(name, value, "The least is 10 milliseconds.", hint);
	if (result > MAX_DURATION)
		weir_option_bad_value(name, value, "The most is 3650 days.", hint);
	return result;
}

static int
read_word(const char *name, const char *value, const Word *words, int n,
		  const char *hint)
{
	for (int i = 0; i < n; i++)
		if (strcmp(words[i].word, value) == 0)
			return words[i].value;
	weir_option_bad_value(name, value, NULL, hint);
}

/* p99, p99.9: the share of rows that shall be on time; 0 if it is no such value. */
static double
read_share(const char *value)
{
	size_t		digits;
	size_t		decimals = 0;

	if (value[0] != 'p')
		return 0;
	digits = strspn(value + 1, "0123456789");
	if (digits != 2)
		return 0;
	if (value[1 + digits] == '.')
	{
		decimals = strspn(value + digits + 2, "0123456789");
		if (decimals == 0 || decimals > 6)
			return 0;
		decimals++;
	}
	if (value[1 + digits + decimals] != '\0' || value[1] < '5')
		return 0;
	return strtod(value + 1, NULL) / 100;
}

/* p0, p100, and P99, which Postgres takes for 99 years. */
static bool
is_bad_share(const char *value)
{
	return (value[0] == 'p' || value[0] == 'P') && value[1] != '\0' &&
		strspn(value + 1, "0123456789.") == strlen(value + 1);
}

static void
read_watermark(const char *name, const char *value, WeirViewOptions *options)
{
	WeirWatermarkRule *rule = &options->watermark;

	rule->delay = 0;
	if (strcmp(value, "none") == 0)
		rule->kind = WEIR_WATERMARK_NONE;
	else if (strcmp(value, "ascending") == 0)
		rule->kind = WEIR_WATERMARK_BOUNDED;
	else if ((rule->share = read_share(value)) > 0)
		rule->kind = WEIR_WATERMARK_PERCENTILE;
	else
	{
		const char *hint = "Use how late rows may come, such as '5 seconds'; 'ascending' if none is late; 'p50' to 'p99.999999' for the share of rows that shall be on time; or 'none': windows never close.";

		if (is_bad_share(value))
			weir_option_bad_value(name, value,
								  "A share is a small p and a number from 50 to 99.999999.",
								  hint);
		rule->delay = read_duration(name, value, 0, hint);
		rule->kind = WEIR_WATERMARK_BOUNDED;
	}
}

static void
read_idle_timeout(const char *name, const char *value,
				  WeirViewOptions *options)
{
	options->watermark.idle_timeout = strcmp(value, "off") == 0 ? -1 :
		read_duration(name, value, MIN_DURATION,
					  "Use an interval with its unit, such as '30 seconds', or 'off': a silent partition holds the watermark back for ever.");
}

static void
read_max_future_skew(const char *name, const char *value,
					 WeirViewOptions *options)
{
	options->watermark.max_future_skew =
		read_duration(name, value, 0,
					  "Use an interval with its unit, such as '5 minutes': rows further ahead of the clock do not advance the watermark.");
}

static void
read_late(const char *name, const char *value, WeirViewOptions *options)
{
	static const Word words[] = {
		{"retract", WEIR_LATE_RETRACT},
		{"side_output", WEIR_LATE_SIDE_OUTPUT},
		{"drop", WEIR_LATE_DROP}
	};

	options->late = read_word(name, value, words, lengthof(words),
							  "Use 'retract' (the closed window is revised), 'side_output' (the row goes to weir.late_rows) or 'drop' (it is counted).");
}

static void
read_allowed_lateness(const char *name, const char *value,
					  WeirViewOptions *options)
{
	options->allowed_lateness =
		read_duration(name, value, 0,
					  "Use an interval with its unit, such as '1 day': so long after it closed a window can be revised.");
}

static void
read_emit(const char *name, const char *value, WeirViewOptions *options)
{
	static const Word words[] = {
		{"changes", WEIR_EMIT_CHANGES},
		{"final", WEIR_EMIT_FINAL}
	};

	options->emit = read_word(name, value, words, lengthof(words),
							  "Use 'changes' (the view shows open windows, too) or 'final' (closed windows only).");
}

static void
read_publish_interval(const char *name, const char *value,
					  WeirViewOptions *options)
{
	options->publish_interval =
		read_duration(name, value, MIN_DURATION,
					  "Use an interval with its unit, such as '1 second'.");
}

static void
read_changelog(const char *name, const char *value, WeirViewOptions *options)
{
	static const Word words[] = {
		{"off", WEIR_CHANGELOG_OFF},
		{"final", WEIR_CHANGELOG_FINAL},
		{"all", WEIR_CHANGELOG_ALL}
	};

	options->changelog = read_word(name, value, words, lengthof(words),
								   "Use 'final' (rows of windows that have closed, and their corrections), 'all' (every change of the view) or 'off'.");
}

static void
read_changelog_retention(const char *name, const char *value,
						 WeirViewOptions *options)
{
	options->changelog_retention = strcmp(value, "off") == 0 ? -1 :
		read_duration(name, value, MIN_DURATION,
					  "Use an interval with its unit, such as '1 day', or 'off': rows of the changelog are never deleted.");
}

static const EventOption event_options[] = {
	{"watermark", read_watermark},
	{"idle_timeout", read_idle_timeout},
	{"max_future_skew", read_max_future_skew},
	{"late", read_late},
	{"allowed_lateness", read_allowed_lateness},
	{"emit", read_emit},
	{"publish_interval", read_publish_interval},
	{"changelog", read_changelog},
	{"changelog_retention", read_changelog_retention},
};

void
weir_event_option_check(const char *name, const char *value)
{
	WeirViewOptions scratch;

	for (int i = 0; i < lengthof(event_options); i++)
		if (strcmp(event_options[i].name, name) == 0)
			event_options[i].read(name, value, &scratch);
}

void
weir_event_options_read(List *stored, WeirSourceKind kind, bool windowed,
						WeirViewOptions *result)
{
	result->watermark.kind = windowed && kind != WEIR_SOURCE_TABLE ?
		WEIR_WATERMARK_BOUNDED : WEIR_WATERMARK_NONE;
	result->watermark.delay = DEFAULT_WATERMARK;
	result->watermark.share = 0;
	result->watermark.idle_timeout = DEFAULT_IDLE_TIMEOUT;
	result->watermark.max_future_skew = DEFAULT_FUTURE_SKEW;
	result->late = WEIR_LATE_RETRACT;
	result->allowed_lateness = DEFAULT_LATENESS;
	result->emit = WEIR_EMIT_CHANGES;
	result->publish_interval = -1;
	result->changelog_retention = DEFAULT_RETENTION;

	for (int i = 0; i < lengthof(event_options); i++)
	{
		const char *name = event_options[i].name;
		const char *value = weir_option_stored(stored, name);

		/* the default of the changelog is known after the watermark only */
		if (strcmp(name, "changelog") == 0)
			result->changelog =
				result->watermark.kind == WEIR_WATERMARK_NONE ?
				WEIR_CHANGELOG_OFF : WEIR_CHANGELOG_FINAL;
		if (value != NULL)
			event_options[i].read(name, value, result);
	}
	if (result->late != WEIR_LATE_RETRACT)
		result->allowed_lateness = 0;
}

/*--------------------------------------------------------------------------
 * What fits together
 *--------------------------------------------------------------------------
 */

static bool
is_given(List *stored, const char *name, const char *unless)
{
	const char *value = weir_option_stored(stored, name);

	return value != NULL && (unless == NULL || strcmp(value, unless) != 0);
}

/* Why do the windows of a view not close? */
static const char *
why_open(WeirWindowKind window_kind, bool windowed)
{
	if (windowed)
		return "The windows of the view never close.";
	if (window_kind != WEIR_NO_WINDOW)
		return "The window is no column of the view, so nobody could tell which of its rows are closed.";
	return "The view has no window that could close.";
}

static void
refuse_without_watermark(const char *option, WeirWindowKind window_kind,
						 bool windowed)
{
	const char *hint = "Leave the option out, or group by a window of time.";

	if (windowed)
		hint = "Say when windows close, as in weir.watermark = '5 seconds', or leave the option out.";
	else if (window_kind != WEIR_NO_WINDOW)
		hint = "Leave the option out, or add the window itself to the select list.";
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("weir.%s needs a watermark", option),
			 errdetail("%s", why_open(window_kind, windowed)),
			 errhint("%s", hint)));
}

static void
check_without_watermark(List *stored, const WeirViewOptions *options,
						WeirWindowKind window_kind, bool windowed)
{
	static const char *const names[] = {
		"max_future_skew", "late", "allowed_lateness"
	};

	for (int i = 0; i < lengthof(names); i++)
		if (is_given(stored, names[i], NULL))
			refuse_without_watermark(names[i], window_kind, windowed);
	if (is_given(stored, "idle_timeout", "off"))
		refuse_without_watermark("idle_timeout", window_kind, windowed);
	if (options->emit == WEIR_EMIT_FINAL)
		refuse_without_watermark("emit = 'final'", window_kind, windowed);
	if (options->changelog == WEIR_CHANGELOG_FINAL)
		refuse_without_watermark("changelog = 'final'", window_kind, windowed);
}

void
weir_event_options_check(List *stored, const WeirViewOptions *options,
						 WeirWindowKind window_kind, bool windowed)
{
	if (!windowed && options->watermark.kind != WEIR_WATERMARK_NONE)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("weir.watermark needs a window"),
				 errdetail("%s", why_open(window_kind, windowed)),
				 errhint("Leave the option out, or group by a window of time that is in the select list as it is.")));
	if (options->watermark.kind == WEIR_WATERMARK_NONE)
		check_without_watermark(stored, options, window_kind, windowed);

	/* what others call allowed lateness with a side output is 'retract' here */
	if (is_given(stored, "allowed_lateness", NULL) &&
		options->late != WEIR_LATE_RETRACT)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("weir.allowed_lateness is for weir.late = 'retract'"),
				 errdetail("With 'side_output' and 'drop' no closed window is ever revised."),
				 errhint("Leave weir.allowed_lateness out, or use 'retract', with which rows that are later still go to weir.late_rows.")));
	if (is_given(stored, "publish_interval", NULL) &&
		window_kind != WEIR_HOP && window_kind != WEIR_CUMULATE)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("weir.publish_interval is for weir.hop and weir.cumulate"),
				 errdetail("The rows of other views are published at every commit."),
				 errhint("Use weir.commit_interval.")));
	if (is_given(stored, "publish_interval", NULL) &&
		options->emit == WEIR_EMIT_FINAL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("weir.publish_interval is for weir.emit = 'changes'"),
				 errdetail("It says how often open windows are published; closed ones are at once."),
				 errhint("Leave the option out.")));
	if (is_given(stored, "changelog_retention", "off") &&
		options->changelog == WEIR_CHANGELOG_OFF)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("weir.changelog_retention needs a changelog"),
				 errhint("Create the view with weir.changelog = 'all', or leave the option out.")));
}
