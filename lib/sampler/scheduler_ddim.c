/*
 * DDIM without noise (eta = 0; Song et al. 2021, eq. 12). With p = t - T div n, a = abar_t, a' = abar_p or, where p < 0, 1 or
 * abar_0 by set_alpha_to_one:
 *
 *   x' = sqrt(a') x0 + sqrt(1 - a') e
 *
 * x0 is clamped to +-clip_sample_range where clip_sample is set; e stays as predicted. p is not the next timestep of the list: with
 * trailing spacing the two may differ by one.
 */
#include "lib/sampler/internal.h"

#include <math.h>

static enum qd_status prepare(struct qd_scheduler *s)
{
	return qd_spaced_timesteps(s, "leading", true);
}

static enum qd_status step(const struct qd_scheduler *s, int i, size_t n, float *x, const float *m, const float *noise)
{
	const struct qd_schedule *schedule = s->schedule;
	int t = (int)s->timesteps[i], p = t - schedule->train_steps / s->steps;
	double a = schedule->alphas_cumprod[t];
	double before = p >= 0 ? schedule->alphas_cumprod[p] : schedule->set_alpha_to_one ? 1 : schedule->alphas_cumprod[0];
	struct qd_prediction_terms terms = qd_predict(schedule->prediction, a);
	struct qd_noise_level level = qd_noise_level_of(before);
	double limit = schedule->clip_sample ? schedule->clip_range : INFINITY;

	(void)noise;
	for (size_t k = 0; k < n; k++) {
		double x0 = terms.x0_x * (double)x[k] + terms.x0_m * (double)m[k];
		double e = terms.e_x * (double)x[k] + terms.e_m * (double)m[k];
		x[k] = (float)qd_noised(level, fmin(fmax(x0, -limit), limit), e);
	}
	return QD_OK;
}

const struct qd_scheduler_kind qd_scheduler_ddim = { .name = "ddim", .prepare = prepare, .step = step };
