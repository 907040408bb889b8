/*
 * Fitting OLSS to recorded runs (Duan et al. 2023, section 4). x_0 ... x_T are the latents of a run of T steps (x_0 the noise), e_i
 * the model's output at step i. All runs together are one long vector per index. Every fit is ordinary least squares without a
 * constant, its error the mean square of what is left per element:
 *
 *   path(E)  P = {0}; up to k times: from cur = last(P) the furthest index m with error(x_cur, e_j for j in P -> x_m) <= E, found
 *            by bisection over m (cur + 1 is taken in any case); done when m = T, else m joins P. Nothing when k times do not do.
 *   E        by bisection the smallest that has a path
 *   result   for the i-th of P: coefficients of (x_0, e_j for j in P up to i) -> x at the next of P, T behind the last
 *
 * The search goes on from x_cur, the result from x_0, which is what a sampler keeps.
 *
 * With G the inner products of all vectors, columns S and goal g: the normal equations G_SS w = G_Sg, and the error (G_gg - w.G_Sg)
 * / elements. Columns are brought to length 1 first; outputs of neighbouring steps are nearly parallel, so directions that rounding
 * has drowned (eigenvalues of G_SS below its resolution) are left out, which gives the smallest of all equally good w.
 */
#include "lib/sampler/sampler.h"
#include "lib/math/math.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

void qd_olss_gram_release(struct qd_olss_gram *gram)
{
	free(gram->products);
	*gram = (struct qd_olss_gram){ 0 };
}

enum qd_status qd_olss_gram_init(struct qd_olss_gram *gram, int steps)
{
	size_t rows = 2 * (size_t)steps + 1;

	*gram = (struct qd_olss_gram){ .steps = steps, .products = calloc(rows * rows, sizeof(*gram->products)) };
	return gram->products != NULL ? QD_OK : qd_fail(QD_ENOMEM, "out of memory for %d recorded steps", steps);
}

enum qd_status qd_olss_gram_add(struct qd_olss_gram *gram, size_t n, const float *recorded)
{
	size_t rows = 2 * (size_t)gram->steps + 1;

	for (size_t i = 0; i < rows * n; i++)
		if (!isfinite(recorded[i]))
			return qd_fail(QD_EINPUT, "a recorded run is not finite at %s %zu",
				i / n <= (size_t)gram->steps ? "latent" : "output",
				i / n <= (size_t)gram->steps ? i / n : i / n - (size_t)gram->steps - 1);
	gram->elements += n;
	return qd_gram_add(recorded, rows, n, gram->products);
}

/* ---- least squares ---- */

/* The fits of one search: room for k + 1 columns. */
struct search {
	const struct qd_olss_gram *gram;
	int most;                /* k: steps of a path */
	int *columns;            /* [k+1] of the present fit */
	double *a, *b, *w;       /* [(k+1)^2] becomes eigenvectors, [k+1], [k+1] coefficients */
	double *length, *values; /* [k+1] of the columns; eigenvalues */
	int *path, *best;        /* [k+1] */
	int n_path, n_best;
};

static void search_release(struct search *s)
{
	free(s->columns);
	free(s->path);
	free(s->best);
	free(s->a);
	free(s->b);
	free(s->w);
	free(s->length);
	free(s->values);
}

static enum qd_status search_init(struct search *s, const struct qd_olss_gram *gram, int most)
{
	size_t room = (size_t)most + 1;

	*s = (struct search){ .gram = gram, .most = most };
	s->columns = calloc(room, sizeof(int));
	s->path = calloc(room, sizeof(int));
	s->best = calloc(room, sizeof(int));
	s->a = calloc(room * room, sizeof(double));
	s->b = calloc(room, sizeof(double));
	s->w = calloc(room, sizeof(double));
	s->length = calloc(room, sizeof(double));
	s->values = calloc(room, sizeof(double));
	if (!s->columns || !s->path || !s->best || !s->a || !s->b || !s->w || !s->length || !s->values)
		return qd_fail(QD_ENOMEM, "out of memory for a search of %d steps", most);
	return QD_OK;
}

static double product(const struct search *s, int i, int j)
{
	return s->gram->products[(size_t)i * (2 * (size_t)s->gram->steps + 1) + (size_t)j];
}

/* The normal equations of s->columns [n] for `goal`, in columns of length 1. */
static void set_up(struct search *s, int n, int goal)
{
	for (int i = 0; i < n; i++) {
		double square = product(s, s->columns[i], s->columns[i]);
		s->length[i] = square > 0 ? sqrt(square) : 1;
	}
	for (int i = 0; i < n; i++) {
		s->b[i] = product(s, s->columns[i], goal) / s->length[i];
		for (int j = 0; j < n; j++)
			s->a[(size_t)i * (size_t)n + (size_t)j] =
				product(s, s->columns[i], s->columns[j]) / (s->length[i] * s->length[j]);
	}
}

/* Fits row `goal` by s->columns [n]: coefficients to s->w, the error to `*error`. */
static enum qd_status fit(struct search *s, int n, int goal, double *error)
{
	double explained = 0, least;
	enum qd_status st;

