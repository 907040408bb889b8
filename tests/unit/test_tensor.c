/*
 * lib/io: element types, shapes, tensors and their conversion.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "lib/io/io.h"
#include "lib/math/math.h"
#include "tests/unit/scratch.h"

static void types_are_found_by_name_and_number(void **state)
{
	(void)state;
	for (unsigned i = 0; i < QD_DTYPE_COUNT; i++) {
		enum qd_dtype dtype = (enum qd_dtype)i;
		assert_int_equal(qd_dtype_by_name(qd_dtype_name(dtype)), dtype);
		if (qd_dtype_onnx(dtype))
			assert_int_equal(qd_dtype_by_onnx(qd_dtype_onnx(dtype)), dtype);
	}
	assert_int_equal(qd_dtype_by_name("f32"), QD_DTYPE_COUNT);
	assert_int_equal(qd_dtype_by_onnx(0), QD_DTYPE_COUNT);
	assert_int_equal(qd_dtype_by_onnx(-1), QD_DTYPE_COUNT);
	assert_int_equal(qd_dtype_bits(QD_F6_E2M3), 6);
	assert_string_equal(qd_dtype_name(QD_DTYPE_COUNT), "unknown");
}

static void shapes_count_compare_and_print(void **state)
{
	(void)state;
	struct qd_shape a = QD_SHAPE(1, 4, 64, 64), b = QD_SHAPE(1, 4, 64), scalar = { 0 };
	char text[QD_SHAPE_TEXT];
	assert_int_equal(qd_shape_elements(&a), 16384);
	assert_int_equal(qd_shape_elements(&scalar), 1);
	assert_true(qd_shape_equal(&a, &a));
	assert_false(qd_shape_equal(&a, &b));
	b.dim[2] = 63;
	b.rank = 4;
	assert_false(qd_shape_equal(&a, &b));
	assert_string_equal(qd_shape_text(&a, text), "[1,4,64,64]");
	assert_string_equal(qd_shape_text(&scalar, text), "[]");
	struct qd_shape widest = { .rank = QD_MAX_RANK };
	for (int i = 0; i < QD_MAX_RANK; i++)
		widest.dim[i] = INT64_MIN;
	assert_int_equal(strlen(qd_shape_text(&widest, text)), 8 * 20 + 7 + 2);
}

static void impossible_sizes_are_refused(void **state)
{
	(void)state;
	static const struct {
		struct qd_shape shape;
		enum qd_dtype dtype;
		const char *message;
	} cases[] = {
		{ { 9, { 0 } }, QD_F32, "has 9 dimensions, needs at most 8" },
		{ { 2, { 3, -1 } }, QD_F32, "shape [3,-1] has a negative dimension" },
		{ { 2, { INT64_MAX, 3 } }, QD_F32, "shape [9223372036854775807,3] overflows 64 bits" },
		{ { 3, { 76976, 236786456383808, 0 } }, QD_F32, "shape [76976,236786456383808,0] overflows 64 bits" },
		{ { 1, { INT64_MAX } }, QD_F32, "F32 of shape [9223372036854775807] overflows 64 bits" },
		{ { 1, { 3 } }, QD_F4, "F4 of shape [3] does not fill whole bytes" },
	};
	for (size_t i = 0; i < QD_COUNT(cases); i++) {
		size_t bytes;
		assert_int_equal(qd_shape_bytes(&cases[i].shape, cases[i].dtype, &bytes), QD_EINPUT);
		assert_string_equal(qd_message(), cases[i].message);
	}
	struct qd_tensor tensor;
	assert_int_equal(qd_tensor_new(&tensor, "w", QD_F32, &cases[1].shape), QD_EINPUT);
	assert_string_equal(qd_message(), "tensor 'w': shape [3,-1] has a negative dimension");
	qd_tensor_release(&tensor);
}

static void sub_byte_types_pack(void **state)
{
	(void)state;
	size_t bytes;
	struct qd_shape four = QD_SHAPE(4), zero = QD_SHAPE(0, 5);
	assert_int_equal(qd_shape_bytes(&four, QD_F6_E2M3, &bytes), QD_OK);
	assert_int_equal(bytes, 3);
	assert_int_equal(qd_shape_bytes(&four, QD_F4, &bytes), QD_OK);
	assert_int_equal(bytes, 2);
	assert_int_equal(qd_shape_bytes(&zero, QD_F32, &bytes), QD_OK);
	assert_int_equal(bytes, 0);
}

static void new_tensors_are_zero_and_views_own_nothing(void **state)
{
	(void)state;
	struct qd_tensor a;
	struct qd_shape shape = QD_SHAPE(3, 5);
	assert_int_equal(qd_tensor_new(&a, "a", QD_F32, &shape), QD_OK);
	assert_int_equal(a.bytes, 60);
	assert_int_equal((uintptr_t)a.data % 64, 0);
	for (int i = 0; i < 15; i++)
		assert_true(((float *)a.data)[i] == 0);
	struct qd_tensor view = qd_tensor_view("v", QD_F32, shape, a.data);
	assert_int_equal(view.bytes, 60);
	qd_tensor_release(&view);
	((float *)a.data)[14] = 1;
	qd_tensor_release(&a);
	qd_tensor_release(&a);
}

/* ---- single values ---- */

