/*
 * The arithmetic of diffusion, in one place: noising, what a network is taught to say, and back from what it says. With abar =
 * alphas_cumprod[t], clean latents x0 and noise e ~ N(0,1):
 *
 *   x_t = sqrt(abar) x0 + sqrt(1 - abar) e                                              (Ho et al. 2020, eq. 4)
 *   target   epsilon: e    v: sqrt(abar) e - sqrt(1 - abar) x0    sample: x0            (Salimans & Ho 2022, appendix D)
 *
 * Everything is computed in double and rounded by the caller, but for the functions named _f32: training noises whole batches in
 * float32, and its results are kept bit for bit.
 */
#ifndef QUAD_LIB_SAMPLER_DIFFUSION_H
#define QUAD_LIB_SAMPLER_DIFFUSION_H

#include "lib/model/model.h"

/* How much of a state is signal and how much noise. */
struct qd_noise_level {
	double signal, noise; /* sqrt(abar), sqrt(1 - abar) */
};
struct qd_noise_level qd_noise_level_of(double abar);

/* x_t. */
double qd_noised(struct qd_noise_level level, double x0, double e);
/* The noise that is left in a state x, whatever way it came about, once x0 is known. */
double qd_noise_in(struct qd_noise_level level, double x, double x0);
/* What the network should say to x_t. */
double qd_target(enum qd_prediction prediction, struct qd_noise_level level, double x0, double e);

/* x_t and the target of n numbers, evaluated in float32. */
void qd_noised_f32(struct qd_noise_level level, size_t n, const float *x0, const float *e, float *out);
void qd_target_f32(
	enum qd_prediction prediction, struct qd_noise_level level, size_t n, const float *x0, const float *e, float *out);

/* x0 and the noise e that explain a state x and a network's answer m to it. */
struct qd_prediction_terms {
	double x0_x, x0_m, e_x, e_m; /* x0 = x0_x x + x0_m m; e = e_x x + e_m m */
};
struct qd_prediction_terms qd_predict(enum qd_prediction prediction, double abar);
/* x0 alone, of a state x = x0 + sigma e whose scaled form x / sqrt(sigma^2 + 1) the network answered. */
struct qd_prediction_terms qd_predict_sigma(enum qd_prediction prediction, double sigma);

#endif
