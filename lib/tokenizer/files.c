/*
 * The vocabulary and the merges of a tokenizer folder.
 *
 *   vocab.json       {"symbol": id}. A symbol spells bytes: each byte is one character of GPT-2's table (33 to 126, 161 to 172 and
 *                    174 to 255 stand for themselves, the other 68 bytes in order for U+0100 and up); a symbol that ends a word has
 *                    "</w>" behind it. All 256 bytes have a symbol of each kind.
 *   merges.txt       "#version: ..." lines, and "left right" lines: the symbols left and right become the symbol leftright, the
 *                    first line first
 *   tokenizer.json   {"model": {"type": "BPE", "end_of_word_suffix": "</w>", "vocab": as above,
 *                               "merges": ["left right" or ["left", "right"], ...]},
 *                     "added_tokens": [...]}
 */
#include "lib/tokenizer/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WORD_END "</w>"
enum { MAX_SIZE = 1 << 20 };
#define MAX_MERGES_BYTES ((size_t)256 << 20)

/* ---- files ---- */

static enum qd_status read_optional(const char *path, json_t **out)
{
	return qd_is_file(path) ? qd_json_read(path, out) : QD_OK;
}

static enum qd_status read_merges(struct qd_tokenizer_files *files)
{
	enum qd_status st;

	QD_TRY(st, qd_mapping_open(&files->merges, files->merges_path));
	const char *text = (const char *)files->merges.data;
	size_t bytes = files->merges.size;
	if (qd_is_lfs_pointer(text, bytes))
		QD_TRY(st, qd_fail(QD_EINPUT, "'%s' is a Git-LFS pointer, not the file itself; fetch it with 'git lfs pull'",
				   files->merges_path));
	if (bytes > MAX_MERGES_BYTES)
		QD_TRY(st,
			qd_fail(QD_EINPUT, "'%s' has %zu bytes, needs at most %zu", files->merges_path, bytes, MAX_MERGES_BYTES));
	size_t fault = qd_utf8_fault(text, bytes);
	if (fault < bytes)
		QD_TRY(st, qd_fail(QD_EINPUT, "'%s': byte %zu is not UTF-8", files->merges_path, fault));
out:
	return st;
}

static const char *const file_names[] = { "vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json",
	"special_tokens_map.json", "added_tokens.json" };

static enum qd_status name_files(struct qd_tokenizer_files *files, const char *folder)
{
	char **const paths[QD_COUNT(file_names)] = { &files->vocab_path, &files->merges_path, &files->tokenizer_path,
		&files->config_path, &files->map_path, &files->added_path };

	for (size_t i = 0; i < QD_COUNT(file_names); i++)
		if ((*paths[i] = qd_arena_strf(&files->arena, "%s/%s", folder, file_names[i])) == NULL)
			return QD_ENOMEM;
	return QD_OK;
}

enum qd_status qd_tokenizer_hash(const char *folder, char *out)
{
	struct qd_arena arena = { 0 };
	char text[QD_COUNT(file_names) * (QD_HASH_TEXT + 1) + 1], hash[QD_HASH_TEXT];
	size_t at = 0;
	enum qd_status st = QD_OK;

	for (size_t i = 0; i < QD_COUNT(file_names); i++) {
		const char *path = qd_arena_strf(&arena, "%s/%s", folder, file_names[i]);
		if (path == NULL)
			QD_TRY(st, QD_ENOMEM);
		strcpy(hash, "-");
		if (qd_is_file(path))
			QD_TRY(st, qd_hash_file(path, hash));
		at += (size_t)snprintf(text + at, sizeof(text) - at, "%s\n", hash);
	}
	qd_hash_bytes(text, at, out);
out:
	qd_arena_release(&arena);
	return st;
}

enum qd_status qd_tokenizer_files_open(struct qd_tokenizer_files *files, const char *folder)
{
	enum qd_status st;

	QD_TRY(st, name_files(files, folder));
	if (!qd_is_directory(folder))
		QD_TRY(st, qd_fail(QD_EIO, "'%s' is no folder, needs a tokenizer's", folder));
	QD_TRY(st, read_optional(files->tokenizer_path, &files->tokenizer));
	if (files->tokenizer == NULL) {
		if (!qd_is_file(files->vocab_path))
			QD_TRY(st, qd_fail(QD_EINPUT, "'%s' holds no tokenizer, needs vocab.json and merges.txt, or tokenizer.json",
					   folder));
		QD_TRY(st, qd_json_read(files->vocab_path, &files->vocab));
		QD_TRY(st, read_merges(files));
	}
	if (qd_is_file(files->config_path))
		QD_TRY(st, qd_json_read_reals(files->config_path, &files->config));
	QD_TRY(st, read_optional(files->map_path, &files->map));
	QD_TRY(st, read_optional(files->added_path, &files->added));
out:
	return st;
}

