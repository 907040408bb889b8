/*
 * An ONNX graph that runs as it stands, in the built-in executor or in ONNX Runtime: an export, or any other that is no UNet. Its
 * LoRA inputs take the tensors of one file:
 *
 *   adapter := NAME | [NAME "="] FILE      NAME: adapters/NAME.safetensors beside the graph. What exists as a file is FILE.
 *
 * The file holds every LoRA input of the graph under its name, in its type and shape, and nothing else. Without an adapter they are
 * zero, which is the base model.
 */
#include "export/file/file.h"
#include "export/runtime/internal.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>

static const char adapter_suffix[] = ".safetensors";

/* ---- the adapter ---- */

static int is_adapter_file(const struct dirent *entry)
{
	return entry->d_name[0] != '.' && qd_ends_with(entry->d_name, adapter_suffix);
}

/* "a, b", in the arena: the names in `folder`; NULL when out of memory. */
static const char *list_adapters(struct qd_arena *arena, const char *folder)
{
	struct dirent **entries = NULL;
	int n = scandir(folder, &entries, is_adapter_file, alphasort);
	const char *list = n > 0 ? "" : "none";

	for (int i = 0; i < n; i++) {
		const char *name = entries[i]->d_name;
		if (list != NULL)
			list = qd_arena_strf(
				arena, "%s%s%.*s", list, i > 0 ? ", " : "", (int)(strlen(name) - strlen(adapter_suffix)), name);
		free(entries[i]);
	}
	free(entries);
	return list;
}

static enum qd_status find_adapter(struct qd_runtime *rt, const char *spec, const char **path)
{
	const char *folder = qd_arena_strf(&rt->arena, "%s/adapters", rt->root), *names;

	*path = qd_adapter_spec_path(spec);
	if (*path != spec || qd_is_file(spec))
		return QD_OK;
	*path = folder != NULL ? qd_arena_strf(&rt->arena, "%s/%s%s", folder, spec, adapter_suffix) : NULL;
	if (*path == NULL)
		return QD_ENOMEM;
	if (strchr(spec, '/') == NULL && qd_is_file(*path))
		return QD_OK;
	names = list_adapters(&rt->arena, folder);
	return names == NULL ? QD_ENOMEM
			     : qd_fail(QD_EINPUT, "'%s' is no file and no adapter of '%s', which has %s", spec, rt->root, names);
}

/* Whether the adapter was named, not its file: then it is the export's. */
static bool is_own_adapter(const struct qd_runtime *rt, const char *path)
{
	return qd_is_export(rt->root) && path != qd_adapter_spec_path(rt->options.adapter);
}

static enum qd_status check_lora(const struct qd_value *input, const struct qd_tensor *stored)
{
	char found[QD_SHAPE_TEXT], needed[QD_SHAPE_TEXT];

	if (stored->dtype == input->dtype && qd_shape_equal(&stored->shape, &input->shape))
		return QD_OK;
	return qd_fail(QD_EINPUT, "'%s' is %s %s, the graph needs %s %s", input->name, qd_dtype_name(stored->dtype),
		qd_shape_text(&stored->shape, found), qd_dtype_name(input->dtype), qd_shape_text(&input->shape, needed));
}

/* `file` NULL: zeros. */
static enum qd_status feed_lora(struct qd_runner *runner, const struct qd_value *input, const struct qd_safetensors *file)
{
	const struct qd_tensor *stored = NULL;
	struct qd_tensor zeros = { 0 };
	enum qd_status st = QD_OK;

	if (file != NULL) {
		QD_TRY(st, qd_safetensors_get(file, input->name, &stored));
		QD_TRY(st, qd_prefix(check_lora(input, stored), "'%s'", file->path));
		QD_TRY(st, qd_prefix(qd_runner_feed(runner, stored), "'%s'", file->path));
	} else {
		QD_TRY(st, qd_tensor_new(&zeros, input->name, input->dtype, &input->shape));
		QD_TRY(st, qd_runner_feed(runner, &zeros));
	}
out:
	qd_tensor_release(&zeros);
	return st;
}

static bool takes_lora(const struct qd_graph *g, const char *name)
{
	qd_id input = qd_graph_find(g, name);

	return input != QD_NONE && g->values[input].kind == QD_INPUT && qd_lora_tensor_of(name) != QD_LORA_NONE;
}

/* All that a file holds must be taken. One that was not exported for this graph is most likely an adapter as it was trained. */
static enum qd_status check_taken(const struct qd_runtime *rt, const struct qd_safetensors *file)
{
	const char *first = NULL;
	size_t n = 0;

	for (size_t i = 0; i < file->n; i++)
		if (!takes_lora(rt->runner.graph, file->tensors[i].name))
			first = n++ == 0 ? file->tensors[i].name : first;
	if (n == 0)
		return QD_OK;
	return qd_fail(QD_EINPUT, "'%s': tensor '%s' is no LoRA input of '%s', of its %zu tensors %zu are none%s", file->path,
		first, rt->options.base, file->n, n,
		n == file->n ? ": quad export --adapter-only adds an adapter to an export" : "");
}

