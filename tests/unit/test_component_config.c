/*
 * lib/network, components: what a folder is told to be, configurations of VAEs and text encoders, every refusal, names that changed
 * over the years, and the arithmetic between a VAE's latents and the UNet's.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "lib/network/component_internal.h"
#include "lib/math/math.h"
#include "tests/unit/component_help.h"
#include "tests/unit/scratch.h"

static enum qd_status parse(struct qd_component *component, const char *text)
{
	json_t *json = NULL;
	assert_int_equal(qd_json_parse("text", text, strlen(text), &json), QD_OK);
	*component = (struct qd_component){ 0 };
	enum qd_status st = qd_component_config_parse(component, "config.json", json);
	json_decref(json);
	return st;
}

static void parses(struct qd_component *component, const char *text)
{
	if (parse(component, text) != QD_OK)
		fail_msg("%s: %s", text, qd_message());
}

/* ---- what a configuration describes ---- */

static void the_kind_is_told_from_the_class(void **state)
{
	static const struct {
		const char *text;
		enum qd_component_kind kind;
	} cases[] = {
		{ "{\"_class_name\": \"UNet2DConditionModel\"}", QD_COMPONENT_UNET },
		{ "{\"_class_name\": \"FlaxUNet2DConditionModel\"}", QD_COMPONENT_UNET },
		{ "{\"_class_name\": \"AutoencoderKL\"}", QD_COMPONENT_VAE },
		{ "{\"_class_name\": \"FlaxAutoencoderKL\"}", QD_COMPONENT_VAE },
		{ "{\"_class_name\": \"AutoencoderTiny\"}", QD_COMPONENT_TINY_VAE },
		{ "{\"architectures\": [\"CLIPTextModel\"]}", QD_COMPONENT_TEXT },
		{ "{\"architectures\": [\"CLIPTextModelWithProjection\"], \"model_type\": \"clip\"}", QD_COMPONENT_TEXT },
		{ "{\"model_type\": \"clip_text_model\"}", QD_COMPONENT_TEXT },
		{ "{\"num_hidden_layers\": 3}", QD_COMPONENT_TEXT },
		{ "{\"num_encoder_blocks\": [1, 3, 3, 3], \"latent_channels\": 4}", QD_COMPONENT_TINY_VAE },
		{ "{\"latent_channels\": 4}", QD_COMPONENT_VAE },
		{ "{\"down_block_types\": [\"DownBlock2D\"], \"up_block_types\": [\"UpBlock2D\"], \"block_out_channels\": [32]}",
			QD_COMPONENT_UNET },
	};
	struct qd_component c;
	(void)state;
	for (size_t i = 0; i < QD_COUNT(cases); i++) {
		parses(&c, cases[i].text);
		assert_int_equal(c.kind, cases[i].kind);
	}
	assert_string_equal(qd_component_kind_name(QD_COMPONENT_TINY_VAE), "AutoencoderTiny");
}

static void absent_vae_fields_have_the_defaults(void **state)
{
	struct qd_component c;
	(void)state;
	parses(&c, "{\"_class_name\": \"AutoencoderKL\"}");
	assert_true(!c.vae.tiny && c.vae.blocks == 1 && c.vae.channels[0] == 64 && c.vae.layers[0] == 1);
	assert_int_equal(c.vae.decoder_layers[0], 2);
	assert_true(c.vae.in_channels == 3 && c.vae.out_channels == 3 && c.vae.latent_channels == 4 && c.vae.groups == 32);
	assert_true(c.vae.quant_conv && c.vae.post_quant_conv && c.vae.mid_attention && c.vae.act == QD_OP_SIGMOID);
	assert_true(c.vae.scaling_factor == 0.18215 && !c.vae.normalized);
	parses(&c, "{\"_class_name\": \"AutoencoderTiny\"}");
	assert_true(c.vae.tiny && c.vae.blocks == 4 && c.vae.channels[3] == 64 && c.vae.layers[0] == 1 && c.vae.layers[3] == 3);
	assert_true(c.vae.decoder_layers[0] == 3 && c.vae.decoder_layers[3] == 1);
	assert_true(c.vae.scaling_factor == 1 && c.vae.act == QD_OP_RELU && c.vae.latent_channels == 4);
}

