/*
 * NumPy's array file.
 *
 *   6 bytes      \x93 N U M P Y
 *   2 bytes      version: 1.0, 2.0 or 3.0
 *   2 bytes      header length, little-endian (version 1.0); 4 bytes in 2.0 and 3.0
 *   the header   a Python dictionary, padded with spaces, "\n" at the end:
 *                {'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }
 *   the rest     the elements, row-major unless fortran_order
 */
#include "lib/io/io.h"

#include <string.h>

enum { MAX_HEADER_BYTES = 1 << 16 };

static const unsigned char magic[6] = { 0x93, 'N', 'U', 'M', 'P', 'Y' };

/* Kind and size as NumPy writes them, without the byte order. BFloat16 and the 8-bit floats have no spelling. */
static const struct {
	const char *descr;
	enum qd_dtype dtype;
} spellings[] = {
	{ "f4", QD_F32 },
	{ "f2", QD_F16 },
	{ "f8", QD_F64 },
	{ "i1", QD_I8 },
	{ "u1", QD_U8 },
	{ "i2", QD_I16 },
	{ "u2", QD_U16 },
	{ "i4", QD_I32 },
	{ "u4", QD_U32 },
	{ "i8", QD_I64 },
	{ "u8", QD_U64 },
	{ "b1", QD_BOOL },
	{ "c8", QD_C64 },
};

/* ---- the header's Python text ---- */

struct cursor {
	const char *at, *end;
};

static void skip_spaces(struct cursor *c)
{
	while (c->at < c->end && (*c->at == ' ' || *c->at == '\t' || *c->at == '\n' || *c->at == '\r'))
		c->at++;
}

/* Takes `token` if it comes next. */
static bool take(struct cursor *c, const char *token)
{
	skip_spaces(c);
	size_t n = strlen(token);
	if ((size_t)(c->end - c->at) < n || memcmp(c->at, token, n) != 0)
		return false;
	c->at += n;
	return true;
}

/* A quoted string without escapes, into `out`. */
static bool take_string(struct cursor *c, char *out, size_t room)
{
	skip_spaces(c);
	if (c->at == c->end || (*c->at != '\'' && *c->at != '"'))
		return false;
	char quote = *c->at++;
	size_t n = 0;
	while (c->at < c->end && *c->at != quote && *c->at != '\\' && *c->at && n + 1 < room)
		out[n++] = *c->at++;
	out[n] = '\0';
	return c->at < c->end && *c->at++ == quote;
}

static bool take_dimension(struct cursor *c, int64_t *out)
{
	skip_spaces(c);
	const char *start = c->at;
	int64_t value = 0;
	for (; c->at < c->end && *c->at >= '0' && *c->at <= '9'; c->at++)
		if (__builtin_mul_overflow(value, 10, &value) || __builtin_add_overflow(value, *c->at - '0', &value))
			return false;
	take(c, "L"); /* Python 2 wrote long integers so */
	*out = value;
	return c->at > start;
}

static enum qd_status parse_shape(struct cursor *c, struct qd_shape *shape)
{
	if (!take(c, "("))
		return qd_fail(QD_EINPUT, "'shape' is not a tuple");
	shape->rank = 0;
	while (!take(c, ")")) {
		if (shape->rank == QD_MAX_RANK)
			return qd_fail(QD_EINPUT, "has more than %d dimensions", QD_MAX_RANK);
		if (!take_dimension(c, &shape->dim[shape->rank]))
			return qd_fail(QD_EINPUT, "'shape' holds something that is not an unsigned integer");
		shape->rank++;
		if (!take(c, ",") && !(c->at < c->end && *c->at == ')'))
			return qd_fail(QD_EINPUT, "'shape' is not a tuple");
	}
	return QD_OK;
}

static enum qd_status parse_descr(struct cursor *c, enum qd_dtype *dtype)
{
	char text[32];
	if (!take_string(c, text, sizeof(text)))
		return qd_fail(QD_EUNSUPPORTED, "'descr' is not one plain element type");
	if (text[0] == '>')
		return qd_fail(QD_EUNSUPPORTED, "element type '%s' is big-endian, needs little-endian", text);
	const char *kind = text[0] == '<' || text[0] == '|' || text[0] == '=' ? text + 1 : text;
	for (size_t i = 0; i < QD_COUNT(spellings); i++) {
		if (strcmp(spellings[i].descr, kind) == 0) {
			*dtype = spellings[i].dtype;
			return QD_OK;
		}
	}
	return qd_fail(QD_EUNSUPPORTED, "element type '%s' is not supported", text);
}

struct header {
	enum qd_dtype dtype;
	bool fortran, has_dtype, has_order, has_shape;
	struct qd_shape shape;
};

