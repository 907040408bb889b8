/*
 * lib/network, UNet configurations: defaults, every published variant, what is refused and how, and the way back to JSON.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "lib/network/network.h"
#include "tests/unit/scratch.h"

static enum qd_status parse(struct qd_unet_config *config, const char *text)
{
	json_t *json = NULL;
	assert_int_equal(qd_json_parse("text", text, strlen(text), &json), QD_OK);
	enum qd_status st = qd_unet_config_parse(config, "config.json", json);
	json_decref(json);
	return st;
}

static void parses(struct qd_unet_config *config, const char *text)
{
	if (parse(config, text) != QD_OK)
		fail_msg("%s: %s", text, qd_message());
}

/* ---- values ---- */

/* The defaults of the class are SD1.5's, except for the context. */
static void absent_fields_have_the_defaults(void **state)
{
	static const int64_t channels[] = { 320, 640, 1280, 1280 };
	struct qd_unet_config c;
	(void)state;
	parses(&c, "{}");
	assert_int_equal(c.blocks, 4);
	for (int i = 0; i < 4; i++) {
		assert_int_equal(c.channels[i], channels[i]);
		assert_int_equal(c.layers[i], 2);
		assert_int_equal(c.heads[i], 8);
		assert_int_equal(c.cross_dim[i], 1280);
		assert_int_equal(c.depth[i][1], 1);
		assert_int_equal(c.up_depth[i][2], 1);
		assert_true(c.down_attention[i] == (i != 3) && c.up_attention[i] == (i != 0) && !c.only_cross[i]);
	}
	assert_true(c.has_mid && c.mid_attention && c.flip_sin_to_cos && !c.linear_projection && !c.text_time);
	assert_int_equal(c.in_channels, 4);
	assert_int_equal(c.out_channels, 4);
	assert_int_equal(c.sample_size, 0);
	assert_int_equal(c.time_dim, 1280);
	assert_int_equal(c.groups, 32);
	assert_int_equal(c.downsample_padding, 1);
	assert_true(c.act == QD_OP_SIGMOID && c.norm_eps == 1e-5 && c.mid_scale == 1 && c.freq_shift == 0);
}

static void nulls_and_unknown_fields_are_nothing(void **state)
{
	struct qd_unet_config c;
	(void)state;
	parses(&c, "{\"upcast_attention\": null, \"num_class_embeds\": null, \"_private\": [], \"brand_new\": {\"x\": 1}, "
		   "\"sample_size\": null,"
		   " \"_class_name\": \"FlaxUNet2DConditionModel\", \"dual_cross_attention\": false}");
	assert_int_equal(c.sample_size, 0);
}

static void dropped_fields_have_the_defaults(void **state)
{
	struct qd_unet_config c;
	(void)state;
	parses(&c, "{\"cross_attention_dim\": 768, \"_use_default_values\": [\"cross_attention_dim\"]}");
	assert_int_equal(c.cross_dim[0], 1280);
}

/* What one list per block means: the mid block takes the last, up blocks are spelled out. */
static void reads_nested_transformer_layers(void **state)
{
	struct qd_unet_config c;
	(void)state;
	parses(&c, "{\"block_out_channels\": [320, 640, 1280], \"layers_per_block\": 2, \"attention_head_dim\": [5, 10, 20],"
		   " \"down_block_types\": [\"DownBlock2D\", \"CrossAttnDownBlock2D\", \"CrossAttnDownBlock2D\"],"
		   " \"up_block_types\": [\"CrossAttnUpBlock2D\", \"CrossAttnUpBlock2D\", \"UpBlock2D\"],"
		   " \"transformer_layers_per_block\": [1, [2, 3], [4, 5]],"
		   " \"reverse_transformer_layers_per_block\": [[6, 7, 8], [2, 1, 1], 1]}");
	assert_int_equal(c.depth[1][0], 2);
	assert_int_equal(c.depth[1][1], 3);
	assert_int_equal(c.depth[2][1], 5);
	assert_int_equal(c.mid_depth, 4);
	assert_int_equal(c.up_depth[0][2], 8);
	assert_int_equal(c.up_depth[1][0], 2);
	assert_int_equal(c.up_depth[2][2], 1);
}

static void reverses_lists_for_up_blocks(void **state)
{
	struct qd_unet_config c;
	(void)state;
	parses(&c, "{\"block_out_channels\": [32, 64], \"layers_per_block\": [1, 3], \"transformer_layers_per_block\": [2, 5],"
		   " \"down_block_types\": [\"UNetResCrossAttnDownBlock2D\", \"DownBlock2D\"],"
		   " \"up_block_types\": [\"UpBlock2D\", \"CrossAttnUpBlock2D\"], \"mid_block_type\": null}");
	assert_int_equal(c.up_depth[0][3], 5);
	assert_int_equal(c.up_depth[1][1], 2);
	assert_int_equal(c.mid_depth, 5);
	assert_true(!c.has_mid && !c.mid_attention && c.down_attention[0] && !c.down_attention[1]);
}

