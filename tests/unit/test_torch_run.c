/*
 * The executor: fused groups equal single steps, hooks see what they are promised, weights are loaded and freed once, and what it
 * refuses.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "lib/math/math.h"
#include "lib/model/model.h"
#include "tests/unit/random_help.h"
#include "tests/unit/scratch.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Attention with heads in the tokens' rows, a SiLU, a quantized detour and a weight-only branch. */
static const char *const net = "graph net\n"
			       "input %q f32[2,10,12]\ninput %k f32[2,7,12]\ninput %v f32[2,7,12]\n"
			       "weight %heads i64[4] {0,0,3,4}\nweight %flat i64[3] {0,0,12}\n"
			       "%q4 = Reshape(%q, %heads)\n%k4 = Reshape(%k, %heads)\n%v4 = Reshape(%v, %heads)\n"
			       "%qt = Transpose(%q4) {perm=[0,2,1,3]}\n%kt = Transpose(%k4) {perm=[0,2,3,1]}\n"
			       "%vt = Transpose(%v4) {perm=[0,2,1,3]}\n"
			       "%scores = MatMul(%qt, %kt)\nweight %factor f32[] {0.5}\n%scaled = Mul(%scores, %factor)\n"
			       "%soft = Softmax(%scaled) {axis=-1}\n%att = MatMul(%soft, %vt)\n"
			       "%back = Transpose(%att) {perm=[0,2,1,3]}\n%merged = Reshape(%back, %flat)\n"
			       "%sig = Sigmoid(%merged)\n%silu = Mul(%merged, %sig)\n"
			       "weight %s f32[] {0.01}\nweight %z u8[] {128}\n%code = QuantizeLinear(%silu, %s, %z)\n"
			       "%deq = DequantizeLinear(%code, %s, %z)\n"
			       "weight %w f32[12] {1,2,3,4,5,6,7,8,9,10,11,12}\n%w2 = Mul(%w, %factor)\n"
			       "%y = Mul(%deq, %w2)\noutput %y\n";

static void parse(struct qd_graph *g, const char *text)
{
	qd_graph_init(g, "net");
	if (qd_graph_parse(g, "case", text) != QD_OK || qd_graph_verify(g) != QD_OK)
		fail_msg("%s", qd_message());
}

static qt_tensor random_tensor(const struct qd_shape *shape)
{
	struct qd_tensor t;
	qt_tensor out = NULL;

	assert_int_equal(qd_tensor_new(&t, NULL, QD_F32, shape), QD_OK);
	for (int64_t i = 0; i < qd_shape_elements(shape); i++)
		((float *)t.data)[i] = (float)qd_random_normal(&random_state);
	assert_int_equal(qt_from_tensor(&t, &out), QD_OK);
	qd_tensor_release(&t);
	return out;
}

static struct qd_exec *executor(const struct qd_graph *g, bool see_all, qd_value_hook hook, void *context)
{
	struct qd_exec_options options = { .hook = hook, .hook_context = context, .see_all = see_all };
	struct qd_exec *exec = NULL;

	assert_int_equal(qd_exec_new(&exec, g, &options), QD_OK);
	return exec;
}

static void bind_random(struct qd_exec *exec, const struct qd_graph *g)
{
	for (size_t i = 0; i < g->n_inputs; i++) {
		qt_tensor t = random_tensor(&g->values[g->inputs[i]].shape);
		assert_int_equal(qd_exec_bind(exec, g->inputs[i], t), QD_OK);
		qt_free(t);
	}
}

static void run(struct qd_exec *exec, qt_tensor *out)
{
	if (qd_exec_run(exec, out) != QD_OK)
		fail_msg("%s", qd_message());
}

static size_t count(qt_tensor t)
{
	struct qd_shape shape;

	assert_int_equal(qt_shape(t, &shape), QD_OK);
	return (size_t)qd_shape_elements(&shape);
}

static float *numbers(qt_tensor t)
{
	size_t n = count(t);
	float *x = calloc(n + 1, sizeof(*x));

	assert_int_equal(qt_read(t, x, n * sizeof(*x)), QD_OK);
	return x;
}

