/*
 * Shape rules, part 3: operators that move data without computing, and Shape. Their parameters (axes, sizes, starts) are inputs in
 * ONNX; because shapes are static, they must be constants or follow from constants and shapes.
 */
#include "lib/ir/internal.h"

#include <limits.h>
#include <math.h>
#include <string.h>

/* ---- the same elements under another shape ---- */

/* The dimension that -1 stands for: what is left of `elements` by the others. */
static enum qd_status reshape_rest(int64_t elements, int rest, struct qd_shape *out)
{
	int64_t known = 1;

	for (int i = 0; i < out->rank; i++)
		if (i != rest && __builtin_mul_overflow(known, out->dim[i], &known))
			return qd_fail(QD_EINPUT, "the asked shape is too large");
	if (known == 0 || elements % known != 0)
		return qd_fail(QD_EINPUT, "%lld elements do not divide by %lld, needed to find dimension %d", (long long)elements,
			(long long)known, rest);
	out->dim[rest] = elements / known;
	return QD_OK;
}

enum qd_status qd_rule_reshape(const struct qd_graph *g, struct qd_node *node, struct qd_shape *out, enum qd_dtype *dtype)
{
	const struct qd_value *x = qd_node_in(g, node, 0);
	bool allow_zero = qd_node_int(node, "allowzero", 0) != 0;
	char from[QD_SHAPE_TEXT], to[QD_SHAPE_TEXT];
	int rest = -1;
	enum qd_status st;
	size_t n;

	QD_TRY(st, qd_graph_ints(g, node->in[1], QD_MAX_RANK, out->dim, &n));
	out->rank = (int)n;
	*dtype = x->dtype;
	for (int i = 0; i < out->rank; i++) {
		if (out->dim[i] == -1 && rest >= 0)
			return qd_fail(QD_EINPUT, "the asked shape has two dimensions of -1, may have one");
		if (out->dim[i] == -1)
			rest = i;
		else if (out->dim[i] < 0)
			return qd_fail(QD_EINPUT, "dimension %d of the asked shape is %lld, must be -1 or more", i,
				(long long)out->dim[i]);
		else if (out->dim[i] == 0 && !allow_zero && i >= x->shape.rank)
			return qd_fail(QD_EINPUT, "dimension %d of the asked shape copies one that '%s' does not have", i, x->name);
		else if (out->dim[i] == 0 && !allow_zero)
			out->dim[i] = x->shape.dim[i];
	}
	if (rest >= 0)
		QD_TRY(st, reshape_rest(qd_shape_elements(&x->shape), rest, out));
	QD_TRY(st, qd_shape_check(out));
	if (qd_shape_elements(out) != qd_shape_elements(&x->shape))
		return qd_fail(
			QD_EINPUT, "'%s' is %s, cannot become %s", x->name, qd_shape_text(&x->shape, from), qd_shape_text(out, to));
out:
	return st;
}

/* Constant axes of input 1 within `rank`, as bits. */
static enum qd_status axes_input(const struct qd_graph *g, const struct qd_node *node, int rank, size_t *n, unsigned *axes)
{
	int64_t values[QD_MAX_RANK];
	enum qd_status st;

	QD_TRY(st, qd_graph_ints(g, node->in[1], QD_MAX_RANK, values, n));
	QD_TRY(st, qd_axes(*n, values, rank < 0 ? qd_node_in(g, node, 0)->shape.rank + (int)*n : rank, axes));
out:
	return st;
}

enum qd_status qd_rule_unsqueeze(const struct qd_graph *g, struct qd_node *node, struct qd_shape *out, enum qd_dtype *dtype)
{
	const struct qd_value *x = qd_node_in(g, node, 0);
	unsigned axes;
	enum qd_status st;
	size_t n;
	int from = 0;

	QD_TRY(st, axes_input(g, node, -1, &n, &axes));
	if (x->shape.rank + (int)n > QD_MAX_RANK)
		return qd_fail(QD_EUNSUPPORTED, "rank becomes %d, must be at most %d", x->shape.rank + (int)n, QD_MAX_RANK);
	out->rank = x->shape.rank + (int)n;
	for (int i = 0; i < out->rank; i++)
		out->dim[i] = axes >> i & 1 ? 1 : x->shape.dim[from++];
	*dtype = x->dtype;
out:
	return st;
}

