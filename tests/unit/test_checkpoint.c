/*
 * lib/model, single-file checkpoints: what is inferred of the published networks (files as large as theirs, of which nothing is
 * stored), names both ways, hashes, contents, and every refusal.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "tests/unit/ldm_help.h"
#include "tests/unit/scratch.h"

static const char prefix[] = "model.diffusion_model.";

static struct qd_unet_config config_of(const char *text)
{
	struct qd_unet_config config;
	json_t *json = NULL;
	OK(qd_json_parse("config", text, strlen(text), &json));
	OK(qd_unet_config_parse(&config, "config", json));
	json_decref(json);
	return config;
}

static char *identity(const struct qd_unet_config *config)
{
	json_t *json = qd_unet_config_identity(config);
	char *text = json_dumps(json, JSON_COMPACT | JSON_SORT_KEYS);
	json_decref(json);
	assert_non_null(text);
	return text;
}

/* ---- what is inferred ---- */

/* Opens a hole of the network's shape; its configuration must be `config`'s, its weights those that diffusers has. */
static void infers(const struct help_ldm *net, const char *config, const char *before)
{
	struct help_names *names = help_ldm_names(net);
	const struct qd_unet_config expected = config_of(config);
	struct qd_unet_config found;
	struct qd_weights weights;
	OK(qd_checkpoint_open(&found, &weights, help_ldm_hole("hole.safetensors", names, before, NULL)));
	char *have = identity(&found), *want = identity(&expected);
	assert_string_equal(have, want);
	assert_int_equal(weights.n, names->n);
	for (size_t i = 0; i < names->n; i++) {
		const struct qd_tensor *tensor = qd_weights_find(&weights, names->diffusers[i]);
		if (tensor == NULL)
			fail_msg("no '%s'", names->diffusers[i]);
		assert_true(qd_shape_equal(&tensor->shape, &names->shapes[i]));
	}
	free(have);
	free(want);
	free(names);
	qd_weights_release(&weights);
}

static void infers_the_published_networks(void **state)
{
	static const char *const names[] = { "sd15", "sd15-inpainting", "sd-small", "sd2", "sdxl", "refiner" };
	(void)state;
	for (size_t i = 0; i < QD_COUNT(names); i++) {
		const struct help_ldm net = help_ldm_of(names[i]);
		print_message("# %s\n", names[i]);
		infers(&net, help_ldm_config(names[i]), prefix);
	}
}

/* The UNet's tensors alone, as tools extract them. */
static void takes_names_without_the_prefix(void **state)
{
	const struct help_ldm net = help_ldm_of("sd15");
	(void)state;
	infers(&net, help_ldm_config("sd15"), "");
}

/* SSD-1B: layers of one level differ in depth, and the middle is a resnet alone. */
static void infers_depths_by_layer(void **state)
{
	struct help_ldm net = help_ldm_of("sdxl");
	(void)state;
	net.mid_depth = 0;
	memcpy(net.depth[1], (int[]){ 2, 2 }, 2 * sizeof(int));
	memcpy(net.depth[2], (int[]){ 4, 4 }, 2 * sizeof(int));
	memcpy(net.up_depth[0], (int[]){ 4, 4, 10 }, 3 * sizeof(int));
	memcpy(net.up_depth[1], (int[]){ 2, 1, 1 }, 3 * sizeof(int));
	infers(&net,
		"{\"block_out_channels\": [320, 640, 1280], \"attention_head_dim\": [5, 10, 20],"
		"\"down_block_types\": [\"DownBlock2D\", \"CrossAttnDownBlock2D\", \"CrossAttnDownBlock2D\"],"
		"\"up_block_types\": [\"CrossAttnUpBlock2D\", \"CrossAttnUpBlock2D\", \"UpBlock2D\"],"
		"\"mid_block_type\": \"UNetMidBlock2D\", \"transformer_layers_per_block\": [1, [2, 2], [4, 4]],"
		"\"reverse_transformer_layers_per_block\": [[4, 4, 10], [2, 1, 1], 1], \"cross_attention_dim\": 2048,"
		"\"use_linear_projection\": true, \"addition_embed_type\": \"text_time\", \"addition_time_embed_dim\": 256,"
		"\"projection_class_embeddings_input_dim\": 2816}",
		prefix);
}

