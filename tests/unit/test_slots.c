/*
 * lib/adapter, slots: which layers get one and of which rank, what attaching makes of a graph, and what the branch computes.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/adapter_help.h"
#include "tests/unit/scratch.h"

/* ---- choosing ---- */

static size_t count_slots(const struct help_model *model, const char *policy, int64_t rank)
{
	struct qd_slots slots;
	size_t n;

	if (qd_slots_choose(&slots, &model->modules, NULL, 0, policy, rank) != QD_OK)
		fail_msg("%s", qd_message());
	n = slots.n;
	for (size_t i = 0; i < n; i++)
		assert_int_equal(slots.items[i].rank, rank);
	qd_slots_release(&slots);
	return n;
}

/* Known numbers of layers of the two architectures: attention projections, everything in transformers, everything. */
static void chooses_by_policy(void **state)
{
	static const struct {
		const char *model;
		size_t attention, transformer, all;
	} cases[] = { { "sd15", 128, 192, 282 }, { "sdxl", 560, 722, 794 } };

	(void)state;
	for (size_t i = 0; i < QD_COUNT(cases); i++) {
		struct help_model model;
		help_model_open(&model, cases[i].model);
		assert_int_equal(count_slots(&model, "attention", 4), cases[i].attention);
		assert_int_equal(count_slots(&model, "transformer", 4), cases[i].transformer);
		assert_int_equal(count_slots(&model, "all", 1), cases[i].all);
		help_model_close(&model);
	}
}

static void chooses_from_a_file(void **state)
{
	static const char text[] = "# two layers\nconv_in\r\n\nmid_block.attentions.0.proj_in \n", bad[] = "conv_in\nconv_middle\n";
	struct help_model model;
	struct qd_slots slots;
	const char *path = scratch_file("slots", text, sizeof(text) - 1);

	(void)state;
	help_model_open(&model, "tiny15");
	assert_int_equal(count_slots(&model, path, 2), 2);
	path = scratch_file("bad", bad, sizeof(bad) - 1);
	assert_int_equal(qd_slots_choose(&slots, &model.modules, NULL, 0, path, 2), QD_EINPUT);
	assert_non_null(strstr(qd_message(), "bad' line 2: 'conv_middle' is no layer of this model"));
	help_model_close(&model);
}

static void makes(
	struct qd_adapter *adapter, const char *name, const struct help_model *model, size_t first, size_t n, int64_t rank)
{
	const struct qd_module *modules[8];

	for (size_t i = 0; i < n; i++)
		modules[i] = &model->modules.items[first + i];
	assert_int_equal(qd_adapter_new(adapter, name, modules, n, rank, 1), QD_OK);
}

static void takes_the_largest_rank(void **state)
{
	struct help_model model;
	struct qd_adapter a, b;
	struct qd_slots slots;
	const struct qd_adapter *both[] = { &a, &b };

	(void)state;
	help_model_open(&model, "tiny15");
	makes(&a, "a", &model, 2, 3, 4);
	makes(&b, "b", &model, 4, 2, 16);
	assert_int_equal(qd_slots_choose(&slots, &model.modules, both, 2, NULL, 0), QD_OK);
	assert_int_equal(slots.n, 4);
	for (size_t i = 0; i < 4; i++) {
		assert_string_equal(slots.items[i].path, model.modules.items[2 + i].path);
		assert_int_equal(slots.items[i].rank, i < 2 ? 4 : 16);
	}
	qd_slots_release(&slots);
	/* layers that no adapter has are kept free at the largest rank */
	assert_int_equal(qd_slots_choose(&slots, &model.modules, both, 2, "all", 0), QD_OK);
	assert_int_equal(slots.items[0].rank, 16);
	assert_int_equal(slots.items[2].rank, 4);
	qd_slots_release(&slots);
	assert_int_equal(qd_slots_choose(&slots, &model.modules, both, 2, "union", 8), QD_EINPUT);
	assert_non_null(strstr(qd_message(), "adapter 'b': has a higher rank than its slot in 2 of its 2 layers"));
	assert_non_null(strstr(qd_message(), "with rank 16 where 8 fit: quad qss --rank makes slots wider"));
	assert_int_equal(qd_slots_choose(&slots, &model.modules, both, 2, "attention", 16), QD_EINPUT);
	assert_non_null(strstr(qd_message(), "where there is no slot, the first is"));
	assert_int_equal(qd_slots_choose(&slots, &model.modules, NULL, 0, "all", 0), QD_EINPUT);
	assert_string_equal(
		qd_message(), "no adapter says which rank slot 'time_embedding.linear_1' needs, and none was asked for");
	qd_adapter_release(&a);
	qd_adapter_release(&b);
	help_model_close(&model);
}

