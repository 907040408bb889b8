/*
 * Reference evaluation of products, normalizations, reductions and quantization: the defining formulas as loops, sums in double.
 * Letters: N batch, C and O channels, G groups, M K N of a product.
 */
#include "lib/ir/internal.h"

#include <math.h>
#include <string.h>

static const float *floats(const struct qd_eval *e, size_t i)
{
	return i < e->node->n_in && e->in[i] != NULL ? e->in[i]->data : NULL;
}

/* ---- convolution, over three spatial dimensions of which leading ones may be 1 ---- */

struct conv {
	int64_t x[3], w[3], y[3], stride[3], dilation[3], pad[3];
	int64_t n, channels, out_channels, group;
	const float *input, *weight;
};

static int64_t list_at(const struct qd_node *node, const char *name, int i, int64_t absent)
{
	const struct qd_attr *attr = qd_node_attr(node, name);
	return attr != NULL ? attr->ints[i] : absent;
}

static struct conv conv_setup(const struct qd_eval *e)
{
	const struct qd_shape *x = &e->in[0]->shape, *w = &e->in[1]->shape, *y = &e->out[0].shape;
	struct conv c = { .n = x->dim[0],
		.channels = x->dim[1],
		.out_channels = w->dim[0],
		.group = qd_node_int(e->node, "group", 1),
		.input = floats(e, 0),
		.weight = floats(e, 1) };

	for (int i = 0; i < 3; i++) {
		int at = i - (5 - x->rank); /* spatial dimension that stands at place i, negative for the ones that are missing */
		c.x[i] = at < 0 ? 1 : x->dim[at + 2];
		c.w[i] = at < 0 ? 1 : w->dim[at + 2];
		c.y[i] = at < 0 ? 1 : y->dim[at + 2];
		c.stride[i] = at < 0 ? 1 : list_at(e->node, "strides", at, 1);
		c.dilation[i] = at < 0 ? 1 : list_at(e->node, "dilations", at, 1);
		c.pad[i] = at < 0 ? 0 : list_at(e->node, "pads", at, 0);
	}
	return c;
}

/* Row-major index of a point, or -1 outside. */
static int64_t point(const int64_t *size, const int64_t *at)
{
	int64_t index = 0;
	for (int i = 0; i < 3; i++) {
		if (at[i] < 0 || at[i] >= size[i])
			return -1;
		index = index * size[i] + at[i];
	}
	return index;
}

/* Point number `linear` of a volume. */
static void unpoint(const int64_t *size, int64_t linear, int64_t *at)
{
	for (int i = 2; i >= 0; i--) {
		at[i] = linear % size[i];
		linear /= size[i];
	}
}

/* sum over input channels of the group and kernel points of x * w, for one output element */
static double conv_at(const struct conv *c, int64_t n, int64_t o, const int64_t *y)
{
	int64_t per_group = c->channels / c->group, first = o / (c->out_channels / c->group) * per_group;
	int64_t kernel = c->w[0] * c->w[1] * c->w[2], volume = c->x[0] * c->x[1] * c->x[2];
	double sum = 0;

	for (int64_t k = 0; k < kernel; k++) {
		int64_t at[3], inside;
		unpoint(c->w, k, at);
		for (int i = 0; i < 3; i++)
			at[i] = y[i] * c->stride[i] - c->pad[i] + at[i] * c->dilation[i];
		inside = point(c->x, at);
		for (int64_t i = 0; inside >= 0 && i < per_group; i++)
			sum += (double)c->input[(n * c->channels + first + i) * volume + inside] *
			       c->weight[(o * per_group + i) * kernel + k];
	}
	return sum;
}

enum qd_status qd_eval_conv(const struct qd_eval *e)
{
	struct conv c = conv_setup(e);
	const float *bias = floats(e, 2);
	float *out = e->out[0].data;
	int64_t volume = c.y[0] * c.y[1] * c.y[2], at[3];

	for (int64_t i = 0; i < qd_shape_elements(&e->out[0].shape); i++) {
		int64_t o = i / volume % c.out_channels, n = i / volume / c.out_channels;
		unpoint(c.y, i % volume, at);
		out[i] = (float)(conv_at(&c, n, o, at) + (bias != NULL ? bias[o] : 0));
	}
	return QD_OK;
}

/* ---- products ---- */

