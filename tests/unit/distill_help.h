/*
 * For tests of training: a model of a few thousand parameters with random weights, and data to train it on. Included after
 * <cmocka.h>.
 */
#ifndef QUAD_TESTS_UNIT_DISTILL_HELP_H
#define QUAD_TESTS_UNIT_DISTILL_HELP_H

#include "lib/model/model.h"

enum { HELP_LATENTS = 2, HELP_CONDITION = 3, HELP_SIDE = 8, HELP_TOKENS = 3, HELP_FEATURES = 6 };

/* A pipeline folder "<scratch>/<name>" with unet/ and scheduler/, prediction type "epsilon", "v_prediction" or "sample"; its path.
 */
const char *help_pipeline(const char *name, const char *prediction);

/* A model and its layers; closed by help_layers_close. */
struct help_layers {
	struct qd_model model;
	struct qd_graph g;
	struct qd_modules modules;
};
void help_layers_open(struct help_layers *layers, const char *path);
void help_layers_close(struct help_layers *layers);

/* Writes "<scratch>/<name>": n smooth latents with condition and prompt, without latents where `noisy` (sample and timestep
 * instead); its path. */
const char *help_data(const char *name, int64_t n, uint64_t seed, bool noisy);

/* An adapter of `rank` on all layers whose up and down are uniform in +-size, written to "<scratch>/<name>"; its path. */
const char *help_adapter(const char *name, const struct qd_modules *modules, int64_t rank, float size, uint64_t seed);

#endif
