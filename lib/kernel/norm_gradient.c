/*
 * Gradients of normalizations at their input. With h = dy scale and x^ = (x - mean) r, means over a group's pixels or a row:
 *
 *   dx += r (h - mean(h) - x^ mean(h x^))      r = 1 / sqrt(variance + eps)
 *
 * Of a group the sums over pixels are kept per channel, in slices of rows that do not depend on the number of threads; folded, they make
 * dx a sum of dy, 1 and x, each times a number per channel.
 */
#include "lib/kernel/kernel_internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS_AT_ONCE = 32 };

/* Sums over some rows, per channel: of x, x^2, g and g x; double [4, channels]. */
QD_VECTOR static void add_moments(size_t rows, size_t channels, const float *x, const float *g, double *sums)
{
	for (size_t r = 0; r < rows; r++)
		for (size_t c = 0; c < channels; c++) {
			double a = (double)x[r * channels + c], b = (double)g[r * channels + c];
			sums[c] += a;
			sums[channels + c] += a * a;
			sums[2 * channels + c] += b;
			sums[3 * channels + c] += b * a;
		}
}

/* dx += alpha g + beta + delta x, each per channel: f32 [3, channels]. */
QD_VECTOR static void add_normed(size_t rows, size_t channels, const float *x, const float *g, const float *by, float *dx)
{
	for (size_t r = 0; r < rows; r++)
		for (size_t c = 0; c < channels; c++)
			dx[r * channels + c] +=
				by[c] * g[r * channels + c] + by[channels + c] + by[2 * channels + c] * x[r * channels + c];
}

/* The factors of one sample's channels from its sums. */
static void fold_moments(const struct qd_group_norm *norm, const float *scale, const double *sums, float *by)
{
	size_t channels = (size_t)norm->channels, size = channels / (size_t)norm->groups;

	for (size_t first = 0; first < channels; first += size) {
		double n = (double)norm->pixels * (double)size, mean = 0, square = 0, h = 0, hx = 0, r;
		for (size_t c = first; c < first + size; c++) {
			mean += sums[c] / n;
			square += sums[channels + c] / n;
		}
		r = 1 / sqrt(fmax(square - mean * mean, 0) + (double)norm->eps);
		for (size_t c = first; c < first + size; c++) {
			h += (double)scale[c] * sums[2 * channels + c] / n;
			hx += (double)scale[c] * r * (sums[3 * channels + c] - mean * sums[2 * channels + c]) / n;
		}
		for (size_t c = first; c < first + size; c++) {
			by[c] = (float)(r * (double)scale[c]);
			by[channels + c] = (float)(-r * h + r * r * hx * mean);
			by[2 * channels + c] = (float)(-r * r * hx);
		}
	}
}

enum qd_status qd_group_norm_backward(
	const struct qd_group_norm *g, const struct qd_numbers *x, const float *scale, const float *dy, float *dx)
{
	size_t channels = (size_t)g->channels, rows = (size_t)g->pixels, slices = (rows + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE,
	       part = ROWS_AT_ONCE * channels;
	double *sums = malloc((slices + 1) * 4 * channels * sizeof(*sums));
	float *by = malloc(3 * channels * sizeof(*by));
	bool starved = sums == NULL || by == NULL;

	for (size_t sample = 0; !starved && sample < (size_t)g->n; sample++) {
		size_t base = sample * rows * channels;
		memset(sums, 0, (slices + 1) * 4 * channels * sizeof(*sums));
		for (int pass = 0; pass < 2 && !starved; pass++) {
#pragma omp parallel for schedule(static) reduction(|| : starved) if (rows * channels > QD_PARALLEL_MIN)
			for (size_t i = 0; i < slices; i++) {
				size_t count = qd_min_size(ROWS_AT_ONCE, rows - i * ROWS_AT_ONCE), at = base + i * part;
				float *xs = malloc(part * sizeof(*xs));
				starved = starved || xs == NULL;
				if (xs == NULL)
					continue;
				qd_numbers_load(x, at, count * channels, xs);
				if (pass == 0)
					add_moments(count, channels, xs, dy + at, sums + (i + 1) * 4 * channels);
				else
					add_normed(count, channels, xs, dy + at, by, dx + at);
				free(xs);
			}
			for (size_t i = 1; pass == 0 && i <= slices; i++)
				for (size_t c = 0; c < 4 * channels; c++)
					sums[c] += sums[i * 4 * channels + c];
			if (pass == 0)
				fold_moments(g, scale, sums, by);
		}
	}
	free(sums);
	free(by);
	return starved ? qd_fail(QD_ENOMEM, "out of memory for a gradient") : QD_OK;
}

QD_VECTOR static void layer_norm_row(size_t n, float eps, const float *x, const float *scale, const float *g, float *dx)
{
	double mean = 0, square = 0, h = 0, hx = 0, r;

	for (size_t i = 0; i < n; i++)
		mean += (double)x[i];
	mean /= (double)n;
	for (size_t i = 0; i < n; i++)
		square += ((double)x[i] - mean) * ((double)x[i] - mean);
	r = 1 / sqrt(square / (double)n + (double)eps);
	for (size_t i = 0; i < n; i++) {
		double one = (double)g[i] * (double)scale[i];
		h += one;
		hx += one * ((double)x[i] - mean) * r;
	}
	h /= (double)n;
	hx /= (double)n;
	for (size_t i = 0; i < n; i++)
		dx[i] += (float)(r * ((double)g[i] * (double)scale[i] - h - ((double)x[i] - mean) * r * hx));
}

enum qd_status qd_layer_norm_backward(
	int64_t rows, int64_t channels, float eps, const struct qd_numbers *x, const float *scale, const float *dy, float *dx)
{
	size_t n = (size_t)channels;
	bool starved = false;

#pragma omp parallel reduction(|| : starved) if ((size_t)rows * n > QD_PARALLEL_MIN)
	{
		float *row = malloc(n * sizeof(*row));
		starved = row == NULL;
#pragma omp for schedule(static)
		for (int64_t r = 0; r < rows; r++) {
			if (row == NULL)
				continue;
			qd_numbers_load(x, (size_t)r * n, n, row);
			layer_norm_row(n, eps, row, scale, dy + (size_t)r * n, dx + (size_t)r * n);
		}
		free(row);
	}
	return starved ? qd_fail(QD_ENOMEM, "out of memory for a gradient") : QD_OK;
}