/* ---- a small one, with bytes ---- */

/* A diffusers folder of random weights. */
static const char *random_folder(const char *name, const char *text)
{
	char path[4096];
	const char *folder = scratch_path(name);
	const struct qd_unet_config config = config_of(text);
	assert_int_equal(mkdir(folder, 0777), 0);
	snprintf(path, sizeof(path), "%s/config.json", folder);
	OK(qd_write_file(path, text, strlen(text), true));
	snprintf(path, sizeof(path), "%s/diffusion_pytorch_model.safetensors", folder);
	OK(qd_unet_init(&config, 3, QD_BF16, path, true));
	return folder;
}

static void same_weights(const struct qd_model *a, const struct qd_model *b)
{
	assert_int_equal(a->weights.n, b->weights.n);
	for (size_t i = 0; i < a->weights.n; i++) {
		const struct qd_tensor *x = a->weights.tensors[i], *y = qd_weights_find(&b->weights, x->name);
		assert_non_null(y);
		assert_int_equal(x->dtype, y->dtype);
		assert_true(qd_shape_equal(&x->shape, &y->shape));
		assert_memory_equal(x->data, y->data, x->bytes);
	}
}

static void equals_the_folder(void **state)
{
	static const char *const nets[] = { "tiny15", "tinyxl" };
	(void)state;
	for (size_t i = 0; i < QD_COUNT(nets); i++) {
		const struct help_ldm net = help_ldm_of(nets[i]);
		struct help_names *names = help_ldm_names(&net);
		struct qd_model folder, single;
		char first[QD_HASH_TEXT], second[QD_HASH_TEXT], file[64];
		OK(qd_model_open(&folder, random_folder(nets[i], help_ldm_config(nets[i]))));
		snprintf(file, sizeof(file), "%s-v1.0.safetensors", nets[i]);
		OK(qd_model_open(&single, help_ldm_write(file, &folder, names, true)));
		assert_int_equal(single.kind, QD_MODEL_CHECKPOINT);
		assert_string_equal(single.root, scratch_dir());
		same_weights(&folder, &single);
		same_weights(&single, &folder);
		OK(qd_model_hash(&folder, first));
		OK(qd_model_hash(&single, second));
		assert_string_equal(first, second);
		qd_model_release(&single);
		qd_model_release(&folder);
		free(names);
	}
}

static void tells_the_contents(void **state)
{
	const struct help_ldm net = help_ldm_of("tiny15");
	struct help_names *names = help_ldm_names(&net);
	struct qd_checkpoint_content contents[QD_CHECKPOINT_SECTIONS];
	struct qd_model folder;
	struct qd_safetensors file;
	(void)state;
	OK(qd_model_open(&folder, random_folder("contents", help_ldm_config("tiny15"))));
	OK(qd_safetensors_open(&file, help_ldm_write("contents.safetensors", &folder, names, false)));
	assert_true(qd_checkpoint_detect(&file));
	qd_checkpoint_contents(&file, contents);
	assert_int_equal(contents[QD_CHECKPOINT_UNET].tensors, 686);
	assert_int_equal(contents[QD_CHECKPOINT_UNET].parameters, 5490084);
	assert_int_equal(contents[QD_CHECKPOINT_UNET].bytes, 2 * 5490084);
	assert_int_equal(contents[QD_CHECKPOINT_VAE].tensors, 1);
	assert_int_equal(contents[QD_CHECKPOINT_TEXT].tensors, 1);
	assert_int_equal(contents[QD_CHECKPOINT_TEXT_2].tensors, 0);
	assert_int_equal(contents[QD_CHECKPOINT_EMA].tensors, 1);
	assert_string_equal(contents[QD_CHECKPOINT_EMA].first, "model_ema.decay");
	qd_safetensors_release(&file);
	qd_model_release(&folder);
	free(names);
}

