/*
 * Numbers in memory: floats, or codes in one plane of bytes or two. Loops over chunks that the caller keeps in cache; the arithmetic
 * of a code is that of quantize.c, on a grid that begins at 0.
 */
#include "lib/kernel/kernel_internal.h"

#include <math.h>
#include <string.h>

size_t qd_numbers_bytes(enum qd_form form, size_t n)
{
	static const size_t bytes[] = { [QD_FORM_F32] = sizeof(float), [QD_FORM_U8] = 1, [QD_FORM_U16] = 2 };

	return n * bytes[form];
}

QD_VECTOR static void load_u8(size_t n, const uint8_t *restrict q, float scale, float zero, float *restrict y)
{
	for (size_t i = 0; i < n; i++)
		y[i] = ((float)q[i] - zero) * scale;
}

QD_VECTOR static void load_u16(
	size_t n, const uint8_t *restrict hi, const uint8_t *restrict lo, float scale, float zero, float *restrict y)
{
	for (size_t i = 0; i < n; i++)
		y[i] = ((float)((int32_t)hi[i] << 8 | lo[i]) - zero) * scale;
}

void qd_numbers_load(const struct qd_numbers *x, size_t first, size_t n, float *y)
{
	const uint8_t *at = x->at;

	switch (x->form) {
	case QD_FORM_F32:
		memcpy(y, (const float *)x->at + first, n * sizeof(*y));
		break;
	case QD_FORM_U8:
		load_u8(n, at + first, x->scale, x->zero, y);
		break;
	case QD_FORM_U16:
		load_u16(n, at + first, at + first + x->plane, x->scale, x->zero, y);
		break;
	}
}

/* clamp(rint(x / scale) + zero, 0, high), NaN as 0. */
static inline float code(float x, float scale, float zero, float high)
{
	float q = rintf(x / scale) + zero;

	q = q > 0.0f ? q : 0.0f;
	return q < high ? q : high;
}

QD_VECTOR static void store_u8(size_t n, const float *restrict x, float scale, float zero, float high, uint8_t *restrict q)
{
	for (size_t i = 0; i < n; i++)
		q[i] = (uint8_t)(int32_t)code(x[i], scale, zero, high);
}

QD_VECTOR static void store_u16(
	size_t n, const float *restrict x, float scale, float zero, float high, uint8_t *restrict hi, uint8_t *restrict lo)
{
	for (size_t i = 0; i < n; i++) {
		int32_t q = (int32_t)code(x[i], scale, zero, high);
		hi[i] = (uint8_t)(q >> 8);
		lo[i] = (uint8_t)q;
	}
}

void qd_numbers_store(const struct qd_numbers *y, size_t first, size_t n, const float *x)
{
	uint8_t *at = y->at;

	switch (y->form) {
	case QD_FORM_F32:
		memcpy((float *)y->at + first, x, n * sizeof(*x));
		break;
	case QD_FORM_U8:
		store_u8(n, x, y->scale, y->zero, y->high, at + first);
		break;
	case QD_FORM_U16:
		store_u16(n, x, y->scale, y->zero, y->high, at + first, at + first + y->plane);
		break;
	}
}

QD_VECTOR static void round_all(size_t n, const float *x, float scale, float zero, float high, float *y)
{
#pragma GCC ivdep
	for (size_t i = 0; i < n; i++)
		y[i] = (code(x[i], scale, zero, high) - zero) * scale;
}

void qd_numbers_round(const struct qd_numbers *grid, size_t n, const float *x, float *y)
{
	round_all(n, x, grid->scale, grid->zero, grid->high, y);
}

QD_VECTOR static void mask_u8(size_t n, const uint8_t *q, uint32_t low, uint32_t high, float *g)
{
	for (size_t i = 0; i < n; i++)
		g[i] = q[i] == low || q[i] == high ? 0.0f : g[i];
}

QD_VECTOR static void mask_u16(size_t n, const uint8_t *hi, const uint8_t *lo, uint32_t low, uint32_t high, float *g)
{
	for (size_t i = 0; i < n; i++) {
		uint32_t q = (uint32_t)hi[i] << 8 | lo[i];
		g[i] = q == low || q == high ? 0.0f : g[i];
	}
}

void qd_numbers_mask(const struct qd_numbers *x, size_t first, size_t n, float *g)
{
	const uint8_t *at = (const uint8_t *)x->at + first;
	uint32_t low = x->zero == 0 ? UINT32_MAX : 0, high = x->zero == x->high ? UINT32_MAX : (uint32_t)x->high;

	if (x->form == QD_FORM_U8)
		mask_u8(n, at, low, high, g);
	else if (x->form == QD_FORM_U16)
		mask_u16(n, at, at + x->plane, low, high, g);
}
