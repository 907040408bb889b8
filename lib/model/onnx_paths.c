/*
 * Module paths of layers from an exporter's names, and weights called after them. A path begins with one of UNet2DConditionModel's
 * own modules, whatever a wrapper put in front:
 *
 *   weight       "unet.mid_block.resnets.0.conv1.weight"         mid_block.resnets.0.conv1
 *   node         "/unet/mid_block/attentions.0/proj_in/MatMul"   mid_block.attentions.0.proj_in
 *   node         "mid_block.attentions.0.proj_in/node_linear_3"  the same, from metadata (lib/onnx/names.c)
 *
 * A weight's name counts where it has a path in it and one layer uses it; else the node's, as for weights that were transposed
 * ("onnx::MatMul_1530", "val_115") and for equal weights that the exporter made one of. Where optimizers took the nodes' paths away
 * too, all that is left without a name are an attention's projections, which have no bias: they are the ones that their
 * "<attention>.to_out.0" comes from,
 *
 *   to_out.0( Softmax( to_q(x) to_k(y)^T ) to_v(y) )
 */
#include "lib/model/internal.h"

#include <string.h>

static const char *const roots[] = { "conv_in", "time_embedding", "add_embedding", "encoder_hid_proj", "class_embedding",
	"down_blocks", "mid_block", "up_blocks", "conv_norm_out", "conv_out" };

static const char to_out[] = ".to_out.0";

/* Where a module of the UNet begins in a dotted name; NULL when there is none. */
static const char *root_in(const char *name)
{
	const char *found = NULL;
	for (size_t i = 0; i < QD_COUNT(roots); i++) {
		size_t n = strlen(roots[i]);
		for (const char *at = name; (at = strstr(at, roots[i])) != NULL; at += n)
			if ((at == name || at[-1] == '.') && at[n] == '.' && (found == NULL || at < found))
				found = at;
	}
	return found;
}

/* The path in "<path><suffix>", or NULL. */
static const char *path_of_weight(struct qd_graph *g, const char *name, const char *suffix)
{
	const char *at = qd_ends_with(name, suffix) ? root_in(name) : NULL;
	return at != NULL ? qd_arena_strf(&g->arena, "%.*s", (int)(strlen(at) - strlen(suffix)), at) : NULL;
}

/* The path in front of a node name's last slash, or NULL. */
static const char *path_of_node(struct qd_graph *g, const struct qd_node *node)
{
	const char *slash = strrchr(node->name, '/');
	char *dotted = slash != NULL ? qd_arena_strf(&g->arena, "%.*s.", (int)(slash - node->name), node->name) : NULL;
	for (char *c = dotted; c != NULL && *c != '\0'; c++)
		*c = *c == '/' ? '.' : *c;
	const char *at = dotted != NULL ? root_in(dotted) : NULL;
	return at != NULL ? qd_arena_strf(&g->arena, "%.*s", (int)strlen(at) - 1, at) : NULL;
}

static bool is_layer(const struct qd_graph *g, const struct qd_node *node)
{
	switch (node->op) {
	case QD_OP_CONV:
	case QD_OP_GEMM:
	case QD_OP_GROUP_NORM:
	case QD_OP_LAYER_NORM:
		return node->n_in > 1 && g->values[node->in[1]].kind == QD_WEIGHT;
	default:
		return false;
	}
}

/* The module of a layer; NULL when nothing tells. */
static const char *layer_path(struct qd_graph *g, const struct qd_node *node)
{
	static const char *const suffixes[] = { ".weight", ".bias" };
	const char *of_node = path_of_node(g, node);
	for (size_t i = 1; i <= 2 && i < node->n_in; i++) {
		if (node->in[i] == QD_NONE || (of_node != NULL && qd_graph_uses(g, node->in[i]) != 1))
			continue;
		const char *path = path_of_weight(g, g->values[node->in[i]].name, suffixes[i - 1]);
		if (path != NULL)
			return path;
	}
	return of_node;
}

/* Input i of the layer becomes a weight called `name`: renamed, or another one of the same bytes where it is used elsewhere too. */
static enum qd_status name_weight(struct qd_graph *g, qd_id id, size_t i, const char *name)
{
	enum qd_status st;
	qd_id value = g->nodes[id].in[i], taken = qd_graph_find(g, name);
	if (taken == value)
		return QD_OK;
	if (taken != QD_NONE)
		QD_TRY(st, qd_graph_rename(g, taken, qd_graph_unique(g, "weight")));
	if (qd_graph_uses(g, value) == 1)
		return qd_graph_rename(g, value, name);
	struct qd_tensor data = g->values[value].data;
	g->nodes[id].in[i] = qd_graph_weight(g, name, &data);
	QD_TRY(st, qd_graph_status(g));
out:
	return st;
}

