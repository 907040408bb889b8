/* Encodings: codes against the golden ones and a plain loop, ranges against AIMET's, per-channel scales, observers, divergence,
 * choice. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "lib/math/math.h"
#include "quant/internal.h"
#include "tests/unit/scratch.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- golden codes ---- */

static float *floats_of(const struct qd_safetensors *file, const char *name, size_t *n)
{
	const struct qd_tensor *t = qd_safetensors_find(file, name);
	float *x;

	if (t == NULL)
		return NULL;
	*n = (size_t)qd_shape_elements(&t->shape);
	x = calloc(*n + 1, sizeof(*x));
	assert_non_null(x);
	OK(qd_tensor_to_f32(t, x));
	return x;
}

static void check_case(const char *folder, const json_t *json)
{
	const char *type = json_string_value(json_object_get(json, "type"));
	const json_t *axis = json_object_get(json, "axis");
	struct qd_encoding e = { .is_signed = type[0] != 'u', .axis = -1 };
	struct qd_safetensors file = { 0 };
	char path[4096];
	size_t n, n_q, n_scale, n_zero = 0;
	float *x, *y, *q, *got_y;
	int32_t *codes, *got;

	e.bits = atoi(type + (e.is_signed ? 3 : 4));
	snprintf(path, sizeof(path), "%s/%s", folder, json_string_value(json_object_get(json, "file")));
	OK(qd_safetensors_open(&file, path));
	e.scale = floats_of(&file, "scale", &n_scale);
	e.zero_point = floats_of(&file, "zero_point", &n_zero);
	e.n = n_scale;
	if (e.zero_point == NULL)
		e.zero_point = calloc(n_scale, sizeof(float));
	x = floats_of(&file, "x", &n);
	y = floats_of(&file, "y", &n);
	q = floats_of(&file, "q", &n_q);
	const struct qd_shape *shape = &qd_safetensors_find(&file, "y")->shape;
	if (json_is_integer(axis))
		e.axis = (int)(json_integer_value(axis) + (json_integer_value(axis) < 0 ? shape->rank : 0));
	codes = calloc(n, sizeof(*codes));
	got = calloc(n, sizeof(*got));
	got_y = calloc(n, sizeof(*got_y));
	for (size_t i = 0; i < n; i++)
		codes[i] = (int32_t)q[i];
	if (x != NULL) {
		qd_quantize(&e, shape, x, got, got_y);
		assert_memory_equal(got, codes, n * sizeof(*got));
		/* Compared as numbers: the rule makes no promise about the sign of zero. */
		for (size_t i = 0; i < n; i++)
			assert_true(got_y[i] == y[i]);
	}
	free(x), free(y), free(q), free(codes), free(got), free(got_y), free(e.scale), free(e.zero_point);
	qd_safetensors_release(&file);
}

static void codes_equal_golden(void **state)
{
	const char *manifest = golden_path("quant/manifest.json"), *folder = golden_path("quant");
	json_t *json, *item;
	size_t i;

	(void)state;
	if (manifest == NULL)
		skip();
	OK(qd_json_read(manifest, &json));
	assert_true(json_array_size(json_object_get(json, "cases")) > 50);
	json_array_foreach(json_object_get(json, "cases"), i, item)
	{
		check_case(folder, item);
	}
	json_decref(json);
}

/* ---- ranges ---- */

static void ranges_equal_aimet(void **state)
{
	const char *path = golden_path("encodings/ranges.json");
	struct qd_arena arena = { 0 };
	json_t *json, *item;
	size_t i;

	(void)state;
	if (path == NULL)
		skip();
	OK(qd_json_read(path, &json));
	json_array_foreach(json_object_get(json, "ranges"), i, item)
	{
		const json_t *want = json_object_get(item, "onnx");
		int bits = (int)json_integer_value(json_object_get(item, "bw"));
		bool symmetric = json_is_true(json_object_get(item, "symmetric"));
		struct qd_encoding *e;

		OK(qd_encoding_from_range(&arena, json_number_value(json_object_get(item, "min")),
			json_number_value(json_object_get(item, "max")), bits, symmetric, &e));
		assert_true(e->scale[0] == (float)json_number_value(json_object_get(want, "scale")));
		/* The file's offset is the lowest value on the unsigned grid, in steps. */
		assert_true(e->zero_point[0] - qd_encoding_low(e) == -(float)json_integer_value(json_object_get(want, "offset")));
		assert_int_equal(e->symmetric, symmetric);
		assert_int_equal(e->is_signed, symmetric);
		assert_int_equal(e->n, 1);
	}
	qd_arena_release(&arena);
	json_decref(json);
}

