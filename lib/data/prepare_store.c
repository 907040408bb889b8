/*
 * Finished records of a run: a folder of small safetensors files, each complete when it is there, and the file "run" that says whose
 * they are. A killed run finds them again; floats are kept as they are, so that going on gives the same bytes. Metadata of a record:
 * "quad.of", what it was made from, and "quad.hash", over that and its tensors.
 */
#include "lib/data/internal.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { KEY_TEXT = 40 };

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

/* Whether the file says `run`, or begins so. If not, `key` [KEY_TEXT], unless NULL, is the first word of the line of `run` that
 * differs. */
static bool says(const char *path, const char *run, bool whole, char *key)
{
	struct qd_mapping mapping = { 0 };
	size_t n = strlen(run), same = 0;
	bool mine;

	if (!qd_is_file(path) || qd_mapping_open(&mapping, path) != QD_OK)
		mapping = (struct qd_mapping){ 0 };
	while (same < n && same < mapping.size && mapping.data[same] == (unsigned char)run[same])
		same++;
	mine = same == n && (!whole || same == mapping.size);
	while (same > 0 && run[same - 1] != '\n')
		same--;
	if (key != NULL)
		snprintf(key, KEY_TEXT, "%.*s", (int)strcspn(run + same, " \n"), run + same);
	qd_mapping_release(&mapping);
	return mine;
}

bool qd_is_prepare_store(const char *folder)
{
	char path[QD_PATH_BYTES];

	return qd_path_join(path, folder, "run") == QD_OK && says(path, run_begins, false, NULL);
}

/* QD_EEXIST when the folder is there and holds records that may not be used: another run's, or none of ours at all. */
static enum qd_status look_at_folder(const struct qd_prepare_store *store, const char *path, const char *run, bool force)
{
	char key[KEY_TEXT];

	if (!qd_is_directory(store->folder) || says(path, run, true, key))
		return QD_OK;
	if (!qd_is_prepare_store(store->folder))
		/* killed before it said whose it is, or somebody's */
		return rmdir(store->folder) == 0
			       ? QD_OK
			       : qd_fail(QD_EEXIST, "'%s' is in the way: it holds no parts of a run", store->folder);
	if (!force)
		return qd_fail(QD_EEXIST,
			"'%s' holds parts of a run with other data or options ('%s' is another): repeat those, or give --force to "
			"drop them",
			store->folder, key);
	return QD_OK;
}

enum qd_status qd_prepare_store_open(struct qd_prepare_store *store, const char *output, const char *run, bool force)
{
	char path[QD_PATH_BYTES], key[KEY_TEXT];
	enum qd_status st = QD_OK;

	*store = (struct qd_prepare_store){ 0 };
	if (asprintf(&store->folder, "%s.partial", output) < 0) {
		store->folder = NULL;
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory"));
	}
	QD_TRY(st, qd_path_join(path, store->folder, "run"));
	qd_leftovers_remove(store->folder);
	QD_TRY(st, look_at_folder(store, path, run, force));
	if (!says(path, run, true, key))
		qd_prepare_store_remove(store);
	if (mkdir(store->folder, 0777) != 0 && errno != EEXIST)
		QD_TRY(st, qd_fail(QD_EIO, "cannot make the folder '%s': %s", store->folder, strerror(errno)));
	if (!says(path, run, true, key))
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

/* The tensor of the least name behind that of `after` (NULL: the first): a file has an order of its own. */
static const struct qd_tensor *next_by_name(const struct qd_tensor *tensors, size_t n, const struct qd_tensor *after)
{
	const struct qd_tensor *next = NULL;

	for (size_t i = 0; i < n; i++)
		if ((after == NULL || strcmp(tensors[i].name, after->name) > 0) &&
			(next == NULL || strcmp(tensors[i].name, next->name) < 0))
			next = &tensors[i];
	return next;
}

static enum qd_status hash_record(const char *of, const struct qd_tensor *tensors, size_t n, char *hash)
{
	struct qd_text text;
	enum qd_status st;

