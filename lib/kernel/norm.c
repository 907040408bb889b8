/*
 * What lies between the products of a network, on channels-last data: group and layer normalization, the gate of a transformer's
 * feed-forward, tokens side by side. Each pass reads what the caches still hold; channels run along the vectors.
 *
 *   group norm   per channel c of a sample, over its pixels and from a first guess k of its mean (its first pixel):
 *                  s = sum(x - k), q = sum((x - k)^2);  mean_c = k + s / n,  m2_c = q - s^2 / n
 *                per group: mean = average of mean_c,  variance = average of (m2_c / n + (mean_c - mean)^2)
 *                y = x a + b with a = scale / sqrt(variance + eps), b = bias - mean a, folded per channel
 *
 * Sums are float32 over a few pixels and double over those. Which pixels are summed together depends on the sizes only, so the
 * result does not depend on the number of threads.
 *
 * Letters: N samples, P pixels, C channels, G groups.
 */
#include "lib/kernel/vector.h"

#include <math.h>
#include <stdlib.h>

/* ---- group normalization ---- */

enum { PIXELS_AT_ONCE = 32 };

/* One sample's sums, double [2, channels]: of x - k and of its square, over `rows` pixels. part: f32 [2, channels]. */
QD_VECTOR static void add_sums(const float *x, int64_t rows, int64_t channels, const float *k, float *part, double *sums)
{
	memset(part, 0, 2 * (size_t)channels * sizeof(*part));
	for (int64_t r = 0; r < rows; r++) {
		const float *row = x + r * channels;
		for (int64_t c = 0; c < channels; c++) {
			float d = row[c] - k[c];
			part[c] += d;
			part[channels + c] += d * d;
		}
	}
	for (int64_t c = 0; c < 2 * channels; c++)
		sums[c] += (double)part[c];
}

/* From a sample's sums (slices x [2, channels]) to factor and offset per channel, f32 [2, channels]. */
static void fold(const struct qd_group_norm *g, const float *k, const double *sums, int64_t slices, const float *scale,
	const float *bias, const float *shift, float *folded)
{
	int64_t size = g->channels / g->groups;

	for (int64_t group = 0; group < g->groups; group++) {
		double total = 0, spread = 0, pixels = (double)g->pixels;
		for (int pass = 0; pass < 2; pass++)
			for (int64_t c = group * size; c < (group + 1) * size; c++) {
				double s = 0, q = 0;
				for (int64_t i = 0; i < slices; i++) {
					s += sums[2 * i * g->channels + c];
					q += sums[(2 * i + 1) * g->channels + c];
				}
				double mean = (double)k[c] + (shift != NULL ? (double)shift[c] : 0) + s / pixels,
				       away = mean - total / (double)size;
				if (pass == 0)
					total += mean;
				else
					spread += fmax(q - s * s / pixels, 0) / pixels + away * away;
			}
		double mean = total / (double)size, factor = 1 / sqrt(spread / (double)size + (double)g->eps);
		for (int64_t c = group * size; c < (group + 1) * size; c++) {
			double a = factor * (double)scale[c], lift = shift != NULL ? (double)shift[c] : 0;
			folded[c] = (float)a;
			folded[g->channels + c] = (float)((double)bias[c] + (lift - mean) * a);
		}
	}
}

QD_VECTOR static void apply_rows(const float *x, int64_t rows, int64_t channels, const float *folded, bool with_silu, float *y)
{
	for (int64_t r = 0; r < rows; r++) {
		const float *from = x + r * channels, *offset = folded + channels;
		float *to = y + r * channels;
		for (int64_t c = 0; c + QD_LANES <= channels; c += QD_LANES) {
			vec v = load(from + c) * load(folded + c) + load(offset + c);
			store(to + c, with_silu ? silu(v) : v);
		}
		size_t rest = (size_t)(channels % QD_LANES), c = (size_t)channels - rest;
		if (rest) {
			vec v = load_part(from + c, rest) * load_part(folded + c, rest) + load_part(offset + c, rest);
			store_part(to + c, with_silu ? silu(v) : v, rest);
		}
	}
}

/* Sums of one slice of a sample's pixels. */
static void sum_slice(const struct qd_group_norm *g, const float *x, int64_t first, int64_t end, float *part, double *sums)
{
	memset(sums, 0, 2 * (size_t)g->channels * sizeof(*sums));
	for (int64_t p = first; p < end; p += PIXELS_AT_ONCE) {
		int64_t rows = end - p < PIXELS_AT_ONCE ? end - p : PIXELS_AT_ONCE;
		add_sums(x + p * g->channels, rows, g->channels, x, part, sums);
	}
}

