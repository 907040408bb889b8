/* Encodings of the base model's weights, computed from the mapped file, one row in memory at a time. */
#include "quant/internal.h"

/* Conv and Gemm with transB hold [O, ...]: axis 0 is the output channel. MatMul's weights are [I, O] and take one scale. */
static bool rows_are_channels(const struct qd_node *node)
{
	return node->op == QD_OP_CONV || (node->op == QD_OP_GEMM && qd_node_int(node, "transB", 0) == 1);
}

static enum qd_status per_tensor(struct qd_arena *arena, const struct qd_tensor *t, int bits, struct qd_encoding **out)
{
	struct qd_range range;
	enum qd_status st = qd_tensor_range(t, &range);

	return st == QD_OK ? qd_encoding_from_range(arena, range.low, range.high, bits, true, out) : st;
}

enum qd_status qd_weight_encodings(struct qd_arena *arena, const struct qd_graph *g, const enum qd_entry_kind *kinds,
	const struct qd_quant_options *options, const struct qd_encoding **encodings)
{
	for (size_t i = 0; i < g->n_order; i++) {
		const struct qd_node *node = &g->nodes[g->order[i]];
		qd_id w = node->n_in > 1 ? node->in[1] : QD_NONE;
		struct qd_encoding *e;
		enum qd_status st;

		if (w == QD_NONE || kinds[w] != QD_ENTRY_WEIGHT || encodings[w] != NULL)
			continue;
		if (options->weight_scheme == QD_WEIGHT_PER_CHANNEL && rows_are_channels(node))
			st = qd_encoding_per_channel(arena, &g->values[w].data, options->weight_bits, &e);
		else
			st = per_tensor(arena, &g->values[w].data, options->weight_bits, &e);
		if (st != QD_OK)
			return st;
		encodings[w] = e;
	}
	return QD_OK;
}
