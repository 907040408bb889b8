/*
 * lib/math: random numbers against published values, matrix routines against plain loops, statistics against closed forms.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "lib/math/math.h"
#include "tests/unit/scratch.h"

#define PI 3.14159265358979323846

static void assert_near(double found, double want, double tolerance)
{
	if (!(fabs(found - want) <= tolerance))
		fail_msg("%.17g, needs %.17g within %g", found, want, tolerance);
}

/* ---- random numbers ---- */

/* The generator's authors' program gives these for the state 1, 2, 3, 4. */
static void xoshiro_gives_the_published_numbers(void **state)
{
	(void)state;
	static const uint64_t want[] = { 11520, 0, 1509978240, 1215971899390074240u, 1216172134540287360u };
	struct qd_random random = { .state = { 1, 2, 3, 4 } };
	for (size_t i = 0; i < QD_COUNT(want); i++)
		assert_true(qd_random_u64(&random) == want[i]);
}

/* Files made from a seed must be the same in every version: these numbers may never change. */
static void seeds_and_streams_are_fixed(void **state)
{
	(void)state;
	static const uint64_t want[2][3] = { { 2303456275738999573u, 5438210688795116325u, 10433286269970717030u },
		{ 6361458328680127711u, 2631838692071214148u, 13221152241774850206u } };
	for (uint64_t stream = 0; stream < 2; stream++) {
		struct qd_random random;
		qd_random_init(&random, 42, stream);
		for (size_t i = 0; i < 3; i++)
			assert_true(qd_random_u64(&random) == want[stream][i]);
	}
	assert_true(qd_stream(QD_STREAM_SAMPLING, ((uint64_t)3 << 32) + 5) == 0x300000005);
	assert_true(qd_stream(QD_STREAM_PASS, 7) == 7 && qd_stream(QD_STREAM_FREE_SLOT, 7) == 7);
	assert_true(qd_stream(QD_STREAM_STEP, 7) == 0x4000000000000007 && qd_stream(QD_STREAM_POOL, 7) == 0x4000000000000007);
	assert_true(
		qd_stream(QD_STREAM_VALIDATION, 7) == 0x8000000000000007 && qd_stream(QD_STREAM_FRESH, 0) == 0xc000000000000000);
	assert_true(qd_stream(QD_STREAM_ORDER, 0) == 0 && qd_stream(QD_STREAM_WALK, 7) == 0x4000000000007);
	assert_true(qd_stream(QD_STREAM_EXAMPLE, ((uint64_t)1 << 48) - 1 - 7) == UINT64_MAX - 7);
}

/*
 * Mean and variance of n draws lie within five standard errors: 1/sqrt(12 n) and 1/sqrt(180 n) for uniform numbers, 1/sqrt(n) and
 * sqrt(2/n) for normal ones.
 */
static void distributions_have_their_moments(void **state)
{
	(void)state;
	enum { N = 200000 };
	struct qd_random random;
	qd_random_init(&random, test_seed(), 0);
	double sum[2] = { 0 }, squares[2] = { 0 };
	for (int i = 0; i < N; i++) {
		double u = qd_random_uniform(&random), z = qd_random_normal(&random);
		assert_true(u >= 0 && u < 1);
		sum[0] += u;
		squares[0] += (u - 0.5) * (u - 0.5);
		sum[1] += z;
		squares[1] += z * z;
	}
	assert_near(sum[0] / N, 0.5, 5 / sqrt(12.0 * N));
	assert_near(squares[0] / N, 1.0 / 12, 5 / sqrt(180.0 * N));
	assert_near(sum[1] / N, 0, 5 / sqrt(N));
	assert_near(squares[1] / N, 1, 5 * sqrt(2.0 / N));
}

static void below_reaches_every_value_and_no_other(void **state)
{
	(void)state;
	struct qd_random random;
	qd_random_init(&random, test_seed(), 1);
	unsigned seen[7] = { 0 };
	for (int i = 0; i < 7000; i++)
		seen[qd_random_below(&random, 7)]++;
	/* 1000 expected, standard deviation 29. */
	for (int i = 0; i < 7; i++)
		assert_in_range(seen[i], 1000 - 6 * 29, 1000 + 6 * 29);
	assert_int_equal(qd_random_below(&random, 1), 0);
	for (int i = 0; i < 100; i++)
		assert_true(qd_random_below(&random, ((uint64_t)1 << 63) + 1) <= (uint64_t)1 << 63);
}

/* ---- linear algebra ---- */

static void decompositions_refuse_what_is_not_finite(void **state)
{
	(void)state;
	double b[4] = { 1, INFINITY, INFINITY, 1 }, w[2];
	assert_int_equal(qd_eigen_symmetric(b, 2, w), QD_EINPUT);
	assert_string_equal(qd_message(), "matrix element 1 is infinite or not a number");
	assert_int_equal(qd_eigen_symmetric(b, 16385, w), QD_EINPUT);
	assert_string_equal(qd_message(), "matrix of 16385 x 16385 is too large to decompose");
	assert_int_equal(qd_eigen_symmetric(b, 0, w), QD_OK);
}

static void eigenvectors_are_eigenvectors(void **state)
{
	(void)state;
	enum { N = 12 };
	struct qd_random random;
	qd_random_init(&random, test_seed(), 4);
	double a[N][N], v[N][N], w[N];
	for (int i = 0; i < N; i++)
		for (int j = 0; j <= i; j++)
			a[i][j] = a[j][i] = qd_random_normal(&random);
	memcpy(v, a, sizeof(a));
	assert_int_equal(qd_eigen_symmetric(&v[0][0], N, w), QD_OK);
	for (int k = 0; k < N; k++) {
		assert_true(k == 0 || w[k] >= w[k - 1]);
		for (int i = 0; i < N; i++) {
			double product = 0;
			for (int j = 0; j < N; j++)
				product += a[i][j] * v[k][j];
			assert_near(product, w[k] * v[k][i], 1e-12);
		}
	}
}

