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

#define OK(call)                                                                                                                   \
	do {                                                                                                                       \
		if ((call) != QD_OK)                                                                                               \
			fail_msg("%s", qd_message());                                                                              \
	} while (0)

static struct {
	char base[512], data[512], validation[512];
	struct help_layers layers;
} all;

static void keep(char *to, size_t size, const char *path)
{
	snprintf(to, size, "%s", path);
}

static int open_all(void **state)
{
	(void)state;
	OK(qt_set_threads(1));
	keep(all.base, sizeof(all.base), help_pipeline("base", "v_prediction"));
	keep(all.data, sizeof(all.data), help_data("data", 16, 1, false));
	keep(all.validation, sizeof(all.validation), help_data("validation", 5, 2, false));
	help_layers_open(&all.layers, all.base);
	return 0;
}

static int close_all(void **state)
{
	(void)state;
	help_layers_close(&all.layers);
	return qt_live() == 0 ? 0 : -1;
}

static struct qd_train_options small(const char *output)
{
	struct qd_train_options o = qd_train_options_default();

	o.steps = 4;
	o.batch = 4;
	o.output = output;
	o.force = true;
	return o;
}

static enum qd_status train(const struct qd_train_options *o, struct qd_train_result *result)
{
	const char *data = all.data;

	return qd_train(&all.layers.model, &all.layers.modules, &data, 1, o, result);
}

/* Bytes of a file equal those of another. */
static bool same_file(const char *a, const char *b)
{
	char x[QD_HASH_TEXT], y[QD_HASH_TEXT];

	OK(qd_hash_file(a, x));
	OK(qd_hash_file(b, y));
	return strcmp(x, y) == 0;
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

	o.lr = 0;
	OK(train(&o, &result));
	OK(qd_safetensors_open(&before, weights_of(all.base)));
	OK(qd_safetensors_open(&after, weights_of(o.output)));
	assert_int_equal(before.n, after.n);
	for (size_t i = 0; i < before.n; i++) {
		const struct qd_tensor *t = qd_safetensors_find(&after, before.tensors[i].name);
		assert_non_null(t);
		assert_true(qd_shape_equal(&t->shape, &before.tensors[i].shape));
		assert_memory_equal(t->data, before.tensors[i].data, t->bytes);
	}
	qd_safetensors_release(&before);
	qd_safetensors_release(&after);
	OK(qd_model_open(&model, o.output));
	qd_model_release(&model);
	OK(qd_schedule_read(&schedule, o.output, ""));
	assert_int_equal(schedule.prediction, QD_PREDICT_V);
	qd_schedule_release(&schedule);
	snprintf(path, sizeof(path), "%s/model_index.json", o.output);
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

	o.lr = 0;
	o.lora = 2;
	o.alpha = 3;
	o.slots = "all";
	OK(train(&o, &result));
	OK(qd_adapter_open(&adapter, "a", o.output, 1, &all.layers.modules));
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
	double lr = o->lr;

	o->validation = all.validation;
	o->steps = 1;
	o->lr = 0;
	OK(train(o, &start));
	o->steps = 60;
	o->lr = lr;
	OK(train(o, &end));
	assert_true(end.parameters > 0);
	if (!(end.validation < part * start.validation))
		fail_msg("validation loss went from %g to %g only", start.validation, end.validation);
}

static void test_learns_all_weights(void **state)
{
	struct qd_train_options o = small(scratch_path("learned"));
	(void)state;

	o.lr = 5e-3;
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
	o.lr = 2e-2;
	check_learns(&o, 0.85);
	/* going on from it starts where it ended */
	o.validation = all.validation;
	OK(train(&o, &first));
	o.init_adapter = scratch_path("learned.safetensors");
	o.output = scratch_path("further.safetensors");
	o.lora = 0;
	o.lr = 0;
	o.steps = 1;
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
		o.seed = i / 2;
		OK(train(&o, &result));
	}
	assert_true(same_file(weights_of(scratch_path("run0")), weights_of(scratch_path("run1"))));
	assert_false(same_file(weights_of(scratch_path("run0")), weights_of(scratch_path("run2"))));
}

/* Copies the checkpoint aside as soon as it is there: what a killed run would have left. */
static void copy_checkpoint(void *context, const char *what, uint64_t done, uint64_t total, const char *note)
{
	struct qd_mapping file;
	(void)what;
	(void)total;
	(void)note;

	if (done != 5)
		return;
	OK(qd_mapping_open(&file, context));
	OK(qd_write_file(scratch_path("aside"), file.data, file.size, true));
	qd_mapping_release(&file);
}

