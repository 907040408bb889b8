/*
 * What AutoencoderKL is made of, one network for each direction. All norms have eps 1e-6.
 *
 *   resnet     y = shortcut(x) + conv2(act(norm2(conv1(act(norm1(x))))))
 *   attention  y = x + to_out.0( softmax(q k^T / sqrt(C)) v ), q, k, v of group_norm(x) by pixel, with biases; one head
 *   mid        resnets.1( attentions.0( resnets.0(x) ) )
 *   decoder    conv_in(post_quant_conv(z)), mid, up blocks from the lowest resolution (resnets; double by repetition, convolve),
 *              conv_out(silu(conv_norm_out(x)))
 *   encoder    conv_in(x), down blocks (resnets; one row and column of zeros at the bottom and the right, convolve with stride 2),
 *              mid, quant_conv(conv_out(silu(conv_norm_out(x)))): means, then log variances
 *
 * Files of the first years call the attention's layers query, key, value and proj_attn.
 */
#include "lib/network/vae_internal.h"

#include <string.h>

static const double norm_eps = 1e-6;

/* The tensor under its name, or under the one it had before the attention layers were renamed. */
static const struct qd_tensor *find_weight(const struct qd_weights *weights, const char *name)
{
	static const struct {
		const char *now, *before;
	} renamed[] = { { ".to_q.", ".query." }, { ".to_k.", ".key." }, { ".to_v.", ".value." }, { ".to_out.0.", ".proj_attn." } };
	const struct qd_tensor *tensor = qd_weights_find(weights, name);
	for (size_t i = 0; i < QD_COUNT(renamed) && tensor == NULL; i++) {
		char before[256];
		const char *at = strstr(name, renamed[i].now);
		if (at == NULL)
			continue;
		snprintf(
			before, sizeof(before), "%.*s%s%s", (int)(at - name), name, renamed[i].before, at + strlen(renamed[i].now));
		tensor = qd_weights_find(weights, before);
	}
	return tensor;
}

/* ---- blocks ---- */

/* ResnetBlock2D without a time embedding: x [N,C,H,W] -> [N,out,H,W]. */
static qd_id resnet(struct qd_layers *l, const char *path, qd_id x, int64_t out)
{
	qd_id h = qd_layers_group_norm(l, qd_layers_path(l, "%s.norm1", path), x, norm_eps);
	h = qd_layers_act(l, qd_layers_path(l, "%s.act1", path), h);
	h = qd_layers_conv(l, qd_layers_path(l, "%s.conv1", path), h, out, 3, 1);
	h = qd_layers_group_norm(l, qd_layers_path(l, "%s.norm2", path), h, norm_eps);
	h = qd_layers_act(l, qd_layers_path(l, "%s.act2", path), h);
	h = qd_layers_conv(l, qd_layers_path(l, "%s.conv2", path), h, out, 3, 1);
	if (qd_layers_dim(l, x, 1) != out)
		x = qd_layers_conv(l, qd_layers_path(l, "%s.conv_shortcut", path), x, out, 1, 1);
	return qd_build_binary(l->g, QD_OP_ADD, path, x, h);
}

/* Pixels attend to pixels: x [N,C,H,W] -> the same shape. */
static qd_id attention(struct qd_layers *l, const char *path, qd_id x)
{
	static const char *const names[] = { "to_q", "to_k", "to_v" };
	int64_t channels = qd_layers_dim(l, x, 1), height = qd_layers_dim(l, x, 2), width = qd_layers_dim(l, x, 3);
	qd_id qkv[3];
	qd_id h = qd_layers_group_norm(l, qd_layers_path(l, "%s.group_norm", path), x, norm_eps);
	h = qd_layers_tokens(l, path, h);
	for (int i = 0; i < 3; i++)
		qkv[i] = qd_layers_linear(l, qd_layers_path(l, "%s.%s", path, names[i]), h, channels, true);
	h = qd_layers_attention(l, path, qkv[0], qkv[1], qkv[2], QD_NONE, 1);
	h = qd_layers_linear(l, qd_layers_path(l, "%s.to_out.0", path), h, channels, true);
	h = qd_layers_pixels(l, path, h, height, width);
	return qd_build_binary(l->g, QD_OP_ADD, path, x, h);
}

