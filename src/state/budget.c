/*-------------------------------------------------------------------------
 *
 * budget.c
 *	  weir.state_memory: one budget over the states of all views.
 *
 * Runs in workers.  The counter is in the static shared memory that
 * runtime/weir_shmem.c lays out; what a process took is given back when it
 * exits, by whatever way, short of a crash that resets shared memory anyhow.
 *
 * The server may have less dynamic shared memory than the budget says: a /dev/shm
 * of 64 MB, as containers have.  Where it ended is remembered for a minute as if it
 * were the budget, so that views evict groups instead of running into it again.
 *
 *-------------------------------------------------------------------------
 */
#include "state/state.h"

#include "runtime/shared.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#define REMEMBERED (60 * USECS_PER_SEC)

/* Of the budget, what a commit may need beyond what batches took: a sixteenth. */
#define RESERVE 16

static Size taken = 0;			/* by this process */
static dsa_area *area = NULL;
static Size end_of_memory = 0;	/* all processes had taken so much when it ended */
static TimestampTz ended_at = 0;
static TimestampTz refused_at = 0;

static void
give_all_back(int code, Datum arg)
{
	pg_atomic_fetch_sub_u64(&weir_shared->state_bytes, taken);
	taken = 0;
}

Size
weir_budget_limit(void)
{
	Size		limit = (Size) weir_state_memory_kb * 1024;

	if (end_of_memory != 0 && GetCurrentTimestamp() - ended_at > REMEMBERED)
		end_of_memory = 0;
	return end_of_memory != 0 ? Min(limit, end_of_memory) : limit;
}

bool
weir_budget_was_refused(void)
{
	if (refused_at != 0 && GetCurrentTimestamp() - refused_at > REMEMBERED)
		refused_at = 0;
	return refused_at != 0;
}

Size
weir_budget_reserve(void)
{
	return weir_budget_limit() / (weir_budget_was_refused() ? 2 : RESERVE);
}

Size
weir_budget_taken(void)
{
	return pg_atomic_read_u64(&weir_shared->state_bytes);
}

Size
weir_budget_mine(void)
{
	return taken;
}

void
weir_budget_take(Size bytes)
{
	uint64		limit = (uint64) weir_state_memory_kb * 1024;
	uint64		before;
	static bool registered = false;

	if (!registered)
	{
		before_shmem_exit(give_all_back, (Datum) 0);
		registered = true;
	}
	before = pg_atomic_read_u64(&weir_shared->state_bytes);
	/* added first and taken back, it would be refused to others meanwhile */
	while (before + bytes <= limit)
		if (pg_atomic_compare_exchange_u64(&weir_shared->state_bytes, &before,
										   before + bytes))
			break;
	if (before + bytes > limit)
	{
		refused_at = GetCurrentTimestamp();
		weir_want_memory();
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("the states of all views exceed weir.state_memory"),
				 errdetail("%d kB of %d kB are in use.",
						   (int) (before / 1024), weir_state_memory_kb),
				 errhint("Raise weir.state_memory, or let transactions and open windows of several panes have fewer groups.")));
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

static const char end_of_memory_hint[] =
"Give the server more /dev/shm, or lower weir.state_memory; the view goes on by itself.";

dsa_area *
weir_state_area(void)
{
	MemoryContext caller = CurrentMemoryContext;

	if (area != NULL)
		return area;
	PG_TRY();
	{
		MemoryContextSwitchTo(TopMemoryContext);
		area = dsa_create(weir_shared->tranche);
		dsa_pin_mapping(area);
		MemoryContextSwitchTo(caller);
	}
	PG_CATCH();
	{
		errhint("%s", end_of_memory_hint);
		PG_RE_THROW();
	}
	PG_END_TRY();
	return area;
}

static void
remember_end(void)
{
	end_of_memory = Max(weir_budget_taken(), 64 * 1024);
	ended_at = refused_at = GetCurrentTimestamp();
	weir_want_memory();
}

dsa_pointer
weir_state_allocate(Size bytes)
{
	volatile dsa_pointer pointer = InvalidDsaPointer;

	weir_budget_take(bytes);
	PG_TRY();
	{
		pointer = dsa_allocate_extended(weir_state_area(), bytes,
										DSA_ALLOC_HUGE | DSA_ALLOC_NO_OOM);
	}
	PG_CATCH();
	{
		/*
		 * The operating system has none, or core has no more segments.  The area is
		 * still locked, and whoever closes a view before the abort gives back to it.
		 */
		LWLockReleaseAll();
		weir_budget_give(bytes);
		remember_end();
		errhint("%s", end_of_memory_hint);
		PG_RE_THROW();
	}
	PG_END_TRY();
	if (!DsaPointerIsValid(pointer))
	{
		weir_budget_give(bytes);
		remember_end();
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("out of dynamic shared memory"),
				 errhint("%s", end_of_memory_hint)));
	}
	return pointer;
}

void
weir_state_free(dsa_pointer pointer, Size bytes)
{
	dsa_free(weir_state_area(), pointer);
	weir_budget_give(bytes);
}

dsa_pointer
weir_state_allocate_smaller(Size bytes)
{
	volatile dsa_pointer pointer = InvalidDsaPointer;
	MemoryContext caller = CurrentMemoryContext;

	PG_TRY();
	{
		pointer = dsa_allocate_extended(weir_state_area(), bytes,
										DSA_ALLOC_HUGE | DSA_ALLOC_NO_OOM);
	}
	PG_CATCH();
	{
		/* then the larger one stays; core has left the area locked */
		MemoryContextSwitchTo(caller);
		LWLockReleaseAll();
		FlushErrorState();
	}
	PG_END_TRY();
	return pointer;
}

void
weir_state_free_larger(dsa_pointer pointer, Size bytes, Size smaller)
{
	Assert(smaller <= bytes);
	dsa_free(weir_state_area(), pointer);
	weir_budget_give(bytes - smaller);
}
