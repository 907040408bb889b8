/*
 * Gradients of products, normalizations and elementwise operators, and these operators themselves, against plain loops in double.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/unit/product_help.h"
#include "tests/unit/random_help.h"
#include "tests/unit/scratch.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

/* As many numbers as are asked for and no more, so that a sanitizer sees what is read beyond them. */
static float *normal(int64_t n)
{
	float *x = aligned_alloc(64, ((size_t)n * sizeof(*x) + 63) / 64 * 64);

	assert_non_null(x);
	for (int64_t i = 0; i < n; i++)
		x[i] = (float)qd_random_normal(&random_state);
	return x;
}

static void near(const char *what, int64_t i, double got, double want, double allowed)
{
	if (!(fabs(got - want) <= allowed))
		fail_msg("%s, element %d: %.9g, needs %.9g +- %.2g", what, (int)i, got, want, allowed);
}

/* ---- products ---- */

static int64_t rows_of(const struct qd_product_spec *s)
{
	return s->n * s->out_height * s->out_width;
}

static int64_t taps_of(const struct qd_product_spec *s)
{
	return s->kernel_h * s->kernel_w;
}

static int64_t inputs_of(const struct qd_product_spec *s)
{
	return s->n * s->height * s->width;
}

/*
 * The gradients at x and at w, each with the sum of its terms' sizes, which bounds its rounding: double [elements of x], [elements
 * of w].
 */
struct plain {
	double *dx, *dx_size, *dw, *dw_size;
};

static struct plain plain_gradients(const struct qd_product_spec *s, const float *x, const float *w, const float *dy)
{
	size_t n_x = (size_t)(inputs_of(s) * s->in), n_w = (size_t)(s->out * s->in * taps_of(s));
	struct plain p = { calloc(n_x, sizeof(double)), calloc(n_x, sizeof(double)), calloc(n_w, sizeof(double)),
		calloc(n_w, sizeof(double)) };

	for (int64_t row = 0; row < rows_of(s); row++)
		for (int64_t t = 0; t < taps_of(s); t++) {
			int64_t n = row / (s->out_height * s->out_width),
				h = row / s->out_width % s->out_height * s->stride_h + t / s->kernel_w * s->dilation_h - s->top,
				v = row % s->out_width * s->stride_w + t % s->kernel_w * s->dilation_w - s->left;
			if (h < 0 || h >= s->height || v < 0 || v >= s->width)
				continue;
			int64_t pixel = ((n * s->height + h) * s->width + v) * s->in;
			for (int64_t o = 0; o < s->out; o++)
				for (int64_t c = 0; c < s->in; c++) {
					int64_t at = (o * s->in + c) * taps_of(s) + t;
					double g = (double)dy[row * s->out + o], to_x = g * (double)w[at],
					       to_w = g * (double)x[pixel + c];
					p.dx[pixel + c] += to_x;
					p.dx_size[pixel + c] += fabs(to_x);
					p.dw[at] += to_w;
					p.dw_size[at] += fabs(to_w);
				}
		}
	return p;
}

static void check_weight_gradient(const struct qd_product_spec *s, const float *x, const float *dy, const struct plain *want)
{
	int64_t n = s->out * s->in * taps_of(s);
	float *dw = normal(n), *again = normal(n);

	omp_set_num_threads(1);
	assert_int_equal(qd_product_weight_gradient_f32(s, x, dy, dw), QD_OK);
	omp_set_num_threads(2);
	assert_int_equal(qd_product_weight_gradient_f32(s, x, dy, again), QD_OK);
	assert_memory_equal(dw, again, (size_t)n * sizeof(*dw));
	/* One sum after the other: each term and each partial sum is rounded once. */
	for (int64_t i = 0; i < n; i++)
		near("dw", i, (double)dw[i], want->dw[i], want->dw_size[i] * (double)(rows_of(s) + 1) * 0x1p-24 + 1e-30);
	free(dw);
	free(again);
}

/* dy with zeros between its pixels, as a product that strides needs it. */
static float *spread(const struct qd_product_spec *s, const struct qd_product_spec *back, const float *dy)
{
	float *out = normal(back->n * back->height * back->width * back->in);

	memset(out, 0, (size_t)(back->n * back->height * back->width * back->in) * sizeof(*out));
	for (int64_t row = 0; row < rows_of(s); row++) {
		int64_t n = row / (s->out_height * s->out_width), h = row / s->out_width % s->out_height * s->stride_h,
			v = row % s->out_width * s->stride_w;
		memcpy(out + ((n * back->height + h) * back->width + v) * s->out, dy + row * s->out, (size_t)s->out * sizeof(*out));
	}
	return out;
}

