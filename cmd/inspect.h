/*
 * The parts of quad inspect: one function per kind of thing, each prints to stdout, text or one JSON document.
 */
#ifndef QUAD_CMD_INSPECT_H
#define QUAD_CMD_INSPECT_H

#include "cmd/cmd.h"

QD_CHECK enum qd_status qd_inspect_model(const char *path, const struct qd_common *common);
/* An ONNX file; a UNet's is told as qd_inspect_model does. */
QD_CHECK enum qd_status qd_inspect_onnx(const char *path, const struct qd_common *common);
/* The manifest of an export in `file`, and what is at `path`: that file, or the folder of an export. */
QD_CHECK enum qd_status qd_inspect_manifest(const char *path, const char *file, const struct qd_common *common);
/* The folder of an export. */
QD_CHECK enum qd_status qd_inspect_export(const char *path, const struct qd_common *common);
/* A component's folder, or folder `name` (NULL: unet) of a pipeline; a UNet is told as qd_inspect_model does. */
QD_CHECK enum qd_status qd_inspect_component(const char *path, const char *name, const struct qd_common *common);
/*
 * After an adapter was refused with QD_EINPUT: when its layers do not fit `modules`, lists all of them. The refusal is returned as
 * it was, its message too.
 */
QD_CHECK enum qd_status qd_inspect_misfit(const char *path, const struct qd_modules *modules, const struct qd_common *common);
/* The model at `path` with common->adapters. */
QD_CHECK enum qd_status qd_inspect_joint(const char *path, const struct qd_common *common);
/* `family` names the architecture that `modules` belong to. */
QD_CHECK enum qd_status qd_inspect_adapter(
	const struct qd_adapter *adapter, const struct qd_modules *modules, const char *family, const struct qd_common *common);
/* ---- lists of tensors (inspect_tensors.c) ---- */
struct qd_listing {
	const char *path, *kind;
	const char *holds; /* what the tensors are, in words; NULL: anything */
	const struct qd_tensor *tensors;
	size_t n;
	const char *const *metadata; /* key, value pairs */
	size_t n_metadata;
};
QD_CHECK enum qd_status qd_inspect_listing(const struct qd_listing *file, const struct qd_common *common);
QD_CHECK enum qd_status qd_inspect_tensors(const struct qd_safetensors *file, const struct qd_common *common);
/* An .npy, an .npz or a folder of .npy. */
QD_CHECK enum qd_status qd_inspect_arrays(const char *path, const struct qd_common *common);
QD_CHECK enum qd_status qd_inspect_onnx_adapter(const char *path, const struct qd_mapping *file, const struct qd_common *common);
/* Whether they are an export's adapter: named as inputs of the graph. */
bool qd_are_lora_inputs(const struct qd_tensor *tensors, size_t n);

/* ---- files that say something in words (inspect_text.c) ---- */
/* JSON: a profile, an export's manifest or encodings, a configuration. */
QD_CHECK enum qd_status qd_inspect_json(const char *path, const struct qd_common *common);
/* Lists of layers, tables of captions. */
QD_CHECK enum qd_status qd_inspect_text(const char *path, const struct qd_mapping *file, const struct qd_common *common);
QD_CHECK enum qd_status qd_inspect_picture(const char *path, const struct qd_common *common);
/* A folder of images, a tokenizer, a scheduler, or an example's; `*known` false: none of them. */
QD_CHECK enum qd_status qd_inspect_folder(const char *path, const struct qd_common *common, bool *known);

/* Of a model that came as one file: what else is in it. */
void qd_print_beside(const struct qd_model *model);
json_t *qd_beside_json(const struct qd_model *model);

/* Of a pipeline folder: its components beside the UNet. */
void qd_print_components(const char *root);
json_t *qd_components_json(const char *root);

/* What all tensors of a model are together; zero it to begin. */
struct qd_weight_facts {
	uint64_t parameters, bytes;
	char dtypes[64]; /* "F16", "F32 F16" */
};
void qd_weight_facts_add(struct qd_weight_facts *facts, const struct qd_tensor *tensor);
/* 12345678 as "12,345,678" into a buffer of QD_DIGITS bytes; returns it. */
#define QD_DIGITS 32
char *qd_digits(uint64_t value, char *buffer);
json_t *qd_module_sets_json(const struct qd_module_sets *sets);

#endif
