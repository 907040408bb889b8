/*
 * export/file: what an export folder holds. A net that carries a profile's encodings becomes one ONNX file whose LoRA tensors are
 * inputs, an encodings JSON, one set of files per adapter, and a manifest, in a folder that appears whole (folder.c).
 *
 * A format more: its file, which describes the bytes, its declaration below (of the graph: with its bit in qd_export_format), and
 * its step and its line in folder.c. The manifest lists what lies in the folder.
 */
#ifndef QUAD_EXPORT_FILE_FILE_H
#define QUAD_EXPORT_FILE_FILE_H

#include "quant/quant.h"

/* ---- encodings JSON (encodings_json.c) ---- */
/* The document of version 1.0.0 for a graph whose values carry encodings (after qd_pipeline_float). A new reference, for
 * qd_json_write_floats. QD_EINPUT: a weight is not finite; QD_ENOMEM. */
QD_CHECK enum qd_status qd_encodings_json(const struct qd_graph *g, const struct qd_quant_options *options, json_t **out);

/* ---- adapter files (adapter_files.c, onnx_adapter.c) ---- */
/* An adapter's tensors under their graph input names: codes (or, with `as_float`, the real numbers these stand for), gain float32.
 */
struct qd_adapter_tensors {
	struct qd_tensor *items;
	size_t n;
	struct qd_arena arena;
};
QD_CHECK enum qd_status qd_adapter_tensors_make(
	struct qd_adapter_tensors *tensors, const struct qd_fitted *fitted, const struct qd_profile *profile, bool as_float);
void qd_adapter_tensors_release(struct qd_adapter_tensors *tensors);
/* ONNX Runtime's adapter file with the given tensors. QD_EUNSUPPORTED names a tensor whose dtype ONNX has no number for, or a
 * scalar. */
QD_CHECK enum qd_status qd_onnx_adapter_write(
	const char *path, const struct qd_tensor *tensors, size_t n, int32_t adapter_version, int32_t model_version, bool force);
/* The tensors of such a file, views into its bytes, whoever wrote it. QD_EINPUT: damaged; QD_EUNSUPPORTED: element types without a
 * dtype. */
QD_CHECK enum qd_status qd_onnx_adapter_parse(struct qd_adapter_tensors *tensors, const void *data, size_t bytes);

/* ---- the whole export (folder.c, manifest.c) ---- */
enum qd_export_format { QD_EXPORT_QDQ = 1, QD_EXPORT_FLOAT = 2, QD_EXPORT_BOTH = QD_EXPORT_QDQ | QD_EXPORT_FLOAT };
extern const char *const qd_export_format_names[]; /* from QD_EXPORT_QDQ on, NULL at the end */
struct qd_export_options {
	struct qd_sizes sizes; /* 0: the model's native one */
	enum qd_export_format format;
	bool external, force, dry_run;
	bool refit;                             /* as qd_fit_adapter has it */
	const char *profile_path;               /* hashed into the manifest */
	const struct qd_provenance *provenance; /* goes into the manifest */
	const char *version;                    /* of the program */
	struct qd_pass_options passes;          /* after which pass the graph is dumped, and to whom */
};
/*
 * Writes the folder `path`: model.onnx (QDQ), model_float.onnx (FLOAT), model.encodings.json, adapters/NAME.safetensors and
 * NAME.onnx_adapter, adapters_float/NAME.safetensors (FLOAT), lora_weight_list.txt, scheduler/scheduler_config.json where the model
 * has one, manifest.json. `manifest` (may be NULL) receives the manifest's document, a new reference. With dry_run everything but
 * writing is done. QD_EINPUT for a profile of another base or an adapter that does not fit the slots; QD_EEXIST.
 */
QD_CHECK enum qd_status qd_export(const char *path, const struct qd_model *model, const struct qd_profile *profile,
	const struct qd_adapter *const *adapters, size_t n, const struct qd_export_options *options, json_t **manifest);
/*
 * Adds adapters to an export without touching its graph. QD_EINPUT when the manifest's profile is another one, or a slot or rank
 * differs; QD_EEXIST when an adapter of that name is there and `force` is false. All files of all adapters and the manifest change
 * together: whoever opens an export settles it first (qd_output_update_settle).
 */
QD_CHECK enum qd_status qd_export_adapters(const char *path, const struct qd_profile *profile,
	const struct qd_adapter *const *adapters, size_t n, const struct qd_export_options *options, json_t **manifest);
/*
 * ---- checking (verify.c) ----
 * QD_EINPUT when the file `name` of the export in `folder` is missing, is not listed in its manifest or has other bytes.
 */
QD_CHECK enum qd_status qd_export_check_file(const char *folder, const char *name);
/* The same for both files of an adapter, which must hold the same tensors. */
QD_CHECK enum qd_status qd_export_check_adapter(const char *folder, const char *name);
/* Checks all that the manifest lists: QD_ECHECK names the first that is not as it was exported, and counts the others. */
QD_CHECK enum qd_status qd_export_verify(const char *folder, size_t *n_files);
/* True for a folder that an export wrote (it holds manifest.json). */
bool qd_is_export(const char *path);

#endif
