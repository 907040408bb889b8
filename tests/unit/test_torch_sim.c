/* Simulation by libtorch's executor, straight-through, and observation, against plain loops. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "lib/math/math.h"
#include "quant/internal.h"
#include "tests/unit/scratch.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS = 5, IN = 7, OUT = 4 };

/* y = x w^T + b over values that are multiples of 2^-8 below 1: every product and sum is exact in float32, whatever its order. */
struct layer {
	struct qd_graph g;
	struct qd_arena arena;
	float x[ROWS * IN], w[OUT * IN], b[OUT];
	qd_id in, weight, out;
};

static float coarse(struct qd_random *random)
{
	return (float)((int)qd_random_below(random, 511) - 255) / 256;
}

static void layer_new(struct layer *l, uint64_t seed)
{
	struct qd_tensor w = qd_tensor_view("fc.weight", QD_F32, QD_SHAPE(OUT, IN), l->w);
	struct qd_tensor b = qd_tensor_view("fc.bias", QD_F32, QD_SHAPE(OUT), l->b);
	struct qd_random random;

	memset(l, 0, sizeof(*l));
	qd_random_init(&random, seed, 0);
	for (size_t i = 0; i < QD_COUNT(l->x); i++)
		l->x[i] = coarse(&random);
	for (size_t i = 0; i < QD_COUNT(l->w); i++)
		l->w[i] = coarse(&random);
	for (size_t i = 0; i < QD_COUNT(l->b); i++)
		l->b[i] = coarse(&random);
	qd_graph_init(&l->g, "layer");
	l->in = qd_graph_input(&l->g, "x", QD_F32, QD_SHAPE(ROWS, IN));
	l->weight = qd_graph_weight(&l->g, "fc.weight", &w);
	l->out = qd_build_linear(&l->g, "fc", l->in, l->weight, qd_graph_weight(&l->g, "fc.bias", &b));
	qd_graph_output(&l->g, l->out);
	OK(qd_graph_status(&l->g));
}

static void layer_release(struct layer *l)
{
	qd_graph_release(&l->g);
	qd_arena_release(&l->arena);
}

static struct qd_encoding *encoding(struct layer *l, int bits, bool symmetric, int axis, size_t n, float scale, float zero)
{
	struct qd_encoding *e;

	OK(qd_encoding_new(&l->arena, bits, symmetric, axis, n, &e));
	for (size_t i = 0; i < n; i++) {
		e->scale[i] = scale * (float)(1 << i);
		e->zero_point[i] = zero;
	}
	return e;
}

static void run_layer(struct layer *l, struct qd_exec *exec, float *y)
{
	struct qd_tensor x = qd_tensor_view("x", QD_F32, QD_SHAPE(ROWS, IN), l->x);
	qt_tensor out = NULL;

	OK(qd_exec_bind_tensor(exec, "x", &x));
	OK(qd_exec_run(exec, &out));
	OK(qt_read(out, y, ROWS * OUT * sizeof(*y)));
	qt_free(out);
}

/* Bit for bit: inputs, weights per channel, and results are rounded to their grids, clipping included. */
static void rounds_what_carries_an_encoding(void **state)
{
	struct qd_exec_options options = { .hook = qd_sim_hook, .see_all = true };
	struct qd_exec *exec;
	struct layer l;
	float xq[ROWS * IN], wq[OUT * IN], want[ROWS * OUT], y[ROWS * OUT];
	struct qd_shape x_shape = QD_SHAPE(ROWS, IN), w_shape = QD_SHAPE(OUT, IN), y_shape = QD_SHAPE(ROWS, OUT);

	(void)state;
	layer_new(&l, test_seed());
	struct qd_encoding *ex = encoding(&l, 8, false, -1, 1, 1.0f / 64, 100), *ew = encoding(&l, 4, true, 0, OUT, 1.0f / 64, 0),
			   *ey = encoding(&l, 8, true, -1, 1, 1.0f / 128, 0);
	l.g.values[l.in].encoding = ex;
	l.g.values[l.weight].encoding = ew;
	l.g.values[l.out].encoding = ey;
	qd_quantize(ex, &x_shape, l.x, NULL, xq);
	qd_quantize(ew, &w_shape, l.w, NULL, wq);
	for (size_t r = 0; r < ROWS; r++)
		for (size_t o = 0; o < OUT; o++) {
			float sum = l.b[o];

			for (size_t i = 0; i < IN; i++)
				sum += xq[r * IN + i] * wq[o * IN + i];
			want[r * OUT + o] = sum;
		}
	qd_quantize(ey, &y_shape, want, NULL, want);
	OK(qd_exec_new(&exec, &l.g, &options));
	run_layer(&l, exec, y);
	for (size_t i = 0; i < ROWS * OUT; i++)
		assert_true(y[i] == want[i]);
	qd_exec_free(exec);
	layer_release(&l);
	assert_int_equal(qt_live(), 0);
}

