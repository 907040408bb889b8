/*
 * Lowering, part 2: operators that move data, and constants that follow from shapes. Shapes are static, so what a node asks for is
 * mostly what its output's shape says.
 */
#include "lib/torch/lower.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const struct qd_value *input(const struct qd_lower *l, size_t i)
{
	return &l->g->values[l->node->in[i]];
}

static bool given(const struct qd_lower *l, size_t i)
{
	return i < l->node->n_in && l->in[i] != NULL;
}

static const struct qd_value *output(const struct qd_lower *l)
{
	return &l->g->values[l->node->out[0]];
}

/* ---- the same elements under another shape ---- */

static enum qd_status reshape(const struct qd_lower *l)
{
	return qt_reshape(l->in[0], &output(l)->shape, l->out);
}

enum qd_status qd_lower_RESHAPE(const struct qd_lower *l)
{
	return reshape(l);
}

enum qd_status qd_lower_UNSQUEEZE(const struct qd_lower *l)
{
	return reshape(l);
}

enum qd_status qd_lower_SQUEEZE(const struct qd_lower *l)
{
	return reshape(l);
}

enum qd_status qd_lower_FLATTEN(const struct qd_lower *l)
{
	return reshape(l);
}

enum qd_status qd_lower_IDENTITY(const struct qd_lower *l)
{
	return qt_retain(l->in[0], l->out);
}

enum qd_status qd_lower_TRANSPOSE(const struct qd_lower *l)
{
	const struct qd_attr *perm = qd_node_attr(l->node, "perm");
	int64_t reversed[QD_MAX_RANK];
	size_t rank = (size_t)output(l)->shape.rank;

	for (size_t i = 0; i < rank; i++)
		reversed[i] = (int64_t)(rank - 1 - i);
	return qt_permute(l->in[0], rank, perm != NULL ? perm->ints : reversed, l->out);
}

/* ---- parts ---- */

/* One axis, any step: a negative one walks the flipped axis. */
static enum qd_status slice_one(qt_tensor x, int64_t axis, int64_t size, const struct qd_slice_axis *s, qt_tensor *out)
{
	int64_t step = llabs(s->step), begin = s->step < 0 ? size - 1 - s->begin : s->begin;
	int64_t end = s->count ? begin + (s->count - 1) * step + 1 : begin;
	qt_tensor flipped = NULL;
	enum qd_status st;

	QD_TRY(st, s->step < 0 ? qt_flip(x, axis, &flipped) : qt_retain(x, &flipped));
	QD_TRY(st, qt_slice(flipped, axis, begin, end, step, out));
out:
	qt_free(flipped);
	return st;
}

enum qd_status qd_lower_SLICE(const struct qd_lower *l)
{
	const struct qd_shape *shape = &input(l, 0)->shape;
	struct qd_slice_axis axes[QD_MAX_RANK];
	qt_tensor x = NULL, next = NULL;
	enum qd_status st;

	QD_TRY(st, qd_slice_axes(l->g, l->node, axes));
	QD_TRY(st, qt_retain(l->in[0], &x));
	for (int i = 0; i < shape->rank; i++) {
		if (axes[i].begin == 0 && axes[i].step == 1 && axes[i].count == shape->dim[i])
			continue;
		QD_TRY(st, slice_one(x, i, shape->dim[i], &axes[i], &next));
		qt_free(x);
		x = next;
	}
	*l->out = x;
	x = NULL;
out:
	qt_free(x);
	return st;
}

enum qd_status qd_lower_SPLIT(const struct qd_lower *l)
{
	int64_t axis = qd_node_int(l->node, "axis", 0), at = 0;
	enum qd_status st = QD_OK;

	if (axis < 0)
		axis += input(l, 0)->shape.rank;
	for (size_t i = 0; i < l->node->n_out; i++) {
		int64_t size = l->g->values[l->node->out[i]].shape.dim[axis];
		QD_TRY(st, qt_slice(l->in[0], axis, at, at + size, 1, &l->out[i]));
		at += size;
	}
out:
	return st;
}

enum qd_status qd_lower_GATHER(const struct qd_lower *l)
{
	return qt_gather(l->in[0], l->in[1], qd_node_int(l->node, "axis", 0), l->out);
}

