/*
 * Pass output_major: constant matrices of products are stored [O,I].
 *
 *   before  %y = Gemm(%x, %w)                w [I,O]
 *   after   %y = Gemm(%x, %wt) {transB=1}    wt [O,I], w transposed, in its own number format
 *
 * Exporters transpose what frameworks store as [O,I]. The context, where there is one, is a struct qd_transposed that keeps the
 * copies, so that the next graph of the same file does not make them again; without one they lie in the graph's arena.
 */
#include "lib/ir/rewrite.h"

#include <stdlib.h>
#include <string.h>

enum { TILE = 32 };

static void transpose(const char *in, size_t rows, size_t columns, size_t width, char *out)
{
	for (size_t r0 = 0; r0 < rows; r0 += TILE)
		for (size_t c0 = 0; c0 < columns; c0 += TILE)
			for (size_t r = r0; r < rows && r < r0 + TILE; r++)
				for (size_t c = c0; c < columns && c < c0 + TILE; c++)
					memcpy(out + (c * rows + r) * width, in + (r * columns + c) * width, width);
}

static enum qd_status copy_of(struct qd_graph *g, struct qd_transposed *kept, const struct qd_tensor *w, void **out)
{
	enum qd_status st = QD_OK;
	struct qd_transposed_copy copy = { .from = w->data };
	size_t rows = (size_t)w->shape.dim[0], columns = (size_t)w->shape.dim[1];
	for (size_t i = 0; kept != NULL && i < kept->n; i++)
		if (kept->copies[i].from == w->data) {
			*out = kept->copies[i].to;
			return QD_OK;
		}
	copy.to = qd_arena_alloc(kept != NULL ? &kept->arena : &g->arena, w->bytes);
	if (copy.to == NULL)
		return QD_ENOMEM;
	transpose(w->data, rows, columns, qd_dtype_bits(w->dtype) / 8, copy.to);
	if (kept != NULL)
		QD_PUSH(st, kept->copies, kept->n, kept->cap, copy);
	*out = copy.to;
out:
	return st;
}

void qd_transposed_release(struct qd_transposed *kept)
{
	free(kept->copies);
	qd_arena_release(&kept->arena);
	*kept = (struct qd_transposed){ 0 };
}

static enum qd_status output_major_visit(struct qd_graph *g, qd_id id, void *context, size_t *changes)
{
	const struct qd_node node = g->nodes[id];
	enum qd_status st = QD_OK;
	struct qd_attr attrs[4] = { QD_AI("transB", 1) };
	qd_id in[3] = { QD_NONE, QD_NONE, QD_NONE };
	size_t n = 1;
	if (node.op != QD_OP_GEMM || qd_node_int(&node, "transB", 0) != 0)
		return QD_OK;
	const struct qd_value *w = &g->values[node.in[1]];
	if (w->kind != QD_WEIGHT || w->encoding != NULL || w->data.data == NULL || qd_dtype_bits(w->data.dtype) % 8 != 0)
		return QD_OK;
	struct qd_tensor turned = w->data;
	QD_TRY(st, copy_of(g, context, &w->data, &turned.data));
	turned.shape = QD_SHAPE(w->shape.dim[1], w->shape.dim[0]);
	const char *name = qd_graph_unique(g, qd_arena_strf(&g->arena, "%s.T", w->name));
	memcpy(in, node.in, node.n_in * sizeof(*in));
	in[1] = name != NULL ? qd_graph_weight(g, name, &turned) : QD_NONE;
	for (size_t i = 0; i < node.n_attrs; i++)
		if (strcmp(node.attrs[i].name, "transB") != 0)
			attrs[n++] = node.attrs[i];
	qd_graph_change(g, id, QD_OP_GEMM, node.n_in, in, n, attrs);
	++*changes;
out:
	return st;
}

static enum qd_status output_major_run(struct qd_graph *g, void *context, size_t *changes)
{
	return qd_graph_visit(g, output_major_visit, context, changes);
}

const struct qd_pass qd_pass_output_major = { "output_major", "store constant matrices of products as [O,I]", output_major_run };