static void check_resumes(struct qd_train_options o, const char *result_file)
{
	char checkpoint[1024], other[512], first[QD_HASH_TEXT], second[QD_HASH_TEXT];
	struct qd_train_result result;
	struct qd_mapping aside;

	o.steps = 7;
	o.checkpoint_every = 4;
	snprintf(checkpoint, sizeof(checkpoint), "%s.ckpt", o.output);
	qd_set_progress_hook(copy_checkpoint, checkpoint);
	OK(train(&o, &result));
	qd_set_progress_hook(NULL, NULL);
	assert_int_equal(result.resumed_at, 0);
	assert_false(qd_is_file(checkpoint)); /* gone with success */
	OK(qd_hash_file(result_file, first));
	OK(qd_mapping_open(&aside, scratch_path("aside")));
	OK(qd_write_file(checkpoint, aside.data, aside.size, true));
	OK(train(&o, &result));
	assert_int_equal(result.resumed_at, 4);
	assert_false(qd_is_file(checkpoint));
	OK(qd_hash_file(result_file, second));
	assert_string_equal(first, second);
	/* of other options: refused, and replaced by force */
	OK(qd_write_file(checkpoint, aside.data, aside.size, true));
	o.force = false;
	snprintf(other, sizeof(other), "%s.other", o.output);
	o.output = other;
	snprintf(checkpoint, sizeof(checkpoint), "%s.ckpt", o.output);
	OK(qd_write_file(checkpoint, aside.data, aside.size, true));
	o.lr *= 2;
	assert_int_equal(train(&o, &result), QD_EEXIST);
	assert_non_null(
		strstr(qd_message(), ".other.ckpt' is of a run with other options: repeat those, remove it or give --force"));
	o.force = true;
	OK(train(&o, &result));
	assert_int_equal(result.resumed_at, 0);
	qd_mapping_release(&aside);
}

static void test_resumes_all_weights(void **state)
{
	struct qd_train_options o = small(scratch_path("resumed"));
	char file[1024];
	(void)state;

	o.ema = 0.9;
	snprintf(file, sizeof(file), "%s", weights_of(o.output));
	check_resumes(o, file);
}

static void test_resumes_adapter(void **state)
{
	struct qd_train_options o = small(scratch_path("resumed.safetensors"));
	(void)state;

	o.lora = 2;
	check_resumes(o, scratch_path("resumed.safetensors"));
}

static void refused(const struct qd_train_options *o, const char *data, enum qd_status status, const char *message)
{
	struct qd_train_result result;

	assert_int_equal(qd_train(&all.layers.model, &all.layers.modules, &data, 1, o, &result), status);
	if (strstr(qd_message(), message) == NULL)
		fail_msg("says \"%s\" instead of \"%s\"", qd_message(), message);
	assert_false(qd_is_file(o->output) || qd_is_directory(o->output));
}

static void test_refuses(void **state)
{
	struct qd_train_options o = small(scratch_path("refused"));
	(void)state;

	refused(&o, help_data("noisy", 3, 1, true), QD_EINPUT, "noisy': tensor 'latents' is missing");
	o.validation = help_data("noisy", 3, 1, true);
	refused(&o, all.data, QD_EINPUT, "tensor 'latents' is not as in '");
	o.validation = NULL;
	o.lr = 1e30;
	refused(&o, all.data, QD_EINPUT, "the loss is not finite at step 1: a lower learning rate than 1e+30 is needed");
	o.lr = 1e-3;
	o.lora = 2;
	o.slots = scratch_file("none", "\n", 1);
	refused(&o, all.data, QD_EINPUT, "none' selects no layer of this model");
	o.slots = "all";
	o.output = scratch_path("missing/refused");
	refused(&o, all.data, QD_EIO, "missing/");
}

static void test_refuses_existing(void **state)
{
	struct qd_train_options o = small(all.base);
	struct qd_train_result result;
	(void)state;

	o.force = false;
	assert_int_equal(train(&o, &result), QD_EEXIST);
	assert_non_null(strstr(qd_message(), "already exists"));
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
		cmocka_unit_test(test_refuses),
		cmocka_unit_test(test_refuses_existing),
	};
	return cmocka_run_group_tests(tests, open_all, close_all);
}