static void reads_the_rare_fields(void **state)
{
	struct qd_unet_config c;
	(void)state;
	parses(&c, "{\"mid_block_type\": \"UNetMidBlock2D\", \"time_cond_proj_dim\": 256, \"only_cross_attention\": [true, false, "
		   "false, false],"
		   " \"resnet_time_scale_shift\": \"scale_shift\", \"downsample_padding\": 0, \"center_input_sample\": true,"
		   " \"act_fn\": \"mish\", \"encoder_hid_dim\": 4096, \"encoder_hid_dim_type\": \"text_proj\", "
		   "\"time_embedding_dim\": 512,"
		   " \"freq_shift\": 1, \"flip_sin_to_cos\": false, \"sample_size\": [64, 96], \"mid_block_scale_factor\": 1.5,"
		   " \"norm_eps\": 1e-6, \"norm_num_groups\": 16, \"conv_in_kernel\": 1, \"conv_out_kernel\": 5}");
	assert_true(c.has_mid && !c.mid_attention && c.only_cross[0] && !c.only_cross[1] && c.scale_shift && c.center_input);
	assert_int_equal(c.time_cond_dim, 256);
	assert_int_equal(c.encoder_hid_dim, 4096);
	assert_int_equal(c.time_dim, 512);
	assert_int_equal(c.sample_size, 64);
	assert_int_equal(c.groups, 16);
	assert_int_equal(c.conv_out_kernel, 5);
	assert_int_equal(c.downsample_padding, 0);
	assert_true(c.act == QD_OP_MISH && c.text_proj && c.freq_shift == 1 && !c.flip_sin_to_cos && c.mid_scale == 1.5);
}

/* ---- refusals ---- */

