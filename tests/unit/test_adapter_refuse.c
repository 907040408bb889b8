/*
 * lib/adapter: what is refused, and with which words. Files are made here; the golden files that the reference
 * implementations were tried on follow.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "tests/unit/adapter_help.h"
#include "tests/unit/scratch.h"

static struct help_file file;

/* The message must end in `message`: what stands before it is the scratch folder's path. */
static void assert_refused(const char *path, enum qd_status status, const char *message)
{
	struct qd_adapter adapter;

	assert_int_equal(qd_adapter_open(&adapter, "a", path, 1, &help_tiny15.modules), status);
	if (!qd_ends_with(qd_message(), message))
		fail_msg("message is \"%s\",\nneeds to end in \"%s\"", qd_message(), message);
}

struct tensor_case {
	const char *name;
	int rank, dims[4];
};

static void add(const struct tensor_case *t)
{
	help_add(&file, t->name, t->rank, t->dims[0], t->dims[1], t->dims[2], t->dims[3]);
}

/* One key of each algorithm that is not LoRA, beside a LoRA. */
static void refuses_other_algorithms(void **state)
{
	static const char *const cases[][2] = {
		{ "hada_w1_a", "LoHa" },
		{ "hada_t2", "LoHa" },
		{ "lokr_w1", "LoKr" },
		{ "lokr_w2_b", "LoKr" },
		{ "on_input", "(IA)^3" },
		{ "dora_scale", "DoRA" },
		{ "oft_blocks", "OFT" },
		{ "oft_diag", "OFT" },
		{ "boft_R", "BOFT" },
		{ "rescale", "OFT" },
		{ "diff", "full-difference" },
		{ "diff_b", "full-difference" },
		{ "w_norm", "full-difference" },
		{ "a1.weight", "GLoRA" },
		{ "bm.weight", "GLoRA" },
	};

	(void)state;
	for (size_t i = 0; i < QD_COUNT(cases); i++) {
		char key[200], message[400];
		snprintf(key, sizeof(key), FLAT "_to_q.%s", cases[i][0]);
		snprintf(message, sizeof(message), "%s adapter (key '%s') is not supported, only LoRA and LoCon are", cases[i][1],
			key);
		help_add(&file, FLAT "_to_k.lora_down.weight", 2, 2, 32);
		help_add(&file, FLAT "_to_k.lora_up.weight", 2, 32, 2);
		help_add(&file, key, 2, 32, 1);
		assert_refused(help_write(&file, "a.safetensors"), QD_EUNSUPPORTED, message);
	}
}

/* The same for names with dots: PEFT's and diffusers'. */
static void refuses_other_algorithms_with_dots(void **state)
{
	static const char *const cases[][2] = {
		{ "base_model.model." ATT ".to_q.lora_magnitude_vector.default.weight", "DoRA" },
		{ "unet." ATT ".to_q.lora_magnitude_vector", "DoRA" },
		{ ATT ".to_q.ia3_l", "(IA)^3" },
		{ ATT ".to_q.lora_E", "AdaLoRA" },
		{ ATT ".to_q.ranknum", "AdaLoRA" },
		{ ATT ".to_q.vera_lambda_d", "VeRA" },
		{ ATT ".to_q.lora_embedding_A", "embedding" },
		{ ATT ".to_q.lokr_w1", "LoKr" },
		{ "unet." ATT ".processor.to_k_custom_diffusion.weight", "Custom Diffusion" },
		{ "lora_controlnet.input_blocks.0.weight", "Control-LoRA" },
		{ "unet." ATT ".processor.add_k_proj_lora.down.weight", "added-key-projection" },
	};

	(void)state;
	for (size_t i = 0; i < QD_COUNT(cases); i++) {
		char message[400];
		snprintf(message, sizeof(message), "%s adapter (key '%s') is not supported, only LoRA and LoCon are", cases[i][1],
			cases[i][0]);
		help_add(&file, "unet." ATT ".to_k.lora_A.weight", 2, 2, 32);
		help_add(&file, "unet." ATT ".to_k.lora_B.weight", 2, 32, 2);
		help_add(&file, cases[i][0], 1, 32);
		assert_refused(help_write(&file, "a.safetensors"), QD_EUNSUPPORTED, message);
	}
}

