/*
 * Shape rules, part 2: operators that compute along axes (softmax, normalizations, reductions).
 */
#include "lib/ir/internal.h"

enum qd_status qd_rule_softmax(const struct qd_graph *g, struct qd_node *node, struct qd_shape *out, enum qd_dtype *dtype)
{
	const struct qd_value *x = qd_node_in(g, node, 0);
	enum qd_status st;
	int axis;

	QD_TRY(st, qd_need_f32(x, "input"));
	QD_TRY(st, qd_axis(qd_node_int(node, "axis", -1), x->shape.rank, &axis));
	QD_TRY(st, qd_same_as_input(g, node, out, dtype));
out:
	return st;
}

/* Statistics are computed in float32; that is what stash_type 1 says. */
static enum qd_status need_stash_f32(const struct qd_node *node)
{
	if (qd_node_int(node, "stash_type", 1) != 1)
		return qd_fail(QD_EUNSUPPORTED, "stash_type is %lld, must be 1", (long long)qd_node_int(node, "stash_type", 1));
	return QD_OK;
}

/* Normalization of x [N,C,...] with scale [C] and bias [C]. */
static enum qd_status channel_norm(const struct qd_graph *g, struct qd_node *node, struct qd_shape *out, enum qd_dtype *dtype)
{
	const struct qd_value *x = qd_node_in(g, node, 0);
	enum qd_status st;

	QD_TRY(st, qd_need_f32(x, "input"));
	QD_TRY(st, qd_need_same_dtype(g, node));
	if (x->shape.rank < 2)
		return qd_fail(QD_EINPUT, "input '%s' has %d dimensions, needs at least 2", x->name, x->shape.rank);
	QD_TRY(st, qd_need_vector(qd_node_in(g, node, 1), "norm scale", x->shape.dim[1]));
	QD_TRY(st, qd_need_vector(qd_node_in(g, node, 2), "norm bias", x->shape.dim[1]));
	QD_TRY(st, qd_same_as_input(g, node, out, dtype));
out:
	return st;
}

enum qd_status qd_rule_group_norm(const struct qd_graph *g, struct qd_node *node, struct qd_shape *out, enum qd_dtype *dtype)
{
	int64_t groups = qd_node_int(node, "num_groups", 0);
	enum qd_status st;

	QD_TRY(st, channel_norm(g, node, out, dtype));
	QD_TRY(st, need_stash_f32(node));
	if (groups < 1 || out->dim[1] % groups != 0)
		return qd_fail(
			QD_EINPUT, "%lld channels do not divide into %lld groups", (long long)out->dim[1], (long long)groups);
out:
	return st;
}

enum qd_status qd_rule_instance_norm(const struct qd_graph *g, struct qd_node *node, struct qd_shape *out, enum qd_dtype *dtype)
{
	return channel_norm(g, node, out, dtype);
}

enum qd_status qd_rule_layer_norm(const struct qd_graph *g, struct qd_node *node, struct qd_shape *out, enum qd_dtype *dtype)
{
	const struct qd_value *x = qd_node_in(g, node, 0), *bias = qd_node_in(g, node, 2);
	struct qd_shape tail = { 0 };
	enum qd_status st;
	int axis;

	QD_TRY(st, qd_need_f32(x, "input"));
	QD_TRY(st, qd_need_same_dtype(g, node));
	QD_TRY(st, need_stash_f32(node));
	QD_TRY(st, qd_axis(qd_node_int(node, "axis", -1), x->shape.rank, &axis));
	for (int i = axis; i < x->shape.rank; i++)
		tail.dim[tail.rank++] = x->shape.dim[i];
	QD_TRY(st, qd_need_broadcast_to(qd_node_in(g, node, 1), "norm scale", &tail));
	if (bias != NULL)
		QD_TRY(st, qd_need_broadcast_to(bias, "norm bias", &tail));
	QD_TRY(st, qd_same_as_input(g, node, out, dtype));
out:
	return st;
}

/* No axes mean all of them, or none when noop_with_empty_axes is set. */
enum qd_status qd_reduced_axes_of(
	const struct qd_graph *g, const struct qd_node *node, const struct qd_tensor *const *in, unsigned *out)
{
	int rank = qd_node_in(g, node, 0)->shape.rank;
	int64_t axes[QD_MAX_RANK];
	enum qd_status st = QD_OK;
	size_t n = 0;

	*out = 0;
	if (qd_node_in(g, node, 1) != NULL)
		QD_TRY(st, qd_node_ints(g, node, in, 1, QD_MAX_RANK, axes, &n));
	if (n > 0)
		QD_TRY(st, qd_axes(n, axes, rank, out));
	else if (!qd_node_int(node, "noop_with_empty_axes", 0))
		*out = (1u << rank) - 1;
out:
	return st;
}

enum qd_status qd_reduced_axes(const struct qd_graph *g, const struct qd_node *node, unsigned *out)
{
	return qd_reduced_axes_of(g, node, NULL, out);
}

/* Axes of `axes` become 1, or go. */
static void reduce_shape(const struct qd_shape *x, unsigned axes, bool keep, struct qd_shape *out)
{
	out->rank = 0;
	for (int i = 0; i < x->rank; i++)
		if (!(axes >> i & 1))
			out->dim[out->rank++] = x->dim[i];
		else if (keep)
			out->dim[out->rank++] = 1;
}

enum qd_status qd_rule_reduce(const struct qd_graph *g, struct qd_node *node, struct qd_shape *out, enum qd_dtype *dtype)
{
	const struct qd_value *x = qd_node_in(g, node, 0);
	enum qd_status st;
	unsigned axes;

	if (node->op == QD_OP_REDUCE_MEAN)
		QD_TRY(st, qd_need_f32(x, "input"));
	else
		QD_TRY(st, qd_need_number(x));
	QD_TRY(st, qd_reduced_axes(g, node, &axes));
	reduce_shape(&x->shape, axes, qd_node_int(node, "keepdims", 1) != 0, out);
	*dtype = x->dtype;
out:
	return st;
}

enum qd_status qd_rule_arg_max(const struct qd_graph *g, struct qd_node *node, struct qd_shape *out, enum qd_dtype *dtype)
{
	const struct qd_value *x = qd_node_in(g, node, 0);
	enum qd_status st;
	int axis;

	QD_TRY(st, qd_need_number(x));
	QD_TRY(st, qd_axis(qd_node_int(node, "axis", 0), x->shape.rank, &axis));
	if (x->shape.dim[axis] == 0)
		return qd_fail(QD_EINPUT, "axis %d of '%s' is empty, has no largest element", axis, x->name);
	reduce_shape(&x->shape, 1u << axis, qd_node_int(node, "keepdims", 1) != 0, out);
	*dtype = QD_I64;
out:
	return st;
}
