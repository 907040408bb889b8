/*
 * What quad eval runs: see eval.h. --base is an ONNX file or a folder with an export, a UNet (in a pipeline folder, a folder of its
 * own or a single file), or a folder with another component.
 */
#include "cmd/eval.h"

#include <stdlib.h>
#include <string.h>

/* ---- a UNet ---- */

static const struct qd_adapter *adapter_of(const struct qd_evaluated *e)
{
	return e->opened.n_adapters ? e->opened.adapter_list[0] : NULL;
}

static enum qd_status input_shape(const struct qd_evaluated *e, const char *name, int rank, const struct qd_shape **out)
{
	const struct qd_tensor *tensor = NULL;
	enum qd_status st = qd_safetensors_get(&e->inputs, name, &tensor);
	if (st != QD_OK)
		return st;
	*out = &tensor->shape;
	if (tensor->shape.rank != rank)
		return qd_fail(
			QD_EINPUT, "'%s': tensor '%s' has %d dimensions, needs %d", e->inputs.path, name, tensor->shape.rank, rank);
	return QD_OK;
}

static enum qd_status sizes_of(const struct qd_evaluated *e, struct qd_sizes *sizes)
{
	const struct qd_shape *sample = NULL, *text = NULL;
	enum qd_status st;
	QD_TRY(st, input_shape(e, "sample", 4, &sample));
	QD_TRY(st, input_shape(e, "encoder_hidden_states", 3, &text));
	*sizes = (struct qd_sizes){ sample->dim[0], sample->dim[2], sample->dim[3], text->dim[1] };
out:
	return st;
}

/* The encodings of a profile on the net, the adapter fitted to them. */
static enum qd_status use_profile(struct qd_evaluated *e)
{
	enum qd_status st;
	QD_TRY(st, qd_profile_apply(&e->profile, &e->net));
	if (adapter_of(e))
		QD_TRY(st, qd_fit_adapter(&e->fitted, adapter_of(e), &e->profile, e->profile.options.align));
out:
	return st;
}

static enum qd_status open_net(struct qd_evaluated *e)
{
	const struct qd_common *common = e->common;
	struct qd_sizes sizes = { 0 };
	enum qd_status st;
	QD_TRY(st, qd_open_all(&e->opened, common));
	QD_TRY(st, sizes_of(e, &sizes));
	if (common->profile) {
		QD_TRY(st, qd_profile_read(&e->profile, common->profile));
		QD_TRY(st, qd_profile_check_base(&e->profile, &e->opened.model));
	} else {
		QD_TRY(st, qd_slots_choose(&e->slots, &e->opened.modules, e->opened.adapter_list, e->opened.n_adapters, NULL, 0));
	}
	QD_TRY(st, qd_net_build(&e->net, &e->opened.model, &sizes, common->profile ? &e->profile.slots : &e->slots));
	if (common->profile)
		QD_TRY(st, use_profile(e));
	e->g = &e->net.graph;
out:
	return st;
}

/* ---- another component ---- */

/* Whether a UNet is meant: by --part, by the folder's configuration, or because `base` is no component's own folder. */
static bool means_unet(const struct qd_evaluated *e)
{
	enum qd_component_kind kind;
	if (e->part)
		return strcmp(e->part, "unet") == 0;
	if (!qd_is_component(e->common->base))
		return true;
	enum qd_status st = qd_component_peek(e->common->base, NULL, &kind);
	return st == QD_OK ? kind == QD_COMPONENT_UNET : st == QD_EINPUT;
}

static bool is_direction(const char *part)
{
	return part && (strcmp(part, "encoder") == 0 || strcmp(part, "decoder") == 0);
}

static enum qd_status check_part(const struct qd_evaluated *e)
{
	const struct qd_component *c = &e->component;
	bool vae = c->kind == QD_COMPONENT_VAE || c->kind == QD_COMPONENT_TINY_VAE;
	if (vae && !is_direction(e->part))
		return qd_fail(
			QD_EINPUT, "'%s' is %s, needs --part encoder or decoder", c->folder, qd_component_kind_name(c->kind));
	if (!vae && (is_direction(e->part) || c->kind == QD_COMPONENT_UNET))
		return qd_fail(
			QD_EINPUT, "'%s' is %s, which has no part '%s'", c->folder, qd_component_kind_name(c->kind), e->part);
	if (e->common->adapters.n || e->common->profile)
		return qd_fail(QD_EUNSUPPORTED, "'%s' is %s, --adapter and --profile apply to UNets", c->folder,
			qd_component_kind_name(c->kind));
	return QD_OK;
}