static void refuses_what_is_no_lora(void **state)
{
	static const struct {
		const char *name, *message;
		enum qd_status status;
	} cases[] = {
		{ "conv_in.weight", "not a LoRA file: a full model (key 'conv_in.weight')", QD_EUNSUPPORTED },
		{ "model.diffusion_model.out.2.bias", "not a LoRA file: a full model (key 'model.diffusion_model.out.2.bias')",
			QD_EUNSUPPORTED },
		{ "emb_params", "not a LoRA file: a textual inversion (key 'emb_params')", QD_EUNSUPPORTED },
		{ "something",
			"not a LoRA file: key 'something' is of no known adapter format: peft (adapter_config.json beside it), "
			"cloneofsimo (keys MODEL:N:up and metadata), kohya (keys that begin with lora_unet_, lora_te or lycoris_), "
			"diffusers (keys with .lora_A., .lora_down., .lora.down. or _lora.down.)",
			QD_EINPUT },
	};

	(void)state;
	for (size_t i = 0; i < QD_COUNT(cases); i++) {
		help_add(&file, cases[i].name, 1, 8);
		assert_refused(help_write(&file, "a.safetensors"), cases[i].status, cases[i].message);
	}
	assert_refused(help_write(&file, "a.safetensors"), QD_EINPUT, "not a LoRA file: it holds no tensors");
	assert_refused(
		"x/y.ckpt", QD_EUNSUPPORTED, "'x/y.ckpt' is a pickle, which can run code when read: convert it to safetensors");
	mkdir(scratch_path("empty"), 0700);
	assert_refused(
		scratch_path("empty"), QD_EINPUT, "empty' holds neither adapter_config.json nor pytorch_lora_weights.safetensors");
	scratch_file("empty/adapter_config.json", "{}", 2);
	scratch_file("empty/adapter_model.bin", "x", 1);
	assert_refused(scratch_path("empty"), QD_EUNSUPPORTED,
		"empty/adapter_model.bin' is a pickle, which can run code when read: convert it to safetensors");
}

