/*-------------------------------------------------------------------------
 *
 * row_writer.h
 *	  Writes the rows of a table and their index entries.
 *
 *-------------------------------------------------------------------------
 */
#ifndef WEIR_ROW_WRITER_H
#define WEIR_ROW_WRITER_H

#include "weir.h"
#include "executor/tuptable.h"
#include "storage/itemptr.h"
#include "utils/rel.h"

typedef struct WeirRowWriter WeirRowWriter;

/*
 * Raises if statements on a table above this one would reach its rows, which the
 * trigger that keeps users out does not see.  The hint ends with `repair`, the
 * function to call when that is over.
 */
extern void weir_check_alone(Relation rel, const char *repair);

/*
 * For a table that is open and locked, with a snapshot active, in the current
 * command.  All is allocated in CurrentMemoryContext.
 */
extern WeirRowWriter *weir_row_writer_begin(Relation rel);

/*
 * A new row, with the columns of the table.  It is copied, and written with
 * others by the page.  *place (or NULL) becomes its TID when that happens, by
 * weir_row_writer_end() at the latest.
 */
extern void weir_insert_row(WeirRowWriter *writer, TupleTableSlot *row,
							ItemPointer place);

/*
 * A new version of the row at *place, which becomes its TID; and no row there any
 * more.  False if there is none, or somebody else has changed it.
 */
extern bool weir_update_row(WeirRowWriter *writer, ItemPointer place,
							TupleTableSlot *row);
extern bool weir_delete_row(WeirRowWriter *writer, ItemPointer place);

/* The row at that place, which this transaction has not changed; false if none. */
extern bool weir_fetch_row(WeirRowWriter *writer, const ItemPointerData *place,
						   TupleTableSlot *slot);

/* Writes what is left: all places are known then. */
extern void weir_row_writer_flush(WeirRowWriter *writer);

/* The same, at the end. */
extern void weir_row_writer_end(WeirRowWriter *writer);

#endif							/* WEIR_ROW_WRITER_H */
