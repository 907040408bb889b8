/*
 * The export folder, written to a temporary name and renamed when it is whole; adapters added later go beside what is there.
 *
 *   model.onnx                        the graph with its encodings as nodes (model.onnx.data beside it when it is large)
 *   model_float.onnx                  on request: the graph in float, for tools that read the encodings beside it
 *   model.encodings.json              every encoding under its value's name
 *   lora_weight_list.txt              names of the LoRA inputs
 *   adapters/NAME.safetensors         an adapter's tensors under their input names
 *   adapters/NAME.onnx_adapter        the same as ONNX Runtime's LoraAdapter loads them
 *   adapters_float/NAME.safetensors   beside model_float.onnx: the real numbers that the codes stand for
 *   scheduler/scheduler_config.json   the noise schedule, for whoever samples; where the model has one
 *   manifest.json                     what all this is made of (manifest.c)
 */
#include "export/file/internal.h"
#include "export/pass/pass.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

const char *const qd_export_format_names[] = { "qdq", "float", "both", NULL };

struct job {
	const struct qd_model *model;
	const struct qd_profile *profile;
	const struct qd_adapter *const *adapters;
	size_t n;
	const struct qd_export_options *options;
	const char *folder; /* where files are written; NULL: nowhere (dry run) */
	bool also_float;    /* adapters_float/ too */
	struct qd_arena arena;
	struct qd_exported_adapter *done;
};

static const char *in_folder(struct job *job, const char *name)
{
	return qd_arena_strf(&job->arena, "%s/%s", job->folder, name);
}

static enum qd_status make_folder(struct job *job, const char *name)
{
	const char *path = in_folder(job, name);
	if (path == NULL)
		return QD_ENOMEM;
	if (mkdir(path, 0777) != 0 && !qd_is_directory(path))
		return qd_fail(QD_EIO, "cannot make folder '%s'", path);
	return QD_OK;
}

/* ---- the graph ---- */

static enum qd_status write_graph(
	struct job *job, const struct qd_graph *g, const char *name, const struct qd_stored_weights *stored)
{
	const char *path = job->folder != NULL ? in_folder(job, name) : NULL;
	const char *const metadata[] = { "quad.version", job->options->version, "quad.base", job->profile->base_hash };
	struct qd_onnx_write_options options = {
		.external = job->options->external, .stored = stored, .metadata = metadata, .n_metadata = QD_COUNT(metadata) / 2
	};
	if (job->folder == NULL)
		return QD_OK;
	return path != NULL ? qd_onnx_write(g, path, &options, NULL) : QD_ENOMEM;
}

static enum qd_status write_encodings(struct job *job, const struct qd_net *net)
{
	enum qd_status st;
	json_t *document = NULL;
	QD_TRY(st, qd_encodings_json(&net->graph, &job->profile->options, &document));
	if (job->folder != NULL) {
		const char *path = in_folder(job, "model.encodings.json");
		st = path != NULL ? qd_json_write_floats(path, document, true) : QD_ENOMEM;
	}
out:
	json_decref(document);
	return st;
}

/* The names of LoRA tensors, one per line, as QAIRT wants them. */
static enum qd_status write_weight_list(struct job *job)
{
	enum qd_status st;
	struct qd_output out = { 0 };
	const char *name = job->folder != NULL ? in_folder(job, "lora_weight_list.txt") : NULL;
	if (name == NULL)
		return job->folder == NULL ? QD_OK : QD_ENOMEM;
	QD_TRY(st, qd_output_open(&out, name, true));
	for (size_t i = 0; i < job->profile->slots.n; i++) {
		const struct qd_slot *slot = &job->profile->slots.items[i];
		for (int t = 0; t < QD_LORA_NONE; t++)
			if (t != QD_LORA_BIAS || slot->biased)
				QD_TRY(st, qd_output_printf(&out, "%s%s\n", slot->path, qd_lora_suffix((enum qd_lora_tensor)t)));
	}
	QD_TRY(st, qd_output_commit(&out));
out:
	qd_output_release(&out);
	return st;
}

static enum qd_status build_net(struct job *job, struct qd_net *net)
{
	const struct qd_sizes *wanted = &job->options->sizes;
	struct qd_sizes sizes = qd_model_native_sizes(job->model);
	enum qd_status st;

	sizes.batch = wanted->batch > 0 ? wanted->batch : sizes.batch;
	sizes.height = wanted->height > 0 ? wanted->height : sizes.height;
	sizes.width = wanted->width > 0 ? wanted->width : sizes.width;
	sizes.tokens = wanted->tokens > 0 ? wanted->tokens : sizes.tokens;
	QD_TRY(st, qd_net_build(net, job->model, &sizes, &job->profile->slots));
	QD_TRY(st, qd_profile_apply(job->profile, net));
out:
	return st;
}

