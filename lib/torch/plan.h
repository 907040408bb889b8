/*
 * For this folder only: the steps in which a graph is executed. A step is a node, or a group of nodes that one fused operator
 * replaces. There are two plans of a graph: one whose every step libtorch can differentiate, and one for runs without gradients,
 * on the CPU, whose products and normalizations are lib/kernel's over channels-last data.
 */
#ifndef QUAD_LIB_TORCH_PLAN_H
#define QUAD_LIB_TORCH_PLAN_H

#include "lib/ir/ir.h"

enum qd_step_kind {
	QD_STEP_NODE,
	QD_STEP_SILU,          /* x */
	QD_STEP_ATTENTION,     /* q, k transposed, v */
	QD_STEP_FAKE_QUANTIZE, /* x, scale, zero point or QD_NONE */
	/* inference only */
	QD_STEP_PRODUCT,    /* x, weight, bias or QD_NONE, what is added to the result or QD_NONE */
	QD_STEP_GATED_GELU, /* x: the first half of its columns times gelu of the second */
	QD_STEP_GROUP_NORM, /* x, scale, bias, what is added to x per channel or QD_NONE */
	QD_STEP_LAYER_NORM, /* x, scale, bias or QD_NONE */
	QD_STEP_CONCAT,     /* channels of images */
};

enum { QD_STEP_INPUTS = 4 };

struct qd_step {
	enum qd_step_kind kind;
	qd_id node;  /* the node, or the last of the group: its outputs are the step's */
	qd_id inner; /* the group's product or normalization, whose attributes count */
	const qd_id *in;
	size_t n_in;
	qd_id own_in[QD_STEP_INPUTS]; /* what `in` points to for a group */
	float scale;                  /* attention's factor on the scores */
	enum qd_dtype codes;
	bool silu; /* GROUP_NORM: x * sigmoid(x) of the result */
};

struct qd_plan {
	struct qd_step *steps;
	size_t n;
	uint32_t *last_use; /* per value: the step after which it is not needed; QD_NONE: an output, kept */
};

enum qd_plan_kind {
	QD_PLAN_NODES,     /* one step per node */
	QD_PLAN_GROUPS,    /* groups that have gradients */
	QD_PLAN_INFERENCE, /* these, and those that have none */
};

/* Values that carry an encoding are never hidden inside a group. QD_ENOMEM. */
QD_CHECK enum qd_status qd_plan_init(struct qd_plan *plan, const struct qd_graph *g, enum qd_plan_kind kind);
void qd_plan_release(struct qd_plan *plan);

/* ---- between plan.c and plan_inference.c ---- */

/* While planning: the graph, how often each value is used, and which nodes a group has swallowed. */
struct qd_planner {
	const struct qd_graph *g;
	uint32_t *uses;
	bool *swallowed;
};
/* The producer of `value` if it is an `op` whose result has `uses` uses and no encoding. */
const struct qd_node *qd_plan_hidden(const struct qd_planner *p, qd_id value, enum qd_op op, uint32_t uses);
void qd_plan_swallow(struct qd_planner *p, const struct qd_node *node);
/* Whether `mul` is x * sigmoid(x); x and the sigmoid. */
const struct qd_node *qd_plan_silu(const struct qd_planner *p, const struct qd_node *mul, qd_id *x);
/* A group for inference that ends at `node`. */
bool qd_plan_match_inference(struct qd_planner *p, const struct qd_node *node, struct qd_step *step);

#endif
