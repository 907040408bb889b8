/*
 * lib/torch/shim.h: a small C ABI over libtorch. C11; the only C++ over libtorch is shim.cc. No policy lives here.
 *
 * Every function returns a status, writes through `out` (set to NULL first) and catches every exception. Handles are opaque new
 * references: release each with qt_free. qt_live() counts them. Tensors are float32 unless said otherwise; "like x" means x's
 * device and dtype. Gradients are recorded for tensors with requires_grad unless qt_set_grad(false).
 */
#ifndef QUAD_LIB_TORCH_SHIM_H
#define QUAD_LIB_TORCH_SHIM_H

#include "lib/io/io.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct qt_opaque *qt_tensor;

/* ---- library ---- */
const char *qt_version(void);
int64_t qt_live(void);
QD_CHECK enum qd_status qt_set_threads(int threads);
/*
 * Whether convolutions and linear layers compute on bfloat16: operands and results are rounded to it, sums inside are float32
 * (mixed-precision training). About twice as fast where the CPU multiplies bfloat16. Off unless set; never used where exactness
 * matters.
 */
void qt_set_bfloat16(bool on);
void qt_set_grad(bool on);
bool qt_get_grad(void);
/* "cpu", "cuda" or "cuda:1": sets the device of tensors made from now on. QD_EUNSUPPORTED when this libtorch has no such device. */
QD_CHECK enum qd_status qt_set_device(const char *device);

/* ---- in and out ---- */
/* Copies bytes (F32, F16, BF16, I64, I32, I8, U8, I16, BOOL, U16 as I32) to a tensor on the current device; floats become float32.
 */
QD_CHECK enum qd_status qt_from_tensor(const struct qd_tensor *tensor, qt_tensor *out);
/* As above without a copy when it is aligned float32 and the device is the CPU: the bytes must outlive every use. Never written to.
 */
QD_CHECK enum qd_status qt_borrow_tensor(const struct qd_tensor *tensor, qt_tensor *out);
QD_CHECK enum qd_status qt_zeros(const struct qd_shape *shape, qt_tensor *out);
QD_CHECK enum qd_status qt_full(const struct qd_shape *shape, float value, qt_tensor *out);
/* Contiguous copy to caller's memory: `bytes` must be the exact size, float32 (or int64 for I64 tensors). */
QD_CHECK enum qd_status qt_read(qt_tensor x, void *data, size_t bytes);
QD_CHECK enum qd_status qt_write(qt_tensor x, const void *data, size_t bytes); /* in place, same shape, no gradient recorded */
QD_CHECK enum qd_status qt_item(qt_tensor x, double *out);
QD_CHECK enum qd_status qt_shape(qt_tensor x, struct qd_shape *out);
/* Pointer to contiguous float32 CPU data, or failure: for kernels and observers. Valid while x lives. */
QD_CHECK enum qd_status qt_data(qt_tensor x, float **out);
QD_CHECK enum qd_status qt_contiguous(qt_tensor x, qt_tensor *out);
QD_CHECK enum qd_status qt_retain(qt_tensor x, qt_tensor *out); /* a new reference to the same tensor */
QD_CHECK enum qd_status qt_clone(qt_tensor x, qt_tensor *out);
void qt_free(qt_tensor x); /* NULL is fine */

/* ---- autograd ---- */
QD_CHECK enum qd_status qt_requires_grad(qt_tensor x, bool on);
/* Whether a gradient would flow to x. */
bool qt_wants_grad(qt_tensor x);
QD_CHECK enum qd_status qt_backward(qt_tensor loss);
/* The gradient of a leaf after backward; NULL in *out when there is none. */
QD_CHECK enum qd_status qt_grad(qt_tensor x, qt_tensor *out);
QD_CHECK enum qd_status qt_zero_grad(qt_tensor x);
/*
 * Decoupled AdamW, in place on `x` from its gradient (Loshchilov & Hutter 2019): m = b1 m + (1-b1) g; v = b2 v + (1-b2) g^2;
 * x = x (1 - lr wd); x -= lr (m / (1-b1^step)) / (sqrt(v / (1-b2^step)) + eps). step counts from 1. No gradient: no change.
 */
QD_CHECK enum qd_status qt_adamw(qt_tensor x, qt_tensor m, qt_tensor v, int64_t step, double lr, double beta1, double beta2,
	double eps, double weight_decay);
