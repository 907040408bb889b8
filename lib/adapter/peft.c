/*
 * PEFT folders: adapter_config.json beside adapter_model.safetensors.
 *
 *   key    := ["base_model.model."] module-path "." ("lora_A" | "lora_B") ["." adapter name] ".weight"
 *   scale  := lora_alpha_m / r_m, with use_rslora lora_alpha_m / sqrt(r_m)
 *
 * lora_A is our down, lora_B our up. r_m is rank_pattern's value for the module or r, and must be the rank of its tensors;
 * lora_alpha_m likewise from alpha_pattern or lora_alpha. A pattern K, the first of the file that hits, is a regular expression
 *
 *   (.*\.)?(K)$      K is the path or what follows one of its dots, "." in K is any character, a leading ^ asks for the whole path
 *
 * The same fields, flattened into one JSON object, stand in the header of files that diffusers writes. Writers store every field
 * they know, so a field is refused for its value and not for being there.
 */
#include "lib/adapter/internal.h"
#include "lib/weights/weights.h"

#include <math.h>
#include <string.h>

static const json_t *field(const struct qd_reading *r, const char *name)
{
	char key[96];
	snprintf(key, sizeof(key), "%s%s", r->config_prefix, name);
	return json_object_get(r->config, key);
}

/* ---- what a configuration may say ---- */

static bool says_something(const json_t *value)
{
	if (value == NULL || json_is_null(value) || json_is_false(value))
		return false;
	if (json_is_array(value))
		return json_array_size(value) > 0;
	return !json_is_object(value) || json_object_size(value) > 0;
}

static enum qd_status refuse_field(const struct qd_reading *r, const char *name, const char *value)
{
	return qd_fail(QD_EUNSUPPORTED, "%s: field '%s' is %s, only plain LoRA is supported", r->config_name, name, value);
}

/* Initializations that changed the base weights too, so that the file alone does not say what was trained. */
static enum qd_status check_init(const struct qd_reading *r)
{
	static const char *const beginnings[] = { "pissa", "corda" }, *const words[] = { "olora", "loftq", "lora_ga" };
	const char *init = json_string_value(field(r, "init_lora_weights"));

	if (init == NULL)
		return QD_OK;
	for (size_t i = 0; i < QD_COUNT(beginnings); i++)
		if (qd_starts_with(init, beginnings[i]))
			return refuse_field(r, "init_lora_weights", init);
	for (size_t i = 0; i < QD_COUNT(words); i++)
		if (strcmp(init, words[i]) == 0)
			return refuse_field(r, "init_lora_weights", init);
	return QD_OK;
}

enum qd_status qd_peft_config_check(const struct qd_reading *r)
{
	static const char *const refused[] = { "use_dora", "lora_bias", "use_qalora", "use_bdlora", "modules_to_save",
		"trainable_token_indices", "target_parameters", "layer_replication", "alora_invocation_tokens", "arrow_config",
		"kasa_config", "monteclora_config", "velora_config" };
	const char *type = json_string_value(field(r, "peft_type"));

	if (!json_is_object(r->config))
		return qd_fail(QD_EINPUT, "%s: found no JSON object, needs one", r->config_name);
	if (type != NULL && strcmp(type, "LORA") != 0)
		return refuse_field(r, "peft_type", type);
	for (size_t i = 0; i < QD_COUNT(refused); i++)
		if (says_something(field(r, refused[i])))
			return refuse_field(r, refused[i], "set");
	return check_init(r);
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

/* The number that `patterns` (object) has for the path; `*out` stays where none hits. */
static enum qd_status pattern_value(const struct qd_reading *r, const char *patterns, const char *path, double *out)
{
	json_t *object = (json_t *)field(r, patterns), *value;
	const char *key;

	if (object == NULL || json_is_null(object))
		return QD_OK;
	if (!json_is_object(object))
		return qd_fail(QD_EINPUT, "%s: field '%s' is no object", r->config_name, patterns);
	json_object_foreach(object, key, value)
	{
		int hits = pattern_hits(key, path);
		if (hits < 0)
			return qd_fail(QD_EUNSUPPORTED,
				"%s: %s has the regular expression '%s', only module paths and their endings are supported",
				r->config_name, patterns, key);
		if (!json_is_number(value))
			return qd_fail(QD_EINPUT, "%s: '%s' in %s is no number", r->config_name, key, patterns);
		if (hits > 0) {
			*out = json_number_value(value);
			return QD_OK;
		}
	}
	return QD_OK;
}

static enum qd_status number_field(const struct qd_reading *r, const char *name, double absent, double *out)
{
	const json_t *value = field(r, name);

	*out = absent;
	if (value == NULL || json_is_null(value))
		return QD_OK;
	if (!json_is_number(value))
		return qd_fail(QD_EINPUT, "%s: field '%s' is no number", r->config_name, name);
	*out = json_number_value(value);
	return QD_OK;
}

enum qd_status qd_peft_config_scale(const struct qd_reading *r, const char *path, int64_t rank, double *scale)
{
	double rank_m, alpha_m;
	enum qd_status st;

	QD_TRY(st, number_field(r, "r", 8, &rank_m));
	QD_TRY(st, number_field(r, "lora_alpha", 8, &alpha_m));
	QD_TRY(st, pattern_value(r, "rank_pattern", path, &rank_m));
	QD_TRY(st, pattern_value(r, "alpha_pattern", path, &alpha_m));
	if (rank_m != (double)rank)
		return qd_fail(QD_EINPUT, "%s gives '%s' rank %g, its tensors have rank %lld", r->config_name, path, rank_m,
			(long long)rank);
	*scale = alpha_m / (json_is_true(field(r, "use_rslora")) ? sqrt(rank_m) : rank_m);
out:
	return st;
}

/* ---- the folder's format ---- */

enum qd_status qd_peft_collect(struct qd_reading *r)
{
	static const char wrapper[] = "base_model.model.";
	enum qd_status st;

	QD_TRY(st, qd_peft_config_check(r));
	for (size_t i = 0; i < r->file.n; i++) {
		const struct qd_tensor *tensor = &r->file.tensors[i];
		char buffer[QD_PATH_TEXT];
		const char *path = buffer;
		enum qd_part part;
		QD_TRY(st, qd_diffusers_key(tensor->name, buffer, &part));
		path += qd_starts_with(path, wrapper) ? sizeof(wrapper) - 1 : 0;
		if (qd_diffusers_is_text(path)) {
			r->adapter->text_tensors++;
			continue;
		}
		QD_TRY(st, qd_reading_put(r, path, qd_reading_module(r, path), part, tensor));
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

enum qd_status qd_peft_scale(struct qd_reading *r)
{
	const json_t *targets = field(r, "target_modules");
	size_t others = 0;
	enum qd_status st = QD_OK;

	for (size_t i = 0; i < r->n; i++) {
		struct qd_piece *piece = &r->pieces[i];
		QD_TRY(st, qd_peft_config_scale(r, piece->name, piece->part[QD_PART_DOWN]->shape.dim[0], &piece->scale));
		others += !is_target(targets, piece->name);
	}
	if (others > 0)
		st = qd_adapter_note(
			r->adapter, "%zu layers are not in target_modules: used all the same (PEFT would drop them)", others);
out:
	return st;
}
