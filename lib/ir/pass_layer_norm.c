/*
 * Pass layer_norm: a layer normalization that was spelled out, as before operator set 17.
 *
 *   before  %d = Sub(%x, ReduceMean(%x))   %v = ReduceMean(Pow(%d, 2))   %q = Div(%d, Sqrt(Add(%v, eps)))
 *           %m = Mul(%q, %gamma)   %y = Add(%m, %beta)                           both means over the last axis, kept
 *   after   %y = LayerNormalization(%x, %gamma, %beta) {axis=-1, epsilon=eps}
 *
 * The square may be Mul(%d, %d), operands of Add and Mul may stand either way. Conditions: gamma and beta are constants [D], D the
 * last dimension of x.
 */
#include "lib/ir/rewrite.h"

/* The operand of a mean over the last axis, or QD_NONE. */
static qd_id mean_of(struct qd_graph *g, qd_id value)
{
	const struct qd_node *mean = qd_made_by(g, value, QD_OP_REDUCE_MEAN);
	unsigned axes;
	if (mean == NULL || qd_node_int(mean, "keepdims", 1) != 1 || !qd_is_answer(g, qd_reduced_axes(g, mean, &axes)))
		return QD_NONE;
	int rank = g->values[mean->in[0]].shape.rank;
	return rank > 0 && axes == 1U << (rank - 1) ? mean->in[0] : QD_NONE;
}

/* The operand of a square, or QD_NONE. */
static qd_id square_of(const struct qd_graph *g, qd_id value)
{
	const struct qd_node *pow = qd_made_by(g, value, QD_OP_POW), *mul = qd_made_by(g, value, QD_OP_MUL);
	if (pow != NULL && qd_is_number(g, pow->in[1], 2))
		return pow->in[0];
	return mul != NULL && mul->in[0] == mul->in[1] ? mul->in[0] : QD_NONE;
}

/* x of d / sqrt(mean(d^2) + eps) with d = x - mean(x), or QD_NONE. */
static qd_id normalized_of(struct qd_graph *g, qd_id value, double *epsilon)
{
	const struct qd_node *div = qd_made_by(g, value, QD_OP_DIV);
	const struct qd_node *centered = div != NULL ? qd_made_by(g, div->in[0], QD_OP_SUB) : NULL;
	const struct qd_node *root = div != NULL ? qd_made_by(g, div->in[1], QD_OP_SQRT) : NULL;
	const struct qd_node *sum = root != NULL ? qd_made_by(g, root->in[0], QD_OP_ADD) : NULL;
	qd_id variance = sum != NULL ? qd_times_number(g, sum, epsilon) : QD_NONE;
	if (centered == NULL || variance == QD_NONE || square_of(g, mean_of(g, variance)) != div->in[0])
		return QD_NONE;
	return mean_of(g, centered->in[1]) == centered->in[0] ? centered->in[0] : QD_NONE;
}

/* The constant operand [D] of `node`, the other goes to `rest`. */
static qd_id vector_operand(const struct qd_graph *g, const struct qd_node *node, qd_id *rest)
{
	const struct qd_shape *out = &g->values[node->out[0]].shape;
	for (int i = 0; i < 2; i++) {
		const struct qd_value *v = &g->values[node->in[i]];
		*rest = node->in[1 - i];
		if (v->kind == QD_WEIGHT && v->shape.rank == 1 && out->rank > 0 && v->shape.dim[0] == out->dim[out->rank - 1])
			return node->in[i];
	}
	return QD_NONE;
}

static enum qd_status layer_norm_visit(struct qd_graph *g, qd_id id, void *context, size_t *changes)
{
	const struct qd_node *node = &g->nodes[id];
	qd_id product, quotient;
	double epsilon;
	(void)context;
	qd_id beta = node->op == QD_OP_ADD ? vector_operand(g, node, &product) : QD_NONE;
	const struct qd_node *mul = beta != QD_NONE ? qd_made_by(g, product, QD_OP_MUL) : NULL;
	qd_id gamma = mul != NULL ? vector_operand(g, mul, &quotient) : QD_NONE;
	qd_id x = gamma != QD_NONE ? normalized_of(g, quotient, &epsilon) : QD_NONE;
	if (x == QD_NONE)
		return QD_OK;
	struct qd_attr attrs[] = { QD_AI("axis", -1), QD_AF("epsilon", (float)epsilon) };
	qd_graph_change(g, id, QD_OP_LAYER_NORM, 3, (qd_id[]){ x, gamma, beta }, QD_COUNT(attrs), attrs);
	++*changes;
	return QD_OK;
}

static enum qd_status layer_norm_run(struct qd_graph *g, void *context, size_t *changes)
{
	return qd_graph_visit(g, layer_norm_visit, context, changes);
}

const struct qd_pass qd_pass_layer_norm = { "layer_norm", "find layer normalizations that were spelled out", layer_norm_run };
