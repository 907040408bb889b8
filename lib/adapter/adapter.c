/*
 * Adapters: which file and which dialect a path means, the life of an adapter, and building one in memory.
 *
 * A folder (or its unet/) with adapter_config.json, or its adapter_model.safetensors itself, is PEFT's; a folder with
 * pytorch_lora_weights.safetensors means that file. Then the first dialect that says yes has the file; but a key of an algorithm that
 * is not LoRA refuses it by name, and what no dialect knows is refused as what it looks like.
 */
#include "lib/adapter/internal.h"
#include "lib/weights/weights.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
	const char *name;
	const struct qd_dialect *dialect;
} formats[] = {
#define QD_DIALECT_ROW(NAME, name) [QD_ADAPTER_##NAME] = { #name, &qd_dialect_##name },
	QD_DIALECT_LIST(QD_DIALECT_ROW)
#undef QD_DIALECT_ROW
};

const char *qd_adapter_format_name(enum qd_adapter_format format)
{
	return formats[format].name;
}

/* ---- what the readers use ---- */

uint32_t qd_reading_module(const struct qd_reading *r, const char *path)
{
	return qd_strmap_get(&r->modules->by_path, path);
}

bool qd_reading_skips(struct qd_reading *r, const char *key)
{
	if (!qd_starts_with(key, "bundle_emb."))
		return false;
	r->adapter->embeddings++;
	return true;
}

static enum qd_status fill_ldm(struct qd_reading *r)
{
	struct qd_ldm_layout layout;
	char name[QD_PATH_TEXT];
	enum qd_status st = QD_OK;

	qd_modules_ldm_layout(&layout, r->modules);
	for (size_t m = 0; st == QD_OK && m < r->modules->n; m++)
		if (qd_ldm_path(&layout, r->modules->items[m].path, name))
			st = qd_strmap_put(&r->ldm, name, (uint32_t)m);
	return st;
}

enum qd_status qd_reading_any_module(struct qd_reading *r, const char *path, uint32_t *module)
{
	enum qd_status st = QD_OK;

	*module = qd_reading_module(r, path);
	if (*module != QD_NONE)
		return QD_OK;
	if (r->ldm.n == 0)
		QD_TRY(st, fill_ldm(r));
	*module = qd_strmap_get(&r->ldm, path);
out:
	return st;
}

static enum qd_status add_piece(struct qd_reading *r, const char *name, uint32_t module, uint32_t *at)
{
	struct qd_piece piece = { .name = qd_arena_strdup(&r->arena, name), .module = module, .scale = 1 };
	enum qd_status st;

	if (piece.name == NULL)
		return QD_ENOMEM;
	*at = (uint32_t)r->n;
	QD_TRY(st, qd_strmap_put(&r->by_name, name, *at));
	QD_PUSH(st, r->pieces, r->n, r->cap, piece);
out:
	return st;
}

enum qd_status qd_reading_put(
	struct qd_reading *r, const char *name, uint32_t module, enum qd_lora_role role, const struct qd_tensor *tensor)
{
	uint32_t at = qd_strmap_get(&r->by_name, name);
	enum qd_status st = QD_OK;

	if (at == QD_NONE)
		QD_TRY(st, add_piece(r, name, module, &at));
	if (r->pieces[at].tensor[role] != NULL)
		return qd_fail(QD_EINPUT, "tensors '%s' and '%s' are the same part of one layer", r->pieces[at].tensor[role]->name,
			tensor->name);
	r->pieces[at].tensor[role] = tensor;
out:
	return st;
}

enum qd_status qd_reading_scalar(const struct qd_tensor *tensor, double *out)
{
	char text[QD_SHAPE_TEXT];
	float value;
	enum qd_status st;

