/*
 * A folder of images as dataset libraries keep it: metadata.jsonl beside the images, one JSON object per line, or metadata.csv (RFC
 * 4180), a row for an image under a row of names:
 *
 *   file_name            path of the image from the folder; needed
 *   text                 what it shows; "" when absent (another column may be told)
 *   mask_file_name       mask: white is to be made, black is kept (also mask_image_file_name)
 *   condition_file_name  a picture to go by (also conditioning_image_file_name, condition_image_file_name)
 *
 * Other fields are left alone; so are empty lines and cells. Paths stay below the folder. An image without a caption is said: where
 * no line has one but other columns hold text, the column was meant to be told.
 */
#include "lib/data/data.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static const char *const mask_fields[] = { "mask_file_name", "mask_image_file_name", NULL };
static const char *const condition_fields[] = { "condition_file_name", "conditioning_image_file_name", "condition_image_file_name",
	NULL };

struct reading {
	struct qd_image_folder *folder;
	const char *path, *text_column;
	struct qd_strmap lines; /* file_name -> line */
	size_t captions;        /* rows that have one */
	char *other;            /* the first column of text that was no caption; owned */
};

static bool leaves_folder(const char *name)
{
	return name[0] == '/' || strcmp(name, "..") == 0 || qd_starts_with(name, "../") || strstr(name, "/../") != NULL ||
	       qd_ends_with(name, "/..");
}

/* The path that a field names; `*out` stays NULL where the field is absent or null. */
static enum qd_status file_field(struct reading *r, const json_t *object, const char *field, const char **out)
{
	const json_t *value = json_object_get(object, field);
	const char *name = json_string_value(value);

	if (value == NULL || json_is_null(value))
		return QD_OK;
	if (name == NULL || name[0] == '\0')
		return qd_fail(QD_EINPUT, "'%s' is no text", field);
	if (leaves_folder(name))
		return qd_fail(QD_EINPUT, "'%s' is '%s', which is not below the folder", field, name);
	*out = qd_arena_strf(&r->folder->arena, "%s/%s", r->path, name);
	if (*out == NULL)
		return QD_ENOMEM;
	return qd_is_file(*out) ? QD_OK : qd_fail(QD_EINPUT, "'%s' is '%s', and there is no such file", field, name);
}

/* The first of several names that a field goes by. */
static enum qd_status any_file_field(struct reading *r, const json_t *object, const char *const *fields, const char **out)
{
	enum qd_status st = QD_OK;

	for (size_t i = 0; st == QD_OK && fields[i] != NULL && *out == NULL; i++)
		st = file_field(r, object, fields[i], out);
	return st;
}

static enum qd_status note_name(struct reading *r, const char *name, uint32_t line)
{
	uint32_t before = qd_strmap_get(&r->lines, name);

	if (before != QD_NONE)
		return qd_fail(QD_EINPUT, "'file_name' is '%s', as in line %u", name, before);
	return qd_strmap_put(&r->lines, name, line);
}

static enum qd_status text_field(struct reading *r, const json_t *object, const char **out)
{
	const json_t *value = json_object_get(object, r->text_column);

	if (value != NULL && !json_is_null(value) && !json_is_string(value))
		return qd_fail(QD_EINPUT, "'%s' is no text", r->text_column);
	r->captions += json_is_string(value);
	*out = qd_arena_strdup(&r->folder->arena, json_is_string(value) ? json_string_value(value) : "");
	return *out != NULL ? QD_OK : QD_ENOMEM;
}

/* Remembers a column of text that may be the caption. */
static enum qd_status note_other_column(struct reading *r, const json_t *object)
{
	const char *key;
	json_t *value;

	if (r->other != NULL)
		return QD_OK;
	json_object_foreach((json_t *)object, key, value)
	{
		if (!json_is_string(value) || qd_ends_with(key, "file_name") || strcmp(key, r->text_column) == 0)
			continue;
		r->other = strdup(key);
		return r->other != NULL ? QD_OK : qd_fail(QD_ENOMEM, "out of memory");
	}
	return QD_OK;
}

static enum qd_status add_object(struct reading *r, const json_t *object, uint32_t line)
{
	struct qd_image_row row = { .image = NULL };
	enum qd_status st;

	if (!json_is_object(object))
		return qd_fail(QD_EINPUT, "needs a JSON object");
	QD_TRY(st, file_field(r, object, "file_name", &row.image));
	if (row.image == NULL)
		QD_TRY(st, qd_fail(QD_EINPUT, "has no 'file_name'"));
	QD_TRY(st, note_name(r, json_string_value(json_object_get(object, "file_name")), line));
	QD_TRY(st, text_field(r, object, &row.text));
	QD_TRY(st, note_other_column(r, object));
	QD_TRY(st, any_file_field(r, object, mask_fields, &row.mask));
	QD_TRY(st, any_file_field(r, object, condition_fields, &row.condition));
	QD_PUSH(st, r->folder->rows, r->folder->n, r->folder->cap, row);
out:
	return st;
}

static enum qd_status add_line(struct reading *r, const char *text, size_t bytes, uint32_t line)
{
	json_t *object = NULL;
	enum qd_status st = QD_OK;

