/*
 * The weights of one component folder, by name, whatever files they lie in:
 *
 *   STEM.safetensors.index.json                                    {"metadata": {...}, "weight_map": {tensor: shard}}, shards
 *                                                                  STEM-00001-of-0000K.safetensors and so on beside it
 *   STEM.safetensors                                               one file
 *   STEM.safetensors.index.V.json, STEM.safetensors.V.index.json   an index again, in another precision, V fp16 or bf16
 *   STEM.V.safetensors                                             one file in it
 *
 * tried in this order: an index wins over a single file, as in the library that writes them, and the plain files over variants.
 * Tensors may be of any float type, each of its own: F64 too, which is rounded to float32 like everything else.
 */
#include "lib/weights/weights.h"

#include <string.h>

static const char *const variants[] = { "fp16", "bf16" };

/* Adds every tensor of the last opened file; a name that is there already is an error. */
static enum qd_status add_tensors(struct qd_weights *weights, const struct qd_safetensors *file)
{
	for (size_t i = 0; i < file->n; i++) {
		const struct qd_tensor *tensor = &file->tensors[i];
		if (qd_strmap_get(&weights->by_name, tensor->name) != QD_NONE)
			return qd_fail(QD_EINPUT, "'%s': tensor '%s' is in another shard too", file->path, tensor->name);
		enum qd_status st = qd_strmap_put(&weights->by_name, tensor->name, (uint32_t)weights->n);
		if (st == QD_OK)
			st = qd_grow(&weights->tensors, &weights->cap, weights->n + 1, sizeof(*weights->tensors));
		if (st != QD_OK)
			return st;
		weights->tensors[weights->n++] = tensor;
	}
	return QD_OK;
}

static enum qd_status open_file(struct qd_weights *weights, const char *path)
{
	struct qd_safetensors *file = &weights->files[weights->n_files];
	enum qd_status st = qd_safetensors_open(file, path);
	if (st != QD_OK)
		return st;
	weights->n_files++;
	return add_tensors(weights, file);
}

static enum qd_status open_single(struct qd_weights *weights, const char *path)
{
	weights->files = qd_arena_array(&weights->arena, 1, sizeof(*weights->files));
	weights->path = path;
	if (weights->files == NULL)
		return QD_ENOMEM;
	return open_file(weights, path);
}

/* A shard is a file beside the index, never somewhere else. */
static enum qd_status check_shard_name(const char *index, const char *tensor, const json_t *shard)
{
	const char *name = json_string_value(shard);
	if (name == NULL)
		return qd_fail(QD_EINPUT, "'%s': the shard of '%s' is no string", index, tensor);
	if (strchr(name, '/') != NULL || strchr(name, '\\') != NULL || !qd_ends_with(name, ".safetensors"))
		return qd_fail(
			QD_EINPUT, "'%s': shard '%s' of '%s', needs the bare name of a .safetensors file", index, name, tensor);
	return QD_OK;
}

/* Opens each shard that `map` names, once. `opened` maps names of shards to indices of files. */
static enum qd_status open_shards(
	struct qd_weights *weights, const char *folder, const char *index, json_t *map, struct qd_strmap *opened)
{
	const char *tensor;
	json_t *shard;
	json_object_foreach(map, tensor, shard)
	{
		enum qd_status st = check_shard_name(index, tensor, shard);
		if (st != QD_OK)
			return st;
		const char *name = json_string_value(shard);
		if (qd_strmap_get(opened, name) != QD_NONE)
			continue;
		const char *path = qd_arena_strf(&weights->arena, "%s/%s", folder, name);
		st = path != NULL ? qd_strmap_put(opened, name, (uint32_t)weights->n_files) : QD_ENOMEM;
		if (st == QD_OK)
			st = qd_prefix(open_file(weights, path), "'%s'", index);
		if (st != QD_OK)
			return st;
	}
	return QD_OK;
}

/* Every tensor of the map must lie in the shard it names. */
static enum qd_status check_map(const struct qd_weights *weights, const char *index, json_t *map, const struct qd_strmap *opened)
{
	const char *tensor;
	json_t *shard;
	json_object_foreach(map, tensor, shard)
	{
		const char *name = json_string_value(shard);
		if (qd_safetensors_find(&weights->files[qd_strmap_get(opened, name)], tensor) == NULL)
			return qd_fail(QD_EINPUT, "'%s': shard '%s' has no tensor '%s'", index, name, tensor);
	}
	return QD_OK;
}

static enum qd_status open_index(struct qd_weights *weights, const char *folder, const char *index)
{
	struct qd_strmap opened = { 0 };
	json_t *root = NULL;
	enum qd_status st;
	QD_TRY(st, qd_json_read(index, &root));
	json_t *map = json_object_get(root, "weight_map");
	if (!json_is_object(map) || json_object_size(map) == 0)
		QD_TRY(st, qd_fail(QD_EINPUT, "'%s' has no 'weight_map', needs an object of tensor and shard names", index));
	/* No more shards than tensors. */
	weights->files = qd_arena_array(&weights->arena, json_object_size(map), sizeof(*weights->files));
	weights->path = index;
	if (weights->files == NULL)
		QD_TRY(st, QD_ENOMEM);
	QD_TRY(st, open_shards(weights, folder, index, map, &opened));
	QD_TRY(st, check_map(weights, index, map, &opened));
out:
	qd_strmap_release(&opened);
	json_decref(root);
	return st;
}

