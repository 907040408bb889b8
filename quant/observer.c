/*
 * Observers: what is kept of a tensor's values over all calibration runs, and the range that becomes its encoding.
 *
 *   minmax       the range seen
 *   percentile   the range without the outermost (100 - P)/2 % of the values on either side
 *   mse          the range [f low, g high] of least expected squared error on a grid of b bits: a value inside costs step^2 / 12,
 *                a value outside its squared distance; f and g in 1/100 steps, one after the other, twice
 *
 * The last two need a histogram: 2048 bins over the first values' range. A value outside doubles the range towards it, by merging
 * bins in pairs, until it fits: counts are never lost and one pass is enough.
 */
#include "lib/kernel/kernel.h"
#include "quant/internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { BINS = QD_OBSERVER_BINS };

/* ---- the histogram ---- */

static double end_of(const struct qd_observer *o)
{
	return o->from + BINS * o->width;
}

static void start(struct qd_observer *o, double low, double high)
{
	o->from = low;
	o->width = high > low ? (high - low) / BINS : fmax(fabs(low), 1) * 0x1p-20 / BINS;
}

/* Merges pairs of bins into the lower or the upper half, which doubles the range upwards or downwards. */
static void double_range(struct qd_observer *o, bool downwards)
{
	uint64_t merged[BINS] = { 0 };

	for (size_t i = 0; i < BINS; i++)
		merged[i / 2 + (downwards ? BINS / 2 : 0)] += o->bins[i];
	memcpy(o->bins, merged, sizeof(merged));
	o->from -= downwards ? BINS * o->width : 0;
	o->width *= 2;
}

/* Counts n values, which reach from low to high. */
static enum qd_status count_values(struct qd_observer *o, size_t n, const float *x, float low, float high)
{
	double per_width;

	if (o->bins == NULL) {
		o->bins = calloc(BINS, sizeof(*o->bins));
		if (o->bins == NULL)
			return qd_fail(QD_ENOMEM, "out of memory");
		start(o, low, high);
	}
	while (low < o->from)
		double_range(o, true);
	while (high > end_of(o))
		double_range(o, false);
	per_width = 1 / o->width;
	for (size_t i = 0; i < n; i++) {
		int64_t bin = (int64_t)((x[i] - o->from) * per_width);

		o->bins[bin < 0 ? 0 : bin < BINS ? bin : BINS - 1]++;
	}
	return QD_OK;
}

/* ---- what each kind makes of it ---- */

static double total(const struct qd_observer *o)
{
	double sum = 0;

	for (size_t i = 0; i < BINS; i++)
		sum += (double)o->bins[i];
	return sum;
}

/* Where a share of all values lies below, linear within a bin. */
static double quantile(const struct qd_observer *o, double share)
{
	double want = share * total(o), below = 0;

	for (size_t i = 0; i < BINS; i++) {
		double c = (double)o->bins[i];

		if (c > 0 && below + c >= want)
			return o->from + ((double)i + fmax(0, want - below) / c) * o->width;
		below += c;
	}
	return end_of(o);
}

/* Expected squared error, times the number of values, of the grid over [low, high]. */
static double cost(const struct qd_observer *o, double low, double high, int bits)
{
	double step = (high - low) / (ldexp(1, bits) - 1), sum = 0;

	for (size_t i = 0; i < BINS; i++) {
		double x = o->from + ((double)i + 0.5) * o->width, out = x < low ? low - x : x > high ? x - high : 0;

		sum += (double)o->bins[i] * (out > 0 ? out * out : step * step / 12);
	}
	return sum;
}

static struct qd_range range_of_least_error(const struct qd_observer *o, int bits)
{
	double best[2] = { o->range.low, o->range.high }, least = cost(o, best[0], best[1], bits);

	for (int turn = 0; turn < 4; turn++) {
		double whole = turn % 2 == 0 ? o->range.low : o->range.high;

		for (int f = 1; f < 100; f++) {
			double trial[2] = { best[0], best[1] }, c;

			trial[turn % 2] = whole * f / 100;
			c = cost(o, trial[0], trial[1], bits);
			if (c < least) {
				least = c;
				best[turn % 2] = trial[turn % 2];
			}
		}
	}
	return (struct qd_range){ (float)best[0], (float)best[1], false };
}

static struct qd_range range_of_percentile(const struct qd_observer *o, int bits)
{
	double tail = (100 - o->percentile) / 200;

	(void)bits;
	return (struct qd_range){ (float)fmax(o->range.low, fmin(0, quantile(o, tail))),
		(float)fmin(o->range.high, fmax(0, quantile(o, 1 - tail))), false };
}

static struct qd_range range_seen(const struct qd_observer *o, int bits)
{
	(void)bits;
	return o->range;
}

/* ---- what all kinds have in common ---- */

static const struct {
	enum qd_status (*keep)(struct qd_observer *o, size_t n, const float *x, float low, float high);
	struct qd_range (*range)(const struct qd_observer *o, int bits);
} rules[] = {
#define RULE(id, name, keep, range) [QD_##id] = { keep, range },
	QD_OBSERVER_LIST(RULE)
#undef RULE
};

bool qd_observer_sees_values(const struct qd_observer *o)
{
	return rules[o->kind].keep != NULL;
}

void qd_observer_add_range(struct qd_observer *o, float low, float high)
{
	o->range.low = fminf(o->range.low, low);
	o->range.high = fmaxf(o->range.high, high);
	o->seen = true;
}

enum qd_status qd_observer_add(struct qd_observer *o, size_t n, const float *x)
{
	float low, high;

	if (n == 0)
		return QD_OK;
	if (!qd_min_max_f32(x, n, &low, &high))
		return qd_fail(QD_EINPUT, "a value is not finite");
	qd_observer_add_range(o, low, high);
	return rules[o->kind].keep != NULL ? rules[o->kind].keep(o, n, x, low, high) : QD_OK;
}

struct qd_range qd_observer_range(const struct qd_observer *o, int bits)
{
	return o->seen ? rules[o->kind].range(o, bits) : o->range;
}

void qd_observer_release(struct qd_observer *o)
{
	free(o->bins);
	memset(o, 0, sizeof(*o));
}
