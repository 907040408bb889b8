/*
 * Lowering, part 1: operators that compute. What ONNX leaves to attributes is worked out here; the arithmetic is the shim's.
 */
#include "lib/torch/lower.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const qd_lowering qd_lowerings[QD_OP_COUNT] = {
#define OP(id, ...) [QD_OP_##id] = qd_lower_##id,
#include "lib/ir/ops.def"
#undef OP
};

static const struct qd_value *input(const struct qd_lower *l, size_t i)
{
	return &l->g->values[l->node->in[i]];
}

static qt_tensor optional(const struct qd_lower *l, size_t i)
{
	return i < l->node->n_in ? l->in[i] : NULL;
}

/* ---- products ---- */

enum qd_status qd_lower_CONV(const struct qd_lower *l)
{
	static const int64_t ones[QD_MAX_RANK] = { 1, 1, 1, 1, 1, 1, 1, 1 }, zeros[2 * QD_MAX_RANK];
	const struct qd_attr *strides = qd_node_attr(l->node, "strides"), *pads = qd_node_attr(l->node, "pads"),
			     *dilations = qd_node_attr(l->node, "dilations");

	return qt_conv2d(l->in[0], l->in[1], optional(l, 2), strides != NULL ? strides->ints : ones,
		pads != NULL ? pads->ints : zeros, dilations != NULL ? dilations->ints : ones, qd_node_int(l->node, "group", 1),
		l->out);
}

enum qd_status qd_lower_MATMUL(const struct qd_lower *l)
{
	return qt_matmul(l->in[0], l->in[1], l->out);
}

static enum qd_status scaled(qt_tensor x, double by, qt_tensor *out)
{
	const struct qd_shape scalar = { 0 };
	qt_tensor factor = NULL;
	enum qd_status st;

	*out = NULL;
	if (by == 1.0)
		return qt_retain(x, out);
	QD_TRY(st, qt_full(&scalar, (float)by, &factor));
	QD_TRY(st, qt_binary(QT_MUL, x, factor, out));
out:
	qt_free(factor);
	return st;
}

static enum qd_status transposed(qt_tensor x, bool swap, qt_tensor *out)
{
	return swap ? qt_permute(x, 2, (int64_t[]){ 1, 0 }, out) : qt_retain(x, out);
}

/* alpha op(a) op(b) + beta c */
enum qd_status qd_lower_GEMM(const struct qd_lower *l)
{
	bool trans_a = qd_node_int(l->node, "transA", 0) != 0, trans_b = qd_node_int(l->node, "transB", 0) != 0;
	float alpha = qd_node_float(l->node, "alpha", 1), beta = qd_node_float(l->node, "beta", 1);
	qt_tensor a = NULL, b = NULL, product = NULL, c = NULL;
	qt_tensor bias = optional(l, 2);
	enum qd_status st;

	if (!trans_a && trans_b && alpha == 1 && beta == 1 && (bias == NULL || input(l, 2)->shape.rank == 1))
		return qt_linear(l->in[0], l->in[1], bias, l->out);
	QD_TRY(st, transposed(l->in[0], trans_a, &a));
	QD_TRY(st, transposed(l->in[1], trans_b, &b));
	QD_TRY(st, qt_matmul(a, b, &product));
	if (bias == NULL) {
		QD_TRY(st, scaled(product, alpha, l->out));
		goto out;
	}
	qt_free(a);
	QD_TRY(st, scaled(product, alpha, &a));
	QD_TRY(st, scaled(bias, beta, &c));
	QD_TRY(st, qt_binary(QT_ADD, a, c, l->out));
out:
	qt_free(a);
	qt_free(b);
	qt_free(product);
	qt_free(c);
	return st;
}

/* ---- element by element ---- */

#define BINARY(id, op)                                                                                                             \
	enum qd_status qd_lower_##id(const struct qd_lower *l)                                                                     \
	{                                                                                                                          \
		return qt_binary(op, l->in[0], l->in[1], l->out);                                                                  \
	}
BINARY(ADD, QT_ADD)
BINARY(SUB, QT_SUB)
BINARY(MUL, QT_MUL)
BINARY(DIV, QT_DIV)
BINARY(POW, QT_POW)
BINARY(EQUAL, QT_EQUAL)
BINARY(GREATER, QT_GREATER)
BINARY(LESS, QT_LESS)
BINARY(AND, QT_AND)
BINARY(OR, QT_OR)

#define UNARY(id, op)                                                                                                              \
	enum qd_status qd_lower_##id(const struct qd_lower *l)                                                                     \
	{                                                                                                                          \
		return qt_unary(op, l->in[0], l->out);                                                                             \
	}
