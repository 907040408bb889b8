/*
 * Whole networks: UNets of random weights, alone and with adapters, against plain loops, in every form of a model and under every
 * dialect of an adapter; the golden UNets against diffusers' own outputs; and variants of the network against each other.
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

#include "lib/math/math.h"
#include "tests/unit/adapter_help.h"
#include "tests/unit/component_help.h"
#include "tests/unit/ldm_help.h"
#include "tests/unit/plain_unet.h"
#include "tests/unit/scratch.h"

/* Float32 rounding of another order of summation is 4e-6 here; a wrong eps, scale or order moves the output by 0.01 and more. */
static const double tolerance = 2e-5;

static const struct {
	const char *model, *adapter, *inputs;
} cases[] = {
	{ "tiny15", NULL, "expected/tiny15.safetensors" },
	{ "tinyxl", NULL, "expected/tinyxl.safetensors" },
	{ "nano15", NULL, "onnx/nano15_8x8.safetensors" },
	{ "nano15", NULL, "onnx/nano15_12x10.safetensors" },
	{ "tiny15", "cloneofsimo.safetensors", "expected/tiny15+cloneofsimo.safetensors" },
	{ "tiny15", "diffusers.safetensors", "expected/tiny15+diffusers.safetensors" },
	{ "tiny15", "diffusers_down_up.safetensors", "expected/tiny15+diffusers_down_up.safetensors" },
	{ "tiny15", "diffusers_processor.safetensors", "expected/tiny15+diffusers_processor.safetensors" },
	{ "tiny15", "diffusers_saved.safetensors", "expected/tiny15+diffusers_saved.safetensors" },
	{ "tiny15", "kohya.safetensors", "expected/tiny15+kohya.safetensors" },
	{ "tiny15", "kohya_locon.safetensors", "expected/tiny15+kohya_locon.safetensors" },
	{ "tiny15", "peft", "expected/tiny15+peft.safetensors" },
	{ "tiny15", "peft_saved", "expected/tiny15+peft_saved.safetensors" },
	{ "tinyxl", "diffusers_xl.safetensors", "expected/tinyxl+diffusers_xl.safetensors" },
};

/* A net with one adapter (NULL: none), run on the tensors of `inputs`; `out` is the output, the caller's to release. */
static void run(const struct qd_model *model, const struct qd_adapter *adapter, const struct qd_slots *slots,
	const struct qd_safetensors *inputs, struct qd_tensor *out)
{
	const struct qd_shape *sample = &qd_safetensors_find(inputs, "sample")->shape;
	const struct qd_shape *text = &qd_safetensors_find(inputs, "encoder_hidden_states")->shape;
	const struct qd_sizes sizes = { sample->dim[0], sample->dim[2], sample->dim[3], text->dim[1] };
	struct qd_net net;
	struct qd_runner runner;
	OK(qd_net_build(&net, model, &sizes, slots));
	OK(qd_runner_open(&runner, &net.graph, NULL));
	for (size_t i = 0; i < net.graph.n_inputs; i++) {
		const char *name = net.graph.values[net.graph.inputs[i]].name;
		const struct qd_tensor *tensor = qd_safetensors_find(inputs, name);
		if (tensor != NULL)
			OK(qd_runner_feed(&runner, tensor));
	}
	OK(qd_runner_feed_adapter(&runner, &net.slots, adapter));
	OK(qd_runner_run(&runner));
	OK(qd_tensor_new(out, "out", QD_F32, &net.graph.values[net.graph.outputs[0]].shape));
	OK(qd_runner_read(&runner, "out", out->bytes / sizeof(float), out->data));
	qd_runner_release(&runner);
	qd_net_release(&net);
}

static double largest_difference(const struct qd_tensor *a, const struct qd_tensor *b)
{
	double largest = 0;
	assert_true(qd_shape_equal(&a->shape, &b->shape));
	for (int64_t i = 0, n = qd_shape_elements(&a->shape); i < n; i++) {
		float x, y;
		memcpy(&x, (const char *)a->data + 4 * i, 4);
		memcpy(&y, (const char *)b->data + 4 * i, 4);
		assert_true(isfinite(x));
		largest = fmax(largest, fabs((double)x - (double)y));
	}
	return largest;
}

