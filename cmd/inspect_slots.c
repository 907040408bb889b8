/*
 * quad inspect on a model with adapters: the one graph that they make together. Everything up to running it is done: the model's
 * graph at its native size, every adapter read, slots chosen and attached.
 */
#include "cmd/inspect.h"

#include <stdio.h>
#include <string.h>

struct joint {
	struct qd_opened opened;
	struct qd_slots slots;
	struct qd_graph g;
	struct qd_module_sets adapted, available;
	int64_t rank_low, rank_high;
	uint64_t elements; /* of all slot inputs: what switching an adapter binds */
};

static void count(struct joint *j)
{
	const struct qd_modules *modules = &j->opened.modules;
	for (size_t i = 0; i < modules->n; i++)
		qd_module_sets_add(&j->available, &modules->items[i]);
	for (size_t i = 0; i < j->slots.n; i++) {
		const struct qd_slot *slot = &j->slots.items[i];
		const struct qd_module *module = qd_modules_find(modules, slot->path);
		if (module != NULL)
			qd_module_sets_add(&j->adapted, module);
		j->rank_low = i == 0 || slot->rank < j->rank_low ? slot->rank : j->rank_low;
		j->rank_high = slot->rank > j->rank_high ? slot->rank : j->rank_high;
		j->elements += (uint64_t)(slot->rank * (slot->in * slot->kh * slot->kw + slot->out + 1));
	}
}

static enum qd_status attach(struct joint *j, const struct qd_common *common)
{
	struct qd_opened *o = &j->opened;
	enum qd_status st;
	QD_TRY(st, qd_open_mapped(o, common));
	struct qd_sizes sizes = qd_model_native_sizes(&o->model);
	QD_TRY(st, qd_slots_choose(&j->slots, &o->modules, o->adapter_list, o->n_adapters, NULL, 0));
	QD_TRY(st, qd_model_graph(&j->g, &o->model, &sizes));
	QD_TRY(st, qd_slots_attach(&j->slots, &j->g));
	count(j);
out:
	return st;
}

static int64_t largest_rank(const struct qd_adapter *a)
{
	int64_t rank = 0;
	for (size_t i = 0; i < a->n; i++)
		rank = a->loras[i].rank > rank ? a->loras[i].rank : rank;
	return rank;
}

static enum qd_status print_text(const struct joint *j)
{
	const struct qd_opened *o = &j->opened;
	int width = (int)strlen("adapter");
	char digits[QD_DIGITS];
	for (size_t i = 0; i < o->n_adapters; i++)
		width = (int)strlen(o->adapters[i].name) > width ? (int)strlen(o->adapters[i].name) : width;
	qd_print("%s with %zu adapters in one graph\n", o->model.folder, o->n_adapters);
	qd_print("  slots       %zu of %zu modules: %zu of %zu in attention, %zu of %zu in transformers\n", j->adapted.all,
		j->available.all, j->adapted.attention, j->available.attention, j->adapted.transformer, j->available.transformer);
	qd_print("  rank        %lld", (long long)j->rank_low);
	qd_print(j->rank_low == j->rank_high ? "\n" : " to %lld\n", (long long)j->rank_high);
	qd_print("  inputs      %zu more, %s numbers for an adapter\n", 3 * j->slots.n, qd_digits(j->elements, digits));
	qd_print("  %-*s  %-11s  rank  slots  not used\n", width, "adapter", "format");
	for (size_t i = 0; i < o->n_adapters; i++) {
		const struct qd_adapter *a = &o->adapters[i];
		qd_print("  %-*s  %-11s  %4lld  %5zu  ", width, a->name, qd_adapter_format_name(a->format),
			(long long)largest_rank(a), a->n);
		qd_print(a->text_tensors ? "%zu tensors of text encoders\n" : "\n", a->text_tensors);
	}
	return QD_OK;
}

static enum qd_status print_json(const struct joint *j)
{
	const struct qd_opened *o = &j->opened;
	json_t *adapters = json_array();
	for (size_t i = 0; i < o->n_adapters; i++) {
		const struct qd_adapter *a = &o->adapters[i];
		json_array_append_new(adapters, json_pack("{s:s,s:s,s:s,s:I,s:I,s:I}", "name", a->name, "path", a->path, "format",
							qd_adapter_format_name(a->format), "rank", (json_int_t)largest_rank(a),
							"slots", (json_int_t)a->n, "text_tensors", (json_int_t)a->text_tensors));
	}
	json_t *root = json_pack("{s:i,s:s,s:s}", "schema", 1, "kind", "joint", "path", o->model.folder);
	json_object_set_new(root, "slots", json_integer((json_int_t)j->slots.n));
	json_object_set_new(root, "rank", json_pack("[I,I]", (json_int_t)j->rank_low, (json_int_t)j->rank_high));
	json_object_set_new(root, "elements", json_integer((json_int_t)j->elements));
	json_object_set_new(root, "modules", qd_module_sets_json(&j->adapted));
	json_object_set_new(root, "modules_of_model", qd_module_sets_json(&j->available));
	json_object_set_new(root, "adapters", adapters);
	return qd_print_json(root);
}

enum qd_status qd_inspect_joint(const char *path, const struct qd_common *common)
{
	struct qd_common with_base = *common;
	struct joint j = { 0 };
	enum qd_status st;
	with_base.base = path;
	QD_TRY(st, attach(&j, &with_base));
	QD_TRY(st, common->json ? print_json(&j) : print_text(&j));
out:
	qd_graph_release(&j.g);
	qd_slots_release(&j.slots);
	qd_opened_release(&j.opened);
	return st;
}
