/*
 * lib/math, how far apart two things are: signals, distributions, images, sets of features. Plain loops, and the values that NumPy,
 * SciPy and scikit-image gave for the golden files.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/io/io.h"
#include "lib/math/math.h"
#include "tests/unit/scratch.h"

static void assert_near(double found, double want, double tolerance)
{
	if (!(fabs(found - want) <= tolerance))
		fail_msg("%.17g, needs %.17g within %g", found, want, tolerance);
}

/* ---- signals ---- */

static void errors_equal_plain_loops(void **state)
{
	(void)state;
	struct qd_random random;
	qd_random_init(&random, test_seed(), 0);
	enum { N = 1003 };
	static float r[N], m[N];
	double rr = 0, mm = 0, rm = 0, dd = 0, largest = 0;
	for (int i = 0; i < N; i++) {
		r[i] = (float)qd_random_normal(&random);
		m[i] = r[i] + 0.01f * (float)qd_random_normal(&random);
		double d = (double)m[i] - (double)r[i];
		rr += (double)r[i] * (double)r[i];
		mm += (double)m[i] * (double)m[i];
		rm += (double)r[i] * (double)m[i];
		dd += d * d;
		largest = fmax(largest, fabs(d));
	}
	/* Sums of a thousand doubles in another order: 1000 roundings of 1e-16. */
	assert_near(qd_mse(r, m, N), dd / N, 1e-13 * dd / N);
	assert_near(qd_sqnr_db(r, m, N), 10 * log10(rr / dd), 1e-11);
	assert_near(qd_cosine(r, m, N), rm / sqrt(rr * mm), 1e-13);
	struct qd_error sums = { 0 };
	for (size_t at = 0; at < N; at += 13)
		qd_error_add(&sums, r + at, m + at, N - at < 13 ? N - at : 13);
	assert_int_equal(sums.n, N);
	assert_true(sums.largest == largest);
	assert_near(qd_error_sqnr_db(&sums), 10 * log10(rr / dd), 1e-11);
}

static void errors_of_nothing_and_of_equals(void **state)
{
	(void)state;
	static const float a[2] = { 3, 4 }, zero[2] = { 0, 0 };
	assert_true(qd_mse(a, zero, 0) == 0);
	assert_true(qd_sqnr_db(a, a, 2) == INFINITY);
	assert_true(qd_sqnr_db(zero, zero, 2) == INFINITY);
	assert_true(qd_sqnr_db(zero, a, 2) == -INFINITY);
	assert_near(qd_cosine(a, a, 2), 1, 1e-15);
	assert_true(qd_cosine(zero, zero, 2) == 1);
	assert_true(qd_cosine(zero, a, 2) == 0);
	assert_true(qd_psnr(0, 255) == INFINITY);
	assert_near(qd_psnr(1, 10), 20, 1e-13);
}

/* ---- distributions ---- */

/* p = softmax(x / tau), of values whose exponentials neither overflow nor vanish. */
static void softmax(const float *x, size_t n, double tau, double *p)
{
	double sum = 0;
	for (size_t i = 0; i < n; i++)
		sum += p[i] = exp((double)x[i] / tau);
	for (size_t i = 0; i < n; i++)
		p[i] /= sum;
}

static double js_by_definition(const double *p, const double *q, size_t n)
{
	double sum = 0;
	for (size_t i = 0; i < n; i++) {
		double m = (p[i] + q[i]) / 2;
		sum += p[i] > 0 ? p[i] * log(p[i] / m) / 2 : 0;
		sum += q[i] > 0 ? q[i] * log(q[i] / m) / 2 : 0;
	}
	return sum;
}

static void divergences_equal_their_definitions(void **state)
{
	(void)state;
	struct qd_random random;
	qd_random_init(&random, test_seed(), 1);
	enum { N = 300 };
	static float x[N], y[N];
	static double p[N], q[N];
	for (int round = 0; round < 20; round++) {
		double spread = pow(10, -2 + 0.15 * round), tau = 0.2 + qd_random_uniform(&random), kl = 0;
		for (int i = 0; i < N; i++) {
			x[i] = (float)qd_random_normal(&random);
			y[i] = x[i] + (float)(spread * qd_random_normal(&random));
		}
		softmax(x, N, tau, p);
		softmax(y, N, tau, q);
		for (int i = 0; i < N; i++)
			kl += p[i] * log(p[i] / q[i]);
		assert_near(qd_softmax_js(x, y, N, tau), js_by_definition(p, q, N), 1e-13);
		assert_near(qd_softmax_kl(x, y, N, tau), kl, 1e-12 * (1 + kl));
	}
}

/* x = (d, 0) and y = (0, d) are p = (1+e, 1-e)/2 and its mirror with e = tanh(d / 2): JS = ((1+e) ln(1+e) + (1-e) ln(1-e)) / 2
 * = e^2/2 + e^4/12 + ..., far below 1e-16 for e = 1e-12. The logarithms are near ln 2, which a double has to 1e-16. */
