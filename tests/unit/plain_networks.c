#include "tests/unit/plain_networks.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A convolution of a component; `before` and `after`: rows and columns of zeros in front and behind. */
static struct plain_image conv(const struct qd_component *component, const char *path, const struct plain_image *x, int out, int k,
	int stride, int before, int after, bool bias)
{
	double *w = plain_kernel(&component->weights, NULL, path, out * x->c * k * k);
	struct plain_image y =
		plain_conv(w, bias ? plain_weight(&component->weights, path, ".bias") : NULL, x, out, k, stride, before, after);
	free(w);
	return y;
}

static void group_norm(const struct qd_component *component, const char *path, struct plain_image *x)
{
	plain_group_norm((int)component->vae.groups, 1e-6, plain_weight(&component->weights, path, ".weight"),
		plain_weight(&component->weights, path, ".bias"), x);
}

static double relu(double x)
{
	return x > 0 ? x : 0;
}

/* ---- AutoencoderKL ---- */

static void resnet(const struct qd_component *component, const char *path, struct plain_image *x, int out)
{
	struct plain_image h = plain_copy(x);
	for (int i = 1; i <= 2; i++) {
		group_norm(component, plain_path("%s.norm%d", path, i), &h);
		plain_each(&h, component->vae.act == QD_OP_GELU ? plain_gelu : plain_silu);
		plain_replace(&h, conv(component, plain_path("%s.conv%d", path, i), &h, out, 3, 1, 1, 1, true));
	}
	if (x->c != out)
		plain_replace(x, conv(component, plain_path("%s.conv_shortcut", path), x, out, 1, 1, 0, 0, true));
	plain_add(x, &h);
	free(h.x);
}

static void mid_attention(const struct qd_component *component, const char *path, struct plain_image *x)
{
	int n = x->h * x->w, c = x->c;
	struct plain_image h = plain_copy(x), y = plain_new(c, x->h, x->w), qkv[3];
	double *score = calloc((size_t)n, sizeof(*score));
	group_norm(component, plain_path("%s.group_norm", path), &h);
	for (int k = 0; k < 3; k++)
		qkv[k] = conv(component, plain_path("%s.to_%c", path, "qkv"[k]), &h, c, 1, 1, 0, 0, true);
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
	plain_replace(&y, conv(component, plain_path("%s.to_out.0", path), &y, c, 1, 1, 0, 0, true));
	plain_add(x, &y);
	for (int k = 0; k < 3; k++)
		free(qkv[k].x);
	free(score);
	free(h.x);
	free(y.x);
}

static void mid_block(const struct qd_component *component, const char *part, struct plain_image *x)
{
	resnet(component, plain_path("%s.mid_block.resnets.0", part), x, x->c);
	if (component->vae.mid_attention)
		mid_attention(component, plain_path("%s.mid_block.attentions.0", part), x);
	resnet(component, plain_path("%s.mid_block.resnets.1", part), x, x->c);
}

static void conv_out(const struct qd_component *component, const char *part, struct plain_image *x, int out)
{
	group_norm(component, plain_path("%s.conv_norm_out", part), x);
	plain_each(x, plain_silu);
	plain_replace(x, conv(component, plain_path("%s.conv_out", part), x, out, 3, 1, 1, 1, true));
}

static void decode(const struct qd_component *component, struct plain_image *x)
{
	const struct qd_vae_config *c = &component->vae;
	if (c->post_quant_conv)
		plain_replace(x, conv(component, "post_quant_conv", x, x->c, 1, 1, 0, 0, true));
	plain_replace(x, conv(component, "decoder.conv_in", x, (int)c->channels[c->blocks - 1], 3, 1, 1, 1, true));
	mid_block(component, "decoder", x);
	for (int i = 0; i < c->blocks; i++) {
		int channels = (int)c->channels[c->blocks - 1 - i];
		for (int j = 0; j <= (int)c->layers[0]; j++)
			resnet(component, plain_path("decoder.up_blocks.%d.resnets.%d", i, j), x, channels);
		if (i + 1 == c->blocks)
			continue;
		plain_replace(x, plain_doubled(x, 2 * x->h, 2 * x->w));
		plain_replace(
			x, conv(component, plain_path("decoder.up_blocks.%d.upsamplers.0.conv", i), x, channels, 3, 1, 1, 1, true));
	}
	conv_out(component, "decoder", x, (int)c->out_channels);
}

static void encode(const struct qd_component *component, struct plain_image *x)
{
	const struct qd_vae_config *c = &component->vae;
	int out = 2 * (int)c->latent_channels;
	plain_replace(x, conv(component, "encoder.conv_in", x, (int)c->channels[0], 3, 1, 1, 1, true));
	for (int i = 0; i < c->blocks; i++) {
		for (int j = 0; j < (int)c->layers[0]; j++)
			resnet(component, plain_path("encoder.down_blocks.%d.resnets.%d", i, j), x, (int)c->channels[i]);
		if (i + 1 < c->blocks)
			plain_replace(x, conv(component, plain_path("encoder.down_blocks.%d.downsamplers.0.conv", i), x, x->c, 3, 2,
						 0, 1, true));
	}
	mid_block(component, "encoder", x);
	conv_out(component, "encoder", x, out);
	if (c->quant_conv)
		plain_replace(x, conv(component, "quant_conv", x, out, 1, 1, 0, 0, true));
}

