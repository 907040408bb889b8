/*
 * lib/network, the UNet graph without bytes: numbers of tensors, parameters and modules of the published architectures, names and
 * shapes, odd sizes, weights that do not fit; and random weights.
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
#include <sys/stat.h>

#include "lib/model/model.h"
#include "tests/unit/scratch.h"

#define SDXL                                                                                                                       \
	"\"block_out_channels\": [320, 640, 1280], \"attention_head_dim\": [5, 10, 20], \"use_linear_projection\": true,"          \
	" \"down_block_types\": [\"DownBlock2D\", \"CrossAttnDownBlock2D\", \"CrossAttnDownBlock2D\"],"                            \
	" \"up_block_types\": [\"CrossAttnUpBlock2D\", \"CrossAttnUpBlock2D\", \"UpBlock2D\"],"                                    \
	" \"cross_attention_dim\": 2048, \"transformer_layers_per_block\": [1, 2, 10],"                                            \
	" \"addition_embed_type\": \"text_time\", \"addition_time_embed_dim\": 256, \"projection_class_embeddings_input_dim\": "   \
	"2816"
#define REFINER                                                                                                                    \
	"\"block_out_channels\": [384, 768, 1536, 1536], \"attention_head_dim\": [6, 12, 24, 24], \"use_linear_projection\": "     \
	"true,"                                                                                                                    \
	" \"down_block_types\": [\"DownBlock2D\", \"CrossAttnDownBlock2D\", \"CrossAttnDownBlock2D\", \"DownBlock2D\"],"           \
	" \"up_block_types\": [\"UpBlock2D\", \"CrossAttnUpBlock2D\", \"CrossAttnUpBlock2D\", \"UpBlock2D\"],"                     \
	" \"cross_attention_dim\": 1280, \"transformer_layers_per_block\": 4, \"addition_embed_type\": \"text_time\","             \
	" \"addition_time_embed_dim\": 256, \"projection_class_embeddings_input_dim\": 2560"
#define TWO_LEVELS                                                                                                                 \
	"\"block_out_channels\": [32, 64], \"layers_per_block\": 1, \"cross_attention_dim\": 24, \"attention_head_dim\": 4,"       \
	" \"down_block_types\": [\"CrossAttnDownBlock2D\", \"DownBlock2D\"],"                                                      \
	" \"up_block_types\": [\"UpBlock2D\", \"CrossAttnUpBlock2D\"]"

static struct qd_unet_config config_of(const char *text)
{
	struct qd_unet_config config;
	json_t *json = NULL;
	assert_int_equal(qd_json_parse("text", text, strlen(text), &json), QD_OK);
	if (qd_unet_config_parse(&config, "text", json) != QD_OK)
		fail_msg("%s", qd_message());
	json_decref(json);
	return config;
}

static void build(struct qd_graph *g, const char *text, int64_t batch, int64_t height, int64_t width)
{
	struct qd_unet_config config = config_of(text);
	const struct qd_sizes sizes = { batch, height, width, 7 };
	if (qd_unet_graph(g, &config, NULL, &sizes) != QD_OK || qd_graph_verify(g) != QD_OK)
		fail_msg("%s", qd_message());
}

static void shape_is(const struct qd_graph *g, const char *name, struct qd_shape need)
{
	char found[QD_SHAPE_TEXT], text[QD_SHAPE_TEXT];
	qd_id id = qd_graph_find(g, name);
	if (id == QD_NONE)
		fail_msg("no value '%s'", name);
	if (!qd_shape_equal(&g->values[id].shape, &need))
		fail_msg("'%s' is %s, not %s", name, qd_shape_text(&g->values[id].shape, found), qd_shape_text(&need, text));
}

/* Totals as diffusers' own classes count them. */
static void counts_the_published_architectures(void **state)
{
	static const struct {
		const char *text;
		uint64_t parameters, tensors, modules;
	} cases[] = {
		{ "{\"cross_attention_dim\": 768}", 859520964, 686, 282 },
		{ "{\"cross_attention_dim\": 768, \"in_channels\": 9}", 859535364, 686, 282 },
		{ "{\"cross_attention_dim\": 1024, \"attention_head_dim\": [5, 10, 20, 20], \"use_linear_projection\": true}",
			865910724, 686, 282 },
		{ "{" SDXL "}", 2567463684, 1680, 794 },
	};
	(void)state;
	for (size_t i = 0; i < QD_COUNT(cases); i++) {
		struct qd_unet_config config = config_of(cases[i].text);
		struct qd_graph g;
		struct qd_modules modules;
		uint64_t parameters, tensors;
		assert_int_equal(qd_unet_parameters(&config, &g, &parameters, &tensors), QD_OK);
		assert_int_equal(qd_modules_of(&modules, &g), QD_OK);
		assert_int_equal(parameters, cases[i].parameters);
		assert_int_equal(tensors, cases[i].tensors);
		assert_int_equal(modules.n, cases[i].modules);
		qd_modules_release(&modules);
		qd_graph_release(&g);
	}
}