enum qd_status qd_rule_squeeze(const struct qd_graph *g, struct qd_node *node, struct qd_shape *out, enum qd_dtype *dtype)
{
	const struct qd_value *x = qd_node_in(g, node, 0);
	unsigned axes = 0;
	enum qd_status st = QD_OK;
	size_t n;

	if (qd_node_in(g, node, 1) != NULL)
		QD_TRY(st, axes_input(g, node, x->shape.rank, &n, &axes));
	else
		for (int i = 0; i < x->shape.rank; i++)
			axes |= (unsigned)(x->shape.dim[i] == 1) << i;
	out->rank = 0;
	for (int i = 0; i < x->shape.rank; i++) {
		if (!(axes >> i & 1))
			out->dim[out->rank++] = x->shape.dim[i];
		else if (x->shape.dim[i] != 1)
			return qd_fail(QD_EINPUT, "axis %d of '%s' has size %lld, squeezing needs 1", i, x->name,
				(long long)x->shape.dim[i]);
	}
	*dtype = x->dtype;
out:
	return st;
}

/* [d0..dr) becomes [d0*...*d(axis-1), daxis*...]; axis may be the rank itself. */
enum qd_status qd_rule_flatten(const struct qd_graph *g, struct qd_node *node, struct qd_shape *out, enum qd_dtype *dtype)
{
	const struct qd_value *x = qd_node_in(g, node, 0);
	int64_t axis = qd_node_int(node, "axis", 1);

	if (axis < -x->shape.rank || axis > x->shape.rank)
		return qd_fail(QD_EINPUT, "axis is %lld, must be within the %d dimensions", (long long)axis, x->shape.rank);
	if (axis < 0)
		axis += x->shape.rank;
	*out = QD_SHAPE(1, 1);
	for (int i = 0; i < x->shape.rank; i++)
		out->dim[i >= axis] *= x->shape.dim[i];
	*dtype = x->dtype;
	return QD_OK;
}

enum qd_status qd_rule_identity(const struct qd_graph *g, struct qd_node *node, struct qd_shape *out, enum qd_dtype *dtype)
{
	return qd_same_as_input(g, node, out, dtype);
}

enum qd_status qd_rule_transpose(const struct qd_graph *g, struct qd_node *node, struct qd_shape *out, enum qd_dtype *dtype)
{
	const struct qd_value *x = qd_node_in(g, node, 0);
	const struct qd_attr *perm = qd_node_attr(node, "perm");
	unsigned seen = 0;

	if (perm != NULL && perm->n_ints != (size_t)x->shape.rank)
		return qd_fail(QD_EINPUT, "perm has %zu axes, '%s' has %d dimensions", perm->n_ints, x->name, x->shape.rank);
	out->rank = x->shape.rank;
	for (int i = 0; i < out->rank; i++) {
		int64_t from = perm != NULL ? perm->ints[i] : out->rank - 1 - i;
		if (from < 0 || from >= out->rank || seen >> from & 1)
			return qd_fail(QD_EINPUT, "perm holds %lld, must name each of %d axes once", (long long)from, out->rank);
		seen |= 1u << from;
		out->dim[i] = x->shape.dim[from];
	}
	*dtype = x->dtype;
	return QD_OK;
}

/* ---- parts ---- */

static int64_t clamp(int64_t value, int64_t low, int64_t high)
{
	return value < low ? low : value > high ? high : value;
}

/* One axis of `size` elements under ONNX's Slice: negative indices count from the end, what lies outside is cut off. */
static enum qd_status slice_axis(int64_t size, int64_t start, int64_t end, int64_t step, struct qd_slice_axis *out)
{
	if (step == 0 || step == INT64_MIN)
		return qd_fail(QD_EINPUT, "slice step is %lld, must be another number", (long long)step);
	if (size == 0) {
		*out = (struct qd_slice_axis){ 0, 1, 0 };
		return QD_OK;
	}
	if (start < 0 && start >= -size)
		start += size;
	else if (start < 0)
		start = -1;
	if (end < 0 && end >= -size)
		end += size;
	else if (end < 0)
		end = -1;
	if (step > 0) {
		start = clamp(start, 0, size);
		end = clamp(end, 0, size);
		out->count = end > start ? (end - start - 1) / step + 1 : 0;
	} else {
		start = clamp(start, 0, size - 1);
		end = clamp(end, -1, size - 1);
		out->count = start > end ? (start - end - 1) / -step + 1 : 0;
	}
	out->begin = start;
	out->step = step;
	return QD_OK;
}

