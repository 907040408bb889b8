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

/* At least `bytes` aligned to 64, or NULL without a message; free with the same number of bytes. memory.c says what it is for. */
void *qd_large_alloc(size_t bytes);
void qd_large_free(void *memory, size_t bytes);

/* ---- threads (threads.c) ---- */
/* The number of the calling thread in its parallel region, and how many the next region would have. */
int qd_thread(void);
int qd_threads(void);
/* How many regions of the calling thread have from here on. */
void qd_use_threads(int n);

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
 * ---- numbers in memory (numbers.c): float32, or codes q of y = (q - zero) * scale on the grid of the integers [0, high] ----
 * A signed grid is stored shifted: low is taken from its codes and from its zero point. Codes of more than 8 bits are two planes of
 * bytes, q = 256 hi + lo, which are what integer products take. An array of numbers is indexed by element, whatever its form.
 */
enum qd_form { QD_FORM_F32, QD_FORM_U8, QD_FORM_U16 };
struct qd_numbers {
	enum qd_form form;
	void *at;     /* F32: float; U8: codes; U16: the high bytes */
	size_t plane; /* U16: bytes from an element's high byte to its low one */
	float scale, zero, high;
};
/* Bytes of n elements (U16: of both planes, when the low one begins where the high one ends). */
size_t qd_numbers_bytes(enum qd_form form, size_t n);
/* Elements [first, first + n) as floats; y f32 [n]. */
void qd_numbers_load(const struct qd_numbers *x, size_t first, size_t n, float *y);
/* The floats x [n], rounded to the grid as qd_quantize_f32 does, into elements [first, first + n). */
void qd_numbers_store(const struct qd_numbers *y, size_t first, size_t n, const float *x);
/* x f32 [n] -> what storing and loading would give; y may be x. Not for F32, whose numbers stay as they are. */
void qd_numbers_round(const struct qd_numbers *grid, size_t n, const float *x, float *y);

/* g f32 [n], gradients at elements [first, first + n): zero where the code is the grid's first or last one, which stands for what was
 * clipped; not where such an end is the number 0. */
void qd_numbers_mask(const struct qd_numbers *x, size_t first, size_t n, float *g);

/* ---- elementwise operators on n floats (elementwise.c); results may take an operand's place ---- */
enum qd_binary { QD_BINARY_ADD, QD_BINARY_SUB, QD_BINARY_MUL, QD_BINARY_DIV };
enum qd_unary { QD_UNARY_SIGMOID, QD_UNARY_GELU, QD_UNARY_RELU, QD_UNARY_NEG };
void qd_binary_f32(enum qd_binary op, size_t n, const float *a, const float *b, float *to);
/* op(a, number), or op(number, a). */
void qd_binary_number_f32(enum qd_binary op, size_t n, const float *a, float number, bool swapped, float *to);
void qd_unary_f32(enum qd_unary op, size_t n, const float *x, float *to);
/* g <- g times the operator's slope at x. */
void qd_unary_slope_f32(enum qd_unary op, size_t n, const float *x, float *g);

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

/*
 * The same over numbers of any form; strides count elements. What lies between the two products may have grids of its own (NULL:
 * float32): the scores q k^T, these times scale, and the softmax; each is rounded to its grid before it goes on, and the softmax is
 * that of whole rows. With a grid the scores of some rows of one head exist at a time, never more than 64 MiB over all threads.
 * QD_ENOMEM.
 */
struct qd_attention_grids {
	const struct qd_numbers *scores, *scaled, *weights; /* of each only the grid counts */
};
QD_CHECK enum qd_status qd_attention_numbers(const struct qd_attention *a, const struct qd_numbers *q, const struct qd_numbers *k,
	const struct qd_numbers *v, const struct qd_attention_grids *grids, const struct qd_numbers *out);

/* ---- products whose weights are packed once and used often, for inference ---- */

/*
 * y = x * w (+ bias) (+ other). A convolution of x [n, height, width, in] by w [out, in, kernel_h, kernel_w] gives y [n,
 * out_height, out_width, out]; a linear layer of `n` rows has height, width, kernel, output size and strides 1. Adding `other` here
 * gives the same bits as adding it afterwards.
 */
