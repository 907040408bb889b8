/*
 * lib/ir: the text form. What is printed parses back to the same text; what is malformed is refused with its line.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>

#include "tests/unit/ir_help.h"

static void prints_as(const char *text, const char *wants)
{
	struct qd_graph g;
	char *found = NULL;

	ir_parse(&g, text);
	assert_int_equal(qd_graph_verify(&g), QD_OK);
	assert_int_equal(qd_graph_print(&g, &found), QD_OK);
	assert_string_equal(found, wants);
	free(found);
	qd_graph_release(&g);
}

static void canonical_text_stays_as_it_is(void **state)
{
	static const char text[] = "graph toy\n"
				   "input %x f32[1,4,8,8]\n"
				   "input %down_blocks.0/attn:1.lora-up f32[]\n"
				   "weight %conv_in.weight f32[32,4,3,3] as f16 ...\n"
				   "weight %scale f32[3] {0.100000001, -inf, nan}\n"
				   "weight %half f32[1] as bf16 {0.5}\n"
				   "weight %shape i64[2] {1, -1}\n"
				   "weight %nothing i64[0] {}\n"
				   "weight %flag bool[] {1}\n"
				   "weight %codes f4[8] ...\n"
				   "weight %sizes i64[4] {1, 16, 4, 4}\n"
				   "%y = Conv(%x, %conv_in.weight, _) {pads=[1,1,1,1], strides=[1,1]}\n"
				   "%a, %b = halves: Split(%y) {axis=1}\n"
				   "%z = \"a node: with spaces\": Clip(%a, _, %down_blocks.0/attn:1.lora-up)\n"
				   "%\"value \\\"q\\\" \\\\ \\n \\x01 é\" = Resize(%b, _, _, %sizes) "
				   "{coordinate_transformation_mode=\"asymmetric\", mode=\"nearest\", nearest_mode=\"floor\"}\n"
				   "output %z\n"
				   "output %\"value \\\"q\\\" \\\\ \\n \\x01 é\"\n";
	(void)state;
	prints_as(text, text);
}

static void blanks_and_comments_do_not_count(void **state)
{
	(void)state;
	prints_as("# a file\n\n  graph  t # named\n\tinput   %x  f32 [ 2 , 3 ]\r\n\n%y=r: Relu( %x )# done\noutput %y",
		"graph t\ninput %x f32[2,3]\n%y = r: Relu(%x)\noutput %y\n");
}

static void floats_come_back_bit_by_bit(void **state)
{
	uint64_t seed = 5;
	(void)state;
	for (int i = 0; i < 200; i++) {
		struct qd_graph g, back;
		char *text = NULL;
		float value[2] = { (float)(ir_uniform(&seed) - 0.5), (float)((ir_uniform(&seed) - 0.5) * 1e-40) };
		qd_graph_init(&g, "t");
		qd_graph_const_f32(&g, "c", QD_SHAPE(2), value);
		assert_int_equal(qd_graph_print(&g, &text), QD_OK);
		ir_parse(&back, text);
		assert_memory_equal(back.values[0].data.data, value, sizeof(value));
		free(text);
		qd_graph_release(&g);
		qd_graph_release(&back);
	}
}

static void refuses(const char *text, const char *message)
{
	struct qd_graph g;
	assert_int_not_equal(qd_graph_parse(&g, "f", text), QD_OK);
	assert_string_equal(qd_message(), message);
	qd_graph_release(&g);
}

#define REFUSES(name, text, message)                                                                                               \
	static void name(void **state)                                                                                             \
	{                                                                                                                          \
		(void)state;                                                                                                       \
		refuses(text, message);                                                                                            \
	}
#define REFUSALS(X)                                                                                                                \
	X(no_header, "input %x f32[1]\n", "f:1: found 'input', needs 'graph '")                                                    \
	X(an_empty_text, "", "f:1: the line ends, needs 'graph '")                                                                 \
	X(an_unknown_type, "graph t\ninput %x f31[1]\n", "f:2: found 'f31[1]', needs a type such as f32")                          \
	X(an_open_shape, "graph t\ninput %x f32[1\n", "f:2: the line ends, needs ']'")                                             \
	X(a_negative_dimension, "graph t\ninput %x f32[-1]\n", "f:2: dimension 0 is -1, must not be negative")                     \
	X(a_huge_shape, "graph t\ninput %x f32[4294967296,4294967296]\n",                                                          \
		"f:2: dimension 1 of 4294967296 makes the shape too large")                                                        \
	X(too_many_dimensions, "graph t\ninput %x f32[1,1,1,1,1,1,1,1,1]\n", "f:2: rank is 9, must be at most 8")                  \
	X(huge_weights, "graph t\nweight %x f32[67108864] ...\nweight %y f32[1] ...\n",                                            \
		"f:3: the weights of a text have more than 67108864 elements")                                                     \
	X(too_few_elements, "graph t\nweight %x i64[2] {1}\n", "f:2: found '}', needs ','")                                        \
	X(too_many_elements, "graph t\nweight %x i64[1] {1, 2}\n", "f:2: found ',', needs '}'")                                    \
	X(no_number, "graph t\nweight %x f32[1] {a}\n", "f:2: found 'a}', needs a number")                                         \
	X(no_integer, "graph t\nweight %x i64[1] {1.5}\n", "f:2: found '.5}', needs '}'")                                          \
	X(an_integer_out_of_range, "graph t\nweight %x i64[1] {9223372036854775808}\n",                                            \
		"f:2: found '9223372036854775808}', needs an integer")                                                             \
	X(integers_stored_as_floats, "graph t\nweight %x i64[1] as f32 {1}\n",                                                     \
		"f:2: a weight of type I64 cannot be stored as F32")                                                               \
	X(an_unknown_operator, "graph t\n%y = Frobnicate()\n", "f:2: operator 'Frobnicate' is unknown")                            \
	X(an_unknown_attribute, "graph t\ninput %x f32[1]\n%y = Relu(%x) {pads=[1]}\n", "f:3: Relu has no attribute 'pads'")       \
	X(a_use_before_definition, "graph t\n%y = Relu(%x)\n", "f:2: value 'x' is not defined before its use")                     \
	X(a_name_taken, "graph t\ninput %x f32[1]\ninput %x f32[1]\n", "f:3: value name 'x' is taken")                             \
	X(a_node_name_taken, "graph t\ninput %x f32[1]\n%y = n: Relu(%x)\n%z = n: Relu(%x)\n", "f:4: node name 'n' is taken")      \
	X(an_open_quote, "graph t\ninput %\"x f32[1]\n", "f:2: a quoted name does not end")                                        \
	X(an_unknown_escape, "graph t\ninput %\"\\q\" f32[1]\n", "f:2: unknown escape in a quoted name")                           \
	X(a_zero_byte, "graph t\ninput %\"\\x00\" f32[1]\n", "f:2: a name holds \\x00")                                            \
	X(an_empty_name, "graph t\ninput %\"\" f32[1]\n", "f:2: a value has no name")                                              \
	X(a_line_with_more, "graph t\ninput %x f32[1] and\n", "f:2: found 'and', needs the end of the line")                       \
	X(a_strange_line, "graph t\nfoo\n", "f:2: found 'foo', needs the end of the line")
REFUSALS(REFUSES)

int main(void)
{
#define TEST(name, text, message) cmocka_unit_test(name),
	const struct CMUnitTest tests[] = { cmocka_unit_test(canonical_text_stays_as_it_is),
		cmocka_unit_test(blanks_and_comments_do_not_count), cmocka_unit_test(floats_come_back_bit_by_bit), REFUSALS(TEST) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
