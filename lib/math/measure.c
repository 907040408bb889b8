/*
 * How far apart two signals or two distributions are.
 *
 * Jensen-Shannon of p and q with m = (p + q)/2 and t = (q - p)/(q + p):
 *
 *     JS = 1/2 sum p ln(p/m) + 1/2 sum q ln(q/m) = 1/2 sum m [ (1-t) ln(1-t) + (1+t) ln(1+t) ]
 *
 * The right side has no negative term, so nothing cancels when p and q nearly agree (JS ~ t^2/2, far below the rounding error of
 * the left side). t = tanh((ln q - ln p)/2) keeps that accuracy down to the difference of the logarithms.
 */
#include "lib/math/math.h"

#include <math.h>
#include <string.h>

/* ---- signals ---- */

bool qd_all_finite(const float *x, size_t n)
{
	float sum = 0; /* 0 * x is NaN exactly where x is not finite; one pass without branches */

	for (size_t i = 0; i < n; i++)
		sum += 0.0f * x[i];
	return sum == 0.0f;
}

/* Eight sums side by side: one sum would have to be added in order, each addition waiting for the one before. */
enum { LANES = 8 };

typedef float float_lanes __attribute__((vector_size(LANES * sizeof(float))));
typedef double lanes __attribute__((vector_size(LANES * sizeof(double))));
typedef int64_t lane_bits __attribute__((vector_size(LANES * sizeof(int64_t))));

struct lane_sums {
	lanes reference, measured, product, error, largest;
};

QD_CLONES static void add_lanes(struct lane_sums *total, const float *reference, const float *measured, size_t n)
{
	struct lane_sums sums = *total;
	for (size_t i = 0; i + LANES <= n; i += LANES) {
		float_lanes r32, m32;
		memcpy(&r32, reference + i, sizeof(r32));
		memcpy(&m32, measured + i, sizeof(m32));
		lanes r = __builtin_convertvector(r32, lanes), m = __builtin_convertvector(m32, lanes), d = m - r;
		sums.reference += r * r;
		sums.measured += m * m;
		sums.product += r * m;
		sums.error += d * d;
		lane_bits size = (lane_bits)d & INT64_MAX, larger = (lanes)size > sums.largest;
		sums.largest = (lanes)((size & larger) | ((lane_bits)sums.largest & ~larger));
	}
	*total = sums;
}

static void add_one(struct qd_error *sums, double r, double m)
{
	double d = m - r;
	sums->reference += r * r;
	sums->measured += m * m;
	sums->product += r * m;
	sums->error += d * d;
	if (fabs(d) > sums->largest)
		sums->largest = fabs(d);
}

void qd_error_add(struct qd_error *sums, const float *reference, const float *measured, size_t n)
{
	struct lane_sums eight = { 0 };
	add_lanes(&eight, reference, measured, n);
	for (size_t j = 0; j < LANES; j++) {
		sums->reference += eight.reference[j];
		sums->measured += eight.measured[j];
		sums->product += eight.product[j];
		sums->error += eight.error[j];
		if (eight.largest[j] > sums->largest)
			sums->largest = eight.largest[j];
	}
	for (size_t i = n - n % LANES; i < n; i++)
		add_one(sums, (double)reference[i], (double)measured[i]);
	if (isnan(sums->error)) /* which no comparison above saw */
		sums->largest = NAN;
	sums->n += n;
}

double qd_error_sqnr_db(const struct qd_error *sums)
{
	return sums->error == 0 ? INFINITY : 10 * log10(sums->reference / sums->error);
}

static struct qd_error compare(const float *reference, const float *measured, size_t n)
{
	struct qd_error sums = { 0 };
	qd_error_add(&sums, reference, measured, n);
	return sums;
}

double qd_mse(const float *reference, const float *measured, size_t n)
{
	struct qd_error sums = compare(reference, measured, n);
	return n > 0 ? sums.error / (double)n : 0;
}

double qd_sqnr_db(const float *reference, const float *measured, size_t n)
{
	struct qd_error sums = compare(reference, measured, n);
	return qd_error_sqnr_db(&sums);
}

double qd_cosine(const float *reference, const float *measured, size_t n)
{
	struct qd_error sums = compare(reference, measured, n);
	if (sums.reference == 0 || sums.measured == 0)
		return sums.reference == sums.measured ? 1 : 0;
	return sums.product / (sqrt(sums.reference) * sqrt(sums.measured));
}

double qd_psnr(double mse, double range)
{
	return mse == 0 ? INFINITY : 10 * log10(range * range / mse);
}

/* ---- distributions ---- */

/* ln sum exp(x / tau), with the largest taken out so that nothing overflows. */
static double log_sum_exp(const float *x, size_t n, double tau)
{
	double largest = -INFINITY, sum = 0;
	for (size_t i = 0; i < n; i++)
		largest = fmax(largest, (double)x[i] / tau);
	for (size_t i = 0; i < n; i++)
		sum += exp((double)x[i] / tau - largest);
	return largest + log(sum);
}

/* (1-t) ln(1-t) + (1+t) ln(1+t) for t in [-1, 1]; below 1e-3 its series t^2 + t^4/6 + ..., whose next term is t^6/15. */
static double js_term(double t)
{
	double square = t * t;
	if (square < 1e-6)
		return square * (1 + square / 6);
	if (square >= 1)
		return 2 * log(2.0);
	return (1 - t) * log1p(-t) + (1 + t) * log1p(t);
}

double qd_softmax_js(const float *x, const float *y, size_t n, double tau)
{
	double norm_x = log_sum_exp(x, n, tau), norm_y = log_sum_exp(y, n, tau), sum = 0;
	for (size_t i = 0; i < n; i++) {
		double log_p = (double)x[i] / tau - norm_x, log_q = (double)y[i] / tau - norm_y;
		sum += (exp(log_p) + exp(log_q)) * js_term(tanh((log_q - log_p) / 2));
	}
	return sum / 4;
}

double qd_softmax_kl(const float *x, const float *y, size_t n, double tau)
{
	double norm_x = log_sum_exp(x, n, tau), norm_y = log_sum_exp(y, n, tau), sum = 0;
	for (size_t i = 0; i < n; i++) {
		double log_p = (double)x[i] / tau - norm_x, log_q = (double)y[i] / tau - norm_y;
		sum += exp(log_p) * (log_p - log_q);
	}
	return sum;
}