/* ---- attaching ---- */

/* Weights, a little different in every element. */
static qd_id weight(struct qd_graph *g, const char *name, struct qd_shape shape)
{
	size_t n = (size_t)qd_shape_elements(&shape);
	float *values = qd_arena_array(&g->arena, n, sizeof(*values));

	for (size_t i = 0; i < n; i++)
		values[i] = (float)((i * 37 + 11) % 19) / 19 - 0.5f;
	return qd_graph_const_f32(g, name, shape, values);
}

/* x [3,5] -> "lin" [3,7] -> relu, and x's second use. */
static void build_linear(struct qd_graph *g)
{
	qd_id x, y;

	qd_graph_init(g, "linear");
	x = qd_graph_input(g, "x", QD_F32, QD_SHAPE(3, 5));
	y = qd_build_linear(g, "lin", x, weight(g, "lin.weight", QD_SHAPE(7, 5)), weight(g, "lin.bias", QD_SHAPE(7)));
	y = qd_build_unary(g, QD_OP_RELU, "act", y);
	qd_graph_output(g, y);
	assert_int_equal(qd_graph_status(g), QD_OK);
}

static void attach_all(struct qd_graph *g, struct qd_slots *slots, int64_t rank)
{
	struct qd_modules modules;

	assert_int_equal(qd_modules_of(&modules, g), QD_OK);
	assert_int_equal(qd_slots_choose(slots, &modules, NULL, 0, "all", rank), QD_OK);
	qd_modules_release(&modules);
	if (qd_slots_attach(slots, g) != QD_OK || qd_graph_verify(g) != QD_OK)
		fail_msg("%s", qd_message());
}

/* Runs every node with the plain evaluator; `inputs` in the graph's order. Returns output 0's elements, to be freed. */
static float *run(const struct qd_graph *g, float *const *inputs)
{
	struct qd_tensor *values = calloc(g->n_values, sizeof(*values));
	float *out;

	for (size_t i = 0; i < g->n_values; i++)
		if (g->values[i].kind == QD_WEIGHT)
			values[i] = g->values[i].data;
	for (size_t i = 0; i < g->n_inputs; i++)
		values[g->inputs[i]] = qd_tensor_view(NULL, QD_F32, g->values[g->inputs[i]].shape, inputs[i]);
	for (size_t i = 0; i < g->n_order; i++) {
		const struct qd_node *node = &g->nodes[g->order[i]];
		const struct qd_tensor *in[4];
		for (size_t k = 0; k < node->n_in; k++)
			in[k] = &values[node->in[k]];
		if (qd_eval_node(g, node, in, &values[node->out[0]]) != QD_OK)
			fail_msg("%s", qd_message());
	}
	out = malloc(values[g->outputs[0]].bytes);
	memcpy(out, values[g->outputs[0]].data, values[g->outputs[0]].bytes);
	for (size_t i = 0; i < g->n_values; i++)
		if (g->values[i].kind == QD_RESULT)
			qd_tensor_release(&values[i]);
	free(values);
	return out;
}

static void fill_random(float *values, size_t n, uint32_t *seed)
{
	for (size_t i = 0; i < n; i++) {
		*seed = *seed * 1664525u + 1013904223u;
		values[i] = (float)(*seed >> 8) / 8388608.0f - 1.0f;
	}
}

