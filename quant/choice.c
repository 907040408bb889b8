/*
 * What follows from outputs and scores without running anything: the divergence of the sensitivity score, and the choice of the
 * anchor.
 *
 * The adapter with the highest score is the anchor, unless no other adapter's score differs from it significantly. One that changes
 * nothing (strength 0, all zeros) has no score, takes no part in this and is never the anchor: its encodings fit nothing. All are
 * scored on the same samples, so the test is Student's paired t over samples, two-sided; a single sample cannot tell adapters
 * apart.
 */
#include "lib/math/math.h"
#include "quant/internal.h"

#include <math.h>
#include <string.h>

static double mean_squared_error(const float *y, const float *z, size_t n, double deviation)
{
	(void)deviation;
	return qd_mse(y, z, n);
}

static double cosine_distance(const float *y, const float *z, size_t n, double deviation)
{
	(void)deviation;
	return 1 - qd_cosine(y, z, n);
}

double qd_divergence(enum qd_divergence kind, size_t n, const float *y, const float *z)
{
#define ROW(id, name, distance) [QD_##id] = distance,
	static double (*const distances[])(
		const float *y, const float *z, size_t n, double deviation) = { QD_DIVERGENCE_LIST(ROW) };
#undef ROW
	double deviation = qd_population_std(y, n);

	/* A constant output has no scale of its own. */
	return distances[kind](y, z, n, deviation != 0 ? deviation : 1);
}

/* n_adapters where all change nothing. */
static size_t highest(const struct qd_profile *profile)
{
	size_t best = profile->n_adapters;

	for (size_t i = 0; i < profile->n_adapters; i++)
		if (!profile->adapters[i].idle &&
			(best == profile->n_adapters || profile->adapters[i].qss > profile->adapters[best].qss))
			best = i;
	return best;
}

/* The smallest p over the adapters other than `best`; 1 where there is nothing to compare. */
static enum qd_status smallest_p(const struct qd_profile *profile, size_t best, double *smallest)
{
	const struct qd_adapter_score *b = &profile->adapters[best];

	*smallest = 1;
	for (size_t i = 0; i < profile->n_adapters && b->n_samples > 1; i++) {
		double p;
		enum qd_status st;

		if (i == best || profile->adapters[i].idle)
			continue;
		st = qd_paired_t_test(b->per_sample, profile->adapters[i].per_sample, b->n_samples, NULL, &p);
		if (st != QD_OK)
			return st;
		*smallest = fmin(*smallest, p);
	}
	return QD_OK;
}

enum qd_status qd_anchor_asked_for(const struct qd_profile *profile, size_t *index)
{
	for (size_t i = 0; i < profile->n_adapters; i++)
		if (strcmp(profile->adapters[i].name, profile->options.anchor) == 0) {
			*index = i;
			if (profile->adapters[i].idle)
				return qd_fail(QD_EINPUT, "anchor '%s' changes nothing: its encodings fit no other adapter",
					profile->options.anchor);
			return QD_OK;
		}
	return qd_fail(QD_EINPUT, "anchor '%s' is none of the %zu adapters, '%s' is the first", profile->options.anchor,
		profile->n_adapters, profile->adapters[0].name);
}

enum qd_status qd_choose(struct qd_profile *profile, size_t *anchor)
{
	const struct qd_quant_options *o = &profile->options;
	struct qd_arena *arena = &profile->arena;
	size_t best = highest(profile), busy = 0;
	double p;
	enum qd_status st;

	if (best == profile->n_adapters)
		return qd_fail(QD_EINPUT, "no adapter changes anything: there is nothing to choose encodings by");
	st = smallest_p(profile, best, &p);
	if (st != QD_OK)
		return st;
	for (size_t i = 0; i < profile->n_adapters; i++)
		busy += !profile->adapters[i].idle;
	*anchor = best;
	if (o->anchor != NULL) {
		st = qd_anchor_asked_for(profile, anchor);
		profile->reason = "asked for";
	} else if (o->method == QD_METHOD_ANCHOR) {
		profile->reason = "highest QSS";
	} else if (o->method == QD_METHOD_UNIFIED) {
		*anchor = profile->n_adapters;
		profile->reason = "asked for";
	} else if (busy == 1) {
		profile->reason = profile->n_adapters == 1 ? "the only adapter" : "the only adapter that changes anything";
	} else if (p < o->equal_level) {
		profile->reason = qd_arena_strf(arena, "highest QSS, smallest paired p %.2g below %g", p, o->equal_level);
	} else {
		*anchor = profile->n_adapters;
		profile->reason = qd_arena_strf(
			arena, "no QSS differs from the highest: smallest paired p %.2g, level %g", p, o->equal_level);
	}
	if (st == QD_OK && profile->reason == NULL)
		st = QD_ENOMEM;
	profile->method = qd_method_names[*anchor < profile->n_adapters ? QD_METHOD_ANCHOR : QD_METHOD_UNIFIED];
	profile->anchor = *anchor < profile->n_adapters ? profile->adapters[*anchor].name : NULL;
	return st;
}
