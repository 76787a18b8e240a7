/*-------------------------------------------------------------------------
 *
 * compose_session.c
 *	  Sessions: which cells hang together now, and which did.
 *
 * The panes of a session are called cells here.  A cell is as long as the gap, so
 * its rows are one session always, and only neighbours can join: when the first
 * row of the right one is less than the gap behind the last row of the left one.
 *
 *		gap  |---------|
 *		cell |   1     |   2     |   3     |   4     |
 *		rows |  x   x  | x     x |        x|  x      |
 *				 '--5---'            '--5---'			1+2 and 3+4: 8 between
 *
 * A row that comes or goes in a cell changes which cells join with it, on either
 * side.  So from each cell that has changed, and from its two neighbours, we walk
 * left and right as long as cells join, and have every session that exists now and
 * differs from one that existed before.  What existed before is told by the
 * groups that hold a row of v: such a cell began a session, and if it begins none
 * now, its row must go.
 *
 * Sessions that were torn apart or joined share a cluster with what they were, in
 * which the rows that go stand before those that come.  Where an old session ended
 * is not known, only where it began.  Without retraction a session can only grow:
 * what began inside the one that exists now was part of it.  With retraction we
 * take an old one to have reached as far as the cells that we look at are
 * neighbours, or to the beginning of the next: that may put a session into a
 * cluster that has just begun beside it, which does no harm.
 *
 * The cost is that of all cells of a session for each time that it is composed.
 *
 *-------------------------------------------------------------------------
 */
#include "emit/compose_internal.h"

#include "common/hashfn.h"
#include "miscadmin.h"
#include "utils/memutils.h"

/* What weir_session_of() has said of a cell. */
typedef struct WeirKnownSession
{
	WeirGroup  *cell;
	char		status;			/* of the hash table */
	bool		exists;
	Timestamp	lower;
	Timestamp	upper;
	WeirGroup  *first;
} WeirKnownSession;

#define SH_PREFIX weir_sessions
#define SH_ELEMENT_TYPE WeirKnownSession
#define SH_KEY_TYPE WeirGroup *
#define SH_KEY cell
#define SH_HASH_KEY(tb, key) murmurhash32((uint32) ((uintptr_t) (key) >> 3))
#define SH_EQUAL(tb, a, b) ((a) == (b))
#define SH_SCOPE static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

/* What was said of a key so far, while its cells are walked in their order. */
typedef struct Progress
{
	int64		examined;		/* the last cell that was looked at */
	bool		reaches;		/* an old session may have reached beyond it */
	int64		cluster;		/* where its outcomes begin */
	uint32		had;			/* what its cells had since the last commit */
} Progress;

static int64 collect_seeds(WeirComposer *composer, const WeirComposedKey *key);
static void examine_empty(WeirComposer *composer, Progress *progress,
						  int64 number, WeirGroup *group);
static void examine_session(WeirComposer *composer, Progress *progress,
							int64 n_cells);
static void end_cluster(WeirComposer *composer, Progress *progress);

/* ---- cells ---- */

static Timestamp
cell_time(const WeirState *state, const char *words, bool least)
{
	bool		isnull;
	Datum		value;

	words += state->offset;
	if (state->ops == &weir_multiset_signed)
		value = least ? weir_multiset_min(state, words, &isnull) :
			weir_multiset_max(state, words, &isnull);
	else
		value = weir_extreme_finish(state, words, &isnull);
	if (isnull)
		elog(ERROR, "rows of a session have no time");
	return DatumGetTimestamp(value);
}

/* False without a group, or if it has no rows. */
static bool
read_cell(const WeirComposer *composer, int64 number, WeirGroup *group,
		  WeirCell *cell)
{
	const char *words;

	if (group == NULL || !weir_group_exists(composer->table, group))
		return false;
	words = WEIR_GROUP_WORDS(group);
	cell->number = number;
	cell->group = group;
	cell->first = cell_time(&composer->states[composer->first_state], words,
							true);
	cell->last = cell_time(&composer->states[composer->last_state], words,
						   false);
	return true;
}

/* Unsigned, so that it holds over all of time. */
static inline bool
within_gap(const WeirComposer *composer, Timestamp earlier, Timestamp later)
{
	return (uint64) later - (uint64) earlier < (uint64) composer->window->slide;
}

static inline Timestamp
session_end(const WeirComposer *composer, Timestamp last)
{
	return last + composer->window->slide;
}

/*
 * Appends the cells that join with the last of composer->cells, one after the
 * other, in steps of +1 or -1.  Looks up one, then two, four ... at once: most
 * sessions are short.
 */