/* relu(W x + b + up (gain * (down x))) by loops; sums of at most 5 + 2 * 5 products of numbers below 1: 20 roundings of 6e-8. */
static void computes_the_branch(void **state)
{
	struct qd_graph g;
	struct qd_slots slots;
	float x[15], down[10], up[14], gain[2], *const inputs[] = { x, down, up, gain };
	uint32_t seed = (uint32_t)test_seed();
	float *out;

	(void)state;
	build_linear(&g);
	const float *w = g.values[qd_graph_find(&g, "lin.weight")].data.data,
		    *b = g.values[qd_graph_find(&g, "lin.bias")].data.data;
	attach_all(&g, &slots, 2);
	fill_random(x, 15, &seed);
	fill_random(down, 10, &seed);
	fill_random(up, 14, &seed);
	fill_random(gain, 2, &seed);
	out = run(&g, inputs);
	for (int n = 0; n < 3; n++)
		for (int o = 0; o < 7; o++) {
			double sum = (double)b[o];
			for (int i = 0; i < 5; i++) {
				double row = (double)w[o * 5 + i];
				for (int k = 0; k < 2; k++)
					row += (double)up[o * 2 + k] * (double)gain[k] * (double)down[k * 5 + i];
				sum += row * (double)x[n * 5 + i];
			}
			assert_true(fabs((double)out[n * 7 + o] - fmax(sum, 0)) < 2e-6);
		}
	free(out);
	qd_slots_release(&slots);
	qd_graph_release(&g);
}

/* With gain 0 the float result is the base model's, bit for bit. */
static void is_the_base_without_gain(void **state)
{
	struct qd_graph plain, g;
	struct qd_slots slots;
	float x[15], down[10], up[14], gain[2] = { 0 }, *const inputs[] = { x, down, up, gain };
	uint32_t seed = (uint32_t)test_seed();
	float *with, *without;

	(void)state;
	build_linear(&plain);
	build_linear(&g);
	attach_all(&g, &slots, 2);
	fill_random(x, 15, &seed);
	fill_random(down, 10, &seed);
	fill_random(up, 14, &seed);
	with = run(&g, inputs);
	without = run(&plain, inputs);
	assert_memory_equal(with, without, 21 * sizeof(float));
	free(with);
	free(without);
	qd_slots_release(&slots);
	qd_graph_release(&plain);
	qd_graph_release(&g);
}

/* x [2,4,9,8] -> "block.conv" 3x3, stride 2, uneven padding -> "act" and the graph's output "out". */
static void build_conv(struct qd_graph *g, int64_t group)
{
	struct qd_attr attrs[] = { QD_AIS("strides", 2, 2), QD_AIS("pads", 0, 1, 1, 1), QD_AIS("dilations", 1, 2),
		QD_AI("group", group) };
	qd_id x, y;

	qd_graph_init(g, "conv");
	x = qd_graph_input(g, "x", QD_F32, QD_SHAPE(2, 4, 9, 8));
	y = qd_graph_node(g, QD_OP_CONV, "block.conv", 2,
		(qd_id[]){ x, weight(g, "block.conv.weight", QD_SHAPE(6, 4 / group, 3, 3)) }, 4, attrs);
	qd_graph_output(g, qd_build_unary(g, QD_OP_RELU, "act", y));
	qd_graph_output(g, y);
	assert_int_equal(qd_graph_status(g), QD_OK);
	assert_int_equal(qd_graph_rename(g, y, "out"), QD_OK);
}

static void assert_value(const struct qd_graph *g, const char *name, struct qd_shape shape)
{
	qd_id id = qd_graph_find(g, name);
	assert_true(id != QD_NONE);
	assert_true(qd_shape_equal(&g->values[id].shape, &shape));
}

static void attaches_to_a_convolution(void **state)
{
	static const char *const order[] = { "block.conv", "block.conv.lora_gain_channels", "block.conv.lora_down_out",
		"block.conv.lora_gain_out", "block.conv.lora_up_out", "block.conv.lora_sum", "act" };
	struct qd_graph g;
	struct qd_slots slots;
	const struct qd_node *down;

	(void)state;
	build_conv(&g, 1);
	attach_all(&g, &slots, 5);
	assert_value(&g, "block.conv.lora_down", QD_SHAPE(5, 4, 3, 3));
	assert_value(&g, "block.conv.lora_up", QD_SHAPE(6, 5, 1, 1));
	assert_value(&g, "block.conv.lora_gain", QD_SHAPE(5));
	assert_value(&g, "block.conv.lora_down_out", QD_SHAPE(2, 5, 4, 3));
	down = &g.nodes[qd_graph_find_node(&g, "block.conv.lora_down_out")];
	assert_int_equal(qd_node_attr(down, "strides")->ints[0], 2);
	assert_int_equal(qd_node_attr(down, "pads")->ints[1], 1);
	assert_int_equal(qd_node_attr(down, "dilations")->ints[1], 2);
	assert_int_equal(g.n_order, QD_COUNT(order));
	for (size_t i = 0; i < QD_COUNT(order); i++)
		assert_string_equal(g.nodes[g.order[i]].name, order[i]);
	/* the output keeps its name and is the sum; the layer's own result is called after it */
	assert_string_equal(g.values[g.outputs[1]].name, "out");
	assert_int_equal(g.outputs[1], slots.items[0].sum);
	assert_string_equal(g.values[slots.items[0].base].name, "block.conv");
	assert_int_equal(g.nodes[qd_graph_find_node(&g, "act")].in[0], slots.items[0].sum);
	assert_int_equal(qd_graph_uses(&g, slots.items[0].base), 1);
	qd_slots_release(&slots);
	qd_graph_release(&g);
}

