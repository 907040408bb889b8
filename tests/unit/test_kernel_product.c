/*
 * Packed products and what lies between them, against plain loops in double.
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
#include <stdlib.h>
#include <string.h>

static float *normal(int64_t n)
{
	float *x = aligned_alloc(64, ((size_t)n * sizeof(*x) + 64) / 64 * 64);

	assert_non_null(x);
	for (int64_t i = 0; i < n; i++)
		x[i] = (float)qd_random_normal(&random_state);
	return x;
}

static double gelu(double x)
{
	return x * (1 + erf(x / sqrt(2))) / 2;
}

/* ---- products ---- */

/* One result: the sum, and the sum of the terms' sizes, which bounds its rounding. */
struct sum {
	double value, size;
};

static struct sum sum_at(const struct qd_product_spec *s, const float *x, const float *w, const int64_t at[4])
{
	struct sum sum = { 0, 0 };

	for (int64_t c = 0; c < s->in; c++)
		for (int64_t i = 0; i < s->kernel_h; i++)
			for (int64_t j = 0; j < s->kernel_w; j++) {
				int64_t h = at[1] * s->stride_h + i * s->dilation_h - s->top,
					v = at[2] * s->stride_w + j * s->dilation_w - s->left;
				if (h < 0 || h >= s->height || v < 0 || v >= s->width)
					continue;
				double term = (double)x[((at[0] * s->height + h) * s->width + v) * s->in + c] *
					      (double)w[((at[3] * s->in + c) * s->kernel_h + i) * s->kernel_w + j];
				sum.value += term;
				sum.size += fabs(term);
			}
	return sum;
}

/* 3 x 3, padding 1, stride 1. */
static bool is_square(const struct qd_product_spec *s)
{
	return s->kernel_h == 3 && s->kernel_w == 3 && s->height == s->out_height && s->width == s->out_width && s->dilation_h == 1;
}

/*
 * Float32: n terms summed in any order err by at most n 2^-24 of the terms' sizes. A tile of a square convolution shares products
 * with its neighbours: sums of 4 pixels times sums of 9 taps, 9 of them a result, which errs as 36 times as many terms do; at the
 * rim few terms are left, but the tile has them all: 1e-5 covers it. Two bfloat16 halves keep 16 bits of each factor, so that each
 * term errs by 2^-15 more.
 */
static double allowed(const struct qd_product_spec *s, struct sum sum, double other)
{
	double terms = (double)(s->in * s->kernel_h * s->kernel_w) + 2, rim = is_square(s) ? 1e-5 : 1e-6,
	       each = terms * (is_square(s) ? 36 : 1) * ldexp(1, -24) + (s->way == QD_WAY_BFLOAT16 ? ldexp(1, -15) : 0);

	return sum.size * each + rim + 1e-6 * fabs(other);
}

static void check_product(
	const struct qd_product_spec *s, const float *x, const float *w, const float *bias, const float *other, const float *y)
{
	for (int64_t n = 0; n < s->n; n++)
		for (int64_t h = 0; h < s->out_height; h++)
			for (int64_t v = 0; v < s->out_width; v++)
				for (int64_t o = 0; o < s->out; o++) {
					int64_t i = ((n * s->out_height + h) * s->out_width + v) * s->out + o;
					struct sum sum = sum_at(s, x, w, (int64_t[]){ n, h, v, o });
					double more = other != NULL ? (double)other[i] : 0;
					double want = sum.value + (bias != NULL ? (double)bias[o] : 0) + more;
					if (!(fabs((double)y[i] - want) <= allowed(s, sum, more)))
						fail_msg("[%d,%d,%d,%d]: %.9g, needs %.9g +- %.2g (in %d out %d kernel %d after %d "
							 "way %d)",
							(int)n, (int)h, (int)v, (int)o, (double)y[i], want, allowed(s, sum, more),
							(int)s->in, (int)s->out, (int)s->kernel_h, (int)s->add, (int)s->way);
				}
}

static struct qd_tensor weight_view(const struct qd_product_spec *s, const float *w)
{
	return qd_tensor_view("w", QD_F32, QD_SHAPE(s->out, s->in, s->kernel_h, s->kernel_w), w);
}