/* What each term errs by: two halves of bfloat16 keep 16 bits of a factor, one keeps 8; a tile of a 3 x 3 convolution has 36 terms
 * for one. */
static double term_error(const struct qd_product_spec *s, enum qd_product_way way)
{
	double tile = taps_of(s) == 9 ? 36 : 1, each = (double)(s->out * taps_of(s) + 2) * tile * 0x1p-24;

	return each + (way == QD_WAY_COARSE ? 0x1p-7 : way == QD_WAY_FLOAT ? 0 : 0x1p-15);
}

static void check_input_gradient(const struct qd_product_spec *s, const float *w, const float *dy, const struct plain *want)
{
	static const enum qd_product_way ways[] = { QD_WAY_FLOAT, QD_WAY_BEST, QD_WAY_COARSE };
	struct qd_product_spec back;

	/* More zeros than the kernel reaches over: w alone has its gradient. */
	if (qd_product_back_spec(s, &back) != QD_OK)
		return;
	float *turned = normal(s->out * s->in * taps_of(s)), *apart = spread(s, &back, dy), *dx = normal(inputs_of(s) * s->in);
	const struct qd_tensor t = qd_tensor_view("w", QD_F32, QD_SHAPE(s->in, s->out, s->kernel_h, s->kernel_w), turned);

	qd_product_turn_weights(s, w, turned);
	for (size_t i = 0; i < QD_COUNT(ways); i++) {
		struct qd_product *p = NULL;
		void *scratch;
		size_t bytes;
		back.way = ways[i];
		assert_int_equal(qd_product_new(&p, &back), QD_OK);
		assert_int_equal(qd_product_pack(p, &t), QD_OK);
		bytes = qd_product_scratch_bytes(p) + 64;
		scratch = qd_large_alloc(bytes);
		assert_int_equal(qd_product_run(p, apart, NULL, NULL, dx, scratch), QD_OK);
		for (int64_t k = 0; k < inputs_of(s) * s->in; k++)
			near("dx", k, (double)dx[k], want->dx[k],
				want->dx_size[k] * term_error(s, ways[i]) + (taps_of(s) == 9 ? 2e-5 : 1e-6));
		qd_large_free(scratch, bytes);
		qd_product_free(p);
	}
	free(turned);
	free(apart);
	free(dx);
}

static void check_product(struct qd_product_spec s)
{
	float *x = normal(inputs_of(&s) * s.in), *w = normal(s.out * s.in * taps_of(&s)), *dy = normal(rows_of(&s) * s.out);
	struct plain want = plain_gradients(&s, x, w, dy);
	void *const all[] = { x, w, dy, want.dx, want.dx_size, want.dw, want.dw_size };

	check_weight_gradient(&s, x, dy, &want);
	check_input_gradient(&s, w, dy, &want);
	for (size_t i = 0; i < QD_COUNT(all); i++)
		free(all[i]);
}

static void linear_layers(void **state)
{
	(void)state;
	/* Of both orders, and around the sizes of a tile: 4 by 4 vectors of 8 or 16. */
	static const int64_t sizes[] = { 1, 3, 4, 5, 15, 16, 17, 31, 33, 63, 64, 65, 127, 130 };

	for (size_t i = 0; i < QD_COUNT(sizes); i++)
		for (size_t k = 0; k < QD_COUNT(sizes); k += 1 + (i + k) % 2)
			check_product(qd_linear_spec(1 + below(40), sizes[i], sizes[k]));
	check_product(qd_linear_spec(4096, 4, 70));
	check_product(qd_linear_spec(1500, 70, 8));
}

static void convolutions(void **state)
{
	(void)state;
	int had = 0;

	for (int round = 0; round < 60; round++) {
		struct qd_product_spec s = random_convolution(&random_state, round), back;
		had += qd_product_back_spec(&s, &back) == QD_OK;
		check_product(s);
	}
	assert_true(had > 10);
	check_product(square_convolution(2, 16, 12, 32, 48));
	check_product(square_convolution(1, 9, 7, 5, 3));
	for (int64_t size = 7; size < 11; size++) {
		/* Halved, with zeros on both sides and, as an encoder of images has it, after the last pixel only. */
		struct qd_product_spec s = square_convolution(2, size, size + 3, 6, 20);
		s.stride_h = s.stride_w = 2;
		s.out_height = (size - 1) / 2 + 1;
		s.out_width = (size + 2) / 2 + 1;
		check_product(s);
		s.top = s.left = 0;
		s.out_height = (size + 1 - 3) / 2 + 1;
		s.out_width = (size + 4 - 3) / 2 + 1;
		check_product(s);
	}
}

