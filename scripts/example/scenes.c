/*
 * scenes: writes training, calibration and test data of the example.
 *
 *   scenes --task base|removal|sketch|night|sticker|all --count N --seed S [--schedule DIR] [--force] -o F.safetensors
 *
 * Tensors of the file (float16), n = count:
 *   latents               [n, 12, 32, 32]  what the model must make: the picture in [-1, 1], 2 x 2 pixels packed into channels,
 *                                          latents[c * 4 + dy * 2 + dx][y][x] = picture[c][2 y + dy][2 x + dx]
 *   condition             [n, 13, 32, 32]  as in Stable Diffusion inpainting: mask (1: to be made), then a picture packed likewise,
 *                                          0 under the mask
 *   encoder_hidden_states [n, 8, 48]       the prompt: one vector per word, fixed functions of word and position
 *
 * and with --schedule, for calibration, as the model sees them on its way from noise:
 *   sample                [n, 25, 32, 32]  noised latents, then the condition
 *   timestep              [n]              float32, spread evenly over the schedule
 *
 * Task base is the model's own training: holes around objects, free boxes, or everything, to be filled as the prompt says. The
 * others are the adapters' tasks; each sees mask 1 everywhere and the whole input picture, except removal, which sees a hole.
 * Task all takes the four in turn. Sample i depends on task, seed and i alone.
 */
#include "lib/io/io.h"
#include "lib/sampler/sampler.h"
#include "scripts/example/draw.h"

#include <argp.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
	PLANE = SIZE * SIZE,
	CELLS = SIZE / 2,
	CELL_PLANE = CELLS * CELLS,
	PICTURE = 3 * PLANE,
	CONDITION = 13 * CELL_PLANE,
	WORDS = 8,
	FEATURES = 48
};
enum task { TASK_BASE, TASK_REMOVAL, TASK_SKETCH, TASK_NIGHT, TASK_STICKER, TASK_ALL, TASKS };
static const char *const task_names[TASKS] = { "base", "removal", "sketch", "night", "sticker", "all" };

struct arguments {
	int task;
	long count;
	unsigned long seed;
	const char *output, *schedule;
	bool force;
};

struct sample {
	uint16_t *latents, *condition, *prompt, *picture;
};

/* ---- prompts ---- */

static uint64_t hash_text(const char *text)
{
	uint64_t h = 1469598103934665603u;
	for (; *text; text++)
		h = (h ^ (unsigned char)*text) * 1099511628211u;
	return h;
}

/* A word at a position: the sum of two standard normal vectors, one of each, so that "red" means red for either object. */
static void embed_word(const char *word, int position, float *out)
{
	struct qd_random of_word, of_position;
	qd_random_init(&of_word, hash_text(word), 0);
	qd_random_init(&of_position, hash_text("position"), (uint64_t)position + 1);
	for (int i = 0; i < FEATURES; i++)
		out[i] = 0.8f * (float)qd_random_normal(&of_word) + 0.6f * (float)qd_random_normal(&of_position);
}

/* place, then colour texture shape of each object, then the kind of picture. `hidden`: an object left unsaid (-1: none). */
static void embed_prompt(const struct scene *scene, int hidden, const char *kind, float *out)
{
	const char *words[WORDS] = { place_names[scene->place], "none", "none", "none", "none", "none", "none", kind };
	for (int i = 0; i < scene->n; i++) {
		const struct object *o = &scene->objects[i];
		if (i == hidden)
			continue;
		words[1 + 3 * i] = colour_names[o->colour];
		words[2 + 3 * i] = texture_names[o->texture];
		words[3 + 3 * i] = shape_names[o->shape];
	}
	for (int i = 0; i < WORDS; i++)
		embed_word(words[i], i, out + i * FEATURES);
}

/* ---- masks: one value per 2 x 2 pixels ---- */

static void mask_box(const int box[4], float *mask)
{
	for (int y = box[1] / 2; y < box[3] / 2; y++)
		for (int x = box[0] / 2; x < box[2] / 2; x++)
			mask[y * CELLS + x] = 1;
}

static void mask_free_box(struct qd_random *random, float *mask)
{
	int w = 8 + (int)(qd_random_uniform(random) * 14), h = 8 + (int)(qd_random_uniform(random) * 14);
	int x = (int)(qd_random_uniform(random) * (CELLS - w)), y = (int)(qd_random_uniform(random) * (CELLS - h));
	mask_box((int[]){ 2 * x, 2 * y, 2 * (x + w), 2 * (y + h) }, mask);
}