	while (bytes > 0 && (*text == ' ' || *text == '\t' || *text == '\r')) {
		text++;
		bytes--;
	}
	if (bytes == 0)
		return QD_OK;
	QD_TRY(st, qd_json_parse("the line", text, bytes, &object));
	st = add_object(r, object, line);
out:
	json_decref(object);
	return st;
}

static enum qd_status read_lines(struct reading *r, const char *path, const char *at, const char *end)
{
	for (uint32_t line = 1; at < end; line++) {
		const char *stop = memchr(at, '\n', (size_t)(end - at));
		size_t bytes = (size_t)((stop != NULL ? stop : end) - at);
		enum qd_status st = add_line(r, at, bytes, line);
		if (st != QD_OK)
			return qd_prefix(st, "'%s' line %u", path, line);
		at += bytes + 1;
	}
	return QD_OK;
}

/* ---- metadata.csv ---- */

struct csv {
	const char *at, *end;
	uint32_t line;
	char *cell; /* owned; the text of the last one */
	size_t bytes, cap;
};

static enum qd_status put_byte(struct csv *csv, char byte)
{
	enum qd_status st = qd_grow(&csv->cell, &csv->cap, csv->bytes + 2, 1);

	if (st == QD_OK)
		csv->cell[csv->bytes++] = byte;
	return st;
}

/* The next cell, unquoted, in csv->cell; `*last`: it ends its row. At the end of the file there is none. */
static enum qd_status next_cell(struct csv *csv, bool *last)
{
	bool quoted = csv->at < csv->end && *csv->at == '"';
	enum qd_status st = QD_OK;

	csv->bytes = 0;
	csv->at += quoted;
	for (; csv->at < csv->end; csv->at++) {
		if (quoted && *csv->at == '"') {
			if (csv->at + 1 == csv->end || csv->at[1] != '"') {
				quoted = false; /* what follows up to the comma belongs to the cell, as in other readers */
				continue;
			}
			csv->at++;
		} else if (!quoted && (*csv->at == ',' || *csv->at == '\n')) {
			break;
		} else if (!quoted && *csv->at == '\r' && (csv->at + 1 == csv->end || csv->at[1] == '\n')) {
			continue;
		}
		if (*csv->at == '\0')
			QD_TRY(st, qd_fail(QD_EINPUT, "holds a zero byte"));
		csv->line += *csv->at == '\n';
		QD_TRY(st, put_byte(csv, *csv->at));
	}
	if (quoted)
		QD_TRY(st, qd_fail(QD_EINPUT, "a quoted cell does not end"));
	*last = csv->at == csv->end || *csv->at == '\n';
	csv->line += csv->at < csv->end && *csv->at == '\n';
	csv->at += csv->at < csv->end;
	QD_TRY(st, put_byte(csv, '\0'));
	csv->bytes--;
out:
	return st;
}

/* A row of cells as the object that a line of metadata.jsonl has; empty cells are absent. With names NULL, the names themselves. */
static enum qd_status next_row(struct csv *csv, const json_t *names, json_t *row)
{
	enum qd_status st;
	bool last = false;

	for (size_t column = 0; !last; column++) {
		const char *name = names != NULL ? json_string_value(json_array_get(names, column)) : NULL;
		json_t *text;
		QD_TRY(st, next_cell(csv, &last));
		if (names != NULL && csv->bytes == 0)
			continue;
		if (names != NULL && name == NULL)
			QD_TRY(st, qd_fail(QD_EINPUT, "has more cells than the first line, which has %zu", json_array_size(names)));
		text = json_string(csv->cell);
		if (text == NULL)
			QD_TRY(st, qd_fail(QD_EINPUT, "a cell is not UTF-8"));
		if ((names != NULL ? json_object_set_new(row, name, text) : json_array_append_new(row, text)) != 0)
			QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory"));
	}
out:
	return st;
}

static enum qd_status read_csv(struct reading *r, const char *path, const char *at, const char *end)
{
	struct csv csv = { .at = at, .end = end, .line = 1 };
	json_t *names = json_array(), *row = NULL;
	uint32_t line = 1;
	enum qd_status st = names != NULL ? QD_OK : qd_fail(QD_ENOMEM, "out of memory");

	if (st == QD_OK)
		st = next_row(&csv, NULL, names);
	while (st == QD_OK && csv.at < csv.end) {
		line = csv.line;
		json_decref(row);
		row = json_object();
		QD_TRY(st, row != NULL ? QD_OK : qd_fail(QD_ENOMEM, "out of memory"));
		QD_TRY(st, next_row(&csv, names, row));
		if (json_object_size(row) > 0)
			QD_TRY(st, add_object(r, row, line));
	}
out:
	json_decref(names);
	json_decref(row);
	free(csv.cell);
	return qd_prefix(st, "'%s' line %u", path, line);
}

/* ---- both ---- */

/* Images without captions are not passed on without a word. */
static enum qd_status check_captions(const struct reading *r, const char *path)
{
	size_t n = r->folder->n;

