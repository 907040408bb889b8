/*
 * What the files of this folder share and nobody else sees: the shape rules that ops.def names, and small helpers around shapes and
 * constants. Messages of rules do not say which node: qd_node_infer puts that in front.
 */
#ifndef QUAD_LIB_IR_INTERNAL_H
#define QUAD_LIB_IR_INTERNAL_H

#include "lib/ir/ir.h"

#define OP(id, name, opset, min, max, outputs, flags, rule, attributes)                                                            \
	QD_CHECK enum qd_status qd_rule_##rule(                                                                                    \
		const struct qd_graph *g, struct qd_node *node, struct qd_shape *out, enum qd_dtype *dtype);
#include "lib/ir/ops.def"
#undef OP

/* ---- nodes (graph.c, ops.c) ---- */
/* Arity, known and well-typed attributes, live inputs; then the operator's rule: n_out shapes and dtypes. Messages name the node.
 */
QD_CHECK enum qd_status qd_node_infer(const struct qd_graph *g, struct qd_node *node, struct qd_shape *out, enum qd_dtype *dtype);
/* Appends a weight whose bytes already lie in the arena, with the dtype it has; QD_NONE after a failure. */
qd_id qd_graph_add_constant(struct qd_graph *g, const char *name, const struct qd_tensor *data);

/* ---- shapes (shapes.c) ---- */
/* The integer types; neither BOOL nor floats. */
bool qd_dtype_is_integer(enum qd_dtype dtype);
/* QD_EINPUT when a dimension is negative or the number of elements (zeros counted as ones) leaves 2^58. */
QD_CHECK enum qd_status qd_shape_check(const struct qd_shape *shape);
/* Input i of a node, NULL when absent. */
const struct qd_value *qd_node_in(const struct qd_graph *g, const struct qd_node *node, size_t i);
/* What rules ask of inputs; `what` names the role in the message ("conv weight"). */
QD_CHECK enum qd_status qd_need_f32(const struct qd_value *v, const char *what);
QD_CHECK enum qd_status qd_need_number(const struct qd_value *v);
QD_CHECK enum qd_status qd_need_vector(const struct qd_value *v, const char *what, int64_t n);
QD_CHECK enum qd_status qd_need_broadcast_to(const struct qd_value *v, const char *what, const struct qd_shape *to);
QD_CHECK enum qd_status qd_need_same_dtype(const struct qd_graph *g, const struct qd_node *node);
/* Shape and dtype of input 0; always QD_OK. */
QD_CHECK enum qd_status qd_same_as_input(
	const struct qd_graph *g, const struct qd_node *node, struct qd_shape *out, enum qd_dtype *dtype);
/* NumPy's rule for two shapes. QD_EINPUT naming both. */
QD_CHECK enum qd_status qd_shape_broadcast(const struct qd_shape *a, const struct qd_shape *b, struct qd_shape *out);
/* An axis counted from either end, into [0, rank). */
QD_CHECK enum qd_status qd_axis(int64_t axis, int rank, int *out);
/* The axes in `values` as a set of bits; each once. */
QD_CHECK enum qd_status qd_axes(size_t n, const int64_t *values, int rank, unsigned *out);

/* ---- parameters that are inputs ---- */
/*
 * Input i as at most `max` integers: of tensor in[i] where the evaluator has it, of the constant in the graph where `in` is NULL.
 * The three after it are their public namesakes with that choice.
 */
QD_CHECK enum qd_status qd_node_ints(const struct qd_graph *g, const struct qd_node *node, const struct qd_tensor *const *in,
	size_t i, size_t max, int64_t *out, size_t *n);
QD_CHECK enum qd_status qd_reduced_axes_of(
	const struct qd_graph *g, const struct qd_node *node, const struct qd_tensor *const *in, unsigned *out);
QD_CHECK enum qd_status qd_slice_axes_of(
	const struct qd_graph *g, const struct qd_node *node, const struct qd_tensor *const *in, struct qd_slice_axis *axes);
QD_CHECK enum qd_status qd_pad_axes_of(
	const struct qd_graph *g, const struct qd_node *node, const struct qd_tensor *const *in, int64_t *before, int64_t *after);

/* ---- the evaluator's parts (eval_*.c): in[i] is NULL when absent, out[i] is allocated and zero ---- */
struct qd_eval {
	const struct qd_graph *g;
	const struct qd_node *node;
	const struct qd_tensor *const *in;
	struct qd_tensor *out;
};
#define QD_EVAL_CASES(X)                                                                                                           \
	X(binary)                                                                                                                  \
	X(unary)                                                                                                                   \
	X(where)                                                                                                                   \
	X(clip)                                                                                                                    \
	X(cast)                                                                                                                    \
	X(copy)                                                                                                                    \
	X(transpose)                                                                                                               \
	X(slice)                                                                                                                   \
	X(split)                                                                                                                   \
	X(gather)                                                                                                                  \
	X(expand)                                                                                                                  \
	X(tile)                                                                                                                    \
	X(depth)                                                                                                                   \
	X(resize)                                                                                                                  \
	X(concat)                                                                                                                  \
	X(pad)                                                                                                                     \
	X(trilu)                                                                                                                   \
	X(shape)                                                                                                                   \
	X(constant_of_shape)                                                                                                       \
	X(range)                                                                                                                   \
	X(conv)                                                                                                                    \
	X(matmul)                                                                                                                  \
	X(gemm)                                                                                                                    \
	X(softmax)                                                                                                                 \
	X(group_norm)                                                                                                              \
	X(layer_norm)                                                                                                              \
	X(reduce)                                                                                                                  \
	X(arg_max)                                                                                                                 \
	X(quantize)                                                                                                                \
	X(dequantize)
#define QD_EVAL_DECLARE(name) QD_CHECK enum qd_status qd_eval_##name(const struct qd_eval *e);
QD_EVAL_CASES(QD_EVAL_DECLARE)
#undef QD_EVAL_DECLARE

#endif