/* Files that are LoRA but do not hold together. */
static void refuses_broken_files(void **state)
{
	static const struct {
		struct tensor_case tensors[4];
		const char *message;
	} cases[] = {
		{ { { FLAT "_to_q.lora_up.weight", 2, { 32, 4 } } },
			"layer '" FLAT "_to_q' has up (tensor '" FLAT "_to_q.lora_up.weight') but no down" },
		{ { { FLAT "_to_q.lora_down.weight", 2, { 4, 32 } }, { FLAT "_to_q.alpha", 0, { 0 } } },
			"layer '" FLAT "_to_q' has down (tensor '" FLAT "_to_q.lora_down.weight') but no up" },
		{ { { FLAT "_to_q.alpha", 0, { 0 } } },
			"layer '" FLAT "_to_q' has alpha (tensor '" FLAT "_to_q.alpha') but no down" },
		{ { { FLAT "_to_q.lora_down.weight", 2, { 4, 32 } }, { FLAT "_to_q.lora_up.weight", 2, { 32, 8 } } },
			"rank mismatch: tensor '" FLAT "_to_q.lora_up.weight' [32,8] has rank 8, '" FLAT
			"_to_q.lora_down.weight' [4,32] has 4" },
		{ { { FLAT "_to_q.lora_down.weight", 2, { 0, 32 } }, { FLAT "_to_q.lora_up.weight", 2, { 32, 0 } } },
			"tensor '" FLAT "_to_q.lora_down.weight' [0,32] has rank 0, needs at least 1" },
		{ { { FLAT "_to_q.lora_down.weight", 2, { 4, 32 } }, { FLAT "_to_q.lora_up.weight", 2, { 32, 4 } },
			  { FLAT "_to_q.alpha", 1, { 2 } } },
			"tensor '" FLAT "_to_q.alpha' has shape [2], needs one element" },
		{ { { FLAT "_to_q.lora_down.weight", 2, { 4, 32 } }, { FLAT "_to_q.lora_up.weight", 2, { 32, 4 } },
			  { FLAT "_to_q.scalar", 0, { 0 } } },
			"key '" FLAT "_to_q.scalar' ends in none of .lora_down.weight, .lora_up.weight, .lora_mid.weight, .alpha" },
		{ { { FLAT "_to_q.lora_down.weight", 2, { 4, 32 } }, { "other.alpha", 0, { 0 } } },
			"key 'other.alpha' begins with none of lora_unet_, lora_te_, lora_te1_, lora_te2_, lycoris_" },
		{ { { FLAT "_to_q.lora_down.weight", 2, { 2, 32 } }, { FLAT "_to_q.lora_up.weight", 2, { 32, 2 } },
			  { "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q.lora_down.weight", 2, { 2, 32 } },
			  { "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q.lora_up.weight", 2, { 32, 2 } } },
			"are the same layer" },
		{ { { ATT ".to_q.lora_A.weight", 2, { 2, 32 } }, { "unet." ATT ".to_q.lora.down.weight", 2, { 2, 32 } } },
			"are the same part of one layer" },
		{ { { ATT ".to_q.lora_A.weight", 2, { 2, 32 } }, { ATT ".to_q.lora_C.weight", 2, { 2, 32 } } },
			"key '" ATT ".to_q.lora_C.weight' ends in no known LoRA suffix such as .lora_A.weight" },
		{ { { "base_model.model." ATT ".to_q.lora_A.weight", 2, { 2, 32 } } },
			"is PEFT's, whose scale is in adapter_config.json: no such file beside it" },
		{ { { ATT ".to_q.lora_A.weight", 2, { 2, 32 } }, { ATT ".to_q.lora_B.weight", 2, { 32, 2 } },
			  { ATT ".to_q.lora_gain", 1, { 3 } } },
			"tensor '" ATT ".to_q.lora_gain' [3], needs [2]" },
		{ { { ATT ".to_q.lora_A.weight", 2, { 2, 32 } }, { ATT ".to_q.lora_B.weight", 2, { 32, 2 } },
			  { ATT ".to_q.lora_grid_up", 2, { 32, 2 } } },
			"has grid up (tensor '" ATT ".to_q.lora_grid_up') but no gain" },
		{ { { "lora_unet_conv_in.lora_down.weight", 4, { 2, 4, 1, 1 } },
			  { "lora_unet_conv_in.lora_up.weight", 4, { 32, 2, 1, 1 } },
			  { "lora_unet_conv_in.lora_mid.weight", 4, { 2, 3, 3, 3 } } },
			"tensor 'lora_unet_conv_in.lora_mid.weight' [2,3,3,3] does not fit 'lora_unet_conv_in.lora_down.weight' "
			"[2,4,1,1], needs "
			"[R,2,kh,kw]" },
		{ { { "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight", 2, { 2, 8 } } },
			"adapts no layer of the UNet (1 tensors of text encoders, 0 embeddings)" },
	};

	(void)state;
	for (size_t i = 0; i < QD_COUNT(cases); i++) {
		for (size_t t = 0; t < 4 && cases[i].tensors[t].name != NULL; t++)
			add(&cases[i].tensors[t]);
		assert_refused(help_write(&file, "a.safetensors"), QD_EINPUT, cases[i].message);
	}
}

