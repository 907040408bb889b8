/*
 * cloneofsimo's positional files:
 *
 *   tensor key  := MODEL ":" N ":" ("up" | "down")       MODEL in {unet, text_encoder}; N = 0, 1, 2, ...
 *   metadata    : MODEL -> JSON list of class names; "MODEL:N:rank" -> decimal; TOKEN -> "<embed>"
 *   tensor TOKEN: a textual-inversion vector
 *
 * Scale 1. Layers have no names: N counts the layers inside modules of the listed classes in the order in which the model registers
 * them: blocks down, up, mid; in a block attentions, then (extended set, ResnetBlock2D listed) resnets. In a transformer block
 *
 *   old (diffusers < 0.15)  attn1 q k v out, ff.net.0.proj, attn2 q k v out
 *   new                     attn1 q k v out, attn2 q k v out, ff.net.0.proj
 *
 * which the first feed-forward's place tells apart: its up has more rows than an attention's. In a resnet: conv1, time_emb_proj,
 * conv2, conv_shortcut. Every shape is checked against the model; equal shapes rest on the order.
 */
#include "lib/adapter/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* "MODEL:N:up" or "MODEL:N:down". */
static bool split_key(const char *key, size_t *model, unsigned *position, enum qd_lora_role *role)
{
	int used = 0;

	*model = strcspn(key, ":");
	if (*model == 0 || sscanf(key + *model, ":%7u:%n", position, &used) != 1 || used == 0 || key[*model + 1] < '0' ||
		key[*model + 1] > '9')
		return false;
	*role = strcmp(key + *model + used, "up") == 0 ? QD_ROLE_UP : QD_ROLE_DOWN;
	return *role == QD_ROLE_UP || strcmp(key + *model + used, "down") == 0;
}

static bool cloneofsimo_detect(const struct qd_reading *r)
{
	const struct qd_safetensors *file = &r->file;
	size_t model;
	unsigned position;
	enum qd_lora_role role;

	for (size_t i = 0; i < file->n && file->n_metadata > 0; i++)
		if (split_key(file->tensors[i].name, &model, &position, &role))
			return true;
	return false;
}

/* ---- the order ---- */

struct targets {
	bool attention, geglu, resnet, new_order;
};

static enum qd_status read_targets(const struct qd_reading *r, struct targets *targets)
{
	const char *text = qd_safetensors_metadata(&r->file, "unet");
	json_t *list = NULL, *entry;
	enum qd_status st = QD_OK;
	size_t i;

	*targets = (struct targets){ .attention = true, .geglu = true };
	if (text == NULL)
		return QD_OK;
	QD_TRY(st, qd_json_parse("metadata 'unet'", text, strlen(text), &list));
	*targets = (struct targets){ 0 };
	json_array_foreach(list, i, entry)
	{
		const char *name = json_is_string(entry) ? json_string_value(entry) : "(no text)";
		if (strcmp(name, "CrossAttention") == 0 || strcmp(name, "Attention") == 0) {
			targets->attention = true;
		} else if (strcmp(name, "GEGLU") == 0) {
			targets->geglu = true;
		} else if (strcmp(name, "ResnetBlock2D") == 0) {
			targets->resnet = true;
		} else {
			st = qd_fail(QD_EUNSUPPORTED,
				"metadata 'unet' lists class '%s', known are CrossAttention, Attention, GEGLU, ResnetBlock2D",
				name);
			goto out;
		}
	}
out:
	json_decref(list);
	return st;
}

/* What a layer is sorted by: block, attention or resnet, which one, transformer block, place in it. */
struct place {
	int key[5];
	uint32_t module;
};

static int place_in(const char *const *names, size_t n, const char *name)
{
	for (size_t i = 0; i < n; i++)
		if (strcmp(names[i], name) == 0)
			return (int)i;
	return -1;
}

static int place_in_transformer(const struct targets *targets, const char *rest)
{
	static const char *const names[] = { "attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0", "attn2.to_q", "attn2.to_k",
		"attn2.to_v", "attn2.to_out.0" };
	int at;

	if (strcmp(rest, "ff.net.0.proj") == 0)
		return !targets->geglu ? -1 : targets->new_order ? 100 : 4;
	at = targets->attention ? place_in(names, QD_COUNT(names), rest) : -1;
	return at >= 4 ? at + 1 : at;
}

static bool place_of(const struct targets *targets, const char *path, struct place *place)
{
	static const char *const in_resnet[] = { "conv1", "time_emb_proj", "conv2", "conv_shortcut" };
	int *key = place->key, used = 0;

	memset(key, 0, sizeof(place->key));
	if (sscanf(path, "down_blocks.%d.%n", &key[0], &used) != 1 && sscanf(path, "up_blocks.%d.%n", &key[0], &used) == 1)
		key[0] += 1000;
	if (used == 0 && qd_starts_with(path, "mid_block.")) {
		key[0] = 2000;
		used = (int)strlen("mid_block.");
	}
	if (used == 0)
		return false;
	path += used;
	used = 0;
	if (sscanf(path, "attentions.%d.transformer_blocks.%d.%n", &key[2], &key[3], &used) == 2 && used > 0) {
		key[4] = place_in_transformer(targets, path + used);
		return key[4] >= 0;
	}
	used = 0;
	key[1] = 1;
	if (!targets->resnet || sscanf(path, "resnets.%d.%n", &key[2], &used) != 1 || used == 0)
		return false;
	key[4] = place_in(in_resnet, QD_COUNT(in_resnet), path + used);
	return key[4] >= 0;
}

