#include "tests/unit/plain_networks.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* "<path><leaf>" of a file that holds F32. */
static const float *weight(const struct qd_component *c, const char *path, const char *leaf)
{
	char name[256];
	snprintf(name, sizeof(name), "%s%s", path, leaf);
	const struct qd_tensor *tensor = qd_weights_find(&c->weights, name);
	if (!tensor || tensor->dtype != QD_F32) {
		fprintf(stderr, "no tensor '%s'\n", name);
		abort();
	}
	return tensor->data;
}

/* One path at a time per argument position: the last sixteen stay valid. */
static const char *path_of(const char *fmt, ...) QD_PRINTF(1, 2);
static const char *path_of(const char *fmt, ...)
{
	static char texts[16][256];
	static unsigned next;
	char *text = texts[next++ % 16];
	va_list args;
	va_start(args, fmt);
	vsnprintf(text, sizeof(texts[0]), fmt, args);
	va_end(args);
	return text;
}

/* ---- images ---- */

static struct plain_image image(int c, int h, int w)
{
	return (struct plain_image){ c, h, w, calloc((size_t)(c * h * w), sizeof(double)) };
}

/* `next` in place of `*x`. */
static void replace(struct plain_image *x, struct plain_image next)
{
	free(x->x);
	*x = next;
}

static struct plain_image copy_of(const struct plain_image *x)
{
	struct plain_image y = image(x->c, x->h, x->w);
	memcpy(y.x, x->x, (size_t)(x->c * x->h * x->w) * sizeof(double));
	return y;
}

static void each(struct plain_image *x, double (*f)(double))
{
	for (int i = 0; i < x->c * x->h * x->w; i++)
		x->x[i] = f(x->x[i]);
}

static void add(struct plain_image *x, const struct plain_image *y)
{
	for (int i = 0; i < x->c * x->h * x->w; i++)
		x->x[i] += y->x[i];
}

static double pixel(const struct plain_image *x, int c, int i, int j)
{
	return i < 0 || j < 0 || i >= x->h || j >= x->w ? 0 : x->x[(c * x->h + i) * x->w + j];
}

/* `before` and `after`: rows and columns of zeros in front and behind. */
static struct plain_image conv(const struct qd_component *component, const char *path, const struct plain_image *x, int out, int k,
	int stride, int before, int after, bool bias)
{
	const float *w = weight(component, path, ".weight"), *b = bias ? weight(component, path, ".bias") : NULL;
	struct plain_image y = image(out, (x->h + before + after - k) / stride + 1, (x->w + before + after - k) / stride + 1);
	for (int o = 0; o < out; o++)
		for (int i = 0; i < y.h; i++)
			for (int j = 0; j < y.w; j++) {
				double sum = b ? (double)b[o] : 0;
				for (int c = 0; c < x->c; c++)
					for (int di = 0; di < k; di++)
						for (int dj = 0; dj < k; dj++)
							sum += (double)w[((o * x->c + c) * k + di) * k + dj] *
							       pixel(x, c, i * stride + di - before, j * stride + dj - before);
				y.x[(o * y.h + i) * y.w + j] = sum;
			}
	return y;
}

static void group_norm(const struct qd_component *component, const char *path, struct plain_image *x)
{
	const float *w = weight(component, path, ".weight"), *b = weight(component, path, ".bias");
	int groups = (int)component->vae.groups, size = x->c / groups * x->h * x->w;
	for (int g = 0; g < groups; g++) {
		double mean = 0, variance = 0, *part = x->x + g * size;
		for (int i = 0; i < size; i++)
			mean += part[i] / size;
		for (int i = 0; i < size; i++)
			variance += (part[i] - mean) * (part[i] - mean) / size;
		for (int i = 0; i < size; i++) {
			int c = g * (x->c / groups) + i / (x->h * x->w);
			part[i] = (part[i] - mean) / sqrt(variance + 1e-6) * (double)w[c] + (double)b[c];
		}
	}
}

static double silu(double x)
{
	return x / (1 + exp(-x));
}

static double gelu(double x)
{
	return x * 0.5 * (1 + erf(x / sqrt(2)));
}

static double relu(double x)
{
	return x > 0 ? x : 0;
}

static struct plain_image doubled(const struct plain_image *x)
{
	struct plain_image y = image(x->c, 2 * x->h, 2 * x->w);
	for (int c = 0; c < y.c; c++)
		for (int i = 0; i < y.h; i++)
			for (int j = 0; j < y.w; j++)
				y.x[(c * y.h + i) * y.w + j] = pixel(x, c, i / 2, j / 2);
	return y;
}

