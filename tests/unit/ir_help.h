/*
 * For tests of graphs: an interpreter over the reference evaluator, and tensors as text. Included after <cmocka.h>.
 */
#ifndef QUAD_TESTS_UNIT_IR_HELP_H
#define QUAD_TESTS_UNIT_IR_HELP_H

#include "lib/ir/ir.h"

/* The value of every live value of a graph, by id: floats as F32, integers and booleans as I64. */
struct ir_run {
	struct qd_tensor *value;
	size_t n;
};

/*
 * Runs a graph: inputs are drawn from `seed`, by their place in the list of inputs (floats within [-2,2), integers 0 or 1). Release
 * after failures too. Weights have at most QD_CONSTANT_ELEMENTS elements.
 */
QD_CHECK enum qd_status ir_run(const struct qd_graph *g, uint64_t seed, struct ir_run *run);
void ir_run_release(struct ir_run *run);

/* "F32 [2,1] {1, -0.5}" on the heap, 6 significant digits. */
char *ir_text(const struct qd_tensor *t);

/* The graph of a text that must parse; fails the test with the message otherwise. */
void ir_parse(struct qd_graph *g, const char *text);

/* A uniform number within [0, 1) (xorshift64*). */
double ir_uniform(uint64_t *state);

#endif