static void small_divergences_keep_their_digits(void **state)
{
	(void)state;
	for (float d = 1e-3F; d > 1e-12F; d /= 10) {
		const float x[2] = { d, 0 }, y[2] = { 0, d };
		double e = tanh((double)d / 2);
		assert_near(qd_softmax_js(x, y, 2, 1), e * e / 2 * (1 + e * e / 6), 1e-12 * e * e + 0x1p-51 * e);
	}
}

static void disjoint_distributions_are_ln_2_apart(void **state)
{
	(void)state;
	static const float x[2] = { 1000, -1000 }, y[2] = { -1000, 1000 };
	assert_near(qd_softmax_js(x, y, 2, 1), log(2), 1e-15);
	assert_near(qd_softmax_kl(x, y, 2, 1), 2000, 1e-12);
	assert_true(qd_softmax_js(x, x, 2, 1) == 0);
}

/* ---- images ---- */

static void structural_similarity_needs_a_window(void **state)
{
	(void)state;
	static const uint8_t image[10 * 11] = { 0 };
	double value;
	assert_int_equal(qd_ssim(image, image, 10, 11, 1, QD_SSIM_GAUSSIAN, &value), QD_EINPUT);
	assert_string_equal(qd_message(), "image of 10 x 11 pixels, needs at least 11 x 11");
	assert_int_equal(qd_ssim(image, image, 10, 11, 1, QD_SSIM_UNIFORM7, &value), QD_OK);
	assert_near(value, 1, 1e-15);
}

/* One window, one channel: the formula with its sums written out. */
static void one_window_equals_the_formula(void **state)
{
	(void)state;
	struct qd_random random;
	qd_random_init(&random, test_seed(), 2);
	uint8_t a[49], b[49];
	double ma = 0, mb = 0, va = 0, vb = 0, cov = 0, value;
	for (int i = 0; i < 49; i++) {
		a[i] = (uint8_t)qd_random_below(&random, 256);
		b[i] = (uint8_t)qd_random_below(&random, 256);
		ma += a[i] / 49.0;
		mb += b[i] / 49.0;
	}
	for (int i = 0; i < 49; i++) {
		va += (a[i] - ma) * (a[i] - ma) / 48;
		vb += (b[i] - mb) * (b[i] - mb) / 48;
		cov += (a[i] - ma) * (b[i] - mb) / 48;
	}
	double c1 = 2.55 * 2.55, c2 = 7.65 * 7.65;
	double want = (2 * ma * mb + c1) * (2 * cov + c2) / ((ma * ma + mb * mb + c1) * (va + vb + c2));
	assert_int_equal(qd_ssim(a, b, 7, 7, 1, QD_SSIM_UNIFORM7, &value), QD_OK);
	assert_near(value, want, 1e-12);
}

/* ---- golden values ---- */

static const char *golden_metric(const char *name)
{
	char path[256];
	snprintf(path, sizeof(path), "metrics/%s", name);
	const char *found = golden_path(path);
	assert_non_null(found);
	return found;
}

static json_t *expected(const char *part)
{
	const char *path = golden_path("metrics/expected.json");
	json_t *all, *list = NULL;
	if (path != NULL) {
		assert_int_equal(qd_json_read(path, &all), QD_OK);
		list = json_incref(json_object_get(all, part));
		json_decref(all);
		assert_true(json_array_size(list) > 0);
	}
	return list;
}

static const char *text_of(const json_t *object, const char *key)
{
	return json_string_value(json_object_get(object, key));
}

static void check_number(const json_t *object, const char *key, double found, double tolerance)
{
	const json_t *want = json_object_get(object, key);
	if (json_is_null(want))
		assert_true(isinf(found));
	else
		assert_near(found, json_number_value(want), tolerance);
}

static void image_measures_equal_the_golden_ones(void **state)
{
	(void)state;
	json_t *list = expected("images"), *pair;
	if (list == NULL)
		skip();
	size_t i;
	json_array_foreach(list, i, pair)
	{
		struct qd_image a, b;
		assert_int_equal(qd_image_read(golden_metric(text_of(pair, "a")), &a), QD_OK);
		assert_int_equal(qd_image_read(golden_metric(text_of(pair, "b")), &b), QD_OK);
		double gaussian, uniform;
		assert_int_equal(qd_ssim(a.rgb, b.rgb, a.width, a.height, 3, QD_SSIM_GAUSSIAN, &gaussian), QD_OK);
		assert_int_equal(qd_ssim(a.rgb, b.rgb, a.width, a.height, 3, QD_SSIM_UNIFORM7, &uniform), QD_OK);
		check_number(pair, "ssim_gaussian", gaussian, 1e-9);
		check_number(pair, "ssim_uniform7", uniform, 1e-9);
		qd_image_release(&a);
		qd_image_release(&b);
	}
	json_decref(list);
}