static enum qd_status feed_adapter_file(struct qd_runtime *rt)
{
	const struct qd_graph *g = rt->runner.graph;
	struct qd_safetensors file = { 0 };
	enum qd_status st = QD_OK;

	if (rt->options.adapter != NULL) {
		QD_TRY(st, find_adapter(rt, rt->options.adapter, &rt->adapter_path));
		if (is_own_adapter(rt, rt->adapter_path))
			QD_TRY(st, qd_export_check_adapter(rt->root, rt->options.adapter));
		QD_TRY(st, qd_safetensors_open(&file, rt->adapter_path));
	}
	QD_TRY(st, check_taken(rt, &file));
	for (size_t i = 0; i < g->n_inputs; i++)
		if (qd_lora_tensor_of(g->values[g->inputs[i]].name) != QD_LORA_NONE)
			QD_TRY(st, feed_lora(&rt->runner, &g->values[g->inputs[i]], rt->options.adapter != NULL ? &file : NULL));
out:
	qd_safetensors_release(&file);
	return st;
}

/* ---- the graph ---- */

static enum qd_status start_torch(struct qd_runtime *rt)
{
	/* the operators that simulation runs on: the two then agree bit for bit, where every sum taken in another order turns some
	 * value on its grid */
	const struct qd_run_options options = { .libtorch = true };

	snprintf(rt->name, sizeof(rt->name), "torch, exported file");
	return qd_runner_open(&rt->runner, &rt->onnx.graph, &options);
}

static enum qd_status start_ort(struct qd_runtime *rt, const char *path)
{
	const struct qd_ort_options options = { .threads = rt->options.threads, .profile = rt->options.ort_profile };
	enum qd_status st;

	QD_TRY(st, qd_ort_open(&rt->ort, rt->options.ort_library));
	QD_TRY(st, qd_runner_open_ort(&rt->runner, &rt->onnx.graph, rt->ort, path, &options));
	snprintf(rt->name, sizeof(rt->name), "ONNX Runtime %s", qd_ort_version(rt->ort));
out:
	return st;
}

/* An export's files that are read are those that were exported. */
static enum qd_status check_export(const struct qd_runtime *rt, const char *path)
{
	const char *slash = strrchr(path, '/'), *name = slash != NULL ? slash + 1 : path;
	char weights[QD_PATH_BYTES];
	enum qd_status st;

	if (!qd_is_export(rt->root))
		return QD_OK;
	QD_TRY(st, qd_export_check_file(rt->root, name));
	snprintf(weights, sizeof(weights), "%s.data", name);
	if (qd_has_file(rt->root, weights))
		QD_TRY(st, qd_export_check_file(rt->root, weights));
	if (qd_has_file(rt->root, "scheduler/scheduler_config.json"))
		st = qd_export_check_file(rt->root, "scheduler/scheduler_config.json");
out:
	return st;
}

/* The folder that a file lies in. */
static enum qd_status folder_of(struct qd_runtime *rt, const char *path)
{
	const char *slash = strrchr(path, '/');

	rt->root = slash == NULL ? "." : qd_arena_strf(&rt->arena, "%.*s", (int)(slash == path ? 1 : slash - path), path);
	return rt->root != NULL ? QD_OK : QD_ENOMEM;
}

enum qd_status qd_runtime_open_onnx(struct qd_runtime *rt, const char *path)
{
	const struct qd_runtime_options *o = &rt->options;
	const struct qd_tensor *given = o->inputs != NULL ? o->inputs->tensors : NULL;
	bool has_lora;
	enum qd_status st;

	rt->onnx_path = path;
	QD_TRY(st, folder_of(rt, path));
	QD_TRY(st, qd_output_update_settle(rt->root));
	QD_TRY(st, check_export(rt, path));
	if (o->profile != NULL && qd_is_export(rt->root))
		QD_TRY(st, qd_fail(QD_EINPUT, "'%s' is an export, which carries its encodings: it takes no profile", o->base));
	if (o->profile != NULL)
		QD_TRY(st, qd_fail(QD_EINPUT, "'%s' carries its encodings, --profile does not apply", path));
	QD_TRY(st, qd_onnx_graph(&rt->onnx.graph, rt->onnx.file, given, o->inputs != NULL ? o->inputs->n : 0));
	has_lora = qd_graph_has_lora_inputs(&rt->onnx.graph);
	if (o->adapter != NULL && !has_lora)
		QD_TRY(st, qd_fail(QD_EINPUT, "'%s' is no UNet and has no LoRA inputs, --adapter does not apply", path));
	if (!has_lora && o->executor != QD_EXECUTOR_ORT)
		QD_TRY(st, qd_graph_recognize(&rt->onnx.graph, NULL, NULL));
	QD_TRY(st, o->executor == QD_EXECUTOR_ORT ? start_ort(rt, path) : start_torch(rt));
	QD_TRY(st, feed_adapter_file(rt));
out:
	return st;
}
