/*
 * Fields of a config.json: see fields.h.
 */
#include "lib/model/fields.h"

#include <stdlib.h>
#include <string.h>

const json_t *qd_field(const struct qd_fields *r, const char *name)
{
	size_t i;
	json_t *dropped;
	json_array_foreach(json_object_get(r->json, "_use_default_values"), i, dropped)
	{
		const char *text = json_string_value(dropped);
		if (text && strcmp(text, name) == 0)
			return NULL;
	}
	return json_object_get(r->json, name);
}

enum qd_status qd_field_refuse(
	const struct qd_fields *r, enum qd_status code, const char *name, const json_t *found, const char *need)
{
	char *text;
	enum qd_status st = qd_json_text(found, JSON_COMPACT | JSON_ENCODE_ANY, &text);
	st = qd_fail(code, "'%s': field '%s' is %.80s, needs %s", r->what, name, text ? text : "unreadable", need);
	free(text);
	return st;
}

enum qd_status qd_field_read_int(
	const struct qd_fields *r, const char *name, const json_t *value, int64_t low, int64_t high, int64_t *out)
{
	char need[64];
	if (json_is_integer(value) && json_integer_value(value) >= low && json_integer_value(value) <= high) {
		*out = json_integer_value(value);
		return QD_OK;
	}
	snprintf(need, sizeof(need), "a whole number from %lld to %lld", (long long)low, (long long)high);
	return qd_field_refuse(r, QD_EINPUT, name, value, need);
}

enum qd_status qd_field_int(const struct qd_fields *r, const char *name, int64_t low, int64_t high, int64_t absent, int64_t *out)
{
	const json_t *value = qd_field(r, name);
	*out = absent;
	return !value || json_is_null(value) ? QD_OK : qd_field_read_int(r, name, value, low, high, out);
}

enum qd_status qd_field_needed_int(
	const struct qd_fields *r, const char *name, int64_t low, int64_t high, int64_t absent, int64_t *out)
{
	const json_t *value = qd_field(r, name);
	*out = absent;
	return value ? qd_field_read_int(r, name, value, low, high, out) : QD_OK;
}

enum qd_status qd_field_number(const struct qd_fields *r, const char *name, double absent, double *out)
{
	const json_t *value = qd_field(r, name);
	*out = absent;
	if (!value || json_is_null(value))
		return QD_OK;
	if (!json_is_number(value))
		return qd_field_refuse(r, QD_EINPUT, name, value, "a number");
	*out = json_number_value(value);
	return QD_OK;
}

enum qd_status qd_field_bool(const struct qd_fields *r, const char *name, bool absent, bool *out)
{
	const json_t *value = qd_field(r, name);
	*out = absent;
	if (!value)
		return QD_OK;
	*out = json_is_true(value);
	return json_is_boolean(value) || json_is_null(value) ? QD_OK : qd_field_refuse(r, QD_EINPUT, name, value, "true or false");
}

enum qd_status qd_field_item(
	const struct qd_fields *r, const char *name, const json_t *value, int blocks, int i, const json_t **out)
{
	char need[64];
	*out = value;
	if (!json_is_array(value))
		return QD_OK;
	snprintf(need, sizeof(need), "one item for each of the %d blocks", blocks);
	if (json_array_size(value) != (size_t)blocks)
		return qd_field_refuse(r, QD_EINPUT, name, value, need);
	*out = json_array_get(value, (size_t)i);
	return QD_OK;
}

enum qd_status qd_field_ints(const struct qd_fields *r, const char *name, int blocks, int64_t high, int64_t absent, int64_t *out)
{
	const json_t *value = qd_field(r, name);
	for (int i = 0; i < blocks; i++) {
		const json_t *one = NULL;
		out[i] = absent;
		if (!value)
			continue;
		enum qd_status st = qd_field_item(r, name, value, blocks, i, &one);
		if (st == QD_OK)
			st = qd_field_read_int(r, name, one, 1, high, &out[i]);
		if (st != QD_OK)
			return st;
	}
	return QD_OK;
}

bool qd_field_is(const json_t *value, const char *text)
{
	return json_is_string(value) && strcmp(json_string_value(value), text) == 0;
}

enum qd_status qd_field_check_choice(const struct qd_fields *r, const struct qd_field_choice *choice)
{
	char need[96];
	const json_t *value = qd_field(r, choice->name);
	const char *text = json_string_value(value);
	if (!value || (choice->null_too && json_is_null(value)))
		return QD_OK;
	if (text && (strcmp(text, choice->value) == 0 || (choice->also && strcmp(text, choice->also) == 0)))
		return QD_OK;
	snprintf(need, sizeof(need), "\"%s\"%s%s%s%s", choice->value, choice->also ? " or \"" : "",
		choice->also ? choice->also : "", choice->also ? "\"" : "", choice->null_too ? " or null" : "");
	return qd_field_refuse(r, QD_EUNSUPPORTED, choice->name, value, need);
}

enum qd_status qd_field_act(const struct qd_fields *r, const char *name, enum qd_op absent, enum qd_op *out)
{
	static const struct {
		const char *name;
		enum qd_op op;
	} acts[] = {
		{ "silu", QD_OP_SIGMOID },
		{ "swish", QD_OP_SIGMOID },
		{ "mish", QD_OP_MISH },
		{ "gelu", QD_OP_GELU },
		{ "relu", QD_OP_RELU },
	};
	const json_t *value = qd_field(r, name);
	*out = absent;
	if (!value)
		return QD_OK;
	for (size_t i = 0; i < QD_COUNT(acts); i++) {
		*out = acts[i].op;
		if (qd_field_is(value, acts[i].name))
			return QD_OK;
	}
	return qd_field_refuse(r, QD_EUNSUPPORTED, name, value, "\"silu\", \"swish\", \"mish\", \"gelu\" or \"relu\"");
}