static int64
walk(WeirComposer *composer, const WeirComposedKey *key, int64 n_cells, int step)
{
	int			ahead = 1;

	for (;;)
	{
		int64		numbers[WEIR_COMPOSE_LOOKUPS];
		WeirGroup  *groups[WEIR_COMPOSE_LOOKUPS];

		weir_room(composer, &composer->cells, n_cells + ahead, sizeof(WeirCell));
		for (int i = 0; i < ahead; i++)
		{
			numbers[i] = ((WeirCell *) composer->cells.data)[n_cells - 1].number +
				(i + 1) * step;
			groups[i] = NULL;
		}
		weir_compose_find(composer, key, numbers, ahead, groups, false);
		for (int i = 0; i < ahead; i++)
		{
			WeirCell   *here = (WeirCell *) composer->cells.data + n_cells - 1;
			WeirCell   *there = here + 1;

			if (!read_cell(composer, numbers[i], groups[i], there))
				return n_cells;
			if (!(step > 0 ? within_gap(composer, here->last, there->first) :
				  within_gap(composer, there->last, here->first)))
				return n_cells;
			n_cells++;
		}
		CHECK_FOR_INTERRUPTS();
		ahead = Min(ahead * 2, WEIR_COMPOSE_LOOKUPS);
	}
}

/* All cells of the session of a cell, in order, in composer->cells. */
static int64
expand(WeirComposer *composer, const WeirComposedKey *key, const WeirCell *cell)
{
	WeirCell   *cells;
	int64		n;

	weir_room(composer, &composer->cells, 1, sizeof(WeirCell));
	*(WeirCell *) composer->cells.data = *cell;
	n = walk(composer, key, 1, -1);
	cells = composer->cells.data;
	for (int64 i = 0; i < n / 2; i++)
	{
		WeirCell	swap = cells[i];

		cells[i] = cells[n - 1 - i];
		cells[n - 1 - i] = swap;
	}
	return walk(composer, key, n, 1);
}

/* ---- composing ---- */

void
weir_compose_sessions(WeirComposer *composer, const WeirComposedKey *key)
{
	int64		n = collect_seeds(composer, key);
	Progress	progress;

	progress.examined = PG_INT64_MIN;
	progress.reaches = false;
	progress.cluster = composer->n_outcomes;
	progress.had = 0;
	for (int64 i = 0; i < n; i++)
	{
		int64		number = ((int64 *) composer->numbers.data)[i];
		WeirGroup  *group = ((WeirGroup **) composer->groups.data)[i];
		WeirCell	cell;

		if (number <= progress.examined)
			continue;
		if (read_cell(composer, number, group, &cell))
			examine_session(composer, &progress,
							expand(composer, key, &cell));
		else
			examine_empty(composer, &progress, number, group);
	}
	end_cluster(composer, &progress);
}

/* The panes given and their neighbours, by number, and their groups. */
static int64
collect_seeds(WeirComposer *composer, const WeirComposedKey *key)
{
	int64	   *numbers;
	WeirGroup **groups;
	int64		n = 0;

	weir_room(composer, &composer->numbers, key->n_given * 3, sizeof(int64));
	weir_room(composer, &composer->groups, key->n_given * 3,
			  sizeof(WeirGroup *));
	numbers = composer->numbers.data;
	groups = composer->groups.data;
	for (int64 i = 0; i < key->n_given; i++)
		for (int step = -1; step <= 1; step++)
		{
			int64		number = key->given[i].number + step;
			int64		at = n;

			/* the neighbours of neighbours overlap by two at most */
			while (at > 0 && numbers[at - 1] > number)
				at--;
			if (at > 0 && numbers[at - 1] == number)
				at--;
			else
			{
				Assert(at == n);
				groups[at] = NULL;
				numbers[at] = number;
				n++;
			}
			if (step == 0)
				groups[at] = key->given[i].group;
		}
	weir_compose_find(composer, key, numbers, n, groups, false);
	return n;
}

static inline bool
holds_row(const WeirGroup *group)
{
	return ItemPointerIsValid(&group->result_tid);
}

/* The row that a group holds is no session's any more. */
static void
drop_row(WeirComposer *composer, int64 number, WeirGroup *group)
{
	Timestamp	lower;
	Timestamp	upper;

	if (!weir_pane_bounds(composer->window, number, &lower, &upper))
		elog(ERROR, "cell %lld has no bounds", (long long) number);
	weir_compose_outcome(composer, group, NULL, lower, upper);
}

static void
examine_empty(WeirComposer *composer, Progress *progress,
			  int64 number, WeirGroup *group)
{
	if (group != NULL && holds_row(group))
	{
		end_cluster(composer, progress);
		drop_row(composer, number, group);
		progress->reaches = true;
	}
	else if (progress->examined != number - 1)
		progress->reaches = false;
	if (group != NULL && progress->reaches)
		progress->had |= group->flags & WEIR_GROUP_REASONS;
	progress->examined = number;
}

