/*
 * Makes a fitted sampler (lib/sampler/sampler.h): the reference scheduler's runs are recorded a batch at a time, and only their
 * inner products are kept. Then both are asked for as few steps, and their results compared with the reference's.
 */
#include "export/runtime/session.h"
#include "lib/math/math.h"

#include <stdlib.h>
#include <string.h>

struct recording {
	int steps;
	size_t n;    /* elements of the batch's latents */
	float *rows; /* [2 steps + 1, n] as qd_olss_gram_add takes them */
};

static void note_step(void *context, int step, const float *latents, const float *out)
{
	const struct recording *r = context;

	memcpy(r->rows + (size_t)step * r->n, latents, r->n * sizeof(float));
	memcpy(r->rows + (size_t)(r->steps + 1 + step) * r->n, out, r->n * sizeof(float));
}

struct fitting {
	const struct qd_fit_sampler_options *options;
	struct qd_session session;
	struct qd_schedule schedule;
	struct qd_tensor latents; /* [N,Cl,H,W]: the reference's result */
	struct qd_olss_gram gram;
	struct qd_olss olss;
};

static void fitting_release(struct fitting *f)
{
	qd_olss_release(&f->olss);
	qd_olss_gram_release(&f->gram);
	qd_tensor_release(&f->latents);
	qd_schedule_release(&f->schedule);
	qd_session_release(&f->session);
}

/* Samples `latents` (all of the session's noise) a batch at a time; what every step saw goes to the inner products. */
static enum qd_status record_runs(struct fitting *f, const struct qd_scheduler *scheduler)
{
	struct qd_session *s = &f->session;
	size_t each = f->latents.bytes / sizeof(float) / (size_t)s->n, rows = 2 * (size_t)scheduler->steps + 1, room;
	struct recording r = { .steps = scheduler->steps };
	float *latents = f->latents.data;
	enum qd_status st = QD_OK;

	if (qd_mul_overflow(rows * (size_t)s->sizes.batch, each * sizeof(float), &room) || (r.rows = malloc(room)) == NULL)
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory for %d recorded steps of %lld samples", scheduler->steps,
				   (long long)s->sizes.batch));
	for (s->first = 0; s->first < s->n; s->first += s->count) {
		struct qd_sampling sampling;
		float *x = latents + (size_t)s->first * each;
		s->count = s->n - s->first < s->sizes.batch ? s->n - s->first : s->sizes.batch;
		r.n = (size_t)s->count * each;
		sampling = qd_session_sampling(s, scheduler);
		sampling.observe = note_step;
		sampling.observe_context = &r;
		QD_TRY(st, qd_sample(&sampling, qd_session_denoise, s, x));
		memcpy(r.rows + (size_t)r.steps * r.n, x, r.n * sizeof(float));
		QD_TRY(st, qd_olss_gram_add(&f->gram, r.n, r.rows));
	}
	s->first = 0;
	s->count = s->n;
out:
	free(r.rows);
	return st;
}

static enum qd_status fit_recorded(struct fitting *f)
{
	const struct qd_sampling_options *o = &f->options->reference;
	const char *adapter = o->engine.adapter;
	struct qd_scheduler scheduler = { 0 };
	enum qd_status st;

	QD_TRY(st, qd_scheduler_new(&scheduler, &f->schedule, o->scheduler, o->steps));
	QD_TRY(st, qd_olss_gram_init(&f->gram, o->steps));
	QD_TRY(st, record_runs(f, &scheduler));
	QD_TRY(st, qd_olss_fit(&f->olss, &f->gram, scheduler.timesteps, f->options->steps));
	f->olss.guidance = o->guidance;
	QD_TRY(st, qd_runtime_base_hash(&f->session.runtime, f->olss.base_hash));
	f->olss.notes = strdup(adapter != NULL ? adapter : "");
	if (f->olss.notes == NULL)
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory"));
	st = qd_olss_write(&f->olss, f->options->output, f->options->force);
out:
	qd_scheduler_release(&scheduler);
	return st;
}

/* Mean squared difference from the reference's result of as many steps of another scheduler. */
static enum qd_status measure_sampler(struct fitting *f, const char *kind, double *error)
{
	struct qd_scheduler scheduler = { 0 };
	struct qd_tensor latents = { 0 };
	struct qd_sampling sampling;
	enum qd_status st;

	QD_TRY(st, qd_session_noise(&f->session, &latents));
	QD_TRY(st, qd_scheduler_new(&scheduler, &f->schedule, kind, f->olss.steps));
	sampling = qd_session_sampling(&f->session, &scheduler);
	QD_TRY(st, qd_sample(&sampling, qd_session_denoise, &f->session, latents.data));
	*error = qd_mse(f->latents.data, latents.data, latents.bytes / sizeof(float));
out:
	qd_scheduler_release(&scheduler);
	qd_tensor_release(&latents);
	return st;
}

static double mean_square(const struct qd_tensor *t)
{
	const float *x = t->data;
	double sum = 0;

	for (size_t i = 0; i < t->bytes / sizeof(float); i++)
		sum += (double)x[i] * (double)x[i];
	return sum / (double)(t->bytes / sizeof(float));
}

enum qd_status qd_fit_sampler(const struct qd_fit_sampler_options *options, struct qd_fit_sampler_result *result)
{
	struct fitting f = { .options = options };
	struct qd_output probe = { 0 };
	char *kind = NULL;
	enum qd_status st;

	*result = (struct qd_fit_sampler_result){ 0 };
	/* an output that cannot be written is found out before the work */
	QD_TRY(st, qd_output_open(&probe, options->output, options->force));
	qd_output_release(&probe);
	if (options->steps >= options->reference.steps)
		QD_TRY(st, qd_fail(QD_EINPUT, "%d steps are to replace %d: needs fewer", options->steps, options->reference.steps));
	QD_TRY(st, qd_session_open(&f.session, &options->reference));
	QD_TRY(st, qd_runtime_schedule(&f.session.runtime, &f.schedule));
	QD_TRY(st, qd_session_spread_condition(&f.session));
	QD_TRY(st, qd_session_noise(&f.session, &f.latents));
	QD_TRY(st, fit_recorded(&f));
	if (asprintf(&kind, "olss:%s", options->output) < 0)
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory"));
	QD_TRY(st, measure_sampler(&f, kind, &result->error));
	QD_TRY(st, measure_sampler(&f, options->reference.scheduler, &result->plain));
	result->energy = mean_square(&f.latents);
	result->steps = f.olss.steps;
	result->samples = f.session.n;
out:
	free(kind);
	qd_output_release(&probe);
	fitting_release(&f);
	return st;
}