static enum qd_status export_float(struct job *job)
{
	enum qd_status st;
	struct qd_net net = { 0 };
	if ((job->options->format & QD_EXPORT_FLOAT) == 0)
		return QD_OK;
	QD_TRY(st, build_net(job, &net));
	QD_TRY(st, qd_pipeline_float(&net.graph, &job->options->passes));
	QD_TRY(st, write_graph(job, &net.graph, "model_float.onnx", NULL));
out:
	qd_net_release(&net);
	return st;
}

static enum qd_status export_graph(struct job *job, json_t **manifest)
{
	enum qd_status st;
	struct qd_net net = { 0 };
	struct qd_stored_weights stored = { 0 };
	QD_TRY(st, build_net(job, &net));
	QD_TRY(st, qd_pipeline_float(&net.graph, &job->options->passes));
	QD_TRY(st, write_encodings(job, &net));
	QD_TRY(st, write_weight_list(job));
	QD_TRY(st, qd_pipeline_quantized(&net.graph, &job->options->passes, &stored));
	if ((job->options->format & QD_EXPORT_QDQ) != 0)
		QD_TRY(st, write_graph(job, &net.graph, "model.onnx", &stored));
	QD_TRY(st, qd_manifest_make(NULL, &net.graph, job->profile, job->options, manifest));
out:
	qd_stored_weights_release(&stored);
	qd_net_release(&net);
	return st;
}

/* ---- adapters ---- */

static enum qd_status write_tensors(
	struct job *job, const struct qd_fitted *fitted, const char *folder, const char *name, bool as_float)
{
	enum qd_status st;
	struct qd_adapter_tensors tensors = { 0 };
	const char *base = in_folder(job, folder);
	const char *safetensors = qd_arena_strf(&job->arena, "%s/%s.safetensors", base, name);
	const char *ort = qd_arena_strf(&job->arena, "%s/%s.onnx_adapter", base, name);
	if (base == NULL || safetensors == NULL || ort == NULL)
		return QD_ENOMEM;
	QD_TRY(st, make_folder(job, folder));
	QD_TRY(st, qd_adapter_tensors_make(&tensors, fitted, job->profile, as_float));
	QD_TRY(st, qd_safetensors_write(safetensors, tensors.items, tensors.n, NULL, 0, false, NULL, NULL));
	QD_TRY(st, qd_onnx_adapter_write(ort, tensors.items, tensors.n, 1, 1, false));
out:
	qd_adapter_tensors_release(&tensors);
	return st;
}

static enum qd_status export_adapter(struct job *job, const struct qd_adapter *adapter, struct qd_exported_adapter *done)
{
	enum qd_status st;
	struct qd_fitted fitted = { 0 };
	*done = (struct qd_exported_adapter){ .name = adapter->name, .hash = adapter->hash, .slots = adapter->n };
	QD_TRY(st, qd_fit_adapter(&fitted, adapter, job->profile, job->profile->options.align, job->options->refit));
	QD_TRY(st, qd_update_sqnr(adapter, &fitted, job->profile, &done->sqnr_db));
	if (job->folder == NULL)
		goto out;
	QD_TRY(st, write_tensors(job, &fitted, "adapters", adapter->name, false));
	if (job->also_float)
		QD_TRY(st, write_tensors(job, &fitted, "adapters_float", adapter->name, true));
out:
	qd_fitted_release(&fitted);
	return qd_prefix(st, "adapter '%s'", adapter->name);
}

static enum qd_status check_name(const char *name)
{
	if (name[0] == '\0' || name[0] == '.' || strchr(name, '/') != NULL)
		return qd_fail(QD_EINPUT, "adapter name '%s' cannot be a file name", name);
	return QD_OK;
}

static enum qd_status export_all_adapters(struct job *job)
{
	enum qd_status st = QD_OK;
	job->done = qd_arena_array(&job->arena, job->n + 1, sizeof(*job->done));
	if (job->done == NULL)
		return QD_ENOMEM;
	for (size_t i = 0; i < job->n; i++) {
		qd_progress("adapters", i, job->n, job->adapters[i]->name);
		QD_TRY(st, check_name(job->adapters[i]->name));
		QD_TRY(st, export_adapter(job, job->adapters[i], &job->done[i]));
	}
	qd_progress("adapters", job->n, job->n, NULL);
out:
	return st;
}

/* Adding to the export at `path`: none is replaced without --force. */
static enum qd_status check_all_adapters(struct job *job, const char *path)
{
	for (size_t i = 0; i < job->n && !job->options->force; i++) {
		const char *file = qd_arena_strf(&job->arena, "%s/adapters/%s.safetensors", path, job->adapters[i]->name);
		if (file == NULL)
			return QD_ENOMEM;
		if (qd_is_file(file))
			return qd_fail(QD_EEXIST, "'%s' already exists; --force replaces it", file);
	}
	return QD_OK;
}

/* ---- both ways in ---- */

