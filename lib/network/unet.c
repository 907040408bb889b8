/*
 * UNet2DConditionModel as a graph: the outline, from inputs to output. unet_blocks.c has the parts.
 *
 *   e      = [cos(t f), sin(t f)], f_k = exp(-ln(10000) k / (half - freq_shift)), half = channels[0] / 2, all in float32
 *   time   = linear_2(act(linear_1(e + cond_proj(timestep_cond)))) + add_embedding(concat(text_embeds, e(time_ids)))
 *   x      = conv_in(sample)                                        skips: x
 *   down   every resnet (and its transformer), every downsampler    skips: each result
 *   mid    resnet, transformer, resnet
 *   up     every resnet takes concat(x, the last skip); an upsampler doubles by repetition to the size of the next skip, then
 *          convolves
 *   out    = conv_out(act(conv_norm_out(x)))
 *
 * The last node is an Identity called "out": the output keeps its name whatever is attached to conv_out.
 */
#include "lib/network/unet_internal.h"

#include <math.h>

/* Results that up blocks will take, last first. */
struct skips {
	qd_id items[1 + QD_MAX_BLOCKS * (QD_MAX_LAYERS + 1)];
	int n;
};

/* ---- inputs and embeddings ---- */

/* `t` [rows, 1] -> [rows, features]: the sinusoid of every row. */
static qd_id sinusoid(struct qd_unet *u, const char *path, qd_id t, int64_t features)
{
	const struct qd_unet_config *c = u->config;
	int64_t half = features / 2;
	float *f = qd_arena_array(&u->g->arena, (size_t)half, sizeof(*f));
	if (!f)
		return qd_graph_stop(u->g, QD_ENOMEM);
	for (int64_t k = 0; k < half; k++)
		f[k] = expf(-logf(10000.0F) * (float)k / (float)((double)half - c->freq_shift));
	qd_id freqs = qd_graph_const_f32(u->g, qd_layers_path(u->l, "%s.freqs", path), QD_SHAPE(1, half), f);
	qd_id angle = qd_build_binary(u->g, QD_OP_MUL, qd_layers_path(u->l, "%s.angle", path), t, freqs);
	qd_id cosine = qd_build_unary(u->g, QD_OP_COS, qd_layers_path(u->l, "%s.cos", path), angle);
	qd_id sine = qd_build_unary(u->g, QD_OP_SIN, qd_layers_path(u->l, "%s.sin", path), angle);
	qd_id parts[] = { c->flip_sin_to_cos ? cosine : sine, c->flip_sin_to_cos ? sine : cosine };
	return qd_build_concat(u->g, path, 2, parts, 1);
}

/* linear_2(act(linear_1(x))). */
static qd_id embedding(struct qd_unet *u, const char *path, qd_id x, bool silu)
{
	const char *act = qd_layers_path(u->l, "%s.act", path);
	x = qd_layers_linear(u->l, qd_layers_path(u->l, "%s.linear_1", path), x, u->config->time_dim, true);
	x = silu ? qd_build_silu(u->g, act, x) : qd_layers_act(u->l, act, x);
	return qd_layers_linear(u->l, qd_layers_path(u->l, "%s.linear_2", path), x, u->config->time_dim, true);
}

/* The part of text_time models: size and crop numbers as sinusoids after the pooled text. */
static qd_id added_embedding(struct qd_unet *u)
{
	const struct qd_unet_config *c = u->config;
	int64_t ids = c->time_ids * c->addition_time_dim;
	qd_id text = qd_graph_input(u->g, "text_embeds", QD_F32, QD_SHAPE(u->l->batch, c->addition_in_dim - ids));
	qd_id t = qd_graph_input(u->g, "time_ids", QD_F32, QD_SHAPE(u->l->batch, c->time_ids));
	t = qd_build_reshape(u->g, "add_time_proj.column", t, 2, (int64_t[]){ u->l->batch * c->time_ids, 1 });
	t = sinusoid(u, "add_time_proj", t, c->addition_time_dim);
	t = qd_build_reshape(u->g, "add_time_proj.rows", t, 2, (int64_t[]){ u->l->batch, ids });
	return embedding(u, "add_embedding", qd_build_concat(u->g, "add_embedding.input", 2, (qd_id[]){ text, t }, 1), true);
}

