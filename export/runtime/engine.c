/*
 * Engines: the float graph, the simulated graph and the exported file behind one call. A model folder is built into a net and
 * executed by libtorch, with the simulator's hook when there is a profile; an export is read back from its ONNX file and executed
 * as it stands, by libtorch or by ONNX Runtime. LoRA inputs are bound once, when the engine is opened.
 */
#include "export/file/file.h"
#include "export/runtime/runtime.h"
#include "lib/ort/ort.h"

#include <stdlib.h>
#include <string.h>

struct qd_engine {
	struct qd_engine_options options;
	char *root;
	char name[64];
	/* a model folder */
	struct qd_model model;
	struct qd_profile profile;
	struct qd_adapter adapter;
	struct qd_slots slots; /* the adapter's own, when there is no profile */
	struct qd_net net;
	/* an export */
	struct qd_onnx onnx;
	struct qd_safetensors lora;
	struct qd_tensor *lora_feeds; /* one per LoRA input: from the file, or zeros */
	size_t n_lora;
	struct qd_arena arena;
	/* what executes */
	const struct qd_graph *graph;
	struct qd_exec *exec;
	struct qd_ort *ort;
	struct qd_ort_session *session;
};

/* ---- a model folder ---- */

/* Layers are looked for in the smallest graph of the model: which they are does not depend on sizes. */
static enum qd_status open_adapter(struct qd_engine *e, const char *spec)
{
	enum qd_status st;
	struct qd_graph shapes;
	struct qd_modules modules = { 0 };
	struct qd_sizes sizes = qd_model_least_sizes(&e->model);
	qd_graph_init(&shapes, "shapes");
	QD_TRY(st, qd_model_graph(&shapes, &e->model, &sizes));
	QD_TRY(st, qd_modules_of(&modules, &shapes));
	QD_TRY(st, qd_adapter_open_spec(&e->adapter, spec, &modules));
	if (e->options.profile == NULL) {
		const struct qd_adapter *one = &e->adapter;
		QD_TRY(st, qd_slots_choose(&e->slots, &modules, &one, 1, NULL, 0));
	}
out:
	qd_modules_release(&modules);
	qd_graph_release(&shapes);
	return st;
}

static enum qd_status bind_adapter(struct qd_engine *e, bool simulated)
{
	enum qd_status st;
	struct qd_fitted fitted = { 0 };
	if (!simulated || e->options.adapter == NULL)
		return qd_net_bind_adapter(&e->net, e->exec, e->options.adapter != NULL ? &e->adapter : NULL);
	QD_TRY(st, qd_fit_adapter(&fitted, &e->adapter, &e->profile, e->profile.options.align));
	QD_TRY(st, qd_net_bind_fitted(&e->net, e->exec, &fitted));
out:
	qd_fitted_release(&fitted);
	return st;
}

static enum qd_status open_model(struct qd_engine *e)
{
	enum qd_status st;
	bool simulated = e->options.profile != NULL;
	struct qd_exec_options exec = { .hook = simulated ? qd_sim_hook : NULL, .see_all = simulated };
	QD_TRY(st, qd_model_open(&e->model, e->options.base));
	if (simulated) {
		QD_TRY(st, qd_profile_read(&e->profile, e->options.profile));
		QD_TRY(st, qd_profile_check_base(&e->profile, &e->model));
	}
	if (e->options.adapter != NULL)
		QD_TRY(st, open_adapter(e, e->options.adapter));
	QD_TRY(st, qd_net_build(&e->net, &e->model, &e->options.sizes, simulated ? &e->profile.slots : &e->slots));
	if (simulated)
		QD_TRY(st, qd_profile_apply(&e->profile, &e->net));
	QD_TRY(st, qd_exec_new(&e->exec, &e->net.graph, &exec));
	QD_TRY(st, bind_adapter(e, simulated));
	e->graph = &e->net.graph;
	e->root = strdup(e->model.root);
	snprintf(e->name, sizeof(e->name), "torch%s", simulated ? ", simulated" : "");
out:
	return st;
}

/* ---- an export ---- */

/* "NAME" is adapters/NAME.safetensors of the export, "NAME=FILE" a file. */
static enum qd_status open_lora(struct qd_engine *e, const char *spec)
{
	const char *equals = strchr(spec, '=');
	const char *path =
		equals != NULL ? equals + 1 : qd_arena_strf(&e->arena, "%s/adapters/%s.safetensors", e->options.base, spec);
	if (path == NULL)
		return QD_ENOMEM;
	return qd_safetensors_open(&e->lora, path);
}

