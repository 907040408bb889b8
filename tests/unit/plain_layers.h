/*
 * What networks are made of, as plain loops in double precision over one sample: nothing of lib/ir, lib/kernel or libtorch is used.
 */
#ifndef QUAD_TESTS_UNIT_PLAIN_LAYERS_H
#define QUAD_TESTS_UNIT_PLAIN_LAYERS_H

#include "lib/model/model.h"

/* [c][h][w]; x is the caller's to free. */
struct plain_image {
	int c, h, w;
	double *x;
};
struct plain_image plain_new(int c, int h, int w);
struct plain_image plain_copy(const struct plain_image *x);
/* `next` in place of `*x`. */
void plain_replace(struct plain_image *x, struct plain_image next);
void plain_each(struct plain_image *x, double (*f)(double));
void plain_add(struct plain_image *x, const struct plain_image *y);
/* Every pixel four times, cut to h x w. */
struct plain_image plain_doubled(const struct plain_image *x, int h, int w);

/* "<path><leaf>" of a file that holds F32; ends the program where there is none. */
const float *plain_weight(const struct qd_weights *weights, const char *path, const char *leaf);
/* A formatted path: the last 256 stay valid. */
const char *plain_path(const char *fmt, ...) QD_PRINTF(1, 2);

/*
 * The matrix or kernel at `path`, n numbers, with what the adapter (NULL: none) adds, up diag(gain) down. The caller frees it.
 */
double *plain_kernel(const struct qd_weights *weights, const struct qd_adapter *adapter, const char *path, int n);

/* w [out][c][k][k], b [out] or NULL; `before` and `after`: rows and columns of zeros in front and behind. */
struct plain_image plain_conv(
	const double *w, const float *b, const struct plain_image *x, int out, int k, int stride, int before, int after);
void plain_group_norm(int groups, double eps, const float *w, const float *b, struct plain_image *x);
/* rows x in -> rows x out, the caller's to free. */
double *plain_linear(const double *w, const float *b, int rows, int in, int out, const double *x);
void plain_layer_norm(int rows, int d, double eps, const float *w, const float *b, double *x);
/*
 * softmax(q k^T / sqrt(d / heads)) v, head by head: `rows` queries, `keys` keys, d features. `causal`: row i sees keys up to i;
 * mask[j] 0: no row sees key j (NULL: all do).
 */
double *plain_attention(
	int rows, int keys, int d, int heads, const double *q, const double *k, const double *v, bool causal, const int32_t *mask);

double plain_silu(double x);
double plain_gelu(double x);

#endif
