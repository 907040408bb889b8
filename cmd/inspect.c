/*
 * quad inspect: what a model, an adapter or any safetensors file holds.
 */
#include "cmd/inspect.h"
#include "export/file/file.h"

#include <string.h>

static const char doc[] = "Show what a model or adapter file holds.\v"
			  "PATH is a diffusers folder (of a pipeline, a UNet, a VAE or a text encoder), a single-file checkpoint, "
			  "an ONNX file, an export's folder, an adapter (file or PEFT folder), or any safetensors file. Without "
			  "--base an adapter is matched with SD1.x, SD2.x and SDXL. -v lists every layer of an adapter, also of "
			  "one that does not fit. A model with --adapter (repeated) shows the one graph that they make together.";

struct inspect_options {
	struct qd_common common;
	const char *path, *part;
};

#define FIELD(field) QD_FIELD(struct inspect_options, field)
static const struct qd_option table[] = {
	{ NULL, QD_OPT_ARGUMENT, FIELD(path), .required = true, .arg = "PATH" },
	{ "part", QD_OPT_TEXT, FIELD(part), .arg = "NAME", .help = "folder of the pipeline to look at", .absent = "unet" },
	{ 0 },
};

/* ---- any safetensors file ---- */

static bool has_range(enum qd_dtype dtype)
{
	return dtype != QD_U64 && dtype <= QD_BOOL;
}

static enum qd_status print_tensor(const struct qd_tensor *tensor, size_t width)
{
	struct qd_extent range = { 0 };
	char shape[QD_SHAPE_TEXT];
	qd_print("%-*s  %-5s %-20s", (int)width, tensor->name, qd_dtype_name(tensor->dtype), qd_shape_text(&tensor->shape, shape));
	if (has_range(tensor->dtype)) {
		enum qd_status st = qd_extent_add(&range, tensor);
		if (st != QD_OK)
			return st;
		qd_print(range.n ? "  %.5g to %.5g" : "  empty", (double)range.low, (double)range.high);
		if (range.bad)
			qd_print(", %llu not finite", (unsigned long long)range.bad);
	}
	putchar('\n');
	return QD_OK;
}

static enum qd_status tensor_json(const struct qd_tensor *tensor, json_t *list)
{
	struct qd_extent range = { 0 };
	json_t *shape = json_array();
	for (int d = 0; d < tensor->shape.rank; d++)
		json_array_append_new(shape, json_integer(tensor->shape.dim[d]));
	json_t *o = json_pack("{s:s,s:s,s:o}", "name", tensor->name, "dtype", qd_dtype_name(tensor->dtype), "shape", shape);
	json_array_append_new(list, o);
	if (!has_range(tensor->dtype))
		return QD_OK;
	enum qd_status st = qd_extent_add(&range, tensor);
	json_object_set_new(o, "min", range.n ? json_real((double)range.low) : json_null());
	json_object_set_new(o, "max", range.n ? json_real((double)range.high) : json_null());
	json_object_set_new(o, "not_finite", json_integer((json_int_t)range.bad));
	return st;
}

static enum qd_status tensors_json(const struct qd_safetensors *file)
{
	json_t *list = json_array(), *metadata = json_object();
	enum qd_status st = QD_OK;
	for (size_t i = 0; i < file->n; i++)
		QD_TRY(st, tensor_json(&file->tensors[i], list));
	for (size_t i = 0; i < file->n_metadata; i++)
		json_object_set_new(metadata, file->metadata[2 * i], json_string(file->metadata[2 * i + 1]));
	st = qd_print_json(json_pack("{s:i,s:s,s:s,s:O,s:O}", "schema", 1, "kind", "tensors", "path", file->path, "metadata",
		metadata, "tensors", list));
out:
	json_decref(list);
	json_decref(metadata);
	return st;
}

static enum qd_status inspect_tensors(const struct qd_safetensors *file, const struct qd_common *common)
{
	size_t width = 0, bytes = 0;
	if (common->json)
		return tensors_json(file);
	for (size_t i = 0; i < file->n; i++) {
		size_t length = strlen(file->tensors[i].name);
		width = length > width ? length : width;
		bytes += file->tensors[i].bytes;
	}
	qd_print("%s: %zu tensors, %.3f MB\n", file->path, file->n, (double)bytes / 1e6);
	for (size_t i = 0; i < file->n_metadata; i++)
		qd_print("  %s: %.200s\n", file->metadata[2 * i], file->metadata[2 * i + 1]);
	for (size_t i = 0; i < file->n; i++) {
		enum qd_status st = print_tensor(&file->tensors[i], width < 100 ? width : 100);
		if (st != QD_OK)
			return st;
	}
	return QD_OK;
}

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
	if (common->base)
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

/* What an export holds of an adapter: codes under the names of graph inputs. */
static bool is_lora_input_file(const struct qd_safetensors *file)
{
	const struct qd_tensor *first = file->tensors;

	return file->n > 0 && qd_lora_tensor_of(first->name) != QD_LORA_NONE && first->dtype != QD_F32 && first->dtype != QD_F16 &&
	       first->dtype != QD_BF16;
}

static enum qd_status inspect_file(const char *path, const struct qd_common *common)
{
	struct qd_safetensors file = { 0 };
	bool fits = false;
	enum qd_status st;
	QD_TRY(st, qd_safetensors_open(&file, path));
	if (qd_checkpoint_detect(&file)) {
		QD_TRY(st, qd_inspect_model(path, common));
		goto out;
	}
	if (looks_like_adapter(&file) && !is_lora_input_file(&file)) {
		QD_TRY(st, inspect_adapter(path, common, &fits));
		if (!fits)
			qd_log(QD_LOG_WARNING, "'%s' looks like an adapter but fits no known model; --base DIR says for which",
				path);
	}
	if (!fits)
		QD_TRY(st, inspect_tensors(&file, common));
out:
	qd_safetensors_release(&file);
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
	bool fits = false;
	if (common->adapters.n)
		return qd_inspect_joint(path, common);
	if (!qd_is_directory(path))
		return qd_ends_with(path, ".onnx") ? qd_inspect_onnx(path, common) : inspect_file(path, common);
	if (qd_is_export(path))
		return qd_inspect_export(path, common);
	if (!qd_has_file(path, "adapter_config.json"))
		return part || means_component(path) ? qd_inspect_component(path, part, common) : qd_inspect_model(path, common);
	enum qd_status st = inspect_adapter(path, common, &fits);
	return st == QD_OK && !fits ? qd_fail(QD_EINPUT, "'%s' fits no known model, needs --base", path) : st;
}

int qd_cmd_inspect(int argc, char **argv)
{
	struct inspect_options o = { 0 };
	enum qd_status st;

	qd_parse(argc, argv, doc, &(struct qd_options){ table, &o }, 1, QD_COMMON_BASE | QD_COMMON_ADAPTER | QD_COMMON_JSON, 0,
		&o.common);
	st = inspect(o.path, o.part, &o.common);
	qd_common_release(&o.common);
	return qd_finish("inspect", st);
}
