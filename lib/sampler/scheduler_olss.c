/*
 * Sampling by a fitted table (see sampler.h), named "olss:FILE":
 *
 *   x' = wx[i] x_T + sum over j <= i of we[i][j] e_j
 *
 * x_T and all outputs of the model so far are kept, in float32. Step 0 begins anew with whatever latents it is given, so that one
 * scheduler serves one batch after another. The sum runs in double, in this order.
 */
#include "lib/sampler/internal.h"

#include <stdlib.h>
#include <string.h>

struct state {
	struct qd_olss table;
	float *start, *outputs; /* [n], [steps,n] */
	size_t n;
};

static void close_file(struct qd_scheduler *s)
{
	struct state *state = s->own;

	if (state == NULL)
		return;
	qd_olss_release(&state->table);
	free(state->start);
	free(state->outputs);
	free(state);
	s->own = NULL;
}

static enum qd_status open_file(struct qd_scheduler *s, const char *path)
{
	struct state *state = calloc(1, sizeof(*state));
	enum qd_status st;

	if (state == NULL)
		return qd_fail(QD_ENOMEM, "out of memory");
	s->own = state;
	st = qd_olss_read(&state->table, path);
	if (st != QD_OK)
		return st;
	if (s->steps != 0 && s->steps != state->table.steps)
		return qd_fail(QD_EINPUT, "%d steps, '%s' was fitted for %d", s->steps, path, state->table.steps);
	if (state->table.timesteps[0] > s->schedule->train_steps - 1)
		return qd_fail(QD_EINPUT, "'%s' begins at timestep %g, the schedule ends at %d", path, state->table.timesteps[0],
			s->schedule->train_steps - 1);
	s->steps = state->table.steps;
	return QD_OK;
}

static enum qd_status prepare(struct qd_scheduler *s)
{
	const struct state *state = s->own;

	memcpy(s->timesteps, state->table.timesteps, (size_t)s->steps * sizeof(*s->timesteps));
	return QD_OK;
}

static enum qd_status begin(struct state *state, size_t n, const float *x)
{
	if (state->n != n) {
		size_t all = 0;
		free(state->start);
		free(state->outputs);
		state->n = 0;
		state->start = NULL;
		state->outputs = NULL;
		if (!qd_mul_overflow(n * sizeof(float), (size_t)state->table.steps, &all)) {
			state->start = malloc(n * sizeof(float));
			state->outputs = malloc(all);
		}
		if (state->start == NULL || state->outputs == NULL)
			return qd_fail(QD_ENOMEM, "out of memory for the outputs of %d steps", state->table.steps);
		state->n = n;
	}
	memcpy(state->start, x, n * sizeof(*x));
	return QD_OK;
}

static enum qd_status step(const struct qd_scheduler *s, int i, size_t n, float *x, const float *m, const float *noise)
{
	struct state *state = s->own;
	const double *we = state->table.we + (size_t)i * (size_t)s->steps;
	enum qd_status st = i == 0 ? begin(state, n, x) : QD_OK;

	(void)noise;
	if (st != QD_OK)
		return st;
	if (n != state->n)
		return qd_fail(QD_EINPUT, "step %d has %zu values, step 0 had %zu", i, n, state->n);
	memcpy(state->outputs + (size_t)i * n, m, n * sizeof(*m));
	for (size_t k = 0; k < n; k++) {
		double sum = state->table.wx[i] * (double)state->start[k];
		for (int j = 0; j <= i; j++)
			sum += we[j] * (double)state->outputs[(size_t)j * n + k];
		x[k] = (float)sum;
	}
	return QD_OK;
}

const struct qd_scheduler_kind qd_scheduler_olss = {
	.name = "olss", .usage = "olss:FILE", .open = open_file, .close = close_file, .prepare = prepare, .step = step
};
