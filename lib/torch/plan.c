/*
 * Finding what can run as one operator. Each group's inner values have one use and no encoding, so nobody misses them:
 *
 *   Sigmoid(x), Mul(x, .)                                        -> x * sigmoid(x) in one pass
 *   MatMul(q, kt), [Mul by a scalar], Softmax(-1), MatMul(., v)  -> attention, scores never stored
 *   QuantizeLinear, DequantizeLinear with the same parameters    -> fake quantization in one pass
 */
#include "lib/torch/plan.h"

#include <stdlib.h>

/* While planning: the graph, how often each value is used, and which nodes a group has swallowed. */
struct planner {
	const struct qd_graph *g;
	uint32_t *uses;
	bool *swallowed;
};

/* The producer of `value` if it is an `op` whose result has one use and no encoding. */
static const struct qd_node *hidden_producer(const struct planner *p, qd_id value, enum qd_op op)
{
	const struct qd_value *v = value == QD_NONE ? NULL : &p->g->values[value];

	if (v == NULL || v->kind != QD_RESULT || v->encoding != NULL || p->uses[value] != 1 || p->g->nodes[v->producer].op != op)
		return NULL;
	return &p->g->nodes[v->producer];
}

static void swallow(struct planner *p, const struct qd_node *node)
{
	p->swallowed[node - p->g->nodes] = true;
}

/* Whether `mul` is x * sigmoid(x). */
static bool match_silu(struct planner *p, const struct qd_node *mul, struct qd_step *step)
{
	for (size_t i = 0; i < 2; i++) {
		const struct qd_node *sigmoid = hidden_producer(p, mul->in[i], QD_OP_SIGMOID);
		if (sigmoid == NULL || sigmoid->in[0] != mul->in[1 - i])
			continue;
		swallow(p, sigmoid);
		step->kind = QD_STEP_SILU;
		step->own_in[0] = mul->in[1 - i];
		step->n_in = 1;
		return true;
	}
	return false;
}

/* A float constant of one element without an encoding. */
static bool scalar_constant(const struct qd_graph *g, qd_id value, float *out)
{
	const struct qd_value *v = &g->values[value];

	return v->kind == QD_WEIGHT && v->encoding == NULL && v->dtype == QD_F32 && qd_shape_elements(&v->shape) == 1 &&
	       qd_tensor_to_f32(&v->data, out) == QD_OK;
}

/* q [N,H,L,D], kt [N,H,D,S], v [N,H,S,E] or the same with one leading dimension; nothing broadcasts. */
static bool attention_shapes(const struct qd_graph *g, qd_id q, qd_id kt, qd_id v)
{
	const struct qd_shape *a = &g->values[q].shape, *b = &g->values[kt].shape, *c = &g->values[v].shape;

	if ((a->rank != 3 && a->rank != 4) || b->rank != a->rank || c->rank != a->rank || g->values[q].dtype != QD_F32)
		return false;
	for (int i = 0; i < a->rank - 2; i++)
		if (a->dim[i] != b->dim[i] || a->dim[i] != c->dim[i])
			return false;
	return true;
}

static bool match_attention(struct planner *p, const struct qd_node *last, struct qd_step *step)
{
	const struct qd_node *softmax = hidden_producer(p, last->in[0], QD_OP_SOFTMAX), *mul = NULL, *scores = NULL;
	float scale = 1.0f;

	if (softmax == NULL)
		return false;
	int64_t axis = qd_node_int(softmax, "axis", -1);
	if (axis != -1 && axis != p->g->values[softmax->in[0]].shape.rank - 1)
		return false;
	mul = hidden_producer(p, softmax->in[0], QD_OP_MUL);
	for (size_t i = 0; mul != NULL && i < 2 && scores == NULL; i++)
		if (scalar_constant(p->g, mul->in[1 - i], &scale))
			scores = hidden_producer(p, mul->in[i], QD_OP_MATMUL);
	if (mul == NULL)
		scores = hidden_producer(p, softmax->in[0], QD_OP_MATMUL);
	if (scores == NULL || !attention_shapes(p->g, scores->in[0], scores->in[1], last->in[1]))
		return false;
	swallow(p, softmax);
	swallow(p, scores);
	if (mul != NULL)
		swallow(p, mul);
	step->kind = QD_STEP_ATTENTION;
	step->scale = scale;
	step->own_in[0] = scores->in[0];
	step->own_in[1] = scores->in[1];
	step->own_in[2] = last->in[1];
	step->n_in = 3;
	return true;
}

