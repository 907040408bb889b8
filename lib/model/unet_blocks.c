/*
 * What a UNet2DConditionModel is made of. With act the configured activation, usually x * sigmoid(x):
 *
 *   resnet       h = conv1(act(norm1(x)));  h += time_emb_proj(time);  h = conv2(act(norm2(h)));  y = (shortcut(x) + h) / factor
 *                with scale_shift the time projection is twice as wide and h = norm2(h) * (1 + first half) + second half instead of
 * the sum attention    y = to_out.0( softmax(q k^T / sqrt(d)) v ), q, k, v without bias; feature = head * d + i block        h +=
 * attn1(norm1(h), norm1(h));  h += attn2(norm2(h), context);  [value, gate] = ff.net.0.proj(norm3(h)); h += ff.net.2(value *
 * gelu(gate)) transformer  y = x + proj_out(blocks(proj_in(norm(x))));  its GroupNorm has eps 1e-6, its LayerNorms 1e-5, whatever
 * the file says
 *
 * Tokens are two-dimensional, [N*H*W, C], so that every linear layer is one Gemm with the weight as it lies in its file.
 */
#include "lib/model/unet_internal.h"

#include <math.h>

static const float layer_norm_eps = 1e-5F;
static const double transformer_norm_eps = 1e-6;

/* ---- layers ---- */

const char *qd_unet_path(struct qd_unet *u, const char *fmt, ...)
{
	char text[512];
	va_list args;
	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	const char *kept = qd_arena_strdup(&u->g->arena, text);
	if (!kept)
		qd_graph_stop(u->g, QD_ENOMEM);
	return kept ? kept : "";
}

int64_t qd_unet_dim(const struct qd_unet *u, qd_id value, int axis)
{
	return value == QD_NONE ? 1 : u->g->values[value].shape.dim[axis];
}

/* [O,I] and [O,I,1,1] hold the same bytes. */
static bool same_layout(const struct qd_shape *a, const struct qd_shape *b)
{
	if (qd_shape_equal(a, b))
		return true;
	const struct qd_shape *matrix = a->rank == 2 ? a : b, *kernel = a->rank == 2 ? b : a;
	return matrix->rank == 2 && kernel->rank == 4 && kernel->dim[2] == 1 && kernel->dim[3] == 1 &&
	       matrix->dim[0] == kernel->dim[0] && matrix->dim[1] == kernel->dim[1];
}

/* The stored tensor as `shape`, checked. */
static enum qd_status stored_weight(
	const struct qd_weights *weights, const char *name, const struct qd_shape *shape, struct qd_tensor *out)
{
	char found[QD_SHAPE_TEXT], need[QD_SHAPE_TEXT];
	const struct qd_tensor *tensor = qd_weights_find(weights, name);
	if (!tensor)
		return qd_fail(
			QD_EINPUT, "'%s' has no tensor '%s', needs one of %s", weights->path, name, qd_shape_text(shape, need));
	if (!same_layout(&tensor->shape, shape))
		return qd_fail(QD_EINPUT, "'%s': tensor '%s' is %s, needs %s", weights->path, name,
			qd_shape_text(&tensor->shape, found), qd_shape_text(shape, need));
	if (tensor->dtype != QD_F32 && tensor->dtype != QD_F16 && tensor->dtype != QD_BF16 && tensor->dtype != QD_F64)
		return qd_fail(QD_EINPUT, "'%s': tensor '%s' is %s, needs F32, F16, BF16 or F64", weights->path, name,
			qd_dtype_name(tensor->dtype));
	*out = qd_tensor_view(tensor->name, tensor->dtype, *shape, tensor->data);
	return QD_OK;
}

qd_id qd_unet_weight(struct qd_unet *u, const char *path, const char *leaf, struct qd_shape shape)
{
	struct qd_tensor tensor = { .dtype = QD_F32, .shape = shape };
	if (u->g->status != QD_OK)
		return QD_NONE;
	const char *name = qd_unet_path(u, "%s.%s", path, leaf);
	if (u->weights) {
		enum qd_status st = stored_weight(u->weights, name, &shape, &tensor);
		if (st != QD_OK)
			return qd_graph_stop(u->g, st);
	}
	return qd_graph_weight(u->g, name, &tensor);
}

