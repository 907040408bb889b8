/*
 * Group and layer normalization, on channels-last data. Each pass reads what the caches still hold; channels run along the vectors.
 *
 *   group norm   per channel c of a sample, over its pixels and from a first guess k of its mean (its first pixel):
 *                  s = sum(x - k), q = sum((x - k)^2);  mean_c = k + s / n,  m2_c = q - s^2 / n
 *                per group: mean = average of mean_c,  variance = average of (m2_c / n + (mean_c - mean)^2)
 *                y = x a + b with a = scale / sqrt(variance + eps), b = bias - mean a, folded per channel
 *
 * Codes are decoded some rows at a time, once per pass, into memory that stays in cache.
 *
 * Sums are float32 over a few pixels and double over those. Which pixels are summed together depends on the sizes only, so the
 * result does not depend on the number of threads.
 *
 * Letters: N samples, P pixels, C channels, G groups.
 */
#include "lib/kernel/vector.h"

#include <math.h>
#include <stdlib.h>

enum { ROWS_AT_ONCE = 32 };

/* `rows` <= ROWS_AT_ONCE rows as floats: where they are, or decoded into `buffer`. */
static const float *decode(const struct qd_numbers *x, int64_t first, int64_t rows, int64_t channels, float *buffer)
{
	if (x->form == QD_FORM_F32)
		return (const float *)x->at + first * channels;
	qd_numbers_load(x, (size_t)(first * channels), (size_t)(rows * channels), buffer);
	return buffer;
}

static float *row_buffer(int64_t channels)
{
	return malloc((size_t)(ROWS_AT_ONCE * channels) * sizeof(float));
}

static int64_t at_once(int64_t first, int64_t end)
{
	return end - first < ROWS_AT_ONCE ? end - first : ROWS_AT_ONCE;
}

/* Where normalized rows go: to y, or, where that is NULL, to a sink. */
struct target {
	float *y;
	qd_rows_sink sink;
	void *context;
};

/* ---- group normalization ---- */

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

/* Sums of the pixels [first, end), counted through the batch, all of one sample. */
static void sum_slice(const struct qd_group_norm *g, const struct qd_numbers *x, int64_t first, int64_t end, const float *k,
	float *buffer, float *part, double *sums)
{
	memset(sums, 0, 2 * (size_t)g->channels * sizeof(*sums));
	for (int64_t p = first; p < end; p += ROWS_AT_ONCE) {
		int64_t rows = at_once(p, end);
		add_sums(decode(x, p, rows, g->channels, buffer), rows, g->channels, k, part, sums);
	}
}

static void apply_slice(const struct qd_group_norm *g, const struct qd_numbers *x, int64_t first, int64_t end, const float *folded,
	float *buffer, const struct target *to)
{
	for (int64_t p = first; p < end; p += ROWS_AT_ONCE) {
		int64_t rows = at_once(p, end);
		float *y = to->y != NULL ? to->y + p * g->channels : buffer;
		apply_rows(decode(x, p, rows, g->channels, buffer), rows, g->channels, folded, g->silu, y);
		if (to->y == NULL)
			to->sink(to->context, (size_t)p, (size_t)rows, y);
	}
}

static enum qd_status group_norm(const struct qd_group_norm *g, const struct qd_numbers *x, const float *scale, const float *bias,
	const float *shift, const struct target *to)
{
	const int64_t slices = g->pixels < 256 ? 1 : 16, c = g->channels, per = (g->pixels + slices - 1) / slices;
	size_t n_sums = (size_t)(g->n * slices * 2 * c), n_folded = (size_t)(g->n * 2 * c), n_guess = (size_t)(g->n * c);
	double *sums = malloc(n_sums * sizeof(*sums));
	float *parts = malloc((n_sums + n_folded + n_guess) * sizeof(*parts)), *folded, *guess;
	bool failed = sums == NULL || parts == NULL;

	if (failed)
		goto out;
	folded = parts + n_sums;
	guess = folded + n_folded;
	for (int64_t n = 0; n < g->n; n++)
		qd_numbers_load(x, (size_t)(n * g->pixels * c), (size_t)c, guess + n * c);
#pragma omp parallel reduction(|| : failed) if ((size_t)(g->n * g->pixels * c) >= QD_PARALLEL_MIN)
	{
		float *buffer = row_buffer(c);
		bool ready = buffer != NULL;
#pragma omp for schedule(static)
		for (int64_t i = 0; i < g->n * slices; i++) {
			int64_t n = i / slices, first = n * g->pixels + i % slices * per, end = (n + 1) * g->pixels;
			if (ready)
				sum_slice(g, x, first, first + per < end ? first + per : end, guess + n * c, buffer,
					parts + 2 * i * c, sums + 2 * i * c);
		}
#pragma omp single
		for (int64_t n = 0; n < g->n; n++)
			fold(g, guess + n * c, sums + 2 * n * slices * c, slices, scale, bias,
				shift != NULL ? shift + (g->shift_per_sample ? n * c : 0) : NULL, folded + 2 * n * c);
#pragma omp for schedule(static)
		for (int64_t i = 0; i < g->n * slices; i++) {
			int64_t n = i / slices, first = n * g->pixels + i % slices * per, end = (n + 1) * g->pixels;
			if (ready)
				apply_slice(g, x, first, first + per < end ? first + per : end, folded + 2 * n * c, buffer, to);
		}
		failed = !ready;
		free(buffer);
	}
out:
	free(sums);
	free(parts);
	return failed ? qd_fail(QD_ENOMEM, "out of memory for group normalization") : QD_OK;
}

enum qd_status qd_group_norm_f32(
	const struct qd_group_norm *g, const float *x, const float *scale, const float *bias, const float *shift, float *y)
{
	const struct qd_numbers floats = { .at = (void *)x };

	return group_norm(g, &floats, scale, bias, shift, &(struct target){ .y = y });
}

enum qd_status qd_group_norm_numbers(const struct qd_group_norm *g, const struct qd_numbers *x, const float *scale,
	const float *bias, const float *shift, qd_rows_sink sink, void *context)
{
	return group_norm(g, x, scale, bias, shift, &(struct target){ .sink = sink, .context = context });
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

enum qd_status qd_layer_norm_numbers(int64_t rows, int64_t channels, float eps, const struct qd_numbers *x, const float *scale,
	const float *bias, qd_rows_sink sink, void *context)
{
	bool failed = false;

#pragma omp parallel reduction(|| : failed) if ((size_t)(rows * channels) >= QD_PARALLEL_MIN)
	{
		float *buffer = row_buffer(channels);
		bool ready = buffer != NULL;
#pragma omp for schedule(static)
		for (int64_t r = 0; r < rows; r += ROWS_AT_ONCE) {
			int64_t n = ready ? at_once(r, rows) : 0;
			const float *from = n > 0 ? decode(x, r, n, channels, buffer) : NULL;
			for (int64_t i = 0; i < n; i++)
				layer_norm_row(channels, eps, from + i * channels, scale, bias, buffer + i * channels);
			if (n > 0)
				sink(context, (size_t)r, (size_t)n, buffer);
		}
		failed = !ready;
		free(buffer);
	}
	return failed ? qd_fail(QD_ENOMEM, "out of memory for layer normalization") : QD_OK;
}