/* A tensor "clip_skip_<n>" in the file asks for that output. */
static int64_t asked_clip_skip(const struct qd_safetensors *inputs)
{
	static const char stem[] = "clip_skip_";
	for (size_t i = 0; i < inputs->n; i++) {
		if (qd_starts_with(inputs->tensors[i].name, stem))
			return strtol(inputs->tensors[i].name + strlen(stem), NULL, 10);
	}
	return 0;
}

static enum qd_status component_sizes(const struct qd_evaluated *e, struct qd_component_sizes *sizes)
{
	const struct qd_shape *shape = NULL;
	const struct qd_tensor *ids = NULL;
	enum qd_status st;
	*sizes = (struct qd_component_sizes){ .part = QD_VAE_DECODER };
	if (e->component.kind == QD_COMPONENT_TEXT) {
		QD_TRY(st, input_shape(e, "input_ids", 2, &shape));
		QD_TRY(st, qd_safetensors_get(&e->inputs, "input_ids", &ids));
		QD_TRY(st, qd_text_check_ids(&e->component.text, ids, e->inputs.path));
		sizes->tokens = shape->dim[1];
		sizes->clip_skip = asked_clip_skip(&e->inputs);
	} else {
		if (strcmp(e->part, "encoder") == 0)
			sizes->part = QD_VAE_ENCODER;
		QD_TRY(st, input_shape(e, sizes->part == QD_VAE_ENCODER ? "x" : "z", 4, &shape));
		sizes->height = shape->dim[2];
		sizes->width = shape->dim[3];
	}
	sizes->batch = shape->dim[0];
out:
	return st;
}

static enum qd_status open_component(struct qd_evaluated *e)
{
	struct qd_component_sizes sizes;
	enum qd_status st;
	QD_TRY(st, qd_component_open(&e->component, e->common->base, is_direction(e->part) ? "vae" : e->part));
	QD_TRY(st, check_part(e));
	QD_TRY(st, component_sizes(e, &sizes));
	e->g = &e->component_graph;
	QD_TRY(st, qd_component_graph(&e->component_graph, &e->component, &sizes));
out:
	return st;
}

/* ---- an export ---- */

/* An ONNX file, or a folder that holds an export. `*path` is empty when `base` is neither. */
static enum qd_status find_export(const char *base, char *path)
{
	path[0] = 0;
	if (qd_ends_with(base, ".onnx") && qd_is_file(base))
		return snprintf(path, QD_PATH_BYTES, "%s", base) < QD_PATH_BYTES
			       ? QD_OK
			       : qd_fail(QD_EIO, "the path '%.60s...' is too long", base);
	return qd_is_directory(base) && qd_has_file(base, "model.onnx") ? qd_path_join(path, base, "model.onnx") : QD_OK;
}

/* An ONNX file of a UNet is a model like its folder; an export and any other graph run as they stand. */
static enum qd_status open_exported(struct qd_evaluated *e, const char *path)
{
	enum qd_status st;
	QD_TRY(st, qd_output_update_settle(e->common->base));
	QD_TRY(st, qd_onnx_load(&e->onnx.file, path));
	if (qd_onnx_is_unet(e->onnx.file)) {
		snprintf(e->declared, sizeof(e->declared), "%s", qd_onnx_output(e->onnx.file));
		qd_onnx_release(&e->onnx);
		return open_net(e);
	}
	if (e->common->profile)
		return qd_fail(QD_EINPUT, "'%s' carries its encodings, --profile does not apply", path);
	e->g = &e->onnx.graph;
	QD_TRY(st, qd_onnx_graph(&e->onnx.graph, e->onnx.file, e->inputs.tensors, e->inputs.n));
	if (qd_graph_has_lora_inputs(e->g))
		return QD_OK;
	if (e->common->adapters.n)
		return qd_fail(QD_EINPUT, "'%s' is no UNet and has no LoRA inputs, --adapter does not apply", path);
	QD_TRY(st, qd_graph_recognize(&e->onnx.graph, NULL, NULL));
out:
	return st;
}

