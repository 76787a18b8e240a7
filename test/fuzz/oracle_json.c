/*-------------------------------------------------------------------------
 *
 * oracle_json.c
 *	  What Postgres' own JSON parser says about a document.
 *
 * The frontend build of the parser, so that no server is needed.  Shares no
 * code and no header with the scanner that it judges.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres_fe.h"

#include "common/jsonapi.h"
#include "mb/pg_wchar.h"

typedef struct Wanted
{
	JsonLexContext *lex;
	bool		inside;			/* of the member "a" of the document */
	const char *start;
	const char *end;
} Wanted;

static JsonLexContext *
make_lexer(const char *json, int len, bool need_escapes)
{
#ifdef LEXER_IN_PLACE
	return makeJsonLexContextCstringLen(NULL, json, len, PG_UTF8, need_escapes);
#else
	return makeJsonLexContextCstringLen((char *) json, len, PG_UTF8, need_escapes);
#endif
}

#ifdef LEXER_IN_PLACE
typedef JsonParseErrorType Action;
#define ACTION_DONE return JSON_SUCCESS
#else
typedef void Action;
#define ACTION_DONE return
#endif

static Action
field_start(void *state, char *name, bool isnull)
{
	Wanted	   *wanted = state;

	if (wanted->lex->lex_level == 1 && strcmp(name, "a") == 0)
	{
		wanted->inside = true;
		wanted->start = wanted->lex->token_start;
	}
	ACTION_DONE;
}

static Action
field_end(void *state, char *name, bool isnull)
{
	Wanted	   *wanted = state;

	if (wanted->lex->lex_level == 1 && wanted->inside)
	{
		wanted->inside = false;
		wanted->end = wanted->lex->prev_token_terminator;
	}
	ACTION_DONE;
}

/* Is it what json_in takes from a UTF-8 client, and an object? */
bool
oracle_accepts(const char *json, int len)
{
	const char *p = json;

	if (memchr(json, '\0', len) != NULL ||
		pg_encoding_verifymbstr(PG_UTF8, json, len) != len)
		return false;
	if (pg_parse_json(make_lexer(json, len, false), &nullSemAction) != JSON_SUCCESS)
		return false;
	while (strchr(" \t\r\n", *p) != NULL)
		p++;
	return *p == '{';
}

/*
 * The last member "a" of an accepted document.  False if the document has a
 * \u escape that is no text, which this parser refuses when it looks at names.
 */
bool
oracle_member(const char *json, int len, const char **start, const char **end)
{
	Wanted		wanted = {0};
	JsonSemAction actions = {0};

	wanted.lex = make_lexer(json, len, true);
	actions.semstate = &wanted;
	actions.object_field_start = field_start;
	actions.object_field_end = field_end;
	if (pg_parse_json(wanted.lex, &actions) != JSON_SUCCESS)
		return false;
	*start = wanted.start;
	*end = wanted.end;
	return true;
}
