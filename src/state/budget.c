/*-------------------------------------------------------------------------
 *
 * budget.c
 *	  weir.state_memory: one budget over the states of all views.
 *
 * Runs in workers.  The counter is in the static shared memory that
 * runtime/weir_shmem.c lays out; what a process took is given back when it
 * exits, by whatever way, short of a crash that resets shared memory anyhow.
 *
 *-------------------------------------------------------------------------
 */
#include "state/state.h"

#include "runtime/shared.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "utils/memutils.h"

static Size taken = 0;			/* by this process */
static dsa_area *area = NULL;

static void
give_all_back(int code, Datum arg)
{
	weir_budget_give(taken);
}

void
weir_budget_take(Size bytes)
{
	uint64		limit = (uint64) weir_state_memory_mb * 1024 * 1024;
	uint64		before;
	static bool registered = false;

	if (!registered)
	{
		before_shmem_exit(give_all_back, (Datum) 0);
		registered = true;
	}
	before = pg_atomic_fetch_add_u64(&weir_shared->state_bytes, bytes);
	if (before + bytes > limit)
	{
		pg_atomic_fetch_sub_u64(&weir_shared->state_bytes, bytes);
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("the states of all views exceed weir.state_memory"),
				 errdetail("%d kB of %d kB are in use.",
						   (int) (before / 1024), weir_state_memory_mb * 1024),
				 errhint("Raise weir.state_memory, or make views with fewer groups.")));
	}
	taken += bytes;
}

void
weir_budget_give(Size bytes)
{
	Assert(bytes <= taken);
	pg_atomic_fetch_sub_u64(&weir_shared->state_bytes, bytes);
	taken -= bytes;
}

dsa_area *
weir_state_area(void)
{
	if (area == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

		area = dsa_create(weir_shared->tranche);
		dsa_pin_mapping(area);
		MemoryContextSwitchTo(old);
	}
	return area;
}