static void assert_close(qt_tensor a, qt_tensor b, double tolerance)
{
	size_t n = count(a);
	float *x = numbers(a), *y = numbers(b);

	assert_int_equal(n, count(b));
	for (size_t i = 0; i < n; i++)
		if (!(fabs((double)x[i] - y[i]) <= tolerance))
			fail_msg("element %zu: %.9g and %.9g", i, x[i], y[i]);
	free(x);
	free(y);
}

/* ---- fusion ---- */

/*
 * Fused and single steps differ by the order of float32 sums only: sums of up to 12 terms below 5, 12 * 25 * 2^-24 = 2e-5, times
 * the largest weight 6; a code may tip over to its neighbour, which is one scale of 0.01 times 6.
 */
static void test_fused_equals_single_steps(void **state)
{
	(void)state;
	struct qd_graph g;
	qt_tensor outputs[2] = { NULL, NULL }, inputs[3], target, loss;

	parse(&g, net);
	for (size_t i = 0; i < 3; i++) {
		inputs[i] = random_tensor(&g.values[g.inputs[i]].shape);
		assert_int_equal(qt_requires_grad(inputs[i], true), QD_OK);
	}
	target = random_tensor(&g.values[g.outputs[0]].shape);
	for (int see_all = 0; see_all < 2; see_all++) {
		struct qd_exec *exec = executor(&g, see_all, NULL, NULL);
		for (size_t i = 0; i < 3; i++)
			assert_int_equal(qd_exec_bind(exec, g.inputs[i], inputs[i]), QD_OK);
		run(exec, &outputs[see_all]);
		assert_int_equal(qt_mse(outputs[see_all], target, &loss), QD_OK);
		/* Codes alone carry no gradient; the fused pair passes it straight through. */
		assert_int_equal(qt_wants_grad(loss), !see_all);
		qt_free(loss);
		qd_exec_free(exec);
	}
	assert_close(outputs[0], outputs[1], 0.061);
	for (size_t i = 0; i < 3; i++)
		qt_free(inputs[i]);
	qt_free(outputs[0]);
	qt_free(outputs[1]);
	qt_free(target);
	qd_graph_release(&g);
	assert_int_equal(qt_live(), 0);
}

/* The same without the codes, down to the inputs' gradients. */
static void test_fused_gradients_equal_single_steps(void **state)
{
	(void)state;
	static const char *const smooth =
		"graph net\ninput %q f32[2,3,40,8]\ninput %k f32[2,3,50,8]\ninput %v f32[2,3,50,6]\n"
		"%kt = Transpose(%k) {perm=[0,1,3,2]}\n%scores = MatMul(%q, %kt)\nweight %f f32[1] {0.35}\n"
		"%scaled = Mul(%f, %scores)\n%soft = Softmax(%scaled)\n%att = MatMul(%soft, %v)\n"
		"%sig = Sigmoid(%att)\n%y = Mul(%sig, %att)\noutput %y\n";
	struct qd_graph g;
	qt_tensor outputs[2] = { NULL, NULL }, gradients[2][3], inputs[3], target, loss;

	parse(&g, smooth);
	for (size_t i = 0; i < 3; i++) {
		inputs[i] = random_tensor(&g.values[g.inputs[i]].shape);
		assert_int_equal(qt_requires_grad(inputs[i], true), QD_OK);
	}
	target = random_tensor(&g.values[g.outputs[0]].shape);
	for (int see_all = 0; see_all < 2; see_all++) {
		struct qd_exec *exec = executor(&g, see_all, NULL, NULL);
		for (size_t i = 0; i < 3; i++) {
			assert_int_equal(qd_exec_bind(exec, g.inputs[i], inputs[i]), QD_OK);
			assert_int_equal(qt_zero_grad(inputs[i]), QD_OK);
		}
		run(exec, &outputs[see_all]);
		assert_int_equal(qt_mse(outputs[see_all], target, &loss), QD_OK);
		assert_int_equal(qt_backward(loss), QD_OK);
		for (size_t i = 0; i < 3; i++)
			assert_int_equal(qt_grad(inputs[i], &gradients[see_all][i]), QD_OK);
		qt_free(loss);
		qd_exec_free(exec);
	}
	/* Sums of at most 50 terms below 25: 50 * 25 * 2^-24 = 7e-5 at worst; gradients are smaller by the mean over 1440 elements.
	 */
	assert_close(outputs[0], outputs[1], 2e-5);
	for (size_t i = 0; i < 3; i++) {
		assert_close(gradients[0][i], gradients[1][i], 1e-7);
		qt_free(inputs[i]);
		qt_free(gradients[0][i]);
		qt_free(gradients[1][i]);
	}
	qt_free(outputs[0]);
	qt_free(outputs[1]);
	qt_free(target);
	qd_graph_release(&g);
	assert_int_equal(qt_live(), 0);
}

