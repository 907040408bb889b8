/*
 * VAEs and text encoders again, as plain loops in double precision over one sample: what the graphs are compared with. Nothing of
 * lib/network's builders is used, only weights by name.
 */
#ifndef QUAD_TESTS_UNIT_PLAIN_NETWORKS_H
#define QUAD_TESTS_UNIT_PLAIN_NETWORKS_H

#include "lib/network/network.h"
#include "tests/unit/plain_layers.h"

/* The outputs "out" of decoder and encoder. `in` is kept. */
struct plain_image plain_vae(const struct qd_component *component, enum qd_vae_part part, const struct plain_image *in);
struct plain_image plain_tiny_vae(const struct qd_component *component, enum qd_vae_part part, const struct plain_image *in);

/*
 * Hidden states of a text encoder [layers + 1][L][D] for L ids, mask[j] 0 where key j is padding (NULL: none is); the caller's to
 * free. Then the final norm of L rows, in place, and the position that is pooled.
 */
double *plain_text_states(const struct qd_component *component, int tokens, const int32_t *ids, const int32_t *mask);
void plain_final_norm(const struct qd_component *component, int rows, double *x);
int plain_pooled_position(const struct qd_component *component, int tokens, const int32_t *ids);
/* text_projection [P][D] times a row. */
void plain_projection(const struct qd_component *component, const double *row, double *out);

#endif
