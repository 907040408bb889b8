/*
 * For the shim's C++ files only: what a handle is, and the guard that every function runs in.
 */
#ifndef QUAD_LIB_TORCH_SHIM_INTERNAL_H
#define QUAD_LIB_TORCH_SHIM_INTERNAL_H

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/version.h>
#include <atomic>
#include <vector>

extern "C" {
#include "lib/kernel/kernel.h"
#include "lib/torch/shim.h"
}

struct qt_opaque {
	at::Tensor tensor;
};

namespace quad
{
extern std::atomic<int64_t> live;

/* A new handle: how every result leaves. */
inline qt_tensor give(at::Tensor tensor)
{
	qt_tensor handle = new qt_opaque{ std::move(tensor) };
	live++;
	return handle;
}

/* Runs `f`, which returns a status, and turns whatever it throws into one. */
template <typename F> enum qd_status guard(const char *fn, F f) noexcept
{
	try {
		return f();
	} catch (const c10::Error &e) {
		return qd_fail(QD_ETORCH, "%s: %s", fn, e.what_without_backtrace());
	} catch (const std::bad_alloc &) {
		return qd_fail(QD_ENOMEM, "%s: out of memory", fn);
	} catch (const std::exception &e) {
		return qd_fail(QD_ETORCH, "%s: %s", fn, e.what());
	} catch (...) {
		return qd_fail(QD_ETORCH, "%s: unknown exception", fn);
	}
}

/* The same for an `f` that returns the tensor to hand out. */
template <typename F> enum qd_status make(const char *fn, qt_tensor *out, F f) noexcept
{
	*out = nullptr;
	return guard(fn, [&] {
		*out = give(f());
		return QD_OK;
	});
}

/* The same for an `f` that returns nothing. */
template <typename F> enum qd_status act(const char *fn, F f) noexcept
{
	return guard(fn, [&] {
		f();
		return QD_OK;
	});
}

/* An absent tensor is an undefined one. */
inline at::Tensor optional(qt_tensor x)
{
	return x ? x->tensor : at::Tensor();
}

inline at::IntArrayRef ints(const int64_t *values, size_t n)
{
	return at::IntArrayRef(values, n);
}

inline at::IntArrayRef dims(const struct qd_shape *shape)
{
	return at::IntArrayRef(shape->dim, (size_t)shape->rank);
}

/* Float32 on the CPU without holes, in whatever order: an elementwise kernel may walk its memory. */
inline bool walkable(const at::Tensor &x)
{
	return x.device().is_cpu() && x.scalar_type() == at::kFloat && x.is_non_overlapping_and_dense();
}

at::ScalarType scalar_type(enum qd_dtype dtype);
/* Where new tensors are made. */
at::Device current_device();
/* What qt_set_bfloat16 set. */
bool bfloat16();
at::Tensor fake_quantize(const at::Tensor &x, size_t n, const float *scale, const float *zero, int64_t axis, float low, float high);
at::Tensor quantize(const at::Tensor &x, size_t n, const float *scale, const float *zero, int64_t axis, float low, float high);
at::Tensor dequantize(const at::Tensor &q, size_t n, const float *scale, const float *zero, int64_t axis);
at::Tensor attention(const at::Tensor &q, const at::Tensor &k, const at::Tensor &v, double scale);
} // namespace quad

#endif
