/*-------------------------------------------------------------------------
 *
 * memcheck.h
 *	  Valgrind's requests, as PostgreSQL's allocator makes them, to ASan.
 *
 * PostgreSQL hands out memory from blocks of its own, so that ASan, which
 * watches malloc, sees a read past the end of a palloc'ed string only where
 * the string is the last of its block.  For Valgrind the allocator tells what
 * is handed out (USE_VALGRIND, utils/memdebug.h).  test/setup/server compiles
 * the server with this file in the place of Valgrind's own; then the same
 * words poison and unpoison for ASan: reads past the end, reads of what was
 * freed or whose context was reset, reads of a page that is not pinned.
 *
 * ASan knows no memory that is accessible and undefined, so that reads of
 * what was never written go unseen here.
 *
 *-------------------------------------------------------------------------
 */
#ifndef WEIR_MEMCHECK_H
#define WEIR_MEMCHECK_H

#include <sanitizer/asan_interface.h>

#define VALGRIND_MAKE_MEM_NOACCESS(addr, size) \
	__asan_poison_memory_region((addr), (size))
#define VALGRIND_MAKE_MEM_UNDEFINED(addr, size) \
	__asan_unpoison_memory_region((addr), (size))
#define VALGRIND_MAKE_MEM_DEFINED(addr, size) \
	__asan_unpoison_memory_region((addr), (size))
#define VALGRIND_CHECK_MEM_IS_DEFINED(addr, size) do {} while (0)

#define VALGRIND_CREATE_MEMPOOL(pool, redzones, zeroed) do {} while (0)
#define VALGRIND_DESTROY_MEMPOOL(pool) do {} while (0)
#define VALGRIND_MEMPOOL_ALLOC(pool, addr, size) \
	__asan_unpoison_memory_region((addr), (size))
/* the allocator has wiped what it takes back, and wiping poisons */
#define VALGRIND_MEMPOOL_FREE(pool, addr) do {} while (0)
#define VALGRIND_MEMPOOL_CHANGE(pool, before, after, size) \
	__asan_unpoison_memory_region((after), (size))

#endif							/* WEIR_MEMCHECK_H */