static void absent_text_fields_have_the_defaults(void **state)
{
	struct qd_component c;
	(void)state;
	parses(&c, "{\"model_type\": \"clip_text_model\"}");
	assert_true(c.text.hidden == 512 && c.text.intermediate == 2048 && c.text.layers == 12 && c.text.heads == 8);
	assert_true(c.text.positions == 77 && c.text.vocabulary == 49408 && c.text.eos == 49407 && c.text.projection == 0);
	assert_true(c.text.act == QD_OP_SIGMOID && c.text.eps == 1e-5 && !c.text.uses_attention_mask);
	parses(&c, "{\"architectures\": [\"CLIPTextModelWithProjection\"], \"hidden_act\": \"gelu\", \"eos_token_id\": 2,"
		   " \"use_attention_mask\": true}");
	assert_true(c.text.projection == 512 && c.text.act == QD_OP_GELU && c.text.eos == 2 && c.text.uses_attention_mask);
}

static void nulls_unknown_and_dropped_fields(void **state)
{
	struct qd_component c;
	(void)state;
	parses(&c,
		"{\"_class_name\": \"AutoencoderKL\", \"shift_factor\": null, \"latents_mean\": null, \"latents_std\": null,"
		" \"use_quant_conv\": null, \"sample_size\": null, \"force_upcast\": 3, \"brand_new\": {}, \"latent_channels\": 8,"
		" \"scaling_factor\": 7, \"_use_default_values\": [\"scaling_factor\"]}");
	assert_true(!c.vae.quant_conv && c.vae.post_quant_conv && c.vae.latent_channels == 8 && c.vae.scaling_factor == 0.18215);
	parses(&c, "{\"model_type\": \"clip_text_model\", \"dtype\": \"float16\", \"bos_token_id\": null, \"attention_dropout\": "
		   "0.1}");
}

/* ---- published architectures ---- */

#define BLOCKS "\"block_out_channels\": [128, 256, 512, 512], \"layers_per_block\": 2,"
#define DOWN "\"DownEncoderBlock2D\", \"DownEncoderBlock2D\", \"DownEncoderBlock2D\", \"DownEncoderBlock2D\""
#define UP "\"UpDecoderBlock2D\", \"UpDecoderBlock2D\", \"UpDecoderBlock2D\", \"UpDecoderBlock2D\""

static void published_architectures_have_their_parameters(void **state)
{
	static const struct {
		const char *name, *text;
		uint64_t parameters, tensors;
	} cases[] = {
		{ "VAE of SD and SDXL",
			"{\"_class_name\": \"AutoencoderKL\", " BLOCKS "\"down_block_types\": [" DOWN "], \"up_block_types\": [" UP
			"]}",
			83653863, 248 },
		{ "TAESD", "{\"_class_name\": \"AutoencoderTiny\"}", 2445063, 134 },
		{ "text encoder of SD1.x",
			"{\"architectures\": [\"CLIPTextModel\"], \"hidden_size\": 768, \"intermediate_size\": 3072,"
			" \"num_attention_heads\": 12, \"projection_dim\": 768, \"eos_token_id\": 2}",
			123060480, 196 },
		{ "text encoder of SD2.x",
			"{\"architectures\": [\"CLIPTextModel\"], \"hidden_size\": 1024, \"intermediate_size\": 4096,"
			" \"num_hidden_layers\": 23, \"num_attention_heads\": 16, \"hidden_act\": \"gelu\"}",
			340387840, 372 },
		{ "second text encoder of SDXL",
			"{\"architectures\": [\"CLIPTextModelWithProjection\"], \"hidden_size\": 1280, \"intermediate_size\": 5120,"
			" \"num_hidden_layers\": 32, \"num_attention_heads\": 20, \"hidden_act\": \"gelu\","
			" \"projection_dim\": 1280}",
			694659840, 517 },
	};
	struct qd_component c;
	uint64_t parameters, tensors;
	(void)state;
	for (size_t i = 0; i < QD_COUNT(cases); i++) {
		parses(&c, cases[i].text);
		component_ok(qd_component_parameters(&c, &parameters, &tensors));
		if (parameters != cases[i].parameters || tensors != cases[i].tensors)
			fail_msg("%s: %llu parameters in %llu tensors", cases[i].name, (unsigned long long)parameters,
				(unsigned long long)tensors);
	}
}

/* ---- refusals ---- */

#define KL "\"_class_name\": \"AutoencoderKL\""
#define TINY "\"_class_name\": \"AutoencoderTiny\""
#define TEXT "\"model_type\": \"clip_text_model\""