/* ---- hooks ---- */

struct witness {
	unsigned seen[128];
	const char *zeroed; /* this value becomes all zeros */
	const char *failing;
};

static enum qd_status witness(void *context, const struct qd_graph *g, qd_id value, qt_tensor *tensor)
{
	struct witness *w = context;
	const char *name = g->values[value].name;

	w->seen[value]++;
	if (w->failing != NULL && strcmp(name, w->failing) == 0)
		return qd_fail(QD_ECHECK, "the hook says no");
	if (w->zeroed != NULL && strcmp(name, w->zeroed) == 0) {
		qt_free(*tensor);
		return qt_zeros(&g->values[value].shape, tensor);
	}
	return QD_OK;
}

static unsigned seen(const struct witness *w, const struct qd_graph *g, const char *name)
{
	return w->seen[qd_graph_find(g, name)];
}

static void run_twice(struct qd_exec *exec)
{
	qt_tensor out;

	for (int i = 0; i < 2; i++) {
		run(exec, &out);
		qt_free(out);
	}
}

static void test_hook_sees_every_float_value(void **state)
{
	(void)state;
	struct witness w = { .seen = { 0 } };
	struct qd_graph g;

	parse(&g, net);
	struct qd_exec *exec = executor(&g, true, witness, &w);
	bind_random(exec, &g);
	run_twice(exec);
	for (qd_id i = 0; i < g.n_values; i++) {
		const struct qd_value *v = &g.values[i];
		bool once = v->kind == QD_WEIGHT || strcmp(v->name, "w2") == 0;
		unsigned expected = v->dtype != QD_F32 ? 0 : once ? 1 : 2;
		if (w.seen[i] != expected)
			fail_msg("'%s' was seen %u times, expected %u", v->name, w.seen[i], expected);
	}
	qd_exec_free(exec);
	qd_graph_release(&g);
	assert_int_equal(qt_live(), 0);
}

static void test_fused_values_are_hidden_unless_they_carry_an_encoding(void **state)
{
	(void)state;
	static const char *const inner[] = { "scores", "scaled", "soft", "sig" };
	const struct qd_encoding encoding = { .axis = -1 };
	struct witness w = { .seen = { 0 } };
	struct qd_graph g;
	struct qd_exec *exec;

	parse(&g, net);
	exec = executor(&g, false, witness, &w);
	bind_random(exec, &g);
	run_twice(exec);
	for (size_t i = 0; i < QD_COUNT(inner); i++)
		assert_int_equal(seen(&w, &g, inner[i]), 0);
	assert_int_equal(seen(&w, &g, "att"), 2);
	assert_int_equal(seen(&w, &g, "silu"), 2);
	qd_exec_free(exec);
	for (size_t i = 0; i < QD_COUNT(inner); i++) {
		g.values[qd_graph_find(&g, inner[i])].encoding = &encoding;
		memset(&w, 0, sizeof(w));
		exec = executor(&g, false, witness, &w);
		bind_random(exec, &g);
		run_twice(exec);
		assert_int_equal(seen(&w, &g, inner[i]), 2);
		qd_exec_free(exec);
		g.values[qd_graph_find(&g, inner[i])].encoding = NULL;
	}
	qd_graph_release(&g);
	assert_int_equal(qt_live(), 0);
}

