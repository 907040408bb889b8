/*
 * lib/draw: pictures for people. Filled boxes, enlarged images and anti-aliased text in a small stroke font, onto an 8-bit RGB
 * image. Everything is clipped to the image. Positions and sizes are pixels, colours 0xRRGGBB.
 */
#ifndef QUAD_LIB_DRAW_DRAW_H
#define QUAD_LIB_DRAW_DRAW_H

#include "lib/io/io.h"

void qd_draw_box(struct qd_image *image, int x, int y, int width, int height, uint32_t colour);

/*
 * One line of text, `size` pixels from baseline to the top of capitals; `y` is the baseline. ASCII and the sign +- (U+00B1);
 * anything else is drawn as an empty box. Returns the x where the next character would begin.
 */
double qd_draw_text(struct qd_image *image, double x, double y, double size, uint32_t colour, const char *text);
/* How wide that line is. */
double qd_draw_text_width(double size, const char *text);

/*
 * An image `pixels` f32 [3,h,w] in [0,1] (values outside are clamped), enlarged `scale` times by Catmull-Rom interpolation (Keys
 * 1981, a = -1/2) with its top left corner at x, y.
 */
void qd_draw_pixels(struct qd_image *image, int x, int y, const float *pixels, int h, int w, int scale);

#endif
