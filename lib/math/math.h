/*
 * lib/math: random numbers, matrix products and singular values (OpenBLAS, called nowhere else), statistics, and the measures by
 * which two outputs are compared. Sums are in double precision throughout; matrices are row-major.
 */
#ifndef QUAD_LIB_MATH_MATH_H
#define QUAD_LIB_MATH_MATH_H

#include "lib/base/base.h"

/* ---- random numbers ---- */

/*
 * xoshiro256** 1.0 (Blackman, Vigna), its state filled by splitmix64. Equal seed and stream give equal numbers everywhere;
 * different streams of one seed are independent, so that work can be split without its split changing the result.
 */
struct qd_random {
	uint64_t state[4];
	bool has_spare;
	double spare; /* the second of a pair of normal numbers */
};
void qd_random_init(struct qd_random *random, uint64_t seed, uint64_t stream);
uint64_t qd_random_u64(struct qd_random *random);
/* In [0, n), every value equally likely; n > 0. */
uint64_t qd_random_below(struct qd_random *random, uint64_t n);
/* In [0, 1), a multiple of 2^-53. */
double qd_random_uniform(struct qd_random *random);
/* Standard normal (Box-Muller). */
double qd_random_normal(struct qd_random *random);

/*
 * PyTorch's CPU generator: what torch.manual_seed(seed) followed by torch.randn(...) of float32 draws, to float32 rounding. A
 * generator continues its stream from one draw to the next, as PyTorch's does.
 */
struct qd_mt19937 {
	uint32_t state[624];
	unsigned at;
	bool has_spare;
	double spare;
};
void qd_mt19937_init(struct qd_mt19937 *generator, uint64_t seed);
/* The next 32 bits. */
uint32_t qd_mt19937_next(struct qd_mt19937 *generator);
/* out float32 [n]: one call of randn for n values; the split into calls matters. */
void qd_mt19937_randn(struct qd_mt19937 *generator, size_t n, float *out);
/* One draw from a fresh generator. */
void qd_randn_torch(uint64_t seed, size_t n, float *out);

/* ---- linear algebra ---- */

/* How many threads matrix products use from here on; at least 1. */
void qd_set_blas_threads(int threads);

/*
 * C = alpha op(A) op(B) + beta C, float32. op(A) is [m,k]: A is stored [m,lda] when `transpose_a` is false, else [k,lda]; op(B) is
 * [k,n] likewise; C is [m,ldc]. With beta = 0, C may hold anything before. No dimension is above 2^31 - 1.
 */
void qd_gemm(bool transpose_a, bool transpose_b, size_t m, size_t n, size_t k, float alpha, const float *a, size_t lda,
	const float *b, size_t ldb, float beta, float *c, size_t ldc);

/*
 * G += X X^T, the inner products of the rows of x f32 [m,n], products and sums in double; g [m,m] symmetric. QD_ENOMEM.
 */
QD_CHECK enum qd_status qd_gram_add(const float *x, size_t m, size_t n, double *g);

/*
 * Thin singular value decomposition A = U diag(S) Vt, float32: a [m,n] (kept), u [m,r], s [r] in decreasing order, vt [r,n], with
 * r = min(m, n). QD_ENOMEM; QD_EINPUT when A holds something not finite, when it is too large, or when the iteration does not
 * converge.
 */
QD_CHECK enum qd_status qd_svd(const float *a, size_t m, size_t n, float *u, float *s, float *vt);

/*
 * Eigenvalues of a symmetric matrix, float64: a [n,n] becomes its eigenvectors, one per row; w [n] the eigenvalues in increasing
 * order. QD_ENOMEM, QD_EINPUT as above.
 */
QD_CHECK enum qd_status qd_eigen_symmetric(double *a, size_t n, double *w);

/* ---- statistics of a sample ---- */

/* The mean; 0 when n = 0. */
double qd_mean(const double *x, size_t n);
/* Standard error of the mean, from the sample standard deviation (n - 1); 0 when n < 2. */
double qd_standard_error(const double *x, size_t n);
/* Population standard deviation (n) of float32 values; 0 when n = 0. */
double qd_population_std(const float *x, size_t n);

/*
 * Paired t-test of mean(a - b) = 0, two-sided: t = mean / standard error with n - 1 degrees of freedom, `*p` the probability of a
 * |t| at least this large. Equal samples give t = 0, p = 1; a constant difference t = +-infinity, p = 0. `t` may be NULL.
 * QD_EINPUT: n < 2.
 */
