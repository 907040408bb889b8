/* Training: what is written when nothing is learned, that the loss goes down, that a run repeats itself and goes on where it was
 * killed. */
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

static struct help_training all;
static char validation[512];

static int open_all(void **state)
{
	(void)state;
	help_training_open(&all, "v_prediction");
	snprintf(validation, sizeof(validation), "%s", help_data("validation", 5, 2, false));
	return 0;
}

static int close_all(void **state)
{
	(void)state;
	return help_training_close(&all);
}

static struct qd_train_options small(const char *output)
{
	struct qd_train_options o = qd_train_options_default();

	o.loop.steps = 4;
	o.loop.batch = 4;
	o.loop.output = output;
	o.loop.force = true;
	return o;
}

static enum qd_status train(const struct qd_train_options *o, struct qd_train_result *result)
{
	const char *data = all.data;

	return qd_train(&all.layers.model, &all.layers.modules, &data, 1, o, result);
}

static const char *weights_of(const char *root)
{
	static char paths[2][1024];
	static int turn;

	turn ^= 1;
	snprintf(paths[turn], sizeof(paths[turn]), "%s/unet/diffusion_pytorch_model.safetensors", root);
	return paths[turn];
}

/* Without a learning rate, all weights come back bit for bit, and the folder opens as a model with the same schedule. */
static void test_nothing_learned(void **state)
{
	struct qd_train_options o = small(scratch_path("same"));
	struct qd_train_result result;
	struct qd_safetensors before, after;
	struct qd_schedule schedule;
	struct qd_model model;
	json_t *index;
	char path[1024];
	(void)state;

	o.loop.lr = 0;
	OK(train(&o, &result));
	OK(qd_safetensors_open(&before, weights_of(all.base)));
	OK(qd_safetensors_open(&after, weights_of(o.loop.output)));
	assert_int_equal(before.n, after.n);
	for (size_t i = 0; i < before.n; i++) {
		const struct qd_tensor *t = qd_safetensors_find(&after, before.tensors[i].name);
		assert_non_null(t);
		assert_true(qd_shape_equal(&t->shape, &before.tensors[i].shape));
		assert_memory_equal(t->data, before.tensors[i].data, t->bytes);
	}
	qd_safetensors_release(&before);
	qd_safetensors_release(&after);
	OK(qd_model_open(&model, o.loop.output));
	qd_model_release(&model);
	OK(qd_schedule_read(&schedule, o.loop.output, ""));
	assert_int_equal(schedule.prediction, QD_PREDICT_V);
	qd_schedule_release(&schedule);
	snprintf(path, sizeof(path), "%s/model_index.json", o.loop.output);
	OK(qd_json_read(path, &index));
	assert_string_equal(json_string_value(json_array_get(json_object_get(index, "unet"), 0)), "diffusers");
	assert_true(json_is_null(json_array_get(json_object_get(index, "vae"), 0)));
	json_decref(index);
}

/* A fresh adapter without a learning rate: up is zero, down within +-1/sqrt(fan in), gain alpha / rank, and the base untouched. */
static void test_fresh_adapter(void **state)
{
	struct qd_train_options o = small(scratch_path("fresh.safetensors"));
	struct qd_train_result result;
	struct qd_adapter adapter;
	(void)state;

	o.loop.lr = 0;
	o.lora = 2;
	o.alpha = 3;
	o.slots = "all";
	OK(train(&o, &result));
	OK(qd_adapter_open(&adapter, "a", o.loop.output, 1, &all.layers.modules));
	assert_int_equal(adapter.n, all.layers.modules.n);
	for (size_t i = 0; i < adapter.n; i++) {
		const struct qd_lora *lora = &adapter.loras[i];
		int64_t fan_in = lora->in * lora->kh * lora->kw;
		float largest = 0;
		for (int64_t k = 0; k < lora->out * 2; k++)
			assert_float_equal(lora->up[k], 0, 0);
		for (int64_t k = 0; k < fan_in * 2; k++)
			largest = fmaxf(largest, fabsf(lora->down[k]));
		assert_true(largest > 0 && (double)largest <= 1 / sqrt((double)fan_in));
		for (int k = 0; k < 2; k++)
			assert_float_equal(lora->gain[k], 1.5F, 0);
	}
	qd_adapter_release(&adapter);
}

