/* Structs as JSON objects (members.h). */
#include "quant/members.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

/* A pointer to whatever, in a field of its own type. */
static const void *load_pointer(const void *at)
{
	const void *pointer;

	memcpy(&pointer, at, sizeof(pointer));
	return pointer;
}

static void store_pointer(void *at, const void *pointer)
{
	memcpy(at, &pointer, sizeof(pointer));
}

/* ---- writing ---- */

enum qd_status qd_member_print(const struct qd_members_out *out, const char *fmt, ...)
{
	va_list args;
	int n;

	va_start(args, fmt);
	n = vfprintf(out->stream, fmt, args);
	va_end(args);
	return n >= 0 ? QD_OK : qd_fail(QD_ENOMEM, "out of memory");
}

/* Not finite: null. */
static enum qd_status print_number(const struct qd_members_out *out, double x)
{
	char text[QD_NUMBER_TEXT];

	return qd_member_print(out, "%s", isfinite(x) ? qd_double_text(x, text) : "null");
}

static enum qd_status write_numbers(const struct qd_members_out *out, const struct qd_member *m, const void *base)
{
	const double *x = load_pointer((const char *)base + m->at);
	size_t n = *(const size_t *)((const char *)base + m->n_at);
	enum qd_status st;

	QD_TRY(st, qd_member_print(out, "["));
	for (size_t i = 0; i < n; i++) {
		QD_TRY(st, qd_member_print(out, "%s", i > 0 ? ", " : ""));
		QD_TRY(st, print_number(out, x[i]));
	}
	QD_TRY(st, qd_member_print(out, "]"));
out:
	return st;
}

/* As a JSON string, or null. */
static enum qd_status print_text(const struct qd_members_out *out, const char *text)
{
	json_t *json = text != NULL ? json_string(text) : json_null();
	char *encoded;
	enum qd_status st = qd_json_text(json, JSON_ENCODE_ANY, &encoded);

	if (st == QD_OK)
		st = qd_member_print(out, "%s", encoded);
	else if (st == QD_EINPUT)
		st = qd_fail(st, "text '%s' is not UTF-8", text);
	free(encoded);
	json_decref(json);
	return st;
}

static enum qd_status write_object(const struct qd_members_out *out, const struct qd_member *m, const void *base)
{
	struct qd_members_out within = *out;

	within.indent += out->indent < 0 ? 0 : 2;
	return qd_members_write(&within, m->members, base);
}

static enum qd_status write_list(const struct qd_members_out *out, const struct qd_member *m, const void *base)
{
	const char *items = load_pointer((const char *)base + m->at);
	size_t n = *(const size_t *)((const char *)base + m->n_at);
	struct qd_members_out line = { out->stream, out->in, -1 };
	enum qd_status st;

	QD_TRY(st, qd_member_print(out, "["));
	for (size_t i = 0; i < n; i++) {
		QD_TRY(st, qd_member_print(out, "%s\n%*s", i > 0 ? "," : "", out->indent + 2, ""));
		QD_TRY(st, qd_members_write(&line, m->members, items + i * m->size));
	}
	QD_TRY(st, qd_member_print(out, "\n%*s]", out->indent, ""));
out:
	return st;
}

static enum qd_status write_value(const struct qd_members_out *out, const struct qd_member *m, const void *base)
{
	const void *at = (const char *)base + m->at;

