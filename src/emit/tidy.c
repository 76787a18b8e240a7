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
#include "storage/bufpage.h"

/* So much more than the old version may the new one need; numerics grow. */
#define GROWTH 8

/*
 * Call before updating n rows of a page, of which one is at tid.
 * Prunes only when they would not fit: a page on which few rows change lives
 * through many commits until then.  It is looked at without a lock, since
 * others only ever make more room.
 */
void
weir_tidy(Relation rel, const ItemPointerData *tid, int n)
{
	Buffer		buffer;
	Page		page;
	ItemId		item;

	if (rel->rd_tableam != GetHeapamTableAmRoutine())
		return;
	buffer = ReadBuffer(rel, ItemPointerGetBlockNumber(tid));
	page = BufferGetPage(buffer);
	if (ItemPointerGetOffsetNumber(tid) <= PageGetMaxOffsetNumber(page))
	{
		item = PageGetItemId(page, ItemPointerGetOffsetNumber(tid));
		if (PageGetHeapFreeSpace(page) <
			n * (MAXALIGN(ItemIdGetLength(item) + GROWTH) + sizeof(ItemIdData)))
			heap_page_prune_opt(rel, buffer);
	}
	ReleaseBuffer(buffer);
}
