/*
 * lib/math: random numbers, inner products and eigenvalues (OpenBLAS, called nowhere else), statistics, and the measures by which
 * two outputs are compared. Sums are in double precision throughout; matrices are row-major.
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
 * Who draws from which streams of a seed: from a range of 2^48 of them each, by an index into it. They are part of what equal seeds
 * give, so none ever moves. Ranges that coincide belong to different commands, or are used at different indices.
 *
 * Without a range: a random weight's stream is a hash of its tensor's name (lib/network/init.c), and scripts/example draws its
 * pictures under seeds of its own.
 */
enum qd_stream {
	/* sampling: draw d for sample i (qd_sample_noise), index (d << 32) + i */
	QD_STREAM_SAMPLING = 0,
	/* training and distillation */
	QD_STREAM_PASS = 0,            /* the order of the data in pass p, index p */
	QD_STREAM_STEP = 0x4000,       /* noise and timesteps of training step k, index k */
	QD_STREAM_POOL = 0x4000,       /* of the batch that begins with draw k of a student's pool, index k */
	QD_STREAM_VALIDATION = 0x8000, /* of validation batch b, index b */
	QD_STREAM_FRESH = 0xc000,      /* a fresh adapter's down, index 0 */
	/* calibration data, index: sample, row or trajectory */
	QD_STREAM_ORDER = 0, /* which part of the schedule a sample's timestep is from, index 0 */
	QD_STREAM_TIMESTEP,  /* where in it */
	QD_STREAM_NOISE,
	QD_STREAM_LATENT, /* of the VAE's distribution, by image */
	QD_STREAM_WALK,   /* a trajectory's starting noise */
	QD_STREAM_ROWS,   /* which rows are taken of more than are asked for, index 0 */
	QD_STREAM_STATES, /* which of their steps trajectories give, index: adapter + (samples of each << 24) */
	/* calibration of ranges, seed 0: codes of a slot that the adapters leave free, index: slot */
	QD_STREAM_FREE_SLOT = 0,
	/* scripts/example: noise of sample i, index 2^48 - 1 - i */
	QD_STREAM_EXAMPLE = 0xffff
};
/* What qd_random_init takes for `index` of a range. */
uint64_t qd_stream(enum qd_stream range, uint64_t index);
/* out float32 [n]: the standard normal numbers that a stream begins with. */
void qd_random_normals(uint64_t seed, uint64_t stream, size_t n, float *out);

/* ---- linear algebra: OpenBLAS, loaded at the first call; all give QD_EUNSUPPORTED where it cannot be ---- */

/*
 * G += X X^T, the inner products of the rows of x f32 [m,n], products and sums in double; g [m,m] symmetric. QD_ENOMEM.
 */
QD_CHECK enum qd_status qd_gram_add(const float *x, size_t m, size_t n, double *g);

/*
 * Eigenvalues of a symmetric matrix, float64: a [n,n] becomes its eigenvectors, one per row; w [n] the eigenvalues in increasing
 * order. QD_ENOMEM; QD_EINPUT when A holds something not finite, when it is too large, or when the iteration does not converge.
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
/* 10 log10(sum r^2 / sum (m - r)^2) in dB; infinite when there is no error. */
double qd_error_sqnr_db(const struct qd_error *sums);
/* For signals in one piece, float32 [n]. Mean squared error; 0 of nothing. */
double qd_mse(const float *reference, const float *measured, size_t n);
double qd_sqnr_db(const float *reference, const float *measured, size_t n);
/* Cosine of the angle between the two; 1 when both are zero, 0 when one is. */
double qd_cosine(const float *reference, const float *measured, size_t n);

/* Peak signal to noise ratio in dB, 10 log10(range^2 / mse); infinite when mse = 0. */
double qd_psnr(double mse, double range);

/* ---- two distributions p = softmax(x / tau) and q = softmax(y / tau), natural logarithm ---- */
/* From the logarithms of p and q: exact also where probabilities underflow or nearly agree. x, y float32 [n], tau > 0. */

/* Jensen-Shannon divergence (squared distance). */
double qd_softmax_js(const float *x, const float *y, size_t n, double tau);
/* Kullback-Leibler divergence of p from q, sum p ln(p / q). */
double qd_softmax_kl(const float *x, const float *y, size_t n, double tau);

/* ---- resizing (resize.c): in float32 [planes,height,width] -> out float32 [planes,out_height,out_width] ---- */

/* Lanczos' filter, free of aliasing when the image becomes smaller; overshoots at edges. QD_ENOMEM. */
QD_CHECK enum qd_status qd_resize_lanczos(
	const float *in, int planes, int height, int width, int out_height, int out_width, float *out);
/* Takes values as they are, so that masks stay binary. */
void qd_resize_nearest(const float *in, int planes, int height, int width, int out_height, int out_width, float *out);

/* ---- two images: uint8 [height,width,channels], data range 255 ---- */

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