static const struct {
	const char *text;
	enum qd_status code;
	const char *message;
} refused[] = {
	{ "{\"_class_name\": \"VQModel\"}", QD_EUNSUPPORTED,
		"'config.json': field '_class_name' is 'VQModel', needs UNet2DConditionModel, AutoencoderKL, AutoencoderTiny, "
		"CLIPTextModel or CLIPTextModelWithProjection" },
	{ "{\"_class_name\": 3}", QD_EUNSUPPORTED, "'config.json': field '_class_name' is 'no string', needs" },
	{ "{\"architectures\": [\"T5EncoderModel\"]}", QD_EUNSUPPORTED,
		"'config.json': field 'architectures' is 'T5EncoderModel', needs" },
	{ "{\"model_type\": \"t5\"}", QD_EUNSUPPORTED, "'config.json': field 'model_type' is 't5', needs 'clip_text_model'" },
	{ "{}", QD_EINPUT, "'config.json' names no class, needs UNet2DConditionModel, AutoencoderKL" },
	{ "[]", QD_EINPUT, "'config.json' names no class, needs" },
	/* AutoencoderKL */
	{ "{" KL ", \"act_fn\": \"snake\"}", QD_EUNSUPPORTED,
		"'config.json': field 'act_fn' is \"snake\", needs \"silu\", \"swish\", \"mish\", \"gelu\" or \"relu\"" },
	{ "{" KL ", \"norm_num_groups\": null}", QD_EUNSUPPORTED,
		"'config.json': field 'norm_num_groups' is null, needs a number" },
	{ "{" KL ", \"norm_num_groups\": 0}", QD_EINPUT,
		"'config.json': field 'norm_num_groups' is 0, needs a whole number from 1 to 65536" },
	{ "{" KL ", \"norm_num_groups\": 24}", QD_EINPUT,
		"'config.json': block 0 has 64 channels, needs a multiple of the 24 groups of its norms" },
	{ "{" KL ", \"block_out_channels\": [64, 64]}", QD_EINPUT,
		"'config.json' has no field 'down_block_types', needs a list of 2 \"DownEncoderBlock2D\"" },
	{ "{" KL ", \"down_block_types\": [\"AttnDownEncoderBlock2D\"]}", QD_EUNSUPPORTED,
		"'config.json': field 'down_block_types' is [\"AttnDownEncoderBlock2D\"], needs a list of 1 "
		"\"DownEncoderBlock2D\"" },
	{ "{" KL ", \"up_block_types\": []}", QD_EINPUT,
		"'config.json': field 'up_block_types' is [], needs a list of 1 \"UpDecoderBlock2D\"" },
	{ "{" KL ", \"block_out_channels\": []}", QD_EINPUT,
		"'config.json': field 'block_out_channels' is [], needs a list of 1 to 8 numbers" },
	{ "{" KL ", \"block_out_channels\": null}", QD_EINPUT,
		"'config.json': field 'block_out_channels' is null, needs a list of 1 to 8 numbers" },
	{ "{" KL ", \"block_out_channels\": [-64]}", QD_EINPUT,
		"'config.json': field 'block_out_channels' is -64, needs a whole number from 1 to 65536" },
	{ "{" KL ", \"layers_per_block\": [2, 2]}", QD_EINPUT,
		"'config.json': field 'layers_per_block' is [2,2], needs a whole number from 1 to 15" },
	{ "{" KL ", \"latent_channels\": null}", QD_EINPUT,
		"'config.json': field 'latent_channels' is null, needs a whole number from 1 to 64" },
	{ "{" KL ", \"latent_channels\": 65}", QD_EINPUT,
		"'config.json': field 'latent_channels' is 65, needs a whole number from 1 to 64" },
	{ "{" KL ", \"in_channels\": 3.5}", QD_EINPUT,
		"'config.json': field 'in_channels' is 3.5, needs a whole number from 1 to 65536" },
	{ "{" KL ", \"scaling_factor\": 0}", QD_EINPUT, "'config.json': field 'scaling_factor' is 0, needs a number above 0" },
	{ "{" KL ", \"scaling_factor\": null}", QD_EINPUT,
		"'config.json': field 'scaling_factor' is null, needs a number above 0" },
	{ "{" KL ", \"scaling_factor\": \"1\"}", QD_EINPUT, "'config.json': field 'scaling_factor' is \"1\", needs a number" },
	{ "{" KL ", \"use_quant_conv\": 1}", QD_EINPUT, "'config.json': field 'use_quant_conv' is 1, needs true or false" },
	{ "{" KL ", \"mid_block_add_attention\": \"no\"}", QD_EINPUT,
		"'config.json': field 'mid_block_add_attention' is \"no\", needs true or false" },
	{ "{" KL ", \"latents_mean\": [0, 0, 0]}", QD_EINPUT,
		"'config.json': field 'latents_mean' is [0,0,0], needs a list of 4 numbers or null" },
	{ "{" KL ", \"latents_mean\": [0, 0, 0, \"0\"]}", QD_EINPUT,
		"'config.json': field 'latents_mean' is [0,0,0,\"0\"], needs a list of 4 numbers or null" },
	{ "{" KL ", \"latents_mean\": [0, 0, 0, 0]}", QD_EINPUT,
		"'config.json' has field 'latents_mean' without 'latents_std', needs both or none" },
	{ "{" KL ", \"latents_std\": [1, 1, 1, 1]}", QD_EINPUT,
		"'config.json' has field 'latents_std' without 'latents_mean', needs both or none" },
	{ "{" KL ", \"latents_mean\": [0, 0, 0, 0], \"latents_std\": [1, 1, 1, 0]}", QD_EINPUT,
		"'config.json': field 'latents_std' is [1,1,1,0], needs numbers above 0" },
	/* AutoencoderTiny */
	{ "{" TINY ", \"act_fn\": \"elu\"}", QD_EUNSUPPORTED, "'config.json': field 'act_fn' is \"elu\", needs" },
	{ "{" TINY ", \"upsample_fn\": \"bilinear\"}", QD_EUNSUPPORTED,
		"'config.json': field 'upsample_fn' is \"bilinear\", needs \"nearest\"" },
	{ "{" TINY ", \"upsampling_scaling_factor\": 4}", QD_EUNSUPPORTED,
		"'config.json': field 'upsampling_scaling_factor' is 4, needs 2" },
	{ "{" TINY ", \"encoder_block_out_channels\": [32, 64, 64, 64]}", QD_EUNSUPPORTED,
		"'config.json': field 'encoder_block_out_channels' is [32,64,64,64], needs one number for all blocks" },
	{ "{" TINY ", \"decoder_block_out_channels\": [32, 32, 32, 32]}", QD_EUNSUPPORTED,
		"'config.json': field 'decoder_block_out_channels' is [32,32,32,32], needs the encoder's number of channels" },
	{ "{" TINY ", \"decoder_block_out_channels\": [64]}", QD_EINPUT,
		"'config.json': field 'decoder_block_out_channels' has 1 items, needs 4" },
	{ "{" TINY ", \"num_encoder_blocks\": [1, 3]}", QD_EINPUT,
		"'config.json': field 'num_encoder_blocks' has 2 items, needs 4" },
	{ "{" TINY ", \"num_decoder_blocks\": [3, 3, 3, 0]}", QD_EINPUT,
		"'config.json': field 'num_decoder_blocks' is 0, needs a whole number from 1 to 65536" },
	/* text encoders */
	{ "{" TEXT ", \"hidden_act\": \"gelu_new\"}", QD_EUNSUPPORTED,
		"'config.json': field 'hidden_act' is \"gelu_new\", needs \"quick_gelu\" or \"gelu\"" },
	{ "{" TEXT ", \"hidden_act\": null}", QD_EUNSUPPORTED,
		"'config.json': field 'hidden_act' is null, needs \"quick_gelu\" or \"gelu\"" },
	{ "{" TEXT ", \"hidden_size\": 500}", QD_EINPUT,
		"'config.json': field 'hidden_size' is 500, needs a multiple of the 8 attention heads" },
	{ "{" TEXT ", \"num_hidden_layers\": 0}", QD_EINPUT,
		"'config.json': field 'num_hidden_layers' is 0, needs a whole number from 1 to 256" },
	{ "{" TEXT ", \"eos_token_id\": [1, 2]}", QD_EINPUT,
		"'config.json': field 'eos_token_id' is [1,2], needs a whole number from 0 to 16777216" },
	{ "{" TEXT ", \"vocab_size\": 99999999}", QD_EINPUT,
		"'config.json': field 'vocab_size' is 99999999, needs a whole number from 1 to 16777216" },
	{ "{" TEXT ", \"layer_norm_eps\": 0}", QD_EINPUT, "'config.json': field 'layer_norm_eps' is 0, needs a number above 0" },
	{ "{" TEXT ", \"layer_norm_eps\": null}", QD_EINPUT,
		"'config.json': field 'layer_norm_eps' is null, needs a number above 0" },
	{ "{" TEXT ", \"use_attention_mask\": 1}", QD_EINPUT,
		"'config.json': field 'use_attention_mask' is 1, needs true or false" },
	{ "{" TEXT ", \"projection_dim\": -1}", QD_EINPUT,
		"'config.json': field 'projection_dim' is -1, needs a whole number from 1 to 65536" },
};

