/*
 * safetensors, reading.
 *
 *   8 bytes      N, header length, little-endian, at most 100,000,000
 *   N bytes      JSON (UTF-8): {"__metadata__": {"key": "text", ...},
 *                               "tensor": {"dtype": "F32", "shape": [2,3], "data_offsets": [begin, end]}, ...}
 *   the rest     tensor data; offsets count from its start; row-major, little-endian
 *
 * The tensors' ranges must cover the data exactly: no gap, no overlap, nothing after the last. Zero dimensions and scalars are
 * legal. No alignment is promised: the usual writer pads the header to 8 bytes, older ones do not.
 *
 * This reader follows the reference reader, white space around the header included, and is stricter where that leaves room for two
 * readings of one file: duplicate tensor names or metadata keys (compared after unescaping), a tensor written as an array, an empty
 * name, \u0000 in a name or text, more than QD_MAX_RANK dimensions, integers above 2^63 - 1, "-0" anywhere outside a string, and
 * nesting beyond 32.
 */
#include "lib/io/io.h"

#include <stdlib.h>
#include <string.h>

#define MAX_HEADER_BYTES 100000000u

/* One tensor while the header is read; `order` breaks ties so that the sort does not depend on the library's qsort. */
struct entry {
	uint64_t begin, end;
	size_t order;
	struct qd_tensor tensor;
};

static uint64_t read_u64(const unsigned char *bytes)
{
	uint64_t value = 0;
	for (int i = 7; i >= 0; i--)
		value = value << 8 | bytes[i];
	return value;
}

/*
 * What the JSON reader cannot tell: it reads the integer -0 as 0, and it takes more nesting than a header has use for (three
 * levels; more can only be in fields nobody reads).
 */
static enum qd_status check_text(const char *text, size_t bytes)
{
	enum { MAX_DEPTH = 32 };
	bool in_string = false;
	size_t depth = 0;
	for (size_t i = 0; i < bytes; i++) {
		char c = text[i];
		if (c == '"')
			in_string = !in_string;
		else if (in_string)
			i += c == '\\';
		else if (c == '-' && i + 1 < bytes && text[i + 1] == '0' && (i + 2 == bytes || text[i + 2] != '.'))
			return qd_fail(QD_EINPUT, "header has '-0' at byte %zu, needs plain integers", i);
		else if ((c == '{' || c == '[') && ++depth > MAX_DEPTH)
			return qd_fail(QD_EINPUT, "header is nested more than %d levels deep at byte %zu", MAX_DEPTH, i);
		else if ((c == '}' || c == ']') && depth)
			depth--;
	}
	return QD_OK;
}

/* ---- header fields ---- */

static enum qd_status read_dtype(const json_t *member, enum qd_dtype *out)
{
	const char *name = json_string_value(json_object_get(member, "dtype"));
	if (!name)
		return qd_fail(QD_EINPUT, "'dtype' is missing or not a string");
	*out = qd_dtype_by_name(name);
	if (*out == QD_DTYPE_COUNT)
		return qd_fail(QD_EINPUT, "unknown dtype '%s'", name);
	return QD_OK;
}

static enum qd_status read_shape(const json_t *member, struct qd_shape *out)
{
	const json_t *dims = json_object_get(member, "shape");
	if (!json_is_array(dims))
		return qd_fail(QD_EINPUT, "'shape' is missing or not an array");
	if (json_array_size(dims) > QD_MAX_RANK)
		return qd_fail(QD_EINPUT, "has %zu dimensions, needs at most %d", json_array_size(dims), QD_MAX_RANK);
	out->rank = (int)json_array_size(dims);
	for (int i = 0; i < out->rank; i++) {
		const json_t *dim = json_array_get(dims, (size_t)i);
		if (!json_is_integer(dim) || json_integer_value(dim) < 0)
			return qd_fail(QD_EINPUT, "dimension %d of 'shape' is not an unsigned integer", i);
		out->dim[i] = json_integer_value(dim);
	}
	return QD_OK;
}

static enum qd_status read_offsets(const json_t *member, struct entry *entry)
{
	const json_t *offsets = json_object_get(member, "data_offsets");
	if (!json_is_array(offsets) || json_array_size(offsets) != 2)
		return qd_fail(QD_EINPUT, "'data_offsets' is missing or not an array of two");
	for (size_t i = 0; i < 2; i++) {
		const json_t *offset = json_array_get(offsets, i);
		if (!json_is_integer(offset) || json_integer_value(offset) < 0)
			return qd_fail(QD_EINPUT, "'data_offsets' holds something that is not an unsigned integer");
	}
	entry->begin = (uint64_t)json_integer_value(json_array_get(offsets, 0));
	entry->end = (uint64_t)json_integer_value(json_array_get(offsets, 1));
	return QD_OK;
}

