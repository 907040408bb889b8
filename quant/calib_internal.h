/*
 * What the files that make calibration data share. Rows are what the data has (an image with its caption, a row of arrays), samples
 * what is written.
 */
#ifndef QUAD_QUANT_CALIB_INTERNAL_H
#define QUAD_QUANT_CALIB_INTERNAL_H

#include "lib/math/math.h"
#include "lib/sampler/sampler.h"
#include "quant/calib.h"

/* Streams of the seed's random numbers; every sample or row has its own of each. */
enum qd_calib_stream { QD_STREAM_ORDER, QD_STREAM_TIMESTEP, QD_STREAM_NOISE, QD_STREAM_LATENT, QD_STREAM_WALK };
void qd_calib_random(struct qd_random *random, uint64_t seed, enum qd_calib_stream stream, int64_t index);
/* n standard normal numbers. */
void qd_calib_noise(uint64_t seed, enum qd_calib_stream stream, int64_t index, size_t n, float *out);

/* ---- finished parts (calib_store.c) ---- */
struct qd_calib_store {
	char *folder;
	int64_t kept; /* parts that were there already */
};
/* Opens or makes "<output>.partial" for the run called `run`. QD_EEXIST when it is another's and `force` is false. */
QD_CHECK enum qd_status qd_calib_store_open(struct qd_calib_store *store, const char *output, const char *run, bool force);
/* True, counted in `kept`, when the part is finished. */
bool qd_calib_store_has(struct qd_calib_store *store, const char *kind, int64_t index);
QD_CHECK enum qd_status qd_calib_store_put(
	const struct qd_calib_store *store, const char *kind, int64_t index, const struct qd_tensor *tensors, size_t n);
/* A tensor of a part as float32, n values. QD_EINPUT when it has another number. */
QD_CHECK enum qd_status qd_calib_store_get(
	const struct qd_calib_store *store, const char *kind, int64_t index, const char *name, size_t n, float *out);
/* Removes the folder. */
void qd_calib_store_remove(struct qd_calib_store *store);
void qd_calib_store_release(struct qd_calib_store *store);

/* ---- one component in an executor (calib_part.c) ---- */
struct qd_calib_part {
	struct qd_component component;
	struct qd_graph graph;
	struct qd_exec *exec;
};
/* Opens `root`/`name`, which must be of the given kind (either VAE for QD_COMPONENT_VAE). No graph yet. */
QD_CHECK enum qd_status qd_calib_part_open(
	struct qd_calib_part *part, const char *root, const char *name, enum qd_component_kind kind);
/* Builds and loads it. */
QD_CHECK enum qd_status qd_calib_part_build(struct qd_calib_part *part, const struct qd_component_sizes *sizes);
/* Runs it and reads the output `name`, n values. */
QD_CHECK enum qd_status qd_calib_part_run(struct qd_calib_part *part, const char *name, size_t n, float *out);
void qd_calib_part_release(struct qd_calib_part *part);
/* Adds what identifies the part's weights to a hash. */
QD_CHECK enum qd_status qd_calib_part_hash(const struct qd_calib_part *part, char *out);

/* ---- captions (calib_text.c) ---- */
enum { QD_CALIB_ENCODERS = 2 };
struct qd_calib_texts {
	const char **texts; /* [n], different from each other; borrowed */
	size_t n;
	int64_t *of_row; /* [rows] index into texts */
	struct qd_calib_part encoders[QD_CALIB_ENCODERS];
	struct qd_tokenizer *tokenizers[QD_CALIB_ENCODERS];
	size_t n_encoders;
	bool pooled; /* SDXL: next-to-last states joined, and the projected vector */
	int64_t tokens, features, embeds;
};
/* Collects the captions of `rows` (and "" with `empty`), opens tokenizers and encoders, checks them against the UNet. */
QD_CHECK enum qd_status qd_calib_texts_open(
	struct qd_calib_texts *texts, const struct qd_model *model, const struct qd_image_row *rows, size_t n, bool empty);
void qd_calib_texts_release(struct qd_calib_texts *texts);
/* Encodes those that are not in the store: part "text-K": encoder_hidden_states [L,D], text_embeds [P]. */
QD_CHECK enum qd_status qd_calib_texts_encode(struct qd_calib_texts *texts, struct qd_calib_store *store);

/* ---- images (calib_image.c) ---- */
struct qd_calib_images {
	const struct qd_image_row *rows; /* borrowed */
	int64_t n;
	const struct qd_unet_config *unet;
	const struct qd_calib_options *options;
	struct qd_calib_part vae;
	int64_t height, width;                         /* of images */
	int64_t latent_height, latent_width, channels; /* of latents */
	int64_t condition;                             /* channels that the UNet takes beside the latents */
	bool latents;                                  /* wanted */
};
QD_CHECK enum qd_status qd_calib_images_open(struct qd_calib_images *images, const struct qd_model *model,
	const struct qd_image_folder *folder, const struct qd_calib_options *options);
void qd_calib_images_release(struct qd_calib_images *images);
/* Encodes those that are not in the store: part "image-I": latents [Z,h,w], condition [Cc,h,w], time_ids [I]. */
QD_CHECK enum qd_status qd_calib_images_encode(struct qd_calib_images *images, struct qd_calib_store *store);

/* ---- where rows come from ---- */
struct qd_calib_source {
	int64_t n;
	bool has[QD_FIELD_COUNT];
	struct qd_shape shape[QD_FIELD_COUNT]; /* of one row */
	/* one of the two */
	const struct qd_dataset *arrays;
	const struct qd_calib_texts *texts; /* with `store` */
	const struct qd_calib_store *store;
};
/* A field of a row, as float32. */
QD_CHECK enum qd_status qd_calib_row(const struct qd_calib_source *source, enum qd_field field, int64_t row, float *out);

/* ---- trajectories (calib_walk.c) ---- */
struct qd_calib_walks {
	const struct qd_model *model;
	const struct qd_modules *modules;
	const struct qd_adapter *const *adapters;
	size_t n_adapters;
	const struct qd_calib_options *options;
	const struct qd_calib_source *source;
	const struct qd_schedule *schedule;
	int64_t n;        /* trajectories */
	int64_t negative; /* index of the text of the unconditional pass; -1: zeros */
};
/* Runs those that are not in the store: part "walk-J": sample [S,C,h,w], timestep [S]. */
QD_CHECK enum qd_status qd_calib_walk(const struct qd_calib_walks *walks, struct qd_calib_store *store);

#endif