/* Opens what is meant; e->g is set. */
static enum qd_status open_graph(struct qd_evaluated *e)
{
	char exported[QD_PATH_BYTES];
	enum qd_status st = find_export(e->common->base, exported);
	if (st != QD_OK)
		return st;
	if (exported[0])
		return open_exported(e, exported);
	return means_unet(e) ? open_net(e) : open_component(e);
}

/* ---- inputs ---- */

/* Every input of the graph that is no LoRA tensor, from the file. */
static enum qd_status bind_inputs(struct qd_evaluated *e)
{
	for (size_t i = 0; i < e->g->n_inputs; i++) {
		const char *name = e->g->values[e->g->inputs[i]].name;
		const struct qd_tensor *tensor = NULL;
		if (qd_lora_tensor_of(name) != QD_LORA_NONE)
			continue;
		enum qd_status st = qd_safetensors_get(&e->inputs, name, &tensor);
		if (st == QD_OK)
			st = qd_tensor_check_finite(tensor, e->inputs.path);
		if (st == QD_OK)
			st = qd_prefix(qd_exec_bind_tensor(e->exec, name, tensor), "'%s'", e->inputs.path);
		if (st != QD_OK)
			return st;
	}
	return QD_OK;
}

/* LoRA inputs of an exported graph, from a file of them; those that it does not have (all, without a file) are zero. */
static enum qd_status bind_exported(struct qd_evaluated *e, const struct qd_safetensors *adapter)
{
	struct qd_tensor zero = { 0 };
	enum qd_status st = QD_OK;
	for (size_t i = 0; i < e->g->n_inputs; i++) {
		const struct qd_value *value = &e->g->values[e->g->inputs[i]];
		if (qd_lora_tensor_of(value->name) == QD_LORA_NONE)
			continue;
		const struct qd_tensor *tensor = adapter ? qd_safetensors_find(adapter, value->name) : NULL;
		qd_tensor_release(&zero);
		QD_TRY(st, qd_tensor_new(&zero, value->name, value->dtype, &value->shape));
		QD_TRY(st, qd_exec_bind_tensor(e->exec, value->name, tensor ? tensor : &zero));
	}
out:
	qd_tensor_release(&zero);
	return st;
}

/* `--adapter` of an exported graph: a file, or a name in the folder's adapters/. */
static enum qd_status bind_export_adapter(struct qd_evaluated *e)
{
	const struct qd_common *common = e->common;
	struct qd_safetensors file = { 0 };
	char path[QD_PATH_BYTES];
	enum qd_status st;
	if (!common->adapters.n)
		return bind_exported(e, NULL);
	QD_TRY(st, qd_path_join(path, common->base, "adapters/%s.safetensors", common->adapters.items[0]));
	QD_TRY(st, qd_safetensors_open(&file, qd_is_file(common->adapters.items[0]) ? common->adapters.items[0] : path));
	QD_TRY(st, bind_exported(e, &file));
out:
	qd_safetensors_release(&file);
	return st;
}

static enum qd_status bind_adapter(struct qd_evaluated *e)
{
	if (e->g == &e->onnx.graph)
		return bind_export_adapter(e);
	if (e->g == &e->component_graph)
		return QD_OK;
	if (e->common->profile && adapter_of(e))
		return qd_net_bind_fitted(&e->net, e->exec, &e->fitted);
	return qd_net_bind_adapter(&e->net, e->exec, adapter_of(e));
}

/* ---- all of it ---- */

enum qd_status qd_evaluated_open(struct qd_evaluated *e)
{
	bool simulated = e->common->profile != NULL;
	struct qd_exec_options options = { .hook = simulated ? qd_sim_hook : NULL, .see_all = simulated };
	enum qd_status st;
	QD_TRY(st, open_graph(e));
	options.libtorch = e->g == &e->onnx.graph; /* as simulation: an exported file and a profile give the same bits */
	qt_set_grad(false);
	QD_TRY(st, qd_exec_new(&e->exec, e->g, &options));
	QD_TRY(st, bind_inputs(e));
	QD_TRY(st, bind_adapter(e));
out:
	return st;
}

void qd_evaluated_release(struct qd_evaluated *e)
{
	qd_exec_free(e->exec);
	qd_net_release(&e->net);
	qd_graph_release(&e->component_graph);
	qd_component_release(&e->component);
	qd_onnx_release(&e->onnx);
	qd_fitted_release(&e->fitted);
	qd_profile_release(&e->profile);
	qd_slots_release(&e->slots);
	qd_opened_release(&e->opened);
	qd_safetensors_release(&e->inputs);
}
