/*
 * Range of an array, and the optimizer's step: loops that read every element once.
 */
#include "lib/kernel/kernel_internal.h"

#include <math.h>
#include <string.h>

/*
 * A float's bits, reordered so that integers compare as the floats do (negative ones count downwards). Integer minima and maxima
 * are vectors without relaxing arithmetic, and infinities and NaN of either sign end up at the two ends.
 */
static inline int32_t ordered(uint32_t bits)
{
	return (int32_t)(bits ^ ((uint32_t)((int32_t)bits >> 31) & 0x7fffffffu));
}

static float unordered(int32_t key)
{
	uint32_t bits = ordered((uint32_t)key);
	float value;

	memcpy(&value, &bits, sizeof(value));
	return value;
}

QD_VECTOR static void range(const float *x, size_t n, int32_t *low, int32_t *high)
{
	int32_t smallest = INT32_MAX, largest = INT32_MIN;

	for (size_t i = 0; i < n; i++) {
		uint32_t bits;
		memcpy(&bits, &x[i], sizeof(bits));
		int32_t key = ordered(bits);
		smallest = key < smallest ? key : smallest;
		largest = key > largest ? key : largest;
	}
	*low = smallest;
	*high = largest;
}

bool qd_min_max_f32(const float *x, size_t n, float *low, float *high)
{
	size_t n_chunks = qd_chunks(n);
	int32_t smallest = INT32_MAX, largest = INT32_MIN;
	const int32_t infinity = 0x7f800000;

#pragma omp parallel for schedule(static) reduction(min : smallest) reduction(max : largest) if (n >= QD_PARALLEL_MIN)
	for (size_t chunk = 0; chunk < n_chunks; chunk++) {
		int32_t a, b;
		range(x + chunk * QD_CHUNK, qd_min_size(QD_CHUNK, n - chunk * QD_CHUNK), &a, &b);
		smallest = a < smallest ? a : smallest;
		largest = b > largest ? b : largest;
	}
	if (largest >= infinity || smallest <= ordered(0xff800000u))
		return false;
	*low = unordered(smallest);
	*high = unordered(largest);
	return true;
}

struct step {
	float beta1, beta2, decay, rate, correction, eps;
};

QD_VECTOR static void adamw(
	const struct step *s, size_t n, float *restrict x, float *restrict m, float *restrict v, const float *restrict g)
{
	for (size_t i = 0; i < n; i++) {
		m[i] = s->beta1 * m[i] + (1.0f - s->beta1) * g[i];
		v[i] = s->beta2 * v[i] + (1.0f - s->beta2) * g[i] * g[i];
		x[i] = x[i] * s->decay - s->rate * m[i] / (sqrtf(v[i]) * s->correction + s->eps);
	}
}

void qd_adamw_f32(const struct qd_adamw *options, size_t n, float *x, float *m, float *v, const float *g)
{
	double bias1 = 1.0 - pow(options->beta1, (double)options->step), bias2 = 1.0 - pow(options->beta2, (double)options->step);
	const struct step step = { .beta1 = (float)options->beta1,
		.beta2 = (float)options->beta2,
		.decay = (float)(1.0 - options->lr * options->weight_decay),
		.rate = (float)(options->lr / bias1),
		.correction = (float)(1.0 / sqrt(bias2)),
		.eps = (float)options->eps };
	size_t n_chunks = qd_chunks(n);

#pragma omp parallel for schedule(static) if (n >= QD_PARALLEL_MIN)
	for (size_t chunk = 0; chunk < n_chunks; chunk++) {
		size_t at = chunk * QD_CHUNK;
		adamw(&step, qd_min_size(QD_CHUNK, n - at), x + at, m + at, v + at, g + at);
	}
}
