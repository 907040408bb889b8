/* Distillation: never worse than the start, better with steps, exactly on the profile's grid, repeatable and resumable. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "distill/distill.h"
#include "tests/unit/distill_help.h"
#include "tests/unit/scratch.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OK(call)                                                                                                                   \
	do {                                                                                                                       \
		if ((call) != QD_OK)                                                                                               \
			fail_msg("%s", qd_message());                                                                              \
	} while (0)

/* A model, its data, and two adapters of ranks 2 and 4 under shared profiles: the first has room to spare in every slot. */
static struct {
	char base[512], data[512], noisy[512];
	struct help_layers layers;
	struct qd_adapter adapters[2];
	struct qd_profile profile; /* W8A16 with int8 adapters, aligned */
	struct qd_profile coarse;  /* float activations, int4 adapters, aligned: their rounding is most of the error */
} all;

static void make_profile(struct qd_profile *profile, enum qd_align align, int lora_bits, int act_bits)
{
	const struct qd_adapter *list[] = { &all.adapters[0], &all.adapters[1] };
	struct qd_quant_options options = qd_quant_options_default();
	struct qd_dataset calibration;

	options.align = align;
	options.lora_bits = lora_bits;
	options.act_bits = act_bits;
	options.method = QD_METHOD_ANCHOR;
	options.anchor = "large";
	memset(profile, 0, sizeof(*profile));
	OK(qd_dataset_open(&calibration, (const char *const[]){ all.noisy }, 1, &all.layers.model.config, QD_DATA_CALIBRATE));
	OK(qd_profile_build(profile, &all.layers.model, list, 2, &calibration, &options));
	qd_dataset_release(&calibration);
}

static int open_all(void **state)
{
	(void)state;
	OK(qt_set_threads(1));
	snprintf(all.base, sizeof(all.base), "%s", help_pipeline("base", "epsilon"));
	snprintf(all.data, sizeof(all.data), "%s", help_data("data", 16, 1, false));
	snprintf(all.noisy, sizeof(all.noisy), "%s", help_data("noisy", 32, 2, true));
	help_layers_open(&all.layers, all.base);
	OK(qd_adapter_open(
		&all.adapters[0], "small", help_adapter("small", &all.layers.modules, 2, 0.2F, 3), 1, &all.layers.modules));
	OK(qd_adapter_open(
		&all.adapters[1], "large", help_adapter("large", &all.layers.modules, 4, 0.1F, 4), 1, &all.layers.modules));
	make_profile(&all.profile, QD_ALIGN_GAIN, 8, 16);
	make_profile(&all.coarse, QD_ALIGN_GAIN, 4, 0);
	return 0;
}

static int close_all(void **state)
{
	(void)state;
	qd_profile_release(&all.profile);
	qd_profile_release(&all.coarse);
	for (size_t i = 0; i < 2; i++)
		qd_adapter_release(&all.adapters[i]);
	help_layers_close(&all.layers);
	return qt_live() == 0 ? 0 : -1;
}

static struct qd_distill_options small(const char *output)
{
	struct qd_distill_options o = qd_distill_options_default();

	o.steps = 24;
	o.batch = 4;
	o.lr = 0.1;
	o.output = output;
	o.force = true;
	return o;
}

static enum qd_status distill(
	const struct qd_profile *profile, const char *data, const struct qd_distill_options *o, struct qd_distill_result *result)
{
	return qd_distill(&all.layers.model, profile, &all.adapters[0], &data, 1, o, result);
}

/* Codes of n numbers under the encoding of a tensor; every number must be exactly the code's. */
static void codes_of(
	const struct qd_profile *profile, const char *path, const char *suffix, int64_t n, const float *x, int32_t *q, bool exact)
{
	char name[256];
	const struct qd_encoding *e;
	struct qd_shape shape = QD_SHAPE(n);
	float *y = malloc((size_t)n * sizeof(*y));

	snprintf(name, sizeof(name), "%s%s", path, suffix);
	e = qd_profile_find(profile, name);
	assert_non_null(e);
	assert_non_null(y);
	qd_quantize(e, &shape, x, q, y);
	if (exact)
		assert_memory_equal(x, y, (size_t)n * sizeof(*y));
	free(y);
}

/* Two fittings give the same codes and gains; the first lies on the grid. */
static void check_same_fit(const struct qd_profile *profile, const struct qd_fitted *exact, const struct qd_fitted *other)
{
	for (size_t i = 0; i < profile->slots.n; i++) {
		const struct qd_slot *slot = &profile->slots.items[i];
		int64_t n[2] = { slot->rank * slot->in * slot->kh * slot->kw, slot->out * slot->rank };
		const float *a[2] = { exact->slots[i].down, exact->slots[i].up },
			    *b[2] = { other->slots[i].down, other->slots[i].up };
		for (int which = 0; which < 2; which++) {
			int32_t *q = calloc(2 * (size_t)n[which], sizeof(*q));
			assert_non_null(q);
			codes_of(profile, slot->path, which == 0 ? ".lora_down" : ".lora_up", n[which], a[which], q, true);
			codes_of(profile, slot->path, which == 0 ? ".lora_down" : ".lora_up", n[which], b[which], q + n[which],
				false);
			assert_memory_equal(q, q + n[which], (size_t)n[which] * sizeof(*q));
			free(q);
		}
		assert_memory_equal(exact->slots[i].gain, other->slots[i].gain, (size_t)slot->rank * sizeof(float));
	}
}

