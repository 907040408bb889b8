/*
 * Calibration data from what people have: a folder of images with captions, or arrays, become samples as a model meets them. Images
 * go through the pipeline's VAE, captions through its text encoders; then either every sample is a latent noised to a timestep, or
 * samples are the states that the model itself passes when it samples with an adapter.
 *
 * Everything is a function of data, model, options and seed: same input, same bytes, also when a run was killed and went on.
 */
#ifndef QUAD_QUANT_CALIB_H
#define QUAD_QUANT_CALIB_H

#include "quant/quant.h"

struct qd_calib_options {
	const char *data;   /* image folder (lib/io/io.h), or arrays as struct qd_dataset reads them */
	const char *output; /* safetensors; "<output>.partial" holds finished parts while it runs */
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
};
struct qd_calib_result {
	int64_t rows, samples, prompts; /* images or rows of the data; samples written; different captions */
	int64_t height, width, tokens;  /* of latents; of the context */
	int64_t kept;                   /* parts found finished from an earlier run */
};
/*
 * Writes options->output with the fields of lib/model/dataset.h: sample, timestep, encoder_hidden_states, what else the model
 * takes, and, unless along trajectories, latents, noise and condition. `modules` and `adapters` are the model's; trajectory j runs
 * with adapter j mod n. The result is filled in as far as it is known, by a dry run too, which opens and checks everything that can
 * be checked without running. QD_EINPUT names file, line, tensor or part, found and needed; QD_EUNSUPPORTED; QD_EEXIST: the output,
 * or parts of another run, are there and `force` is false.
 */
QD_CHECK enum qd_status qd_calib_make(const struct qd_model *model, const struct qd_modules *modules,
	const struct qd_adapter *const *adapters, size_t n, const struct qd_calib_options *options, struct qd_calib_result *result);

#endif
