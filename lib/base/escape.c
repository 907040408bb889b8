/*
 * Text that comes from files, as it may be shown. Kept: printable characters of ASCII and of UTF-8. Written with a backslash, byte by
 * byte: line breaks and other control characters (0x00 to 0x1f, 0x7f, U+0080 to U+009f, which terminals obey too), what turns the
 * direction of writing or breaks a line elsewhere (U+200e, U+200f, U+2028 to U+202e, U+2066 to U+2069), and what is no UTF-8.
 *
 *	"a\nb\033[31m"  is shown as  a\nb\x1b[31m
 */
#include "lib/base/base.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LONGEST = 4 }; /* "\x1b" */

/* The bytes of one character that may be shown as it is; 0: none begins here. */
static size_t shown(const unsigned char *c)
{
	size_t n = c[0] < 0x80                   ? 1
		   : c[0] >= 0xc2 && c[0] < 0xe0 ? 2
		   : c[0] >= 0xe0 && c[0] < 0xf0 ? 3
		   : c[0] >= 0xf0 && c[0] < 0xf5 ? 4
						 : 0;
	uint32_t point = n < 2 ? c[0] : c[0] & (0x7fu >> n);

	for (size_t i = 1; i < n; i++) {
		if ((c[i] & 0xc0) != 0x80)
			return 0;
		point = point << 6 | (c[i] & 0x3f);
	}
	if (point < 0x20 || (point >= 0x7f && point < 0xa0) || (n == 3 && point < 0x800) || (n == 4 && point < 0x10000) ||
		point > 0x10ffff || (point >= 0xd800 && point < 0xe000))
		return 0;
	if (point == 0x200e || point == 0x200f || (point >= 0x2028 && point <= 0x202e) || (point >= 0x2066 && point <= 0x2069))
		return 0;
	return n;
}

void qd_escape(char *out, size_t size, const char *text)
{
	size_t used = 0;

	for (const unsigned char *c = (const unsigned char *)text; *c != '\0';) {
		size_t n = shown(c);
		char escape[LONGEST + 1];
		const char *piece = (const char *)c;
		if (n == 0) {
			piece = escape;
			snprintf(escape, sizeof(escape), *c == '\n' ? "\\n" : *c == '\t' ? "\\t" : "\\x%02x", *c);
		}
		size_t bytes = n == 0 ? strlen(escape) : n;
		if (used + bytes >= size)
			break;
		memcpy(out + used, piece, bytes);
		used += bytes;
		c += n == 0 ? 1 : n;
	}
	out[used] = '\0';
}

char *qd_escaped(const char *text)
{
	size_t size = LONGEST * strlen(text) + 1;
	char *out = malloc(size);

	if (out != NULL)
		qd_escape(out, size, text);
	return out;
}
