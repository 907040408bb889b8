/*
 * The ends of a UNet's graph in the form that folders give.
 *
 *   before  input %timestep i64[]   %a = Reshape(%timestep, [1])   %b = Expand(%a, [N])   %c = Cast(%b) {to=1}
 *           %d = Reshape(%c, [N,1])   %e = Mul(%d, %freqs)   ...   output %out_sample
 *   after   input %timestep f32[N]   %d = Reshape(%timestep, [N,1])   %e = Mul(%d, %freqs)   ...
 *           %out = Identity(%out_sample)   output %out
 *
 * Exporters declare the timestep as one number or as one per sample, as integers or as floats; on the way to the sinusoid it is
 * only moved. Further outputs of the file are left out.
 */
#include "lib/model/internal.h"

#include <stdlib.h>
#include <string.h>

/* ---- timestep ---- */

static bool only_moves(enum qd_op op)
{
	return op == QD_OP_RESHAPE || op == QD_OP_EXPAND || op == QD_OP_CAST || op == QD_OP_UNSQUEEZE || op == QD_OP_SQUEEZE ||
	       op == QD_OP_IDENTITY || op == QD_OP_FLATTEN;
}

/* What a node takes from the timestep becomes a Reshape of the new input. */
static enum qd_status rewire(struct qd_graph *g, qd_id node, qd_id moved, qd_id timestep, int64_t batch)
{
	const struct qd_shape shape = g->values[moved].shape;
	if (g->values[moved].dtype != QD_F32)
		return qd_fail(QD_EUNSUPPORTED, "node '%s' computes with the timestep as %s, needs float", g->nodes[node].name,
			qd_dtype_name(g->values[moved].dtype));
	if (qd_shape_elements(&shape) != batch)
		return qd_fail(QD_EUNSUPPORTED, "node '%s' takes %lld timesteps, needs one for each of the %lld samples",
			g->nodes[node].name, (long long)qd_shape_elements(&shape), (long long)batch);
	qd_id form = qd_graph_reshaped(g, node, "timestep", timestep, &shape);
	for (size_t i = 0; i < g->nodes[node].n_in; i++)
		if (g->nodes[node].in[i] == moved)
			g->nodes[node].in[i] = form;
	return qd_graph_status(g);
}

/* `moved` marks the values that are the timestep, only moved. */
static enum qd_status visit_uses(struct qd_graph *g, bool *moved, size_t n_moved, qd_id timestep, int64_t batch)
{
	enum qd_status st = QD_OK;
	size_t n = g->n_order;
	for (size_t k = 0; k < n; k++) {
		qd_id id = g->order[k];
		for (size_t i = 0; i < g->nodes[id].n_in; i++) {
			qd_id in = g->nodes[id].in[i];
			if (in >= n_moved || !moved[in])
				continue;
			if (i == 0 && only_moves(g->nodes[id].op))
				moved[g->nodes[id].out[0]] = true;
			else
				QD_TRY(st, rewire(g, id, in, timestep, batch));
		}
	}
out:
	return st;
}

/* The old input's place among the inputs goes to the new one. */
static enum qd_status timestep_per_sample(struct qd_graph *g, int64_t batch)
{
	enum qd_status st;
	qd_id old = qd_graph_find(g, "timestep");
	size_t n_moved = g->n_values;
	bool *moved = calloc(n_moved + 1, sizeof(*moved));
	if (moved == NULL)
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory"));
	QD_TRY(st, qd_graph_rename(g, old, qd_graph_unique(g, "timestep.declared")));
	qd_id timestep = qd_graph_input(g, "timestep", QD_F32, QD_SHAPE(batch));
	QD_TRY(st, qd_graph_status(g));
	moved[old] = true;
	QD_TRY(st, visit_uses(g, moved, n_moved, timestep, batch));
	g->n_inputs--;
	for (size_t i = 0; i < g->n_inputs; i++)
		g->inputs[i] = g->inputs[i] == old ? timestep : g->inputs[i];
	g->values[old].dead = true;
	qd_strmap_remove(&g->value_names, g->values[old].name);
	QD_TRY(st, qd_graph_sort(g));
out:
	free(moved);
	return st;
}

/* ---- output ---- */

static enum qd_status output_out(struct qd_graph *g)
{
	enum qd_status st = QD_OK;
	qd_id taken = qd_graph_find(g, "out");
	if (g->n_outputs == 0)
		return qd_fail(QD_EINPUT, "the graph has no output");
	if (g->n_outputs > 1)
		qd_log(QD_LOG_INFO, "only output '%s' is used, %zu others are not", g->values[g->outputs[0]].name,
			g->n_outputs - 1);
	if (taken != QD_NONE)
		QD_TRY(st, qd_graph_rename(g, taken, qd_graph_unique(g, "out.declared")));
	qd_id out = qd_graph_node(
		g, QD_OP_IDENTITY, qd_graph_find_node(g, "out") == QD_NONE ? "out" : "out.node", 1, &g->outputs[0], 0, NULL);
	QD_TRY(st, qd_graph_status(g));
	if (strcmp(g->values[out].name, "out") != 0)
		QD_TRY(st, qd_graph_rename(g, out, "out"));
	g->outputs[0] = out;
	g->n_outputs = 1;
out:
	return st;
}

enum qd_status qd_onnx_unet_ends(struct qd_graph *g, int64_t batch)
{
	enum qd_status st;
	size_t changes = 0;
	QD_TRY(st, timestep_per_sample(g, batch));
	QD_TRY(st, output_out(g));
	QD_TRY(st, qd_pass_dead_code.run(g, NULL, &changes));
out:
	return st;
}