/* starts, ends, axes and steps of a Slice; axes default to the first ones, steps to 1. */
struct slice_inputs {
	int64_t starts[QD_MAX_RANK], ends[QD_MAX_RANK], axes[QD_MAX_RANK], steps[QD_MAX_RANK];
	size_t n;
};

static enum qd_status slice_inputs(
	const struct qd_graph *g, const struct qd_node *node, const struct qd_tensor *const *in, struct slice_inputs *s)
{
	int64_t *lists[] = { s->starts, s->ends, s->axes, s->steps };
	enum qd_status st;
	size_t n;

	QD_TRY(st, qd_node_ints(g, node, in, 1, QD_MAX_RANK, s->starts, &s->n));
	for (size_t i = 0; i < s->n; i++) {
		s->axes[i] = (int64_t)i;
		s->steps[i] = 1;
	}
	for (size_t k = 1; k < 4; k++) {
		if (qd_node_in(g, node, k + 1) == NULL)
			continue;
		QD_TRY(st, qd_node_ints(g, node, in, k + 1, QD_MAX_RANK, lists[k], &n));
		if (n != s->n)
			return qd_fail(
				QD_EINPUT, "slice has %zu starts and %zu values in input %zu, needs as many", s->n, n, k + 1);
	}
out:
	return st;
}

enum qd_status qd_slice_axes_of(
	const struct qd_graph *g, const struct qd_node *node, const struct qd_tensor *const *in, struct qd_slice_axis *axes)
{
	const struct qd_shape *x = &qd_node_in(g, node, 0)->shape;
	struct slice_inputs s;
	unsigned seen;
	enum qd_status st;
	int axis;

	for (int i = 0; i < x->rank; i++)
		axes[i] = (struct qd_slice_axis){ 0, 1, x->dim[i] };
	QD_TRY(st, slice_inputs(g, node, in, &s));
	QD_TRY(st, qd_axes(s.n, s.axes, x->rank, &seen));
	for (size_t i = 0; i < s.n; i++) {
		QD_TRY(st, qd_axis(s.axes[i], x->rank, &axis));
		QD_TRY(st, slice_axis(x->dim[axis], s.starts[i], s.ends[i], s.steps[i], &axes[axis]));
	}
out:
	return st;
}

enum qd_status qd_slice_axes(const struct qd_graph *g, const struct qd_node *node, struct qd_slice_axis *axes)
{
	return qd_slice_axes_of(g, node, NULL, axes);
}

enum qd_status qd_rule_slice(const struct qd_graph *g, struct qd_node *node, struct qd_shape *out, enum qd_dtype *dtype)
{
	struct qd_slice_axis axes[QD_MAX_RANK];
	enum qd_status st;

	QD_TRY(st, qd_slice_axes(g, node, axes));
	QD_TRY(st, qd_same_as_input(g, node, out, dtype));
	for (int i = 0; i < out->rank; i++)
		out->dim[i] = axes[i].count;
out:
	return st;
}