QD_CHECK enum qd_status qd_paired_t_test(const double *a, const double *b, size_t n, double *t, double *p);
/* Probability that a Student t variable with `freedom` degrees of freedom is at least |t| away from 0. */
double qd_student_two_sided(double t, double freedom);
/* Regularized incomplete beta function I_x(a, b), a, b > 0, x in [0, 1] (DLMF 8.17). */
double qd_incomplete_beta(double a, double b, double x);

/* Whether no value of x float32 [n] is NaN or infinite. */
bool qd_all_finite(const float *x, size_t n);

/* ---- two signals ---- */

/* Sums over pairs (reference, measured), filled in any number of calls; zero it to begin. */
struct qd_error {
	uint64_t n;
	double reference, measured, product; /* sums of r^2, m^2, r m */
	double error, largest;               /* sum of (m - r)^2, max |m - r|; NaN where a difference is */
};
void qd_error_add(struct qd_error *sums, const float *reference, const float *measured, size_t n);
/* Mean squared error; 0 of nothing. */
double qd_error_mse(const struct qd_error *sums);
/* 10 log10(sum r^2 / sum (m - r)^2) in dB; infinite when there is no error. */
double qd_error_sqnr_db(const struct qd_error *sums);
/* Cosine of the angle between the two; 1 when both are zero, 0 when one is. */
double qd_error_cosine(const struct qd_error *sums);
/* The three for signals in one piece, float32 [n]. */
double qd_mse(const float *reference, const float *measured, size_t n);
double qd_sqnr_db(const float *reference, const float *measured, size_t n);
double qd_cosine(const float *reference, const float *measured, size_t n);

/* Peak signal to noise ratio in dB, 10 log10(range^2 / mse); infinite when mse = 0. */
double qd_psnr(double mse, double range);

/* ---- two distributions, natural logarithm ---- */

/* p float64 [n] = softmax(x / tau), x float32 [n], tau > 0. */
void qd_softmax(const float *x, size_t n, double tau, double *p);
/* Jensen-Shannon divergence (squared distance) of p and q, float64 [n]. */
double qd_js_divergence(const double *p, const double *q, size_t n);
/* Kullback-Leibler divergence of p from q, sum p ln(p / q); infinite where q is 0 and p is not. */
double qd_kl_divergence(const double *p, const double *q, size_t n);
/* The same of softmax(x / tau) and softmax(y / tau), from logarithms: exact also where the probabilities underflow or nearly agree.
 */
double qd_softmax_js(const float *x, const float *y, size_t n, double tau);
double qd_softmax_kl(const float *x, const float *y, size_t n, double tau);

/* ---- resizing (resize.c): in float32 [planes,height,width] -> out float32 [planes,out_height,out_width] ---- */

/* Lanczos' filter, free of aliasing when the image becomes smaller; overshoots at edges. QD_ENOMEM. */
QD_CHECK enum qd_status qd_resize_lanczos(
	const float *in, int planes, int height, int width, int out_height, int out_width, float *out);
/* Takes values as they are, so that masks stay binary. */
void qd_resize_nearest(const float *in, int planes, int height, int width, int out_height, int out_width, float *out);

/* ---- two images: uint8 [height,width,channels], data range 255 ---- */

double qd_mse_u8(const uint8_t *a, const uint8_t *b, size_t n);

/*
 * Structural similarity (Wang et al. 2004), K = 0.01, 0.03: mean over channels and over the pixels whose window lies in the image.
 * GAUSSIAN: 11 x 11, sigma 1.5, weighted population covariance (the paper's). UNIFORM7: 7 x 7 mean, sample covariance.
 * QD_EINPUT when the image is smaller than the window; QD_ENOMEM.
 */
enum qd_ssim_window { QD_SSIM_GAUSSIAN, QD_SSIM_UNIFORM7 };
QD_CHECK enum qd_status qd_ssim(
	const uint8_t *a, const uint8_t *b, int width, int height, int channels, enum qd_ssim_window window, double *out);

/*
 * Frechet distance of two sets of features (Heusel et al. 2017), a float32 [n,d], b float32 [m,d]:
 * |mean a - mean b|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2), A and B the sample covariances. QD_EINPUT: fewer than two of either.
 */
QD_CHECK enum qd_status qd_frechet_distance(const float *a, size_t n, const float *b, size_t m, size_t d, double *out);

#endif
