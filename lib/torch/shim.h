/*
 * lib/torch/shim.h: a small C ABI over libtorch. C11; the only C++ over libtorch is shim*.cc. No policy lives here.
 *
 * Handles are opaque new references: release each with qt_free. qt_live() counts them. A handle that is passed in stays the
 * caller's, and is never NULL where its description does not say so. Every function that returns a status catches every exception,
 * and `out` is NULL after a failure. What can fail everywhere:
 *
 *   QD_ETORCH   libtorch refuses: shapes that do not fit, an axis that x does not have, types that an operator does not take; or
 *               the library cannot be loaded. The message begins with the function's name
 *   QD_ENOMEM   memory is out
 *
 * Types are f32 unless said otherwise; "number" is f32, i64, i32, i16, i8 or u8, "like x" x's type and device. Axes count from
 * either end. Shapes broadcast as NumPy's do where it is said. Gradients flow through everything that computes with f32 or moves
 * it, for tensors that require them, unless qt_set_grad(false).
 *
 * Dimension letters: N batch, C O channels in and out, H W pixels, kh kw kernel, I features in, M K L S D E of products and
 * attention, R the dimensions of a tensor.
 */
#ifndef QUAD_LIB_TORCH_SHIM_H
#define QUAD_LIB_TORCH_SHIM_H

#include "lib/io/io.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct qt_opaque *qt_tensor;

/* ---- library ---- */
/* libtorch's, "1.13.1"; NULL when it cannot be loaded. */
const char *qt_version(void);
/* Handles that are not freed. */
int64_t qt_live(void);
/* How many threads one operator uses; at least 1. */
QD_CHECK enum qd_status qt_set_threads(int threads);
/*
 * Whether convolutions and linear layers compute on bfloat16: operands and results are rounded to it, sums inside are float32
 * (mixed-precision training). About twice as fast where the CPU multiplies bfloat16. Off unless set; never used where exactness
 * matters.
 */
void qt_set_bfloat16(bool on);
/* Whether what this thread computes records gradients; it does until told otherwise. */
void qt_set_grad(bool on);
bool qt_get_grad(void);
/* "cpu", "cuda" or "cuda:1": sets the device of tensors made from now on. QD_EUNSUPPORTED when this libtorch has no such device. */
QD_CHECK enum qd_status qt_set_device(const char *device);
/* Whether that is the CPU. */
bool qt_on_cpu(void);

/* ---- in and out ---- */
/*
 * Copies bytes to a tensor of that shape on the current device. F32, F16, BF16 and F64 become f32; U16, which libtorch lacks, i32;
 * I64, I32, I16, I8, U8 and BOOL stay. QD_ETORCH for other types.
 */
QD_CHECK enum qd_status qt_from_tensor(const struct qd_tensor *tensor, qt_tensor *out);
/* As above without a copy when it is aligned F32 with elements and the device is the CPU: the bytes must outlive every use. Never
 * written to. */
QD_CHECK enum qd_status qt_borrow_tensor(const struct qd_tensor *tensor, qt_tensor *out);
/* f32 of that shape on the current device. */
QD_CHECK enum qd_status qt_zeros(const struct qd_shape *shape, qt_tensor *out);
QD_CHECK enum qd_status qt_full(const struct qd_shape *shape, float value, qt_tensor *out);
/* x row-major to caller's memory: i64 as int64_t, all other types as float. QD_EINPUT when `bytes` is not exactly the size. */
QD_CHECK enum qd_status qt_read(qt_tensor x, void *data, size_t bytes);
/* The same the other way, in place; no gradient recorded. */
QD_CHECK enum qd_status qt_write(qt_tensor x, const void *data, size_t bytes);
/* The value of a tensor of one element, of any type. */
QD_CHECK enum qd_status qt_item(qt_tensor x, double *out);
/* QD_EUNSUPPORTED beyond QD_MAX_RANK dimensions. */
QD_CHECK enum qd_status qt_shape(qt_tensor x, struct qd_shape *out);
/* x's row-major elements, for kernels and observers, valid while x lives. QD_EINPUT when x is not f32 on the CPU, or in another
 * order. */
