/*
 * For plan.c, plan_look.c and plan_tail.c: what is known of values while steps are made.
 */
#ifndef QUAD_LIB_ENGINE_PLAN_H
#define QUAD_LIB_ENGINE_PLAN_H

#include "lib/engine/internal.h"

struct qd_value_plan {
	qd_id root; /* the value whose memory it is: itself, or what it is a view of */
	int step;   /* that computes the root; -1: an input or a constant */
	bool constant;
	bool is_number; /* a float constant of one element */
	float number;
	int in_register;       /* while its step's program is written */
	struct qd_place place; /* the view; the buffer is the root's, QD_NONE while nobody has asked for it */
};

/* What becomes a step's program: elementwise nodes on its result. */
struct qd_tail {
	qd_id result; /* QD_NONE: there is none but the nodes' */
	const struct qd_node **nodes;
	size_t n, cap;
};

struct qd_attention_plan {
	qd_id q, keys;
	float scale;
	/* of scores, scaled scores, softmax */
	const struct qd_encoding *grids[3];
	qd_id values[3];
};

struct qd_planner {
	struct qd_engine *engine;
	const struct qd_graph *g;
	struct qd_value_plan *at; /* per value */
	uint32_t *uses;
	bool *swallowed;                      /* per node: part of an attention */
	struct qd_attention_plan **attention; /* per node: that it is the last one of */
	bool starved;
	struct qd_tail *tails; /* per step */
	size_t n_tails, cap_tails;
};

/* ---- looking (plan_look.c) ---- */
const struct qd_value *qd_plan_value(const struct qd_planner *p, qd_id v);
/* The encoding of a value, where it counts. */
const struct qd_encoding *qd_plan_grid(const struct qd_planner *p, qd_id v);
/* Whether it is a float constant of one element, and which. */
bool qd_plan_number(const struct qd_planner *p, qd_id v, float *number);
/* Whether operand `v` of a node, of that shape, is in a step's chunks as a whole, element by element. */
bool qd_plan_is_register(const struct qd_planner *p, int step, qd_id v, const struct qd_shape *shape);
/* MatMul(q, keys), Mul by a number, Softmax, MatMul(., v): marked at its last node, which `id` may be. */
void qd_plan_find_attention(struct qd_planner *p, qd_id id);

/* ---- programs (plan_tail.c) ---- */
/* Writes the program of step `s`, and makes its product. */
QD_CHECK enum qd_status qd_plan_write_tail(struct qd_planner *p, size_t s);

#endif
