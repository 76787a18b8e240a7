/*-------------------------------------------------------------------------
 *
 * tidy.c
 *	  Makes room on a page before its rows are updated.
 *
 * An update leaves the old version behind.  Who reads through an index or scans
 * takes such versions away in passing (pruning), but we know our rows by
 * TID and do neither.  Without this, the free half of each page that the
 * fillfactor leaves would be full after one commit: from then on every other
 * update would move its row to another page, with new index entries.
 *
 *-------------------------------------------------------------------------
 */
#include "emit/emit.h"

#include "access/heapam.h"
#include "access/tableam.h"
#include "storage/bufmgr.h"

/*
 * Call before updating the row at tid; *tidied is the page of the call before,
 * InvalidBlockNumber at first.  Callers go through a relation page by page.
 */
void
weir_tidy(Relation rel, const ItemPointerData *tid, BlockNumber *tidied)
{
	BlockNumber block = ItemPointerGetBlockNumber(tid);
	Buffer		buffer;

	if (block == *tidied || rel->rd_tableam != GetHeapamTableAmRoutine())
		return;
	*tidied = block;
	buffer = ReadBuffer(rel, block);
	heap_page_prune_opt(rel, buffer);
	ReleaseBuffer(buffer);
}