enum qd_status qd_group_norm_f32(
	const struct qd_group_norm *g, const float *x, const float *scale, const float *bias, const float *shift, float *y)
{
	const int64_t slices = g->pixels < 256 ? 1 : 16, c = g->channels, per = (g->pixels + slices - 1) / slices;
	size_t n_sums = (size_t)(g->n * slices * 2 * c), n_folded = (size_t)(g->n * 2 * c);
	double *sums = malloc(n_sums * sizeof(*sums));
	float *parts = malloc((n_sums + n_folded) * sizeof(*parts)), *folded = parts + n_sums;
	enum qd_status st = QD_OK;

	if (sums == NULL || parts == NULL) {
		st = qd_fail(QD_ENOMEM, "out of memory for group normalization");
		goto out;
	}
#pragma omp parallel if ((size_t)(g->n * g->pixels * c) >= QD_PARALLEL_MIN)
	{
#pragma omp for schedule(static)
		for (int64_t i = 0; i < g->n * slices; i++) {
			int64_t first = i % slices * per, end = first + per < g->pixels ? first + per : g->pixels;
			sum_slice(g, x + i / slices * g->pixels * c, first, end, parts + 2 * i * c, sums + 2 * i * c);
		}
#pragma omp single
		for (int64_t n = 0; n < g->n; n++)
			fold(g, x + n * g->pixels * c, sums + 2 * n * slices * c, slices, scale, bias,
				shift != NULL ? shift + (g->shift_per_sample ? n * c : 0) : NULL, folded + 2 * n * c);
#pragma omp for schedule(static)
		for (int64_t i = 0; i < g->n * slices; i++) {
			int64_t n = i / slices, first = i % slices * per, end = first + per < g->pixels ? first + per : g->pixels;
			const float *from = x + (n * g->pixels + first) * c;
			if (first < end)
				apply_rows(from, end - first, c, folded + 2 * n * c, g->silu, y + (from - x));
		}
	}
out:
	free(sums);
	free(parts);
	return st;
}

/* ---- layer normalization ---- */

QD_VECTOR static void layer_norm_row(int64_t channels, float eps, const float *x, const float *scale, const float *bias, float *y)
{
	vec sum = { 0 }, spread = { 0 };
	size_t rest = (size_t)(channels % QD_LANES), whole = (size_t)channels - rest, c;
	float mean, deviation, factor;

	for (c = 0; c < whole; c += QD_LANES)
		sum += load(x + c);
	mean = (sum_of(sum) + sum_of(load_part(x + c, rest))) / (float)channels;
	for (c = 0; c < whole; c += QD_LANES) {
		vec d = load(x + c) - mean;
		spread += d * d;
	}
	deviation = sum_of(spread);
	for (; c < (size_t)channels; c++)
		deviation += (x[c] - mean) * (x[c] - mean);
	factor = 1.0f / sqrtf(deviation / (float)channels + eps);
	for (c = 0; c < whole; c += QD_LANES) {
		vec v = (load(x + c) - mean) * factor * load(scale + c);
		store(y + c, bias != NULL ? v + load(bias + c) : v);
	}
	for (; c < (size_t)channels; c++)
		y[c] = (x[c] - mean) * factor * scale[c] + (bias != NULL ? bias[c] : 0.0f);
}

void qd_layer_norm_f32(int64_t rows, int64_t channels, float eps, const float *x, const float *scale, const float *bias, float *y)
{
#pragma omp parallel for schedule(static) if ((size_t)(rows * channels) >= QD_PARALLEL_MIN)
	for (int64_t r = 0; r < rows; r++)
		layer_norm_row(channels, eps, x + r * channels, scale, bias, y + r * channels);
}

/* ---- gate, parts side by side ---- */

QD_VECTOR static void gated_row(int64_t width, const float *value, const float *gate, float *y)
{
	size_t rest = (size_t)(width % QD_LANES), whole = (size_t)width - rest, c;

	for (c = 0; c < whole; c += QD_LANES)
		store(y + c, load(value + c) * gelu(load(gate + c)));
	if (rest)
		store_part(y + c, load_part(value + c, rest) * gelu(load_part(gate + c, rest)), rest);
}

void qd_gated_gelu_f32(int64_t rows, int64_t width, const float *x, float *y)
{
#pragma omp parallel for schedule(static) if ((size_t)(rows * width) >= QD_PARALLEL_MIN)
	for (int64_t r = 0; r < rows; r++)
		gated_row(width, x + 2 * r * width, x + (2 * r + 1) * width, y + r * width);
}

void qd_concat_rows_f32(int64_t rows, size_t n, const int64_t *widths, const float *const *parts, float *y)
{
	int64_t width = 0;

	for (size_t i = 0; i < n; i++)
		width += widths[i];
#pragma omp parallel for schedule(static) if ((size_t)(rows * width) >= QD_PARALLEL_MIN)
	for (int64_t r = 0; r < rows; r++) {
		float *to = y + r * width;
		for (size_t i = 0; i < n; i++) {
			memcpy(to, parts[i] + r * widths[i], (size_t)widths[i] * sizeof(*to));
			to += widths[i];
		}
	}
}
