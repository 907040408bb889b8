/*
 * What a path holds, opened so that it runs:
 *
 *   FILE.onnx, a folder with model.onnx, an export     the UNet it is, like that of a folder; any other graph as it stands (onnx.c)
 *   a pipeline, a UNet's folder, a single file         a net with the adapter's slots, in float; or with a profile's, simulated
 *   a pipeline with `part`, a component's folder       that component's graph
 */
#include "export/file/file.h"
#include "export/runtime/internal.h"

#include <stdlib.h>
#include <string.h>

const char *const qd_executor_names[] = { "builtin", "torch", "ort", NULL };

/* ---- sizes ---- */

static enum qd_status input_shape(const struct qd_safetensors *inputs, const char *name, int rank, const struct qd_shape **out)
{
	const struct qd_tensor *tensor = NULL;
	enum qd_status st = qd_safetensors_get(inputs, name, &tensor);

	if (st != QD_OK)
		return st;
	*out = &tensor->shape;
	if (tensor->shape.rank != rank)
		return qd_fail(
			QD_EINPUT, "'%s': tensor '%s' has %d dimensions, needs %d", inputs->path, name, tensor->shape.rank, rank);
	return QD_OK;
}

static enum qd_status net_sizes(const struct qd_runtime_options *o, struct qd_sizes *sizes)
{
	const struct qd_shape *sample = NULL, *text = NULL;
	enum qd_status st = QD_OK;

	*sizes = o->sizes;
	if (o->inputs == NULL)
		return QD_OK;
	QD_TRY(st, input_shape(o->inputs, "sample", 4, &sample));
	QD_TRY(st, input_shape(o->inputs, "encoder_hidden_states", 3, &text));
	*sizes = (struct qd_sizes){ sample->dim[0], sample->dim[2], sample->dim[3], text->dim[1] };
out:
	return st;
}

/* ---- a UNet ---- */

static enum qd_status run_net(struct qd_runtime *rt, const struct qd_adapter *adapter)
{
	const struct qd_run_options options = { .libtorch = rt->options.executor == QD_EXECUTOR_TORCH };
	enum qd_status st;

	if (rt->options.profile != NULL)
		return qd_runner_open_simulated(&rt->runner, &rt->net, &rt->profile, adapter, rt->options.refit, options.libtorch);
	QD_TRY(st, qd_runner_open(&rt->runner, &rt->net.graph, &options));
	QD_TRY(st, qd_runner_feed_adapter(&rt->runner, &rt->net.slots, adapter));
out:
	return st;
}

static enum qd_status open_net(struct qd_runtime *rt)
{
	const struct qd_runtime_options *o = &rt->options;
	const struct qd_adapter *adapter;
	struct qd_sizes sizes;
	enum qd_status st;

	if (o->executor == QD_EXECUTOR_ORT)
		return qd_fail(QD_EINPUT, "'%s' is a model: ONNX Runtime executes exports and other ONNX graphs", o->base);
	QD_TRY(st, qd_opened_open(&rt->opened, o->base, &o->adapter, o->adapter != NULL));
	adapter = o->adapter != NULL ? rt->opened.adapter_list[0] : NULL;
	QD_TRY(st, net_sizes(o, &sizes));
	if (o->profile != NULL) {
		QD_TRY(st, qd_profile_read(&rt->profile, o->profile));
		QD_TRY(st, qd_profile_check_base(&rt->profile, &rt->opened.model));
	} else {
		QD_TRY(st,
			qd_slots_choose(&rt->slots, &rt->opened.modules, rt->opened.adapter_list, rt->opened.n_adapters, NULL, 0));
	}
	QD_TRY(st, qd_net_build(&rt->net, &rt->opened.model, &sizes, o->profile != NULL ? &rt->profile.slots : &rt->slots));
	st = run_net(rt, adapter);
	if (adapter != NULL)
		QD_TRY(st, qd_prefix(st, "adapter '%s'", adapter->name));
	rt->root = rt->opened.model.root;
	snprintf(rt->name, sizeof(rt->name), "%s%s", rt->runner.engine != NULL ? "engine" : "torch",
		o->profile != NULL ? ", simulated" : "");
out:
	return st;
}

/* ---- another component ---- */

/* Whether a UNet is meant: by its part, by the folder's configuration, or because `base` is no component's own folder. */
static bool means_unet(const struct qd_runtime_options *o)
{
	enum qd_component_kind kind;
	enum qd_status st;

	if (o->part != NULL)
		return strcmp(o->part, "unet") == 0;
	if (!qd_is_component(o->base))
		return true;
	st = qd_component_peek(o->base, NULL, &kind);
	return st == QD_OK ? kind == QD_COMPONENT_UNET : st == QD_EINPUT;
}

