/*
 * Reference evaluation, element by element. Float arithmetic is done in double and rounded once to float32, which for + - * / and
 * sqrt equals float32 arithmetic; integer arithmetic wraps.
 */
#include "lib/ir/internal.h"

#include <math.h>
#include <string.h>

/* Index of the element of `in`, broadcast to `out`, that stands at `linear` of `out`. */
static int64_t source(const struct qd_shape *out, const struct qd_shape *in, int64_t linear)
{
	int64_t index = 0, stride = 1;

	for (int i = 1; i <= in->rank; i++) {
		int64_t size = out->dim[out->rank - i], at = linear % size;
		linear /= size;
		if (in->dim[in->rank - i] != 1)
			index += at * stride;
		stride *= in->dim[in->rank - i];
	}
	return index;
}

static double load_float(const struct qd_tensor *t, int64_t i)
{
	return t->dtype == QD_F32 ? ((const float *)t->data)[i] : (double)((const int64_t *)t->data)[i];
}

static int64_t load_int(const struct qd_tensor *t, int64_t i)
{
	return ((const int64_t *)t->data)[i];
}

/* Truncates toward zero; saturates, and NaN gives 0, where C leaves it open. */
static int64_t to_int(double x)
{
	if (isnan(x))
		return 0;
	return x >= 0x1p63 ? INT64_MAX : x <= -0x1p63 ? INT64_MIN : (int64_t)x;
}

static void store_float(struct qd_tensor *t, int64_t i, double x)
{
	if (t->dtype == QD_F32)
		((float *)t->data)[i] = (float)x;
	else
		((int64_t *)t->data)[i] = to_int(x);
}

/* ---- two operands and more ---- */

static double add_f(double a, double b)
{
	return a + b;
}

static int64_t add_i(int64_t a, int64_t b)
{
	return (int64_t)((uint64_t)a + (uint64_t)b);
}

static double sub_f(double a, double b)
{
	return a - b;
}

static int64_t sub_i(int64_t a, int64_t b)
{
	return (int64_t)((uint64_t)a - (uint64_t)b);
}

static double mul_f(double a, double b)
{
	return a * b;
}

static int64_t mul_i(int64_t a, int64_t b)
{
	return (int64_t)((uint64_t)a * (uint64_t)b);
}

static double div_f(double a, double b)
{
	return a / b;
}

/* Truncates toward zero; b is not 0. */
static int64_t div_i(int64_t a, int64_t b)
{
	return b == -1 ? sub_i(0, a) : a / b;
}

static int64_t pow_i(int64_t a, int64_t b)
{
	int64_t result = 1;

	if (b < 0)
		return to_int(pow((double)a, (double)b));
	for (; b > 0; b >>= 1) {
		if (b & 1)
			result = mul_i(result, a);
		a = mul_i(a, a);
	}
	return result;
}

static double min_f(double a, double b)
{
	return a < b || isnan(a) ? a : b;
}

static int64_t min_i(int64_t a, int64_t b)
{
	return a < b ? a : b;
}

static double max_f(double a, double b)
{
	return a > b || isnan(a) ? a : b;
}

static int64_t max_i(int64_t a, int64_t b)
{
	return a > b ? a : b;
}

static double equal_f(double a, double b)
{
	return a == b;
}

static int64_t equal_i(int64_t a, int64_t b)
{
	return a == b;
}

static double greater_f(double a, double b)
{
	return a > b;
}

static int64_t greater_i(int64_t a, int64_t b)
{
	return a > b;
}

static double less_f(double a, double b)
{
	return a < b;
}

static int64_t less_i(int64_t a, int64_t b)
{
	return a < b;
}

static int64_t and_i(int64_t a, int64_t b)
{
	return a && b;
}

static int64_t or_i(int64_t a, int64_t b)
{
	return a || b;
}