/* Modules of a model, from the graph for its smallest sizes. */
static void modules_of(const struct qd_model *model, struct qd_graph *g, struct qd_modules *modules)
{
	const struct qd_sizes sizes = { 1, 8, 8, 1 };
	OK(qd_unet_graph(g, &model->config, &model->weights, &sizes));
	OK(qd_modules_of(modules, g));
}

static void check_case(const char *folder, const char *file, const char *inputs_path)
{
	struct qd_model model;
	struct qd_graph g;
	struct qd_modules modules;
	struct qd_adapter adapter = { 0 };
	const struct qd_adapter *list[] = { &adapter };
	struct qd_slots slots;
	struct qd_safetensors inputs;
	struct qd_tensor out;
	OK(qd_model_open(&model, folder));
	OK(qd_safetensors_open(&inputs, inputs_path));
	modules_of(&model, &g, &modules);
	if (file != NULL)
		OK(qd_adapter_open(&adapter, "adapter", file, 1, &modules));
	OK(qd_slots_choose(&slots, &modules, list, file != NULL ? 1 : 0, NULL, 0));
	run(&model, file != NULL ? &adapter : NULL, &slots, &inputs, &out);
	double difference = largest_difference(&out, qd_safetensors_find(&inputs, "out"));
	print_message("# %s: %.3g\n", inputs_path, difference);
	assert_true(difference <= tolerance);
	qd_tensor_release(&out);
	qd_slots_release(&slots);
	qd_adapter_release(&adapter);
	qd_modules_release(&modules);
	qd_graph_release(&g);
	qd_safetensors_release(&inputs);
	qd_model_release(&model);
}

static void outputs_equal_diffusers(void **state)
{
	(void)state;
	if (golden_path("tiny15") == NULL) {
		print_message("# golden data is not there\n");
		skip();
	}
	for (size_t i = 0; i < QD_COUNT(cases); i++) {
		char name[256];
		snprintf(name, sizeof(name), "adapters/%s", cases[i].adapter != NULL ? cases[i].adapter : "");
		check_case(golden_path(cases[i].model), cases[i].adapter != NULL ? golden_path(name) : NULL,
			golden_path(cases[i].inputs));
	}
	assert_int_equal(qt_live(), 0);
}

/* The golden folders as single files: the same outputs. */
static void single_files_do_too(void **state)
{
	static const char *const nets[] = { "tiny15", "tinyxl" };
	(void)state;
	if (golden_path("tiny15") == NULL) {
		print_message("# golden data is not there\n");
		skip();
	}
	for (size_t i = 0; i < QD_COUNT(nets); i++) {
		const struct help_ldm net = help_ldm_of(nets[i]);
		struct help_names *names = help_ldm_names(&net);
		struct qd_model model;
		char inputs[64];
		OK(qd_model_open(&model, golden_path(nets[i])));
		const char *path = help_ldm_write(nets[i], &model, names, true);
		snprintf(inputs, sizeof(inputs), "expected/%s.safetensors", nets[i]);
		check_case(path, NULL, golden_path(inputs));
		snprintf(inputs, sizeof(inputs), "expected/%s+%s.safetensors", nets[i], i ? "diffusers_xl" : "kohya_locon");
		check_case(path, golden_path(i ? "adapters/diffusers_xl.safetensors" : "adapters/kohya_locon.safetensors"),
			golden_path(inputs));
		qd_model_release(&model);
		free(names);
	}
	assert_int_equal(qt_live(), 0);
}

/* ---- models of random weights ---- */

