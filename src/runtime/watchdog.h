/*-------------------------------------------------------------------------
 *
 * watchdog.h
 *	  Cancels an expression that does not come back.
 *
 *-------------------------------------------------------------------------
 */
#ifndef WEIR_WATCHDOG_H
#define WEIR_WATCHDOG_H

#include "weir.h"
#include "utils/elog.h"

/* Called once, when the worker starts. */
extern void weir_watchdog_install(void);

/* Whose code runs: the view, for the record if it has to be killed. */
extern Oid	weir_watchdog_view;

/*
 * A function can catch being cancelled and go on.  Such a worker ends itself,
 * which nothing can catch, and leaves the view's OID here, in shared memory.
 */
extern volatile Oid *weir_watchdog_culprit;

/* User code is about to run, or has ended. */
extern void weir_watchdog_start(void);
extern void weir_watchdog_stop(void);

/*
 * For an error caught while user code ran on a row: if the watchdog cancelled
 * it, says so in the error.  Errors that are not the row's doing (memory, disk,
 * locks, a shutdown) are thrown again: they must not cost the row.
 */
extern void weir_watchdog_rethrow(ErrorData *error);

/* The first half of that, for errors that no single row is to blame for. */
extern void weir_watchdog_explain(ErrorData *error);

#endif							/* WEIR_WATCHDOG_H */