	switch (m->kind) {
	case QD_MEMBER_CONSTANT:
		return qd_member_print(out, "%.0f", m->high);
	case QD_MEMBER_BITS:
		return qd_member_print(out, "%d", *(const int *)at);
	case QD_MEMBER_WHOLE:
		return qd_member_print(out, "%lld", (long long)*(const int64_t *)at);
	case QD_MEMBER_COUNT:
		return qd_member_print(out, "%zu", *(const size_t *)at);
	case QD_MEMBER_NUMBER:
	case QD_MEMBER_DB:
		return print_number(out, *(const double *)at);
	case QD_MEMBER_BOOL:
	case QD_MEMBER_MARK:
		return qd_member_print(out, "%s", *(const bool *)at ? "true" : "false");
	case QD_MEMBER_CHOICE:
		return qd_member_print(out, "\"%s\"", m->names[*(const unsigned *)at]);
	case QD_MEMBER_NAME:
	case QD_MEMBER_TEXT:
	case QD_MEMBER_OPTIONAL_TEXT:
		return print_text(out, *(const char *const *)at);
	case QD_MEMBER_HASH:
		return print_text(out, at);
	case QD_MEMBER_NUMBERS:
		return write_numbers(out, m, base);
	case QD_MEMBER_OBJECT:
	case QD_MEMBER_GROUP:
		return write_object(out, m, at);
	case QD_MEMBER_LIST:
		return write_list(out, m, base);
	case QD_MEMBER_OWN:
		return m->write(out, base);
	case QD_MEMBER_POINTED: /* whose members are written with the others */
	case QD_MEMBER_END:
		break;
	}
	return QD_OK;
}

/* `*first` until a member was written. */
static enum qd_status write_members(
	const struct qd_members_out *out, const struct qd_member *members, const void *base, bool *first)
{
	enum qd_status st = QD_OK;

	for (const struct qd_member *m = members; m->kind != QD_MEMBER_END; m++) {
		if ((m->in & out->in) == 0 || (m->kind == QD_MEMBER_MARK && !*((const bool *)base + m->at)))
			continue;
		if (m->kind == QD_MEMBER_POINTED) {
			QD_TRY(st, write_members(out, m->members, load_pointer((const char *)base + m->at), first));
			continue;
		}
		QD_TRY(st, qd_member_print(out, "%s%s%*s\"%s\": ", *first ? "" : ",", out->indent < 0 ? " " : "\n",
				   out->indent < 0 ? 0 : out->indent, "", m->key));
		*first = false;
		QD_TRY(st, write_value(out, m, base));
	}
out:
	return st;
}

enum qd_status qd_members_write(const struct qd_members_out *out, const struct qd_member *members, const void *base)
{
	bool first = true;
	enum qd_status st;

	QD_TRY(st, qd_member_print(out, "{"));
	QD_TRY(st, write_members(out, members, base, &first));
	QD_TRY(st, out->indent < 0 ? qd_member_print(out, " }") : qd_member_print(out, "\n%*s}", out->indent - 2, ""));
out:
	return st;
}

/* ---- what is refused: the key, what it is and what it must be ---- */

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

enum qd_status qd_member_refused(const struct qd_member *m, const json_t *value, const char *needs)
{
	if (value == NULL)
		return qd_fail(QD_EINPUT, "there is no '%s'", m->key);
	if (json_is_integer(value))
		return qd_fail(QD_EINPUT, "'%s' is %lld, needs %s", m->key, (long long)json_integer_value(value), needs);
	if (json_is_real(value))
		return qd_fail(QD_EINPUT, "'%s' is %g, needs %s", m->key, json_real_value(value), needs);
	if (json_is_string(value))
		return qd_fail(QD_EINPUT, "'%s' is '%.80s', needs %s", m->key, json_string_value(value), needs);
	return qd_fail(QD_EINPUT, "'%s' is %s, needs %s", m->key, type_name(value), needs);
}

/* ---- reading ---- */

enum qd_status qd_member_whole(const struct qd_member *m, const json_t *value, int64_t *out)
{
	char needs[96];

	*out = json_integer_value(value);
	if (!json_is_integer(value) || (double)*out < m->low || (double)*out > m->high) {
		snprintf(needs, sizeof(needs), "a whole number from %.0f to %.0f", m->low, m->high);
		return qd_member_refused(m, value, needs);
	}
	if (m->kind == QD_MEMBER_BITS && *out != 0 && *out != 4 && *out != 8 && *out != 16 && *out != 32)
		return qd_member_refused(m, value, "4, 8, 16 or 32");
	return QD_OK;
}

