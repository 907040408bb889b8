/*
 * lib/ir: building, editing and verifying graphs.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/ir_help.h"

/* x -> r (Relu) -> s (SiLU of r: s.sigmoid, s) -> output s */
static void small_graph(struct qd_graph *g)
{
	qd_id x, r;
	qd_graph_init(g, "small");
	x = qd_graph_input(g, "x", QD_F32, QD_SHAPE(2, 3));
	r = qd_build_unary(g, QD_OP_RELU, "r", x);
	qd_graph_output(g, qd_build_silu(g, "s", r));
	assert_int_equal(qd_graph_status(g), QD_OK);
}

static void refused(struct qd_graph *g, const char *message)
{
	assert_int_not_equal(qd_graph_verify(g), QD_OK);
	assert_string_equal(qd_message(), message);
	qd_graph_release(g);
}

/* ---- building ---- */

static void operators_are_found_by_name(void **state)
{
	(void)state;
	for (int op = 0; op < QD_OP_COUNT; op++)
		assert_int_equal(qd_op_by_name(qd_op((enum qd_op)op)->name), op);
	assert_int_equal(qd_op_by_name("conv"), QD_OP_COUNT);
	assert_int_equal(qd_op(QD_OP_CONV)->max_inputs, 3);
	assert_int_equal(qd_op(QD_OP_SIGMOID)->n_attrs, 0);
	assert_int_equal(qd_op(QD_OP_GEMM)->n_attrs, 4);
	assert_true(qd_op(QD_OP_GEMM)->flags & QD_OPF_WEIGHT);
}

static void what_was_built_is_found_again(void **state)
{
	struct qd_graph g;
	(void)state;
	small_graph(&g);
	assert_int_equal(g.n_order, 3);
	assert_int_equal(qd_graph_uses(&g, qd_graph_find(&g, "r")), 2);
	assert_int_equal(qd_graph_uses(&g, qd_graph_find(&g, "s")), 1);
	assert_int_equal(g.values[qd_graph_find(&g, "s.sigmoid")].producer, qd_graph_find_node(&g, "s.sigmoid"));
	assert_int_equal(qd_graph_find(&g, "t"), QD_NONE);
	assert_int_equal(qd_graph_verify(&g), QD_OK);
	qd_graph_release(&g);
}

/* The first failure stays, and nothing is added after it. */
static void failures_stick(void **state)
{
	struct qd_graph g;
	(void)state;
	qd_graph_init(&g, "t");
	qd_id x = qd_graph_input(&g, "x", QD_F32, QD_SHAPE(2, 3));
	qd_id w = qd_graph_input(&g, "w", QD_F32, QD_SHAPE(4, 5));
	qd_id y = qd_build_linear(&g, "y", x, w, QD_NONE);
	assert_int_equal(y, QD_NONE);
	assert_int_equal(qd_build_unary(&g, QD_OP_RELU, "z", y), QD_NONE);
	assert_int_equal(qd_build_upsample2(&g, "u", y, 2, 2), QD_NONE);
	assert_null(qd_graph_unique(&g, "n"));
	qd_graph_output(&g, y);
	assert_int_equal(g.n_nodes, 0);
	assert_int_equal(qd_fail(QD_EIO, "another message"), QD_EIO);
	assert_int_equal(qd_graph_status(&g), QD_EINPUT);
	assert_string_equal(qd_message(), "node 'y': gemm input has 3 features, weight needs 5");
	qd_graph_release(&g);
}

static void a_taken_name_is_refused(void **state)
{
	struct qd_graph g;
	(void)state;
	qd_graph_init(&g, "t");
	qd_graph_input(&g, "x", QD_F32, QD_SHAPE(1));
	qd_graph_input(&g, "x", QD_F32, QD_SHAPE(1));
	assert_int_equal(qd_graph_status(&g), QD_EINPUT);
	assert_string_equal(qd_message(), "value name 'x' is taken");
	qd_graph_release(&g);
}

static void a_wrong_attribute_is_refused(void **state)
{
	struct qd_graph g;
	(void)state;
	qd_graph_init(&g, "t");
	qd_id x = qd_graph_input(&g, "x", QD_F32, QD_SHAPE(1));
	qd_graph_node(&g, QD_OP_SOFTMAX, "y", 1, &x, 1, (struct qd_attr[]){ QD_AF("axis", 1) });
	assert_int_equal(qd_graph_status(&g), QD_EINPUT);
	assert_string_equal(qd_message(), "node 'y': attribute 'axis' is a float, needs an integer");
	qd_graph_release(&g);
}

