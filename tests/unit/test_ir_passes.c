/*
 * lib/ir: the pass runner, dead code, constant folding. Passes preserve the function: graphs run before and after give the same
 * bytes.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "export/pass/pass.h"
#include "tests/unit/ir_help.h"
#include "tests/unit/scratch.h"

static void run_pass(struct qd_graph *g, const struct qd_pass *pass, size_t wants)
{
	size_t changes = 0;
	assert_int_equal(pass->run(g, NULL, &changes), QD_OK);
	assert_int_equal(changes, wants);
	if (qd_graph_verify(g) != QD_OK)
		fail_msg("%s", qd_message());
}

/* ---- dead code ---- */

static void dead_code_goes_and_inputs_stay(void **state)
{
	struct qd_graph g;
	(void)state;
	ir_parse(&g, "graph t\ninput %x f32[4]\ninput %unused f32[1]\nweight %w f32[4] ...\nweight %c i64[1] {2}\n"
		     "%y = Relu(%x)\n%a, %b = Split(%y)\n%z = Add(%y, %w)\n%q = Tile(%z, %c)\noutput %b\n");
	run_pass(&g, &qd_pass_dead_code, 4); /* z, q, w, c; the Split stays whole for b */
	assert_int_equal(g.n_order, 2);
	assert_int_equal(g.n_inputs, 2);
	assert_int_equal(qd_graph_find(&g, "w"), QD_NONE);
	assert_int_not_equal(qd_graph_find(&g, "a"), QD_NONE);
	run_pass(&g, &qd_pass_dead_code, 0);
	qd_graph_release(&g);
}

static void a_weight_that_is_an_output_stays(void **state)
{
	struct qd_graph g;
	(void)state;
	ir_parse(&g, "graph t\nweight %w f32[4] ...\noutput %w\n");
	run_pass(&g, &qd_pass_dead_code, 0);
	qd_graph_release(&g);
}

/* ---- folding ---- */

static void check_constant(const struct qd_graph *g, const char *name, const char *wants)
{
	struct qd_tensor t;
	qd_id id = qd_graph_find(g, name);
	assert_int_not_equal(id, QD_NONE);
	assert_int_equal(g->values[id].kind, QD_WEIGHT);
	assert_int_equal(qd_graph_constant(g, id, &t), QD_OK);
	char *text = ir_text(&t);
	assert_string_equal(text, wants);
	free(text);
	qd_tensor_release(&t);
}

static void shape_arithmetic_folds(void **state)
{
	struct qd_graph g;
	(void)state;
	ir_parse(&g,
		"graph t\ninput %x f32[2,77,768]\nweight %axes i64[1] {0}\nweight %second i64[] {1}\nweight %minus i64[1] {-1}\n"
		"weight %heads i64[] {-16}\n%s = Shape(%x)\n%n = Gather(%s, %second)\n%h = Div(%n, %heads)\n"
		"%h1 = Unsqueeze(%h, %axes)\n%p = Mul(%h1, %h1)\n%to = Concat(%minus, %p) {axis=0}\n"
		"%y = Reshape(%x, %to)\noutput %y\n");
	run_pass(&g, &qd_pass_fold_constants, 6);
	assert_int_equal(g.n_order, 1);
	check_constant(&g, "h", "I64 [] {-4}");
	check_constant(&g, "to", "I64 [2] {-1, 16}");
	run_pass(&g, &qd_pass_fold_constants, 0);
	qd_graph_release(&g);
}

static void results_keep_their_dtype(void **state)
{
	struct qd_graph g;
	(void)state;
	ir_parse(&g, "graph t\nweight %a i64[3] {1, 300, -1}\nweight %b i64[3] {1, 2, 3}\nweight %f f32[3] as f16 {0.5, 1, 2}\n"
		     "%u = Cast(%a) {to=2}\n%e = Equal(%a, %b)\n%w = Where(%e, %f, %f)\n%y = Identity(%w)\noutput %y\n");
	run_pass(&g, &qd_pass_fold_constants, 3); /* not y, which is the output */
	check_constant(&g, "u", "I64 [3] {1, 44, 255}");
	check_constant(&g, "e", "I64 [3] {1, 0, 0}");
	check_constant(&g, "w", "F32 [3] {0.5, 1, 2}");
	assert_int_equal(g.values[qd_graph_find(&g, "u")].data.bytes, 3);
	assert_int_equal(g.values[qd_graph_find(&g, "e")].data.dtype, QD_BOOL);
	qd_graph_release(&g);
}

