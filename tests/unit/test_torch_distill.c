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

/* A model, its data, and two adapters of ranks 2 and 4 under shared profiles: the first has room to spare in every slot. */
static struct {
	struct help_training on;
	char noisy[512];
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
	OK(qd_dataset_open(&calibration, (const char *const[]){ all.noisy }, 1, &all.on.layers.model.config, QD_DATA_CALIBRATE));
	OK(qd_profile_score(profile, &all.on.layers.model, list, 2, &calibration, &options));
	OK(qd_profile_calibrate(profile, &all.on.layers.model, list, 2, &calibration));
	qd_dataset_release(&calibration);
}

static int open_all(void **state)
{
	(void)state;
	help_training_open(&all.on, "epsilon");
	snprintf(all.noisy, sizeof(all.noisy), "%s", help_data("noisy", 32, 2, true));
	OK(qd_adapter_open(
		&all.adapters[0], "small", help_adapter("small", &all.on.layers.modules, 2, 0.2F, 3), 1, &all.on.layers.modules));
	OK(qd_adapter_open(
		&all.adapters[1], "large", help_adapter("large", &all.on.layers.modules, 4, 0.1F, 4), 1, &all.on.layers.modules));
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
	return help_training_close(&all.on);
}

static struct qd_distill_options small(const char *output)
{
	struct qd_distill_options o = qd_distill_options_default();

	o.loop.steps = 24;
	o.loop.batch = 4;
	o.loop.lr = 0.1;
	o.loop.output = output;
	o.loop.force = true;
	return o;
}

static enum qd_status distill(
	const struct qd_profile *profile, const char *data, const struct qd_distill_options *o, struct qd_distill_result *result)
{
	return qd_distill(&all.on.layers.model, profile, &all.adapters[0], &data, 1, o, result);
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
	char id[QD_HASH_TEXT];
	(void)state;

	o.loop.steps = 0;
	OK(distill(&all.profile, all.on.data, &o, &result));
	assert_int_equal(result.best_step, 0);
	assert_true(result.after == result.before);
	OK(qd_adapter_open(&written, "small", o.loop.output, 1, &all.on.layers.modules));
	OK(qd_profile_encodings_id(&all.profile, id));
	assert_non_null(written.encodings_id);
	assert_string_equal(written.encodings_id, id);
	assert_int_equal(written.loras[0].rank, 2);
	OK(qd_fit_adapter(&first, &all.adapters[0], &all.profile, QD_ALIGN_GAIN, false));
	OK(qd_fit_adapter(&again, &written, &all.profile, QD_ALIGN_GAIN, false));
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

	OK(qd_dataset_open(&data, (const char *const[]){ all.noisy }, 1, &all.on.layers.model.config, QD_DATA_CALIBRATE));
	sizes = qd_dataset_sizes(&data, data.n);
	OK(qd_net_build(&net, &all.on.layers.model, &sizes, &profile->slots));
	OK(qd_runner_open_simulated(&runners[1], &net, profile, adapter, false, false));
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
	OK(qd_adapter_open(&written, "small", o->loop.output, 1, &all.on.layers.modules));
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

	check_better(&all.coarse, &o, all.on.data, 0.5);
}

/* `pool` draws are learned from, in whole batches or trajectories of four; of eight batches one judges. Without it there are as
 * many in all as the steps take, at least 64. */
