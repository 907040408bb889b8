/*
 * What a UNet2DConditionModel is made of. With act the configured activation, usually x * sigmoid(x):
 *
 *   resnet       h = conv1(act(norm1(x))) + time_emb_proj(time)
 *                y = (shortcut(x) + conv2(act(norm2(h)))) / factor
 *                with scale_shift the time projection is twice as wide: no sum, but norm2(h) * (1 + first half) + second half
 *   attention    y = to_out.0( softmax(q k^T / sqrt(d)) v ), q, k, v without bias; feature = head * d + i
 *   block        h += attn1(norm1(h), norm1(h))
 *                h += attn2(norm2(h), context)
 *                h += ff.net.2(value * gelu(gate)), [value, gate] = ff.net.0.proj(norm3(h))
 *   transformer  y = x + proj_out(blocks(proj_in(norm(x))))
 *                its GroupNorm has eps 1e-6, its LayerNorms 1e-5, whatever the file says
 *
 * Tokens are two-dimensional, [N*H*W, C], so that every linear layer is one Gemm with the weight as it lies in its file.
 */
#include "lib/network/unet_internal.h"

static const double layer_norm_eps = 1e-5, transformer_norm_eps = 1e-6;

/* x divided by a constant; x itself for 1. */
static qd_id divided(struct qd_unet *u, const char *name, qd_id x, double factor)
{
	if ((float)factor == 1)
		return x;
	return qd_build_binary(u->g, QD_OP_DIV, name, x, qd_layers_scalar(u->l, qd_layers_path(u->l, "%s.factor", name), factor));
}

/* ---- resnet ---- */

/* The time embedding's part of a resnet, to be added to or multiplied into [N,C,H,W]: [N, out, 1, 1]. */
static qd_id time_part(struct qd_unet *u, const char *path, int64_t out)
{
	qd_id t = qd_layers_linear(u->l, qd_layers_path(u->l, "%s.time_emb_proj", path), u->time, out, true);
	return qd_build_reshape(
		u->g, qd_layers_path(u->l, "%s.time_emb_proj.pixels", path), t, 4, (int64_t[]){ u->l->batch, out, 1, 1 });
}

/* norm2(h) * (1 + scale) + shift. */
static qd_id scaled_norm(struct qd_unet *u, const char *path, qd_id h, qd_id time)
{
	int64_t channels = qd_layers_dim(u->l, h, 1);
	h = qd_layers_group_norm(u->l, qd_layers_path(u->l, "%s.norm2", path), h, u->config->norm_eps);
	qd_id scale = qd_build_slice(u->g, qd_layers_path(u->l, "%s.scale", path), time, 1, 0, channels);
	qd_id shift = qd_build_slice(u->g, qd_layers_path(u->l, "%s.shift", path), time, 1, channels, 2 * channels);
	qd_id c = qd_layers_scalar(u->l, qd_layers_path(u->l, "%s.one", path), 1);
	qd_id factor = qd_build_binary(u->g, QD_OP_ADD, qd_layers_path(u->l, "%s.scale.plus_one", path), scale, c);
	h = qd_build_binary(u->g, QD_OP_MUL, qd_layers_path(u->l, "%s.norm2.scaled", path), h, factor);
	return qd_build_binary(u->g, QD_OP_ADD, qd_layers_path(u->l, "%s.norm2.shifted", path), h, shift);
}

/* norm2(h + time). */
static qd_id added_norm(struct qd_unet *u, const char *path, qd_id h, qd_id time)
{
	h = qd_build_binary(u->g, QD_OP_ADD, qd_layers_path(u->l, "%s.time_add", path), h, time);
	return qd_layers_group_norm(u->l, qd_layers_path(u->l, "%s.norm2", path), h, u->config->norm_eps);
}

qd_id qd_unet_resnet(struct qd_unet *u, const char *path, qd_id x, int64_t out, double factor)
{
	bool scale_shift = u->config->scale_shift;
	qd_id h = qd_layers_group_norm(u->l, qd_layers_path(u->l, "%s.norm1", path), x, u->config->norm_eps);
	h = qd_layers_act(u->l, qd_layers_path(u->l, "%s.act1", path), h);
	h = qd_layers_conv(u->l, qd_layers_path(u->l, "%s.conv1", path), h, out, 3, 1);
	qd_id time = time_part(u, path, scale_shift ? 2 * out : out);
	h = scale_shift ? scaled_norm(u, path, h, time) : added_norm(u, path, h, time);
	h = qd_layers_act(u->l, qd_layers_path(u->l, "%s.act2", path), h);
	h = qd_layers_conv(u->l, qd_layers_path(u->l, "%s.conv2", path), h, out, 3, 1);
	if (qd_layers_dim(u->l, x, 1) != out)
		x = qd_layers_conv(u->l, qd_layers_path(u->l, "%s.conv_shortcut", path), x, out, 1, 1);
	bool whole = (float)factor == 1;
	h = qd_build_binary(u->g, QD_OP_ADD, whole ? path : qd_layers_path(u->l, "%s.sum", path), x, h);
	return divided(u, path, h, factor);
}

