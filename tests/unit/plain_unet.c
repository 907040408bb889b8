#include "tests/unit/plain_unet.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct net {
	const struct qd_unet_config *config;
	const struct qd_weights *weights;
	const struct qd_adapter *adapter;
	const struct plain_unet_inputs *in;
	double *time;    /* [time_dim], activated */
	double *context; /* [tokens][features] */
};

/* ---- layers by path ---- */

static const float *bias_of(const struct net *net, const char *path)
{
	return plain_weight(net->weights, path, ".bias");
}

static void conv(const struct net *net, const char *path, struct plain_image *x, int out, int k, int stride)
{
	double *w = plain_kernel(net->weights, net->adapter, path, out * x->c * k * k);
	plain_replace(x, plain_conv(w, bias_of(net, path), x, out, k, stride, k / 2, k / 2));
	free(w);
}

static double *linear(const struct net *net, const char *path, int rows, int in, int out, const double *x, bool bias)
{
	double *w = plain_kernel(net->weights, net->adapter, path, out * in);
	double *y = plain_linear(w, bias ? bias_of(net, path) : NULL, rows, in, out, x);
	free(w);
	return y;
}

static void group_norm(const struct net *net, const char *path, double eps, struct plain_image *x)
{
	plain_group_norm((int)net->config->groups, eps, plain_weight(net->weights, path, ".weight"), bias_of(net, path), x);
}

/* ---- embeddings ---- */

/* [cos(t f), sin(t f)] (or the other way round) with f_k = 10000^(-k / (half - shift)), `features` numbers. */
static void sinusoid(const struct net *net, float t, int features, double *out)
{
	int half = features / 2;
	for (int k = 0; k < half; k++) {
		double angle = (double)t * exp(-log(10000) * k / (half - net->config->freq_shift));
		out[net->config->flip_sin_to_cos ? k : half + k] = cos(angle);
		out[net->config->flip_sin_to_cos ? half + k : k] = sin(angle);
	}
}

/* linear_2(silu(linear_1(x))), added to `sum` [time_dim]. */
static void embed(const struct net *net, const char *path, int in, const double *x, double *sum)
{
	int n = (int)net->config->time_dim;
	double *h = linear(net, plain_path("%s.linear_1", path), 1, in, n, x, true), *y;
	for (int i = 0; i < n; i++)
		h[i] = plain_silu(h[i]);
	y = linear(net, plain_path("%s.linear_2", path), 1, n, n, h, true);
	for (int i = 0; i < n; i++)
		sum[i] += y[i];
	free(h);
	free(y);
}

static double *time_embedding(const struct net *net)
{
	const struct qd_unet_config *c = net->config;
	int added = (int)c->addition_in_dim, each = (int)c->addition_time_dim, text = added - (int)c->time_ids * each;
	double *sum = calloc((size_t)c->time_dim, sizeof(*sum));
	double *e = calloc((size_t)(c->channels[0] + added), sizeof(*e));
	sinusoid(net, net->in->timestep, (int)c->channels[0], e);
	embed(net, "time_embedding", (int)c->channels[0], e, sum);
	if (c->text_time) {
		for (int i = 0; i < text; i++)
			e[i] = (double)net->in->text_embeds[i];
		for (int i = 0; i < (int)c->time_ids; i++)
			sinusoid(net, net->in->time_ids[i], each, e + text + i * each);
		embed(net, "add_embedding", added, e, sum);
	}
	for (int i = 0; i < (int)c->time_dim; i++)
		sum[i] = plain_silu(sum[i]);
	free(e);
	return sum;
}

/* ---- blocks ---- */

static void resnet(const struct net *net, const char *path, struct plain_image *x, int out)
{
	struct plain_image h = plain_copy(x);
	double *time = linear(net, plain_path("%s.time_emb_proj", path), 1, (int)net->config->time_dim, out, net->time, true);
	for (int i = 1; i <= 2; i++) {
		group_norm(net, plain_path("%s.norm%d", path, i), net->config->norm_eps, &h);
		plain_each(&h, plain_silu);
		conv(net, plain_path("%s.conv%d", path, i), &h, out, 3, 1);
		for (int k = 0; i == 1 && k < out * h.h * h.w; k++)
			h.x[k] += time[k / (h.h * h.w)];
	}
	if (x->c != out)
		conv(net, plain_path("%s.conv_shortcut", path), x, out, 1, 1);
	plain_add(x, &h);
	free(h.x);
	free(time);
}

/* Adds to_out(attention(x, source)) to `h` [rows][d]. */
static void attend(const struct net *net, const char *path, int rows, int d, int heads, const double *x, int keys, int features,
	const double *source, double *h)
{
	double *q = linear(net, plain_path("%s.to_q", path), rows, d, d, x, false);
	double *k = linear(net, plain_path("%s.to_k", path), keys, features, d, source, false);
	double *v = linear(net, plain_path("%s.to_v", path), keys, features, d, source, false);
	double *y = plain_attention(rows, keys, d, heads, q, k, v, false, NULL);
	double *z = linear(net, plain_path("%s.to_out.0", path), rows, d, d, y, true);
	for (int i = 0; i < rows * d; i++)
		h[i] += z[i];
	free(q), free(k), free(v), free(y), free(z);
}

/* A normed copy of h; the caller frees it. */
static double *normed(const struct net *net, const char *path, int rows, int d, const double *h)
{
	double *x = malloc((size_t)(rows * d) * sizeof(*x));
	memcpy(x, h, (size_t)(rows * d) * sizeof(*x));
	plain_layer_norm(rows, d, 1e-5, plain_weight(net->weights, path, ".weight"), bias_of(net, path), x);
	return x;
}

