/*
 * Pass fold_constants: computes what is known before anything runs.
 *
 *   before  %s = Shape(%x)   %n = Gather(%s, %zero)      with x f32[2,77], zero i64[] {0}
 *   after   weight %n i64[] {2}
 *
 * A node is computed when its operator has FOLD, its inputs are weights of at most QD_CONSTANT_ELEMENTS elements (Shape: any value,
 * since shapes are static) and its results are as small. Not computed: nodes that make a graph output, because an output is the
 * result of a node; nodes with an annotated input, because what the annotation does to the input happens before the operator. The
 * value keeps its id and name. Constants that are left without a use stay for dead_code.
 */
#include "lib/ir/ir.h"

#include <stdlib.h>
#include <string.h>

static bool small(const struct qd_value *v)
{
	return qd_shape_elements(&v->shape) <= QD_CONSTANT_ELEMENTS;
}

static bool foldable(const struct qd_graph *g, const struct qd_node *node)
{
	if (!(qd_op(node->op)->flags & QD_OPF_FOLD))
		return false;
	for (size_t i = 0; i < node->n_in && node->op != QD_OP_SHAPE; i++) {
		const struct qd_value *v = node->in[i] != QD_NONE ? &g->values[node->in[i]] : NULL;
		if (v != NULL && (v->kind != QD_WEIGHT || v->encoding != NULL || !small(v)))
			return false;
	}
	for (size_t i = 0; i < node->n_out; i++)
		if (!small(&g->values[node->out[i]]) || qd_graph_is_output(g, node->out[i]))
			return false;
	return true;
}

/* Makes a weight of a result: its elements go to the arena in the width of the value's dtype (little-endian, as the carrier's are).
 */
static enum qd_status make_weight(struct qd_graph *g, qd_id id, const struct qd_tensor *elements)
{
	struct qd_value *v = &g->values[id];
	size_t n = (size_t)qd_shape_elements(&v->shape), width = qd_dtype_bits(v->dtype) / 8;
	size_t carrier = qd_dtype_bits(elements->dtype) / 8;
	char *data = qd_arena_array(&g->arena, n, width);

	if (data == NULL)
		return QD_ENOMEM;
	for (size_t i = 0; i < n; i++)
		memcpy(data + i * width, (const char *)elements->data + i * carrier, width);
	v->data = (struct qd_tensor){ .name = v->name, .dtype = v->dtype, .shape = v->shape, .data = data, .bytes = n * width };
	return QD_OK;
}

static enum qd_status fold_node(struct qd_graph *g, qd_id id)
{
	struct qd_node *node = &g->nodes[id];
	struct qd_tensor elements = { 0 };
	enum qd_status st = QD_OK;

	for (size_t i = 0; i < node->n_out; i++) {
		QD_TRY(st, qd_graph_constant(g, node->out[i], &elements));
		QD_TRY(st, make_weight(g, node->out[i], &elements));
		qd_tensor_release(&elements);
	}
	for (size_t i = 0; i < node->n_out; i++) {
		g->values[node->out[i]].kind = QD_WEIGHT;
		g->values[node->out[i]].producer = QD_NONE;
		g->values[node->out[i]].output_index = 0;
	}
	node->n_out = 0; /* the values live on */
	qd_graph_remove_node(g, id);
out:
	qd_tensor_release(&elements);
	return st;
}

static enum qd_status fold_run(struct qd_graph *g, void *context, size_t *changes)
{
	enum qd_status st = QD_OK;
	size_t at = 0;

	(void)context;
	while (at < g->n_order) {
		qd_id id = g->order[at];
		if (!foldable(g, &g->nodes[id])) {
			at++;
			continue;
		}
		QD_TRY(st, fold_node(g, id)); /* which takes the node out of the order */
		++*changes;
	}
out:
	return st;
}

const struct qd_pass qd_pass_fold_constants = { "fold_constants", "compute nodes whose inputs are small constants", fold_run };