/* Runs a product on random data twice and compares. */
static void run_product(struct qd_product_spec s)
{
	int64_t n_y = s.n * s.out_height * s.out_width * s.out;
	float *x = normal(s.n * s.height * s.width * s.in), *w = normal(s.out * s.in * s.kernel_h * s.kernel_w),
	      *bias = s.bias ? normal(s.out) : NULL, *y = normal(n_y), *again = normal(n_y), *other = s.add ? normal(n_y) : NULL;
	struct qd_tensor weights = weight_view(&s, w);
	struct qd_product *p = NULL;
	void *scratch = NULL;

	if (qd_product_new(&p, &s) != QD_OK || qd_product_pack(p, &weights) != QD_OK ||
		(scratch = aligned_alloc(64, (qd_product_scratch_bytes(p) + 64) / 64 * 64)) == NULL ||
		qd_product_run(p, x, bias, other, y, scratch) != QD_OK ||
		qd_product_run(p, x, bias, other, again, scratch) != QD_OK)
		fail_msg("%s", qd_message());
	check_product(&s, x, w, bias, other, y);
	assert_memory_equal(y, again, (size_t)n_y * sizeof(*y));
	qd_product_free(p);
	free(scratch);
	free(x);
	free(w);
	free(bias);
	free(other);
	free(y);
	free(again);
}

static void test_linear_layers(void **state)
{
	(void)state;
	for (int round = 0; round < 48; round++) {
		/* Now and then a number of rows and columns that fills whole vectors, and single ones. */
		struct qd_product_spec s =
			qd_linear_spec(round % 5 ? 1 + below(70) : 1, 1 + below(150), round % 3 ? 1 + below(90) : 64);
		s.bias = round & 1;
		s.add = round / 2 % 2;
		s.way = round / 8 % 2 ? QD_WAY_BFLOAT16 : QD_WAY_FLOAT;
		run_product(s);
	}
}

static void test_convolutions(void **state)
{
	(void)state;
	for (int round = 0; round < 48; round++) {
		struct qd_product_spec s = random_convolution(&random_state, round);
		s.bias = round & 1;
		s.add = round / 2 % 2;
		s.way = round / 4 % 2 ? QD_WAY_BFLOAT16 : QD_WAY_FLOAT;
		run_product(s);
	}
}

/* In sizes that tiles divide and in others. */
static void test_square_convolutions(void **state)
{
	(void)state;
	for (int round = 0; round < 12; round++) {
		bool large = round % 3 == 0;
		int64_t height = large ? 24 + 2 * below(5) : 4 + below(30), width = large ? 24 + 2 * below(5) : 4 + below(30);
		struct qd_product_spec s = square_convolution(2 + below(2), height, width,
			large ? 64 + 16 * below(2) : 1 + below(50), large ? 64 + 16 * below(2) : 1 + below(30));
		s.bias = round & 1;
		s.add = round / 2 % 2;
		run_product(s);
	}
}

/* A product that adds gives the bits of one that does not, and an addition: of every kind of product. */
static void test_adding_within_equals_adding_after(void **state)
{
	(void)state;
	for (int kind = 0; kind < 6; kind++) {
		int64_t size = kind % 3 == 2 ? 32 : 8, channels = kind % 3 == 2 ? 64 : 24, kernel = kind % 3 ? 3 : 1,
			pad = kernel / 2, n = size * size * channels;
		struct qd_product_spec s = { .n = 1,
			.height = size,
			.width = size,
			.in = channels,
			.out = channels,
			.kernel_h = kernel,
			.kernel_w = kernel,
			.out_height = size,
			.out_width = size,
			.stride_h = 1,
			.stride_w = 1,
			.dilation_h = 1,
			.dilation_w = 1,
			.top = pad,
			.left = pad,
			.bottom = pad,
			.right = pad,
			.bias = true,
			.way = kind < 3 ? QD_WAY_FLOAT : QD_WAY_BFLOAT16 };
		float *x = normal(n), *w = normal(channels * channels * 9), *bias = normal(channels), *other = normal(n), *y[2];
		struct qd_tensor weights = weight_view(&s, w);
		for (int add = 0; add < 2; add++) {
			struct qd_product *p = NULL;
			s.add = add;
			assert_int_equal(qd_product_new(&p, &s), QD_OK);
			void *scratch = aligned_alloc(64, (qd_product_scratch_bytes(p) + 64) / 64 * 64);
			y[add] = normal(n);
			assert_int_equal(qd_product_pack(p, &weights), QD_OK);
			assert_int_equal(qd_product_run(p, x, bias, add ? other : NULL, y[add], scratch), QD_OK);
			qd_product_free(p);
			free(scratch);
		}
		for (int64_t i = 0; i < n; i++)
			if (y[1][i] != y[0][i] + other[i])
				fail_msg("kind %d, element %d: %.9g, needs %.9g", kind, (int)i, (double)y[1][i],
					(double)(y[0][i] + other[i]));
		free(x);
		free(w);
		free(bias);
		free(other);
		free(y[0]);
		free(y[1]);
	}
}

