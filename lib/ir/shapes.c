/*
 * Shape rules, part 1: helpers, products, elementwise operators and quantization. A rule reads a node's inputs and attributes and
 * gives shape and dtype of its outputs, or says what does not fit. Operators and their limits are ONNX's; sizes of 0 are legal
 * everywhere.
 *
 * Dimensions stay below 2^58 elements per value (qd_shape_check), so sums of a few of them do not overflow int64_t; products are
 * checked.
 */
#include "lib/ir/internal.h"

#include <string.h>

/* ---- helpers ---- */

bool qd_dtype_is_float(enum qd_dtype dtype)
{
	return dtype == QD_F32 || dtype == QD_F16 || dtype == QD_BF16 || dtype == QD_F64;
}

bool qd_dtype_is_integer(enum qd_dtype dtype)
{
	return dtype == QD_I8 || dtype == QD_U8 || dtype == QD_I16 || dtype == QD_U16 || dtype == QD_I32 || dtype == QD_U32 ||
	       dtype == QD_I64 || dtype == QD_U64;
}

enum qd_status qd_shape_check(const struct qd_shape *shape)
{
	int64_t elements = 1;

	if (shape->rank < 0 || shape->rank > QD_MAX_RANK)
		return qd_fail(QD_EUNSUPPORTED, "rank is %d, must be at most %d", shape->rank, QD_MAX_RANK);
	for (int i = 0; i < shape->rank; i++) {
		int64_t dim = shape->dim[i];
		if (dim < 0)
			return qd_fail(QD_EINPUT, "dimension %d is %lld, must not be negative", i, (long long)dim);
		if (__builtin_mul_overflow(elements, dim > 0 ? dim : 1, &elements) || elements > (INT64_C(1) << 58))
			return qd_fail(QD_EINPUT, "dimension %d of %lld makes the shape too large", i, (long long)dim);
	}
	return QD_OK;
}

const struct qd_value *qd_node_in(const struct qd_graph *g, const struct qd_node *node, size_t i)
{
	return i < node->n_in && node->in[i] != QD_NONE ? &g->values[node->in[i]] : NULL;
}

enum qd_status qd_shape_broadcast(const struct qd_shape *a, const struct qd_shape *b, struct qd_shape *out)
{
	char ta[QD_SHAPE_TEXT], tb[QD_SHAPE_TEXT];
	struct qd_shape r = { .rank = a->rank > b->rank ? a->rank : b->rank };

	for (int i = 1; i <= r.rank; i++) {
		int64_t da = i <= a->rank ? a->dim[a->rank - i] : 1;
		int64_t db = i <= b->rank ? b->dim[b->rank - i] : 1;
		if (da != db && da != 1 && db != 1)
			return qd_fail(QD_EINPUT, "shapes %s and %s do not broadcast", qd_shape_text(a, ta), qd_shape_text(b, tb));
		r.dim[r.rank - i] = da == 1 ? db : da;
	}
	*out = r;
	return QD_OK;
}

enum qd_status qd_axis(int64_t axis, int rank, int *out)
{
	*out = 0;
	if (axis < -rank || axis >= rank)
		return qd_fail(QD_EINPUT, "axis is %lld, must be within the %d dimensions", (long long)axis, rank);
	*out = (int)(axis < 0 ? axis + rank : axis);
	return QD_OK;
}

enum qd_status qd_axes(size_t n, const int64_t *values, int rank, unsigned *out)
{
	enum qd_status st = QD_OK;
	int axis;

	*out = 0;
	for (size_t i = 0; i < n; i++) {
		QD_TRY(st, qd_axis(values[i], rank, &axis));
		if (*out >> axis & 1)
			return qd_fail(QD_EINPUT, "axis %d is given twice", axis);
		*out |= 1u << axis;
	}
out:
	return st;
}

