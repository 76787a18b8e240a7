/*-------------------------------------------------------------------------
 *
 * state_table.h
 *	  The columns of weir_data.state_<id>: view_parts.c makes them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef WEIR_STATE_TABLE_H
#define WEIR_STATE_TABLE_H

/* From 0, as in a slot. */
typedef enum WeirStateColumn
{
	WEIR_STATE_PANE,			/* int8: weir_stored_pane() */
	WEIR_STATE_HASH,			/* int8: weir_key_hash_others() */
	WEIR_STATE_RESULT,			/* tid, of the row of v */
	WEIR_STATE_BYTES,			/* bytea: state/state_bytes.c */
	WEIR_STATE_PUBLISHED		/* int8, of a session: see worker.h */
} WeirStateColumn;

#endif							/* WEIR_STATE_TABLE_H */
