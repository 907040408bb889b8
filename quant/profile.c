/* The profile in memory: which tensor and which slot has which encoding, and hanging the encodings on a net. */
#include "quant/internal.h"

#include <stdlib.h>
#include <string.h>

/* An entry of a LoRA tensor is its slot's too. */
static enum qd_status resolve_slot(struct qd_profile *p, const struct qd_profile_entry *entry)
{
	enum qd_lora_tensor tensor = qd_lora_tensor_of(entry->name);
	struct qd_slot_encodings *of_slot;
	uint32_t slot = QD_NONE;

	if (tensor != QD_LORA_NONE && tensor != QD_LORA_BIAS) {
		int length = (int)(strlen(entry->name) - strlen(qd_lora_suffix(tensor)));
		char *path = qd_arena_strf(&p->arena, "%.*s", length, entry->name);

		if (path == NULL)
			return QD_ENOMEM;
		slot = qd_strmap_get(&p->slots.by_path, path);
	}
	if (slot == QD_NONE)
		return QD_OK;
	if (p->slot_encodings == NULL)
		p->slot_encodings = qd_arena_array(&p->arena, p->slots.n, sizeof(*p->slot_encodings));
	if (p->slot_encodings == NULL)
		return QD_ENOMEM;
	of_slot = &p->slot_encodings[slot];
	*(tensor == QD_LORA_DOWN ? &of_slot->down : tensor == QD_LORA_UP ? &of_slot->up : &of_slot->gain) = entry->encoding;
	return QD_OK;
}

enum qd_status qd_profile_entry_added(void *profile, size_t i)
{
	struct qd_profile *p = profile;
	const struct qd_profile_entry *entry = &p->entries[i];
	enum qd_status st;

	if (qd_strmap_get(&p->by_name, entry->name) != QD_NONE)
		return qd_fail(QD_EINPUT, "two entries are called '%s'", entry->name);
	QD_TRY(st, qd_strmap_put(&p->by_name, entry->name, (uint32_t)i));
	QD_TRY(st, resolve_slot(p, entry));
out:
	return st;
}

enum qd_status qd_profile_add(struct qd_profile *p, enum qd_entry_kind kind, const char *name, const struct qd_encoding *encoding)
{
	struct qd_profile_entry entry = { qd_arena_strdup(&p->arena, name), kind, encoding };
	enum qd_status st;

	if (entry.name == NULL)
		return QD_ENOMEM;
	if (p->n_entries >= p->cap_entries) {
		size_t cap = p->n_entries < 32 ? 64 : 2 * p->n_entries;
		struct qd_profile_entry *entries = qd_arena_array(&p->arena, cap, sizeof(*entries));

		if (entries == NULL)
			return QD_ENOMEM;
		if (p->n_entries > 0)
			memcpy(entries, p->entries, p->n_entries * sizeof(*entries));
		p->entries = entries;
		p->cap_entries = cap;
	}
	p->entries[p->n_entries] = entry;
	st = qd_profile_entry_added(p, p->n_entries);
	p->n_entries += st == QD_OK;
	return st;
}

enum qd_status qd_profile_check_slots(const struct qd_profile *p)
{
	for (size_t i = 0; i < p->slots.n; i++) {
		const struct qd_slot_encodings none = { 0 }, *e = p->slot_encodings != NULL ? &p->slot_encodings[i] : &none;
		bool down = e->down != NULL && e->down->n == 1, up = e->up != NULL && e->up->n == 1;

		if (!down || !up)
			return qd_fail(QD_EINPUT, "the profile has no encoding of one scale for '%s%s'", p->slots.items[i].path,
				qd_lora_suffix(down ? QD_LORA_UP : QD_LORA_DOWN));
	}
	return QD_OK;
}

const struct qd_encoding *qd_profile_find(const struct qd_profile *profile, const char *tensor)
{
	uint32_t at = qd_strmap_get(&profile->by_name, tensor);

	return at == QD_NONE ? NULL : profile->entries[at].encoding;
}

void qd_profile_release(struct qd_profile *profile)
{
	qd_strmap_release(&profile->by_name);
	qd_slots_release(&profile->slots);
	qd_provenance_release(&profile->provenance);
	qd_arena_release(&profile->arena);
	memset(profile, 0, sizeof(*profile));
}

enum qd_status qd_profile_check_base(const struct qd_profile *profile, const struct qd_model *model)
{
	char hash[QD_HASH_TEXT];
	enum qd_status st = qd_model_hash(model, hash);

	if (st == QD_OK && strcmp(hash, profile->base_hash) != 0)
		return qd_fail(QD_EINPUT,
			"the profile was made for %s, the base model '%s' is %s: quad qss makes one for this model",
			profile->base_hash, model->folder, hash);
	return st;
}

/* One scale, or as many as the axis is long. */
static enum qd_status check_axis(const struct qd_value *value, const struct qd_profile_entry *entry)
{
	const struct qd_encoding *e = entry->encoding;
	char text[QD_SHAPE_TEXT];

	if (e->axis < 0 || (e->axis < value->shape.rank && value->shape.dim[e->axis] == (int64_t)e->n))
		return QD_OK;
	return qd_fail(QD_EINPUT, "tensor '%s' is %s, its entry has %zu scales along axis %d", entry->name,
		qd_shape_text(&value->shape, text), e->n, e->axis);
}

/* A value that should carry an encoding does; without activation bits, activations need none. */
static enum qd_status check_complete(const struct qd_profile *profile, const struct qd_graph *g, const enum qd_entry_kind *kinds)
{
	for (qd_id v = 0; v < g->n_values; v++) {
		bool needs = kinds[v] != QD_ENTRY_NONE && (kinds[v] != QD_ENTRY_ACTIVATION || profile->options.act_bits > 0);

		if (needs && g->values[v].encoding == NULL)
			return qd_fail(QD_EINPUT, "tensor '%s' of the graph has no entry in the profile", g->values[v].name);
	}
	return QD_OK;
}

enum qd_status qd_profile_apply(const struct qd_profile *profile, struct qd_net *net)
{
	struct qd_graph *g = &net->graph;
	enum qd_entry_kind *kinds = calloc(g->n_values + 1, sizeof(*kinds));
	enum qd_status st;

	if (kinds == NULL)
		return qd_fail(QD_ENOMEM, "out of memory");
	QD_TRY(st, qd_assign(g, kinds));
	for (size_t i = 0; i < profile->n_entries; i++) {
		const struct qd_profile_entry *entry = &profile->entries[i];
		qd_id v = qd_graph_find(g, entry->name);

		if (v == QD_NONE || g->values[v].dead || kinds[v] != entry->kind)
			QD_TRY(st,
				qd_fail(QD_EINPUT, "the profile has an entry for '%s', the graph has no such tensor", entry->name));
		QD_TRY(st, check_axis(&g->values[v], entry));
		g->values[v].encoding = entry->encoding;
	}
	QD_TRY(st, check_complete(profile, g, kinds));
out:
	free(kinds);
	return st;
}
