/*
 * Strides: which element of a buffer a value's element is. What only renames elements (transposes, reshapes, slices) costs nothing.
 */
#include "lib/engine/internal.h"

#include <string.h>

struct qd_view qd_view_ordered(const struct qd_shape *shape, const int *perm)
{
	struct qd_view v = { .shape = *shape };
	int64_t stride = 1;

	for (int i = shape->rank; i-- > 0;) {
		v.stride[perm[i]] = stride;
		stride *= shape->dim[perm[i]];
	}
	return v;
}

struct qd_view qd_view_row_major(const struct qd_shape *shape)
{
	static const int perm[QD_MAX_RANK] = { 0, 1, 2, 3, 4, 5, 6, 7 };

	return qd_view_ordered(shape, perm);
}

struct qd_view qd_view_default(const struct qd_shape *shape)
{
	static const int images[] = { 0, 2, 3, 1 };

	return shape->rank == 4 ? qd_view_ordered(shape, images) : qd_view_row_major(shape);
}

bool qd_view_equal(const struct qd_view *a, const struct qd_view *b)
{
	if (!qd_shape_equal(&a->shape, &b->shape))
		return false;
	for (int i = 0; i < a->shape.rank; i++)
		if (a->shape.dim[i] != 1 && a->stride[i] != b->stride[i])
			return false;
	return true;
}

/* The dimensions of more than one element, the one with the largest stride first. */
static int by_stride(const struct qd_view *v, int *order)
{
	int n = 0;

	for (int i = 0; i < v->shape.rank; i++) {
		int at = n;
		if (v->shape.dim[i] == 1)
			continue;
		for (; at > 0 && v->stride[order[at - 1]] < v->stride[i]; at--)
			order[at] = order[at - 1];
		order[at] = i;
		n++;
	}
	return n;
}

bool qd_view_is_dense(const struct qd_view *v)
{
	int order[QD_MAX_RANK], n = by_stride(v, order);
	int64_t stride = 1;

	for (int i = n; i-- > 0;) {
		if (v->stride[order[i]] != stride)
			return false;
		stride *= v->shape.dim[order[i]];
	}
	return true;
}

struct qd_view qd_view_broadcast(const struct qd_view *v, const struct qd_shape *shape)
{
	struct qd_view out = { .shape = *shape, .offset = v->offset };
	int missing = shape->rank - v->shape.rank;

	for (int i = missing; i < shape->rank; i++)
		out.stride[i] = v->shape.dim[i - missing] == 1 ? 0 : v->stride[i - missing];
	return out;
}

/* ---- walks ---- */

struct qd_walk qd_walk_by(const struct qd_view *leader, const struct qd_view *follower)
{
	struct qd_walk w = { .offset = follower->offset, .lead_offset = leader->offset };
	int order[QD_MAX_RANK], n = by_stride(leader, order);

	for (int i = 0; i < n; i++) {
		int64_t dim = leader->shape.dim[order[i]], stride = follower->stride[order[i]], lead = leader->stride[order[i]];
		int last = w.rank - 1;
		if (last >= 0 && w.stride[last] == stride * dim && w.lead[last] == lead * dim) {
			w.dim[last] *= dim;
			w.stride[last] = stride;
			w.lead[last] = lead;
			continue;
		}
		w.dim[w.rank] = dim;
		w.stride[w.rank] = stride;
		w.lead[w.rank++] = lead;
	}
	if (w.rank == 0) {
		w.rank = 1;
		w.dim[0] = w.stride[0] = w.lead[0] = 1;
	}
	return w;
}

bool qd_walk_is_straight(const struct qd_walk *w)
{
	return w->rank == 1 && w->stride[0] == 1 && w->lead[0] == 1 && w->offset == w->lead_offset;
}

void qd_walk_run(const struct qd_walk *w, size_t run, int64_t *at, int64_t *lead)
{
	*at = w->offset;
	*lead = w->lead_offset;
	for (int i = w->rank - 1; i-- > 0; run /= (size_t)w->dim[i]) {
		*at += (int64_t)(run % (size_t)w->dim[i]) * w->stride[i];
		*lead += (int64_t)(run % (size_t)w->dim[i]) * w->lead[i];
	}
}