static void refuses_by_name(void **state)
{
	struct qd_component c;
	(void)state;
	for (size_t i = 0; i < QD_COUNT(refused); i++) {
		enum qd_status st = parse(&c, refused[i].text);
		if (st != refused[i].code || !qd_starts_with(qd_message(), refused[i].message))
			fail_msg("%s\n  gives %d: %s", refused[i].text, st, st ? qd_message() : "");
	}
}

static void only_objects_are_configurations(void **state)
{
	struct qd_vae_config vae;
	struct qd_text_config text;
	json_t *list = json_array();
	(void)state;
	assert_int_equal(qd_vae_config_parse(&vae, "a", list), QD_EINPUT);
	assert_string_equal(qd_message(), "'a' is no JSON object, needs one with the fields of AutoencoderKL");
	assert_int_equal(qd_tiny_vae_config_parse(&vae, "a", list), QD_EINPUT);
	assert_string_equal(qd_message(), "'a' is no JSON object, needs one with the fields of AutoencoderTiny");
	assert_int_equal(qd_text_config_parse(&text, "a", list), QD_EINPUT);
	assert_string_equal(qd_message(), "'a' is no JSON object, needs one with the fields of CLIPTextModel");
	json_decref(list);
}

/* ---- folders ---- */

#define SMALL_VAE                                                                                                                  \
	"{" KL ", \"block_out_channels\": [8, 12], \"norm_num_groups\": 4, \"latent_channels\": 2,"                                \
	" \"down_block_types\": [\"DownEncoderBlock2D\", \"DownEncoderBlock2D\"],"                                                 \
	" \"up_block_types\": [\"UpDecoderBlock2D\", \"UpDecoderBlock2D\"]}"