static void refuses_ranges_without_encoding(void **state)
{
	struct qd_arena arena = { 0 };
	struct qd_encoding *e;

	(void)state;
	assert_int_equal(qd_encoding_from_range(&arena, -INFINITY, 1, 8, true, &e), QD_EINPUT);
	assert_string_equal(qd_message(), "a range from -inf to 1 has no encoding");
	assert_int_equal(qd_encoding_from_range(&arena, 2, 1, 8, true, &e), QD_EINPUT);
	assert_string_equal(qd_message(), "a range from 2 to 1 has no encoding");
	qd_arena_release(&arena);
}

static void grids(void **state)
{
	struct qd_encoding e = { .bits = 8, .is_signed = true };

	(void)state;
	assert_true(qd_encoding_low(&e) == -128 && qd_encoding_high(&e) == 127);
	e.is_signed = false;
	assert_true(qd_encoding_low(&e) == 0 && qd_encoding_high(&e) == 255);
	e.bits = 16;
	assert_true(qd_encoding_low(&e) == 0 && qd_encoding_high(&e) == 65535);
	e.is_signed = true;
	e.bits = 4;
	assert_true(qd_encoding_low(&e) == -8 && qd_encoding_high(&e) == 7);
}

/* ---- per channel ---- */

/* Rows of every float dtype, at an odd address as in a mapped file: each row's scale is the rule over a plain loop's range. */
static void per_channel_is_per_row(void **state)
{
	static const enum qd_dtype dtypes[] = { QD_F32, QD_F16, QD_BF16 };
	struct qd_random random;
	struct qd_arena arena = { 0 };

	(void)state;
	qd_random_init(&random, test_seed(), 0);
	for (size_t d = 0; d < QD_COUNT(dtypes); d++) {
		int64_t rows = 1 + (int64_t)qd_random_below(&random, 9), n = 1 + (int64_t)qd_random_below(&random, 70);
		struct qd_shape shape = QD_SHAPE(rows, n, 1);
		struct qd_tensor t = { 0 }, moved;
		struct qd_encoding *e, *want;
		float *x = calloc((size_t)(rows * n), sizeof(*x));

		for (int64_t i = 0; i < rows * n; i++)
			x[i] = (float)qd_random_normal(&random);
		OK(qd_tensor_new(&t, "w", dtypes[d], &shape));
		OK(qd_tensor_from_f32(&t, x));
		OK(qd_tensor_to_f32(&t, x));
		moved = t;
		moved.data = (char *)malloc(t.bytes + 1) + 1;
		memcpy(moved.data, t.data, t.bytes);
		OK(qd_encoding_per_channel(&arena, &moved, 8, &e));
		assert_int_equal(e->n, rows);
		assert_int_equal(e->axis, 0);
		for (int64_t r = 0; r < rows; r++) {
			float low = 0, high = 0;

			for (int64_t i = 0; i < n; i++) {
				low = fminf(low, x[r * n + i]);
				high = fmaxf(high, x[r * n + i]);
			}
			OK(qd_encoding_from_range(&arena, low, high, 8, true, &want));
			assert_true(e->scale[r] == want->scale[0]);
			assert_true(e->zero_point[r] == 0);
		}
		free((char *)moved.data - 1);
		free(x);
		qd_tensor_release(&t);
	}
	qd_arena_release(&arena);
}

