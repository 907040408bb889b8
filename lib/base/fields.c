/* Fields of a JSON object: see base.h. */
#include "lib/base/base.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NEED_TEXT = 256 };

const json_t *qd_field(const struct qd_fields *r, const char *name)
{
	const char *prefix = r->prefix != NULL ? r->prefix : "";
	char key[128];
	size_t i;
	json_t *dropped;

	if (snprintf(key, sizeof(key), "%s%s", prefix, name) >= (int)sizeof(key))
		return NULL;
	json_array_foreach(json_object_get(r->json, "_use_default_values"), i, dropped)
	{
		if (qd_field_is(dropped, key))
			return NULL;
	}
	return json_object_get(r->json, key);
}

bool qd_field_is(const json_t *value, const char *text)
{
	return json_is_string(value) && strcmp(json_string_value(value), text) == 0;
}

/* ---- failing ---- */

void qd_fields_fail(struct qd_fields *r, enum qd_status code, const char *fmt, ...)
{
	char text[1024];
	va_list args;

	if (r->status != QD_OK)
		return;
	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	r->status = qd_fail(code, "%s", text);
}

void qd_field_refuse(struct qd_fields *r, enum qd_status code, const char *name, const json_t *found, const char *need)
{
	char *text;

	if (qd_json_text(found, JSON_COMPACT | JSON_ENCODE_ANY, &text) == QD_ENOMEM)
		code = QD_ENOMEM;
	qd_fields_fail(r, code, "'%s': field '%s' is %.80s, needs %s", r->what, name, text != NULL ? text : "unreadable", need);
	free(text);
}

/* ---- one value ---- */

static bool is_given(const json_t *value)
{
	return value != NULL && !json_is_null(value);
}

int64_t qd_field_as_int(struct qd_fields *r, const char *name, const json_t *value, int64_t low, int64_t high)
{
	char need[NEED_TEXT];

	if (json_is_integer(value) && json_integer_value(value) >= low && json_integer_value(value) <= high)
		return json_integer_value(value);
	if (high == INT64_MAX)
		snprintf(need, sizeof(need), "a whole number from %lld up", (long long)low);
	else
		snprintf(need, sizeof(need), "a whole number from %lld to %lld", (long long)low, (long long)high);
	qd_field_refuse(r, QD_EINPUT, name, value, need);
	return low;
}

int64_t qd_field_needed_int(struct qd_fields *r, const char *name, int64_t low, int64_t high, int64_t absent)
{
	const json_t *value = qd_field(r, name);

	return value != NULL ? qd_field_as_int(r, name, value, low, high) : absent;
}

int64_t qd_field_int(struct qd_fields *r, const char *name, int64_t low, int64_t high, int64_t absent)
{
	return is_given(qd_field(r, name)) ? qd_field_needed_int(r, name, low, high, absent) : absent;
}

double qd_field_number(struct qd_fields *r, const char *name, double low, double high, double absent)
{
	const json_t *value = qd_field(r, name);
	double number = json_number_value(value);
	char need[NEED_TEXT] = "a number";

	if (!is_given(value))
		return absent;
	if (json_is_number(value) && number >= low && number <= high)
		return number;
	if (isfinite(low) && isfinite(high))
		snprintf(need, sizeof(need), "a number from %g to %g", low, high);
	else if (isfinite(low))
		snprintf(need, sizeof(need), "a number from %g up", low);
	qd_field_refuse(r, QD_EINPUT, name, value, need);
	return absent;
}

bool qd_field_bool(struct qd_fields *r, const char *name, bool absent)
{
	const json_t *value = qd_field(r, name);

	if (value == NULL)
		return absent;
	if (!json_is_boolean(value) && !json_is_null(value))
		qd_field_refuse(r, QD_EINPUT, name, value, "true or false");
	return json_is_true(value);
}

/* "\"a\", \"b\" or \"c\""; with null, which counts as absent. */
static void list_choices(char *out, size_t size, const char *const *names, bool null_too)
{
	size_t at = 0;

	for (size_t i = 0; names[i] != NULL && at < size; i++) {
		bool last = names[i + 1] == NULL && !null_too;
		at += (size_t)snprintf(out + at, size - at, "%s\"%s\"", i == 0 ? "" : last ? " or " : ", ", names[i]);
	}
	if (null_too && at < size)
		snprintf(out + at, size - at, " or null");
}

static size_t choose(struct qd_fields *r, const char *name, const char *const *names, size_t absent, bool null_too)
{
	const json_t *value = qd_field(r, name);
	char need[NEED_TEXT];

	if (value == NULL || (null_too && json_is_null(value)))
		return absent;
	for (size_t i = 0; names[i] != NULL; i++)
		if (qd_field_is(value, names[i]))
			return i;
	list_choices(need, sizeof(need), names, null_too);
	qd_field_refuse(r, QD_EUNSUPPORTED, name, value, need);
	return absent;
}

size_t qd_field_choice(struct qd_fields *r, const char *name, const char *const *names, size_t absent)
{
	return choose(r, name, names, absent, true);
}

size_t qd_field_needed_choice(struct qd_fields *r, const char *name, const char *const *names, size_t absent)
{
	return choose(r, name, names, absent, false);
}

/* ---- lists ---- */

bool qd_field_numbers(struct qd_fields *r, const char *name, size_t n, double *out)
{
	const json_t *list = qd_field(r, name);
	bool good = json_is_array(list) && json_array_size(list) == n;
	char need[NEED_TEXT];

	if (!is_given(list))
		return false;
	for (size_t i = 0; good && i < n; i++) {
		good = json_is_number(json_array_get(list, i));
		out[i] = json_number_value(json_array_get(list, i));
	}
	snprintf(need, sizeof(need), "a list of %zu numbers or null", n);
	if (!good)
		qd_field_refuse(r, QD_EINPUT, name, list, need);
	return good;
}

const json_t *qd_field_item(struct qd_fields *r, const char *name, const json_t *value, int blocks, int i)
{
	char need[NEED_TEXT];

	if (!json_is_array(value))
		return value;
	snprintf(need, sizeof(need), "one item for each of the %d blocks", blocks);
	if (json_array_size(value) != (size_t)blocks) {
		qd_field_refuse(r, QD_EINPUT, name, value, need);
		return NULL;
	}
	return json_array_get(value, (size_t)i);
}

void qd_field_ints(struct qd_fields *r, const char *name, int blocks, int64_t high, int64_t absent, int64_t *out)
{
	const json_t *value = qd_field(r, name);

	for (int i = 0; i < blocks; i++)
		out[i] = value == NULL ? absent : qd_field_as_int(r, name, qd_field_item(r, name, value, blocks, i), 1, high);
}