/* ---- what tensors say of the noise schedule ---- */

static void markers_say_the_prediction(void **state)
{
	static const char v[] = "{\"prediction_type\": \"v_prediction\"}", epsilon[] = "{\"_class_name\": \"DDIMScheduler\"}";
	static const struct {
		const char *prefix, *marker, *schedule; /* NULL: none */
		enum qd_status status;
		enum qd_prediction prediction;
		const char *message;
	} cases[] = {
		{ prefix, NULL, NULL, QD_OK, QD_PREDICT_EPSILON, NULL },
		{ prefix, NULL, v, QD_OK, QD_PREDICT_V, NULL },
		{ prefix, "v_pred", NULL, QD_OK, QD_PREDICT_V, NULL },
		{ "", "v_pred", NULL, QD_OK, QD_PREDICT_V, NULL },
		{ prefix, "v_pred", v, QD_OK, QD_PREDICT_V, NULL },
		{ prefix, "v_pred", epsilon, QD_EINPUT, 0, "scheduler_config.json' says epsilon: needs both alike" },
		{ prefix, "ztsnr", NULL, QD_EUNSUPPORTED, 0,
			"marked.safetensors': tensor 'ztsnr' says betas rescaled to end without signal, needs a schedule of plain "
			"betas" },
		{ "", "edm_mean", v, QD_EUNSUPPORTED, 0, "tensor 'edm_mean' says EDM's noise levels" },
		{ prefix, "edm_vpred.sigma_max", NULL, QD_EUNSUPPORTED, 0, "tensor 'edm_vpred.sigma_max' says EDM's noise levels" },
	};
	const struct help_ldm net = help_ldm_of("sd15");
	struct help_names *names = help_ldm_names(&net);

	(void)state;
	for (size_t i = 0; i < QD_COUNT(cases); i++) {
		const struct help_edit edit = { .with = cases[i].marker, .shape = QD_SHAPE(0) };
		const char *config = scratch_path("scheduler/scheduler_config.json");
		struct qd_schedule schedule, plain;
		struct qd_model model;

		remove(config);
		mkdir(scratch_path("scheduler"), 0777);
		if (cases[i].schedule != NULL)
			OK(qd_write_file(config, cases[i].schedule, strlen(cases[i].schedule), true));
		OK(qd_model_open(&model, help_ldm_hole("marked.safetensors", names, cases[i].prefix, &edit)));
		assert_int_equal(model.weights.n, names->n);
		assert_int_equal(qd_model_schedule(&schedule, &model), cases[i].status);
		if (cases[i].status == QD_OK) {
			assert_int_equal(schedule.prediction, cases[i].prediction);
			/* all else is as it was */
			OK(qd_schedule_read(&plain, scratch_dir(), ""));
			assert_int_equal(schedule.train_steps, plain.train_steps);
			assert_memory_equal(
				schedule.alphas_cumprod, plain.alphas_cumprod, (size_t)plain.train_steps * sizeof(double));
			assert_int_equal(schedule.steps_offset, plain.steps_offset);
			qd_schedule_release(&plain);
		} else {
			assert_non_null(strstr(qd_message(), cases[i].message));
			assert_null(schedule.alphas_cumprod);
		}
		qd_schedule_release(&schedule);
		qd_model_release(&model);
	}
	remove(scratch_path("scheduler/scheduler_config.json"));
	free(names);
}

/* ---- what is refused ---- */

static void refuses(const char *path, enum qd_status status, const char *message)
{
	struct qd_unet_config config;
	struct qd_weights weights;
	assert_int_equal(qd_checkpoint_open(&config, &weights, path), status);
	if (strstr(qd_message(), message) == NULL)
		fail_msg("says '%s', not '%s'", qd_message(), message);
	if (strstr(qd_message(), path) == NULL)
		fail_msg("'%s' does not name '%s'", qd_message(), path);
	assert_null(weights.tensors);
}

