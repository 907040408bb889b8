/*
 * Pass no_ops: nodes that give back what they got.
 *
 *   before  %a = Cast(%x) {to=1}   %b = Mul(%a, %one)   %y = Relu(%b)      with x f32, one f32[] {1}
 *   after   %y = Relu(%x)
 *
 * Such are: Identity; Cast to the same type; Reshape, Flatten, Squeeze, Unsqueeze, Expand, Tile, Pad, Resize and Concat of one
 * part, where the shape stays; Transpose in the present order; Slice of everything forward; multiplication and division by 1, Add
 * and Sub of 0, Pow 1, where that is a single number (a vector of ones is somebody's parameter). One that makes a graph output
 * becomes an Identity, since an output is the result of a node. Not touched: nodes with an annotated output.
 */
#include "lib/ir/rewrite.h"

static bool keeps_order(const struct qd_graph *g, const struct qd_node *node)
{
	const struct qd_attr *perm = qd_node_attr(node, "perm");
	int rank = g->values[node->out[0]].shape.rank;
	for (int i = 0; i < rank; i++)
		if ((perm != NULL ? perm->ints[i] : rank - 1 - i) != i)
			return false;
	return true;
}

static bool steps_forward(struct qd_graph *g, const struct qd_node *node)
{
	struct qd_slice_axis axes[QD_MAX_RANK];
	if (!qd_is_answer(g, qd_slice_axes(g, node, axes)))
		return false;
	for (int i = 0; i < g->values[node->in[0]].shape.rank; i++)
		if (axes[i].step < 0 && axes[i].count > 1)
			return false;
	return true;
}

static bool is_scalar(const struct qd_graph *g, qd_id value, double number)
{
	double found;
	return qd_shape_elements(&g->values[value].shape) == 1 && qd_is_uniform(g, value, &found) && found == number;
}

/* The operand of x * 1, 1 * x, x / 1, x + 0, 0 + x, x - 0, x ^ 1. */
static qd_id neutral(const struct qd_graph *g, const struct qd_node *node)
{
	double one = node->op == QD_OP_ADD || node->op == QD_OP_SUB ? 0 : 1;
	bool either = node->op == QD_OP_ADD || node->op == QD_OP_MUL;
	if (is_scalar(g, node->in[1], one))
		return node->in[0];
	return either && is_scalar(g, node->in[0], one) ? node->in[1] : QD_NONE;
}

/* What a node gives back unchanged, or QD_NONE. */
static qd_id passed_through(struct qd_graph *g, const struct qd_node *node)
{
	switch (node->op) {
	case QD_OP_IDENTITY:
	case QD_OP_CAST:
	case QD_OP_RESHAPE:
	case QD_OP_FLATTEN:
	case QD_OP_SQUEEZE:
	case QD_OP_UNSQUEEZE:
	case QD_OP_EXPAND:
	case QD_OP_TILE:
	case QD_OP_PAD:
	case QD_OP_RESIZE:
		return node->in[0];
	case QD_OP_CONCAT:
		return node->n_in == 1 ? node->in[0] : QD_NONE;
	case QD_OP_TRANSPOSE:
		return keeps_order(g, node) ? node->in[0] : QD_NONE;
	case QD_OP_SLICE:
		return steps_forward(g, node) ? node->in[0] : QD_NONE;
	case QD_OP_ADD:
	case QD_OP_SUB:
	case QD_OP_MUL:
	case QD_OP_DIV:
	case QD_OP_POW:
		return neutral(g, node);
	default:
		return QD_NONE;
	}
}

static enum qd_status no_ops_visit(struct qd_graph *g, qd_id id, void *context, size_t *changes)
{
	const struct qd_node *node = &g->nodes[id];
	qd_id out = node->out[0], in = node->n_out == 1 ? passed_through(g, node) : QD_NONE;
	(void)context;
	if (in == QD_NONE || !qd_same_shape(g, in, out) || g->values[in].dtype != g->values[out].dtype ||
		g->values[out].encoding != NULL)
		return QD_OK;
	if (!qd_graph_is_output(g, out))
		*changes += qd_graph_replace(g, out, in, QD_NONE) > 0;
	else if (node->op != QD_OP_IDENTITY) {
		qd_graph_change(g, id, QD_OP_IDENTITY, 1, &in, 0, NULL);
		++*changes;
	}
	return QD_OK;
}

static enum qd_status no_ops_run(struct qd_graph *g, void *context, size_t *changes)
{
	return qd_graph_visit(g, no_ops_visit, context, changes);
}

const struct qd_pass qd_pass_no_ops = { "no_ops", "take out nodes that give back what they got", no_ops_run };
