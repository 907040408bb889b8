/*
 * Single-file checkpoints: one safetensors file with the UNet under the names of the original latent-diffusion implementation, the
 * VAE and the text encoders beside it. (The UNet's tensors alone, with or without their prefix, are one too.)
 *
 *   model.diffusion_model.*       UNet                 first_stage_model.*                VAE
 *   model_ema.*                   averaged copies      cond_stage_model.*, conditioner.*  text encoders
 *
 * Such a file carries no configuration. It is inferred from the tensors' names and shapes, with what shapes do not tell taken from
 * the published families (SD1.x, SD2.x, SDXL and its refiner): 1x1 convolutions around transformers mean SD1.x's eight heads,
 * linear layers the others' heads of 64 features; norms have 32 groups. For any other network, NAME.config.json beside
 * NAME.safetensors, UNet2DConditionModel's config.json, says it all and the tensors must fit it.
 */
#ifndef QUAD_LIB_MODEL_CHECKPOINT_H
#define QUAD_LIB_MODEL_CHECKPOINT_H

#include "lib/model/model.h"

/* Whether the file holds a UNet under the original names. */
bool qd_checkpoint_detect(const struct qd_safetensors *file);

/*
 * Opens the UNet of the file at `path`: its configuration, and its weights under diffusers' names (the bytes stay where they are
 * mapped). Every tensor of the UNet is used. QD_EINPUT or QD_EUNSUPPORTED, naming file and tensor, for a tensor that is missing,
 * left over, of another shape or no float, for a network that no configuration describes, and for files that are something else;
 * pickles are refused by their names. `config` and `weights` are the caller's to release (qd_weights_release), empty after a
 * failure.
 */
QD_CHECK enum qd_status qd_checkpoint_open(struct qd_unet_config *config, struct qd_weights *weights, const char *path);

/* What lies in such a file, by component. */
enum qd_checkpoint_part {
	QD_CHECKPOINT_UNET,
	QD_CHECKPOINT_EMA,    /* averaged copies of the UNet's weights */
	QD_CHECKPOINT_VAE,    /* first_stage_model. */
	QD_CHECKPOINT_TEXT,   /* the first text encoder */
	QD_CHECKPOINT_TEXT_2, /* SDXL's second */
	QD_CHECKPOINT_OTHER,  /* schedules and whatever else training left */
	QD_CHECKPOINT_PARTS
};
struct qd_checkpoint_content {
	size_t tensors, bytes;
	uint64_t parameters;
	const char *first; /* name of the first tensor; NULL: none */
};
const char *qd_checkpoint_part_name(enum qd_checkpoint_part part);
void qd_checkpoint_contents(const struct qd_safetensors *file, struct qd_checkpoint_content contents[QD_CHECKPOINT_PARTS]);

/* ---- between checkpoint.c and checkpoint_config.c ---- */
/* The configuration of the UNet whose tensors in `file` begin with `prefix`. */
QD_CHECK enum qd_status qd_checkpoint_infer(struct qd_unet_config *config, const struct qd_safetensors *file, const char *prefix);

#endif
