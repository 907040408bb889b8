/*
 * PEFT folders: adapter_config.json beside adapter_model.safetensors.
 *
 *   key    := ["base_model.model."] module-path "." ("lora_A" | "lora_B") ["." adapter name] (".weight" | ".bias")
 *   scale  := lora_alpha_m / r_m, with use_rslora lora_alpha_m / sqrt(r_m)
 *
 * lora_A is our down, lora_B our up; with lora_bias lora_B has a bias, which the scale multiplies too. r_m is rank_pattern's value for the module or r, and must be the rank of its tensors;
 * lora_alpha_m likewise from alpha_pattern or lora_alpha. A pattern K, the first of the file that hits, is a regular expression of
 * Python's, matched with re.match as (.*\.)?(K)$: K is the path or what follows one of its dots, a leading ^ asks for the whole
 * path. target_modules is a list of endings or a regular expression of whole paths.
 *
 * The same fields, flattened into one JSON object, stand in the header of files that diffusers writes. Writers store every field
 * they know, so a field is refused for its value and not for being there.
 */
#include "lib/adapter/internal.h"
#include "lib/weights/weights.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
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
	static const char *const refused[] = { "use_dora", "use_qalora", "use_bdlora", "modules_to_save", "trainable_token_indices",
		"target_parameters", "layer_replication", "alora_invocation_tokens", "arrow_config", "kasa_config",
		"monteclora_config", "velora_config" };
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

/*
 * Whether regular expression K, taken as (.*\.)?(K)$ or, where the whole text is meant, as (K)$, matches the path. Python's syntax
 * is PCRE's but for corners that no module path needs.
 */
static bool pattern_hits(struct qd_fields *f, const char *field, const char *pattern, bool whole, const char *path)
{
	/* Enough for any path; an expression that needs more of it could take forever. */
	enum { MOST_STEPS = 1000000 };
	char *text = NULL;
	int code, found = PCRE2_ERROR_NOMEMORY;
	PCRE2_SIZE at = 0;
	pcre2_code *compiled = NULL;
	pcre2_match_data *match = NULL;
	pcre2_match_context *context = pcre2_match_context_create(NULL);

	if (context == NULL || asprintf(&text, whole ? "(?:%s)$" : "(.*\\.)?(%s)$", pattern) < 0) {
		text = NULL;
		qd_fields_fail(f, QD_ENOMEM, "out of memory");
		goto out;
	}
	pcre2_set_match_limit(context, MOST_STEPS);
	compiled =
		pcre2_compile((PCRE2_SPTR)text, PCRE2_ZERO_TERMINATED, PCRE2_ANCHORED | PCRE2_NEVER_BACKSLASH_C, &code, &at, NULL);
	if (compiled == NULL && code == PCRE2_ERROR_HEAP_FAILED) {
		qd_fields_fail(f, QD_ENOMEM, "out of memory");
		goto out;
	}
	if (compiled == NULL) {
		char reason[128] = "";
		pcre2_get_error_message(code, (PCRE2_UCHAR *)reason, sizeof(reason));
		qd_fields_fail(f, QD_EINPUT, "'%s': field '%s' has '%s', which is no regular expression: %s", f->what, field,
			pattern, reason);
		goto out;
	}
	match = pcre2_match_data_create_from_pattern(compiled, NULL);
	if (match != NULL)
		found = pcre2_match(compiled, (PCRE2_SPTR)path, PCRE2_ZERO_TERMINATED, 0, 0, match, context);
	if (found < 0 && found != PCRE2_ERROR_NOMATCH)
		qd_fields_fail(f, found == PCRE2_ERROR_NOMEMORY ? QD_ENOMEM : QD_EUNSUPPORTED,
			"'%s': field '%s' has '%s', which cannot be matched with '%s' in %d steps", f->what, field, pattern, path,
			MOST_STEPS);
out:
	pcre2_match_data_free(match);
	pcre2_code_free(compiled);
	pcre2_match_context_free(context);
	free(text);
	return found >= 0;
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
		if (!json_is_number(value))
			qd_fields_fail(f, QD_EINPUT, "'%s': '%s' of field '%s' is no number", f->what, key, patterns);
		if (pattern_hits(f, patterns, key, false, path))
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
		if (qd_reading_skips(r, tensor->name))
			continue;
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

/* True when target_modules, endings in a list or a regular expression of whole paths, selects the path; or is absent. */
static bool is_target(struct qd_fields *f, const char *path)
{
	const json_t *targets = qd_field(f, "target_modules"), *entry;
	size_t i;

	if (json_is_string(targets) && !qd_field_is(targets, "all-linear"))
		return pattern_hits(f, "target_modules", json_string_value(targets), true, path);
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
	size_t others = 0;
	enum qd_status st = QD_OK;

	for (size_t i = 0; i < r->n; i++) {
		struct qd_piece *piece = &r->pieces[i];
		QD_TRY(st, qd_peft_config_scale(r, piece->name, piece->tensor[QD_ROLE_DOWN]->shape.dim[0], &piece->scale));
		others += !is_target(&r->config, piece->name);
	}
	QD_TRY(st, r->config.status);
	if (others > 0)
		st = qd_adapter_note(
			r->adapter, "%zu layers are not in target_modules: used all the same (PEFT would drop them)", others);
out:
	return st;
}

const struct qd_dialect qd_dialect_peft = {
	.told_by = "adapter_config.json beside it", .detect = peft_detect, .collect = peft_collect, .scale = peft_scale
};
