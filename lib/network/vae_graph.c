/*
 * VAEs from outside: their graphs, and the arithmetic from an encoder's output to the UNet's latents:
 *
 *   latent = (mean + exp(clamp(log variance, -30, 20) / 2) * noise - latents_mean) / latents_std * scaling_factor
 */
#include "lib/network/vae_internal.h"

#include <math.h>

static const float least_log_variance = -30, most_log_variance = 20;

/* An encoder halves its image once between two blocks. */
static enum qd_status check_sizes(const struct qd_vae_config *config, const struct qd_component_sizes *s)
{
	int64_t least = s->part == QD_VAE_ENCODER ? (int64_t)1 << (config->blocks - 1) : 1;
	if (s->batch < 1 || s->height < least || s->width < least)
		return qd_fail(QD_EINPUT, "batch, height and width are %lld, %lld and %lld, need at least 1, %lld and %lld",
			(long long)s->batch, (long long)s->height, (long long)s->width, (long long)least, (long long)least);
	return QD_OK;
}

enum qd_status qd_vae_graph(struct qd_graph *g, const struct qd_vae_config *config, const struct qd_weights *weights,
	const struct qd_component_sizes *sizes)
{
	struct qd_layers l = { .g = g, .weights = weights, .act = config->act, .groups = config->groups, .batch = sizes->batch };
	bool decodes = sizes->part == QD_VAE_DECODER;
	int64_t channels = decodes ? config->latent_channels : config->in_channels;
	enum qd_status st = check_sizes(config, sizes);
	if (st != QD_OK)
		return st;
	qd_graph_init(g, decodes ? "vae_decoder" : "vae_encoder");
	qd_id in = qd_graph_input(g, decodes ? "z" : "x", QD_F32, QD_SHAPE(sizes->batch, channels, sizes->height, sizes->width));
	qd_id out = (config->tiny ? qd_tiny_vae_build : qd_vae_build)(&l, config, sizes->part, in);
	qd_graph_output(g, qd_build_unary(g, QD_OP_IDENTITY, "out", out));
	return qd_graph_status(g);
}

void qd_vae_sample(
	const struct qd_vae_config *config, size_t n, size_t pixels, const float *params, const float *noise, float *latents)
{
	size_t channels = (size_t)config->latent_channels, size = channels * pixels;
	float scaling = (float)config->scaling_factor;
	for (size_t i = 0; i < n * size; i++) {
		size_t sample = i / size, channel = i % size / pixels;
		const float *mean = params + (config->tiny ? i : i + sample * size);
		float z = *mean;
		if (noise != NULL && !config->tiny)
			z += expf(0.5F * fminf(fmaxf(mean[size], least_log_variance), most_log_variance)) * noise[i];
		if (config->normalized)
			z = (z - (float)config->mean[channel]) / (float)config->std[channel];
		latents[i] = z * scaling;
	}
}

void qd_vae_unscale(const struct qd_vae_config *config, size_t n, size_t pixels, const float *latents, float *z)
{
	size_t channels = (size_t)config->latent_channels;

	for (size_t i = 0; i < n * channels * pixels; i++) {
		size_t channel = i / pixels % channels;

		z[i] = latents[i] / (float)config->scaling_factor;
		if (config->normalized)
			z[i] = z[i] * (float)config->std[channel] + (float)config->mean[channel];
	}
}
