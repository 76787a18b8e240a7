#include "window/window.h"
bool
weir_is_tumble(Oid funcid)
{
	return false;
}
