/* Shared encodings, alignment and update SQNR: against golden values and against plain loops over the products. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "lib/math/math.h"
#include "quant/internal.h"
#include "tests/unit/adapter_help.h"
#include "tests/unit/scratch.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST = 8 };

/* Adapters over one model, their slots and room for encodings. */
struct bench {
	struct help_model model;
	struct qd_adapter adapters[MOST];
	const struct qd_adapter *list[MOST];
	size_t n;
	struct qd_slots slots;
	struct qd_arena arena;
	struct qd_slot_encodings *encodings;
};

static void bench_slots(struct bench *b)
{
	for (size_t i = 0; i < b->n; i++)
		b->list[i] = &b->adapters[i];
	OK(qd_slots_choose(&b->slots, &b->model.modules, b->list, b->n, NULL, 0));
	b->encodings = qd_arena_array(&b->arena, b->slots.n, sizeof(*b->encodings));
	assert_non_null(b->encodings);
}

static void bench_open(struct bench *b, const char *model, size_t n, const char *const *names, const char *const *paths)
{
	memset(b, 0, sizeof(*b));
	help_model_open(&b->model, model);
	for (b->n = 0; b->n < n; b->n++)
		OK(qd_adapter_open(&b->adapters[b->n], names[b->n], paths[b->n], 1, &b->model.modules));
	bench_slots(b);
}

static void bench_close(struct bench *b)
{
	for (size_t i = 0; i < b->n; i++)
		qd_adapter_release(&b->adapters[i]);
	qd_slots_release(&b->slots);
	qd_arena_release(&b->arena);
	help_model_close(&b->model);
}

/* Update SQNR of adapter i under the encodings of `anchor` (n: unified) or, with `own`, its own. */
static double update_db(struct bench *b, size_t i, size_t anchor, bool own, int bits, enum qd_align align)
{
	struct qd_quant_options options = qd_quant_options_default();
	struct qd_fitted fitted;
	double db;

	options.lora_bits = bits;
	if (own)
		OK(qd_own_encodings(&b->arena, &b->slots, b->list[i], bits, b->encodings));
	else
		OK(qd_shared_encodings(&b->arena, &b->slots, b->list, b->n, anchor, &options, NULL, b->encodings));
	OK(qd_fit_slots(&fitted, b->list[i], &b->slots, b->encodings, align));
	OK(qd_slots_update_sqnr(b->list[i], &fitted, &b->slots, b->encodings, &db));
	qd_fitted_release(&fitted);
	return db;
}

/* One row of a golden table: an object from adapter names to decibels, 0.01 dB. */
static void check_row(struct bench *b, const json_t *row, size_t anchor, bool own, int bits)
{
	for (size_t i = 0; i < b->n; i++) {
		const json_t *want = json_object_get(row, b->adapters[i].name);
		double db = update_db(b, i, anchor, own, bits, QD_ALIGN_NONE);

		if (want != NULL && !(fabs(db - json_number_value(want)) <= 0.01))
			fail_msg("%s, anchor %zu, own %d, %d bits: %f dB, golden %f", b->adapters[i].name, anchor, own, bits, db,
				json_number_value(want));
	}
}

static void check_table(struct bench *b, const json_t *table, int bits)
{
	assert_non_null(table);
	check_row(b, json_object_get(table, "own"), 0, true, bits);
	check_row(b, json_object_get(table, "unified"), b->n, false, bits);
	for (size_t i = 0; i < b->n; i++) {
		char key[128];

		snprintf(key, sizeof(key), "anchor %s", b->adapters[i].name);
		check_row(b, json_object_get(table, key), i, false, bits);
	}
}

/* Aligned under every choice of shared encodings: never below own. */
static void check_aligned(struct bench *b, int bits)
{
	for (size_t i = 0; i < b->n; i++) {
		double own = update_db(b, i, 0, true, bits, QD_ALIGN_NONE);

		for (size_t anchor = 0; anchor <= b->n; anchor++)
			assert_true(update_db(b, i, anchor, false, bits, QD_ALIGN_GAIN) >= own);
	}
}

