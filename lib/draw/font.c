/*
 * The stroke font. A glyph is a set of polylines, separated by blanks; a point is two characters, x and y, each a digit 0-9 or a
 * letter a-z for 10 and up. y counts upwards: descenders reach 0, the baseline is 4, small letters end at c (12), capitals at g
 * (16). A glyph is as wide as its largest x.
 */
#include "lib/draw/font.h"

#include <string.h>

static const char *const ascii[] = {
	[' '] = "",
	['!'] = "0g08 0405",
	['"'] = "0g0d 2g2d",
	['#'] = "2414 2e14 6e54 0b7b 0777",
	['$'] = "6d5e2e0d0b1a5a6967564606 3g32",
	['%'] = "046g 1g0e1c2e1g 5846546658",
	['&'] = "741d1f2g3g4f4d0806143479",
	['\''] = "0g0d",
	['('] = "2h0d0723",
	[')'] = "0h2d2703",
	['*'] = "3e38 0c6a 6c0a",
	['+'] = "0a6a 3d37",
	[','] = "1502",
	['-'] = "0a4a",
	['.'] = "0405",
	['/'] = "026g",
	['0'] = "2g0e062444666e4g2g",
	['1'] = "0d2g24",
	['2'] = "0e2g4g6e6c0464",
	['3'] = "0e2g4g6e6c4a2a 4a6866442406",
	['4'] = "545g0878",
	['5'] = "5g0g0b4b6966441405",
	['6'] = "5g3g0c06244466684a2a08",
	['7'] = "0g6g24",
	['8'] = "2g0e0c2a4a6c6e4g2g 2a0806244466684a",
	['9'] = "1434686e4g2g0e0c2a4a6c",
	[':'] = "0405 0b0c",
	[';'] = "1502 1b1c",
	['<'] = "5d0955",
	['='] = "0c5c 0858",
	['>'] = "0d5905",
	['?'] = "0e2g4g6e6c3a37 3435",
	['@'] = "6c4d3b3948697d 697a8d7f5g3g0d07344454",
	['A'] = "044g84 2a6a",
	['B'] = "040g5g7e7c5a0a 5a78765404",
	['C'] = "7e5g3g0d07345476",
	['D'] = "040g4g7d774404",
	['E'] = "7g0g0474 0a5a",
	['F'] = "7g0g04 0a5a",
	['G'] = "7e5g3g0d073454767a4a",
	['H'] = "040g 747g 0a7a",
	['I'] = "040g",
	['J'] = "5g56342406",
	['K'] = "040g 7g09 2b74",
	['L'] = "0g0474",
	['M'] = "040g4a8g84",
	['N'] = "040g747g",
	['O'] = "3g0d073454878d5g3g",
	['P'] = "040g5g7e7b5909",
	['Q'] = "3g0d073454878d5g3g 5784",
	['R'] = "040g5g7e7b5909 4974",
	['S'] = "7e5g2g0e0c2a5a7876542406",
	['T'] = "0g8g 4g44",
	['U'] = "0g062454767g",
	['V'] = "0g448g",
	['W'] = "0g244c648g",
	['X'] = "0g74 7g04",
	['Y'] = "0g4a8g 4a44",
	['Z'] = "0g7g0474",
	['['] = "2h0h0323",
	['\\'] = "0g62",
	[']'] = "0h2h2303",
	['^'] = "0c3g6c",
	['_'] = "0363",
	['`'] = "0g2e",
	['a'] = "6c64 6a4c2c0a06244466",
	['b'] = "0g04 0a2c4c6a66442406",
	['c'] = "6a4c2c0a06244466",
	['d'] = "6g64 6a4c2c0a06244466",
	['e'] = "08686a4c2c0a06244465",
	['f'] = "4g3g2f24 0c4c",
	['g'] = "6c62402001 6a4c2c0a06244466",
	['h'] = "0g04 0a2c4c6a64",
	['i'] = "0c04 0f0g",
	['j'] = "2c221000 2f2g",
	['k'] = "0g04 5c07 2954",
	['l'] = "0g04",
	['m'] = "0c04 0a2c3c5a54 5a7c8caaa4",
	['n'] = "0c04 0a2c4c6a64",
	['o'] = "2c0a062444666a4c2c",
	['p'] = "0c00 0a2c4c6a66442406",
	['q'] = "6c60 6a4c2c0a06244466",
	['r'] = "0c04 092b3c4c",
	['s'] = "5b4c1c0b0918485755441405",
	['t'] = "2f253444 0c4c",
	['u'] = "0c06244466 6c64",
	['v'] = "0c346c",
	['w'] = "0c244a648c",
	['x'] = "0c54 5c04",
	['y'] = "0c34 6c341000",
	['z'] = "0c5c0454",
	['{'] = "3h2h1g1b0a191423",
	['|'] = "0h02",
	['}'] = "0h1h2g2b3a292403",
	['~'] = "091b2b49596b",
};
static const char plus_minus[] = "0b6b 3e38 0565";
static const char unknown[] = "040g6g6404";

static int digit(char c)
{
	return c >= 'a' ? c - 'a' + 10 : c - '0';
}

/* The glyph of the character that `text` begins with; `*bytes` is how long that character is. */
static const char *glyph(const char *text, size_t *bytes)
{
	unsigned char c = (unsigned char)*text;
	*bytes = 1;
	if (c < QD_COUNT(ascii))
		return ascii[c] != NULL ? ascii[c] : unknown;
	while (((unsigned char)text[*bytes] & 0xC0) == 0x80)
		(*bytes)++;
	return *bytes == 2 && !memcmp(text, "\xC2\xB1", 2) ? plus_minus : unknown;
}

void qd_font_glyph(const char *text, struct qd_glyph *out)
{
	const char *at = glyph(text, &out->bytes);
	bool pen = false;
	out->n = 0;
	out->width = *text == ' ' ? 3 : 0;
	for (; *at != '\0' && out->n < QD_COUNT(out->x); pen = true) {
		if (*at == ' ') {
			pen = false;
			at++;
		}
		out->x[out->n] = digit(at[0]);
		out->y[out->n] = digit(at[1]) - 4;
		out->joined[out->n] = pen;
		out->width = out->x[out->n] > out->width ? out->x[out->n] : out->width;
		out->n++;
		at += 2;
	}
}