/* ---- the written file ---- */

/* Without a step, the file holds the fitted adapter's codes, and fitting the file gives them again. */
static void test_no_step(void **state)
{
	struct qd_distill_options o = small(scratch_path("start.safetensors"));
	struct qd_distill_result result;
	struct qd_adapter written;
	struct qd_fitted first, again;
	char grid[QD_HASH_TEXT];
	(void)state;

	o.steps = 0;
	OK(distill(&all.profile, all.data, &o, &result));
	assert_int_equal(result.best_step, 0);
	assert_true(result.after == result.before);
	OK(qd_adapter_open(&written, "small", o.output, 1, &all.layers.modules));
	OK(qd_profile_grid(&all.profile, grid));
	assert_non_null(written.grid);
	assert_string_equal(written.grid, grid);
	assert_int_equal(written.loras[0].rank, 2);
	OK(qd_fit_adapter(&first, &all.adapters[0], &all.profile, QD_ALIGN_GAIN));
	OK(qd_fit_adapter(&again, &written, &all.profile, QD_ALIGN_GAIN));
	check_same_fit(&all.profile, &again, &first);
	qd_fitted_release(&first);
	qd_fitted_release(&again);
	qd_adapter_release(&written);
}

/* Mean squared difference, over fresh data, between the float network with the original adapter and the simulated one with
 * `adapter`. */
static double output_error(const struct qd_profile *profile, const struct qd_adapter *adapter)
{
	struct qd_runner runners[2];
	struct qd_dataset data;
	struct qd_sizes sizes;
	struct qd_net net;
	float *out[2];
	size_t n;
	double error;

	OK(qd_dataset_open(&data, (const char *const[]){ all.noisy }, 1, &all.layers.model.config, QD_DATA_CALIBRATE));
	sizes = qd_dataset_sizes(&data, data.n);
	OK(qd_net_build(&net, &all.layers.model, &sizes, &profile->slots));
	OK(qd_runner_open_simulated(&runners[1], &net, profile, adapter));
	OK(qd_runner_open(&runners[0], &net.graph, NULL));
	OK(qd_runner_feed_adapter(&runners[0], &net.slots, &all.adapters[0]));
	n = (size_t)qd_shape_elements(&net.graph.values[net.graph.outputs[0]].shape);
	for (int i = 0; i < 2; i++) {
		out[i] = malloc(n * sizeof(float));
		assert_non_null(out[i]);
		OK(qd_data_feed(&data, &runners[i], 0, data.n));
		OK(qd_runner_run(&runners[i]));
		OK(qd_runner_read(&runners[i], "out", n, out[i]));
	}
	error = qd_mse(out[0], out[1], n);
	for (int i = 0; i < 2; i++) {
		free(out[i]);
		qd_runner_release(&runners[i]);
	}
	qd_net_release(&net);
	qd_dataset_release(&data);
	return error;
}

/* Steps lower the error on held-out draws, and, by the way of the written file, on data that distilling never saw. */
static void check_better(const struct qd_profile *profile, const struct qd_distill_options *o, const char *data, double gain_db)
{
	struct qd_distill_result result;
	struct qd_adapter written;
	double before, after;

	OK(distill(profile, data, o, &result));
	assert_true(result.after <= result.before);
	if (!(result.after_db >= result.before_db + gain_db))
		fail_msg("output SQNR went from %g to %g dB only", result.before_db, result.after_db);
	OK(qd_adapter_open(&written, "small", o->output, 1, &all.layers.modules));
	before = output_error(profile, &all.adapters[0]);
	after = output_error(profile, &written);
	if (!(after < before))
		fail_msg("the written adapter's error is %g, the start's %g", after, before);
	qd_adapter_release(&written);
}

static void test_better(void **state)
{
	struct qd_distill_options o = small(scratch_path("better.safetensors"));
	(void)state;

	check_better(&all.coarse, &o, all.data, 0.5);
}

static void test_better_on_trajectories(void **state)
{
	struct qd_distill_options o = small(scratch_path("trajectory.safetensors"));
	struct qd_distill_result result;
	(void)state;

	o.trajectory = "euler";
	o.trajectory_steps = 3;
	OK(distill(&all.coarse, all.data, &o, &result));
	assert_int_equal((result.draws + result.held_out) % 12, 0);
	assert_true(result.after_db >= result.before_db + 0.5);
}

static void test_better_from_calibration_file(void **state)
{
	struct qd_distill_options o = small(scratch_path("calibrated.safetensors"));
	(void)state;

	check_better(&all.coarse, &o, all.noisy, 0.5);
}

