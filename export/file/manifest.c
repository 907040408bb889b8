/*
 * manifest.json: what an export holds.
 *
 *   schema 1, program (as of every index of files, lib/base/owned.c), provenance (lib/base/provenance.c), base (hash of the model)
 *   profile    { hash, and what of it is marked QD_IN_MANIFEST: method, anchor, align }
 *   graph      { inputs, outputs: [{ name, dtype, shape }] }, without the LoRA inputs
 *   slots      [{ path, rank, inputs: [{ name, dtype, shape } x 3: down, up, gain; x 4 with a bias] }]
 *   adapters   [{ name, source (hash), slots (filled), update_sqnr_db, files }]
 *   files      [{ path, bytes, hash }] of everything in the folder but the manifest
 */
#include "export/file/internal.h"

#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

bool qd_is_export(const char *path)
{
	char *file = NULL;
	if (asprintf(&file, "%s/manifest.json", path) < 0)
		return false;
	bool is = qd_is_file(file);
	free(file);
	return is;
}

/* ---- files ---- */

static enum qd_status add_file(json_t **files, const char *folder, const char *name)
{
	enum qd_status st;
	struct stat info;
	char hash[QD_HASH_TEXT];
	char *path = NULL;
	if (asprintf(&path, "%s/%s", folder, name) < 0)
		return qd_fail(QD_ENOMEM, "out of memory");
	if (stat(path, &info) != 0) {
		st = qd_fail(QD_EIO, "cannot read '%s'", path);
		goto out;
	}
	QD_TRY(st, qd_hash_file(path, hash));
	qd_json_append(files, json_pack("{s:s,s:I,s:s}", "path", name, "bytes", (json_int_t)info.st_size, "hash", hash));
out:
	free(path);
	return st;
}

static int visible(const struct dirent *entry)
{
	return entry->d_name[0] != '.' && strcmp(entry->d_name, "manifest.json") != 0;
}

/* Everything below `folder`/`below`, in the order of names. Exports are two levels deep. */
static enum qd_status list_files(json_t **files, const char *folder, const char *below, int depth)
{
	enum qd_status st = QD_OK;
	struct dirent **entries = NULL;
	char *path = NULL, *name = NULL;
	int n = asprintf(&path, "%s/%s", folder, below) < 0 ? -1 : scandir(path, &entries, visible, alphasort);
	if (n < 0)
		st = qd_fail(QD_EIO, "cannot list '%s': %s", folder, strerror(errno));
	for (int i = 0; i < n; i++) {
		free(name);
		name = NULL;
		free(path);
		path = NULL;
		if (st == QD_OK &&
			(asprintf(&name, "%s%s", below, entries[i]->d_name) < 0 || asprintf(&path, "%s/%s/", folder, name) < 0))
			st = qd_fail(QD_ENOMEM, "out of memory");
		if (st == QD_OK && qd_is_directory(path) && depth > 0) {
			free(path);
			path = NULL;
			st = asprintf(&path, "%s/", name) < 0 ? qd_fail(QD_ENOMEM, "out of memory")
							      : list_files(files, folder, path, depth - 1);
		} else if (st == QD_OK) {
			st = add_file(files, folder, name);
		}
		free(entries[i]);
	}
	free(entries);
	free(path);
	free(name);
	return st;
}

static const char *path_of(const json_t *file)
{
	const char *path = json_string_value(json_object_get(file, "path"));
	return path != NULL ? path : "";
}

static int by_path(const void *a, const void *b)
{
	return strcmp(path_of(*(json_t *const *)a), path_of(*(json_t *const *)b));
}

/* The files that are listed, with those in `folder` added or in the place of the old ones, in the order of paths. */
static enum qd_status refresh_files(json_t *manifest, const char *folder)
{
	json_t *fresh = json_array(), *files = json_array(), *file;
	const json_t *old = json_object_get(manifest, "files");
	size_t i, n = 0;
	json_t **sorted = NULL;
	enum qd_status st;