static const struct refusal {
	const char *text;
	enum qd_status status;
	const char *message;
} refusals[] = {
	{ "[]", QD_EINPUT, "'config.json' is no JSON object, needs one with the fields of UNet2DConditionModel" },
	{ "{\"_class_name\": \"FluxTransformer2DModel\"}", QD_EUNSUPPORTED,
		"'config.json': field '_class_name' is \"FluxTransformer2DModel\", needs \"UNet2DConditionModel\"" },
	{ "{\"num_attention_heads\": 8}", QD_EUNSUPPORTED, "'config.json': field 'num_attention_heads' is 8, needs null" },
	{ "{\"dual_cross_attention\": true}", QD_EUNSUPPORTED, "'config.json': field 'dual_cross_attention' is true, needs null" },
	{ "{\"class_embed_type\": \"timestep\"}", QD_EUNSUPPORTED,
		"'config.json': field 'class_embed_type' is \"timestep\", needs null" },
	{ "{\"num_class_embeds\": 10}", QD_EUNSUPPORTED, "'config.json': field 'num_class_embeds' is 10, needs null" },
	{ "{\"timestep_post_act\": \"silu\"}", QD_EUNSUPPORTED,
		"'config.json': field 'timestep_post_act' is \"silu\", needs null" },
	{ "{\"time_embedding_act_fn\": \"silu\"}", QD_EUNSUPPORTED,
		"'config.json': field 'time_embedding_act_fn' is \"silu\", needs null" },
	{ "{\"attention_type\": \"gated\"}", QD_EUNSUPPORTED,
		"'config.json': field 'attention_type' is \"gated\", needs \"default\" or null" },
	{ "{\"time_embedding_type\": \"fourier\"}", QD_EUNSUPPORTED,
		"'config.json': field 'time_embedding_type' is \"fourier\", needs \"positional\" or null" },
	{ "{\"addition_embed_type\": \"image\"}", QD_EUNSUPPORTED,
		"'config.json': field 'addition_embed_type' is \"image\", needs \"text_time\" or null" },
	{ "{\"encoder_hid_dim_type\": \"ip_image_proj\"}", QD_EUNSUPPORTED,
		"'config.json': field 'encoder_hid_dim_type' is \"ip_image_proj\", needs \"text_proj\" or null" },
	{ "{\"resnet_time_scale_shift\": \"ada_group\"}", QD_EUNSUPPORTED,
		"'config.json': field 'resnet_time_scale_shift' is \"ada_group\", needs \"default\", \"scale_shift\" or null" },
	{ "{\"mid_block_type\": \"UNetMidBlock2DSimpleCrossAttn\"}", QD_EUNSUPPORTED,
		"'config.json': field 'mid_block_type' is \"UNetMidBlock2DSimpleCrossAttn\", needs \"UNetMidBlock2DCrossAttn\", "
		"\"UNetMidBlock2D\" or null" },
	{ "{\"act_fn\": \"tanh\"}", QD_EUNSUPPORTED,
		"'config.json': field 'act_fn' is \"tanh\", needs \"silu\", \"swish\", \"mish\", \"gelu\" or \"relu\"" },
	{ "{\"norm_num_groups\": null}", QD_EUNSUPPORTED, "'config.json': field 'norm_num_groups' is null, needs a number" },
	{ "{\"downsample_padding\": 2}", QD_EINPUT,
		"'config.json': field 'downsample_padding' is 2, needs a whole number from 0 to 1" },
	{ "{\"in_channels\": \"four\"}", QD_EINPUT,
		"'config.json': field 'in_channels' is \"four\", needs a whole number from 1 to 65536" },
	{ "{\"in_channels\": 0}", QD_EINPUT, "'config.json': field 'in_channels' is 0, needs a whole number from 1 to 65536" },
	{ "{\"norm_eps\": \"small\"}", QD_EINPUT, "'config.json': field 'norm_eps' is \"small\", needs a number" },
	{ "{\"norm_eps\": 0}", QD_EINPUT,
		"'config.json': fields 'mid_block_scale_factor' and 'norm_eps' are 1 and 0, need more than 0" },
	{ "{\"use_linear_projection\": 1}", QD_EINPUT, "'config.json': field 'use_linear_projection' is 1, needs true or false" },
	{ "{\"block_out_channels\": []}", QD_EINPUT,
		"'config.json': field 'block_out_channels' is [], needs a list of 1 to 8 channel counts" },
	{ "{\"block_out_channels\": [32, 64]}", QD_EINPUT,
		"'config.json' has no field 'down_block_types', needs a list of 2 of \"DownBlock2D\" and "
		"\"CrossAttnDownBlock2D\"" },
	{ "{\"down_block_types\": [\"DownBlock2D\"]}", QD_EINPUT,
		"'config.json': field 'down_block_types' is [\"DownBlock2D\"], needs a list of 4 of \"DownBlock2D\" and "
		"\"CrossAttnDownBlock2D\"" },
	{ "{\"up_block_types\": [\"UpBlock2D\", \"UpBlock2D\", \"UpBlock2D\", \"AttnUpBlock2D\"]}", QD_EUNSUPPORTED,
		"needs a list of 4 of \"UpBlock2D\" and \"CrossAttnUpBlock2D\"" },
	{ "{\"layers_per_block\": [2, 2]}", QD_EINPUT,
		"'config.json': field 'layers_per_block' is [2,2], needs one item for each of the 4 blocks" },
	{ "{\"layers_per_block\": 16}", QD_EINPUT,
		"'config.json': field 'layers_per_block' is 16, needs a whole number from 1 to 15" },
	{ "{\"only_cross_attention\": [1, 0, 0, 0]}", QD_EINPUT,
		"'config.json': field 'only_cross_attention' is [1,0,0,0], needs true or false, or a list of them" },
	{ "{\"transformer_layers_per_block\": [[1, 1], 1, 1, 1]}", QD_EINPUT,
		"'config.json': field 'transformer_layers_per_block' has a list per block, needs "
		"'reverse_transformer_layers_per_block' beside it" },
	{ "{\"transformer_layers_per_block\": [[1], 1, 1, 1], \"reverse_transformer_layers_per_block\": 1}", QD_EINPUT,
		"'config.json': field 'transformer_layers_per_block' is [1], needs 2 numbers in a block's list" },
	{ "{\"block_out_channels\": [320, 640, 1280, 1300]}", QD_EINPUT,
		"'config.json': block 3 has 1300 channels, needs a multiple of the 32 groups of its norms" },
	{ "{\"attention_head_dim\": 7}", QD_EINPUT,
		"'config.json': block 0 has 320 channels, needs a multiple of its 7 attention heads" },
	{ "{\"cross_attention_dim\": [768, 768, 1024, 768]}", QD_EUNSUPPORTED,
		"'config.json': block 2 takes 1024 context features and block 0 768, needs one size for all" },
	{ "{\"conv_in_kernel\": 2}", QD_EUNSUPPORTED,
		"'config.json': fields 'conv_in_kernel' and 'conv_out_kernel' are 2 and 3, need odd numbers" },
	{ "{\"freq_shift\": 160}", QD_EINPUT,
		"'config.json': field 'freq_shift' is 160, needs less than the 160 frequencies of an embedding" },
	{ "{\"addition_embed_type\": \"text_time\", \"addition_time_embed_dim\": 256}", QD_EINPUT,
		"'config.json': fields 'addition_time_embed_dim' and 'projection_class_embeddings_input_dim' are 256 and 0" },
};