static void test_hook_replaces_values(void **state)
{
	(void)state;
	static const char *const values[] = { "w", "merged", "y" };
	struct qd_graph g;
	qt_tensor out;

	parse(&g, net);
	for (size_t i = 0; i < QD_COUNT(values); i++) {
		struct witness w = { .zeroed = values[i] };
		struct qd_exec *exec = executor(&g, true, witness, &w);
		bind_random(exec, &g);
		run(exec, &out);
		float *y = numbers(out);
		for (size_t k = 0; k < count(out); k++)
			assert_true(y[k] == 0.0f);
		free(y);
		qt_free(out);
		qd_exec_free(exec);
	}
	qd_graph_release(&g);
	assert_int_equal(qt_live(), 0);
}

static void test_failing_hook_names_the_value(void **state)
{
	(void)state;
	struct witness w = { .failing = "merged" };
	struct qd_graph g;
	qt_tensor out;

	parse(&g, net);
	struct qd_exec *exec = executor(&g, true, witness, &w);
	bind_random(exec, &g);
	assert_int_equal(qd_exec_run(exec, &out), QD_ECHECK);
	assert_null(out);
	assert_string_equal(qd_message(), "node 'merged' (Reshape): value 'merged': the hook says no");
	qd_exec_free(exec);
	qd_graph_release(&g);
	assert_int_equal(qt_live(), 0);
}

/* ---- weights ---- */

static void test_replaced_weight_is_trained(void **state)
{
	(void)state;
	struct witness w = { .seen = { 0 } };
	struct qd_graph g;
	qt_tensor weight, loss, gradient, target, out;

	parse(&g, "graph net\ninput %x f32[3,4]\nweight %w f32[2,4] {1,2,3,4,5,6,7,8}\n%v = Identity(%w)\n%y = Gemm(%x, %v) "
		  "{transB=1}\noutput "
		  "%y\n");
	qd_id id = qd_graph_find(&g, "w");
	struct qd_exec *exec = executor(&g, true, witness, &w);
	bind_random(exec, &g);
	run_twice(exec);
	assert_int_equal(seen(&w, &g, "w"), 1);
	assert_int_equal(seen(&w, &g, "v"), 1);
	weight = random_tensor(&g.values[id].shape);
	target = random_tensor(&g.values[g.outputs[0]].shape);
	assert_int_equal(qt_requires_grad(weight, true), QD_OK);
	assert_int_equal(qd_exec_set_weight(exec, id, weight), QD_OK);
	/* Backward twice: nothing of the first run's history is kept. */
	for (int i = 0; i < 2; i++) {
		run(exec, &out);
		assert_int_equal(qt_mse(out, target, &loss), QD_OK);
		assert_int_equal(qt_backward(loss), QD_OK);
		qt_free(out);
		qt_free(loss);
	}
	assert_int_equal(seen(&w, &g, "w"), 3);
	assert_int_equal(seen(&w, &g, "v"), 3);
	assert_int_equal(qt_grad(weight, &gradient), QD_OK);
	assert_non_null(gradient);
	qt_free(gradient);
	qt_free(weight);
	qt_free(target);
	qd_exec_free(exec);
	qd_graph_release(&g);
	assert_int_equal(qt_live(), 0);
}

static void test_half_weights_become_float(void **state)
{
	(void)state;
	struct qd_graph g;
	qt_tensor out;

	parse(&g, "graph net\nweight %a f32[3] as f16 {1.5, -2, 0.25}\nweight %b f32[3] as bf16 {1, 2, 3}\n%y = Add(%a, "
		  "%b)\noutput %y\n");
	struct qd_exec *exec = executor(&g, true, NULL, NULL);
	run(exec, &out);
	float *y = numbers(out);
	assert_true(y[0] == 2.5f && y[1] == 0.0f && y[2] == 3.25f);
	free(y);
	qt_free(out);
	qd_exec_free(exec);
	qd_graph_release(&g);
	assert_int_equal(qt_live(), 0);
}