static const struct {
	double (*f)(double, double);
	int64_t (*i)(int64_t, int64_t);
} binary[QD_OP_COUNT] = {
	[QD_OP_ADD] = { add_f, add_i },
	[QD_OP_SUB] = { sub_f, sub_i },
	[QD_OP_MUL] = { mul_f, mul_i },
	[QD_OP_DIV] = { div_f, div_i },
	[QD_OP_POW] = { pow, pow_i },
	[QD_OP_MIN] = { min_f, min_i },
	[QD_OP_MAX] = { max_f, max_i },
	[QD_OP_EQUAL] = { equal_f, equal_i },
	[QD_OP_GREATER] = { greater_f, greater_i },
	[QD_OP_LESS] = { less_f, less_i },
	[QD_OP_AND] = { NULL, and_i },
	[QD_OP_OR] = { NULL, or_i },
};

static enum qd_status check_divisor(const struct qd_tensor *t)
{
	for (int64_t i = 0; t->dtype == QD_I64 && i < qd_shape_elements(&t->shape); i++)
		if (load_int(t, i) == 0)
			return qd_fail(QD_EINPUT, "integer division by zero");
	return QD_OK;
}

/* Min and Max take any number of operands: the operator is applied from the left. */
enum qd_status qd_eval_binary(const struct qd_eval *e)
{
	struct qd_tensor *out = &e->out[0];
	enum qd_op op = e->node->op;
	bool integers = true;

	for (size_t k = 0; k < e->node->n_in; k++)
		integers = integers && e->in[k]->dtype == QD_I64;
	if (op == QD_OP_DIV && check_divisor(e->in[1]) != QD_OK)
		return QD_EINPUT;
	for (int64_t i = 0; i < qd_shape_elements(&out->shape); i++) {
		int64_t at = source(&out->shape, &e->in[0]->shape, i);
		int64_t whole = integers ? load_int(e->in[0], at) : 0;
		double real = integers ? 0 : load_float(e->in[0], at);
		for (size_t k = 1; k < e->node->n_in; k++) {
			at = source(&out->shape, &e->in[k]->shape, i);
			if (integers)
				whole = binary[op].i(whole, load_int(e->in[k], at));
			else
				real = binary[op].f(real, load_float(e->in[k], at));
		}
		if (integers)
			((int64_t *)out->data)[i] = whole;
		else
			store_float(out, i, real);
	}
	return QD_OK;
}

/* ---- one operand ---- */

static double sigmoid(double x)
{
	return 1 / (1 + exp(-x));
}

static double relu_f(double x)
{
	return x < 0 ? 0 : x;
}

static int64_t relu_i(int64_t x)
{
	return x < 0 ? 0 : x;
}

static double gelu(double x)
{
	return 0.5 * x * (1 + erf(x * M_SQRT1_2));
}

/* The approximation "tanh" of ONNX's Gelu. */
static double gelu_tanh(double x)
{
	return 0.5 * x * (1 + tanh(M_2_SQRTPI * M_SQRT1_2 * (x + 0.044715 * x * x * x)));
}

static double neg_f(double x)
{
	return -x;
}

static int64_t neg_i(int64_t x)
{
	return sub_i(0, x);
}

static int64_t abs_i(int64_t x)
{
	return x < 0 ? neg_i(x) : x;
}

static int64_t not_i(int64_t x)
{
	return !x;
}

/* log(1 + exp(x)) without overflow */
static double softplus(double x)
{
	return fmax(x, 0) + log1p(exp(-fabs(x)));
}

static double mish(double x)
{
	return x * tanh(softplus(x));
}

static double reciprocal(double x)
{
	return 1 / x;
}

