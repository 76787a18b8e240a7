/*-------------------------------------------------------------------------
 *
 * weir.h
 *	  The nouns of pg_weir, each defined once.
 *
 * stream		A foreign table or table whose rows a view reads.
 * message		What a source delivers: bytes with a position and a time.
 * change		An insert, update, delete or truncate of a table, as the WAL
 *				tells it.
 * row			A message decoded to the columns of its stream, or the old or
 *				new row of a change.
 * position		Where to continue reading: for Kafka the offset of the first
 *				message of a partition that has not been read yet, for tables
 *				the end of the last commit that has been folded.
 * view			An ordinary table whose rows pg_weir keeps equal to Q, its
 *				defining query, over the accepted rows.
 * group		One combination of group keys (the window among them) with
 *				its transition states and the place of its result row.
 * window		A half-open range of event time.
 * dead letter	A message that could not be decoded, or whose expressions
 *				raised: recorded, and the flow goes on.
 * commit		The one transaction that writes results, states, positions
 *				and dead letters of an interval.
 * stall		A view that waits for a retry or a person; it stays readable
 *				at its last commit.
 *
 * Rows travel downstream only: source -> decode -> window -> aggregate ->
 * state -> emit.  runtime/ alone sees every stage.
 *
 *-------------------------------------------------------------------------
 */
#ifndef WEIR_H
#define WEIR_H

#include "postgres.h"
#include "datatype/timestamp.h"
#include "nodes/pg_list.h"

#include "compat.h"

/* Random and not an OID, so that it survives dump and restore. */
#define WEIR_ID_LEN 16

/* Schemas of the extension: what users call, and what only C code writes. */
#define WEIR_SCHEMA "weir"
#define WEIR_DATA_SCHEMA "weir_data"

/*
 * pg_weir.c: the library was loaded by shared_preload_libraries, so there are
 * shared memory and workers.  False in a session that loaded it by itself, as
 * CREATE EXTENSION does.
 */
extern bool weir_preloaded;

/* settings.c */
extern bool weir_enabled;
extern int	weir_max_workers;
extern int	weir_state_memory_kb;
extern int	weir_max_dead_letters;	/* of a view; -1: no limit */
extern int	weir_max_late_rows;
extern int	weir_max_retained_wal_mb;
extern int	weir_backfill_rate;		/* rows a second, 0: no limit */
extern int	weir_backfill_max_age_s;
extern bool weir_produce_in_transaction;
extern void weir_define_settings(void);

/*
 * The only clock of pg_weir, in microseconds like GetCurrentTimestamp().
 * Builds with WEIR_TEST let tests move it.
 */
extern TimestampTz weir_now(void);

/*
 * runtime/weir_shmem.c: at commit of the current transaction, tell the
 * launcher and the workers of this database that definitions changed.
 */
extern void weir_wake_at_commit(void);

/*
 * source/foreign_options.c: the value of the option of that name in a list, NULL
 * if it is not there.
 */
extern char *weir_foreign_option(List *options, const char *name);

/*
 * Counts whatever is evidence that user code comes back: a row decoded, folded
 * or emitted.  runtime/watchdog.c looks at it.
 */
extern volatile uint64 weir_progress;

/*
 * Fault points: named places at which a WEIR_TEST build raises, kills itself,
 * sleeps or pretends that the disk is full, as the setting weir.fault asks.  After
 * so many faults what failed would be tried again after half a minute:
 * WEIR_BACKOFF() is a pause in milliseconds, cut to weir.test_backoff.
 */
#ifdef WEIR_TEST
extern void weir_fault_point(const char *name);

/* The most groups that a view keeps in memory; 0: as many as fit. */
extern int	weir_test_groups;
extern void weir_define_test_settings(void);
#define WEIR_FAULT(name) weir_fault_point(name)
extern int	weir_test_backoff;
#define WEIR_BACKOFF(ms) Min((ms), weir_test_backoff)
#else
#define WEIR_FAULT(name) ((void) 0)
#define WEIR_BACKOFF(ms) (ms)
#endif

#endif							/* WEIR_H */
