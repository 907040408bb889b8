/*
 * Normalization of numbers of any form: to the last bit what that of the floats which they stand for gives.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "lib/kernel/kernel.h"
#include "lib/math/math.h"
#include "tests/unit/random_help.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>

static float *normal(size_t n)
{
	float *x = malloc(n * sizeof(*x));

	assert_non_null(x);
	for (size_t i = 0; i < n; i++)
		x[i] = (float)qd_random_normal(&random_state);
	return x;
}

/* Floats x [n] as numbers of a form; x becomes what they stand for. at is to be freed. */
static struct qd_numbers numbers(enum qd_form form, size_t n, float *x)
{
	const float high = form == QD_FORM_U8 ? 255 : 65535;
	struct qd_numbers to = { form, malloc(n * sizeof(float) + 5), n + 5, 9 / high, (float)below(2) + high / 2 - 0.5f, high };

	assert_non_null(to.at);
	qd_numbers_store(&to, 0, n, x);
	qd_numbers_load(&to, 0, n, x);
	return to;
}

/* Takes each row once, and spoils what it was handed, which it may. */
struct rows {
	size_t channels;
	float *y;
	int *taken;
};

static void take(void *context, size_t first, size_t n, float *rows)
{
	struct rows *to = context;

	memcpy(to->y + first * to->channels, rows, n * to->channels * sizeof(*rows));
	memset(rows, 0xff, n * to->channels * sizeof(*rows));
	for (size_t i = first; i < first + n; i++)
		to->taken[i]++;
}

static struct rows no_rows(int64_t rows, int64_t channels)
{
	struct rows to = { (size_t)channels, malloc((size_t)(rows * channels) * sizeof(float)), calloc((size_t)rows, sizeof(int)) };

	assert_true(to.y != NULL && to.taken != NULL);
	return to;
}

static void check_rows(struct rows *got, int64_t rows, const float *want)
{
	assert_memory_equal(got->y, want, (size_t)rows * got->channels * sizeof(*want));
	for (int64_t i = 0; i < rows; i++)
		assert_int_equal(got->taken[i], 1);
	free(got->y);
	free(got->taken);
}

static void check_group_norm(const struct qd_group_norm *g, enum qd_form form, bool shifted)
{
	int64_t rows = g->n * g->pixels;
	size_t n = (size_t)(rows * g->channels);
	float *x = normal(n), *want = malloc(n * sizeof(*want)), *scale = normal((size_t)g->channels),
	      *bias = normal((size_t)g->channels), *shift = shifted ? normal((size_t)(g->n * g->channels)) : NULL;
	struct qd_numbers from = numbers(form, n, x);

	assert_non_null(want);
	assert_int_equal(qd_group_norm_f32(g, x, scale, bias, shift, want), QD_OK);
	for (int threads = 1; threads <= 2; threads++) {
		struct rows got = no_rows(rows, g->channels);
		omp_set_num_threads(threads);
		assert_int_equal(qd_group_norm_numbers(g, &from, scale, bias, shift, take, &got), QD_OK);
		check_rows(&got, rows, want);
	}
	void *const all[] = { x, want, scale, bias, shift, from.at };
	for (size_t i = 0; i < QD_COUNT(all); i++)
		free(all[i]);
}

static void test_group_norm(void **state)
{
	(void)state;
	for (int round = 0; round < 36; round++) {
		/* Samples of one slice and of several, whole and with rests, on one thread and several. */
		struct qd_group_norm g = { .n = 1 + below(3),
			.pixels = round % 4 ? 1 + below(80) : 256 + below(600),
			.groups = 1 + below(4),
			.eps = 1e-5f,
			.silu = round % 5 == 0,
			.shift_per_sample = below(2) };
		g.channels = g.groups * (1 + below(12));
		check_group_norm(&g, (enum qd_form)(round % 3), below(2));
	}
	check_group_norm(&(struct qd_group_norm){ 1, 1030, 96, 32, 1e-5f, false, false }, QD_FORM_U16, false);
}

static void check_layer_norm(int64_t rows, int64_t channels, enum qd_form form, bool biased)
{
	size_t n = (size_t)(rows * channels);
	float *x = normal(n), *want = malloc(n * sizeof(*want)), *scale = normal((size_t)channels),
	      *bias = biased ? normal((size_t)channels) : NULL;
	struct qd_numbers from = numbers(form, n, x);

	assert_non_null(want);
	qd_layer_norm_f32(rows, channels, 1e-5f, x, scale, bias, want);
	for (int threads = 1; threads <= 2; threads++) {
		struct rows got = no_rows(rows, channels);
		omp_set_num_threads(threads);
		assert_int_equal(qd_layer_norm_numbers(rows, channels, 1e-5f, &from, scale, bias, take, &got), QD_OK);
		check_rows(&got, rows, want);
	}
	void *const all[] = { x, want, scale, bias, from.at };
	for (size_t i = 0; i < QD_COUNT(all); i++)
		free(all[i]);
}

static void test_layer_norm(void **state)
{
	(void)state;
	for (int round = 0; round < 30; round++)
		check_layer_norm(1 + below(100), 1 + below(70), (enum qd_form)(round % 3), below(2));
	check_layer_norm(700, 99, QD_FORM_U16, true);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_group_norm),
		cmocka_unit_test(test_layer_norm),
	};
	return cmocka_run_group_tests(tests, start_random, NULL);
}
