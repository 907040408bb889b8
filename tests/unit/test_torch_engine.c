/* The engine in float against the same graph on libtorch's operators. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "lib/math/math.h"
#include "lib/model/model.h"
#include "tests/unit/engine_help.h"
#include "tests/unit/scratch.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static struct qd_random random_state;

/* Two runners of one graph with the same inputs. */
struct pair {
	struct qd_graph g;
	struct qd_runner engine, libtorch;
};

/* New inputs for one of the graph's inputs, or (QD_NONE) for all. */
static void feed(struct pair *p, qd_id which)
{
	for (size_t i = 0; i < p->g.n_inputs; i++) {
		const struct qd_value *v = &p->g.values[p->g.inputs[i]];
		struct qd_tensor t;

		if (which != QD_NONE && which != p->g.inputs[i])
			continue;
		OK(qd_tensor_new(&t, v->name, QD_F32, &v->shape));
		for (int64_t k = 0; k < qd_shape_elements(&v->shape); k++)
			((float *)t.data)[k] = (float)qd_random_normal(&random_state);
		OK(qd_runner_feed(&p->engine, &t));
		OK(qd_runner_feed(&p->libtorch, &t));
		qd_tensor_release(&t);
	}
}

static void start_pair(struct pair *p, int images)
{
	const struct qd_run_options libtorch = { .libtorch = true };

	engine_parse(&p->g, engine_net, images, &random_state);
	OK(qd_runner_open(&p->engine, &p->g, NULL));
	assert_non_null(p->engine.engine);
	OK(qd_runner_open(&p->libtorch, &p->g, &libtorch));
	assert_non_null(p->libtorch.exec);
	feed(p, QD_NONE);
}

static void end_pair(struct pair *p)
{
	qd_runner_release(&p->engine);
	qd_runner_release(&p->libtorch);
	qd_graph_release(&p->g);
	assert_int_equal(qt_live(), 0);
}

/* The first output in memory, to be freed. */
static float *run(struct qd_runner *runner, size_t *n)
{
	const struct qd_value *out = &runner->graph->values[runner->graph->outputs[0]];
	float *y;

	*n = (size_t)qd_shape_elements(&out->shape);
	y = calloc(*n, sizeof(*y));
	OK(qd_runner_run(runner));
	OK(qd_runner_read(runner, out->name, *n, y));
	return y;
}

/*
 * Both sum up to 360 products of normal numbers in another order, some ten layers deep, each of which keeps their size: the
 * difference is a small multiple of 2^-24 of the range, allowed is 2e-5 of it.
 */
static void assert_same_result(struct pair *p)
{
	size_t n;
	float *a = run(&p->engine, &n), *b = run(&p->libtorch, &n), range = 0;

	for (size_t i = 0; i < n; i++)
		range = fmaxf(range, fabsf(b[i]));
	assert_true(range > 0.1f);
	for (size_t i = 0; i < n; i++)
		if (!(fabsf(a[i] - b[i]) <= 2e-5f * range))
			fail_msg("element %zu: %.9g and %.9g, range %g", i, (double)a[i], (double)b[i], (double)range);
	free(a);
	free(b);
}

static void test_equals_libtorch(void **state)
{
	(void)state;
	for (int images = 1; images <= 3; images++) {
		struct pair p = { 0 };

		start_pair(&p, images);
		assert_same_result(&p);
		assert_same_result(&p);
		end_pair(&p);
	}
}

static void test_same_inputs_same_bytes(void **state)
{
	(void)state;
	struct pair p = { 0 };
	size_t n;

	start_pair(&p, 2);
	float *a = run(&p.engine, &n), *b = run(&p.engine, &n);
	assert_memory_equal(a, b, n * sizeof(*a));
	free(a);
	free(b);
	end_pair(&p);
}

/* New inputs count from the next run on, weights of the LoRA branch among them; the others stay. */
static void test_follows_inputs(void **state)
{
	(void)state;
	struct pair p = { 0 };
	size_t n;

	start_pair(&p, 2);
	for (size_t i = 0; i < p.g.n_inputs; i++) {
		float *before = run(&p.engine, &n), change = 0;
		feed(&p, p.g.inputs[i]);
		float *after = run(&p.engine, &n);
		for (size_t k = 0; k < n; k++)
			change = fmaxf(change, fabsf(after[k] - before[k]));
		assert_true(change > 1e-3f);
		free(before);
		free(after);
		assert_same_result(&p);
	}
	feed(&p, QD_NONE);
	assert_same_result(&p);
	end_pair(&p);
}

/* What only libtorch can, an encoding of several scales on an activation, it executes, with the same result as when asked to. */
static void test_falls_back_to_libtorch(void **state)
{
	(void)state;
	float scale[24], zero[24] = { 0 };
	const struct qd_encoding e = {
		.bits = 8, .is_signed = true, .symmetric = true, .axis = 1, .n = 24, .scale = scale, .zero_point = zero
	};
	const struct qd_run_options options[2] = { { .engine.simulate = true }, { .engine.simulate = true, .libtorch = true } };
	struct pair p = { 0 };
	size_t n;

	for (size_t i = 0; i < QD_COUNT(scale); i++)
		scale[i] = 0.01f * (float)(i + 1);
	start_pair(&p, 1);
	float *floats = run(&p.engine, &n);
	qd_runner_release(&p.engine);
	qd_runner_release(&p.libtorch);
	p.g.values[qd_graph_find(&p.g, "c1")].encoding = &e;
	OK(qd_runner_open(&p.engine, &p.g, &options[0]));
	OK(qd_runner_open(&p.libtorch, &p.g, &options[1]));
	assert_null(p.engine.engine);
	feed(&p, QD_NONE);
	float *a = run(&p.engine, &n), *b = run(&p.libtorch, &n);
	assert_memory_equal(a, b, n * sizeof(*a));
	assert_memory_not_equal(a, floats, n * sizeof(*a));
	free(floats);
	free(a);
	free(b);
	end_pair(&p);
}

/* Whatever executes. */
static void test_refuses_what_is_not_finite(void **state)
{
	(void)state;
	static const float bad[] = { NAN, INFINITY, -INFINITY };
	float t[7] = { 0 };
	const struct qd_tensor tensor = qd_tensor_view("t", QD_F32, QD_SHAPE(1, 7), t);
	struct pair p = { 0 };

	start_pair(&p, 1);
	for (size_t i = 0; i < QD_COUNT(bad); i++) {
		t[3] = bad[i];
		assert_int_equal(qd_runner_feed(&p.engine, &tensor), QD_EINPUT);
		assert_non_null(strstr(qd_message(), "'t'"));
		assert_int_equal(qd_runner_feed(&p.libtorch, &tensor), QD_EINPUT);
	}
	end_pair(&p);
}

static int start(void **state)
{
	(void)state;
	qd_random_init(&random_state, test_seed(), 0);
	qt_set_grad(false);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_equals_libtorch),
		cmocka_unit_test(test_same_inputs_same_bytes),
		cmocka_unit_test(test_follows_inputs),
		cmocka_unit_test(test_falls_back_to_libtorch),
		cmocka_unit_test(test_refuses_what_is_not_finite),
	};
	return cmocka_run_group_tests(tests, start, NULL);
}