static void check_file(struct bench *b, const char *path)
{
	json_t *json, *tables;

	OK(qd_json_read(path, &json));
	tables = json_object_get(json, "update_sqnr_db");
	check_table(b, json_object_get(tables, "int8"), 8);
	check_table(b, json_object_get(tables, "int16"), 16);
	check_aligned(b, 8);
	json_decref(json);
}

static void update_sqnr_equals_golden(void **state)
{
	static const char *const names[] = { "kohya.safetensors", "diffusers.safetensors", "diffusers_saved.safetensors", "peft",
		"peft_saved", "kohya_locon.safetensors" };
	const char *paths[QD_COUNT(names)], *expected = golden_path("qss/tiny15.json");
	char room[QD_COUNT(names)][512];
	struct bench b;

	(void)state;
	if (expected == NULL)
		skip();
	for (size_t i = 0; i < QD_COUNT(names); i++) {
		char name[128];

		snprintf(name, sizeof(name), "adapters/%s", names[i]);
		snprintf(room[i], sizeof(room[i]), "%s", golden_path(name));
		paths[i] = room[i];
	}
	bench_open(&b, "tiny15", QD_COUNT(names), names, paths);
	check_file(&b, golden_path("qss/tiny15.json"));
	bench_close(&b);
}

/* Three public adapters of very different ranges; "weapons" has golden values of its own only, the unified ones are of the other
 * two. */
static void real_adapters_equal_golden(void **state)
{
	static const char *const names[] = { "analog", "disney", "weapons" };
	const char *paths[QD_COUNT(names)];
	char room[QD_COUNT(names)][512];
	struct bench b;

	(void)state;
	for (size_t i = 0; i < QD_COUNT(names); i++) {
		char name[128];

		snprintf(name, sizeof(name), "../adapters/%s.safetensors", names[i]);
		if (golden_path(name) == NULL || golden_path("qss/real.json") == NULL)
			skip();
		snprintf(room[i], sizeof(room[i]), "%s", golden_path(name));
		paths[i] = room[i];
	}
	for (size_t n = 2; n <= QD_COUNT(names); n++) {
		bench_open(&b, "sd15", n, names, paths);
		if (n == 2)
			check_file(&b, golden_path("qss/real.json"));
		else
			check_aligned(&b, 8);
		bench_close(&b);
	}
}

/* ---- adapters made on the spot ---- */

/* `n` adapters over a few layers of tiny15, with ranks 1 to 5, magnitudes that differ by thousands, and gains of either sign. */
static void bench_random(struct bench *b, size_t n, uint64_t seed)
{
	static const char *const paths[] = { "conv_in", "time_embedding.linear_1", "down_blocks.0.attentions.0.proj_in",
		"mid_block.attentions.0.transformer_blocks.0.attn2.to_k", "up_blocks.0.resnets.0.conv1" };
	const struct qd_module *modules[QD_COUNT(paths)];
	struct qd_random random;

	memset(b, 0, sizeof(*b));
	help_model_open(&b->model, "tiny15");
	qd_random_init(&random, seed, 0);
	for (b->n = 0; b->n < n; b->n++) {
		struct qd_adapter *a = &b->adapters[b->n];
		size_t m = 0;
		char name[16];

		for (size_t i = 0; i < QD_COUNT(paths); i++)
			if (i == b->n || qd_random_below(&random, 4) > 0)
				modules[m++] = qd_modules_find(&b->model.modules, paths[i]);
		snprintf(name, sizeof(name), "a%zu", b->n);
		OK(qd_adapter_new(a, name, modules, m, 1 + (int64_t)qd_random_below(&random, 5), 1));
		for (size_t i = 0; i < a->n; i++) {
			struct qd_lora *l = &a->loras[i];
			double up = pow(10, 3 * qd_random_uniform(&random) - 3), down = pow(10, 3 * qd_random_uniform(&random) - 2);

			for (int64_t k = 0; k < l->rank * l->in * l->kh * l->kw; k++)
				l->down[k] = (float)(down * qd_random_normal(&random));
			for (int64_t k = 0; k < l->out * l->rank; k++)
				l->up[k] = (float)(up * qd_random_normal(&random));
			for (int64_t k = 0; k < l->rank; k++)
				l->gain[k] = (float)qd_random_normal(&random);
		}
	}
	bench_slots(b);
}