static void refuses_biases(void **state)
{
	(void)state;
	help_add(&file, ATT ".to_q.lora_A.weight", 2, 2, 32);
	help_add(&file, ATT ".to_q.lora_A.bias", 1, 2);
	assert_refused(help_write(&file, "a.safetensors"), QD_EUNSUPPORTED,
		"key '" ATT ".to_q.lora_A.bias' is a bias before the gain, which no trainer has");
	help_add(&file, ATT ".to_q.lora_A.weight", 2, 2, 32);
	help_add(&file, ATT ".to_q.bias", 1, 32);
	assert_refused(help_write(&file, "a.safetensors"), QD_EUNSUPPORTED,
		"key '" ATT ".to_q.bias' is a trained bias of the model itself, only LoRA's own (lora_B.bias) are supported");
	/* its own */
	help_add(&file, ATT ".to_q.lora_B.bias", 1, 32);
	assert_refused(help_write(&file, "a.safetensors"), QD_EINPUT,
		"layer '" ATT ".to_q' has bias (tensor '" ATT ".to_q.lora_B.bias') but no down");
	help_add(&file, ATT ".to_q.lora_A.weight", 2, 2, 32);
	help_add(&file, ATT ".to_q.lora_B.weight", 2, 32, 2);
	help_add(&file, ATT ".to_q.lora_B.bias", 1, 2);
	assert_refused(help_write(&file, "a.safetensors"), QD_EINPUT, "tensor '" ATT ".to_q.lora_B.bias' [2], needs [32]");
	help_add(&file, ATT ".to_q.lora_A.weight", 2, 2, 32);
	help_add(&file, ATT ".to_q.lora_B.weight", 2, 32, 2);
	help_add(&file, ATT ".to_q.lora_B.bias", 1, 32)[3] = NAN;
	assert_refused(help_write(&file, "a.safetensors"), QD_EINPUT,
		"tensor '" ATT ".to_q.lora_B.bias' is infinite or not a number at element 3");
}

static void refuses_values(void **state)
{
	static const char *const names[] = { FLAT "_to_q.lora_down.weight", FLAT "_to_q.lora_up.weight", FLAT "_to_q.alpha" };
	static const char *const messages[] = { "tensor '" FLAT "_to_q.lora_down.weight' is infinite or not a number at element 3",
		"tensor '" FLAT "_to_q.lora_up.weight' is infinite or not a number at element 3",
		"tensor '" FLAT "_to_q.alpha' is nan, needs a finite number" };
	struct qd_adapter adapter;

	(void)state;
	for (size_t bad = 0; bad < 3; bad++) {
		float *parts[] = { help_add(&file, names[0], 2, 2, 32), help_add(&file, names[1], 2, 32, 2),
			help_add(&file, names[2], 0) };
		parts[bad][bad == 2 ? 0 : 3] = bad == 1 ? INFINITY : NAN;
		assert_refused(help_write(&file, "a.safetensors"), QD_EINPUT, messages[bad]);
	}
	help_add(&file, names[0], 2, 2, 32);
	help_add(&file, names[1], 2, 32, 2);
	help_write(&file, "a.safetensors");
	assert_int_equal(
		qd_adapter_open(&adapter, "a", scratch_path("a.safetensors"), (double)NAN, &help_tiny15.modules), QD_EINPUT);
	assert_true(qd_ends_with(qd_message(), "strength nan, needs a finite number"));
	assert_int_equal(qd_adapter_open(&adapter, "a", scratch_path("a.safetensors"), 1e300, &help_tiny15.modules), QD_EINPUT);
	assert_true(qd_ends_with(qd_message(), "has scale 1 times strength 1e+300, needs a finite number"));
}

/* Integers are no weights: their scale is unknown. */
static void refuses_integers(void **state)
{
	int8_t zeros[64] = { 0 };
	const struct qd_tensor tensors[] = { qd_tensor_view(ATT ".to_q.lora_A.weight", QD_I8, QD_SHAPE(2, 32), zeros),
		qd_tensor_view(ATT ".to_q.lora_B.weight", QD_I8, QD_SHAPE(32, 2), zeros) };

	(void)state;
	assert_int_equal(qd_safetensors_write(scratch_path("i.safetensors"), tensors, 2, NULL, 0, true, NULL, NULL), QD_OK);
	assert_refused(scratch_path("i.safetensors"), QD_EUNSUPPORTED,
		"tensor '" ATT ".to_q.lora_A.weight' is I8, needs F32, F16, BF16 or F64");
}

