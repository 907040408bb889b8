/*
 * lib/model, ONNX files of UNets as models: a network that is written and opened again is the folder's, whatever its weights and
 * nodes are called; timesteps of every kind; sizes; what is refused. The golden files are PyTorch's own exports.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "lib/ir/rewrite.h"
#include "lib/model/internal.h"
#include "tests/unit/ir_help.h"
#include "tests/unit/scratch.h"

static const char small[] =
	"{\"block_out_channels\": [32, 64], \"layers_per_block\": 1, \"cross_attention_dim\": 24, \"attention_head_dim\": 4,"
	" \"down_block_types\": [\"CrossAttnDownBlock2D\", \"DownBlock2D\"],"
	" \"up_block_types\": [\"UpBlock2D\", \"CrossAttnUpBlock2D\"]}";
static const char large[] =
	"{\"block_out_channels\": [32, 64], \"layers_per_block\": 2, \"cross_attention_dim\": 24, \"attention_head_dim\": [2, 4],"
	" \"norm_num_groups\": 8, \"use_linear_projection\": true, \"transformer_layers_per_block\": [1, 2], \"freq_shift\": 1,"
	" \"flip_sin_to_cos\": false, \"in_channels\": 9, \"time_cond_proj_dim\": 8, \"norm_eps\": 1e-06,"
	" \"down_block_types\": [\"DownBlock2D\", \"CrossAttnDownBlock2D\"],"
	" \"up_block_types\": [\"CrossAttnUpBlock2D\", \"UpBlock2D\"], \"addition_embed_type\": \"text_time\","
	" \"addition_time_embed_dim\": 8, \"projection_class_embeddings_input_dim\": 64}";
static const struct qd_sizes sizes = { 2, 8, 4, 5 };

/* A folder of a drawn model; its path stays valid like scratch_path's. */
static const char *folder(const char *text)
{
	struct qd_unet_config config;
	json_t *json = NULL;
	OK(qd_json_parse("text", text, strlen(text), &json));
	OK(qd_unet_config_parse(&config, "text", json));
	mkdir(scratch_path("m"), 0777);
	scratch_file("m/config.json", text, strlen(text));
	OK(qd_unet_init(&config, 3, QD_F32, scratch_path("m/diffusion_pytorch_model.safetensors"), true));
	json_decref(json);
	return scratch_path("m");
}

static const char *written(const struct qd_graph *g)
{
	static const struct qd_onnx_write_options options = { 0 };
	const char *path = scratch_path("m.onnx");
	remove(path);
	OK(qd_onnx_write(g, path, &options, NULL));
	return path;
}

static void expect_same_model(const struct qd_model *a, const struct qd_model *b, const struct qd_sizes *at)
{
	char hashes[2][QD_HASH_TEXT], *texts[2];
	struct qd_graph graphs[2];
	const struct qd_model *models[] = { a, b };
	for (int i = 0; i < 2; i++) {
		OK(qd_model_hash(models[i], hashes[i]));
		OK(qd_model_graph(&graphs[i], models[i], at));
		OK(qd_graph_print(&graphs[i], &texts[i]));
	}
	assert_string_equal(texts[0], texts[1]);
	assert_string_equal(hashes[0], hashes[1]);
	for (size_t i = 0; i < graphs[0].n_values; i++) {
		const struct qd_tensor *x = &graphs[0].values[i].data, *y = &graphs[1].values[i].data;
		assert_int_equal(x->bytes, y->bytes);
		if (x->bytes > 0)
			assert_memory_equal(x->data, y->data, x->bytes);
	}
	for (int i = 0; i < 2; i++) {
		qd_graph_release(&graphs[i]);
		free(texts[i]);
	}
}

/* ---- opened again ---- */

/* `change` (may be NULL) changes names in the graph before it is written. */
static void opens_like_the_folder(const char *text, void (*change)(struct qd_graph *g))
{
	struct qd_model model, again;
	struct qd_graph g;
	OK(qd_model_open(&model, folder(text)));
	OK(qd_model_graph(&g, &model, &sizes));
	if (change != NULL)
		change(&g);
	OK(qd_model_open(&again, written(&g)));
	assert_int_equal(again.kind, QD_MODEL_ONNX);
	expect_same_model(&model, &again, &sizes);
	qd_model_release(&again);
	qd_graph_release(&g);
	qd_model_release(&model);
}