void qd_tokenizer_files_release(struct qd_tokenizer_files *files)
{
	json_decref(files->vocab);
	json_decref(files->tokenizer);
	json_decref(files->config);
	json_decref(files->map);
	json_decref(files->added);
	qd_mapping_release(&files->merges);
	qd_arena_release(&files->arena);
	*files = (struct qd_tokenizer_files){ 0 };
}

/* ---- vocabulary ---- */

/* `owners` [MAX_SIZE]: the symbol of each id so far. */
static enum qd_status add_symbol(struct qd_vocabulary *v, const char **owners, const char *symbol, const json_t *value)
{
	json_int_t id = json_integer_value(value);

	if (!json_is_integer(value) || id < 0 || id >= MAX_SIZE)
		return qd_fail(QD_EINPUT, "'%s': the id of '%s' is not a whole number from 0 to %d", v->path, symbol, MAX_SIZE - 1);
	if (owners[id] != NULL)
		return qd_fail(QD_EINPUT, "'%s': '%s' and '%s' both have the id %d", v->path, owners[id], symbol, (int)id);
	owners[id] = symbol;
	v->size = v->size > (size_t)id ? v->size : (size_t)id + 1;
	return qd_strmap_put(&v->ids, symbol, (uint32_t)id);
}

static enum qd_status read_symbols(struct qd_vocabulary *v, json_t *symbols)
{
	const char *symbol, **owners = NULL;
	json_t *value;
	enum qd_status st = QD_OK;

	if (!json_is_object(symbols))
		return qd_fail(QD_EINPUT, "'%s': the vocabulary is not an object of symbols and ids", v->path);
	if (json_object_size(symbols) > MAX_SIZE)
		return qd_fail(QD_EINPUT, "'%s' has %zu symbols, needs at most %d", v->path, json_object_size(symbols), MAX_SIZE);
	owners = calloc(MAX_SIZE, sizeof(*owners));
	if (owners == NULL)
		return qd_fail(QD_ENOMEM, "out of memory (%zu bytes)", MAX_SIZE * sizeof(*owners));
	json_object_foreach(symbols, symbol, value) QD_TRY(st, add_symbol(v, owners, symbol, value));
out:
	free(owners);
	return st;
}

static int32_t byte_character(int byte)
{
	int32_t others = 0;

	for (int b = 0; b <= byte; b++) {
		bool itself = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
		if (b == byte && itself)
			return b;
		others += !itself;
	}
	return 256 + others - 1;
}

static enum qd_status find_byte_symbols(struct qd_tokenizer *t, const struct qd_vocabulary *v)
{
	char symbol[16];

	for (int byte = 0; byte < 256; byte++)
		for (int ends = 0; ends < 2; ends++) {
			size_t n = qd_point_bytes(byte_character(byte), (unsigned char *)symbol);
			strcpy(symbol + n, ends ? WORD_END : "");
			t->byte_ids[ends][byte] = qd_strmap_get(&v->ids, symbol);
			if (t->byte_ids[ends][byte] == QD_NONE)
				return qd_fail(QD_EINPUT, "'%s' lacks the symbol '%s' of byte %d", v->path, symbol, byte);
		}
	return QD_OK;
}

/* ---- merges ---- */

struct merging {
	struct qd_merges *merges;
	const struct qd_vocabulary *vocabulary;
	char *text;
	size_t cap;
};

/* The id of the symbol made of `n` bytes in r->text from `from` on, whose end is free to be written. */
static enum qd_status symbol_id(struct merging *m, size_t from, size_t n, uint32_t *id)
{
	char *symbol = m->text + from, after = symbol[n];

	symbol[n] = '\0';
	*id = strlen(symbol) == n ? qd_strmap_get(&m->vocabulary->ids, symbol) : QD_NONE;
	if (*id == QD_NONE)
		return qd_fail(QD_EINPUT, "'%s' is no symbol of the vocabulary", symbol);
	symbol[n] = after;
	return QD_OK;
}

static enum qd_status add_merge(struct merging *m, const char *left, size_t n_left, const char *right, size_t n_right)
{
	uint32_t left_id, right_id, result;
	enum qd_status st;

