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

/* What every "run" begins with. */
static const char run_begins[] = "calib ";

/* A record as record_path names it. */
static bool is_record(const char *name)
{
	static const char *const kinds[] = { "text-", "image-", "walk-" };
	size_t digits;

	for (size_t i = 0; i < QD_COUNT(kinds); i++)
		if (qd_starts_with(name, kinds[i])) {
			name += strlen(kinds[i]);
			digits = strspn(name, "0123456789");
			return digits >= 6 && strcmp(name + digits, ".safetensors") == 0;
		}
	return false;
}

/* Only what this file writes is removed. "run" goes last: while a record is there it says whose it is. */
void qd_prepare_store_remove(struct qd_prepare_store *store)
{
	char path[QD_PATH_BYTES];
	DIR *folder = opendir(store->folder);

	for (struct dirent *entry; folder != NULL && (entry = readdir(folder)) != NULL;)
		if (is_record(entry->d_name) && qd_path_join(path, store->folder, "%s", entry->d_name) == QD_OK)
			unlink(path);
	if (folder != NULL)
		closedir(folder);
	if (qd_path_join(path, store->folder, "run") == QD_OK)
		unlink(path);
	qd_leftovers_remove(store->folder);
	rmdir(store->folder);
}

void qd_prepare_store_release(struct qd_prepare_store *store)
{
	free(store->folder);
	*store = (struct qd_prepare_store){ 0 };
}

/* Whether the file says `run`, or begins so. */
static bool says(const char *path, const char *run, bool whole)
{
	struct qd_mapping mapping = { 0 };
	size_t n = strlen(run);
	bool mine = qd_is_file(path) && qd_mapping_open(&mapping, path) == QD_OK &&
		    (whole ? mapping.size == n : mapping.size >= n) && memcmp(mapping.data, run, n) == 0;

	qd_mapping_release(&mapping);
	return mine;
}

/* QD_EEXIST when the folder is there and holds records that may not be used: another run's, or none of ours at all. */
static enum qd_status look_at_folder(const struct qd_prepare_store *store, const char *path, const char *run, bool force)
{
	if (!qd_is_directory(store->folder) || says(path, run, true))
		return QD_OK;
	if (!says(path, run_begins, false))
		/* killed before it said whose it is, or somebody's */
		return rmdir(store->folder) == 0
			       ? QD_OK
			       : qd_fail(QD_EEXIST, "'%s' is in the way: it holds no parts of a run", store->folder);
	if (!force)
		return qd_fail(
			QD_EEXIST, "'%s' holds parts of a run with other data or options; --force drops them", store->folder);
	return QD_OK;
}

enum qd_status qd_prepare_store_open(struct qd_prepare_store *store, const char *output, const char *run, bool force)
{
	char path[QD_PATH_BYTES];
	enum qd_status st = QD_OK;

	*store = (struct qd_prepare_store){ 0 };
	if (asprintf(&store->folder, "%s.partial", output) < 0) {
		store->folder = NULL;
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory"));
	}
	QD_TRY(st, qd_path_join(path, store->folder, "run"));
	qd_leftovers_remove(store->folder);
	QD_TRY(st, look_at_folder(store, path, run, force));
	if (!says(path, run, true))
		qd_prepare_store_remove(store);
	if (mkdir(store->folder, 0777) != 0 && errno != EEXIST)
		QD_TRY(st, qd_fail(QD_EIO, "cannot make the folder '%s': %s", store->folder, strerror(errno)));
	if (!says(path, run, true))
		st = qd_write_file(path, run, strlen(run), true);
out:
	if (st != QD_OK)
		qd_prepare_store_release(store);
	return st;
}

static enum qd_status record_path(const struct qd_prepare_store *store, const char *kind, int64_t index, char *path)
{
	return qd_path_join(path, store->folder, "%s-%06lld.safetensors", kind, (long long)index);
}

bool qd_prepare_store_has(struct qd_prepare_store *store, const char *kind, int64_t index)
{
	char path[QD_PATH_BYTES];
	bool has = record_path(store, kind, index, path) == QD_OK && qd_is_file(path);

	store->kept += has;
	return has;
}

enum qd_status qd_prepare_store_put(
	const struct qd_prepare_store *store, const char *kind, int64_t index, const struct qd_tensor *tensors, size_t n)
{
	char path[QD_PATH_BYTES];
	enum qd_status st = record_path(store, kind, index, path);

	return st == QD_OK ? qd_safetensors_write(path, tensors, n, NULL, 0, true, NULL, NULL) : st;
}

enum qd_status qd_prepare_store_get(
	const struct qd_prepare_store *store, const char *kind, int64_t index, const char *name, size_t n, float *out)
{
	char path[QD_PATH_BYTES];
	struct qd_safetensors file = { 0 };
	const struct qd_tensor *tensor;
	enum qd_status st;

	QD_TRY(st, record_path(store, kind, index, path));
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
