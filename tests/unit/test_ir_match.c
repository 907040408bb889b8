/*
 * lib/ir: whether two graphs compute the same. Texts that match, and texts that differ in one thing each with the message.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>

#include "tests/unit/ir_help.h"

static const char one[] = "graph a\ninput %x f32[2,3]\nweight %c f32[3] {1, 2, 3}\nweight %s i64[1] {6}\n"
			  "%a = Relu(%x)\n%b = Sigmoid(%x)\n%m = Mul(%a, %b)\n%n = Add(%m, %c)\n%d = Sub(%n, %a)\n"
			  "%e = Softmax(%d) {axis=-1}\n%y = Reshape(%e, %s)\noutput %y\n";

static enum qd_status match(const char *a, const char *b)
{
	struct qd_graph g, h;
	ir_parse(&g, a);
	ir_parse(&h, b);
	enum qd_status st = qd_graph_match(&g, &h);
	qd_graph_release(&g);
	qd_graph_release(&h);
	return st;
}

static void names_order_and_rounding_do_not_count(void **state)
{
	(void)state;
	assert_int_equal(match(one, one), QD_OK);
	assert_int_equal(match(one, "graph b\ninput %x f32[2,3]\nweight %k f32[3] {1.000001, 2, 3}\nweight %t i64[1] {6}\n"
				    "%q = Sigmoid(%x)\n%p = Relu(%x)\n%o = Mul(%q, %p)\n%r = Add(%k, %o)\n%v = Sub(%r, %p)\n"
				    "%w = soft: Softmax(%v) {axis=-1}\n%z = Reshape(%w, %t)\noutput %z\n"),
		QD_OK);
}

static void any_other_difference_is_told(void **state)
{
	static const char start[] = "graph b\ninput %x f32[2,3]\nweight %c f32[3] {1, 2, 3}\nweight %s i64[1] {6}\n";
	static const struct {
		const char *rest, *message;
	} cases[] = {
		{ "%a = Tanh(%x)\n%b = Sigmoid(%x)\n%m = Mul(%a, %b)\n%n = Add(%m, %c)\n%d = Sub(%n, %a)\n"
		  "%e = Softmax(%d) {axis=-1}\n%y = Reshape(%e, %s)\noutput %y\n",
			"'a' and 'a' differ in operator" },
		{ "%a = Relu(%x)\n%b = Sigmoid(%x)\n%m = Mul(%a, %b)\n%n = Add(%m, %c)\n%d = Sub(%a, %n)\n"
		  "%e = Softmax(%d) {axis=-1}\n%y = Reshape(%e, %s)\noutput %y\n",
			"'a' and 'n' differ in operator" },
		{ "%a = Relu(%x)\n%b = Sigmoid(%x)\n%m = Mul(%a, %b)\n%n = Add(%m, %c)\n%d = Sub(%n, %b)\n"
		  "%e = Softmax(%d) {axis=-1}\n%y = Reshape(%e, %s)\noutput %y\n",
			"'a' and 'b' differ in operator" },
		{ "%a = Relu(%x)\n%b = Sigmoid(%x)\n%m = Mul(%a, %b)\n%n = Add(%m, %c)\n%d = Sub(%n, %a)\n"
		  "%e = Softmax(%d) {axis=0}\n%y = Reshape(%e, %s)\noutput %y\n",
			"'e' and 'e' differ in attributes" },
		{ "weight %k f32[3] {1.00001, 2, 3}\n%a = Relu(%x)\n%b = Sigmoid(%x)\n%m = Mul(%a, %b)\n%n = Add(%m, %k)\n"
		  "%d = Sub(%n, %a)\n%e = Softmax(%d) {axis=-1}\n%y = Reshape(%e, %s)\noutput %y\n",
			"'c' and 'k' differ in value" },
		{ "%a = Relu(%x)\noutput %a\noutput %x\n", "1 and 2 outputs" },
		{ "%a = Relu(%x)\noutput %a\n", "'y' and 'a' differ in kind, type or shape" },
	};
	(void)state;
	for (size_t i = 0; i < QD_COUNT(cases); i++) {
		char text[1024];
		snprintf(text, sizeof(text), "%s%s", start, cases[i].rest);
		assert_int_equal(match(one, text), QD_EINPUT);
		assert_string_equal(qd_message(), cases[i].message);
	}
}

/* One value cannot stand for two. */
static void what_is_computed_once_must_be_so_in_both(void **state)
{
	(void)state;
	assert_int_equal(match("graph a\ninput %x f32[2]\n%a = Relu(%x)\n%y = Sub(%a, %a)\noutput %y\n",
				 "graph b\ninput %x f32[2]\n%a = Relu(%x)\n%b = Relu(%x)\n%y = Sub(%a, %b)\noutput %y\n"),
		QD_EINPUT);
	assert_string_equal(qd_message(), "'a' and 'a' differ in use");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(names_order_and_rounding_do_not_count),
		cmocka_unit_test(any_other_difference_is_told),
		cmocka_unit_test(what_is_computed_once_must_be_so_in_both),
	};
	return cmocka_run_group_tests_name("ir_match", tests, NULL, NULL);
}
