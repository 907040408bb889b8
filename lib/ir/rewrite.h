/*
 * What passes that recognize patterns share, private to lib/ir: looking from a value to what computes it, and changing a node in
 * place. A pattern is matched from its last node backward; that node is changed, and what no longer has a use is left to dead_code.
 */
#ifndef QUAD_LIB_IR_REWRITE_H
#define QUAD_LIB_IR_REWRITE_H

#include "lib/ir/ir.h"

/* True when every element of a constant is the same number (at least one, at most QD_CONSTANT_ELEMENTS); `out` receives it. */
bool qd_is_uniform(const struct qd_graph *g, qd_id value, double *out);
/* True for a uniform constant within 1e-6 of `number`, relatively: what a float32 of it may be. */
bool qd_is_number(const struct qd_graph *g, qd_id value, double number);
/* For a node of two inputs: the input that is no uniform constant, with the constant's number; QD_NONE when there is no such pair.
 */
qd_id qd_times_number(const struct qd_graph *g, const struct qd_node *node, double *number);
/* Whether a look at constants (qd_graph_ints, qd_slice_axes, ...) came to something. Where it failed for want of memory that is no
 * answer: the graph is stopped. */
bool qd_is_answer(struct qd_graph *g, enum qd_status st);
bool qd_same_shape(const struct qd_graph *g, qd_id a, qd_id b);

/*
 * Gives a node of one output another operator, inputs and attributes; it keeps its id, its name, its place and its output. The
 * output's shape and type must come out as they were: QD_EINPUT stops the graph otherwise. Nodes added for it go to the end of the
 * order: sort when done.
 */
void qd_graph_change(
	struct qd_graph *g, qd_id node, enum qd_op op, size_t n_in, const qd_id *in, size_t n_attrs, const struct qd_attr *attrs);
/* A new node called after `node` with a suffix, unique; returns its value. */
qd_id qd_graph_beside(struct qd_graph *g, qd_id node, const char *suffix, enum qd_op op, size_t n_in, const qd_id *in,
	size_t n_attrs, const struct qd_attr *attrs);
/* Changes `node` to a Reshape of `x` to the shape that its output has. */
void qd_graph_change_to_reshape(struct qd_graph *g, qd_id node, qd_id x);
/* A weight with the bytes of the constant `value` under another shape of as many elements. */
qd_id qd_graph_weight_as(struct qd_graph *g, qd_id value, const struct qd_shape *shape);

/* Visits the nodes of a graph in order; `change` adds to *changes. Sorts the graph afterwards. */
typedef enum qd_status (*qd_node_visit)(struct qd_graph *g, qd_id node, void *context, size_t *changes);
QD_CHECK enum qd_status qd_graph_visit(struct qd_graph *g, qd_node_visit visit, void *context, size_t *changes);

#endif
