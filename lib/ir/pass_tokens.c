/*
 * Pass tokens: layers over tokens [N,L,D] become layers over rows [N*L,D], and products with constant matrices become Gemm.
 *
 *   before  %n = LayerNormalization(%x, %g, %b)   %p = MatMul(%n, %w)   %y = Add(%bias, %p)      x [N,L,I], w [I,O], bias [O]
 *   after   %r = Reshape(%x, [N*L,I])   %n = LayerNormalization(%r, %g, %b)   %p = Gemm(%n, %w)   %s = Add(%bias, %p)
 *           %y = Reshape(%s, [N,L,O])
 *
 * A value has a row form when it is computed by MatMul with a constant matrix, by LayerNormalization of its last axis, or from a
 * value with one: element by element (with equal shapes, or constants of at most one dimension) or by slicing its last axis. The
 * node itself is left as the Reshape that gives the value back, which goes where nobody needs it. A MatMul with Transpose of a
 * constant [O,I] takes the constant as it is, with transB=1.
 */
#include "lib/ir/rewrite.h"

#include <stdlib.h>
#include <string.h>

struct rows {
	qd_id *of; /* by value: its row form, QD_NONE where there is none */
	size_t cap;
};

static enum qd_status set_rows(struct rows *rows, qd_id value, qd_id form)
{
	size_t had = rows->cap;
	enum qd_status st = qd_grow(&rows->of, &rows->cap, (size_t)value + 1, sizeof(*rows->of));
	if (st != QD_OK)
		return st;
	for (size_t i = had; i < rows->cap; i++)
		rows->of[i] = QD_NONE;
	rows->of[value] = form;
	return QD_OK;
}

static qd_id get_rows(const struct rows *rows, qd_id value)
{
	return value < rows->cap ? rows->of[value] : QD_NONE;
}

static int64_t last_dim(const struct qd_graph *g, qd_id value)
{
	const struct qd_shape *shape = &g->values[value].shape;
	return shape->dim[shape->rank - 1];
}

/* The row form of `x`, made by a Reshape beside node `id` where it has none. */
static qd_id as_rows(struct qd_graph *g, struct rows *rows, qd_id id, qd_id x)
{
	qd_id form = get_rows(rows, x);
	if (form != QD_NONE || x == QD_NONE)
		return form;
	int64_t last = last_dim(g, x);
	struct qd_shape shape = QD_SHAPE(qd_shape_elements(&g->values[x].shape) / last, last);
	form = qd_graph_reshaped(g, id, "tokens", x, &shape);
	if (form != QD_NONE)
		qd_graph_stop(g, set_rows(rows, x, form));
	return form;
}

/* ---- products ---- */

/* A constant matrix, or the constant under a Transpose of one. */
static bool constant_matrix(const struct qd_graph *g, qd_id value, qd_id *w, bool *transposed)
{
	const struct qd_node *node = qd_made_by(g, value, QD_OP_TRANSPOSE);
	*transposed = node != NULL;
	*w = node != NULL ? node->in[0] : value;
	const struct qd_value *v = &g->values[*w];
	return v->kind == QD_WEIGHT && v->shape.rank == 2 && v->dtype == QD_F32;
}

static enum qd_status product(struct qd_graph *g, struct rows *rows, qd_id id, size_t *changes)
{
	const struct qd_node node = g->nodes[id];
	qd_id x = node.in[0], w;
	bool transposed;
	struct qd_attr attr = QD_AI("transB", 1);
	int rank = g->values[x].shape.rank;
	if (rank < 2 || qd_shape_elements(&g->values[x].shape) == 0 || !constant_matrix(g, node.in[1], &w, &transposed))
		return QD_OK;
	++*changes;
	if (rank == 2) {
		qd_graph_change(g, id, QD_OP_GEMM, 2, (qd_id[]){ x, w }, transposed, &attr);
		return QD_OK;
	}
	qd_id in[2] = { as_rows(g, rows, id, x), w };
	qd_id y = qd_graph_beside(g, id, "rows", QD_OP_GEMM, 2, in, transposed, &attr);
	qd_graph_change_to_reshape(g, id, y);
	return set_rows(rows, node.out[0], y);
}

/* ---- along with them ---- */