/* The convolution of x [2,4,9,8] with kernel w [6,4,3,3] as build_conv has it, at one output element, by loops. */
static double convolve(const float *x, const double *w, int n, int o, int y, int z)
{
	double sum = 0;

	for (int c = 0; c < 4; c++)
		for (int i = 0; i < 3; i++)
			for (int j = 0; j < 3; j++) {
				int row = 2 * y + i,
				    column = 2 * z + 2 * j - 1; /* pads 0 above, 1 to the left; dilation 2 along columns */
				if (row >= 0 && row < 9 && column >= 0 && column < 8)
					sum += w[((o * 4 + c) * 3 + i) * 3 + j] * (double)x[((n * 4 + c) * 9 + row) * 8 + column];
			}
	return sum;
}

/* A convolution with the merged kernel W + up diag(gain) down; sums of 36 * 6 products below 1: 1e-5 bounds the roundings. */
static void computes_the_branch_of_a_convolution(void **state)
{
	struct qd_graph g;
	struct qd_slots slots;
	float x[576], down[180], up[30], gain[5], *const inputs[] = { x, down, up, gain }, *out;
	double merged[216];
	uint32_t seed = (uint32_t)test_seed();

	(void)state;
	build_conv(&g, 1);
	attach_all(&g, &slots, 5);
	const float *w = g.values[qd_graph_find(&g, "block.conv.weight")].data.data;
	fill_random(x, 576, &seed);
	fill_random(down, 180, &seed);
	fill_random(up, 30, &seed);
	fill_random(gain, 5, &seed);
	for (int o = 0; o < 6; o++)
		for (int i = 0; i < 36; i++) {
			merged[o * 36 + i] = (double)w[o * 36 + i];
			for (int k = 0; k < 5; k++)
				merged[o * 36 + i] += (double)up[o * 5 + k] * (double)gain[k] * (double)down[k * 36 + i];
		}
	out = run(&g, inputs);
	for (int i = 0; i < 2 * 6 * 4 * 3; i++)
		assert_true(fabs((double)out[i] - fmax(convolve(x, merged, i / 72, i / 12 % 6, i / 3 % 4, i % 3), 0)) < 1e-5);
	free(out);
	qd_slots_release(&slots);
	qd_graph_release(&g);
}

static void refuses_groups(void **state)
{
	struct qd_graph g;
	struct qd_modules modules;
	struct qd_slots slots;

	(void)state;
	build_conv(&g, 2);
	assert_int_equal(qd_modules_of(&modules, &g), QD_OK);
	assert_int_equal(qd_slots_choose(&slots, &modules, NULL, 0, "all", 1), QD_OK);
	assert_int_equal(qd_slots_attach(&slots, &g), QD_EUNSUPPORTED);
	assert_string_equal(
		qd_message(), "slot 'block.conv': 'block.conv' is a convolution in 2 groups, a low-rank branch needs one");
	qd_slots_release(&slots);
	qd_modules_release(&modules);
	qd_graph_release(&g);
}

