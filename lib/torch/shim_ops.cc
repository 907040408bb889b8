/*
 * The shim's operators: one call into libtorch each, arranged so that the result is what ONNX defines.
 */
#include "lib/torch/shim_internal.h"

using namespace quad;

/* ---- products ---- */

/* Pads of the last dimensions, begin then end per dimension, as libtorch wants them: last dimension first. */
static at::Tensor pad(const at::Tensor &x, size_t n, const int64_t *begin, const int64_t *end, const at::Scalar &value)
{
	std::vector<int64_t> pads;

	for (size_t i = n; i-- > 0;) {
		pads.push_back(begin[i]);
		pads.push_back(end[i]);
	}
	return at::constant_pad_nd(x, pads, value);
}

static bool bfloat16_products = false;

bool quad::bfloat16()
{
	return bfloat16_products;
}

void qt_set_bfloat16(bool on)
{
	bfloat16_products = on;
}

/* Runs a product over x, w and b as they are, or over their bfloat16 roundings. */
template <typename F> static at::Tensor product(qt_tensor x, qt_tensor w, qt_tensor b, F f)
{
	if (!bfloat16_products)
		return f(x->tensor, w->tensor, optional(b));
	at::Tensor bias = optional(b);
	if (bias.defined())
		bias = bias.to(at::kBFloat16);
	return f(x->tensor.to(at::kBFloat16), w->tensor.to(at::kBFloat16), bias).to(at::kFloat);
}

enum qd_status qt_conv2d(qt_tensor x, qt_tensor w, qt_tensor b, const int64_t *strides, const int64_t *pads,
	const int64_t *dilations, int64_t groups, qt_tensor *out)
{
	return make("conv", out, [&] {
		size_t n = (size_t)x->tensor.dim() - 2;
		std::vector<int64_t> symmetric(pads, pads + n), none(n, 0);
		bool same = std::equal(pads, pads + n, pads + n);
		return product(x, w, b, [&](const at::Tensor &in, const at::Tensor &weight, const at::Tensor &bias) {
			return at::convolution(same ? in : pad(in, n, pads, pads + n, 0), weight, bias, ints(strides, n),
				same ? symmetric : none, ints(dilations, n), false, none, groups);
		});
	});
}

enum qd_status qt_linear(qt_tensor x, qt_tensor w, qt_tensor b, qt_tensor *out)
{
	return make("linear", out, [&] {
		return product(x, w, b, [](const at::Tensor &in, const at::Tensor &weight, const at::Tensor &bias) {
			return at::linear(in, weight, bias);
		});
	});
}

enum qd_status qt_matmul(qt_tensor a, qt_tensor b, qt_tensor *out)
{
	return make("matmul", out, [&] { return at::matmul(a->tensor, b->tensor); });
}

/* ---- element by element ---- */

static at::Tensor quotient(const at::Tensor &a, const at::Tensor &b)
{
	if (a.is_floating_point())
		return at::div(a, b);
	return at::div(a, b, "trunc");
}

static at::Tensor power(const at::Tensor &a, const at::Tensor &b)
{
	/* A constant exponent takes libtorch's short ways (square, sqrt, ...). */
	if (b.numel() == 1 && b.device().is_cpu() && !b.requires_grad() && b.dim() <= a.dim())
		return at::pow(a, b.item()).to(a.scalar_type());
	return at::pow(a, b).to(a.scalar_type());
}

enum qd_status qt_binary(enum qt_binary op, qt_tensor a, qt_tensor b, qt_tensor *out)
{
	return make("binary", out, [&]() -> at::Tensor {
		switch (op) {
		case QT_ADD:
			return at::add(a->tensor, b->tensor);
		case QT_SUB:
			return at::sub(a->tensor, b->tensor);
		case QT_MUL:
			return at::mul(a->tensor, b->tensor);
		case QT_DIV:
			return quotient(a->tensor, b->tensor);
		case QT_POW:
			return power(a->tensor, b->tensor);
		case QT_EQUAL:
			return at::eq(a->tensor, b->tensor);
		case QT_GREATER:
			return at::gt(a->tensor, b->tensor);
		case QT_LESS:
			return at::lt(a->tensor, b->tensor);
		case QT_MAX:
			return at::maximum(a->tensor, b->tensor);
		case QT_MIN:
			return at::minimum(a->tensor, b->tensor);
		case QT_AND:
			return at::logical_and(a->tensor, b->tensor);
		case QT_OR:
			return at::logical_or(a->tensor, b->tensor);
		}
		throw std::invalid_argument("unknown operator");
	});
}

