/*
 * The arithmetic of diffusion (its definitions stand in sampler.h). What a network says, solved for x0 and e, with a = abar and
 * b = 1 - abar:
 *
 *   epsilon   x0 = (x - sqrt(b) m) / sqrt(a)       e = m
 *   v         x0 = sqrt(a) x - sqrt(b) m           e = sqrt(b) x + sqrt(a) m
 *   sample    x0 = m                               e = (x - sqrt(a) m) / sqrt(b)
 *
 * and over sigma = sqrt(b / a), with x divided by sqrt(a):
 *
 *   epsilon   x0 = x - sigma m
 *   v         x0 = x / (sigma^2 + 1) - m sigma / sqrt(sigma^2 + 1)
 *   sample    x0 = m
 */
#include "lib/sampler/sampler.h"

#include <math.h>
#include <string.h>

struct qd_noise_level qd_noise_level_of(double abar)
{
	return (struct qd_noise_level){ sqrt(abar), sqrt(1 - abar) };
}

/* ---- to the network ---- */

double qd_noised(struct qd_noise_level level, double x0, double e)
{
	return level.signal * x0 + level.noise * e;
}

double qd_noise_in(struct qd_noise_level level, double x, double x0)
{
	return (x - level.signal * x0) / level.noise;
}

double qd_target(enum qd_prediction prediction, struct qd_noise_level level, double x0, double e)
{
	switch (prediction) {
	case QD_PREDICT_V:
		return level.signal * e - level.noise * x0;
	case QD_PREDICT_SAMPLE:
		return x0;
	case QD_PREDICT_EPSILON:
		break;
	}
	return e;
}

void qd_noised_f32(struct qd_noise_level level, size_t n, const float *x0, const float *e, float *out)
{
	float signal = (float)level.signal, noise = (float)level.noise;

	for (size_t i = 0; i < n; i++)
		out[i] = signal * x0[i] + noise * e[i];
}

void qd_target_f32(
	enum qd_prediction prediction, struct qd_noise_level level, size_t n, const float *x0, const float *e, float *out)
{
	float signal = (float)level.signal, noise = (float)level.noise;

	switch (prediction) {
	case QD_PREDICT_V:
		for (size_t i = 0; i < n; i++)
			out[i] = signal * e[i] - noise * x0[i];
		return;
	case QD_PREDICT_SAMPLE:
		memcpy(out, x0, n * sizeof(*out));
		return;
	case QD_PREDICT_EPSILON:
		break;
	}
	memcpy(out, e, n * sizeof(*out));
}

/* ---- and back ---- */

struct qd_prediction_terms qd_predict(enum qd_prediction prediction, double abar)
{
	struct qd_noise_level level = qd_noise_level_of(abar);
	double a = level.signal, b = level.noise;

	switch (prediction) {
	case QD_PREDICT_V:
		return (struct qd_prediction_terms){ a, -b, b, a };
	case QD_PREDICT_SAMPLE:
		return (struct qd_prediction_terms){ 0, 1, 1 / b, -a / b };
	case QD_PREDICT_EPSILON:
		break;
	}
	return (struct qd_prediction_terms){ 1 / a, -b / a, 0, 1 };
}

struct qd_prediction_terms qd_predict_sigma(enum qd_prediction prediction, double sigma)
{
	double square = sigma * sigma + 1;

	switch (prediction) {
	case QD_PREDICT_V:
		return (struct qd_prediction_terms){ .x0_x = 1 / square, .x0_m = -sigma / sqrt(square) };
	case QD_PREDICT_SAMPLE:
		return (struct qd_prediction_terms){ .x0_m = 1 };
	case QD_PREDICT_EPSILON:
		break;
	}
	return (struct qd_prediction_terms){ .x0_x = 1, .x0_m = -sigma };
}