static void refuses_tensors_that_do_not_fit(void **state)
{
	const struct help_ldm net = help_ldm_of("sd15");
	struct help_names *names = help_ldm_names(&net);
	static const struct {
		struct help_edit edit;
		enum qd_status status;
		const char *message;
	} cases[] = {
		{ { .without = "out.0.bias" }, QD_EINPUT, "has no tensor 'model.diffusion_model.out.0.bias', needs one of [320]" },
		{ { .without = "out.2.weight" }, QD_EINPUT,
			"has no tensor 'model.diffusion_model.out.2.weight', needs it for a UNet" },
		{ { .without = "input_blocks.4.0.emb_layers.1.weight" }, QD_EINPUT,
			"has no tensor 'model.diffusion_model.input_blocks.4.0.emb_layers.1.weight', needs one of [640,1280]" },
		{ { .reshaped = "middle_block.2.out_layers.3.weight", .shape = { 4, { 1280, 1280, 1, 1 } } }, QD_EINPUT,
			"tensor 'model.diffusion_model.middle_block.2.out_layers.3.weight' is [1280,1280,1,1], needs "
			"[1280,1280,3,3]" },
		{ { .retyped = "time_embed.2.weight" }, QD_EUNSUPPORTED,
			"tensor 'model.diffusion_model.time_embed.2.weight' is I16, needs F32, F16, BF16 or F64" },
		{ { .with = "model.diffusion_model.label_emb.weight", .shape = { 2, { 1000, 1280 } } }, QD_EUNSUPPORTED,
			"tensor 'model.diffusion_model.label_emb.weight' has no place in the UNet that the others make" },
		{ { .with = "model.diffusion_model.input_blocks.1.1.transformer_blocks.1.norm2.weight", .shape = { 1, { 320 } } },
			QD_EUNSUPPORTED, "input_blocks.1.1.transformer_blocks.1.norm2.weight' has no place in the UNet" },
		{ { .with = "model.diffusion_model.label_emb.0.0.weight", .shape = { 2, { 1280, 2048 } } }, QD_EUNSUPPORTED,
			"tensor 'model.diffusion_model.label_emb.0.0.weight' takes 2048 features, needs 2816 (SDXL) or 2560 (its "
			"refiner): conditioning of another kind" },
	};
	(void)state;
	for (size_t i = 0; i < QD_COUNT(cases); i++)
		refuses(help_ldm_hole("misfit.safetensors", names, prefix, &cases[i].edit), cases[i].status, cases[i].message);
	free(names);
}

/* A matrix serves as a 1x1 kernel, as it does in folders. */
static void takes_matrices_for_small_kernels(void **state)
{
	const struct help_ldm net = help_ldm_of("sd15");
	const struct help_edit edit = { .reshaped = "output_blocks.3.0.skip_connection.weight", .shape = { 2, { 1280, 2560 } } };
	struct help_names *names = help_ldm_names(&net);
	struct qd_unet_config config;
	struct qd_weights weights;
	(void)state;
	OK(qd_checkpoint_open(&config, &weights, help_ldm_hole("matrix.safetensors", names, prefix, &edit)));
	const struct qd_tensor *tensor = qd_weights_find(&weights, "up_blocks.1.resnets.0.conv_shortcut.weight");
	assert_non_null(tensor);
	assert_int_equal(tensor->shape.rank, 4);
	qd_weights_release(&weights);
	free(names);
}