static void per_channel_refuses_what_is_not_finite(void **state)
{
	float x[] = { 1, 2, NAN, 4 };
	struct qd_tensor t = qd_tensor_view("w", QD_F32, QD_SHAPE(2, 2), x);
	struct qd_arena arena = { 0 };
	struct qd_encoding *e;
	struct qd_range range;

	(void)state;
	assert_int_equal(qd_encoding_per_channel(&arena, &t, 8, &e), QD_EINPUT);
	assert_string_equal(qd_message(), "tensor 'w' holds a value that is not finite");
	x[2] = INFINITY;
	assert_int_equal(qd_tensor_range(&t, &range), QD_EINPUT);
	assert_string_equal(qd_message(), "tensor 'w' holds a value that is not finite");
	t.shape = QD_SHAPE(0, 2);
	assert_int_equal(qd_encoding_per_channel(&arena, &t, 8, &e), QD_EINPUT);
	assert_string_equal(qd_message(), "tensor 'w' has no channels, needs at least one");
	qd_arena_release(&arena);
}

/* Codes as they are stored: as many bits as hold them, per channel by the axis. */
static void codes_are_stored_in_their_type(void **state)
{
	static const struct {
		int bits;
		bool is_signed;
		enum qd_dtype dtype;
	} types[] = { { 4, true, QD_I8 }, { 8, true, QD_I8 }, { 8, false, QD_U8 }, { 16, true, QD_I16 }, { 16, false, QD_U16 },
		{ 32, true, QD_DTYPE_COUNT } };
	float scale[] = { 0.5f, 2, 1 }, zero[] = { 0, 0, 3 };
	const float x[] = { -1, 1e9f, -1e9f, 1, 5, -5 };
	struct qd_encoding e = { .axis = 1, .n = 3, .scale = scale, .zero_point = zero };

	(void)state;
	for (size_t i = 0; i < QD_COUNT(types); i++) {
		int16_t wide[6];
		int8_t narrow[6];
		int32_t q[6];

		e.bits = types[i].bits;
		e.is_signed = types[i].is_signed;
		assert_int_equal(qd_encoding_dtype(&e), types[i].dtype);
		if (types[i].dtype == QD_DTYPE_COUNT)
			continue;
		qd_quantize(&e, &QD_SHAPE(2, 3), x, q, NULL);
		OK(qd_encode(&e, &QD_SHAPE(2, 3), x, qd_dtype_bits(types[i].dtype) == 8 ? (void *)narrow : wide));
		for (size_t k = 0; k < 6; k++) {
			int32_t code = qd_dtype_bits(types[i].dtype) == 8 ? (e.is_signed ? narrow[k] : (uint8_t)narrow[k])
									  : (e.is_signed ? wide[k] : (uint16_t)wide[k]);
			assert_int_equal(code, q[k]);
		}
	}
	assert_false(qd_encoding_is_centred(&e));
	e.n = 2;
	assert_true(qd_encoding_is_centred(&e));
}

/* ---- observers ---- */

static int by_value(const void *a, const void *b)
{
	float x = *(const float *)a, y = *(const float *)b;

	return (x > y) - (x < y);
}

/*
 * Values arrive in pieces of growing spread, so that the histogram has to grow in both directions. A quantile of the histogram lies
 * in the bin of the exact one: within one final bin width of it, and the final range is at most 4 times the values' (each end
 * overshoots by less than the range before doubling).
 */
static void percentile_is_the_quantile(void **state)
{
	enum { PIECES = 6, EACH = 5000, N = PIECES * EACH };
	struct qd_observer o = { .kind = QD_OBSERVE_PERCENTILE, .percentile = 99 };
	struct qd_random random;
	float *x = calloc(N, sizeof(*x));
	struct qd_range range;
	double bin;

	(void)state;
	qd_random_init(&random, test_seed(), 1);
	for (size_t i = 0; i < N; i++)
		x[i] = (float)(qd_random_normal(&random) * (double)(1 + i / EACH) + (i / EACH % 2 == 0 ? 1 : -2));
	for (size_t p = 0; p < PIECES; p++)
		OK(qd_observer_add(&o, EACH, x + p * EACH));
	range = qd_observer_range(&o, 16);
	qsort(x, N, sizeof(*x), by_value);
	bin = 4 * (double)(x[N - 1] - x[0]) / QD_OBSERVER_BINS;
	assert_true(o.width <= bin);
	assert_true(fabs((double)range.low - (double)x[N / 200]) <= bin + (double)(x[N / 200 + 1] - x[N / 200 - 1]));
	assert_true(fabs((double)range.high - (double)x[N - N / 200]) <= bin + (double)(x[N - N / 200 + 1] - x[N - N / 200 - 1]));
	assert_true(o.range.low == x[0] && o.range.high == x[N - 1]);
	qd_observer_release(&o);
	free(x);
}