static enum qd_status lora_feed(struct qd_engine *e, const struct qd_value *input, struct qd_tensor *feed)
{
	const struct qd_tensor *stored;
	enum qd_status st;
	char found[QD_SHAPE_TEXT], needed[QD_SHAPE_TEXT];
	if (e->options.adapter == NULL)
		return qd_tensor_new(feed, input->name, input->dtype, &input->shape);
	QD_TRY(st, qd_safetensors_get(&e->lora, input->name, &stored));
	if (stored->dtype != input->dtype || !qd_shape_equal(&stored->shape, &input->shape))
		return qd_fail(QD_EINPUT, "'%s': '%s' is %s %s, the graph needs %s %s", e->lora.path, input->name,
			qd_dtype_name(stored->dtype), qd_shape_text(&stored->shape, found), qd_dtype_name(input->dtype),
			qd_shape_text(&input->shape, needed));
	/* copied: engines want aligned bytes */
	QD_TRY(st, qd_tensor_new(feed, input->name, input->dtype, &input->shape));
	memcpy(feed->data, stored->data, stored->bytes);
out:
	return st;
}

static enum qd_status lora_feeds(struct qd_engine *e)
{
	enum qd_status st = QD_OK;
	const struct qd_graph *g = e->graph;
	e->lora_feeds = calloc(g->n_inputs + 1, sizeof(*e->lora_feeds));
	if (e->lora_feeds == NULL)
		return qd_fail(QD_ENOMEM, "cannot hold %zu inputs", g->n_inputs);
	for (size_t i = 0; i < g->n_inputs; i++)
		if (qd_lora_tensor_of(g->values[g->inputs[i]].name) != QD_LORA_NONE)
			QD_TRY(st, lora_feed(e, &g->values[g->inputs[i]], &e->lora_feeds[e->n_lora++]));
out:
	return st;
}

static enum qd_status start_torch(struct qd_engine *e)
{
	enum qd_status st;
	/* the operators that simulation runs on: the two then agree bit for bit, where every sum taken in another order turns some
	 * value on its grid */
	struct qd_exec_options exec = { .libtorch = true };
	QD_TRY(st, qd_exec_new(&e->exec, e->graph, &exec));
	for (size_t i = 0; i < e->n_lora; i++)
		QD_TRY(st, qd_exec_bind_tensor(e->exec, e->lora_feeds[i].name, &e->lora_feeds[i]));
	snprintf(e->name, sizeof(e->name), "torch, exported file");
out:
	return st;
}

static enum qd_status start_ort(struct qd_engine *e, const char *model)
{
	enum qd_status st;
	struct qd_ort_options ort = { .threads = e->options.threads, .profile = e->options.ort_profile };
	QD_TRY(st, qd_ort_open(&e->ort, e->options.ort_library));
	QD_TRY(st, qd_ort_session_new(&e->session, e->ort, model, &ort));
	snprintf(e->name, sizeof(e->name), "ONNX Runtime %s", qd_ort_version(e->ort));
out:
	return st;
}

static enum qd_status open_export(struct qd_engine *e)
{
	enum qd_status st;
	const char *model = qd_arena_strf(&e->arena, "%s/model.onnx", e->options.base);
	if (model == NULL)
		return QD_ENOMEM;
	if (e->options.profile != NULL)
		return qd_fail(QD_EINPUT, "'%s' is an export, which carries its encodings: it takes no profile", e->options.base);
	QD_TRY(st, qd_output_update_settle(e->options.base));
	QD_TRY(st, qd_onnx_open(&e->onnx, model, NULL, 0));
	e->graph = &e->onnx.graph;
	if (e->options.adapter != NULL)
		QD_TRY(st, open_lora(e, e->options.adapter));
	QD_TRY(st, lora_feeds(e));
	QD_TRY(st, e->options.ort ? start_ort(e, model) : start_torch(e));
	e->root = strdup(e->options.base);
out:
	return st;
}

/* ---- both ---- */