enum qd_status qt_unary(enum qt_unary op, qt_tensor x, qt_tensor *out)
{
	return make("unary", out, [&]() -> at::Tensor {
		const at::Tensor &t = x->tensor;
		switch (op) {
		case QT_SIGMOID:
			return at::sigmoid(t);
		case QT_SILU:
			return at::silu(t);
		case QT_GELU:
			return at::gelu(t);
		case QT_GELU_TANH:
			return at::gelu(t, "tanh");
		case QT_RELU:
			return at::relu(t);
		case QT_TANH:
			return at::tanh(t);
		case QT_EXP:
			return at::exp(t);
		case QT_LOG:
			return at::log(t);
		case QT_SQRT:
			return at::sqrt(t);
		case QT_NEG:
			return at::neg(t);
		case QT_ABS:
			return at::abs(t);
		case QT_SIN:
			return at::sin(t);
		case QT_COS:
			return at::cos(t);
		case QT_ERF:
			return at::erf(t);
		case QT_SOFTPLUS:
			return at::softplus(t);
		case QT_MISH:
			return at::mish(t);
		case QT_ROUND:
			return at::round(t);
		case QT_FLOOR:
			return at::floor(t);
		case QT_RECIPROCAL:
			return at::reciprocal(t);
		case QT_NOT:
			return at::logical_not(t);
		}
		throw std::invalid_argument("unknown operator");
	});
}

enum qd_status qt_clamp(qt_tensor x, double low, double high, qt_tensor *out)
{
	return make("clamp", out, [&] {
		/* The type stays: a bound that an integer type cannot hold bounds nothing. */
		bool whole = !x->tensor.is_floating_point(), below = low > -9e18, above = high < 9e18;
		at::Scalar min = whole && below ? at::Scalar((int64_t)low) : at::Scalar(low);
		at::Scalar max = whole && above ? at::Scalar((int64_t)high) : at::Scalar(high);
		if (below && above)
			return at::clamp(x->tensor, min, max);
		return below ? at::clamp_min(x->tensor, min) : above ? at::clamp_max(x->tensor, max) : x->tensor;
	});
}

enum qd_status qt_where(qt_tensor condition, qt_tensor a, qt_tensor b, qt_tensor *out)
{
	return make("where", out, [&] { return at::where(condition->tensor.to(at::kBool), a->tensor, b->tensor); });
}

enum qd_status qt_cast(qt_tensor x, enum qd_dtype dtype, qt_tensor *out)
{
	return make("cast", out, [&] { return x->tensor.to(scalar_type(dtype)); });
}

/* ---- along axes ---- */

enum qd_status qt_softmax(qt_tensor x, int64_t axis, qt_tensor *out)
{
	return make("softmax", out, [&] { return at::softmax(x->tensor, axis); });
}

enum qd_status qt_group_norm(qt_tensor x, int64_t groups, qt_tensor scale, qt_tensor bias, double eps, qt_tensor *out)
{
	return make("group_norm", out, [&] { return at::group_norm(x->tensor, groups, optional(scale), optional(bias), eps); });
}

enum qd_status qt_layer_norm(qt_tensor x, int64_t axis, qt_tensor scale, qt_tensor bias, double eps, qt_tensor *out)
{
	return make("layer_norm", out, [&] {
		at::IntArrayRef sizes = x->tensor.sizes();
		at::IntArrayRef normalized = sizes.slice((size_t)(axis < 0 ? axis + x->tensor.dim() : axis));
		at::Tensor s = optional(scale), b = optional(bias);
		return at::layer_norm(
			x->tensor, normalized, s.defined() ? s.expand(normalized) : s, b.defined() ? b.expand(normalized) : b, eps);
	});
}

enum qd_status qt_instance_norm(qt_tensor x, qt_tensor scale, qt_tensor bias, double eps, qt_tensor *out)
{
	return make("instance_norm", out,
		[&] { return at::group_norm(x->tensor, x->tensor.size(1), optional(scale), optional(bias), eps); });
}

enum qd_status qt_reduce_mean(qt_tensor x, size_t n, const int64_t *axes, bool keep, qt_tensor *out)
{
	return make("reduce_mean", out, [&] { return at::mean(x->tensor, ints(axes, n), keep); });
}

enum qd_status qt_reduce_sum(qt_tensor x, size_t n, const int64_t *axes, bool keep, qt_tensor *out)
{
	return make("reduce_sum", out, [&] { return at::sum(x->tensor, ints(axes, n), keep, x->tensor.scalar_type()); });
}

enum qd_status qt_argmax(qt_tensor x, int64_t axis, bool keep, qt_tensor *out)
{
	return make("argmax", out, [&] { return at::argmax(x->tensor, axis, keep); });
}

enum qd_status qt_mse(qt_tensor a, qt_tensor b, qt_tensor *out)
{
	return make("mse", out, [&] {
		TORCH_CHECK(a->tensor.sizes() == b->tensor.sizes(), "shapes differ");
		return at::mse_loss(a->tensor, b->tensor);
	});
}

/* ---- moving data ---- */

enum qd_status qt_reshape(qt_tensor x, const struct qd_shape *shape, qt_tensor *out)
{
	return make("reshape", out, [&] { return x->tensor.reshape(dims(shape)); });
}

enum qd_status qt_permute(qt_tensor x, size_t n, const int64_t *perm, qt_tensor *out)
{
	return make("permute", out, [&] { return x->tensor.permute(ints(perm, n)); });
}

