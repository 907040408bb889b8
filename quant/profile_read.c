/* Reading profile.json; its layout stands at the top of profile_json.c. Messages say where: "entries[3]: 'bits' is ..., needs ...".
 */
#include "quant/internal.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const char *const kinds[] = { "activation", "weight", "lora", NULL };
static const char *const chosen[] = { "anchor", "unified", NULL };

/* ---- single values: each names the key, what it is and what it must be ---- */

static const char *type_name(const json_t *value)
{
	switch (json_typeof(value)) {
	case JSON_OBJECT:
		return "an object";
	case JSON_ARRAY:
		return "an array";
	case JSON_STRING:
		return "a string";
	case JSON_INTEGER:
	case JSON_REAL:
		return "a number";
	case JSON_NULL:
		return "null";
	default:
		return "a boolean";
	}
}

static enum qd_status wrong(const char *key, const json_t *value, const char *needs)
{
	if (value == NULL)
		return qd_fail(QD_EINPUT, "there is no '%s'", key);
	if (json_is_integer(value))
		return qd_fail(QD_EINPUT, "'%s' is %lld, needs %s", key, (long long)json_integer_value(value), needs);
	if (json_is_real(value))
		return qd_fail(QD_EINPUT, "'%s' is %g, needs %s", key, json_real_value(value), needs);
	if (json_is_string(value))
		return qd_fail(QD_EINPUT, "'%s' is '%.80s', needs %s", key, json_string_value(value), needs);
	return qd_fail(QD_EINPUT, "'%s' is %s, needs %s", key, type_name(value), needs);
}

/* Refuses keys that are not in `keys`, a NULL-terminated list. */
static enum qd_status check_keys(json_t *object, const char *const *keys)
{
	const char *key;
	json_t *value;

	if (!json_is_object(object))
		return qd_fail(QD_EINPUT, "there is %s, needs an object", type_name(object));
	json_object_foreach(object, key, value)
	{
		size_t i = 0;

		while (keys[i] != NULL && strcmp(keys[i], key) != 0)
			i++;
		if (keys[i] == NULL)
			return qd_fail(QD_EINPUT, "unknown key '%.80s'", key);
	}
	return QD_OK;
}

static enum qd_status get_int(const json_t *object, const char *key, int64_t low, int64_t high, int64_t *out)
{
	const json_t *value = json_object_get(object, key);
	char needs[96];

	if (json_is_integer(value) && json_integer_value(value) >= low && json_integer_value(value) <= high) {
		*out = json_integer_value(value);
		return QD_OK;
	}
	snprintf(needs, sizeof(needs), "a whole number from %lld to %lld", (long long)low, (long long)high);
	return wrong(key, value, needs);
}

static enum qd_status get_bits(const json_t *object, const char *key, int64_t low, int *out)
{
	int64_t bits = 0;
	enum qd_status st = get_int(object, key, low, 32, &bits);

	if (st == QD_OK && bits != 0 && bits != 4 && bits != 8 && bits != 16 && bits != 32)
		return wrong(key, json_object_get(object, key), "4, 8, 16 or 32");
	*out = (int)bits;
	return st;
}

static enum qd_status get_number(const json_t *object, const char *key, double low, double high, double *out)
{
	const json_t *value = json_object_get(object, key);
	char needs[96];

	*out = json_number_value(value);
	if (json_is_number(value) && *out >= low && *out <= high)
		return QD_OK;
	snprintf(needs, sizeof(needs), "a number from %g to %g", low, high);
	return wrong(key, value, needs);
}

/* Decibels: null is infinity. */
static enum qd_status get_db(const json_t *object, const char *key, double *out)
{
	if (json_is_null(json_object_get(object, key))) {
		*out = INFINITY;
		return QD_OK;
	}
	return get_number(object, key, -1e6, 1e6, out);
}

static enum qd_status get_bool(const json_t *object, const char *key, bool *out)
{
	const json_t *value = json_object_get(object, key);

	if (!json_is_boolean(value))
		return wrong(key, value, "true or false");
	*out = json_is_true(value);
	return QD_OK;
}

static enum qd_status get_text(struct qd_arena *arena, const json_t *object, const char *key, bool optional, const char **out)
{
	const json_t *value = json_object_get(object, key);

	*out = NULL;
	if (optional && json_is_null(value))
		return QD_OK;
	if (!json_is_string(value))
		return wrong(key, value, optional ? "a string or null" : "a string");
	*out = qd_arena_strdup(arena, json_string_value(value));
	return *out != NULL ? QD_OK : QD_ENOMEM;
}