#define SMALL_TEXT                                                                                                                 \
	"{" TEXT ", \"hidden_size\": 8, \"intermediate_size\": 12, \"num_hidden_layers\": 2, \"num_attention_heads\": 2,"          \
	" \"max_position_embeddings\": 6, \"vocab_size\": 20}"

static enum qd_status graph_status(const struct qd_component *c, const struct qd_component_sizes *sizes)
{
	struct qd_graph g = { 0 };
	enum qd_status st = qd_component_graph(&g, c, sizes);
	if (st == QD_OK)
		st = qd_graph_verify(&g);
	qd_graph_release(&g);
	return st;
}

static const struct qd_component_sizes decoding = { .part = QD_VAE_DECODER, .batch = 2, .height = 3, .width = 5 };
static const struct qd_component_sizes encoding = { .part = QD_VAE_ENCODER, .batch = 1, .height = 7, .width = 4 };
static const struct qd_component_sizes reading = { .batch = 2, .tokens = 5 };

/* Names as they were before the attention layers were renamed, and kernels in place of matrices as in converted files. */
static const char *old_name(const char *name, struct qd_shape *shape)
{
	static const char *const pairs[][2] = { { ".to_q.", ".query." }, { ".to_k.", ".key." }, { ".to_v.", ".value." },
		{ ".to_out.0.", ".proj_attn." } };
	static char buffer[256];
	for (size_t i = 0; i < QD_COUNT(pairs); i++) {
		const char *at = strstr(name, pairs[i][0]);
		if (at == NULL)
			continue;
		if (shape->rank == 2)
			*shape = QD_SHAPE(shape->dim[0], shape->dim[1], 1, 1);
		snprintf(buffer, sizeof(buffer), "%.*s%s%s", (int)(at - name), name, pairs[i][1], at + strlen(pairs[i][0]));
		return buffer;
	}
	return name;
}

static void opens_old_attention_names(void **state)
{
	struct qd_component c;
	(void)state;
	component_ok(qd_component_open(&c, component_folder("old_vae", SMALL_VAE, component_golden_values, old_name), NULL));
	assert_null(qd_weights_find(&c.weights, "decoder.mid_block.attentions.0.to_q.weight"));
	component_ok(graph_status(&c, &decoding));
	component_ok(graph_status(&c, &encoding));
	qd_component_release(&c);
}

static const char *flat_name(const char *name, struct qd_shape *shape)
{
	(void)shape;
	return qd_starts_with(name, "text_model.") ? name + strlen("text_model.") : name;
}

static void opens_text_encoders_without_prefix(void **state)
{
	struct qd_component c;
	(void)state;
	component_ok(qd_component_open(&c, component_folder("flat", SMALL_TEXT, component_golden_values, flat_name), NULL));
	assert_non_null(qd_weights_find(&c.weights, "final_layer_norm.weight"));
	component_ok(graph_status(&c, &reading));
	qd_component_release(&c);
}

/* What a model can do that does not name its class is told from its weights. */
static void a_projection_is_found_in_the_weights(void **state)
{
	struct qd_safetensors file;
	struct qd_tensor tensors[64];
	struct qd_component c;
	(void)state;
	const char *folder = component_folder("projecting", SMALL_TEXT, component_golden_values, NULL);
	component_ok(qd_safetensors_open(&file, scratch_path("projecting/model.safetensors")));
	for (size_t i = 0; i < file.n; i++)
		tensors[i] = file.tensors[i];
	component_ok(qd_tensor_new(&tensors[file.n], "text_projection.weight", QD_F32, &QD_SHAPE(3, 8)));
	component_ok(
		qd_safetensors_write(scratch_path("projecting/model.safetensors"), tensors, file.n + 1, NULL, 0, true, NULL, NULL));
	qd_tensor_release(&tensors[file.n]);
	qd_safetensors_release(&file);
	component_ok(qd_component_open(&c, folder, NULL));
	assert_int_equal(c.text.projection, 3);
	component_ok(graph_status(&c, &reading));
	qd_component_release(&c);
}

