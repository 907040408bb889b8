/* Adapters under a profile: alignment to the profile's encodings and the way back to an adapter. */
#include "quant/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void print_encoding(FILE *f, const struct qd_encoding *e)
{
	fprintf(f, " %d %d %a %a", e->bits, e->is_signed, (double)e->scale[0], (double)e->zero_point[0]);
}

/* A hash of one line per slot: path, then bits, signedness, scale and zero point of down and of up. */
enum qd_status qd_profile_encodings_id(const struct qd_profile *profile, char *out)
{
	const struct qd_slot_encodings *encodings = profile->slot_encodings;
	struct qd_text text;
	enum qd_status st;

	QD_TRY(st, qd_text_open(&text));
	QD_TRY(st, qd_profile_check_slots(profile));
	for (size_t i = 0; i < profile->slots.n; i++) {
		fputs(profile->slots.items[i].path, text.stream);
		print_encoding(text.stream, encodings[i].down);
		print_encoding(text.stream, encodings[i].up);
		fputc('\n', text.stream);
	}
	QD_TRY(st, qd_text_end(&text));
	qd_hash_bytes(text.bytes, text.n, out);
out:
	qd_text_release(&text);
	return st;
}

enum qd_status qd_fit_adapter(struct qd_fitted *fitted, const struct qd_adapter *adapter, const struct qd_profile *profile,
	enum qd_align align, bool refit)
{
	char id[QD_HASH_TEXT];
	enum qd_status st;

	*fitted = (struct qd_fitted){ 0 };
	QD_TRY(st, qd_profile_check_slots(profile));
	if (adapter->encodings_id != NULL) {
		QD_TRY(st, qd_profile_encodings_id(profile, id));
		bool here = strcmp(adapter->encodings_id, id) == 0;
		if (!here && !refit)
			qd_log(QD_LOG_WARNING,
				"adapter '%s' was distilled for the grid %s of another profile, this one's is %s: it is taken as "
				"it is; "
				"--refit fits it anew",
				adapter->name, adapter->encodings_id, id);
		if (here || !refit)
			align = QD_ALIGN_NONE;
	}
	QD_TRY(st, qd_fit_slots(fitted, adapter, &profile->slots, profile->slot_encodings, align));
out:
	return st;
}

enum qd_status qd_update_sqnr(
	const struct qd_adapter *adapter, const struct qd_fitted *fitted, const struct qd_profile *profile, double *db)
{
	enum qd_status st = qd_profile_check_slots(profile);

	return st == QD_OK ? qd_slots_update_sqnr(adapter, fitted, &profile->slots, profile->slot_encodings, db) : st;
}

static bool all_zero(size_t n, const float *x)
{
	while (n > 0 && x[n - 1] == 0)
		n--;
	return n == 0;
}

/* One layer without its padding: the first `rank` components. */
static enum qd_status to_lora(
	struct qd_arena *arena, const struct qd_slot *slot, const struct qd_fitted_slot *f, struct qd_lora *lora)
{
	size_t in = (size_t)(slot->in * slot->kh * slot->kw), out = (size_t)slot->out, r = (size_t)f->rank;

	*lora = (struct qd_lora){ .path = qd_arena_strdup(arena, slot->path),
		.rank = f->rank,
		.out = slot->out,
		.in = slot->in,
		.kh = slot->kh,
		.kw = slot->kw,
		.conv = slot->conv };
	lora->down = qd_arena_array(arena, r * in, sizeof(float));
	lora->up = qd_arena_array(arena, out * r, sizeof(float));
	lora->gain = qd_arena_array(arena, r, sizeof(float));
	if (f->bias != NULL && !all_zero(out, f->bias)) {
		lora->bias = qd_arena_array(arena, out, sizeof(float));
		if (lora->bias == NULL)
			return QD_ENOMEM;
		memcpy(lora->bias, f->bias, out * sizeof(float));
	}
	if (lora->path == NULL || lora->down == NULL || lora->up == NULL || lora->gain == NULL)
		return QD_ENOMEM;
	memcpy(lora->down, f->down, r * in * sizeof(float));
	memcpy(lora->gain, f->gain, r * sizeof(float));
	for (size_t o = 0; o < out; o++)
		memcpy(lora->up + o * r, f->up + o * (size_t)slot->rank, r * sizeof(float));
	return QD_OK;
}

enum qd_status qd_fitted_to_adapter(
	const struct qd_fitted *fitted, const struct qd_profile *profile, const char *name, struct qd_adapter *out)
{
	enum qd_status st = QD_OK;

	*out = (struct qd_adapter){ .format = QD_ADAPTER_DIFFUSERS };
	out->name = qd_arena_strdup(&out->arena, name);
	out->path = "";
	out->loras = qd_arena_array(&out->arena, fitted->n, sizeof(*out->loras));
	if (out->name == NULL || out->loras == NULL) {
		st = QD_ENOMEM;
		goto out;
	}
	for (size_t i = 0; i < fitted->n; i++) {
		if (fitted->slots[i].rank == 0)
			continue;
		QD_TRY(st, to_lora(&out->arena, &profile->slots.items[i], &fitted->slots[i], &out->loras[out->n]));
		QD_TRY(st, qd_strmap_put(&out->by_path, out->loras[out->n].path, (uint32_t)out->n));
		out->n++;
	}
out:
	if (st != QD_OK)
		qd_adapter_release(out);
	return st;
}