static void module_is(const struct qd_modules *modules, const char *path, bool conv, int64_t out, int64_t in, int64_t kernel)
{
	const struct qd_module *m = qd_modules_find(modules, path);
	if (m == NULL)
		fail_msg("no module '%s'", path);
	assert_string_equal(m->path, path);
	assert_true(m->conv == conv && m->out == out && m->in == in && m->kh == kernel && m->kw == kernel);
}

static void describes_modules(void **state)
{
	struct qd_graph g;
	struct qd_modules modules;
	(void)state;
	build(&g, "{\"cross_attention_dim\": 768}", 1, 8, 8);
	assert_int_equal(qd_modules_of(&modules, &g), QD_OK);
	module_is(&modules, "conv_in", true, 320, 4, 3);
	module_is(&modules, "time_embedding.linear_1", false, 1280, 320, 1);
	module_is(&modules, "down_blocks.0.attentions.1.transformer_blocks.0.attn2.to_k", false, 320, 768, 1);
	module_is(&modules, "down_blocks.1.attentions.0.transformer_blocks.0.ff.net.0.proj", false, 5120, 640, 1);
	module_is(&modules, "mid_block.attentions.0.proj_in", true, 1280, 1280, 1);
	module_is(&modules, "up_blocks.1.resnets.2.conv1", true, 1280, 1920, 3);
	module_is(&modules, "up_blocks.3.resnets.0.conv_shortcut", true, 320, 960, 1);
	module_is(&modules, "up_blocks.0.upsamplers.0.conv", true, 1280, 1280, 3);
	module_is(&modules, "conv_out", true, 4, 320, 3);
	assert_null(qd_modules_find(&modules, "conv_norm_out"));
	assert_string_equal(modules.items[modules.n - 1].path, "conv_out");
	qd_modules_release(&modules);
	qd_graph_release(&g);
}

/* A node, its output and its weight are called after the module. */
static void names_are_module_paths(void **state)
{
	struct qd_graph g;
	(void)state;
	build(&g, "{" TWO_LEVELS "}", 2, 8, 8);
	qd_id node = qd_graph_find_node(&g, "down_blocks.0.resnets.0.conv1");
	assert_int_not_equal(node, QD_NONE);
	assert_string_equal(g.values[g.nodes[node].out[0]].name, "down_blocks.0.resnets.0.conv1");
	assert_string_equal(g.values[g.nodes[node].in[1]].name, "down_blocks.0.resnets.0.conv1.weight");
	shape_is(&g, "down_blocks.0.resnets.0", QD_SHAPE(2, 32, 8, 8));
	shape_is(&g, "down_blocks.0.attentions.0.transformer_blocks.0", QD_SHAPE(2 * 64, 32));
	shape_is(&g, "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k", QD_SHAPE(2 * 7, 32));
	assert_int_equal(g.n_outputs, 1);
	assert_string_equal(g.values[g.outputs[0]].name, "out");
	assert_string_equal(g.values[g.inputs[0]].name, "sample");
	assert_string_equal(g.values[g.inputs[1]].name, "timestep");
	assert_string_equal(g.values[g.inputs[2]].name, "encoder_hidden_states");
	qd_graph_release(&g);
}

/* Downsampling rounds up, upsampling is cut to the skip's size. */
static void odd_sizes_come_back(void **state)
{
	struct qd_graph g;
	(void)state;
	build(&g, "{" TWO_LEVELS "}", 1, 17, 13);
	shape_is(&g, "down_blocks.0.downsamplers.0.conv", QD_SHAPE(1, 32, 9, 7));
	shape_is(&g, "up_blocks.0.upsamplers.0.conv", QD_SHAPE(1, 64, 17, 13));
	shape_is(&g, "out", QD_SHAPE(1, 4, 17, 13));
	qd_graph_release(&g);
}

