/*
 * Biases of LoRA (PEFT's lora_bias), executed: an adapter that has some gives what the model gives whose weights and biases it was
 * merged into, and adapters without any are in its slots what they are in their own.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "lib/math/math.h"
#include "tests/unit/adapter_help.h"
#include "tests/unit/distill_help.h"
#include "tests/unit/scratch.h"

enum { BATCH = 2, CHANNELS = HELP_LATENTS + HELP_CONDITION, OUT = BATCH * HELP_LATENTS * HELP_SIDE * HELP_SIDE };

static const struct qd_sizes sizes = { BATCH, HELP_SIDE, HELP_SIDE, HELP_TOKENS };
static struct help_training all;

static int open_all(void **state)
{
	(void)state;
	help_training_open(&all, "epsilon");
	return 0;
}

static int close_all(void **state)
{
	(void)state;
	return help_training_close(&all);
}

/* The value of the model's own bias of a layer, or QD_NONE. */
static qd_id bias_of(const struct qd_graph *g, const char *path)
{
	char name[512];

	snprintf(name, sizeof(name), "%s.bias", path);
	return qd_graph_find(g, name);
}

/* An adapter whose layers have biases wherever the model has, read from its file at half strength. */
static void open_biased(struct qd_adapter *adapter)
{
	const char *path = help_adapter("plain.safetensors", &all.layers.modules, 2, 0.3f, 5);
	struct qd_adapter made;
	struct qd_random random;

	OK(qd_adapter_open(&made, "made", path, 1, &all.layers.modules));
	qd_random_init(&random, 6, 0);
	for (size_t i = 0; i < made.n; i++) {
		struct qd_lora *lora = &made.loras[i];
		if (bias_of(&all.layers.g, lora->path) == QD_NONE)
			continue;
		lora->bias = qd_arena_array(&made.arena, (size_t)lora->out, sizeof(float));
		for (int64_t o = 0; o < lora->out; o++)
			lora->bias[o] = (float)qd_random_normal(&random);
	}
	OK(qd_adapter_write(&made, scratch_path("biased.safetensors"), QD_F32, false, true));
	qd_adapter_release(&made);
	OK(qd_adapter_open(adapter, "biased", scratch_path("biased.safetensors"), 0.5, &all.layers.modules));
}

static void feed_inputs(struct qd_runner *runner)
{
	const struct {
		const char *name;
		struct qd_shape shape;
	} inputs[] = { { "sample", QD_SHAPE(BATCH, CHANNELS, HELP_SIDE, HELP_SIDE) }, { "timestep", QD_SHAPE(BATCH) },
		{ "encoder_hidden_states", QD_SHAPE(BATCH, HELP_TOKENS, HELP_FEATURES) } };
	struct qd_random random;

	qd_random_init(&random, 7, 0);
	for (size_t i = 0; i < QD_COUNT(inputs); i++) {
		struct qd_tensor t;
		OK(qd_tensor_new(&t, inputs[i].name, QD_F32, &inputs[i].shape));
		for (int64_t k = 0; k < qd_shape_elements(&t.shape); k++)
			((float *)t.data)[k] = (float)(i == 1 ? 100 + k : qd_random_normal(&random));
		OK(qd_runner_feed(runner, &t));
		qd_tensor_release(&t);
	}
}

/* What the model gives with `adapter` in slots for all of `for_them`. */
static void run_adapter(const struct qd_adapter *adapter, const struct qd_adapter *const *for_them, size_t n, float *out)
{
	struct qd_slots slots;
	struct qd_net net;
	struct qd_runner runner;

	OK(qd_slots_choose(&slots, &all.layers.modules, for_them, n, NULL, 0));
	OK(qd_net_build(&net, &all.layers.model, &sizes, &slots));
	OK(qd_runner_open(&runner, &net.graph, NULL));
	OK(qd_runner_feed_adapter(&runner, &net.slots, adapter));
	feed_inputs(&runner);
	OK(qd_runner_run(&runner));
	OK(qd_runner_read(&runner, "out", OUT, out));
	qd_runner_release(&runner);
	qd_net_release(&net);
	qd_slots_release(&slots);
}

