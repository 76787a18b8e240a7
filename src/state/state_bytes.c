/*-------------------------------------------------------------------------
 *
 * state_bytes.c
 *	  A group as the bytes that its row in weir_data.state_<id> holds.
 *
 *	uint32		format version and the number of states
 *	uint32		CRC-32C of everything behind it
 *	uint32		length of the words, uint32 length of the key image
 *	packed		the words of all states and the key image
 *	values		the by-reference part of each state that has one, in order
 *
 * Both are multiples of eight bytes, mostly small numbers and zeros (the sum
 * of a numeric needs three bytes and has room for 80).  So a word is packed to
 * the bytes up to its highest that is not zero; how many these are stands
 * before each pair of words, four bits for each.  That halves the row, and with
 * it the pages and the WAL that a million groups cost.
 *
 * Machine byte order, like a heap page.  No user type's own bytes are
 * deserialised here: key and value Datums are copied as they are.
 *
 *-------------------------------------------------------------------------
 */
#include "state/state.h"

#include "port/pg_bitutils.h"
#include "port/pg_bswap.h"
#include "port/pg_crc32c.h"

#ifdef WEIR_TEST
#include "state/trial.h"
#endif

#define STATE_VERSION 5

typedef struct Header
{
	uint16		version;
	uint16		n_states;
	pg_crc32c	crc;
	uint32		words_len;
	uint32		key_len;
} Header;

static pg_crc32c
checksum(const char *bytes, Size len)
{
	pg_crc32c	crc;
	Size		from = offsetof(Header, words_len);

	INIT_CRC32C(crc);
	COMP_CRC32C(crc, bytes + from, len - from);
	FIN_CRC32C(crc);
	return crc;
}

/* The bytes of a word, the lowest first. */
static inline uint64
lowest_first(uint64 word)
{
#ifdef WORDS_BIGENDIAN
	return pg_bswap64(word);
#else
	return word;
#endif
}

/* Most bytes that len bytes become; eight more are written over. */
#define PACKED_ROOM(len) ((len) + (len) / 16 + 1 + sizeof(uint64))

static void
pack(StringInfo out, const char *bytes, Size len)
{
	char	   *at;
	char	   *lengths = NULL;

	enlargeStringInfo(out, PACKED_ROOM(len));
	at = out->data + out->len;
	for (Size i = 0; i < len; i += sizeof(uint64))
	{
		uint64		word;
		int			n;

		memcpy(&word, bytes + i, sizeof(word));
		n = word == 0 ? 0 : pg_leftmost_one_pos64(word) / 8 + 1;
		if (i % 16 == 0)
		{
			lengths = at++;
			*lengths = n;
		}
		else
			*lengths |= n << 4;
		word = lowest_first(word);
		memcpy(at, &word, sizeof(word));
		at += n;
	}
	out->len = at - out->data;
	*at = '\0';
}

/* Returns the place behind, NULL when it would be behind `end`. */
static const char *
unpack(const char *at, const char *end, char *bytes, Size len)
{
	int			lengths = 0;

	for (Size i = 0; i < len; i += sizeof(uint64))
	{
		uint64		word = 0;
		int			n;

		if (i % 16 != 0)
			lengths >>= 4;
		else if (at < end)
			lengths = (unsigned char) *at++;
		else
			return NULL;
		n = lengths & 15;
		if (n > sizeof(word) || n > end - at)
			return NULL;
		memcpy(&word, at, n);
		word = lowest_first(word);
		memcpy(bytes + i, &word, sizeof(word));
		at += n;
	}
	return at;
}

void
weir_group_save(const WeirGroupTable *table, const WeirGroup *group,
				StringInfo out)
{
	int			start = out->len;
	int			n_states;
	Size		words_size;
	WeirState  *states = weir_group_table_states(table, &n_states, &words_size);
	Header		header = {.version = STATE_VERSION,
		.n_states = (uint16) n_states,
		.words_len = (uint32) words_size, .key_len = group->key_len};

	appendBinaryStringInfo(out, (const char *) &header, sizeof(header));
	/* the key image stands behind the words */
	pack(out, WEIR_GROUP_WORDS(group), words_size + group->key_len);
	for (int i = 0; i < n_states; i++)
		if (states[i].ops->by_reference)
			states[i].ops->save(&states[i],
								WEIR_GROUP_WORDS(group) + states[i].offset,
								out);
	((Header *) (out->data + start))->crc =
		checksum(out->data + start, out->len - start);
}

#ifdef WEIR_TEST
void
weir_state_bytes_sign(char *bytes, Size len)
{
	((Header *) bytes)->crc = checksum(bytes, len);
}
#endif

weir_noreturn
static void
damaged(const char *what)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("a stored state is damaged"),
			 errdetail_internal("%s", what),
			 errhint("Run weir.rebuild on the view.")));
}

/* A group taken from its bytes: words and key image, one allocation. */
typedef struct Unpacked
{
	char	   *words;
	char	   *image;			/* aligned, as images must be */
	uint32		key_len;
	uint32		hash;
	const char *values;			/* the by-reference parts */
} Unpacked;

