/*
 * lib/kernel against plain loops, and quantization against the golden cases, which have to be equal exactly.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "lib/kernel/kernel.h"
#include "lib/math/math.h"
#include "tests/unit/random_help.h"
#include "tests/unit/scratch.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static size_t upto(size_t n)
{
	return (size_t)qd_random_below(&random_state, n);
}

static float *normal(size_t n)
{
	float *x = malloc((n + 1) * sizeof(*x));

	assert_non_null(x);
	for (size_t i = 0; i < n; i++)
		x[i] = (float)qd_random_normal(&random_state);
	return x;
}

/* ---- quantization ---- */

struct reference {
	int32_t q;
	float y;
	bool inside;
};

/* The definition, one element at a time. */
static struct reference quantize_one(float x, float scale, float zero, float low, float high)
{
	float at = rintf(x / scale) + zero, clamped = at;

	if (isnan(at) || at < low)
		clamped = low;
	else if (at > high)
		clamped = high;
	return (struct reference){ (int32_t)clamped, (float)((int32_t)clamped - (int32_t)zero) * scale, at >= low && at <= high };
}

static void check_grid(const struct qd_grid *grid, const float *x, const float *dy)
{
	size_t n = grid->outer * grid->channels * grid->inner, outside = 0;
	int32_t *q = malloc(n * sizeof(*q));
	float *y = malloc(n * sizeof(*y)), *fake = malloc(n * sizeof(*fake)), *dx = malloc(n * sizeof(*dx));

	qd_quantize_f32(grid, x, q);
	qd_dequantize_f32(grid, q, y);
	size_t counted = qd_fake_quantize_f32(grid, x, fake);
	qd_fake_quantize_backward_f32(grid, x, dy, dx);
	for (size_t i = 0; i < n; i++) {
		size_t c = i / grid->inner % grid->channels;
		struct reference r = quantize_one(x[i], grid->scale[c], grid->zero[c], grid->low, grid->high);
		assert_int_equal(q[i], r.q);
		assert_true(y[i] == r.y && fake[i] == r.y);
		assert_true(dx[i] == (r.inside ? dy[i] : 0.0f));
		outside += !r.inside;
	}
	assert_int_equal(counted, outside);
	free(q);
	free(y);
	free(fake);
	free(dx);
}

static void test_quantize_equals_definition(void **state)
{
	(void)state;
	for (int round = 0; round < 60; round++) {
		/* Some arrays are long enough for several threads and chunks, some rows are single elements. */
		struct qd_grid grid = { .outer = 1 + upto(5), .channels = 1 + upto(7), .inner = round % 3 ? 1 + upto(300) : 1 };
		if (round % 10 == 0)
			grid.inner = 20000 + upto(9000);
		size_t n = grid.outer * grid.channels * grid.inner;
		float scale[8], zero[8], *x = normal(n), *dy = normal(n);
		int bits = 4 << upto(3);
		bool is_signed = upto(2);
		grid.low = is_signed ? -ldexpf(1, bits - 1) : 0;
		grid.high = grid.low + ldexpf(1, bits) - 1;
		for (size_t c = 0; c < grid.channels; c++) {
			/* Small enough that a good part of the elements is outside. */
			scale[c] = (0.5f + (float)qd_random_uniform(&random_state)) * 2 / ldexpf(1, bits);
			zero[c] = upto(2) ? 0 : grid.low + (float)upto((size_t)ldexpf(1, bits));
		}
		x[upto(n)] = NAN;
		x[upto(n)] = INFINITY;
		x[upto(n)] = -INFINITY;
		x[upto(n)] = 1.5f * scale[0];
		grid.scale = scale;
		grid.zero = zero;
		check_grid(&grid, x, dy);
		free(x);
		free(dy);
	}
}

static void test_fake_quantize_in_place(void **state)
{
	(void)state;
	float scale = 0.1f, zero = 3, x[] = { -1, 0.05f, 0.15f, 0.26f, 99 }, y[5];
	struct qd_grid grid = { 1, 1, 5, &scale, &zero, 0, 255 };

	assert_int_equal(qd_fake_quantize_f32(&grid, x, y), 2);
	assert_int_equal(qd_fake_quantize_f32(&grid, x, x), 2);
	assert_memory_equal(x, y, sizeof(x));
}