/* The difference to the model: how many layers fit, the first that does not, and whom the file looks made for. */
static void tells_the_difference(void **state)
{
	static const struct {
		struct tensor_case tensors[4];
		const char *message;
	} cases[] = {
		{ { { "lora_unet_no_such_block_7_to_q.lora_down.weight", 2, { 4, 32 } },
			  { "lora_unet_no_such_block_7_to_q.lora_up.weight", 2, { 32, 4 } } },
			"0 of 1 layers fit the model; 'lora_unet_no_such_block_7_to_q' is no layer of it" },
		{ { { FLAT "_to_q.lora_down.weight", 2, { 4, 320 } }, { FLAT "_to_q.lora_up.weight", 2, { 320, 4 } } },
			"0 of 1 layers fit the model; tensor '" FLAT "_to_q.lora_down.weight' is [4,320], layer '" ATT
			".to_q' needs [R,32]; the adapter looks made for Stable Diffusion 1.x or 2.x" },
		{ { { FLAT "_to_q.lora_down.weight", 2, { 4, 32 } }, { FLAT "_to_q.lora_up.weight", 2, { 32, 4 } },
			  { "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight", 2,
				  { 4, 768 } },
			  { "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k.lora_up.weight", 2, { 32, 4 } } },
			"1 of 2 layers fit the model; tensor "
			"'lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight' is "
			"[4,768], layer 'down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k' needs [R,48]; the adapter "
			"looks made for Stable "
			"Diffusion 1.x" },
		{ { { "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.lora_A.weight", 2, { 4, 1024 } },
			  { "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.lora_B.weight", 2, { 32, 4 } } },
			"needs [R,48]; the adapter looks made for Stable Diffusion 2.x" },
		{ { { "unet.down_blocks.2.attentions.0.transformer_blocks.9.attn2.to_k.lora_A.weight", 2, { 4, 2048 } },
			  { "unet.down_blocks.2.attentions.0.transformer_blocks.9.attn2.to_k.lora_B.weight", 2, { 1280, 4 } } },
			"'down_blocks.2.attentions.0.transformer_blocks.9.attn2.to_k' is no layer of it; the adapter looks made "
			"for SDXL" },
		{ { { "lora_unet_conv_in.lora_down.weight", 4, { 2, 4, 5, 5 } },
			  { "lora_unet_conv_in.lora_up.weight", 4, { 32, 2, 1, 1 } } },
			"tensor 'lora_unet_conv_in.lora_down.weight' is [2,4,5,5], layer 'conv_in' needs [R,4,3,3]" },
		{ { { FLAT "_to_q.lora_down.weight", 2, { 4, 32 } }, { FLAT "_to_q.lora_up.weight", 2, { 31, 4 } } },
			"tensor '" FLAT "_to_q.lora_up.weight' is [31,4], layer '" ATT ".to_q' needs [32,R]" },
		{ { { FLAT "_to_q.lora_down.weight", 1, { 32 } }, { FLAT "_to_q.lora_up.weight", 2, { 32, 4 } } },
			"tensor '" FLAT "_to_q.lora_down.weight' is [32], layer '" ATT ".to_q' needs [R,32]" },
	};

	(void)state;
	for (size_t i = 0; i < QD_COUNT(cases); i++) {
		for (size_t t = 0; t < 4 && cases[i].tensors[t].name != NULL; t++)
			add(&cases[i].tensors[t]);
		assert_refused(help_write(&file, "a.safetensors"), QD_EINPUT, cases[i].message);
	}
}

