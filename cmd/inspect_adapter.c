/*
 * quad inspect on an adapter.
 */
#include "cmd/inspect.h"

#include <stdio.h>

/* Ranges over some layers of an adapter. */
struct ranges {
	struct qd_extent down, up, gain;
	int64_t rank_low, rank_high;
	uint64_t parameters;
};

static enum qd_status widen(struct qd_extent *range, const float *x, int64_t n)
{
	struct qd_tensor view = qd_tensor_view("values", QD_F32, QD_SHAPE(n), x);
	return qd_extent_add(range, &view);
}

static enum qd_status add_lora(struct ranges *r, const struct qd_lora *lora)
{
	int64_t down = lora->rank * lora->in * lora->kh * lora->kw, up = lora->out * lora->rank;
	enum qd_status st;
	QD_TRY(st, widen(&r->down, lora->down, down));
	QD_TRY(st, widen(&r->up, lora->up, up));
	QD_TRY(st, widen(&r->gain, lora->gain, lora->rank));
	r->rank_low = r->rank_low == 0 || lora->rank < r->rank_low ? lora->rank : r->rank_low;
	r->rank_high = lora->rank > r->rank_high ? lora->rank : r->rank_high;
	r->parameters += (uint64_t)(down + up);
out:
	return st;
}

static json_t *range_json(const struct qd_extent *range)
{
	return json_pack("[f,f]", (double)range->low, (double)range->high);
}

static json_t *ranges_json(const struct ranges *r)
{
	json_t *o = json_object();
	json_object_set_new(o, "parameters", json_integer((json_int_t)r->parameters));
	json_object_set_new(o, "down", range_json(&r->down));
	json_object_set_new(o, "up", range_json(&r->up));
	json_object_set_new(o, "gain", range_json(&r->gain));
	return o;
}

static enum qd_status lora_json(const struct qd_lora *lora, json_t *list)
{
	struct ranges r = { 0 };
	enum qd_status st = add_lora(&r, lora);
	if (st != QD_OK)
		return st;
	json_t *o = json_pack("{s:s,s:I,s:I,s:I,s:I,s:I}", "path", lora->path, "rank", (json_int_t)lora->rank, "out",
		(json_int_t)lora->out, "in", (json_int_t)lora->in, "kh", (json_int_t)lora->kh, "kw", (json_int_t)lora->kw);
	json_object_update_new(o, ranges_json(&r));
	json_array_append_new(list, o);
	return QD_OK;
}

struct facts {
	const struct qd_adapter *adapter;
	const char *family;
	struct ranges total;
	struct qd_module_sets adapted, available;
};

static enum qd_status print_json(const struct facts *f)
{
	const struct qd_adapter *a = f->adapter;
	json_t *loras = json_array(), *notes = json_array();
	enum qd_status st = QD_OK;
	for (size_t i = 0; i < a->n; i++)
		QD_TRY(st, lora_json(&a->loras[i], loras));
	for (size_t i = 0; i < a->n_notes; i++)
		json_array_append_new(notes, json_string(a->notes[i]));
	json_t *root = json_pack("{s:i,s:s,s:s,s:s,s:s,s:s,s:s}", "schema", 1, "kind", "adapter", "name", a->name, "path", a->path,
		"format", qd_adapter_format_name(a->format), "family", f->family, "hash", a->hash);
	json_object_set_new(root, "rank", json_pack("[I,I]", (json_int_t)f->total.rank_low, (json_int_t)f->total.rank_high));
	json_object_set_new(root, "modules", qd_module_sets_json(&f->adapted));
	json_object_set_new(root, "modules_of_model", qd_module_sets_json(&f->available));
	json_object_update_new(root, ranges_json(&f->total));
	json_object_set_new(root, "text_tensors", json_integer((json_int_t)a->text_tensors));
	json_object_set_new(root, "embeddings", json_integer((json_int_t)a->embeddings));
	json_object_set(root, "notes", notes);
	json_object_set(root, "slots", loras);
	st = qd_print_json(root);
out:
	json_decref(loras);
	json_decref(notes);
	return st;
}

/* One line per layer, for -v. */
static enum qd_status print_loras(const struct qd_adapter *a)
{
	for (size_t i = 0; i < a->n; i++) {
		const struct qd_lora *lora = &a->loras[i];
		struct ranges r = { 0 };
		enum qd_status st = add_lora(&r, lora);
		if (st != QD_OK)
			return st;
		qd_print("  %-70s rank %-3lld down %9.3g to %-9.3g up %9.3g to %-9.3g gain %.4g to %.4g\n", lora->path,
			(long long)lora->rank, (double)r.down.low, (double)r.down.high, (double)r.up.low, (double)r.up.high,
			(double)r.gain.low, (double)r.gain.high);
	}
	return QD_OK;
}

