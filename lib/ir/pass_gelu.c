/*
 * Pass gelu: the exact GELU, x Phi(x), that was spelled out, as before operator set 20.
 *
 *   before  %t = Add(Erf(Div(%x, 1.41421354)), 1)   %y = Mul(Mul(%x, %t), 0.5)
 *   after   %y = Gelu(%x)
 *
 * The three factors may be grouped and ordered in any way, and the argument of Erf may be Mul(%x, 0.707106769).
 */
#include "lib/ir/rewrite.h"

#include <math.h>

/* x of 1 + erf(x / sqrt 2), or QD_NONE. */
static qd_id tail_of(const struct qd_graph *g, qd_id value)
{
	double number;
	const struct qd_node *sum = qd_made_by(g, value, QD_OP_ADD);
	qd_id erf_value = sum != NULL ? qd_times_number(g, sum, &number) : QD_NONE;
	const struct qd_node *erf_node = erf_value != QD_NONE && number == 1 ? qd_made_by(g, erf_value, QD_OP_ERF) : NULL;
	if (erf_node == NULL)
		return QD_NONE;
	const struct qd_node *div = qd_made_by(g, erf_node->in[0], QD_OP_DIV), *mul = qd_made_by(g, erf_node->in[0], QD_OP_MUL);
	if (div != NULL && qd_is_number(g, div->in[1], sqrt(2)))
		return div->in[0];
	qd_id x = mul != NULL ? qd_times_number(g, mul, &number) : QD_NONE;
	return x != QD_NONE && fabs(number - sqrt(0.5)) < 1e-6 ? x : QD_NONE;
}

/* The operand of half of something, or QD_NONE. */
static qd_id half_of(const struct qd_graph *g, qd_id value)
{
	double number;
	const struct qd_node *mul = qd_made_by(g, value, QD_OP_MUL);
	qd_id x = mul != NULL ? qd_times_number(g, mul, &number) : QD_NONE;
	return x != QD_NONE && number == 0.5 ? x : QD_NONE;
}

/* x of the product of x and its tail, either way, or QD_NONE. */
static qd_id x_times_tail(const struct qd_graph *g, qd_id a, qd_id b)
{
	if (a != QD_NONE && tail_of(g, b) == a)
		return a;
	return b != QD_NONE && tail_of(g, a) == b ? b : QD_NONE;
}

/* x when the product of a and b is its GELU. */
static qd_id gelu_of(const struct qd_graph *g, const struct qd_node *node)
{
	double number;
	qd_id rest = qd_times_number(g, node, &number), x;
	const struct qd_node *inner = rest != QD_NONE && number == 0.5 ? qd_made_by(g, rest, QD_OP_MUL) : NULL;
	if (inner != NULL)
		return x_times_tail(g, inner->in[0], inner->in[1]);
	for (int i = 0; i < 2; i++) {
		qd_id half = half_of(g, node->in[i]);
		x = half != QD_NONE ? x_times_tail(g, half, node->in[1 - i]) : QD_NONE;
		if (x != QD_NONE)
			return x;
	}
	return QD_NONE;
}

static enum qd_status gelu_visit(struct qd_graph *g, qd_id id, void *context, size_t *changes)
{
	qd_id x = g->nodes[id].op == QD_OP_MUL ? gelu_of(g, &g->nodes[id]) : QD_NONE;
	(void)context;
	if (x == QD_NONE || !qd_same_shape(g, x, g->nodes[id].out[0]))
		return QD_OK;
	qd_graph_change(g, id, QD_OP_GELU, 1, &x, 0, NULL);
	++*changes;
	return QD_OK;
}

static enum qd_status gelu_run(struct qd_graph *g, void *context, size_t *changes)
{
	return qd_graph_visit(g, gelu_visit, context, changes);
}

const struct qd_pass qd_pass_gelu = { "gelu", "find exact GELUs that were spelled out", gelu_run };
