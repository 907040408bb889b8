/*
 * The pool of draws that a student learns from. A draw is a sample of the data at a timestep with its noise, and the teacher's
 * output there. Three sources, by what the data holds and what was asked for:
 *
 *   stored       `sample` and `timestep` as a calibration file has them
 *   noised       latents noised as in training: every noise level alike
 *   trajectory   the states that the teacher itself passes when it samples with a scheduler: what the network will meet when it is
 *                used, and the teacher's outputs come for nothing, since they made the next state
 *
 * The teacher's outputs are kept in float32: the student is to come within 1e-3 of them and better, which float16 cannot tell.
 */
#include "distill/internal.h"
#include "lib/sampler/sampler.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define STREAM_POOL qd_stream(QD_STREAM_POOL, 0)

static enum qd_status allocate_pool(struct qd_pool *pool, const struct qd_batch *batch, int64_t n, size_t out_row)
{
	size_t draws = (size_t)n;

	*pool = (struct qd_pool){
		.n = n, .sample_row = batch->sample.bytes / sizeof(float) / (size_t)batch->n, .out_row = out_row
	};
	pool->index = calloc(draws, sizeof(*pool->index));
	pool->timestep = calloc(draws, sizeof(float));
	pool->sample = calloc(draws * pool->sample_row, sizeof(float));
	pool->teacher = calloc(draws * out_row, sizeof(float));
	if (batch->target.data != NULL)
		pool->target = calloc(draws * out_row, sizeof(float));
	if (pool->index == NULL || pool->timestep == NULL || pool->sample == NULL || pool->teacher == NULL ||
		(batch->target.data != NULL && pool->target == NULL)) {
		qd_pool_release(pool);
		return qd_fail(QD_ENOMEM, "out of memory for %lld draws", (long long)n);
	}
	return QD_OK;
}

void qd_pool_release(struct qd_pool *pool)
{
	free(pool->index);
	free(pool->timestep);
	free(pool->sample);
	free(pool->teacher);
	free(pool->target);
	*pool = (struct qd_pool){ 0 };
}

/* The batch becomes draws [first, first + batch->n) with the teacher's answer to it. */
static enum qd_status add_draws(struct qd_pool *pool, const struct qd_teacher *t, const struct qd_batch *batch, int64_t first)
{
	size_t n = (size_t)batch->n, outs = n * pool->out_row, at = (size_t)first;
	float *answer = pool->teacher + at * pool->out_row;
	enum qd_status st;

	QD_TRY(st, qd_batch_feed(batch, t->runner));
	QD_TRY(st, qd_runner_run(t->runner));
	QD_TRY(st, qd_runner_read(t->runner, "out", outs, answer));
	for (size_t i = 0; i < outs; i++)
		if (!isfinite(answer[i]))
			QD_TRY(st, qd_fail(QD_EINPUT, "the float model's output is not finite at timestep %g",
					   (double)((const float *)batch->timestep.data)[i / pool->out_row]));
	memcpy(pool->index + at, batch->index, n * sizeof(*pool->index));
	memcpy(pool->timestep + at, batch->timestep.data, n * sizeof(float));
	memcpy(pool->sample + at * pool->sample_row, batch->sample.data, n * pool->sample_row * sizeof(float));
	if (pool->target != NULL)
		memcpy(pool->target + at * pool->out_row, batch->target.data, outs * sizeof(float));
	qd_progress("teacher", (uint64_t)(first + batch->n), (uint64_t)pool->n, NULL);
out:
	return st;
}

/* Batches of noised latents or stored samples. */
static enum qd_status make_drawn(
	struct qd_pool *pool, const struct qd_teacher *t, struct qd_batch *batch, struct qd_shuffle *shuffle)
{
	enum qd_status st = QD_OK;

	for (int64_t first = 0; st == QD_OK && first < pool->n; first += batch->n) {
		struct qd_random random;
		qd_random_init(&random, t->seed, STREAM_POOL + (uint64_t)first);
		qd_shuffle_take(shuffle, first, batch->n, batch->index);
		st = qd_batch_fill(batch, t->data, t->noising, &random);
		if (st == QD_OK)
			st = add_draws(pool, t, batch, first);
	}
	return st;
}

/* The objective's target at an arbitrary state x with clean latents x0: its noise is what is left. */
static void target_at(const struct qd_teacher *t, struct qd_batch *batch, double timestep, const float *x)
{
	const struct qd_schedule *schedule = t->noising->schedule;
	double last = (double)schedule->train_steps - 1, at = fmin(fmax(rint(timestep), 0), last);
	struct qd_noise_level level = qd_noise_level_of(schedule->alphas_cumprod[(int64_t)at]);
	float *target = batch->target.data;

	for (size_t i = 0; i < batch->target.bytes / sizeof(float); i++) {
		double clean = batch->clean[i];
		target[i] = (float)qd_target(schedule->prediction, level, clean, qd_noise_in(level, (double)x[i], clean));
	}
}

