/*
 * Whether an export's files are those that its manifest lists, and the two files of an adapter hold the same tensors: the one that
 * this program reads and the one that goes onto a device.
 */
#include "export/file/internal.h"

#include <stdlib.h>
#include <string.h>

/* What the manifest says of a file; NULL: nothing. */
static const char *listed_hash(const json_t *manifest, const char *name)
{
	const json_t *file;
	size_t i;

	json_array_foreach(json_object_get(manifest, "files"), i, file)
	{
		const char *path = json_string_value(json_object_get(file, "path"));

		if (path != NULL && strcmp(path, name) == 0)
			return json_string_value(json_object_get(file, "hash"));
	}
	return NULL;
}

static enum qd_status check_listed(const json_t *manifest, const char *folder, const char *name)
{
	const char *said = listed_hash(manifest, name);
	char path[QD_PATH_BYTES], hash[QD_HASH_TEXT];
	enum qd_status st;

	QD_TRY(st, qd_path_join(path, folder, "%s", name));
	if (said == NULL)
		return qd_fail(QD_EINPUT, "'%s' is not among the files that '%s/manifest.json' lists", path, folder);
	if (!qd_is_file(path))
		return qd_fail(QD_EINPUT, "'%s' is missing, '%s/manifest.json' lists it", path, folder);
	QD_TRY(st, qd_hash_file(path, hash));
	if (strcmp(hash, said) != 0)
		st = qd_fail(QD_EINPUT, "'%s' is not the file that was exported: its hash is %s, '%s/manifest.json' says %s", path,
			hash, folder, said);
out:
	return st;
}

/* ---- the two files of an adapter ---- */

static enum qd_status check_same(const struct qd_safetensors *a, const char *path, const struct qd_adapter_tensors *b)
{
	if (a->n != b->n)
		return qd_fail(QD_EINPUT, "'%s' holds %zu tensors, '%s' %zu", a->path, a->n, path, b->n);
	for (size_t i = 0; i < b->n; i++) {
		const struct qd_tensor *x = qd_safetensors_find(a, b->items[i].name), *y = &b->items[i];

		if (x == NULL || x->dtype != y->dtype || !qd_shape_equal(&x->shape, &y->shape) || x->bytes != y->bytes ||
			(x->bytes > 0 && memcmp(x->data, y->data, x->bytes) != 0))
			return qd_fail(QD_EINPUT, "'%s' and '%s' differ in tensor '%s'", a->path, path, y->name);
	}
	return QD_OK;
}

static enum qd_status check_pair(const char *folder, const char *name)
{
	char safetensors[QD_PATH_BYTES], ort[QD_PATH_BYTES];
	struct qd_safetensors file = { 0 };
	struct qd_mapping mapping = { 0 };
	struct qd_adapter_tensors tensors = { 0 };
	enum qd_status st;

	QD_TRY(st, qd_path_join(safetensors, folder, "adapters/%s.safetensors", name));
	QD_TRY(st, qd_path_join(ort, folder, "adapters/%s.onnx_adapter", name));
	QD_TRY(st, qd_safetensors_open(&file, safetensors));
	QD_TRY(st, qd_mapping_open(&mapping, ort));
	QD_TRY(st, qd_prefix(qd_onnx_adapter_parse(&tensors, mapping.data, mapping.size), "'%s'", ort));
	st = check_same(&file, ort, &tensors);
out:
	qd_adapter_tensors_release(&tensors);
	qd_mapping_release(&mapping);
	qd_safetensors_release(&file);
	return st;
}

/* ---- what is asked ---- */

static enum qd_status read_manifest(const char *folder, json_t **manifest)
{
	char path[QD_PATH_BYTES];
	enum qd_status st = qd_path_join(path, folder, "manifest.json");

	return st == QD_OK ? qd_json_read(path, manifest) : st;
}

enum qd_status qd_export_check_file(const char *folder, const char *name)
{
	json_t *manifest = NULL;
	enum qd_status st;

	QD_TRY(st, read_manifest(folder, &manifest));
	st = check_listed(manifest, folder, name);
out:
	json_decref(manifest);
	return st;
}

enum qd_status qd_export_check_adapter(const char *folder, const char *name)
{
	static const char *const suffixes[] = { ".safetensors", ".onnx_adapter" };
	char file[QD_PATH_BYTES];
	json_t *manifest = NULL;
	enum qd_status st;

	QD_TRY(st, read_manifest(folder, &manifest));
	for (size_t i = 0; i < QD_COUNT(suffixes); i++) {
		QD_TRY(st, qd_path_join(file, "adapters", "%s%s", name, suffixes[i]));
		QD_TRY(st, check_listed(manifest, folder, file));
	}
	st = check_pair(folder, name);
out:
	json_decref(manifest);
	return st;
}

/* Counts what is wrong, and keeps the message of the first. */
struct faults {
	size_t n;
	char *first;
};

static enum qd_status add_fault(struct faults *faults, enum qd_status st)
{
	if (st == QD_OK || st == QD_ENOMEM)
		return st;
	if (faults->n++ == 0 && (faults->first = strdup(qd_message())) == NULL)
		return qd_fail(QD_ENOMEM, "out of memory");
	return QD_OK;
}

enum qd_status qd_export_verify(const char *folder, size_t *n_files)
{
	const json_t *files, *item;
	json_t *manifest = NULL;
	struct faults faults = { 0 };
	const char *name;
	size_t i;
	enum qd_status st;

	QD_TRY(st, qd_output_update_settle(folder));
	QD_TRY(st, read_manifest(folder, &manifest));
	files = json_object_get(manifest, "files");
	*n_files = json_array_size(files);
	json_array_foreach(files, i, item)
	{
		name = json_string_value(json_object_get(item, "path"));
		qd_progress("checking", i, *n_files, name);
		QD_TRY(st, add_fault(&faults, check_listed(manifest, folder, name != NULL ? name : "")));
	}
	qd_progress("checking", *n_files, *n_files, NULL);
	json_array_foreach(json_object_get(manifest, "adapters"), i, item)
	{
		name = json_string_value(json_object_get(item, "name"));
		if (faults.n == 0 && name != NULL)
			QD_TRY(st, add_fault(&faults, check_pair(folder, name)));
	}
	if (faults.n > 1)
		st = qd_fail(QD_ECHECK, "%s; and %zu more", faults.first, faults.n - 1);
	else if (faults.n == 1)
		st = qd_fail(QD_ECHECK, "%s", faults.first);
out:
	free(faults.first);
	json_decref(manifest);
	return st;
}
