/*
 * The shim's library functions, tensors in and out, gradients and optimizer steps. Operators are in shim_ops.cc, those with
 * gradients of our own in shim_custom.cc.
 */
#include "lib/torch/shim_internal.h"

#include <cstring>

using namespace quad;

std::atomic<int64_t> quad::live{ 0 };

/* Set once, before work starts. */
static at::Device device(at::kCPU);

at::Device quad::current_device()
{
	return device;
}

at::ScalarType quad::scalar_type(enum qd_dtype dtype)
{
	switch (dtype) {
	case QD_F32:
	case QD_F16:
	case QD_BF16:
	case QD_F64:
		return at::kFloat;
	case QD_I64:
		return at::kLong;
	case QD_I32:
	case QD_U16:
		return at::kInt;
	case QD_I16:
		return at::kShort;
	case QD_I8:
		return at::kChar;
	case QD_U8:
		return at::kByte;
	case QD_BOOL:
		return at::kBool;
	default:
		throw std::runtime_error(std::string("no tensors of type ") + qd_dtype_name(dtype));
	}
}

/* ---- library ---- */

const char *qt_version(void)
{
	return TORCH_VERSION;
}

int64_t qt_live(void)
{
	return live;
}

enum qd_status qt_set_threads(int threads)
{
	return act("set_threads", [&] { at::set_num_threads(threads); });
}

void qt_set_grad(bool on)
{
	at::GradMode::set_enabled(on);
}

bool qt_get_grad(void)
{
	return at::GradMode::is_enabled();
}

enum qd_status qt_set_device(const char *name)
{
	try {
		at::Device wanted(name);
		at::empty({ 1 }, at::TensorOptions().device(wanted));
		device = wanted;
		return QD_OK;
	} catch (...) {
		return qd_fail(QD_EUNSUPPORTED, "this libtorch (%s) has no device '%s'", TORCH_VERSION, name);
	}
}

bool qt_on_cpu(void)
{
	return device.is_cpu();
}

/* ---- in and out ---- */

enum qd_status qt_from_tensor(const struct qd_tensor *tensor, qt_tensor *out)
{
	*out = nullptr;
	return guard("from_tensor", [&] {
		at::ScalarType type = scalar_type(tensor->dtype);
		at::Tensor x = at::empty(dims(&tensor->shape), at::TensorOptions().dtype(type));
		if (type == at::kFloat && tensor->dtype != QD_F32) {
			enum qd_status st = qd_tensor_to_f32(tensor, x.data_ptr<float>());
			if (st != QD_OK)
				return st;
		} else if (tensor->dtype == QD_U16) {
			for (int64_t i = 0; i < x.numel(); i++) {
				uint16_t code;
				memcpy(&code, (const char *)tensor->data + 2 * i, sizeof(code));
				x.data_ptr<int32_t>()[i] = code;
			}
		} else if (x.nbytes() > 0) {
			memcpy(x.data_ptr(), tensor->data, x.nbytes());
		}
		*out = give(device.is_cpu() ? x : x.to(device));
		return QD_OK;
	});
}

enum qd_status qt_borrow_tensor(const struct qd_tensor *tensor, qt_tensor *out)
{
	if (tensor->dtype != QD_F32 || (uintptr_t)tensor->data % alignof(float) != 0 || !device.is_cpu() || !tensor->bytes)
		return qt_from_tensor(tensor, out);
	return make("borrow_tensor", out, [&] { return at::from_blob(tensor->data, dims(&tensor->shape), at::kFloat); });
}

enum qd_status qt_zeros(const struct qd_shape *shape, qt_tensor *out)
{
	return make("zeros", out, [&] { return at::zeros(dims(shape), at::TensorOptions().device(device)); });
}

enum qd_status qt_full(const struct qd_shape *shape, float value, qt_tensor *out)
{
	return make("full", out, [&] { return at::full(dims(shape), value, at::TensorOptions().device(device)); });
}

/* What qt_read and qt_write hold in memory for a tensor: int64 for int64, else float32. */
static at::ScalarType plain_type(const at::Tensor &x)
{
	return x.scalar_type() == at::kLong ? at::kLong : at::kFloat;
}

static enum qd_status check_bytes(const at::Tensor &x, size_t bytes)
{
	size_t need = (size_t)x.numel() * (plain_type(x) == at::kLong ? sizeof(int64_t) : sizeof(float));

	if (bytes != need)
		return qd_fail(QD_EINPUT, "buffer has %zu bytes, needs %zu", bytes, need);
	return QD_OK;
}

enum qd_status qt_read(qt_tensor x, void *data, size_t bytes)
{
	return guard("read", [&] {
		enum qd_status st = check_bytes(x->tensor, bytes);
		if (st != QD_OK || bytes == 0)
			return st;
		at::Tensor plain = x->tensor.detach().to(at::kCPU, plain_type(x->tensor)).contiguous();
		memcpy(data, plain.data_ptr(), bytes);
		return QD_OK;
	});
}

enum qd_status qt_write(qt_tensor x, const void *data, size_t bytes)
{
	return guard("write", [&] {
		enum qd_status st = check_bytes(x->tensor, bytes);
		if (st != QD_OK || bytes == 0)
			return st;
		at::NoGradGuard no_grad;
		x->tensor.copy_(at::from_blob(const_cast<void *>(data), x->tensor.sizes(), plain_type(x->tensor)));
		return QD_OK;
	});
}

enum qd_status qt_item(qt_tensor x, double *out)
{
	return act("item", [&] { *out = x->tensor.item().toDouble(); });
}