static const char *without_one(const char *name, struct qd_shape *shape)
{
	if (strcmp(name, "decoder.mid_block.attentions.0.to_k.bias") == 0)
		return NULL;
	if (strcmp(name, "encoder.conv_in.weight") == 0)
		*shape = QD_SHAPE(8, 3, 9);
	return name;
}

static void missing_and_misshapen_weights_are_named(void **state)
{
	struct qd_component c;
	char expected[8192];
	(void)state;
	const char *folder = component_folder("broken", SMALL_VAE, component_golden_values, without_one);
	component_ok(qd_component_open(&c, folder, NULL));
	assert_int_equal(graph_status(&c, &decoding), QD_EINPUT);
	snprintf(expected, sizeof(expected),
		"'%s/diffusion_pytorch_model.safetensors' has no tensor 'decoder.mid_block.attentions.0.to_k.bias', needs one of "
		"[12]",
		folder);
	assert_string_equal(qd_message(), expected);
	assert_int_equal(graph_status(&c, &encoding), QD_EINPUT);
	snprintf(expected, sizeof(expected),
		"'%s/diffusion_pytorch_model.safetensors': tensor 'encoder.conv_in.weight' is [8,3,9], needs [8,3,3,3]", folder);
	assert_string_equal(qd_message(), expected);
	qd_component_release(&c);
}

static void sizes_that_do_not_fit_are_refused(void **state)
{
	struct qd_component vae, text;
	struct qd_component_sizes sizes = encoding;
	(void)state;
	parses(&vae, SMALL_VAE);
	parses(&text, SMALL_TEXT);
	sizes.width = 1;
	assert_int_equal(graph_status(&vae, &sizes), QD_EINPUT);
	assert_string_equal(qd_message(), "batch, height and width are 1, 7 and 1, need at least 1, 2 and 2");
	sizes = decoding;
	sizes.batch = 0;
	assert_int_equal(graph_status(&vae, &sizes), QD_EINPUT);
	assert_string_equal(qd_message(), "batch, height and width are 0, 3 and 5, need at least 1, 1 and 1");
	sizes = reading;
	sizes.tokens = 7;
	assert_int_equal(graph_status(&text, &sizes), QD_EINPUT);
	assert_string_equal(qd_message(), "a prompt has 7 tokens, needs at most the 6 positions of the text encoder");
	sizes.tokens = 0;
	assert_int_equal(graph_status(&text, &sizes), QD_EINPUT);
	assert_string_equal(qd_message(), "batch and tokens are 2 and 0, need at least 1");
	sizes = reading;
	sizes.clip_skip = 3;
	assert_int_equal(graph_status(&text, &sizes), QD_EINPUT);
	assert_string_equal(qd_message(), "clip skip is 3, needs 0 to the 2 layers of the text encoder");
}

static void folders_that_cannot_be_opened_say_why(void **state)
{
	static const char pointer[] = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n";
	struct qd_component c;
	enum qd_component_kind kind;
	(void)state;
	assert_int_equal(qd_component_open(&c, "/nowhere", NULL), QD_EINPUT);
	assert_string_equal(qd_message(), "'/nowhere' is no folder, needs one with config.json");
	mkdir(scratch_path("pipeline"), 0777);
	assert_int_equal(qd_component_open(&c, scratch_path("pipeline"), NULL), QD_EINPUT);
	assert_non_null(strstr(qd_message(), "pipeline' has no config.json, needs it or 'unet/config.json'"));
	assert_int_equal(qd_component_peek(scratch_path("pipeline"), "vae", &kind), QD_EINPUT);
	assert_non_null(strstr(qd_message(), "pipeline' has no config.json, needs it or 'vae/config.json'"));
	scratch_file("pipeline/config.json", pointer, strlen(pointer));
	assert_int_equal(qd_component_open(&c, scratch_path("pipeline"), NULL), QD_EINPUT);
	assert_non_null(strstr(qd_message(), "is a Git-LFS pointer"));
	scratch_file("pipeline/config.json", SMALL_TEXT, strlen(SMALL_TEXT));
	assert_int_equal(qd_component_open(&c, scratch_path("pipeline"), NULL), QD_EINPUT);
	assert_non_null(strstr(qd_message(), "pipeline' has no weights, needs 'model.safetensors'"));
	scratch_file("pipeline/pytorch_model.bin", "x", 1);
	assert_int_equal(qd_component_open(&c, scratch_path("pipeline"), NULL), QD_EUNSUPPORTED);
	assert_non_null(strstr(qd_message(), "pytorch_model.bin' is a Python pickle"));
	scratch_file("pipeline/model.safetensors", pointer, strlen(pointer));
	assert_int_equal(qd_component_open(&c, scratch_path("pipeline"), NULL), QD_EINPUT);
	assert_non_null(strstr(qd_message(), "Git-LFS pointer"));
	component_ok(qd_component_peek(scratch_path("pipeline"), NULL, &kind));
	assert_int_equal(kind, QD_COMPONENT_TEXT);
}