struct plain_image plain_vae(const struct qd_component *component, enum qd_vae_part part, const struct plain_image *in)
{
	struct plain_image x = plain_copy(in);
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
	plain_replace(x, conv(component, plain_path("%s.layers.%d", part, (*layer)++), x, out, 3, stride, 1, 1, bias));
}

static void tiny_blocks(const struct qd_component *component, const char *part, int *layer, struct plain_image *x, int64_t n)
{
	for (int64_t i = 0; i < n; i++, (*layer)++) {
		struct plain_image h = plain_copy(x);
		for (int k = 0; k < 5; k += 2) {
			plain_replace(&h,
				conv(component, plain_path("%s.layers.%d.conv.%d", part, *layer, k), &h, x->c, 3, 1, 1, 1, true));
			if (k < 4)
				plain_each(&h, relu);
		}
		plain_add(x, &h);
		plain_each(x, relu);
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
	struct plain_image x = plain_copy(in);
	int layer = 0, width = (int)c->channels[0];
	plain_each(&x, part == QD_VAE_DECODER ? bounded : to_unit);
	if (part == QD_VAE_DECODER) {
		tiny_conv(component, name, &layer, &x, width, 1, true);
		plain_each(&x, relu);
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
			plain_replace(&x, plain_doubled(&x, 2 * x.h, 2 * x.w));
			layer++;
		}
		tiny_conv(component, name, &layer, &x, last ? (int)c->out_channels : width, 1, last);
	}
	if (part == QD_VAE_ENCODER)
		tiny_conv(component, name, &layer, &x, (int)c->latent_channels, 1, true);
	else
		plain_each(&x, from_unit);
	return x;
}

/* ---- text encoders ---- */

static double *linear(const struct qd_component *c, const char *path, int rows, int in, int out, const double *x)
{
	double *w = plain_kernel(&c->weights, NULL, path, in * out);
	double *y = plain_linear(w, plain_weight(&c->weights, path, ".bias"), rows, in, out, x);
	free(w);
	return y;
}

static void layer_norm(const struct qd_component *c, const char *path, int rows, double *x)
{
	plain_layer_norm(rows, (int)c->text.hidden, c->text.eps, plain_weight(&c->weights, path, ".weight"),
		plain_weight(&c->weights, path, ".bias"), x);
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
	layer_norm(c, plain_path("%s.layer_norm1", path), rows, h);
	for (int k = 0; k < 3; k++)
		qkv[k] = linear(c, plain_path("%s.self_attn.%c_proj", path, "qkv"[k]), rows, d, d, h);
	y = plain_attention(rows, rows, d, (int)c->text.heads, qkv[0], qkv[1], qkv[2], true, mask);
	z = linear(c, plain_path("%s.self_attn.out_proj", path), rows, d, d, y);
	for (int i = 0; i < rows * d; i++)
		h[i] = x[i] += z[i];
	layer_norm(c, plain_path("%s.layer_norm2", path), rows, h);
	free(y);
	free(z);
	y = linear(c, plain_path("%s.mlp.fc1", path), rows, d, wide, h);
	for (int i = 0; i < rows * wide; i++)
		y[i] = c->text.act == QD_OP_GELU ? plain_gelu(y[i]) : quick_gelu(y[i]);
	z = linear(c, plain_path("%s.mlp.fc2", path), rows, wide, d, y);
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
	const float *token = plain_weight(&c->weights, "text_model.embeddings.token_embedding", ".weight");
	const float *position = plain_weight(&c->weights, "text_model.embeddings.position_embedding", ".weight");
	int d = (int)c->text.hidden;
	size_t size = (size_t)(tokens * d);
	double *states = calloc(size * (size_t)(c->text.layers + 1), sizeof(*states));
	for (int i = 0; i < tokens; i++)
		for (int k = 0; k < d; k++)
			states[i * d + k] = (double)token[ids[i] * d + k] + (double)position[i * d + k];
	for (size_t i = 0; i < (size_t)c->text.layers; i++) {
		memcpy(states + (i + 1) * size, states + i * size, size * sizeof(*states));
		text_layer(c, plain_path("text_model.encoder.layers.%d", (int)i), tokens, states + (i + 1) * size, mask);
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
	const float *w = plain_weight(&c->weights, "text_projection", ".weight");
	for (int o = 0; o < (int)c->text.projection; o++) {
		out[o] = 0;
		for (int k = 0; k < (int)c->text.hidden; k++)
			out[o] += (double)w[o * c->text.hidden + k] * row[k];
	}
}
