/*
 * Operators whose gradient is ours: fake quantization (straight through) and attention (scores recomputed, never stored). On the
 * CPU both run on lib/kernel; elsewhere on tensor operations.
 */
#include "lib/torch/shim_internal.h"

using namespace quad;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

namespace
{
bool needs_gradient(std::initializer_list<at::Tensor> tensors)
{
	bool any = false;

	for (const at::Tensor &t : tensors)
		any = any || t.requires_grad();
	return any && at::GradMode::is_enabled();
}

/* ---- fake quantization ---- */

/* scale, zero f32 [n] on the CPU. */
struct Grid {
	at::Tensor scale, zero;
	int64_t axis;
	double low, high;

	struct qd_grid view(const at::Tensor &x) const
	{
		struct qd_grid grid = { 1, (size_t)scale.numel(), 1, scale.data_ptr<float>(), zero.data_ptr<float>(), (float)low,
			(float)high };
		if (grid.channels == 1) {
			grid.inner = (size_t)x.numel();
			return grid;
		}
		for (int64_t i = 0; i < x.dim(); i++)
			if (i != axis)
				(i < axis ? grid.outer : grid.inner) *= (size_t)x.size(i);
		return grid;
	}

	/* scale or zero in the shape that broadcasts along the axis. */
	at::Tensor along(const at::Tensor &values, const at::Tensor &x) const
	{
		std::vector<int64_t> shape((size_t)x.dim(), 1);
		if (values.numel() > 1)
			shape[(size_t)axis] = values.numel();
		return values.reshape(shape).to(x.device());
	}

	at::Tensor position(const at::Tensor &x) const
	{
		return at::round(x / along(scale, x)) + along(zero, x);
	}
};

/* `outside`: how many elements the grid does not reach, or (other devices, where counting would wait for the device) "some". */
at::Tensor apply_grid(const Grid &grid, const at::Tensor &x, size_t *outside)
{
	if (x.device().is_cpu()) {
		at::Tensor y = at::empty_like(x);
		struct qd_grid view = grid.view(x);
		*outside = qd_fake_quantize_f32(&view, x.data_ptr<float>(), y.data_ptr<float>());
		return y;
	}
	at::Tensor value = grid.position(x);
	*outside = 1;
	value = at::where(value >= grid.low, value, at::full_like(value, grid.low)).clamp_max(grid.high);
	return (value - grid.along(grid.zero, x)) * grid.along(grid.scale, x);
}

at::Tensor straight_through(const Grid &grid, const at::Tensor &x, const at::Tensor &dy)
{
	if (x.device().is_cpu()) {
		/* The kernel walks both in one order: x's. */
		at::Tensor walked = dy.strides() == x.strides() ? dy : at::empty_like(x).copy_(dy), dx = at::empty_like(x);
		struct qd_grid view = grid.view(x);
		qd_fake_quantize_backward_f32(&view, x.data_ptr<float>(), walked.data_ptr<float>(), dx.data_ptr<float>());
		return dx;
	}
	at::Tensor value = grid.position(x);
	return at::where((value >= grid.low).logical_and(value <= grid.high), dy, at::zeros_like(dy));
}

/* Where nothing lay outside the grid the gradient passes as it is and nothing is kept. */
class FakeQuantize : public Function<FakeQuantize>
{
      public:
	static at::Tensor forward(AutogradContext *context, const at::Tensor &x, const Grid &grid)
	{
		size_t outside;
		at::Tensor y = apply_grid(grid, x, &outside);
		if (outside > 0) {
			context->save_for_backward({ x });
			context->saved_data["scale"] = grid.scale;
			context->saved_data["zero"] = grid.zero;
			context->saved_data["axis"] = grid.axis;
			context->saved_data["low"] = grid.low;
			context->saved_data["high"] = grid.high;
		}
		return y;
	}

	static variable_list backward(AutogradContext *context, variable_list dy)
	{
		auto &data = context->saved_data;
		if (data.empty())
			return { dy[0], at::Tensor() };
		Grid grid = { data["scale"].toTensor(), data["zero"].toTensor(), data["axis"].toInt(), data["low"].toDouble(),
			data["high"].toDouble() };
		return { straight_through(grid, context->get_saved_variables()[0], dy[0]), at::Tensor() };
	}
};

/* ---- attention: q [N,H,L,D], k [N,H,S,D], v [N,H,S,E] -> [N,H,L,E] ---- */

struct qd_strides strides(const at::Tensor &x)
{
	return { x.stride(0), x.stride(1), x.stride(2) };
}

struct qd_attention describe(const at::Tensor &q, const at::Tensor &k, const at::Tensor &v, const at::Tensor &out, double scale)
{
	return { q.size(0), q.size(1), q.size(2), k.size(2), q.size(3), v.size(3), (float)scale, strides(q), strides(k), strides(v),
		strides(out) };
}

at::Tensor rows_contiguous(const at::Tensor &x)
{
	return x.stride(3) == 1 ? x : x.contiguous();
}

/* Heads side by side in a token's row: what comes next merges them, which then copies nothing. */
at::Tensor heads_in_rows(const at::Tensor &like, int64_t rows, int64_t d)
{
	return at::empty({ like.size(0), rows, like.size(1), d }, like.options()).permute({ 0, 2, 1, 3 });
}

void check(enum qd_status status)
{
	if (status != QD_OK)
		throw std::bad_alloc();
}

class Attention : public Function<Attention>
{
      public:
	static at::Tensor forward(AutogradContext *context, const at::Tensor &q_in, const at::Tensor &k_in, const at::Tensor &v_in,
		double scale, bool keep)
	{
		at::Tensor q = rows_contiguous(q_in), k = rows_contiguous(k_in), v = rows_contiguous(v_in);
		at::Tensor out = heads_in_rows(q, q.size(2), v.size(3)), logsum;
		struct qd_attention a = describe(q, k, v, out, scale);
		if (keep)
			logsum = at::empty({ q.size(0), q.size(1), q.size(2) }, q.options());
		check(qd_attention_f32(&a, q.data_ptr<float>(), k.data_ptr<float>(), v.data_ptr<float>(), out.data_ptr<float>(),
			keep ? logsum.data_ptr<float>() : nullptr));
		if (keep) {
			context->save_for_backward({ q, k, v, out, logsum });
			context->saved_data["scale"] = scale;
		}
		return out;
	}