/* x = decay x + (1 - decay) y, in place. */
QD_CHECK enum qd_status qt_lerp_(qt_tensor x, qt_tensor y, double decay);
/* x = min(max(x, low), high), in place; no gradient recorded. */
QD_CHECK enum qd_status qt_clamp_(qt_tensor x, double low, double high);
/* x *= s, in place on x's gradient (clipping); no gradient: no change. */
QD_CHECK enum qd_status qt_scale_grad(qt_tensor x, double s);
/* Sum of squares of x's gradient; 0 without one. */
QD_CHECK enum qd_status qt_grad_norm2(qt_tensor x, double *out);

/* ---- operators (ONNX semantics; used by run.c's lowering table) ---- */
QD_CHECK enum qd_status qt_conv2d(qt_tensor x, qt_tensor w, qt_tensor b, const int64_t *strides, const int64_t *pads,
	const int64_t *dilations, int64_t groups, qt_tensor *out); /* pads: top left bottom right; b may be NULL */
QD_CHECK enum qd_status qt_linear(qt_tensor x, qt_tensor w, qt_tensor b, qt_tensor *out); /* x w^T + b; b may be NULL */
QD_CHECK enum qd_status qt_matmul(qt_tensor a, qt_tensor b, qt_tensor *out);
enum qt_binary { QT_ADD, QT_SUB, QT_MUL, QT_DIV, QT_POW, QT_EQUAL, QT_GREATER, QT_LESS, QT_MAX, QT_MIN, QT_AND, QT_OR };
QD_CHECK enum qd_status qt_binary(enum qt_binary op, qt_tensor a, qt_tensor b, qt_tensor *out);
enum qt_unary {
	QT_SIGMOID,
	QT_SILU,
	QT_GELU,
	QT_GELU_TANH,
	QT_RELU,
	QT_TANH,
	QT_EXP,
	QT_LOG,
	QT_SQRT,
	QT_NEG,
	QT_ABS,
	QT_SIN,
	QT_COS,
	QT_ERF,
	QT_SOFTPLUS,
	QT_MISH,
	QT_ROUND,
	QT_FLOOR,
	QT_RECIPROCAL,
	QT_NOT
};
QD_CHECK enum qd_status qt_unary(enum qt_unary op, qt_tensor x, qt_tensor *out);
QD_CHECK enum qd_status qt_clamp(qt_tensor x, double low, double high, qt_tensor *out);
QD_CHECK enum qd_status qt_where(qt_tensor condition, qt_tensor a, qt_tensor b, qt_tensor *out);
QD_CHECK enum qd_status qt_softmax(qt_tensor x, int64_t axis, qt_tensor *out);
QD_CHECK enum qd_status qt_group_norm(qt_tensor x, int64_t groups, qt_tensor scale, qt_tensor bias, double eps, qt_tensor *out);
QD_CHECK enum qd_status qt_layer_norm(qt_tensor x, int64_t axis, qt_tensor scale, qt_tensor bias, double eps, qt_tensor *out);
QD_CHECK enum qd_status qt_instance_norm(qt_tensor x, qt_tensor scale, qt_tensor bias, double eps, qt_tensor *out);
QD_CHECK enum qd_status qt_attention(qt_tensor q, qt_tensor k, qt_tensor v, double scale, qt_tensor *out);
QD_CHECK enum qd_status qt_reshape(qt_tensor x, const struct qd_shape *shape, qt_tensor *out);
QD_CHECK enum qd_status qt_permute(qt_tensor x, size_t n, const int64_t *perm, qt_tensor *out);
QD_CHECK enum qd_status qt_concat(size_t n, const qt_tensor *parts, int64_t axis, qt_tensor *out);
QD_CHECK enum qd_status qt_slice(qt_tensor x, int64_t axis, int64_t begin, int64_t end, int64_t step, qt_tensor *out);
QD_CHECK enum qd_status qt_flip(qt_tensor x, int64_t axis, qt_tensor *out);
QD_CHECK enum qd_status qt_pad(qt_tensor x, size_t n, const int64_t *begin, const int64_t *end, double value, qt_tensor *out);
QD_CHECK enum qd_status qt_expand(qt_tensor x, const struct qd_shape *shape, qt_tensor *out);
QD_CHECK enum qd_status qt_tile(qt_tensor x, size_t n, const int64_t *repeats, qt_tensor *out); /* n: x's dimensions */
QD_CHECK enum qd_status qt_trilu(qt_tensor x, int64_t k, bool upper, qt_tensor *out);           /* last two dimensions */
QD_CHECK enum qd_status qt_gather(qt_tensor x, qt_tensor index, int64_t axis, qt_tensor *out);
QD_CHECK enum qd_status qt_upsample_nearest(
	qt_tensor x, int64_t height, int64_t width, int64_t factor_h, int64_t factor_w, qt_tensor *out);
