/* Memory that runs out, the engine: planning, feeding and running, with each allocation failing in turn. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>

#include "lib/engine/engine.h"
#include "tests/unit/engine_help.h"
#include "tests/unit/failing_malloc.h"
#include "tests/unit/scratch.h"

/* A step of each kind that can come of it: codes and floats multiplied, a copy in another order, a tail, a node of the evaluator. */
static const char *const net =
	"graph g\ninput %x f32[1,4,3,3]\ninput %w f32[6,4]\nweight %k f32[4,4,3,3] ...\nweight %b f32[4] ...\n"
	"%c = Conv(%x, %k, %b) {pads=[1,1,1,1]}\n%g = Sigmoid(%c)\n%a = Mul(%c, %g)\nweight %s f32[4] ...\n"
	"%n = GroupNormalization(%a, %s, %b) {num_groups=2}\n%t = Transpose(%n) {perm=[0,2,3,1]}\nweight %rows i64[2] {9,4}\n"
	"%r = Reshape(%t, %rows)\n%p = Gemm(%r, %w) {transB=1}\n%u = Transpose(%p)\nweight %odd i64[3] {1,9,6}\n%o = Reshape(%u, "
	"%odd)\n"
	"%ot = Transpose(%o) {perm=[0,2,1]}\n%scores = MatMul(%o, %ot)\n%soft = Softmax(%scores)\n%att = MatMul(%soft, %o)\n"
	"%sin = Sin(%att)\n%h = Neg(%b)\nweight %four i64[1] {2}\nweight %z i64[1] {0}\nweight %one i64[1] {1}\n"
	"%v = Slice(%sin, %z, %four, %one)\n%l = Softmax(%v)\n%j = Concat(%l, %v) {axis=2}\noutput %j\noutput %soft\noutput %h\n";

static enum qd_status see(void *context, qd_id value, size_t n, const float *x)
{
	(void)context;
	failing_see(&value, sizeof(value));
	failing_see(x, n * sizeof(*x));
	return QD_OK;
}

/* A step of each kind that has a gradient, at inputs and at a weight. */
static const char *const trained_net =
	"graph g\ninput %x f32[1,4,3,3]\ninput %w f32[6,4]\nweight %k f32[4,4,3,3] ...\nweight %b f32[4] ...\n"
	"%c = Conv(%x, %k, %b) {pads=[1,1,1,1], strides=[2,2]}\n%g = Sigmoid(%c)\n%a = Mul(%c, %g)\nweight %s f32[4] ...\n"
	"%n = GroupNormalization(%a, %s, %b) {num_groups=2}\nweight %double i64[4] {1,4,4,4}\n%large = Resize(%n, _, _, %double) "
	"{coordinate_transformation_mode=\"asymmetric\", mode=\"nearest\", nearest_mode=\"floor\"}\n%t = Transpose(%large) "
	"{perm=[0,2,3,1]}\nweight %rows i64[2] {16,4}\n%r = Reshape(%t, %rows)\n%l = LayerNormalization(%r, %s)\n%p = Gemm(%l, %w) "
	"{transB=1}\n%u = Transpose(%p)\nweight %odd i64[3] {1,16,6}\n%o = Reshape(%u, %odd)\n%ot = Transpose(%o) "
	"{perm=[0,2,1]}\n%scores = MatMul(%o, %ot)\n%soft = Softmax(%scores)\n%att = MatMul(%soft, %o)\n%j = Concat(%att, %o) "
	"{axis=2}\noutput %j\n";

struct call {
	struct qd_graph g;
	struct qd_tensor inputs[2];
	struct qd_engine_options options;
};

static enum qd_status execute(const void *context)
{
	const struct call *call = context;
	struct qd_engine *engine = NULL;
	float y[256];
	enum qd_status st;

