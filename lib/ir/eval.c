/*
 * The reference evaluator: plain loops over small tensors, one case per operator (the cases are in eval_elementwise.c, eval_move.c
 * and eval_math.c). It answers "what does this operator compute" for constant folding, for shapes that depend on constants, and for
 * tests.
 *
 * Two carriers: F32 for floats, I64 for all integers and booleans; integer results are wrapped to the value's own width afterwards.
 */
#include "lib/ir/internal.h"

#include <stdlib.h>
#include <string.h>

/* ---- one node ---- */

static enum qd_dtype carrier(enum qd_dtype dtype)
{
	return qd_dtype_is_float(dtype) ? QD_F32 : QD_I64;
}

static int64_t wrap(int64_t value, enum qd_dtype dtype)
{
	switch (dtype) {
	case QD_I8:
		return (int8_t)value;
	case QD_U8:
		return (uint8_t)value;
	case QD_I16:
		return (int16_t)value;
	case QD_U16:
		return (uint16_t)value;
	case QD_I32:
		return (int32_t)value;
	case QD_U32:
		return (uint32_t)value;
	default:
		return value;
	}
}

static enum qd_status check_inputs(const struct qd_graph *g, const struct qd_node *node, const struct qd_tensor *const *in)
{
	char found[QD_SHAPE_TEXT], needed[QD_SHAPE_TEXT];

	for (size_t i = 0; i < node->n_in; i++) {
		const struct qd_value *v = qd_node_in(g, node, i);
		if ((v == NULL) != (in[i] == NULL))
			return qd_fail(
				QD_EINPUT, "input %zu is %s", i, v == NULL ? "given, must be absent" : "absent, must be given");
		if (v == NULL)
			continue;
		if (in[i]->dtype != carrier(v->dtype))
			return qd_fail(QD_EINPUT, "input '%s' comes as %s, needs %s", v->name, qd_dtype_name(in[i]->dtype),
				qd_dtype_name(carrier(v->dtype)));
		if (!qd_shape_equal(&in[i]->shape, &v->shape))
			return qd_fail(QD_EINPUT, "input '%s' comes as %s, needs %s", v->name, qd_shape_text(&in[i]->shape, found),
				qd_shape_text(&v->shape, needed));
	}
	return QD_OK;
}

static enum qd_status new_outputs(const struct qd_graph *g, const struct qd_node *node, struct qd_tensor *out)
{
	enum qd_status st = QD_OK;

	for (size_t i = 0; i < node->n_out; i++) {
		const struct qd_value *v = &g->values[node->out[i]];
		QD_TRY(st, qd_tensor_new(&out[i], v->name, carrier(v->dtype), &v->shape));
	}
out:
	return st;
}