static int compare_places(const void *a, const void *b)
{
	const struct place *x = a, *y = b;
	for (size_t i = 0; i < QD_COUNT(x->key); i++)
		if (x->key[i] != y->key[i])
			return x->key[i] < y->key[i] ? -1 : 1;
	return 0;
}

/* The model's target layers in the file's order. */
static size_t order_layers(const struct qd_modules *modules, const struct targets *targets, struct place *places)
{
	size_t n = 0;
	for (size_t m = 0; m < modules->n; m++)
		if (place_of(targets, modules->items[m].path, &places[n]))
			places[n++].module = (uint32_t)m;
	qsort(places, n, sizeof(*places), compare_places);
	return n;
}

/* In the old order the fifth layer is a feed-forward, with more rows than the attention's. */
static bool has_new_order(const struct qd_reading *r, const struct targets *targets)
{
	const struct qd_tensor *first = qd_safetensors_find(&r->file, "unet:0:up"),
			       *fifth = qd_safetensors_find(&r->file, "unet:4:up");

	if (!targets->attention || !targets->geglu || first == NULL || fifth == NULL)
		return false;
	return first->shape.rank >= 1 && fifth->shape.rank >= 1 && first->shape.dim[0] == fifth->shape.dim[0];
}

/* ---- keys ---- */

/* The rank that the metadata says, where it says one. */
static enum qd_status check_rank(const struct qd_reading *r, unsigned position, const struct qd_tensor *down)
{
	char key[32];
	const char *text;

	snprintf(key, sizeof(key), "unet:%u:rank", position);
	text = qd_safetensors_metadata(&r->file, key);
	if (text != NULL && down->shape.rank > 0 && strtoll(text, NULL, 10) != down->shape.dim[0])
		return qd_fail(QD_EINPUT, "metadata '%s' is %s, tensor '%s' has %lld rows", key, text, down->name,
			(long long)down->shape.dim[0]);
	return QD_OK;
}

static enum qd_status collect_one(
	struct qd_reading *r, const struct qd_tensor *tensor, const struct place *places, size_t n, unsigned *highest)
{
	const char *key = tensor->name, *embed = qd_safetensors_metadata(&r->file, key);
	size_t model;
	unsigned position;
	enum qd_lora_role role;
	char name[32];
	enum qd_status st = QD_OK;

	if (embed != NULL && strcmp(embed, "<embed>") == 0) {
		r->adapter->embeddings++;
		return QD_OK;
	}
	if (!split_key(key, &model, &position, &role))
		return qd_fail(
			QD_EINPUT, "key '%s' is neither MODEL:N:up, MODEL:N:down nor an embedding that the metadata names", key);
	if (model == strlen("text_encoder") && qd_starts_with(key, "text_encoder")) {
		r->adapter->text_tensors++;
		return QD_OK;
	}
	if (model != strlen("unet") || !qd_starts_with(key, "unet"))
		return qd_fail(QD_EINPUT, "key '%s' is of model '%.*s', known are unet and text_encoder", key, (int)model, key);
	if (role == QD_ROLE_DOWN)
		QD_TRY(st, check_rank(r, position, tensor));
	*highest = position + 1 > *highest ? position + 1 : *highest;
	snprintf(name, sizeof(name), "unet:%u", position);
	st = qd_reading_put(r, name, position < n ? places[position].module : QD_NONE, role, tensor);
out:
	return st;
}

static enum qd_status cloneofsimo_collect(struct qd_reading *r)
{
	struct place *places = calloc(r->modules->n + 1, sizeof(*places));
	struct targets targets;
	unsigned highest = 0;
	size_t n;
	enum qd_status st;

	if (places == NULL)
		return qd_fail(QD_ENOMEM, "out of memory");
	QD_TRY(st, read_targets(r, &targets));
	targets.new_order = has_new_order(r, &targets);
	n = order_layers(r->modules, &targets, places);
	for (size_t i = 0; i < r->file.n; i++)
		if (!qd_reading_skips(r, r->file.tensors[i].name))
			QD_TRY(st, collect_one(r, &r->file.tensors[i], places, n, &highest));
	if (highest != r->n)
		st = qd_fail(QD_EINPUT, "layers are numbered up to unet:%u but there are %zu of them", highest - 1, r->n);
	else if (highest > 0 && highest != n)
		st = qd_fail(QD_EINPUT, "%u UNet layers by position, this model has %zu of these classes: made for another model",
			highest, n);
out:
	free(places);
	return st;
}

const struct qd_dialect qd_dialect_cloneofsimo = {
	.told_by = "keys MODEL:N:up and metadata", .any_keys = true, .detect = cloneofsimo_detect, .collect = cloneofsimo_collect
};