static enum qd_status read_entry(struct qd_arena *arena, const char *name, const json_t *member, struct entry *entry)
{
	if (!*name)
		return qd_fail(QD_EINPUT, "a tensor has an empty name");
	if (!json_is_object(member))
		return qd_fail(QD_EINPUT, "tensor '%s' is not described by an object", name);
	enum qd_status st;
	QD_TRY(st, read_dtype(member, &entry->tensor.dtype));
	QD_TRY(st, read_shape(member, &entry->tensor.shape));
	QD_TRY(st, read_offsets(member, entry));
	QD_TRY(st, qd_shape_bytes(&entry->tensor.shape, entry->tensor.dtype, &entry->tensor.bytes));
	entry->tensor.name = qd_arena_strdup(arena, name);
	if (!entry->tensor.name)
		return QD_ENOMEM;
out:
	return qd_prefix(st, "tensor '%s'", name);
}

static enum qd_status read_metadata(struct qd_safetensors *file, json_t *member)
{
	if (json_is_null(member))
		return QD_OK;
	if (!json_is_object(member))
		return qd_fail(QD_EINPUT, "'__metadata__' is not an object");
	file->metadata = qd_arena_array(&file->arena, json_object_size(member) * 2, sizeof(*file->metadata));
	if (!file->metadata)
		return QD_ENOMEM;
	const char *key;
	json_t *value;
	json_object_foreach(member, key, value)
	{
		if (!json_is_string(value))
			return qd_fail(QD_EINPUT, "metadata '%s' is not a string", key);
		const char **pair = file->metadata + 2 * file->n_metadata++;
		pair[0] = qd_arena_strdup(&file->arena, key);
		pair[1] = qd_arena_strdup(&file->arena, json_string_value(value));
		if (!pair[0] || !pair[1])
			return QD_ENOMEM;
	}
	return QD_OK;
}

/* ---- layout ---- */

static int by_offset(const void *left, const void *right)
{
	const struct entry *a = left, *b = right;
	if (a->begin != b->begin)
		return a->begin < b->begin ? -1 : 1;
	if (a->end != b->end)
		return a->end < b->end ? -1 : 1;
	return a->order < b->order ? -1 : 1;
}

/* Every range begins where the one before ended, holds its tensor exactly, and the last ends with the data. */
static enum qd_status check_layout(const struct entry *entries, size_t n, uint64_t data_bytes)
{
	uint64_t at = 0;
	for (size_t i = 0; i < n; i++) {
		const struct entry *entry = &entries[i];
		const char *name = entry->tensor.name;
		unsigned long long begin = entry->begin, end = entry->end;
		if (end < begin)
			return qd_fail(QD_EINPUT, "tensor '%s' ends at %llu before it begins at %llu", name, end, begin);
		if (begin != at)
			return qd_fail(QD_EINPUT, "tensor '%s' begins at %llu, needs %llu (%s)", name, begin,
				(unsigned long long)at, begin < at ? "it overlaps the one before" : "there is a gap before it");
		if (end > data_bytes)
			return qd_fail(QD_EINPUT, "tensor '%s' ends at %llu, but the file has %llu bytes of data: it is cut short",
				name, end, (unsigned long long)data_bytes);
		if (end - begin != entry->tensor.bytes)
			return qd_fail(QD_EINPUT, "tensor '%s' has %llu bytes, its shape and type need %zu", name, end - begin,
				entry->tensor.bytes);
		at = end;
	}
	if (at != data_bytes)
		return qd_fail(QD_EINPUT, "%llu bytes after the last tensor", (unsigned long long)(data_bytes - at));
	return QD_OK;
}

static enum qd_status keep_entries(struct qd_safetensors *file, const struct entry *entries, size_t n, const unsigned char *data)
{
	file->tensors = qd_arena_array(&file->arena, n, sizeof(*file->tensors));
	if (!file->tensors)
		return QD_ENOMEM;
	for (size_t i = 0; i < n; i++) {
		file->tensors[i] = entries[i].tensor;
		file->tensors[i].data = (void *)(uintptr_t)(data + entries[i].begin);
		enum qd_status st = qd_strmap_put(&file->by_name, entries[i].tensor.name, (uint32_t)i);
		if (st != QD_OK)
			return st;
	}
	file->n = n;
	return QD_OK;
}

/* ---- the whole ---- */