/* Sizes of the parts: given, or equal ones of which the last may be smaller. */
static enum qd_status split_sizes(
	const struct qd_graph *g, const struct qd_node *node, int64_t size, int axis, struct qd_shape *out)
{
	int64_t n = (int64_t)node->n_out, part = (size + n - 1) / n, sum = 0;
	struct qd_tensor sizes = { 0 };
	enum qd_status st = QD_OK;

	if (qd_node_in(g, node, 1) != NULL)
		QD_TRY(st, qd_graph_constant(g, node->in[1], &sizes));
	else if (qd_node_int(node, "num_outputs", n) != n)
		return qd_fail(QD_EINPUT, "num_outputs is %lld, the node has %lld", (long long)qd_node_int(node, "num_outputs", n),
			(long long)n);
	if (sizes.data != NULL && (sizes.dtype != QD_I64 || qd_shape_elements(&sizes.shape) != n)) {
		st = qd_fail(QD_EINPUT, "split has %lld sizes, the node has %lld outputs",
			(long long)qd_shape_elements(&sizes.shape), (long long)n);
		goto out;
	}
	for (int64_t i = 0; i < n; i++) {
		int64_t one = sizes.data != NULL ? ((int64_t *)sizes.data)[i] : clamp(size - i * part, 0, part);
		if (one < 0 || one > size - sum)
			sum = INT64_MIN;
		out[i].dim[axis] = one;
		sum += sum >= 0 ? one : 0;
	}
	if (sum != size)
		st = qd_fail(QD_EINPUT, "split sizes do not add up to the %lld of axis %d", (long long)size, axis);
out:
	qd_tensor_release(&sizes);
	return st;
}

enum qd_status qd_rule_split(const struct qd_graph *g, struct qd_node *node, struct qd_shape *out, enum qd_dtype *dtype)
{
	const struct qd_value *x = qd_node_in(g, node, 0);
	enum qd_status st;
	int axis;

	QD_TRY(st, qd_axis(qd_node_int(node, "axis", 0), x->shape.rank, &axis));
	for (size_t i = 0; i < node->n_out; i++) {
		out[i] = x->shape;
		dtype[i] = x->dtype;
	}
	QD_TRY(st, split_sizes(g, node, x->shape.dim[axis], axis, out));
out:
	return st;
}

/* x [a..., D, b...] by indices [i...] gives [a..., i..., b...]. */
enum qd_status qd_rule_gather(const struct qd_graph *g, struct qd_node *node, struct qd_shape *out, enum qd_dtype *dtype)
{
	const struct qd_value *x = qd_node_in(g, node, 0), *index = qd_node_in(g, node, 1);
	enum qd_status st;
	int axis;

	if (index->dtype != QD_I64 && index->dtype != QD_I32)
		return qd_fail(QD_EINPUT, "indices '%s' are %s, need I64 or I32", index->name, qd_dtype_name(index->dtype));
	QD_TRY(st, qd_axis(qd_node_int(node, "axis", 0), x->shape.rank, &axis));
	if (x->shape.rank - 1 + index->shape.rank > QD_MAX_RANK)
		return qd_fail(
			QD_EUNSUPPORTED, "rank becomes %d, must be at most %d", x->shape.rank - 1 + index->shape.rank, QD_MAX_RANK);
	out->rank = 0;
	for (int i = 0; i < axis; i++)
		out->dim[out->rank++] = x->shape.dim[i];
	for (int i = 0; i < index->shape.rank; i++)
		out->dim[out->rank++] = index->shape.dim[i];
	for (int i = axis + 1; i < x->shape.rank; i++)
		out->dim[out->rank++] = x->shape.dim[i];
	*dtype = x->dtype;
out:
	return st;
}

/* ---- repetition ---- */

enum qd_status qd_rule_expand(const struct qd_graph *g, struct qd_node *node, struct qd_shape *out, enum qd_dtype *dtype)
{
	const struct qd_value *x = qd_node_in(g, node, 0);
	struct qd_shape to = { 0 };
	enum qd_status st;
	size_t n;

	QD_TRY(st, qd_graph_ints(g, node->in[1], QD_MAX_RANK, to.dim, &n));
	to.rank = (int)n;
	QD_TRY(st, qd_shape_check(&to));
	QD_TRY(st, qd_shape_broadcast(&x->shape, &to, out));
	*dtype = x->dtype;
out:
	return st;
}

enum qd_status qd_rule_tile(const struct qd_graph *g, struct qd_node *node, struct qd_shape *out, enum qd_dtype *dtype)
{
	const struct qd_value *x = qd_node_in(g, node, 0);
	int64_t repeats[QD_MAX_RANK];
	enum qd_status st;
	size_t n;

