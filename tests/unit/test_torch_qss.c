/* The whole of scoring and calibration on the golden model: scores against reference values, and the profile against its own
 * promises. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "lib/math/math.h"
#include "quant/internal.h"
#include "tests/unit/scratch.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ADAPTERS = 6 };
static const char *const names[ADAPTERS] = { "kohya.safetensors", "diffusers.safetensors", "peft", "peft_saved",
	"kohya_locon.safetensors", "diffusers_saved.safetensors" };

/* The golden model, its calibration file and the first n adapters; opened once. */
static struct {
	bool there;
	struct qd_model model;
	struct qd_graph shape;
	struct qd_modules modules;
	struct qd_adapter adapters[ADAPTERS];
	const struct qd_adapter *list[ADAPTERS];
	struct qd_dataset data;
} all;

static int open_all(void **state)
{
	const struct qd_sizes sizes = { 1, 8, 8, 1 };
	const char *base = golden_path("tiny15");

	(void)state;
	if (base == NULL || golden_path("qss/tiny15_calib.safetensors") == NULL)
		return 0;
	all.there = true;
	OK(qd_model_open(&all.model, base));
	OK(qd_unet_graph(&all.shape, &all.model.config, &all.model.weights, &sizes));
	OK(qd_modules_of(&all.modules, &all.shape));
	for (size_t i = 0; i < ADAPTERS; i++) {
		char name[128];

		snprintf(name, sizeof(name), "adapters/%s", names[i]);
		OK(qd_adapter_open(&all.adapters[i], names[i], golden_path(name), 1, &all.modules));
		all.list[i] = &all.adapters[i];
	}
	OK(qd_dataset_open(&all.data, (const char *const[]){ golden_path("qss/tiny15_calib.safetensors") }, 1, &all.model.config,
		QD_DATA_CALIBRATE));
	return 0;
}

static int close_all(void **state)
{
	(void)state;
	qd_dataset_release(&all.data);
	for (size_t i = 0; i < ADAPTERS && all.there; i++)
		qd_adapter_release(&all.adapters[i]);
	qd_modules_release(&all.modules);
	qd_graph_release(&all.shape);
	if (all.there)
		qd_model_release(&all.model);
	return 0;
}

/* ---- scores ---- */

static void close_to(const char *what, double got, double want, double tolerance)
{
	if (!(fabs(got - want) <= tolerance))
		fail_msg("%s is %.9g, reference %.9g", what, got, want);
}

/*
 * Reference values are of another framework's float32 network. int8: rounding error is far above float32's, so 1 % and 0.05 dB;
 * int16 is near its noise: 10 %, 0.5 dB. Standard errors are differences of scores: twice their tolerance.
 */
static void check_scores(const struct qd_profile *p, const json_t *golden, const char *grid, double relative, double db)
{
	for (size_t i = 0; i < p->n_adapters; i++) {
		const struct qd_adapter_score *a = &p->adapters[i];
		const json_t *want = json_object_get(json_object_get(json_object_get(golden, "adapters"), a->name), grid);
		const json_t *update = json_object_get(json_object_get(json_object_get(golden, "update_sqnr_db"), grid), "own");
		double qss = json_number_value(json_object_get(want, "qss")),
		       se = json_number_value(json_object_get(want, "standard_error"));

		assert_non_null(want);
		close_to(a->name, a->qss, qss, relative * qss);
		close_to("standard error", a->standard_error, se, 2 * relative * (se > 0.1 * qss ? se : 0.1 * qss));
		close_to("output SQNR", a->output_sqnr_db, json_number_value(json_object_get(want, "output_sqnr_db")), db);
		close_to("update SQNR", a->update_own_db, json_number_value(json_object_get(update, a->name)), 0.01);
		assert_true(a->update_aligned_db >= a->update_own_db);
		assert_int_equal(a->n_samples, 8);
	}
}

static void check_grid(int bits, const char *grid, double relative, double db)
{
	struct qd_quant_options options = qd_quant_options_default();
	struct qd_profile p = { 0 };
	json_t *golden;

	options.lora_bits = bits;
	OK(qd_json_read(golden_path("qss/tiny15.json"), &golden));
	OK(qd_profile_score(&p, &all.model, all.list, ADAPTERS, &all.data, &options));
	check_scores(&p, golden, grid, relative, db);
	/* "peft" has the largest score, far from the others. */
	assert_string_equal(p.method, "anchor");
	assert_string_equal(p.anchor, "peft");
	json_decref(golden);
	qd_profile_release(&p);
	assert_int_equal(qt_live(), 0);
}