qd_id qd_unet_conv(struct qd_unet *u, const char *path, qd_id x, int64_t out, int64_t kernel, int64_t stride)
{
	int64_t pad = (kernel - 1) / 2;
	qd_id w = qd_unet_weight(u, path, "weight", QD_SHAPE(out, qd_unet_dim(u, x, 1), kernel, kernel));
	qd_id b = qd_unet_weight(u, path, "bias", QD_SHAPE(out));
	return qd_build_conv(u->g, path, x, w, b, stride, (int64_t[]){ pad, pad, pad, pad });
}

qd_id qd_unet_linear(struct qd_unet *u, const char *path, qd_id x, int64_t out, bool bias)
{
	qd_id w = qd_unet_weight(u, path, "weight", QD_SHAPE(out, qd_unet_dim(u, x, 1)));
	qd_id b = bias ? qd_unet_weight(u, path, "bias", QD_SHAPE(out)) : QD_NONE;
	return qd_build_linear(u->g, path, x, w, b);
}

qd_id qd_unet_group_norm(struct qd_unet *u, const char *path, qd_id x, double eps)
{
	struct qd_shape shape = QD_SHAPE(qd_unet_dim(u, x, 1));
	qd_id scale = qd_unet_weight(u, path, "weight", shape), bias = qd_unet_weight(u, path, "bias", shape);
	return qd_build_group_norm(u->g, path, x, scale, bias, u->config->groups, (float)eps);
}

static qd_id layer_norm(struct qd_unet *u, const char *path, qd_id x)
{
	struct qd_shape shape = QD_SHAPE(qd_unet_dim(u, x, 1));
	qd_id scale = qd_unet_weight(u, path, "weight", shape), bias = qd_unet_weight(u, path, "bias", shape);
	return qd_build_layer_norm(u->g, path, x, scale, bias, layer_norm_eps);
}

qd_id qd_unet_act(struct qd_unet *u, const char *name, qd_id x)
{
	return u->config->act == QD_OP_SIGMOID ? qd_build_silu(u->g, name, x) : qd_build_unary(u->g, u->config->act, name, x);
}

/* x divided by a constant; x itself for 1. */
static qd_id divided(struct qd_unet *u, const char *name, qd_id x, double factor)
{
	float f = (float)factor;
	if (f == 1)
		return x;
	qd_id c = qd_graph_const_f32(u->g, qd_unet_path(u, "%s.factor", name), (struct qd_shape){ 0 }, &f);
	return qd_build_binary(u->g, QD_OP_DIV, name, x, c);
}

/* ---- resnet ---- */

/* The time embedding's part of a resnet, to be added to or multiplied into [N,C,H,W]: [N, out, 1, 1]. */
static qd_id time_part(struct qd_unet *u, const char *path, int64_t out)
{
	qd_id t = qd_unet_linear(u, qd_unet_path(u, "%s.time_emb_proj", path), u->time, out, true);
	return qd_build_reshape(u->g, qd_unet_path(u, "%s.time_emb_proj.pixels", path), t, 4, (int64_t[]){ u->batch, out, 1, 1 });
}

/* norm2(h) * (1 + scale) + shift. */
static qd_id scaled_norm(struct qd_unet *u, const char *path, qd_id h, qd_id time)
{
	int64_t channels = qd_unet_dim(u, h, 1);
	float one = 1;
	h = qd_unet_group_norm(u, qd_unet_path(u, "%s.norm2", path), h, u->config->norm_eps);
	qd_id scale = qd_build_slice(u->g, qd_unet_path(u, "%s.scale", path), time, 1, 0, channels);
	qd_id shift = qd_build_slice(u->g, qd_unet_path(u, "%s.shift", path), time, 1, channels, 2 * channels);
	qd_id c = qd_graph_const_f32(u->g, qd_unet_path(u, "%s.one", path), (struct qd_shape){ 0 }, &one);
	qd_id factor = qd_build_binary(u->g, QD_OP_ADD, qd_unet_path(u, "%s.scale.plus_one", path), scale, c);
	h = qd_build_binary(u->g, QD_OP_MUL, qd_unet_path(u, "%s.norm2.scaled", path), h, factor);
	return qd_build_binary(u->g, QD_OP_ADD, qd_unet_path(u, "%s.norm2.shifted", path), h, shift);
}

