/*
 * ONNX Runtime's adapter file: FlatBuffers, little-endian, file identifier "TORT". Its schema, fields by number:
 *
 *   Parameter { 0 name: string; 1 dims: [int64]; 2 data_type: int32 (ONNX's numbers); 3 raw_data: [ubyte], aligned to 8 }
 *   Adapter   { 0 format_version: int32 = 1; 1 adapter_version: int32; 2 model_version: int32; 3 parameters: [Parameter] }
 *
 * A FlatBuffer, from its first byte, as written here (every offset is unsigned and counts from where it stands, except a table's,
 * which is signed and is subtracted from it to give the vtable):
 *
 *   0    u32 offset of the root table, then "TORT"
 *   8    vtable of Adapter: u16 its bytes (12), u16 the table's bytes (20), u16 place of fields 0 to 3 in the table (4 8 12 16)
 *   20   vtable of Parameter: the same with the same numbers (four fields of four bytes each)
 *   32   Adapter: i32 offset to its vtable, i32 format_version, i32 adapter_version, i32 model_version, u32 offset of parameters
 *   52   u32 n, then n u32 offsets of Parameter tables
 *
 * then per Parameter, from a multiple of 4:
 *
 *   table   i32 offset to the vtable, u32 offset of the name, u32 of the dims, i32 data_type, u32 offset of raw_data
 *   name    u32 length, bytes, NUL
 *   dims    u32 n at 4 before a multiple of 8, n i64
 *   data    u32 length at 4 before a multiple of 8, bytes
 */
#include "export/file/file.h"

#include <string.h>

enum {
	ADAPTER_VTABLE = 8,
	PARAMETER_VTABLE = 20,
	ADAPTER = 32,
	PARAMETERS = 52,
	TABLE_BYTES = 20,
	FORMAT_VERSION = 1,
	MOST_NAME = 4096
};

/* Where the parts of one Parameter lie. */
struct place {
	uint64_t table, name, dims, data, end;
};

static uint64_t align_up(uint64_t at, uint64_t to)
{
	return (at + to - 1) / to * to;
}

static struct place place_at(uint64_t at, const struct qd_tensor *t)
{
	struct place p;
	p.table = align_up(at, 4);
	p.name = p.table + TABLE_BYTES;
	p.dims = align_up(p.name + 4 + strlen(t->name) + 1 + 4, 8) - 4;
	p.data = align_up(p.dims + 4 + 8 * (uint64_t)t->shape.rank + 4, 8) - 4;
	p.end = p.data + 4 + t->bytes;
	return p;
}

static enum qd_status check(const struct qd_tensor *t)
{
	if (qd_dtype_onnx(t->dtype) == 0)
		return qd_fail(QD_EUNSUPPORTED, "tensor '%s' is %s, which ONNX does not have", t->name, qd_dtype_name(t->dtype));
	if (t->shape.rank == 0)
		return qd_fail(QD_EUNSUPPORTED, "tensor '%s' is a scalar, which adapter files do not hold", t->name);
	return QD_OK;
}

/* ---- writing: zeros up to a place, then a number or bytes ---- */

static enum qd_status pad_to(struct qd_output *out, uint64_t place)
{
	static const unsigned char zeros[16];
	return qd_output_write(out, zeros, (size_t)(place - out->written));
}

static enum qd_status put32(struct qd_output *out, int64_t value)
{
	uint32_t v = (uint32_t)value;
	unsigned char bytes[4] = { (unsigned char)v, (unsigned char)(v >> 8), (unsigned char)(v >> 16), (unsigned char)(v >> 24) };
	return qd_output_write(out, bytes, sizeof(bytes));
}

/* An offset counts from where it stands. */
static enum qd_status put_offset(struct qd_output *out, uint64_t target)
{
	return put32(out, (int64_t)(target - out->written));
}

static enum qd_status put_vtable(struct qd_output *out)
{
	static const unsigned char vtable[12] = { 12, 0, TABLE_BYTES, 0, 4, 0, 8, 0, 12, 0, 16, 0 };
	return qd_output_write(out, vtable, sizeof(vtable));
}

