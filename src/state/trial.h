/*-------------------------------------------------------------------------
 *
 * trial.h
 *	  Test builds: groups of one aggregate call, without a worker.
 *
 *-------------------------------------------------------------------------
 */
#ifndef WEIR_TRIAL_H
#define WEIR_TRIAL_H

#include "state/state.h"

/* A view of one text key, count(*) and one aggregate call. */
typedef struct WeirTrial
{
	WeirKeyPart part;
	WeirKeyFormat format;
	WeirState  *states;			/* the call, and presence */
	WeirFinish	finish;
	Size		words_size;
	Aggref	   *aggref;
	WeirClass	class_;
	WeirValueStore *store;
	WeirGroupTable *table;
} WeirTrial;

/*
 * An aggregate call over one argument of a type; for count(*) without one.
 * Raises when there is no state for it that retracts as it should.
 */
extern WeirTrial *weir_trial_open(Oid aggregate, Oid type, Oid collation,
								  bool retracts);

/* Its groups alone, anew, for the format that the trial has then. */
extern void weir_trial_open_groups(WeirTrial *trial);
extern void weir_trial_close_groups(WeirTrial *trial);

/*
 * Folds a batch of at most WEIR_TRIAL_BATCH rows.  Of the keys of row i the
 * first is keys[i * n], for a format of n; none is NULL.
 */
#define WEIR_TRIAL_BATCH 64
extern void weir_trial_fold(WeirTrial *trial, int n, Datum *keys,
							Datum *values, bool *nulls, int64 *diffs);

/* All groups, so that the table can change meanwhile. */
extern WeirGroup **weir_trial_groups(WeirTrial *trial, int *n);

/* Makes the checksum of a stored state right; it has a header. */
extern void weir_state_bytes_sign(char *bytes, Size len);

#endif							/* WEIR_TRIAL_H */