struct limits {
	const char *prefix;
	float low, high;
};

static const struct limits *limits_of(const char *file)
{
	static const struct limits table[] = { { "int4", -8, 7 }, { "int8", -128, 127 }, { "uint8", 0, 255 },
		{ "int16", -32768, 32767 }, { "uint16", 0, 65535 }, { "int32", -2147483648.0f, 2147483648.0f } };

	for (size_t i = 0; i < QD_COUNT(table); i++)
		if (qd_starts_with(file, table[i].prefix) && file[strlen(table[i].prefix)] == '_')
			return &table[i];
	return NULL;
}

/* A tensor's elements as float32 (zeros where it is absent), to be freed. */
static float *elements(const struct qd_safetensors *file, const char *name, size_t n)
{
	const struct qd_tensor *t = qd_safetensors_find(file, name);
	float *x = calloc(n + 1, sizeof(*x));

	assert_non_null(x);
	if (t != NULL) {
		assert_int_equal(qd_shape_elements(&t->shape), n);
		assert_int_equal(qd_tensor_to_f32(t, x), QD_OK);
	}
	return x;
}

static void check_codes(const struct qd_safetensors *file, const struct qd_grid *grid, const float *y_wanted, size_t n)
{
	float *x = elements(file, "x", n), *q_wanted = elements(file, "q", n), *y = malloc((n + 1) * sizeof(*y));
	int32_t *q = malloc((n + 1) * sizeof(*q));
	const struct qd_tensor *wide = qd_safetensors_find(file, "q");

	if (qd_safetensors_find(file, "x") != NULL) {
		qd_quantize_f32(grid, x, q);
		for (size_t i = 0; i < n; i++)
			assert_int_equal(q[i], (int32_t)q_wanted[i]);
		qd_fake_quantize_f32(grid, x, y);
		assert_memory_equal(y, y_wanted, n * sizeof(*y));
	} else {
		/* Biases: codes of 32 bits, read only. */
		memcpy(q, wide->data, n * sizeof(*q));
	}
	qd_dequantize_f32(grid, q, y);
	assert_memory_equal(y, y_wanted, n * sizeof(*y));
	free(x);
	free(q_wanted);
	free(y);
	free(q);
}

static void check_golden(const char *path, const char *name, int64_t axis)
{
	const struct limits *limits = limits_of(name);
	struct qd_safetensors file = { 0 };
	const struct qd_tensor *y, *scale;

	assert_non_null(limits);
	assert_int_equal(qd_safetensors_open(&file, path), QD_OK);
	y = qd_safetensors_find(&file, "y");
	scale = qd_safetensors_find(&file, "scale");
	assert_true(y && scale);
	size_t n = (size_t)qd_shape_elements(&y->shape), channels = (size_t)qd_shape_elements(&scale->shape);
	float *scales = elements(&file, "scale", channels), *zeros = elements(&file, "zero_point", channels),
	      *wanted = elements(&file, "y", n);
	struct qd_grid grid = { 1, channels, channels == 1 ? n : 1, scales, zeros, limits->low, limits->high };
	for (int i = 0; channels > 1 && i < y->shape.rank; i++) {
		int64_t at = axis < 0 ? axis + y->shape.rank : axis;
		if (i != at)
			*(i < at ? &grid.outer : &grid.inner) *= (size_t)y->shape.dim[i];
	}
	check_codes(&file, &grid, wanted, n);
	free(scales);
	free(zeros);
	free(wanted);
	qd_safetensors_release(&file);
}

static void test_golden_quant(void **state)
{
	(void)state;
	const char *manifest = golden_path("quant/manifest.json");
	json_t *root, *cases, *one;
	size_t i;

	if (manifest == NULL) {
		print_message("golden data is not here\n");
		skip();
	}
	assert_int_equal(qd_json_read(manifest, &root), QD_OK);
	cases = json_object_get(root, "cases");
	assert_true(json_array_size(cases) > 0);
	json_array_foreach(cases, i, one)
	{
		char path[256];
		const char *file = json_string_value(json_object_get(one, "file"));
		snprintf(path, sizeof(path), "quant/%s", file);
		check_golden(golden_path(path), file, json_integer_value(json_object_get(one, "axis")));
	}
	json_decref(root);
}