	QD_TRY(st, qd_graph_ints(g, node->in[1], QD_MAX_RANK, repeats, &n));
	if (n != (size_t)x->shape.rank)
		return qd_fail(QD_EINPUT, "tile has %zu repeats, '%s' has %d dimensions", n, x->name, x->shape.rank);
	out->rank = x->shape.rank;
	for (int i = 0; i < out->rank; i++)
		if (repeats[i] < 0 || __builtin_mul_overflow(x->shape.dim[i], repeats[i], &out->dim[i]))
			return qd_fail(QD_EINPUT, "tile repeats dimension %d %lld times", i, (long long)repeats[i]);
	*dtype = x->dtype;
out:
	return st;
}

/* ---- pixels and channels ---- */

static enum qd_status block_size(const struct qd_node *node, const struct qd_value *x, int64_t *block)
{
	*block = qd_node_int(node, "blocksize", 0);
	if (x->shape.rank != 4)
		return qd_fail(QD_EINPUT, "input '%s' has %d dimensions, needs 4", x->name, x->shape.rank);
	if (*block < 1 || *block > INT16_MAX)
		return qd_fail(QD_EINPUT, "blocksize is %lld, must be at least 1", (long long)*block);
	return QD_OK;
}

enum qd_status qd_rule_depth_to_space(const struct qd_graph *g, struct qd_node *node, struct qd_shape *out, enum qd_dtype *dtype)
{
	const struct qd_value *x = qd_node_in(g, node, 0);
	const char *mode = qd_node_string(node, "mode", "DCR");
	enum qd_status st;
	int64_t b;

	QD_TRY(st, block_size(node, x, &b));
	if (strcmp(mode, "DCR") != 0 && strcmp(mode, "CRD") != 0)
		return qd_fail(QD_EINPUT, "mode is '%s', needs 'DCR' or 'CRD'", mode);
	if (x->shape.dim[1] % (b * b) != 0)
		return qd_fail(QD_EINPUT, "%lld channels do not divide into blocks of %lld pixels", (long long)x->shape.dim[1],
			(long long)(b * b));
	*out = QD_SHAPE(x->shape.dim[0], x->shape.dim[1] / (b * b), x->shape.dim[2], x->shape.dim[3]);
	if (__builtin_mul_overflow(out->dim[2], b, &out->dim[2]) || __builtin_mul_overflow(out->dim[3], b, &out->dim[3]))
		return qd_fail(QD_EINPUT, "blocks of %lld make the shape too large", (long long)b);
	*dtype = x->dtype;
out:
	return st;
}

enum qd_status qd_rule_space_to_depth(const struct qd_graph *g, struct qd_node *node, struct qd_shape *out, enum qd_dtype *dtype)
{
	const struct qd_value *x = qd_node_in(g, node, 0);
	enum qd_status st;
	int64_t b;

	QD_TRY(st, block_size(node, x, &b));
	if (x->shape.dim[2] % b != 0 || x->shape.dim[3] % b != 0)
		return qd_fail(QD_EINPUT, "%lld x %lld pixels do not divide by blocks of %lld", (long long)x->shape.dim[2],
			(long long)x->shape.dim[3], (long long)b);
	*out = QD_SHAPE(x->shape.dim[0], x->shape.dim[1], x->shape.dim[2] / b, x->shape.dim[3] / b);
	if (__builtin_mul_overflow(out->dim[1], b * b, &out->dim[1]))
		return qd_fail(QD_EINPUT, "blocks of %lld make the shape too large", (long long)b);
	*dtype = x->dtype;
out:
	return st;
}

static enum qd_status need_string(const struct qd_node *node, const char *name, const char *absent, const char *needed)
{
	const char *found = qd_node_string(node, name, absent);
	if (strcmp(found, needed) != 0)
		return qd_fail(QD_EUNSUPPORTED, "%s is '%s', must be '%s'", name, found, needed);
	return QD_OK;
}

/* Whether optional input i is there and not the empty tensor that older exporters write for "absent". */
static bool given(const struct qd_graph *g, const struct qd_node *node, size_t i)
{
	const struct qd_value *v = qd_node_in(g, node, i);
	return v != NULL && qd_shape_elements(&v->shape) > 0;
}