static enum qd_status print_text(const struct facts *f, bool verbose)
{
	const struct qd_adapter *a = f->adapter;
	const struct ranges *t = &f->total;
	char digits[QD_DIGITS];
	qd_print("%s: LoRA in %s format, for %s\n", a->path, qd_adapter_format_name(a->format), f->family);
	qd_print("  slots       %zu of %zu modules: %zu of %zu in attention, %zu of %zu in transformers\n", f->adapted.all,
		f->available.all, f->adapted.attention, f->available.attention, f->adapted.transformer, f->available.transformer);
	qd_print("  rank        %lld", (long long)t->rank_low);
	qd_print(t->rank_low == t->rank_high ? "\n" : " to %lld\n", (long long)t->rank_high);
	qd_print("  scale       %.6g", (double)t->gain.low);
	qd_print(t->gain.low == t->gain.high ? "\n" : " to %.6g\n", (double)t->gain.high);
	qd_print("  down        %.4g to %.4g\n", (double)t->down.low, (double)t->down.high);
	qd_print("  up          %.4g to %.4g\n", (double)t->up.low, (double)t->up.high);
	qd_print("  parameters  %s\n", qd_digits(t->parameters, digits));
	for (size_t i = 0; i < a->n_notes; i++)
		qd_print("  note        %s\n", a->notes[i]);
	return verbose ? print_loras(a) : QD_OK;
}

enum qd_status qd_inspect_adapter(
	const struct qd_adapter *adapter, const struct qd_modules *modules, const char *family, const struct qd_common *common)
{
	struct facts f = { .adapter = adapter, .family = family };
	for (size_t i = 0; i < modules->n; i++)
		qd_module_sets_add(&f.available, &modules->items[i]);
	for (size_t i = 0; i < adapter->n; i++) {
		const struct qd_module *module = qd_modules_find(modules, adapter->loras[i].path);
		enum qd_status st = add_lora(&f.total, &adapter->loras[i]);
		if (st != QD_OK)
			return st;
		if (module != NULL)
			qd_module_sets_add(&f.adapted, module);
	}
	return common->json ? print_json(&f) : print_text(&f, common->verbose > 0);
}

/* ---- one that does not fit ---- */

static void print_layer_fit(const struct qd_layer_fit *fit)
{
	char found[QD_SHAPE_TEXT];
	qd_print("  %-8s %s",
		fit->fits           ? "fits"
		: fit->path != NULL ? "differs"
				    : "unknown",
		fit->path != NULL ? fit->path : fit->name);
	if (fit->tensor != NULL)
		qd_print("  tensor '%s' is %s, needs %s", fit->tensor, qd_shape_text(&fit->found, found), fit->needed);
	putchar('\n');
}

static json_t *layer_fit_json(const struct qd_layer_fit *fit)
{
	char found[QD_SHAPE_TEXT];
	json_t *o = json_pack("{s:s,s:s?,s:b}", "name", fit->name, "path", fit->path, "fits", fit->fits);
	if (fit->tensor != NULL)
		json_object_update_new(o, json_pack("{s:s,s:s,s:s}", "tensor", fit->tensor, "found",
						  qd_shape_text(&fit->found, found), "needed", fit->needed));
	return o;
}

static enum qd_status print_diff(const char *path, const struct qd_adapter_diff *diff, bool json)
{
	json_t *layers = json ? json_array() : NULL;
	if (!json) {
		qd_print("%s: %zu of %zu layers fit; it looks made for %s\n", path, diff->fits, diff->n,
			diff->family != NULL ? diff->family : "no known model");
		for (size_t i = 0; i < diff->n; i++)
			print_layer_fit(&diff->layers[i]);
		return QD_OK;
	}
	for (size_t i = 0; i < diff->n; i++)
		json_array_append_new(layers, layer_fit_json(&diff->layers[i]));
	return qd_print_json(json_pack("{s:i,s:s,s:s,s:s?,s:I,s:o}", "schema", 1, "kind", "misfit", "path", path, "looks_made_for",
		diff->family, "fits", (json_int_t)diff->fits, "layers", layers));
}

enum qd_status qd_inspect_misfit(const char *path, const struct qd_modules *modules, const struct qd_common *common)
{
	struct qd_adapter_diff diff = { 0 };
	char message[4096];
	snprintf(message, sizeof(message), "%s", qd_message());
	enum qd_status st = qd_adapter_compare(&diff, path, modules);
	/* anything else that is wrong with the file has been said */
	if (st == QD_OK && diff.fits < diff.n)
		st = print_diff(path, &diff, common->json);
	qd_adapter_diff_release(&diff);
	return st == QD_EIO ? st : qd_fail(QD_EINPUT, "%s", message);
}