static enum qd_status read_number(const struct qd_member *m, const json_t *value, double *out)
{
	bool infinite = m->kind == QD_MEMBER_DB && json_is_null(value);
	char needs[96];

	*out = infinite ? INFINITY : json_number_value(value);
	if (infinite || (json_is_number(value) && *out >= m->low && *out <= m->high))
		return QD_OK;
	snprintf(needs, sizeof(needs), "a number from %g to %g", m->low, m->high);
	return qd_member_refused(m, value, needs);
}

/* Room for a list, as its field, and its length. */
static enum qd_status make_list(const struct qd_members_in *in, const struct qd_member *m, const json_t *value, size_t size,
	void *base, void *items_address)
{
	size_t *n = (size_t *)(void *)((char *)base + m->n_at);
	void *items;

	if (!json_is_array(value))
		return qd_member_refused(m, value, "an array");
	items = qd_arena_array(in->arena, json_array_size(value), size);
	store_pointer((char *)base + m->at, items);
	store_pointer(items_address, items);
	*n = items != NULL ? json_array_size(value) : 0;
	return items != NULL ? QD_OK : QD_ENOMEM;
}

static enum qd_status read_numbers(const struct qd_members_in *in, const struct qd_member *m, const json_t *value, void *base)
{
	double *x = NULL;
	enum qd_status st = make_list(in, m, value, sizeof(*x), base, &x);

	for (size_t i = 0; st == QD_OK && i < json_array_size(value); i++) {
		const json_t *item = json_array_get(value, i);

		if (!json_is_number(item))
			return qd_member_refused(m, item, "numbers");
		x[i] = json_number_value(item);
	}
	return st;
}

/* The number of a name. */
static enum qd_status read_name(const struct qd_member *m, const json_t *value, unsigned *out)
{
	char needs[256] = "one of";

	for (*out = (unsigned)m->low; m->names[*out] != NULL; ++*out) {
		size_t used = strlen(needs);

		if (json_is_string(value) && strcmp(m->names[*out], json_string_value(value)) == 0)
			return QD_OK;
		snprintf(needs + used, sizeof(needs) - used, " '%s'", m->names[*out]);
	}
	return qd_member_refused(m, value, needs);
}

static enum qd_status read_text(const struct qd_members_in *in, const struct qd_member *m, const json_t *value, const char **out)
{
	bool optional = m->kind == QD_MEMBER_OPTIONAL_TEXT;

	*out = NULL;
	if (optional && json_is_null(value))
		return QD_OK;
	if (!json_is_string(value))
		return qd_member_refused(m, value, optional ? "a string or null" : "a string");
	*out = qd_arena_strdup(in->arena, json_string_value(value));
	return *out != NULL ? QD_OK : QD_ENOMEM;
}

static bool is_key(const struct qd_members_in *in, const struct qd_member *members, const char *key)
{
	for (const struct qd_member *m = members; m->kind != QD_MEMBER_END; m++)
		if (m->kind == QD_MEMBER_POINTED ? is_key(in, m->members, key) : (m->in & in->in) != 0 && strcmp(m->key, key) == 0)
			return true;
	return false;
}

static enum qd_status read_members(const struct qd_members_in *in, const struct qd_member *members, json_t *object, void *base);

static enum qd_status read_pointed(const struct qd_members_in *in, const struct qd_member *m, json_t *object, void *at)
{
	void *pointed = qd_arena_alloc(in->arena, m->size);

	store_pointer(at, pointed);
	return pointed != NULL ? read_members(in, m->members, object, pointed) : QD_ENOMEM;
}

static enum qd_status read_list(const struct qd_members_in *in, const struct qd_member *m, json_t *value, void *base)
{
	char *items = NULL;
	enum qd_status st = make_list(in, m, value, m->size, base, &items);