static void transformer_block(const struct net *net, const char *path, int rows, int d, int heads, double *h)
{
	double *x = normed(net, plain_path("%s.norm1", path), rows, d, h), *y, *z;
	attend(net, plain_path("%s.attn1", path), rows, d, heads, x, rows, d, x, h);
	free(x);
	x = normed(net, plain_path("%s.norm2", path), rows, d, h);
	attend(net, plain_path("%s.attn2", path), rows, d, heads, x, net->in->tokens, (int)net->config->cross_dim[0], net->context,
		h);
	free(x);
	x = normed(net, plain_path("%s.norm3", path), rows, d, h);
	y = linear(net, plain_path("%s.ff.net.0.proj", path), rows, d, 8 * d, x, true);
	for (int i = 0; i < rows; i++)
		for (int k = 0; k < 4 * d; k++)
			y[i * 4 * d + k] = y[i * 8 * d + k] * plain_gelu(y[i * 8 * d + 4 * d + k]);
	z = linear(net, plain_path("%s.ff.net.2", path), rows, 4 * d, d, y, true);
	for (int i = 0; i < rows * d; i++)
		h[i] += z[i];
	free(x), free(y), free(z);
}

/* [c][pixels] to [pixels][c] and back: the same loop with the sides exchanged. */
static double *turned(int rows, int columns, const double *x)
{
	double *y = malloc((size_t)(rows * columns) * sizeof(*y));
	for (int i = 0; i < rows; i++)
		for (int k = 0; k < columns; k++)
			y[k * rows + i] = x[i * columns + k];
	return y;
}

/* The input projection is a 1x1 convolution or a linear layer, which is the same matrix. */
static void transformer(const struct net *net, const char *path, struct plain_image *x, int depth, int heads)
{
	int d = x->c, rows = x->h * x->w;
	struct plain_image n = plain_copy(x);
	group_norm(net, plain_path("%s.norm", path), 1e-6, &n);
	double *tokens = turned(d, rows, n.x), *h = linear(net, plain_path("%s.proj_in", path), rows, d, d, tokens, true), *y;
	for (int k = 0; k < depth; k++)
		transformer_block(net, plain_path("%s.transformer_blocks.%d", path, k), rows, d, heads, h);
	y = linear(net, plain_path("%s.proj_out", path), rows, d, d, h, true);
	free(n.x);
	n.x = turned(rows, d, y);
	plain_add(x, &n);
	free(n.x), free(tokens), free(h), free(y);
}

/* ---- the outline ---- */

struct plain_image plain_unet(const struct qd_model *model, const struct qd_adapter *adapter, const struct plain_unet_inputs *in)
{
	const struct qd_unet_config *c = &model->config;
	struct net net = { .config = c, .weights = &model->weights, .adapter = adapter, .in = in };
	struct plain_image x = plain_new((int)c->in_channels, in->height, in->width), skips[64];
	int n = 0, features = (int)c->cross_dim[0];
	net.context = malloc((size_t)(in->tokens * features) * sizeof(double));
	for (int i = 0; i < in->tokens * features; i++)
		net.context[i] = (double)in->context[i];
	for (int i = 0; i < x.c * x.h * x.w; i++)
		x.x[i] = (double)in->sample[i];
	net.time = time_embedding(&net);
	conv(&net, "conv_in", &x, (int)c->channels[0], 3, 1);
	skips[n++] = plain_copy(&x);
	for (int i = 0; i < c->blocks; i++) {
		for (int j = 0; j < (int)c->layers[i]; j++) {
			resnet(&net, plain_path("down_blocks.%d.resnets.%d", i, j), &x, (int)c->channels[i]);
			if (c->down_attention[i])
				transformer(&net, plain_path("down_blocks.%d.attentions.%d", i, j), &x, (int)c->depth[i][j],
					(int)c->heads[i]);
			skips[n++] = plain_copy(&x);
		}
		if (i + 1 == c->blocks)
			break;
		conv(&net, plain_path("down_blocks.%d.downsamplers.0.conv", i), &x, x.c, 3, 2);
		skips[n++] = plain_copy(&x);
	}
	resnet(&net, "mid_block.resnets.0", &x, x.c);
	transformer(&net, "mid_block.attentions.0", &x, (int)c->mid_depth, (int)c->heads[c->blocks - 1]);
	resnet(&net, "mid_block.resnets.1", &x, x.c);
	for (int i = 0; i < c->blocks; i++) {
		int level = c->blocks - 1 - i;
		for (int j = 0; j <= (int)c->layers[level]; j++) {
			struct plain_image skip = skips[--n], both = plain_new(x.c + skip.c, x.h, x.w);
			memcpy(both.x, x.x, (size_t)(x.c * x.h * x.w) * sizeof(double));
			memcpy(both.x + x.c * x.h * x.w, skip.x, (size_t)(skip.c * x.h * x.w) * sizeof(double));
			free(skip.x);
			plain_replace(&x, both);
			resnet(&net, plain_path("up_blocks.%d.resnets.%d", i, j), &x, (int)c->channels[level]);
			if (c->up_attention[i])
				transformer(&net, plain_path("up_blocks.%d.attentions.%d", i, j), &x, (int)c->up_depth[i][j],
					(int)c->heads[level]);
		}
		if (i + 1 == c->blocks)
			break;
		plain_replace(&x, plain_doubled(&x, skips[n - 1].h, skips[n - 1].w));
		conv(&net, plain_path("up_blocks.%d.upsamplers.0.conv", i), &x, x.c, 3, 1);
	}
	group_norm(&net, "conv_norm_out", c->norm_eps, &x);
	plain_each(&x, plain_silu);
	conv(&net, "conv_out", &x, (int)c->out_channels, 3, 1);
	free(net.time);
	free(net.context);
	return x;
}