/* ---- TAESD's own files ---- */

/* The author's names: those of one part, without its path, the decoder's numbers one higher. */
static const char *taesd_name(const char *name, const char *part, int shift)
{
	static char buffer[128];
	char start[64], *rest;
	snprintf(start, sizeof(start), "%s.layers.", part);
	if (!qd_starts_with(name, start))
		return NULL;
	long number = strtol(name + strlen(start), &rest, 10);
	snprintf(buffer, sizeof(buffer), "%ld%s", number + shift, rest);
	return buffer;
}

static const char *taesd_encoder_name(const char *name, struct qd_shape *shape)
{
	(void)shape;
	return taesd_name(name, "encoder", 0);
}

static const char *taesd_decoder_name(const char *name, struct qd_shape *shape)
{
	(void)shape;
	return taesd_name(name, "decoder", 1);
}

static void move(const char *from, const char *to)
{
	assert_int_equal(rename(scratch_path(from), scratch_path(to)), 0);
}

static void opens_the_original_taesd_files(void **state)
{
	struct qd_component original, plain;
	(void)state;
	mkdir(scratch_path("taesd"), 0777);
	component_folder("taesd_encoder", "{" TINY "}", component_golden_values, taesd_encoder_name);
	component_folder("taesd_decoder", "{" TINY "}", component_golden_values, taesd_decoder_name);
	assert_false(qd_is_component(scratch_path("taesd")));
	move("taesd_encoder/diffusion_pytorch_model.safetensors", "taesd/taesd_encoder.safetensors");
	move("taesd_decoder/diffusion_pytorch_model.safetensors", "taesd/taesd_decoder.safetensors");
	assert_true(qd_is_component(scratch_path("taesd")));
	component_ok(qd_component_open(&original, scratch_path("taesd"), NULL));
	component_ok(qd_component_open(&plain, component_folder("tiny", "{" TINY "}", component_golden_values, NULL), NULL));
	assert_int_equal(original.kind, QD_COMPONENT_TINY_VAE);
	assert_int_equal(original.weights.n, 134);
	assert_int_equal(plain.weights.n, 134);
	for (size_t i = 0; i < plain.weights.n; i++) {
		const struct qd_tensor *tensor = plain.weights.tensors[i], *same = qd_weights_find(&original.weights, tensor->name);
		assert_non_null(same);
		assert_memory_equal(same->data, tensor->data, tensor->bytes);
	}
	component_ok(graph_status(&original, &decoding));
	qd_component_release(&plain);
	qd_component_release(&original);
}

static void other_names_in_taesd_files_are_refused(void **state)
{
	struct qd_component c;
	(void)state;
	mkdir(scratch_path("wrong"), 0777);
	component_folder("wrong_part", "{" TINY "}", component_golden_values, NULL);
	move("wrong_part/diffusion_pytorch_model.safetensors", "wrong/taesdxl_encoder.safetensors");
	component_folder("wrong_part", "{" TINY "}", component_golden_values, NULL);
	move("wrong_part/diffusion_pytorch_model.safetensors", "wrong/taesdxl_decoder.safetensors");
	assert_int_equal(qd_component_open(&c, scratch_path("wrong"), NULL), QD_EINPUT);
	assert_non_null(strstr(qd_message(), "wrong/taesdxl_encoder.safetensors': tensor '"));
	assert_non_null(strstr(qd_message(), "', needs names that begin with a layer's number"));
}

/* ---- latents ---- */

enum { SAMPLES = 2, PIXELS = 6, CHANNELS = 4 };