	QD_TRY(st, qd_engine_new(&engine, &call->g, &call->options));
	for (size_t i = 0; i < call->g.n_inputs; i++)
		QD_TRY(st, qd_engine_feed(engine, call->g.inputs[i], &call->inputs[i]));
	QD_TRY(st, qd_engine_run(engine));
	for (size_t i = 0; i < call->g.n_outputs; i++) {
		size_t n = (size_t)qd_shape_elements(&call->g.values[call->g.outputs[i]].shape);
		assert_true(n <= QD_COUNT(y));
		QD_TRY(st, qd_engine_read(engine, i, y));
		failing_see(y, n * sizeof(*y));
	}
	if (call->options.trained == NULL)
		goto out;
	QD_TRY(st, qd_engine_backward(engine, 0, y));
	for (size_t i = 0; i < call->g.n_inputs; i++) {
		QD_TRY(st, qd_engine_gradient(engine, call->g.inputs[i], y));
		failing_see(y, (size_t)qd_shape_elements(&call->g.values[call->g.inputs[i]].shape) * sizeof(*y));
	}
out:
	qd_engine_free(engine);
	return st;
}

static void open_call(struct call *call, const char *text, struct qd_random *random)
{
	engine_parse(&call->g, text, 1, random);
	for (size_t i = 0; i < call->g.n_inputs; i++) {
		const struct qd_value *v = &call->g.values[call->g.inputs[i]];
		OK(qd_tensor_new(&call->inputs[i], v->name, QD_F32, &v->shape));
		for (int64_t k = 0; k < qd_shape_elements(&v->shape); k++)
			((float *)call->inputs[i].data)[k] = (float)qd_random_normal(random);
	}
}

static void encode(struct call *call)
{
	static const char *const encoded[] = { "x", "k", "c", "n", "p" };

	for (size_t i = 0; i < QD_COUNT(encoded); i++) {
		struct qd_encoding *e;
		OK(qd_encoding_from_range(&call->g.arena, -3, 3, i % 2 ? 8 : 16, i == 1, &e));
		call->g.values[qd_graph_find(&call->g, encoded[i])].encoding = e;
	}
}

static void close_call(struct call *call)
{
	for (size_t i = 0; i < call->g.n_inputs; i++)
		qd_tensor_release(&call->inputs[i]);
	qd_graph_release(&call->g);
}

static void engines(void **state)
{
	struct call call = { .options = { 0 } };
	struct qd_random random;
	bool seen[128];

	(void)state;
	qd_random_init(&random, test_seed(), 0);
	open_call(&call, net, &random);
	assert_true(call.g.n_values < QD_COUNT(seen));
	for (size_t i = 0; i < QD_COUNT(seen); i++)
		seen[i] = true;
	failing_each("the engine", execute, &call);
	encode(&call);
	call.options = (struct qd_engine_options){ .simulate = true };
	failing_each("the engine, simulating", execute, &call);
	call.options = (struct qd_engine_options){ .simulate = true, .see = see, .seen = seen };
	failing_each("the engine, seen", execute, &call);
	close_call(&call);
}

static void trained_engines(void **state)
{
	struct call call = { .options = { 0 } };
	struct qd_random random;
	bool trained[128] = { false };

	(void)state;
	qd_random_init(&random, test_seed(), 0);
	open_call(&call, trained_net, &random);
	assert_true(call.g.n_values < QD_COUNT(trained));
	for (size_t i = 0; i < call.g.n_inputs; i++)
		trained[call.g.inputs[i]] = true;
	call.options = (struct qd_engine_options){ .trained = trained };
	failing_each("the engine's way back", execute, &call);
	encode(&call);
	call.options = (struct qd_engine_options){ .simulate = true, .trained = trained, .coarse = true };
	failing_each("the engine's way back, simulating", execute, &call);
	close_call(&call);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(engines), cmocka_unit_test(trained_engines) };

	return cmocka_run_group_tests_name("out_of_memory_engine", tests, NULL, NULL);
}
