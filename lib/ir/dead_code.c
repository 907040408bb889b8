/*
 * Pass dead_code: removes what no output needs.
 *
 *   before  %y = Relu(%x)   %z = Add(%x, %w)   output %y
 *   after   %y = Relu(%x)                      output %y      (w is gone too)
 *
 * Graph inputs stay even when unused: they are the interface. A node of several outputs stays whole when one of them is needed.
 */
#include "lib/ir/ir.h"

#include <stdlib.h>

static bool needs(const struct qd_node *node, const unsigned char *needed)
{
	for (size_t i = 0; i < node->n_out; i++)
		if (needed[node->out[i]])
			return true;
	return false;
}

/* From the last node to the first, so that users are decided before what they use. */
static size_t sweep_nodes(struct qd_graph *g, unsigned char *needed)
{
	size_t removed = 0;

	for (size_t at = g->n_order; at-- > 0;) {
		qd_id id = g->order[at];
		const struct qd_node *node = &g->nodes[id];
		if (!needs(node, needed)) {
			qd_graph_remove_node(g, id);
			removed++;
			continue;
		}
		for (size_t i = 0; i < node->n_in; i++)
			if (node->in[i] != QD_NONE)
				needed[node->in[i]] = 1;
	}
	return removed;
}

static size_t sweep_weights(struct qd_graph *g, const unsigned char *needed)
{
	size_t removed = 0;

	for (qd_id id = 0; id < g->n_values; id++) {
		struct qd_value *v = &g->values[id];
		if (v->kind != QD_WEIGHT || v->dead || needed[id])
			continue;
		v->dead = true;
		qd_strmap_remove(&g->value_names, v->name);
		removed++;
	}
	return removed;
}

static enum qd_status dead_code_run(struct qd_graph *g, void *context, size_t *changes)
{
	unsigned char *needed = calloc(g->n_values + 1, 1);

	(void)context;
	if (needed == NULL)
		return qd_fail(QD_ENOMEM, "out of memory");
	for (size_t i = 0; i < g->n_outputs; i++)
		needed[g->outputs[i]] = 1;
	*changes = sweep_nodes(g, needed);
	*changes += sweep_weights(g, needed);
	free(needed);
	return QD_OK;
}

const struct qd_pass qd_pass_dead_code = { "dead_code", "remove nodes and weights that no output needs", dead_code_run };
