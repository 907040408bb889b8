/*
 * Every operator of ops.def, executed and compared with the plain evaluator of lib/ir. A case is a graph in text form; float inputs
 * are normal numbers, integer inputs lie within [-3, 3]. An operator without a case fails the last test.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "lib/math/math.h"
#include "lib/model/model.h"
#include "tests/unit/scratch.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct qd_random random_state;
static bool seen[QD_OP_COUNT];

static const char *const cases[] = {
	/* convolutions: bias, strides, asymmetric pads, dilation, groups, one and three dimensions */
	"input %x f32[2,3,7,6]\nweight %w f32[4,3,3,3] ...\nweight %b f32[4] {1,2,3,4}\n"
	"%y = Conv(%x, %w, %b) {pads=[1,1,1,1]}\noutput %y",
	"input %x f32[2,4,8,7]\ninput %w f32[6,2,3,2]\n%y = Conv(%x, %w) {strides=[2,1], pads=[0,1,2,0], dilations=[1,2], "
	"group=2}\noutput %y",
	"input %x f32[1,2,9]\ninput %w f32[3,2,4]\n%y = Conv(%x, %w) {strides=[2], pads=[1,2]}\noutput %y",
	"input %x f32[1,1,4,5,3]\ninput %w f32[2,1,2,2,2]\n%y = Conv(%x, %w)\noutput %y",
	/* products */
	"input %a f32[3,4]\ninput %b f32[4,5]\n%y = MatMul(%a, %b)\noutput %y",
	"input %a f32[2,1,3,4]\ninput %b f32[5,4,2]\n%y = MatMul(%a, %b)\noutput %y",
	"input %a f32[4]\ninput %b f32[2,4,3]\n%y = MatMul(%a, %b)\noutput %y",
	"input %a i64[2,3]\ninput %b i64[3,2]\n%y = MatMul(%a, %b)\noutput %y",
	"input %a f32[5,3]\ninput %b f32[4,3]\ninput %c f32[4]\n%y = Gemm(%a, %b, %c) {transB=1}\noutput %y",
	"input %a f32[5,3]\ninput %b f32[4,3]\n%y = Gemm(%a, %b) {transB=1}\noutput %y",
	"input %a f32[3,5]\ninput %b f32[3,4]\ninput %c f32[5,1]\n%y = Gemm(%a, %b, %c) {transA=1, alpha=0.5, beta=2.0}\noutput %y",
	"input %a f32[3,5]\ninput %b f32[5,4]\n%y = Gemm(%a, %b) {alpha=0.25}\noutput %y",
	/* two operands */
	"input %a f32[2,3,1]\ninput %b f32[4]\n%y = Add(%a, %b)\n%z = Sub(%y, %b)\n%u = Mul(%z, %a)\noutput %u",
	"input %a f32[2,3]\ninput %b f32[2,3]\n%d = Exp(%b)\n%y = Div(%a, %d)\noutput %y",
	"input %a i64[20]\nweight %b i64[1] {2}\n%y = Div(%a, %b)\n%z = Mul(%y, %b)\noutput %y\noutput %z",
	"input %a f32[3,4]\ninput %b f32[3,4]\n%p = Exp(%a)\n%y = Pow(%p, %b)\noutput %y",
	"input %a f32[3,4]\nweight %b f32[] {2}\n%y = Pow(%a, %b)\noutput %y",
	"input %a f32[3,4]\nweight %b i64[] {3}\n%y = Pow(%a, %b)\noutput %y",
	"input %a f32[3,4]\ninput %b f32[4]\ninput %c f32[3,1]\n%y = Min(%a, %b, %c)\n%z = Max(%a, %b, %c)\n%o = Max(%a)\n"
	"output %y\noutput %z\noutput %o",
	"input %a i64[40]\ninput %b i64[40]\n%e = Equal(%a, %b)\n%g = Greater(%a, %b)\n%l = Less(%a, %b)\n%o = Or(%e, %g)\n%n = "
	"Not(%l)\n"
	"%q = And(%o, %n)\n%y = Where(%q, %a, %b)\n%z = Where(%g, %b, %a)\noutput %y\noutput %z\noutput %e",
	/* one operand */
	"input %x f32[40]\n%a = Sigmoid(%x)\n%b = Tanh(%x)\n%c = Relu(%x)\n%d = Erf(%x)\n%e = Exp(%x)\n%f = Neg(%x)\n%g = Abs(%x)\n"
	"output %a\noutput %b\noutput %c\noutput %d\noutput %e\noutput %f\noutput %g",
	"input %x f32[40]\n%p = Abs(%x)\n%a = Log(%p)\n%b = Sqrt(%p)\n%c = Reciprocal(%p)\noutput %a\noutput %b\noutput %c",
	"input %x f32[40]\n%a = Sin(%x)\n%b = Cos(%x)\n%c = Softplus(%x)\n%d = Mish(%x)\n%e = Floor(%x)\n%f = Gelu(%x)\n"
	"%g = Gelu(%x) {approximate=\"tanh\"}\noutput %a\noutput %b\noutput %c\noutput %d\noutput %e\noutput %f\noutput %g",
	"weight %x f32[9] {0.5, 1.5, 2.5, -0.5, -1.5, 0.49, 2.51, 0, -7}\n%y = Round(%x)\noutput %y",
	"input %x i64[20]\n%a = Neg(%x)\n%b = Abs(%x)\n%c = Relu(%x)\noutput %a\noutput %b\noutput %c",
	"input %x f32[40]\nweight %l f32[] {-0.5}\nweight %h f32[1] {0.75}\n%a = Clip(%x, %l, %h)\n%b = Clip(%x, _, %h)\n%c = "
	"Clip(%x, %l)\n"
	"%d = Clip(%x)\noutput %a\noutput %b\noutput %c\noutput %d",
	"input %x i64[20]\nweight %l i64[] {-1}\n%a = Clip(%x, %l)\noutput %a",
	"input %x i64[20]\n%f = Cast(%x) {to=1}\n%b = Cast(%x) {to=9}\n%i = Cast(%b) {to=6}\n%j = Cast(%f) {to=7}\n"
	"output %f\noutput %b\noutput %i\noutput %j",
	/* along axes */
	"input %x f32[2,3,5]\n%a = Softmax(%x)\n%b = Softmax(%x) {axis=1}\noutput %a\noutput %b",
	"input %x f32[2,6,3,4]\ninput %s f32[6]\ninput %b f32[6]\n%y = GroupNormalization(%x, %s, %b) {num_groups=3, "
	"epsilon=0.01}\noutput %y",
	"input %x f32[2,3,8]\ninput %s f32[8]\ninput %b f32[8]\n%y = LayerNormalization(%x, %s, %b)\n%z = LayerNormalization(%x, "
	"%s)\n"
	"output %y\noutput %z",
	"input %x f32[2,3,4]\ninput %s f32[3,4]\ninput %b f32[4]\n%y = LayerNormalization(%x, %s, %b) {axis=1, "
	"epsilon=0.1}\noutput %y",
	"input %x f32[2,3,5,4]\ninput %s f32[3]\ninput %b f32[3]\n%y = InstanceNormalization(%x, %s, %b)\noutput %y",
	"input %x f32[2,3,4]\nweight %a i64[2] {0,-1}\n%b = ReduceMean(%x, %a)\n%c = ReduceSum(%x, %a) {keepdims=0}\n%d = "
	"ReduceMean(%x)\n"
	"%e = ReduceSum(%x) {noop_with_empty_axes=1}\noutput %b\noutput %c\noutput %d\noutput %e",
	"input %x i64[2,3]\nweight %a i64[1] {1}\n%b = ReduceSum(%x, %a)\n%c = ArgMax(%x) {axis=1}\n"
	"%d = ArgMax(%x) {axis=-1, keepdims=0, select_last_index=1}\noutput %b\noutput %d",
	"input %x f32[4,5]\n%b = ArgMax(%x)\n%c = ArgMax(%x) {axis=1, keepdims=0}\noutput %b\noutput %c",
	/* moving data */
	"input %x f32[2,3,4]\nweight %s i64[2] {0,-1}\nweight %u i64[2] {0,4}\n%a = Reshape(%x, %s)\n%b = Transpose(%x)\n"
	"%c = Transpose(%x) {perm=[1,0,2]}\n%d = Unsqueeze(%x, %u)\n%e = Squeeze(%d, %u)\n%f = Squeeze(%d)\n%g = Flatten(%x) "
	"{axis=2}\n"
	"%h = Identity(%x)\noutput %a\noutput %b\noutput %c\noutput %d\noutput %e\noutput %f\noutput %g\noutput %h",
	"input %x f32[6,7]\nweight %s i64[2] {1,-1}\nweight %e i64[2] {5,-8}\nweight %a i64[2] {0,1}\nweight %t i64[2] {2,-3}\n"
	"%y = Slice(%x, %s, %e, %a, %t)\nweight %s1 i64[1] {2}\nweight %e1 i64[1] {100}\n%z = Slice(%x, %s1, %e1)\n"
	"weight %e2 i64[1] {2}\n%w = Slice(%x, %s1, %e2)\noutput %y\noutput %z\noutput %w",
	"input %x f32[2,7]\nweight %s i64[2] {3,4}\n%a, %b = two: Split(%x, %s) {axis=1}\n%c, %d, %e = three: Split(%x) {axis=-1, "
	"num_outputs=3}\n"
	"output %a\noutput %b\noutput %c\noutput %e",
	"input %x f32[3,7,2]\ninput %i i64[2,2]\n%y = Gather(%x, %i) {axis=1}\nweight %k i64[] {-1}\n%z = Gather(%x, %k)\noutput "
	"%y\noutput %z",
	"input %x f32[3,1]\nweight %s i64[3] {2,3,4}\n%y = Expand(%x, %s)\nweight %r i64[2] {2,3}\n%z = Tile(%x, %r)\noutput "
	"%y\noutput %z",
	"input %x f32[2,8,3,2]\n%a = DepthToSpace(%x) {blocksize=2}\n%b = DepthToSpace(%x) {blocksize=2, mode=\"CRD\"}\n"
	"%c = SpaceToDepth(%a) {blocksize=2}\noutput %a\noutput %b\noutput %c",
	"input %x f32[2,3,4,5]\nweight %s i64[4] {2,3,8,9}\n"
	"%a = Resize(%x, _, _, %s) {mode=\"nearest\", coordinate_transformation_mode=\"asymmetric\", nearest_mode=\"floor\"}\n"
	"weight %f f32[4] {1,1,2,3}\n"
	"%b = Resize(%x, _, %f) {mode=\"nearest\", coordinate_transformation_mode=\"asymmetric\", nearest_mode=\"floor\"}\n"
	"weight %h f32[4] {1,2,0.5,1.7}\n"
	"%c = Resize(%x, _, %h) {mode=\"nearest\", coordinate_transformation_mode=\"asymmetric\", nearest_mode=\"floor\"}\n"
	"output %a\noutput %b\noutput %c",
	"input %x f32[2,3]\ninput %y f32[2,1]\n%a = Concat(%x, %y, %x) {axis=-1}\nweight %p i64[4] {1,0,0,2}\nweight %v f32[] {7}\n"
	"%b = Pad(%x, %p, %v)\nweight %p2 i64[2] {-1,1}\nweight %ax i64[1] {1}\n%c = Pad(%x, %p2, _, %ax)\noutput %a\noutput "
	"%b\noutput %c",
	"input %x f32[2,4,3]\nweight %k i64[] {-1}\n%a = Trilu(%x)\n%b = Trilu(%x, %k) {upper=0}\noutput %a\noutput %b",
	/* constants */
	"input %x f32[2,4,3]\n%s = Shape(%x)\n%t = Shape(%x) {start=1, end=-1}\n%c = ConstantOfShape(%t) {value=2.5}\n"
	"weight %o i64[] {1}\nweight %l i64[] {9}\nweight %d i64[] {3}\n%r = Range(%o, %l, %d)\noutput %s\noutput %c\noutput %r",
	/* codes */
	"input %x f32[3,5]\nweight %s f32[] {0.05}\nweight %z u8[] {100}\n%q = QuantizeLinear(%x, %s, %z)\n%y = "
	"DequantizeLinear(%q, %s, %z)\n"
	"output %q\noutput %y",
	"input %x f32[3,5]\nweight %s f32[3] {0.05,0.01,0.0001}\nweight %z u16[3] {100,40000,7}\n%q = QuantizeLinear(%x, %s, %z) "
	"{axis=0}\n"
	"%y = DequantizeLinear(%q, %s, %z) {axis=0}\noutput %y",
	"input %x f32[3,5]\nweight %s f32[5] {0.05,0.01,0.0001,1,2}\n%q = QuantizeLinear(%x, %s) {axis=1, output_dtype=5}\n"
	"%y = DequantizeLinear(%q, %s) {axis=1}\n%q8 = QuantizeLinear(%x, %s) {output_dtype=3}\noutput %q\noutput %y\noutput %q8",
	"weight %q i32[3] {-2147483648, 5, 2147483647}\nweight %s f32[] {0.001}\n%y = DequantizeLinear(%q, %s)\noutput %y",
};

