/* The profile in memory: which tensor has which encoding, and hanging the encodings on a net. */
#include "quant/internal.h"

#include <stdlib.h>
#include <string.h>

#define FIRST(first, ...) first
#define NAME(id, ...) FIRST(__VA_ARGS__, ),
const char *const qd_share_names[] = { QD_SHARE_LIST(NAME) NULL };
const char *const qd_align_names[] = { QD_ALIGN_LIST(NAME) NULL };
const char *const qd_method_names[] = { QD_METHOD_LIST(NAME) NULL };
const char *const qd_observer_names[] = { QD_OBSERVER_LIST(NAME) NULL };
const char *const qd_divergence_names[] = { QD_DIVERGENCE_LIST(NAME) NULL };
const char *const qd_scope_names[] = { QD_SCOPE_LIST(NAME) NULL };
const char *const qd_weight_scheme_names[] = { "per-tensor", "per-channel", NULL };

struct qd_quant_options qd_quant_options_default(void)
{
	return (struct qd_quant_options){ .weight_bits = 8,
		.lora_bits = 8,
		.act_bits = 16,
		.weight_per_channel = true,
		.share = QD_SHARE_SLOT,
		.align = QD_ALIGN_GAIN,
		.method = QD_METHOD_AUTO,
		.equal_level = 0.05,
		.observer = QD_OBSERVE_MINMAX,
		.percentile = 99.99,
		.divergence = QD_DIVERGENCE_JS,
		.scope = QD_SCOPE_ADAPTER };
}

const char *qd_profile_tensor(struct qd_profile *profile, const char *path, const char *suffix)
{
	return qd_arena_strf(&profile->arena, "%s%s", path, suffix);
}

enum qd_status qd_profile_add(struct qd_profile *profile, enum qd_entry_kind kind, const char *name, struct qd_encoding *encoding)
{
	struct qd_profile_entry entry = { qd_arena_strdup(&profile->arena, name), kind, encoding };
	enum qd_status st;

	if (entry.name == NULL)
		return QD_ENOMEM;
	if (qd_strmap_get(&profile->by_name, name) != QD_NONE)
		return qd_fail(QD_EINPUT, "two entries are called '%s'", name);
	QD_TRY(st, qd_strmap_put(&profile->by_name, name, (uint32_t)profile->n_entries));
	QD_PUSH(st, profile->entries, profile->n_entries, profile->cap_entries, entry);
out:
	return st;
}

const struct qd_encoding *qd_profile_find(const struct qd_profile *profile, const char *tensor)
{
	uint32_t at = qd_strmap_get(&profile->by_name, tensor);

	return at == QD_NONE ? NULL : profile->entries[at].encoding;
}

void qd_profile_release(struct qd_profile *profile)
{
	free(profile->entries);
	qd_strmap_release(&profile->by_name);
	qd_slots_release(&profile->slots);
	qd_arena_release(&profile->arena);
	memset(profile, 0, sizeof(*profile));
}

enum qd_status qd_profile_check_base(const struct qd_profile *profile, const struct qd_model *model)
{
	char hash[QD_HASH_TEXT];
	enum qd_status st = qd_model_hash(model, hash);

	if (st == QD_OK && strcmp(hash, profile->base_hash) != 0)
		return qd_fail(QD_EINPUT, "base model '%s' has hash %s, the profile was made for %s", model->folder, hash,
			profile->base_hash);
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
