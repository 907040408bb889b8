/*
 * The shim over libtorch: tensors in and out, gradients against finite differences, optimizer steps against plain loops, exceptions
 * as statuses, and no handle left behind. Values of operators are compared in test_torch_ops.c.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "lib/math/math.h"
#include "lib/torch/shim.h"
#include "tests/unit/scratch.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static struct qd_random random_state;

static qt_tensor from_floats(struct qd_shape shape, const float *values)
{
	const struct qd_tensor t = qd_tensor_view(NULL, QD_F32, shape, values);
	qt_tensor out;

	OK(qt_from_tensor(&t, &out));
	return out;
}

static qt_tensor random_tensor(struct qd_shape shape)
{
	size_t n = (size_t)qd_shape_elements(&shape);
	float *x = malloc((n + 1) * sizeof(*x));

	for (size_t i = 0; i < n; i++)
		x[i] = (float)qd_random_normal(&random_state);
	qt_tensor out = from_floats(shape, x);
	free(x);
	return out;
}

static size_t count(qt_tensor x)
{
	struct qd_shape shape;

	OK(qt_shape(x, &shape));
	return (size_t)qd_shape_elements(&shape);
}

static float *numbers(qt_tensor x)
{
	float *out = calloc(count(x) + 1, sizeof(*out));

	OK(qt_read(x, out, count(x) * sizeof(*out)));
	return out;
}

/* ---- in and out ---- */

static void test_types_come_in(void **state)
{
	(void)state;
	static const int64_t i64[] = { -1, INT64_MAX };
	static const int32_t i32[] = { -1, INT32_MAX };
	static const uint16_t u16[] = { 40000, 65535 }, half[] = { 0x3c00, 0xc000 }, brain[] = { 0x3f80, 0xc000 };
	static const int16_t i16[] = { -32768, 7 };
	static const int8_t i8[] = { -128, 7 };
	static const uint8_t u8[] = { 255, 7 }, truth[] = { 1, 0 };
	static const double f64[] = { 0.5, -3 };
	static const struct {
		enum qd_dtype dtype;
		const void *data;
		float want[2];
	} rows[] = {
		{ QD_I32, i32, { -1, 2147483648.0f } },
		{ QD_U16, u16, { 40000, 65535 } },
		{ QD_F16, half, { 1, -2 } },
		{ QD_BF16, brain, { 1, -2 } },
		{ QD_I16, i16, { -32768, 7 } },
		{ QD_I8, i8, { -128, 7 } },
		{ QD_U8, u8, { 255, 7 } },
		{ QD_BOOL, truth, { 1, 0 } },
		{ QD_F64, f64, { 0.5f, -3 } },
	};
	const struct qd_shape two = { 1, { 2 } };
	struct qd_tensor t = qd_tensor_view("x", QD_I64, two, i64);
	qt_tensor x;
	int64_t back[2];

	for (size_t i = 0; i < QD_COUNT(rows); i++) {
		struct qd_tensor row = qd_tensor_view("x", rows[i].dtype, two, rows[i].data);
		OK(qt_from_tensor(&row, &x));
		float *got = numbers(x);
		assert_memory_equal(got, rows[i].want, sizeof(rows[i].want));
		free(got);
		qt_free(x);
	}
	OK(qt_from_tensor(&t, &x));
	OK(qt_read(x, back, sizeof(back)));
	assert_memory_equal(back, i64, sizeof(back));
	qt_free(x);
	t.dtype = QD_C64;
	assert_int_not_equal(qt_from_tensor(&t, &x), QD_OK);
	assert_null(x);
	assert_string_equal(qd_message(), "from_tensor: no tensors of type C64");
	assert_int_equal(qt_live(), 0);
}

static void test_unaligned_bytes(void **state)
{
	(void)state;
	_Alignas(16) char bytes[9] = { 0 };
	const float values[2] = { 3, 4 };
	struct qd_tensor t = qd_tensor_view("x", QD_F32, (struct qd_shape){ 1, { 2 } }, bytes + 1);
	qt_tensor x;

	memcpy(bytes + 1, values, sizeof(values));
	OK(qt_borrow_tensor(&t, &x));
	memset(bytes, 0, sizeof(bytes));
	float *got = numbers(x);
	assert_memory_equal(got, values, sizeof(values));
	free(got);
	qt_free(x);
	assert_int_equal(qt_live(), 0);
}

