/*
 * Images and sets of images: structural similarity, Frechet distance.
 *
 * Of two windows, with their weighted means and (co)variances:
 *
 *   SSIM = (2 mx my + C1)(2 cov + C2) / ((mx^2 + my^2 + C1)(vx + vy + C2))      C1 = (0.01 L)^2, C2 = (0.03 L)^2, L = 255
 *
 * The weights are a product of a row and a column, so every mean is a sum along rows, then along columns.
 */
#include "lib/math/math.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_WINDOW = 11 };

struct window {
	int size;
	double weight[MAX_WINDOW];
	double covariance; /* sample over population covariance */
};

static struct window make_window(enum qd_ssim_window kind)
{
	struct window w = { .size = kind == QD_SSIM_GAUSSIAN ? 11 : 7, .covariance = kind == QD_SSIM_GAUSSIAN ? 1 : 49.0 / 48 };
	double sum = 0, sigma = 1.5;
	for (int i = 0; i < w.size; i++) {
		double x = i - w.size / 2;
		w.weight[i] = kind == QD_SSIM_GAUSSIAN ? exp(-x * x / (2 * sigma * sigma)) : 1;
		sum += w.weight[i];
	}
	for (int i = 0; i < w.size; i++)
		w.weight[i] /= sum;
	return w;
}

/* One channel of both images, and room for the five local means. H, W are the image's, h, w those of the windows' positions. */
struct planes {
	size_t H, W, h, w;
	double *x, *y;               /* [H,W] */
	double *product, *row_means; /* [H,W], [H,w] */
	double *mean[5];             /* [h,w]: of x, y, xx, yy, xy */
};

static void local_mean(const struct planes *p, const struct window *win, const double *from, double *to)
{
	for (size_t i = 0; i < p->H; i++) {
		for (size_t j = 0; j < p->w; j++) {
			double sum = 0;
			for (int k = 0; k < win->size; k++)
				sum += win->weight[k] * from[i * p->W + j + (size_t)k];
			p->row_means[i * p->w + j] = sum;
		}
	}
	memset(to, 0, p->h * p->w * sizeof(*to));
	for (size_t i = 0; i < p->h; i++)
		for (int k = 0; k < win->size; k++)
			for (size_t j = 0; j < p->w; j++)
				to[i * p->w + j] += win->weight[k] * p->row_means[(i + (size_t)k) * p->w + j];
}

static void local_mean_of_product(const struct planes *p, const struct window *win, const double *a, const double *b, double *to)
{
	for (size_t i = 0; i < p->H * p->W; i++)
		p->product[i] = a[i] * b[i];
	local_mean(p, win, p->product, to);
}

static double plane_ssim(const struct planes *p, const struct window *win)
{
	const double c1 = 0.01 * 255 * 0.01 * 255, c2 = 0.03 * 255 * 0.03 * 255;
	local_mean(p, win, p->x, p->mean[0]);
	local_mean(p, win, p->y, p->mean[1]);
	local_mean_of_product(p, win, p->x, p->x, p->mean[2]);
	local_mean_of_product(p, win, p->y, p->y, p->mean[3]);
	local_mean_of_product(p, win, p->x, p->y, p->mean[4]);
	double sum = 0;
	for (size_t i = 0; i < p->h * p->w; i++) {
		double mx = p->mean[0][i], my = p->mean[1][i];
		double vx = win->covariance * (p->mean[2][i] - mx * mx), vy = win->covariance * (p->mean[3][i] - my * my);
		double cov = win->covariance * (p->mean[4][i] - mx * my);
		sum += (2 * mx * my + c1) * (2 * cov + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2));
	}
	return sum / (double)(p->h * p->w);
}

static enum qd_status planes_init(struct planes *p, int width, int height, const struct window *win)
{
	*p = (struct planes){ .H = (size_t)height, .W = (size_t)width };
	p->h = p->H - (size_t)win->size + 1;
	p->w = p->W - (size_t)win->size + 1;
	size_t whole = p->H * p->W, inner = p->h * p->w;
	double *memory = malloc((3 * whole + p->H * p->w + 5 * inner) * sizeof(double));
	if (!memory)
		return qd_fail(QD_ENOMEM, "out of memory");
	p->x = memory;
	p->y = p->x + whole;
	p->product = p->y + whole;
	p->row_means = p->product + whole;
	p->mean[0] = p->row_means + p->H * p->w;
	for (int i = 1; i < 5; i++)
		p->mean[i] = p->mean[i - 1] + inner;
	return QD_OK;
}

