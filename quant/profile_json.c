/*
 * profile.json, schema 2: what distilling trains against and exporting ships. Keys always in this order; one line per adapter, slot
 * and entry; numbers with as many digits as bring the same float back.
 *
 *   { "schema": 2, "base_hash": "xxh3-128:...", "method": "anchor"|"unified", "anchor": NAME|null, "reason": TEXT,
 *     "provenance": as in lib/base/provenance.c, null where it is not known; schema 1 has none
 *     "options": { a key for each row of options.def that is marked with its schema },
 *     "adapters": [ { "name", "hash", "rank", "slots", "qss", "standard_error", "output_sqnr_db",
 *                     "update_sqnr_db": { "own", "shared", "aligned" }, "per_sample": [...] } ],
 *     "slots": [ { "path", "rank", "out", "in", "kh", "kw", "conv", "bias": true where an adapter has one, else absent } ],
 *     "entries": [ { "name", "kind": "activation"|"weight"|"lora", "bits", "signed", "symmetric", "axis", "scale", "zero_point" } ]
 *   }
 *
 * An entry of one scale has "axis" null and numbers; one per channel has an axis and arrays, "zero_point" the number 0 where all
 * are 0. An infinite number of decibels is null. Messages say where: "entries[3]: 'bits' is ..., needs ...".
 *
 * The tables below are the layout, for the writer and for the reader.
 */
#include "quant/internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- encodings ---- */

static enum qd_status write_axis(const struct qd_members_out *out, const void *base)
{
	const struct qd_encoding *e = base;

	return e->axis >= 0 ? qd_member_print(out, "%d", e->axis) : qd_member_print(out, "null");
}

static enum qd_status read_axis(const struct qd_members_in *in, const struct qd_member *m, json_t *value, void *base)
{
	struct qd_encoding *e = base;
	int64_t axis = -1;
	enum qd_status st = json_is_null(value) ? QD_OK : qd_member_whole(m, value, &axis);

	(void)in;
	e->axis = (int)axis;
	return st;
}

static enum qd_status print_floats(const struct qd_members_out *out, size_t n, const float *x, bool list)
{
	enum qd_status st = qd_member_print(out, "%s", list ? "[" : "");

	for (size_t i = 0; st == QD_OK && i < n; i++)
		st = qd_member_print(out, "%s%.9g", i > 0 ? ", " : "", (double)x[i]);
	return st == QD_OK && list ? qd_member_print(out, "]") : st;
}

static enum qd_status write_scale(const struct qd_members_out *out, const void *base)
{
	const struct qd_encoding *e = base;

	return print_floats(out, e->n, e->scale, e->axis >= 0);
}

/* Says how many scales there are. */
static enum qd_status read_scale(const struct qd_members_in *in, const struct qd_member *m, json_t *value, void *base)
{
	struct qd_encoding *e = base;

	if (value != NULL && (e->axis >= 0) != json_is_array(value))
		return qd_member_refused(
			m, value, e->axis >= 0 ? "an array, because there is an axis" : "a number, because there is no axis");
	e->n = e->axis >= 0 ? json_array_size(value) : 1;
	e->scale = qd_arena_array(in->arena, e->n, sizeof(*e->scale));
	if (e->scale == NULL)
		return QD_ENOMEM;
	for (size_t i = 0; i < e->n; i++) {
		const json_t *item = e->axis >= 0 ? json_array_get(value, i) : value;

		e->scale[i] = (float)json_number_value(item);
		if (!json_is_number(item) || !isfinite(e->scale[i]) || e->scale[i] <= 0)
			return qd_member_refused(m, item, "finite numbers above 0");
	}
	return QD_OK;
}

static enum qd_status write_zero_point(const struct qd_members_out *out, const void *base)
{
	const struct qd_encoding *e = base;
	bool zero = qd_encoding_is_centred(e);