static void test_read_write_and_refusals(void **state)
{
	(void)state;
	const struct qd_shape shape = QD_SHAPE(2, 3);
	float in[6] = { 1, 2, 3, 4, 5, 6 }, out[6], *data;
	qt_tensor x, y;
	struct qd_shape found;
	double item;

	OK(qt_zeros(&shape, &x));
	OK(qt_write(x, in, sizeof(in)));
	OK(qt_permute(x, 2, (int64_t[]){ 1, 0 }, &y));
	OK(qt_read(y, out, sizeof(out)));
	assert_memory_equal(out, ((float[]){ 1, 4, 2, 5, 3, 6 }), sizeof(out));
	OK(qt_data(x, &data));
	assert_true(data[5] == 6);
	assert_int_equal(qt_data(y, &data), QD_EINPUT);
	assert_string_equal(qd_message(), "tensor is not contiguous float32 on the CPU");
	OK(qt_shape(y, &found));
	assert_true(found.rank == 2 && found.dim[0] == 3 && found.dim[1] == 2);
	assert_int_equal(qt_read(x, out, 5), QD_EINPUT);
	assert_string_equal(qd_message(), "buffer has 5 bytes, needs 24");
	assert_int_equal(qt_write(x, out, 25), QD_EINPUT);
	assert_int_equal(qt_item(x, &item), QD_ETORCH);
	qt_free(y);
	OK(qt_contiguous(x, &y));
	qt_free(y);
	OK(qt_clone(x, &y));
	OK(qt_write(y, (float[6]){ 0 }, sizeof(in)));
	OK(qt_read(x, out, sizeof(out)));
	assert_memory_equal(out, in, sizeof(in));
	qt_free(y);
	qt_free(x);
	qt_free(NULL);
	assert_int_equal(qt_live(), 0);
}

static void test_exceptions_become_statuses(void **state)
{
	(void)state;
	qt_tensor a = random_tensor(QD_SHAPE(2, 3)), b = random_tensor(QD_SHAPE(4, 5)), out = a;

	assert_int_equal(qt_matmul(a, b, &out), QD_ETORCH);
	assert_null(out);
	assert_true(qd_starts_with(qd_message(), "matmul: "));
	assert_int_equal(qt_mse(a, b, &out), QD_ETORCH);
	assert_int_equal(qt_fake_quantize(a, 7, (float[7]){ 1 }, (float[7]){ 0 }, 0, 0, 255, &out), QD_ETORCH);
	assert_int_equal(qt_set_device("abacus"), QD_EUNSUPPORTED);
	OK(qt_set_device("cpu"));
	qt_free(a);
	qt_free(b);
	assert_int_equal(qt_live(), 0);
}

static void test_min_max(void **state)
{
	(void)state;
	qt_tensor x = from_floats(QD_SHAPE(3), (float[]){ 2, -5, 1 }), bad = from_floats(QD_SHAPE(2), (float[]){ 0, NAN });
	float low, high;

	OK(qt_min_max(x, &low, &high));
	assert_true(low == -5 && high == 2);
	assert_int_equal(qt_min_max(bad, &low, &high), QD_EINPUT);
	assert_string_equal(qd_message(), "tensor holds NaN or infinity");
	qt_free(x);
	qt_free(bad);
}

/* ---- gradients ---- */

enum { MAX_INPUTS = 4 };

struct gradient_case {
	const char *name;
	size_t n;
	struct qd_shape shapes[MAX_INPUTS];
	enum qd_status (*apply)(const qt_tensor *in, qt_tensor *out);
};

static enum qd_status apply_conv(const qt_tensor *in, qt_tensor *out)
{
	return qt_conv2d(in[0], in[1], in[2], (int64_t[]){ 2, 1 }, (int64_t[]){ 1, 0, 1, 2 }, (int64_t[]){ 1, 1 }, 1, out);
}

