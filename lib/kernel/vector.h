/*
 * For this folder only: vectors of 16 floats, which the compiler maps to whatever registers the instruction set of the function
 * they are inlined into has, and the exponential and error function of such vectors.
 */
#ifndef QUAD_LIB_KERNEL_VECTOR_H
#define QUAD_LIB_KERNEL_VECTOR_H

#include "lib/kernel/kernel_internal.h"

#include <string.h>

enum { QD_LANES = 16 };
typedef float vec __attribute__((vector_size(QD_LANES * sizeof(float))));
typedef int32_t veci __attribute__((vector_size(QD_LANES * sizeof(int32_t))));
typedef uint32_t vecu __attribute__((vector_size(QD_LANES * sizeof(uint32_t))));
#define INLINE static inline __attribute__((always_inline))

INLINE vec load(const float *p)
{
	vec v;

	memcpy(&v, p, sizeof(v));
	return v;
}

INLINE void store(float *p, vec v)
{
	memcpy(p, &v, sizeof(v));
}

/* The first n < QD_LANES elements, zeros behind them. */
INLINE vec load_part(const float *p, size_t n)
{
	vec v = { 0 };

	for (size_t i = 0; i < n; i++)
		v[i] = p[i];
	return v;
}

INLINE void store_part(float *p, vec v, size_t n)
{
	for (size_t i = 0; i < n; i++)
		p[i] = v[i];
}

INLINE vec all(float x)
{
	return (vec){ 0 } + x;
}

/* In halves: half of the lanes onto the other, and so on. */
INLINE float sum_of(vec v)
{
	float s[QD_LANES];

	memcpy(s, &v, sizeof(s));
	for (size_t n = QD_LANES / 2; n > 0; n /= 2)
		for (size_t i = 0; i < n; i++)
			s[i] += s[i + n];
	return s[0];
}

INLINE vec choose(veci condition, vec a, vec b)
{
	return (vec)(((veci)a & condition) | ((veci)b & ~condition));
}

/*
 * 2^x, relative error below 1e-7: x = n + f with n an integer and |f| <= 1/2, 2^f by a polynomial fitted to its relative error,
 * times 2^n put into the exponent's bits. Below -126 the result is 2^-126, which no sum of such terms notices; x <= 127.
 */
INLINE vec exponential(vec x)
{
	const float rounder = 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer in the low bits */
	const vec lowest = all(-126.0f);
	vec n, f, y;
	vecu bits; /* lanes that nobody wants may hold anything */

	x = choose(x < lowest, lowest, x);
	n = x + rounder;
	memcpy(&bits, &n, sizeof(bits));
	f = x - (n - rounder);
	y = f * 1.5345810971e-4f + 1.3399930904e-3f;
	y = y * f + 9.6184890717e-3f;
	y = y * f + 5.5503286421e-2f;
	y = y * f + 2.4022646248e-1f;
	y = y * f + 6.9314718246e-1f;
	y = y * f + 1.0f;
	return y * (vec)((bits << 23) + (127u << 23));
}

/* x sigmoid(x) = x / (1 + 2^(-x log2 e)); beyond 87 the denominator's power would leave float32's range. */
INLINE vec silu(vec x)
{
	vec power = x * -1.44269504089f, highest = all(126.0f);

	return x / (exponential(choose(power > highest, highest, power)) + 1.0f);
}

/*
 * x (1 + erf(x / sqrt 2)) / 2 with Abramowitz and Stegun 7.1.26, whose error is below 1.5e-7: for z >= 0
 *
 *   erf(z) = 1 - t (a1 + t (a2 + t (a3 + t (a4 + t a5)))) exp(-z^2)      t = 1 / (1 + 0.3275911 z)
 */
INLINE vec gelu(vec x)
{
	const vec zero = all(0.0f);
	vec z = choose(x < zero, -x, x) * 0.70710678119f, t = 1.0f / (z * 0.3275911f + 1.0f), tail;

	tail = t * 1.061405429f - 1.453152027f;
	tail = tail * t + 1.421413741f;
	tail = tail * t - 0.284496736f;
	tail = tail * t + 0.254829592f;
	/* Half of erfc(|x| / sqrt 2): what a negative x keeps and a positive one loses. */
	tail = tail * t * exponential(z * z * -1.44269504089f) * 0.5f;
	return x * choose(x < zero, tail, 1.0f - tail);
}

#endif