static void mask_base(const struct scene *scene, struct qd_random *random, float *mask)
{
	double kind = qd_random_uniform(random);
	int box[4];
	if (kind < 0.40) {
		mask_box((int[]){ 0, 0, SIZE, SIZE }, mask);
	} else if (kind < 0.85) {
		for (int i = 0; i < scene->n; i++)
			if (kind < 0.5 || i == (int)(kind * 1000) % scene->n) {
				object_box(&scene->objects[i], 1 + (int)(qd_random_uniform(random) * 4), box);
				mask_box(box, mask);
			}
	} else {
		mask_free_box(random, mask);
	}
}

/* ---- one sample ---- */

/* Planar [0,1] RGB to packed [-1,1] float16; 0 where `mask` (may be NULL) is 1. */
static void pack(const float *rgb, const float *mask, uint16_t *out)
{
	for (int c = 0; c < 3; c++)
		for (int y = 0; y < SIZE; y++)
			for (int x = 0; x < SIZE; x++) {
				int cell = (y / 2) * CELLS + x / 2, channel = c * 4 + (y & 1) * 2 + (x & 1);
				float v = 2 * rgb[c * PLANE + y * SIZE + x] - 1;
				out[channel * CELL_PLANE + cell] = qd_f32_to_f16(mask != NULL && mask[cell] > 0 ? 0 : v);
			}
}

static void make_sample(int task, uint64_t seed, uint64_t index, float *rgb, struct sample out)
{
	struct qd_random random;
	struct scene scene;
	float mask[CELL_PLANE] = { 0 }, prompt[WORDS * FEATURES];
	int skip = -1, box[4];
	if (task == TASK_ALL)
		task = TASK_REMOVAL + (int)(index % 4);
	qd_random_init(&random, seed * TASK_ALL + (uint64_t)task, index);
	scene_draw(&scene, &random);
	if (task == TASK_REMOVAL) {
		skip = (int)(qd_random_uniform(&random) * scene.n);
		object_box(&scene.objects[skip], 2, box);
		mask_box(box, mask);
	} else if (task == TASK_BASE) {
		mask_base(&scene, &random, mask);
	} else {
		mask_box((int[]){ 0, 0, SIZE, SIZE }, mask);
	}
	scene_render(&scene,
		task == TASK_NIGHT     ? PICTURE_NIGHT
		: task == TASK_STICKER ? PICTURE_STICKER
				       : PICTURE_SCENE,
		skip, rgb);
	pack(rgb, NULL, out.latents);
	scene_render(&scene, task == TASK_SKETCH ? PICTURE_SKETCH : PICTURE_SCENE, -1, rgb);
	pack(rgb, NULL, out.picture);
	for (int i = 0; i < CELL_PLANE; i++)
		out.condition[i] = qd_f32_to_f16(mask[i]);
	pack(rgb, task == TASK_BASE || task == TASK_REMOVAL ? mask : NULL, out.condition + CELL_PLANE);
	embed_prompt(&scene, skip, task == TASK_NIGHT ? "night" : task == TASK_STICKER ? "sticker" : "picture", prompt);
	for (int i = 0; i < WORDS * FEATURES; i++)
		out.prompt[i] = qd_f32_to_f16(prompt[i]);
}

/* sample = [sqrt(a) latents + sqrt(1 - a) noise, condition], a the schedule's cumulative product at the timestep (Ho et al. 2020,
 * eq. 4). */
static float noise_sample(const struct qd_schedule *schedule, uint64_t seed, uint64_t index, struct sample in, uint16_t *out)
{
	struct qd_random random;
	qd_random_init(&random, seed, qd_stream(QD_STREAM_EXAMPLE, (UINT64_C(1) << 48) - 1 - index));
	/* Steps of the golden ratio spread over the schedule however many samples there are. */
	int t = (int)(fmod((double)index * 0.6180339887498949 + 0.5, 1.0) * schedule->train_steps);
	struct qd_noise_level level = qd_noise_level_of(schedule->alphas_cumprod[t]);
	for (int i = 0; i < PICTURE; i++)
		out[i] = qd_f32_to_f16((float)qd_noised(level, qd_f16_to_f32(in.latents[i]), qd_random_normal(&random)));
	memcpy(out + PICTURE, in.condition, sizeof(uint16_t) * CONDITION);
	return (float)t;
}

/* ---- the file ---- */

enum { LATENTS, CONDITIONS, PROMPTS, PICTURES, SAMPLES, TIMESTEPS, TENSORS };

