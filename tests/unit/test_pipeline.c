/* What a model takes of the index of its pipeline. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "lib/model/model.h"
#include "tests/unit/scratch.h"

static void says_nothing_without_an_index(void **state)
{
	struct qd_pipeline p;

	(void)state;
	assert_int_equal(qd_pipeline_read(&p, scratch_path("nothing")), QD_OK);
	assert_string_equal(p.class_name, "");
	assert_true(p.zeros_for_empty_prompt);
}

static void reads_an_index(void **state)
{
	static const struct {
		const char *text, *class_name;
		bool zeros;
	} cases[] = {
		{ "{\"_class_name\": \"StableDiffusionXLPipeline\", \"unet\": [\"diffusers\", \"UNet2DConditionModel\"]}",
			"StableDiffusionXLPipeline", true },
		{ "{\"_class_name\": \"StableDiffusionXLPipeline\", \"force_zeros_for_empty_prompt\": false}",
			"StableDiffusionXLPipeline", false },
		{ "\xef\xbb\xbf{\"_class_name\": \"StableDiffusionPipeline\"}", "StableDiffusionPipeline", true },
		{ "{}", "", true },
	};
	struct qd_pipeline p;

	(void)state;
	for (size_t i = 0; i < QD_COUNT(cases); i++) {
		scratch_file("model_index.json", cases[i].text, strlen(cases[i].text));
		assert_int_equal(qd_pipeline_read(&p, scratch_dir()), QD_OK);
		assert_string_equal(p.class_name, cases[i].class_name);
		assert_int_equal(p.zeros_for_empty_prompt, cases[i].zeros);
	}
}

/* An index that cannot be read is a failure, not one that says nothing. */
static void refuses_a_broken_index(void **state)
{
	static const struct {
		const char *text, *message;
	} cases[] = {
		{ "{", "/model_index.json'" },
		{ "[]", "/model_index.json' is no JSON object, needs one of a pipeline's components" },
		{ "{\"_class_name\": 3}", "/model_index.json': field '_class_name' is 3, needs a text" },
		{ "{\"force_zeros_for_empty_prompt\": \"no\"}",
			"/model_index.json': field 'force_zeros_for_empty_prompt' is \"no\", needs true or false" },
	};
	struct qd_pipeline p;

	(void)state;
	for (size_t i = 0; i < QD_COUNT(cases); i++) {
		scratch_file("model_index.json", cases[i].text, strlen(cases[i].text));
		assert_int_equal(qd_pipeline_read(&p, scratch_dir()), QD_EINPUT);
		if (strstr(qd_message(), cases[i].message) == NULL)
			fail_msg("'%s' does not say '%s'", qd_message(), cases[i].message);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(says_nothing_without_an_index),
		cmocka_unit_test(reads_an_index),
		cmocka_unit_test(refuses_a_broken_index),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
