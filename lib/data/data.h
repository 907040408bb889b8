/*
 * lib/data: samples for a model, from what people have. Arrays in files of named tensors, which calibration, training and
 * distillation read; folders of images with captions; and the making of the first from the second, through the pipeline's VAE and
 * text encoders.
 *
 * Dimension letters: N samples, B samples of a batch, Cl latent channels, Cc condition channels, H W latent pixels, L tokens, D
 * context features, P pooled features, I size numbers, K features of a timestep condition.
 */
#ifndef QUAD_LIB_DATA_DATA_H
#define QUAD_LIB_DATA_DATA_H

#include "lib/model/model.h"

/*
 * ---- samples in files (dataset.c) ----
 * Samples for a model, from files that people have: what calibration, training and distillation read. A file is a set of named
 * tensors (safetensors, .npz, a folder of .npy) whose first dimension counts samples; several files of one kind read as one long
 * set. Nothing is copied: rows are converted to float32 when they are gathered.
 */
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

enum qd_data_field {
#define QD_FIELD_ENUM(id, name) QD_FIELD_##id,
	QD_FIELD_LIST(QD_FIELD_ENUM)
#undef QD_FIELD_ENUM
		QD_FIELD_COUNT
};
const char *qd_data_field_name(enum qd_data_field field);

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
/*
 * The timesteps of samples that are noisy as they are stored lie in [0, train_steps), the model's schedule; 0: that is not known, and
 * they are only no less than 0. QD_EINPUT names file, sample and value.
 */
QD_CHECK enum qd_status qd_dataset_check_timesteps(const struct qd_dataset *data, int train_steps);
/* What identifies the samples: a hash over names, types, shapes and bytes of all tensors. `out`: QD_HASH_TEXT bytes. QD_ENOMEM. */
QD_CHECK enum qd_status qd_dataset_hash(const struct qd_dataset *data, char *out);
/* Elements of one sample's row; 0 for an absent field. */
int64_t qd_dataset_row(const struct qd_dataset *data, enum qd_data_field field);
/* The sizes of a graph that takes `batch` samples. */
struct qd_sizes qd_dataset_sizes(const struct qd_dataset *data, int64_t batch);
/* Rows `index[0..batch)` of a present field as float32, to out [B,row]. QD_EINPUT when a value is NaN or infinite, naming file and
 * sample. */
QD_CHECK enum qd_status qd_dataset_gather(
	const struct qd_dataset *data, enum qd_data_field field, const int64_t *index, int64_t batch, float *out);

/* A field's row as a model of `config` needs it: dimensions, -1 where any size will do; rank -1: the model has no such input. */
struct qd_shape qd_data_field_needed(const struct qd_unet_config *config, enum qd_data_field field);

/* ---- a folder of images with what is known about them (image_folder.c) ---- */
struct qd_image_row {
	const char *image;     /* path */
	const char *text;      /* "" when there is none */
	const char *mask;      /* path, or NULL */
	const char *condition; /* path, or NULL */
};
struct qd_image_folder {
	struct qd_image_row *rows;
	size_t n, cap;
	struct qd_arena arena;
};
/*
 * Reads `folder`/metadata.jsonl or metadata.csv (what they hold stands in image_folder.c); without one, every .png, .jpg, .jpeg and
 * .webp is a row without text, by name. `text_column` names the field of the text; images without one, and pictures of other kinds
 * that are left out, are warned of through the log hook. Files are looked for, not read. QD_EIO; QD_EINPUT names the line and what
 * is wrong with it, or that no line has the text column while another holds text.
 */
QD_CHECK enum qd_status qd_image_folder_open(struct qd_image_folder *folder, const char *path, const char *text_column);
void qd_image_folder_release(struct qd_image_folder *folder);

/*
 * ---- making them (prepare.c) ----
 * Calibration data from what people have: a folder of images with captions, or arrays, become samples as a model meets them. Images
 * go through the pipeline's VAE, captions through its text encoders; then either every sample is a latent noised to a timestep, or
 * samples are the states that the model itself passes when it samples with an adapter.
 *
 * Everything is a function of data, model, options and seed: same input, same bytes, also when a run was killed and went on.
 */
struct qd_prepare_options {
	const char *data;   /* image folder (above), or arrays as struct qd_dataset reads them */
	const char *output; /* safetensors; "<output>.partial" holds finished records while it runs */
	bool force, dry_run;
	int64_t count;           /* samples; 0: one per image or row. More than there are go round */
	int64_t height, width;   /* of images in pixels; 0: the UNet's native size */
	const char *text_column; /* field of metadata.jsonl with the caption */
	bool mode;               /* take the VAE's mean, instead of a draw from its distribution */
	const char *trajectory;  /* as qd_scheduler_new takes it; NULL: noised latents */
	int trajectory_steps;
	double guidance;     /* of trajectories */
	enum qd_dtype dtype; /* of what is written: F32 or F16 */
	uint64_t seed;
	struct qd_provenance *provenance; /* goes into the output; what shapes that is added, unless the run is dry */
};
struct qd_prepare_result {
	int64_t rows, samples;         /* images or rows of the data; samples written */
	int64_t height, width, tokens; /* of latents; of the context */
	/* what the samples are of: different contexts, adapters (0: the base alone) and timesteps */
	int64_t prompts, adapters, timesteps;
	double first_timestep, last_timestep; /* the lowest and the highest */
	int64_t kept;                         /* records found finished from an earlier run */
};
/*
 * Writes options->output with the fields of QD_FIELD_LIST: sample, timestep, encoder_hidden_states, what else the model
 * takes, and, unless along trajectories, latents, noise and condition. `modules` and `adapters` are the model's. However many
 * samples are asked for, they are spread over prompts, adapters and timesteps (prepare_spread.c). The result is filled in as far
 * as it is known, by a dry run too, which opens, decodes and checks everything that can be checked without running. QD_EINPUT names
 * file, line, tensor or component, found and needed; QD_EUNSUPPORTED; QD_EEXIST: the output, or records of another run, are there
 * and `force` is false.
 */
QD_CHECK enum qd_status qd_prepare_data(const struct qd_model *model, const struct qd_modules *modules,
	const struct qd_adapter *const *adapters, size_t n, const struct qd_prepare_options *options,
	struct qd_prepare_result *result);
/* Whether a folder holds finished records of such a run, from which it goes on. */
bool qd_is_prepare_store(const char *folder);

#endif
