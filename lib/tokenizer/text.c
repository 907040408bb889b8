/*
 * Unicode for the tokenizer: UTF-8 to code points, normalization form C, white space, lower case, and the classes that pieces are
 * cut by. The facts are utf8proc's tables; code points that its Unicode version does not know are unassigned: no letters, no
 * numbers.
 *
 *   decompose   every code point canonically
 *   order       runs of marks by combining class, equal classes as they stand
 *   compose     pairs, Hangul
 *   space       White_Space, that is U+0009 to U+000D, U+0085 and categories Zs, Zl, Zp: a run is one U+0020
 *   lower case  every code point alone: one for one, but U+0130 is U+0069 U+0307 (no final sigma)
 */
#include "lib/tokenizer/internal.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

enum { REPLACEMENT = 0xfffd, DOTTED_I = 0x130, DOT_ABOVE = 0x307, NEXT_LINE = 0x85 };

/* ---- UTF-8 ---- */

/* How many bytes a sequence with this first byte has, and which second bytes it allows; 0: no sequence begins so. */
static size_t sequence(unsigned char first, unsigned char *low, unsigned char *high)
{
	*low = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
	*high = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
	if (first < 0x80)
		return 1;
	if (first < 0xc2 || first > 0xf4)
		return 0;
	return first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
}

/* The code point at `text`, U+FFFD where it is not valid; `*used` gets the bytes that it or the bad part of it takes. */
static int32_t next_point(const unsigned char *text, size_t bytes, size_t *used)
{
	unsigned char low, high;
	size_t length = sequence(text[0], &low, &high);
	int32_t point = length < 2 ? text[0] : text[0] & (0x7f >> length);

	*used = 1;
	if (length == 0)
		return REPLACEMENT;
	for (size_t i = 1; i < length; i++, *used = i) {
		if (i == bytes || text[i] < low || text[i] > high)
			return REPLACEMENT;
		point = point << 6 | (text[i] & 0x3f);
		low = 0x80;
		high = 0xbf;
	}
	return point;
}

enum qd_status qd_points_decode(struct qd_points *points, const char *text, size_t bytes)
{
	const unsigned char *at = (const unsigned char *)text;
	enum qd_status st = QD_OK;

	points->n = 0;
	for (size_t i = 0, used; i < bytes; i += used)
		QD_PUSH(st, points->items, points->n, points->cap, next_point(at + i, bytes - i, &used));
out:
	return st;
}

size_t qd_utf8_fault(const char *text, size_t bytes)
{
	size_t i = 0;
	int32_t point;

	while (i < bytes) {
		utf8proc_ssize_t used = utf8proc_iterate((const unsigned char *)text + i, (utf8proc_ssize_t)(bytes - i), &point);
		if (used < 1)
			break;
		i += (size_t)used;
	}
	return i;
}

size_t qd_point_bytes(int32_t point, unsigned char *bytes)
{
	return (size_t)utf8proc_encode_char(point, bytes);
}

void qd_points_release(struct qd_points *points)
{
	free(points->items);
	*points = (struct qd_points){ 0 };
}

/* ---- classes ---- */

enum qd_point_class qd_point_class(int32_t point)
{
	if ((point >= '\t' && point <= '\r') || point == NEXT_LINE)
		return QD_POINT_SPACE;
	switch (utf8proc_category(point)) {
	case UTF8PROC_CATEGORY_LU:
	case UTF8PROC_CATEGORY_LL:
	case UTF8PROC_CATEGORY_LT:
	case UTF8PROC_CATEGORY_LM:
	case UTF8PROC_CATEGORY_LO:
		return QD_POINT_LETTER;
	case UTF8PROC_CATEGORY_ND:
	case UTF8PROC_CATEGORY_NL:
	case UTF8PROC_CATEGORY_NO:
		return QD_POINT_NUMBER;
	case UTF8PROC_CATEGORY_ZS:
	case UTF8PROC_CATEGORY_ZL:
	case UTF8PROC_CATEGORY_ZP:
		return QD_POINT_SPACE;
	default:
		return QD_POINT_OTHER;
	}
}

/* ---- normalization ---- */

/*
 * The reference normalizes by the tables of Unicode 9. Later marks and compositions stand for themselves there, and nothing is
 * ordered or composed across them: these ranges (up to Unicode 18; what else is in them has no part in normalization). U+11A7, the
 * vowel before the final consonants of Hangul, is here because utf8proc 2.8 takes it for one of them and drops it.
 */
static const struct {
	int32_t first, last;
} inert[] = { { 0x5c8, 0x5c9 }, { 0x7fd, 0x7fd }, { 0x897, 0x8d3 }, { 0x9fe, 0x9fe }, { 0xc3c, 0xc3c }, { 0xd3b, 0xd3c },
	{ 0xeba, 0xeba }, { 0x11a7, 0x11a7 }, { 0x1715, 0x1715 }, { 0x1abf, 0x1af0 }, { 0x1df6, 0x1dfa }, { 0xa82c, 0xa82c },
	{ 0x105c9, 0x105e4 }, { 0x10d24, 0x10f85 }, { 0x11070, 0x11070 }, { 0x1133b, 0x1133b }, { 0x11383, 0x11383 },
	{ 0x11385, 0x11385 }, { 0x1138e, 0x1138e }, { 0x11391, 0x113d0 }, { 0x1145e, 0x1145e }, { 0x11839, 0x11930 },
	{ 0x11938, 0x11a99 }, { 0x11d42, 0x11f42 }, { 0x1611e, 0x1612f }, { 0x16d67, 0x16ff1 }, { 0x1d127, 0x1d128 },
	{ 0x1d250, 0x1d281 }, { 0x1e08f, 0x1e6f5 } };