enum qd_status qd_node_ints(const struct qd_graph *g, const struct qd_node *node, const struct qd_tensor *const *in, size_t i,
	size_t max, int64_t *out, size_t *n)
{
	if (in == NULL)
		return qd_graph_ints(g, node->in[i], max, out, n);
	*n = in[i]->bytes / sizeof(*out);
	if (in[i]->dtype != QD_I64 || *n > max)
		return qd_fail(QD_EINPUT, "input %zu has %zu elements, needs at most %zu integers", i, *n, max);
	if (*n > 0)
		memcpy(out, in[i]->data, in[i]->bytes);
	return QD_OK;
}

enum qd_status qd_need_f32(const struct qd_value *v, const char *what)
{
	if (v->dtype != QD_F32)
		return qd_fail(QD_EINPUT, "%s '%s' is %s, needs F32", what, v->name, qd_dtype_name(v->dtype));
	return QD_OK;
}

static enum qd_status need_rank(const struct qd_value *v, const char *what, int rank)
{
	if (v->shape.rank != rank)
		return qd_fail(QD_EINPUT, "%s '%s' has %d dimensions, needs %d", what, v->name, v->shape.rank, rank);
	return QD_OK;
}

/* A vector of n elements, as biases and scales are. */
enum qd_status qd_need_vector(const struct qd_value *v, const char *what, int64_t n)
{
	char text[QD_SHAPE_TEXT];
	if (v->shape.rank != 1 || v->shape.dim[0] != n)
		return qd_fail(
			QD_EINPUT, "%s '%s' is %s, needs [%lld]", what, v->name, qd_shape_text(&v->shape, text), (long long)n);
	return QD_OK;
}

/* All inputs that are there have input 0's dtype. */
enum qd_status qd_need_same_dtype(const struct qd_graph *g, const struct qd_node *node)
{
	const struct qd_value *first = qd_node_in(g, node, 0);
	for (size_t i = 1; i < node->n_in; i++) {
		const struct qd_value *v = qd_node_in(g, node, i);
		if (v != NULL && v->dtype != first->dtype)
			return qd_fail(QD_EINPUT, "input '%s' is %s, needs %s as '%s' is", v->name, qd_dtype_name(v->dtype),
				qd_dtype_name(first->dtype), first->name);
	}
	return QD_OK;
}

enum qd_status qd_need_number(const struct qd_value *v)
{
	if (v->dtype == QD_F32 || qd_dtype_is_integer(v->dtype))
		return QD_OK;
	return qd_fail(QD_EINPUT, "input '%s' is %s, needs F32 or an integer type", v->name, qd_dtype_name(v->dtype));
}

/* All inputs broadcast together. */
static enum qd_status broadcast_inputs(const struct qd_graph *g, const struct qd_node *node, struct qd_shape *out)
{
	enum qd_status st = QD_OK;

	*out = qd_node_in(g, node, 0)->shape;
	for (size_t i = 1; i < node->n_in; i++)
		QD_TRY(st, qd_shape_broadcast(out, &qd_node_in(g, node, i)->shape, out));
out:
	return st;
}

/* `v` broadcasts to `to` without enlarging it. */
enum qd_status qd_need_broadcast_to(const struct qd_value *v, const char *what, const struct qd_shape *to)
{
	struct qd_shape both;
	char from[QD_SHAPE_TEXT], text[QD_SHAPE_TEXT];

	if (qd_shape_broadcast(&v->shape, to, &both) == QD_OK && qd_shape_equal(&both, to))
		return QD_OK;
	return qd_fail(QD_EINPUT, "%s '%s' is %s, needs a shape that broadcasts to %s", what, v->name,
		qd_shape_text(&v->shape, from), qd_shape_text(to, text));
}

/* ---- products with weights ---- */

/* Attribute `name` as n values within [low, 2^31), or `absent` n times. */
static enum qd_status int_list(const struct qd_node *node, const char *name, size_t n, int64_t low, int64_t absent, int64_t *out)
{
	const struct qd_attr *attr = qd_node_attr(node, name);

	if (attr != NULL && attr->n_ints != n)
		return qd_fail(QD_EINPUT, "attribute '%s' has %zu values, needs %zu", name, attr->n_ints, n);
	for (size_t i = 0; i < n; i++) {
		out[i] = attr != NULL ? attr->ints[i] : absent;
		if (attr != NULL && (out[i] < low || out[i] > INT32_MAX))
			return qd_fail(QD_EINPUT, "attribute '%s' holds %lld, must be at least %lld", name, (long long)out[i],
				(long long)low);
	}
	return QD_OK;
}