/* Index of the matrix of `in` that belongs to batch number `linear` of `out` (both without their last two dimensions). */
static int64_t batch_source(const struct qd_shape *out, int out_batch, const struct qd_shape *in, int in_batch, int64_t linear)
{
	int64_t index = 0, stride = 1;

	for (int i = 1; i <= in_batch; i++) {
		int64_t size = out->dim[out_batch - i], at = linear % size;
		linear /= size;
		if (in->dim[in_batch - i] != 1)
			index += at * stride;
		stride *= in->dim[in_batch - i];
	}
	return index;
}

/* One element: sum over k of a[k] * b[k * step]. Integers wrap. */
static void dot(const struct qd_eval *e, int64_t a_at, int64_t b_at, int64_t k, int64_t step, int64_t to)
{
	if (e->out[0].dtype == QD_F32) {
		const float *a = (const float *)e->in[0]->data + a_at, *b = (const float *)e->in[1]->data + b_at;
		double sum = 0;
		for (int64_t i = 0; i < k; i++)
			sum += (double)a[i] * b[i * step];
		((float *)e->out[0].data)[to] = (float)sum;
	} else {
		const int64_t *a = (const int64_t *)e->in[0]->data + a_at, *b = (const int64_t *)e->in[1]->data + b_at;
		uint64_t sum = 0;
		for (int64_t i = 0; i < k; i++)
			sum += (uint64_t)a[i] * (uint64_t)b[i * step];
		((int64_t *)e->out[0].data)[to] = (int64_t)sum;
	}
}

enum qd_status qd_eval_matmul(const struct qd_eval *e)
{
	const struct qd_shape *a = &e->in[0]->shape, *b = &e->in[1]->shape, *y = &e->out[0].shape;
	int a_batch = a->rank > 2 ? a->rank - 2 : 0, b_batch = b->rank > 2 ? b->rank - 2 : 0;
	int y_batch = a_batch > b_batch ? a_batch : b_batch;
	int64_t k = a->dim[a->rank - 1], m = a->rank > 1 ? a->dim[a->rank - 2] : 1, n = b->rank > 1 ? b->dim[b->rank - 1] : 1;

	for (int64_t i = 0; i < qd_shape_elements(y); i++) {
		int64_t batch = i / (m * n), row = i / n % m, column = i % n;
		int64_t a_at = (batch_source(y, y_batch, a, a_batch, batch) * m + row) * k;
		int64_t b_at = batch_source(y, y_batch, b, b_batch, batch) * k * n + column;
		dot(e, a_at, b_at, k, n, i);
	}
	return QD_OK;
}

/* y [M,N] = alpha op(a) op(b) + beta c, c broadcast */
enum qd_status qd_eval_gemm(const struct qd_eval *e)
{
	const struct qd_shape *a = &e->in[0]->shape, *b = &e->in[1]->shape, *y = &e->out[0].shape;
	bool ta = qd_node_int(e->node, "transA", 0) != 0, tb = qd_node_int(e->node, "transB", 0) != 0;
	double alpha = qd_node_float(e->node, "alpha", 1), beta = qd_node_float(e->node, "beta", 1);
	const float *fa = floats(e, 0), *fb = floats(e, 1), *fc = floats(e, 2);
	int64_t depth = a->dim[ta ? 0 : 1], columns = y->dim[1];

	for (int64_t i = 0; i < qd_shape_elements(y); i++) {
		int64_t row = i / columns, column = i % columns;
		double sum = 0;
		for (int64_t k = 0; k < depth; k++)
			sum += (double)fa[ta ? k * a->dim[1] + row : row * a->dim[1] + k] *
			       fb[tb ? column * b->dim[1] + k : k * b->dim[1] + column];
		sum *= alpha;
		if (fc != NULL)
			sum += beta * fc[batch_source(y, 2, &e->in[2]->shape, e->in[2]->shape.rank, i)];
		((float *)e->out[0].data)[i] = (float)sum;
	}
	return QD_OK;
}

/* ---- along axes ---- */

/* Splits a shape around an axis: `outer` before it, `inner` after it. */
static void around(const struct qd_shape *shape, int axis, int64_t *outer, int64_t *inner)
{
	*outer = *inner = 1;
	for (int i = 0; i < shape->rank; i++)
		if (i != axis)
			*(i < axis ? outer : inner) *= shape->dim[i];
}

/* exp(x - max) / sum, over n elements `step` apart */
static void softmax(const float *x, float *y, int64_t n, int64_t step)
{
	double top = -INFINITY, sum = 0;

	for (int64_t i = 0; i < n; i++)
		top = fmax(top, x[i * step]);
	for (int64_t i = 0; i < n; i++)
		sum += exp(x[i * step] - top);
	for (int64_t i = 0; i < n; i++)
		y[i * step] = (float)(exp(x[i * step] - top) / sum);
}

