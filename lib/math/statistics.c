/*
 * Statistics of a sample and Student's t-test.
 *
 * Two-sided probability of t with v degrees of freedom: p = I_x(v/2, 1/2), x = v / (v + t^2). The regularized incomplete beta
 * function is evaluated by its continued fraction (DLMF 8.17.22)
 *
 *     I_x(a,b) = x^a (1-x)^b / (a B(a,b)) * 1/(1 + d1/(1 + d2/(1 + ...)))
 *     d_(2m) = m (b-m) x / ((a+2m-1)(a+2m)),   d_(2m+1) = -(a+m)(a+b+m) x / ((a+2m)(a+2m+1))
 *
 * by the modified Lentz method, for x < (a+1)/(a+b+2), where it converges fast; elsewhere through I_x(a,b) = 1 - I_(1-x)(b,a).
 */
#include "lib/math/math.h"

#include <math.h>

double qd_mean(const double *x, size_t n)
{
	double sum = 0;
	for (size_t i = 0; i < n; i++)
		sum += x[i];
	return n ? sum / (double)n : 0;
}

double qd_standard_error(const double *x, size_t n)
{
	if (n < 2)
		return 0;
	double mean = qd_mean(x, n), sum = 0;
	for (size_t i = 0; i < n; i++)
		sum += (x[i] - mean) * (x[i] - mean);
	return sqrt(sum / (double)(n - 1) / (double)n);
}

double qd_population_std(const float *x, size_t n)
{
	double sum = 0, squares = 0;
	for (size_t i = 0; i < n; i++)
		sum += (double)x[i];
	double mean = n ? sum / (double)n : 0;
	for (size_t i = 0; i < n; i++)
		squares += ((double)x[i] - mean) * ((double)x[i] - mean);
	return n ? sqrt(squares / (double)n) : 0;
}

/* Lentz's method divides by every partial denominator: zero is moved off itself. */
static double away_from_zero(double x)
{
	return fabs(x) < 1e-300 ? 1e-300 : x;
}

static double beta_fraction(double a, double b, double x)
{
	double c = 1, d = 1 / away_from_zero(1 - (a + b) * x / (a + 1)), value = d;
	for (int m = 1; m < 10000; m++) {
		double even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m));
		d = 1 / away_from_zero(1 + even * d);
		c = away_from_zero(1 + even / c);
		value *= d * c;
		double odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1));
		d = 1 / away_from_zero(1 + odd * d);
		c = away_from_zero(1 + odd / c);
		value *= d * c;
		if (fabs(d * c - 1) < 1e-15)
			break;
	}
	return value;
}

double qd_incomplete_beta(double a, double b, double x)
{
	if (x <= 0)
		return 0;
	if (x >= 1)
		return 1;
	double front = exp(lgamma(a + b) - lgamma(a) - lgamma(b) + a * log(x) + b * log1p(-x));
	if (x < (a + 1) / (a + b + 2))
		return front * beta_fraction(a, b, x) / a;
	return 1 - front * beta_fraction(b, a, 1 - x) / b;
}

double qd_student_two_sided(double t, double freedom)
{
	if (isinf(t))
		return 0;
	return qd_incomplete_beta(freedom / 2, 0.5, freedom / (freedom + t * t));
}

enum qd_status qd_paired_t_test(const double *a, const double *b, size_t n, double *t, double *p)
{
	if (n < 2)
		return qd_fail(QD_EINPUT, "a paired test has %zu pairs, needs at least 2", n);
	double mean = 0, squares = 0;
	for (size_t i = 0; i < n; i++)
		mean += (a[i] - b[i]) / (double)n;
	for (size_t i = 0; i < n; i++)
		squares += (a[i] - b[i] - mean) * (a[i] - b[i] - mean);
	double error = sqrt(squares / (double)(n - 1) / (double)n);
	double value = mean / error;
	if (mean == 0)
		value = 0;
	if (t != NULL)
		*t = value;
	*p = qd_student_two_sided(value, (double)(n - 1));
	return QD_OK;
}