static double grid_error(const float *x, size_t n, struct qd_range range, int bits)
{
	struct qd_arena arena = { 0 };
	struct qd_encoding *e;
	struct qd_shape shape = QD_SHAPE((int64_t)n);
	float *y = calloc(n, sizeof(*y));
	double sum = 0;

	OK(qd_encoding_from_range(&arena, range.low, range.high, bits, false, &e));
	qd_quantize(e, &shape, x, NULL, y);
	for (size_t i = 0; i < n; i++)
		sum += ((double)x[i] - (double)y[i]) * ((double)x[i] - (double)y[i]);
	qd_arena_release(&arena);
	free(y);
	return sum;
}

/* With one outlier of 30 deviations among 20,000 normal values, 4 bits over the whole range are far worse than clipping it. */
static void mse_clips_an_outlier(void **state)
{
	enum { N = 20000 };
	struct qd_observer o = { .kind = QD_OBSERVE_MSE };
	struct qd_random random;
	float *x = calloc(N, sizeof(*x));
	struct qd_range range;

	(void)state;
	qd_random_init(&random, test_seed(), 2);
	for (size_t i = 0; i < N; i++)
		x[i] = (float)qd_random_normal(&random);
	x[77] = 30;
	OK(qd_observer_add(&o, N, x));
	range = qd_observer_range(&o, 4);
	assert_true(range.high < 15);
	assert_true(grid_error(x, N, range, 4) < 0.5 * grid_error(x, N, o.range, 4));
	qd_observer_release(&o);
	free(x);
}

static void minmax_keeps_the_range_with_zero(void **state)
{
	struct qd_observer o = { .kind = QD_OBSERVE_MINMAX };
	float x[] = { 2, 5, 3 }, bad[] = { 1, NAN };
	struct qd_range range;

	(void)state;
	OK(qd_observer_add(&o, 3, x));
	range = qd_observer_range(&o, 8);
	assert_true(range.low == 0 && range.high == 5);
	assert_int_equal(qd_observer_add(&o, 2, bad), QD_EINPUT);
	assert_string_equal(qd_message(), "a value is not finite");
	qd_observer_release(&o);
}

/* A constant, 0 included, needs a histogram of some width. */
static void constant_values_have_a_histogram(void **state)
{
	struct qd_observer o = { .kind = QD_OBSERVE_PERCENTILE, .percentile = 99.99 };
	float zeros[4] = { 0 }, ones[] = { 1, 1 };
	struct qd_range range;

	(void)state;
	OK(qd_observer_add(&o, 4, zeros));
	OK(qd_observer_add(&o, 2, ones));
	range = qd_observer_range(&o, 8);
	assert_true(range.low == 0 && range.high > 0.99f && range.high <= 1);
	qd_observer_release(&o);
}

/* ---- what is quantized ---- */

