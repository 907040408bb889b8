/*
 * Memory that runs out, models: configurations, components, folders, shards, checkpoints, ONNX files,
 * tokenizers, schedules and samples, with each allocation failing in turn.
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

#include "lib/data/data.h"
#include "lib/math/math.h"
#include "lib/sampler/sampler.h"
#include "tests/unit/adapter_help.h"
#include "tests/unit/failing_malloc.h"
#include "tests/unit/ldm_help.h"
#include "tests/unit/scratch.h"
#include "tests/unit/small_pipeline.h"
#include "tests/unit/tokenizer_help.h"

static const char *text_file(const char *name, const char *text)
{
	return scratch_file(name, text, strlen(text));
}

static struct small_pipeline all;

static int open_all(void **state)
{
	(void)state;
	small_pipeline_open(&all, "p");
	return 0;
}

static int close_all(void **state)
{
	(void)state;
	small_pipeline_close(&all);
	return 0;
}

/* ---- configurations and random weights ---- */

static enum qd_status read_config(const void *path)
{
	struct qd_component c;
	enum qd_status st = qd_component_config_read(&c, path);

	if (st == QD_OK) {
		failing_see(&c.kind, sizeof(c.kind));
		failing_see(&c.text, sizeof(c.text));
		failing_see(&c.vae.channels, sizeof(c.vae.channels));
		failing_see(&c.unet.channels, sizeof(c.unet.channels));
		qd_component_release(&c);
	}
	return st;
}

static enum qd_status write_config(const void *context)
{
	const char *path = scratch_path("config.json");
	json_t *json = qd_unet_config_json(&all.model.config);
	enum qd_status st = qd_json_write(path, json, true);

	(void)context;
	json_decref(json);
	if (st == QD_OK)
		failing_see_file(path);
	return st;
}

static void configurations(void **state)
{
	(void)state;
	failing_each_on("a UNet's configuration", read_config, scratch_path("p/unet/config.json"));
	failing_each_on("a VAE's configuration", read_config, scratch_path("p/vae/config.json"));
	failing_each_on("a tiny VAE's configuration", read_config, scratch_path("p/tiny/config.json"));
	failing_each_on("a text encoder's configuration", read_config, scratch_path("p/text_encoder/config.json"));
	failing_each("writing a UNet's configuration", write_config, NULL);
}

static enum qd_status init_component(const void *path)
{
	struct qd_component c;
	enum qd_status st = qd_component_config_read(&c, path);

	if (st == QD_OK) {
		st = qd_component_init(&c, 3, QD_F16, scratch_path("drawn.safetensors"), true);
		qd_component_release(&c);
	}
	if (st == QD_OK)
		failing_see_file(scratch_path("drawn.safetensors"));
	return st;
}

static enum qd_status init_lora(const void *path)
{
	enum qd_status st = qd_lora_init(&all.model.config, 2, 1, QD_F32, path, true);

	if (st == QD_OK)
		failing_see_file(path);
	return st;
}

static void random_weights(void **state)
{
	(void)state;
	failing_each_on("drawing a UNet", init_component, scratch_path("p/unet/config.json"));
	failing_each_on("drawing a VAE", init_component, scratch_path("p/vae/config.json"));
	failing_each_on("drawing a text encoder", init_component, scratch_path("p/text_encoder/config.json"));
	failing_each_on("drawing an adapter", init_lora, scratch_path("drawn.safetensors"));
}

/* ---- components ---- */

static void see_graph(const struct qd_graph *g)
{
	failing_see(&g->n_values, sizeof(g->n_values));
	for (size_t i = 0; i < g->n_values; i++) {
		failing_see_text(g->values[i].name);
		failing_see(&g->values[i].shape, sizeof(g->values[i].shape));
		failing_see(g->values[i].data.data, g->values[i].data.bytes);
	}
}

static enum qd_status open_component(const void *name)
{
	struct qd_component c = { 0 };
	struct qd_component_sizes sizes = { .batch = 1, .height = 4, .width = 4, .tokens = 3, .clip_skip = 1 };
	struct qd_graph g = { 0 };
	enum qd_status st;

	QD_TRY(st, qd_component_open(&c, all.folder, name));
	QD_TRY(st, qd_component_graph(&g, &c, &sizes));
	see_graph(&g);
out:
	qd_graph_release(&g);
	qd_component_release(&c);
	return st;
}

static void components(void **state)
{
	static const char *const names[] = { "unet", "vae", "tiny", "text_encoder" };

	(void)state;
	for (size_t i = 0; i < QD_COUNT(names); i++)
		failing_each_on(names[i], open_component, names[i]);
}

/* ---- models in all their forms ---- */

static enum qd_status open_model(const void *path)
{
	const struct qd_sizes sizes = { 1, 4, 4, 3 };
	struct qd_model model = { 0 };
	struct qd_modules modules = { 0 };
	struct qd_graph g = { 0 };
	char hash[QD_HASH_TEXT];
	enum qd_status st;