/* The states of all cells; those of a group if it is the only one. */
static const char *
session_words(WeirComposer *composer, const WeirCell *cells, int64 n)
{
	char	   *words;

	if (n == 1)
		return WEIR_GROUP_WORDS(cells[0].group);
	words = weir_compose_words(composer);
	weir_compose_copy(composer, composer->lasting, words,
					  WEIR_GROUP_WORDS(cells[0].group));
	for (int64 i = 1; i < n; i++)
		weir_compose_merge(composer, composer->lasting, words,
						   WEIR_GROUP_WORDS(cells[i].group));
	return words;
}

/* Is the session in composer->cells? */
static bool
is_wanted(const WeirComposer *composer, int64 n_cells)
{
	const WeirCell *cells = composer->cells.data;
	bool		changed = false;
	bool		holds = false;

	for (int64 i = 0; i < n_cells; i++)
	{
		changed |= (cells[i].group->flags &
					(WEIR_GROUP_DIRTY | WEIR_GROUP_TORN)) != 0;
		holds |= holds_row(cells[i].group);
	}
	return composer->wanted(composer->wanted_arg, cells[0].first,
							session_end(composer, cells[n_cells - 1].last),
							changed, holds);
}

/* A session as it is now: composer->cells. */
static void
examine_session(WeirComposer *composer, Progress *progress, int64 n_cells)
{
	const WeirCell *cells = composer->cells.data;
	Timestamp	lower = cells[0].first;
	Timestamp	upper = session_end(composer, cells[n_cells - 1].last);
	bool		hangs = composer->states[composer->last_state].ops->retracts &&
	progress->reaches && progress->examined == cells[0].number - 1 &&
	!holds_row(cells[0].group);
	bool		reaches = hangs;
	bool		wanted = hangs || is_wanted(composer, n_cells);

	if (!hangs)
		end_cluster(composer, progress);
	for (int64 i = 0; i < n_cells; i++)
	{
		progress->had |= cells[i].group->flags & WEIR_GROUP_REASONS;
		if (!holds_row(cells[i].group))
			continue;
		reaches = true;
		if (i > 0 && wanted)
			drop_row(composer, cells[i].number, cells[i].group);
	}
	if (wanted)
		weir_compose_outcome(composer, cells[0].group,
							 session_words(composer, cells, n_cells),
							 lower, upper);
	progress->reaches = reaches && wanted;
	progress->examined = cells[n_cells - 1].number;
}

/*
 * The outcomes since the last call have one cause, and are a cluster if they are
 * several: those that take a row away go first, otherwise they stay in their order.
 */
static void
end_cluster(WeirComposer *composer, Progress *progress)
{
	WeirOutcome *outcomes = composer->outcomes + progress->cluster;
	int64		n = composer->n_outcomes - progress->cluster;
	int64		n_gone = 0;

	for (int64 i = 0; i < n; i++)
		outcomes[i].had = progress->had;
	progress->cluster = composer->n_outcomes;
	progress->reaches = false;
	progress->had = 0;
	if (n < 2)
		return;
	composer->n_clusters++;
	for (int64 i = 0; i < n; i++)
	{
		WeirOutcome outcome = outcomes[i];

		outcome.cluster = composer->n_clusters;
		if (outcome.words != NULL)
		{
			outcomes[i] = outcome;
			continue;
		}
		memmove(outcomes + n_gone + 1, outcomes + n_gone,
				(i - n_gone) * sizeof(WeirOutcome));
		outcomes[n_gone++] = outcome;
	}
}

/* ---- questions ---- */

/*
 * What a session is, for all of its cells: when it ends, each of them is asked
 * about, and expanding it each time would cost the square of its length.
 */
static void
remember(WeirComposer *composer, WeirGroup *pane, int64 n_cells)
{
	const WeirCell *cells = composer->cells.data;
	WeirKnownSession *known;
	bool		found;

	if (n_cells == 0)
	{
		known = weir_sessions_insert(composer->sessions, pane, &found);
		known->exists = false;
	}
	for (int64 i = 0; i < n_cells; i++)
	{
		known = weir_sessions_insert(composer->sessions, cells[i].group, &found);
		known->exists = true;
		known->lower = cells[0].first;
		known->upper = session_end(composer, cells[n_cells - 1].last);
		known->first = cells[0].group;
	}
}

/* Finds out what session a cell is part of. */
static void
examine(WeirComposer *composer, WeirGroup *pane)
{
	MemoryContext old = MemoryContextSwitchTo(composer->scratch);
	WeirComposedKey key;
	int64		number;
	WeirCell	cell;

	weir_composed_key(composer, &key, weir_group_key(composer->table, pane),
					  pane->key_len);
	memcpy(&number, key.image + key.pane_at, sizeof(number));
	if (read_cell(composer, number, pane, &cell))
		remember(composer, pane, expand(composer, &key, &cell));
	else
		remember(composer, pane, 0);
	MemoryContextSwitchTo(old);
	MemoryContextReset(composer->scratch);
}