/* floor(size * scale) per dimension. */
static enum qd_status resize_by_scales(
	const struct qd_graph *g, const struct qd_node *node, const struct qd_shape *x, struct qd_shape *out)
{
	struct qd_tensor scales = { 0 };
	enum qd_status st;

	QD_TRY(st, qd_graph_constant(g, node->in[2], &scales));
	if (scales.dtype != QD_F32 || qd_shape_elements(&scales.shape) != x->rank) {
		st = qd_fail(
			QD_EINPUT, "resize has %lld scales, needs %d floats", (long long)qd_shape_elements(&scales.shape), x->rank);
		goto out;
	}
	for (int i = 0; i < x->rank; i++) {
		double scale = ((float *)scales.data)[i], size = floor((double)x->dim[i] * scale);
		if (!(scale > 0 && size < 1e15)) {
			st = qd_fail(QD_EINPUT, "resize scale %d is %g, must be positive and of use", i, scale);
			goto out;
		}
		out->dim[i] = (int64_t)size;
	}
out:
	qd_tensor_release(&scales);
	return st;
}

enum qd_status qd_rule_resize(const struct qd_graph *g, struct qd_node *node, struct qd_shape *out, enum qd_dtype *dtype)
{
	const struct qd_value *x = qd_node_in(g, node, 0);
	bool by_sizes = given(g, node, 3);
	enum qd_status st;
	size_t n;

	QD_TRY(st, need_string(node, "mode", "nearest", "nearest"));
	QD_TRY(st, need_string(node, "coordinate_transformation_mode", "half_pixel", "asymmetric"));
	QD_TRY(st, need_string(node, "nearest_mode", "round_prefer_floor", "floor"));
	if (by_sizes == given(g, node, 2))
		return qd_fail(QD_EINPUT, "resize has %s scales and sizes, needs one of them", by_sizes ? "both" : "neither");
	QD_TRY(st, qd_same_as_input(g, node, out, dtype));
	if (!by_sizes)
		return resize_by_scales(g, node, &x->shape, out);
	QD_TRY(st, qd_graph_ints(g, node->in[3], QD_MAX_RANK, out->dim, &n));
	if (n != (size_t)x->shape.rank)
		return qd_fail(QD_EINPUT, "resize has %zu sizes, '%s' has %d dimensions", n, x->name, x->shape.rank);
	for (int i = 0; i < out->rank; i++)
		if (x->shape.dim[i] == 0 && out->dim[i] != 0)
			return qd_fail(QD_EINPUT, "resize makes %lld of an empty dimension", (long long)out->dim[i]);
out:
	return st;
}

/* ---- joining and filling ---- */

enum qd_status qd_rule_concat(const struct qd_graph *g, struct qd_node *node, struct qd_shape *out, enum qd_dtype *dtype)
{
	char a[QD_SHAPE_TEXT], b[QD_SHAPE_TEXT];
	const struct qd_value *first = qd_node_in(g, node, 0);
	enum qd_status st;
	int axis;

	if (qd_node_attr(node, "axis") == NULL)
		return qd_fail(QD_EINPUT, "Concat has no attribute 'axis'");
	QD_TRY(st, qd_need_same_dtype(g, node));
	QD_TRY(st, qd_axis(qd_node_int(node, "axis", 0), first->shape.rank, &axis));
	QD_TRY(st, qd_same_as_input(g, node, out, dtype));
	for (size_t i = 1; i < node->n_in; i++) {
		const struct qd_value *v = qd_node_in(g, node, i);
		struct qd_shape other = v->shape;
		if (other.rank == out->rank)
			other.dim[axis] = first->shape.dim[axis];
		if (!qd_shape_equal(&other, &first->shape))
			return qd_fail(QD_EINPUT, "cannot join '%s' %s and '%s' %s along axis %d", first->name,
				qd_shape_text(&first->shape, a), v->name, qd_shape_text(&v->shape, b), axis);
		if (__builtin_add_overflow(out->dim[axis], v->shape.dim[axis], &out->dim[axis]))
			return qd_fail(QD_EINPUT, "joined axis %d is too large", axis);
	}
out:
	return st;
}