/* ---- the reference: qd_eval_node over the whole graph; one tensor per value ---- */

static struct qd_tensor constant(const struct qd_value *v)
{
	bool real = v->dtype == QD_F32;
	size_t n = (size_t)qd_shape_elements(&v->shape);
	struct qd_tensor t;
	float *x = calloc(n + 1, sizeof(*x));

	assert_int_equal(qd_tensor_new(&t, v->name, real ? QD_F32 : QD_I64, &v->shape), QD_OK);
	if (v->data.dtype == QD_I64)
		memcpy(t.data, v->data.data, t.bytes);
	else if (v->data.dtype == QD_I32)
		for (size_t i = 0; i < n; i++)
			((int64_t *)t.data)[i] = ((const int32_t *)v->data.data)[i];
	else {
		assert_int_equal(qd_tensor_to_f32(&v->data, x), QD_OK);
		for (size_t i = 0; i < n; i++)
			if (real)
				((float *)t.data)[i] = x[i];
			else
				((int64_t *)t.data)[i] = (int64_t)x[i];
	}
	free(x);
	return t;
}

static struct qd_tensor random_input(const struct qd_value *v)
{
	struct qd_tensor t;

	assert_int_equal(qd_tensor_new(&t, v->name, v->dtype, &v->shape), QD_OK);
	for (int64_t i = 0; i < qd_shape_elements(&v->shape); i++)
		if (v->dtype == QD_F32)
			((float *)t.data)[i] = (float)qd_random_normal(&random_state);
		else
			((int64_t *)t.data)[i] = (int64_t)qd_random_below(&random_state, 7) - 3;
	return t;
}