/* Weights of 16 bits, and bytes that are not aligned, give what the same numbers in float32 give. */
static void test_weights_of_other_types(void **state)
{
	(void)state;
	static const enum qd_dtype types[] = { QD_F16, QD_BF16, QD_F32 };
	struct qd_product_spec s = qd_linear_spec(5, 33, 18);
	float *x = normal(5 * 33), *w = normal(18 * 33), y[2][5 * 18];
	char *bytes = malloc(18 * 33 * sizeof(float) + 1);
	struct qd_product *p = NULL;

	assert_int_equal(qd_product_new(&p, &s), QD_OK);
	void *scratch = aligned_alloc(64, (qd_product_scratch_bytes(p) + 64) / 64 * 64);
	for (size_t i = 0; i < QD_COUNT(types); i++) {
		struct qd_tensor plain = weight_view(&s, w), other = qd_tensor_view("w", types[i], plain.shape, bytes);
		if (types[i] == QD_F32) {
			other.data = bytes + 1;
			memcpy(other.data, w, 18 * 33 * sizeof(float));
		} else {
			assert_int_equal(qd_tensor_from_f32(&other, w), QD_OK);
			assert_int_equal(qd_tensor_to_f32(&other, w), QD_OK);
		}
		for (int k = 0; k < 2; k++) {
			assert_int_equal(qd_product_pack(p, k ? &other : &plain), QD_OK);
			assert_int_equal(qd_product_run(p, x, NULL, NULL, y[k], scratch), QD_OK);
		}
		assert_memory_equal(y[0], y[1], sizeof(y[0]));
	}
	qd_product_free(p);
	free(scratch);
	free(x);
	free(w);
	free(bytes);
}

/* ---- normalization ---- */

static double shifted(const struct qd_group_norm *g, const float *x, const float *shift, int64_t n, int64_t p, int64_t c)
{
	double t = shift != NULL ? (double)shift[(g->shift_per_sample ? n * g->channels : 0) + c] : 0;
	return (double)x[(n * g->pixels + p) * g->channels + c] + t;
}

/* Tolerance: values lie up to 100 standard deviations from zero, so x a + b cancels 7 of 24 bits; a few roundings more. */
static void check_group_norm(
	const struct qd_group_norm *g, const float *x, const float *scale, const float *bias, const float *shift, const float *y)
{
	int64_t size = g->channels / g->groups;

	for (int64_t n = 0; n < g->n; n++)
		for (int64_t group = 0; group < g->groups; group++) {
			double mean = 0, spread = 0, count = (double)(size * g->pixels);
			for (int64_t i = 0; i < size * g->pixels; i++)
				mean += shifted(g, x, shift, n, i / size, group * size + i % size) / count;
			for (int64_t i = 0; i < size * g->pixels; i++)
				spread += pow(shifted(g, x, shift, n, i / size, group * size + i % size) - mean, 2) / count;
			for (int64_t i = 0; i < size * g->pixels; i++) {
				int64_t p = i / size, c = group * size + i % size;
				double want =
					(shifted(g, x, shift, n, p, c) - mean) / sqrt(spread + (double)g->eps) * (double)scale[c] +
					(double)bias[c];
				if (g->silu)
					want /= 1 + exp(-want);
				double got = (double)y[(n * g->pixels + p) * g->channels + c];
				if (!(fabs(got - want) <= 1e-4))
					fail_msg("sample %d pixel %d channel %d: %.9g, needs %.9g", (int)n, (int)p, (int)c, got,
						want);
			}
		}
}

