/*
 * Pass forms: one spelling for what can be spelled in several ways.
 *
 *   Unsqueeze, Squeeze, Flatten                      Reshape to the shape they give
 *   Reshape {allowzero}, to [0,-1]                   Reshape to the shape it gives
 *   Split                                            one Slice per part
 *   Slice of one axis, from the end, to INT64_MAX    Slice(x, starts, ends, axes) counted from the begin
 *   Resize with scales                               Resize with sizes
 *   Concat along an axis counted from the end        counted from the begin
 *   attributes that say what holds without them      left out
 *
 * Parameters that are made of inputs other than constants stay as they are; Slices with a step other than 1 or of several axes,
 * too.
 */
#include "lib/ir/rewrite.h"

#include <string.h>

/* ---- shapes ---- */

static bool is_plain_reshape(struct qd_graph *g, const struct qd_node *node)
{
	const struct qd_shape *shape = &g->values[node->out[0]].shape;
	int64_t dims[QD_MAX_RANK];
	size_t n;
	if (node->n_attrs > 0 || !qd_is_answer(g, qd_graph_ints(g, node->in[1], QD_MAX_RANK, dims, &n)))
		return false;
	return (int)n == shape->rank && memcmp(dims, shape->dim, n * sizeof(*dims)) == 0;
}

static bool has_zero(const struct qd_shape *shape)
{
	return qd_shape_elements(shape) == 0;
}

/* An empty tensor's zeros would be copied dimensions. */
static size_t reshape(struct qd_graph *g, qd_id id)
{
	const struct qd_node *node = &g->nodes[id];
	if (has_zero(&g->values[node->out[0]].shape) || (node->op == QD_OP_RESHAPE && is_plain_reshape(g, node)))
		return 0;
	qd_graph_change_to_reshape(g, id, node->in[0]);
	return 1;
}

/* ---- slices ---- */

/* Slice(x, starts, ends, axes) of one axis: inputs 1 to 3 are made here. */
static void slice_inputs(struct qd_graph *g, qd_id in[4], int64_t axis, int64_t begin, int64_t end)
{
	in[1] = qd_graph_const_i64(g, NULL, 1, &begin);
	in[2] = qd_graph_const_i64(g, NULL, 1, &end);
	in[3] = qd_graph_const_i64(g, NULL, 1, &axis);
}

static size_t split(struct qd_graph *g, qd_id id)
{
	struct qd_node node = g->nodes[id];
	int rank = g->values[node.in[0]].shape.rank;
	int64_t axis = qd_node_int(&node, "axis", 0), begin = 0;
	axis += axis < 0 ? rank : 0;
	for (size_t i = 0; i < node.n_out; i++)
		if (qd_graph_is_output(g, node.out[i]))
			return 0;
	for (size_t i = 0; i < node.n_out; i++) {
		qd_id in[4] = { node.in[0] };
		int64_t end = begin + g->values[node.out[i]].shape.dim[axis];
		slice_inputs(g, in, axis, begin, end);
		qd_id part = qd_graph_beside(g, id, "part", QD_OP_SLICE, 4, in, 0, NULL);
		if (part != QD_NONE)
			qd_graph_replace(g, node.out[i], part, QD_NONE);
		begin = end;
	}
	return 1;
}

static bool is_plain_slice(struct qd_graph *g, const struct qd_node *node, int axis, int64_t begin, int64_t end)
{
	int64_t numbers[3];
	for (size_t i = 0; i < 3; i++) {
		size_t n;
		if (node->n_in != 4 || !qd_is_answer(g, qd_graph_ints(g, node->in[i + 1], 1, &numbers[i], &n)) || n != 1)
			return false;
	}
	return numbers[0] == begin && numbers[1] == end && numbers[2] == axis;
}

static size_t slice(struct qd_graph *g, qd_id id)
{
	const struct qd_node *node = &g->nodes[id];
	const struct qd_shape *shape = &g->values[node->in[0]].shape;
	struct qd_slice_axis axes[QD_MAX_RANK];
	qd_id in[4] = { node->in[0] };
	int axis = -1;
	if (!qd_is_answer(g, qd_slice_axes(g, node, axes)))
		return 0;
	for (int i = 0; i < shape->rank; i++) {
		if (axes[i].step != 1 || (axis >= 0 && axes[i].count != shape->dim[i]))
			return 0;
		axis = axis < 0 && axes[i].count != shape->dim[i] ? i : axis;
	}
	if (axis < 0 || is_plain_slice(g, node, axis, axes[axis].begin, axes[axis].begin + axes[axis].count))
		return 0;
	slice_inputs(g, in, axis, axes[axis].begin, axes[axis].begin + axes[axis].count);
	qd_graph_change(g, id, QD_OP_SLICE, 4, in, 0, NULL);
	return 1;
}