enum qd_status qd_ssim(
	const uint8_t *a, const uint8_t *b, int width, int height, int channels, enum qd_ssim_window window, double *out)
{
	struct window win = make_window(window);
	if (width < win.size || height < win.size || channels < 1)
		return qd_fail(QD_EINPUT, "image of %d x %d pixels, needs at least %d x %d", width, height, win.size, win.size);
	struct planes p;
	enum qd_status st = planes_init(&p, width, height, &win);
	if (st != QD_OK)
		return st;
	double sum = 0;
	for (int c = 0; c < channels; c++) {
		for (size_t i = 0; i < p.H * p.W; i++) {
			p.x[i] = a[i * (size_t)channels + (size_t)c];
			p.y[i] = b[i * (size_t)channels + (size_t)c];
		}
		sum += plane_ssim(&p, &win);
	}
	*out = sum / channels;
	free(p.x);
	return QD_OK;
}

/* ---- Frechet distance ---- */

static void mean_and_covariance(const float *x, size_t n, size_t d, double *mean, double *covariance)
{
	memset(mean, 0, d * sizeof(*mean));
	memset(covariance, 0, d * d * sizeof(*covariance));
	for (size_t i = 0; i < n; i++)
		for (size_t j = 0; j < d; j++)
			mean[j] += (double)x[i * d + j] / (double)n;
	for (size_t i = 0; i < n; i++)
		for (size_t j = 0; j < d; j++)
			for (size_t k = 0; k < d; k++)
				covariance[j * d + k] +=
					((double)x[i * d + j] - mean[j]) * ((double)x[i * d + k] - mean[k]) / (double)(n - 1);
}

static void multiply(const double *a, const double *b, size_t d, double *c)
{
	memset(c, 0, d * d * sizeof(*c));
	for (size_t i = 0; i < d; i++)
		for (size_t k = 0; k < d; k++)
			for (size_t j = 0; j < d; j++)
				c[i * d + j] += a[i * d + k] * b[k * d + j];
}

/* out = V^T diag(sqrt w) V for eigenvectors in V's rows. Rounding makes eigenvalues of 0 slightly negative. */
static void symmetric_root(const double *v, const double *w, size_t d, double *out)
{
	memset(out, 0, d * d * sizeof(*out));
	for (size_t k = 0; k < d; k++) {
		double root = sqrt(fmax(w[k], 0));
		for (size_t i = 0; i < d; i++)
			for (size_t j = 0; j < d; j++)
				out[i * d + j] += root * v[k * d + i] * v[k * d + j];
	}
}

/* tr (A^1/2 B A^1/2)^1/2; `cov_a` is destroyed, `s` and `t` are room, all [d,d]; w [d]. */
static enum qd_status trace_of_root(double *cov_a, const double *cov_b, size_t d, double *s, double *t, double *w, double *out)
{
	enum qd_status st;
	*out = 0;
	QD_TRY(st, qd_eigen_symmetric(cov_a, d, w));
	symmetric_root(cov_a, w, d, s);
	multiply(s, cov_b, d, t);
	multiply(t, s, d, cov_a);
	QD_TRY(st, qd_eigen_symmetric(cov_a, d, w));
	for (size_t i = 0; i < d; i++)
		*out += sqrt(fmax(w[i], 0));
out:
	return st;
}

enum qd_status qd_frechet_distance(const float *a, size_t n, const float *b, size_t m, size_t d, double *out)
{
	if (n < 2 || m < 2 || d < 1)
		return qd_fail(QD_EINPUT, "sets of %zu and %zu features, need at least 2 of each", n, m);
	size_t square = d * d;
	double *memory = malloc((4 * square + 3 * d) * sizeof(double));
	if (!memory)
		return qd_fail(QD_ENOMEM, "out of memory");
	double *cov_a = memory, *cov_b = cov_a + square, *s = cov_b + square, *t = s + square;
	double *mean_a = t + square, *mean_b = mean_a + d, *w = mean_b + d, root = 0, sum = 0;
	mean_and_covariance(a, n, d, mean_a, cov_a);
	mean_and_covariance(b, m, d, mean_b, cov_b);
	for (size_t i = 0; i < d; i++)
		sum += (mean_a[i] - mean_b[i]) * (mean_a[i] - mean_b[i]) + cov_a[i * d + i] + cov_b[i * d + i];
	enum qd_status st = trace_of_root(cov_a, cov_b, d, s, t, w, &root);
	*out = sum - 2 * root;
	free(memory);
	return st;
}
