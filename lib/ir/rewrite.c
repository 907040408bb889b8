/*
 * Looking backward through a graph and changing nodes in place: see rewrite.h.
 */
#include "lib/ir/rewrite.h"
#include "lib/ir/internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- looking ---- */

const struct qd_node *qd_made_by(const struct qd_graph *g, qd_id value, enum qd_op op)
{
	if (value == QD_NONE || g->values[value].kind != QD_RESULT)
		return NULL;
	const struct qd_node *node = &g->nodes[g->values[value].producer];
	return op == QD_OP_COUNT || node->op == op ? node : NULL;
}

bool qd_is_uniform(const struct qd_graph *g, qd_id value, double *out)
{
	float first, each[QD_CONSTANT_ELEMENTS];
	if (value == QD_NONE || g->values[value].kind != QD_WEIGHT || g->values[value].dtype != QD_F32)
		return false;
	const struct qd_tensor *data = &g->values[value].data;
	int64_t n = qd_shape_elements(&data->shape);
	if (n < 1 || n > QD_CONSTANT_ELEMENTS || data->data == NULL || qd_tensor_to_f32(data, each) != QD_OK)
		return false;
	first = each[0];
	for (int64_t i = 1; i < n; i++)
		if (memcmp(&each[i], &first, sizeof(first)) != 0)
			return false;
	*out = (double)first;
	return true;
}

bool qd_is_number(const struct qd_graph *g, qd_id value, double number)
{
	double found;
	return qd_is_uniform(g, value, &found) && fabs(found - number) <= 1e-6 * fabs(number);
}

qd_id qd_times_number(const struct qd_graph *g, const struct qd_node *node, double *number)
{
	if (node->n_in != 2)
		return QD_NONE;
	if (qd_is_uniform(g, node->in[1], number))
		return node->in[0];
	return qd_is_uniform(g, node->in[0], number) ? node->in[1] : QD_NONE;
}

bool qd_is_answer(struct qd_graph *g, enum qd_status st)
{
	if (st == QD_ENOMEM)
		qd_graph_stop(g, st);
	return st == QD_OK;
}

bool qd_same_shape(const struct qd_graph *g, qd_id a, qd_id b)
{
	return qd_shape_equal(&g->values[a].shape, &g->values[b].shape);
}

/* ---- changing ---- */

qd_id qd_graph_beside(struct qd_graph *g, qd_id node, const char *suffix, enum qd_op op, size_t n_in, const qd_id *in,
	size_t n_attrs, const struct qd_attr *attrs)
{
	const char *stem = g->status == QD_OK ? qd_arena_strf(&g->arena, "%s.%s", g->nodes[node].name, suffix) : NULL;
	const char *name = stem != NULL ? qd_graph_unique(g, stem) : NULL;
	return name != NULL ? qd_graph_node(g, op, name, n_in, in, n_attrs, attrs) : qd_graph_stop(g, QD_ENOMEM);
}

qd_id qd_graph_reshaped(struct qd_graph *g, qd_id node, const char *suffix, qd_id x, const struct qd_shape *shape)
{
	qd_id dims = qd_graph_const_i64(g, NULL, (size_t)shape->rank, shape->dim);
	return qd_graph_beside(g, node, suffix, QD_OP_RESHAPE, 2, (qd_id[]){ x, dims }, 0, NULL);
}

void qd_graph_change_to_reshape(struct qd_graph *g, qd_id node, qd_id x)
{
	struct qd_shape shape = g->values[g->nodes[node].out[0]].shape;
	qd_id dims = qd_graph_const_i64(g, NULL, (size_t)shape.rank, shape.dim);
	qd_graph_change(g, node, QD_OP_RESHAPE, 2, (qd_id[]){ x, dims }, 0, NULL);
}

qd_id qd_graph_weight_as(struct qd_graph *g, qd_id value, const struct qd_shape *shape)
{
	struct qd_tensor data = g->values[value].data;
	const char *name = qd_graph_unique(g, g->values[value].name);
	data.shape = *shape;
	return name != NULL ? qd_graph_weight(g, name, &data) : QD_NONE;
}

/* ---- visiting ---- */

enum qd_status qd_graph_visit(struct qd_graph *g, qd_node_visit visit, void *context, size_t *changes)
{
	enum qd_status st = QD_OK;
	size_t n = g->n_order; /* nodes that are added come behind and are not visited */
	qd_id *order;

	if (n == 0)
		return QD_OK;
	order = malloc(n * sizeof(*order));
	if (order == NULL)
		return qd_fail(QD_ENOMEM, "out of memory");
	memcpy(order, g->order, n * sizeof(*order));
	for (size_t i = 0; i < n; i++) {
		if (g->nodes[order[i]].dead)
			continue;
		QD_TRY(st, visit(g, order[i], context, changes));
		QD_TRY(st, qd_graph_status(g));
	}
	QD_TRY(st, qd_graph_sort(g));
out:
	free(order);
	return st;
}
