/*
 * Which samples are made, of R rows, A adapters and S steps of a trajectory, so that n samples say something of all of them whatever
 * n is:
 *
 *   strata        the k-th of m among N things is one of its own part of them, from floor(k N / m) to before floor((k + 1) N / m)
 *   rows          all in turn where n >= R; else every prompt's first, every prompt's second and so on, of the last round strata
 *   trajectories  as many as reach every row and every adapter, max(R, A), but no more than samples, and no fewer than n / S, which
 *                 is what n states take; trajectory j starts from row j mod R with adapter (j + j div lcm(R, A)) mod A, so that R A
 *                 trajectories pair every row with every adapter
 *   steps         a trajectory of m samples gives one from each of m strata, floor((k + v) S / m). v is one number of the trajectory,
 *                 and falls into a stratum of [0, 1) of its own among the trajectories of its adapter and length: together they
 *                 leave no stretch of the schedule out
 *   stored        n of R rows that are noisy already: one from each stratum of their order in time, of a prompt that was taken least
 */
#include "lib/data/internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A random order of 0 ... n - 1. */
static enum qd_status permutation(int64_t n, struct qd_random *random, int64_t **out)
{
	*out = malloc((size_t)(n > 0 ? n : 1) * sizeof(**out));
	if (*out == NULL)
		return qd_fail(QD_ENOMEM, "out of memory for %lld samples", (long long)n);
	for (int64_t i = 0; i < n; i++) {
		int64_t j = (int64_t)qd_random_below(random, (uint64_t)i + 1);
		(*out)[i] = (*out)[j];
		(*out)[j] = i;
	}
	return QD_OK;
}

/* Any of stratum k of m <= n, among n things. */
static int64_t pick(int64_t k, int64_t n, int64_t m, struct qd_random *random)
{
	int64_t first = k * n / m, end = (k + 1) * n / m;
	return first + (int64_t)qd_random_below(random, (uint64_t)(end - first));
}

/* ---- rows ---- */

struct ranked {
	double key;
	int64_t row;
};

static int by_key(const void *a, const void *b)
{
	const struct ranked *x = a, *y = b;

	if (x->key != y->key)
		return x->key < y->key ? -1 : 1;
	return x->row < y->row ? -1 : x->row > y->row;
}

/* Which row of its prompt a row is, in a random order of them: key[i] for row i. */
static enum qd_status rank_rows(const struct qd_prepare_spread_rows *rows, struct qd_random *random, struct ranked *order)
{
	int64_t *next = calloc((size_t)rows->n, sizeof(*next)), *shuffled = NULL;
	enum qd_status st = QD_OK;

	if (next == NULL)
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory for %lld rows", (long long)rows->n));
	QD_TRY(st, permutation(rows->n, random, &shuffled));
	for (int64_t i = 0; i < rows->n; i++)
		order[i] = (struct ranked){ (double)next[rows->prompt[shuffled[i]]]++, shuffled[i] };
out:
	free(next);
	free(shuffled);
	return st;
}

/* Rows for things 0 ... m - 1: all of them in turn; or every prompt's first, every prompt's second, and of the last round strata. */
static enum qd_status spread_rows(const struct qd_prepare_spread_rows *rows, int64_t m, uint64_t seed, int64_t *out)
{
	struct qd_random random;
	struct ranked *order = NULL;
	int64_t taken = 0;
	enum qd_status st = QD_OK;

	for (int64_t i = 0; i < m; i++)
		out[i] = i % rows->n;
	if (m >= rows->n)
		return QD_OK;
	order = malloc((size_t)rows->n * sizeof(*order));
	if (order == NULL)
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory for %lld rows", (long long)rows->n));
	qd_random_init(&random, seed, qd_stream(QD_STREAM_ROWS, 0));
	QD_TRY(st, rank_rows(rows, &random, order));
	qsort(order, (size_t)rows->n, sizeof(*order), by_key);
	for (int64_t first = 0, end; taken < m; first = end) {
		int64_t wanted = m - taken;
		for (end = first; end < rows->n && order[end].key <= order[first].key;)
			end++;
		if (wanted > end - first)
			wanted = end - first;
		for (int64_t k = 0; k < wanted; k++)
			out[taken++] = order[first + pick(k, end - first, wanted, &random)].row;
	}
out:
	free(order);
	return st;
}

/* ---- the three kinds ---- */

static enum qd_status begin(struct qd_prepare_spread *s, int64_t n)
{
	*s = (struct qd_prepare_spread){ .n = n, .row = calloc((size_t)n, sizeof(*s->row)) };
	return s->row != NULL ? QD_OK : qd_fail(QD_ENOMEM, "out of memory for %lld samples", (long long)n);
}

enum qd_status qd_prepare_spread_noised(
	struct qd_prepare_spread *s, const struct qd_prepare_spread_rows *rows, int64_t n, uint64_t seed)
{
	struct qd_random random;
	enum qd_status st;

