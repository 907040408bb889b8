/*
 * The verifier: what every graph must satisfy between passes. It recomputes everything that is stored twice (shapes, names,
 * producers, order) and compares, so that a pass which forgets one of them is found where it happened.
 */
#include "lib/ir/internal.h"

#include <stdlib.h>

static bool live(const struct qd_graph *g, qd_id value)
{
	return value < g->n_values && !g->values[value].dead;
}

static enum qd_status check_producer(const struct qd_graph *g, qd_id id)
{
	const struct qd_value *v = &g->values[id];

	if (v->kind != QD_RESULT)
		return v->producer == QD_NONE ? QD_OK : qd_fail(QD_EINPUT, "value '%s' is no result but has a producer", v->name);
	if (v->producer >= g->n_nodes || g->nodes[v->producer].dead)
		return qd_fail(QD_EINPUT, "value '%s' has no live producer", v->name);
	const struct qd_node *node = &g->nodes[v->producer];
	if (v->output_index >= node->n_out || node->out[v->output_index] != id)
		return qd_fail(QD_EINPUT, "value '%s' is not output %u of node '%s'", v->name, v->output_index, node->name);
	return QD_OK;
}

/* A weight's bytes have the value's shape, and a dtype that its mathematics can stand for. */
static enum qd_status check_weight(const struct qd_value *v)
{
	const struct qd_tensor *data = &v->data;
	char found[QD_SHAPE_TEXT], needed[QD_SHAPE_TEXT];

	if (!qd_shape_equal(&data->shape, &v->shape))
		return qd_fail(QD_EINPUT, "weight '%s' is %s, its data is %s", v->name, qd_shape_text(&v->shape, needed),
			qd_shape_text(&data->shape, found));
	if (data->dtype != v->dtype && !(qd_dtype_is_float(data->dtype) && v->dtype == QD_F32))
		return qd_fail(QD_EINPUT, "weight '%s' is %s, its data is %s", v->name, qd_dtype_name(v->dtype),
			qd_dtype_name(data->dtype));
	if (data->data == NULL && data->bytes > 0)
		return qd_fail(QD_EINPUT, "weight '%s' has no bytes", v->name);
	return QD_OK;
}

static enum qd_status check_values(const struct qd_graph *g)
{
	enum qd_status st = QD_OK;

	for (qd_id id = 0; id < g->n_values; id++) {
		const struct qd_value *v = &g->values[id];
		if (v->dead)
			continue;
		if (qd_graph_find(g, v->name) != id)
			return qd_fail(QD_EINPUT, "value name '%s' is not unique", v->name);
		st = qd_prefix(qd_shape_check(&v->shape), "value '%s'", v->name);
		if (st != QD_OK)
			return st;
		QD_TRY(st, check_producer(g, id));
		if (v->kind == QD_WEIGHT)
			QD_TRY(st, check_weight(v));
	}
out:
	return st;
}

/* What the operator's rule gives is what the outputs say. `shapes` and `dtypes` have room for all outputs. */
static enum qd_status check_types(const struct qd_graph *g, qd_id id, struct qd_shape *shapes, enum qd_dtype *dtypes)
{
	char found[QD_SHAPE_TEXT], needed[QD_SHAPE_TEXT];
	struct qd_node *node = &g->nodes[id];
	enum qd_status st = qd_node_infer(g, node, shapes, dtypes);

	for (size_t i = 0; st == QD_OK && i < node->n_out; i++) {
		const struct qd_value *v = &g->values[node->out[i]];
		if (v->dtype != dtypes[i])
			return qd_fail(QD_EINPUT, "node '%s': output '%s' is %s, the operator gives %s", node->name, v->name,
				qd_dtype_name(v->dtype), qd_dtype_name(dtypes[i]));
		if (!qd_shape_equal(&v->shape, &shapes[i]))
			return qd_fail(QD_EINPUT, "node '%s': output '%s' is %s, the operator gives %s", node->name, v->name,
				qd_shape_text(&v->shape, found), qd_shape_text(&shapes[i], needed));
	}
	return st;
}

static enum qd_status check_node(const struct qd_graph *g, qd_id id)
{
	const struct qd_node *node = &g->nodes[id];
	struct qd_shape *shapes = NULL;
	enum qd_dtype *dtypes = NULL;
	enum qd_status st = QD_OK;