	if (qd_shape_elements(&tensor->shape) != 1)
		return qd_fail(QD_EINPUT, "tensor '%s' has shape %s, needs one element", tensor->name,
			qd_shape_text(&tensor->shape, text));
	QD_TRY(st, qd_tensor_to_f32(tensor, &value));
	if (!isfinite(value))
		return qd_fail(QD_EINPUT, "tensor '%s' is %g, needs a finite number", tensor->name, (double)value);
	*out = (double)value;
out:
	return st;
}

enum qd_status qd_adapter_note(struct qd_adapter *adapter, const char *fmt, ...)
{
	char text[512];
	va_list args;
	const char *kept;
	enum qd_status st;

	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	kept = qd_arena_strdup(&adapter->arena, text);
	if (kept == NULL)
		return QD_ENOMEM;
	QD_PUSH(st, adapter->notes, adapter->n_notes, adapter->cap_notes, kept);
out:
	return st;
}

/* ---- reading ---- */

/* What a file that no dialect knows is. */
static enum qd_status refuse_unknown(const struct qd_safetensors *file)
{
	char list[1024] = "";
	size_t at = 0;
	enum qd_status st;

	QD_TRY(st, qd_refuse_others(file));
	for (size_t i = 0; i < QD_COUNT(formats) && at < sizeof(list); i++)
		at += (size_t)snprintf(
			list + at, sizeof(list) - at, "%s%s (%s)", i > 0 ? ", " : "", formats[i].name, formats[i].dialect->told_by);
	st = qd_fail(QD_EINPUT, "not a LoRA file: key '%s' is of no known adapter format: %s", file->tensors[0].name, list);
out:
	return st;
}

static enum qd_status detect(const struct qd_reading *r, enum qd_adapter_format *format)
{
	enum qd_status st = QD_OK;
	size_t i = 0;

	while (i < QD_COUNT(formats) && !formats[i].dialect->detect(r))
		i++;
	if (i == QD_COUNT(formats) || !formats[i].dialect->any_keys)
		QD_TRY(st, qd_refuse_algorithms(&r->file));
	if (i == QD_COUNT(formats))
		return refuse_unknown(&r->file);
	*format = (enum qd_adapter_format)i;
out:
	return st;
}

bool qd_adapter_detect(const struct qd_safetensors *file)
{
	struct qd_reading r = { .file = *file };
	bool known = false;

	for (size_t i = 0; i < QD_COUNT(formats) && !known; i++)
		known = formats[i].dialect->detect(&r);
	return known || qd_refuse_algorithms(file) != QD_OK;
}

/* What a user loses by it is told at once: commands read adapters without printing their notes. */
static enum qd_status note_ignored(struct qd_adapter *adapter)
{
	enum qd_status st = QD_OK;

	if (adapter->text_tensors > 0) {
		QD_TRY(st, qd_adapter_note(adapter, "%zu tensors of text encoders are not used: only the UNet is adapted",
				   adapter->text_tensors));
		qd_log(QD_LOG_WARNING, "adapter '%s': %s", adapter->name, adapter->notes[adapter->n_notes - 1]);
	}
	if (adapter->embeddings > 0) {
		QD_TRY(st, qd_adapter_note(adapter, "%zu tensors of token embeddings (textual inversion) are not used",
				   adapter->embeddings));
		qd_log(QD_LOG_WARNING, "adapter '%s': %s", adapter->name, adapter->notes[adapter->n_notes - 1]);
	}
out:
	return st;
}

static enum qd_status keep_encodings_id(struct qd_reading *r)
{
	const char *id = qd_safetensors_metadata(&r->file, "quad.grid");

	if (id == NULL)
		return QD_OK;
	r->adapter->encodings_id = qd_arena_strdup(&r->adapter->arena, id);
	return r->adapter->encodings_id != NULL ? QD_OK : QD_ENOMEM;
}

/* The file's keys as pieces, by its dialect. */
static enum qd_status collect(struct qd_reading *r)
{
	enum qd_status st = detect(r, &r->adapter->format);

	return st == QD_OK ? formats[r->adapter->format].dialect->collect(r) : st;
}

enum qd_status qd_reading_run(struct qd_reading *r, double multiplier)
{
	enum qd_status st;