/* Float weights are used where they lie: what changes there changes the result. */
static void test_float_weights_are_not_copied(void **state)
{
	(void)state;
	float bytes[2] = { 1, 2 };
	struct qd_tensor data = qd_tensor_view("w", QD_F32, (struct qd_shape){ 1, { 2 } }, bytes);
	struct qd_graph g;
	qt_tensor out;

	qd_graph_init(&g, "net");
	qd_id x = qd_graph_input(&g, "x", QD_F32, (struct qd_shape){ 1, { 2 } }), w = qd_graph_weight(&g, "w", &data);
	qd_graph_output(&g, qd_build_binary(&g, QD_OP_MUL, "y", x, w));
	assert_int_equal(qd_graph_status(&g), QD_OK);
	struct qd_exec *exec = executor(&g, false, NULL, NULL);
	assert_int_equal(qd_exec_bind_tensor(exec, "x", &data), QD_OK);
	run(exec, &out);
	qt_free(out);
	bytes[1] = 50;
	run(exec, &out);
	float *y = numbers(out);
	assert_true(y[0] == 1.0f && y[1] == 100.0f);
	free(y);
	qt_free(out);
	qd_exec_free(exec);
	qd_graph_release(&g);
	assert_int_equal(qt_live(), 0);
}

/* ---- refusals ---- */

static void test_refuses_unbound_input(void **state)
{
	(void)state;
	struct qd_graph g;
	qt_tensor out;

	parse(&g, net);
	struct qd_exec *exec = executor(&g, false, NULL, NULL);
	assert_int_equal(qd_exec_run(exec, &out), QD_EINPUT);
	assert_string_equal(qd_message(), "node 'q4' (Reshape): input 'q' is not bound");
	qd_exec_free(exec);
	qd_graph_release(&g);
	assert_int_equal(qt_live(), 0);
}

static void test_refuses_wrong_shape_and_name(void **state)
{
	(void)state;
	const struct qd_shape shape = QD_SHAPE(2, 10, 13);
	struct qd_graph g;
	struct qd_tensor data;

	parse(&g, net);
	struct qd_exec *exec = executor(&g, false, NULL, NULL);
	qt_tensor t = random_tensor(&shape);
	assert_int_equal(qd_exec_bind(exec, g.inputs[0], t), QD_EINPUT);
	assert_string_equal(qd_message(), "input 'q' is [2,10,13], needs [2,10,12]");
	assert_int_equal(qd_exec_set_weight(exec, qd_graph_find(&g, "w"), t), QD_EINPUT);
	assert_string_equal(qd_message(), "weight 'w' is [2,10,13], needs [12]");
	assert_int_equal(qd_exec_bind(exec, qd_graph_find(&g, "w"), t), QD_EINPUT);
	assert_int_equal(qd_tensor_new(&data, "x", QD_F32, &shape), QD_OK);
	assert_int_equal(qd_exec_bind_tensor(exec, "x", &data), QD_EINPUT);
	assert_string_equal(qd_message(), "graph 'net' has no input 'x'");
	qd_tensor_release(&data);
	qt_free(t);
	qd_exec_free(exec);
	qd_graph_release(&g);
	assert_int_equal(qt_live(), 0);
}

static void test_failure_names_the_node(void **state)
{
	(void)state;
	struct qd_graph g;
	qt_tensor out;

	parse(&g, "graph net\nweight %x f32[2] {1,2}\nweight %i i64[1] {5}\n%y = look: Gather(%x, %i)\noutput %y\n");
	struct qd_exec *exec = executor(&g, false, NULL, NULL);
	assert_int_equal(qd_exec_run(exec, &out), QD_ETORCH);
	assert_true(qd_starts_with(qd_message(), "node 'look' (Gather): gather: "));
	assert_null(out);
	qd_exec_free(exec);
	qd_graph_release(&g);
	assert_int_equal(qt_live(), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_fused_equals_single_steps),
		cmocka_unit_test(test_fused_gradients_equal_single_steps),
		cmocka_unit_test(test_hook_sees_every_float_value),
		cmocka_unit_test(test_fused_values_are_hidden_unless_they_carry_an_encoding),
		cmocka_unit_test(test_hook_replaces_values),
		cmocka_unit_test(test_failing_hook_names_the_value),
		cmocka_unit_test(test_replaced_weight_is_trained),
		cmocka_unit_test(test_half_weights_become_float),
		cmocka_unit_test(test_float_weights_are_not_copied),
		cmocka_unit_test(test_refuses_unbound_input),
		cmocka_unit_test(test_refuses_wrong_shape_and_name),
		cmocka_unit_test(test_failure_names_the_node),
	};
	return cmocka_run_group_tests(tests, start_random, NULL);
}