/* The same layer by layer. */
static void lists_the_difference(void **state)
{
	static const struct tensor_case tensors[] = { { FLAT "_to_q.lora_down.weight", 2, { 4, 32 } },
		{ FLAT "_to_q.lora_up.weight", 2, { 32, 4 } }, { FLAT "_to_k.lora_down.weight", 2, { 4, 768 } },
		{ FLAT "_to_k.lora_up.weight", 2, { 32, 4 } }, { "lora_unet_nothing.lora_down.weight", 2, { 4, 32 } },
		{ "lora_unet_nothing.lora_up.weight", 2, { 32, 4 } }, { "lora_unet_conv_in.lora_down.weight", 4, { 4, 4, 1, 1 } },
		{ "lora_unet_conv_in.lora_mid.weight", 4, { 4, 4, 5, 5 } },
		{ "lora_unet_conv_in.lora_up.weight", 4, { 32, 4, 1, 1 } } };
	struct qd_adapter_diff diff;
	size_t seen = 0;

	(void)state;
	for (size_t t = 0; t < QD_COUNT(tensors); t++)
		add(&tensors[t]);
	const char *path = help_write(&file, "diff.safetensors");
	assert_int_equal(qd_adapter_compare(&diff, path, &help_tiny15.modules), QD_OK);
	assert_int_equal(diff.n, 4);
	assert_int_equal(diff.fits, 1);
	for (size_t i = 0; i < diff.n; i++) {
		const struct qd_layer_fit *fit = &diff.layers[i];
		if (strcmp(fit->name, "lora_unet_nothing") == 0) {
			assert_true(!fit->fits && fit->path == NULL && fit->tensor == NULL);
			seen++;
		} else if (strcmp(fit->name, "lora_unet_conv_in") == 0) {
			assert_string_equal(fit->path, "conv_in");
			assert_string_equal(fit->tensor, "lora_unet_conv_in.lora_mid.weight");
			assert_string_equal(fit->needed, "[R,R,3,3]");
			seen++;
		} else if (strcmp(fit->name, FLAT "_to_k") == 0) {
			assert_string_equal(fit->path, ATT ".to_k");
			assert_string_equal(fit->tensor, FLAT "_to_k.lora_down.weight");
			assert_string_equal(fit->needed, "[R,32]");
			assert_true(!fit->fits && qd_shape_equal(&fit->found, &QD_SHAPE(4, 768)));
			seen++;
		} else {
			assert_true(fit->fits && fit->tensor == NULL);
			assert_string_equal(fit->path, ATT ".to_q");
			seen++;
		}
	}
	assert_int_equal(seen, 4);
	qd_adapter_diff_release(&diff);
	/* what is no adapter cannot be compared */
	add(&(struct tensor_case){ FLAT "_to_q.lora_up.weight", 2, { 32, 4 } });
	assert_int_equal(qd_adapter_compare(&diff, help_write(&file, "half.safetensors"), &help_tiny15.modules), QD_EINPUT);
	assert_non_null(strstr(qd_message(), "has up (tensor '" FLAT "_to_q.lora_up.weight') but no down"));
}

/* ---- PEFT's configuration ---- */