static enum qd_status apply_linear(const qt_tensor *in, qt_tensor *out)
{
	return qt_linear(in[0], in[1], in[2], out);
}

static enum qd_status apply_group_norm(const qt_tensor *in, qt_tensor *out)
{
	return qt_group_norm(in[0], 2, in[1], in[2], 1e-5, out);
}

static enum qd_status apply_layer_norm(const qt_tensor *in, qt_tensor *out)
{
	return qt_layer_norm(in[0], -1, in[1], in[2], 1e-5, out);
}

static enum qd_status apply_instance_norm(const qt_tensor *in, qt_tensor *out)
{
	return qt_instance_norm(in[0], in[1], in[2], 1e-5, out);
}

static enum qd_status apply_attention(const qt_tensor *in, qt_tensor *out)
{
	return qt_attention(in[0], in[1], in[2], 0.4, out);
}

static enum qd_status apply_silu(const qt_tensor *in, qt_tensor *out)
{
	return qt_unary(QT_SILU, in[0], out);
}

static enum qd_status apply_gelu(const qt_tensor *in, qt_tensor *out)
{
	return qt_unary(QT_GELU, in[0], out);
}

static enum qd_status apply_softmax(const qt_tensor *in, qt_tensor *out)
{
	return qt_softmax(in[0], 1, out);
}

static enum qd_status apply_upsample(const qt_tensor *in, qt_tensor *out)
{
	return qt_upsample_nearest(in[0], 5, 6, 2, 2, out);
}

static const struct gradient_case gradient_cases[] = {
	{ "conv", 3, { { 4, { 2, 3, 6, 5 } }, { 4, { 4, 3, 3, 2 } }, { 1, { 4 } } }, apply_conv },
	{ "linear", 3, { { 2, { 7, 5 } }, { 2, { 3, 5 } }, { 1, { 3 } } }, apply_linear },
	{ "group norm", 3, { { 4, { 2, 4, 3, 3 } }, { 1, { 4 } }, { 1, { 4 } } }, apply_group_norm },
	{ "layer norm", 3, { { 3, { 2, 3, 6 } }, { 1, { 6 } }, { 1, { 6 } } }, apply_layer_norm },
	{ "instance norm", 3, { { 4, { 2, 3, 3, 4 } }, { 1, { 3 } }, { 1, { 3 } } }, apply_instance_norm },
	{ "attention", 3, { { 4, { 2, 2, 5, 4 } }, { 4, { 2, 2, 9, 4 } }, { 4, { 2, 2, 9, 3 } } }, apply_attention },
	{ "attention without heads", 3, { { 3, { 2, 5, 4 } }, { 3, { 2, 9, 4 } }, { 3, { 2, 9, 4 } } }, apply_attention },
	{ "silu", 1, { { 2, { 5, 6 } } }, apply_silu },
	{ "gelu", 1, { { 2, { 5, 6 } } }, apply_gelu },
	{ "softmax", 1, { { 2, { 5, 6 } } }, apply_softmax },
	{ "upsample", 1, { { 4, { 1, 2, 3, 3 } } }, apply_upsample },
};

/* loss = mean((f(inputs) - target)^2) */
static qt_tensor loss_of(const struct gradient_case *c, const qt_tensor *in, qt_tensor target)
{
	qt_tensor out, loss;

	OK(c->apply(in, &out));
	OK(qt_mse(out, target, &loss));
	qt_free(out);
	return loss;
}

/* The loss with `input` moved by t along `direction`. */
static double moved_loss(
	const struct gradient_case *c, const qt_tensor *in, size_t input, const float *direction, double t, qt_tensor target)
{
	qt_tensor moved[MAX_INPUTS], loss;
	size_t n = count(in[input]);
	float *x = numbers(in[input]);
	double value;

	memcpy(moved, in, sizeof(moved));
	for (size_t i = 0; i < n; i++)
		x[i] += (float)t * direction[i];
	moved[input] = from_floats(c->shapes[input], x);
	loss = loss_of(c, moved, target);
	OK(qt_item(loss, &value));
	qt_free(loss);
	qt_free(moved[input]);
	free(x);
	return value;
}