enum qd_status qd_engine_open(struct qd_engine **out, const struct qd_engine_options *options)
{
	enum qd_status st;
	struct qd_engine *e = calloc(1, sizeof(*e));
	*out = NULL;
	if (e == NULL)
		return qd_fail(QD_ENOMEM, "cannot open '%s'", options->base);
	e->options = *options;
	if (qd_is_export(options->base)) {
		QD_TRY(st, open_export(e));
	} else if (options->ort) {
		st = qd_fail(QD_EINPUT, "'%s' has no manifest.json: ONNX Runtime executes exports", options->base);
		goto out;
	} else {
		QD_TRY(st, open_model(e));
	}
	if (e->root == NULL) {
		st = qd_fail(QD_ENOMEM, "cannot open '%s'", options->base);
		goto out;
	}
	*out = e;
	e = NULL;
out:
	qd_engine_free(e);
	return st;
}

void qd_engine_free(struct qd_engine *e)
{
	if (e == NULL)
		return;
	qd_exec_free(e->exec);
	qd_ort_session_free(e->session);
	qd_ort_close(e->ort);
	for (size_t i = 0; i < e->n_lora; i++)
		qd_tensor_release(&e->lora_feeds[i]);
	free(e->lora_feeds);
	qd_safetensors_release(&e->lora);
	qd_onnx_release(&e->onnx);
	qd_net_release(&e->net);
	qd_slots_release(&e->slots);
	qd_adapter_release(&e->adapter);
	qd_profile_release(&e->profile);
	qd_model_release(&e->model);
	qd_arena_release(&e->arena);
	free(e->root);
	free(e);
}

const struct qd_graph *qd_engine_graph(const struct qd_engine *e)
{
	return e->graph;
}

const char *qd_engine_root(const struct qd_engine *e)
{
	return e->root;
}

enum qd_status qd_engine_base_hash(const struct qd_engine *e, char *out)
{
	char path[QD_PATH_BYTES];
	const char *hash;
	json_t *manifest = NULL;
	enum qd_status st = QD_OK;

	if (e->net.graph.n_values > 0)
		return qd_model_hash(&e->model, out);
	QD_TRY(st, qd_path_join(path, e->root, "manifest.json"));
	QD_TRY(st, qd_json_read(path, &manifest));
	hash = json_string_value(json_object_get(manifest, "base"));
	if (hash == NULL)
		QD_TRY(st, qd_fail(QD_EINPUT, "'%s' does not name its base", path));
	snprintf(out, QD_HASH_TEXT, "%s", hash);
out:
	json_decref(manifest);
	return st;
}

const char *qd_engine_name(const struct qd_engine *e)
{
	return e->name;
}

static enum qd_status run_torch(
	struct qd_engine *e, const struct qd_tensor *feeds, size_t n, const struct qd_value *result, float *out)
{
	enum qd_status st;
	qt_tensor *outputs = calloc(e->graph->n_outputs, sizeof(*outputs));
	bool grad = qt_get_grad();
	if (outputs == NULL)
		return qd_fail(QD_ENOMEM, "cannot hold %zu outputs", e->graph->n_outputs);
	qt_set_grad(false);
	for (size_t i = 0; i < n; i++)
		QD_TRY(st, qd_exec_bind_tensor(e->exec, feeds[i].name, &feeds[i]));
	QD_TRY(st, qd_exec_run(e->exec, outputs));
	QD_TRY(st, qt_read(outputs[0], out, (size_t)qd_shape_elements(&result->shape) * sizeof(float)));
out:
	qt_set_grad(grad);
	for (size_t i = 0; i < e->graph->n_outputs; i++)
		qt_free(outputs[i]);
	free(outputs);
	return st;
}

static enum qd_status run_ort(
	struct qd_engine *e, const struct qd_tensor *feeds, size_t n, const struct qd_value *result, float *out)
{
	enum qd_status st;
	struct qd_tensor output = qd_tensor_view(result->name, QD_F32, result->shape, out);
	struct qd_tensor *all = calloc(n + e->n_lora + 1, sizeof(*all));
	if (all == NULL)
		return qd_fail(QD_ENOMEM, "cannot hold %zu inputs", n + e->n_lora);
	memcpy(all, feeds, n * sizeof(*all));
	memcpy(all + n, e->lora_feeds, e->n_lora * sizeof(*all));
	st = qd_ort_run(e->session, all, n + e->n_lora, NULL, &output, 1);
	free(all);
	return st;
}

enum qd_status qd_engine_run(struct qd_engine *e, const struct qd_tensor *feeds, size_t n, float *out)
{
	const struct qd_value *result = &e->graph->values[e->graph->outputs[0]];
	return e->session != NULL ? run_ort(e, feeds, n, result, out) : run_torch(e, feeds, n, result, out);
}
