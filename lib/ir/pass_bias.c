/*
 * Pass bias: what is added to a product of matrices joins it.
 *
 *   before  %p = Gemm(%x, %w)   %y = Add(%p, %b)         b a constant [O], p [rows,O]
 *   after   %y = Gemm(%x, %w, %b)
 *
 * Conditions: nobody else uses p, and the Gemm has no bias and no factors. The operands of Add may stand either way.
 */
#include "lib/ir/rewrite.h"

static bool is_plain(const struct qd_graph *g, const struct qd_node *gemm)
{
	return gemm != NULL && gemm->n_in == 2 && qd_node_float(gemm, "alpha", 1) == 1 && qd_node_float(gemm, "beta", 1) == 1 &&
	       g->values[gemm->out[0]].encoding == NULL;
}

static bool is_bias(const struct qd_graph *g, qd_id value, const struct qd_shape *product)
{
	const struct qd_value *v = &g->values[value];
	return v->kind == QD_WEIGHT && v->shape.rank == 1 && v->shape.dim[0] == product->dim[1];
}

static enum qd_status bias_visit(struct qd_graph *g, qd_id id, void *context, size_t *changes)
{
	const struct qd_node *node = &g->nodes[id];
	(void)context;
	for (int i = 0; i < 2 && node->op == QD_OP_ADD; i++) {
		qd_id p = node->in[i], b = node->in[1 - i];
		const struct qd_node *gemm = qd_made_by(g, p, QD_OP_GEMM);
		if (!is_plain(g, gemm) || !is_bias(g, b, &g->values[p].shape) || !qd_same_shape(g, p, node->out[0]) ||
			qd_graph_uses(g, p) != 1)
			continue;
		qd_graph_change(g, id, QD_OP_GEMM, 3, (qd_id[]){ gemm->in[0], gemm->in[1], b }, gemm->n_attrs, gemm->attrs);
		++*changes;
		break;
	}
	return QD_OK;
}

static enum qd_status bias_run(struct qd_graph *g, void *context, size_t *changes)
{
	return qd_graph_visit(g, bias_visit, context, changes);
}

const struct qd_pass qd_pass_bias = { "bias", "let biases join their products", bias_run };