/* Conv's attributes over its spatial dimensions. */
struct conv_attrs {
	int64_t pads[2 * QD_MAX_RANK], strides[QD_MAX_RANK], dilations[QD_MAX_RANK], kernel[QD_MAX_RANK], group;
};

static enum qd_status conv_attrs(const struct qd_node *node, const struct qd_shape *w, struct conv_attrs *a)
{
	size_t spatial = (size_t)w->rank - 2;
	enum qd_status st;

	QD_TRY(st, int_list(node, "pads", 2 * spatial, 0, 0, a->pads));
	QD_TRY(st, int_list(node, "strides", spatial, 1, 1, a->strides));
	QD_TRY(st, int_list(node, "dilations", spatial, 1, 1, a->dilations));
	QD_TRY(st, int_list(node, "kernel_shape", spatial, 1, -1, a->kernel));
out:
	return st;
}

static enum qd_status conv_check(const struct qd_graph *g, const struct qd_node *node)
{
	const struct qd_value *x = qd_node_in(g, node, 0), *w = qd_node_in(g, node, 1), *b = qd_node_in(g, node, 2);
	int64_t group = qd_node_int(node, "group", 1);
	enum qd_status st;

	QD_TRY(st, qd_need_f32(x, "conv input"));
	QD_TRY(st, qd_need_f32(w, "conv weight"));
	if (x->shape.rank < 3 || x->shape.rank > 5)
		return qd_fail(QD_EINPUT, "conv input '%s' has %d dimensions, needs 3 to 5", x->name, x->shape.rank);
	QD_TRY(st, need_rank(w, "conv weight", x->shape.rank));
	if (strcmp(qd_node_string(node, "auto_pad", "NOTSET"), "NOTSET") != 0)
		return qd_fail(QD_EUNSUPPORTED, "auto_pad is '%s', needs 'NOTSET'", qd_node_string(node, "auto_pad", ""));
	if (group < 1 || x->shape.dim[1] % group != 0 || w->shape.dim[0] % group != 0)
		return qd_fail(QD_EINPUT, "group %lld does not divide %lld input and %lld output channels", (long long)group,
			(long long)x->shape.dim[1], (long long)w->shape.dim[0]);
	if (x->shape.dim[1] / group != w->shape.dim[1])
		return qd_fail(QD_EINPUT, "conv input has %lld channels, weight needs %lld", (long long)x->shape.dim[1],
			(long long)(w->shape.dim[1] * group));
	if (b != NULL) {
		QD_TRY(st, qd_need_f32(b, "conv bias"));
		QD_TRY(st, qd_need_vector(b, "conv bias", w->shape.dim[0]));
	}
out:
	return st;
}

/* y[i] = floor((x[i] + pads - dilation (kernel - 1) - 1) / stride) + 1 */
enum qd_status qd_rule_conv(const struct qd_graph *g, struct qd_node *node, struct qd_shape *out, enum qd_dtype *dtype)
{
	const struct qd_value *x = qd_node_in(g, node, 0), *w = qd_node_in(g, node, 1);
	struct conv_attrs a;
	enum qd_status st;

	QD_TRY(st, conv_check(g, node));
	QD_TRY(st, conv_attrs(node, &w->shape, &a));
	*dtype = QD_F32;
	out->rank = x->shape.rank;
	out->dim[0] = x->shape.dim[0];
	out->dim[1] = w->shape.dim[0];
	for (int i = 0; i < x->shape.rank - 2; i++) {
		int64_t padded = x->shape.dim[i + 2] + a.pads[i] + a.pads[i + x->shape.rank - 2], kernel = w->shape.dim[i + 2],
			extent;
		if (a.kernel[i] >= 0 && a.kernel[i] != kernel)
			return qd_fail(
				QD_EINPUT, "kernel_shape says %lld, weight has %lld", (long long)a.kernel[i], (long long)kernel);
		if (kernel < 1 || __builtin_mul_overflow(kernel - 1, a.dilations[i], &extent) || extent >= padded)
			return qd_fail(QD_EINPUT, "conv kernel of %lld with dilation %lld does not fit the padded input of %lld",
				(long long)kernel, (long long)a.dilations[i], (long long)padded);
		out->dim[i + 2] = (padded - extent - 1) / a.strides[i] + 1;
	}
out:
	return st;
}