/* ---- attention ---- */

/* `x` [N*Lq, C] attends to `source` [N*Lk, D]. */
static qd_id attention(struct qd_unet *u, const char *path, qd_id x, qd_id source, int64_t heads)
{
	static const char *const names[] = { "to_q", "to_k", "to_v" };
	int64_t channels = qd_layers_dim(u->l, x, 1);
	qd_id qkv[3];
	for (int i = 0; i < 3; i++)
		qkv[i] =
			qd_layers_linear(u->l, qd_layers_path(u->l, "%s.%s", path, names[i]), i == 0 ? x : source, channels, false);
	qd_id y = qd_layers_attention(u->l, path, qkv[0], qkv[1], qkv[2], QD_NONE, heads);
	return qd_layers_linear(u->l, qd_layers_path(u->l, "%s.to_out.0", path), y, channels, true);
}

/* GEGLU: the first half of the product is the value, the second the gate. */
static qd_id feed_forward(struct qd_unet *u, const char *path, qd_id x)
{
	int64_t channels = qd_layers_dim(u->l, x, 1), wide = 4 * channels;
	qd_id h = qd_layers_linear(u->l, qd_layers_path(u->l, "%s.net.0.proj", path), x, 2 * wide, true);
	qd_id value = qd_build_slice(u->g, qd_layers_path(u->l, "%s.net.0.value", path), h, 1, 0, wide);
	qd_id gate = qd_build_slice(u->g, qd_layers_path(u->l, "%s.net.0.gate", path), h, 1, wide, 2 * wide);
	gate = qd_build_unary(u->g, QD_OP_GELU, qd_layers_path(u->l, "%s.net.0.gelu", path), gate);
	h = qd_build_binary(u->g, QD_OP_MUL, qd_layers_path(u->l, "%s.net.0", path), value, gate);
	return qd_layers_linear(u->l, qd_layers_path(u->l, "%s.net.2", path), h, channels, true);
}

/* BasicTransformerBlock on tokens. */
static qd_id transformer_block(struct qd_unet *u, const char *path, qd_id h, int64_t heads, bool only_cross)
{
	qd_id n = qd_layers_layer_norm(u->l, qd_layers_path(u->l, "%s.norm1", path), h, layer_norm_eps);
	n = attention(u, qd_layers_path(u->l, "%s.attn1", path), n, only_cross ? u->context : n, heads);
	h = qd_build_binary(u->g, QD_OP_ADD, qd_layers_path(u->l, "%s.attn1.add", path), h, n);
	n = qd_layers_layer_norm(u->l, qd_layers_path(u->l, "%s.norm2", path), h, layer_norm_eps);
	n = attention(u, qd_layers_path(u->l, "%s.attn2", path), n, u->context, heads);
	h = qd_build_binary(u->g, QD_OP_ADD, qd_layers_path(u->l, "%s.attn2.add", path), h, n);
	n = qd_layers_layer_norm(u->l, qd_layers_path(u->l, "%s.norm3", path), h, layer_norm_eps);
	n = feed_forward(u, qd_layers_path(u->l, "%s.ff", path), n);
	return qd_build_binary(u->g, QD_OP_ADD, path, h, n);
}

qd_id qd_unet_transformer(struct qd_unet *u, const char *path, qd_id x, int64_t depth, int64_t heads, bool only_cross)
{
	int64_t channels = qd_layers_dim(u->l, x, 1), height = qd_layers_dim(u->l, x, 2), width = qd_layers_dim(u->l, x, 3);
	bool linear = u->config->linear_projection;
	const char *in = qd_layers_path(u->l, "%s.proj_in", path), *out = qd_layers_path(u->l, "%s.proj_out", path);
	qd_id h = qd_layers_group_norm(u->l, qd_layers_path(u->l, "%s.norm", path), x, transformer_norm_eps);
	if (!linear)
		h = qd_layers_conv(u->l, in, h, channels, 1, 1);
	h = qd_layers_tokens(u->l, path, h);
	if (linear)
		h = qd_layers_linear(u->l, in, h, channels, true);
	for (int64_t k = 0; k < depth; k++)
		h = transformer_block(u, qd_layers_path(u->l, "%s.transformer_blocks.%d", path, (int)k), h, heads, only_cross);
	if (linear)
		h = qd_layers_linear(u->l, out, h, channels, true);
	h = qd_layers_pixels(u->l, path, h, height, width);
	if (!linear)
		h = qd_layers_conv(u->l, out, h, channels, 1, 1);
	return qd_build_binary(u->g, QD_OP_ADD, path, x, h);
}
