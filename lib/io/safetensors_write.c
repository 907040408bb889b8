/*
 * safetensors, writing. The bytes are those of safetensors.c; tensors lie in the reference writer's order: element types from last
 * to first of its list (so the widest come first and all are aligned), then names in byte order. The header is padded with spaces
 * so that the data begins at a multiple of 8.
 */
#include "lib/io/io.h"

#include <stdlib.h>
#include <string.h>

static const enum qd_dtype reference_order[] = { QD_BOOL, QD_F4, QD_F6_E2M3, QD_F6_E3M2, QD_U8, QD_I8, QD_F8_E5M2, QD_F8_E4M3,
	QD_F8_E8M0, QD_F8_E4M3FNUZ, QD_F8_E5M2FNUZ, QD_I16, QD_U16, QD_F16, QD_BF16, QD_I32, QD_U32, QD_F32, QD_C64, QD_F64, QD_I64,
	QD_U64 };

_Static_assert(QD_COUNT(reference_order) == QD_DTYPE_COUNT, "every element type has a place");

struct place {
	const struct qd_tensor *tensor;
	size_t index, rank;
};

static size_t dtype_rank(enum qd_dtype dtype)
{
	size_t i = 0;
	while (i < QD_COUNT(reference_order) && reference_order[i] != dtype)
		i++;
	return i;
}

static int by_reference_order(const void *left, const void *right)
{
	const struct place *a = left, *b = right;
	if (a->rank != b->rank)
		return a->rank > b->rank ? -1 : 1;
	return strcmp(a->tensor->name, b->tensor->name);
}

static enum qd_status check_tensor(const struct qd_tensor *tensor, qd_fill fill)
{
	if (!tensor->name || !*tensor->name || strcmp(tensor->name, "__metadata__") == 0)
		return qd_fail(QD_EINPUT, "a tensor is named '%s', needs a name of its own", tensor->name ? tensor->name : "");
	if (tensor->dtype >= QD_DTYPE_COUNT)
		return qd_fail(QD_EINPUT, "tensor '%s' has no element type", tensor->name);
	size_t bytes;
	enum qd_status st = qd_shape_bytes(&tensor->shape, tensor->dtype, &bytes);
	if (st != QD_OK)
		return qd_prefix(st, "tensor '%s'", tensor->name);
	if (bytes != tensor->bytes)
		return qd_fail(
			QD_EINPUT, "tensor '%s' has %zu bytes, its shape and type need %zu", tensor->name, tensor->bytes, bytes);
	if (bytes && !tensor->data && !fill)
		return qd_fail(QD_EINPUT, "tensor '%s' has no data", tensor->name);
	return QD_OK;
}

static enum qd_status sort_tensors(const struct qd_tensor *tensors, size_t n, qd_fill fill, struct place *places)
{
	for (size_t i = 0; i < n; i++) {
		enum qd_status st = check_tensor(&tensors[i], fill);
		if (st != QD_OK)
			return st;
		places[i] = (struct place){ &tensors[i], i, dtype_rank(tensors[i].dtype) };
	}
	qsort(places, n, sizeof(*places), by_reference_order);
	return QD_OK;
}

/* ---- header ---- */

/* Adds `value` (stolen; NULL when it could not be made) under a key that must be new. */
static enum qd_status set_new(json_t *object, const char *what, const char *key, json_t *value)
{
	enum qd_status st = QD_OK;
	if (value && json_object_get(object, key))
		st = qd_fail(QD_EINPUT, "%s '%s' is given twice", what, key);
	else if (!value || json_object_set(object, key, value) != 0)
		st = qd_json_starved() ? qd_fail(QD_ENOMEM, "out of memory")
				       : qd_fail(QD_EINPUT, "%s '%s' is not valid UTF-8", what, key);
	json_decref(value);
	return st;
}

static enum qd_status add_metadata(json_t *header, const char *const *metadata, size_t n)
{
	if (!n)
		return QD_OK;
	json_t *object = json_object();
	enum qd_status st = object ? QD_OK : qd_fail(QD_ENOMEM, "out of memory");
	for (size_t i = 0; st == QD_OK && i < n; i++)
		st = set_new(object, "metadata", metadata[2 * i], json_string(metadata[2 * i + 1]));
	if (st == QD_OK && json_object_set(header, "__metadata__", object) != 0)
		st = qd_fail(QD_ENOMEM, "out of memory");
	json_decref(object);
	return st;
}