/* ---- range and optimizer ---- */

static void test_min_max(void **state)
{
	(void)state;
	for (int round = 0; round < 40; round++) {
		size_t n = round % 4 ? 1 + upto(100) : 70000 + upto(70000);
		float *x = normal(n), low = INFINITY, high = -INFINITY, a, b;
		if (round % 2)
			for (size_t i = 0; i < n; i++)
				x[i] = round % 3 ? fabsf(x[i]) : -fabsf(x[i]);
		for (size_t i = 0; i < n; i++) {
			low = fminf(low, x[i]);
			high = fmaxf(high, x[i]);
		}
		assert_true(qd_min_max_f32(x, n, &a, &b));
		assert_true(a == low && b == high);
		x[upto(n)] = (const float[]){ NAN, -NAN, INFINITY, -INFINITY }[round % 4];
		assert_false(qd_min_max_f32(x, n, &a, &b));
		free(x);
	}
}

static void test_adamw(void **state)
{
	(void)state;
	const struct qd_adamw o = { 3, 1e-2, 0.9, 0.99, 1e-8, 0.05 };
	size_t n = 1000;
	float *x = normal(n), *m = normal(n), *v = normal(n), *g = normal(n);

	for (size_t i = 0; i < n; i++)
		v[i] = fabsf(v[i]) + 0.01f;
	float *x0 = malloc(n * sizeof(*x0)), *m0 = malloc(n * sizeof(*m0)), *v0 = malloc(n * sizeof(*v0));
	memcpy(x0, x, n * sizeof(*x));
	memcpy(m0, m, n * sizeof(*m));
	memcpy(v0, v, n * sizeof(*v));
	qd_adamw_f32(&o, n, x, m, v, g);
	for (size_t i = 0; i < n; i++) {
		double mm = o.beta1 * m0[i] + (1 - o.beta1) * g[i], vv = o.beta2 * v0[i] + (1 - o.beta2) * g[i] * g[i];
		double xx = x0[i] * (1 - o.lr * o.weight_decay) -
			    o.lr * (mm / (1 - pow(o.beta1, 3))) / (sqrt(vv / (1 - pow(o.beta2, 3))) + o.eps);
		/* A few float32 roundings (2^-24 each) of terms of size |x|, |m| and the step, which is below 1. */
		assert_true(fabs(m[i] - mm) <= 4 * 0x1p-23 * (fabs(mm) + 1));
		assert_true(fabs(v[i] - vv) <= 4 * 0x1p-23 * (vv + 1));
		assert_true(fabs(x[i] - xx) <= 16 * 0x1p-23 * (fabs(xx) + 1));
	}
	free(x);
	free(m);
	free(v);
	free(g);
	free(x0);
	free(m0);
	free(v0);
}

/* ---- attention ---- */

/* Everything in double; p [queries, keys] of one head. */
static void reference_head(const struct qd_attention *a, const float *q, const float *k, const float *v, double *p, double *out)
{
	for (int64_t i = 0; i < a->queries; i++) {
		double most = -INFINITY, sum = 0;
		for (int64_t j = 0; j < a->keys; j++) {
			double dot = 0;
			for (int64_t c = 0; c < a->d; c++)
				dot += (double)q[i * a->q.row + c] * k[j * a->k.row + c];
			p[i * a->keys + j] = dot * a->scale;
			most = fmax(most, dot * a->scale);
		}
		for (int64_t j = 0; j < a->keys; j++)
			sum += p[i * a->keys + j] = exp(p[i * a->keys + j] - most);
		for (int64_t c = 0; c < a->dv; c++)
			out[i * a->dv + c] = 0;
		for (int64_t j = 0; j < a->keys; j++) {
			p[i * a->keys + j] /= sum;
			for (int64_t c = 0; c < a->dv; c++)
				out[i * a->dv + c] += p[i * a->keys + j] * v[j * a->v.row + c];
		}
	}
}

