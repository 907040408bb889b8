/*
 * PEFT folders: adapter_config.json beside adapter_model.safetensors.
 *
 *   key    := ["base_model.model."] module-path "." ("lora_A" | "lora_B") ["." adapter name] ".weight"
 *   scale  := lora_alpha_m / r_m, with use_rslora lora_alpha_m / sqrt(r_m)
 *
 * lora_A is our down, lora_B our up. r_m is rank_pattern's value for the module or r, and must be the rank of its tensors;
 * lora_alpha_m likewise from alpha_pattern or lora_alpha. A pattern K, the first of the file that hits, is a regular expression
 * matched as
 * (.*\.)?(K)$: K is the path or what follows one of its dots, "." in K is any character, and a leading ^ asks for the whole path.
 *
 * The same fields, flattened into one JSON object, stand in the header of files that diffusers writes. Writers store every field
 * they know, so a field is refused for its value and not for being there.
 */
#include "lib/adapter/internal.h"
#include "lib/weights/weights.h"

#include <math.h>
#include <string.h>

/* ---- what a configuration may say ---- */

static bool says_something(const json_t *value)
{
	if (value == NULL || json_is_null(value) || json_is_false(value))
		return false;
	if (json_is_array(value))
		return json_array_size(value) > 0;
	return !json_is_object(value) || json_object_size(value) > 0;
}

/* Initializations that changed the base weights too, so that the file alone does not say what was trained. */
static void check_init(struct qd_fields *f)
{
	static const char *const beginnings[] = { "pissa", "corda" }, *const words[] = { "olora", "loftq", "lora_ga" };
	const json_t *value = qd_field(f, "init_lora_weights");
	bool changes = false;

	for (size_t i = 0; json_is_string(value) && i < QD_COUNT(beginnings); i++)
		changes |= qd_starts_with(json_string_value(value), beginnings[i]);
	for (size_t i = 0; i < QD_COUNT(words); i++)
		changes |= qd_field_is(value, words[i]);
	if (changes)
		qd_field_refuse(f, QD_EUNSUPPORTED, "init_lora_weights", value, "one that leaves the base weights alone");
}

enum qd_status qd_peft_config_check(const struct qd_reading *r)
{
	static const char *const refused[] = { "use_dora", "lora_bias", "use_qalora", "use_bdlora", "modules_to_save",
		"trainable_token_indices", "target_parameters", "layer_replication", "alora_invocation_tokens", "arrow_config",
		"kasa_config", "monteclora_config", "velora_config" };
	struct qd_fields f = r->config;
	const json_t *type = qd_field(&f, "peft_type");

	if (!json_is_object(f.json))
		return qd_fail(QD_EINPUT, "'%s' is no JSON object, needs one with PEFT's fields", f.what);
	if (json_is_string(type) && !qd_field_is(type, "LORA"))
		qd_field_refuse(&f, QD_EUNSUPPORTED, "peft_type", type, "\"LORA\"");
	for (size_t i = 0; i < QD_COUNT(refused); i++)
		if (says_something(qd_field(&f, refused[i])))
			qd_field_refuse(
				&f, QD_EUNSUPPORTED, refused[i], qd_field(&f, refused[i]), "none: only plain LoRA is supported");
	check_init(&f);
	return f.status;
}

/* ---- scale ---- */

/* 1 when pattern K hits the path, 0 when not, -1 when K is a regular expression beyond dots. */
static int pattern_hits(const char *pattern, const char *path)
{
	bool whole = pattern[0] == '^';
	size_t n = strlen(path), k;

	pattern += whole;
	k = strlen(pattern);
	if (strpbrk(pattern, "\\*+?[](){}|^$") != NULL)
		return -1;
	if (k > n || (whole && k != n) || (k < n && path[n - k - 1] != '.'))
		return 0;
	for (size_t i = 0; i < k; i++)
		if (pattern[i] != '.' && pattern[i] != path[n - k + i])
			return 0;
	return 1;
}