enum qd_status qd_pad_axes_of(
	const struct qd_graph *g, const struct qd_node *node, const struct qd_tensor *const *in, int64_t *before, int64_t *after)
{
	int rank = qd_node_in(g, node, 0)->shape.rank, axis;
	int64_t pads[2 * QD_MAX_RANK], axes[QD_MAX_RANK];
	unsigned seen;
	size_t n = (size_t)rank, n_pads;
	enum qd_status st;

	for (int i = 0; i < rank; i++) {
		before[i] = after[i] = 0;
		axes[i] = i;
	}
	if (qd_node_in(g, node, 3) != NULL)
		QD_TRY(st, qd_node_ints(g, node, in, 3, QD_MAX_RANK, axes, &n));
	QD_TRY(st, qd_axes(n, axes, rank, &seen));
	QD_TRY(st, qd_node_ints(g, node, in, 1, QD_COUNT(pads), pads, &n_pads));
	if (n_pads != 2 * n)
		return qd_fail(QD_EINPUT, "pads has %zu values, needs %zu for %zu axes", n_pads, 2 * n, n);
	for (size_t i = 0; i < n; i++) {
		QD_TRY(st, qd_axis(axes[i], rank, &axis));
		before[axis] = pads[i];
		after[axis] = pads[n + i];
	}
out:
	return st;
}

enum qd_status qd_pad_axes(const struct qd_graph *g, const struct qd_node *node, int64_t *before, int64_t *after)
{
	return qd_pad_axes_of(g, node, NULL, before, after);
}

enum qd_status qd_rule_pad(const struct qd_graph *g, struct qd_node *node, struct qd_shape *out, enum qd_dtype *dtype)
{
	const struct qd_value *x = qd_node_in(g, node, 0), *fill = qd_node_in(g, node, 2);
	int64_t before[QD_MAX_RANK], after[QD_MAX_RANK];
	enum qd_status st;

	QD_TRY(st, need_string(node, "mode", "constant", "constant"));
	if (fill != NULL && (fill->dtype != x->dtype || qd_shape_elements(&fill->shape) != 1))
		return qd_fail(QD_EINPUT, "pad value '%s' must be one %s", fill->name, qd_dtype_name(x->dtype));
	QD_TRY(st, qd_pad_axes(g, node, before, after));
	QD_TRY(st, qd_same_as_input(g, node, out, dtype));
	for (int i = 0; i < out->rank; i++)
		if (__builtin_add_overflow(out->dim[i], before[i], &out->dim[i]) ||
			__builtin_add_overflow(out->dim[i], after[i], &out->dim[i]) || out->dim[i] < 0 ||
			before[i] < -x->shape.dim[i] || after[i] < -x->shape.dim[i])
			return qd_fail(QD_EINPUT, "pads of %lld and %lld do not fit axis %d of '%s'", (long long)before[i],
				(long long)after[i], i, x->name);
out:
	return st;
}

enum qd_status qd_rule_trilu(const struct qd_graph *g, struct qd_node *node, struct qd_shape *out, enum qd_dtype *dtype)
{
	const struct qd_value *x = qd_node_in(g, node, 0), *k = qd_node_in(g, node, 1);

	if (x->shape.rank < 2)
		return qd_fail(QD_EINPUT, "input '%s' has %d dimensions, needs at least 2", x->name, x->shape.rank);
	if (k != NULL && (k->dtype != QD_I64 || qd_shape_elements(&k->shape) != 1))
		return qd_fail(QD_EINPUT, "diagonal '%s' must be one I64", k->name);
	return qd_same_as_input(g, node, out, dtype);
}

/* ---- Shape ---- */

enum qd_status qd_rule_shape(const struct qd_graph *g, struct qd_node *node, struct qd_shape *out, enum qd_dtype *dtype)
{
	int64_t rank = qd_node_in(g, node, 0)->shape.rank;
	int64_t start = clamp(qd_node_int(node, "start", 0), -rank, rank), end = clamp(qd_node_int(node, "end", rank), -rank, rank);

	start += start < 0 ? rank : 0;
	end += end < 0 ? rank : 0;
	*out = QD_SHAPE(end > start ? end - start : 0);
	*dtype = QD_I64;
	return QD_OK;
}
