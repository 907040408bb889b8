/* The engine in float against the same graph on libtorch's operators. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "lib/math/math.h"
#include "lib/model/model.h"
#include "quant/quant.h"
#include "tests/unit/engine_check.h"
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

/* ---- the way back ---- */

/* One graph, trained at all its inputs, in the engine and on libtorch's operators. */
struct trained_pair {
	struct qd_graph g;
	struct engine_values inputs;
	struct qd_engine *engine;
	struct qd_exec *exec;
	qt_tensor leaves[8]; /* as g.inputs */
};

static void open_trained(struct trained_pair *p, bool simulate)
{
	const struct qd_exec_options options = { .hook = simulate ? qd_sim_hook : NULL, .see_all = true };
	bool *trained = calloc(p->g.n_values + 1, sizeof(*trained));
	const struct qd_engine_options engine = { .simulate = simulate, .trained = trained };

	assert_true(p->g.n_inputs <= QD_COUNT(p->leaves));
	OK(qd_exec_new(&p->exec, &p->g, &options));
	for (size_t i = 0; i < p->g.n_inputs; i++) {
		qd_id input = p->g.inputs[i];
		trained[input] = true;
		OK(qt_from_tensor(&p->inputs.at[input], &p->leaves[i]));
		OK(qt_requires_grad(p->leaves[i], true));
		OK(qd_exec_bind(p->exec, input, p->leaves[i]));
	}
	p->engine = engine_fed(&p->g, &engine, &p->inputs);
	free(trained);
}

static void close_trained(struct trained_pair *p)
{
	for (size_t i = 0; i < p->g.n_inputs; i++)
		qt_free(p->leaves[i]);
	qd_exec_free(p->exec);
	qd_engine_free(p->engine);
	engine_values_release(&p->inputs);
	qd_graph_release(&p->g);
	assert_int_equal(qt_live(), 0);
}

/* sum(output gradient), of which libtorch finds the same gradients. */
static void go_back(struct trained_pair *p, const float *gradient)
{
	const struct qd_value *out = &p->g.values[p->g.outputs[0]];
	const struct qd_tensor view = qd_tensor_view(NULL, QD_F32, out->shape, gradient);
	qt_tensor y, g, product, sum;

	OK(qd_engine_run(p->engine));
	OK(qd_engine_backward(p->engine, 0, gradient));
	OK(qd_exec_run(p->exec, &y));
	OK(qt_from_tensor(&view, &g));
	OK(qt_binary(QT_MUL, y, g, &product));
	OK(qt_reduce_sum(product, 0, NULL, false, &sum));
	OK(qt_backward(sum));
	qt_free(y);
	qt_free(g);
	qt_free(product);
	qt_free(sum);
}

/* Of each input's gradient, the difference's norm is at most `allowed` of its own. */
static void assert_same_gradients(struct trained_pair *p, double allowed)
{
	for (size_t i = 0; i < p->g.n_inputs; i++) {
		const struct qd_value *v = &p->g.values[p->g.inputs[i]];
		size_t n = (size_t)qd_shape_elements(&v->shape);
		float *a = calloc(n, sizeof(*a)), *b = calloc(n, sizeof(*b));
		double error = 0, norm = 0;
		qt_tensor grad;

		OK(qd_engine_gradient(p->engine, p->g.inputs[i], a));
		OK(qt_grad(p->leaves[i], &grad));
		OK(qt_read(grad, b, n * sizeof(*b)));
		qt_free(grad);
		for (size_t k = 0; k < n; k++) {
			error += ((double)a[k] - (double)b[k]) * ((double)a[k] - (double)b[k]);
			norm += (double)b[k] * (double)b[k];
		}
		assert_true(norm > 0);
		if (!(sqrt(error / norm) <= allowed))
			fail_msg("gradient of '%s': %.3g of it apart, allowed are %.3g", v->name, sqrt(error / norm), allowed);
		free(a);
		free(b);
	}
}

static void check_gradients(struct trained_pair *p, bool simulate, double allowed)
{
	size_t n = (size_t)qd_shape_elements(&p->g.values[p->g.outputs[0]].shape);
	float *gradient = calloc(n, sizeof(*gradient));

	for (size_t i = 0; i < n; i++)
		gradient[i] = (float)qd_random_normal(&random_state);
	qt_set_grad(true);
	open_trained(p, simulate);
	go_back(p, gradient);
	assert_same_gradients(p, allowed);
	close_trained(p);
	qt_set_grad(false);
	free(gradient);
}

static void test_gradients_equal_libtorch(void **state)
{
	(void)state;
	for (int images = 1; images <= 3; images++) {
		struct trained_pair p = { 0 };

		engine_parse(&p.g, engine_net, images, &random_state);
		engine_inputs(&p.inputs, &p.g, &random_state);
		check_gradients(&p, false, 1e-4);
	}
}

/*
 * Weights of 8 bits and 16 of all that is computed, `range` times as far as the numbers go. Within an attention nothing is clipped,
 * which the engine's way back would not see.
 */
static void encode(struct trained_pair *p, double range)
{
	struct engine_values values;

	engine_reference(&values, &p->g, &p->inputs, false);
	for (qd_id id = 0; id < p->g.n_values; id++) {
		struct qd_value *v = &p->g.values[id];
		bool weight = v->kind == QD_WEIGHT || strcmp(v->name, "down") == 0 || strcmp(v->name, "up") == 0,
		     product = v->kind == QD_WEIGHT && v->name[0] == 'w' && v->shape.rank > 1;
		struct qd_range seen = { 0 };
		struct qd_encoding *e;

		if (v->dead || v->dtype != QD_F32 || (v->kind == QD_WEIGHT && !product) ||
			(v->kind == QD_RESULT && (qd_op(p->g.nodes[v->producer].op)->flags & QD_OPF_VIEW) != 0))
			continue;
		qd_range_add(&seen, (size_t)qd_shape_elements(&v->shape), values.at[id].data);
		bool inside = strcmp(v->name, "scores") == 0 || strcmp(v->name, "scaled") == 0 || strcmp(v->name, "soft") == 0;
		double by = v->kind == QD_INPUT || weight ? 1.01 : inside ? 1.5 : range;
		OK(qd_encoding_from_range(&p->g.arena, by * seen.low, by * seen.high, weight ? 8 : 16, weight, &e));
		v->encoding = e;
	}
	engine_values_release(&values);
}

/*
 * Each rounds numbers that differ in their last bits, so that some codes are neighbours of the other's; by 16 bits that moves a
 * gradient by some 1e-4. Where a little of everything is clipped, a number that is rounded to the last code from within is for the
 * engine, not for libtorch: one in a thousand or so, but in a small network one alone can be worth a few percent. Were the clipped
 * ones passed on, half of a gradient would be another.
 */
static void test_simulated_gradients_equal_libtorch(void **state)
{
	(void)state;
	for (int round = 0; round < 4; round++) {
		bool clips = round >= 2;
		struct trained_pair p = { 0 };

		engine_parse(&p.g, engine_net, 1 + round % 2, &random_state);
		engine_inputs(&p.inputs, &p.g, &random_state);
		encode(&p, clips ? 0.8 : 1.5);
		check_gradients(&p, true, clips ? 0.1 : 2e-3);
	}
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
		cmocka_unit_test(test_gradients_equal_libtorch),
		cmocka_unit_test(test_simulated_gradients_equal_libtorch),
	};
	return cmocka_run_group_tests(tests, start, NULL);
}