/* More zeros than the kernel reaches over would have to be cut off again. */
static void too_much_padding(void **state)
{
	(void)state;
	struct qd_product_spec s = square_convolution(1, 8, 8, 4, 4), back;

	s.top = 3;
	s.out_height = 10;
	assert_int_equal(qd_product_back_spec(&s, &back), QD_EUNSUPPORTED);
	assert_non_null(strstr(qd_message(), "has no gradient"));
}

/* ---- numbers ---- */

/* Floats x [n] as numbers of a form, the middle of whose grid is a little off 0; x becomes what they stand for. */
static struct qd_numbers numbers(enum qd_form form, int64_t n, float *x)
{
	const float high = form == QD_FORM_U8 ? 255 : 65535;
	struct qd_numbers to = { form, malloc((size_t)n * sizeof(float) + 5), (size_t)n + 5, 9 / high,
		(float)below(2) + high / 2 - 0.5f, high };

	assert_non_null(to.at);
	qd_numbers_store(&to, 0, (size_t)n, x);
	qd_numbers_load(&to, 0, (size_t)n, x);
	return to;
}

static void check_mask(enum qd_form form, float zero, float high)
{
	enum { N = 67 };
	uint8_t bytes[2 * N + 3];
	struct qd_numbers x = { form, bytes, N + 3, 1, zero, high };
	float values[N], g[N];

	for (int i = 0; i < N; i++)
		values[i] = (i % 5 == 0 ? 0 : i % 5 == 1 ? high : i % 5 == 2 ? 1 : i % 5 == 3 ? high - 1 : zero) - zero;
	qd_numbers_store(&x, 0, N, values);
	for (size_t first = 0; first < 20; first++) {
		for (int i = 0; i < N; i++)
			g[i] = (float)(i + 1);
		qd_numbers_mask(&x, first, N - first, g + first);
		for (size_t i = 0; i < N; i++) {
			float q = values[i] + zero;
			bool clipped = i >= first && form != QD_FORM_F32 && q != zero && (q == 0 || q == high);
			assert_true(g[i] == (clipped ? 0 : (float)(i + 1)));
		}
	}
}

static void masks(void **state)
{
	(void)state;
	static const float highs[] = { 255, 15, 254 }, wide[] = { 65535, 4095, 65534 };
	float x[8] = { 0, 1, 2, 255, 65535, -1, NAN, 3 }, g[8] = { 1, 2, 3, 4, 5, 6, 7, 8 };
	const struct qd_numbers floats = { .form = QD_FORM_F32, .at = x };

	for (size_t i = 0; i < QD_COUNT(highs); i++)
		for (int at = 0; at < 3; at++) {
			check_mask(QD_FORM_U8, at == 0 ? 0 : at == 1 ? highs[i] : 7, highs[i]);
			check_mask(QD_FORM_U16, at == 0 ? 0 : at == 1 ? wide[i] : 2048, wide[i]);
		}
	qd_numbers_mask(&floats, 0, 8, g);
	for (int i = 0; i < 8; i++)
		assert_true(g[i] == (float)(i + 1));
}

/* ---- normalization ---- */

/*
 * dx [n] of n numbers that are normalized together; scale of element i is scale[i / inner % channels]. What it may err by is a few
 * roundings of the largest term, and of what the mean takes from numbers that are far from 0.
 */
static double plain_norm(int64_t n, const float *x, const float *scale, int64_t channels, double eps, const float *dy, double *dx)
{
	double mean = 0, variance = 0, h = 0, hx = 0, most = 0;

	for (int64_t i = 0; i < n; i++)
		mean += (double)x[i] / (double)n;
	for (int64_t i = 0; i < n; i++)
		variance += ((double)x[i] - mean) * ((double)x[i] - mean) / (double)n;
	double r = 1 / sqrt(variance + eps);
	for (int64_t i = 0; i < n; i++) {
		double one = (double)dy[i] * (double)scale[i % channels];
		h += one / (double)n;
		hx += one * ((double)x[i] - mean) * r / (double)n;
	}
	for (int64_t i = 0; i < n; i++) {
		double one = (double)dy[i] * (double)scale[i % channels], normal = ((double)x[i] - mean) * r;
		dx[i] = r * (one - h - normal * hx);
		most = fmax(most, r * (fabs(one) + fabs(h) + (fabs(normal) + fabs(mean) * r) * fabs(hx)));
	}
	return 4 * most * 0x1p-24;
}