/* NumPy's matmul: vectors get a dimension of 1 that is dropped again; leading dimensions broadcast. */
enum qd_status qd_rule_matmul(const struct qd_graph *g, struct qd_node *node, struct qd_shape *out, enum qd_dtype *dtype)
{
	const struct qd_value *va = qd_node_in(g, node, 0), *vb = qd_node_in(g, node, 1);
	struct qd_shape a = va->shape, b = vb->shape, batch_a, batch_b;
	enum qd_status st;

	QD_TRY(st, qd_need_number(va));
	QD_TRY(st, qd_need_same_dtype(g, node));
	if (a.rank == 0 || b.rank == 0)
		return qd_fail(QD_EINPUT, "matmul operand '%s' is a scalar, needs a dimension", a.rank == 0 ? va->name : vb->name);
	if (a.rank == 1)
		a = QD_SHAPE(1, a.dim[0]);
	if (b.rank == 1)
		b = QD_SHAPE(b.dim[0], 1);
	if (a.dim[a.rank - 1] != b.dim[b.rank - 2])
		return qd_fail(QD_EINPUT, "matmul of '%s' with %lld columns needs as many rows, '%s' has %lld", va->name,
			(long long)a.dim[a.rank - 1], vb->name, (long long)b.dim[b.rank - 2]);
	batch_a = a;
	batch_b = b;
	batch_a.rank -= 2;
	batch_b.rank -= 2;
	QD_TRY(st, qd_shape_broadcast(&batch_a, &batch_b, out));
	if (va->shape.rank > 1)
		out->dim[out->rank++] = a.dim[a.rank - 2];
	if (vb->shape.rank > 1)
		out->dim[out->rank++] = b.dim[b.rank - 1];
	*dtype = va->dtype;
out:
	return st;
}

enum qd_status qd_rule_gemm(const struct qd_graph *g, struct qd_node *node, struct qd_shape *out, enum qd_dtype *dtype)
{
	const struct qd_value *a = qd_node_in(g, node, 0), *b = qd_node_in(g, node, 1), *c = qd_node_in(g, node, 2);
	int ta = qd_node_int(node, "transA", 0) != 0, tb = qd_node_int(node, "transB", 0) != 0;
	enum qd_status st;

	QD_TRY(st, qd_need_f32(a, "gemm input"));
	QD_TRY(st, qd_need_same_dtype(g, node));
	QD_TRY(st, need_rank(a, "gemm input", 2));
	QD_TRY(st, need_rank(b, "gemm weight", 2));
	if (a->shape.dim[1 - ta] != b->shape.dim[tb])
		return qd_fail(QD_EINPUT, "gemm input has %lld features, weight needs %lld", (long long)a->shape.dim[1 - ta],
			(long long)b->shape.dim[tb]);
	*out = QD_SHAPE(a->shape.dim[ta], b->shape.dim[1 - tb]);
	*dtype = QD_F32;
	if (c != NULL)
		QD_TRY(st, qd_need_broadcast_to(c, "gemm bias", out));
out:
	return st;
}

/* ---- element by element ---- */

enum qd_status qd_rule_arithmetic(const struct qd_graph *g, struct qd_node *node, struct qd_shape *out, enum qd_dtype *dtype)
{
	enum qd_status st;

	QD_TRY(st, qd_need_number(qd_node_in(g, node, 0)));
	QD_TRY(st, qd_need_same_dtype(g, node));
	*dtype = qd_node_in(g, node, 0)->dtype;
	QD_TRY(st, broadcast_inputs(g, node, out));
out:
	return st;
}

enum qd_status qd_rule_pow(const struct qd_graph *g, struct qd_node *node, struct qd_shape *out, enum qd_dtype *dtype)
{
	enum qd_status st;