static void an_output_outside_of_the_graph_is_refused(void **state)
{
	struct qd_graph g;
	(void)state;
	qd_graph_init(&g, "t");
	qd_graph_output(&g, 3);
	assert_int_equal(qd_graph_status(&g), QD_EINPUT);
	assert_string_equal(qd_message(), "an output of graph 't' is no value of it");
	qd_graph_release(&g);
}

static void attributes_are_copied(void **state)
{
	struct qd_graph g;
	int64_t perm[] = { 1, 0 };
	char mode[] = "tanh";
	(void)state;
	qd_graph_init(&g, "t");
	qd_id x = qd_graph_input(&g, "x", QD_F32, QD_SHAPE(2, 3));
	qd_build_transpose(&g, "y", x, 2, perm);
	qd_graph_node(&g, QD_OP_GELU, "z", 1, &x, 1, (struct qd_attr[]){ QD_AS("approximate", mode) });
	perm[0] = 7;
	mode[0] = '!';
	assert_int_equal(qd_node_attr(&g.nodes[0], "perm")->ints[0], 1);
	assert_string_equal(qd_node_string(&g.nodes[1], "approximate", "none"), "tanh");
	assert_string_equal(qd_node_string(&g.nodes[0], "approximate", "none"), "none");
	assert_int_equal(qd_node_int(&g.nodes[0], "axis", 5), 5);
	assert_int_equal(qd_graph_verify(&g), QD_OK);
	qd_graph_release(&g);
}

static void float_weights_are_computed_in_f32_and_keep_their_bytes(void **state)
{
	struct qd_graph g;
	uint16_t half[2] = { 0x3c00, 0xc000 };
	struct qd_tensor t = qd_tensor_view("file name", QD_F16, QD_SHAPE(2), half);
	(void)state;
	qd_graph_init(&g, "t");
	qd_id w = qd_graph_weight(&g, "w", &t);
	assert_int_equal(g.values[w].dtype, QD_F32);
	assert_int_equal(g.values[w].data.dtype, QD_F16);
	assert_ptr_equal(g.values[w].data.data, half);
	assert_string_equal(g.values[w].data.name, "w");
	assert_int_equal(qd_graph_verify(&g), QD_OK);
	qd_graph_release(&g);
}

static void unique_names_count_up(void **state)
{
	struct qd_graph g;
	(void)state;
	qd_graph_init(&g, "t");
	assert_string_equal(qd_graph_unique(&g, "c"), "c");
	for (int i = 0; i < 1000; i++)
		qd_graph_const_i64(&g, NULL, 0, NULL);
	assert_string_equal(g.values[0].name, "constant");
	assert_string_equal(g.values[999].name, "constant_999");
	qd_graph_input(&g, "constant_1000", QD_F32, QD_SHAPE(1));
	assert_string_equal(qd_graph_unique(&g, "constant"), "constant_1001");
	qd_graph_release(&g);
}

static void attention_is_its_documented_nodes(void **state)
{
	static const char *const names[] = { "a.keys", "a.scores", "a.scaled", "a.masked", "a.softmax", "a" };
	struct qd_graph g;
	(void)state;
	qd_graph_init(&g, "t");
	qd_id q = qd_graph_input(&g, "q", QD_F32, QD_SHAPE(2, 8, 5, 4)), k = qd_graph_input(&g, "k", QD_F32, QD_SHAPE(2, 8, 7, 4));
	qd_id v = qd_graph_input(&g, "v", QD_F32, QD_SHAPE(2, 8, 7, 4)), m = qd_graph_input(&g, "m", QD_F32, QD_SHAPE(5, 7));
	qd_id y = qd_build_attention(&g, "a", q, k, v, m, 0.5f);
	assert_int_equal(qd_graph_status(&g), QD_OK);
	assert_true(qd_shape_equal(&g.values[y].shape, &QD_SHAPE(2, 8, 5, 4)));
	assert_int_equal(g.n_order, QD_COUNT(names));
	for (size_t i = 0; i < QD_COUNT(names); i++)
		assert_string_equal(g.nodes[g.order[i]].name, names[i]);
	qd_build_attention(&g, "b", q, k, v, QD_NONE, 0.5f);
	assert_int_equal(g.n_order, QD_COUNT(names) + 5);
	assert_int_equal(qd_graph_verify(&g), QD_OK);
	qd_graph_release(&g);
}

