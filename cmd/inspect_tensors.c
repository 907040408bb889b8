/*
 * quad inspect on anything that is a list of tensors: safetensors of every use, NumPy's arrays, ONNX Runtime's adapters.
 */
#include "cmd/inspect.h"
#include "export/file/file.h"
#include "lib/sampler/sampler.h"

#include <string.h>

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

static enum qd_status print_json(const struct qd_listing *file)
{
	json_t *list = json_array(), *metadata = json_object();
	enum qd_status st = QD_OK;
	for (size_t i = 0; i < file->n; i++)
		QD_TRY(st, tensor_json(&file->tensors[i], list));
	for (size_t i = 0; i < file->n_metadata; i++)
		json_object_set_new(metadata, file->metadata[2 * i], json_string(file->metadata[2 * i + 1]));
	st = qd_print_json(json_pack("{s:i,s:s,s:s,s:s?,s:O,s:O}", "schema", 1, "kind", file->kind, "path", file->path, "holds",
		file->holds, "metadata", metadata, "tensors", list));
out:
	json_decref(list);
	json_decref(metadata);
	return st;
}

enum qd_status qd_inspect_listing(const struct qd_listing *file, const struct qd_common *common)
{
	size_t width = 0, bytes = 0;
	if (common->json)
		return print_json(file);
	for (size_t i = 0; i < file->n; i++) {
		size_t length = strlen(file->tensors[i].name);
		width = length > width ? length : width;
		bytes += file->tensors[i].bytes;
	}
	qd_print("%s: %s%s%zu tensors, %.3f MB\n", file->path, file->holds != NULL ? file->holds : "",
		file->holds != NULL ? ", " : "", file->n, (double)bytes / 1e6);
	for (size_t i = 0; i < file->n_metadata; i++)
		qd_print("  %s: %.200s\n", file->metadata[2 * i], file->metadata[2 * i + 1]);
	for (size_t i = 0; i < file->n; i++) {
		enum qd_status st = print_tensor(&file->tensors[i], width < 100 ? width : 100);
		if (st != QD_OK)
			return st;
	}
	return QD_OK;
}

/* ---- what they are for ---- */

bool qd_are_lora_inputs(const struct qd_tensor *tensors, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (qd_lora_tensor_of(tensors[i].name) == QD_LORA_NONE)
			return false;
	return n > 0;
}

/* The tensors that tell; NULL behind the last. The first row that fits counts. */
static const struct {
	const char *holds, *names[4];
} uses[] = {
	{ "calibration data", { "sample", "timestep", "encoder_hidden_states" } },
	{ "training data", { "latents", "encoder_hidden_states" } },
	{ "sampled latents", { "latents" } },
	{ "inputs to sample from", { "encoder_hidden_states" } },
	{ "inputs to sample from", { "condition" } },
};

static const char *use_of(const struct qd_listing *file)
{
	for (size_t u = 0; u < QD_COUNT(uses); u++) {
		size_t found = 0, wanted = 0;
		for (; wanted < QD_COUNT(uses[u].names) && uses[u].names[wanted] != NULL; wanted++)
			for (size_t i = 0; i < file->n; i++)
				found += strcmp(file->tensors[i].name, uses[u].names[wanted]) == 0;
		if (found == wanted)
			return uses[u].holds;
	}
	return NULL;
}

enum qd_status qd_inspect_tensors(const struct qd_safetensors *file, const struct qd_common *common)
{
	struct qd_listing listing = { file->path, "tensors", NULL, file->tensors, file->n, file->metadata, file->n_metadata };
	const char *format = qd_safetensors_metadata(file, "format");
	struct qd_olss olss = { 0 };
	enum qd_status st;

	listing.holds = use_of(&listing);
	if (format != NULL && strcmp(format, "quad.olss") == 0) {
		listing.kind = "sampler";
		listing.holds = "fitted sampler (quad run --scheduler olss:FILE)";
		st = qd_olss_read(&olss, file->path);
		qd_olss_release(&olss);
		if (st != QD_OK)
			return st;
	} else if (qd_safetensors_metadata(file, "quad.run") != NULL && qd_safetensors_metadata(file, "quad.step") != NULL) {
		listing.kind = "state";
		listing.holds = "state of a training run (the same command goes on from it)";
	} else if (qd_are_lora_inputs(file->tensors, file->n)) {
		listing.holds = "an export's adapter";
	}
	return qd_inspect_listing(&listing, common);
}

enum qd_status qd_inspect_arrays(const char *path, const struct qd_common *common)
{
	struct qd_tensor_set set;
	enum qd_status st = qd_tensor_set_open(&set, path);

	if (st != QD_OK)
		return st;
	struct qd_listing listing = { path, "tensors", NULL, set.tensors, set.n, NULL, 0 };
	listing.holds = use_of(&listing);
	st = qd_inspect_listing(&listing, common);
	qd_tensor_set_release(&set);
	return st;
}

enum qd_status qd_inspect_onnx_adapter(const char *path, const struct qd_mapping *file, const struct qd_common *common)
{
	struct qd_adapter_tensors tensors;
	enum qd_status st = qd_onnx_adapter_parse(&tensors, file->data, file->size);

	if (st != QD_OK)
		return qd_prefix(st, "cannot read '%s'", path);
	st = qd_inspect_listing(&(struct qd_listing){ path, "onnx_adapter", qd_file_kind_text(QD_FILE_ORT_ADAPTER), tensors.items,
					tensors.n, NULL, 0 },
		common);
	qd_adapter_tensors_release(&tensors);
	return st;
}