static enum qd_status get_hash(const json_t *object, const char *key, char *out)
{
	const json_t *value = json_object_get(object, key);

	if (!json_is_string(value) || strlen(json_string_value(value)) >= QD_HASH_TEXT)
		return wrong(key, value, "a hash");
	strcpy(out, json_string_value(value));
	return QD_OK;
}

static enum qd_status get_choice(const json_t *object, const char *key, const char *const *names, int *out)
{
	const json_t *value = json_object_get(object, key);
	char needs[96] = "one of";

	for (int i = 0; names[i] != NULL; i++) {
		size_t at = strlen(needs);

		if (json_is_string(value) && strcmp(names[i], json_string_value(value)) == 0) {
			*out = i;
			return QD_OK;
		}
		snprintf(needs + at, sizeof(needs) - at, " '%s'", names[i]);
	}
	return wrong(key, value, needs);
}

static enum qd_status get_array(const json_t *object, const char *key, json_t **out)
{
	*out = json_object_get(object, key);
	return json_is_array(*out) ? QD_OK : wrong(key, *out, "an array");
}

/* ---- the parts ---- */

static enum qd_status read_options(struct qd_profile *p, json_t *json)
{
	static const char *const keys[] = { "weight_bits", "lora_bits", "act_bits", "weight_scheme", "share", "align", "method",
		"anchor", "equal_level", "observer", "percentile", "divergence", "scope", "slots", "rank", NULL };
	struct qd_quant_options *o = &p->options;
	int scheme = 0, share = 0, align = 0, method = 0, observer = 0, divergence = 0, scope = 0;
	enum qd_status st;

	if (json == NULL)
		return wrong("options", json, "an object");
	QD_TRY(st, check_keys(json, keys));
	QD_TRY(st, get_bits(json, "weight_bits", 1, &o->weight_bits));
	QD_TRY(st, get_bits(json, "lora_bits", 1, &o->lora_bits));
	QD_TRY(st, get_bits(json, "act_bits", 0, &o->act_bits));
	QD_TRY(st, get_choice(json, "weight_scheme", qd_weight_scheme_names, &scheme));
	QD_TRY(st, get_choice(json, "share", qd_share_names, &share));
	QD_TRY(st, get_choice(json, "align", qd_align_names, &align));
	QD_TRY(st, get_choice(json, "method", qd_method_names, &method));
	QD_TRY(st, get_text(&p->arena, json, "anchor", true, &o->anchor));
	QD_TRY(st, get_number(json, "equal_level", 0, 1, &o->equal_level));
	QD_TRY(st, get_choice(json, "observer", qd_observer_names, &observer));
	QD_TRY(st, get_number(json, "percentile", 0, 100, &o->percentile));
	QD_TRY(st, get_choice(json, "divergence", qd_divergence_names, &divergence));
	QD_TRY(st, get_choice(json, "scope", qd_scope_names, &scope));
	QD_TRY(st, get_text(&p->arena, json, "slots", true, &o->slots));
	QD_TRY(st, get_int(json, "rank", 0, INT32_MAX, &o->rank));
	o->weight_per_channel = scheme == 1;
	o->share = (enum qd_share)share;
	o->align = (enum qd_align)align;
	o->method = (enum qd_method)method;
	o->observer = (enum qd_observer_kind)observer;
	o->divergence = (enum qd_divergence)divergence;
	o->scope = (enum qd_scope)scope;
out:
	return st == QD_OK ? st : qd_prefix(st, "options");
}

static enum qd_status read_samples(struct qd_arena *arena, struct qd_adapter_score *a, const json_t *json)
{
	json_t *list;
	enum qd_status st = get_array(json, "per_sample", &list);

	if (st != QD_OK)
		return st;
	a->n_samples = json_array_size(list);
	a->per_sample = qd_arena_array(arena, a->n_samples, sizeof(*a->per_sample));
	if (a->per_sample == NULL)
		return QD_ENOMEM;
	for (size_t i = 0; i < a->n_samples; i++) {
		const json_t *value = json_array_get(list, i);

		if (!json_is_number(value))
			return wrong("per_sample", value, "numbers");
		a->per_sample[i] = json_number_value(value);
	}
	return QD_OK;
}

static enum qd_status read_adapter(struct qd_profile *p, json_t *json, size_t i)
{
	static const char *const keys[] = { "name", "hash", "rank", "slots", "qss", "standard_error", "output_sqnr_db",
		"update_sqnr_db", "per_sample", NULL };
	static const char *const update_keys[] = { "own", "shared", "aligned", NULL };
	struct qd_adapter_score *a = &p->adapters[i];
	json_t *update;
	int64_t slots = 0;
	enum qd_status st;