/*
 * Central difference with step h = 1e-2 along a random direction of length ~1: the loss (about 1) is known to about 1e-6, which
 * over 2h is 5e-5; the cubic term is of the order of h^2 = 1e-4 times a third derivative of a few units. 2e-3 (1 + |slope|) leaves
 * room for both.
 */
static void check_slope(const struct gradient_case *c, const qt_tensor *in, size_t input, qt_tensor target)
{
	const double h = 1e-2;
	size_t n = count(in[input]);
	float *direction = malloc(n * sizeof(*direction));
	qt_tensor gradient;
	double slope = 0;

	OK(qt_grad(in[input], &gradient));
	assert_non_null(gradient);
	float *g = numbers(gradient);
	for (size_t i = 0; i < n; i++) {
		direction[i] = (float)(qd_random_normal(&random_state) / sqrt((double)n));
		slope += (double)direction[i] * g[i];
	}
	double measured =
		(moved_loss(c, in, input, direction, h, target) - moved_loss(c, in, input, direction, -h, target)) / (2 * h);
	if (!(fabs(slope - measured) <= 2e-3 * (1 + fabs(measured))))
		fail_msg("%s, input %zu: slope %.6g, measured %.6g", c->name, input, slope, measured);
	qt_free(gradient);
	free(direction);
	free(g);
}

static void test_gradients_equal_differences(void **state)
{
	(void)state;
	for (size_t i = 0; i < QD_COUNT(gradient_cases); i++) {
		const struct gradient_case *c = &gradient_cases[i];
		qt_tensor in[MAX_INPUTS] = { NULL }, out, loss;
		struct qd_shape shape;
		for (size_t k = 0; k < c->n; k++) {
			in[k] = random_tensor(c->shapes[k]);
			OK(qt_requires_grad(in[k], true));
		}
		OK(c->apply(in, &out));
		OK(qt_shape(out, &shape));
		qt_tensor target = random_tensor(shape);
		qt_free(out);
		loss = loss_of(c, in, target);
		assert_true(qt_wants_grad(loss));
		OK(qt_backward(loss));
		qt_free(loss);
		qt_set_grad(false);
		for (size_t k = 0; k < c->n; k++)
			check_slope(c, in, k, target);
		qt_set_grad(true);
		for (size_t k = 0; k < c->n; k++)
			qt_free(in[k]);
		qt_free(target);
	}
	assert_int_equal(qt_live(), 0);
}

/* Every element of y and of dx against the definition, whether all, some or none lie within the grid. */
static void check_fake_quantize(qt_tensor x, size_t n_scales, int64_t axis, float width)
{
	struct qd_shape shape;
	float scale[8], zero[8];
	qt_tensor y, loss, target, gradient;

	OK(qt_shape(x, &shape));
	for (size_t i = 0; i < n_scales; i++) {
		scale[i] = width * (1 + (float)i) / 255;
		zero[i] = 128 + (float)i;
	}
	OK(qt_zero_grad(x));
	OK(qt_zeros(&shape, &target));
	OK(qt_fake_quantize(x, n_scales, scale, zero, axis, 0, 255, &y));
	OK(qt_mse(y, target, &loss));
	OK(qt_backward(loss));
	OK(qt_grad(x, &gradient));
	float *in = numbers(x), *out = numbers(y), *g = numbers(gradient);
	int64_t n = qd_shape_elements(&shape), inner = 1;
	for (int i = (int)axis + 1; i < shape.rank; i++)
		inner *= shape.dim[i];
	for (int64_t i = 0; i < n; i++) {
		size_t c = n_scales == 1 ? 0 : (size_t)(i / inner % shape.dim[axis]);
		float at = rintf(in[i] / scale[c]) + zero[c], clamped = fminf(fmaxf(at, 0), 255);
		assert_true(out[i] == (clamped - zero[c]) * scale[c]);
		/* The mean's gradient 2 y / n, rounded twice. */
		double want = at >= 0 && at <= 255 ? 2.0 * out[i] / (double)n : 0;
		assert_true(fabs(g[i] - want) <= 4 * 0x1p-24 * fabs(want));
	}
	free(in);
	free(out);
	free(g);
	qt_free(y);
	qt_free(loss);
	qt_free(target);
	qt_free(gradient);
}

