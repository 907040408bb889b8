/*
 * Gradients of products. Of x: the same kind of product with the weights turned round,
 *
 *   dx[i] = sum over taps t, outputs o of dy[o at the pixel that t sees i from] w[o, i, t]
 *
 * a convolution of dy with taps from the last to the first; where the product strides, dy lies apart with zeros between. Of w: sums over
 * rows of outer products, for each tap, in tiles of sums that stay in registers.
 */
#include "lib/kernel/dnnl.h"
#include "lib/kernel/vector.h"

#include <stdlib.h>

/* ---- of x ---- */

enum qd_status qd_product_back_spec(const struct qd_product_spec *s, struct qd_product_spec *out)
{
	int64_t reach_h = (s->kernel_h - 1) * s->dilation_h, reach_w = (s->kernel_w - 1) * s->dilation_w;

	*out = *s;
	out->height = (s->out_height - 1) * s->stride_h + 1;
	out->width = (s->out_width - 1) * s->stride_w + 1;
	out->in = s->out;
	out->out = s->in;
	out->out_height = s->height;
	out->out_width = s->width;
	out->stride_h = out->stride_w = 1;
	out->top = reach_h - s->top;
	out->left = reach_w - s->left;
	out->bottom = s->height + reach_h - out->height - out->top;
	out->right = s->width + reach_w - out->width - out->left;
	out->bias = out->add = false;
	if (out->top < 0 || out->left < 0 || out->bottom < 0 || out->right < 0)
		return qd_fail(QD_EUNSUPPORTED, "a convolution with more padding than its kernel reaches has no gradient");
	return QD_OK;
}

void qd_product_turn_weights(const struct qd_product_spec *s, const float *w, float *turned)
{
	size_t in = (size_t)s->in, out = (size_t)s->out, taps = (size_t)(s->kernel_h * s->kernel_w);

#pragma omp parallel for schedule(static) if (in * out * taps > 65536)
	for (size_t i = 0; i < in; i++)
		for (size_t o = 0; o < out; o++)
			for (size_t t = 0; t < taps; t++)
				turned[(i * out + o) * taps + taps - 1 - t] = w[(o * in + i) * taps + t];
}

/* ---- of w ---- */

enum { TALL = 4, WIDE = 4 }; /* a tile: rows of sums, and vectors in a row */

/* The row of x under a tap for each row of the result, or a negative number outside. */
static void find_rows(const struct qd_product_spec *s, int64_t tap, int64_t *rows)
{
	int64_t y = tap / s->kernel_w * s->dilation_h - s->top, x = tap % s->kernel_w * s->dilation_w - s->left, at = 0;

	for (int64_t n = 0; n < s->n; n++)
		for (int64_t h = 0; h < s->out_height; h++)
			for (int64_t w = 0; w < s->out_width; w++) {
				int64_t row = h * s->stride_h + y, column = w * s->stride_w + x;
				bool inside = row >= 0 && row < s->height && column >= 0 && column < s->width;
				rows[at++] = inside ? (n * s->height + row) * s->width + column : -1;
			}
}

/* sum[p, q] of one tile: a [rows, a_width] at column p, b [rows, b_width] at column q, `high` by `columns` of it counting. */
INLINE void outer_tile(const int64_t *b_rows, size_t n, const float *a, size_t a_width, size_t high, const float *b, size_t b_width,
	size_t columns, float sums[TALL][WIDE * QD_LANES])
{
	vec sum[TALL][WIDE];
	bool whole = columns == WIDE * QD_LANES;

	for (size_t p = 0; p < TALL; p++)
		for (size_t q = 0; q < WIDE; q++)
			sum[p][q] = (vec){ 0 };
	for (size_t r = 0; r < n; r++) {
		vec right[WIDE];
		if (b_rows[r] < 0)
			continue;
		const float *from = b + (size_t)b_rows[r] * b_width;
		for (size_t q = 0; q < WIDE; q++) {
			size_t left = q * QD_LANES < columns ? columns - q * QD_LANES : 0;
			right[q] = whole ? load(from + q * QD_LANES)
					 : load_part(from + q * QD_LANES, left < QD_LANES ? left : QD_LANES);
		}
		for (size_t p = 0; p < TALL; p++)
			for (size_t q = 0; q < WIDE; q++)
				sum[p][q] += a[r * a_width + (p < high ? p : high - 1)] * right[q];
	}
	for (size_t p = 0; p < TALL; p++)
		for (size_t q = 0; q < WIDE; q++)
			store(&sums[p][q * QD_LANES], sum[p][q]);
}

/* A tile of dw at outputs o, inputs i. */
QD_VECTOR static void tile_of(const struct qd_product_spec *s, const int64_t *rows, size_t n, const float *x, const float *dy,
	size_t o, size_t i, size_t tap, float *dw)
{
	size_t taps = (size_t)(s->kernel_h * s->kernel_w), high = qd_min_size(TALL, (size_t)s->out - o),
	       columns = qd_min_size(WIDE * QD_LANES, (size_t)s->in - i);
	float sums[TALL][WIDE * QD_LANES];

	outer_tile(rows, n, dy + o, (size_t)s->out, high, x + i, (size_t)s->in, columns, sums);
	for (size_t p = 0; p < high; p++)
		for (size_t q = 0; q < columns; q++)
			dw[((o + p) * (size_t)s->in + i + q) * taps + tap] = sums[p][q];
}

/* The same of a linear layer, with vectors along its outputs. */
QD_VECTOR static void turned_tile_of(const struct qd_product_spec *s, const int64_t *rows, size_t n, const float *x,
	const float *dy, size_t i, size_t o, float *dw)
{
	size_t high = qd_min_size(TALL, (size_t)s->in - i), columns = qd_min_size(WIDE * QD_LANES, (size_t)s->out - o);
	float sums[TALL][WIDE * QD_LANES];

	outer_tile(rows, n, x + i, (size_t)s->in, high, dy + o, (size_t)s->out, columns, sums);
	for (size_t p = 0; p < high; p++)
		for (size_t q = 0; q < columns; q++)
			dw[(o + q) * (size_t)s->in + i + p] = sums[p][q];
}

static size_t tiles(int64_t n, size_t size)
{
	return ((size_t)n + size - 1) / size;
}

enum qd_status qd_product_weight_gradient_f32(const struct qd_product_spec *s, const float *x, const float *dy, float *dw)
{
	size_t n = (size_t)(s->n * s->out_height * s->out_width), taps = (size_t)(s->kernel_h * s->kernel_w);
	/* Vectors are filled by the longer side. */
	bool turned = qd_product_is_linear(s) && s->in < s->out;
	size_t high = tiles(turned ? s->in : s->out, TALL), wide = tiles(turned ? s->out : s->in, WIDE * QD_LANES);
	int64_t *rows = malloc((n + 1) * sizeof(*rows));

	if (rows == NULL)
		return qd_fail(QD_ENOMEM, "out of memory for a gradient");
	for (size_t tap = 0; tap < taps; tap++) {
		find_rows(s, (int64_t)tap, rows);
#pragma omp parallel for schedule(static) if (n * high * wide > 256)
		for (size_t t = 0; t < high * wide; t++) {
			size_t p = t / wide * TALL, q = t % wide * WIDE * QD_LANES;
			if (turned)
				turned_tile_of(s, rows, n, x, dy, p, q, dw);
			else
				tile_of(s, rows, n, x, dy, p, q, tap, dw);
		}
	}
	free(rows);
	return QD_OK;
}