/* Sixty steps on sixteen samples: the loss on held-out samples under fixed draws falls well below what it was. */
static void check_learns(struct qd_train_options *o, double part)
{
	struct qd_train_result start, end;
	double lr = o->loop.lr;

	o->validation = validation;
	o->loop.steps = 1;
	o->loop.lr = 0;
	OK(train(o, &start));
	o->loop.steps = 60;
	o->loop.lr = lr;
	OK(train(o, &end));
	assert_true(end.parameters > 0);
	if (!(end.validation < part * start.validation))
		fail_msg("validation loss went from %g to %g only", start.validation, end.validation);
}

static void test_learns_all_weights(void **state)
{
	struct qd_train_options o = small(scratch_path("learned"));
	(void)state;

	o.loop.lr = 5e-3;
	check_learns(&o, 0.85);
	o.ema = 0.9;
	o.snr_gamma = 5;
	o.prompt_dropout = 0.1;
	check_learns(&o, 0.85);
}

static void test_learns_adapter(void **state)
{
	struct qd_train_options o = small(scratch_path("learned.safetensors"));
	struct qd_train_result first, second;
	(void)state;

	o.lora = 4;
	o.slots = "all";
	o.loop.lr = 2e-2;
	check_learns(&o, 0.85);
	/* going on from it starts where it ended */
	o.validation = validation;
	OK(train(&o, &first));
	o.init_adapter = scratch_path("learned.safetensors");
	o.loop.output = scratch_path("further.safetensors");
	o.lora = 0;
	o.loop.lr = 0;
	o.loop.steps = 1;
	OK(train(&o, &second));
	assert_true(fabs(second.validation - first.validation) < 1e-5 * first.validation);
}

static void test_repeats(void **state)
{
	static const char *const names[] = { "run0", "run1", "run2" };
	struct qd_train_result result;
	(void)state;

	for (uint64_t i = 0; i < 3; i++) {
		struct qd_train_options o = small(scratch_path(names[i]));
		o.ema = 0.9;
		o.loop.seed = i / 2;
		OK(train(&o, &result));
	}
	assert_true(help_same_file(weights_of(scratch_path("run0")), weights_of(scratch_path("run1"))));
	assert_false(help_same_file(weights_of(scratch_path("run0")), weights_of(scratch_path("run2"))));
}

/* Leaves the state that a run of seven updates has after four of them, and its result. */
static void leave_state(struct qd_train_options *o)
{
	struct qd_train_result result;

	o->loop.steps = 7;
	o->loop.checkpoint_every = 4;
	help_watch_state(o->loop.output, 5);
	OK(train(o, &result));
	help_watch_state(NULL, 0);
	assert_int_equal(result.resumed_at, 0);
	assert_false(help_has_state(o->loop.output)); /* gone with success */
	help_put_state(o->loop.output);
}

static void check_resumes(struct qd_train_options o, const char *result_file)
{
	char first[QD_HASH_TEXT], second[QD_HASH_TEXT];
	struct qd_train_result result;

	leave_state(&o);
	OK(qd_hash_file(result_file, first));
	OK(train(&o, &result));
	assert_int_equal(result.resumed_at, 4);
	assert_false(help_has_state(o.loop.output));
	OK(qd_hash_file(result_file, second));
	assert_string_equal(first, second);
	/* of other options: replaced by force */
	help_put_state(o.loop.output);
	o.loop.lr *= 2;
	OK(train(&o, &result));
	assert_int_equal(result.resumed_at, 0);
}

