/*
 * Tensors: ownership, conversion to and from float32, and the search for elements that are not finite.
 *
 * Source bytes may be unaligned (they point into mapped files), so every loop reads with memcpy, which compiles to vector loads.
 * The conversions between float widths are integer arithmetic without branches, for the same reason:
 *
 *   F16   s eeeee mmmmmmmmmm           value = (-1)^s 2^(e-15) 1.m;  e = 0: 2^-24 m;  e = 31: infinite or NaN
 *   BF16  s eeeeeeee mmmmmmm           the upper half of a float32
 */
#include "lib/io/io.h"

#include <stdlib.h>
#include <string.h>

/* ---- one value ---- */

static inline uint32_t bits_of(float value)
{
	uint32_t bits;
	memcpy(&bits, &value, sizeof(bits));
	return bits;
}

static inline float float_of(uint32_t bits)
{
	float value;
	memcpy(&value, &bits, sizeof(value));
	return value;
}

static inline float widen_f16(uint16_t half)
{
	uint32_t sign = (uint32_t)(half & 0x8000u) << 16, magnitude = half & 0x7fffu;
	uint32_t normal = (magnitude << 13) + (112u << 23); /* exponent bias 15 to 127 */
	uint32_t tiny = bits_of((float)(int32_t)magnitude * 0x1p-24f);
	uint32_t huge = (magnitude << 13) | 0x7f800000u;
	uint32_t bits = magnitude < 0x0400u ? tiny : normal;
	bits = magnitude >= 0x7c00u ? huge : bits;
	return float_of(bits | sign);
}

