/*
 * What AutoencoderTiny (TAESD) is made of. Layers are numbered through, activations and upsamplings included; a block is
 *
 *   block n   y = relu(n.conv.4(act(n.conv.2(act(n.conv.0(x))))) + x)
 *
 *   encoder   (x+1)/2, conv, blocks; then per level a convolution with stride 2 without bias, blocks; conv to the latents
 *   decoder   3 tanh(z/3), conv, act; per level blocks, double by repetition, a convolution without bias; last level blocks and a
 *             convolution with bias; 2y-1
 *
 * It takes and gives the latents that the UNet uses: there is no scaling factor between them.
 */
#include "lib/network/vae_internal.h"

static const int64_t around[] = { 1, 1, 1, 1 };

/* A network under construction: `next` is the number of its next layer. */
struct tiny {
	struct qd_layers *l;
	const char *part; /* "encoder" or "decoder" */
	int next;
};

static const char *next_path(struct tiny *t)
{
	return qd_layers_path(t->l, "%s.layers.%d", t->part, t->next++);
}

static qd_id convolve(struct tiny *t, qd_id x, int64_t out, int64_t stride, bool bias)
{
	return qd_layers_conv_padded(t->l, next_path(t), x, out, 3, stride, around, bias);
}

static qd_id block(struct tiny *t, qd_id x)
{
	struct qd_layers *l = t->l;
	const char *path = next_path(t);
	int64_t channels = qd_layers_dim(l, x, 1);
	qd_id h = x;
	for (int i = 0; i < 5; i += 2) {
		if (i > 0)
			h = qd_layers_act(l, qd_layers_path(l, "%s.conv.%d", path, i - 1), h);
		h = qd_layers_conv(l, qd_layers_path(l, "%s.conv.%d", path, i), h, channels, 3, 1);
	}
	h = qd_build_binary(l->g, QD_OP_ADD, qd_layers_path(l, "%s.sum", path), h, x);
	return qd_build_unary(l->g, QD_OP_RELU, path, h);
}

static qd_id blocks(struct tiny *t, qd_id x, int64_t n)
{
	for (int64_t i = 0; i < n; i++)
		x = block(t, x);
	return x;
}

/* `op` with a constant, "<part>.<name>". */
static qd_id with_constant(struct tiny *t, enum qd_op op, const char *name, qd_id x, double constant)
{
	const char *path = qd_layers_path(t->l, "%s.%s", t->part, name);
	return qd_build_binary(t->l->g, op, path, x, qd_layers_scalar(t->l, qd_layers_path(t->l, "%s.constant", path), constant));
}

static qd_id encoder(struct tiny *t, const struct qd_vae_config *c, qd_id x)
{
	x = with_constant(t, QD_OP_ADD, "image.plus_one", x, 1);
	x = with_constant(t, QD_OP_DIV, "image.halved", x, 2);
	for (int i = 0; i < c->blocks; i++) {
		x = convolve(t, x, c->channels[i], i == 0 ? 1 : 2, i == 0);
		x = blocks(t, x, c->layers[i]);
	}
	return convolve(t, x, c->latent_channels, 1, true);
}

static qd_id decoder(struct tiny *t, const struct qd_vae_config *c, qd_id z)
{
	struct qd_layers *l = t->l;
	qd_id x = with_constant(t, QD_OP_DIV, "latent.third", z, 3);
	x = qd_build_unary(l->g, QD_OP_TANH, "decoder.latent.tanh", x);
	x = with_constant(t, QD_OP_MUL, "latent.bounded", x, 3);
	x = convolve(t, x, c->channels[0], 1, true);
	x = qd_layers_act(l, next_path(t), x);
	for (int i = 0; i < c->blocks; i++) {
		bool last = i + 1 == c->blocks;
		x = blocks(t, x, c->decoder_layers[i]);
		if (!last)
			x = qd_build_upsample2(l->g, next_path(t), x, 2 * qd_layers_dim(l, x, 2), 2 * qd_layers_dim(l, x, 3));
		x = convolve(t, x, last ? c->out_channels : c->channels[i], 1, last);
	}
	x = with_constant(t, QD_OP_MUL, "image.doubled", x, 2);
	return with_constant(t, QD_OP_SUB, "image", x, 1);
}

qd_id qd_tiny_vae_build(struct qd_layers *l, const struct qd_vae_config *config, enum qd_vae_part part, qd_id in)
{
	struct tiny t = { .l = l, .part = part == QD_VAE_DECODER ? "decoder" : "encoder" };
	return part == QD_VAE_DECODER ? decoder(&t, config, in) : encoder(&t, config, in);
}
