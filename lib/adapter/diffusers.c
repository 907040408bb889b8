/*
 * diffusers' pytorch_lora_weights.safetensors, and files of its suffixes with a checkpoint's own names, as ComfyUI and several
 * trainers write them. A key is [prefix] path suffix; prefix is "unet.", "diffusion_model.", "model.diffusion_model.",
 * "text_encoder.", "text_encoder_2." or absent (the UNet's); the path is diffusers' or the original implementation's. The suffix
 * may differ from key to key:
 *
 *   PATH.lora_A.weight, PATH.lora_B.weight, PATH.lora_B.bias     down, up, bias; an adapter's name may stand before the last word
 *   PATH.lora.down.weight, PATH.lora.up.weight
 *   PATH.lora_down.weight, PATH.lora_up.weight, PATH.lora_mid.weight
 *   ATTN[.processor].to_{q,k,v}_lora.{down,up}.weight            of ATTN.to_q, ...
 *   ATTN[.processor].to_out_lora.{down,up}.weight                of ATTN.to_out.0
 *   PATH.lora_linear_layer.{down,up}.weight
 *   PATH.alpha                                                   scale alpha / R
 *   PATH.lora_gain                                               [R]: a factor per rank component (written by this program)
 *   PATH.lora_grid_up                                            up without that factor, read instead of up, which has it
 *
 * Scale: by the PEFT configuration in the header's metadata "lora_adapter_metadata" (a flat JSON object, keys prefixed like the
 * tensors); else alpha / R; else 1.
 */
#include "lib/adapter/internal.h"
#include "lib/weights/weights.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* Newer libraries leave "text_model." away, and what follows begins with "encoder.", which no UNet has. */
static const char *const text_prefixes[] = { "text_encoder.", "text_encoder_2.", "text_encoder_3.", "text_encoders.", "text_model.",
	"encoder.", "text_projection.", "clip_l.", "clip_g.", "cond_stage_model.", "conditioner." };

static const char *const unet_prefixes[] = { "unet.", "diffusion_model.", "model.diffusion_model." };

static bool diffusers_detect(const struct qd_reading *r)
{
	const struct qd_safetensors *file = &r->file;
	static const char *const signs[] = { ".lora_A", ".lora_down.", ".lora_up.", ".lora.down.", "_lora.down.",
		".lora_linear_layer.", ".lora_B", ".lora.up.", "_lora.up." };
	for (size_t i = 0; i < file->n; i++)
		for (size_t s = 0; s < QD_COUNT(signs); s++)
			if (strstr(file->tensors[i].name, signs[s]) != NULL)
				return true;
	return false;
}

/* ".processor." says how a layer is run, not which it is. */
static void drop_processor(char *path)
{
	static const char word[] = ".processor.";
	char *at;
	while ((at = strstr(path, word)) != NULL)
		memmove(at, at + sizeof(word) - 2, strlen(at + sizeof(word) - 2) + 1);
}

/* Cuts `path` at the last `sign` if only "weight", or an adapter's name and "weight", follow; `bias` reports ".bias" instead. */
static bool cut_letter(char *path, const char *sign, bool *bias)
{
	char *at = strstr(path, sign), *rest, *dot;

	if (at == NULL)
		return false;
	rest = at + strlen(sign);
	dot = strchr(rest, '.');
	if (dot != NULL && strchr(dot + 1, '.') == NULL)
		rest = dot + 1;
	*bias = strcmp(rest, "bias") == 0;
	*at = '\0';
	return *bias || strcmp(rest, "weight") == 0;
}

static bool cut_suffix(char *path, const char *suffix, const char *instead)
{
	size_t n = strlen(path) - (qd_ends_with(path, suffix) ? strlen(suffix) : 0);
	if (path[n] == '\0')
		return false;
	/* `instead` is shorter than what it replaces */
	memcpy(path + n, instead, strlen(instead) + 1);
	return true;
}

enum qd_status qd_diffusers_key(const char *key, char *path, enum qd_lora_role *role)
{
	static const struct {
		const char *suffix, *instead;
		enum qd_lora_role role;
	} suffixes[] = {
		{ ".to_out_lora.down.weight", ".to_out.0", QD_ROLE_DOWN },
		{ ".to_out_lora.up.weight", ".to_out.0", QD_ROLE_UP },
		{ ".lora_linear_layer.down.weight", "", QD_ROLE_DOWN },
		{ ".lora_linear_layer.up.weight", "", QD_ROLE_UP },
		{ ".lora_down.weight", "", QD_ROLE_DOWN },
		{ ".lora_up.weight", "", QD_ROLE_UP },
		{ ".lora_mid.weight", "", QD_ROLE_MID },
		{ ".lora.down.weight", "", QD_ROLE_DOWN },
		{ ".lora.up.weight", "", QD_ROLE_UP },
		{ "_lora.down.weight", "", QD_ROLE_DOWN },
		{ "_lora.up.weight", "", QD_ROLE_UP },
		{ ".alpha", "", QD_ROLE_ALPHA },
		{ ".lora_gain", "", QD_ROLE_GAIN },
		{ ".lora_grid_up", "", QD_ROLE_PLAIN_UP },
	};
	bool bias = false;