static void test_pool_sizes(void **state)
{
	static const struct {
		int64_t pool, steps, draws, held_out;
		int trajectory_steps;
	} cases[] = { { 8, 0, 8, 4, 0 }, { 9, 0, 12, 4, 0 }, { 1, 1, 4, 4, 0 }, { 28, 0, 28, 4, 0 }, { 32, 0, 32, 8, 0 },
		{ 8, 1, 12, 12, 3 }, { 0, 0, 56, 8, 0 }, { 0, 24, 84, 12, 0 } };
	(void)state;

	for (size_t i = 0; i < QD_COUNT(cases); i++) {
		struct qd_distill_options o = small(scratch_path("sizes"));
		struct qd_distill_result result;
		o.pool = cases[i].pool;
		o.loop.steps = cases[i].steps;
		if (cases[i].trajectory_steps > 0)
			o.trajectory = "ddim";
		o.trajectory_steps = cases[i].trajectory_steps;
		OK(distill(&all.coarse, all.on.data, &o, &result));
		assert_int_equal(result.draws, cases[i].draws);
		assert_int_equal(result.held_out, cases[i].held_out);
	}
}

static void test_better_on_trajectories(void **state)
{
	struct qd_distill_options o = small(scratch_path("trajectory.safetensors"));
	struct qd_distill_result result;
	(void)state;

	o.trajectory = "euler";
	o.trajectory_steps = 3;
	OK(distill(&all.coarse, all.on.data, &o, &result));
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
	o.loop.lr = 0;
	check_better(&profile, &o, all.on.data, 1);
	qd_profile_release(&profile);
}

static void test_task_weight(void **state)
{
	struct qd_distill_options o = small(scratch_path("task.safetensors"));
	struct qd_distill_result with, without;
	(void)state;

	OK(distill(&all.coarse, all.on.data, &o, &without));
	o.task_weight = 1e-3;
	OK(distill(&all.coarse, all.on.data, &o, &with));
	assert_true(with.before == without.before);
	assert_true(with.after != without.after);
	assert_true(with.after <= with.before);
}

/* ---- repeating and going on ---- */

/* In the engine with gradients of either precision; the last one on libtorch's operators. */
static const struct {
	bool libtorch, exact;
} students[] = { { false, false }, { false, true }, { true, false } };

static void test_repeats(void **state)
{
	struct qd_distill_options o = small(scratch_path("repeat0"));
	struct qd_distill_result result;
	char hash[3][QD_HASH_TEXT];
	(void)state;

	for (size_t s = 0; s < QD_COUNT(students); s++) {
		o.libtorch = students[s].libtorch;
		o.exact_gradients = students[s].exact;
		for (int i = 0; i < 3; i++) {
			o.loop.seed = (uint64_t)i / 2;
			OK(distill(&all.coarse, all.on.data, &o, &result));
			OK(qd_hash_file(o.loop.output, hash[i]));
		}
		assert_string_equal(hash[0], hash[1]);
		assert_string_not_equal(hash[0], hash[2]);
	}
}

/* Whatever makes the gradients, what is learned is as good: on held-out draws within 0.3 dB of libtorch's. */
static void check_students(const struct qd_profile *profile, double gain_db)
{
	struct qd_distill_options o = small(scratch_path("students"));
	struct qd_distill_result results[QD_COUNT(students)];

	for (size_t s = 0; s < QD_COUNT(students); s++) {
		o.libtorch = students[s].libtorch;
		o.exact_gradients = students[s].exact;
		OK(distill(profile, all.on.data, &o, &results[s]));
	}
	for (size_t s = 0; s < QD_COUNT(students); s++) {
		assert_true(results[s].after_db >= results[s].before_db + gain_db);
		assert_true(fabs(results[s].before_db - results[2].before_db) < 0.1);
		if (!(fabs(results[s].after_db - results[2].after_db) <= 0.3))
			fail_msg("student %zu comes to %g dB, libtorch's to %g", s, results[s].after_db, results[2].after_db);
	}
}

static void test_students_learn_alike(void **state)
{
	(void)state;
	check_students(&all.coarse, 0.5);
	check_students(&all.profile, 0);
}

/* Leaves the state that a run has after eight updates, and its result. */
static void leave_state(struct qd_distill_options *o, struct qd_distill_result *whole)
{
	o->loop.checkpoint_every = 8;
	help_watch_state(o->loop.output, 9);
	OK(distill(&all.coarse, all.on.data, o, whole));
	help_watch_state(NULL, 0);
	assert_false(help_has_state(o->loop.output));
	help_put_state(o->loop.output);
}