static void
unpack_group(const WeirGroupTable *table, const char *bytes, Size len,
			 Unpacked *group)
{
	const WeirKeyFormat *format = weir_group_table_format(table);
	int			n_states;
	Size		words_size;
	Header		header;

	(void) weir_group_table_states(table, &n_states, &words_size);
	if (len < sizeof(header))
		damaged("It is shorter than its header.");
	memcpy(&header, bytes, sizeof(header));
	if (header.version != STATE_VERSION)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("stored states have format %d, this pg_weir reads %d",
						header.version, STATE_VERSION),
				 errhint("Install the version of pg_weir that wrote them, or run weir.rebuild on the view.")));
	if (checksum(bytes, len) != header.crc)
		damaged("Its checksum does not match.");
	if (header.n_states != n_states || header.words_len != words_size ||
		header.key_len % sizeof(uint64) != 0 ||
		header.key_len > weir_key_room(format))
		damaged("It does not have the shape of the view's groups.");

	group->key_len = header.key_len;
	group->words = palloc(words_size + group->key_len + 8);
	group->image = group->words + words_size;
	group->values = unpack(bytes + sizeof(header), bytes + len, group->words,
						   words_size + group->key_len);
	if (group->values == NULL)
		damaged("Its words run over its end.");
	if (!weir_key_is_image(format, group->image, group->key_len))
		damaged("Its key is none.");
	group->hash = weir_key_hash(format, group->image, group->key_len);
}

/*
 * The by-reference parts of the states in words.  *loaded tells, also when it
 * raises, how many states have something to release.
 */
static void
load_values(const WeirGroupTable *table, char *words, const char *values,
			const char *end, volatile int *loaded)
{
	int			n_states;
	Size		words_size;
	WeirState  *states = weir_group_table_states(table, &n_states, &words_size);

	for (*loaded = 0; *loaded < n_states;)
	{
		WeirState  *state = &states[(*loaded)++];

		if (!state->ops->by_reference)
			continue;
		values = state->ops->load(state, words + state->offset, values, end);
		if (values == NULL)
			damaged("A value runs over its end.");
	}
}

static void
release_values(const WeirGroupTable *table, char *words, int n)
{
	int			n_states;
	Size		words_size;
	WeirState  *states = weir_group_table_states(table, &n_states, &words_size);

	for (int i = 0; i < n; i++)
		if (states[i].ops->by_reference)
			states[i].ops->release(&states[i], words + states[i].offset);
}

WeirGroup *
weir_group_load(WeirGroupTable *table, const char *bytes, Size len)
{
	int			n_states;
	Size		words_size;
	WeirGroup  *group;
	Unpacked	from;
	volatile int loaded;

	(void) weir_group_table_states(table, &n_states, &words_size);
	unpack_group(table, bytes, len, &from);
	weir_group_table_look(table, 1, &from.image, &from.key_len, &from.hash,
						  &group);
	if (group != NULL)
	{
		pfree(from.words);
		return NULL;
	}
	weir_group_table_put(table, 1, &from.image, &from.key_len, &from.hash,
						 &group);
	memcpy(WEIR_GROUP_WORDS(group), from.words, words_size);
	pfree(from.words);
	load_values(table, WEIR_GROUP_WORDS(group), from.values, bytes + len,
				&loaded);
	return group;
}

void
weir_group_check(const WeirGroupTable *table, const char *bytes, Size len,
				 int64 *pane, uint32 *hash)
{
	const WeirKeyFormat *format = weir_group_table_format(table);
	Unpacked	group;

	unpack_group(table, bytes, len, &group);
	*pane = weir_stored_pane(format, group.image);
	*hash = weir_key_hash_others(format, group.image, group.hash);
	pfree(group.words);
}

/*
 * A copy of a group's states, their by-reference parts included.  Goes by way
 * of the bytes: a group that is merged into has seldom much in it.
 */
static char *
copy_states(const WeirGroupTable *table, const WeirGroup *group,
			char *copy, volatile int *loaded)
{
	int			n_states;
	Size		words_size;
	WeirState  *states = weir_group_table_states(table, &n_states, &words_size);
	StringInfoData values;

	initStringInfo(&values);
	memcpy(copy, WEIR_GROUP_WORDS(group), words_size);
	for (int i = 0; i < n_states; i++)
		if (states[i].ops->by_reference)
			states[i].ops->save(&states[i],
								WEIR_GROUP_WORDS(group) + states[i].offset,
								&values);
	load_values(table, copy, values.data, values.data + values.len, loaded);
	pfree(values.data);
	return copy;
}

/*
 * What can raise happens on copies; the group then takes their place at one
 * stroke.  A new group simply takes what has come.
 */
WeirGroup *
weir_group_merge(WeirGroupTable *table, const char *bytes, Size len)
{
	int			n_states;
	Size		words_size;
	WeirState  *states = weir_group_table_states(table, &n_states, &words_size);
	char	   *sum = palloc(words_size + 8);
	WeirGroup  *group;
	Unpacked	from;
	volatile int in_from = 0;
	volatile int in_sum = 0;

	unpack_group(table, bytes, len, &from);
	PG_TRY();
	{
		load_values(table, from.words, from.values, bytes + len, &in_from);
		weir_group_table_upsert(table, 1, &from.image, &from.key_len,
								&from.hash, &group);
		if (memcmp(WEIR_GROUP_WORDS(group), weir_group_table_fresh(table),
				   words_size) == 0)
			memcpy(WEIR_GROUP_WORDS(group), from.words, words_size);
		else
		{
			copy_states(table, group, sum, &in_sum);
			for (int i = 0; i < n_states; i++)
				states[i].ops->merge(&states[i], sum + states[i].offset,
									 from.words + states[i].offset);
			release_values(table, WEIR_GROUP_WORDS(group), n_states);
			memcpy(WEIR_GROUP_WORDS(group), sum, words_size);
			release_values(table, from.words, n_states);
		}
	}
	PG_CATCH();
	{
		release_values(table, from.words, in_from);
		release_values(table, sum, in_sum);
		PG_RE_THROW();
	}
	PG_END_TRY();
	pfree(from.words);
	pfree(sum);
	return group;
}