enum qd_status qt_shape(qt_tensor x, struct qd_shape *out)
{
	return guard("shape", [&] {
		int64_t rank = x->tensor.dim();
		if (rank > QD_MAX_RANK)
			return qd_fail(QD_EUNSUPPORTED, "tensor has %lld dimensions, at most %d are supported", (long long)rank,
				QD_MAX_RANK);
		*out = {};
		out->rank = (int)rank;
		for (int64_t i = 0; i < rank; i++)
			out->dim[i] = x->tensor.size(i);
		return QD_OK;
	});
}

enum qd_status qt_data(qt_tensor x, float **out)
{
	*out = nullptr;
	return guard("data", [&] {
		if (!walkable(x->tensor) || !x->tensor.is_contiguous())
			return qd_fail(QD_EINPUT, "tensor is not contiguous float32 on the CPU");
		*out = x->tensor.data_ptr<float>();
		return QD_OK;
	});
}

enum qd_status qt_contiguous(qt_tensor x, qt_tensor *out)
{
	return make("contiguous", out, [&] { return x->tensor.contiguous(); });
}

enum qd_status qt_retain(qt_tensor x, qt_tensor *out)
{
	return make("retain", out, [&] { return x->tensor; });
}

enum qd_status qt_clone(qt_tensor x, qt_tensor *out)
{
	return make("clone", out, [&] { return x->tensor.clone(); });
}

void qt_free(qt_tensor x)
{
	if (!x)
		return;
	delete x;
	live--;
}

/* ---- autograd ---- */

enum qd_status qt_requires_grad(qt_tensor x, bool on)
{
	return act("requires_grad", [&] { x->tensor.requires_grad_(on); });
}

bool qt_wants_grad(qt_tensor x)
{
	return x->tensor.requires_grad();
}

enum qd_status qt_backward(qt_tensor loss)
{
	return act("backward", [&] { loss->tensor.backward(); });
}

enum qd_status qt_grad(qt_tensor x, qt_tensor *out)
{
	*out = nullptr;
	return act("grad", [&] {
		if (x->tensor.grad().defined())
			*out = give(x->tensor.grad());
	});
}

enum qd_status qt_zero_grad(qt_tensor x)
{
	return act("zero_grad", [&] { x->tensor.mutable_grad() = at::Tensor(); });
}

/* The step in tensor operations, for other devices and layouts. */
static void adamw_tensors(at::Tensor &x, at::Tensor &m, at::Tensor &v, const at::Tensor &g, const struct qd_adamw &o)
{
	double bias1 = 1.0 - std::pow(o.beta1, (double)o.step), bias2 = 1.0 - std::pow(o.beta2, (double)o.step);

	m.mul_(o.beta1).add_(g, 1.0 - o.beta1);
	v.mul_(o.beta2).addcmul_(g, g, 1.0 - o.beta2);
	x.mul_(1.0 - o.lr * o.weight_decay);
	x.addcdiv_(m, (v / bias2).sqrt_().add_(o.eps), -o.lr / bias1);
}

enum qd_status qt_adamw(
	qt_tensor x, qt_tensor m, qt_tensor v, int64_t step, double lr, double beta1, double beta2, double eps, double weight_decay)
{
	return act("adamw", [&] {
		at::NoGradGuard no_grad;
		const struct qd_adamw options = { step, lr, beta1, beta2, eps, weight_decay };
		at::Tensor g = x->tensor.grad();
		if (!g.defined())
			return;
		bool flat = true;
		for (const at::Tensor *t : { &x->tensor, &m->tensor, &v->tensor })
			flat = flat && walkable(*t) && t->is_contiguous();
		if (!flat)
			return adamw_tensors(x->tensor, m->tensor, v->tensor, g, options);
		TORCH_CHECK(m->tensor.numel() == g.numel() && v->tensor.numel() == g.numel(), "moments of another size");
		g = g.contiguous();
		qd_adamw_f32(&options, (size_t)g.numel(), x->tensor.data_ptr<float>(), m->tensor.data_ptr<float>(),
			v->tensor.data_ptr<float>(), g.data_ptr<float>());
	});
}

enum qd_status qt_lerp_(qt_tensor x, qt_tensor y, double decay)
{
	return act("lerp", [&] {
		at::NoGradGuard no_grad;
		x->tensor.lerp_(y->tensor, 1.0 - decay);
	});
}

enum qd_status qt_clamp_(qt_tensor x, double low, double high)
{
	return act("clamp", [&] {
		at::NoGradGuard no_grad;
		x->tensor.clamp_(low, high);
	});
}

enum qd_status qt_put_grad(qt_tensor x, const float *values)
{
	return act("put_grad", [&] {
		at::NoGradGuard no_grad;
		at::Tensor g = at::empty(x->tensor.sizes(), at::kFloat);
		std::memcpy(g.data_ptr<float>(), values, (size_t)g.numel() * sizeof(float));
		x->tensor.mutable_grad() = g.to(x->tensor.device());
	});
}

enum qd_status qt_scale_grad(qt_tensor x, double s)
{
	return act("scale_grad", [&] {
		at::NoGradGuard no_grad;
		if (x->tensor.grad().defined())
			x->tensor.mutable_grad().mul_(s);
	});
}

enum qd_status qt_grad_norm2(qt_tensor x, double *out)
{
	*out = 0;
	return act("grad_norm2", [&] {
		at::NoGradGuard no_grad;
		if (x->tensor.grad().defined())
			*out = x->tensor.grad().square().sum(at::kDouble).item().toDouble();
	});
}
