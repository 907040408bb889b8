/*
 * lib/weights: files that hold weights. The tensors of a component's folder by name, whatever files they lie in; names of the
 * original latent-diffusion implementation; the published families by which files are told; and what is refused by name, before
 * anything is read for what it is not.
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

/*
 * ---- families of Stable Diffusion (families.c) ----
 * The published UNets: by what their files are told, and what their files do not say. A family more is a row of the table.
 */
enum qd_family_id { QD_FAMILY_SD1, QD_FAMILY_SD2, QD_FAMILY_SDXL, QD_FAMILY_SDXL_REFINER, QD_FAMILIES };
struct qd_family {
	const char *name;      /* "SD1.x" */
	const char *full_name; /* "Stable Diffusion 1.x" */
	const char *arch;      /* what quad init calls it; NULL: it does not make it */
	const char *config;    /* where its config.json differs from UNet2DConditionModel's defaults; NULL where nobody builds it */
	int64_t context;       /* features of the context */
	int64_t channels;      /* of the highest resolution */
	bool linear;           /* linear layers around transformers, not 1x1 convolutions */
	int64_t heads;         /* of every attention; 0: as many as give each QD_FAMILY_HEAD features */
	int64_t time_ids;      /* numbers that enter the time embedding with pooled text; 0: neither does */
	int64_t sample_size;   /* native height and width of latents */
	const char *pipeline;  /* "StableDiffusion" of diffusers' class StableDiffusionPipeline */
	const char *scheduler; /* the class that its pipelines come with */
};
extern const struct qd_family qd_families[QD_FAMILIES];
enum {
	QD_FAMILY_HEAD = 64,     /* features of a head, where their number is not fixed */
	QD_FAMILY_POOLED = 1280, /* features of pooled text, where it is added */
	QD_FAMILY_TIME = 256,    /* features of each of the time_ids */
	QD_FAMILY_INPAINT = 9    /* input channels of inpainting models: latents, mask, latents of the masked picture */
};
/* The family of a UNet, or NULL. Numbers about an aesthetic score (5 time_ids) are the refiner's, whatever the widths. */
const struct qd_family *qd_family_of(int64_t context, int64_t channels, int64_t time_ids);
/* The family whose contexts have so many features, or NULL. */
const struct qd_family *qd_family_of_context(int64_t features);

/* ---- what is refused (refuse.c) ---- */
/* QD_EUNSUPPORTED naming the algorithm and the key when a key belongs to something else than LoRA. */
QD_CHECK enum qd_status qd_refuse_algorithms(const struct qd_safetensors *file);
/* Of a file without any LoRA key: names what else it is (a full model, a textual inversion, empty), if that is known. */
QD_CHECK enum qd_status qd_refuse_others(const struct qd_safetensors *file);
/* QD_EUNSUPPORTED when the file's name says that it is a pickle. */
QD_CHECK enum qd_status qd_refuse_pickle(const char *path);

#endif
