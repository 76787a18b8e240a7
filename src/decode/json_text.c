/*-------------------------------------------------------------------------
 *
 * json_text.c
 *	  The text that an escaped JSON string stands for.
 *
 * Receives what is between the quotes of a string that json_scan.c has
 * accepted, and so need not look for malformed escapes.  What it may find is
 * a character that is no text: \u0000, and half of a surrogate pair.
 *
 *-------------------------------------------------------------------------
 */
#include "decode/decode_internal.h"

#include "mb/pg_wchar.h"

static uint32
hex4(const char *p)
{
	uint32		value = 0;
	int			i;

	for (i = 0; i < 4; i++)
	{
		char		c = p[i];

		value = value << 4 | (c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10);
	}
	return value;
}

static int
unescape_fault(WeirJsonFault *fault, int sqlstate, const char *reason)
{
	fault->sqlstate = sqlstate;
	fault->reason = reason;
	fault->offset = 0;
	return -1;
}

/*
 * Writes the text of an escaped string to out, which has room for len bytes,
 * in UTF-8 and without a terminator.  Returns its length in bytes, or -1 with
 * the fault filled: 22P05 for \u0000, 22P02 for a surrogate without its pair.
 */
int
weir_json_unescape(const char *raw, uint32 len, char *out,
				   WeirJsonFault *fault)
{
	const char *p = raw;
	const char *end = raw + len;
	char	   *o = out;

	while (p < end)
	{
		const char *backslash = memchr(p, '\\', end - p);
		uint32		c;

		if (backslash == NULL)
			backslash = end;
		memcpy(o, p, backslash - p);
		o += backslash - p;
		p = backslash;
		if (p >= end)
			break;

		p += 2;
		switch (p[-1])
		{
			case 'b':
				*o++ = '\b';
				break;
			case 'f':
				*o++ = '\f';
				break;
			case 'n':
				*o++ = '\n';
				break;
			case 'r':
				*o++ = '\r';
				break;
			case 't':
				*o++ = '\t';
				break;
			case 'u':
				c = hex4(p);
				p += 4;
				if (is_utf16_surrogate_first(c))
				{
					if (end - p < 6 || p[0] != '\\' || p[1] != 'u' ||
						!is_utf16_surrogate_second(hex4(p + 2)))
						return unescape_fault(fault, ERRCODE_INVALID_TEXT_REPRESENTATION,
											  "a high surrogate must be followed by a low one");
					c = surrogate_pair_to_codepoint(c, hex4(p + 2));
					p += 6;
				}
				else if (is_utf16_surrogate_second(c))
					return unescape_fault(fault, ERRCODE_INVALID_TEXT_REPRESENTATION,
										  "a low surrogate must follow a high one");
				if (c == 0)
					return unescape_fault(fault, ERRCODE_UNTRANSLATABLE_CHARACTER,
										  "\\u0000 cannot be converted to text");
				unicode_to_utf8(c, (unsigned char *) o);
				o += pg_utf_mblen((unsigned char *) o);
				break;
			default:
				*o++ = p[-1];	/* quote, backslash, slash */
				break;
		}
	}
	return o - out;
}