static qd_id mid_block(struct qd_layers *l, const struct qd_vae_config *c, const char *path, qd_id x)
{
	int64_t channels = c->channels[c->blocks - 1];
	x = resnet(l, qd_layers_path(l, "%s.resnets.0", path), x, channels);
	if (c->mid_attention)
		x = attention(l, qd_layers_path(l, "%s.attentions.0", path), x);
	return resnet(l, qd_layers_path(l, "%s.resnets.1", path), x, channels);
}

/* The end of both directions, with SiLU whatever the configured activation is. */
static qd_id conv_out(struct qd_layers *l, const char *part, qd_id x, int64_t out)
{
	x = qd_layers_group_norm(l, qd_layers_path(l, "%s.conv_norm_out", part), x, norm_eps);
	x = qd_build_silu(l->g, qd_layers_path(l, "%s.conv_act", part), x);
	return qd_layers_conv(l, qd_layers_path(l, "%s.conv_out", part), x, out, 3, 1);
}

/* ---- the two directions ---- */

static qd_id decoder(struct qd_layers *l, const struct qd_vae_config *c, qd_id z)
{
	qd_id x = c->post_quant_conv ? qd_layers_conv(l, "post_quant_conv", z, c->latent_channels, 1, 1) : z;
	x = qd_layers_conv(l, "decoder.conv_in", x, c->channels[c->blocks - 1], 3, 1);
	x = mid_block(l, c, "decoder.mid_block", x);
	for (int i = 0; i < c->blocks; i++) {
		int64_t channels = c->channels[c->blocks - 1 - i];
		for (int j = 0; j < (int)c->decoder_layers[i]; j++)
			x = resnet(l, qd_layers_path(l, "decoder.up_blocks.%d.resnets.%d", i, j), x, channels);
		if (i + 1 == c->blocks)
			break;
		const char *path = qd_layers_path(l, "decoder.up_blocks.%d.upsamplers.0.conv", i);
		x = qd_build_upsample2(
			l->g, qd_layers_path(l, "%s.input", path), x, 2 * qd_layers_dim(l, x, 2), 2 * qd_layers_dim(l, x, 3));
		x = qd_layers_conv(l, path, x, channels, 3, 1);
	}
	return conv_out(l, "decoder", x, c->out_channels);
}

static qd_id encoder(struct qd_layers *l, const struct qd_vae_config *c, qd_id x)
{
	static const int64_t bottom_right[] = { 0, 0, 1, 1 };
	x = qd_layers_conv(l, "encoder.conv_in", x, c->channels[0], 3, 1);
	for (int i = 0; i < c->blocks; i++) {
		for (int j = 0; j < (int)c->layers[i]; j++)
			x = resnet(l, qd_layers_path(l, "encoder.down_blocks.%d.resnets.%d", i, j), x, c->channels[i]);
		if (i + 1 < c->blocks)
			x = qd_layers_conv_padded(l, qd_layers_path(l, "encoder.down_blocks.%d.downsamplers.0.conv", i), x,
				c->channels[i], 3, 2, bottom_right, true);
	}
	x = mid_block(l, c, "encoder.mid_block", x);
	x = conv_out(l, "encoder", x, 2 * c->latent_channels);
	return c->quant_conv ? qd_layers_conv(l, "quant_conv", x, 2 * c->latent_channels, 1, 1) : x;
}

qd_id qd_vae_build(struct qd_layers *l, const struct qd_vae_config *config, enum qd_vae_part part, qd_id in)
{
	l->find = find_weight;
	return part == QD_VAE_DECODER ? decoder(l, config, in) : encoder(l, config, in);
}
