/*-------------------------------------------------------------------------
 *
 * foreign_options.c
 *	  Looks up an option by its name.
 *
 * Receives the options of a foreign server, table, column or user mapping as the
 * catalog has them.  What they mean, and that they make sense, is the business of
 * those who ask.
 *
 *-------------------------------------------------------------------------
 */
#include "weir.h"

#include "commands/defrem.h"

char *
weir_foreign_option(List *options, const char *name)
{
	ListCell   *lc;

	foreach(lc, options)
	{
		DefElem    *def = lfirst_node(DefElem, lc);

		if (strcmp(def->defname, name) == 0)
			return defGetString(def);
	}
	return NULL;
}