	QD_TRY(st, qd_text_open(&text));
	fprintf(text.stream, "%s\n", of);
	for (const struct qd_tensor *t = NULL; (t = next_by_name(tensors, n, t)) != NULL;)
		qd_tensor_print(t, text.stream);
	QD_TRY(st, qd_text_end(&text));
	qd_hash_bytes(text.bytes, text.n, hash);
out:
	qd_text_release(&text);
	return st;
}

static enum qd_status check_finite(const struct qd_tensor *tensors, size_t n)
{
	enum qd_status st = QD_OK;

	for (size_t i = 0; st == QD_OK && i < n; i++)
		st = qd_tensor_check_finite(&tensors[i], NULL);
	return st;
}

/* Opens a part whose bytes are those that were written. */
static enum qd_status open_record(struct qd_safetensors *file, const char *path, const char **of)
{
	const char *said;
	char hash[QD_HASH_TEXT];
	enum qd_status st;

	QD_TRY(st, qd_safetensors_open(file, path));
	*of = qd_safetensors_metadata(file, "quad.of");
	said = qd_safetensors_metadata(file, "quad.hash");
	if (*of == NULL || said == NULL)
		QD_TRY(st, qd_fail(QD_EINPUT, "'%s' has no hash", path));
	QD_TRY(st, hash_record(*of, file->tensors, file->n, hash));
	if (strcmp(hash, said) != 0)
		QD_TRY(st, qd_fail(QD_EINPUT, "'%s' is damaged: its hash is not that of its bytes", path));
	st = qd_prefix(check_finite(file->tensors, file->n), "'%s'", path);
out:
	return st;
}

bool qd_prepare_store_has(struct qd_prepare_store *store, const char *kind, int64_t index, const char *of)
{
	char path[QD_PATH_BYTES];
	struct qd_safetensors file = { 0 };
	const char *stored = NULL;
	bool has = false;

	if (record_path(store, kind, index, path) != QD_OK || !qd_is_file(path))
		return false;
	if (open_record(&file, path, &stored) != QD_OK)
		qd_log(QD_LOG_WARNING, "%s; it is made anew", qd_message());
	else if (strcmp(stored, of) != 0)
		qd_log(QD_LOG_WARNING, "'%s' was made from something else than what is there now; it is made anew", path);
	else
		has = true;
	qd_safetensors_release(&file);
	store->kept += has;
	return has;
}

enum qd_status qd_prepare_store_put(const struct qd_prepare_store *store, const char *kind, int64_t index, const char *of,
	const struct qd_tensor *tensors, size_t n)
{
	char path[QD_PATH_BYTES], hash[QD_HASH_TEXT];
	const char *const metadata[] = { "quad.hash", hash, "quad.of", of };
	enum qd_status st;

	QD_TRY(st, record_path(store, kind, index, path));
	QD_TRY(st, check_finite(tensors, n));
	QD_TRY(st, hash_record(of, tensors, n, hash));
	st = qd_safetensors_write(path, tensors, n, metadata, QD_COUNT(metadata) / 2, true, NULL, NULL);
out:
	return st;
}

enum qd_status qd_prepare_store_get(
	const struct qd_prepare_store *store, const char *kind, int64_t index, const char *name, size_t n, float *out)
{
	char path[QD_PATH_BYTES];
	struct qd_safetensors file = { 0 };
	const struct qd_tensor *tensor;
	const char *of;
	enum qd_status st;

	QD_TRY(st, record_path(store, kind, index, path));
	QD_TRY(st, open_record(&file, path, &of));
	QD_TRY(st, qd_safetensors_get(&file, name, &tensor));
	if ((size_t)qd_shape_elements(&tensor->shape) != n)
		QD_TRY(st, qd_fail(QD_EINPUT, "'%s': tensor '%s' has %lld values, needs %zu", path, name,
				   (long long)qd_shape_elements(&tensor->shape), n));
	st = qd_tensor_to_f32(tensor, out);
out:
	qd_safetensors_release(&file);
	return st;
}
