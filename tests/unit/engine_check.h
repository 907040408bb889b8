/*
 * Holds the engine against lib/ir's evaluator, which computes one node after the other, sums in double.
 */
#ifndef QUAD_TESTS_UNIT_ENGINE_CHECK_H
#define QUAD_TESTS_UNIT_ENGINE_CHECK_H

#include "lib/engine/internal.h"
#include "lib/math/math.h"

/* The value of every value of a graph, by id: floats as F32, integers as I64, row-major. */
struct engine_values {
	struct qd_tensor *at;
	size_t n;
};
void engine_values_release(struct engine_values *values);

/* Random numbers for a graph's inputs (integers 0 to 2), not rounded. */
void engine_inputs(struct engine_values *values, const struct qd_graph *g, struct qd_random *random);
/* What every value of the graph is for these inputs; `simulate`: on its grid, where it has one. */
void engine_reference(struct engine_values *values, const struct qd_graph *g, const struct engine_values *inputs, bool simulate);

/* An engine that these inputs have been fed to. */
struct qd_engine *engine_fed(const struct qd_graph *g, const struct qd_engine_options *options, const struct engine_values *inputs);

/*
 * Fails the test unless
 *
 *   every float value is what the evaluator computes from the engine's own values of the node's operands: values that everybody
 *   can see, as outputs of the graph;
 *   the graph's outputs have the same bytes when nobody sees the other values, on one thread and on two, in a second run;
 *   each value that is computed is shown once to who sees all of them, and nothing changes with that;
 *   the plan is sound (engine_check_plan).
 */
void engine_check(struct qd_graph *g, bool simulate, struct qd_random *random);

/*
 * Whether each buffer is there whenever a step reads or writes it, and no two that are needed at one time overlap. Returns the
 * largest sum of bytes that are needed at one time.
 */
size_t engine_check_plan(const struct qd_engine *engine);

#endif