/* ---- AutoencoderKL ---- */

static void resnet(const struct qd_component *component, const char *path, struct plain_image *x, int out)
{
	struct plain_image h = copy_of(x);
	for (int i = 1; i <= 2; i++) {
		group_norm(component, path_of("%s.norm%d", path, i), &h);
		each(&h, component->vae.act == QD_OP_GELU ? gelu : silu);
		replace(&h, conv(component, path_of("%s.conv%d", path, i), &h, out, 3, 1, 1, 1, true));
	}
	if (x->c != out)
		replace(x, conv(component, path_of("%s.conv_shortcut", path), x, out, 1, 1, 0, 0, true));
	add(x, &h);
	free(h.x);
}

static void mid_attention(const struct qd_component *component, const char *path, struct plain_image *x)
{
	int n = x->h * x->w, c = x->c;
	struct plain_image h = copy_of(x), y = image(c, x->h, x->w), qkv[3];
	double *score = calloc((size_t)n, sizeof(*score));
	group_norm(component, path_of("%s.group_norm", path), &h);
	for (int k = 0; k < 3; k++)
		qkv[k] = conv(component, path_of("%s.to_%c", path, "qkv"[k]), &h, c, 1, 1, 0, 0, true);
	for (int i = 0; i < n; i++) {
		double sum = 0;
		for (int j = 0; j < n; j++) {
			score[j] = 0;
			for (int k = 0; k < c; k++)
				score[j] += qkv[0].x[k * n + i] * qkv[1].x[k * n + j] / sqrt(c);
			sum += score[j] = exp(score[j]);
		}
		for (int j = 0; j < n; j++)
			for (int k = 0; k < c; k++)
				y.x[k * n + i] += score[j] / sum * qkv[2].x[k * n + j];
	}
	replace(&y, conv(component, path_of("%s.to_out.0", path), &y, c, 1, 1, 0, 0, true));
	add(x, &y);
	for (int k = 0; k < 3; k++)
		free(qkv[k].x);
	free(score);
	free(h.x);
	free(y.x);
}

static void mid_block(const struct qd_component *component, const char *part, struct plain_image *x)
{
	resnet(component, path_of("%s.mid_block.resnets.0", part), x, x->c);
	if (component->vae.mid_attention)
		mid_attention(component, path_of("%s.mid_block.attentions.0", part), x);
	resnet(component, path_of("%s.mid_block.resnets.1", part), x, x->c);
}

static void conv_out(const struct qd_component *component, const char *part, struct plain_image *x, int out)
{
	group_norm(component, path_of("%s.conv_norm_out", part), x);
	each(x, silu);
	replace(x, conv(component, path_of("%s.conv_out", part), x, out, 3, 1, 1, 1, true));
}

static void decode(const struct qd_component *component, struct plain_image *x)
{
	const struct qd_vae_config *c = &component->vae;
	if (c->post_quant_conv)
		replace(x, conv(component, "post_quant_conv", x, x->c, 1, 1, 0, 0, true));
	replace(x, conv(component, "decoder.conv_in", x, (int)c->channels[c->blocks - 1], 3, 1, 1, 1, true));
	mid_block(component, "decoder", x);
	for (int i = 0; i < c->blocks; i++) {
		int channels = (int)c->channels[c->blocks - 1 - i];
		for (int j = 0; j <= (int)c->layers[0]; j++)
			resnet(component, path_of("decoder.up_blocks.%d.resnets.%d", i, j), x, channels);
		if (i + 1 == c->blocks)
			continue;
		replace(x, doubled(x));
		replace(x, conv(component, path_of("decoder.up_blocks.%d.upsamplers.0.conv", i), x, channels, 3, 1, 1, 1, true));
	}
	conv_out(component, "decoder", x, (int)c->out_channels);
}

static void encode(const struct qd_component *component, struct plain_image *x)
{
	const struct qd_vae_config *c = &component->vae;
	int out = 2 * (int)c->latent_channels;
	replace(x, conv(component, "encoder.conv_in", x, (int)c->channels[0], 3, 1, 1, 1, true));
	for (int i = 0; i < c->blocks; i++) {
		for (int j = 0; j < (int)c->layers[0]; j++)
			resnet(component, path_of("encoder.down_blocks.%d.resnets.%d", i, j), x, (int)c->channels[i]);
		if (i + 1 < c->blocks)
			replace(x, conv(component, path_of("encoder.down_blocks.%d.downsamplers.0.conv", i), x, x->c, 3, 2, 0, 1,
					   true));
	}
	mid_block(component, "encoder", x);
	conv_out(component, "encoder", x, out);
	if (c->quant_conv)
		replace(x, conv(component, "quant_conv", x, out, 1, 1, 0, 0, true));
}