static bool is_direction(const char *part)
{
	return part != NULL && (strcmp(part, "encoder") == 0 || strcmp(part, "decoder") == 0);
}

static enum qd_status check_part(const struct qd_component *c, const struct qd_runtime_options *o)
{
	const char *kind = qd_component_kind_name(c->kind);
	bool vae = c->kind == QD_COMPONENT_VAE || c->kind == QD_COMPONENT_TINY_VAE;

	if (vae && !is_direction(o->part))
		return qd_fail(QD_EINPUT, "'%s' is %s, needs --part encoder or decoder", c->folder, kind);
	if (!vae && (is_direction(o->part) || c->kind == QD_COMPONENT_UNET))
		return qd_fail(QD_EINPUT, "'%s' is %s, which has no part '%s'", c->folder, kind, o->part);
	if (o->adapter != NULL || o->profile != NULL)
		return qd_fail(QD_EUNSUPPORTED, "'%s' is %s, --adapter and --profile apply to UNets", c->folder, kind);
	return QD_OK;
}

/* A tensor "clip_skip_<n>" in the file asks for that output. */
static int64_t asked_clip_skip(const struct qd_safetensors *inputs)
{
	static const char stem[] = "clip_skip_";

	for (size_t i = 0; i < inputs->n; i++)
		if (qd_starts_with(inputs->tensors[i].name, stem))
			return strtol(inputs->tensors[i].name + strlen(stem), NULL, 10);
	return 0;
}

static enum qd_status component_sizes(
	const struct qd_component *c, const struct qd_runtime_options *o, struct qd_component_sizes *sizes)
{
	const struct qd_shape *shape = NULL;
	const struct qd_tensor *ids = NULL;
	enum qd_status st;

	*sizes = (struct qd_component_sizes){ .part = QD_VAE_DECODER };
	if (c->kind == QD_COMPONENT_TEXT) {
		QD_TRY(st, input_shape(o->inputs, "input_ids", 2, &shape));
		QD_TRY(st, qd_safetensors_get(o->inputs, "input_ids", &ids));
		QD_TRY(st, qd_text_check_ids(&c->text, ids, o->inputs->path));
		sizes->tokens = shape->dim[1];
		sizes->clip_skip = asked_clip_skip(o->inputs);
	} else {
		if (strcmp(o->part, "encoder") == 0)
			sizes->part = QD_VAE_ENCODER;
		QD_TRY(st, input_shape(o->inputs, sizes->part == QD_VAE_ENCODER ? "x" : "z", 4, &shape));
		sizes->height = shape->dim[2];
		sizes->width = shape->dim[3];
	}
	sizes->batch = shape->dim[0];
out:
	return st;
}

static enum qd_status open_component(struct qd_runtime *rt)
{
	const struct qd_runtime_options *o = &rt->options;
	const struct qd_run_options options = { .libtorch = o->executor == QD_EXECUTOR_TORCH };
	struct qd_component_sizes sizes;
	enum qd_status st;

	QD_TRY(st, qd_component_open(&rt->component, o->base, is_direction(o->part) ? "vae" : o->part));
	if (o->executor == QD_EXECUTOR_ORT || o->inputs == NULL)
		QD_TRY(st, qd_fail(QD_EINPUT, "'%s' is %s, needs a UNet%s", rt->component.folder,
				   qd_component_kind_name(rt->component.kind),
				   o->executor == QD_EXECUTOR_ORT ? ": ONNX Runtime executes exports" : ""));
	QD_TRY(st, check_part(&rt->component, o));
	QD_TRY(st, component_sizes(&rt->component, o, &sizes));
	QD_TRY(st, qd_component_graph(&rt->component_graph, &rt->component, &sizes));
	QD_TRY(st, qd_runner_open(&rt->runner, &rt->component_graph, &options));
	rt->root = rt->component.folder;
	snprintf(rt->name, sizeof(rt->name), "%s", rt->runner.engine != NULL ? "engine" : "torch");
out:
	return st;
}

/* ---- whatever it is ---- */

/* The ONNX file that `base` is or has; NULL: neither. An export has one. */
static enum qd_status find_onnx(struct qd_runtime *rt, const char *base, const char **path)
{
	*path = base;
	if (qd_ends_with(base, ".onnx") && qd_is_file(base))
		return QD_OK;
	*path = qd_arena_strf(&rt->arena, "%s/model.onnx", base);
	if (*path == NULL)
		return QD_ENOMEM;
	if (!qd_is_directory(base) || (!qd_is_file(*path) && !qd_is_export(base)))
		*path = NULL;
	return QD_OK;
}

