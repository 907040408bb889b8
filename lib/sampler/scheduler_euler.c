/*
 * Euler's method over sigma (Karras et al. 2022, algorithm 1 without churn), sigma_t = sqrt((1 - abar_t) / abar_t):
 *
 *   model input  x / sqrt(sigma^2 + 1)
 *   x0           epsilon: x - sigma m;   v: x / (sigma^2 + 1) - m sigma / sqrt(sigma^2 + 1);   sample: m
 *   x'           x + (x - x0) / sigma * (sigma' - sigma)
 *
 * sigma at fractional timesteps is interpolated linearly; the last sigma' is 0, or the table's smallest. Noise starts at the
 * largest sigma for linspace and trailing, at sqrt(largest^2 + 1) for leading. Karras' spacing is one of sigmas, whose timesteps
 * are found by interpolating ln sigma over the table:
 *
 *   sigma_i = (max^(1/7) + i/(n-1) (min^(1/7) - max^(1/7)))^7
 */
#include "lib/sampler/internal.h"

#include <math.h>
#include <string.h>

static double table_sigma(const struct qd_schedule *schedule, int t)
{
	double a = schedule->alphas_cumprod[t];
	return sqrt((1 - a) / a);
}

static double sigma_at(const struct qd_schedule *schedule, double t)
{
	int low = (int)floor(t), high = low + 1 < schedule->train_steps ? low + 1 : low;
	double weight = t - low;

	if (weight == 0)
		return table_sigma(schedule, low);
	return (1 - weight) * table_sigma(schedule, low) + weight * table_sigma(schedule, high);
}

/* The fractional timestep of a sigma; beyond the table's ends its ends. */
static double timestep_of(const struct qd_schedule *schedule, double sigma)
{
	int low = 0;
	double from, to, weight;

	while (low + 2 < schedule->train_steps && table_sigma(schedule, low + 1) <= sigma)
		low++;
	if (low + 1 >= schedule->train_steps)
		return 0;
	from = log(table_sigma(schedule, low));
	to = log(table_sigma(schedule, low + 1));
	weight = (log(sigma) - from) / (to - from);
	return low + fmin(fmax(weight, 0), 1);
}

static void respace_karras(struct qd_scheduler *s)
{
	const struct qd_schedule *schedule = s->schedule;
	double first = schedule->sigma_max > 0 ? schedule->sigma_max : s->sigmas[0];
	double last = schedule->sigma_min > 0 ? schedule->sigma_min : s->sigmas[s->steps - 1];
	double root_first = pow(first, 1.0 / 7), root_last = pow(last, 1.0 / 7);

	for (int i = 0; i < s->steps; i++) {
		double ramp = s->steps > 1 ? (double)i / (s->steps - 1) : 0;
		s->sigmas[i] = pow(root_first + ramp * (root_last - root_first), 7);
		s->timesteps[i] = (double)(float)timestep_of(schedule, s->sigmas[i]);
	}
}

static enum qd_status prepare(struct qd_scheduler *s)
{
	const char *spacing = s->schedule->spacing[0] != '\0' ? s->schedule->spacing : "linspace";
	double largest = 0;
	enum qd_status st;

	QD_TRY(st, qd_spaced_timesteps(s, spacing, false));
	for (int i = 0; i < s->steps; i++)
		s->sigmas[i] = sigma_at(s->schedule, s->timesteps[i]);
	if (s->schedule->karras)
		respace_karras(s);
	s->sigmas[s->steps] = s->schedule->final_sigma_min ? table_sigma(s->schedule, 0) : 0;
	for (int i = 0; i < s->steps; i++)
		largest = fmax(largest, s->sigmas[i]);
	s->init_sigma = strcmp(spacing, "leading") == 0 ? sqrt(largest * largest + 1) : largest;
out:
	return st;
}

static double input_scale(const struct qd_scheduler *s, int i)
{
	return sqrt(s->sigmas[i] * s->sigmas[i] + 1);
}

static enum qd_status step(const struct qd_scheduler *s, int i, size_t n, float *x, const float *m, const float *noise)
{
	double sigma = s->sigmas[i], move = (s->sigmas[i + 1] - sigma) / sigma;
	struct qd_prediction_terms terms = qd_predict_sigma(s->schedule->prediction, sigma);

	(void)noise;
	for (size_t k = 0; k < n; k++) {
		double x0 = terms.x0_x * (double)x[k] + terms.x0_m * (double)m[k];
		x[k] = (float)((double)x[k] + ((double)x[k] - x0) * move);
	}
	return QD_OK;
}

const struct qd_scheduler_kind qd_scheduler_euler = {
	.name = "euler", .prepare = prepare, .input_scale = input_scale, .step = step
};
