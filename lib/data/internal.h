/*
 * What the files that make calibration data share. Rows are what the data has (an image with its caption, a row of arrays), samples
 * what is written.
 */
#ifndef QUAD_LIB_DATA_INTERNAL_H
#define QUAD_LIB_DATA_INTERNAL_H

#include "lib/math/math.h"
#include "lib/sampler/sampler.h"
#include "lib/data/data.h"

/* ---- finished records (prepare_store.c) ---- */
struct qd_prepare_store {
	char *folder;
	int64_t kept; /* records that were there already */
};
/* Opens or makes "<output>.partial" for the run called `run`, lines of "key value". QD_EEXIST when it is another's and `force` is
 * false, naming the key in which they differ. */
QD_CHECK enum qd_status qd_prepare_store_open(struct qd_prepare_store *store, const char *output, const char *run, bool force);
/*
 * True, counted in `kept`, when the record is there, whole, and made from `of`: a text that says what shapes this record beside the
 * run. One that is damaged or made from something else is said so, and is to be made anew.
 */
bool qd_prepare_store_has(struct qd_prepare_store *store, const char *kind, int64_t index, const char *of);
/* QD_EINPUT when a value is not finite. */
QD_CHECK enum qd_status qd_prepare_store_put(const struct qd_prepare_store *store, const char *kind, int64_t index, const char *of,
	const struct qd_tensor *tensors, size_t n);
/* A tensor of a record as float32, n values. QD_EINPUT when it has another number, or the record is damaged. */
QD_CHECK enum qd_status qd_prepare_store_get(
	const struct qd_prepare_store *store, const char *kind, int64_t index, const char *name, size_t n, float *out);
/* Removes the folder. */
void qd_prepare_store_remove(struct qd_prepare_store *store);
void qd_prepare_store_release(struct qd_prepare_store *store);

/* ---- one component that runs (prepare_network.c) ---- */
struct qd_prepare_network {
	struct qd_component component;
	struct qd_graph graph;
	struct qd_runner runner; /* zeroed until it is built */
};
/* Opens `root`/`name`, which must be of the given kind (either VAE for QD_COMPONENT_VAE). No graph yet. */
QD_CHECK enum qd_status qd_prepare_network_open(
	struct qd_prepare_network *part, const char *root, const char *name, enum qd_component_kind kind);
/* Builds and loads it. */
QD_CHECK enum qd_status qd_prepare_network_build(struct qd_prepare_network *part, const struct qd_component_sizes *sizes);
void qd_prepare_network_release(struct qd_prepare_network *part);
/* A hash over its weights and its configuration. `out`: QD_HASH_TEXT bytes. */
QD_CHECK enum qd_status qd_prepare_network_hash(const struct qd_prepare_network *part, char *out);

/* ---- captions (prepare_texts.c) ---- */
enum { QD_PREPARE_ENCODERS = 2 };
struct qd_prepare_texts {
	const char **texts; /* [n], different from each other; borrowed */
	size_t n;
	int64_t *of_row; /* [rows] index into texts */
	struct qd_prepare_network encoders[QD_PREPARE_ENCODERS];
	struct qd_tokenizer *tokenizers[QD_PREPARE_ENCODERS];
	char *folders[QD_PREPARE_ENCODERS]; /* of the tokenizers */
	size_t n_encoders;
	bool pooled; /* SDXL: next-to-last states joined, and the projected vector */
	int64_t tokens, features, embeds;
};
/* Collects the captions of `rows` (and "" with `empty`), opens tokenizers and encoders, checks them against the UNet. */
QD_CHECK enum qd_status qd_prepare_texts_open(
	struct qd_prepare_texts *texts, const struct qd_model *model, const struct qd_image_row *rows, size_t n, bool empty);
void qd_prepare_texts_release(struct qd_prepare_texts *texts);
/* Encodes those that are not in the store: record "text-K": encoder_hidden_states [L,D], text_embeds [P]. */
QD_CHECK enum qd_status qd_prepare_texts_encode(struct qd_prepare_texts *texts, struct qd_prepare_store *store);