QD_CHECK enum qd_status qt_data(qt_tensor x, float **out);
/* x in row-major memory: x itself where it lies so. */
QD_CHECK enum qd_status qt_contiguous(qt_tensor x, qt_tensor *out);
/* A new reference to the same tensor; a copy, through which gradients flow. */
QD_CHECK enum qd_status qt_retain(qt_tensor x, qt_tensor *out);
QD_CHECK enum qd_status qt_clone(qt_tensor x, qt_tensor *out);
/* NULL is fine. */
void qt_free(qt_tensor x);

/* ---- autograd ---- */
/* Of a leaf: f32 that no recorded operator made. */
QD_CHECK enum qd_status qt_requires_grad(qt_tensor x, bool on);
/* Whether a gradient would flow to x. */
bool qt_wants_grad(qt_tensor x);
/* Adds d loss / d leaf to the gradient of every leaf that loss, f32 of one element, depends on. What was recorded for it is gone
 * then. QD_ETORCH when nothing was. */
QD_CHECK enum qd_status qt_backward(qt_tensor loss);
/* The gradient of a leaf, like x; NULL in *out, and QD_OK, when there is none. */
QD_CHECK enum qd_status qt_grad(qt_tensor x, qt_tensor *out);
/* Makes `data` f32, as many as x has, the gradient of the leaf x. */
QD_CHECK enum qd_status qt_put_grad(qt_tensor x, const float *data);
/* Drops it. */
QD_CHECK enum qd_status qt_zero_grad(qt_tensor x);
/*
 * Decoupled AdamW, in place on `x` from its gradient g and the moments m and v, like x (Loshchilov & Hutter 2019):
 *
 *   m = b1 m + (1-b1) g    v = b2 v + (1-b2) g^2    x = x (1 - lr wd)    x -= lr (m / (1-b1^step)) / (sqrt(v / (1-b2^step)) + eps)
 *
 * step counts from 1. No gradient: no change.
 */
QD_CHECK enum qd_status qt_adamw(qt_tensor x, qt_tensor m, qt_tensor v, int64_t step, double lr, double beta1, double beta2,
	double eps, double weight_decay);
/* x = decay x + (1 - decay) y, y like x, in place; no gradient recorded. */
QD_CHECK enum qd_status qt_lerp_(qt_tensor x, qt_tensor y, double decay);
/* x = min(max(x, low), high), in place; no gradient recorded. */
QD_CHECK enum qd_status qt_clamp_(qt_tensor x, double low, double high);
/* x *= s, in place on x's gradient (clipping); no gradient: no change. */
QD_CHECK enum qd_status qt_scale_grad(qt_tensor x, double s);
/* Sum of squares of x's gradient; 0 without one. */
QD_CHECK enum qd_status qt_grad_norm2(qt_tensor x, double *out);

/*
 * ---- operators: ONNX's, one call each (lower.c and lower_move.c arrange what is left) ----
 */
/* -- products -- */
/*
 * Convolution of one to three dimensions; here for two: x [N,C,H,W], w [O,C/groups,kh,kw], b [O] or NULL; strides and dilations
 * [2], pads [4] (top left bottom right) -> [N,O,H',W'], H' = (H + top + bottom - dilation (kh - 1) - 1) div stride + 1.
 */
QD_CHECK enum qd_status qt_conv2d(qt_tensor x, qt_tensor w, qt_tensor b, const int64_t *strides, const int64_t *pads,
	const int64_t *dilations, int64_t groups, qt_tensor *out);
/* x [...,I], w [O,I], b [O] or NULL -> x w^T + b [...,O]. */
QD_CHECK enum qd_status qt_linear(qt_tensor x, qt_tensor w, qt_tensor b, qt_tensor *out);
/* a number [...,M,K], b like a [...,K,L] -> [...,M,L]; what stands before broadcasts. A vector [K] is a row or a column, which the
 * result does not have. */
QD_CHECK enum qd_status qt_matmul(qt_tensor a, qt_tensor b, qt_tensor *out);