static enum qd_status put_header(
	struct qd_output *out, const struct qd_tensor *tensors, size_t n, int32_t adapter_version, int32_t model_version)
{
	enum qd_status st;
	uint64_t at = PARAMETERS + 4 + 4 * (uint64_t)n;
	QD_TRY(st, put_offset(out, ADAPTER));
	QD_TRY(st, qd_output_write(out, "TORT", 4));
	QD_TRY(st, put_vtable(out));
	QD_TRY(st, put_vtable(out));
	QD_TRY(st, put32(out, ADAPTER - ADAPTER_VTABLE));
	QD_TRY(st, put32(out, FORMAT_VERSION));
	QD_TRY(st, put32(out, adapter_version));
	QD_TRY(st, put32(out, model_version));
	QD_TRY(st, put_offset(out, PARAMETERS));
	QD_TRY(st, put32(out, (int64_t)n));
	for (size_t i = 0; i < n; i++) {
		struct place p = place_at(at, &tensors[i]);
		QD_TRY(st, put_offset(out, p.table));
		at = p.end;
	}
out:
	return st;
}

static enum qd_status put_parameter(struct qd_output *out, const struct qd_tensor *t)
{
	enum qd_status st;
	struct place p = place_at(out->written, t);
	QD_TRY(st, pad_to(out, p.table));
	QD_TRY(st, put32(out, (int64_t)p.table - PARAMETER_VTABLE));
	QD_TRY(st, put_offset(out, p.name));
	QD_TRY(st, put_offset(out, p.dims));
	QD_TRY(st, put32(out, qd_dtype_onnx(t->dtype)));
	QD_TRY(st, put_offset(out, p.data));
	QD_TRY(st, put32(out, (int64_t)strlen(t->name)));
	QD_TRY(st, qd_output_write(out, t->name, strlen(t->name) + 1));
	QD_TRY(st, pad_to(out, p.dims));
	QD_TRY(st, put32(out, t->shape.rank));
	QD_TRY(st, qd_output_write(out, t->shape.dim, 8 * (size_t)t->shape.rank));
	QD_TRY(st, pad_to(out, p.data));
	QD_TRY(st, put32(out, (int64_t)t->bytes));
	QD_TRY(st, qd_output_write(out, t->data, t->bytes));
out:
	return st;
}

enum qd_status qd_onnx_adapter_write(
	const char *path, const struct qd_tensor *tensors, size_t n, int32_t adapter_version, int32_t model_version, bool force)
{
	enum qd_status st;
	struct qd_output out = { 0 };
	uint64_t end = PARAMETERS + 4 + 4 * (uint64_t)n;
	for (size_t i = 0; i < n; i++) {
		QD_TRY(st, check(&tensors[i]));
		end = place_at(end, &tensors[i]).end;
	}
	if (end > INT32_MAX)
		return qd_fail(
			QD_EUNSUPPORTED, "'%s' would have %llu bytes, an adapter file holds 2 GiB", path, (unsigned long long)end);
	QD_TRY(st, qd_output_open(&out, path, force));
	QD_TRY(st, put_header(&out, tensors, n, adapter_version, model_version));
	for (size_t i = 0; i < n; i++)
		QD_TRY(st, put_parameter(&out, &tensors[i]));
	QD_TRY(st, qd_output_commit(&out));
out:
	qd_output_release(&out);
	return st;
}

/* ---- reading: any layout, every place checked ---- */

struct reader {
	const unsigned char *data;
	size_t size;
	bool bad; /* something lay outside of the file: what was read is 0 */
};

static uint64_t read_number(struct reader *r, uint64_t at, size_t bytes)
{
	uint64_t value = 0;

	r->bad |= at > r->size || bytes > r->size - at;
	for (size_t i = 0; i < bytes && !r->bad; i++)
		value |= (uint64_t)r->data[at + i] << 8 * i;
	return value;
}

static uint64_t follow(struct reader *r, uint64_t at)
{
	return at + read_number(r, at, 4);
}