/* Under an anchor's encodings without alignment much is lost; large steps bring some of it back. */
static void test_recovers_unaligned(void **state)
{
	struct qd_distill_options o = small(scratch_path("unaligned.safetensors"));
	struct qd_profile profile;
	(void)state;

	make_profile(&profile, QD_ALIGN_NONE, 4, 0);
	o.lr = 0;
	check_better(&profile, &o, all.data, 1);
	qd_profile_release(&profile);
}

static void test_task_weight(void **state)
{
	struct qd_distill_options o = small(scratch_path("task.safetensors"));
	struct qd_distill_result with, without;
	(void)state;

	OK(distill(&all.coarse, all.data, &o, &without));
	o.task_weight = 1e-3;
	OK(distill(&all.coarse, all.data, &o, &with));
	assert_true(with.before == without.before);
	assert_true(with.after != without.after);
	assert_true(with.after <= with.before);
}

/* ---- repeating and going on ---- */

static void test_repeats(void **state)
{
	struct qd_distill_options o = small(scratch_path("repeat0"));
	struct qd_distill_result result;
	char hash[3][QD_HASH_TEXT];
	(void)state;

	for (int i = 0; i < 3; i++) {
		o.seed = (uint64_t)i / 2;
		OK(distill(&all.coarse, all.data, &o, &result));
		OK(qd_hash_file(o.output, hash[i]));
	}
	assert_string_equal(hash[0], hash[1]);
	assert_string_not_equal(hash[0], hash[2]);
}

/* Copies the checkpoint aside as soon as it is there: what a killed run would have left. */
static void copy_checkpoint(void *context, const char *what, uint64_t done, uint64_t total, const char *note)
{
	struct qd_mapping file;
	(void)total;
	(void)note;

	if (strcmp(what, "distill") != 0 || done != 9)
		return;
	OK(qd_mapping_open(&file, context));
	OK(qd_write_file(scratch_path("aside"), file.data, file.size, true));
	qd_mapping_release(&file);
}

static void test_resumes(void **state)
{
	struct qd_distill_options o = small(scratch_path("resumed"));
	struct qd_distill_result whole, rest;
	char checkpoint[1024], first[QD_HASH_TEXT], second[QD_HASH_TEXT];
	struct qd_mapping aside;
	(void)state;

	o.checkpoint_every = 8;
	snprintf(checkpoint, sizeof(checkpoint), "%s.ckpt", o.output);
	qd_set_progress_hook(copy_checkpoint, checkpoint);
	OK(distill(&all.coarse, all.data, &o, &whole));
	qd_set_progress_hook(NULL, NULL);
	assert_false(qd_is_file(checkpoint));
	OK(qd_hash_file(o.output, first));
	OK(qd_mapping_open(&aside, scratch_path("aside")));
	OK(qd_write_file(checkpoint, aside.data, aside.size, true));
	OK(distill(&all.coarse, all.data, &o, &rest));
	assert_int_equal(rest.resumed_at, 8);
	assert_int_equal(rest.best_step, whole.best_step);
	assert_true(rest.after == whole.after && rest.before == whole.before);
	OK(qd_hash_file(o.output, second));
	assert_string_equal(first, second);
	qd_mapping_release(&aside);
}

/* ---- refusals ---- */

static void refused(const struct qd_profile *profile, const struct qd_distill_options *o, const char *data, enum qd_status status,
	const char *message)
{
	struct qd_distill_result result;

	assert_int_equal(distill(profile, data, o, &result), status);
	if (strstr(qd_message(), message) == NULL)
		fail_msg("says \"%s\" instead of \"%s\"", qd_message(), message);
	assert_false(qd_is_file(o->output));
}

static void test_refuses(void **state)
{
	struct qd_distill_options o = small(scratch_path("refused"));
	struct qd_profile other = all.profile;
	(void)state;

	o.trajectory = "ddim";
	refused(&all.profile, &o, all.noisy, QD_EINPUT,
		"a trajectory needs tensor 'latents', the data has samples that are noisy already");
	o.trajectory = NULL;
	refused(&all.profile, &o, scratch_path("nowhere"), QD_EIO, "nowhere");
	other.base_hash[strlen(other.base_hash) - 1] ^= 1;
	refused(&other, &o, all.data, QD_EINPUT, "base");
	other = all.profile;
	other.slots.n = 0;
	other.n_entries = 0;
	refused(&other, &o, all.data, QD_EINPUT, "");
	o.output = all.data;
	o.force = false;
	struct qd_distill_result result;
	assert_int_equal(distill(&all.profile, all.data, &o, &result), QD_EEXIST);
	assert_non_null(strstr(qd_message(), "already exists"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_no_step),
		cmocka_unit_test(test_better),
		cmocka_unit_test(test_better_on_trajectories),
		cmocka_unit_test(test_better_from_calibration_file),
		cmocka_unit_test(test_recovers_unaligned),
		cmocka_unit_test(test_task_weight),
		cmocka_unit_test(test_repeats),
		cmocka_unit_test(test_resumes),
		cmocka_unit_test(test_refuses),
	};
	return cmocka_run_group_tests(tests, open_all, close_all);
}