static void a_written_network_opens_as_its_folder(void **state)
{
	(void)state;
	opens_like_the_folder(small, NULL);
	opens_like_the_folder(large, NULL);
}

static bool is_parameter(const struct qd_value *v)
{
	return !v->dead && v->kind == QD_WEIGHT && (qd_ends_with(v->name, ".weight") || qd_ends_with(v->name, ".bias"));
}

/* As a module that wraps the network writes them. */
static void wrap(struct qd_graph *g)
{
	for (qd_id i = 0; i < g->n_values; i++)
		if (is_parameter(&g->values[i]))
			OK(qd_graph_rename(g, i, qd_arena_strf(&g->arena, "model.unet.%s", g->values[i].name)));
}

/* Weights under numbers; the path is in the node's name alone, "/unet/mid_block/resnets.0/conv1/Conv". */
static void number(struct qd_graph *g)
{
	for (size_t n = 0; n < g->n_order; n++) {
		struct qd_node *node = &g->nodes[g->order[n]];
		char *path = qd_arena_strf(&g->arena, "/unet/%s/%s", node->name, qd_op(node->op)->name);
		for (char *c = path; c != NULL && *c != '\0'; c++)
			if (*c == '.' && (c[1] < '0' || c[1] > '9'))
				*c = '/';
		node->name = path;
	}
	for (qd_id i = 0; i < g->n_values; i++)
		if (is_parameter(&g->values[i]))
			OK(qd_graph_rename(g, i, qd_arena_strf(&g->arena, "onnx::MatMul_%u", i)));
}

static void names_are_found_behind_prefixes_and_in_nodes(void **state)
{
	(void)state;
	opens_like_the_folder(small, wrap);
	opens_like_the_folder(large, number);
}

/* Exporters make one of equal weights: here every norm of 32 channels has one scale and one shift. */
static void share(struct qd_graph *g)
{
	qd_id scale = qd_graph_find(g, "conv_norm_out.weight"), shift = qd_graph_find(g, "conv_norm_out.bias");
	number(g);
	for (size_t n = 0; n < g->n_order; n++) {
		struct qd_node *node = &g->nodes[g->order[n]];
		bool norm = node->op == QD_OP_GROUP_NORM || node->op == QD_OP_LAYER_NORM;
		if (!norm || g->values[node->in[1]].shape.dim[0] != g->values[scale].shape.dim[0])
			continue;
		node->in[1] = scale;
		node->in[2] = shift;
	}
}

static void shared_weights_are_told_apart_by_nodes(void **state)
{
	(void)state;
	opens_like_the_folder(small, share);
}

/* ---- another network than the names say ---- */

/* The layers keep their paths, the graph its own values. */
static void another_network_keeps_its_own_graph(void **state)
{
	struct qd_model model, again;
	struct qd_graph g, own;
	struct qd_modules of_folder, of_file;
	(void)state;
	OK(qd_model_open(&model, folder(small)));
	OK(qd_model_graph(&g, &model, &sizes));
	qd_id first = qd_graph_find_node(&g, "mid_block.resnets.0.act1");
	qd_graph_change(&g, first, QD_OP_RELU, 1, &g.nodes[first].in[0], 0, NULL);
	OK(qd_graph_status(&g));
	OK(qd_model_open(&again, written(&g)));
	OK(qd_model_graph(&own, &again, &sizes));
	assert_int_equal(own.nodes[qd_graph_find_node(&own, "mid_block.resnets.0.act1")].op, QD_OP_RELU);
	assert_string_equal(own.values[own.outputs[0]].name, "out");
	OK(qd_modules_of(&of_folder, &g));
	OK(qd_modules_of(&of_file, &own));
	assert_int_equal(of_folder.n, of_file.n);
	for (size_t i = 0; i < of_folder.n; i++)
		assert_non_null(qd_modules_find(&of_file, of_folder.items[i].path));
	qd_modules_release(&of_folder);
	qd_modules_release(&of_file);
	qd_graph_release(&own);
	qd_graph_release(&g);
	qd_model_release(&again);
	qd_model_release(&model);
}

