/*
 * Pass group_norm: a group normalization that was spelled with an instance normalization.
 *
 *   before  %r = Reshape(%x, [N,G,-1])   %i = InstanceNormalization(%r, ones, zeros) {epsilon}   %s = Reshape(%i, [N,C,...])
 *           %m = Mul(%s, %gamma)   %y = Add(%m, %beta)                x [N,C,...], gamma and beta [C,1,...] or [1,C,1,...]
 *   after   %y = GroupNormalization(%x, gamma [C], beta [C]) {epsilon, num_groups=G}
 *
 * Conditions: the second Reshape gives back x's shape; gamma and beta are constants. Operands of Mul and Add may stand either way.
 */
#include "lib/ir/rewrite.h"

struct match {
	qd_id x, gamma, beta;
	int64_t groups;
	float epsilon;
};

/* A constant that has one number per channel (axis 1) of `like`. */
static bool is_per_channel(const struct qd_graph *g, qd_id value, const struct qd_shape *like)
{
	if (value == QD_NONE || g->values[value].kind != QD_WEIGHT || g->values[value].dtype != QD_F32)
		return false;
	const struct qd_shape *shape = &g->values[value].shape;
	int skipped = like->rank - shape->rank;
	if (skipped < 0 || skipped > 1)
		return false;
	for (int i = 0; i < shape->rank; i++)
		if (shape->dim[i] != (i + skipped == 1 ? like->dim[1] : 1))
			return false;
	return true;
}

/* The operand of `node` that is per channel goes to `constant`, the other is returned. */
static qd_id split_operands(const struct qd_graph *g, const struct qd_node *node, qd_id *constant)
{
	const struct qd_shape *like = &g->values[node->out[0]].shape;
	for (int i = 0; i < 2; i++) {
		*constant = node->in[i];
		if (is_per_channel(g, node->in[i], like))
			return node->in[1 - i];
	}
	return QD_NONE;
}

static bool match_core(const struct qd_graph *g, qd_id normalized, struct match *m)
{
	const struct qd_node *back = qd_made_by(g, normalized, QD_OP_RESHAPE);
	const struct qd_node *norm = back != NULL ? qd_made_by(g, back->in[0], QD_OP_INSTANCE_NORM) : NULL;
	const struct qd_node *into = norm != NULL ? qd_made_by(g, norm->in[0], QD_OP_RESHAPE) : NULL;
	if (into == NULL || !qd_is_number(g, norm->in[1], 1) || !qd_is_number(g, norm->in[2], 0))
		return false;
	const struct qd_shape *x = &g->values[into->in[0]].shape, *grouped = &g->values[into->out[0]].shape;
	m->x = into->in[0];
	m->groups = grouped->dim[1];
	m->epsilon = qd_node_float(norm, "epsilon", 1e-5F);
	return qd_same_shape(g, m->x, normalized) && x->rank >= 3 && grouped->rank == 3 && grouped->dim[0] == x->dim[0] &&
	       m->groups > 0 && x->dim[1] % m->groups == 0;
}

static bool match(const struct qd_graph *g, const struct qd_node *node, struct match *m)
{
	if (node->op != QD_OP_ADD || g->values[node->out[0]].shape.rank < 3)
		return false;
	qd_id product = split_operands(g, node, &m->beta);
	const struct qd_node *scale = qd_made_by(g, product, QD_OP_MUL);
	qd_id normalized = scale != NULL ? split_operands(g, scale, &m->gamma) : QD_NONE;
	return normalized != QD_NONE && qd_same_shape(g, normalized, node->out[0]) && match_core(g, normalized, m);
}

static enum qd_status group_norm_visit(struct qd_graph *g, qd_id id, void *context, size_t *changes)
{
	struct match m;
	(void)context;
	if (!match(g, &g->nodes[id], &m))
		return QD_OK;
	struct qd_shape channels = QD_SHAPE(g->values[m.x].shape.dim[1]);
	qd_id gamma = qd_graph_weight_as(g, m.gamma, &channels), beta = qd_graph_weight_as(g, m.beta, &channels);
	struct qd_attr attrs[] = { QD_AF("epsilon", m.epsilon), QD_AI("num_groups", m.groups) };
	qd_graph_change(g, id, QD_OP_GROUP_NORM, 3, (qd_id[]){ m.x, gamma, beta }, QD_COUNT(attrs), attrs);
	++*changes;
	return QD_OK;
}

static enum qd_status group_norm_run(struct qd_graph *g, void *context, size_t *changes)
{
	return qd_graph_visit(g, group_norm_visit, context, changes);
}

const struct qd_pass qd_pass_group_norm = { "group_norm", "find group normalizations", group_norm_run };