enum qd_status qd_eval_softmax(const struct qd_eval *e)
{
	const struct qd_shape *shape = &e->in[0]->shape;
	int64_t outer, inner;
	enum qd_status st;
	int axis;

	QD_TRY(st, qd_axis(qd_node_int(e->node, "axis", -1), shape->rank, &axis));
	around(shape, axis, &outer, &inner);
	for (int64_t i = 0; i < outer * inner; i++) {
		int64_t at = i / inner * shape->dim[axis] * inner + i % inner;
		softmax(floats(e, 0) + at, (float *)e->out[0].data + at, shape->dim[axis], inner);
	}
out:
	return st;
}

/* y = (x - mean) / sqrt(variance + eps) over n adjacent elements, variance of the population */
static void normalize(const float *x, float *y, int64_t n, double eps)
{
	double mean = 0, variance = 0;

	for (int64_t i = 0; i < n; i++)
		mean += x[i] / (double)n;
	for (int64_t i = 0; i < n; i++)
		variance += (x[i] - mean) * (x[i] - mean) / (double)n;
	for (int64_t i = 0; i < n; i++)
		y[i] = (float)((x[i] - mean) / sqrt(variance + eps));
}

/* GroupNormalization; InstanceNormalization is as many groups as channels. */
enum qd_status qd_eval_group_norm(const struct qd_eval *e)
{
	const struct qd_shape *shape = &e->in[0]->shape;
	int64_t elements = qd_shape_elements(shape), channels = shape->dim[1];
	int64_t groups = shape->dim[0] * qd_node_int(e->node, "num_groups", channels);
	const float *scale = floats(e, 1), *bias = floats(e, 2);
	float *out = e->out[0].data;
	int64_t size = groups > 0 ? elements / groups : 0, plane = 1;

	for (int i = 2; i < shape->rank; i++)
		plane *= shape->dim[i];
	for (int64_t i = 0; size > 0 && i < groups; i++)
		normalize(floats(e, 0) + i * size, out + i * size, size, qd_node_float(e->node, "epsilon", 1e-5f));
	for (int64_t i = 0; i < elements; i++)
		out[i] = out[i] * scale[i / plane % channels] + bias[i / plane % channels];
	return QD_OK;
}

enum qd_status qd_eval_layer_norm(const struct qd_eval *e)
{
	const struct qd_shape *shape = &e->in[0]->shape;
	const float *scale = floats(e, 1), *bias = floats(e, 2);
	int64_t elements = qd_shape_elements(shape), size = 1;
	float *out = e->out[0].data;
	enum qd_status st;
	int axis;

	QD_TRY(st, qd_axis(qd_node_int(e->node, "axis", -1), shape->rank, &axis));
	for (int i = axis; i < shape->rank; i++)
		size *= shape->dim[i];
	for (int64_t i = 0; size > 0 && i < elements / size; i++)
		normalize(floats(e, 0) + i * size, out + i * size, size, qd_node_float(e->node, "epsilon", 1e-5f));
	for (int64_t i = 0; i < elements; i++) {
		out[i] *= scale[batch_source(shape, shape->rank, &e->in[1]->shape, e->in[1]->shape.rank, i)];
		if (bias != NULL)
			out[i] += bias[batch_source(shape, shape->rank, &e->in[2]->shape, e->in[2]->shape.rank, i)];
	}
out:
	return st;
}

/* Index in the reduced tensor of element `linear`. */
static int64_t reduced_index(const struct qd_shape *shape, unsigned axes, int64_t linear)
{
	int64_t index = 0, stride = 1;

	for (int i = shape->rank - 1; i >= 0; i--) {
		if (!(axes >> i & 1)) {
			index += linear % shape->dim[i] * stride;
			stride *= shape->dim[i];
		}
		linear /= shape->dim[i];
	}
	return index;
}

/* Sum in double of the elements of each result, divided for the mean. */
static void reduce_floats(const struct qd_eval *e, unsigned axes)
{
	const struct qd_shape *shape = &e->in[0]->shape;
	int64_t results = qd_shape_elements(&e->out[0].shape), elements = qd_shape_elements(shape);
	double count = e->node->op == QD_OP_REDUCE_MEAN && results > 0 ? (double)(elements / results) : 1;

	for (int64_t r = 0; r < results; r++) {
		double sum = 0;
		for (int64_t i = 0; i < elements; i++)
			if (reduced_index(shape, axes, i) == r)
				sum += floats(e, 0)[i];
		((float *)e->out[0].data)[r] = (float)(sum / count);
	}
}