UNARY(NOT, QT_NOT)
UNARY(SIGMOID, QT_SIGMOID)
UNARY(TANH, QT_TANH)
UNARY(RELU, QT_RELU)
UNARY(ERF, QT_ERF)
UNARY(EXP, QT_EXP)
UNARY(LOG, QT_LOG)
UNARY(SQRT, QT_SQRT)
UNARY(NEG, QT_NEG)
UNARY(ABS, QT_ABS)
UNARY(SIN, QT_SIN)
UNARY(COS, QT_COS)
UNARY(SOFTPLUS, QT_SOFTPLUS)
UNARY(MISH, QT_MISH)
UNARY(RECIPROCAL, QT_RECIPROCAL)
UNARY(FLOOR, QT_FLOOR)
UNARY(ROUND, QT_ROUND)

/* Min and Max of any number of operands. */
static enum qd_status fold(const struct qd_lower *l, enum qt_binary op)
{
	qt_tensor so_far = NULL, next = NULL;
	enum qd_status st;

	QD_TRY(st, qt_retain(l->in[0], &so_far));
	for (size_t i = 1; i < l->node->n_in; i++) {
		QD_TRY(st, qt_binary(op, so_far, l->in[i], &next));
		qt_free(so_far);
		so_far = next;
	}
	*l->out = so_far;
	so_far = NULL;
out:
	qt_free(so_far);
	return st;
}

enum qd_status qd_lower_MIN(const struct qd_lower *l)
{
	return fold(l, QT_MIN);
}

enum qd_status qd_lower_MAX(const struct qd_lower *l)
{
	return fold(l, QT_MAX);
}

enum qd_status qd_lower_WHERE(const struct qd_lower *l)
{
	return qt_where(l->in[0], l->in[1], l->in[2], l->out);
}

enum qd_status qd_lower_GELU(const struct qd_lower *l)
{
	bool tanh_form = strcmp(qd_node_string(l->node, "approximate", "none"), "tanh") == 0;
	return qt_unary(tanh_form ? QT_GELU_TANH : QT_GELU, l->in[0], l->out);
}

enum qd_status qd_lower_CLIP(const struct qd_lower *l)
{
	double low = -INFINITY, high = INFINITY;
	enum qd_status st = QD_OK;

	if (optional(l, 1) != NULL)
		QD_TRY(st, qt_item(l->in[1], &low));
	if (optional(l, 2) != NULL)
		QD_TRY(st, qt_item(l->in[2], &high));
	QD_TRY(st, qt_clamp(l->in[0], low, high, l->out));
out:
	return st;
}

enum qd_status qd_lower_CAST(const struct qd_lower *l)
{
	return qt_cast(l->in[0], l->g->values[l->node->out[0]].dtype, l->out);
}

/* ---- along axes ---- */

enum qd_status qd_lower_SOFTMAX(const struct qd_lower *l)
{
	return qt_softmax(l->in[0], qd_node_int(l->node, "axis", -1), l->out);
}

enum qd_status qd_lower_GROUP_NORM(const struct qd_lower *l)
{
	return qt_group_norm(l->in[0], qd_node_int(l->node, "num_groups", 0), l->in[1], l->in[2],
		qd_node_float(l->node, "epsilon", 1e-5f), l->out);
}

enum qd_status qd_lower_LAYER_NORM(const struct qd_lower *l)
{
	return qt_layer_norm(l->in[0], qd_node_int(l->node, "axis", -1), l->in[1], optional(l, 2),
		qd_node_float(l->node, "epsilon", 1e-5f), l->out);
}

enum qd_status qd_lower_INSTANCE_NORM(const struct qd_lower *l)
{
	return qt_instance_norm(l->in[0], l->in[1], l->in[2], qd_node_float(l->node, "epsilon", 1e-5f), l->out);
}

static enum qd_status reduce(
	const struct qd_lower *l, enum qd_status (*apply)(qt_tensor x, size_t n, const int64_t *axes, bool keep, qt_tensor *out))
{
	int64_t axes[QD_MAX_RANK];
	enum qd_status st;
	unsigned bits;
	size_t n = 0;

	QD_TRY(st, qd_reduced_axes(l->g, l->node, &bits));
	for (int i = 0; i < input(l, 0)->shape.rank; i++)
		if (bits >> i & 1)
			axes[n++] = i;
	/* No axes: nothing is reduced, where libtorch would reduce all. */
	st = n == 0 ? qt_retain(l->in[0], l->out) : apply(l->in[0], n, axes, qd_node_int(l->node, "keepdims", 1) != 0, l->out);
out:
	return st;
}