static const struct {
	double (*f)(double);
	int64_t (*i)(int64_t);
} unary[QD_OP_COUNT] = {
	[QD_OP_NOT] = { NULL, not_i },
	[QD_OP_SIGMOID] = { sigmoid, NULL },
	[QD_OP_TANH] = { tanh, NULL },
	[QD_OP_RELU] = { relu_f, relu_i },
	[QD_OP_GELU] = { gelu, NULL },
	[QD_OP_ERF] = { erf, NULL },
	[QD_OP_EXP] = { exp, NULL },
	[QD_OP_LOG] = { log, NULL },
	[QD_OP_SQRT] = { sqrt, NULL },
	[QD_OP_NEG] = { neg_f, neg_i },
	[QD_OP_ABS] = { fabs, abs_i },
	[QD_OP_SIN] = { sin, NULL },
	[QD_OP_COS] = { cos, NULL },
	[QD_OP_SOFTPLUS] = { softplus, NULL },
	[QD_OP_MISH] = { mish, NULL },
	[QD_OP_RECIPROCAL] = { reciprocal, NULL },
	[QD_OP_FLOOR] = { floor, NULL },
	[QD_OP_ROUND] = { nearbyint, NULL }, /* ties to even */
};

enum qd_status qd_eval_unary(const struct qd_eval *e)
{
	const struct qd_tensor *x = e->in[0];
	double (*f)(double) = unary[e->node->op].f;

	if (strcmp(qd_node_string(e->node, "approximate", "none"), "tanh") == 0)
		f = gelu_tanh;
	for (int64_t i = 0; i < qd_shape_elements(&x->shape); i++)
		if (x->dtype == QD_I64)
			((int64_t *)e->out[0].data)[i] = unary[e->node->op].i(load_int(x, i));
		else
			store_float(&e->out[0], i, f(load_float(x, i)));
	return QD_OK;
}

/* ---- the others ---- */

enum qd_status qd_eval_where(const struct qd_eval *e)
{
	struct qd_tensor *out = &e->out[0];
	size_t width = qd_dtype_bits(out->dtype) / 8;

	for (int64_t i = 0; i < qd_shape_elements(&out->shape); i++) {
		bool yes = load_int(e->in[0], source(&out->shape, &e->in[0]->shape, i)) != 0;
		const struct qd_tensor *from = e->in[yes ? 1 : 2];
		int64_t at = source(&out->shape, &from->shape, i);
		memcpy((char *)out->data + (size_t)i * width, (const char *)from->data + (size_t)at * width, width);
	}
	return QD_OK;
}

/* min(max(x, low), high): high wins where they cross. */
enum qd_status qd_eval_clip(const struct qd_eval *e)
{
	const struct qd_tensor *x = e->in[0], *low = e->node->n_in > 1 ? e->in[1] : NULL,
			       *high = e->node->n_in > 2 ? e->in[2] : NULL;

	for (int64_t i = 0; i < qd_shape_elements(&x->shape); i++) {
		if (x->dtype == QD_I64) {
			int64_t v = load_int(x, i);
			v = low != NULL ? max_i(v, load_int(low, 0)) : v;
			((int64_t *)e->out[0].data)[i] = high != NULL ? min_i(v, load_int(high, 0)) : v;
		} else {
			double v = load_float(x, i);
			v = low != NULL ? max_f(v, load_float(low, 0)) : v;
			store_float(&e->out[0], i, high != NULL ? min_f(v, load_float(high, 0)) : v);
		}
	}
	return QD_OK;
}

enum qd_status qd_eval_cast(const struct qd_eval *e)
{
	const struct qd_tensor *x = e->in[0];
	bool to_bool = e->g->values[e->node->out[0]].dtype == QD_BOOL;

	for (int64_t i = 0; i < qd_shape_elements(&x->shape); i++) {
		if (to_bool)
			((int64_t *)e->out[0].data)[i] = x->dtype == QD_I64 ? load_int(x, i) != 0 : load_float(x, i) != 0;
		else if (x->dtype == QD_I64 && e->out[0].dtype == QD_I64)
			((int64_t *)e->out[0].data)[i] = load_int(x, i);
		else
			store_float(&e->out[0], i, load_float(x, i));
	}
	return QD_OK;
}