static void refuses_networks_it_cannot_know(void **state)
{
	struct help_ldm net = help_ldm_of("tiny15");
	struct help_names *names = help_ldm_names(&net);
	(void)state;
	refuses(help_ldm_hole("tiny.safetensors", names, prefix, NULL), QD_EUNSUPPORTED,
		"a UNet of 32 channels and 48 context features is of no known family, whose heads its tensors do not tell: needs "
		"its configuration in '");
	assert_non_null(strstr(qd_message(), "/tiny.config.json'"));
	free(names);
	net = help_ldm_of("sd15");
	net.mid_depth = 2;
	help_ldm_depth(&net, 3, 1);
	names = help_ldm_names(&net);
	refuses(help_ldm_hole("mid.safetensors", names, prefix, NULL), QD_EUNSUPPORTED,
		"the middle has 2 transformer blocks and the last level 1, needs as many");
	free(names);
	net = help_ldm_of("sd15");
	net.levels = 8;
	for (int i = 0; i < 8; i++)
		net.mult[i] = 1;
	names = help_ldm_names(&net);
	const struct help_edit ninth = { .with = "model.diffusion_model.input_blocks.24.0.op.weight",
		.shape = { 4, { 320, 320, 3, 3 } } };
	refuses(help_ldm_hole("levels.safetensors", names, prefix, &ninth), QD_EUNSUPPORTED, "has a UNet of more than 8 levels");
	free(names);
}

/* The configuration beside the file is what counts, and the tensors must fit it. */
static void the_configuration_beside_must_fit(void **state)
{
	static const char text[] = "{\"cross_attention_dim\": 768, \"layers_per_block\": 1}";
	const struct help_ldm net = help_ldm_of("sd15");
	struct help_names *names = help_ldm_names(&net);
	const char *path = help_ldm_hole("beside.safetensors", names, prefix, NULL);
	(void)state;
	scratch_file("beside.config.json", text, strlen(text));
	refuses(path, QD_EINPUT, "has no tensor 'model.diffusion_model.input_blocks.2.0.op.weight', needs one of [320,320,3,3]");
	free(names);
}

static void refuses_other_files(void **state)
{
	static const float zero[4];
	static const struct {
		const char *tensor[2];
		const char *message;
	} cases[] = {
		{ { "conv_in.weight", "time_embedding.linear_1.weight" },
			"holds a UNet under diffusers' names (tensor 'conv_in.weight'), needs the folder with its config.json" },
		{ { "lora_unet_mid_block_attentions_0_proj_in.lora_down.weight", "x" },
			"is an adapter (tensor 'lora_unet_mid_block_attentions_0_proj_in.lora_down.weight'), needs a model" },
		{ { "decoder.conv_in.weight", "encoder.conv_in.weight" },
			"has no UNet, needs tensors named 'model.diffusion_model....' (first tensor 'decoder.conv_in.weight')" },
		{ { "model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight",
			  "model.diffusion_model.x_embedder.proj.weight" },
			"has no tensor 'model.diffusion_model.input_blocks.0.0.weight', needs it for a UNet" },
	};
	(void)state;
	for (size_t i = 0; i < QD_COUNT(cases); i++) {
		const char *path = scratch_path("other.safetensors");
		const struct qd_tensor tensors[] = { qd_tensor_view(cases[i].tensor[0], QD_F32, QD_SHAPE(4), zero),
			qd_tensor_view(cases[i].tensor[1], QD_F32, QD_SHAPE(4), zero) };
		OK(qd_safetensors_write(path, tensors, 2, NULL, 0, true, NULL, NULL));
		refuses(path, QD_EINPUT, cases[i].message);
	}
	refuses(scratch_file("v1-5.ckpt", "PK", 2), QD_EUNSUPPORTED,
		"is a pickle, which can run code when read: convert it to safetensors");
	refuses(scratch_file("lfs.safetensors", "version https://git-lfs.github.com/spec/v1\n", 43), QD_EINPUT,
		"this is a Git-LFS pointer");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(infers_the_published_networks),
		cmocka_unit_test(takes_names_without_the_prefix),
		cmocka_unit_test(infers_depths_by_layer),
		cmocka_unit_test(equals_the_folder),
		cmocka_unit_test(tells_the_contents),
		cmocka_unit_test(markers_say_the_prediction),
		cmocka_unit_test(refuses_tensors_that_do_not_fit),
		cmocka_unit_test(takes_matrices_for_small_kernels),
		cmocka_unit_test(refuses_networks_it_cannot_know),
		cmocka_unit_test(the_configuration_beside_must_fit),
		cmocka_unit_test(refuses_other_files),
	};
	return cmocka_run_group_tests_name("checkpoint", tests, NULL, NULL);
}