static void evaluate(const struct qd_graph *g, struct qd_tensor *values)
{
	for (size_t i = 0; i < g->n_order; i++) {
		const struct qd_node *node = &g->nodes[g->order[i]];
		const struct qd_tensor *in[8];
		struct qd_tensor out[8];
		seen[node->op] = true;
		assert_true(node->n_in <= 8 && node->n_out <= 8);
		for (size_t k = 0; k < node->n_in; k++)
			in[k] = node->in[k] == QD_NONE ? NULL : &values[node->in[k]];
		if (qd_eval_node(g, node, in, out) != QD_OK)
			fail_msg("%s", qd_message());
		for (size_t k = 0; k < node->n_out; k++)
			values[node->out[k]] = out[k];
	}
}

/*
 * Elementary functions agree to a few units in the last place; sums have at most 54 products of numbers below 5, hence 54 * 25 *
 * 2^-24 = 8e-5 at worst and far less as errors are random.
 */
static void compare(const char *text, const struct qd_value *v, const struct qd_tensor *want, qt_tensor got)
{
	size_t n = (size_t)qd_shape_elements(&v->shape);
	double *a = calloc(n + 1, sizeof(*a));
	float *x = calloc(n + 1, sizeof(*x));
	qt_tensor plain = NULL;
	struct qd_shape shape;

	assert_int_equal(qt_shape(got, &shape), QD_OK);
	assert_true(qd_shape_equal(&shape, &v->shape));
	if (v->dtype == QD_I64) {
		assert_int_equal(qt_read(got, a, n * sizeof(int64_t)), QD_OK);
		assert_memory_equal(a, want->data, n * sizeof(int64_t));
	} else {
		assert_int_equal(qt_cast(got, QD_F32, &plain), QD_OK);
		assert_int_equal(qt_read(plain, x, n * sizeof(*x)), QD_OK);
		for (size_t i = 0; i < n; i++) {
			double w = want->dtype == QD_F32 ? (double)((float *)want->data)[i] : (double)((int64_t *)want->data)[i];
			if (!(fabs(x[i] - w) <= 1e-5 * (1 + fabs(w))))
				fail_msg("%s\n'%s'[%zu] is %.9g, expected %.9g", text, v->name, i, x[i], w);
		}
	}
	qt_free(plain);
	free(a);
	free(x);
}