	return print_floats(out, zero ? 1 : e->n, e->zero_point, e->axis >= 0 && !zero);
}

static enum qd_status read_zero_point(const struct qd_members_in *in, const struct qd_member *m, json_t *value, void *base)
{
	struct qd_encoding *e = base;

	if (e->n == 0 || (json_is_array(value) && (e->axis < 0 || json_array_size(value) != e->n)))
		return qd_fail(QD_EINPUT, "'scale' and 'zero_point' have different lengths, or none");
	e->zero_point = qd_arena_array(in->arena, e->n, sizeof(*e->zero_point));
	if (e->zero_point == NULL)
		return QD_ENOMEM;
	for (size_t i = 0; i < e->n; i++) {
		const json_t *item = json_is_array(value) ? json_array_get(value, i) : value;
		float z = (float)json_number_value(item);

		if (!json_is_number(item) || rintf(z) != z || z < qd_encoding_low(e) || z > qd_encoding_high(e))
			return qd_member_refused(m, item, "whole numbers on the grid");
		if (e->symmetric && (z != 0 || !e->is_signed))
			return qd_member_refused(m, item, "0 and a signed grid, because the entry is symmetric");
		e->zero_point[i] = z;
	}
	return QD_OK;
}

/* ---- what it was made from ---- */

static enum qd_status write_provenance(const struct qd_members_out *out, const void *base)
{
	const struct qd_provenance *made = &((const struct qd_profile *)base)->provenance;
	char *text = NULL;
	enum qd_status st;

	if (made->program == NULL)
		return qd_member_print(out, "null");
	st = qd_provenance_text(made, &text);
	if (st == QD_OK)
		st = qd_member_print(out, "%s", text);
	free(text);
	return st;
}

static enum qd_status read_provenance(const struct qd_members_in *in, const struct qd_member *m, json_t *value, void *base)
{
	(void)in;
	if (value == NULL)
		return qd_member_refused(m, value, "an object or null");
	return json_is_null(value) ? QD_OK : qd_provenance_read(&((struct qd_profile *)base)->provenance, value);
}

/* ---- the tables ---- */

#define RUN (QD_SINCE(1) | QD_IN_RUN)

#define AT(field) .at = offsetof(struct qd_encoding, field), .in = RUN
static const struct qd_member encoding_members[] = {
	{ "bits", QD_MEMBER_BITS, AT(bits), .low = 1, .high = 32 },
	{ "signed", QD_MEMBER_BOOL, AT(is_signed) },
	{ "symmetric", QD_MEMBER_BOOL, AT(symmetric) },
	{ "axis", QD_MEMBER_OWN, .in = RUN, .high = QD_MAX_RANK - 1, .write = write_axis, .read = read_axis },
	{ "scale", QD_MEMBER_OWN, .in = RUN, .write = write_scale, .read = read_scale },
	{ "zero_point", QD_MEMBER_OWN, .in = RUN, .write = write_zero_point, .read = read_zero_point },
	{ 0 },
};
#undef AT

#define AT(field) .at = offsetof(struct qd_profile_entry, field), .in = RUN
static const struct qd_member entry_members[] = {
	{ "name", QD_MEMBER_TEXT, AT(name) },
	{ "kind", QD_MEMBER_CHOICE, AT(kind), .low = QD_ENTRY_ACTIVATION, .names = qd_entry_names },
	{ NULL, QD_MEMBER_POINTED, AT(encoding), .members = encoding_members, .size = sizeof(struct qd_encoding) },
	{ 0 },
};
#undef AT

