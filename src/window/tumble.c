/*-------------------------------------------------------------------------
 *
 * tumble.c
 *	  weir.tumble: placeholder until the next commit.
 *
 *-------------------------------------------------------------------------
 */
#include "window/window.h"

bool
weir_is_tumble(Oid funcid)
{
	return false;
}

void
weir_tumble_prepare(WeirTumble *tumble, FuncExpr *call)
{
	memset(tumble, 0, sizeof(*tumble));
}