	QD_TRY(st, qd_model_open(&model, path));
	QD_TRY(st, qd_model_graph(&g, &model, &sizes));
	QD_TRY(st, qd_modules_of(&modules, &g));
	QD_TRY(st, qd_model_hash(&model, hash));
	see_graph(&g);
	failing_see(&modules.n, sizeof(modules.n));
	failing_see_text(hash);
out:
	qd_modules_release(&modules);
	qd_graph_release(&g);
	qd_model_release(&model);
	return st;
}

/* The UNet's weights in two files with an index. */
static const char *shards(void)
{
	static const char *const files[] = { "diffusion_pytorch_model-00001-of-00002.safetensors",
		"diffusion_pytorch_model-00002-of-00002.safetensors" };
	const struct qd_weights *w = &all.model.weights;
	struct qd_tensor *tensors = calloc(w->n, sizeof(*tensors));
	json_t *map = json_object(), *index = json_pack("{s:{},s:o}", "metadata", "weight_map", map);
	char path[128];

	for (size_t i = 0; i < w->n; i++) {
		tensors[i] = *w->tensors[i];
		json_object_set_new(map, tensors[i].name, json_string(files[i >= w->n / 2]));
	}
	mkdir(scratch_path("shards"), 0777);
	text_file("shards/config.json", small_unet);
	for (int i = 0; i < 2; i++) {
		snprintf(path, sizeof(path), "shards/%s", files[i]);
		OK(qd_safetensors_write(scratch_path(path), tensors + (i ? w->n / 2 : 0), i ? w->n - w->n / 2 : w->n / 2, NULL, 0,
			true, NULL, NULL));
	}
	OK(qd_json_write(scratch_path("shards/diffusion_pytorch_model.safetensors.index.json"), index, true));
	json_decref(index);
	free(tensors);
	return scratch_path("shards");
}

static const char *checkpoint(void)
{
	struct help_ldm net = {
		.in = 4, .out = 4, .channels = 4, .levels = 2, .mult = { 1, 2 }, .layers = 1, .mid_depth = 1, .context = 6
	};
	struct help_names *names;
	const char *path;

	help_ldm_depth(&net, 0, 1);
	names = help_ldm_names(&net);
	path = help_ldm_write("checkpoint.safetensors", &all.model, names, true);
	free(names);
	return path;
}

static enum qd_status write_onnx(const void *path)
{
	static const struct qd_onnx_write_options options = { 0 };
	const struct qd_sizes sizes = { 1, 4, 4, 3 };
	struct qd_graph g = { 0 };
	enum qd_status st;

	QD_TRY(st, qd_model_graph(&g, &all.model, &sizes));
	QD_TRY(st, qd_onnx_write(&g, path, &options, NULL));
	failing_see_file(path);
out:
	qd_graph_release(&g);
	return st;
}

static void models(void **state)
{
	(void)state;
	failing_each_on("a pipeline folder", open_model, all.folder);
	failing_each_on("a model in shards", open_model, shards());
	failing_each_on("a checkpoint", open_model, checkpoint());
}

static enum qd_status open_onnx(const void *path)
{
	struct qd_onnx onnx = { 0 };
	enum qd_status st = qd_onnx_open(&onnx, path, NULL, 0);

	if (st == QD_OK) {
		see_graph(&onnx.graph);
		for (size_t i = 0; i < onnx.graph.n_nodes; i++)
			failing_see_text(onnx.graph.nodes[i].name);
	}
	qd_onnx_release(&onnx);
	return st;
}

static void onnx_files(void **state)
{
	static const char *const names[] = { "small", "conv", "block", "scopes" };
	const char *root = getenv("QUAD_ROOT");

	(void)state;
	for (size_t i = 0; i < QD_COUNT(names); i++) {
		char path[4096];

		snprintf(path, sizeof(path), "%s/tests/fuzz/corpus/onnx/%s", root != NULL ? root : ".", names[i]);
		failing_each(names[i], open_onnx, path);
	}
	remove(scratch_path("m.onnx"));
	failing_each_on("writing ONNX", write_onnx, scratch_path("m.onnx"));
	failing_each_on("an ONNX file", open_model, scratch_path("m.onnx"));
}

/* ---- tokenizers ---- */

static enum qd_status open_tokenizer(const void *folder)
{
	static const char prompt[] = "abc caf\xc3\xa9 12 \xe4\xb8\xad";
	struct qd_tokenizer *t = NULL;
	int32_t ids[77];
	size_t n;
	enum qd_status st;

	QD_TRY(st, qd_tokenizer_open(&t, folder));
	QD_TRY(st, qd_tokenizer_encode(t, prompt, strlen(prompt), ids, &n));
	failing_see(ids, qd_tokenizer_length(t) * sizeof(*ids));
out:
	qd_tokenizer_free(t);
	return st;
}

