/*
 * Pass attention: one place for the scale, one way to turn the keys.
 *
 *   before  %kt = Transpose(%k) {perm=[0,2,3,1]}   %s = MatMul(Mul(%q, a), Mul(%kt, b))   %w = Softmax(%s) {axis=-1}
 *   after   %h = Transpose(%k) {perm=[0,2,1,3]}   %keys = Transpose(%h) {perm=[0,1,3,2]}
 *           %w = Softmax(Mul(MatMul(%q, %keys), ab)) {axis=-1}
 *
 * A mask may be added before Softmax. Scales may stand on the product as well, as Mul or Div. A scale that is 1 / sqrt(d) up to
 * rounding, d the features of a head, is taken to be it: exporters multiply its root into q and into k, and their product is off by
 * some units of the last place.
 */
#include "lib/ir/rewrite.h"

#include <math.h>

/* Takes factors off `value`: what is left, and their product. */
static qd_id without_scale(const struct qd_graph *g, qd_id value, double *scale)
{
	double number;
	const struct qd_node *node = qd_made_by(g, value, QD_OP_COUNT);
	if (node != NULL && node->op == QD_OP_MUL) {
		qd_id rest = qd_times_number(g, node, &number);
		if (rest == QD_NONE || !qd_same_shape(g, rest, value))
			return value;
		*scale *= number;
		return rest;
	}
	if (node != NULL && node->op == QD_OP_DIV && qd_is_uniform(g, node->in[1], &number) && number != 0 &&
		qd_same_shape(g, node->in[0], value)) {
		*scale /= number;
		return node->in[0];
	}
	return value;
}

static float exact_scale(double scale, int64_t features)
{
	double usual = 1 / sqrt((double)features);
	return (float)(fabs(scale - usual) <= 1e-6 * usual ? usual : scale);
}

/* Transposed keys [..., d, L] as the last turn of a Transpose that only swaps the last two axes. */
static qd_id turned_keys(struct qd_graph *g, qd_id id, qd_id keys)
{
	const struct qd_node *node = qd_made_by(g, keys, QD_OP_TRANSPOSE);
	const struct qd_attr *attr = node != NULL ? qd_node_attr(node, "perm") : NULL;
	int64_t heads[QD_MAX_RANK], swap[QD_MAX_RANK];
	int rank = g->values[keys].shape.rank;
	bool same = true;
	if (attr == NULL || rank < 2)
		return keys;
	for (int i = 0; i < rank; i++)
		swap[i] = i;
	swap[rank - 2] = rank - 1;
	swap[rank - 1] = rank - 2;
	for (int i = 0; i < rank; i++) {
		heads[i] = attr->ints[swap[i]];
		same = same && heads[i] == i;
	}
	if (same)
		return keys;
	struct qd_attr first = { .name = "perm", .type = QD_ATTR_INTS, .ints = heads, .n_ints = (size_t)rank }, last = first;
	last.ints = swap;
	qd_id x = node->in[0];
	x = qd_graph_beside(g, id, "heads", QD_OP_TRANSPOSE, 1, &x, 1, &first);
	return x != QD_NONE ? qd_graph_beside(g, id, "keys", QD_OP_TRANSPOSE, 1, &x, 1, &last) : QD_NONE;
}

/* The scores under a Softmax: `logits` is its input, or the operand of the mask's Add. */
static qd_id rebuild(struct qd_graph *g, qd_id id, qd_id logits, size_t *changes)
{
	double scale = 1;
	qd_id scores = without_scale(g, logits, &scale);
	const struct qd_node *product = qd_made_by(g, scores, QD_OP_MATMUL);
	if (product == NULL || g->values[scores].shape.rank < 3)
		return logits;
	qd_id q = without_scale(g, product->in[0], &scale), k = without_scale(g, product->in[1], &scale);
	bool moved = q != product->in[0] || k != product->in[1];
	qd_id keys = turned_keys(g, id, k);
	float factor = exact_scale(scale, g->values[q].shape.dim[g->values[q].shape.rank - 1]);
	if ((!moved && keys == k) || keys == QD_NONE)
		return logits;
	++*changes;
	scores = qd_graph_beside(g, id, "scores", QD_OP_MATMUL, 2, (qd_id[]){ q, keys }, 0, NULL);
	qd_id constant = qd_graph_const_f32(g, NULL, (struct qd_shape){ 0 }, &factor);
	return qd_graph_beside(g, id, "scaled", QD_OP_MUL, 2, (qd_id[]){ scores, constant }, 0, NULL);
}

static enum qd_status attention_visit(struct qd_graph *g, qd_id id, void *context, size_t *changes)
{
	const struct qd_node softmax = g->nodes[id];
	size_t before = *changes;
	(void)context;
	if (softmax.op != QD_OP_SOFTMAX)
		return QD_OK;
	int rank = g->values[softmax.out[0]].shape.rank;
	int64_t axis = qd_node_int(&softmax, "axis", -1);
	const struct qd_node *sum = qd_made_by(g, softmax.in[0], QD_OP_ADD);
	if (axis != -1 && axis != rank - 1)
		return QD_OK;
	qd_id operand = sum != NULL ? sum->in[0] : softmax.in[0], mask = sum != NULL ? sum->in[1] : QD_NONE;
	qd_id logits = rebuild(g, id, operand, changes);
	if (mask != QD_NONE && *changes == before) {
		logits = rebuild(g, id, mask, changes);
		mask = operand;
	}
	if (mask != QD_NONE && *changes > before)
		logits = qd_graph_beside(g, id, "masked", QD_OP_ADD, 2, (qd_id[]){ logits, mask }, 0, NULL);
	if (*changes > before && g->status == QD_OK)
		qd_graph_change(g, id, QD_OP_SOFTMAX, 1, &logits, 1, (struct qd_attr[]){ QD_AI("axis", -1) });
	return QD_OK;
}

static enum qd_status attention_run(struct qd_graph *g, void *context, size_t *changes)
{
	return qd_graph_visit(g, attention_visit, context, changes);
}

const struct qd_pass qd_pass_attention = { "attention", "scale the scores of attention in one place", attention_run };
