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

enum { ADAPTER_VTABLE = 8, PARAMETER_VTABLE = 20, ADAPTER = 32, PARAMETERS = 52, TABLE_BYTES = 20, FORMAT_VERSION = 1 };

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