/* act(time embedding): every resnet starts from it. */
static qd_id time_embedding(struct qd_unet *u, qd_id timestep)
{
	const struct qd_unet_config *c = u->config;
	qd_id t = qd_build_reshape(u->g, "time_proj.column", timestep, 2, (int64_t[]){ u->l->batch, 1 });
	qd_id e = sinusoid(u, "time_proj", t, c->channels[0]);
	if (c->time_cond_dim) {
		qd_id condition = qd_graph_input(u->g, "timestep_cond", QD_F32, QD_SHAPE(u->l->batch, c->time_cond_dim));
		condition = qd_layers_linear(u->l, "time_embedding.cond_proj", condition, c->channels[0], false);
		e = qd_build_binary(u->g, QD_OP_ADD, "time_embedding.input", e, condition);
	}
	e = embedding(u, "time_embedding", e, false);
	if (c->text_time)
		e = qd_build_binary(u->g, QD_OP_ADD, "time_embedding.sum", e, added_embedding(u));
	return qd_layers_act(u->l, "time_embedding.out_act", e);
}

static qd_id context_tokens(struct qd_unet *u, qd_id text)
{
	qd_id x = qd_build_reshape(u->g, "encoder_hidden_states.tokens", text, 2,
		(int64_t[]){ u->l->batch * u->tokens, qd_layers_dim(u->l, text, 2) });
	return u->config->text_proj ? qd_layers_linear(u->l, "encoder_hid_proj", x, u->config->cross_dim[0], true) : x;
}

/* 2 x - 1. */
static qd_id centered(struct qd_unet *u, qd_id x)
{
	qd_id a = qd_layers_scalar(u->l, "sample.two", 2), b = qd_layers_scalar(u->l, "sample.one", 1);
	x = qd_build_binary(u->g, QD_OP_MUL, "sample.doubled", x, a);
	return qd_build_binary(u->g, QD_OP_SUB, "sample.centered", x, b);
}

/* ---- down, mid, up ---- */

static qd_id push(struct skips *skips, qd_id x)
{
	skips->items[skips->n++] = x;
	return x;
}

/* Padding 1 all around, or (downsample_padding 0) one row and one column at the bottom and the right. */
static qd_id downsampler(struct qd_unet *u, const char *path, qd_id x)
{
	const int64_t around[] = { 1, 1, 1, 1 }, after[] = { 0, 0, 1, 1 };
	int64_t channels = qd_layers_dim(u->l, x, 1);
	bool odd = qd_layers_dim(u->l, x, 2) % 2 || qd_layers_dim(u->l, x, 3) % 2;
	if (!u->config->downsample_padding && odd && u->g->status == QD_OK)
		return qd_graph_stop(
			u->g, qd_fail(QD_EUNSUPPORTED, "'%s' gets %lld x %lld pixels, needs even numbers with downsample_padding 0",
				      path, (long long)qd_layers_dim(u->l, x, 2), (long long)qd_layers_dim(u->l, x, 3)));
	const int64_t *pads = u->config->downsample_padding ? around : after;
	return qd_layers_conv_padded(u->l, path, x, channels, 3, 2, pads, true);
}

static qd_id down_block(struct qd_unet *u, struct skips *skips, qd_id x, int i)
{
	const struct qd_unet_config *c = u->config;
	for (int j = 0; j < (int)c->layers[i]; j++) {
		x = qd_unet_resnet(u, qd_layers_path(u->l, "down_blocks.%d.resnets.%d", i, j), x, c->channels[i], 1);
		if (c->down_attention[i])
			x = qd_unet_transformer(u, qd_layers_path(u->l, "down_blocks.%d.attentions.%d", i, j), x, c->depth[i][j],
				c->heads[i], c->only_cross[i]);
		push(skips, x);
	}
	if (i + 1 < c->blocks)
		x = push(skips, downsampler(u, qd_layers_path(u->l, "down_blocks.%d.downsamplers.0.conv", i), x));
	return x;
}

static qd_id mid_block(struct qd_unet *u, qd_id x)
{
	const struct qd_unet_config *c = u->config;
	int last = c->blocks - 1;
	if (!c->has_mid)
		return x;
	x = qd_unet_resnet(u, "mid_block.resnets.0", x, c->channels[last], c->mid_scale);
	if (!c->mid_attention)
		return x;
	x = qd_unet_transformer(u, "mid_block.attentions.0", x, c->mid_depth, c->heads[last], false);
	return qd_unet_resnet(u, "mid_block.resnets.1", x, c->channels[last], c->mid_scale);
}