	if (!isfinite(multiplier))
		return qd_fail(QD_EINPUT, "strength %g, needs a finite number", multiplier);
	QD_TRY(st, collect(r));
	QD_TRY(st, qd_pieces_check(r));
	if (formats[r->adapter->format].dialect->scale != NULL)
		QD_TRY(st, formats[r->adapter->format].dialect->scale(r));
	QD_TRY(st, qd_pieces_describe(r, multiplier));
	QD_TRY(st, keep_encodings_id(r));
	st = note_ignored(r->adapter);
out:
	return st;
}

void qd_reading_release(struct qd_reading *r)
{
	free(r->pieces);
	qd_strmap_release(&r->by_name);
	qd_strmap_release(&r->ldm);
	json_decref(r->config_json);
	qd_safetensors_release(&r->file);
	qd_arena_release(&r->arena);
	*r = (struct qd_reading){ 0 };
}

/* ---- from a path to files ---- */

struct place {
	const char *weights, *config; /* config: NULL unless PEFT */
	const char *parent;           /* a folder that may hold text encoders' adapters beside unet/, or NULL */
};

/* `folder` as a PEFT folder; false when it is none. */
static bool peft_folder(struct qd_arena *arena, const char *folder, struct place *place)
{
	const char *config = qd_arena_strf(arena, "%s/adapter_config.json", folder);

	if (config == NULL || !qd_is_file(config))
		return false;
	place->config = config;
	place->weights = qd_arena_strf(arena, "%s/adapter_model.safetensors", folder);
	if (place->weights != NULL && !qd_is_file(place->weights)) {
		const char *pickle = qd_arena_strf(arena, "%s/adapter_model.bin", folder);
		if (pickle != NULL && qd_is_file(pickle))
			place->weights = pickle;
	}
	return true;
}

static enum qd_status locate_folder(struct qd_arena *arena, const char *path, struct place *place)
{
	const char *unet = qd_arena_strf(arena, "%s/unet", path),
		   *file = qd_arena_strf(arena, "%s/pytorch_lora_weights.safetensors", path);

	if (unet == NULL || file == NULL)
		return QD_ENOMEM;
	place->parent = path;
	if (peft_folder(arena, path, place) || peft_folder(arena, unet, place))
		return place->weights != NULL ? QD_OK : QD_ENOMEM;
	place->weights = file;
	if (!qd_is_file(file))
		return qd_fail(
			QD_EINPUT, "folder '%s' holds neither adapter_config.json nor pytorch_lora_weights.safetensors", path);
	return QD_OK;
}

static enum qd_status locate(struct qd_arena *arena, const char *path, struct place *place)
{
	const char *slash = strrchr(path, '/');
	char *folder;

	*place = (struct place){ .weights = path };
	if (qd_is_directory(path))
		return locate_folder(arena, path, place);
	if (strcmp(slash != NULL ? slash + 1 : path, "adapter_model.safetensors") != 0)
		return QD_OK;
	folder = qd_arena_strf(arena, "%.*s", slash != NULL ? (int)(slash - path) : 1, slash != NULL ? path : ".");
	if (folder == NULL)
		return QD_ENOMEM;
	peft_folder(arena, folder, place);
	place->weights = path;
	return QD_OK;
}

/* Counts what PEFT stores for text encoders in folders of their own. */
static enum qd_status count_text_folders(struct qd_reading *r, const struct place *place)
{
	static const char *const folders[] = { "text_encoder", "text_encoder_2" };
	enum qd_status st = QD_OK;

	for (size_t i = 0; place->parent != NULL && place->config != NULL && i < QD_COUNT(folders); i++) {
		struct qd_safetensors file = { 0 };
		const char *path = qd_arena_strf(&r->arena, "%s/%s/adapter_model.safetensors", place->parent, folders[i]);
		if (path == NULL || !qd_is_file(path))
			continue;
		QD_TRY(st, qd_safetensors_open(&file, path));
		r->adapter->text_tensors += file.n;
		qd_safetensors_release(&file);
	}
out:
	return st;
}

