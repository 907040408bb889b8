/*
 * The shim's operators for inference: lib/kernel on the memory of tensors. No gradient is recorded. Images are channels-last in
 * memory, whatever order their dimensions are told in; what comes in another order is brought into that one first.
 */
#include "lib/torch/shim_internal.h"

using namespace quad;

namespace
{
at::MemoryFormat format(int64_t rank)
{
	return rank == 4 ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous;
}

/* x in the order that the kernels read, itself where it has it. */
at::Tensor ordered(const at::Tensor &x)
{
	return x.detach().contiguous(format(x.dim()));
}

at::Tensor optional_ordered(qt_tensor x)
{
	return x ? ordered(x->tensor) : at::Tensor();
}

const float *data(const at::Tensor &x)
{
	return x.defined() ? x.data_ptr<float>() : nullptr;
}

at::Tensor unfilled(at::IntArrayRef shape)
{
	return at::empty(shape, at::TensorOptions().memory_format(format((int64_t)shape.size())));
}

/* Runs a kernel that returns a status and hands out the tensor it filled. */
template <typename F> enum qd_status fill(const char *fn, qt_tensor *out, F f) noexcept
{
	*out = nullptr;
	return guard(fn, [&] {
		at::Tensor y;
		enum qd_status st = f(y);
		if (st == QD_OK)
			*out = give(std::move(y));
		return st;
	});
}
} // namespace

bool qt_is_inference(void)
{
	return !at::GradMode::is_enabled() && current_device().is_cpu() && !bfloat16();
}

enum qd_status qt_product(struct qd_product *product, const struct qd_shape *shape, qt_tensor x, qt_tensor bias, qt_tensor other,
	void *scratch, qt_tensor *out)
{
	return fill("product", out, [&](at::Tensor &y) {
		at::Tensor in = ordered(x->tensor), b = optional_ordered(bias), more = optional_ordered(other);
		y = unfilled(dims(shape));
		return qd_product_run(product, data(in), data(b), data(more), y.data_ptr<float>(), scratch);
	});
}

enum qd_status qt_image_norm(
	qt_tensor x, int64_t groups, qt_tensor scale, qt_tensor bias, qt_tensor shift, double eps, bool silu, qt_tensor *out)
{
	return fill("image_norm", out, [&](at::Tensor &y) {
		at::Tensor in = ordered(x->tensor), s = ordered(scale->tensor), b = ordered(bias->tensor), t;
		if (shift)
			t = shift->tensor.detach().contiguous();
		struct qd_group_norm g = { in.size(0), in.size(2) * in.size(3), in.size(1), groups, (float)eps, silu,
			shift && shift->tensor.size(0) > 1 };
		y = unfilled(in.sizes());
		return qd_group_norm_f32(&g, data(in), data(s), data(b), data(t), y.data_ptr<float>());
	});
}

enum qd_status qt_row_norm(qt_tensor x, qt_tensor scale, qt_tensor bias, double eps, qt_tensor *out)
{
	return make("row_norm", out, [&] {
		at::Tensor in = x->tensor.detach().contiguous(), s = ordered(scale->tensor), b = optional_ordered(bias);
		at::Tensor y = at::empty(in.sizes());
		int64_t channels = in.size(-1);
		qd_layer_norm_f32(in.numel() / channels, channels, (float)eps, data(in), data(s), data(b), y.data_ptr<float>());
		return y;
	});
}

enum qd_status qt_gated_gelu(qt_tensor x, qt_tensor *out)
{
	return make("gated_gelu", out, [&] {
		at::Tensor in = x->tensor.detach().contiguous(), y = at::empty({ in.size(0), in.size(1) / 2 });
		qd_gated_gelu_f32(y.size(0), y.size(1), data(in), y.data_ptr<float>());
		return y;
	});
}

enum qd_status qt_image_concat(size_t n, const qt_tensor *parts, qt_tensor *out)
{
	return make("image_concat", out, [&] {
		std::vector<at::Tensor> images;
		std::vector<const float *> memory;
		std::vector<int64_t> widths, shape = parts[0]->tensor.sizes().vec();
		shape[1] = 0;
		for (size_t i = 0; i < n; i++) {
			images.push_back(ordered(parts[i]->tensor));
			memory.push_back(data(images[i]));
			widths.push_back(images[i].size(1));
			shape[1] += widths[i];
		}
		at::Tensor y = unfilled(shape);
		qd_concat_rows_f32(shape[0] * shape[2] * shape[3], n, widths.data(), memory.data(), y.data_ptr<float>());
		return y;
	});
}