#define AT(field) .at = offsetof(struct qd_slot, field), .in = RUN
static const struct qd_member slot_members[] = {
	{ "path", QD_MEMBER_TEXT, AT(path) },
	{ "rank", QD_MEMBER_WHOLE, AT(rank), .low = 1, .high = 1 << 20 },
	{ "out", QD_MEMBER_WHOLE, AT(out), .low = 1, .high = 1 << 24 },
	{ "in", QD_MEMBER_WHOLE, AT(in), .low = 1, .high = 1 << 24 },
	{ "kh", QD_MEMBER_WHOLE, AT(kh), .low = 1, .high = 256 },
	{ "kw", QD_MEMBER_WHOLE, AT(kw), .low = 1, .high = 256 },
	{ "conv", QD_MEMBER_BOOL, AT(conv) },
	{ "bias", QD_MEMBER_MARK, AT(biased) },
	{ 0 },
};
#undef AT

#define AT(field) .at = offsetof(struct qd_adapter_score, field), .in = QD_SINCE(1)
#define DECIBELS .low = -1e6, .high = 1e6
static const struct qd_member update_members[] = {
	{ "own", QD_MEMBER_DB, AT(update_own_db), DECIBELS },
	{ "shared", QD_MEMBER_DB, AT(update_shared_db), DECIBELS },
	{ "aligned", QD_MEMBER_DB, AT(update_aligned_db), DECIBELS },
	{ 0 },
};
static const struct qd_member adapter_members[] = {
	{ "name", QD_MEMBER_TEXT, AT(name) },
	{ "hash", QD_MEMBER_HASH, AT(hash) },
	{ "rank", QD_MEMBER_WHOLE, AT(rank), .high = INT32_MAX },
	{ "slots", QD_MEMBER_COUNT, AT(n_slots), .high = INT32_MAX },
	{ "qss", QD_MEMBER_NUMBER, AT(qss), .low = -1e300, .high = 1e300 },
	{ "standard_error", QD_MEMBER_NUMBER, AT(standard_error), .high = 1e300 },
	{ "output_sqnr_db", QD_MEMBER_DB, AT(output_sqnr_db), DECIBELS },
	{ "update_sqnr_db", QD_MEMBER_GROUP, .in = QD_SINCE(1), .members = update_members },
	{ "per_sample", QD_MEMBER_NUMBERS, AT(per_sample), .n_at = offsetof(struct qd_adapter_score, n_samples) },
	{ 0 },
};
#undef AT

static enum qd_status slot_added(void *profile, size_t i)
{
	struct qd_slots *slots = &((struct qd_profile *)profile)->slots;
	struct qd_slot *s = &slots->items[i];

	s->down = s->up = s->gain = s->bias = s->weight = s->base = s->sum = QD_NONE;
	if (qd_strmap_get(&slots->by_path, s->path) != QD_NONE)
		return qd_fail(QD_EINPUT, "two slots are called '%s'", s->path);
	return qd_strmap_put(&slots->by_path, s->path, (uint32_t)i);
}

#define AT(field) .at = offsetof(struct qd_profile, field)
#define LIST(items, n, type, rows) AT(items), .n_at = offsetof(struct qd_profile, n), .size = sizeof(struct type), .members = rows
static const struct qd_member profile_members[] = {
	{ "schema", QD_MEMBER_CONSTANT, .in = QD_SINCE(1), .low = 1, .high = QD_PROFILE_SCHEMA },
	{ "base_hash", QD_MEMBER_HASH, AT(base_hash), .in = RUN },
	{ "method", QD_MEMBER_NAME, AT(method), .in = QD_SINCE(1) | QD_IN_MANIFEST, .low = QD_METHOD_ANCHOR,
		.names = qd_method_names },
	{ "anchor", QD_MEMBER_OPTIONAL_TEXT, AT(anchor), .in = QD_SINCE(1) | QD_IN_MANIFEST },
	{ "reason", QD_MEMBER_TEXT, AT(reason), .in = QD_SINCE(1) },
	{ "provenance", QD_MEMBER_OWN, .in = QD_SINCE(2), .write = write_provenance, .read = read_provenance },
	{ "options", QD_MEMBER_OBJECT, AT(options), .in = RUN, .members = qd_quant_members },
	{ "adapters", QD_MEMBER_LIST, LIST(adapters, n_adapters, qd_adapter_score, adapter_members), .in = QD_SINCE(1) },
	{ "slots", QD_MEMBER_LIST, LIST(slots.items, slots.n, qd_slot, slot_members), .in = RUN, .added = slot_added },
	{ "entries", QD_MEMBER_LIST, LIST(entries, n_entries, qd_profile_entry, entry_members), .in = RUN,
		.added = qd_profile_entry_added },
	{ 0 },
};
#undef AT

