/*
 * lib/model, runners: what is fed by name is checked by name, shape and value; what is read is what the graph gave; what was fed
 * stays until it is fed again.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <string.h>

#include "lib/model/model.h"
#include "tests/unit/ir_help.h"

/* twice = 2 x + gain, sum = its sum over rows; kept is a number of another type. */
static const char graph[] = "graph g\n"
			    "input %x f32[2,3]\n"
			    "input %c.lora_gain f32[3]\n"
			    "input %n i64[2]\n"
			    "weight %two f32[] {2}\n"
			    "weight %rows i64[1] {0}\n"
			    "%doubled = Mul(%x, %two)\n"
			    "%twice = Add(%doubled, %c.lora_gain)\n"
			    "%sum = ReduceSum(%twice, %rows) {keepdims=0}\n"
			    "%kept = Identity(%n)\n"
			    "output %twice\n"
			    "output %sum\n"
			    "output %kept\n";

struct opened {
	struct qd_graph g;
	struct qd_runner runner;
};

static const float x[] = { 1, 2, 3, -4, 5, 6 }, gain[] = { 0.5f, 0, -0.5f };
static const int64_t n[] = { 7, 8 };

static void ok(enum qd_status st)
{
	if (st != QD_OK)
		fail_msg("%s", qd_message());
}

static void refused(enum qd_status st, enum qd_status code, const char *message)
{
	assert_int_equal(st, code);
	assert_string_equal(qd_message(), message);
}

static enum qd_status feed_x(struct opened *o, const float *values)
{
	struct qd_tensor t = qd_tensor_view("x", QD_F32, QD_SHAPE(2, 3), values);

	return qd_runner_feed(&o->runner, &t);
}

static int open_fed(void **state)
{
	static struct opened o;
	struct qd_tensor g = qd_tensor_view("c.lora_gain", QD_F32, QD_SHAPE(3), gain),
			 k = qd_tensor_view("n", QD_I64, QD_SHAPE(2), n);

	ir_parse(&o.g, graph);
	ok(qd_runner_open(&o.runner, &o.g, NULL));
	ok(feed_x(&o, x));
	ok(qd_runner_feed(&o.runner, &g));
	ok(qd_runner_feed(&o.runner, &k));
	*state = &o;
	return 0;
}

static int close_it(void **state)
{
	struct opened *o = *state;

	qd_runner_release(&o->runner);
	qd_graph_release(&o->g);
	assert_int_equal(qt_live(), 0);
	return 0;
}

static void reads_every_output_by_name(void **state)
{
	struct opened *o = *state;
	float twice[6], sum[3];

	ok(qd_runner_run(&o->runner));
	ok(qd_runner_read(&o->runner, "sum", 3, sum));
	ok(qd_runner_read(&o->runner, "twice", 6, twice));
	for (int i = 0; i < 6; i++)
		assert_true(twice[i] == 2 * x[i] + gain[i % 3]);
	for (int i = 0; i < 3; i++)
		assert_true(sum[i] == twice[i] + twice[3 + i]);
}

/* And leaves the caller's gradients as they were. */
static void keeps_what_was_fed(void **state)
{
	static const float other[6] = { 1, 1, 1, 1, 1, 1 };
	struct opened *o = *state;
	float before[6], after[6];
	bool grad = qt_get_grad();

	for (int on = 0; on < 2; on++) {
		qt_set_grad(on);
		ok(feed_x(o, x));
		ok(qd_runner_run(&o->runner));
		ok(qd_runner_read(&o->runner, "twice", 6, before));
		ok(feed_x(o, other));
		ok(qd_runner_run(&o->runner));
		ok(qd_runner_read(&o->runner, "twice", 6, after));
		for (int i = 0; i < 6; i++)
			assert_true(after[i] == 2 + gain[i % 3] && before[i] == 2 * x[i] + gain[i % 3]);
		assert_int_equal(qt_get_grad(), on);
	}
	qt_set_grad(grad);
}

static void converts_what_is_fed(void **state)
{
	static const int8_t small[] = { 1, -2, 3, 4, 5, -6 };
	struct opened *o = *state;
	struct qd_tensor t = qd_tensor_view("x", QD_I8, QD_SHAPE(2, 3), small);
	float twice[6];

	ok(qd_runner_feed(&o->runner, &t));
	ok(qd_runner_run(&o->runner));
	ok(qd_runner_read(&o->runner, "twice", 6, twice));
	for (int i = 0; i < 6; i++)
		assert_true(twice[i] == 2 * (float)small[i] + gain[i % 3]);
}

static void refuses_what_does_not_fit(void **state)
{
	struct opened *o = *state;
	struct qd_tensor t = qd_tensor_view("y", QD_F32, QD_SHAPE(2, 3), x);
	float room[6];

	refused(qd_runner_feed(&o->runner, &t), QD_EINPUT, "graph 'g' has no input 'y'");
	t.name = "two"; /* a weight */
	refused(qd_runner_feed(&o->runner, &t), QD_EINPUT, "graph 'g' has no input 'two'");
	t = qd_tensor_view("x", QD_F32, QD_SHAPE(3, 2), x);
	refused(qd_runner_feed(&o->runner, &t), QD_EINPUT, "input 'x' is [3,2], needs [2,3]");
	ok(qd_runner_run(&o->runner));
	refused(qd_runner_read(&o->runner, "doubled", 6, room), QD_EINPUT, "graph 'g' has no output 'doubled'");
	refused(qd_runner_read(&o->runner, "twice", 5, room), QD_EINPUT, "output 'twice' has 6 values, needs 5");
	refused(qd_runner_read(&o->runner, "kept", 2, room), QD_EUNSUPPORTED, "output 'kept' is I64, needs F32");
}

static void refuses_numbers_that_are_not_finite(void **state)
{
	static const float bad[] = { NAN, INFINITY, -INFINITY };
	struct opened *o = *state;

	for (size_t i = 0; i < QD_COUNT(bad); i++) {
		float values[6] = { 0, 0, 0, 0, bad[i], 0 };
		struct qd_tensor g = qd_tensor_view("c.lora_gain", QD_F32, QD_SHAPE(3), values + 3);
		refused(feed_x(o, values), QD_EINPUT, "tensor 'x' is infinite or not a number at element 4");
		refused(qd_runner_feed(&o->runner, &g), QD_EINPUT, "tensor 'c.lora_gain' is infinite or not a number at element 1");
	}
}

static void names_an_input_that_was_not_fed(void **state)
{
	struct qd_graph g;
	struct qd_runner runner;

	(void)state;
	ir_parse(&g, graph);
	ok(qd_runner_open(&runner, &g, NULL));
	assert_int_equal(qd_runner_run(&runner), QD_EINPUT);
	assert_non_null(strstr(qd_message(), "input 'x' is not bound"));
	qd_runner_release(&runner);
	qd_graph_release(&g);
	assert_int_equal(qt_live(), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(reads_every_output_by_name, open_fed, close_it),
		cmocka_unit_test_setup_teardown(keeps_what_was_fed, open_fed, close_it),
		cmocka_unit_test_setup_teardown(converts_what_is_fed, open_fed, close_it),
		cmocka_unit_test_setup_teardown(refuses_what_does_not_fit, open_fed, close_it),
		cmocka_unit_test_setup_teardown(refuses_numbers_that_are_not_finite, open_fed, close_it),
		cmocka_unit_test(names_an_input_that_was_not_fed),
	};
	return cmocka_run_group_tests_name("torch_runner", tests, NULL, NULL);
}