/* An ONNX file of a UNet is a model; its output's own name is kept. */
static enum qd_status open_onnx(struct qd_runtime *rt, const char *path)
{
	enum qd_status st;

	QD_TRY(st, qd_onnx_load(&rt->onnx.file, path));
	if (!qd_onnx_is_unet(rt->onnx.file))
		return qd_runtime_open_onnx(rt, path);
	rt->output_name = qd_arena_strdup(&rt->arena, qd_onnx_output(rt->onnx.file));
	if (rt->output_name == NULL)
		QD_TRY(st, QD_ENOMEM);
	qd_onnx_release(&rt->onnx);
	st = open_net(rt);
out:
	return st;
}

enum qd_status qd_runtime_open(struct qd_runtime *rt, const struct qd_runtime_options *options)
{
	const char *onnx;
	enum qd_status st;

	*rt = (struct qd_runtime){ .options = *options };
	QD_TRY(st, find_onnx(rt, options->base, &onnx));
	if (onnx != NULL)
		st = open_onnx(rt, onnx);
	else
		st = means_unet(options) ? open_net(rt) : open_component(rt);
out:
	if (st != QD_OK)
		qd_runtime_release(rt);
	return st;
}

void qd_runtime_release(struct qd_runtime *rt)
{
	qd_runner_release(&rt->runner);
	qd_ort_close(rt->ort);
	qd_onnx_release(&rt->onnx);
	qd_graph_release(&rt->component_graph);
	qd_component_release(&rt->component);
	qd_net_release(&rt->net);
	qd_profile_release(&rt->profile);
	qd_slots_release(&rt->slots);
	qd_opened_release(&rt->opened);
	qd_arena_release(&rt->arena);
	*rt = (struct qd_runtime){ 0 };
}

enum qd_status qd_runtime_feed(struct qd_runtime *rt, const struct qd_safetensors *inputs)
{
	const struct qd_graph *g = rt->runner.graph;
	enum qd_status st = QD_OK;

	for (size_t i = 0; i < g->n_inputs; i++) {
		const char *name = g->values[g->inputs[i]].name;
		const struct qd_tensor *tensor;
		if (qd_lora_tensor_of(name) != QD_LORA_NONE)
			continue;
		QD_TRY(st, qd_safetensors_get(inputs, name, &tensor));
		QD_TRY(st, qd_prefix(qd_runner_feed(&rt->runner, tensor), "'%s'", inputs->path));
	}
out:
	return st;
}

enum qd_status qd_runtime_schedule(const struct qd_runtime *rt, struct qd_schedule *schedule)
{
	return rt->net.graph.n_values > 0 ? qd_model_schedule(schedule, &rt->opened.model)
					  : qd_schedule_read(schedule, rt->root, "");
}

enum qd_status qd_runtime_base_hash(const struct qd_runtime *rt, char *out)
{
	char path[QD_PATH_BYTES];
	const char *hash;
	json_t *manifest = NULL;
	enum qd_status st = QD_OK;

	if (rt->net.graph.n_values > 0)
		return qd_model_hash(&rt->opened.model, out);
	QD_TRY(st, qd_path_join(path, rt->root, "manifest.json"));
	QD_TRY(st, qd_json_read(path, &manifest));
	hash = json_string_value(json_object_get(manifest, "base"));
	if (hash == NULL)
		QD_TRY(st, qd_fail(QD_EINPUT, "'%s' does not name its base", path));
	snprintf(out, QD_HASH_TEXT, "%s", hash);
out:
	json_decref(manifest);
	return st;
}

enum qd_status qd_runtime_note(const struct qd_runtime *rt, struct qd_provenance *made)
{
	char hash[QD_HASH_TEXT], weights[QD_PATH_BYTES];
	const char *parts[] = { rt->onnx_path, weights };
	enum qd_status st = QD_OK;

	if (rt->net.graph.n_values > 0) {
		QD_TRY(st, qd_model_hash(&rt->opened.model, hash));
		QD_TRY(st, qd_provenance_input(made, "base", NULL, hash));
	} else {
		snprintf(weights, sizeof(weights), "%s.data", rt->onnx_path);
		for (size_t i = 0; i < QD_COUNT(parts); i++)
			if (qd_is_file(parts[i]))
				QD_TRY(st, qd_provenance_file(made, "graph", parts[i]));
	}
	for (size_t i = 0; i < rt->opened.n_adapters; i++)
		QD_TRY(st, qd_provenance_input(made, "adapter", NULL, rt->opened.adapter_list[i]->hash));
	if (rt->adapter_path != NULL)
		QD_TRY(st, qd_provenance_file(made, "adapter", rt->adapter_path));
	if (rt->options.profile != NULL)
		st = qd_provenance_file(made, "profile", rt->options.profile);
out:
	return st;
}