static void padding_0_needs_even_sizes(void **state)
{
	struct qd_unet_config config = config_of("{" TWO_LEVELS ", \"downsample_padding\": 0}");
	const struct qd_sizes odd = { 1, 9, 8, 7 };
	struct qd_graph g;
	(void)state;
	build(&g, "{" TWO_LEVELS ", \"downsample_padding\": 0}", 1, 8, 6);
	shape_is(&g, "down_blocks.0.downsamplers.0.conv", QD_SHAPE(1, 32, 4, 3));
	qd_graph_release(&g);
	assert_int_equal(qd_unet_graph(&g, &config, NULL, &odd), QD_EUNSUPPORTED);
	assert_string_equal(qd_message(),
		"'down_blocks.0.downsamplers.0.conv' gets 9 x 8 pixels, needs even numbers with downsample_padding 0");
	qd_graph_release(&g);
}

static void sizes_are_at_least_1(void **state)
{
	struct qd_unet_config config = config_of("{" TWO_LEVELS "}");
	const struct qd_sizes none = { 0, 8, 8, 7 };
	struct qd_graph g;
	(void)state;
	assert_int_equal(qd_unet_graph(&g, &config, NULL, &none), QD_EINPUT);
	assert_string_equal(qd_message(), "batch, height, width and tokens are 0, 8, 8 and 7, need at least 1");
}

static void variants_build(void **state)
{
	struct qd_graph g;
	(void)state;
	build(&g, "{" SDXL "}", 1, 8, 8);
	shape_is(&g, "text_embeds", QD_SHAPE(1, 1280));
	shape_is(&g, "time_ids", QD_SHAPE(1, 6));
	shape_is(&g, "add_embedding.input", QD_SHAPE(1, 2816));
	shape_is(&g, "mid_block.attentions.0.proj_in.weight", QD_SHAPE(1280, 1280));
	qd_graph_release(&g);
	build(&g, "{" REFINER "}", 2, 8, 8);
	shape_is(&g, "text_embeds", QD_SHAPE(2, 1280));
	shape_is(&g, "time_ids", QD_SHAPE(2, 5));
	shape_is(&g, "mid_block.attentions.0.transformer_blocks.3.attn2.to_k.weight", QD_SHAPE(1536, 1280));
	qd_graph_release(&g);
	build(&g, "{" TWO_LEVELS ", \"mid_block_type\": null}", 1, 8, 8);
	assert_int_equal(qd_graph_find_node(&g, "mid_block.resnets.0"), QD_NONE);
	qd_graph_release(&g);
	build(&g, "{" TWO_LEVELS ", \"mid_block_type\": \"UNetMidBlock2D\"}", 1, 8, 8);
	assert_int_not_equal(qd_graph_find_node(&g, "mid_block.resnets.0"), QD_NONE);
	assert_int_equal(qd_graph_find_node(&g, "mid_block.resnets.1"), QD_NONE);
	qd_graph_release(&g);
	build(&g,
		"{" TWO_LEVELS
		", \"time_cond_proj_dim\": 256, \"encoder_hid_dim\": 40, \"resnet_time_scale_shift\": \"scale_shift\"}",
		2, 8, 8);
	shape_is(&g, "timestep_cond", QD_SHAPE(2, 256));
	shape_is(&g, "time_embedding.cond_proj.weight", QD_SHAPE(32, 256));
	shape_is(&g, "encoder_hidden_states", QD_SHAPE(2, 7, 40));
	shape_is(&g, "encoder_hid_proj.weight", QD_SHAPE(24, 40));
	shape_is(&g, "mid_block.resnets.0.time_emb_proj.weight", QD_SHAPE(128, 128));
	qd_graph_release(&g);
	build(&g, "{" TWO_LEVELS ", \"only_cross_attention\": true}", 1, 8, 8);
	shape_is(&g, "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_k.weight", QD_SHAPE(32, 24));
	shape_is(&g, "mid_block.attentions.0.transformer_blocks.0.attn1.to_k.weight", QD_SHAPE(64, 64));
	qd_graph_release(&g);
}

/* ---- random weights ---- */

static const char *init(const char *name, const char *text, uint64_t seed, enum qd_dtype dtype)
{
	struct qd_unet_config config = config_of(text);
	char file[128];
	const char *dir = scratch_path(name);
	mkdir(dir, 0777);
	json_t *json = qd_unet_config_json(&config);
	snprintf(file, sizeof(file), "%s/config.json", name);
	assert_int_equal(qd_json_write(scratch_path(file), json, true), QD_OK);
	json_decref(json);
	snprintf(file, sizeof(file), "%s/diffusion_pytorch_model.safetensors", name);
	if (qd_unet_init(&config, seed, dtype, scratch_path(file), true) != QD_OK)
		fail_msg("%s", qd_message());
	return dir;
}

/*
 * Uniform in +-b has variance b^2/3, and the mean of n draws a standard deviation of b/sqrt(3n); the sample variance of n draws one
 * of (b^2/3) sqrt(0.8/n). Six standard deviations leave one failure in 10^9 seeds, and the seed is fixed.
 */
