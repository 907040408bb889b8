/*
 * Sampling: noise becomes latents by calling a model once (with guidance: twice) for each step of a scheduler. The model is a
 * function, so that every engine that can execute it is driven by this one loop.
 *
 * Dimension letters: N samples, Cl latent channels, Cc condition channels, C = Cl + Cc channels of the model's `sample` input, H W
 * pixels.
 */
#ifndef QUAD_LIB_MODEL_SAMPLE_H
#define QUAD_LIB_MODEL_SAMPLE_H

#include "lib/model/model.h"

/* One call of the model. `conditional` is false for the pass under the negative prompt of classifier-free guidance. */
struct qd_denoise_call {
	int step;
	double timestep;
	bool conditional;
	const float *sample; /* [N,C,H,W]: scaled latents, then the condition's channels */
	float *out;          /* [N,Cl,H,W]: to be written */
};
typedef enum qd_status (*qd_denoise)(void *context, const struct qd_denoise_call *call);

/* What each step starts from and hears: `latents` [N,Cl,H,W] before the step, unscaled, and `out` [N,Cl,H,W], guided. */
typedef void (*qd_sample_hook)(void *context, int step, const float *latents, const float *out);

struct qd_sampling {
	const struct qd_scheduler *scheduler;
	int64_t n, latent_channels, condition_channels, height, width;
	const float *condition; /* [N,Cc,H,W]; NULL when Cc is 0 */
	double guidance;        /* out = uncond + guidance (cond - uncond) (Ho & Salimans 2022); 1: one pass, no guidance */
	uint64_t seed;          /* of the noise that stochastic schedulers add; sample i's noise depends on seed and i alone */
	bool quiet;             /* no progress: the caller counts runs */
	qd_sample_hook observe; /* NULL: none */
	void *observe_context;
};

/* Standard normal numbers for `n` samples of `each` floats; sample i's depend on `seed`, `stream` and i alone. */
void qd_sample_noise(uint64_t seed, uint64_t stream, int64_t n, int64_t each, float *out);

/*
 * Runs the loop. `latents` f32 [N,Cl,H,W] holds standard normal noise on entry (it is scaled by the scheduler's initial sigma) and
 * the sample on return. Returns the first failure of `denoise`; QD_ENOMEM; QD_EINPUT naming the step when the model's output is not
 * finite.
 */
QD_CHECK enum qd_status qd_sample(const struct qd_sampling *sampling, qd_denoise denoise, void *context, float *latents);

#endif