/* Also to odd sizes, where two times the input is one too many. */
static void upsampling_takes_index_k_halved(void **state)
{
	(void)state;
	for (int64_t h = 3; h <= 12; h++) {
		struct qd_graph g;
		struct ir_run run;
		qd_graph_init(&g, "t");
		qd_id x = qd_graph_input(&g, "x", QD_F32, QD_SHAPE(1, 2, (h + 1) / 2, 2));
		qd_id y = qd_build_upsample2(&g, "y", x, h, 4);
		assert_int_equal(qd_graph_verify(&g), QD_OK);
		assert_int_equal(ir_run(&g, (uint64_t)h, &run), QD_OK);
		const float *in = run.value[x].data, *out = run.value[y].data;
		for (int64_t i = 0; i < 2 * h * 4; i++) {
			int64_t column = i % 4, row = i / 4 % h, channel = i / 4 / h;
			assert_true(out[i] == in[(channel * ((h + 1) / 2) + row / 2) * 2 + column / 2]);
		}
		ir_run_release(&run);
		qd_graph_release(&g);
	}
}

static void layers_have_the_shapes_of_their_networks(void **state)
{
	struct qd_graph g;
	static float zeros[64];
	char shape[QD_SHAPE_TEXT];
	(void)state;
	qd_graph_init(&g, "t");
	qd_id x = qd_graph_input(&g, "x", QD_F32, QD_SHAPE(1, 4, 8, 8));
	qd_id w = qd_graph_const_f32(&g, "w", QD_SHAPE(4, 4, 1, 1), zeros), c = qd_graph_const_f32(&g, "c", QD_SHAPE(4), zeros);
	qd_id l = qd_graph_const_f32(&g, "l", QD_SHAPE(16, 4), zeros);
	x = qd_build_conv(&g, "conv", x, w, c, 2, (int64_t[]){ 0, 0, 1, 1 });
	x = qd_build_group_norm(&g, "norm", x, c, c, 2, 1e-6f);
	x = qd_build_transpose(&g, "last", x, 4, (int64_t[]){ 0, 2, 3, 1 });
	x = qd_build_reshape(&g, "rows", x, 2, (int64_t[]){ -1, 4 });
	x = qd_build_layer_norm(&g, "ln", x, c, c, 1e-5f);
	x = qd_build_linear(&g, "up", x, l, QD_NONE);
	x = qd_build_concat(&g, "both", 2, (qd_id[]){ x, x }, 1);
	x = qd_build_slice(&g, "part", x, 1, 3, -4);
	assert_int_equal(qd_graph_status(&g), QD_OK);
	assert_string_equal(qd_shape_text(&g.values[x].shape, shape), "[25,25]");
	assert_int_equal(qd_graph_verify(&g), QD_OK);
	qd_graph_release(&g);
}

/* ---- editing ---- */

static void replacing_keeps_the_exception(void **state)
{
	struct qd_graph g;
	(void)state;
	small_graph(&g);
	qd_id x = qd_graph_find(&g, "x"), r = qd_graph_find(&g, "r"), s = qd_graph_find(&g, "s");
	assert_int_equal(qd_graph_replace(&g, r, x, qd_graph_find_node(&g, "s")), 1);
	assert_int_equal(qd_graph_uses(&g, r), 1);
	assert_int_equal(qd_graph_replace(&g, s, r, QD_NONE), 1);
	assert_int_equal(g.outputs[0], r);
	assert_int_equal(qd_graph_verify(&g), QD_OK);
	qd_graph_release(&g);
}

static void a_removed_node_frees_its_names(void **state)
{
	struct qd_graph g;
	(void)state;
	small_graph(&g);
	qd_id x = qd_graph_find(&g, "x"), r = qd_graph_find(&g, "r");
	qd_graph_replace(&g, r, x, QD_NONE);
	qd_graph_remove_node(&g, qd_graph_find_node(&g, "r"));
	assert_int_equal(qd_graph_verify(&g), QD_OK);
	assert_int_equal(qd_graph_find(&g, "r"), QD_NONE);
	assert_int_not_equal(qd_build_unary(&g, QD_OP_ABS, "r", x), QD_NONE);
	assert_int_equal(qd_graph_verify(&g), QD_OK);
	qd_graph_release(&g);
}