/* The value of a half-precision number by its definition. */
static double half_value(unsigned half)
{
	int exponent = half >> 10 & 31, mantissa = half & 1023;
	double magnitude = exponent ? ldexp(1024 + mantissa, exponent - 25) : ldexp(mantissa, -24);
	if (exponent == 31)
		magnitude = mantissa ? NAN : INFINITY;
	return half & 0x8000 ? -magnitude : magnitude;
}

static double bfloat_value(unsigned bits)
{
	int exponent = bits >> 7 & 255, mantissa = bits & 127;
	double magnitude = exponent ? ldexp(128 + mantissa, exponent - 134) : ldexp(mantissa, -133);
	if (exponent == 255)
		magnitude = mantissa ? NAN : INFINITY;
	return bits & 0x8000 ? -magnitude : magnitude;
}

static float widened(enum qd_dtype dtype, uint16_t bits)
{
	struct qd_tensor tensor = qd_tensor_view("t", dtype, QD_SHAPE(1), &bits);
	float value;
	assert_int_equal(qd_tensor_to_f32(&tensor, &value), QD_OK);
	return value;
}

static uint16_t narrowed(enum qd_dtype dtype, float value)
{
	uint16_t bits = 0;
	struct qd_tensor tensor = qd_tensor_view("t", dtype, QD_SHAPE(1), &bits);
	assert_int_equal(qd_tensor_from_f32(&tensor, &value), QD_OK);
	return bits;
}

static void every_half_widens_exactly(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 65536; i++) {
		double half = half_value(i), bfloat = bfloat_value(i);
		float a = qd_f16_to_f32((uint16_t)i), b = widened(QD_BF16, (uint16_t)i);
		assert_true(isnan(half) ? isnan(a) : (double)a == half && !signbit(a) == !(i & 0x8000));
		assert_true(isnan(bfloat) ? isnan(b) : (double)b == bfloat && !signbit(b) == !(i & 0x8000));
		if (!isnan(half))
			assert_int_equal(qd_f32_to_f16(a), i);
		if (!isnan(bfloat))
			assert_int_equal(narrowed(QD_BF16, b), i);
	}
}

/* The nearest of all positive values by search, the even one of two equally near; `values` is increasing, `infinite` its last
 * index. */
static unsigned nearest(double x, double (*value)(unsigned), unsigned infinite)
{
	unsigned low = 0, high = infinite;
	while (high - low > 1) {
		unsigned middle = (low + high) / 2;
		if (value(middle) <= x)
			low = middle;
		else
			high = middle;
	}
	if (value(low) == x)
		return low;
	/* Above the largest, what would be the next value decides about infinity. */
	double above = high == infinite ? 2 * value(low) - value(low - 1) : value(high);
	double down = x - value(low), up = above - x;
	if (down != up)
		return down < up ? low : high;
	return low % 2 ? high : low;
}

static void assert_narrows(float x)
{
	double magnitude = fabs((double)x);
	unsigned sign = signbit(x) ? 0x8000 : 0;
	unsigned half = nearest(magnitude, half_value, 0x7c00), bfloat = nearest(magnitude, bfloat_value, 0x7f80);
	if (isinf(x)) {
		half = 0x7c00;
		bfloat = 0x7f80;
	}
	assert_int_equal(qd_f32_to_f16(x), half | sign);
	assert_int_equal(narrowed(QD_BF16, x), bfloat | sign);
}

