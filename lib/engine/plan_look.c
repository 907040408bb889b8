/*
 * Looking at values while steps are made, and finding attention.
 */
#include "lib/engine/plan.h"

const struct qd_value *qd_plan_value(const struct qd_planner *p, qd_id v)
{
	return &p->g->values[v];
}

/* The encoding of a value, where it counts. */
const struct qd_encoding *qd_plan_grid(const struct qd_planner *p, qd_id v)
{
	return qd_engine_encoding(p->engine, v);
}

/* A float constant of one element. */
bool qd_plan_number(const struct qd_planner *p, qd_id v, float *number)
{
	if (p->at[v].is_number)
		*number = p->at[v].number;
	return p->at[v].is_number;
}

/* The order that operand `v` of a node has in a step's chunks: whether it is there as a whole, element by element. */
bool qd_plan_is_register(const struct qd_planner *p, int step, qd_id v, const struct qd_shape *shape)
{
	qd_id root = p->at[v].root;
	struct qd_walk walk;

	if (root == QD_NONE || p->at[root].step != step || !qd_shape_equal(&qd_plan_value(p, v)->shape, shape) ||
		qd_shape_elements(shape) != qd_shape_elements(&qd_plan_value(p, root)->shape) ||
		!qd_view_is_dense(&p->at[v].place.view))
		return false;
	walk = qd_walk_by(&p->at[v].place.view, &p->at[v].place.view);
	return qd_walk_is_straight(&walk) && walk.offset == 0;
}

/* ---- attention ---- */

/* A value's producer where nobody else wants the value, and only an `op` computes it. */
static const struct qd_node *inner(const struct qd_planner *p, qd_id value, enum qd_op op)
{
	return p->uses[value] == 1 ? qd_made_by(p->g, value, op) : NULL;
}

/* q [N,H,L,D], keys [N,H,D,S], v [N,H,S,E], or the same with one leading dimension; nothing broadcasts. */
static bool attention_shapes(const struct qd_planner *p, qd_id q, qd_id keys, qd_id v)
{
	const struct qd_shape *a = &qd_plan_value(p, q)->shape, *b = &qd_plan_value(p, keys)->shape,
			      *c = &qd_plan_value(p, v)->shape;

	if ((a->rank != 3 && a->rank != 4) || b->rank != a->rank || c->rank != a->rank || qd_plan_value(p, q)->dtype != QD_F32)
		return false;
	for (int i = 0; i < a->rank - 2; i++)
		if (a->dim[i] != b->dim[i] || a->dim[i] != c->dim[i])
			return false;
	return true;
}

/* MatMul(q, keys), Mul by a number, Softmax, MatMul(., v): marked at its last node. */
void qd_plan_find_attention(struct qd_planner *p, qd_id id)
{
	const struct qd_node *last = &p->g->nodes[id], *softmax = inner(p, last->in[0], QD_OP_SOFTMAX), *mul = NULL, *scores;
	struct qd_attention_plan a = { .scale = 1 };
	qd_id scaled;

	if (softmax == NULL)
		return;
	int64_t axis = qd_node_int(softmax, "axis", -1);
	scaled = softmax->in[0];
	if (axis != -1 && axis != qd_plan_value(p, scaled)->shape.rank - 1)
		return;
	scores = inner(p, scaled, QD_OP_MATMUL);
	if (scores == NULL) {
		mul = inner(p, scaled, QD_OP_MUL);
		for (size_t i = 0; mul != NULL && i < 2 && scores == NULL; i++)
			if (qd_plan_value(p, mul->in[1 - i])->kind == QD_WEIGHT && qd_plan_number(p, mul->in[1 - i], &a.scale))
				scores = inner(p, mul->in[i], QD_OP_MATMUL);
	}
	a.values[0] = scores != NULL ? scores->out[0] : QD_NONE;
	a.values[1] = mul != NULL ? mul->out[0] : QD_NONE;
	a.values[2] = softmax->out[0];
	if (scores == NULL || !attention_shapes(p, scores->in[0], scores->in[1], last->in[1]))
		return;
	a.q = scores->in[0];
	a.keys = scores->in[1];
	a.grids[0] = qd_plan_grid(p, scores->out[0]);
	a.grids[1] = mul != NULL ? qd_plan_grid(p, mul->out[0]) : NULL;
	a.grids[2] = qd_plan_grid(p, softmax->out[0]);
	p->swallowed[scores - p->g->nodes] = p->swallowed[softmax - p->g->nodes] = true;
	if (mul != NULL)
		p->swallowed[mul - p->g->nodes] = true;
	p->attention[id] = qd_arena_alloc(&p->engine->arena, sizeof(a));
	if (p->attention[id] != NULL)
		*p->attention[id] = a;
	else
		p->starved = true;
}
