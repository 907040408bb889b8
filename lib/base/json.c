/*
 * JSON in and out through jansson, with the bounds jansson lacks: file size, and nesting depth (its parser recurses); and as people
 * have it: behind a byte order mark, and with the words that Python's json writes for infinities.
 *
 * jansson 2.14 cannot be trusted where memory is out: its parser drops the character that it has no room for and goes on, to
 * another text or past the end of one. Memory is therefore asked for here. A parser that asks in vain is left for good, by longjmp,
 * and what it had allocated is freed; whoever else asks in vain is remembered for qd_json_starved.
 */
#include "lib/base/base.h"

#include <float.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_DEPTH = 128 };
#define MAX_FILE_BYTES ((size_t)256 << 20)

static _Thread_local bool starved;

/* While a text is parsed: the parser's blocks. */
static _Thread_local struct {
	bool active;
	void **blocks;
	size_t n, cap;
	jmp_buf out;
} parser;

static void *allocate(size_t bytes)
{
	void *block = malloc(bytes);
	if (parser.active && block != NULL && qd_grow(&parser.blocks, &parser.cap, parser.n + 1, sizeof(*parser.blocks)) == QD_OK) {
		parser.blocks[parser.n++] = block;
		return block;
	}
	if (parser.active) {
		free(block);
		longjmp(parser.out, 1);
	}
	starved |= block == NULL;
	return block;
}

/* What is freed soon was mostly allocated last. */
static void release(void *block)
{
	if (parser.active) {
		size_t i = parser.n;
		while (i > 0 && parser.blocks[i - 1] != block)
			i--;
		if (i > 0)
			parser.blocks[i - 1] = parser.blocks[--parser.n];
	}
	free(block);
}

/* Before anything makes JSON. */
__attribute__((constructor)) static void take_over_allocation(void)
{
	json_set_alloc_funcs(allocate, release);
}

bool qd_json_starved(void)
{
	bool was = starved;
	starved = false;
	return was;
}

/* Position of the first bracket that opens level MAX_DEPTH + 1, or `bytes`. */
static size_t too_deep(const char *text, size_t bytes)
{
	size_t depth = 0;
	bool in_string = false;
	for (size_t i = 0; i < bytes; i++) {
		char c = text[i];
		if (in_string) {
			if (c == '\\')
				i++;
			else if (c == '"')
				in_string = false;
		} else if (c == '"') {
			in_string = true;
		} else if (c == '{' || c == '[') {
			if (++depth > MAX_DEPTH)
				return i;
		} else if ((c == '}' || c == ']') && depth) {
			depth--;
		}
	}
	return bytes;
}

/* Words that Python's json writes for numbers that JSON has no spelling for. */
static const char *const not_numbers[] = { "-Infinity", "Infinity", "NaN" };

/* The length of such a word at `at`, 0 when there is none. */
static size_t not_a_number(const char *at, size_t left)
{
	for (size_t i = 0; i < QD_COUNT(not_numbers); i++) {
		size_t n = strlen(not_numbers[i]);
		if (left >= n && memcmp(at, not_numbers[i], n) == 0)
			return n;
	}
	return 0;
}

/*
 * Copies `text` with such words as strings, "-Infinity", so that a file which has them in fields that nobody reads can be read, and
 * a field that is read says what it found. Returns the copy's length; `copy` NULL only counts.
 */
static size_t quote_not_numbers(const char *text, size_t bytes, char *copy)
{
	bool in_string = false;
	size_t used = 0;

	for (size_t i = 0; i < bytes; i++) {
		size_t word = in_string ? 0 : not_a_number(text + i, bytes - i), n = word > 0 ? word : 1;
		if (text[i] == '"')
			in_string = !in_string;
		else if (in_string && text[i] == '\\' && i + 1 < bytes)
			n = 2;
		if (copy != NULL) {
			memcpy(copy + used + (word > 0), text + i, n);
			if (word > 0)
				copy[used] = copy[used + word + 1] = '"';
		}
		used += n + (word > 0 ? 2 : 0);
		i += n - 1;
	}
	return used;
}

static enum qd_status parse_as_is(const char *what, const char *text, size_t bytes, size_t flags, json_t **out)
{
	size_t deep = too_deep(text, bytes);
	json_error_t error;
	bool fed;

	*out = NULL;
	if (deep < bytes)
		return qd_fail(QD_EINPUT, "'%s': nested more than %d levels deep at byte %zu", what, MAX_DEPTH, deep);
	parser.active = true;
	fed = setjmp(parser.out) == 0;
	if (fed)
		*out = json_loadb(text, bytes, JSON_REJECT_DUPLICATES | flags, &error);
	parser.active = false;
	for (size_t i = 0; !fed && i < parser.n; i++)
		free(parser.blocks[i]);
	free(parser.blocks);
	parser.blocks = NULL;
	parser.n = parser.cap = 0;
	if (!fed)
		return qd_fail(QD_ENOMEM, "'%s': out of memory", what);
	if (*out != NULL)
		return QD_OK;
	return qd_fail(QD_EINPUT, "'%s': line %d, column %d: %s", what, error.line, error.column, error.text);
}