static qd_id zero_point(const struct qd_node *node)
{
	return node->n_in > 2 ? node->in[2] : QD_NONE;
}

static bool match_fake_quantize(struct planner *p, const struct qd_node *dequantize, struct qd_step *step)
{
	const struct qd_node *quantize = hidden_producer(p, dequantize->in[0], QD_OP_QUANTIZE);

	if (quantize == NULL || quantize->in[1] != dequantize->in[1] || zero_point(quantize) != zero_point(dequantize) ||
		qd_node_int(quantize, "axis", 1) != qd_node_int(dequantize, "axis", 1))
		return false;
	swallow(p, quantize);
	step->kind = QD_STEP_FAKE_QUANTIZE;
	step->codes = p->g->values[dequantize->in[0]].dtype;
	step->own_in[0] = quantize->in[0];
	step->own_in[1] = quantize->in[1];
	step->own_in[2] = zero_point(quantize);
	step->n_in = 3;
	return true;
}

/* The step that computes `node`, from its last node: later nodes have not been looked at yet. */
static void make_step(struct planner *p, qd_id id, bool see_all, struct qd_step *step)
{
	const struct qd_node *node = &p->g->nodes[id];

	*step = (struct qd_step){ .kind = QD_STEP_NODE, .node = id };
	if (!see_all) {
		if (node->op == QD_OP_MUL)
			(void)match_silu(p, node, step);
		else if (node->op == QD_OP_MATMUL)
			(void)match_attention(p, node, step);
		else if (node->op == QD_OP_DEQUANTIZE)
			(void)match_fake_quantize(p, node, step);
	}
	if (step->n_in == 0) {
		step->in = node->in;
		step->n_in = node->n_in;
	}
}

static void count_uses(const struct planner *p)
{
	const struct qd_graph *g = p->g;

	for (size_t i = 0; i < g->n_order; i++)
		for (size_t j = 0; j < g->nodes[g->order[i]].n_in; j++)
			if (g->nodes[g->order[i]].in[j] != QD_NONE)
				p->uses[g->nodes[g->order[i]].in[j]]++;
	for (size_t i = 0; i < g->n_outputs; i++)
		p->uses[g->outputs[i]]++;
}

static void find_last_uses(struct qd_plan *plan, const struct qd_graph *g)
{
	for (size_t s = 0; s < plan->n; s++) {
		const struct qd_node *node = &g->nodes[plan->steps[s].node];
		for (size_t i = 0; i < plan->steps[s].n_in; i++)
			if (plan->steps[s].in[i] != QD_NONE)
				plan->last_use[plan->steps[s].in[i]] = (uint32_t)s;
		for (size_t i = 0; i < node->n_out; i++)
			plan->last_use[node->out[i]] = (uint32_t)s;
	}
	for (size_t i = 0; i < g->n_outputs; i++)
		plan->last_use[g->outputs[i]] = QD_NONE;
}

enum qd_status qd_plan_init(struct qd_plan *plan, const struct qd_graph *g, bool see_all)
{
	struct planner p = { .g = g };
	enum qd_status st = QD_OK;
	size_t n = g->n_order;

	*plan = (struct qd_plan){ 0 };
	p.uses = calloc(g->n_values + 1, sizeof(*p.uses));
	p.swallowed = calloc(g->n_nodes + 1, sizeof(*p.swallowed));
	plan->steps = calloc(n + 1, sizeof(*plan->steps));
	plan->last_use = calloc(g->n_values + 1, sizeof(*plan->last_use));
	if (p.uses == NULL || p.swallowed == NULL || plan->steps == NULL || plan->last_use == NULL) {
		st = qd_fail(QD_ENOMEM, "out of memory for an execution plan of %zu nodes", n);
		goto out;
	}
	count_uses(&p);
	/* From the end, so that a group is found at its last node before its first ones become steps. */
	for (size_t i = n; i-- > 0;)
		if (!p.swallowed[g->order[i]])
			make_step(&p, g->order[i], see_all, &plan->steps[i]);
	for (size_t i = 0; i < n; i++)
		if (!p.swallowed[g->order[i]])
			plan->steps[plan->n++] = plan->steps[i];
	for (size_t i = 0; i < plan->n; i++)
		if (plan->steps[i].in == NULL)
			plan->steps[i].in = plan->steps[i].own_in;
	find_last_uses(plan, g);
out:
	free(p.uses);
	free(p.swallowed);
	return st;
}

void qd_plan_release(struct qd_plan *plan)
{
	free(plan->steps);
	free(plan->last_use);
	*plan = (struct qd_plan){ 0 };
}