static enum qd_status parse_field(struct cursor *c, const char *key, struct header *h)
{
	if (strcmp(key, "descr") == 0) {
		h->has_dtype = true;
		return parse_descr(c, &h->dtype);
	}
	if (strcmp(key, "shape") == 0) {
		h->has_shape = true;
		return parse_shape(c, &h->shape);
	}
	if (strcmp(key, "fortran_order") != 0)
		return qd_fail(QD_EINPUT, "unknown header field '%s'", key);
	h->has_order = true;
	h->fortran = take(c, "True");
	if (!h->fortran && !take(c, "False"))
		return qd_fail(QD_EINPUT, "'fortran_order' is not True or False");
	return QD_OK;
}

static enum qd_status parse_header(struct cursor c, struct header *h)
{
	if (!take(&c, "{"))
		return qd_fail(QD_EINPUT, "the header is not a dictionary");
	while (!take(&c, "}")) {
		char key[32];
		if (!take_string(&c, key, sizeof(key)) || !take(&c, ":"))
			return qd_fail(QD_EINPUT, "the header is not a dictionary");
		enum qd_status st = parse_field(&c, key, h);
		if (st != QD_OK)
			return st;
		take(&c, ",");
	}
	skip_spaces(&c);
	if (c.at != c.end)
		return qd_fail(QD_EINPUT, "the header goes on after its dictionary");
	if (!h->has_dtype || !h->has_order || !h->has_shape)
		return qd_fail(QD_EINPUT, "the header needs 'descr', 'fortran_order' and 'shape'");
	return QD_OK;
}

/* ---- reading ---- */

static enum qd_status find_header(const unsigned char *data, size_t bytes, struct cursor *text)
{
	if (bytes < 10 || memcmp(data, magic, sizeof(magic)) != 0)
		return qd_fail(QD_EINPUT, "not a NumPy array file");
	if (data[6] < 1 || data[6] > 3 || data[7] != 0)
		return qd_fail(QD_EUNSUPPORTED, "format version %d.%d, needs 1.0 to 3.0", data[6], data[7]);
	size_t start = data[6] == 1 ? 10 : 12, length = data[8] | (size_t)data[9] << 8;
	if (bytes < start)
		return qd_fail(QD_EINPUT, "has %zu bytes: it is cut short", bytes);
	if (data[6] != 1)
		length |= (size_t)data[10] << 16 | (size_t)data[11] << 24;
	if (length > MAX_HEADER_BYTES || length > bytes - start)
		return qd_fail(QD_EINPUT, "header of %zu bytes, but the file has %zu", length, bytes);
	*text = (struct cursor){ (const char *)data + start, (const char *)data + start + length };
	return QD_OK;
}

static enum qd_status view(const unsigned char *data, size_t bytes, struct qd_tensor *out, bool *column_major)
{
	struct cursor text = { NULL, NULL };
	struct header h = { .dtype = QD_F32 };
	size_t needed = 0;
	enum qd_status st;
	QD_TRY(st, find_header(data, bytes, &text));
	QD_TRY(st, parse_header(text, &h));
	QD_TRY(st, qd_shape_bytes(&h.shape, h.dtype, &needed));
	size_t found = bytes - (size_t)((const unsigned char *)text.end - data);
	if (found != needed)
		QD_TRY(st, qd_fail(QD_EINPUT, "has %zu bytes of data, its shape and type need %zu", found, needed));
	*out = qd_tensor_view(NULL, h.dtype, h.shape, text.end);
	*column_major = h.fortran && h.shape.rank > 1;
out:
	return st;
}

enum qd_status qd_npy_view(const char *name, const void *data, size_t bytes, struct qd_tensor *out, bool *column_major)
{
	*out = (struct qd_tensor){ 0 };
	*column_major = false;
	return qd_prefix(view(data, bytes, out, column_major), "'%s'", name);
}

/* Element (i_0, .., i_r-1) lies at i_0 + d_0 (i_1 + d_1 (i_2 + ...)): the index counts up as an odometer does, the last first. */
void qd_npy_transpose(const struct qd_tensor *from, void *to)
{
	const struct qd_shape *shape = &from->shape;
	size_t element = (size_t)qd_dtype_bits(from->dtype) / 8, n = (size_t)qd_shape_elements(shape), stride[QD_MAX_RANK], at = 0;
	int64_t index[QD_MAX_RANK] = { 0 };

	for (int d = 0; d < shape->rank; d++)
		stride[d] = d == 0 ? 1 : stride[d - 1] * (size_t)shape->dim[d - 1];
	for (size_t i = 0; i < n; i++) {
		memcpy((char *)to + i * element, (const char *)from->data + at * element, element);
		for (int d = shape->rank - 1; d >= 0; d--) {
			at += stride[d];
			if (++index[d] < shape->dim[d])
				break;
			at -= stride[d] * (size_t)shape->dim[d];
			index[d] = 0;
		}
	}
}