static const struct drawn {
	const char *name; /* of the golden model of this shape; every part of it is there, in fewer channels */
	const char *config;
} drawn[] = {
	{ "like15", "{\"_class_name\": \"UNet2DConditionModel\", \"block_out_channels\": [8, 16], \"layers_per_block\": 2, "
		    "\"norm_num_groups\": 4,"
		    " \"cross_attention_dim\": 10, \"attention_head_dim\": 2, \"down_block_types\": [\"CrossAttnDownBlock2D\", "
		    "\"DownBlock2D\"],"
		    " \"up_block_types\": [\"UpBlock2D\", \"CrossAttnUpBlock2D\"]}" },
	{ "likexl",
		"{\"_class_name\": \"UNet2DConditionModel\", \"block_out_channels\": [8, 16, 16], \"layers_per_block\": 1, "
		"\"norm_num_groups\": "
		"4, \"cross_attention_dim\": 10, \"attention_head_dim\": [1, 2, 4], \"transformer_layers_per_block\": [1, 2, 3],"
		" \"down_block_types\": [\"DownBlock2D\", \"CrossAttnDownBlock2D\", \"CrossAttnDownBlock2D\"],"
		" \"up_block_types\": [\"CrossAttnUpBlock2D\", \"CrossAttnUpBlock2D\", \"UpBlock2D\"], \"use_linear_projection\": "
		"true,"
		" \"addition_embed_type\": \"text_time\", \"addition_time_embed_dim\": 6,"
		" \"projection_class_embeddings_input_dim\": 43}" },
};

/* Two samples of odd sizes, with the inputs that either model takes, in a file; the pooled text has 43 - 6 * 6 features. */
enum { BATCH = 2, HEIGHT = 6, WIDTH = 5, LENGTH = 3, FEATURES = 10, POOLED = 7, PLANE = HEIGHT * WIDTH };

static void drawn_inputs(struct qd_safetensors *inputs)
{
	static const float sizes[] = { 64, 48, 0, 8, 64, 64 };
	struct qd_tensor t[5];
	struct qd_random random;
	qd_random_init(&random, test_seed(), 3);
	OK(qd_tensor_new(&t[0], "sample", QD_F32, &QD_SHAPE(BATCH, 4, HEIGHT, WIDTH)));
	OK(qd_tensor_new(&t[1], "encoder_hidden_states", QD_F32, &QD_SHAPE(BATCH, LENGTH, FEATURES)));
	OK(qd_tensor_new(&t[2], "text_embeds", QD_F32, &QD_SHAPE(BATCH, POOLED)));
	OK(qd_tensor_new(&t[3], "time_ids", QD_F32, &QD_SHAPE(BATCH, 6)));
	OK(qd_tensor_new(&t[4], "timestep", QD_F32, &QD_SHAPE(BATCH)));
	for (int i = 0; i < 3; i++)
		for (int64_t k = 0; k < qd_shape_elements(&t[i].shape); k++)
			((float *)t[i].data)[k] = (float)qd_random_normal(&random);
	for (int k = 0; k < BATCH * 6; k++)
		((float *)t[3].data)[k] = sizes[k % 6] + (float)(k / 6);
	for (int k = 0; k < BATCH; k++)
		((float *)t[4].data)[k] = (float)qd_random_below(&random, 1000);
	OK(qd_safetensors_write(scratch_path("drawn.safetensors"), t, 5, NULL, 0, true, NULL, NULL));
	for (int i = 0; i < 5; i++)
		qd_tensor_release(&t[i]);
	OK(qd_safetensors_open(inputs, scratch_path("drawn.safetensors")));
}

static const float *input_of(const struct qd_safetensors *inputs, const char *name, int sample)
{
	const struct qd_tensor *t = qd_safetensors_find(inputs, name);
	return (const float *)t->data + qd_shape_elements(&t->shape) / BATCH * sample;
}

/*
 * Random values, of which only norms and the last layer are of ordinary size: what is normalized then has variances near the norms'
 * eps, so that a wrong one shows.
 */
static void quiet_values(const char *name, const struct qd_shape *shape, float *out)
{
	component_golden_values(name, shape, out);
	if (strstr(name, "norm") == NULL && !qd_starts_with(name, "conv_out"))
		for (int64_t i = 0; i < qd_shape_elements(shape); i++)
			out[i] *= 0.05F;
}

static void open_drawn(struct qd_model *model, const struct drawn *d)
{
	OK(qd_model_open(model, component_folder(d->name, d->config, quiet_values, NULL)));
}