static void renaming_moves_the_name(void **state)
{
	struct qd_graph g;
	(void)state;
	small_graph(&g);
	qd_id s = qd_graph_find(&g, "s");
	assert_int_equal(qd_graph_rename(&g, s, "out"), QD_OK);
	assert_int_equal(qd_graph_find(&g, "out"), s);
	assert_int_equal(qd_graph_find(&g, "s"), QD_NONE);
	assert_int_equal(qd_graph_rename(&g, s, "out"), QD_OK);
	assert_int_equal(qd_graph_rename(&g, s, "x"), QD_EINPUT);
	assert_string_equal(qd_message(), "value name 'x' is taken");
	assert_int_equal(qd_graph_verify(&g), QD_OK);
	qd_graph_release(&g);
}

/* A node that is made last and used by an early one: sorting moves it and leaves the others where they are. */
static void sorting_is_stable(void **state)
{
	struct qd_graph g;
	(void)state;
	ir_parse(&g, "graph t\ninput %x f32[2]\n%a = Relu(%x)\n%b = Relu(%x)\n%c = Relu(%x)\n%d = Relu(%x)\n");
	g.nodes[1].in[0] = g.nodes[3].out[0];
	assert_int_equal(qd_graph_verify(&g), QD_EINPUT);
	assert_string_equal(qd_message(), "node 'b' comes before 'd', whose result 'd' it needs");
	assert_int_equal(qd_graph_sort(&g), QD_OK);
	assert_int_equal(qd_graph_verify(&g), QD_OK);
	const qd_id wants[] = { 0, 3, 1, 2 };
	assert_memory_equal(g.order, wants, sizeof(wants));
	qd_graph_release(&g);
}

static void a_cycle_is_refused(void **state)
{
	struct qd_graph g;
	(void)state;
	small_graph(&g);
	g.nodes[qd_graph_find_node(&g, "r")].in[0] = qd_graph_find(&g, "s");
	assert_int_equal(qd_graph_sort(&g), QD_EINPUT);
	assert_string_equal(qd_message(), "node 'r' is part of a cycle");
	qd_graph_release(&g);
}

/* A chain longer than any call stack should be asked to hold. */
static void long_chains_are_sorted(void **state)
{
	enum { LENGTH = 20000 };
	struct qd_graph g;
	char name[16];
	(void)state;
	qd_graph_init(&g, "t");
	qd_id x = qd_graph_input(&g, "x", QD_F32, QD_SHAPE(1));
	for (int i = 0; i < LENGTH; i++) {
		snprintf(name, sizeof(name), "n%d", i);
		x = qd_build_unary(&g, QD_OP_RELU, name, x);
	}
	for (size_t i = 0; i < LENGTH; i++)
		g.order[i] = (qd_id)(LENGTH - 1 - i);
	assert_int_equal(qd_graph_sort(&g), QD_OK);
	assert_int_equal(qd_graph_verify(&g), QD_OK);
	qd_graph_release(&g);
}

/* ---- verifying: one damage each ---- */

static void a_wrong_shape_is_found(void **state)
{
	struct qd_graph g;
	(void)state;
	small_graph(&g);
	g.values[qd_graph_find(&g, "r")].shape.dim[1] = 4;
	refused(&g, "node 'r': output 'r' is [2,4], the operator gives [2,3]");
}

static void a_wrong_dtype_is_found(void **state)
{
	struct qd_graph g;
	(void)state;
	small_graph(&g);
	g.values[qd_graph_find(&g, "r")].dtype = QD_I64;
	refused(&g, "node 'r': output 'r' is I64, the operator gives F32");
}

static void a_use_of_a_removed_value_is_found(void **state)
{
	struct qd_graph g;
	(void)state;
	small_graph(&g);
	qd_graph_remove_node(&g, qd_graph_find_node(&g, "r"));
	refused(&g, "node 's.sigmoid': input 0 is 'r', which was removed");
}