/* One batch of samples along its way from noise: a batch of draws for each step. */
static enum qd_status make_trajectory(struct qd_pool *pool, const struct qd_teacher *t, struct qd_batch *batch,
	const struct qd_scheduler *scheduler, int64_t first, float *x)
{
	size_t n = batch->target.bytes / sizeof(float), row = n / (size_t)batch->n;
	float *sample = batch->sample.data, *timestep = batch->timestep.data;
	enum qd_status st = qd_dataset_gather(t->data, QD_FIELD_LATENTS, batch->index, batch->n, batch->clean);

	if (st == QD_OK)
		st = qd_batch_fill_extra(batch, t->data);
	for (int i = 0; st == QD_OK && i < scheduler->steps; i++) {
		int64_t at = first + i * batch->n;
		qd_scheduler_scale_input(scheduler, i, n, x, batch->noise);
		for (int64_t b = 0; b < batch->n; b++) {
			memcpy(sample + (size_t)b * pool->sample_row, batch->noise + (size_t)b * row, row * sizeof(float));
			timestep[b] = (float)scheduler->timesteps[i];
		}
		target_at(t, batch, scheduler->timesteps[i], batch->noise);
		st = add_draws(pool, t, batch, at);
		if (st == QD_OK)
			st = qd_scheduler_step(scheduler, i, n, x, pool->teacher + (size_t)at * pool->out_row, NULL);
	}
	return st;
}

static enum qd_status make_trajectories(
	struct qd_pool *pool, const struct qd_teacher *t, struct qd_batch *batch, struct qd_shuffle *shuffle)
{
	struct qd_scheduler scheduler = { 0 };
	size_t n = batch->target.bytes / sizeof(float);
	float *x = malloc(n * sizeof(*x));
	enum qd_status st;

	if (x == NULL)
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory for a batch of %lld samples", (long long)batch->n));
	QD_TRY(st, qd_scheduler_new(&scheduler, t->noising->schedule, t->trajectory, t->trajectory_steps));
	for (int64_t first = 0; first < pool->n; first += batch->n * scheduler.steps) {
		struct qd_random random;
		qd_random_init(&random, t->seed, STREAM_POOL + (uint64_t)first);
		qd_shuffle_take(shuffle, first / scheduler.steps, batch->n, batch->index);
		/* fills in the condition's channels, which every step shares */
		QD_TRY(st, qd_batch_fill(batch, t->data, t->noising, &random));
		for (size_t i = 0; i < n; i++)
			x[i] = (float)(qd_random_normal(&random) * scheduler.init_sigma);
		QD_TRY(st, make_trajectory(pool, t, batch, &scheduler, first, x));
	}
out:
	qd_scheduler_release(&scheduler);
	free(x);
	return st;
}

static void measure_teacher(struct qd_pool *pool)
{
	double sum = 0, squares = 0, n = (double)pool->n * (double)pool->out_row;

	for (size_t i = 0; i < (size_t)pool->n * pool->out_row; i++) {
		sum += (double)pool->teacher[i];
		squares += (double)pool->teacher[i] * (double)pool->teacher[i];
	}
	pool->energy = squares / n;
	pool->variance = fmax(pool->energy - sum / n * (sum / n), 1e-30);
}

enum qd_status qd_pool_make(
	struct qd_pool *pool, const struct qd_teacher *teacher, struct qd_batch *batch, int64_t learn, int64_t all)
{
	/* a group is what must not be torn: a batch, or a batch at every step of its way */
	int64_t group = batch->n * (teacher->trajectory != NULL ? teacher->trajectory_steps : 1);
	int64_t learning = (learn + group - 1) / group, judging = (learning + 6) / 7;
	const struct qd_graph *g = teacher->runner->graph;
	const struct qd_value *out = &g->values[g->outputs[0]];
	struct qd_shuffle shuffle = { 0 };
	enum qd_status st;

	*pool = (struct qd_pool){ 0 };
	if (teacher->trajectory != NULL && batch->target.data == NULL)
		QD_TRY(st, qd_fail(QD_EINPUT, "a trajectory needs tensor 'latents', the data has samples that are noisy already"));
	if (learn == 0) {
		int64_t groups = all > group ? (all + group - 1) / group : 2;
		judging = (groups + 7) / 8;
		learning = groups - judging;
	}
	QD_TRY(st, allocate_pool(pool, batch, (learning + judging) * group, (size_t)(qd_shape_elements(&out->shape) / batch->n)));
	pool->n_train = learning * group;
	QD_TRY(st, qd_shuffle_init(&shuffle, teacher->data->n, teacher->seed));
	QD_TRY(st, teacher->trajectory != NULL ? make_trajectories(pool, teacher, batch, &shuffle)
					       : make_drawn(pool, teacher, batch, &shuffle));
	measure_teacher(pool);
out:
	qd_shuffle_release(&shuffle);
	if (st != QD_OK)
		qd_pool_release(pool);
	return st;
}

enum qd_status qd_pool_take(
	const struct qd_pool *pool, const struct qd_dataset *data, const int64_t *draw, struct qd_batch *batch, float *out)
{
	float *sample = batch->sample.data, *timestep = batch->timestep.data, *target = batch->target.data;

	for (int64_t b = 0; b < batch->n; b++) {
		size_t from = (size_t)draw[b], to = (size_t)b;
		batch->index[b] = pool->index[from];
		timestep[to] = pool->timestep[from];
		memcpy(sample + to * pool->sample_row, pool->sample + from * pool->sample_row, pool->sample_row * sizeof(float));
		memcpy(out + to * pool->out_row, pool->teacher + from * pool->out_row, pool->out_row * sizeof(float));
		if (target != NULL)
			memcpy(target + to * pool->out_row, pool->target + from * pool->out_row, pool->out_row * sizeof(float));
	}
	return qd_batch_fill_extra(batch, data);
}