	QD_TRY(st, qd_need_number(qd_node_in(g, node, 0)));
	QD_TRY(st, qd_need_number(qd_node_in(g, node, 1)));
	*dtype = qd_node_in(g, node, 0)->dtype;
	QD_TRY(st, broadcast_inputs(g, node, out));
out:
	return st;
}

enum qd_status qd_rule_compare(const struct qd_graph *g, struct qd_node *node, struct qd_shape *out, enum qd_dtype *dtype)
{
	enum qd_status st;

	if (node->op != QD_OP_EQUAL || qd_node_in(g, node, 0)->dtype != QD_BOOL)
		QD_TRY(st, qd_need_number(qd_node_in(g, node, 0)));
	QD_TRY(st, qd_need_same_dtype(g, node));
	*dtype = QD_BOOL;
	QD_TRY(st, broadcast_inputs(g, node, out));
out:
	return st;
}

static enum qd_status need_bool(const struct qd_value *v)
{
	if (v->dtype != QD_BOOL)
		return qd_fail(QD_EINPUT, "input '%s' is %s, needs BOOL", v->name, qd_dtype_name(v->dtype));
	return QD_OK;
}

enum qd_status qd_rule_logic(const struct qd_graph *g, struct qd_node *node, struct qd_shape *out, enum qd_dtype *dtype)
{
	enum qd_status st;

	QD_TRY(st, need_bool(qd_node_in(g, node, 0)));
	QD_TRY(st, qd_need_same_dtype(g, node));
	*dtype = QD_BOOL;
	QD_TRY(st, broadcast_inputs(g, node, out));
out:
	return st;
}

enum qd_status qd_rule_where(const struct qd_graph *g, struct qd_node *node, struct qd_shape *out, enum qd_dtype *dtype)
{
	const struct qd_value *yes = qd_node_in(g, node, 1), *no = qd_node_in(g, node, 2);
	enum qd_status st;

	QD_TRY(st, need_bool(qd_node_in(g, node, 0)));
	if (yes->dtype != no->dtype)
		return qd_fail(QD_EINPUT, "input '%s' is %s, needs %s as '%s' is", no->name, qd_dtype_name(no->dtype),
			qd_dtype_name(yes->dtype), yes->name);
	*dtype = yes->dtype;
	QD_TRY(st, broadcast_inputs(g, node, out));
out:
	return st;
}

/* Shape and dtype of input 0. */
enum qd_status qd_same_as_input(const struct qd_graph *g, const struct qd_node *node, struct qd_shape *out, enum qd_dtype *dtype)
{
	*out = qd_node_in(g, node, 0)->shape;
	*dtype = qd_node_in(g, node, 0)->dtype;
	return QD_OK;
}

enum qd_status qd_rule_float_unary(const struct qd_graph *g, struct qd_node *node, struct qd_shape *out, enum qd_dtype *dtype)
{
	enum qd_status st = qd_need_f32(qd_node_in(g, node, 0), "input");
	return st == QD_OK ? qd_same_as_input(g, node, out, dtype) : st;
}

enum qd_status qd_rule_number_unary(const struct qd_graph *g, struct qd_node *node, struct qd_shape *out, enum qd_dtype *dtype)
{
	enum qd_status st = qd_need_number(qd_node_in(g, node, 0));
	return st == QD_OK ? qd_same_as_input(g, node, out, dtype) : st;
}

enum qd_status qd_rule_gelu(const struct qd_graph *g, struct qd_node *node, struct qd_shape *out, enum qd_dtype *dtype)
{
	const char *approximate = qd_node_string(node, "approximate", "none");

	if (strcmp(approximate, "none") != 0 && strcmp(approximate, "tanh") != 0)
		return qd_fail(QD_EINPUT, "approximate is '%s', needs 'none' or 'tanh'", approximate);
	return qd_rule_float_unary(g, node, out, dtype);
}

enum qd_status qd_rule_clip(const struct qd_graph *g, struct qd_node *node, struct qd_shape *out, enum qd_dtype *dtype)
{
	enum qd_status st = QD_OK;

