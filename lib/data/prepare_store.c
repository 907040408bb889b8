/*
 * Finished records of a run: a folder of small safetensors files, each complete when it is there, and the file "run" that says
 * whose they are. A killed run finds them again; floats are kept as they are, so that going on gives the same bytes.
 */
#include "lib/data/internal.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PATH_TEXT = 4096 };

/* Parts, the file "run", and what a run that was killed while it wrote one of them left: ".NAME.XXXXXX". */
static bool is_ours(const char *name)
{
	return qd_ends_with(name, ".safetensors") || strcmp(name, "run") == 0 || qd_starts_with(name, ".run.") ||
	       (name[0] == '.' && strstr(name, ".safetensors.") != NULL);
}

/* Only what this file writes is removed. */
void qd_prepare_store_remove(struct qd_prepare_store *store)
{
	char path[PATH_TEXT];
	DIR *folder = opendir(store->folder);

	for (struct dirent *entry; folder != NULL && (entry = readdir(folder)) != NULL;)
		if (is_ours(entry->d_name)) {
			snprintf(path, sizeof(path), "%s/%s", store->folder, entry->d_name);
			unlink(path);
		}
	if (folder != NULL)
		closedir(folder);
	rmdir(store->folder);
}

void qd_prepare_store_release(struct qd_prepare_store *store)
{
	free(store->folder);
	*store = (struct qd_prepare_store){ 0 };
}

/* Whether the folder's records are of this run. */
static bool is_mine(const char *path, const char *run)
{
	struct qd_mapping mapping = { 0 };
	bool mine = qd_is_file(path) && qd_mapping_open(&mapping, path) == QD_OK && mapping.size == strlen(run) &&
		    memcmp(mapping.data, run, mapping.size) == 0;

	qd_mapping_release(&mapping);
	return mine;
}

enum qd_status qd_prepare_store_open(struct qd_prepare_store *store, const char *output, const char *run, bool force)
{
	char path[PATH_TEXT];
	enum qd_status st = QD_OK;

	*store = (struct qd_prepare_store){ 0 };
	if (asprintf(&store->folder, "%s.partial", output) < 0) {
		store->folder = NULL;
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory"));
	}
	snprintf(path, sizeof(path), "%s/run", store->folder);
	if (qd_is_directory(store->folder) && !is_mine(path, run)) {
		if (!force)
			QD_TRY(st, qd_fail(QD_EEXIST, "'%s' holds parts of a run with other data or options; --force drops them",
					   store->folder));
		qd_prepare_store_remove(store);
	}
	if (mkdir(store->folder, 0777) != 0 && errno != EEXIST)
		QD_TRY(st, qd_fail(QD_EIO, "cannot make the folder '%s': %s", store->folder, strerror(errno)));
	if (!is_mine(path, run))
		st = qd_write_file(path, run, strlen(run), true);
out:
	if (st != QD_OK)
		qd_prepare_store_release(store);
	return st;
}

static void record_path(const struct qd_prepare_store *store, const char *kind, int64_t index, char *path)
{
	snprintf(path, PATH_TEXT, "%s/%s-%06lld.safetensors", store->folder, kind, (long long)index);
}

bool qd_prepare_store_has(struct qd_prepare_store *store, const char *kind, int64_t index)
{
	char path[PATH_TEXT];
	bool has;

	record_path(store, kind, index, path);
	has = qd_is_file(path);
	store->kept += has;
	return has;
}

enum qd_status qd_prepare_store_put(
	const struct qd_prepare_store *store, const char *kind, int64_t index, const struct qd_tensor *tensors, size_t n)
{
	char path[PATH_TEXT];

	record_path(store, kind, index, path);
	return qd_safetensors_write(path, tensors, n, NULL, 0, true, NULL, NULL);
}

enum qd_status qd_prepare_store_get(
	const struct qd_prepare_store *store, const char *kind, int64_t index, const char *name, size_t n, float *out)
{
	char path[PATH_TEXT];
	struct qd_safetensors file = { 0 };
	const struct qd_tensor *tensor;
	enum qd_status st;

	record_path(store, kind, index, path);
	QD_TRY(st, qd_safetensors_open(&file, path));
	QD_TRY(st, qd_safetensors_get(&file, name, &tensor));
	if ((size_t)qd_shape_elements(&tensor->shape) != n)
		QD_TRY(st, qd_fail(QD_EINPUT, "'%s': tensor '%s' has %lld values, needs %zu", path, name,
				   (long long)qd_shape_elements(&tensor->shape), n));
	st = qd_tensor_to_f32(tensor, out);
out:
	qd_safetensors_release(&file);
	return st;
}
