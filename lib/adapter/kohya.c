/*
 * kohya-ss and LyCORIS LoCon files:
 *
 *   key    := NAME "." ("lora_down.weight" | "lora_up.weight" | "lora_mid.weight" | "alpha")
 *   NAME   := prefix flat(module path)     flat: every "." becomes "_"
 *   prefix := "lora_unet_" | "lora_te_" | "lora_te1_" | "lora_te2_" | "lycoris_"
 *
 * flat() loses the dots ("to_out_0", "mid_block"), so names are looked up in a table of the model's own names, in diffusers'
 * spelling and in the original implementation's (SDXL). Scale: alpha / R with R the rows of lora_down; 1 without alpha and where
 * alpha is 0 (LyCORIS' reading; diffusers would switch the layer off). Every module has its own alpha.
 */
#include "lib/adapter/internal.h"
#include "lib/weights/weights.h"

#include <stdio.h>
#include <string.h>

static const char *const unet_prefixes[] = { "lora_unet_", "lycoris_" };
static const char *const text_prefixes[] = { "lora_te_", "lora_te1_", "lora_te2_", "lora_te3_", "lycoris_text_model_",
	"lycoris_encoder_layers_", "lycoris_text_projection" };

/* What follows one of the prefixes, or NULL. */
static const char *after(const char *key, const char *const *prefixes, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (qd_starts_with(key, prefixes[i]))
			return key + strlen(prefixes[i]);
	return NULL;
}

static bool kohya_detect(const struct qd_reading *r)
{
	const struct qd_safetensors *file = &r->file;

	for (size_t i = 0; i < file->n; i++)
		if (after(file->tensors[i].name, unet_prefixes, QD_COUNT(unet_prefixes)) != NULL ||
			after(file->tensors[i].name, text_prefixes, QD_COUNT(text_prefixes)) != NULL)
			return true;
	return false;
}

static enum qd_status put_flat(struct qd_strmap *table, const char *path, uint32_t module)
{
	char flat[QD_PATH_TEXT];
	size_t n = 0;

	for (; path[n] != '\0' && n + 1 < sizeof(flat); n++)
		flat[n] = path[n] == '.' ? '_' : path[n];
	flat[n] = '\0';
	return qd_strmap_put(table, flat, module);
}

/* flat(path) -> module, both spellings; diffusers' wins where they meet. */
static enum qd_status fill_table(struct qd_strmap *table, const struct qd_modules *modules)
{
	struct qd_ldm_layout layout;
	char ldm[QD_PATH_TEXT];
	enum qd_status st = QD_OK;

	qd_modules_ldm_layout(&layout, modules);
	for (size_t m = 0; m < modules->n; m++)
		if (qd_ldm_path(&layout, modules->items[m].path, ldm))
			QD_TRY(st, put_flat(table, ldm, (uint32_t)m));
	for (size_t m = 0; m < modules->n; m++)
		QD_TRY(st, put_flat(table, modules->items[m].path, (uint32_t)m));
out:
	return st;
}

static enum qd_status role_of(const char *key, const char *suffix, enum qd_lora_role *role)
{
	static const struct {
		const char *suffix;
		enum qd_lora_role role;
	} suffixes[] = { { ".lora_down.weight", QD_ROLE_DOWN }, { ".lora_up.weight", QD_ROLE_UP },
		{ ".lora_mid.weight", QD_ROLE_MID }, { ".alpha", QD_ROLE_ALPHA } };

	for (size_t i = 0; i < QD_COUNT(suffixes); i++)
		if (strcmp(suffix, suffixes[i].suffix) == 0) {
			*role = suffixes[i].role;
			return QD_OK;
		}
	return qd_fail(QD_EINPUT, "key '%s' ends in none of .lora_down.weight, .lora_up.weight, .lora_mid.weight, .alpha", key);
}

static enum qd_status collect_one(struct qd_reading *r, const struct qd_strmap *table, const struct qd_tensor *tensor)
{
	const char *key = tensor->name, *rest;
	size_t dot = strcspn(key, ".");
	char name[QD_PATH_TEXT];
	enum qd_lora_role role = QD_ROLE_ALPHA;
	enum qd_status st;

	if (qd_reading_skips(r, key))
		return QD_OK;
	QD_TRY(st, role_of(key, key + dot, &role));
	if (after(key, text_prefixes, QD_COUNT(text_prefixes)) != NULL) {
		r->adapter->text_tensors++;
		return QD_OK;
	}
	if (after(key, unet_prefixes, QD_COUNT(unet_prefixes)) == NULL)
		return qd_fail(QD_EINPUT, "key '%s' begins with none of lora_unet_, lora_te_, lora_te1_, lora_te2_, lycoris_", key);
	if (dot >= sizeof(name))
		return qd_fail(QD_EINPUT, "key of %zu bytes, at most %d are known", strlen(key), QD_PATH_TEXT);
	snprintf(name, sizeof(name), "%.*s", (int)dot, key);
	rest = after(name, unet_prefixes, QD_COUNT(unet_prefixes));
	st = qd_reading_put(r, name, qd_strmap_get(table, rest), role, tensor);
out:
	return st;
}

static enum qd_status kohya_collect(struct qd_reading *r)
{
	struct qd_strmap table = { 0 };
	enum qd_status st;

	QD_TRY(st, fill_table(&table, r->modules));
	for (size_t i = 0; i < r->file.n; i++)
		QD_TRY(st, collect_one(r, &table, &r->file.tensors[i]));
out:
	qd_strmap_release(&table);
	return st;
}

static enum qd_status kohya_scale(struct qd_reading *r)
{
	size_t zero = 0, none = 0;
	enum qd_status st = QD_OK;

	for (size_t i = 0; i < r->n; i++) {
		struct qd_piece *piece = &r->pieces[i];
		double alpha = 0;
		if (piece->tensor[QD_ROLE_ALPHA] == NULL) {
			none++;
			continue;
		}
		QD_TRY(st, qd_reading_scalar(piece->tensor[QD_ROLE_ALPHA], &alpha));
		if (alpha == 0)
			zero++;
		else
			piece->scale = alpha / (double)piece->tensor[QD_ROLE_DOWN]->shape.dim[0];
	}
	if (none > 0)
		QD_TRY(st, qd_adapter_note(r->adapter, "%zu layers have no alpha: their scale is 1", none));
	if (zero > 0)
		QD_TRY(st, qd_adapter_note(r->adapter, "%zu layers have alpha 0: their scale is 1, as LyCORIS reads it", zero));
out:
	return st;
}

const struct qd_dialect qd_dialect_kohya = { .told_by = "keys that begin with lora_unet_, lora_te or lycoris_",
	.detect = kohya_detect,
	.collect = kohya_collect,
	.scale = kohya_scale };
