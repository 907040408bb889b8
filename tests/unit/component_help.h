/*
 * For tests of components: folders with made-up weights, and a graph run on named tensors. Included after <cmocka.h>.
 */
#ifndef QUAD_TESTS_UNIT_COMPONENT_HELP_H
#define QUAD_TESTS_UNIT_COMPONENT_HELP_H

#include "lib/network/network.h"

/* Fails the test with the message of a failure. */
void component_ok(enum qd_status st);

/* Values of the tensor `name`. */
typedef void (*component_fill)(const char *name, const struct qd_shape *shape, float *out);
/*
 * Values that are a function of the name, as the golden data of VAEs has them: a linear congruential generator seeded with the
 * name's FNV-1a hash, scaled by sqrt(3 / fan in); norms near 1, biases small.
 */
void component_golden_values(const char *name, const struct qd_shape *shape, float *out);

/* A folder `name` with config.json and all weights, F32; `rename` (NULL: none) gives the name that a tensor is stored under,
 * NULL to leave it out, in a buffer that it owns. Returns the folder's path as scratch_path does. */
const char *component_folder(
	const char *name, const char *config, component_fill fill, const char *(*rename)(const char *name, struct qd_shape *shape));

/* Every tensor of a component's graphs (both parts of a VAE): calls `visit` with name and shape. */
void component_each_weight(const struct qd_component *component,
	void (*visit)(void *context, const char *name, const struct qd_shape *shape), void *context);

#endif