static void check_resumes(struct qd_distill_options *o)
{
	struct qd_distill_result whole, rest;
	char first[QD_HASH_TEXT], second[QD_HASH_TEXT];

	leave_state(o, &whole);
	OK(qd_hash_file(o->loop.output, first));
	OK(distill(&all.coarse, all.on.data, o, &rest));
	assert_int_equal(rest.resumed_at, 8);
	assert_int_equal(rest.best_step, whole.best_step);
	assert_true(rest.after == whole.after && rest.before == whole.before);
	OK(qd_hash_file(o->loop.output, second));
	assert_string_equal(first, second);
}

static void test_resumes(void **state)
{
	char output[512];
	struct qd_distill_options o = small(output);
	(void)state;

	snprintf(output, sizeof(output), "%s", scratch_path("resumed"));
	for (size_t s = 0; s < QD_COUNT(students); s++) {
		o.libtorch = students[s].libtorch;
		o.exact_gradients = students[s].exact;
		check_resumes(&o);
	}
	o.libtorch = false;
	o.trajectory = "ddim";
	o.trajectory_steps = 2;
	o.task_weight = 1e-3;
	check_resumes(&o);
}

/* One bit of a state is another, in the weights, in the moments or in what it says of itself. */
static void test_damaged_state(void **state)
{
	struct qd_distill_options o = small(scratch_path("damaged"));
	struct qd_distill_result whole, rest;
	char path[600];

	(void)state;
	leave_state(&o, &whole);
	assert_int_equal(remove(o.loop.output), 0);
	o.loop.force = false;
	snprintf(path, sizeof(path), "%s.ckpt", o.loop.output);
	for (int part = 0; part < 4; part++) {
		struct qd_mapping file;
		unsigned char *bytes;
		help_put_state(o.loop.output);
		OK(qd_mapping_open(&file, path));
		bytes = malloc(file.size);
		memcpy(bytes, file.data, file.size);
		if (part == 0)
			*strstr(strstr((char *)bytes + 8, "quad.step") + 9, "8") = '7';
		else
			bytes[file.size - 100 - file.size / 4 * (size_t)(part - 1)] ^= 0x40;
		OK(qd_write_file(path, bytes, file.size, true));
		free(bytes);
		qd_mapping_release(&file);
		help_refused(distill(&all.coarse, all.on.data, &o, &rest), QD_EINPUT,
			"damaged.ckpt': it is damaged, its hash is not that of its content: remove it or give --force");
		assert_true(help_has_state(o.loop.output));
	}
	o.loop.force = true;
	OK(distill(&all.coarse, all.on.data, &o, &rest));
	assert_int_equal(rest.resumed_at, 0);
	assert_true(rest.after == whole.after);
}

static void check_other_run(const struct qd_profile *profile, const char *data, const struct qd_distill_options *o)
{
	struct qd_distill_result result;

	help_refused(distill(profile, data, o, &result), QD_EEXIST,
		".ckpt' is of a run with other options: repeat those, remove it or give --force");
	assert_true(help_has_state(o->loop.output));
}

/* Everything that shapes the bytes belongs to the run: options, what makes the gradients, data, profile, adapter, noise schedule, and along trajectories the
 * sampler's part of that. */
