/*
 * 3 x 3 convolutions by Winograd's minimal filtering F(2 x 2, 3 x 3) (Lavin & Gray 2015, "Fast Algorithms for Convolutional Neural
 * Networks"): each tile of 2 x 2 results is made of 16 products per pair of channels, where the definition takes 36. For a tile
 * with its input patch d (4 x 4) and a kernel g (3 x 3),
 *
 *   y = A^T [ (G g G^T) * (B^T d B) ] A        * element by element, summed over input channels
 *
 *          1  0 -1  0             1    0    0
 *   B^T =  0  1  1  0      G =   1/2  1/2  1/2      A^T =  1  1  1  0
 *          0 -1  1  0            1/2 -1/2  1/2             0  1 -1 -1
 *          0  1  0 -1             0    0    1
 *
 * so that a convolution becomes 16 matrix products [tiles, in] x [in, out], which oneDNN makes, between two transforms that add and
 * subtract. Its rounding error is at most one and a half times the definition's in float32; larger tiles save more products but err
 * five times as much and need four times the memory for transformed weights.
 *
 * Tiles are taken in chunks of whole rows of them, so that what lies between the transforms stays in the cache.
 */
#include "lib/kernel/winograd.h"
#include "lib/kernel/dnnl.h"
#include "lib/kernel/vector.h"

#include <stdlib.h>

enum { POINTS = 16, CHUNK_BYTES = 16 << 20 };

struct qd_winograd {
	struct qd_product_spec spec;
	int64_t rows, columns, chunk; /* rows of tiles over all samples, tiles in a row, rows taken at a time */
	struct qd_dnnl *product;      /* [chunk * columns, in] x [in, out] */
};

bool qd_winograd_fits(const struct qd_product_spec *s)
{
	bool form = s->kernel_h == 3 && s->kernel_w == 3 && s->stride_h == 1 && s->stride_w == 1 && s->dilation_h == 1 &&
		    s->dilation_w == 1 && s->top == 1 && s->left == 1 && s->bottom == 1 && s->right == 1;

	/* The transforms cost as much as a few dozen channels do, and few tiles leave the products narrow. */
	return form && s->in % QD_LANES == 0 && s->out % QD_LANES == 0 && s->in >= 64 && s->out >= 64 && s->height % 2 == 0 &&
	       s->width % 2 == 0 && s->n * s->height * s->width >= 1024;
}

static int64_t tiles(const struct qd_winograd *winograd)
{
	return winograd->chunk * winograd->columns;
}

/* The most rows of tiles that divide all of them and fit. */
static int64_t rows_at_once(const struct qd_winograd *winograd)
{
	int64_t row = POINTS * winograd->columns * winograd->spec.in * (int64_t)sizeof(float), best = 1;

	for (int64_t r = 2; r <= winograd->rows && r * row <= CHUNK_BYTES; r++)
		if (winograd->rows % r == 0)
			best = r;
	return best;
}

enum qd_status qd_winograd_new(struct qd_winograd **out, const struct qd_product_spec *spec)
{
	struct qd_winograd *winograd = calloc(1, sizeof(*winograd));
	enum qd_status st;

	*out = NULL;
	if (winograd == NULL)
		return qd_fail(QD_ENOMEM, "out of memory for a convolution");
	winograd->spec = *spec;
	winograd->rows = spec->n * spec->height / 2;
	winograd->columns = spec->width / 2;
	winograd->chunk = rows_at_once(winograd);
	struct qd_product_spec product = qd_linear_spec(tiles(winograd), spec->in, spec->out);
	QD_TRY(st, qd_dnnl_new(&winograd->product, &product, &(struct qd_dnnl_options){ 0 }));
	*out = winograd;
	winograd = NULL;
out:
	qd_winograd_free(winograd);
	return st;
}

void qd_winograd_free(struct qd_winograd *winograd)
{
	if (winograd == NULL)
		return;
	qd_dnnl_free(winograd->product);
	free(winograd);
}