static void check_divergences(const json_t *want, const float *x, const float *y, size_t n, double tau)
{
	if (json_is_null(want))
		return;
	check_number(want, "jsd", qd_softmax_js(x, y, n, tau), 1e-9);
	check_number(want, "kl_pq", qd_softmax_kl(x, y, n, tau), 1e-9);
	check_number(want, "kl_qp", qd_softmax_kl(y, x, n, tau), 1e-9);
}

static void divergences_equal_the_golden_ones(void **state)
{
	(void)state;
	json_t *list = expected("divergence"), *item;
	if (list == NULL)
		skip();
	size_t i;
	json_array_foreach(list, i, item)
	{
		struct qd_safetensors file;
		const struct qd_tensor *x, *y;
		assert_int_equal(qd_safetensors_open(&file, golden_metric(text_of(item, "vectors"))), QD_OK);
		assert_int_equal(qd_safetensors_get(&file, "x", &x), QD_OK);
		assert_int_equal(qd_safetensors_get(&file, "y", &y), QD_OK);
		size_t n = (size_t)qd_shape_elements(&x->shape);
		float *values = malloc(2 * n * sizeof(*values));
		assert_int_equal(qd_tensor_to_f32(x, values), QD_OK);
		assert_int_equal(qd_tensor_to_f32(y, values + n), QD_OK);
		double tau = qd_population_std(values, n);
		check_number(item, "std_x", tau, 1e-12);
		check_divergences(json_object_get(item, "tau1"), values, values + n, n, 1);
		check_divergences(json_object_get(item, "tau_std"), values, values + n, n, tau);
		free(values);
		qd_safetensors_release(&file);
	}
	json_decref(list);
}

static void frechet_distances_equal_the_golden_ones(void **state)
{
	(void)state;
	json_t *list = expected("fid"), *item;
	if (list == NULL)
		skip();
	size_t i;
	json_array_foreach(list, i, item)
	{
		struct qd_safetensors file;
		const struct qd_tensor *a, *b;
		assert_int_equal(qd_safetensors_open(&file, golden_metric(text_of(item, "features"))), QD_OK);
		assert_int_equal(qd_safetensors_get(&file, "a", &a), QD_OK);
		assert_int_equal(qd_safetensors_get(&file, "b", &b), QD_OK);
		size_t n = (size_t)a->shape.dim[0], m = (size_t)b->shape.dim[0], d = (size_t)a->shape.dim[1];
		float *values = malloc((n + m) * d * sizeof(*values));
		assert_int_equal(qd_tensor_to_f32(a, values), QD_OK);
		assert_int_equal(qd_tensor_to_f32(b, values + n * d), QD_OK);
		double found, want = json_number_value(json_object_get(item, "fid_eigen"));
		assert_int_equal(qd_frechet_distance(values, n, values + n * d, m, d, &found), QD_OK);
		assert_near(found, want, 1e-9 + 1e-6 * want);
		free(values);
		qd_safetensors_release(&file);
	}
	json_decref(list);
}

static void frechet_distance_needs_two_of_each(void **state)
{
	(void)state;
	static const float a[4] = { 1, 2, 3, 4 };
	double out;
	assert_int_equal(qd_frechet_distance(a, 1, a, 2, 2, &out), QD_EINPUT);
	assert_string_equal(qd_message(), "sets of 1 and 2 features, need at least 2 of each");
}

/* Wherever it stands, among others or behind the last eight; finite sums later do not hide it. */
static void a_difference_that_is_no_number_is_the_largest(void **state)
{
	enum { N = 29 };

	(void)state;
	for (size_t at = 0; at < N; at++) {
		for (int side = 0; side < 2; side++) {
			float x[2][N] = { { 0 } };
			struct qd_error error = { 0 };
			x[side][at] = NAN;
			x[1][(at + 1) % N] = 3;
			qd_error_add(&error, x[0], x[1], N);
			assert_true(isnan(error.largest));
			x[side][at] = 0;
			qd_error_add(&error, x[0], x[1], N);
			assert_true(isnan(error.largest));
			assert_true(qd_all_finite(x[side], N));
			x[side][at] = side == 0 ? NAN : -INFINITY;
			assert_false(qd_all_finite(x[side], N));
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(errors_equal_plain_loops),
		cmocka_unit_test(errors_of_nothing_and_of_equals),
		cmocka_unit_test(a_difference_that_is_no_number_is_the_largest),
		cmocka_unit_test(divergences_equal_their_definitions),
		cmocka_unit_test(small_divergences_keep_their_digits),
		cmocka_unit_test(disjoint_distributions_are_ln_2_apart),
		cmocka_unit_test(structural_similarity_needs_a_window),
		cmocka_unit_test(one_window_equals_the_formula),
		cmocka_unit_test(image_measures_equal_the_golden_ones),
		cmocka_unit_test(divergences_equal_the_golden_ones),
		cmocka_unit_test(frechet_distances_equal_the_golden_ones),
		cmocka_unit_test(frechet_distance_needs_two_of_each),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
