/*
 * Module paths of layers from an exporter's names, and weights called after them. A path begins with one of UNet2DConditionModel's
 * own modules, whatever a wrapper put in front:
 *
 *   weight       "unet.mid_block.resnets.0.conv1.weight"         mid_block.resnets.0.conv1
 *   node         "/unet/mid_block/attentions.0/proj_in/MatMul"   mid_block.attentions.0.proj_in
 *   node         "mid_block.attentions.0.proj_in/node_linear_3"  the same, from metadata (onnx_names.c)
 *
 * A weight's name counts where it has a path in it and one layer uses it; else the node's, as for weights that were transposed
 * ("onnx::MatMul_1530", "val_115") and for equal weights that the exporter made one of.
 */
#include "lib/ir/rewrite.h"
#include "lib/model/internal.h"

#include <string.h>

static const char *const roots[] = { "conv_in", "time_embedding", "add_embedding", "encoder_hid_proj", "class_embedding",
	"down_blocks", "mid_block", "up_blocks", "conv_norm_out", "conv_out" };

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

enum qd_status qd_onnx_name_weights(struct qd_graph *g)
{
	enum qd_status st = QD_OK;
	/* all paths first: naming changes who uses what */
	const char **paths = qd_arena_array(&g->arena, g->n_order, sizeof(*paths));
	if (paths == NULL)
		return QD_ENOMEM;
	for (size_t i = 0; i < g->n_order; i++)
		paths[i] = is_layer(g, &g->nodes[g->order[i]]) ? layer_path(g, &g->nodes[g->order[i]]) : NULL;
	for (size_t i = 0; i < g->n_order; i++)
		if (is_layer(g, &g->nodes[g->order[i]]))
			QD_TRY(st, name_layer(g, g->order[i], paths[i]));
out:
	return st;
}