bool
weir_session_of(WeirComposer *composer, WeirGroup *pane,
				Timestamp *lower, Timestamp *upper, WeirGroup **first)
{
	const WeirKnownSession *known;

	if (composer->sessions == NULL)
		composer->sessions = weir_sessions_create(composer->composed, 64, NULL);
	known = weir_sessions_lookup(composer->sessions, pane);
	if (known == NULL)
	{
		examine(composer, pane);
		known = weir_sessions_lookup(composer->sessions, pane);
	}
	if (known->exists)
	{
		*lower = known->lower;
		*upper = known->upper;
		*first = known->first;
	}
	return known->exists;
}

bool
weir_session_pane_end(const WeirComposer *composer, const WeirGroup *pane,
					  Timestamp *end)
{
	WeirCell	cell;

	if (!read_cell(composer, 0, unconstify(WeirGroup *, pane), &cell))
		return false;
	*end = session_end(composer, cell.last);
	return true;
}

/*
 * Have rows of a session come or gone since the last commit?  Then it was not
 * frozen then, whatever it is now.  *torn: one of its cells that is torn, if any.
 */
static bool
has_changed(const WeirCell *cells, int64 n, const WeirGroup **torn)
{
	bool		changed = false;

	for (int64 i = 0; i < n; i++)
	{
		if ((cells[i].group->flags & WEIR_GROUP_TORN) != 0)
		{
			*torn = cells[i].group;
			return true;
		}
		changed |= (cells[i].group->flags & WEIR_GROUP_DIRTY) != 0;
	}
	return changed;
}

void
weir_session_around(WeirComposer *composer, const char *image, uint32 len,
					Timestamp ts, WeirSessionsAround *around)
{
	MemoryContext old = MemoryContextSwitchTo(composer->scratch);
	WeirComposedKey key;
	int64		numbers[3];
	WeirGroup  *groups[3] = {NULL};
	int64		examined = PG_INT64_MIN;

	weir_composed_key(composer, &key, image, len);
	memcpy(&numbers[1], image + key.pane_at, sizeof(int64));
	numbers[0] = numbers[1] - 1;
	numbers[2] = numbers[1] + 1;
	weir_compose_find(composer, &key, numbers, 3, groups, false);

	around->least_upper = around->least_whole = DT_NOEND;
	around->lower = around->whole_lower = DT_NOEND;
	around->upper = session_end(composer, ts);
	around->torn = NULL;
	for (int i = 0; i < 3; i++)
	{
		WeirCell	cell;
		Timestamp	lower;
		Timestamp	end;
		int64		n;

		/* one that has lost its rows may begin what it was part of again */
		if (groups[i] != NULL && (groups[i]->flags & WEIR_GROUP_TORN) != 0)
			around->torn = groups[i];
		if (numbers[i] <= examined ||
			!read_cell(composer, numbers[i], groups[i], &cell) ||
			(i == 0 && !within_gap(composer, cell.last, ts)) ||
			(i == 2 && !within_gap(composer, ts, cell.first)))
			continue;
		n = expand(composer, &key, &cell);
		lower = ((WeirCell *) composer->cells.data)[0].first;
		around->lower = Min(around->lower, lower);
		cell = ((WeirCell *) composer->cells.data)[n - 1];
		end = session_end(composer, cell.last);
		around->least_upper = Min(around->least_upper, end);
		if (!has_changed(composer->cells.data, n, &around->torn) &&
			end < around->least_whole)
		{
			around->least_whole = end;
			around->whole_lower = lower;
		}
		around->upper = Max(around->upper, end);
		examined = cell.number;
	}
	MemoryContextSwitchTo(old);
	MemoryContextReset(composer->scratch);
}

int64
weir_session_panes(WeirComposer *composer, const char *image, uint32 len,
				   WeirGroup ***panes)
{
	MemoryContext old = MemoryContextSwitchTo(composer->scratch);
	WeirComposedKey key;
	int64		number;
	WeirGroup  *group = NULL;
	WeirCell	cell;
	int64		n = 0;

	weir_composed_key(composer, &key, image, len);
	memcpy(&number, image + key.pane_at, sizeof(int64));
	weir_compose_find(composer, &key, &number, 1, &group, false);
	if (read_cell(composer, number, group, &cell))
		n = expand(composer, &key, &cell);
	MemoryContextSwitchTo(old);
	MemoryContextReset(composer->scratch);
	*panes = MemoryContextAllocHuge(old, sizeof(WeirGroup *) * Max(n, 1));
	for (int64 i = 0; i < n; i++)
		(*panes)[i] = ((WeirCell *) composer->cells.data)[i].group;
	return n;
}