	QD_TRY(st, check_keys(json, keys));
	QD_TRY(st, get_text(&p->arena, json, "name", false, &a->name));
	QD_TRY(st, get_hash(json, "hash", a->hash));
	QD_TRY(st, get_int(json, "rank", 0, INT32_MAX, &a->rank));
	QD_TRY(st, get_int(json, "slots", 0, INT32_MAX, &slots));
	QD_TRY(st, get_number(json, "qss", -1e300, 1e300, &a->qss));
	QD_TRY(st, get_number(json, "standard_error", 0, 1e300, &a->standard_error));
	QD_TRY(st, get_db(json, "output_sqnr_db", &a->output_sqnr_db));
	update = json_object_get(json, "update_sqnr_db");
	if (update == NULL)
		QD_TRY(st, wrong("update_sqnr_db", update, "an object"));
	QD_TRY(st, check_keys(update, update_keys));
	QD_TRY(st, get_db(update, "own", &a->update_own_db));
	QD_TRY(st, get_db(update, "shared", &a->update_shared_db));
	QD_TRY(st, get_db(update, "aligned", &a->update_aligned_db));
	QD_TRY(st, read_samples(&p->arena, a, json));
	a->n_slots = (size_t)slots;
out:
	return st;
}

static enum qd_status read_slot(struct qd_profile *p, json_t *json, size_t i)
{
	static const char *const keys[] = { "path", "rank", "out", "in", "kh", "kw", "conv", NULL };
	struct qd_slot *s = &p->slots.items[i];
	enum qd_status st;

	s->down = s->up = s->gain = s->weight = s->base = s->sum = QD_NONE;
	QD_TRY(st, check_keys(json, keys));
	QD_TRY(st, get_text(&p->slots.arena, json, "path", false, &s->path));
	QD_TRY(st, get_int(json, "rank", 1, 1 << 20, &s->rank));
	QD_TRY(st, get_int(json, "out", 1, 1 << 24, &s->out));
	QD_TRY(st, get_int(json, "in", 1, 1 << 24, &s->in));
	QD_TRY(st, get_int(json, "kh", 1, 256, &s->kh));
	QD_TRY(st, get_int(json, "kw", 1, 256, &s->kw));
	QD_TRY(st, get_bool(json, "conv", &s->conv));
	if (qd_strmap_get(&p->slots.by_path, s->path) != QD_NONE)
		QD_TRY(st, qd_fail(QD_EINPUT, "two slots are called '%s'", s->path));
	QD_TRY(st, qd_strmap_put(&p->slots.by_path, s->path, (uint32_t)i));
out:
	return st;
}

/* Number i of a number or a list. */
static const json_t *element(const json_t *value, size_t i)
{
	return json_is_array(value) ? json_array_get(value, i) : value;
}

static enum qd_status read_scales(struct qd_encoding *e, const json_t *scale, const json_t *zero)
{
	for (size_t i = 0; i < e->n; i++) {
		const json_t *s = element(scale, i), *z = element(zero, i);

		e->scale[i] = (float)json_number_value(s);
		e->zero_point[i] = (float)json_number_value(z);
		if (!json_is_number(s) || !isfinite(e->scale[i]) || e->scale[i] <= 0)
			return wrong("scale", s, "finite numbers above 0");
		if (!json_is_number(z) || rintf(e->zero_point[i]) != e->zero_point[i] || e->zero_point[i] < qd_encoding_low(e) ||
			e->zero_point[i] > qd_encoding_high(e))
			return wrong("zero_point", z, "whole numbers on the grid");
		if (e->symmetric && (e->zero_point[i] != 0 || !e->is_signed))
			return wrong("zero_point", z, "0 and a signed grid, because the entry is symmetric");
	}
	return QD_OK;
}

static enum qd_status read_encoding(struct qd_profile *p, const json_t *json, struct qd_encoding **out)
{
	const json_t *scale = json_object_get(json, "scale"), *zero = json_object_get(json, "zero_point");
	const json_t *axis_json = json_object_get(json, "axis");
	int64_t axis = -1;
	size_t n = 1;
	int bits = 0;
	bool is_signed = false, symmetric = false;
	enum qd_status st;

