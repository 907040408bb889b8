/*
 * The layers that a LoRA can adapt: every Conv and Gemm whose weight W is a stored one called "<module path>.weight".
 */
#include "lib/adapter/internal.h"
#include "lib/weights/weights.h"

#include <stdio.h>
#include <string.h>

static const char suffix[] = ".weight";

/* The weight of a node that is a layer, or NULL. */
static const struct qd_value *layer_weight(const struct qd_graph *g, const struct qd_node *node)
{
	if ((node->op != QD_OP_CONV && node->op != QD_OP_GEMM) || node->n_in < 2 || node->in[1] == QD_NONE)
		return NULL;
	const struct qd_value *weight = &g->values[node->in[1]];
	return weight->kind == QD_WEIGHT && qd_ends_with(weight->name, suffix) ? weight : NULL;
}

/* Gemm weights are [out, in] with transB = 1, else [in, out]; kernels are [out, in, kh, kw]. */
static struct qd_module describe(const struct qd_node *node, const struct qd_value *weight)
{
	const int64_t *dim = weight->shape.dim;
	struct qd_module m = { .weight = node->in[1], .conv = node->op == QD_OP_CONV, .kh = 1, .kw = 1 };
	bool swapped = !m.conv && !qd_node_int(node, "transB", 0);
	m.out = dim[swapped ? 1 : 0];
	m.in = dim[swapped ? 0 : 1];
	if (m.conv) {
		m.kh = dim[2];
		m.kw = dim[3];
	}
	return m;
}

static size_t count_layers(const struct qd_graph *g)
{
	size_t n = 0;
	for (size_t i = 0; i < g->n_order; i++)
		n += layer_weight(g, &g->nodes[g->order[i]]) != NULL;
	return n;
}

enum qd_status qd_modules_of(struct qd_modules *modules, const struct qd_graph *g)
{
	enum qd_status st = QD_OK;
	*modules = (struct qd_modules){ 0 };
	modules->items = qd_arena_array(&modules->arena, count_layers(g), sizeof(*modules->items));
	if (!modules->items)
		QD_TRY(st, QD_ENOMEM);
	for (size_t i = 0; i < g->n_order; i++) {
		const struct qd_node *node = &g->nodes[g->order[i]];
		const struct qd_value *weight = layer_weight(g, node);
		if (!weight)
			continue;
		struct qd_module *m = &modules->items[modules->n];
		*m = describe(node, weight);
		m->node = g->order[i];
		int length = (int)(strlen(weight->name) - strlen(suffix));
		m->path = qd_arena_strf(&modules->arena, "%.*s", length, weight->name);
		if (!m->path)
			QD_TRY(st, QD_ENOMEM);
		QD_TRY(st, qd_strmap_put(&modules->by_path, m->path, (uint32_t)modules->n));
		modules->n++;
	}
out:
	if (st != QD_OK)
		qd_modules_release(modules);
	return st;
}

const struct qd_module *qd_modules_find(const struct qd_modules *modules, const char *path)
{
	uint32_t i = qd_strmap_get(&modules->by_path, path);
	return i == QD_NONE ? NULL : &modules->items[i];
}

void qd_modules_release(struct qd_modules *modules)
{
	qd_strmap_release(&modules->by_path);
	qd_arena_release(&modules->arena);
	*modules = (struct qd_modules){ 0 };
}

void qd_modules_ldm_layout(struct qd_ldm_layout *layout, const struct qd_modules *modules)
{
	*layout = (struct qd_ldm_layout){ 0 };
	for (size_t m = 0; m < modules->n; m++) {
		const char *path = modules->items[m].path;
		int block, layer;
		if (sscanf(path, "down_blocks.%d.resnets.%d.", &block, &layer) == 2 && block >= 0 && block < QD_MAX_BLOCKS) {
			layout->blocks = block >= layout->blocks ? block + 1 : layout->blocks;
			layout->layers[block] = layer >= layout->layers[block] ? layer + 1 : layout->layers[block];
		}
		if (sscanf(path, "up_blocks.%d.attentions.%d.", &block, &layer) == 2 && block >= 0 && block < QD_MAX_BLOCKS)
			layout->up_attention[block] = true;
	}
}
