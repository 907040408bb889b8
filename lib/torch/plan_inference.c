/*
 * Finding what lib/kernel computes as one step where no gradient is wanted:
 *
 *   Conv or Gemm, [Add(., r)] of the same shape                      -> product with packed weights, r added to its sums
 *   Mul(Slice(h, first half of columns), Gelu(Slice(h, second)))     -> the gate of a feed-forward in one pass
 *   [Add(x, t) with t one number per channel], GroupNormalization, [Sigmoid, Mul]   -> one normalization over channels-last pixels
 *   LayerNormalization over the last axis;  Concat of images along channels         -> the kernels of that name
 *
 * Gemm means transB 1 and nothing else, Conv two dimensions and one group. A step gives the bits that its nodes would one by one,
 * so that a graph with LoRA branches of gain 0, where other nodes are neighbours, equals the one without them.
 */
#include "lib/torch/plan.h"

#include <string.h>

static const struct qd_shape *shape_of(const struct qd_planner *p, qd_id value)
{
	return &p->g->values[value].shape;
}

static bool is_float(const struct qd_planner *p, qd_id value)
{
	return p->g->values[value].dtype == QD_F32 && qd_shape_elements(shape_of(p, value)) > 0;
}

static qd_id optional(const struct qd_node *node, size_t i)
{
	return i < node->n_in ? node->in[i] : QD_NONE;
}

static void set_inputs(
	struct qd_step *step, enum qd_step_kind kind, const struct qd_planner *p, const struct qd_node *inner, qd_id last)
{
	step->kind = kind;
	step->inner = (qd_id)(inner - p->g->nodes);
	step->n_in = QD_STEP_INPUTS;
	step->own_in[0] = inner->in[0];
	step->own_in[1] = optional(inner, 1);
	step->own_in[2] = optional(inner, 2);
	step->own_in[3] = last;
}

/* ---- products ---- */

static bool plain_gemm(const struct qd_planner *p, const struct qd_node *node)
{
	qd_id bias = optional(node, 2);

	return !qd_node_int(node, "transA", 0) && qd_node_int(node, "transB", 0) && qd_node_float(node, "alpha", 1) == 1 &&
	       qd_node_float(node, "beta", 1) == 1 && (bias == QD_NONE || shape_of(p, bias)->rank == 1) &&
	       (bias == QD_NONE || shape_of(p, bias)->dim[0] == shape_of(p, node->in[1])->dim[0]);
}

static bool plain_conv(const struct qd_planner *p, const struct qd_node *node)
{
	const struct qd_attr *pads = qd_node_attr(node, "pads");

	for (size_t i = 0; pads != NULL && i < pads->n_ints; i++)
		if (pads->ints[i] < 0)
			return false;
	return shape_of(p, node->in[0])->rank == 4 && qd_node_int(node, "group", 1) == 1 &&
	       strcmp(qd_node_string(node, "auto_pad", "NOTSET"), "NOTSET") == 0;
}

static bool is_product(const struct qd_planner *p, const struct qd_node *node)
{
	if (node->op != QD_OP_GEMM && node->op != QD_OP_CONV)
		return false;
	return is_float(p, node->in[0]) && is_float(p, node->in[1]) && is_float(p, node->out[0]) &&
	       (node->op == QD_OP_GEMM ? plain_gemm(p, node) : plain_conv(p, node));
}

static const struct qd_node *hidden_product(const struct qd_planner *p, qd_id value)
{
	const struct qd_node *node = qd_plan_hidden(p, value, QD_OP_GEMM, 1);

	if (node == NULL)
		node = qd_plan_hidden(p, value, QD_OP_CONV, 1);
	return node != NULL && is_product(p, node) ? node : NULL;
}

/* Of two products the later one takes the sum: the earlier one's result waits less long. */
static bool match_sum(struct qd_planner *p, const struct qd_node *add, struct qd_step *step)
{
	const struct qd_shape *shape = shape_of(p, add->out[0]);

	for (size_t i = 2; i-- > 0;) {
		const struct qd_node *product = hidden_product(p, add->in[i]);
		if (product == NULL || !qd_shape_equal(shape_of(p, add->in[0]), shape) ||
			!qd_shape_equal(shape_of(p, add->in[1]), shape))
			continue;
		qd_plan_swallow(p, product);
		set_inputs(step, QD_STEP_PRODUCT, p, product, add->in[1 - i]);
		return true;
	}
	return false;
}

/* ---- gates ---- */

/* Whether `node` is columns [begin, begin + count) of two-dimensional data, all rows. */
static bool is_columns(const struct qd_planner *p, const struct qd_node *node, int64_t begin, int64_t count)
{
	struct qd_slice_axis axes[QD_MAX_RANK];
	const struct qd_shape *shape = shape_of(p, node->in[0]);

	return shape->rank == 2 && qd_slice_axes(p->g, node, axes) == QD_OK && axes[0].begin == 0 && axes[0].step == 1 &&
	       axes[0].count == shape->dim[0] && axes[1].begin == begin && axes[1].step == 1 && axes[1].count == count;
}

