/*
 * Pass views: chains of nodes that only move elements.
 *
 *   Reshape(Reshape(x))                                       Reshape(x)
 *   Transpose(Transpose(x))                                   Transpose(x)
 *   Reshape[A,B,D,C](Transpose[0,2,1](Reshape[A*B,C,D](x)))   Transpose[0,1,3,2](x), x [A,B,C,D]
 *   Slice of a Concat along its axis, of one whole part       the part
 */
#include "lib/ir/rewrite.h"

#include <string.h>

static const int64_t *perm_of(const struct qd_node *node, int rank, int64_t *reversed)
{
	const struct qd_attr *perm = qd_node_attr(node, "perm");
	for (int i = 0; i < rank; i++)
		reversed[i] = rank - 1 - i;
	return perm != NULL ? perm->ints : reversed;
}

/* x [A,B,C,D] of Reshape(Transpose(Reshape(x))) that swaps C and D, or QD_NONE. */
static qd_id swapped_source(const struct qd_graph *g, const struct qd_node *last)
{
	int64_t reversed[QD_MAX_RANK];
	const struct qd_node *turn = qd_made_by(g, last->in[0], QD_OP_TRANSPOSE);
	const struct qd_node *first = turn != NULL ? qd_made_by(g, turn->in[0], QD_OP_RESHAPE) : NULL;
	if (first == NULL)
		return QD_NONE;
	const struct qd_shape *x = &g->values[first->in[0]].shape, *merged = &g->values[first->out[0]].shape;
	const struct qd_shape *y = &g->values[last->out[0]].shape;
	const int64_t *perm = perm_of(turn, merged->rank, reversed);
	if (x->rank != 4 || merged->rank != 3 || y->rank != 4 || perm[0] != 0 || perm[1] != 2)
		return QD_NONE;
	bool same = merged->dim[1] == x->dim[2] && merged->dim[2] == x->dim[3] && y->dim[0] == x->dim[0] &&
		    y->dim[1] == x->dim[1] && y->dim[2] == x->dim[3] && y->dim[3] == x->dim[2];
	return same ? first->in[0] : QD_NONE;
}

static size_t reshape(struct qd_graph *g, qd_id id)
{
	const struct qd_node *node = &g->nodes[id];
	qd_id swapped = swapped_source(g, node);
	const struct qd_node *before = qd_made_by(g, node->in[0], QD_OP_RESHAPE);
	static const int64_t swap[] = { 0, 1, 3, 2 };
	struct qd_attr perm = { .name = "perm", .type = QD_ATTR_INTS, .ints = swap, .n_ints = QD_COUNT(swap) };
	if (swapped != QD_NONE)
		qd_graph_change(g, id, QD_OP_TRANSPOSE, 1, &swapped, 1, &perm);
	else if (before != NULL && qd_shape_elements(&g->values[node->out[0]].shape) > 0)
		qd_graph_change_to_reshape(g, id, before->in[0]);
	else
		return 0;
	return 1;
}

static size_t transpose(struct qd_graph *g, qd_id id)
{
	const struct qd_node *node = &g->nodes[id], *before = qd_made_by(g, node->in[0], QD_OP_TRANSPOSE);
	int rank = g->values[node->out[0]].shape.rank;
	int64_t both[QD_MAX_RANK], reversed[2][QD_MAX_RANK];
	if (before == NULL)
		return 0;
	const int64_t *last = perm_of(node, rank, reversed[0]), *first = perm_of(before, rank, reversed[1]);
	for (int i = 0; i < rank; i++)
		both[i] = first[last[i]];
	struct qd_attr perm = { .name = "perm", .type = QD_ATTR_INTS, .ints = both, .n_ints = (size_t)rank };
	qd_graph_change(g, id, QD_OP_TRANSPOSE, 1, &before->in[0], 1, &perm);
	return 1;
}

/* The part of a Concat that a Slice takes whole, or QD_NONE. */
static qd_id whole_part(struct qd_graph *g, const struct qd_node *node)
{
	const struct qd_node *concat = qd_made_by(g, node->in[0], QD_OP_CONCAT);
	struct qd_slice_axis axes[QD_MAX_RANK];
	int64_t at = 0;
	if (concat == NULL || !qd_is_answer(g, qd_slice_axes(g, node, axes)))
		return QD_NONE;
	const struct qd_shape *shape = &g->values[node->in[0]].shape;
	int64_t axis = qd_node_int(concat, "axis", 0);
	axis += axis < 0 ? shape->rank : 0;
	for (int i = 0; i < shape->rank; i++)
		if (axes[i].step != 1 || (i != axis && axes[i].count != shape->dim[i]))
			return QD_NONE;
	for (size_t i = 0; i < concat->n_in; i++) {
		int64_t size = g->values[concat->in[i]].shape.dim[axis];
		if (at == axes[axis].begin && size == axes[axis].count)
			return concat->in[i];
		at += size;
	}
	return QD_NONE;
}

static size_t slice(struct qd_graph *g, qd_id id)
{
	qd_id out = g->nodes[id].out[0], part = whole_part(g, &g->nodes[id]);
	if (part == QD_NONE || qd_graph_is_output(g, out))
		return 0;
	return qd_graph_replace(g, out, part, QD_NONE) > 0;
}

static enum qd_status views_visit(struct qd_graph *g, qd_id id, void *context, size_t *changes)
{
	(void)context;
	switch (g->nodes[id].op) {
	case QD_OP_RESHAPE:
		*changes += reshape(g, id);
		break;
	case QD_OP_TRANSPOSE:
		*changes += transpose(g, id);
		break;
	case QD_OP_SLICE:
		*changes += slice(g, id);
		break;
	default:
		break;
	}
	return QD_OK;
}

static enum qd_status views_run(struct qd_graph *g, void *context, size_t *changes)
{
	return qd_graph_visit(g, views_visit, context, changes);
}

const struct qd_pass qd_pass_views = { "views", "join chains of nodes that only move elements", views_run };