static enum qd_status add_tensor(json_t *header, const struct qd_tensor *tensor, uint64_t begin)
{
	json_t *shape = json_array();
	for (int i = 0; i < tensor->shape.rank; i++)
		json_array_append_new(shape, json_integer(tensor->shape.dim[i]));
	json_t *member = json_pack("{s:s,s:o,s:[I,I]}", "dtype", qd_dtype_name(tensor->dtype), "shape", shape, "data_offsets",
		(json_int_t)begin, (json_int_t)(begin + tensor->bytes));
	return set_new(header, "tensor", tensor->name, member);
}

static enum qd_status build_header(const struct place *places, size_t n, const char *const *metadata, size_t n_metadata, char **out)
{
	json_t *header = json_object();
	enum qd_status st;
	if (!header)
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory"));
	QD_TRY(st, add_metadata(header, metadata, n_metadata));
	uint64_t at = 0;
	for (size_t i = 0; i < n; i++) {
		QD_TRY(st, add_tensor(header, places[i].tensor, at));
		if (__builtin_add_overflow(at, places[i].tensor->bytes, &at))
			QD_TRY(st, qd_fail(QD_EINPUT, "the tensors' sizes overflow 64 bits"));
	}
	QD_TRY(st, qd_json_text(header, JSON_COMPACT, out));
out:
	json_decref(header);
	return st;
}

static enum qd_status write_header(struct qd_output *output, const char *text)
{
	static const char spaces[] = "        ";
	size_t length = strlen(text), padding = (8 - length % 8) % 8;
	unsigned char size[8];
	for (int i = 0; i < 8; i++)
		size[i] = (unsigned char)((uint64_t)(length + padding) >> (8 * i));
	enum qd_status st;
	QD_TRY(st, qd_output_write(output, size, sizeof(size)));
	QD_TRY(st, qd_output_write(output, text, length));
	QD_TRY(st, qd_output_write(output, spaces, padding));
out:
	return st;
}

/* ---- data ---- */

static enum qd_status write_filled(struct qd_output *output, const struct place *place, qd_fill fill, void *context)
{
	void *buffer = calloc(1, place->tensor->bytes);
	if (!buffer)
		return qd_fail(QD_ENOMEM, "tensor '%s': out of memory (%zu bytes)", place->tensor->name, place->tensor->bytes);
	enum qd_status st = fill(context, place->index, buffer);
	if (st == QD_OK)
		st = qd_output_write(output, buffer, place->tensor->bytes);
	free(buffer);
	return st;
}

static enum qd_status write_data(struct qd_output *output, const struct place *place, qd_fill fill, void *context)
{
	if (!place->tensor->bytes)
		return QD_OK;
	if (!place->tensor->data)
		return write_filled(output, place, fill, context);
	return qd_output_write(output, place->tensor->data, place->tensor->bytes);
}

enum qd_status qd_safetensors_write(const char *path, const struct qd_tensor *tensors, size_t n, const char *const *metadata,
	size_t n_metadata, bool force, qd_fill fill, void *context)
{
	struct qd_output output = { 0 };
	char *header = NULL;
	enum qd_status st;
	struct place *places = calloc(n + 1, sizeof(*places));
	if (!places)
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory"));
	QD_TRY(st, qd_prefix(sort_tensors(tensors, n, fill, places), "cannot write '%s'", path));
	QD_TRY(st, qd_prefix(build_header(places, n, metadata, n_metadata, &header), "cannot write '%s'", path));
	QD_TRY(st, qd_output_open(&output, path, force));
	QD_TRY(st, write_header(&output, header));
	for (size_t i = 0; i < n; i++)
		QD_TRY(st, write_data(&output, &places[i], fill, context));
	QD_TRY(st, qd_output_commit(&output));
out:
	qd_output_release(&output);
	free(header);
	free(places);
	return st;
}
