/*
 * lib/sampler, sampling: the loop against a plain one, guidance, the condition's place, and noise that depends on seed and sample
 * alone.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "lib/sampler/sampler.h"
#include "tests/unit/scratch.h"

enum { N = 3, CL = 2, CC = 1, H = 2, W = 3, PLANE = H * W, STEPS = 4 };

/* A schedule like SD1.5's, computed here. */
static void make_schedule(struct qd_schedule *s)
{
	double product = 1;
	memset(s, 0, sizeof(*s));
	s->train_steps = 1000;
	s->alphas_cumprod = malloc(1000 * sizeof(double));
	assert_non_null(s->alphas_cumprod);
	for (int i = 0; i < 1000; i++) {
		double root = sqrt(0.00085) + i * (sqrt(0.012) - sqrt(0.00085)) / 999;
		product *= 1 - root * root;
		s->alphas_cumprod[i] = product;
	}
	s->prediction = QD_PREDICT_EPSILON;
	s->steps_offset = 1;
	s->clip_range = 1;
	snprintf(s->spacing, sizeof(s->spacing), "leading");
}

/* A model whose output can be foretold: 0.1 x + 0.01 condition + 1e-5 t, and half of that without the prompt. */
struct fake {
	int calls, conditional;
	bool bad;
};

static enum qd_status fake_model(void *context, const struct qd_denoise_call *call)
{
	struct fake *fake = context;
	fake->calls++;
	fake->conditional += call->conditional;
	for (int i = 0; i < N; i++)
		for (int k = 0; k < CL * PLANE; k++) {
			const float *x = call->sample + i * (CL + CC) * PLANE;
			float y = 0.1f * x[k] + 0.01f * x[CL * PLANE + k % PLANE] + 1e-5f * (float)call->timestep;
			call->out[i * CL * PLANE + k] = call->conditional ? y : 0.5f * y;
		}
	if (fake->bad)
		call->out[7] = NAN;
	return QD_OK;
}

static float condition_at(int sample, int pixel)
{
	return (float)(sample + 1) * 0.5f - (float)pixel * 0.1f;
}

static enum qd_status run(const char *kind, double guidance, struct fake *fake, float *latents)
{
	struct qd_schedule schedule;
	struct qd_scheduler scheduler;
	float condition[N * CC * PLANE];
	make_schedule(&schedule);
	if (qd_scheduler_new(&scheduler, &schedule, kind, STEPS) != QD_OK)
		fail_msg("%s", qd_message());
	for (int i = 0; i < N * PLANE; i++)
		condition[i] = condition_at(i / PLANE, i % PLANE);
	struct qd_sampling sampling = { .scheduler = &scheduler,
		.n = N,
		.latent_channels = CL,
		.condition_channels = CC,
		.height = H,
		.width = W,
		.condition = condition,
		.guidance = guidance,
		.seed = 5 };
	enum qd_status st = qd_sample(&sampling, fake_model, fake, latents);
	qd_scheduler_release(&scheduler);
	free(schedule.alphas_cumprod);
	return st;
}

/* The loop written out for one number: scale by the initial sigma, then steps. Equal to float32 rounding of the same operations. */
static void steps_as_the_plain_loop(void **state)
{
	static const char *const kinds[] = { "ddim", "euler" };
	struct qd_schedule schedule;
	(void)state;
	make_schedule(&schedule);
	for (size_t kind = 0; kind < 2; kind++)
		for (int guided = 0; guided < 2; guided++) {
			float latents[N * CL * PLANE], wanted[N * CL * PLANE];
			struct fake fake = { 0 };
			struct qd_scheduler s;
			double guidance = guided ? 3 : 1;
			qd_sample_noise(5, 0, N, CL * PLANE, latents);
			memcpy(wanted, latents, sizeof(wanted));
			assert_int_equal(qd_scheduler_new(&s, &schedule, kinds[kind], STEPS), QD_OK);
			for (int i = 0; i < N * CL * PLANE; i++) {
				float x = wanted[i] * (float)s.init_sigma;
				for (int t = 0; t < STEPS; t++) {
					float in, c = condition_at(i / (CL * PLANE), i % PLANE);
					qd_scheduler_scale_input(&s, t, 1, &x, &in);
					float y = 0.1f * in + 0.01f * c + 1e-5f * (float)s.timesteps[t];
					float out = guided ? 0.5f * y + (float)guidance * (y - 0.5f * y) : y;
					assert_int_equal(qd_scheduler_step(&s, t, 1, &x, &out, &x), QD_OK);
				}
				wanted[i] = x;
			}
			assert_int_equal(run(kinds[kind], guidance, &fake, latents), QD_OK);
			assert_int_equal(fake.calls, STEPS * (1 + guided));
			assert_int_equal(fake.conditional, STEPS);
			/* a handful of operations per step, each within 6e-8 of values up to 20 */
			for (int i = 0; i < N * CL * PLANE; i++)
				assert_true(fabsf(latents[i] - wanted[i]) <= 1e-5f * (1 + fabsf(wanted[i])));
			qd_scheduler_release(&s);
		}
	free(schedule.alphas_cumprod);
}

static void stops_at_an_output_that_is_not_finite(void **state)
{
	float latents[N * CL * PLANE] = { 0 };
	struct fake fake = { .bad = true };
	(void)state;
	assert_int_equal(run("ddim", 1, &fake, latents), QD_EINPUT);
	assert_string_equal(qd_message(), "step 0: element 7 of the model's output is not finite");
}

/* Sample i is the same whether it is drawn alone or among others; streams differ; the mean and variance of 60,000 are near 0 and 1
 * (5 sigma). */
static void noise_depends_on_seed_and_sample(void **state)
{
	enum { EACH = 20000 };
	float *all = malloc(3 * EACH * sizeof(float)), *one = malloc(EACH * sizeof(float));
	double sum = 0, squares = 0;
	(void)state;
	assert_non_null(all);
	assert_non_null(one);
	qd_sample_noise(9, 0, 3, EACH, all);
	qd_sample_noise(9, 0, 1, EACH, one);
	assert_memory_equal(all, one, EACH * sizeof(float));
	qd_sample_noise(9, 1, 1, EACH, one);
	assert_memory_not_equal(all, one, EACH * sizeof(float));
	qd_sample_noise(10, 0, 1, EACH, one);
	assert_memory_not_equal(all, one, EACH * sizeof(float));
	for (int i = 0; i < 3 * EACH; i++) {
		sum += all[i];
		squares += (double)all[i] * all[i];
	}
	assert_true(fabs(sum / (3 * EACH)) < 5 / sqrt(3 * EACH));
	assert_true(fabs(squares / (3 * EACH) - 1) < 5 * sqrt(2.0 / (3 * EACH)));
	free(all);
	free(one);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(steps_as_the_plain_loop),
		cmocka_unit_test(stops_at_an_output_that_is_not_finite),
		cmocka_unit_test(noise_depends_on_seed_and_sample),
	};
	return cmocka_run_group_tests_name("sample", tests, NULL, NULL);
}