/* A random adapter for every layer, convolutions and embeddings too. */
static void adapter_for_all(struct qd_adapter *adapter, const struct qd_modules *modules)
{
	const struct qd_module **each = calloc(modules->n, sizeof(*each));
	struct qd_random random;
	for (size_t i = 0; i < modules->n; i++)
		each[i] = &modules->items[i];
	OK(qd_adapter_new(adapter, "drawn", each, modules->n, 3, 0.7F));
	qd_random_init(&random, test_seed(), 4);
	for (size_t i = 0; i < adapter->n; i++) {
		struct qd_lora *l = &adapter->loras[i];
		int64_t in = l->in * l->kh * l->kw;
		for (int64_t k = 0; k < l->rank * in; k++)
			l->down[k] = (float)(qd_random_normal(&random) / sqrt((double)in));
		for (int64_t k = 0; k < l->out * l->rank; k++)
			l->up[k] = (float)(qd_random_normal(&random) / 2);
	}
	free(each);
}

/* The largest difference of a model's output from the plain loops'. */
static double from_plain(const struct qd_model *model, const struct qd_adapter *adapter, const struct qd_safetensors *inputs)
{
	const struct qd_adapter *list[] = { adapter };
	struct qd_graph g;
	struct qd_modules modules;
	struct qd_slots slots;
	struct qd_tensor out;
	double largest = 0;
	modules_of(model, &g, &modules);
	OK(qd_slots_choose(&slots, &modules, list, adapter != NULL ? 1 : 0, NULL, 0));
	run(model, adapter, &slots, inputs, &out);
	for (int i = 0; i < BATCH; i++) {
		const struct plain_unet_inputs in = { .height = HEIGHT,
			.width = WIDTH,
			.tokens = LENGTH,
			.sample = input_of(inputs, "sample", i),
			.timestep = *input_of(inputs, "timestep", i),
			.context = input_of(inputs, "encoder_hidden_states", i),
			.text_embeds = input_of(inputs, "text_embeds", i),
			.time_ids = input_of(inputs, "time_ids", i) };
		struct plain_image want = plain_unet(model, adapter, &in);
		for (int k = 0; k < 4 * PLANE; k++)
			largest = fmax(largest, fabs((double)((float *)out.data)[i * 4 * PLANE + k] - want.x[k]));
		free(want.x);
	}
	qd_tensor_release(&out);
	qd_slots_release(&slots);
	qd_modules_release(&modules);
	qd_graph_release(&g);
	return largest;
}

/* Float32's rounding is 1e-6 here; a wrong eps, scale, order or number of heads moves one of the two outputs by 1e-4 and more. */
static void outputs_equal_plain_loops(void **state)
{
	struct qd_safetensors inputs;
	(void)state;
	drawn_inputs(&inputs);
	for (size_t i = 0; i < QD_COUNT(drawn); i++) {
		struct qd_model model;
		struct qd_graph g;
		struct qd_modules modules;
		struct qd_adapter adapter;
		open_drawn(&model, &drawn[i]);
		modules_of(&model, &g, &modules);
		adapter_for_all(&adapter, &modules);
		double alone = from_plain(&model, NULL, &inputs), adapted = from_plain(&model, &adapter, &inputs);
		print_message("# %s: %.3g, with an adapter %.3g\n", drawn[i].name, alone, adapted);
		assert_true(alone <= tolerance && adapted <= tolerance);
		qd_adapter_release(&adapter);
		qd_modules_release(&modules);
		qd_graph_release(&g);
		qd_model_release(&model);
	}
	qd_safetensors_release(&inputs);
	assert_int_equal(qt_live(), 0);
}