static bool match_gate(struct qd_planner *p, const struct qd_node *mul, struct qd_step *step)
{
	const struct qd_node *gelu = NULL, *value = NULL, *gate;

	for (size_t i = 0; i < 2 && !(gelu != NULL && value != NULL); i++) {
		gelu = qd_plan_hidden(p, mul->in[i], QD_OP_GELU, 1);
		value = qd_plan_hidden(p, mul->in[1 - i], QD_OP_SLICE, 1);
	}
	gate = gelu != NULL && value != NULL ? qd_plan_hidden(p, gelu->in[0], QD_OP_SLICE, 1) : NULL;
	if (gate == NULL || gate->in[0] != value->in[0] || !is_float(p, value->in[0]) ||
		strcmp(qd_node_string(gelu, "approximate", "none"), "none") != 0)
		return false;
	int64_t width = shape_of(p, value->in[0])->dim[1] / 2;
	if (shape_of(p, value->in[0])->dim[1] != 2 * width || !is_columns(p, value, 0, width) || !is_columns(p, gate, width, width))
		return false;
	qd_plan_swallow(p, gelu);
	qd_plan_swallow(p, value);
	qd_plan_swallow(p, gate);
	step->kind = QD_STEP_GATED_GELU;
	step->own_in[0] = value->in[0];
	step->n_in = 1;
	return true;
}

/* ---- normalization ---- */

/* The Add of one number per channel, [1 or N, C, 1, 1], before a normalization of images; x and that addend. */
static const struct qd_node *channel_shift(const struct qd_planner *p, const struct qd_node *norm, qd_id *x, qd_id *shift)
{
	const struct qd_node *add = qd_plan_hidden(p, norm->in[0], QD_OP_ADD, 1);

	for (size_t i = 0; add != NULL && i < 2; i++) {
		const struct qd_shape *a = shape_of(p, add->in[i]), *t = shape_of(p, add->in[1 - i]);
		*x = add->in[i];
		*shift = add->in[1 - i];
		if (a->rank == 4 && t->rank == 4 && qd_shape_equal(a, shape_of(p, add->out[0])) && t->dim[1] == a->dim[1] &&
			t->dim[2] == 1 && t->dim[3] == 1 && (a->dim[2] > 1 || a->dim[3] > 1))
			return add;
	}
	return NULL;
}

static bool match_group_norm(struct qd_planner *p, const struct qd_node *norm, struct qd_step *step)
{
	qd_id x, shift;

	if (shape_of(p, norm->in[0])->rank != 4 || !is_float(p, norm->in[0]))
		return false;
	set_inputs(step, QD_STEP_GROUP_NORM, p, norm, QD_NONE);
	const struct qd_node *add = channel_shift(p, norm, &x, &shift);
	if (add == NULL)
		return true;
	qd_plan_swallow(p, add);
	step->own_in[0] = x;
	step->own_in[3] = shift;
	return true;
}

/* x * sigmoid(x) of a normalization that nobody else sees. */
static bool match_activated_norm(struct qd_planner *p, const struct qd_node *mul, struct qd_step *step)
{
	qd_id x;
	const struct qd_node *sigmoid = qd_plan_silu(p, mul, &x), *norm = NULL;

	if (sigmoid != NULL)
		norm = qd_plan_hidden(p, x, QD_OP_GROUP_NORM, 2);
	if (norm == NULL || !match_group_norm(p, norm, step))
		return false;
	qd_plan_swallow(p, sigmoid);
	qd_plan_swallow(p, norm);
	step->silu = true;
	return true;
}

static bool match_layer_norm(struct qd_planner *p, const struct qd_node *norm, struct qd_step *step)
{
	const struct qd_shape *shape = shape_of(p, norm->in[0]);
	int64_t axis = qd_node_int(norm, "axis", -1), channels = shape->rank ? shape->dim[shape->rank - 1] : 0;
	qd_id bias = optional(norm, 2);

	if ((axis != -1 && axis != shape->rank - 1) || !is_float(p, norm->in[0]) || norm->n_out != 1 ||
		qd_shape_elements(shape_of(p, norm->in[1])) != channels ||
		(bias != QD_NONE && qd_shape_elements(shape_of(p, bias)) != channels))
		return false;
	set_inputs(step, QD_STEP_LAYER_NORM, p, norm, QD_NONE);
	return true;
}

static bool match_concat(const struct qd_planner *p, const struct qd_node *node, struct qd_step *step)
{
	int64_t axis = qd_node_int(node, "axis", 0);

	if (shape_of(p, node->out[0])->rank != 4 || (axis != 1 && axis != -3) || node->n_in < 2)
		return false;
	for (size_t i = 0; i < node->n_in; i++)
		if (!is_float(p, node->in[i]))
			return false;
	step->kind = QD_STEP_CONCAT;
	return true;
}

bool qd_plan_match_inference(struct qd_planner *p, const struct qd_node *node, struct qd_step *step)
{
	switch (node->op) {
	case QD_OP_ADD:
		return match_sum(p, node, step);
	case QD_OP_CONV:
	case QD_OP_GEMM:
		if (!is_product(p, node))
			return false;
		set_inputs(step, QD_STEP_PRODUCT, p, node, QD_NONE);
		return true;
	case QD_OP_MUL:
		return match_gate(p, node, step) || match_activated_norm(p, node, step);
	case QD_OP_GROUP_NORM:
		return match_group_norm(p, node, step);
	case QD_OP_LAYER_NORM:
		return match_layer_norm(p, node, step);
	case QD_OP_CONCAT:
		return match_concat(p, node, step);
	default:
		return false;
	}
}