static void latents_are_normalized_and_scaled(void **state)
{
	float params[SAMPLES * 2 * CHANNELS * PIXELS], noise[SAMPLES * CHANNELS * PIXELS], latents[SAMPLES * CHANNELS * PIXELS];
	float z_again[SAMPLES * CHANNELS * PIXELS];
	struct qd_component c;
	struct qd_random random;
	(void)state;
	qd_random_init(&random, test_seed(), 0);
	parses(&c, "{" KL ", \"scaling_factor\": 0.5, \"latents_mean\": [1, 2, 3, 4], \"latents_std\": [2, 4, 8, 0.5]}");
	/* log variances beyond both limits among them */
	for (size_t i = 0; i < QD_COUNT(params); i++)
		params[i] = (float)qd_random_normal(&random) * 25;
	for (size_t i = 0; i < QD_COUNT(noise); i++)
		noise[i] = (float)qd_random_normal(&random);
	for (int sampled = 0; sampled < 2; sampled++) {
		qd_vae_sample(&c.vae, SAMPLES, PIXELS, params, sampled ? noise : NULL, latents);
		qd_vae_unscale(&c.vae, SAMPLES, PIXELS, latents, z_again);
		for (int n = 0; n < SAMPLES; n++) {
			for (int k = 0; k < CHANNELS * PIXELS; k++) {
				int channel = k / PIXELS, i = n * CHANNELS * PIXELS + k;
				double mean = (double)params[n * 2 * CHANNELS * PIXELS + k];
				double log_variance = (double)params[(n * 2 + 1) * CHANNELS * PIXELS + k];
				log_variance = fmin(fmax(log_variance, -30), 20);
				double z = mean + (sampled ? exp(log_variance / 2) * (double)noise[i] : 0);
				double want = (z - c.vae.mean[channel]) / c.vae.std[channel] * 0.5;
				/* five float32 operations on terms of this size */
				double terms = (fabs(mean) + fabs(z - mean) + 4) / c.vae.std[channel];
				assert_true(fabs((double)latents[i] - want) <= 1e-6 * terms);
				/* and what the decoder takes of them */
				assert_true(fabs((double)z_again[i] - z) <= 4e-6 * terms * c.vae.std[channel]);
			}
		}
	}
}

/* ---- ids ---- */

static void ids_outside_of_the_vocabulary_are_refused(void **state)
{
	struct qd_component c;
	int64_t wide[] = { 0, 19, 20 };
	int32_t narrow[] = { 3, -1, 0 };
	float floats[] = { 1, 2, 3 };
	struct qd_tensor ids = qd_tensor_view("input_ids", QD_I64, QD_SHAPE(1, 3), wide);
	(void)state;
	parses(&c, SMALL_TEXT);
	assert_int_equal(qd_text_check_ids(&c.text, &ids, "f"), QD_EINPUT);
	assert_string_equal(qd_message(), "'f': tensor 'input_ids' has id 20 at element 2, needs 0 to 19");
	ids = qd_tensor_view("input_ids", QD_I32, QD_SHAPE(3), narrow);
	assert_int_equal(qd_text_check_ids(&c.text, &ids, NULL), QD_EINPUT);
	assert_string_equal(qd_message(), "tensor 'input_ids' has id -1 at element 1, needs 0 to 19");
	ids = qd_tensor_view("input_ids", QD_F32, QD_SHAPE(3), floats);
	assert_int_equal(qd_text_check_ids(&c.text, &ids, NULL), QD_EINPUT);
	assert_string_equal(qd_message(), "tensor 'input_ids' is F32, needs I64 or I32");
	wide[2] = 18;
	ids = qd_tensor_view("input_ids", QD_I64, QD_SHAPE(1, 3), wide);
	component_ok(qd_text_check_ids(&c.text, &ids, "f"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_kind_is_told_from_the_class),
		cmocka_unit_test(absent_vae_fields_have_the_defaults),
		cmocka_unit_test(absent_text_fields_have_the_defaults),
		cmocka_unit_test(nulls_unknown_and_dropped_fields),
		cmocka_unit_test(published_architectures_have_their_parameters),
		cmocka_unit_test(refuses_by_name),
		cmocka_unit_test(only_objects_are_configurations),
		cmocka_unit_test(opens_old_attention_names),
		cmocka_unit_test(opens_text_encoders_without_prefix),
		cmocka_unit_test(a_projection_is_found_in_the_weights),
		cmocka_unit_test(missing_and_misshapen_weights_are_named),
		cmocka_unit_test(sizes_that_do_not_fit_are_refused),
		cmocka_unit_test(folders_that_cannot_be_opened_say_why),
		cmocka_unit_test(opens_the_original_taesd_files),
		cmocka_unit_test(other_names_in_taesd_files_are_refused),
		cmocka_unit_test(latents_are_normalized_and_scaled),
		cmocka_unit_test(ids_outside_of_the_vocabulary_are_refused),
	};
	return cmocka_run_group_tests_name("component configurations", tests, NULL, NULL);
}
