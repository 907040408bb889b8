/*
 * A folder of images as dataset libraries keep it: metadata.jsonl beside the images, one JSON object per line,
 *
 *   file_name          path of the image from the folder; needed
 *   text               what it shows; "" when absent
 *   mask_file_name     mask: white is to be made, black is kept (also mask_image_file_name)
 *   condition_file_name   a picture to go by (also conditioning_image_file_name, condition_image_file_name)
 *
 * Other fields are left alone; so are empty lines. Paths stay below the folder.
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
	*out = qd_arena_strdup(&r->folder->arena, json_is_string(value) ? json_string_value(value) : "");
	return *out != NULL ? QD_OK : QD_ENOMEM;
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

	if (bytes == strspn(text, " \t\r") || bytes == 0)
		return QD_OK;
	QD_TRY(st, qd_json_parse("the line", text, bytes, &object));
	st = add_object(r, object, line);
out:
	json_decref(object);
	return st;
}

static enum qd_status read_metadata(struct reading *r, const char *path)
{
	struct qd_mapping mapping = { 0 };
	const char *at, *end;
	enum qd_status st;

	QD_TRY(st, qd_mapping_open(&mapping, path));
	at = (const char *)mapping.data;
	end = at + mapping.size;
	for (uint32_t line = 1; at < end; line++) {
		const char *stop = memchr(at, '\n', (size_t)(end - at));
		size_t bytes = (size_t)((stop != NULL ? stop : end) - at);
		char *copy = strndup(at, bytes); /* a mapped file does not end in a 0 */
		st = copy != NULL ? add_line(r, copy, bytes, line) : qd_fail(QD_ENOMEM, "out of memory");
		free(copy);
		QD_TRY(st, qd_prefix(st, "'%s' line %u", path, line));
		at += bytes + 1;
	}
	if (r->folder->n == 0)
		st = qd_fail(QD_EINPUT, "'%s' names no image", path);
out:
	qd_mapping_release(&mapping);
	return st;
}

/* ---- without metadata ---- */

static int is_image(const struct dirent *entry)
{
	static const char *const endings[] = { ".png", ".jpg", ".jpeg" };
	size_t n = strlen(entry->d_name);

	for (size_t i = 0; i < QD_COUNT(endings); i++) {
		size_t length = strlen(endings[i]);
		if (n > length && strcasecmp(entry->d_name + n - length, endings[i]) == 0)
			return 1;
	}
	return 0;
}

static enum qd_status list_images(struct reading *r)
{
	struct dirent **entries = NULL;
	int n = scandir(r->path, &entries, is_image, alphasort);
	enum qd_status st = QD_OK;

	if (n < 0)
		return qd_fail(QD_EIO, "cannot read the folder '%s': %s", r->path, strerror(errno));
	if (n == 0)
		QD_TRY(st, qd_fail(QD_EINPUT, "'%s' holds neither metadata.jsonl nor images", r->path));
	for (int i = 0; i < n; i++) {
		struct qd_image_row row = { .text = "" };
		row.image = qd_arena_strf(&r->folder->arena, "%s/%s", r->path, entries[i]->d_name);
		if (row.image == NULL)
			QD_TRY(st, QD_ENOMEM);
		QD_PUSH(st, r->folder->rows, r->folder->n, r->folder->cap, row);
	}
out:
	for (int i = 0; i < n; i++)
		free(entries[i]);
	free(entries);
	return st;
}

enum qd_status qd_image_folder_open(struct qd_image_folder *folder, const char *path, const char *text_column)
{
	struct reading r = { .folder = folder, .path = path, .text_column = text_column };
	const char *metadata;
	enum qd_status st = QD_OK;

	*folder = (struct qd_image_folder){ 0 };
	metadata = qd_arena_strf(&folder->arena, "%s/metadata.jsonl", path);
	if (metadata == NULL)
		QD_TRY(st, QD_ENOMEM);
	if (!qd_is_directory(path))
		QD_TRY(st, qd_fail(QD_EIO, "cannot read the folder '%s'", path));
	st = qd_is_file(metadata) ? read_metadata(&r, metadata) : list_images(&r);
out:
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
