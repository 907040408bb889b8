/*
 * Which folders may be replaced: those that are empty, and those that this program wrote, file by file. It knows them by an index:
 *
 *   manifest.json       of an export, which lists its files anyway
 *   .quad-files.json    of every other folder: { "program": "quad", "files": [{ "path": "unet/config.json" }, ...] }
 *
 * Both have "program", a text that begins with "quad", and "files". What is in the folder but not in the index is somebody's.
 */
#include "lib/base/owned.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { DEEPEST = 32 };

static const char own_index[] = ".quad-files.json";
static const char *const indices[] = { "manifest.json", own_index };

/* ---- every file of a folder ---- */

typedef enum qd_status (*visit_fn)(void *context, const char *name, bool regular);

static int no_dots(const struct dirent *entry)
{
	return strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
}

static enum qd_status walk(const char *folder, const char *below, int depth, visit_fn visit, void *context)
{
	char path[QD_PATH_BYTES], name[QD_PATH_BYTES];
	struct dirent **entries = NULL;
	struct stat info;
	int n = -1;
	enum qd_status st;

	QD_TRY(st, qd_path_join(path, folder, "%s", below[0] == '/' ? below + 1 : below));
	n = scandir(path, &entries, no_dots, alphasort);
	if (n < 0 && errno == ENOENT && depth > 0)
		goto out;
	if (n < 0 || depth == DEEPEST)
		QD_TRY(st, qd_fail(QD_EIO, "cannot list '%s': %s", path, strerror(n < 0 ? errno : ELOOP)));
	for (int i = 0; i < n; i++) {
		QD_TRY(st, qd_path_join(name, below, "%s", entries[i]->d_name));
		QD_TRY(st, qd_path_join(path, folder, "%s", name + 1));
		if (lstat(path, &info) != 0 && errno == ENOENT)
			continue;
		QD_TRY(st, S_ISDIR(info.st_mode) ? walk(folder, name, depth + 1, visit, context)
						 : visit(context, name + 1, S_ISREG(info.st_mode)));
	}
out:
	for (int i = 0; i < n; i++)
		free(entries[i]);
	free(entries);
	return st;
}

enum qd_status qd_walk(const char *folder, visit_fn visit, void *context)
{
	return walk(folder, "", 0, visit, context);
}

/* ---- the check ---- */

struct owned {
	const char *folder;
	struct qd_strmap names;
};

/* Notes what an index lists, and the index; a file of that name that is no index is nobody's of ours. */
static enum qd_status read_index(struct owned *o, const char *name)
{
	char path[QD_PATH_BYTES];
	json_t *index = NULL;
	const char *program;
	enum qd_status st;

	QD_TRY(st, qd_path_join(path, o->folder, "%s", name));
	if (!qd_is_file(path))
		return QD_OK;
	st = qd_json_read(path, &index);
	if (st != QD_OK)
		return st == QD_ENOMEM ? st : QD_OK;
	program = json_string_value(json_object_get(index, "program"));
	if (program == NULL || !qd_starts_with(program, "quad"))
		goto out;
	QD_TRY(st, qd_strmap_put(&o->names, name, 0));
	for (size_t i = 0; i < json_array_size(json_object_get(index, "files")); i++) {
		const char *file = json_string_value(json_object_get(json_array_get(json_object_get(index, "files"), i), "path"));
		if (file != NULL)
			QD_TRY(st, qd_strmap_put(&o->names, file, 0));
	}
out:
	json_decref(index);
	return st;
}

static enum qd_status check_file(void *context, const char *name, bool regular)
{
	const struct owned *o = context;

	if (regular && qd_strmap_get(&o->names, name) != QD_NONE)
		return QD_OK;
	return qd_fail(QD_EEXIST, "'%s' holds '%s', which this program did not write: it is not replaced, choose another name",
		o->folder, name);
}

enum qd_status qd_owned_check(const char *folder)
{
	struct owned o = { .folder = folder };
	enum qd_status st = QD_OK;

	for (size_t i = 0; i < QD_COUNT(indices); i++)
		QD_TRY(st, read_index(&o, indices[i]));
	st = qd_walk(folder, check_file, &o);
out:
	qd_strmap_release(&o.names);
	return st;
}

/* ---- the index ---- */

static enum qd_status list_file(void *context, const char *name, bool regular)
{
	json_t *file = json_pack("{s:s}", "path", name);

	(void)regular;
	return json_array_append_new(context, file) == 0 ? QD_OK : qd_fail(QD_ENOMEM, "out of memory");
}

enum qd_status qd_owned_write(const char *folder)
{
	char path[QD_PATH_BYTES];
	json_t *files = json_array(), *index = NULL;
	enum qd_status st;

	QD_TRY(st, qd_path_join(path, folder, "%s", indices[0]));
	if (qd_is_file(path))
		goto out;
	QD_TRY(st, qd_walk(folder, list_file, files));
	QD_TRY(st, qd_path_join(path, folder, "%s", own_index));
	index = json_pack("{s:s,s:O}", "program", "quad", "files", files);
	st = index != NULL ? qd_json_write(path, index, false) : qd_fail(QD_ENOMEM, "out of memory");
out:
	json_decref(index);
	json_decref(files);
	return st;
}