static void narrowing_rounds_to_nearest_even(void **state)
{
	(void)state;
	static const float edges[] = { 0.0f, -0.0f, 65504.0f, 65519.996f, 65520.0f, 65536.0f, 1e30f, 3.4028235e38f, 3.3961776e38f,
		INFINITY, -INFINITY, 0x1p-24f, 0x1p-25f, 0x1.000002p-25f, 0x1.8p-24f, 0x1p-14f, 0x1.ffep-15f, 0x1.ffdp-15f,
		0x1p-126f, 0x1p-149f, 0x1p-133f, 0x1p-134f, 1.0009766f, 1.0004883f, 1.0014648f };
	for (size_t i = 0; i < QD_COUNT(edges); i++)
		assert_narrows(edges[i]);
	struct qd_random random;
	qd_random_init(&random, test_seed(), 0);
	for (int i = 0; i < 200000; i++) {
		/* Any bits; and, every other time, an exponent where half precision has values. */
		uint32_t bits = (uint32_t)qd_random_u64(&random);
		if (i % 2)
			bits = (bits & 0x807fffffu) | (uint32_t)(100 + qd_random_below(&random, 46)) << 23;
		float x;
		memcpy(&x, &bits, sizeof(x));
		if (!isnan(x))
			assert_narrows(x);
	}
}

static void not_a_number_stays_so(void **state)
{
	(void)state;
	static const uint32_t patterns[] = { 0x7fc00000u, 0x7f800001u, 0xff800001u, 0x7fffffffu, 0xffffffffu };
	for (size_t i = 0; i < QD_COUNT(patterns); i++) {
		float x;
		memcpy(&x, &patterns[i], sizeof(x));
		assert_true(isnan(qd_f16_to_f32(qd_f32_to_f16(x))));
		assert_true(isnan(widened(QD_BF16, narrowed(QD_BF16, x))));
	}
}

/* ---- whole tensors ---- */