/* -- element by element -- */
/*
 * a and b broadcast and are of one type. Like a; of EQUAL, GREATER, LESS, AND and OR bool. DIV of integers truncates; QD_ETORCH
 * for an integer divided by 0. POW has a's type whatever b's is. MAX and MIN pass NaN on. AND and OR take what is not 0 as true.
 */
enum qt_binary { QT_ADD, QT_SUB, QT_MUL, QT_DIV, QT_POW, QT_EQUAL, QT_GREATER, QT_LESS, QT_MAX, QT_MIN, QT_AND, QT_OR };
QD_CHECK enum qd_status qt_binary(enum qt_binary op, qt_tensor a, qt_tensor b, qt_tensor *out);
/* x of any shape -> like x; NEG, ABS and RELU take any number; NOT gives bool. */
enum qt_unary {
	QT_SIGMOID,
	QT_SILU, /* x sigmoid(x) */
	QT_GELU,
	QT_GELU_TANH, /* its approximation by tanh */
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
	QT_SOFTPLUS, /* log(1 + exp(x)); x itself above 20 */
	QT_MISH,     /* x tanh(softplus(x)) */
	QT_ROUND,    /* ties to even */
	QT_FLOOR,
	QT_RECIPROCAL,
	QT_NOT
};
QD_CHECK enum qd_status qt_unary(enum qt_unary op, qt_tensor x, qt_tensor *out);
/* min(max(x, low), high), x number; a bound beyond 9e18 is none. Without bounds x itself. */
QD_CHECK enum qd_status qt_clamp(qt_tensor x, double low, double high, qt_tensor *out);
/* a where condition is not 0, else b: all three broadcast, a and b are of one type. */
QD_CHECK enum qd_status qt_where(qt_tensor condition, qt_tensor a, qt_tensor b, qt_tensor *out);
/* x in another type, by the rules of qt_from_tensor; numbers to integers truncate. */
QD_CHECK enum qd_status qt_cast(qt_tensor x, enum qd_dtype dtype, qt_tensor *out);

/* -- along axes -- */
/* x of any shape -> like x. */
QD_CHECK enum qd_status qt_softmax(qt_tensor x, int64_t axis, qt_tensor *out);
/* x [N,C,...], C a multiple of groups; scale and bias [C] or NULL -> like x; variances are those of populations, here and below. */
QD_CHECK enum qd_status qt_group_norm(qt_tensor x, int64_t groups, qt_tensor scale, qt_tensor bias, double eps, qt_tensor *out);
/* Over the axes from `axis` on, to whose shape scale and bias, or NULL, broadcast -> like x. */
QD_CHECK enum qd_status qt_layer_norm(qt_tensor x, int64_t axis, qt_tensor scale, qt_tensor bias, double eps, qt_tensor *out);
/* As qt_group_norm with a group for every channel. */
QD_CHECK enum qd_status qt_instance_norm(qt_tensor x, qt_tensor scale, qt_tensor bias, double eps, qt_tensor *out);
/*
 * softmax(scale q k^T) v: q [N,H,L,D], k [N,H,S,D], v [N,H,S,E] -> [N,H,L,E], H heads, or all without H for one. In memory the
 * heads of a token lie side by side. On the CPU the scores, L x S, are never stored: backward computes them again.
 */
QD_CHECK enum qd_status qt_attention(qt_tensor q, qt_tensor k, qt_tensor v, double scale, qt_tensor *out);
/* Over the n axes, all when n is 0; `keep`: they stay, with size 1. The mean takes f32, the sum any number, like x. */
QD_CHECK enum qd_status qt_reduce_mean(qt_tensor x, size_t n, const int64_t *axes, bool keep, qt_tensor *out);
QD_CHECK enum qd_status qt_reduce_sum(qt_tensor x, size_t n, const int64_t *axes, bool keep, qt_tensor *out);
/* i64 index of the largest element, of equal ones the first. */
QD_CHECK enum qd_status qt_argmax(qt_tensor x, int64_t axis, bool keep, qt_tensor *out);
/* Mean squared difference of a and b, of one shape (they do not broadcast: QD_ETORCH) -> []. */
QD_CHECK enum qd_status qt_mse(qt_tensor a, qt_tensor b, qt_tensor *out);