/* No default: an operator without a case does not compile. */
static enum qd_status dispatch(const struct qd_eval *e)
{
	switch (e->node->op) {
	case QD_OP_CONV:
		return qd_eval_conv(e);
	case QD_OP_MATMUL:
		return qd_eval_matmul(e);
	case QD_OP_GEMM:
		return qd_eval_gemm(e);
	case QD_OP_ADD:
	case QD_OP_SUB:
	case QD_OP_MUL:
	case QD_OP_DIV:
	case QD_OP_POW:
	case QD_OP_MIN:
	case QD_OP_MAX:
	case QD_OP_EQUAL:
	case QD_OP_GREATER:
	case QD_OP_LESS:
	case QD_OP_AND:
	case QD_OP_OR:
		return qd_eval_binary(e);
	case QD_OP_WHERE:
		return qd_eval_where(e);
	case QD_OP_CLIP:
		return qd_eval_clip(e);
	case QD_OP_CAST:
		return qd_eval_cast(e);
	case QD_OP_NOT:
	case QD_OP_SIGMOID:
	case QD_OP_TANH:
	case QD_OP_RELU:
	case QD_OP_GELU:
	case QD_OP_ERF:
	case QD_OP_EXP:
	case QD_OP_LOG:
	case QD_OP_SQRT:
	case QD_OP_NEG:
	case QD_OP_ABS:
	case QD_OP_SIN:
	case QD_OP_COS:
	case QD_OP_SOFTPLUS:
	case QD_OP_MISH:
	case QD_OP_RECIPROCAL:
	case QD_OP_FLOOR:
	case QD_OP_ROUND:
		return qd_eval_unary(e);
	case QD_OP_SOFTMAX:
		return qd_eval_softmax(e);
	case QD_OP_GROUP_NORM:
	case QD_OP_INSTANCE_NORM:
		return qd_eval_group_norm(e);
	case QD_OP_LAYER_NORM:
		return qd_eval_layer_norm(e);
	case QD_OP_REDUCE_MEAN:
	case QD_OP_REDUCE_SUM:
		return qd_eval_reduce(e);
	case QD_OP_ARG_MAX:
		return qd_eval_arg_max(e);
	case QD_OP_RESHAPE:
	case QD_OP_UNSQUEEZE:
	case QD_OP_SQUEEZE:
	case QD_OP_FLATTEN:
	case QD_OP_IDENTITY:
		return qd_eval_copy(e);
	case QD_OP_TRANSPOSE:
		return qd_eval_transpose(e);
	case QD_OP_SLICE:
		return qd_eval_slice(e);
	case QD_OP_SPLIT:
		return qd_eval_split(e);
	case QD_OP_GATHER:
		return qd_eval_gather(e);
	case QD_OP_EXPAND:
		return qd_eval_expand(e);
	case QD_OP_TILE:
		return qd_eval_tile(e);
	case QD_OP_DEPTH_TO_SPACE:
	case QD_OP_SPACE_TO_DEPTH:
		return qd_eval_depth(e);
	case QD_OP_RESIZE:
		return qd_eval_resize(e);
	case QD_OP_CONCAT:
		return qd_eval_concat(e);
	case QD_OP_PAD:
		return qd_eval_pad(e);
	case QD_OP_TRILU:
		return qd_eval_trilu(e);
	case QD_OP_SHAPE:
		return qd_eval_shape(e);
	case QD_OP_CONSTANT_OF_SHAPE:
		return qd_eval_constant_of_shape(e);
	case QD_OP_RANGE:
		return qd_eval_range(e);
	case QD_OP_QUANTIZE:
		return qd_eval_quantize(e);
	case QD_OP_DEQUANTIZE:
		return qd_eval_dequantize(e);
	case QD_OP_COUNT:
		break;
	}
	return qd_fail(QD_EINPUT, "operator %u does not exist", (unsigned)e->node->op);
}

static void wrap_outputs(const struct qd_eval *e)
{
	for (size_t i = 0; i < e->node->n_out; i++) {
		enum qd_dtype dtype = e->g->values[e->node->out[i]].dtype;
		int64_t *data = e->out[i].data;
		for (size_t k = 0; e->out[i].dtype == QD_I64 && k < e->out[i].bytes / sizeof(*data); k++)
			data[k] = wrap(data[k], dtype);
	}
}

enum qd_status qd_eval_node(
	const struct qd_graph *g, const struct qd_node *node, const struct qd_tensor *const *in, struct qd_tensor *out)
{
	struct qd_eval e = { g, node, in, out };
	enum qd_status st;

	memset(out, 0, node->n_out * sizeof(*out));
	QD_TRY(st, check_inputs(g, node, in));
	QD_TRY(st, new_outputs(g, node, out));
	QD_TRY(st, dispatch(&e));
	wrap_outputs(&e);
out:
	for (size_t i = 0; st != QD_OK && i < node->n_out; i++)
		qd_tensor_release(&out[i]);
	return qd_prefix(st, "node '%s'", node->name);
}

/* ---- constants behind a value ---- */

/* Element i of integer or boolean bytes, which may be unaligned. */
static int64_t load_integer(const struct qd_tensor *t, size_t i)
{
	size_t width = qd_dtype_bits(t->dtype) / 8;
	bool is_signed = t->dtype == QD_I8 || t->dtype == QD_I16 || t->dtype == QD_I32 || t->dtype == QD_I64;
	uint64_t bits = 0;

	for (size_t k = width; k-- > 0;)
		bits = bits << 8 | ((const unsigned char *)t->data)[i * width + k];
	if (is_signed && width < 8 && bits >> (8 * width - 1))
		bits |= UINT64_MAX << (8 * width);
	return (int64_t)bits;
}

static enum qd_status load_weight(const struct qd_value *v, struct qd_tensor *out)
{
	enum qd_status st;