static void an_input_out_of_range_is_found(void **state)
{
	struct qd_graph g;
	(void)state;
	small_graph(&g);
	g.nodes[0].in[0] = 99;
	refused(&g, "node 'r': input 0 is value 99 of only 4");
}

static void a_removed_output_is_found(void **state)
{
	struct qd_graph g;
	(void)state;
	small_graph(&g);
	qd_graph_remove_node(&g, qd_graph_find_node(&g, "s"));
	refused(&g, "output 0 of graph 'small' is no live value");
}

static void a_node_outside_of_the_order_is_found(void **state)
{
	struct qd_graph g;
	(void)state;
	small_graph(&g);
	g.n_order--;
	refused(&g, "node 's' is not in the order");
}

static void a_node_twice_in_the_order_is_found(void **state)
{
	struct qd_graph g;
	(void)state;
	small_graph(&g);
	g.order[1] = g.order[0];
	refused(&g, "place 1 of the order is no live node, or one that was there before");
}

static void two_producers_are_found(void **state)
{
	struct qd_graph g;
	(void)state;
	small_graph(&g);
	g.nodes[1].out[0] = g.nodes[0].out[0];
	refused(&g, "value 's.sigmoid' is not output 0 of node 's.sigmoid'");
}

static void a_name_that_is_not_in_the_map_is_found(void **state)
{
	struct qd_graph g;
	(void)state;
	small_graph(&g);
	g.values[1].name = "x";
	refused(&g, "value name 'x' is not unique");
}

static void a_weight_of_another_shape_is_found(void **state)
{
	struct qd_graph g;
	(void)state;
	qd_graph_init(&g, "t");
	qd_id w = qd_graph_const_f32(&g, "w", QD_SHAPE(2), (float[]){ 1, 2 });
	g.values[w].data.shape = QD_SHAPE(3);
	refused(&g, "weight 'w' is [2], its data is [3]");
}

static void an_undeclared_input_is_found(void **state)
{
	struct qd_graph g;
	(void)state;
	small_graph(&g);
	g.n_inputs = 0;
	refused(&g, "graph 'small' declares 0 inputs, has 1");
}

static void an_unknown_attribute_is_found(void **state)
{
	struct qd_graph g;
	struct qd_attr attr = QD_AI("axis", 1);
	(void)state;
	small_graph(&g);
	g.nodes[0].attrs = &attr;
	g.nodes[0].n_attrs = 1;
	refused(&g, "node 'r': Relu has no attribute 'axis'");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(operators_are_found_by_name),
		cmocka_unit_test(what_was_built_is_found_again),
		cmocka_unit_test(failures_stick),
		cmocka_unit_test(a_taken_name_is_refused),
		cmocka_unit_test(a_wrong_attribute_is_refused),
		cmocka_unit_test(an_output_outside_of_the_graph_is_refused),
		cmocka_unit_test(attributes_are_copied),
		cmocka_unit_test(float_weights_are_computed_in_f32_and_keep_their_bytes),
		cmocka_unit_test(unique_names_count_up),
		cmocka_unit_test(attention_is_its_documented_nodes),
		cmocka_unit_test(upsampling_takes_index_k_halved),
		cmocka_unit_test(layers_have_the_shapes_of_their_networks),
		cmocka_unit_test(replacing_keeps_the_exception),
		cmocka_unit_test(a_removed_node_frees_its_names),
		cmocka_unit_test(renaming_moves_the_name),
		cmocka_unit_test(sorting_is_stable),
		cmocka_unit_test(a_cycle_is_refused),
		cmocka_unit_test(long_chains_are_sorted),
		cmocka_unit_test(a_wrong_shape_is_found),
		cmocka_unit_test(a_wrong_dtype_is_found),
		cmocka_unit_test(a_use_of_a_removed_value_is_found),
		cmocka_unit_test(an_input_out_of_range_is_found),
		cmocka_unit_test(a_removed_output_is_found),
		cmocka_unit_test(a_node_outside_of_the_order_is_found),
		cmocka_unit_test(a_node_twice_in_the_order_is_found),
		cmocka_unit_test(two_producers_are_found),
		cmocka_unit_test(a_name_that_is_not_in_the_map_is_found),
		cmocka_unit_test(a_weight_of_another_shape_is_found),
		cmocka_unit_test(an_undeclared_input_is_found),
		cmocka_unit_test(an_unknown_attribute_is_found),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