struct plain_image plain_vae(const struct qd_component *component, enum qd_vae_part part, const struct plain_image *in)
{
	struct plain_image x = copy_of(in);
	if (part == QD_VAE_DECODER)
		decode(component, &x);
	else
		encode(component, &x);
	return x;
}

/* ---- AutoencoderTiny ---- */

static void tiny_conv(
	const struct qd_component *component, const char *part, int *layer, struct plain_image *x, int out, int stride, bool bias)
{
	replace(x, conv(component, path_of("%s.layers.%d", part, (*layer)++), x, out, 3, stride, 1, 1, bias));
}

static void tiny_blocks(const struct qd_component *component, const char *part, int *layer, struct plain_image *x, int64_t n)
{
	for (int64_t i = 0; i < n; i++, (*layer)++) {
		struct plain_image h = copy_of(x);
		for (int k = 0; k < 5; k += 2) {
			replace(&h, conv(component, path_of("%s.layers.%d.conv.%d", part, *layer, k), &h, x->c, 3, 1, 1, 1, true));
			if (k < 4)
				each(&h, relu);
		}
		add(x, &h);
		each(x, relu);
		free(h.x);
	}
}

static double to_unit(double x)
{
	return (x + 1) / 2;
}

static double bounded(double x)
{
	return 3 * tanh(x / 3);
}

static double from_unit(double x)
{
	return 2 * x - 1;
}

struct plain_image plain_tiny_vae(const struct qd_component *component, enum qd_vae_part part, const struct plain_image *in)
{
	const struct qd_vae_config *c = &component->vae;
	const char *name = part == QD_VAE_DECODER ? "decoder" : "encoder";
	struct plain_image x = copy_of(in);
	int layer = 0, width = (int)c->channels[0];
	each(&x, part == QD_VAE_DECODER ? bounded : to_unit);
	if (part == QD_VAE_DECODER) {
		tiny_conv(component, name, &layer, &x, width, 1, true);
		each(&x, relu);
		layer++;
	}
	for (int i = 0; i < c->blocks; i++) {
		bool last = i + 1 == c->blocks;
		if (part == QD_VAE_ENCODER)
			tiny_conv(component, name, &layer, &x, width, i == 0 ? 1 : 2, i == 0);
		tiny_blocks(component, name, &layer, &x, part == QD_VAE_DECODER ? c->decoder_layers[i] : c->layers[i]);
		if (part == QD_VAE_ENCODER)
			continue;
		if (!last) {
			replace(&x, doubled(&x));
			layer++;
		}
		tiny_conv(component, name, &layer, &x, last ? (int)c->out_channels : width, 1, last);
	}
	if (part == QD_VAE_ENCODER)
		tiny_conv(component, name, &layer, &x, (int)c->latent_channels, 1, true);
	else
		each(&x, from_unit);
	return x;
}

/* ---- text encoders ---- */

/* rows x in -> rows x out. */
static double *linear(const struct qd_component *c, const char *path, int rows, int in, int out, const double *x)
{
	const float *w = weight(c, path, ".weight"), *b = weight(c, path, ".bias");
	double *y = calloc((size_t)(rows * out), sizeof(*y));
	for (int i = 0; i < rows; i++)
		for (int o = 0; o < out; o++) {
			y[i * out + o] = (double)b[o];
			for (int k = 0; k < in; k++)
				y[i * out + o] += (double)w[o * in + k] * x[i * in + k];
		}
	return y;
}

static void layer_norm(const struct qd_component *c, const char *path, int rows, double *x)
{
	const float *w = weight(c, path, ".weight"), *b = weight(c, path, ".bias");
	int d = (int)c->text.hidden;
	for (int i = 0; i < rows; i++) {
		double mean = 0, variance = 0, *row = x + i * d;
		for (int k = 0; k < d; k++)
			mean += row[k] / d;
		for (int k = 0; k < d; k++)
			variance += (row[k] - mean) * (row[k] - mean) / d;
		for (int k = 0; k < d; k++)
			row[k] = (row[k] - mean) / sqrt(variance + c->text.eps) * (double)w[k] + (double)b[k];
	}
}