static void int8_scores_equal_golden(void **state)
{
	(void)state;
	if (!all.there)
		skip();
	check_grid(8, "int8", 0.01, 0.05);
}

static void int16_scores_equal_golden(void **state)
{
	(void)state;
	if (!all.there)
		skip();
	check_grid(16, "int16", 0.1, 0.5);
}

/* ---- the profile ---- */

/* The net of a profile on all samples, simulated or float, under adapter i. */
static void run_net(const struct qd_profile *p, size_t i, bool simulated, float *y)
{
	struct qd_net net;
	struct qd_runner runner;
	struct qd_sizes sizes;

	sizes = qd_dataset_sizes(&all.data, all.data.n);
	OK(qd_net_build(&net, &all.model, &sizes, &p->slots));
	if (simulated) {
		OK(qd_runner_open_simulated(&runner, &net, p, all.list[i], false, false));
	} else {
		OK(qd_runner_open(&runner, &net.graph, NULL));
		OK(qd_runner_feed_adapter(&runner, &net.slots, all.list[i]));
	}
	OK(qd_run_samples(&runner, &net, &all.data, "run", y));
	qd_runner_release(&runner);
	qd_net_release(&net);
}

static size_t outputs(void)
{
	struct qd_sizes sizes;

	sizes = qd_dataset_sizes(&all.data, 1);
	return (size_t)(all.data.n * all.model.config.out_channels * sizes.height * sizes.width);
}

/*
 * Written, read and applied, one profile serves both adapters: their simulated outputs (int8 weights, 16-bit activations) keep 25
 * dB, which a missing, swapped or clipping encoding would not leave, and reading changes nothing.
 */
static void one_profile_serves_all(void **state)
{
	struct qd_quant_options options = qd_quant_options_default();
	struct qd_profile p = { 0 }, back;
	const char *path = scratch_path("profile.json");
	size_t n;
	float *y, *z, *again;

	(void)state;
	if (!all.there)
		skip();
	n = outputs();
	y = calloc(n, sizeof(*y)), z = calloc(n, sizeof(*z)), again = calloc(n, sizeof(*again));
	OK(qd_profile_score(&p, &all.model, all.list, 2, &all.data, &options));
	OK(qd_profile_calibrate(&p, &all.model, all.list, 2, &all.data));
	OK(qd_profile_write(&p, path, false));
	OK(qd_profile_read(&back, path));
	OK(qd_profile_check_base(&back, &all.model));
	for (size_t i = 0; i < 2; i++) {
		run_net(&p, i, false, y);
		run_net(&p, i, true, z);
		run_net(&back, i, true, again);
		assert_memory_equal(z, again, n * sizeof(*z));
		assert_true(qd_sqnr_db(y, z, n) > 25);
	}
	back.base_hash[12] = back.base_hash[12] == '0' ? '1' : '0';
	assert_int_equal(qd_profile_check_base(&back, &all.model), QD_EINPUT);
	assert_non_null(strstr(qd_message(), "the profile was made for xxh3-128:"));
	free(y), free(z), free(again);
	qd_profile_release(&back);
	qd_profile_release(&p);
	assert_int_equal(qt_live(), 0);
}

/* With slots nobody uses, whole layers shared, percentiles and 8-bit activations: every value has an encoding, none of them empty.
 */