/* Gradients of one head from its p and out. */
static void reference_backward(const struct qd_attention *a, const float *q, const float *k, const float *v, const double *p,
	const double *out, const float *dout, double *dq, double *dk, double *dv)
{
	memset(dq, 0, (size_t)(a->queries * a->d) * sizeof(*dq));
	memset(dk, 0, (size_t)(a->keys * a->d) * sizeof(*dk));
	memset(dv, 0, (size_t)(a->keys * a->dv) * sizeof(*dv));
	for (int64_t i = 0; i < a->queries; i++) {
		double mean = 0;
		for (int64_t c = 0; c < a->dv; c++)
			mean += dout[i * a->out.row + c] * out[i * a->dv + c];
		for (int64_t j = 0; j < a->keys; j++) {
			double dp = 0;
			for (int64_t c = 0; c < a->dv; c++) {
				dp += (double)dout[i * a->out.row + c] * v[j * a->v.row + c];
				dv[j * a->dv + c] += p[i * a->keys + j] * dout[i * a->out.row + c];
			}
			double ds = p[i * a->keys + j] * (dp - mean) * a->scale;
			for (int64_t c = 0; c < a->d; c++) {
				dq[i * a->d + c] += ds * k[j * a->k.row + c];
				dk[j * a->d + c] += ds * q[i * a->q.row + c];
			}
		}
	}
}

/*
 * Sums of up to `terms` products in float32, in whatever order: error at most terms * 2^-24 times the sum of magnitudes; operands
 * are below 6 (normal numbers), probabilities add up to 1. 2^-24 * 6 * 6 * 600 is 1.3e-3 at worst and never comes near: errors are
 * random, hence the square root, and four times it for the chain of three products.
 */
static void close_rows(const float *got, int64_t row, const double *want, int64_t rows, int64_t columns, int64_t terms)
{
	double tolerance = 4 * 36 * sqrt((double)terms) * 0x1p-24;

	for (int64_t i = 0; i < rows; i++)
		for (int64_t j = 0; j < columns; j++) {
			double error = fabs(got[i * row + j] - want[i * columns + j]);
			if (error > tolerance)
				fail_msg("row %lld, column %lld: %g, expected %g, tolerance %g", (long long)i, (long long)j,
					got[i * row + j], want[i * columns + j], tolerance);
		}
}

/* q, k, v, out as [batch, tokens, heads, d] when `side_by_side` (heads in a token's row), else [batch, heads, tokens, d]. */
static struct qd_strides layout(bool side_by_side, int64_t heads, int64_t tokens, int64_t d)
{
	return side_by_side ? (struct qd_strides){ heads * tokens * d, d, heads * d }
			    : (struct qd_strides){ heads * tokens * d, tokens * d, d };
}

