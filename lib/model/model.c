/*
 * A model as it lies on disk: a pipeline folder (model_index.json, unet/, scheduler/, ...), the folder of its UNet alone, with
 * config.json and the weights beside it, a single file with everything in it, or an ONNX file of the UNet.
 */
#include "lib/model/internal.h"

#include <stdlib.h>
#include <string.h>

static const char stem[] = "diffusion_pytorch_model";

static enum qd_status copy(char **out, const char *fmt, ...) QD_PRINTF(2, 3);
static enum qd_status copy(char **out, const char *fmt, ...)
{
	va_list args;
	va_start(args, fmt);
	int n = vasprintf(out, fmt, args);
	va_end(args);
	if (n >= 0)
		return QD_OK;
	*out = NULL;
	return qd_fail(QD_ENOMEM, "out of memory");
}

/* `path` without trailing slashes and ending in "/unet", of a pipeline folder: that folder's length; else 0. */
static size_t pipeline_prefix(const char *path)
{
	char root[QD_PATH_BYTES];
	size_t n = strlen(path);
	while (n > 1 && path[n - 1] == '/')
		n--;
	if (n < 6 || n >= sizeof(root) || strncmp(path + n - 5, "/unet", 5) != 0)
		return 0;
	memcpy(root, path, n - 5);
	root[n - 5] = 0;
	return qd_has_file(root, "model_index.json") ? n - 5 : 0;
}

/* Which folders `path` means. */
static enum qd_status locate(struct qd_model *model, const char *path)
{
	if (!qd_is_directory(path))
		return qd_fail(QD_EINPUT,
			"'%s' is neither file nor folder, needs a checkpoint or a diffusers folder with unet/config.json or "
			"config.json",
			path);
	if (qd_has_file(path, "unet/config.json")) {
		enum qd_status st = copy(&model->root, "%s", path);
		return st == QD_OK ? copy(&model->folder, "%s/unet", path) : st;
	}
	if (!qd_has_file(path, "config.json"))
		return qd_fail(QD_EINPUT, "'%s' has no model, needs unet/config.json or config.json", path);
	size_t prefix = pipeline_prefix(path);
	enum qd_status st = copy(&model->root, "%.*s", prefix ? (int)prefix : (int)strlen(path), path);
	return st == QD_OK ? copy(&model->folder, "%s", path) : st;
}

static enum qd_status open_onnx(struct qd_model *model, const char *path)
{
	model->kind = QD_MODEL_ONNX;
	return qd_onnx_unet_open(&model->onnx, &model->config, &model->weights, path);
}

/* A component folder as exporters write it: the graph in place of the weights. */
static bool holds_onnx(const char *folder)
{
	return qd_has_file(folder, "model.onnx") && !qd_has_file(folder, "diffusion_pytorch_model.safetensors") &&
	       !qd_has_file(folder, "diffusion_pytorch_model.safetensors.index.json");
}

static enum qd_status open_folder(struct qd_model *model, const char *path)
{
	char *config = NULL;
	enum qd_status st;
	QD_TRY(st, locate(model, path));
	if (holds_onnx(model->folder)) {
		QD_TRY(st, copy(&config, "%s/model.onnx", model->folder));
		st = open_onnx(model, config);
		goto out;
	}
	QD_TRY(st, copy(&config, "%s/config.json", model->folder));
	QD_TRY(st, qd_unet_config_read(&model->config, config));
	QD_TRY(st, qd_weights_open(&model->weights, model->folder, stem));
out:
	free(config);
	return st;
}

static enum qd_status open_file(struct qd_model *model, const char *path)
{
	const char *slash = strrchr(path, '/');
	enum qd_status st;
	QD_TRY(st, copy(&model->folder, "%s", path));
	QD_TRY(st, copy(&model->root, "%.*s", slash > path ? (int)(slash - path) : 1, slash != NULL ? path : "."));
	if (qd_ends_with(path, ".onnx")) {
		model->root[pipeline_prefix(model->root) > 0 ? pipeline_prefix(model->root) : strlen(model->root)] = '\0';
		return open_onnx(model, path);
	}
	model->kind = QD_MODEL_CHECKPOINT;
	QD_TRY(st, qd_checkpoint_open(&model->config, &model->weights, path));
out:
	return st;
}

enum qd_status qd_pipeline_read(struct qd_pipeline *pipeline, const char *root)
{
	char path[QD_PATH_BYTES];
	json_t *json = NULL;
	struct qd_fields f = { .what = path };
	const json_t *name;
	enum qd_status st = QD_OK;

	QD_TRY(st, qd_path_join(path, root, "model_index.json"));
	if (qd_is_file(path))
		QD_TRY(st, qd_json_read(path, &json));
	f.json = json;
	name = qd_field(&f, "_class_name");
	if (json != NULL && !json_is_object(json))
		qd_fields_fail(&f, QD_EINPUT, "'%s' is no JSON object, needs one of a pipeline's components", path);
	if (name != NULL && !json_is_string(name))
		qd_field_refuse(&f, QD_EINPUT, "_class_name", name, "a text");
	*pipeline = (struct qd_pipeline){ .zeros_for_empty_prompt = qd_field_bool(&f, "force_zeros_for_empty_prompt", true) };
	snprintf(pipeline->class_name, sizeof(pipeline->class_name), "%s", json_is_string(name) ? json_string_value(name) : "");
	st = f.status;
out:
	json_decref(json);
	return st;
}