static enum qd_status parse(const char *what, const char *text, size_t bytes, size_t flags, json_t **out)
{
	size_t bom = bytes >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0 ? 3 : 0, quoted;
	char *copy = NULL;
	enum qd_status st;

	*out = NULL;
	if (qd_is_lfs_pointer(text, bytes))
		return qd_fail(QD_EINPUT, "'%s' is a Git-LFS pointer, not the file itself; fetch it with 'git lfs pull'", what);
	text += bom;
	bytes -= bom;
	quoted = quote_not_numbers(text, bytes, NULL);
	if (quoted > bytes) {
		copy = malloc(quoted);
		if (copy == NULL)
			return qd_fail(QD_ENOMEM, "'%s': out of memory", what);
		quote_not_numbers(text, bytes, copy);
	}
	st = parse_as_is(what, copy != NULL ? copy : text, quoted, flags, out);
	free(copy);
	return st;
}

enum qd_status qd_json_parse(const char *what, const char *text, size_t bytes, json_t **out)
{
	return parse(what, text, bytes, 0, out);
}

enum qd_status qd_json_parse_strict(const char *what, const char *text, size_t bytes, json_t **out)
{
	return parse_as_is(what, text, bytes, 0, out);
}

static enum qd_status read_file(const char *path, size_t flags, json_t **out)
{
	struct qd_mapping mapping = { 0 };
	*out = NULL;
	enum qd_status st;
	QD_TRY(st, qd_mapping_open(&mapping, path));
	if (mapping.size > MAX_FILE_BYTES)
		QD_TRY(st, qd_fail(QD_EINPUT, "'%s' has %zu bytes, needs at most %zu", path, mapping.size, MAX_FILE_BYTES));
	QD_TRY(st, parse(path, (const char *)mapping.data, mapping.size, flags, out));
out:
	qd_mapping_release(&mapping);
	return st;
}

enum qd_status qd_json_read(const char *path, json_t **out)
{
	return read_file(path, 0, out);
}

enum qd_status qd_json_read_reals(const char *path, json_t **out)
{
	return read_file(path, JSON_DECODE_INT_AS_REAL, out);
}

enum qd_status qd_json_text(const json_t *value, size_t flags, char **text)
{
	*text = json_dumps(value, flags);
	if (qd_json_starved()) {
		free(*text);
		*text = NULL;
		return qd_fail(QD_ENOMEM, "out of memory");
	}
	return *text != NULL ? QD_OK : qd_fail(QD_EINPUT, "the value is not valid JSON");
}

struct sink {
	struct qd_output *output;
	enum qd_status st;
};

static int write_piece(const char *text, size_t bytes, void *data)
{
	struct sink *sink = data;
	sink->st = qd_output_write(sink->output, text, bytes);
	return sink->st == QD_OK ? 0 : -1;
}

static enum qd_status write_file(const char *path, const json_t *value, size_t digits, bool force)
{
	struct qd_output output = { 0 };
	struct sink sink = { .output = &output, .st = QD_OK };
	enum qd_status st;
	QD_TRY(st, qd_output_open(&output, path, force));
	int failed = json_dump_callback(value, write_piece, &sink, JSON_INDENT(2) | JSON_REAL_PRECISION(digits));
	if (qd_json_starved())
		QD_TRY(st, qd_fail(QD_ENOMEM, "cannot write '%s': out of memory", path));
	QD_TRY(st, sink.st);
	if (failed)
		QD_TRY(st, qd_fail(QD_EINPUT, "cannot write '%s': the value is not valid JSON", path));
	QD_TRY(st, qd_output_write(&output, "\n", 1));
	QD_TRY(st, qd_output_commit(&output));
out:
	qd_output_release(&output);
	return st;
}

enum qd_status qd_json_write(const char *path, const json_t *value, bool force)
{
	return write_file(path, value, DBL_DECIMAL_DIG, force);
}

/* A text of at most FLT_DECIMAL_DIG digits that became a double is printed with so many digits as the same text. */
enum qd_status qd_json_write_floats(const char *path, const json_t *value, bool force)
{
	return write_file(path, value, FLT_DECIMAL_DIG, force);
}

/* ---- making documents ---- */

json_t *qd_json_float(float x)
{
	char text[QD_NUMBER_TEXT];

	return json_real(strtod(qd_float_text(x, text), NULL));
}

void qd_json_append(json_t **list, json_t *item)
{
	if (json_array_append_new(*list, item) == 0)
		return;
	json_decref(*list);
	*list = NULL;
}

/* ---- numbers ---- */

/* Fewer digits than FLT_DIG or DBL_DIG are those with zeros at the end, which %g leaves out. */
char *qd_float_text(float x, char *text)
{
	for (int digits = FLT_DIG; digits <= FLT_DECIMAL_DIG; digits++) {
		snprintf(text, QD_NUMBER_TEXT, "%.*g", digits, (double)x);
		if (strtof(text, NULL) == x && (float)strtod(text, NULL) == x)
			break;
	}
	return text;
}

char *qd_double_text(double x, char *text)
{
	for (int digits = DBL_DIG; digits <= DBL_DECIMAL_DIG; digits++) {
		snprintf(text, QD_NUMBER_TEXT, "%.*g", digits, x);
		if (strtod(text, NULL) == x)
			break;
	}
	return text;
}
