/*
 * What unet.c (the network's outline) and unet_blocks.c (what it is made of) share. Every builder returns the value it made,
 * QD_NONE after a failure, which the graph remembers.
 */
#ifndef QUAD_LIB_NETWORK_UNET_INTERNAL_H
#define QUAD_LIB_NETWORK_UNET_INTERNAL_H

#include "lib/network/layers.h"
#include "lib/network/network.h"

struct qd_unet {
	struct qd_layers *l;
	struct qd_graph *g; /* that of the layers */
	const struct qd_unet_config *config;
	int64_t tokens;
	qd_id time;    /* act(time embedding) [N, time_dim] */
	qd_id context; /* encoder_hidden_states as tokens [N*L, cross_dim] */
};

/* ResnetBlock2D: x [N,C,H,W] -> [N,out,H,W]; `factor` divides the sum (1 outside the mid block). */
qd_id qd_unet_resnet(struct qd_unet *u, const char *path, qd_id x, int64_t out, double factor);
/* Transformer2DModel of `depth` blocks with `heads` heads: x [N,C,H,W] -> the same shape. */
qd_id qd_unet_transformer(struct qd_unet *u, const char *path, qd_id x, int64_t depth, int64_t heads, bool only_cross);

#endif