	QD_TRY(st, qd_grow(&m->text, &m->cap, n_left + n_right + 1, 1));
	memcpy(m->text, left, n_left);
	memcpy(m->text + n_left, right, n_right);
	m->text[n_left + n_right] = '\0';
	QD_TRY(st, symbol_id(m, 0, n_left, &left_id));
	QD_TRY(st, symbol_id(m, n_left, n_right, &right_id));
	QD_TRY(st, symbol_id(m, 0, n_left + n_right, &result));
	QD_TRY(st, qd_merges_add(m->merges, left_id, right_id, result));
out:
	return st;
}

/* "left right" */
static enum qd_status add_merge_line(struct merging *m, const char *line, size_t n)
{
	const char *space = memchr(line, ' ', n);
	size_t left = space != NULL ? (size_t)(space - line) : 0;

	if (left == 0 || left + 1 == n || memchr(space + 1, ' ', n - left - 1) != NULL)
		return qd_fail(QD_EINPUT, "'%.*s' is not two symbols with one space between", n < 80 ? (int)n : 80, line);
	return add_merge(m, line, left, space + 1, n - left - 1);
}

static enum qd_status read_merge_lines(struct merging *m, const struct qd_tokenizer_files *files)
{
	const char *text = (const char *)files->merges.data, *end = text + files->merges.size;
	enum qd_status st = QD_OK;

	for (size_t number = 1; text < end && st == QD_OK; number++) {
		const char *stop = memchr(text, '\n', (size_t)(end - text));
		size_t n = (size_t)((stop != NULL ? stop : end) - text);
		bool header = n >= 8 && memcmp(text, "#version", 8) == 0;
		size_t bytes = n > 0 && text[n - 1] == '\r' ? n - 1 : n;
		if (!header)
			st = qd_prefix(add_merge_line(m, text, bytes), "'%s': line %zu", files->merges_path, number);
		text = stop != NULL ? stop + 1 : end;
	}
	return st;
}

static enum qd_status add_merge_value(struct merging *m, const json_t *value)
{
	const json_t *left = json_array_get(value, 0), *right = json_array_get(value, 1);

	if (json_is_string(value))
		return add_merge_line(m, json_string_value(value), json_string_length(value));
	if (json_array_size(value) != 2 || !json_is_string(left) || !json_is_string(right))
		return qd_fail(QD_EINPUT, "neither a text nor a pair of texts");
	return add_merge(m, json_string_value(left), json_string_length(left), json_string_value(right), json_string_length(right));
}

static enum qd_status read_merge_list(struct merging *m, const json_t *list, const char *path)
{
	const json_t *value;
	size_t i;
	enum qd_status st = QD_OK;

	if (!json_is_array(list))
		return qd_fail(QD_EINPUT, "'%s': field 'model.merges' is not a list", path);
	json_array_foreach(list, i, value) QD_TRY(st, qd_prefix(add_merge_value(m, value), "'%s': merge %zu", path, i + 1));
out:
	return st;
}

/* ---- the whole ---- */

static enum qd_status check_model(const json_t *model, const char *path)
{
	static const char *const types[] = { "BPE", NULL }, *const endings[] = { WORD_END, NULL };
	struct qd_fields f = { .what = path, .json = model };

	if (!json_is_object(model))
		return qd_fail(QD_EINPUT, "'%s': field 'model' is not an object", path);
	qd_field_choice(&f, "type", types, 0);
	qd_field_needed_choice(&f, "end_of_word_suffix", endings, 0);
	return qd_prefix(f.status, "'model'");
}

enum qd_status qd_tokenizer_read_vocabulary(
	struct qd_tokenizer *t, struct qd_vocabulary *vocabulary, const struct qd_tokenizer_files *files)
{
	const json_t *model = json_object_get(files->tokenizer, "model");
	struct merging m = { .merges = &t->merges, .vocabulary = vocabulary };
	enum qd_status st;

	vocabulary->path = files->tokenizer != NULL ? files->tokenizer_path : files->vocab_path;
	if (files->tokenizer != NULL)
		QD_TRY(st, check_model(model, files->tokenizer_path));
	QD_TRY(st, read_symbols(vocabulary, files->tokenizer != NULL ? json_object_get(model, "vocab") : files->vocab));
	QD_TRY(st, find_byte_symbols(t, vocabulary));
	if (files->tokenizer != NULL)
		QD_TRY(st, read_merge_list(&m, json_object_get(model, "merges"), files->tokenizer_path));
	else
		QD_TRY(st, read_merge_lines(&m, files));
out:
	free(m.text);
	return st;
}
