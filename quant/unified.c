/*
 * Encodings of slots, min-max over tensors: an adapter's own, and the shared ones. What a shared encoding spans, first rule that
 * applies:
 *
 *   1. the anchor's tensor, where there is an anchor and it has one
 *   2. the union over all adapters that have one (Unified-LoRA: the merged distribution's range)
 *   3. the union over all slots, for a slot of a declared set that no adapter uses yet
 *
 * A tensor of zeros (a fresh up) spans nothing and counts as absent. With QD_SHARE_LAYER the base weight, up and down of a layer
 * have one encoding, which spans the three.
 */
#include "quant/internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Spans of one slot's tensors. */
struct spans {
	struct qd_range down, up;
};

static bool spans_nothing(const struct qd_range *r)
{
	return r->low == 0 && r->high == 0;
}

static struct spans spans_of(const struct qd_lora *lora)
{
	struct spans s = { 0 };

	if (lora != NULL) {
		qd_range_add(&s.down, (size_t)(lora->rank * lora->in * lora->kh * lora->kw), lora->down);
		qd_range_add(&s.up, (size_t)(lora->out * lora->rank), lora->up);
	}
	return s;
}

static enum qd_status encode(
	struct qd_arena *arena, const struct qd_range *r, int bits, const char *path, const struct qd_encoding **out)
{
	struct qd_encoding *e = NULL;
	enum qd_status st;

	if (r->bad)
		return qd_fail(QD_EINPUT, "layer '%s' holds a value that is not finite", path);
	st = qd_encoding_from_range(arena, r->low, r->high, bits, true, &e);
	*out = e;
	return st;
}

enum qd_status qd_own_encodings(struct qd_arena *arena, const struct qd_slots *slots, const struct qd_adapter *adapter, int bits,
	struct qd_slot_encodings *out)
{
	enum qd_status st = QD_OK;

	memset(out, 0, slots->n * sizeof(*out));
	for (size_t i = 0; st == QD_OK && i < slots->n; i++) {
		const struct qd_lora *lora = qd_adapter_find(adapter, slots->items[i].path);
		struct spans s = spans_of(lora);

		if (lora == NULL)
			continue;
		st = encode(arena, &s.down, bits, lora->path, &out[i].down);
		if (st == QD_OK)
			st = encode(arena, &s.up, bits, lora->path, &out[i].up);
	}
	return st == QD_OK ? st : qd_prefix(st, "adapter '%s'", adapter->name);
}

/* Rules 1 and 2 for one slot; an empty span where neither applies. */
static struct spans shared_spans(const struct qd_slot *slot, const struct qd_adapter *const *adapters, size_t n, size_t anchor)
{
	struct spans all = { 0 }, own = { 0 };

	for (size_t i = 0; i < n; i++) {
		struct spans s = spans_of(qd_adapter_find(adapters[i], slot->path));

		qd_range_join(&all.down, &s.down);
		qd_range_join(&all.up, &s.up);
		if (i == anchor)
			own = s;
	}
	if (!spans_nothing(&own.down))
		all.down = own.down;
	if (!spans_nothing(&own.up))
		all.up = own.up;
	return all;
}

/* Rule 3. */
static void fill_empty(struct spans *spans, size_t n)
{
	struct spans widest = { 0 };

	for (size_t i = 0; i < n; i++) {
		qd_range_join(&widest.down, &spans[i].down);
		qd_range_join(&widest.up, &spans[i].up);
	}
	for (size_t i = 0; i < n; i++) {
		if (spans_nothing(&spans[i].down))
			spans[i].down = widest.down;
		if (spans_nothing(&spans[i].up))
			spans[i].up = widest.up;
	}
}

/* One encoding for base weight, up and down. */
static enum qd_status encode_layer(struct qd_arena *arena, const struct qd_slot *slot, const struct spans *s, int bits,
	const struct qd_weights *weights, struct qd_slot_encodings *out)
{
	char *name = qd_arena_strf(arena, "%s.weight", slot->path);
	const struct qd_tensor *weight = name != NULL ? qd_weights_find(weights, name) : NULL;
	struct qd_range range = s->down, of_weight;
	enum qd_status st;

	if (name == NULL)
		return QD_ENOMEM;
	if (weight == NULL)
		return qd_fail(QD_EINPUT, "the base model has no tensor '%s'", name);
	st = qd_tensor_range(weight, &of_weight);
	if (st != QD_OK)
		return st;
	qd_range_join(&range, &s->up);
	qd_range_join(&range, &of_weight);
	st = encode(arena, &range, bits, slot->path, &out->down);
	out->up = out->down;
	return st;
}

enum qd_status qd_shared_encodings(struct qd_arena *arena, const struct qd_slots *slots, const struct qd_adapter *const *adapters,
	size_t n, size_t anchor, const struct qd_quant_options *options, const struct qd_weights *weights,
	struct qd_slot_encodings *out)
{
	struct spans *spans = calloc(slots->n + 1, sizeof(*spans));
	enum qd_status st = QD_OK;

	if (spans == NULL)
		return qd_fail(QD_ENOMEM, "out of memory");
	for (size_t i = 0; i < slots->n; i++)
		spans[i] = shared_spans(&slots->items[i], adapters, n, anchor);
	fill_empty(spans, slots->n);
	for (size_t i = 0; st == QD_OK && i < slots->n; i++) {
		const char *path = slots->items[i].path;

		if (options->share == QD_SHARE_LAYER) {
			st = encode_layer(arena, &slots->items[i], &spans[i], options->weight_bits, weights, &out[i]);
			continue;
		}
		st = encode(arena, &spans[i].down, options->lora_bits, path, &out[i].down);
		if (st == QD_OK)
			st = encode(arena, &spans[i].up, options->lora_bits, path, &out[i].up);
	}
	free(spans);
	return st;
}
