/*
 * Golden text of passes: for each tests/ir/NAME.ir, whose first line is "# passes: NAME ...", the graph after these passes equals
 * tests/ir/NAME.want. REWRITE=1 in the environment writes the .want files anew. Both graphs are also run on the same inputs.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <glob.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "export/pass/pass.h"
#include "tests/unit/ir_help.h"

static const struct qd_pass *const known[] = { &qd_pass_dead_code, &qd_pass_fold_constants, &qd_pass_no_ops, &qd_pass_forms,
	&qd_pass_views, &qd_pass_group_norm, &qd_pass_layer_norm, &qd_pass_gelu, &qd_pass_tokens, &qd_pass_bias,
	&qd_pass_output_major, &qd_pass_attention, &qd_pass_merge };

static const struct qd_pass *find_pass(const char *name)
{
	for (size_t i = 0; i < QD_COUNT(known); i++)
		if (strcmp(known[i]->name, name) == 0)
			return known[i];
	fail_msg("there is no pass '%s'", name);
	return NULL;
}

/* A whole file as a heap string. */
static char *read_text(const char *path)
{
	struct qd_mapping file = { 0 };
	if (qd_mapping_open(&file, path) != QD_OK)
		fail_msg("%s", qd_message());
	char *text = strndup(file.size > 0 ? (const char *)file.data : "", file.size);
	qd_mapping_release(&file);
	return text;
}

/* Runs the passes that the first line names. */
static void run_named(struct qd_graph *g, const char *path, const char *text)
{
	static const char mark[] = "# passes:";
	struct qd_pass_options options = { .verify = true };
	char *line, *rest = NULL;

	if (!qd_starts_with(text, mark))
		fail_msg("%s: the first line names no passes", path);
	line = strndup(text + sizeof(mark) - 1, strcspn(text + sizeof(mark) - 1, "\n"));
	for (char *name = strtok_r(line, " ", &rest); name != NULL; name = strtok_r(NULL, " ", &rest))
		if (qd_passes_run(g, find_pass(name), 1, NULL, &options) != QD_OK)
			fail_msg("%s: %s", path, qd_message());
	free(line);
}

/*
 * Outputs before and after: passes regroup a few float32 operations on numbers near 1, each rounded to 6e-8 of its value;
 * normalizing a nearly constant row and products of four terms make some ten of them out of one.
 */
static void expect_same_results(const char *path, const struct qd_graph *g, const struct ir_run *before, const qd_id *outputs)
{
	struct ir_run after;
	if (ir_run(g, 1, &after) != QD_OK)
		fail_msg("%s: %s", path, qd_message());
	for (size_t i = 0; i < g->n_outputs; i++) {
		const struct qd_tensor *x = &before->value[outputs[i]], *y = &after.value[g->outputs[i]];
		assert_true(qd_shape_equal(&x->shape, &y->shape));
		assert_int_equal(x->dtype, y->dtype);
		for (int64_t k = 0; k < qd_shape_elements(&x->shape) && x->dtype == QD_F32; k++) {
			double a = (double)((const float *)x->data)[k], b = (double)((const float *)y->data)[k];
			if (!(fabs(a - b) <= 1e-5 * fmax(1, fabs(a))))
				fail_msg("%s: output %zu, element %lld: %g before, %g after", path, i, (long long)k, a, b);
		}
	}
	ir_run_release(&after);
}

/* The graph must not depend on whether it was printed and parsed in between. */
static int compare(const char *path)
{
	struct qd_graph g;
	struct ir_run before;
	qd_id *outputs;
	char want_path[1024], *text = read_text(path), *found = NULL, *want = NULL;
	int failures = 0;

	snprintf(want_path, sizeof(want_path), "%.*s.want", (int)(strlen(path) - 3), path);
	if (qd_graph_parse(&g, path, text) != QD_OK)
		fail_msg("%s", qd_message());
	if (ir_run(&g, 1, &before) != QD_OK)
		fail_msg("%s: %s", path, qd_message());
	outputs = malloc((g.n_outputs + 1) * sizeof(*outputs));
	assert_non_null(outputs);
	memcpy(outputs, g.outputs, g.n_outputs * sizeof(*outputs));
	run_named(&g, path, text);
	expect_same_results(path, &g, &before, outputs);
	ir_run_release(&before);
	free(outputs);
	assert_int_equal(qd_graph_print(&g, &found), QD_OK);
	if (getenv("REWRITE") != NULL)
		assert_int_equal(qd_write_file(want_path, found, strlen(found), true), QD_OK);
	want = read_text(want_path);
	if (strcmp(found, want) != 0) {
		print_error("%s gives\n%swants\n%s", path, found, want);
		failures = 1;
	}
	free(text);
	free(found);
	free(want);
	qd_graph_release(&g);
	return failures;
}

static void passes_give_the_golden_text(void **state)
{
	const char *root = getenv("QUAD_ROOT");
	char pattern[1024];
	glob_t files;
	int failures = 0;
	(void)state;
	snprintf(pattern, sizeof(pattern), "%s/tests/ir/*.ir", root != NULL ? root : ".");
	assert_int_equal(glob(pattern, 0, NULL, &files), 0);
	assert_true(files.gl_pathc >= 3);
	for (size_t i = 0; i < files.gl_pathc; i++)
		failures += compare(files.gl_pathv[i]);
	globfree(&files);
	assert_int_equal(failures, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(passes_give_the_golden_text) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