/* Each readable type, from an odd address, against a cast of each element. */
#define CHECK_TYPE(id, type, ...)                                                                                                  \
	do {                                                                                                                       \
		static const type values[] = { __VA_ARGS__ };                                                                      \
		enum { N = sizeof(values) / sizeof(*values) };                                                                     \
		unsigned char bytes[sizeof(values) + 1];                                                                           \
		float out[N];                                                                                                      \
		memcpy(bytes + 1, values, sizeof(values));                                                                         \
		struct qd_tensor tensor = qd_tensor_view("t", QD_##id, QD_SHAPE(N), bytes + 1);                                    \
		assert_int_equal(tensor.bytes, sizeof(values));                                                                    \
		assert_int_equal(qd_tensor_to_f32(&tensor, out), QD_OK);                                                           \
		for (int i = 0; i < N; i++)                                                                                        \
			assert_true(out[i] == (float)values[i]);                                                                   \
	} while (0)

static void all_number_types_read_as_float(void **state)
{
	(void)state;
	CHECK_TYPE(F32, float, 0, -1.5f, 3e38f, 1e-40f);
	CHECK_TYPE(F64, double, 0.1, -1e300, 1e-300);
	CHECK_TYPE(I8, int8_t, -128, -1, 0, 127);
	CHECK_TYPE(U8, uint8_t, 0, 128, 255);
	CHECK_TYPE(I16, int16_t, -32768, 32767);
	CHECK_TYPE(U16, uint16_t, 0, 65535);
	CHECK_TYPE(I32, int32_t, INT32_MIN, INT32_MAX, 16777217);
	CHECK_TYPE(U32, uint32_t, 0, UINT32_MAX);
	CHECK_TYPE(I64, int64_t, INT64_MIN, INT64_MAX, 501);
	CHECK_TYPE(BOOL, uint8_t, 0, 1);
}

static void half_types_convert_both_ways(void **state)
{
	(void)state;
	enum { N = 1003 };
	static float in[N], out[N];
	struct qd_random random;
	qd_random_init(&random, test_seed(), 2);
	for (size_t i = 0; i < N; i++)
		in[i] = (float)qd_random_normal(&random);
	for (int id = 0; id < 2; id++) {
		struct qd_tensor tensor;
		struct qd_shape shape = QD_SHAPE(17, 59);
		enum qd_dtype dtype = id ? QD_BF16 : QD_F16;
		assert_int_equal(qd_tensor_new(&tensor, "t", dtype, &shape), QD_OK);
		assert_int_equal(qd_tensor_from_f32(&tensor, in), QD_OK);
		assert_int_equal(qd_tensor_to_f32(&tensor, out), QD_OK);
		for (size_t i = 0; i < N; i++)
			assert_true(out[i] == widened(dtype, narrowed(dtype, in[i])));
		qd_tensor_release(&tensor);
	}
}

static void other_types_are_named(void **state)
{
	(void)state;
	unsigned char byte[8] = { 0 };
	float out[1];
	struct qd_tensor tensor = qd_tensor_view("w", QD_F8_E4M3, QD_SHAPE(1), byte);
	assert_int_equal(qd_tensor_to_f32(&tensor, out), QD_EUNSUPPORTED);
	assert_string_equal(qd_message(), "tensor 'w' has type F8_E4M3, needs one that converts to float32");
	tensor = qd_tensor_view(NULL, QD_I8, QD_SHAPE(1), byte);
	assert_int_equal(qd_tensor_from_f32(&tensor, out), QD_EUNSUPPORTED);
	assert_string_equal(qd_message(), "tensor '(unnamed)' has type I8, needs F32, F16 or BF16");
}

static void the_first_bad_element_is_named(void **state)
{
	(void)state;
	enum { N = 100000 };
	static float values[N];
	struct qd_tensor tensor = qd_tensor_view("w", QD_F32, QD_SHAPE(N), values);
	assert_int_equal(qd_tensor_check_finite(&tensor, "adapter 'a'"), QD_OK);
	values[70001] = -INFINITY;
	values[70002] = NAN;
	assert_int_equal(qd_tensor_check_finite(&tensor, "adapter 'a'"), QD_EINPUT);
	assert_string_equal(qd_message(), "adapter 'a': tensor 'w' is infinite or not a number at element 70001");
	values[3] = NAN;
	assert_int_equal(qd_tensor_check_finite(&tensor, NULL), QD_EINPUT);
	assert_string_equal(qd_message(), "tensor 'w' is infinite or not a number at element 3");
}

static void bad_elements_are_seen_in_every_float_type(void **state)
{
	(void)state;
	uint16_t half[] = { 0x7bff, 0xfc00 }, bfloat[] = { 0x7f7f, 0x7f81 };
	double wide[] = { 1e300, -INFINITY };
	uint8_t whole[] = { 255, 255 };
	struct qd_tensor tensors[] = {
		qd_tensor_view("h", QD_F16, QD_SHAPE(2), half),
		qd_tensor_view("b", QD_BF16, QD_SHAPE(2), bfloat),
		qd_tensor_view("d", QD_F64, QD_SHAPE(2), wide),
	};
	for (size_t i = 0; i < QD_COUNT(tensors); i++) {
		assert_int_equal(qd_tensor_check_finite(&tensors[i], NULL), QD_EINPUT);
		assert_true(qd_ends_with(qd_message(), "at element 1"));
	}
	struct qd_tensor integers = qd_tensor_view("u", QD_U8, QD_SHAPE(2), whole);
	assert_int_equal(qd_tensor_check_finite(&integers, NULL), QD_OK);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(types_are_found_by_name_and_number),
		cmocka_unit_test(shapes_count_compare_and_print),
		cmocka_unit_test(impossible_sizes_are_refused),
		cmocka_unit_test(sub_byte_types_pack),
		cmocka_unit_test(new_tensors_are_zero_and_views_own_nothing),
		cmocka_unit_test(every_half_widens_exactly),
		cmocka_unit_test(narrowing_rounds_to_nearest_even),
		cmocka_unit_test(not_a_number_stays_so),
		cmocka_unit_test(all_number_types_read_as_float),
		cmocka_unit_test(half_types_convert_both_ways),
		cmocka_unit_test(other_types_are_named),
		cmocka_unit_test(the_first_bad_element_is_named),
		cmocka_unit_test(bad_elements_are_seen_in_every_float_type),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
