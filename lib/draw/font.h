/* The strokes of one character, in units of a twelfth of a capital's height; y counts upwards from the baseline. Private to
 * lib/draw. */
#ifndef QUAD_LIB_DRAW_FONT_H
#define QUAD_LIB_DRAW_FONT_H

#include "lib/base/base.h"

struct qd_glyph {
	size_t bytes; /* of the text that it stands for */
	int width;
	size_t n; /* points */
	int x[32], y[32];
	bool joined[32]; /* to the point before it */
};
/* The glyph for the character that `text` (not empty) begins with. */
void qd_font_glyph(const char *text, struct qd_glyph *out);

#endif