enum qd_status qt_concat(size_t n, const qt_tensor *parts, int64_t axis, qt_tensor *out)
{
	return make("concat", out, [&] {
		std::vector<at::Tensor> tensors;
		for (size_t i = 0; i < n; i++)
			tensors.push_back(parts[i]->tensor);
		return at::cat(tensors, axis);
	});
}

enum qd_status qt_slice(qt_tensor x, int64_t axis, int64_t begin, int64_t end, int64_t step, qt_tensor *out)
{
	return make("slice", out, [&] { return at::slice(x->tensor, axis, begin, end, step); });
}

enum qd_status qt_flip(qt_tensor x, int64_t axis, qt_tensor *out)
{
	return make("flip", out, [&] { return at::flip(x->tensor, { axis }); });
}

enum qd_status qt_pad(qt_tensor x, size_t n, const int64_t *begin, const int64_t *end, double value, qt_tensor *out)
{
	return make("pad", out, [&] { return pad(x->tensor, n, begin, end, value); });
}

enum qd_status qt_expand(qt_tensor x, const struct qd_shape *shape, qt_tensor *out)
{
	return make("expand", out, [&] { return x->tensor.expand(dims(shape)); });
}

enum qd_status qt_tile(qt_tensor x, size_t n, const int64_t *repeats, qt_tensor *out)
{
	return make("tile", out, [&] { return x->tensor.repeat(ints(repeats, n)); });
}

enum qd_status qt_trilu(qt_tensor x, int64_t k, bool upper, qt_tensor *out)
{
	return make("trilu", out, [&] { return upper ? at::triu(x->tensor, k) : at::tril(x->tensor, k); });
}

enum qd_status qt_gather(qt_tensor x, qt_tensor index, int64_t axis, qt_tensor *out)
{
	return make("gather", out, [&] {
		const at::Tensor &t = x->tensor;
		int64_t at_axis = axis < 0 ? axis + t.dim() : axis;
		at::Tensor flat = index->tensor.to(at::kLong).reshape(-1);
		std::vector<int64_t> shape(t.sizes().begin(), t.sizes().begin() + at_axis);
		shape.insert(shape.end(), index->tensor.sizes().begin(), index->tensor.sizes().end());
		shape.insert(shape.end(), t.sizes().begin() + at_axis + 1, t.sizes().end());
		/* Negative indices count from the end. */
		flat = at::where(flat < 0, flat + t.size(at_axis), flat);
		return at::index_select(t, at_axis, flat).reshape(shape);
	});
}

enum qd_status qt_upsample_nearest(qt_tensor x, int64_t height, int64_t width, int64_t factor_h, int64_t factor_w, qt_tensor *out)
{
	return make("upsample_nearest", out, [&] {
		int64_t full_h = x->tensor.size(2) * factor_h, full_w = x->tensor.size(3) * factor_w;
		at::Tensor y = at::upsample_nearest2d(x->tensor, { full_h, full_w }, (double)factor_h, (double)factor_w);
		TORCH_CHECK(height <= full_h && width <= full_w, "asked for more than the factors give");
		return y.slice(2, 0, height).slice(3, 0, width);
	});
}

/* ---- with gradients of our own: shim_custom.cc ---- */

enum qd_status qt_attention(qt_tensor q, qt_tensor k, qt_tensor v, double scale, qt_tensor *out)
{
	return make("attention", out, [&] { return attention(q->tensor, k->tensor, v->tensor, scale); });
}

enum qd_status qt_fake_quantize(
	qt_tensor x, size_t n, const float *scale, const float *zero, int64_t axis, float low, float high, qt_tensor *out)
{
	return make("fake_quantize", out, [&] { return fake_quantize(x->tensor, n, scale, zero, axis, low, high); });
}

enum qd_status qt_quantize(qt_tensor x, size_t n, const float *scale, const float *zero, int64_t axis, float low, float high,
	enum qd_dtype dtype, qt_tensor *out)
{
	return make("quantize", out, [&] { return quantize(x->tensor, n, scale, zero, axis, low, high).to(scalar_type(dtype)); });
}

enum qd_status qt_dequantize(qt_tensor q, size_t n, const float *scale, const float *zero, int64_t axis, qt_tensor *out)
{
	return make("dequantize", out, [&] { return dequantize(q->tensor, n, scale, zero, axis); });
}

enum qd_status qt_min_max(qt_tensor x, float *low, float *high)
{
	return guard("min_max", [&] {
		at::Tensor t = x->tensor.detach().to(at::kCPU, at::kFloat);
		TORCH_CHECK(t.numel() > 0, "no elements");
		if (!walkable(t))
			t = t.contiguous();
		if (!qd_min_max_f32(t.data_ptr<float>(), (size_t)t.numel(), low, high))
			return qd_fail(QD_EINPUT, "tensor holds NaN or infinity");
		return QD_OK;
	});
}
