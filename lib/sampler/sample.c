/* The sampling loop: for each step i, out_i = model(scale_i(x) ++ condition, t_i), x = step_i(x, out_i). */
#include "lib/sampler/sampler.h"
#include "lib/math/math.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

void qd_sample_noise(uint64_t seed, uint64_t draw, int64_t n, int64_t each, float *out)
{
	for (int64_t i = 0; i < n; i++)
		qd_random_normals(seed, qd_stream(QD_STREAM_SAMPLING, (draw << 32) + (uint64_t)i), (size_t)each, out + i * each);
}

struct buffers {
	float *input, *out, *uncond, *noise;
};

static enum qd_status buffers_new(struct buffers *b, const struct qd_sampling *s, size_t latent)
{
	size_t plane = (size_t)(s->n * s->height * s->width);
	b->input = malloc((latent + plane * (size_t)s->condition_channels) * sizeof(float));
	b->out = malloc(latent * sizeof(float));
	b->uncond = malloc(latent * sizeof(float));
	b->noise = malloc(latent * sizeof(float));
	if (b->input == NULL || b->out == NULL || b->uncond == NULL || b->noise == NULL)
		return qd_fail(QD_ENOMEM, "cannot hold the buffers of %lld samples", (long long)s->n);
	return QD_OK;
}

static void buffers_release(struct buffers *b)
{
	free(b->input);
	free(b->out);
	free(b->uncond);
	free(b->noise);
}

/* The model's input: per sample, scaled latents and then the condition. */
static void assemble(const struct qd_sampling *s, int step, const float *latents, float *input)
{
	size_t plane = (size_t)(s->height * s->width);
	size_t nl = plane * (size_t)s->latent_channels, nc = plane * (size_t)s->condition_channels;
	for (int64_t i = 0; i < s->n; i++, input += nl + nc) {
		qd_scheduler_scale_input(s->scheduler, step, nl, latents + (size_t)i * nl, input);
		if (nc > 0)
			memcpy(input + nl, s->condition + (size_t)i * nc, nc * sizeof(float));
	}
}

static enum qd_status check_finite(const float *x, size_t n, int step)
{
	for (size_t i = 0; i < n; i++)
		if (!isfinite(x[i]))
			return qd_fail(QD_EINPUT, "step %d: element %zu of the model's output is not finite", step, i);
	return QD_OK;
}

static enum qd_status model_out(
	const struct qd_sampling *s, int step, struct buffers *b, size_t latent, qd_denoise denoise, void *context)
{
	struct qd_denoise_call call = { step, s->scheduler->timesteps[step], true, b->input, b->out };
	enum qd_status st = denoise(context, &call);
	if (st == QD_OK && s->guidance != 1.0) {
		call.conditional = false;
		call.out = b->uncond;
		st = denoise(context, &call);
		for (size_t i = 0; st == QD_OK && i < latent; i++)
			b->out[i] = b->uncond[i] + (float)s->guidance * (b->out[i] - b->uncond[i]);
	}
	return st == QD_OK ? check_finite(b->out, latent, step) : st;
}

enum qd_status qd_sample(const struct qd_sampling *s, qd_denoise denoise, void *context, float *latents)
{
	enum qd_status st;
	struct buffers b = { 0 };
	int64_t each = s->latent_channels * s->height * s->width;
	size_t latent = (size_t)(s->n * each);
	int steps = s->steps > 0 && s->steps < s->scheduler->steps ? s->steps : s->scheduler->steps;
	QD_TRY(st, buffers_new(&b, s, latent));
	for (size_t i = 0; i < latent; i++)
		latents[i] *= (float)s->scheduler->init_sigma;
	for (int step = 0; step < steps; step++) {
		if (!s->quiet)
			qd_progress("sampling", (uint64_t)step, (uint64_t)steps, NULL);
		assemble(s, step, latents, b.input);
		QD_TRY(st, model_out(s, step, &b, latent, denoise, context));
		if (s->observe != NULL)
			s->observe(s->observe_context, step, latents, b.out);
		qd_sample_noise(s->seed, (uint64_t)step + 1, s->n, each, b.noise);
		QD_TRY(st, qd_scheduler_step(s->scheduler, step, latent, latents, b.out, b.noise));
	}
	if (!s->quiet)
		qd_progress("sampling", (uint64_t)steps, (uint64_t)steps, NULL);
out:
	buffers_release(&b);
	return st;
}