/* ---- statistics ---- */

static void samples_are_summarized(void **state)
{
	(void)state;
	static const double x[] = { 2, 4, 4, 4, 5, 5, 7, 9 };
	static const float y[] = { 2, 4, 4, 4, 5, 5, 7, 9 };
	assert_near(qd_mean(x, 8), 5, 0);
	assert_near(qd_population_std(y, 8), 2, 1e-15);
	assert_near(qd_standard_error(x, 8), sqrt(32.0 / 7 / 8), 1e-15);
	assert_near(qd_mean(x, 0), 0, 0);
	assert_near(qd_standard_error(x, 1), 0, 0);
	assert_near(qd_population_std(y, 0), 0, 0);
	static float large[1000];
	for (int i = 0; i < 1000; i++)
		large[i] = 1e6f + (float)(i % 2);
	assert_near(qd_population_std(large, 1000), 0.5, 1e-12);
}

/* I_x(a,1) = x^a, I_x(1,b) = 1 - (1-x)^b, I_1/2(a,a) = 1/2, I_x(a,b) = 1 - I_(1-x)(b,a); 1e-13 is a thousand roundings. */
static void incomplete_beta_meets_its_closed_forms(void **state)
{
	(void)state;
	struct qd_random random;
	qd_random_init(&random, test_seed(), 5);
	for (int i = 0; i < 1000; i++) {
		double a = 0.1 + 50 * qd_random_uniform(&random), b = 0.1 + 50 * qd_random_uniform(&random);
		double x = qd_random_uniform(&random);
		assert_near(qd_incomplete_beta(a, 1, x), pow(x, a), 1e-13);
		assert_near(qd_incomplete_beta(1, b, x), 1 - pow(1 - x, b), 1e-13);
		assert_near(qd_incomplete_beta(a, a, 0.5), 0.5, 1e-12);
		assert_near(qd_incomplete_beta(a, b, x), 1 - qd_incomplete_beta(b, a, 1 - x), 1e-12);
	}
	assert_near(qd_incomplete_beta(2, 3, 0), 0, 0);
	assert_near(qd_incomplete_beta(2, 3, 1), 1, 0);
}

/* One degree of freedom: 1 - 2/pi atan t. Two: 1 - t / sqrt(2 + t^2). Very many: the normal distribution's. */
static void student_meets_its_closed_forms(void **state)
{
	(void)state;
	for (double t = 0; t < 50; t += 0.37) {
		assert_near(qd_student_two_sided(t, 1), 1 - 2 / PI * atan(t), 1e-13);
		assert_near(qd_student_two_sided(-t, 2), 1 - t / sqrt(2 + t * t), 1e-13);
		/* The distance to the normal distribution is below 1 / (4 freedom) times a function below 1.2. */
		assert_near(qd_student_two_sided(t, 1e6), erfc(t / sqrt(2)), 1e-6);
	}
}

/* Worked example: differences 1 2 3 4 5, mean 3, standard error sqrt(2.5 / 5), t = 3 sqrt 2 with four degrees of freedom, for which
 * p = 1 - s (1 + (1 - s^2) / 2), s = t / sqrt(4 + t^2). */
static void paired_test_of_a_worked_example(void **state)
{
	(void)state;
	static const double a[] = { 11, 12, 13, 14, 15 }, b[] = { 10, 10, 10, 10, 10 };
	double t, p, s = 3 * sqrt(2) / sqrt(4 + 18);
	assert_int_equal(qd_paired_t_test(a, b, 5, &t, &p), QD_OK);
	assert_near(t, 3 * sqrt(2), 1e-14);
	assert_near(p, 1 - s * (1 + (1 - s * s) / 2), 1e-14);
	assert_int_equal(qd_paired_t_test(b, a, 5, &t, &p), QD_OK);
	assert_near(t, -3 * sqrt(2), 1e-14);
}

static void paired_test_of_equal_and_shifted_samples(void **state)
{
	(void)state;
	static const double a[] = { 1, 2, 3 }, b[] = { 2, 3, 4 };
	double t, p;
	assert_int_equal(qd_paired_t_test(a, a, 3, &t, &p), QD_OK);
	assert_true(t == 0 && p == 1);
	assert_int_equal(qd_paired_t_test(a, b, 3, &t, &p), QD_OK);
	assert_true(isinf(t) && t < 0 && p == 0);
	assert_int_equal(qd_paired_t_test(a, b, 3, NULL, &p), QD_OK);
	assert_int_equal(qd_paired_t_test(a, b, 1, &t, &p), QD_EINPUT);
	assert_string_equal(qd_message(), "a paired test has 1 pairs, needs at least 2");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(xoshiro_gives_the_published_numbers),
		cmocka_unit_test(seeds_and_streams_are_fixed),
		cmocka_unit_test(distributions_have_their_moments),
		cmocka_unit_test(below_reaches_every_value_and_no_other),
		cmocka_unit_test(decompositions_refuse_what_is_not_finite),
		cmocka_unit_test(eigenvectors_are_eigenvectors),
		cmocka_unit_test(samples_are_summarized),
		cmocka_unit_test(incomplete_beta_meets_its_closed_forms),
		cmocka_unit_test(student_meets_its_closed_forms),
		cmocka_unit_test(paired_test_of_a_worked_example),
		cmocka_unit_test(paired_test_of_equal_and_shifted_samples),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
