/*
 * Reference evaluation of operators that move data. Nearly all are one copy between two strided views of the same extents; the
 * view's reach is checked against both tensors before a byte moves.
 */
#include "lib/ir/internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Extents with a stride (in elements) on both sides. Tile and DepthToSpace need more of them than a shape has. */
struct view {
	int rank;
	int64_t dim[2 * QD_MAX_RANK], in[2 * QD_MAX_RANK], out[2 * QD_MAX_RANK];
	int64_t in_at, out_at;
};

static void push_dim(struct view *v, int64_t dim, int64_t in, int64_t out)
{
	v->dim[v->rank] = dim;
	v->in[v->rank] = in;
	v->out[v->rank++] = out;
}

static void strides(const struct qd_shape *shape, int64_t *out)
{
	int64_t stride = 1;
	for (int i = shape->rank - 1; i >= 0; i--) {
		out[i] = stride;
		stride *= shape->dim[i];
	}
}

/* Whether all elements that the strides reach lie within n. */
static bool within(const struct view *v, const int64_t *stride, int64_t at, int64_t n)
{
	int64_t low = at, high = at;

	for (int i = 0; i < v->rank; i++)
		*(stride[i] < 0 ? &low : &high) += (v->dim[i] - 1) * stride[i];
	return low >= 0 && high < n;
}

static enum qd_status copy_view(const struct view *v, const struct qd_tensor *in, struct qd_tensor *out)
{
	size_t width = qd_dtype_bits(out->dtype) / 8;
	int64_t counter[2 * QD_MAX_RANK] = { 0 }, from = v->in_at, to = v->out_at;
	int i;

	for (i = 0; i < v->rank; i++)
		if (v->dim[i] == 0)
			return QD_OK;
	if (!within(v, v->in, v->in_at, qd_shape_elements(&in->shape)) ||
		!within(v, v->out, v->out_at, qd_shape_elements(&out->shape)))
		return qd_fail(QD_EINPUT, "the parameters reach outside of the tensors");
	do {
		memcpy((char *)out->data + (size_t)to * width, (const char *)in->data + (size_t)from * width, width);
		for (i = v->rank - 1; i >= 0; i--) {
			from += v->in[i];
			to += v->out[i];
			if (++counter[i] < v->dim[i])
				break;
			from -= v->in[i] * v->dim[i];
			to -= v->out[i] * v->dim[i];
			counter[i] = 0;
		}
	} while (i >= 0);
	return QD_OK;
}

/* ---- views of one input ---- */

enum qd_status qd_eval_copy(const struct qd_eval *e)
{
	if (e->out[0].bytes > 0)
		memcpy(e->out[0].data, e->in[0]->data, e->out[0].bytes);
	return QD_OK;
}

enum qd_status qd_eval_transpose(const struct qd_eval *e)
{
	const struct qd_attr *perm = qd_node_attr(e->node, "perm");
	const struct qd_shape *shape = &e->out[0].shape;
	int64_t in[QD_MAX_RANK], out[QD_MAX_RANK];
	struct view v = { 0 };

	strides(&e->in[0]->shape, in);
	strides(shape, out);
	for (int i = 0; i < shape->rank; i++)
		push_dim(&v, shape->dim[i], in[perm != NULL ? perm->ints[i] : shape->rank - 1 - i], out[i]);
	return copy_view(&v, e->in[0], &e->out[0]);
}

enum qd_status qd_eval_slice(const struct qd_eval *e)
{
	const struct qd_shape *shape = &e->out[0].shape;
	struct qd_slice_axis axes[QD_MAX_RANK];
	int64_t in[QD_MAX_RANK], out[QD_MAX_RANK];
	struct view v = { 0 };
	enum qd_status st;

	QD_TRY(st, qd_slice_axes_of(e->g, e->node, e->in, axes));
	strides(&e->in[0]->shape, in);
	strides(shape, out);
	for (int i = 0; i < shape->rank; i++) {
		push_dim(&v, shape->dim[i], axes[i].step * in[i], out[i]);
		v.in_at += axes[i].begin * in[i];
	}
	QD_TRY(st, copy_view(&v, e->in[0], &e->out[0]));
out:
	return st;
}

/* Copies a part that begins at `at` of `axis` of the whole, or joins it there. */
static enum qd_status copy_part(
	const struct qd_tensor *in, struct qd_tensor *out, const struct qd_shape *part, int axis, int64_t in_at, int64_t out_at)
{
	int64_t from[QD_MAX_RANK], to[QD_MAX_RANK];
	struct view v = { 0 };

	strides(&in->shape, from);
	strides(&out->shape, to);
	for (int i = 0; i < part->rank; i++)
		push_dim(&v, part->dim[i], from[i], to[i]);
	v.in_at = in_at * from[axis];
	v.out_at = out_at * to[axis];
	return copy_view(&v, in, out);
}

enum qd_status qd_eval_split(const struct qd_eval *e)
{
	int64_t at = 0;
	enum qd_status st;
	int axis;