static double product(const struct qd_slot *s, const float *up, const float *gain, const float *down, int64_t rank, int64_t stride,
	int64_t o, int64_t i)
{
	int64_t in = s->in * s->kh * s->kw;
	double sum = 0;

	for (int64_t k = 0; k < rank; k++)
		sum += (double)up[o * stride + k] * (double)gain[k] * (double)down[k * in + i];
	return sum;
}

/* Energies over every element of the products, adapter against `f` rounded. */
static void plain_error(const struct qd_lora *l, const struct qd_slot *s, const struct qd_fitted_slot *f,
	const struct qd_slot_encodings *e, bool round, double *signal, double *error)
{
	int64_t in = s->in * s->kh * s->kw;
	struct qd_shape up_shape = QD_SHAPE(s->out * s->rank), down_shape = QD_SHAPE(s->rank * in);
	float *up = calloc((size_t)(s->out * s->rank), sizeof(*up)), *down = calloc((size_t)(s->rank * in), sizeof(*down));

	memcpy(up, f->up, (size_t)(s->out * s->rank) * sizeof(*up));
	memcpy(down, f->down, (size_t)(s->rank * in) * sizeof(*down));
	if (round) {
		qd_quantize(e->up, &up_shape, up, NULL, up);
		qd_quantize(e->down, &down_shape, down, NULL, down);
	}
	for (int64_t o = 0; o < s->out; o++)
		for (int64_t i = 0; i < in; i++) {
			double want = product(s, l->up, l->gain, l->down, l->rank, l->rank, o, i);
			double d = want - product(s, up, f->gain, down, s->rank, s->rank, o, i);

			*signal += want * want;
			*error += d * d;
		}
	free(up);
	free(down);
}

static void shared_of(struct bench *b, size_t anchor, int bits)
{
	struct qd_quant_options options = qd_quant_options_default();

	options.lora_bits = bits;
	OK(qd_shared_encodings(&b->arena, &b->slots, b->list, b->n, anchor, &options, NULL, b->encodings));
}

/* Dot products against sums over all elements: both in double, whose rounding of 1e-16 in energies is far below 1e-6 at 50 dB. */
static void update_sqnr_is_that_of_the_products(void **state)
{
	unsigned long long seed = test_seed();

	(void)state;
	for (int trial = 0; trial < 6; trial++) {
		enum qd_align align = (enum qd_align)(trial % 3);
		struct bench b;
		struct qd_fitted f;
		double signal = 0, error = 0, db;

		bench_random(&b, 3, seed + (unsigned long long)trial);
		shared_of(&b, (size_t)trial % 4, 8);
		OK(qd_fit_slots(&f, b.list[0], &b.slots, b.encodings, align));
		OK(qd_slots_update_sqnr(b.list[0], &f, &b.slots, b.encodings, &db));
		for (size_t i = 0; i < b.slots.n; i++) {
			const struct qd_lora *l = qd_adapter_find(b.list[0], b.slots.items[i].path);

			if (l != NULL)
				plain_error(l, &b.slots.items[i], &f.slots[i], &b.encodings[i], true, &signal, &error);
		}
		assert_true(fabs(db - 10 * log10(signal / error)) < 1e-6);
		qd_fitted_release(&f);
		bench_close(&b);
	}
}

