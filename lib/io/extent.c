/*
 * The range of a tensor's values, in pieces, so that a mapped file is read once and nothing large is allocated.
 */
#include "lib/io/io.h"

#include <math.h>
#include <stdlib.h>

enum { PIECE = 1 << 16 };

static void include(struct qd_extent *range, const float *x, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		if (!isfinite(x[i])) {
			range->bad++;
			continue;
		}
		range->low = range->n == 0 || x[i] < range->low ? x[i] : range->low;
		range->high = range->n == 0 || x[i] > range->high ? x[i] : range->high;
		range->n++;
	}
}

enum qd_status qd_extent_add(struct qd_extent *range, const struct qd_tensor *tensor)
{
	size_t total = (size_t)qd_shape_elements(&tensor->shape), width = qd_dtype_bits(tensor->dtype) / 8;
	float *piece = malloc(PIECE * sizeof(*piece));
	enum qd_status st = QD_OK;
	if (piece == NULL)
		return qd_fail(QD_ENOMEM, "out of memory");
	for (size_t first = 0; first < total; first += PIECE) {
		size_t n = total - first < PIECE ? total - first : PIECE;
		const unsigned char *data = (const unsigned char *)tensor->data + first * width;
		struct qd_tensor view = qd_tensor_view(tensor->name, tensor->dtype, QD_SHAPE((int64_t)n), data);
		QD_TRY(st, qd_tensor_to_f32(&view, piece));
		include(range, piece, n);
	}
out:
	free(piece);
	return st;
}