static bool normalizes_last(const struct qd_graph *g, const struct qd_node *node)
{
	int64_t axis = qd_node_int(node, "axis", -1);
	return node->op == QD_OP_LAYER_NORM && (axis == -1 || axis == g->values[node->in[0]].shape.rank - 1);
}

static bool slices_last(struct qd_graph *g, const struct qd_node *node)
{
	int64_t axis = -1;
	size_t n = 0;
	if (node->op != QD_OP_SLICE || node->n_in != 4 || !qd_is_answer(g, qd_graph_ints(g, node->in[3], 1, &axis, &n)))
		return false;
	return n == 1 && (axis == -1 || axis == g->values[node->in[0]].shape.rank - 1);
}

/* Every operand has the output's shape, or is a constant that broadcasts over rows alike; one of them at least has rows. */
static bool is_elementwise(const struct qd_graph *g, const struct rows *rows, const struct qd_node *node)
{
	bool any = false;
	if (!(qd_op(node->op)->flags & QD_OPF_ELEMENTWISE))
		return false;
	for (size_t i = 0; i < node->n_in; i++) {
		const struct qd_value *v = node->in[i] != QD_NONE ? &g->values[node->in[i]] : NULL;
		if (v == NULL)
			return false;
		any = any || get_rows(rows, node->in[i]) != QD_NONE;
		if (!qd_same_shape(g, node->in[i], node->out[0]) && !(v->kind == QD_WEIGHT && v->shape.rank <= 1))
			return false;
	}
	return any;
}

/* The same node over rows: operands in row form, constants as they are, a sliced axis counted anew. */
static enum qd_status over_rows(struct qd_graph *g, struct rows *rows, qd_id id, size_t operands, size_t *changes)
{
	const struct qd_node node = g->nodes[id];
	enum qd_status st = QD_OK;
	struct qd_attr attrs[8];
	qd_id *in = calloc(node.n_in + 1, sizeof(*in));
	if (in == NULL)
		return qd_fail(QD_ENOMEM, "out of memory");
	for (size_t i = 0; i < node.n_in; i++) {
		bool row = i < operands && g->values[node.in[i]].shape.rank >= 3;
		in[i] = row ? as_rows(g, rows, id, node.in[i]) : node.in[i];
	}
	if (node.op == QD_OP_SLICE)
		in[3] = qd_graph_const_i64(g, NULL, 1, &(int64_t){ 1 });
	for (size_t i = 0; i < node.n_attrs && i < QD_COUNT(attrs); i++) {
		attrs[i] = node.attrs[i];
		if (node.op == QD_OP_LAYER_NORM && !strcmp(attrs[i].name, "axis"))
			attrs[i].i = -1;
	}
	qd_id y = qd_graph_beside(g, id, "rows", node.op, node.n_in, in, node.n_attrs, attrs);
	qd_graph_change_to_reshape(g, id, y);
	QD_TRY(st, set_rows(rows, node.out[0], y));
	++*changes;
out:
	free(in);
	return st;
}

static enum qd_status tokens_visit(struct qd_graph *g, qd_id id, void *context, size_t *changes)
{
	struct rows *rows = context;
	const struct qd_node *node = &g->nodes[id];
	if (node->op == QD_OP_MATMUL)
		return product(g, rows, id, changes);
	if (node->n_out != 1 || g->values[node->out[0]].shape.rank < 3 || g->values[node->out[0]].dtype != QD_F32 ||
		qd_shape_elements(&g->values[node->out[0]].shape) == 0)
		return QD_OK;
	if (normalizes_last(g, node) || (slices_last(g, node) && get_rows(rows, node->in[0]) != QD_NONE))
		return over_rows(g, rows, id, 1, changes);
	return is_elementwise(g, rows, node) ? over_rows(g, rows, id, node->n_in, changes) : QD_OK;
}

static enum qd_status tokens_run(struct qd_graph *g, void *context, size_t *changes)
{
	struct rows rows = { 0 };
	(void)context;
	enum qd_status st = qd_graph_visit(g, tokens_visit, &rows, changes);
	free(rows.of);
	return st;
}

const struct qd_pass qd_pass_tokens = { "tokens", "compute layers over tokens as layers over rows", tokens_run };
