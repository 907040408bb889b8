/*
 * JSON in and out through jansson, with the bounds jansson lacks: file size, and nesting depth (its parser recurses).
 */
#include "lib/base/base.h"

enum { MAX_DEPTH = 128 };
#define MAX_FILE_BYTES ((size_t)256 << 20)

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

static enum qd_status parse(const char *what, const char *text, size_t bytes, size_t flags, json_t **out)
{
	*out = NULL;
	if (qd_is_lfs_pointer(text, bytes))
		return qd_fail(QD_EINPUT, "'%s' is a Git-LFS pointer, not the file itself; fetch it with 'git lfs pull'", what);
	size_t deep = too_deep(text, bytes);
	if (deep < bytes)
		return qd_fail(QD_EINPUT, "'%s': nested more than %d levels deep at byte %zu", what, MAX_DEPTH, deep);
	json_error_t error;
	*out = json_loadb(text, bytes, JSON_REJECT_DUPLICATES | flags, &error);
	if (!*out)
		return qd_fail(QD_EINPUT, "'%s': line %d, column %d: %s", what, error.line, error.column, error.text);
	return QD_OK;
}

enum qd_status qd_json_parse(const char *what, const char *text, size_t bytes, json_t **out)
{
	return parse(what, text, bytes, 0, out);
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

enum qd_status qd_json_write(const char *path, const json_t *value, bool force)
{
	struct qd_output output = { 0 };
	struct sink sink = { .output = &output, .st = QD_OK };
	enum qd_status st;
	QD_TRY(st, qd_output_open(&output, path, force));
	if (json_dump_callback(value, write_piece, &sink, JSON_INDENT(2) | JSON_REAL_PRECISION(17)) != 0) {
		if (sink.st == QD_OK)
			sink.st = qd_fail(QD_EINPUT, "cannot write '%s': the value is not valid JSON", path);
		QD_TRY(st, sink.st);
	}
	QD_TRY(st, qd_output_write(&output, "\n", 1));
	QD_TRY(st, qd_output_commit(&output));
out:
	qd_output_release(&output);
	return st;
}