/* norm2(h + time). */
static qd_id added_norm(struct qd_unet *u, const char *path, qd_id h, qd_id time)
{
	h = qd_build_binary(u->g, QD_OP_ADD, qd_unet_path(u, "%s.time_add", path), h, time);
	return qd_unet_group_norm(u, qd_unet_path(u, "%s.norm2", path), h, u->config->norm_eps);
}

qd_id qd_unet_resnet(struct qd_unet *u, const char *path, qd_id x, int64_t out, double factor)
{
	bool scale_shift = u->config->scale_shift;
	qd_id h = qd_unet_group_norm(u, qd_unet_path(u, "%s.norm1", path), x, u->config->norm_eps);
	h = qd_unet_act(u, qd_unet_path(u, "%s.act1", path), h);
	h = qd_unet_conv(u, qd_unet_path(u, "%s.conv1", path), h, out, 3, 1);
	qd_id time = time_part(u, path, scale_shift ? 2 * out : out);
	h = scale_shift ? scaled_norm(u, path, h, time) : added_norm(u, path, h, time);
	h = qd_unet_act(u, qd_unet_path(u, "%s.act2", path), h);
	h = qd_unet_conv(u, qd_unet_path(u, "%s.conv2", path), h, out, 3, 1);
	if (qd_unet_dim(u, x, 1) != out)
		x = qd_unet_conv(u, qd_unet_path(u, "%s.conv_shortcut", path), x, out, 1, 1);
	bool whole = (float)factor == 1;
	h = qd_build_binary(u->g, QD_OP_ADD, whole ? path : qd_unet_path(u, "%s.sum", path), x, h);
	return divided(u, path, h, factor);
}

/* ---- attention ---- */

/* [N*L, C] -> [N, heads, L, C/heads]. */
static qd_id split_heads(struct qd_unet *u, const char *path, qd_id x, int64_t heads)
{
	int64_t length = qd_unet_dim(u, x, 0) / u->batch, size = qd_unet_dim(u, x, 1) / heads;
	x = qd_build_reshape(u->g, qd_unet_path(u, "%s.split", path), x, 4, (int64_t[]){ u->batch, length, heads, size });
	return qd_build_transpose(u->g, qd_unet_path(u, "%s.heads", path), x, 4, (int64_t[]){ 0, 2, 1, 3 });
}

/* `x` [N*Lq, C] attends to `source` [N*Lk, D]. */
static qd_id attention(struct qd_unet *u, const char *path, qd_id x, qd_id source, int64_t heads)
{
	static const char *const names[] = { "to_q", "to_k", "to_v" };
	int64_t rows = qd_unet_dim(u, x, 0), channels = qd_unet_dim(u, x, 1);
	float scale = (float)(1 / sqrt((double)channels / (double)heads));
	qd_id qkv[3];
	for (int i = 0; i < 3; i++) {
		const char *name = qd_unet_path(u, "%s.%s", path, names[i]);
		qd_id y = qd_unet_linear(u, name, i == 0 ? x : source, channels, false);
		qkv[i] = split_heads(u, name, y, heads);
	}
	qd_id y = qd_build_attention(u->g, qd_unet_path(u, "%s.attention", path), qkv[0], qkv[1], qkv[2], QD_NONE, scale);
	y = qd_build_transpose(u->g, qd_unet_path(u, "%s.attention.pixels", path), y, 4, (int64_t[]){ 0, 2, 1, 3 });
	y = qd_build_reshape(u->g, qd_unet_path(u, "%s.attention.tokens", path), y, 2, (int64_t[]){ rows, channels });
	return qd_unet_linear(u, qd_unet_path(u, "%s.to_out.0", path), y, channels, true);
}