	QD_TRY(st, get_bits(json, "bits", 1, &bits));
	QD_TRY(st, get_bool(json, "signed", &is_signed));
	QD_TRY(st, get_bool(json, "symmetric", &symmetric));
	if (!json_is_null(axis_json))
		QD_TRY(st, get_int(json, "axis", 0, QD_MAX_RANK - 1, &axis));
	if ((axis >= 0) != json_is_array(scale))
		QD_TRY(st, wrong("scale", scale,
				   axis >= 0 ? "an array, because there is an axis" : "a number, because there is no axis"));
	if (axis >= 0)
		n = json_array_size(scale);
	if (n == 0 || (json_is_array(zero) && (axis < 0 || json_array_size(zero) != n)))
		QD_TRY(st, qd_fail(QD_EINPUT, "'scale' and 'zero_point' have different lengths, or none"));
	QD_TRY(st, qd_encoding_new(&p->arena, bits, symmetric, (int)axis, n, out));
	(*out)->is_signed = is_signed;
	QD_TRY(st, read_scales(*out, scale, zero));
out:
	return st;
}

static enum qd_status read_entry(struct qd_profile *p, json_t *json, size_t i)
{
	static const char *const keys[] = { "name", "kind", "bits", "signed", "symmetric", "axis", "scale", "zero_point", NULL };
	struct qd_encoding *encoding = NULL;
	const char *name = NULL;
	int kind = 0;
	enum qd_status st;

	(void)i;
	QD_TRY(st, check_keys(json, keys));
	QD_TRY(st, get_text(&p->arena, json, "name", false, &name));
	QD_TRY(st, get_choice(json, "kind", kinds, &kind));
	QD_TRY(st, read_encoding(p, json, &encoding));
	QD_TRY(st, qd_profile_add(p, (enum qd_entry_kind)(kind + QD_ENTRY_ACTIVATION), name, encoding));
out:
	return st;
}

static enum qd_status each(
	struct qd_profile *p, json_t *list, const char *what, enum qd_status (*read)(struct qd_profile *p, json_t *json, size_t i))
{
	for (size_t i = 0; i < json_array_size(list); i++) {
		enum qd_status st = read(p, json_array_get(list, i), i);

		if (st != QD_OK)
			return qd_prefix(st, "%s[%zu]", what, i);
	}
	return QD_OK;
}

static enum qd_status read_lists(struct qd_profile *p, const json_t *json)
{
	json_t *adapters, *slots, *entries;
	enum qd_status st;

	QD_TRY(st, get_array(json, "adapters", &adapters));
	QD_TRY(st, get_array(json, "slots", &slots));
	QD_TRY(st, get_array(json, "entries", &entries));
	p->n_adapters = json_array_size(adapters);
	p->adapters = qd_arena_array(&p->arena, p->n_adapters, sizeof(*p->adapters));
	p->slots.n = json_array_size(slots);
	p->slots.items = qd_arena_array(&p->slots.arena, p->slots.n, sizeof(*p->slots.items));
	if (p->adapters == NULL || p->slots.items == NULL)
		QD_TRY(st, QD_ENOMEM);
	QD_TRY(st, each(p, adapters, "adapters", read_adapter));
	QD_TRY(st, each(p, slots, "slots", read_slot));
	QD_TRY(st, each(p, entries, "entries", read_entry));
out:
	return st;
}

static enum qd_status read_profile(struct qd_profile *p, json_t *json)
{
	static const char *const keys[] = { "schema", "base_hash", "method", "anchor", "reason", "options", "adapters", "slots",
		"entries", NULL };
	int64_t schema;
	int method = 0;
	enum qd_status st;

	QD_TRY(st, check_keys(json, keys));
	QD_TRY(st, get_int(json, "schema", 1, 1, &schema));
	QD_TRY(st, get_hash(json, "base_hash", p->base_hash));
	QD_TRY(st, get_choice(json, "method", chosen, &method));
	QD_TRY(st, get_text(&p->arena, json, "anchor", true, &p->anchor));
	QD_TRY(st, get_text(&p->arena, json, "reason", false, &p->reason));
	if ((p->anchor != NULL) != (method == 0))
		QD_TRY(st, wrong("anchor", json_object_get(json, "anchor"),
				   "a name with the method 'anchor' and null with 'unified'"));
	p->method = chosen[method];
	QD_TRY(st, read_options(p, json_object_get(json, "options")));
	QD_TRY(st, read_lists(p, json));
out:
	return st;
}

enum qd_status qd_profile_read(struct qd_profile *profile, const char *path)
{
	json_t *json = NULL;
	enum qd_status st;

	*profile = (struct qd_profile){ 0 };
	st = qd_json_read(path, &json);
	if (st == QD_OK) {
		st = read_profile(profile, json);
		if (st != QD_OK)
			st = qd_prefix(st, "cannot use profile '%s'", path);
	}
	json_decref(json);
	if (st != QD_OK)
		qd_profile_release(profile);
	return st;
}