size_t qd_winograd_weight_bytes(const struct qd_winograd *winograd)
{
	return POINTS * qd_whole_lines(qd_dnnl_weight_bytes(winograd->product));
}

/* Transformed input and transformed output of a chunk, a pixel of zeros, and oneDNN's own. */
size_t qd_winograd_scratch_bytes(const struct qd_winograd *winograd)
{
	size_t in = (size_t)winograd->spec.in, out = (size_t)winograd->spec.out;

	return (POINTS * (size_t)tiles(winograd) * (in + out) + in) * sizeof(float) +
	       qd_whole_lines(qd_dnnl_scratch_bytes(winograd->product));
}

/* ---- weights: G g G^T ---- */

/* Row r of G times a column (a, b, c) of the kernel. */
static float filtered(int r, float a, float b, float c)
{
	switch (r) {
	case 0:
		return a;
	case 1:
		return 0.5f * (a + b + c);
	case 2:
		return 0.5f * (a - b + c);
	default:
		return c;
	}
}

/* The four points of row r: f32 [4, n] of n kernels. */
static void transform_kernels(int r, int64_t n, const float *w, float *u)
{
#pragma omp parallel for schedule(static) if (9 * n >= QD_PARALLEL_MIN)
	for (int64_t i = 0; i < n; i++) {
		const float *g = w + 9 * i;
		float a = filtered(r, g[0], g[3], g[6]), b = filtered(r, g[1], g[4], g[7]), c = filtered(r, g[2], g[5], g[8]);
		for (int j = 0; j < 4; j++)
			u[j * n + i] = filtered(j, a, b, c);
	}
}

enum qd_status qd_winograd_pack(struct qd_winograd *winograd, const float *w, void *packed)
{
	int64_t n = winograd->spec.in * winograd->spec.out;
	size_t each = qd_whole_lines(qd_dnnl_weight_bytes(winograd->product));
	size_t bytes = 4 * (size_t)n * sizeof(float);
	float *u = qd_large_alloc(bytes);
	enum qd_status st = QD_OK;

	if (u == NULL)
		return qd_fail(QD_ENOMEM, "out of memory for packing weights");
	for (int r = 0; r < 4; r++) {
		transform_kernels(r, n, w, u);
		for (int j = 0; j < 4; j++)
			QD_TRY(st, qd_dnnl_pack(winograd->product, u + j * n, (char *)packed + (size_t)(4 * r + j) * each));
	}
out:
	qd_large_free(u, bytes);
	return st;
}

/* ---- input: B^T d B ---- */

/* One tile: d points at its 16 pixels, v at its row of the first point; `step` floats from point to point. */
QD_VECTOR static void transform_input(int64_t channels, const float *const d[POINTS], float *v, int64_t step)
{
	for (int64_t c = 0; c < channels; c += QD_LANES) {
		vec t[4][4];
		for (int j = 0; j < 4; j++) {
			vec d0 = load(d[j] + c), d1 = load(d[4 + j] + c), d2 = load(d[8 + j] + c), d3 = load(d[12 + j] + c);
			t[0][j] = d0 - d2;
			t[1][j] = d1 + d2;
			t[2][j] = d2 - d1;
			t[3][j] = d1 - d3;
		}
		for (int i = 0; i < 4; i++) {
			float *to = v + 4 * i * step + c;
			store(to, t[i][0] - t[i][2]);
			store(to + step, t[i][1] + t[i][2]);
			store(to + 2 * step, t[i][2] - t[i][1]);
			store(to + 3 * step, t[i][1] - t[i][3]);
		}
	}
}

