/*
 * Elementwise operators and their slopes, one loop each. A result may take an operand's place, which the pragma says is no dependence.
 */
#include "lib/kernel/vector.h"

#define BINARY(name, expression)                                                                                                   \
	QD_VECTOR static void name(size_t n, const float *a, const float *b, float *to)                                            \
	{                                                                                                                          \
		_Pragma("GCC ivdep") for (size_t i = 0; i < n; i++)                                                                \
		{                                                                                                                  \
			float x = a[i], y = b[i];                                                                                  \
			to[i] = expression;                                                                                        \
		}                                                                                                                  \
	}                                                                                                                          \
	QD_VECTOR static void name##_number(size_t n, const float *a, float y, float *to)                                          \
	{                                                                                                                          \
		_Pragma("GCC ivdep") for (size_t i = 0; i < n; i++)                                                                \
		{                                                                                                                  \
			float x = a[i];                                                                                            \
			to[i] = expression;                                                                                        \
		}                                                                                                                  \
	}                                                                                                                          \
	QD_VECTOR static void name##_from_number(size_t n, const float *a, float x, float *to)                                     \
	{                                                                                                                          \
		_Pragma("GCC ivdep") for (size_t i = 0; i < n; i++)                                                                \
		{                                                                                                                  \
			float y = a[i];                                                                                            \
			to[i] = expression;                                                                                        \
		}                                                                                                                  \
	}
BINARY(add, x + y)
BINARY(subtract, x - y)
BINARY(multiply, x *y)
BINARY(divide, x / y)

#define UNARY(name, expression)                                                                                                    \
	QD_VECTOR static void name(size_t n, const float *a, float *to)                                                            \
	{                                                                                                                          \
		for (size_t i = 0; i + QD_LANES <= n; i += QD_LANES) {                                                             \
			vec x = load(a + i);                                                                                       \
			store(to + i, expression);                                                                                 \
		}                                                                                                                  \
		if (n % QD_LANES != 0) {                                                                                           \
			vec x = load_part(a + n / QD_LANES * QD_LANES, n % QD_LANES);                                              \
			store_part(to + n / QD_LANES * QD_LANES, expression, n % QD_LANES);                                        \
		}                                                                                                                  \
	}
/* 1 / (1 + 2^(-x log2 e)); the power stays within float32. */
INLINE vec sigmoid_of(vec x)
{
	vec power = x * -1.44269504089f, highest = all(126.0f);

	return 1.0f / (exponential(choose(power > highest, highest, power)) + 1.0f);
}
UNARY(sigmoid, sigmoid_of(x))
UNARY(gaussian, gelu(x))
UNARY(rectified, choose(x > all(0.0f), x, all(0.0f)))
UNARY(negative, -x)

/* ---- slopes ---- */

/* Derivative of x (1 + erf(x / sqrt 2)) / 2: the normal distribution's integral, plus x times its density. */
INLINE vec gelu_slope(vec x)
{
	const vec nothing = all(0.0f);
	vec density = exponential(x * x * -0.72134752044f) * 0.39894228040f, share = gelu(x) / choose(x == nothing, all(1.0f), x);

	return choose(x == nothing, all(0.5f), share) + x * density;
}

INLINE vec sigmoid_slope(vec x)
{
	vec s = sigmoid_of(x);

	return s * (1.0f - s);
}

INLINE vec rectified_slope(vec x)
{
	return choose(x > all(0.0f), all(1.0f), all(0.0f));
}

INLINE vec negative_slope(vec x)
{
	(void)x;
	return all(-1.0f);
}

#define TIMES_SLOPE(name, slope)                                                                                                   \
	QD_VECTOR static void name(size_t n, const float *x, float *g)                                                             \
	{                                                                                                                          \
		size_t whole = n / QD_LANES * QD_LANES, rest = n - whole;                                                          \
		for (size_t i = 0; i < whole; i += QD_LANES)                                                                       \
			store(g + i, load(g + i) * slope(load(x + i)));                                                            \
		if (rest > 0)                                                                                                      \
			store_part(g + whole, load_part(g + whole, rest) * slope(load_part(x + whole, rest)), rest);               \
	}
TIMES_SLOPE(times_slope_of_gelu, gelu_slope)
TIMES_SLOPE(times_slope_of_sigmoid, sigmoid_slope)
TIMES_SLOPE(times_slope_of_rectified, rectified_slope)
TIMES_SLOPE(times_slope_of_negative, negative_slope)

/* ---- the table ---- */

static const struct {
	void (*binary)(size_t n, const float *a, const float *b, float *to);
	void (*with_number)(size_t n, const float *a, float number, float *to);
	void (*from_number)(size_t n, const float *a, float number, float *to);
} binaries[] = {
	[QD_BINARY_ADD] = { add, add_number, add_from_number },
	[QD_BINARY_SUB] = { subtract, subtract_number, subtract_from_number },
	[QD_BINARY_MUL] = { multiply, multiply_number, multiply_from_number },
	[QD_BINARY_DIV] = { divide, divide_number, divide_from_number },
};

static const struct {
	void (*unary)(size_t n, const float *x, float *to);
	void (*times_slope)(size_t n, const float *x, float *g);
} unaries[] = {
	[QD_UNARY_SIGMOID] = { sigmoid, times_slope_of_sigmoid },
	[QD_UNARY_GELU] = { gaussian, times_slope_of_gelu },
	[QD_UNARY_RELU] = { rectified, times_slope_of_rectified },
	[QD_UNARY_NEG] = { negative, times_slope_of_negative },
};

void qd_binary_f32(enum qd_binary op, size_t n, const float *a, const float *b, float *to)
{
	binaries[op].binary(n, a, b, to);
}

void qd_binary_number_f32(enum qd_binary op, size_t n, const float *a, float number, bool swapped, float *to)
{
	(swapped ? binaries[op].from_number : binaries[op].with_number)(n, a, number, to);
}

void qd_unary_f32(enum qd_unary op, size_t n, const float *x, float *to)
{
	unaries[op].unary(n, x, to);
}

void qd_unary_slope_f32(enum qd_unary op, size_t n, const float *x, float *g)
{
	unaries[op].times_slope(n, x, g);
}