	if (snprintf(path, QD_PATH_TEXT, "%s", key) >= QD_PATH_TEXT)
		return qd_fail(QD_EINPUT, "key of %zu bytes, at most %d are known", strlen(key), QD_PATH_TEXT - 1);
	drop_processor(path);
	for (size_t i = 0; i < QD_COUNT(suffixes); i++)
		if (cut_suffix(path, suffixes[i].suffix, suffixes[i].instead)) {
			*role = suffixes[i].role;
			return QD_OK;
		}
	*role = strstr(path, ".lora_A.") != NULL ? QD_ROLE_DOWN : QD_ROLE_UP;
	if (cut_letter(path, ".lora_A.", &bias) || cut_letter(path, ".lora_B.", &bias)) {
		if (bias && *role == QD_ROLE_DOWN)
			return qd_fail(QD_EUNSUPPORTED, "key '%s' is a bias before the gain, which no trainer has", key);
		*role = bias ? QD_ROLE_BIAS : *role;
		return QD_OK;
	}
	if (qd_ends_with(key, ".bias"))
		return qd_fail(QD_EUNSUPPORTED,
			"key '%s' is a trained bias of the model itself, only LoRA's own (lora_B.bias) are supported", key);
	return qd_fail(QD_EINPUT, "key '%s' ends in no known LoRA suffix such as .lora_A.weight", key);
}

bool qd_diffusers_is_text(const char *key)
{
	for (size_t i = 0; i < QD_COUNT(text_prefixes); i++)
		if (qd_starts_with(key, text_prefixes[i]))
			return true;
	return false;
}

/* The UNet's part of the metadata becomes r->config; a configuration of text encoders alone does not. */
static enum qd_status read_metadata(struct qd_reading *r)
{
	static const char *const prefixes[] = { "unet.", "" };
	const char *text = qd_safetensors_metadata(&r->file, "lora_adapter_metadata");
	enum qd_status st;

	if (text == NULL)
		return QD_OK;
	QD_TRY(st, qd_json_parse("lora_adapter_metadata", text, strlen(text), &r->config_json));
	for (size_t i = 0; i < QD_COUNT(prefixes); i++) {
		r->config = (struct qd_fields){ .what = "lora_adapter_metadata", .json = r->config_json, .prefix = prefixes[i] };
		if (qd_field(&r->config, "r") != NULL || qd_field(&r->config, "lora_alpha") != NULL)
			return qd_peft_config_check(r);
	}
	r->config = (struct qd_fields){ 0 };
out:
	return st;
}

static enum qd_status diffusers_collect(struct qd_reading *r)
{
	enum qd_status st;

	QD_TRY(st, read_metadata(r));
	for (size_t i = 0; i < r->file.n; i++) {
		const struct qd_tensor *tensor = &r->file.tensors[i];
		char buffer[QD_PATH_TEXT];
		const char *path = buffer;
		enum qd_lora_role role;
		uint32_t module;
		if (qd_reading_skips(r, tensor->name))
			continue;
		if (qd_starts_with(tensor->name, "base_model.model.")) {
			st = qd_fail(QD_EINPUT, "key '%s' is PEFT's, whose scale is in adapter_config.json: no such file beside it",
				tensor->name);
			goto out;
		}
		QD_TRY(st, qd_diffusers_key(tensor->name, buffer, &role));
		if (qd_diffusers_is_text(path)) {
			r->adapter->text_tensors++;
			continue;
		}
		for (size_t p = 0; p < QD_COUNT(unet_prefixes); p++)
			if (qd_starts_with(buffer, unet_prefixes[p]))
				path = buffer + strlen(unet_prefixes[p]);
		QD_TRY(st, qd_reading_any_module(r, path, &module));
		QD_TRY(st, qd_reading_put(r, path, module, role, tensor));
	}
out:
	return st;
}

/* alpha / R where the file has an alpha; 1 where not. */
static enum qd_status stored_scale(const struct qd_piece *piece, bool *stored, double *scale)
{
	enum qd_status st = QD_OK;

	*stored = piece->tensor[QD_ROLE_ALPHA] != NULL;
	*scale = 1;
	if (!*stored)
		return QD_OK;
	QD_TRY(st, qd_reading_scalar(piece->tensor[QD_ROLE_ALPHA], scale));
	*scale /= (double)piece->tensor[QD_ROLE_DOWN]->shape.dim[0];
out:
	return st;
}

static enum qd_status diffusers_scale(struct qd_reading *r)
{
	enum qd_status st = QD_OK;

	for (size_t i = 0; i < r->n; i++) {
		struct qd_piece *piece = &r->pieces[i];
		bool stored;
		double scale;
		QD_TRY(st, stored_scale(piece, &stored, &piece->scale));
		if (r->config.json == NULL)
			continue;
		QD_TRY(st, qd_peft_config_scale(r, piece->name, piece->tensor[QD_ROLE_DOWN]->shape.dim[0], &scale));
		if (stored && fabs(scale - piece->scale) > 1e-6 * fabs(scale)) {
			st = qd_fail(QD_EINPUT, "'%s.alpha' gives scale %g, lora_adapter_metadata gives %g", piece->name,
				piece->scale, scale);
			goto out;
		}
		piece->scale = scale;
	}
out:
	return st;
}

const struct qd_dialect qd_dialect_diffusers = { .told_by = "keys with .lora_A., .lora_down., .lora.down. or _lora.down.",
	.detect = diffusers_detect,
	.collect = diffusers_collect,
	.scale = diffusers_scale };
