/*-------------------------------------------------------------------------
 *
 * watchdog.c
 *	  Cancels an expression that does not come back.
 *
 * statement_timeout does nothing in a background worker.  While user code
 * runs, a timer looks every few seconds whether the row has changed since it
 * last looked; if not, it cancels as pg_cancel_backend would, and the row
 * becomes a dead letter.  So one row has between one and two periods.  Code that
 * catches the cancel twice takes the worker down, and its view stalls.
 *
 *-------------------------------------------------------------------------
 */
#include "runtime/watchdog.h"

#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/timeout.h"

#define PERIOD_MS 5000

volatile uint64 weir_progress = 0;

static TimeoutId timer;
static volatile uint64 seen = 0;
static volatile sig_atomic_t bitten = false;
static volatile sig_atomic_t bites = 0;

Oid			weir_watchdog_view = InvalidOid;
volatile Oid *weir_watchdog_culprit = NULL;

/* In a signal handler. */
static void
look(void)
{
	if (weir_progress != seen)
		bites = 0;
	else if (++bites < 3)
	{
		bitten = true;
		QueryCancelPending = true;
		InterruptPending = true;
	}
	else
	{
		if (weir_watchdog_culprit != NULL)
			*weir_watchdog_culprit = weir_watchdog_view;
		ProcDiePending = true;
		InterruptPending = true;
	}
	seen = weir_progress;
	enable_timeout_after(timer, PERIOD_MS);
}

void
weir_watchdog_install(void)
{
	/* not InitializeTimeouts(): that would forget core's own, of locks */
	timer = RegisterTimeout(USER_TIMEOUT, look);
}

void
weir_watchdog_start(void)
{
	seen = weir_progress - 1;
	bitten = false;
	bites = 0;
	enable_timeout_after(timer, PERIOD_MS);
}

void
weir_watchdog_stop(void)
{
	disable_timeout(timer, false);
	if (bitten)
		QueryCancelPending = false;
}

void
weir_watchdog_explain(ErrorData *error)
{
	if (error->sqlerrcode == ERRCODE_QUERY_CANCELED && bitten)
		error->message = psprintf("the view's expressions took longer than %d s over one row",
								  PERIOD_MS / 1000);
	bitten = false;
}

void
weir_watchdog_rethrow(ErrorData *error)
{
	bool		by_us = bitten;

	weir_watchdog_explain(error);
	switch (ERRCODE_TO_CATEGORY(error->sqlerrcode))
	{
		case ERRCODE_OPERATOR_INTERVENTION:
			if (!by_us)
				ReThrowError(error);
			break;
		case ERRCODE_INSUFFICIENT_RESOURCES:
		case ERRCODE_SYSTEM_ERROR:
		case ERRCODE_TRANSACTION_ROLLBACK:
			ReThrowError(error);
			break;
		default:
			if (error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE ||
				error->sqlerrcode == ERRCODE_DATA_CORRUPTED ||
				error->sqlerrcode == ERRCODE_INDEX_CORRUPTED)
				ReThrowError(error);
			break;
	}
}
