/*
 * TensorProto: dims (field 1), data_type (2), and the elements in one of
 *   raw_data (9)                                        the bytes, little-endian, row-major
 *   float_data (4), int64_data (7), double_data (10)    one entry per element
 *   int32_data (5)                                      int32 and everything smaller, float16 and bfloat16 as their bits
 *   uint64_data (11)                                    uint32 and uint64
 *   external_data (13)                                  location, offset, length: bytes of another file in the model's folder
 */
#include "lib/onnx/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static enum qd_status tensor_shape(const Onnx__TensorProto *proto, struct qd_shape *shape, enum qd_dtype *dtype, size_t *elements)
{
	*elements = 1;
	shape->rank = (int)proto->n_dims;
	if (proto->n_dims > QD_MAX_RANK)
		return qd_fail(QD_EUNSUPPORTED, "has %zu dimensions, at most %d are read", proto->n_dims, QD_MAX_RANK);
	for (size_t i = 0; i < proto->n_dims; i++) {
		shape->dim[i] = proto->dims[i];
		if (proto->dims[i] < 0 || proto->dims[i] > INT32_MAX ||
			qd_mul_overflow(*elements, (size_t)proto->dims[i], elements))
			return qd_fail(QD_EINPUT, "dimension %zu is %lld", i, (long long)proto->dims[i]);
	}
	*dtype = proto->has_data_type ? qd_dtype_by_onnx(proto->data_type) : QD_DTYPE_COUNT;
	if (*dtype == QD_DTYPE_COUNT || qd_dtype_bits(*dtype) % 8 != 0)
		return qd_fail(QD_EUNSUPPORTED, "has ONNX data type %d", (int)proto->data_type);
	return QD_OK;
}

/* ---- external data ---- */

static const char *external_entry(const Onnx__TensorProto *proto, const char *key)
{
	for (size_t i = 0; i < proto->n_external_data; i++)
		if (proto->external_data[i]->key != NULL && !strcmp(proto->external_data[i]->key, key))
			return proto->external_data[i]->value;
	return NULL;
}

static enum qd_status external_number(const Onnx__TensorProto *proto, const char *key, uint64_t absent, uint64_t *out)
{
	const char *text = external_entry(proto, key);
	char *end;
	*out = absent;
	if (text == NULL)
		return QD_OK;
	errno = 0;
	*out = strtoull(text, &end, 10);
	if (text[0] < '0' || text[0] > '9' || *end != '\0' || errno != 0)
		return qd_fail(QD_EINPUT, "external %s is '%s', needs a number", key, text);
	return QD_OK;
}

/* A file is mapped when the first tensor asks for it. */
static enum qd_status external_file(struct qd_onnx_build *b, const char *location, const struct qd_mapping **out)
{
	enum qd_status st;
	struct qd_onnx_file *data = b->file;
	struct qd_onnx_beside file = { .location = location };
	if (location == NULL || location[0] == '\0' || strchr(location, '/') != NULL || strchr(location, '\\') != NULL ||
		!strcmp(location, "..") || !strcmp(location, "."))
		return qd_fail(QD_EINPUT, "external location '%s' is not a file name in the model's folder",
			location != NULL ? location : "");
	if (data->folder == NULL)
		return qd_fail(QD_EINPUT, "external data in '%s' cannot be found: the model is not a file", location);
	for (size_t i = 0; i < data->n_beside; i++)
		if (!strcmp(data->beside[i].location, location)) {
			*out = &data->beside[i].mapping;
			return QD_OK;
		}
	const char *path = qd_arena_strf(&data->arena, "%s/%s", data->folder, location);
	if (path == NULL)
		return QD_ENOMEM;
	QD_TRY(st, qd_mapping_open(&file.mapping, path));
	if (qd_is_lfs_pointer(file.mapping.data, file.mapping.size)) {
		st = qd_fail(QD_EINPUT, "'%s' is a Git-LFS pointer, not the data itself", path);
		goto out;
	}
	QD_PUSH(st, data->beside, data->n_beside, data->cap_beside, file);
	*out = &data->beside[data->n_beside - 1].mapping;
	return QD_OK;
out:
	qd_mapping_release(&file.mapping);
	return st;
}

