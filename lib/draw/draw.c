/*
 * Drawing. Text: a pixel's coverage is clamp(r + 1/2 - d), d its distance to the nearest stroke of the character and r half the
 * pen's width. Enlarging: output pixel i lies at (i + 1/2) / scale - 1/2 in the input, whose pixels at a distance t weigh
 *
 *   w(t) = 1 - 5/2 t^2 + 3/2 |t|^3               for |t| <= 1
 *          2 - 4 |t| + 5/2 t^2 - 1/2 |t|^3       for |t| <= 2
 *
 * with the edges repeated.
 */
#include "lib/draw/draw.h"
#include "lib/draw/font.h"

#include <math.h>

static int limit(int v, int low, int high)
{
	return v < low ? low : (v > high ? high : v);
}

void qd_draw_box(struct qd_image *image, int x, int y, int width, int height, uint32_t colour)
{
	int x0 = limit(x, 0, image->width), x1 = limit(x + width, 0, image->width);
	int y0 = limit(y, 0, image->height), y1 = limit(y + height, 0, image->height);
	for (int j = y0; j < y1; j++) {
		uint8_t *p = image->rgb + 3 * ((size_t)j * (size_t)image->width + (size_t)x0);
		for (int i = x0; i < x1; i++, p += 3) {
			p[0] = (uint8_t)(colour >> 16);
			p[1] = (uint8_t)(colour >> 8);
			p[2] = (uint8_t)colour;
		}
	}
}

/* ---- text ---- */

static void blend(struct qd_image *image, int x, int y, uint32_t colour, double alpha)
{
	uint8_t *p = image->rgb + 3 * ((size_t)y * (size_t)image->width + (size_t)x);
	for (int c = 0; c < 3; c++) {
		double ink = (colour >> (16 - 8 * c)) & 0xFF;
		p[c] = (uint8_t)lrint(p[c] + alpha * (ink - p[c]));
	}
}

static double distance_to_segment(double px, double py, double ax, double ay, double bx, double by)
{
	double dx = bx - ax, dy = by - ay, length2 = dx * dx + dy * dy;
	double t = length2 > 0 ? ((px - ax) * dx + (py - ay) * dy) / length2 : 0;
	t = fmin(fmax(t, 0), 1);
	return hypot(px - ax - t * dx, py - ay - t * dy);
}

static double distance_to_glyph(const struct qd_glyph *glyph, double x, double y)
{
	double nearest = HUGE_VAL;
	for (size_t i = 1; i < glyph->n; i++)
		if (glyph->joined[i])
			nearest = fmin(
				nearest, distance_to_segment(x, y, glyph->x[i - 1], glyph->y[i - 1], glyph->x[i], glyph->y[i]));
	return nearest;
}

static void draw_glyph(struct qd_image *image, double x, double y, double unit, uint32_t colour, const struct qd_glyph *glyph)
{
	double pen = fmax(0.55, 0.85 * unit);
	int x0 = limit((int)floor(x - pen - 1), 0, image->width),
	    x1 = limit((int)ceil(x + glyph->width * unit + pen + 1), 0, image->width);
	int y0 = limit((int)floor(y - 13 * unit - pen - 1), 0, image->height),
	    y1 = limit((int)ceil(y + 4 * unit + pen + 1), 0, image->height);
	for (int j = y0; j < y1; j++)
		for (int i = x0; i < x1; i++) {
			double d = unit * distance_to_glyph(glyph, (i + 0.5 - x) / unit, (y - j - 0.5) / unit);
			double cover = fmin(fmax(pen + 0.5 - d, 0), 1);
			if (cover > 0)
				blend(image, i, j, colour, cover);
		}
}

double qd_draw_text(struct qd_image *image, double x, double y, double size, uint32_t colour, const char *text)
{
	double unit = size / 12;
	struct qd_glyph glyph;
	for (; *text != '\0'; text += glyph.bytes) {
		qd_font_glyph(text, &glyph);
		draw_glyph(image, x, y, unit, colour, &glyph);
		x += (glyph.width + 3) * unit;
	}
	return x;
}

double qd_draw_text_width(double size, const char *text)
{
	double width = 0;
	struct qd_glyph glyph;
	for (; *text != '\0'; text += glyph.bytes) {
		qd_font_glyph(text, &glyph);
		width += glyph.width + 3;
	}
	return width > 0 ? (width - 3) * size / 12 : 0;
}

/* ---- enlarging ---- */

static double cubic(double t)
{
	t = fabs(t);
	if (t <= 1)
		return 1 - 2.5 * t * t + 1.5 * t * t * t;
	return t < 2 ? 2 - 4 * t + 2.5 * t * t - 0.5 * t * t * t : 0;
}

static double sample_at(const float *plane, int h, int w, double y, double x)
{
	int y0 = (int)floor(y), x0 = (int)floor(x);
	double sum = 0;
	for (int j = y0 - 1; j <= y0 + 2; j++)
		for (int i = x0 - 1; i <= x0 + 2; i++) {
			double v = plane[(size_t)limit(j, 0, h - 1) * (size_t)w + (size_t)limit(i, 0, w - 1)];
			sum += cubic(y - j) * cubic(x - i) * fmin(fmax(v, 0), 1);
		}
	return fmin(fmax(sum, 0), 1);
}

void qd_draw_pixels(struct qd_image *image, int x, int y, const float *pixels, int h, int w, int scale)
{
	for (int j = limit(-y, 0, h * scale); j < h * scale && y + j < image->height; j++)
		for (int i = limit(-x, 0, w * scale); i < w * scale && x + i < image->width; i++) {
			uint8_t *p = image->rgb + 3 * ((size_t)(y + j) * (size_t)image->width + (size_t)(x + i));
			for (int c = 0; c < 3; c++)
				p[c] = (uint8_t)lrint(255 * sample_at(pixels + (size_t)c * (size_t)h * (size_t)w, h, w,
								    (j + 0.5) / scale - 0.5, (i + 0.5) / scale - 0.5));
		}
}
