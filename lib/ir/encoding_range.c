/*
 * From ranges to encodings, by AIMET's min-max rules. The range [min, max] is widened to contain 0 first. With b bits:
 *
 *   symmetric    scale = max(max / (2^(b-1) - 1), -min / 2^(b-1))   zero point 0, signed grid: a range that reaches further on its
 *                                                                   negative side uses the lowest code
 *   asymmetric   scale = (max - min) / (2^b - 1)                    zero point -round(min / scale), half away from zero, unsigned
 *                                                                   grid
 *
 * in double; the smallest scale is 2^-23. At 2 bits, where the grid has one positive code, max counts as reaching to 2 scales.
 */
#include "lib/kernel/kernel.h"
#include "lib/ir/ir.h"

#include <math.h>

#define SMALLEST_SCALE 0x1p-23

static double symmetric_scale(double min, double max, int bits)
{
	double bottom = ldexp(1, bits - 1), top = bits > 2 ? bottom - 1 : bottom;

	return fmax(fmax(max / top, -min / bottom), SMALLEST_SCALE);
}

enum qd_status qd_encoding_from_range(
	struct qd_arena *arena, double min, double max, int bits, bool symmetric, struct qd_encoding **out)
{
	enum qd_status st = qd_encoding_new(arena, bits, symmetric, -1, 1, out);
	double scale;

	if (st != QD_OK)
		return st;
	if (!isfinite(min) || !isfinite(max) || min > max)
		return qd_fail(QD_EINPUT, "a range from %g to %g has no encoding", min, max);
	min = fmin(min, 0);
	max = fmax(max, 0);
	scale = symmetric ? symmetric_scale(min, max, bits) : fmax((max - min) / (ldexp(1, bits) - 1), SMALLEST_SCALE);
	(*out)->scale[0] = (float)scale;
	/* 0 - x, not -x: no negative zero. */
	(*out)->zero_point[0] = symmetric ? 0 : (float)(0 - round(min / scale));
	return QD_OK;
}

void qd_range_add(struct qd_range *range, size_t n, const float *x)
{
	float low, high;

	if (n == 0)
		return;
	if (!qd_min_max_f32(x, n, &low, &high)) {
		range->bad = true;
		return;
	}
	range->low = fminf(range->low, low);
	range->high = fmaxf(range->high, high);
}

void qd_range_join(struct qd_range *range, const struct qd_range *other)
{
	range->low = fminf(range->low, other->low);
	range->high = fmaxf(range->high, other->high);
	range->bad = range->bad || other->bad;
}

/* Visits a float tensor's rows (indices of axis 0) as float32, whatever its dtype. */
static enum qd_status each_row(
	const struct qd_tensor *t, void (*visit)(void *context, size_t row, size_t n, const float *x), void *context)
{
	size_t rows = t->shape.rank > 0 ? (size_t)t->shape.dim[0] : 1,
	       n = rows > 0 ? (size_t)qd_shape_elements(&t->shape) / rows : 0;
	struct qd_tensor row = qd_tensor_view(t->name, t->dtype, QD_SHAPE((int64_t)n), NULL), buffer = { 0 };
	bool direct = t->dtype == QD_F32 && (uintptr_t)t->data % sizeof(float) == 0;
	enum qd_status st;

	QD_TRY(st, qd_tensor_new(&buffer, NULL, QD_F32, &row.shape));
	for (size_t i = 0; i < rows; i++) {
		row.data = (char *)t->data + i * row.bytes;
		if (!direct)
			QD_TRY(st, qd_tensor_to_f32(&row, buffer.data));
		visit(context, i, n, direct ? row.data : buffer.data);
	}
out:
	qd_tensor_release(&buffer);
	return st;
}

static void visit_whole(void *context, size_t row, size_t n, const float *x)
{
	(void)row;
	qd_range_add(context, n, x);
}

enum qd_status qd_tensor_range(const struct qd_tensor *t, struct qd_range *out)
{
	enum qd_status st;

	*out = (struct qd_range){ 0 };
	st = each_row(t, visit_whole, out);
	if (st == QD_OK && out->bad)
		return qd_fail(QD_EINPUT, "tensor '%s' holds a value that is not finite", t->name);
	return st;
}

struct channels {
	struct qd_encoding *encoding;
	bool bad;
};

static void visit_channel(void *context, size_t row, size_t n, const float *x)
{
	struct channels *c = context;
	struct qd_range r = { 0 };

	qd_range_add(&r, n, x);
	c->encoding->scale[row] = (float)symmetric_scale(r.low, r.high, c->encoding->bits);
	c->bad = c->bad || r.bad;
}

enum qd_status qd_encoding_per_channel(struct qd_arena *arena, const struct qd_tensor *weight, int bits, struct qd_encoding **out)
{
	struct channels c = { 0 };
	enum qd_status st;

	*out = NULL;
	if (weight->shape.rank < 1 || weight->shape.dim[0] < 1)
		return qd_fail(QD_EINPUT, "tensor '%s' has no channels, needs at least one", weight->name);
	st = qd_encoding_new(arena, bits, true, 0, (size_t)weight->shape.dim[0], &c.encoding);
	if (st == QD_OK)
		st = each_row(weight, visit_channel, &c);
	if (st == QD_OK && c.bad)
		return qd_fail(QD_EINPUT, "tensor '%s' holds a value that is not finite", weight->name);
	*out = c.encoding;
	return st;
}