	if (st != QD_OK)
		return st;
	for (size_t i = 0; i < json_array_size(value); i++) {
		st = qd_members_read(in, m->members, json_array_get(value, i), items + i * m->size);
		if (st == QD_OK && m->added != NULL)
			st = m->added(base, i);
		if (st != QD_OK)
			return qd_prefix(st, "%s[%zu]", m->key, i);
	}
	return QD_OK;
}

static enum qd_status read_value(const struct qd_members_in *in, const struct qd_member *m, json_t *value, void *base)
{
	void *at = (char *)base + m->at;
	int64_t whole = 0;
	unsigned choice;
	enum qd_status st;

	switch (m->kind) {
	case QD_MEMBER_CONSTANT:
		return qd_member_whole(m, value, &whole);
	case QD_MEMBER_BITS:
		st = qd_member_whole(m, value, &whole);
		*(int *)at = (int)whole;
		return st;
	case QD_MEMBER_WHOLE:
		return qd_member_whole(m, value, at);
	case QD_MEMBER_COUNT:
		st = qd_member_whole(m, value, &whole);
		*(size_t *)at = (size_t)whole;
		return st;
	case QD_MEMBER_NUMBER:
	case QD_MEMBER_DB:
		return read_number(m, value, at);
	case QD_MEMBER_BOOL:
		*(bool *)at = json_is_true(value);
		return json_is_boolean(value) ? QD_OK : qd_member_refused(m, value, "true or false");
	case QD_MEMBER_MARK:
		*(bool *)at = value != NULL;
		return value == NULL || json_is_true(value) ? QD_OK : qd_member_refused(m, value, "true, or not to be there");
	case QD_MEMBER_CHOICE:
		return read_name(m, value, at);
	case QD_MEMBER_NAME:
		st = read_name(m, value, &choice);
		*(const char **)at = m->names[choice];
		return st;
	case QD_MEMBER_TEXT:
	case QD_MEMBER_OPTIONAL_TEXT:
		return read_text(in, m, value, at);
	case QD_MEMBER_HASH:
		if (!json_is_string(value) || json_string_length(value) >= QD_HASH_TEXT)
			return qd_member_refused(m, value, "a hash");
		strcpy(at, json_string_value(value));
		return QD_OK;
	case QD_MEMBER_NUMBERS:
		return read_numbers(in, m, value, base);
	case QD_MEMBER_OBJECT:
	case QD_MEMBER_GROUP:
		if (value == NULL)
			return qd_member_refused(m, value, "an object");
		st = qd_members_read(in, m->members, value, at);
		return m->kind == QD_MEMBER_OBJECT ? qd_prefix(st, "%s", m->key) : st;
	case QD_MEMBER_POINTED:
		return read_pointed(in, m, value, at);
	case QD_MEMBER_LIST:
		return read_list(in, m, value, base);
	case QD_MEMBER_OWN:
		return m->read(in, m, value, base);
	case QD_MEMBER_END:
		break;
	}
	return QD_OK;
}

static enum qd_status read_members(const struct qd_members_in *in, const struct qd_member *members, json_t *object, void *base)
{
	enum qd_status st = QD_OK;

	for (const struct qd_member *m = members; st == QD_OK && m->kind != QD_MEMBER_END; m++)
		if ((m->in & in->in) != 0)
			st = read_value(in, m, m->kind == QD_MEMBER_POINTED ? object : json_object_get(object, m->key), base);
	return st;
}

enum qd_status qd_members_read(const struct qd_members_in *in, const struct qd_member *members, json_t *object, void *base)
{
	const char *key;
	json_t *value;

	if (!json_is_object(object))
		return qd_fail(QD_EINPUT, "there is %s, needs an object", type_name(object));
	json_object_foreach(object, key, value)
	{
		if (!is_key(in, members, key))
			return qd_fail(QD_EINPUT, "unknown key '%.80s'", key);
	}
	return read_members(in, members, object, base);
}
