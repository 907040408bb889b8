#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "lib/math/math.h"
#include "lib/torch/torch.h"
#include "tests/unit/distill_help.h"
#include "tests/unit/scratch.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const char unet[] =
	"{\"in_channels\": 5, \"out_channels\": 2, \"sample_size\": 8, \"block_out_channels\": [8, 16], \"layers_per_block\": 1,\n"
	" \"down_block_types\": [\"DownBlock2D\", \"CrossAttnDownBlock2D\"], \"up_block_types\": [\"CrossAttnUpBlock2D\", "
	"\"UpBlock2D\"],\n"
	" \"cross_attention_dim\": 6, \"attention_head_dim\": 2, \"norm_num_groups\": 4}\n";

const char *help_pipeline(const char *name, const char *prediction)
{
	struct qd_unet_config config;
	char path[4096], text[256];
	const char *root = scratch_path(name);

	assert_int_equal(mkdir(root, 0777), 0);
	snprintf(path, sizeof(path), "%s/unet", root);
	assert_int_equal(mkdir(path, 0777), 0);
	snprintf(path, sizeof(path), "%s/scheduler", root);
	assert_int_equal(mkdir(path, 0777), 0);
	snprintf(path, sizeof(path), "%s/unet/config.json", root);
	OK(qd_write_file(path, unet, strlen(unet), false));
	OK(qd_unet_config_read(&config, path));
	snprintf(path, sizeof(path), "%s/unet/diffusion_pytorch_model.safetensors", root);
	OK(qd_unet_init(&config, 11, QD_F32, path, false));
	snprintf(text, sizeof(text),
		"{\"_class_name\": \"DDIMScheduler\", \"beta_schedule\": \"scaled_linear\", \"beta_start\": 0.00085, "
		"\"beta_end\": 0.012, \"num_train_timesteps\": 1000, \"prediction_type\": \"%s\"}\n",
		prediction);
	snprintf(path, sizeof(path), "%s/scheduler/scheduler_config.json", root);
	OK(qd_write_file(path, text, strlen(text), false));
	snprintf(path, sizeof(path), "%s/model_index.json", root);
	snprintf(text, sizeof(text),
		"{\"_class_name\": \"P\", \"unet\": [\"diffusers\", \"U\"], \"vae\": [\"diffusers\", \"V\"]}\n");
	OK(qd_write_file(path, text, strlen(text), false));
	return root;
}

void help_layers_open(struct help_layers *layers, const char *path)
{
	const struct qd_sizes sizes = { 1, HELP_SIDE, HELP_SIDE, HELP_TOKENS };

	memset(layers, 0, sizeof(*layers));
	OK(qd_model_open(&layers->model, path));
	OK(qd_unet_graph(&layers->g, &layers->model.config, &layers->model.weights, &sizes));
	OK(qd_modules_of(&layers->modules, &layers->g));
}

void help_layers_close(struct help_layers *layers)
{
	qd_modules_release(&layers->modules);
	qd_graph_release(&layers->g);
	qd_model_release(&layers->model);
}

void help_training_open(struct help_training *training, const char *prediction)
{
	OK(qt_set_threads(1));
	snprintf(training->base, sizeof(training->base), "%s", help_pipeline("base", prediction));
	snprintf(training->data, sizeof(training->data), "%s", help_data("data", 16, 1, false));
	help_layers_open(&training->layers, training->base);
}

int help_training_close(struct help_training *training)
{
	help_layers_close(&training->layers);
	return qt_live() == 0 ? 0 : -1;
}

/* Rows of a wave each, of random frequency and phase. */
static void waves(struct qd_tensor *t, struct qd_random *random)
{
	int64_t n = t->shape.dim[0], row = qd_shape_elements(&t->shape) / n;

	for (int64_t i = 0; i < n; i++) {
		double frequency = 6 * qd_random_uniform(random), phase = 6 * qd_random_uniform(random);
		for (int64_t k = 0; k < row; k++)
			((float *)t->data)[i * row + k] = (float)sin(phase + frequency * (double)k / 40);
	}
}