static void refuses_by_name(void **state)
{
	(void)state;
	for (size_t i = 0; i < QD_COUNT(refusals); i++) {
		struct qd_unet_config config;
		assert_int_equal(parse(&config, refusals[i].text), refusals[i].status);
		if (strstr(qd_message(), refusals[i].message) == NULL)
			fail_msg("%s\n  says '%s'\n  not  '%s'", refusals[i].text, qd_message(), refusals[i].message);
	}
}

static void names_the_file_of_broken_json(void **state)
{
	static const char broken[] = "{\"in_channels\": 4,}",
			  pointer[] = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n";
	struct qd_unet_config config;
	(void)state;
	const char *path = scratch_file("broken.json", broken, strlen(broken));
	assert_int_equal(qd_unet_config_read(&config, path), QD_EINPUT);
	assert_non_null(strstr(qd_message(), "broken.json': line 1, column"));
	path = scratch_file("pointer.json", pointer, strlen(pointer));
	assert_int_equal(qd_unet_config_read(&config, path), QD_EINPUT);
	assert_non_null(strstr(qd_message(), "Git-LFS pointer"));
	assert_int_equal(qd_unet_config_read(&config, scratch_path("absent.json")), QD_EIO);
}

/* ---- writing ---- */

static const char *const written[] = {
	"{\"cross_attention_dim\": 768, \"sample_size\": 64}",
	"{\"block_out_channels\": [320, 640, 1280], \"attention_head_dim\": [5, 10, 20], \"transformer_layers_per_block\": [1, 2, "
	"10],"
	" \"down_block_types\": [\"DownBlock2D\", \"CrossAttnDownBlock2D\", \"CrossAttnDownBlock2D\"],"
	" \"up_block_types\": [\"CrossAttnUpBlock2D\", \"CrossAttnUpBlock2D\", \"UpBlock2D\"], \"addition_embed_type\": "
	"\"text_time\","
	" \"addition_time_embed_dim\": 256, \"projection_class_embeddings_input_dim\": 2816, \"use_linear_projection\": true}",
	"{\"block_out_channels\": [64, 128], \"layers_per_block\": [1, 2], \"transformer_layers_per_block\": [2, [3, 4]],"
	" \"reverse_transformer_layers_per_block\": [[5, 6, 7], 1], \"down_block_types\": [\"CrossAttnDownBlock2D\", "
	"\"CrossAttnDownBlock2D\"],"
	" \"up_block_types\": [\"CrossAttnUpBlock2D\", \"CrossAttnUpBlock2D\"], \"mid_block_type\": null, "
	"\"only_cross_attention\": [true, false]}",
	"{\"act_fn\": \"gelu\", \"time_cond_proj_dim\": 256, \"time_embedding_dim\": 512, \"encoder_hid_dim\": 4096, "
	"\"freq_shift\": 1,"
	" \"mid_block_type\": \"UNetMidBlock2D\", \"resnet_time_scale_shift\": \"scale_shift\", \"mid_block_scale_factor\": 1.25}",
};

/* The struct is zeroed before it is filled, so equal configurations have equal bytes. */
static void written_fields_read_back_equal(void **state)
{
	(void)state;
	for (size_t i = 0; i < QD_COUNT(written); i++) {
		struct qd_unet_config *a = calloc(1, sizeof(*a)), *b = calloc(1, sizeof(*b));
		parses(a, written[i]);
		json_t *json = qd_unet_config_json(a);
		if (qd_unet_config_parse(b, "written", json) != QD_OK)
			fail_msg("%s", qd_message());
		json_t *again = qd_unet_config_json(b);
		assert_true(json_equal(json, again));
		assert_memory_equal(a->depth, b->depth, sizeof(a->depth));
		assert_memory_equal(a->up_depth, b->up_depth, sizeof(a->up_depth));
		assert_memory_equal(a->only_cross, b->only_cross, sizeof(a->only_cross));
		assert_int_equal(a->time_dim, b->time_dim);
		assert_int_equal(a->text_proj, b->text_proj);
		json_decref(json);
		json_decref(again);
		free(a);
		free(b);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(absent_fields_have_the_defaults),
		cmocka_unit_test(nulls_and_unknown_fields_are_nothing),
		cmocka_unit_test(dropped_fields_have_the_defaults),
		cmocka_unit_test(reads_nested_transformer_layers),
		cmocka_unit_test(reverses_lists_for_up_blocks),
		cmocka_unit_test(reads_the_rare_fields),
		cmocka_unit_test(refuses_by_name),
		cmocka_unit_test(names_the_file_of_broken_json),
		cmocka_unit_test(written_fields_read_back_equal),
	};
	return cmocka_run_group_tests_name("unet_config", tests, NULL, NULL);
}
