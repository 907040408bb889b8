/* Adapters under a profile: alignment to the profile's encodings and the way back to an adapter. */
#include "quant/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The profile's encodings by slot, in an array that the caller frees. */
static enum qd_status encodings_of(const struct qd_profile *profile, struct qd_slot_encodings **out)
{
	static const char *const suffixes[] = { ".lora_down", ".lora_up" };
	struct qd_slot_encodings *encodings = calloc(profile->slots.n + 1, sizeof(*encodings));
	char *name = NULL;
	enum qd_status st = QD_OK;

	*out = NULL;
	if (encodings == NULL)
		return qd_fail(QD_ENOMEM, "out of memory");
	for (size_t i = 0; i < 2 * profile->slots.n; i++) {
		const struct qd_encoding *e;

		free(name);
		if (asprintf(&name, "%s%s", profile->slots.items[i / 2].path, suffixes[i % 2]) < 0) {
			name = NULL;
			st = qd_fail(QD_ENOMEM, "out of memory");
			break;
		}
		e = qd_profile_find(profile, name);
		if (e == NULL || e->n != 1) {
			st = qd_fail(QD_EINPUT, "the profile has no encoding of one scale for '%s'", name);
			break;
		}
		*(i % 2 == 0 ? &encodings[i / 2].down : &encodings[i / 2].up) = (struct qd_encoding *)e;
	}
	free(name);
	if (st == QD_OK)
		*out = encodings;
	else
		free(encodings);
	return st;
}

static void print_encoding(FILE *f, const struct qd_encoding *e)
{
	fprintf(f, " %d %d %a %a", e->bits, e->is_signed, (double)e->scale[0], (double)e->zero_point[0]);
}

/* A hash of one line per slot: path, then bits, signedness, scale and zero point of down and of up. */
enum qd_status qd_profile_grid(const struct qd_profile *profile, char *out)
{
	struct qd_slot_encodings *encodings = NULL;
	struct qd_text text;
	enum qd_status st;

	QD_TRY(st, qd_text_open(&text));
	QD_TRY(st, encodings_of(profile, &encodings));
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
	free(encodings);
	return st;
}

enum qd_status qd_fit_adapter(
	struct qd_fitted *fitted, const struct qd_adapter *adapter, const struct qd_profile *profile, enum qd_align align)
{
	struct qd_slot_encodings *encodings = NULL;
	char grid[QD_HASH_TEXT];
	enum qd_status st;

	*fitted = (struct qd_fitted){ 0 };
	st = encodings_of(profile, &encodings);
	if (st == QD_OK && adapter->grid != NULL)
		st = qd_profile_grid(profile, grid);
	if (st == QD_OK && adapter->grid != NULL && strcmp(adapter->grid, grid) == 0)
		align = QD_ALIGN_NONE;
	if (st == QD_OK)
		st = qd_fit_slots(fitted, adapter, &profile->slots, encodings, align);
	free(encodings);
	return st;
}

enum qd_status qd_update_sqnr(
	const struct qd_adapter *adapter, const struct qd_fitted *fitted, const struct qd_profile *profile, double *db)
{
	struct qd_slot_encodings *encodings;
	enum qd_status st = encodings_of(profile, &encodings);

	if (st == QD_OK)
		st = qd_slots_update_sqnr(adapter, fitted, &profile->slots, encodings, db);
	free(encodings);
	return st;
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
