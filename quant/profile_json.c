/*
 * profile.json, schema 1: what distilling trains against and exporting ships. Keys always in this order; one line per adapter, slot
 * and entry; numbers with as many digits as bring the same float back.
 *
 *   { "schema": 1, "base_hash": "xxh3-128:...", "method": "anchor"|"unified", "anchor": NAME|null, "reason": TEXT,
 *     "options": { "weight_bits", "lora_bits", "act_bits", "weight_scheme", "share", "align", "method", "anchor", "equal_level",
 *                  "observer", "percentile", "divergence", "scope", "slots", "rank" },
 *     "adapters": [ { "name", "hash", "rank", "slots", "qss", "standard_error", "output_sqnr_db",
 *                     "update_sqnr_db": { "own", "shared", "aligned" }, "per_sample": [...] } ],
 *     "slots": [ { "path", "rank", "out", "in", "kh", "kw", "conv" } ],
 *     "entries": [ { "name", "kind": "activation"|"weight"|"lora", "bits", "signed", "symmetric", "axis", "scale", "zero_point" } ]
 * }
 *
 * An entry of one scale has "axis" null and numbers; one per channel has an axis and arrays, "zero_point" the number 0 where all
 * are 0. An infinite number of decibels is null. The reader takes exactly this: a missing, doubled, unknown or ill-typed key is
 * refused by name.
 */
#include "quant/internal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const schemes[] = { "per-tensor", "per-channel", NULL };
static const char *const kinds[] = { "", "activation", "weight", "lora", NULL };

/* ---- writing ---- */

/* `text` as a JSON string, or null. */
static enum qd_status put_text(struct qd_output *out, const char *text)
{
	json_t *json = text != NULL ? json_string(text) : json_null();
	char *encoded = NULL;
	enum qd_status st = qd_json_text(json, JSON_ENCODE_ANY, &encoded);

	if (st == QD_OK)
		st = qd_output_printf(out, "%s", encoded);
	else if (st == QD_EINPUT)
		st = qd_fail(st, "text '%s' is not UTF-8", text);
	free(encoded);
	json_decref(json);
	return st;
}

static enum qd_status put_key(struct qd_output *out, const char *before, const char *key, const char *text)
{
	enum qd_status st = qd_output_printf(out, "%s\"%s\": ", before, key);

	return st == QD_OK ? put_text(out, text) : st;
}

/* A number in as few digits as bring it back; not finite: null. */
static enum qd_status put_double(struct qd_output *out, double number)
{
	char text[40] = "null";

	for (int digits = 15; digits <= 17 && isfinite(number); digits++) {
		snprintf(text, sizeof(text), "%.*g", digits, number);
		if (strtod(text, NULL) == number)
			break;
	}
	return qd_output_printf(out, "%s", text);
}

static enum qd_status put_number(struct qd_output *out, const char *before, const char *key, double number)
{
	enum qd_status st = qd_output_printf(out, "%s\"%s\": ", before, key);

	return st == QD_OK ? put_double(out, number) : st;
}

static enum qd_status put_floats(struct qd_output *out, const char *before, const char *key, size_t n, const float *x, bool list)
{
	enum qd_status st = qd_output_printf(out, "%s\"%s\": %s", before, key, list ? "[" : "");

	for (size_t i = 0; st == QD_OK && i < n; i++)
		st = qd_output_printf(out, "%s%.9g", i > 0 ? ", " : "", (double)x[i]);
	return st == QD_OK && list ? qd_output_printf(out, "]") : st;
}

static enum qd_status write_options(struct qd_output *out, const struct qd_quant_options *o)
{
	enum qd_status st;

	QD_TRY(st,
		qd_output_printf(out,
			"  \"options\": {\n    \"weight_bits\": %d,\n    \"lora_bits\": %d,\n    \"act_bits\": %d,\n"
			"    \"weight_scheme\": \"%s\",\n    \"share\": \"%s\",\n    \"align\": \"%s\",\n    \"method\": \"%s\",\n",
			o->weight_bits, o->lora_bits, o->act_bits, schemes[o->weight_per_channel], qd_share_names[o->share],
			qd_align_names[o->align], qd_method_names[o->method]));
	QD_TRY(st, put_key(out, "    ", "anchor", o->anchor));
	QD_TRY(st, put_number(out, ",\n    ", "equal_level", o->equal_level));
	QD_TRY(st, qd_output_printf(out, ",\n    \"observer\": \"%s\"", qd_observer_names[o->observer]));
	QD_TRY(st, put_number(out, ",\n    ", "percentile", o->percentile));
	QD_TRY(st, qd_output_printf(out, ",\n    \"divergence\": \"%s\",\n    \"scope\": \"%s\"",
			   qd_divergence_names[o->divergence], qd_scope_names[o->scope]));
	QD_TRY(st, put_key(out, ",\n    ", "slots", o->slots));
	QD_TRY(st, qd_output_printf(out, ",\n    \"rank\": %lld\n  },\n", (long long)o->rank));
out:
	return st;
}