static void check_uniform(const struct qd_weights *weights, const char *name, double bound)
{
	const struct qd_tensor *tensor = qd_weights_find(weights, name);
	assert_non_null(tensor);
	size_t n = (size_t)qd_shape_elements(&tensor->shape);
	float *x = malloc(n * sizeof(*x));
	double sum = 0, squares = 0, variance = bound * bound / 3;
	assert_int_equal(qd_tensor_to_f32(tensor, x), QD_OK);
	for (size_t i = 0; i < n; i++) {
		assert_true(fabs((double)x[i]) <= bound * (1 + 1e-6));
		sum += (double)x[i];
		squares += (double)x[i] * (double)x[i];
	}
	assert_true(fabs(sum / (double)n) < 6 * bound / sqrt(3 * (double)n));
	assert_true(fabs(squares / (double)n - variance) < 6 * variance * sqrt(0.8 / (double)n));
	free(x);
}

static void draws_weights_as_pytorch(void **state)
{
	struct qd_model model;
	float value;
	(void)state;
	assert_int_equal(qd_model_open(&model, init("drawn", "{" TWO_LEVELS "}", 5, QD_F32)), QD_OK);
	check_uniform(&model.weights, "mid_block.resnets.0.conv1.weight", 1 / sqrt(64 * 9));
	check_uniform(&model.weights, "mid_block.resnets.0.conv1.bias", 1 / sqrt(64 * 9));
	check_uniform(&model.weights, "time_embedding.linear_2.weight", 1 / sqrt(128));
	const struct qd_tensor *norm = qd_weights_find(&model.weights, "conv_norm_out.weight");
	memcpy(&value, (const char *)norm->data + 4 * 31, 4);
	assert_true(value == 1);
	norm = qd_weights_find(&model.weights, "conv_norm_out.bias");
	memcpy(&value, (const char *)norm->data + 4 * 31, 4);
	assert_true(value == 0);
	qd_model_release(&model);
}

/* Equal seeds give equal models, the hash tells others apart. */
static void hashes_tell_models_apart(void **state)
{
	static const struct {
		const char *text;
		uint64_t seed;
		enum qd_dtype dtype;
	} cases[] = { { "{" TWO_LEVELS "}", 5, QD_F32 }, { "{" TWO_LEVELS "}", 5, QD_F32 }, { "{" TWO_LEVELS "}", 6, QD_F32 },
		{ "{" TWO_LEVELS "}", 5, QD_BF16 }, { "{" TWO_LEVELS ", \"freq_shift\": 1}", 5, QD_F32 } };
	char hash[QD_COUNT(cases)][QD_HASH_TEXT];
	(void)state;
	for (size_t i = 0; i < QD_COUNT(cases); i++) {
		struct qd_model model;
		assert_int_equal(qd_model_open(&model, init("hashed", cases[i].text, cases[i].seed, cases[i].dtype)), QD_OK);
		assert_int_equal(qd_model_hash(&model, hash[i]), QD_OK);
		qd_model_release(&model);
	}
	assert_string_equal(hash[0], hash[1]);
	for (size_t i = 2; i < QD_COUNT(cases); i++)
		assert_string_not_equal(hash[0], hash[i]);
}

/* ---- weights that do not fit ---- */

static void builds_or_says(const struct qd_weights *weights, const struct qd_unet_config *config, const char *message)
{
	const struct qd_sizes sizes = { 1, 8, 8, 7 };
	struct qd_graph g;
	enum qd_status st = qd_unet_graph(&g, config, weights, &sizes);
	qd_graph_release(&g);
	if (message == NULL) {
		assert_int_equal(st, QD_OK);
		return;
	}
	assert_int_equal(st, QD_EINPUT);
	if (strstr(qd_message(), message) == NULL)
		fail_msg("says '%s', not '%s'", qd_message(), message);
}

static void keep_warning(void *context, enum qd_log_level level, const char *text)
{
	if (level == QD_LOG_WARNING)
		snprintf(context, 512, "%s", text);
}

/* The tensor at `name` of opened weights, to be altered and put back by the test. */
static struct qd_tensor *tensor_of(struct qd_weights *weights, const char *name)
{
	for (size_t i = 0; i < weights->files[0].n; i++) {
		if (strcmp(weights->files[0].tensors[i].name, name) == 0)
			return &weights->files[0].tensors[i];
	}
	fail_msg("no tensor '%s'", name);
	return NULL;
}