static enum qd_status read_header(struct qd_safetensors *file, json_t *header, const unsigned char *data, size_t data_bytes)
{
	struct entry *entries = calloc(json_object_size(header) + 1, sizeof(*entries));
	if (!entries)
		return qd_fail(QD_ENOMEM, "out of memory");
	enum qd_status st = QD_OK;
	size_t n = 0;
	const char *name;
	json_t *member;
	json_object_foreach(header, name, member)
	{
		if (strcmp(name, "__metadata__") == 0) {
			QD_TRY(st, read_metadata(file, member));
			continue;
		}
		entries[n].order = n;
		QD_TRY(st, read_entry(&file->arena, name, member, &entries[n]));
		n++;
	}
	qsort(entries, n, sizeof(*entries), by_offset);
	QD_TRY(st, check_layout(entries, n, data_bytes));
	QD_TRY(st, keep_entries(file, entries, n, data));
out:
	free(entries);
	return st;
}

static enum qd_status header_length(const unsigned char *bytes, size_t size, size_t *out)
{
	if (qd_is_lfs_pointer(bytes, size))
		return qd_fail(QD_EINPUT, "this is %s", qd_file_kind_text(QD_FILE_LFS_POINTER));
	if (size < 8)
		return qd_fail(QD_EINPUT, "has %zu bytes, needs at least 8", size);
	uint64_t length = read_u64(bytes);
	/* The first bytes of other formats, read as a length, are beyond it. */
	if (length > MAX_HEADER_BYTES) {
		enum qd_file_kind kind = qd_file_kind(bytes, size);
		if (kind != QD_FILE_UNKNOWN)
			return qd_fail(kind == QD_FILE_PICKLE ? QD_EUNSUPPORTED : QD_EINPUT, "not a safetensors file: it is %s",
				qd_file_kind_text(kind));
		return qd_fail(QD_EINPUT, "not a safetensors file: header of %llu bytes, needs at most %u",
			(unsigned long long)length, MAX_HEADER_BYTES);
	}
	if (length > size - 8)
		return qd_fail(
			QD_EINPUT, "header of %llu bytes, but the file has %zu: it is cut short", (unsigned long long)length, size);
	*out = (size_t)length;
	return QD_OK;
}

static enum qd_status parse(struct qd_safetensors *file, const unsigned char *bytes, size_t size)
{
	json_t *header = NULL;
	size_t length = 0;
	enum qd_status st;
	QD_TRY(st, header_length(bytes, size, &length));
	const char *text = (const char *)bytes + 8;
	QD_TRY(st, check_text(text, length));
	QD_TRY(st, qd_json_parse_strict("header", text, length, &header));
	if (!json_is_object(header))
		QD_TRY(st, qd_fail(QD_EINPUT, "the header is not a JSON object"));
	QD_TRY(st, read_header(file, header, bytes + 8 + length, size - 8 - length));
out:
	json_decref(header);
	return st;
}

enum qd_status qd_safetensors_parse(struct qd_safetensors *file, const char *name, const void *data, size_t bytes)
{
	*file = (struct qd_safetensors){ 0 };
	enum qd_status st;
	file->path = strdup(name);
	if (!file->path)
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory"));
	st = qd_prefix(parse(file, data, bytes), "'%s'", name);
out:
	if (st != QD_OK)
		qd_safetensors_release(file);
	return st;
}

enum qd_status qd_safetensors_open(struct qd_safetensors *file, const char *path)
{
	*file = (struct qd_safetensors){ 0 };
	struct qd_mapping mapping = { 0 };
	enum qd_status st = qd_mapping_open(&mapping, path);
	if (st == QD_OK)
		st = qd_safetensors_parse(file, path, mapping.data, mapping.size);
	if (st == QD_OK)
		file->mapping = mapping;
	else
		qd_mapping_release(&mapping);
	return st;
}

const struct qd_tensor *qd_safetensors_find(const struct qd_safetensors *file, const char *name)
{
	uint32_t i = qd_strmap_get(&file->by_name, name);
	return i == QD_NONE ? NULL : &file->tensors[i];
}

enum qd_status qd_safetensors_get(const struct qd_safetensors *file, const char *name, const struct qd_tensor **out)
{
	*out = qd_safetensors_find(file, name);
	return *out ? QD_OK : qd_fail(QD_EINPUT, "'%s' has no tensor '%s'", file->path, name);
}

const char *qd_safetensors_metadata(const struct qd_safetensors *file, const char *key)
{
	for (size_t i = 0; i < file->n_metadata; i++)
		if (strcmp(file->metadata[2 * i], key) == 0)
			return file->metadata[2 * i + 1];
	return NULL;
}

void qd_safetensors_release(struct qd_safetensors *file)
{
	free(file->path);
	qd_mapping_release(&file->mapping);
	qd_strmap_release(&file->by_name);
	qd_arena_release(&file->arena);
	*file = (struct qd_safetensors){ 0 };
}