	QD_TRY(st, list_files(&fresh, folder, "", 2));
	sorted = malloc((json_array_size(old) + json_array_size(fresh) + 1) * sizeof(json_t *));
	if (sorted == NULL || files == NULL)
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory"));
	json_array_foreach(fresh, i, file) sorted[n++] = file;
	qsort(sorted, n, sizeof(json_t *), by_path);
	for (size_t k = 0, known = n; k < json_array_size(old); k++) {
		file = json_array_get(old, k);
		if (bsearch(&file, sorted, known, sizeof(json_t *), by_path) == NULL)
			sorted[n++] = file;
	}
	qsort(sorted, n, sizeof(json_t *), by_path);
	for (i = 0; i < n && st == QD_OK; i++)
		st = json_array_append(files, sorted[i]) == 0 ? QD_OK : qd_fail(QD_ENOMEM, "out of memory");
	if (st == QD_OK && json_object_set(manifest, "files", files) != 0)
		st = qd_fail(QD_ENOMEM, "out of memory");
out:
	free(sorted);
	json_decref(fresh);
	json_decref(files);
	return st;
}

/* ---- the graph ---- */

static json_t *value_json(const struct qd_value *v)
{
	json_t *shape = json_array();

	for (int d = 0; d < v->shape.rank; d++)
		qd_json_append(&shape, json_integer(v->shape.dim[d]));
	return json_pack("{s:s,s:s,s:o}", "name", v->name, "dtype", qd_dtype_name(v->dtype), "shape", shape);
}

static json_t *graph_json(const struct qd_graph *g)
{
	json_t *inputs = json_array(), *outputs = json_array();

	for (size_t i = 0; i < g->n_inputs; i++)
		if (qd_lora_tensor_of(g->values[g->inputs[i]].name) == QD_LORA_NONE)
			qd_json_append(&inputs, value_json(&g->values[g->inputs[i]]));
	for (size_t i = 0; i < g->n_outputs; i++)
		qd_json_append(&outputs, value_json(&g->values[g->outputs[i]]));
	return json_pack("{s:o,s:o}", "inputs", inputs, "outputs", outputs);
}

static enum qd_status add_slot(const struct qd_graph *g, const struct qd_slot *slot, json_t **slots)
{
	json_t *inputs = json_array();
	struct qd_arena names = { 0 };
	enum qd_status st = QD_OK;

	for (int t = 0; t < QD_LORA_NONE; t++) {
		const char *name = qd_arena_strf(&names, "%s%s", slot->path, qd_lora_suffix((enum qd_lora_tensor)t));
		qd_id value;

		if (t == QD_LORA_BIAS && !slot->biased)
			continue;
		if (name == NULL)
			QD_TRY(st, QD_ENOMEM);
		value = qd_graph_find(g, name);
		if (value == QD_NONE)
			QD_TRY(st, qd_fail(QD_EINPUT, "the graph has no input '%s'", name));
		qd_json_append(&inputs, value_json(&g->values[value]));
	}
	qd_json_append(slots, json_pack("{s:s,s:I,s:O}", "path", slot->path, "rank", (json_int_t)slot->rank, "inputs", inputs));
out:
	json_decref(inputs);
	qd_arena_release(&names);
	return st;
}

enum qd_status qd_manifest_make(const char *folder, const struct qd_graph *codes, const struct qd_profile *profile,
	const struct qd_export_options *options, json_t **out)
{
	enum qd_status st;
	char hash[QD_HASH_TEXT];
	json_t *slots = json_array(), *described = NULL, *manifest = NULL;

	*out = NULL;
	QD_TRY(st, qd_hash_file(options->profile_path, hash));
	described = json_pack("{s:s}", "hash", hash);
	QD_TRY(st, qd_profile_describe(profile, described));
	for (size_t i = 0; i < profile->slots.n; i++)
		QD_TRY(st, add_slot(codes, &profile->slots.items[i], &slots));
	manifest = json_pack("{s:i,s:s,s:o,s:s,s:O,s:o,s:O,s:[]}", "schema", 1, "program", options->provenance->program,
		"provenance", qd_provenance_json(options->provenance), "base", profile->base_hash, "profile", described, "graph",
		graph_json(codes), "slots", slots, "adapters");
	if (manifest == NULL) {
		st = qd_fail(QD_ENOMEM, "cannot write the manifest");
		goto out;
	}
	if (folder != NULL)
		QD_TRY(st, refresh_files(manifest, folder));
	*out = json_incref(manifest);
out:
	json_decref(slots);
	json_decref(described);
	json_decref(manifest);
	return st;
}

