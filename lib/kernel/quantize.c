/*
 * Quantizing, dequantizing, both at once, and the straight-through gradient:
 *
 *   q  = clamp(rint(x / scale) + zero, low, high)
 *   y  = float(q - zero) * scale
 *   dx = dy where low <= rint(x / scale) + zero <= high, else 0
 *
 * x is seen as [outer, channels, inner]. An array is cut into runs that share one channel (`step` 0), or, where channels are the
 * last dimension (inner 1), into runs that walk along them (`step` 1). Both are the same loop over a run.
 */
#include "lib/kernel/kernel_internal.h"

#include <math.h>

/* A run: n elements from `at`, whose element i has scale[i * step] and zero[i * step]. */
struct run {
	size_t at, n, step;
	const float *scale, *zero;
};

static struct run next_run(const struct qd_grid *grid, size_t at, size_t end)
{
	size_t along = grid->inner == 1 ? grid->channels : grid->inner;
	size_t left = along - at % along;
	size_t channel = grid->inner == 1 ? at % grid->channels : at / grid->inner % grid->channels;

	return (struct run){ at, qd_min_size(left, end - at), grid->inner == 1, grid->scale + channel, grid->zero + channel };
}

/* rint(x / scale) + zero. */
static inline float position(float x, float scale, float zero)
{
	return rintf(x / scale) + zero;
}

/* Written so that NaN becomes low, and as the comparison that is one instruction. */
static inline float clamp(float value, float low, float high)
{
	value = value > low ? value : low;
	return value < high ? value : high;
}

QD_VECTOR static void quantize_same(
	size_t n, const float *restrict x, float scale, float zero, float low, float high, int32_t *restrict q)
{
	for (size_t i = 0; i < n; i++)
		q[i] = (int32_t)clamp(position(x[i], scale, zero), low, high);
}

QD_VECTOR static void quantize_along(size_t n, const float *restrict x, const float *restrict scale, const float *restrict zero,
	float low, float high, int32_t *restrict q)
{
	for (size_t i = 0; i < n; i++)
		q[i] = (int32_t)clamp(position(x[i], scale[i], zero[i]), low, high);
}

QD_VECTOR static void dequantize_same(size_t n, const int32_t *restrict q, float scale, float zero, float *restrict y)
{
	/* In integers of 64 bits, because codes of 32 bits less a zero point need not fit. */
	int64_t offset = (int64_t)zero;

	for (size_t i = 0; i < n; i++)
		y[i] = (float)((int64_t)q[i] - offset) * scale;
}

QD_VECTOR static void dequantize_along(
	size_t n, const int32_t *restrict q, const float *restrict scale, const float *restrict zero, float *restrict y)
{
	for (size_t i = 0; i < n; i++)
		y[i] = (float)((int64_t)q[i] - (int64_t)zero[i]) * scale[i];
}

QD_VECTOR static uint32_t fake_same(size_t n, const float *x, float scale, float zero, float low, float high, float *y)
{
	uint32_t inside = 0;

	for (size_t i = 0; i < n; i++) {
		float value = position(x[i], scale, zero);
		inside += value >= low && value <= high;
		y[i] = (clamp(value, low, high) - zero) * scale;
	}
	return (uint32_t)n - inside;
}

QD_VECTOR static uint32_t fake_along(
	size_t n, const float *x, const float *scale, const float *zero, float low, float high, float *y)
{
	uint32_t inside = 0;

	for (size_t i = 0; i < n; i++) {
		float value = position(x[i], scale[i], zero[i]);
		inside += value >= low && value <= high;
		y[i] = (clamp(value, low, high) - zero[i]) * scale[i];
	}
	return (uint32_t)n - inside;
}

QD_VECTOR static void backward_same(
	size_t n, const float *x, float scale, float zero, float low, float high, const float *dy, float *dx)
{
	for (size_t i = 0; i < n; i++) {
		float value = position(x[i], scale, zero);
		dx[i] = value >= low && value <= high ? dy[i] : 0.0f;
	}
}

QD_VECTOR static void backward_along(
	size_t n, const float *x, const float *scale, const float *zero, float low, float high, const float *dy, float *dx)
{
	for (size_t i = 0; i < n; i++) {
		float value = position(x[i], scale[i], zero[i]);
		dx[i] = value >= low && value <= high ? dy[i] : 0.0f;
	}
}

/* For every run of every chunk of the array, in parallel: `body` sees the run `r` and the grid. */
#define EACH_RUN(grid, reduction, body)                                                                                            \
	do {                                                                                                                       \
		size_t total = (grid)->outer * (grid)->channels * (grid)->inner, n_chunks = qd_chunks(total);                      \
		_Pragma(reduction) for (size_t chunk = 0; chunk < n_chunks; chunk++)                                               \
		{                                                                                                                  \
			size_t at = chunk * QD_CHUNK, end = qd_min_size(total, at + QD_CHUNK);                                     \
			while (at < end) {                                                                                         \
				struct run r = next_run((grid), at, end);                                                          \
				body;                                                                                              \
				at += r.n;                                                                                         \
			}                                                                                                          \
		}                                                                                                                  \
	} while (0)
#define PLAIN "omp parallel for schedule(static) if (total >= QD_PARALLEL_MIN)"
#define COUNTING "omp parallel for schedule(static) reduction(+ : outside) if (total >= QD_PARALLEL_MIN)"

void qd_quantize_f32(const struct qd_grid *grid, const float *x, int32_t *q)
{
	EACH_RUN(grid, PLAIN, {
		if (r.step)
			quantize_along(r.n, x + r.at, r.scale, r.zero, grid->low, grid->high, q + r.at);
		else
			quantize_same(r.n, x + r.at, *r.scale, *r.zero, grid->low, grid->high, q + r.at);
	});
}

void qd_dequantize_f32(const struct qd_grid *grid, const int32_t *q, float *y)
{
	EACH_RUN(grid, PLAIN, {
		if (r.step)
			dequantize_along(r.n, q + r.at, r.scale, r.zero, y + r.at);
		else
			dequantize_same(r.n, q + r.at, *r.scale, *r.zero, y + r.at);
	});
}

size_t qd_fake_quantize_f32(const struct qd_grid *grid, const float *x, float *y)
{
	size_t outside = 0;

	EACH_RUN(grid, COUNTING, {
		outside += r.step ? fake_along(r.n, x + r.at, r.scale, r.zero, grid->low, grid->high, y + r.at)
				  : fake_same(r.n, x + r.at, *r.scale, *r.zero, grid->low, grid->high, y + r.at);
	});
	return outside;
}

void qd_fake_quantize_backward_f32(const struct qd_grid *grid, const float *x, const float *dy, float *dx)
{
	EACH_RUN(grid, PLAIN, {
		if (r.step)
			backward_along(r.n, x + r.at, r.scale, r.zero, grid->low, grid->high, dy + r.at, dx + r.at);
		else
			backward_same(r.n, x + r.at, *r.scale, *r.zero, grid->low, grid->high, dy + r.at, dx + r.at);
	});
}