	QD_TRY(st, begin(s, n));
	QD_TRY(st, spread_rows(rows, n, seed, s->row));
	qd_random_init(&random, seed, qd_stream(QD_STREAM_ORDER, 0));
	st = permutation(n, &random, &s->stratum);
out:
	return st;
}

enum qd_status qd_prepare_spread_stored(
	struct qd_prepare_spread *s, const struct qd_prepare_spread_rows *rows, const double *timestep, int64_t n, uint64_t seed)
{
	struct ranked *order = malloc((size_t)rows->n * sizeof(*order));
	int64_t *taken = calloc((size_t)rows->n, sizeof(*taken));
	struct qd_random random;
	enum qd_status st;

	QD_TRY(st, begin(s, n));
	if (order == NULL || taken == NULL)
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory for %lld rows", (long long)rows->n));
	for (int64_t i = 0; i < rows->n; i++)
		order[i] = (struct ranked){ timestep[i], i };
	if (n < rows->n)
		qsort(order, (size_t)rows->n, sizeof(*order), by_key);
	qd_random_init(&random, seed, qd_stream(QD_STREAM_ROWS, 0));
	for (int64_t i = 0; i < n; i++) {
		int64_t first = i * rows->n / n, end = (i + 1) * rows->n / n, best = pick(i, rows->n, n, &random),
			from = best - first;
		for (int64_t k = 0; k < end - first; k++) {
			int64_t at = first + (from + k) % (end - first);
			if (taken[rows->prompt[order[at].row]] < taken[rows->prompt[order[best].row]])
				best = at;
		}
		s->row[i] = order[best].row;
		taken[rows->prompt[s->row[i]]]++;
	}
out:
	free(order);
	free(taken);
	return st;
}

static int64_t divisor(int64_t a, int64_t b)
{
	while (b != 0) {
		int64_t rest = a % b;
		a = b;
		b = rest;
	}
	return a;
}

/* The steps of the trajectories of one adapter and length. */
static enum qd_status spread_steps(struct qd_prepare_spread *s, size_t adapter, int64_t length, int steps, uint64_t seed)
{
	struct qd_random random;
	int64_t *order = NULL, n = 0, j = 0;
	enum qd_status st;

	for (int64_t i = 0; i < s->n_trajectories; i++)
		n += s->trajectories[i].adapter == adapter && s->trajectories[i].n == length;
	qd_random_init(&random, seed, qd_stream(QD_STREAM_STATES, (uint64_t)adapter + ((uint64_t)length << 24)));
	QD_TRY(st, permutation(n, &random, &order));
	for (int64_t i = 0; i < s->n_trajectories; i++) {
		const struct qd_prepare_trajectory *t = &s->trajectories[i];
		double v;
		if (t->adapter != adapter || t->n != length)
			continue;
		v = ((double)order[j++] + qd_random_uniform(&random)) / (double)n;
		for (int64_t k = 0; k < t->n; k++)
			s->step[t->first + k] = (int)fmin(floor(((double)k + v) * steps / (double)t->n), steps - 1);
	}
out:
	free(order);
	return st;
}

enum qd_status qd_prepare_spread_trajectories(struct qd_prepare_spread *s, const struct qd_prepare_spread_rows *rows,
	size_t n_adapters, int steps, int64_t n, uint64_t seed)
{
	int64_t adapters = n_adapters > 0 ? (int64_t)n_adapters : 1, things = rows->n > adapters ? rows->n : adapters,
		trajectories = n < things ? n : things, needed = (n + steps - 1) / steps, first = 0, *start = NULL;
	int64_t turn = rows->n / divisor(rows->n, adapters) * adapters;
	enum qd_status st;

	QD_TRY(st, begin(s, n));
	s->n_trajectories = trajectories > needed ? trajectories : needed;
	s->step = calloc((size_t)n, sizeof(*s->step));
	s->trajectories = calloc((size_t)s->n_trajectories, sizeof(*s->trajectories));
	start = calloc((size_t)s->n_trajectories, sizeof(*start));
	if (s->step == NULL || s->trajectories == NULL || start == NULL)
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory for %lld samples", (long long)n));
	QD_TRY(st, spread_rows(rows, s->n_trajectories, seed, start));
	for (int64_t j = 0; j < s->n_trajectories; j++) {
		struct qd_prepare_trajectory *t = &s->trajectories[j];
		*t = (struct qd_prepare_trajectory){ .row = start[j],
			.adapter = (size_t)((j + j / turn) % adapters),
			.first = first,
			.n = n / s->n_trajectories + (j < n % s->n_trajectories) };
		for (int64_t k = 0; k < t->n; k++)
			s->row[first++] = t->row;
	}
	for (size_t a = 0; a < (size_t)adapters; a++)
		for (int64_t length = n / s->n_trajectories, more = 0; more < 2; more++)
			QD_TRY(st, spread_steps(s, a, length + more, steps, seed));
out:
	free(start);
	return st;
}

void qd_prepare_spread_release(struct qd_prepare_spread *s)
{
	free(s->row);
	free(s->stratum);
	free(s->step);
	free(s->trajectories);
	*s = (struct qd_prepare_spread){ 0 };
}
