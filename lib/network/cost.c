/*
 * What a graph costs to run: operations of its products, and the most memory that results need when each is freed after its last
 * use.
 */
#include "lib/network/network.h"

#include <stdlib.h>

/* 2 x results x terms of each. */
static void count_product(const struct qd_graph *g, const struct qd_node *node, struct qd_cost *cost)
{
	double results = (double)qd_shape_elements(&g->values[node->out[0]].shape);
	const struct qd_shape *x = &g->values[node->in[0]].shape, *w = &g->values[node->in[1]].shape;
	if (node->op == QD_OP_CONV)
		cost->conv += 2 * results * (double)qd_shape_elements(w) / (double)w->dim[0];
	else if (node->op == QD_OP_GEMM)
		cost->linear += 2 * results * (double)x->dim[qd_node_int(node, "transA", 0) ? 0 : 1];
	else if (node->op == QD_OP_MATMUL && g->values[node->in[1]].kind == QD_WEIGHT)
		cost->linear += 2 * results * (double)x->dim[x->rank - 1];
	else if (node->op == QD_OP_MATMUL)
		cost->attention += 2 * results * (double)x->dim[x->rank - 1];
}

/* Marks what lies between the two products of an attention: a softmax's result and its operands back to the first product. */
static void mark_scores(const struct qd_graph *g, const struct qd_node *softmax, bool *inside)
{
	const struct qd_node *node = softmax;
	for (;;) {
		inside[node->out[0]] = true;
		qd_id producer = node->op == QD_OP_MATMUL ? QD_NONE : g->values[node->in[0]].producer;
		if (g->values[node->in[0]].kind != QD_RESULT || producer == QD_NONE)
			return;
		node = &g->nodes[producer];
		if (node->op != QD_OP_MUL && node->op != QD_OP_ADD && node->op != QD_OP_DIV && node->op != QD_OP_MATMUL)
			return;
	}
}

/* The memory a value takes of its own: none for views and for what attention keeps to itself. */
static uint64_t own_elements(const struct qd_graph *g, const struct qd_node *node, qd_id value, const bool *inside)
{
	bool view = qd_op(node->op)->flags & QD_OPF_VIEW;
	return view || inside[value] ? 0 : (uint64_t)qd_shape_elements(&g->values[value].shape);
}

/* The place in the order of each value's last use, a view's uses counting for its source. */
static void find_last_uses(const struct qd_graph *g, size_t *last)
{
	for (size_t i = g->n_order; i-- > 0;) {
		const struct qd_node *node = &g->nodes[g->order[i]];
		bool view = qd_op(node->op)->flags & QD_OPF_VIEW;
		for (size_t k = 0; k < node->n_in; k++) {
			if (node->in[k] == QD_NONE)
				continue;
			size_t use = view && last[node->out[0]] > i ? last[node->out[0]] : i;
			if (last[node->in[k]] < use)
				last[node->in[k]] = use;
		}
	}
}

static uint64_t peak(const struct qd_graph *g, const bool *inside, const size_t *last, uint64_t *freed)
{
	uint64_t alive = 0, most = 0;
	for (size_t i = 0; i < g->n_order; i++) {
		const struct qd_node *node = &g->nodes[g->order[i]];
		for (size_t k = 0; k < node->n_out; k++) {
			uint64_t elements = own_elements(g, node, node->out[k], inside);
			size_t until = last[node->out[k]];
			alive += elements;
			freed[until > i ? until : i] += elements;
		}
		most = alive > most ? alive : most;
		alive -= freed[i];
	}
	return most;
}

enum qd_status qd_graph_cost(const struct qd_graph *g, struct qd_cost *cost)
{
	bool *inside = calloc(g->n_values + 1, sizeof(*inside));
	size_t *last = calloc(g->n_values + 1, sizeof(*last));
	uint64_t *freed = calloc(g->n_order + 1, sizeof(*freed));
	enum qd_status st = QD_OK;
	*cost = (struct qd_cost){ 0 };
	if (inside == NULL || last == NULL || freed == NULL)
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory"));
	for (size_t i = 0; i < g->n_order; i++) {
		const struct qd_node *node = &g->nodes[g->order[i]];
		count_product(g, node, cost);
		if (node->op == QD_OP_SOFTMAX)
			mark_scores(g, node, inside);
	}
	for (size_t i = 0; i < g->n_values; i++) {
		const struct qd_value *value = &g->values[i];
		if (value->kind == QD_WEIGHT && !value->dead)
			cost->weights += (uint64_t)qd_shape_elements(&value->shape);
	}
	find_last_uses(g, last);
	cost->activations = peak(g, inside, last, freed);
out:
	free(inside);
	free(last);
	free(freed);
	return st;
}