const char *help_data(const char *name, int64_t n, uint64_t seed, bool noisy)
{
	struct qd_shape latents = QD_SHAPE(n, HELP_LATENTS, HELP_SIDE, HELP_SIDE),
			condition = QD_SHAPE(n, HELP_CONDITION, HELP_SIDE, HELP_SIDE);
	struct qd_shape sample = QD_SHAPE(n, HELP_LATENTS + HELP_CONDITION, HELP_SIDE, HELP_SIDE),
			prompt = QD_SHAPE(n, HELP_TOKENS, HELP_FEATURES);
	const char *path = scratch_path(name);
	struct qd_random random;
	struct qd_tensor t[3];

	qd_random_init(&random, seed, 0);
	OK(qd_tensor_new(&t[0], noisy ? "sample" : "latents", QD_F32, noisy ? &sample : &latents));
	OK(qd_tensor_new(&t[1], noisy ? "timestep" : "condition", QD_F32, noisy ? &QD_SHAPE(n) : &condition));
	OK(qd_tensor_new(&t[2], "encoder_hidden_states", QD_F32, &prompt));
	for (int i = 0; i < 3; i++)
		waves(&t[i], &random);
	/* as wide as noised latents are, so that ranges calibrated on one serve the other */
	for (int64_t i = 0; noisy && i < qd_shape_elements(&t[0].shape); i++)
		((float *)t[0].data)[i] += (float)qd_random_normal(&random);
	for (int64_t i = 0; noisy && i < n; i++)
		((float *)t[1].data)[i] = (float)qd_random_below(&random, 1000);
	OK(qd_safetensors_write(path, t, 3, NULL, 0, true, NULL, NULL));
	for (int i = 0; i < 3; i++)
		qd_tensor_release(&t[i]);
	return path;
}

static void fill_random(float *x, int64_t n, float size, struct qd_random *random)
{
	for (int64_t i = 0; i < n; i++)
		x[i] = (float)(2 * qd_random_uniform(random) - 1) * size;
}

const char *help_adapter(const char *name, const struct qd_modules *modules, int64_t rank, float size, uint64_t seed)
{
	const struct qd_module **list = calloc(modules->n, sizeof(*list));
	const char *path = scratch_path(name);
	struct qd_adapter adapter = { 0 };
	struct qd_random random;

	assert_non_null(list);
	for (size_t i = 0; i < modules->n; i++)
		list[i] = &modules->items[i];
	OK(qd_adapter_new(&adapter, "a", list, modules->n, rank, 1));
	qd_random_init(&random, seed, 0);
	for (size_t i = 0; i < adapter.n; i++) {
		struct qd_lora *lora = &adapter.loras[i];
		fill_random(lora->down, rank * lora->in * lora->kh * lora->kw, size, &random);
		fill_random(lora->up, rank * lora->out, size, &random);
	}
	OK(qd_adapter_write(&adapter, path, QD_F32, false, true));
	qd_adapter_release(&adapter);
	free(list);
	return path;
}

/* ---- killed runs ---- */

static struct {
	char state[1024];
	uint64_t done;
} watched;

static void keep_state(void *context, const char *what, uint64_t done, uint64_t total, const char *note)
{
	struct qd_mapping file;
	(void)context;
	(void)total;
	(void)note;

	if (strcmp(what, "teacher") == 0 || done != watched.done)
		return;
	OK(qd_mapping_open(&file, watched.state));
	OK(qd_write_file(scratch_path("aside"), file.data, file.size, true));
	qd_mapping_release(&file);
}

void help_watch_state(const char *output, uint64_t done)
{
	if (output != NULL)
		snprintf(watched.state, sizeof(watched.state), "%s.ckpt", output);
	watched.done = done;
	qd_set_progress_hook(output != NULL ? keep_state : NULL, NULL);
}

void help_put_state(const char *output)
{
	struct qd_mapping aside;
	char state[1024];

	snprintf(state, sizeof(state), "%s.ckpt", output);
	OK(qd_mapping_open(&aside, scratch_path("aside")));
	OK(qd_write_file(state, aside.data, aside.size, true));
	qd_mapping_release(&aside);
}

bool help_has_state(const char *output)
{
	char state[1024];

	snprintf(state, sizeof(state), "%s.ckpt", output);
	return qd_is_file(state);
}

/* ---- files and refusals ---- */

bool help_same_file(const char *a, const char *b)
{
	char x[QD_HASH_TEXT], y[QD_HASH_TEXT];

	OK(qd_hash_file(a, x));
	OK(qd_hash_file(b, y));
	return strcmp(x, y) == 0;
}

void help_edit(const char *folder, const char *name, const char *from, const char *to)
{
	struct qd_mapping file;
	char path[1024], before[2048], after[2048];
	const char *at;

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	OK(qd_mapping_open(&file, path));
	snprintf(before, sizeof(before), "%.*s", (int)file.size, (const char *)file.data);
	qd_mapping_release(&file);
	at = strstr(before, from);
	assert_non_null(at);
	snprintf(after, sizeof(after), "%.*s%s%s", (int)(at - before), before, to, at + strlen(from));
	OK(qd_write_file(path, after, strlen(after), true));
}

void help_refused(enum qd_status st, enum qd_status want, const char *message)
{
	assert_int_equal(st, want);
	if (strstr(qd_message(), message) == NULL)
		fail_msg("says \"%s\" instead of \"%s\"", qd_message(), message);
}
