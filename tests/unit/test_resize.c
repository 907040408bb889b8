/* lib/math, resizing: the filter as one sum over the whole picture, constants and copies kept, masks kept binary. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>

#include "lib/math/math.h"
#include "tests/unit/scratch.h"

static double lobe(double x)
{
	double pi = acos(-1.0), t = pi * x;
	if (fabs(x) >= 3)
		return 0;
	return fabs(x) < 1e-12 ? 1 : sin(t) / t * sin(t / 3) / (t / 3);
}

/* The weight of input pixel k in output pixel i, not yet divided by their sum. */
static double weight(int i, int n_out, int k, int n_in)
{
	double ratio = (double)n_in / n_out, scale = ratio > 1 ? ratio : 1;
	return lobe((k + 0.5 - (i + 0.5) * ratio) / scale);
}

/*
 * Both directions at once in double. The library rounds weights and the middle picture to float32: sums of at most 6 * 8 terms of
 * up to 255 and weights whose absolute values sum to less than 2, twice: 2 * 48 * 255 * 2 * 6e-8 = 3e-3.
 */
static void sums_over_the_picture(void **state)
{
	struct qd_random random;

	(void)state;
	qd_random_init(&random, test_seed(), 1);
	for (int round = 0; round < 12; round++) {
		int h = 1 + (int)qd_random_below(&random, 40), w = 1 + (int)qd_random_below(&random, 40),
		    oh = 1 + (int)qd_random_below(&random, 40), ow = 1 + (int)qd_random_below(&random, 40);
		float *in = malloc(2 * (size_t)(h * w) * sizeof(float)), *out = malloc(2 * (size_t)(oh * ow) * sizeof(float));

		for (int i = 0; i < 2 * h * w; i++)
			in[i] = (float)(255 * qd_random_uniform(&random));
		assert_int_equal(qd_resize_lanczos(in, 2, h, w, oh, ow, out), QD_OK);
		for (int p = 0; p < 2; p++)
			for (int y = 0; y < oh; y++)
				for (int x = 0; x < ow; x++) {
					double sum = 0, rows = 0, columns = 0;
					for (int i = 0; i < h; i++)
						rows += weight(y, oh, i, h);
					for (int j = 0; j < w; j++)
						columns += weight(x, ow, j, w);
					for (int i = 0; i < h; i++)
						for (int j = 0; j < w; j++)
							sum += weight(y, oh, i, h) * weight(x, ow, j, w) *
							       (double)in[(p * h + i) * w + j];
					assert_true(fabs(sum / rows / columns - (double)out[(p * oh + y) * ow + x]) < 3e-3);
				}
		free(in);
		free(out);
	}
}

static void keeps_constants_and_copies(void **state)
{
	float in[5 * 7], out[9 * 20], same[5 * 7];

	(void)state;
	for (int i = 0; i < 5 * 7; i++)
		in[i] = 100;
	assert_int_equal(qd_resize_lanczos(in, 1, 5, 7, 9, 20, out), QD_OK);
	for (int i = 0; i < 9 * 20; i++)
		assert_true(fabsf(out[i] - 100) < 1e-4f); /* weights are normalized to float32 */
	for (int i = 0; i < 5 * 7; i++)
		in[i] = (float)(i * i % 31);
	assert_int_equal(qd_resize_lanczos(in, 1, 5, 7, 5, 7, same), QD_OK);
	for (int i = 0; i < 5 * 7; i++)
		assert_true(fabsf(same[i] - in[i]) < 1e-4f); /* the lobes' zeros are sin(pi n), 1e-16 */
}

/* floor(i n_in / n_out), by counting. */
static void takes_the_nearest(void **state)
{
	struct qd_random random;

	(void)state;
	qd_random_init(&random, test_seed(), 2);
	for (int round = 0; round < 20; round++) {
		int h = 1 + (int)qd_random_below(&random, 30), w = 1 + (int)qd_random_below(&random, 30),
		    oh = 1 + (int)qd_random_below(&random, 30), ow = 1 + (int)qd_random_below(&random, 30);
		float *in = malloc(3 * (size_t)(h * w) * sizeof(float)), *out = malloc(3 * (size_t)(oh * ow) * sizeof(float));

		for (int i = 0; i < 3 * h * w; i++)
			in[i] = (float)i;
		qd_resize_nearest(in, 3, h, w, oh, ow, out);
		for (int p = 0; p < 3; p++)
			for (int y = 0; y < oh; y++)
				for (int x = 0; x < ow; x++) {
					int i = 0, j = 0;
					while ((i + 1) * oh <= y * h)
						i++;
					while ((j + 1) * ow <= x * w)
						j++;
					assert_true(out[(p * oh + y) * ow + x] == (float)((p * h + i) * w + j));
				}
		free(in);
		free(out);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sums_over_the_picture),
		cmocka_unit_test(keeps_constants_and_copies),
		cmocka_unit_test(takes_the_nearest),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