static void check_group_norm(const struct qd_group_norm *g, enum qd_form form, float offset)
{
	int64_t n = g->n * g->pixels * g->channels, size = g->channels / g->groups, part = g->pixels * size;
	float *x = normal(n), *scale = normal(g->channels), *dy = normal(n), *had = normal(n), *dx = normal(n), *again = normal(n),
	      *px = normal(part), *pdy = normal(part);
	double *want = calloc((size_t)part, sizeof(*want));
	for (int64_t i = 0; i < n; i++)
		x[i] += offset;
	struct qd_numbers from = numbers(form, n, x);
	void *const all[] = { x, scale, dy, had, dx, again, px, pdy, want, from.at };

	memcpy(dx, had, (size_t)n * sizeof(*dx));
	memcpy(again, had, (size_t)n * sizeof(*dx));
	omp_set_num_threads(1);
	assert_int_equal(qd_group_norm_backward(g, &from, scale, dy, dx), QD_OK);
	omp_set_num_threads(2);
	assert_int_equal(qd_group_norm_backward(g, &from, scale, dy, again), QD_OK);
	assert_memory_equal(dx, again, (size_t)n * sizeof(*dx));
	for (int64_t k = 0; k < g->n * g->groups; k++) {
		int64_t base = k / g->groups * g->pixels * g->channels + k % g->groups * size;
		for (int64_t i = 0; i < part; i++) {
			px[i] = x[base + i / size * g->channels + i % size];
			pdy[i] = dy[base + i / size * g->channels + i % size];
		}
		double allowed = plain_norm(part, px, scale + k % g->groups * size, size, (double)g->eps, pdy, want);
		for (int64_t i = 0; i < part; i++) {
			int64_t at = base + i / size * g->channels + i % size;
			near("group", at, (double)dx[at], (double)had[at] + want[i], allowed + 1e-6);
		}
	}
	for (size_t i = 0; i < QD_COUNT(all); i++)
		free(all[i]);
}

static void group_norms(void **state)
{
	(void)state;
	for (int round = 0; round < 36; round++) {
		/* Samples of one slice and of several, whole and with rests. */
		struct qd_group_norm g = { .n = 1 + below(3),
			.pixels = round % 4 ? 1 + below(80) : 256 + below(600),
			.groups = 1 + below(4),
			.eps = 1e-5f };
		g.channels = g.groups * (1 + below(12));
		if (g.pixels * g.channels / g.groups > 1)
			check_group_norm(&g, (enum qd_form)(round % 3), round % 2 ? 2 : 0);
	}
	check_group_norm(&(struct qd_group_norm){ 1, 1030, 96, 32, 1e-5f, false, false }, QD_FORM_U16, 0);
}

static void check_layer_norm(int64_t rows, int64_t channels, enum qd_form form, float eps)
{
	int64_t n = rows * channels;
	float *x = normal(n), *scale = normal(channels), *dy = normal(n), *had = normal(n), *dx = normal(n), *again = normal(n);
	double *want = calloc((size_t)channels, sizeof(*want));
	struct qd_numbers from = numbers(form, n, x);
	void *const all[] = { x, scale, dy, had, dx, again, want, from.at };

	memcpy(dx, had, (size_t)n * sizeof(*dx));
	memcpy(again, had, (size_t)n * sizeof(*dx));
	omp_set_num_threads(1);
	assert_int_equal(qd_layer_norm_backward(rows, channels, eps, &from, scale, dy, dx), QD_OK);
	omp_set_num_threads(2);
	assert_int_equal(qd_layer_norm_backward(rows, channels, eps, &from, scale, dy, again), QD_OK);
	assert_memory_equal(dx, again, (size_t)n * sizeof(*dx));
	for (int64_t r = 0; r < rows; r++) {
		double allowed = plain_norm(channels, x + r * channels, scale, channels, (double)eps, dy + r * channels, want);
		for (int64_t i = 0; i < channels; i++)
			near("row", r * channels + i, (double)dx[r * channels + i], (double)had[r * channels + i] + want[i],
				allowed + 1e-6);
	}
	for (size_t i = 0; i < QD_COUNT(all); i++)
		free(all[i]);
}

static void layer_norms(void **state)
{
	(void)state;
	for (int round = 0; round < 30; round++)
		check_layer_norm(1 + below(100), 2 + below(70), (enum qd_form)(round % 3), round % 2 ? 1e-5f : 0.1f);
	check_layer_norm(700, 99, QD_FORM_U16, 1e-5f);
}

/* ---- elementwise ---- */

