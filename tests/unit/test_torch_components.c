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
#include "lib/model/model.h"
#include "tests/unit/component_help.h"
#include "tests/unit/plain_networks.h"
#include "tests/unit/scratch.h"

#define ok component_ok

/* ---- running ---- */

struct outputs {
	struct qd_tensor items[8];
	char names[8][64];
	size_t n;
};

/* Builds and runs a component; inputs are taken from `inputs` by name. */
static void run(const struct qd_component *c, const struct qd_component_sizes *sizes, const struct qd_tensor *inputs, size_t n,
	struct outputs *out)
{
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
		snprintf(out->names[i], sizeof(out->names[i]), "%s", value->name);
		ok(qd_tensor_new(&out->items[i], out->names[i], QD_F32, &value->shape));
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
	if (golden_path("vae") == NULL) {
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
	struct qd_component_sizes sizes = { .batch = in[0].shape.dim[0], .tokens = in[0].shape.dim[1], .clip_skip = 1 };
	c.text.uses_attention_mask = masked;
	run(&c, &sizes, in, masked ? 2 : 1, &out);
	for (size_t i = 0; i < out.n; i++) {
		char name[80];
		snprintf(name, sizeof(name), "%s%s", masked ? "masked_" : "", out.items[i].name);
		const struct qd_tensor *expected = qd_safetensors_find(&file, name);
		if (expected == NULL)
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
	if (golden_path("text/te15") == NULL) {
		print_message("# golden data is not there\n");
		skip();
	}
	assert_int_equal(check_text(golden_path("text/te15"), golden_path("text/te15/expected.safetensors"), false), 5);
	assert_int_equal(check_text(golden_path("text/te15"), golden_path("text/te15/expected.safetensors"), true), 1);
	assert_int_equal(check_text(golden_path("text/te15_flat"), golden_path("text/te15/expected.safetensors"), false), 5);
	assert_int_equal(check_text(golden_path("text/te1"), golden_path("text/te1/expected.safetensors"), false), 5);
	assert_int_equal(check_text(golden_path("text/te2"), golden_path("text/te2/expected.safetensors"), false), 6);
}

/* Runs an encoder of the golden data on ids; outputs hidden_states_m3 among others. */
static void encode(const char *name, const int32_t *ids, int64_t n, struct outputs *out)
{
	struct qd_component c;
	struct qd_component_sizes sizes = { .batch = n, .tokens = 77, .clip_skip = 1 };
	struct qd_tensor in = qd_tensor_view("input_ids", QD_I32, QD_SHAPE(n, 77), ids);
	ok(qd_component_open(&c, golden_path(name), NULL));
	run(&c, &sizes, &in, 1, out);
	qd_component_release(&c);
}

/* `name` of `expected` [n,77,16+24] is the two encoders' `state` side by side. */
static void check_context(const struct qd_safetensors *expected, const char *name, const char *state, const struct outputs *one,
	const struct outputs *two)
{
	const struct qd_tensor *tensor = qd_safetensors_find(expected, name);
	const float *a = output(one, state), *b = output(two, state);
	double largest = 0;
	for (int64_t row = 0; row < tensor->shape.dim[0] * 77; row++) {
		const char *want = (const char *)tensor->data + row * 40 * 4;
		largest = fmax(largest, difference(a + row * 16, want, 16));
		largest = fmax(largest, difference(b + row * 24, want + (size_t)16 * 4, 24));
	}
	print_message("# SDXL %s: %.3g\n", name, largest);
	assert_true(largest <= text_tolerance);
}

/* An empty prompt: the start token, the end token, padding. */
static void empty_prompt(int32_t *ids, int32_t padding)
{
	for (int i = 0; i < 77; i++)
		ids[i] = i == 0 ? 998 : i == 1 ? 999 : padding;
}

static void contexts_equal_diffusers(void **state)
{
	struct qd_safetensors file;
	struct outputs one, two;
	int32_t ids[2 * 77];
	(void)state;
	if (golden_path("text/te2") == NULL) {
		print_message("# golden data is not there\n");
		skip();
	}
	ok(qd_safetensors_open(&file, golden_path("text/te15/expected.safetensors")));
	empty_prompt(ids, 999);
	encode("text/te15", ids, 1, &one);
	const struct qd_tensor *uncond = qd_safetensors_find(&file, "uncond");
	double d = difference(output(&one, "last_hidden_state"), uncond->data, uncond->bytes / 4);
	print_message("# SD uncond: %.3g\n", d);
	assert_true(d <= text_tolerance);
	release(&one);
	qd_safetensors_release(&file);

	ok(qd_safetensors_open(&file, golden_path("text/te2/expected.safetensors")));
	encode("text/te1", ids, 1, &one);
	empty_prompt(ids, 0);
	encode("text/te2", ids, 1, &two);
	check_context(&file, "uncond", "hidden_states_m2", &one, &two);
	const struct qd_tensor *embeds = qd_safetensors_find(&file, "uncond_text_embeds");
	assert_true(difference(output(&two, "text_embeds"), embeds->data, embeds->bytes / 4) <= text_tolerance);
	release(&two);
	release(&one);

	memcpy(ids, qd_safetensors_find(&file, "input_ids")->data, sizeof(ids));
	encode("text/te2", ids, 2, &two);
	qd_safetensors_release(&file);
	ok(qd_safetensors_open(&file, golden_path("text/te1/expected.safetensors")));
	memcpy(ids, qd_safetensors_find(&file, "input_ids")->data, sizeof(ids));
	qd_safetensors_release(&file);
	encode("text/te1", ids, 2, &one);
	ok(qd_safetensors_open(&file, golden_path("text/te2/expected.safetensors")));
	check_context(&file, "context", "hidden_states_m2", &one, &two);
	check_context(&file, "context_clip_skip_1", "hidden_states_m3", &one, &two);
	qd_safetensors_release(&file);
	release(&two);
	release(&one);
}

/* ---- small networks against plain loops ---- */

/*
 * The weights are scaled so that values stay near 1. Sums of at most a few hundred products in float32, through fewer than twenty
 * layers that each renormalize, differ from double by 1e-6 to 1e-5 of the values, which are below 8.
 */
static const double plain_tolerance = 5e-5;

static double plain_difference(const float *x, const double *want, size_t n)
{
	double largest = 0;
	for (size_t i = 0; i < n; i++) {
		assert_true(isfinite(x[i]));
		largest = fmax(largest, fabs((double)x[i] - want[i]));
	}
	return largest;
}

/* Two samples at once; each must come out as it does alone. */
static void check_plain_vae(const char *config, enum qd_vae_part part, int height, int width)
{
	struct qd_component c;
	struct qd_random random;
	struct qd_tensor in;
	struct outputs out;
	ok(qd_component_open(&c, component_folder("small", config, component_golden_values, NULL), NULL));
	int channels = (int)(part == QD_VAE_DECODER ? c.vae.latent_channels : c.vae.in_channels), size = channels * height * width;
	struct qd_component_sizes sizes = { .part = part, .batch = 2, .height = height, .width = width };
	ok(qd_tensor_new(&in, part == QD_VAE_DECODER ? "z" : "x", QD_F32, &QD_SHAPE(2, channels, height, width)));
	qd_random_init(&random, test_seed(), 0);
	for (int i = 0; i < 2 * size; i++)
		((float *)in.data)[i] = (float)qd_random_normal(&random);
	run(&c, &sizes, &in, 1, &out);
	size_t n = out.items[0].bytes / 4 / 2;
	for (int sample = 0; sample < 2; sample++) {
		struct plain_image x = { channels, height, width, calloc((size_t)size, sizeof(double)) };
		for (int i = 0; i < size; i++)
			x.x[i] = (double)((float *)in.data)[sample * size + i];
		struct plain_image want = (c.vae.tiny ? plain_tiny_vae : plain_vae)(&c, part, &x);
		assert_int_equal(n, want.c * want.h * want.w);
		assert_int_equal(out.items[0].shape.dim[2], want.h);
		double d = plain_difference(output(&out, "out") + (size_t)sample * n, want.x, n);
		print_message("# %s: %.3g\n", part == QD_VAE_DECODER ? "decoder" : "encoder", d);
		assert_true(d <= plain_tolerance);
		free(want.x);
		free(x.x);
	}
	qd_tensor_release(&in);
	release(&out);
	qd_component_release(&c);
}

#define SMALL_VAE                                                                                                                  \
	"\"_class_name\": \"AutoencoderKL\", \"block_out_channels\": [8, 12], \"norm_num_groups\": 4, \"latent_channels\": 3,"     \
	" \"down_block_types\": [\"DownEncoderBlock2D\", \"DownEncoderBlock2D\"],"                                                 \
	" \"up_block_types\": [\"UpDecoderBlock2D\", \"UpDecoderBlock2D\"]"

/* Odd sizes: the encoder rounds them down, as zeros are added behind alone. */
static void small_vaes_equal_plain_loops(void **state)
{
	static const char *const configs[] = { "{" SMALL_VAE "}",
		"{" SMALL_VAE ", \"use_quant_conv\": false, \"act_fn\": \"gelu\"}",
		"{" SMALL_VAE ", \"use_post_quant_conv\": false, \"mid_block_add_attention\": false, \"in_channels\": 2}" };
	(void)state;
	for (size_t i = 0; i < QD_COUNT(configs); i++) {
		check_plain_vae(configs[i], QD_VAE_DECODER, 3, 4);
		check_plain_vae(configs[i], QD_VAE_ENCODER, 7, 6);
	}
}

/* Odd sizes: the encoder rounds them up. */
static void small_tiny_vaes_equal_plain_loops(void **state)
{
	static const char config[] =
		"{\"_class_name\": \"AutoencoderTiny\", \"encoder_block_out_channels\": [6, 6], \"latent_channels\": 3,"
		" \"decoder_block_out_channels\": [6, 6], \"num_encoder_blocks\": [1, 2], \"num_decoder_blocks\": [2, 1]}";
	(void)state;
	check_plain_vae(config, QD_VAE_DECODER, 3, 4);
	check_plain_vae(config, QD_VAE_ENCODER, 7, 6);
}

enum { TOKENS = 7, FEATURES = 8, PROMPTS = 3 };

/* Compares one output of one prompt, `want` [rows][D]. */
static void check_rows(const struct outputs *out, const char *name, int prompt, int rows, int features, const double *want)
{
	size_t n = (size_t)(rows * features);
	double d = plain_difference(output(out, name) + (size_t)prompt * n, want, n);
	if (d > plain_tolerance)
		fail_msg("%s of prompt %d differs by %.3g", name, prompt, d);
}

static void check_prompt(
	const struct qd_component *c, const struct outputs *out, int prompt, const int32_t *ids, const int32_t *mask)
{
	int layers = (int)c->text.layers;
	size_t size = TOKENS * FEATURES;
	double *states = plain_text_states(c, TOKENS, ids, mask), *last = states + (size_t)layers * size, projected[8];
	check_rows(out, "hidden_states_m1", prompt, TOKENS, FEATURES, last);
	check_rows(out, "hidden_states_m2", prompt, TOKENS, FEATURES, last - size);
	check_rows(out, "hidden_states_m4", prompt, TOKENS, FEATURES, last - 3 * size);
	plain_final_norm(c, TOKENS, last);
	check_rows(out, "last_hidden_state", prompt, TOKENS, FEATURES, last);
	const double *row = last + plain_pooled_position(c, TOKENS, ids) * FEATURES;
	check_rows(out, "pooler_output", prompt, 1, FEATURES, row);
	if (c->text.projection) {
		plain_projection(c, row, projected);
		check_rows(out, "text_embeds", prompt, 1, (int)c->text.projection, projected);
	}
	plain_final_norm(c, TOKENS, last - 2 * size);
	check_rows(out, "clip_skip_2", prompt, TOKENS, FEATURES, last - 2 * size);
	free(states);
}

#define SMALL_TEXT                                                                                                                 \
	"\"hidden_size\": 8, \"intermediate_size\": 12, \"num_hidden_layers\": 3, \"num_attention_heads\": 2,"                     \
	" \"max_position_embeddings\": 9, \"vocab_size\": 20, \"projection_dim\": 5"

/* Prompts with one end token, several, a larger id before it, and none. */
static void check_plain_text(const char *config, bool masked)
{
	static int32_t ids[PROMPTS][TOKENS] = { { 17, 3, 4, 18, 18, 18, 18 }, { 17, 19, 4, 18, 19, 1, 1 },
		{ 17, 5, 6, 7, 8, 9, 10 } };
	static int32_t mask[PROMPTS][TOKENS] = { { 1, 1, 1, 1, 0, 0, 0 }, { 1, 1, 0, 1, 1, 1, 1 }, { 1, 1, 1, 1, 1, 1, 1 } };
	struct qd_component c;
	struct outputs out;
	ok(qd_component_open(&c, component_folder("small_text", config, component_golden_values, NULL), NULL));
	struct qd_component_sizes sizes = { .batch = PROMPTS, .tokens = TOKENS, .clip_skip = 2 };
	struct qd_tensor in[] = { qd_tensor_view("input_ids", QD_I32, QD_SHAPE(PROMPTS, TOKENS), ids),
		qd_tensor_view("attention_mask", QD_I32, QD_SHAPE(PROMPTS, TOKENS), mask) };
	assert_true(c.text.uses_attention_mask == masked);
	run(&c, &sizes, in, masked ? 2 : 1, &out);
	for (int i = 0; i < PROMPTS; i++)
		check_prompt(&c, &out, i, ids[i], masked ? mask[i] : NULL);
	release(&out);
	qd_component_release(&c);
}

static void small_text_encoders_equal_plain_loops(void **state)
{
	(void)state;
	check_plain_text("{\"architectures\": [\"CLIPTextModel\"], " SMALL_TEXT ", \"eos_token_id\": 2}", false);
	check_plain_text("{\"architectures\": [\"CLIPTextModel\"], " SMALL_TEXT
			 ", \"eos_token_id\": 18, \"use_attention_mask\": true}",
		true);
	check_plain_text("{\"architectures\": [\"CLIPTextModelWithProjection\"], " SMALL_TEXT
			 ", \"eos_token_id\": 18, \"hidden_act\": \"gelu\", \"layer_norm_eps\": 0.01}",
		false);
	check_plain_text("{\"architectures\": [\"CLIPTextModelWithProjection\"], " SMALL_TEXT
			 ", \"eos_token_id\": 2, \"use_attention_mask\": true}",
		true);
}

/* A clip skip of all layers leaves the embeddings; there is no state before them. */
static void clip_skip_reaches_the_embeddings(void **state)
{
	struct qd_component c;
	struct outputs out;
	int32_t ids[] = { 1, 2 };
	(void)state;
	ok(qd_component_open(&c,
		component_folder("deep", "{\"architectures\": [\"CLIPTextModel\"], " SMALL_TEXT "}", component_golden_values, NULL),
		NULL));
	struct qd_component_sizes sizes = { .batch = 1, .tokens = 2, .clip_skip = 3 };
	struct qd_tensor in = qd_tensor_view("input_ids", QD_I32, QD_SHAPE(1, 2), ids);
	run(&c, &sizes, &in, 1, &out);
	assert_int_equal(out.n, 5);
	double *states = plain_text_states(&c, 2, ids, NULL);
	plain_final_norm(&c, 2, states);
	check_rows(&out, "clip_skip_3", 0, 2, FEATURES, states);
	free(states);
	release(&out);
	qd_component_release(&c);
	assert_int_equal(qt_live(), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(vaes_equal_diffusers),
		cmocka_unit_test(text_encoders_equal_transformers),
		cmocka_unit_test(contexts_equal_diffusers),
		cmocka_unit_test(small_vaes_equal_plain_loops),
		cmocka_unit_test(small_tiny_vaes_equal_plain_loops),
		cmocka_unit_test(small_text_encoders_equal_plain_loops),
		cmocka_unit_test(clip_skip_reaches_the_embeddings),
	};
	return cmocka_run_group_tests_name("components", tests, NULL, NULL);
}
