/*
 * lib/data, calibration data from images and captions: every stored tensor against the networks run one by one here, the timesteps'
 * strata, inpainting conditions, and trajectories, whose every step must follow from the one before.
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
#include <unistd.h>

#include "lib/data/data.h"
#include "lib/math/math.h"
#include "lib/sampler/sampler.h"
#include "lib/tokenizer/tokenizer.h"
#include "tests/unit/component_help.h"
#include "tests/unit/scratch.h"

/* Latents [4,4,4] of images [3,16,16]; captions of 8 ids, 12 features. */
enum { IMAGES = 3, SIDE = 16, FACTOR = 4, Z = 4, SMALL = SIDE / FACTOR, PLANE = SMALL * SMALL, TOKENS = 8, HIDDEN = 12 };

static const char vae_config[] =
	"{\"_class_name\": \"AutoencoderKL\", \"in_channels\": 3, \"out_channels\": 3, \"latent_channels\": 4, \"scaling_factor\": "
	"0.5, "
	"\"block_out_channels\": [8, 8, 8], \"layers_per_block\": 1, \"norm_num_groups\": 4, \"down_block_types\": "
	"[\"DownEncoderBlock2D\", \"DownEncoderBlock2D\", \"DownEncoderBlock2D\"], \"up_block_types\": [\"UpDecoderBlock2D\", "
	"\"UpDecoderBlock2D\", \"UpDecoderBlock2D\"]}";
static const char text_config[] =
	"{\"architectures\": [\"CLIPTextModel\"], \"hidden_size\": 12, \"intermediate_size\": 24, \"num_hidden_layers\": 2, "
	"\"num_attention_heads\": 2, \"max_position_embeddings\": 8, \"vocab_size\": 514, \"eos_token_id\": 2}";

/* ---- a pipeline ---- */

static void put(const char *name, const char *text)
{
	scratch_file(name, text, strlen(text));
}