static void tokenizers(void **state)
{
	(void)state;
	tok_write("a b\nab c</w>\n", "{\"model_max_length\": 12, \"pad_token\": \"!\"}", "{\"unk_token\": \"<|endoftext|>\"}");
	failing_each_on("a tokenizer of two files", open_tokenizer, tok_folder());
	tok_write_json("[\"a b\", \"ab c</w>\"]", "\"type\": \"BPE\"", "[]");
	failing_each_on("a tokenizer of one file", open_tokenizer, tok_folder());
}

/* ---- schedules ---- */

static enum qd_status read_schedule(const void *kind)
{
	struct qd_schedule s = { 0 };
	struct qd_scheduler scheduler = { 0 };
	float x[4] = { 1, 2, 3, 4 }, out[4] = { 0.5f, 0, -1, 2 };
	enum qd_status st;

	QD_TRY(st, qd_schedule_read(&s, all.folder, ""));
	QD_TRY(st, qd_scheduler_new(&scheduler, &s, kind, 4));
	for (int i = 0; i < 4; i++)
		QD_TRY(st, qd_scheduler_step(&scheduler, i, 4, x, out, out));
	failing_see(s.alphas_cumprod, (size_t)s.train_steps * sizeof(double));
	failing_see(scheduler.timesteps, 4 * sizeof(double));
	failing_see(x, sizeof(x));
out:
	qd_scheduler_release(&scheduler);
	qd_schedule_release(&s);
	return st;
}

static enum qd_status fit_olss(const void *context)
{
	double timesteps[6] = { 90, 75, 60, 45, 30, 15 };
	float recorded[13 * 8];
	struct qd_olss_gram gram = { 0 };
	struct qd_olss olss = { 0 };
	struct qd_random random;
	enum qd_status st;

	qd_random_init(&random, 1, 0);
	for (size_t i = 0; i < QD_COUNT(recorded); i++)
		recorded[i] = (float)qd_random_normal(&random);
	QD_TRY(st, qd_olss_gram_init(&gram, 6));
	QD_TRY(st, qd_olss_gram_add(&gram, 8, recorded));
	QD_TRY(st, qd_olss_fit(&olss, &gram, timesteps, 4));
	olss.guidance = 1;
	QD_TRY(st, qd_olss_write(&olss, context, true));
	failing_see_file(context);
out:
	qd_olss_release(&olss);
	qd_olss_gram_release(&gram);
	return st;
}

static enum qd_status read_olss(const void *path)
{
	struct qd_olss olss = { 0 };
	enum qd_status st = qd_olss_read(&olss, path);

	if (st == QD_OK) {
		failing_see(olss.we, (size_t)(olss.steps * olss.steps) * sizeof(double));
		failing_see_text(olss.notes);
	}
	qd_olss_release(&olss);
	return st;
}

static void schedules(void **state)
{
	static const char *const kinds[] = { "ddim", "euler", "lcm" };
	char kind[4096];

	(void)state;
	for (size_t i = 0; i < QD_COUNT(kinds); i++)
		failing_each_on(kinds[i], read_schedule, kinds[i]);
	failing_each_on("fitting a sampler", fit_olss, scratch_path("olss.safetensors"));
	failing_each_on("a fitted sampler", read_olss, scratch_path("olss.safetensors"));
	snprintf(kind, sizeof(kind), "olss:%s", scratch_path("olss.safetensors"));
	failing_each("steps of a fitted sampler", read_schedule, kind);
}

/* ---- samples ---- */

static enum qd_status open_data(const void *path)
{
	struct qd_dataset data = { 0 };
	float row[4 * 4 * 4];
	char hash[QD_HASH_TEXT];
	enum qd_status st;

	QD_TRY(st, qd_dataset_open(&data, (const char *const[]){ path, path }, 2, &all.model.config, QD_DATA_CALIBRATE));
	QD_TRY(st, qd_dataset_hash(&data, hash));
	QD_TRY(st, qd_dataset_gather(&data, QD_FIELD_SAMPLE, (const int64_t[]){ 1 }, 1, row));
	failing_see(row, sizeof(row));
	failing_see_text(hash);
out:
	qd_dataset_release(&data);
	return st;
}

static void samples(void **state)
{
	static struct help_file file;

	(void)state;
	help_add(&file, "sample", 4, 2, 4, 4, 4);
	help_add(&file, "timestep", 1, 2);
	help_add(&file, "encoder_hidden_states", 3, 2, 3, 6);
	failing_each_on("samples", open_data, help_write(&file, "data.safetensors"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(configurations),
		cmocka_unit_test(random_weights),
		cmocka_unit_test(components),
		cmocka_unit_test(models),
		cmocka_unit_test(onnx_files),
		cmocka_unit_test(tokenizers),
		cmocka_unit_test(schedules),
		cmocka_unit_test(samples),
	};
	return cmocka_run_group_tests_name("out_of_memory_model", tests, open_all, close_all);
}
