/*
 * What every network of this folder is built of: layers with their weights, looked up by module path. unet.c, vae.c, tiny_vae.c and
 * text.c outline the networks, this is what they call.
 *
 * Every builder takes the layer's module path, which names its nodes and values, and returns the value it made; QD_NONE after a
 * failure, which the graph remembers (qd_graph_status). Tokens are two-dimensional, [N*L, C], so that every linear layer is one
 * Gemm with the weight as it lies in its file.
 */
#ifndef QUAD_LIB_NETWORK_LAYERS_H
#define QUAD_LIB_NETWORK_LAYERS_H

#include "lib/weights/weights.h"

struct qd_layers {
	struct qd_graph *g;
	const struct qd_weights *weights; /* NULL: shapes only */
	/* Finds a tensor that some files spell otherwise; NULL: qd_weights_find. Returns NULL when there is none. */
	const struct qd_tensor *(*find)(const struct qd_weights *weights, const char *name);
	enum qd_op act; /* QD_OP_SIGMOID stands for x * sigmoid(x) */
	int64_t groups; /* of group norms */
	int64_t batch;
};

/* The text in the graph's arena; "" after a failure. */
const char *qd_layers_path(struct qd_layers *l, const char *fmt, ...) QD_PRINTF(2, 3);
/* Size of an axis of a value; 1 after a failure. */
int64_t qd_layers_dim(const struct qd_layers *l, qd_id value, int axis);
/* A one-element f32 constant. */
qd_id qd_layers_scalar(struct qd_layers *l, const char *name, double value);
/*
 * The weight "<path>.<leaf>" as a value of `shape`. A stored [O,I] serves where [O,I,1,1] is needed and the other way round.
 * Missing, of another shape or no float: QD_EINPUT naming tensor, found and needed.
 */
qd_id qd_layers_weight(struct qd_layers *l, const char *path, const char *leaf, struct qd_shape shape);

/* x f32 [N,I,H,W] -> [N,out,H',W'], padding (kernel-1)/2, with bias. */
qd_id qd_layers_conv(struct qd_layers *l, const char *path, qd_id x, int64_t out, int64_t kernel, int64_t stride);
/* The same with pads top, left, bottom, right, and with or without a bias. */
qd_id qd_layers_conv_padded(struct qd_layers *l, const char *path, qd_id x, int64_t out, int64_t kernel, int64_t stride,
	const int64_t pads[4], bool bias);
/* x f32 [rows,I] -> [rows,out]. */
qd_id qd_layers_linear(struct qd_layers *l, const char *path, qd_id x, int64_t out, bool bias);
/* x f32 [N,C,H,W]. */
qd_id qd_layers_group_norm(struct qd_layers *l, const char *path, qd_id x, double eps);
/* x f32 [rows,C]. */
qd_id qd_layers_layer_norm(struct qd_layers *l, const char *path, qd_id x, double eps);
/* The network's activation. */
qd_id qd_layers_act(struct qd_layers *l, const char *name, qd_id x);

/* [N,C,H,W] -> [N*H*W, C] and back: values "<path>.channels_last", ".tokens" and "<path>.pixels", ".channels_first". */
qd_id qd_layers_tokens(struct qd_layers *l, const char *path, qd_id x);
qd_id qd_layers_pixels(struct qd_layers *l, const char *path, qd_id tokens, int64_t height, int64_t width);
/*
 * softmax(q k^T / sqrt(C/heads) + mask) v by heads, feature = head * (C/heads) + d: q [N*Lq,C], k and v [N*Lk,C], mask
 * [N or 1, 1, Lq, Lk] or QD_NONE -> [N*Lq,C]. Values "<name of q>.split", ".heads" and so on, "<path>.attention",
 * ".attention.pixels" and ".attention.tokens".
 */
qd_id qd_layers_attention(struct qd_layers *l, const char *path, qd_id q, qd_id k, qd_id v, qd_id mask, int64_t heads);

#endif
