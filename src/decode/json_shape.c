/*-------------------------------------------------------------------------
 *
 * json_shape.c
 *	  Which members of a JSON document are wanted, and where they were last
 *	  time.
 *
 * Receives paths, one a column, and numbers them.  The scanner asks it for
 * what it could not guess: which name is this?  Reads no message itself.
 *
 * A shape is a trie.  Its slots are numbered depth first, so that what is
 * below a name is a range of slots:
 *
 *	  user_id, geo.country, geo.city, geo, ts
 *
 *	  user_id  slot 0
 *	  geo      slot 1, below it [2, 4)
 *	    country  slot 2
 *	    city     slot 3
 *	  ts       slot 4
 *
 *-------------------------------------------------------------------------
 */
#include "decode/json_shape.h"

#include "utils/palloc.h"

static JsonLevel *
level_create(WeirJsonShape *shape)
{
	return (JsonLevel *) MemoryContextAllocZero(shape->mcxt, sizeof(JsonLevel));
}

/* Makes an empty shape in CurrentMemoryContext. */
WeirJsonShape *
weir_json_shape_create(void)
{
	WeirJsonShape *shape = palloc0(sizeof(WeirJsonShape));

	shape->mcxt = CurrentMemoryContext;
	shape->top = level_create(shape);
	shape->max_handles = 16;
	shape->handles = palloc(shape->max_handles * sizeof(JsonName *));
	return shape;
}

/*
 * Adds a path: names from the outermost, in UTF-8.  Returns a handle for
 * weir_json_shape_slot().  Equal paths share a slot.
 */
int
weir_json_shape_add(WeirJsonShape *shape, const char *const *names,
					int n_names)
{
	JsonLevel  *level = shape->top;
	JsonName   *name = NULL;
	int			i;

	Assert(n_names > 0);
	for (i = 0; i < n_names; i++)
	{
		uint32		len = strlen(names[i]);

		if (i > 0)
		{
			if (name->below == NULL)
				name->below = level_create(shape);
			level = name->below;
		}
		for (name = level->first; name != NULL; name = name->next)
		{
			if (name->len == len && memcmp(name->text, names[i], len) == 0)
				break;
		}
		if (name == NULL)
		{
			name = MemoryContextAllocZero(shape->mcxt, sizeof(JsonName));
			name->text = MemoryContextStrdup(shape->mcxt, names[i]);
			name->len = len;
			if (level->last != NULL)
				level->last->next = name;
			else
				level->first = name;
			level->last = name;
		}
	}
	name->wanted = true;

	if (shape->n_handles == shape->max_handles)
	{
		shape->max_handles *= 2;
		shape->handles = repalloc(shape->handles,
								  shape->max_handles * sizeof(JsonName *));
	}
	shape->handles[shape->n_handles] = name;
	return shape->n_handles++;
}

static void
number_slots(WeirJsonShape *shape, JsonLevel *level)
{
	JsonName   *name;

	for (name = level->first; name != NULL; name = name->next)
	{
		if (name->wanted)
			name->slot = shape->n_slots++;
		name->below_first = shape->n_slots;
		if (name->below != NULL)
			number_slots(shape, name->below);
		name->below_end = shape->n_slots;
	}
}

/* After the last path and before the first scan. */
void
weir_json_shape_finish(WeirJsonShape *shape)
{
	number_slots(shape, shape->top);
}

int
weir_json_shape_slot(WeirJsonShape *shape, int handle)
{
	return shape->handles[handle]->slot;
}

int
weir_json_shape_slots(WeirJsonShape *shape)
{
	return shape->n_slots;
}

/* Looks a raw name up, in the slow way. */
JsonName *
weir_json_find_name(JsonLevel *level, const char *raw, uint32 len, bool escaped)
{
	JsonName   *name;
	char	   *plain = NULL;

	if (escaped)
	{
		WeirJsonFault ignored;
		int			plain_len;

		plain = palloc(len);
		plain_len = weir_json_unescape(raw, len, plain, &ignored);
		if (plain_len < 0)
		{
			/* not text, so not the name of a column */
			pfree(plain);
			return NULL;
		}
		raw = plain;
		len = plain_len;
	}
	for (name = level->first; name != NULL; name = name->next)
	{
		if (name->len == len && memcmp(name->text, raw, len) == 0)
			break;
	}
	if (plain != NULL)
		pfree(plain);
	return name;
}

/* Remembers the name that stands at this place of the level. */
void
weir_json_learn_guess(JsonLevel *level, int place, const char *raw,
					  uint32 len, JsonName *name)
{
	JsonGuess  *guess = &level->guesses[place];

	memset(guess, 0, sizeof(JsonGuess));
	if (len < GUESS_BYTES)
	{
		/* the closing quote is in the message as well */
		guess->len = len + 1;
		memcpy(guess->text, raw, guess->len);
		memset(guess->mask, 0xFF, guess->len);
	}
	guess->name = name;
	if (place >= level->n_guesses)
		level->n_guesses = place + 1;
}