/* GEGLU: the first half of the product is the value, the second the gate. */
static qd_id feed_forward(struct qd_unet *u, const char *path, qd_id x)
{
	int64_t channels = qd_unet_dim(u, x, 1), wide = 4 * channels;
	qd_id h = qd_unet_linear(u, qd_unet_path(u, "%s.net.0.proj", path), x, 2 * wide, true);
	qd_id value = qd_build_slice(u->g, qd_unet_path(u, "%s.net.0.value", path), h, 1, 0, wide);
	qd_id gate = qd_build_slice(u->g, qd_unet_path(u, "%s.net.0.gate", path), h, 1, wide, 2 * wide);
	gate = qd_build_unary(u->g, QD_OP_GELU, qd_unet_path(u, "%s.net.0.gelu", path), gate);
	h = qd_build_binary(u->g, QD_OP_MUL, qd_unet_path(u, "%s.net.0", path), value, gate);
	return qd_unet_linear(u, qd_unet_path(u, "%s.net.2", path), h, channels, true);
}

/* BasicTransformerBlock on tokens. */
static qd_id transformer_block(struct qd_unet *u, const char *path, qd_id h, int64_t heads, bool only_cross)
{
	qd_id n = layer_norm(u, qd_unet_path(u, "%s.norm1", path), h);
	n = attention(u, qd_unet_path(u, "%s.attn1", path), n, only_cross ? u->context : n, heads);
	h = qd_build_binary(u->g, QD_OP_ADD, qd_unet_path(u, "%s.attn1.add", path), h, n);
	n = layer_norm(u, qd_unet_path(u, "%s.norm2", path), h);
	n = attention(u, qd_unet_path(u, "%s.attn2", path), n, u->context, heads);
	h = qd_build_binary(u->g, QD_OP_ADD, qd_unet_path(u, "%s.attn2.add", path), h, n);
	n = layer_norm(u, qd_unet_path(u, "%s.norm3", path), h);
	n = feed_forward(u, qd_unet_path(u, "%s.ff", path), n);
	return qd_build_binary(u->g, QD_OP_ADD, path, h, n);
}

/* [N,C,H,W] -> [N*H*W, C] and back. */
static qd_id to_tokens(struct qd_unet *u, const char *path, qd_id x)
{
	int64_t channels = qd_unet_dim(u, x, 1), rows = u->batch * qd_unet_dim(u, x, 2) * qd_unet_dim(u, x, 3);
	x = qd_build_transpose(u->g, qd_unet_path(u, "%s.channels_last", path), x, 4, (int64_t[]){ 0, 2, 3, 1 });
	return qd_build_reshape(u->g, qd_unet_path(u, "%s.tokens", path), x, 2, (int64_t[]){ rows, channels });
}

static qd_id to_pixels(struct qd_unet *u, const char *path, qd_id tokens, int64_t height, int64_t width)
{
	int64_t dims[] = { u->batch, height, width, qd_unet_dim(u, tokens, 1) };
	qd_id x = qd_build_reshape(u->g, qd_unet_path(u, "%s.pixels", path), tokens, 4, dims);
	return qd_build_transpose(u->g, qd_unet_path(u, "%s.channels_first", path), x, 4, (int64_t[]){ 0, 3, 1, 2 });
}

qd_id qd_unet_transformer(struct qd_unet *u, const char *path, qd_id x, int64_t depth, int64_t heads, bool only_cross)
{
	int64_t channels = qd_unet_dim(u, x, 1), height = qd_unet_dim(u, x, 2), width = qd_unet_dim(u, x, 3);
	bool linear = u->config->linear_projection;
	const char *in = qd_unet_path(u, "%s.proj_in", path), *out = qd_unet_path(u, "%s.proj_out", path);
	qd_id h = qd_unet_group_norm(u, qd_unet_path(u, "%s.norm", path), x, transformer_norm_eps);
	if (!linear)
		h = qd_unet_conv(u, in, h, channels, 1, 1);
	h = to_tokens(u, path, h);
	if (linear)
		h = qd_unet_linear(u, in, h, channels, true);
	for (int64_t k = 0; k < depth; k++)
		h = transformer_block(u, qd_unet_path(u, "%s.transformer_blocks.%d", path, (int)k), h, heads, only_cross);
	if (linear)
		h = qd_unet_linear(u, out, h, channels, true);
	h = to_pixels(u, path, h, height, width);
	if (!linear)
		h = qd_unet_conv(u, out, h, channels, 1, 1);
	return qd_build_binary(u->g, QD_OP_ADD, path, x, h);
}