/* What a path opens as, run with an adapter for every layer. */
static void run_path(const char *path, const struct qd_safetensors *inputs, struct qd_tensor *out)
{
	struct qd_model model;
	struct qd_graph g;
	struct qd_modules modules;
	struct qd_adapter adapter;
	const struct qd_adapter *list[] = { &adapter };
	struct qd_slots slots;
	const struct qd_sizes sizes = { BATCH, HEIGHT, WIDTH, LENGTH };
	OK(qd_model_open(&model, path));
	OK(qd_model_graph(&g, &model, &sizes));
	OK(qd_modules_of(&modules, &g));
	adapter_for_all(&adapter, &modules);
	OK(qd_slots_choose(&slots, &modules, list, 1, NULL, 0));
	run(&model, &adapter, &slots, inputs, out);
	qd_slots_release(&slots);
	qd_adapter_release(&adapter);
	qd_modules_release(&modules);
	qd_graph_release(&g);
	qd_model_release(&model);
}

static void write_checkpoint(const struct qd_model *model, bool xl, const char *file)
{
	static const int depths[2][3] = { { 1, 0 }, { 0, 2, 3 } };
	struct help_ldm net = { .in = 4,
		.out = 4,
		.channels = 8,
		.levels = xl ? 3 : 2,
		.mult = { 1, 2, 2 },
		.layers = xl ? 1 : 2,
		.mid_depth = xl ? 3 : 1,
		.context = FEATURES,
		.added = xl ? 43 : 0,
		.linear = xl };
	struct help_names *names;
	for (int level = 0; level < net.levels; level++)
		help_ldm_depth(&net, level, depths[xl][level]);
	names = help_ldm_names(&net);
	help_ldm_write(file, model, names, true);
	free(names);
}

/* One model as a folder, as a single file of the original names and as an ONNX file: the same output, bit for bit. */
static void every_form_gives_the_same(void **state)
{
	static const char *const others[] = { "drawn_checkpoint.safetensors", "drawn.onnx" };
	static const struct qd_onnx_write_options options = { 0 };
	const struct qd_sizes sizes = { BATCH, HEIGHT, WIDTH, LENGTH };
	struct qd_safetensors inputs;
	(void)state;
	drawn_inputs(&inputs);
	for (size_t i = 0; i < QD_COUNT(drawn); i++) {
		struct qd_model model;
		struct qd_tensor folder, other;
		struct qd_graph g;
		open_drawn(&model, &drawn[i]);
		write_checkpoint(&model, i == 1, others[0]);
		OK(qd_model_graph(&g, &model, &sizes));
		remove(scratch_path(others[1]));
		OK(qd_onnx_write(&g, scratch_path(others[1]), &options, NULL));
		qd_graph_release(&g);
		run_path(scratch_path(drawn[i].name), &inputs, &folder);
		for (size_t k = 0; k < QD_COUNT(others); k++) {
			run_path(scratch_path(others[k]), &inputs, &other);
			if (largest_difference(&folder, &other) != 0)
				fail_msg("%s of %s gives another output", others[k], drawn[i].name);
			qd_tensor_release(&other);
		}
		qd_tensor_release(&folder);
		qd_model_release(&model);
	}
	qd_safetensors_release(&inputs);
	assert_int_equal(qt_live(), 0);
}

/* ---- variants, on a random model: `config` differs from the plain one in one field ---- */

#define PLAIN                                                                                                                      \
	"\"block_out_channels\": [32, 64], \"layers_per_block\": 1, \"cross_attention_dim\": 24, \"attention_head_dim\": 4,"       \
	" \"down_block_types\": [\"CrossAttnDownBlock2D\", \"DownBlock2D\"],"                                                      \
	" \"up_block_types\": [\"UpBlock2D\", \"CrossAttnUpBlock2D\"]"

/* The configuration alone changes; the weights stay those of the plain model. */
static void reconfigure(struct qd_model *model, const char *text)
{
	json_t *json = NULL;
	OK(qd_json_parse("text", text, strlen(text), &json));
	OK(qd_unet_config_parse(&model->config, "text", json));
	json_decref(json);
}

static void open_plain(struct qd_model *model)
{
	struct qd_unet_config *config = &model->config;
	*model = (struct qd_model){ 0 };
	reconfigure(model, "{" PLAIN "}");
	OK(qd_unet_init(config, 3, QD_F32, scratch_path("diffusion_pytorch_model.safetensors"), true));
	OK(qd_weights_open(&model->weights, scratch_dir(), "diffusion_pytorch_model"));
}