static void test_resumes_all_weights(void **state)
{
	struct qd_train_options o = small(scratch_path("resumed"));
	char file[1024];
	(void)state;

	o.ema = 0.9;
	snprintf(file, sizeof(file), "%s", weights_of(o.loop.output));
	check_resumes(o, file);
}

static void test_resumes_adapter(void **state)
{
	struct qd_train_options o = small(scratch_path("resumed.safetensors"));
	(void)state;

	o.lora = 2;
	check_resumes(o, scratch_path("resumed.safetensors"));
}

/* Without force, what is found is refused: it is of another run, though only by what was changed since. */
static void check_other_run(const struct qd_train_options *o)
{
	struct qd_train_result result;

	help_refused(
		train(o, &result), QD_EEXIST, ".ckpt' is of a run with other options: repeat those, remove it or give --force");
	assert_true(help_has_state(o->loop.output));
}

static void check_same_run(const struct qd_train_options *o)
{
	struct qd_train_result result;

	OK(train(o, &result));
	assert_int_equal(result.resumed_at, 4);
	assert_int_equal(remove(o->loop.output), 0);
	help_put_state(o->loop.output);
}

/* Everything that shapes the bytes belongs to the run; what does not may change. */
static void test_other_runs(void **state)
{
	char output[512], slots[512], first[512];
	struct qd_train_options o = small(output);
	double *const numbers[] = { &o.loop.lr, &o.loop.beta1, &o.loop.beta2, &o.loop.eps, &o.loop.weight_decay, &o.loop.clip,
		&o.ema, &o.snr_gamma, &o.prompt_dropout, &o.alpha };
	int64_t *const counts[] = { &o.loop.steps, &o.loop.batch, &o.loop.warmup, &o.lora };
	(void)state;

	snprintf(output, sizeof(output), "%s", scratch_path("other.safetensors"));
	snprintf(slots, sizeof(slots), "%s", scratch_path("slots"));
	snprintf(first, sizeof(first), "%s\n", all.layers.modules.items[0].path);
	OK(qd_write_file(slots, first, strlen(first), true));
	o.lora = 2;
	o.alpha = 1;
	o.slots = slots;
	o.ema = 0.5;
	o.snr_gamma = 5;
	leave_state(&o);
	assert_int_equal(remove(output), 0);
	o.loop.force = false;
	for (size_t i = 0; i < QD_COUNT(numbers); i++) {
		double kept = *numbers[i];
		*numbers[i] = kept * 0.5 + 0.125;
		check_other_run(&o);
		*numbers[i] = kept;
	}
	for (size_t i = 0; i < QD_COUNT(counts); i++) {
		(*counts[i])++;
		check_other_run(&o);
		(*counts[i])--;
	}
	o.loop.seed = 1;
	check_other_run(&o);
	o.loop.seed = 0;
	o.loop.schedule = QD_LR_LINEAR;
	check_other_run(&o);
	o.loop.schedule = QD_LR_COSINE;
	o.bfloat16 = true;
	check_other_run(&o);
	o.bfloat16 = false;
	o.loop.checkpoint_every = 3;
	o.loop.evaluate_every = 2;
	o.validation = validation;
	check_same_run(&o);
}