static void test_fake_quantize_is_straight_through(void **state)
{
	(void)state;
	static const float widths[] = { 0.01f, 2, 100 };
	qt_tensor x = random_tensor(QD_SHAPE(2, 5, 3, 4)), permuted;

	OK(qt_requires_grad(x, true));
	for (size_t i = 0; i < QD_COUNT(widths); i++) {
		check_fake_quantize(x, 1, -1, widths[i]);
		check_fake_quantize(x, 5, 1, widths[i]);
		check_fake_quantize(x, 4, 3, widths[i]);
	}
	/* A permuted view gives the same as its copy would. */
	OK(qt_permute(x, 4, (int64_t[]){ 0, 2, 3, 1 }, &permuted));
	qt_tensor y, copy, z;
	OK(qt_clone(permuted, &copy));
	for (size_t n = 1; n <= 3; n += 2) {
		const float scale[3] = { 0.01f, 0.02f, 0.03f }, zero[3] = { 128, 100, 0 };
		OK(qt_fake_quantize(permuted, n, scale, zero, 1, 0, 255, &y));
		OK(qt_fake_quantize(copy, n, scale, zero, 1, 0, 255, &z));
		float *a = numbers(y), *b = numbers(z);
		assert_memory_equal(a, b, count(y) * sizeof(*a));
		free(a);
		free(b);
		qt_free(y);
		qt_free(z);
	}
	qt_free(permuted);
	qt_free(copy);
	qt_free(x);
	assert_int_equal(qt_live(), 0);
}

static void test_grad_switch(void **state)
{
	(void)state;
	qt_tensor x = random_tensor(QD_SHAPE(3)), y, none;

	OK(qt_requires_grad(x, true));
	assert_true(qt_get_grad());
	OK(qt_unary(QT_SILU, x, &y));
	assert_true(qt_wants_grad(y));
	qt_free(y);
	qt_set_grad(false);
	assert_false(qt_get_grad());
	OK(qt_unary(QT_SILU, x, &y));
	assert_false(qt_wants_grad(y));
	qt_set_grad(true);
	OK(qt_grad(x, &none));
	assert_null(none);
	assert_int_equal(qt_backward(y), QD_ETORCH);
	qt_free(x);
	qt_free(y);
	assert_int_equal(qt_live(), 0);
}

/* 257 needs nine bits: bfloat16 keeps eight. Tensors come back as float32, and gradients flow. */
static void test_bfloat16_products(void **state)
{
	(void)state;
	qt_tensor x = from_floats(QD_SHAPE(1, 2), (float[]){ 257, 1 }), w = from_floats(QD_SHAPE(1, 2), (float[]){ 1, 2 }), y,
		  gradient;
	float out, slope[2];

	OK(qt_requires_grad(w, true));
	for (int on = 1; on >= 0; on--) {
		qt_set_bfloat16(on);
		OK(qt_linear(x, w, NULL, &y));
		OK(qt_read(y, &out, sizeof(out)));
		assert_true(out == (on ? 258 : 259));
		OK(qt_zero_grad(w));
		OK(qt_backward(y));
		OK(qt_grad(w, &gradient));
		OK(qt_read(gradient, slope, sizeof(slope)));
		assert_true(slope[0] == (on ? 256 : 257) && slope[1] == 1);
		qt_free(gradient);
		qt_free(y);
	}
	qt_free(x);
	qt_free(w);
	assert_int_equal(qt_live(), 0);
}

/* ---- optimizer ---- */

/* A leaf whose gradient is 2 (x - target) / n. */
static void give_gradient(qt_tensor x, qt_tensor target)
{
	qt_tensor loss;

	OK(qt_zero_grad(x));
	OK(qt_mse(x, target, &loss));
	OK(qt_backward(loss));
	qt_free(loss);
}