/* ---- images (prepare_images.c) ---- */
struct qd_prepare_images {
	const struct qd_image_row *rows; /* borrowed */
	int64_t n;
	const struct qd_unet_config *unet;
	const struct qd_prepare_options *options;
	struct qd_prepare_network vae;
	int64_t height, width;                         /* of images */
	int64_t latent_height, latent_width, channels; /* of latents */
	int64_t condition;                             /* channels that the UNet takes beside the latents */
	bool latents;                                  /* wanted */
};
QD_CHECK enum qd_status qd_prepare_images_open(struct qd_prepare_images *images, const struct qd_model *model,
	const struct qd_image_folder *folder, const struct qd_prepare_options *options);
/* Decodes every picture that would be encoded, and drops it: what a dry run can tell of them. */
QD_CHECK enum qd_status qd_prepare_images_check(const struct qd_prepare_images *images);
void qd_prepare_images_release(struct qd_prepare_images *images);
/* A hash over the pictures that are used, and their captions. `out`: QD_HASH_TEXT bytes. */
QD_CHECK enum qd_status qd_prepare_images_hash(const struct qd_prepare_images *images, char *out);
/* Encodes those that are not in the store: record "image-I": latents [Z,h,w], condition [Cc,h,w], time_ids [I]. */
QD_CHECK enum qd_status qd_prepare_images_encode(struct qd_prepare_images *images, struct qd_prepare_store *store);

/* ---- where rows come from ---- */
struct qd_prepare_source {
	int64_t n;
	bool has[QD_FIELD_COUNT];
	struct qd_shape shape[QD_FIELD_COUNT]; /* of one row */
	/* one of the two */
	const struct qd_dataset *arrays;
	const struct qd_prepare_texts *texts; /* with `store` */
	const struct qd_prepare_store *store;
};
/* A field of a row, as float32. */
QD_CHECK enum qd_status qd_prepare_row(const struct qd_prepare_source *source, enum qd_data_field field, int64_t row, float *out);

/* ---- which samples there are (prepare_spread.c) ---- */
struct qd_prepare_trajectory {
	int64_t row;
	size_t adapter;
	int64_t first, n; /* its samples are [first, first + n) */
};
struct qd_prepare_spread {
	int64_t n;        /* samples */
	int64_t *row;     /* [n] that each comes from */
	int64_t *stratum; /* [n] of n in time; noised latents alone */
	int *step;        /* [n] of its trajectory, ascending in each; trajectories alone */
	struct qd_prepare_trajectory *trajectories;
	int64_t n_trajectories;
};
/* What is there to be spread over: rows, and which of them have one prompt. */
struct qd_prepare_spread_rows {
	int64_t n;
	int64_t *prompt; /* [n] from 0 up, below n */
};
/* Each is a function of its arguments. QD_ENOMEM; `s` is to be released even then. `timestep` [rows->n]; n <= rows->n. */
QD_CHECK enum qd_status qd_prepare_spread_noised(
	struct qd_prepare_spread *s, const struct qd_prepare_spread_rows *rows, int64_t n, uint64_t seed);
QD_CHECK enum qd_status qd_prepare_spread_stored(
	struct qd_prepare_spread *s, const struct qd_prepare_spread_rows *rows, const double *timestep, int64_t n, uint64_t seed);
QD_CHECK enum qd_status qd_prepare_spread_trajectories(struct qd_prepare_spread *s, const struct qd_prepare_spread_rows *rows,
	size_t n_adapters, int steps, int64_t n, uint64_t seed);
void qd_prepare_spread_release(struct qd_prepare_spread *s);

/* ---- trajectories (prepare_walks.c) ---- */
struct qd_prepare_walks {
	const struct qd_model *model;
	const struct qd_modules *modules;
	const struct qd_adapter *const *adapters;
	size_t n_adapters;
	const struct qd_prepare_options *options;
	const struct qd_prepare_source *source;
	const struct qd_scheduler *scheduler;
	const struct qd_prepare_spread *spread;
	int64_t negative; /* index of the text of the unconditional pass; -1: zeros */
};
/* Runs those that are not in the store: record "walk-J", of n samples: sample [n,C,h,w], timestep [n]. */
QD_CHECK enum qd_status qd_prepare_walk(const struct qd_prepare_walks *walks, struct qd_prepare_store *store);

#endif