/* Row i attends to itself and what is before it, as far as the mask allows; head by head. */
static double *attend(
	const struct qd_component *c, int rows, const double *q, const double *k, const double *v, const int32_t *mask)
{
	int d = (int)c->text.hidden, heads = (int)c->text.heads, size = d / heads;
	double *y = calloc((size_t)(rows * d), sizeof(*y)), *score = calloc((size_t)rows, sizeof(*score));
	for (int h = 0; h < heads; h++)
		for (int i = 0; i < rows; i++) {
			double sum = 0;
			for (int j = 0; j <= i; j++) {
				double s = 0;
				for (int e = h * size; e < (h + 1) * size; e++)
					s += q[i * d + e] * k[j * d + e];
				score[j] = !mask || mask[j] ? exp(s / sqrt(size)) : 0;
				sum += score[j];
			}
			for (int j = 0; j <= i; j++)
				for (int e = h * size; e < (h + 1) * size; e++)
					y[i * d + e] += score[j] / sum * v[j * d + e];
		}
	free(score);
	return y;
}

static double quick_gelu(double x)
{
	return x / (1 + exp(-1.702 * x));
}

/* A layer's two steps; `x` [rows][D] is updated in place. */
static void text_layer(const struct qd_component *c, const char *path, int rows, double *x, const int32_t *mask)
{
	int d = (int)c->text.hidden, wide = (int)c->text.intermediate;
	size_t bytes = (size_t)(rows * d) * sizeof(double);
	double *h = malloc(bytes), *qkv[3], *y, *z;
	memcpy(h, x, bytes);
	layer_norm(c, path_of("%s.layer_norm1", path), rows, h);
	for (int k = 0; k < 3; k++)
		qkv[k] = linear(c, path_of("%s.self_attn.%c_proj", path, "qkv"[k]), rows, d, d, h);
	y = attend(c, rows, qkv[0], qkv[1], qkv[2], mask);
	z = linear(c, path_of("%s.self_attn.out_proj", path), rows, d, d, y);
	for (int i = 0; i < rows * d; i++)
		h[i] = x[i] += z[i];
	layer_norm(c, path_of("%s.layer_norm2", path), rows, h);
	free(y);
	free(z);
	y = linear(c, path_of("%s.mlp.fc1", path), rows, d, wide, h);
	for (int i = 0; i < rows * wide; i++)
		y[i] = c->text.act == QD_OP_GELU ? gelu(y[i]) : quick_gelu(y[i]);
	z = linear(c, path_of("%s.mlp.fc2", path), rows, wide, d, y);
	for (int i = 0; i < rows * d; i++)
		x[i] += z[i];
	for (int k = 0; k < 3; k++)
		free(qkv[k]);
	free(h);
	free(y);
	free(z);
}

double *plain_text_states(const struct qd_component *c, int tokens, const int32_t *ids, const int32_t *mask)
{
	const float *token = weight(c, "text_model.embeddings.token_embedding", ".weight");
	const float *position = weight(c, "text_model.embeddings.position_embedding", ".weight");
	int d = (int)c->text.hidden;
	size_t size = (size_t)(tokens * d);
	double *states = calloc(size * (size_t)(c->text.layers + 1), sizeof(*states));
	for (int i = 0; i < tokens; i++)
		for (int k = 0; k < d; k++)
			states[i * d + k] = (double)token[ids[i] * d + k] + (double)position[i * d + k];
	for (size_t i = 0; i < (size_t)c->text.layers; i++) {
		memcpy(states + (i + 1) * size, states + i * size, size * sizeof(*states));
		text_layer(c, path_of("text_model.encoder.layers.%d", (int)i), tokens, states + (i + 1) * size, mask);
	}
	return states;
}

void plain_final_norm(const struct qd_component *c, int rows, double *x)
{
	layer_norm(c, "text_model.final_layer_norm", rows, x);
}

int plain_pooled_position(const struct qd_component *c, int tokens, const int32_t *ids)
{
	int largest = 0;
	for (int i = 0; i < tokens; i++) {
		if (c->text.eos != 2 && ids[i] == c->text.eos)
			return i;
		if (ids[i] > ids[largest])
			largest = i;
	}
	return c->text.eos == 2 ? largest : 0;
}

void plain_projection(const struct qd_component *c, const double *row, double *out)
{
	const float *w = weight(c, "text_projection", ".weight");
	for (int o = 0; o < (int)c->text.projection; o++) {
		out[o] = 0;
		for (int k = 0; k < (int)c->text.hidden; k++)
			out[o] += (double)w[o * c->text.hidden + k] * row[k];
	}
}