	if (n == 0)
		return qd_fail(QD_EINPUT, "'%s' names no image", path);
	if (r->captions == 0 && r->other != NULL)
		return qd_fail(QD_EINPUT,
			"'%s' has no caption '%s', but text in '%s': tell which column has the captions (--text-column)", path,
			r->text_column, r->other);
	if (r->captions < n)
		qd_log(QD_LOG_WARNING, "'%s': %zu of %zu images have no '%s': their captions are empty", path, n - r->captions, n,
			r->text_column);
	return QD_OK;
}

static enum qd_status read_metadata(struct reading *r, const char *path)
{
	struct qd_mapping mapping = { 0 };
	const char *at, *end;
	enum qd_status st;

	QD_TRY(st, qd_mapping_open(&mapping, path));
	at = (const char *)mapping.data;
	end = at + mapping.size;
	if (mapping.size >= 3 && memcmp(at, "\xef\xbb\xbf", 3) == 0)
		at += 3;
	QD_TRY(st, qd_ends_with(path, ".csv") ? read_csv(r, path, at, end) : read_lines(r, path, at, end));
	st = check_captions(r, path);
out:
	qd_mapping_release(&mapping);
	return st;
}

/* ---- without metadata ---- */

static bool has_ending(const char *name, const char *const *endings)
{
	size_t n = strlen(name);

	for (; *endings != NULL; endings++) {
		size_t length = strlen(*endings);
		if (n > length && strcasecmp(name + n - length, *endings) == 0)
			return true;
	}
	return false;
}

static int is_image(const struct dirent *entry)
{
	static const char *const endings[] = { ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", NULL };
	return has_ending(entry->d_name, endings);
}

/* Pictures to a person, but not to this program. */
static int is_other_image(const struct dirent *entry)
{
	static const char *const endings[] = { ".bmp", ".gif", ".tif", ".tiff", ".avif", ".heic", ".jxl", ".jp2", ".tga", NULL };
	return has_ending(entry->d_name, endings);
}

static void say_what_is_missing(const char *path)
{
	struct dirent **entries = NULL;
	int n = scandir(path, &entries, is_other_image, alphasort);

	if (n > 0)
		qd_log(QD_LOG_WARNING,
			"'%s' has no metadata.jsonl or metadata.csv: all captions are empty; %d images that are no PNG, JPEG or "
			"WebP are "
			"left out, the first is '%s'",
			path, n, entries[0]->d_name);
	else
		qd_log(QD_LOG_WARNING, "'%s' has no metadata.jsonl or metadata.csv: all captions are empty", path);
	for (int i = 0; i < n; i++)
		free(entries[i]);
	free(entries);
}

static enum qd_status list_images(struct reading *r)
{
	struct dirent **entries = NULL;
	int n = scandir(r->path, &entries, is_image, alphasort);
	enum qd_status st = QD_OK;

	if (n < 0)
		return qd_fail(QD_EIO, "cannot read the folder '%s': %s", r->path, strerror(errno));
	if (n == 0)
		QD_TRY(st, qd_fail(QD_EINPUT, "'%s' holds neither metadata.jsonl, metadata.csv nor images", r->path));
	for (int i = 0; i < n; i++) {
		struct qd_image_row row = { .text = "" };
		row.image = qd_arena_strf(&r->folder->arena, "%s/%s", r->path, entries[i]->d_name);
		if (row.image == NULL)
			QD_TRY(st, QD_ENOMEM);
		QD_PUSH(st, r->folder->rows, r->folder->n, r->folder->cap, row);
	}
	say_what_is_missing(r->path);
out:
	for (int i = 0; i < n; i++)
		free(entries[i]);
	free(entries);
	return st;
}

enum qd_status qd_image_folder_open(struct qd_image_folder *folder, const char *path, const char *text_column)
{
	struct reading r = { .folder = folder, .path = path, .text_column = text_column };
	const char *lines, *csv;
	enum qd_status st = QD_OK;

	*folder = (struct qd_image_folder){ 0 };
	lines = qd_arena_strf(&folder->arena, "%s/metadata.jsonl", path);
	csv = qd_arena_strf(&folder->arena, "%s/metadata.csv", path);
	if (lines == NULL || csv == NULL)
		QD_TRY(st, QD_ENOMEM);
	if (!qd_is_directory(path))
		QD_TRY(st, qd_fail(QD_EIO, "cannot read the folder '%s'", path));
	if (qd_is_file(lines) && qd_is_file(csv))
		QD_TRY(st, qd_fail(QD_EINPUT, "'%s' has both metadata.jsonl and metadata.csv, needs one", path));
	if (qd_is_file(lines) || qd_is_file(csv))
		st = read_metadata(&r, qd_is_file(lines) ? lines : csv);
	else
		st = list_images(&r);
out:
	free(r.other);
	qd_strmap_release(&r.lines);
	if (st != QD_OK)
		qd_image_folder_release(folder);
	return st;
}

void qd_image_folder_release(struct qd_image_folder *folder)
{
	free(folder->rows);
	qd_arena_release(&folder->arena);
	*folder = (struct qd_image_folder){ 0 };
}