static void test_group_norm(void **state)
{
	(void)state;
	for (int round = 0; round < 40; round++) {
		struct qd_group_norm g = { .n = 1 + below(3),
			.pixels = round % 4 ? 1 + below(60) : 256 + below(300),
			.groups = 1 + below(5),
			.eps = 1e-5f,
			.silu = round & 1,
			.shift_per_sample = below(2) };
		g.channels = g.groups * (1 + below(9));
		int64_t n = g.n * g.pixels * g.channels;
		float *x = normal(n), *y = normal(n), *scale = normal(g.channels), *bias = normal(g.channels),
		      *shift = round % 3 ? normal(g.n * g.channels) : NULL;
		for (int64_t i = 0; i < n; i++)
			x[i] += round % 5 == 0 ? 100.0f : 0.0f;
		assert_int_equal(qd_group_norm_f32(&g, x, scale, bias, shift, y), QD_OK);
		check_group_norm(&g, x, scale, bias, shift, y);
		assert_int_equal(qd_group_norm_f32(&g, x, scale, bias, shift, x), QD_OK);
		assert_memory_equal(x, y, (size_t)n * sizeof(*x));
		free(x);
		free(y);
		free(scale);
		free(bias);
		free(shift);
	}
}

/* Tolerance: rounding of a mean of up to 200 numbers below 5, and of a square root and a quotient. */
static void test_layer_norm(void **state)
{
	(void)state;
	for (int round = 0; round < 30; round++) {
		int64_t rows = 1 + below(20), channels = 2 + below(200);
		float *x = normal(rows * channels), *y = normal(rows * channels), *scale = normal(channels),
		      *bias = round & 1 ? normal(channels) : NULL;
		qd_layer_norm_f32(rows, channels, 1e-5f, x, scale, bias, y);
		for (int64_t r = 0; r < rows; r++) {
			double mean = 0, spread = 0;
			for (int64_t c = 0; c < channels; c++)
				mean += (double)x[r * channels + c] / (double)channels;
			for (int64_t c = 0; c < channels; c++)
				spread += pow((double)x[r * channels + c] - mean, 2) / (double)channels;
			for (int64_t c = 0; c < channels; c++) {
				double want =
					((double)x[r * channels + c] - mean) / sqrt(spread + (double)1e-5f) * (double)scale[c];
				assert_true(
					fabs((double)y[r * channels + c] - want - (bias != NULL ? (double)bias[c] : 0)) <= 2e-5);
			}
		}
		free(x);
		free(y);
		free(scale);
		free(bias);
	}
}

/* ---- gates ---- */

/* The approximation of erf errs by 1.5e-7, times |x| / 2: inputs are below 20. */
static void test_gelu(void **state)
{
	(void)state;
	for (int round = 0; round < 20; round++) {
		int64_t n = 1 + below(300);
		float *x = normal(n), *y = normal(n);
		for (int64_t i = 0; i < n; i++)
			x[i] *= round % 2 ? 4.0f : 1.0f;
		qd_unary_f32(QD_UNARY_GELU, (size_t)n, x, y);
		for (int64_t i = 0; i < n; i++)
			assert_true(fabs((double)y[i] - gelu((double)x[i])) <= 1e-5 + 2e-6 * fabs(gelu((double)x[i])));
		free(x);
		free(y);
	}
}

static void test_extreme_gates(void **state)
{
	(void)state;
	float x[4] = { -1e30f, 1e30f, -0.0f, 20 }, y[4];

	qd_unary_f32(QD_UNARY_GELU, 4, x, y);
	assert_true(y[0] == 0.0f && y[1] == 1e30f && y[2] == 0.0f && y[3] == 20.0f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_linear_layers),
		cmocka_unit_test(test_convolutions),
		cmocka_unit_test(test_square_convolutions),
		cmocka_unit_test(test_adding_within_equals_adding_after),
		cmocka_unit_test(test_weights_of_other_types),
		cmocka_unit_test(test_group_norm),
		cmocka_unit_test(test_layer_norm),
		cmocka_unit_test(test_gelu),
		cmocka_unit_test(test_extreme_gates),
	};
	return cmocka_run_group_tests(tests, start_random, NULL);
}
