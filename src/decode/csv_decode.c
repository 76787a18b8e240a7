/*-------------------------------------------------------------------------
 *
 * csv_decode.c
 *	  One CSV record a message.
 *
 * Receives the bytes of a message and hands back its fields, unquoted, in
 * order.  Quoting, escaping and NULL are those of COPY ... (FORMAT csv): a
 * quoted field is never NULL, a quote may begin in the middle of a field, a
 * quoted field may hold line ends.  One line end after the record is
 * tolerated; a second record is not.  There is no header line.
 *
 *-------------------------------------------------------------------------
 */
#include "decode/decode_internal.h"

/*
 * Splits a record into exactly n_fields fields, whose text goes to scratch
 * (len bytes).  Returns false, with 22P04, for an unterminated quote, a wrong
 * number of fields or more than one record.
 */
bool
weir_csv_split(const WeirCsvFormat *format, const char *record, int len,
			   char *scratch, WeirCsvField *fields, int n_fields,
			   WeirComplaint *complaint)
{
	const char *p = record;
	const char *end = record + len;
	char	   *out = scratch;
	int			n = 0;
	bool		more = true;

	while (more)
	{
		const char *start = p;
		const char *field_end;
		char	   *text = out;
		bool		saw_quote = false;
		bool		in_quote = false;

		more = false;
		for (;;)
		{
			char		c;

			field_end = p;
			if (p >= end)
				break;
			c = *p++;
			if (in_quote)
			{
				/* escape before quote: they are often the same character */
				if (c == format->escape && p < end &&
					(*p == format->escape || *p == format->quote))
					*out++ = *p++;
				else if (c == format->quote)
					in_quote = false;
				else
					*out++ = c;
			}
			else if (c == format->delimiter)
			{
				more = true;
				break;
			}
			else if (c == format->quote)
				saw_quote = in_quote = true;
			else if (c == '\n' || c == '\r')
			{
				if (c == '\r' && p < end && *p == '\n')
					p++;
				if (p < end)
					return weir_complain(complaint, ERRCODE_BAD_COPY_FILE_FORMAT,
										 "more than one CSV record in a message");
				break;
			}
			else
				*out++ = c;
		}
		if (in_quote)
			return weir_complain(complaint, ERRCODE_BAD_COPY_FILE_FORMAT,
								 "unterminated CSV quoted field");
		if (n == n_fields)
			return weir_complain(complaint, ERRCODE_BAD_COPY_FILE_FORMAT,
								 "extra data after last expected column");
		fields[n].start = text;
		fields[n].len = out - text;
		fields[n].isnull = !saw_quote &&
			field_end - start == format->null_len &&
			memcmp(start, format->null_text, format->null_len) == 0;
		n++;
	}
	if (n < n_fields)
		return weir_complain(complaint, ERRCODE_BAD_COPY_FILE_FORMAT,
							 "missing data: %d of %d columns", n, n_fields);
	return true;
}