	set_up(s, n, goal);
	QD_TRY(st, qd_eigen_symmetric(s->a, (size_t)n, s->values));
	least = n * DBL_EPSILON * s->values[n - 1];
	memset(s->w, 0, (size_t)n * sizeof(*s->w));
	for (int k = 0; k < n; k++) {
		const double *v = s->a + (size_t)k * (size_t)n;
		double along = 0;
		if (s->values[k] <= least)
			continue;
		for (int i = 0; i < n; i++)
			along += v[i] * s->b[i];
		explained += along * along / s->values[k];
		for (int i = 0; i < n; i++)
			s->w[i] += v[i] * along / s->values[k];
	}
	for (int i = 0; i < n; i++)
		s->w[i] /= s->length[i];
	*error = fmax(product(s, goal, goal) - explained, 0) / (double)s->gram->elements;
out:
	return st;
}

/* The columns x_from and the outputs at the first n of `path`. */
static int choose_columns(struct search *s, int from, const int *path, int n)
{
	s->columns[0] = from;
	for (int i = 0; i < n; i++)
		s->columns[i + 1] = s->gram->steps + 1 + path[i];
	return n + 1;
}

/* ---- the search ---- */

/* The furthest latent that the path so far reaches within `allowed`. */
static enum qd_status furthest(struct search *s, double allowed, int *out)
{
	int current = s->path[s->n_path - 1], low = current + 1, high = s->gram->steps;
	int n = choose_columns(s, current, s->path, s->n_path);
	enum qd_status st = QD_OK;

	while (low < high) {
		int middle = (low + high + 1) / 2;
		double error = 0;
		QD_TRY(st, fit(s, n, middle, &error));
		if (error <= allowed)
			low = middle;
		else
			high = middle - 1;
	}
	*out = low;
out:
	return st;
}

/* s->path within `allowed`; `*found` says whether it reaches the end. */
static enum qd_status find_path(struct search *s, double allowed, bool *found)
{
	enum qd_status st = QD_OK;
	int next = 0;

	s->path[0] = 0;
	s->n_path = 1;
	*found = false;
	for (int i = 0; i < s->most && !*found; i++) {
		QD_TRY(st, furthest(s, allowed, &next));
		*found = next == s->gram->steps;
		if (!*found)
			s->path[s->n_path++] = next;
	}
out:
	return st;
}

/* The path of the smallest error that has one, to s->best. */
static enum qd_status find_best(struct search *s)
{
	double low = 0, high = 10;
	enum qd_status st = QD_OK;
	bool found = false;

	/* Latents of unusual size need more room than the published search has; the last doubling always does. */
	for (; !found; high *= 2)
		QD_TRY(st, find_path(s, high, &found));
	high /= 2;
	for (int i = 0; i <= 30; i++) {
		double middle = i < 30 ? (low + high) / 2 : high;
		QD_TRY(st, find_path(s, middle, &found));
		if (found)
			high = middle;
		else
			low = middle;
	}
	memcpy(s->best, s->path, (size_t)s->n_path * sizeof(*s->best));
	s->n_best = s->n_path;
out:
	return st;
}

/* ---- the result ---- */

static enum qd_status fill_fitted(struct qd_olss *olss, struct search *s, const double *timesteps)
{
	size_t k = (size_t)s->n_best;
	enum qd_status st = QD_OK;

	olss->steps = s->n_best;
	olss->reference_steps = s->gram->steps;
	olss->timesteps = calloc(k, sizeof(double));
	olss->wx = calloc(k, sizeof(double));
	olss->we = calloc(k * k, sizeof(double));
	if (olss->timesteps == NULL || olss->wx == NULL || olss->we == NULL)
		return qd_fail(QD_ENOMEM, "out of memory for %zu steps", k);
	for (size_t i = 0; i < k; i++) {
		int n = choose_columns(s, 0, s->best, (int)i + 1), goal = i + 1 < k ? s->best[i + 1] : s->gram->steps;
		QD_TRY(st, fit(s, n, goal, &olss->error));
		olss->timesteps[i] = timesteps[s->best[i]];
		olss->wx[i] = s->w[0];
		memcpy(olss->we + i * k, s->w + 1, (i + 1) * sizeof(double));
	}
out:
	return st;
}

enum qd_status qd_olss_fit(struct qd_olss *olss, const struct qd_olss_gram *gram, const double *timesteps, int steps)
{
	struct search s = { 0 };
	enum qd_status st;

	*olss = (struct qd_olss){ 0 };
	if (steps < 1 || steps > gram->steps)
		return qd_fail(QD_EINPUT, "%d steps of a recorded run of %d, needs 1 to %d", steps, gram->steps, gram->steps);
	if (gram->elements == 0)
		return qd_fail(QD_EINPUT, "no run was recorded");
	QD_TRY(st, search_init(&s, gram, steps));
	QD_TRY(st, find_best(&s));
	QD_TRY(st, fill_fitted(olss, &s, timesteps));
out:
	search_release(&s);
	if (st != QD_OK)
		qd_olss_release(olss);
	return st;
}
