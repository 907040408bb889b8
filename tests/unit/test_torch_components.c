/*
 * VAEs and text encoders: against the outputs of diffusers and transformers, and small ones against plain loops.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/math/math.h"
#include "lib/torch/torch.h"
#include "tests/unit/component_help.h"
#include "tests/unit/scratch.h"

#define ok component_ok

/* ---- running ---- */

struct outputs {
	struct qd_tensor items[8];
	size_t n;
};

/* Builds and runs a component; inputs are taken from `inputs` by name. */
static void run(const struct qd_component *c, const struct qd_component_sizes *sizes, const struct qd_tensor *inputs, size_t n,
	struct outputs *out)
{
	static char names[8][64];
	const struct qd_exec_options options = { 0 };
	struct qd_graph g = { 0 };
	struct qd_exec *exec = NULL;
	qt_tensor results[8];
	ok(qd_component_graph(&g, c, sizes));
	ok(qd_graph_verify(&g));
	ok(qd_exec_new(&exec, &g, &options));
	for (size_t i = 0; i < n; i++)
		ok(qd_exec_bind_tensor(exec, inputs[i].name, &inputs[i]));
	ok(qd_exec_run(exec, results));
	out->n = g.n_outputs;
	for (size_t i = 0; i < g.n_outputs; i++) {
		const struct qd_value *value = &g.values[g.outputs[i]];
		snprintf(names[i], sizeof(names[i]), "%s", value->name);
		ok(qd_tensor_new(&out->items[i], names[i], QD_F32, &value->shape));
		ok(qt_read(results[i], out->items[i].data, out->items[i].bytes));
		qt_free(results[i]);
	}
	qd_exec_free(exec);
	qd_graph_release(&g);
}

static void release(struct outputs *out)
{
	for (size_t i = 0; i < out->n; i++)
		qd_tensor_release(&out->items[i]);
}

static const float *output(const struct outputs *out, const char *name)
{
	for (size_t i = 0; i < out->n; i++)
		if (strcmp(out->items[i].name, name) == 0)
			return out->items[i].data;
	fail_msg("no output '%s'", name);
	return NULL;
}

static double difference(const float *x, const void *y, size_t n)
{
	double largest = 0;
	for (size_t i = 0; i < n; i++) {
		float v;
		memcpy(&v, (const char *)y + 4 * i, 4);
		assert_true(isfinite(x[i]));
		largest = fmax(largest, fabs((double)x[i] - (double)v));
	}
	return largest;
}

/* ---- golden data ---- */

#define TINY_VAE                                                                                                                   \
	"{\"_class_name\": \"AutoencoderKL\", \"block_out_channels\": [32, 32, 64, 64], \"layers_per_block\": 2,"                  \
	" \"down_block_types\": [\"DownEncoderBlock2D\", \"DownEncoderBlock2D\", \"DownEncoderBlock2D\", \"DownEncoderBlock2D\"]," \
	" \"up_block_types\": [\"UpDecoderBlock2D\", \"UpDecoderBlock2D\", \"UpDecoderBlock2D\", \"UpDecoderBlock2D\"]}"

/* Rounding of another order of summation is 2e-6 on these outputs of up to 3; any wrong layer moves them by 0.01 and more. */
static const double vae_tolerance = 1e-5;

static void check_vae(const char *config, enum qd_vae_part part, const char *path)
{
	struct qd_component c;
	struct qd_safetensors file;
	struct outputs out;
	ok(qd_component_open(&c, component_folder("golden", config, component_golden_values, NULL), NULL));
	ok(qd_safetensors_open(&file, path));
	struct qd_tensor in = *qd_safetensors_find(&file, part == QD_VAE_DECODER ? "z" : "x");
	const struct qd_tensor *expected = qd_safetensors_find(&file, "out");
	struct qd_component_sizes sizes = {
		.part = part, .batch = in.shape.dim[0], .height = in.shape.dim[2], .width = in.shape.dim[3]
	};
	run(&c, &sizes, &in, 1, &out);
	assert_true(qd_shape_equal(&expected->shape, &out.items[0].shape));
	double d = difference(output(&out, "out"), expected->data, expected->bytes / 4);
	print_message("# %s: %.3g\n", path, d);
	assert_true(d <= vae_tolerance);
	release(&out);
	qd_safetensors_release(&file);
	qd_component_release(&c);
}