static bool is_inert(int32_t point)
{
	for (size_t i = 0; i < QD_COUNT(inert) && point >= inert[i].first; i++)
		if (point <= inert[i].last)
			return true;
	return false;
}

/* Appends the canonical decomposition. */
static enum qd_status decompose(struct qd_points *points, const int32_t *from, size_t n)
{
	enum { LONGEST = 8 }; /* canonical decompositions have at most four code points */
	enum qd_status st = QD_OK;

	for (size_t i = 0; i < n; i++) {
		QD_TRY(st, qd_grow(&points->items, &points->cap, points->n + LONGEST, sizeof(*points->items)));
		utf8proc_ssize_t count =
			utf8proc_decompose_char(from[i], points->items + points->n, LONGEST, UTF8PROC_DECOMPOSE, NULL);
		if (count < 0 || count > LONGEST)
			QD_TRY(st, qd_fail(QD_EINPUT, "U+%04X cannot be normalized", (unsigned)from[i]));
		points->n += (size_t)count;
	}
out:
	return st;
}

/*
 * Sorts n marks by combining class, stably, by counting: linear, because a hostile text may be one run of marks from end to end.
 * `scratch` has room for n.
 */
static void order_marks(int32_t *marks, size_t n, int32_t *scratch)
{
	size_t start[257] = { 0 };

	for (size_t i = 0; i < n; i++)
		start[(utf8proc_get_property(marks[i])->combining_class & 0xff) + 1]++;
	for (size_t ccc = 1; ccc < QD_COUNT(start); ccc++)
		start[ccc] += start[ccc - 1];
	for (size_t i = 0; i < n; i++)
		scratch[start[utf8proc_get_property(marks[i])->combining_class & 0xff]++] = marks[i];
	memcpy(marks, scratch, n * sizeof(*marks));
}

static enum qd_status order(struct qd_points *points, size_t from)
{
	struct qd_points scratch = { 0 };
	enum qd_status st = QD_OK;

	for (size_t i = from, end; i < points->n; i = end + 1) {
		for (end = i; end < points->n && utf8proc_get_property(points->items[end])->combining_class != 0;)
			end++;
		if (end - i < 2)
			continue;
		QD_TRY(st, qd_grow(&scratch.items, &scratch.cap, end - i, sizeof(*scratch.items)));
		order_marks(points->items + i, end - i, scratch.items);
	}
out:
	qd_points_release(&scratch);
	return st;
}

static void compose(struct qd_points *points, size_t from)
{
	utf8proc_ssize_t n = utf8proc_normalize_utf32(
		points->items + from, (utf8proc_ssize_t)(points->n - from), UTF8PROC_STABLE | UTF8PROC_COMPOSE);
	points->n = n < 0 ? points->n : from + (size_t)n;
}

/* Appends text without inert code points in normalization form C. */
static enum qd_status append_composed(struct qd_points *points, const int32_t *text, size_t n)
{
	size_t from = points->n;
	enum qd_status st;

	QD_TRY(st, decompose(points, text, n));
	QD_TRY(st, order(points, from));
	compose(points, from);
out:
	return st;
}

static enum qd_status append_normal(struct qd_points *points, const int32_t *text, size_t n)
{
	enum qd_status st = QD_OK;

	for (size_t i = 0, end; i < n; i = end + 1) {
		for (end = i; end < n && !is_inert(text[end]);)
			end++;
		if (end > i)
			QD_TRY(st, append_composed(points, text + i, end - i));
		if (end < n)
			QD_PUSH(st, points->items, points->n, points->cap, text[end]);
	}
out:
	return st;
}

static void join_spaces(struct qd_points *points)
{
	size_t n = 0;

	for (size_t i = 0; i < points->n; i++) {
		bool space = qd_point_class(points->items[i]) == QD_POINT_SPACE;
		if (!space)
			points->items[n++] = points->items[i];
		else if (n == 0 || points->items[n - 1] != ' ')
			points->items[n++] = ' ';
	}
	points->n = n;
}

/* In place; what grows is moved to the right first, from the end on. */
static enum qd_status lower(struct qd_points *points)
{
	size_t dotted = 0;
	enum qd_status st;

	for (size_t i = 0; i < points->n; i++)
		dotted += points->items[i] == DOTTED_I;
	st = qd_grow(&points->items, &points->cap, points->n + dotted, sizeof(*points->items));
	if (st != QD_OK)
		return st;
	size_t to = points->n + dotted;
	for (size_t i = points->n; i-- > 0;) {
		int32_t point = points->items[i];
		if (point == DOTTED_I)
			points->items[--to] = DOT_ABOVE;
		points->items[--to] = point == DOTTED_I ? 'i' : utf8proc_tolower(point);
	}
	points->n += dotted;
	return QD_OK;
}

enum qd_status qd_points_normalize(struct qd_points *points, const int32_t *from, size_t n)
{
	enum qd_status st;

	points->n = 0;
	QD_TRY(st, append_normal(points, from, n));
	join_spaces(points);
	QD_TRY(st, lower(points));
out:
	return st;
}