/* Inputs of one sample; `scale` and `shift` applied to the latents, the context filled with `context`. */
static void make_inputs(struct qd_safetensors *inputs, int64_t height, int64_t width, float scale, float shift)
{
	struct qd_tensor tensors[3] = { { 0 } };
	struct qd_random random;
	qd_random_init(&random, 9, 0);
	OK(qd_tensor_new(&tensors[0], "sample", QD_F32, &QD_SHAPE(1, 4, height, width)));
	OK(qd_tensor_new(&tensors[1], "timestep", QD_F32, &QD_SHAPE(1)));
	OK(qd_tensor_new(&tensors[2], "encoder_hidden_states", QD_F32, &QD_SHAPE(1, 5, 24)));
	for (int64_t i = 0; i < 4 * height * width; i++)
		((float *)tensors[0].data)[i] = (float)qd_random_normal(&random) * scale + shift;
	((float *)tensors[1].data)[0] = 321;
	for (int64_t i = 0; i < 5 * 24; i++)
		((float *)tensors[2].data)[i] = (float)qd_random_normal(&random);
	OK(qd_safetensors_write(scratch_path("inputs.safetensors"), tensors, 3, NULL, 0, true, NULL, NULL));
	for (int i = 0; i < 3; i++)
		qd_tensor_release(&tensors[i]);
	OK(qd_safetensors_open(inputs, scratch_path("inputs.safetensors")));
}

static void run_on(const struct qd_model *model, int64_t height, int64_t width, float scale, float shift, struct qd_tensor *out)
{
	const struct qd_slots none = { 0 };
	struct qd_safetensors inputs;
	make_inputs(&inputs, height, width, scale, shift);
	run(model, NULL, &none, &inputs, out);
	qd_safetensors_release(&inputs);
}

/*
 * The model's weights in a folder of their own, tensor i as dtypes[i % n]. Values are rounded to bfloat16 and dropped below 2^-12:
 * then all types hold them.
 */
static void write_as(const struct qd_model *model, const enum qd_dtype *dtypes, size_t n, const char *folder)
{
	struct qd_tensor *tensors = calloc(model->weights.n, sizeof(*tensors));
	char file[64];
	for (size_t i = 0; i < model->weights.n; i++) {
		const struct qd_tensor *from = model->weights.tensors[i];
		struct qd_tensor rounded;
		size_t elements = (size_t)qd_shape_elements(&from->shape);
		float *x = calloc(elements, sizeof(*x));
		OK(qd_tensor_new(&tensors[i], from->name, dtypes[i % n], &from->shape));
		OK(qd_tensor_new(&rounded, NULL, QD_BF16, &from->shape));
		OK(qd_tensor_to_f32(from, x));
		OK(qd_tensor_from_f32(&rounded, x));
		OK(qd_tensor_to_f32(&rounded, x));
		qd_tensor_release(&rounded);
		for (size_t k = 0; k < elements; k++) {
			x[k] = fabsf(x[k]) < 0x1p-12F ? 0 : x[k];
			if (dtypes[i % n] == QD_F64)
				((double *)tensors[i].data)[k] = (double)x[k];
		}
		if (dtypes[i % n] != QD_F64)
			OK(qd_tensor_from_f32(&tensors[i], x));
		free(x);
	}
	mkdir(scratch_path(folder), 0777);
	snprintf(file, sizeof(file), "%s/diffusion_pytorch_model.safetensors", folder);
	OK(qd_safetensors_write(scratch_path(file), tensors, model->weights.n, NULL, 0, true, NULL, NULL));
	for (size_t i = 0; i < model->weights.n; i++)
		qd_tensor_release(&tensors[i]);
	free(tensors);
}