/* The number that `patterns` (object) has for the path; `number` where none hits. */
static double pattern_value(struct qd_fields *f, const char *patterns, const char *path, double number)
{
	json_t *object = (json_t *)qd_field(f, patterns), *value;
	const char *key;

	if (object != NULL && !json_is_null(object) && !json_is_object(object))
		qd_field_refuse(f, QD_EINPUT, patterns, object, "an object of module paths and numbers");
	json_object_foreach(object, key, value)
	{
		int hits = pattern_hits(key, path);
		if (hits < 0)
			qd_fields_fail(f, QD_EUNSUPPORTED,
				"'%s': field '%s' has the regular expression '%s', only module paths and their endings are "
				"supported",
				f->what, patterns, key);
		if (!json_is_number(value))
			qd_fields_fail(f, QD_EINPUT, "'%s': '%s' of field '%s' is no number", f->what, key, patterns);
		if (hits > 0)
			return json_number_value(value);
	}
	return number;
}

enum qd_status qd_peft_config_scale(const struct qd_reading *r, const char *path, int64_t rank, double *scale)
{
	struct qd_fields f = r->config;
	double rank_m = qd_field_number(&f, "r", -INFINITY, INFINITY, 8);
	double alpha_m = qd_field_number(&f, "lora_alpha", -INFINITY, INFINITY, 8);

	rank_m = pattern_value(&f, "rank_pattern", path, rank_m);
	alpha_m = pattern_value(&f, "alpha_pattern", path, alpha_m);
	if (rank_m != (double)rank)
		qd_fields_fail(&f, QD_EINPUT, "'%s' gives '%s' rank %g, its tensors have rank %lld", f.what, path, rank_m,
			(long long)rank);
	*scale = alpha_m / (json_is_true(qd_field(&f, "use_rslora")) ? sqrt(rank_m) : rank_m);
	return f.status;
}

/* ---- the folder's format ---- */

static bool peft_detect(const struct qd_reading *r)
{
	return r->config.json != NULL;
}

static enum qd_status peft_collect(struct qd_reading *r)
{
	static const char wrapper[] = "base_model.model.";
	enum qd_status st;

	QD_TRY(st, qd_peft_config_check(r));
	for (size_t i = 0; i < r->file.n; i++) {
		const struct qd_tensor *tensor = &r->file.tensors[i];
		char buffer[QD_PATH_TEXT];
		const char *path = buffer;
		enum qd_lora_role role;
		QD_TRY(st, qd_diffusers_key(tensor->name, buffer, &role));
		path += qd_starts_with(path, wrapper) ? sizeof(wrapper) - 1 : 0;
		if (qd_diffusers_is_text(path)) {
			r->adapter->text_tensors++;
			continue;
		}
		QD_TRY(st, qd_reading_put(r, path, qd_reading_module(r, path), role, tensor));
	}
out:
	return st;
}

/* True when a list of target_modules selects the path; a regular expression is taken to select what was written. */
static bool is_target(const json_t *targets, const char *path)
{
	size_t i;
	const json_t *entry;

	if (!json_is_array(targets))
		return true;
	json_array_foreach(targets, i, entry)
	{
		const char *name = json_string_value(entry);
		size_t n = name != NULL ? strlen(name) : 0, length = strlen(path);
		if (name != NULL && qd_ends_with(path, name) && (n == length || path[length - n - 1] == '.'))
			return true;
	}
	return false;
}

static enum qd_status peft_scale(struct qd_reading *r)
{
	const json_t *targets = qd_field(&r->config, "target_modules");
	size_t others = 0;
	enum qd_status st = QD_OK;

	for (size_t i = 0; i < r->n; i++) {
		struct qd_piece *piece = &r->pieces[i];
		QD_TRY(st, qd_peft_config_scale(r, piece->name, piece->tensor[QD_ROLE_DOWN]->shape.dim[0], &piece->scale));
		others += !is_target(targets, piece->name);
	}
	if (others > 0)
		st = qd_adapter_note(
			r->adapter, "%zu layers are not in target_modules: used all the same (PEFT would drop them)", others);
out:
	return st;
}

const struct qd_dialect qd_dialect_peft = {
	.told_by = "adapter_config.json beside it", .detect = peft_detect, .collect = peft_collect, .scale = peft_scale
};