/* ---- repetition ---- */

enum qd_status qd_lower_EXPAND(const struct qd_lower *l)
{
	return qt_expand(l->in[0], &output(l)->shape, l->out);
}

enum qd_status qd_lower_TILE(const struct qd_lower *l)
{
	int64_t repeats[QD_MAX_RANK];
	enum qd_status st;
	size_t n;

	QD_TRY(st, qd_graph_ints(l->g, l->node->in[1], QD_MAX_RANK, repeats, &n));
	QD_TRY(st, qt_tile(l->in[0], n, repeats, l->out));
out:
	return st;
}

/* Where output index i of an axis comes from: floor(i / scale), scale given or output size / input size; i64 [out]. */
static void source_indices(int64_t in, int64_t out, const float *scale, int64_t *from)
{
	for (int64_t i = 0; i < out; i++) {
		from[i] = scale != NULL ? (int64_t)floorf((float)i / *scale) : i * in / out;
		if (from[i] > in - 1)
			from[i] = in - 1;
	}
}

/* The integer f with from[i] = i / f throughout, or 0. */
static int64_t integer_factor(const int64_t *from, int64_t in, int64_t out)
{
	int64_t f = 1;

	while (f < out && from[f] == 0)
		f++;
	for (int64_t i = 0; i < out; i++)
		if (from[i] != i / f)
			return 0;
	return out <= in * f ? f : 0;
}

static enum qd_status gather_axis(qt_tensor x, int64_t axis, const int64_t *from, int64_t n, qt_tensor *out)
{
	const struct qd_tensor index = qd_tensor_view(NULL, QD_I64, (struct qd_shape){ 1, { n } }, from);
	qt_tensor indices = NULL;
	enum qd_status st;

	QD_TRY(st, qt_from_tensor(&index, &indices));
	QD_TRY(st, qt_gather(x, indices, axis, out));
out:
	qt_free(indices);
	return st;
}

/* Source indices of every axis, one after the other: i64 [sum of the output's dimensions], to be freed. */
static enum qd_status resize_indices(const struct qd_lower *l, int64_t **from)
{
	const struct qd_shape *in = &input(l, 0)->shape, *out = &output(l)->shape;
	struct qd_tensor scales = { 0 };
	int64_t total = 1;
	enum qd_status st = QD_OK;

	for (int i = 0; i < out->rank; i++)
		total += out->dim[i];
	*from = calloc((size_t)total, sizeof(**from));
	if (*from == NULL)
		return qd_fail(QD_ENOMEM, "out of memory for indices");
	if (!given(l, 3) || qd_shape_elements(&input(l, 3)->shape) == 0)
		QD_TRY(st, qd_graph_constant(l->g, l->node->in[2], &scales));
	for (int64_t i = 0, at = 0; i < out->rank; at += out->dim[i++])
		source_indices(in->dim[i], out->dim[i], scales.data != NULL ? (const float *)scales.data + i : NULL, *from + at);
out:
	qd_tensor_release(&scales);
	return st;
}

enum qd_status qd_lower_RESIZE(const struct qd_lower *l)
{
	const struct qd_shape *in = &input(l, 0)->shape, *out = &output(l)->shape;
	int64_t *from = NULL, factor[QD_MAX_RANK], at = 0;
	qt_tensor x = NULL, next = NULL;
	enum qd_status st;

	QD_TRY(st, resize_indices(l, &from));
	for (int i = 0; i < out->rank; at += out->dim[i++])
		factor[i] = integer_factor(from + at, in->dim[i], out->dim[i]);
	if (out->rank == 4 && in->dim[0] == out->dim[0] && in->dim[1] == out->dim[1] && factor[2] > 0 && factor[3] > 0) {
		st = qt_upsample_nearest(l->in[0], out->dim[2], out->dim[3], factor[2], factor[3], l->out);
		goto out;
	}
	QD_TRY(st, qt_retain(l->in[0], &x));
	at = 0;
	for (int i = 0; i < out->rank; at += out->dim[i++]) {
		if (factor[i] == 1 && in->dim[i] == out->dim[i])
			continue;
		QD_TRY(st, gather_axis(x, i, from + at, out->dim[i], &next));
		qt_free(x);
		x = next;
	}
	*l->out = x;
	x = NULL;
out:
	qt_free(x);
	free(from);
	return st;
}