/*
 * Before rounding nothing changes: each factor is rounded to float32 three times at most, relative 2^-24 each, and at most 5
 * components are summed: 1e-6 of the update's norm is ample. The gain mode's gain was corrected for rounding, by as much as
 * rounding is worth: 8 bits give 30 dB and more.
 */
static void alignment_keeps_the_function(void **state)
{
	unsigned long long seed = test_seed();

	(void)state;
	for (int trial = 0; trial < 9; trial++) {
		enum qd_align align = (enum qd_align)(trial % 3);
		struct bench b;
		struct qd_fitted f;

		bench_random(&b, 3, seed + 100 + (unsigned long long)trial);
		shared_of(&b, (size_t)trial % 4, 8);
		OK(qd_fit_slots(&f, b.list[1], &b.slots, b.encodings, align));
		for (size_t i = 0; i < b.slots.n; i++) {
			const struct qd_lora *l = qd_adapter_find(b.list[1], b.slots.items[i].path);
			double signal = 0, error = 0;

			assert_int_equal(f.slots[i].rank, l != NULL ? l->rank : 0);
			if (l == NULL)
				continue;
			plain_error(l, &b.slots.items[i], &f.slots[i], &b.encodings[i], false, &signal, &error);
			assert_true(error <= signal * (align == QD_ALIGN_GAIN ? 1e-3 : 1e-12));
		}
		qd_fitted_release(&f);
		bench_close(&b);
	}
}

/* Largest and smallest of a component over the grid's ends: 1 when it just fits. */
static double fill(const struct qd_encoding *e, size_t n, const float *x, size_t stride)
{
	double most = 0, high = (double)qd_encoding_high(e) * (double)e->scale[0],
	       low = (double)qd_encoding_low(e) * (double)e->scale[0];

	for (size_t i = 0; i < n; i++)
		most = fmax(most, x[i * stride] > 0 ? (double)x[i * stride] / high : (double)x[i * stride] / low);
	return most;
}

/* Every component of up and of down ends on the grid's end, none beyond (float32: 1e-6), and on the negative end where that is
 * larger. */
static void gain_fills_the_grid(void **state)
{
	struct bench b;
	struct qd_fitted f;

	(void)state;
	bench_random(&b, 3, test_seed() + 200);
	shared_of(&b, 0, 8);
	OK(qd_fit_slots(&f, b.list[2], &b.slots, b.encodings, QD_ALIGN_GAIN));
	for (size_t i = 0; i < b.slots.n; i++) {
		const struct qd_slot *s = &b.slots.items[i];
		size_t in = (size_t)(s->in * s->kh * s->kw), rank = (size_t)s->rank;

		for (size_t k = 0; k < (size_t)f.slots[i].rank; k++) {
			double up = fill(b.encodings[i].up, (size_t)s->out, f.slots[i].up + k, rank);
			double down = fill(b.encodings[i].down, in, f.slots[i].down + k * in, 1);

			assert_true(fabs(up - 1) < 1e-6 && fabs(down - 1) < 1e-6);
		}
		for (size_t k = (size_t)f.slots[i].rank; k < rank; k++)
			assert_true(f.slots[i].gain[k] == 0);
	}
	qd_fitted_release(&f);
	bench_close(&b);
}

