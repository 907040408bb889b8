/*
 * lib/kernel: the few hot loops, in plain C that the compiler turns into vectors, spread over OpenMP's threads. Each is compiled
 * for several instruction sets and the one the processor has is taken at run time. Products with weights (convolutions, linear
 * layers) are oneDNN's, through dnnl.c. No libtorch.
 *
 * Letters: N batch, H W pixels, C channels. Images are channels-last, [N,H,W,C]: a pixel's channels lie together, and an image is
 * at the same time the tokens [N*H*W, C] of a transformer.
 *
 * What quantizing means here and everywhere: q = clamp(rint(x / scale) + zero, low, high), y = (q - zero) * scale, in float32, with
 * a true division and ties to even. NaN gives low, infinities saturate, denormals are kept. |low| and |high| are below 2^24, so
 * that every code is an exact float32; codes of 32 bits (biases) have their own functions over double.
 */
#ifndef QUAD_LIB_KERNEL_KERNEL_H
#define QUAD_LIB_KERNEL_KERNEL_H

#include "lib/io/io.h"

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
 * One step of decoupled AdamW over n elements (Loshchilov & Hutter 2019); step counts from 1:
 *
 *   m <- b1 m + (1 - b1) g        v <- b2 v + (1 - b2) g^2
 *   x <- x (1 - lr wd) - lr (m / (1 - b1^step)) / (sqrt(v / (1 - b2^step)) + eps)
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

/* ---- products whose weights are packed once and used often, for inference ---- */

/*
 * y = x * w (+ bias) (+ other). A convolution of x [n, height, width, in] by w [out, in, kernel_h, kernel_w] gives y [n,
 * out_height, out_width, out]; a linear layer of `n` rows has height, width, kernel, output size and strides 1. Adding `other` here
 * gives the same bits as adding it afterwards.
 */
/* How float32 products are made. All are float32-accurate. */
enum qd_product_way {
	QD_WAY_BEST,     /* whichever is fastest on this processor */
	QD_WAY_FLOAT,    /* float32 arithmetic */
	QD_WAY_BFLOAT16, /* x and w as sums of two bfloat16 each, hi hi + hi lo + lo hi summed in float32 */
};
struct qd_product_spec {
	int64_t n, height, width, in, out, kernel_h, kernel_w, out_height, out_width;
	int64_t stride_h, stride_w, dilation_h, dilation_w, top, left, bottom, right; /* the last four: zeros around x */
	bool bias, add;
	enum qd_product_way way;
};
/* The spec of x [rows, in] times w [out, in] transposed. */
struct qd_product_spec qd_linear_spec(int64_t rows, int64_t in, int64_t out);
struct qd_product;
/* QD_EUNSUPPORTED when the library has no such product. Free with qd_product_free; kernels are shared between equal specs. */
QD_CHECK enum qd_status qd_product_new(struct qd_product **out, const struct qd_product_spec *spec);
void qd_product_free(struct qd_product *product);
/* Copies w (F32, F16 or BF16; its bytes are not needed after) into the product's own order, replacing what it had. QD_ENOMEM. */
QD_CHECK enum qd_status qd_product_pack(struct qd_product *product, const struct qd_tensor *w);
/* The memory a run works in. */
size_t qd_product_scratch_bytes(const struct qd_product *product);
/*
 * x, y, other (as y, not y itself) and bias [out] f32; bias and other NULL where the spec has none; scratch of that many bytes,
 * aligned to 64, which may serve many products. One run of a product at a time.
 */
QD_CHECK enum qd_status qd_product_run(
	struct qd_product *product, const float *x, const float *bias, const float *other, float *y, void *scratch);

/* ---- what lies between the products, on channels-last data ---- */

/*
 * Group normalization over x [n, pixels, channels] in `groups` groups: y = (x - mean) / sqrt(variance + eps) * scale + bias,
 * statistics per sample and group in double. `shift` f32 [n or 1, channels] (NULL: none) is added to x first; silu: y * sigmoid(y)
 * last. y may be x. QD_ENOMEM.
 */
struct qd_group_norm {
	int64_t n, pixels, channels, groups;
	float eps;
	bool silu;
	bool shift_per_sample; /* shift is [n, channels], not [channels] */
};
QD_CHECK enum qd_status qd_group_norm_f32(
	const struct qd_group_norm *g, const float *x, const float *scale, const float *bias, const float *shift, float *y);
/* Layer normalization of each row of x [rows, channels]; bias may be NULL, y may be x. */
void qd_layer_norm_f32(int64_t rows, int64_t channels, float eps, const float *x, const float *scale, const float *bias, float *y);
/* y [rows, width] = value * gelu(gate), x [rows, 2 width] holding value, then gate, in each row. */
void qd_gated_gelu_f32(int64_t rows, int64_t width, const float *x, float *y);
/* y [rows, widths[0] + ...] = the n parts [rows, widths[i]] side by side. */
void qd_concat_rows_f32(int64_t rows, size_t n, const int64_t *widths, const float *const *parts, float *y);

#ifdef __cplusplus
}
#endif
#endif