static inline uint16_t narrow_f16(float value)
{
	uint32_t bits = bits_of(value), sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7fffffffu;
	/* Half of the last kept place, minus one when the kept value is even: ties go to even, a carry goes into the exponent. */
	uint32_t normal = (magnitude - (112u << 23) + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
	/* Adding 1/2 puts the units of 2^-24 at the end of the mantissa, and the addition rounds to even. */
	uint32_t tiny = bits_of(float_of(magnitude) + 0.5f) - 0x3f000000u;
	uint32_t half = magnitude < 0x38800000u ? tiny : normal;
	half = magnitude >= 0x47800000u ? 0x7c00u : half;
	half = magnitude > 0x7f800000u ? 0x7e00u : half;
	return (uint16_t)(half | sign);
}

static inline uint16_t narrow_bf16(float value)
{
	uint32_t bits = bits_of(value);
	uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
	uint32_t quiet = (bits >> 16) | 0x40u; /* rounding a NaN's payload could make it infinite */
	return (uint16_t)((bits & 0x7fffffffu) > 0x7f800000u ? quiet : rounded);
}

float qd_f16_to_f32(uint16_t bits)
{
	return widen_f16(bits);
}

uint16_t qd_f32_to_f16(float value)
{
	return narrow_f16(value);
}

/* ---- whole tensors ---- */

#define WIDEN_BF16(x) float_of((uint32_t)(x) << 16)
#define CAST_FLOAT(x) (float)(x)
#define CAST_BOOL(x) ((x) ? 1.0f : 0.0f)

/* X(dtype, C type, conversion) */
#define READABLE(X)                                                                                                                \
	X(F16, uint16_t, widen_f16)                                                                                                \
	X(BF16, uint16_t, WIDEN_BF16)                                                                                              \
	X(F64, double, CAST_FLOAT)                                                                                                 \
	X(I8, int8_t, CAST_FLOAT)                                                                                                  \
	X(U8, uint8_t, CAST_FLOAT)                                                                                                 \
	X(I16, int16_t, CAST_FLOAT)                                                                                                \
	X(U16, uint16_t, CAST_FLOAT)                                                                                               \
	X(I32, int32_t, CAST_FLOAT)                                                                                                \
	X(U32, uint32_t, CAST_FLOAT)                                                                                               \
	X(I64, int64_t, CAST_FLOAT)                                                                                                \
	X(BOOL, uint8_t, CAST_BOOL)

#define READ_LOOP(id, type, convert)                                                                                               \
	QD_CLONES static void read_##id(const unsigned char *restrict from, size_t n, float *restrict out)                         \
	{                                                                                                                          \
		for (size_t i = 0; i < n; i++) {                                                                                   \
			type value;                                                                                                \
			memcpy(&value, from + i * sizeof(value), sizeof(value));                                                   \
			out[i] = convert(value);                                                                                   \
		}                                                                                                                  \
	}
READABLE(READ_LOOP)
#undef READ_LOOP

QD_CLONES static void write_f16(unsigned char *restrict to, size_t n, const float *restrict in)
{
	for (size_t i = 0; i < n; i++) {
		uint16_t half = narrow_f16(in[i]);
		memcpy(to + i * sizeof(half), &half, sizeof(half));
	}
}

QD_CLONES static void write_bf16(unsigned char *restrict to, size_t n, const float *restrict in)
{
	for (size_t i = 0; i < n; i++) {
		uint16_t half = narrow_bf16(in[i]);
		memcpy(to + i * sizeof(half), &half, sizeof(half));
	}
}

static const char *name_of(const struct qd_tensor *tensor)
{
	return tensor->name != NULL ? tensor->name : "(unnamed)";
}

enum qd_status qd_tensor_to_f32(const struct qd_tensor *tensor, float *out)
{
	size_t n = (size_t)qd_shape_elements(&tensor->shape);
	switch ((int)tensor->dtype) {
	case QD_F32:
		if (n)
			memcpy(out, tensor->data, n * sizeof(float));
		return QD_OK;
#define READ_CASE(id, type, convert)                                                                                               \
	case QD_##id:                                                                                                              \
		read_##id(tensor->data, n, out);                                                                                   \
		return QD_OK;
		READABLE(READ_CASE)
#undef READ_CASE
	default:
		return qd_fail(QD_EUNSUPPORTED, "tensor '%s' has type %s, needs one that converts to float32", name_of(tensor),
			qd_dtype_name(tensor->dtype));
	}
}

enum qd_status qd_tensor_from_f32(struct qd_tensor *tensor, const float *in)
{
	size_t n = (size_t)qd_shape_elements(&tensor->shape);
	switch ((int)tensor->dtype) {
	case QD_F32:
		if (n)
			memcpy(tensor->data, in, n * sizeof(float));
		return QD_OK;
	case QD_F16:
		write_f16(tensor->data, n, in);
		return QD_OK;
	case QD_BF16:
		write_bf16(tensor->data, n, in);
		return QD_OK;
	default:
		return qd_fail(QD_EUNSUPPORTED, "tensor '%s' has type %s, needs F32, F16 or BF16", name_of(tensor),
			qd_dtype_name(tensor->dtype));
	}
}

enum qd_status qd_tensor_new(struct qd_tensor *tensor, const char *name, enum qd_dtype dtype, const struct qd_shape *shape)
{
	*tensor = (struct qd_tensor){ .name = name, .dtype = dtype };
	size_t bytes, room;
	enum qd_status st = qd_shape_bytes(shape, dtype, &bytes);
	if (st != QD_OK)
		return qd_prefix(st, "tensor '%s'", name_of(tensor));
	if (qd_add_overflow(bytes, 64, &room))
		return qd_fail(QD_ENOMEM, "tensor '%s': out of memory (%zu bytes)", name_of(tensor), bytes);
	tensor->data = aligned_alloc(64, room & ~(size_t)63); /* never zero bytes, so never NULL without reason */
	if (tensor->data == NULL)
		return qd_fail(QD_ENOMEM, "tensor '%s': out of memory (%zu bytes)", name_of(tensor), bytes);
	memset(tensor->data, 0, bytes);
	tensor->shape = *shape;
	tensor->bytes = bytes;
	tensor->owned = true;
	return QD_OK;
}

struct qd_tensor qd_tensor_view(const char *name, enum qd_dtype dtype, struct qd_shape shape, const void *data)
{
	return (struct qd_tensor){
		.name = name,
		.dtype = dtype,
		.shape = shape,
		.data = (void *)(uintptr_t)data,
		.bytes = (size_t)((uint64_t)qd_shape_elements(&shape) * qd_dtype_bits(dtype) / 8),
	};
}

void qd_tensor_print(const struct qd_tensor *tensor, FILE *text)
{
	char shape[QD_SHAPE_TEXT], hash[QD_HASH_TEXT];

	qd_hash_bytes(tensor->data, tensor->bytes, hash);
	fprintf(text, "%s %s %s %s\n", tensor->name, qd_dtype_name(tensor->dtype), qd_shape_text(&tensor->shape, shape), hash);
}

void qd_tensor_release(struct qd_tensor *tensor)
{
	if (tensor->owned)
		free(tensor->data);
	*tensor = (struct qd_tensor){ 0 };
}

/* ---- elements that are not finite ---- */

/* An element is infinite or NaN when all its exponent bits are set. The count of those in n elements. */
#define COUNT_LOOP(bits)                                                                                                           \
	QD_CLONES static size_t count_special_##bits(const unsigned char *from, size_t n, uint##bits##_t exponent)                 \
	{                                                                                                                          \
		size_t special = 0;                                                                                                \
		for (size_t i = 0; i < n; i++) {                                                                                   \
			uint##bits##_t value;                                                                                      \
			memcpy(&value, from + i * sizeof(value), sizeof(value));                                                   \
			special += (value & exponent) == exponent;                                                                 \
		}                                                                                                                  \
		return special;                                                                                                    \
	}
COUNT_LOOP(16)
COUNT_LOOP(32)
COUNT_LOOP(64)
#undef COUNT_LOOP

static size_t count_special(enum qd_dtype dtype, const unsigned char *from, size_t n)
{
	switch ((int)dtype) {
	case QD_F32:
	case QD_C64:
		return count_special_32(from, n, 0x7f800000u);
	case QD_F16:
		return count_special_16(from, n, 0x7c00u);
	case QD_BF16:
		return count_special_16(from, n, 0x7f80u);
	case QD_F64:
		return count_special_64(from, n, (uint64_t)0x7ff << 52);
	default:
		return 0;
	}
}

enum qd_status qd_tensor_check_finite(const struct qd_tensor *tensor, const char *where)
{
	enum { CHUNK = 1 << 14 };
	size_t unit = tensor->dtype == QD_C64 ? 4 : qd_dtype_bits(tensor->dtype) / 8;
	size_t n = unit ? tensor->bytes / unit : 0;
	const unsigned char *data = tensor->data;
	for (size_t at = 0; at < n; at += CHUNK) {
		size_t chunk = n - at < CHUNK ? n - at : CHUNK;
		if (!count_special(tensor->dtype, data + at * unit, chunk))
			continue;
		while (!count_special(tensor->dtype, data + at * unit, 1))
			at++;
		enum qd_status st = qd_fail(QD_EINPUT, "tensor '%s' is infinite or not a number at element %zu", name_of(tensor),
			tensor->dtype == QD_C64 ? at / 2 : at);
		return where != NULL ? qd_prefix(st, "%s", where) : st;
	}
	return QD_OK;
}