	if (!qd_dtype_is_float(v->dtype) && !qd_dtype_is_integer(v->dtype) && v->dtype != QD_BOOL)
		return qd_fail(QD_EUNSUPPORTED, "value '%s' is %s, which constants cannot be", v->name, qd_dtype_name(v->dtype));
	QD_TRY(st, qd_tensor_new(out, v->name, carrier(v->dtype), &v->shape));
	if (out->dtype == QD_F32)
		QD_TRY(st, qd_tensor_to_f32(&v->data, out->data));
	for (size_t i = 0; out->dtype == QD_I64 && i < out->bytes / sizeof(int64_t); i++)
		((int64_t *)out->data)[i] = load_integer(&v->data, i);
out:
	if (st != QD_OK)
		qd_tensor_release(out);
	return st;
}

static enum qd_status find_constant(const struct qd_graph *g, qd_id id, unsigned *budget, struct qd_tensor *out);

/* The constant inputs of a node; of Shape's only the shape is needed. */
static enum qd_status find_inputs(const struct qd_graph *g, const struct qd_node *node, unsigned *budget, struct qd_tensor *tensors)
{
	enum qd_status st = QD_OK;

	for (size_t i = 0; i < node->n_in; i++) {
		const struct qd_value *v = qd_node_in(g, node, i);
		if (v != NULL && node->op == QD_OP_SHAPE)
			tensors[i] = (struct qd_tensor){ .dtype = carrier(v->dtype), .shape = v->shape };
		else if (v != NULL)
			QD_TRY(st, find_constant(g, node->in[i], budget, &tensors[i]));
	}
out:
	return st;
}

/* Output `index` of a foldable node whose inputs are constants. */
static enum qd_status compute_constant(
	const struct qd_graph *g, const struct qd_node *node, uint32_t index, unsigned *budget, struct qd_tensor *out)
{
	struct qd_tensor *tensors = calloc(node->n_in + node->n_out + 1, sizeof(*tensors));
	const struct qd_tensor **in = calloc(node->n_in + 1, sizeof(*in));
	struct qd_tensor *results = tensors + node->n_in;
	enum qd_status st;

	if (tensors == NULL || in == NULL) {
		st = qd_fail(QD_ENOMEM, "out of memory");
		goto out;
	}
	QD_TRY(st, find_inputs(g, node, budget, tensors));
	for (size_t i = 0; i < node->n_in; i++)
		in[i] = node->in[i] != QD_NONE ? &tensors[i] : NULL;
	QD_TRY(st, qd_eval_node(g, node, in, results));
	*out = results[index];
	results[index] = (struct qd_tensor){ 0 };
out:
	for (size_t i = 0; tensors != NULL && i < node->n_in + node->n_out; i++)
		qd_tensor_release(&tensors[i]);
	free(tensors);
	free(in);
	return st;
}

static enum qd_status find_constant(const struct qd_graph *g, qd_id id, unsigned *budget, struct qd_tensor *out)
{
	const struct qd_value *v = &g->values[id];
	bool computed = v->kind == QD_RESULT && v->producer < g->n_nodes && qd_op(g->nodes[v->producer].op)->flags & QD_OPF_FOLD;

	if (v->kind != QD_WEIGHT && !computed)
		return qd_fail(QD_EINPUT, "value '%s' is not a constant", v->name);
	if (qd_shape_elements(&v->shape) > QD_CONSTANT_ELEMENTS)
		return qd_fail(QD_EINPUT, "value '%s' has %lld elements, a constant operand may have %d", v->name,
			(long long)qd_shape_elements(&v->shape), QD_CONSTANT_ELEMENTS);
	if (v->kind == QD_WEIGHT)
		return load_weight(v, out);
	if (*budget == 0)
		return qd_fail(QD_EUNSUPPORTED, "value '%s' takes too many nodes to compute", v->name);
	--*budget;
	return compute_constant(g, &g->nodes[v->producer], v->output_index, budget, out);
}

enum qd_status qd_graph_constant(const struct qd_graph *g, qd_id value, struct qd_tensor *out)
{
	unsigned budget = 4096;

	*out = (struct qd_tensor){ 0 };
	if (value >= g->n_values)
		return qd_fail(QD_EINPUT, "a constant operand is absent");
	return find_constant(g, value, &budget, out);
}
