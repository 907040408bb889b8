#include "tests/unit/plain_layers.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- images ---- */

struct plain_image plain_new(int c, int h, int w)
{
	return (struct plain_image){ c, h, w, calloc((size_t)(c * h * w), sizeof(double)) };
}

void plain_replace(struct plain_image *x, struct plain_image next)
{
	free(x->x);
	*x = next;
}

struct plain_image plain_copy(const struct plain_image *x)
{
	struct plain_image y = plain_new(x->c, x->h, x->w);
	memcpy(y.x, x->x, (size_t)(x->c * x->h * x->w) * sizeof(double));
	return y;
}

void plain_each(struct plain_image *x, double (*f)(double))
{
	for (int i = 0; i < x->c * x->h * x->w; i++)
		x->x[i] = f(x->x[i]);
}

void plain_add(struct plain_image *x, const struct plain_image *y)
{
	for (int i = 0; i < x->c * x->h * x->w; i++)
		x->x[i] += y->x[i];
}

static double pixel(const struct plain_image *x, int c, int i, int j)
{
	return i < 0 || j < 0 || i >= x->h || j >= x->w ? 0 : x->x[(c * x->h + i) * x->w + j];
}

struct plain_image plain_doubled(const struct plain_image *x, int h, int w)
{
	struct plain_image y = plain_new(x->c, h, w);
	for (int c = 0; c < y.c; c++)
		for (int i = 0; i < y.h; i++)
			for (int j = 0; j < y.w; j++)
				y.x[(c * y.h + i) * y.w + j] = pixel(x, c, i / 2, j / 2);
	return y;
}

/* ---- weights ---- */

const float *plain_weight(const struct qd_weights *weights, const char *path, const char *leaf)
{
	char name[256];
	snprintf(name, sizeof(name), "%s%s", path, leaf);
	const struct qd_tensor *tensor = qd_weights_find(weights, name);
	if (tensor == NULL || tensor->dtype != QD_F32) {
		fprintf(stderr, "no tensor '%s'\n", name);
		abort();
	}
	return tensor->data;
}

const char *plain_path(const char *fmt, ...)
{
	static char texts[256][256];
	static unsigned next;
	char *text = texts[next++ % 256];
	va_list args;
	va_start(args, fmt);
	vsnprintf(text, sizeof(texts[0]), fmt, args);
	va_end(args);
	return text;
}

double *plain_kernel(const struct qd_weights *weights, const struct qd_adapter *adapter, const char *path, int n)
{
	const float *w = plain_weight(weights, path, ".weight");
	const struct qd_lora *l = adapter != NULL ? qd_adapter_find(adapter, path) : NULL;
	double *sum = calloc((size_t)n, sizeof(*sum));
	for (int i = 0; i < n; i++)
		sum[i] = (double)w[i];
	for (int i = 0; l != NULL && i < n; i++) {
		int columns = (int)(l->in * l->kh * l->kw);
		for (int r = 0; r < (int)l->rank; r++)
			sum[i] += (double)l->up[i / columns * l->rank + r] * (double)l->gain[r] *
				  (double)l->down[r * columns + i % columns];
	}
	return sum;
}

/* ---- layers ---- */

struct plain_image plain_conv(
	const double *w, const float *b, const struct plain_image *x, int out, int k, int stride, int before, int after)
{
	struct plain_image y = plain_new(out, (x->h + before + after - k) / stride + 1, (x->w + before + after - k) / stride + 1);
	for (int o = 0; o < out; o++)
		for (int i = 0; i < y.h; i++)
			for (int j = 0; j < y.w; j++) {
				double sum = b != NULL ? (double)b[o] : 0;
				for (int c = 0; c < x->c; c++)
					for (int di = 0; di < k; di++)
						for (int dj = 0; dj < k; dj++)
							sum += w[((o * x->c + c) * k + di) * k + dj] *
							       pixel(x, c, i * stride + di - before, j * stride + dj - before);
				y.x[(o * y.h + i) * y.w + j] = sum;
			}
	return y;
}

/* (x - mean) / sqrt(variance + eps) of n numbers. */
static void normalize(int n, double eps, double *x)
{
	double mean = 0, variance = 0;
	for (int i = 0; i < n; i++)
		mean += x[i] / n;
	for (int i = 0; i < n; i++)
		variance += (x[i] - mean) * (x[i] - mean) / n;
	for (int i = 0; i < n; i++)
		x[i] = (x[i] - mean) / sqrt(variance + eps);
}

void plain_group_norm(int groups, double eps, const float *w, const float *b, struct plain_image *x)
{
	int plane = x->h * x->w, size = x->c / groups * plane;
	for (int g = 0; g < groups; g++)
		normalize(size, eps, x->x + g * size);
	for (int i = 0; i < x->c * plane; i++)
		x->x[i] = x->x[i] * (double)w[i / plane] + (double)b[i / plane];
}

double *plain_linear(const double *w, const float *b, int rows, int in, int out, const double *x)
{
	double *y = calloc((size_t)(rows * out), sizeof(*y));
	for (int i = 0; i < rows; i++)
		for (int o = 0; o < out; o++) {
			y[i * out + o] = b != NULL ? (double)b[o] : 0;
			for (int k = 0; k < in; k++)
				y[i * out + o] += w[o * in + k] * x[i * in + k];
		}
	return y;
}

void plain_layer_norm(int rows, int d, double eps, const float *w, const float *b, double *x)
{
	for (int i = 0; i < rows; i++) {
		normalize(d, eps, x + i * d);
		for (int k = 0; k < d; k++)
			x[i * d + k] = x[i * d + k] * (double)w[k] + (double)b[k];
	}
}

double *plain_attention(
	int rows, int keys, int d, int heads, const double *q, const double *k, const double *v, bool causal, const int32_t *mask)
{
	int size = d / heads;
	double *y = calloc((size_t)(rows * d), sizeof(*y)), *score = calloc((size_t)keys, sizeof(*score));
	for (int h = 0; h < heads; h++)
		for (int i = 0; i < rows; i++) {
			double sum = 0;
			int seen = causal ? i + 1 : keys;
			for (int j = 0; j < seen; j++) {
				double s = 0;
				for (int e = h * size; e < (h + 1) * size; e++)
					s += q[i * d + e] * k[j * d + e];
				score[j] = mask == NULL || mask[j] ? exp(s / sqrt(size)) : 0;
				sum += score[j];
			}
			for (int j = 0; j < seen; j++)
				for (int e = h * size; e < (h + 1) * size; e++)
					y[i * d + e] += score[j] / sum * v[j * d + e];
		}
	free(score);
	return y;
}

double plain_silu(double x)
{
	return x / (1 + exp(-x));
}

double plain_gelu(double x)
{
	return x * 0.5 * (1 + erf(x / sqrt(2)));
}