size_t qd_walk_runs(const struct qd_walk *w)
{
	size_t runs = 1;

	for (int i = 0; i < w->rank - 1; i++)
		runs *= (size_t)w->dim[i];
	return runs;
}

/* ---- views that nodes give ---- */

/*
 * A reshape by strides, from the last dimension: the old ones form runs that are one step through memory each, and the new ones must
 * fill every run exactly.
 */
static bool reshaped(const struct qd_view *in, const struct qd_shape *shape, struct qd_view *out)
{
	int to = shape->rank - 1;
	int64_t run = 1, filled = 1, step = in->shape.rank > 0 ? in->stride[in->shape.rank - 1] : 1;

	if (qd_shape_elements(shape) == 0)
		return false;
	for (int from = in->shape.rank - 1; from >= 0; from--) {
		run *= in->shape.dim[from];
		if (from > 0 && (in->shape.dim[from - 1] == 1 || in->stride[from - 1] == run * step))
			continue;
		for (; to >= 0 && (filled < run || shape->dim[to] == 1); to--) {
			out->stride[to] = filled * step;
			filled *= shape->dim[to];
		}
		if (filled != run)
			return false;
		run = filled = 1;
		step = from > 0 ? in->stride[from - 1] : 1;
	}
	return true;
}

static void transposed(const struct qd_node *node, const struct qd_view *in, struct qd_view *out)
{
	const struct qd_attr *perm = qd_node_attr(node, "perm");

	for (int i = 0; i < in->shape.rank; i++) {
		int from = perm != NULL ? (int)perm->ints[i] : in->shape.rank - 1 - i;
		out->stride[i] = in->stride[from];
	}
}

static enum qd_status sliced(const struct qd_graph *g, const struct qd_node *node, const struct qd_view *in, struct qd_view *out)
{
	struct qd_slice_axis axes[QD_MAX_RANK];
	enum qd_status st;

	QD_TRY(st, qd_slice_axes(g, node, axes));
	for (int i = 0; i < in->shape.rank; i++) {
		out->offset += axes[i].begin * in->stride[i];
		out->stride[i] = in->stride[i] * axes[i].step;
	}
out:
	return st;
}

/* Output k of a Split begins where those before it end. */
static void split(
	const struct qd_graph *g, const struct qd_node *node, size_t output, const struct qd_view *in, struct qd_view *out)
{
	int64_t axis = qd_node_int(node, "axis", 0);

	axis += axis < 0 ? in->shape.rank : 0;
	memcpy(out->stride, in->stride, sizeof(out->stride));
	for (size_t i = 0; i < output; i++)
		out->offset += g->values[node->out[i]].shape.dim[axis] * in->stride[axis];
}

enum qd_status qd_view_of_node(const struct qd_graph *g, const struct qd_node *node, size_t output, const struct qd_view *in,
	struct qd_view *out, bool *found)
{
	const struct qd_shape *shape = &g->values[node->out[output]].shape;

	*out = (struct qd_view){ .shape = *shape, .offset = in->offset };
	*found = true;
	switch (node->op) {
	case QD_OP_RESHAPE:
	case QD_OP_UNSQUEEZE:
	case QD_OP_SQUEEZE:
	case QD_OP_FLATTEN:
		*found = reshaped(in, shape, out);
		break;
	case QD_OP_IDENTITY:
		*out = *in;
		break;
	case QD_OP_TRANSPOSE:
		transposed(node, in, out);
		break;
	case QD_OP_SLICE:
		return sliced(g, node, in, out);
	case QD_OP_SPLIT:
		split(g, node, output, in, out);
		break;
	case QD_OP_EXPAND:
		*out = qd_view_broadcast(in, shape);
		break;
	default:
		*found = false;
	}
	return QD_OK;
}