/* Every tensor of its own type gives what float32 gives. */
static void precisions_mix(void **state)
{
	static const enum qd_dtype mixed[] = { QD_F32, QD_F16, QD_BF16, QD_F64 }, plain[] = { QD_F32 };
	struct qd_model model;
	struct qd_tensor out[2];
	(void)state;
	open_plain(&model);
	write_as(&model, mixed, QD_COUNT(mixed), "mixed");
	write_as(&model, plain, 1, "plain");
	for (int i = 0; i < 2; i++) {
		qd_weights_release(&model.weights);
		OK(qd_weights_open(&model.weights, scratch_path(i ? "mixed" : "plain"), "diffusion_pytorch_model"));
		run_on(&model, 8, 8, 1, 0, &out[i]);
	}
	assert_true(largest_difference(&out[0], &out[1]) == 0);
	qd_tensor_release(&out[0]);
	qd_tensor_release(&out[1]);
	qd_model_release(&model);
	assert_int_equal(qt_live(), 0);
}

/* center_input_sample feeds 2x - 1. */
static void centering_is_an_affine_map_of_the_sample(void **state)
{
	struct qd_model model;
	struct qd_tensor plain, centered;
	(void)state;
	open_plain(&model);
	run_on(&model, 8, 8, 2, -1, &plain);
	reconfigure(&model, "{" PLAIN ", \"center_input_sample\": true}");
	run_on(&model, 8, 8, 1, 0, &centered);
	assert_true(largest_difference(&plain, &centered) < tolerance);
	qd_tensor_release(&plain);
	qd_tensor_release(&centered);
	qd_model_release(&model);
}

/* A linear projection is a 1x1 convolution; a matrix and such a kernel are the same bytes. */
static void linear_projection_is_a_1x1_convolution(void **state)
{
	struct qd_model model;
	struct qd_tensor plain, linear;
	(void)state;
	open_plain(&model);
	run_on(&model, 7, 5, 1, 0, &plain);
	reconfigure(&model, "{" PLAIN ", \"use_linear_projection\": true}");
	run_on(&model, 7, 5, 1, 0, &linear);
	assert_true(largest_difference(&plain, &linear) < tolerance);
	qd_tensor_release(&plain);
	qd_tensor_release(&linear);
	qd_model_release(&model);
}

/* Fields that change the function do change the output, by far more than rounding, and leave it finite. */
static void other_fields_are_not_ignored(void **state)
{
	static const char *const fields[] = { "\"act_fn\": \"gelu\"", "\"act_fn\": \"mish\"", "\"act_fn\": \"relu\"",
		"\"freq_shift\": 1", "\"flip_sin_to_cos\": false", "\"mid_block_scale_factor\": 2", "\"norm_num_groups\": 16",
		"\"attention_head_dim\": 8", "\"downsample_padding\": 0", "\"mid_block_type\": null",
		"\"mid_block_type\": \"UNetMidBlock2D\"", "\"norm_eps\": 0.01" };
	struct qd_model model;
	struct qd_tensor plain, other;
	char text[1024];
	(void)state;
	open_plain(&model);
	run_on(&model, 8, 8, 1, 0, &plain);
	for (size_t i = 0; i < QD_COUNT(fields); i++) {
		/* attention_head_dim stands twice then: the parser refuses that, so the plain one is left out */
		bool heads = strstr(fields[i], "attention_head_dim") != NULL;
		snprintf(text, sizeof(text), "{%s, %s}", PLAIN, heads ? "\"sample_size\": 8" : fields[i]);
		reconfigure(&model, text);
		if (heads)
			model.config.heads[0] = model.config.heads[1] = 8;
		run_on(&model, 8, 8, 1, 0, &other);
		if (largest_difference(&other, &plain) < 100 * tolerance)
			fail_msg("%s changes nothing", fields[i]);
		qd_tensor_release(&other);
	}
	qd_tensor_release(&plain);
	qd_model_release(&model);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(outputs_equal_plain_loops),
		cmocka_unit_test(every_form_gives_the_same),
		cmocka_unit_test(outputs_equal_diffusers),
		cmocka_unit_test(single_files_do_too),
		cmocka_unit_test(precisions_mix),
		cmocka_unit_test(centering_is_an_affine_map_of_the_sample),
		cmocka_unit_test(linear_projection_is_a_1x1_convolution),
		cmocka_unit_test(other_fields_are_not_ignored),
	};
	return cmocka_run_group_tests_name("golden", tests, NULL, NULL);
}
