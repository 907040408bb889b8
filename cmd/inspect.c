/*
 * quad inspect: what a model, an adapter or any safetensors file holds.
 */
#include "cmd/inspect.h"
#include "export/file/file.h"

#include <string.h>

enum { MOST_TEXT = 64 << 20 };

static const char doc[] = "Show what a model, an adapter or any other file of quad holds.\v"
			  "PATH is a diffusers folder (of a pipeline, a UNet, a VAE or a text encoder), a single-file checkpoint, "
			  "an ONNX file, an export's folder, an adapter (file or folder), or anything else that quad reads or "
			  "writes: profiles, manifests, encodings, samplers, states of runs, arrays, images. Without "
			  "--base an adapter is matched with SD1.x, SD2.x and SDXL. -v lists every layer of an adapter, also of "
			  "one that does not fit. A model with --adapter (repeated) shows the one graph that they make together.";

struct inspect_options {
	struct qd_common common;
	const char *path, *part;
	bool verify;
};

#define FIELD(field) QD_FIELD(struct inspect_options, field)
static const struct qd_option table[] = {
	{ NULL, QD_OPT_ARGUMENT, FIELD(path), .required = true, .arg = "PATH" },
	{ "verify", QD_OPT_FLAG, FIELD(verify),
		.help = "check every file of an export against its manifest: exit 1 when one differs" },
	{ "part", QD_OPT_TEXT, FIELD(part), .arg = "NAME", .help = "folder of the pipeline to look at", .absent = "unet" },
	{ 0 },
};

/* ---- adapters ---- */

/* The modules of a family's UNet, from its shapes alone. */
static enum qd_status family_modules(const struct qd_family *family, struct qd_modules *modules)
{
	struct qd_unet_config config;
	struct qd_graph g = { 0 };
	uint64_t parameters, tensors;
	enum qd_status st;
	QD_TRY(st, qd_unet_config_family(&config, family));
	QD_TRY(st, qd_unet_parameters(&config, &g, &parameters, &tensors));
	QD_TRY(st, qd_modules_of(modules, &g));
out:
	qd_graph_release(&g);
	return st;
}

/* Prints the adapter when it fits; `*fits` false and QD_OK when it belongs to another model. */
static enum qd_status try_family(const struct qd_family *family, const char *path, const struct qd_common *common, bool *fits)
{
	struct qd_modules modules = { 0 };
	struct qd_adapter adapter = { 0 };
	enum qd_status st;
	QD_TRY(st, family_modules(family, &modules));
	st = qd_adapter_open_spec(&adapter, path, &modules);
	*fits = st == QD_OK;
	if (st == QD_EINPUT)
		st = QD_OK;
	if (*fits)
		st = qd_inspect_adapter(&adapter, &modules, family->name, common);
out:
	qd_adapter_release(&adapter);
	qd_modules_release(&modules);
	return st;
}

static enum qd_status with_base(const char *path, const struct qd_common *common)
{
	struct qd_opened opened = { 0 };
	struct qd_adapter adapter = { 0 };
	enum qd_status st;
	QD_TRY(st, qd_open_all(&opened, common));
	st = qd_adapter_open_spec(&adapter, path, &opened.modules);
	if (st == QD_EINPUT && (common->verbose || common->json))
		st = qd_inspect_misfit(path, &opened.modules, common);
	if (st != QD_OK)
		goto out;
	QD_TRY(st, qd_inspect_adapter(&adapter, &opened.modules, opened.model.folder, common));
out:
	qd_adapter_release(&adapter);
	qd_opened_release(&opened);
	return st;
}

/* Of a dialect, refused by name, or with names that speak of LoRA in no dialect. */
static bool looks_like_adapter(const struct qd_safetensors *file)
{
	bool looks = qd_adapter_detect(file);

	for (size_t i = 0; i < file->n && !looks; i++)
		looks = strstr(file->tensors[i].name, "lora") != NULL;
	return looks;
}

static enum qd_status inspect_adapter(const char *path, const struct qd_common *common, bool *fits)
{
	*fits = true;
	if (common->base != NULL)
		return with_base(path, common);
	*fits = false;
	for (size_t i = 0; i < QD_FAMILIES && !*fits; i++) {
		if (qd_families[i].config == NULL)
			continue;
		enum qd_status st = try_family(&qd_families[i], path, common, fits);
		if (st != QD_OK)
			return st;
	}
	return QD_OK;
}

/* ---- all of it ---- */