static void weights_must_fit(void **state)
{
	struct qd_model model;
	(void)state;
	assert_int_equal(qd_model_open(&model, init("fits", "{" TWO_LEVELS "}", 1, QD_F16)), QD_OK);
	builds_or_says(&model.weights, &model.config, NULL);
	struct qd_tensor *tensor = tensor_of(&model.weights, "mid_block.attentions.0.proj_in.weight");
	tensor->shape = QD_SHAPE(64, 64); /* a matrix serves as a 1x1 kernel */
	builds_or_says(&model.weights, &model.config, NULL);
	tensor->shape = QD_SHAPE(64, 32, 2, 1);
	builds_or_says(&model.weights, &model.config,
		"model.safetensors': tensor 'mid_block.attentions.0.proj_in.weight' is [64,32,2,1], needs [64,64,1,1]");
	tensor->shape = QD_SHAPE(64, 64, 1, 1);
	tensor->dtype = QD_I16;
	builds_or_says(&model.weights, &model.config,
		"tensor 'mid_block.attentions.0.proj_in.weight' is I16, needs F32, F16, BF16 or F64");
	tensor->dtype = QD_F16;
	qd_strmap_remove(&model.weights.by_name, "conv_out.bias");
	builds_or_says(&model.weights, &model.config, "model.safetensors' has no tensor 'conv_out.bias', needs one of [4]");
	qd_model_release(&model);
}

/* Tensors of no layer are counted and told, not run without a word. */
static void tells_what_is_not_used(void **state)
{
	const struct qd_sizes sizes = { 1, 8, 8, 7 };
	struct qd_model model;
	struct qd_graph g;
	char warning[512] = "";
	(void)state;
	assert_int_equal(qd_model_open(&model, init("unused", "{" TWO_LEVELS "}", 1, QD_F16)), QD_OK);
	assert_int_equal(qd_model_graph(&g, &model, &sizes), QD_OK);
	qd_set_log_hook(keep_warning, warning);
	assert_int_equal(qd_weights_note_unused(&model.weights, &g), 0);
	assert_string_equal(warning, "");
	tensor_of(&model.weights, "conv_out.bias")->name = "conv_out.processor";
	assert_int_equal(qd_weights_note_unused(&model.weights, &g), 1);
	assert_non_null(strstr(warning, "1 tensors are no part of the network and not used (first 'conv_out.processor')"));
	qd_set_log_hook(NULL, NULL);
	qd_graph_release(&g);
	qd_model_release(&model);
}

static void folders_must_hold_a_model(void **state)
{
	struct qd_model model;
	(void)state;
	assert_int_equal(qd_model_open(&model, scratch_path("nowhere")), QD_EINPUT);
	assert_non_null(strstr(qd_message(), "nowhere' is neither file nor folder, needs a checkpoint or a diffusers folder with "
					     "unet/config.json or config.json"));
	assert_int_equal(qd_model_open(&model, scratch_dir()), QD_EINPUT);
	assert_non_null(strstr(qd_message(), "has no model, needs unet/config.json or config.json"));
}

/* SD1.5 at 64 x 64: 803 GFLOP, of which convolutions 444, linears 233, attention 126. */
static void counts_operations(void **state)
{
	struct qd_unet_config config = config_of("{\"cross_attention_dim\": 768}");
	const struct qd_sizes sizes = { 1, 64, 64, 77 };
	struct qd_graph g;
	struct qd_cost cost;
	(void)state;
	assert_int_equal(qd_unet_graph(&g, &config, NULL, &sizes), QD_OK);
	assert_int_equal(qd_graph_cost(&g, &cost), QD_OK);
	assert_true(fabs(cost.conv - 444e9) < 0.5e9 && fabs(cost.linear - 233e9) < 0.5e9 && fabs(cost.attention - 126e9) < 0.5e9);
	/* at least one feed-forward's product at full size, at most everything */
	assert_true(cost.activations >= 4096 * 2560 && cost.activations < 100000000);
	qd_graph_release(&g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(counts_the_published_architectures),
		cmocka_unit_test(describes_modules),
		cmocka_unit_test(names_are_module_paths),
		cmocka_unit_test(odd_sizes_come_back),
		cmocka_unit_test(padding_0_needs_even_sizes),
		cmocka_unit_test(sizes_are_at_least_1),
		cmocka_unit_test(variants_build),
		cmocka_unit_test(draws_weights_as_pytorch),
		cmocka_unit_test(hashes_tell_models_apart),
		cmocka_unit_test(weights_must_fit),
		cmocka_unit_test(tells_what_is_not_used),
		cmocka_unit_test(folders_must_hold_a_model),
		cmocka_unit_test(counts_operations),
	};
	return cmocka_run_group_tests_name("modules", tests, NULL, NULL);
}