/* The file's hash; with a configuration or a strength, the hash of a text that states all of them. */
static enum qd_status hash_place(struct qd_adapter *adapter, const struct place *place, double multiplier)
{
	char config[QD_HASH_TEXT] = "", text[3 * QD_HASH_TEXT];
	enum qd_status st;

	QD_TRY(st, qd_hash_file(place->weights, adapter->hash));
	if (place->config == NULL && multiplier == 1)
		return QD_OK;
	if (place->config != NULL)
		QD_TRY(st, qd_hash_file(place->config, config));
	snprintf(text, sizeof(text), "%s %s @%.17g", adapter->hash, config, multiplier);
	qd_hash_bytes(text, strlen(text), adapter->hash);
out:
	return st;
}

static enum qd_status open_place(struct qd_reading *r, const struct place *place)
{
	enum qd_status st;

	QD_TRY(st, qd_refuse_pickle(place->weights));
	if (place->config != NULL) {
		QD_TRY(st, qd_json_read(place->config, &r->config_json));
		r->config = (struct qd_fields){ .what = "adapter_config.json", .json = r->config_json };
	}
	st = qd_safetensors_open(&r->file, place->weights);
out:
	return st;
}

static enum qd_status read_place(struct qd_reading *r, const struct place *place, double multiplier)
{
	enum qd_status st;

	QD_TRY(st, open_place(r, place));
	QD_TRY(st, count_text_folders(r, place));
	QD_TRY(st, hash_place(r->adapter, place, multiplier));
	st = qd_prefix(qd_reading_run(r, multiplier), "'%s'", place->weights);
out:
	return st;
}

enum qd_status qd_reading_open(struct qd_reading *r, const char *path)
{
	struct place place;
	enum qd_status st;

	QD_TRY(st, locate(&r->arena, path, &place));
	QD_TRY(st, open_place(r, &place));
	st = qd_prefix(collect(r), "'%s'", place.weights);
out:
	return st;
}

/* An adapter without layers. */
static enum qd_status init(struct qd_adapter *adapter, const char *name, const char *path)
{
	*adapter = (struct qd_adapter){ .format = QD_ADAPTER_DIFFUSERS };
	adapter->name = qd_arena_strdup(&adapter->arena, name);
	adapter->path = qd_arena_strdup(&adapter->arena, path);
	return adapter->name != NULL && adapter->path != NULL ? QD_OK : QD_ENOMEM;
}

/* Hands the file and its pieces over to the adapter; of what was read for checking, nothing stays in memory. */
static enum qd_status keep_source(struct qd_reading *r)
{
	struct qd_adapter_source *source = malloc(sizeof(*source));

	if (source == NULL)
		return qd_fail(QD_ENOMEM, "out of memory");
	*source = (struct qd_adapter_source){ r->file, r->pieces, r->arena };
	r->file = (struct qd_safetensors){ 0 };
	r->pieces = NULL;
	r->arena = (struct qd_arena){ 0 };
	r->adapter->source = source;
	qd_mapping_forget(source->file.mapping.data, source->file.mapping.size);
	return QD_OK;
}

static void release_source(struct qd_adapter *adapter)
{
	struct qd_adapter_source *source = adapter->source;

	if (source == NULL)
		return;
	qd_safetensors_release(&source->file);
	free(source->pieces);
	qd_arena_release(&source->arena);
	free(source);
	adapter->source = NULL;
}

enum qd_status qd_adapter_load(struct qd_adapter *adapter)
{
	enum qd_status st;

	if (adapter->source == NULL)
		return QD_OK;
	st = qd_prefix(qd_pieces_load(adapter, adapter->source->pieces), "'%s'", adapter->source->file.path);
	release_source(adapter);
	return st;
}

enum qd_status qd_adapter_open(
	struct qd_adapter *adapter, const char *name, const char *path, double multiplier, const struct qd_modules *modules)
{
	enum qd_status st;