/* Whoever samples from the export needs the schedule it was trained with, as the pipeline has it, whose index does not go along. */
static enum qd_status write_schedule(struct job *job)
{
	enum qd_status st = QD_OK;
	struct qd_schedule read = { 0 };
	struct qd_mapping schedule = { 0 };
	json_t *document = NULL, *own = NULL;
	const char *from = qd_arena_strf(&job->arena, "%s/scheduler/scheduler_config.json", job->model->root);
	const char *to = job->folder != NULL ? in_folder(job, "scheduler/scheduler_config.json") : "";
	if (from == NULL || to == NULL)
		return QD_ENOMEM;
	/* a checkpoint's own tensors may say something, or speak against the file */
	if (job->model->kind == QD_MODEL_CHECKPOINT)
		QD_TRY(st, qd_model_schedule(&read, job->model));
	if (job->folder == NULL || (!qd_is_file(from) && read.prediction == QD_PREDICT_EPSILON))
		goto out;
	QD_TRY(st, make_folder(job, "scheduler"));
	if (!qd_is_file(from)) {
		document = qd_schedule_default(read.prediction);
		st = qd_json_write(to, document, true);
		goto out;
	}
	QD_TRY(st, qd_json_read(from, &own));
	QD_TRY(st, qd_schedule_json(&document, job->model->root, job->model->pipeline.class_name));
	if (!json_equal(own, document)) {
		st = qd_json_write(to, document, true);
		goto out;
	}
	QD_TRY(st, qd_mapping_open(&schedule, from));
	QD_TRY(st, qd_write_file(to, schedule.data, schedule.size, true));
out:
	json_decref(document);
	json_decref(own);
	qd_schedule_release(&read);
	qd_mapping_release(&schedule);
	return st;
}

static enum qd_status write_manifest(struct job *job, json_t *manifest)
{
	enum qd_status st;
	const char *path = job->folder != NULL ? in_folder(job, "manifest.json") : "";
	if (path == NULL)
		return QD_ENOMEM;
	QD_TRY(st, qd_manifest_add_adapters(manifest, job->folder, job->done, job->n));
	if (job->folder != NULL)
		QD_TRY(st, qd_json_write(path, manifest, true));
out:
	return st;
}

enum qd_status qd_export(const char *path, const struct qd_model *model, const struct qd_profile *profile,
	const struct qd_adapter *const *adapters, size_t n, const struct qd_export_options *options, json_t **manifest)
{
	enum qd_status st;
	struct qd_output_folder folder = { 0 };
	json_t *document = NULL;
	struct job job = { .model = model, .profile = profile, .adapters = adapters, .n = n, .options = options };
	job.also_float = (options->format & QD_EXPORT_FLOAT) != 0;
	QD_TRY(st, qd_profile_check_base(profile, model));
	QD_TRY(st, qd_output_folder_open(&folder, path, options->force));
	job.folder = options->dry_run ? NULL : folder.temporary;
	QD_TRY(st, write_schedule(&job));
	QD_TRY(st, export_graph(&job, &document));
	QD_TRY(st, export_float(&job));
	QD_TRY(st, export_all_adapters(&job));
	QD_TRY(st, write_manifest(&job, document));
	if (!options->dry_run)
		QD_TRY(st, qd_output_folder_commit(&folder));
	if (manifest != NULL)
		*manifest = json_incref(document);
out:
	json_decref(document);
	qd_output_folder_release(&folder);
	qd_arena_release(&job.arena);
	return st;
}

enum qd_status qd_export_adapters(const char *path, const struct qd_profile *profile, const struct qd_adapter *const *adapters,
	size_t n, const struct qd_export_options *options, json_t **manifest)
{
	enum qd_status st;
	json_t *document = NULL;
	struct qd_output_update update = { 0 };
	struct job job = { .profile = profile, .adapters = adapters, .n = n, .options = options };
	const char *file = qd_arena_strf(&job.arena, "%s/manifest.json", path);
	const char *floats = qd_arena_strf(&job.arena, "%s/adapters_float", path);
	if (file == NULL || floats == NULL)
		QD_TRY(st, QD_ENOMEM);
	if (!options->dry_run && qd_is_export(path)) {
		QD_TRY(st, qd_output_update_open(&update, path));
		job.folder = update.temporary;
	}
	job.also_float = qd_is_directory(floats);
	QD_TRY(st, qd_json_read(file, &document));
	QD_TRY(st, qd_manifest_check(document, file, profile, options->profile_path));
	QD_TRY(st, check_all_adapters(&job, path));
	QD_TRY(st, export_all_adapters(&job));
	QD_TRY(st, write_manifest(&job, document));
	if (job.folder != NULL)
		QD_TRY(st, qd_output_update_commit(&update));
	if (manifest != NULL)
		*manifest = json_incref(document);
out:
	json_decref(document);
	qd_output_update_release(&update);
	qd_arena_release(&job.arena);
	return st;
}
