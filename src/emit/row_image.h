/*-------------------------------------------------------------------------
 *
 * row_image.h
 *	  Rows as bytes: are two the same, and to the last byte?
 *
 *-------------------------------------------------------------------------
 */
#ifndef WEIR_ROW_IMAGE_H
#define WEIR_ROW_IMAGE_H

#include "weir.h"
#include "executor/tuptable.h"

/*
 * Two rows of one table, stored or just computed.  The first slot has the
 * descriptor that counts.
 */
extern bool weir_row_image_equal(TupleTableSlot *a, TupleTableSlot *b);

/* A hash of that image; it is the same in all processes of a server. */
extern uint64 weir_row_image_hash(TupleTableSlot *row);

#endif							/* WEIR_ROW_IMAGE_H */
