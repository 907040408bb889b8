/*
 * lib/base, JSON: what is read, what is refused and how, what is written.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/base.h"
#include "tests/unit/scratch.h"

static void reads_an_object(void **state)
{
	(void)state;
	static const char text[] = "{\"b\": [1, 2.5, null], \"a\": \"x\\u00e9\"}";
	json_t *value;
	assert_int_equal(qd_json_read(scratch_file("a.json", text, sizeof(text) - 1), &value), QD_OK);
	assert_string_equal(json_string_value(json_object_get(value, "a")), "x\xc3\xa9");
	assert_int_equal(json_array_size(json_object_get(value, "b")), 3);
	json_decref(value);
}

/* What Python's json writes for infinities, and what some editors put before a text. */
static void reads_what_people_have(void **state)
{
	(void)state;
	static const char text[] =
		"\xef\xbb\xbf{\"a\": -Infinity, \"b\": [NaN, Infinity, 1], \"c\": \"NaN \\\" -Infinity\", \"d\\\\\": NaN}";
	json_t *value;
	if (qd_json_parse("w", text, sizeof(text) - 1, &value) != QD_OK)
		fail_msg("%s", qd_message());
	assert_string_equal(json_string_value(json_object_get(value, "a")), "-Infinity");
	assert_string_equal(json_string_value(json_array_get(json_object_get(value, "b"), 0)), "NaN");
	assert_string_equal(json_string_value(json_array_get(json_object_get(value, "b"), 1)), "Infinity");
	assert_int_equal(json_integer_value(json_array_get(json_object_get(value, "b"), 2)), 1);
	assert_string_equal(json_string_value(json_object_get(value, "c")), "NaN \" -Infinity");
	assert_string_equal(json_string_value(json_object_get(value, "d\\")), "NaN");
	json_decref(value);
}

/* Each malformed text and the message it must give. */
static void refuses_malformed_text(void **state)
{
	(void)state;
	static const struct {
		const char *text, *message;
	} cases[] = {
		{ "", "'w': line 1, column 0: '[' or '{' expected near end of file" },
		{ "5", "'w': line 1, column 1: '[' or '{' expected near '5'" },
		{ "{\"a\": 1,}", "'w': line 1, column 9: string or '}' expected near '}'" },
		{ "{\n \"a\": 1\n \"b\": 2}", "'w': line 3, column 4: '}' expected near '\"b\"'" },
		{ "{\"a\": 1, \"\\u0061\": 2}", "'w': line 1, column 17: duplicate object key near '\"\\u0061\"'" },
		{ "[1] 2", "'w': line 1, column 5: end of file expected near '2'" },
		{ "[nan]", "'w': line 1, column 4: invalid token near 'nan'" },
		{ "\xef\xbb\xbf", "'w': line 1, column 0: '[' or '{' expected near end of file" },
		{ "[\"\\u0000\"]", "'w': line 1, column 9: \\u0000 is not allowed without JSON_ALLOW_NUL near '\"\\u0000\"'" },
		{ "[9223372036854775808]", "'w': line 1, column 20: too big integer near '9223372036854775808'" },
		{ "version https://git-lfs.github.com/spec/v1\n",
			"'w' is a Git-LFS pointer, not the file itself; fetch it with 'git lfs pull'" },
	};
	for (size_t i = 0; i < QD_COUNT(cases); i++) {
		json_t *value;
		assert_int_equal(qd_json_parse("w", cases[i].text, strlen(cases[i].text), &value), QD_EINPUT);
		assert_null(value);
		assert_string_equal(qd_message(), cases[i].message);
	}
}

static enum qd_status parse_nested(size_t depth)
{
	char text[1000];
	memset(text, '[', depth);
	memset(text + depth, ']', depth);
	json_t *value;
	enum qd_status st = qd_json_parse("w", text, 2 * depth, &value);
	json_decref(value);
	return st;
}

static void bounds_the_depth(void **state)
{
	(void)state;
	assert_int_equal(parse_nested(128), QD_OK);
	assert_int_equal(parse_nested(129), QD_EINPUT);
	assert_string_equal(qd_message(), "'w': nested more than 128 levels deep at byte 128");
}

static void brackets_in_strings_do_not_nest(void **state)
{
	(void)state;
	char text[1002];
	memset(text, '[', sizeof(text));
	memcpy(text, "[\"\\\"", 4);
	memcpy(text + sizeof(text) - 2, "\"]", 2);
	json_t *value;
	assert_int_equal(qd_json_parse("w", text, sizeof(text), &value), QD_OK);
	json_decref(value);
}

static void names_the_missing_file(void **state)
{
	(void)state;
	json_t *value;
	assert_int_equal(qd_json_read(scratch_path("absent.json"), &value), QD_EIO);
	assert_null(value);
}

static void assert_file(const char *path, const char *want)
{
	struct qd_mapping mapping;

	assert_int_equal(qd_mapping_open(&mapping, path), QD_OK);
	assert_int_equal(mapping.size, strlen(want));
	assert_memory_equal(mapping.data, want, mapping.size);
	qd_mapping_release(&mapping);
}

static void writes_in_insertion_order(void **state)
{
	(void)state;
	json_t *value = json_pack("{s:i,s:[f],s:{}}", "z", 1, "a", 0.1, "m");
	const char *path = scratch_path("out.json");
	assert_int_equal(qd_json_write(path, value, false), QD_OK);
	assert_file(path, "{\n  \"z\": 1,\n  \"a\": [\n    0.10000000000000001\n  ],\n  \"m\": {}\n}\n");
	assert_int_equal(qd_json_write(path, value, false), QD_EEXIST);
	assert_int_equal(qd_json_write(path, value, true), QD_OK);
	json_decref(value);
}