	QD_TRY(st, qd_need_number(qd_node_in(g, node, 0)));
	QD_TRY(st, qd_need_same_dtype(g, node));
	for (size_t i = 1; i < node->n_in; i++) {
		const struct qd_value *bound = qd_node_in(g, node, i);
		if (bound != NULL && qd_shape_elements(&bound->shape) != 1)
			return qd_fail(QD_EINPUT, "bound '%s' has %lld elements, needs 1", bound->name,
				(long long)qd_shape_elements(&bound->shape));
	}
	QD_TRY(st, qd_same_as_input(g, node, out, dtype));
out:
	return st;
}

/* The computed dtype behind an ONNX data type number: every float type is computed in float32. */
static enum qd_status onnx_dtype(int64_t number, enum qd_dtype *dtype)
{
	enum qd_dtype found = number > 0 && number <= INT32_MAX ? qd_dtype_by_onnx((int)number) : QD_DTYPE_COUNT;

	if (found == QD_DTYPE_COUNT || (!qd_dtype_is_float(found) && !qd_dtype_is_integer(found) && found != QD_BOOL))
		return qd_fail(QD_EUNSUPPORTED, "data type %lld is no integer, boolean or float up to 64 bits", (long long)number);
	*dtype = qd_dtype_is_float(found) ? QD_F32 : found;
	return QD_OK;
}

enum qd_status qd_rule_cast(const struct qd_graph *g, struct qd_node *node, struct qd_shape *out, enum qd_dtype *dtype)
{
	*out = qd_node_in(g, node, 0)->shape;
	if (qd_node_attr(node, "to") == NULL)
		return qd_fail(QD_EINPUT, "Cast has no attribute 'to'");
	return onnx_dtype(qd_node_int(node, "to", 0), dtype);
}

/* ---- constants from shapes ---- */

enum qd_status qd_rule_constant_of_shape(const struct qd_graph *g, struct qd_node *node, struct qd_shape *out, enum qd_dtype *dtype)
{
	enum qd_status st;
	size_t n;

	QD_TRY(st, qd_graph_ints(g, node->in[0], QD_MAX_RANK, out->dim, &n));
	out->rank = (int)n;
	QD_TRY(st, onnx_dtype(qd_node_int(node, "dtype", 1), dtype));
out:
	return st;
}

/* max(ceil((limit - start) / delta), 0) numbers. */
static enum qd_status range_count(const struct qd_tensor t[3], int64_t *n)
{
	if (t[0].dtype == QD_F32) {
		double start = *(float *)t[0].data, limit = *(float *)t[1].data, delta = *(float *)t[2].data;
		double count = (limit - start) / delta;
		if (!(delta != 0 && count < 1e15))
			return qd_fail(QD_EINPUT, "range from %g to %g by %g has no end", start, limit, delta);
		*n = count > 0 ? (int64_t)count + ((double)(int64_t)count < count) : 0;
		return QD_OK;
	}
	int64_t start = *(int64_t *)t[0].data, limit = *(int64_t *)t[1].data, delta = *(int64_t *)t[2].data, span;
	if (delta == 0 || delta == INT64_MIN || __builtin_sub_overflow(limit, start, &span))
		return qd_fail(QD_EINPUT, "range from %lld to %lld by %lld has no end", (long long)start, (long long)limit,
			(long long)delta);
	*n = (span > 0) == (delta > 0) ? span / delta + (span % delta != 0) : 0;
	return QD_OK;
}

enum qd_status qd_rule_range(const struct qd_graph *g, struct qd_node *node, struct qd_shape *out, enum qd_dtype *dtype)
{
	struct qd_tensor t[3] = { 0 };
	enum qd_status st;