static double unary(enum qd_unary op, double x)
{
	switch (op) {
	case QD_UNARY_SIGMOID:
		return 1 / (1 + exp(-x));
	case QD_UNARY_GELU:
		return x * (1 + erf(x / sqrt(2))) / 2;
	case QD_UNARY_RELU:
		return x > 0 ? x : 0;
	case QD_UNARY_NEG:
		return -x;
	}
	return NAN;
}

static void slopes(void **state)
{
	(void)state;
	static const enum qd_unary ops[] = { QD_UNARY_SIGMOID, QD_UNARY_GELU, QD_UNARY_RELU, QD_UNARY_NEG };
	static const float special[] = { 0.0f, -0.0f, 1e-30f, -1e-30f, 20, -20, 100, -100, 1e4f, -1e4f, 1e18f, -1e18f };

	for (size_t k = 0; k < QD_COUNT(ops); k++)
		for (int64_t n = 1; n < 70; n++) {
			float *x = normal(n), *g = normal(n), *had = normal(n), *y = normal(n);
			for (int64_t i = 0; i < n; i++)
				x[i] = i < (int64_t)QD_COUNT(special) && n > 60 ? special[i] : 3 * x[i];
			memcpy(had, g, (size_t)n * sizeof(*g));
			qd_unary_slope_f32(ops[k], (size_t)n, x, g);
			qd_unary_f32(ops[k], (size_t)n, x, y);
			for (int64_t i = 0; i < n; i++) {
				double at = (double)x[i], step = 1e-5,
				       slope = (unary(ops[k], at + step) - unary(ops[k], at - step)) / (2 * step);
				if (fabs(at) > 1e3)
					slope = ops[k] == QD_UNARY_NEG ? -1 : ops[k] == QD_UNARY_SIGMOID ? 0 : at > 0;
				if (ops[k] == QD_UNARY_RELU)
					slope = at > 0;
				near("slope", i, (double)g[i], slope * (double)had[i], 2e-6 * (1 + fabs((double)had[i])));
				near("value", i, (double)y[i], unary(ops[k], at), 2e-6 + 2e-7 * fabs(at));
			}
			/* in an operand's place */
			qd_unary_f32(ops[k], (size_t)n, x, x);
			assert_memory_equal(x, y, (size_t)n * sizeof(*x));
			void *const all[] = { x, g, had, y };
			for (size_t i = 0; i < QD_COUNT(all); i++)
				free(all[i]);
		}
}

static float binary(enum qd_binary op, float a, float b)
{
	return op == QD_BINARY_ADD ? a + b : op == QD_BINARY_SUB ? a - b : op == QD_BINARY_MUL ? a * b : a / b;
}

static void binaries(void **state)
{
	(void)state;
	static const enum qd_binary ops[] = { QD_BINARY_ADD, QD_BINARY_SUB, QD_BINARY_MUL, QD_BINARY_DIV };

	for (size_t k = 0; k < QD_COUNT(ops); k++)
		for (int64_t n = 1; n < 70; n++) {
			float *a = normal(n), *b = normal(n), *y = normal(n), *copy = normal(n), number = 1.7f;
			qd_binary_f32(ops[k], (size_t)n, a, b, y);
			for (int64_t i = 0; i < n; i++)
				assert_true(y[i] == binary(ops[k], a[i], b[i]));
			/* in the place of either operand */
			memcpy(copy, a, (size_t)n * sizeof(*a));
			qd_binary_f32(ops[k], (size_t)n, copy, b, copy);
			assert_memory_equal(copy, y, (size_t)n * sizeof(*a));
			memcpy(copy, b, (size_t)n * sizeof(*a));
			qd_binary_f32(ops[k], (size_t)n, a, copy, copy);
			assert_memory_equal(copy, y, (size_t)n * sizeof(*a));
			for (int swapped = 0; swapped < 2; swapped++) {
				memcpy(copy, a, (size_t)n * sizeof(*a));
				qd_binary_number_f32(ops[k], (size_t)n, copy, number, swapped, copy);
				for (int64_t i = 0; i < n; i++)
					assert_true(
						copy[i] == (swapped ? binary(ops[k], number, a[i]) : binary(ops[k], a[i], number)));
			}
			void *const all[] = { a, b, y, copy };
			for (size_t i = 0; i < QD_COUNT(all); i++)
				free(all[i]);
		}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(linear_layers),
		cmocka_unit_test(convolutions),
		cmocka_unit_test(too_much_padding),
		cmocka_unit_test(masks),
		cmocka_unit_test(group_norms),
		cmocka_unit_test(layer_norms),
		cmocka_unit_test(slopes),
		cmocka_unit_test(binaries),
	};
	return cmocka_run_group_tests(tests, start_random, NULL);
}