/* ---- sizes ---- */

static void other_sizes_than_the_files_are_refused(void **state)
{
	struct qd_model model, again;
	struct qd_graph g, other;
	struct qd_sizes wrong = sizes;
	(void)state;
	OK(qd_model_open(&model, folder(small)));
	OK(qd_model_graph(&g, &model, &sizes));
	OK(qd_model_open(&again, written(&g)));
	struct qd_sizes native = qd_model_native_sizes(&again), least = qd_model_least_sizes(&again);
	assert_memory_equal(&native, &sizes, sizeof(sizes));
	assert_memory_equal(&least, &sizes, sizeof(sizes));
	wrong.width = 8;
	assert_int_equal(qd_model_graph(&other, &again, &wrong), QD_EINPUT);
	assert_true(qd_ends_with(qd_message(), "m.onnx': input 'sample' was exported as [2,4,8,4], asked for is [2,4,8,8]"));
	wrong = sizes;
	wrong.tokens = 6;
	assert_int_equal(qd_model_graph(&other, &again, &wrong), QD_EINPUT);
	assert_true(qd_ends_with(qd_message(), "input 'encoder_hidden_states' was exported as [2,5,24], asked for is [2,6,24]"));
	qd_graph_release(&g);
	qd_model_release(&again);
	qd_model_release(&model);
}

/* ---- refusals ---- */

static void expect_refusal(const struct qd_graph *g, const char *message)
{
	struct qd_model model;
	assert_int_equal(qd_model_open(&model, written(g)), QD_EINPUT);
	if (!qd_ends_with(qd_message(), message))
		fail_msg("%s", qd_message());
}

static void graphs_that_are_no_unet_are_refused(void **state)
{
	static const struct {
		const char *text, *message;
	} cases[] = {
		{ "graph t\ninput %x f32[2]\n%y = Relu(%x)\noutput %y\n",
			"has no input 'sample', needs those of a UNet: sample, timestep, encoder_hidden_states" },
		{ "graph t\ninput %sample f32[2]\ninput %timestep f32[2]\ninput %encoder_hidden_states f32[2]\n"
		  "%y = Relu(%sample)\noutput %y\n",
			"input 'sample' has 1 dimensions, needs 4" },
		{ "graph t\ninput %sample f32[1,1,1,1]\ninput %timestep f32[1]\ninput %encoder_hidden_states f32[1,1,1]\n"
		  "%y = Relu(%sample)\noutput %y\n",
			"has no layers 'conv_in', 'down_blocks.0.resnets.0.conv1' and 'conv_out', needs those of a UNet" },
		{ "graph t\ninput %sample f32[1,1,1,1]\ninput %a.lora_down f32[1]\n%y = Relu(%sample)\noutput %y\n",
			"has LoRA inputs: it is an export, not a base model" },
		{ "graph t\ninput %sample f32[1,1,1,1]\ninput %timestep f32[1]\ninput %encoder_hidden_states f32[1,1,1]\n"
		  "weight %w f32[1,1,1,1] {1}\n%y = Conv(%sample, %w)\noutput %y\n",
			"layer 'y': neither its weight 'w' nor its name tells the module it belongs to, needs a path such as "
			"'mid_block.attentions.0.proj_in'" },
	};
	(void)state;
	for (size_t i = 0; i < QD_COUNT(cases); i++) {
		struct qd_graph g;
		ir_parse(&g, cases[i].text);
		expect_refusal(&g, cases[i].message);
		qd_graph_release(&g);
	}
}

/* ---- timesteps ---- */