static enum qd_status external_bytes(struct qd_onnx_build *b, const Onnx__TensorProto *proto, size_t needed, const void **out)
{
	enum qd_status st;
	const struct qd_mapping *mapping = NULL;
	const char *location = external_entry(proto, "location");
	uint64_t offset, length;
	QD_TRY(st, external_number(proto, "offset", 0, &offset));
	QD_TRY(st, external_number(proto, "length", needed, &length));
	QD_TRY(st, external_file(b, location, &mapping));
	if (length != needed)
		return qd_fail(QD_EINPUT, "external length is %llu bytes, the shape needs %zu", (unsigned long long)length, needed);
	if (offset > mapping->size || length > mapping->size - offset)
		return qd_fail(QD_EINPUT, "bytes %llu to %llu are past the end of '%s' (%zu bytes)", (unsigned long long)offset,
			(unsigned long long)(offset + length), location, mapping->size);
	*out = mapping->data + offset;
out:
	return st;
}

/* ---- typed data ---- */

static void narrow_int32(const int32_t *in, size_t n, unsigned bits, void *out)
{
	for (size_t i = 0; i < n; i++)
		if (bits == 8)
			((uint8_t *)out)[i] = (uint8_t)in[i];
		else if (bits == 16)
			((uint16_t *)out)[i] = (uint16_t)in[i];
		else
			((int32_t *)out)[i] = in[i];
}

static void narrow_uint64(const uint64_t *in, size_t n, unsigned bits, void *out)
{
	for (size_t i = 0; i < n; i++)
		if (bits == 32)
			((uint32_t *)out)[i] = (uint32_t)in[i];
		else
			((uint64_t *)out)[i] = in[i];
}

static enum qd_status typed_bytes(
	struct qd_onnx_build *b, const Onnx__TensorProto *p, enum qd_dtype dtype, size_t elements, const void **out)
{
	unsigned bits = qd_dtype_bits(dtype);
	bool wide = dtype == QD_U32 || dtype == QD_U64;
	size_t found = dtype == QD_F32   ? p->n_float_data
		       : dtype == QD_F64 ? p->n_double_data
		       : dtype == QD_I64 ? p->n_int64_data
		       : wide            ? p->n_uint64_data
					 : p->n_int32_data;
	if (found != elements)
		return qd_fail(QD_EINPUT, "has %zu elements, its shape needs %zu", found, elements);
	if (dtype == QD_F32 || dtype == QD_F64 || dtype == QD_I64) {
		*out = dtype == QD_F32   ? (const void *)p->float_data
		       : dtype == QD_F64 ? (const void *)p->double_data
					 : p->int64_data;
		return QD_OK;
	}
	void *copy = qd_arena_array(&b->g->arena, elements + 1, bits / 8);
	if (copy == NULL)
		return QD_ENOMEM;
	if (wide)
		narrow_uint64(p->uint64_data, elements, bits, copy);
	else
		narrow_int32(p->int32_data, elements, bits, copy);
	*out = copy;
	return QD_OK;
}

static enum qd_status read_tensor(struct qd_onnx_build *b, const Onnx__TensorProto *proto, struct qd_tensor *out)
{
	enum qd_status st;
	struct qd_shape shape = { 0 };
	enum qd_dtype dtype = QD_DTYPE_COUNT;
	size_t elements, bytes;
	const void *data = NULL;
	QD_TRY(st, tensor_shape(proto, &shape, &dtype, &elements));
	if (qd_mul_overflow(elements, qd_dtype_bits(dtype) / 8, &bytes))
		return qd_fail(QD_EINPUT, "is too large");
	if (proto->segment != NULL)
		return qd_fail(QD_EUNSUPPORTED, "is stored in segments");
	if (proto->has_data_location && proto->data_location == ONNX__TENSOR_PROTO__DATA_LOCATION__EXTERNAL) {
		QD_TRY(st, external_bytes(b, proto, bytes, &data));
	} else if (proto->has_raw_data) {
		if (proto->raw_data.len != bytes)
			return qd_fail(QD_EINPUT, "has %zu bytes, its shape needs %zu", proto->raw_data.len, bytes);
		data = proto->raw_data.data;
	} else {
		QD_TRY(st, typed_bytes(b, proto, dtype, elements, &data));
	}
	/* an empty tensor still needs an address */
	*out = qd_tensor_view(out->name, dtype, shape, bytes > 0 ? data : b->g);
out:
	return st;
}

enum qd_status qd_onnx_tensor(struct qd_onnx_build *b, const char *name, const Onnx__TensorProto *proto, struct qd_tensor *out)
{
	*out = (struct qd_tensor){ .name = name };
	return qd_prefix(read_tensor(b, proto, out), "tensor '%s'", name);
}
