/*
 * lib/kernel: the few hot loops, in plain C that the compiler turns into vectors, spread over OpenMP's threads. Each is compiled
 * for several instruction sets and the one the processor has is taken at run time. No allocation outside attention, no libtorch.
 *
 * What quantizing means here and everywhere: q = clamp(rint(x / scale) + zero, low, high), y = (q - zero) * scale, in float32, with
 * a true division and ties to even. NaN gives low, infinities saturate, denormals are kept. |low| and |high| are below 2^24, so
 * that every code is an exact float32; codes of 32 bits (biases) have their own functions over double.
 */
#ifndef QUAD_LIB_KERNEL_KERNEL_H
#define QUAD_LIB_KERNEL_KERNEL_H

#include "lib/base/base.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A grid over x seen as [outer, channels, inner]: scale and zero f32 [channels]. One channel is "per tensor". */
struct qd_grid {
	size_t outer, channels, inner;
	const float *scale, *zero;
	float low, high;
};

/* x f32 -> codes q i32, both [outer, channels, inner]. */
void qd_quantize_f32(const struct qd_grid *grid, const float *x, int32_t *q);
/* y = float(q - zero) * scale; q i32, y f32, both [outer, channels, inner]. Any 32-bit q. */
void qd_dequantize_f32(const struct qd_grid *grid, const int32_t *q, float *y);
/*
 * Both at once, y f32 as x (y may be x): equal bit for bit to quantizing and dequantizing. Returns how many elements lay outside
 * [low, high] before clamping (NaN counts as outside).
 */
size_t qd_fake_quantize_f32(const struct qd_grid *grid, const float *x, float *y);
/* Its straight-through gradient: dx = dy where rint(x / scale) + zero lies within [low, high], else 0. dx may be dy. */
void qd_fake_quantize_backward_f32(const struct qd_grid *grid, const float *x, const float *dy, float *dx);

/* Smallest and largest of n > 0 elements; false (and no result) when any is NaN or infinite. */
bool qd_min_max_f32(const float *x, size_t n, float *low, float *high);

/*
 * One step of decoupled AdamW over n elements (Loshchilov & Hutter 2019): m = b1 m + (1-b1) g; v = b2 v + (1-b2) g^2;
 * x = x (1 - lr wd); x -= lr (m / (1-b1^step)) / (sqrt(v / (1-b2^step)) + eps). step counts from 1.
 */
struct qd_adamw {
	int64_t step;
	double lr, beta1, beta2, eps, weight_decay;
};
void qd_adamw_f32(const struct qd_adamw *options, size_t n, float *x, float *m, float *v, const float *g);

/*
 * Attention: out = softmax(q k^T * scale) v for each of `batch` x `heads`; q, out [batch, heads, queries, d], k [batch, heads,
 * keys, d], v [batch, heads, keys, dv], out [batch, heads, queries, dv]. Rows are contiguous; the other strides, in elements, are
 * given, so that heads inside a token's row need no copy. Scores exist one tile at a time.
 */
struct qd_strides {
	int64_t batch, head, row;
};
struct qd_attention {
	int64_t batch, heads, queries, keys, d, dv;
	float scale;
	struct qd_strides q, k, v, out;
};
/* `logsum` f32 [batch, heads, queries] receives log(sum(exp(score))) per row, for the backward; NULL when none is needed.
 * QD_ENOMEM. */
QD_CHECK enum qd_status qd_attention_f32(
	const struct qd_attention *a, const float *q, const float *k, const float *v, float *out, float *logsum);
/* Where the gradients go: overwritten, each with its own strides. */
struct qd_attention_gradients {
	struct qd_strides dq_strides, dk_strides, dv_strides;
	float *dq, *dk, *dv;
};
/* Gradients of the above, recomputing the scores from `logsum`; out and dout have the strides a->out. QD_ENOMEM. */
QD_CHECK enum qd_status qd_attention_backward_f32(const struct qd_attention *a, const float *q, const float *k, const float *v,
	const float *out, const float *logsum, const float *dout, const struct qd_attention_gradients *to);

#ifdef __cplusplus
}
#endif
#endif