	static variable_list backward(AutogradContext *context, variable_list gradients)
	{
		variable_list saved = context->get_saved_variables();
		const at::Tensor &q = saved[0], &k = saved[1], &v = saved[2], &out = saved[3];
		struct qd_attention a = describe(q, k, v, out, context->saved_data["scale"].toDouble());
		at::Tensor dout = heads_in_rows(q, q.size(2), v.size(3)).copy_(gradients[0]);
		at::Tensor dq = heads_in_rows(q, q.size(2), q.size(3)), dk = heads_in_rows(q, k.size(2), k.size(3)),
			   dv = heads_in_rows(q, v.size(2), v.size(3));
		struct qd_attention_gradients to = { strides(dq), strides(dk), strides(dv), dq.data_ptr<float>(),
			dk.data_ptr<float>(), dv.data_ptr<float>() };
		check(qd_attention_backward_f32(&a, q.data_ptr<float>(), k.data_ptr<float>(), v.data_ptr<float>(),
			out.data_ptr<float>(), saved[4].data_ptr<float>(), dout.data_ptr<float>(), &to));
		return { dq, dk, dv, at::Tensor(), at::Tensor() };
	}
};

/* Everywhere but on the CPU. */
at::Tensor attention_tensors(const at::Tensor &q, const at::Tensor &k, const at::Tensor &v, double scale)
{
#if TORCH_VERSION_MAJOR > 2 || (TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR >= 1)
	return at::scaled_dot_product_attention(q, k, v, {}, 0.0, false, scale);
#else
	return at::matmul(at::softmax(at::matmul(q, k.transpose(-1, -2)).mul(scale), -1), v);
#endif
}
} // namespace

static Grid make_grid(const at::Tensor &x, size_t n, const float *scale, const float *zero, int64_t axis, float low, float high)
{
	int64_t channels = (int64_t)n, at_axis = axis < 0 ? axis + x.dim() : axis;

	TORCH_CHECK(n == 1 || (at_axis >= 0 && at_axis < x.dim() && x.size(at_axis) == channels), n, " scales do not fit axis ",
		axis, " of ", x.sizes());
	Grid grid = { at::empty({ channels }), at::empty({ channels }), at_axis, low, high };
	memcpy(grid.scale.data_ptr<float>(), scale, n * sizeof(float));
	memcpy(grid.zero.data_ptr<float>(), zero, n * sizeof(float));
	return grid;
}

at::Tensor quad::fake_quantize(
	const at::Tensor &x, size_t n, const float *scale, const float *zero, int64_t axis, float low, float high)
{
	Grid grid = make_grid(x, n, scale, zero, axis, low, high);
	size_t outside;

	/* Per tensor any order without holes will do; per channel the kernel counts in row-major order. */
	at::Tensor walked = n == 1 && walkable(x) ? x : x.contiguous();
	return needs_gradient({ x }) ? FakeQuantize::apply(walked, grid) : apply_grid(grid, walked, &outside);
}

at::Tensor quad::quantize(const at::Tensor &x, size_t n, const float *scale, const float *zero, int64_t axis, float low, float high)
{
	Grid grid = make_grid(x, n, scale, zero, axis, low, high);
	at::Tensor from = x.detach().to(at::kCPU).contiguous(), q = at::empty(x.sizes(), at::kInt);
	struct qd_grid view = grid.view(from);

	qd_quantize_f32(&view, from.data_ptr<float>(), q.data_ptr<int32_t>());
	return q.to(x.device());
}

at::Tensor quad::dequantize(const at::Tensor &q, size_t n, const float *scale, const float *zero, int64_t axis)
{
	Grid grid = make_grid(q, n, scale, zero, axis, 0, 0);
	at::Tensor from = q.to(at::kCPU, at::kInt).contiguous(), y = at::empty(q.sizes());
	struct qd_grid view = grid.view(from);

	qd_dequantize_f32(&view, from.data_ptr<int32_t>(), y.data_ptr<float>());
	return y.to(q.device());
}

at::Tensor quad::attention(const at::Tensor &q, const at::Tensor &k, const at::Tensor &v, double scale)
{
	if (q.dim() == 3)
		return attention(q.unsqueeze(1), k.unsqueeze(1), v.unsqueeze(1), scale).squeeze(1);
	if (q.dim() != 4 || !q.device().is_cpu() || q.scalar_type() != at::kFloat || k.size(2) == 0)
		return attention_tensors(q, k, v, scale);
	TORCH_CHECK(q.size(0) == k.size(0) && q.size(1) == k.size(1) && q.size(3) == k.size(3) &&
			    k.sizes().slice(0, 3) == v.sizes().slice(0, 3),
		"attention of ", q.sizes(), " over ", k.sizes(), " and ", v.sizes());
	return Attention::apply(q, k, v, scale, needs_gradient({ q, k, v }));
}
