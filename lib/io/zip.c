/*
 * Zip archives (PKWARE APPNOTE 6.3), read from their end; all numbers little-endian:
 *
 *   end record       "PK\5\6"  +10 u16 members   +12 u32 bytes of the directory   +16 u32 its offset   +20 u16 length of the
 *                    comment; 22 bytes, then the comment. Before it, where a number is all ones:
 *   64-bit locator   "PK\6\7"  +8 u64 offset of the 64-bit end record; 20 bytes
 *   64-bit end       "PK\6\6"  +32 u64 members   +40 u64 bytes of the directory   +48 u64 its offset; 56 bytes
 *   directory entry  "PK\1\2"  +8 u16 flags (1: encrypted)   +10 u16 method (0 stored, 8 deflated)   +16 u32 CRC-32
 *                    +20 u32 packed   +24 u32 bytes   +28 u16 length of the name, +30 of extras, +32 of the comment
 *                    +42 u32 offset of the local header; 46 bytes, then name, extras, comment. Extra 1 has u64 bytes, packed,
 *                    offset: those of them that are all ones above
 *   local header     "PK\3\4"  +26 u16 length of the name, +28 of extras; 30 bytes, then name, extras, data
 *
 * The sum of stored members is not checked: they are used where they lie, and reading them twice would double the time. One archive
 * in several files, encryption and other methods are refused.
 */
#include "lib/io/zip.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

enum {
	END_BYTES = 22,
	LOCATOR_BYTES = 20,
	END64_BYTES = 56,
	ENTRY_BYTES = 46,
	LOCAL_BYTES = 30,
	MAX_COMMENT = 65535,
	STORED = 0,
	DEFLATED = 8,
	LARGEST_EXPANSION = 1032, /* deflate never makes more bytes of one */
};

struct archive {
	const unsigned char *data;
	size_t bytes;
};

static uint64_t number(const unsigned char *at, int bytes)
{
	uint64_t value = 0;
	for (int i = bytes - 1; i >= 0; i--)
		value = value << 8 | at[i];
	return value;
}

static bool is_at(const struct archive *a, uint64_t offset, const char *signature, size_t bytes)
{
	return offset <= a->bytes && a->bytes - offset >= bytes && memcmp(a->data + offset, signature, 4) == 0;
}

/* ---- the directory ---- */

struct directory {
	uint64_t n, bytes, offset;
};

static enum qd_status find_end(const struct archive *a, size_t *end)
{
	for (size_t comment = 0; comment <= MAX_COMMENT && comment + END_BYTES <= a->bytes; comment++) {
		size_t at = a->bytes - END_BYTES - comment;
		if (is_at(a, at, "PK\5\6", END_BYTES) && number(a->data + at + 20, 2) == comment) {
			*end = at;
			return QD_OK;
		}
	}
	return qd_fail(QD_EINPUT, "the archive has no end record: it is cut short or no zip file");
}

static enum qd_status find_directory(const struct archive *a, struct directory *d)
{
	size_t end = 0;
	enum qd_status st = find_end(a, &end);
	const unsigned char *at = a->data + end;

	if (st != QD_OK)
		return st;
	*d = (struct directory){ number(at + 10, 2), number(at + 12, 4), number(at + 16, 4) };
	if (end >= LOCATOR_BYTES && is_at(a, end - LOCATOR_BYTES, "PK\6\7", LOCATOR_BYTES)) {
		uint64_t offset = number(at - LOCATOR_BYTES + 8, 8);
		if (!is_at(a, offset, "PK\6\6", END64_BYTES))
			return qd_fail(QD_EINPUT, "the archive's 64-bit end record is not where it should be");
		at = a->data + offset;
		*d = (struct directory){ number(at + 32, 8), number(at + 40, 8), number(at + 48, 8) };
	}
	if (d->offset > a->bytes || d->bytes > a->bytes - d->offset || d->n > d->bytes / ENTRY_BYTES)
		return qd_fail(
			QD_EINPUT, "the archive's directory of %llu members does not lie in the file", (unsigned long long)d->n);
	return QD_OK;
}

/* What extra 1 says in place of numbers that are all ones. */
static void read_extra(const unsigned char *extra, size_t bytes, uint64_t *sizes[3])
{
	for (size_t at = 0; at + 4 <= bytes;) {
		size_t id = number(extra + at, 2), length = number(extra + at + 2, 2);
		at += 4;
		if (length > bytes - at)
			return;
		for (size_t i = 0, used = 0; id == 1 && i < 3; i++)
			if (*sizes[i] == UINT32_MAX && used + 8 <= length) {
				*sizes[i] = number(extra + at + used, 8);
				used += 8;
			}
		at += length;
	}
}

/* The member's data behind its local header. */
static enum qd_status find_data(const struct archive *a, uint64_t offset, uint64_t packed, struct qd_zip_member *m)
{
	uint64_t start;

	if (!is_at(a, offset, "PK\3\4", LOCAL_BYTES))
		return qd_fail(QD_EINPUT, "member '%s' is not where the directory says", m->name);
	start = offset + LOCAL_BYTES + number(a->data + offset + 26, 2) + number(a->data + offset + 28, 2);
	if (start > a->bytes || packed > a->bytes - start)
		return qd_fail(QD_EINPUT, "member '%s' has %llu bytes, more than the file", m->name, (unsigned long long)packed);
	m->data = a->data + start;
	m->packed = packed;
	return QD_OK;
}

