/*-------------------------------------------------------------------------
 *
 * row_image.c
 *	  Rows as bytes: are two the same, and to the last byte?
 *
 * Who has seen a row of v, in the changelog say, must hear of any change that he
 * could see.  Equality of types hides some: 1.0 equals 1.00, and 'a' equals 'A'
 * under some collations.  So rows are compared as record_image_eq() does, byte by
 * byte, but for what depends on how a value is stored: compression, an
 * out-of-line copy, the length of its header.
 *
 * Types may say the same in several ways of bytes.  That costs a change that
 * nobody needed, and is as wrong as it gets.
 *
 *-------------------------------------------------------------------------
 */
#include "emit/row_image.h"

#include "common/hashfn.h"
#include "access/detoast.h"

/* The bytes of a value, and what is to be freed after them. */
typedef struct Bytes
{
	const char *start;
	Size		len;
	void	   *copy;
	Datum		value;			/* room for those of a type by value */
} Bytes;

/*
 * Some types fill the upper bytes of a Datum with the sign when it is read from
 * a tuple, and with zeros when it is computed (oid): leave out what the type
 * does not have.
 */
static Datum
significant(Datum value, int16 typlen)
{
	switch (typlen)
	{
		case sizeof(uint8):
			return (uint8) value;
		case sizeof(uint16):
			return (uint16) value;
		case sizeof(uint32):
			return (uint32) value;
		default:
			return value;
	}
}

static void
open_bytes(Bytes *bytes, Datum value, Form_pg_attribute att)
{
	bytes->copy = NULL;
	if (att->attbyval)
	{
		bytes->value = significant(value, att->attlen);
		bytes->start = (const char *) &bytes->value;
		bytes->len = sizeof(Datum);
	}
	else if (att->attlen > 0)
	{
		bytes->start = DatumGetPointer(value);
		bytes->len = att->attlen;
	}
	else if (att->attlen == -1)
	{
		struct varlena *flat = PG_DETOAST_DATUM_PACKED(value);

		if ((Pointer) flat != DatumGetPointer(value))
			bytes->copy = flat;
		bytes->start = VARDATA_ANY(flat);
		bytes->len = VARSIZE_ANY_EXHDR(flat);
	}
	else
	{
		bytes->start = DatumGetCString(value);
		bytes->len = strlen(bytes->start);
	}
}

static void
close_bytes(Bytes *bytes)
{
	if (bytes->copy != NULL)
		pfree(bytes->copy);
}

static bool
values_equal(Datum a, Datum b, Form_pg_attribute att)
{
	Bytes		left;
	Bytes		right;
	bool		equal;

	/* known without fetching or decompressing them */
	if (att->attlen == -1 &&
		toast_raw_datum_size(a) != toast_raw_datum_size(b))
		return false;
	open_bytes(&left, a, att);
	open_bytes(&right, b, att);
	equal = left.len == right.len &&
		memcmp(left.start, right.start, left.len) == 0;
	close_bytes(&left);
	close_bytes(&right);
	return equal;
}

bool
weir_row_image_equal(TupleTableSlot *a, TupleTableSlot *b)
{
	TupleDesc	desc = a->tts_tupleDescriptor;

	Assert(desc->natts == b->tts_tupleDescriptor->natts);
	slot_getallattrs(a);
	slot_getallattrs(b);
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		/* a row from before the drop still has the value */
		if (att->attisdropped)
			continue;
		if (a->tts_isnull[i] != b->tts_isnull[i])
			return false;
		if (!a->tts_isnull[i] &&
			!values_equal(a->tts_values[i], b->tts_values[i], att))
			return false;
	}
	return true;
}

uint64
weir_row_image_hash(TupleTableSlot *row)
{
	TupleDesc	desc = row->tts_tupleDescriptor;
	uint64		hash = 0;

	slot_getallattrs(row);
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		Bytes		bytes;

		if (att->attisdropped)
			continue;
		if (row->tts_isnull[i])
		{
			hash = hash_bytes_uint32_extended((uint32) i, hash);
			continue;
		}
		open_bytes(&bytes, row->tts_values[i], att);
		hash = hash_bytes_extended((const unsigned char *) bytes.start,
								   (int) bytes.len, hash);
		close_bytes(&bytes);
	}
	return hash;
}