static void assigns_kinds(void **state)
{
	struct qd_graph g;
	enum qd_entry_kind *kinds;
	float data[64] = { 0 };
	struct qd_tensor w4 = qd_tensor_view("w", QD_F32, QD_SHAPE(4, 4), data),
			 b4 = qd_tensor_view("b", QD_F32, QD_SHAPE(4), data);

	(void)state;
	qd_graph_init(&g, "g");
	qd_id x = qd_graph_input(&g, "x", QD_F32, QD_SHAPE(2, 4)), t = qd_graph_input(&g, "timestep", QD_F32, QD_SHAPE(2));
	qd_id down = qd_graph_input(&g, "fc.lora_down", QD_F32, QD_SHAPE(4, 4));
	qd_id gain = qd_graph_input(&g, "fc.lora_gain", QD_F32, QD_SHAPE(4));
	qd_id w = qd_graph_weight(&g, "fc.weight", &w4), b = qd_graph_weight(&g, "fc.bias", &b4);
	qd_id frequencies = qd_graph_const_f32(&g, "frequencies", QD_SHAPE(4), data);
	qd_id column = qd_build_reshape(&g, "column", t, 2, (int64_t[]){ 2, 1 });
	qd_id angle = qd_build_binary(&g, QD_OP_MUL, "angle", column, frequencies);
	qd_id sine = qd_build_unary(&g, QD_OP_SIN, "sine", angle);
	qd_id fc = qd_build_linear(&g, "fc", x, w, b);
	qd_id d = qd_build_linear(&g, "fc.lora_down_out", x, down, QD_NONE);
	qd_id m = qd_build_binary(&g, QD_OP_MUL, "fc.lora_gain_out", d, gain);
	qd_id sum = qd_build_binary(&g, QD_OP_ADD, "sum", fc, m);
	qd_id all = qd_build_binary(&g, QD_OP_ADD, "all", sum, sine);
	qd_id flat = qd_build_reshape(&g, "flat", all, 1, (int64_t[]){ 8 });
	qd_id again = qd_build_reshape(&g, "again", flat, 2, (int64_t[]){ 4, 2 });
	qd_graph_output(&g, again);
	OK(qd_graph_status(&g));
	kinds = calloc(g.n_values, sizeof(*kinds));
	OK(qd_assign(&g, kinds));
	const qd_id activations[] = { x, sine, fc, d, m, sum, all },
		    none[] = { t, gain, b, frequencies, column, angle, flat, again };
	for (size_t i = 0; i < QD_COUNT(activations); i++)
		assert_int_equal(kinds[activations[i]], QD_ENTRY_ACTIVATION);
	for (size_t i = 0; i < QD_COUNT(none); i++)
		assert_int_equal(kinds[none[i]], QD_ENTRY_NONE);
	assert_int_equal(kinds[w], QD_ENTRY_WEIGHT);
	assert_int_equal(kinds[down], QD_ENTRY_LORA);
	assert_int_equal(qd_value_source(&g, again), all);
	assert_int_equal(qd_value_source(&g, column), t);
	assert_int_equal(qd_value_source(&g, all), all);
	free(kinds);
	qd_graph_release(&g);
}

/* ---- divergence and choice ---- */

static void divergence_is_of_softmax_over_the_deviation(void **state)
{
	enum { N = 50 };
	float y[N], z[N];
	double p[N], q[N], mean = 0, deviation = 0, sp = 0, sq = 0, js = 0, kl = 0;
	struct qd_random random;

	(void)state;
	qd_random_init(&random, test_seed(), 3);
	for (size_t i = 0; i < N; i++) {
		y[i] = (float)(3 * qd_random_normal(&random) + 1);
		z[i] = y[i] + (float)qd_random_normal(&random);
		mean += (double)y[i] / N;
	}
	for (size_t i = 0; i < N; i++)
		deviation += ((double)y[i] - mean) * ((double)y[i] - mean) / N;
	deviation = sqrt(deviation);
	for (size_t i = 0; i < N; i++) {
		sp += p[i] = exp((double)y[i] / deviation);
		sq += q[i] = exp((double)z[i] / deviation);
	}
	for (size_t i = 0; i < N; i++) {
		double a = p[i] / sp, b = q[i] / sq, m = (a + b) / 2;

		js += a * log(a / m) / 2 + b * log(b / m) / 2;
		kl += a * log(a / b);
	}
	/* Fifty terms of double arithmetic on values near 1. */
	assert_true(fabs(qd_divergence(QD_DIVERGENCE_JS, N, y, z) - js) < 1e-12);
	assert_true(fabs(qd_divergence(QD_DIVERGENCE_KL, N, y, z) - kl) < 1e-12);
	assert_true(qd_divergence(QD_DIVERGENCE_JS, N, y, y) == 0);
	assert_true(fabs(qd_divergence(QD_DIVERGENCE_COSINE, N, y, y)) < 1e-12);
	assert_true(qd_divergence(QD_DIVERGENCE_MSE, N, y, y) == 0);
}

/* A profile that holds scores only. */
static struct qd_adapter_score rows[3];
static double samples[3][4];
static struct qd_profile scored(const double s[3][4])
{
	static const char *const names[] = { "a", "b", "c" };
	struct qd_profile p = { .adapters = rows, .n_adapters = 3, .options = qd_quant_options_default() };