/* Safetensors of any use. */
static enum qd_status inspect_safetensors(const char *path, const struct qd_common *common)
{
	struct qd_safetensors file = { 0 };
	bool fits = false, own;
	enum qd_status st;
	QD_TRY(st, qd_safetensors_open(&file, path));
	own = qd_are_lora_inputs(file.tensors, file.n) || qd_safetensors_metadata(&file, "quad.run") != NULL;
	if (!own && qd_checkpoint_detect(&file)) {
		QD_TRY(st, qd_inspect_model(path, common));
		goto out;
	}
	if (!own && looks_like_adapter(&file)) {
		QD_TRY(st, inspect_adapter(path, common, &fits));
		if (!fits)
			qd_log(QD_LOG_WARNING, "'%s' looks like an adapter but fits no known model; --base DIR says for which",
				path);
	}
	if (!fits)
		QD_TRY(st, qd_inspect_tensors(&file, common));
out:
	qd_safetensors_release(&file);
	return st;
}

/* Text that no other kind claims: printable, and not just a few bytes of something else. */
static bool is_text(const struct qd_mapping *file)
{
	for (size_t i = 0; i < file->size; i++)
		if (file->data[i] < 0x20 && file->data[i] != '\n' && file->data[i] != '\r' && file->data[i] != '\t')
			return false;
	return file->size > 0 && file->size <= MOST_TEXT;
}

static enum qd_status inspect_file(const char *path, const struct qd_common *common)
{
	struct qd_mapping file = { 0 };
	enum qd_file_kind kind;
	bool text;
	enum qd_status st;

	QD_TRY(st, qd_mapping_open(&file, path));
	kind = qd_file_kind(file.data, file.size);
	/* text under the name of a model is no model */
	text = !qd_ends_with(path, ".safetensors") && !qd_ends_with(path, ".onnx");
	if (text && kind == QD_FILE_JSON && !qd_ends_with(path, ".jsonl"))
		st = qd_inspect_json(path, common);
	else if (kind == QD_FILE_NPY || kind == QD_FILE_ZIP)
		st = qd_inspect_arrays(path, common);
	else if (kind == QD_FILE_ORT_ADAPTER)
		st = qd_inspect_onnx_adapter(path, &file, common);
	else if (kind == QD_FILE_PNG || kind == QD_FILE_JPEG || kind == QD_FILE_WEBP)
		st = qd_inspect_picture(path, common);
	else if (qd_ends_with(path, ".onnx"))
		st = qd_inspect_onnx(path, common);
	else if (text && (kind == QD_FILE_UNKNOWN || kind == QD_FILE_JSON) && is_text(&file))
		st = qd_inspect_text(path, &file, common);
	else
		st = inspect_safetensors(path, common);
out:
	qd_mapping_release(&file);
	return st;
}

/* A folder of a text encoder or a VAE, or of something that the message of opening it is about. */
static bool means_component(const char *path)
{
	enum qd_component_kind kind;
	if (!qd_is_component(path))
		return false;
	enum qd_status st = qd_component_peek(path, NULL, &kind);
	return st == QD_OK ? kind != QD_COMPONENT_UNET : st == QD_EUNSUPPORTED;
}

/* `part` (NULL: not said) is a folder of a pipeline. */
static enum qd_status inspect(const char *path, const char *part, const struct qd_common *common)
{
	bool known = false;
	enum qd_status st;

	if (common->adapters.n > 0)
		return qd_inspect_joint(path, common);
	/* "both=a.safetensors+b.safetensors@0.5" is no path */
	if (common->base != NULL && !qd_is_file(path) && !qd_is_directory(path))
		return with_base(path, common);
	if (!qd_is_directory(path))
		return inspect_file(path, common);
	if (qd_is_export(path))
		return qd_inspect_export(path, common);
	if (qd_has_file(path, "adapter_config.json") ||
		(qd_has_file(path, "pytorch_lora_weights.safetensors") && !qd_has_file(path, "unet/config.json"))) {
		st = inspect_adapter(path, common, &known);
		return st == QD_OK && !known ? qd_fail(QD_EINPUT, "'%s' fits no known model, needs --base", path) : st;
	}
	if (part != NULL || means_component(path))
		return qd_inspect_component(path, part, common);
	if (!qd_has_file(path, "config.json") && !qd_has_file(path, "unet/config.json")) {
		st = qd_inspect_folder(path, common, &known);
		if (st != QD_OK || known)
			return st;
	}
	return qd_inspect_model(path, common);
}

int qd_cmd_inspect(int argc, char **argv)
{
	struct inspect_options o = { 0 };
	size_t files = 0;
	enum qd_status st;

	qd_parse(argc, argv, doc, &(struct qd_options){ table, &o }, 1, QD_COMMON_BASE | QD_COMMON_ADAPTER | QD_COMMON_JSON, 0,
		&o.common);
	if (o.verify && !qd_is_export(o.path))
		st = qd_fail(QD_EINPUT, "'%s' is no export: --verify checks the files that a manifest.json lists", o.path);
	else
		st = o.verify ? qd_export_verify(o.path, &files) : QD_OK;
	if (st == QD_OK)
		st = inspect(o.path, o.part, &o.common);
	if (st == QD_OK && o.verify && !o.common.json)
		qd_print("  verified    %zu files\n", files);
	qd_common_release(&o.common);
	return qd_finish("inspect", st);
}
