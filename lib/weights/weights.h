/*
 * lib/weights: files that hold weights. The tensors of a component's folder by name, whatever files they lie in; names of the
 * original latent-diffusion implementation; and what is refused by name, before anything is read for what it is not.
 */
#ifndef QUAD_LIB_WEIGHTS_WEIGHTS_H
#define QUAD_LIB_WEIGHTS_WEIGHTS_H

#include "lib/ir/ir.h"

/* ---- weights of one component folder (weights.c) ---- */
/* All tensors of a folder, by name, mapped: one file, or shards with an index. */
struct qd_weights {
	const char *path; /* the file, or the index of the shards: for messages */
	struct qd_safetensors *files;
	size_t n_files;
	const struct qd_tensor **tensors; /* of all files, in the files' order */
	size_t n, cap;
	struct qd_strmap by_name; /* index into `tensors` */
	struct qd_arena arena;
};
/*
 * `stem` is "diffusion_pytorch_model" or "model". Tries the index, the plain file, then the fp16 and bf16 variants of both.
 * QD_EINPUT names the folder and what it needs; a pickle alone is QD_EUNSUPPORTED.
 */
QD_CHECK enum qd_status qd_weights_open(struct qd_weights *weights, const char *folder, const char *stem);
/* NULL when there is none. */
const struct qd_tensor *qd_weights_find(const struct qd_weights *weights, const char *name);
/* Warns through the log hook of tensors that the network built from them does not have; returns their number. */
size_t qd_weights_note_unused(const struct qd_weights *weights, const struct qd_graph *g);
void qd_weights_release(struct qd_weights *weights);

/* ---- names of the original implementation (ldm_names.c) ---- */
/* Resolutions of a network at most. */
#define QD_MAX_BLOCKS 8
/* Room for one path inside a file. */
#define QD_PATH_TEXT 512
/* What the naming of the original implementation depends on. */
struct qd_ldm_layout {
	int blocks;
	int layers[QD_MAX_BLOCKS]; /* resnets per down block */
	bool up_attention[QD_MAX_BLOCKS];
};
/* The original implementation's name of the layer at `path`, norms included, into QD_PATH_TEXT bytes; false when it has none. */
bool qd_ldm_path(const struct qd_ldm_layout *layout, const char *path, char *out);

/* ---- what is refused (refuse.c) ---- */
/* QD_EUNSUPPORTED naming the algorithm and the key when a key belongs to something else than LoRA. */
QD_CHECK enum qd_status qd_refuse_algorithms(const struct qd_safetensors *file);
/* The end of detection: what a file without any LoRA key is. Always a failure. */
QD_CHECK enum qd_status qd_refuse_unknown(const struct qd_safetensors *file);
/* QD_EUNSUPPORTED when the file's name says that it is a pickle. */
QD_CHECK enum qd_status qd_refuse_pickle(const char *path);

#endif
