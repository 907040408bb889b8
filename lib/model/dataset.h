/*
 * Samples for a model, from files that people have: what calibration, training and distillation read. A file is a set of named
 * tensors (safetensors, .npz, a folder of .npy) whose first dimension counts samples; several files of one kind read as one long
 * set. Nothing is copied: rows are converted to float32 when they are gathered.
 *
 * Dimension letters: N samples, B samples of a batch, Cl latent channels, Cc condition channels, H W latent pixels, L tokens, D
 * context features, P pooled features, I size numbers, K features of a timestep condition.
 */
#ifndef QUAD_LIB_MODEL_DATASET_H
#define QUAD_LIB_MODEL_DATASET_H

#include "lib/network/network.h"

/* X(id, tensor name): what a data file may hold. float32, float16, bfloat16 or float64; timestep also as integers. */
#define QD_FIELD_LIST(X)                                                                                                           \
	X(LATENTS, "latents")               /* [N,Cl,H,W] clean */                                                                 \
	X(CONDITION, "condition")           /* [N,Cc,H,W] put after the noisy latents */                                           \
	X(NOISE, "noise")                   /* [N,Cl,H,W] the noise to use; drawn where absent */                                  \
	X(SAMPLE, "sample")                 /* [N,Cl+Cc,H,W] already noisy, for calibration */                                     \
	X(TIMESTEP, "timestep")             /* [N], with `sample` */                                                               \
	X(CONTEXT, "encoder_hidden_states") /* [N,L,D] */                                                                          \
	X(TEXT_EMBEDS, "text_embeds")       /* [N,P] */                                                                            \
	X(TIME_IDS, "time_ids")             /* [N,I] */                                                                            \
	X(TIME_COND, "timestep_cond")       /* [N,K] */

enum qd_field {
#define QD_FIELD_ENUM(id, name) QD_FIELD_##id,
	QD_FIELD_LIST(QD_FIELD_ENUM)
#undef QD_FIELD_ENUM
		QD_FIELD_COUNT
};
const char *qd_field_name(enum qd_field field);

/* What the samples are for. */
enum qd_data_use {
	QD_DATA_TRAIN,     /* `latents`, or `sample` and `timestep` where there are none; every field of the files is taken */
	QD_DATA_CALIBRATE, /* `sample` and `timestep`; only the model's inputs are taken, and are checked to be finite */
};

struct qd_dataset {
	struct qd_tensor_set *files;
	int64_t *first; /* [n_files + 1]: the first sample of each file; the last is n */
	size_t n_files;
	int64_t n;
	bool has[QD_FIELD_COUNT];
	struct qd_shape shape[QD_FIELD_COUNT]; /* of one sample */
};
/*
 * Opens and checks: all files hold the same fields, all of one shape per sample; channels, context features and extra inputs are
 * those of `config`. QD_EINPUT names file, tensor, found and needed.
 */
QD_CHECK enum qd_status qd_dataset_open(
	struct qd_dataset *data, const char *const *paths, size_t n, const struct qd_unet_config *config, enum qd_data_use use);
void qd_dataset_release(struct qd_dataset *data);
/* What identifies the samples: a hash over names, types, shapes and bytes of all tensors. `out`: QD_HASH_TEXT bytes. QD_ENOMEM. */
QD_CHECK enum qd_status qd_dataset_hash(const struct qd_dataset *data, char *out);
/* Elements of one sample's row; 0 for an absent field. */
int64_t qd_dataset_row(const struct qd_dataset *data, enum qd_field field);
/* The sizes of a graph that takes `batch` samples. */
struct qd_sizes qd_dataset_sizes(const struct qd_dataset *data, int64_t batch);
/* Rows `index[0..batch)` of a present field as float32, to out [B,row]. QD_EINPUT when a value is NaN or infinite, naming file and
 * sample. */
QD_CHECK enum qd_status qd_dataset_gather(
	const struct qd_dataset *data, enum qd_field field, const int64_t *index, int64_t batch, float *out);

/* A field's row as a model of `config` needs it: dimensions, -1 where any size will do; rank -1: the model has no such input. */
struct qd_shape qd_field_needed(const struct qd_unet_config *config, enum qd_field field);

#endif