/* How float32 products are made. All but the last are float32-accurate. */
enum qd_product_way {
	QD_WAY_BEST,     /* whichever is fastest on this processor */
	QD_WAY_FLOAT,    /* float32 arithmetic */
	QD_WAY_BFLOAT16, /* x and w as sums of two bfloat16 each, hi hi + hi lo + lo hi summed in float32 */
	QD_WAY_COARSE,   /* x and w rounded to bfloat16, summed in float32: for gradients; float32 where there is none */
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
/* The memory a run works in, and what the packed weights take. */
size_t qd_product_scratch_bytes(const struct qd_product *product);
size_t qd_product_weight_bytes(const struct qd_product *product);
/*
 * x, y, other (as y, not y itself) and bias [out] f32; bias and other NULL where the spec has none; scratch of that many bytes,
 * aligned to 64, which may serve many products. One run of a product at a time.
 */
QD_CHECK enum qd_status qd_product_run(
	struct qd_product *product, const float *x, const float *bias, const float *other, float *y, void *scratch);

/*
 * The gradient of w: dw [out, in, kernel_h, kernel_w] = sum over the result's rows of dy[row, out] x[the pixel under that tap, in]; x and
 * dy f32, dense and channels-last. Sums run over the rows in order, whatever the number of threads. QD_ENOMEM. (product_gradient.c)
 */
QD_CHECK enum qd_status qd_product_weight_gradient_f32(
	const struct qd_product_spec *spec, const float *x, const float *dy, float *dw);
/*
 * The product that gives dx of dy: the spec of a convolution of dy (with zeros between its pixels where strides are above 1) by the
 * weights turned round. QD_EUNSUPPORTED where it needs negative padding.
 */
QD_CHECK enum qd_status qd_product_back_spec(const struct qd_product_spec *spec, struct qd_product_spec *out);
/* w [out, in, kernel_h, kernel_w] -> turned [in, out, kernel_h, kernel_w], taps from the last to the first. */
void qd_product_turn_weights(const struct qd_product_spec *spec, const float *w, float *turned);

/*
 * ---- products of codes (integer.c): exact ----
 * What an integer processor computes: the sums over k of (q_x - zero_x) q_w are exact integers, whatever the processor here has.
 * `shape` says sizes as above; bias, add and way of it are not looked at.
 */
struct qd_integer_spec {
	struct qd_product_spec shape;
	enum qd_form x; /* U8 or U16 */
	int w_bits;     /* of the weights' signed codes: up to 16 */
};
struct qd_integer_product;
/* QD_EUNSUPPORTED when the library has no such product. */
QD_CHECK enum qd_status qd_integer_product_new(struct qd_integer_product **out, const struct qd_integer_spec *spec);
void qd_integer_product_free(struct qd_integer_product *product);
/* w: signed codes [out, in, kernel_h, kernel_w]; copied into the product's own order, replacing what it had. QD_ENOMEM. */
QD_CHECK enum qd_status qd_integer_product_pack(struct qd_integer_product *product, const int16_t *w);
size_t qd_integer_product_scratch_bytes(const struct qd_integer_product *product);
/* Bytes that the packed weights take. */
size_t qd_integer_product_weight_bytes(const struct qd_integer_product *product);
/*
 * Takes rows [first, first + n) of the result, f32 [n, out], from any thread, each row once; it may change them.
 * A row is a pixel or a linear layer's row.
 */
typedef void (*qd_rows_sink)(void *context, size_t first, size_t n, float *rows);
/*
 * x codes, dense and channels-last; row r, column c of the result is float(sum) * (x->scale * w_scale[c]) + bias[c], the exact sum
 * rounded to float32 once, in float32 arithmetic after. w_scale f32 [out], bias f32 [out] or NULL. Pixels around x are 0, whose
 * code is the zero point. scratch aligned to 64.
 */
QD_CHECK enum qd_status qd_integer_product_run(struct qd_integer_product *product, const struct qd_numbers *x, const float *w_scale,
	const float *bias, qd_rows_sink sink, void *context, void *scratch);

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
/* The same over numbers of any form, which lie densely; row n * pixels + pixel is a pixel's channels. QD_ENOMEM. */
QD_CHECK enum qd_status qd_group_norm_numbers(const struct qd_group_norm *g, const struct qd_numbers *x, const float *scale,
	const float *bias, const float *shift, qd_rows_sink sink, void *context);
/* Layer normalization of each row of x [rows, channels]; bias may be NULL, y may be x. */
void qd_layer_norm_f32(int64_t rows, int64_t channels, float eps, const float *x, const float *scale, const float *bias, float *y);
/* The same over numbers of any form, which lie densely. QD_ENOMEM. */
QD_CHECK enum qd_status qd_layer_norm_numbers(int64_t rows, int64_t channels, float eps, const struct qd_numbers *x,
	const float *scale, const float *bias, qd_rows_sink sink, void *context);
/* Their gradients at x, added to dx f32 (norm_gradient.c); dy f32, like dx dense as x. shift and silu of `g` are not looked at. QD_ENOMEM.
 */
QD_CHECK enum qd_status qd_group_norm_backward(
	const struct qd_group_norm *g, const struct qd_numbers *x, const float *scale, const float *dy, float *dx);
QD_CHECK enum qd_status qd_layer_norm_backward(
	int64_t rows, int64_t channels, float eps, const struct qd_numbers *x, const float *scale, const float *dy, float *dx);
/* x [n] -> exp(x - max) / sum of them, n > 0. */
void qd_softmax_row_f32(size_t n, float *x);

#ifdef __cplusplus
}
#endif
#endif
