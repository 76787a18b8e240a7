/*-------------------------------------------------------------------------
 *
 * compose_internal.h
 *	  What compose.c, compose_windows.c and compose_session.c say to each other.
 *
 *-------------------------------------------------------------------------
 */
#ifndef WEIR_COMPOSE_INTERNAL_H
#define WEIR_COMPOSE_INTERNAL_H

#include "emit/emit.h"

/* Panes that are looked up together, so that memory is waited for once. */
#define WEIR_COMPOSE_LOOKUPS 64

/* A pane that weir_compose() was given. */
typedef struct WeirGivenPane
{
	int64		number;
	WeirGroup  *group;
} WeirGivenPane;

/* One key: all but the pane. */
typedef struct WeirComposedKey
{
	const char *image;			/* of one of its groups; the pane is any */
	uint32		len;
	uint32		pane_at;		/* of the pane, from the image's beginning */
	const WeirGivenPane *given; /* by number */
	int64		n_given;
} WeirComposedKey;

/* A cell of a session, which has rows. */
typedef struct WeirCell
{
	int64		number;
	WeirGroup  *group;
	Timestamp	first;			/* least and greatest time of its rows */
	Timestamp	last;
} WeirCell;

/* What is known of a window, whatever the key. */
typedef struct WeirWindowFact
{
	int64		number;
	bool		known;
	bool		wanted;
	Timestamp	lower;
	Timestamp	upper;
	int64		first;			/* panes */
	int64		last;
	int64		holder;
} WeirWindowFact;

/* A power of two. */
#define WEIR_WINDOW_FACTS 256

/* An array that grows. */
typedef struct WeirRoom
{
	void	   *data;
	int64		max;
} WeirRoom;

struct WeirComposer
{
	/* what it was created for */
	const WeirWindow *window;
	int			window_key;
	const WeirKeyFormat *format;
	WeirGroupTable *table;
	int			n_states;
	Size		words_size;
	int			first_state;
	int			last_state;
	bool		by_reference;	/* a state owns values */

	/*
	 * The states, with stores of our own for what composed states own:
	 * `passing` while a key is being composed, `lasting` until the reset.  A
	 * value is found whatever store has it.
	 */
	const WeirState *states;
	WeirState  *passing;
	WeirState  *lasting;
	void		(**merges) (const WeirState *state, char *words,
							const char *from);
	WeirValueStore *passing_store;
	WeirValueStore *lasting_store;

	MemoryContext mcxt;			/* as long as the composer */
	MemoryContext composed;		/* until the reset */
	MemoryContext scratch;		/* what merges and comparisons leave, of a key */
	MemoryContextCallback callback;

	/* of the call under way */
	WeirWanted	wanted;
	void	   *wanted_arg;
	WeirOutcome *outcomes;
	int64		n_outcomes;
	int64		max_outcomes;
	WeirWindowFact *facts;		/* by number, modulo WEIR_WINDOW_FACTS */

	int			n_clusters;		/* since the reset */
	char	   *words;			/* free words, of words_left bytes */
	Size		words_left;
	Size		words_chunk;	/* bytes that were allocated last */

	struct weir_sessions_hash *sessions;	/* that were asked for since the
											 * reset */

	/* for looking up */
	char	   *images;
	int			n_images;		/* that hold the key's image */

	/* of a key */
	WeirRoom	windows;		/* WeirWindowFact, wanted */
	WeirRoom	numbers;		/* int64, panes */
	WeirRoom	groups;			/* WeirGroup *, of numbers */
	WeirRoom	pane_words;		/* const char *, NULL without rows */
	WeirRoom	pane_had;		/* uint32, WEIR_GROUP_HAD_* */
	WeirRoom	front_words;	/* const char * */
	WeirRoom	front_had;		/* uint32 */
	WeirRoom	front_made;		/* words that those point to */
	WeirRoom	cells;			/* WeirCell */
	char	   *back_made;		/* words */
};

/* ---- compose.c ---- */

/* Makes room for n elements; what was there stays. */
extern void weir_room(WeirComposer *composer, WeirRoom *room, int64 n,
					  Size element);

extern void weir_composed_key(WeirComposer *composer, WeirComposedKey *key,
							  const char *image, uint32 len);

/*
 * Fills in those of the n groups that are still NULL: finds them, or makes
 * them, too.
 */
extern void weir_compose_find(WeirComposer *composer,
							  const WeirComposedKey *key,
							  const int64 *numbers, int64 n,
							  WeirGroup **groups, bool make);

/* Words that live until the reset, not initialised. */
extern char *weir_compose_words(WeirComposer *composer);

/* Fills words with a state that only lacks what finishing it does not need. */
extern void weir_compose_copy(WeirComposer *composer, const WeirState *states,
							  char *words, const char *from);
extern void weir_compose_merge(WeirComposer *composer, const WeirState *states,
							   char *words, const char *from);

/* A new outcome, the last; words NULL if v is to have no row. */
extern WeirOutcome *weir_compose_outcome(WeirComposer *composer,
										 WeirGroup *holder, const char *words,
										 Timestamp lower, Timestamp upper);

/* ---- compose_windows.c ---- */

extern void weir_compose_windows(WeirComposer *composer,
								 const WeirComposedKey *key);

/* ---- compose_session.c ---- */

extern void weir_compose_sessions(WeirComposer *composer,
								  const WeirComposedKey *key);

#endif							/* WEIR_COMPOSE_INTERNAL_H */