/* Files that say what they said when the run began: data, layers, noise schedule, the adapter that training goes on from. */
static void test_other_files(void **state)
{
	static const char *const edits[][2] = { { "\"beta_end\": 0.012", "\"beta_end\": 0.013" }, { "v_prediction", "epsilon" },
		{ "1000", "999" } };
	static const char config[] = "scheduler/scheduler_config.json";
	const char *path = all.layers.modules.items[1].path;
	char output[512], slots[512], text[512], data[512];
	struct qd_train_options o = small(output);
	(void)state;

	snprintf(output, sizeof(output), "%s", scratch_path("files.safetensors"));
	snprintf(slots, sizeof(slots), "%s", scratch_path("slots"));
	snprintf(text, sizeof(text), "%s\n%s\n", all.layers.modules.items[0].path, path);
	OK(qd_write_file(slots, text, strlen(text), true));
	o.lora = 2;
	o.slots = slots;
	leave_state(&o);
	assert_int_equal(remove(output), 0);
	o.loop.force = false;
	for (size_t i = 0; i < QD_COUNT(edits); i++) {
		help_edit(all.base, config, edits[i][0], edits[i][1]);
		check_other_run(&o);
		help_edit(all.base, config, edits[i][1], edits[i][0]);
	}
	OK(qd_write_file(slots, text, strlen(text) - strlen(path) - 1, true));
	check_other_run(&o);
	OK(qd_write_file(slots, text, strlen(text), true));
	snprintf(data, sizeof(data), "%s", all.data);
	snprintf(all.data, sizeof(all.data), "%s", help_data("data2", 16, 9, false));
	check_other_run(&o);
	snprintf(all.data, sizeof(all.data), "%s", data);
	/* training hangs on the noise alone, not on how samplers walk along it */
	help_edit(all.base, config, "{", "{\"timestep_spacing\": \"trailing\", ");
	check_same_run(&o);
	help_edit(all.base, config, "\"timestep_spacing\": \"trailing\", ", "");

	o.lora = 0;
	o.init_adapter = help_adapter("start.safetensors", &all.layers.modules, 2, 0.1F, 3);
	snprintf(text, sizeof(text), "%s@0.5", o.init_adapter);
	snprintf(data, sizeof(data), "%s", o.init_adapter);
	o.init_adapter = data;
	o.loop.force = true;
	leave_state(&o);
	assert_int_equal(remove(output), 0);
	o.loop.force = false;
	o.init_adapter = text;
	check_other_run(&o);
	o.init_adapter = data;
	check_same_run(&o);
}

static void refused(const struct qd_train_options *o, const char *data, enum qd_status status, const char *message)
{
	struct qd_train_result result;

	help_refused(qd_train(&all.layers.model, &all.layers.modules, &data, 1, o, &result), status, message);
	assert_false(qd_is_file(o->loop.output) || qd_is_directory(o->loop.output));
}

static void test_refuses(void **state)
{
	struct qd_train_options o = small(scratch_path("refused"));
	(void)state;

	refused(&o, help_data("noisy", 3, 1, true), QD_EINPUT, "noisy': tensor 'latents' is missing");
	o.validation = help_data("noisy", 3, 1, true);
	refused(&o, all.data, QD_EINPUT, "tensor 'latents' is not as in '");
	o.validation = NULL;
	o.loop.lr = 1e30;
	refused(&o, all.data, QD_EINPUT, "the loss is not finite at step 1: a lower learning rate than 1e+30 is needed");
	o.loop.lr = 1e-3;
	o.lora = 2;
	o.slots = scratch_file("none", "\n", 1);
	refused(&o, all.data, QD_EINPUT, "none' selects no layer of this model");
	o.slots = "all";
	o.loop.output = scratch_path("missing/refused");
	refused(&o, all.data, QD_EIO, "missing/");
}

static void test_refuses_existing(void **state)
{
	struct qd_train_options o = small(all.base);
	struct qd_train_result result;
	(void)state;

	o.loop.force = false;
	help_refused(train(&o, &result), QD_EEXIST, "already exists");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_nothing_learned),
		cmocka_unit_test(test_fresh_adapter),
		cmocka_unit_test(test_learns_all_weights),
		cmocka_unit_test(test_learns_adapter),
		cmocka_unit_test(test_repeats),
		cmocka_unit_test(test_resumes_all_weights),
		cmocka_unit_test(test_resumes_adapter),
		cmocka_unit_test(test_other_runs),
		cmocka_unit_test(test_other_files),
		cmocka_unit_test(test_refuses),
		cmocka_unit_test(test_refuses_existing),
	};
	return cmocka_run_group_tests(tests, open_all, close_all);
}