/* ---- pixels and channels ---- */

/* Reshape to six dimensions, permute, reshape to the output. */
static enum qd_status shuffle(const struct qd_lower *l, struct qd_shape six, const int64_t perm[6])
{
	qt_tensor split = NULL, moved = NULL;
	enum qd_status st;

	QD_TRY(st, qt_reshape(l->in[0], &six, &split));
	QD_TRY(st, qt_permute(split, 6, perm, &moved));
	QD_TRY(st, qt_reshape(moved, &output(l)->shape, l->out));
out:
	qt_free(split);
	qt_free(moved);
	return st;
}

enum qd_status qd_lower_DEPTH_TO_SPACE(const struct qd_lower *l)
{
	const int64_t *dim = input(l, 0)->shape.dim, b = qd_node_int(l->node, "blocksize", 1), c = dim[1] / (b * b);

	if (strcmp(qd_node_string(l->node, "mode", "DCR"), "CRD") == 0)
		return shuffle(l, QD_SHAPE(dim[0], c, b, b, dim[2], dim[3]), (int64_t[]){ 0, 1, 4, 2, 5, 3 });
	return shuffle(l, QD_SHAPE(dim[0], b, b, c, dim[2], dim[3]), (int64_t[]){ 0, 3, 4, 1, 5, 2 });
}

enum qd_status qd_lower_SPACE_TO_DEPTH(const struct qd_lower *l)
{
	const int64_t *dim = input(l, 0)->shape.dim, b = qd_node_int(l->node, "blocksize", 1);

	return shuffle(l, QD_SHAPE(dim[0], dim[1], dim[2] / b, b, dim[3] / b, b), (int64_t[]){ 0, 3, 5, 1, 2, 4 });
}

/* ---- joining and filling ---- */

enum qd_status qd_lower_CONCAT(const struct qd_lower *l)
{
	return qt_concat(l->node->n_in, l->in, qd_node_int(l->node, "axis", 0), l->out);
}

enum qd_status qd_lower_PAD(const struct qd_lower *l)
{
	int64_t before[QD_MAX_RANK], after[QD_MAX_RANK];
	double value = 0;
	enum qd_status st;

	QD_TRY(st, qd_pad_axes(l->g, l->node, before, after));
	if (given(l, 2))
		QD_TRY(st, qt_item(l->in[2], &value));
	QD_TRY(st, qt_pad(l->in[0], (size_t)output(l)->shape.rank, before, after, value, l->out));
out:
	return st;
}

enum qd_status qd_lower_TRILU(const struct qd_lower *l)
{
	double k = 0;
	enum qd_status st = QD_OK;

	if (given(l, 1))
		QD_TRY(st, qt_item(l->in[1], &k));
	QD_TRY(st, qt_trilu(l->in[0], (int64_t)k, qd_node_int(l->node, "upper", 1) != 0, l->out));
out:
	return st;
}

/* ---- constants ---- */

/* A value that follows from shapes and constants. */
static enum qd_status constant(const struct qd_lower *l)
{
	struct qd_tensor data = { 0 };
	qt_tensor plain = NULL;
	enum qd_status st;

	QD_TRY(st, qd_graph_constant(l->g, l->node->out[0], &data));
	QD_TRY(st, qt_from_tensor(&data, &plain));
	QD_TRY(st, qt_cast(plain, output(l)->dtype, l->out));
out:
	qt_free(plain);
	qd_tensor_release(&data);
	return st;
}

enum qd_status qd_lower_SHAPE(const struct qd_lower *l)
{
	return constant(l);
}

enum qd_status qd_lower_RANGE(const struct qd_lower *l)
{
	return constant(l);
}

enum qd_status qd_lower_CONSTANT_OF_SHAPE(const struct qd_lower *l)
{
	qt_tensor plain = NULL;
	enum qd_status st;

	QD_TRY(st, qt_full(&output(l)->shape, qd_node_float(l->node, "value", 0), &plain));
	QD_TRY(st, qt_cast(plain, output(l)->dtype, l->out));
out:
	qt_free(plain);
	return st;
}