static void numbers_have_their_shortest_text(void **state)
{
	static const struct {
		double x;
		const char *as_float, *as_double;
	} cases[] = { { 0, "0", "0" }, { 1, "1", "1" }, { -0.1, "-0.1", "-0.1" }, { 0.1 + 0.2, "0.3", "0.30000000000000004" },
		{ 16777217, "16777216", "16777217" }, { 0x1p-23, "1.1920929e-07", "1.1920928955078125e-07" },
		{ 1e-9, "1e-09", "1e-09" }, { 3.4028234663852886e38, "3.4028235e+38", "3.4028234663852886e+38" },
		{ 1.0 / 3, "0.33333334", "0.3333333333333333" } };
	char text[QD_NUMBER_TEXT];
	uint32_t bits = 12345;

	(void)state;
	for (size_t i = 0; i < QD_COUNT(cases); i++) {
		assert_string_equal(qd_float_text((float)cases[i].x, text), cases[i].as_float);
		assert_string_equal(qd_double_text(cases[i].x, text), cases[i].as_double);
	}
	/* Any float32, read as one or through double. */
	for (int i = 0; i < 100000; i++) {
		float x;

		bits = bits * 1664525u + 1013904223u;
		memcpy(&x, &bits, sizeof(x));
		if (!isfinite(x))
			continue;
		qd_float_text(x, text);
		assert_true(strtof(text, NULL) == x && (float)strtod(text, NULL) == x);
	}
}

static void floats_are_written_with_their_digits(void **state)
{
	const char *path = scratch_path("floats.json");
	json_t *value = json_pack("[o,o,o]", qd_json_float(0.1f), qd_json_float(1), qd_json_float(1.0f / 3));

	(void)state;
	assert_int_equal(qd_json_write_floats(path, value, true), QD_OK);
	assert_file(path, "[\n  0.1,\n  1.0,\n  0.33333334\n]\n");
	json_decref(value);
}

static void what_cannot_be_made_leaves_no_part(void **state)
{
	json_t *list = json_array();

	(void)state;
	qd_json_append(&list, json_integer(1));
	assert_int_equal(json_array_size(list), 1);
	qd_json_append(&list, json_string("\xff"));
	assert_null(list);
	qd_json_append(&list, json_integer(1));
	assert_null(list);
	assert_null(json_pack("{s:o,s:o}", "a", json_integer(1), "b", list));
}

/* What was written is read back to the same text; of what is not there the reader says what. */
static void provenance_is_read_as_it_was_written(void **state)
{
	static const struct {
		const char *text, *message;
	} bad[] = {
		{ "{\"program\":\"q\"}", "the provenance: has no text 'command'" },
		{ "{\"program\":\"q\",\"command\":\"c\",\"options\":{}}",
			"the provenance: has no object 'options', or no list 'inputs'" },
		{ "{\"program\":\"q\",\"command\":\"c\",\"options\":{\"n\":1},\"inputs\":[]}",
			"the provenance: option 'n' is no text" },
		{ "{\"program\":\"q\",\"command\":\"c\",\"options\":{},\"inputs\":[{\"role\":\"r\"}]}",
			"the provenance: inputs[0]: has no text 'hash'" },
	};
	struct qd_provenance made = { .program = "quad 1", .command = "calib" }, again = { 0 };
	char *text, *copy;
	json_t *json;

	(void)state;
	assert_int_equal(qd_provenance_option(&made, "seed", "3"), QD_OK);
	assert_int_equal(qd_provenance_input(&made, "base", NULL, "h1"), QD_OK);
	assert_int_equal(qd_provenance_input(&made, "adapter", "a b", "h2"), QD_OK);
	assert_int_equal(qd_provenance_text(&made, &text), QD_OK);
	assert_string_equal(text, "{\"program\":\"quad 1\",\"command\":\"calib\",\"options\":{\"seed\":\"3\"},\"inputs\":["
				  "{\"role\":\"base\",\"hash\":\"h1\"},{\"role\":\"adapter\",\"name\":\"a b\",\"hash\":\"h2\"}]}");
	assert_int_equal(qd_json_parse("text", text, strlen(text), &json), QD_OK);
	assert_int_equal(qd_provenance_read(&again, json), QD_OK);
	assert_int_equal(qd_provenance_text(&again, &copy), QD_OK);
	assert_string_equal(copy, text);
	json_decref(json);
	free(copy);
	free(text);
	assert_int_equal(qd_provenance_option(&made, "name", "\xff"), QD_OK);
	assert_int_equal(qd_provenance_text(&made, &text), QD_EINPUT);
	qd_provenance_release(&again);
	qd_provenance_release(&made);
	for (size_t i = 0; i < QD_COUNT(bad); i++) {
		assert_int_equal(qd_json_parse("text", bad[i].text, strlen(bad[i].text), &json), QD_OK);
		assert_int_equal(qd_provenance_read(&again, json), QD_EINPUT);
		assert_string_equal(qd_message(), bad[i].message);
		qd_provenance_release(&again);
		json_decref(json);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reads_an_object),
		cmocka_unit_test(reads_what_people_have),
		cmocka_unit_test(refuses_malformed_text),
		cmocka_unit_test(bounds_the_depth),
		cmocka_unit_test(brackets_in_strings_do_not_nest),
		cmocka_unit_test(names_the_missing_file),
		cmocka_unit_test(writes_in_insertion_order),
		cmocka_unit_test(numbers_have_their_shortest_text),
		cmocka_unit_test(floats_are_written_with_their_digits),
		cmocka_unit_test(what_cannot_be_made_leaves_no_part),
		cmocka_unit_test(provenance_is_read_as_it_was_written),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