/* A whole UNet stays a valid graph, whose output keeps its name. */
static void a_whole_network_takes_slots(void **state)
{
	struct help_model model;
	struct qd_slots slots;

	(void)state;
	help_model_open(&model, "tiny15");
	assert_int_equal(qd_slots_choose(&slots, &model.modules, NULL, 0, "all", 3), QD_OK);
	if (qd_slots_attach(&slots, &model.g) != QD_OK || qd_graph_verify(&model.g) != QD_OK)
		fail_msg("%s", qd_message());
	assert_string_equal(model.g.values[model.g.outputs[0]].name, "out");
	qd_slots_release(&slots);
	help_model_close(&model);
}

/* ---- filling ---- */

static void pads_smaller_adapters(void **state)
{
	struct qd_slot slot = { .path = "a", .rank = 3, .out = 2, .in = 2, .kh = 1, .kw = 1 };
	float down[] = { 1, 2 }, up[] = { 3, 4 }, gain[] = { 5 }, d[6], u[6], g[3];
	struct qd_lora lora = { .path = "a", .rank = 1, .out = 2, .in = 2, .kh = 1, .kw = 1, .down = down, .up = up, .gain = gain };

	(void)state;
	assert_int_equal(qd_slot_fill(&slot, &lora, d, u, g, NULL), QD_OK);
	assert_memory_equal(d, ((float[]){ 1, 2, 0, 0, 0, 0 }), sizeof(d));
	assert_memory_equal(u, ((float[]){ 3, 0, 0, 4, 0, 0 }), sizeof(u));
	assert_memory_equal(g, ((float[]){ 5, 0, 0 }), sizeof(g));
	assert_int_equal(qd_slot_fill(&slot, NULL, d, u, g, NULL), QD_OK);
	assert_memory_equal(u, ((float[6]){ 0 }), sizeof(u));
	lora.rank = 4;
	assert_int_equal(qd_slot_fill(&slot, &lora, d, u, g, NULL), QD_EINPUT);
	assert_string_equal(qd_message(), "slot 'a': rank 4 does not fit into 3");
	lora.in = 5;
	assert_int_equal(qd_slot_fill(&slot, &lora, d, u, g, NULL), QD_EINPUT);
	assert_string_equal(qd_message(), "slot 'a': layer of 2 x 5 x 1 x 1, needs 2 x 2 x 1 x 1");
}

/* A bias needs a slot with an input for it; there, an adapter without one has zeros. */
static void biases_need_an_input(void **state)
{
	struct qd_slot slot = { .path = "a", .rank = 1, .out = 2, .in = 1, .kh = 1, .kw = 1, .biased = true };
	float down[] = { 1 }, up[] = { 3, 4 }, gain[] = { 5 }, bias[] = { 6, 7 }, d[1], u[2], g[1], b[2] = { 9, 9 };
	struct qd_lora lora = {
		.path = "a", .rank = 1, .out = 2, .in = 1, .kh = 1, .kw = 1, .down = down, .up = up, .gain = gain, .bias = bias
	};

	(void)state;
	assert_int_equal(qd_slot_fill(&slot, &lora, d, u, g, b), QD_OK);
	assert_memory_equal(b, bias, sizeof(b));
	lora.bias = NULL;
	assert_int_equal(qd_slot_fill(&slot, &lora, d, u, g, b), QD_OK);
	assert_memory_equal(b, ((float[2]){ 0 }), sizeof(b));
	b[0] = 9;
	assert_int_equal(qd_slot_fill(&slot, NULL, d, u, g, b), QD_OK);
	assert_memory_equal(b, ((float[2]){ 0 }), sizeof(b));
	lora.bias = bias;
	slot.biased = false;
	assert_int_equal(qd_slot_fill(&slot, &lora, d, u, g, NULL), QD_EINPUT);
	assert_string_equal(qd_message(),
		"slot 'a' has no input for a bias, which the adapter has ('lora_B.bias'): it must be among those that the slots "
		"are chosen for");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(chooses_by_policy),
		cmocka_unit_test(chooses_from_a_file),
		cmocka_unit_test(takes_the_largest_rank),
		cmocka_unit_test(computes_the_branch),
		cmocka_unit_test(is_the_base_without_gain),
		cmocka_unit_test(attaches_to_a_convolution),
		cmocka_unit_test(computes_the_branch_of_a_convolution),
		cmocka_unit_test(refuses_groups),
		cmocka_unit_test(a_whole_network_takes_slots),
		cmocka_unit_test(pads_smaller_adapters),
		cmocka_unit_test(biases_need_an_input),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