static void every_timestep_becomes_one_per_sample(void **state)
{
	static const char *const cases[] = {
		"input %timestep f32[2]\n%t = Reshape(%timestep, %column)\n",
		"input %timestep i64[2]\n%c = Cast(%timestep) {to=1}\n%t = Reshape(%c, %column)\n",
		"input %timestep i64[]\n%r = Reshape(%timestep, %single)\n%e = Expand(%r, %two)\n%c = Cast(%e) {to=1}\n"
		"%t = Reshape(%c, %column)\n",
	};
	(void)state;
	for (size_t i = 0; i < QD_COUNT(cases); i++) {
		struct qd_graph g;
		char inputs[1024] = "", text[2048];
		const char *at = strchr(cases[i], '\n') + 1;
		snprintf(inputs, sizeof(inputs), "%.*s", (int)(at - cases[i]), cases[i]);
		snprintf(text, sizeof(text),
			"graph t\n%sweight %%column i64[2] {2, 1}\nweight %%two i64[1] {2}\nweight %%single i64[1] {1}\n"
			"weight %%freqs f32[1,2] {1, 0.5}\n%s%%y = Mul(%%t, %%freqs)\noutput %%y\n",
			inputs, at);
		ir_parse(&g, text);
		OK(qd_onnx_unet_ends(&g, 2));
		OK(qd_graph_verify(&g));
		assert_int_equal(g.n_order, 3); /* Reshape, Mul, Identity */
		assert_int_equal(g.n_inputs, 1);
		const struct qd_value *t = &g.values[g.inputs[0]];
		assert_string_equal(t->name, "timestep");
		assert_true(t->dtype == QD_F32 && t->shape.rank == 1 && t->shape.dim[0] == 2);
		assert_string_equal(g.values[g.outputs[0]].name, "out");
		qd_graph_release(&g);
	}
}

static void other_uses_of_the_timestep_are_refused(void **state)
{
	static const struct {
		const char *text, *message;
	} cases[] = {
		{ "graph t\ninput %timestep i64[2]\n%d = Add(%timestep, %timestep)\n%y = Cast(%d) {to=1}\noutput %y\n",
			"node 'd' computes with the timestep as I64, needs float" },
		{ "graph t\ninput %timestep f32[]\nweight %f f32[2] {1, 2}\n%y = Mul(%timestep, %f)\noutput %y\n",
			"node 'y' takes 1 timesteps, needs one for each of the 2 samples" },
	};
	(void)state;
	for (size_t i = 0; i < QD_COUNT(cases); i++) {
		struct qd_graph g;
		ir_parse(&g, cases[i].text);
		assert_int_equal(qd_onnx_unet_ends(&g, 2), QD_EUNSUPPORTED);
		assert_string_equal(qd_message(), cases[i].message);
		qd_graph_release(&g);
	}
}

/* ---- golden ---- */

static void golden_exports_open_as_their_folder(void **state)
{
	static const char *const files[] = { "onnx/nano15_legacy.onnx", "onnx/nano15_legacy_dynamic.onnx" };
	(void)state;
	if (golden_path("nano15") == NULL)
		skip();
	for (size_t i = 0; i < QD_COUNT(files); i++) {
		struct qd_model model, file;
		OK(qd_model_open(&model, golden_path("nano15")));
		OK(qd_model_open(&file, golden_path(files[i])));
		struct qd_sizes at = qd_model_least_sizes(&file);
		expect_same_model(&model, &file, &at);
		if (i == 1)
			expect_same_model(&model, &file, &(struct qd_sizes){ 3, 12, 10, 9 });
		qd_model_release(&file);
		qd_model_release(&model);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_written_network_opens_as_its_folder),
		cmocka_unit_test(names_are_found_behind_prefixes_and_in_nodes),
		cmocka_unit_test(shared_weights_are_told_apart_by_nodes),
		cmocka_unit_test(another_network_keeps_its_own_graph),
		cmocka_unit_test(other_sizes_than_the_files_are_refused),
		cmocka_unit_test(graphs_that_are_no_unet_are_refused),
		cmocka_unit_test(every_timestep_becomes_one_per_sample),
		cmocka_unit_test(other_uses_of_the_timestep_are_refused),
		cmocka_unit_test(golden_exports_open_as_their_folder),
	};
	return cmocka_run_group_tests_name("onnx_unet", tests, NULL, NULL);
}