/* One component over [-1, 3] under a scale of 1: the positive sign reaches 127/3, the negative one 128/3, which is taken. */
static void sign_uses_the_longer_side(void **state)
{
	struct bench b;
	struct qd_fitted f;
	const struct qd_slot *s;

	(void)state;
	bench_random(&b, 1, 1);
	s = &b.slots.items[0];
	for (size_t i = 0; i < b.slots.n; i++) {
		struct qd_encoding *e;

		OK(qd_encoding_from_range(&b.arena, -128, 127, 8, true, &e));
		b.encodings[i] = (struct qd_slot_encodings){ .down = e, .up = e };
	}
	struct qd_lora *l = &b.adapters[0].loras[qd_strmap_get(&b.adapters[0].by_path, s->path)];
	l->up[0] = -1;
	for (int64_t o = 1; o < l->out; o++)
		l->up[o * l->rank] = o == 1 ? 3 : 0.5f;
	OK(qd_fit_slots(&f, b.list[0], &b.slots, b.encodings, QD_ALIGN_GAIN));
	assert_true(f.slots[0].up[1 * s->rank] == -128);
	assert_true(fabsf(f.slots[0].up[0] - 128 / 3.0f) < 1e-4f);
	qd_fitted_release(&f);
	bench_close(&b);
}

/*
 * Gauge: gain as it was; where both sides have room, nothing leaves the grid; the headroom of up and down is equal (float32: 1e-5),
 * and a clip is shared alike.
 */
static void gauge_balances_headroom(void **state)
{
	struct bench b;
	struct qd_fitted f;

	(void)state;
	bench_random(&b, 3, test_seed() + 300);
	shared_of(&b, 1, 8);
	OK(qd_fit_slots(&f, b.list[0], &b.slots, b.encodings, QD_ALIGN_GAUGE));
	for (size_t i = 0; i < b.slots.n; i++) {
		const struct qd_slot *s = &b.slots.items[i];
		const struct qd_lora *l = qd_adapter_find(b.list[0], s->path);
		size_t in = (size_t)(s->in * s->kh * s->kw);

		for (size_t k = 0; k < (size_t)f.slots[i].rank; k++) {
			double up = fill(b.encodings[i].up, (size_t)s->out, f.slots[i].up + k, (size_t)s->rank);
			double down = fill(b.encodings[i].down, in, f.slots[i].down + k * in, 1);

			assert_true(fabs(up / down - 1) < 1e-5);
			assert_true(f.slots[i].gain[k] == l->gain[k]);
		}
	}
	qd_fitted_release(&f);
	bench_close(&b);
}

/* The error is a parabola in each gain: at its lowest point any step up or down raises it. */
static void gain_is_of_least_squares(void **state)
{
	struct bench b;
	struct qd_fitted f;

	(void)state;
	bench_random(&b, 2, test_seed() + 400);
	shared_of(&b, 1, 8);
	OK(qd_fit_slots(&f, b.list[0], &b.slots, b.encodings, QD_ALIGN_GAIN));
	for (size_t i = 0; i < b.slots.n; i++) {
		const struct qd_slot *s = &b.slots.items[i];
		const struct qd_lora *l = qd_adapter_find(b.list[0], s->path);
		double signal = 0, least = 0;

		if (l == NULL)
			continue;
		plain_error(l, s, &f.slots[i], &b.encodings[i], true, &signal, &least);
		for (int64_t k = 0; k < 2 * l->rank; k++) {
			float kept = f.slots[i].gain[k / 2];
			double error = 0;

			f.slots[i].gain[k / 2] *= k % 2 == 0 ? 1.01f : 0.99f;
			plain_error(l, s, &f.slots[i], &b.encodings[i], true, &signal, &error);
			assert_true(error >= least);
			f.slots[i].gain[k / 2] = kept;
		}
	}
	qd_fitted_release(&f);
	bench_close(&b);
}