static enum qd_status check_member(const struct qd_zip_member *m, uint64_t flags, uint64_t method)
{
	if (flags & 1)
		return qd_fail(QD_EUNSUPPORTED, "member '%s' is encrypted", m->name);
	if (method != STORED && method != DEFLATED)
		return qd_fail(QD_EUNSUPPORTED, "member '%s' is packed by method %llu, needs stored or deflated", m->name,
			(unsigned long long)method);
	if (method == STORED ? m->bytes != m->packed : m->bytes / LARGEST_EXPANSION > m->packed)
		return qd_fail(QD_EINPUT, "member '%s' cannot have %zu bytes of %zu", m->name, m->bytes, m->packed);
	return QD_OK;
}

/* The entry at `*at`, which moves behind it. */
static enum qd_status read_entry(
	const struct archive *a, struct qd_arena *arena, uint64_t *at, uint64_t end, struct qd_zip_member *m)
{
	const unsigned char *entry = a->data + *at;
	uint64_t bytes, packed, offset, length, *sizes[3] = { &bytes, &packed, &offset };
	size_t name, extra;
	char *text;
	enum qd_status st;

	if (end - *at < ENTRY_BYTES || !is_at(a, *at, "PK\1\2", ENTRY_BYTES))
		return qd_fail(QD_EINPUT, "the archive's directory is damaged");
	name = number(entry + 28, 2);
	extra = number(entry + 30, 2);
	length = ENTRY_BYTES + name + extra + number(entry + 32, 2);
	if (end - *at < length)
		return qd_fail(QD_EINPUT, "the archive's directory is cut short");
	bytes = number(entry + 24, 4);
	packed = number(entry + 20, 4);
	offset = number(entry + 42, 4);
	read_extra(entry + ENTRY_BYTES + name, extra, sizes);
	text = qd_arena_alloc(arena, name + 1);
	if (text == NULL)
		return QD_ENOMEM;
	memcpy(text, entry + ENTRY_BYTES, name);
	*m = (struct qd_zip_member){
		.name = text, .bytes = bytes, .deflated = number(entry + 10, 2) == DEFLATED, .crc = (uint32_t)number(entry + 16, 4)
	};
	*at += length;
	QD_TRY(st, find_data(a, offset, packed, m));
	st = check_member(m, number(entry + 8, 2), number(entry + 10, 2));
out:
	return st;
}

enum qd_status qd_zip_open(struct qd_zip *zip, struct qd_arena *arena, const unsigned char *data, size_t bytes)
{
	struct archive a = { data, bytes };
	struct directory d = { 0 };
	uint64_t at, end;
	enum qd_status st;

	*zip = (struct qd_zip){ 0 };
	QD_TRY(st, find_directory(&a, &d));
	at = d.offset;
	end = d.offset + d.bytes;
	for (uint64_t i = 0; i < d.n; i++) {
		struct qd_zip_member member = { 0 };
		QD_TRY(st, read_entry(&a, arena, &at, end, &member));
		QD_PUSH(st, zip->members, zip->n, zip->cap, member);
	}
out:
	if (st != QD_OK)
		qd_zip_release(zip);
	return st;
}

void qd_zip_release(struct qd_zip *zip)
{
	free(zip->members);
	*zip = (struct qd_zip){ 0 };
}

/* ---- deflate ---- */

/* zlib counts in 32 bits: both sides are handed over in pieces. */
static int inflate_pieces(z_stream *stream, const struct qd_zip_member *m, unsigned char *out)
{
	size_t in_left = m->packed, out_left = m->bytes;
	int result = Z_OK;

	stream->next_in = (unsigned char *)m->data;
	stream->next_out = out;
	while (result == Z_OK) {
		uInt in = in_left > UINT_MAX ? UINT_MAX : (uInt)in_left, room = out_left > UINT_MAX ? UINT_MAX : (uInt)out_left;
		stream->avail_in = in;
		stream->avail_out = room;
		result = inflate(stream, Z_NO_FLUSH);
		in_left -= in - stream->avail_in;
		out_left -= room - stream->avail_out;
	}
	if (result == Z_MEM_ERROR)
		return result;
	return result == Z_STREAM_END && out_left == 0 ? Z_OK : Z_DATA_ERROR;
}

static uint32_t sum(const unsigned char *data, size_t bytes)
{
	return (uint32_t)crc32_z(0, data, bytes);
}

enum qd_status qd_zip_inflate(const struct qd_zip_member *m, void **out)
{
	z_stream stream = { 0 };
	unsigned char *data = malloc(m->bytes + 1); /* never empty */
	enum qd_status st = QD_OK;
	int result;

	*out = NULL;
	if (data == NULL)
		return qd_fail(QD_ENOMEM, "out of memory for the %zu bytes of member '%s'", m->bytes, m->name);
	result = inflateInit2(&stream, -MAX_WBITS) == Z_OK ? inflate_pieces(&stream, m, data) : Z_MEM_ERROR;
	if (result == Z_MEM_ERROR)
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory"));
	if (result != Z_OK || sum(data, m->bytes) != m->crc)
		QD_TRY(st, qd_fail(QD_EINPUT, "member '%s' is damaged", m->name));
	*out = data;
	data = NULL;
out:
	inflateEnd(&stream);
	free(data);
	return st;
}
