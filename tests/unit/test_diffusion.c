/* lib/sampler: what is read from a network's answer is what its training target was made of. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>

#include "lib/sampler/sampler.h"

enum { N = 5 };

static const enum qd_prediction kinds[] = { QD_PREDICT_EPSILON, QD_PREDICT_V, QD_PREDICT_SAMPLE };
static const double abars[] = { 0.9991, 0.5, 0.0047 };
static const float x0s[N] = { -1.5F, 0, 0.25F, 1, 3 }, es[N] = { 0.5F, -2, 0, 1, -0.125F };

static void assert_near(double a, double b, double tolerance)
{
	if (!(fabs(a - b) <= tolerance))
		fail_msg("%.17g is not %.17g", a, b);
}

/* A network that says exactly its target: x0 and e come back by abar and, of the scaled state, by sigma. The worst of them divides
 * by sqrt(0.0009) or sqrt(0.0047). */
static void test_there_and_back(void **state)
{
	(void)state;
	for (size_t a = 0; a < QD_COUNT(abars); a++)
		for (size_t kind = 0; kind < QD_COUNT(kinds); kind++)
			for (int i = 0; i < N; i++) {
				struct qd_noise_level level = qd_noise_level_of(abars[a]);
				double x0 = (double)x0s[i], e = (double)es[i], x = qd_noised(level, x0, e);
				double m = qd_target(kinds[kind], level, x0, e), sigma = level.noise / level.signal;
				struct qd_prediction_terms by_abar = qd_predict(kinds[kind], abars[a]),
							   by_sigma = qd_predict_sigma(kinds[kind], sigma);
				assert_near(level.signal * level.signal + level.noise * level.noise, 1, 1e-15);
				assert_near(by_abar.x0_x * x + by_abar.x0_m * m, x0, 1e-13);
				assert_near(by_abar.e_x * x + by_abar.e_m * m, e, 1e-13);
				assert_near(by_sigma.x0_x * x / level.signal + by_sigma.x0_m * m, x0, 1e-13);
				assert_near(qd_noise_in(level, x, x0), e, 1e-13);
			}
}

/* Training's float32 is the same within three roundings of numbers up to 3.3: 3 * 2^-23. */
static void test_float32(void **state)
{
	float x[N], target[N];
	(void)state;

	for (size_t a = 0; a < QD_COUNT(abars); a++)
		for (size_t kind = 0; kind < QD_COUNT(kinds); kind++) {
			struct qd_noise_level level = qd_noise_level_of(abars[a]);
			qd_noised_f32(level, N, x0s, es, x);
			qd_target_f32(kinds[kind], level, N, x0s, es, target);
			for (int i = 0; i < N; i++) {
				assert_near((double)x[i], qd_noised(level, (double)x0s[i], (double)es[i]), 3.6e-7);
				assert_near(
					(double)target[i], qd_target(kinds[kind], level, (double)x0s[i], (double)es[i]), 3.6e-7);
			}
		}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_there_and_back),
		cmocka_unit_test(test_float32),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
