/*
 * lib/torch: executes a graph (lib/ir) with libtorch, with or without gradients: what trains, what computes on GPUs, and the reference
 * that lib/engine is compared with. shim.h is the C ABI over libtorch, lower.c has one function per operator of ops.def, run.c walks
 * the graph.
 *
 * The executor knows nothing of quantization. A hook sees every value (weights once, when they are loaded; inputs and results on
 * each run) and may put another tensor in its place: simulation, observation and training parameters all come in through it.
 */
#ifndef QUAD_LIB_TORCH_TORCH_H
#define QUAD_LIB_TORCH_TORCH_H

#include "lib/ir/ir.h"
#include "lib/torch/shim.h"

struct qd_exec;

/*
 * `*tensor` is the value's tensor: leave it, or free it and put a new reference in its place (same shape). Called for float32
 * values only; inputs, replaced weights and results on each run, weights and results that depend on weights alone once. A tensor
 * is not always row-major in memory: qt_contiguous makes it so.
 */
typedef enum qd_status (*qd_value_hook)(void *context, const struct qd_graph *g, qd_id value, qt_tensor *tensor);

struct qd_exec_options {
	qd_value_hook hook; /* NULL: none */
	void *hook_context;
	/*
	 * false: groups (attention, x * sigmoid(x), quantize and dequantize) run as one operator, and the hook does not see the
	 * values inside them, except that a value with an encoding is never inside. true: one step per node, every value is seen.
	 */
	bool see_all;
};

/* Prepares `g` (kept; must outlive the executor and stay unchanged): loads weights (mapped float32 is not copied), decides when
 * each intermediate dies. */
QD_CHECK enum qd_status qd_exec_new(struct qd_exec **exec, const struct qd_graph *g, const struct qd_exec_options *options);
void qd_exec_free(struct qd_exec *exec);
/* Binds a graph input for the following runs (a new reference is taken). QD_EINPUT names input, found and needed shape. */
QD_CHECK enum qd_status qd_exec_bind(struct qd_exec *exec, qd_id input, qt_tensor tensor);
/* The same from memory; converts to float32 (or keeps I64). */
QD_CHECK enum qd_status qd_exec_bind_tensor(struct qd_exec *exec, const char *input_name, const struct qd_tensor *tensor);
/* Replaces a weight's loaded tensor (training all weights: pass the leaf). A new reference is taken; the hook sees it on each run.
 */
QD_CHECK enum qd_status qd_exec_set_weight(struct qd_exec *exec, qd_id weight, qt_tensor tensor);
/* Runs the graph; outputs[i] is a new reference for g->outputs[i]. Fails naming the node. Checks for an unbound input. */
QD_CHECK enum qd_status qd_exec_run(struct qd_exec *exec, qt_tensor *outputs);

#endif