/* A fresh adapter (up all zeros) and one with a doubled component: fitted without a gain that is not finite, and trainable. */
static void degenerate_adapters_fit(void **state)
{
	struct bench b;
	struct qd_fitted f;
	double db;

	(void)state;
	bench_random(&b, 2, test_seed() + 500);
	for (size_t i = 0; i < b.adapters[0].n; i++)
		memset(b.adapters[0].loras[i].up, 0,
			(size_t)(b.adapters[0].loras[i].out * b.adapters[0].loras[i].rank) * sizeof(float));
	for (size_t i = 0; i < b.adapters[1].n; i++) {
		struct qd_lora *l = &b.adapters[1].loras[i];
		int64_t in = l->in * l->kh * l->kw;

		for (int64_t o = 0; o < l->out && l->rank > 1; o++)
			l->up[o * l->rank + 1] = l->up[o * l->rank];
		if (l->rank > 1)
			memcpy(l->down + in, l->down, (size_t)in * sizeof(float));
	}
	shared_of(&b, 1, 8);
	for (size_t a = 0; a < 2; a++) {
		OK(qd_fit_slots(&f, b.list[a], &b.slots, b.encodings, QD_ALIGN_GAIN));
		for (size_t i = 0; i < b.slots.n; i++)
			for (int64_t k = 0; k < f.slots[i].rank; k++)
				assert_true(isfinite(f.slots[i].gain[k]) && (a == 1 || f.slots[i].gain[k] != 0));
		OK(qd_slots_update_sqnr(b.list[a], &f, &b.slots, b.encodings, &db));
		assert_true(a == 0 ? isinf(db) : db > 25);
		qd_fitted_release(&f);
	}
	bench_close(&b);
}

/* ---- shared encodings ---- */

static void range_of(const struct qd_lora *l, float *high)
{
	*high = 0;
	for (int64_t i = 0; i < l->out * l->rank; i++)
		*high = fmaxf(*high, l->up[i] > 0 ? l->up[i] / 127 : l->up[i] / -128);
}

/* up's scale is that of the anchor where it has the layer, else of the largest over the others. */
static void anchor_gives_what_it_has(void **state)
{
	struct bench b;

	(void)state;
	bench_random(&b, 4, test_seed() + 600);
	for (size_t anchor = 0; anchor <= b.n; anchor++) {
		shared_of(&b, anchor, 8);
		for (size_t i = 0; i < b.slots.n; i++) {
			const struct qd_lora *own = anchor < b.n ? qd_adapter_find(b.list[anchor], b.slots.items[i].path) : NULL;
			float want = 0, one;

			for (size_t a = 0; a < b.n; a++) {
				const struct qd_lora *l = qd_adapter_find(b.list[a], b.slots.items[i].path);

				if (l == NULL || (own != NULL && a != anchor))
					continue;
				range_of(l, &one);
				want = fmaxf(want, one);
			}
			/* Scales are divided in double here, in float32 there. */
			assert_true(fabsf(b.encodings[i].up->scale[0] / want - 1) < 1e-6f);
		}
	}
	bench_close(&b);
}

static void refuses_what_does_not_fit(void **state)
{
	struct bench b;
	struct qd_slots narrow = { 0 };
	struct qd_fitted f;
	char message[512];
	const struct qd_lora *l;

	(void)state;
	bench_random(&b, 2, test_seed() + 700);
	shared_of(&b, 0, 8);
	l = &b.adapters[1].loras[0];
	for (size_t i = 0; i < b.slots.n; i++)
		b.slots.items[i].rank = l->rank - 1;
	assert_int_equal(qd_fit_slots(&f, b.list[1], &b.slots, b.encodings, QD_ALIGN_GAIN), QD_EINPUT);
	snprintf(message, sizeof(message),
		"has a higher rank than its slot in %zu of its %zu layers, the first is '%s' with rank %lld where "
		"%lld fit: "
		"quad qss --rank makes slots wider",
		b.adapters[1].n, b.adapters[1].n, l->path, (long long)l->rank, (long long)l->rank - 1);
	assert_string_equal(qd_message(), message);
	assert_int_equal(qd_fit_slots(&f, b.list[1], &narrow, b.encodings, QD_ALIGN_GAIN), QD_EINPUT);
	snprintf(message, sizeof(message),
		"changes %zu of its %zu layers where there is no slot, the first is '%s': quad qss --slots declares "
		"slots "
		"for other adapters' layers, or score them together",
		b.adapters[1].n, b.adapters[1].n, l->path);
	assert_string_equal(qd_message(), message);
	b.adapters[0].loras[0].up[0] = NAN;
	assert_int_equal(qd_own_encodings(&b.arena, &b.slots, b.list[0], 8, b.encodings), QD_EINPUT);
	snprintf(
		message, sizeof(message), "adapter 'a0': layer '%s' holds a value that is not finite", b.adapters[0].loras[0].path);
	assert_string_equal(qd_message(), message);
	bench_close(&b);
}