/* ---- writing ---- */

/* The members marked with `in` as a text on the heap. */
static enum qd_status text_of(const struct qd_member *members, const void *base, unsigned in, char **text, size_t *bytes)
{
	struct qd_members_out out = { open_memstream(text, bytes), in, 2 };
	enum qd_status st;

	if (out.stream == NULL)
		return qd_fail(QD_ENOMEM, "out of memory");
	QD_TRY(st, qd_members_write(&out, members, base));
	QD_TRY(st, qd_member_print(&out, "\n"));
out:
	if (fclose(out.stream) != 0 && st == QD_OK)
		st = qd_fail(QD_ENOMEM, "out of memory");
	return st;
}

enum qd_status qd_profile_write(const struct qd_profile *p, const char *path, bool force)
{
	char *text = NULL;
	size_t bytes = 0;
	enum qd_status st;

	QD_TRY(st, text_of(profile_members, p, QD_IN_SCHEMA(QD_PROFILE_SCHEMA), &text, &bytes));
	QD_TRY(st, qd_write_file(path, text, bytes, force));
out:
	free(text);
	return st;
}

enum qd_status qd_profile_run_hash(const struct qd_profile *p, char *out)
{
	char *text = NULL;
	size_t bytes = 0;
	enum qd_status st;

	QD_TRY(st, text_of(profile_members, p, QD_IN_RUN, &text, &bytes));
	qd_hash_bytes(text, bytes, out);
out:
	free(text);
	return st;
}

static enum qd_status describe(const struct qd_member *members, const void *base, json_t *object)
{
	char *text = NULL;
	size_t bytes = 0;
	json_t *json = NULL;
	enum qd_status st;

	QD_TRY(st, text_of(members, base, QD_IN_MANIFEST, &text, &bytes));
	QD_TRY(st, qd_json_parse("the profile", text, bytes, &json));
	if (json_object_update(object, json) != 0)
		st = qd_fail(QD_ENOMEM, "out of memory");
out:
	json_decref(json);
	free(text);
	return st;
}

enum qd_status qd_profile_describe(const struct qd_profile *p, json_t *object)
{
	enum qd_status st = describe(profile_members, p, object);

	return st == QD_OK ? describe(qd_quant_members, &p->options, object) : st;
}

/* ---- reading ---- */

enum qd_status qd_profile_read(struct qd_profile *profile, const char *path)
{
	struct qd_members_in in = { &profile->arena, 0 };
	json_t *json = NULL;
	json_int_t schema;
	enum qd_status st;

	*profile = (struct qd_profile){ .options = qd_quant_options_default() };
	QD_TRY(st, qd_json_read(path, &json));
	schema = json_integer_value(json_object_get(json, "schema"));
	in.in = QD_IN_SCHEMA(schema > 0 && schema < QD_PROFILE_SCHEMA ? schema : QD_PROFILE_SCHEMA);
	st = qd_members_read(&in, profile_members, json, profile);
	if (st == QD_OK && (profile->anchor != NULL) != (profile->method == qd_method_names[QD_METHOD_ANCHOR]))
		st = qd_member_refused(&(struct qd_member){ .key = "anchor" }, json_object_get(json, "anchor"),
			"a name with the method 'anchor' and null with 'unified'");
	st = qd_prefix(st, "cannot use profile '%s'", path);
out:
	json_decref(json);
	if (st != QD_OK)
		qd_profile_release(profile);
	return st;
}
