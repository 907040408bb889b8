/*
 * For tests of training: a model of a few thousand parameters with random weights, and data to train it on. Included after
 * <cmocka.h>.
 */
#ifndef QUAD_TESTS_UNIT_DISTILL_HELP_H
#define QUAD_TESTS_UNIT_DISTILL_HELP_H

#include "lib/model/model.h"

#define OK(call)                                                                                                                   \
	do {                                                                                                                       \
		if ((call) != QD_OK)                                                                                               \
			fail_msg("%s", qd_message());                                                                              \
	} while (0)

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

/* What both trainings are tried on, on one thread: the pipeline "base", its layers, and 16 samples of data. */
struct help_training {
	char base[512], data[512];
	struct help_layers layers;
};
void help_training_open(struct help_training *training, const char *prediction);
/* Frees it; 0, or -1 where tensors are left behind: what a group's tear-down returns. */
int help_training_close(struct help_training *training);

/* Writes "<scratch>/<name>": n smooth latents with condition and prompt, without latents where `noisy` (sample and timestep
 * instead); its path. */
const char *help_data(const char *name, int64_t n, uint64_t seed, bool noisy);

/* An adapter of `rank` on all layers whose up and down are uniform in +-size, written to "<scratch>/<name>"; its path. */
const char *help_adapter(const char *name, const struct qd_modules *modules, int64_t rank, float size, uint64_t seed);

/* A killed run: until the next call, what is "<output>.ckpt" when update `done` was made is kept aside. NULL: no more. */
void help_watch_state(const char *output, uint64_t done);
/* Puts what was kept where `output`'s state is looked for. */
void help_put_state(const char *output);
bool help_has_state(const char *output);

bool help_same_file(const char *a, const char *b);
/* Replaces what stands in the text file "<folder>/<name>" once. */
void help_edit(const char *folder, const char *name, const char *from, const char *to);
/* A call ended with `want` and a message that holds `message`. */
void help_refused(enum qd_status st, enum qd_status want, const char *message);

#endif