static void check_attention(int64_t queries, int64_t keys, int64_t d, int64_t dv, bool side)
{
	int64_t batch = 1 + (int64_t)upto(2), heads = 1 + (int64_t)upto(3);
	struct qd_attention a = { batch, heads, queries, keys, d, dv, (float)(1 / sqrt((double)d)), layout(side, heads, queries, d),
		layout(side, heads, keys, d), layout(side, heads, keys, dv), layout(side, heads, queries, dv) };
	size_t bh = (size_t)(batch * heads), nq = bh * (size_t)(queries * d), nk = bh * (size_t)(keys * d),
	       nv = bh * (size_t)(keys * dv), no = bh * (size_t)(queries * dv);
	float *q = normal(nq), *k = normal(nk), *v = normal(nv), *dout = normal(no);
	float *out = normal(no), *dq = normal(nq), *dk = normal(nk), *dvalue = normal(nv), *logsum = normal(bh * (size_t)queries);
	double *p = malloc((size_t)(queries * keys) * sizeof(*p)), *want = malloc((size_t)(queries * dv) * sizeof(*want));
	double *wq = malloc((size_t)(queries * d) * sizeof(*wq)), *wk = malloc((size_t)(keys * d) * sizeof(*wk)),
	       *wv = malloc((size_t)(keys * dv) * sizeof(*wv));
	struct qd_attention_gradients to = { a.q, a.k, a.v, dq, dk, dvalue };

	assert_int_equal(qd_attention_f32(&a, q, k, v, out, logsum), QD_OK);
	assert_int_equal(qd_attention_backward_f32(&a, q, k, v, out, logsum, dout, &to), QD_OK);
	for (int64_t i = 0; i < batch * heads; i++) {
		int64_t b = i / heads, h = i % heads;
		int64_t at_q = b * a.q.batch + h * a.q.head, at_k = b * a.k.batch + h * a.k.head,
			at_v = b * a.v.batch + h * a.v.head, at_o = b * a.out.batch + h * a.out.head;
		reference_head(&a, q + at_q, k + at_k, v + at_v, p, want);
		reference_backward(&a, q + at_q, k + at_k, v + at_v, p, want, dout + at_o, wq, wk, wv);
		close_rows(out + at_o, a.out.row, want, queries, dv, d + keys);
		close_rows(dq + at_q, a.q.row, wq, queries, d, dv + keys);
		close_rows(dk + at_k, a.k.row, wk, keys, d, dv + queries);
		close_rows(dvalue + at_v, a.v.row, wv, keys, dv, d + queries);
	}
	/* Without the logarithms the result is the same. */
	float *again = normal(no);
	assert_int_equal(qd_attention_f32(&a, q, k, v, again, NULL), QD_OK);
	assert_memory_equal(again, out, no * sizeof(*out));
	float *const all[] = { q, k, v, dout, out, dq, dk, dvalue, logsum, again };
	for (size_t i = 0; i < QD_COUNT(all); i++)
		free(all[i]);
	double *const doubles[] = { p, want, wq, wk, wv };
	for (size_t i = 0; i < QD_COUNT(doubles); i++)
		free(doubles[i]);
}

static void test_attention_equals_loops(void **state)
{
	(void)state;
	/* Around the tiles' sizes (6 rows, 16 columns, 192 queries, 256 keys) and one element. */
	static const int64_t sizes[][4] = { { 1, 1, 1, 1 }, { 7, 3, 5, 17 }, { 192, 256, 16, 16 }, { 193, 257, 40, 40 },
		{ 6, 16, 32, 32 }, { 200, 77, 24, 40 }, { 64, 600, 8, 8 } };

	for (size_t i = 0; i < QD_COUNT(sizes); i++)
		for (int side = 0; side < 2; side++)
			check_attention(sizes[i][0], sizes[i][1], sizes[i][2], sizes[i][3], side);
	for (int round = 0; round < 10; round++)
		check_attention(
			1 + (int64_t)upto(130), 1 + (int64_t)upto(300), 1 + (int64_t)upto(48), 1 + (int64_t)upto(48), round % 2);
}

/* Scores that differ by hundreds: the row is the value of its largest, and nothing overflows. */
static void test_attention_saturates(void **state)
{
	(void)state;
	enum { KEYS = 300 };
	float q[1] = { 1000 }, k[KEYS], v[KEYS], out[1];
	struct qd_attention a = { 1, 1, 1, KEYS, 1, 1, 1.0f, { 1, 1, 1 }, { KEYS, KEYS, 1 }, { KEYS, KEYS, 1 }, { 1, 1, 1 } };

	for (int i = 0; i < KEYS; i++) {
		k[i] = (float)(i == 270) - (float)(i == 3);
		v[i] = (float)i;
	}
	assert_int_equal(qd_attention_f32(&a, q, k, v, out, NULL), QD_OK);
	assert_true(out[0] == 270.0f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_quantize_equals_definition),
		cmocka_unit_test(test_fake_quantize_in_place),
		cmocka_unit_test(test_golden_quant),
		cmocka_unit_test(test_min_max),
		cmocka_unit_test(test_adamw),
		cmocka_unit_test(test_attention_equals_loops),
		cmocka_unit_test(test_attention_saturates),
	};
	return cmocka_run_group_tests(tests, start_random, NULL);
}