static enum qd_status make_tensors(struct qd_tensor *tensors, int64_t n)
{
	enum qd_status st;
	QD_TRY(st, qd_tensor_new(&tensors[LATENTS], "latents", QD_F16, &QD_SHAPE(n, 12, CELLS, CELLS)));
	QD_TRY(st, qd_tensor_new(&tensors[CONDITIONS], "condition", QD_F16, &QD_SHAPE(n, 13, CELLS, CELLS)));
	QD_TRY(st, qd_tensor_new(&tensors[PROMPTS], "encoder_hidden_states", QD_F16, &QD_SHAPE(n, WORDS, FEATURES)));
	QD_TRY(st, qd_tensor_new(&tensors[PICTURES], "picture", QD_F16, &QD_SHAPE(n, 12, CELLS, CELLS)));
	QD_TRY(st, qd_tensor_new(&tensors[SAMPLES], "sample", QD_F16, &QD_SHAPE(n, 25, CELLS, CELLS)));
	QD_TRY(st, qd_tensor_new(&tensors[TIMESTEPS], "timestep", QD_F32, &QD_SHAPE(n)));
out:
	return st;
}

static enum qd_status write_samples(const struct arguments *arguments)
{
	enum qd_status st;
	struct qd_tensor tensors[TENSORS] = { 0 };
	struct qd_schedule schedule = { 0 };
	float *rgb = malloc(sizeof(float) * PICTURE);
	if (rgb == NULL)
		return qd_fail(QD_ENOMEM, "out of memory for a picture");
	QD_TRY(st, make_tensors(tensors, arguments->count));
	if (arguments->schedule != NULL)
		QD_TRY(st, qd_schedule_read(&schedule, arguments->schedule, ""));
	for (int64_t i = 0; i < arguments->count; i++) {
		struct sample at = { (uint16_t *)tensors[LATENTS].data + i * PICTURE,
			(uint16_t *)tensors[CONDITIONS].data + i * CONDITION,
			(uint16_t *)tensors[PROMPTS].data + i * WORDS * FEATURES,
			(uint16_t *)tensors[PICTURES].data + i * PICTURE };
		make_sample(arguments->task, arguments->seed, (uint64_t)i, rgb, at);
		if (arguments->schedule != NULL)
			((float *)tensors[TIMESTEPS].data)[i] = noise_sample(&schedule, arguments->seed, (uint64_t)i, at,
				(uint16_t *)tensors[SAMPLES].data + i * (PICTURE + CONDITION));
	}
	st = qd_safetensors_write(
		arguments->output, tensors, arguments->schedule != NULL ? TENSORS : SAMPLES, NULL, 0, arguments->force, NULL, NULL);
out:
	for (int i = 0; i < TENSORS; i++)
		qd_tensor_release(&tensors[i]);
	qd_schedule_release(&schedule);
	free(rgb);
	return st;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct arguments *a = state->input;
	char *end = NULL;
	switch (key) {
	case 't':
		for (a->task = 0; a->task < TASKS && strcmp(arg, task_names[a->task]) != 0;)
			a->task++;
		if (a->task == TASKS)
			argp_error(state, "no task '%s': base, removal, sketch, night, sticker or all", arg);
		return 0;
	case 'n':
		a->count = strtol(arg, &end, 10);
		if (*end || a->count < 1 || a->count > 1000000)
			argp_error(state, "--count '%s' is not a number from 1 to 1000000", arg);
		return 0;
	case 's':
		a->seed = strtoul(arg, &end, 10);
		if (*end)
			argp_error(state, "--seed '%s' is not a number", arg);
		return 0;
	case 'o':
		a->output = arg;
		return 0;
	case 'c':
		a->schedule = arg;
		return 0;
	case 'f':
		a->force = true;
		return 0;
	case ARGP_KEY_END:
		if (a->output == NULL)
			argp_error(state, "needs -o FILE");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

int main(int argc, char **argv)
{
	static const struct argp_option options[] = {
		{ "task", 't', "NAME", 0, "base, removal, sketch, night, sticker or all", 0 },
		{ "count", 'n', "N", 0, "samples (default 256)", 0 },
		{ "seed", 's', "N", 0, "seed (default 0)", 0 },
		{ "output", 'o', "FILE", 0, "safetensors file to write", 0 },
		{ "schedule", 'c', "DIR", 0, "add noisy samples by the schedule of this pipeline folder", 0 },
		{ "force", 'f', NULL, 0, "replace an existing file", 0 },
		{ 0 },
	};
	struct argp argp = { options, parse, NULL, "Draw the example's training, calibration and test data.", NULL, NULL, NULL };
	struct arguments arguments = { .task = TASK_BASE, .count = 256 };
	argp_err_exit_status = 2;
	argp_parse(&argp, argc, argv, 0, NULL, &arguments);
	if (write_samples(&arguments) != QD_OK) {
		fprintf(stderr, "scenes: %s\n", qd_message());
		return 3;
	}
	return 0;
}