static void run_case(const char *body, bool see_all)
{
	struct qd_exec_options options = { .see_all = see_all };
	struct qd_exec *exec = NULL;
	struct qd_graph g;
	qt_tensor outputs[8];
	char text[4096];

	snprintf(text, sizeof(text), "graph t\n%s\n", body);
	qd_graph_init(&g, "t");
	if (qd_graph_parse(&g, "case", text) != QD_OK || qd_graph_verify(&g) != QD_OK)
		fail_msg("%s\n%s", text, qd_message());
	struct qd_tensor *values = calloc(g.n_values, sizeof(*values));
	assert_int_equal(qd_exec_new(&exec, &g, &options), QD_OK);
	for (qd_id i = 0; i < g.n_values; i++) {
		if (g.values[i].kind == QD_WEIGHT)
			values[i] = constant(&g.values[i]);
		if (g.values[i].kind != QD_INPUT)
			continue;
		values[i] = random_input(&g.values[i]);
		assert_int_equal(qd_exec_bind_tensor(exec, g.values[i].name, &values[i]), QD_OK);
	}
	evaluate(&g, values);
	assert_true(g.n_outputs <= 8);
	/* Twice: the second run finds what the first one kept. */
	for (int run = 0; run < 2; run++) {
		if (qd_exec_run(exec, outputs) != QD_OK)
			fail_msg("%s\n%s", text, qd_message());
		for (size_t i = 0; i < g.n_outputs; i++) {
			compare(text, &g.values[g.outputs[i]], &values[g.outputs[i]], outputs[i]);
			qt_free(outputs[i]);
		}
	}
	qd_exec_free(exec);
	assert_int_equal(qt_live(), 0);
	for (size_t i = 0; i < g.n_values; i++)
		qd_tensor_release(&values[i]);
	free(values);
	qd_graph_release(&g);
}

static void test_operators_equal_evaluator(void **state)
{
	(void)state;
	qd_random_init(&random_state, test_seed(), 0);
	for (size_t i = 0; i < QD_COUNT(cases); i++) {
		run_case(cases[i], true);
		run_case(cases[i], false);
	}
}

static void test_every_operator_has_a_case(void **state)
{
	(void)state;
	for (unsigned i = 0; i < QD_OP_COUNT; i++)
		if (!seen[i])
			fail_msg("no case for %s", qd_op((enum qd_op)i)->name);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_operators_equal_evaluator),
		cmocka_unit_test(test_every_operator_has_a_case),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
