/*
 * For this folder only: the steps in which a graph is executed. A step is a node, or a group of nodes that one fused operator, which
 * has a gradient too, replaces.
 */
#ifndef QUAD_LIB_TORCH_PLAN_H
#define QUAD_LIB_TORCH_PLAN_H

#include "lib/ir/ir.h"

enum qd_step_kind {
	QD_STEP_NODE,
	QD_STEP_SILU,          /* x */
	QD_STEP_ATTENTION,     /* q, k transposed, v */
	QD_STEP_FAKE_QUANTIZE, /* x, scale, zero point or QD_NONE */
};

enum { QD_STEP_INPUTS = 3 };

struct qd_step {
	enum qd_step_kind kind;
	qd_id node; /* the node, or the last of the group: its outputs are the step's */
	const qd_id *in;
	size_t n_in;
	qd_id own_in[QD_STEP_INPUTS]; /* what `in` points to for a group */
	float scale;                  /* attention's factor on the scores */
	enum qd_dtype codes;
};

struct qd_plan {
	struct qd_step *steps;
	size_t n;
	uint32_t *last_use; /* per value: the step after which it is not needed; QD_NONE: an output, kept */
};

/* Values that carry an encoding are never hidden inside a group, and none with `see_all`. QD_ENOMEM. */
QD_CHECK enum qd_status qd_plan_init(struct qd_plan *plan, const struct qd_graph *g, bool see_all);
void qd_plan_release(struct qd_plan *plan);

#endif