static void vaes_equal_diffusers(void **state)
{
	static const char taesd[] = "{\"_class_name\": \"AutoencoderTiny\"}";
	(void)state;
	if (!golden_path("vae")) {
		print_message("# golden data is not there\n");
		skip();
	}
	check_vae(TINY_VAE, QD_VAE_DECODER, golden_path("vae/tinyvae_decode_6x5.safetensors"));
	check_vae(TINY_VAE, QD_VAE_ENCODER, golden_path("vae/tinyvae_encode_48x40_params.safetensors"));
	check_vae(taesd, QD_VAE_DECODER, golden_path("vae/taesd_decode_6x5.safetensors"));
	check_vae(taesd, QD_VAE_ENCODER, golden_path("vae/taesd_encode_48x40.safetensors"));
}

/* Float32 rounding is 3e-6 at values to 8; a wrong activation moves 0.06, eps 0.01, pooling 2.5. */
static const double text_tolerance = 2e-5;

/* Every output that the file has a tensor for, `masked` with its mask. Returns how many there were. */
static size_t check_text(const char *folder, const char *expected_path, bool masked)
{
	struct qd_component c;
	struct qd_safetensors file;
	struct outputs out;
	size_t compared = 0;
	ok(qd_component_open(&c, folder, NULL));
	ok(qd_safetensors_open(&file, expected_path));
	struct qd_tensor in[2] = { *qd_safetensors_find(&file, "input_ids") };
	if (masked)
		in[1] = *qd_safetensors_find(&file, "attention_mask");
	struct qd_component_sizes sizes = {
		.batch = in[0].shape.dim[0], .tokens = in[0].shape.dim[1], .attention_mask = masked, .clip_skip = 1
	};
	run(&c, &sizes, in, masked ? 2 : 1, &out);
	for (size_t i = 0; i < out.n; i++) {
		char name[80];
		snprintf(name, sizeof(name), "%s%s", masked ? "masked_" : "", out.items[i].name);
		const struct qd_tensor *expected = qd_safetensors_find(&file, name);
		if (!expected)
			continue;
		assert_true(qd_shape_equal(&expected->shape, &out.items[i].shape));
		double d = difference(out.items[i].data, expected->data, expected->bytes / 4);
		print_message("# %s %s: %.3g\n", folder, name, d);
		assert_true(d <= text_tolerance);
		compared++;
	}
	release(&out);
	qd_safetensors_release(&file);
	qd_component_release(&c);
	return compared;
}

static void text_encoders_equal_transformers(void **state)
{
	(void)state;
	if (!golden_path("text/te15")) {
		print_message("# golden data is not there\n");
		skip();
	}
	assert_int_equal(check_text(golden_path("text/te15"), golden_path("text/te15/expected.safetensors"), false), 5);
	assert_int_equal(check_text(golden_path("text/te15"), golden_path("text/te15/expected.safetensors"), true), 1);
	assert_int_equal(check_text(golden_path("text/te15_flat"), golden_path("text/te15/expected.safetensors"), false), 5);
	assert_int_equal(check_text(golden_path("text/te1"), golden_path("text/te1/expected.safetensors"), false), 5);
	assert_int_equal(check_text(golden_path("text/te2"), golden_path("text/te2/expected.safetensors"), false), 6);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(vaes_equal_diffusers),
		cmocka_unit_test(text_encoders_equal_transformers),
	};
	return cmocka_run_group_tests_name("components", tests, NULL, NULL);
}
