/*
 * Encodings and what they do to numbers:
 *
 *   q = clamp(round_half_even(x / scale) + zero_point, low, high)        y = (q - zero_point) * scale
 *
 * in float32 with a true division, so that the codes are those of ONNX's QuantizeLinear. Infinities saturate; NaN gives the lowest
 * code.
 */
#include "lib/kernel/kernel.h"
#include "lib/ir/ir.h"

#include <math.h>
#include <stdlib.h>

float qd_encoding_low(const struct qd_encoding *e)
{
	return e->is_signed ? -ldexpf(1, e->bits - 1) : 0;
}

/* At 32 bits float32 rounds this up to 2^31. */
float qd_encoding_high(const struct qd_encoding *e)
{
	return (float)(ldexp(1, e->is_signed ? e->bits - 1 : e->bits) - 1);
}

enum qd_status qd_encoding_new(struct qd_arena *arena, int bits, bool symmetric, int axis, size_t n, struct qd_encoding **out)
{
	struct qd_encoding *e = qd_arena_alloc(arena, sizeof(*e));

	*out = NULL;
	if (e == NULL)
		return QD_ENOMEM;
	*e = (struct qd_encoding){ .bits = bits, .is_signed = symmetric, .symmetric = symmetric, .axis = axis, .n = n };
	e->scale = qd_arena_array(arena, n, sizeof(*e->scale));
	e->zero_point = qd_arena_array(arena, n, sizeof(*e->zero_point));
	if (e->scale == NULL || e->zero_point == NULL)
		return QD_ENOMEM;
	*out = e;
	return QD_OK;
}

bool qd_encoding_is_centred(const struct qd_encoding *e)
{
	for (size_t i = 0; i < e->n; i++)
		if (e->zero_point[i] != 0)
			return false;
	return true;
}

/* The elements as [outer][n scales][inner]. */
static struct qd_grid grid_of(const struct qd_encoding *e, const struct qd_shape *shape)
{
	struct qd_grid grid = { .outer = 1, .channels = e->n, .inner = 1, .scale = e->scale, .zero = e->zero_point };

	for (int i = 0; i < shape->rank; i++) {
		if (i < e->axis)
			grid.outer *= (size_t)shape->dim[i];
		else if (i > e->axis)
			grid.inner *= (size_t)shape->dim[i];
	}
	grid.low = qd_encoding_low(e);
	grid.high = qd_encoding_high(e);
	return grid;
}

/* The 32-bit grid, in double: its largest code is no float32. */
static void quantize_32(const struct qd_grid *grid, const float *x, int32_t *q)
{
	for (size_t i = 0; i < grid->outer * grid->channels * grid->inner; i++) {
		size_t channel = i / grid->inner % grid->channels;
		double v = (double)rintf(x[i] / grid->scale[channel]) + (double)grid->zero[channel];

		v = v > INT32_MIN ? v : INT32_MIN;
		q[i] = (int32_t)(v < INT32_MAX ? v : INT32_MAX);
	}
}

void qd_quantize(const struct qd_encoding *e, const struct qd_shape *shape, const float *x, int32_t *q, float *y)
{
	struct qd_grid grid = grid_of(e, shape);

	if (q != NULL && e->bits == 32)
		quantize_32(&grid, x, q);
	else if (q != NULL)
		qd_quantize_f32(&grid, x, q);
	if (y != NULL)
		qd_fake_quantize_f32(&grid, x, y);
}

/* ---- codes as they are stored ---- */

enum qd_dtype qd_encoding_dtype(const struct qd_encoding *e)
{
	if (e->bits <= 8)
		return e->is_signed ? QD_I8 : QD_U8;
	if (e->bits <= 16)
		return e->is_signed ? QD_I16 : QD_U16;
	return QD_DTYPE_COUNT;
}

void qd_code_store(enum qd_dtype dtype, void *codes, size_t i, int32_t q)
{
	if (qd_dtype_bits(dtype) == 8)
		((uint8_t *)codes)[i] = (uint8_t)q;
	else
		((uint16_t *)codes)[i] = (uint16_t)q;
}

enum qd_status qd_encode(const struct qd_encoding *e, const struct qd_shape *shape, const float *x, void *codes)
{
	enum qd_dtype dtype = qd_encoding_dtype(e);
	size_t n = (size_t)qd_shape_elements(shape);
	int32_t *q = malloc((n + 1) * sizeof(*q));

	if (q == NULL)
		return qd_fail(QD_ENOMEM, "out of memory for %zu codes", n);
	qd_quantize(e, shape, x, q, NULL);
	for (size_t i = 0; i < n; i++)
		qd_code_store(dtype, codes, i, q[i]);
	free(q);
	return QD_OK;
}
