/*
 * What vae_graph.c (inputs, outputs, latents) and the two networks (vae.c, tiny_vae.c) share.
 */
#ifndef QUAD_LIB_NETWORK_VAE_INTERNAL_H
#define QUAD_LIB_NETWORK_VAE_INTERNAL_H

#include "lib/network/network.h"
#include "lib/network/layers.h"

/* The network from its input z or x to its last layer. */
qd_id qd_vae_build(struct qd_layers *l, const struct qd_vae_config *config, enum qd_vae_part part, qd_id in);
qd_id qd_tiny_vae_build(struct qd_layers *l, const struct qd_vae_config *config, enum qd_vae_part part, qd_id in);

#endif