/* A weight of the graph as numbers of its own. */
static float *own_numbers(struct qd_graph *g, qd_id value)
{
	struct qd_tensor *data = &g->values[value].data;
	float *x = qd_arena_array(&g->arena, (size_t)qd_shape_elements(&data->shape), sizeof(*x));

	assert_non_null(x);
	OK(qd_tensor_to_f32(data, x));
	*data = qd_tensor_view(data->name, QD_F32, data->shape, x);
	return x;
}

static void run_merged(const struct qd_adapter *adapter, float *out)
{
	struct qd_graph g;
	struct qd_runner runner;

	OK(qd_model_graph(&g, &all.layers.model, &sizes));
	for (size_t i = 0; i < adapter->n; i++) {
		const struct qd_lora *lora = &adapter->loras[i];
		int64_t columns = lora->in * lora->kh * lora->kw;
		char name[512];
		float *w, *b;
		snprintf(name, sizeof(name), "%s.weight", lora->path);
		w = own_numbers(&g, qd_graph_find(&g, name));
		for (int64_t o = 0; o < lora->out; o++)
			for (int64_t k = 0; k < columns; k++)
				w[o * columns + k] = (float)((double)w[o * columns + k] + help_delta(lora, o, k));
		if (lora->bias == NULL || bias_of(&g, lora->path) == QD_NONE)
			continue;
		b = own_numbers(&g, bias_of(&g, lora->path));
		for (int64_t o = 0; o < lora->out; o++)
			b[o] += lora->bias[o];
	}
	OK(qd_runner_open(&runner, &g, NULL));
	feed_inputs(&runner);
	OK(qd_runner_run(&runner));
	OK(qd_runner_read(&runner, "out", OUT, out));
	qd_runner_release(&runner);
	qd_graph_release(&g);
}

static double largest(const float *a, const float *b)
{
	double most = 0;

	for (int i = 0; i < OUT; i++)
		most = fmax(most, fabs((double)a[i] - (double)(b != NULL ? b[i] : 0)));
	return most;
}

/* Thousands of float32 operations on numbers of the output's size, sums in another order. */
static void equals_the_merged_model(void **state)
{
	static float with[OUT], merged[OUT], without[OUT];
	struct qd_adapter adapter;
	const struct qd_adapter *list[] = { &adapter };
	size_t biases = 0;

	(void)state;
	open_biased(&adapter);
	run_adapter(&adapter, list, 1, with);
	run_merged(&adapter, merged);
	assert_true(largest(with, merged) <= 1e-5 * largest(merged, NULL));
	/* and they make a difference */
	for (size_t i = 0; i < adapter.n; i++) {
		const struct qd_lora *lora = &adapter.loras[i];
		biases += lora->bias != NULL;
		for (int64_t o = 0; lora->bias != NULL && o < lora->out; o++)
			lora->bias[o] = 0;
	}
	assert_int_equal(biases, adapter.n);
	run_adapter(&adapter, list, 1, without);
	assert_true(largest(with, without) > 1e-2 * largest(with, NULL));
	qd_adapter_release(&adapter);
}

/* Zeros where the slot has a bias and the adapter none. */
static void leaves_other_adapters_alone(void **state)
{
	static float alone[OUT], beside[OUT];
	struct qd_adapter biased, plain;
	const struct qd_adapter *list[] = { &biased, &plain };

	(void)state;
	open_biased(&biased);
	OK(qd_adapter_open(
		&plain, "plain", help_adapter("other.safetensors", &all.layers.modules, 2, 0.3f, 9), 1, &all.layers.modules));
	run_adapter(&plain, &list[1], 1, alone);
	run_adapter(&plain, list, 2, beside);
	assert_true(largest(alone, beside) <= 1e-6 * largest(alone, NULL));
	qd_adapter_release(&biased);
	qd_adapter_release(&plain);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(equals_the_merged_model),
		cmocka_unit_test(leaves_other_adapters_alone),
	};
	return cmocka_run_group_tests_name("torch_bias", tests, open_all, close_all);
}