/* Where field `i` of a table lies; 0 when it is absent. */
static uint64_t field_at(struct reader *r, uint64_t table, int i)
{
	uint64_t vtable = table - (uint64_t)(int64_t)(int32_t)read_number(r, table, 4), place = 4 + 2 * (uint64_t)i;

	if (place + 2 > read_number(r, vtable, 2))
		return 0;
	place = read_number(r, vtable + place, 2);
	return place == 0 ? 0 : table + place;
}

/* A vector behind field `i`: its place, with the number of elements, of `width` bytes each, all of them in the file. */
static uint64_t vector_at(struct reader *r, uint64_t table, int i, size_t width, uint64_t *n)
{
	uint64_t field = field_at(r, table, i), at = field != 0 ? follow(r, field) : 0;

	*n = field != 0 ? read_number(r, at, 4) : 0;
	r->bad |= field == 0 || at + 4 > r->size || *n > (r->size - at - 4) / width;
	return at + 4;
}

static enum qd_status read_parameter(struct reader *r, struct qd_arena *arena, uint64_t table, struct qd_tensor *t)
{
	uint64_t length, rank, bytes, type = field_at(r, table, 2);
	uint64_t name = vector_at(r, table, 0, 1, &length), dims = vector_at(r, table, 1, 8, &rank),
		 data = vector_at(r, table, 3, 1, &bytes);
	int64_t number = (int32_t)read_number(r, type, 4);
	struct qd_shape shape = { .rank = (int)rank };
	enum qd_dtype dtype = qd_dtype_by_onnx((int)number);
	size_t need = 0;
	enum qd_status st = QD_OK;

	if (r->bad || type == 0 || length > MOST_NAME || memchr(r->data + name, '\0', length) != NULL)
		return qd_fail(QD_EINPUT, "the file is damaged");
	const char *text = qd_arena_strf(arena, "%.*s", (int)length, (const char *)r->data + name);
	if (text == NULL)
		return QD_ENOMEM;
	if (rank > QD_MAX_RANK)
		return qd_fail(QD_EINPUT, "tensor '%s' has %llu dimensions, needs at most %d", text, (unsigned long long)rank,
			QD_MAX_RANK);
	for (int d = 0; d < shape.rank; d++)
		shape.dim[d] = (int64_t)read_number(r, dims + 8 * (uint64_t)d, 8);
	if (dtype == QD_DTYPE_COUNT)
		st = qd_fail(QD_EUNSUPPORTED, "elements of ONNX's type %lld are not supported", (long long)number);
	else if (qd_shape_bytes(&shape, dtype, &need) != QD_OK || need != bytes)
		st = qd_fail(QD_EINPUT, "%llu bytes, its shape and type need others", (unsigned long long)bytes);
	if (st != QD_OK)
		return qd_prefix(st, "tensor '%s'", text);
	*t = (struct qd_tensor){
		.name = text, .dtype = dtype, .shape = shape, .data = (void *)(uintptr_t)(r->data + data), .bytes = need
	};
	return QD_OK;
}

enum qd_status qd_onnx_adapter_parse(struct qd_adapter_tensors *tensors, const void *data, size_t bytes)
{
	struct reader r = { data, bytes, false };
	uint64_t root = follow(&r, 0), n, list = vector_at(&r, root, 3, 4, &n);
	enum qd_status st = QD_OK;

	*tensors = (struct qd_adapter_tensors){ 0 };
	if (r.bad || qd_file_kind(data, bytes) != QD_FILE_ORT_ADAPTER)
		return qd_fail(QD_EINPUT, "the file is damaged");
	tensors->items = qd_arena_array(&tensors->arena, n, sizeof(*tensors->items));
	if (tensors->items == NULL)
		return QD_ENOMEM;
	for (uint64_t i = 0; i < n && st == QD_OK; i++) {
		st = read_parameter(&r, &tensors->arena, follow(&r, list + 4 * i), &tensors->items[i]);
		tensors->n += st == QD_OK;
	}
	if (st != QD_OK)
		qd_adapter_tensors_release(tensors);
	return st;
}