enum qd_status qd_eval_reduce(const struct qd_eval *e)
{
	const struct qd_shape *shape = &e->in[0]->shape;
	int64_t *out = e->out[0].data;
	enum qd_status st;
	unsigned axes;

	QD_TRY(st, qd_reduced_axes_of(e->g, e->node, e->node->n_in > 1 && e->in[1] != NULL ? e->in : NULL, &axes));
	if (e->out[0].dtype == QD_F32)
		reduce_floats(e, axes);
	for (int64_t i = 0; e->out[0].dtype == QD_I64 && i < qd_shape_elements(shape); i++) {
		int64_t at = reduced_index(shape, axes, i);
		out[at] = (int64_t)((uint64_t)out[at] + (uint64_t)((const int64_t *)e->in[0]->data)[i]);
	}
out:
	return st;
}

static bool above(const struct qd_tensor *t, int64_t a, int64_t b, bool or_equal)
{
	if (t->dtype == QD_I64) {
		const int64_t *v = t->data;
		return or_equal ? v[a] >= v[b] : v[a] > v[b];
	}
	const float *v = t->data;
	return or_equal ? v[a] >= v[b] : v[a] > v[b];
}

enum qd_status qd_eval_arg_max(const struct qd_eval *e)
{
	const struct qd_shape *shape = &e->in[0]->shape;
	bool last = qd_node_int(e->node, "select_last_index", 0) != 0;
	int64_t outer, inner;
	enum qd_status st;
	int axis;

	QD_TRY(st, qd_axis(qd_node_int(e->node, "axis", 0), shape->rank, &axis));
	around(shape, axis, &outer, &inner);
	for (int64_t i = 0; i < outer * inner; i++) {
		int64_t at = i / inner * shape->dim[axis] * inner + i % inner, best = 0;
		for (int64_t k = 1; k < shape->dim[axis]; k++)
			if (above(e->in[0], at + k * inner, at + best * inner, last))
				best = k;
		((int64_t *)e->out[0].data)[i] = best;
	}
out:
	return st;
}

/* ---- codes: real = (q - zero point) * scale ---- */

struct grid {
	const float *scale;
	const int64_t *zero; /* NULL: 0 */
	int64_t n, inner;    /* element i has scale number i / inner % n */
};

static enum qd_status grid_setup(const struct qd_eval *e, struct grid *q)
{
	const struct qd_shape *shape = &e->in[0]->shape;
	int64_t outer;
	enum qd_status st = QD_OK;
	int axis;

	*q = (struct grid){ floats(e, 1), e->node->n_in > 2 && e->in[2] != NULL ? e->in[2]->data : NULL, 1, 1 };
	if (qd_shape_elements(&e->in[1]->shape) == 1)
		return QD_OK;
	QD_TRY(st, qd_axis(qd_node_int(e->node, "axis", 1), shape->rank, &axis));
	around(shape, axis, &outer, &q->inner);
	q->n = shape->dim[axis];
out:
	return st;
}

/* q = clamp(round_half_even(x / scale) + zero point) */
enum qd_status qd_eval_quantize(const struct qd_eval *e)
{
	enum qd_dtype dtype = e->g->values[e->node->out[0]].dtype;
	bool is_signed = dtype == QD_I8 || dtype == QD_I16;
	double levels = (double)(UINT64_C(1) << qd_dtype_bits(dtype)), low = is_signed ? -levels / 2 : 0;
	struct grid q;
	enum qd_status st;

	QD_TRY(st, grid_setup(e, &q));
	for (int64_t i = 0; i < qd_shape_elements(&e->in[0]->shape); i++) {
		int64_t at = i / q.inner % q.n;
		double code = nearbyint(floats(e, 0)[i] / q.scale[at]) + (double)(q.zero != NULL ? q.zero[at] : 0);
		code = isnan(code) ? 0 : fmin(fmax(code, low), low + levels - 1);
		((int64_t *)e->out[0].data)[i] = (int64_t)code;
	}
out:
	return st;
}

enum qd_status qd_eval_dequantize(const struct qd_eval *e)
{
	const int64_t *codes = e->in[0]->data;
	struct grid q;
	enum qd_status st;

	QD_TRY(st, grid_setup(e, &q));
	for (int64_t i = 0; i < qd_shape_elements(&e->in[0]->shape); i++) {
		int64_t at = i / q.inner % q.n;
		((float *)e->out[0].data)[i] = (float)(codes[i] - (q.zero != NULL ? q.zero[at] : 0)) * q.scale[at];
	}
out:
	return st;
}