QD_CHECK enum qd_status qt_reduce_mean(qt_tensor x, size_t n, const int64_t *axes, bool keep, qt_tensor *out);
QD_CHECK enum qd_status qt_reduce_sum(qt_tensor x, size_t n, const int64_t *axes, bool keep, qt_tensor *out);
QD_CHECK enum qd_status qt_argmax(qt_tensor x, int64_t axis, bool keep, qt_tensor *out);
QD_CHECK enum qd_status qt_cast(qt_tensor x, enum qd_dtype dtype, qt_tensor *out);
QD_CHECK enum qd_status qt_mse(qt_tensor a, qt_tensor b, qt_tensor *out); /* mean squared difference, a scalar */

/*
 * For runs without gradients on the CPU: lib/kernel's, see kernel.h. x, other and results are float32, channels-last in memory
 * where they have four dimensions (what comes otherwise is copied first).
 */
/* Whether such runs are what is asked for now: no gradients, the CPU, exact products. */
bool qt_is_inference(void);
struct qd_product;
/* A packed product of x, plus `other`; `shape` is the result's. bias and other may be NULL; scratch as its run asks. */
QD_CHECK enum qd_status qt_product(struct qd_product *product, const struct qd_shape *shape, qt_tensor x, qt_tensor bias,
	qt_tensor other, void *scratch, qt_tensor *out);
/* Group normalization of x + shift [1 or N,C,1,1] (or NULL), x [N,C,H,W]; silu: times its own sigmoid. */
QD_CHECK enum qd_status qt_image_norm(
	qt_tensor x, int64_t groups, qt_tensor scale, qt_tensor bias, qt_tensor shift, double eps, bool silu, qt_tensor *out);
/* Layer normalization over the last dimension; bias may be NULL. */
QD_CHECK enum qd_status qt_row_norm(qt_tensor x, qt_tensor scale, qt_tensor bias, double eps, qt_tensor *out);
/* x [rows, 2 w] -> its first half times gelu of its second, [rows, w]. */
QD_CHECK enum qd_status qt_gated_gelu(qt_tensor x, qt_tensor *out);
/* Images side by side along their channels. */
QD_CHECK enum qd_status qt_image_concat(size_t n, const qt_tensor *parts, qt_tensor *out);

/*
 * y = (clamp(rint(x / scale) + zero, low, high) - zero) * scale, in float32 with a true division and ties to even: equal, bit for
 * bit, to quantizing and dequantizing (golden/quant). scale and zero are float32 with n elements: n = 1 per tensor, else one per
 * index of `axis`. Gradient: straight through where rint(x / scale) + zero lies within [low, high], zero outside (both ends
 * included as inside).
 */
QD_CHECK enum qd_status qt_fake_quantize(
	qt_tensor x, size_t n, const float *scale, const float *zero, int64_t axis, float low, float high, qt_tensor *out);
/*
 * Codes alone, for graphs that carry them: clamp(rint(x / scale) + zero, low, high) as integers of `dtype` (I8, U8, I16; U16 lies
 * in int32), and (q - zero) * scale back. No gradient.
 */
QD_CHECK enum qd_status qt_quantize(qt_tensor x, size_t n, const float *scale, const float *zero, int64_t axis, float low,
	float high, enum qd_dtype dtype, qt_tensor *out);
QD_CHECK enum qd_status qt_dequantize(qt_tensor q, size_t n, const float *scale, const float *zero, int64_t axis, qt_tensor *out);
/* Smallest and largest element. QD_EINPUT when any is NaN or infinite. */
QD_CHECK enum qd_status qt_min_max(qt_tensor x, float *low, float *high);

#ifdef __cplusplus
}
#endif
#endif
