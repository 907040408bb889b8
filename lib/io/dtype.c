/*
 * Element types and shapes: tables expanded from QD_DTYPE_LIST, and overflow-checked sizes.
 */
#include "lib/io/io.h"

#include <stdio.h>
#include <string.h>

static const struct {
	const char *name;
	unsigned bits;
	int onnx;
} dtypes[] = {
#define DTYPE_ROW(id, name, bits, onnx) { name, bits, onnx },
	QD_DTYPE_LIST(DTYPE_ROW)
#undef DTYPE_ROW
};

const char *qd_dtype_name(enum qd_dtype dtype)
{
	return dtype < QD_DTYPE_COUNT ? dtypes[dtype].name : "unknown";
}

unsigned qd_dtype_bits(enum qd_dtype dtype)
{
	return dtype < QD_DTYPE_COUNT ? dtypes[dtype].bits : 0;
}

int qd_dtype_onnx(enum qd_dtype dtype)
{
	return dtype < QD_DTYPE_COUNT ? dtypes[dtype].onnx : 0;
}

enum qd_dtype qd_dtype_by_name(const char *name)
{
	unsigned i = 0;
	while (i < QD_DTYPE_COUNT && strcmp(dtypes[i].name, name) != 0)
		i++;
	return (enum qd_dtype)i;
}

enum qd_dtype qd_dtype_by_onnx(int onnx)
{
	unsigned i = 0;
	while (i < QD_DTYPE_COUNT && (onnx == 0 || dtypes[i].onnx != onnx))
		i++;
	return (enum qd_dtype)i;
}

int64_t qd_shape_elements(const struct qd_shape *shape)
{
	int64_t n = 1;
	for (int i = 0; i < shape->rank; i++)
		n *= shape->dim[i];
	return n;
}

bool qd_shape_equal(const struct qd_shape *a, const struct qd_shape *b)
{
	bool equal = a->rank == b->rank;
	for (int i = 0; equal && i < a->rank; i++)
		equal = a->dim[i] == b->dim[i];
	return equal;
}

char *qd_shape_text(const struct qd_shape *shape, char *buffer)
{
	size_t used = (size_t)snprintf(buffer, QD_SHAPE_TEXT, "[");
	for (int i = 0; i < shape->rank; i++)
		used += (size_t)snprintf(buffer + used, QD_SHAPE_TEXT - used, "%s%lld", i ? "," : "", (long long)shape->dim[i]);
	snprintf(buffer + used, QD_SHAPE_TEXT - used, "]");
	return buffer;
}

enum qd_status qd_shape_bytes(const struct qd_shape *shape, enum qd_dtype dtype, size_t *out)
{
	char text[QD_SHAPE_TEXT];
	if (shape->rank < 0 || shape->rank > QD_MAX_RANK)
		return qd_fail(QD_EINPUT, "has %d dimensions, needs at most %d", shape->rank, QD_MAX_RANK);
	int64_t n = 1; /* as they are counted, also before a dimension of 0 */
	for (int i = 0; i < shape->rank; i++) {
		if (shape->dim[i] < 0)
			return qd_fail(QD_EINPUT, "shape %s has a negative dimension", qd_shape_text(shape, text));
		if (__builtin_mul_overflow(n, shape->dim[i], &n))
			return qd_fail(QD_EINPUT, "shape %s overflows 64 bits", qd_shape_text(shape, text));
	}
	if (__builtin_mul_overflow(n, qd_dtype_bits(dtype), &n))
		return qd_fail(QD_EINPUT, "%s of shape %s overflows 64 bits", qd_dtype_name(dtype), qd_shape_text(shape, text));
	if (n % 8)
		return qd_fail(
			QD_EINPUT, "%s of shape %s does not fill whole bytes", qd_dtype_name(dtype), qd_shape_text(shape, text));
	*out = (size_t)(n / 8);
	return QD_OK;
}
