/*-------------------------------------------------------------------------
 *
 * state_bytes.c
 *	  A group as the bytes that its row in weir_data.state_<id> holds.
 *
 *	uint32		format version and the number of states
 *	uint32		CRC-32C of everything behind it
 *	uint32		length of the words, uint32 length of the key image
 *	words		of all states, as they stand in memory
 *	key image
 *	values		the by-reference part of each state that has one, in order
 *
 * Machine byte order, like a heap page.  No user type's own bytes are
 * deserialised here: key and value Datums are copied as they are.
 *
 *-------------------------------------------------------------------------
 */
#include "state/state.h"

#include "port/pg_crc32c.h"

#define STATE_VERSION 1

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
	appendBinaryStringInfo(out, WEIR_GROUP_WORDS(group),
						   words_size + group->key_len);
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
	const char *words;
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
		sizeof(header) + words_size + header.key_len > len)
		damaged("It does not have the shape of the view's groups.");

	words = bytes + sizeof(header);
	key_len = header.key_len;
	image = palloc(key_len + 8);	/* aligned, as key images must be */
	memcpy(image, words + words_size, key_len);
	hash = weir_key_hash(weir_group_table_format(table), image, key_len);
	weir_group_table_upsert(table, 1, &image, &key_len, &hash, &group);
	pfree(image);
	memcpy(WEIR_GROUP_WORDS(group), words, words_size);
	values = words + words_size + key_len;
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