static void large_and_encoded_constants_are_left(void **state)
{
	const struct qd_encoding encoding = { .axis = -1 };
	struct qd_graph g;
	(void)state;
	ir_parse(&g, "graph t\nweight %large f32[4097] ...\nweight %small f32[4096] ...\nweight %marked f32[1] {1}\n"
		     "weight %n i64[1] {5000}\n%a = Relu(%large)\n%b = Relu(%small)\n%c = Relu(%marked)\n%d = Expand(%marked, %n)\n"
		     "%e = ConstantOfShape(%n)\n");
	g.values[qd_graph_find(&g, "marked")].encoding = &encoding;
	run_pass(&g, &qd_pass_fold_constants, 1);
	assert_int_equal(g.values[qd_graph_find(&g, "b")].kind, QD_WEIGHT);
	assert_int_equal(g.values[qd_graph_find(&g, "c")].kind, QD_RESULT);
	qd_graph_release(&g);
}

/* Split of 4 elements into two of 2; a node of several outputs goes as a whole. */
static void all_outputs_of_a_split_fold(void **state)
{
	struct qd_graph g;
	(void)state;
	ir_parse(&g, "graph t\nweight %w f32[4] {1, 2, 3, 4}\n%a, %b = s: Split(%w)\n%y = Add(%b, %a)\n");
	run_pass(&g, &qd_pass_fold_constants, 2);
	assert_int_equal(g.n_order, 0);
	check_constant(&g, "a", "F32 [2] {1, 2}");
	check_constant(&g, "b", "F32 [2] {3, 4}");
	check_constant(&g, "y", "F32 [2] {4, 6}");
	qd_graph_release(&g);
}

static void a_division_by_zero_is_refused(void **state)
{
	struct qd_graph g;
	struct qd_pass_options options = { .verify = true };
	(void)state;
	ir_parse(&g, "graph t\nweight %a i64[1] {1}\nweight %z i64[1] {0}\n%y = Div(%a, %z)\n");
	assert_int_equal(qd_passes_run(&g, &qd_pass_fold_constants, 1, NULL, &options), QD_EINPUT);
	assert_string_equal(qd_message(), "pass fold_constants: node 'y': integer division by zero");
	qd_graph_release(&g);
}

/* ---- the function stays: random graphs ---- */

/* A value of the random graph: one of the last few. */
static qd_id pick(const qd_id *values, size_t n, uint64_t *seed)
{
	return values[(size_t)(ir_uniform(seed) * (double)n)];
}

/* 40 nodes over [3,3] values of which some are constants; every fifth value is an output. */
static void random_graph(struct qd_graph *g, uint64_t *seed)
{
	static const enum qd_op unary[] = { QD_OP_TANH, QD_OP_ABS, QD_OP_SIGMOID, QD_OP_IDENTITY, QD_OP_TRANSPOSE };
	static const enum qd_op binary[] = { QD_OP_ADD, QD_OP_MUL, QD_OP_SUB, QD_OP_MATMUL, QD_OP_MIN };
	qd_id values[64];
	size_t n = 0;

	qd_graph_init(g, "random");
	values[n++] = qd_graph_input(g, "x", QD_F32, QD_SHAPE(3, 3));
	for (int i = 0; i < 4; i++) {
		float numbers[9];
		for (int k = 0; k < 9; k++)
			numbers[k] = (float)(2 * ir_uniform(seed) - 1);
		values[n++] = qd_graph_const_f32(g, NULL, QD_SHAPE(3, 3), numbers);
	}
	for (int i = 0; i < 40; i++) {
		const char *name = qd_graph_unique(g, "node");
		size_t which = (size_t)(ir_uniform(seed) * 5);
		qd_id a = pick(values, n, seed), b = pick(values, n, seed);
		if (ir_uniform(seed) < 0.5)
			values[n] = qd_build_unary(g, unary[which], name, a);
		else
			values[n] = qd_build_binary(g, binary[which], name, a, b);
		if (i % 5 == 4)
			qd_graph_output(g, values[n]);
		n++;
	}
	assert_int_equal(qd_graph_status(g), QD_OK);
}