	QD_TRY(st, qd_axis(qd_node_int(e->node, "axis", 0), e->in[0]->shape.rank, &axis));
	for (size_t i = 0; i < e->node->n_out; i++) {
		QD_TRY(st, copy_part(e->in[0], &e->out[i], &e->out[i].shape, axis, at, 0));
		at += e->out[i].shape.dim[axis];
	}
out:
	return st;
}

enum qd_status qd_eval_concat(const struct qd_eval *e)
{
	int64_t at = 0;
	enum qd_status st;
	int axis;

	QD_TRY(st, qd_axis(qd_node_int(e->node, "axis", 0), e->out[0].shape.rank, &axis));
	for (size_t i = 0; i < e->node->n_in; i++) {
		QD_TRY(st, copy_part(e->in[i], &e->out[0], &e->in[i]->shape, axis, 0, at));
		at += e->in[i]->shape.dim[axis];
	}
out:
	return st;
}

/* out [a, i, b] = x [a, index[i], b] */
enum qd_status qd_eval_gather(const struct qd_eval *e)
{
	const struct qd_shape *x = &e->in[0]->shape;
	int64_t outer = 1, inner = 1, n = qd_shape_elements(&e->in[1]->shape);
	enum qd_status st;
	int axis;

	QD_TRY(st, qd_axis(qd_node_int(e->node, "axis", 0), x->rank, &axis));
	for (int i = 0; i < x->rank; i++)
		*(i < axis ? &outer : &inner) *= i == axis ? 1 : x->dim[i];
	for (int64_t i = 0; i < n; i++) {
		int64_t index = ((const int64_t *)e->in[1]->data)[i];
		if (index < -x->dim[axis] || index >= x->dim[axis])
			return qd_fail(QD_EINPUT, "index %lld is outside of the %lld of axis %d", (long long)index,
				(long long)x->dim[axis], axis);
		struct view v = { .in_at = (index < 0 ? index + x->dim[axis] : index) * inner, .out_at = i * inner };
		push_dim(&v, outer, x->dim[axis] * inner, n * inner);
		push_dim(&v, inner, 1, 1);
		QD_TRY(st, copy_view(&v, e->in[0], &e->out[0]));
	}
out:
	return st;
}

enum qd_status qd_eval_expand(const struct qd_eval *e)
{
	const struct qd_shape *x = &e->in[0]->shape, *shape = &e->out[0].shape;
	int64_t in[QD_MAX_RANK], out[QD_MAX_RANK];
	int lead = shape->rank - x->rank;
	struct view v = { 0 };

	strides(x, in);
	strides(shape, out);
	for (int i = 0; i < shape->rank; i++)
		push_dim(&v, shape->dim[i], i < lead || x->dim[i - lead] == 1 ? 0 : in[i - lead], out[i]);
	return copy_view(&v, e->in[0], &e->out[0]);
}

/* Each dimension is seen as [repeats, size]. */
enum qd_status qd_eval_tile(const struct qd_eval *e)
{
	const struct qd_shape *x = &e->in[0]->shape, *shape = &e->out[0].shape;
	int64_t in[QD_MAX_RANK], out[QD_MAX_RANK];
	struct view v = { 0 };

	strides(x, in);
	strides(shape, out);
	for (int i = 0; i < shape->rank; i++) {
		push_dim(&v, x->dim[i] > 0 ? shape->dim[i] / x->dim[i] : 0, 0, x->dim[i] * out[i]);
		push_dim(&v, x->dim[i], in[i], out[i]);
	}
	return copy_view(&v, e->in[0], &e->out[0]);
}

/*
 * With blocks of b: deep [N, b, b, C, H, W] (DCR; CRD has C before the blocks) and wide [N, C, H, b, W, b] hold the same elements.
 * DepthToSpace copies deep to wide, SpaceToDepth wide to deep.
 */
enum qd_status qd_eval_depth(const struct qd_eval *e)
{
	bool widen = e->node->op == QD_OP_DEPTH_TO_SPACE;
	bool crd = strcmp(qd_node_string(e->node, "mode", "DCR"), "CRD") == 0;
	const struct qd_shape *wide = widen ? &e->out[0].shape : &e->in[0]->shape;
	int64_t b = qd_node_int(e->node, "blocksize", 1);
	int64_t c = wide->dim[1], h = wide->dim[2] / b, w = wide->dim[3] / b, plane = h * w;
	int64_t dim[6] = { wide->dim[0], b, b, c, h, w };
	int64_t deep_stride[6] = { b * b * c * plane, crd ? b * plane : b * c * plane, crd ? plane : c * plane,
		crd ? b * b * plane : plane, w, 1 };
	int64_t wide_stride[6] = { b * b * c * plane, w * b, 1, b * b * plane, b * w * b, b };
	struct view v = { 0 };

	for (int i = 0; i < 6; i++)
		push_dim(&v, dim[i], widen ? deep_stride[i] : wide_stride[i], widen ? wide_stride[i] : deep_stride[i]);
	return copy_view(&v, e->in[0], &e->out[0]);
}

/* ---- element by element ---- */