static void test_adamw_minimizes(void **state)
{
	(void)state;
	const struct qd_shape shape = QD_SHAPE(4, 3);
	qt_tensor x = random_tensor(shape), target = random_tensor(shape), m, v, gradient;
	double before, after;

	OK(qt_zeros(&shape, &m));
	OK(qt_zeros(&shape, &v));
	OK(qt_adamw(x, m, v, 1, 0.1, 0.9, 0.999, 1e-8, 0)); /* no gradient: no change */
	OK(qt_requires_grad(x, true));
	give_gradient(x, target);
	OK(qt_grad_norm2(x, &before));
	OK(qt_grad(x, &gradient));
	float *g = numbers(gradient), *old = numbers(x);
	double sum = 0;
	for (size_t i = 0; i < 12; i++)
		sum += (double)g[i] * g[i];
	assert_true(fabs(sum - before) <= 1e-6 * sum);
	OK(qt_adamw(x, m, v, 1, 0.1, 0.9, 0.999, 1e-8, 0));
	float *new = numbers(x);
	/* The first step is lr in the gradient's direction, whatever its size. */
	for (size_t i = 0; i < 12; i++)
		assert_true(fabs(new[i] - (old[i] - copysign(0.1, g[i]))) < 1e-5);
	for (int64_t step = 2; step < 300; step++) {
		give_gradient(x, target);
		OK(qt_adamw(x, m, v, step, 0.03, 0.9, 0.99, 1e-8, 0));
	}
	give_gradient(x, target);
	OK(qt_scale_grad(x, 0.5));
	OK(qt_grad_norm2(x, &after));
	assert_true(after < 1e-4 * before);
	free(g);
	free(old);
	free(new);
	qt_free(gradient);
	qt_free(x);
	qt_free(m);
	qt_free(v);
	qt_free(target);
	assert_int_equal(qt_live(), 0);
}

static void test_lerp(void **state)
{
	(void)state;
	qt_tensor x = from_floats(QD_SHAPE(2), (float[]){ 1, 2 }), y = from_floats(QD_SHAPE(2), (float[]){ 5, -2 });
	float out[2];

	OK(qt_lerp_(x, y, 0.75));
	OK(qt_read(x, out, sizeof(out)));
	assert_true(out[0] == 2 && out[1] == 1);
	qt_free(x);
	qt_free(y);
	assert_int_equal(qt_live(), 0);
}

/* Scales below the normal range are not flushed to zero by what libtorch does to the processor's state. */
static void test_denormals_survive(void **state)
{
	(void)state;
	const float scale = 1e-40f, zero = 0;
	qt_tensor x = from_floats(QD_SHAPE(2), (float[]){ 3e-40f, 1e-41f }), y;
	float out[2];

	OK(qt_fake_quantize(x, 1, &scale, &zero, -1, -128, 127, &y));
	OK(qt_read(y, out, sizeof(out)));
	assert_true(out[0] == 3 * scale && out[1] == 0);
	qt_free(x);
	qt_free(y);
}

static int start(void **state)
{
	(void)state;
	qd_random_init(&random_state, test_seed(), 0);
	print_message("# libtorch %s\n", qt_version());
	return qt_set_threads(2) == QD_OK ? 0 : -1;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_types_come_in),
		cmocka_unit_test(test_unaligned_bytes),
		cmocka_unit_test(test_read_write_and_refusals),
		cmocka_unit_test(test_exceptions_become_statuses),
		cmocka_unit_test(test_min_max),
		cmocka_unit_test(test_gradients_equal_differences),
		cmocka_unit_test(test_fake_quantize_is_straight_through),
		cmocka_unit_test(test_grad_switch),
		cmocka_unit_test(test_bfloat16_products),
		cmocka_unit_test(test_adamw_minimizes),
		cmocka_unit_test(test_lerp),
		cmocka_unit_test(test_denormals_survive),
	};
	return cmocka_run_group_tests(tests, start, NULL);
}
