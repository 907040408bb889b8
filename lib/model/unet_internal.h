/*
 * What unet.c (the network's outline) and unet_blocks.c (what it is made of) share. Every builder returns the value it made,
 * QD_NONE after a failure, which the graph remembers.
 */
#ifndef QUAD_LIB_MODEL_UNET_INTERNAL_H
#define QUAD_LIB_MODEL_UNET_INTERNAL_H

#include "lib/model/model.h"

struct qd_unet {
	struct qd_graph *g;
	const struct qd_unet_config *config;
	const struct qd_weights *weights; /* NULL: shapes only */
	int64_t batch, tokens;
	qd_id time;    /* act(time embedding) [N, time_dim] */
	qd_id context; /* encoder_hidden_states as tokens [N*L, cross_dim] */
};

/* "<path>.<suffix>" in the graph's arena; "" after a failure. */
const char *qd_unet_path(struct qd_unet *u, const char *fmt, ...) QD_PRINTF(2, 3);
/* Size of an axis of a value; 1 after a failure. */
int64_t qd_unet_dim(const struct qd_unet *u, qd_id value, int axis);
/*
 * The weight "<path>.<leaf>" as a value of `shape`. A stored [O,I] serves where [O,I,1,1] is needed and the other way round.
 * Missing, of another shape or no float: QD_EINPUT naming tensor, found and needed.
 */
qd_id qd_unet_weight(struct qd_unet *u, const char *path, const char *leaf, struct qd_shape shape);

/* A layer with its own weights, `path` its module. conv: x [N,I,H,W] with padding (kernel-1)/2; linear: x [rows,I]; norm: x
 * [N,C,H,W]. */
qd_id qd_unet_conv(struct qd_unet *u, const char *path, qd_id x, int64_t out, int64_t kernel, int64_t stride);
qd_id qd_unet_linear(struct qd_unet *u, const char *path, qd_id x, int64_t out, bool bias);
qd_id qd_unet_group_norm(struct qd_unet *u, const char *path, qd_id x, double eps);
/* The configured activation. */
qd_id qd_unet_act(struct qd_unet *u, const char *name, qd_id x);

/* ResnetBlock2D: x [N,C,H,W] -> [N,out,H,W]; `factor` divides the sum (1 outside the mid block). */
qd_id qd_unet_resnet(struct qd_unet *u, const char *path, qd_id x, int64_t out, double factor);
/* Transformer2DModel of `depth` blocks with `heads` heads: x [N,C,H,W] -> the same shape. */
qd_id qd_unet_transformer(struct qd_unet *u, const char *path, qd_id x, int64_t depth, int64_t heads, bool only_cross);

#endif
