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

#define STATE_VERSION 2

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

WeirGroup *
weir_group_load(WeirGroupTable *table, const char *bytes, Size len)
{
	int			n_states;
	Size		words_size;
	WeirState  *states = weir_group_table_states(table, &n_states, &words_size);
	const char *end = bytes + len;
	char	   *words;
	char	   *image;
	uint32		hash;
	uint32		key_len;
	WeirGroup  *group;
	Header		header;
	const char *values;

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
		header.key_len > weir_key_room(weir_group_table_format(table)))
		damaged("It does not have the shape of the view's groups.");

	key_len = header.key_len;
	words = palloc(words_size + key_len + 8);	/* aligned, as images must be */
	image = words + words_size;
	values = unpack(bytes + sizeof(header), end, words, words_size + key_len);
	if (values == NULL)
		damaged("Its words run over its end.");
	hash = weir_key_hash(weir_group_table_format(table), image, key_len);
	weir_group_table_upsert(table, 1, &image, &key_len, &hash, &group);
	memcpy(WEIR_GROUP_WORDS(group), words, words_size);
	pfree(words);
	for (int i = 0; i < n_states; i++)
		if (states[i].ops->by_reference)
		{
			values = states[i].ops->load(&states[i],
										 WEIR_GROUP_WORDS(group) + states[i].offset,
										 values, end);
			if (values == NULL)
				damaged("A value runs over its end.");
		}
	return group;
}