static enum qd_status write_adapter(struct qd_output *out, const struct qd_adapter_score *a)
{
	enum qd_status st;

	QD_TRY(st, put_key(out, "    { ", "name", a->name));
	QD_TRY(st, put_key(out, ", ", "hash", a->hash));
	QD_TRY(st, qd_output_printf(out, ", \"rank\": %lld, \"slots\": %zu", (long long)a->rank, a->n_slots));
	QD_TRY(st, put_number(out, ", ", "qss", a->qss));
	QD_TRY(st, put_number(out, ", ", "standard_error", a->standard_error));
	QD_TRY(st, put_number(out, ", ", "output_sqnr_db", a->output_sqnr_db));
	QD_TRY(st, put_number(out, ", \"update_sqnr_db\": { ", "own", a->update_own_db));
	QD_TRY(st, put_number(out, ", ", "shared", a->update_shared_db));
	QD_TRY(st, put_number(out, ", ", "aligned", a->update_aligned_db));
	QD_TRY(st, qd_output_printf(out, " }, \"per_sample\": ["));
	for (size_t i = 0; i < a->n_samples; i++) {
		QD_TRY(st, qd_output_printf(out, "%s", i > 0 ? ", " : ""));
		QD_TRY(st, put_double(out, a->per_sample[i]));
	}
	QD_TRY(st, qd_output_printf(out, "] }"));
out:
	return st;
}

static enum qd_status write_slot(struct qd_output *out, const struct qd_slot *s)
{
	enum qd_status st = put_key(out, "    { ", "path", s->path);

	if (st != QD_OK)
		return st;
	return qd_output_printf(out, ", \"rank\": %lld, \"out\": %lld, \"in\": %lld, \"kh\": %lld, \"kw\": %lld, \"conv\": %s }",
		(long long)s->rank, (long long)s->out, (long long)s->in, (long long)s->kh, (long long)s->kw,
		s->conv ? "true" : "false");
}

static bool all_zero(const struct qd_encoding *e)
{
	for (size_t i = 0; i < e->n; i++)
		if (e->zero_point[i] != 0)
			return false;
	return true;
}

static enum qd_status write_entry(struct qd_output *out, const struct qd_profile_entry *entry)
{
	const struct qd_encoding *e = entry->encoding;
	bool list = e->axis >= 0, zero = all_zero(e);
	enum qd_status st;

	QD_TRY(st, put_key(out, "    { ", "name", entry->name));
	QD_TRY(st, qd_output_printf(out, ", \"kind\": \"%s\", \"bits\": %d, \"signed\": %s, \"symmetric\": %s, \"axis\": ",
			   kinds[entry->kind], e->bits, e->is_signed ? "true" : "false", e->symmetric ? "true" : "false"));
	QD_TRY(st, list ? qd_output_printf(out, "%d", e->axis) : qd_output_printf(out, "null"));
	QD_TRY(st, put_floats(out, ", ", "scale", e->n, e->scale, list));
	QD_TRY(st, put_floats(out, ", ", "zero_point", zero ? 1 : e->n, e->zero_point, list && !zero));
	QD_TRY(st, qd_output_printf(out, " }"));
out:
	return st;
}

enum qd_status qd_profile_write(const struct qd_profile *p, const char *path, bool force)
{
	struct qd_output out = { 0 };
	enum qd_status st;

	QD_TRY(st, qd_output_open(&out, path, force));
	QD_TRY(st, put_key(&out, "{\n  \"schema\": 1,\n  ", "base_hash", p->base_hash));
	QD_TRY(st, put_key(&out, ",\n  ", "method", p->method));
	QD_TRY(st, put_key(&out, ",\n  ", "anchor", p->anchor));
	QD_TRY(st, put_key(&out, ",\n  ", "reason", p->reason));
	QD_TRY(st, qd_output_printf(&out, ",\n"));
	QD_TRY(st, write_options(&out, &p->options));
	QD_TRY(st, qd_output_printf(&out, "  \"adapters\": ["));
	for (size_t i = 0; i < p->n_adapters; i++) {
		QD_TRY(st, qd_output_printf(&out, "%s\n", i > 0 ? "," : ""));
		QD_TRY(st, write_adapter(&out, &p->adapters[i]));
	}
	QD_TRY(st, qd_output_printf(&out, "\n  ],\n  \"slots\": ["));
	for (size_t i = 0; i < p->slots.n; i++) {
		QD_TRY(st, qd_output_printf(&out, "%s\n", i > 0 ? "," : ""));
		QD_TRY(st, write_slot(&out, &p->slots.items[i]));
	}
	QD_TRY(st, qd_output_printf(&out, "\n  ],\n  \"entries\": ["));
	for (size_t i = 0; i < p->n_entries; i++) {
		QD_TRY(st, qd_output_printf(&out, "%s\n", i > 0 ? "," : ""));
		QD_TRY(st, write_entry(&out, &p->entries[i]));
	}
	QD_TRY(st, qd_output_printf(&out, "\n  ]\n}\n"));
	QD_TRY(st, qd_output_commit(&out));
out:
	qd_output_release(&out);
	return st;
}