/* -- moving data: x of any type, results like x, in x's memory where that holds them -- */
/* To a shape of as many elements. */
QD_CHECK enum qd_status qt_reshape(qt_tensor x, const struct qd_shape *shape, qt_tensor *out);
/* Axis i of the result is axis perm[i] of x; n = R, each axis once. */
QD_CHECK enum qd_status qt_permute(qt_tensor x, size_t n, const int64_t *perm, qt_tensor *out);
/* n > 0 tensors of one type, whose shapes differ along `axis` at most. */
QD_CHECK enum qd_status qt_concat(size_t n, const qt_tensor *parts, int64_t axis, qt_tensor *out);
/* Elements begin, begin + step, ... below end of `axis`; negative ones count from its end, all are clamped to it; step > 0. */
QD_CHECK enum qd_status qt_slice(qt_tensor x, int64_t axis, int64_t begin, int64_t end, int64_t step, qt_tensor *out);
/* The other way round along `axis`. */
QD_CHECK enum qd_status qt_flip(qt_tensor x, int64_t axis, qt_tensor *out);
/* begin[i] and end[i] elements of `value` before and after x along the i-th of its last n axes; negative numbers cut off. */
QD_CHECK enum qd_status qt_pad(qt_tensor x, size_t n, const int64_t *begin, const int64_t *end, double value, qt_tensor *out);
/* Broadcast to a shape. */
QD_CHECK enum qd_status qt_expand(qt_tensor x, const struct qd_shape *shape, qt_tensor *out);
/* repeats[i] copies along axis i; n = R. */
QD_CHECK enum qd_status qt_tile(qt_tensor x, size_t n, const int64_t *repeats, qt_tensor *out);
/* x [...,M,K] with zeros below (`upper`) or above the k-th diagonal, 0 the main one, positive ones above it. */
QD_CHECK enum qd_status qt_trilu(qt_tensor x, int64_t k, bool upper, qt_tensor *out);
/* x's slices along `axis` at `index`, integers of any shape, which stands in place of the axis in the result's; negative ones count
 * from the end. QD_ETORCH for those outside. */
QD_CHECK enum qd_status qt_gather(qt_tensor x, qt_tensor index, int64_t axis, qt_tensor *out);
/* x [N,C,H,W] -> [N,C,height,width], the beginning of what has every pixel factor_h times factor_w times. QD_ETORCH when that is
 * smaller. */
QD_CHECK enum qd_status qt_upsample_nearest(
	qt_tensor x, int64_t height, int64_t width, int64_t factor_h, int64_t factor_w, qt_tensor *out);

/*
 * ---- quantization ----
 * scale and zero have n elements: n = 1 for the whole tensor, else one for every index of `axis`; QD_ETORCH when that has another
 * number. Divisions are true ones, in float32, ties go to even.
 */
/*
 * y = (clamp(rint(x / scale) + zero, low, high) - zero) * scale, like x: equal, bit for bit, to quantizing and dequantizing
 * (golden/quant). Gradient: straight through where rint(x / scale) + zero lies within [low, high], both ends included, else zero.
 */
QD_CHECK enum qd_status qt_fake_quantize(
	qt_tensor x, size_t n, const float *scale, const float *zero, int64_t axis, float low, float high, qt_tensor *out);
/* Codes alone, for graphs that carry them: clamp(rint(x / scale) + zero, low, high) as integers of `dtype` (I8, U8, I16; U16 lies
 * in i32). No gradient. */
QD_CHECK enum qd_status qt_quantize(qt_tensor x, size_t n, const float *scale, const float *zero, int64_t axis, float low,
	float high, enum qd_dtype dtype, qt_tensor *out);
/* (q - zero) * scale, q integers -> f32. No gradient. */
QD_CHECK enum qd_status qt_dequantize(qt_tensor q, size_t n, const float *scale, const float *zero, int64_t axis, qt_tensor *out);
/* Smallest and largest element of x, which has some (QD_ETORCH). QD_EINPUT when any is NaN or infinite. */
QD_CHECK enum qd_status qt_min_max(qt_tensor x, float *low, float *high);

#ifdef __cplusplus
}
#endif
#endif