/* sum(y) over an input that carries an encoding: the gradient is that of the rounded weights, and 0 where the input was clipped. */
static void gradients_pass_straight_through(void **state)
{
	struct qd_exec_options options = { .hook = qd_sim_hook, .see_all = true };
	struct qd_exec *exec;
	struct layer l;
	struct qd_tensor view;
	qt_tensor x = NULL, y = NULL, sum = NULL, gradient = NULL;
	float got[ROWS * IN];

	(void)state;
	layer_new(&l, test_seed() + 1);
	l.g.values[l.in].encoding = encoding(&l, 4, true, -1, 1, 1.0f / 16, 0);
	view = qd_tensor_view("x", QD_F32, QD_SHAPE(ROWS, IN), l.x);
	OK(qd_exec_new(&exec, &l.g, &options));
	OK(qt_from_tensor(&view, &x));
	OK(qt_requires_grad(x, true));
	OK(qd_exec_bind(exec, l.in, x));
	OK(qd_exec_run(exec, &y));
	OK(qt_reduce_sum(y, 2, (int64_t[]){ 0, 1 }, false, &sum));
	OK(qt_backward(sum));
	OK(qt_grad(x, &gradient));
	OK(qt_read(gradient, got, sizeof(got)));
	for (size_t r = 0; r < ROWS; r++)
		for (size_t i = 0; i < IN; i++) {
			float code = rintf(l.x[r * IN + i] * 16), want = 0;

			for (size_t o = 0; o < OUT; o++)
				want += l.w[o * IN + i];
			assert_true(got[r * IN + i] == (code >= -8 && code <= 7 ? want : 0));
		}
	qt_free(gradient);
	qt_free(sum);
	qt_free(y);
	qt_free(x);
	qd_exec_free(exec);
	layer_release(&l);
	assert_int_equal(qt_live(), 0);
}

static void run_layer_observed(struct layer *l, struct qd_runner *runner, float *y)
{
	struct qd_tensor x = qd_tensor_view("x", QD_F32, QD_SHAPE(ROWS, IN), l->x);

	OK(qd_runner_feed(runner, &x));
	OK(qd_runner_run(runner));
	OK(qd_runner_read(runner, "fc", ROWS * OUT, y));
}

/* Ranges over two runs, by min-max and through the histogram (all of it: percentile 100), and the encodings made of them. */
static void observe_activations(bool libtorch)
{
	for (int kind = QD_OBSERVE_MINMAX; kind <= QD_OBSERVE_PERCENTILE; kind++) {
		struct qd_quant_options quant = qd_quant_options_default();
		struct qd_observers observers;
		struct qd_run_options options = { .engine = { .see = qd_observe, .context = &observers }, .libtorch = libtorch };
		struct qd_runner runner;
		struct layer l;
		enum qd_entry_kind kinds[8];
		const struct qd_encoding *encodings[8] = { NULL };
		struct qd_encoding *want;
		float y[ROWS * OUT], low = 0, high = 0;

		layer_new(&l, test_seed() + 2);
		quant.observer = (enum qd_observer_kind)kind;
		quant.percentile = 100;
		OK(qd_assign(&l.g, kinds));
		OK(qd_observers_new(&observers, kinds, l.g.n_values, &quant));
		options.engine.seen = observers.seen;
		OK(qd_runner_open(&runner, &l.g, &options));
		assert_true((runner.engine == NULL) == libtorch);
		for (int run = 0; run < 2; run++) {
			run_layer_observed(&l, &runner, y);
			for (size_t i = 0; i < ROWS * OUT; i++) {
				low = fminf(low, y[i]);
				high = fmaxf(high, y[i]);
			}
			l.x[0] += 3;
		}
		OK(qd_activation_encodings(&l.arena, &observers, 16, encodings));
		assert_null(encodings[l.weight]);
		assert_non_null(encodings[l.in]);
		OK(qd_encoding_from_range(&l.arena, low, high, 16, false, &want));
		assert_true(encodings[l.out]->scale[0] == want->scale[0] && encodings[l.out]->zero_point[0] == want->zero_point[0]);
		qd_observers_reset(&observers);
		assert_false(observers.of[l.out].seen);
		qd_runner_release(&runner);
		qd_observers_release(&observers);
		layer_release(&l);
	}
	assert_int_equal(qt_live(), 0);
}

static void observes_activations(void **state)
{
	(void)state;
	observe_activations(false);
	observe_activations(true);
}

/* An input can be finite and what is computed not. */
static void refuses_values_that_are_not_finite(void **state)
{
	struct qd_quant_options quant = qd_quant_options_default();
	enum qd_entry_kind kinds[8];

	(void)state;
	for (int libtorch = 0; libtorch < 2; libtorch++) {
		struct qd_observers observers;
		struct qd_run_options options = { .engine = { .see = qd_observe, .context = &observers }, .libtorch = libtorch };
		struct qd_runner runner;
		struct layer l;
		struct qd_tensor x;

		layer_new(&l, 1);
		for (size_t i = 0; i < QD_COUNT(l.w); i++)
			l.w[i] = l.x[i] = 1e30f;
		x = qd_tensor_view("x", QD_F32, QD_SHAPE(ROWS, IN), l.x);
		OK(qd_assign(&l.g, kinds));
		OK(qd_observers_new(&observers, kinds, l.g.n_values, &quant));
		options.engine.seen = observers.seen;
		OK(qd_runner_open(&runner, &l.g, &options));
		OK(qd_runner_feed(&runner, &x));
		assert_int_equal(qd_runner_run(&runner), QD_EINPUT);
		assert_non_null(strstr(qd_message(), "'fc'"));
		qd_runner_release(&runner);
		qd_observers_release(&observers);
		layer_release(&l);
	}
	assert_int_equal(qt_live(), 0);
}

static void refuses_adapters_fitted_elsewhere(void **state)
{
	struct qd_fitted fitted = { .n = 3 };
	struct qd_slots slots = { 0 };
	struct qd_runner runner = { 0 };

	(void)state;
	assert_int_equal(qd_runner_feed_fitted(&runner, &slots, &fitted), QD_EINPUT);
	assert_string_equal(qd_message(), "an adapter fitted to 3 slots cannot be fed to a net of 0");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(rounds_what_carries_an_encoding),
		cmocka_unit_test(gradients_pass_straight_through),
		cmocka_unit_test(observes_activations),
		cmocka_unit_test(refuses_values_that_are_not_finite),
		cmocka_unit_test(refuses_adapters_fitted_elsewhere),
	};
	return cmocka_run_group_tests_name("sim", tests, NULL, NULL);
}