static void refuses_configurations(void **state)
{
	static const struct {
		const char *config, *message;
		enum qd_status status;
	} cases[] = {
		{ "{\"peft_type\": \"LOHA\"}", "field 'peft_type' is \"LOHA\", needs \"LORA\"", QD_EUNSUPPORTED },
		{ "{\"use_dora\": true}", "field 'use_dora' is true, needs none: only plain LoRA is supported", QD_EUNSUPPORTED },
		{ "{\"modules_to_save\": [\"conv_in\"]}",
			"field 'modules_to_save' is [\"conv_in\"], needs none: only plain LoRA is supported", QD_EUNSUPPORTED },
		{ "{\"layer_replication\": [[0, 4]]}",
			"field 'layer_replication' is [[0,4]], needs none: only plain LoRA is supported", QD_EUNSUPPORTED },
		{ "{\"arrow_config\": {\"a\": 1}}", "field 'arrow_config' is {\"a\":1}, needs none: only plain LoRA is supported",
			QD_EUNSUPPORTED },
		{ "{\"init_lora_weights\": \"pissa_niter_4\"}",
			"field 'init_lora_weights' is \"pissa_niter_4\", needs one that leaves the base weights alone",
			QD_EUNSUPPORTED },
		{ "{\"init_lora_weights\": \"loftq\"}",
			"field 'init_lora_weights' is \"loftq\", needs one that leaves the base weights alone", QD_EUNSUPPORTED },
		{ "{\"r\": 4}", "'adapter_config.json' gives '" ATT ".to_q' rank 4, its tensors have rank 2", QD_EINPUT },
		{ "{\"r\": \"2\"}", "'adapter_config.json': field 'r' is \"2\", needs a number", QD_EINPUT },
		{ "{\"r\": 2, \"rank_pattern\": {\"to_(q\": 2}}",
			"'adapter_config.json': field 'rank_pattern' has 'to_(q', which is no regular expression: missing closing "
			"parenthesis",
			QD_EINPUT },
		{ "{\"r\": 2, \"alpha_pattern\": {\"to_q\": \"x\"}}",
			"'adapter_config.json': 'to_q' of field 'alpha_pattern' is no number", QD_EINPUT },
		{ "{\"r\": 2, \"alpha_pattern\": 5}",
			"'adapter_config.json': field 'alpha_pattern' is 5, needs an object of module paths and numbers",
			QD_EINPUT },
		{ "[]", "'adapter_config.json' is no JSON object, needs one with PEFT's fields", QD_EINPUT },
	};

	(void)state;
	mkdir(scratch_path("peft"), 0700);
	for (size_t i = 0; i < QD_COUNT(cases); i++) {
		scratch_file("peft/adapter_config.json", cases[i].config, strlen(cases[i].config));
		help_add(&file, ATT ".to_q.lora_A.weight", 2, 2, 32);
		help_add(&file, ATT ".to_q.lora_B.weight", 2, 32, 2);
		help_write(&file, "peft/adapter_model.safetensors");
		assert_refused(scratch_path("peft"), cases[i].status, cases[i].message);
	}
}

static void refuses_contradicting_scales(void **state)
{
	(void)state;
	help_add(&file, ATT ".to_q.lora_A.weight", 2, 2, 32);
	help_add(&file, ATT ".to_q.lora_B.weight", 2, 32, 2);
	*help_add(&file, ATT ".to_q.alpha", 0) = 3;
	file.metadata[0] = "lora_adapter_metadata", file.metadata[1] = "{\"unet.r\": 2, \"unet.lora_alpha\": 4}",
	file.n_metadata = 2;
	assert_refused(help_write(&file, "a.safetensors"), QD_EINPUT, "to_q.alpha' gives scale 1.5, lora_adapter_metadata gives 2");
}

/* ---- positional files ---- */

