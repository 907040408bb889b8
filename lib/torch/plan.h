/*
 * For this folder only: the steps in which a graph is executed. A step is a node, or a group of nodes that one fused operator
 * replaces.
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

struct qd_step {
	enum qd_step_kind kind;
	qd_id node; /* the node, or the last of the group: its outputs are the step's */
	const qd_id *in;
	size_t n_in;
	qd_id own_in[3]; /* what `in` points to for a group */
	float scale;     /* attention's factor on the scores */
	enum qd_dtype codes;
};

struct qd_plan {
	struct qd_step *steps;
	size_t n;
	uint32_t *last_use; /* per value: the step after which it is not needed; QD_NONE: an output, kept */
};

/* `fuse` false: one step per node. Values that carry a note are never hidden inside a group. QD_ENOMEM. */
QD_CHECK enum qd_status qd_plan_init(struct qd_plan *plan, const struct qd_graph *g, bool fuse);
void qd_plan_release(struct qd_plan *plan);

#endif
