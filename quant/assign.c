/* Which values carry which kind of encoding: the rules stand at qd_assign in quant.h. */
#include "quant/quant.h"

#include <stdlib.h>

static bool is_view(const struct qd_graph *g, qd_id value)
{
	const struct qd_value *v = &g->values[value];

	return v->kind == QD_RESULT && (qd_op(g->nodes[v->producer].op)->flags & QD_OPF_VIEW) != 0;
}

qd_id qd_value_source(const struct qd_graph *g, qd_id value)
{
	while (is_view(g, value))
		value = g->nodes[g->values[value].producer].in[0];
	return value;
}

/* Marks everything that a sine or cosine is computed from: angles, not signals. */
static void mark_angles(const struct qd_graph *g, bool *angle)
{
	for (size_t i = g->n_order; i-- > 0;) {
		const struct qd_node *node = &g->nodes[g->order[i]];
		bool marks = node->op == QD_OP_SIN || node->op == QD_OP_COS;

		for (size_t j = 0; j < node->n_out; j++)
			marks = marks || angle[node->out[j]];
		for (size_t j = 0; marks && j < node->n_in; j++)
			if (node->in[j] != QD_NONE)
				angle[node->in[j]] = true;
	}
}

static enum qd_entry_kind kind_of_signal(const struct qd_graph *g, qd_id value)
{
	const struct qd_value *v = &g->values[value];

	if (v->dead || v->dtype != QD_F32 || v->kind == QD_WEIGHT || is_view(g, value))
		return QD_ENTRY_NONE;
	switch (v->kind == QD_INPUT ? qd_lora_tensor_of(v->name) : QD_LORA_NONE) {
	case QD_LORA_DOWN:
	case QD_LORA_UP:
		return QD_ENTRY_LORA;
	case QD_LORA_GAIN:
	case QD_LORA_BIAS:
		return QD_ENTRY_NONE;
	default:
		return QD_ENTRY_ACTIVATION;
	}
}

enum qd_status qd_assign(const struct qd_graph *g, enum qd_entry_kind *kinds)
{
	bool *angle = calloc(g->n_values + 1, sizeof(*angle));

	if (angle == NULL)
		return qd_fail(QD_ENOMEM, "out of memory");
	mark_angles(g, angle);
	for (qd_id v = 0; v < g->n_values; v++)
		kinds[v] = angle[v] ? QD_ENTRY_NONE : kind_of_signal(g, v);
	for (size_t i = 0; i < g->n_order; i++) {
		const struct qd_node *node = &g->nodes[g->order[i]];
		const struct qd_value *w = node->n_in > 1 && node->in[1] != QD_NONE ? &g->values[node->in[1]] : NULL;

		if ((qd_op(node->op)->flags & QD_OPF_WEIGHT) != 0 && w != NULL && w->kind == QD_WEIGHT && w->dtype == QD_F32)
			kinds[node->in[1]] = QD_ENTRY_WEIGHT;
	}
	free(angle);
	return QD_OK;
}
