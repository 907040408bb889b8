/*
 * The sampler of latent consistency models (Luo et al. 2023, algorithm 3). With N steps of the sampler that was distilled, n steps
 * used, and s the timestep scaling (10):
 *
 *   t_i    = O[floor(i N / n)]     O = {N k - 1, ..., 2 k - 1, k - 1}, k = T div N
 *   c_skip = 0.25 / ((s t)^2 + 0.25)     c_out = s t / sqrt((s t)^2 + 0.25)     d = c_out x0 + c_skip x
 *   x'     = d in the last step, else sqrt(abar') d + sqrt(1 - abar') noise, abar' of the next timestep, fresh noise every time
 */
#include "lib/sampler/internal.h"

#include <math.h>

static enum qd_status prepare(struct qd_scheduler *s)
{
	int original = s->schedule->original_steps, ratio = s->schedule->train_steps / original;

	if (s->steps > original)
		return qd_fail(QD_EINPUT, "%d steps, the model was distilled from %d", s->steps, original);
	if (ratio < 1)
		return qd_fail(
			QD_EINPUT, "original_inference_steps is %d, the schedule has %d", original, s->schedule->train_steps);
	for (int i = 0; i < s->steps; i++) {
		int skipped = (int)floor(i * ((double)original / s->steps));
		s->timesteps[i] = (original - skipped) * ratio - 1;
	}
	return QD_OK;
}

static enum qd_status step(const struct qd_scheduler *s, int i, size_t n, float *x, const float *m, const float *noise)
{
	const struct qd_schedule *schedule = s->schedule;
	bool last = i + 1 == s->steps;
	double scaled = s->timesteps[i] * schedule->timestep_scaling, square = scaled * scaled + 0.25;
	double skip = 0.25 / square, out = scaled / sqrt(square);
	struct qd_noise_level next = qd_noise_level_of(last ? 1 : schedule->alphas_cumprod[(int)s->timesteps[i + 1]]);
	double limit = schedule->clip_sample ? schedule->clip_range : INFINITY;
	struct qd_prediction_terms terms = qd_predict(schedule->prediction, schedule->alphas_cumprod[(int)s->timesteps[i]]);

	if (!last && noise == NULL)
		return qd_fail(QD_EINPUT, "scheduler 'lcm' needs noise for every step but the last");
	for (size_t k = 0; k < n; k++) {
		double x0 = fmin(fmax(terms.x0_x * (double)x[k] + terms.x0_m * (double)m[k], -limit), limit);
		double d = out * x0 + skip * (double)x[k];
		x[k] = (float)(last ? d : qd_noised(next, d, (double)noise[k]));
	}
	return QD_OK;
}

const struct qd_scheduler_kind qd_scheduler_lcm = { .name = "lcm", .noisy = true, .prepare = prepare, .step = step };