	QD_TRY(st, qd_need_number(qd_node_in(g, node, 0)));
	QD_TRY(st, qd_need_same_dtype(g, node));
	for (int i = 0; i < 3; i++) {
		QD_TRY(st, qd_graph_constant(g, node->in[i], &t[i]));
		if (qd_shape_elements(&t[i].shape) != 1) {
			st = qd_fail(QD_EINPUT, "value '%s' has %lld elements, needs 1", g->values[node->in[i]].name,
				(long long)qd_shape_elements(&t[i].shape));
			goto out;
		}
	}
	out->rank = 1;
	*dtype = g->values[node->in[0]].dtype;
	QD_TRY(st, range_count(t, &out->dim[0]));
out:
	for (int i = 0; i < 3; i++)
		qd_tensor_release(&t[i]);
	return st;
}

/* ---- codes ---- */

/* The types that hold codes: 8 and 16 bits both ways, and 32 bits (biases) for reading. */
static enum qd_status need_codes(enum qd_dtype dtype, bool wide)
{
	if (dtype == QD_I8 || dtype == QD_U8 || dtype == QD_I16 || dtype == QD_U16 || (wide && dtype == QD_I32))
		return QD_OK;
	return qd_fail(QD_EUNSUPPORTED, "codes are %s, must be I8, U8, I16 or U16%s",
		dtype == QD_DTYPE_COUNT ? "unknown" : qd_dtype_name(dtype), wide ? " or I32" : "");
}

/* Scale and zero point: one element, or one per index of the axis. */
static enum qd_status check_scale(const struct qd_graph *g, const struct qd_node *node)
{
	const struct qd_value *x = qd_node_in(g, node, 0), *scale = qd_node_in(g, node, 1), *zero = qd_node_in(g, node, 2);
	enum qd_status st;
	int axis;

	QD_TRY(st, qd_need_f32(scale, "scale"));
	if (qd_node_int(node, "block_size", 0) != 0)
		return qd_fail(QD_EUNSUPPORTED, "block_size is %lld, must be 0", (long long)qd_node_int(node, "block_size", 0));
	if (zero != NULL && !qd_shape_equal(&zero->shape, &scale->shape))
		return qd_fail(QD_EINPUT, "zero point '%s' does not have the shape of scale '%s'", zero->name, scale->name);
	if (scale->shape.rank <= 1 && qd_shape_elements(&scale->shape) == 1)
		return QD_OK;
	QD_TRY(st, qd_axis(qd_node_int(node, "axis", 1), x->shape.rank, &axis));
	QD_TRY(st, qd_need_vector(scale, "scale", x->shape.dim[axis]));
out:
	return st;
}

enum qd_status qd_rule_quantize(const struct qd_graph *g, struct qd_node *node, struct qd_shape *out, enum qd_dtype *dtype)
{
	const struct qd_value *zero = qd_node_in(g, node, 2);
	int64_t asked = qd_node_int(node, "output_dtype", 0);
	enum qd_dtype named = asked > 0 && asked <= INT32_MAX ? qd_dtype_by_onnx((int)asked) : QD_U8;
	enum qd_status st;

	QD_TRY(st, qd_need_f32(qd_node_in(g, node, 0), "input"));
	QD_TRY(st, check_scale(g, node));
	if (zero != NULL && asked != 0 && zero->dtype != named)
		return qd_fail(QD_EINPUT, "zero point '%s' is %s, output_dtype says %lld", zero->name, qd_dtype_name(zero->dtype),
			(long long)asked);
	*out = qd_node_in(g, node, 0)->shape;
	*dtype = zero != NULL ? zero->dtype : named;
	QD_TRY(st, need_codes(*dtype, false));
out:
	return st;
}

enum qd_status qd_rule_dequantize(const struct qd_graph *g, struct qd_node *node, struct qd_shape *out, enum qd_dtype *dtype)
{
	const struct qd_value *x = qd_node_in(g, node, 0), *zero = qd_node_in(g, node, 2);
	enum qd_status st;

	QD_TRY(st, need_codes(x->dtype, true));
	QD_TRY(st, check_scale(g, node));
	if (zero != NULL && zero->dtype != x->dtype)
		return qd_fail(QD_EINPUT, "zero point '%s' is %s, needs %s as '%s' is", zero->name, qd_dtype_name(zero->dtype),
			qd_dtype_name(x->dtype), x->name);
	*out = x->shape;
	*dtype = QD_F32;
out:
	return st;
}