enum qd_status qd_lower_REDUCE_MEAN(const struct qd_lower *l)
{
	return reduce(l, qt_reduce_mean);
}

enum qd_status qd_lower_REDUCE_SUM(const struct qd_lower *l)
{
	return reduce(l, qt_reduce_sum);
}

enum qd_status qd_lower_ARG_MAX(const struct qd_lower *l)
{
	int64_t axis = qd_node_int(l->node, "axis", 0);
	bool keep = qd_node_int(l->node, "keepdims", 1) != 0;
	const struct qd_shape *shape = &input(l, 0)->shape;
	qt_tensor flipped = NULL, from_end = NULL, last = NULL;
	const struct qd_tensor size = qd_tensor_view(
		NULL, QD_I64, (struct qd_shape){ 0 }, (int64_t[]){ shape->dim[axis < 0 ? axis + shape->rank : axis] - 1 });
	enum qd_status st;

	if (!qd_node_int(l->node, "select_last_index", 0))
		return qt_argmax(l->in[0], axis, keep, l->out);
	QD_TRY(st, qt_flip(l->in[0], axis, &flipped));
	QD_TRY(st, qt_argmax(flipped, axis, keep, &from_end));
	QD_TRY(st, qt_from_tensor(&size, &last));
	QD_TRY(st, qt_binary(QT_SUB, last, from_end, l->out));
out:
	qt_free(flipped);
	qt_free(from_end);
	qt_free(last);
	return st;
}

/* ---- codes ---- */

/* Scales and zero points in memory, f32 [n] each: scale, then zero (0 where there is none). */
static enum qd_status read_scale(qt_tensor scale, qt_tensor zero, float **out, size_t *n)
{
	qt_tensor plain = NULL;
	struct qd_shape shape;
	enum qd_status st;

	*out = NULL;
	QD_TRY(st, qt_shape(scale, &shape));
	*n = (size_t)qd_shape_elements(&shape);
	*out = calloc(*n ? *n : 1, 2 * sizeof(float));
	if (*out == NULL)
		return qd_fail(QD_ENOMEM, "out of memory for scales");
	QD_TRY(st, qt_read(scale, *out, *n * sizeof(float)));
	if (zero != NULL) {
		QD_TRY(st, qt_cast(zero, QD_F32, &plain));
		QD_TRY(st, qt_read(plain, *out + *n, *n * sizeof(float)));
	}
out:
	qt_free(plain);
	return st;
}

static void limits(enum qd_dtype dtype, float *low, float *high)
{
	float codes = (float)(1u << qd_dtype_bits(dtype));
	bool is_signed = dtype == QD_I8 || dtype == QD_I16;

	*low = is_signed ? -codes / 2 : 0;
	*high = *low + codes - 1;
}

enum qd_status qd_lower_fake_quantize(
	qt_tensor x, qt_tensor scale, qt_tensor zero, int64_t axis, enum qd_dtype dtype, qt_tensor *out)
{
	float *numbers = NULL, low, high;
	enum qd_status st;
	size_t n;

	*out = NULL;
	limits(dtype, &low, &high);
	QD_TRY(st, read_scale(scale, zero, &numbers, &n));
	QD_TRY(st, qt_fake_quantize(x, n, numbers, numbers + n, axis, low, high, out));
out:
	free(numbers);
	return st;
}

enum qd_status qd_lower_QUANTIZE(const struct qd_lower *l)
{
	enum qd_dtype dtype = l->g->values[l->node->out[0]].dtype;
	float *numbers = NULL, low, high;
	enum qd_status st;
	size_t n;

	limits(dtype, &low, &high);
	QD_TRY(st, read_scale(l->in[1], optional(l, 2), &numbers, &n));
	QD_TRY(st, qt_quantize(l->in[0], n, numbers, numbers + n, qd_node_int(l->node, "axis", 1), low, high, dtype, l->out));
out:
	free(numbers);
	return st;
}

enum qd_status qd_lower_DEQUANTIZE(const struct qd_lower *l)
{
	float *numbers = NULL;
	enum qd_status st;
	size_t n;

	QD_TRY(st, read_scale(l->in[1], optional(l, 2), &numbers, &n));
	QD_TRY(st, qt_dequantize(l->in[0], n, numbers, numbers + n, qd_node_int(l->node, "axis", 1), l->out));
out:
	free(numbers);
	return st;
}