	if ((unsigned)node->op >= QD_OP_COUNT)
		return qd_fail(QD_EINPUT, "node '%s' has operator %u of only %d", node->name, (unsigned)node->op, QD_OP_COUNT);
	if (qd_graph_find_node(g, node->name) != id)
		return qd_fail(QD_EINPUT, "node name '%s' is not unique", node->name);
	for (size_t i = 0; i < node->n_out; i++)
		if (!live(g, node->out[i]) || g->values[node->out[i]].kind != QD_RESULT || g->values[node->out[i]].producer != id)
			return qd_fail(QD_EINPUT, "node '%s': output %zu is not a live value that it produces", node->name, i);
	shapes = calloc(node->n_out + 1, sizeof(*shapes));
	dtypes = calloc(node->n_out + 1, sizeof(*dtypes));
	if (shapes == NULL || dtypes == NULL)
		st = qd_fail(QD_ENOMEM, "out of memory");
	else
		st = check_types(g, id, shapes, dtypes);
	free(shapes);
	free(dtypes);
	return st;
}

/* Each live node once in the order, after the producers of its inputs. `placed` is zeroed, one flag per node. */
static enum qd_status check_order(const struct qd_graph *g, unsigned char *placed)
{
	enum qd_status st = QD_OK;

	for (size_t at = 0; at < g->n_order; at++) {
		qd_id id = g->order[at];
		if (id >= g->n_nodes || g->nodes[id].dead || placed[id])
			return qd_fail(QD_EINPUT, "place %zu of the order is no live node, or one that was there before", at);
		QD_TRY(st, check_node(g, id));
		const struct qd_node *node = &g->nodes[id];
		for (size_t i = 0; i < node->n_in; i++) {
			const struct qd_value *v = qd_node_in(g, node, i);
			if (v != NULL && v->kind == QD_RESULT && !placed[v->producer])
				return qd_fail(QD_EINPUT, "node '%s' comes before '%s', whose result '%s' it needs", node->name,
					g->nodes[v->producer].name, v->name);
		}
		placed[id] = 1;
	}
	for (qd_id id = 0; id < g->n_nodes; id++)
		if (!g->nodes[id].dead && !placed[id])
			return qd_fail(QD_EINPUT, "node '%s' is not in the order", g->nodes[id].name);
out:
	return st;
}

/* The declared inputs are the values of that kind, and outputs exist. */
static enum qd_status check_interface(const struct qd_graph *g)
{
	size_t inputs = 0;

	for (qd_id id = 0; id < g->n_values; id++)
		inputs += !g->values[id].dead && g->values[id].kind == QD_INPUT;
	if (inputs != g->n_inputs)
		return qd_fail(QD_EINPUT, "graph '%s' declares %zu inputs, has %zu", g->name, g->n_inputs, inputs);
	for (size_t i = 0; i < g->n_inputs; i++)
		if (!live(g, g->inputs[i]) || g->values[g->inputs[i]].kind != QD_INPUT)
			return qd_fail(QD_EINPUT, "input %zu of graph '%s' is no live input value", i, g->name);
	for (size_t i = 0; i < g->n_inputs; i++)
		for (size_t k = 0; k < i; k++)
			if (g->inputs[i] == g->inputs[k])
				return qd_fail(QD_EINPUT, "input '%s' is declared twice", g->values[g->inputs[i]].name);
	for (size_t i = 0; i < g->n_outputs; i++)
		if (!live(g, g->outputs[i]))
			return qd_fail(QD_EINPUT, "output %zu of graph '%s' is no live value", i, g->name);
	return QD_OK;
}

enum qd_status qd_graph_verify(const struct qd_graph *g)
{
	unsigned char *placed = NULL;
	enum qd_status st;

	QD_TRY(st, qd_graph_status(g));
	QD_TRY(st, check_interface(g));
	QD_TRY(st, check_values(g));
	placed = calloc(g->n_nodes + 1, 1);
	if (placed == NULL) {
		st = qd_fail(QD_ENOMEM, "out of memory");
		goto out;
	}
	QD_TRY(st, check_order(g, placed));
out:
	free(placed);
	return st;
}