static enum qd_status name_layer(struct qd_graph *g, qd_id id, const char *path)
{
	static const char *const leaves[] = { "weight", "bias" };
	enum qd_status st = QD_OK;
	if (path == NULL)
		return qd_fail(QD_EINPUT,
			"layer '%s': neither its weight '%s' nor its name tells the module it belongs to, needs a path such as "
			"'mid_block.attentions.0.proj_in'",
			g->nodes[id].name, g->values[g->nodes[id].in[1]].name);
	for (size_t i = 1; i <= 2 && i < g->nodes[id].n_in; i++) {
		const char *name = qd_arena_strf(&g->arena, "%s.%s", path, leaves[i - 1]);
		if (name == NULL)
			return QD_ENOMEM;
		if (g->nodes[id].in[i] != QD_NONE)
			QD_TRY(st, name_weight(g, id, i, name));
	}
out:
	return st;
}

/* ---- an attention's projections ---- */

/* The node of operator `op` that `x` comes from through nodes that move, scale, mask or normalize it; QD_NONE: there is none. */
static qd_id source_of(const struct qd_graph *g, qd_id x, enum qd_op op)
{
	while (x != QD_NONE && g->values[x].kind == QD_RESULT) {
		const struct qd_node *node = &g->nodes[g->values[x].producer];
		if (node->op == op)
			return g->values[x].producer;
		if (node->op != QD_OP_RESHAPE && node->op != QD_OP_TRANSPOSE && node->op != QD_OP_MUL && node->op != QD_OP_ADD &&
			node->op != QD_OP_SOFTMAX)
			return QD_NONE;
		x = node->in[0];
	}
	return QD_NONE;
}

/* Names the projections of the attention that ends in layer `out`, called "<attention>.to_out.0", where they have no name. */
static enum qd_status name_projections(struct qd_graph *g, qd_id out, const char **paths)
{
	static const char *const leaves[] = { "to_q", "to_k", "to_v" };
	qd_id values = source_of(g, g->nodes[out].in[0], QD_OP_MATMUL),
	      scores = values != QD_NONE ? source_of(g, g->nodes[values].in[0], QD_OP_MATMUL) : QD_NONE;
	if (scores == QD_NONE)
		return QD_OK;
	const qd_id x[] = { g->nodes[scores].in[0], g->nodes[scores].in[1], g->nodes[values].in[1] };
	for (size_t i = 0; i < QD_COUNT(x); i++) {
		qd_id layer = source_of(g, x[i], QD_OP_GEMM);
		if (layer == QD_NONE || paths[layer] != NULL)
			continue;
		paths[layer] =
			qd_arena_strf(&g->arena, "%.*s%s", (int)(strlen(paths[out]) - strlen(to_out)) + 1, paths[out], leaves[i]);
		if (paths[layer] == NULL)
			return QD_ENOMEM;
	}
	return QD_OK;
}

/* The module path of every layer, by node; what is known of all of them before any is named: naming changes who uses what. */
static enum qd_status find_paths(struct qd_graph *g, const char **paths)
{
	enum qd_status st = QD_OK;
	for (size_t i = 0; i < g->n_order; i++)
		paths[g->order[i]] = is_layer(g, &g->nodes[g->order[i]]) ? layer_path(g, &g->nodes[g->order[i]]) : NULL;
	for (size_t i = 0; i < g->n_order; i++)
		if (paths[g->order[i]] != NULL && qd_ends_with(paths[g->order[i]], to_out))
			QD_TRY(st, name_projections(g, g->order[i], paths));
out:
	return st;
}

enum qd_status qd_onnx_name_weights(struct qd_graph *g)
{
	enum qd_status st;
	const char **paths = qd_arena_array(&g->arena, g->n_nodes, sizeof(*paths));
	if (paths == NULL)
		return QD_ENOMEM;
	QD_TRY(st, find_paths(g, paths));
	for (size_t i = 0; i < g->n_order; i++)
		if (is_layer(g, &g->nodes[g->order[i]]))
			QD_TRY(st, name_layer(g, g->order[i], paths[g->order[i]]));
out:
	return st;
}