/* The 512 byte symbols and the two special strings: every byte is an id of its own. */
static void write_tokenizer(const char *root)
{
	json_t *object = json_object();
	char path[300], *text;
	int id = 0;

	for (int end = 0; end < 2; end++)
		for (int b = 0, n = 0; b < 256; b++, id++) {
			bool itself = (b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
			int point = itself ? b : 256 + n++;
			char symbol[16];
			if (point < 0x80)
				snprintf(symbol, sizeof(symbol), "%c%s", point, end ? "</w>" : "");
			else
				snprintf(symbol, sizeof(symbol), "%c%c%s", 0xc0 | point >> 6, 0x80 | (point & 0x3f),
					end ? "</w>" : "");
			json_object_set_new(object, symbol, json_integer(id));
		}
	json_object_set_new(object, "<|startoftext|>", json_integer(id++));
	json_object_set_new(object, "<|endoftext|>", json_integer(id++));
	text = json_dumps(object, 0);
	json_decref(object);
	snprintf(path, sizeof(path), "%s/tokenizer", root);
	mkdir(scratch_path(path), 0700);
	snprintf(path, sizeof(path), "%s/tokenizer/vocab.json", root);
	put(path, text);
	free(text);
	snprintf(path, sizeof(path), "%s/tokenizer/merges.txt", root);
	put(path, "#version: 0.2\n");
	snprintf(path, sizeof(path), "%s/tokenizer/tokenizer_config.json", root);
	put(path, "{\"model_max_length\": 8}");
}

/* A whole pipeline in "<scratch>/<name>" whose UNet takes `channels`. */
static void make_pipeline(const char *name, int channels)
{
	char path[300], text[700];
	struct qd_unet_config config;

	mkdir(scratch_path(name), 0700);
	snprintf(text, sizeof(text),
		"{\"in_channels\": %d, \"out_channels\": 4, \"sample_size\": 4, \"block_out_channels\": [8, 16], "
		"\"layers_per_block\": 1, "
		"\"down_block_types\": [\"DownBlock2D\", \"CrossAttnDownBlock2D\"], \"up_block_types\": [\"CrossAttnUpBlock2D\", "
		"\"UpBlock2D\"], \"cross_attention_dim\": 12, \"attention_head_dim\": 2, \"norm_num_groups\": 4, \"_class_name\": "
		"\"UNet2DConditionModel\"}",
		channels);
	snprintf(path, sizeof(path), "%s/unet", name);
	mkdir(scratch_path(path), 0700);
	snprintf(path, sizeof(path), "%s/unet/config.json", name);
	put(path, text);
	OK(qd_unet_config_read(&config, scratch_path(path)));
	snprintf(path, sizeof(path), "%s/unet/diffusion_pytorch_model.safetensors", name);
	OK(qd_unet_init(&config, 11, QD_F32, scratch_path(path), false));
	snprintf(path, sizeof(path), "%s/vae", name);
	component_folder(path, vae_config, component_golden_values, NULL);
	snprintf(path, sizeof(path), "%s/text_encoder", name);
	component_folder(path, text_config, component_golden_values, NULL);
	write_tokenizer(name);
}

/* The folder "images": three noisy pictures, masks of halves, captions, of which two are equal. */
static uint8_t pixels[IMAGES][SIDE * SIDE * 3];

static void make_images(void)
{
	struct qd_random random;

	qd_random_init(&random, test_seed(), 5);
	mkdir(scratch_path("images"), 0700);
	for (int i = 0; i < IMAGES; i++) {
		struct qd_image image = { SIDE, SIDE, pixels[i] };
		char name[32];
		for (int k = 0; k < SIDE * SIDE * 3; k++)
			pixels[i][k] = (uint8_t)qd_random_u64(&random);
		snprintf(name, sizeof(name), "images/%d.png", i);
		OK(qd_image_write(scratch_path(name), &image, true));
	}
	struct qd_image mask;
	OK(qd_image_new(&mask, SIDE, SIDE));
	for (int k = 0; k < SIDE * SIDE / 2 * 3; k++)
		mask.rgb[k] = 255; /* the upper half */
	OK(qd_image_write(scratch_path("images/mask.png"), &mask, true));
	qd_image_release(&mask);
	put("images/metadata.jsonl",
		"{\"file_name\": \"0.png\", \"text\": \"ab\", \"mask_file_name\": \"mask.png\"}\n"
		"{\"file_name\": \"1.png\", \"text\": \"a much longer caption\", \"mask_file_name\": \"mask.png\"}\n"
		"{\"file_name\": \"2.png\", \"text\": \"ab\", \"mask_file_name\": \"mask.png\"}\n");
}

static int prepare(void **state)
{
	(void)state;
	make_pipeline("plain", 4);
	make_pipeline("inpaint", 9);
	make_images();
	return 0;
}

/* ---- running ---- */

struct made {
	struct qd_model model;
	struct qd_graph g;
	struct qd_modules modules;
	struct qd_adapter adapters[2];
	const struct qd_adapter *list[2];
	size_t n;
	struct qd_prepare_result result;
	struct qd_safetensors file;
};

static void open_model(struct made *m, const char *root)
{
	const struct qd_sizes sizes = { 1, SMALL, SMALL, TOKENS };

	memset(m, 0, sizeof(*m));
	OK(qd_model_open(&m->model, scratch_path(root)));
	OK(qd_model_graph(&m->g, &m->model, &sizes));
	OK(qd_modules_of(&m->modules, &m->g));
}

static void close_model(struct made *m)
{
	qd_safetensors_release(&m->file);
	for (size_t i = 0; i < m->n; i++)
		qd_adapter_release(&m->adapters[i]);
	qd_modules_release(&m->modules);
	qd_graph_release(&m->g);
	qd_model_release(&m->model);
}

static struct qd_prepare_options options_for(const char *output)
{
	static char data[512], path[512];

	snprintf(data, sizeof(data), "%s", scratch_path("images"));
	snprintf(path, sizeof(path), "%s", scratch_path(output));
	return (struct qd_prepare_options){
		.data = data, .output = path, .text_column = "text", .guidance = 1, .dtype = QD_F32, .seed = 4, .force = true
	};
}

static void make(struct made *m, struct qd_prepare_options *options)
{
	struct qd_provenance provenance = { .program = "quad", .command = "calib" };

	options->provenance = &provenance;
	qd_safetensors_release(&m->file);
	OK(qd_prepare_data(&m->model, &m->modules, m->list, m->n, options, &m->result));
	qd_provenance_release(&provenance);
	OK(qd_safetensors_open(&m->file, options->output));
}

/* Sample i of a stored tensor. */
static const float *stored(const struct made *m, const char *name, int64_t i, int64_t row)
{
	const struct qd_tensor *t;

	OK(qd_safetensors_get(&m->file, name, &t));
	assert_int_equal(qd_shape_elements(&t->shape), t->shape.dim[0] * row);
	assert_true(i < t->shape.dim[0]);
	return (const float *)t->data + i * row;
}

static void expect_near(const float *found, const float *wanted, size_t n, double tolerance)
{
	for (size_t i = 0; i < n; i++)
		if (!(fabs((double)found[i] - (double)wanted[i]) <= tolerance))
			fail_msg("value %zu is %g instead of %g", i, (double)found[i], (double)wanted[i]);
}

/* A component of the pipeline run on one input. */
static void run_component(const char *root, const char *name, const struct qd_component_sizes *sizes, const struct qd_tensor *input,
	size_t n, float *out)
{
	struct qd_component component;
	struct qd_graph g;
	struct qd_runner runner;

	OK(qd_component_open(&component, scratch_path(root), name));
	qd_graph_init(&g, name);
	OK(qd_component_graph(&g, &component, sizes));
	OK(qd_runner_open(&runner, &g, NULL));
	OK(qd_runner_feed(&runner, input));
	OK(qd_runner_run(&runner));
	OK(qd_runner_read(&runner, g.values[g.outputs[0]].name, n, out));
	qd_runner_release(&runner);
	qd_graph_release(&g);
	qd_component_release(&component);
}

/* The mean latent of image i times `scale`, with rows above `black` set to 0 first. */
static void latent_of(int i, int black, float scale, float *out)
{
	static const struct qd_component_sizes sizes = { .part = QD_VAE_ENCODER, .batch = 1, .height = SIDE, .width = SIDE };
	float x[3 * SIDE * SIDE] = { 0 }, params[2 * Z * PLANE];
	struct qd_tensor input = qd_tensor_view("x", QD_F32, QD_SHAPE(1, 3, SIDE, SIDE), x);

	for (int c = 0; c < 3; c++)
		for (int k = 0; k < SIDE * SIDE; k++)
			x[c * SIDE * SIDE + k] = k < black * SIDE ? 0 : (float)pixels[i][3 * k + c] / 127.5f - 1;
	run_component("plain", "vae", &sizes, &input, 2 * Z * PLANE, params);
	for (int k = 0; k < Z * PLANE; k++)
		out[k] = params[k] * scale;
}

static void context_of(const char *caption, float *out)
{
	static const struct qd_component_sizes sizes = { .batch = 1, .tokens = TOKENS };
	struct qd_tokenizer *tokenizer;
	int32_t ids[TOKENS] = { 0 };
	struct qd_tensor input = qd_tensor_view("input_ids", QD_I32, QD_SHAPE(1, TOKENS), ids);

	OK(qd_tokenizer_open(&tokenizer, scratch_path("plain/tokenizer")));
	assert_int_equal(qd_tokenizer_length(tokenizer), TOKENS);
	OK(qd_tokenizer_encode(tokenizer, caption, strlen(caption), ids, NULL));
	qd_tokenizer_free(tokenizer);
	run_component("plain", "text_encoder", &sizes, &input, TOKENS * HIDDEN, out);
}

/* ---- noised latents ---- */

/* Tolerance: the same networks on the same inputs; only the executor's choices per shape may differ, 2e-5 as elsewhere. */
static void makes_noised_samples(void **state)
{
	static const char *const captions[IMAGES] = { "ab", "a much longer caption", "ab" };
	enum { N = 8 };
	struct qd_prepare_options o = options_for("noised.safetensors");
	struct qd_schedule schedule;
	struct made m;
	float wanted[Z * PLANE], context[TOKENS * HIDDEN];
	bool seen[N] = { false };

	(void)state;
	open_model(&m, "plain");
	o.mode = true;
	o.count = N;
	make(&m, &o);
	assert_true(m.result.samples == N && m.result.rows == IMAGES && m.result.prompts == 2 && m.result.height == SMALL);
	OK(qd_schedule_read(&schedule, scratch_path("plain"), ""));
	for (int i = 0; i < N; i++) {
		float t = *stored(&m, "timestep", i, 1);
		const float *latents = stored(&m, "latents", i, Z * PLANE), *noise = stored(&m, "noise", i, Z * PLANE);
		double a = schedule.alphas_cumprod[(int)t];
		assert_true(t == floorf(t) && t >= 0 && t <= 999 && !seen[(int)(t * N / 1000)]);
		seen[(int)(t * N / 1000)] = true;
		latent_of(i % IMAGES, 0, 0.5f, wanted);
		expect_near(latents, wanted, Z * PLANE, 2e-5);
		for (int k = 0; k < Z * PLANE; k++)
			wanted[k] = (float)(sqrt(a) * (double)latents[k] + sqrt(1 - a) * (double)noise[k]);
		expect_near(stored(&m, "sample", i, Z * PLANE), wanted, Z * PLANE, 0);
		context_of(captions[i % IMAGES], context);
		expect_near(stored(&m, "encoder_hidden_states", i, TOKENS * HIDDEN), context, TOKENS * HIDDEN, 2e-5);
	}
	qd_schedule_release(&schedule);
	close_model(&m);
}

/* A draw from the VAE's distribution is not its mean; equal seeds are equal, others are not; half precision rounds. */
static void draws_by_the_seed(void **state)
{
	struct qd_prepare_options o = options_for("drawn.safetensors");
	struct made m;
	float first[Z * PLANE], mean[Z * PLANE];
	const struct qd_tensor *t;

	(void)state;
	open_model(&m, "plain");
	make(&m, &o);
	assert_int_equal(m.result.samples, IMAGES);
	memcpy(first, stored(&m, "latents", 1, Z * PLANE), sizeof(first));
	latent_of(1, 0, 0.5f, mean);
	assert_true(memcmp(first, mean, sizeof(first)) != 0);
	make(&m, &o);
	assert_memory_equal(first, stored(&m, "latents", 1, Z * PLANE), sizeof(first));
	o.seed++;
	make(&m, &o);
	assert_memory_not_equal(first, stored(&m, "latents", 1, Z * PLANE), sizeof(first));
	o.dtype = QD_F16;
	make(&m, &o);
	OK(qd_safetensors_get(&m.file, "sample", &t));
	assert_int_equal(t->dtype, QD_F16);
	OK(qd_safetensors_get(&m.file, "timestep", &t));
	assert_int_equal(t->dtype, QD_F32);
	close_model(&m);
}

/* The mask at the latent's size, then the latent of what it leaves; both again behind the noisy latents. */
static void makes_inpainting_conditions(void **state)
{
	enum { C = Z + 1 };
	struct qd_prepare_options o = options_for("inpaint.safetensors");
	struct made m;
	float wanted[C * PLANE];

	(void)state;
	open_model(&m, "inpaint");
	o.mode = true;
	make(&m, &o);
	for (int i = 0; i < IMAGES; i++) {
		for (int k = 0; k < PLANE; k++)
			wanted[k] = k < PLANE / 2 ? 1 : 0;
		latent_of(i, SIDE / 2, 0.5f, wanted + PLANE);
		expect_near(stored(&m, "condition", i, C * PLANE), wanted, C * PLANE, 2e-5);
		assert_memory_equal(stored(&m, "sample", i, (Z + C) * PLANE) + Z * PLANE, stored(&m, "condition", i, C * PLANE),
			C * PLANE * sizeof(float));
	}
	close_model(&m);
}

/* ---- trajectories ---- */

static void add_adapter(struct made *m, const char *name, uint64_t seed)
{
	const struct qd_module **modules = calloc(m->modules.n, sizeof(const struct qd_module *));
	struct qd_adapter *a = &m->adapters[m->n];
	struct qd_random random;

	for (size_t i = 0; i < m->modules.n; i++)
		modules[i] = &m->modules.items[i];
	OK(qd_adapter_new(a, name, modules, m->modules.n, 2, 1));
	qd_random_init(&random, seed, 0);
	for (size_t i = 0; i < a->n; i++) {
		for (int64_t k = 0; k < 2 * a->loras[i].in * a->loras[i].kh * a->loras[i].kw; k++)
			a->loras[i].down[k] = (float)(0.1 * qd_random_normal(&random));
		for (int64_t k = 0; k < 2 * a->loras[i].out; k++)
			a->loras[i].up[k] = (float)(0.1 * qd_random_normal(&random));
	}
	m->list[m->n++] = a;
	free(modules);
}

/* What the UNet with adapter `a` says to stored sample i. */
static void answer(const struct made *m, size_t a, int64_t i, float *out)
{
	const struct qd_sizes sizes = { 1, SMALL, SMALL, TOKENS };
	struct qd_slots slots;
	struct qd_net net;
	struct qd_runner runner;
	struct qd_tensor inputs[] = {
		qd_tensor_view("sample", QD_F32, QD_SHAPE(1, Z, SMALL, SMALL), stored(m, "sample", i, Z * PLANE)),
		qd_tensor_view("timestep", QD_F32, QD_SHAPE(1), stored(m, "timestep", i, 1)),
		qd_tensor_view("encoder_hidden_states", QD_F32, QD_SHAPE(1, TOKENS, HIDDEN),
			stored(m, "encoder_hidden_states", i, TOKENS * HIDDEN)),
	};

	OK(qd_slots_choose(&slots, &m->modules, m->list, m->n, NULL, 0));
	OK(qd_net_build(&net, &m->model, &sizes, &slots));
	OK(qd_runner_open(&runner, &net.graph, NULL));
	OK(qd_runner_feed_adapter(&runner, &net.slots, m->list[a]));
	for (size_t k = 0; k < QD_COUNT(inputs); k++)
		OK(qd_runner_feed(&runner, &inputs[k]));
	OK(qd_runner_run(&runner));
	OK(qd_runner_read(&runner, "out", Z * PLANE, out));
	qd_runner_release(&runner);
	qd_net_release(&net);
	qd_slots_release(&slots);
}

/* Euler's rule from each stored state to the next: x = s sqrt(sigma^2 + 1), x' = x + (sigma' - sigma) m. */
static void follows_trajectories(void **state)
{
	enum { STEPS = 4, WALKS = 4 };
	struct qd_prepare_options o = options_for("walk.safetensors");
	struct qd_schedule schedule;
	struct qd_scheduler s;
	struct made m;
	float said[Z * PLANE], wanted[Z * PLANE], context[TOKENS * HIDDEN];

	(void)state;
	open_model(&m, "plain");
	add_adapter(&m, "a", 1);
	add_adapter(&m, "b", 2);
	o.trajectory = "euler";
	o.trajectory_steps = STEPS;
	o.count = STEPS * WALKS;
	make(&m, &o);
	assert_null(qd_safetensors_find(&m.file, "latents"));
	OK(qd_schedule_read(&schedule, scratch_path("plain"), ""));
	OK(qd_scheduler_new(&s, &schedule, "euler", STEPS));
	for (int i = 0; i < o.count; i++) {
		const float *x = stored(&m, "sample", i, Z * PLANE);
		int step = i % STEPS, walk = i / STEPS;
		assert_true(*stored(&m, "timestep", i, 1) == (float)s.timesteps[step]);
		context_of(walk % IMAGES == 1 ? "a much longer caption" : "ab", context);
		expect_near(stored(&m, "encoder_hidden_states", i, TOKENS * HIDDEN), context, TOKENS * HIDDEN, 2e-5);
		if (step == STEPS - 1)
			continue;
		answer(&m, (size_t)walk % 2, i, said);
		for (int k = 0; k < Z * PLANE; k++) {
			double now = s.sigmas[step], next = s.sigmas[step + 1];
			wanted[k] = (float)(((double)x[k] * sqrt(now * now + 1) + (next - now) * (double)said[k]) /
					    sqrt(next * next + 1));
		}
		/* the state is kept in float32 between steps: up to 15 here, scaled by at most 5 */
		expect_near(stored(&m, "sample", i + 1, Z * PLANE), wanted, Z * PLANE, 5e-5);
	}
	assert_true(m.result.prompts == 2 && m.result.adapters == 2 && m.result.timesteps == STEPS);
	qd_scheduler_release(&s);
	qd_schedule_release(&schedule);
	close_model(&m);
}

/* Few samples of long trajectories: of every caption, of both adapters, of all the way; each the state of its step. */
static void spreads_few_samples(void **state)
{
	enum { STEPS = 20, N = 6 };
	struct qd_prepare_options o = options_for("few.safetensors");
	struct made few, all;
	bool part[N] = { false };

	(void)state;
	open_model(&few, "plain");
	open_model(&all, "plain");
	add_adapter(&few, "a", 1);
	add_adapter(&few, "b", 2);
	add_adapter(&all, "a", 1);
	add_adapter(&all, "b", 2);
	o.trajectory = "ddim";
	o.trajectory_steps = STEPS;
	o.count = N;
	make(&few, &o);
	assert_true(few.result.samples == N && few.result.prompts == 2 && few.result.adapters == 2 && few.result.timesteps == N);
	o = options_for("all.safetensors");
	o.trajectory = "ddim";
	o.trajectory_steps = STEPS;
	make(&all, &o);
	assert_int_equal(all.result.samples, IMAGES * STEPS);
	for (int i = 0; i < N; i++) {
		float t = *stored(&few, "timestep", i, 1);
		/* two of each of three trajectories, one from either half; those of one adapter together one from every quarter */
		int walk = i / 2, at = 0;
		while (*stored(&all, "timestep", walk * STEPS + at, 1) != t)
			assert_true(++at < STEPS);
		assert_true(at / (STEPS / 2) == i % 2);
		if (walk != 1) {
			assert_false(part[at / (STEPS / 4)]);
			part[at / (STEPS / 4)] = true;
		}
		assert_memory_equal(stored(&few, "sample", i, Z * PLANE), stored(&all, "sample", walk * STEPS + at, Z * PLANE),
			Z * PLANE * sizeof(float));
	}
	close_model(&few);
	close_model(&all);
}

/* ---- captions of a real tokenizer ---- */

static void link_golden(const char *from, const char *to)
{
	char *real = realpath(golden_path(from), NULL);

	assert_non_null(real);
	assert_int_equal(symlink(real, scratch_path(to)), 0);
	free(real);
}

/* SDXL's two encoders on the golden prompts: contexts and pooled vectors as diffusers computes them, within 2e-5. */
static void encodes_as_diffusers(void **state)
{
	enum { L = 77, D = 40, P = 24 };
	struct qd_prepare_options o = options_for("xl.safetensors");
	struct qd_safetensors expected;
	struct qd_mapping prompts;
	struct made m;
	const struct qd_tensor *context, *embeds;
	FILE *f;

	(void)state;
	if (golden_path("text/te2/expected.safetensors") == NULL)
		skip();
	mkdir(scratch_path("xl"), 0700);
	link_golden("tinyxl/unet", "xl/unet");
	link_golden("text/te1", "xl/text_encoder");
	link_golden("text/te2", "xl/text_encoder_2");
	link_golden("text/tokenizer_tiny", "xl/tokenizer");
	link_golden("text/tokenizer_tiny_2", "xl/tokenizer_2");
	component_folder("xl/vae", vae_config, component_golden_values, NULL);
	OK(qd_mapping_open(&prompts, golden_path("text/tokens_tiny.jsonl")));
	mkdir(scratch_path("xl/images"), 0700);
	f = fopen(scratch_path("xl/images/metadata.jsonl"), "w");
	assert_non_null(f);
	for (const char *at = (const char *)prompts.data, *end = at + prompts.size; at < end;
		at = memchr(at, '\n', (size_t)(end - at)), at++) {
		static int i;
		struct qd_image image = { SIDE, SIDE, pixels[i] };
		char name[40];
		json_t *line = json_loadb(at, (size_t)(end - at), JSON_DISABLE_EOF_CHECK, NULL), *row;
		snprintf(name, sizeof(name), "%d.png", i++);
		row = json_pack("{s:s,s:O}", "file_name", name, "text", json_object_get(line, "text"));
		assert_non_null(row);
		json_dumpf(row, f, JSON_COMPACT);
		fputc('\n', f);
		json_decref(row);
		json_decref(line);
		snprintf(name, sizeof(name), "xl/images/%d.png", i - 1);
		OK(qd_image_write(scratch_path(name), &image, false));
	}
	fclose(f);
	qd_mapping_release(&prompts);
	open_model(&m, "xl");
	o.data = scratch_path("xl/images");
	o.height = o.width = SIDE;
	make(&m, &o);
	OK(qd_safetensors_open(&expected, golden_path("text/te2/expected.safetensors")));
	OK(qd_safetensors_get(&expected, "context", &context));
	OK(qd_safetensors_get(&expected, "text_embeds", &embeds));
	expect_near(stored(&m, "encoder_hidden_states", 0, L * D), context->data, 2 * L * D, 2e-5);
	expect_near(stored(&m, "text_embeds", 0, P), embeds->data, 2 * P, 2e-5);
	expect_near(stored(&m, "time_ids", 1, 6), (const float[]){ SIDE, SIDE, 0, 0, SIDE, SIDE }, 6, 0);
	qd_safetensors_release(&expected);
	close_model(&m);
}

/* ---- refusals ---- */

static void expect_refused(const struct made *m, const struct qd_prepare_options *o, const char *message)
{
	struct qd_prepare_result result;

	assert_int_not_equal(qd_prepare_data(&m->model, &m->modules, m->list, m->n, o, &result), QD_OK);
	if (strstr(qd_message(), message) == NULL)
		fail_msg("says \"%s\" instead of \"%s\"", qd_message(), message);
}

static void refuses_what_does_not_fit(void **state)
{
	struct qd_prepare_options o = options_for("refused.safetensors");
	struct made m;

	(void)state;
	open_model(&m, "plain");
	o.height = o.width = 18;
	expect_refused(&m, &o, "images of 18x18 pixels, the VAE needs multiples of 4");
	o.height = o.width = 0;
	o.trajectory = "heun";
	expect_refused(&m, &o, "no scheduler 'heun'");
	o.trajectory = NULL;
	add_adapter(&m, "a", 1);
	expect_refused(&m, &o, "adapters shape trajectories alone: give a trajectory, or no adapter");
	qd_adapter_release(&m.adapters[--m.n]);
	m.model.config.cross_dim[0] = 24;
	expect_refused(&m, &o, "the text encoders give 12 features, the UNet takes 24");
	m.model.config.cross_dim[0] = 12;
	m.model.config.in_channels = 6;
	expect_refused(&m, &o, "takes 2 channels beside 4 latent ones: neither a mask with a picture nor a picture");
	m.model.config.in_channels = 8;
	expect_refused(&m, &o, "0.png' has no 'condition_file_name', which the model's 4 further channels are made of");
	m.model.config.in_channels = 4;
	m.model.config.time_cond_dim = 3;
	expect_refused(&m, &o, "takes 'timestep_cond', which images do not tell");
	m.model.config.time_cond_dim = 0;
	m.model.config.out_channels = 3;
	expect_refused(&m, &o, "the VAE gives 4 latent channels, the UNet makes 3");
	m.model.config.out_channels = 4;
	m.model.config.text_time = true;
	m.model.config.addition_in_dim = 20;
	expect_refused(&m, &o, "the last text encoder projects to 0 features, the UNet takes 20");
	close_model(&m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(makes_noised_samples),
		cmocka_unit_test(draws_by_the_seed),
		cmocka_unit_test(makes_inpainting_conditions),
		cmocka_unit_test(follows_trajectories),
		cmocka_unit_test(spreads_few_samples),
		cmocka_unit_test(encodes_as_diffusers),
		cmocka_unit_test(refuses_what_does_not_fit),
	};
	return cmocka_run_group_tests(tests, prepare, NULL);
}