static void refuses_positional_files(void **state)
{
	static const struct {
		const char *key, *value;
		struct tensor_case tensors[4];
		const char *message;
		enum qd_status status;
	} cases[] = {
		{ "unet", "[\"CrossAttention\", \"GEGLU\"]", { { "unet:0:down", 2, { 1, 32 } }, { "unet:0:up", 2, { 32, 1 } } },
			"1 UNet layers by position, this model has 144 of these classes: made for another model", QD_EINPUT },
		{ "unet", "[\"Attention\"]", { { "unet:0:down", 2, { 1, 32 } }, { "unet:2:down", 2, { 1, 32 } } },
			"layers are numbered up to unet:2 but there are 2 of them", QD_EINPUT },
		{ "unet", "[\"Transformer2DModel\"]", { { "unet:0:down", 2, { 1, 32 } } },
			"metadata 'unet' lists class 'Transformer2DModel', known are CrossAttention, Attention, GEGLU, "
			"ResnetBlock2D",
			QD_EUNSUPPORTED },
		{ "unet:0:rank", "2", { { "unet:0:down", 2, { 1, 32 } } },
			"metadata 'unet:0:rank' is 2, tensor 'unet:0:down' has 1 rows", QD_EINPUT },
		{ "format", "pt", { { "unet:0:down", 2, { 1, 32 } }, { "word", 1, { 768 } } },
			"key 'word' is neither MODEL:N:up, MODEL:N:down nor an embedding that the metadata names", QD_EINPUT },
		{ "format", "pt", { { "vae:0:down", 2, { 1, 32 } } },
			"key 'vae:0:down' is of model 'vae', known are unet and text_encoder", QD_EINPUT },
		{ "format", "pt", { { "text_encoder:0:down", 2, { 1, 32 } } },
			"adapts no layer of the UNet (1 tensors of text encoders, 0 embeddings)", QD_EINPUT },
	};

	(void)state;
	for (size_t i = 0; i < QD_COUNT(cases); i++) {
		for (size_t t = 0; t < 4 && cases[i].tensors[t].name != NULL; t++)
			add(&cases[i].tensors[t]);
		file.metadata[0] = cases[i].key, file.metadata[1] = cases[i].value, file.n_metadata = 2;
		assert_refused(help_write(&file, "a.safetensors"), cases[i].status, cases[i].message);
	}
}

/* ---- golden ---- */

static void refuses_golden_files(void **state)
{
	static const struct {
		const char *path, *message;
		enum qd_status status;
	} cases[] = {
		{ "refuse/dora.safetensors", "_to_q.dora_scale') is not supported, only LoRA and LoCon are", QD_EUNSUPPORTED },
		{ "refuse/loha.safetensors", "_to_q.hada_w1_a') is not supported, only LoRA and LoCon are", QD_EUNSUPPORTED },
		{ "refuse/unknown_module.safetensors",
			"0 of 1 layers fit the model; 'lora_unet_no_such_block_7_to_q' is no layer of it", QD_EINPUT },
		{ "refuse/up_without_down.safetensors", "_to_q.lora_up.weight') but no down", QD_EINPUT },
		{ "refuse/wrong_base.safetensors", "needs [R,32]; the adapter looks made for Stable Diffusion 1.x or 2.x",
			QD_EINPUT },
		{ "tiny15/unet/diffusion_pytorch_model.fp16.safetensors", "not a LoRA file: a full model (key 'conv_in.weight')",
			QD_EUNSUPPORTED },
	};

	(void)state;
	if (golden_path("refuse") == NULL)
		skip();
	for (size_t i = 0; i < QD_COUNT(cases); i++)
		assert_refused(golden_path(cases[i].path), cases[i].status, cases[i].message);
}

/* An SD1.5 adapter on another model: positional files say their family too. */
static void tells_the_family_of_real_files(void **state)
{
	(void)state;
	if (golden_path("../adapters/disney.safetensors") == NULL)
		skip();
	assert_refused(golden_path("../adapters/disney.safetensors"), QD_EINPUT,
		"needs [R,32]; the adapter looks made for Stable Diffusion 1.x");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(refuses_other_algorithms),
		cmocka_unit_test(refuses_other_algorithms_with_dots),
		cmocka_unit_test(refuses_what_is_no_lora),
		cmocka_unit_test(refuses_broken_files),
		cmocka_unit_test(refuses_biases),
		cmocka_unit_test(refuses_values),
		cmocka_unit_test(refuses_integers),
		cmocka_unit_test(tells_the_difference),
		cmocka_unit_test(lists_the_difference),
		cmocka_unit_test(refuses_configurations),
		cmocka_unit_test(refuses_contradicting_scales),
		cmocka_unit_test(refuses_positional_files),
		cmocka_unit_test(refuses_golden_files),
		cmocka_unit_test(tells_the_family_of_real_files),
	};
	return cmocka_run_group_tests(tests, help_tiny15_open, help_tiny15_close);
}