static qd_id upsampler(struct qd_unet *u, const char *path, qd_id x, qd_id next_skip)
{
	x = qd_build_upsample2(u->g, qd_layers_path(u->l, "%s.input", path), x, qd_layers_dim(u->l, next_skip, 2),
		qd_layers_dim(u->l, next_skip, 3));
	return qd_layers_conv(u->l, path, x, qd_layers_dim(u->l, x, 1), 3, 1);
}

static qd_id up_block(struct qd_unet *u, struct skips *skips, qd_id x, int i)
{
	const struct qd_unet_config *c = u->config;
	int level = c->blocks - 1 - i; /* the down block of the same resolution */
	for (int j = 0; j <= (int)c->layers[level]; j++) {
		const char *path = qd_layers_path(u->l, "up_blocks.%d.resnets.%d", i, j);
		qd_id parts[] = { x, skips->items[--skips->n] };
		x = qd_build_concat(u->g, qd_layers_path(u->l, "%s.input", path), 2, parts, 1);
		x = qd_unet_resnet(u, path, x, c->channels[level], 1);
		if (c->up_attention[i])
			x = qd_unet_transformer(u, qd_layers_path(u->l, "up_blocks.%d.attentions.%d", i, j), x, c->up_depth[i][j],
				c->heads[level], c->only_cross[level]);
	}
	if (i + 1 < c->blocks)
		x = upsampler(u, qd_layers_path(u->l, "up_blocks.%d.upsamplers.0.conv", i), x, skips->items[skips->n - 1]);
	return x;
}

/* From the sample to "out". */
static void body(struct qd_unet *u, qd_id sample)
{
	const struct qd_unet_config *c = u->config;
	struct skips skips = { .n = 0 };
	qd_id x = c->center_input ? centered(u, sample) : sample;
	x = push(&skips, qd_layers_conv(u->l, "conv_in", x, c->channels[0], c->conv_in_kernel, 1));
	for (int i = 0; i < c->blocks; i++)
		x = down_block(u, &skips, x, i);
	x = mid_block(u, x);
	for (int i = 0; i < c->blocks; i++)
		x = up_block(u, &skips, x, i);
	x = qd_layers_group_norm(u->l, "conv_norm_out", x, c->norm_eps);
	x = qd_layers_act(u->l, "conv_act", x);
	x = qd_layers_conv(u->l, "conv_out", x, c->out_channels, c->conv_out_kernel, 1);
	qd_graph_output(u->g, qd_build_unary(u->g, QD_OP_IDENTITY, "out", x));
}

static bool has_attention(const struct qd_unet_config *c)
{
	bool any = c->has_mid && c->mid_attention;
	for (int i = 0; i < c->blocks; i++)
		any = any || c->down_attention[i] || c->up_attention[i];
	return any;
}

static enum qd_status check_sizes(const struct qd_sizes *s)
{
	if (s->batch < 1 || s->height < 1 || s->width < 1 || s->tokens < 1)
		return qd_fail(QD_EINPUT, "batch, height, width and tokens are %lld, %lld, %lld and %lld, need at least 1",
			(long long)s->batch, (long long)s->height, (long long)s->width, (long long)s->tokens);
	return QD_OK;
}

enum qd_status qd_unet_graph(
	struct qd_graph *g, const struct qd_unet_config *config, const struct qd_weights *weights, const struct qd_sizes *sizes)
{
	struct qd_layers layers = {
		.g = g, .weights = weights, .act = config->act, .groups = config->groups, .batch = sizes->batch
	};
	struct qd_unet u = { .l = &layers, .g = g, .config = config, .tokens = sizes->tokens };
	int64_t features = config->text_proj ? config->encoder_hid_dim : config->cross_dim[0];
	enum qd_status st = check_sizes(sizes);
	if (st != QD_OK)
		return st;
	qd_graph_init(g, "unet");
	qd_id sample =
		qd_graph_input(g, "sample", QD_F32, QD_SHAPE(sizes->batch, config->in_channels, sizes->height, sizes->width));
	qd_id timestep = qd_graph_input(g, "timestep", QD_F32, QD_SHAPE(sizes->batch));
	qd_id text = qd_graph_input(g, "encoder_hidden_states", QD_F32, QD_SHAPE(sizes->batch, sizes->tokens, features));
	u.time = time_embedding(&u, timestep);
	u.context = has_attention(config) ? context_tokens(&u, text) : QD_NONE;
	body(&u, sample);
	return qd_graph_status(g);
}
