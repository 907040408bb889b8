/*
 * For tests: a Stable Diffusion pipeline as small as they get, of random weights, made in the scratch folder. Included after
 * <cmocka.h>.
 */
#ifndef QUAD_TESTS_UNIT_SMALL_PIPELINE_H
#define QUAD_TESTS_UNIT_SMALL_PIPELINE_H

#include "lib/model/model.h"

/* Of its UNet: latents [4,4,4], 6 context features, transformers in the first block and in the middle. */
extern const char small_unet[];
enum { SMALL_CHANNELS = 4, SMALL_SIDE = 4, SMALL_FEATURES = 6 };

struct small_pipeline {
	char folder[4096]; /* model_index.json, unet, vae, tiny (AutoencoderTiny), text_encoder, scheduler */
	struct qd_model model;
	struct qd_graph shape; /* of its UNet, without bytes */
	struct qd_modules modules;
};
/* Makes the folder `name` and opens it. */
void small_pipeline_open(struct small_pipeline *p, const char *name);
void small_pipeline_close(struct small_pipeline *p);

/* A component's folder with this config.json and random weights, below the scratch folder. */
void small_component(const char *folder, const char *config);

#endif
