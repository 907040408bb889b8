/* lib/base, fields of a JSON object: what absent, null and wrong values come to, and which failure is told. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "lib/base/base.h"

#include <math.h>

static json_t *object;

static struct qd_fields fields_of(const char *text)
{
	json_decref(object);
	object = NULL;
	if (qd_json_parse("text", text, strlen(text), &object) != QD_OK)
		fail_msg("%s", qd_message());
	return (struct qd_fields){ .what = "a.json", .json = object };
}

static int release(void **state)
{
	(void)state;
	json_decref(object);
	object = NULL;
	return 0;
}

static const char *const colours[] = { "red", "green", "blue", NULL };

static void absent_fields_have_their_defaults(void **state)
{
	struct qd_fields none = { .what = "a.json" },
			 null = fields_of("{\"i\": null, \"n\": null, \"b\": null, \"c\": null, \"l\": null}");
	double list[2] = { 7, 8 };
	int64_t ints[2];

	(void)state;
	assert_int_equal(qd_field_int(&none, "i", 1, 9, 5), 5);
	assert_int_equal(qd_field_needed_int(&none, "i", 1, 9, 5), 5);
	assert_true(qd_field_number(&none, "n", 0, 1, 0.5) == 0.5);
	assert_true(qd_field_bool(&none, "b", true));
	assert_int_equal(qd_field_choice(&none, "c", colours, 2), 2);
	assert_false(qd_field_numbers(&none, "l", 2, list));
	qd_field_ints(&none, "x", 2, 9, 4, ints);
	assert_true(ints[0] == 4 && ints[1] == 4 && list[0] == 7);
	assert_int_equal(qd_field_int(&null, "i", 1, 9, 5), 5);
	assert_true(qd_field_number(&null, "n", 0, 1, 0.5) == 0.5);
	assert_false(qd_field_bool(&null, "b", true));
	assert_int_equal(qd_field_choice(&null, "c", colours, 2), 2);
	assert_false(qd_field_numbers(&null, "l", 2, list));
	assert_int_equal(none.status, QD_OK);
	assert_int_equal(null.status, QD_OK);
}

static void given_fields_are_read(void **state)
{
	struct qd_fields f =
		fields_of("{\"unet.i\": 3, \"unet.n\": 0.25, \"unet.b\": true, \"unet.c\": \"blue\", \"unet.l\": [1, 2.5],"
			  " \"unet.x\": [6, 7], \"unet.dropped\": 8, \"_use_default_values\": [\"unet.dropped\"]}");
	double list[2];
	int64_t ints[2];

	(void)state;
	f.prefix = "unet.";
	assert_int_equal(qd_field_int(&f, "i", 1, 9, 5), 3);
	assert_true(qd_field_number(&f, "n", 0, 1, 0.5) == 0.25);
	assert_true(qd_field_bool(&f, "b", false));
	assert_int_equal(qd_field_choice(&f, "c", colours, 0), 2);
	assert_true(qd_field_numbers(&f, "l", 2, list) && list[0] == 1 && list[1] == 2.5);
	qd_field_ints(&f, "x", 2, 9, 4, ints);
	assert_true(ints[0] == 6 && ints[1] == 7);
	assert_int_equal(qd_field_int(&f, "dropped", 1, 9, 5), 5);
	assert_int_equal(f.status, QD_OK);
}

/* One case a line: what is read of {"x": VALUE}, and the message. */
static void wrong_fields_are_refused(void **state)
{
	static const struct {
		char read;
		const char *value, *message;
		enum qd_status status;
	} cases[] = {
		{ 'i', "10", "'a.json': field 'x' is 10, needs a whole number from 1 to 9", QD_EINPUT },
		{ 'i', "2.0", "'a.json': field 'x' is 2.0, needs a whole number from 1 to 9", QD_EINPUT },
		{ 'u', "-1", "'a.json': field 'x' is -1, needs a whole number from 0 up", QD_EINPUT },
		{ 'I', "null", "'a.json': field 'x' is null, needs a whole number from 1 to 9", QD_EINPUT },
		{ 'n', "2", "'a.json': field 'x' is 2, needs a number from 0 to 1", QD_EINPUT },
		{ 'N', "\"2\"", "'a.json': field 'x' is \"2\", needs a number", QD_EINPUT },
		{ 'p', "-3", "'a.json': field 'x' is -3, needs a number from 0 up", QD_EINPUT },
		{ 'b', "0", "'a.json': field 'x' is 0, needs true or false", QD_EINPUT },
		{ 'c', "\"pink\"", "'a.json': field 'x' is \"pink\", needs \"red\", \"green\", \"blue\" or null", QD_EUNSUPPORTED },
		{ 'C', "null", "'a.json': field 'x' is null, needs \"red\", \"green\" or \"blue\"", QD_EUNSUPPORTED },
		{ 'l', "[1]", "'a.json': field 'x' is [1], needs a list of 2 numbers or null", QD_EINPUT },
		{ 'l', "[1,\"2\"]", "'a.json': field 'x' is [1,\"2\"], needs a list of 2 numbers or null", QD_EINPUT },
		{ 's', "[1]", "'a.json': field 'x' is [1], needs one item for each of the 2 blocks", QD_EINPUT },
		{ 's', "[1,0]", "'a.json': field 'x' is 0, needs a whole number from 1 to 9", QD_EINPUT },
	};
	double list[2];
	int64_t ints[2];

	(void)state;
	for (size_t i = 0; i < QD_COUNT(cases); i++) {
		char text[128];
		snprintf(text, sizeof(text), "{\"x\": %s}", cases[i].value);
		struct qd_fields f = fields_of(text);
		switch (cases[i].read) {
		case 'i':
			assert_int_equal(qd_field_int(&f, "x", 1, 9, 5), 1);
			break;
		case 'u':
			assert_int_equal(qd_field_int(&f, "x", 0, INT64_MAX, 5), 0);
			break;
		case 'I':
			assert_int_equal(qd_field_needed_int(&f, "x", 1, 9, 5), 1);
			break;
		case 'n':
			assert_true(qd_field_number(&f, "x", 0, 1, 0.5) == 0.5);
			break;
		case 'N':
			assert_true(qd_field_number(&f, "x", -INFINITY, INFINITY, 0.5) == 0.5);
			break;
		case 'p':
			assert_true(qd_field_number(&f, "x", 0, INFINITY, 0.5) == 0.5);
			break;
		case 'b':
			qd_field_bool(&f, "x", true);
			break;
		case 'c':
			assert_int_equal(qd_field_choice(&f, "x", colours, 1), 1);
			break;
		case 'C':
			assert_int_equal(qd_field_needed_choice(&f, "x", colours, 1), 1);
			break;
		case 'l':
			assert_false(qd_field_numbers(&f, "x", 2, list));
			break;
		default:
			qd_field_ints(&f, "x", 2, 9, 4, ints);
		}
		assert_int_equal(f.status, cases[i].status);
		assert_string_equal(qd_message(), cases[i].message);
	}
}

static void the_first_failure_is_kept(void **state)
{
	struct qd_fields f = fields_of("{\"a\": \"x\", \"b\": 3, \"c\": 2}");

	(void)state;
	assert_true(qd_field_number(&f, "a", 0, 1, 0.5) == 0.5);
	qd_field_bool(&f, "b", false);
	assert_int_equal(qd_field_int(&f, "c", 1, 9, 5), 2);
	qd_fields_fail(&f, QD_EUNSUPPORTED, "something else");
	assert_int_equal(f.status, QD_EINPUT);
	assert_string_equal(qd_message(), "'a.json': field 'a' is \"x\", needs a number from 0 to 1");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(absent_fields_have_their_defaults, release),
		cmocka_unit_test_teardown(given_fields_are_read, release),
		cmocka_unit_test_teardown(wrong_fields_are_refused, release),
		cmocka_unit_test_teardown(the_first_failure_is_kept, release),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