/* The first of the names that is a file below `folder`; `*out` is NULL when none is. */
static enum qd_status first_file(
	struct qd_weights *weights, const char *folder, size_t n, const char *const *names, const char **out)
{
	*out = NULL;
	for (size_t i = 0; i < n && *out == NULL; i++) {
		const char *path = qd_arena_strf(&weights->arena, "%s/%s", folder, names[i]);
		if (path == NULL)
			return QD_ENOMEM;
		*out = qd_is_file(path) ? path : NULL;
	}
	return QD_OK;
}

/* Index and single file of one precision; `*found` says whether either is there. */
static enum qd_status open_variant(
	struct qd_weights *weights, const char *folder, const char *stem, const char *variant, bool *found)
{
	struct qd_arena *arena = &weights->arena;
	const char *indices[] = {
		variant != NULL ? qd_arena_strf(arena, "%s.safetensors.index.%s.json", stem, variant)
				: qd_arena_strf(arena, "%s.safetensors.index.json", stem),
		variant != NULL ? qd_arena_strf(arena, "%s.safetensors.%s.index.json", stem, variant) : NULL,
	};
	const char *file = variant != NULL ? qd_arena_strf(arena, "%s.%s.safetensors", stem, variant)
					   : qd_arena_strf(arena, "%s.safetensors", stem);
	if (indices[0] == NULL || file == NULL || (variant != NULL && indices[1] == NULL))
		return QD_ENOMEM;
	const char *path;
	enum qd_status st;
	*found = true;
	QD_TRY(st, first_file(weights, folder, variant != NULL ? 2 : 1, indices, &path));
	if (path != NULL)
		return open_index(weights, folder, path);
	QD_TRY(st, first_file(weights, folder, 1, &file, &path));
	if (path != NULL)
		return open_single(weights, path);
	*found = false;
out:
	return st;
}

/* Nothing there that can be read: says what there is instead. */
static enum qd_status nothing_found(struct qd_weights *weights, const char *folder, const char *stem)
{
	static const char *const endings[] = { ".bin", ".bin.index.json", ".fp16.bin", ".bf16.bin" };
	const char *pickles[QD_COUNT(endings) + 1] = { [QD_COUNT(endings)] = "pytorch_model.bin" };
	for (size_t i = 0; i < QD_COUNT(endings); i++) {
		pickles[i] = qd_arena_strf(&weights->arena, "%s%s", stem, endings[i]);
		if (pickles[i] == NULL)
			return QD_ENOMEM;
	}
	const char *pickle;
	enum qd_status st = first_file(weights, folder, QD_COUNT(pickles), pickles, &pickle);
	if (st != QD_OK)
		return st;
	if (pickle != NULL)
		return qd_fail(QD_EUNSUPPORTED, "'%s' is a Python pickle, which runs code when it is read; needs '%s.safetensors'",
			pickle, stem);
	return qd_fail(
		QD_EINPUT, "'%s' has no weights, needs '%s.safetensors', its index or its fp16 or bf16 variant", folder, stem);
}

enum qd_status qd_weights_open(struct qd_weights *weights, const char *folder, const char *stem)
{
	*weights = (struct qd_weights){ 0 };
	bool found = false;
	enum qd_status st;
	QD_TRY(st, open_variant(weights, folder, stem, NULL, &found));
	for (size_t i = 0; i < QD_COUNT(variants) && !found; i++)
		QD_TRY(st, open_variant(weights, folder, stem, variants[i], &found));
	if (!found)
		QD_TRY(st, nothing_found(weights, folder, stem));
out:
	if (st != QD_OK)
		qd_weights_release(weights);
	return st;
}

const struct qd_tensor *qd_weights_find(const struct qd_weights *weights, const char *name)
{
	uint32_t i = qd_strmap_get(&weights->by_name, name);
	return i == QD_NONE ? NULL : weights->tensors[i];
}

size_t qd_weights_note_unused(const struct qd_weights *weights, const struct qd_graph *g)
{
	const char *first = NULL;
	size_t n = 0;
	for (size_t i = 0; i < weights->n; i++) {
		if (qd_graph_find(g, weights->tensors[i]->name) != QD_NONE)
			continue;
		if (n++ == 0)
			first = weights->tensors[i]->name;
	}
	if (n)
		qd_log(QD_LOG_WARNING, "'%s': %zu tensors are no part of the network and not used (first '%s')", weights->path, n,
			first);
	return n;
}

void qd_weights_release(struct qd_weights *weights)
{
	for (size_t i = 0; i < weights->n_files; i++)
		qd_safetensors_release(&weights->files[i]);
	free(weights->tensors);
	qd_strmap_release(&weights->by_name);
	qd_arena_release(&weights->arena);
	*weights = (struct qd_weights){ 0 };
}