/* ---- adapters ---- */

static json_t *adapter_json(const struct qd_exported_adapter *a)
{
	json_t *sqnr = isfinite(a->sqnr_db) ? json_real(a->sqnr_db) : json_null();

	return json_pack("{s:s,s:s,s:I,s:o,s:[s++,s++]}", "name", a->name, "source", a->hash, "slots", (json_int_t)a->slots,
		"update_sqnr_db", sqnr, "files", "adapters/", a->name, ".safetensors", "adapters/", a->name, ".onnx_adapter");
}

enum qd_status qd_manifest_add_adapters(json_t *manifest, const char *folder, const struct qd_exported_adapter *adapters, size_t n)
{
	json_t *list = json_object_get(manifest, "adapters");
	if (!json_is_array(list))
		return qd_fail(QD_EINPUT, "the manifest has no list 'adapters'");
	for (size_t i = 0; i < n; i++) {
		for (size_t k = json_array_size(list); k-- > 0;) {
			const char *name = json_string_value(json_object_get(json_array_get(list, k), "name"));
			if (name != NULL && !strcmp(name, adapters[i].name))
				json_array_remove(list, k);
		}
		if (json_array_append_new(list, adapter_json(&adapters[i])) != 0)
			return qd_fail(QD_ENOMEM, "cannot add adapter '%s' to the manifest", adapters[i].name);
	}
	return folder != NULL ? refresh_files(manifest, folder) : QD_OK;
}

/* ---- checking ---- */

static enum qd_status check_slot(const json_t *stored, const char *path, size_t i, const struct qd_slot *slot)
{
	const char *name = json_string_value(json_object_get(stored, "path"));
	json_int_t rank = json_integer_value(json_object_get(stored, "rank"));
	if (name == NULL || strcmp(name, slot->path) != 0)
		return qd_fail(
			QD_EINPUT, "'%s': slot %zu is '%s', the profile has '%s'", path, i, name != NULL ? name : "", slot->path);
	if (rank != slot->rank)
		return qd_fail(QD_EINPUT, "'%s': slot '%s' has rank %lld, the profile has %lld", path, name, (long long)rank,
			(long long)slot->rank);
	return QD_OK;
}

enum qd_status qd_manifest_check(
	const json_t *manifest, const char *path, const struct qd_profile *profile, const char *profile_path)
{
	enum qd_status st;
	char hash[QD_HASH_TEXT];
	const json_t *slots = json_object_get(manifest, "slots");
	const char *base = json_string_value(json_object_get(manifest, "base"));
	const char *stored = json_string_value(json_object_get(json_object_get(manifest, "profile"), "hash"));
	if (json_integer_value(json_object_get(manifest, "schema")) != 1 || base == NULL || stored == NULL || !json_is_array(slots))
		return qd_fail(QD_EINPUT, "'%s' is not the manifest of an export with schema 1", path);
	if (strcmp(base, profile->base_hash) != 0)
		return qd_fail(QD_EINPUT, "'%s' was made from base %s, the profile from %s", path, base, profile->base_hash);
	QD_TRY(st, qd_hash_file(profile_path, hash));
	if (strcmp(hash, stored) != 0)
		return qd_fail(QD_EINPUT, "'%s' was made under profile %s, '%s' is %s: give that one, or export anew", path, stored,
			profile_path, hash);
	if (json_array_size(slots) != profile->slots.n)
		return qd_fail(QD_EINPUT, "'%s' has %zu slots, the profile %zu", path, json_array_size(slots), profile->slots.n);
	for (size_t i = 0; i < profile->slots.n; i++)
		QD_TRY(st, check_slot(json_array_get(slots, i), path, i, &profile->slots.items[i]));
out:
	return st;
}