enum qd_status qd_model_open(struct qd_model *model, const char *path)
{
	*model = (struct qd_model){ 0 };
	enum qd_status st = qd_is_file(path) ? open_file(model, path) : open_folder(model, path);
	if (st == QD_OK)
		st = qd_pipeline_read(&model->pipeline, model->root);
	if (st != QD_OK)
		qd_model_release(model);
	return st;
}

void qd_model_release(struct qd_model *model)
{
	free(model->folder);
	free(model->root);
	qd_weights_release(&model->weights);
	qd_onnx_unet_free(model->onnx);
	*model = (struct qd_model){ 0 };
}

enum qd_status qd_model_graph(struct qd_graph *g, const struct qd_model *model, const struct qd_sizes *sizes)
{
	if (model->onnx != NULL)
		return qd_onnx_unet_graph(g, model->onnx, &model->config, &model->weights, sizes);
	return qd_unet_graph(g, &model->config, &model->weights, sizes);
}

/* What a file was exported for wins. */
static struct qd_sizes allowed_sizes(const struct qd_model *model, struct qd_sizes sizes)
{
	if (model->onnx == NULL)
		return sizes;
	struct qd_sizes fixed = qd_onnx_unet_sizes(model->onnx);
	return (struct qd_sizes){ fixed.batch < 0 ? sizes.batch : fixed.batch, fixed.height < 0 ? sizes.height : fixed.height,
		fixed.width < 0 ? sizes.width : fixed.width, fixed.tokens < 0 ? sizes.tokens : fixed.tokens };
}

struct qd_sizes qd_model_least_sizes(const struct qd_model *model)
{
	int64_t side = (int64_t)1 << (model->config.blocks - 1);
	return allowed_sizes(model, (struct qd_sizes){ .batch = 1, .height = side, .width = side, .tokens = 1 });
}

struct qd_sizes qd_model_native_sizes(const struct qd_model *model)
{
	int64_t side = model->config.sample_size ? model->config.sample_size : 64;
	return allowed_sizes(model, (struct qd_sizes){ .batch = 1, .height = side, .width = side, .tokens = 77 });
}

/* ---- noise schedule ---- */

enum qd_status qd_model_schedule(struct qd_schedule *schedule, const struct qd_model *model)
{
	bool v = false;
	enum qd_status st;

	*schedule = (struct qd_schedule){ 0 };
	if (model->kind == QD_MODEL_CHECKPOINT)
		QD_TRY(st, qd_checkpoint_marked_v(&model->weights.files[0], &v));
	QD_TRY(st, qd_schedule_read(schedule, model->root, model->pipeline.class_name));
	if (!v || schedule->prediction == QD_PREDICT_V)
		goto out;
	if (qd_has_file(model->root, "scheduler/scheduler_config.json"))
		st = qd_fail(QD_EINPUT,
			"'%s' predicts v (tensor 'v_pred'), '%s/scheduler/scheduler_config.json' says %s: needs both alike",
			model->folder, model->root, qd_prediction_names[schedule->prediction]);
	schedule->prediction = QD_PREDICT_V;
out:
	if (st != QD_OK)
		qd_schedule_release(schedule);
	return st;
}

/* ---- hash ---- */

static int by_name(const void *a, const void *b)
{
	const struct qd_tensor *const *x = a, *const *y = b;
	return strcmp((*x)->name, (*y)->name);
}

/* The configuration in one spelling. The caller frees it. */
static enum qd_status config_text(const struct qd_model *model, char **out)
{
	json_t *json = qd_unet_config_identity(&model->config);
	enum qd_status st = qd_json_text(json, JSON_COMPACT | JSON_SORT_KEYS, out);
	json_decref(json);
	return st;
}

/* Every tensor, sorted by name, so that neither order nor sharding matters. */
static enum qd_status tensor_lines(FILE *text, const struct qd_weights *weights)
{
	const struct qd_tensor **sorted = calloc(weights->n + 1, sizeof(*sorted));
	if (sorted == NULL)
		return qd_fail(QD_ENOMEM, "out of memory");
	if (weights->n)
		memcpy(sorted, weights->tensors, weights->n * sizeof(*sorted));
	qsort(sorted, weights->n, sizeof(*sorted), by_name);
	for (size_t i = 0; i < weights->n; i++)
		qd_tensor_print(sorted[i], text);
	free(sorted);
	return QD_OK;
}

enum qd_status qd_model_hash(const struct qd_model *model, char *out)
{
	char *config = NULL;
	struct qd_text text;
	enum qd_status st;
	QD_TRY(st, qd_text_open(&text));
	QD_TRY(st, config_text(model, &config));
	fprintf(text.stream, "%s\n", config);
	QD_TRY(st, tensor_lines(text.stream, &model->weights));
	QD_TRY(st, qd_text_end(&text));
	qd_hash_bytes(text.bytes, text.n, out);
out:
	qd_text_release(&text);
	free(config);
	return st;
}