static void test_other_runs(void **state)
{
	static const char config[] = "scheduler/scheduler_config.json", spaced[] = "{\"timestep_spacing\": \"trailing\", ";
	char output[512];
	struct qd_distill_options o = small(output);
	double *const numbers[] = { &o.loop.lr, &o.loop.beta1, &o.loop.beta2, &o.loop.eps, &o.loop.weight_decay, &o.loop.clip,
		&o.lr_gain, &o.task_weight };
	int64_t *const counts[] = { &o.loop.steps, &o.loop.batch, &o.loop.warmup, &o.loop.evaluate_every, &o.pool };
	bool *const choices[] = { &o.exact_gradients, &o.libtorch };
	struct qd_profile other = all.coarse;
	struct qd_adapter kept = all.adapters[0];
	struct qd_distill_result result;
	(void)state;

	snprintf(output, sizeof(output), "%s", scratch_path("other"));
	o.lr_gain = 0.01;
	leave_state(&o, &result);
	assert_int_equal(remove(output), 0);
	o.loop.force = false;
	for (size_t i = 0; i < QD_COUNT(numbers); i++) {
		double before = *numbers[i];
		*numbers[i] = before * 0.5 + 0.125;
		check_other_run(&all.coarse, all.on.data, &o);
		*numbers[i] = before;
	}
	for (size_t i = 0; i < QD_COUNT(counts); i++) {
		(*counts[i])++;
		check_other_run(&all.coarse, all.on.data, &o);
		(*counts[i])--;
	}
	for (size_t i = 0; i < QD_COUNT(choices); i++) {
		*choices[i] = true;
		check_other_run(&all.coarse, all.on.data, &o);
		*choices[i] = false;
	}
	check_other_run(&all.coarse, all.noisy, &o);
	check_other_run(&all.profile, all.on.data, &o);
	other.options.align = QD_ALIGN_GAUGE;
	check_other_run(&other, all.on.data, &o);
	all.adapters[0].hash[strlen(kept.hash) - 1] ^= 1;
	check_other_run(&all.coarse, all.on.data, &o);
	all.adapters[0] = kept;
	help_edit(all.on.base, config, "0.012", "0.013");
	check_other_run(&all.coarse, all.on.data, &o);
	help_edit(all.on.base, config, "0.013", "0.012");
	help_edit(all.on.base, config, "{", spaced);
	OK(distill(&all.coarse, all.on.data, &o, &result));
	assert_int_equal(result.resumed_at, 8);
	help_edit(all.on.base, config, spaced, "{");

	o.loop.force = true;
	o.trajectory = "ddim";
	o.trajectory_steps = 2;
	leave_state(&o, &result);
	assert_int_equal(remove(output), 0);
	o.loop.force = false;
	help_edit(all.on.base, config, "{", spaced);
	check_other_run(&all.coarse, all.on.data, &o);
	help_edit(all.on.base, config, spaced, "{");
	o.trajectory = "euler";
	check_other_run(&all.coarse, all.on.data, &o);
}

/* ---- refusals ---- */

static void refused(const struct qd_profile *profile, const struct qd_distill_options *o, const char *data, enum qd_status status,
	const char *message)
{
	struct qd_distill_result result;

	help_refused(distill(profile, data, o, &result), status, message);
	assert_false(qd_is_file(o->loop.output));
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
	refused(&other, &o, all.on.data, QD_EINPUT, "base");
	other = all.profile;
	other.slots.n = 0;
	other.n_entries = 0;
	refused(&other, &o, all.on.data, QD_EINPUT, "");
	o.loop.output = all.on.data;
	o.loop.force = false;
	struct qd_distill_result result;
	help_refused(distill(&all.profile, all.on.data, &o, &result), QD_EEXIST, "already exists");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_no_step),
		cmocka_unit_test(test_better),
		cmocka_unit_test(test_pool_sizes),
		cmocka_unit_test(test_better_on_trajectories),
		cmocka_unit_test(test_better_from_calibration_file),
		cmocka_unit_test(test_recovers_unaligned),
		cmocka_unit_test(test_task_weight),
		cmocka_unit_test(test_repeats),
		cmocka_unit_test(test_students_learn_alike),
		cmocka_unit_test(test_resumes),
		cmocka_unit_test(test_damaged_state),
		cmocka_unit_test(test_other_runs),
		cmocka_unit_test(test_refuses),
	};
	return cmocka_run_group_tests(tests, open_all, close_all);
}