/* ---- resizing ---- */

static size_t resize(struct qd_graph *g, qd_id id)
{
	const struct qd_node node = g->nodes[id];
	const struct qd_shape shape = g->values[node.out[0]].shape;
	if (node.n_in == 4 && node.in[1] == QD_NONE && node.in[2] == QD_NONE)
		return 0;
	qd_id sizes = qd_graph_const_i64(g, NULL, (size_t)shape.rank, shape.dim);
	qd_graph_change(g, id, QD_OP_RESIZE, 4, (qd_id[]){ node.in[0], QD_NONE, QD_NONE, sizes }, node.n_attrs, node.attrs);
	return 1;
}

/* ---- attributes ---- */

static bool all(const struct qd_attr *attr, int64_t value)
{
	for (size_t i = 0; i < attr->n_ints; i++)
		if (attr->ints[i] != value)
			return false;
	return true;
}

/* True when the node means the same without it. */
static bool is_default(const struct qd_node *node, const struct qd_attr *attr)
{
	static const struct {
		enum qd_op op;
		const char *name;
		int64_t value;
	} numbers[] = { { QD_OP_CONV, "group", 1 }, { QD_OP_GEMM, "transA", 0 }, { QD_OP_GEMM, "transB", 0 },
		{ QD_OP_CAST, "saturate", 1 }, { QD_OP_LAYER_NORM, "stash_type", 1 }, { QD_OP_GROUP_NORM, "stash_type", 1 },
		{ QD_OP_REDUCE_MEAN, "keepdims", 1 }, { QD_OP_REDUCE_MEAN, "noop_with_empty_axes", 0 } };
	for (size_t i = 0; i < QD_COUNT(numbers); i++)
		if (node->op == numbers[i].op && !strcmp(attr->name, numbers[i].name))
			return attr->i == numbers[i].value;
	if (node->op == QD_OP_CONV)
		return !strcmp(attr->name, "kernel_shape") || (!strcmp(attr->name, "auto_pad") && !strcmp(attr->s, "NOTSET")) ||
		       (!strcmp(attr->name, "dilations") && all(attr, 1));
	if (node->op == QD_OP_GEMM)
		return (!strcmp(attr->name, "alpha") || !strcmp(attr->name, "beta")) && attr->f == 1.0F;
	return node->op == QD_OP_GELU && !strcmp(attr->name, "approximate") && !strcmp(attr->s, "none");
}

static size_t attributes(struct qd_graph *g, qd_id id)
{
	struct qd_node *node = &g->nodes[id];
	size_t kept = 0, before = node->n_attrs;
	for (size_t i = 0; i < before; i++)
		if (!is_default(node, &node->attrs[i]))
			node->attrs[kept++] = node->attrs[i];
	node->n_attrs = kept;
	return kept < before;
}

/* The axis of a Concat, counted from the begin. */
static size_t concat(struct qd_graph *g, qd_id id)
{
	struct qd_node *node = &g->nodes[id];
	bool last = node->n_attrs == 1 && node->attrs[0].i < 0;
	if (last)
		node->attrs[0].i += g->values[node->out[0]].shape.rank;
	return last;
}

static enum qd_status forms_visit(struct qd_graph *g, qd_id id, void *context, size_t *changes)
{
	(void)context;
	switch (g->nodes[id].op) {
	case QD_OP_UNSQUEEZE:
	case QD_OP_SQUEEZE:
	case QD_OP_FLATTEN:
	case QD_OP_RESHAPE:
		*changes += reshape(g, id);
		break;
	case QD_OP_SPLIT:
		*changes += split(g, id);
		break;
	case QD_OP_SLICE:
		*changes += slice(g, id);
		break;
	case QD_OP_RESIZE:
		*changes += resize(g, id);
		break;
	case QD_OP_CONCAT:
		*changes += concat(g, id);
		break;
	default:
		*changes += attributes(g, id);
	}
	return QD_OK;
}

static enum qd_status forms_run(struct qd_graph *g, void *context, size_t *changes)
{
	return qd_graph_visit(g, forms_visit, context, changes);
}

const struct qd_pass qd_pass_forms = { "forms", "spell what has several spellings in one way", forms_run };