/* The chunk of rows of tiles that begins with `first`: v f32 [16, tiles, in]. */
static void transform_inputs(const struct qd_winograd *winograd, const float *x, int64_t first, const float *zeros, float *v)
{
	const struct qd_product_spec *s = &winograd->spec;
	int64_t high = s->height / 2;

#pragma omp parallel for schedule(static) if (POINTS * tiles(winograd) * s->in >= QD_PARALLEL_MIN)
	for (int64_t i = 0; i < tiles(winograd); i++) {
		int64_t row = first + i / winograd->columns, top = row % high * 2 - 1, left = i % winograd->columns * 2 - 1;
		const float *image = x + row / high * s->height * s->width * s->in, *d[POINTS];
		for (int k = 0; k < POINTS; k++) {
			int64_t h = top + k / 4, w = left + k % 4;
			bool inside = h >= 0 && h < s->height && w >= 0 && w < s->width;
			d[k] = inside ? image + (h * s->width + w) * s->in : zeros;
		}
		transform_input(s->in, d, v + i * s->in, tiles(winograd) * s->in);
	}
}

/* ---- output: A^T m A ---- */

/* One tile: m at its row of the first point, to[4] its pixels of y; bias and other may be NULL, other as y. */
QD_VECTOR static void transform_output(
	int64_t channels, const float *m, int64_t step, const float *bias, const float *const other[4], float *const to[4])
{
	for (int64_t c = 0; c < channels; c += QD_LANES) {
		vec t[2][4], y[4], b = bias != NULL ? load(bias + c) : all(0.0f);
		for (int j = 0; j < 4; j++) {
			const float *at = m + j * step + c;
			vec m0 = load(at), m1 = load(at + 4 * step), m2 = load(at + 8 * step), m3 = load(at + 12 * step);
			t[0][j] = m0 + m1 + m2;
			t[1][j] = m1 - m2 - m3;
		}
		for (int i = 0; i < 2; i++) {
			y[2 * i] = t[i][0] + t[i][1] + t[i][2] + b;
			y[2 * i + 1] = t[i][1] - t[i][2] - t[i][3] + b;
		}
		for (int k = 0; k < 4; k++)
			store(to[k] + c, other ? y[k] + load(other[k] + c) : y[k]);
	}
}

static void transform_outputs(
	const struct qd_winograd *winograd, const float *m, int64_t first, const float *bias, const float *other, float *y)
{
	const struct qd_product_spec *s = &winograd->spec;
	int64_t high = s->height / 2;

#pragma omp parallel for schedule(static) if (POINTS * tiles(winograd) * s->out >= QD_PARALLEL_MIN)
	for (int64_t i = 0; i < tiles(winograd); i++) {
		int64_t row = first + i / winograd->columns, column = i % winograd->columns;
		float *to[4];
		const float *more[4];
		for (int k = 0; k < 4; k++) {
			int64_t h = row / high * s->height + row % high * 2 + k / 2,
				at = (h * s->width + column * 2 + k % 2) * s->out;
			to[k] = y + at;
			more[k] = other != NULL ? other + at : NULL;
		}
		transform_output(s->out, m + i * s->out, tiles(winograd) * s->out, bias, other != NULL ? more : NULL, to);
	}
}

enum qd_status qd_winograd_run(struct qd_winograd *winograd, const float *x, const void *packed, const float *bias,
	const float *other, float *y, void *scratch)
{
	int64_t in = tiles(winograd) * winograd->spec.in, out = tiles(winograd) * winograd->spec.out;
	size_t each = qd_whole_lines(qd_dnnl_weight_bytes(winograd->product));
	float *v = scratch, *m = v + POINTS * in, *zeros = m + POINTS * out;
	void *own = zeros + winograd->spec.in;
	enum qd_status st = QD_OK;

	memset(zeros, 0, (size_t)winograd->spec.in * sizeof(*zeros));
	for (int64_t first = 0; first < winograd->rows; first += winograd->chunk) {
		transform_inputs(winograd, x, first, zeros, v);
		for (int64_t i = 0; i < POINTS; i++)
			QD_TRY(st, qd_dnnl_run(winograd->product, v + i * in, (const char *)packed + (size_t)i * each, NULL, NULL,
					   m + i * out, own));
		transform_outputs(winograd, m, first, bias, other, y);
	}
out:
	return st;
}