/* Nearest, asymmetric, floor: index i of the output is index floor(i / scale) of the input; sizes mean scale = out / in exactly. */
static int64_t nearest(int64_t i, int64_t in, int64_t out, const float *scale)
{
	int64_t at = scale != NULL ? (int64_t)floorf((float)i / *scale) : (int64_t)((long double)i * in / out);
	return at < in ? at : in - 1;
}

enum qd_status qd_eval_resize(const struct qd_eval *e)
{
	const struct qd_shape *x = &e->in[0]->shape, *shape = &e->out[0].shape;
	const struct qd_tensor *scales = e->node->n_in > 2 ? e->in[2] : NULL;
	size_t width = qd_dtype_bits(e->out[0].dtype) / 8;
	int64_t in[QD_MAX_RANK];

	if (scales != NULL && qd_shape_elements(&scales->shape) == 0)
		scales = NULL;
	strides(x, in);
	for (int64_t linear = 0; linear < qd_shape_elements(shape); linear++) {
		int64_t rest = linear, from = 0;
		for (int i = shape->rank - 1; i >= 0; i--) {
			const float *scale = scales != NULL ? (const float *)scales->data + i : NULL;
			from += nearest(rest % shape->dim[i], x->dim[i], shape->dim[i], scale) * in[i];
			rest /= shape->dim[i];
		}
		memcpy((char *)e->out[0].data + (size_t)linear * width, (const char *)e->in[0]->data + (size_t)from * width, width);
	}
	return QD_OK;
}

static void fill_with(struct qd_tensor *out, const void *element)
{
	size_t width = qd_dtype_bits(out->dtype) / 8;
	for (size_t at = 0; at < out->bytes; at += width)
		memcpy((char *)out->data + at, element, width);
}

enum qd_status qd_eval_pad(const struct qd_eval *e)
{
	const struct qd_shape *x = &e->in[0]->shape;
	int64_t before[QD_MAX_RANK], after[QD_MAX_RANK], in[QD_MAX_RANK], out[QD_MAX_RANK];
	struct view v = { 0 };
	enum qd_status st;

	QD_TRY(st, qd_pad_axes_of(e->g, e->node, e->in, before, after));
	if (e->node->n_in > 2 && e->in[2] != NULL)
		fill_with(&e->out[0], e->in[2]->data);
	strides(x, in);
	strides(&e->out[0].shape, out);
	for (int i = 0; i < x->rank; i++) {
		int64_t crop_before = before[i] < 0 ? -before[i] : 0, crop_after = after[i] < 0 ? -after[i] : 0;
		int64_t kept = x->dim[i] - crop_before - crop_after;
		push_dim(&v, kept > 0 ? kept : 0, in[i], out[i]);
		v.in_at += crop_before * in[i];
		v.out_at += (before[i] > 0 ? before[i] : 0) * out[i];
	}
	QD_TRY(st, copy_view(&v, e->in[0], &e->out[0]));
out:
	return st;
}

/* Keeps elements on and above diagonal k (upper, the default) or on and below it; the others stay 0. */
enum qd_status qd_eval_trilu(const struct qd_eval *e)
{
	const struct qd_shape *shape = &e->out[0].shape;
	bool upper = qd_node_int(e->node, "upper", 1) != 0;
	int64_t k = e->node->n_in > 1 && e->in[1] != NULL ? *(const int64_t *)e->in[1]->data : 0;
	size_t width = qd_dtype_bits(e->out[0].dtype) / 8;
	int64_t columns = shape->dim[shape->rank - 1], rows = shape->dim[shape->rank - 2];

	for (int64_t i = 0; i < qd_shape_elements(shape); i++) {
		int64_t diagonal = i % columns - i / columns % rows;
		if (upper ? diagonal >= k : diagonal <= k)
			memcpy((char *)e->out[0].data + (size_t)i * width, (const char *)e->in[0]->data + (size_t)i * width, width);
	}
	return QD_OK;
}

/* ---- from shapes to numbers ---- */

enum qd_status qd_eval_shape(const struct qd_eval *e)
{
	const struct qd_shape *x = &e->in[0]->shape;
	int64_t start = qd_node_int(e->node, "start", 0);

	if (start < 0)
		start += x->rank;
	if (start < 0)
		start = 0;
	for (int64_t i = 0; i < e->out[0].shape.dim[0]; i++)
		((int64_t *)e->out[0].data)[i] = x->dim[start + i];
	return QD_OK;
}

enum qd_status qd_eval_constant_of_shape(const struct qd_eval *e)
{
	float real = qd_node_float(e->node, "value", 0);
	int64_t whole = (int64_t)real;

	fill_with(&e->out[0], e->out[0].dtype == QD_F32 ? (const void *)&real : &whole);
	return QD_OK;
}

enum qd_status qd_eval_range(const struct qd_eval *e)
{
	for (int64_t i = 0; i < e->out[0].shape.dim[0]; i++)
		if (e->out[0].dtype == QD_F32)
			((float *)e->out[0].data)[i] = *(float *)e->in[0]->data + (float)i * *(float *)e->in[2]->data;
		else
			((int64_t *)e->out[0].data)[i] = *(int64_t *)e->in[0]->data + i * *(int64_t *)e->in[2]->data;
	return QD_OK;
}