/* Folding computes what running computes, so not even rounding differs. */
static void passes_preserve_the_function(void **state)
{
	static const struct qd_pass *const order[] = { &qd_pass_fold_constants, &qd_pass_dead_code };
	uint64_t seed = test_seed();
	size_t total = 0;
	(void)state;
	for (uint64_t round = 0; round < 50; round++) {
		struct qd_graph g;
		struct ir_run before, after;
		struct qd_pass_options options = { .verify = true };
		random_graph(&g, &seed);
		size_t nodes = g.n_order;
		assert_int_equal(ir_run(&g, round, &before), QD_OK);
		for (size_t i = 0; i < QD_COUNT(order); i++)
			assert_int_equal(qd_passes_run(&g, order[i], 1, NULL, &options), QD_OK);
		total += nodes - g.n_order;
		assert_int_equal(ir_run(&g, round, &after), QD_OK);
		for (size_t i = 0; i < g.n_outputs; i++)
			assert_memory_equal(before.value[g.outputs[i]].data, after.value[g.outputs[i]].data, 9 * sizeof(float));
		ir_run_release(&before);
		ir_run_release(&after);
		qd_graph_release(&g);
	}
	assert_true(total > 100);
}

/* ---- the runner ---- */

static enum qd_status damage(struct qd_graph *g, void *context, size_t *changes)
{
	g->values[g->nodes[0].out[0]].shape.dim[0]++;
	*changes = ++*(size_t *)context;
	return QD_OK;
}

static enum qd_status build_badly(struct qd_graph *g, void *context, size_t *changes)
{
	(void)context;
	(void)changes;
	qd_graph_input(g, "x", QD_F32, QD_SHAPE(1));
	return QD_OK;
}

static const char relu[] = "graph t\ninput %x f32[2]\n%y = Relu(%x)\noutput %y\n";

static void damage_is_found_after_the_pass_that_did_it(void **state)
{
	struct qd_graph g;
	const struct qd_pass passes[] = { qd_pass_dead_code, { "damage", "breaks a shape", damage } };
	struct qd_pass_options options = { .verify = true };
	size_t calls = 0;
	(void)state;
	ir_parse(&g, relu);
	assert_int_equal(qd_passes_run(&g, passes, 2, &calls, &options), QD_EINPUT);
	assert_string_equal(qd_message(), "pass damage: node 'y': output 'y' is [3], the operator gives [2]");
	options.verify = false;
	assert_int_equal(qd_passes_run(&g, passes, 2, &calls, &options), QD_OK);
	assert_int_equal(qd_passes_run(&g, passes, 2, &calls, NULL), QD_OK);
	assert_int_equal(calls, 3);
	qd_graph_release(&g);
}

static void a_failure_of_building_stops_the_passes(void **state)
{
	struct qd_graph g;
	const struct qd_pass pass = { "bad", "takes a taken name", build_badly };
	(void)state;
	ir_parse(&g, relu);
	assert_int_equal(qd_passes_run(&g, &pass, 1, NULL, NULL), QD_EINPUT);
	assert_string_equal(qd_message(), "pass bad: value name 'x' is taken");
	qd_graph_release(&g);
}

static void keep_text(void *context, const char *text)
{
	char **kept = context;
	assert_null(*kept);
	*kept = strdup(text);
}

static void the_asked_pass_is_dumped(void **state)
{
	struct qd_graph g;
	const struct qd_pass passes[] = { qd_pass_fold_constants, qd_pass_dead_code };
	char *text = NULL;
	struct qd_pass_options options = { .dump_after = "dead_code", .dump = keep_text, .dump_context = &text };
	(void)state;
	ir_parse(&g, "graph t\ninput %x f32[2]\n%z = Neg(%x)\n%y = Relu(%x)\noutput %y\n");
	assert_int_equal(qd_passes_run(&g, passes, 2, NULL, &options), QD_OK);
	assert_string_equal(text, relu);
	free(text);
	qd_graph_release(&g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(dead_code_goes_and_inputs_stay),
		cmocka_unit_test(a_weight_that_is_an_output_stays),
		cmocka_unit_test(shape_arithmetic_folds),
		cmocka_unit_test(results_keep_their_dtype),
		cmocka_unit_test(large_and_encoded_constants_are_left),
		cmocka_unit_test(all_outputs_of_a_split_fold),
		cmocka_unit_test(a_division_by_zero_is_refused),
		cmocka_unit_test(passes_preserve_the_function),
		cmocka_unit_test(damage_is_found_after_the_pass_that_did_it),
		cmocka_unit_test(a_failure_of_building_stops_the_passes),
		cmocka_unit_test(the_asked_pass_is_dumped),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
