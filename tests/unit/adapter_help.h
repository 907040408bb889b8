/*
 * For tests of adapters: the layers of some models, and adapter files made on the spot. Included after <cmocka.h>.
 */
#ifndef QUAD_TESTS_UNIT_ADAPTER_HELP_H
#define QUAD_TESTS_UNIT_ADAPTER_HELP_H

#include "lib/adapter/adapter.h"

/* A model's graph without bytes, and its layers. */
struct help_model {
	struct qd_graph g;
	struct qd_modules modules;
};
/* `name`: "tiny15" and "tinyxl" (the golden models' shapes), "sd15", "sdxl". */
void help_model_open(struct help_model *model, const char *name);
void help_model_close(struct help_model *model);
/* "tiny15" for a group of tests: set-up and tear-down that cmocka calls. */
extern struct help_model help_tiny15;
int help_tiny15_open(void **state);
int help_tiny15_close(void **state);

/* One attention of its, and of every other model: as a path, and as kohya-ss spells it. */
#define ATT "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
#define FLAT "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1"

/* An adapter file in the making: float32 tensors whose elements come from qd_random-like streams by `seed`, and metadata. */
#define HELP_TENSORS 1024
struct help_file {
	struct qd_tensor tensors[HELP_TENSORS];
	char names[HELP_TENSORS][192];
	size_t n;
	const char *metadata[16];
	size_t n_metadata;
	uint32_t state;
};
/* Adds a tensor of the given dims (rank 0: a scalar) and returns its elements. */
float *help_add(struct help_file *file, const char *name, int rank, ...);
/* Writes it into the scratch folder, releases the tensors and returns the path. */
const char *help_write(struct help_file *file, const char *name);

/* Element (o, i) of up diag(gain) down; i runs over I*kh*kw. */
double help_delta(const struct qd_lora *lora, int64_t o, int64_t i);

#endif
