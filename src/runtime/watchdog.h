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

/* User code is about to run, or has ended. */
extern void weir_watchdog_start(void);
extern void weir_watchdog_stop(void);

/* The next row: the time starts anew. */
extern volatile uint64 weir_watchdog_rows;
#define weir_watchdog_progress() (weir_watchdog_rows++)

/*
 * For an error caught while user code ran: if the watchdog cancelled it, says
 * so in the error; throws errors that are not the row's (a shutdown) again.
 */
extern void weir_watchdog_rethrow(ErrorData *error);

#endif							/* WEIR_WATCHDOG_H */