	memcpy(samples, s, sizeof(samples));
	for (size_t i = 0; i < 3; i++) {
		rows[i] = (struct qd_adapter_score){ .name = names[i], .per_sample = samples[i], .n_samples = 4 };
		rows[i].qss = qd_mean(samples[i], 4);
	}
	return p;
}

static void chooses_anchor_only_where_scores_differ(void **state)
{
	/* b is highest on average in both; only in the first is it above another on every sample. */
	const double differ[3][4] = { { 1, 1.1, 1, 0.9 }, { 3, 3.1, 2.9, 3 }, { 2.9, 3.1, 2.9, 3 } };
	const double alike[3][4] = { { 1, 5, 2, 4 }, { 4, 2, 5, 2 }, { 3, 3, 1, 5 } };
	struct qd_profile p = scored(differ);
	size_t anchor;

	(void)state;
	OK(qd_choose(&p, &anchor));
	assert_int_equal(anchor, 1);
	assert_string_equal(p.method, "anchor");
	assert_string_equal(p.anchor, "b");
	qd_arena_release(&p.arena);
	p = scored(alike);
	OK(qd_choose(&p, &anchor));
	assert_int_equal(anchor, 3);
	assert_string_equal(p.method, "unified");
	assert_null(p.anchor);
	p.options.method = QD_METHOD_ANCHOR;
	OK(qd_choose(&p, &anchor));
	assert_int_equal(anchor, 1);
	p.options.anchor = "c";
	OK(qd_choose(&p, &anchor));
	assert_int_equal(anchor, 2);
	p.options.anchor = "d";
	assert_int_equal(qd_choose(&p, &anchor), QD_EINPUT);
	assert_string_equal(qd_message(), "anchor 'd' is none of the 3 adapters, 'a' is the first");
	qd_arena_release(&p.arena);
}

/* An adapter that changes nothing is no anchor, neither the last that is left nor asked for, and tells nothing about the others. */
static void passes_over_idle_adapters(void **state)
{
	const double zeros[3][4] = { { 0 }, { 0 }, { 3, 3, 1, 5 } };
	const double alike[3][4] = { { 1, 5, 2, 4 }, { 0 }, { 3, 3, 1, 5 } };
	struct qd_profile p = scored(zeros);
	size_t anchor;

	(void)state;
	p.adapters[0].idle = p.adapters[1].idle = true;
	OK(qd_choose(&p, &anchor));
	assert_int_equal(anchor, 2);
	assert_string_equal(p.reason, "the only adapter that changes anything");
	p.options.method = QD_METHOD_ANCHOR;
	OK(qd_choose(&p, &anchor));
	assert_int_equal(anchor, 2);
	p.options.anchor = "a";
	assert_int_equal(qd_choose(&p, &anchor), QD_EINPUT);
	assert_string_equal(qd_message(), "anchor 'a' changes nothing: its encodings fit no other adapter");
	p.options.anchor = NULL;
	p.adapters[2].idle = true;
	assert_int_equal(qd_choose(&p, &anchor), QD_EINPUT);
	assert_string_equal(qd_message(), "no adapter changes anything: there is nothing to choose encodings by");
	qd_arena_release(&p.arena);
	p = scored(alike);
	p.adapters[1].idle = true;
	OK(qd_choose(&p, &anchor));
	assert_int_equal(anchor, 3);
	qd_arena_release(&p.arena);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(codes_equal_golden),
		cmocka_unit_test(ranges_equal_aimet),
		cmocka_unit_test(refuses_ranges_without_encoding),
		cmocka_unit_test(grids),
		cmocka_unit_test(codes_are_stored_in_their_type),
		cmocka_unit_test(per_channel_is_per_row),
		cmocka_unit_test(per_channel_refuses_what_is_not_finite),
		cmocka_unit_test(percentile_is_the_quantile),
		cmocka_unit_test(mse_clips_an_outlier),
		cmocka_unit_test(minmax_keeps_the_range_with_zero),
		cmocka_unit_test(constant_values_have_a_histogram),
		cmocka_unit_test(assigns_kinds),
		cmocka_unit_test(divergence_is_of_softmax_over_the_deviation),
		cmocka_unit_test(chooses_anchor_only_where_scores_differ),
		cmocka_unit_test(passes_over_idle_adapters),
	};
	return cmocka_run_group_tests_name("encoding", tests, NULL, NULL);
}