	QD_TRY(st, qd_adapter_map(adapter, name, path, multiplier, modules));
	st = qd_adapter_load(adapter);
out:
	if (st != QD_OK)
		qd_adapter_release(adapter);
	return st;
}

enum qd_status qd_adapter_map(
	struct qd_adapter *adapter, const char *name, const char *path, double multiplier, const struct qd_modules *modules)
{
	struct qd_reading r = { .adapter = adapter, .modules = modules };
	struct place place;
	enum qd_status st;

	QD_TRY(st, init(adapter, name, path));
	QD_TRY(st, locate(&r.arena, path, &place));
	QD_TRY(st, read_place(&r, &place, multiplier));
	st = keep_source(&r);
out:
	qd_reading_release(&r);
	if (st != QD_OK)
		qd_adapter_release(adapter);
	return st;
}

/* ---- life ---- */

enum qd_status qd_adapter_index(struct qd_adapter *adapter)
{
	enum qd_status st = QD_OK;
	for (size_t i = 0; i < adapter->n; i++)
		QD_TRY(st, qd_strmap_put(&adapter->by_path, adapter->loras[i].path, (uint32_t)i));
out:
	return st;
}

const struct qd_lora *qd_adapter_find(const struct qd_adapter *adapter, const char *path)
{
	uint32_t at = qd_strmap_get(&adapter->by_path, path);
	return at != QD_NONE ? &adapter->loras[at] : NULL;
}

void qd_adapter_release(struct qd_adapter *adapter)
{
	release_source(adapter);
	free(adapter->notes);
	qd_strmap_release(&adapter->by_path);
	qd_arena_release(&adapter->arena);
	*adapter = (struct qd_adapter){ 0 };
}

static enum qd_status new_lora(
	struct qd_adapter *adapter, const struct qd_module *module, int64_t rank, float gain, struct qd_lora *lora)
{
	size_t columns = (size_t)(module->in * module->kh * module->kw), ranks = (size_t)rank, elements;

	*lora = (struct qd_lora){ .path = qd_arena_strdup(&adapter->arena, module->path),
		.rank = rank,
		.out = module->out,
		.in = module->in,
		.kh = module->kh,
		.kw = module->kw,
		.conv = module->conv };
	if (qd_mul_overflow(columns, ranks, &elements))
		return qd_fail(QD_EINPUT, "layer '%s': rank %lld is too large", module->path, (long long)rank);
	lora->down = qd_arena_array(&adapter->arena, elements, sizeof(float));
	lora->up = qd_arena_array(&adapter->arena, (size_t)module->out * ranks, sizeof(float));
	lora->gain = qd_arena_array(&adapter->arena, ranks, sizeof(float));
	if (lora->path == NULL || lora->down == NULL || lora->up == NULL || lora->gain == NULL)
		return QD_ENOMEM;
	for (size_t k = 0; k < ranks; k++)
		lora->gain[k] = gain;
	return QD_OK;
}

enum qd_status qd_adapter_new(
	struct qd_adapter *adapter, const char *name, const struct qd_module *const *modules, size_t n, int64_t rank, float gain)
{
	enum qd_status st;

	QD_TRY(st, init(adapter, name, ""));
	if (rank < 1) {
		st = qd_fail(QD_EINPUT, "adapter '%s': rank %lld, needs at least 1", name, (long long)rank);
		goto out;
	}
	adapter->loras = qd_arena_array(&adapter->arena, n, sizeof(*adapter->loras));
	if (adapter->loras == NULL) {
		st = QD_ENOMEM;
		goto out;
	}
	for (size_t i = 0; i < n; i++, adapter->n++)
		QD_TRY(st, new_lora(adapter, modules[i], rank, gain, &adapter->loras[i]));
	st = qd_adapter_index(adapter);
out:
	if (st != QD_OK)
		qd_adapter_release(adapter);
	return st;
}