/* Through a profile and back: the adapter's own rank, the fitted tensors. */
static void fitted_becomes_an_adapter(void **state)
{
	struct bench b;
	struct qd_profile p = { .options = qd_quant_options_default() };
	struct qd_fitted f;
	struct qd_adapter back;
	double db, again;

	(void)state;
	bench_random(&b, 3, test_seed() + 800);
	shared_of(&b, 3, 8);
	p.slots = b.slots;
	for (size_t i = 0; i < b.slots.n; i++) {
		OK(qd_profile_add(
			&p, QD_ENTRY_LORA, qd_arena_strf(&p.arena, "%s.lora_down", b.slots.items[i].path), b.encodings[i].down));
		OK(qd_profile_add(
			&p, QD_ENTRY_LORA, qd_arena_strf(&p.arena, "%s.lora_up", b.slots.items[i].path), b.encodings[i].up));
		assert_ptr_equal(p.slot_encodings[i].down, b.encodings[i].down);
		assert_ptr_equal(p.slot_encodings[i].up, b.encodings[i].up);
		assert_null(p.slot_encodings[i].gain);
	}
	OK(qd_fit_adapter(&f, b.list[1], &p, QD_ALIGN_GAIN, false));
	OK(qd_update_sqnr(b.list[1], &f, &p, &db));
	OK(qd_fitted_to_adapter(&f, &p, "back", &back));
	assert_string_equal(back.name, "back");
	assert_int_equal(back.n, b.adapters[1].n);
	for (size_t i = 0; i < back.n; i++) {
		const struct qd_lora *l = qd_adapter_find(b.list[1], back.loras[i].path);

		assert_int_equal(back.loras[i].rank, l->rank);
		for (int64_t k = 0; k < 20; k++) {
			int64_t o = k % l->out, in = k * 7 % (l->in * l->kh * l->kw);
			double want = help_delta(l, o, in);

			/* The corrected gain is off by about the rounding it repairs. */
			assert_true(fabs(help_delta(&back.loras[i], o, in) - want) <= 0.05 * (fabs(want) + 1));
		}
	}
	/* Fitted again as it is, it loses nothing but rounding of the gain to the same grid. */
	qd_fitted_release(&f);
	OK(qd_fit_adapter(&f, &back, &p, QD_ALIGN_NONE, false));
	OK(qd_update_sqnr(b.list[1], &f, &p, &again));
	assert_true(fabs(db - again) < 1e-9);
	qd_fitted_release(&f);
	qd_adapter_release(&back);
	memset(&p.slots, 0, sizeof(p.slots));
	qd_profile_release(&p);
	bench_close(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(update_sqnr_equals_golden),
		cmocka_unit_test(real_adapters_equal_golden),
		cmocka_unit_test(update_sqnr_is_that_of_the_products),
		cmocka_unit_test(alignment_keeps_the_function),
		cmocka_unit_test(gain_fills_the_grid),
		cmocka_unit_test(sign_uses_the_longer_side),
		cmocka_unit_test(gauge_balances_headroom),
		cmocka_unit_test(gain_is_of_least_squares),
		cmocka_unit_test(degenerate_adapters_fit),
		cmocka_unit_test(anchor_gives_what_it_has),
		cmocka_unit_test(refuses_what_does_not_fit),
		cmocka_unit_test(fitted_becomes_an_adapter),
	};
	return cmocka_run_group_tests_name("align", tests, NULL, NULL);
}