static void every_value_gets_an_encoding(void **state)
{
	struct qd_quant_options options = qd_quant_options_default();
	struct qd_profile p = { 0 };

	(void)state;
	if (!all.there)
		skip();
	options.slots = "all";
	options.share = QD_SHARE_LAYER;
	options.observer = QD_OBSERVE_PERCENTILE;
	options.act_bits = 8;
	options.method = QD_METHOD_UNIFIED;
	OK(qd_profile_score(&p, &all.model, all.list, 1, &all.data, &options));
	OK(qd_profile_calibrate(&p, &all.model, all.list, 1, &all.data));
	assert_int_equal(p.slots.n, 282);
	for (size_t i = 0; i < p.n_entries; i++) {
		const struct qd_encoding *e = p.entries[i].encoding;

		assert_int_equal(e->bits, 8);
		assert_int_equal(e->is_signed, p.entries[i].kind != QD_ENTRY_ACTIVATION);
		if (e->n == 1 && e->scale[0] <= 0x1p-23f)
			fail_msg("'%s' has the smallest scale", p.entries[i].name);
	}
	for (size_t i = 0; i < p.slots.n; i++) {
		const char *weight = qd_arena_strf(&p.arena, "%s.weight", p.slots.items[i].path);

		assert_non_null(p.slot_encodings[i].down);
		assert_ptr_equal(p.slot_encodings[i].down, qd_profile_find(&p, weight));
		assert_ptr_equal(p.slot_encodings[i].up, p.slot_encodings[i].down);
	}
	assert_null(qd_profile_find(&p, "timestep"));
	assert_non_null(qd_profile_find(&p, "sample"));
	assert_non_null(qd_profile_find(&p, "conv_out"));
	qd_profile_release(&p);
	assert_int_equal(qt_live(), 0);
}

/*
 * Scope model rounds everything, so its scores are far above scope adapter's; and neither depends on how samples are batched, up to
 * the order of float32 sums (1e-3 of a divergence that is a million times larger than their square).
 */
static void scope_and_batch(void **state)
{
	struct qd_quant_options options = qd_quant_options_default();
	struct qd_profile whole = { 0 }, pieces = { 0 }, model = { 0 };

	(void)state;
	if (!all.there)
		skip();
	OK(qd_profile_score(&whole, &all.model, all.list, 1, &all.data, &options));
	options.batch = 2;
	OK(qd_profile_score(&pieces, &all.model, all.list, 1, &all.data, &options));
	options.batch = 0;
	options.scope = QD_SCOPE_MODEL;
	OK(qd_profile_score(&model, &all.model, all.list, 1, &all.data, &options));
	for (size_t i = 0; i < 8; i++) {
		double want = whole.adapters[0].per_sample[i];

		close_to("score of a sample", pieces.adapters[0].per_sample[i], want, 1e-3 * want);
		assert_true(model.adapters[0].per_sample[i] > 5 * want);
	}
	assert_string_equal(whole.reason, "the only adapter");
	qd_profile_release(&whole);
	qd_profile_release(&pieces);
	qd_profile_release(&model);
	assert_int_equal(qt_live(), 0);
}

static void refuses_impossible_requests(void **state)
{
	struct qd_quant_options options = qd_quant_options_default();
	const struct qd_adapter *twice[2] = { all.list[0], all.list[0] };
	struct qd_profile p = { 0 };

	(void)state;
	if (!all.there)
		skip();
	assert_int_equal(qd_profile_score(&p, &all.model, all.list, 0, &all.data, &options), QD_EINPUT);
	assert_string_equal(qd_message(), "there are no adapters, needs at least one");
	assert_int_equal(qd_profile_score(&p, &all.model, twice, 2, &all.data, &options), QD_EINPUT);
	assert_string_equal(qd_message(), "two adapters are called 'kohya.safetensors': NAME=PATH gives one another name");
	options.share = QD_SHARE_LAYER;
	options.lora_bits = 16;
	assert_int_equal(qd_profile_score(&p, &all.model, all.list, 1, &all.data, &options), QD_EINPUT);
	assert_string_equal(qd_message(), "a layer's one encoding cannot have 8 bits for its weight and 16 for its LoRA tensors");
	options = qd_quant_options_default();
	options.anchor = "nobody";
	assert_int_equal(qd_profile_score(&p, &all.model, all.list, 2, &all.data, &options), QD_EINPUT);
	assert_string_equal(qd_message(), "anchor 'nobody' is none of the 2 adapters, 'kohya.safetensors' is the first");
	options.anchor = "peft";
	options.method = QD_METHOD_UNIFIED;
	assert_int_equal(qd_profile_score(&p, &all.model, all.list, 3, &all.data, &options), QD_EINPUT);
	assert_string_equal(qd_message(), "anchor 'peft' and the method 'unified' exclude each other");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(int8_scores_equal_golden),
		cmocka_unit_test(int16_scores_equal_golden),
		cmocka_unit_test(one_profile_serves_all),
		cmocka_unit_test(every_value_gets_an_encoding),
		cmocka_unit_test(scope_and_batch),
		cmocka_unit_test(refuses_impossible_requests),
	};
	return cmocka_run_group_tests_name("qss", tests, open_all, close_all);
}
